"""What runs models: sampling, judging, hidden states and p(True), each against its plain way.

Everything runs on the lab's questions with the lab's models, on the CPU in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.questions import lab_questions
from helpers.generation.option_logprobs import PromptCounts, next_log_probs
from helpers.generation.records import GREEDY, Decoding, Prompt, Request, Sample
from helpers.generation.samples import make_prompts
from helpers.generation.sampling import generate, uniforms
from helpers.hidden_states.capture import capture as capture_states
from helpers.hidden_states.capture import think_end_id
from helpers.hidden_states.stored import BY_PROMPT, IN_ORDER
from helpers.meanings.clustering import cluster_many
from helpers.meanings.judges import NliJudge, nli_judge
from helpers.models.forwards import Backend, TokenSequence, batch_length
from helpers.models.loading import (
    LanguageModel,
    decoder_blocks,
    identify,
    load_classifier,
    load_language_model,
)
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.uncertainty.p_true import listed_answers, question_block
from tests.benchmarks.harness import Comparison, Size, close, compare, require
from tests.benchmarks.live_tensors import watch

DECODING = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=32, seed=0)
K = 10
POSITIONS = ("tbg", "answer_last", "answer_second_last", "answer_mean")
BATCH_TOKENS = 16_384
TOLERANCE = 1e-4
"""Of states, which are of the order of 1, and of nats: other forwards round differently."""

States = dict[str, np.ndarray]
"""Position to `[n, layers + 1, width]`."""


# --- inputs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A lab question with its prompt, and its answers once there are some."""

    question: str
    prompt: Prompt
    samples: tuple[Sample, ...] = ()
    greedy: Sample | None = None

    @property
    def sequence(self) -> TokenSequence:
        """The prompt with the most likely answer."""
        assert self.greedy is not None
        return TokenSequence(self.prompt.token_ids, self.greedy.token_ids)


def lab_model() -> LanguageModel:
    """The lab's language model, on the CPU in float32."""
    return load_language_model("lab", device="cpu", dtype="float32")


def ask(n: int, preset: str = "lab") -> list[Asked]:
    """The first n questions of a lab run."""
    config = make_config(preset)
    questions = {q.id: q.question for q in lab_questions(n, config.seed)}
    return [Asked(questions[prompt.id], prompt) for prompt in make_prompts(config, questions)]


def sample(asked: Sequence[Asked], sample_ids: Sequence[int], decoding: Decoding) -> list[Sample]:
    """Ours: batches over questions and samples."""
    wanted = [Request(a.prompt.id, a.prompt.token_ids, tuple(sample_ids)) for a in asked]
    return [s for b in generate(lab_model(), wanted, decoding, batch_size=256) for s in b]


@lru_cache(maxsize=8)
def answered(n: int, k: int) -> tuple[Asked, ...]:
    """n lab questions with k samples and the most likely answer each, as a lab run has them."""
    asked = ask(n)
    found = {(s.question_id, s.sample_id): s for s in sample(asked, range(GREEDY, k), DECODING)}
    return tuple(
        replace(
            a,
            samples=tuple(found[a.prompt.id, i] for i in range(k)),
            greedy=found[a.prompt.id, GREEDY],
        )
        for a in asked
    )


# --- sampling ------------------------------------------------------------------------------------


def sampling(size: Size) -> list[Comparison]:
    """Sampling K answers and the most likely one of each question, in three ways."""
    lm, asked = lab_model(), ask({"tiny": 2, "quick": 10, "full": 50}[size])
    ids = range(GREEDY, 2 if size == "tiny" else K)
    held = (
        f"{len(asked)} lab questions x {len(ids)} answers, float32, temperature 1, at most "
        f"{DECODING.max_new_tokens} tokens, loading not counted"
    )
    ours = partial(sample, asked, ids, DECODING)
    sample(asked[:1], ids, DECODING)
    generate_by_transformers(lm, asked[:1], range(1))
    alone = compare(
        size, "sampling", "one answer at a time, a cached forward a token, the same random numbers",
        held, lambda: [one_answer(lm, a, i) for a in asked for i in ids], ours, same_answers, 8.0,
    )  # fmt: skip
    theirs = compare(
        size, "sampling, against transformers", "model.generate(do_sample=True) once a sample",
        held, partial(generate_by_transformers, lm, asked, ids), ours, None, 8.0,
    )  # fmt: skip
    return [alone, theirs]


