"""What if the answers had been grouped otherwise: a run's numbers anew, from what is stored.

Changing the rule, its threshold, the linkage, γ or the number of samples asks no model and no
judge, and writes nothing. Scores are of the test questions; γ is chosen on the train questions. The
probes are those of the run: they are asked how well they foresee the new labels, not trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers.analyses.cluster_agreement import mean_score
from helpers.analyses.cluster_rules import entropies, from_rows
from helpers.analyses.sample_subsets import choose_subsets
from helpers.errors import UserError
from helpers.evaluation import Score, best_split_threshold, paired_difference, score_metric
from helpers.metrics import auroc, mean_auroc, spearman
from helpers.stored_run import StoredRun

# The choices belong to this module's face; they live in a file of their own for its length.
from helpers.what_if_rules import GROUPERS as GROUPERS
from helpers.what_if_rules import LINKAGES as LINKAGES
from helpers.what_if_rules import READ_ENTAILMENT as READ_ENTAILMENT
from helpers.what_if_rules import RULES as RULES
from helpers.what_if_rules import AnyRun as AnyRun
from helpers.what_if_rules import WhatIf as WhatIf
from helpers.what_if_rules import as_stored as as_stored
from helpers.what_if_rules import links, remarks
from helpers.what_if_rules import possible as possible

PROBE = "high_semantic_entropy"
N_BOOT = 2000
"""Resamples behind each interval: the default of a run."""
MOST_SUBSETS = 16
"""Subsets of each size that a point of the budget curve is the mean of."""
CELLS = 4_000_000
"""Pairs of answers that are grouped at once for a point of the budget curve, at most."""


@dataclass(frozen=True)
class GroupingScores:
    """What follows from one grouping of the answers, on the test questions."""

    entropy: Score
    """Mean semantic entropy, nats."""
    meanings: Score
    """Mean number of meanings of a question."""
    high: Score
    """Share of questions whose semantic entropy is above γ."""
    wrong_answer: Score
    """AUROC of semantic entropy for a wrong most likely answer."""
    probe: Score
    """AUROC of the run's own probe, as it was trained, for semantic entropy above γ."""


@dataclass(frozen=True)
class BudgetLevel:
    """Semantic entropy from N samples."""

    n_samples: int
    subsets: int
    """Subsets of the k samples that the AUROC is the mean of."""
    auroc: Score
    """For a wrong most likely answer, on the test questions; no p-value."""


@dataclass(frozen=True, eq=False)
class Regrouped:
    """A run's answers grouped by other options, beside the run as it is stored."""

    options: WhatIf
    clusters: np.ndarray
    """`[n, k]`, numbered from 0 in order of appearance."""
    semantic_entropy: np.ndarray
    """`[n]`, nats."""
    gamma: float | None
    """Nats; None where every train question has the same semantic entropy."""
    changed: np.ndarray
    """`[n]`, True where the same k samples are grouped otherwise than the run grouped them."""
    now: GroupingScores
    stored: GroupingScores
    """With all K samples, as the run grouped them, and its own γ."""
    differences: dict[str, Score]
    """Field of `GroupingScores` to now less stored, paired; for those of one target."""
    spearman: Score
    """Of the new semantic entropy with the stored one."""
    budget: tuple[BudgetLevel, ...]
    """N = 1 … k."""
    notes: tuple[str, ...]
    """What to know of these options, in sentences."""


@dataclass(frozen=True, eq=False)
class _Known:
    """What the scores are made with."""

    train: np.ndarray
    test: np.ndarray
    wrong: np.ndarray
    predicted: np.ndarray | None
    no_probe: str
    seed: int


def regroup(run: AnyRun, options: WhatIf) -> Regrouped:
    """Group a run's stored samples by other options, and compute what follows from the groups.

    Reads `run` and changes nothing of it. Raises `UserError`, naming the range or the reason, for
    options that the run does not allow. A score that has no value says why.
    """
    linked = links(run, options)
    clusters = GROUPERS[options.linkage](linked)
    own = from_rows(run.meanings.clusters)
    known = _known(run)
    entropy, stored_entropy = entropies(clusters), run.targets.semantic_entropy
    gamma = options.gamma
    if gamma is None:
        gamma = best_split_threshold(entropy[known.train])
    now = _scores(clusters, entropy, gamma, known, n_perm=N_BOOT)
    stored = _scores(own, stored_entropy, run.targets.threshold, known)
    graded = known.test & ~np.isnan(known.wrong)
    probe_note = "The probe is the run's own: it is asked about the new labels, not trained again."
    return Regrouped(
        options=options,
        clusters=clusters,
        semantic_entropy=entropy,
        gamma=gamma,
        changed=_differ(clusters, own[:, : clusters.shape[1]]),
        now=now,
        stored=stored,
        differences=_differences(clusters, entropy, own, stored_entropy, known),
        spearman=score_metric(
            spearman(entropy[known.test], stored_entropy[known.test]), N_BOOT, 0, known.seed
        ),
        budget=budget_curve(
            linked[graded], options.linkage, known.wrong[graded], seed=known.seed
        ),
        notes=(*remarks(run, options), *([probe_note] if known.predicted is not None else [])),
    )  # fmt: skip


def _known(run: AnyRun) -> _Known:
    """What a run says of its questions; its probe may be absent, or still to come."""
    predicted, reason = None, "the run has no probe for high semantic entropy"
    try:
        values = predictions(run).get(PROBE)
        predicted = None if values is None or np.isnan(values).all() else values
    except UserError as not_yet:
        reason = str(not_yet)
    return _Known(
        train=run.targets.splits == "train",
        test=run.targets.splits == "test",
        wrong=run.targets.wrong,
        predicted=predicted,
        no_probe=reason,
        seed=run.config.seed,
    )


