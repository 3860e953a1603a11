"""`analysis.parquet`: its columns, writing and reading it; one row a run of a reasoning model.

The reader needs no torch and no umap-learn. It takes the narrow columns of all rows at once, and
texts and tokens of the few rows that are looked at.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from helpers.errors import UserError
from helpers.evaluation.records import as_plain, from_plain
from helpers.store.files import whole_file
from helpers.studies.reasoning.records import PREDICTORS, SPLITS

# --- columns -------------------------------------------------------------------------------------


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


def parquet_name(column: Column) -> str:
    """The column's name as Parquet knows it: a list's items have a name of their own."""
    return f"{column.name}.list.element" if column.kind in ("texts", "numbers") else column.name


@dataclass(frozen=True, eq=False)
class AnalysisTable:
    """All rows of the narrow columns; `table["umap_x"]` is an array `[n]`.

    Texts of few values are codes into `names` (-1: unknown). Numbers are float32 and yes-no columns
    1.0 or 0.0, NaN where unknown; `representative` is bool; whole numbers are int32.
    """

    path: Path
    about: About
    columns: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]
    """By coded column: question_id, dataset, split, status."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["run_id"])

    def words(self, name: str, rows: Any = slice(None)) -> list[str | None]:
        """A coded column as text, of all or some rows."""
        names = self.names[name]
        return [names[code] if code >= 0 else None for code in self.columns[name][rows].tolist()]


@dataclass(frozen=True, eq=False)
class RunDetails:
    """Texts and tokens of one row."""

    row: int
    question: str
    reference: str
    thinking: str
    answer: str
    final_answer: str | None
    token_texts: tuple[str, ...]
    token_entropies: np.ndarray
    """`[tokens]`, nats, float32; empty where unknown."""
    thinking_span: tuple[int, int] | None
    """Start and end of the thinking in `token_texts`."""


def read_narrow(path: Path) -> AnalysisTable:
    """All rows of the columns that are no long texts.

    Raises `UserError` when the file is absent, damaged, of another format, or not such a table.
    """
    with _opened(path) as (file, about):
        table = file.read(columns=list(NARROW), use_threads=False)
        columns, names = {}, {}
        for column in COLUMNS:
            if column.wide:
                continue
            values = table.column(column.name)
            if values.null_count and not column.optional:
                raise _refused(path, f"column {column.name!r} has empty cells")
            if column.name in CODES:
                fixed = tuple(about.datasets) if column.name == "dataset" else CODES[column.name]
                coded = _codes(path, column, values, fixed)
                columns[column.name], names[column.name] = coded
            else:
                columns[column.name] = _numbers(column, values)
        return AnalysisTable(Path(path), about, columns, names)


def read_details(path: Path, rows: Sequence[int]) -> list[RunDetails]:
    """Texts and tokens of some rows, in the order asked for; only their row groups are read.

    Raises IndexError for a row that is not in the file, and `UserError` as `read_narrow` does.
    """
    wanted = [column.name for column in COLUMNS if column.wide]
    found = _read_rows(path, rows, [*wanted, "thinking_start", "thinking_end"])
    return [_details(path, row, values) for row, values in zip(rows, found, strict=True)]


