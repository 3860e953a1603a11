"""The columns of `analysis.parquet`, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from helpers.studies.reasoning.records import PREDICTORS, SPLITS

FILE_NAME = "analysis.parquet"
FORMAT_VERSION = 1
ROWS_PER_GROUP = 256
METADATA_KEY = b"uncertainty_probes"
STATUSES = ("correct", "wrong", "unanswered")
PROBE_PARTS = ("probability", "margin", "projection")
"""What stands of every predictor: columns `probability_combined` and so on."""
Kind = Literal["text", "name", "whole", "number", "yes-no", "texts", "numbers"]
_PROBE_NAMES = {
    "correctness": "correctness probe",
    "semantic_entropy": "semantic-entropy probe",
    "thinking_entropy": "baseline on the mean token entropy of the thinking",
    "combined": "combination of the three",
}


@dataclass(frozen=True)
class Column:
    """One column of the file."""

    name: str
    kind: Kind
    """"name" is text of few values; "whole" an int32, "number" a float32."""
    about: str
    """One line, with the unit."""
    optional: bool = False
    """Whether a value may be unknown (null)."""
    wide: bool = False
    """Texts and tokens: read for a few rows only."""


def _probe_columns() -> Iterator[Column]:
    for name in PREDICTORS:
        of = "high semantic entropy" if name == "semantic_entropy" else "correct"
        probe = _PROBE_NAMES[name]
        for part, text in (
            ("probability", f"calibrated probability of {of}, 0 to 1, by the {probe}"),
            ("margin", f"log-odds of {of}, nats, by the {probe}"),
            ("projection", f"signed distance to its boundary, standard deviations: {probe}"),
        ):
            yield Column(f"{part}_{name}", "number", text, optional=True)


COLUMNS: tuple[Column, ...] = (
    Column("question_id", "text", "id of the question, unique in the file"),
    Column("run_id", "whole", "number of the run of this question, from 0"),
    Column("dataset", "name", "source of the question, such as lab or lab:ood"),
    Column("split", "name", "train, validation, test, or ood: out of distribution"),
    Column(
        "status",
        "text",
        "correct, wrong or unanswered; null: the question has no reference answer",
        optional=True,
    ),
    Column(
        "correct",
        "yes-no",
        "whether the final answer is right; null: unanswered or no reference answer",
        optional=True,
    ),
    *_probe_columns(),
    Column(
        "semantic_entropy",
        "number",
        "semantic entropy of the question's valid runs, nats, by the reading that makes the label",
        optional=True,
    ),
    Column(
        "semantic_entropy_other",
        "number",
        "semantic entropy by the other reading, nats",
        optional=True,
    ),
    Column(
        "high_semantic_entropy",
        "yes-no",
        "whether semantic_entropy is above the threshold; null: there is no threshold",
        optional=True,
    ),
    Column(
        "agreement",
        "number",
        "share of the question's other valid runs with the same final answer, 0 to 1",
        optional=True,
    ),
    Column(
        "thinking_entropy",
        "number",
        "mean entropy of the thinking's tokens, nats; null: unknown",
        optional=True,
    ),
    Column("thinking_tokens", "whole", "length of the thinking, tokens"),
    Column("answer_tokens", "whole", "length of the answer, tokens"),
    Column("question_characters", "whole", "length of the question, characters"),
    Column(
        "umap_x",
        "number",
        "first coordinate of the hidden state on the map, no unit",
        optional=True,
    ),
    Column("umap_y", "number", "second coordinate on the map, no unit", optional=True),
    Column(
        "representative",
        "yes-no",
        "first run with the question's most common final answer; one a question",
    ),
    Column("question", "text", "the question", wide=True),
    Column("reference", "text", "reference answer of the question; empty: none", wide=True),
    Column("thinking", "text", "what stands before </think>", wide=True),
    Column("answer", "text", "what follows </think>", wide=True),
    Column(
        "final_answer",
        "text",
        "final answer of the run, as it was read; null: none",
        optional=True,
        wide=True,
    ),
    Column("token_texts", "texts", "text of each generated token; empty: unknown", wide=True),
    Column("token_entropies", "numbers", "entropy of each token, nats; empty: unknown", wide=True),
    Column("thinking_start", "whole", "first token of the thinking, counted from 0; -1: none"),
    Column("thinking_end", "whole", "the token after its last; -1: none"),
)
NARROW = tuple(column.name for column in COLUMNS if not column.wide)
CODES: dict[str, tuple[str, ...] | None] = {
    "question_id": None,
    "dataset": None,
    "split": SPLITS,
    "status": STATUSES,
}
"""Columns that are read as codes, with their names where these are fixed."""


@dataclass(frozen=True)
class About:
    """What the file says of itself."""

    run: str
    model: str
    position: str
    """Where the hidden states were read."""
    threshold: float | None
    """Nats above which a semantic entropy is high; None: there is none."""
    entropy_of: Literal["final-answer", "answer"]
    """The reading that makes the label."""
    datasets: dict[str, Literal["in", "ood"]]
    """Each source of questions, and whether it is in or out of distribution."""
    layers: dict[str, int] = field(default_factory=dict)
    """Layer that a probe reads, by predictor."""
    undefined: dict[str, str] = field(default_factory=dict)
    """Why a predictor is undefined, by predictor."""
    notes: dict[str, str] = field(default_factory=dict)
    """Sentences to be shown, by what they are about: "position", "umap"."""


def describe_columns() -> str:
    """The columns of the file, one a line, with type and meaning."""
    types = {column.name: _type_name(column) for column in COLUMNS}
    names, kinds = max(map(len, types)), max(map(len, types.values()))
    return "\n".join(f"{c.name:{names}}  {types[c.name]:{kinds}}  {c.about}" for c in COLUMNS)


def arrow_schema() -> Any:
    """The same as a schema of pyarrow."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _types()[c.kind], nullable=c.optional) for c in COLUMNS])


def _types() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "text": pa.string(),
        "name": pa.dictionary(pa.int32(), pa.string()),
        "whole": pa.int32(),
        "number": pa.float32(),
        "yes-no": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float32()),
    }


def _type_name(column: Column) -> str:
    names = {"text": "string", "name": "string", "whole": "int32", "number": "float32"}
    names |= {"yes-no": "bool", "texts": "list of string", "numbers": "list of float32"}
    return names[column.kind]


def parquet_name(column: Column) -> str:
    """The column's name as Parquet knows it: a list's items have a name of their own."""
    return f"{column.name}.list.element" if column.kind in ("texts", "numbers") else column.name
