"""Hidden states at named positions, all layers, from one teacher-forced pass over exact token ids.

Entry 0 of a capture is the input of the first decoder block, entry i + 1 the output of block i
(before the final norm). Positions:

    tbg                 the last prompt token, before anything is generated
    answer_last         the last generated token that does not end the sequence
    answer_second_last  the one before it
    answer_mean         the mean over all generated tokens that do not end the sequence
    think_end           the token that closes the thinking

Where an answer is too short to have a position, the nearest earlier token stands in, and the row
is listed in `Capture.stand_ins`.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.models import LanguageModel, decoder_blocks
from helpers.sampling import free_memory, is_out_of_memory

TRACING = threading.RLock()
"""Held by whoever runs a model that may be traced. Visitors of an application share one process,
and a model that one thread traces fails in every other thread that runs it."""


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the answer generated to it, as token ids."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Capture:
    """Hidden states of n sequences."""

    hidden: dict[str, np.ndarray]
    """By position: `[n, layers + 1, width]`, or `[n, asked layers, width]`; float32."""
    token_embedding: np.ndarray
    """The embedding, without positions, of the token at `tbg`: `[n, width]`, float32."""
    stand_ins: dict[str, np.ndarray]
    """By position: `[n]`, True where an earlier token stands in for one that does not exist."""


def capture(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    positions: Sequence[str],
    *,
    deepest_layer: int | None = None,
    layers: Sequence[int] | None = None,
    batch_tokens: int = 16_384,
    progress: Callable[[int], None] | None = None,
) -> Capture:
    """Hidden states of `sequences` at `positions`, through nnsight.

    Batches hold at most `batch_tokens` tokens with padding; only the asked positions are kept.
    Kept are all entries up to `deepest_layer` (default: the last), or those in `layers`, in
    ascending order; the forward stops after the deepest of them. Raises `UserError` when a state
    is not finite, or when `think_end` is asked of a tokenizer without thinking tags.
    """
    depth = lm.n_layers if deepest_layer is None else deepest_layer
    kept = range(depth + 1) if layers is None else sorted(set(layers))
    places = [_places(lm, sequence, positions) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda i: -_size(sequences[i]))
    states = np.empty((len(positions), len(sequences), len(kept), lm.width), dtype=np.float32)
    start, budget = 0, batch_tokens
    while start < len(order):
        rows = order[start : start + max(1, budget // _size(sequences[order[start]]))]
        found = _try_batch(lm, [sequences[i] for i in rows], [places[i] for i in rows], kept)
        if found is None:
            free_memory(lm.device)
            budget = max(1, len(rows) // 2) * _size(sequences[order[start]])
            continue
        states[:, rows] = found
        start += len(rows)
        if progress:
            progress(len(rows))
    _check_finite(lm, states)
    return Capture(
        hidden={name: states[i] for i, name in enumerate(positions)},
        token_embedding=_token_embeddings(lm, [s.prompt_ids[-1] for s in sequences]),
        stand_ins={
            name: np.array([place.stands_in[i] for place in places], dtype=bool)
            for i, name in enumerate(positions)
        },
    )


def token_span(lm: LanguageModel, sequence: TokenSequence, position: str) -> range:
    """The token indices, in prompt and answer together, that a position of a sequence covers."""
    return range(*_places(lm, sequence, (position,)).spans[0])


def think_end_id(tokenizer: Any) -> int | None:
    """The id of `</think>`, or None when the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids("</think>")
    return None if token is None or token == tokenizer.unk_token_id else int(token)


@dataclass(frozen=True)
class _Place:
    """For one sequence: each position's span of token indices, and whether it stands in."""

    spans: tuple[tuple[int, int], ...]
    stands_in: tuple[bool, ...]


def _places(lm: LanguageModel, sequence: TokenSequence, positions: Sequence[str]) -> _Place:
    n_prompt = len(sequence.prompt_ids)
    answer = list(sequence.answer_ids)
    while answer and answer[-1] in lm.end_ids:
        answer.pop()
    last = n_prompt + len(answer) - 1
    spans, stands_in = [], []
    for position in positions:
        if position == "tbg":
            at, missing = n_prompt - 1, False
        elif position == "answer_last":
            at, missing = last, not answer
        elif position == "answer_second_last":
            at, missing = max(n_prompt - 1, last - 1), len(answer) < 2
        elif position == "answer_mean":
            spans.append((n_prompt, last + 1) if answer else (n_prompt - 1, n_prompt))
            stands_in.append(not answer)
            continue
        elif position == "think_end":
            token = think_end_id(lm.tokenizer)
            if token is None:
                raise UserError(
                    f"position think_end: the tokenizer of {lm.identity.name!r} has no </think> "
                    "token; use --positions tbg answer_last"
                )
            missing = token not in answer
            at = last if missing else n_prompt + len(answer) - 1 - answer[::-1].index(token)
        else:
            raise ValueError(f"unknown position {position!r}")
        spans.append((at, at + 1))
        stands_in.append(missing)
    return _Place(tuple(spans), tuple(stands_in))


