"""Models and data sets from the hub: fetched once, checked, and gone on with after an outage.

What is stored whole is used without asking the hub, so that the same command gives the same
results wherever it is run; `hf download NAME` fetches a newer version. Pickled weights are never
fetched. The files lie in huggingface_hub's cache, which other programs share.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.progress import terminal_progress
from helpers.store.files import file_hash

# --- the hub's client ----------------------------------------------------------------------------


LATER = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may be another one in a moment
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR)


class DamagedFile(OSError):
    """A file arrived, but is not the one that the hub lists."""


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when something cannot be had."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx  # whichever HTTP library it is built on

    return (OSError, HFValidationError, json.JSONDecodeError, httpx.HTTPError, httpx.InvalidURL)


def patience() -> float:
    """Seconds for which the hub may be silent: HF_HUB_DOWNLOAD_TIMEOUT, or 10."""
    from huggingface_hub import constants

    return max(constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT)


def limit_waiting() -> None:
    """Limit each wait of the client to `patience`: some of its requests would wait for ever."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["request"]
    if _limit_request not in hooks:
        hooks.append(_limit_request)


def _limit_request(request: Any) -> None:
    longest = patience()
    given = request.extensions.get("timeout", {})
    kinds = ("connect", "read", "write", "pool")
    limits = {kind: min(given.get(kind) or longest, longest) for kind in kinds}
    request.extensions = {**request.extensions, "timeout": limits}


