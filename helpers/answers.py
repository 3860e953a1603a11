"""Answers: reading one as an exact number, and comparing two.

Numbers are compared as exact rationals, everything else as normalised text.
"""

from __future__ import annotations

import re
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


def undress(answer: str) -> str:
    """An answer without Markdown stars, math delimiters and closing punctuation."""
    bare = answer.replace("**", "").strip(" \t\r*_`")
    for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        bare = bare.removesuffix(".").strip()
        if bare.endswith(closing):
            bare = bare.removesuffix(closing).removeprefix(opening)
    return bare.rstrip(".,;:? ").strip()


def _plain(answer: str) -> str:
    """An answer on one line, without the LaTeX that changes its look and not its meaning."""
    text = " ".join(undress(answer.replace("−", "-")).split())
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