def one_answer(lm: LanguageModel, asked: Asked, sample_id: int) -> Sample:
    """The plain way: an answer alone, its prompt computed anew."""
    import torch

    tokens: list[int] = []
    logprobs: list[float] = []
    fed, cache = torch.tensor([asked.prompt.token_ids]), None
    with torch.inference_mode():
        for draw in uniforms(DECODING.seed, asked.prompt.id, sample_id, DECODING.max_new_tokens):
            out = lm.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            log_p = torch.log_softmax(out.logits[0, -1].double(), -1)
            cumulative = log_p.exp().cumsum(-1)
            at = int(torch.searchsorted(cumulative, float(draw) * cumulative[-1], right=True))
            drawn = min(at, len(cumulative) - 1)
            token = int(log_p.argmax()) if sample_id == GREEDY else drawn
            tokens.append(token)
            logprobs.append(float(log_p[token]))
            if token in lm.end_ids:
                break
            fed = torch.tensor([[token]])
    return Sample(asked.prompt.id, sample_id, "", tuple(tokens), tuple(logprobs), (), "")


def generate_by_transformers(
    lm: LanguageModel, asked: Sequence[Asked], sample_ids: Sequence[int]
) -> None:
    """Transformers' own loop, once a sample."""
    import torch

    with torch.inference_mode():
        for a in asked:
            ids = torch.tensor([a.prompt.token_ids])
            for i in sample_ids:
                how: dict[str, Any] = {"do_sample": False}
                if i != GREEDY:
                    how = {"do_sample": True, "top_k": 0}
                lm.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=lm.pad_id,
                    max_new_tokens=DECODING.max_new_tokens, **how,
                )  # fmt: skip


def same_answers(plain: list[Sample], ours: list[Sample]) -> str:
    """The same tokens, and log-probabilities within the tolerance."""
    found = {(s.question_id, s.sample_id): s for s in ours}
    asked = {(p.question_id, p.sample_id): p for p in plain}
    require(found.keys() == asked.keys(), "sampling: other questions or samples were answered")
    for key, p in asked.items():
        other = found[key]
        require(other.token_ids == p.token_ids, f"sampling: {other} instead of {p}")
        close("log-probabilities", np.array(p.token_logprobs), np.array(other.token_logprobs),
              TOLERANCE)  # fmt: skip
    return f"tokens equal, log-probabilities to {TOLERANCE:g}"


# --- judging -------------------------------------------------------------------------------------


def judging(size: Size) -> list[Comparison]:
    """Grouping the samples of lab questions by meaning."""
    asked = answered({"tiny": 3, "quick": 20, "full": 60}[size], 4 if size == "tiny" else K)
    work: dict[str, tuple[int, int]] = {}

    def plain() -> list[list[int]]:
        clusters, work["plain"] = one_pair_a_forward(asked)
        return clusters

    def ours() -> list[list[int]]:
        clusters, judge = group([[s.text for s in a.samples] for a in asked], asked)
        work["ours"] = (judge.counts.forwards, judge.counts.pairs - judge.counts.stored)
        return clusters

    def check(expected: list[list[int]], found: list[list[int]]) -> str:
        differ = sum(a != b for a, b in zip(expected, found, strict=True))
        require(not differ, f"{differ} of {len(found)} questions are grouped otherwise")
        return f"meanings of {sum(map(len, found))} samples equal"

    one_pair_a_forward(asked[:1])
    made = compare(
        size, "judging", "each answer with each founder in turn, both ways, one pair a forward",
        f"{len(asked)} lab questions x {len(asked[0].samples)} samples, the lab's judge, strict "
        "rule; ours writes every verdict to a new store", plain, ours, check, 8.0,
    )  # fmt: skip
    counts = {
        f"{what} {way}": float(work[way][i])
        for i, what in enumerate(("forwards", "pairs"))
        for way in work
    }
    counts["times fewer forwards"] = work["plain"][0] / max(1, work["ours"][0])
    return [replace(made, counts=counts, count_targets={"times fewer forwards": 5.0})]


