"""The dashboard's parts: what is listed, filtered, asked for, drawn, scored and shown."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.dashboard import data, figures, filters, page
from helpers.dashboard import filters as address
from helpers.dashboard.data import selection_scores
from helpers.dashboard.figures import rows_of_points, score_words
from helpers.dashboard.filters import (
    NOTHING_LEFT,
    POINTS,
    Filters,
    apply_filters,
    cautions,
    class_names,
    drawn_rows,
    length_range,
    signals,
    usual_filters,
)
from helpers.evaluation.scores import evaluate_classifier
from support.made_up_analysis import HOSTILE, make_analysis, make_words_analysis

COLUMNS_OF_CLASSES = ("dataset", "split", "label_correct", "label_high_semantic_entropy")
PREDICTORS = ("correctness", "semantic_entropy", "thinking_entropy", "combined")

SLOW = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders: a whole one, one with less in it, an ungraded one, a damaged one, no run."""
    out, file = tmp_path_factory.mktemp("outputs"), "analysis.parquet"
    less: dict[str, Any] = {"ood": 0.0, "undefined": ("combined",), "entropies": False}
    make_analysis(out / "whole" / file, questions=60, runs=6, tokens=25)
    make_analysis(out / "sparse" / file, questions=12, runs=3, tokens=8, **less)
    make_analysis(out / "ungraded" / file, questions=8, runs=3, tokens=8, references=False)
    for age, name in enumerate(("whole", "sparse", "ungraded")):
        os.utime(out / name / file, (10_000 - age, 10_000 - age))
    (out / "damaged").mkdir()
    (out / "damaged" / file).write_bytes((out / "whole" / file).read_bytes()[:5000])
    (out / "main-study").mkdir()
    (out / "main-study" / "manifest.json").write_text("{}")
    return out


@pytest.fixture(scope="module")
def listed(out: Path) -> dict[str, data.Listed]:
    return {run.name: run for run in data.listed_runs(out)}


@pytest.fixture(scope="module")
def run(listed: dict[str, data.Listed]) -> data.OpenRun:
    return data.open_run(listed["whole"])


@pytest.fixture(scope="module")
def sparse(listed: dict[str, data.Listed]) -> data.OpenRun:
    return data.open_run(listed["sparse"])


# --- listing and opening --------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_damaged_ones_with_the_reason(
    out: Path, listed: dict[str, data.Listed]
) -> None:
    assert list(listed) == ["whole", "sparse", "ungraded", "damaged"]
    assert listed["whole"].size == "360 runs of 60 questions"
    assert listed["whole"].datasets == ("lab", "lab:ood")
    assert listed["damaged"].damaged
    assert str(out) not in listed["damaged"].damaged
    assert data.listed_runs(out / "absent") == ()
    assert data.listed_runs(out / "whole" / "analysis.parquet") == ()


def test_all_visitors_share_one_copy_that_nobody_can_write_to(tmp_path: Path) -> None:
    path = tmp_path / "one" / "analysis.parquet"
    make_analysis(path, questions=6, runs=3, tokens=6)
    data._table.cache_clear()

    def visit(_: int) -> Any:
        return data.open_run(data.listed_runs(tmp_path)[0]).table

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(visit, range(16)))
    assert len({id(table) for table in tables}) == 1
    assert data._table.cache_info().misses == 1
    with pytest.raises(ValueError, match="read-only"):
        tables[0]["umap_x"][0] = 0
    make_analysis(path, questions=6, runs=4, tokens=6)
    assert len(visit(0)) == 24


