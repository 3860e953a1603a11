"""Trains the lab's language model and judge from nothing, tokenizers included, and checks them.

    uv run sep lab train            # the model and the judge, on two cores
    uv run sep lab check            # how good they are

The model reads `Question: …\\nAnswer:` and answers directly, or, when the prompt goes on with
`<think>`, after writing out the equations and `</think>`.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.answers import grade
from helpers.data.lab_problems import Problem, phrase, problems
from helpers.errors import UserError
from helpers.evaluation.scores import evaluate_classifier, format_score
from helpers.generation.records import GREEDY, Decoding, Request
from helpers.generation.sampling import generate
from helpers.meanings.clustering import PairQuery
from helpers.meanings.judges import nli_judge
from helpers.models.loading import LAB_FOLDER, load_language_model, pick_device, set_threads

# --- tokenizers ----------------------------------------------------------------------------------


END, THINK, END_THINK = "<|end|>", "<think>", "</think>"
CLS, SEP, PAD = "[CLS]", "[SEP]", "[PAD]"

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking %}<think>"
    "{% endif %}"
)
"""Thinking is asked for by an opened tag at the end of the prompt (as in DeepSeek-R1)."""


def train_bpe(texts: Iterable[str], vocabulary: int, special: list[str]) -> Any:
    """A `tokenizers.Tokenizer` trained on `texts`: byte-level, digits split, `special` first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_text(backend: Any, tokens: Iterable[str]) -> Any:
    """The same tokenizer with tokens that are not special, as Qwen3's tags are not.

    A server that leaves special tokens out of its answers would lose where the thinking ends.
    """
    from tokenizers import Tokenizer

    plain = json.loads(backend.to_str())
    for token in plain["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tokens
    return Tokenizer.from_str(json.dumps(plain))


def language_model_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Any:
    """A `PreTrainedTokenizerFast` for the language model, with a chat template."""
    from transformers import PreTrainedTokenizerFast

    backend = as_text(train_bpe(texts, vocabulary, [END, THINK, END_THINK]), (THINK, END_THINK))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, chat_template=CHAT_TEMPLATE,
        padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def judge_tokenizer(texts: Iterable[str], vocabulary: int = 768) -> Any:
    """A `PreTrainedTokenizerFast` that joins two texts the way DeBERTa-v2 does."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = train_bpe(texts, vocabulary, [PAD, CLS, SEP])
    ids = {token: backend.token_to_id(token) for token in (CLS, SEP)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=list(ids.items()),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, cls_token=CLS, sep_token=SEP, padding_side="right",
        model_max_length=512, clean_up_tokenization_spaces=False,
    )  # fmt: skip


# --- the language model --------------------------------------------------------------------------


PROMPT_WEIGHT = 0.05
"""How much a prompt token counts in the loss, against 1 for a token of the answer."""
THINK_SHARE, DRILL_SHARE = 0.2, 0.25
"""Shares of the training texts that think first, and that are bare sums."""


@dataclass(frozen=True)
class TrainingLog:
    """What a training did: the loss (nats a token) at each logged step, tokens seen, seconds."""

    losses: tuple[float, ...]
    tokens: int
    seconds: float


def training_text(rng: np.random.Generator, problem: Problem) -> tuple[str, str]:
    """A prompt and the answer that the model should learn to give to it."""
    prompt = f"Question: {problem.question}\nAnswer:"
    kind = rng.random()
    if kind < DRILL_SHARE:
        left, right = str(rng.choice(problem.equations)).split("=")
        return f"Question: {left}\nAnswer:", f" {right}{END}"
    answer = " " + phrase(rng, problem.freedom, problem.final, problem.unit, problem.name) + END
    if kind < DRILL_SHARE + THINK_SHARE:
        return prompt + THINK, "\n".join(problem.equations) + END_THINK + answer
    return prompt, answer


def model_config(vocabulary: int, end_id: int) -> Any:
    """The `Qwen3Config` of the lab's language model."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=160, intermediate_size=448, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=40, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=end_id, eos_token_id=end_id, pad_token_id=end_id,
    )  # fmt: skip


