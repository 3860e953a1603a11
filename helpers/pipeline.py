"""The stages of a run in order, each resumable: questions, answers, meanings, uncertainty, states.

Every stage takes the results of earlier ones and a `Store`, and computes what is not stored yet.
Models are loaded only when something is missing, so a repeated run needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from helpers.config import RunConfig
from helpers.datasets import Question, load_questions
from helpers.errors import UserError
from helpers.hidden_states import TokenSequence, capture
from helpers.models import LanguageModel, identify, load_language_model, load_tokenizer
from helpers.progress import Progress
from helpers.sampling import GREEDY, Decoding, Request, Sample, generate
from helpers.store import Store, content_key
from helpers.uncertainty import ESTIMATORS, Answers, score_question

SAMPLING_VERSION = 1
CAPTURE_VERSION = 1
CAPTURE_CHUNK = 64
"""Questions whose hidden states are stored in one file."""


@dataclass(frozen=True)
class SampledAnswers:
    """The answers to each question, in the questions' order."""

    questions: tuple[Question, ...]
    """Those whose prompt fits into the model's context."""
    samples: tuple[tuple[Sample, ...], ...]
    """`[n][K]`"""
    greedy: tuple[Sample, ...]
    """The most likely answer to each question, `[n]`."""
    too_long: tuple[str, ...]
    """Ids of questions left out because their prompt fills the context."""
    generated: int
    """Answers generated now; the others were stored."""


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states of the prompt and its most likely answer, in the questions' order."""

    hidden: dict[str, np.ndarray]
    """By position: `[n, layers + 1, width]`, float32; entry 0 is the input of the first block."""
    token_embedding: np.ndarray
    """Embedding, without positions, of the last prompt token: `[n, width]`."""
    stand_ins: dict[str, np.ndarray]
    """By position: `[n]`, True where the position does not exist and an earlier token stands in."""


def choose_questions(config: RunConfig) -> list[Question]:
    """The run's questions: a seeded subset with stable ids and splits."""
    questions = load_questions(config.questions, limit=config.limit, seed=config.seed)
    for split in ("train", "validation", "test"):
        count = sum(q.split == split for q in questions)
        if count < 2:
            raise UserError(
                f"{config.questions}: only {count} of {len(questions)} questions are in the "
                f"{split} split; raise --limit, or take a source with more questions (a few "
                "hundred are needed for a probe)"
            )
    return questions


def prompt_texts(config: RunConfig, questions: Sequence[str]) -> list[str]:
    """The prompt of each question, as text."""
    usual = RunConfig.model_fields["prompt_template"].default
    # A chat template brings its own words around the question.
    template = "{question}" if config.chat and config.prompt_template == usual else None
    template = template or config.prompt_template
    prompts = [template.replace("{question}", question) for question in questions]
    if not config.chat:
        return prompts
    tokenizer = load_tokenizer(identify(config.model))
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {config.model!r} has no chat template; use --no-chat")
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=config.thinking,
        )
        for prompt in prompts
    ]


def encode_prompts(config: RunConfig, lm: LanguageModel, prompts: Sequence[str]) -> list[tuple]:
    """Token ids of each prompt; a chat template has put its special tokens in already."""
    encoded = lm.tokenizer(list(prompts), add_special_tokens=not config.chat)["input_ids"]
    return [tuple(ids) for ids in encoded]


def sample_answers(
    config: RunConfig, questions: Sequence[Question], store: Store, progress: Progress
) -> SampledAnswers:
    """K samples and the most likely answer of each question; only what is missing is generated."""
    prompts = prompt_texts(config, [q.question for q in questions])
    ids = range(GREEDY, config.k)
    keys = {
        (i, s): _sample_key(config, question, prompt, s)
        for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        for s in ids
    }
    known = store.get_many(keys.values())
    generated = sum(key not in known for key in keys.values())
    if generated:
        known |= _generate_missing(config, questions, prompts, keys, known, store, progress)
    kept, samples, greedy, too_long = [], [], [], []
    for i, question in enumerate(questions):
        if "too_long" in known[keys[i, GREEDY]]:
            too_long.append(question.id)
            continue
        row = [_read_sample(question.id, s, known[keys[i, s]]) for s in ids]
        kept.append(question)
        greedy.append(row[0])
        samples.append(tuple(row[1:]))
    return SampledAnswers(tuple(kept), tuple(samples), tuple(greedy), tuple(too_long), generated)