def test_stored_scores_are_read_where_they_are_scores(tmp_path: Path, run: data.OpenRun) -> None:
    score = {"value": 0.8, "low": 0.7, "high": 0.9, "p_value": None, "n": 40, "undefined": ""}
    test = {
        "correctness": {"auroc": score},
        "combined": {"auroc": {**score, "value": None, "undefined": "one class"}},
        "thinking_entropy": {"auroc": {**score, "low": float("nan")}},
        "semantic_entropy": ["nothing"],
    }
    metrics, label = {"correctness": {"test": test, "ood": 3}}, run.table.about.label("correct")
    assert data.stored_scores(tmp_path, run.table.about, label) == {}
    for text in ("", "[1]", '{"correctness": []}', "[" * 100_000, json.dumps(metrics)):
        (tmp_path / "metrics.json").write_text(text)
        found = data.stored_scores(tmp_path, run.table.about, label)
    words = {split: {n: score_words(s) for n, s in row.items()} for split, row in found.items()}
    expected = {"correctness": "0.800 [0.700, 0.900]", "combined": "undefined, because one class"}
    assert words == {"test": expected}


# --- filters --------------------------------------------------------------------------------------


def some_filters(table: Any) -> st.SearchStrategy[Filters]:
    """Any filters that the page's elements can ask for."""
    least, most = length_range(table)
    lengths = st.sampled_from(np.unique(table["number_thinking_tokens"]).tolist())
    ends = st.lists(lengths, min_size=2, max_size=2).map(sorted).map(tuple)
    share = st.integers(0, 100).map(lambda i: i / 100)
    shares = st.lists(share, min_size=2, max_size=2).map(sorted).map(tuple)

    def some(column: str) -> st.SearchStrategy[tuple[str, ...]]:
        names = class_names(table, column)
        return st.sets(st.sampled_from(names)).map(
            lambda kept: tuple(name for name in names if name in kept)
        )

    ranges = st.dictionaries(st.sampled_from(PREDICTORS), shares.filter(lambda e: e != (0.0, 1.0)))
    return st.builds(
        Filters,
        classes=st.fixed_dictionaries({column: some(column) for column in COLUMNS_OF_CLASSES}),
        representative=st.booleans(),
        length=st.none() | ends.filter(lambda e: e != (least, most)),
        probabilities=ranges,
        points=st.sampled_from(POINTS),
    )


def naive(table: Any, filters: Filters, row: int) -> bool:
    """Whether a run is like the filters say, looked up one value at a time."""
    words = {name: table.words(name, [row])[0] for name in COLUMNS_OF_CLASSES}
    unknown = {"label_correct": "not graded", "label_high_semantic_entropy": "unknown"}
    low, high = filters.length or (0, 10**9)
    return (
        all((words[c] or unknown[c]) in filters.classes[c] for c in COLUMNS_OF_CLASSES)
        and (not filters.representative or bool(table["representative"][row]))
        and low <= table["number_thinking_tokens"][row] <= high
        and all(
            a - 1e-6 <= table[f"probability_{name}"][row] <= b + 1e-6
            for name, (a, b) in filters.probabilities.items()
        )
    )


@SLOW
@given(asked=st.data())
def test_filters_keep_what_a_look_at_each_run_keeps(asked: Any, run: data.OpenRun) -> None:
    filters = asked.draw(some_filters(run.table))
    kept = apply_filters(run.table, filters)
    assert kept.rows.tolist() == [i for i in range(len(run.table)) if naive(run.table, filters, i)]
    assert kept.groups == len(set(run.table["group_id"][kept.rows].tolist()))
    counts = [step.units for step in kept.steps.values()]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == len(kept.rows)


def test_a_row_without_a_probability_passes_no_range_of_it(sparse: data.OpenRun) -> None:
    usual = usual_filters(sparse.table)
    assert len(apply_filters(sparse.table, usual).rows)
    narrowed = replace(usual, probabilities={"combined": (0.0, 0.99)})
    assert not len(apply_filters(sparse.table, narrowed).rows)


