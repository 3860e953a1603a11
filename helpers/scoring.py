"""What a run's probes say of one question in one forward pass, and how far that can be believed.

Validation questions say how far a prediction is off: the probes' weights were not fitted to them.
The layer and the position were chosen by them, and probabilities calibrated on them, so what is
said here is a little too good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.config import RunConfig, make_config
from helpers.curves import wilson_interval
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
LEVEL = 0.9
"""Of the interval of a semantic entropy."""
NEAREST = 30
"""Validation questions with the nearest predictions, of which a share is told."""
NEIGHBOURS = 5
"""Training questions to which a question's distance is measured."""
FEWEST_COMPARED = 20
"""Validation questions without which nothing is said of how unlike a question is."""
MOST_TRAIN, MOST_VALIDATION = 2000, 500
"""Questions at most in the distances, which would else take seconds in large runs."""


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


@dataclass(frozen=True)
class Interval:
    """Where the truth may lie, by what came of the validation questions."""

    low: float | None
    """Nats or a share; None where there are too few questions."""
    high: float | None
    share: float | None
    """Share of the questions with the nearest predictions that are positive; None of entropies."""
    n: int
    """Validation questions behind it."""
    words: str


@dataclass(frozen=True)
class Unlikeness:
    """How unlike the training questions a question looks to the model."""

    quantile: float | None
    """Share of the validation questions that are nearer to the training questions."""
    n: int
    """Validation questions that it was compared with."""
    far: bool
    """Whether the probes should not be trusted with it."""
    words: str


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


def conformal_interval(
    value: float, predicted: np.ndarray, measured: np.ndarray, *, largest: float
) -> Interval:
    """The split-conformal interval of a predicted entropy, from validation questions `[n]`, nats.

    Its half width is the residual of rank ⌈0.9 (n + 1)⌉, so that it holds the entropy of nine in
    ten questions drawn like those, whatever the probe. Entropies lie between 0 and `largest`, and
    predictions are moved there first. Vovk et al. 2005; Lei et al. 2018.
    """
    n = len(predicted)
    rank = math.ceil(round(LEVEL * (n + 1), 9))
    if rank > n:
        fewest = math.ceil(round(LEVEL / (1 - LEVEL), 9))
        return Interval(
            None, None, None, n, f"no interval: the run has {n} validation questions, and an "
            f"interval of {100 * LEVEL:.0f} % takes at least {fewest}",
        )  # fmt: skip
    half = float(np.sort(np.abs(np.clip(predicted, 0, largest) - measured))[rank - 1])
    centre = min(max(value, 0.0), largest)
    low, high = max(0.0, centre - half), min(largest, centre + half)
    words = f"{100 * LEVEL:.0f} % interval {low:.2f} to {high:.2f} nats: that share of {n} "
    words += f"validation questions was within {half:.2f} nats of the prediction"
    return Interval(low, high, None, n, words)


def observed_share(
    value: float, predicted: np.ndarray, labels: np.ndarray, positive: str
) -> Interval:
    """How often what was predicted came true, among the validation questions `[n]` with the
    nearest predictions, with the 95 % Wilson interval; `positive` is its name.
    """
    n = len(predicted)
    if n < NEAREST:
        return Interval(
            None, None, None, n, f"no interval: the outcome is known of {n} validation questions, "
            f"and it takes {NEAREST}",
        )  # fmt: skip
    nearest = np.argsort(np.abs(predicted - value), kind="stable")[:NEAREST]
    share = float(labels[nearest].mean())
    low, high = (float(end) for end in wilson_interval(np.array(share), np.array(NEAREST)))
    return Interval(
        low, high, share, NEAREST, f"of the {NEAREST} validation questions with the nearest "
        f"predictions ({predicted[nearest].min():.2f} to {predicted[nearest].max():.2f}), "
        f"{100 * share:.0f} % were {positive} (95 % interval {100 * low:.0f} to "
        f"{100 * high:.0f} %)",
    )  # fmt: skip


def unlikeness(
    probe: Probe, state: np.ndarray, hidden: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> Unlikeness:
    """How far a state `[1, width]` is from those of training questions, against validation's.

    `hidden` `[n, width]` is of the probe's place, `train` and `validation` are boolean masks `[n]`.
    Distances are means over the nearest training questions, in the probe's standardised space. Sun
    et al. 2022, nearest neighbours for out-of-distribution detection.
    """
    n = int(validation.sum())
    if n < FEWEST_COMPARED or train.sum() < NEIGHBOURS:
        words = f"not known whether it is like the training questions: only {n} validation "
        return Unlikeness(None, n, False, words + "questions to compare it with")

    def standardised(rows: np.ndarray) -> np.ndarray:
        return (np.asarray(rows, dtype=np.float64) - probe.mean) / probe.scale

    # Thinned before they are read: in large runs the states are mapped from disk.
    known = standardised(hidden[_thinned(train, MOST_TRAIN)])
    usual = _distances(standardised(hidden[_thinned(validation, MOST_VALIDATION)]), known)
    quantile = float((usual < _distances(standardised(state), known)).mean())
    share = "all" if quantile == 1 else f"{100 * quantile:.0f} % of"
    words = f"further from the training questions than {share} {len(usual)} validation questions"
    far = quantile >= 0.99
    if far:
        words += ": do not trust the numbers"
    elif quantile >= 0.95:
        words += ": unusual, so trust the numbers less"
    return Unlikeness(quantile, len(usual), far, words)


def _thinned(chosen: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows of a mask, evenly spread."""
    rows = np.flatnonzero(chosen)
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def _distances(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean distance of each row to its nearest known rows, `[n]`."""
    squared = (rows**2).sum(1)[:, None] + (known**2).sum(1) - 2 * rows @ known.T
    nearest = np.partition(squared.clip(min=0), NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    return np.sqrt(nearest).mean(1)


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
