"""The run folder of the study: what each stage writes, and opening it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analyses.run import pending
from helpers.data.questions import Question
from helpers.errors import REPEAT, UserError
from helpers.evaluation.records import as_plain, from_plain
from helpers.probes.probe import Sweep
from helpers.probes.store import load_probe, save_probe
from helpers.store.files import write_json
from helpers.store.run_folder import ASSESSMENT, or_none, read_manifest, write_parquet
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.labels import StudyMeanings, ValidRuns, table_columns
from helpers.studies.reasoning.records import (
    PREDICTORS,
    Prediction,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
    Traced,
)
from helpers.studies.reasoning.runs import Runs, thinking_entropy
from helpers.studies.registry import stored_config

TABLE, ANALYSIS = "probe_table.parquet", "analysis.parquet"


@dataclass(frozen=True)
class StudyRun:
    """A run of the study; parts that are still to come are None or `Pending`."""

    config: ReasoningConfig
    folder: Path
    manifest: dict[str, Any]
    counts: Mapping[str, RunCounts] = field(default_factory=dict)
    """For "in" and "ood" distribution."""
    table: RunTable | None = None
    probes: StudyProbes | None = None
    assessment: StudyAssessment | None = None
    # What follows is known while a run is made, and not read again from its folder.
    runs: Runs = pending("samples")
    meanings: StudyMeanings = pending("meanings")
    valid: ValidRuns = pending("hidden")
    traced: Traced = pending("hidden")
    predictions: Mapping[str, Prediction] = pending("probes")


def write_study_questions(folder: Path, questions: Sequence[Question]) -> None:
    """`questions.parquet`: id, question, answer, final_answer, split ("ood" included), source."""
    names = ("id", "question", "answer", "final_answer", "split", "source")
    columns = {name: [getattr(q, name) for q in questions] for name in names}
    write_parquet(folder / "questions.parquet", columns)


def write_runs(folder: Path, runs: Runs, meanings: StudyMeanings | None) -> None:
    """`samples.parquet`: one row a run, those left out included, with the rule that left it out."""
    groups = {
        (each.row, run_id): (final, whole)
        for each in (meanings.kept if meanings else ())
        for run_id, final, whole in zip(each.run_ids, each.final, each.whole, strict=True)
    }
    copied = (
        "question_id", "run_id", "text", "thinking", "answer", "final_answer", "status", "correct",
        "excluded", "finish_reason", "entropy_kind",
    )  # fmt: skip
    columns: dict[str, list] = {name: [] for name in copied}
    more = (
        "dataset", "token_ids", "token_logprobs", "token_entropies", "thinking_start",
        "thinking_end", "thinking_entropy", "cluster_final", "cluster_answer",
    )  # fmt: skip
    columns |= {name: [] for name in more}
    for i, row in enumerate(runs.runs):
        for run in row:
            for name in copied:
                columns[name].append(getattr(run, name))
            start, end = run.thinking_span or (None, None)
            final, whole = groups.get((i, run.run_id), (None, None))
            values = (
                runs.questions[i].source, list(run.token_ids), list(run.token_logprobs),
                list(run.token_entropies), start, end, thinking_entropy(run), final, whole,
            )  # fmt: skip
            for name, value in zip(more, values, strict=True):
                columns[name].append(value)
    write_parquet(folder / "samples.parquet", columns)


def write_study_scores(folder: Path, runs: Runs, meanings: StudyMeanings, table: RunTable) -> None:
    """`questions_scored.parquet`: one row a kept question, with its semantic entropies."""
    kept = meanings.kept
    asked = [runs.questions[each.row] for each in kept]
    first = {name: i for i, name in reversed(list(enumerate(table.question_id.tolist())))}
    at = [first[q.id] for q in asked]
    known = [table.correct[table.question_id == q.id] for q in asked]
    columns: dict[str, Sequence] = {
        "question_id": [q.id for q in asked],
        "dataset": [q.source for q in asked],
        "split": [q.split for q in asked],
        "valid_runs": [len(each.run_ids) for each in kept],
        "accuracy": [float(np.nanmean(c)) if (~np.isnan(c)).any() else None for c in known],
        "semantic_entropy_final": [each.final_entropy for each in kept],
        "semantic_entropy_answer": [each.whole_entropy for each in kept],
        "high_semantic_entropy": or_none(table.high[at]),
        "high_semantic_entropy_median": or_none(table.high_median[at]),
    }
    write_parquet(folder / "questions_scored.parquet", columns)


def write_table(folder: Path, table: RunTable) -> None:
    """`probe_table.parquet`: one row a valid run; row i belongs to state i of `hidden/`."""
    import pyarrow as pa

    columns = {
        name: or_none(values) if values.dtype.kind == "f" else values.tolist()
        for name, values in table_columns(table).items()
    }
    floats = [n for n, v in table_columns(table).items() if v.dtype.kind == "f"]
    # A column of which nothing is known keeps its type.
    typed = {n: pa.array(c, pa.float64()) if n in floats else c for n, c in columns.items()}
    write_parquet(folder / TABLE, typed)


def write_study_probes(
    folder: Path, config: ReasoningConfig, hashes: Mapping[str, str], probes: StudyProbes
) -> None:
    """`probes/<name>.safetensors` and `.json`, each with what is needed to use it alone."""
    card = {
        **hashes,
        "model": config.model,
        "prompt_template": config.prompt_template,
        "chat": config.chat,
        "thinking": config.thinking,
        "dtype": config.dtype,
        "run": config.run_name(),
    }
    for probe in probes.probes.values():
        save_probe(probe, folder / "probes", card=card)


def write_study_assessment(
    folder: Path,
    probes: StudyProbes,
    assessment: StudyAssessment,
    counts: Mapping[str, RunCounts],
    thresholds: tuple[float | None, float | None],
) -> None:
    """`assessment.json`: sweeps, scores and curves in full, for opening the run again."""
    record = {
        "sweeps": probes.sweeps,
        "undefined": probes.undefined,
        "assessment": assessment,
        "counts": dict(counts),
        "thresholds": list(thresholds),
    }
    write_json(folder / ASSESSMENT, as_plain(record))


def open_study(folder: Path) -> StudyRun:
    """Everything that the study's notebook shows of a run folder; no model, no store, no torch.

    Raises `UserError` where the folder is absent, damaged, or of another study or version.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} is no run folder (it has no manifest.json); name one of outputs")
    config = stored_config(folder, manifest, ReasoningConfig)
    config = config.model_copy(update={"out": folder.parent})
    if "evaluation" not in manifest["stages_done"]:
        return StudyRun(config, folder, manifest)
    found = _read_assessment(folder)
    probes = {}
    for name in PREDICTORS:
        if (folder / "probes" / f"{name}.json").is_file():
            probes[name] = load_probe(folder / "probes" / f"{name}.json").probe
            _check_model(folder, name, manifest)
    return StudyRun(
        config,
        folder,
        manifest,
        found["counts"],
        read_table(folder, *found["thresholds"]),
        StudyProbes(probes, found["sweeps"], found["undefined"]),  # type: ignore[arg-type]
        found["assessment"],
    )


