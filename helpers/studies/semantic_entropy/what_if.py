"""What if the answers had been grouped otherwise: a run's numbers anew, from what is stored.

Changing the rule, its threshold, the linkage, γ or the number of samples asks no model and no
judge, and writes nothing. Scores are of the test questions; γ is chosen on the train questions. The
probes are those of the run: they are asked how well they foresee the new labels, not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any

import numpy as np

from helpers.data.answers import answer_key, final_answer
from helpers.errors import UserError
from helpers.evaluation.metrics import auroc, mean_auroc, spearman
from helpers.evaluation.scores import Score, best_split_threshold, paired_difference, score_metric
from helpers.meanings.clustering import (
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
from helpers.studies.semantic_entropy.analyses.audit import mean_score
from helpers.studies.semantic_entropy.analyses.sample_budget import choose_subsets
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.uncertainty.entropies import semantic_entropies

# --- rules ---------------------------------------------------------------------------------------
#
# Nothing here asks a model or a judge: a rule reads the judge's stored probabilities, or the texts.
# K is the number of samples of a question, and k how many of them are used.


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


PROBE = "high_semantic_entropy"
N_BOOT = 2000
"""Resamples behind each interval: the default of a run."""
MOST_SUBSETS = 16
"""Subsets of each size that a point of the budget curve is the mean of."""
CELLS = 4_000_000
"""Pairs of answers that are grouped at once for a point of the budget curve, at most."""


@dataclass(frozen=True)
class GroupingScores:
    """What follows from one grouping of the answers, on the test questions."""

    entropy: Score
    """Mean semantic entropy, nats."""
    meanings: Score
    """Mean number of meanings of a question."""
    high: Score
    """Share of questions whose semantic entropy is above γ."""
    wrong_answer: Score
    """AUROC of semantic entropy for a wrong most likely answer."""
    probe: Score
    """AUROC of the run's own probe, as it was trained, for semantic entropy above γ."""


@dataclass(frozen=True)
class BudgetLevel:
    """Semantic entropy from N samples."""

    n_samples: int
    subsets: int
    """Subsets of the k samples that the AUROC is the mean of."""
    auroc: Score
    """For a wrong most likely answer, on the test questions; no p-value."""


@dataclass(frozen=True, eq=False)
class Regrouped:
    """A run's answers grouped by other options, beside the run as it is stored."""

    options: WhatIf
    clusters: np.ndarray
    """`[n, k]`, numbered from 0 in order of appearance."""
    semantic_entropy: np.ndarray
    """`[n]`, nats."""
    gamma: float | None
    """Nats; None where every train question has the same semantic entropy."""
    changed: np.ndarray
    """`[n]`, True where the same k samples are grouped otherwise than the run grouped them."""
    now: GroupingScores
    stored: GroupingScores
    """With all K samples, as the run grouped them, and its own γ."""
    differences: dict[str, Score]
    """Field of `GroupingScores` to now less stored, paired; for those of one target."""
    spearman: Score
    """Of the new semantic entropy with the stored one."""
    budget: tuple[BudgetLevel, ...]
    """N = 1 … k."""
    notes: tuple[str, ...]
    """What to know of these options, in sentences."""


@dataclass(frozen=True, eq=False)
class _Known:
    """What the scores are made with."""

    train: np.ndarray
    test: np.ndarray
    wrong: np.ndarray
    predicted: np.ndarray | None
    no_probe: str
    seed: int


def regroup(run: AnyRun, options: WhatIf) -> Regrouped:
    """Group a run's stored samples by other options, and compute what follows from the groups.

    Reads `run` and changes nothing of it. Raises `UserError`, naming the range or the reason, for
    options that the run does not allow. A score that has no value says why.
    """
    linked = links(run, options)
    clusters = GROUPERS[options.linkage](linked)
    own = from_rows(run.meanings.clusters)
    known = _known(run)
    entropy, stored_entropy = semantic_entropies(clusters), run.targets.semantic_entropy
    gamma = options.gamma
    if gamma is None:
        gamma = best_split_threshold(entropy[known.train])
    now = _scores(clusters, entropy, gamma, known, n_perm=N_BOOT)
    stored = _scores(own, stored_entropy, run.targets.threshold, known)
    graded = known.test & ~np.isnan(known.wrong)
    probe_note = "The probe is the run's own: it is asked about the new labels, not trained again."
    return Regrouped(
        options=options,
        clusters=clusters,
        semantic_entropy=entropy,
        gamma=gamma,
        changed=_differ(clusters, own[:, : clusters.shape[1]]),
        now=now,
        stored=stored,
        differences=_differences(clusters, entropy, own, stored_entropy, known),
        spearman=score_metric(
            spearman(entropy[known.test], stored_entropy[known.test]), N_BOOT, 0, known.seed
        ),
        budget=budget_curve(
            linked[graded], options.linkage, known.wrong[graded], seed=known.seed
        ),
        notes=(*remarks(run, options), *([probe_note] if known.predicted is not None else [])),
    )  # fmt: skip


def _known(run: AnyRun) -> _Known:
    """What a run says of its questions; its probe may be absent, or still to come."""
    predicted, reason = None, "the run has no probe for high semantic entropy"
    try:
        values = predictions(run).get(PROBE)
        predicted = None if values is None or np.isnan(values).all() else values
    except UserError as not_yet:
        reason = str(not_yet)
    return _Known(
        train=run.targets.splits == "train",
        test=run.targets.splits == "test",
        wrong=run.targets.wrong,
        predicted=predicted,
        no_probe=reason,
        seed=run.config.seed,
    )