def test_points_are_a_subset_that_no_filter_reshuffles() -> None:
    def kept(rows: np.ndarray, points: int) -> Any:
        return filters.FilteredRows(rows, 0, {}, Filters({}, points=points))

    wide = drawn_rows(kept(np.arange(5000), 500), 5000)
    assert len(wide) == 500
    assert np.array_equal(wide, drawn_rows(kept(np.arange(5000), 500), 5000))
    narrow = drawn_rows(kept(np.arange(2000), 500), 5000)
    assert set(wide[wide < 2000]) < set(narrow)
    hidden = next(row for row in range(5000) if row not in wide)
    assert hidden in drawn_rows(kept(np.arange(5000), 500), 5000, (hidden, 4999))
    assert hidden not in drawn_rows(kept(np.arange(hidden), 500), 5000, (hidden,))


def test_what_makes_scores_conditional_or_optimistic_is_said(run: data.OpenRun) -> None:
    table, usual = run.table, usual_filters(run.table)
    assert usual.classes["split"] == ("test", "ood")

    def said(classes: dict[str, Any] | None = None, **changes: Any) -> str:
        asked = replace(usual, classes={**usual.classes, **(classes or {})}, **changes)
        return " ".join(cautions(table, apply_filters(table, asked), "correct"))

    assert "pooled" in said()
    assert said({"split": ("test",)}) == ""
    assert "optimistic" in said({"split": ("train", "test")})
    assert "optimistic" not in said({"split": ("train", "test"), "dataset": ("lab:ood",)})
    assert "conditional" in said(probabilities={"correctness": (0.5, 1.0)})
    assert "one class" in said({"label_correct": ("correct", "unanswered")})
    assert "One run a question" in said(representative=True)


# --- addresses ------------------------------------------------------------------------------------


@SLOW
@given(asked=st.data())
def test_a_link_shows_the_same_view_again(asked: Any, run: data.OpenRun) -> None:
    filters = asked.draw(some_filters(run.table))
    usual = usual_filters(run.table)
    classes = {name: chosen or usual.classes[name] for name, chosen in filters.classes.items()}
    filters = replace(filters, classes=classes)
    rows = st.lists(st.integers(0, len(run.table) - 1), max_size=10, unique=True)
    view = address.View(
        filters,
        asked.draw(st.sampled_from(["correct", "high_semantic_entropy"])),
        asked.draw(st.sampled_from(PREDICTORS)),
        asked.draw(st.sampled_from(list(signals(run.table.about)))),
        tuple(asked.draw(rows)),
    )
    link = address.link("whole", view, run.table)
    # As a browser's page hands it on: of a key that comes several times, the last.
    params = dict(parse_qsl(link.removeprefix("?"), keep_blank_values=True, strict_parsing=True))
    found = address.asked_view(params, run.table)
    assert found == address.Asked(view)
    assert address.first_run(params, [run.listed]) == address.FirstRun("whole", False)


def test_a_link_can_name_whatever_a_file_names(run: data.OpenRun) -> None:
    ids = tuple(f"a,b/{i}%2C&é <{HOSTILE[5]}" for i in range(60))
    names = {**run.table.names, "group_id": ids, "dataset": ("x, y", "50 % of z?")}
    table = replace(run.table, names=names)
    usual = address.usual_view(table)
    classes = {**usual.filters.classes, "dataset": ("x, y",)}
    view = replace(usual, filters=replace(usual.filters, classes=classes), chosen=(7, 3))
    link = address.link("a & b", view, table)
    params = dict(parse_qsl(link.removeprefix("?"), strict_parsing=True))
    assert address.asked_view(params, table) == address.Asked(view)
    assert params["run"] == "a & b"


KEYS = (
    *COLUMNS_OF_CLASSES, "representative", "length", *(f"p_{name}" for name in PREDICTORS),
    "points", "label", "probe", "colour", "pick",
)  # fmt: skip
NASTY = (
    "../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", "%252e%252e", "/", "whole/../whole", "\x00",
    "1e999", "nan", "-1", "１２", "0..", "5..2", "..", "0.2..0.1", "lab\udcff", "a" * 5000,
    *HOSTILE,
)  # fmt: skip
values = st.sampled_from(NASTY) | st.text(max_size=40)


