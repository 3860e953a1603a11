"""Tracing of reasoning runs: positions, resuming, damage, mixed models, and memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.data.questions import lab_questions
from helpers.errors import UserError
from helpers.generation.records import Decoding, Request
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.hidden_states import capture as capture_module
from helpers.hidden_states import stored
from helpers.hidden_states.capture import capture, think_end_id, token_entropies
from helpers.hidden_states.stored import (
    forced_entropies,
    open_traced,
    row_names,
    trace,
    trace_position,
)
from helpers.models.forwards import TokenSequence
from helpers.models.loading import decoder_blocks, identify, load_language_model, load_tokenizer
from helpers.progress import StageProgress, progress_through, silent_progress
from helpers.store.cache import Store
from helpers.store.files import read_arrays, read_metadata, write_arrays
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.registry import make_config
from support.tiny_models import byte_tokenizer, random_model, save_language_model
from tests.benchmarks.live_tensors import watch

pytestmark = pytest.mark.usefixtures("one_thread")
CLOSE = 2  # </think> of the tiny tokenizer and of the lab's


def reasoning_config(folder: Path, **changes: Any) -> ReasoningConfig:
    usual: dict[str, Any] = {"cache_dir": folder / "cache", "out": folder / "out", "device": "cpu"}
    config = make_config("lab-think", **(usual | changes))
    assert isinstance(config, ReasoningConfig)
    return config


def make_run(
    question: str, run_id: int, token_ids: tuple[int, ...], **changes: Any
) -> ReasoningRun:
    span = (0, token_ids.index(CLOSE)) if CLOSE in token_ids else None
    return ReasoningRun(
        question_id=question, run_id=run_id, text="", thinking="", answer="", final_answer=None,
        status=None, token_ids=token_ids, token_logprobs=(), token_entropies=(),
        entropy_kind="none", thinking_span=span, finish_reason="stop",
    )  # fmt: skip


Runs = tuple[list[tuple[int, ...]], list[ReasoningRun]]


def made_up_runs(n_questions: int = 4, k: int = 5, vocabulary: int = 250) -> Runs:
    """Prompts, one a run, and runs of very different lengths that close their thinking."""
    rng = np.random.default_rng(0)
    prompts, runs = [], []
    for q in range(n_questions):
        prompt = tuple(rng.integers(3, vocabulary, 4 + 3 * q).tolist())
        for i in range(k):
            thought = rng.integers(3, vocabulary, int(rng.integers(1, 40))).tolist()
            answer = rng.integers(3, vocabulary, 5).tolist()
            prompts.append(prompt)
            runs.append(make_run(f"q{q}", i, (*thought, CLOSE, *answer, 0)))
    return prompts, runs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, str]:
    """Folders of tiny models: two of the same make, and one that knows no thinking tags."""
    base = tmp_path_factory.mktemp("models")
    paths = {
        "qwen3": save_language_model("qwen3", base / "qwen3"),
        "other": save_language_model("qwen3", base / "other", seed=1),
        "plain": save_language_model("gpt2", base / "plain"),
    }
    byte_tokenizer(("<|end|>", "<a>", "<b>"), eos_token="<|end|>").save_pretrained(paths["plain"])
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


def test_states_are_read_at_the_generated_end_of_thinking_of_the_lab(tmp_path, store):
    config = reasoning_config(tmp_path)
    lm = load_language_model("lab", device="cpu")
    questions = lab_questions(8, 0)
    ids = encode_prompts(config, lm, prompt_texts(config, [q.question for q in questions]))
    requests = [Request(q.id, tuple(p), (0, 1, 2)) for q, p in zip(questions, ids, strict=True)]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=60, seed=0)
    samples = [s for b in generate(lm, requests, decoding, batch_size=24) for s in b]
    samples = [s for s in samples if think_end_id(lm.tokenizer) in s.token_ids]
    assert len(samples) > 5
    of = {q.id: tuple(p) for q, p in zip(questions, ids, strict=True)}
    samples.sort(key=lambda s: (s.question_id, s.sample_id))
    runs = [make_run(s.question_id, s.sample_id, s.token_ids) for s in samples]
    prompts = [of[run.question_id] for run in runs]
    found = trace(config, prompts, runs, store, silent_progress())
    assert (found.position, found.reason) == ("think_end", "")
    assert set(found.token_ids) == {think_end_id(lm.tokenizer)}
    assert found.hidden.shape == (len(runs), lm.n_layers + 1, lm.width)
    assert isinstance(found.hidden, np.memmap)
    assert found.hidden.dtype == np.float32
    for i, run in enumerate(runs):
        until = [*prompts[i], *run.token_ids[: run.token_ids.index(CLOSE) + 1]]
        with torch.no_grad():
            plain = lm.model(input_ids=torch.tensor([until]), output_hidden_states=True)
        expected = torch.cat([h[:, -1] for h in plain.hidden_states[:-1]]).numpy()
        # What follows `</think>` is not seen there; the last entry is before the final norm.
        np.testing.assert_allclose(found.hidden[i, :-1], expected, rtol=0, atol=1e-4)


def test_the_last_of_several_ends_of_thinking_counts(tmp_path, store, tiny):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    lm = load_language_model(tiny["qwen3"], device="cpu")
    prompt, answer = (50, CLOSE, 51), (60, CLOSE, 61, CLOSE, 62, 0)
    found = trace(config, [prompt], [make_run("q", 0, answer)], store, silent_progress())
    until = capture(lm, [TokenSequence(prompt, answer[:4])], ("answer_last",))
    np.testing.assert_allclose(found.hidden, until.hidden["answer_last"], rtol=0, atol=1e-4)
    assert found.token_ids.tolist() == [CLOSE]


def test_where_nobody_closes_the_thinking_the_last_token_is_read_and_it_is_said_why(
    tmp_path, store, tiny
):
    plain = reasoning_config(tmp_path, model=tiny["plain"])
    where = trace_position(plain, load_tokenizer(identify(plain.model)))
    assert where.position == "answer_last"
    assert where.reason == (
        f"the tokenizer of {tiny['plain']!r} has no </think> token: hidden states are read at "
        "answer_last, the last token of the answer"
    )
    off = reasoning_config(tmp_path, model=tiny["qwen3"], thinking=False)
    found = trace(off, [(50, CLOSE)], [make_run("q", 0, (60, 61, 0))], store, silent_progress())
    assert found.position == "answer_last"
    assert "thinking is off" in found.reason
    assert found.token_ids.tolist() == [61]
    assert open_traced(off.run_folder).reason == found.reason


def test_batches_and_backends_change_no_key_and_no_bit(tmp_path, tiny, monkeypatch):
    prompts, runs = made_up_runs()
    files = []
    for name, how in (
        ("a", {"trace_backend": "nnsight"}),
        ("b", {"trace_backend": "plain"}),
    ):
        config = reasoning_config(tmp_path / name, model=tiny["qwen3"], **how)
        store = Store(config.cache_dir)
        trace(config, prompts, runs, store, silent_progress())
        files.append((config.run_folder / "hidden" / "think_end.safetensors").read_bytes())
        seen = count_captures(monkeypatch)
        again = config.model_copy(update={"trace_backend": "plain", "trace_tokens": 64})
        trace(again, prompts, runs, store, silent_progress())
        assert seen == []
        store.close()
    assert files[0] == files[1]
    narrow = reasoning_config(tmp_path / "c", model=tiny["qwen3"], trace_tokens=64)
    store = Store(narrow.cache_dir)
    found = trace(narrow, prompts, runs, store, silent_progress())
    store.close()
    whole = open_traced(reasoning_config(tmp_path / "a", model=tiny["qwen3"]).run_folder)
    np.testing.assert_allclose(found.hidden, whole.hidden, rtol=0, atol=1e-4)
    meta = read_metadata(narrow.run_folder / "hidden" / "think_end.safetensors")
    assert json.loads(meta["rows"])[:6] == ["q0#0", "q0#1", "q0#2", "q0#3", "q0#4", "q1#0"]
    assert meta["model_hash"] == identify(tiny["qwen3"]).model_hash
    assert "input of the first decoder block" in meta["layers"]


class Killed(BaseException):
    pass


def test_a_killed_trace_goes_on_where_it_was_and_makes_the_same_file(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("helpers.hidden_states.stored.RUNS_A_PIECE", 10)
    prompts, runs = made_up_runs(n_questions=6, k=5)
    whole = reasoning_config(tmp_path / "whole", model=tiny["qwen3"])
    store = Store(whole.cache_dir)
    trace(whole, prompts, runs, store, silent_progress())
    store.close()

    def kill_after(runs_done: int) -> Callable[[StageProgress], None]:
        def show(state: StageProgress) -> None:
            if state.title == "Reading hidden states" and state.done > runs_done:
                raise Killed

        return show

    config = reasoning_config(tmp_path / "killed", model=tiny["qwen3"])
    store = Store(config.cache_dir)
    with pytest.raises(Killed):
        trace(config, prompts, runs, store, progress_through(kill_after(12)))
    assert not (config.run_folder / "hidden").exists()
    seen = count_captures(monkeypatch)
    shown: dict[str, StageProgress] = {}
    trace(config, prompts, runs, store, progress_through(lambda s: shown.update({s.title: s})))
    assert seen == [10, 10]  # two questions at a time; the first two were stored
    stage = shown["Reading hidden states"]
    assert (stage.done, stage.total, stage.unit) == (20, 20, "runs")
    read = zip(prompts[10:], runs[10:], strict=True)
    assert stage.tokens == sum(len(p) + (r.thinking_span or (0, 0))[1] + 1 for p, r in read)
    names = [c.run_folder / "hidden" / "think_end.safetensors" for c in (whole, config)]
    assert names[0].read_bytes() == names[1].read_bytes()
    # Killed between the storing of two questions that were read together.
    next(store.folder.rglob("arrays/*/*.safetensors")).unlink()
    names[1].unlink()
    trace(config, prompts, runs, store, silent_progress())
    store.close()
    assert names[0].read_bytes() == names[1].read_bytes()


def test_other_questions_repeat_nothing(tmp_path, store, tiny, monkeypatch):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs(n_questions=5, k=4)
    whole = trace(config, prompts, runs, store, silent_progress())
    expected = np.array(whole.hidden)
    seen = count_captures(monkeypatch)
    rows = [*range(12, 20), *range(4, 8)]  # the first and third left out, the rest reordered
    found = trace(config, [prompts[i] for i in rows], [runs[i] for i in rows], store,
                  silent_progress())  # fmt: skip
    assert seen == []
    assert (found.hidden == expected[rows]).all()
    fewer = [i for i in range(20) if i != 9]  # one run of the third question left out
    found = trace(config, [prompts[i] for i in fewer], [runs[i] for i in fewer], store,
                  silent_progress())  # fmt: skip
    assert seen == [19]  # read in the company of its neighbours, which are not stored again
    others = [i for i, row in enumerate(fewer) if row // 4 != 2]
    assert (found.hidden[others] == expected[fewer][others]).all()
    np.testing.assert_allclose(found.hidden, expected[fewer], rtol=0, atol=1e-4)
    # Another run's number, and nothing else: the file's rows follow.
    renamed = [replace(runs[i], run_id=i) for i in fewer]
    trace(config, [prompts[i] for i in fewer], renamed, store, silent_progress())
    open_traced(config.run_folder, rows=row_names(renamed))
    assert seen == [19]


def test_a_question_of_very_many_runs_is_cut(tmp_path, store, tiny, monkeypatch):
    monkeypatch.setattr("helpers.hidden_states.stored.RUNS_A_PIECE", 4)
    seen = count_captures(monkeypatch)
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs(n_questions=2, k=9)
    found = trace(config, prompts, runs, store, silent_progress())
    assert max(seen) <= 4
    assert sum(seen) == 18
    lm = load_language_model(tiny["qwen3"], device="cpu")
    sequences = [TokenSequence(p, r.token_ids) for p, r in zip(prompts, runs, strict=True)]
    plain = capture(lm, sequences, ("think_end",)).hidden["think_end"]
    np.testing.assert_allclose(found.hidden, plain, rtol=0, atol=1e-4)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(bytes(data))


def test_a_damaged_piece_is_read_anew_and_a_damaged_file_is_named(
    tmp_path, store, tiny, monkeypatch
):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs()
    trace(config, prompts, runs, store, silent_progress())
    path = config.run_folder / "hidden" / "think_end.safetensors"
    whole = path.read_bytes()
    pieces = sorted(store.folder.rglob("arrays/*/*.safetensors"))
    assert len(pieces) == 4
    damage(pieces[1])
    path.unlink()
    seen = count_captures(monkeypatch)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trace(config, prompts, runs, store, silent_progress())
    assert seen == [20]  # in the company in which it was read at first: the same bits
    assert path.read_bytes() == whole
    assert any(str(pieces[1]) in str(w.message) for w in said)

    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"think_end\.safetensors is damaged: it is cut off"):
        open_traced(config.run_folder)
    trace(config, prompts, runs, store, silent_progress())
    assert path.read_bytes() == whole
    arrays, meta = read_arrays(path), read_metadata(path)
    for spoilt, reason in (
        ({k: v for k, v in meta.items() if k != "rows"}, "its header has no 'rows'"),
        ({**meta, "rows": "[1, 2]"}, "it names 2 rows and has states"),
        ({**meta, "rows": "{"}, "is damaged: "),
    ):
        write_arrays(path, arrays, spoilt)
        with pytest.raises(UserError, match=reason):
            open_traced(config.run_folder)
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"think_end\.safetensors is damaged"):
        open_traced(config.run_folder)
    path.unlink()
    with pytest.raises(UserError, match=r"think_end\.safetensors is missing: no hidden states"):
        open_traced(config.run_folder)


def test_a_file_of_other_runs_or_of_another_model_is_refused(tmp_path, store, tiny):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs(n_questions=2, k=3)
    first = trace(config, prompts, runs, store, silent_progress())
    states_before = np.array(first.hidden)
    ours, theirs = (identify(tiny[name]).model_hash for name in ("qwen3", "other"))
    folder = config.run_folder
    names = row_names(runs)
    open_traced(folder, rows=names, model_hash=ours)
    with pytest.raises(UserError, match=r"it has 6 rows, the table 5"):
        open_traced(folder, rows=names[:-1])
    with pytest.raises(UserError, match=r"row 0 is 'q0#0', in the table 'q0#1'"):
        open_traced(folder, rows=[names[1], names[0], *names[2:]])
    with pytest.raises(UserError, match=f"mixes models: .*think_end.* {ours}, the run of {theirs}"):
        open_traced(folder, model_hash=theirs)
    # The same run folder, and the folder of the model now holds another one.
    other = config.model_copy(update={"model": tiny["other"], "out": tmp_path / "other"})
    moved = other.run_folder / "hidden"
    moved.mkdir(parents=True)
    (folder / "hidden" / "think_end.safetensors").rename(moved / "think_end.safetensors")
    (moved / "answer_last.safetensors").write_bytes(b"of a tokenizer without thinking tags")
    found = trace(other, prompts, runs, store, silent_progress())
    open_traced(other.run_folder, model_hash=theirs)
    assert np.abs(np.array(found.hidden) - states_before).max() > 0.1
    assert [p.name for p in moved.iterdir()] == ["think_end.safetensors"]


def test_runs_that_the_model_cannot_have_generated_are_refused(tmp_path, store, tiny):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs(n_questions=1, k=2)
    strange = [runs[0], replace(runs[1], token_ids=(5, 700, CLOSE, 6))]
    with pytest.raises(UserError, match=r"run q0#1 was not generated by .* token 700, .* has 259"):
        trace(config, prompts, strange, store, silent_progress())
    long = [replace(runs[0], token_ids=(5,) * 95 + (CLOSE,))]
    with pytest.raises(UserError, match=r"run q0#0 .* has 100 tokens, and the context is 96"):
        trace(config, prompts[:1], long, store, silent_progress())
    with pytest.raises(UserError, match=r"run q0#0 .* context"):
        forced_entropies(config, prompts[:1], long, store, silent_progress())
    open_ended = [replace(runs[0], token_ids=(5, 6, 0))]
    with pytest.raises(ValueError, match="q0#0 never closes its thinking"):
        trace(config, prompts[:1], open_ended, store, silent_progress())


def test_forced_entropies_are_made_where_they_lack_and_stored(tmp_path, store, tiny, monkeypatch):
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    prompts, runs = made_up_runs()
    kinds = ["full", "top-k", "none"]
    runs = [replace(run, entropy_kind=kinds[i % 3]) for i, run in enumerate(runs)]
    shown: dict[str, StageProgress] = {}
    watchful = progress_through(lambda s: shown.update({s.title: s}))
    found = forced_entropies(config, prompts, runs, store, watchful)
    lacking = [i for i in range(len(runs)) if i % 3]
    assert sorted(found) == lacking
    stage = shown["Reading token entropies"]
    assert (stage.done, stage.unit) == (len(lacking), "runs")
    assert stage.tokens > 0
    lm = load_language_model(tiny["qwen3"], device="cpu")
    for i in lacking:
        alone = token_entropies(lm, [TokenSequence(prompts[i], runs[i].token_ids)])[0]
        np.testing.assert_allclose(found[i].entropies, alone.entropies, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found[i].logprobs, alone.logprobs, rtol=0, atol=1e-4)
        assert len(found[i].entropies) == len(runs[i].token_ids)
    pieces = sorted(store.folder.rglob("arrays/*/*.safetensors"))
    damage(pieces[0])
    block, ran = decoder_blocks(lm.model)[1][0], []
    hook = block.register_forward_pre_hook(lambda m, given: ran.append(len(given[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = forced_entropies(config, prompts, runs, store, silent_progress())
    hook.remove()
    assert sum(ran) == len(lacking) + 1  # and one token to look at the output layer
    for i in lacking:
        assert again[i].entropies.tobytes() == found[i].entropies.tobytes()
    assert forced_entropies(config, prompts[:1], runs[:1], store, silent_progress()) == {}


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


def test_runs_that_think_alike_are_read_once_and_what_follows_is_not(
    tmp_path: Path, store: Store, tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state where the thinking closes depends on nothing behind it."""
    prompts, runs = made_up_runs(n_questions=2, k=3)
    config = reasoning_config(tmp_path, model=tiny["qwen3"])
    expected = trace(config, prompts, runs, store, silent_progress())
    copies = [replace(r, run_id=r.run_id + 3, token_ids=(*r.token_ids[:-2], 9, 0)) for r in runs]
    both = [r for q in (slice(0, 3), slice(3, 6)) for r in (*runs[q], *copies[q])]
    of = {run.question_id: prompt for run, prompt in zip(runs, prompts, strict=True)}
    seen = count_captures(monkeypatch)
    again = trace(config, [of[r.question_id] for r in both], both, store, silent_progress())
    assert seen == [6]
    order = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    np.testing.assert_array_equal(again.hidden, expected.hidden[order])
