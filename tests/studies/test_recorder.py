"""What a manifest says a run took: time and counts over all attempts, memory of each stage."""

from __future__ import annotations

import json
import mmap
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.config import RunConfig
from helpers.progress import silent_progress
from helpers.store.run_folder import read_manifest
from helpers.studies import recorder
from helpers.studies.recorder import CUDA, MPS, RSS, RSS_SO_FAR, Recorder, peaks, reset_peaks
from helpers.studies.registry import make_config, run_study, study_of
from helpers.studies.semantic_entropy import stages as run_module
from support.run_folders import TINY
from support.tiny_models import save_language_model

pytestmark = pytest.mark.usefixtures("one_thread")
THINK: dict[str, Any] = {"limit": 50, "ood_limit": 16, "k": 4, "batch_size": 100, "threads": 1,
                         "n_bootstrap": 100, "n_permutations": 1000}  # fmt: skip


SIZE = 240_000_000  # bytes that a test takes


def manifest_of(config: RunConfig) -> dict[str, Any]:
    found = read_manifest(config.run_folder)
    assert found is not None
    return found


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["lab", "lab-think"])
def test_every_stage_has_its_peak_of_memory(
    tiny_run: RunConfig, tmp_path: Path, preset: str
) -> None:
    config = tiny_run
    if preset == "lab-think":
        places = {"cache_dir": tmp_path / "cache", "out": tmp_path / "out"}
        config = make_config(preset, **THINK, **places)
        run_study(config, silent_progress())
    manifest = manifest_of(config)
    assert tuple(manifest["work"]) == study_of(config).stage_names
    assert manifest["stages"] == manifest["stages_done"] == list(manifest["work"])
    for stage, work in manifest["work"].items():
        (peak,) = [work[name] for name in (RSS, RSS_SO_FAR) if name in work]
        assert isinstance(peak, int), stage
        assert 50e6 < peak < 1e11, stage
    text = json.dumps(manifest, allow_nan=False)
    assert str(config.out.parent) not in text
    assert str(Path.home()) not in text


def test_a_peak_is_of_its_stage_where_it_can_be_set_back() -> None:
    if not reset_peaks():
        pytest.skip("this system does not let a process set its peak back")
    before = peaks(True)[RSS]
    # New pages of the system: an array may get what other tests have left in the heap.
    with mmap.mmap(-1, SIZE) as pages:
        for at in range(0, SIZE, mmap.PAGESIZE):
            pages[at] = 1
        assert peaks(True)[RSS] - before > 0.9 * SIZE
    reset_peaks()
    assert peaks(True)[RSS] - before < 0.5 * SIZE


def test_where_it_cannot_be_set_back_the_peak_is_said_to_be_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "write_text", refused)
    assert reset_peaks() is False
    found = peaks(False)
    assert RSS not in found
    assert found[RSS_SO_FAR] > 50e6
    kilobytes = found[RSS_SO_FAR] // 1024
    monkeypatch.setattr(sys, "platform", "darwin")  # where the same number is in bytes
    assert peaks(False)[RSS_SO_FAR] == pytest.approx(kilobytes, rel=0.1)
    monkeypatch.setattr(sys, "platform", "win32")
    assert RSS_SO_FAR not in peaks(False)


def test_memory_of_the_fullest_gpu_is_recorded_from_the_stages_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = [5, 7]
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        reset_peak_memory_stats=lambda device: held.__setitem__(device, 0),
        max_memory_allocated=lambda device: held[device],
    )
    mps = SimpleNamespace(is_available=lambda: True, driver_allocated_memory=lambda: 11)
    backends = SimpleNamespace(mps=mps)
    stand_in = SimpleNamespace(cuda=cuda, mps=mps, backends=backends)
    monkeypatch.setitem(sys.modules, "torch", stand_in)
    assert (peaks(False)[CUDA], peaks(False)[MPS]) == (7, 11)
    reset_peaks()
    held[0] = 3
    assert peaks(False)[CUDA] == 3
    monkeypatch.delitem(sys.modules, "torch")
    assert not {CUDA, MPS} & set(peaks(False))
    assert "torch" not in sys.modules  # it is not imported for this


