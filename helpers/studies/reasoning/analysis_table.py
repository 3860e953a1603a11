"""`analysis.parquet` of the study: its labels, predictors, numbers and texts, one row a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis_table.about import (
    PROBE_PARTS,
    About,
    Label,
    Noun,
    Number,
    Predictor,
    Split,
    Text,
    Tokens,
)
from helpers.analysis_table.file import UnitRows, write_analysis_table
from helpers.data.answers import answer_key
from helpers.data.questions import Question
from helpers.progress import Progress
from helpers.store.cache import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    SPLITS,
    Prediction,
    ReasoningRun,
    RunTable,
    StudyProbes,
    Traced,
)

INTRODUCTION = (
    "A reasoning model is asked the same question several times. If its answers mean different "
    "things, the semantic entropy of the question is high: the model is guessing. That takes many "
    "runs. A probe looks at one run only, at the moment its thinking ends, and foretells from the "
    "model's hidden state whether the answer will be correct, or whether the semantic entropy of "
    "the question is high."
)
WORDS = {
    "run": "one time that the model was asked a question: its thinking and its answer.",
    "semantic entropy": "how much a question's runs differ in what they mean, in nats: 0 when all "
    "answers mean the same, ln 10 = 2.30 when ten answers mean ten different things. It is a "
    "number of the question, the same for all its runs.",
    "threshold": "above it a semantic entropy is called high; the best split of the training "
    "questions.",
    "probe": "a linear model that reads one hidden state of the run, at the end of its thinking, "
    "and knows nothing else of it.",
    "thinking-entropy baseline": "sees one number instead: the mean entropy of the thinking's "
    "tokens. A probe that is not better has found nothing new.",
    "combination of the three": "a small model over what the three others say.",
    "train, validation, test, ood": "probes are fitted on train and chosen on validation; test and "
    "ood (other questions than those trained on, out of distribution) are seen by no choice.",
    "representative run": "the first run with the answer that the question's runs give most often.",
}
TITLES = {
    "correctness": "correctness probe",
    "semantic_entropy": "semantic-entropy probe",
    "thinking_entropy": "thinking-entropy baseline",
    "combined": "combination of the three",
}
"""The predictors as a reader meets them."""
NUMBERS = (
    Number("semantic_entropy", "semantic entropy of the question", "nats"),
    Number("semantic_entropy_other", "semantic entropy by the other reading", "nats"),
    Number("thinking_entropy", "mean token entropy of the thinking", "nats"),
    Number("agreement", "share of the question's other runs that agree", "0 to 1"),
    Number("thinking_tokens", "length of the thinking", "tokens", whole=True),
    Number("answer_tokens", "length of the answer", "tokens", whole=True),
    Number("question_characters", "length of the question", "characters", whole=True),
)
TEXTS = (
    Text("question", "question"),
    Text("thinking", "thinking", missing="none, or it was never closed", folded=True),
    Text("answer", "answer"),
    Text("final_answer", "final answer", missing="states no answer"),
    Text("reference", "reference", missing="none is known"),
    Text("thinking_tokens", "Thinking", "tokens"),
    Text("answer_tokens", "Answer", "tokens"),
)
TokenTexts = Callable[[Sequence[int]], list[str]]
"""Token ids to the text of each; the texts together are the text of all."""


def write_run_analysis(
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

    Raises ValueError where runs and table disagree, and `UserError` as `write_analysis_table`.
    """
    _check_order(runs, table, traced)
    layer, reason = map_layer(probes, traced)
    datasets = _datasets(table)
    about = describe(
        run=config.run_name(),
        model=config.model,
        entropy_of=config.entropy_of,
        threshold=table.threshold,
        datasets={
            name: "ood" if split == OOD else "in"
            for name, split in zip(datasets.tolist(), table.split.tolist(), strict=True)
        },
        place=traced.position,
        layers={name: probes.probes[name].layer for name in probes.sweeps if name in probes.probes},
        undefined=probes.undefined,
        entropies=bool(np.isfinite(table.thinking_entropy).any()),
        notes={
            "umap": f"Hidden states at {traced.position}, layer {layer}: {reason}.",
            **({"position": traced.reason} if traced.reason else {}),
        },
    )
    lengths = [len(questions[run.question_id].question) for run in runs]
    high = {1.0: "high", 0.0: "not high"}
    rows = UnitRows(
        group_id=table.question_id,
        unit_id=table.run_id,
        dataset=datasets,
        split=table.split,
        labels={
            "correct": [run.status for run in runs],
            "high_semantic_entropy": [high.get(value) for value in table.high.tolist()],
        },
        predictions={
            name: {part: getattr(said, part) for part in PROBE_PARTS}
            for name, said in predictions.items()
        },
        numbers={
            n.name: lengths if n.name == "question_characters" else getattr(table, n.name)
            for n in NUMBERS
        },
        representative=representatives(runs),
    )
    write_analysis_table(
        path, about, rows,
        lambda row: _texts(runs[row], questions[runs[row].question_id], token_texts),
        states=traced.hidden[:, layer], seed=config.seed, store=store, progress=progress,
    )  # fmt: skip


