"""Bootstrap resamples and permutations of rows, many at once, by single rows or whole groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

REMEMBERED_CELLS = 2_000_000  # draws up to this size (12 MB) are kept for the next metric
MATRIX_CELLS = 8_000  # draws come in matrices of at most this size (64 KB), which a core keeps near
GROUP_MATRIX_CELLS = 32_000  # as large where groups are drawn: their metrics make fewer passes


def resamples(
    n: int, n_boot: int, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Bootstrap weights in matrices [b, n] whose b add up to n_boot: how often each row is drawn.

    With groups, whole groups are drawn and their rows share a weight. The same arguments give the
    same resamples, which is what makes differences paired.
    """
    group_of_row = group_index(groups, n)
    if group_of_row is None:
        yield from unit_resamples(n, n, n_boot, seed)
        return
    for counts in unit_resamples(n, group_count(group_of_row), n_boot, seed):
        yield counts[:, group_of_row]


def unit_resamples(n: int, units: int, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of the units (rows, or the groups that n rows fall in) is drawn, [b, units].

    The same draws as those of `resamples`, for what can be computed from groups alone.
    """
    at_once = _at_once(n, MATRIX_CELLS if units == n else GROUP_MATRIX_CELLS)
    for counts in _drawn(_draw_counts, units, at_once, n_boot, seed):
        yield counts.astype(np.float64)


def _draw_counts(units: int, at_once: int, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for count in _chunks(n_boot, at_once):
        drawn = rng.integers(0, units, (count, units)) + units * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units)
        yield counts.astype(np.uint16)


def permutations(
    n: int, n_perm: int, seed: int, groups: Sequence[object] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Row indices in matrices [p, n] whose p add up to n_perm: each row's label comes from there.

    With groups, whole groups of labels change places among groups of equal size, rows kept in
    order; yields nothing when no two groups hold equally many rows.
    """
    group_of_row = group_index(groups, n)
    if group_of_row is None:
        if n > 1:
            yield from _drawn(_draw_permutations, n, _at_once(n, MATRIX_CELLS), n_perm, seed)
        return
    sizes = np.bincount(group_of_row)
    if len(np.unique(sizes)) == len(sizes):
        return
    rows = np.argsort(group_of_row, kind="stable").astype(np.int32)
    starts = (np.cumsum(sizes) - sizes).astype(np.int32)
    within = np.empty(n, dtype=np.int32)  # the how-manieth of its group a row is
    within[rows] = np.arange(n) - np.repeat(starts, sizes)
    key = sizes.astype(np.int32).tobytes()
    at_once = _at_once(n, GROUP_MATRIX_CELLS)
    for sources in _drawn(_draw_group_permutations, len(sizes), at_once, n_perm, seed, key):
        yield rows[starts[sources][:, group_of_row] + within]


def _draw_permutations(units: int, at_once: int, n_perm: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for count in _chunks(n_perm, at_once):
        order = rng.permuted(np.tile(np.arange(units), (count, 1)), axis=1)
        yield order.astype(np.int32)


def _draw_group_permutations(
    units: int, at_once: int, n_perm: int, seed: int, key: bytes
) -> Iterator[np.ndarray]:
    """Which group's labels each group gets, [p, units]; the key holds the groups' sizes."""
    rng = np.random.default_rng(seed)
    sizes = np.frombuffer(key, dtype=np.int32)
    alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    for count in _chunks(n_perm, at_once):
        sources = np.tile(np.arange(units, dtype=np.int32), (count, 1))
        for block in alike:
            sources[:, block] = rng.permuted(sources[:, block], axis=1)
        yield sources


def _drawn(
    draw: Callable[..., Iterator[np.ndarray]],
    units: int,
    at_once: int,
    draws: int,
    seed: int,
    *more: bytes,
) -> Iterable[np.ndarray]:
    """What `draw` draws; small draws are remembered, as every metric of a table asks for them."""
    if units * draws > REMEMBERED_CELLS:
        return draw(units, at_once, draws, seed, *more)
    return _remembered(draw, units, at_once, draws, seed, *more)


@lru_cache(maxsize=4)
def _remembered(draw: Callable[..., Iterator[np.ndarray]], *of: int | bytes) -> tuple:
    matrices = tuple(draw(*of))
    for matrix in matrices:
        matrix.setflags(write=False)
    return matrices


def group_index(groups: Sequence[object] | np.ndarray | None, n: int) -> np.ndarray | None:
    """Each row's group `[n]` as 0 .. G-1, or None without groups.

    Raises ValueError when there is not one group a row.
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise ValueError(f"groups: {len(groups)} for {n} rows")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def group_count(group_of_row: np.ndarray) -> int:
    """How many groups there are."""
    return int(group_of_row.max(initial=-1)) + 1


def _at_once(n: int, cells: int) -> int:
    """How many draws of n rows a matrix of at most so many cells holds."""
    return max(1, cells // max(n, 1))


def _chunks(total: int, at_once: int) -> Iterator[int]:
    """Parts of `total`, each of at most so many draws."""
    for start in range(0, total, at_once):
        yield min(at_once, total - start)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values corrected for being many, so that the chance of any false one below α is at most α.

    Raises ValueError naming a value that is no probability. Holm 1979, "A Simple Sequentially
    Rejective Multiple Test Procedure".

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise ValueError(f"p_values: row {bad[0]} is {values[bad[0]]}, outside 0 to 1")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
