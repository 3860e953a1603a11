"""Refits of a probe: on fewer training questions, and for other thresholds of the entropy."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.evaluation.metrics import auroc, spearman
from helpers.evaluation.scores import best_split_threshold
from helpers.probes.probe import fit_probe, margin, sweep
from helpers.studies.semantic_entropy.analyses.curves import (
    best_of_grid,
    label_efficiency,
    refit_margins,
    spaced_sizes,
    threshold_sensitivity,
    thresholds,
)

N, WIDTH = 180, 12
TRAIN, VALIDATION, TEST = (np.arange(N) % 6 < 3, np.arange(N) % 6 == 3, np.arange(N) % 6 > 3)
MASKS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
QUICK = {"n_boot": 100, "n_perm": 99}


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] and an entropy [n] of few values that stands in one direction of them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(N, WIDTH))
    signal = features[:, 2] + 0.5 * features[:, 5] + 0.7 * rng.normal(size=N)
    return features, np.clip(np.round(1 + 0.6 * signal, 1), 0, 2.3)


def naive_margins(features: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Test log-odds of the probe that `sweep` and `fit_probe` give for some training rows."""
    hidden = {"tbg": features[:, None, :]}
    chosen = sweep(hidden, target, kind="logistic", train=rows, validation=VALIDATION)
    probe = fit_probe(
        hidden, target, kind="logistic", position="tbg", layer=0, rows=rows, name="naive",
        regularisation=chosen.best_regularisation,
    )  # fmt: skip
    return margin(probe, features[TEST])


def test_refits_of_several_targets_are_those_of_each_alone():
    features, entropy = planted()
    high = entropy[:, None] > np.array([0.5, 1.0, 1.6])
    found = refit_margins(
        features[TRAIN], high[TRAIN], features[VALIDATION], high[VALIDATION], features[TEST]
    )
    for column in range(3):
        naive = naive_margins(features, high[:, column] * 1.0, TRAIN)
        np.testing.assert_allclose(found[:, column], naive, rtol=1e-4, atol=1e-5)


def test_each_size_is_the_mean_of_probes_on_nested_random_subsets():
    features, entropy = planted()
    target = (entropy > 1) * 1.0
    found = label_efficiency(
        features, target, **MASKS, sizes=(20, 60, 90), n_seeds=3, seed=5, **QUICK
    )
    rows = np.flatnonzero(TRAIN)
    orders = [np.random.default_rng([5, s]).permutation(rows) for s in range(3)]
    for point, size in zip(found.points, (20, 60), strict=False):
        areas = []
        for order in orders:
            chosen = np.isin(np.arange(N), order[:size])
            areas.append(auroc(naive_margins(features, target, chosen), target[TEST]).value())
        assert point.auroc == pytest.approx(np.mean(areas), abs=1e-3)
        assert (point.lowest, point.highest) == pytest.approx((min(areas), max(areas)), abs=1e-3)
        assert point.subsets == 3
    assert found.points[-1].subsets == 1
    assert found.points[-1].auroc == pytest.approx(found.full.value)
    assert found.full.low < found.full.value < found.full.high
    assert found.points[0].auroc < found.full.value


def test_test_labels_choose_nothing():
    features, entropy = planted()
    target = (entropy > 1) * 1.0
    turned = np.where(TEST, 1 - target, target)
    options = {"sizes": (30, 90), "n_seeds": 2, **QUICK}
    one, other = (label_efficiency(features, t, **MASKS, **options) for t in (target, turned))
    for a, b in zip(one.points, other.points, strict=True):
        assert a.auroc == pytest.approx(1 - b.auroc)


def test_subsets_of_one_class_are_left_out_and_said():
    features, _ = planted()
    target = np.zeros(N)
    target[[0, 1, 3, 4, 5]] = 1  # two of the 90 training questions
    found = label_efficiency(features, target, **MASKS, sizes=(1, 45, 90), n_seeds=6, **QUICK)
    assert found.points[0].auroc is None
    assert found.points[0].undefined == (
        "all 6 random subsets of 1 training questions have only one class"
    )
    assert 0 < found.points[1].subsets < 6
    assert found.points[1].note.endswith("of 6 subsets have only one class, left out")
    target[:] = 0
    nothing = label_efficiency(features, target, **MASKS, name="high", **QUICK)
    assert nothing.undefined.startswith("high, train: only one class (0 of 90")
    assert (nothing.points, nothing.full) == ((), None)


