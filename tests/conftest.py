"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folders import TINY

from helpers.config import RunConfig, make_config

ROOT = Path(__file__).resolve().parent.parent


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
    from helpers.run import run

    base = tmp_path_factory.mktemp("tiny")
    config = make_config(**TINY, cache_dir=base / "cache", out=base / "out")
    assert run(config, silent_progress())
    return config
