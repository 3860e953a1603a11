"""Data sets from the hub, through the package `datasets`.

What was loaded here before is taken as it is, without asking the hub.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.hub_client import explain, hub_errors, limit_waiting, patience

_REMEDY = (
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
            f"install `uncertainty-probes[pipeline]`; or {_REMEDY}"
        ) from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    broken = datasets.exceptions.DatasetGenerationError
    known = (datasets.exceptions.DatasetsError, RuntimeError, *hub_errors())
    if is_prepared(name, config):
        with contextlib.suppress(ValueError, *known), _offline():
            return datasets.load_dataset(name, config or "default", split=split)
    try:
        _knock(name)
        with contextlib.suppress(broken):
            return datasets.load_dataset(name, config, split=split)
        # What arrived is no table; fetched once more, it may be one.
        again = "force_redownload"
        return datasets.load_dataset(name, config, split=split, download_mode=again)
    except known as error:
        problem = error.__cause__ if isinstance(error, broken) and error.__cause__ else error
        raise explain(problem, f"data set {name}", f"datasets/{name}", _REMEDY) from error
    except ValueError as error:  # another configuration or split than it has
        raise UserError(
            f"data set {name}: {' '.join(str(error).split())[:300]}; a source is written "
            "name:config@split, such as gsm8k:main@train"
        ) from error


def _knock(name: str) -> None:
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
