"""The benchmarks in a tiny size: they run, and say when outputs differ. Nothing is timed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tests.benchmarks.__main__ as program
from tests.benchmarks import harness, model_stages, numpy_stages
from tests.benchmarks.harness import Comparison, NotEqual, Round, close, compare, table
from tests.benchmarks.live_tensors import watch

pytestmark = pytest.mark.usefixtures("one_thread")
MODULES = {"model_stages": model_stages, "numpy_stages": numpy_stages}


@pytest.fixture(autouse=True)
def no_waiting_for_garbage(monkeypatch):
    """Every timed call collects garbage first, which takes longer than tiny benchmarks."""
    monkeypatch.setattr("tests.benchmarks.harness.gc.collect", lambda *_: 0)


def slow_and_fast(name: str = "stage", **changes: Any) -> Comparison:
    times = (((6.0, 1.0), (6.0, 1.0)), ((9.0, 1.0), (8.0, 2.0)), ((4.0, 2.0), (4.0, 2.0)))
    rounds = tuple(Round(*both) for both in times)
    return replace(Comparison(name, "slowly", "the inputs", rounds, "all equal"), **changes)


@pytest.mark.parametrize("stage", program.STAGES)
def test_every_stage_runs_both_ways_and_finds_them_equal(stage):
    found = getattr(MODULES[program.STAGES[stage]], stage)("tiny")
    assert all("equal" in c.equality or c.equality == "not comparable" for c in found)
    assert any("equal" in c.equality for c in found)
    assert all(c.count_targets.keys() <= c.counts.keys() for c in found)


def of_the_first(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What a call gives, its first entry changed."""
    return lambda found: [change(found[0]), *found[1:]]


def leaving_one_out(right: Callable) -> Callable:
    """A sweep that forgets a row."""

    def sweep(*args: Any, train: np.ndarray, **kwargs: Any) -> Any:
        first = np.flatnonzero(train)[0]
        return right(*args, train=train & (np.arange(len(train)) != first), **kwargs)

    return sweep


def after(change: Callable[[Any], Any]) -> Callable[[Callable], Callable]:
    """Changes what a function gives."""
    return lambda right: lambda *args, **kwargs: change(right(*args, **kwargs))


def other_draws(right: Callable) -> Callable:
    """Resamples whose seed is another at each call."""
    seeds = itertools.count()
    return lambda n, draws, seed: right(n, draws, next(seeds))


def other_positions(found: Any) -> Any:
    states = found.hidden
    return replace(found, hidden=states | {"tbg": states["answer_last"]})


WRONG = [  # stage, the function that goes wrong, how, and what is said of it
    ("sampling", "sample", after(of_the_first(
        lambda s: replace(s, token_ids=(*s.token_ids[:-1], s.token_ids[-1] + 1)))), "instead of"),
    ("sampling", "sample", after(of_the_first(
        lambda s: replace(s, token_logprobs=(-9.0, *s.token_logprobs[1:])))), "log-prob.* differ"),
    ("sampling", "sample", after(lambda samples: samples[1:]), "other questions or samples"),
    ("judging", "cluster_many", after(
        lambda found: [[0] * len(ids) for ids in found]), "grouped otherwise"),
    ("capture", "capture_states", after(other_positions), "states at tbg differ"),
    ("p_true", "next_log_probs", after(lambda found: found + 15e-4), "of A and B differ"),
    ("sweep", "our_sweep", leaving_one_out, "scores of ridge differ"),
    ("bootstrap", "resamples", other_draws, "auroc (differ|are undefined)"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "function", "spoil", "said"), WRONG)
def test_other_outputs_are_noticed(monkeypatch, stage, function, spoil, said):
    module = MODULES[program.STAGES[stage]]
    monkeypatch.setattr(module, function, spoil(getattr(module, function)))
    with pytest.raises(NotEqual, match=said):
        getattr(module, stage)("tiny")


def test_undefined_values_have_to_be_so_both_ways():
    some = np.array([1.0, np.nan])
    assert "2 values" in close("x", some, some, 0.0)
    for other in (np.array([1.0, 0.5]), np.array([1.1, np.nan]), some[:1]):
        with pytest.raises(NotEqual, match="x"):
            close("x", some, other, 1e-9)


def test_both_ways_run_in_turns_and_every_round_is_checked():
    order: list[str] = []
    checked: list[tuple[Any, Any]] = []
    ways = {name: lambda name=name: order.append(name) or name for name in ("plain", "ours")}
    check: Any = lambda a, b: checked.append((a, b)) or "equal"  # noqa: E731
    compare("full", "stage", "", "", ways["plain"], ways["ours"], check)
    assert order == ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert checked == [("plain", "ours")] * 3


def test_the_table_shows_the_median_ratio_its_range_and_what_is_missed():
    c = slow_and_fast(target=5.0, counts={"times fewer": 3.0}, count_targets={"times fewer": 4.0})
    assert c.missed == ["times fewer"]
    assert replace(c, target=7.0).missed == ["ratio", "times fewer"]
    text = table([c])
    for part in ("6 (2-9)", "4 (2-6)", ">= 5 reached", ">= 4 MISSED", "all equal", "the inputs"):
        assert part in text


def test_the_program_prints_one_table_and_fails_when_outputs_differ(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(harness, "fix_threads", lambda threads: None)
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0, 0))
    monkeypatch.setattr(model_stages, "judging", lambda size: [slow_and_fast(f"judging {size}")])
    path = tmp_path / "found.json"
    assert program.main(["--only", "judging", "--quick", "--json", str(path)]) == 0
    said = capsys.readouterr()
    assert "judging quick" in said.out
    assert "load average is 99.0" in said.err
    found = json.loads(path.read_text())
    assert found["comparisons"][0]["ratios"] == [6.0, 9.0, 2.0]
    assert found["machine"]["threads"] == 1

    monkeypatch.setattr(numpy_stages, "sweep", lambda size: harness.require(False, "other"))
    assert program.main(["--only", "judging", "sweep"]) == 1
    out = capsys.readouterr().out
    assert "judging full" in out
    assert "OUTPUTS DIFFER: other" in out


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
