"""The definition of a sampled token and of a sampled answer, written plainly, without any speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NaiveToken:
    """One token, with the log-probability and entropy of the untempered distribution, in nats."""

    token: int
    logprob: float
    entropy: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one row of logits, in float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def nucleus(p: np.ndarray, top_p: float) -> list[int]:
    """The tokens of the smallest set of most likely ones whose probability reaches `top_p`."""
    kept: list[int] = []
    reached = 0.0
    for token in np.argsort(-p, kind="stable"):
        if reached >= top_p:
            break
        kept.append(int(token))
        reached += p[token]
    return sorted(kept)


def naive_token(
    logits: np.ndarray, uniform: float, *, temperature: float, top_p: float, greedy: bool = False
) -> NaiveToken:
    """The token that one uniform number stands for: the inverse CDF over the nucleus, by id."""
    full = softmax(logits)
    if greedy:
        token = int(full.argmax())
    else:
        p = softmax(logits.astype(np.float64) / temperature)
        kept = nucleus(p, top_p)
        cumulative = np.cumsum(p[kept])
        token = kept[int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))]
    seen = full[full > 0]
    return NaiveToken(token, float(np.log(full[token])), float(-(seen * np.log(seen)).sum()))


def naive_answer(
    lm: Any,
    prompt_ids: tuple[int, ...],
    uniforms: np.ndarray,
    *,
    temperature: float,
    top_p: float,
    greedy: bool = False,
) -> list[NaiveToken]:
    """One answer, a token at a time: each by a forward of the whole sequence alone, uncached."""
    import torch

    tokens: list[NaiveToken] = []
    for uniform in uniforms:
        ids = [*prompt_ids, *(t.token for t in tokens)]
        if len(ids) == lm.context or (tokens and tokens[-1].token in lm.end_ids):
            break
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        tokens.append(
            naive_token(
                logits.numpy(), uniform, temperature=temperature, top_p=top_p, greedy=greedy
            )
        )
    return tokens
