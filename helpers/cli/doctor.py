"""`sep doctor`: what is installed, cached and reachable here, and what to type next."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path

from helpers.config import RunConfig
from helpers.formatting import size_text
from helpers.models.loading import LAB_FOLDER, LAB_MODELS
from helpers.store.hub import is_partly_stored
from helpers.store.run_folder import package_versions
from helpers.studies.registry import study_named

HUB_TIMEOUT = 3.0  # seconds to wait for the hub's answer


def examine(config: RunConfig) -> str:
    """A report of this machine, one finding a line, ending in the command to type next."""
    lines = ["Python " + platform.python_version() + " on " + platform.platform(terse=True)]
    lines += [f"  {name:<20}{version}" for name, version in package_versions().items()]
    lines += ["", "Devices", *_devices()]
    lines += ["", "Lab models"]
    for kind, folder in LAB_MODELS.items():
        path = LAB_FOLDER / folder / "model.safetensors"
        found = size_text(path.stat().st_size) if path.exists() else "missing: `sep lab train`"
        lines.append(f"  {kind:<16}{found}")
    lines += ["", "Storage", *_storage(config)]
    reachable, hub = _hub()
    lines += ["", "Model hub", f"  {hub}"]
    lines += ["", "Next"]
    if config.run_folder.exists():
        lines += [
            "  uv run marimo edit probe_training_auto.py      the notebook, with the stored run",
            '  uv run sep score "a question"                  one forward pass with its probes',
        ]
    else:
        embedded, of_the_hub, *_ = study_named().config.presets
        lines += [
            "  uv run probe_training_auto.py      the main job on the embedded lab",
            "  uv run sep run --preset " + (of_the_hub if reachable else embedded),
        ]
    return "\n".join(lines)


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return ["  torch is not installed: `uv sync` installs it; the dashboard does without"]
    cores = os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    lines = [f"  cpu: {cores} cores{load}"]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        lines.append(f"  cuda:{index}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    if torch.backends.mps.is_available():
        lines.append("  mps: Apple GPU")
    if len(lines) == 1:
        lines.append("  no GPU; the lab needs none, gpt2 on 200 questions takes a while on a CPU")
    return lines


def _storage(config: RunConfig) -> list[str]:
    lines = []
    for title, folder in (("stored results", config.cache_dir), ("run folders", config.out)):
        if folder.is_file():
            lines.append(f"  {title:<16}{folder} is a file: name a folder")
            continue
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        lines.append(f"  {title:<16}{folder}: {size_text(size)}")
    place = next(p for p in (config.out, *config.out.absolute().parents) if p.exists())
    lines.append(f"  {'free disk':<16}{size_text(shutil.disk_usage(place).free)}")
    models: list[str] = []
    with contextlib.suppress(ImportError):
        from huggingface_hub import constants

        found = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
        names = [path.name.removeprefix("models--").replace("--", "/") for path in found]
        models = [f"{name} (incomplete)" if is_partly_stored(name) else name for name in names]
    lines.append(f"  {'hub cache':<16}{', '.join(models) if models else 'no models yet'}")
    return lines


def _hub() -> tuple[bool, str]:
    """Whether the hub answers, and the finding in words."""
    try:
        from huggingface_hub import constants, get_token
        from huggingface_hub.utils import httpx
    except ImportError:
        return False, "huggingface_hub is not installed: `uv sync` installs it"
    if constants.HF_HUB_OFFLINE:
        return False, "not asked: HF_HUB_OFFLINE is set"
    try:
        httpx.get(constants.ENDPOINT, timeout=HUB_TIMEOUT, follow_redirects=True)
    except httpx.HTTPError as error:
        return False, f"{constants.ENDPOINT} does not answer ({type(error).__name__})"
    token = "with your token" if get_token() else "without a token, which gated models need"
    return True, f"{constants.ENDPOINT} answers; it is asked {token}"
