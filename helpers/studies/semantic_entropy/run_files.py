"""The run folder of the main study: what each stage writes, and opening it without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import Grade
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.evaluation.records import as_plain
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates, open_hidden_states
from helpers.probes.store import save_probe
from helpers.probes.training import Targets, TrainedProbes
from helpers.store.files import DamagedEntry, read_arrays, write_arrays, write_json
from helpers.store.run_folder import ASSESSMENT, or_none, read_manifest, write_parquet
from helpers.studies.registry import check_study, stored_config
from helpers.studies.semantic_entropy.assessment import Assessment
from helpers.studies.semantic_entropy.config import STUDY_NAME, SemanticEntropyConfig
from helpers.studies.semantic_entropy.labels import Meanings, make_targets
from helpers.uncertainty.estimators import ESTIMATORS

ANSWER_ORDER = "premise, hypothesis: the samples in their order, then the most likely answer"
JUDGEMENTS, LABELS = "judgements.safetensors", "contradiction_neutral_entailment"


def write_questions(folder: Path, answers: SampledAnswers) -> None:
    """`questions.parquet`: id, question, answer, final_answer, split, source."""
    names = ("id", "question", "answer", "final_answer", "split", "source")
    columns = {name: [getattr(q, name) for q in answers.questions] for name in names}
    write_parquet(folder / "questions.parquet", columns)


def write_samples(folder: Path, answers: SampledAnswers, meanings: Meanings) -> None:
    """`samples.parquet`: one row an answer; sample_id -1 is the most likely, without a cluster."""
    columns: dict[str, list] = {
        name: []
        for name in (
            "question_id", "sample_id", "text", "final_answer", "status", "correct", "cluster",
            "token_ids", "token_logprobs", "token_entropies", "finish_reason",
        )
    }  # fmt: skip
    for i, row in enumerate(answers.samples):
        grades = meanings.grades[i] or (None,) * len(row)
        greedy = (answers.greedy[i], meanings.greedy_grades[i], None)
        for sample, grade, cluster in (
            greedy,
            *zip(row, grades, meanings.clusters[i], strict=True),
        ):
            for name in ("question_id", "sample_id", "text", "finish_reason"):
                columns[name].append(getattr(sample, name))
            for name in ("token_ids", "token_logprobs", "token_entropies"):
                columns[name].append(list(getattr(sample, name)))
            columns["final_answer"].append(grade.final_answer if grade else None)
            columns["status"].append(grade.status if grade else None)
            columns["correct"].append(grade.correct if grade else None)
            columns["cluster"].append(cluster)
    write_parquet(folder / "samples.parquet", columns)


def write_judgements(folder: Path, answers: SampledAnswers, judgements: np.ndarray) -> None:
    """`judgements.safetensors`: the judge's probabilities for all pairs of a question's answers."""
    header = {"rows": json.dumps([q.id for q in answers.questions]), "answers": ANSWER_ORDER}
    write_arrays(folder / JUDGEMENTS, {LABELS: judgements}, header)


def write_scores(
    folder: Path,
    answers: SampledAnswers,
    meanings: Meanings,
    uncertainty: Mapping[str, np.ndarray],
    targets: Targets,
    predicted: Mapping[str, np.ndarray] | None = None,
) -> None:
    """`questions_scored.parquet`: one row a question, with every estimator and probe."""
    columns: dict[str, Sequence] = {
        "question_id": [q.id for q in answers.questions],
        "split": [q.split for q in answers.questions],
        "k": [len(row) for row in answers.samples],
        "accuracy": [_share_correct(grades) for grades in meanings.grades],
        "unanswered": [
            None if grades is None else sum(g.status == "unanswered" for g in grades)
            for grades in meanings.grades
        ],
        "greedy_status": [g.status if g else None for g in meanings.greedy_grades],
        **{name: or_none(values) for name, values in uncertainty.items()},
        "high_semantic_entropy": or_none(targets.high),
        **{f"probe_{name}": or_none(values) for name, values in (predicted or {}).items()},
    }
    write_parquet(folder / "questions_scored.parquet", columns)


def write_probes(
    folder: Path, config: RunConfig, hashes: Mapping[str, str], trained: TrainedProbes
) -> None:
    """`probes/<name>.safetensors` and `.json`, each with what is needed to use it alone."""
    for probe in (*trained.probes.values(), *trained.hybrids.values()):
        card = {
            **hashes,
            "model": config.model,
            "prompt_template": config.prompt_template,
            "chat": config.chat,
            "thinking": config.thinking,
            "dtype": config.dtype,
            "run": config.run_name(),
        }
        save_probe(probe, folder / "probes", card=card)


def write_assessment(folder: Path, trained: TrainedProbes, assessment: Assessment) -> None:
    """`assessment.json`: sweeps, scores and curves in full, for opening the run again.

    Predictions stand in questions_scored.parquet.
    """
    parts = {f.name: getattr(assessment, f.name) for f in fields(assessment)}
    del parts["predicted"]
    record = {"sweeps": trained.sweeps, "undefined": trained.undefined, "assessment": parts}
    write_json(folder / ASSESSMENT, as_plain(record))


def metrics_as_json(trained: TrainedProbes, assessment: Assessment, targets: Targets) -> dict:
    """Every number of the report with interval, n and p-value, as plain JSON."""

    def table(scores: Mapping[str, Mapping[str, Any]]) -> dict:
        return {
            predictor: {name: score.as_dict() for name, score in row.items()}
            for predictor, row in scores.items()
        }

    return {
        "threshold_nats": targets.threshold,
        "chosen": {
            name: {
                "position": sweep.best_position,
                "layer": sweep.best_layer,
                "regularisation": sweep.best_regularisation,
                "validation_score": sweep.best_score,
                "validation_score_name": sweep.score_name,
            }
            for name, sweep in trained.sweeps.items()
        },
        "undefined_probes": trained.undefined,
        "semantic_entropy": table(assessment.regression),
        "high_semantic_entropy": table(assessment.high_entropy),
        "wrong_answer": table(assessment.wrong_answer),
        "auroc_difference_to_baseline": {
            name: score.as_dict() for name, score in assessment.differences.items()
        },
        "hybrid": assessment.hybrid.as_dict() if assessment.hybrid else None,
        "test_maps": {
            name: {
                "score_name": shown.score_name,
                "positions": list(shown.positions),
                "layers": list(shown.layers),
                "score": None if shown.score is None else shown.score.round(6).tolist(),
                "n": shown.n,
                "undefined": shown.undefined,
            }
            for name, shown in assessment.test_maps.items()
        },
        "tripwires": [asdict(tripwire) for tripwire in assessment.tripwires],
    }


def _share_correct(grades: Sequence | None) -> float | None:
    """Correct answers among those that state one; None when there are none."""
    known = [g.correct for g in grades or () if g.correct is not None]
    return sum(known) / len(known) if known else None


# --- opening a run folder ------------------------------------------------------------------------


PROBE = "probe_"
"""What the columns of probes' predictions begin with in questions_scored.parquet."""


