"""The answers of a run: prompts, made once, and K answers to each from the backend that it names.

    prompts = make_prompts(config, {"q1": "How many?"})
    sampled = sample_answers(config, prompts, store, progress, sample_ids=range(config.k))

Only what is not stored is generated, and every batch is stored as soon as it is there. A model is
loaded, or an endpoint asked, only when something is missing, so a repeated run needs neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from helpers.config import RunConfig
from helpers.data.questions import Question, load_questions
from helpers.errors import UserError
from helpers.generation.records import GREEDY, TOO_LONG, Backend, Decoding, Prompt, Request, Sample
from helpers.models.loading import LanguageModel, ModelIdentity, identify, load_tokenizer
from helpers.models.tokens import ModelTokens
from helpers.progress import Progress
from helpers.store.cache import Store, content_key

SAMPLING_VERSION = 2
STORED_FIELDS = [f.name for f in fields(Sample) if f.name not in ("question_id", "sample_id")]


@dataclass(frozen=True)
class Sampled:
    """The answers to each prompt that fits into the model's context, in the prompts' order."""

    prompts: tuple[Prompt, ...]
    samples: tuple[tuple[Sample, ...], ...]  # `[n][sample_ids]`
    too_long: tuple[str, ...]  # ids of prompts left out because they fill the context
    generated: int  # answers generated now; the others were stored
    backend: dict[str, Any]  # what generated them, or would have, for the manifest


@dataclass(frozen=True)
class SampledAnswers:
    """The answers to each question, in the questions' order."""

    questions: tuple[Question, ...]
    """Those whose prompt fits into the model's context."""
    samples: tuple[tuple[Sample, ...], ...]
    """`[n][K]`"""
    greedy: tuple[Sample, ...]
    """The most likely answer to each question, `[n]`; empty where the config wants none."""
    too_long: tuple[str, ...]
    """Ids of questions left out because their prompt fills the context."""
    generated: int
    """Answers generated now; the others were stored."""
    prompts: tuple[Prompt, ...] = ()
    """`[n]`; empty in a run that is read back."""
    backend: dict[str, Any] = field(default_factory=dict)
    """What generated them, or would have, for the manifest."""


# --- prompts -------------------------------------------------------------------------------------


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
    """The prompt of each question, without a begin token that the tokenizer adds itself."""
    usual = RunConfig.model_fields["prompt_template"].default
    # A chat template brings its own words around the question.
    template = "{question}" if config.chat and config.prompt_template == usual else None
    template = template or config.prompt_template
    prompts = [template.replace("{question}", question) for question in questions]
    if not config.chat and not template.startswith(("<", "[")):
        return prompts  # no begin token is a word: so no tokenizer is loaded for most templates
    tokenizer = load_tokenizer(identify(config.model))
    if not config.chat:
        begin, added = tokenizer.bos_token or "", tokenizer("")["input_ids"][:1]
        twice = bool(begin) and added == [tokenizer.bos_token_id]
        return [prompt.removeprefix(begin) if twice else prompt for prompt in prompts]
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


def encode_prompts(
    config: RunConfig, lm: LanguageModel | ModelTokens, prompts: Sequence[str]
) -> list[tuple[int, ...]]:
    """Token ids of each prompt; a chat template has put its special tokens in already."""
    return _encode(config, lm.tokenizer, prompts)


def _encode(config: RunConfig, tokenizer: Any, prompts: Sequence[str]) -> list[tuple[int, ...]]:
    encoded = tokenizer(list(prompts), add_special_tokens=not config.chat)["input_ids"]
    return [tuple(ids) for ids in encoded]


def make_prompts(config: RunConfig, questions: Mapping[str, str]) -> tuple[Prompt, ...]:
    """The prompt of each question, by its id, as text and as the tokens that the model reads."""
    texts = prompt_texts(config, list(questions.values()))
    encoded = _encode(config, load_tokenizer(identify(config.model)), texts) if texts else []
    rows = zip(questions, texts, encoded, strict=True)
    return tuple(Prompt(name, text, ids) for name, text, ids in rows)


# --- sampling ------------------------------------------------------------------------------------


def answer_questions(
    config: RunConfig, questions: Sequence[Question], store: Store, progress: Progress
) -> SampledAnswers:
    """The config's K answers to each question, and the most likely one where it wants that."""
    prompts = make_prompts(config, {q.id: q.question for q in questions})
    ids = _wanted(config)
    found = sample_answers(config, prompts, store, progress, sample_ids=ids)
    known, first = {q.id: q for q in questions}, ids.index(0)
    return SampledAnswers(
        questions=tuple(known[prompt.id] for prompt in found.prompts),
        samples=tuple(row[first:] for row in found.samples),
        greedy=tuple(row[0] for row in found.samples) if first else (),
        too_long=found.too_long,
        generated=found.generated,
        prompts=found.prompts,
        backend=found.backend,
    )


def _wanted(config: RunConfig) -> range:
    return range(GREEDY if config.with_greedy else 0, config.k)


def missing_samples(config: RunConfig, questions: Sequence[Question], store: Store) -> int:
    """How many of a run's answers are not stored yet; no weights are loaded.

    The model is identified, and fetched where it is not here; a chat template loads its tokenizer.
    """
    identity = identify(config.model)
    texts = prompt_texts(config, [q.question for q in questions])
    prompts = [Prompt(q.id, text, ()) for q, text in zip(questions, texts, strict=True)]
    keys = [sample_key(config, identity, prompt, s) for prompt in prompts for s in _wanted(config)]
    return len(keys) - len(store.get_many(keys))


