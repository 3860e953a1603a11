"""A map of hidden states: two UMAP coordinates a row, the same for the same seed.

Neighbours are found exactly, in blocks, and the layout starts from the first principal components
(Kobak and Linderman, Nature Biotechnology 2021), so that nothing in the map depends on how a search
index or an eigensolver happens to go. UMAP: McInnes, Healy and Melville, 2018.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.progress import Progress
from helpers.store import Store, content_key

MAP_VERSION = 1
FITTED_AT_MOST = 20_000
DIMENSIONS = 50
"""Principal components that are kept of wider features."""
FEWEST = 5
"""Distinct rows that UMAP needs to say anything."""
NEIGHBOURS, MIN_DIST, EPOCHS = 15, 0.1, 200
BATCH = 512
INSTALL = "`uv sync`, or pip install 'uncertainty-probes[pipeline]', installs it"


@dataclass(frozen=True, eq=False)
class UmapMap:
    """Coordinates of every row, and how they came about."""

    coordinates: np.ndarray
    """`[n, 2]`, float32, without a unit; NaN for a row that is not finite."""
    note: str
    """In sentences, for who looks at the map."""


@dataclass(frozen=True, eq=False)
class _Reduction:
    """Standardisation and principal components, fitted on the rows of the map."""

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None
    """`[kept, width]`; None: the features are narrow enough."""

    def apply(self, rows: np.ndarray) -> np.ndarray:
        values = np.subtract(rows, self.mean, dtype=np.float32)
        values /= self.scale
        return values if self.components is None else values @ self.components.T


def umap_coordinates(
    features: np.ndarray,
    *,
    seed: int,
    store: Store | None,
    progress: Progress,
    fitted_at_most: int = FITTED_AT_MOST,
) -> UmapMap:
    """A map of `features` [n, width], which may be mapped from disk.

    Features are standardised and, where wider than 50, reduced to their first 50 principal
    components. Of more than `fitted_at_most` rows a random subset is fitted; each of the others is
    placed between its nearest neighbours in it. Stored by content, seed and version of umap-learn.
    Raises `UserError` when umap-learn is not installed.
    """
    parameters: dict[str, Any] = {
        "neighbours": NEIGHBOURS,
        "min_dist": MIN_DIST,
        "epochs": EPOCHS,
        "dimensions": DIMENSIONS,
        "fitted_at_most": fitted_at_most,
        "seed": seed,
        "umap_learn": _installed_version(),
    }
    hashed, finite = _look_through(features)
    key = content_key(stage="umap", version=MAP_VERSION, features=hashed, **parameters)
    known = store.get_arrays(key) if store is not None else None
    rows = np.flatnonzero(finite)
    fitted = rows
    if len(rows) > fitted_at_most:
        chosen = np.random.default_rng(seed).choice(len(rows), fitted_at_most, replace=False)
        fitted = rows[np.sort(chosen)]
    if known is None:
        known = _compute(features, rows, fitted, seed, progress)
        if store is not None:
            store.put_arrays(key, known)
    note = _note(bool(known["is_umap"]), len(features), len(rows), len(fitted), parameters)
    return UmapMap(known["coordinates"], note)


def _compute(
    features: np.ndarray, rows: np.ndarray, fitted: np.ndarray, seed: int, progress: Progress
) -> dict[str, np.ndarray]:
    coordinates = np.full((len(features), 2), np.nan, dtype=np.float32)
    is_umap = False
    if len(fitted):
        umap = _load(progress)
        from threadpoolctl import threadpool_limits

        # The last digits of a product depend on the number of threads, and the layout on those.
        with threadpool_limits(limits=1):  # of the libraries that are loaded by now
            chosen = np.asarray(features[fitted], dtype=np.float32)
            is_umap = _differ(chosen)
            reduction, values = _reduce(chosen, seed)
            if is_umap:
                layout = _layout(umap, values, seed, progress)
            else:
                layout = _principal(values)
            coordinates[fitted] = layout
            for some in _batches(np.setdiff1d(rows, fitted)):
                coordinates[some] = _place(reduction.apply(features[some]), values, layout)
    return {"coordinates": coordinates, "is_umap": np.array([is_umap])}


def _look_through(features: np.ndarray) -> tuple[str, np.ndarray]:
    """The hash of the features, and a mask `[n]` of the rows that are finite."""
    digest = hashlib.sha256(f"{features.dtype} {features.shape}".encode())
    finite = np.zeros(len(features), dtype=bool)
    for some in _batches(np.arange(len(features))):
        block = np.ascontiguousarray(features[some])
        digest.update(block.tobytes())
        finite[some] = np.isfinite(block).all(axis=1)
    return digest.hexdigest(), finite


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _differ(features: np.ndarray) -> bool:
    """Whether at least `FEWEST` rows differ."""
    seen: set[bytes] = set()
    for row in features:
        seen.add(row.tobytes())
        if len(seen) >= FEWEST:
            return True
    return False


def _reduce(features: np.ndarray, seed: int) -> tuple[_Reduction, np.ndarray]:
    """The reduction fitted on `features` [n, width], and what it makes of them."""
    blocks = [features[:, i : i + BATCH] for i in range(0, features.shape[1], BATCH)]
    mean = np.concatenate([block.mean(axis=0, dtype=np.float64) for block in blocks])
    scale = np.concatenate([block.std(axis=0, dtype=np.float64) for block in blocks])
    scale[scale <= 1e-6 * np.abs(mean)] = np.inf  # constant but for rounding
    reduction = _Reduction(mean.astype(np.float32), scale.astype(np.float32), None)
    values = reduction.apply(features)
    if features.shape[1] <= DIMENSIONS:
        return reduction, values
    from sklearn.utils.extmath import randomized_svd

    kept = min(DIMENSIONS, len(values))
    components = randomized_svd(values, kept, n_iter=7, random_state=seed % 2**32)[2]
    components = components.astype(np.float32)
    return replace(reduction, components=components), values @ components.T


def _load(progress: Progress) -> Any:
    """The class UMAP, compiled: the first call of a process waits for it."""
    with progress("UMAP: loading and compiling it, up to half a minute", 1, "step") as stage:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
                from umap import UMAP
        except (ImportError, AttributeError) as error:
            raise UserError(f"umap-learn cannot be loaded ({error}); {INSTALL}") from error
        _fit(UMAP, np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32), 0)
        stage.advance(1)
    return UMAP


def _layout(umap: Any, values: np.ndarray, seed: int, progress: Progress) -> np.ndarray:
    with progress("UMAP: hidden states in two dimensions", len(values), "runs") as stage:
        layout = _fit(umap, values, seed)
        stage.advance(len(values))
    return layout


def _fit(umap: Any, values: np.ndarray, seed: int) -> np.ndarray:
    count = min(NEIGHBOURS, len(values) - 1)
    indices, distances = nearest(values, values, count)
    with warnings.catch_warnings():
        for text in (
            "n_jobs value .* overridden to 1 by setting random_state",  # as is meant
            r"precomputed_knn\[2\] .* is not an NNDescent object",  # needed to transform only
        ):
            warnings.filterwarnings("ignore", text, UserWarning)
        return umap(
            n_neighbors=count,
            min_dist=MIN_DIST,
            n_epochs=EPOCHS,
            init=_principal(values),
            random_state=seed % 2**32,
            n_jobs=1,
            precomputed_knn=(indices, distances, None),
        ).fit_transform(values)


def nearest(points: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest of `among` for each point, itself included: indices and distances."""
    indices = np.empty((len(points), count), dtype=np.int32)
    distances = np.empty((len(points), count), dtype=np.float32)
    squares = np.square(among).sum(axis=1)
    for some in _batches(np.arange(len(points))):
        rough = squares - 2 * points[some] @ among.T  # the point's own square changes no order
        near = np.argpartition(rough, count - 1, axis=1)[:, :count]
        if points is among:  # of many twins, the point itself must be in and come first
            left_out = ~(near == some[:, None]).any(axis=1)
            near[left_out, -1] = some[left_out]
        exact = np.linalg.norm(among[near] - points[some][:, None], axis=2)
        if points is among:
            exact[near == some[:, None]] = -1
        order = np.argsort(exact, axis=1, kind="stable")
        indices[some] = np.take_along_axis(near, order, axis=1)
        distances[some] = np.maximum(np.take_along_axis(exact, order, axis=1), 0)
    return indices, distances


