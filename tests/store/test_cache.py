"""The store: what was written comes back, or is refused; nothing is half written or executed."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pytest

from helpers.errors import UserError
from helpers.store.cache import Store, TextDisk, content_key
from helpers.store.files import DamagedEntry, read_arrays, write_arrays, write_bytes, write_json

KEY, OTHER = content_key(n=1), content_key(n=2)


def index_of(store: Store) -> sqlite3.Connection:
    """The index as another program sees it; every statement takes effect at once."""
    return sqlite3.connect(store.folder / "index" / "cache.db", isolation_level=None)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def run_elsewhere(target: Callable[..., None], *arguments: Any) -> int | None:
    """The exit code of a fresh process that ran the function."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("the process was still busy after a minute")
    return process.exitcode


# --- what comes back -----------------------------------------------------------------------------


def test_values_come_back_after_a_restart(store: Store, tmp_path: Path) -> None:
    written: list[Any] = ["π \n\x00 \ud800", 0.1 + 0.2, 5e-324, 2**70, [1, [True]], {"a": {}}, None]
    values = {content_key(place=place): value for place, value in enumerate(written)}
    store.put_many(values)
    store.close()
    again = Store(tmp_path / "cache")
    assert again.get_many([*values, OTHER]) == values
    assert again.get(OTHER) is None
    again.put(KEY, "old")
    again.put(KEY, "new")
    assert again.get(KEY) == "new"
    again.close()


def test_arrays_come_back_bit_for_bit(store: Store) -> None:
    arrays: dict[str, np.ndarray] = {
        "half": np.array([0.1, np.nan, -0.0], dtype=np.float16),
        "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "none": np.zeros((0, 3), dtype=np.float32),
        "flags": np.array([True, False]),
    }
    assert store.get_arrays(KEY) is None
    store.put_arrays(KEY, arrays)
    found = store.get_arrays(KEY)
    assert found is not None
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_a_key_depends_on_the_parts_and_not_on_their_order() -> None:
    key = content_key(model="m", options={"k": 1, "p": 0.5})
    assert key == content_key(options={"p": 0.5, "k": 1}, model="m")
    others = [{"k": 1.0, "p": 0.5}, {"k": "1", "p": 0.5}, {"k": 1}, None]
    assert len({key, *(content_key(model="m", options=options) for options in others)}) == 5
    # Keys outlive a release: another spelling of the same parts would repeat every result.
    assert content_key(b="é", a=1) == hashlib.sha256(b'{"a": 1, "b": "\\u00e9"}').hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key(p=float("nan"))


def test_nothing_is_evicted_even_where_the_folder_says_so(tmp_path: Path) -> None:
    diskcache.Cache(str(tmp_path / "index"), size_limit=1024, cull_limit=10).close()
    store = Store(tmp_path)
    keys = [content_key(n=n) for n in range(24)]
    for key in keys:
        store.put(key, key * 2000)
    assert store.get_many(keys) == {key: key * 2000 for key in keys}
    store.close()


# --- what is refused -----------------------------------------------------------------------------


