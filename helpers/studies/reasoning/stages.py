"""A whole run of the study: every stage in order, each written as soon as it is done."""

from __future__ import annotations

from dataclasses import asdict, replace

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.generation.records import rounded
from helpers.hidden_states.stored import forced_entropies, trace
from helpers.models.loading import identify, load_tokenizer
from helpers.models.tokens import token_texts
from helpers.progress import Progress
from helpers.store.files import write_json
from helpers.store.run_folder import write_manifest
from helpers.studies.reasoning.assessment import assess_study, metrics_as_json
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.labels import (
    StudyMeanings,
    ValidRuns,
    find_study_meanings,
    make_table,
    valid_runs,
)
from helpers.studies.reasoning.probes import predict_study, train_study_probes
from helpers.studies.reasoning.records import SPLITS, Prediction, RunTable, StudyProbes, Traced
from helpers.studies.reasoning.run_files import (
    ANALYSIS,
    StudyRun,
    open_study,
    write_analysis_table,
    write_runs,
    write_study_assessment,
    write_study_probes,
    write_study_questions,
    write_study_scores,
    write_table,
)
from helpers.studies.reasoning.runs import Runs, count_runs, generate_runs, study_questions
from helpers.studies.semantic_entropy.stages import started
from helpers.studies.study import Job, finished_key


def run_reasoning(config: RunConfig, progress: Progress, *, until: str) -> StudyRun | None:
    """Run all stages up to `until` and write the run folder; None when stopped before its scores.

    Raises `UserError`, with what was finished kept, when something stands in the way.
    """
    assert isinstance(config, ReasoningConfig)
    with started(config, progress) as job:
        write_manifest(job.recorder.folder, job.recorder.manifest)
        return _run(job, config, until)


def _run(job: Job, config: ReasoningConfig, until: str) -> StudyRun | None:
    runs = sample_stage(job, config)
    if until == "samples":
        return None
    meanings = meaning_stage(job, config, runs)
    if until == "meanings":
        return None
    runs, valid, traced = hidden_stage(job, config, runs, meanings)
    if until == "hidden":
        return None
    table = table_stage(job, config, runs, meanings, valid)
    if until == "tables":
        return None
    probes, predictions = probe_stage(job, config, table, traced)
    if until == "probes":
        return None
    evaluation_stage(job, config, runs, table, traced, probes, predictions)
    if until != "evaluation":
        analysis_stage(job, config, runs, valid, table, traced, probes, predictions)
    return open_study(job.recorder.folder)


def sample_stage(job: Job, config: ReasoningConfig) -> Runs:
    """Generate the runs, and write questions.parquet and samples.parquet."""
    job.recorder.begin("samples")
    questions = study_questions(config, job.progress)
    runs = generate_runs(config, questions, job.store, job.progress)
    write_study_questions(job.recorder.folder, runs.questions)
    if "meanings" not in job.recorder.manifest["stages_done"]:
        write_runs(job.recorder.folder, runs, None)
    counted = count_runs(config, runs.questions, runs.runs)
    every = [run for row in runs.runs for run in row]
    counts = {
        "questions_asked": len(runs.questions) + len(runs.too_long),
        "questions": len(runs.questions),
        "questions_too_long": len(runs.too_long),
        "samples": len(every),
        "samples_cut_off": sum(run.finish_reason == "length" for run in every),
        "tokens": sum(len(run.token_ids) for run in every),
        "runs_retokenised": runs.retokenised,
        "runs": {name: asdict(each) for name, each in counted.items()},
    }
    if runs.generated or "backend" not in job.recorder.manifest:
        job.recorder.manifest["backend"] = runs.backend
    job.recorder.done(counts, {"generated": runs.generated})
    return runs


def meaning_stage(job: Job, config: ReasoningConfig, runs: Runs) -> StudyMeanings:
    """Group the valid runs of each question, and write samples.parquet anew."""
    job.recorder.begin("meanings")
    meanings = find_study_meanings(config, runs, job.store, job.progress)
    if not meanings.kept:
        raise UserError(
            f"no question has {min(config.min_runs, config.k)} valid runs of {config.k}: "
            f"{_why_none(config, runs)}; raise --max-new-tokens or --runs, or lower --min-runs"
        )
    if "hidden" not in job.recorder.manifest["stages_done"]:
        write_runs(job.recorder.folder, runs, meanings)
    job.recorder.done({"judge": meanings.judge}, meanings.work)
    return meanings


