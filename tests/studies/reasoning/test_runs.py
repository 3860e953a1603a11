"""Runs taken apart, left out by rule, grouped by meaning, labelled; the study's questions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import questions
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.generation.records import Prompt, Sample
from helpers.progress import silent_progress
from helpers.studies.reasoning import runs as questions_module
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.labels import (
    QuestionMeanings,
    StudyMeanings,
    agreement,
    group_final_answers,
    make_table,
    valid_runs,
)
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.reasoning.runs import (
    NEVER_CLOSED,
    TRUNCATED,
    Runs,
    Tags,
    count_runs,
    kept_questions,
    read_run,
    study_questions,
    thinking_entropy,
    thinking_span,
    thinking_tags,
)
from helpers.studies.registry import make_config

CLOSE, OPEN, END = 8, 7, 0
TAGS = Tags(close=CLOSE, open=OPEN, prompt_is_open=False)


def config(**changes: Any) -> ReasoningConfig:
    made = make_config("lab-think", **changes)
    assert isinstance(made, ReasoningConfig)
    return made


def question(name: str = "q", split: str = "train", source: str = "lab") -> Question:
    return Question(name, f"How many, {name}?", "#### 19", "19", split, source)


def generated(text: str, ids: tuple[int, ...], finish: str = "stop", **more: Any) -> Sample:
    entropies = tuple(0.1 * i for i in range(len(ids)))
    return Sample("q", more.pop("run", 0), text, ids, entropies, entropies, finish)


# --- one run --------------------------------------------------------------------------------------


def test_a_run_is_taken_apart_at_the_token_that_closes_the_thinking() -> None:
    made = generated("<think>\n12+7=19\n</think>\n\nShe has 19.", (OPEN, 1, 2, 3, CLOSE, 4, 5, END))
    run = read_run(question(), made, TAGS)
    assert (run.thinking, run.answer) == ("12+7=19", "She has 19.")
    assert run.thinking_span == (1, 4)
    assert (run.final_answer, run.status, run.correct, run.excluded) == ("19", "correct", True, "")
    assert thinking_entropy(run) == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def test_only_what_was_generated_is_graded_and_only_after_the_thinking() -> None:
    """The prompt may hold the right number, and the thinking too; the answer says another."""
    run = read_run(question(), generated("19</think> 21 apples.", (1, CLOSE, 2, END)), TAGS)
    assert (run.final_answer, run.status) == ("21", "wrong")
    silent = read_run(question(), generated("19</think> No idea.", (1, CLOSE, 2, END)), TAGS)
    assert (silent.status, silent.correct, silent.excluded) == ("unanswered", None, "")


def test_runs_are_left_out_by_rule() -> None:
    cut = read_run(question(), generated("12+7</think> 1", (1, CLOSE, 2), "length"), TAGS)
    assert cut.excluded == TRUNCATED
    endless = read_run(question(), generated("12+7=19 so 19", (1, 2, END)), TAGS)
    assert (endless.excluded, endless.thinking_span, endless.answer) == (NEVER_CLOSED, None, "")
    aloud = read_run(question(), generated("It is 19.", (1, 2, END)), Tags(None, None, False))
    assert (aloud.excluded, aloud.answer, aloud.thinking) == ("", "It is 19.", "")
    assert thinking_entropy(aloud) == pytest.approx(0.1)  # of all tokens


@given(st.lists(st.sampled_from([1, 2, 3, OPEN, CLOSE]), max_size=12))
def test_the_span_lies_between_the_tags(ids: list[int]) -> None:
    span = thinking_span(tuple(ids), TAGS)
    if CLOSE not in ids:
        assert span is None
        return
    assert span is not None
    start, end = span
    assert 0 <= start <= end
    assert ids[end] == CLOSE
    assert CLOSE not in ids[end + 1 :]
    assert start == 0 or ids[start - 1] == OPEN


def test_tags_come_from_the_tokenizer_and_the_prompt() -> None:
    known = {"<think>": OPEN, "</think>": CLOSE}
    tokenizer = SimpleNamespace(convert_tokens_to_ids=known.get, unk_token_id=None)
    assert thinking_tags(config(), tokenizer, "Q<think>\n") == Tags(CLOSE, OPEN, True)
    assert thinking_tags(config(), tokenizer, "Q") == Tags(CLOSE, OPEN, False)
    plain = SimpleNamespace(convert_tokens_to_ids=lambda _: 50, unk_token_id=50)
    assert thinking_tags(config(), plain, "Q") == Tags(None, None, False)
    assert thinking_tags(config(thinking=False), tokenizer, "Q") == Tags(None, None, False)


# --- many runs ------------------------------------------------------------------------------------


def runs_of(name: str, answers: list[str | None], split: str, excluded: int = 0) -> Any:
    """A question with one valid run for each final answer, and some that are left out."""
    made = [
        ReasoningRun(
            question_id=name, run_id=i, text="", thinking="", answer=answer or "no idea",
            final_answer=answer,
            status="unanswered" if answer is None else "correct" if answer == "19" else "wrong",
            token_ids=(1, 2, CLOSE, 3, END), token_logprobs=(), token_entropies=(0.2, 0.4, 0, 0, 0),
            entropy_kind="full", thinking_span=(0, 2), finish_reason="stop",
        )
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    left_out = [replace(made[0], run_id=len(made) + j, excluded=TRUNCATED) for j in range(excluded)]
    return question(name, split), tuple(made + left_out)


def test_a_question_with_too_few_valid_runs_is_dropped_and_counted() -> None:
    rows = [
        runs_of("a", ["19"] * 4, "train", excluded=2),
        runs_of("b", ["19", "20", None], "test", excluded=3),
        runs_of("c", ["19", "20", "20", None], "ood"),
    ]
    asked, runs = [q for q, _ in rows], [r for _, r in rows]
    assert kept_questions(config(k=6), asked, runs) == [0, 2]
    assert kept_questions(config(k=3), asked, runs) == [0, 1, 2]  # all of three runs
    counts = count_runs(config(k=6), asked, runs)
    inside = counts["in"]
    assert (inside.questions, inside.questions_dropped, inside.runs_dropped) == (2, 1, 3)
    assert (inside.runs, inside.valid, inside.excluded) == (12, 7, {TRUNCATED: 5})
    assert (inside.correct, inside.wrong, inside.unanswered) == (4, 0, 0)
    assert (counts["ood"].correct, counts["ood"].wrong, counts["ood"].unanswered) == (1, 2, 1)


def test_final_answers_are_grouped_as_numbers_and_not_as_strings() -> None:
    assert group_final_answers(["$1,000", "1000.0", "x+1", "x + 1", None, "1001", None]) == (
        0, 0, 1, 1, 2, 3, 2,
    )  # fmt: skip


def test_labels_come_from_the_training_questions_and_agreement_from_the_other_runs() -> None:
    rows = [
        runs_of("a", ["19"] * 4, "train"),
        runs_of("b", ["19", "20", "21", "22"], "train"),
        runs_of("c", ["19", "19", "20", None], "test"),
        runs_of("d", ["1", "2", "3", "4"], "ood"),
    ]
    questions = tuple(q for q, _ in rows)
    runs = Runs(questions, (Prompt("", "", (5,)),) * 4, tuple(r for _, r in rows), (), 0, {})
    final = [group_final_answers([r.final_answer for r in row]) for row in runs.runs]
    entropies = [0.0, np.log(4), 1.04, np.log(4)]
    kept = tuple(
        QuestionMeanings(i, (0, 1, 2, 3), final[i], (0, 0, 0, 0), entropies[i], 0.0)
        for i in range(4)
    )
    meanings = StudyMeanings(kept, "", {})
    valid = valid_runs(runs, meanings)
    table = make_table(config(), runs, meanings, valid)
    assert len(table) == 16
    assert table.threshold == pytest.approx(np.log(4) / 2)
    assert table.threshold_median == pytest.approx(np.log(4) / 2)
    assert table.high.reshape(4, 4).mean(axis=1).tolist() == [0, 1, 1, 1]
    assert table.split.reshape(4, 4)[:, 0].tolist() == ["train", "train", "test", "ood"]
    assert np.isnan(table.correct[11])
    assert table.correct[8:11].tolist() == [1, 1, 0]
    assert table.agreement[8:12] == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert (table.thinking_tokens[0], table.answer_tokens[0]) == (2, 2)
    assert table.thinking_entropy[0] == pytest.approx(0.3)
    # Other labels out of distribution, or on test, move no threshold.
    others = replace(meanings, kept=(*kept[:3], replace(kept[3], final_entropy=9.0)))
    assert make_table(config(), runs, others, valid).threshold == table.threshold
    whole = make_table(config(entropy_of="answer"), runs, meanings, valid)
    assert whole.threshold is None
    assert np.isnan(whole.high).all()
    assert np.isnan(agreement([0])).all()


# --- questions ------------------------------------------------------------------------------------


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_questions_of_both_kinds_have_ids_of_their_own(tmp_path: Path) -> None:
    inside = [{"id": i, "question": f"What is {i} + 1?", "answer": "4"} for i in "123"]
    outside = [{"id": "1", "question": "Twice 4?", "answer": "8"}]
    a = write_jsonl(tmp_path / "a.jsonl", inside)
    b = write_jsonl(tmp_path / "b.jsonl", outside)
    asked = study_questions(config(questions=str(a), ood_questions=str(b)), silent_progress())
    assert sorted(q.id for q in asked) == ["1", "2", "3", "ood:1"]
    assert [q.split == "ood" for q in asked] == [False] * 3 + [True]
    write_jsonl(b, [{"question": "What is  2 + 1?", "answer": "4"}])
    with pytest.raises(UserError, match=r"1 of its questions are in .*not out of distribution"):
        study_questions(config(questions=str(a), ood_questions=str(b)), silent_progress())
    write_jsonl(b, [{"question": "What?"}])
    with pytest.raises(UserError, match=r'b.jsonl.*no field "answer"'):
        study_questions(config(questions=str(a), ood_questions=str(b)), silent_progress())


def test_the_documents_files_are_made_where_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "data/math_raw.jsonl", [{"id": "m", "question": "1?", "answer": "1"}])
    asked_for: list[str] = []

    def load(source: str, **options: Any) -> list[Question]:
        asked_for.append(source)
        if Path(source).exists():
            return real(source, **options)
        return [question("g", source=source)]

    real = questions.load_questions
    monkeypatch.setattr(questions_module, "load_questions", load)
    made = make_config("qwen3-0.6b-math")
    asked = study_questions(made, silent_progress())  # type: ignore[arg-type]
    assert asked_for == ["gsm8k@test", "data/math_raw.jsonl", "data/ood_raw.jsonl"]
    assert [(q.id, q.split) for q in asked] == [("m", asked[0].split), ("g", "ood")]
    row = json.loads((tmp_path / "data/ood_raw.jsonl").read_text())
    assert row == {"id": "g", "question": "How many, g?", "answer": "#### 19"}