def predictions(run: AnyRun) -> Mapping[str, np.ndarray]:
    """What each of the run's probes says of every question, `[n]`."""
    return run.predicted if isinstance(run, StoredRun) else run.assessment.predicted


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which rows of two sets of ids `[n, k]` part their entries otherwise, `[n]`."""
    return ((a[:, :, None] == a[:, None, :]) != (b[:, :, None] == b[:, None, :])).any((1, 2))


def _counts(clusters: np.ndarray) -> np.ndarray:
    """The number of meanings of each question, from ids `[n, k]` without gaps."""
    return clusters.max(axis=1) + 1.0


def _scores(
    clusters: np.ndarray,
    entropy: np.ndarray,
    gamma: float | None,
    known: _Known,
    n_perm: int = 0,
) -> GroupingScores:
    """The scores of one grouping `[n, k]` with semantic entropies `[n]`; p-values if asked for."""
    test, boot = known.test, {"n_boot": N_BOOT, "seed": known.seed}
    graded = test & ~np.isnan(known.wrong)
    metric = auroc(entropy[graded], known.wrong[graded], "wrong")
    return GroupingScores(
        entropy=_mean("semantic entropy", entropy[test], boot),
        meanings=_mean("meanings", _counts(clusters)[test], boot),
        high=_unknown("high", test, _FLAT) if gamma is None
        else _mean("high", entropy[test] > gamma, boot),
        wrong_answer=score_metric(metric, N_BOOT, n_perm, known.seed),
        probe=_probe_score(entropy, gamma, known, n_perm),
    )  # fmt: skip


_FLAT = "every train question has the same semantic entropy, so that none is high"


def _mean(name: str, values: np.ndarray, boot: dict[str, Any]) -> Score:
    score = mean_score(name, values, **boot)
    return replace(score, undefined="there is no test question") if score.undefined else score


def _unknown(name: str, rows: np.ndarray, reason: str) -> Score:
    return Score(name, None, None, None, None, int(rows.sum()), reason)


def _probe_score(entropy: np.ndarray, gamma: float | None, known: _Known, n_perm: int) -> Score:
    """AUROC of the run's probe for entropies `[n]` above γ."""
    if known.predicted is None or gamma is None:
        reason = _FLAT if gamma is None else known.no_probe
        return _unknown("auroc", known.test, reason)
    rows = known.test & np.isfinite(known.predicted)
    metric = auroc(known.predicted[rows], (entropy > gamma)[rows] * 1.0, "high")
    return score_metric(metric, N_BOOT, n_perm, known.seed)


def _differences(
    clusters: np.ndarray,
    entropy: np.ndarray,
    own: np.ndarray,
    stored_entropy: np.ndarray,
    known: _Known,
) -> dict[str, Score]:
    """What changed, question by question. The probe has none: its labels are others."""
    test, boot = known.test, {"n_boot": N_BOOT, "seed": known.seed}
    graded = test & ~np.isnan(known.wrong)
    return {
        "entropy": _mean("difference", (entropy - stored_entropy)[test], boot),
        "meanings": _mean("difference", (_counts(clusters) - _counts(own))[test], boot),
        "wrong_answer": paired_difference(
            entropy[graded], stored_entropy[graded], known.wrong[graded], n_boot=N_BOOT,
            seed=known.seed,
        ),
    }  # fmt: skip


def budget_curve(
    linked: np.ndarray,
    linkage: str,
    wrong: np.ndarray,
    *,
    seed: int = 0,
    most_subsets: int = MOST_SUBSETS,
) -> tuple[BudgetLevel, ...]:
    """AUROC for a wrong answer of semantic entropy from N = 1 … k of the samples.

    linked `[n, k, k]` says which samples are linked, wrong `[n]` is 1.0 or 0.0. The mean over all
    subsets of N samples or, where there are more than `most_subsets`, over so many random ones (or
    over fewer, for many questions), each grouped anew in the order of sampling. What
    `analyses.sample_budget` computes from up to 256 subsets.
    """
    n, k = linked.shape[:2]
    limit = max(1, min(most_subsets, CELLS // max(1, n * k * k)))
    levels = []
    for size in range(1, k + 1):
        subsets = choose_subsets(k, size, limit=limit, seed=seed)
        scores = subset_entropies(linked, linkage, subsets)
        metric = mean_auroc(scores, wrong, "wrong")
        score = replace(score_metric(metric, N_BOOT, 0, seed), name="auroc")
        levels.append(BudgetLevel(size, len(subsets), score))
    return tuple(levels)


def subset_entropies(linked: np.ndarray, linkage: str, subsets: np.ndarray) -> np.ndarray:
    """Semantic entropy of each question from each subset `[S, N]` of its samples, `[n, S]`, nats.

    linked `[n, k, k]`; every subset is grouped anew by the linkage.
    """
    size = subsets.shape[1]
    chosen = linked[:, subsets[:, :, None], subsets[:, None, :]]
    ids = GROUPERS[linkage](chosen.reshape(-1, size, size))
    sizes = np.sort((ids[:, :, None] == np.arange(size)).sum(axis=1), axis=1)
    counts = np.arange(1, size + 1)
    terms = np.concatenate([[0.0], counts / size * np.log(size / counts)])
    # Sorted and rounded: equal entropies must tie, down to the last bit, for ranks to be right.
    return np.round(terms[sizes].sum(axis=1), 12).reshape(len(linked), len(subsets))
