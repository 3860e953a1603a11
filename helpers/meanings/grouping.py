"""Groups the answers of many questions by meaning, with the judge that the config names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import answers_equal, final_answer
from helpers.errors import UserError
from helpers.meanings.clustering import cluster_many
from helpers.meanings.judges import (
    CosineJudge,
    Equivalence,
    JudgeCounts,
    NliJudge,
    best_cosine_threshold,
    cosine_judge,
    final_answer_equivalence,
    nli_judge,
)
from helpers.progress import Progress
from helpers.store.cache import Store, content_key


def choose_judge(
    config: RunConfig, store: Store, validation: Sequence[Sequence[str]] | None
) -> tuple[Equivalence, dict, JudgeCounts]:
    """The config's judge: its function, a description that identifies it, and its counters.

    `validation` are the answers to each validation question, by whose final answers the threshold
    of a cosine judge is chosen where the config names none; None where there is no such split.
    """
    if config.judge == "final-answer":
        return final_answer_equivalence, {"judge": "final answer"}, JudgeCounts()
    if config.judge == "cosine":
        judge = cosine_judge(
            config.embedding_model,
            config.cosine_threshold or 0.0,
            device=config.judge_device,
            batch_size=config.judge_batch_size,
            store=store,
        )
        threshold = config.cosine_threshold
        if threshold is None:
            threshold = _threshold_on_validation(judge, validation)
        chosen = type(judge)(**{**judge.__dict__, "threshold": threshold})
        words = f"cosine of {config.embedding_model} >= {threshold:.3f}"
        return (
            chosen.equivalent,
            {"judge": words, "model": judge.identity.model_hash, "threshold": threshold},
            judge.counts,
        )
    nli = nli_judge_of(config, store)
    question = ", with the question" if config.condition_on_question else ""
    description = {
        "judge": f"NLI ({config.judge_model}), {config.entailment}{question}",
        "model": nli.identity.model_hash,
        "tokenizer": nli.identity.tokenizer_hash,
    }
    return nli.equivalent, description, nli.counts


def nli_judge_of(config: RunConfig, store: Store, *, with_question: bool | None = None) -> NliJudge:
    """The config's NLI judge; `with_question` overrides whether the question stands in front."""
    if config.judge_model == "lab" and config.questions not in ("lab", "lab:ood"):
        warnings.warn(
            "the lab's judge knows answers to lab questions only; for others use --judge "
            "final-answer, or --judge-model cross-encoder/nli-deberta-v3-small",
            stacklevel=2,
        )
    return nli_judge(
        config.judge_model,
        rule=config.entailment,
        with_question=config.condition_on_question if with_question is None else with_question,
        device=config.judge_device,
        batch_size=config.judge_batch_size,
        store=store,
    )


def _threshold_on_validation(
    judge: CosineJudge, validation: Sequence[Sequence[str]] | None
) -> float:
    """Chosen so that pairs of validation answers agree best with their final answers."""
    if validation is None:
        raise UserError(
            "--judge cosine needs --cosine-threshold here: there is no validation split"
        )
    pairs, same = [], []
    for texts in validation:
        finals = {text: final_answer(text) for text in texts}
        known = sorted(text for text, final in finals.items() if final is not None)
        for i, a in enumerate(known):
            for b in known[i + 1 :]:
                pairs.append((a, b))
                same.append(answers_equal(finals[a] or "", finals[b] or ""))
    if not pairs:
        raise UserError(
            "the cosine threshold cannot be chosen: no two validation answers state a final "
            "answer; set --cosine-threshold (0.9 is a common value)"
        )
    return best_cosine_threshold(judge.similarities(pairs), np.array(same))


def group_by_meaning(
    texts: Sequence[Sequence[str]],
    contexts: Sequence[str],
    equivalent: Equivalence,
    description: dict,
    store: Store,
    progress: Progress,
    counts: JudgeCounts | None = None,
    chunk: int = 100,
) -> list[tuple[int, ...]]:
    """The meaning of every answer of every question, `[n][K]`; groupings are stored.

    `counts` are the judge's, for whoever follows the progress.
    """
    keys = [
        content_key(stage="meanings", version=1, judge=description, question=context, texts=row)
        for context, row in zip(contexts, texts, strict=True)
    ]
    known = store.get_many(keys)
    missing = [i for i, key in enumerate(keys) if key not in known]
    if missing:
        with progress("Grouping answers by meaning", len(missing), "questions") as stage:
            for start in range(0, len(missing), chunk):
                part = missing[start : start + chunk]
                found = cluster_many(
                    [texts[i] for i in part], equivalent, [contexts[i] for i in part]
                )
                fresh = {keys[i]: list(ids) for i, ids in zip(part, found, strict=True)}
                store.put_many(fresh)
                known |= fresh
                stage.advance(len(part), work=asdict(counts) if counts else None)
    return [tuple(known[key]) for key in keys]
