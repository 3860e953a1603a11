"""Questions and generations: stable, nested, and refused with the line that is at fault."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from helpers.data.questions import assign_split, load_generations, load_questions, question_id
from helpers.errors import UserError

SPLITS = (0.5, 0.2, 0.3)


def write(folder: Path, *rows: Any) -> Path:
    """A JSONL file; a row that is a str stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def plums(n: int) -> list[dict[str, str]]:
    return [
        {"question": f"Ann has {i} plums and eats one. How many are left?", "answer": f"#### {i}"}
        for i in range(n)
    ]


def load(path: Path, limit: int | None = None, seed: int = 0) -> list[Any]:
    return load_questions(str(path), limit=limit, seed=seed)


# --- subsets, ids, splits ------------------------------------------------------------------------


def test_a_smaller_limit_is_the_head_of_a_larger_one_with_the_same_splits(tmp_path: Path) -> None:
    path = write(tmp_path, *plums(60))
    everything = load(path)
    assert load(path, 40) == everything[:40]
    assert load(path, 15) == everything[:15]
    assert {q.id for q in load(path, 15, seed=1)} != {q.id for q in everything[:15]}


def test_neither_the_order_nor_the_number_of_rows_changes_a_question(tmp_path: Path) -> None:
    rows = plums(30)
    before = {q.id: q for q in load(write(tmp_path, *rows))}
    after = {q.id: q for q in load(write(tmp_path, *plums(45)[::-1]))}
    assert all(after[key] == question for key, question in before.items())


def test_splits_meet_their_shares_and_depend_on_the_seed() -> None:
    counts = Counter(assign_split(str(i), 0, SPLITS) for i in range(5000))
    assert counts["train"] == pytest.approx(2500, abs=150)
    assert counts["validation"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(1500, abs=150)
    moved = sum(
        assign_split(str(i), 0, SPLITS) != assign_split(str(i), 1, SPLITS) for i in range(99)
    )
    assert moved > 30
    assert {assign_split(str(i), 0, (0.7, 0.3, 0.0)) for i in range(500)} == {"train", "validation"}


def test_ids_are_given_or_follow_from_the_text(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "question": "2 + 2?", "answer": 4},
        {"unique_id": "a/1", "problem": "Which day follows Monday?", "answer": "Tuesday"},
        {"question": "3 + 3?\u2028Say it.", "answer": r"\frac{12}{2}"},
        {"id": "u", "question": "An open question?", "answer": ""},
    ]
    found = {q.question: (q.id, q.final_answer) for q in load(write(tmp_path, *rows))}
    assert found == {
        "2 + 2?": ("7", "4"),
        "Which day follows Monday?": ("a/1", "Tuesday"),
        "3 + 3?\u2028Say it.": (question_id("3 + 3?  Say it."), r"\frac{12}{2}"),
        "An open question?": ("u", None),
    }


def test_asking_for_too_many_takes_all_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, *plums(3))
    with pytest.warns(UserWarning, match="9 questions asked for, it has 3"):
        assert len(load(path, 9)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(path, 3)) == 3


# --- repeats and contradictions ------------------------------------------------------------------


def test_repeats_are_left_out_with_a_warning_that_names_the_lines(tmp_path: Path) -> None:
    rows = plums(3)
    respaced = {"question": rows[1]["question"].replace(" ", "  "), "answer": "so\n#### 1.0"}
    path = write(tmp_path, *rows, rows[0], respaced)
    with pytest.warns(UserWarning, match="lines 4, 5 repeat"):
        assert len(load(path)) == 3


def test_contradictions_name_both_lines(tmp_path: Path) -> None:
    rows = plums(3)
    path = write(tmp_path, *rows, {"question": rows[1]["question"], "answer": "#### 99"})
    with pytest.raises(UserError, match=r"line 4: the same question as in line 2"):
        load(path)
    path = write(tmp_path, {"id": "a", **rows[0]}, {"id": "b", **rows[1]}, {"id": "a", **rows[2]})
    with pytest.raises(UserError, match=r"line 3: the same id 'a' as in line 1"):
        load(path)


# --- bad input -----------------------------------------------------------------------------------

