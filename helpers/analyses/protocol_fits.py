"""The fits behind two ways to evaluate probes: one random split at a time, one layer at a time.

What the two protocols are stands in `helpers.analyses.protocols`. Rows are numbered within the
questions whose most likely answer could be graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from helpers.evaluation import best_split_threshold
from helpers.probe_solvers import (
    centred_only,
    column_auroc,
    decompose,
    raw_outputs,
    solve_logistic,
)
from helpers.probes import REGULARISATIONS, UndefinedTarget, best_entry, check_target

TEST_SHARE, VALIDATION_SHARE = 0.1, 0.2
"""Of all questions, and of those that are left."""
FEWEST_LAYERS = 5
PAPER_PENALTY = 1.0
STRENGTHS = np.array(sorted(REGULARISATIONS))
Measured = dict[str, float | str]
"""Each quantity of one split: its value, or the reason in words why it has none."""


@dataclass(frozen=True)
class Leaks:
    """What a protocol lets slip; all False is the clean protocol."""

    test_layers: bool = False
    """Layers by the test AUROC for a wrong answer, those of the SEP too."""
    pooled_threshold: bool = False
    """γ from the entropies of all questions."""
    unequal_training: bool = False
    """The SEP is fitted again to train and validation, the accuracy probe to train."""
    unequal_test: bool = False
    """Sampled entropy is scored on all questions, the probes on test."""


@dataclass(frozen=True)
class Split:
    """Row numbers of one random split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Labels:
    """Labels of one split, `[n]` of 0 / 1; high is None where all entropies are equal."""

    high: np.ndarray | None
    high_pooled: np.ndarray | None
    wrong: np.ndarray


@dataclass(frozen=True)
class Fits:
    """Probes of one target, fitted to train at every layer with every regularisation."""

    validation: np.ndarray
    """AUROC for the target, `[layers, regularisations]`."""
    test: np.ndarray
    """Log-odds of the test questions, `[layers, n_test, regularisations]`."""


def random_split(n: int, seed: int, number: int) -> Split:
    """Split number `number` of a seed: 72 % train, 18 % validation, 10 % test of n questions."""
    order = np.random.default_rng([seed, number]).permutation(n)
    n_test = max(1, round(TEST_SHARE * n))
    n_validation = round(VALIDATION_SHARE * (n - n_test))
    return Split(
        order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]
    )


def split_labels(entropy: np.ndarray, wrong: np.ndarray, split: Split) -> Labels:
    """Labels from entropies [n] in nats and wrong [n], with γ of train and γ of all questions."""

    def above(threshold: float | None) -> np.ndarray | None:
        return None if threshold is None else (entropy > threshold).astype(float)

    own, pooled = best_split_threshold(entropy[split.train]), best_split_threshold(entropy)
    return Labels(above(own), above(pooled), wrong)


# --- the clean protocol, with leaks ---------------------------------------------------------------


def add_layer(fits: dict[str, list], states: np.ndarray, split: Split, labels: Labels) -> None:
    """Add to fits the probes of every target that is defined, at one layer [n, width].

    A target's list takes the validation AUROC and the test log-odds of each regularisation.
    """
    targets = {name: y for name, y in asdict(labels).items() if not _missing(y, split)}
    if not targets:
        return
    n_strengths, columns = len(STRENGTHS), np.column_stack(list(targets.values()))
    basis = decompose(states[split.train])
    solved = solve_logistic(
        basis.scores,
        np.repeat(columns[split.train], n_strengths, axis=1),
        np.tile(STRENGTHS, len(targets)),
    )
    validation, test = (
        raw_outputs(basis, solved, states[rows]) for rows in (split.validation, split.test)
    )
    truth = np.repeat(columns[split.validation], n_strengths, axis=1)
    score = column_auroc(validation, truth)
    for i, name in enumerate(targets):
        own = slice(i * n_strengths, (i + 1) * n_strengths)
        fits.setdefault(name, []).append((score[own], test[:, own]))