@dataclass(frozen=True)
class StoredRun:
    """The records of a run folder, in the questions' order."""

    folder: Path
    manifest: dict[str, Any]
    answers: SampledAnswers
    meanings: Meanings
    uncertainty: dict[str, np.ndarray]
    """Estimator to `[n]`, NaN where it was not computed."""
    targets: Targets
    predicted: dict[str, np.ndarray]
    """Probe to its prediction for every question, `[n]`."""
    judgements: np.ndarray | None
    """`[n, K + 1, K + 1, 3]`: P(contradiction), P(neutral), P(entailment) with answer i as premise
    and j as hypothesis, the most likely answer last; None without an NLI judge."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def config(self) -> SemanticEntropyConfig:
        """The config of the run; where it was executed is not part of it."""
        return stored_config(self.folder, self.manifest, SemanticEntropyConfig)

    @property
    def positions(self) -> tuple[str, ...]:
        """The positions whose hidden states are stored, in the order of the config."""
        stored = {path.stem for path in (self.folder / "hidden").glob("*.safetensors")}
        order = self.manifest["config"].get("positions", sorted(stored))
        return tuple(name for name in order if name in stored)

    def hidden(self, position: str) -> np.ndarray:
        """Hidden states at a position, `[n, layers + 1, width]`, mapped from disk, not read."""
        path = self.folder / "hidden" / f"{position}.safetensors"
        if not path.is_file():
            there = ", ".join(self.positions) or "none"
            raise UserError(
                f"{self.folder} has no hidden states at {position!r} (there are: {there}); run "
                "the same command again with --positions"
            )
        return self.states((position,)).hidden[position]

    def states(self, positions: Sequence[str]) -> HiddenStates:
        """Hidden states at some positions; they must be of this run's questions and model."""
        return open_hidden_states(
            self.folder,
            positions,
            rows=[q.id for q in self.answers.questions],
            model_hash=self.manifest.get("hashes", {}).get("model_hash"),
        )

    def metrics(self) -> dict[str, Any]:
        """Every number of `metrics.json`; raises `UserError` where the run has none yet."""
        path = self.folder / "metrics.json"
        if not path.is_file():
            raise UserError(f"{self.folder} has no metrics.json: finish it with `sep run` first")
        return json.loads(path.read_text(encoding="utf-8"))


