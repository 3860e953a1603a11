"""Hidden states of every valid run where its thinking closes, and entropies that are missing.

Ten thousand runs of a model of 36 layers are 3.8 GB. A question's runs are stored together as soon
as they are read, so that a killed run repeats one batch of questions at most, and that other
questions, or fewer of them, repeat nothing; the run folder's file is joined from these pieces and
mapped, never read whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import UserError
from helpers.forced_entropies import ForcedTokens, token_entropies
from helpers.hidden_states import capture, think_end_id, token_span
from helpers.joined_pieces import join_pieces
from helpers.models import LanguageModel, identify, load_tokenizer
from helpers.positions import TokenSequence
from helpers.progress import Progress
from helpers.store import DamagedEntry, Store, map_array, read_metadata
from helpers.stored_states import LAYERS
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun, Traced
from helpers.studies.reasoning.trace_pieces import (
    Advance,
    Arrays,
    Piece,
    chunks,
    cut_pieces,
    model_of,
    read_again,
    row_names,
    store_missing,
)

POSITIONS = ("think_end", "answer_last")
AGAIN = "repeat the command that made the run: what is stored is not computed twice"


@dataclass(frozen=True)
class TracePosition:
    """Where the states of a run are read."""

    position: str
    """"think_end", or "answer_last" where no run closes its thinking itself."""
    reason: str
    """Why it is not `think_end`, in words; "" where it is."""


def trace_position(config: ReasoningConfig, tokenizer: Any) -> TracePosition:
    """The position of a run's states: the last generated `</think>`, where there can be one."""
    if think_end_id(tokenizer) is None:
        why = f"the tokenizer of {config.model!r} has no </think> token"
    elif not config.thinking:
        why = (
            "thinking is off, so that </think> stands in the prompt, the same for all runs of a "
            "question"
        )
    else:
        return TracePosition("think_end", "")
    return TracePosition(
        "answer_last",
        f"{why}: hidden states are read at answer_last, the last token of the answer",
    )


def trace(
    config: ReasoningConfig,
    prompt_ids: Sequence[tuple[int, ...]],
    runs: Sequence[ReasoningRun],
    store: Store,
    progress: Progress,
) -> Traced:
    """Hidden states of the valid runs, all layers, in the order of `runs`.

    `prompt_ids[i]` is the prompt of `runs[i]`; runs of one prompt stand together. Only what is not
    stored is read; `hidden/<position>.safetensors` of the run folder is written. Raises
    `UserError` when a run cannot be of this model, a state is not finite, or the memory does not
    hold one run alone.
    """
    where = trace_position(config, load_tokenizer(identify(config.model)))
    pieces = cut_pieces(config, prompt_ids, runs, stage="trace", position=where.position)

    read = partial(_read_states, config, where.position)
    store_missing(pieces, store, progress, "Reading hidden states", read)
    folder = config.run_folder / "hidden"
    path = folder / f"{where.position}.safetensors"
    keys = [piece.key for piece in pieces]
    with progress("Joining hidden states", 1, "positions") as stage:
        join_pieces(
            path, keys, len(runs), _header(config, where, runs), store,
            lambda at: store.put_arrays(keys[at], read_again(pieces, at, read)),
        )  # fmt: skip
        for other in POSITIONS:  # of a tokenizer that has changed since
            if other != where.position:
                (folder / f"{other}.safetensors").unlink(missing_ok=True)
        stage.advance(1)
    return open_traced(config.run_folder, rows=row_names(runs))


def open_traced(
    folder: Path, *, rows: Sequence[str] | None = None, model_hash: str | None = None
) -> Traced:
    """The hidden states of a run folder, mapped, not read; no model is needed.

    `rows` are the names of the table's rows (`row_names`) and `model_hash` is the manifest's:
    where they are given, the file must be of these. Raises `UserError`, which names the file, when
    it is absent, damaged or of others.
    """
    paths = [folder / "hidden" / f"{position}.safetensors" for position in POSITIONS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"{paths[0]} is missing: no hidden states were read yet; {AGAIN}")
    header = read_metadata(path)
    try:
        names = json.loads(header["rows"])
        found = Traced(
            position=header["position"],
            reason=header["reason"],
            hidden=map_array(path, "hidden"),
            token_ids=np.array(map_array(path, "token_id")),
        )
        if not (found.hidden.ndim == 3 and len(names) == len(found.hidden) == len(found.token_ids)):
            raise DamagedEntry(f"it names {len(names)} rows and has states {found.hidden.shape}")
    except (DamagedEntry, KeyError, ValueError, TypeError) as error:
        reason = f"its header has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is damaged: {reason}; {AGAIN}") from error
    if model_hash is not None and header.get("model_hash") != model_hash:
        raise UserError(
            f"{folder} mixes models: {path} is of the model {header.get('model_hash')}, the run "
            f"of {model_hash}; {AGAIN}"
        )
    if rows is not None and names != list(rows):
        raise UserError(f"{path} is of other runs: {_difference(names, rows)}; {AGAIN}")
    return found