def is_out_of_reach(error: BaseException) -> bool:
    """Whether the hub was not asked, did not answer, or asked to come again later."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    away = (OfflineModeIsEnabled, httpx.TransportError)
    return any(isinstance(e, away) or status_of(e) in LATER for e in _causes(error))


def explain(error: BaseException, what: str, page: str, remedy: str) -> UserError:
    """The `UserError` for what kept something from being had from the hub.

    `what` names the thing ("data set openai/gsm8k"), `page` its page below the hub's address, and
    `remedy` the ways around the hub.
    """
    from huggingface_hub import constants, errors

    causes = list(_causes(error))
    status = next((s for s in map(status_of, causes) if s), None)
    number = next((n for n in (getattr(e, "errno", None) for e in causes) if n), None)
    known = (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.HFValidationError)
    kind = next((type(e) for e in causes if isinstance(e, known)), None)
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    if kind and issubclass(kind, errors.GatedRepoError):
        refused = "the account you are logged in with has no access" if status == 403 else (
            "only for those who are logged in"
        )  # fmt: skip
        return UserError(
            f"{what} is gated ({refused}): accept its terms at {hub}/{page}, log in with "
            "`hf auth login` (or set HF_TOKEN), and run the same command again"
        )
    if kind and issubclass(kind, errors.RepositoryNotFoundError):
        return UserError(
            f"{what} is not on the hub, or not for everyone: check the spelling at {hub}/{page}; "
            "if it is private, log in with `hf auth login` (or set HF_TOKEN)"
        )
    if kind:
        return UserError(
            f"{what} is neither something on this machine nor a name on the hub (owner/name); "
            f"{remedy}"
        )
    if status == 401:
        return UserError(
            f"{what} could not be reached: {hub} refuses your token; log in again with "
            "`hf auth login`, or correct or unset HF_TOKEN"
        )
    if number in _DISK_FULL:
        return UserError(
            f"{what}: the disk is full at {cache}: free some space, or set HF_HOME to a folder on "
            "a larger disk, and run the same command again; what has arrived is kept"
        )
    if number in _UNWRITABLE and not is_out_of_reach(error):
        return UserError(
            f"{what}: {cache} cannot be written; set HF_HOME to a folder that can, or {remedy}"
        )
    reason, first = trouble(error)
    return UserError(f"{what} could not be reached: {reason}; {first}or {remedy}")


def trouble(error: BaseException) -> tuple[str, str]:
    """Why the hub gave nothing, and what may help, where nobody made a mistake."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    hub, again = constants.ENDPOINT, "the same command fetches only what is missing; "
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, and not all of it is stored", "unset HF_HUB_OFFLINE, "
        if isinstance(cause, httpx.TimeoutException):
            waited = f"{hub} was silent for {patience():g} s"
            return waited, f"HF_HUB_DOWNLOAD_TIMEOUT={max(60, 6 * patience()):g} waits longer; "
        if isinstance(cause, httpx.ConnectError):
            return f"no connection to {hub} ({first_line(cause)})", "check the network, "
        if isinstance(cause, httpx.TransportError):
            return f"the connection to {hub} broke off ({first_line(cause)})", again
        if isinstance(cause, DamagedFile):
            return f"{cause}", "something on the way changes files: try another network, "
        if isinstance(cause, json.JSONDecodeError):
            return f"{hub} does not answer as a hub does", "check HF_ENDPOINT and the network, "
        if status_of(cause) == 429:
            return f"{hub} has had too many requests (HTTP 429)", "wait some minutes, "
        if status_of(cause) in LATER:
            return f"{hub} is out of order (HTTP {status_of(cause)})", "try again later, "
    return first_line(error), ""


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error is about, if it is about one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def first_line(error: BaseException) -> str:
    """An error's message without the lines after its first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
_OTHER_FORMATS = ("onnx/*", "openvino/*", "original/*")
_SHA256 = re.compile("[0-9a-f]{64}")
_ATTEMPTS = 3  # how often a file is asked for when no more of it comes
_MODEL_REMEDY = (
    "use `--preset lab`, which needs no network, or name a local folder with config.json, "
    "model.safetensors and tokenizer.json in place of the hub name"
)


def wanted_files(paths: Iterable[str]) -> list[str]:
    """Those of a repository's files that a model is loaded from.

    >>> wanted_files(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/config.json"])
    ['config.json', 'model.safetensors']
    """
    paths = sorted(path for path in paths if not _matches(path, _OTHER_FORMATS))
    weights = [path for path in paths if "/" not in path and _matches(path, _WEIGHTS)]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if "modules.json" in paths:  # a sentence encoder, whose later modules may have weights too
        weights += [path for path in paths if fnmatch.fnmatch(path, "*/model.safetensors")]
    return [path for path in paths if path in weights or _matches(path, _TEXTS)]


def stored_model(name: str) -> Path | None:
    """The folder of a model of which every wanted file is stored in full; the hub is not asked.

    None as well where only another program fetched it and did not note what belongs to it.
    """
    listing = _stored_listing(name)
    if listing is None:
        return None
    folder, sizes = listing
    whole = all(_size(folder / path) == sizes[path] for path in wanted_files(sizes))
    return folder if whole else None


def is_partly_stored(name: str) -> bool:
    """Whether a model was begun to be fetched, and something of it is missing."""
    begun = any((_storage(name) / "blobs").glob("*.incomplete"))
    return begun or (_stored_listing(name) is not None and stored_model(name) is None)


@lru_cache(maxsize=16)
def fetch_model(name: str, kind: str) -> Path:
    """The local folder of a hub model, fetched as far as it is not stored; once a process.

    Raises `UserError` for everything that can go wrong; what has arrived until then is kept.
    """
    from huggingface_hub import snapshot_download

    stored = stored_model(name)
    if stored is not None:
        return stored
    what = f"{kind} {name!r}"
    try:
        return _download(name, what)
    except hub_errors() as error:
        if is_out_of_reach(error) and _stored_listing(name) is None:
            with contextlib.suppress(*hub_errors()):  # as another program left it
                return Path(snapshot_download(name, local_files_only=True))
        raise explain(error, what, name, _MODEL_REMEDY) from error


def _download(name: str, what: str) -> Path:
    """Fetch what is missing of a model: large files here, and the rest by huggingface_hub."""
    from huggingface_hub import HfApi, snapshot_download

    limit_waiting()
    info = HfApi().model_info(name, files_metadata=True, timeout=patience())
    files = {file.rfilename: file for file in info.siblings or []}
    wanted = wanted_files(files)
    if not any(path.endswith(".safetensors") for path in wanted):
        raise UserError(
            f"{what} has no model.safetensors on the hub, only weights in other formats (pickled "
            "weights are never loaded); choose another model, or convert it with transformers' "
            "save_pretrained and name the folder"
        )
    storage = _storage(name)
    snapshot = storage / "snapshots" / str(info.sha)
    # Large files are kept under the SHA-256 of their content, small ones by git.
    listed = {path: files[path].lfs for path in wanted}
    large = {p: lfs for p, lfs in listed.items() if lfs and _SHA256.fullmatch(lfs.sha256)}
    blobs = {path: storage / "blobs" / lfs.sha256 for path, lfs in large.items()}
    _remove_damaged({snapshot / path: files[path].size for path in wanted})
    _remove_damaged({blobs[path]: lfs.size for path, lfs in large.items()})
    missing = {
        path: max(0, lfs.size - _size(_partial(blobs[path])))
        for path, lfs in large.items()
        if not blobs[path].exists() and not (snapshot / path).exists()
    }
    total = sum(missing.values())
    _check_space(total, what)
    with _bytes_progress(f"Fetching {name}", total) as advance:
        for path in missing:
            _fetch_large(name, snapshot.name, path, blobs[path], large[path].size, advance)
    bar = _silent_bar()  # what is left is small
    return Path(
        snapshot_download(name, allow_patterns=wanted, etag_timeout=patience(), tqdm_class=bar)
    )


def _fetch_large(
    name: str, commit: str, path: str, blob: Path, size: int, advance: Callable[[int], None]
) -> None:
    """Fetch one file to where huggingface_hub looks for it, and check its SHA-256."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    url, label = hf_hub_url(name, path, revision=commit), f"{path} of {name}"
    # The lock that other programs take for the same file.
    lock = Path(constants.HF_HUB_CACHE, ".locks", blob.parent.parent.name, f"{blob.name}.lock")
    for folder in (lock.parent, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        for attempt in (1, 2):
            if blob.exists():  # another process was faster
                return
            _fetch_rest(url, label, _partial(blob), size, advance)
            if file_hash(_partial(blob)) == blob.name:
                _partial(blob).replace(blob)
                return
            _partial(blob).unlink()
            if attempt == 1:
                advance(-size)
                warnings.warn(f"{label} arrived damaged; fetching it once more", stacklevel=2)
    raise DamagedFile(f"{label} arrived damaged twice (its SHA-256 is not the one that is listed)")


def _fetch_rest(
    url: str, label: str, partial: Path, size: int, advance: Callable[[int], None]
) -> None:
    """Append what a file lacks, through short outages; raises the error of the last attempt."""
    from huggingface_hub.utils import httpx

    failures = 0
    while (before := _size(partial)) != size:
        try:
            _append(url, partial, advance)
            if not before < _size(partial) <= size:
                advance(-_size(partial))
                partial.unlink()
                raise DamagedFile(f"{label} did not come in the {size:,} bytes that are listed")
        except hub_errors() as error:
            failures = 1 if _size(partial) > before else failures + 1
            passing = is_out_of_reach(error) or isinstance(error, DamagedFile)
            if not passing or failures == _ATTEMPTS:
                raise
            warnings.warn(f"{label}: {trouble(error)[0]}; trying again", stacklevel=2)
            if not isinstance(error, DamagedFile | httpx.TimeoutException):
                time.sleep(failures)


def _append(url: str, partial: Path, advance: Callable[[int], None]) -> None:
    """Fetch the bytes after those that are there, and write them as they come."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    start = _size(partial)
    headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    stream = get_session().stream(
        "GET", url, headers=headers, timeout=patience(), follow_redirects=True
    )
    with stream as response:
        if response.status_code == 416:  # there is nothing after these bytes
            return
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file, whatever was asked for
            advance(-start)
            partial.unlink(missing_ok=True)
        with partial.open("ab") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                advance(len(chunk))


def _stored_listing(name: str) -> tuple[Path, dict[str, int]] | None:
    """A stored model's folder, and the size of every file of its repository; None if unknown."""
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError

    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(name)}
        config = try_to_load_from_cache(name, "config.json")
    except (CachedRepoTreeNotFoundError, HFValidationError):
        return None
    return (Path(config).parent, sizes) if isinstance(config, str) else None


def _remove_damaged(sizes: dict[Path, int | None]) -> None:
    """Remove files that are not as long as they should be: they are fetched anew."""
    for path, size in sizes.items():
        if path.exists() and size is not None and _size(path) != size:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)


