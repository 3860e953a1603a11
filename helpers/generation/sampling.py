"""K answers to each prompt by transformers, the same ones whatever the batch.

The randomness of a token is a function of (seed, question, sample, step): one uniform number,
turned into a token by the inverse of the cumulative distribution in token order. Rounding in a
batched forward depends on the batch's shape; where that could change a token, the token is
decided by a forward of its own row alone, so that batch size, resuming and running out of memory
change nothing but the speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.errors import UserError
from helpers.generation.records import GREEDY, Backend, Decoding, Request, Sample, too_long
from helpers.models.loading import (
    LanguageModel,
    free_memory,
    load_language_model,
    pick_device,
    unless_out_of_memory,
)
from helpers.models.tokens import model_tokens

if TYPE_CHECKING:
    from helpers.config import RunConfig

# --- one decoding step ---------------------------------------------------------------------------


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
        rows = sum(len(r.sample_ids) for r in batch)
        alone = UserError(
            f"out of memory on {lm.device} with a single sequence; lower --max-new-tokens, or use "
            "a smaller model or --device cpu"
        )
        make = partial(_generate_batch, lm, batch, decoding)
        samples = unless_out_of_memory(make, alone if rows == 1 else None)
        if samples is None:
            free_memory(lm.device)
            # The batches that wait are no smaller: what fits is found out once, not once a batch.
            left = [request for each in (batch, *waiting[::-1]) for request in each]
            waiting = plan_batches(left, (rows + 1) // 2)[::-1]
            continue
        if progress:
            progress(len({s.question_id for s in samples}), sum(len(s.token_ids) for s in samples))
        yield samples


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
                logits, rows.draws[live, step], rows.greedy[live], temperature=decoding.temperature,
                top_p=decoding.top_p, tolerance=tie_tolerance(lm.model.dtype),
            )  # fmt: skip
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
                input_ids=fed, attention_mask=mask, position_ids=lengths[:, None],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
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
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
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
            logits, rows.draws[[row], step], rows.greedy[[row]], temperature=decoding.temperature,
            top_p=decoding.top_p, tolerance=0.0,
        )  # fmt: skip
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


# --- the backend ---------------------------------------------------------------------------------


def open_hf(config: RunConfig) -> Backend:
    """`helpers.generation.sampling.generate` as a backend."""
    device, dtype = pick_device(config.device), str(config.dtype)
    if dtype == "auto":  # `helpers.models.loading` decides the same
        dtype = model_tokens(config.model).dtype if device.startswith("cuda") else "float32"
    promise = ""  # choices that rounding could change are settled by a forward of their row alone
    if dtype not in ("float32", "float64"):
        promise = (
            f"in {dtype}, batches of another size may, rarely, choose another token where two are "
            "about as likely"
        )

    def run(requests: Sequence[Request], decoding: Decoding) -> Iterator[list[Sample]]:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        full = [r for r in requests if len(r.prompt_ids) >= lm.context]
        if full:
            yield [sample for r in full for sample in too_long(r)]
        fitting = [r for r in requests if len(r.prompt_ids) < lm.context and r.sample_ids]
        yield from generate(lm, fitting, decoding, batch_size=config.batch_size)

    def describe() -> dict[str, Any]:
        versions = {name: version(name) for name in ("torch", "transformers")}
        return {"backend": "hf", "versions": versions, "device": device, "dtype": dtype}

    return Backend(name="hf", generate=run, promise=promise, describe=describe)
