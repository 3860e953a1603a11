"""Final answers: found in a model's text, read as exact numbers, compared, graded.

Numbers are compared as exact rationals, everything else as normalised text.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10**6)
_LONGEST_NUMBER = 300  # characters, and the largest power of ten: 1e999999999 would fill memory

# Pieces of regular expressions. Every repetition in them is possessive or bounded, so that no text
# can make a search quadratic.
DIGITS = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|,\\!\s?)[0-9]{3})++(?![0-9])|[0-9]++)"
DECIMAL = rf"(?:{DIGITS}(?:\.[0-9]++)?|\.[0-9]++)"
ARGUMENT = r"(?:\{\s?[-+]?[0-9.,]++\s?\}|\s?[0-9])"
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

_SPACING = re.compile(
    r"\\!\s?|(?<!\\)\\[,;: ]|\\q?quad\b|\\(?:left|right)(?![a-z])|\\displaystyle\b|~"
)
_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|mathbf|boxed|fbox)\s?\{([^{}]*+)\}")
_TRAILING_UNIT = re.compile(
    r"(?<=[\w}) ])\s?\\(?:text|mbox|mathrm)\s?\{[^{}0-9]*+\}(?:\^\{?[23]\}?)?$"
)
_ASSIGNED = re.compile(r"[A-Za-z]\s?(?:=|\\in(?![a-z]))\s?(?=\S)")
_UNIT = (
    r"(?:\s?%|\s?(?:[cmk]m|[mk]g|ml|lbs?|oz|ft|mph|min|hrs?|sec)(?:\^?\{?[23]\}?)?"
    r"|\s[mgshl]|\s(?!(?:pi|or|and|to|mod)\b)[a-z][a-z'’./-]++(?:\s[a-z'’./-]++){0,5}"
    r"(?:\^\{?[23]\}?)?)"
)
_POWER_OF_TEN = r"(?:\s?(?:\\times|\\cdot|×|\*)\s?10\^\{?(?P<power>[-+]?[0-9]{1,4})\}?)"
_VALUE = re.compile(
    rf"(?P<sign>[-+]?)\s?(?:(?P<whole>{DIGITS})\s)?(?P<top>[-+]?{DECIMAL})"
    rf"(?:\s?/\s?(?P<bottom>[-+]?{DECIMAL})|e(?P<exponent>[-+]?[0-9]{{1,4}})|{_POWER_OF_TEN}"
    rf"|\s(?P<scale>{'|'.join(SCALES)})\b)?{_UNIT}?",
    re.IGNORECASE,
)


def parse_number(answer: str) -> Fraction | None:
    r"""The exact value of an answer that is one number, else None.

    Reads thousands separators, decimals, 1e3, a/b, ``\frac{a}{b}``, mixed numbers, "5 million", and
    sets aside currency, units in words and percent signs: "50%" is 50, not 0.5.

    >>> parse_number("$1,234.50"), parse_number("19 apples"), parse_number("x+1")
    (Fraction(2469, 2), Fraction(19, 1), None)
    """
    if len(answer) > _LONGEST_NUMBER:
        return None
    plain = re.sub(r"\\?[$€£]", "", _plain(answer)).strip()
    match = _VALUE.fullmatch(plain)
    if match is None or (match["bottom"] is None and match["sign"] and match["top"][0] in "+-"):
        return None
    if match["whole"] and (match["bottom"] is None or match["top"][0] in "+-"):
        return None
    value = _rational(match["top"])
    if match["bottom"] is not None:
        bottom = _rational(match["bottom"])
        if bottom == 0:
            return None
        value /= bottom
    if match["whole"]:
        value += _rational(match["whole"])
    power = int(
        match["exponent"] or match["power"] or SCALES.get((match["scale"] or "").lower(), 0)
    )
    if abs(power) > _LONGEST_NUMBER:
        return None
    return (-value if match["sign"] == "-" else value) * Fraction(10) ** power


def normalise_answer(answer: str) -> str:
    r"""The text by which answers that are no numbers are compared.

    LaTeX spacing, ``\left \right``, ``\text{}``, dollar, percent and degree signs, a leading "x ="
    and all blanks go; fractions of numbers become a/b. Answers in words are compared in lower case;
    formulas and single letters keep theirs, where x and X may differ.
    """
    text = _plain(answer)
    text = re.sub(r"\\?[$€£%]", "", text)
    text = re.sub(r"\\sqrt\s?([0-9A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\{([0-9A-Za-z])\}", r"\1\2", text)
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"^\(([A-Za-z])\)$", r"\1", text)
    is_words = re.fullmatch(r"[^\W\d_][^\W\d_'’.-]+", text) is not None
    return text.casefold() if is_words else text


def answers_equal(a: str, b: str) -> bool:
    """Whether two answers are the same number, or else the same normalised text.

    Integers, decimals and fractions are compared exactly. The one exception is a rounded decimal
    against a fraction that no decimal can write (0.333333 and 1/3): equal within one part in a
    million. A number never equals a text.
    """
    x, y = parse_number(a), parse_number(b)
    if x is None or y is None:
        return x is y and normalise_answer(a) == normalise_answer(b)
    if x == y:
        return True
    if _terminates(x) == _terminates(y):
        return False
    decimal = x if _terminates(x) else y
    return decimal.denominator > 1 and abs(x - y) <= RELATIVE_TOLERANCE * max(abs(x), abs(y))


def answer_key(answer: str) -> str:
    """A string equal for two answers if and only if they are the same exact number or text.

    Agrees with `answers_equal` but for rounded decimals of fractions, which keep keys of their own.

    >>> answer_key("$1,000.00") == answer_key("1000"), answer_key("3/4") == answer_key("0.75")
    (True, True)
    """
    number = parse_number(answer)
    return f"text {normalise_answer(answer)}" if number is None else f"number {number}"


def without_markup(answer: str) -> str:
    """An answer without Markdown stars, math delimiters and closing punctuation."""
    bare = answer.replace("**", "").strip(" \t\r*_`")
    for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        bare = bare.removesuffix(".").strip()
        if bare.endswith(closing):
            bare = bare.removesuffix(closing).removeprefix(opening)
    return bare.rstrip(".,;:? ").strip()


def _plain(answer: str) -> str:
    """An answer on one line, without the LaTeX that changes its look and not its meaning."""
    text = " ".join(without_markup(answer.replace("−", "-")).split())
    text = _SPACING.sub("", text.replace("{,}", ",").replace(r"\%", "%"))
    text = re.sub(r"\^\s?\{?\s?\\circ\s?\}?|\\degree\b|°", "", text)
    text = _WRAPPER.sub(r"\1", _TRAILING_UNIT.sub("", text))
    text = re.sub(r"^(?:\\approx\b|[≈~])\s?", "", text)
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    one = rf"\\frac({ARGUMENT})({ARGUMENT})"
    text = re.sub(rf"(?<=[0-9])\s?{one}", lambda m: f" {_ratio(m)}", text)
    text = re.sub(one, _ratio, text)
    assigned = _ASSIGNED.match(text.strip())
    return (text.strip()[assigned.end() :] if assigned else text).strip(" ,;:?").removesuffix(".")


def _ratio(fraction: re.Match[str]) -> str:
    r"""``\frac{a}{b}`` as a/b."""
    return "/".join(part.strip(" {}") for part in fraction.groups())


def _rational(digits: str) -> Fraction:
    return Fraction(re.sub(r"[^0-9.+-]", "", digits))


def _terminates(value: Fraction) -> bool:
    """Whether a decimal can write the value: its denominator has no primes but 2 and 5."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


