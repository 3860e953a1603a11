"""Two runs side by side: a planted effect is found, an absent one is not, the unfair is said."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation.resampling import resamples
from helpers.evaluation.scores import paired_difference
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.compare import (
    Compared,
    compare,
    comparison_figure,
    comparison_view,
    describe_comparison,
    differing,
)
from helpers.studies.semantic_entropy.open_run import open_run
from helpers.studies.semantic_entropy.run_files import StoredRun, read_run
from support.planted_runs import stored

N_BOOT, N_PERM = 400, 1000
PROBES = ("high_semantic_entropy", "semantic_entropy", "wrong_answer")


def planted(
    folder: Path, n: int = 300, *, seed: int = 0, noise: float = 0.4, shift: float = 0.0,
    words: str = "question", **settings: Any,
) -> StoredRun:  # fmt: skip
    """A run over questions of fixed difficulty; its probes see entropy through `noise`."""
    difficulty = np.random.default_rng(77).uniform(0.3, 1.6, n)
    rng = np.random.default_rng(seed)
    entropy = difficulty + shift
    wrong = (difficulty + 0.5 * rng.normal(size=n) > 1.1) * 1.0
    run = stored(folder, {}, entropy, wrong, words=words)
    seen = entropy + noise * rng.normal(size=n)
    manifest: dict[str, Any] = {
        "run": folder.name,
        "config": {**make_config("lab").results_fields(), **settings},
        "hashes": {"model_hash": "m1"},
        "versions": {"torch": "2.9"},
        "stages_done": ["meanings", "evaluation"],
    }
    return replace(run, predicted=dict.fromkeys(PROBES, seen), manifest=manifest)


def metrics(compared: Compared) -> dict[str, Any]:
    return {f"{metric.title}, {metric.metric}": metric for metric in compared.metrics}


# --- what is computed ----------------------------------------------------------------------------


def test_a_planted_difference_is_found_with_its_size(tmp_path: Path) -> None:
    sharp = planted(tmp_path / "a", noise=0.1, shift=0.25)
    blunt = planted(tmp_path / "b", noise=0.9, seed=1)
    found = metrics(compare(sharp, blunt, N_BOOT, N_PERM))
    many = [planted(tmp_path / "c", 20_000, noise=0.1), planted(tmp_path / "d", 20_000, noise=0.9)]
    truth = metrics(compare(*many, 100, 1))
    for name in ("logistic probe, AUROC", "ridge probe, RMSE", "ridge probe, Spearman"):
        difference = found[name].difference
        assert difference.n == 90
        assert difference.p_value < 0.01
        assert difference.low < truth[name].difference.value < difference.high, name
    mean = found["mean semantic entropy, nats"].difference
    assert mean.value == pytest.approx(0.25)  # of every question, so that no resample differs
    assert (mean.low, mean.high) == pytest.approx((0.25, 0.25))
    assert mean.p_value == 1 / (1 + N_PERM)


def test_equal_runs_are_seldom_told_apart(tmp_path: Path) -> None:
    """Two samplings of one model: p-values as often below 0.2 as chance has it, not oftener."""
    p = []
    for seed in range(0, 60, 2):
        # The second probe's scores are on another scale, which must not matter.
        first, second = (planted(tmp_path, 150, seed=s, noise=0.5) for s in (seed, seed + 1))
        scaled = {name: values * 7 - 3 for name, values in second.predicted.items()}
        scaled["semantic_entropy"] = second.predicted["semantic_entropy"]
        found = compare(first, replace(second, predicted=scaled), 100, 200)
        p.append([m.difference.p_value for m in found.metrics[:-1]])
    low = (np.array(p, dtype=float) < 0.2).mean()
    assert 0.08 < low < 0.32


def test_a_difference_is_that_of_the_shared_questions_naively(tmp_path: Path) -> None:
    """Against one resample at a time, rows repeated and pairs counted, labels not the same."""
    first, second = planted(tmp_path / "a"), planted(tmp_path / "b", seed=1, noise=1.0)
    unknown = second.targets.wrong.copy()
    test = np.flatnonzero(second.targets.rows("test"))
    unknown[test[:7]] = np.nan  # unanswered in one run: the question counts in neither
    second = replace(second, targets=replace(second.targets, wrong=unknown))
    found = metrics(compare(first, second, 100, N_PERM, seed=3))["correctness probe, AUROC"]
    rows = test[7:]
    assert (found.first.n, found.second.n, found.difference.n) == (90, 83, 83)

    def auroc(run: StoredRun, drawn: np.ndarray) -> float:
        scores, labels = run.predicted["wrong_answer"][drawn], run.targets.wrong[drawn]
        pairs = scores[labels == 1][:, None] - scores[labels == 0]
        return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())

    def difference(drawn: np.ndarray) -> float:
        return auroc(first, drawn) - auroc(second, drawn)

    assert found.difference.value == pytest.approx(difference(rows))
    counts = np.concatenate(list(resamples(len(rows), 100, 3))).astype(int)
    draws = [difference(np.repeat(rows, count)) for count in counts]
    naive = np.quantile(draws, [0.025, 0.975])
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(naive))
    smaller = min(np.sum(np.array(draws) <= 0), np.sum(np.array(draws) >= 0))
    assert found.difference.p_value == pytest.approx(min(1, 2 * (1 + smaller) / 101))


def test_with_the_same_labels_it_is_the_paired_difference_of_two_predictors(tmp_path: Path) -> None:
    first = planted(tmp_path / "a")
    other = first.predicted["semantic_entropy"] + np.random.default_rng(5).normal(size=300)
    second = replace(first, folder=tmp_path / "b", predicted=dict.fromkeys(PROBES, other))
    found = metrics(compare(first, second, N_BOOT, N_PERM))
    test = first.targets.rows("test")
    ours, theirs = first.predicted["semantic_entropy"][test], other[test]
    for name, labels, metric in (
        ("logistic probe, AUROC", first.targets.high, "auroc"),
        ("ridge probe, Spearman", first.targets.semantic_entropy, "spearman"),
    ):
        expected = paired_difference(ours, theirs, labels[test], metric, n_boot=N_BOOT)
        assert replace(found[name].difference, name="", note="") == replace(
            expected, name="", note=""
        )


def test_the_permutation_test_meets_all_sign_changes(tmp_path: Path) -> None:
    """Twelve shared questions have 4,096 ways to exchange the runs' values: all are counted."""
    first, second = planted(tmp_path / "a", 40), planted(tmp_path / "b", 40, seed=1)
    values = second.targets.semantic_entropy + np.random.default_rng(0).normal(0.2, 0.4, 40)
    second = replace(second, targets=replace(second.targets, semantic_entropy=values))
    found = metrics(compare(first, second, 100, 20_000))["mean semantic entropy, nats"]
    test = first.targets.rows("test")
    d = (first.targets.semantic_entropy - values)[test]
    assert len(d) == 12
    sums = np.abs([np.dot(signs, d) for signs in product((-1, 1), repeat=len(d))])
    exact = float((sums >= abs(d.sum()) - 1e-12).mean())
    assert 0.02 < exact < 0.9
    assert found.difference.p_value == pytest.approx(exact, abs=0.015)


