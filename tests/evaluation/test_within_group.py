"""Scores within a question: against pairs counted one by one, and what they must not see."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.evaluation.scores import within_group_auroc

ROW = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 4))


@given(st.lists(ROW, min_size=1, max_size=30))
def test_it_is_the_share_of_pairs_within_groups(rows: list[tuple[int, int, int]]) -> None:
    pairs = [
        1.0 if a[2] > b[2] else 0.5 if a[2] == b[2] else 0.0
        for a in rows
        for b in rows
        if a[0] == b[0] and a[1] == 1 and b[1] == 0
    ]
    groups, labels, scores = zip(*rows, strict=True)
    found = within_group_auroc(scores, labels, groups, n_boot=100, n_perm=100)
    if not pairs:
        assert found.value is None
        assert "holds both labels" in found.undefined
        return
    assert found.value is not None
    assert abs(found.value - np.mean(pairs)) < 1e-12
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.high <= 1


def test_what_orders_questions_alone_scores_one_half() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 8)
    easy = rng.random(100)
    labels = (rng.random(800) < easy[group]).astype(int)
    found = within_group_auroc(easy[group], labels, group)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.p_value == 1.0
    noise = within_group_auroc(easy[group] + rng.normal(size=800), labels, group)
    assert noise.low is not None and noise.high is not None  # noqa: PT018
    assert noise.low < 0.5 < noise.high
    assert noise.p_value is not None
    assert noise.p_value > 0.01
    signal = within_group_auroc(labels + rng.normal(size=800), labels, group)
    assert signal.low is not None
    assert signal.low > 0.65
    assert signal.p_value == 1 / 2001


def test_p_values_are_even_where_labels_mean_nothing() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(20), 5)
    found = [
        within_group_auroc(
            rng.normal(size=100), rng.integers(0, 2, 100), group, n_boot=100, n_perm=200, seed=i
        ).p_value
        for i in range(200)
    ]
    assert 0.01 < np.mean(np.array(found) <= 0.1) < 0.2
