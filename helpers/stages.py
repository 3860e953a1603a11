"""The stages of each study's runs, in order: what manifests, progress and commands name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
