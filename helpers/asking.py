"""One question put to a run's model: what its probes foresee, and whether sampling agrees.

`ask` reads the prompt in one forward pass; `answer_greedily` adds the most likely answer and the
probes that read it, `token_strip` the probes at every token, and `check_by_sampling` draws answers
as the run would have drawn them, group by group.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig, make_config
from helpers.datasets import Question, question_id
from helpers.errors import UserError
from helpers.grading import Grade, grade, reference_answer
from helpers.hidden_states import TRACING, TokenSequence, capture_tokens, token_span
from helpers.meanings import choose_judge, find_meanings
from helpers.pipeline import sample_answers
from helpers.probe_training import PROMPT_POSITION
from helpers.probes import LinearProbe, predict
from helpers.progress import silent_progress
from helpers.run import Run
from helpers.sampling import GREEDY, Decoding, Request, Sample, generate
from helpers.scoring import (
    Interval,
    OpenProbes,
    ProbeReading,
    Unlikeness,
    check_prompt,
    conformal_interval,
    observed_share,
    open_probes,
    prompt_tokens,
    read_probes,
    read_states,
    unlikeness,
)
from helpers.store import DamagedEntry, Store
from helpers.stored_run import StoredRun
from helpers.stored_states import open_hidden_states
from helpers.uncertainty import semantic_entropy

OpenedRun = Run | StoredRun
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


def ask(run: OpenedRun, question: str, *, config: RunConfig, reference: str = "") -> Reading:
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


def as_question(run: OpenedRun, text: str, reference: str = "") -> Question:
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


def predictions(run: OpenedRun) -> dict[str, np.ndarray]:
    """Every probe's prediction for every question of a run, `[n]`."""
    return run.predicted if isinstance(run, StoredRun) else run.assessment.predicted


def _interval(run: OpenedRun, reading: ProbeReading, k: int) -> Interval:
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


def _unlikeness(run: OpenedRun, probe: Any, state: np.ndarray) -> Unlikeness:
    try:
        hidden = open_hidden_states(run.folder, (PROMPT_POSITION,)).hidden[PROMPT_POSITION]
    except DamagedEntry as reason:
        words = f"not known whether it is like the training questions: hidden states: {reason}"
        return Unlikeness(None, 0, False, words)
    train, validation = (run.targets.rows(split) for split in ("train", "validation"))
    return unlikeness(probe, state, hidden[:, probe.layer], train, validation)


def answer_greedily(run: OpenedRun, reading: Reading, *, config: RunConfig) -> Answered:
    """The most likely answer with its tokens' log-probabilities, and the probes that read it.

    Raises `UserError` as `ask`, and when the prompt leaves no room for an answer.
    """
    opened = open_probes(run.folder, config)
    _check_room(opened, reading)
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


def _check_room(opened: OpenProbes, reading: Reading) -> None:
    if len(reading.prompt_ids) >= opened.lm.context:
        raise UserError(
            f"the prompt has {len(reading.prompt_ids)} tokens and fills the model's context of "
            f"{opened.lm.context}: no answer fits; ask a shorter question"
        )


def token_strip(
    run: OpenedRun,
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
        token_texts(lm.tokenizer, (*prompt_ids, *answer_ids)),
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


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text that each token adds; "" where a character goes on in the next token."""

    def decode(part: Sequence[int]) -> str:
        return tokenizer.decode(
            list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    texts, start = [], 0
    for i in range(len(ids)):
        # Decoded behind earlier tokens: alone, a token may lose its space or half a character.
        before, after = decode(ids[start:i]), decode(ids[start : i + 1])
        unfinished = after.endswith("\ufffd") and i + 1 < len(ids)
        texts.append("" if unfinished else after.removeprefix(before.rstrip("\ufffd")))
        start = start if unfinished else max(start, i - 4)
    return tuple(texts)


def check_by_sampling(
    run: OpenedRun,
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
    _check_room(opened, reading)
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
                answers = sample_answers(step, [reading.question], place, silent_progress())
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


def _with_threshold(run: OpenedRun, config: RunConfig, store: Store) -> RunConfig:
    """The config with the cosine threshold that the run has chosen on its validation answers."""
    if config.judge != "cosine" or config.cosine_threshold is not None:
        return config
    _, description, _ = choose_judge(config, run.answers, store)
    return config.model_copy(update={"cosine_threshold": description["threshold"]})


def judge_reading(run: OpenedRun, checked: Checked) -> Verdict:
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
