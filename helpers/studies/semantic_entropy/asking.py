"""One question put to a run's model: what its probes foresee, and whether sampling agrees.

`ask` reads the prompt in one forward pass; `answer_greedily` adds the most likely answer and the
probes that read it, and `token_strip` the probes at every token.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import Grade, grade, reference_answer
from helpers.data.questions import Question, question_id
from helpers.errors import UserError
from helpers.evaluation.scores import wilson_interval
from helpers.generation.records import GREEDY, Decoding, Request, Sample
from helpers.generation.samples import answer_questions, make_prompts
from helpers.generation.sampling import generate
from helpers.hidden_states.capture import capture, capture_tokens, find_place
from helpers.hidden_states.stored import open_hidden_states
from helpers.meanings.judges import choose_judge
from helpers.models.forwards import TRACING, TokenSequence
from helpers.models.loading import LanguageModel, ModelIdentity, load_language_model, set_threads
from helpers.models.tokens import token_texts
from helpers.probes.combined import HybridProbe
from helpers.probes.probe import LinearProbe, Probe, predict, training_quantile
from helpers.probes.store import load_probe
from helpers.probes.training import PROMPT_POSITION
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.store.run_folder import read_manifest
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.estimation import with_full_entropies
from helpers.studies.semantic_entropy.labels import find_meanings, validation_texts
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.uncertainty.entropies import semantic_entropy

# --- the probes' predictions ---------------------------------------------------------------------


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
        ids = make_prompts(opened.config, {"asked": question})[0].token_ids
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


# --- how far a prediction can be believed --------------------------------------------------------
#
# Validation questions say how far a prediction is off: the probes' weights were not fitted to them.
# The layer and the position were chosen by them, and probabilities calibrated on them, so what is
# said here is a little too good.


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
class TrainingDistance:
    """How unlike the training questions a question looks to the model."""

    quantile: float | None
    """Share of the validation questions that are nearer to the training questions."""
    n: int
    """Validation questions that it was compared with."""
    far: bool
    """Whether the probes should not be trusted with it."""
    words: str


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


def training_distance(
    probe: Probe, state: np.ndarray, hidden: np.ndarray, train: np.ndarray, validation: np.ndarray
) -> TrainingDistance:
    """How far a state `[1, width]` is from those of training questions, against validation's.

    `hidden` `[n, width]` is of the probe's place, `train` and `validation` are boolean masks `[n]`.
    Distances are means over the nearest training questions, in the probe's standardised space. Sun
    et al. 2022, nearest neighbours for out-of-distribution detection.
    """
    n = int(validation.sum())
    if n < FEWEST_COMPARED or train.sum() < NEIGHBOURS:
        words = f"not known whether it is like the training questions: only {n} validation "
        return TrainingDistance(None, n, False, words + "questions to compare it with")

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
    return TrainingDistance(quantile, len(usual), far, words)


def _thinned(chosen: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows of a mask, evenly spread."""
    rows = np.flatnonzero(chosen)
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def _distances(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean distance of each row to its nearest known rows, `[n]`."""
    squared = (rows**2).sum(1)[:, None] + (known**2).sum(1) - 2 * rows @ known.T
    nearest = np.partition(squared.clip(min=0), NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    return np.sqrt(nearest).mean(1)


IN_STRIP = ("semantic_entropy", "wrong_answer")
"""Targets whose probes a strip shows."""
POSITIVE = {"high_semantic_entropy": "high", "wrong_answer": "wrong"}


@dataclass(frozen=True)
class Reading:
    """What the probes say of a question before anything is generated."""

    question: Question
    """With the run's id, reference and split where it is one of the run's questions."""
    prompt_ids: tuple[int, ...]
    readings: dict[str, ProbeReading]
    """By target, of the probes that read the prompt alone."""
    intervals: dict[str, Interval]
    undefined: dict[str, str]
    """Target to why the run has no such probe."""
    training_distance: TrainingDistance
    k: int
    """Answers a question in the run: what is foreseen is the entropy of so many."""

    @property
    def largest(self) -> float:
        """The largest semantic entropy of k answers, ln k, in nats."""
        return math.log(self.k)


@dataclass(frozen=True)
class Answered:
    """The most likely answer, and what the probes say that read it."""

    sample: Sample
    readings: dict[str, ProbeReading]
    """By target; only of probes that read the answer."""
    intervals: dict[str, Interval]
    stand_ins: tuple[str, ...]
    """Positions that the answer has not, so that an earlier token was read."""
    graded: Grade | None
    """None without a reference answer."""


@dataclass(frozen=True, eq=False)
class StripProbe:
    """One probe at every token of a prompt and its answer."""

    name: str
    target: str
    position: str
    layer: int
    values: np.ndarray
    """`[tokens]`, nats or probabilities."""
    trained_at: range
    """Tokens at which, or over whose mean, the probe was trained to read."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Probes over the tokens of a prompt and its answer.

    Away from the tokens that a probe was trained at, its reading is an extrapolation.
    """

    texts: tuple[str, ...]
    """Of each token; "" where a character goes on in the next token."""
    n_prompt: int
    probes: dict[str, StripProbe]
    largest: float
    """ln K, in nats."""


def ask(run: AnyRun, question: str, *, config: RunConfig, reference: str = "") -> Reading:
    """What a run's probes say of a question, from one forward pass of its model.

    Of `config` only what says how to execute counts. `reference` is the right answer, if it is
    known, with which a check can grade. Raises `UserError` for a question that is empty or too
    long, a run without probes that read the prompt, and a model that is absent or has changed.
    """
    check_prompt(question)
    asked = as_question(run, question, reference)
    opened = open_probes(run.folder, config)
    ids = prompt_tokens(opened, asked.question)
    read = read_states(opened.lm, TokenSequence(ids, ()), opened.prompt.values())
    readings = read_probes(opened.prompt, read)
    missing = {} if isinstance(run, StoredRun) else run.trained.undefined
    probe = next(iter(opened.prompt.values()))
    state = read.states[probe.position, probe.layer]
    return Reading(
        question=asked,
        prompt_ids=ids,
        readings=readings,
        intervals={target: _interval(run, r, opened.config.k) for target, r in readings.items()},
        undefined={t: reason for t, reason in missing.items() if t not in readings},
        training_distance=_training_distance(run, probe, state),
        k=opened.config.k,
    )


def as_question(run: AnyRun, text: str, reference: str = "") -> Question:
    """The run's own question of this text, or a new one whose id is a hash of the text.

    Raises `UserError` for a reference that states no final answer.
    """
    name = question_id(text)
    own = (q for q in run.answers.questions if question_id(q.question) == name)
    found = next(own, None) or Question(name, text.strip(), "", None, "", "asked")
    if found.final_answer is not None or not reference.strip():
        return found
    final = reference_answer(reference)
    if final is None:
        raise UserError("the reference answer states no final answer: give a number or a few words")
    return replace(found, answer=reference, final_answer=final)


def predictions(run: AnyRun) -> dict[str, np.ndarray]:
    """Every probe's prediction for every question of a run, `[n]`."""
    return run.predicted if isinstance(run, StoredRun) else run.assessment.predicted


def _interval(run: AnyRun, reading: ProbeReading, k: int) -> Interval:
    targets, predicted = run.targets, predictions(run).get(reading.name)
    truth = {"high_semantic_entropy": targets.high, "wrong_answer": targets.wrong}.get(
        reading.target, targets.semantic_entropy
    )
    if predicted is None:
        return Interval(
            None, None, None, 0, "no interval: the run folder has no predictions of this probe"
        )
    rows = targets.rows("validation", truth) & np.isfinite(predicted)
    if reading.target in POSITIVE:
        return observed_share(reading.value, predicted[rows], truth[rows], POSITIVE[reading.target])
    return conformal_interval(reading.value, predicted[rows], truth[rows], largest=math.log(k))


def _training_distance(run: AnyRun, probe: Any, state: np.ndarray) -> TrainingDistance:
    try:
        hidden = open_hidden_states(run.folder, (PROMPT_POSITION,)).hidden[PROMPT_POSITION]
    except UserError as reason:
        words = f"not known whether it is like the training questions: {reason}"
        return TrainingDistance(None, 0, False, words)
    train, validation = (run.targets.rows(split) for split in ("train", "validation"))
    return training_distance(probe, state, hidden[:, probe.layer], train, validation)


def answer_greedily(run: AnyRun, reading: Reading, *, config: RunConfig) -> Answered:
    """The most likely answer with its tokens' log-probabilities, and the probes that read it.

    Raises `UserError` as `ask`, and when the prompt leaves no room for an answer.
    """
    opened = open_probes(run.folder, config)
    check_room(opened, reading)
    settings = opened.config
    decoding = Decoding(
        settings.temperature, settings.top_p, settings.max_new_tokens, settings.seed, settings.stop
    )
    request = Request(reading.question.id, reading.prompt_ids, (GREEDY,))
    with TRACING:
        (sample,) = next(generate(opened.lm, [request], decoding, batch_size=1))
    readings: dict[str, ProbeReading] = {}
    stand_ins: tuple[str, ...] = ()
    if opened.answer:
        sequence = TokenSequence(reading.prompt_ids, sample.token_ids)
        read = read_states(opened.lm, sequence, opened.answer.values())
        readings, stand_ins = read_probes(opened.answer, read), read.stand_ins
    final = reading.question.final_answer
    graded = None
    if final is not None:
        thinking = settings.thinking
        graded = grade(sample.text, sample.finish_reason, final, thinking_open=thinking)
    intervals = {target: _interval(run, r, reading.k) for target, r in readings.items()}
    return Answered(sample, readings, intervals, stand_ins, graded)


def check_room(opened: OpenProbes, reading: Reading) -> None:
    """Raise `UserError` for a prompt that leaves no room for an answer."""
    if len(reading.prompt_ids) >= opened.lm.context:
        raise UserError(
            f"the prompt has {len(reading.prompt_ids)} tokens and fills the model's context of "
            f"{opened.lm.context}: no answer fits; ask a shorter question"
        )


def token_strip(
    run: AnyRun,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int] = (),
    *,
    config: RunConfig,
) -> Strip:
    """The probes for entropy and for a wrong answer at every token, from one forward pass.

    Those that read the answer are left out while there is none. Raises `UserError` as `ask`.
    """
    opened = open_probes(run.folder, config)
    lm, sequence = opened.lm, TokenSequence(tuple(prompt_ids), tuple(answer_ids))
    if not prompt_ids or len(prompt_ids) + len(answer_ids) > lm.context:
        raise UserError(
            f"prompt and answer have {len(prompt_ids) + len(answer_ids)} tokens; between 1 and "
            f"{lm.context} fit into the model"
        )
    families = (opened.prompt, opened.answer if answer_ids else {})
    found = [family[target] for family in families for target in IN_STRIP if target in family]
    chosen = [probe for probe in found if isinstance(probe, LinearProbe)]
    states = capture_tokens(lm, sequence, [probe.layer for probe in chosen]) if chosen else {}
    target_of = {id(p): t for family in families for t, p in family.items()}
    return Strip(
        tuple(token_texts(lm.tokenizer, (*prompt_ids, *answer_ids))),
        len(prompt_ids),
        {
            probe.name: StripProbe(
                probe.name,
                target_of[id(probe)],
                probe.position,
                probe.layer,
                predict(probe, states[probe.layer]),
                _span(lm, sequence, probe.position),
            )
            for probe in chosen
        },
        math.log(opened.config.k),
    )


