"""Entropies of tokens that were generated elsewhere, from one forward of the same model.

An endpoint gives no log-probabilities, or those of its top k only. One teacher-forced forward over
prompt and answer has the whole distribution at every token, as sampling itself would have seen
it. The output layer is applied to blocks of tokens, so that tokens × vocabulary (20,000 × 152,000
numbers are 12 GB) never exists at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.forwards import TRACING, pad_right, run_in_batches, states_before_head
from helpers.models import LanguageModel
from helpers.positions import TokenSequence

BLOCK_ROWS = 256
"""Tokens to which the output layer is applied at a time. Each takes 8 bytes a word of the
vocabulary (0.3 GB for 152,000 words), and a GPU reads the layer's weights once a block."""


@dataclass(frozen=True, eq=False)
class ForcedTokens:
    """What a model thinks of each generated token of a sequence, `[tokens]`, float32."""

    entropies: np.ndarray
    """Of the untempered distribution over the full vocabulary, in nats."""
    logprobs: np.ndarray
    """Log-probability of the token under it, in nats."""


def token_entropies(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    *,
    batch_tokens: int = 16_384,
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> list[ForcedTokens]:
    """Entropy and log-probability of every token of each sequence's answer.

    The end token is one of them where the answer has it. `progress(sequences, tokens)` follows
    each batch. Raises `UserError` when a logit is not finite, when the memory does not hold one
    sequence alone, or when the model does something to its logits that is not known here.
    """
    finish = _finisher(lm)
    found: dict[int, ForcedTokens] = {}

    def read(rows: list[int]) -> None:
        batch = [sequences[i] for i in rows]
        found.update(zip(rows, _read_batch(lm, batch, block_rows, finish), strict=True))

    run_in_batches(lm, sequences, batch_tokens, read, progress)
    return [found[i] for i in range(len(sequences))]


def _read_batch(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    block_rows: int,
    finish: Callable[[Any], Any],
) -> list[ForcedTokens]:
    import torch

    lengths = [len(s.answer_ids) for s in sequences]
    row = np.repeat(np.arange(len(sequences)), lengths)
    # A token's distribution is read at the token before it.
    at = np.concatenate([np.arange(len(s.prompt_ids), len(s)) for s in sequences]) - 1
    answers = [token for s in sequences for token in s.answer_ids]
    where = torch.from_numpy(row).to(lm.device), torch.from_numpy(at).to(lm.device)
    states = states_before_head(lm, pad_right(lm, sequences), lambda states: states[where])
    tokens = torch.tensor(answers, dtype=torch.long, device=lm.device)
    entropies = torch.empty(len(tokens), device=lm.device)
    logprobs = torch.empty_like(entropies)
    head = lm.model.get_output_embeddings()
    with TRACING, torch.no_grad():
        for start in range(0, len(tokens), block_rows):
            rows = slice(start, start + block_rows)
            log_p = torch.log_softmax(finish(head(states[rows])).float(), dim=-1)
            logprobs[rows] = log_p.gather(1, tokens[rows, None])[:, 0]
            entropies[rows] = torch.special.entr(log_p.exp_()).sum(-1)
            del log_p  # not to be there beside the next block's
    if not bool(entropies.isfinite().all()):
        raise UserError(
            f"the model {lm.identity.name!r} produced logits that are not finite; "
            "try --dtype float32"
        )
    ends = np.cumsum(lengths)[:-1]
    parts = (np.split(values.cpu().numpy(), ends) for values in (entropies, logprobs))
    return [ForcedTokens(*pair) for pair in zip(*parts, strict=True)]


def _finisher(lm: LanguageModel) -> Callable[[Any], Any]:
    """What the model does to the output layer's result before it calls it logits.

    Most models do nothing, Gemma-2 caps them softly. A forward of one token tells whether what is
    done here is what the model does; it raises `UserError` where it is not.
    """
    import torch

    cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)

    def finish(logits: Any) -> Any:
        return cap * torch.tanh(logits / cap) if cap else logits

    raw: list[Any] = []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, given, out: raw.append(out.clone()))
    try:
        with TRACING, torch.no_grad():
            one = torch.full((1, 1), lm.pad_id, device=lm.device)
            logits = lm.model(input_ids=one, use_cache=False).logits
            same = torch.allclose(finish(raw[0]).float(), logits.float(), rtol=1e-3, atol=1e-3)
    finally:
        hook.remove()
    if not same:
        raise UserError(
            f"{type(lm.model).__name__} changes the result of its output layer in a way that is "
            "not known here, so entropies cannot be read from a forward; generate with "
            "--backend hf, which needs no such forward"
        )
    return finish
