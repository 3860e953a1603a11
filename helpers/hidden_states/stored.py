"""Hidden states of any rows: read once, stored in pieces, joined in files that are mapped.

Twenty thousand questions at four positions of a model of 28 layers are 9 GB, more than a laptop's
memory. No more than one company of pieces is held at a time, and a killed run repeats one at most;
the run folder's files are joined from the pieces and then mapped, so that a layer is read from disk
when a probe asks for it. Rounding depends on what is computed together, so that a piece is always
computed in the same company: also after a kill, and where a stored one turns out damaged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.errors import REPEAT, UserError
from helpers.hidden_states.capture import ForcedTokens, capture, distinct, token_entropies
from helpers.models.forwards import TokenSequence
from helpers.models.loading import LanguageModel, identify, load_language_model
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import DamagedEntry, map_array, read_metadata, write_blocks

CAPTURE_VERSION = 3
ENTROPIES_VERSION = 2
LAYERS = "entry 0 is the input of the first decoder block, entry i + 1 the output of block i"


@dataclass(frozen=True)
class Company:
    """Which rows are stored and which are read together.

    The last bits of a state depend on its batch, so that a study keeps to one of these.
    """

    rows: int
    """Rows that are read together, and the most that one stored piece has."""
    by_prompt: bool
    """Whether a piece holds rows of one prompt only: then other prompts, fewer of them, or
    another order repeat nothing."""
    whole: bool
    """Whether sequences are read to their end; else as far as needed, and equal ones once."""


IN_ORDER = Company(rows=64, by_prompt=False, whole=True)  # for one answer to each prompt
BY_PROMPT = Company(rows=256, by_prompt=True, whole=False)
"""For many answers to each prompt, which stand together."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """Hidden states of n rows; dictionaries are by position."""

    hidden: Mapping[str, np.ndarray]
    """`[n, layers + 1, width]`, float32, mapped from disk; entry 0 is the input of the first
    block."""
    token_embedding: np.ndarray
    """Embedding, without positions, of the last prompt token: `[n, width]`."""
    stand_ins: Mapping[str, np.ndarray]
    """`[n]`, True where the position does not exist and an earlier token stands in."""
    token_ids: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`[n]`: the token read, the last one where several are averaged."""
    rows: tuple[str, ...] = ()
    """The name of each row."""


def read_hidden_states(
    config: RunConfig,
    sequences: Sequence[TokenSequence],
    rows: Sequence[str],
    positions: Sequence[str],
    folder: Path,
    store: Store,
    progress: Progress,
    *,
    company: Company = IN_ORDER,
    unit: str = "rows",
) -> HiddenStates:
    """Hidden states of each sequence at `positions`, all layers; `rows` are the sequences' names.

    Only what is not stored is read. `hidden/<position>.safetensors` of the run folder `folder` are
    written, and files of other positions removed. Raises `UserError` when a sequence cannot be of
    this model, a state is not finite, or the memory does not hold one sequence alone.
    """
    pieces = _pieces(config, sequences, positions, company)

    def compute(
        parts: Sequence[range], names: Sequence[str], advance: Advance | None
    ) -> Mapping[str, Sequence[Arrays]]:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        chosen = [i for part in parts for i in part]
        check_fits(lm, [sequences[i] for i in chosen], [rows[i] for i in chosen])
        read = capture(
            lm, [sequences[i] for i in chosen], names if company.whole else positions,
            whole=company.whole, batch_tokens=config.hidden_batch_tokens,
            backend=config.hidden_backend, progress=advance,
        )  # fmt: skip
        return {
            name: _split(
                parts,
                {
                    "hidden": read.hidden[name],
                    "stand_in": read.stand_ins[name],
                    "token_id": read.token_ids[name],
                    "token_embedding": read.token_embedding,
                },
            )
            for name in names
        }

    store_missing(pieces, store, progress, "Reading hidden states", unit, compute)
    identity = identify(config.model)
    header = {
        "rows": json.dumps(list(rows)), "layers": LAYERS, "model": config.model,
        "model_hash": identity.model_hash, "tokenizer_hash": identity.tokenizer_hash,
    }  # fmt: skip
    with progress("Joining hidden states", len(positions), "positions") as stage:
        for position in positions:
            path = _path(folder, position)
            join_pieces(path, pieces, position, {**header, "position": position}, store, compute)
            stage.advance(1)
    for path in (folder / "hidden").glob("*.safetensors"):
        if path.stem not in positions:
            path.unlink()
    return open_hidden_states(folder, positions, rows=rows)


