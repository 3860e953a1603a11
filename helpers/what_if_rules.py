"""Ways to group stored answers anew: what may be chosen, whether a run allows it, and the groups.

Nothing here asks a model or a judge: a rule reads the judge's stored probabilities, or the texts.
K is the number of samples of a question, and k how many of them are used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Integral, Real

import numpy as np

from helpers.analyses.cluster_rules import (
    CONTRADICTION,
    ENTAILMENT,
    by_all_members,
    by_connection,
    by_founder,
    by_text,
    either_entails,
    from_rows,
    mutual_entailment,
    no_contradiction,
    verdicts,
)
from helpers.answers import answer_key
from helpers.errors import UserError
from helpers.grading import final_answer
from helpers.open_run import AnyRun

AS_STORED = "as-stored"
RULES = {
    "strict": "each of the two answers entails the other",
    "no-contradiction": "neither answer contradicts the other, and not both are neutral",
    "either": "at least one of the two answers entails the other",
    "final-answer": "both answers state the same final answer",
    "exact-text": "both answers have the same text, white space and case aside",
    AS_STORED: "the run's own judge took them for the same",
}
"""When two answers count as linked: name to words."""
READ_LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "strict": mutual_entailment,
    "no-contradiction": no_contradiction,
    "either": either_entails,
}
"""Rules that read the judge's labels of all pairs `[n, k, k]`."""
READ_ENTAILMENT = ("strict", "either")
"""Rules that a threshold on p(entailment) applies to."""

LINKAGES = {
    "founder": "an answer joins the first group whose first answer it is linked to",
    "any": "an answer joins a group if it is linked to any of its answers",
    "all": "an answer joins the first group all of whose answers it is linked to",
    "member-stealing": "as founder, but a later group's first answer takes answers of earlier ones",
}
"""How links become groups: name to words."""
GROUPERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "founder": by_founder,
    "any": by_connection,
    "all": by_all_members,
    "member-stealing": partial(by_founder, steal=True),
}
_NO_JUDGEMENTS = (
    "the run keeps no judge's verdicts on all pairs of answers: run it with --judge nli and with "
    "--analyses audit, or with an estimator that reads them"
)


@dataclass(frozen=True)
class WhatIf:
    """What may be changed without sampling or judging anything again."""

    rule: str
    """When two answers are linked, one of `RULES`."""
    k: int
    """The first k of the K stored samples are used, 2 to K."""
    threshold: float | None = None
    """p(entailment) that counts as entailment, 0 to 1; None: where it is the likeliest label."""
    linkage: str = "founder"
    """How links become groups, one of `LINKAGES`."""
    gamma: float | None = None
    """Above so many nats semantic entropy is high; None: the best split of the train questions."""


def sample_count(run: AnyRun) -> int:
    """K, the number of samples of each question; raises `UserError` where there is not one K."""
    counts = {len(row) for row in run.answers.samples}
    if len(counts) != 1 or max(counts) < 2:
        found = ", ".join(map(str, sorted(counts))) or "none"
        raise UserError(
            f"run {run.folder.name}: grouping anew needs the same number of samples, at least 2, "
            f"for every question (there are {found}): choose another run"
        )
    return counts.pop()


def as_stored(run: AnyRun) -> WhatIf:
    """The options that give the run's own groups and semantic entropy again, exactly."""
    config = run.manifest["config"]
    if config["judge"] == "final-answer":
        rule = "final-answer"
    elif config["judge"] == "nli" and run.judgements is not None:
        rule = config["entailment"]
    else:
        rule = AS_STORED
    return WhatIf(rule, sample_count(run))


def possible(run: AnyRun) -> dict[str, str]:
    """Each rule to why this run does not allow it; an empty reason where it does.

    `AS_STORED` is listed only where no other rule gives the run's own groups again.
    """
    reasons = dict.fromkeys(RULES, "")
    if run.judgements is None:
        reasons |= dict.fromkeys(READ_LABELS, _NO_JUDGEMENTS)
    elif not run.judgements[..., CONTRADICTION].any():
        reasons["no-contradiction"] = (
            "the run's judge has no label for contradiction: run it with a --judge-model that has"
        )
    if not any(_stated(s.text) is not None for row in run.answers.samples for s in row):
        reasons["final-answer"] = "no sampled answer states a final answer"
    if as_stored(run).rule != AS_STORED:
        del reasons[AS_STORED]
    return reasons


