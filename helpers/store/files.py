"""Files that are whole or absent, also of arrays, and a full disk said in a sentence."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import diskcache
import numpy as np

from helpers.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file where a folder should be, or a folder
)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, whatever happens in between."""
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name; it takes its own name once all is written."""
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with plain_disk_errors(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.rglob(".*.tmp"):
        owner = path.name.split(".")[-3]
        if not owner.isdigit() or os.name == "nt":  # there signal 0 would interrupt the process
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except OSError:  # it runs, and belongs to someone else
            continue


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; a NaN is a `ValueError`, never a file."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def plain_disk_errors(place: Path) -> Iterator[None]:
    """Turn a disk that is full, read-only, busy or damaged into a sentence."""
    try:
        yield
    except (OSError, sqlite3.DatabaseError, diskcache.Timeout) as error:
        # diskcache calls every failure to begin a write a Timeout; what happened is its context.
        reason = error.__context__ if isinstance(error, diskcache.Timeout) else error
        number, text = getattr(reason, "errno", None), str(reason)
        if number in _FULL or "disk is full" in text or "disk I/O" in text:
            raise UserError(
                f"the disk is full at {place}: free some space and run the same command again; "
                "what was stored before is kept and not repeated"
            ) from error
        if number in _UNWRITABLE or "readonly" in text or "unable to open" in text:
            raise UserError(f"{place} cannot be written ({text}); choose another folder") from error
        if "locked" in text:
            raise UserError(
                f"{place} has been locked by another process for a minute: wait until that one is "
                "done, or choose another --cache-dir"
            ) from error
        if type(reason) is sqlite3.DatabaseError:  # not a subclass, such as a mistake in the query
            raise UserError(
                f"the cache index is damaged ({text}): delete the folder {place / 'index'} or "
                "choose another --cache-dir (finished run folders do not need it)"
            ) from error
        raise


# --- files of arrays -----------------------------------------------------------------------------


class DamagedEntry(ValueError):
    """A stored entry that is not what was written."""


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a safetensors file: under a temporary name, then renamed."""
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    meta = {**(metadata or {}), "sha256": array_hash(plain)}
    write_bytes(path, save(plain, metadata=meta))


def write_blocks(
    path: Path,
    blocks: Iterable[Mapping[str, np.ndarray]],
    rows: int,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays that arrive in blocks of rows, as `write_arrays` would write them whole.

    Memory holds one block at a time. Every block has the same arrays; together they must have
    `rows` rows each, else ValueError.
    """
    waiting = iter(blocks)
    first = next(waiting)
    shapes = {name: (rows, *array.shape[1:]) for name, array in first.items()}
    kinds = {name: array.dtype for name, array in first.items()}
    digests = {name: hashlib.sha256() for name in first}
    header, starts = _header(shapes, kinds, {**(metadata or {}), "sha256": "0" * 64})
    written = dict.fromkeys(first, 0)
    with whole_file(path) as file:
        for block in itertools.chain([first], waiting):
            for name, array in block.items():
                data = np.ascontiguousarray(array, kinds[name]).tobytes()
                file.seek(len(header) + starts[name] + written[name])
                file.write(data)
                digests[name].update(data)
                written[name] += len(data)
        whole = {name: kinds[name].itemsize * math.prod(shape) for name, shape in shapes.items()}
        if written != whole:
            raise ValueError(f"blocks of {written} bytes for arrays of {whole}")
        checksum = _combined_hash(shapes, kinds, {n: d.hexdigest() for n, d in digests.items()})
        file.seek(0)
        file.write(_header(shapes, kinds, {**(metadata or {}), "sha256": checksum})[0])


KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BOOL": "|b1"}
"""Number types of safetensors files, as numpy names them."""


def _header(
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, np.dtype],
    metadata: Mapping[str, str],
) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a safetensors file, and where each array starts after them."""
    names = {kind: name for name, kind in KINDS.items()}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    starts, end = {}, 0
    for name in sorted(shapes, key=lambda n: (-kinds[n].itemsize, n)):
        starts[name], size = end, kinds[name].itemsize * math.prod(shapes[name])
        entries[name] = {
            "dtype": names[kinds[name].str],
            "shape": list(shapes[name]),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text, starts


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read arrays written by `write_arrays`; raises `DamagedEntry` when they were changed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = file.metadata() or {}
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        # The last two: a number type that numpy has not, such as bfloat16.
        raise DamagedEntry(f"it cannot be read ({error})") from error
    if meta.get("sha256") != array_hash(arrays):
        raise DamagedEntry("its checksum does not match")
    return arrays


def map_array(path: Path, name: str) -> np.ndarray:
    """One array of a safetensors file, mapped from disk: read-only, and read where it is used.

    Its checksum is not verified, as that would read all of it; its place and size are. Raises
    `DamagedEntry` when the file has no such array or is cut off.
    """
    try:
        length, header = _read_header(path)
        entry = header[name]
        start, end = entry["data_offsets"]
        last = max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__")
        if path.stat().st_size < 8 + length + last:
            raise DamagedEntry("it is cut off")
        kind, shape = np.dtype(KINDS[entry["dtype"]]), tuple(entry["shape"])
        if end - start != kind.itemsize * math.prod(shape):
            raise DamagedEntry(f"the size of {name!r} does not fit its shape")
        if end == start:
            return np.empty(shape, kind)
        return np.memmap(path, kind, "r", 8 + length + start, shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedEntry):
            raise
        raise DamagedEntry(f"it cannot be read ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself; nothing where there is no such file."""
    try:
        return dict(_read_header(path)[1].get("__metadata__", {}))
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _read_header(path: Path) -> tuple[int, dict[str, Any]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length, json.loads(file.read(min(length, 100_000_000)))


def array_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and contents of arrays."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return _combined_hash(
        {name: array.shape for name, array in plain.items()},
        {name: array.dtype for name, array in plain.items()},
        {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in plain.items()},
    )


def _combined_hash(
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, np.dtype],
    contents: Mapping[str, str],
) -> str:
    digest = hashlib.sha256()
    for name in sorted(shapes):
        digest.update(f"{name} {kinds[name]} {tuple(shapes[name])} {contents[name]}".encode())
    return digest.hexdigest()
