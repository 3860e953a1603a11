"""Opens a run folder: the same records as the run had, without a model and without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from helpers.config import RunConfig, stored_config
from helpers.datasets import Question
from helpers.errors import UserError
from helpers.grading import Grade
from helpers.meanings import Meanings
from helpers.pipeline import SampledAnswers
from helpers.probe_training import Targets, make_targets
from helpers.run_folder import JUDGEMENTS, LABELS, read_manifest
from helpers.sampling import GREEDY, Sample
from helpers.stages import study_of
from helpers.store import DamagedEntry, map_array, read_arrays
from helpers.uncertainty import ESTIMATORS

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
    def config(self) -> RunConfig:
        """The config of the run; where it was executed is not part of it."""
        try:
            return stored_config(self.manifest["config"])
        except (ValidationError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.folder / 'manifest.json'} holds a config that this version does not know "
                f"({reason}); run the same command again with this version"
            ) from error

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
        try:
            states = map_array(path, "hidden")
        except DamagedEntry as error:
            raise UserError(f"{path} is damaged ({error}); run the same command again") from error
        if len(states) != len(self.answers.questions):
            raise UserError(
                f"{path} has {len(states)} rows for {len(self.answers.questions)} questions; run "
                "the same command again"
            )
        return states

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
    if study_of(manifest):
        raise UserError(
            f"{folder} is a run of the study “{study_of(manifest)}”; open it there: "
            f"studies/{study_of(manifest)}.py, or the dashboard probe_analysis.py"
        )
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
    names = tuple(Sample.__dataclass_fields__)
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
