"""Arrays of many rows, stored in pieces as soon as they are computed, and joined in one file.

A killed run repeats one company of pieces at most, and memory holds no more than that. Rounding
depends on what is computed together, so that a piece is always computed in the same company: also
after a kill, and where a stored one turns out damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import DamagedEntry, map_array, read_metadata, write_blocks

Arrays = Mapping[str, np.ndarray]
"""What is stored of one piece."""
Advance = Callable[[int, int], None]
"""Told of rows and tokens that are done."""


@dataclass(frozen=True)
class Pieces:
    """Rows in pieces, and the keys under which what is computed of each piece is stored."""

    rows: tuple[range, ...]
    """Of each piece, in order and without gaps."""
    keys: Mapping[str, tuple[str, ...]]
    """By what is computed, such as a position: a key a piece."""
    together: int
    """As many pieces are computed together as have this many rows."""

    def companies(self) -> Iterator[list[int]]:
        """The numbers of the pieces that are computed together."""
        company: list[int] = []
        for at, rows in enumerate(self.rows):
            if company and sum(len(self.rows[i]) for i in company) + len(rows) > self.together:
                yield company
                company = []
            company.append(at)
        if company:
            yield company


def cut_evenly(n: int, size: int) -> tuple[range, ...]:
    """The rows 0 … n − 1 in pieces of `size`; the last one may be smaller.

    >>> cut_evenly(5, 2)
    (range(0, 2), range(2, 4), range(4, 5))
    """
    return tuple(range(start, min(n, start + size)) for start in range(0, n, size))


Compute = Callable[[Sequence[range], Sequence[str], Advance | None], Mapping[str, Sequence[Arrays]]]
"""What is to be stored of the pieces with these rows, by name: the arrays of each piece."""


def store_missing(
    pieces: Pieces, store: Store, progress: Progress, title: str, unit: str, compute: Compute
) -> None:
    """Compute and store what is not stored of each piece, one company after the other."""
    lacking = []
    for company in pieces.companies():
        missing = {
            name: [at for at in company if not store.has_arrays(keys[at])]
            for name, keys in pieces.keys.items()
        }
        if any(missing.values()):
            lacking.append((company, {name: ats for name, ats in missing.items() if ats}))
    if not lacking:
        return
    total = sum(len(pieces.rows[at]) for company, _ in lacking for at in company)
    with progress(title, total, unit) as stage:
        for company, missing in lacking:
            found = compute([pieces.rows[at] for at in company], list(missing), stage.advance)
            for name, ats in missing.items():
                for at in ats:
                    store.put_arrays(pieces.keys[name][at], found[name][company.index(at)])


def stored_arrays(
    pieces: Pieces, name: str, store: Store, compute: Compute
) -> Iterator[tuple[range, Arrays]]:
    """The rows and arrays of each piece; one that turns out damaged is computed again."""
    for company in pieces.companies():
        for at in company:
            key = pieces.keys[name][at]
            arrays: Arrays | None = store.get_arrays(key)
            if arrays is None:
                again = compute([pieces.rows[i] for i in company], [name], None)
                arrays = again[name][company.index(at)]
                store.put_arrays(key, arrays)
            yield pieces.rows[at], arrays


def join_pieces(
    path: Path,
    pieces: Pieces,
    name: str,
    header: Mapping[str, str],
    store: Store,
    compute: Compute,
) -> None:
    """Write the arrays of all pieces below each other in a file, unless it holds just them.

    The file's header is `header` and, as `content`, a hash of the keys.
    """
    content = content_key(stage="joined", version=1, keys=pieces.keys[name])
    header = {**header, "content": content}
    if not _is_joined(path, header):
        blocks = (arrays for _, arrays in stored_arrays(pieces, name, store, compute))
        write_blocks(path, blocks, sum(len(rows) for rows in pieces.rows), header)


def _is_joined(path: Path, header: Mapping[str, str]) -> bool:
    """Whether a file holds these very pieces, and all of them."""
    if not header.items() <= read_metadata(path).items():
        return False
    try:
        map_array(path, "hidden")
    except DamagedEntry:
        return False
    return True