@SLOW
@given(
    params=st.dictionaries(
        st.sampled_from([address.RUN, *KEYS]) | st.text(max_size=12),
        values | st.lists(values, max_size=80) | st.none() | st.integers(),
        max_size=8,
    )
)
def test_no_address_breaks_anything(
    params: dict[str, Any], run: data.OpenRun, listed: dict[str, data.Listed]
) -> None:
    runs = list(listed.values())
    first = address.first_run(params, runs)
    assert first.name in ("whole", "sparse", "ungraded")
    found = address.asked_view(params, run.table)
    view, filters = found.view, found.view.filters
    assert set(KEYS) == set(address.keys(run.table.about))
    for column in COLUMNS_OF_CLASSES:
        assert set(filters.classes[column]) <= set(class_names(run.table, column))
    assert filters.points in POINTS
    assert view.probe in PREDICTORS
    assert view.colour in signals(run.table.about)
    assert all(0 <= row < len(run.table) for row in view.chosen)
    words = address.ignored_words(found, first.in_vain)
    assert not set("<>&\"'/%\\") & set(words)


@pytest.mark.parametrize("key", [address.RUN, *KEYS])
def test_what_is_not_possible_changes_nothing_and_is_said(
    key: str, run: data.OpenRun, listed: dict[str, data.Listed]
) -> None:
    for value in (*NASTY, ["1", "1"], ["x"] * 100):
        first = address.first_run({key: value}, list(listed.values()))
        found = address.asked_view({key: value}, run.table)
        assert first.name == "whole"
        assert found.view == address.usual_view(run.table)
        assert key in address.ignored_words(found, first.in_vain)


def test_numbers_out_of_range_are_clamped(run: data.OpenRun) -> None:
    least, most = length_range(run.table)
    asked = {"points": "999999", "length": f"{least + 3}..99999999", "p_combined": "0.5..7"}
    found = address.asked_view(asked, run.table)
    assert found.ignored == ()
    assert found.view.filters.points == POINTS[-1]
    assert found.view.filters.length == (least + 3, most)
    assert found.view.filters.probabilities == {"combined": (0.5, 1.0)}
    assert address.asked_view({"length": "0..999999"}, run.table).view.filters.length is None


def test_a_damaged_run_cannot_be_asked_for(listed: dict[str, data.Listed]) -> None:
    first = address.first_run({"run": "damaged"}, list(listed.values()))
    assert first == address.FirstRun("whole", True)
    assert address.first_run({}, [listed["damaged"]]) == address.FirstRun(None, False)


# --- figures --------------------------------------------------------------------------------------


def drawn_points(figure: Any) -> dict[int, tuple[float, float]]:
    """Row to place of every point of a figure."""
    return {
        int(row): (float(x), float(y))
        for trace in figure.data
        if trace.customdata is not None
        for row, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }


def test_figures_draw_the_rows_that_are_left_at_their_values(run: data.OpenRun) -> None:
    table, kept = run.table, apply_filters(run.table, usual_filters(run.table))
    margins = figures.margin_view(table, kept, "combined", "correct")
    thresholds = figures.threshold_view(table, kept, "correct")
    for drawn, x, y in (
        (margins, "number_thinking_entropy", "margin_combined"),
        (thresholds, "number_semantic_entropy", "probability_semantic_entropy"),
        (figures.map_view(table, kept, "margin_correctness"), "umap_x", "umap_y"),
        (figures.map_view(table, kept, "dataset"), "umap_x", "umap_y"),
    ):
        expected = {int(i): (float(table[x][i]), float(table[y][i])) for i in kept.rows}
        assert drawn_points(drawn.figure) == expected
        assert drawn.words.startswith("In words: ")
    assert [(s.y0, s.y1) for s in margins.figure.layout.shapes] == [(0, 0)]
    (line,) = thresholds.figure.layout.shapes
    assert line.x0 == line.x1 == table.about.label("high_semantic_entropy").threshold


