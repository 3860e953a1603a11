"""Trains the lab's judge from nothing: a DeBERTa-v2 that says whether one answer entails another.

    uv run sep lab train --only judge

Its pairs are answers to lab problems: a paraphrase entails, another number or unit contradicts,
and an answer to some other problem is neutral.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from helpers.clustering import PairQuery
from helpers.lab.language_model import TrainingLog, fast_bfloat16
from helpers.lab.problems import Problem, phrase, problems
from helpers.lab.tokenizers import judge_tokenizer

LABELS = ("contradiction", "entailment", "neutral")
KINDS = ("paraphrase", "changed number", "changed unit", "unrelated")
KIND_SHARES = (0.45, 0.35, 0.1, 0.1)
QUESTION_EVERY = 8
"""One training batch in so many, a quarter as large, has the question in front of both sides."""


@dataclass(frozen=True)
class Stage:
    """A stage of the curriculum. Without it the judge never learns to compare numbers."""

    until: float
    """The share of all steps at which it ends."""
    largest: int
    """The largest number in an answer."""
    freest: int
    """How freely an answer is worded: 0 terse, 1 a sentence, 2 free."""


CURRICULUM = (
    Stage(0.08, largest=9, freest=0),
    Stage(0.14, largest=99, freest=0),
    Stage(0.25, largest=9999, freest=0),
    Stage(0.40, largest=9999, freest=1),
    Stage(1.00, largest=9999, freest=2),
)
FULL = CURRICULUM[-1]


@dataclass(frozen=True)
class AnswerPair:
    """Two answers and how they relate."""

    question: str
    premise: str
    hypothesis: str
    kind: str
    """One of `KINDS`."""
    label: int
    """Index into `LABELS`."""


def answer_pair(
    rng: np.random.Generator, problem: Problem, other: Problem, stage: Stage = FULL
) -> AnswerPair:
    """A random pair around the answer of `problem`; `other` lends its words where needed."""
    kind = KINDS[int(rng.choice(len(KINDS), p=KIND_SHARES))]
    if kind == "unrelated" and other.unit == problem.unit:
        kind = "changed number"
    number, unit, name = _number(rng, problem, stage), problem.unit, problem.name
    first = phrase(rng, int(rng.integers(stage.freest + 1)), number, unit, name)
    label = LABELS.index("contradiction")
    if kind == "paraphrase":
        label = LABELS.index("entailment")
    elif kind == "changed number":
        number = changed_number(rng, number, stage.largest)
    elif kind == "changed unit":
        unit = other.unit if other.unit != unit else f"other {unit}"
    else:
        label = LABELS.index("neutral")
        number, unit, name = changed_number(rng, number, stage.largest), other.unit, other.name
    second = phrase(rng, int(rng.integers(stage.freest + 1)), number, unit, name)
    return AnswerPair(problem.question, first, second, kind, label)


def changed_number(rng: np.random.Generator, number: int, largest: int = 9999) -> int:
    """Another positive number: near, with one digit changed or added, reversed, or any."""
    digits = list(str(number))
    position = int(rng.integers(len(digits)))
    options = [
        number + int(rng.integers(1, 5)),
        number - int(rng.integers(1, 5)),
        int("".join([*digits[:position], str(rng.integers(10)), *digits[position + 1 :]])),
        int("".join([*digits[:position], str(rng.integers(10)), *digits[position:]])),
        int("".join(digits[::-1])),
        int(rng.integers(2, min(largest, 400) + 1)),
    ]
    changed = options[int(rng.integers(len(options)))]
    good = changed != number and 0 < changed <= largest
    return changed if good else changed_number(rng, number, largest)


def answer_pairs(seed: int, *, pool: str, stage: Stage = FULL) -> Iterator[AnswerPair]:
    """Endless pairs from the problems of a pool ("training", "questions" or "unseen")."""
    rng, stream = np.random.default_rng([seed, 2]), problems(seed, pool=pool)
    while True:
        yield answer_pair(rng, next(stream), next(stream), stage)


def train_judge(
    folder: Path,
    *,
    steps: int = 2500,
    batch_size: int = 128,
    seed: int = 0,
    learning_rate: float = 1e-3,
    report: Callable[[str], None] = print,
) -> TrainingLog:
    """Train from nothing and write a Hugging Face folder; returns the log of losses."""
    import torch
    from transformers import DebertaV2ForSequenceClassification

    torch.manual_seed(seed)
    pairs = answer_pairs(seed, pool="training")
    corpus = (f"{p.question} {p.premise} {p.hypothesis}" for p in islice(pairs, 20_000))
    rng, stream = np.random.default_rng([seed, 3]), problems(seed + 1, pool="training")
    tokenizer = judge_tokenizer(corpus)
    model = DebertaV2ForSequenceClassification(judge_config(len(tokenizer))).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )
    warmup = min(200, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)) + 0.01),
    )
    started, losses, tokens, running = time.monotonic(), [], 0, 0.0
    log_every = max(1, min(50, steps // 10))
    for step in range(steps):
        stage = next(s for s in CURRICULUM if step < s.until * steps)
        with_question = stage is FULL and step % QUESTION_EVERY == 0
        batch = [
            answer_pair(rng, next(stream), next(stream), stage)
            for _ in range(batch_size // 4 if with_question else batch_size)
        ]
        inputs = _encode(tokenizer, batch, with_question)
        labels = torch.tensor([pair.label for pair in batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += int(inputs["attention_mask"].sum())
        running += loss.item()
        if (step + 1) % log_every == 0:
            losses.append(running / log_every)
            running = 0.0
            elapsed = time.monotonic() - started
            report(
                f"judge: step {step + 1}/{steps}, loss {losses[-1]:.3f} nats a pair, "
                f"{elapsed:.0f} s, {elapsed / (step + 1) * (steps - step - 1):.0f} s left"
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TrainingLog(tuple(losses), tokens, time.monotonic() - started)


def judge_config(vocabulary: int) -> Any:
    """The `DebertaV2Config` of the lab's judge."""
    from transformers import DebertaV2Config

    shape: Any = {
        "position_buckets": 64,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    }
    return DebertaV2Config(
        **shape,
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=512,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_biased_input=False,
        type_vocab_size=2,
        initializer_range=0.08,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )


