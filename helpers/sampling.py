"""K answers to each prompt, the same ones whatever the batch, and the most likely answer.

The randomness of a token is a function of (seed, question, sample, step): one uniform number,
turned into a token by the inverse of the cumulative distribution in token order. Rounding in a
batched forward depends on the batch's shape; where that could change a token, the token is
decided by a forward of its own row alone, so that batch size, resuming and running out of memory
change nothing but the speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.models import LanguageModel
from helpers.token_choice import TokenChoice, choose_tokens, tie_tolerance

GREEDY = -1
"""The `sample_id` of the most likely answer."""


@dataclass(frozen=True)
class Sample:
    """One generated answer."""

    question_id: str
    sample_id: int
    """0 … K − 1, or -1 for the most likely (greedy) answer."""
    text: str
    """Without the end token, cut before a stop text."""
    token_ids: tuple[int, ...]
    """As generated, the end token included."""
    token_logprobs: tuple[float, ...]
    """Log-probability of each token under the untempered distribution, in nats."""
    token_entropies: tuple[float, ...]
    """Entropy of the untempered distribution over the full vocabulary, in nats."""
    finish_reason: str
    """"stop" (end token or stop text) or "length" (cut off)."""


@dataclass(frozen=True)
class Request:
    """The answers wanted for one prompt."""

    question_id: str
    prompt_ids: tuple[int, ...]
    sample_ids: tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn."""

    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()


