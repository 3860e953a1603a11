"""The hybrid probe: an entropy probe and a correctness probe, weighed against each other.

Semantic entropy sees disagreement, so that a model that is wrong in the same way every time looks
certain. A correctness probe can see some of those answers. The hybrid is a logistic model of the
two probes' log-odds, fitted to the validation questions: on the training questions both probes
are overfitted, and the test questions are for the score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from helpers.evaluation.scores import Score, evaluate_classifier, paired_difference
from helpers.probes.probe import LinearProbe, Probe, fit_probe, margin, predict, states_at

REGULARISATION = 1.0
"""Of the two weights, on standardised log-odds: weak, but it keeps separable questions finite."""
UNANIMOUS = 1e-6
"""Nats: below this semantic entropy all samples have one meaning."""


@dataclass(frozen=True, eq=False)
class HybridProbe:
    """P(wrong) from the log-odds of two linear probes, which may read different places."""

    name: str
    target: str
    entropy_probe: LinearProbe
    """For high semantic entropy."""
    correctness_probe: LinearProbe
    """For a wrong most likely answer."""
    mixer: LinearProbe
    """Logistic, width 2: the log-odds of the entropy probe, then of the correctness probe. Its
    training record is of the validation questions, on which it was fitted."""
    kind: Literal["hybrid"] = "hybrid"

    @property
    def training(self) -> dict[str, Any]:
        """Counts, base rate and prediction quantiles of the rows on which the mixer was fitted."""
        return self.mixer.training

    @property
    def threshold(self) -> float | None:
        """γ of the entropy probe, nats."""
        return self.entropy_probe.threshold


AnyProbe = Probe | HybridProbe


def fit_hybrid(
    hidden: Mapping[str, np.ndarray],
    wrong: np.ndarray,
    entropy_probe: LinearProbe,
    correctness_probe: LinearProbe,
    *,
    rows: np.ndarray,
    name: str,
    target_name: str = "wrong most likely answer",
) -> HybridProbe:
    """Weigh two probes' log-odds for a wrong answer on the rows of a boolean mask [n].

    hidden position to [n, layers + 1, width], wrong [n] of 0 / 1 on the rows, which must be
    validation rows. Raises UndefinedTarget when they hold one class.
    """
    log_odds = _log_odds(entropy_probe, correctness_probe, hidden)
    mixer = fit_probe(
        {"log-odds": log_odds[:, None]},
        wrong,
        kind="logistic",
        position="log-odds",
        layer=0,
        regularisation=REGULARISATION,
        rows=rows,
        name=f"{name}.mixer",
        target_name=target_name,
    )
    return HybridProbe(name, target_name, entropy_probe, correctness_probe, mixer)


def predict_at(probe: AnyProbe, hidden: Mapping[str, np.ndarray]) -> np.ndarray:
    """Predictions [n] of any probe from hidden states, position to [n, layers + 1, width].

    As `helpers.probes.probe.predict`; of a hybrid the probability of a wrong answer. Raises
    UserError when a place that it reads was not captured.
    """
    if isinstance(probe, HybridProbe):
        log_odds = _log_odds(probe.entropy_probe, probe.correctness_probe, hidden)
        return predict(probe.mixer, log_odds)
    return predict(probe, states_at(hidden, probe.position, probe.layer))


def places(probe: AnyProbe) -> tuple[tuple[str, int], ...]:
    """Every position and layer that a probe reads, each once."""
    parts: tuple[Probe, ...]
    if isinstance(probe, HybridProbe):
        parts = (probe.entropy_probe, probe.correctness_probe)
    else:
        parts = (probe,)
    return tuple(dict.fromkeys((part.position, part.layer) for part in parts))


def _log_odds(
    entropy_probe: LinearProbe, correctness_probe: LinearProbe, hidden: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Both probes' log-odds, [n, 2], in the mixer's order."""
    columns = [
        margin(probe, states_at(hidden, probe.position, probe.layer))
        for probe in (entropy_probe, correctness_probe)
    ]
    return np.column_stack(columns)


@dataclass(frozen=True)
class HybridReport:
    """AUROC for a wrong answer: the hybrid, its two parts alone, and what it adds to each.

    scores has the keys "hybrid", "entropy" and "correctness", differences hybrid minus "entropy"
    and "correctness". The confident ones are of the questions whose samples all mean the same (an
    entropy of 0).
    """

    scores: dict[str, Score]
    differences: dict[str, Score]
    confident_scores: dict[str, Score]
    confident_differences: dict[str, Score]
    n_wrong: int
    """Wrong most likely answers among the rows."""
    n_confident: int
    """Questions whose samples all mean the same."""
    n_confidently_wrong: int
    """Those of them whose most likely answer is wrong."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        tables = ("scores", "differences", "confident_scores", "confident_differences")
        counts = ("n_wrong", "n_confident", "n_confidently_wrong")
        return {
            **{name: {k: s.as_dict() for k, s in getattr(self, name).items()} for name in tables},
            **{name: getattr(self, name) for name in counts},
        }


def report_hybrid(
    hybrid: np.ndarray,
    entropy: np.ndarray,
    correctness: np.ndarray,
    wrong: np.ndarray,
    semantic_entropy: np.ndarray,
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
) -> HybridReport:
    """Compare predictions [n] of the hybrid and its parts for labels wrong [n], paired by question.

    All arrays are of test questions whose label is known; semantic_entropy [n] is that of the
    samples, in nats, and only says which questions are the confident ones.
    """
    predicted = {"hybrid": hybrid, "entropy": entropy, "correctness": correctness}
    confident = semantic_entropy < UNANIMOUS

    def scores(rows: np.ndarray) -> dict[str, Score]:
        return {
            name: evaluate_classifier(
                values[rows], wrong[rows],
                n_boot=n_boot, n_perm=n_perm, seed=seed, positive="wrong",
            )["auroc"]
            for name, values in predicted.items()
        }  # fmt: skip

    def differences(rows: np.ndarray) -> dict[str, Score]:
        return {
            name: paired_difference(
                hybrid[rows], predicted[name][rows], wrong[rows], n_boot=n_boot, seed=seed
            )
            for name in ("entropy", "correctness")
        }

    everything = np.ones(len(wrong), dtype=bool)
    return HybridReport(
        scores=scores(everything),
        differences=differences(everything),
        confident_scores=scores(confident),
        confident_differences=differences(confident),
        n_wrong=int(wrong.sum()),
        n_confident=int(confident.sum()),
        n_confidently_wrong=int(wrong[confident].sum()),
    )
