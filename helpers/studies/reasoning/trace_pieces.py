"""How runs are cut into pieces that are read and stored together, each under a content key.

A piece is a question's runs: other questions, or another order of them, leave its key as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from helpers.errors import UserError
from helpers.models import LanguageModel, identify, load_language_model
from helpers.positions import TokenSequence
from helpers.progress import Progress
from helpers.store import Store, content_key
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun

TRACE_VERSION = 1
PIECE = 256
"""Runs that are read before they are stored, and the most that one stored piece has."""

Arrays = Mapping[str, np.ndarray]
Advance = Callable[[int, int], None]
"""Told of runs and tokens that are done."""


def row_names(runs: Sequence[ReasoningRun]) -> list[str]:
    """The name of each row in the file of hidden states: "question_id#run_id"."""
    return [f"{run.question_id}#{run.run_id}" for run in runs]


@dataclass(frozen=True, eq=False)
class Piece:
    """Runs of one prompt, at most `PIECE`, and the key under which they are stored."""

    rows: range
    prompt: tuple[int, ...]
    runs: Sequence[ReasoningRun]
    key: str

    @property
    def sequences(self) -> list[TokenSequence]:
        """The tokens of each run, with its prompt."""
        return [TokenSequence(self.prompt, run.token_ids) for run in self.runs]


def cut_pieces(
    config: ReasoningConfig,
    prompt_ids: Sequence[tuple[int, ...]],
    runs: Sequence[ReasoningRun],
    **what: str,
) -> list[Piece]:
    """The runs in order, cut where the prompt changes."""
    identity = identify(config.model)
    found = []
    for prompt, group in groupby(range(len(runs)), key=prompt_ids.__getitem__):
        of_prompt = list(group)
        for start in range(0, len(of_prompt), PIECE):
            rows = range(of_prompt[start], of_prompt[min(start + PIECE, len(of_prompt)) - 1] + 1)
            key = content_key(
                **what,
                version=TRACE_VERSION,
                model=identity.model_hash,
                tokenizer=identity.tokenizer_hash,
                dtype=config.dtype,
                prompt=prompt,
                answers=[runs[i].token_ids for i in rows],
            )
            found.append(Piece(rows, prompt, [runs[i] for i in rows], key))
    return found


Read = Callable[[Sequence[Piece], Advance | None], list[Arrays]]
"""What is to be stored of each of some pieces; told of progress where somebody listens."""


def store_missing(
    pieces: Sequence[Piece], store: Store, progress: Progress, title: str, read: Read
) -> None:
    """Read what is not stored, several questions at a time, so that batches are full.

    They are always read in the same company, also after a kill: rounding depends on the batch.
    """
    missing = {piece.key for piece in pieces if not store.has_arrays(piece.key)}
    lacking = [c for c in chunks(pieces) if any(piece.key in missing for piece in c)]
    if not lacking:
        return
    with progress(title, sum(len(p.rows) for c in lacking for p in c), "runs") as stage:
        for chunk in lacking:
            for piece, arrays in zip(chunk, read(chunk, stage.advance), strict=True):
                if piece.key in missing:
                    store.put_arrays(piece.key, arrays)


def read_again(pieces: Sequence[Piece], at: int, read: Read) -> Arrays:
    """What is to be stored of one piece, read in the same company as at first."""
    chunk = next(c for c in chunks(pieces) if pieces[at] in c)
    return read(chunk, None)[chunk.index(pieces[at])]


def chunks(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces in order, as many together as have `PIECE` runs."""
    chunk: list[Piece] = []
    for piece in pieces:
        if chunk and sum(len(p.rows) for p in chunk) + len(piece.rows) > PIECE:
            yield chunk
            chunk = []
        chunk.append(piece)
    if chunk:
        yield chunk


def model_of(config: ReasoningConfig, pieces: Sequence[Piece]) -> LanguageModel:
    """The config's model, when it can have written these runs.

    Beyond its vocabulary or its context a forward would fail without a word of explanation, on a
    GPU for the whole process.
    """
    lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for piece in pieces:
        for name, sequence in zip(row_names(piece.runs), piece.sequences, strict=True):
            ids = (*sequence.prompt_ids, *sequence.answer_ids)
            problem = ""
            if max(ids) >= vocabulary:
                problem = f"token {max(ids)}, and the vocabulary has {vocabulary}"
            elif len(ids) > lm.context:
                problem = f"{len(ids)} tokens, and the context is {lm.context} long"
            if problem:
                raise UserError(
                    f"run {name} was not generated by the model {config.model!r}: it has "
                    f"{problem}; name the model that generated it with --model"
                )
    return lm
