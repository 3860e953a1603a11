"""Writes `analysis.parquet`, one row a valid run, from the study's records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis_file import PROBE_PARTS, ROWS_PER_GROUP, About, write_groups
from helpers.answers import answer_key
from helpers.datasets import Question
from helpers.progress import Progress
from helpers.store import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    Prediction,
    ReasoningRun,
    RunTable,
    StudyProbes,
    Traced,
)
from helpers.umap_map import umap_coordinates

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