def _missing(target: np.ndarray | None, split: Split) -> str:
    """Why a probe of this target is undefined in this split, if it is."""
    if target is None:
        return "all semantic entropies are equal, so nothing splits high from low"
    try:
        check_target(target[split.train], "logistic", "train")
        check_target(target[split.validation], "logistic", "validation")
    except UndefinedTarget as reason:
        return str(reason)
    return ""


def measure(
    hidden: np.ndarray,
    known: np.ndarray,
    entropy: np.ndarray,
    split: Split,
    labels: Labels,
    fits: Mapping[str, Fits],
    leaks: Leaks,
) -> Measured:
    """Every quantity of one split under a protocol with these leaks."""
    wrong = labels.wrong
    target = "high_pooled" if leaks.pooled_threshold else "high"
    high = labels.high_pooled if leaks.pooled_threshold else labels.high
    sep: np.ndarray | str = _missing(high, split)
    accuracy: np.ndarray | str = _missing(wrong, split)
    if not sep:
        layer, strength = _chosen(fits[target], wrong[split.test], leaks)
        sep = fits[target].test[layer, :, strength]
        if leaks.unequal_training:
            assert high is not None
            more = np.concatenate([split.train, split.validation])
            states = np.asarray(hidden[known, layer])
            sep = _refit(states, high, more, split.test, STRENGTHS[strength])
    if not accuracy:
        layer, strength = _chosen(fits["wrong"], wrong[split.test], leaks)
        accuracy = fits["wrong"].test[layer, :, strength]
    return _quantities(sep, accuracy, entropy, wrong, high, split, leaks.unequal_test)


def _chosen(fits: Fits, wrong: np.ndarray, leaks: Leaks) -> tuple[int, int]:
    """The layer and the index of the regularisation: by validation, or the layer by test."""
    if not leaks.test_layers or len(np.unique(wrong)) < 2:
        return best_entry(fits.validation[None])[1:]
    strengths = [best_entry(row[None, None])[2] for row in fits.validation]
    by_layer = np.column_stack([fits.test[i][:, s] for i, s in enumerate(strengths)])
    layer = int(np.round(column_auroc(by_layer, wrong), 10).argmax())
    return layer, strengths[layer]


def _refit(
    states: np.ndarray, target: np.ndarray, train: np.ndarray, test: np.ndarray, strength: float
) -> np.ndarray:
    basis = decompose(states[train])
    solved = solve_logistic(basis.scores, target[train, None], np.array([strength]))
    return raw_outputs(basis, solved, states[test])[:, 0]


def _quantities(
    sep: np.ndarray | str,
    accuracy: np.ndarray | str,
    entropy: np.ndarray,
    wrong: np.ndarray,
    high: np.ndarray | None,
    split: Split,
    sampling_on_all: bool,
) -> Measured:
    """AUROCs of log-odds on test (or the reason why there are none), and their differences."""
    test = split.test
    sampled = np.arange(len(wrong)) if sampling_on_all else test
    values: Measured = {
        "sep_wrong": _auroc(sep, wrong[test]),
        "accuracy_wrong": _auroc(accuracy, wrong[test]),
        "sampling_wrong": _auroc(entropy[sampled], wrong[sampled]),
        "sep_high": _auroc(sep, wrong[test] if high is None else high[test], "high"),
    }
    for name, other in (("accuracy", "accuracy_wrong"), ("sampling", "sampling_wrong")):
        values[f"sep_minus_{name}"] = difference(values["sep_wrong"], values[other])
    return values


def _auroc(scores: np.ndarray | str, labels: np.ndarray, positive: str = "wrong") -> float | str:
    if isinstance(scores, str):
        return scores
    count = int(labels.sum())
    if count in (0, len(labels)):
        return f"test: only one class ({count} of {len(labels)} {positive})"
    return float(column_auroc(scores[:, None], labels)[0])


