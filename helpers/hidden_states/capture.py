"""Hidden states at named positions, all layers, from one teacher-forced pass over exact token ids.

    tbg                 the last prompt token, before anything is generated
    answer_last         the last generated token that does not end the sequence
    answer_second_last  the one before it
    answer_mean         mean over all generated tokens that do not end the sequence
    think_end           the token that closes the thinking, the last one where there are several

Where an answer is too short to have a position, the nearest earlier token stands in, and the row is
listed in `Capture.stand_ins`. A sequence may name spans of its own (`TokenSequence.spans`), such as
a word's last token or a sentence. Entry 0 of a capture is the input of the first decoder block,
entry i + 1 the output of block i (before the final norm).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.models.forwards import (
    TRACING,
    Backend,
    Span,
    TokenSequence,
    pad_right,
    read_layers,
    run_in_batches,
    states_before_head,
    too_large,
)
from helpers.models.loading import LanguageModel, unless_out_of_memory
from helpers.models.tokens import TokenisedText


@dataclass(frozen=True)
class Place:
    """Tokens [start, end) of prompt and answer together; states of several are averaged."""

    start: int
    end: int
    stands_in: bool = False
    """Whether the position does not exist, and an earlier token is given for it."""


Position = Callable[[LanguageModel, TokenSequence], Place]  # finds a place in a sequence


def tbg(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last prompt token."""
    n_prompt = len(sequence.prompt_ids)
    return Place(n_prompt - 1, n_prompt)


