"""Tripwires of the study: what must hold before a score of its probes is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from helpers.errors import UserError
from helpers.evaluation import Score, evaluate_classifier
from helpers.probe_tripwires import memorisation_check, shuffled_label_scores
from helpers.probes import LinearProbe, UndefinedTarget, fit_probe, predict
from helpers.studies.reasoning.predictors import TITLES
from helpers.studies.reasoning.probes import CORRECT, CORRECTNESS, ENTROPY
from helpers.studies.reasoning.records import RunTable, StudyProbes, Traced
from helpers.tripwires import (
    Tripwire,
    constant_input_tripwire,
    memorisation_tripwire,
    shuffled_scores_tripwire,
)

SHUFFLES = 100
THINK_END = "think_end"


def study_tripwires(
    table: RunTable,
    probes: StudyProbes,
    traced: Traced,
    scores: Mapping[str, Score],
    seed: int,
) -> tuple[Tripwire, ...]:
    """Shuffled labels and memorisation for the two probes on hidden states, and constant input.

    `scores` are the test AUROCs of the two, by name. A check that cannot be run says why.
    """
    targets = {CORRECTNESS: table.correct, ENTROPY: table.high}
    found = []
    for name, target in targets.items():
        if name in probes.probes:
            probe = probes.probes[name]
            checks = [
                _shuffled(probe, target, table, traced, scores.get(name), seed),
                _memorised(probe, traced, seed),
            ]
        else:
            reason = f"there is no such probe ({probes.undefined[name]})"
            names = ("shuffled labels", "memorisation")
            checks = [Tripwire(each, None, None, "", reason) for each in names]
        found += [replace(check, name=f"{check.name}: {TITLES[name]}") for check in checks]
    return (*found, constant_input(table, traced))


def _shuffled(
    probe: LinearProbe,
    target: np.ndarray,
    table: RunTable,
    traced: Traced,
    real: Score | None,
    seed: int,
) -> Tripwire:
    """Probes fitted to shuffled labels of runs must score 0.5 on test."""
    try:
        scattered = shuffled_label_scores(
            traced.hidden[:, probe.layer], target, table.rows("train", target),
            table.rows("test", target), regularisation=probe.regularisation,
            n_shuffles=SHUFFLES, seed=seed,
        )  # fmt: skip
    except UndefinedTarget as reason:
        return Tripwire("shuffled labels", None, None, "mean score 0.5", str(reason))
    value = None if real is None else real.value
    return shuffled_scores_tripwire(scattered, real_score=value, seed=seed)


def _memorised(probe: LinearProbe, traced: Traced, seed: int) -> Tripwire:
    try:
        accuracy = memorisation_check(distinct_rows(traced.hidden[:, probe.layer]), seed=seed)
    except UserError as reason:
        return Tripwire("memorisation", None, None, "training accuracy 1", str(reason))
    return memorisation_tripwire(accuracy)


def distinct_rows(states: np.ndarray) -> np.ndarray:
    """Each state once: runs that think the same words have the same state, and no probe can tell
    them apart."""
    first: dict[bytes, int] = {}
    for i, state in enumerate(states):
        first.setdefault(state.tobytes(), i)
    return states[list(first.values())]


def constant_input(table: RunTable, traced: Traced) -> Tripwire:
    """The canary: all states were read at one token, so a probe on that token must score 0.5.

    Where the input of the first block is the same in every run too, as in a model without learnt
    positions, the probe is given that; else the token's id. It is for correctness, on test.
    """
    name, expected = "constant input", "AUROC 0.5"
    tokens = np.unique(traced.token_ids)
    if traced.position != THINK_END:
        reason = f"does not apply: states were read at {traced.position}, whose token varies"
        return Tripwire(name, None, None, expected, reason)
    if len(tokens) > 1:
        reason = f"states were read at {len(tokens)} different tokens instead of at </think> alone"
        return Tripwire(name, False, None, expected, reason)
    first = traced.hidden[:, 0]
    same = bool((first == first[:1]).all())
    features = first if same else traced.token_ids[:, None].astype(np.float32)
    try:
        probe = fit_probe(
            {THINK_END: features[:, None]}, table.correct, kind="logistic", position=THINK_END,
            layer=0, regularisation=1.0, rows=table.rows("train", table.correct), name="canary",
            target_name=CORRECT,
        )  # fmt: skip
    except UndefinedTarget as reason:
        return Tripwire(name, None, None, expected, str(reason))
    test = table.rows("test", table.correct)
    predicted = predict(probe, features[test])
    score = evaluate_classifier(predicted, table.correct[test], n_boot=1, n_perm=1)["auroc"]
    found = constant_input_tripwire(score)
    read = "the input of the first block" if same else f"the id of the token ({tokens[0]})"
    return replace(found, detail=found.detail or f"a probe on {read}, the same in every run")
