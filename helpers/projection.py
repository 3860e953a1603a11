"""What a run will take of disk, memory and GPU memory, before it is started.

Every part has a formula of its own below, in bytes, and a name under which it is reported. The
numbers that no formula gives (a token of an answer in Python objects, a row of the store, the
copies that a step makes) stand together at the top; benchmarks/memory.py measures runs against
them. Parts of the GPU are projected from the same formulas, which are checked on the CPU.

>>> found = project(MODELS["gpt2"], Workload(n_questions=200, k=10))
>>> found.disk_bytes.total < 500e6 < found.gpu_bytes.total < 4e9
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Constants of the program; measured on the lab unless something else is said.
PROGRAM = 1_100_000_000
"""The process with torch, transformers, scikit-learn and nnsight at work, and what it has freed
but not given back; 830 MB of it are there before the first stage."""
CUDA_IN_RAM = 1_500_000_000
"""What CUDA's libraries add to the process: a rule of thumb, not measured here."""
CUDA_CONTEXT = 500_000_000
"""What a process holds of a GPU before any tensor: a rule of thumb, not measured here."""
ALLOCATOR = 1.25
"""Memory that allocators hold, over what is asked of them: freed pieces that fit nothing else."""
LOGITS_COPIES = {True: 42.2, False: 27.9}
"""`token_choice.choose_tokens`: bytes a row and token of the vocabulary, with and without the
whole distribution kept (top-p of 1 or less), beyond the logits themselves; for one block of rows
at a time."""
QUESTION_OBJECTS, ANSWER_OBJECTS, TOKEN_OBJECTS = 40_000, 1_200, 120
"""Python objects of a question (its texts, keys, scores and the store's mapped pages), of an
answer, and of a token of it."""
PAIR_WORKSPACE = 100
"""`judgements.judge_all_pairs`: bytes a pair of answers, the result included."""
STORED_ROW = 212
"""A row of the store's index, beside its text."""
STORED_ANSWER, STORED_TOKEN = 110, 21
"""Text of a stored answer, and of each of its tokens with log-probability and entropy."""
STORED_VERDICT = 42
STORED_QUESTION = 900
"""Rows of a question itself: its grouping, its p(True), in the store and in the tables."""
TABLE_ANSWER, TABLE_TOKEN = 30, 8
"""An answer and a token of it in samples.parquet, compressed."""
DISTINCT_PAIRS = 0.7
"""Share of a question's ordered pairs of answers that are judged: of different texts."""
REPORTS = 1_500_000
"""Probes, metrics and analyses of a run."""
SWEEP_COPIES = 2.5
"""float64 copies of a layer that a fit makes."""
RESAMPLING = 50_000_000
"""Bootstrap and permutation matrices, whatever the number of questions."""

# How a run is cut into pieces: `stored_states.PIECE`, `hidden_states.capture`, `p_true.CHUNK`,
# `token_choice.row_blocks`.
PIECE = 64
P_TRUE_CHUNK = 256
P_TRUE_WORDING = 45
"""Tokens of a p(True) prompt beside the question and the answers."""
LOGITS_BLOCK = 2**22
"""Logits that are worked on at a time, in whole rows."""


@dataclass(frozen=True)
class ModelShape:
    """The architecture of a causal language model."""

    name: str
    parameters: int
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    """Longest prompt, in tokens: it limits how many solved examples p(True) shows."""
    gated: bool = True
    """Whether the feed-forward layers multiply two projections (SwiGLU, GeGLU)."""
    eager: bool = False
    """Whether attention scores are made as a matrix (a soft cap on them needs that)."""

    @property
    def kv_numbers(self) -> int:
        """Numbers that one token leaves in the cache of keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class JudgeShape:
    """The architecture of a DeBERTa NLI classifier, which is run in float32."""

    name: str
    parameters: int
    width: int
    heads: int
    buckets: int
    """Relative positions that it tells apart, in each direction."""


MODELS = {
    shape.name: shape
    for shape in (
        ModelShape("gpt2", 124_439_808, 12, 768, 3072, 12, 12, 64, 50_257, 1024, gated=False),
        ModelShape("Qwen3-0.6B", 596_049_920, 28, 1024, 3072, 16, 8, 128, 151_936, 40_960),
        ModelShape("Qwen3-4B", 4_022_468_096, 36, 2560, 9728, 32, 8, 128, 151_936, 40_960),
        ModelShape(
            "Gemma-2-2B", 2_614_341_888, 26, 2304, 9216, 8, 4, 256, 256_000, 8192, eager=True
        ),
    )
}
"""Models by name; their public configs say these numbers."""
LAB = ModelShape("lab", 1_917_440, 6, 160, 448, 4, 2, 40, 1024, 512)
LAB_JUDGE = JudgeShape("lab", 793_859, 128, 4, 64)
NLI_SMALL = JudgeShape("cross-encoder/nli-deberta-v3-small", 141_897_219, 768, 12, 256)


@dataclass(frozen=True)
class Workload:
    """What a run asks of a model."""

    n_questions: int
    k: int = 10
    positions: int = 4
    prompt_tokens: float = 120
    answer_tokens: float = 64
    """Mean over answers; the cache of keys and values must hold `max_new_tokens`."""
    max_new_tokens: int = 128
    batch_size: int = 64
    batch_tokens: int = 16_384
    """Of hidden states and p(True), padding included."""
    dtype: str = "bfloat16"
    device: str = "cuda"
    """"cuda" or "cpu"; the judge always runs on the CPU here."""
    top_p: float = 1.0
    judge: JudgeShape = NLI_SMALL
    judge_batch_size: int = 64
    p_true_shots: int = 10
    train_share: float = 0.4


@dataclass(frozen=True)
class Budget:
    """Bytes by part: what is there all the time, and what each phase adds while it lasts."""

    always: dict[str, int]
    phases: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def largest_phase(self) -> str:
        """The phase that adds most; "" where there are none."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()), default="")

    @property
    def parts(self) -> dict[str, int]:
        """The parts that are there together at the peak."""
        return {**self.always, **self.phases.get(self.largest_phase, {})}

    @property
    def total(self) -> int:
        """The peak, in bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Projection:
    """What a run will take."""

    disk_bytes: Budget
    """The store and the run folder, without the model's own files."""
    ram_bytes: Budget
    """Resident memory of the process, without `mapped_bytes`."""
    gpu_bytes: Budget
    """Nothing where the model runs on the CPU."""
    mapped_bytes: int
    """Hidden states in the run folder's files: read through the system's cache, which gives the
    memory back when it is short, so that they need not fit."""


