"""Semantic entropy of generations that someone already has, without any language model.

sep entropy --samples FILE.jsonl [--judge final-answer|nli|cosine]
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import Grade, answer_key, grade
from helpers.data.questions import Generation, load_generations
from helpers.evaluation.scores import Score, correlation, evaluate_classifier
from helpers.meanings.judges import choose_judge, group_by_meaning, judge_all_pairs, nli_judge_of
from helpers.progress import Progress, terminal_progress
from helpers.store.cache import Store, content_key
from helpers.store.files import file_hash, write_bytes, write_json
from helpers.store.run_folder import package_versions, write_manifest, write_parquet
from helpers.uncertainty.entropies import Answers
from helpers.uncertainty.estimators import ESTIMATORS, missing_needs, score_question
from helpers.views.html import reasons, score_cell


@dataclass(frozen=True)
class ScoredSamples:
    """Generations, what they mean, how uncertain they are, and how well that tells errors."""

    generations: tuple[Generation, ...]
    clusters: tuple[tuple[int, ...], ...]
    judge: str
    grades: tuple[tuple[Grade, ...] | None, ...]
    uncertainty: dict[str, np.ndarray]
    """Estimator to `[n]`; NaN where its needs are missing."""
    skipped: dict[str, str]
    """Estimator to why it is missing, where it is missing for every question."""
    scores: dict[str, dict[str, Score]]
    """Estimator to AUROC for a wrong first and a wrong majority answer, and Spearman."""


def score_samples(
    generations: Sequence[Generation], config: RunConfig, store: Store, progress: Progress
) -> ScoredSamples:
    """Group the answers by meaning, apply every estimator that has what it needs, and grade."""
    equivalent, description, _ = choose_judge(config, store, None)
    texts = [g.samples for g in generations]
    clusters = group_by_meaning(
        texts, [g.question for g in generations], equivalent, description, store, progress
    )
    judged = judged_samples(generations, config, store, progress)
    answers = [
        _answers(g, ids, judgements)
        for g, ids, judgements in zip(generations, clusters, judged, strict=True)
    ]
    rows = [score_question(a) for a in answers]
    uncertainty = {name: np.array([row[name] for row in rows], dtype=float) for name in ESTIMATORS}
    skipped = {
        name: reason
        for name, reason in missing_needs(answers[0]).items()
        if np.isnan(uncertainty[name]).all()
    }
    grades = tuple(
        None
        if g.final_answer is None
        else tuple(grade(text, "stop", g.final_answer) for text in g.samples)
        for g in generations
    )
    scores = {
        name: _error_scores(values, grades, config)
        for name, values in uncertainty.items()
        if not np.isnan(values).all()
    }
    return ScoredSamples(
        tuple(generations), tuple(clusters), description["judge"], grades, uncertainty, skipped,
        scores,
    )  # fmt: skip


def judged_samples(
    generations: Sequence[Generation], config: RunConfig, store: Store, progress: Progress
) -> list[np.ndarray | None]:
    """An NLI judge's probabilities for each generation's samples, `[K, K, 3]`, else None."""
    found: list[np.ndarray | None] = [None] * len(generations)
    if config.judge != "nli":
        return found
    judge = nli_judge_of(config, store)
    sizes = np.array([len(g.samples) for g in generations])
    for size in np.unique(sizes):  # K may differ from question to question
        rows = np.flatnonzero(sizes == size).tolist()
        texts = [generations[i].samples for i in rows]
        contexts = [generations[i].question for i in rows]
        for i, values in zip(rows, judge_all_pairs(judge, texts, contexts, progress), strict=True):
            found[i] = values
    return found


def _answers(
    generation: Generation, clusters: tuple[int, ...], judgements: np.ndarray | None
) -> Answers:
    tokens = generation.token_logprobs
    if tokens and not all(tokens):
        tokens = None  # an answer without tokens has no mean
    return Answers(
        texts=generation.samples,
        clusters=clusters,
        judgements=judgements,
        sum_logprobs=generation.logprobs,
        mean_logprobs=None if tokens is None else tuple(float(np.mean(t)) for t in tokens),
    )


def majority_correct(grades: Sequence[Grade]) -> bool | None:
    """Whether the most frequent final answer is right (the first of equals); None if none is."""
    votes: dict[str, list[bool]] = {}
    for g in grades:
        if g.final_answer is not None and g.correct is not None:
            votes.setdefault(answer_key(g.final_answer), []).append(g.correct)
    return max(votes.values(), key=len)[0] if votes else None


def _error_scores(
    values: np.ndarray, grades: Sequence[tuple[Grade, ...] | None], config: RunConfig
) -> dict[str, Score]:
    """How well an estimator tells wrong answers: AUROC and Spearman, over gradable questions."""
    options: Any = {
        "n_boot": config.n_bootstrap, "n_perm": config.n_permutations, "seed": config.seed,
    }  # fmt: skip

    def auroc(right: Sequence[bool | None]) -> Score:
        rows = [i for i, r in enumerate(right) if r is not None and not np.isnan(values[i])]
        labels = np.array([float(not right[i]) for i in rows])
        return evaluate_classifier(values[rows], labels, positive="wrong", **options)["auroc"]

    first = [g[0].correct if g else None for g in grades]
    majority = [majority_correct(g) if g else None for g in grades]
    shares = [_share_wrong(g) for g in grades]
    rows = [i for i, s in enumerate(shares) if s is not None and not np.isnan(values[i])]
    return {
        "wrong_first_answer": auroc(first),
        "wrong_majority_answer": auroc(majority),
        "spearman_with_share_wrong": correlation(
            values[rows], np.array([shares[i] for i in rows], dtype=float), **options
        ),
    }


def _share_wrong(grades: Sequence[Grade] | None) -> float | None:
    known = [g.correct for g in grades or () if g.correct is not None]
    return 1 - sum(known) / len(known) if known else None


def run_on_samples(path: Path, config: RunConfig) -> str:
    """Score a JSONL file of generations, write a run folder, and return the table as text."""
    generations = load_generations(path)
    store = Store(config.cache_dir)
    try:
        scored = score_samples(generations, config, store, terminal_progress())
    finally:
        store.close()
    digest = content_key(file=file_hash(path), config=config.results_fields())[:8]
    folder = config.out / f"{path.stem}-{digest}"
    _write(folder, scored, config, path)
    return f"{describe(scored)}\n\nrun folder: {folder}"


def _write(folder: Path, scored: ScoredSamples, config: RunConfig, path: Path) -> None:
    rows = scored.generations
    write_parquet(
        folder / "questions_scored.parquet",
        {
            "question_id": [g.id for g in rows],
            "question": [g.question for g in rows],
            "k": [len(g.samples) for g in rows],
            "clusters": [list(ids) for ids in scored.clusters],
            "share_wrong": [_share_wrong(g) for g in scored.grades],
            "majority_correct": [majority_correct(g) if g else None for g in scored.grades],
            **{
                name: [None if np.isnan(v) else float(v) for v in values]
                for name, values in scored.uncertainty.items()
            },
        },
    )
    lines = (
        {"id": g.id, **{n: v[i] for n, v in scored.uncertainty.items() if not np.isnan(v[i])}}
        for i, g in enumerate(rows)
    )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_bytes(folder / "entropies.jsonl", text.encode())
    scores = {
        estimator: {name: score.as_dict() for name, score in row.items()}
        for estimator, row in scored.scores.items()
    }
    write_json(folder / "metrics.json", {"scores": scores, "skipped": scored.skipped})
    write_manifest(
        folder,
        {
            "run": folder.name,
            "samples_file": {"name": path.name, "sha256": file_hash(path)},
            "judge": scored.judge,
            "seed": config.seed,
            "versions": package_versions(),
            "stages_done": ["meanings"],
        },
    )


def describe(scored: ScoredSamples) -> str:
    """The result as a text table."""
    n = len(scored.generations)
    samples = sum(len(g.samples) for g in scored.generations)
    grades = [g for row in scored.grades if row for g in row]
    known = [g.correct for g in grades if g.correct is not None]
    majority = [m for row in scored.grades if row and (m := majority_correct(row)) is not None]
    entropy = scored.uncertainty["semantic_entropy"]
    lines = [
        f"{n} questions, {samples:,} samples; meanings by {scored.judge}",
        f"  semantic entropy: median {np.median(entropy):.2f} nats "
        f"({entropy.min():.2f} to {entropy.max():.2f}); zero for {int((entropy == 0).sum())}",
    ]
    if known:
        lines.append(
            f"  accuracy: {np.mean(known):.3f} by sample (n = {len(known):,}), "
            f"{np.mean(majority):.3f} by majority (n = {len(majority)}); "
            f"{len(grades) - len(known)} samples unanswered"
        )
        lines.append(
            f"\n  {'how well it tells errors':<39}{'wrong first answer':<25}"
            f"{'wrong majority answer':<25}{'Spearman, share wrong'}"
        )
        for name, row in scored.scores.items():
            cells = "".join(f"{score_cell(s):<25}" for s in row.values())
            lines.append(f"  {ESTIMATORS[name].title:<39}{cells}".rstrip())
        shown = (s for row in scored.scores.values() for s in row.values())
        lines += [f"  note: {reason}" for reason in reasons(shown)]
    elif grades:
        lines.append(f"  none of {len(grades):,} samples states an answer: errors cannot be told")
    else:
        lines.append("  no reference answers in the file, so errors cannot be told")
    by_reason: dict[str, list[str]] = {}
    for name, reason in scored.skipped.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        text = f"skipped, {reason}: {', '.join(names)}"
        lines += textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)
