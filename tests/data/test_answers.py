"""Answers: which are numbers, and which two are equal."""

from __future__ import annotations

import doctest
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import answers
from helpers.data.answers import (
    answer_key,
    answers_equal,
    final_answer,
    grade,
    normalise_answer,
    parse_number,
    reference_answer,
)


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(answers)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("1,234.50", Fraction(2469, 2)), ("-$5", -5), (r"\$32,\!348", 32348), ("10{,}000", 10000),
        ("50%", 50), (r"25\%", 25), ("3/4", Fraction(3, 4)), (r"-\frac{35}{9}", Fraction(-35, 9)),
        (r"\frac43", Fraction(4, 3)), ("1 1/2", Fraction(3, 2)),
        (r"-1\frac{1}{2}", Fraction(-3, 2)), (".0625", Fraction(1, 16)), ("1e3", 1000),
        (r"2.5 \times 10^{-1}", Fraction(1, 4)), ("5 million", 5_000_000), ("19.", 19),
        ("19 apples", 19), (r"5.4 \text{ cents}", Fraction(27, 5)), (r"15\mbox{ cm}^2", 15),
        (r"90^\circ", 90), ("60 km/h", 60), ("x = 5", 5), ("−7", -7),
    ],
)  # fmt: skip
def test_numbers_in_every_dress(answer: str, value: Fraction | int) -> None:
    assert parse_number(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        "", "x+1", "(3,4)", "1,2", "4t", "3m", r"7\pi", "12 pi", "5/0", "3 or 4", "52_8", "7:30",
        "5!", "--5", "1 5", "three", "1e999999999", "1,2345", r"\sqrt{2}", "2 + 3i",
    ],
)  # fmt: skip
def test_no_numbers(answer: str) -> None:
    assert parse_number(answer) is None


EQUAL = [
    (r"\left( \frac{3}{5}, 8 \right]", "(3/5,8]"), (r"\text{Friday}", "friday."),
    (r"11\sqrt2", r"11 \sqrt{2}"), (r"\text{(C)}", "C"), ("y = 2x + 3", "2x+3"),
    ("4210_{5}", "4210_5"), (r"\dfrac{\pi}{2}", r"$\frac{\pi}{2}$"), (r"2\pi \text{ cm}", r"2\pi"),
    ("0.333333", r"\frac{1}{3}"),
]  # fmt: skip
DIFFERENT = [
    ("10000000", "10000001"), ("0.3333331", "0.3333332"), ("0.33", "1/3"),
    ("3333333", "10000000/3"), ("50%", "0.5"), ("x", "X"), ("(1,2)", "(2,1)"), ("5", "five"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), [*EQUAL, *DIFFERENT])
def test_equal_and_different_answers(a: str, b: str) -> None:
    assert answers_equal(a, b) == ((a, b) in EQUAL)
    assert (a, b) in EQUAL or answer_key(a) != answer_key(b)


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


