"""One file of arrays joined from stored pieces, of which memory holds one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.store import DamagedEntry, Store, content_key, map_array, read_metadata, write_blocks


def join_pieces(
    path: Path,
    keys: Sequence[str],
    rows: int,
    header: Mapping[str, str],
    store: Store,
    make: Callable[[int], None],
) -> None:
    """Write the arrays stored under `keys` below each other in a file, unless it holds just them.

    `make(i)` stores piece i again where it turns out damaged. The pieces have `rows` rows
    together; the file's header is `header` and, as `content`, a hash of the keys.
    """
    content = content_key(stage="joined", version=1, keys=list(keys))
    header = {**header, "content": content}
    if not _is_joined(path, header):
        write_blocks(path, _blocks(keys, store, make), rows, header)


def _is_joined(path: Path, header: Mapping[str, str]) -> bool:
    """Whether a file holds these very pieces, and all of them."""
    if not header.items() <= read_metadata(path).items():
        return False
    try:
        map_array(path, "hidden")
    except DamagedEntry:
        return False
    return True


def _blocks(
    keys: Sequence[str], store: Store, make: Callable[[int], None]
) -> Iterator[dict[str, np.ndarray]]:
    for at, key in enumerate(keys):
        arrays = store.get_arrays(key)
        if arrays is None:
            make(at)
            arrays = store.get_arrays(key) or {}
        yield arrays
