"""What a run's probes say of one question, from one forward pass of its model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.config import RunConfig, make_config
from helpers.errors import UserError
from helpers.hidden_states import TokenSequence, capture
from helpers.hybrid import HybridProbe
from helpers.models import LanguageModel, ModelIdentity, load_language_model, set_threads
from helpers.pipeline import encode_prompts, prompt_texts
from helpers.probe_store import load_probe
from helpers.probe_training import PROMPT_POSITION
from helpers.probes import Probe, predict, training_quantile
from helpers.run_folder import read_manifest

TARGETS = ("semantic_entropy", "high_semantic_entropy", "wrong_answer")


@dataclass(frozen=True)
class ProbeReading:
    """What one probe says of one prompt, or of one answer to it."""

    target: str
    value: float
    """Nats for semantic entropy, else a probability."""
    quantile: float
    """Share of the training questions with a lower prediction."""
    place: str
    """Position and layer that were read."""
    threshold: float | None
    """γ in nats, where the target is high semantic entropy."""
    name: str
    """The probe's, as its file and its predictions are called."""
    training: tuple[float, ...]
    """The predictions on the training questions at every twentieth, the least and greatest too."""


@dataclass(frozen=True, eq=False)
class OpenProbes:
    """A run's probes with the model that they read, both checked to belong together."""

    config: RunConfig
    """The run's, executed as was asked for here."""
    lm: LanguageModel
    prompt: dict[str, Probe]
    """Target to the probe that reads the prompt alone."""
    answer: dict[str, Probe]
    """Target to the probe that reads the most likely answer, where that was the better place."""


@dataclass(frozen=True, eq=False)
class StatesRead:
    """The hidden states that probes read of one sequence."""

    states: dict[tuple[str, int], np.ndarray]
    """Position and layer to `[1, width]`."""
    stand_ins: tuple[str, ...]
    """Positions that the sequence has not, so that an earlier token stands in."""


def open_probes(folder: Path, config: RunConfig, *, model: str | None = None) -> OpenProbes:
    """The probes of a run folder and its model, which stays loaded for the next question.

    Of `config` only what says how to execute counts; `model` names the run's model by another
    name, for one that has moved. Raises `UserError` when the folder has no probes that read the
    prompt, or the model is absent or not the one that they were trained for.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"{folder} is no run folder; train probes first with `sep run` (the same flags), or "
            "name a run with --run outputs/NAME"
        )
    if "config" not in manifest:
        raise UserError(
            f"{folder} has no probes: it holds answers that were scored without a model; name a "
            "run made by `sep run` with --run outputs/NAME"
        )
    named = {"model": model} if model else {}
    trained = make_config(**{**config.model_dump(), **manifest["config"], **named})
    set_threads(trained.threads)
    lm = load_language_model(trained.model, device=config.device, dtype=trained.dtype)
    prompt: dict[str, Probe] = {}
    answer: dict[str, Probe] = {}
    for target in TARGETS:
        found = [_load(folder, name, lm.identity) for name in (f"{target}_prompt", target)]
        for probe in (p for p in found if p is not None):
            (prompt if probe.position == PROMPT_POSITION else answer).setdefault(target, probe)
    if not prompt:
        raise UserError(
            f"{folder / 'probes'} has no probe that reads the prompt alone{_why_none(folder)}; run "
            "`sep train` with the same flags, and with tbg among the --positions"
        )
    return OpenProbes(trained, lm, prompt, answer)


def _why_none(folder: Path) -> str:
    """The run's own reason for having no entropy probe, in brackets, if it gave one."""
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    reason = metrics.get("undefined_probes", {}).get("semantic_entropy")
    return f" (semantic entropy: {reason})" if reason else ""


def _load(folder: Path, name: str, identity: ModelIdentity) -> Probe | None:
    path = folder / "probes" / f"{name}.json"
    if not path.exists():
        return None
    probe = load_probe(
        path, model_hash=identity.model_hash, tokenizer_hash=identity.tokenizer_hash
    ).probe
    return None if isinstance(probe, HybridProbe) else probe