def group(
    texts: Sequence[Sequence[str]], asked: Sequence[Asked]
) -> tuple[list[list[int]], NliJudge]:
    """Ours: the meaning of each text, as a run with an empty store finds it, and the judge."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            judge = nli_judge("lab", batch_size=make_config("lab").judge_batch_size, store=store)
            return cluster_many(texts, judge.equivalent, [a.question for a in asked]), judge
        finally:
            store.close()


def one_pair_a_forward(asked: Sequence[Asked]) -> tuple[list[list[int]], tuple[int, int]]:
    """The plain way: greedy clustering against the founders, without any of our judge's code.

    Meanings `[n][K]`, and how many forwards and pairs it took.
    """
    import torch

    model, tokenizer = load_classifier(identify("lab", "judge"), "cpu")
    entailment, forwards = int(model.config.label2id["entailment"]), 0

    def entails(premise: str, hypothesis: str) -> bool:
        nonlocal forwards
        forwards += 1
        with torch.inference_mode():
            logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
        return int(logits[0].argmax()) == entailment

    found = []
    for a in asked:
        founders: list[str] = []
        ids: list[int] = []
        for text in (s.text for s in a.samples):
            same = (i for i, f in enumerate(founders) if entails(f, text) & entails(text, f))
            ids.append(next(same, len(founders)))
            if ids[-1] == len(founders):
                founders.append(text)
        found.append(ids)
    return found, (forwards, forwards)


# --- hidden states -------------------------------------------------------------------------------


def capture(size: Size) -> list[Comparison]:
    """Reading hidden states of prompts with their most likely answers."""
    lm = lab_model()
    sequences = [a.sequence for a in answered({"tiny": 4, "quick": 60, "full": 300}[size], 1)]
    held = f"{len(sequences)} lab prompts with answers, float32, the same batches"
    reference = at_positions(lm, sequences, keep_everything(lm, sequences))
    by_hooks = partial(at_named_positions, lm, sequences, "plain")
    ours = partial(at_named_positions, lm, sequences)
    by_hooks()
    return [
        compare(
            size, "capture, against a bare forward",
            "the decoder alone, nothing kept; a ratio of 0.77 is 1.3 times its time", held,
            partial(bare_forward, lm, sequences), ours,
            lambda _, found: same_states(reference, found), 1 / 1.3,
        ),
        replace(
            compare(
                size, "capture, against all positions",
                "output_hidden_states=True, every position of every layer kept", held,
                lambda: at_positions(lm, sequences, keep_everything(lm, sequences)), ours,
                same_states,
            ),
            counts=memory_counts(lm, sequences),
            # In a single batch its activations hide what is kept.
            count_targets={"times less memory": 20.0} if size == "full" else {},
        ),
        compare(
            size, "capture, by plain hooks", "capture through nnsight, as usual", held, ours,
            by_hooks, partial(same_states, tolerance=0.0),
        ),
    ]  # fmt: skip


def same_states(plain: States, ours: States, tolerance: float = TOLERANCE) -> str:
    """The same states at every position and layer, within the tolerance."""
    for name, states in plain.items():
        close(f"states at {name}", states, ours[name], tolerance)
    return f"states equal to {tolerance:g}" if tolerance else "states equal to the bit"


def at_named_positions(
    lm: LanguageModel, sequences: Sequence[TokenSequence], backend: Backend = "nnsight"
) -> States:
    """Ours, in the chunks of a run."""
    parts = [
        capture_states(lm, chunk, POSITIONS, batch_tokens=BATCH_TOKENS, backend=backend).hidden
        for chunk in _chunks(sequences)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in POSITIONS}


def bare_forward(lm: LanguageModel, sequences: Sequence[TokenSequence]) -> None:
    """The decoder over the same batches, its output thrown away."""
    import torch

    with torch.no_grad():
        for _, inputs in _batches(lm, sequences):
            lm.model.base_model(**inputs, use_cache=False)


def keep_everything(
    lm: LanguageModel, sequences: Sequence[TokenSequence]
) -> dict[int, list[np.ndarray]]:
    """The plain way: sequence to the states of all its tokens, `[tokens, width]` a layer."""
    return {
        row: [layer[at].numpy() for layer in states]
        for rows, inputs in _batches(lm, sequences)
        for states in [block_states(lm, inputs)]
        for at, row in enumerate(rows)
    }


def block_states(lm: LanguageModel, inputs: dict[str, Any]) -> list[Any]:
    """What goes into the first block and comes out of each, by transformers.

    The last of its `hidden_states` is after the final norm; what the block gave is caught by a
    hook.
    """
    import torch

    last: list[Any] = []
    _, blocks = decoder_blocks(lm.model)
    hook = blocks[-1].register_forward_hook(lambda *call: last.append(call[2]))
    try:
        with torch.no_grad():
            out = lm.model.base_model(**inputs, use_cache=False, output_hidden_states=True)
    finally:
        hook.remove()
    return [*out.hidden_states[:-1], last[0][0] if isinstance(last[0], tuple) else last[0]]


def at_positions(
    lm: LanguageModel, sequences: Sequence[TokenSequence], kept: dict[int, list[np.ndarray]]
) -> States:
    """The named positions out of states at all tokens, by their definitions."""
    found: dict[str, list[Any]] = {name: [] for name in POSITIONS}
    for row, sequence in enumerate(sequences):
        start = len(sequence.prompt_ids)
        last = start + len([t for t in sequence.answer_ids if t not in lm.end_ids]) - 1
        before, begin = max(start - 1, last - 1), min(start, last)
        spans = ((start - 1, start), (last, last + 1), (before, before + 1), (begin, last + 1))
        for name, (i, j) in zip(POSITIONS, spans, strict=True):
            found[name].append([layer[i:j].mean(0) for layer in kept[row]])
    return {name: np.stack(rows) for name, rows in found.items()}


def _batches(
    lm: LanguageModel, sequences: Sequence[TokenSequence]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The batches that `capture` makes: longest first, at most so many tokens with padding.

    Padding is on the right, where a causal model never looks, so that no mask is needed.
    """
    import torch

    for chunk in _chunks(range(len(sequences))):
        order = sorted(chunk, key=lambda i: -len(sequences[i]))
        while order:
            fits = batch_length([len(sequences[i]) for i in order], BATCH_TOKENS)
            rows, order = order[:fits], order[fits:]
            ids = torch.full((len(rows), len(sequences[rows[0]])), lm.pad_id)
            for at, row in enumerate(rows):
                tokens = [*sequences[row].prompt_ids, *sequences[row].answer_ids]
                ids[at, : len(tokens)] = torch.tensor(tokens)
            yield rows, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _chunks(rows: Any) -> list[Any]:
    return [rows[start : start + IN_ORDER.rows] for start in range(0, len(rows), IN_ORDER.rows)]


