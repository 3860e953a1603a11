"""The analysis table of a study: every row is the run that it says it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.analysis_table import file
from helpers.analysis_table.file import AnalysisTable, UmapMap, read_details, read_narrow
from helpers.data.answers import answer_key
from helpers.data.questions import Question
from helpers.probes.probe import LinearProbe
from helpers.progress import silent_progress
from helpers.studies.reasoning.analysis_table import representatives, write_run_analysis
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import (
    PREDICTORS,
    Prediction,
    ReasoningRun,
    RunTable,
    StudyProbes,
    Traced,
)

VOCABULARY = ("<think>", " two", " and", " two", "</think>", " 4", " <b>5</b>", "<|im_end|>")


def run(question: str, run_id: int, final: str | None, ids: Sequence[int]) -> ReasoningRun:
    """A run of these tokens; its thinking stands between tokens 0 and 4 of the vocabulary."""
    texts = [VOCABULARY[i] for i in ids]
    closed = 4 in ids
    return ReasoningRun(
        question_id=question,
        run_id=run_id,
        text="".join(texts[:-1]),
        thinking="".join(texts[1 : list(ids).index(4)]) if closed else "",
        answer="".join(texts[list(ids).index(4) + 1 : -1]) if closed else "",
        final_answer=final,
        status="unanswered" if final is None else "correct" if final == "4" else "wrong",
        token_ids=tuple(ids),
        token_logprobs=(),
        token_entropies=tuple(0.5 * i for i in ids),
        entropy_kind="full",
        thinking_span=(1, list(ids).index(4)) if closed else None,
        finish_reason="stop",
    )


def study(questions: int = 4, runs: int = 3, ood: int = 1) -> dict[str, Any]:
    """Records of a study as `write_run_analysis` takes them."""
    rng = np.random.default_rng(0)
    finals = ("4", "<b>5</b>", None)
    tails = {"4": (5, 7), "<b>5</b>": (6, 7), None: (7,)}
    rows, asked = [], {}
    for i in range(questions):
        out = i >= questions - ood
        name = f"q{i}"
        source = "lab:ood" if out else "lab"
        split = "ood" if out else ("train", "validation", "test")[i % 3]
        asked[name] = Question(name, f"Two and two, {i}?", "it is 4", "4", split, source)
        for j in range(runs):
            final = finals[int(rng.integers(0, 3))]
            rows.append(run(name, 2 * j, final, (0, *[1, 2, 3][: j + 1], 4, *tails[final])))
    n = len(rows)
    numbers = iter(rng.random((30, n)))
    known = [np.nan if r.correct is None else float(r.correct) for r in rows]
    table = RunTable(
        question_id=np.array([r.question_id for r in rows]),
        run_id=np.array([r.run_id for r in rows]),
        dataset=np.array([asked[r.question_id].source for r in rows]),
        split=np.array([asked[r.question_id].split for r in rows]),
        correct=np.array(known),
        semantic_entropy=next(numbers),
        semantic_entropy_other=next(numbers),
        high=(next(numbers) > 0.5) * 1.0,
        high_median=next(numbers),
        thinking_entropy=next(numbers),
        thinking_tokens=np.array([r.thinking_span[1] - 1 for r in rows if r.thinking_span]),
        answer_tokens=np.array([2] * n),
        agreement=next(numbers),
        threshold=0.4,
        threshold_median=0.3,
    )
    hidden = rng.normal(size=(n, 5, 4)).astype(np.float32)
    hidden[:, :, 0] = np.arange(5)  # tells which layer was taken
    return {
        "config": ReasoningConfig(),
        "questions": asked,
        "runs": rows,
        "table": table,
        "predictions": {
            name: Prediction(next(numbers), next(numbers) - 0.5, next(numbers))
            for name in PREDICTORS
        },
        "traced": Traced("think_end", "", hidden, np.full(n, 4)),
        "probes": StudyProbes({"correctness": probe("correctness", 3)}, {"correctness": None}, {}),  # type: ignore[dict-item]
    }


def probe(name: str, layer: int) -> LinearProbe:
    zeros = np.zeros(4)
    return LinearProbe(
        name, "logistic", name, "think_end", layer, zeros, 0.0, zeros, zeros + 1, 1.0, {}
    )


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The layers of which a map was asked; the map itself is made up."""
    seen: list[float] = []

    def coordinates(features: np.ndarray, **options: Any) -> UmapMap:
        seen.append(float(features[0, 0]))
        return UmapMap(np.float32([[i, -i] for i in range(len(features))]), "Made up.")

    monkeypatch.setattr(file, "umap_coordinates", coordinates)
    return seen