# --- grading -------------------------------------------------------------------------------------
#
# An answer is looked for in a fixed order: the last ``\boxed{...}``, the last ``#### x``, the last
# "the answer is x", and, unless told to be strict, the last number.


LONGEST_BARE_REFERENCE = 64
_LONGEST_PHRASE = 300
_MOST_ANSWER_WORDS = 4

# Every repetition below is possessive or bounded, so that no text can make the search quadratic.
_LATEX_FRACTION = rf"\\[dtc]?frac{ARGUMENT}{ARGUMENT}"
_SCALE = rf"(?:\s(?:{'|'.join(SCALES)})\b)"
_BODY = (
    rf"(?:{_LATEX_FRACTION}"
    rf"|{DIGITS}\s?{_LATEX_FRACTION}"
    r"|[0-9]++\s[0-9]++/[0-9]++(?![0-9/])"
    rf"|{DECIMAL}\s?/\s?{DECIMAL}"
    rf"|{DECIMAL}(?:[eE][-+]?[0-9]++|{_SCALE})?)"
)
# A minus sign after a word, a digit or a bracket is a subtraction or a hyphen.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}])[-+−]\s?)?(?:\\?\$|[€£])?(?P<inner>(?<=[$€£])[-+−])?"
    rf"(?P<body>{_BODY})(?P<percent>\\?%)?",
    re.IGNORECASE,
)
_AFTER_NUMBER = re.compile(
    r"\s*(?:$|[.,;:!?)\]\"'](?:\s|$)|\^?\\circ|°|[$€£]|\\(?:text|mbox|mathrm|[)\],;! ])"
    r"|(?<=\s)(?:\(|[–—-]\s|a\s|(?!(?:and|or|to|pi)\b)[A-Za-z]{2,}))"
)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*+([^\n]*+)")
_STATED = re.compile(
    r"\banswer\b[*_]{0,3}(?:\s(?:to|of|for|in)\s[^.\n:=]{0,60}?)?\s{0,3}"
    r"(?:\b(?:is|was|be|equals)\b|:|=)(?:\s|[*_$:=~≈]|\\[(\[]|\\approx\b)*+"
    r"(?:(?:therefore|thus|simply|just|approximately|about|equal to)\s)?",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Grade:
    """One graded sample; `status` is "correct", "wrong" or "unanswered"."""

    final_answer: str | None
    status: str

    @property
    def correct(self) -> bool | None:
        """True or False, and None where the sample gave no answer."""
        return None if self.status == "unanswered" else self.status == "correct"


def final_answer(text: str, strict: bool = False, *, thinking_open: bool = False) -> str | None:
    r"""The final answer that a text states, as written, or None.

    Only what follows the last ``</think>`` counts; a thinking that never closes has no answer.
    `thinking_open` says that the prompt itself ended inside an open ``<think>``. `strict` leaves
    out the last resort, the last number in the text. A number after ``####``, after "the answer
    is" and as the last resort comes without its currency and units; a box comes whole.

    >>> final_answer("12 + 7 = 19, so she has 19 apples.")
    '19'
    """
    spoken = _after_thinking(text, thinking_open)
    if spoken is None:
        return None
    for find in (_last_boxed, _last_hashes, _last_stated):
        if (found := find(spoken)) is not None:
            return found
    if strict:
        return None
    numbers = deque(_NUMBER.finditer(spoken), maxlen=1)
    return _as_written(numbers[0]) if numbers else None


def reference_answer(text: str) -> str | None:
    r"""The final answer of a reference: its explicit one, else the text itself when it is short.

    >>> reference_answer("3 + 4 = 7\n#### 7"), reference_answer(r"\frac{1}{2}")
    ('7', '\\frac{1}{2}')
    """
    explicit = final_answer(text, strict=True)
    if explicit is not None:
        return explicit
    bare = text.strip()
    is_short = len(bare) <= LONGEST_BARE_REFERENCE and "\n" not in bare and "####" not in bare
    return bare if bare and is_short else None


def grade(text: str, finish_reason: str, reference: str, *, thinking_open: bool = False) -> Grade:
    """Compare a sample's final answer with the reference.

    No answer is "unanswered", never "wrong". In a sample cut off (`finish_reason` "length") only
    an explicit answer counts, and only if the cut cannot have shortened it: "#### 1" at the very
    end may be the start of "#### 19". A text that as a whole equals a wordy reference is correct.

    Raises ValueError if the reference has no final answer to compare with.
    """
    expected = reference_answer(reference)
    if expected is None:
        raise ValueError(f"the reference has no final answer: {reference[:80]!r}")
    cut = finish_reason == "length"
    found = final_answer(text, strict=cut, thinking_open=thinking_open)
    if cut and found is not None and not _is_settled(text, found, thinking_open):
        found = None
    if not cut and parse_number(expected) is None:
        whole = (_after_thinking(text, thinking_open) or "").strip()
        if 0 < len(whole) <= LONGEST_BARE_REFERENCE and answers_equal(whole, expected):
            found = whole
    if found is None:
        return Grade(None, "unanswered")
    return Grade(found, "correct" if answers_equal(found, expected) else "wrong")


# --- finding -------------------------------------------------------------------------------------


def _after_thinking(text: str, thinking_open: bool) -> str | None:
    """What follows the thinking, or None if the thinking never closes."""
    _, closed, spoken = text.rpartition(_THINK_CLOSE)
    if _THINK_OPEN in spoken or (thinking_open and not closed):
        return None
    return spoken


def _last_boxed(text: str) -> str | None:
    """The content of the last non-empty closed box; one pass, whatever the nesting."""
    open_braces: list[int | None] = []
    start, content = -1, None
    for token in _BRACES.finditer(text):
        mark = token.group()
        if mark.endswith("{") and mark != r"\{":
            open_braces.append(token.end() if len(mark) > 1 else None)
        elif mark == "}" and open_braces:
            box = open_braces.pop()
            if box is not None and box > start and (inside := text[box : token.start()].strip()):
                start, content = box, inside
    return None if content is None else content.rstrip(".").strip() or None


def _last_hashes(text: str) -> str | None:
    """The last ``#### x``: a number, or any text that ends the whole; the rest are headings."""
    for line in reversed(list(_HASHES.finditer(text))):
        answer = without_markup(line.group(1)[:_LONGEST_PHRASE]).rstrip("! ")
        if not answer:
            continue
        number = _leading_number(answer)
        if number is not None and parse_number(answer) is not None:
            return number
        if not text[line.end() :].strip():
            return answer
    return None


def _last_stated(text: str) -> str | None:
    """The last "the answer is x" or "answer: x" whose x is a number or a few words."""
    for phrase in reversed(list(_STATED.finditer(text))):
        rest = text[phrase.end() : phrase.end() + _LONGEST_PHRASE]
        end = _SENTENCE_END.search(rest)
        answer = without_markup(rest[: end.start()] if end else rest)
        left, equals, right = answer.rpartition("=")
        if equals and left and parse_number(right) is not None:
            answer = without_markup(right)
        if number := _leading_number(answer):
            return number
        if answer[:1].isalpha() and "\\" not in answer:
            answer = re.split(r"[,;]\s|\sbecause\s", answer, maxsplit=1)[0]
        if re.search(r"\w", answer) and len(answer.split()) <= _MOST_ANSWER_WORDS:
            return answer
    return None


def _leading_number(answer: str) -> str | None:
    """The number that an answer starts with, if what follows is its unit or the end."""
    match = _NUMBER.match(answer)
    if match is None or not _AFTER_NUMBER.match(answer, match.end()):
        return None
    return _as_written(match)


def _as_written(number: re.Match[str]) -> str:
    """A found number with its sign and percent, without its currency."""
    sign = (number["sign"] or number["inner"] or "").strip()
    return f"{sign}{number['body']}{number['percent'] or ''}"


def _is_settled(text: str, found: str, thinking_open: bool) -> bool:
    """Whether a cut text would state the same answer had it gone on by one more piece."""
    # A brace lengthens the number or word that the cut ends in, or closes the box left open.
    return final_answer(text + "}", strict=True, thinking_open=thinking_open) == found
