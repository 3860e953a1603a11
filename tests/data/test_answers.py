"""Answers: which are numbers, and which two are equal."""

from __future__ import annotations

import doctest
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import answers
from helpers.data.answers import answer_key, answers_equal, parse_number


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(answers)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("-$5", -5),
        (r"\$32,\!348", 32348),
        ("10{,}000", 10000),
        ("50%", 50),
        (r"25\%", 25),
        ("3/4", Fraction(3, 4)),
        (r"-\frac{35}{9}", Fraction(-35, 9)),
        (r"\frac43", Fraction(4, 3)),
        ("1 1/2", Fraction(3, 2)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (".0625", Fraction(1, 16)),
        ("1e3", 1000),
        (r"2.5 \times 10^{-1}", Fraction(1, 4)),
        ("5 million", 5_000_000),
        ("19.", 19),
        ("19 apples", 19),
        (r"5.4 \text{ cents}", Fraction(27, 5)),
        (r"15\mbox{ cm}^2", 15),
        (r"90^\circ", 90),
        ("60 km/h", 60),
        ("x = 5", 5),
        ("−7", -7),
    ],
)
def test_numbers_in_every_dress(answer: str, value: Fraction | int) -> None:
    assert parse_number(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "x+1",
        "(3,4)",
        "1,2",
        "4t",
        "3m",
        r"7\pi",
        "12 pi",
        "5/0",
        "3 or 4",
        "52_8",
        "7:30",
        "5!",
        "--5",
        "1 5",
        "three",
        "1e999999999",
        "1,2345",
        r"\sqrt{2}",
        "2 + 3i",
    ],
)
def test_no_numbers(answer: str) -> None:
    assert parse_number(answer) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\left( \frac{3}{5}, 8 \right]", "(3/5,8]"),
        (r"\text{Friday}", "friday."),
        (r"11\sqrt2", r"11 \sqrt{2}"),
        (r"\text{(C)}", "C"),
        ("y = 2x + 3", "2x+3"),
        ("4210_{5}", "4210_5"),
        (r"\dfrac{\pi}{2}", r"$\frac{\pi}{2}$"),
        (r"2\pi \text{ cm}", r"2\pi"),
        ("0.333333", r"\frac{1}{3}"),
    ],
)
def test_equal_answers(a: str, b: str) -> None:
    assert answers_equal(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("10000000", "10000001"),
        ("0.3333331", "0.3333332"),
        ("0.33", "1/3"),
        ("3333333", "10000000/3"),
        ("50%", "0.5"),
        ("x", "X"),
        ("(1,2)", "(2,1)"),
        ("5", "five"),
    ],
)
def test_different_answers(a: str, b: str) -> None:
    assert not answers_equal(a, b)
    assert answer_key(a) != answer_key(b)


@st.composite
def written_rationals(draw: st.DrawFn) -> tuple[Fraction, str]:
    """A rational and one of the ways to write it exactly."""
    value = Fraction(draw(st.integers(-60, 60)), draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8])))
    top, bottom = value.numerator, value.denominator
    ways = [f"{top}/{bottom}", rf"\frac{{{top}}}{{{bottom}}}", rf"${3 * top}/{3 * bottom}$"]
    if bottom in (1, 2, 4, 5, 8):
        ways += [f"{float(value):.4f}", f"${float(value):.3f}", f"{float(value):e}"]
    if value > 1 and bottom > 1:
        ways.append(rf"{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
    return value, draw(st.sampled_from(ways))


@given(written_rationals(), written_rationals())
def test_answers_are_equal_exactly_when_their_values_are(
    a: tuple[Fraction, str], b: tuple[Fraction, str]
) -> None:
    """Equality of values being an equivalence relation, so is this, and the key agrees."""
    same = a[0] == b[0]
    assert answers_equal(a[1], b[1]) == answers_equal(b[1], a[1]) == same
    assert (answer_key(a[1]) == answer_key(b[1])) == same
    assert answers_equal(a[1], a[1])