def test_own_scores_are_those_of_the_runs_report(tiny_run: RunConfig) -> None:
    run = read_run(tiny_run.run_folder)
    compared = compare(run, run, tiny_run.n_bootstrap, 1000, tiny_run.seed)
    written = json.loads((run.folder / "metrics.json").read_text())
    found = metrics(compared)
    for name, table, source, metric in (
        ("logistic probe, AUROC", "high_semantic_entropy", "high_semantic_entropy", "auroc"),
        ("ridge probe, RMSE", "semantic_entropy", "semantic_entropy", "rmse"),
        ("ridge probe, Spearman", "semantic_entropy", "semantic_entropy", "spearman"),
        ("semantic entropy, AUROC", "wrong_answer", "semantic_entropy", "auroc"),
        ("correctness probe, AUROC", "wrong_answer", "wrong_answer", "auroc"),
    ):
        expected, score = written[table][source][metric], found[name].first
        assert (score.value, score.low, score.high, score.n) == pytest.approx(
            (expected["value"], expected["low"], expected["high"], expected["n"])
        )
        assert found[name].second == score
        assert (found[name].difference.value, found[name].difference.p_value) == (0.0, 1.0)
    known = run.targets.wrong[run.targets.rows("test", run.targets.wrong)]
    assert found["accuracy, share"].first.value == pytest.approx(1 - known.mean())
    assert any("they are the same run" in caution for caution in compared.cautions)
    assert compared.differing == ()
    opened = open_run(tiny_run.run_folder)  # as the notebook has it
    assert compare(opened, run, tiny_run.n_bootstrap, 1000, tiny_run.seed) == compared


# --- what is said --------------------------------------------------------------------------------


def shown(compared: Compared) -> str:
    """All that a comparison says, in a terminal and as HTML; no line too long, no NaN."""
    text, page = describe_comparison(compared), comparison_view(compared)
    assert max(map(len, text.splitlines())) <= 100
    everything = text + page + comparison_figure(compared).to_json()
    assert not re.search(r"\bnan\b", everything, re.IGNORECASE)
    return text


def test_runs_without_a_shared_question_are_not_paired(tmp_path: Path) -> None:
    first = planted(tmp_path / "a")
    second = planted(tmp_path / "b", words="other", questions="mine.jsonl")  # same ids
    compared = compare(first, second, N_BOOT, N_PERM)
    assert compared.n_shared == 0
    for metric in compared.metrics:
        assert metric.difference.value is None
        assert metric.difference.p_value is None
        assert metric.difference.undefined == "the runs share no test question"
        assert metric.first.low < metric.first.high
    assert "share no test question" in shown(compared)
    figure = comparison_figure(compared)
    assert "xaxis2" in figure.to_dict()["layout"]
    assert "xaxis3" not in figure.to_dict()["layout"]


