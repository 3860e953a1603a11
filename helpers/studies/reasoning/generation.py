"""K runs a question from whichever backend; every batch is stored as soon as it is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from helpers.backends import TOO_LONG, Asked, Backend, Generated, open_backend
from helpers.datasets import Question
from helpers.errors import UserError
from helpers.models import identify, load_tokenizer
from helpers.pipeline import prompt_texts, sample_key
from helpers.progress import Progress
from helpers.sampling import Decoding
from helpers.store import Store
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import ReasoningRun
from helpers.studies.reasoning.runs import read_run, thinking_tags


@dataclass(frozen=True)
class Runs:
    """The runs of each question, in the questions' order."""

    questions: tuple[Question, ...]
    """Those whose prompt fits into the model's context."""
    prompt_ids: tuple[tuple[int, ...], ...]
    """`[n]`, the prompt of each question in tokens."""
    runs: tuple[tuple[ReasoningRun, ...], ...]
    """`[n][K]`"""
    too_long: tuple[str, ...]
    """Ids of questions left out because their prompt fills the context."""
    generated: int
    """Runs generated now; the others were stored."""
    backend: dict[str, Any]
    """What generated them, or would have, for the manifest."""
    retokenised: int = 0
    """Runs whose token ids had to be made from their text."""


def generate_runs(
    config: ReasoningConfig, questions: Sequence[Question], store: Store, progress: Progress
) -> Runs:
    """K runs of each question; only what is not stored is generated.

    Raises `UserError` when the stored runs come from several models at an endpoint.
    """
    prompts = prompt_texts(config, [q.question for q in questions])
    tokenizer = load_tokenizer(identify(config.model))
    encoded = tokenizer(prompts, add_special_tokens=not config.chat)["input_ids"]
    prompt_ids = [tuple(ids) for ids in encoded]
    keys = {
        (i, s): _key(config, question, prompts[i], s)
        for i, question in enumerate(questions)
        for s in range(config.k)
    }
    known = store.get_many(keys.values())
    missing = sum(key not in known for key in keys.values())
    backend = open_backend(config)
    if missing:
        _generate_missing(
            backend, config, questions, prompts, prompt_ids, keys, known, store, progress
        )
    _check_one_model(config, known)
    fits = [not _is_too_long(known[keys[i, 0]]) for i in range(len(questions))]
    kept = [i for i, fitting in enumerate(fits) if fitting]
    tags = [thinking_tags(config, tokenizer, prompt) for prompt in prompts]
    return Runs(
        questions=tuple(questions[i] for i in kept),
        prompt_ids=tuple(prompt_ids[i] for i in kept),
        runs=tuple(
            tuple(
                read_run(questions[i], _generated(questions[i].id, s, known[keys[i, s]]), tags[i])
                for s in range(config.k)
            )
            for i in kept
        ),
        too_long=tuple(q.id for q, fitting in zip(questions, fits, strict=True) if not fitting),
        generated=missing,
        backend={**backend.describe(), "promise": backend.promise},
        retokenised=sum(bool(known[key].get("retokenised")) for key in keys.values()),
    )


def _key(config: ReasoningConfig, question: Question, prompt: str, sample_id: int) -> str:
    """Where a run is stored; runs of transformers are the samples of the main study."""
    if config.backend == "hf":
        return sample_key(config, question, prompt, sample_id)
    served = config.served_model or config.model
    apart = {"backend": config.backend} | ({"served": served} if config.backend == "openai" else {})
    return sample_key(config, question, prompt, sample_id, **apart)


def _generate_missing(
    backend: Backend,
    config: ReasoningConfig,
    questions: Sequence[Question],
    prompts: Sequence[str],
    prompt_ids: Sequence[tuple[int, ...]],
    keys: dict[tuple[int, int], str],
    known: dict[str, dict],
    store: Store,
    progress: Progress,
) -> None:
    """Generate and store what is not `known`, which grows by it."""
    index = {question.id: i for i, question in enumerate(questions)}
    asked = []
    for i, question in enumerate(questions):
        missing = tuple(s for s in range(config.k) if keys[i, s] not in known)
        if missing:
            asked.append(Asked(question.id, prompts[i], prompt_ids[i], missing))
    decoding = Decoding(
        config.temperature, config.top_p, config.max_new_tokens, config.seed, config.stop
    )
    total = sum(len(a.sample_ids) for a in asked)
    with progress("Sampling answers", total, "runs") as stage:
        for batch in backend.generate(asked, decoding):
            found = {keys[index[g.question_id], g.sample_id]: _written(g) for g in batch}
            store.put_many(found)
            known |= found
            stage.advance(len(batch), sum(len(g.token_ids) for g in batch))


def _written(generated: Generated) -> dict[str, Any]:
    fields = asdict(generated)
    return {k: v for k, v in fields.items() if k not in ("question_id", "sample_id")}


def _generated(question_id: str, sample_id: int, stored: dict[str, Any]) -> Generated:
    """A stored run; those of the main study say nothing of what is the same for all of them."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    usual: dict[str, Any] = {"entropy_kind": "full", "retokenised": False, "served_model": ""}
    return Generated(question_id=question_id, sample_id=sample_id, **(usual | values))


def _is_too_long(stored: dict[str, Any]) -> bool:
    # The main study, whose samples these may be, stores the prompt's length instead.
    return "too_long" in stored or stored.get("finish_reason") == TOO_LONG


def _check_one_model(config: ReasoningConfig, stored: dict[str, dict]) -> None:
    served = sorted({value.get("served_model", "") for value in stored.values()} - {""})
    if len(served) > 1:
        raise UserError(
            f"{config.run_folder} would hold runs of several models ({', '.join(served)}): the "
            f"endpoint {config.endpoint} has changed what it serves; name the one that is meant "
            "with --served-model, which begins a run of its own"
        )
