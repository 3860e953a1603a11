"""Opening a run folder gives the records that the run had, and says what a damaged one lacks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.store.files import map_array, read_arrays, write_arrays, write_blocks
from helpers.studies.registry import run_study
from helpers.studies.semantic_entropy.analyses import analyse, read_analysis
from helpers.studies.semantic_entropy.records import Run
from helpers.studies.semantic_entropy.run_files import read_run


@pytest.fixture(scope="module")
def again(tiny_run: RunConfig) -> Run:
    """The tiny run in memory, from its store."""
    finished = run_study(tiny_run, silent_progress())
    assert finished
    return finished


@pytest.fixture
def copied(tiny_run: RunConfig, tmp_path: Path) -> Path:
    """A copy of the tiny run's folder that may be damaged."""
    return Path(shutil.copytree(tiny_run.run_folder, tmp_path / "copy"))


def test_the_folder_holds_what_the_run_had(again: Run) -> None:
    found = read_run(again.folder)
    assert found.answers.questions == again.answers.questions
    assert found.answers.samples == again.answers.samples
    assert found.answers.greedy == again.answers.greedy
    assert found.meanings.clusters == again.meanings.clusters
    assert found.meanings.grades == again.meanings.grades
    assert found.meanings.greedy_grades == again.meanings.greedy_grades
    assert found.config.results_fields() == again.config.results_fields()
    assert found.targets.threshold == again.targets.threshold
    for name in ("semantic_entropy", "high", "wrong", "splits"):
        ours, theirs = getattr(found.targets, name), getattr(again.targets, name)
        np.testing.assert_array_equal(ours, theirs)
    for name, values in again.uncertainty.items():
        np.testing.assert_array_equal(found.uncertainty[name], values)
    assert found.predicted.keys() == again.assessment.predicted.keys()
    for name, values in again.assessment.predicted.items():
        np.testing.assert_allclose(found.predicted[name], values)
    assert found.positions == again.config.positions
    for name in found.positions:
        np.testing.assert_array_equal(found.hidden(name), again.states.hidden[name])
    assert found.metrics()["threshold_nats"] == found.targets.threshold


def test_a_folder_is_opened_without_torch(tiny_run: RunConfig) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; "
        "from helpers.studies.semantic_entropy.run_files import read_run;"
        f"read_run(Path({str(tiny_run.run_folder)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "is no run folder"),
        (lambda f: (f / "samples.parquet").unlink(), "samples.parquet is missing"),
        (lambda f: cut(f / "samples.parquet"), "samples.parquet is damaged"),
        (lambda f: cut(f / "hidden" / "tbg.safetensors"), "tbg.safetensors is damaged .it is cut"),
        (lambda f: (f / "hidden" / "tbg.safetensors").unlink(), "no hidden states at 'tbg'"),
        (lambda f: (f / "metrics.json").unlink(), "no metrics.json: finish it"),
        (lambda f: edit(f, stages_done=["samples"]), "has not come to its meanings"),
        (lambda f: edit(f, config={"colour": "blue"}), "a config that this version does not know"),
    ],
)
def test_a_damaged_folder_is_named_with_the_remedy(copied: Path, damage, message: str) -> None:
    damage(copied)
    with pytest.raises(UserError, match=message):
        read_all(copied)


def read_all(folder: Path) -> None:
    found = read_run(folder)
    assert found.config
    found.hidden("tbg")
    found.metrics()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def edit(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_analysis_is_kept_until_what_it_was_made_from_changes(
    copied: Path, tiny_run: RunConfig, tmp_path: Path
) -> None:
    store = Store(tmp_path / "cache")
    kept = read_analysis(copied, "audit")
    assert kept is not None

    def audit(config: RunConfig = tiny_run) -> bool:
        return analyse("audit", read_run(copied), config, store, silent_progress()).reused

    assert audit()
    assert not audit(tiny_run.model_copy(update={"n_bootstrap": 150}))
    assert audit(tiny_run.model_copy(update={"n_bootstrap": 150}))
    (copied / "analyses" / "audit.json").write_text("{")
    assert read_analysis(copied, "audit") is None
    assert not audit(tiny_run)
    metrics = copied / "metrics.json"
    metrics.write_text(metrics.read_text() + "\n")
    assert not audit(tiny_run)
    with pytest.raises(UserError, match="'audits' is unknown; there are: curves"):
        analyse("audits", read_run(copied), tiny_run, store, silent_progress())
    store.close()


# --- arrays in blocks ----------------------------------------------------------------------------


def test_blocks_give_the_file_that_whole_arrays_give(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = {
        "hidden": rng.normal(size=(11, 3, 4)).astype(np.float32),
        "stand_in": rng.random(11) < 0.5,
        "z": rng.normal(size=(11, 2)),
    }
    write_arrays(tmp_path / "whole", whole, {"rows": "é"})
    parts = [{n: a[i : i + 4] for n, a in whole.items()} for i in range(0, 11, 4)]
    write_blocks(tmp_path / "blocks", iter(parts), 11, {"rows": "é"})
    for path in (tmp_path / "whole", tmp_path / "blocks"):
        found = read_arrays(path)  # verifies the checksum
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array)
            mapped = map_array(path, name)
            np.testing.assert_array_equal(mapped, array)
            assert mapped.dtype == array.dtype
    with pytest.raises(ValueError, match="bytes"):
        write_blocks(tmp_path / "short", iter(parts[:2]), 11)
    assert not (tmp_path / "short").exists()
    assert not list(tmp_path.glob(".*"))
