"""One question put to a run's model: what its probes foresee before and while it answers.

`ask` reads the prompt in one forward pass; `answer_greedily` adds the most likely answer and the
probes that read it, and `token_strip` the probes at every token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.datasets import Question, question_id
from helpers.errors import UserError
from helpers.grading import Grade, grade, reference_answer
from helpers.hidden_states import TRACING, TokenSequence, capture_tokens, token_span
from helpers.open_run import AnyRun
from helpers.prediction_intervals import (
    Interval,
    Unlikeness,
    conformal_interval,
    observed_share,
    unlikeness,
)
from helpers.probe_training import PROMPT_POSITION
from helpers.probes import LinearProbe, predict
from helpers.sampling import GREEDY, Decoding, Request, Sample, generate
from helpers.scoring import (
    OpenProbes,
    ProbeReading,
    check_prompt,
    open_probes,
    prompt_tokens,
    read_probes,
    read_states,
)
from helpers.store import DamagedEntry
from helpers.stored_run import StoredRun
from helpers.stored_states import open_hidden_states
from helpers.token_texts import token_texts

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
    unlike: Unlikeness
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
        unlike=_unlikeness(run, probe, state),
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


def _unlikeness(run: AnyRun, probe: Any, state: np.ndarray) -> Unlikeness:
    try:
        hidden = open_hidden_states(run.folder, (PROMPT_POSITION,)).hidden[PROMPT_POSITION]
    except DamagedEntry as reason:
        words = f"not known whether it is like the training questions: hidden states: {reason}"
        return Unlikeness(None, 0, False, words)
    train, validation = (run.targets.rows(split) for split in ("train", "validation"))
    return unlikeness(probe, state, hidden[:, probe.layer], train, validation)


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
                token_span(lm, sequence, probe.position),
            )
            for probe in chosen
        },
        math.log(opened.config.k),
    )