def _check_space(needed: int, what: str) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{what} needs {needed / 1e6:,.0f} MB, and {cache} has {free / 1e6:,.0f} MB free: free "
            "some space, or set HF_HOME to a folder on a larger disk"
        )


def _storage(name: str) -> Path:
    """The folder of huggingface_hub's cache in which a model's files lie."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))


def _partial(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.incomplete")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _bytes_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A stage that is told of bytes and shows kB or MB; none where there is nothing to fetch."""
    if total == 0:
        yield lambda n: None
        return
    scale, unit = (10**6, "MB") if total >= 10**7 else (10**3, "kB")
    done = 0
    with terminal_progress()(title, round(total / scale), unit) as stage:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            stage.advance(round(done / scale) - stage.done)

        yield advance


def _silent_bar() -> type:
    """A progress bar for huggingface_hub that shows nothing."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


# --- data sets -----------------------------------------------------------------------------------
#
# What was loaded here before is taken as it is, without asking the hub.


_DATA_SET_REMEDY = (
    "use the embedded questions with --preset lab (or --questions lab), or point --questions at a "
    "local file, such as --questions gsm8k/train.jsonl"
)


def load_table(name: str, config: str | None, split: str) -> Iterable[dict[str, Any]]:
    """The rows of a data set on the hub, as they were prepared here before or fetched now.

    Raises `UserError` when the data set cannot be had, or a package is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"data set {name}: the package `{error.name}` is missing: "
            f"install `uncertainty-probes[pipeline]`; or {_DATA_SET_REMEDY}"
        ) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    broken = datasets.exceptions.DatasetGenerationError
    known = (datasets.exceptions.DatasetsError, RuntimeError, *hub_errors())
    if is_prepared(name, config):
        with contextlib.suppress(ValueError, *known), _offline():
            return datasets.load_dataset(name, config or "default", split=split)
    try:
        _check_reachable(name)
        with contextlib.suppress(broken):
            return datasets.load_dataset(name, config, split=split)
        # What arrived is no table; fetched once more, it may be one.
        again = "force_redownload"
        return datasets.load_dataset(name, config, split=split, download_mode=again)
    except known as error:
        problem = error.__cause__ if isinstance(error, broken) and error.__cause__ else error
        raise explain(problem, f"data set {name}", f"datasets/{name}", _DATA_SET_REMEDY) from error
    except ValueError as error:  # another configuration or split than it has
        raise UserError(
            f"data set {name}: {' '.join(str(error).split())[:300]}; a source is written "
            "name:config@split, such as gsm8k:main@train"
        ) from error


def _check_reachable(name: str) -> None:
    """Ask for a data set's card: this fails at once where datasets goes on trying for a while."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    limit_waiting()
    with contextlib.suppress(EntryNotFoundError):  # it need not have one
        url = hf_hub_url(name, "README.md", repo_type="dataset")
        get_hf_file_metadata(url, timeout=patience())


def is_prepared(name: str, config: str | None) -> bool:
    """Whether a data set was loaded here before, in this configuration."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    *owner, last = name.split("/")
    folder = "___".join([*owner, camelcase_to_snakecase(last)])
    found = Path(datasets.config.HF_DATASETS_CACHE, folder, config or "default")
    return any(found.glob("*/*/dataset_info.json"))


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let datasets take what it has prepared, in silence, without asking the hub for news."""
    import datasets

    logger = logging.getLogger("datasets")
    before = datasets.config.HF_HUB_OFFLINE, logger.level
    datasets.config.HF_HUB_OFFLINE = True
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before[0]
        logger.setLevel(before[1])