def forced_entropies(
    config: ReasoningConfig,
    prompt_ids: Sequence[tuple[int, ...]],
    runs: Sequence[ReasoningRun],
    store: Store,
    progress: Progress,
) -> dict[int, ForcedTokens]:
    """Entropies and log-probabilities of the runs that have no full ones, by the row in `runs`.

    They are those of one forward over the exact tokens, stored like hidden states. Raises
    `UserError` as `trace` and `helpers.forced_entropies.token_entropies` do.
    """
    lacking = [i for i, run in enumerate(runs) if run.entropy_kind != "full"]
    pieces = cut_pieces(
        config, [prompt_ids[i] for i in lacking], [runs[i] for i in lacking], stage="entropies"
    )

    read = partial(_read_entropies, config)
    store_missing(pieces, store, progress, "Reading token entropies", read)
    found = {}
    for at, piece in enumerate(pieces):
        arrays = store.get_arrays(piece.key)
        if arrays is None:
            arrays = dict(read_again(pieces, at, read))
            store.put_arrays(piece.key, arrays)
        ends = np.cumsum([len(run.token_ids) for run in piece.runs])[:-1]
        entropies, logprobs = (np.split(arrays[n], ends) for n in ("entropies", "logprobs"))
        for row, e, p in zip(piece.rows, entropies, logprobs, strict=True):
            found[lacking[row]] = ForcedTokens(e, p)
    return found


@dataclass(frozen=True, eq=False)
class _Distinct:
    """Sequences, each once, and which of them each given one is."""

    sequences: list[TokenSequence]
    of: np.ndarray


def _distinct(sequences: Sequence[TokenSequence]) -> _Distinct:
    numbers: dict[TokenSequence, int] = {}
    of = [numbers.setdefault(sequence, len(numbers)) for sequence in sequences]
    return _Distinct(list(numbers), np.array(of))


def _up_to(lm: LanguageModel, sequence: TokenSequence, position: str) -> TokenSequence:
    """The sequence as far as the token at which it is read."""
    end = token_span(lm, sequence, position).stop - len(sequence.prompt_ids)
    return TokenSequence(sequence.prompt_ids, sequence.answer_ids[:end])


def read_pieces(config: ReasoningConfig, position: str, pieces: Sequence[Piece]) -> list[Arrays]:
    """What `trace` stores of each piece, read together as `trace` reads them, and not stored."""
    return [
        arrays for chunk in chunks(pieces) for arrays in _read_states(config, position, chunk, None)
    ]


def _read_states(
    config: ReasoningConfig, position: str, pieces: Sequence[Piece], advance: Advance | None
) -> list[Arrays]:
    lm = model_of(config, pieces)
    whole = [s for piece in pieces for s in piece.sequences]
    # What follows the position changes nothing at it, and runs that think alike are read once.
    distinct = _distinct([_up_to(lm, sequence, position) for sequence in whole])
    read = capture(
        lm, distinct.sequences, (position,),
        batch_tokens=config.trace_tokens, backend=config.trace_backend, progress=advance,
    )  # fmt: skip
    if advance is not None:
        advance(len(whole) - len(distinct.sequences), 0)
    if position == "think_end" and read.stand_ins[position].any():
        names = [name for piece in pieces for name in row_names(piece.runs)]
        first = names[int(read.stand_ins[position][distinct.of].argmax())]
        raise ValueError(f"run {first} never closes its thinking, so it is not valid")
    last = [(*s.prompt_ids, *s.answer_ids)[-1] for s in distinct.sequences]
    tokens = np.array(last, dtype=np.int64)[distinct.of]
    ends = np.cumsum([len(piece.rows) for piece in pieces])[:-1]
    hidden = np.split(read.hidden[position][distinct.of], ends)
    token_ids = np.split(tokens, ends)
    return [{"hidden": h, "token_id": t} for h, t in zip(hidden, token_ids, strict=True)]


def _read_entropies(
    config: ReasoningConfig, pieces: Sequence[Piece], advance: Advance | None
) -> list[Arrays]:
    lm = model_of(config, pieces)
    distinct = _distinct([s for piece in pieces for s in piece.sequences])
    read = token_entropies(
        lm, distinct.sequences, batch_tokens=config.trace_tokens, progress=advance
    )
    if advance is not None:
        advance(len(distinct.of) - len(read), 0)
    at = iter(distinct.of.tolist())
    found: list[Arrays] = []
    for piece in pieces:
        tokens = [read[next(at)] for _ in piece.rows]
        names = ("entropies", "logprobs")
        found.append({n: np.concatenate([getattr(t, n) for t in tokens]) for n in names})
    return found


def _header(
    config: ReasoningConfig, where: TracePosition, runs: Sequence[ReasoningRun]
) -> dict[str, str]:
    identity = identify(config.model)
    return {
        "rows": json.dumps(row_names(runs)),
        "layers": LAYERS,
        "position": where.position,
        "reason": where.reason,
        "model": config.model,
        "model_hash": identity.model_hash,
        "tokenizer_hash": identity.tokenizer_hash,
    }


def _difference(names: Sequence[str], rows: Sequence[str]) -> str:
    if len(names) != len(rows):
        return f"it has {len(names)} rows, the table {len(rows)}"
    at = next(i for i, (a, b) in enumerate(zip(names, rows, strict=True)) if a != b)
    return f"row {at} is {names[at]!r}, in the table {rows[at]!r}"