def project(shape: ModelShape, work: Workload) -> Projection:
    """What a run of `work` with a model of `shape` will take, in bytes.

    Raises KeyError for a number type that is not one of `NUMBER_BYTES`.
    """
    on_gpu = work.device != "cpu"
    model = {"weights": shape.parameters * NUMBER_BYTES[work.dtype]}
    phases = model_phases(shape, work)
    gpu = Budget({}, {})
    ram = {"program": PROGRAM, **_answers_in_ram(work), "judge": 4 * work.judge.parameters}
    ram_phases = _phases_on_the_cpu(shape, work)
    if on_gpu:
        gpu = Budget({"CUDA context": CUDA_CONTEXT, **model}, phases)
        ram |= {"CUDA libraries": CUDA_IN_RAM}
        ram_phases["loading the model"] = model
    else:
        ram |= model
        ram_phases |= phases
    return Projection(
        disk_bytes=Budget(_on_disk(shape, work)),
        ram_bytes=Budget(ram, ram_phases),
        gpu_bytes=gpu,
        mapped_bytes=_hidden_states(shape, work, work.n_questions),
    )


def smallest(work: Workload) -> Workload:
    """The same work where memory is short: batches are halved down to one sequence."""
    return replace(work, batch_size=1, batch_tokens=1)


def model_phases(shape: ModelShape, work: Workload) -> dict[str, dict[str, int]]:
    """What each use of the model adds to its weights, on whatever device it runs."""
    number = NUMBER_BYTES[work.dtype]
    length = work.prompt_tokens + work.max_new_tokens
    cache = shape.kv_numbers * number * work.batch_size * length
    whole = work.prompt_tokens + work.answer_tokens
    piece = max(whole, min(work.batch_tokens, PIECE * whole))
    phases = {
        "sampling": {
            "keys and values": cache,
            # Adding a token copies one layer's keys; SDPA needs no more than that for one token.
            "one step": max(
                logits_step(shape, work),
                cache / (2 * shape.layers)
                + shape.eager * _repeated_keys(shape, work, work.batch_size * length),
            ),
        },
        "hidden states": {
            "activations": piece * activations(shape, work, work.prompt_tokens),
            "kept states": 2 * _hidden_states(shape, work, PIECE),
        },
        "p(True), zero-shot": _p_true(shape, work, 0),
        "p(True), few-shot": _p_true(shape, work, p_true_examples(shape, work)),
    }
    return {
        phase: {part: int(ALLOCATOR * value) for part, value in parts.items()}
        for phase, parts in phases.items()
    }


def logits_step(shape: ModelShape, work: Workload) -> float:
    """Logits of one step of a batch, and the copies that choosing tokens makes of a block."""
    logits = work.batch_size * shape.vocabulary * NUMBER_BYTES[work.dtype]
    return logits + LOGITS_COPIES[work.top_p == 1] * logits_block(shape, work.batch_size)