def test_colours_tell_correct_runs_from_wrong_ones(run: data.OpenRun) -> None:
    kept = apply_filters(run.table, usual_filters(run.table))
    figure = figures.margin_view(run.table, kept, "correctness", "correct").figure
    named = {trace.name for trace in figure.data if trace.customdata is None}
    assert named == {"correct", "wrong", "unanswered"}
    for trace in figure.data:
        if trace.customdata is not None and len(trace.customdata):
            assert set(run.table.words("label_correct", trace.customdata)) == {trace.name}


def test_many_points_are_drawn_by_webgl_and_left_out_ones_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "large" / "analysis.parquet"
    make_analysis(path, questions=1000, runs=9, tokens=5, ood=0.0)
    table = data.open_run(data.listed_runs(tmp_path)[0]).table
    every = all_splits(table)
    kinds, sizes, titles = [], [], []
    for points in (2000, 20_000):
        drawn = figures.margin_view(
            table, apply_filters(table, replace(every, points=points)), "combined", "correct"
        )
        kinds.append({t.type for t in drawn.figure.data if t.customdata is not None})
        sizes.append(len(drawn_points(drawn.figure)))
        titles.append(drawn.figure.layout.title.text)
        assert len(drawn.figure.to_json()) < 1_500_000
    assert kinds == [{"scatter"}, {"scattergl"}]
    assert sizes == [2000, 9000]
    assert "2,000 of 9,000 runs drawn" in titles[0]
    assert "drawn" not in titles[1]


def test_names_from_files_are_no_markup_in_figures(tmp_path: Path, run: data.OpenRun) -> None:
    table = run.table
    names = {**table.names, "group_id": tuple(f"{HOSTILE[2]} {i}" for i in range(60))}
    names["dataset"] = (HOSTILE[0], HOSTILE[4])
    hostile = replace(table, names=names)
    drawn = figures.map_view(hostile, apply_filters(hostile, usual_filters(hostile)), "dataset")
    texts = [text for t in drawn.figure.data for text in (t.name, *(t.text or ()))]
    assert any("onerror" in text for text in texts)
    assert not any("<" in text for text in texts)


def test_only_points_of_the_figure_are_selected(run: data.OpenRun) -> None:
    kept = apply_filters(run.table, usual_filters(run.table))
    figure = figures.threshold_view(run.table, kept, "correct").figure
    first = int(figure.data[0].customdata[0])
    good = {"curveNumber": 0, "pointIndex": 0, "x": 1}
    assert rows_of_points(figure, [good, good]) == (first,)
    odd: list[Any] = [
        None, "x", 3, {}, {"curveNumber": 0}, {"curveNumber": 99, "pointIndex": 0},
        {"curveNumber": 0, "pointIndex": -1}, {"curveNumber": 0, "pointIndex": 10**9},
        {"curveNumber": True, "pointIndex": 0}, {"curveNumber": "0", "pointIndex": 0},
        {"curveNumber": 1, "pointIndex": 0},  # an entry of the legend
    ]  # fmt: skip
    assert rows_of_points(figure, odd) == ()
    assert rows_of_points(figure, None) == ()


def views(run: data.OpenRun, filters: Filters) -> list[Any]:
    """Every view under some filters: figure and words."""
    table, kept = run.table, apply_filters(run.table, filters)
    label = address.usual_view(table).label
    scores = selection_scores(run, kept.rows, label)
    return [
        *(figures.margin_view(table, kept, p.name, label) for p in table.about.predictors),
        figures.threshold_view(table, kept, label),
        *(figures.map_view(table, kept, colour) for colour in signals(table.about)),
        figures.roc_view(scores),
        figures.risk_view(scores),
    ]


def all_splits(table: Any) -> Filters:
    """The usual filters, with every split."""
    usual = usual_filters(table)
    return replace(usual, classes={**usual.classes, "split": class_names(table, "split")})