def read_table(folder: Path, threshold: float | None, threshold_median: float | None) -> RunTable:
    """The table of valid runs; raises `UserError` where it is absent or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / TABLE
    try:
        stored = pq.read_table(path)
        names = [n for n in RunTable.__dataclass_fields__ if not n.startswith("threshold")]
        columns = {n: stored.column(n).to_numpy(zero_copy_only=False) for n in names}
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); {REPEAT}") from error
    texts = ("question_id", "dataset", "split")
    columns |= {name: columns[name].astype(str) for name in texts}
    return RunTable(**columns, threshold=threshold, threshold_median=threshold_median)


def _read_assessment(folder: Path) -> dict[str, Any]:
    path = folder / ASSESSMENT
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        kinds: dict[str, Any] = {
            "sweeps": dict[str, Sweep],
            "undefined": dict[str, str],
            "assessment": StudyAssessment,
            "counts": dict[str, RunCounts],
            "thresholds": list[float | None],
        }
        return {name: from_plain(kind, plain[name]) for name, kind in kinds.items()}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {REPEAT}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {REPEAT}") from error


def _check_model(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a probe that another model's states made."""
    card = json.loads((folder / "probes" / f"{name}.json").read_text(encoding="utf-8"))
    theirs = card.get("card", card).get("model_hash")
    ours = manifest.get("hashes", {}).get("model_hash")
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{folder} mixes models: probes/{name}.json is of the model {theirs}, manifest.json "
            f"of {ours}; {REPEAT}"
        )
