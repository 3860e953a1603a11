"""A made-up table of reasoning runs whose hidden states hold planted signals of known strength."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.evaluation.scores import best_split_threshold
from helpers.studies.reasoning.records import RunTable, Traced

LAYERS, WIDTH = 5, 24
CORRECT_LAYER, ENTROPY_LAYER = 2, 3
"""Where the two directions stand; the other layers hold noise."""


def planted_study(
    questions: int = 120,
    runs: int = 8,
    *,
    seed: int = 0,
    signal: float = 1.5,
    ood: float = 0.25,
    layers: int = LAYERS,
    width: int = WIDTH,
    noise_between: float = 0.0,
) -> tuple[RunTable, Traced]:
    """Runs of questions of which half train, a fifth validate, the rest test, and some are ood.

    A harder question is answered wrong more often and in more ways. At layer 2 one direction
    holds a run's correctness plus normal noise, the classes `signal` apart; at layer 3 another
    holds high semantic entropy; `noise_between` is noise that a question's runs share. Mean token
    entropy is a little higher where a run is wrong.
    """
    rng = np.random.default_rng(seed)
    n_ood = round(questions * ood)
    split = np.resize(np.repeat(["train", "validation", "test"], [5, 2, 3]), questions)
    split[questions - n_ood :] = "ood"
    hard = rng.normal(size=questions)
    owner = np.repeat(np.arange(questions), runs)
    n = len(owner)
    correct = (rng.normal(size=n) - hard[owner] > 0) * 1.0
    entropy = np.round(2 / (1 + np.exp(-2 * hard)) + 0.1 * rng.random(questions), 2)
    hidden = rng.normal(size=(n, layers, width)).astype(np.float32)
    hidden[:, 0] = rng.normal(size=width)  # the embedding of the one token
    train = entropy[split == "train"]
    threshold, median = best_split_threshold(train), float(np.median(train))
    high = (entropy > threshold) * 1.0
    shared = noise_between * rng.normal(size=questions)[owner]
    hidden[:, CORRECT_LAYER, 4] += signal * correct + shared
    hidden[:, ENTROPY_LAYER, 7] += signal * high[owner]
    share = np.bincount(owner, correct) / runs
    table = RunTable(
        question_id=np.array([f"q{i}" for i in owner]),
        run_id=np.tile(np.arange(runs), questions),
        dataset=np.where(split == "ood", "made-up:ood", "made-up")[owner],
        split=split[owner],
        correct=correct,
        semantic_entropy=entropy[owner],
        semantic_entropy_other=entropy[owner],
        high=high[owner],
        high_median=(entropy[owner] > median) * 1.0,
        thinking_entropy=0.5 - 0.1 * correct + 0.2 * rng.random(n),
        thinking_tokens=np.round(60 + 10 * hard[owner] + 5 * rng.normal(size=n)).astype(int),
        answer_tokens=np.full(n, 5),
        agreement=np.clip(share[owner] * correct + 0.1 * rng.random(n), 0, 1),
        threshold=threshold,
        threshold_median=median,
    )
    return table, Traced("think_end", "", hidden, np.full(n, 151668))


def changed(table: RunTable, **columns: Any) -> RunTable:
    """The table with other columns."""
    return RunTable(**{**vars(table), **columns})
