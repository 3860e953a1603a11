"""Probes carried from run to run: what is trained, what is scored, who wins, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.errors import UserError
from helpers.probes.combined import predict_at
from helpers.probes.solvers import column_auroc
from helpers.probes.training import fit_chosen, sweep_target
from helpers.studies.semantic_entropy.analyses.transfer import (
    PROBES,
    Transfer,
    TransferPair,
    describe_transfer,
    holm,
    train_source,
    transfer,
)
from helpers.studies.semantic_entropy.run_files import StoredRun
from support.planted_runs import HASHES, planted, stored

FAST: dict[str, Any] = {"n_boot": 400, "n_perm": 200}


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(column_auroc(scores[:, None], labels)[0])


def pair(result: Transfer, a: str, b: str) -> TransferPair:
    return next(p for p in result.pairs if (p.trained_on, p.tested_on) == (a, b))


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


def test_either_probe_can_win_and_both_are_counted(result: Transfer) -> None:
    """At home the clue wins; abroad it misleads, and uncertainty wins."""
    for name in ("here", "there"):
        assert pair(result, name, name).comparisons["wrong"].winner == "correctness probe"
    for a, b in (("here", "there"), ("there", "here")):
        assert pair(result, a, b).comparisons["wrong"].winner == "SEP"
    everywhere, abroad = result.tallies["wrong"]["all"], result.tallies["wrong"]["other run"]
    assert (everywhere.sep, everywhere.correctness, everywhere.undecided) == (2, 2, 0)
    assert (abroad.sep, abroad.correctness, abroad.undefined) == (2, 0, 0)
    # and where the target is entropy itself, the entropy probe wins everywhere
    assert result.tallies["high"]["all"].sep == 4


def test_scores_equal_the_naive_path(runs: list[StoredRun], result: Transfer) -> None:
    here, there = runs
    hidden = [{"tbg": np.array(run.hidden("tbg"))} for run in runs]
    targets = here.targets
    probes = {}
    for name, target, words in (
        ("entropy", targets.high, "high semantic entropy"),
        ("correctness", targets.wrong, "wrong most likely answer"),
    ):
        chosen = sweep_target(hidden[0], target, "logistic", words, targets)
        probes[name] = fit_chosen(hidden[0], target, chosen, name, words, targets)
    abroad, home = pair(result, "here", "there"), pair(result, "here", "here")
    test = targets.splits == "test"
    gamma = targets.threshold
    assert gamma is not None
    high_there = (there.targets.semantic_entropy > gamma) * 1.0  # γ of where it was trained
    for name, probe in probes.items():
        predicted = [predict_at(probe, states) for states in hidden]
        for score, expected in (
            (home.comparisons["wrong"], auroc(predicted[0][test], targets.wrong[test])),
            (abroad.comparisons["wrong"], auroc(predicted[1], there.targets.wrong)),
            (abroad.comparisons["high"], auroc(predicted[1], high_there)),
        ):
            assert score.scores[name].value == pytest.approx(expected)
    assert (home.n, abroad.n) == (90, 300)
    for compared in (home.comparisons["wrong"], abroad.comparisons["high"]):
        scores, difference = compared.scores, compared.difference
        assert scores["entropy"].value is not None
        assert scores["correctness"].value is not None
        assert difference.value == pytest.approx(
            scores["entropy"].value - scores["correctness"].value
        )


def test_a_source_learns_nothing_from_its_test_questions(runs: list[StoredRun]) -> None:
    here = runs[0]
    hidden = {"tbg": np.array(here.hidden("tbg"))}
    test = here.targets.splits == "test"
    spoilt = {"tbg": np.where(test[:, None, None], 77.0, hidden["tbg"])}
    other = replace(
        here,
        targets=replace(
            here.targets,
            wrong=np.where(test, 1 - here.targets.wrong, here.targets.wrong),
            high=np.where(test, 1 - here.targets.high, here.targets.high),
        ),
    )
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
    other_ids = replace(
        again,
        answers=replace(
            again.answers,
            questions=tuple(
                replace(q, id=f"x{i}", question=f"  {q.question}\n")
                for i, q in enumerate(again.answers.questions)
            ),
        ),
    )
    result = transfer([here, other_ids], **FAST)
    for a, b in (("here", "again"), ("again", "here")):
        crossed = pair(result, a, b)
        assert (crossed.n, crossed.left_out) == (90, 210)  # 150 of train, 60 of validation
    assert "A → B 210, B → A 210" in describe_transfer(result)
    # an id says nothing: the worlds number their questions alike
    assert pair(transfer(runs, **FAST), "here", "there").left_out == 0


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
    onto = pair(result, "here", "right").comparisons["wrong"]
    assert onto.winner == "undefined"
    assert onto.difference.undefined == "only one class (0 of 100 wrong)"
    source = pair(result, "right", "here").comparisons
    assert "correctness has one class" in source["wrong"].scores["correctness"].undefined
    assert source["wrong"].scores["entropy"].value is not None
    assert "correctness" in result.undefined["right"]
    assert result.tallies["wrong"]["all"].undefined == 3
    text = describe_transfer(result)
    assert "undefined: only one class (0 of 100 wrong)" in text
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
    wide = stored(
        tmp_path / "wide", {"tbg": rng.normal(size=(40, 2, 9))}, rng.random(40), np.ones(40)
    )
    assert "2 layers of width 8 and wide 2 of width 9" in refused([here, wide])
    deep = stored(
        tmp_path / "deep", {"tbg": rng.normal(size=(40, 3, 8))}, rng.random(40), np.ones(40)
    )
    assert "2 layers of width 8 and deep 3" in refused([here, deep])
    apart = stored(
        tmp_path / "apart", {"slt": rng.normal(size=(40, 2, 8))}, rng.random(40), np.ones(40)
    )
    assert "here: tbg; apart: slt" in refused([here, apart])


def test_words_fit_a_terminal_and_the_file_holds_no_nan(result: Transfer) -> None:
    text = describe_transfer(result)
    assert max(map(len, text.splitlines())) <= 100
    assert "all pairs: SEP better in 2, correctness probe in 2, undecided 0" in text
    assert "pairs of two runs: SEP better in 2, correctness probe in 0" in text
    json.dumps(result.as_dict(), allow_nan=False)
    assert result.notes == ()


def test_too_few_resamples_to_decide_anything_are_named(runs: list[StoredRun]) -> None:
    result = transfer(runs, n_boot=100, n_perm=100)
    assert "take 160 or more" in result.notes[0]
    assert result.tallies["wrong"]["all"].undecided == 4
    assert transfer(runs, n_boot=160, n_perm=100).notes == ()


# --- Holm -----------------------------------------------------------------------------------------


def test_holm_equals_the_textbook_procedure() -> None:
    assert holm([]).tolist() == []
    assert holm([0.2]).tolist() == [0.2]
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.5]), [1.0, 1.0])
    with pytest.raises(ValueError, match="row 1 is nan"):
        holm([0.1, np.nan])
    with pytest.raises(ValueError, match=r"row 0 is 1\.5"):
        holm([1.5])


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_step_down_procedure_rejects(
    values: list[float], alpha: float
) -> None:
    rejected, ordered = set(), sorted(range(len(values)), key=lambda i: values[i])
    for step, i in enumerate(ordered):
        if values[i] * (len(values) - step) > alpha:
            break
        rejected.add(i)
    corrected = holm(values)
    assert {i for i, p in enumerate(corrected) if p <= alpha} == rejected
    assert (corrected >= np.array(values) - 1e-15).all()
