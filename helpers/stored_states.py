"""Hidden states of a run: captured once, stored in pieces, joined in files that are mapped.

Twenty thousand questions at four positions of a model of 28 layers are 9 GB, more than a laptop's
memory. No more than one piece is held at a time: a piece is stored as soon as it is captured, and
the run folder's files are joined from the pieces and then mapped, so that a layer is read from
disk when a probe asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from helpers.config import RunConfig
from helpers.hidden_states import TokenSequence, capture
from helpers.joined_pieces import join_pieces
from helpers.models import identify, load_language_model
from helpers.pipeline import SampledAnswers, encode_prompts, prompt_texts
from helpers.progress import Progress
from helpers.store import Store, content_key, map_array

CAPTURE_VERSION = 2
PIECE = 64
"""Questions whose hidden states are stored in one file."""
LAYERS = "entry 0 is the input of the first decoder block, entry i + 1 the output of block i"
EMBEDDING = "token_embedding"


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states of the prompt and its most likely answer, in the questions' order."""

    hidden: dict[str, np.ndarray]
    """By position: `[n, layers + 1, width]`, float32, mapped from disk; entry 0 is the input of
    the first block."""
    token_embedding: np.ndarray
    """Embedding, without positions, of the last prompt token: `[n, width]`."""
    stand_ins: dict[str, np.ndarray]
    """By position: `[n]`, True where the position does not exist and an earlier token stands in."""


@dataclass(frozen=True)
class _Pieces:
    """The rows of each piece, and the keys under which its states are stored."""

    rows: tuple[range, ...]
    keys: dict[str, tuple[str, ...]]
    """By position, one key a piece."""


def read_hidden_states(
    config: RunConfig, answers: SampledAnswers, store: Store, progress: Progress
) -> HiddenStates:
    """Hidden states of each prompt with its most likely answer, at the config's positions.

    Writes `hidden/<position>.safetensors` of the run folder; row order and the meaning of the
    layers stand in the header.
    """
    prompts = prompt_texts(config, [q.question for q in answers.questions])
    pieces = _pieces(config, answers, prompts)
    _capture_missing(config, answers, prompts, pieces, store, progress)
    folder = config.run_folder / "hidden"
    stand_ins, hidden = {}, {}
    embedding = np.empty((0, 0), dtype=np.float32)
    with progress("Joining hidden states", len(pieces.keys), "positions") as stage:
        for position, keys in pieces.keys.items():
            path = folder / f"{position}.safetensors"
            header = {"rows": json.dumps([q.id for q in answers.questions])}
            header |= {"layers": LAYERS, "position": position}
            again = partial(_capture_piece, config, answers, prompts, pieces, [position], store)
            join_pieces(path, keys, len(prompts), header, store, again)
            hidden[position] = map_array(path, "hidden")
            stand_ins[position] = np.array(map_array(path, "stand_in"))
            embedding = np.array(map_array(path, EMBEDDING))
            stage.advance(1)
    return HiddenStates(hidden, embedding, stand_ins)


def open_hidden_states(folder: Path, positions: Sequence[str]) -> HiddenStates:
    """The hidden states of a run folder at these positions, mapped, not read.

    Raises `DamagedEntry` where a file is damaged.
    """
    paths = {position: folder / "hidden" / f"{position}.safetensors" for position in positions}
    embedding = np.empty((0, 0), dtype=np.float32)
    for path in paths.values():
        embedding = map_array(path, EMBEDDING)
    return HiddenStates(
        {position: map_array(path, "hidden") for position, path in paths.items()},
        embedding,
        {position: np.array(map_array(path, "stand_in")) for position, path in paths.items()},
    )


def _pieces(config: RunConfig, answers: SampledAnswers, prompts: Sequence[str]) -> _Pieces:
    identity = identify(config.model)
    n = len(prompts)
    rows = tuple(range(start, min(n, start + PIECE)) for start in range(0, n, PIECE))
    keys = {
        position: tuple(
            content_key(
                stage="hidden",
                version=CAPTURE_VERSION,
                model=identity.model_hash,
                tokenizer=identity.tokenizer_hash,
                dtype=config.dtype,
                chat=config.chat,
                position=position,
                sequences=[(prompts[i], answers.greedy[i].token_ids) for i in piece],
            )
            for piece in rows
        )
        for position in config.positions
    }
    return _Pieces(rows, keys)


def _capture_missing(
    config: RunConfig,
    answers: SampledAnswers,
    prompts: Sequence[str],
    pieces: _Pieces,
    store: Store,
    progress: Progress,
) -> None:
    """Capture the pieces that are not stored at every position."""
    missing = [
        (at, [p for p, keys in pieces.keys.items() if not store.has_arrays(keys[at])])
        for at in range(len(pieces.rows))
    ]
    missing = [(at, positions) for at, positions in missing if positions]
    if not missing:
        return
    total = sum(len(pieces.rows[at]) for at, _ in missing)
    with progress("Reading hidden states", total, "questions") as stage:
        for at, positions in missing:
            _capture_piece(config, answers, prompts, pieces, positions, store, at, stage.advance)


def _capture_piece(
    config: RunConfig,
    answers: SampledAnswers,
    prompts: Sequence[str],
    pieces: _Pieces,
    positions: Sequence[str],
    store: Store,
    at: int,
    advance: Callable[[int, int], None] | None = None,
) -> None:
    lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
    rows = pieces.rows[at]
    ids = encode_prompts(config, lm, [prompts[i] for i in rows])
    sequences = [
        TokenSequence(prompt, answers.greedy[i].token_ids)
        for prompt, i in zip(ids, rows, strict=True)
    ]
    read = capture(lm, sequences, positions, progress=advance)
    for position in positions:
        arrays = {"hidden": read.hidden[position], "stand_in": read.stand_ins[position]}
        arrays[EMBEDDING] = read.token_embedding
        store.put_arrays(pieces.keys[position][at], arrays)