def check(run: AnyRun, options: WhatIf) -> None:
    """Raise `UserError`, naming the range or the reason, where the run does not allow options."""
    largest = sample_count(run)
    for name, value, known in (
        ("rule", options.rule, RULES),
        ("linkage", options.linkage, LINKAGES),
    ):
        if value not in known:
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(known)}")
    if not isinstance(options.k, Integral) or not 2 <= options.k <= largest:
        raise UserError(
            f"k is {options.k!r}: choose a whole number from 2 to {largest}, the samples stored of "
            "each question"
        )
    if options.threshold is not None and not _within(options.threshold, 0.0, 1.0):
        raise UserError(f"threshold is {options.threshold!r}: choose a probability from 0 to 1")
    if options.gamma is not None and not _within(options.gamma, 0.0, np.log(largest)):
        raise UserError(
            f"gamma is {options.gamma!r}: choose from 0 to ln {largest} = {np.log(largest):.2f} "
            "nats, the largest semantic entropy that there can be"
        )
    if reason := possible(run).get(options.rule):
        raise UserError(f"rule {options.rule!r} is not possible: {reason}")


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, Real) and low <= float(value) <= high  # NaN lies nowhere


def links(run: AnyRun, options: WhatIf) -> np.ndarray:
    """Which of the first k samples of each question are linked, `[n, k, k]`, mutual.

    Raises `UserError` for options that the run does not allow.
    """
    check(run, options)
    k = int(options.k)
    if options.rule in READ_LABELS:
        assert run.judgements is not None  # `check` has said so
        return _judged(run.judgements[:, :k, :k], options) | np.eye(k, dtype=bool)
    ids = _equal(run, options.rule, k)
    return ids[:, :, None] == ids[:, None, :]


def _judged(judgements: np.ndarray, options: WhatIf) -> np.ndarray:
    """Links by a judge's probabilities `[n, k, k, 3]`; identical texts have p(entailment) 1."""
    labels = verdicts(judgements)
    if options.threshold is not None and options.rule in READ_ENTAILMENT:
        # Whatever is not entailment does not matter to these rules.
        reached = judgements[..., ENTAILMENT] >= options.threshold
        labels = np.where(reached, ENTAILMENT, CONTRADICTION)
    return READ_LABELS[options.rule](labels)


def _equal(run: AnyRun, rule: str, k: int) -> np.ndarray:
    """Equal ids `[n, k]` for samples that are the same by a rule that compares something."""
    if rule == AS_STORED:
        return from_rows([row[:k] for row in run.meanings.clusters])
    texts = [[sample.text for sample in row[:k]] for row in run.answers.samples]
    return by_text(texts) if rule == "exact-text" else from_rows([stated(row) for row in texts])


def stated(texts: list[str]) -> list[Hashable]:
    """What each text states as its final answer; a text that states none stands for itself.

    Equal where `--judge final-answer` takes two texts for the same.

    >>> stated(["so it is 4", "4.0", "who knows"])
    ['number 4', 'number 4', ('no final answer', 'who knows')]
    """
    keys = [(text, _stated(text)) for text in texts]
    return [("no final answer", text) if key is None else key for text, key in keys]


@lru_cache(maxsize=100_000)
def _stated(text: str) -> str | None:
    """The final answer of a text, remembered: finding it is the slowest step of all."""
    found = final_answer(text)
    return None if found is None else answer_key(found)


def group(run: AnyRun, options: WhatIf) -> np.ndarray:
    """The group of each of the first k samples, `[n, k]`, numbered from 0 in order of appearance.

    Raises `UserError` for options that the run does not allow.
    """
    return GROUPERS[options.linkage](links(run, options))


def remarks(run: AnyRun, options: WhatIf) -> tuple[str, ...]:
    """Which of the options have no effect together, and what else to know of them, in sentences."""
    found = []
    if options.threshold is not None and options.rule not in READ_ENTAILMENT:
        found.append(f"The threshold is not used: “{options.rule}” does not read p(entailment).")
    if options.linkage != "founder" and options.rule not in READ_LABELS:
        found.append(
            f"The linkage makes no difference: “{options.rule}” is an equality, so that every "
            "linkage gives the same groups."
        )
    largest = sample_count(run)
    if options.k < largest:
        found.append(
            f"The first {options.k} of {largest} samples are used: semantic entropy is at most "
            f"ln {options.k} = {np.log(options.k):.2f} nats, not {np.log(largest):.2f}."
        )
    return tuple(found)