def mixed_problems(seed: int) -> Iterator[Problem]:
    """Endless problems to train on: stories and loose phrases by turns."""
    streams = [problems(seed, pool=pool) for pool in ("training", "loose")]
    while True:
        for stream in streams:
            yield next(stream)


def batches(
    tokenizer: Any, seed: int, size: int, stream: Iterator[Problem] | None = None
) -> Iterator[tuple[Any, Any]]:
    """Endless `(token ids [size, length], loss weights [size, length])`, of similar lengths."""
    import torch

    rng = np.random.default_rng([seed, 1])
    stream = stream or problems(seed, pool="training")
    pad = tokenizer.eos_token_id
    while True:
        texts = [training_text(rng, problem) for problem in islice(stream, 8 * size)]
        prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
        answers = tokenizer([answer for _, answer in texts])["input_ids"]
        rows = sorted(zip(prompts, answers, strict=True), key=lambda r: len(r[0]) + len(r[1]))
        for start in (rng.permutation(8) * size).tolist():
            part = rows[start : start + size]
            length = max(len(p) + len(a) for p, a in part)
            ids = torch.full((size, length), pad)
            weights = torch.zeros(size, length)
            for k, (p, a) in enumerate(part):
                ids[k, : len(p) + len(a)] = torch.tensor(p + a)
                weights[k, : len(p)] = PROMPT_WEIGHT
                weights[k, len(p) : len(p) + len(a)] = 1.0
            yield ids, weights


