"""Probes carried from run to run: what is trained, what is scored, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.errors import UserError
from helpers.evaluation.resampling import holm
from helpers.evaluation.scores import Score, paired_difference
from helpers.probes.combined import predict_at
from helpers.probes.solvers import column_auroc
from helpers.probes.training import fit_chosen, sweep_target
from helpers.studies.semantic_entropy.analyses.transfer import (
    PROBES,
    TARGETS,
    Cell,
    Transfer,
    describe_transfer,
    train_source,
    transfer,
)
from helpers.studies.semantic_entropy.run_files import StoredRun
from support.planted_runs import HASHES, planted, stored

FAST: dict[str, Any] = {"n_boot": 400, "n_perm": 200}


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(column_auroc(scores[:, None], labels)[0])


def world(folder: Path, n: int, seed: int, *, clue: float, **options: Any) -> StoredRun:
    """Wrongness shows in the uncertainty (feature 0) everywhere, and in a clue that may turn round.

    A correctness probe learns the clue, and a world in which its sign is the opposite misleads it.
    """
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 2, 8))
    unsure = states[:, 1, 0]
    wrong = (unsure + clue * states[:, 1, 3] > 0).astype(float)
    entropy = 2.3 / (1 + np.exp(-2 * unsure - 0.3 * rng.normal(size=n)))
    return stored(folder, {"tbg": states}, entropy, wrong, words=f"world {clue}", **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[StoredRun]:
    folder = tmp_path_factory.mktemp("worlds")
    return [
        world(folder / name, 300, i, clue=1.5 - 3 * i) for i, name in enumerate(("here", "there"))
    ]


@pytest.fixture(scope="module")
def result(runs: list[StoredRun]) -> Transfer:
    return transfer(runs, **FAST)


def gap(cell: Cell) -> Score:
    assert cell.difference is not None
    return cell.difference


def test_a_foreign_probe_loses_where_what_it_learnt_misleads(result: Transfer) -> None:
    """Abroad the clue misleads the correctness probe; how uncertainty looks stays the same."""
    correctness, entropy = (result.matrix("wrong", name) for name in ("correctness", "entropy"))
    for a, b in (("here", "there"), ("there", "here")):
        assert gap(correctness[a, b]).high < 0
        assert correctness[a, b].adjusted_p < 0.05
        assert abs(gap(entropy[a, b]).value) < 0.1
        assert entropy[a, b].auroc.value > correctness[a, b].auroc.value
        assert entropy[a, a].auroc.value < correctness[a, a].auroc.value
        assert correctness[a, a].difference is None


def test_scores_equal_the_naive_path(runs: list[StoredRun], result: Transfer) -> None:
    here, there = runs
    states = {"tbg": np.array(there.hidden("tbg"))}
    test = there.targets.splits == "test"
    gamma = here.targets.threshold  # of where the probe was trained
    assert gamma is not None
    labels = {
        "wrong": there.targets.wrong[test],
        "high": (there.targets.semantic_entropy[test] > gamma) * 1.0,
    }
    for name, words in (("entropy", "high semantic entropy"), ("correctness", "wrong answer")):
        predicted = []
        for run in runs:
            hidden = {"tbg": np.array(run.hidden("tbg"))}
            target = run.targets.high if name == "entropy" else run.targets.wrong
            chosen = sweep_target(hidden, target, "logistic", words, run.targets)
            probe = fit_chosen(hidden, target, chosen, name, words, run.targets)
            predicted.append(predict_at(probe, states)[test])
        for target in TARGETS:
            cell = result.matrix(target, name)["here", "there"]
            assert cell.auroc.value == pytest.approx(auroc(predicted[0], labels[target]))
            assert cell.auroc.n == 90
            assert cell.difference == paired_difference(*predicted, labels[target], n_boot=400)
        own = result.matrix("wrong", name)["there", "there"]
        assert own.auroc.value == pytest.approx(auroc(predicted[1], labels["wrong"]))


def test_p_values_are_corrected_over_the_cells_off_the_diagonal(result: Transfer) -> None:
    for target in TARGETS:
        for name in PROBES:
            matrix = result.matrix(target, name)
            cells = [matrix["here", "there"], matrix["there", "here"]]
            raw = [gap(cell).p_value for cell in cells]
            assert [cell.adjusted_p for cell in cells] == holm([p for p in raw if p]).tolist()


def test_a_source_learns_nothing_from_its_test_questions(runs: list[StoredRun]) -> None:
    here = runs[0]
    hidden = {"tbg": np.array(here.hidden("tbg"))}
    test = here.targets.splits == "test"
    spoilt = {"tbg": np.where(test[:, None, None], 77.0, hidden["tbg"])}
    wrong, high = (np.where(test, 1 - x, x) for x in (here.targets.wrong, here.targets.high))
    other = replace(here, targets=replace(here.targets, wrong=wrong, high=high))
    first, second = train_source(here, hidden), train_source(other, spoilt)
    assert set(first.probes) == set(PROBES)
    for name in PROBES:
        np.testing.assert_array_equal(
            predict_at(first.probes[name], hidden), predict_at(second.probes[name], hidden)
        )


def test_both_probes_learn_from_the_same_graded_questions(tmp_path: Path) -> None:
    run = planted(tmp_path / "run")
    wrong = np.where(np.arange(160) % 10 == 0, np.nan, run.targets.wrong)
    partly = replace(run, targets=replace(run.targets, wrong=wrong))
    source = train_source(partly, {"tbg": run.hidden("tbg")})
    assert {source.probes[n].training["n_train"] for n in ("entropy", "correctness")} == {64}
    ungraded = replace(run, targets=replace(run.targets, wrong=np.full(160, np.nan)))
    alone = train_source(ungraded, {"tbg": run.hidden("tbg")})
    assert set(alone.probes) == {"entropy"}
    assert alone.probes["entropy"].training["n_train"] == 80


def test_questions_the_probes_have_seen_are_left_out_and_counted(
    tmp_path: Path, runs: list[StoredRun]
) -> None:
    here = runs[0]
    again = world(tmp_path / "again", 300, 9, clue=1.5)  # the same texts, as with another prompt
    asked = tuple(
        replace(q, question=f"  {here.answers.questions[i - 1].question}\n")
        for i, q in enumerate(again.answers.questions)
    )
    shuffled = replace(again, answers=replace(again.answers, questions=asked))
    result = transfer([here, shuffled], **FAST)
    # of ten questions the last three are tested, and the first of these was in validation here
    crossed = result.matrix("wrong", "entropy")["here", "again"]
    assert (crossed.auroc.n, crossed.left_out) == (60, 30)
    assert "R1 → R2 30" in describe_transfer(result)
    # an id says nothing: the worlds number their questions alike
    assert all(cell.left_out == 0 for cell in transfer(runs, **FAST).cells)


def test_only_common_positions_are_used(tmp_path: Path) -> None:
    both = planted(tmp_path / "both", 100)
    rng = np.random.default_rng(5)
    one = stored(
        tmp_path / "one", {"answer_last": rng.normal(size=(100, 3, 10))},
        both.targets.semantic_entropy, both.targets.wrong, words="another",
    )  # fmt: skip
    result = transfer([both, one], **FAST)
    assert result.positions == ("answer_last",)
    assert {
        place[0] for probes in result.chosen.values() for at in probes.values() for place in at
    } == {"answer_last"}


def test_a_run_of_one_class_is_undefined_in_words(tmp_path: Path, runs: list[StoredRun]) -> None:
    rng = np.random.default_rng(0)
    states = {"tbg": rng.normal(size=(100, 2, 8))}
    right = stored(tmp_path / "right", states, rng.random(100), np.zeros(100), words="easy")
    result = transfer([runs[0], right], **FAST)
    onto = result.matrix("wrong", "correctness")["here", "right"]
    assert onto.auroc.undefined == "only one class (0 of 30 wrong)"
    assert gap(onto).value is None
    assert onto.adjusted_p is None
    source = {name: result.matrix("wrong", name)["right", "here"] for name in PROBES}
    assert "correctness has one class" in source["correctness"].auroc.undefined
    assert source["entropy"].auroc.value is not None
    text = describe_transfer(result)
    assert "undefined: only one class (0 of 30 wrong)" in text
    assert "nan" not in text.lower()
    json.dumps(result.as_dict(), allow_nan=False)


def refused(runs: list[StoredRun]) -> str:
    with pytest.raises(UserError) as caught:
        transfer(runs, **FAST)
    return str(caught.value)


def test_runs_that_do_not_fit_are_refused_by_name(tmp_path: Path, runs: list[StoredRun]) -> None:
    here = runs[0]
    assert "1 run given" in refused([here])
    assert "the run here is given twice" in refused([here, runs[1], here])
    for key, word in (("model_hash", "model"), ("tokenizer_hash", "tokenizer")):
        alien = world(tmp_path / "alien", 40, 1, clue=1.5, hashes={**HASHES, key: "zz"})
        message = refused([here, runs[1], alien])
        assert f"here and alien are of different {word}s ({HASHES[key]} and zz)" in message
    unknown = world(tmp_path / "own", 40, 1, clue=1.5, hashes={})
    assert "own does not say which model" in refused([here, unknown])
    rng = np.random.default_rng(0)
    for name, position, shape, words in (
        ("wide", "tbg", (40, 2, 9), "2 layers of width 8 and wide 2 of width 9"),
        ("deep", "tbg", (40, 3, 8), "2 layers of width 8 and deep 3"),
        ("apart", "slt", (40, 2, 8), "here: tbg; apart: slt"),
    ):
        states = {position: rng.normal(size=shape)}
        unfit = stored(tmp_path / name, states, rng.random(40), np.ones(40))
        assert words in refused([here, unfit])


def test_words_fit_a_terminal_and_the_file_holds_no_nan(result: Transfer) -> None:
    text = describe_transfer(result)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("n = 90") == 4 * len(TARGETS) * len(PROBES)
    assert "AUROC of the correctness probe for wrong most likely answer" in text
    json.dumps(result.as_dict(), allow_nan=False)
    assert result.notes == ()


def test_too_few_resamples_to_decide_anything_are_named(runs: list[StoredRun]) -> None:
    result = transfer(runs, n_boot=50, n_perm=100)
    assert "take 80 or more" in result.notes[0]
    assert all(cell.adjusted_p is None or cell.adjusted_p >= 0.05 for cell in result.cells)
    assert transfer(runs, n_boot=80, n_perm=100).notes == ()
