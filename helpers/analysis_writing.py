"""Writes `analysis.parquet`: whole or not at all, a group of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis_columns import (
    COLUMNS,
    FORMAT_VERSION,
    METADATA_KEY,
    ROWS_PER_GROUP,
    About,
    Column,
    arrow_schema,
    parquet_name,
)
from helpers.files import whole_file
from helpers.records import as_plain


def write_analysis(path: Path, columns: Mapping[str, Sequence | np.ndarray], about: About) -> None:
    """Write all columns as one file, whole or not at all; NaN and infinity become null."""
    n = len(columns["run_id"])
    starts = range(0, n, ROWS_PER_GROUP)
    groups = ({k: v[i : i + ROWS_PER_GROUP] for k, v in columns.items()} for i in starts)
    write_groups(path, groups, about, n)


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