# --- attempts -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The recorder's clock, to be set forward."""
    now = [1000.0]
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now[0])
    return now


def test_attempts_are_added_up(tmp_path: Path, clock: list[float]) -> None:
    config = make_config(out=tmp_path)
    first = Recorder(config, ("samples",))
    progress = first.recorded(silent_progress())
    first.begin("samples")
    with progress("Sampling answers", 100, "questions") as stage:
        clock[0] += 10
        stage.advance(1, work={"generated": 40})
    work = manifest_of(config)["work"]["samples"]
    assert (work["seconds"], work["generated"]) == (10, 40)  # though nothing ends it: it is killed

    second = Recorder(config, ("samples",))
    second.begin("samples")
    clock[0] += 3
    second.interrupted()
    assert manifest_of(config)["stages_done"] == []

    third = Recorder(config, ("samples",))
    third.manifest["work"]["samples"][RSS] = 10**15
    third.begin("samples")
    clock[0] += 2
    third.done({"samples": 100}, {"generated": 60})
    work = manifest_of(config)["work"]["samples"]
    assert (work["seconds"], work["generated"], work[RSS]) == (15, 100, 10**15)

    again = Recorder(config, ("samples",))  # finds everything stored
    again.begin("samples")
    with again.recorded(silent_progress())("Sampling answers", 1, "questions") as stage:
        clock[0] += 99
        stage.advance(1)
    again.interrupted()
    again.begin("samples")
    again.done({}, {"generated": 0})
    assert manifest_of(config)["work"]["samples"] == work


def test_what_a_failed_attempt_took_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage of judging fails after its answers are grouped, then the same command goes on."""
    options = TINY | {"cache_dir": tmp_path / "cache", "out": tmp_path / "out", "judge": "nli"}
    config = make_config(**options)
    with monkeypatch.context() as patch:

        def failing(*_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

        patch.setattr(run_module, "write_samples", failing)
        with pytest.raises(KeyboardInterrupt):
            run_study(config, silent_progress(), until="meanings")
    attempt = manifest_of(config)
    assert attempt["stages_done"] == ["samples"]
    lost = attempt["work"]["meanings"]
    assert lost["forwards"] > 0
    assert lost["seconds"] > 0
    run_study(config, silent_progress(), until="meanings")
    whole = manifest_of(config)["work"]["meanings"]
    assert whole["forwards"] == lost["forwards"]  # nothing was judged twice
    assert whole["seconds"] >= lost["seconds"]
    assert manifest_of(config)["work"]["samples"] == attempt["work"]["samples"]


# --- asked and done -------------------------------------------------------------------------------


def test_what_did_not_fit_is_counted(tmp_path: Path) -> None:
    """Prompts of thirty questions in the short context of a tiny model, a token a byte."""
    from support import tiny_models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CONTEXT", 700)
        folder = save_language_model("gpt2", tmp_path / "model")
    options = TINY | {"model": str(folder), "cache_dir": tmp_path / "cache", "out": tmp_path}
    config = make_config(**options, p_true_shots=6, estimators=("p_true_few_shot",))
    run_study(config, silent_progress(), until="uncertainty")
    counts = manifest_of(config)["counts"]
    assert counts["questions_asked"] == counts["questions"] + counts["questions_too_long"] == 30
    assert counts["samples"] == 4 * counts["questions"]
    assert counts["samples_cut_off"] <= counts["samples"]
    asked, done = counts["p_true_shots_asked"], counts["p_true_shots"]
    assert (asked, done + counts["p_true_shots_dropped"]) == (6, 6)
    assert counts["p_true_shots_lacking"] == 0  # there are enough graded training questions
    assert counts["p_true_shots_dropped"] > 0
