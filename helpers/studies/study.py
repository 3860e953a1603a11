"""What a run of any study is: its stages, the job under way, the manifest that records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helpers.config import RunConfig
from helpers.models.loading import identify
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.run_folder import read_manifest
from helpers.studies.recorder import Recorder

STAGES = ("samples", "meanings", "uncertainty", "hidden", "probes", "evaluation", "analyses")
"""Of the main study."""
REASONING = "reasoning"
"""What the manifest of a reasoning run calls its study."""
REASONING_STAGES = ("samples", "meanings", "hidden", "tables", "probes", "evaluation", "analysis")


def study_of(manifest: Mapping[str, Any]) -> str:
    """The study that a run folder belongs to; "" is the main one."""
    return str(manifest.get("study", ""))


def stages_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages that a run has when it is finished."""
    return REASONING_STAGES if study_of(manifest) == REASONING else STAGES


@dataclass(frozen=True)
class Job:
    """A run under way: its config, where results are stored, who is told of progress, its record.

    The stage functions below take it first. They are what `run` calls in order, and what the
    notebook calls cell by cell.
    """

    config: RunConfig
    store: Store
    progress: Progress
    recorder: Recorder


def is_finished(config: RunConfig) -> bool:
    """Whether a run of this config is complete and stored, so that repeating it takes seconds."""
    manifest = read_manifest(config.run_folder)
    if manifest is None or not config.cache_dir.is_dir():
        return False
    store = Store(config.cache_dir)
    try:
        return store.get(finished_key(config)) is not None
    finally:
        store.close()


def finished_key(config: RunConfig) -> str:
    """Under this the store keeps that a run was completed with its results in this same store."""
    identity = identify(config.model)
    return content_key(
        stage="finished",
        run=config.run_name(),
        model=identity.model_hash,
        tokenizer=identity.tokenizer_hash,
    )
