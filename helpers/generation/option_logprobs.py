"""Log-probabilities of given options after prompts that begin alike, the beginning computed once.

Prompts are compared as token ids, each encoded whole: encoding beginning and rest apart could
split the text at the seam into other tokens than the model would meet.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.generation.sampling import row_blocks
from helpers.models.loading import LanguageModel, free_memory, unless_out_of_memory


@dataclass
class PromptCounts:
    """How much work prompts took."""

    prompts: int = 0
    forwards: int = 0
    tokens_computed: int = 0  # tokens that went through the model, padding included
    tokens_naive: int = 0  # tokens of all prompts: what one forward a prompt would compute


def common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many token ids all sequences begin with.

    >>> common_length([(5, 6, 7), (5, 6), (5, 6, 8)])
    2
    """
    first, last = min(sequences), max(sequences)  # what these two share, all between them do
    pairs = enumerate(zip(first, last, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))


def option_log_probs(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    options: Sequence[tuple[int, ...]],
    counts: PromptCounts,
) -> np.ndarray:
    """Log-probability of each option's tokens, one after the other, after each prompt.

    `[n, options]`, in nats. A prompt and its option have to fit into the context together. Raises
    as `next_log_probs`, which all that options begin with are asked of together.
    """
    begun = list(dict.fromkeys(o[:i] for o in options for i in range(len(o))))
    tokens = list(dict.fromkeys(token for option in options for token in option))
    asked = [(*prompt, *beginning) for prompt in prompts for beginning in begun]
    found = next_log_probs(lm, asked, tokens, counts).reshape(len(prompts), len(begun), len(tokens))
    steps = [
        [found[:, begun.index(o[:i]), tokens.index(o[i])] for i in range(len(o))] for o in options
    ]
    return np.stack([np.sum(each, axis=0) for each in steps], axis=1)


def next_log_probs(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    tokens: Sequence[int],
    counts: PromptCounts,
    *,
    batch_tokens: int = 16_384,
) -> np.ndarray:
    """Log-probability of each of `tokens` as the next one of each prompt, `[n, tokens]`, in nats.

    The longest common prefix of all prompts is computed once, and each prompt's rest against its
    keys and values, in batches of at most `batch_tokens` tokens with prefix and padding. `counts`
    is added to. Raises `UserError` when a log-probability is not finite, or one prompt alone
    exhausts the memory.
    """
    if not prompts:
        return np.empty((0, len(tokens)))
    # One token at least is left to each prompt: its logits are what is asked for.
    shared = min(common_length(prompts), min(map(len, prompts)) - 1)
    prefix = prompts[0][:shared]

    def too_large(longest: int) -> UserError:
        return UserError(
            f"out of memory on {lm.device} with a single prompt of {longest} tokens; use a "
            "smaller model or --device cpu"
        )

    cache = unless_out_of_memory(partial(_read, lm, prefix), too_large(shared))
    counts.prompts += len(prompts)
    counts.forwards += bool(shared)
    counts.tokens_computed += shared
    counts.tokens_naive += sum(map(len, prompts))
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    found = np.empty((len(prompts), len(tokens)))
    start, budget = 0, batch_tokens
    while start < len(order):
        longest = len(prompts[order[start]])
        rows = order[start : start + max(1, budget // longest)]
        rests = [prompts[i][shared:] for i in rows]
        read = partial(_read_rests, lm, cache, shared, rests, tokens)
        part = unless_out_of_memory(read, too_large(longest) if len(rows) == 1 else None)
        if part is None:
            free_memory(lm.device)
            budget = len(rows) // 2 * longest
            continue
        found[rows] = part
        start += len(rows)
        counts.forwards += 1
        counts.tokens_computed += len(rows) * (longest - shared)
    if not np.isfinite(found).all():
        raise UserError(f"the model {lm.identity.name!r} produced NaN logits; try --dtype float32")
    return found


def _read(lm: LanguageModel, prefix: tuple[int, ...]) -> Any:
    """Keys and values of the common prefix, one row; None when there is none."""
    import torch

    if not prefix:
        return None
    with torch.inference_mode():
        ids = torch.tensor([prefix], device=lm.device)
        return lm.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


def _read_rests(
    lm: LanguageModel,
    cache: Any,
    shared: int,
    rests: Sequence[tuple[int, ...]],
    tokens: Sequence[int],
) -> np.ndarray:
    """Log-probabilities of `tokens` after each rest, `[rows, tokens]`; the cache stays as it is."""
    import torch

    lengths = torch.tensor([len(rest) for rest in rests])
    width = int(lengths.max())
    ids = torch.full((len(rests), width), lm.pad_id)
    for i, rest in enumerate(rests):
        ids[i, : len(rest)] = torch.tensor(rest)
    # Padding is on the right, where nothing sees it: between prefix and rest it would move apart
    # what a sliding window measures, and the positions that a model has learned.
    mask = (torch.arange(shared + width) < shared + lengths[:, None]).long()
    positions = torch.arange(shared, shared + width).expand(len(rests), width)
    with torch.inference_mode(), _only_at(lm.model, lengths - 1):
        cache = _for_each_row(cache, len(rests), lm.device)
        logits = lm.model(
            input_ids=ids.to(lm.device),
            attention_mask=mask.to(lm.device),
            position_ids=positions.to(lm.device),
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits
        if logits.shape[1] > 1:  # the model has no head of its own to be told what is wanted
            logits = logits[torch.arange(len(rests)), lengths - 1][:, None]
        # MPS has no float64.
        exact = torch.float32 if lm.device.startswith("mps") else torch.float64
        parts = [
            logits[rows, 0].to(exact).log_softmax(-1)[:, list(tokens)].cpu()
            for rows in row_blocks(len(rests), logits.shape[-1])
        ]
        return torch.cat(parts).numpy()


def _only_at(model: Any, ends: Any) -> Any:
    """Within this context the model makes the logits of one place of each row, `[rows, 1, …]`.

    `logits_to_keep` names places that all rows share, and the logits of every different length
    would fill the memory. What comes after the head (a scale, a soft cap) the model does itself.
    """
    import torch

    def pick(head: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        at = ends.to(given[0].device)
        return (given[0][torch.arange(len(ends), device=at.device), at][:, None], *given[1:])

    head = model.get_output_embeddings()
    return nullcontext() if head is None else head.register_forward_pre_hook(pick)


def _for_each_row(cache: Any, rows: int, device: str) -> Any:
    """The prefix's keys and values once for each row; the given ones stay as they are."""
    import torch

    if cache is None:
        return None
    first = torch.zeros(rows, dtype=torch.long, device=device)
    own = copy.copy(cache)
    own.layers = []
    for layer in cache.layers:  # one at a time: a copy of all would hold the prefix twice
        own.layers.append(copy.deepcopy(layer))
        own.layers[-1].batch_select_indices(first)
    return own