GOOD = {"question": "1 + 1?", "answer": "2"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", "line 2: not JSON .*expected one object a line"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"question": 1' + "0" * 5000 + "}", "line 2: not JSON"),
        ('["a", "b"]', "line 2: not a JSON object"),
        ({"answer": "3"}, 'line 2: no field "question": expected .*"problem"'),
        ({"question": "why?"}, 'line 2: no field "answer": expected'),
        ({"question": " \n", "answer": "3"}, 'line 2: "question" is empty'),
        ({"question": 5, "answer": "3"}, 'line 2: "question" is not a text'),
        ({"question": "why?", "answer": True}, 'line 2: "answer" is neither'),
        ({"question": "why?", "answer": "we add\nwe stop"}, "line 2: .*without a final .*#### 19"),
        ({"question": "why?", "answer": "####"}, "line 2: reference answer without a final"),
        ({"question": "why?", "answer": "so " * 40}, "line 2: reference answer without a final"),
        ('{"question": "why \\ud800?", "answer": "3"}', "line 2: .*surrogate"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_the_remedy(
    tmp_path: Path, row: Any, message: str
) -> None:
    path = write(tmp_path, GOOD, row)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_bad_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file: .*lab"):
        load(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="is a folder: name the JSONL file"):
        load(tmp_path)
    with pytest.raises(UserError, match="no questions in it"):
        load(write(tmp_path, ""))
    with pytest.raises(UserError, match="one JSON array"):
        load(write(tmp_path, json.dumps([GOOD])))
    with pytest.raises(UserError, match=r"limit: .* below 1"):
        load(write(tmp_path, GOOD), 0)
    for splits in ((0.5, 0.5, 0.5), (1.2, -0.2, 0.0)):
        with pytest.raises(UserError, match=r"splits: .* sum to 1"):
            load_questions(str(write(tmp_path, GOOD)), limit=None, seed=0, splits=splits)
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "caf\xe9"}\n')
    with pytest.raises(UserError, match=r"latin\.jsonl: line 2: not UTF-8"):
        load(path)
    path.write_bytes(b"\xef\xbb\xbf\r\n" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert len(load(path)) == 1  # a byte order mark and blank lines are passed over


# --- the hub and the lab -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("gsm8k", ("openai/gsm8k", "main", "train")),
        ("openai/gsm8k", ("openai/gsm8k", "main", "train")),
        ("gsm8k:socratic@test", ("openai/gsm8k", "socratic", "test")),
        ("some/data@validation", ("some/data", None, "validation")),
    ],
)
def test_hub_names(monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple) -> None:
    calls: list[tuple] = []
    give = lambda *names: calls.append(names) or plums(4)  # noqa: E731
    monkeypatch.setattr("helpers.data.questions.load_table", give)
    questions = load_questions(source, limit=2, seed=0)
    assert calls == [asked]
    assert [q.source for q in questions] == [source] * 2


def test_the_small_install_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"`datasets` is missing: .*\[pipeline\].*--preset lab"):
        load_questions("gsm8k", limit=2, seed=0)


def test_the_lab_needs_no_file_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    inside, outside = (load_questions(s, limit=20, seed=0) for s in ("lab", "lab:ood"))
    assert len({q.question for q in inside + outside}) == 40
    assert {q.split for q in inside} == {"train", "validation", "test"}
    with pytest.raises(UserError, match="--limit"):
        load_questions("lab", limit=None, seed=0)


# --- generations ---------------------------------------------------------------------------------


def test_generations_with_sums_tokens_or_no_logprobs(tmp_path: Path) -> None:
    base = {"question": "1 + 1?", "samples": ["2", "It is 3."]}
    rows = [
        {**base, "id": "a", "answer": "so\n#### 2", "logprobs": [-1, -2.5]},
        {**base, "id": "b", "question": "b?", "logprobs": [[-0.5, -0.25], []]},
        {**base, "id": "c", "question": "c?"},
    ]
    sums, tokens, none = load_generations(write(tmp_path, *rows))
    assert (sums.logprobs, sums.token_logprobs) == ((-1.0, -2.5), None)
    assert (sums.answer, sums.final_answer) == ("so\n#### 2", "2")
    assert tokens.logprobs == (-0.75, 0.0)
    assert tokens.token_logprobs == ((-0.5, -0.25), ())
    assert (none.logprobs, none.token_logprobs, none.answer) == (None, None, None)
    assert none.samples == ("2", "It is 3.")


def test_the_answer_is_the_reference_and_gt_stands_in_for_it(tmp_path: Path) -> None:
    base = {"code": ["2", "It is 3."], "gt": "2"}
    rows = [
        {**base, "idx": 0, "question": "a?", "answer": r"\frac{5}{2}"},
        {**base, "idx": 1, "question": "b?"},
    ]
    both, scored = load_generations(write(tmp_path, *rows))
    assert (both.id, both.final_answer) == ("0", r"\frac{5}{2}")
    assert (scored.id, scored.final_answer) == ("1", "2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": ["2"]}, "entropy needs two samples"),
        ({"samples": None}, 'no field "samples"'),
        ({"samples": ["2", 3]}, "must be a list of texts"),
        ({"samples": "23"}, "must be a list of texts"),
        ({"question": ""}, '"question" is empty'),
        ({"answer": "we add\nwe stop"}, "without a final answer"),
        ({"logprobs": [-1]}, '"logprobs" has 1 for 2 samples'),
        ({"logprobs": {}}, '"logprobs" has no list for 2 samples'),
        ({"logprobs": [-1, 0.4]}, "above 0: expected natural logarithms"),
        ({"logprobs": [[-1], [0.4]]}, "above 0"),
        ({"logprobs": [-1, float("nan")]}, "expected finite numbers"),
        ({"logprobs": [-1, [-1]]}, "expected finite numbers"),
        ({"id": "first"}, "the same id 'first' as in line 1"),
        ({"question": "one?"}, "the same question as in line 1"),
    ],
)
def test_bad_generations_name_their_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    first = {"id": "first", "question": "one?", "samples": ["1", "2"]}
    path = write(tmp_path, first, {**first, "id": "second", "question": "two?", **change})
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        load_generations(path)


# --- real files ----------------------------------------------------------------------------------


def test_real_files_load(shared_data: Path) -> None:
    gsm8k = load(shared_data / "gsm8k" / "test.jsonl")
    assert len(gsm8k) == len({q.id for q in gsm8k}) == 1319
    math = load(shared_data / "math500" / "test.jsonl")
    assert len(math) == 500
    assert all(q.final_answer for q in gsm8k + math)
    generations = load_generations(shared_data / "math500" / "math_cot_100.jsonl")
    assert [len(g.samples) for g in generations] == [8] * 100
    assert all(g.final_answer for g in generations)
