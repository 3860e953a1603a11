"""The file that the dashboard reads: what is written comes back, and what is damaged is said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.analysis_table.file import (
    COLUMNS,
    METADATA_KEY,
    About,
    read_details,
    read_narrow,
    write_groups,
)
from helpers.errors import UserError
from support.made_up_analysis import HOSTILE, make_analysis

CONTRACT = """
question_id string, run_id int32, dataset dictionary, split dictionary, status string, correct bool,
probability_correctness float, margin_correctness float, projection_correctness float,
probability_semantic_entropy float, margin_semantic_entropy float,
projection_semantic_entropy float, probability_thinking_entropy float,
margin_thinking_entropy float, projection_thinking_entropy float, probability_combined float,
margin_combined float, projection_combined float, semantic_entropy float,
semantic_entropy_other float, high_semantic_entropy bool, agreement float, thinking_entropy float,
thinking_tokens int32, answer_tokens int32, question_characters int32, umap_x float, umap_y float,
representative bool, question string, reference string, thinking string, answer string,
final_answer string, token_texts list, token_entropies list, thinking_start int32,
thinking_end int32
"""
"""Order and types that other readers of the file count on."""
ABOUT = About("run-1", "lab", "think_end", 0.5, "final-answer", {"lab": "in", "lab:ood": "ood"})


def rows(**changes: Any) -> dict[str, Any]:
    """Three rows of every column, some of them changed."""
    usual: dict[str, Any] = {
        column.name: {
            "text": ["a", "b", "c"],
            "name": ["lab", "lab", "lab:ood"],
            "whole": [1, 2, 3],
            "number": [0.25, np.nan, -np.inf],
            "yes-no": [1.0, 0.0, 1.0],
            "texts": [["x", "", "é"], [], ["y"]],
            "numbers": [[0.5, np.nan, 1.0], [], (2.0,)],
        }[column.kind]
        for column in COLUMNS
    }
    usual |= {
        "split": ["train", "test", "ood"],
        "status": ["unanswered", None, "correct"],
        "correct": [np.nan, None, True],
        "final_answer": [None, "1", "2"],
        "thinking_start": [1, -1, 0],
        "thinking_end": [3, -1, 9],
    }
    return {**usual, **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_groups(tmp_path / "run" / "analysis.parquet", [rows()], ABOUT, 3)
    return tmp_path / "run" / "analysis.parquet"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy questions with ten runs each: three row groups."""
    path = tmp_path_factory.mktemp("made-up") / "analysis.parquet"
    make_analysis(path, questions=70, runs=10)
    return path


