"""Hidden states of a run: captured once, stored in pieces, joined in files that are mapped.

Twenty thousand questions at four positions of a model of 28 layers are 9 GB, more than a laptop's
memory. No more than one piece is held at a time: a piece is stored as soon as it is captured, and
the run folder's files are joined from the pieces and then mapped, so that a layer is read from
disk when a probe asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.errors import REPEAT, UserError
from helpers.generation.samples import SampledAnswers, encode_prompts, prompt_texts
from helpers.hidden_states.capture import (
    ForcedTokens,
    capture,
    think_end_id,
    token_entropies,
    token_span,
)
from helpers.models.forwards import TokenSequence
from helpers.models.loading import LanguageModel, identify, load_language_model, load_tokenizer
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import DamagedEntry, map_array, read_metadata, write_blocks
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun, Traced

# --- joining pieces ------------------------------------------------------------------------------


def join_pieces(
    path: Path,
    keys: Sequence[str],
    rows: int,
    header: Mapping[str, str],
    store: Store,
    make: Callable[[int], None],
) -> None:
    """Write the arrays stored under `keys` below each other in a file, unless it holds just them.

    `make(i)` stores piece i again where it turns out damaged. The pieces have `rows` rows
    together; the file's header is `header` and, as `content`, a hash of the keys.
    """
    content = content_key(stage="joined", version=1, keys=list(keys))
    header = {**header, "content": content}
    if not _is_joined(path, header):
        write_blocks(path, _blocks(keys, store, make), rows, header)


def _is_joined(path: Path, header: Mapping[str, str]) -> bool:
    """Whether a file holds these very pieces, and all of them."""
    if not header.items() <= read_metadata(path).items():
        return False
    try:
        map_array(path, "hidden")
    except DamagedEntry:
        return False
    return True


def _blocks(
    keys: Sequence[str], store: Store, make: Callable[[int], None]
) -> Iterator[dict[str, np.ndarray]]:
    for at, key in enumerate(keys):
        arrays = store.get_arrays(key)
        if arrays is None:
            make(at)
            arrays = store.get_arrays(key) or {}
        yield arrays


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


# --- pieces of runs ------------------------------------------------------------------------------
#
# A piece is a question's runs: other questions, or another order of them, leave its key as it is.


TRACE_VERSION = 1
RUNS_A_PIECE = 256
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
        for start in range(0, len(of_prompt), RUNS_A_PIECE):
            rows = range(
                of_prompt[start], of_prompt[min(start + RUNS_A_PIECE, len(of_prompt)) - 1] + 1
            )
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
        if chunk and sum(len(p.rows) for p in chunk) + len(piece.rows) > RUNS_A_PIECE:
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


# --- runs of reasoning models --------------------------------------------------------------------
#
# Ten thousand runs of a model of 36 layers are 3.8 GB. A question's runs are stored together as
# soon as they are read, so that a killed run repeats one batch of questions at most, and that other
# questions, or fewer of them, repeat nothing; the run folder's file is joined from these pieces and
# mapped, never read whole.


POSITIONS = ("think_end", "answer_last")


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
        raise UserError(f"{paths[0]} is missing: no hidden states were read yet; {REPEAT}")
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
        raise UserError(f"{path} is damaged: {reason}; {REPEAT}") from error
    if model_hash is not None and header.get("model_hash") != model_hash:
        raise UserError(
            f"{folder} mixes models: {path} is of the model {header.get('model_hash')}, the run "
            f"of {model_hash}; {REPEAT}"
        )
    if rows is not None and names != list(rows):
        raise UserError(f"{path} is of other runs: {_difference(names, rows)}; {REPEAT}")
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
    `UserError` as `trace` and `helpers.hidden_states.capture.token_entropies` do.
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
