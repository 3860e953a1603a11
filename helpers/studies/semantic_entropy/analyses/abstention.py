"""Answer only where certain: a threshold that keeps a promise about the error of what is answered.

The promise: with confidence 1 − δ over the calibration questions, at most a share α of the
answered questions of the same kind are wrong. The threshold that merely looks right on the
calibration questions keeps no such promise: it is the luckiest of many.

Thresholds are tested in a fixed order, from few questions answered to many, and the last before
the first failure is taken: so no correction for their number is needed (fixed-sequence testing;
Angelopoulos et al. 2021, "Learn then Test"). A test is the Clopper–Pearson upper bound on the
error (Clopper & Pearson 1934). Older forms correct for the number of thresholds instead and
answer less (Geifman & El-Yaniv 2017, selection with guaranteed risk; Bates et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import bdtr, betaincinv

from helpers.evaluation.metrics import (
    CLASSIFIER_METRICS,
    COVERAGES,
    binary,
    e_aurc,
    finite,
    same_length,
)
from helpers.evaluation.scores import (
    RiskCoverage,
    Score,
    paired_difference,
    risk_coverage,
    score_metric,
)
from helpers.studies.semantic_entropy.analyses.sample_budget import PROBES, SEMANTIC_ENTROPY
from helpers.studies.semantic_entropy.run_files import StoredRun

MAX_ERRORS = (0.05, 0.1, 0.2)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Promise:
    """A threshold, and what the calibration questions say of it."""

    max_error: float
    """α: at most this share of the answered questions is wrong."""
    confidence: float
    """1 − δ"""
    threshold: float | None
    """Answer where the score is below it; None where nothing is promised, or everything is."""
    answers_all: bool
    """The promise holds for answering every question."""
    n: int
    """Calibration questions."""
    answered: int
    """Of these, below the threshold; where nothing is promised, below the first one tested, or 0
    where there are too few questions to test any."""
    wrong: int
    """Of these, wrong."""
    upper_bound: float | None
    """Clopper–Pearson upper bound on their error, at the confidence; None for no questions."""
    needed: int
    """Questions that must be answered without an error for any promise: ln δ / ln(1 − α)."""
    undefined: str = ""
    """Why nothing can be promised, in words."""

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """Which of the scores [n] are answered; none where nothing is promised."""
        if self.answers_all:
            return np.ones(len(scores), dtype=bool)
        return np.asarray(scores) < (-np.inf if self.threshold is None else self.threshold)


@dataclass(frozen=True)
class Abstention:
    """A promise, and what came of it on questions that it has not seen."""

    promise: Promise
    share: Score | None
    """Share of the test questions answered, with a Clopper–Pearson interval; None where nothing
    is promised."""
    error: Score | None
    """Share of wrong ones among them, likewise; the p-value is the chance of at least as many
    errors if the error were α: a small one speaks against the promise."""
    held: bool | None
    """Whether the observed error is at most α; None where nothing was answered."""


def promise(
    scores: np.ndarray,
    wrong: np.ndarray,
    max_error: float,
    *,
    confidence: float = CONFIDENCE,
) -> Promise:
    """The largest threshold that passes, for scores [n] (higher = less certain) and wrong [n].

    The thresholds are those below which 59, 93, 124, … calibration questions lie: the fewest that
    can promise α = 0.05 with 0, 1, 2, … errors, and at last all of them. The first is the largest
    of these numbers within a sixth of the questions, or else the smallest; no label has a say in
    that. Given a threshold at a calibration question's score, the questions below it are a random
    draw of all those below it, so that their number of errors is binomial; and a threshold that
    breaks the promise is reached only past one at which the error is α. This is exact for scores
    without ties. Tied questions are answered together, a step then moves to the end of its tie;
    that keeps the promise where errors become no rarer as the score rises.

    The questions must not have shaped the score. Raises ValueError for scores that are no
    numbers, or α or the confidence outside 0 to 1 (excluded).
    """
    scores, labels = finite("scores", scores), binary("wrong", wrong)
    n, delta = same_length(scores, labels), 1 - confidence
    for name, value in (("max_error", max_error), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: {value:g}, expected between 0 and 1")
    needed = error_free_questions(max_error, confidence)
    order = np.argsort(scores, kind="stable")
    errors = np.concatenate([[0], np.cumsum(labels[order])]).astype(int)
    passed = 0
    tested = _sizes_to_test(scores[order], max_error, delta)
    for size in tested:
        if bdtr(errors[size], size, max_error) > delta:
            break
        passed = size
    shown = passed or (tested[0] if tested else 0)
    reason = ""
    if not passed:
        reason = f"no threshold can promise this with n = {n} questions: "
        if shown:
            verb = "is" if errors[shown] == 1 else "are"
            reason += f"of the {shown} most certain {errors[shown]} {verb} wrong, and "
        reason += f"it takes {needed} without an error"
    return Promise(
        max_error=max_error,
        confidence=confidence,
        threshold=float(scores[order[passed]]) if 0 < passed < n else None,
        answers_all=0 < passed == n,
        n=n,
        answered=shown,
        wrong=int(errors[shown]),
        upper_bound=upper_bound(int(errors[shown]), shown, delta) if shown else None,
        needed=needed,
        undefined=reason,
    )


def assess_promise(made: Promise, scores: np.ndarray, wrong: np.ndarray) -> Abstention:
    """What a promise came to on other questions: scores [n] and wrong [n] as 0/1."""
    scores, labels = finite("scores", scores), binary("wrong", wrong)
    n = same_length(scores, labels)
    if made.undefined:
        return Abstention(made, None, None, None)
    share, error = _outcome(made.answers(scores), labels, n, made.max_error)
    held = None if error.value is None else error.value <= made.max_error
    return Abstention(made, share, error, held)


@dataclass(frozen=True)
class Selection:
    """Questions answered so that the error is kept on average, and what came of it."""

    max_error: float
    """α: the expected share of wrong ones among the answered."""
    share: Score
    """Share of the questions answered, with a Clopper–Pearson interval."""
    error: Score
    """Share of wrong ones among them; undefined where none is answered."""


def select_on_average(
    calibration: np.ndarray,
    calibration_wrong: np.ndarray,
    scores: np.ndarray,
    max_error: float,
) -> np.ndarray:
    """Which of the scores [n] to answer so that the expected share of wrong ones is at most α.

    A weaker promise than `promise`: the mean over draws of calibration and new questions, not
    each draw with confidence; it needs fewer questions. The p-value of "this answer is wrong" is
    (1 + wrong calibration answers scored at most as high) / (1 + calibration questions), and
    the false discovery rate of Benjamini & Hochberg is kept at α. Jin & Candès 2023, "Selection
    by prediction with conformal p-values".
    """
    known, labels = finite("calibration", calibration), binary("wrong", calibration_wrong)
    same_length(known, labels)
    new = finite("scores", scores)
    if not len(new):
        return np.zeros(0, dtype=bool)
    wrong_scores = np.sort(known[labels == 1])
    p = (1 + np.searchsorted(wrong_scores, new, side="right")) / (1 + len(known))
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= max_error * np.arange(1, len(p) + 1) / len(p))
    return p <= (ordered[passing[-1]] if passing.size else -1.0)


def assess_selection(answered: np.ndarray, wrong: np.ndarray, max_error: float) -> Selection:
    """What a selection [n] came to on its questions, wrong [n] as 0/1."""
    labels = binary("wrong", wrong)
    return Selection(max_error, *_outcome(answered, labels, len(labels), max_error))


def error_free_questions(max_error: float, confidence: float = CONFIDENCE) -> int:
    """The fewest questions, none of them wrong, that can promise α: n ≥ ln δ / ln(1 − α).

    >>> [error_free_questions(alpha) for alpha in (0.05, 0.1, 0.2)]
    [59, 29, 14]
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - max_error) - 1e-9)


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The one-sided Clopper–Pearson upper bound on an error seen `errors` times in n questions.

    >>> round(upper_bound(0, 59, 0.05), 4)
    0.0495
    """
    return 1.0 if errors >= n else float(betaincinv(errors + 1, n - errors, 1 - delta))


def clopper_pearson(errors: int, n: int) -> tuple[float, float]:
    """The 95 % Clopper–Pearson interval of a share seen `errors` times in n rows: low and high."""
    low = 0.0 if errors == 0 else float(betaincinv(errors, n - errors + 1, 0.025))
    return low, upper_bound(errors, n, 0.025)


def _sizes_to_test(ordered: np.ndarray, max_error: float, delta: float) -> list[int]:
    """How many of the ascending scores [n] lie below each threshold that is tested, in order."""
    n = len(ordered)
    sizes: list[int] = []
    for size in range(1, n + 1):
        if bdtr(len(sizes), size, max_error) <= delta:
            sizes.append(size)
    if not sizes:
        return []
    # An early start fails on a single error by bad luck; a late one has nothing to fall back on.
    late = sum(size <= n / 6 for size in sizes)
    sizes = [*sizes[max(late - 1, 0) :], n]
    ends = np.searchsorted(ordered, ordered[np.array(sizes) - 1], side="right")
    return [int(end) for end in dict.fromkeys(ends.tolist())]


def _outcome(
    answered: np.ndarray, wrong: np.ndarray, n: int, max_error: float
) -> tuple[Score, Score]:
    """The share answered and the error among them, in that order."""
    count, errors = int(answered.sum()), int(wrong[answered].sum())
    note = "Clopper–Pearson interval"
    if not n:
        nothing = Score("share answered", None, None, None, None, 0, "no questions")
        return nothing, Score("error", None, None, None, None, 0, "no questions")
    share = Score("share answered", count / n, *clopper_pearson(count, n), None, n, note=note)
    if not count:
        return share, Score("error", None, None, None, None, 0, "no question is answered")
    p_value = float(bdtr(count - errors, count, 1 - max_error))  # P(at least so many errors)
    low, high = clopper_pearson(errors, count)
    return share, Score("error", errors / count, low, high, p_value, count, note=note)


# --- selective answering of a run ----------------------------------------------------------------


ESTIMATES = (SEMANTIC_ENTROPY, "predictive_entropy_normalised", "mean_token_entropy")
ACCURACIES = tuple(f"accuracy_at_{100 * coverage:g}" for coverage in COVERAGES)


@dataclass(frozen=True)
class SelectiveScores:
    """How well each measure of uncertainty orders the test questions for answering."""

    n: int
    """Test questions whose most likely answer is graded."""
    curves: dict[str, RiskCoverage]
    """Measure to its risk–coverage curve with a 95 % band."""
    scores: dict[str, dict[str, Score]]
    """Measure to AURC, excess AURC and accuracy at each coverage."""
    differences: dict[str, dict[str, Score]]
    """Measure to the same less those of the semantic entropy of all K samples, paired (the excess
    AURC differs by as much as the AURC)."""
    undefined: str = ""
    """Why there are no curves, in words."""


@dataclass(frozen=True)
class Policies:
    """When to answer, by one measure: calibrated on validation questions, looked at on test."""

    promises: tuple[Abstention, ...]
    """With confidence, one for each α."""
    on_average: tuple[Selection, ...]
    """On average only, one for each α."""
    shaped_by_calibration: bool
    """The measure is a probe, whose place and regularisation were chosen on the same validation
    questions: its promises lean a little to the hopeful side."""


def uncertainty_scores(run: StoredRun) -> dict[str, np.ndarray]:
    """The measures that may say when to answer, name to `[n]`, higher = less certain.

    Three estimators over all K samples, the probes for a wrong answer and for high semantic
    entropy and their hybrid, each also as it reads the prompt alone. One that is unknown for a
    question that is needed here is left out.
    """
    known = run.targets.rows("test", run.targets.wrong)
    known |= run.targets.rows("validation", run.targets.wrong)
    names = [probe for name in PROBES for probe in (name, f"{name}_prompt")]
    found = {name: run.uncertainty[name] for name in ESTIMATES if name in run.uncertainty}
    found |= {name: run.predicted[name] for name in names if name in run.predicted}
    return {name: scores for name, scores in found.items() if np.isfinite(scores[known]).all()}


def selective_scores(
    measures: Mapping[str, np.ndarray],
    wrong: np.ndarray,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
) -> SelectiveScores:
    """Risk–coverage curves and scores of measures, name to [n], for wrong [n] as 0/1."""
    n = len(wrong)
    if n < 2:
        return SelectiveScores(n, {}, {}, {}, f"fewer than 2 graded test answers (n = {n})")
    curves = {
        name: risk_coverage(scores, wrong, n_boot=n_boot, seed=seed)
        for name, scores in measures.items()
    }
    rows = {}
    for name, scores in measures.items():
        rows[name] = {
            metric: score_metric(CLASSIFIER_METRICS[metric](scores, wrong), n_boot, n_perm, seed)
            for metric in ("aurc", *ACCURACIES)
        }
        excess = score_metric(e_aurc(scores, wrong), n_boot, 0, seed)
        # Shuffling leaves the perfect order's area as it is: the p-value is the AURC's.
        rows[name]["e_aurc"] = replace(excess, p_value=rows[name]["aurc"].p_value)
    reference = measures.get(SEMANTIC_ENTROPY)
    differences = {
        name: {
            metric: paired_difference(scores, reference, wrong, metric, n_boot=n_boot, seed=seed)
            for metric in ("aurc", *ACCURACIES)
        }
        for name, scores in measures.items()
        if reference is not None and name != SEMANTIC_ENTROPY
    }
    return SelectiveScores(n, curves, rows, differences)


def policies(
    scores: np.ndarray,
    wrong: np.ndarray,
    *,
    calibration: np.ndarray,
    test: np.ndarray,
    shaped_by_calibration: bool,
    max_errors: tuple[float, ...] = MAX_ERRORS,
    confidence: float = CONFIDENCE,
) -> Policies:
    """When to answer by scores [n]: calibrated on one mask [n] of graded questions, tried on one.

    The masks are boolean and disjoint; wrong [n] is 0/1 on them and not read elsewhere.
    """
    promises, on_average = [], []
    for max_error in max_errors:
        made = promise(scores[calibration], wrong[calibration], max_error, confidence=confidence)
        promises.append(assess_promise(made, scores[test], wrong[test]))
        answered = select_on_average(
            scores[calibration], wrong[calibration], scores[test], max_error
        )
        on_average.append(assess_selection(answered, wrong[test], max_error))
    return Policies(tuple(promises), tuple(on_average), shaped_by_calibration)