def _span(lm: LanguageModel, sequence: TokenSequence, position: str) -> range:
    place = find_place(lm, sequence, position)
    return range(place.start, place.end)


# --- checking by sampling ------------------------------------------------------------------------
#
# The answers are drawn as the run would have drawn them, group by group, and judged as it judged.


@dataclass(frozen=True)
class Verdict:
    """Whether the probes were right about one question; None where that is unknown."""

    measured: float
    """Semantic entropy of all samples, in nats."""
    inside: bool | None
    """Whether it lies in the interval."""
    high: bool | None
    high_right: bool | None
    """Whether p(high) was on the side of one half that came true."""
    wrong: bool | None
    """Whether the most likely answer is wrong."""
    wrong_right: bool | None
    words: str


@dataclass(frozen=True)
class Checked:
    """The answers drawn so far, and what they mean."""

    reading: Reading
    greedy: Sample
    graded: Grade | None
    """The most likely answer against the reference; None without one."""
    samples: tuple[Sample, ...]
    clusters: tuple[int, ...]
    """The meaning of each sample, numbered from 0 in order of appearance."""
    wanted: int
    """Samples there will be in the end."""
    entropy: float
    """Plug-in semantic entropy of the samples so far, in nats."""
    judge: str
    verdict: Verdict | None
    """None until all samples are drawn."""


