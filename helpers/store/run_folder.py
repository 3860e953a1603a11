"""Manifests of run folders, and the runs that a folder holds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.store.files import write_bytes, write_json

FORMAT_VERSION = 1
ASSESSMENT = "assessment.json"
PACKAGES = ("marimo", "torch", "transformers", "nnsight", "numpy", "scikit-learn")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`; nothing in it is a NaN or a path of this machine."""
    write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION, **manifest})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder, or None where there is no run yet.

    Raises `UserError` when it is damaged or was written by another version of the format.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is no manifest of a run ({error}); delete the folder and run again: stored "
            "results are used, nothing is computed twice"
        ) from error
    if version != FORMAT_VERSION:
        wrote = manifest.get("versions", {}).get("uncertainty-probes", "an unknown version")
        raise UserError(
            f"{folder} was written in format {version} by uncertainty-probes {wrote}, and this is "
            f"format {FORMAT_VERSION}; open it with that version, or choose another --out"
        )
    return manifest


def package_versions() -> dict[str, str]:
    """Installed versions of this project and of what its results depend on."""
    versions = {}
    for name in ("uncertainty-probes", *PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def write_parquet(path: Path, columns: Mapping[str, Sequence]) -> None:
    """Write named columns as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def or_none(values: np.ndarray) -> list[float | None]:
    """The numbers of a column, None in place of NaN."""
    return [None if np.isnan(v) else float(v) for v in values]


# --- the runs of a folder ------------------------------------------------------------------------


BEGUN = ("questions.parquet", "samples.parquet", "hidden", "probes")
"""What a run folder has, as a rule, before and beside its manifest."""


@dataclass(frozen=True)
class RunEntry:
    """A stored run as a list shows it; of a damaged one only the reason is known."""

    name: str  # the folder's name
    folder: Path
    written: float  # when its manifest was last written, in seconds since 1970 (UTC)
    model: str = ""
    questions: str = ""  # the source of the questions
    n: int = 0  # questions that were asked; those to be asked where it has not come to them
    k: int = 0
    temperature: float = 0.0
    stages_done: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()  # all that the run has when it is finished
    study: str = ""  # as the manifest names it
    damaged: str = ""  # why it cannot be opened, with the remedy; "" where it can

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return bool(self.stages) and set(self.stages) <= set(self.stages_done)

    @property
    def ready(self) -> bool:
        """Whether it can be opened: it has come to its meanings, finished or not."""
        return not self.damaged and "meanings" in self.stages_done


def stored_runs(out: Path) -> list[RunEntry]:
    """Every run folder under a folder, the newest first; others are passed over.

    A run that is damaged, half-written or of another version is listed with the reason. Empty
    where there is no such folder.
    """
    found = _entries(Path(out).expanduser())
    return sorted(found, key=lambda run: (-run.written, run.name))


def _entries(out: Path) -> Iterator[RunEntry]:
    for folder in out.iterdir() if out.is_dir() else ():
        try:
            entry = _entry(folder) if folder.is_dir() else None
        except OSError as error:
            reason = f"it cannot be read ({error.strerror}); see to its permissions"
            entry = RunEntry(folder.name, folder, 0.0, damaged=reason)
        if entry is not None:
            yield entry


def _entry(folder: Path) -> RunEntry | None:
    """The entry of one folder; None where it is no run."""
    try:
        manifest = read_manifest(folder)
    except UserError as problem:
        # JSON without a format version is the manifest of something else, and so is what is no
        # JSON where nothing of a run lies beside it.
        if isinstance(problem.__cause__, KeyError | TypeError) or (
            problem.__cause__ and not _has_begun(folder)
        ):
            return None
        return RunEntry(folder.name, folder, _written(folder), damaged=str(problem))
    if manifest is not None:
        return _from_manifest(folder, manifest)
    if not _has_begun(folder):
        return None
    reason = "it has no manifest.json: it was stopped too early; repeat the command that began it"
    return RunEntry(folder.name, folder, folder.stat().st_mtime, damaged=reason)


def _from_manifest(folder: Path, manifest: dict[str, Any]) -> RunEntry:
    written = _written(folder)
    try:
        config = manifest["config"]
        return RunEntry(
            name=folder.name,
            folder=folder,
            written=written,
            model=str(config["model"]),
            questions=str(config["questions"]),
            n=int(manifest.get("counts", {}).get("questions", config["limit"])),
            k=int(config["k"]),
            temperature=float(config["temperature"]),
            stages_done=tuple(str(stage) for stage in manifest["stages_done"]),
            stages=tuple(str(stage) for stage in manifest.get("stages", ())),
            study=str(manifest.get("study", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"manifest.json is not as this version writes it ({error}); run the command again"
        return RunEntry(folder.name, folder, written, damaged=reason)


def _has_begun(folder: Path) -> bool:
    """Whether anything lies there that a run writes."""
    return any((folder / name).exists() for name in BEGUN)


def _written(folder: Path) -> float:
    return (folder / "manifest.json").stat().st_mtime


def run_label(entry: RunEntry) -> str:
    """One line for a list to choose from; names are unique in a folder, and so are labels."""
    from helpers.formatting import when

    if entry.damaged:
        return f"{entry.name} · damaged"
    return (
        f"{entry.name} · {entry.model} on {entry.questions} · {entry.n:,} questions × {entry.k} · "
        f"T = {entry.temperature:g} · {_state(entry)} · {when(entry.written)}"
    )


def _state(entry: RunEntry) -> str:
    if entry.damaged:
        return f"damaged: {entry.damaged}"
    if entry.finished:
        return "finished"
    last = entry.stages_done[-1] if entry.stages_done else "nothing"
    return f"stopped or under way after “{last}”"