def test_the_narrow_columns_come_back_with_unknown_values_as_nan(path: Path) -> None:
    table = read_narrow(path)
    assert (len(table), table.about) == (3, ABOUT)
    assert table.words("question_id") == ["a", "b", "c"]
    assert table.words("dataset") == ["lab", "lab", "lab:ood"]
    assert table.words("status", [1, 2]) == [None, "correct"]
    assert table.words("split") == ["train", "test", "ood"]
    np.testing.assert_array_equal(table["correct"], [np.nan, np.nan, 1])
    np.testing.assert_array_equal(table["margin_combined"], [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(table["high_semantic_entropy"], [1, 0, 1])
    assert table["representative"].dtype == bool
    assert table["run_id"].dtype == np.int32
    assert table["split"].dtype == np.int8


def test_texts_and_tokens_come_back_in_the_order_asked_for(path: Path) -> None:
    last, first, again = read_details(path, [2, 0, 2])
    assert (last.row, last.question, last.final_answer) == (2, "c", "2")
    assert (first.final_answer, first.token_texts) == (None, ("x", "", "é"))
    np.testing.assert_array_equal(first.token_entropies, np.float32([0.5, np.nan, 1.0]))
    assert first.thinking_span == (1, 3)
    assert last.thinking_span is None  # it ends behind the last token
    assert again.token_texts == last.token_texts
    assert read_details(path, [1])[0].thinking_span is None
    assert read_details(path, []) == []
    with pytest.raises(IndexError, match="file of 3 rows"):
        read_details(path, [3])


def test_unknown_numbers_are_null_in_the_file(path: Path) -> None:
    column = pq.read_table(path).column("probability_combined")
    assert column.to_pylist() == [0.25, None, None]


def test_columns_types_and_metadata_are_those_that_other_readers_count_on(path: Path) -> None:
    schema = pq.read_schema(path)
    found = [f"{f.name} {str(f.type).partition('<')[0]}" for f in schema]
    assert found == " ".join(CONTRACT.split()).split(", ")
    said = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
    assert said["format_version"] == 1
    assert said["rows"] == 3
    assert said["datasets"] == {"lab": "in", "lab:ood": "ood"}
    assert said["written_by"].startswith("uncertainty-probes ")
    assert list(said["columns"]) == schema.names
    units = ("nats", "tokens", "characters", "standard deviations", "0 to 1", "no unit")
    for column in COLUMNS:
        assert column.kind != "number" or any(unit in column.about for unit in units), column


def test_hostile_texts_are_data(made_up: Path) -> None:
    table = read_narrow(made_up)
    details = read_details(made_up, range(len(table)))
    for text in HOSTILE[:2]:  # the questions with them are 7 and 47
        assert any(one.question.startswith(text) for one in details)
    shown = "".join(text for one in details for text in one.token_texts)
    assert all(text in shown for text in HOSTILE[:2])
    assert max(len(one.question) for one in details) > 80_000
    for one in details:
        start, end = one.thinking_span or (0, 0)
        assert "".join(one.token_texts[start:end]) == (one.thinking if end else "")


def test_a_lone_surrogate_does_not_stop_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "analysis.parquet"
    changed = rows(answer=["a\ud800b", "é", "c"], token_texts=[["\udfff"], [], []])
    write_groups(path, [changed], ABOUT, 3)
    first, second = read_details(path, [0, 1])
    assert (first.answer, second.answer, first.token_texts) == ("a?b", "é", ("?",))


def test_a_made_up_run_is_as_a_run_would_be(made_up: Path) -> None:
    table = read_narrow(made_up)
    questions = table["question_id"]
    assert np.bincount(questions, weights=table["representative"]).tolist() == [1] * 70
    right, wrong = table["correct"] == 1, table["correct"] == 0
    margin = table["margin_correctness"]
    assert margin[right].mean() > margin[wrong].mean() + 1
    assert set(table.words("split")) == {"train", "validation", "test", "ood"}
    is_outside = [split == "ood" for split in table.words("split")]
    assert [name == "lab:ood" for name in table.words("dataset")] == is_outside


def test_details_read_a_small_part_of_the_file(
    made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_read = [0]

    class Counting(pa.PythonFile):
        """Counts what is read of the file's body."""

    plain = pq.ParquetFile

    class File:
        def __init__(self, path: Path) -> None:
            self.file = path.open("rb")

        def read(self, size: int = -1) -> bytes:
            data = self.file.read(size)
            bytes_read[0] += len(data)
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def counted(path: Path, **options: Any) -> Any:
        return plain(Counting(File(path), mode="r"), **options)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    size = made_up.stat().st_size

    def cost(read: Callable[[], object]) -> int:
        bytes_read[0] = 0
        read()
        return bytes_read[0]

    footer = cost(lambda: read_details(made_up, []))
    narrow = cost(lambda: read_narrow(made_up)) - footer
    one = cost(lambda: read_details(made_up, [699])) - footer
    two = cost(lambda: read_details(made_up, [690, 699])) - footer
    every = cost(lambda: read_details(made_up, [0, 300, 699])) - footer
    assert 0 < narrow < size / 2
    assert 0 < one < every / 3
    assert two == one  # of one row group
    assert narrow + every <= size


def test_memory_holds_one_group_of_rows(tmp_path: Path) -> None:
    made: list[int] = []
    sizes: list[int] = []
    path = tmp_path / "analysis.parquet"

    def groups() -> Iterator[dict[str, Any]]:
        for i in range(20):
            made.append(i)
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
            noise = np.random.default_rng(i).bytes(3 * 50_000)
            texts = [noise[j::3].hex() for j in range(3)]
            yield rows(thinking=texts)

    write_groups(path, groups(), ABOUT, 60)
    assert len(read_narrow(path)) == 60
    assert sizes[-1] > 15 * 100_000  # what was made before is on the disk already


def test_a_broken_off_or_miscounted_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run" / "analysis.parquet"

    def broken() -> Iterator[dict[str, Any]]:
        yield rows()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_groups(path, broken(), ABOUT, 6)
    with pytest.raises(ValueError, match="3 rows where 6 were announced"):
        write_groups(path, iter([rows()]), ABOUT, 6)
    with pytest.raises(ValueError, match="missing or unknown: answer"):
        write_groups(path, [{k: v for k, v in rows().items() if k != "answer"}], ABOUT, 3)
    with pytest.raises(ValueError, match="'question' has empty cells"):
        write_groups(path, [rows(question=["a", None, "c"])], ABOUT, 3)
    assert list(path.parent.iterdir()) == []


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "analysis.parquet"
    write_groups(path, [], ABOUT, 0)
    table = read_narrow(path)
    assert len(table) == 0
    assert table.words("status") == []


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **said: Any) -> None:
    """The same file by another hand, with other columns or metadata."""
    table = change(pq.read_table(path))
    about = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
    text = json.dumps({**about, "rows": len(table), **said})
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path)


def replaced(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


def same(table: pa.Table) -> pa.Table:
    return table


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: p.unlink(), "is missing"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: p.write_text("<html>" * 100), "cannot be read"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
        (lambda p: p.write_bytes(p.read_bytes()[:2000]), "cannot be read"),
        (lambda p: pq.write_table(pa.table({"a": [1]}), p), "no analysis of a run"),
        (lambda p: rewrite(p, lambda t: t.drop_columns(["umap_x"])), "no column 'umap_x'"),
        (
            lambda p: rewrite(p, replaced("run_id", pa.array(["0", "1", "2"]))),
            "column 'run_id' is string instead of int32",
        ),
        (
            lambda p: rewrite(p, replaced("question_id", pa.array([["a"], ["b"], ["c"]]))),
            "column 'question_id' is list<.*> instead of string",
        ),
        (
            lambda p: rewrite(p, replaced("run_id", pa.array([0, None, 2], pa.int32()))),
            "column 'run_id' has empty cells",
        ),
        (
            lambda p: rewrite(p, replaced("status", pa.array(["fine", "wrong", None]))),
            "column 'status' has the unknown value 'fine'",
        ),
        (
            lambda p: rewrite(p, same, datasets={"lab": "in"}),
            "column 'dataset' has the unknown value 'lab:ood'",
        ),
        (lambda p: rewrite(p, same, rows=4), "has 3 rows where its metadata says 4"),
        (lambda p: rewrite(p, same, datasets=["lab"]), "metadata that cannot be read"),
        (lambda p: rewrite(p, same, entropy_of="guesses"), "metadata that cannot be read"),
        (
            lambda p: rewrite(p, same, format_version=9, written_by="uncertainty-probes 7.0"),
            "format 9 by uncertainty-probes 7.0, and this is format 1",
        ),
    ],
)
def test_what_cannot_be_read_is_said_with_the_remedy(
    path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    spoil(path)
    with pytest.raises(UserError, match=reason) as error:
        read_narrow(path)
    assert str(path) in str(error.value)
    assert f"`sep analysis {path.parent}` writes it" in str(error.value)


def test_a_null_in_a_wide_column_is_said_when_it_is_looked_at(path: Path) -> None:
    rewrite(path, replaced("thinking", pa.array(["a", None, "c"])))
    assert read_details(path, [0])[0].thinking == "a"
    with pytest.raises(UserError, match="'thinking' has empty cells"):
        read_details(path, [1])


def test_columns_of_a_later_version_are_passed_over(path: Path) -> None:
    rewrite(path, lambda table: table.append_column("new", pa.array([1, 2, 3])))
    assert len(read_narrow(path)) == 3


def test_flipped_bytes_are_said_and_never_read_as_other_values(path: Path) -> None:
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    right, details = read_narrow(path), read_details(path, [0, 2])
    refused = 0
    for _ in range(150):
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            spoilt[place] ^= int(rng.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            found, looked_at = read_narrow(path), read_details(path, [0, 2])
        except UserError:
            refused += 1
            continue
        for name, values in right.columns.items():
            np.testing.assert_array_equal(found[name], values)
        assert [one.token_texts for one in looked_at] == [one.token_texts for one in details]
    assert refused > 100


def test_reading_needs_no_torch_and_no_umap(made_up: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from helpers.analysis_table.file import *\n"
        f"path = Path({str(made_up)!r}); table = read_narrow(path); read_details(path, [0])\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'umap', 'numba', 'sklearn', 'marimo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); print(len(table))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "700\n", done.stderr
