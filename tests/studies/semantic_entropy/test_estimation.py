"""Every estimator over a run: computed from what there is, skipped with the reason otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.generation.samples import SampledAnswers, answer_questions, choose_questions
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.estimation import NOT_ASKED, Uncertainty, estimate
from helpers.studies.semantic_entropy.labels import Meanings, find_meanings
from helpers.uncertainty.entropies import degree, perplexity
from helpers.uncertainty.estimators import ESTIMATORS

OPTIONS = {"limit": 20, "k": 3, "max_new_tokens": 10, "threads": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("estimation")


def estimated(place: Path, **changes: object) -> tuple[Uncertainty, SampledAnswers, Meanings]:
    config: RunConfig = make_config(cache_dir=place / "cache", out=place, **OPTIONS | changes)
    store = Store(config.cache_dir)
    try:
        answers = answer_questions(config, choose_questions(config), store, silent_progress())
        meanings = find_meanings(config, answers, store, silent_progress())
        return estimate(config, answers, meanings, store, silent_progress()), answers, meanings
    finally:
        store.close()


@pytest.mark.usefixtures("one_thread")
def test_every_estimator_has_a_value_on_the_lab(place: Path) -> None:
    found, answers, _ = estimated(place)
    assert not found.skipped
    assert found.values.keys() == ESTIMATORS.keys()
    n, k = len(answers.questions), len(answers.samples[0])
    assert found.judgements is not None
    assert found.judgements.shape == (n, k + 1, k + 1, 3)
    for i in (0, 7, 19):
        assert found.values["degree"][i] == pytest.approx(degree(found.judgements[i, :k, :k]))
        mean = float(np.mean(answers.greedy[i].token_logprobs))
        assert found.values["perplexity"][i] == pytest.approx(perplexity(mean))
    known = {name: np.isfinite(values).sum() for name, values in found.values.items()}
    shots = n - known.pop("p_true_few_shot")  # solved examples have no number of their own
    assert 1 <= shots < n / 2
    assert set(known.values()) == {n}


@pytest.mark.usefixtures("one_thread")
def test_what_is_asked_for_is_computed_and_nothing_else(place: Path) -> None:
    everything, _, _ = estimated(place)
    found, _, _ = estimated(place, estimators=("perplexity",), analyses=("none",))
    for name in ("semantic_entropy", "perplexity"):  # the first is what probes learn
        np.testing.assert_array_equal(found.values[name], everything.values[name])
    assert found.judgements is None
    others = set(ESTIMATORS) - {"semantic_entropy", "perplexity"}
    assert found.skipped == dict.fromkeys(sorted(others), NOT_ASKED)
    assert all(np.isnan(found.values[name]).all() for name in others)


@pytest.mark.usefixtures("one_thread")
def test_without_an_nli_judge_its_estimators_say_what_they_need(place: Path) -> None:
    found, _, _ = estimated(place, judge="final-answer")
    judged = {name for name, card in ESTIMATORS.items() if "judgements" in card.requires}
    assert set(found.skipped) == judged
    assert all("NLI judge's probabilities" in reason for reason in found.skipped.values())