def test_an_empty_selection_says_so_in_every_view(run: data.OpenRun) -> None:
    usual = usual_filters(run.table)
    nothing = replace(usual, classes={**usual.classes, "dataset": ()})
    for drawn in views(run, nothing):
        assert drawn.words == NOTHING_LEFT
        assert drawn_points(drawn.figure) == {}
        assert "filters" in " ".join(a.text for a in drawn.figure.layout.annotations)
    assert NOTHING_LEFT in page.details_view(run, apply_filters(run.table, nothing), (1, 2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sparse", ("undefined, because train has one class", "the endpoint gave no entropies")),
        ("ungraded", ("none of them graded", "because no run of the selection is graded")),
    ],
)
def test_what_a_run_lacks_is_said_and_never_nan(
    name: str, said: tuple[str, ...], listed: dict[str, data.Listed]
) -> None:
    found = data.open_run(listed[name])
    kept = apply_filters(found.table, usual_filters(found.table))
    words = " ".join(each.words for each in views(found, usual_filters(found.table)))
    assert "nan" not in words.lower().replace("unanswered", "")
    assert [part for part in said if part not in words] == []
    details = page.details_view(found, kept, (int(kept.rows[0]),))
    assert "nan" not in details.replace("unanswered", "")


# --- another study ------


@pytest.mark.parametrize("classes", [False, True])
def test_a_table_of_another_study_is_shown_in_its_words(tmp_path: Path, classes: bool) -> None:
    make_words_analysis(tmp_path / "words" / "analysis.parquet", classes=classes)
    found = data.open_run(data.listed_runs(tmp_path)[0])
    table, about = found.table, found.table.about
    assert found.listed.size == "90 words"
    usual = address.usual_view(table)
    assert usual.label == ("kind" if classes else "hallucinated")
    kept = apply_filters(table, usual.filters)
    coloured = figures.map_view(table, kept, "label_kind")
    assert "This run has no values of umap" in coloured.words
    margins = figures.margin_view(table, kept, "probe", "kind")
    named = {trace.name for trace in margins.figure.data if trace.customdata is None}
    assert named == {"none", "fact", "name"}
    drawn = views(found, usual.filters)
    said = " ".join(each.words for each in drawn) + page.introduction(found).text
    said += page.details_view(found, kept, (3,)) + page.provenance(found).text
    assert "word 3" in said
    assert "<script" not in said
    for word in ("question", "correct", "thinking", "semantic entropy"):
        assert word not in said.replace("questions</div>", "")
    scored = selection_scores(found, kept.rows, usual.label).by_predictor["probe"].auroc
    assert (scored.undefined != "") is classes
    assert classes or scored.value > 0.6
    assert page.stored_scores(found, usual.label) is None
    assert len(about.predictors) == 1


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_those_of_the_house_resampled_by_question(run: data.OpenRun) -> None:
    table = run.table
    usual = usual_filters(table)
    kept = apply_filters(table, replace(usual, classes={**usual.classes, "split": ("test",)}))
    scores = selection_scores(run, kept.rows, "correct")
    rows = kept.rows[np.isfinite(table.truth("correct", kept.rows))]
    assert (scores.units, scores.left_out) == (len(rows), len(kept.rows) - len(rows))
    for name in PREDICTORS:
        sign = -1 if name == "semantic_entropy" else 1
        expected = evaluate_classifier(
            sign * table[f"margin_{name}"][rows],
            table.truth("correct", rows),
            n_boot=scores.resamples,
            n_perm=0,
            groups=table["group_id"][rows],
        )["auroc"]
        found = scores.by_predictor[name].auroc
        assert (found.value, found.low, found.high) == (
            expected.value, expected.low, expected.high,
        )  # fmt: skip
        assert found.n == len(rows)
    curve = scores.by_predictor["combined"].risk
    assert curve is not None
    assert curve.risk[-1] == pytest.approx(1 - table.truth("correct", rows).mean())
    assert selection_scores(run, kept.rows.copy(), "correct") is scores
    assert selection_scores(run, kept.rows, "high_semantic_entropy") is not scores


# --- details --------------------------------------------------------------------------------------


def rows_of(table: Any, number: int) -> list[int]:
    """The rows of the question with a number."""
    named = [i for i, name in enumerate(table.names["group_id"]) if name.endswith(f"-{number}")]
    return np.flatnonzero(np.isin(table["group_id"], named)).tolist()