def test_only_test_questions_of_both_runs_are_shared(tmp_path: Path) -> None:
    first, second = planted(tmp_path / "a"), planted(tmp_path / "b", seed=1)
    questions = list(second.answers.questions)
    test = np.flatnonzero(second.targets.rows("test")).tolist()
    for row in test[:10]:
        questions[row] = replace(questions[row], question="reworded")
    for row in test[10:15]:
        questions[row] = replace(questions[row], split="train")
    splits = np.array([q.split for q in questions])
    second = replace(
        second,
        answers=replace(second.answers, questions=tuple(reversed(questions))),
        targets=replace(
            second.targets,
            **{
                name: getattr(second.targets, name)[::-1]
                for name in ("semantic_entropy", "high", "wrong")
            },
            splits=splits[::-1],
        ),
        predicted={name: values[::-1] for name, values in second.predicted.items()},
    )
    compared = compare(first, second, N_BOOT, N_PERM)
    assert (compared.n_test, compared.n_shared) == ((90, 85), 75)
    # The second run lists its questions backwards; each is met by its own, whose entropy is equal.
    mean = metrics(compared)["mean semantic entropy, nats"]
    assert mean.difference.value == pytest.approx(0, abs=1e-12)
    assert mean.difference.n == 75
    assert "share 75 test questions, of 90 in A and 85 in B" in shown(compared).replace("\n", " ")


def test_what_makes_a_comparison_unfair_is_said(tmp_path: Path) -> None:
    first = planted(tmp_path / "a", k=10)
    second = planted(
        tmp_path / "b", k=20, judge_model="other", temperature=0.5, embedding_model="unused",
        shift=0.5,
    )  # fmt: skip
    second.manifest["hashes"]["model_hash"] = "m2"
    second.manifest["versions"]["torch"] = "2.10"
    assert [tuple(setting) for setting in differing(first, second)] == [
        ("k", "10", "20"),
        ("temperature", "1.0", "0.5"),
        ("judge model", "lab", "other"),
        ("embedding model", "sentence-transformers/all-MiniLM-L6-v2", "unused"),
        ("model hash", "m1", "m2"),
        ("package torch", "2.9", "2.10"),
    ]
    text = " ".join(shown(compare(first, second, 100, 100)).split())
    for words in (
        "K is 10 in A and 20 in B: semantic entropy is at most ln K (2.30 and 3.00 nats)",
        "says which answers mean the same (judge model):",  # no judge reads the embedding model
        "sampled in another way (temperature):",
        "High means above",
    ):
        assert words in text, words
    alike = " ".join(shown(compare(first, planted(tmp_path / "c", seed=4), 100, 100)).split())
    for words in ("K is", "mean the same (", "sampled in", "High means"):
        assert words not in alike


def test_a_probe_that_is_missing_says_why(tmp_path: Path) -> None:
    first, second = planted(tmp_path / "a"), planted(tmp_path / "b")
    reason = "only one class (0 of 90 wrong)"
    second.folder.mkdir()
    (second.folder / "metrics.json").write_text(
        json.dumps({"undefined_probes": {"wrong_answer": reason}})
    )
    del second.predicted["wrong_answer"]
    right = replace(second.targets, wrong=np.zeros(300))
    compared = compare(first, replace(second, targets=right), N_BOOT, N_PERM)
    found = metrics(compared)
    assert found["correctness probe, AUROC"].second.undefined == reason
    assert found["correctness probe, AUROC"].difference.undefined == f"B: {reason}"
    assert found["semantic entropy, AUROC"].second.undefined == "only one class (0 of 90 wrong)"
    assert found["accuracy, share"].second.value == 1.0
    assert f"B: {reason}" in shown(compared)


def test_a_run_that_was_not_evaluated_cannot_be_compared(tmp_path: Path) -> None:
    first, second = planted(tmp_path / "a"), planted(tmp_path / "stopped")
    second.manifest["stages_done"] = ["samples", "meanings"]
    with pytest.raises(UserError, match=r"stopped has not been evaluated.*finish it"):
        compare(first, second)


def test_what_others_wrote_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    first = planted(tmp_path / "a", model=evil)
    second = replace(planted(tmp_path / "b"), folder=Path(evil))
    first.predicted.pop("wrong_answer")
    first.folder.mkdir()
    (first.folder / "metrics.json").write_text(
        json.dumps({"undefined_probes": {"wrong_answer": evil}})
    )
    compared = compare(first, second, 100, 100)
    page = comparison_view(compared)
    assert "&lt;img" in page
    assert "<img" not in page
    assert "<img" not in comparison_figure(compared).to_json()
