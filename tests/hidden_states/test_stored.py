"""Stored hidden states: resuming, damage, other rows, mixed models, batches and memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.hidden_states import capture as capture_module
from helpers.hidden_states import stored
from helpers.hidden_states.capture import capture, token_entropies
from helpers.hidden_states.stored import (
    BY_PROMPT,
    IN_ORDER,
    HiddenStates,
    open_hidden_states,
    read_hidden_states,
    read_token_entropies,
)
from helpers.models.forwards import TokenSequence
from helpers.models.loading import decoder_blocks, identify, load_language_model
from helpers.progress import Progress, StageProgress, progress_through, silent_progress
from helpers.store.cache import Store
from helpers.store.files import read_arrays, read_metadata, write_arrays
from helpers.studies.registry import make_config
from support.tiny_models import random_model, save_language_model
from tests.benchmarks.live_tensors import watch

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = 2  # </think> of the tiny tokenizer
AT = ("think_end",)


def config_in(folder: Path, **changes: Any) -> RunConfig:
    usual: dict[str, Any] = {"cache_dir": folder / "cache", "out": folder / "out", "device": "cpu"}
    return make_config(**(usual | changes))


def made_up_rows(n_prompts: int = 4, k: int = 5, vocabulary: int = 250) -> list[TokenSequence]:
    """K answers to each prompt, of very different lengths, that close their thinking."""
    rng = np.random.default_rng(0)
    found = []
    for q in range(n_prompts):
        prompt = tuple(rng.integers(3, vocabulary, 4 + 3 * q).tolist())
        for _ in range(k):
            thought = rng.integers(3, vocabulary, int(rng.integers(1, 40))).tolist()
            answer = rng.integers(3, vocabulary, 5).tolist()
            found.append(TokenSequence(prompt, (*thought, CLOSE, *answer, 0)))
    return found


def names_of(sequences: Sequence[TokenSequence]) -> list[str]:
    """Each row's prompt and its number among that prompt's rows."""
    seen: dict[tuple[int, ...], list[int]] = {}
    found = []
    for sequence in sequences:
        rows = seen.setdefault(sequence.prompt_ids, [len(seen)])
        found.append(f"q{rows[0]}#{len(rows) - 1}")
        rows.append(0)
    return found


def read(
    config: RunConfig,
    sequences: Sequence[TokenSequence],
    store: Store,
    progress: Progress | None = None,
    *,
    rows: Sequence[str] | None = None,
    positions: Sequence[str] = AT,
    **how: Any,
) -> HiddenStates:
    return read_hidden_states(
        config, sequences, rows or names_of(sequences), positions, config.run_folder, store,
        progress or silent_progress(), **({"company": BY_PROMPT, "unit": "runs"} | how),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    """Folders of two tiny models of the same make."""
    base = tmp_path_factory.mktemp("models")
    paths = {
        "qwen3": save_language_model("qwen3", base / "qwen3"),
        "other": save_language_model("qwen3", base / "other", seed=1),
    }
    return {name: str(path) for name, path in paths.items()}


def count_captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of sequences whenever hidden states are read."""
    seen: list[int] = []
    right = capture_module.capture

    def watched(lm: Any, sequences: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(sequences))
        return right(lm, sequences, *args, **kwargs)

    monkeypatch.setattr(stored, "capture", watched)
    return seen


def test_batches_and_backends_change_no_key_and_no_bit(tmp_path, tiny, monkeypatch):
    sequences = made_up_rows()
    files = []
    for name, how in (("a", {"hidden_backend": "nnsight"}), ("b", {"hidden_backend": "plain"})):
        config = config_in(tmp_path / name, model=tiny["qwen3"], **how)
        store = Store(config.cache_dir)
        read(config, sequences, store)
        files.append((config.run_folder / "hidden" / "think_end.safetensors").read_bytes())
        seen = count_captures(monkeypatch)
        again = config.model_copy(update={"hidden_backend": "plain", "hidden_batch_tokens": 64})
        read(again, sequences, store)
        assert seen == []
        store.close()
    assert files[0] == files[1]
    narrow = config_in(tmp_path / "c", model=tiny["qwen3"], hidden_batch_tokens=64)
    store = Store(narrow.cache_dir)
    found = read(narrow, sequences, store)
    store.close()
    whole = open_hidden_states(config_in(tmp_path / "a", model=tiny["qwen3"]).run_folder, AT)
    assert_close(found, whole)
    meta = read_metadata(narrow.run_folder / "hidden" / "think_end.safetensors")
    assert json.loads(meta["rows"])[:6] == ["q0#0", "q0#1", "q0#2", "q0#3", "q0#4", "q1#0"]
    assert meta["model_hash"] == identify(tiny["qwen3"]).model_hash
    assert "input of the first decoder block" in meta["layers"]