def sample_answers(
    config: RunConfig,
    prompts: Sequence[Prompt],
    store: Store,
    progress: Progress,
    *,
    sample_ids: Iterable[int],
) -> Sampled:
    """The answers with these numbers to each prompt, -1 for the most likely one.

    A prompt may be any beginning of a text, also one known by its token ids alone. Raises
    `UserError` when the answers come from several models at an endpoint.
    """
    wanted, identity = tuple(sample_ids), identify(config.model)
    keys = {
        (prompt.id, s): sample_key(config, identity, prompt, s)
        for prompt in prompts
        for s in wanted
    }
    stored = store.get_many(keys.values())
    found = {at: read_sample(*at, stored.pop(key)) for at, key in keys.items() if key in stored}
    missing = len(keys) - len(found)
    backend = open_backend(config)
    if missing:
        _generate_missing(backend, config, prompts, keys, found, store, progress)
    _check_one_model(config, found.values())
    rows = [tuple(found[prompt.id, s] for s in wanted) for prompt in prompts]
    fits = [all(sample.finish_reason != TOO_LONG for sample in row) for row in rows]
    return Sampled(
        prompts=tuple(prompt for prompt, fitting in zip(prompts, fits, strict=True) if fitting),
        samples=tuple(row for row, fitting in zip(rows, fits, strict=True) if fitting),
        too_long=tuple(p.id for p, fitting in zip(prompts, fits, strict=True) if not fitting),
        generated=missing,
        backend={**backend.describe(), "promise": backend.promise},
    )


def _generate_missing(
    backend: Backend,
    config: RunConfig,
    prompts: Sequence[Prompt],
    keys: Mapping[tuple[str, int], str],
    found: dict[tuple[str, int], Sample],
    store: Store,
    progress: Progress,
) -> None:
    """Generate and store what is not `found`, which grows by it."""
    lacking: dict[str, list[int]] = {}
    for prompt_id, sample_id in keys:
        if (prompt_id, sample_id) not in found:
            lacking.setdefault(prompt_id, []).append(sample_id)
    requests = [
        Request(prompt.id, prompt.token_ids, tuple(lacking[prompt.id]), prompt.text)
        for prompt in prompts
        if prompt.id in lacking
    ]
    decoding = Decoding(
        config.temperature, config.top_p, config.max_new_tokens, config.seed, config.stop
    )
    total, before = len(keys) - len(found), len(found)
    with progress("Sampling answers", total, "answers") as stage:
        for batch in backend.generate(requests, decoding):
            fresh = {(sample.question_id, sample.sample_id): sample for sample in batch}
            store.put_many(
                {keys[at]: {n: getattr(s, n) for n in STORED_FIELDS} for at, s in fresh.items()}
            )
            found |= fresh
            tokens = sum(len(sample.token_ids) for sample in batch)
            stage.advance(len(batch), tokens, {"generated": len(found) - before})


def sample_key(config: RunConfig, identity: ModelIdentity, prompt: Prompt, sample_id: int) -> str:
    """Where an answer is stored; the answers of each backend have places of their own."""
    drawn = {} if sample_id == GREEDY else {
        "temperature": config.temperature, "top_p": config.top_p, "seed": config.seed,
    }  # fmt: skip
    origin: dict[str, str] = {} if config.backend == "hf" else {"backend": config.backend}
    if config.backend == "openai":
        origin["served"] = config.served_model or config.model
    return content_key(
        stage="sample",
        version=SAMPLING_VERSION,
        model=identity.model_hash,
        tokenizer=identity.tokenizer_hash,
        dtype=config.dtype,
        # The text where there is one: so what is missing can be counted without a tokenizer.
        prompt=prompt.text or prompt.token_ids,
        chat=config.chat,
        max_new_tokens=config.max_new_tokens,
        stop=config.stop,
        question_id=prompt.id,
        sample_id=sample_id,
        **drawn,
        **origin,
    )


def read_sample(question_id: str, sample_id: int, stored: dict[str, Any]) -> Sample:
    """A stored sample."""
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Sample(question_id=question_id, sample_id=sample_id, **values)


def _check_one_model(config: RunConfig, samples: Iterable[Sample]) -> None:
    served = sorted({sample.served_model for sample in samples} - {""})
    if len(served) > 1:
        raise UserError(
            f"{config.run_folder} would hold answers of several models ({', '.join(served)}): the "
            f"endpoint {config.endpoint} has changed what it serves; name the one that is meant "
            "with --served-model, which begins a run of its own"
        )


def sample_counts(answers: SampledAnswers) -> dict[str, int]:
    """How many questions, answers and tokens there are, of how many; how many were cut off.

    Of the answers as their backend gave them: `entropies_forced` are still to be read.
    """
    rows = [s for row in answers.samples for s in row]
    every = (*rows, *answers.greedy)
    return {
        "questions_asked": len(answers.questions) + len(answers.too_long),
        "questions": len(answers.questions),
        "questions_too_long": len(answers.too_long),
        "samples": len(rows),
        "samples_cut_off": sum(s.finish_reason == "length" for s in rows),
        "greedy_cut_off": sum(s.finish_reason == "length" for s in answers.greedy),
        "samples_retokenised": sum(s.retokenised for s in every),
        "entropies_forced": sum(s.entropy_kind != "full" for s in every),
        "tokens": sum(len(s.token_ids) for s in every),
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
