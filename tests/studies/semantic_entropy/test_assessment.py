"""The main assessment on a made-up run: blind to the test questions, signs, unanswered answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.data.answers import Grade, grade
from helpers.data.questions import Question
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.training import Targets, TrainedProbes, train_probes
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.assessment import (
    INPUT_LAYER,
    LENGTH,
    Assessment,
    assess,
    baseline_scores,
    lexical_estimators,
)
from helpers.studies.semantic_entropy.labels import Meanings, make_targets
from helpers.uncertainty.entropies import Answers
from helpers.uncertainty.estimators import ESTIMATORS, score_question

N, K, LAYERS, WIDTH = 240, 6, 3, 8
SPLITS = np.resize(np.repeat(["train", "validation", "test"], [5, 2, 3]), N)
TEST = SPLITS == "test"
NO_ANSWER = -1
"""Stands among a question's numbers for an answer that states none."""

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class MadeUp:
    """What the assessment is given, before any choice."""

    answers: SampledAnswers
    meanings: Meanings
    uncertainty: dict[str, np.ndarray]
    states: HiddenStates
    numbers: np.ndarray
    """The number that each answer states, `[n, K + 1]`; the most likely answer's comes last."""
    true: np.ndarray
    """`[n]`"""

    @property
    def targets(self) -> Targets:
        return make_targets(self.answers, self.meanings, self.uncertainty)


def made_up(seed: int = 0, *, harder: float = 1.0, longer_is_harder: bool = False) -> MadeUp:
    """Answers vary, are wrong and have low probabilities the more, the harder a question is.

    `harder` above 1 makes all questions so. Hardness stands in the states at tbg, layer 1;
    wrongness in those at answer_last, layer 2.
    """
    rng = np.random.default_rng(seed)
    hard = rng.random(N) ** (1 / harder)
    true = rng.integers(5, 20, N)
    numbers = true[:, None] + np.where(
        rng.random((N, K + 1)) < hard[:, None], rng.integers(1, 9, (N, K + 1)), 0
    )
    silent = np.where(np.arange(K + 1) == K, 0.1, 0.02)
    numbers[rng.random((N, K + 1)) < silent] = NO_ANSWER
    hidden = {
        name: rng.normal(size=(N, LAYERS, WIDTH)).astype(np.float32)
        for name in ("tbg", "answer_last")
    }
    hidden["tbg"][:, 1, 2] += 6 * hard
    hidden["answer_last"][:, 2, 5] += 2 * (numbers[:, K] != true)
    lengths = np.round(60 * (hard if longer_is_harder else 1 - hard)) + rng.integers(0, 20, N)
    questions = tuple(
        Question(f"q{i}", "How many?".ljust(10 + int(lengths[i]), "."), "", str(true[i]),
                 str(SPLITS[i]), "made up")
        for i in range(N)
    )  # fmt: skip
    rows = [
        [_sample(rng, f"q{i}", s, numbers[i, s], hard[i]) for s in (*range(K), GREEDY)]
        for i in range(N)
    ]
    answers = SampledAnswers(
        questions, tuple(tuple(row[:K]) for row in rows), tuple(row[K] for row in rows), (), 0
    )
    grades = [
        tuple(grade(s.text, s.finish_reason, str(true[i])) for s in row)
        for i, row in enumerate(rows)
    ]
    clusters = tuple(
        tuple(list(dict.fromkeys(row)).index(x) for x in row) for row in numbers[:, :K].tolist()
    )
    meanings = Meanings(
        clusters, tuple(row[:K] for row in grades), tuple(row[K] for row in grades), "made up"
    )
    trusted = np.clip(1 - hard + 0.1 * rng.normal(size=N), 0.01, 0.99)
    scores = [
        score_question(_known(rows[i], clusters[i], numbers[i], trusted[i])) for i in range(N)
    ]
    uncertainty = {name: np.array([s[name] for s in scores], dtype=float) for name in ESTIMATORS}
    states = HiddenStates(hidden, np.zeros((N, WIDTH)), {})
    return MadeUp(answers, meanings, uncertainty, states, numbers, true)


def _sample(
    rng: np.random.Generator, question: str, number: int, stated: int, hard: float
) -> Sample:
    text = "no idea" if stated == NO_ANSWER else str(stated)
    tokens = int(rng.integers(2, 5))
    logprobs = tuple((-(0.2 + 2 * hard) * rng.uniform(0.5, 1.5, tokens)).tolist())
    entropies = tuple((0.2 + hard + rng.uniform(0, 0.5, tokens)).tolist())
    return Sample(question, number, text, tuple(range(tokens)), logprobs, entropies, "stop")