def difference(a: float | str, b: float | str) -> float | str:
    """One value less another; the reason why there is none where either is undefined."""
    if isinstance(a, str):
        return a
    return b if isinstance(b, str) else a - b


# --- the paper's protocol -------------------------------------------------------------------------


def _paper_targets(labels: Labels, leaky: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """What the SEP and the accuracy probe are fitted to."""
    return (labels.high_pooled if leaky else labels.high), labels.wrong


def paper_layer(
    scores: np.ndarray, split: Split, labels: Labels, leaky: bool
) -> tuple[float, float]:
    """The AUROC of the SEP and of the accuracy probe at one layer, by which ranges are chosen.

    Leaky: on test, for a wrong answer; else on validation, for the probe's own target; NaN where
    undefined. scores [n, rank] are all questions' features along their principal directions:
    turning the axes leaves the optimum where it is, so that one turn serves every split.
    """
    rows = split.test if leaky else split.validation
    found = []
    for target in _paper_targets(labels, leaky):
        log_odds = _paper_probe(scores, target, split.train, rows)
        truth = labels.wrong if leaky or target is None else target
        value = _auroc(log_odds, truth[rows])
        found.append(np.nan if isinstance(value, str) else value)
    return found[0], found[1]


def _paper_probe(
    scores: np.ndarray, target: np.ndarray | None, train: np.ndarray, test: np.ndarray
) -> np.ndarray | str:
    """Log-odds on test of a regression with penalty ½ |w|², or why there are none.

    The optimum of scikit-learn's LogisticRegression(C=1) on the features as they are.
    """
    if target is None:
        return "all semantic entropies are equal, so nothing splits high from low"
    try:
        check_target(target[train], "logistic", "train")
    except UndefinedTarget as reason:
        return str(reason)
    solved = solve_logistic(scores[train], target[train, None], np.array([PAPER_PENALTY]))
    return (scores[test] @ solved.weights + solved.bias)[:, 0]


def best_range(aurocs: np.ndarray) -> tuple[int, int]:
    """The consecutive layers, five or more, of highest mean AUROC: first and one past the last.

    aurocs [layers]; all layers where there are fewer than five. Of equal means the earliest, then
    the shortest range.
    """
    n = len(aurocs)
    if n <= FEWEST_LAYERS or np.isnan(aurocs).any():
        return 0, n
    ranges = [
        (first, end) for first in range(n) for end in range(first + FEWEST_LAYERS, n + 1)
    ]  # fmt: skip
    return max(ranges, key=lambda r: np.round(aurocs[slice(*r)].mean(), 10))


def paper(
    hidden: np.ndarray,
    known: np.ndarray,
    entropy: np.ndarray,
    splits: Sequence[Split],
    labels: Sequence[Labels],
    single: np.ndarray,
    leaky: bool,
) -> list[Measured]:
    """Every split under the paper's protocol; single [splits, 2, layers] are `paper_layer`'s."""
    log_odds: dict[tuple[int, int], np.ndarray | str] = {}
    chosen = {
        (i, probe): best_range(single[i, probe]) for i in range(len(splits)) for probe in (0, 1)
    }
    for layers in sorted(set(chosen.values())):
        joined = np.asarray(hidden[known, slice(*layers)]).reshape(len(known), -1)
        scores = decompose(joined, centred_only(joined)).scores
        for i, probe in (key for key, own in chosen.items() if own == layers):
            rows = splits[i].train
            if leaky and probe == 0:
                rows = np.concatenate([rows, splits[i].validation])
            target = _paper_targets(labels[i], leaky)[probe]
            log_odds[i, probe] = _paper_probe(scores, target, rows, splits[i].test)
    return [
        _quantities(
            log_odds[i, 0], log_odds[i, 1], entropy, own.wrong, _paper_targets(own, leaky)[0],
            split, sampling_on_all=leaky,
        )
        for i, (split, own) in enumerate(zip(splits, labels, strict=True))
    ]  # fmt: skip
