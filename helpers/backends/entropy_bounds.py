"""The least entropy that a distribution can have of which only the k most likely tokens are known.

Let the known probabilities sum to S, so that r = 1 − S is left for the tokens that nobody listed,
and let none of these be more likely than c, the smallest of the top k. What they add to the
entropy is the sum of −q·log q over their probabilities q. That sum is concave, and over all q with
0 ≤ q ≤ c and sum r it is least at a corner: as many as possible at c, and what is left at one
more. With n = ⌊r / c⌋ and s = r − n·c,

    H  ≥  −Σ p·log p  −  n·c·log c  −  s·log s

(sum over the known p). With k the whole vocabulary r is 0 and the bound is the entropy. The known
probabilities are never scaled up to sum to 1: that would be the entropy of another distribution,
and may be more than the true one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-6
"""A smaller rest is what rounding leaves of log-probabilities in float32."""


def entropy_lower_bounds(logprobs: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Lower bounds of n entropies, `[n]` in nats, from listed log-probabilities `[n, m]`.

    Missing entries are −inf. `caps` `[n]` is the log-probability that no unlisted token exceeds.
    """
    known = np.minimum(np.exp(logprobs), 1.0)
    rest = np.maximum(1.0 - known.sum(axis=1), 0.0)
    rest[rest < ROUNDING] = 0.0
    cap = np.minimum(np.exp(caps), 1.0)
    whole = np.floor(np.divide(rest, cap, out=np.zeros_like(rest), where=cap > 0))
    left = np.maximum(rest - whole * cap, 0.0)
    return _parts(known).sum(axis=1) + whole * _parts(cap) + _parts(left)


def _parts(p: np.ndarray) -> np.ndarray:
    """−p·log p, and 0 at p = 0."""
    return -p * np.log(p, out=np.zeros_like(p), where=p > 0)


def bounds_of_listed(
    listed: Sequence[Sequence[float]], sampled: Sequence[float], k: int, *, distinct: bool
) -> np.ndarray:
    """Lower bounds `[n]`, nats, from what a server lists for each of n tokens.

    `listed[i]` are the log-probabilities of the top tokens, of which k were asked for, and of the
    sampled token where it is not among them; `sampled[i]` is the sampled token's. A server may
    list fewer than k. `distinct` says that no two tokens can have shared an entry, as two with the
    same text do in a dictionary by text; the one that was lost so may be the most likely of all.
    """
    width = max((len(row) for row in listed), default=0)
    table = np.full((len(listed), width), -np.inf)
    caps = np.empty(len(listed))
    for i, row in enumerate(listed):
        ordered = sorted(row, reverse=True)
        table[i, : len(ordered)] = ordered
        caps[i] = _cap(ordered, sampled[i], k, distinct)
    return entropy_lower_bounds(table, caps)


def _cap(ordered: list[float], sampled: float, k: int, distinct: bool) -> float:
    """What no unlisted token exceeds, given the listed log-probabilities in falling order."""
    if len(ordered) > k:  # the k most likely, and the sampled one below them
        return ordered[k - 1]
    if not distinct:
        return 0.0
    if ordered[-1] > sampled:
        return ordered[-1]
    # A server that lists fewer than k may list the last one only because it was sampled.
    return ordered[-2] if len(ordered) > 1 else 0.0
