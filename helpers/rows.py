"""Rows of JSONL files and hub data sets, and their fields, refused by name and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import UserError
from helpers.hub_tables import load_table

_GSM8K = "openai/gsm8k"
_MATH500 = "HuggingFaceH4/MATH-500"


@dataclass(frozen=True)
class Row:
    """One record of a file or a data set, and the words for where it stands."""

    place: str
    number: int
    fields: dict[str, Any]


def read_rows(path: Path, layouts: str) -> Iterator[Row]:
    """The objects of a JSONL file; blank lines and a byte order mark are passed over."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name the JSONL file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: check the path, or try --questions lab") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8: save the file as UTF-8 text") from error
    if text.lstrip().startswith("["):
        raise UserError(f"{path}: is one JSON array, not JSON lines: write {layouts}")
    # Not splitlines: a JSON string may hold U+2028, which ends no line of a JSONL file.
    for number, line_text in enumerate(text.split("\n"), start=1):
        if not line_text.strip():
            continue
        place = f"{path}: line {number}"
        try:
            fields = json.loads(line_text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}): expected {layouts}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{place}: not a JSON object: expected {layouts}")
        yield Row(place, number, fields)


def is_path(source: str) -> bool:
    """Whether a source names a file: by its ending, its look, or because it is there."""
    if source.partition("@")[0] in ("gsm8k", _GSM8K, "math-500", _MATH500):
        return False
    looks_like_one = source.endswith((".jsonl", ".json")) or source.startswith((".", "/", "~"))
    return looks_like_one or source.count("/") > 1 or "\\" in source or Path(source).exists()


def hub_rows(source: str) -> Iterator[Row]:
    """The rows of "name", "name:config" or "name:config@split" on the hub."""
    name, _, split = source.partition("@")
    name, _, config = name.partition(":")
    if name in ("gsm8k", _GSM8K):
        name, config = _GSM8K, config or "main"
    if name in ("math-500", _MATH500):
        name, split = _MATH500, split or "test"  # the only split that it has
    table = load_table(name, config or None, split or "train")
    for number, fields in enumerate(table, start=1):
        yield Row(f"{source}: row {number}", number, dict(fields))


def first_present(row: Row, names: Iterable[str]) -> str | None:
    """The first of those names whose field is there and not null."""
    return next((name for name in names if row.fields.get(name) is not None), None)


def required_text(row: Row, names: Sequence[str], layouts: str) -> str:
    """The first of those fields, which must be a text that is not blank."""
    name = next((name for name in names if name in row.fields), None)
    if name is None:
        raise UserError(f'{row.place}: no field "{names[0]}": expected {layouts}')
    text = row.fields[name]
    if not isinstance(text, str):
        raise UserError(f'{row.place}: "{name}" is not a text: expected {layouts}')
    if not text.strip():
        raise UserError(f'{row.place}: "{name}" is empty: fill it in or delete the line')
    check_encodable(row, name, text)
    return text.strip()


def optional_text(row: Row, name: str) -> str | None:
    """A text or a number as text; None for null and for blanks."""
    value = row.fields[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f'{row.place}: "{name}" is neither a text nor a number')
    check_encodable(row, name, str(value))
    return str(value).strip() or None


def check_encodable(row: Row, name: str, text: str) -> None:
    """Refuse a text that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f'{row.place}: "{name}" holds half of a surrogate pair: repair the \\u escapes'
        ) from error
