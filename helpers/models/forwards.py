"""Teacher-forced forwards: batches by a budget of tokens, and what is read out of the model.

A batch is padded on the right and its mask hides nothing. A causal model never looks ahead, so no
token of a sequence sees padding, and positions need no shift; and a mask of a batch's own, of
sequences × tokens × tokens, would outgrow the model where sequences are long.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from helpers.errors import UserError
from helpers.models.loading import LanguageModel, decoder_blocks, free_memory, unless_out_of_memory

Span = tuple[int, int]  # tokens [start, end) of a sequence


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the answer generated to it, as token ids."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    spans: Mapping[str, Span] = field(default_factory=dict, hash=False)
    """Places of its own by name, in prompt and answer together; they win over positions of that
    name (`helpers.hidden_states.capture`)."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


TRACING = threading.RLock()
"""Held by whoever runs a model that may be traced. Visitors of an application share one process,
and a model that one thread traces fails in every other thread that runs it."""

Backend = Literal["nnsight", "plain"]
"""How a model's inside is reached: through nnsight, or by forward hooks. Both run the same
forward and read the same numbers."""


def run_in_batches(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    batch_tokens: int,
    work: Callable[[list[int]], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Call `work` with the rows of one batch after another, longest first.

    When the memory does not hold a batch, the budget is halved and the batch made anew.
    `progress(sequences, tokens)` follows each batch. Raises `UserError` when the memory does not
    hold one sequence alone.
    """

    def done(rows: list[int]) -> bool:
        work(rows)
        return True

    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    start, budget = 0, batch_tokens
    while start < len(order):
        n = batch_length([len(sequences[i]) for i in order[start:]], budget)
        rows = order[start : start + n]
        alone = too_large(lm, sequences[rows[0]]) if n == 1 else None
        if not unless_out_of_memory(partial(done, rows), alone):
            free_memory(lm.device)
            budget = max(1, n // 2) * len(sequences[rows[0]])
            continue
        start += n
        if progress:
            progress(n, sum(len(sequences[i]) for i in rows))


def batch_length(sizes: Sequence[int], budget: int) -> int:
    """How many of these sequences, sizes in descending order, make the next batch.

    As many as `budget` tokens hold with padding, at least one, and none of less than half the
    longest one's length, so that less than half of a batch is padding.

    >>> batch_length([900, 800, 450, 449], 10_000)
    3
    >>> batch_length([900, 800, 450, 449], 1800), batch_length([900, 800], 500)
    (2, 1)
    """
    most = min(len(sizes), max(1, budget // sizes[0]))
    return next((n for n in range(1, most) if 2 * sizes[n] < sizes[0]), most)


def too_large(lm: LanguageModel, sequence: TokenSequence) -> UserError:
    """The error of a sequence that the memory does not hold even alone."""
    return UserError(
        f"out of memory on {lm.device} with a single sequence of {len(sequence)} tokens; use a "
        "smaller model or --device cpu"
    )


def pad_right(lm: LanguageModel, sequences: Sequence[TokenSequence]) -> Any:
    """Token ids `[n, tokens]` of a batch."""
    import torch

    ids = torch.full((len(sequences), max(len(s) for s in sequences)), lm.pad_id)
    for i, s in enumerate(sequences):
        ids[i, : len(s)] = torch.tensor([*s.prompt_ids, *s.answer_ids])
    return ids


def read_layers(
    lm: LanguageModel,
    ids: Any,
    layers: Sequence[int],
    keep: Callable[[Any], Any],
    backend: Backend = "nnsight",
) -> Any:
    """What `keep` makes of the states `[n, tokens, width]` of each layer, one under the other.

    `ids` are `[n, tokens]`, padded on the right; `layers` are in ascending order: 0 is the input
    of the first block, i + 1 the output of block i. The forward stops after the deepest of them.
    """
    import torch

    read = _read_through_nnsight if backend == "nnsight" else _read_by_hooks
    with TRACING, torch.no_grad():
        return torch.stack(read(lm, _inputs(lm, ids), layers, keep))


def states_before_head(lm: LanguageModel, ids: Any, keep: Callable[[Any], Any]) -> Any:
    """What `keep` makes of the states `[n, tokens, width]` that the output layer is given.

    The output layer itself does not run.
    """
    import torch

    found: list[Any] = []

    def stop(module: Any, given: tuple) -> None:
        found.append(keep(given[0]))
        raise _EverythingRead

    hook = lm.model.get_output_embeddings().register_forward_pre_hook(stop)
    with TRACING, torch.no_grad():
        _run_until_everything_read(lm, _inputs(lm, ids), [hook])
    return found[0]


def _inputs(lm: LanguageModel, ids: Any) -> dict[str, Any]:
    ids = ids.to(lm.device)
    return {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape), "use_cache": False}


def _read_through_nnsight(
    lm: LanguageModel, inputs: dict[str, Any], layers: Sequence[int], keep: Callable[[Any], Any]
) -> list[Any]:
    nnsight = import_nnsight()
    path, _ = decoder_blocks(lm.model)
    traced = _wrap(lm)
    blocks = traced.get(path)
    with traced.trace(**inputs) as tracer:
        kept = nnsight.save([])
        for layer in layers:
            at = blocks[layer - 1].output if layer else blocks[0].input
            kept.append(keep(_hidden_states_in(at)))
        tracer.stop()
    # Stopping raises inside the forward: until it is collected, the traceback holds the batch.
    gc.collect(1)
    return kept


class _EverythingRead(Exception):
    """Everything that was asked for is read; the rest of the forward is not needed."""


def _read_by_hooks(
    lm: LanguageModel, inputs: dict[str, Any], layers: Sequence[int], keep: Callable[[Any], Any]
) -> list[Any]:
    _, blocks = decoder_blocks(lm.model)
    kept: list[Any] = []

    def note(states: Any) -> None:
        kept.append(keep(_hidden_states_in(states)))
        if len(kept) == len(layers):
            raise _EverythingRead

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        note(args[0] if args else kwargs["hidden_states"])

    def after(module: Any, args: tuple, output: Any) -> None:
        note(output)

    hooks = [
        blocks[layer - 1].register_forward_hook(after)
        if layer
        else blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        for layer in layers
    ]
    _run_until_everything_read(lm, inputs, hooks)
    return kept


def _run_until_everything_read(
    lm: LanguageModel, inputs: dict[str, Any], hooks: Sequence[Any]
) -> None:
    try:
        with contextlib.suppress(_EverythingRead):
            lm.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _hidden_states_in(output: Any) -> Any:
    """A block's hidden states: the bare tensor of transformers 5, or the head of a tuple."""
    return output[0] if isinstance(output, tuple) else output


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