def _try_batch(
    lm: LanguageModel, sequences: list[TokenSequence], places: list[_Place], layers: Sequence[int]
) -> np.ndarray | None:
    """States of one batch, or None when the memory does not hold it."""
    try:
        return _capture_batch(lm, sequences, places, layers)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(sequences) == 1:
            raise _too_large(lm, sequences[0]) from error
        return None


def _too_large(lm: LanguageModel, sequence: TokenSequence) -> UserError:
    return UserError(
        f"out of memory on {lm.device} with a single sequence of {_size(sequence)} tokens; use a "
        "smaller model or --device cpu"
    )


def _check_finite(lm: LanguageModel, states: np.ndarray) -> None:
    if not np.isfinite(states).all():
        raise UserError(
            f"the model {lm.identity.name!r} has hidden states that are not finite; "
            "try --dtype float32"
        )


def _capture_batch(
    lm: LanguageModel, sequences: list[TokenSequence], places: list[_Place], layers: Sequence[int]
) -> np.ndarray:
    """States of one batch, `[positions, n, layers, width]`; `layers` are in ascending order."""
    import torch

    width = max(_size(s) for s in sequences)
    ids = torch.full((len(sequences), width), lm.pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, s in enumerate(sequences):
        ids[i, : _size(s)] = torch.tensor([*s.prompt_ids, *s.answer_ids])
        mask[i, : _size(s)] = 1
    # Padding is on the right: a causal model never sees it, and positions need no shift.
    spans = torch.tensor([place.spans for place in places], device=lm.device)  # [n, positions, 2]
    states = _traced(lm, ids, mask, layers, lambda states: _span_means(states, spans))
    return states.permute(2, 1, 0, 3).cpu().numpy()


def capture_tokens(
    lm: LanguageModel, sequence: TokenSequence, layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Hidden states of one sequence at every token: layer to `[tokens, width]`, float32.

    The forward stops after the deepest of `layers`; entries are numbered as in a capture. Raises
    `UserError` when a state is not finite or the memory does not hold the sequence.
    """
    import torch

    kept = sorted(set(layers))
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.answer_ids]])
    try:
        found = _traced(lm, ids, torch.ones_like(ids), kept, lambda states: states[0].float())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(lm, sequence) from error
    states = found.cpu().numpy()
    _check_finite(lm, states)
    return dict(zip(kept, states, strict=True))


def _traced(
    lm: LanguageModel, ids: Any, mask: Any, layers: Sequence[int], keep: Callable[[Any], Any]
) -> Any:
    """What `keep` makes of the states `[n, tokens, width]` of each layer, one under the other.

    `ids` and `mask` are `[n, tokens]`; `layers` are in ascending order.
    """
    import torch

    nnsight = import_nnsight()
    path, _ = decoder_blocks(lm.model)
    traced = _wrap(lm)
    blocks = traced.get(path)
    with (
        TRACING,
        torch.no_grad(),
        traced.trace(
            input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False
        ) as tracer,
    ):
        kept = []
        for layer in layers:
            at = blocks[layer - 1].output if layer else blocks[0].input
            kept.append(keep(_hidden(at)))
        states = nnsight.save(torch.stack(kept))
        tracer.stop()
    # Stopping raises inside the forward: until it is collected, the traceback holds the batch.
    gc.collect(1)
    return states


def _hidden(output: Any) -> Any:
    """A block's hidden states: the bare tensor of transformers 5, or the head of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _span_means(states: Any, spans: Any) -> Any:
    """Means of `[n, tokens, width]` over `[n, positions, 2]` spans: `[n, positions, width]`."""
    import torch

    rows = torch.arange(len(states), device=states.device)[:, None]
    at = states[rows, spans[..., 0]].float()
    for i, j in (spans[..., 1] - spans[..., 0] > 1).nonzero().tolist():
        start, end = spans[i, j].tolist()
        at[i, j] = states[i, start:end].float().mean(0)
    return at


def _token_embeddings(lm: LanguageModel, tokens: list[int]) -> np.ndarray:
    import torch

    table = lm.model.get_input_embeddings().weight
    with torch.no_grad():
        return table[torch.tensor(tokens, device=table.device)].float().cpu().numpy()


def import_nnsight() -> Any:
    """Import nnsight without the methods that it otherwise mounts on every Python object.

    nnsight reads `APP: PYMOUNT` from a file named by NNSIGHT_CONFIG when it is imported; the mount
    breaks a marimo that is imported later.
    """
    import sys

    if "nnsight" not in sys.modules and "NNSIGHT_CONFIG" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text("APP:\n  PYMOUNT: false\n")
            os.environ["NNSIGHT_CONFIG"] = str(config)
            try:
                import nnsight
            finally:
                del os.environ["NNSIGHT_CONFIG"]
    import nnsight

    return nnsight


@lru_cache(maxsize=1)
def _wrap(lm: LanguageModel) -> Any:
    return import_nnsight().NNsight(lm.model)


def _size(sequence: TokenSequence) -> int:
    return len(sequence.prompt_ids) + len(sequence.answer_ids)
