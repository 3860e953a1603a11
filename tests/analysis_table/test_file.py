"""The file that the dashboard reads: what is written comes back, and what is damaged is said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.analysis_table.about import (
    About,
    Label,
    Noun,
    Number,
    Predictor,
    Split,
    Text,
    Tokens,
    columns,
)
from helpers.analysis_table.file import (
    LARGEST_METADATA,
    METADATA_KEY,
    UnitRows,
    read_details,
    read_narrow,
    write_analysis_table,
)
from helpers.errors import UserError
from helpers.progress import silent_progress
from support.made_up_analysis import make_analysis, make_words_analysis

CONTRACT = """
group_id string, unit_id int32, dataset dictionary, split dictionary, label_correct dictionary,
label_high dictionary, probability_probe float, margin_probe float, projection_probe float,
number_entropy float, number_length int32, umap_x float, umap_y float, representative bool,
text_question string, text_final string, text_tokens list, entropies_tokens list
"""
"""Order and types that other readers of the file count on."""
ABOUT = About(
    run="run-1",
    model="lab",
    title="A study",
    introduction="Of runs.",
    unit=Noun("run", "runs"),
    group=Noun("question", "questions"),
    labels=(
        Label("correct", "correct or not", ("correct", "wrong", "unanswered"), "correct", "wrong"),
        Label("high", "high or not", ("high", "low"), "high", "low", "", "unknown", "entropy", 0.5),
    ),
    predictors=(Predictor("probe", "probe", "correct", {"correct": 1, "high": -1}, "end", 3),),
    numbers=(Number("entropy", "entropy", "nats"), Number("length", "length", "tokens", True)),
    texts=(
        Text("question", "question"),
        Text("final", "final answer", missing="none"),
        Text("tokens", "Tokens", "tokens"),
    ),
    splits=(Split("train", "train", False), Split("test", "test", True)),
    datasets={"lab": "in", "lab:ood": "ood"},
    representative="the first",
)
TEXTS: list[dict[str, Any]] = [
    {"question": "a", "final": None, "tokens": Tokens(("x", "", "é"), np.array([0.5, np.nan, 1]))},
    {"question": "b", "final": "1", "tokens": Tokens((), np.array([]))},
    {"question": "c", "final": "2", "tokens": Tokens(("y",), np.array([2.0]))},
]


def rows(**changes: Any) -> UnitRows:
    """Three rows of every column, some of them changed."""
    numbers = np.array([0.25, np.nan, -np.inf])
    return UnitRows(
        **{
            "group_id": ["a", "b", "c"],
            "unit_id": [1, 2, 3],
            "dataset": ["lab", "lab", "lab:ood"],
            "split": ["train", "test", "test"],
            "labels": {"correct": ["unanswered", None, "correct"], "high": ["high", "low", "high"]},
            "predictions": {"probe": dict.fromkeys(("probability", "margin"), numbers)},
            "numbers": {"entropy": numbers, "length": [1, 2, 3]},
            "representative": np.array([True, False, True]),
            **changes,
        }
    )


def write(path: Path, given: UnitRows | None = None, **options: Any) -> None:
    texts = options.pop("texts", TEXTS.__getitem__)
    write_analysis_table(
        path, ABOUT, rows() if given is None else given, texts, progress=silent_progress()
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "run" / "analysis.parquet")
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
    assert table.words("group_id") == ["a", "b", "c"]
    assert table.words("dataset") == ["lab", "lab", "lab:ood"]
    assert table.words("label_correct", [1, 2]) == [None, "correct"]
    np.testing.assert_array_equal(table.truth("correct"), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(table.truth("high", [0, 1]), [1, 0])
    np.testing.assert_array_equal(table["margin_probe"], [0.25, np.nan, np.nan])
    assert np.isnan(table["projection_probe"]).all()
    assert np.isnan(table["umap_x"]).all()
    assert table["representative"].dtype == bool
    assert table["unit_id"].dtype == np.int32
    assert table["split"].dtype == np.int8


def test_texts_and_tokens_come_back_in_the_order_asked_for(path: Path) -> None:
    last, first, again = read_details(path, [2, 0, 2])
    assert (last.row, last.texts) == (2, {"question": "c", "final": "2"})
    assert (first.texts["final"], first.tokens["tokens"].texts) == (None, ("x", "", "é"))
    np.testing.assert_array_equal(first.tokens["tokens"].entropies, np.float32([0.5, np.nan, 1.0]))
    assert again.tokens["tokens"].texts == last.tokens["tokens"].texts
    assert read_details(path, []) == []
    with pytest.raises(IndexError, match="file of 3 rows"):
        read_details(path, [3])


def test_columns_types_and_metadata_are_those_that_other_readers_count_on(path: Path) -> None:
    schema = pq.read_schema(path)
    found = [f"{f.name} {str(f.type).partition('<')[0]}" for f in schema]
    assert found == " ".join(CONTRACT.split()).split(", ")
    said = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
    assert said["format_version"] == 2
    assert said["rows"] == 3
    assert said["datasets"] == {"lab": "in", "lab:ood": "ood"}
    assert said["written_by"].startswith("uncertainty-probes ")
    assert list(said["columns"]) == schema.names
    units = ("nats", "tokens", "standard deviations", "0 to 1", "no unit")
    for column in columns(ABOUT):
        assert column.kind != "number" or any(unit in column.about for unit in units), column


def test_another_study_has_columns_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "analysis.parquet"
    about = make_words_analysis(path, words=300)
    table = read_narrow(path)
    assert table.about == about
    assert set(table.words("label_kind")) == {"none", "fact", "name"}
    assert np.isnan(table.truth("kind")).all()
    assert set(table.truth("hallucinated")) == {0.0, 1.0}
    assert "representative" not in table.columns
    assert read_details(path, [299])[0].texts == {"word": "word 299"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": ()}, "a label, a predictor and a number are needed"),
        ({"labels": ABOUT.labels * 2}, "labels: a name comes twice"),
        ({"numbers": (Number("../x", "x", "nats"),)}, "'../x' is no name of a column"),
        ({"baseline": "nothing"}, "baseline: there is no 'nothing'"),
        ({"length": "entropy"}, "length: there is no 'entropy'"),
        ({"predictors": (Predictor("p", "p", "other", {}),)}, "predictor p: there is no 'other'"),
        ({"labels": (Label("a", "a", ("x",), "x", "y"),)}, "its classes do not fit together"),
        ({"splits": ABOUT.splits * 40}, "splits: more than 64"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(ABOUT, **change)


def test_a_lone_surrogate_does_not_stop_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "analysis.parquet"
    odd = {"question": "a\ud800b", "final": "é", "tokens": Tokens(("\udfff",), np.array([]))}
    write(path, texts=lambda row: odd)
    (first,) = read_details(path, [0])
    assert first.texts == {"question": "a?b", "final": "é"}
    assert first.tokens["tokens"].texts == ("?",)


def test_details_read_a_small_part_of_the_file(
    made_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(io.FileIO):
        """Counts what is read of the file's body."""

        sizes: ClassVar[list[int]] = []

        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            self.sizes.append(len(data))
            return data

    plain = pq.ParquetFile
    counted = lambda path, **how: plain(pa.PythonFile(Counted(path), mode="r"), **how)  # noqa: E731
    monkeypatch.setattr(pq, "ParquetFile", counted)

    def cost(read: Callable[[], object]) -> int:
        Counted.sizes.clear()
        read()
        return sum(Counted.sizes)

    size, footer = made_up.stat().st_size, cost(lambda: read_details(made_up, []))
    narrow = cost(lambda: read_narrow(made_up)) - footer
    one, two, every = (
        cost(lambda rows=rows: read_details(made_up, rows)) - footer
        for rows in ([699], [690, 699], [0, 300, 699])
    )
    assert 0 < narrow < size / 2
    assert 0 < one < every / 3
    assert two == one  # of one row group
    assert narrow + every <= size


