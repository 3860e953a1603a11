"""What a run will take of time, memory and disk: from earlier runs, and from the model's shape."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import RunConfig, make_config
from helpers.models import ModelIdentity, pick_device
from helpers.projection import (
    LAB,
    LAB_JUDGE,
    MODELS,
    NLI_SMALL,
    NUMBER_BYTES,
    JudgeShape,
    ModelShape,
    Projection,
    Workload,
    project,
)
from helpers.run_folder import read_manifest
from helpers.run_list import stored_runs
from helpers.stages import STAGES

SAMPLING_SETTINGS = (
    "model", "questions", "prompt_template", "chat", "thinking", "stop", "max_new_tokens", "dtype",
)  # fmt: skip
"""What the time for one answer depends on, beside the machine."""
OTHER_SETTINGS = (
    "judge", "judge_model", "embedding_model", "entailment", "condition_on_question", "estimators",
    "p_true_shots", "positions",
)  # fmt: skip
PAIRWISE = ("meanings", "uncertainty")
"""Stages whose work grows with the square of the answers to a question."""

LAB_SECONDS = {
    "samples": 20.7, "meanings": 13.6, "uncertainty": 71.5, "hidden": 4.7, "probes": 1.6,
    "evaluation": 1.9, "analyses": 4.8,
}  # fmt: skip
"""The lab preset from an empty cache, on one core; the README's measurement is 141 s in all."""
SLOWER = 1.5
"""Between that core and one that is no worse than usual."""
LAB_PROMPT_TOKENS, LAB_ANSWER_TOKENS = 91, 9
NO_JUDGE = JudgeShape("none", 0, 0, 0, 0)


@dataclass(frozen=True)
class Duration:
    """How long a run takes, in seconds, and how that is known."""

    low: float
    high: float
    basis: str
    sampling_only: bool = False
    """What follows the sampling is not known, and not counted."""
    at_most: bool = False
    """Some of it may be stored, and takes no time then."""

    @property
    def words(self) -> str:
        """Such as "about 2 to 3 minutes (measured on one CPU core)"."""
        parts = ["sampling takes"] if self.sampling_only else []
        parts += ["at most"] if self.at_most else []
        return " ".join([*parts, about(self.low, self.high), f"({self.basis})"])


def about(low: float, high: float | None = None) -> str:
    """Seconds in round words.

    >>> about(119, 178)
    'about 2 to 3 minutes'
    >>> about(41)
    'about 40 seconds'
    """
    high = low if high is None else high
    if high < 8:
        return "a few seconds"
    if high < 90:
        step, unit, size = 10, "seconds", 1
    elif high < 5400:
        step, unit, size = 1, "minutes", 60
    else:
        step, unit, size = 1, "hours", 3600
    ends = [max(step, step * round(value / size / step)) for value in (low, high)]
    unit = unit[:-1] if ends[1] == 1 else unit
    return (
        f"about {ends[0]} {unit}" if ends[0] == ends[1] else f"about {ends[0]} to {ends[1]} {unit}"
    )


# --- time ----------------------------------------------------------------------------------------


def duration(
    config: RunConfig, n: int, missing: int, identity: ModelIdentity | None
) -> Duration | None:
    """The time for n questions of which `missing` answers are to be generated; None if unknown.

    From the largest run in the same folder with the same model and settings that found nothing
    stored; for the lab, else, from a measurement; else from a run that sampled the same way.
    """
    done = _stages_done(config) if missing == 0 else ()
    at_most = missing < n * (config.k + 1) and "meanings" not in done
    earlier = sorted(_earlier_runs(config, identity), key=_generated, reverse=True)
    whole = [m for m in earlier if _is_whole(m) and _agrees(m, config, OTHER_SETTINGS)]
    if whole:
        seconds = _seconds(whole[0], config, n, missing, done)
        return Duration(seconds, seconds, f"as run {whole[0]['run']} took", at_most=at_most)
    lab = _lab_run()
    if _agrees(lab, config, (*SAMPLING_SETTINGS, *OTHER_SETTINGS)):
        seconds = _seconds(lab, config, n, missing, done)
        basis = "measured on one CPU core"
        return Duration(seconds, SLOWER * seconds, basis, at_most=at_most)
    if earlier and missing:
        work = earlier[0]["work"]["samples"]
        seconds = missing * work["seconds"] / work["generated"]
        return Duration(seconds, seconds, f"as in run {earlier[0]['run']}", sampling_only=True)
    return None


def _earlier_runs(config: RunConfig, identity: ModelIdentity | None) -> list[dict[str, Any]]:
    """Manifests of runs beside this one that generated answers of this model, in the same way."""
    found = []
    for entry in stored_runs(config.out):
        manifest = None if entry.damaged else read_manifest(entry.folder)
        if manifest is None or not _agrees(manifest, config, SAMPLING_SETTINGS):
            continue
        known = manifest.get("hashes", {}).get("model_hash")
        same = identity is None or known == identity.model_hash
        if same and _generated(manifest) and manifest["work"]["samples"].get("seconds"):
            found.append(manifest)
    return found


