"""Run folders as the dashboard opens them: found, listed, and held once for all visitors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from helpers.analysis_table.about import About, Label
from helpers.analysis_table.file import FILE_NAME, AnalysisTable, read_narrow
from helpers.errors import UserError
from helpers.evaluation.scores import Score

OUTPUTS_VARIABLE = "SEP_OUTPUTS"
HELD = 4
"""Runs whose columns stay in memory."""
LARGEST_JSON = 5_000_000
"""Bytes; a larger manifest or file of metrics is not looked at."""

Stamp = tuple[str, int, int]
"""Path, time of the last change (ns) and size: another file has another stamp."""
_READING = Lock()


@dataclass(frozen=True)
class Listed:
    """A run folder as a list shows it; of a damaged one only the reason is known."""

    name: str
    """The folder's name."""
    folder: Path
    stamp: Stamp
    model: str = ""
    datasets: tuple[str, ...] = ()
    size: str = ""
    """How many rows it has, in words: "8,000 runs of 800 questions"."""
    damaged: str = ""
    """Why it cannot be shown; "" where it can."""

    @property
    def written(self) -> float:
        """When its analysis was written, in seconds since 1970 (UTC)."""
        return self.stamp[1] / 1e9


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run that is looked at; the table is one object for all who look at it."""

    listed: Listed
    table: AnalysisTable

    @property
    def path(self) -> Path:
        """Where the texts of single rows are read."""
        return self.listed.folder / FILE_NAME


def outputs_folder() -> Path:
    """The folder of the run folders: `SEP_OUTPUTS`, or `outputs`."""
    return Path(os.environ.get(OUTPUTS_VARIABLE) or "outputs").expanduser()


def listed_runs(out: Path) -> tuple[Listed, ...]:
    """The run folders with an analysis, the newest first and damaged ones last; others not.

    Empty where there is no such folder.
    """
    found = sorted(_listed(out), key=lambda run: (bool(run.damaged), -run.stamp[1], run.name))
    return tuple(found)


def _listed(out: Path) -> Iterator[Listed]:
    try:
        folders = sorted(out.iterdir())
    except OSError:  # absent, or no folder
        return
    for folder in folders:
        try:
            path = folder / FILE_NAME
            if not path.is_file():
                continue
            about = path.stat()
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
            yield Listed(_name(folder), folder, (str(folder), 0, 0), damaged=reason)
            continue
        yield _entry(folder, (str(path), about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=1024)
def _entry(folder: Path, stamp: Stamp) -> Listed:
    try:
        table = _read(stamp)
    except UserError as problem:
        # The page is public: it names the folder, not where it lies.
        reason = str(problem).replace(str(folder), folder.name)
        return Listed(_name(folder), folder, stamp, damaged=reason)
    return Listed(
        _name(folder),
        folder,
        stamp,
        model=table.about.model,
        datasets=table.names["dataset"],
        size=table.about.size(len(table), len(table.names["group_id"])),
    )


def _name(folder: Path) -> str:
    """A folder's name, which on some disks need not be text."""
    return folder.name.encode("utf-8", "replace").decode()


def open_run(listed: Listed) -> OpenRun:
    """A listed run with its table, which all visitors share and nobody can write to.

    Raises `UserError` where the file was damaged since, or is gone.
    """
    return OpenRun(listed, _read(listed.stamp))


def _read(stamp: Stamp) -> AnalysisTable:
    # Visitors who come at once would otherwise each read the file.
    with _READING:
        return _table(stamp)


@lru_cache(maxsize=HELD)
def _table(stamp: Stamp) -> AnalysisTable:
    table = read_narrow(Path(stamp[0]))
    for values in table.columns.values():
        values.setflags(write=False)
    return table


def read_json(path: Path) -> dict[str, Any]:
    """An optional JSON file of a run folder; {} where it is absent, damaged or very large."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def stored_scores(
    folder: Path, about: About, label: Label, metric: str = "auroc"
) -> dict[str, dict[str, Score]]:
    """A score for a label in the run's own metrics, by scored split and predictor, where present.

    Reads the label's key → split → predictor → metric of `metrics.json`; what is not as expected
    is left out.
    """
    found = read_json(folder / "metrics.json").get(label.stored)
    scores: dict[str, dict[str, Score]] = {}
    for split in about.splits:
        row = _mapping(_mapping(found).get(split.name)) if split.scored else {}
        for predictor in about.predictors:
            score = _score(_mapping(_mapping(row.get(predictor.name)).get(metric)))
            if score is not None:
                scores.setdefault(split.name, {})[predictor.name] = score
    return scores


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _score(found: Mapping[str, Any]) -> Score | None:
    """A score from its JSON, if that is one."""
    n, undefined, note = found.get("n"), found.get("undefined"), found.get("note")
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if not isinstance(n, int) or not all(_is_number(number) for number in (value, low, high)):
        return None
    if value is None and not undefined:
        return None
    return Score("auroc", value, low, high, None, n, str(undefined or ""), str(note or ""))


def _is_number(value: Any) -> bool:
    """Whether a score can have this as one of its numbers: finite, or none."""
    return value is None or (isinstance(value, int | float) and bool(np.isfinite(value)))