def uniforms(seed: int, question_id: str, sample_id: int, n: int) -> np.ndarray:
    """The first n uniform numbers of one sample's own stream, `[n]` in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample_id}".encode()).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return stream.random(n)


def generate(
    lm: LanguageModel,
    requests: Sequence[Request],
    decoding: Decoding,
    *,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[Sample]]:
    """Yield the samples of one batch after another; `progress(questions, tokens)` after each.

    Raises `UserError` when the model produces NaN, or one sequence alone exhausts the memory.
    """
    waiting = plan_batches(requests, batch_size)[::-1]
    while waiting:
        batch = waiting.pop()
        samples = _try_batch(lm, batch, decoding)
        if samples is None:
            free_memory(lm.device)
            rows = sum(len(r.sample_ids) for r in batch)
            # The batches that wait are no smaller: what fits is found out once, not once a batch.
            left = [request for each in (batch, *waiting[::-1]) for request in each]
            waiting = plan_batches(left, (rows + 1) // 2)[::-1]
            continue
        if progress:
            progress(len({s.question_id for s in samples}), sum(len(s.token_ids) for s in samples))
        yield samples


def _try_batch(lm: LanguageModel, batch: list[Request], decoding: Decoding) -> list[Sample] | None:
    """The batch's samples, or None when the memory does not hold them.

    A function of its own: until the error is gone, its frames hold the memory that ran out.
    """
    try:
        return _generate_batch(lm, batch, decoding)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if sum(len(r.sample_ids) for r in batch) == 1:
            raise UserError(
                f"out of memory on {lm.device} with a single sequence; lower "
                "--max-new-tokens, or use a smaller model or --device cpu"
            ) from error
        return None


def plan_batches(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """Group requests of similar prompt length into batches of at most `batch_size` sequences."""
    pieces = []
    for request in sorted(requests, key=lambda r: (-len(r.prompt_ids), r.question_id)):
        ids = request.sample_ids
        for start in range(0, len(ids), batch_size):
            pieces.append(replace(request, sample_ids=ids[start : start + batch_size]))
    batches: list[list[Request]] = []
    room = 0
    for piece in pieces:
        if len(piece.sample_ids) > room:
            batches.append([])
            room = batch_size
        batches[-1].append(piece)
        room -= len(piece.sample_ids)
    return batches


class _Rows:
    """The sequences of one batch that are still being written, and what they have so far."""

    def __init__(self, batch: list[Request], decoding: Decoding, context: float) -> None:
        self.owners = [(r, s) for r in batch for s in r.sample_ids]
        n = len(self.owners)
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self.logprobs: list[list[float]] = [[] for _ in range(n)]
        self.entropies: list[list[float]] = [[] for _ in range(n)]
        self.finish = [""] * n
        self.texts: list[str | None] = [None] * n
        self.draws = np.stack(
            [
                uniforms(decoding.seed, r.question_id, s, decoding.max_new_tokens)
                for r, s in self.owners
            ]
        )
        self.greedy = np.array([s == GREEDY for _, s in self.owners])
        # A prompt near the end of the context leaves room for fewer tokens, whatever its batch.
        self.limits = [
            int(min(decoding.max_new_tokens, context - len(r.prompt_ids))) for r, _ in self.owners
        ]


def _generate_batch(lm: LanguageModel, batch: list[Request], decoding: Decoding) -> list[Sample]:
    import torch

    rows = _Rows(batch, decoding, lm.context)
    with torch.inference_mode():
        logits, cache, lengths, mask = _read_prompts(lm, batch)
        live = np.arange(len(rows.owners))
        for step in range(max(rows.limits)):
            choice = choose_tokens(
                logits,
                rows.draws[live, step],
                rows.greedy[live],
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                tolerance=tie_tolerance(lm.model.dtype),
            )
            _settle_ties(lm, rows, live, step, choice, decoding)
            _append(lm, rows, live, step, choice, decoding)
            going = np.array([not rows.finish[r] for r in live])
            if not going.any():
                break
            if going.mean() <= 0.875:  # copying the cache costs more than a few finished rows
                keep = torch.from_numpy(np.flatnonzero(going)).to(lm.device)
                cache.batch_select_indices(keep)
                live, lengths, mask = live[going], lengths[keep], mask[keep]
                going = going[going]
            fed = torch.tensor([[rows.tokens[r][-1]] for r in live], device=lm.device)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            out = lm.model(
                input_ids=fed,
                attention_mask=mask,
                position_ids=lengths[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            # A finished row stays where it is: its next position may be beyond the context.
            lengths = lengths + torch.from_numpy(going).to(lm.device)
            logits = out.logits[:, -1]
    return [_sample(lm, rows, r) for r in range(len(rows.owners))]


def _read_prompts(lm: LanguageModel, batch: list[Request]) -> Any:
    """Compute each prompt once; returns logits, cache, lengths and mask, one row a sequence."""
    import torch

    width = max(len(r.prompt_ids) for r in batch)
    ids = torch.full((len(batch), width), lm.pad_id)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for i, request in enumerate(batch):
        ids[i, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[i, width - len(request.prompt_ids) :] = 1
    ids, mask = ids.to(lm.device), mask.to(lm.device)
    # Left padding: models with learned positions need them counted from the first real token.
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = lm.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    owner = torch.tensor([i for i, r in enumerate(batch) for _ in r.sample_ids], device=lm.device)
    cache = out.past_key_values
    cache.batch_select_indices(owner)
    return out.logits[:, -1][owner], cache, mask.sum(1)[owner], mask[owner]


def _settle_ties(
    lm: LanguageModel,
    rows: _Rows,
    live: np.ndarray,
    step: int,
    choice: TokenChoice,
    decoding: Decoding,
) -> None:
    """Decide tokens that rounding could change by a forward of their row alone, unpadded."""
    import torch

    for at in np.flatnonzero(choice.ambiguous):
        row = live[at]
        if rows.finish[row]:
            continue
        request, _ = rows.owners[row]
        ids = torch.tensor([[*request.prompt_ids, *rows.tokens[row]]], device=lm.device)
        logits = lm.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        alone = choose_tokens(
            logits,
            rows.draws[[row], step],
            rows.greedy[[row]],
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            tolerance=0.0,
        )
        choice.tokens[at] = alone.tokens[0]
        choice.logprobs[at] = alone.logprobs[0]


def _append(
    lm: LanguageModel,
    rows: _Rows,
    live: np.ndarray,
    step: int,
    choice: TokenChoice,
    decoding: Decoding,
) -> None:
    """Add each live row's token and note which rows are finished."""
    for at, row in enumerate(live):
        if rows.finish[row]:
            continue
        if not np.isfinite(choice.logprobs[at]):
            raise UserError(
                f"the model {lm.identity.name!r} produced NaN logits at question "
                f"{rows.owners[row][0].question_id}, token {step}; try --dtype float32"
            )
        token = int(choice.tokens[at])
        rows.tokens[row].append(token)
        rows.logprobs[row].append(float(choice.logprobs[at]))
        rows.entropies[row].append(float(choice.entropies[at]))
        if token in lm.end_ids:
            rows.finish[row] = "stop"
        elif decoding.stop:
            text = lm.tokenizer.decode(rows.tokens[row], skip_special_tokens=False)
            cut = min((text.find(s) for s in decoding.stop if s in text), default=-1)
            if cut >= 0:
                rows.finish[row], rows.texts[row] = "stop", text[:cut]
        if not rows.finish[row] and len(rows.tokens[row]) == rows.limits[row]:
            rows.finish[row] = "length"


def _sample(lm: LanguageModel, rows: _Rows, row: int) -> Sample:
    request, sample_id = rows.owners[row]
    ids = rows.tokens[row]
    text = rows.texts[row]
    if text is None:
        shown = ids[:-1] if ids and ids[-1] in lm.end_ids else ids
        text = lm.tokenizer.decode(shown, skip_special_tokens=False)
    return Sample(
        question_id=request.question_id,
        sample_id=sample_id,
        text=text.strip(),
        token_ids=tuple(ids),
        token_logprobs=tuple(round(x, 5) for x in rows.logprobs[row]),
        token_entropies=tuple(round(x, 5) for x in rows.entropies[row]),
        finish_reason=rows.finish[row],
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate" in text)
    )


def free_memory(device: str) -> None:
    """Give cached memory back to the device."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
