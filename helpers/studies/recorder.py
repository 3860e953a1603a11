"""The manifest of a run under way: what each stage was asked, what it did, and what it took."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.models.loading import identify
from helpers.progress import Progress, StageProgress
from helpers.store.files import remove_leftovers
from helpers.store.run_folder import package_versions, read_manifest, write_manifest

WRITE_AFTER = 1.0
"""Seconds after which a stage under way is written again, when its next batch is stored."""
RSS, RSS_SO_FAR = "peak_rss_bytes", "peak_rss_bytes_so_far"
"""Peak resident memory of a stage; of the process up to the stage's end, where the system does not
let the peak be set back (all but Linux)."""
CUDA, MPS = "peak_cuda_bytes", "mps_bytes"
"""Peak of what torch allocated on a GPU, the fullest one where there are several; what Apple's GPU
held at the end of the stage, as its peak is not known."""
PEAKS = (RSS, RSS_SO_FAR, CUDA, MPS)


class Recorder:
    """Keeps the manifest of a run folder up to date.

    Under `work` stands what each stage took: seconds and counts, added up over all attempts, and
    the largest of their memory peaks. A repetition that finds everything stored adds nothing. An
    attempt that ends in an error or by Ctrl-C is counted to its end. One that is killed is counted
    up to the last batch that it stored, or to one `WRITE_AFTER` seconds earlier.

    Peaks are those of this process: what others (vLLM's engine) hold is not seen.
    """

    def __init__(self, config: RunConfig, stages: Sequence[str]) -> None:
        self.folder = config.run_folder
        remove_leftovers(self.folder)
        identity = identify(config.model)
        self.hashes = {
            "model_hash": identity.model_hash,
            "tokenizer_hash": identity.tokenizer_hash,
        }
        self.manifest: dict[str, Any] = {
            "study": config.study,
            "stages": list(stages),
            "run": config.run_name(),
            "config": config.results_fields(),
            "hashes": self.hashes,
            "versions": package_versions(),
            "counts": {},
            "stages_done": [],
            "work": {},
        }
        earlier = read_manifest(self.folder) or {}
        if earlier.get("hashes") == self.hashes:
            # The folder's name holds the config's hash, so these are results of this very run.
            kept = ("counts", "stages_done", "backend", "work")
            self.manifest |= {key: earlier[key] for key in kept if key in earlier}
        self._stage = ""
        self._before: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        self._since = self._written = time.monotonic()
        self._peak_is_of_stage = False

    def begin(self, stage: str) -> None:
        """A stage begins: its time, its counts and its peak of memory are of this attempt."""
        self._stage, self._counted = stage, {}
        self._before = self.manifest["work"].get(stage, {})
        self._since = self._written = time.monotonic()
        self._peak_is_of_stage = reset_peaks()

    def done(self, counts: Mapping[str, Any], work: Mapping[str, float]) -> None:
        """Record the stage as finished; `work` counts what was computed now, if anything was."""
        self._counted = dict(work)
        self._add_up()
        self.manifest["counts"] |= counts
        if self._stage not in self.manifest["stages_done"]:
            self.manifest["stages_done"].append(self._stage)
        self._stage = ""
        write_manifest(self.folder, self.manifest)

    def interrupted(self) -> None:
        """Record what a stage took that is left before its end.

        A mistake that is found before anything was made leaves no folder.
        """
        nothing = not any(self._counted.values()) and read_manifest(self.folder) is None
        if self._stage and not nothing and self._add_up():
            write_manifest(self.folder, self.manifest)
        self._stage = ""

    def recorded(self, progress: Progress) -> Progress:
        """The same progress; what is stored in between is counted, should the run be killed."""

        @contextlib.contextmanager
        def stage(title: str, total: int, unit: str) -> Iterator[StageProgress]:
            with progress(title, total, unit) as state:
                shown = state.show

                def show(state: StageProgress) -> None:
                    self._note(state.work)
                    shown(state)

                state.show = show
                yield state

        return stage

    def _note(self, work: Mapping[str, float]) -> None:
        self._counted |= work
        now = time.monotonic()
        if self._stage and now - self._written >= WRITE_AFTER and self._add_up():
            write_manifest(self.folder, self.manifest)
            self._written = now

    def _add_up(self) -> bool:
        """Add this attempt to the earlier ones; False where it computes nothing anew."""
        if self._stage in self.manifest["stages_done"] and not any(self._counted.values()):
            return False
        now = {**self._counted, "seconds": time.monotonic() - self._since}
        total = {name: round(self._before.get(name, 0) + value, 2) for name, value in now.items()}
        for name, value in peaks(self._peak_is_of_stage).items():
            total[name] = max(value, self._before.get(name, 0))
        self.manifest["work"][self._stage] = {**self._before, **total}
        return True


def reset_peaks() -> bool:
    """Let peaks count from here; whether that of resident memory does (Linux, where permitted)."""
    for cuda in _cuda():
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peaks(of_stage: bool) -> dict[str, int]:
    """Peaks of memory in bytes, by name: those in `PEAKS` that can be known here."""
    found = {}
    if of_stage:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if kilobytes := re.search(r"VmHWM:\s+(\d+) kB", status):
            found[RSS] = 1024 * int(kilobytes[1])
    elif sys.platform != "win32":  # which has no such number without further packages
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found[RSS_SO_FAR] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for cuda in _cuda():
        found[CUDA] = max(cuda.max_memory_allocated(i) for i in range(cuda.device_count()))
    torch = sys.modules.get("torch")
    if torch is not None and torch.backends.mps.is_available():
        found[MPS] = torch.mps.driver_allocated_memory()
    return found


def _cuda() -> list[Any]:
    """`torch.cuda`, where it is in use; torch is not imported for it."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return [torch.cuda] if torch is not None and used else []
