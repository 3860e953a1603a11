"""The benchmarks in a tiny size: they run, and say when outputs differ. Nothing is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import helpers.generation.option_logprobs
import helpers.generation.sampling
import helpers.hidden_states.capture
import helpers.meanings.clustering
import helpers.probes.probe
import tests.benchmarks
import tests.benchmarks.bootstrap
import tests.benchmarks.capture
import tests.benchmarks.nli
import tests.benchmarks.p_true
import tests.benchmarks.sampling
import tests.benchmarks.sweep
import tests.benchmarks.trace
from tests.benchmarks import run_all
from tests.benchmarks.harness import (
    Comparison,
    NotEqual,
    Rounds,
    Time,
    busy_warning,
    in_turns,
    require,
    table,
)
from tests.benchmarks.live_tensors import watch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_waiting_for_garbage(monkeypatch):
    """Every timed call collects garbage first, which takes longer than tiny benchmarks."""
    monkeypatch.setattr("tests.benchmarks.harness.gc.collect", lambda *_: 0)


def slow_and_fast(name: str = "stage", **changes: Any) -> Comparison:
    rounds = Rounds(
        (Time(6.0, 6.0), Time(9.0, 8.0), Time(4.0, 4.0)),
        (Time(1.0, 1.0), Time(1.0, 2.0), Time(2.0, 2.0)),
        "all equal",
    )
    return replace(Comparison(name, "slowly", rounds, "the inputs"), **changes)


# The stages


@pytest.mark.parametrize("stage", run_all.STAGES)
def test_every_stage_runs_both_ways_and_finds_them_equal(stage):
    comparisons = getattr(tests.benchmarks, stage).benchmark("tiny")
    assert comparisons
    for c in comparisons:
        assert len(c.rounds.naive) == len(c.rounds.ours) == 1
        assert "equal" in c.rounds.equality or c.rounds.equality == "not comparable"
        assert c.held_fixed
        assert set(c.count_targets) <= set(c.counts)
    assert any("equal" in c.rounds.equality for c in comparisons)


def another_token(samples: list) -> list:
    first = samples[0]
    return [
        replace(first, token_ids=(*first.token_ids[:-1], first.token_ids[-1] + 1)),
        *samples[1:],
    ]


def another_logprob(samples: list) -> list:
    first = samples[0]
    worse = (first.token_logprobs[0] - 1e-3, *first.token_logprobs[1:])
    return [replace(first, token_logprobs=worse), *samples[1:]]


CHANGES = {
    r"answer .* is": another_token,
    r"differ by 0\.00": another_logprob,
    "other questions or samples": lambda samples: samples[1:],
}


@pytest.mark.parametrize("message", CHANGES)
def test_other_samples_are_noticed(monkeypatch, message):
    change, right = CHANGES[message], helpers.generation.sampling.generate
    broken = lambda *args, **kwargs: (change(batch) for batch in right(*args, **kwargs))  # noqa: E731
    monkeypatch.setattr(tests.benchmarks.sampling, "generate", broken)
    with pytest.raises(NotEqual, match=message):
        tests.benchmarks.sampling.benchmark("tiny")


def test_other_meanings_are_noticed(monkeypatch):
    right = helpers.meanings.clustering.cluster_many
    one_meaning = lambda *args: [[0] * len(ids) for ids in right(*args)]  # noqa: E731
    monkeypatch.setattr(tests.benchmarks.nli, "cluster_many", one_meaning)
    with pytest.raises(NotEqual, match=r"NLI: \d of 3 questions are grouped otherwise"):
        tests.benchmarks.nli.benchmark("tiny")


def test_swapped_positions_are_noticed(monkeypatch):
    right = helpers.hidden_states.capture.capture

    def swapped(*args: Any, **kwargs: Any) -> Any:
        found = right(*args, **kwargs)
        hidden = dict(found.hidden)
        hidden["tbg"], hidden["answer_last"] = hidden["answer_last"], hidden["tbg"]
        return replace(found, hidden=hidden)

    monkeypatch.setattr(tests.benchmarks.capture, "capture", swapped)
    with pytest.raises(NotEqual, match="capture: states at tbg differ"):
        tests.benchmarks.capture.benchmark("tiny")


def test_another_probability_of_being_true_is_noticed(monkeypatch):
    right, more = (
        helpers.generation.option_logprobs.next_log_probs,
        np.array([[0, 0], [0, 15e-4], [0, 0]]),
    )
    monkeypatch.setattr(
        tests.benchmarks.p_true, "next_log_probs", lambda *args: right(*args) + more
    )
    with pytest.raises(NotEqual, match=r"p\(True\): log-probabilities differ by up to 0\.001"):
        tests.benchmarks.p_true.benchmark("tiny")


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_sweep_of_other_rows_is_noticed(monkeypatch, kind):
    right = helpers.probes.probe.sweep

    def leaking(*args: Any, train: np.ndarray, **kwargs: Any) -> Any:
        if kwargs["kind"] == kind:
            train = train & (np.arange(len(train)) != np.flatnonzero(train)[0])
        return right(*args, train=train, **kwargs)

    monkeypatch.setattr(tests.benchmarks.sweep, "sweep", leaking)
    with pytest.raises(NotEqual, match=f"scores of {kind} differ"):
        tests.benchmarks.sweep.benchmark("tiny")


@pytest.mark.parametrize("name", tests.benchmarks.bootstrap.LIBRARIES)
def test_other_draws_are_noticed(monkeypatch, name):
    data = tests.benchmarks.bootstrap.predictions(30)
    draws = tests.benchmarks.bootstrap.drawn_rows(30, 20)
    naive = tests.benchmarks.bootstrap.by_library(data, draws, name)
    tests.benchmarks.bootstrap.check(
        name, naive, tests.benchmarks.bootstrap.at_once(data, 20, name)
    )
    monkeypatch.setattr(tests.benchmarks.bootstrap, "SEED", 1)
    with pytest.raises(NotEqual, match=f"{name} (differs by|is undefined)"):
        tests.benchmarks.bootstrap.check(
            name, naive, tests.benchmarks.bootstrap.at_once(data, 20, name)
        )


def test_a_resample_of_one_class_is_undefined_both_ways():
    data = tests.benchmarks.bootstrap.predictions(6)
    draws = tests.benchmarks.bootstrap.drawn_rows(6, 200)
    naive = tests.benchmarks.bootstrap.by_library(data, draws, "auroc")
    assert np.isnan(naive).any()
    found = tests.benchmarks.bootstrap.at_once(data, 200, "auroc")
    tests.benchmarks.bootstrap.check("auroc", naive, found)
    with pytest.raises(NotEqual, match="undefined in other draws"):
        tests.benchmarks.bootstrap.check("auroc", naive, np.nan_to_num(found, nan=0.5))


# The harness


def test_both_ways_run_in_turns_and_every_round_is_checked():
    order, checked = [], []
    rounds = in_turns(
        lambda: order.append("naive") or 1,
        lambda: order.append("ours") or 2,
        3,
        lambda a, b: checked.append((a, b)) or "equal",  # type: ignore[func-returns-value]
    )
    assert order == ["naive", "ours", "ours", "naive", "naive", "ours"]
    assert checked == [(1, 2)] * 3
    assert len(rounds.naive) == len(rounds.ours) == 3


def test_a_difference_in_any_round_is_an_error():
    outputs = iter([1, 1, 2])
    with pytest.raises(NotEqual, match="1 and 2"):
        in_turns(
            lambda: 1, lambda: next(outputs), 3, lambda a, b: require(a == b, f"{a} and {b}") or ""
        )


def test_the_table_shows_the_median_ratio_its_range_and_what_is_missed():
    c = slow_and_fast(target=5.0, counts={"times fewer": 3.0}, count_targets={"times fewer": 4.0})
    assert c.ratio == 6.0
    assert c.missed == ["times fewer"]
    assert replace(c, target=7.0).missed == ["ratio", "times fewer"]
    text = table([c])
    for part in ("6 (2-9)", "4 (2-6)", ">= 5 reached", ">= 4 MISSED", "all equal", "the inputs"):
        assert part in text


def test_a_busy_machine_is_warned_of(monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0, 0))
    assert "99.0" in busy_warning(1)
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0, 0))
    assert busy_warning(1) == ""


def test_run_all_prints_one_table_and_fails_when_outputs_differ(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run_all, "fix_threads", lambda threads: None)
    monkeypatch.setattr(
        tests.benchmarks.nli, "benchmark", lambda size: [slow_and_fast(f"NLI {size}")]
    )
    assert run_all.main(["--only", "nli", "--quick", "--json", str(tmp_path / "found.json")]) == 0
    assert "NLI quick" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["comparisons"][0]["ratios"] == [6.0, 9.0, 2.0]
    assert found["machine"]["threads"] == 1

    def differ(size: str) -> list[Comparison]:
        raise NotEqual(f"{size} outputs")

    monkeypatch.setattr(tests.benchmarks.sweep, "benchmark", differ)
    assert run_all.main(["--only", "nli", "sweep"]) == 1
    out = capsys.readouterr().out
    assert "NLI full" in out
    assert "OUTPUTS DIFFER: full outputs" in out


def test_live_tensors_are_counted_until_they_are_gone():
    import torch

    given = torch.zeros(1000)

    def work() -> Any:
        large = given.repeat(3)  # 12,000 bytes
        view = large[:10]  # nothing of its own
        small = view + 1  # 40 bytes
        del large, view
        return small

    found = watch(work)
    assert (found.peak, found.left) == (12_040, 40)
