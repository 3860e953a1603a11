"""Fixtures that every test may use."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from helpers.config import RunConfig
from helpers.meanings.judges import NliJudge
from helpers.store.cache import Store
from helpers.studies.registry import make_config, run_study
from support.run_folders import TINY

settings.register_profile("suite", deadline=None)  # other processes may be at work
settings.load_profile("suite")

MAIN = sys.modules["__main__"]
ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """A shell's `command &` ignores Ctrl-C, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: workers that share the files then end at about one time."""
    slow = {
        item.path for name in ("slow", "browser") for item in items if item.get_closest_marker(name)
    }
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """An application that a test or a fixture runs takes the place of `__main__`, which new
    processes start from."""
    sys.modules["__main__"] = MAIN
    yield
    sys.modules["__main__"] = MAIN


@pytest.fixture
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture
def shared_data() -> Path:
    """Real inputs kept outside the repository; a machine without them skips the test."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real inputs are not on this machine ({folder})")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread: small models on a busy machine only lose by more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The config of a finished run of thirty lab questions, made once; only look at its folder."""
    from helpers.progress import silent_progress

    base = tmp_path_factory.mktemp("tiny")
    config = make_config(**TINY, cache_dir=base / "cache", out=base / "out")
    assert run_study(config, silent_progress())
    return config


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store of the test's own."""
    store = Store(tmp_path / "cache")
    yield store
    store.close()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """The batches of pairs that are put to an NLI judge's model."""
    seen: list[list[tuple[str, str]]] = []
    plain = NliJudge._forward

    def forward(self: NliJudge, pairs: list[tuple[str, str]]) -> np.ndarray:
        seen.append(pairs)
        return plain(self, pairs)

    monkeypatch.setattr(NliJudge, "_forward", forward)
    return seen