def check_by_sampling(
    run: AnyRun,
    reading: Reading,
    *,
    config: RunConfig,
    k: int | None = None,
    store: Store | None = None,
) -> Iterator[Checked]:
    """Draw k answers (default: as many as the run), and yield all that there are, group by group.

    The first group is one sample, so that something is seen soon, and each is twice as large as
    the one before. They are the samples that the run has, or would have, of a question of this id,
    and its judge groups them by meaning. Nothing is kept unless a store is given; the run's own
    store has the samples of its own questions. The last record has the verdict. Raises `UserError`
    as `answer_greedily`, and for a k out of range.
    """
    opened = open_probes(run.folder, config)
    check_room(opened, reading)
    settings = opened.config
    wanted = make_config(**{**settings.model_dump(), "k": settings.k if k is None else k}).k
    drawn, group = 0, 1
    with _kept_in(store) as place:
        settings = _with_threshold(run, settings, place)
        while drawn < wanted:
            drawn = min(wanted, drawn + min(group, settings.batch_size))
            group *= 2
            step = settings.model_copy(update={"k": drawn})
            with TRACING:  # not held while the reader looks at a record
                answers = answer_questions(step, [reading.question], place, silent_progress())
                answers = with_full_entropies(step, answers, place, silent_progress())
            meanings = find_meanings(step, answers, place, silent_progress())
            found = Checked(
                reading=reading,
                greedy=answers.greedy[0],
                graded=meanings.greedy_grades[0],
                samples=answers.samples[0],
                clusters=tuple(meanings.clusters[0]),
                wanted=wanted,
                entropy=semantic_entropy(meanings.clusters[0]),
                judge=meanings.judge,
                verdict=None,
            )
            if drawn == wanted:
                found = replace(found, verdict=judge_reading(run, found))
            yield found