def assert_close(a: HiddenStates, b: HiddenStates) -> None:
    for name, states in a.hidden.items():
        np.testing.assert_allclose(states, b.hidden[name], rtol=0, atol=1e-4)


class Killed(BaseException):
    pass


def test_a_killed_trace_goes_on_where_it_was_and_makes_the_same_file(tmp_path, tiny, monkeypatch):
    company = replace(BY_PROMPT, rows=10)
    sequences = made_up_rows(n_prompts=6, k=5)
    whole = config_in(tmp_path / "whole", model=tiny["qwen3"])
    store = Store(whole.cache_dir)
    read(whole, sequences, store, company=company)
    store.close()

    def kill_after(runs_done: int) -> Callable[[StageProgress], None]:
        def show(state: StageProgress) -> None:
            if state.title == "Reading hidden states" and state.done > runs_done:
                raise Killed

        return show

    config = config_in(tmp_path / "killed", model=tiny["qwen3"])
    store = Store(config.cache_dir)
    with pytest.raises(Killed):
        read(config, sequences, store, progress_through(kill_after(12)), company=company)
    assert not (config.run_folder / "hidden").exists()
    seen = count_captures(monkeypatch)
    shown: dict[str, StageProgress] = {}
    watchful = progress_through(lambda s: shown.update({s.title: s}))
    read(config, sequences, store, watchful, company=company)
    assert seen == [10, 10]  # two questions at a time; the first two were stored
    stage = shown["Reading hidden states"]
    assert (stage.done, stage.total, stage.unit) == (20, 20, "runs")
    thoughts = [s.answer_ids.index(CLOSE) + 1 for s in sequences[10:]]
    assert stage.tokens == sum(len(s.prompt_ids) for s in sequences[10:]) + sum(thoughts)
    names = [c.run_folder / "hidden" / "think_end.safetensors" for c in (whole, config)]
    assert names[0].read_bytes() == names[1].read_bytes()
    # Killed between the storing of two questions that were read together.
    next(store.folder.rglob("arrays/*/*.safetensors")).unlink()
    names[1].unlink()
    read(config, sequences, store, company=company)
    store.close()
    assert names[0].read_bytes() == names[1].read_bytes()