def test_memory_holds_one_group_of_rows(tmp_path: Path) -> None:
    sizes: list[int] = []
    path, n = tmp_path / "analysis.parquet", 2560

    def texts(row: int) -> dict[str, Any]:
        if row % 256 == 0:
            sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        return {**TEXTS[0], "question": np.random.default_rng(row).bytes(200).hex()}

    many = rows(
        group_id=[f"q{i}" for i in range(n)], unit_id=[0] * n, dataset=["lab"] * n,
        split=["test"] * n, labels={"correct": ["wrong"] * n, "high": ["low"] * n},
        predictions={}, numbers={"entropy": np.ones(n), "length": [1] * n},
        representative=np.ones(n, bool),
    )  # fmt: skip
    write(path, many, texts=texts)
    assert len(read_narrow(path)) == n
    assert sizes[-1] > 5 * 256 * 200  # what was made before is on the disk already


def test_a_broken_off_or_ill_fitting_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run" / "analysis.parquet"

    def broken(row: int) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, texts=broken)
    with pytest.raises(ValueError, match="missing or unknown: text_final"):
        write(path, texts=lambda row: {k: v for k, v in TEXTS[row].items() if k != "final"})
    with pytest.raises(ValueError, match="'text_question' has empty cells"):
        write(path, texts=lambda row: {**TEXTS[row], "question": None})
    with pytest.raises(ValueError, match="'split' has the unknown value 'later'"):
        write(path, rows(split=["train", "test", "later"]))
    with pytest.raises(ValueError, match="2 states of 3 rows"):
        write_analysis_table(
            path, ABOUT, rows(), TEXTS.__getitem__, states=np.ones((2, 4)),
            progress=silent_progress(),
        )  # fmt: skip
    assert not path.parent.exists() or list(path.parent.iterdir()) == []


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "analysis.parquet"
    none = rows(
        group_id=[], unit_id=[], dataset=[], split=[], labels={"correct": [], "high": []},
        predictions={}, numbers={"entropy": [], "length": []}, representative=np.ones(0, bool),
    )  # fmt: skip
    write(path, none)
    table = read_narrow(path)
    assert len(table) == 0
    assert table.words("label_correct") == []


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **said: Any) -> None:
    """The same file by another hand, with other columns or metadata."""
    table = change(pq.read_table(path))
    about = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
    text = json.dumps({**about, "rows": len(table), **said})
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path)


