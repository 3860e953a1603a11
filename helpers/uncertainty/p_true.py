"""p(True): what probability a model itself gives to its most likely answer being right.

The model is shown the question, distinct ones of the sampled answers and the most likely answer,
and asked whether that one is A) True or B) False; zero-shot, or after solved examples from the
training questions (few-shot). Kadavath et al. 2022, "Language Models (Mostly) Know What They
Know", sections 3 and 4. Where others list every sample, a repeated answer is listed once here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.data.answers import Grade
from helpers.generation.option_logprobs import PromptCounts, common_length, option_log_probs
from helpers.generation.samples import SampledAnswers, encode_prompts
from helpers.models.loading import LanguageModel, identify, load_language_model
from helpers.progress import Progress
from helpers.store.cache import Store, content_key

# --- prompts -------------------------------------------------------------------------------------


LISTED = 10  # distinct sampled answers shown with a question, at most
LISTED_SHARE = 0.25
"""Share of the context that they may take, so that room is left for solved examples."""


def question_block(question: str, listed: Sequence[str], proposed: str) -> str:
    """A question with its sampled and its proposed answer, up to where A or B is due."""
    suggested = ["Some suggested answers:", *listed] if listed else []
    return "\n".join(
        [
            f"Question: {question}", *suggested, f"Proposed answer: {_one_line(proposed)}",
            "Is the proposed answer:", "A) True", "B) False", "The proposed answer is:",
        ]
    )  # fmt: skip


def listed_answers(lm: LanguageModel, texts: Sequence[str]) -> list[str]:
    """The distinct ones of sampled answers in order, each on a line, as many as may be shown.

    At most `LISTED` of them, and at most a share of `LISTED_SHARE` of the context in tokens.
    """
    distinct = [t for t in dict.fromkeys(map(_one_line, texts)) if t][:LISTED]
    if not distinct:
        return []
    ids = lm.tokenizer([t + "\n" for t in distinct], add_special_tokens=False)["input_ids"]
    fits = np.cumsum([len(each) for each in ids]) <= LISTED_SHARE * lm.context
    return distinct[: int(fits.sum())]


def choose_examples(right: Sequence[bool | None], n: int, seed: int) -> list[int]:
    """Indices of at most n solved examples: right and wrong ones in turn, while there are both."""
    rng = np.random.default_rng(seed)
    kinds = [
        rng.permutation([i for i, r in enumerate(right) if r is kind]) for kind in (True, False)
    ]
    turns = sorted((turn, kind, int(i)) for kind in (0, 1) for turn, i in enumerate(kinds[kind]))
    return [i for _, _, i in turns[:n]]


def _one_line(text: str) -> str:
    return " ".join(text.split())


P_TRUE_VERSION = 1
SPARE = 4
"""Tokens left free in the longest few-shot prompt: others may meet the examples in other tokens."""
CHUNK = 256  # prompts asked, and stored, at a time; each time the solved examples are computed once


@dataclass(frozen=True)
class PTrue:
    """p(True) of each question's most likely answer, in the questions' order; higher is surer."""

    zero_shot: np.ndarray
    """p(A) / (p(A) + p(B)), `[n]`; NaN where the prompt is longer than the context."""
    few_shot: np.ndarray
    """The same after the solved examples, `[n]`; NaN for the examples themselves, too."""
    zero_shot_a: np.ndarray
    """p(A) under the full vocabulary, `[n]`: near 0 where the model has not grasped the task."""
    few_shot_a: np.ndarray
    """The same after the solved examples, `[n]`."""
    n_shots: int
    shots_dropped: int
    """Solved examples that were chosen, and for which the context had no room."""
    few_shot_too_long: int
    """Prompts longer than the context once the solved examples stand in front."""
    shot_ids: tuple[str, ...]
    """Ids of the solved examples."""
    too_long: tuple[str, ...]
    """Ids of questions whose zero-shot prompt is longer than the context."""
    undefined: dict[str, str]
    """"zero_shot" or "few_shot" to why all of it is NaN, in words."""
    counts: PromptCounts
    """What was asked of the model now; the rest was stored."""


@dataclass(frozen=True)
class _Case:
    """One question as it is put to the model."""

    block: str
    right: bool | None
    """Whether the proposed answer is right; None where that is not known, or not to be used."""


@dataclass(frozen=True)
class _Letters:
    """What the replies A and B are in tokens, after a prompt."""

    lead: tuple[int, ...]
    """Tokens that both begin with (a space, in a byte-level tokenizer): put at the prompt's end."""
    tokens: tuple[int, int]
    """The first tokens in which they differ."""


