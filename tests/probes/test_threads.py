"""One BLAS thread for small matrices: while they are worked on, and only then."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from helpers.probes import solvers
from helpers.probes.probe import sweep
from helpers.probes.solvers import SMALL, one_thread_if_small


def threads() -> set[int]:
    pools = ThreadpoolController().select(user_api="blas").info()
    assert pools  # numpy's, or there would be nothing to see
    return {pool["num_threads"] for pool in pools}


@pytest.fixture(autouse=True)
def _two_threads():
    solvers._blas.cache_clear()  # other tests may have loaded more libraries since
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


@pytest.mark.parametrize(
    ("rows", "width", "expected"),
    [(360, 160, 1), (360, 10_000, 1), (10_000, SMALL, 1), (SMALL + 1, SMALL + 1, 2)],
)
def test_the_smaller_side_decides(rows, width, expected):
    with one_thread_if_small(rows, width):
        assert threads() == {expected}
    assert threads() == {2}


def test_a_sweep_of_small_states_takes_one_thread_and_gives_the_others_back():
    rng = np.random.default_rng(0)
    hidden, train = {"last": rng.normal(size=(60, 2, 8))}, np.arange(60) < 40
    seen: list[set[int]] = []
    found = sweep(
        hidden, rng.normal(size=60), kind="ridge", train=train, validation=~train,
        progress=lambda done, total: seen.append(threads()),
    )  # fmt: skip
    assert found.validation_score.shape == (1, 2, 8)
    assert seen == [{1}, {1}]
    assert threads() == {2}


def test_a_fit_that_fails_gives_them_back():
    with pytest.raises(ZeroDivisionError), one_thread_if_small(3, 3):
        assert 1 / 0
    assert threads() == {2}


def test_the_small_install_leaves_them_as_they_are(monkeypatch):
    monkeypatch.setattr(solvers, "find_spec", lambda name: None)
    solvers._blas.cache_clear()
    try:
        with one_thread_if_small(3, 3):
            assert threads() == {2}
    finally:
        solvers._blas.cache_clear()
