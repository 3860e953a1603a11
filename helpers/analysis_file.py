"""`analysis.parquet`: one row a run of a reasoning model, for looking at; written and read.

The reader needs no torch and no umap-learn. It takes the narrow columns of all rows at once, and
texts and tokens of the few rows that are looked at.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

# Schema and writer belong to this module's face; they live in modules of their own for its length.
from helpers.analysis_columns import CODES, FORMAT_VERSION, METADATA_KEY, arrow_schema
from helpers.analysis_columns import COLUMNS as COLUMNS
from helpers.analysis_columns import FILE_NAME as FILE_NAME
from helpers.analysis_columns import NARROW as NARROW
from helpers.analysis_columns import PROBE_PARTS as PROBE_PARTS
from helpers.analysis_columns import ROWS_PER_GROUP as ROWS_PER_GROUP
from helpers.analysis_columns import STATUSES as STATUSES
from helpers.analysis_columns import About as About
from helpers.analysis_columns import Column as Column
from helpers.analysis_columns import describe_columns as describe_columns
from helpers.analysis_writing import write_analysis as write_analysis
from helpers.analysis_writing import write_groups as write_groups
from helpers.errors import UserError
from helpers.records import from_plain


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

    def is_split(self, split: str) -> np.ndarray:
        """Mask `[n]` of a split's rows."""
        return self.columns["split"] == self.names["split"].index(split)


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


def read_text(path: Path, name: str, rows: Sequence[int]) -> list[str | None]:
    """One text column, such as "question", of some rows; raises as `read_details` does."""
    return [values[name] for values in _read_rows(path, rows, [name])]


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