def _number(rng: np.random.Generator, problem: Problem, stage: Stage) -> int:
    """Mostly the problem's own number, otherwise one of any size up to the stage's largest."""
    if problem.final <= stage.largest and rng.random() < 0.6:
        return problem.final
    return int(2 * (stage.largest / 2) ** rng.random())


def _encode(tokenizer: Any, batch: list[AnswerPair], with_question: bool) -> Any:
    before = [f"{pair.question} " if with_question else "" for pair in batch]
    return tokenizer(
        [text + pair.premise for text, pair in zip(before, batch, strict=True)],
        [text + pair.hypothesis for text, pair in zip(before, batch, strict=True)],
        padding=True,
        return_tensors="pt",
    )


def agreement_with_answers(
    equivalent: Callable[[list[PairQuery]], list[bool]], n: int, seed: int, *, pool: str
) -> dict[str, float]:
    """Share of n held-out pairs, by kind, on which a judge agrees with the exact answers."""
    pairs = list(islice(answer_pairs(seed, pool=pool), n))
    verdicts = equivalent([PairQuery(p.question, p.premise, p.hypothesis) for p in pairs])
    right = [v == (p.kind == "paraphrase") for v, p in zip(verdicts, pairs, strict=True)]
    shares = {
        kind: float(np.mean([r for r, p in zip(right, pairs, strict=True) if p.kind == kind]))
        for kind in KINDS
    }
    return {"all": float(np.mean(right)), **shares}
