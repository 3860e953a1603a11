"""A whole run: every stage in order, each written to the run folder as soon as it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.assessment import (
    Assessment,
    Targets,
    TrainedProbes,
    assess,
    make_targets,
    train_probes,
)
from helpers.config import RunConfig
from helpers.models import identify
from helpers.pipeline import (
    HiddenStates,
    Meanings,
    SampledAnswers,
    choose_questions,
    find_meanings,
    judge_counts,
    measure_uncertainty,
    read_hidden_states,
    sample_answers,
    sample_counts,
)
from helpers.progress import Progress
from helpers.run_folder import (
    metrics_as_json,
    package_versions,
    read_manifest,
    write_hidden_states,
    write_manifest,
    write_probes,
    write_questions,
    write_samples,
    write_scores,
)
from helpers.store import Store, write_json

STAGES = ("samples", "meanings", "hidden", "probes", "evaluation")


@dataclass(frozen=True)
class Run:
    """All results of a run."""

    config: RunConfig
    folder: Path
    answers: SampledAnswers
    meanings: Meanings
    uncertainty: dict[str, np.ndarray]
    targets: Targets
    states: HiddenStates
    trained: TrainedProbes
    assessment: Assessment
    manifest: dict[str, Any]


class Recorder:
    """Keeps the manifest of a run folder up to date while the stages finish.

    The time a stage took is added up over interrupted runs, and a repetition that finds
    everything stored does not overwrite it.
    """

    def __init__(self, config: RunConfig) -> None:
        self.folder = config.run_folder
        identity = identify(config.model)
        self.hashes = {
            "model_hash": identity.model_hash,
            "tokenizer_hash": identity.tokenizer_hash,
        }
        earlier = read_manifest(self.folder) or {}
        self.work: dict[str, dict[str, float]] = earlier.get("work", {})
        self.manifest: dict[str, Any] = {
            "run": config.run_name(),
            "config": config.results_fields(),
            "hashes": self.hashes,
            "versions": package_versions(),
            "counts": {},
            "stages_done": [],
        }
        self._since = time.monotonic()

    def done(self, stage: str, counts: dict[str, Any], work: dict[str, float]) -> None:
        """Record a finished stage; `work` counts what was computed now, if anything was."""
        now = time.monotonic()
        if any(work.values()) or stage not in self.work:
            before = self.work.get(stage, {})
            work = {**work, "seconds": round(now - self._since, 2)}
            self.work[stage] = {k: round(v + before.get(k, 0), 2) for k, v in work.items()}
        self._since = now
        self.manifest["counts"] |= counts
        self.manifest["stages_done"].append(stage)
        write_manifest(self.folder, {**self.manifest, "work": self.work})


def run(config: RunConfig, progress: Progress, *, until: str = STAGES[-1]) -> Run | None:
    """Run all stages up to `until` and write the run folder; None when stopped before the end.

    Raises `UserError`, with what was finished kept, when something stands in the way.
    """
    store = Store(config.cache_dir)
    try:
        return _run(config, store, progress, until)
    finally:
        store.close()


def _run(config: RunConfig, store: Store, progress: Progress, until: str) -> Run | None:
    recorder = Recorder(config)
    folder = recorder.folder
    answers = sample_answers(config, choose_questions(config), store, progress)
    write_questions(folder, answers)
    recorder.done("samples", sample_counts(answers), {"generated": answers.generated})
    if until == "samples":
        return None

    meanings = find_meanings(config, answers, store, progress)
    uncertainty = measure_uncertainty(answers.samples, meanings.clusters)
    targets = make_targets(answers, meanings, uncertainty)
    write_samples(folder, answers, meanings)
    write_scores(folder, answers, meanings, uncertainty, targets)
    recorder.done("meanings", meaning_counts(meanings), judge_counts(meanings))
    if until == "meanings":
        return None

    states = read_hidden_states(config, answers, store, progress)
    write_hidden_states(folder, answers, states)
    recorder.done(
        "hidden", {"stand_ins": {k: int(v.sum()) for k, v in states.stand_ins.items()}}, {}
    )
    if until == "hidden":
        return None

    trained = train_probes(config, states, targets, store, progress)
    write_probes(folder, config, recorder.hashes, trained)
    recorder.done("probes", {"probes": len(trained.probes)}, {})
    if until == "probes":
        return None

    assessment = assess(config, answers, uncertainty, states, targets, trained, progress)
    write_scores(folder, answers, meanings, uncertainty, targets, assessment.predicted)
    write_json(folder / "metrics.json", metrics_as_json(trained, assessment, targets))
    recorder.done("evaluation", {}, {})
    return Run(
        config, folder, answers, meanings, uncertainty, targets, states, trained, assessment,
        recorder.manifest,
    )  # fmt: skip


def meaning_counts(meanings: Meanings) -> dict[str, Any]:
    """How many answers are right, wrong and unanswered, and how many meanings there are."""
    grades = [g for row in meanings.grades if row for g in row]
    greedy = [g for g in meanings.greedy_grades if g]
    count = lambda rows, status: sum(g.status == status for g in rows)  # noqa: E731
    return {
        "judge": meanings.judge,
        "meanings": sum(max(row) + 1 for row in meanings.clusters),
        **{f"samples_{s}": count(grades, s) for s in ("correct", "wrong", "unanswered")},
        **{f"greedy_{s}": count(greedy, s) for s in ("correct", "wrong", "unanswered")},
    }
