"""The run folder of the study: what each stage writes, `analysis.parquet`, and opening it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from helpers.analysis_table.file import PROBE_PARTS, ROWS_PER_GROUP, About, write_groups
from helpers.analysis_table.umap import umap_coordinates
from helpers.data.answers import answer_key
from helpers.data.questions import Question
from helpers.errors import REPEAT, UserError
from helpers.evaluation.records import as_plain, from_plain
from helpers.probes.probe import Sweep
from helpers.probes.store import load_probe, save_probe
from helpers.progress import Progress
from helpers.store.cache import Store
from helpers.store.files import write_json
from helpers.store.run_folder import ASSESSMENT, read_manifest, write_parquet
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.labels import StudyMeanings, table_columns
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    Prediction,
    ReasoningRun,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
    Traced,
)
from helpers.studies.reasoning.runs import Runs, thinking_entropy
from helpers.studies.registry import stored_config
from helpers.studies.study import REASONING, study_of

TABLE, ANALYSIS = "probe_table.parquet", "analysis.parquet"


@dataclass(frozen=True)
class StudyRun:
    """What a run folder holds; parts that are still to come are None."""

    config: ReasoningConfig
    folder: Path
    manifest: dict[str, Any]
    counts: dict[str, RunCounts]
    """For "in" and "ood" distribution."""
    table: RunTable | None
    probes: StudyProbes | None
    assessment: StudyAssessment | None


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
        "high_semantic_entropy": _known(table.high[at]),
        "high_semantic_entropy_median": _known(table.high_median[at]),
    }
    write_parquet(folder / "questions_scored.parquet", columns)


def write_table(folder: Path, table: RunTable) -> None:
    """`probe_table.parquet`: one row a valid run; row i belongs to state i of `hidden/`."""
    import pyarrow as pa

    columns = {
        name: _known(values) if values.dtype.kind == "f" else values.tolist()
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
    if study_of(manifest) != REASONING:
        raise UserError(
            f"{folder} is a run of another study ({study_of(manifest) or 'semantic entropy'}); "
            "open it in probe_training_auto.py"
        )
    try:
        config = stored_config(manifest["config"]).model_copy(update={"out": folder.parent})
    except (ValidationError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder / 'manifest.json'} holds a config that this version does not know "
            f"({reason}); {REPEAT}"
        ) from error
    assert isinstance(config, ReasoningConfig)
    if "evaluation" not in manifest["stages_done"]:
        return StudyRun(config, folder, manifest, {}, None, None, None)
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


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


# --- analysis.parquet ----------------------------------------------------------------------------


TokenTexts = Callable[[Sequence[int]], list[str]]
"""Token ids to the text of each; the texts together are the text of all."""


def write_analysis_table(
    path: Path,
    *,
    config: ReasoningConfig,
    questions: Mapping[str, Question],
    runs: Sequence[ReasoningRun],
    table: RunTable,
    predictions: Mapping[str, Prediction],
    traced: Traced,
    probes: StudyProbes,
    token_texts: TokenTexts,
    store: Store | None,
    progress: Progress,
) -> None:
    """Write what the dashboard reads; `runs`, `traced` and `predictions` are in the table's order.

    Texts are made a row group at a time. Raises ValueError where runs and table disagree, and
    `UserError` when umap-learn is not installed or the disk is full.
    """
    _check_order(runs, table, traced)
    layer, reason = map_layer(probes, traced)
    shown = umap_coordinates(
        traced.hidden[:, layer], seed=config.seed, store=store, progress=progress
    )
    datasets = _datasets(table)
    about = About(
        run=config.run_name(),
        model=config.model,
        position=traced.position,
        threshold=table.threshold,
        entropy_of=config.entropy_of,
        datasets={
            name: "ood" if split == OOD else "in"
            for name, split in zip(datasets.tolist(), table.split.tolist(), strict=True)
        },
        layers={name: probes.probes[name].layer for name in probes.sweeps if name in probes.probes},
        undefined=dict(probes.undefined),
        notes={
            "umap": f"Hidden states at {traced.position}, layer {layer}: {reason}. {shown.note}",
            **({"position": traced.reason} if traced.reason else {}),
        },
    )
    narrow = {
        **_table_columns(table),
        "dataset": datasets,
        **_probe_columns(predictions, len(table)),
        "umap_x": shown.coordinates[:, 0],
        "umap_y": shown.coordinates[:, 1],
        "representative": representatives(runs),
    }
    with progress("Writing the analysis table", len(runs), "runs") as stage:
        groups = _groups(narrow, runs, questions, token_texts, stage.advance)
        write_groups(path, groups, about, len(runs))


def map_layer(probes: StudyProbes, traced: Traced) -> tuple[int, str]:
    """The layer whose states the map shows, and why that one."""
    words = {"correctness": "correctness", "semantic_entropy": "semantic-entropy"}
    for name, word in words.items():
        if name in probes.probes:
            return probes.probes[name].layer, f"the layer of the {word} probe"
    return traced.hidden.shape[1] // 2, "the middle layer, as no probe of hidden states is defined"


def representatives(runs: Sequence[ReasoningRun]) -> np.ndarray:
    """Mask `[n]`: of each question the lowest run_id in its largest group of equal final answers.

    Of groups of one size, the one with the lowest run_id. Runs that state no answer are no group,
    unless no run of the question states one.
    """
    rows: dict[str, list[int]] = {}
    for row, run in enumerate(runs):
        rows.setdefault(run.question_id, []).append(row)
    chosen = np.zeros(len(runs), dtype=bool)
    for owned in rows.values():
        owned.sort(key=lambda row: runs[row].run_id)
        groups: dict[str, list[int]] = {}
        for row in owned:
            answer = runs[row].final_answer
            if answer is not None:
                groups.setdefault(answer_key(answer), []).append(row)
        largest = max(groups.values(), key=len, default=owned)
        chosen[largest[0]] = True
    return chosen


def _check_order(runs: Sequence[ReasoningRun], table: RunTable, traced: Traced) -> None:
    ids = list(zip(table.question_id.tolist(), table.run_id.tolist(), strict=True))
    if ids != [(run.question_id, run.run_id) for run in runs] or len(traced.hidden) != len(ids):
        raise ValueError("runs, table and hidden states are not of the same runs in one order")


def _datasets(table: RunTable) -> np.ndarray:
    """The source of each row; two files of one name, in and out of distribution, are told apart."""
    is_ood = table.split == OOD
    shared = np.intersect1d(table.dataset[is_ood], table.dataset[~is_ood])
    ambiguous = is_ood & np.isin(table.dataset, shared)
    names = table.dataset.astype(object)
    names[ambiguous] = [f"{name} (out of distribution)" for name in names[ambiguous]]
    return names


def _table_columns(table: RunTable) -> dict[str, np.ndarray]:
    names = (
        *("question_id", "run_id", "split", "correct", "semantic_entropy"),
        *("semantic_entropy_other", "agreement", "thinking_entropy"),
        *("thinking_tokens", "answer_tokens"),
    )
    return {**{name: getattr(table, name) for name in names}, "high_semantic_entropy": table.high}


def _probe_columns(predictions: Mapping[str, Prediction], n: int) -> dict[str, np.ndarray]:
    columns = {}
    for name in PREDICTORS:
        for part in PROBE_PARTS:
            known = predictions.get(name)
            unknown = np.full(n, np.nan)
            columns[f"{part}_{name}"] = unknown if known is None else getattr(known, part)
    return columns


def _groups(
    narrow: Mapping[str, np.ndarray],
    runs: Sequence[ReasoningRun],
    questions: Mapping[str, Question],
    token_texts: TokenTexts,
    advance: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """The columns of one row group after the other."""
    for start in range(0, len(runs), ROWS_PER_GROUP):
        end = min(start + ROWS_PER_GROUP, len(runs))
        rows = [_wide(run, questions[run.question_id], token_texts) for run in runs[start:end]]
        yield {
            **{name: values[start:end] for name, values in narrow.items()},
            **{name: [row[name] for row in rows] for name in rows[0]},
        }
        advance(end - start)


def _wide(run: ReasoningRun, question: Question, token_texts: TokenTexts) -> dict[str, Any]:
    """The columns of one row that hold texts and tokens."""
    if run.token_entropies and len(run.token_entropies) != len(run.token_ids):
        raise ValueError(
            f"run {run.run_id} of {run.question_id}: {len(run.token_entropies)} entropies of "
            f"{len(run.token_ids)} tokens"
        )
    start, end = run.thinking_span or (-1, -1)
    return {
        "status": run.status,
        "question": question.question,
        "question_characters": len(question.question),
        "reference": question.final_answer or question.answer,
        "thinking": run.thinking,
        "answer": run.answer,
        "final_answer": run.final_answer,
        "token_texts": token_texts(run.token_ids),
        "token_entropies": run.token_entropies,
        "thinking_start": start,
        "thinking_end": end,
    }
