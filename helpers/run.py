"""A whole run: every stage in order, each written to the run folder as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analyses import Analysis, analyse
from helpers.assessment import Assessment, assess
from helpers.config import ANALYSES, RunConfig
from helpers.datasets import Question
from helpers.errors import UserError
from helpers.estimation import estimate
from helpers.meanings import Meanings, find_meanings, judge_counts
from helpers.models import identify, set_threads
from helpers.pipeline import (
    SampledAnswers,
    choose_questions,
    sample_answers,
    sample_counts,
)
from helpers.probe_training import Targets, TrainedProbes, make_targets, train_probes
from helpers.progress import Progress
from helpers.run_folder import (
    metrics_as_json,
    package_versions,
    read_manifest,
    write_assessment,
    write_judgements,
    write_manifest,
    write_probes,
    write_questions,
    write_samples,
    write_scores,
)
from helpers.stages import STAGES as STAGES
from helpers.store import Store, content_key, remove_leftovers, write_json
from helpers.stored_run import read_run
from helpers.stored_states import HiddenStates, read_hidden_states


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


class Recorder:
    """Keeps the manifest of a run folder up to date while the stages finish.

    The time a stage took is added up over interrupted runs, and a repetition that finds
    everything stored does not overwrite it.
    """

    def __init__(self, config: RunConfig) -> None:
        self.folder = config.run_folder
        remove_leftovers(self.folder)
        identity = identify(config.model)
        self.hashes = {
            "model_hash": identity.model_hash,
            "tokenizer_hash": identity.tokenizer_hash,
        }
        earlier = read_manifest(self.folder) or {}
        self.work: dict[str, dict[str, float]] = earlier.get("work", {})
        self.manifest: dict[str, Any] = {
            **({"study": config.study} if config.study else {}),
            "run": config.run_name(),
            "config": config.results_fields(),
            "hashes": self.hashes,
            "versions": package_versions(),
            "counts": {},
            "stages_done": [],
        }
        if earlier.get("hashes") == self.hashes:
            # The folder's name holds the config's hash, so these are results of this very run.
            kept = ("counts", "stages_done", "backend")
            self.manifest |= {key: earlier[key] for key in kept if key in earlier}
        self._since = time.monotonic()

    def begin(self) -> None:
        """A stage begins: its time counts from here."""
        self._since = time.monotonic()

    def done(self, stage: str, counts: dict[str, Any], work: Mapping[str, float]) -> None:
        """Record a finished stage; `work` counts what was computed now, if anything was."""
        now = time.monotonic()
        if any(work.values()) or stage not in self.work:
            before = self.work.get(stage, {})
            work = {**work, "seconds": round(now - self._since, 2)}
            self.work[stage] = {k: round(v + before.get(k, 0), 2) for k, v in work.items()}
        self.manifest["counts"] |= counts
        if stage not in self.manifest["stages_done"]:
            self.manifest["stages_done"].append(stage)
        write_manifest(self.folder, {**self.manifest, "work": self.work})


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


def start(config: RunConfig, progress: Progress) -> Job:
    """Open the store and the record of a run, and take as many CPU threads as it may.

    Raises `UserError` when the model cannot be found or the run folder is of another version.
    """
    if config.out.is_file():
        raise UserError(f"--out {config.out} is a file; name a folder")
    set_threads(config.threads)
    identify(config.model)
    # A judge that is misspelt, or may not be fetched, should not be found out after hours.
    if config.judge == "nli":
        identify(config.judge_model, "judge")
    elif config.judge == "cosine":
        identify(config.embedding_model, "sentence encoder")
    return Job(config, Store(config.cache_dir), progress, Recorder(config))


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


def run(config: RunConfig, progress: Progress, *, until: str = STAGES[-1]) -> Run | None:
    """Run all stages up to `until` and write the run folder; None when stopped before the end.

    Raises `UserError`, with what was finished kept, when something stands in the way.
    """
    job = start(config, progress)
    try:
        return _run(job, until)
    finally:
        job.store.close()


def _run(job: Job, until: str) -> Run | None:
    answers = sample_stage(job, choose_questions(job.config))
    if until == "samples":
        return None
    meanings = meaning_stage(job, answers)
    if until == "meanings":
        return None
    measured = uncertainty_stage(job, answers, meanings)
    if until == "uncertainty":
        return None
    states = hidden_stage(job, answers)
    if until == "hidden":
        return None
    trained = probe_stage(job, measured, states)
    if until == "probes":
        return None
    finished = evaluation_stage(job, answers, measured, states, trained)
    if until == "evaluation":
        return finished
    return replace(finished, analyses=analyses_stage(job, finished))


def sample_stage(job: Job, questions: Sequence[Question]) -> SampledAnswers:
    """Sample the answers, and write questions.parquet."""
    job.recorder.begin()
    answers = sample_answers(job.config, questions, job.store, job.progress)
    write_questions(job.recorder.folder, answers)
    job.recorder.done("samples", sample_counts(answers), {"generated": answers.generated})
    return answers


def meaning_stage(job: Job, answers: SampledAnswers) -> Meanings:
    """Group the answers by meaning, grade them, and write samples.parquet."""
    job.recorder.begin()
    meanings = find_meanings(job.config, answers, job.store, job.progress)
    write_samples(job.recorder.folder, answers, meanings)
    job.recorder.done("meanings", meaning_counts(meanings), judge_counts(meanings))
    return meanings


def uncertainty_stage(job: Job, answers: SampledAnswers, meanings: Meanings) -> Measured:
    """Compute every estimator, and write judgements.safetensors and questions_scored.parquet."""
    job.recorder.begin()
    found = estimate(job.config, answers, meanings, job.store, job.progress)
    targets = make_targets(answers, meanings, found.values)
    if found.judgements is not None:
        write_judgements(job.recorder.folder, answers, found.judgements)
    if "evaluation" not in job.recorder.manifest["stages_done"]:
        write_scores(job.recorder.folder, answers, meanings, found.values, targets)
    job.recorder.done("uncertainty", {"estimators_skipped": found.skipped}, found.work)
    return Measured(meanings, found.values, found.skipped, found.judgements, targets)


def hidden_stage(job: Job, answers: SampledAnswers) -> HiddenStates:
    """Read hidden states, and write hidden/."""
    job.recorder.begin()
    states = read_hidden_states(job.config, answers, job.store, job.progress)
    stand_ins = {name: int(rows.sum()) for name, rows in states.stand_ins.items()}
    job.recorder.done("hidden", {"stand_ins": stand_ins}, {})
    return states


def probe_stage(job: Job, measured: Measured, states: HiddenStates) -> TrainedProbes:
    """Train the probes, and write probes/."""
    job.recorder.begin()
    trained = train_probes(job.config, states, measured.targets, job.store, job.progress)
    write_probes(job.recorder.folder, job.config, job.recorder.hashes, trained)
    job.recorder.done("probes", {"probes": len(trained.probes) + len(trained.hybrids)}, {})
    return trained


def evaluation_stage(
    job: Job,
    answers: SampledAnswers,
    measured: Measured,
    states: HiddenStates,
    trained: TrainedProbes,
) -> Run:
    """Score the probes on the test questions, and write metrics.json; the whole run."""
    job.recorder.begin()
    folder = job.recorder.folder
    meanings, uncertainty, targets = measured.meanings, measured.uncertainty, measured.targets
    assessment = assess(job.config, answers, uncertainty, states, targets, trained, job.progress)
    write_scores(folder, answers, meanings, uncertainty, targets, assessment.predicted)
    write_json(folder / "metrics.json", metrics_as_json(trained, assessment, targets))
    write_assessment(folder, trained, assessment)
    job.recorder.done("evaluation", {}, {})
    return Run(
        job.config, folder, answers, meanings, uncertainty, measured.skipped, measured.judgements,
        targets, states, trained, assessment, job.recorder.manifest,
    )  # fmt: skip


def analyses_stage(job: Job, finished: Run) -> dict[str, Analysis]:
    """The analyses that the config wants, by name; one that is impossible here is left out.

    Each reads the run folder and writes `analyses/<name>.json`; why one is left out stands in the
    manifest.
    """
    job.recorder.begin()
    stored, found, skipped = read_run(finished.folder), {}, {}
    for name in ANALYSES:
        if not job.config.wants(name):
            continue
        try:
            found[name] = analyse(name, stored, job.config, job.store, job.progress)
        except UserError as reason:
            skipped[name] = str(reason)
    computed = sum(not analysis.reused for analysis in found.values())
    job.recorder.done("analyses", {"analyses_skipped": skipped}, {"computed": computed})
    job.store.put(finished_key(job.config), {"stages": list(STAGES)})
    return found


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