@dataclass(frozen=True)
class _Job:
    """A model that is asked, where its replies are stored, and who is told of progress."""

    config: RunConfig
    lm: LanguageModel
    store: Store
    progress: Progress
    counts: PromptCounts
    parts: dict[str, Any]  # what all keys have in common


def ask_p_true(
    config: RunConfig,
    answers: SampledAnswers,
    greedy_grades: Sequence[Grade | None],
    store: Store,
    progress: Progress,
    *,
    shots: int = 10,
) -> PTrue:
    """p(True) of each question's most likely answer, zero-shot and after at most `shots` examples.

    Examples are training questions, chosen by the config's seed, in turn ones whose most likely
    answer is right and wrong; as many as leave room for the longest question. A chat model meets
    all of it in its chat template, without thinking. Raises `UserError` when the model's logits
    are not finite, or one prompt alone exhausts the memory.
    """
    identity = identify(config.model)
    parts = {
        "version": P_TRUE_VERSION, "model": identity.model_hash,
        "tokenizer": identity.tokenizer_hash, "dtype": config.dtype, "chat": config.chat,
    }  # fmt: skip
    asked = zip(answers.questions, answers.samples, answers.greedy, greedy_grades, strict=True)
    rows = [
        # Grades of other questions than those of train must not choose anything.
        (q.question, [s.text for s in row], greedy.text,
         grade.correct if grade and q.split == "train" else None)
        for q, row, greedy, grade in asked
    ]  # fmt: skip
    key = content_key(stage="p_true", shots=shots, seed=config.seed, rows=rows, **parts)
    counts = PromptCounts()
    if (stored := store.get(key)) is None:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        cases = [
            _Case(question_block(question, listed_answers(lm, texts), greedy), right)
            for question, texts, greedy, right in rows
        ]
        stored = _ask(_Job(config, lm, store, progress, counts, parts), cases, shots)
        store.put(key, stored)
    chosen = min(shots, sum(right is not None for *_, right in rows))
    return _as_record(stored, [q.id for q in answers.questions], chosen, counts)


def _ask(job: _Job, cases: list[_Case], shots: int) -> dict[str, Any]:
    """Log-probabilities of A and B for every case that has them, and why others have none."""
    zero_shot = few_shot = None
    undefined: dict[str, str] = {}
    examples: list[int] = []
    letters = _letters(job, cases[0].block)
    if letters is None:
        undefined["zero_shot"] = undefined["few_shot"] = (
            f"the tokenizer of {job.config.model!r} has no tokens that tell A from B"
        )
    else:
        zero_shot = _log_probs(job, "p(True), zero-shot", "", cases, letters)
        asked = [i for i, found in enumerate(zero_shot) if found is not None]
        if not asked:
            undefined["zero_shot"] = "every prompt is longer than the context"
        examples, head = _examples(job, cases, asked, letters, shots)
        if not any(case.right is not None for case in cases):
            undefined["few_shot"] = "no training question has a graded most likely answer"
        elif not examples:
            undefined["few_shot"] = (
                f"the context of {job.lm.context} tokens has no room for a solved example beside "
                "the longest question"
            )
        else:
            asked = [i for i in asked if i not in examples]
            part = [cases[i] for i in asked]
            found = _log_probs(job, f"p(True), {len(examples)}-shot", head, part, letters)
            replies = dict(zip(asked, found, strict=True))
            few_shot = [replies.get(i) for i in range(len(cases))]
    return {"zero_shot": zero_shot, "few_shot": few_shot, "examples": examples,
            "undefined": undefined}  # fmt: skip


def _letters(job: _Job, block: str) -> _Letters | None:
    """The tokens of A and B after a prompt, or None where they cannot be told apart."""
    text = _wrapped(job, block)
    gap = _gap(job, block, text)
    encoded = encode_prompts(job.config, job.lm, [text, f"{text}{gap}A", f"{text}{gap}B"])
    n, both = common_length(encoded), common_length(encoded[1:])
    if n < len(encoded[0]) or both == min(map(len, encoded[1:])):
        return None
    return _Letters(encoded[1][n:both], (encoded[1][both], encoded[2][both]))


def _gap(job: _Job, block: str, text: str) -> str:
    """What stands between a prompt and a reply: a space, or what the chat template puts there."""
    if job.config.chat:
        whole = _wrapped(job, block, reply="A")
        if whole.startswith(text) and "A" in whole[len(text) :]:
            return whole[len(text) :].partition("A")[0]
    return "" if text[-1].isspace() else " "


