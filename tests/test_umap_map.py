"""The map of hidden states: the same for the same seed, and honest where there is none."""

from __future__ import annotations

import warnings
from importlib import metadata

import numpy as np
import pytest

from helpers import umap_map
from helpers.errors import UserError
from helpers.progress import StageProgress, progress_through, silent_progress
from helpers.store import Store
from helpers.umap_map import UmapMap, nearest, umap_coordinates


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


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with this fixture fails when something is fitted."""

    def load(progress: object) -> object:
        raise AssertionError("UMAP was loaded")

    monkeypatch.setattr(umap_map, "_load", load)


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """UMAP is not loaded: for what needs none."""
    monkeypatch.setattr(umap_map, "_load", lambda progress: None)


def test_a_seed_gives_one_map_that_keeps_neighbours_together(store: Store) -> None:
    features, owner = groups()
    np.random.seed(1)
    first = make(features)
    np.random.seed(2)
    again = make(features, store)
    assert first.coordinates.shape == (150, 2)
    assert first.coordinates.dtype == np.float32
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    assert not np.array_equal(first.coordinates, make(features, seed=4).coordinates)
    near = nearest(first.coordinates, first.coordinates, 6)[0][:, 1:]
    assert (owner[near] == owner[:, None]).mean() > 0.95
    assert metadata.version("umap-learn") in first.note
    assert "50 principal components" in first.note


def test_rows_beyond_the_fitted_ones_stand_with_their_neighbours() -> None:
    features, owner = groups(200, 8)
    features[7] = features[3]
    found = make(features, fitted_at_most=120)
    assert np.isfinite(found.coordinates).all()
    near = nearest(found.coordinates, found.coordinates, 6)[0][:, 1:]
    assert (owner[near] == owner[:, None]).mean() > 0.95
    assert "fitted on 120 runs" in found.note
    assert "each of the other 80" in found.note


def test_many_equal_rows_are_no_obstacle() -> None:
    features = np.repeat(groups(6, 8)[0], 30, axis=0)
    found = make(features).coordinates.reshape(6, 30, 2)
    assert np.isfinite(found).all()


def test_a_stored_map_costs_nothing(store: Store, no_umap: None) -> None:
    features = groups(4)[0]
    stored = make(features, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(umap_map, "_compute", lambda *args: pytest.fail("it was computed again"))
        assert make(features.copy(), store).note == stored.note
        np.testing.assert_array_equal(make(features, store).coordinates, stored.coordinates)
        for changed in (
            lambda: make(features, store, seed=9),
            lambda: make(features + 1, store),
            lambda: make(features, store, fitted_at_most=3),
        ):
            with pytest.raises(pytest.fail.Exception):
                changed()


@pytest.mark.parametrize(
    ("features", "places"),
    [
        (np.ones((20, 6), np.float32), 1),
        (np.full((3, 6), 0.1, np.float32), 1),
        (np.arange(4, dtype=np.float32)[:, None], 4),
        (groups(4, 200)[0], 4),
        (groups(1, 200)[0], 1),
        (np.repeat(groups(3, 70)[0], 9, axis=0), 3),
    ],
)
def test_too_few_different_rows_are_shown_by_components_and_said(
    features: np.ndarray, places: int, no_umap: None
) -> None:
    found = make(features)
    assert found.coordinates.shape == (len(features), 2)
    assert len(np.unique(found.coordinates.round(3), axis=0)) == places
    assert places > 1 or not found.coordinates.any()
    assert "principal components and not UMAP" in found.note


def test_no_rows_make_no_map(no_fit: None) -> None:
    for features in (np.zeros((0, 6), np.float32), np.full((9, 6), np.nan, np.float32)):
        found = make(features)
        assert np.isnan(found.coordinates).all()
        assert "There is no map" in found.note


def test_rows_that_are_not_finite_are_left_out_and_counted(no_umap: None) -> None:
    features = groups(6)[0]
    features[1, 3], features[4, 0] = np.inf, np.nan
    found = make(features)
    assert np.isnan(found.coordinates).all(axis=1).tolist() == [i in (1, 4) for i in range(6)]
    assert "2 runs are not shown" in found.note


def test_neighbours_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    points, among = rng.normal(size=(700, 5)), rng.normal(size=(600, 5))
    distances = np.linalg.norm(points[:, None] - among, axis=2)
    indices, found = nearest(points, among, 7)
    np.testing.assert_array_equal(indices, distances.argsort(axis=1)[:, :7])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :7], rtol=1e-6)


def test_the_nearest_of_a_point_is_itself_however_many_twins_it_has() -> None:
    points = np.repeat(np.random.default_rng(0).normal(size=(3, 5)), 40, axis=0) + 100
    indices, distances = nearest(points, points, 4)
    assert indices[:, 0].tolist() == list(range(120))
    assert (distances == 0).all()


def test_what_takes_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def show(stage: StageProgress) -> None:
        lines.append(stage.line())

    umap_coordinates(groups(20, 4)[0], seed=0, store=None, progress=progress_through(show))
    assert lines[0].startswith("UMAP: loading and compiling it")
    assert any(line.startswith("UMAP: hidden states in two dimensions") for line in lines)


def test_without_umap_learn_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(umap_map.metadata, "version", version)
    with pytest.raises(UserError, match=r"needs umap-learn; `uv sync`"):
        make(groups(9)[0])
