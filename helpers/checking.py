"""Whether sampling agrees with what the probes foresaw of one question.

The answers are drawn as the run would have drawn them, group by group, and judged as it judged.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.asking import POSITIVE, AnyRun, Reading, check_room
from helpers.config import RunConfig, make_config
from helpers.grading import Grade
from helpers.hidden_states import TRACING
from helpers.meanings import choose_judge, find_meanings
from helpers.pipeline import sample_answers
from helpers.progress import silent_progress
from helpers.sampling import Sample
from helpers.scoring import open_probes
from helpers.store import Store
from helpers.uncertainty import semantic_entropy


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


def _with_threshold(run: AnyRun, config: RunConfig, store: Store) -> RunConfig:
    """The config with the cosine threshold that the run has chosen on its validation answers."""
    if config.judge != "cosine" or config.cosine_threshold is not None:
        return config
    _, description, _ = choose_judge(config, run.answers, store)
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
