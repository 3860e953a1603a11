"""The probes of the study: fitted on train, chosen and calibrated on validation, asked of all runs.

Rows are runs, and the runs of one question are alike: n counts runs, but the questions are the
units, so every record says both. No function here looks at a label of a scored split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.special import expit

from helpers.probes.combined import REGULARISATION
from helpers.probes.probe import LinearProbe, UndefinedTarget, check_target, fit_probe, margin
from helpers.probes.training import HIGH, calibrated, fit_chosen, sweep_target
from helpers.progress import Progress, StageProgress
from helpers.studies.reasoning.records import PREDICTORS, Prediction, RunTable, StudyProbes, Traced

CORRECT = "correctness of the run"
"""What three of the probes predict, in words; the other one predicts `HIGH`."""
CORRECTNESS, ENTROPY, THINKING, COMBINED = PREDICTORS
MIXED = "probes"
"""The position at which the combination reads: the log-odds of the other probes."""
ROWS_AT_ONCE = 4096


def train_study_probes(table: RunTable, traced: Traced, *, progress: Progress) -> StudyProbes:
    """Fit the three probes and their combination; one that is undefined has the reason in words.

    The two that read hidden states are logistic, at the layer and regularisation whose AUROC on
    validation is best; the baseline is logistic on the mean token entropy of the thinking. All
    three are fitted on train, and their probabilities are calibrated on validation. The
    combination weighs the log-odds of those that are defined, two at least, and is fitted on
    validation: on train the probes are overfitted. Nothing here is random. Runs whose target is
    not known are left out and counted in each probe's training record.
    """
    found = StudyProbes({}, {}, {})
    with progress("Training probes", 2 * traced.hidden.shape[1] + 2, "fits") as stage:
        _train_on_states(CORRECTNESS, table.correct, CORRECT, table, traced, found, stage)
        _train_on_states(ENTROPY, table.high, HIGH, table, traced, found, stage)
        for name, fit in (
            (THINKING, _fit_baseline),
            (COMBINED, partial(_combine, traced=traced, found=found)),
        ):
            try:
                found.probes[name] = fit(table)
            except UndefinedTarget as reason:
                found.undefined[name] = str(reason)
            stage.advance(1)
    return found


def _train_on_states(
    name: str,
    target: np.ndarray,
    words: str,
    table: RunTable,
    traced: Traced,
    found: StudyProbes,
    stage: StageProgress,
) -> None:
    """Add the probe that reads a target from hidden states and its sweep, or why there is none."""
    hidden = {traced.position: traced.hidden}
    try:
        chosen = sweep_target(
            hidden, target, "logistic", words, table, lambda done, total: stage.advance(1)
        )
    except UndefinedTarget as reason:
        found.undefined[name] = str(reason)
        stage.advance(traced.hidden.shape[1])
        return
    probe = fit_chosen(hidden, target, chosen, name, words, table)
    found.sweeps[name] = chosen
    found.probes[name] = _with_counts(probe, table, target, "train")


def _fit_baseline(table: RunTable) -> LinearProbe:
    """The logistic probe on one feature, the mean token entropy of the thinking."""
    known = ~np.isnan(table.thinking_entropy)
    target = np.where(known, table.correct, np.nan)
    if not known.any():
        raise UndefinedTarget(
            f"the token entropies of the thinking are not known in any of the {len(table)} runs: "
            "use a backend that gives them"
        )
    _check(table, target, ("train", "validation"), "known token entropies")
    hidden = {THINKING: np.where(known, table.thinking_entropy, 0.0)[:, None, None]}
    probe = fit_probe(
        hidden, target, kind="logistic", position=THINKING, layer=0,
        regularisation=REGULARISATION, rows=table.rows("train", target), name=THINKING,
        target_name=CORRECT,
    )  # fmt: skip
    return _with_counts(calibrated(probe, hidden, target, table), table, target, "train")


def _combine(table: RunTable, *, traced: Traced, found: StudyProbes) -> LinearProbe:
    """The logistic probe on the log-odds of the others, fitted on validation."""
    parts = [name for name in PREDICTORS if name in found.probes]
    if len(parts) < 2:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.undefined.items())
        raise UndefinedTarget(f"it weighs at least two probes, and there are fewer ({reasons})")
    log_odds = np.column_stack(list(_margins(found.probes, table, traced).values()))
    known = ~np.isnan(log_odds).any(axis=1)
    target = np.where(known, table.correct, np.nan)
    _check(table, target, ("validation",), "known log-odds")
    missing = [name for name in PREDICTORS[:3] if name not in parts]
    probe = fit_probe(
        {MIXED: np.where(known[:, None], log_odds, 0.0)[:, None]}, target, kind="logistic",
        position=MIXED, layer=0, regularisation=REGULARISATION,
        rows=table.rows("validation", target), name=COMBINED,
        target_name=f"{CORRECT}, from the log-odds of {', '.join(parts)}"
        + (f" (undefined: {', '.join(missing)})" if missing else ""),
    )  # fmt: skip
    return _with_counts(probe, table, target, "validation", parts=parts)


def predict_study(probes: StudyProbes, table: RunTable, traced: Traced) -> dict[str, Prediction]:
    """What every defined probe says of every run; an undefined probe is not in the dictionary.

    NaN where a probe cannot say: where the baseline's entropy is not known, and so neither is the
    combination of which it is a part. Of the hidden states only the layers that are read are
    taken from disk.
    """
    found = {}
    for name, raw in _margins(probes.probes, table, traced).items():
        length = float(np.linalg.norm(probes.probes[name].weight))
        found[name] = Prediction(
            probability=expit(raw),
            margin=raw,
            projection=raw / length if length > 0 else np.full(len(raw), np.nan),
        )
    return found


def parts_of(probe: LinearProbe) -> list[str]:
    """The probes that the combination weighs, in the order of its weights."""
    return list(probe.training["parts"])


def _margins(
    probes: Mapping[str, LinearProbe], table: RunTable, traced: Traced
) -> dict[str, np.ndarray]:
    """The log-odds `[n]` of every probe for every run, nats; NaN where it cannot say."""
    found: dict[str, np.ndarray] = {}
    for name in (name for name in PREDICTORS if name in probes):
        probe = probes[name]
        if name == COMBINED:
            parts = np.column_stack([found[part] for part in parts_of(probe)])
            found[name] = _margin_where_known(probe, parts)
        elif name == THINKING:
            found[name] = _margin_where_known(probe, table.thinking_entropy[:, None])
        else:
            states = traced.hidden[:, probe.layer]
            # In parts, so that the float64 copies of mapped states stay small.
            starts = range(0, len(states), ROWS_AT_ONCE)
            read = [margin(probe, states[i : i + ROWS_AT_ONCE]) for i in starts]
            found[name] = np.concatenate(read)
    return found


def _margin_where_known(probe: LinearProbe, features: np.ndarray) -> np.ndarray:
    known = ~np.isnan(features).any(axis=1)
    raw = np.full(len(features), np.nan)
    raw[known] = margin(probe, features[known])
    return raw


def _check(table: RunTable, target: np.ndarray, splits: tuple[str, ...], known: str) -> None:
    """Raise `UndefinedTarget`, naming the split and its counts, unless it has both classes."""
    for split in splits:
        rows = table.rows(split, target)
        check_target(target[rows], "logistic", f"{CORRECT}, {split}, runs of {known}")


def _with_counts(
    probe: LinearProbe, table: RunTable, target: np.ndarray, fitted_on: str, **more: list[str]
) -> LinearProbe:
    """The probe with what its training record says of the study's rows: runs and questions."""
    counts: dict[str, object] = {"fitted_on": fitted_on}
    for split in ("train", "validation"):
        rows = table.rows(split, target)
        counts[split] = {
            "runs": int(rows.sum()),
            "questions": len(np.unique(table.question_id[rows])),
            "left_out": int(table.rows(split).sum() - rows.sum()),
        }
    return replace(probe, training=probe.training | counts | more)