def open_hidden_states(
    folder: Path,
    positions: Sequence[str],
    *,
    rows: Sequence[str] | None = None,
    model_hash: str | None = None,
) -> HiddenStates:
    """The hidden states of a run folder at these positions, mapped, not read; no model is needed.

    Where `rows`, their names, and `model_hash`, the manifest's, are given, the files must be of
    these. Raises `UserError`, which names the file, when one is absent, damaged or of others.
    """
    found = [_open(_path(folder, position), rows, model_hash) for position in positions]
    named = list(zip(positions, found, strict=True))
    return HiddenStates(
        {position: arrays["hidden"] for position, (_, arrays) in named},
        found[-1][1]["token_embedding"] if found else np.empty((0, 0), dtype=np.float32),
        {position: np.array(arrays["stand_in"]) for position, (_, arrays) in named},
        {position: np.array(arrays["token_id"]) for position, (_, arrays) in named},
        found[-1][0] if found else (),
    )


def _open(
    path: Path, rows: Sequence[str] | None, model_hash: str | None
) -> tuple[tuple[str, ...], Arrays]:
    """The names of a file's rows, and its arrays, mapped."""
    if not path.is_file():
        raise UserError(f"{path} is missing: no hidden states were read yet; {REPEAT}")
    header = read_metadata(path)
    try:
        parts = ("hidden", "stand_in", "token_id", "token_embedding")
        arrays = {name: map_array(path, name) for name in parts}
        names = tuple(json.loads(header["rows"]))
        states = arrays["hidden"]
        if not (states.ndim == 3 and {len(names)} == {len(array) for array in arrays.values()}):
            raise DamagedEntry(f"it names {len(names)} rows and has states {states.shape}")
    except (DamagedEntry, KeyError, ValueError, TypeError) as error:
        reason = f"its header has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is damaged ({reason}); {REPEAT}") from error
    if model_hash is not None and header.get("model_hash") != model_hash:
        raise UserError(
            f"{path.parent.parent} mixes models: {path} is of the model "
            f"{header.get('model_hash')}, the run of {model_hash}; {REPEAT}"
        )
    if rows is not None and names != tuple(rows):
        raise UserError(f"{path} is of other rows: {_difference(names, rows)}; {REPEAT}")
    return names, arrays


def read_token_entropies(
    config: RunConfig,
    sequences: Sequence[TokenSequence],
    rows: Sequence[str],
    store: Store,
    progress: Progress,
    *,
    company: Company = BY_PROMPT,
    unit: str = "rows",
) -> list[ForcedTokens]:
    """Entropies and log-probabilities of the answers' tokens, by one forward over the exact tokens.

    They are stored like hidden states. Raises `UserError` as `read_hidden_states` and
    `helpers.hidden_states.capture.token_entropies` do.
    """
    parts = _cut(sequences, company)
    what = {"stage": "entropies", "version": ENTROPIES_VERSION, **_model_parts(config)}
    keys = tuple(_key(sequences, part, **what) for part in parts)
    pieces = Pieces(parts, {"entropies": keys}, company.rows)

    def compute(
        parts: Sequence[range], names: Sequence[str], advance: Advance | None
    ) -> Mapping[str, Sequence[Arrays]]:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        chosen = [i for part in parts for i in part]
        check_fits(lm, [sequences[i] for i in chosen], [rows[i] for i in chosen])
        each = distinct([sequences[i] for i in chosen])
        read = token_entropies(
            lm, [sequences[chosen[i]] for i in each.first],
            batch_tokens=config.hidden_batch_tokens, progress=advance,
        )  # fmt: skip
        if advance is not None:
            advance(len(chosen) - len(read), 0)
        at = iter(each.of.tolist())
        found: list[Arrays] = []
        for part in parts:
            tokens = [read[next(at)] for _ in part]
            found.append(
                {
                    "entropies": np.concatenate([t.entropies for t in tokens]),
                    "logprobs": np.concatenate([t.logprobs for t in tokens]),
                }
            )
        return {"entropies": found}

    store_missing(pieces, store, progress, "Reading token entropies", unit, compute)
    found = []
    for part, arrays in stored_arrays(pieces, "entropies", store, compute):
        ends = np.cumsum([len(sequences[i].answer_ids) for i in part])[:-1]
        both = (np.split(arrays[name], ends) for name in ("entropies", "logprobs"))
        found += [ForcedTokens(*pair) for pair in zip(*both, strict=True)]
    return found


