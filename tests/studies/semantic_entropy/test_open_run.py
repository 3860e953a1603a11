"""Opening a run folder gives the run again: complete, under way, or with a plain sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.analyses.run import NotYet
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.evaluation.records import Array, FloatOrNan, as_plain, from_plain
from helpers.progress import silent_progress
from helpers.store.run_folder import ASSESSMENT, read_manifest
from helpers.studies.registry import run_study
from helpers.studies.semantic_entropy import views
from helpers.studies.semantic_entropy.open_run import open_run


@dataclass(frozen=True)
class Leaf:
    name: str
    value: float | None
    counts: Array


@dataclass(frozen=True)
class Tree:
    leaves: dict[str, tuple[Leaf, ...]]
    worst: FloatOrNan


def test_an_opened_run_is_the_run(tiny_run: RunConfig) -> None:
    again = run_study(tiny_run, silent_progress())
    assert again
    opened = open_run(tiny_run.run_folder)
    assert opened.config.run_name() == tiny_run.run_name()
    assert opened.answers.samples == again.answers.samples
    assert opened.meanings == again.meanings
    assert opened.skipped == again.skipped
    for name in ("sweeps", "undefined"):
        ours, theirs = getattr(opened.trained, name), getattr(again.trained, name)
        assert as_plain(ours) == as_plain(theirs)
    assert as_plain(opened.assessment) == as_plain(again.assessment)
    assert set(opened.trained.probes) == set(again.trained.probes)
    for position, states in again.states.hidden.items():
        np.testing.assert_array_equal(opened.states.hidden[position], states)
    assert {n: a.result for n, a in opened.analyses.items()} == {
        n: json.loads(json.dumps(a.result)) for n, a in again.analyses.items()
    }
    assert views.high_entropy_table(opened) == views.high_entropy_table(again)


def test_what_is_still_to_come_says_so(tiny_run: RunConfig, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run.run_folder, tmp_path / "run")
    manifest = read_manifest(folder)
    assert manifest
    manifest["stages_done"] = ["samples", "meanings", "uncertainty"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    opened = open_run(folder)
    assert views.meanings_table(opened.answers, opened.meanings)
    assert opened.targets.semantic_entropy.size
    with pytest.raises(NotYet, match="evaluation"):
        views.high_entropy_table(opened)
    for ask in (len, list, lambda part: "x" in part, lambda part: part["x"]):
        with pytest.raises(NotYet):
            ask(opened.trained)


@pytest.mark.parametrize("damage", ["", "[]", '{"sweeps": {}}', "null", '{"sweeps": 3}'])
def test_a_damaged_assessment_is_one_sentence(
    tiny_run: RunConfig, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(tiny_run.run_folder, tmp_path / "run")
    (folder / ASSESSMENT).write_text(damage)
    with pytest.raises(UserError, match=r"assessment\.json is damaged .* press Run"):
        open_run(folder)
    (folder / ASSESSMENT).unlink()
    with pytest.raises(UserError, match="is missing"):
        open_run(folder)


def test_opening_needs_no_torch(tiny_run: RunConfig, root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from helpers.studies.semantic_entropy.open_run import open_run; "
        f"open_run(Path({str(tiny_run.run_folder)!r})); "
        "print([m for m in ('torch', 'transformers', 'nnsight', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.lists(st.tuples(st.text(max_size=3), st.none() | numbers, st.lists(st.integers(0, 9)))),
    ),
    numbers | st.just(float("nan")),
)
def test_records_survive_json(table: dict, worst: float) -> None:
    leaves = {
        key: tuple(
            Leaf(name, value, np.array(counts, dtype=np.int64)) for name, value, counts in row
        )
        for key, row in table.items()
    }
    plain = json.loads(json.dumps(as_plain(Tree(leaves, worst)), allow_nan=False))
    again = from_plain(Tree, plain)
    assert as_plain(again) == plain
    assert np.isnan(again.worst) if np.isnan(worst) else again.worst == worst
    for row in again.leaves.values():
        assert all(leaf.counts.dtype == np.int64 for leaf in row)


@pytest.mark.parametrize(
    ("plain", "where"),
    [
        ({"leaves": {}}, "worst: Field required"),
        ({"leaves": [], "worst": 1.0}, "leaves: Input should be an object"),
        ({"leaves": {"a": [{"name": 1, "value": 1, "counts": {}}]}, "worst": 1}, r"a\.0\.name"),
        ({"leaves": {"a": [{"name": "", "value": 1, "counts": 3}]}, "worst": 1}, "counts.*array"),
        ({"leaves": {}, "worst": True}, "worst: Input should be a valid number"),
        ({"leaves": {}, "worst": "1"}, "worst: Input should be a valid number"),
    ],
)
def test_values_that_do_not_fit_are_named(plain: dict, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        from_plain(Tree, plain)