def _known(
    row: list[Sample], clusters: tuple[int, ...], numbers: np.ndarray, trusted: float
) -> Answers:
    """All that any estimator asks for; a judge that is right about every pair."""
    same = numbers[:, None] == numbers
    judged = np.where(same[..., None], (0.02, 0.08, 0.9), (0.9, 0.08, 0.02))
    embedded = (numbers[:K] == np.arange(NO_ANSWER, 30)[:, None]) * 1.0
    centred = embedded - embedded.mean(0)
    return Answers(
        texts=tuple(s.text for s in row[:K]),
        clusters=clusters,
        sum_logprobs=tuple(float(np.sum(s.token_logprobs)) for s in row[:K]),
        mean_logprobs=tuple(float(np.mean(s.token_logprobs)) for s in row[:K]),
        token_entropies=tuple(float(np.mean(s.token_entropies)) for s in row[:K]),
        greedy_text=row[K].text,
        greedy_sum_logprob=float(np.sum(row[K].token_logprobs)),
        greedy_mean_logprob=float(np.mean(row[K].token_logprobs)),
        judgements=judged[:K, :K],
        greedy_judgements=np.stack([judged[K, :K], judged[:K, K]], axis=1),
        gram=centred.T @ centred,
        p_true_zero_shot=trusted,
        p_true_few_shot=trusted,
    )


def config() -> RunConfig:
    return make_config("lab", k=K, threads=1, n_bootstrap=100, n_permutations=1000)


def train(run: MadeUp, folder: Path) -> TrainedProbes:
    store = Store(folder)
    try:
        return train_probes(config(), run.states, run.targets, store, silent_progress())
    finally:
        store.close()