def test_other_questions_repeat_nothing(tmp_path, store, tiny, monkeypatch):
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows(n_prompts=5, k=4)
    whole = read(config, sequences, store)
    expected = np.array(whole.hidden["think_end"])
    names = names_of(sequences)
    seen = count_captures(monkeypatch)
    rows = [*range(12, 20), *range(4, 8)]  # the first and third left out, the rest reordered
    found = read(config, [sequences[i] for i in rows], store, rows=[names[i] for i in rows])
    assert seen == []
    assert (found.hidden["think_end"] == expected[rows]).all()
    assert found.rows == tuple(names[i] for i in rows)
    fewer = [i for i in range(20) if i != 9]  # one answer to the third left out
    some = [sequences[i] for i in fewer]
    found = read(config, some, store)
    assert seen == [19]  # read in the company of its neighbours, which are not stored again
    others = [i for i, row in enumerate(fewer) if row // 4 != 2]
    states = found.hidden["think_end"]
    assert (states[others] == expected[fewer][others]).all()
    np.testing.assert_allclose(states, expected[fewer], rtol=0, atol=1e-4)
    # Another row's name, and nothing else: the file's rows follow.
    renamed = [f"row {i}" for i in fewer]
    read(config, some, store, rows=renamed)
    open_hidden_states(config.run_folder, AT, rows=renamed)
    assert seen == [19]


def test_in_order_a_position_more_and_rows_more_repeat_nothing(tmp_path, store, tiny, monkeypatch):
    """One answer to each prompt, in pieces of equal size, each position stored on its own."""
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows(n_prompts=10, k=1)
    how: dict[str, Any] = {"company": replace(IN_ORDER, rows=4)}
    seen = count_captures(monkeypatch)
    first = read(config, sequences, store, **how)
    assert seen == [4, 4, 2]
    more = ("think_end", "answer_mean")
    both = read(config, sequences, store, positions=more, **how)
    assert seen == [4, 4, 2] * 2
    read(config, sequences, store, positions=more, **how)
    fewer = read(config, sequences[:8], store, positions=more, **how)
    assert seen == [4, 4, 2] * 2
    lm = load_language_model(tiny["qwen3"], device="cpu")
    plain = capture(lm, sequences, more)
    for name in more:
        np.testing.assert_allclose(both.hidden[name], plain.hidden[name], rtol=0, atol=1e-4)
        assert (fewer.hidden[name] == both.hidden[name][:8]).all()
    assert (first.hidden["think_end"] == both.hidden["think_end"]).all()
    assert (both.token_embedding == plain.token_embedding).all()
    # Places of its own are a part of what is stored.
    named = [TokenSequence(s.prompt_ids, s.answer_ids, {"think_end": (0, 1)}) for s in sequences]
    own = read(config, named, store, **how)
    assert seen == [4, 4, 2] * 3
    assert own.token_ids["think_end"].tolist() == [s.prompt_ids[0] for s in sequences]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(bytes(data))


def test_a_damaged_piece_is_read_anew_and_a_damaged_file_is_named(
    tmp_path, store, tiny, monkeypatch
):
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows()
    read(config, sequences, store)
    path = config.run_folder / "hidden" / "think_end.safetensors"
    whole = path.read_bytes()
    pieces = sorted(store.folder.rglob("arrays/*/*.safetensors"))
    assert len(pieces) == 4
    damage(pieces[1])
    path.unlink()
    seen = count_captures(monkeypatch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read(config, sequences, store)
    assert seen == [20]  # in the company in which it was read at first: the same bits
    assert path.read_bytes() == whole
    assert any(str(pieces[1]) in str(w.message) for w in said)

    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"think_end\.safetensors is damaged .it is cut off"):
        open_hidden_states(config.run_folder, AT)
    read(config, sequences, store)
    assert path.read_bytes() == whole
    arrays, meta = read_arrays(path), read_metadata(path)
    for spoilt, reason in (
        ({k: v for k, v in meta.items() if k != "rows"}, "its header has no 'rows'"),
        ({**meta, "rows": "[1, 2]"}, "it names 2 rows and has states"),
        ({**meta, "rows": "{"}, "is damaged"),
    ):
        write_arrays(path, arrays, spoilt)
        with pytest.raises(UserError, match=reason):
            open_hidden_states(config.run_folder, AT)
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"think_end\.safetensors is damaged"):
        open_hidden_states(config.run_folder, AT)
    path.unlink()
    with pytest.raises(UserError, match=r"think_end\.safetensors is missing: no hidden states"):
        open_hidden_states(config.run_folder, AT)


def test_a_file_of_other_runs_or_of_another_model_is_refused(tmp_path, store, tiny):
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows(n_prompts=2, k=3)
    before = np.array(read(config, sequences, store).hidden["think_end"])
    ours, theirs = (identify(tiny[name]).model_hash for name in ("qwen3", "other"))
    folder, names = config.run_folder, names_of(sequences)
    again = partial(open_hidden_states, folder, AT)
    again(rows=names, model_hash=ours)
    with pytest.raises(UserError, match=r"of other rows: it has 6 rows, the table 5"):
        again(rows=names[:-1])
    with pytest.raises(UserError, match=r"row 0 is 'q0#0', in the table 'q0#1'"):
        again(rows=[names[1], names[0], *names[2:]])
    with pytest.raises(UserError, match=f"mixes models: .*think_end.* {ours}, the run of {theirs}"):
        again(model_hash=theirs)
    # The same run folder, and the folder of the model now holds another one.
    other = config.model_copy(update={"model": tiny["other"], "out": tmp_path / "other"})
    moved = other.run_folder / "hidden"
    moved.mkdir(parents=True)
    (folder / "hidden" / "think_end.safetensors").rename(moved / "think_end.safetensors")
    (moved / "answer_last.safetensors").write_bytes(b"of a tokenizer without thinking tags")
    found = read(other, sequences, store)
    open_hidden_states(other.run_folder, AT, model_hash=theirs)
    assert np.abs(found.hidden["think_end"] - before).max() > 0.1
    assert [p.name for p in moved.iterdir()] == ["think_end.safetensors"]