def _place(points: np.ndarray, fitted: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """Each point at the mean of its nearest fitted rows, weighted by inverse distance."""
    indices, distances = nearest(points, fitted, min(NEIGHBOURS, len(fitted)))
    weights = 1 / np.maximum(distances, 1e-6)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkd->nd", weights, layout[indices])


def _principal(values: np.ndarray) -> np.ndarray:
    """The first two principal components; zeros where there is no variation."""
    centred = values - values.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    layout = np.zeros((len(values), 2), dtype=np.float32)
    kept = min(2, len(size))
    layout[:, :kept] = (left * size)[:, :kept]
    return layout


def _note(is_umap: bool, n: int, finite: int, fitted: int, used: dict[str, Any]) -> str:
    if not finite:
        return "There is no map: no run has hidden states that are finite."
    parts = [
        f"UMAP (umap-learn {used['umap_learn']}, {NEIGHBOURS} neighbours, min_dist {MIN_DIST}, "
        f"{EPOCHS} epochs from the first principal components, seed {used['seed']}) of "
        f"standardised states reduced to at most {DIMENSIONS} principal components."
        if is_umap
        else f"Fewer than {FEWEST} runs differ in their hidden states, so the map shows their "
        "first two principal components and not UMAP."
    ]
    if fitted < finite:
        parts.append(
            f"It was fitted on {fitted:,} runs chosen at random; each of the other "
            f"{finite - fitted:,} stands at the mean of its {NEIGHBOURS} nearest, weighted by "
            "inverse distance."
        )
    if finite < n:
        parts.append(f"{n - finite:,} runs are not shown: their hidden states are not finite.")
    return " ".join(parts)


def _installed_version() -> str:
    """The version of umap-learn, without importing it, which takes seconds."""
    try:
        return metadata.version("umap-learn")
    except metadata.PackageNotFoundError as error:
        raise UserError(f"the map of hidden states needs umap-learn; {INSTALL}") from error