# --- final answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{3}, no: \boxed{\frac{1}{\sqrt{2}}}. #### 8", r"\frac{1}{\sqrt{2}}"),
        (r"I put it in \boxed{}: \fbox{12}", "12"),
        (r"\boxed{x = \fbox{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4} and \boxed{5", "4"),
        ("#### 3\n#### 1,204\nThe answer is 7.", "1,204"),
        ("#### 19 apples", "19"),
        ("#### Friday", "Friday"),
        ("#### Step 2: add\nThe answer is 5.", "5"),
        ("#### 1. Add the two\nThat makes 12.", "12"),
        ("The answer is 4. No, the ANSWER IS: **$1,234.50**.", "1,234.50"),
        ("**Answer:** $19$.", "19"),
        ("**Final answer**: -$5", "-5"),
        ("The answer is:\n\n\\[ 19 \\]\n", "19"),
        (r"the answer is \(\dfrac{3}{4}\).", r"\dfrac{3}{4}"),
        ("The answer to the question is 19 plums, not 4.", "19"),
        ("The answer is x = 5", "5"),
        ("The answer is 3 + 4 = 7.", "7"),
        ("The answer is 3x.", "3x"),
        ("The answer is Friday.", "Friday"),
        ("The answer is (B).", "(B)"),
        ("The answer is a sum of two things that I add. 9 and 4 make 13.", "13"),
        ("She pays $6, then €7.50.", "7.50"),
        ("so $x = -4$.", "-4"),
        ("that is 10-4", "4"),
        ("he ate 1 1/2 pies", "1 1/2"),
        ("about 50%.", "50%"),
        (r"one has \frac{3}{4} left", r"\frac{3}{4}"),
        ("<think>It is 5.</think>It is 6.", "6"),
        ("the rest of a thought, 5</think>7", "7"),
        ("<think>the answer is 5", None),
        ("<think>4</think>Wait. <think>5", None),
        ("no idea", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_a_strict_search_leaves_out_the_last_number() -> None:
    assert final_answer("12 + 7 = 19", strict=True) is None
    assert final_answer("#### 19", strict=True) == "19"


def test_a_thinking_opened_by_the_prompt_has_no_answer_until_it_closes() -> None:
    assert final_answer("the answer is 5", thinking_open=True) is None
    assert final_answer("hm</think>the answer is 5", thinking_open=True) == "5"


@pytest.mark.parametrize(
    ("text", "finish_reason", "status"),
    [
        ("12 + 7 = 19\n#### 19", "stop", "correct"), ("so 12 + 7 is 19", "stop", "correct"),
        ("so 12 + 7 is 18", "stop", "wrong"), ("I cannot say.", "stop", "unanswered"),
        ("", "stop", "unanswered"), ("", "length", "unanswered"),
        ("#### 1", "length", "unanswered"),
        ("so 12 + 7 is 19 and", "length", "unanswered"), ("#### 19", "length", "unanswered"),
        ("#### 19\n", "length", "correct"), ("#### 18\nQuestion: what", "length", "wrong"),
        ("The answer is 19.", "length", "unanswered"), (r"\boxed{19}", "length", "correct"),
        ("The answer is 19. So", "length", "correct"),
        (r"\boxed{18} no, \boxed{1", "length", "unanswered"),
        ("<think>the answer is 19. So", "length", "unanswered"),
    ],
)  # fmt: skip
def test_a_sample_cut_before_its_answer_is_unanswered(
    text: str, finish_reason: str, status: str
) -> None:
    graded = grade(text, finish_reason, "7 + 12 = 19\n#### 19")
    assert graded.status == status
    assert graded.correct == {"correct": True, "wrong": False, "unanswered": None}[status]
    assert (graded.final_answer is None) == (status == "unanswered")


def test_a_whole_text_may_be_the_answer_in_words() -> None:
    assert grade("friday.", "stop", "Friday").correct
    assert grade("Fri", "length", "Friday").status == "unanswered"


def test_a_reference_without_an_answer_cannot_grade() -> None:
    with pytest.raises(ValueError, match="no final answer"):
        grade("19", "stop", "first we add\nthen we stop")
    assert reference_answer(" ") is None


DRESSES = st.sampled_from(
    [
        "{}", "${}", "{}.", r"\${}", "€{}", "{} apples", "${}$", "**{}**", r"{} \text{{ miles}}",
        "{}%",
    ]
)  # fmt: skip


@given(st.integers(-(10**12), 10**12), DRESSES, st.booleans())
def test_dress_never_changes_an_integer(value: int, dress: str, commas: bool) -> None:
    written = dress.format(f"{value:,}" if commas else str(value))
    assert parse_number(written) == value
    for text in (f"#### {written}", f"The answer is {written}", f"That makes {written}"):
        stated = final_answer(text)
        assert stated is not None
        assert parse_number(stated) == value


PIECES = st.sampled_from(
    [
        "\\boxed{", "}", "{", "\\", "####", "answer is", "answer:", "</think>", "<think>", "\\frac",
        "$", "1", ",", "/", "-", ".", " ", "\n", "%", "x", "=", "**", "\\text{", "^\\circ", "e9999",
    ]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_no_text_makes_it_raise(text: str) -> None:
    found = final_answer(text)
    assert found is None or found.strip()
    assert grade(text, "length", "19").status in ("correct", "wrong", "unanswered")
    assert answers_equal(text, text)
    assert answer_key(text) == answer_key(text)
    assert normalise_answer(text) == normalise_answer(f" {text} ")


@pytest.mark.parametrize(
    "piece",
    [
        "1,", "123,", "\\boxed{", "1", "1 ", "1/", "\\frac{1}", "answer is ", "answer to ", "#### ",
        "####\n", " ", "-", "$", "<think>", "1.", "answer: 1 = ",
    ],
)  # fmt: skip
def test_long_texts_are_searched_once(piece: str) -> None:
    """Of a search whose time grows with the square of the length, this takes minutes."""
    text = piece * (100_000 // len(piece))
    final_answer(text)
    grade(text, "length", "19")
    answer_key(text)


def test_grades_agree_with_published_scores(shared_data: Path) -> None:
    """100 problems, 8 outputs each, against the flags that the file itself carries."""
    lines = (shared_data / "math500" / "math_cot_100.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    flags = [flag for row in rows for flag in row["score"]]
    grades = [grade(text, "stop", row["gt"]).correct for row in rows for text in row["code"]]
    agreement = sum(ours == theirs for ours, theirs in zip(grades, flags, strict=True))
    assert agreement >= 0.99 * len(flags)
    assert sum(map(bool, grades)) / len(grades) == pytest.approx(0.91, abs=0.005)


def test_every_gsm8k_reference_has_a_number(shared_data: Path) -> None:
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text("utf-8").splitlines()
    for line in lines:
        answer = json.loads(line)["answer"]
        stated = final_answer(answer, strict=True)
        assert stated is not None
        assert parse_number(stated) == int(answer.rpartition("#### ")[2].replace(",", ""))
    assert len(lines) == 1319