def replaced(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


OTHER_WORD = pa.array(["fine", "wrong", None]).dictionary_encode()
SPOILT: list[tuple[Callable[[Path], Any], str]] = [
    (lambda p: p.unlink(), "is missing"),
    (lambda p: p.write_bytes(b""), "cannot be read"),
    (lambda p: p.write_text("<html>" * 100), "cannot be read"),
    (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
    (lambda p: p.write_bytes(p.read_bytes()[:2000]), "cannot be read"),
    (lambda p: pq.write_table(pa.table({"a": [1]}), p), "no analysis of a run"),
]
SPOILT_COLUMNS: list[tuple[str, Any, str]] = [
    ("unit_id", pa.array(["0", "1", "2"]), "is string instead of int32"),
    ("group_id", pa.array([["a"], ["b"], ["c"]]), "is list<.*> instead of string"),
    ("unit_id", pa.array([0, None, 2], pa.int32()), "has empty cells"),
    ("label_correct", OTHER_WORD, "has the unknown value 'fine'"),
]
SPOILT_METADATA: list[tuple[dict[str, Any], str]] = [
    ({"datasets": {"lab": "in"}}, "column 'dataset' has the unknown value 'lab:ood'"),
    ({"rows": 4}, "has 3 rows where its metadata says 4"),
    ({"datasets": ["lab"]}, "metadata that cannot be read"),
    ({"labels": []}, "metadata that cannot be read"),
    ({"title": "x" * LARGEST_METADATA}, "bytes of metadata, which is too much"),
    ({"format_version": 9, "written_by": "a 7.0"}, "format 9 by a 7.0, and this is format 2"),
]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        *SPOILT,
        (lambda p: rewrite(p, lambda t: t.drop_columns(["umap_x"])), "no column 'umap_x'"),
        *(
            (lambda p, n=name, v=values: rewrite(p, replaced(n, v)), f"column '{name}' {reason}")
            for name, values, reason in SPOILT_COLUMNS
        ),
        *(
            (lambda p, said=said: rewrite(p, lambda table: table, **said), reason)
            for said, reason in SPOILT_METADATA
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
    rewrite(path, replaced("text_question", pa.array(["a", None, "c"])))
    rewrite(path, lambda table: table.append_column("of_a_later_version", pa.array([1, 2, 3])))
    assert read_details(path, [0])[0].texts["question"] == "a"
    with pytest.raises(UserError, match="'text_question' has empty cells"):
        read_details(path, [1])


def test_flipped_bytes_are_said_and_never_read_as_other_values(path: Path) -> None:
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    right, details = read_narrow(path), read_details(path, [0, 2])
    refused = 0
    for _ in range(80):
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
        assert [one.texts for one in looked_at] == [one.texts for one in details]
    assert refused > 50
