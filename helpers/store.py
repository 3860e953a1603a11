"""Results stored once, by content: text in diskcache, arrays in safetensors, never a pickle.

A key is the SHA-256 of canonical JSON of everything that determines a result. Entries carry a
checksum; one that is damaged or forged is refused, named in a warning, and computed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import diskcache
import numpy as np

from helpers.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (
    *(errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),  # a file where a folder should be, or a folder
)


class DamagedEntry(ValueError):
    """A stored entry that is not what was written."""


class TextDisk(diskcache.Disk):
    """A diskcache disk that writes and reads text and nothing else: no pickle is ever loaded."""

    def put(self, key: Any) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError("store keys are text")
        return key, True

    def get(self, key: Any, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise DamagedEntry("its key is not text")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, str]:
        if read or not isinstance(value, str):
            raise TypeError("store values are text")
        return 0, diskcache.core.MODE_RAW, None, value

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> str:
        if mode != diskcache.core.MODE_RAW or filename is not None or not isinstance(value, str):
            raise DamagedEntry("it is not plain text, as every entry of ours is")
        return value

    def remove(self, file_path: str) -> None:
        """Do nothing: our entries have no files, and a forged one may name any file at all."""


def content_key(**parts: Any) -> str:
    """The SHA-256 of the canonical JSON of everything that determines a result.

    The order of the parts does not matter; 1 and 1.0 are different parts.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """An open cache folder; any number of processes may use one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        with _plain_disk_errors(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._index = diskcache.Cache(
                    str(self.folder / "index"),
                    disk=TextDisk,
                    eviction_policy="none",
                    size_limit=2**62,
                    cull_limit=0,
                    statistics=0,
                )
            except (FileExistsError, NotADirectoryError) as error:
                raise UserError(f"--cache-dir {folder} is a file; name a folder") from error

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The stored JSON values of those keys that are present and undamaged."""
        found: dict[str, Any] = {}
        with _plain_disk_errors(self.folder):
            for key in keys:
                try:
                    text = self._index.get(key)
                    if text is not None:
                        found[key] = _unseal(text)
                except (DamagedEntry, sqlite3.OperationalError) as error:
                    # Bytes that are no text fail in sqlite3 already, before our disk sees them.
                    if not isinstance(error, DamagedEntry) and "decode" not in str(error):
                        raise
                    self._refuse(f"{self.folder / 'index'} entry {key}", error)
                    self._index.delete(key)
        return found

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store JSON values, all of them or, when killed in between, none."""
        with _plain_disk_errors(self.folder), self._index.transact():
            for key, value in values.items():
                self._index.set(key, _seal(value))

    def get(self, key: str) -> Any | None:
        """One stored JSON value, or None."""
        return self.get_many([key]).get(key)

    def put(self, key: str, value: Any) -> None:
        """Store one JSON value."""
        self.put_many({key: value})

    def get_arrays(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under a key, or None."""
        path = self._array_path(key)
        if not path.exists():
            return None
        try:
            return read_arrays(path)
        except DamagedEntry as error:
            self._refuse(str(path), error)
            path.unlink(missing_ok=True)
            return None

    def put_arrays(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under a key."""
        with _plain_disk_errors(self.folder):
            write_arrays(self._array_path(key), arrays)

    def _array_path(self, key: str) -> Path:
        return self.folder / "arrays" / key[:2] / f"{key}.safetensors"

    @staticmethod
    def _refuse(place: str, error: Exception) -> None:
        warnings.warn(f"{place} is refused: {error}; it is computed again", stacklevel=4)

    def close(self) -> None:
        """Close the index."""
        self._index.close()


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to a safetensors file: under a temporary name, then renamed."""
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    meta = {**(metadata or {}), "sha256": array_hash(plain)}
    write_bytes(path, save(plain, metadata=meta))


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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is whole or absent, whatever happens in between."""
    with _plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with _plain_disk_errors(path):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.rglob(".*.tmp"):
        owner = path.name.split(".")[-3]
        if owner.isdigit() and not _is_running(int(owner)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there signal 0 would interrupt the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, and belongs to someone else
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; a NaN is a `ValueError`, never a file."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16] + text


def _unseal(sealed: str) -> Any:
    digest, text = sealed[:16], sealed[16:]
    if hashlib.sha256(text.encode()).hexdigest()[:16] != digest:
        raise DamagedEntry("its checksum does not match")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedEntry(f"it is not JSON ({error})") from error


def array_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and contents of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _plain_disk_errors(place: Path) -> Iterator[None]:
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
