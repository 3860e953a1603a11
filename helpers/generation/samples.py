"""The answers of a run, from whichever backend it names: prompts, sampling, resuming.

Every stage takes the results of earlier ones and a `Store`, and computes what is not stored yet.
Models are loaded only when something is missing, so a repeated run needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from helpers.config import RunConfig
from helpers.data.questions import Question, load_questions
from helpers.errors import UserError
from helpers.generation.records import GREEDY, Backend, Decoding, Request, Sample
from helpers.generation.sampling import generate
from helpers.models.loading import LanguageModel, identify, load_language_model, load_tokenizer
from helpers.progress import Progress
from helpers.store.cache import Store, content_key

SAMPLING_VERSION = 1


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
    keys = _sample_keys(config, questions, prompts)
    known = store.get_many(keys.values())
    generated = sum(key not in known for key in keys.values())
    if generated:
        known |= _generate_missing(config, questions, prompts, keys, known, store, progress)
    kept, samples, greedy, too_long = [], [], [], []
    for i, question in enumerate(questions):
        if "too_long" in known[keys[i, GREEDY]]:
            too_long.append(question.id)
            continue
        row = [read_sample(question.id, s, known[keys[i, s]]) for s in ids]
        kept.append(question)
        greedy.append(row[0])
        samples.append(tuple(row[1:]))
    return SampledAnswers(tuple(kept), tuple(samples), tuple(greedy), tuple(too_long), generated)


def missing_samples(config: RunConfig, questions: Sequence[Question], store: Store) -> int:
    """How many of a run's answers are not stored yet; no weights are loaded.

    The model is identified, and fetched where it is not here; a chat template loads its tokenizer.
    """
    prompts = prompt_texts(config, [q.question for q in questions])
    keys = _sample_keys(config, questions, prompts)
    wanted = [key for (_, s), key in keys.items() if s != GREEDY or config.with_greedy]
    return len(wanted) - len(store.get_many(wanted))


def _sample_keys(
    config: RunConfig, questions: Sequence[Question], prompts: Sequence[str]
) -> dict[tuple[int, int], str]:
    """Where each answer is stored, by the question's row and the sample's number."""
    return {
        (i, s): sample_key(config, question, prompt, s)
        for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        for s in range(GREEDY, config.k)
    }


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
            found = {keys[index[s.question_id], s.sample_id]: stored_fields(s) for s in batch}
            store.put_many(found)
            fresh |= found
            for sample in batch:
                wanted[sample.question_id] -= 1
            complete = {s.question_id for s in batch if wanted[s.question_id] == 0}
            tokens = sum(len(s.token_ids) for s in batch)
            stage.advance(len(complete), tokens, {"generated": len(fresh)})
    return fresh


def sample_key(
    config: RunConfig, question: Question, prompt: str, sample_id: int, **apart: str
) -> str:
    """Where an answer is stored; `apart` keeps those of another origin in places of their own."""
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
        **apart,
    )


def stored_fields(sample: Sample) -> dict[str, Any]:
    """What is stored of a sample under its key."""
    names = [f.name for f in fields(Sample) if f.name not in ("question_id", "sample_id")]
    return {name: getattr(sample, name) for name in names}


def read_sample(question_id: str, sample_id: int, stored: dict[str, Any]) -> Sample:
    """A stored sample."""
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Sample(question_id=question_id, sample_id=sample_id, **values)


def sample_counts(answers: SampledAnswers) -> dict[str, int]:
    """How many questions, answers and tokens there are, of how many; how many were cut off."""
    rows = [s for row in answers.samples for s in row]
    return {
        "questions_asked": len(answers.questions) + len(answers.too_long),
        "questions": len(answers.questions),
        "questions_too_long": len(answers.too_long),
        "samples": len(rows),
        "samples_cut_off": sum(s.finish_reason == "length" for s in rows),
        "greedy_cut_off": sum(s.finish_reason == "length" for s in answers.greedy),
        "tokens": sum(len(s.token_ids) for s in (*rows, *answers.greedy)),
    }


# --- backends ------------------------------------------------------------------------------------
#
#     backend = open_backend(config)
#     for group in backend.generate(requests, decoding):
#         ...                                   # store the group: a killed run loses none of it
#
# Every backend takes `Request`s and gives `Sample`s, with log-probabilities and entropies of the
# untempered distribution where it can, and says with each what it could not.


def open_backend(config: RunConfig) -> Backend:
    """The backend that a config names; nothing is loaded and nobody is asked before `generate`.

    Raises `UserError` when the endpoint's address or key cannot be one.
    """
    if config.backend == "vllm":
        from helpers.generation.vllm import open_vllm

        return open_vllm(config)
    if config.backend == "openai":
        from helpers.generation.endpoint import open_endpoint

        return open_endpoint(config)
    from helpers.generation.sampling import open_hf

    return open_hf(config)