def written(path: Path, **records: Any) -> AnalysisTable:
    write_run_analysis(
        path,
        **{
            "token_texts": lambda ids: [VOCABULARY[i] for i in ids],
            "store": None,
            "progress": silent_progress(),
            **records,
        },
    )
    return read_narrow(path)


def test_every_column_is_of_the_row_s_run(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    path, source = tmp_path / "analysis.parquet", records["table"]
    table = written(path, **records)
    assert len(table) == len(source) == 12
    for name, column in (("question_id", "group_id"), ("dataset", "dataset"), ("split", "split")):
        assert table.words(column) == getattr(source, name).tolist()
    np.testing.assert_array_equal(table["unit_id"], source.run_id)
    for name in (
        *("semantic_entropy", "semantic_entropy_other", "agreement"),
        *("thinking_entropy", "thinking_tokens", "answer_tokens"),
    ):
        np.testing.assert_allclose(table[f"number_{name}"], getattr(source, name), rtol=1e-6)
    np.testing.assert_array_equal(table.truth("correct"), source.correct)
    np.testing.assert_array_equal(table.truth("high_semantic_entropy"), source.high)
    for name, said in records["predictions"].items():
        np.testing.assert_allclose(table[f"probability_{name}"], said.probability, rtol=1e-6)
        np.testing.assert_allclose(table[f"margin_{name}"], said.margin, rtol=1e-6)
        np.testing.assert_allclose(table[f"projection_{name}"], said.projection, rtol=1e-6)
    np.testing.assert_array_equal(table["umap_x"], range(12))
    for one, of in zip(read_details(path, range(12)), records["runs"], strict=True):
        question = records["questions"][of.question_id]
        assert one.texts == {
            "question": question.question, "reference": "4", "thinking": of.thinking,
            "answer": of.answer, "final_answer": of.final_answer,
        }  # fmt: skip
        thinking, answer = one.tokens["thinking_tokens"], one.tokens["answer_tokens"]
        assert "".join(thinking.texts) == f"<think>{of.thinking}"
        assert "".join(thinking.texts + answer.texts) == of.text + "<|im_end|>"
        entropies = np.concatenate([thinking.entropies, answer.entropies])
        np.testing.assert_allclose(entropies, of.token_entropies)
        assert table["number_question_characters"][one.row] == len(question.question)
        assert table.words("label_correct", [one.row]) == [of.status]


def test_the_file_says_where_it_comes_from(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    about = written(tmp_path / "a.parquet", **records).about
    config = records["config"]
    assert (about.run, about.model) == (config.run_name(), "lab")
    assert about.label("high_semantic_entropy").threshold == 0.4
    assert about.facts == {"semantic entropy": "of final answers"}
    assert about.datasets == {"lab": "in", "lab:ood": "ood"}
    read = [(p.name, p.place, p.layer) for p in about.predictors if p.place]
    assert read == [("correctness", "think_end", 3)]
    assert layers == [3]
    assert about.notes["umap"].startswith("Hidden states at think_end, layer 3: the layer of the")
    assert "position" not in about.notes


def test_what_is_undefined_is_null_with_its_reason(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    del records["predictions"]["combined"], records["predictions"]["correctness"]
    reasons = {"correctness": "train has one class only", "combined": "so has this"}
    records |= {
        "probes": StudyProbes({}, {}, reasons),
        "table": replace(records["table"], high=np.full(12, np.nan), threshold=None),
        "traced": replace(records["traced"], reason="no run closes its thinking"),
    }
    table = written(tmp_path / "a.parquet", **records)
    for name in ("probability_combined", "margin_correctness"):
        assert np.isnan(table[name]).all()
    assert np.isnan(table.truth("high_semantic_entropy")).all()
    assert np.isfinite(table["margin_semantic_entropy"]).all()
    said = {p.name: p.undefined for p in table.about.predictors if p.undefined}
    assert said == reasons
    assert table.about.label("high_semantic_entropy").threshold is None
    assert table.about.notes["position"] == "no run closes its thinking"
    assert layers == [2]
    assert "layer 2: the middle layer" in table.about.notes["umap"]


def test_the_map_takes_the_layer_of_the_other_probe(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    records["probes"] = StudyProbes({"semantic_entropy": probe("semantic_entropy", 1)}, {}, {})
    about = written(tmp_path / "a.parquet", **records).about
    assert layers == [1]
    assert "the layer of the semantic-entropy probe" in about.notes["umap"]


def test_runs_without_thinking_entropies_or_reference(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    bare = replace(records["runs"][5], token_entropies=(), thinking_span=None, status=None)
    records["runs"][5] = bare
    name = bare.question_id
    records["questions"][name] = replace(records["questions"][name], answer="", final_answer=None)
    path = tmp_path / "a.parquet"
    table = written(path, **records)
    one = read_details(path, [5])[0]
    assert one.texts["reference"] == ""
    assert one.tokens["thinking_tokens"].texts == ()
    assert one.tokens["answer_tokens"].entropies.size == 0
    assert table.words("label_correct", [5]) == [None]


def test_two_files_of_one_name_are_told_apart(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    same = replace(records["table"], dataset=np.array(["problems.jsonl"] * 12))
    table = written(tmp_path / "a.parquet", **{**records, "table": same})
    outside = "problems.jsonl (out of distribution)"
    assert table.about.datasets == {"problems.jsonl": "in", outside: "ood"}
    is_outside = [split == "ood" for split in table.words("split")]
    assert [name == outside for name in table.words("dataset")] == is_outside


def test_records_of_other_runs_are_refused(tmp_path: Path, layers: list[float]) -> None:
    records = study()
    path = tmp_path / "a.parquet"
    turned = [*records["runs"][1:], records["runs"][0]]
    fewer = replace(records["traced"], hidden=records["traced"].hidden[:-1])
    for changed in ({"runs": turned}, {"traced": fewer}):
        with pytest.raises(ValueError, match="of the same runs in one order"):
            written(path, **{**records, **changed})
    short = replace(records["runs"][0], token_entropies=(0.1,))
    with pytest.raises(ValueError, match="run 0 of q0: 1 entropies"):
        written(path, **{**records, "runs": [short, *records["runs"][1:]]})
    assert list(tmp_path.iterdir()) == []


def test_texts_are_made_one_row_group_at_a_time(
    tmp_path: Path, layers: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    plain = pq.ParquetWriter.write_table

    def write_table(self: pq.ParquetWriter, *args: Any, **options: Any) -> None:
        events.append("group")
        plain(self, *args, **options)

    def token_texts(ids: Sequence[int]) -> list[str]:
        events.append("text")
        return [VOCABULARY[i] for i in ids]

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    path = tmp_path / "a.parquet"
    written(path, **study(questions=200, runs=3), token_texts=token_texts)
    counts = [256, 256, 88]
    assert events == [event for n in counts for event in [*["text"] * n, "group"]]
    found = pq.ParquetFile(path).metadata
    assert [found.row_group(i).num_rows for i in range(3)] == counts


ANSWERS = st.sampled_from([None, "4", "4.0", "8/2", "5", "yes", "Yes"])


@given(st.lists(st.lists(ANSWERS, min_size=1, max_size=6), min_size=1, max_size=4), st.randoms())
def test_one_representative_a_question_of_its_largest_group(
    answers: list[list[str | None]], random: Any
) -> None:
    runs = [
        run(f"q{i}", 3 * j, final, (0, 4, 7))
        for i, row in enumerate(answers)
        for j, final in enumerate(row)
    ]
    random.shuffle(runs)
    chosen = representatives(runs)
    assert chosen.sum() == len(answers)
    for one in np.array(runs, dtype=object)[chosen]:
        rest = [other for other in runs if other.question_id == one.question_id]
        keys = [None if o.final_answer is None else answer_key(o.final_answer) for o in rest]
        sizes = {key: keys.count(key) for key in keys if key is not None} or {None: len(keys)}
        key = None if one.final_answer is None else answer_key(one.final_answer)
        largest = [k for k, size in sizes.items() if size == max(sizes.values())]
        assert key in largest
        assert one.run_id == min(o.run_id for o, k in zip(rest, keys, strict=True) if k in largest)
