"""A whole run: every stage in order, each written to the run folder as soon as it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from helpers.config import ANALYSES, RunConfig
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.generation.samples import (
    SampledAnswers,
    choose_questions,
    sample_answers,
    sample_counts,
)
from helpers.hidden_states.stored import HiddenStates, read_hidden_states
from helpers.models.loading import identify, pick_device, set_threads
from helpers.probes.training import TrainedProbes, train_probes
from helpers.progress import Progress
from helpers.store.cache import Store
from helpers.store.files import write_json
from helpers.studies.recorder import Recorder
from helpers.studies.semantic_entropy.analyses import Analysis, analyse
from helpers.studies.semantic_entropy.assessment import assess
from helpers.studies.semantic_entropy.estimation import estimate
from helpers.studies.semantic_entropy.labels import (
    Meanings,
    find_meanings,
    judge_counts,
    make_targets,
)
from helpers.studies.semantic_entropy.records import Measured, Run
from helpers.studies.semantic_entropy.run_files import (
    metrics_as_json,
    read_run,
    write_assessment,
    write_judgements,
    write_probes,
    write_questions,
    write_samples,
    write_scores,
)
from helpers.studies.study import STAGES, Job, finished_key


@contextlib.contextmanager
def started(config: RunConfig, progress: Progress) -> Iterator[Job]:
    """A run under way, its store and record open, with as many CPU threads as it may take.

    What ends it early is recorded and raised. Raises `UserError` when the model cannot be found or
    the run folder is of another version.
    """
    if config.out.is_file():
        raise UserError(f"--out {config.out} is a file; name a folder")
    set_threads(config.threads)
    pick_device(config.device)
    identify(config.model)
    # A judge that is misspelt, or may not be fetched, should not be found out after hours.
    if config.judge == "nli":
        identify(config.judge_model, "judge")
    elif config.judge == "cosine":
        identify(config.embedding_model, "sentence encoder")
    recorder = Recorder(config)
    job = Job(config, Store(config.cache_dir), recorder.recorded(progress), recorder)
    try:
        yield job
    except BaseException:
        recorder.interrupted()
        raise
    finally:
        job.store.close()


def run(config: RunConfig, progress: Progress, *, until: str = STAGES[-1]) -> Run | None:
    """Run all stages up to `until` and write the run folder; None when stopped before the end.

    Raises `UserError`, with what was finished kept, when something stands in the way.
    """
    with started(config, progress) as job:
        return _run(job, until)


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
    job.recorder.begin("samples")
    answers = sample_answers(job.config, questions, job.store, job.progress)
    write_questions(job.recorder.folder, answers)
    job.recorder.done(sample_counts(answers), {"generated": answers.generated})
    return answers


def meaning_stage(job: Job, answers: SampledAnswers) -> Meanings:
    """Group the answers by meaning, grade them, and write samples.parquet."""
    job.recorder.begin("meanings")
    meanings = find_meanings(job.config, answers, job.store, job.progress)
    write_samples(job.recorder.folder, answers, meanings)
    job.recorder.done(meaning_counts(meanings), judge_counts(meanings))
    return meanings


def uncertainty_stage(job: Job, answers: SampledAnswers, meanings: Meanings) -> Measured:
    """Compute every estimator, and write judgements.safetensors and questions_scored.parquet."""
    job.recorder.begin("uncertainty")
    found = estimate(job.config, answers, meanings, job.store, job.progress)
    targets = make_targets(answers, meanings, found.values)
    if found.judgements is not None:
        write_judgements(job.recorder.folder, answers, found.judgements)
    if "evaluation" not in job.recorder.manifest["stages_done"]:
        write_scores(job.recorder.folder, answers, meanings, found.values, targets)
    computed = len(found.values) - len(found.skipped)
    counts = {"estimators": computed, "estimators_skipped": found.skipped, **found.counts}
    job.recorder.done(counts, found.work)
    return Measured(meanings, found.values, found.skipped, found.judgements, targets)


def hidden_stage(job: Job, answers: SampledAnswers) -> HiddenStates:
    """Read hidden states, and write hidden/."""
    job.recorder.begin("hidden")
    states = read_hidden_states(job.config, answers, job.store, job.progress)
    stand_ins = {name: int(rows.sum()) for name, rows in states.stand_ins.items()}
    job.recorder.done({"stand_ins": stand_ins}, {})
    return states


def probe_stage(job: Job, measured: Measured, states: HiddenStates) -> TrainedProbes:
    """Train the probes, and write probes/."""
    job.recorder.begin("probes")
    trained = train_probes(job.config, states, measured.targets, job.store, job.progress)
    write_probes(job.recorder.folder, job.config, job.recorder.hashes, trained)
    job.recorder.done({"probes": len(trained.probes) + len(trained.hybrids)}, {})
    return trained


def evaluation_stage(
    job: Job,
    answers: SampledAnswers,
    measured: Measured,
    states: HiddenStates,
    trained: TrainedProbes,
) -> Run:
    """Score the probes on the test questions, and write metrics.json; the whole run."""
    job.recorder.begin("evaluation")
    folder = job.recorder.folder
    meanings, uncertainty, targets = measured.meanings, measured.uncertainty, measured.targets
    assessment = assess(job.config, answers, uncertainty, states, targets, trained, job.progress)
    write_scores(folder, answers, meanings, uncertainty, targets, assessment.predicted)
    write_json(folder / "metrics.json", metrics_as_json(trained, assessment, targets))
    write_assessment(folder, trained, assessment)
    job.recorder.done({}, {})
    return Run(
        job.config, folder, answers, meanings, uncertainty, measured.skipped, measured.judgements,
        targets, states, trained, assessment, job.recorder.manifest,
    )  # fmt: skip


def analyses_stage(job: Job, finished: Run) -> dict[str, Analysis]:
    """The analyses that the config wants, by name; one that is impossible here is left out.

    Each reads the run folder and writes `analyses/<name>.json`; why one is left out stands in the
    manifest.
    """
    job.recorder.begin("analyses")
    stored, found, skipped = read_run(finished.folder), {}, {}
    for name in ANALYSES:
        if not job.config.wants(name):
            continue
        try:
            found[name] = analyse(name, stored, job.config, job.store, job.progress)
        except UserError as reason:
            skipped[name] = str(reason)
    computed = sum(not analysis.reused for analysis in found.values())
    job.recorder.done({"analyses_skipped": skipped}, {"computed": computed})
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
