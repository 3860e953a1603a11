"""Opens a run folder as the `Run` that every view shows, without a model, a store or a network.

A run that is under way or was stopped opens too: what is still to come is `Pending`, and whoever
asks for it is told so in words.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from helpers.errors import REPEAT, UserError
from helpers.evaluation.records import from_plain
from helpers.probes.combined import HybridProbe
from helpers.probes.probe import Sweep
from helpers.probes.store import load_probe
from helpers.probes.training import TrainedProbes
from helpers.store.run_folder import ASSESSMENT
from helpers.studies.semantic_entropy.analyses import Analysis, read_analysis
from helpers.studies.semantic_entropy.assessment import Assessment
from helpers.studies.semantic_entropy.config import ANALYSES
from helpers.studies.semantic_entropy.records import Run
from helpers.studies.semantic_entropy.run_files import StoredRun, read_run

AnyRun = Run | StoredRun
"""A run that is open, whole or as far as it needs no evaluation."""


def open_run(folder: Path) -> Run:
    """Everything that a run folder holds, in a second or less.

    Raises `UserError` where the folder is absent, damaged, of another version, or has not come to
    its meanings. Hidden states are mapped from disk, not read.
    """
    stored = read_run(folder)
    done = stored.manifest["stages_done"]
    config = stored.config.model_copy(update={"out": stored.folder.parent})
    parts: dict[str, Any] = {}
    if "uncertainty" in done:
        parts |= {"uncertainty": stored.uncertainty, "targets": stored.targets}
    if "hidden" in done:
        parts["states"] = stored.states(stored.positions)
    if "evaluation" in done:
        parts["trained"], parts["assessment"] = _read_assessment(stored)
    return Run(
        config=config,
        folder=stored.folder,
        manifest=stored.manifest,
        answers=stored.answers,
        meanings=stored.meanings,
        skipped=stored.manifest.get("counts", {}).get("estimators_skipped", {}),
        judgements=stored.judgements,
        analyses=_read_analyses(stored.folder),
        **parts,
    )


def _read_assessment(stored: StoredRun) -> tuple[TrainedProbes, Assessment]:
    """The sweeps, probes and scores; the predictions stand beside the estimators."""
    path = stored.folder / ASSESSMENT
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        sweeps: dict[str, Sweep] = from_plain(dict[str, Sweep], plain["sweeps"])
        hints = get_type_hints(Assessment, include_extras=True)
        names = [f.name for f in fields(Assessment) if f.name != "predicted"]
        parts = {name: from_plain(hints[name], plain["assessment"][name]) for name in names}
        undefined: dict[str, str] = from_plain(dict[str, str], plain["undefined"])
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: an earlier version wrote this run; {REPEAT}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {REPEAT}") from error
    probes, hybrids = {}, {}
    for card in sorted((stored.folder / "probes").glob("*.json")):
        probe = load_probe(card).probe
        if isinstance(probe, HybridProbe):
            hybrids[card.stem] = probe
        else:
            probes[card.stem] = probe
    trained = TrainedProbes(probes, sweeps, undefined, hybrids)
    return trained, Assessment(predicted=stored.predicted, **parts)


def _read_analyses(folder: Path) -> dict[str, Analysis]:
    """The stored analyses, by name; one that is damaged counts as absent."""
    stored = {name: read_analysis(folder, name) for name in ANALYSES}
    return {
        name: Analysis(name, found["text"], found["result"], reused=True)
        for name, found in stored.items()
        if found
    }
