"""What is special to a study; everything that studies share stands one level up."""

from __future__ import annotations

from typing import Any

from helpers.config import RunConfig
from helpers.progress import Progress
from helpers.stages import REASONING, stages_of


def run_study(config: RunConfig, progress: Progress, *, until: str = "") -> Any | None:
    """Run the stages of the study that a config belongs to, up to `until` (default: the last).

    Returns the run of that study; None when stopped before its scores.
    """
    last = until or stages_of({"study": config.study})[-1]
    if config.study == REASONING:
        from helpers.studies.reasoning.run import run_reasoning

        return run_reasoning(config, progress, until=last)
    from helpers.run import run

    return run(config, progress, until=last)


def summarise_run(finished: Any) -> str:
    """What a terminal shows of a finished run of any study."""
    from helpers.run import Run

    if isinstance(finished, Run):
        from helpers.summary import summarise

        return summarise(finished)
    from helpers.studies.reasoning.summary import summarise_study

    config, n = finished.config, len(finished.table)
    heading = (
        f"Uncertainty signals of reasoning models: {config.model}, T = {config.temperature:g}, "
        f"{n:,} valid runs"
    )
    return summarise_study(
        finished.table, finished.probes, finished.assessment, finished.counts, heading=heading
    )