def memory_counts(lm: LanguageModel, sequences: Sequence[TokenSequence]) -> dict[str, float]:
    """Most bytes alive at once beyond those of a bare forward, in both ways, and the ratio."""
    bare = watch(lambda: bare_forward(lm, sequences)).peak
    everything = watch(lambda: keep_everything(lm, sequences)).peak - bare
    ours = watch(lambda: at_named_positions(lm, sequences))
    # The result is made of numpy arrays, of which torch's count has none.
    extra = ours.peak + sum(states.nbytes for states in ours.result.values()) - bare
    return {
        "MB beyond a bare forward, all positions": everything / 1e6,
        "MB beyond a bare forward, ours": extra / 1e6,
        "times less memory": everything / max(1, extra),
    }


def trace(size: Size) -> list[Comparison]:
    """States where the thinking closes: of all runs, and of those alone that think differently."""
    import torch

    lm, config = lab_model(), make_config("lab-think", device="cpu", dtype="float32")
    asked = ask({"tiny": 3, "quick": 20, "full": 100}[size], "lab-think")
    decoding = Decoding(config.temperature, config.top_p, config.max_new_tokens, config.seed)
    close_id = think_end_id(lm.tokenizer)
    runs = [
        TokenSequence(a.prompt.token_ids, s.token_ids)
        for a in asked
        for s in sample([a], range(K), decoding)
        if close_id in s.token_ids
    ]
    thoughts = [(r.prompt_ids, r.answer_ids[: r.answer_ids.index(close_id)]) for r in runs]
    first = [runs[i] for i, thought in enumerate(thoughts) if thoughts.index(thought) == i]

    def plain(some: list[TokenSequence]) -> np.ndarray:
        found = []
        for run in some:
            states = block_states(
                lm, {"input_ids": torch.tensor([[*run.prompt_ids, *run.answer_ids]])}
            )
            at = len(run) - 1 - run.answer_ids[::-1].index(close_id)
            found.append(np.stack([layer[0, at].numpy() for layer in states]))
        return np.stack(found)

    def ours(some: list[TokenSequence]) -> np.ndarray:
        read = [
            capture_states(lm, some[i : i + BY_PROMPT.rows], ("think_end",), whole=BY_PROMPT.whole)
            for i in range(0, len(some), BY_PROMPT.rows)
        ]
        return np.concatenate([part.hidden["think_end"] for part in read])

    return [
        compare(
            size, f"trace, {title}", "one forward a run, output_hidden_states=True",
            f"{len(some)} runs of {len(asked)} lab questions, float32",
            partial(plain, some), partial(ours, some),
            lambda a, b: close("states at think_end", a, b, TOLERANCE),
        )
        for title, some in (("all runs", runs), ("runs that think differently", first))
    ]  # fmt: skip