def test_details_show_texts_that_are_nothing_but_text(run: data.OpenRun) -> None:
    everything = all_splits(run.table)
    kept = apply_filters(run.table, everything)
    chosen = tuple(rows_of(run.table, 7)[:2] + rows_of(run.table, 9) + rows_of(run.table, 47)[:1])
    found = page.details_view(run, kept, chosen)
    assert html.escape(HOSTILE[0]) in found
    assert "alert(1)" in found
    for tag in ("<script", "<img", "<b>", "<marimo", "</textarea"):
        assert tag not in found
    assert "correctness probe" in found
    assert "calibrated probability of high semantic entropy" in found
    assert f"{run.table['projection_combined'][chosen[0]]:.2f}</td>" in found


def test_details_are_of_ten_runs_at_most_that_the_filters_leave(run: data.OpenRun) -> None:
    kept = apply_filters(run.table, usual_filters(run.table))
    none = page.details_view(run, kept, ())
    assert none.count("<section") == 0
    assert "Nothing is selected" in none
    many = page.details_view(run, kept, tuple(kept.rows[::-1][:25].tolist()))
    assert many.count("<section") == 10
    assert "25 runs selected; the first 10 in the order of the file are shown." in many
    hidden = next(i for i in range(len(run.table)) if i not in kept.rows)
    some = page.details_view(run, kept, (hidden, int(kept.rows[0])))
    assert some.count("<section") == 1
    assert "2 runs selected, 1 of them hidden by the filters." in some


def test_very_long_runs_stay_small_on_the_page(run: data.OpenRun) -> None:
    everything = all_splits(run.table)
    rows = rows_of(run.table, 11) + rows_of(run.table, 13)[:1]
    found = page.details_view(run, apply_filters(run.table, everything), tuple(rows))
    assert "characters in all" in found
    assert "The first" in found  # tokens that are left out
    assert "none, or it was never closed" in found or "of thinking" in found
    assert len(found) < 2_000_000


# --- the notebook ---------------------------------------------------------------------------------


SCRIPT = """
import runpy, sys
class NoPandas:
    # pyarrow takes pandas where it finds it; the small install has none.
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
sys.meta_path.insert(0, NoPandas())
sys.argv = ["probe_analysis.py"]
runpy.run_path(sys.argv[0], run_name="__main__")
heavy = ("torch", "transformers", "sklearn", "datasets", "umap", "nnsight", "vllm")
print("heavy:", [name for name in heavy if name in sys.modules])
"""


def test_as_a_script_it_sums_up_the_newest_run_without_heavy_imports(root: Path, out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=root,
        env={**os.environ, "SEP_OUTPUTS": str(out), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Run whole: made-up/model on lab, lab:ood" in done.stdout
    assert "AUROC for correct, correctness probe" in done.stdout
    assert "heavy: []" in done.stdout


def test_where_numbers_come_from_is_escaped(run: data.OpenRun) -> None:
    about = run.table.about
    spoilt = tuple(replace(p, title=HOSTILE[1], undefined="<b>") for p in about.predictors)
    hostile = replace(
        about, model=HOSTILE[0], notes={"umap": HOSTILE[2]}, predictors=spoilt, title=HOSTILE[1],
        introduction=HOSTILE[0], words={HOSTILE[0]: HOSTILE[2]}, facts={HOSTILE[2]: HOSTILE[0]},
    )  # fmt: skip
    opened = data.OpenRun(run.listed, replace(run.table, about=hostile))
    views = (page.provenance, page.introduction, page.glossary)
    shown = "".join(view(opened).text for view in views)
    elements = page.filter_elements(opened.table, address.usual_view(opened.table))
    assert not any(tag in elements.text for tag in ("<script", "<img", "&lt;script"))
    assert html.escape(HOSTILE[0]) in shown
    assert not any(tag in shown for tag in ("<script", "<img", "<b>"))