def check_fits(lm: LanguageModel, sequences: Sequence[TokenSequence], rows: Sequence[str]) -> None:
    """Raise `UserError` where a model cannot have written one of these sequences.

    Beyond its vocabulary or its context a forward would fail without a word of explanation, on a
    GPU for the whole process.
    """
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for name, sequence in zip(rows, sequences, strict=True):
        largest = max((*sequence.prompt_ids, *sequence.answer_ids))
        problem = ""
        if largest >= vocabulary:
            problem = f"token {largest}, and the vocabulary has {vocabulary}"
        elif len(sequence) > lm.context:
            problem = f"{len(sequence)} tokens, and the context is {lm.context} long"
        if problem:
            raise UserError(
                f"{name} was not generated by the model {lm.identity.name!r}: it has {problem}; "
                "name the model that generated it with --model"
            )


def _pieces(
    config: RunConfig,
    sequences: Sequence[TokenSequence],
    positions: Sequence[str],
    company: Company,
) -> Pieces:
    parts = _cut(sequences, company)
    what = {"stage": "hidden", "version": CAPTURE_VERSION, **_model_parts(config)}
    # How far a sequence is read depends on all positions that are asked.
    what |= {} if company.whole else {"positions": list(positions)}
    keys = {
        position: tuple(_key(sequences, part, **what, position=position) for part in parts)
        for position in positions
    }
    return Pieces(parts, keys, company.rows)


def _cut(sequences: Sequence[TokenSequence], company: Company) -> tuple[range, ...]:
    """The rows in order; cut where the prompt changes, where the company is by prompt."""
    if not company.by_prompt:
        return cut_evenly(len(sequences), company.rows)
    found: list[range] = []
    for _, group in groupby(range(len(sequences)), key=lambda i: sequences[i].prompt_ids):
        of_prompt = list(group)
        parts = cut_evenly(len(of_prompt), company.rows)
        found += [range(of_prompt[part[0]], of_prompt[part[-1]] + 1) for part in parts]
    return tuple(found)


def _key(sequences: Sequence[TokenSequence], part: range, **what: object) -> str:
    chosen = [sequences[i] for i in part]
    return content_key(
        **what, sequences=[(s.prompt_ids, s.answer_ids, dict(s.spans)) for s in chosen]
    )


def _model_parts(config: RunConfig) -> dict[str, Any]:
    """What of a key says which model reads."""
    identity = identify(config.model)
    hashes = {"model": identity.model_hash, "tokenizer": identity.tokenizer_hash}
    return {**hashes, "dtype": config.dtype}


def _path(folder: Path, position: str) -> Path:
    return folder / "hidden" / f"{position}.safetensors"


def _split(parts: Sequence[range], arrays: Arrays) -> list[Arrays]:
    """Arrays of all rows as those of each part."""
    ends = np.cumsum([len(part) for part in parts])[:-1]
    pieces = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: array[i] for name, array in pieces.items()} for i in range(len(parts))]


