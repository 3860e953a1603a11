"""The records of the study: one run of a reasoning model, and the table of all valid runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from helpers.evaluation.records import FloatOrNan
from helpers.evaluation.scores import ReliabilityCurve, RiskCoverage, RocCurve, Score
from helpers.probes.probe import LinearProbe, Sweep
from helpers.probes.tripwires import Tripwire

EntropyKind = Literal["full", "top-k", "none"]
"""Over the full vocabulary; from an endpoint's top k, as a lower bound; not known."""
OOD = "ood"
"""The split of the runs on out-of-distribution questions; no choice looks at them."""
SPLITS = ("train", "validation", "test", OOD)
SCORED_SPLITS = ("test", OOD)
PREDICTORS = ("correctness", "semantic_entropy", "thinking_entropy", "combined")
"""The three probes and their combination, in the order in which everything shows them."""


@dataclass(frozen=True)
class ReasoningRun:
    """One run of a reasoning model on one question, in its parts."""

    question_id: str
    run_id: int
    """0 … K − 1."""
    text: str
    """As generated, without the end token."""
    thinking: str
    """What stands before `</think>`, without the tags; "" where nothing does."""
    answer: str
    """What follows `</think>`, whole; "" where the thinking never closes."""
    final_answer: str | None
    status: Literal["correct", "wrong", "unanswered"] | None
    """None where the question has no reference answer."""
    token_ids: tuple[int, ...]
    """As generated, the end token included."""
    token_logprobs: tuple[float, ...]
    """Nats, untempered; empty where an endpoint gave none."""
    token_entropies: tuple[float, ...]
    """Nats, untempered, one a token; empty where an endpoint gave none."""
    entropy_kind: EntropyKind
    thinking_span: tuple[int, int] | None
    """Start and end of the thinking in `token_ids`, tags not included; None: never closed."""
    finish_reason: str
    """"stop" or "length"."""
    excluded: str = ""
    """The rule by which the run is left out; "" where it is valid."""

    @property
    def correct(self) -> bool | None:
        """True or False; None where it states no answer or nobody knows the right one."""
        return None if self.status in (None, "unanswered") else self.status == "correct"


@dataclass(frozen=True, eq=False)
class RunTable:
    """The valid runs of the kept questions, one row a run; every array is `[n]`."""

    question_id: np.ndarray
    run_id: np.ndarray
    dataset: np.ndarray
    """The source of the question, such as "lab" and "lab:ood"."""
    split: np.ndarray
    """"train", "validation", "test" or "ood": a question's runs are all in one."""
    correct: np.ndarray
    """1.0, 0.0, or NaN where the run states no answer."""
    semantic_entropy: np.ndarray
    """Nats, of the question's valid runs: the reading that makes the label."""
    semantic_entropy_other: np.ndarray
    """Nats, by the other reading: whole answers where final answers make the label."""
    high: np.ndarray
    """1.0 where `semantic_entropy` is above the threshold; NaN where there is no threshold."""
    high_median: np.ndarray
    """The same above the median of train, for comparison."""
    thinking_entropy: np.ndarray
    """Mean entropy of the thinking's tokens, nats; NaN where it is not known."""
    thinking_tokens: np.ndarray
    answer_tokens: np.ndarray
    agreement: np.ndarray
    """Share of the question's other valid runs with the same final answer; NaN with no other."""
    threshold: float | None
    """Nats; the best split of the training questions."""
    threshold_median: float | None

    def rows(self, split: str, target: np.ndarray | None = None) -> np.ndarray:
        """Mask `[n]` of a split's runs, of those only for which `target` is known."""
        chosen = self.split == split
        return chosen if target is None else chosen & ~np.isnan(target)

    def __len__(self) -> int:
        return len(self.question_id)


@dataclass(frozen=True, eq=False)
class Traced:
    """Hidden states of the valid runs, in the order of the table."""

    position: str
    """"think_end", or the one that stands in for it in this study."""
    reason: str
    """Why another position than `think_end` is used, in words; "" where it is not."""
    hidden: np.ndarray
    """`[n, layers + 1, width]`, float32, mapped from disk; entry 0 is the embedding."""
    token_ids: np.ndarray
    """`[n]`: the token at which each state was read."""


@dataclass(frozen=True)
class StudyProbes:
    """The probes of the study, the sweeps that placed them, and why any is undefined."""

    probes: dict[str, LinearProbe]
    """By `PREDICTORS`; all give the log-odds of *correct*, `semantic_entropy` of *high*."""
    sweeps: dict[str, Sweep]
    """Of the two that read hidden states."""
    undefined: dict[str, str]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one probe says of every run; every array is `[n]`, NaN where it cannot say."""

    probability: np.ndarray
    """Calibrated; of *correct*, for `semantic_entropy` of *high semantic entropy*."""
    margin: np.ndarray
    """Its log-odds, nats."""
    projection: np.ndarray
    """Signed distance to the probe's boundary, in standard deviations of the training states."""


@dataclass(frozen=True)
class LayerCurve:
    """Test and out-of-distribution AUROC of a probe refitted at each layer, for looking at."""

    target: str
    layers: tuple[int, ...]
    validation: tuple[FloatOrNan, ...]
    """By which the layer was chosen."""
    scores: dict[str, tuple[Score, ...]]
    """By scored split; no choice has seen them."""
    chosen: int


@dataclass(frozen=True)
class StudyAssessment:
    """Every score of the study; dictionaries are by scored split, then by predictor."""

    correctness: dict[str, dict[str, dict[str, Score]]]
    """AUROC and average precision for *correct* (Brier and ECE for probabilities)."""
    high_entropy: dict[str, dict[str, dict[str, Score]]]
    """The same for high semantic entropy."""
    high_entropy_median: dict[str, dict[str, Score]]
    """AUROC of the semantic-entropy probe with the median as threshold, by scored split."""
    confidence: dict[str, dict[str, dict[str, Any]]]
    """Mean probability of *correct* over correct and over incorrect runs, and n of each."""
    differences: dict[str, dict[str, Score]]
    """AUROC for *correct*: "a - b" for pairs of predictors, paired by run."""
    layer_curves: dict[str, LayerCurve]
    roc: dict[str, dict[str, RocCurve]]
    reliability: dict[str, dict[str, ReliabilityCurve]]
    risk_coverage: dict[str, dict[str, RiskCoverage]]
    tripwires: tuple[Tripwire, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know of these scores, in sentences."""


@dataclass(frozen=True)
class RunCounts:
    """How many runs and questions there were and were left out, by dataset."""

    questions: int
    runs: int
    valid: int
    excluded: dict[str, int]
    """By rule."""
    questions_dropped: int
    """With fewer valid runs than needed."""
    runs_dropped: int
    """Valid runs of those questions."""
    correct: int
    wrong: int
    unanswered: int
    entropy_kinds: dict[str, int] = field(default_factory=dict)
