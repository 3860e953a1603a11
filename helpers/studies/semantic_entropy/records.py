"""A whole run of the main study, as every view takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.training import Targets, TrainedProbes
from helpers.studies.semantic_entropy.analyses import Analysis
from helpers.studies.semantic_entropy.assessment import Assessment
from helpers.studies.semantic_entropy.labels import Meanings


@dataclass(frozen=True)
class Measured:
    """What the answers mean, how uncertain the model is, and what the probes are to predict."""

    meanings: Meanings
    uncertainty: dict[str, np.ndarray]
    """Estimator to its value for every question, `[n]`; NaN where it was not computed."""
    skipped: dict[str, str]
    """Estimator to why no question has a value."""
    judgements: np.ndarray | None
    """`[n, K + 1, K + 1, 3]`, the most likely answer last; None without an NLI judge."""
    targets: Targets


@dataclass(frozen=True)
class Run:
    """All results of a run."""

    config: RunConfig
    folder: Path
    answers: SampledAnswers
    meanings: Meanings
    uncertainty: dict[str, np.ndarray]
    skipped: dict[str, str]
    judgements: np.ndarray | None
    targets: Targets
    states: HiddenStates
    trained: TrainedProbes
    assessment: Assessment
    manifest: dict[str, Any]
    analyses: dict[str, Analysis] = field(default_factory=dict)
    """Analyses that followed the evaluation, by name."""