def test_sizes_are_spaced_in_their_logarithm():
    sizes = spaced_sizes(240)
    assert (sizes[0], sizes[-1], len(sizes)) == (16, 240, 10)
    assert np.ptp(np.diff(np.log(sizes))) < 0.1
    assert spaced_sizes(12) == (12,)
    features, entropy = planted()
    with pytest.raises(ValueError, match="sizes: 91, expected 1 to 90"):
        label_efficiency(features, (entropy > 1) * 1.0, **MASKS, sizes=(91,))


# --------------------------------------------------------------------------- the threshold γ


def test_each_threshold_has_a_probe_of_its_own_labels():
    features, entropy = planted()
    chosen = best_split_threshold(entropy[TRAIN])
    found = threshold_sensitivity(features, entropy, chosen, **MASKS, ridge=features[:, 2], **QUICK)
    assert len(found.points) >= 6
    for point in found.points:
        high = (entropy > point.threshold.value) * 1.0
        naive = auroc(naive_margins(features, high, TRAIN), high[TEST]).value()
        assert point.auroc.value == pytest.approx(naive, abs=1e-3)
        assert (point.high_train, point.high_test) == (high[TRAIN].mean(), high[TEST].mean())
        assert point.auroc.low is not None
    (own,) = [p for p in found.points if "chosen" in p.threshold.names]
    assert own.threshold.value == chosen
    reference = spearman(features[TEST, 2], entropy[TEST]).value()
    assert found.ridge_spearman.value == pytest.approx(reference)


def test_thresholds_part_the_training_questions_in_different_ways():
    _, entropy = planted()
    grid = thresholds(entropy, 1.05)
    splits = [tuple(entropy > threshold.value) for threshold in grid]
    assert len(set(splits)) == len(splits)
    assert all(0 < sum(split) < len(split) for split in splits)
    names = [name for threshold in grid for name in threshold.names]
    assert {"chosen", "best of 100 points", "median"} <= set(names)
    assert len(names) == len(set(names))
    assert [t.value for t in grid] == sorted(t.value for t in grid)
    assert thresholds(np.ones(5), None) == ()
    far = thresholds(np.array([0.0, 0.0, 0.0, 1.0]), 5.0)  # above everything: it parts nothing
    assert [("chosen" in threshold.names) for threshold in far] == [False]


def test_the_best_of_a_grid_is_where_the_authors_rule_finds_it():
    values = np.array([0.0, 0.0, 0.1, 0.2, 1.8, 2.0, 2.3])
    grid = np.linspace(1e-10, 2.3, 100)

    def spread(g: float) -> float:
        return sum(p.var() * len(p) for p in (values[values < g], values[values >= g]) if len(p))

    best = grid[np.argmin([spread(g) for g in grid])]
    assert best_of_grid(values) == pytest.approx(best)
    # Only the last point of this grid, the largest value itself, parts them: it counts as high.
    values = np.array([0.995, 1.0])
    assert (values > best_of_grid(values)).tolist() == [False, True]


def test_a_threshold_that_leaves_one_class_says_where():
    features, entropy = planted()
    lopsided = entropy.copy()
    lopsided[VALIDATION] = np.minimum(lopsided[VALIDATION], 1.5)
    found = threshold_sensitivity(features, lopsided, None, **MASKS, **QUICK)
    undefined = [point.auroc.undefined for point in found.points if point.auroc.value is None]
    assert undefined
    assert set(undefined) == {"validation: only one class (0 of 30 high)"}
    assert any(point.auroc.value is not None for point in found.points)
    lopsided[TEST] = 0.0
    scores = [
        p.auroc for p in threshold_sensitivity(features, lopsided, None, **MASKS, **QUICK).points
    ]
    assert "test: only one class (0 of 60 high)" in {score.undefined for score in scores}
    flat = threshold_sensitivity(features, np.ones(N), None, **MASKS, **QUICK)
    assert flat.undefined == "every training question has the same semantic entropy"