def predictions(run: AnyRun) -> Mapping[str, np.ndarray]:
    """What each of the run's probes says of every question, `[n]`."""
    return run.predicted if isinstance(run, StoredRun) else run.assessment.predicted


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which rows of two sets of ids `[n, k]` part their entries otherwise, `[n]`."""
    return ((a[:, :, None] == a[:, None, :]) != (b[:, :, None] == b[:, None, :])).any((1, 2))


def _counts(clusters: np.ndarray) -> np.ndarray:
    """The number of meanings of each question, from ids `[n, k]` without gaps."""
    return clusters.max(axis=1) + 1.0


def _scores(
    clusters: np.ndarray,
    entropy: np.ndarray,
    gamma: float | None,
    known: _Known,
    n_perm: int = 0,
) -> GroupingScores:
    """The scores of one grouping `[n, k]` with semantic entropies `[n]`; p-values if asked for."""
    test, boot = known.test, {"n_boot": N_BOOT, "seed": known.seed}
    graded = test & ~np.isnan(known.wrong)
    metric = auroc(entropy[graded], known.wrong[graded], "wrong")
    return GroupingScores(
        entropy=_mean("semantic entropy", entropy[test], boot),
        meanings=_mean("meanings", _counts(clusters)[test], boot),
        high=_unknown("high", test, _FLAT) if gamma is None
        else _mean("high", entropy[test] > gamma, boot),
        wrong_answer=score_metric(metric, N_BOOT, n_perm, known.seed),
        probe=_probe_score(entropy, gamma, known, n_perm),
    )  # fmt: skip


_FLAT = "every train question has the same semantic entropy, so that none is high"


def _mean(name: str, values: np.ndarray, boot: dict[str, Any]) -> Score:
    score = mean_score(name, values, **boot)
    return replace(score, undefined="there is no test question") if score.undefined else score


def _unknown(name: str, rows: np.ndarray, reason: str) -> Score:
    return Score(name, None, None, None, None, int(rows.sum()), reason)


def _probe_score(entropy: np.ndarray, gamma: float | None, known: _Known, n_perm: int) -> Score:
    """AUROC of the run's probe for entropies `[n]` above γ."""
    if known.predicted is None or gamma is None:
        reason = _FLAT if gamma is None else known.no_probe
        return _unknown("auroc", known.test, reason)
    rows = known.test & np.isfinite(known.predicted)
    metric = auroc(known.predicted[rows], (entropy > gamma)[rows] * 1.0, "high")
    return score_metric(metric, N_BOOT, n_perm, known.seed)


def _differences(
    clusters: np.ndarray,
    entropy: np.ndarray,
    own: np.ndarray,
    stored_entropy: np.ndarray,
    known: _Known,
) -> dict[str, Score]:
    """What changed, question by question. The probe has none: its labels are others."""
    test, boot = known.test, {"n_boot": N_BOOT, "seed": known.seed}
    graded = test & ~np.isnan(known.wrong)
    return {
        "entropy": _mean("difference", (entropy - stored_entropy)[test], boot),
        "meanings": _mean("difference", (_counts(clusters) - _counts(own))[test], boot),
        "wrong_answer": paired_difference(
            entropy[graded], stored_entropy[graded], known.wrong[graded], n_boot=N_BOOT,
            seed=known.seed,
        ),
    }  # fmt: skip


def budget_curve(
    linked: np.ndarray,
    linkage: str,
    wrong: np.ndarray,
    *,
    seed: int = 0,
    most_subsets: int = MOST_SUBSETS,
) -> tuple[BudgetLevel, ...]:
    """AUROC for a wrong answer of semantic entropy from N = 1 … k of the samples.

    linked `[n, k, k]` says which samples are linked, wrong `[n]` is 1.0 or 0.0. The mean over all
    subsets of N samples or, where there are more than `most_subsets`, over so many random ones (or
    over fewer, for many questions), each grouped anew in the order of sampling. What
    `analyses.sample_budget` computes from up to 256 subsets.
    """
    n, k = linked.shape[:2]
    limit = max(1, min(most_subsets, CELLS // max(1, n * k * k)))
    levels = []
    for size in range(1, k + 1):
        subsets = choose_subsets(k, size, limit=limit, seed=seed)
        scores = subset_entropies(linked, linkage, subsets)
        metric = mean_auroc(scores, wrong, "wrong")
        score = replace(score_metric(metric, N_BOOT, 0, seed), name="auroc")
        levels.append(BudgetLevel(size, len(subsets), score))
    return tuple(levels)


def subset_entropies(linked: np.ndarray, linkage: str, subsets: np.ndarray) -> np.ndarray:
    """Semantic entropy of each question from each subset `[S, N]` of its samples, `[n, S]`, nats.

    linked `[n, k, k]`; every subset is grouped anew by the linkage.
    """
    size = subsets.shape[1]
    chosen = linked[:, subsets[:, :, None], subsets[:, None, :]]
    ids = GROUPERS[linkage](chosen.reshape(-1, size, size))
    sizes = np.sort((ids[:, :, None] == np.arange(size)).sum(axis=1), axis=1)
    counts = np.arange(1, size + 1)
    terms = np.concatenate([[0.0], counts / size * np.log(size / counts)])
    # Sorted and rounded: equal entropies must tie, down to the last bit, for ranks to be right.
    return np.round(terms[sizes].sum(axis=1), 12).reshape(len(linked), len(subsets))