@contextlib.contextmanager
def _kept_in(store: Store | None) -> Iterator[Store]:
    """The given store, or one that is gone afterwards."""
    if store is not None:
        yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        own = Store(Path(folder))
        try:
            yield own
        finally:
            own.close()


def _with_threshold(run: AnyRun, config: RunConfig, store: Store) -> RunConfig:
    """The config with the cosine threshold that the run has chosen on its validation answers."""
    if config.judge != "cosine" or config.cosine_threshold is not None:
        return config
    _, description, _ = choose_judge(config, store, validation_texts(run.answers))
    return config.model_copy(update={"cosine_threshold": description["threshold"]})


def judge_reading(run: AnyRun, checked: Checked) -> Verdict:
    """Whether the probes were right about a question, now that all its samples are drawn."""
    reading, n = checked.reading, len(checked.samples)
    entropy, interval = checked.entropy, reading.intervals.get("semantic_entropy")
    inside = None
    words = [f"Measured: {entropy:.2f} nats with {n} samples."]
    if foreseen := reading.readings.get("semantic_entropy"):
        words = [f"Predicted {foreseen.value:.2f} nats, measured {entropy:.2f} with {n} samples"]
        if interval is None or interval.low is None or interval.high is None:
            words[0] += " (there is no interval to compare it with)."
        else:
            inside = interval.low - 1e-9 <= entropy <= interval.high + 1e-9
            where = "inside" if inside else "outside"
            words[0] += f": {where} the interval {interval.low:.2f} to {interval.high:.2f}."
    threshold = run.targets.threshold
    high = None if threshold is None else entropy > threshold
    high_right, sentence = _side(reading, "high_semantic_entropy", high, "the entropy is", "low")
    words += sentence
    known = None if checked.graded is None else checked.graded.correct
    wrong = None if known is None else not known
    answer = "the most likely answer is"
    wrong_right, sentence = _side(reading, "wrong_answer", wrong, answer, "right")
    words += sentence
    if n != reading.k:
        words.append(
            f"The probe learnt entropies of {reading.k} samples; with {n} they come out "
            f"{'lower' if n < reading.k else 'higher'} on average, so the two compare only roughly."
        )
    if reading.question.split in ("train", "validation"):
        use = {"train": "trained on", "validation": "chosen with"}[reading.question.split]
        words.append(f"The probe was {use} this very question, so this is no test of it.")
    return Verdict(entropy, inside, high, high_right, wrong, wrong_right, " ".join(words))


def _side(
    reading: Reading, target: str, came_true: bool | None, what: str, opposite: str
) -> tuple[bool | None, list[str]]:
    """Whether a probability was on the side of one half that came true, and a sentence of it."""
    foreseen = reading.readings.get(target)
    if foreseen is None or came_true is None:
        return None, []
    right = (foreseen.value >= 0.5) == came_true
    word, outcome = POSITIVE[target], POSITIVE[target] if came_true else opposite
    verdict = "the likelier side came true" if right else "the less likely side came true"
    return right, [f"p({word}) was {foreseen.value:.2f} and {what} {outcome}: {verdict}."]