def describe(
    *,
    run: str,
    model: str,
    entropy_of: str,
    threshold: float | None,
    datasets: dict[str, Any],
    place: str,
    layers: Mapping[str, int],
    undefined: Mapping[str, str],
    entropies: bool,
    notes: dict[str, str],
) -> About:
    """What the file says of itself; `layers` and `undefined` are by predictor."""
    numbers = [
        replace(number, undefined="the endpoint gave no entropies of the thinking's tokens")
        if number.name == "thinking_entropy" and not entropies
        else number
        for number in NUMBERS
    ]
    return About(
        run=run,
        model=model,
        title="Does the model know when it is wrong?",
        introduction=INTRODUCTION,
        unit=Noun("run", "runs"),
        group=Noun("question", "questions"),
        labels=(
            Label(
                "correct", "correct or not", ("correct", "wrong", "unanswered"), "correct", "wrong",
                unknown="not graded", stored="correctness",
            ),
            Label(
                "high_semantic_entropy", "semantic entropy high or not", ("high", "not high"),
                "high", "not high", event="high semantic entropy", number="semantic_entropy",
                threshold=threshold, stored="high_entropy",
            ),
        ),
        predictors=tuple(
            _predictor(name, place, layers.get(name), undefined.get(name, ""))
            for name in PREDICTORS
        ),
        numbers=tuple(numbers),
        texts=TEXTS,
        splits=tuple(
            Split(name, "out of distribution" if name == OOD else name, name in SCORED_SPLITS)
            for name in SPLITS
        ),
        datasets=datasets,
        baseline="thinking_entropy",
        length="thinking_tokens",
        representative="the first run with the question's most common final answer",
        words=WORDS,
        facts={
            "semantic entropy": {"final-answer": "of final answers", "answer": "of whole answers"}[
                entropy_of
            ]
        },
        notes=notes,
    )  # fmt: skip


def _predictor(name: str, place: str, layer: int | None, undefined: str) -> Predictor:
    """A predictor; what foretells high semantic entropy speaks against *correct*."""
    of_entropy = name == "semantic_entropy"
    return Predictor(
        name,
        TITLES[name],
        label="high_semantic_entropy" if of_entropy else "correct",
        directions={
            "correct": -1 if of_entropy else 1,
            "high_semantic_entropy": 1 if of_entropy else -1,
        },
        place="" if layer is None else place,
        layer=layer,
        undefined=undefined,
    )


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


def _texts(
    run: ReasoningRun, question: Question, token_texts: TokenTexts
) -> dict[str, str | Tokens | None]:
    """The texts of one row; the tokens of the thinking begin with its tag."""
    if run.token_entropies and len(run.token_entropies) != len(run.token_ids):
        raise ValueError(
            f"run {run.run_id} of {run.question_id}: {len(run.token_entropies)} entropies of "
            f"{len(run.token_ids)} tokens"
        )
    end = run.thinking_span[1] if run.thinking_span else 0
    pieces, entropies = token_texts(run.token_ids), np.array(run.token_entropies, np.float32)
    return {
        "question": question.question,
        "thinking": run.thinking,
        "answer": run.answer,
        "final_answer": run.final_answer,
        "reference": question.final_answer or question.answer,
        "thinking_tokens": Tokens(tuple(pieces[:end]), entropies[:end]),
        "answer_tokens": Tokens(tuple(pieces[end:]), entropies[end:]),
    }