def _difference(names: Sequence[str], rows: Sequence[str]) -> str:
    if len(names) != len(rows):
        return f"it has {len(names)} rows, the table {len(rows)}"
    at = next(i for i, (a, b) in enumerate(zip(names, rows, strict=True)) if a != b)
    return f"row {at} is {names[at]!r}, in the table {rows[at]!r}"


# --- pieces --------------------------------------------------------------------------------------


Arrays = Mapping[str, np.ndarray]  # what is stored of one piece
Advance = Callable[[int, int], None]  # told of rows and tokens that are done


@dataclass(frozen=True)
class Pieces:
    """Rows in pieces, and the keys under which what is computed of each piece is stored."""

    rows: tuple[range, ...]  # of each piece, in order and without gaps
    keys: Mapping[str, tuple[str, ...]]  # by what is computed, such as a position: a key a piece
    together: int  # as many pieces are computed together as have this many rows

    def companies(self) -> Iterator[list[int]]:
        """The numbers of the pieces that are computed together."""
        company: list[int] = []
        for at, rows in enumerate(self.rows):
            if company and sum(len(self.rows[i]) for i in company) + len(rows) > self.together:
                yield company
                company = []
            company.append(at)
        if company:
            yield company


def cut_evenly(n: int, size: int) -> tuple[range, ...]:
    """The rows 0 … n − 1 in pieces of `size`; the last one may be smaller.

    >>> cut_evenly(5, 2)
    (range(0, 2), range(2, 4), range(4, 5))
    """
    return tuple(range(start, min(n, start + size)) for start in range(0, n, size))


Compute = Callable[[Sequence[range], Sequence[str], Advance | None], Mapping[str, Sequence[Arrays]]]
"""What is to be stored of the pieces with these rows, by name: the arrays of each piece."""


def store_missing(
    pieces: Pieces, store: Store, progress: Progress, title: str, unit: str, compute: Compute
) -> None:
    """Compute and store what is not stored of each piece, one company after the other."""
    lacking = []
    for company in pieces.companies():
        missing = {
            name: [at for at in company if not store.has_arrays(keys[at])]
            for name, keys in pieces.keys.items()
        }
        if any(missing.values()):
            lacking.append((company, {name: ats for name, ats in missing.items() if ats}))
    if not lacking:
        return
    total = sum(len(pieces.rows[at]) for company, _ in lacking for at in company)
    with progress(title, total, unit) as stage:
        for company, missing in lacking:
            found = compute([pieces.rows[at] for at in company], list(missing), stage.advance)
            for name, ats in missing.items():
                for at in ats:
                    store.put_arrays(pieces.keys[name][at], found[name][company.index(at)])


def stored_arrays(
    pieces: Pieces, name: str, store: Store, compute: Compute
) -> Iterator[tuple[range, Arrays]]:
    """The rows and arrays of each piece; one that turns out damaged is computed again."""
    for company in pieces.companies():
        for at in company:
            key = pieces.keys[name][at]
            arrays: Arrays | None = store.get_arrays(key)
            if arrays is None:
                again = compute([pieces.rows[i] for i in company], [name], None)
                arrays = again[name][company.index(at)]
                store.put_arrays(key, arrays)
            yield pieces.rows[at], arrays


def join_pieces(
    path: Path, pieces: Pieces, name: str, header: Mapping[str, str], store: Store, compute: Compute
) -> None:
    """Write the arrays of all pieces below each other in a file, unless it holds just them.

    The file's header is `header` and, as `content`, a hash of the keys.
    """
    content = content_key(stage="joined", version=1, keys=pieces.keys[name])
    header = {**header, "content": content}
    if not _is_joined(path, header):
        blocks = (arrays for _, arrays in stored_arrays(pieces, name, store, compute))
        write_blocks(path, blocks, sum(len(rows) for rows in pieces.rows), header)


def _is_joined(path: Path, header: Mapping[str, str]) -> bool:
    """Whether a file holds these very pieces, and all of them."""
    if not header.items() <= read_metadata(path).items():
        return False
    try:
        map_array(path, "hidden")
    except DamagedEntry:
        return False
    return True
