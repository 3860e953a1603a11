"""One decoding step: from logits and a uniform number to a token, and whether rounding matters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

FIRST_CANDIDATES = 128
"""How many of the most likely tokens are looked at first when top-p cuts the rest."""
CELLS_AT_ONCE = 2**22
"""Logits that are worked on at a time: each takes some 40 bytes, and there may be many."""


@dataclass(frozen=True)
class TokenChoice:
    """What one step chose, `[rows]` each."""

    tokens: np.ndarray
    logprobs: np.ndarray
    """Under the untempered distribution over the full vocabulary, in nats."""
    entropies: np.ndarray
    """Of the untempered distribution over the full vocabulary, in nats."""
    ambiguous: np.ndarray
    """Rows where an error of `tolerance` in a probability could have changed the token."""


def tie_tolerance(dtype: Any) -> float:
    """How close to a boundary a choice counts as decided by rounding, for a model's number type.

    Half-precision models round too coarsely for this to be worth its cost: 0 means that batches
    of another shape may, rarely, choose another token.
    """
    import torch

    return 2e-5 if dtype in (torch.float32, torch.float64) else 0.0


def choose_tokens(
    logits: Any,
    uniforms: np.ndarray,
    greedy: np.ndarray,
    *,
    temperature: float,
    top_p: float,
    tolerance: float,
) -> TokenChoice:
    """Choose a token a row from logits `[rows, vocabulary]`.

    Sampling takes the smallest set of most likely tokens whose probability under the tempered
    distribution reaches `top_p`, and in it the token at which the cumulative probability, in
    order of token id, passes the row's uniform number. `greedy` rows take the most likely token.
    Rows do not see each other, and are chosen for in blocks, so that memory is bounded.
    """
    parts = [
        _choose(logits[rows], uniforms[rows], greedy[rows], temperature, top_p, tolerance)
        for rows in row_blocks(*logits.shape)
    ]
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(TokenChoice)]
    return TokenChoice(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def row_blocks(rows: int, vocabulary: int) -> list[slice]:
    """Rows in blocks of about the same size, each of at most `CELLS_AT_ONCE` logits or one row.

    >>> row_blocks(5, CELLS_AT_ONCE // 2)
    [slice(0, 1, None), slice(1, 3, None), slice(3, 5, None)]
    """
    n = max(1, -(-rows // max(1, CELLS_AT_ONCE // vocabulary)))
    return [slice(rows * i // n, rows * (i + 1) // n) for i in range(n)]


def _choose(
    logits: Any,
    uniforms: np.ndarray,
    greedy: np.ndarray,
    temperature: float,
    top_p: float,
    tolerance: float,
) -> TokenChoice:
    import torch

    # MPS has no float64; everywhere else the sums below are then exact enough to be compared.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    tolerance /= min(1.0, temperature)  # a low temperature magnifies what the logits are off by
    log_p = torch.log_softmax(logits.to(exact), dim=-1)
    entropies = torch.special.entr(log_p.exp()).sum(-1)
    p = torch.softmax(logits.to(exact) / temperature, dim=-1)

    values, ids = _nucleus_candidates(p, top_p)
    before = values.cumsum(-1) - values
    kept = before < top_p if top_p < 1 else torch.ones_like(values, dtype=torch.bool)
    kept[:, 0] = True  # also where the logits are NaN: the log-probability tells, not an index
    unsure = torch.zeros_like(kept)
    if top_p < 1:
        unsure = _uncertain_members(values, before, kept, top_p, tolerance)

    if top_p < 1:
        order = torch.where(kept, ids, torch.iinfo(ids.dtype).max).argsort(-1)
        ids, by_id = ids.gather(1, order), torch.where(kept, values, 0).gather(1, order)
    else:
        by_id = values
    cumulative = by_id.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.as_tensor(uniforms, dtype=exact, device=p.device)[:, None] * total
    at = torch.searchsorted(cumulative, target, right=True)
    final = kept.sum(-1, keepdim=True) - 1
    at = torch.minimum(at, final)
    tokens = ids.gather(1, at)[:, 0]
    above = cumulative.gather(1, at)
    below = above - by_id.gather(1, at)
    # Tokens that may enter or leave the nucleus move every boundary by their probability at most.
    margin = tolerance + (values * unsure).sum(-1, keepdim=True)
    moves = unsure.any(-1, keepdim=True)
    close = (above - target < margin) & (moves | (at < final))
    close |= (target - below < margin) & (moves | (at > 0))
    ambiguous = close[:, 0]

    best, best_ids = log_p.topk(2, dim=-1)
    is_greedy = torch.as_tensor(greedy, device=p.device)
    tokens = torch.where(is_greedy, best_ids[:, 0], tokens)
    # Rounding moves logits some ten times as far as it moves cumulative probabilities.
    ambiguous = torch.where(is_greedy, best[:, 0] - best[:, 1] < 10 * tolerance, ambiguous)
    chosen = log_p.gather(1, tokens[:, None])[:, 0]
    return TokenChoice(
        tokens.cpu().numpy(),
        chosen.double().cpu().numpy() if exact == torch.float64 else chosen.cpu().numpy(),
        entropies.cpu().numpy(),
        ambiguous.cpu().numpy() & (tolerance > 0),
    )


def _uncertain_members(values: Any, before: Any, kept: Any, top_p: float, tolerance: float) -> Any:
    """Candidates, most likely first, that rounding could bring into the nucleus or keep out of it.

    Those at which the cumulative probability `before` is all but `top_p`, and those as likely as
    one on the other side of the edge.
    """
    import torch

    edge = (before - top_p).abs() < tolerance
    least_in = torch.where(kept | edge, values, torch.inf).amin(-1, keepdim=True)
    most_out = torch.where(kept & ~edge, 0, values).amax(-1, keepdim=True)
    return (values >= least_in * (1 - tolerance)) & (values <= most_out * (1 + tolerance))


def _nucleus_candidates(p: Any, top_p: float) -> Any:
    """Tokens that can be in the nucleus, most likely first: `(probabilities, ids)`.

    When nothing is cut off, that is all tokens, and their order is that of their ids.
    """
    import torch

    n = p.shape[-1]
    if top_p == 1:
        return p, torch.arange(n, device=p.device).expand_as(p)
    k = min(n, FIRST_CANDIDATES)
    while k < n:
        values, ids = p.topk(k, dim=-1)
        if bool((values[:, :-1].sum(-1) > top_p + 1e-3).all()):
            return values, ids
        k = min(n, 8 * k)
    return p.sort(dim=-1, descending=True, stable=True)
