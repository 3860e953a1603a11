r"""Final answers: finding one in a model's text, and grading a sample.

An answer is looked for in a fixed order: the last ``\boxed{...}``, the last ``#### x``, the last
"the answer is x", and, unless told to be strict, the last number.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from helpers.answers import ARGUMENT, DECIMAL, DIGITS, SCALES, answers_equal, parse_number, undress

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
        answer = undress(line.group(1)[:_LONGEST_PHRASE]).rstrip("! ")
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
        answer = undress(rest[: end.start()] if end else rest)
        left, equals, right = answer.rpartition("=")
        if equals and left and parse_number(right) is not None:
            answer = undress(right)
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
