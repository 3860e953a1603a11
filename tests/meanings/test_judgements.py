"""Judging all pairs: against one pair at a time, and nothing asked twice."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.meanings import judges
from helpers.meanings.judges import JudgeCounts, NliJudge, judge_all_pairs, nli_judge
from helpers.models.loading import ModelIdentity
from helpers.progress import StageProgress, progress_through, silent_progress
from support.tiny_models import save_classifier

QUESTIONS = ("How many apples?", "How many cars?", "And now?")
TEXTS = (
    ("19", "She has 19 apples.", "19", "It is nineteen", "no idea"),
    ("7 cars are left.", "19", "", "She has 19 apples.", "7 cars are left."),
    ("yes", "yes", "yes", "yes", "yes"),
)
# Of the first question 4 different texts, of the second 4, two of them shared.
UNIQUE_PAIRS = 4 * 3 + 4 * 3 - 2

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    return str(save_classifier(tmp_path_factory.mktemp("judges") / "nli"))


def one_at_a_time(classifier: str, with_question: bool = False) -> np.ndarray:
    judge = nli_judge(classifier, batch_size=1)
    found = np.empty((3, 5, 5, 3))
    for q, (question, texts) in enumerate(zip(QUESTIONS, TEXTS, strict=True)):
        for i, a in enumerate(texts):
            for j, b in enumerate(texts):
                pair = (f"{question} {a}", f"{question} {b}") if with_question else (a, b)
                found[q, i, j] = (0, 0, 1) if a == b else judge.probabilities([pair])[0]
    return found


@pytest.mark.parametrize("with_question", [False, True])
@pytest.mark.parametrize("chunk", [5, 2048])
def test_all_pairs_are_judged_as_they_are_one_at_a_time(
    classifier, with_question, chunk, monkeypatch
):
    monkeypatch.setattr(judges, "PAIRS_AT_ONCE", chunk)
    judge = nli_judge(classifier, batch_size=7, with_question=with_question)
    found = judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    assert found.dtype == np.float32
    assert found == pytest.approx(one_at_a_time(classifier, with_question), abs=1e-5)
    assert np.abs(found - found.transpose(0, 2, 1, 3)).max() > 0.1  # premise is not hypothesis


def test_each_pair_of_the_run_is_judged_once_and_never_a_text_with_itself(classifier, forwards):
    judge = nli_judge(classifier, batch_size=4)
    judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    asked = [pair for batch in forwards for pair in batch]
    assert len(asked) == len(set(asked)) == UNIQUE_PAIRS
    assert all(a != b for a, b in asked)
    forwards.clear()
    judge_all_pairs(judge, [("same", "same")] * 2, QUESTIONS[:2], silent_progress())
    assert forwards == []


def test_what_is_stored_is_not_asked_again(classifier, store, forwards):
    judge = nli_judge(classifier, store=store)
    first = judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    forwards.clear()
    again = judge_all_pairs(nli_judge(classifier, store=store), TEXTS, QUESTIONS, silent_progress())
    assert (again == first).all()
    fewer = [row[1:] for row in TEXTS[::-1]]
    found = judge_all_pairs(judge, fewer, QUESTIONS[::-1], silent_progress())
    assert found == pytest.approx(first[::-1, 1:, 1:])
    assert forwards == []
    asking = nli_judge(classifier, store=store, with_question=True)
    judge_all_pairs(asking, TEXTS, QUESTIONS, silent_progress())
    assert forwards != []


def test_a_killed_run_keeps_what_was_judged(classifier, store, forwards, monkeypatch):
    monkeypatch.setattr(judges, "PAIRS_AT_ONCE", 8)
    whole = judge_all_pairs(
        nli_judge(classifier, batch_size=4), TEXTS, QUESTIONS, silent_progress()
    )
    forwards.clear()
    counted = NliJudge._forward

    def dies(self: NliJudge, pairs: list[tuple[str, str]]) -> np.ndarray:
        if len(forwards) == 3:
            raise KeyboardInterrupt
        return counted(self, pairs)

    judge = nli_judge(classifier, batch_size=4, store=store)
    monkeypatch.setattr(NliJudge, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    monkeypatch.setattr(NliJudge, "_forward", counted)
    found = judge_all_pairs(judge, TEXTS, QUESTIONS, silent_progress())
    asked = [pair for batch in forwards for pair in batch]
    assert len(asked) == len(set(asked)) == UNIQUE_PAIRS
    assert (found == whole).all()  # to the bit: the batches are those of an undisturbed run


def test_progress_counts_the_pairs_that_are_asked(classifier, monkeypatch):
    monkeypatch.setattr(judges, "PAIRS_AT_ONCE", 9)
    seen: list[tuple[int, int]] = []

    def show(state: StageProgress) -> None:
        seen.append((state.done, state.total))

    judge_all_pairs(nli_judge(classifier), TEXTS, QUESTIONS, progress_through(show))
    assert seen[0] == (0, UNIQUE_PAIRS)
    assert (9, UNIQUE_PAIRS) in seen
    assert seen[-1] == (UNIQUE_PAIRS, UNIQUE_PAIRS)


def test_a_classifier_with_two_labels_has_nothing_under_contradiction(tmp_path):
    name = str(save_classifier(tmp_path / "two", ("entailment", "not_entailment")))
    found = judge_all_pairs(nli_judge(name), TEXTS, QUESTIONS, silent_progress())
    assert (found[..., 0] == 0).all()
    assert found.sum(-1) == pytest.approx(np.ones((3, 5, 5)), abs=1e-5)


def test_questions_with_other_numbers_of_answers_are_refused(classifier):
    with pytest.raises(ValueError, match=r"rows of \[1, 2\] answers"):
        judge_all_pairs(nli_judge(classifier), [("a", "b"), ("c",)], ("", ""), silent_progress())


class TableJudge(NliJudge):
    """A judge that says of a pair what its hash says, and remembers what it was asked."""

    def probabilities(self, pairs):
        ASKED.extend(pairs)
        return np.array([said_of(*pair) for pair in pairs]).reshape(len(pairs), 3)


ASKED: list[tuple[str, str]] = []


def said_of(premise: str, hypothesis: str) -> np.ndarray:
    digest = hashlib.sha256(f"{premise}\0{hypothesis}".encode()).digest()
    weights = np.frombuffer(digest[:3], np.uint8) + 1.0
    return weights / weights.sum()


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.lists(st.sampled_from("abcde"), min_size=k, max_size=k), st.text("Q?")),
            min_size=1,
            max_size=5,
        )
    ),
    st.booleans(),
)
def test_every_entry_is_what_the_judge_says_of_its_own_pair(rows, with_question):
    texts, contexts = [row for row, _ in rows], [context for _, context in rows]
    identity = ModelIdentity("table", Path(), "", "")
    judge = TableJudge(identity, "strict", with_question, "cpu", 8, None, JudgeCounts())
    ASKED.clear()
    found = judge_all_pairs(judge, texts, contexts, silent_progress())
    expected = set()
    for q, (row, context) in enumerate(rows):
        put = [f"{context} {text}" if with_question else text for text in row]
        for i, a in enumerate(put):
            for j, b in enumerate(put):
                said = (0, 0, 1) if a == b else said_of(a, b)
                assert found[q, i, j] == pytest.approx(said, abs=1e-6)
                expected |= {(a, b)} - {(a, a)}
    assert sorted(ASKED) == sorted(expected)
