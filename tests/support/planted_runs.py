"""Stored runs whose hidden states hold planted signals, written where a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.questions import Question
from helpers.evaluation.scores import best_split_threshold
from helpers.generation.samples import SampledAnswers
from helpers.probes.training import Targets
from helpers.store.files import write_arrays
from helpers.studies.semantic_entropy.labels import Meanings
from helpers.studies.semantic_entropy.run_files import StoredRun

HASHES = {"model_hash": "m1", "tokenizer_hash": "t1"}


def stored(
    folder: Path,
    hidden: dict[str, np.ndarray],
    entropy: np.ndarray,
    wrong: np.ndarray,
    *,
    words: str = "question",
    hashes: dict[str, str] = HASHES,
) -> StoredRun:
    """A run of hidden states `[n, layers, width]`, entropies `[n]` and wrong `[n]`, NaN ungraded.

    Its splits take turns: of ten questions five train, two validate, three test.
    """
    n = len(entropy)
    splits = np.resize(np.repeat(["train", "validation", "test"], [5, 2, 3]), n)
    questions = tuple(
        Question(f"q{i}", f"{words} {i}", "", None, str(splits[i]), "planted") for i in range(n)
    )
    for name, states in hidden.items():
        path = folder / "hidden" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            "hidden": states.astype(np.float32),
            "stand_in": np.zeros(n, dtype=bool),
            "token_id": np.zeros(n, dtype=np.int64),
            "token_embedding": np.zeros((n, states.shape[-1]), dtype=np.float32),
        }
        write_arrays(path, arrays, {"rows": json.dumps([q.id for q in questions]), **hashes})
    threshold = best_split_threshold(entropy[splits == "train"])
    high = np.full(n, np.nan) if threshold is None else (entropy > threshold) * 1.0
    manifest: dict[str, Any] = {"config": {"positions": list(hidden)}, "hashes": dict(hashes)}
    return StoredRun(
        folder=folder,
        manifest=manifest,
        answers=SampledAnswers(questions, (), (), (), 0),
        meanings=Meanings((), (), (), "planted"),
        uncertainty={"semantic_entropy": entropy},
        targets=Targets(entropy, threshold, high, wrong, splits),
        predicted={},
        judgements=None,
    )


def planted(
    folder: Path, n: int = 160, *, seed: int = 0, layers: int = 3, width: int = 10, **options: Any
) -> StoredRun:
    """Entropy stands in one direction of layer 1 at tbg, wrongness in that and another."""
    rng = np.random.default_rng(seed)
    hidden = {name: rng.normal(size=(n, layers, width)) for name in ("tbg", "answer_last")}
    signal = hidden["tbg"][:, 1, 2] + 0.5 * rng.normal(size=n)
    entropy = np.round(2.3 / (1 + np.exp(-1.5 * signal)), 1)
    wrong = (signal + hidden["tbg"][:, 1, 4] + 0.7 * rng.normal(size=n) > 0.3).astype(float)
    return stored(folder, hidden, entropy, wrong, **options)