# --- p(True) -------------------------------------------------------------------------------------


def p_true(size: Size) -> list[Comparison]:
    """Log-probabilities of A and B after solved examples, which share their keys and values."""
    import torch

    n, examples = {"tiny": (3, 1), "quick": (10, 10), "full": (60, 10)}[size]
    lm, asked = lab_model(), answered(n + examples, 3 if size == "tiny" else K)
    blocks = [
        question_block(a.question, listed_answers(lm, [s.text for s in a.samples]), a.greedy.text)
        for a in asked
        if a.greedy
    ]
    solved = "".join(f"{block} {'AB'[i % 2]}\n\n" for i, block in enumerate(blocks[:examples]))
    encoded = lm.tokenizer([solved + block for block in blocks[examples:]])["input_ids"]
    prompts = [tuple(ids) for ids in encoded]
    letters = [lm.tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in "AB"]

    def plain() -> np.ndarray:
        found = []
        with torch.inference_mode():
            for prompt in prompts:
                out = lm.model(input_ids=torch.tensor([prompt]), use_cache=False, logits_to_keep=1)
                found.append(out.logits[0, -1].double().log_softmax(-1)[letters].numpy())
        return np.stack(found)

    counts = PromptCounts()
    next_log_probs(lm, prompts, letters, counts)
    # Only the time is of interest here: the lab's model was trained on shorter texts than these.
    made = compare(
        size, "p(True)", "each prompt whole, one a forward",
        f"{len(prompts)} lab questions after {examples} solved examples, prompts of "
        f"{np.mean([len(p) for p in prompts]):.0f} tokens, float32",
        plain, lambda: next_log_probs(lm, prompts, letters, PromptCounts()),
        lambda a, b: close("log-probabilities of A and B", a, b, TOLERANCE),
    )  # fmt: skip
    work = {
        "forwards plain": float(len(prompts)),
        "forwards ours": float(counts.forwards),
        "tokens plain": float(counts.tokens_naive),
        "tokens ours, with padding": float(counts.tokens_computed),
    }
    return [replace(made, counts=work)]
