"""Every curve of a run together: on a small run, with labels missing, as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.evaluation.scores import Score
from helpers.studies.semantic_entropy.analyses.abstention import (
    policies,
    selective_scores,
    uncertainty_scores,
)
from helpers.studies.semantic_entropy.analyses.curves import TITLES, Curves, curves, describe_curves
from helpers.studies.semantic_entropy.run_files import StoredRun, read_run

QUICK = {"n_boot": 50, "n_perm": 50}


@pytest.fixture(scope="module")
def finished(tiny_run: RunConfig) -> StoredRun:
    """A finished run of thirty questions."""
    return read_run(tiny_run.run_folder)


@pytest.fixture(scope="module")
def found(finished: StoredRun) -> Curves:
    return curves(finished, **QUICK)


def test_a_run_has_every_curve_and_its_json_has_no_nan(finished, found):
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["run"] == finished.name
    assert len(written["sample_budget"]["curves"]["semantic_entropy"]) == 4
    points = written["sample_budget"]["curves"]["semantic_entropy"]
    assert all(point["cost"]["seconds"] > 0 for point in points)
    assert set(written["label_efficiency"]) == {"high_semantic_entropy", "wrong_answer"}
    full = written["label_efficiency"]["wrong_answer"]["full"]
    if full is not None:
        scored = finished.metrics()["wrong_answer"]["wrong_answer"]["auroc"]
        assert full["value"] == pytest.approx(scored["value"], abs=0.02)
    assert {"semantic_entropy", "wrong_answer"} <= set(written["selective"]["scores"])
    risk = written["selective"]["curves"]["semantic_entropy"]
    assert len(risk["risk"]) == len(risk["risk_low"]) == written["selective"]["n"]


def test_the_text_fits_a_terminal_and_names_every_measure(found):
    text = describe_curves(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "nan" not in text.split()
    assert "None" not in text
    for name in found.selective.scores:
        assert TITLES[name] in text
    for question in ("How many samples?", "How many labels?", "How much does γ", "When to answer?"):
        assert question in text


def test_a_run_without_grades_keeps_what_needs_none(finished):
    unknown = np.full(len(finished.targets.wrong), np.nan)
    ungraded = replace(finished, targets=replace(finished.targets, wrong=unknown))
    found = curves(ungraded, **QUICK)
    json.dumps(found.as_dict(), allow_nan=False)
    assert "n = 0" in found.sample_budget.undefined
    assert "no rows" in found.label_efficiency["wrong_answer"].undefined
    assert "n = 0" in found.selective.undefined
    assert found.threshold_sensitivity.points
    assert describe_curves(found).count("any measure") == 6  # three α, two kinds of promise
    for policy in found.policies.values():
        assert all("n = 0 questions" in kept.promise.undefined for kept in policy.promises)
    assert max(map(len, describe_curves(found).splitlines())) <= 100


def test_wrong_test_labels_change_no_threshold(finished, found):
    wrong = finished.targets.wrong.copy()
    test = finished.targets.rows("test", wrong)
    wrong[test] = 1 - wrong[test]
    turned = curves(replace(finished, targets=replace(finished.targets, wrong=wrong)), **QUICK)
    for name, policy in turned.policies.items():
        promises = [kept.promise for kept in policy.promises]
        assert promises == [kept.promise for kept in found.policies[name].promises]
        shares = [selection.share for selection in policy.on_average]
        assert shares == [selection.share for selection in found.policies[name].on_average]


def test_a_probe_fitted_to_the_calibration_questions_promises_nothing(finished):
    predicted = dict(finished.predicted) | {
        "wrong_answer_hybrid": finished.predicted["wrong_answer"]
    }
    found = curves(replace(finished, predicted=predicted), **QUICK)
    assert "wrong_answer_hybrid" in found.selective.scores
    assert "wrong_answer_hybrid" not in found.policies
    assert found.policies["wrong_answer"].shaped_by_calibration
    assert not found.policies["semantic_entropy"].shaped_by_calibration


def test_an_unknown_measure_is_left_out(finished):
    entropy = finished.uncertainty["mean_token_entropy"].copy()
    entropy[finished.targets.rows("test", finished.targets.wrong)] = np.nan
    uncertainty = dict(finished.uncertainty) | {"mean_token_entropy": entropy}
    assert "mean_token_entropy" not in uncertainty_scores(
        replace(finished, uncertainty=uncertainty)
    )
    assert "mean_token_entropy" in uncertainty_scores(finished)


def test_measures_are_compared_with_semantic_entropy_pair_by_pair():
    rng = np.random.default_rng(0)
    wrong = (rng.random(150) < 0.4) * 1.0
    measures = {
        "semantic_entropy": wrong + 0.5 * rng.normal(size=150),
        "wrong_answer": wrong + 3 * rng.normal(size=150),
    }
    found = selective_scores(measures, wrong, n_boot=200, n_perm=200)
    assert set(found.differences) == {"wrong_answer"}
    worse = found.differences["wrong_answer"]
    scores = found.scores
    for metric, sign in (("aurc", 1), ("accuracy_at_80", -1)):
        by_hand = scores["wrong_answer"][metric].value - scores["semantic_entropy"][metric].value
        assert worse[metric].value == pytest.approx(by_hand)
        assert sign * worse[metric].value > 0
    assert worse["aurc"].low > 0
    own = scores["semantic_entropy"]
    assert own["e_aurc"].p_value == own["aurc"].p_value == 1 / 201
    assert set(own) == {"aurc", "e_aurc", "accuracy_at_80", "accuracy_at_90", "accuracy_at_95"}


def test_policies_are_calibrated_on_one_mask_and_tried_on_the_other():
    rng = np.random.default_rng(1)
    scores = rng.random(400)
    wrong = (rng.random(400) < scores**3) * 1.0
    calibration, test = np.arange(400) < 150, np.arange(400) >= 280
    unseen = wrong.copy()
    unseen[150:280] = np.nan
    found = policies(
        scores, unseen, calibration=calibration, test=test, shaped_by_calibration=False,
        max_errors=(0.1,),
    )  # fmt: skip
    (kept,) = found.promises
    assert kept.promise.n == 150
    answered = scores[test] < kept.promise.threshold
    assert kept.share == replace(kept.share, value=answered.mean(), n=120)
    assert kept.error.value == pytest.approx(wrong[test][answered].mean())
    assert isinstance(found.on_average[0].error, Score)
    assert found.on_average[0].share.value > kept.share.value