def _examples(
    job: _Job, cases: list[_Case], asked: list[int], letters: _Letters, shots: int
) -> tuple[list[int], str]:
    """Indices of the solved examples for which there is room, and their text."""
    lengths: dict[int, int] = {}
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        prompts = _prompts(job, [cases[i].block for i in part], letters)
        lengths |= {i: len(prompt) for i, prompt in zip(part, prompts, strict=True)}
    longest = max(asked, key=lengths.__getitem__, default=0)
    chosen: list[int] = []
    for i in choose_examples([case.right for case in cases], shots, job.config.seed):
        text = _solved(cases, [*chosen, i]) + cases[longest].block
        if i in lengths and len(_prompts(job, [text], letters)[0]) + SPARE <= job.lm.context:
            chosen.append(i)
    # Not right and wrong in turn, which would itself be something to go by.
    order = np.random.default_rng(job.config.seed).permutation(len(chosen))
    chosen = [chosen[i] for i in order]
    return chosen, _solved(cases, chosen)


def _solved(cases: list[_Case], chosen: list[int]) -> str:
    return "".join(f"{cases[i].block} {'A' if cases[i].right else 'B'}\n\n" for i in chosen)


def _log_probs(
    job: _Job, title: str, head: str, cases: Sequence[_Case], letters: _Letters
) -> list[list[float] | None]:
    """Log-probabilities of A and B after each case, in nats; None where the prompt is too long."""
    keys = [
        content_key(stage="p_true_prompt", head=head, block=case.block, **job.parts)
        for case in cases
    ]
    known = job.store.get_many(keys)
    missing = {k: case for k, case in zip(keys, cases, strict=True) if k not in known}
    todo = list(missing)
    if todo:
        with job.progress(title, len(todo), "prompts") as stage:
            for start in range(0, len(todo), CHUNK):
                part = todo[start : start + CHUNK]
                prompts = _prompts(job, [head + missing[k].block for k in part], letters)
                fits = [len(prompt) <= job.lm.context for prompt in prompts]
                short = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
                replies = [(token,) for token in letters.tokens]
                found = iter(option_log_probs(job.lm, short, replies, job.counts).round(6))
                fresh = {k: next(found).tolist() if fit else None
                         for k, fit in zip(part, fits, strict=True)}  # fmt: skip
                job.store.put_many(fresh)
                known |= fresh
                work = {f"p_true_{name}": n for name, n in asdict(job.counts).items()}
                stage.advance(len(part), work=work)
    return [known[k] for k in keys]


def _prompts(job: _Job, texts: Sequence[str], letters: _Letters) -> list[tuple[int, ...]]:
    encoded = encode_prompts(job.config, job.lm, [_wrapped(job, text) for text in texts])
    return [(*ids, *letters.lead) for ids in encoded]


def _wrapped(job: _Job, text: str, reply: str | None = None) -> str:
    """The text as a chat model meets it: in its template, without thinking."""
    if not job.config.chat:
        return text
    messages = [{"role": "user", "content": text}]
    if reply is not None:
        messages.append({"role": "assistant", "content": reply})
    return job.lm.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=reply is None, enable_thinking=False
    )


def _as_record(
    stored: dict[str, Any], ids: list[str], n_chosen: int, counts: PromptCounts
) -> PTrue:
    from scipy.special import expit

    def log_p(name: str) -> np.ndarray:
        rows = stored[name] or [None] * len(ids)
        return np.array([[np.nan] * 2 if row is None else row for row in rows])

    zero, few = log_p("zero_shot"), log_p("few_shot")
    n_shots = len(stored["examples"])
    asked_few = np.isfinite(zero[:, 0]).sum() - n_shots if stored["few_shot"] else 0
    return PTrue(
        zero_shot=expit(zero[:, 0] - zero[:, 1]),
        few_shot=expit(few[:, 0] - few[:, 1]),
        zero_shot_a=np.exp(zero[:, 0]),
        few_shot_a=np.exp(few[:, 0]),
        n_shots=n_shots,
        shots_dropped=n_chosen - n_shots,
        few_shot_too_long=int(asked_few - np.isfinite(few[:, 0]).sum()),
        shot_ids=tuple(ids[i] for i in stored["examples"]),
        too_long=tuple(
            i for i, row in zip(ids, stored["zero_shot"] or (), strict=False) if not row
        ),
        undefined=stored["undefined"],
        counts=counts,
    )