def hidden_stage(
    job: Job, config: ReasoningConfig, runs: Runs, meanings: StudyMeanings
) -> tuple[Runs, ValidRuns, Traced]:
    """Read hidden states and missing entropies, and write hidden/."""
    job.recorder.begin("hidden")
    valid = valid_runs(runs, meanings)
    traced = trace(config, valid.prompt_ids, valid.runs, job.store, job.progress)
    lacking = sum(run.entropy_kind != "full" for run in valid.runs)
    if lacking:
        runs, valid = _with_entropies(job, config, runs, meanings, valid)
    write_runs(job.recorder.folder, runs, meanings)
    counts = {
        "position": traced.position,
        "position_reason": traced.reason,
        "entropies_forced": lacking,
    }
    job.recorder.done(counts, {})
    return runs, valid, traced


def table_stage(
    job: Job, config: ReasoningConfig, runs: Runs, meanings: StudyMeanings, valid: ValidRuns
) -> RunTable:
    """Label and split the valid runs; write probe_table.parquet and questions_scored.parquet."""
    job.recorder.begin("tables")
    table = make_table(config, runs, meanings, valid)
    write_table(job.recorder.folder, table)
    write_study_scores(job.recorder.folder, runs, meanings, table)
    rows = {split: int(table.rows(split).sum()) for split in SPLITS}
    job.recorder.done({"rows": rows}, {})
    return table


def probe_stage(
    job: Job, config: ReasoningConfig, table: RunTable, traced: Traced
) -> tuple[StudyProbes, dict[str, Prediction]]:
    """Fit the probes, and write probes/."""
    job.recorder.begin("probes")
    probes = train_study_probes(table, traced, progress=job.progress)
    write_study_probes(job.recorder.folder, config, job.recorder.hashes, probes)
    job.recorder.done({"probes": len(probes.probes)}, {})
    return probes, predict_study(probes, table, traced)


def evaluation_stage(
    job: Job,
    config: ReasoningConfig,
    runs: Runs,
    table: RunTable,
    traced: Traced,
    probes: StudyProbes,
    predictions: dict[str, Prediction],
) -> None:
    """Score the probes in and out of distribution; write metrics.json and assessment.json."""
    job.recorder.begin("evaluation")
    assessment = assess_study(
        table, predictions, probes, traced,
        n_bootstrap=config.n_bootstrap, n_permutations=config.n_permutations, seed=config.seed,
        progress=job.progress,
    )  # fmt: skip
    counts = count_runs(config, runs.questions, runs.runs)
    folder = job.recorder.folder
    write_json(folder / "metrics.json", metrics_as_json(table, probes, assessment, counts))
    thresholds = (table.threshold, table.threshold_median)
    write_study_assessment(folder, probes, assessment, counts, thresholds)
    job.recorder.done({}, {})


def analysis_stage(
    job: Job,
    config: ReasoningConfig,
    runs: Runs,
    valid: ValidRuns,
    table: RunTable,
    traced: Traced,
    probes: StudyProbes,
    predictions: dict[str, Prediction],
) -> None:
    """Write analysis.parquet, which the dashboard reads."""
    job.recorder.begin("analysis")
    tokenizer = load_tokenizer(identify(config.model))
    write_analysis_table(
        job.recorder.folder / ANALYSIS,
        config=config,
        questions={q.id: q for q in runs.questions},
        runs=valid.runs,
        table=table,
        predictions=predictions,
        traced=traced,
        probes=probes,
        token_texts=lambda ids: token_texts(tokenizer, ids),
        store=job.store,
        progress=job.progress,
    )
    job.recorder.done({}, {})
    job.store.put(finished_key(config), {"stages": job.recorder.manifest["stages_done"]})


def _with_entropies(
    job: Job, config: ReasoningConfig, runs: Runs, meanings: StudyMeanings, valid: ValidRuns
) -> tuple[Runs, ValidRuns]:
    """The same runs with the entropies of the full vocabulary, by one forward of the model."""
    forced = forced_entropies(config, valid.prompt_ids, valid.runs, job.store, job.progress)
    known = {
        (valid.runs[i].question_id, valid.runs[i].run_id): replace(
            valid.runs[i],
            token_entropies=rounded(each.entropies.tolist()),
            token_logprobs=rounded(each.logprobs.tolist()),
            entropy_kind="full",
        )
        for i, each in forced.items()
    }
    rows = tuple(
        tuple(known.get((run.question_id, run.run_id), run) for run in row) for row in runs.runs
    )
    changed = replace(runs, runs=rows)
    return changed, valid_runs(changed, meanings)


def _why_none(config: ReasoningConfig, runs: Runs) -> str:
    """The rules that left runs out, with their counts."""
    reasons: dict[str, int] = {}
    for each in count_runs(config, runs.questions, runs.runs).values():
        for rule, count in each.excluded.items():
            reasons[rule] = reasons.get(rule, 0) + count
    return ", ".join(f"{count} runs: {rule}" for rule, count in reasons.items()) or "no runs"
