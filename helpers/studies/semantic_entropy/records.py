"""A run of the study, as every view takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analyses.run import pending
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.training import Targets, TrainedProbes
from helpers.studies.semantic_entropy.analyses import Analysis
from helpers.studies.semantic_entropy.assessment import Assessment
from helpers.studies.semantic_entropy.config import SemanticEntropyConfig
from helpers.studies.semantic_entropy.labels import Meanings


@dataclass(frozen=True, kw_only=True)
class Run:
    """All results of a run; a part that is still to come is `Pending`."""

    config: SemanticEntropyConfig
    folder: Path
    manifest: dict[str, Any]
    answers: SampledAnswers = pending("samples")
    meanings: Meanings = pending("meanings")
    uncertainty: dict[str, np.ndarray] = pending("uncertainty")
    """Estimator to its value for every question, `[n]`; NaN where it was not computed."""
    skipped: dict[str, str] = pending("uncertainty")
    """Estimator to why no question has a value."""
    judgements: np.ndarray | None = pending("uncertainty")
    """`[n, K + 1, K + 1, 3]`, the most likely answer last; None without an NLI judge."""
    targets: Targets = pending("uncertainty")
    states: HiddenStates = pending("hidden")
    trained: TrainedProbes = pending("probes")
    assessment: Assessment = pending("evaluation")
    analyses: dict[str, Analysis] = field(default_factory=dict)
    """Analyses that followed the evaluation, by name."""