def assessed(run: MadeUp, trained: TrainedProbes, **uncertainty: np.ndarray) -> Assessment:
    """The assessment, of these values in place of the estimators' own."""
    return assess(
        config(), run.answers, run.uncertainty | uncertainty, run.states, run.targets, trained,
        silent_progress(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run() -> MadeUp:
    return made_up()


@pytest.fixture(scope="module")
def trained(
    run: MadeUp, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> TrainedProbes:
    return train(run, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def plain(run: MadeUp, trained: TrainedProbes) -> Assessment:
    return assessed(run, trained)


# --- test questions choose nothing ---------------------------------------------------------------


def with_other_test_rows(run: MadeUp, other: MadeUp) -> MadeUp:
    """The run with the test questions of another, and noise for their hidden states."""

    def mixed(ours: Any, theirs: Any) -> tuple:
        return tuple(b if test else a for a, b, test in zip(ours, theirs, TEST, strict=True))

    def mixed_fields(name: str, *parts: str) -> Any:
        ours, theirs = getattr(run, name), getattr(other, name)
        return replace(ours, **{p: mixed(getattr(ours, p), getattr(theirs, p)) for p in parts})

    rng = np.random.default_rng(9)
    hidden = {
        name: np.where(TEST[:, None, None], 50 * rng.normal(size=states.shape), states)
        for name, states in run.states.hidden.items()
    }
    uncertainty = {n: np.where(TEST, other.uncertainty[n], run.uncertainty[n]) for n in ESTIMATORS}
    uncertainty["semantic_entropy"][TEST] *= 1.5  # γ of all rows would be another
    return MadeUp(
        mixed_fields("answers", "questions", "samples", "greedy"),
        mixed_fields("meanings", "clusters", "grades", "greedy_grades"),
        uncertainty,
        HiddenStates(hidden, run.states.token_embedding, {}),
        np.where(TEST[:, None], other.numbers, run.numbers),
        np.where(TEST, other.true, run.true),
    )


def test_no_choice_changes_with_the_test_questions(
    run: MadeUp, trained: TrainedProbes, plain: Assessment, tmp_path: Path
) -> None:
    spoilt = with_other_test_rows(run, made_up(1, harder=1.5, longer_is_harder=True))
    again = train(spoilt, tmp_path)
    found = assessed(spoilt, again)
    assert spoilt.targets.threshold == run.targets.threshold
    np.testing.assert_array_equal(spoilt.targets.high[~TEST], run.targets.high[~TEST])
    for kind in ("sweeps", "probes", "hybrids"):  # place, strength, weights, calibration, mixing
        before, after = getattr(trained, kind), getattr(again, kind)
        assert before.keys() == after.keys()
        assert "wrong_answer_hybrid" in trained.hybrids
        for name in before:
            np.testing.assert_equal(asdict(after[name]), asdict(before[name]), name)
    for name in plain.predicted:
        np.testing.assert_array_equal(found.predicted[name][~TEST], plain.predicted[name][~TEST])
    before, after = (
        baseline_scores(r.answers, r.uncertainty, r.states, r.targets) for r in (run, spoilt)
    )
    for name in (LENGTH, INPUT_LAYER):
        np.testing.assert_array_equal(after[name][~TEST], before[name][~TEST], name)
    # On these test questions the sign learned on train is the wrong one, and it is kept.
    assert auroc_of(found, LENGTH) < 0.5 < auroc_of(plain, LENGTH)
    errors = (
        spoilt.targets.semantic_entropy[TEST]
        - run.targets.semantic_entropy[run.targets.rows("train")].mean()
    )
    mean_of_train = found.regression["mean of train"]["rmse"].value
    assert mean_of_train == pytest.approx(np.sqrt((errors**2).mean()))


# --- signs ----------------------------------------------------------------------------------------


def auroc_of(found: Assessment, name: str) -> float:
    value = found.high_entropy[name]["auroc"].value
    assert value is not None
    return value


def test_every_estimator_is_higher_where_answers_are_less_certain(plain: Assessment) -> None:
    baselines = set(lexical_estimators())
    assert baselines | {LENGTH, INPUT_LAYER} == set(plain.differences)
    # The label is made of these.
    assert not baselines & {"semantic_entropy", "n_meanings", "degree"}
    for name in (*baselines, "high_semantic_entropy"):
        assert auroc_of(plain, name) > 0.6, name
    for name in (*ESTIMATORS, "high_semantic_entropy", "wrong_answer", "wrong_answer_hybrid"):
        value = plain.wrong_answer[name]["auroc"].value
        assert value is not None
        assert value > 0.6, name


@pytest.mark.parametrize("longer_is_harder", [True, False])
def test_the_length_of_a_question_counts_the_way_it_does_on_train(longer_is_harder: bool) -> None:
    run = made_up(longer_is_harder=longer_is_harder)
    length = baseline_scores(run.answers, run.uncertainty, run.states, run.targets)[LENGTH]
    sign = 1 if longer_is_harder else -1
    np.testing.assert_array_equal(length, [sign * len(q.question) for q in run.answers.questions])


def test_differences_are_the_probe_minus_the_baseline(run: MadeUp, trained: TrainedProbes) -> None:
    entropy = run.targets.semantic_entropy
    found = assessed(run, trained, perplexity=entropy, sequence_nll=-entropy)
    better, worse = found.differences["perplexity"], found.differences["sequence_nll"]
    assert (auroc_of(found, "perplexity"), auroc_of(found, "sequence_nll")) == (1, 0)
    for low, value, high in ((better.low, better.value, 0), (0, worse.value, worse.high)):
        assert low is not None
        assert value is not None
        assert high is not None
        assert low <= value < high if high == 0 else low < value <= high
    probe = auroc_of(found, "high_semantic_entropy")
    for name, difference in found.differences.items():
        assert difference.value == pytest.approx(probe - auroc_of(found, name)), name


# --- unanswered is not wrong ----------------------------------------------------------------------


def test_answers_that_state_nothing_are_neither_right_nor_wrong(run: MadeUp) -> None:
    stated, wrong = run.numbers != NO_ANSWER, run.numbers != run.true[:, None]
    greedy = np.where(stated[:, K], wrong[:, K] * 1.0, np.nan)
    assert np.isnan(greedy[TEST]).any()
    np.testing.assert_array_equal(run.targets.wrong, greedy)
    shares = (wrong & stated)[:, :K].sum(1) / stated[:, :K].sum(1)
    assert run.targets.wrong_share is not None
    np.testing.assert_allclose(run.targets.wrong_share, shares)
    nothing = (Grade(None, "unanswered"),) * K
    silent = replace(run.meanings, grades=(nothing,) * N)
    assert np.isnan(replace(run, meanings=silent).targets.wrong_share).all()


def test_a_question_without_a_most_likely_answer_is_in_no_score_of_wrong_answers(
    run: MadeUp, trained: TrainedProbes, plain: Assessment
) -> None:
    unanswered = run.numbers[:, K] == NO_ANSWER
    answered = int((TEST & ~unanswered).sum())
    for name, scores in plain.wrong_answer.items():
        assert {score.n for score in scores.values()} == {answered}, name
    assert {score.n for score in plain.high_entropy["high_semantic_entropy"].values()} == {
        TEST.sum()
    }
    assert plain.hybrid is not None
    assert {score.n for score in plain.hybrid.scores.values()} == {answered}
    raised = np.where(unanswered, 1e3, run.uncertainty["perplexity"])
    found = assessed(run, trained, perplexity=raised)
    assert found.wrong_answer["perplexity"] == plain.wrong_answer["perplexity"]
    assert auroc_of(found, "perplexity") != auroc_of(plain, "perplexity")
