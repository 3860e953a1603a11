"""The stages of the study: each takes the run so far, writes its files, and returns the run."""

from __future__ import annotations

from dataclasses import asdict, replace

from helpers.errors import UserError
from helpers.generation.records import rounded
from helpers.models.loading import identify, load_tokenizer
from helpers.models.tokens import token_texts
from helpers.store.files import write_json
from helpers.studies.reasoning.analysis_table import write_run_analysis
from helpers.studies.reasoning.assessment import assess_study, metrics_as_json
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.labels import (
    ValidRuns,
    find_study_meanings,
    make_table,
    valid_runs,
)
from helpers.studies.reasoning.probes import predict_study, train_study_probes
from helpers.studies.reasoning.records import SPLITS
from helpers.studies.reasoning.run_files import (
    ANALYSIS,
    StudyRun,
    write_runs,
    write_study_assessment,
    write_study_probes,
    write_study_questions,
    write_study_scores,
    write_table,
)
from helpers.studies.reasoning.runs import Runs, count_runs, generate_runs, study_questions
from helpers.studies.reasoning.states import forced_entropies, trace
from helpers.studies.study import Done, Job


def sample_stage(job: Job, run: StudyRun) -> Done:
    """Generate the runs, and write questions.parquet and samples.parquet."""
    questions = study_questions(run.config, job.progress)
    runs = generate_runs(run.config, questions, job.store, job.progress)
    write_study_questions(run.folder, runs.questions)
    if "meanings" not in run.manifest["stages_done"]:
        write_runs(run.folder, runs, None)
    counted = count_runs(run.config, runs.questions, runs.runs)
    every = [each for row in runs.runs for each in row]
    counts = {
        "questions_asked": len(runs.questions) + len(runs.too_long),
        "questions": len(runs.questions),
        "questions_too_long": len(runs.too_long),
        "samples": len(every),
        "samples_cut_off": sum(each.finish_reason == "length" for each in every),
        "tokens": sum(len(each.token_ids) for each in every),
        "runs_retokenised": runs.retokenised,
        "runs": {name: asdict(each) for name, each in counted.items()},
    }
    if runs.generated or "backend" not in job.recorder.manifest:
        job.recorder.manifest["backend"] = runs.backend
    return Done(replace(run, runs=runs), counts, {"generated": runs.generated})


def meaning_stage(job: Job, run: StudyRun) -> Done:
    """Group the valid runs of each question, and write samples.parquet anew."""
    config = run.config
    meanings = find_study_meanings(config, run.runs, job.store, job.progress)
    if not meanings.kept:
        raise UserError(
            f"no question has {min(config.min_runs, config.k)} valid runs of {config.k}: "
            f"{_why_none(config, run.runs)}; raise --max-new-tokens or --runs, or lower --min-runs"
        )
    if "hidden" not in run.manifest["stages_done"]:
        write_runs(run.folder, run.runs, meanings)
    return Done(replace(run, meanings=meanings), {"judge": meanings.judge}, meanings.work)


def hidden_stage(job: Job, run: StudyRun) -> Done:
    """Read hidden states and missing entropies, and write hidden/."""
    runs, valid = run.runs, valid_runs(run.runs, run.meanings)
    traced = trace(run.config, valid.prompt_ids, valid.runs, job.store, job.progress)
    lacking = sum(each.entropy_kind != "full" for each in valid.runs)
    if lacking:
        runs, valid = _with_entropies(job, run, valid)
    write_runs(run.folder, runs, run.meanings)
    counts = {
        "position": traced.position,
        "position_reason": traced.reason,
        "entropies_forced": lacking,
    }
    return Done(replace(run, runs=runs, valid=valid, traced=traced), counts)


def table_stage(job: Job, run: StudyRun) -> Done:
    """Label and split the valid runs; write probe_table.parquet and questions_scored.parquet."""
    table = make_table(run.config, run.runs, run.meanings, run.valid)
    write_table(run.folder, table)
    write_study_scores(run.folder, run.runs, run.meanings, table)
    rows = {split: int(table.rows(split).sum()) for split in SPLITS}
    return Done(replace(run, table=table), {"rows": rows})


def probe_stage(job: Job, run: StudyRun) -> Done:
    """Fit the probes, and write probes/."""
    assert run.table is not None  # made by the stage before
    probes = train_study_probes(run.table, run.traced, progress=job.progress)
    write_study_probes(run.folder, run.config, job.recorder.hashes, probes)
    predictions = predict_study(probes, run.table, run.traced)
    counts = {"probes": len(probes.probes), "probes_undefined": probes.undefined}
    return Done(replace(run, probes=probes, predictions=predictions), counts)


def evaluation_stage(job: Job, run: StudyRun) -> Done:
    """Score the probes in and out of distribution; write metrics.json and assessment.json."""
    config, table, probes = run.config, run.table, run.probes
    assert table is not None  # made by the stages before
    assert probes is not None
    assessment = assess_study(
        table, run.predictions, probes, run.traced,
        n_bootstrap=config.n_bootstrap, n_permutations=config.n_permutations, seed=config.seed,
        progress=job.progress,
    )  # fmt: skip
    counts = count_runs(config, run.runs.questions, run.runs.runs)
    write_json(run.folder / "metrics.json", metrics_as_json(table, probes, assessment, counts))
    thresholds = (table.threshold, table.threshold_median)
    write_study_assessment(run.folder, probes, assessment, counts, thresholds)
    return Done(replace(run, assessment=assessment, counts=counts))


def analysis_stage(job: Job, run: StudyRun) -> Done:
    """Write analysis.parquet, which the dashboard reads."""
    assert run.table is not None  # made by the stages before
    assert run.probes is not None
    tokenizer = load_tokenizer(identify(run.config.model))
    write_run_analysis(
        run.folder / ANALYSIS,
        config=run.config,
        questions={q.id: q for q in run.runs.questions},
        runs=run.valid.runs,
        table=run.table,
        predictions=run.predictions,
        traced=run.traced,
        probes=run.probes,
        token_texts=lambda ids: token_texts(tokenizer, ids),
        store=job.store,
        progress=job.progress,
    )
    return Done(run)


def _with_entropies(job: Job, run: StudyRun, valid: ValidRuns) -> tuple[Runs, ValidRuns]:
    """The same runs with the entropies of the full vocabulary, by one forward of the model."""
    forced = forced_entropies(run.config, valid.prompt_ids, valid.runs, job.store, job.progress)
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
        tuple(known.get((each.question_id, each.run_id), each) for each in row)
        for row in run.runs.runs
    )
    changed = replace(run.runs, runs=rows)
    return changed, valid_runs(changed, run.meanings)


def _why_none(config: ReasoningConfig, runs: Runs) -> str:
    """The rules that left runs out, with their counts."""
    reasons: dict[str, int] = {}
    for each in count_runs(config, runs.questions, runs.runs).values():
        for rule, count in each.excluded.items():
            reasons[rule] = reasons.get(rule, 0) + count
    return ", ".join(f"{count} runs: {rule}" for rule, count in reasons.items()) or "no runs"