class CreatesFile:
    """Unpickling one of these creates the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("in_a_file", [False, True])
def test_a_forged_pickle_is_refused_and_never_loaded(
    store: Store, tmp_path: Path, in_a_file: bool
) -> None:
    executed = tmp_path / "executed"
    payload = pickle.dumps(CreatesFile(executed))
    (store.folder / "index" / "forged.val").write_bytes(payload)
    row = (None, "forged.val") if in_a_file else (payload, None)

    def forge() -> None:
        store.put(KEY, 1)
        statement = "UPDATE Cache SET mode = ?, value = ?, filename = ? WHERE key = ?"
        index_of(store).execute(statement, (diskcache.core.MODE_PICKLE, *row, KEY))

    forge()
    with pytest.warns(UserWarning, match=f"{KEY} is refused"):
        assert store.get(KEY) is None
    store.put(KEY, "computed again")
    assert store.get(KEY) == "computed again"
    assert not executed.exists()
    forge()
    with diskcache.Cache(str(store.folder / "index")) as trusting:
        trusting.get(KEY)
    assert executed.exists(), "the payload does nothing, so nothing was tested"


def test_a_forged_key_is_never_loaded(store: Store, tmp_path: Path) -> None:
    payload = pickle.dumps(CreatesFile(tmp_path / "executed"))
    index = index_of(store)
    index.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, 'x')", (payload,))
    index.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, 'x')", (KEY,))
    assert store.get(KEY) is None
    store.put(KEY, 1)
    assert store.get(KEY) == 1
    listing = diskcache.Cache(str(store.folder / "index"), disk=TextDisk)
    with pytest.raises(DamagedEntry, match="key is not text"):
        list(listing)
    listing.close()
    assert not (tmp_path / "executed").exists()


@pytest.mark.filterwarnings("ignore:.*is refused")
def test_a_forged_file_name_deletes_nothing(store: Store, tmp_path: Path) -> None:
    bystander = tmp_path / "thesis.txt"
    bystander.write_text("years of work")
    for use in (lambda: store.get(KEY), lambda: store.put(KEY, 2)):
        store.put(KEY, 1)
        index_of(store).execute("UPDATE Cache SET filename = ?, mode = 4", (str(bystander),))
        use()
        assert bystander.exists()


def flipped(text: str) -> bytes:
    return text.replace("plum", "plim").encode()


def with_checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16] + text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flipped, "not plain text"),
        (lambda text: flipped(text).decode(), "checksum"),
        (lambda text: text[:-3], "checksum"),
        (lambda text: "", "checksum"),
        (lambda text: 7, "not plain text"),
        (lambda text: with_checksum("{oops"), "not JSON"),
        (lambda text: with_checksum("[" * 200_000), "not JSON"),
    ],
)
def test_a_damaged_value_is_refused_by_name_and_computed_again(
    store: Store, damage: Callable[[str], Any], reason: str
) -> None:
    store.put_many({KEY: "nine plums", OTHER: "two"})
    index = index_of(store)
    ((text,),) = index.execute("SELECT value FROM Cache WHERE key = ?", (KEY,))
    index.execute("UPDATE Cache SET value = ? WHERE key = ?", (damage(text), KEY))
    with pytest.warns(UserWarning, match=f"{KEY} is refused: .*{reason}"):
        assert store.get_many([KEY, OTHER]) == {OTHER: "two"}
    store.put(KEY, "nine plums")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(KEY) == "nine plums"


def test_every_flipped_or_missing_byte_of_an_array_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"x": np.arange(3.0), "y": np.arange(4, dtype=np.float16)})
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        for content in (bytes(changed), whole[:place]):
            path.write_bytes(content)
            with pytest.raises(DamagedEntry):
                read_arrays(path)


def test_damaged_arrays_are_refused_by_name_and_computed_again(store: Store) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'  # numpy has no such type
    foreign = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    for content in (b"", b"half a fi", foreign):
        store.put_arrays(KEY, {"x": np.arange(3)})
        (path,) = store.folder.rglob("*.safetensors")
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=f"{KEY}.safetensors is refused"):
            assert store.get_arrays(KEY) is None
        assert not path.exists()
    store.put_arrays(KEY, {"x": np.arange(3)})
    assert store.get_arrays(KEY) is not None


# --- several processes, and sudden ends ----------------------------------------------------------


def write_thirty(folder: Path, name: str, together: Any) -> None:
    together.wait(60)
    store = Store(folder)
    for n in range(30):
        store.put_many({content_key(name=name, n=n): n, content_key(shared=n): n})
    store.close()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    writers = [
        context.Process(target=write_thirty, args=(tmp_path, name, together)) for name in "ab"
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = Store(tmp_path)
    keys = [content_key(name=name, n=n) for name in "ab" for n in range(30)]
    assert len(store.get_many(keys)) == 60
    assert len(store.get_many(content_key(shared=n) for n in range(30))) == 30
    store.close()


def test_an_index_locked_by_another_process_is_named(store: Store) -> None:
    store.put(KEY, 1)
    store._index.reset("sqlite_busy_timeout", 50, update=False)
    with contextlib.closing(index_of(store)) as index:
        index.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="locked by another process"):
            store.put(KEY, 2)
        assert store.get(KEY) == 1
        index.execute("COMMIT")
    store.put(KEY, 2)
    assert store.get(KEY) == 2


class DiesInTheMiddle(dict[str, int]):
    """A batch whose reader is killed after three of its entries."""

    def items(self) -> Any:
        for n, item in enumerate(super().items()):
            if n == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def die_in_a_batch(folder: Path) -> None:
    store = Store(folder)
    store.put_many({content_key(first=n): n for n in range(6)})
    store.put_many(DiesInTheMiddle({content_key(second=n): n for n in range(6)}))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    assert run_elsewhere(die_in_a_batch, tmp_path) == -signal.SIGKILL
    store = Store(tmp_path)
    assert len(store.get_many(content_key(first=n) for n in range(6))) == 6
    second = {content_key(second=n): n for n in range(6)}
    assert store.get_many(second) == {}
    store.put_many(second)
    assert store.get_many(second) == second
    store.close()


# --- disks and folders ---------------------------------------------------------------------------


def fill_the_disk(folder: Path) -> None:
    """Files may not outgrow 200 kB here: sqlite and Python see what they see on a full disk."""
    import resource

    store = Store(folder / "cache")
    store.put(KEY, "kept")
    write_json(folder / "report.json", "kept")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    batch = {content_key(full=n): "x" * 50_000 for n in range(20)}
    for write in (
        lambda: store.put_many(batch),
        lambda: store.put_many(batch),  # the first failure leaves nothing locked
        lambda: store.put_arrays(KEY, {"x": np.zeros(100_000)}),
        lambda: write_json(folder / "report.json", "x" * 300_000),
    ):
        with pytest.raises(UserError, match=f"the disk is full at {folder}.*free some space"):
            write()
    assert store.get(KEY) == "kept"
    assert store.get_many(batch) == {}
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.put(OTHER, "after")


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system cannot limit the size of files")
    assert run_elsewhere(fill_the_disk, tmp_path) == 0
    store = Store(tmp_path / "cache")
    assert store.get_many([KEY, OTHER]) == {KEY: "kept", OTHER: "after"}
    store.close()
    assert (tmp_path / "report.json").read_text() == '"kept"\n'
    assert [name for name in files_below(tmp_path) if not name.startswith("cache.db")] == [
        "report.json"
    ]


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    (tmp_path / "index").write_text("in the way")
    for folder in (file, file / "below", tmp_path):
        with pytest.raises(UserError, match=f"{folder}.*(name a|choose another) folder"):
            Store(folder)
    with pytest.raises(UserError, match=f"{file / 'report.json'} cannot be written"):
        write_json(file / "report.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written"):
        write_bytes(tmp_path / "folder", b"")
    assert files_below(tmp_path) == ["file", "index"]


def test_an_index_that_is_no_database_is_named_with_the_remedy(tmp_path: Path) -> None:
    index = tmp_path / "index"
    write_bytes(index / "cache.db", b"this is no database " * 300)
    with pytest.raises(UserError, match=f"damaged .*delete the folder {index} .*--cache-dir"):
        Store(tmp_path)
    shutil.rmtree(index)
    store = Store(tmp_path)
    store.put(KEY, 1)
    assert store.get(KEY) == 1
    store.close()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, "old")
    with path.open() as reader:
        write_json(path, "new")
        assert reader.read() == '"old"\n'
    assert path.read_text() == '"new"\n'


def test_a_report_with_a_nan_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"n": float("nan")})
    assert path.read_text() == '{\n  "n": 1\n}\n'
    assert files_below(tmp_path) == ["report.json"]
