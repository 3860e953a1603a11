"""Hidden states at named positions, all layers, from one teacher-forced pass over exact token ids.

Entry 0 of a capture is the input of the first decoder block, entry i + 1 the output of block i
(before the final norm). The positions are defined in `helpers.positions`; where an answer is too
short to have one, the nearest earlier token stands in, and the row is listed in
`Capture.stand_ins`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.errors import UserError

# These belong to this module's face; they live in modules of their own for its length.
from helpers.forwards import TRACING as TRACING
from helpers.forwards import Backend, pad_right, read_layers, run_in_batches, too_large
from helpers.forwards import import_nnsight as import_nnsight
from helpers.models import LanguageModel
from helpers.positions import Places, TokenSequence, find_places
from helpers.positions import think_end_id as think_end_id
from helpers.positions import token_span as token_span
from helpers.sampling import is_out_of_memory


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
    backend: Backend = "nnsight",
    progress: Callable[[int, int], None] | None = None,
) -> Capture:
    """Hidden states of `sequences` at `positions`, through nnsight or plain forward hooks.

    Batches hold at most `batch_tokens` tokens with padding; a longer sequence runs alone. Only
    the asked positions are kept, of all entries up to `deepest_layer` (default: the last), or of
    those in `layers`, in ascending order; the forward stops after the deepest of them.
    `progress(sequences, tokens)` follows each batch. Raises `UserError` when a state is not
    finite, when the memory does not hold one sequence alone, or when `think_end` is asked of a
    tokenizer without thinking tags.
    """
    depth = lm.n_layers if deepest_layer is None else deepest_layer
    kept = range(depth + 1) if layers is None else sorted(set(layers))
    places = [find_places(lm, sequence, positions) for sequence in sequences]
    states = np.empty((len(positions), len(sequences), len(kept), lm.width), dtype=np.float32)

    def read(rows: list[int]) -> None:
        states[:, rows] = _capture_batch(
            lm, [sequences[i] for i in rows], [places[i] for i in rows], kept, backend
        )

    run_in_batches(lm, sequences, batch_tokens, read, progress)
    _check_finite(lm, states)
    return Capture(
        hidden={name: states[i] for i, name in enumerate(positions)},
        token_embedding=_token_embeddings(lm, [s.prompt_ids[-1] for s in sequences]),
        stand_ins={
            name: np.array([place.stands_in[i] for place in places], dtype=bool)
            for i, name in enumerate(positions)
        },
    )


def _check_finite(lm: LanguageModel, states: np.ndarray) -> None:
    if not np.isfinite(states).all():
        raise UserError(
            f"the model {lm.identity.name!r} has hidden states that are not finite; "
            "try --dtype float32"
        )


def _capture_batch(
    lm: LanguageModel,
    sequences: list[TokenSequence],
    places: list[Places],
    layers: Sequence[int],
    backend: Backend,
) -> np.ndarray:
    """States of one batch, `[positions, n, layers, width]`; `layers` are in ascending order."""
    import torch

    spans = torch.tensor([place.spans for place in places], device=lm.device)  # [n, positions, 2]
    ids = pad_right(lm, sequences)
    states = read_layers(lm, ids, layers, lambda states: _span_means(states, spans), backend)
    return states.permute(2, 1, 0, 3).cpu().numpy()


def capture_tokens(
    lm: LanguageModel, sequence: TokenSequence, layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Hidden states of one sequence at every token: layer to `[tokens, width]`, float32.

    The forward stops after the deepest of `layers`; entries are numbered as in a capture. Raises
    `UserError` when a state is not finite or the memory does not hold the sequence.
    """
    kept = sorted(set(layers))
    try:
        found = read_layers(lm, pad_right(lm, [sequence]), kept, lambda states: states[0].float())
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_large(lm, sequence) from error
    states = found.cpu().numpy()
    _check_finite(lm, states)
    return dict(zip(kept, states, strict=True))


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
