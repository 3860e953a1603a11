"""Results stored once, by content: text in diskcache, arrays in safetensors, never a pickle.

A key is the SHA-256 of canonical JSON of everything that determines a result. Entries carry a
checksum; one that is damaged or forged is refused, named in a warning, and computed again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diskcache
import numpy as np

from helpers.errors import UserError
from helpers.store.files import DamagedEntry, plain_disk_errors, read_arrays, write_arrays


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
        with plain_disk_errors(self.folder):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._index = diskcache.Cache(
                    str(self.folder / "index"), disk=TextDisk, eviction_policy="none",
                    size_limit=2**62, cull_limit=0, statistics=0,
                )  # fmt: skip
            except (FileExistsError, NotADirectoryError) as error:
                raise UserError(f"--cache-dir {folder} is a file; name a folder") from error

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The stored JSON values of those keys that are present and undamaged."""
        found: dict[str, Any] = {}
        with plain_disk_errors(self.folder):
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
        with plain_disk_errors(self.folder), self._index.transact():
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

    def has_arrays(self, key: str) -> bool:
        """Whether arrays are stored under a key; reading them shows whether they are whole."""
        return self._array_path(key).exists()

    def put_arrays(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store arrays under a key."""
        with plain_disk_errors(self.folder):
            write_arrays(self._array_path(key), arrays)

    def _array_path(self, key: str) -> Path:
        return self.folder / "arrays" / key[:2] / f"{key}.safetensors"

    @staticmethod
    def _refuse(place: str, error: Exception) -> None:
        warnings.warn(f"{place} is refused: {error}; it is computed again", stacklevel=4)

    def close(self) -> None:
        """Close the index."""
        self._index.close()


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
