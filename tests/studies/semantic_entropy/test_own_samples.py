"""`sep entropy --samples`: answers that someone already has, scored without a language model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from helpers.cli.main import main
from helpers.uncertainty.estimators import ESTIMATORS

LN2, LN10 = math.log(2), math.log(10)

CRATES = {
    "id": "crates",
    "question": "How many crates are on the cart?",
    "samples": ["12", "12.0", "There are 12 crates.", "7"],
    "answer": "12",
}
SURE = {
    "id": "sure",
    "question": "How many wheels has the cart?",
    "samples": ["4 wheels", "4 wheels", "4  Wheels"],
    "answer": "#### 4",
}
LOST = {
    "id": "lost",
    "question": "How many bolts are left?",
    "samples": ["8 bolts", "I cannot tell.", "9 bolts", "9 bolts"],
    "answer": "8",
}
# Means of ln ½, ln ½, ln ½, ln 1/10: one meaning weighs 15 times the other.
TOKENS = [[-LN2], [-LN2], [-LN2, -LN2], [-LN10]]
RAO = -(15 / 16 * math.log(15 / 16) + 1 / 16 * math.log(1 / 16))


def entropy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: Any, *flags: str
) -> tuple[str, Path]:
    """What the command prints for those rows, and its run folder."""
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [f"--out={tmp_path / 'out'}", f"--cache-dir={tmp_path / 'cache'}"]
    status = main(["entropy", "--samples", str(path), "--n-bootstrap", "100", *places, *flags])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, Path(out.split("run folder: ")[1].strip())


def scored(folder: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(folder / "questions_scored.parquet").to_pylist()
    return {row["question_id"]: row for row in rows}


def test_entropies_are_those_computed_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = entropy(tmp_path, capsys, [{**CRATES, "logprobs": TOKENS}, SURE, LOST])
    rows = scored(folder)
    expected = {
        "semantic_entropy": 0.75 * math.log(4 / 3) + 0.25 * math.log(4),
        "semantic_entropy_rao": RAO,
        "n_meanings": 2,
        "lexical_entropy": math.log(4),
        "predictive_entropy": (4 * LN2 + LN10) / 4,
        "predictive_entropy_normalised": (3 * LN2 + LN10) / 4,
        "mean_token_entropy": None,
        "share_wrong": 0.25,
        "majority_correct": True,
    }
    assert {name: rows["crates"][name] for name in expected} == pytest.approx(expected)
    assert rows["crates"]["clusters"] == [0, 0, 0, 1]
    assert rows["sure"]["semantic_entropy"] == rows["sure"]["lexical_entropy"] == 0
    assert rows["sure"]["predictive_entropy"] is None
    # An answer that states nothing is a meaning of its own, and neither right nor wrong.
    assert rows["lost"]["semantic_entropy"] == pytest.approx(1.5 * LN2)
    assert rows["lost"]["share_wrong"] == pytest.approx(2 / 3)
    assert rows["lost"]["majority_correct"] is False

    lines = [json.loads(line) for line in (folder / "entropies.jsonl").read_text().splitlines()]
    for line in lines:
        row = rows[line.pop("id")]
        assert line == {name: row[name] for name in line}
        assert ("predictive_entropy" in line) == (row["predictive_entropy"] is not None)
    assert [len(line) for line in lines] == [10, 4, 4]

    assert "3 questions, 11 samples; meanings by final answer" in out
    assert "accuracy: 0.700 by sample (n = 10), 0.667 by majority (n = 3); 1 samples un" in out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stages_done"] == ["meanings"]
    assert manifest["samples_file"]["name"] == "mine.jsonl"


OF_LOGPROBS = {name for name in ESTIMATORS if name.startswith(("predictive", "semantic_entropy_"))}


@pytest.mark.parametrize(
    ("logprobs", "computed"),
    [
        (None, set()),
        ([-1.0, -2.0, -3.0, -6.0], {"predictive_entropy"}),
        ([[-1.0, -2.0], [], [-3.0], [-6.0]], {"predictive_entropy"}),  # one answer has no tokens
        (TOKENS, OF_LOGPROBS),
    ],
)
def test_estimators_without_what_they_need_are_skipped_with_the_reason(
    logprobs: Any, computed: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = entropy(tmp_path, capsys, [{**CRATES, "logprobs": logprobs}])
    skipped = json.loads((folder / "metrics.json").read_text())["skipped"]
    of_texts = {"semantic_entropy", "n_meanings", "lexical_entropy", "lexical_similarity"}
    assert set(ESTIMATORS) - set(skipped) == of_texts | computed
    for name in OF_LOGPROBS - computed:
        assert skipped[name] == "needs token log-probabilities"
    assert skipped["mean_token_entropy"] == "needs token entropies"
    assert skipped["degree"] == "needs an NLI judge's probabilities for every pair of answers"
    said = " ".join(out.split())
    for reason in set(skipped.values()):
        assert f"skipped, {reason}: " in said
    if computed == {"predictive_entropy"}:
        assert scored(folder)["crates"]["predictive_entropy"] == 3.0


def test_without_answers_errors_cannot_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = [{k: v for k, v in row.items() if k != "answer"} for row in (CRATES, LOST)]
    out, folder = entropy(tmp_path, capsys, unknown)
    assert "no reference answers" in out
    assert "accuracy" not in out
    assert scored(folder)["crates"]["share_wrong"] is None
    score = json.loads((folder / "metrics.json").read_text())["scores"]["semantic_entropy"]
    assert score["wrong_first_answer"]["value"] is None
    assert score["wrong_first_answer"]["undefined"]


def test_one_class_of_answers_is_said_to_be_undefined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = entropy(tmp_path, capsys, [CRATES, SURE])
    score = json.loads((folder / "metrics.json").read_text())["scores"]["semantic_entropy"]
    assert score["wrong_first_answer"]["value"] is None
    assert "only one class" in score["wrong_first_answer"]["undefined"]
    (line,) = re.findall(r"Semantic entropy \(discrete\) (.+)", out)
    assert line.split()[:2] == ["undefined", "undefined"]
    assert "note: only one class (0 of 2 wrong)" in out
    assert not re.search(r"\bnan\b", out, re.IGNORECASE)


def test_the_lab_judge_tells_units_apart_where_the_final_answer_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "question": "What does Ada have at the end?",
        "samples": ["12 apples.", "Ada has 12 apples.", "12 pears.", "13 apples."],
    }
    _, exact = entropy(tmp_path, capsys, [row])
    out, folder = entropy(tmp_path, capsys, [row], "--judge", "nli")
    assert [r["clusters"] for r in scored(exact).values()] == [[0, 0, 0, 1]]
    assert [r["clusters"] for r in scored(folder).values()] == [[0, 0, 1, 2]]
    assert "meanings by NLI (lab), strict" in out
    assert folder != exact


BAD = [
    ({**CRATES, "samples": ["12"]}, ["1 in", "two samples"]),
    ({**CRATES, "samples": "12"}, ["list of texts"]),
    ({**CRATES, "logprobs": [-1.0]}, ["1 for 4 samples", "one number a sample"]),
    ({**CRATES, "logprobs": [0.5, -1, -1, -1]}, ["above 0", "not probabilities"]),
    ({**CRATES, "question": "How many wheels has the cart?"}, ["same question as in line 1"]),
]


@pytest.mark.parametrize(("second", "parts"), BAD)
def test_a_bad_row_is_named_by_its_line_and_nothing_is_written(
    second: Any, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(SURE)}\n{json.dumps(second)}\n")
    status = main(["entropy", "--samples", str(path), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {path}: line 2: ")
    for part in parts:
        assert part in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "none.jsonl", "empty.jsonl"])
def test_a_file_without_generations_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    path = str(tmp_path / name) if name else ""
    assert main(["entropy", "--samples", path, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path or '.'}: ")
    assert not (tmp_path / "out").exists()


def test_real_answers_reach_their_published_accuracy_and_entropy_tells_errors(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / "math500" / "math_cot_100.jsonl"
    places = [f"--out={tmp_path / 'out'}", f"--cache-dir={tmp_path / 'cache'}"]
    assert main(["entropy", "--samples", str(path), *places]) == 0
    out = capsys.readouterr().out
    assert "100 questions, 800 samples" in out
    accuracy = re.search(r"accuracy: (\S+) by sample \(n = 800\), (\S+) by majority", out)
    assert accuracy
    assert [round(float(value), 2) for value in accuracy.groups()] == [0.91, 0.93]
    (metrics,) = (tmp_path / "out").glob("*/metrics.json")
    scores = json.loads(metrics.read_text())["scores"]["semantic_entropy"]
    for target in ("wrong_first_answer", "wrong_majority_answer"):
        assert scores[target]["n"] == 100
        assert scores[target]["low"] > 0.5
        assert scores[target]["p_value"] < 0.01
