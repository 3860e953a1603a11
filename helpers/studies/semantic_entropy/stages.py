"""The stages of the study: each takes the run so far, writes its files, and returns the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helpers.errors import UserError
from helpers.generation.samples import answer_questions, choose_questions, sample_counts
from helpers.hidden_states.stored import read_hidden_states
from helpers.models.forwards import TokenSequence
from helpers.probes.training import train_probes
from helpers.store.files import write_json
from helpers.studies.semantic_entropy.analyses import analyse
from helpers.studies.semantic_entropy.assessment import assess
from helpers.studies.semantic_entropy.config import ANALYSES
from helpers.studies.semantic_entropy.estimation import estimate, with_full_entropies
from helpers.studies.semantic_entropy.labels import (
    Meanings,
    find_meanings,
    judge_counts,
    make_targets,
)
from helpers.studies.semantic_entropy.records import Run
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
from helpers.studies.study import Done, Job


def sample_stage(job: Job, run: Run) -> Done:
    """Sample the answers, and write questions.parquet."""
    questions = choose_questions(job.config)
    answers = answer_questions(job.config, questions, job.store, job.progress)
    counts = sample_counts(answers)
    answers = with_full_entropies(job.config, answers, job.store, job.progress)
    write_questions(run.folder, answers)
    if answers.generated or "backend" not in job.recorder.manifest:
        job.recorder.manifest["backend"] = answers.backend
    return Done(replace(run, answers=answers), counts, {"generated": answers.generated})


def meaning_stage(job: Job, run: Run) -> Done:
    """Group the answers by meaning, grade them, and write samples.parquet."""
    meanings = find_meanings(job.config, run.answers, job.store, job.progress)
    write_samples(run.folder, run.answers, meanings)
    return Done(replace(run, meanings=meanings), meaning_counts(meanings), judge_counts(meanings))


def uncertainty_stage(job: Job, run: Run) -> Done:
    """Compute every estimator, and write judgements.safetensors and questions_scored.parquet."""
    found = estimate(job.config, run.answers, run.meanings, job.store, job.progress)
    targets = make_targets(run.answers, run.meanings, found.values)
    if found.judgements is not None:
        write_judgements(run.folder, run.answers, found.judgements)
    if "evaluation" not in run.manifest["stages_done"]:
        write_scores(run.folder, run.answers, run.meanings, found.values, targets)
    computed = len(found.values) - len(found.skipped)
    counts = {"estimators": computed, "estimators_skipped": found.skipped, **found.counts}
    run = replace(
        run, uncertainty=found.values, skipped=found.skipped, judgements=found.judgements,
        targets=targets,
    )  # fmt: skip
    return Done(run, counts, found.work)


def hidden_stage(job: Job, run: Run) -> Done:
    """Read hidden states of each prompt with its most likely answer, and write hidden/."""
    pairs = zip(run.answers.prompts, run.answers.greedy, strict=True)
    states = read_hidden_states(
        job.config,
        [TokenSequence(prompt.token_ids, greedy.token_ids) for prompt, greedy in pairs],
        [q.id for q in run.answers.questions],
        job.config.positions, run.folder, job.store, job.progress, unit="questions",
    )  # fmt: skip
    stand_ins = {name: int(rows.sum()) for name, rows in states.stand_ins.items()}
    return Done(replace(run, states=states), {"stand_ins": stand_ins})


def probe_stage(job: Job, run: Run) -> Done:
    """Train the probes, and write probes/."""
    trained = train_probes(job.config, run.states, run.targets, job.store, job.progress)
    write_probes(run.folder, job.config, job.recorder.hashes, trained)
    made = len(trained.probes) + len(trained.hybrids)
    counts = {"probes": made, "probes_undefined": trained.undefined}
    return Done(replace(run, trained=trained), counts)


def evaluation_stage(job: Job, run: Run) -> Done:
    """Score the probes on the test questions, and write metrics.json and assessment.json."""
    uncertainty, targets, trained = run.uncertainty, run.targets, run.trained
    assessment = assess(
        job.config, run.answers, uncertainty, run.states, targets, trained, job.progress
    )
    write_scores(run.folder, run.answers, run.meanings, uncertainty, targets, assessment.predicted)
    write_json(run.folder / "metrics.json", metrics_as_json(trained, assessment, targets))
    write_assessment(run.folder, trained, assessment)
    return Done(replace(run, assessment=assessment))


def analyses_stage(job: Job, run: Run) -> Done:
    """The analyses that the config wants, by name; one that is impossible here is left out.

    Each reads the run folder and writes `analyses/<name>.json`; why one is left out stands in the
    manifest.
    """
    stored, found, skipped = read_run(run.folder), {}, {}
    for name in ANALYSES:
        if not job.config.wants(name):
            continue
        try:
            found[name] = analyse(name, stored, job.config, job.store, job.progress)
        except UserError as reason:
            skipped[name] = str(reason)
    computed = sum(not analysis.reused for analysis in found.values())
    return Done(replace(run, analyses=found), {"analyses_skipped": skipped}, {"computed": computed})


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