def _generate_missing(
    config: RunConfig,
    questions: Sequence[Question],
    prompts: Sequence[str],
    keys: dict[tuple[int, int], str],
    known: dict[str, dict],
    store: Store,
    progress: Progress,
) -> dict[str, dict]:
    lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
    index = {question.id: i for i, question in enumerate(questions)}
    requests: list[Request] = []
    fresh: dict[str, dict] = {}
    for i, prompt_ids in enumerate(encode_prompts(config, lm, prompts)):
        missing = [s for s in range(GREEDY, config.k) if keys[i, s] not in known]
        if missing and len(prompt_ids) >= lm.context:
            fresh |= {keys[i, s]: {"too_long": len(prompt_ids)} for s in missing}
        elif missing:
            requests.append(Request(questions[i].id, prompt_ids, tuple(missing)))
    store.put_many(fresh)
    decoding = Decoding(
        config.temperature, config.top_p, config.max_new_tokens, config.seed, config.stop
    )
    wanted = {r.question_id: len(r.sample_ids) for r in requests}
    with progress("Sampling answers", len(requests), "questions") as stage:
        for batch in generate(lm, requests, decoding, batch_size=config.batch_size):
            found = {keys[index[s.question_id], s.sample_id]: _written(s) for s in batch}
            store.put_many(found)
            fresh |= found
            for sample in batch:
                wanted[sample.question_id] -= 1
            complete = {s.question_id for s in batch if wanted[s.question_id] == 0}
            stage.advance(len(complete), sum(len(s.token_ids) for s in batch))
    return fresh


def _sample_key(config: RunConfig, question: Question, prompt: str, sample_id: int) -> str:
    identity = identify(config.model)
    drawn = {} if sample_id == GREEDY else {
        "temperature": config.temperature, "top_p": config.top_p, "seed": config.seed,
    }  # fmt: skip
    return content_key(
        stage="sample",
        version=SAMPLING_VERSION,
        model=identity.model_hash,
        tokenizer=identity.tokenizer_hash,
        dtype=config.dtype,
        prompt=prompt,
        chat=config.chat,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        question_id=question.id,
        sample_id=sample_id,
        **drawn,
    )


def _written(sample: Sample) -> dict:
    names = [f.name for f in fields(Sample) if f.name not in ("question_id", "sample_id")]
    return {name: getattr(sample, name) for name in names}


def _read_sample(question_id: str, sample_id: int, stored: dict) -> Sample:
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Sample(question_id=question_id, sample_id=sample_id, **values)


def measure_uncertainty(
    samples: Sequence[Sequence[Sample]], clusters: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Every estimator for every question: name to `[n]`."""
    rows = [
        score_question(
            Answers(
                texts=tuple(s.text for s in row),
                clusters=tuple(ids),
                sum_logprobs=tuple(float(np.sum(s.token_logprobs)) for s in row),
                mean_logprobs=tuple(float(np.mean(s.token_logprobs)) for s in row),
                token_entropies=tuple(float(np.mean(s.token_entropies)) for s in row),
            )
        )
        for row, ids in zip(samples, clusters, strict=True)
    ]
    return {name: np.array([row[name] for row in rows], dtype=float) for name in ESTIMATORS}


def read_hidden_states(
    config: RunConfig, answers: SampledAnswers, store: Store, progress: Progress
) -> HiddenStates:
    """Hidden states of each prompt with its most likely answer, at the config's positions."""
    prompts = prompt_texts(config, [q.question for q in answers.questions])
    identity = identify(config.model)
    n = len(prompts)
    chunks = [range(start, min(n, start + CAPTURE_CHUNK)) for start in range(0, n, CAPTURE_CHUNK)]
    keys = [
        content_key(
            stage="hidden",
            version=CAPTURE_VERSION,
            model=identity.model_hash,
            tokenizer=identity.tokenizer_hash,
            dtype=config.dtype,
            chat=config.chat,
            positions=config.positions,
            sequences=[(prompts[i], answers.greedy[i].token_ids) for i in chunk],
        )
        for chunk in chunks
    ]
    found = {key: store.get_arrays(key) for key in keys}
    missing = [(key, chunk) for key, chunk in zip(keys, chunks, strict=True) if found[key] is None]
    if missing:
        lm = load_language_model(config.model, device=config.device, dtype=config.dtype)
        total = sum(len(chunk) for _, chunk in missing)
        with progress("Reading hidden states", total, "questions") as stage:
            for key, chunk in missing:
                ids = encode_prompts(config, lm, [prompts[i] for i in chunk])
                sequences = [
                    TokenSequence(p, answers.greedy[i].token_ids)
                    for p, i in zip(ids, chunk, strict=True)
                ]
                read = capture(lm, sequences, config.positions, progress=stage.advance)
                arrays = {f"hidden/{name}": states for name, states in read.hidden.items()}
                arrays |= {f"stand_in/{name}": rows for name, rows in read.stand_ins.items()}
                arrays["token_embedding"] = read.token_embedding
                store.put_arrays(key, arrays)
                found[key] = arrays
    parts = [found[key] or {} for key in keys]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return HiddenStates(
        hidden={name: joined[f"hidden/{name}"] for name in config.positions},
        token_embedding=joined["token_embedding"],
        stand_ins={name: joined[f"stand_in/{name}"] for name in config.positions},
    )


def sample_counts(answers: SampledAnswers) -> dict[str, int]:
    """How many answers and tokens there are, and how many answers were cut off."""
    rows = [s for row in answers.samples for s in row]
    return {
        "questions": len(answers.questions),
        "questions_too_long": len(answers.too_long),
        "samples": len(rows),
        "samples_cut_off": sum(s.finish_reason == "length" for s in rows),
        "tokens": sum(len(s.token_ids) for s in (*rows, *answers.greedy)),
    }