def logits_block(shape: ModelShape, rows: int) -> float:
    """How many of the logits of so many rows are worked on at a time."""
    most = max(1, LOGITS_BLOCK // shape.vocabulary)
    return math.ceil(rows / math.ceil(rows / most)) * shape.vocabulary


def activations(shape: ModelShape, work: Workload, length: float) -> float:
    """Bytes a token that the widest step of a block holds at once, in a batch of such lengths."""
    number = NUMBER_BYTES[work.dtype]
    queries = shape.heads * shape.head_dim
    feed_forward = 4 * shape.width + (3 if shape.gated else 4) * shape.feed_forward
    attention = 4 * shape.width + 4 * queries
    scores = shape.heads * length * (number + 8) if shape.eager else 0
    return number * max(feed_forward, attention) + scores


def p_true_block(shape: ModelShape, work: Workload) -> float:
    """Tokens of a question with its listed answers, as p(True) puts it to the model."""
    listed = min(min(work.k, 10) * work.answer_tokens, 0.25 * shape.context)
    return work.prompt_tokens + listed + work.answer_tokens + P_TRUE_WORDING


def p_true_examples(shape: ModelShape, work: Workload) -> int:
    """How many solved examples the context has room for, of those that are asked for."""
    room = int(shape.context // p_true_block(shape, work)) - 1
    return max(0, min(work.p_true_shots, room))


def _p_true(shape: ModelShape, work: Workload, examples: int) -> dict[str, float]:
    number, block = NUMBER_BYTES[work.dtype], p_true_block(shape, work)
    prefix = examples * block
    rows = max(1, min(P_TRUE_CHUNK, work.n_questions, int(work.batch_tokens // (prefix + block))))
    tokens = rows * (prefix + block)
    return {
        "keys and values": shape.kv_numbers * number * (prefix + tokens),
        "one step": max(
            # The prefix is read alone, before any of the rests.
            max(prefix, rows * block) * activations(shape, work, prefix + block)
            + _repeated_keys(shape, work, tokens),
            # One place a row; log-probabilities are taken in float64, beside their source.
            rows * shape.vocabulary * number + 16 * logits_block(shape, rows),
        ),
    }


def judge_workspace(judge: JudgeShape, batch_size: int, tokens: float) -> int:
    """What one forward of a DeBERTa classifier holds at once, for pairs of so many tokens.

    Its scores of content with content, and of content with every relative position.
    """
    scores = batch_size * judge.heads * tokens * tokens
    to_positions = batch_size * judge.heads * tokens * 2 * judge.buckets
    states = batch_size * tokens * judge.width
    table = batch_size * 2 * judge.buckets * judge.width
    return int(4 * (5.5 * scores + 0.8 * to_positions + 8 * states + table))


def sweep_workspace(n_train: float, width: int) -> int:
    """One layer of the training rows in float64, several times, and its rotation."""
    return int(8 * (SWEEP_COPIES * n_train * width + 4 * min(n_train, width) ** 2))


def _repeated_keys(shape: ModelShape, work: Workload, tokens: float) -> float:
    """One layer's keys and values, repeated for every head where heads share them."""
    if shape.kv_heads == shape.heads:
        return 0
    return 2 * tokens * shape.heads * shape.head_dim * NUMBER_BYTES[work.dtype]


def _hidden_states(shape: ModelShape, work: Workload, n: float) -> int:
    """States of n questions at every position and layer, in float32."""
    return int(n * work.positions * (shape.layers + 1) * shape.width * 4)


def _answers_in_ram(work: Workload) -> dict[str, int]:
    answers = work.n_questions * (work.k + 1)
    return {
        "questions": work.n_questions * QUESTION_OBJECTS,
        "answers": int(answers * (ANSWER_OBJECTS + work.answer_tokens * TOKEN_OBJECTS)),
        "judgements": work.n_questions * (work.k + 1) ** 2 * 12,
    }


def _phases_on_the_cpu(shape: ModelShape, work: Workload) -> dict[str, dict[str, int]]:
    pairs = work.n_questions * (work.k + 1) ** 2
    pair_tokens = 2 * min(work.answer_tokens * 1.5, 250) + 3  # the longest pairs come first
    train = work.train_share * work.n_questions
    rows = work.n_questions * shape.width * 4
    return {
        "judging": {
            "judge's batch": int(
                ALLOCATOR * judge_workspace(work.judge, work.judge_batch_size, pair_tokens)
            ),
            "pairs": pairs * PAIR_WORKSPACE,
        },
        "probes": {"one layer": rows, "fit": sweep_workspace(train, shape.width)},
        "evaluation": {"resampling": RESAMPLING},
        "joining hidden states": {"a piece": _hidden_states(shape, work, PIECE)},
    }


def _on_disk(shape: ModelShape, work: Workload) -> dict[str, int]:
    n, answers = work.n_questions, work.n_questions * (work.k + 1)
    pairs = n * (work.k + 1) * work.k * DISTINCT_PAIRS
    each_answer = STORED_ROW + STORED_ANSWER + TABLE_ANSWER
    hidden = _hidden_states(shape, replace(work, positions=1), n) + n * shape.width * 4
    return {
        "hidden states, stored": work.positions * hidden,
        "hidden states, run folder": work.positions * hidden,
        "answers": int(answers * (each_answer + work.answer_tokens * (STORED_TOKEN + TABLE_TOKEN))),
        "verdicts": int(pairs * (STORED_ROW + STORED_VERDICT)),
        "judgements": 2 * n * (work.k + 1) ** 2 * 12,
        "sample matrices": n * work.k**2 * 8,
        "questions": int(n * (STORED_QUESTION + 2 * STORED_ROW + 4 * work.prompt_tokens)),
        "reports": REPORTS,
    }
