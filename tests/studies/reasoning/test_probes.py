"""Probes of the reasoning study: what they find, what they may see, and when they are undefined."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from helpers.probes.store import load_probe, save_probe
from helpers.progress import progress_through, silent_progress
from helpers.studies.reasoning import probes as module
from helpers.studies.reasoning.probes import parts_of, predict_study, train_study_probes
from helpers.studies.reasoning.records import PREDICTORS, RunTable, StudyProbes, Traced
from support.planted_study import CORRECT_LAYER, ENTROPY_LAYER, changed, planted_study

UNSEEN = ("test", "ood")


def train(table: RunTable, traced: Traced) -> StudyProbes:
    return train_study_probes(table, traced, progress=silent_progress())


@pytest.fixture(scope="module")
def study() -> tuple[RunTable, Traced, StudyProbes]:
    table, traced = planted_study(seed=1)
    return table, traced, train(table, traced)


def test_the_planted_layers_are_chosen_and_their_directions_found(study):
    table, traced, probes = study
    assert list(probes.probes) == list(PREDICTORS)
    assert probes.undefined == {}
    for name, layer, feature, target in (
        ("correctness", CORRECT_LAYER, 4, table.correct),
        ("semantic_entropy", ENTROPY_LAYER, 7, table.high),
    ):
        probe, sweep = probes.probes[name], probes.sweeps[name]
        assert probe.layer == sweep.best_layer == layer
        assert np.argmax(np.abs(probe.weight)) == feature
        assert probe.weight[feature] > 0
        test = table.rows("test")
        predicted = predict_study(probes, table, traced)[name]
        # Two normals 1.5 apart: no probe can do better than 0.856 in expectation.
        area = roc_auc_score(target[test], predicted.margin[test])
        assert 0.75 < area < 0.93
        assert sweep.best_score == sweep.validation_score.max()


def test_nothing_of_the_scored_splits_changes_a_probe(study):
    table, traced, probes = study
    rng = np.random.default_rng(0)
    unseen = np.isin(table.split, UNSEEN)
    n = int(unseen.sum())
    hidden = traced.hidden.copy()
    hidden[unseen] = 9 * rng.normal(size=hidden[unseen].shape)
    other = {
        name: np.where(unseen, rng.integers(0, 2, len(table)), getattr(table, name))
        for name in ("correct", "high", "high_median")
    }
    entropy = table.thinking_entropy.copy()
    entropy[unseen] = np.where(np.arange(n) % 3, np.nan, rng.random(n))
    again = train(
        changed(table, **other, thinking_entropy=entropy),
        Traced(traced.position, "", hidden, traced.token_ids),
    )
    for name in PREDICTORS:
        ours, theirs = probes.probes[name], again.probes[name]
        np.testing.assert_array_equal(ours.weight, theirs.weight)
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        assert (ours.bias, ours.layer, ours.training) == (
            theirs.bias,
            theirs.layer,
            theirs.training,
        )


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_class_in_a_split_leaves_the_probe_undefined_and_borrows_nothing(study, split):
    table, traced, _ = study
    correct = np.where(table.split == split, 1.0, table.correct)
    probes = train(changed(table, correct=correct), traced)
    n = int((table.split == split).sum())
    for name in ("correctness", "thinking_entropy"):
        assert name not in probes.probes
        assert f"correctness of the run, {split}" in probes.undefined[name]
        assert f"only one class ({n} of {n} are positive)" in probes.undefined[name]
    assert list(probes.probes) == ["semantic_entropy"]
    assert "at least two probes" in probes.undefined["combined"]
    assert "correctness" in probes.undefined["combined"]


def test_a_flat_entropy_and_unknown_answers_are_told_in_words(study):
    table, traced, _ = study
    unknown = np.full(len(table), np.nan)
    flat = train(changed(table, high=unknown, threshold=None), traced)
    assert re.search("every training question has the same", flat.undefined["semantic_entropy"])
    assert parts_of(flat.probes["combined"]) == ["correctness", "thinking_entropy"]
    assert "undefined: semantic_entropy" in flat.probes["combined"].target
    ungraded = train(changed(table, correct=unknown), traced)
    assert list(ungraded.probes) == ["semantic_entropy"]
    assert "not known of any" in ungraded.undefined["correctness"]


def test_the_baseline_uses_known_entropies_only_and_is_silent_elsewhere(study):
    table, traced, _ = study
    silent = np.random.default_rng(2).random(len(table)) < 0.3
    entropy = np.where(silent, np.nan, table.thinking_entropy)
    partly = changed(table, thinking_entropy=entropy)
    probes = train(partly, traced)
    predicted = predict_study(probes, partly, traced)
    for name in ("thinking_entropy", "combined"):
        for values in vars(predicted[name]).values():
            np.testing.assert_array_equal(np.isnan(values), silent)
    assert np.isfinite(predicted["correctness"].margin).all()
    rows = (table.split == "train") & ~silent
    assert probes.probes["thinking_entropy"].training["train"] == {
        "runs": rows.sum(),
        "questions": len(set(table.question_id[rows])),
        "left_out": ((table.split == "train") & silent).sum(),
    }
    none = train(changed(table, thinking_entropy=np.full(len(table), np.nan)), traced)
    assert f"not known in any of the {len(table)} runs" in none.undefined["thinking_entropy"]
    assert parts_of(none.probes["combined"]) == ["correctness", "semantic_entropy"]


def test_the_baseline_is_the_logistic_regression_on_one_feature(study):
    table, traced, probes = study
    rows = table.rows("train")
    feature = table.thinking_entropy[:, None]
    plain = LogisticRegression(C=1e4).fit(feature[rows], table.correct[rows])
    raw = plain.decision_function(feature)
    ours = predict_study(probes, table, traced)["thinking_entropy"].margin
    # Calibration on validation stretches and shifts log-odds, no more.
    assert np.corrcoef(ours, raw)[0, 1] == pytest.approx(1)
    held = table.rows("validation")
    scaled = ((raw - raw[held].mean()) / raw[held].std())[:, None]
    line = LogisticRegression(C=1.0, tol=1e-8).fit(scaled[held], table.correct[held])
    np.testing.assert_allclose(ours, line.decision_function(scaled), atol=1e-3)


def test_runs_without_an_answer_are_left_out_as_if_they_were_not_there(study):
    table, traced, _ = study
    rng = np.random.default_rng(3)
    unanswered = rng.random(len(table)) < 0.2
    probes = train(changed(table, correct=np.where(unanswered, np.nan, table.correct)), traced)
    kept = {
        name: values[~unanswered] if isinstance(values, np.ndarray) else values
        for name, values in vars(table).items()
    }
    fewer = train(
        RunTable(**kept),
        Traced(traced.position, "", traced.hidden[~unanswered], traced.token_ids[~unanswered]),
    )
    for name in ("correctness", "thinking_entropy"):
        np.testing.assert_allclose(
            probes.probes[name].weight, fewer.probes[name].weight, rtol=1e-9, atol=1e-12
        )
        left_out = (unanswered & (table.split == "train")).sum()
        assert probes.probes[name].training["train"]["left_out"] == left_out


def test_the_combination_learns_signs_and_gains_from_independent_signals(study):
    table, traced, probes = study
    combined = probes.probes["combined"]
    weights = dict(zip(parts_of(combined), combined.weight, strict=True))
    assert weights["correctness"] > 0
    assert weights["thinking_entropy"] > 0
    assert weights["semantic_entropy"] < 0
    test, said = table.rows("test"), predict_study(probes, table, traced)
    area = {
        name: roc_auc_score(table.correct[test], said[name].margin[test]) for name in PREDICTORS
    }
    assert area["combined"] > max(area["correctness"], area["thinking_entropy"])
    held = table.rows("validation")
    parts = np.column_stack([said[name].margin for name in parts_of(combined)])[held]
    parts = (parts - parts.mean(axis=0)) / parts.std(axis=0)
    naive = LogisticRegression(C=1.0, tol=1e-8).fit(parts, table.correct[held])
    np.testing.assert_allclose(combined.weight, naive.coef_[0], atol=1e-3)


def test_probabilities_are_calibrated_on_validation(study):
    table, traced, probes = study
    said, held = predict_study(probes, table, traced), table.rows("validation")
    for name in PREDICTORS:
        target = table.high if name == "semantic_entropy" else table.correct
        np.testing.assert_allclose(said[name].probability, expit(said[name].margin))
        # A logistic line with a free bias meets the mean of the rows that it was fitted on.
        assert said[name].probability[held].mean() == pytest.approx(target[held].mean(), abs=1e-3)


def test_predictions_are_those_of_all_rows_at_once_and_projections_are_distances(
    study, tmp_path: Path, monkeypatch
):
    table, traced, probes = study
    path = tmp_path / "hidden.bin"
    np.save(path.with_suffix(".npy"), traced.hidden)
    mapped = np.load(path.with_suffix(".npy"), mmap_mode="r")
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 100)
    said = predict_study(probes, table, Traced(traced.position, "", mapped, traced.token_ids))
    probe = probes.probes["correctness"]
    states = (traced.hidden[:, probe.layer].astype(float) - probe.mean) / probe.scale
    np.testing.assert_allclose(said["correctness"].margin, states @ probe.weight + probe.bias)
    # The foot of each state's perpendicular lies on the boundary.
    normal = probe.weight / np.linalg.norm(probe.weight)
    foot = states - said["correctness"].projection[:, None] * normal
    np.testing.assert_allclose(foot @ probe.weight + probe.bias, 0, atol=1e-9)


def test_every_probe_is_stored_and_read_back(study, tmp_path: Path):
    table, traced, probes = study
    loaded = {}
    for name, probe in probes.probes.items():
        save_probe(probe, tmp_path, card={"model_hash": "m", "of": "the study"})
        found = load_probe(tmp_path / f"{name}.json", model_hash="m")
        assert found.card["of"] == "the study"
        assert found.probe.training == probe.training
        loaded[name] = found.probe
    assert [len(loaded[name].weight) for name in ("thinking_entropy", "combined")] == [1, 3]
    assert [loaded[n].position for n in ("thinking_entropy", "combined")] == [
        "thinking_entropy", "probes",
    ]  # fmt: skip
    again = predict_study(StudyProbes(loaded, probes.sweeps, {}), table, traced)
    for name, said in predict_study(probes, table, traced).items():
        np.testing.assert_array_equal(again[name].margin, said.margin)


def test_progress_ends_where_it_said_it_would_also_without_a_probe(study):
    table, traced, _ = study
    for each in (table, changed(table, correct=np.full(len(table), np.nan))):
        seen = []
        progress = progress_through(lambda state, seen=seen: seen.append((state.done, state.total)))
        train_study_probes(each, traced, progress=progress)
        assert seen[-1] == (seen[-1][1], 2 * traced.hidden.shape[1] + 2)