def answer_last(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last answer token that does not end the sequence; else the last prompt token."""
    end = _answer_end(lm, sequence)
    return Place(end - 1, end, stands_in=end == len(sequence.prompt_ids))


def answer_second_last(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The token before `answer_last`; the last prompt token where the answer is shorter."""
    n_prompt, end = len(sequence.prompt_ids), _answer_end(lm, sequence)
    at = max(n_prompt - 1, end - 2)
    return Place(at, at + 1, stands_in=end < n_prompt + 2)


def answer_mean(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """All answer tokens that do not end the sequence; else the last prompt token."""
    n_prompt, end = len(sequence.prompt_ids), _answer_end(lm, sequence)
    return Place(min(n_prompt, end - 1), end, stands_in=end == n_prompt)


def think_end(lm: LanguageModel, sequence: TokenSequence) -> Place:
    """The last generated `</think>`; `answer_last` where the thinking never closes.

    Raises `UserError` where the tokenizer has no such token.
    """
    token = think_end_id(lm.tokenizer)
    if token is None:
        raise UserError(
            f"position think_end: the tokenizer of {lm.identity.name!r} has no </think> "
            "token; use --positions tbg answer_last"
        )
    end = _answer_end(lm, sequence)
    answer = sequence.answer_ids[: end - len(sequence.prompt_ids)]
    if token not in answer:
        return Place(end - 1, end, stands_in=True)
    end -= answer[::-1].index(token)
    return Place(end - 1, end)


POSITIONS: Mapping[str, Position] = {
    "tbg": tbg, "answer_last": answer_last, "answer_second_last": answer_second_last,
    "answer_mean": answer_mean, "think_end": think_end,
}  # fmt: skip


def find_place(lm: LanguageModel, sequence: TokenSequence, position: str) -> Place:
    """Where a position of a sequence is: its own span of that name, or what the function finds.

    Raises ValueError for a name that neither knows and for a span outside of the sequence, and
    `UserError` when `think_end` is asked of a tokenizer without thinking tags.
    """
    if position not in sequence.spans:
        if position not in POSITIONS:
            raise ValueError(f"unknown position {position!r}")
        return POSITIONS[position](lm, sequence)
    start, end = sequence.spans[position]
    if not 0 <= start < end <= len(sequence):
        raise ValueError(
            f"position {position!r}: tokens [{start}, {end}) of a sequence of {len(sequence)}"
        )
    return Place(start, end)


def think_end_id(tokenizer: Any) -> int | None:
    """The id of `</think>`, or None when the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids("</think>")
    return None if token is None or token == tokenizer.unk_token_id else int(token)


def _answer_end(lm: LanguageModel, sequence: TokenSequence) -> int:
    """The end of prompt and answer without the tokens that end the sequence."""
    end = len(sequence)
    while end > len(sequence.prompt_ids) and (
        sequence.answer_ids[end - len(sequence.prompt_ids) - 1] in lm.end_ids
    ):
        end -= 1
    return end


# --- spans of a text -----------------------------------------------------------------------------


def text_span(text: TokenisedText, start: int, end: int) -> Span:
    """The tokens that cover any of the characters [start, end) of a text, such as a sentence's.

    Raises ValueError where no token does.
    """
    covering = [i for i, (a, b) in enumerate(text.offsets) if max(a, start) < min(b, end)]
    if not covering:
        raise ValueError(f"no token covers characters [{start}, {end}) of {text.text[:40]!r} …")
    return covering[0], covering[-1] + 1


def last_subtoken(text: TokenisedText, start: int, end: int) -> Span:
    """The one token that ends a word, the characters [start, end) of a text.

    A character of several bytes may be several tokens: it is the last of them. Raises ValueError
    where no token covers the word.
    """
    after = text_span(text, start, end)[1]
    return after - 1, after


# --- states --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """Hidden states of n sequences."""

    hidden: dict[str, np.ndarray]
    """By position: `[n, layers + 1, width]`, or `[n, asked layers, width]`; float32."""
    token_embedding: np.ndarray
    """The embedding, without positions, of the token at `tbg`: `[n, width]`, float32."""
    stand_ins: dict[str, np.ndarray]
    """By position: `[n]`, True where an earlier token stands in for one that does not exist."""
    token_ids: dict[str, np.ndarray]
    """By position: `[n]`, the token read, the last one where several are averaged."""


def capture(
    lm: LanguageModel,
    sequences: Sequence[TokenSequence],
    positions: Sequence[str],
    *,
    whole: bool = True,
    deepest_layer: int | None = None,
    layers: Sequence[int] | None = None,
    batch_tokens: int = 16_384,
    backend: Backend = "nnsight",
    progress: Callable[[int, int], None] | None = None,
) -> Capture:
    """Hidden states of `sequences` at `positions`, through nnsight or plain forward hooks.

    Batches hold at most `batch_tokens` tokens with padding; a longer sequence runs alone. Unless
    they are read `whole`, each is read as far as the last of its positions, and equal ones once.
    Only the asked positions are kept, of all entries up to `deepest_layer` (default: the last), or
    of those in `layers`, in ascending order; the forward stops after the deepest of them.
    `progress(sequences, tokens)` follows each batch. Raises `UserError` when a state is not
    finite, when the memory does not hold one sequence alone, or when `think_end` is asked of a
    tokenizer without thinking tags.
    """
    import torch

    depth = lm.n_layers if deepest_layer is None else deepest_layer
    kept = range(depth + 1) if layers is None else sorted(set(layers))
    places = [tuple(find_place(lm, s, position) for position in positions) for s in sequences]
    each = Distinct(list(range(len(sequences))), np.arange(len(sequences)))
    read = list(sequences)
    if not whole:  # what follows a position changes nothing at it
        ends = [max(place.end for place in at) for at in places]
        read = [
            TokenSequence(s.prompt_ids[:end], s.answer_ids[: max(0, end - len(s.prompt_ids))])
            for s, end in zip(sequences, ends, strict=True)
        ]
        each = distinct(list(zip(read, places, strict=True)))
        read = [read[i] for i in each.first]
    states = np.empty((len(positions), len(read), len(kept), lm.width), dtype=np.float32)

    def read_batch(rows: list[int]) -> None:
        states[:, rows] = _capture_batch(
            lm, [read[i] for i in rows], [places[each.first[i]] for i in rows], kept, backend
        )

    run_in_batches(lm, read, batch_tokens, read_batch, progress)
    if progress and len(read) < len(sequences):
        progress(len(sequences) - len(read), 0)
    _check_finite(lm, states)
    table = lm.model.get_input_embeddings().weight
    first = torch.tensor([s.prompt_ids[-1] for s in sequences], device=table.device)
    named = list(enumerate(positions))
    ids = [(*s.prompt_ids, *s.answer_ids) for s in sequences]
    last = [[i[place.end - 1] for place in at] for i, at in zip(ids, places, strict=True)]
    return Capture(
        hidden={name: states[i] if whole else states[i][each.of] for i, name in named},
        token_embedding=table.detach()[first].float().cpu().numpy(),
        stand_ins={n: np.array([at[i].stands_in for at in places], bool) for i, n in named},
        token_ids={n: np.array([row[i] for row in last], np.int64) for i, n in named},
    )


@dataclass(frozen=True, eq=False)
class Distinct:
    """Which of some things are different."""

    first: list[int]  # where each different one stands first, in ascending order
    of: np.ndarray  # `[n]`: which entry of `first` each is equal to


def distinct(things: Sequence[Hashable]) -> Distinct:
    """The different ones among some things."""
    first: dict[Hashable, int] = {}
    for i, thing in enumerate(things):
        first.setdefault(thing, i)
    numbers = {thing: number for number, thing in enumerate(first)}
    return Distinct(list(first.values()), np.array([numbers[thing] for thing in things]))


def _check_finite(lm: LanguageModel, states: np.ndarray) -> None:
    if not np.isfinite(states).all():
        raise UserError(
            f"the model {lm.identity.name!r} has hidden states that are not finite; "
            "try --dtype float32"
        )


def _capture_batch(
    lm: LanguageModel,
    sequences: list[TokenSequence],
    places: list[tuple[Place, ...]],
    layers: Sequence[int],
    backend: Backend,
) -> np.ndarray:
    """States of one batch, `[positions, n, layers, width]`; `layers` are in ascending order."""
    import torch

    spans = [[(place.start, place.end) for place in at] for at in places]
    at = torch.tensor(spans, device=lm.device)  # [n, positions, 2]
    ids = pad_right(lm, sequences)
    states = read_layers(lm, ids, layers, lambda states: _span_means(states, at), backend)
    return states.permute(2, 1, 0, 3).cpu().numpy()


def capture_tokens(
    lm: LanguageModel, sequence: TokenSequence, layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Hidden states of one sequence at every token: layer to `[tokens, width]`, float32.

    The forward stops after the deepest of `layers`; entries are numbered as in a capture. Raises
    `UserError` when a state is not finite or the memory does not hold the sequence.
    """
    kept = sorted(set(layers))
    ids = pad_right(lm, [sequence])
    read = partial(read_layers, lm, ids, kept, lambda states: states[0].float())
    found: Any = unless_out_of_memory(read, too_large(lm, sequence))
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


# --- entropies of given tokens -------------------------------------------------------------------
#
# An endpoint gives no log-probabilities, or those of its top k only. One teacher-forced forward
# over prompt and answer has the whole distribution at every token, as sampling itself would have
# seen it. The output layer is applied to blocks of tokens, so that tokens × vocabulary (20,000 ×
# 152,000 numbers are 12 GB) never exists at once.


BLOCK_ROWS = 256
"""Tokens to which the output layer is applied at a time. Each takes 8 bytes a word of the
vocabulary (0.3 GB for 152,000 words), and a GPU reads the layer's weights once a block."""


@dataclass(frozen=True, eq=False)
class ForcedTokens:
    """What a model thinks of each generated token of a sequence, `[tokens]`, float32."""

    entropies: np.ndarray  # of the untempered distribution over the full vocabulary, in nats
    logprobs: np.ndarray  # log-probability of the token under it, in nats


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