def check_prompt(prompt: str) -> None:
    """Raise `UserError` for a text that is empty, or no text."""
    if not prompt.strip():
        raise UserError('the prompt is empty: ask a question, as in `sep score "How many …?"`')
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is no UTF-8 text: type it in a UTF-8 terminal") from error


def prompt_tokens(opened: OpenProbes, question: str, *, raw: bool = False) -> tuple[int, ...]:
    """Token ids of the prompt, made of a question as the run makes its prompts, or `raw` as it is.

    Raises `UserError` when the model's context does not hold it.
    """
    lm = opened.lm
    if raw:
        ids = tuple(lm.tokenizer(question)["input_ids"])
    else:
        ids = encode_prompts(opened.config, lm, prompt_texts(opened.config, [question]))[0]
    if not ids or len(ids) > lm.context:
        raise UserError(
            f"the prompt has {len(ids)} tokens; between 1 and {lm.context} fit into the model"
        )
    return ids


def read_states(lm: LanguageModel, sequence: TokenSequence, probes: Iterable[Probe]) -> StatesRead:
    """The hidden states that these probes read of one sequence, from one forward pass."""
    places = [(probe.position, probe.layer) for probe in probes]
    positions, layers = sorted({p for p, _ in places}), sorted({layer for _, layer in places})
    found = capture(lm, [sequence], positions, layers=layers)
    return StatesRead(
        {(p, layer): found.hidden[p][:, layers.index(layer)] for p, layer in places},
        tuple(p for p in positions if found.stand_ins[p][0]),
    )


def read_probes(probes: Mapping[str, Probe], read: StatesRead) -> dict[str, ProbeReading]:
    """What each probe says, by target."""
    readings = {}
    for target, probe in probes.items():
        value = predict(probe, read.states[probe.position, probe.layer])
        readings[target] = ProbeReading(
            target,
            float(value[0]),
            float(training_quantile(probe, value)[0]),
            f"{probe.position}, layer {probe.layer}",
            probe.threshold,
            probe.name,
            tuple(probe.training["prediction_quantiles"]),
        )
    return readings


def score_prompt(
    folder: Path,
    prompt: str,
    config: RunConfig,
    *,
    raw: bool = False,
    model: str | None = None,
) -> list[ProbeReading]:
    """Read a prompt with the prompt-only probes of a run folder, in one forward pass.

    `model` and what is raised are as for `open_probes`; `raw` takes the prompt without the run's
    template.
    """
    check_prompt(prompt)
    opened = open_probes(folder, config, model=model)
    ids = prompt_tokens(opened, prompt, raw=raw)
    read = read_states(opened.lm, TokenSequence(ids, ()), opened.prompt.values())
    return list(read_probes(opened.prompt, read).values())


def reading_title(target: str, threshold: float | None = None) -> tuple[str, str]:
    """What a reading of a target is called, and its unit."""
    if target == "semantic_entropy":
        return "predicted semantic entropy", "nats"
    if target == "high_semantic_entropy":
        if threshold is None:
            return "p(high semantic entropy)", ""
        return f"p(semantic entropy > {threshold:.2f} nats)", ""
    return "p(wrong)", ""


def describe_score(readings: list[ProbeReading]) -> str:
    """The readings in words, a line each; a target without a probe is named."""
    lines = []
    for target in TARGETS:
        reading = next((r for r in readings if r.target == target), None)
        title, unit = reading_title(target, reading.threshold if reading else None)
        if reading is None:
            lines.append(f"{title:<34}undefined: the run has no such probe at the prompt")
            continue
        unit = f" {unit}" if unit else ""
        lines.append(
            f"{title:<34}{reading.value:6.2f}{unit:<6}higher than {100 * reading.quantile:.0f} % "
            f"of the training questions ({reading.place})"
        )
    return "\n".join(lines)