def train_language_model(
    folder: Path,
    *,
    steps: int = 3000,
    loose_steps: int = 1200,
    batch_size: int = 128,
    seed: int = 0,
    learning_rate: float = 2e-3,
    compile: bool = False,
    report: Callable[[str], None] = print,
) -> TrainingLog:
    """Train from nothing and write a Hugging Face folder; returns the log of losses.

    The first `steps` are on the stories, `loose_steps` more on stories and loose phrases by turns,
    at half the learning rate. `compile` makes a step about three times as fast and needs a C++
    compiler.
    """
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    corpus = (
        " ".join(training_text(np.random.default_rng(i), p))
        for i, p in enumerate(islice(problems(seed, pool="training"), 20_000))
    )
    tokenizer = language_model_tokenizer(corpus)
    model = Qwen3ForCausalLM(model_config(len(tokenizer), tokenizer.eos_token_id))
    model.set_attn_implementation("eager")  # its backward pass is twice as fast here as SDPA's
    forward = torch.compile(model, dynamic=True) if compile else model

    def losses(batches: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, int]]:
        for ids, weights in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
                logits = forward(input_ids=ids[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
            )
            w = weights[:, 1:].flatten()
            yield (loss * w).sum() / w.sum(), int((weights > 0).sum())

    def train(given: Iterator[tuple[Any, Any]], steps: int, learning_rate: float) -> TrainingLog:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        return train_steps(
            "language model", losses(given), steps, model, tokenizer, folder,
            learning_rate=learning_rate, weight_decay=0.05, report=report,
        )  # fmt: skip

    log = train(batches(tokenizer, seed, batch_size), steps, learning_rate)
    if loose_steps:  # these open the stories' words to other stories
        mixed = batches(tokenizer, seed + 1, batch_size, mixed_problems(seed + 1))
        more = train(mixed, loose_steps, learning_rate / 2)
        log = TrainingLog(
            log.losses + more.losses, log.tokens + more.tokens, log.seconds + more.seconds
        )
    return log


def train_steps(
    name: str,
    batches: Iterator[tuple[Any, int]],
    steps: int,
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    learning_rate: float,
    weight_decay: float,
    report: Callable[[str], None],
) -> TrainingLog:
    """AdamW with warm-up and cosine decay over batches, each its loss and its number of tokens.

    Now and then, and at the end, model and tokenizer are written to the folder.
    """
    import torch

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay
    )
    warmup = min(200, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)) + 0.01)
    )
    started, losses, tokens, running = time.monotonic(), [], 0, 0.0
    log_every = max(1, min(50, steps // 10))
    for step, (loss, n) in enumerate(islice(batches, steps), 1):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += n
        running += loss.item()
        if step % log_every == 0:
            losses.append(running / log_every)
            running = 0.0
            elapsed = time.monotonic() - started
            report(
                f"{name}: step {step}/{steps}, loss {losses[-1]:.3f} nats, {tokens / 1e6:.1f} M "
                f"tokens, {elapsed:.0f} s, {elapsed / step * (steps - step):.0f} s left"
            )
        if step == steps or step % (10 * log_every) == 0:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return TrainingLog(tuple(losses), tokens, time.monotonic() - started)


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX)."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


# --- the judge -----------------------------------------------------------------------------------
#
# Its pairs are answers to lab problems: a paraphrase entails, another number or unit contradicts,
# and an answer to some other problem is neutral.


LABELS = ("contradiction", "entailment", "neutral")
KINDS = ("paraphrase", "changed number", "changed unit", "unrelated")
KIND_SHARES = (0.45, 0.35, 0.1, 0.1)
QUESTION_EVERY = 8
"""One training batch in so many, a quarter as large, has the question in front of both sides."""


@dataclass(frozen=True)
class Stage:
    """A stage of the curriculum. Without it the judge never learns to compare numbers."""

    until: float  # the share of all steps at which it ends
    largest: int  # the largest number in an answer
    freest: int  # how freely an answer is worded: 0 terse, 1 a sentence, 2 free


CURRICULUM = (
    Stage(0.08, largest=9, freest=0),
    Stage(0.14, largest=99, freest=0),
    Stage(0.25, largest=9999, freest=0),
    Stage(0.40, largest=9999, freest=1),
    Stage(1.00, largest=9999, freest=2),
)
FULL = CURRICULUM[-1]


@dataclass(frozen=True)
class AnswerPair:
    """Two answers and how they relate."""

    question: str
    premise: str
    hypothesis: str
    kind: str  # one of `KINDS`
    label: int  # index into `LABELS`


def answer_pair(
    rng: np.random.Generator, problem: Problem, other: Problem, stage: Stage = FULL
) -> AnswerPair:
    """A random pair around the answer of `problem`; `other` lends its words where needed."""
    kind = KINDS[int(rng.choice(len(KINDS), p=KIND_SHARES))]
    if kind == "unrelated" and other.unit == problem.unit:
        kind = "changed number"
    number, unit, name = _number(rng, problem, stage), problem.unit, problem.name
    first = phrase(rng, int(rng.integers(stage.freest + 1)), number, unit, name)
    label = LABELS.index("contradiction")
    if kind == "paraphrase":
        label = LABELS.index("entailment")
    elif kind == "changed number":
        number = changed_number(rng, number, stage.largest)
    elif kind == "changed unit":
        unit = other.unit if other.unit != unit else f"other {unit}"
    else:
        label = LABELS.index("neutral")
        number, unit, name = changed_number(rng, number, stage.largest), other.unit, other.name
    second = phrase(rng, int(rng.integers(stage.freest + 1)), number, unit, name)
    return AnswerPair(problem.question, first, second, kind, label)


def changed_number(rng: np.random.Generator, number: int, largest: int = 9999) -> int:
    """Another positive number: near, with one digit changed or added, reversed, or any."""
    digits = list(str(number))
    position = int(rng.integers(len(digits)))
    options = [
        number + int(rng.integers(1, 5)),
        number - int(rng.integers(1, 5)),
        int("".join([*digits[:position], str(rng.integers(10)), *digits[position + 1 :]])),
        int("".join([*digits[:position], str(rng.integers(10)), *digits[position:]])),
        int("".join(digits[::-1])),
        int(rng.integers(2, min(largest, 400) + 1)),
    ]
    changed = options[int(rng.integers(len(options)))]
    good = changed != number and 0 < changed <= largest
    return changed if good else changed_number(rng, number, largest)


def answer_pairs(seed: int, *, pool: str, stage: Stage = FULL) -> Iterator[AnswerPair]:
    """Endless pairs from the problems of a pool ("training", "questions" or "unseen")."""
    rng, stream = np.random.default_rng([seed, 2]), problems(seed, pool=pool)
    while True:
        yield answer_pair(rng, next(stream), next(stream), stage)


def train_judge(
    folder: Path,
    *,
    steps: int = 2500,
    batch_size: int = 128,
    seed: int = 0,
    learning_rate: float = 1e-3,
    report: Callable[[str], None] = print,
) -> TrainingLog:
    """Train from nothing and write a Hugging Face folder; returns the log of losses."""
    import torch
    from transformers import DebertaV2ForSequenceClassification

    torch.manual_seed(seed)
    pairs = answer_pairs(seed, pool="training")
    corpus = (f"{p.question} {p.premise} {p.hypothesis}" for p in islice(pairs, 20_000))
    rng, stream = np.random.default_rng([seed, 3]), problems(seed + 1, pool="training")
    tokenizer = judge_tokenizer(corpus)
    model = DebertaV2ForSequenceClassification(judge_config(len(tokenizer))).train()

    def losses() -> Iterator[tuple[Any, int]]:
        for step in range(steps):
            stage = next(s for s in CURRICULUM if step < s.until * steps)
            with_question = stage is FULL and step % QUESTION_EVERY == 0
            batch = [
                answer_pair(rng, next(stream), next(stream), stage)
                for _ in range(batch_size // 4 if with_question else batch_size)
            ]
            before = [f"{pair.question} " if with_question else "" for pair in batch]
            inputs = tokenizer(
                [text + pair.premise for text, pair in zip(before, batch, strict=True)],
                [text + pair.hypothesis for text, pair in zip(before, batch, strict=True)],
                padding=True,
                return_tensors="pt",
            )
            labels = torch.tensor([pair.label for pair in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
                loss = model(**inputs, labels=labels).loss
            yield loss, int(inputs["attention_mask"].sum())

    return train_steps(
        "judge", losses(), steps, model, tokenizer, folder,
        learning_rate=learning_rate, weight_decay=0.01, report=report,
    )  # fmt: skip


def judge_config(vocabulary: int) -> Any:
    """The `DebertaV2Config` of the lab's judge."""
    from transformers import DebertaV2Config

    # DeBERTa-v2's own, which its config class takes without naming them.
    shape: Any = {"position_buckets": 64, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    return DebertaV2Config(
        **shape, vocab_size=vocabulary, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=384, max_position_embeddings=512, relative_attention=True,
        pos_att_type=["c2p", "p2c"], position_biased_input=False, type_vocab_size=2,
        initializer_range=0.08, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=0, id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip


def _number(rng: np.random.Generator, problem: Problem, stage: Stage) -> int:
    """Mostly the problem's own number, otherwise one of any size up to the stage's largest."""
    if problem.final <= stage.largest and rng.random() < 0.6:
        return problem.final
    return int(2 * (stage.largest / 2) ** rng.random())


def agreement_with_answers(
    equivalent: Callable[[list[PairQuery]], list[bool]], n: int, seed: int, *, pool: str
) -> dict[str, float]:
    """Share of n held-out pairs, by kind, on which a judge agrees with the exact answers."""
    pairs = list(islice(answer_pairs(seed, pool=pool), n))
    verdicts = equivalent([PairQuery(p.question, p.premise, p.hypothesis) for p in pairs])
    right = [v == (p.kind == "paraphrase") for v, p in zip(verdicts, pairs, strict=True)]
    shares = {
        kind: float(np.mean([r for r, p in zip(right, pairs, strict=True) if p.kind == kind]))
        for kind in KINDS
    }
    return {"all": float(np.mean(right)), **shares}


# --- the commands --------------------------------------------------------------------------------


def train_lab(
    into: Path | None,
    *,
    only: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int = 0,
) -> None:
    """Train the language model and the judge (or one of them) and write their folders.

    Raises `UserError` before any training when the folder cannot be written or a number is too
    small.
    """
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("threads", threads, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}: it must be {least} or more")
    folder = into or LAB_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--into {folder} cannot be made ({error.strerror}): name another folder"
        ) from error
    pick_device("cpu")
    set_threads(threads)
    given: Any = {} if steps is None else {"steps": steps}
    loose: Any = {} if steps is None else {"loose_steps": steps * 2 // 5}
    if only != "judge":
        fast = bool(shutil.which("g++"))
        train_language_model(folder / "language_model", seed=seed, compile=fast, **given, **loose)
    if only != "language-model":
        train_judge(folder / "judge", seed=seed, **given)
    print(f"written to {folder}; `sep run` uses the models of the package")


CHECK_SEED = 1_000  # not a seed that a run would use by default, so that these are other questions


def check_lab(n: int = 1000, threads: int = 0) -> str:
    """A report on n held-out problems: the answers, the judge, and the length of the questions."""
    set_threads(threads)
    lines = [f"Held-out problems, n = {n:,}: most likely answers that are right, by operations"]
    for title, pool in (("in distribution", "questions"), ("unseen stories", "unseen")):
        asked = list(islice(problems(CHECK_SEED, pool=pool), n))
        for thinking in (False, True):
            right = _right(asked, thinking)
            steps = np.array([p.steps for p in asked])
            cells = "  ".join(f"{k}: {100 * right[steps == k].mean():3.0f} %" for k in range(1, 5))
            mode = "thinking" if thinking else "direct"
            lines.append(f"  {title:<17}{mode:<10}{cells}   all: {100 * right.mean():.0f} %")
    judge = nli_judge("lab", batch_size=64)
    lines.append(f"Judge: pairs on which it agrees with the exact answers, n = {n:,}")
    for title, pool in (("in distribution", "questions"), ("unseen stories", "unseen")):
        shares = agreement_with_answers(judge.equivalent, n, CHECK_SEED, pool=pool)
        cells = "  ".join(f"{kind}: {100 * share:.1f} %" for kind, share in shares.items())
        lines.append(f"  {title:<17}{cells}")
    asked = list(islice(problems(CHECK_SEED, pool="questions"), n))
    lengths = np.array([len(p.question) for p in asked], dtype=float)
    hard = np.array([float(p.steps >= 3) for p in asked])
    score = evaluate_classifier(lengths, hard, positive="hard")["auroc"]
    lines.append(
        "Question length (characters) telling three or four operations from one or two: AUROC "
        + format_score(score)
    )
    return "\n".join(lines)


def _right(asked: Sequence[Problem], thinking: bool) -> np.ndarray:
    """Whether the most likely answer to each problem is right, `[n]`."""
    lm = load_language_model("lab")
    tail = THINK if thinking else ""
    prompts = [f"Question: {p.question}\nAnswer:{tail}" for p in asked]
    requests = [
        Request(p.id, tuple(ids), (GREEDY,))
        for p, ids in zip(asked, lm.tokenizer(prompts)["input_ids"], strict=True)
    ]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=80, seed=0)
    answers = {
        s.question_id: grade(s.text, s.finish_reason, "0", thinking_open=thinking).final_answer
        for batch in generate(lm, requests, decoding, batch_size=256)
        for s in batch
    }
    return np.array([answers[p.id] == str(p.final) for p in asked])