def test_rows_that_the_model_cannot_have_generated_are_refused(tmp_path, store, tiny):
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows(n_prompts=1, k=2)
    strange = [sequences[0], replace(sequences[1], answer_ids=(5, 700, CLOSE, 6))]
    with pytest.raises(UserError, match=r"q0#1 was not generated by .* token 700, .* has 259"):
        read(config, strange, store)
    long = [replace(sequences[0], answer_ids=(5,) * 95 + (CLOSE,))]
    message = r"q0#0 .* has 100 tokens, and the context is 96"
    with pytest.raises(UserError, match=message):
        read(config, long, store)
    with pytest.raises(UserError, match=message):
        read_token_entropies(config, long, ["q0#0"], store, silent_progress())


def test_entropies_are_stored_and_read_again_where_damaged(tmp_path, store, tiny):
    config = config_in(tmp_path, model=tiny["qwen3"])
    sequences = made_up_rows()
    names = names_of(sequences)
    shown: dict[str, StageProgress] = {}
    watchful = progress_through(lambda s: shown.update({s.title: s}))
    found = read_token_entropies(config, sequences, names, store, watchful, unit="runs")
    stage = shown["Reading token entropies"]
    assert (stage.done, stage.unit) == (20, "runs")
    assert stage.tokens > 0
    lm = load_language_model(tiny["qwen3"], device="cpu")
    for sequence, each in zip(sequences, found, strict=True):
        alone = token_entropies(lm, [sequence])[0]
        np.testing.assert_allclose(each.entropies, alone.entropies, rtol=0, atol=1e-4)
        np.testing.assert_allclose(each.logprobs, alone.logprobs, rtol=0, atol=1e-4)
        assert len(each.entropies) == len(sequence.answer_ids)
    damage(sorted(store.folder.rglob("arrays/*/*.safetensors"))[0])
    block, ran = decoder_blocks(lm.model)[1][0], []
    hook = block.register_forward_pre_hook(lambda m, given: ran.append(len(given[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = read_token_entropies(config, sequences, names, store, silent_progress())
    hook.remove()
    assert sum(ran) == len(sequences) + 1  # and one token to look at the output layer
    for a, b in zip(again, found, strict=True):
        assert a.entropies.tobytes() == b.entropies.tobytes()


# Memory


def long_sequences(*lengths: int) -> list[TokenSequence]:
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 250, n).tolist() for n in lengths]
    return [TokenSequence(tuple(x[:10]), tuple(x[10:])) for x in ids]


@pytest.mark.parametrize("backend", ["nnsight", "plain"])
def test_memory_grows_with_the_tokens_of_a_batch_and_not_with_layers_or_their_square(backend):
    peaks = {}
    for layers in (2, 8):
        lm = random_model(layers=layers, context=4000)
        lm.model.to(torch.bfloat16)
        capture(lm, long_sequences(20), ("answer_last",), backend=backend)
        for lengths in ((2000,), (2000, 1001), (2000, 1001, 900, 600, 400)):
            # The last are too short for the batch of the first: they run after it.
            sequences = long_sequences(*lengths)
            found = watch(
                partial(
                    capture, lm, sequences, ("answer_last",), batch_tokens=4000, backend=backend
                )
            )
            assert found.left < 0.01 * found.peak
            peaks[layers, lengths] = found.peak
    assert peaks[8, (2000,)] == pytest.approx(peaks[2, (2000,)], rel=0.02)
    assert peaks[2, (2000, 1001)] == pytest.approx(2 * peaks[2, (2000,)], rel=0.1)
    # A batch is as large as its longest run makes it, however many short ones follow.
    assert peaks[2, (2000, 1001, 900, 600, 400)] == pytest.approx(peaks[2, (2000, 1001)], rel=0.1)


def test_rows_that_think_alike_are_read_once_and_what_follows_is_not(
    tmp_path: Path, store: Store, tiny: dict[str, str]
) -> None:
    """A state where the thinking closes depends on nothing behind it."""
    sequences = made_up_rows(n_prompts=2, k=3)
    config = config_in(tmp_path, model=tiny["qwen3"])
    expected = np.array(read(config, sequences, store).hidden["think_end"])
    copies = [replace(s, answer_ids=(*s.answer_ids[:-2], 9, 0)) for s in sequences]
    both = [s for q in (slice(0, 3), slice(3, 6)) for s in (*sequences[q], *copies[q])]
    lm, ran = load_language_model(tiny["qwen3"], device="cpu"), []
    block = decoder_blocks(lm.model)[1][0]
    hook = block.register_forward_pre_hook(lambda m, given: ran.append(len(given[0])))
    again = read(config, both, store)
    hook.remove()
    assert sum(ran) == 6
    order = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    np.testing.assert_array_equal(again.hidden["think_end"], expected[order])