def read_run(folder: Path) -> StoredRun:
    """Open a run folder; raises `UserError` where it is absent, unfinished or damaged."""
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is no run folder (it has no manifest.json); name one of outputs")
    check_study(folder, manifest, STUDY_NAME)
    if "meanings" not in manifest.get("stages_done", ()):
        raise UserError(f"{folder} is a run that has not come to its meanings: finish it first")
    questions = _read_questions(folder)
    scored = _read_columns(folder / "questions_scored.parquet")
    answers, meanings = _read_samples(folder, questions, manifest)
    n = len(questions)
    uncertainty = {name: _numbers(scored.get(name), n) for name in ESTIMATORS}
    predicted = {
        name.removeprefix(PROBE): _numbers(column, n)
        for name, column in scored.items()
        if name.startswith(PROBE)
    }
    return StoredRun(
        folder=folder,
        manifest=manifest,
        answers=answers,
        meanings=meanings,
        uncertainty=uncertainty,
        targets=make_targets(answers, meanings, uncertainty),
        predicted=predicted,
        judgements=_read_judgements(folder),
    )


def _read_questions(folder: Path) -> tuple[Question, ...]:
    columns = _read_columns(folder / "questions.parquet")
    try:
        rows = zip(*(columns[name] for name in Question.__dataclass_fields__), strict=True)
        return tuple(Question(*row) for row in rows)
    except KeyError as error:
        raise UserError(
            f"{folder / 'questions.parquet'} has no column {error}; run the same command again"
        ) from error


def _read_samples(
    folder: Path, questions: tuple[Question, ...], manifest: Mapping[str, Any]
) -> tuple[SampledAnswers, Meanings]:
    """The answers and their meanings; rows stand in the file by question, the greedy one first."""
    columns = _read_columns(folder / "samples.parquet")
    lists = ("token_ids", "token_logprobs", "token_entropies")
    names = ("question_id", "sample_id", "text", *lists, "finish_reason")
    rows: dict[str, list[tuple[Sample, Grade | None, int | None]]] = {q.id: [] for q in questions}
    try:
        for i, owner in enumerate(columns["question_id"]):
            fields: dict[str, Any] = {
                name: tuple(columns[name][i]) if name in lists else columns[name][i]
                for name in names
            }
            status = columns["status"][i]
            graded = None if status is None else Grade(columns["final_answer"][i], status)
            rows[owner].append((Sample(**fields), graded, columns["cluster"][i]))
    except KeyError as error:
        raise UserError(
            f"{folder / 'samples.parquet'} does not fit questions.parquet ({error}); run the same "
            "command again"
        ) from error
    samples, greedy, clusters, grades, greedy_grades = [], [], [], [], []
    for owned in rows.values():
        by_id = sorted(owned, key=lambda row: row[0].sample_id)
        if not by_id or by_id[0][0].sample_id != GREEDY:
            raise UserError(f"{folder / 'samples.parquet'} lacks answers; run the command again")
        greedy.append(by_id[0][0])
        greedy_grades.append(by_id[0][1])
        samples.append(tuple(sample for sample, _, _ in by_id[1:]))
        clusters.append(tuple(int(c or 0) for _, _, c in by_id[1:]))
        graded_row = [g for _, g, _ in by_id[1:]]
        grades.append(None if None in graded_row else tuple(g for g in graded_row if g))
    judge = manifest.get("counts", {}).get("judge", "")
    return (
        SampledAnswers(questions, tuple(samples), tuple(greedy), (), 0),
        Meanings(tuple(clusters), tuple(grades), tuple(greedy_grades), judge),
    )


def _read_judgements(folder: Path) -> np.ndarray | None:
    path = folder / JUDGEMENTS
    if not path.is_file():
        return None
    try:
        return read_arrays(path)[LABELS]
    except (DamagedEntry, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); run the same command again") from error


def _read_columns(path: Path) -> dict[str, list]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} is missing; run the same command again")
    try:
        return pq.read_table(path).to_pydict()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); run the same command again") from error


def _numbers(column: list | None, n: int) -> np.ndarray:
    values = [None] * n if column is None else column
    return np.array([np.nan if v is None else v for v in values], dtype=float)
