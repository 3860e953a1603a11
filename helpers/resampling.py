"""Bootstrap resamples and permutations of rows, many at once, by single rows or whole groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

REMEMBERED_CELLS = 2_000_000  # draws up to this size (12 MB) are kept for the next metric
MATRIX_CELLS = 8_000  # draws come in matrices of at most this size (64 KB), which a core keeps near


def resamples(
    n: int, n_boot: int, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Bootstrap weights in matrices [b, n] whose b add up to n_boot: how often each row is drawn.

    With groups, whole groups are drawn and their rows share a weight. The same arguments give the
    same resamples, which is what makes differences paired.
    """
    group_of_row = _group_index(groups, n)
    units = n if group_of_row is None else int(group_of_row.max(initial=-1)) + 1
    for counts in _drawn(_draw_counts, n, n_boot, seed, units):
        weights = counts.astype(np.float64)
        yield weights if group_of_row is None else weights[:, group_of_row]


def _draw_counts(n: int, n_boot: int, seed: int, units: int) -> Iterator[np.ndarray]:
    """How often each of the units is drawn, in matrices [b, units] of whole numbers."""
    rng = np.random.default_rng(seed)
    for count in _chunks(n_boot, n):
        drawn = rng.integers(0, units, (count, units)) + units * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units)
        yield counts.astype(np.uint16)


def permutations(
    n: int, n_perm: int, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Row indices in matrices [p, n] whose p add up to n_perm: each row's label comes from there.

    With groups, yields nothing when no two groups hold equally many rows.
    """
    group_of_row = _group_index(groups, n)
    key = None if group_of_row is None else group_of_row.astype(np.int32).tobytes()
    yield from _drawn(_draw_permutations, n, n_perm, seed, key)


def _draw_permutations(n: int, n_perm: int, seed: int, key: bytes | None) -> Iterator[np.ndarray]:
    """Row indices in matrices [p, n]; the key holds each row's group, if there are groups."""
    rng = np.random.default_rng(seed)
    if key is None:
        blocks = [np.arange(n)[:, None]]
    else:
        group_of_row = np.frombuffer(key, dtype=np.int32)
        rows, sizes = np.argsort(group_of_row, kind="stable"), np.bincount(group_of_row)
        members = np.split(rows, np.cumsum(sizes)[:-1])
        blocks = [
            np.array([rows for rows in members if len(rows) == size]) for size in np.unique(sizes)
        ]
    blocks = [block for block in blocks if len(block) > 1]  # [groups of one size, that size]
    if not blocks:
        return
    for count in _chunks(n_perm, n):
        indices = np.tile(np.arange(n), (count, 1))
        for block in blocks:
            order = rng.permuted(np.tile(np.arange(len(block)), (count, 1)), axis=1)
            indices[:, block.ravel()] = block[order].reshape(count, -1)
        yield indices.astype(np.int32)


def _drawn(
    draw: Callable[..., Iterator[np.ndarray]], n: int, draws: int, seed: int, of: int | bytes | None
) -> Iterable[np.ndarray]:
    """What `draw` draws; small draws are remembered, as every metric of a table asks for them."""
    if n * draws > REMEMBERED_CELLS:
        return draw(n, draws, seed, of)
    return _remembered(draw, n, draws, seed, of)


@lru_cache(maxsize=4)
def _remembered(
    draw: Callable[..., Iterator[np.ndarray]], n: int, draws: int, seed: int, of: int | bytes | None
) -> tuple[np.ndarray, ...]:
    matrices = tuple(draw(n, draws, seed, of))
    for matrix in matrices:
        matrix.setflags(write=False)
    return matrices


def _group_index(groups: Sequence[object] | np.ndarray | None, n: int) -> np.ndarray | None:
    """Each row's group as 0 .. G-1, or None without groups."""
    if groups is None:
        return None
    if len(groups) != n:
        raise ValueError(f"groups: {len(groups)} for {n} rows")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _chunks(total: int, n: int) -> Iterator[int]:
    """Parts of `total` such that a part × n matrix stays within MATRIX_CELLS."""
    size = max(1, MATRIX_CELLS // max(n, 1))
    for start in range(0, total, size):
        yield min(size, total - start)
