"""The map of hidden states: the same for the same seed, and honest where there is none."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from helpers.analysis_table import file
from helpers.analysis_table.file import UmapMap, umap_coordinates
from helpers.errors import UserError
from helpers.progress import silent_progress
from helpers.store.cache import Store


def groups(n: int = 150, width: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] around three centres, and the centre of each row."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 3, n)
    centres = 4 * rng.normal(size=(3, width))
    return (centres[owner] + rng.normal(size=(n, width))).astype(np.float32), owner


def make(features: np.ndarray, store: Store | None = None, **options: int) -> UmapMap:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return umap_coordinates(
            features, store=store, progress=silent_progress(), **{"seed": 3, **options}
        )


def agreement(coordinates: np.ndarray, owner: np.ndarray) -> float:
    """The share of five nearest neighbours on the map that have the point's own centre."""
    distances = np.linalg.norm(coordinates[:, None] - coordinates, axis=2)
    near = distances.argsort(axis=1)[:, 1:6]
    return float((owner[near] == owner[:, None]).mean())


def test_a_seed_gives_one_map_that_keeps_neighbours_together(store: Store) -> None:
    features, owner = groups()
    np.random.seed(1)
    with threadpool_limits(limits=1):
        first = make(features)
    np.random.seed(2)
    again = make(features, store)
    assert first.coordinates.shape == (150, 2)
    assert first.coordinates.dtype == np.float32
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    assert not np.array_equal(first.coordinates, make(features, seed=4).coordinates)
    assert agreement(first.coordinates, owner) > 0.95
    assert metadata.version("umap-learn") in first.note
    assert "50 principal components" in first.note


def test_rows_beyond_the_fitted_ones_stand_with_their_neighbours() -> None:
    features, owner = groups(200, 8)
    features[7] = features[3]
    features[11, 2], features[12, 0] = np.inf, np.nan
    found = make(features, fitted_at_most=120)
    finite = np.isfinite(found.coordinates).all(axis=1)
    assert np.flatnonzero(~finite).tolist() == [11, 12]
    assert agreement(found.coordinates[finite], owner[finite]) > 0.95
    assert "on 120 runs chosen at random; the other 78" in found.note
    assert "2 runs are not shown" in found.note


def test_many_equal_rows_are_no_obstacle() -> None:
    found = make(np.repeat(groups(6, 8)[0], 30, axis=0))
    assert np.isfinite(found.coordinates).all()


def test_a_stored_map_costs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = []

    def layout(features: np.ndarray, fitted: np.ndarray, *_: object) -> tuple[Any, Any]:
        layouts.append(len(fitted))
        return np.full((len(fitted), 2), 1.0), np.full((len(features) - len(fitted), 2), 2.0)

    monkeypatch.setattr(file, "_layout", layout)
    features = groups(9)[0]
    stored = make(features, store)
    again = make(features.copy(), store)
    assert again.note == stored.note
    np.testing.assert_array_equal(again.coordinates, stored.coordinates)
    assert layouts == [9]
    make(features, store, seed=9)
    make(features + 1, store)
    make(features, store, fitted_at_most=6)
    assert layouts == [9, 9, 9, 6]


@pytest.mark.parametrize(
    "features",
    [np.zeros((0, 6)), np.full((9, 6), np.nan), np.ones((20, 6)), np.repeat(np.eye(4), 9, axis=0)],
)
def test_too_few_different_rows_make_no_map(features: np.ndarray) -> None:
    found = make(features.astype(np.float32))
    assert found.coordinates.shape == (len(features), 2)
    assert np.isnan(found.coordinates).all()
    assert found.note == "There is no map: fewer than 5 runs differ."


def test_without_umap_learn_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(file.metadata, "version", version)
    with pytest.raises(UserError, match=r"needs umap-learn; `uv sync`"):
        make(groups(9)[0])