def _agrees(manifest: Mapping[str, Any], config: RunConfig, names: Sequence[str]) -> bool:
    wanted = config.results_fields()
    return all(manifest["config"].get(name) == wanted[name] for name in names)


def _generated(manifest: Mapping[str, Any]) -> float:
    return manifest.get("work", {}).get("samples", {}).get("generated", 0)


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether the run is finished, and did all its work itself: nothing was stored before it."""
    counts = manifest["counts"]
    answers = counts.get("samples", 0) + counts.get("questions", 0)
    judged = manifest["work"].get("meanings", {})
    return (
        set(STAGES) <= set(manifest["work"])
        and _generated(manifest) >= answers
        and counts.get("questions")
        and 2 * judged.get("stored", 0) <= judged.get("pairs", 0)
    )


def _seconds(
    manifest: Mapping[str, Any], config: RunConfig, n: int, missing: int, done: Sequence[str]
) -> float:
    """The run's seconds, stage by stage, for this many questions and answers."""
    work, more = manifest["work"], n / manifest["counts"]["questions"]
    pairs = more * ((config.k + 1) / (manifest["config"]["k"] + 1)) ** 2
    total = missing * work["samples"]["seconds"] / work["samples"]["generated"]
    for stage in STAGES[1:]:
        if stage not in done:
            total += work[stage]["seconds"] * (pairs if stage in PAIRWISE else more)
    return total


def _stages_done(config: RunConfig) -> tuple[str, ...]:
    """The stages that this very run has behind it."""
    manifest = read_manifest(config.run_folder)
    return tuple(manifest.get("stages_done", ())) if manifest else ()


def _lab_run() -> dict[str, Any]:
    """The measured run of the lab, as its manifest would have it."""
    config = make_config("lab")
    work: dict[str, dict[str, float]] = {s: {"seconds": t} for s, t in LAB_SECONDS.items()}
    work["samples"]["generated"] = config.limit * (config.k + 1)
    counts = {"questions": config.limit}
    return {"config": config.results_fields(), "counts": counts, "work": work}


# --- memory and disk -----------------------------------------------------------------------------


def needs(config: RunConfig, n: int, identity: ModelIdentity | None) -> Projection | None:
    """Memory and disk for n questions; None where the model's shape is not known here."""
    shape = _shape(config.model, identity)
    if shape is None:
        return None
    lab = config.model == "lab"
    device = _device(config.device)
    automatic = "float32" if device == "cpu" else "bfloat16"
    judge = LAB_JUDGE if config.judge_model == "lab" else NLI_SMALL
    work = Workload(
        n_questions=n,
        k=config.k,
        positions=len(config.positions),
        prompt_tokens=LAB_PROMPT_TOKENS if lab else Workload.prompt_tokens,
        answer_tokens=min(
            LAB_ANSWER_TOKENS if lab else Workload.answer_tokens, config.max_new_tokens
        ),
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        dtype=automatic if config.dtype == "auto" else config.dtype,
        device=device,
        top_p=config.top_p,
        judge=NO_JUDGE if config.judge == "final-answer" else judge,
        judge_batch_size=config.judge_batch_size,
        p_true_shots=config.p_true_shots,
    )
    return project(shape, work)


def _device(device: str) -> str:
    """ "cuda" or "cpu", without importing torch, which takes seconds."""
    if device == "auto" and "torch" in sys.modules:
        device = pick_device(device)
    elif device == "auto":
        device = "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def _shape(name: str, identity: ModelIdentity | None) -> ModelShape | None:
    """The architecture of a model: known by name, or read from its folder."""
    if name == "lab":
        return LAB
    known = {known.lower(): shape for known, shape in MODELS.items()}
    if Path(name).name.lower() in known:
        return known[Path(name).name.lower()]
    try:
        return None if identity is None else shape_of(identity.folder)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # an architecture that names its sizes in other words


def shape_of(folder: Path) -> ModelShape:
    """The architecture that a model's config.json states; weights are measured, not read.

    Raises KeyError, TypeError or ValueError where it states it in words not known here.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)

    def size(*names: str) -> int:
        found = [config[name] for name in names if config.get(name)]
        if not found:
            raise KeyError(names[0])
        return int(found[0])

    width, heads = size("hidden_size", "n_embd"), size("num_attention_heads", "n_head")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return ModelShape(
        name=folder.name,
        parameters=weights // NUMBER_BYTES.get(dtype, 4),
        layers=size("num_hidden_layers", "n_layer"),
        width=width,
        feed_forward=int(config.get("intermediate_size") or config.get("n_inner") or 4 * width),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or width // heads),
        vocabulary=size("vocab_size"),
        context=size("max_position_embeddings", "n_positions"),
        gated=config.get("hidden_act", config.get("hidden_activation")) in _GATED,
        eager=bool(config.get("attn_logit_softcapping")),
    )


_GATED = ("silu", "gelu_pytorch_tanh")
"""Activations of feed-forward layers that multiply two projections, in models of that kind."""
