"""Scores of the reasoning study: what they must find, whose words they use, and what is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from helpers.evaluation.records import as_plain, from_plain
from helpers.evaluation.scores import Score, evaluate_classifier, paired_difference, roc_curve
from helpers.progress import silent_progress
from helpers.studies.reasoning.assessment import (
    PAIRS,
    POINTS,
    assess_study,
    metrics_as_json,
    thin_roc,
)
from helpers.studies.reasoning.predictors import GIVES_CORRECT, NEEDS_OTHER_RUNS, TITLES
from helpers.studies.reasoning.probes import predict_study, train_study_probes
from helpers.studies.reasoning.records import (
    PREDICTORS,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
    Traced,
)
from helpers.studies.reasoning.scores import constant_input
from helpers.studies.reasoning.views import summarise_study
from support.planted_study import CORRECT_LAYER, ENTROPY_LAYER, changed, planted_study

COUNTS = {
    "in": RunCounts(
        questions=92, runs=740, valid=722, excluded={"cut off by the token limit": 18},
        questions_dropped=2, runs_dropped=2, correct=300, wrong=400, unanswered=20,
    ),
}  # fmt: skip


def assess(table: RunTable, traced: Traced, n: int = 200) -> tuple[StudyProbes, StudyAssessment]:
    probes = train_study_probes(table, traced, progress=silent_progress())
    found = assess_study(
        table, predict_study(probes, table, traced), probes, traced,
        n_bootstrap=n, n_permutations=n, seed=0, progress=silent_progress(),
    )  # fmt: skip
    return probes, found


@pytest.fixture(scope="module")
def study() -> tuple[RunTable, Traced, StudyProbes, StudyAssessment]:
    table, traced = planted_study(160, seed=1, ood=0.3)
    return table, traced, *assess(table, traced)


def all_scores(assessment: StudyAssessment) -> list[Score]:
    tables = (assessment.correctness, assessment.high_entropy)
    found = [
        s for t in tables for rows in t.values() for row in rows.values() for s in row.values()
    ]
    flat = (assessment.high_entropy_median, assessment.differences)
    found += [score for t in flat for row in t.values() for score in row.values()]
    layers = assessment.layer_curves.values()
    return found + [s for curve in layers for row in curve.scores.values() for s in row]


def test_a_planted_signal_is_scored_as_strong_as_it_is_in_and_out_of_distribution(study):
    _, _, _, found = study
    best = norm.cdf(1.5 / np.sqrt(2))  # two normals 1.5 apart
    for split in ("test", "ood"):
        for score in (
            found.correctness[split]["correctness"]["auroc"],
            found.high_entropy[split]["semantic_entropy"]["auroc"],
        ):
            assert score.low < score.value < score.high
            assert score.low < best < score.high + 0.05  # the probe itself is estimated
            assert score.p_value == pytest.approx(1 / 201)
        assert list(found.correctness[split]) == list(TITLES)
        assert set(NEEDS_OTHER_RUNS) < set(found.correctness[split])
        for name, row in found.correctness[split].items():
            assert ("brier" in row) == ("ece" in row) == (name in GIVES_CORRECT)


def test_noise_is_scored_as_noise():
    table, traced = planted_study(160, seed=2, signal=0.0)
    blank = changed(table, thinking_entropy=np.random.default_rng(0).random(len(table)))
    _, found = assess(blank, traced)
    for split in ("test", "ood"):
        for name in ("correctness", "thinking_entropy", "combined"):
            score = found.correctness[split][name]["auroc"]
            assert score.low < 0.5 < score.high
            assert score.p_value > 0.01
    for score in found.layer_curves["correctness"].scores["test"]:
        assert score.value == 0.5 or score.low - 0.05 < 0.5 < score.high + 0.05


def test_intervals_draw_questions_and_not_runs():
    table, traced = planted_study(160, seed=3, noise_between=2.0)
    probes, found = assess(table, traced, 500)
    said = predict_study(probes, table, traced)["correctness"].margin
    rows = table.rows("test")
    grouped = found.correctness["test"]["correctness"]["auroc"]
    naive = evaluate_classifier(said[rows], table.correct[rows], n_boot=500, n_perm=1)["auroc"]
    assert grouped.value == naive.value
    assert grouped.high - grouped.low > 1.3 * (naive.high - naive.low)
    by_question = evaluate_classifier(
        said[rows], table.correct[rows], groups=table.question_id[rows], positive="correct",
        n_boot=500, n_perm=500, seed=0,
    )  # fmt: skip
    assert by_question["auroc"] == grouped
    high = found.high_entropy["test"]["thinking_length"]["auroc"]
    assert high == evaluate_classifier(
        table.thinking_tokens[rows], table.high[rows], groups=table.question_id[rows],
        positive="high", n_boot=500, n_perm=500, seed=0,
    )["auroc"]  # fmt: skip


def test_the_layer_curve_agrees_with_the_table_where_the_probe_is(study):
    _, _, probes, found = study
    for name, layer, table in (
        ("correctness", CORRECT_LAYER, found.correctness),
        ("semantic_entropy", ENTROPY_LAYER, found.high_entropy),
    ):
        curve = found.layer_curves[name]
        assert curve.chosen == layer
        assert max(curve.validation) == curve.validation[layer] == probes.sweeps[name].best_score
        assert len(curve.layers) == len(curve.validation) == 5
        for split in ("test", "ood"):
            values = [score.value for score in curve.scores[split]]
            assert values[layer] == table[split][name]["auroc"].value
            assert values[0] == 0.5  # one token, one embedding
            assert np.argmax(values) == layer
            assert curve.scores[split][layer].low < values[layer] < curve.scores[split][layer].high


def test_without_ood_questions_its_tables_are_empty():
    table, traced = planted_study(80, seed=1, ood=0.0)
    probes, found = assess(table, traced)
    for part in vars(found).values():
        if isinstance(part, dict) and "test" in part:
            assert part["ood"] == {}
    assert list(found.layer_curves["correctness"].scores) == ["test"]
    assert any("No out-of-distribution" in note for note in found.notes)
    assert "out of distribution" not in summarise_study(table, probes, found, COUNTS)
    assert metrics_as_json(table, probes, found, COUNTS)["correctness"]["ood"] == {}


def test_one_class_out_of_distribution_is_undefined_in_words(study):
    table, traced, _, _ = study
    right = np.where(table.split == "ood", 1.0, table.correct)
    probes, found = assess(changed(table, correct=right), traced, 100)
    n = int(table.rows("ood").sum())
    for name in PREDICTORS:
        score = found.correctness["ood"][name]["auroc"]
        assert score.value is None
        assert score.undefined == f"only one class ({n} of {n} correct)"
        assert found.correctness["test"][name]["auroc"].value is not None
        assert name not in found.roc["ood"]
    assert found.correctness["ood"]["correctness"]["brier"].value is not None
    said = found.confidence["ood"]["combined"]
    assert said["correct"]["n"] == n
    assert (said["incorrect"]["mean"], said["incorrect"]["undefined"]) == (
        None,
        "no run is incorrect",
    )
    assert all(s.undefined or s.value is not None for s in all_scores(found))
    assert "only one class" in summarise_study(table, probes, found, COUNTS)


def test_undefined_probes_have_undefined_scores_with_their_reason(study):
    table, traced, _, _ = study
    right = np.where(table.split == "train", 1.0, table.correct)
    table = changed(table, correct=right, thinking_entropy=np.full(len(table), np.nan))
    probes, found = assess(table, traced, 100)
    for split in ("test", "ood"):
        row = found.correctness[split]
        assert (
            "correctness of the run, train: only one class" in row["correctness"]["auroc"].undefined
        )
        assert "not known in any" in row["thinking_entropy"]["ece"].undefined
        assert "sign is learnt on train" in row["thinking_length"]["auroc"].undefined
        assert row["semantic_entropy"]["auroc"].value is not None
        assert row["question_semantic_entropy"]["auroc"].value is not None
        difference = found.differences[split]["combined - correctness"]
        assert difference.value is None
        assert "combined: there is no such probe" in difference.undefined
        assert "what it reads" in found.high_entropy[split]["thinking_entropy"]["auroc"].undefined
    assert set(found.layer_curves) == {"semantic_entropy"}
    assert {wire.passed for wire in found.tripwires if "correctness" in wire.name} == {None}
    text = summarise_study(table, probes, found, COUNTS)
    assert not re.search(r"\bnan\b|None", text)
    json.dumps(metrics_as_json(table, probes, found, COUNTS), allow_nan=False)


def test_unknown_answers_and_entropies_are_left_out_and_counted(study):
    table, traced, _, _ = study
    rng = np.random.default_rng(0)
    unanswered, silent = rng.random((2, len(table))) < 0.2
    silent |= np.isin(table.question_id, np.unique(table.question_id)[::6])  # whole questions too
    table = changed(
        table,
        correct=np.where(unanswered, np.nan, table.correct),
        thinking_entropy=np.where(silent, np.nan, table.thinking_entropy),
    )
    probes, found = assess(table, traced, 100)
    metrics = metrics_as_json(table, probes, found, COUNTS)
    test = table.rows("test")
    known = test & ~unanswered
    for name, rows in (
        ("correctness", known),
        ("thinking_entropy", known & ~silent),
        ("combined", known & ~silent),
    ):
        assert found.correctness["test"][name]["auroc"].n == rows.sum()
        stored = metrics["correctness"]["test"][name]["auroc"]
        assert stored["n_questions"] == len(set(table.question_id[rows]))
    assert found.high_entropy["test"]["semantic_entropy"]["auroc"].n == test.sum()
    pair = metrics["auroc_differences"]["test"]["correctness - thinking_entropy"]
    assert pair["n"] == (known & ~silent).sum()
    assert metrics["splits"]["test"]["correctness_unknown"] == (test & unanswered).sum()
    assert any(f"{unanswered.sum():,} runs are neither" in note for note in found.notes)


def test_the_sign_of_the_length_is_learnt_on_train_alone(study):
    table, traced, probes, found = study
    assert found.correctness["test"]["thinking_length"]["auroc"].value > 0.7  # shorter is better
    scored = np.isin(table.split, ("test", "ood"))
    turned = changed(table, thinking_tokens=np.where(scored, -1, 1) * table.thinking_tokens)
    again = assess_study(
        turned, predict_study(probes, turned, traced), probes, traced,
        n_bootstrap=100, n_permutations=100, seed=0, progress=silent_progress(),
    )  # fmt: skip
    for part in ("correctness", "high_entropy"):
        straight = getattr(found, part)["test"]["thinking_length"]["auroc"].value
        assert getattr(again, part)["test"]["thinking_length"]["auroc"].value == pytest.approx(
            1 - straight
        )


def test_signs_of_what_is_scored_for_the_other_label(study):
    table, traced, probes, found = study
    said, rows = predict_study(probes, table, traced), table.rows("test")
    for row, name, values, label in (
        (found.correctness, "semantic_entropy", -said["semantic_entropy"].margin, table.correct),
        (found.correctness, "question_semantic_entropy", -table.semantic_entropy, table.correct),
        (found.correctness, "agreement", table.agreement, table.correct),
        (found.high_entropy, "correctness", -said["correctness"].margin, table.high),
        (found.high_entropy, "thinking_entropy", table.thinking_entropy, table.high),
    ):
        plain = evaluate_classifier(values[rows], label[rows], n_boot=1, n_perm=1)["auroc"]
        assert row["test"][name]["auroc"].value == plain.value
    median = evaluate_classifier(
        said["semantic_entropy"].margin[rows], table.high_median[rows], n_boot=1, n_perm=1
    )["auroc"]
    assert found.high_entropy_median["test"]["semantic_entropy"].value == median.value


def test_differences_and_confidence_point_the_right_way(study):
    table, traced, probes, found = study
    assert list(found.differences["test"]) == [f"{a} - {b}" for a, b in PAIRS]
    gain = found.differences["test"]["combined - correctness"]
    of = {name: found.correctness["test"][name]["auroc"].value for name in PREDICTORS}
    assert gain.value == pytest.approx(of["combined"] - of["correctness"])
    assert gain.low > 0
    assert gain.p_value < 0.05
    both = predict_study(probes, table, traced)
    rows = table.rows("test")
    assert gain == paired_difference(
        both["combined"].margin[rows], both["correctness"].margin[rows], table.correct[rows],
        groups=table.question_id[rows], n_boot=200,
    )  # fmt: skip
    said = both["combined"].probability
    means = found.confidence["test"]["combined"]
    for word, label in (("correct", 1), ("incorrect", 0)):
        chosen = rows & (table.correct == label)
        assert means[word]["mean"] == pytest.approx(said[chosen].mean())
        assert means[word]["low"] < means[word]["mean"] < means[word]["high"]
        assert means[word]["n"] == chosen.sum()
        assert means[word]["n_questions"] == len(set(table.question_id[chosen]))
    assert means["correct"]["low"] > means["incorrect"]["high"]


def test_tripwires_hold_for_honest_probes_and_the_canary_sees_another_token(study):
    table, traced, _, found = study
    assert [wire.passed for wire in found.tripwires] == [True] * 5
    assert found.tripwires[-1].value == 0.5
    assert "input of the first block" in found.tripwires[-1].detail
    moved = traced.hidden.copy()
    moved[:, 0] += np.random.default_rng(0).normal(size=moved[:, 0].shape)
    learnt = constant_input(table, replace(traced, hidden=moved))
    assert (learnt.passed, learnt.value) == (True, 0.5)
    assert "id of the token (151668)" in learnt.detail
    ids = traced.token_ids.copy()
    ids[7] = 5
    tripped = constant_input(table, replace(traced, token_ids=ids))
    assert tripped.passed is False
    assert "2 different tokens" in tripped.detail
    elsewhere = constant_input(table, replace(traced, position="answer_last", token_ids=ids))
    assert elsewhere.passed is None
    assert "does not apply" in elsewhere.detail


def test_the_shuffled_labels_are_told_beside_the_real_score(study):
    _, _, _, found = study
    wire = found.tripwires[0]
    assert wire.name == "shuffled labels: correctness probe"
    assert wire.value == pytest.approx(0.5, abs=0.02)
    real = found.correctness["test"]["correctness"]["auroc"].value
    assert f"0 of 100 reached the real score {real:.3f}" in wire.detail


def test_stored_curves_are_short_and_keep_their_area():
    table, traced = planted_study(500, 8, seed=4, ood=0.0)
    probes, found = assess(table, traced, 100)
    rows = table.rows("test")
    assert rows.sum() > 2 * POINTS
    curve = found.roc["test"]["correctness"]
    assert len(curve.false_positive_rate) == POINTS
    assert (curve.false_positive_rate[[0, -1]] == [0, 1]).all()
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(found.correctness["test"]["correctness"]["auroc"].value, abs=2e-3)
    risk = found.risk_coverage["test"]["correctness"]
    assert len(risk.risk) == len(risk.risk_low) == len(risk.coverage) == POINTS
    assert risk.coverage[-1] == 1
    assert risk.risk[-1] == pytest.approx(1 - table.correct[rows].mean())
    assert (risk.risk_low <= risk.risk + 1e-12).mean() > 0.95
    said = predict_study(probes, table, traced)
    whole = roc_curve(said["correctness"].margin[rows], table.correct[rows])
    thin = thin_roc(whole)
    for k in (0, 17, -1):  # a threshold still belongs to the point behind it
        above = said["correctness"].margin[rows] >= thin.thresholds[k]
        rate = table.correct[rows][above].sum() / table.correct[rows].sum()
        assert thin.true_positive_rate[1:][k] == pytest.approx(rate)
    assert set(found.reliability["test"]) == set(PREDICTORS)


def test_an_assessment_is_read_back_as_it_was(study):
    _, _, _, found = study
    plain = as_plain(found)
    stored = json.loads(json.dumps(plain, allow_nan=False))
    again = from_plain(StudyAssessment, stored)
    assert as_plain(again) == plain
    assert again.correctness == found.correctness
    assert again.layer_curves == found.layer_curves
    assert again.tripwires == found.tripwires
    assert isinstance(again.risk_coverage["ood"]["combined"].risk_low, np.ndarray)


def test_metrics_hold_every_score_with_its_interval_counts_and_p(study):
    table, _, probes, found = study
    metrics = metrics_as_json(table, probes, found, COUNTS)
    stored = json.loads(json.dumps(metrics, allow_nan=False))
    assert stored == metrics
    scores: list[dict[str, Any]] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if "p_value" in value:
                scores.append(value)
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    collect(metrics)
    assert len(scores) == len(all_scores(found))
    for score in scores:
        assert (
            score["undefined"]
            or score["low"] <= score["value"] <= score["high"]
            or (
                score["name"] == "ece"  # noise adds to it in every resample
            )
        )
        assert 0 < score["n_questions"] < score["n"]
    assert metrics["counts"]["in"]["excluded"] == {"cut off by the token limit": 18}
    assert metrics["thresholds_nats"] == {
        "best_split": table.threshold, "median": table.threshold_median,
    }  # fmt: skip
    chosen = metrics["probes"]["correctness"]
    assert chosen["layer"] == CORRECT_LAYER
    assert chosen["validation_score"] == probes.sweeps["correctness"].best_score
    assert chosen["train"]["questions"] == len(set(table.question_id[table.rows("train")]))
    assert set(metrics["probes"]["combined"]["weights"]) == set(PREDICTORS[:3])


def test_the_summary_fits_a_terminal_and_says_what_was_left_out_first(study):
    table, _, probes, found = study
    lines = summarise_study(table, probes, found, COUNTS, heading="A run").splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "A run"
    assert "92 questions, 740 runs; 18 left out (18 cut off by the token limit)" in lines[1]
    text = "\n".join(lines)
    score = found.correctness["ood"]["combined"]["auroc"]
    assert f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]" in text
    assert text.index("92 questions") < text.index("AUROC for a correct run")
    assert "needs the question's other runs" in text