def _read_rows(path: Path, rows: Sequence[int], names: list[str]) -> list[dict[str, Any]]:
    with _opened(path) as (file, _):
        groups = range(file.metadata.num_row_groups)
        starts = [0, *accumulate(file.metadata.row_group(i).num_rows for i in groups)]
        asked = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(asked) and not 0 <= asked.min() <= asked.max() < starts[-1]:
            raise IndexError(f"rows {asked.min()} … {asked.max()} of a file of {starts[-1]} rows")
        owners = np.searchsorted(starts, asked, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(owners).tolist():
            inside = np.unique(asked[owners == group])
            part = file.read_row_group(group, columns=names, use_threads=False)
            values = part.take(inside - starts[group]).to_pylist()
            found.update(zip(inside.tolist(), values, strict=True))
        return [found[row] for row in asked.tolist()]


def _details(path: Path, row: int, values: dict[str, Any]) -> RunDetails:
    for column in COLUMNS:
        if not column.optional and values.get(column.name, "") is None:
            raise _refused(path, f"column {column.name!r} has empty cells")
    start, end = values["thinking_start"], values["thinking_end"]
    entropies = np.array(values["token_entropies"], dtype=np.float32)
    entropies[~np.isfinite(entropies)] = np.nan
    texts = tuple(text or "" for text in values["token_texts"])
    names = ("question", "reference", "thinking", "answer", "final_answer")
    return RunDetails(
        row=int(row),
        **{name: values[name] for name in names},
        token_texts=texts,
        token_entropies=entropies,
        thinking_span=(start, end) if 0 <= start <= end <= len(texts) else None,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, About]]:
    """The file with its schema and metadata checked; what fails inside names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; `sep analysis {path.parent}` writes it")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = _about(path, file.metadata)
            _check_schema(path, file.schema_arrow)
            yield file, about
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read ({str(error).splitlines()[0]})") from error


def _about(path: Path, found: Any) -> About:
    text = (found.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise _refused(path, "is a Parquet file, but no analysis of a run (it has no metadata)")
    try:
        said = json.loads(text)
        version, rows = said["format_version"], said.get("rows")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} was written in format {version} by "
                f"{said.get('written_by', 'an unknown version')}, and this is format "
                f"{FORMAT_VERSION}; open it with that version, or `sep analysis {path.parent}` "
                "writes it anew"
            )
        about: About = from_plain(About, said)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(path, f"has metadata that cannot be read ({error})") from error
    if rows != found.num_rows:
        raise _refused(path, f"has {found.num_rows} rows where its metadata says {rows}")
    return about


def _check_schema(path: Path, found: Any) -> None:
    expected = arrow_schema()
    if missing := [column.name for column in COLUMNS if column.name not in found.names]:
        raise _refused(path, f"has no column {', '.join(map(repr, missing))}")
    for column in COLUMNS:
        kind, wanted = found.field(column.name).type, expected.field(column.name).type
        if not kind.equals(wanted):
            raise _refused(path, f"column {column.name!r} is {kind} instead of {wanted}")


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; `sep analysis {Path(path).parent}` writes it anew")


def _numbers(column: Column, values: Any) -> np.ndarray:
    if column.kind == "whole":
        return values.to_numpy().astype(np.int32, copy=False)
    if column.name == "representative":
        return values.to_numpy().astype(bool)
    import pyarrow as pa

    numbers = values.cast(pa.float32()).to_numpy()  # null becomes NaN
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))


def _codes(
    path: Path, column: Column, values: Any, fixed: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes `[n]` (int8 where they fit), -1 where unknown, and the names: `fixed`, or as found."""
    plain = values if column.kind == "name" else values.dictionary_encode()
    whole = plain.unify_dictionaries().combine_chunks()
    found = tuple(whole.dictionary.to_pylist()) if len(whole) else ()
    codes = whole.indices.fill_null(-1).to_numpy().astype(np.int32)
    names = tuple(dict.fromkeys(found)) if fixed is None else fixed
    places = {word: place for place, word in enumerate(names) if word is not None}
    if odd := [word for word in found if word not in places]:
        raise _refused(path, f"column {column.name!r} has the unknown value {str(odd[0])[:40]!r}")
    order = np.array([*(places[word] for word in found), -1], dtype=np.int32)
    small = np.int32 if fixed is None or len(names) > 127 else np.int8
    return order[codes].astype(small), names


# --- writing -------------------------------------------------------------------------------------


def write_groups(
    path: Path,
    groups: Iterable[Mapping[str, Sequence | np.ndarray]],
    about: About,
    rows: int,
) -> None:
    """The same from groups of rows that are made one at a time, so that memory holds one.

    Raises ValueError when a group has not the schema's columns, or all of them not `rows` rows.
    """
    import pyarrow.parquet as pq

    said = {
        "format_version": FORMAT_VERSION,
        "written_by": f"uncertainty-probes {_version()}",
        "rows": rows,
        **as_plain(about),
        "columns": {column.name: column.about for column in COLUMNS},
    }
    text = json.dumps(said, ensure_ascii=False, allow_nan=False)
    schema = arrow_schema().with_metadata({METADATA_KEY: text.encode()})
    written = 0
    repeating = [parquet_name(c) for c in COLUMNS if c.kind in ("name", "texts")]
    repeating += ["question_id", "status", "question", "reference", "final_answer"]
    with (
        whole_file(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=repeating,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for group in groups:
            table = _table(group, schema)
            written += len(table)
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        if written != rows:
            raise ValueError(f"{written} rows where {rows} were announced")


def _version() -> str:
    try:
        return metadata.version("uncertainty-probes")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _table(columns: Mapping[str, Sequence | np.ndarray], schema: Any) -> Any:
    """One group of rows as an Arrow table of the schema."""
    import pyarrow as pa

    if set(columns) != set(schema.names):
        odd = sorted(set(columns) ^ set(schema.names))
        raise ValueError(f"columns that are missing or unknown: {', '.join(odd)}")
    arrays = []
    for column in COLUMNS:
        array = _array(column, columns[column.name], schema.field(column.name).type)
        if array.null_count and not column.optional:
            raise ValueError(f"column {column.name!r} has empty cells")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Column, values: Sequence | np.ndarray, kind: Any) -> Any:
    import pyarrow as pa

    if column.kind in ("number", "yes-no"):
        numbers = np.array(values, dtype=np.float64)  # None becomes NaN
        with np.errstate(over="ignore"):  # what is too large for 32 bits is unknown, too
            small = numbers.astype(np.float32)
        plain = small > 0 if column.kind == "yes-no" else small
        return pa.array(plain, kind, mask=~np.isfinite(small))
    if column.kind == "whole":
        return pa.array(np.asarray(values), kind)
    if column.kind in ("text", "name"):
        texts = [None if value is None else _encodable(str(value)) for value in values]
        plain_texts = pa.array(texts, pa.string())
        return plain_texts.dictionary_encode() if column.kind == "name" else plain_texts
    if column.kind == "texts":
        return pa.array([[_encodable(text) for text in row] for row in values], kind)
    return pa.array([np.asarray(row, dtype=np.float32) for row in values], kind)


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
