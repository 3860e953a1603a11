"""A map of hidden states: two UMAP coordinates a row, the same for the same seed.

UMAP: McInnes, Healy and Melville, 2018; it starts from the first principal components (Kobak and
Linderman, Nature Biotechnology 2021).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.progress import Progress
from helpers.store.cache import Store, content_key

MAP_VERSION = 2
FITTED_AT_MOST = 20_000
DIMENSIONS = 50
"""Principal components that are kept of wider features."""
FEWEST = 5
"""Distinct rows that UMAP needs to say anything."""
NEIGHBOURS, MIN_DIST, EPOCHS = 15, 0.1, 200
UMAP_SETTINGS: dict[str, Any] = {
    "n_neighbors": NEIGHBOURS, "min_dist": MIN_DIST, "n_epochs": EPOCHS, "init": "pca",
}  # fmt: skip
BATCH = 512


@dataclass(frozen=True, eq=False)
class UmapMap:
    """Coordinates of every row, and how they came about."""

    coordinates: np.ndarray
    """`[n, 2]`, float32, without a unit; NaN for a row that is not finite."""
    note: str
    """In sentences, for who looks at the map."""


def umap_coordinates(
    features: np.ndarray,
    *,
    seed: int,
    store: Store | None,
    progress: Progress,
    fitted_at_most: int = FITTED_AT_MOST,
) -> UmapMap:
    """A map of `features` [n, width], which may be mapped from disk.

    Features are standardised and reduced to at most 50 principal components. Of more than
    `fitted_at_most` rows a random subset is fitted; the others are placed at the mean of
    their nearest neighbours in it, weighted by inverse distance. Stored by content, seed and
    version of umap-learn. Raises `UserError` when umap-learn is not installed.
    """
    try:
        version = metadata.version("umap-learn")  # importing it would take seconds
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "the map of hidden states needs umap-learn; `uv sync`, or pip install "
            "'uncertainty-probes[pipeline]', installs it"
        ) from error
    hashed, finite = _look_through(features)
    settings: dict[str, Any] = {"dimensions": DIMENSIONS, "seed": seed, **UMAP_SETTINGS}
    key = content_key(
        stage="umap", version=MAP_VERSION, features=hashed, umap_learn=version,
        fitted_at_most=fitted_at_most, **settings,
    )  # fmt: skip
    rows = np.flatnonzero(finite)
    fitted = np.sort(np.random.default_rng(seed).permutation(rows)[:fitted_at_most])
    known = store.get_arrays(key) if store is not None else None
    if known is None:
        known = {"coordinates": np.full((len(features), 2), np.nan, dtype=np.float32)}
        if len({features[row].tobytes() for row in fitted}) >= FEWEST:
            others = np.setdiff1d(rows, fitted)
            fit, placed = _layout(features, fitted, others, seed, progress)
            known["coordinates"][fitted], known["coordinates"][others] = fit, placed
        if store is not None:
            store.put_arrays(key, known)
    coordinates = known["coordinates"]
    if np.isnan(coordinates).all():
        return UmapMap(coordinates, f"There is no map: fewer than {FEWEST} runs differ.")
    note = (
        f"UMAP (umap-learn {version}, {NEIGHBOURS} neighbours, min_dist {MIN_DIST}, {EPOCHS} "
        f"epochs from the first principal components, seed {seed}) of standardised states reduced "
        f"to at most {DIMENSIONS} principal components."
    )
    if left := len(rows) - len(fitted):
        note += f" Fitted on {len(fitted):,} runs chosen at random; the other {left:,} were placed."
    if left := len(features) - len(rows):
        note += f" {left:,} runs are not shown: their hidden states are not finite."
    return UmapMap(coordinates, note)


def _look_through(features: np.ndarray) -> tuple[str, np.ndarray]:
    """The hash of the features, and a mask `[n]` of the rows that are finite."""
    digest = hashlib.sha256(f"{features.dtype} {features.shape}".encode())
    finite = np.zeros(len(features), dtype=bool)
    for start in range(0, len(features), BATCH):
        block = np.ascontiguousarray(features[start : start + BATCH])
        digest.update(block.tobytes())
        finite[start : start + BATCH] = np.isfinite(block).all(axis=1)
    return digest.hexdigest(), finite


def _layout(
    features: np.ndarray, fitted: np.ndarray, others: np.ndarray, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the rows that UMAP is fitted to, and of those that it places afterwards."""
    title = "UMAP: hidden states in two dimensions"
    with progress(title, len(fitted) + len(others), "runs") as stage, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Tensorflow not installed|n_jobs value|precomputed_knn\[2\]"
        )
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits
        from umap import UMAP

        # The last digits of a product depend on the number of threads, and the layout on those.
        with threadpool_limits(limits=1):  # of the libraries that are loaded by now
            state = seed % 2**32
            chosen = np.asarray(features[fitted], dtype=np.float32)
            kept = min(DIMENSIONS, *chosen.shape)
            reduce = make_pipeline(StandardScaler(), PCA(kept, random_state=state))
            values = reduce.fit_transform(chosen)
            count = min(NEIGHBOURS, len(fitted) - 1)
            distances, near = NearestNeighbors(n_neighbors=count).fit(values).kneighbors(values)
            settings = UMAP_SETTINGS | {"n_neighbors": count, "random_state": state, "n_jobs": 1}
            layout = UMAP(**settings, precomputed_knn=(near, distances, None)).fit_transform(values)
            stage.advance(len(fitted))
            # UMAP's own transform compiles for minutes, and would need its approximate search.
            place = KNeighborsRegressor(count, weights="distance").fit(values, layout).predict
            blocks = [others[start : start + BATCH] for start in range(0, len(others), BATCH)]
            placed = [place(reduce.transform(features[b].astype(np.float32))) for b in blocks]
            stage.advance(len(others))
    return layout, np.concatenate([np.zeros((0, 2)), *placed])
