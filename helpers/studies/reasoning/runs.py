"""Runs: sampled from a backend, taken apart into thinking and answer, kept where they are valid."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.data.answers import grade
from helpers.data.questions import Question, load_questions
from helpers.errors import UserError
from helpers.generation.records import Prompt, Sample
from helpers.generation.samples import answer_questions
from helpers.hidden_states.capture import think_end_id
from helpers.models.loading import identify, load_tokenizer
from helpers.progress import Progress, silent_progress
from helpers.store.cache import Store
from helpers.store.files import write_bytes
from helpers.studies.reasoning.config import PREPARED, ReasoningConfig
from helpers.studies.reasoning.records import OOD, ReasoningRun, RunCounts

CLOSE, OPEN = "</think>", "<think>"
TRUNCATED = "cut off by the token limit"
NEVER_CLOSED = "the thinking never closes"


@dataclass(frozen=True)
class Tags:
    """What of the thinking tags a tokenizer and a prompt have."""

    close: int | None
    """Id of `</think>`; None where the model thinks aloud, or not at all."""
    open: int | None
    """Id of `<think>`."""
    prompt_is_open: bool
    """Whether the prompt ends inside an open `<think>`."""

    @property
    def thinks(self) -> bool:
        """Whether a run is expected to close its thinking."""
        return self.close is not None


def thinking_tags(config: ReasoningConfig, tokenizer: Any, prompt: str) -> Tags:
    """The tags that runs of a prompt are read by; without thinking there are none."""
    if not config.thinking:
        return Tags(None, None, False)
    opening = tokenizer.convert_tokens_to_ids(OPEN)
    known = opening is not None and opening != tokenizer.unk_token_id
    return Tags(
        think_end_id(tokenizer), int(opening) if known else None, prompt.rstrip().endswith(OPEN)
    )


def read_run(question: Question, sample: Sample, tags: Tags) -> ReasoningRun:
    """The parts of a generated text; only what was generated is graded, never the prompt."""
    span = thinking_span(sample.token_ids, tags)
    thinking, closed, answer = sample.text.rpartition(CLOSE)
    if not tags.thinks:
        thinking, closed, answer = "", "", sample.text
    elif not closed:
        thinking, answer = sample.text, ""
    found = None
    if question.final_answer is not None:
        found = grade(
            sample.text, sample.finish_reason, question.final_answer,
            thinking_open=tags.prompt_is_open,
        )  # fmt: skip
    return ReasoningRun(
        question_id=sample.question_id,
        run_id=sample.sample_id,
        text=sample.text,
        thinking=thinking.removeprefix(OPEN).strip() if thinking else "",
        answer=answer.strip(),
        final_answer=found.final_answer if found else None,
        status=found.status if found else None,  # type: ignore[arg-type]
        token_ids=sample.token_ids,
        token_logprobs=sample.token_logprobs,
        token_entropies=sample.token_entropies,
        entropy_kind=sample.entropy_kind,
        thinking_span=span,
        finish_reason=sample.finish_reason,
        excluded=_excluded(sample, tags, span),
    )


def thinking_span(token_ids: Sequence[int], tags: Tags) -> tuple[int, int] | None:
    """Start and end of the thinking in generated tokens, without its tags; None: never closed.

    >>> thinking_span((7, 1, 2, 8, 3), Tags(close=8, open=7, prompt_is_open=False))
    (1, 3)
    """
    if tags.close is None or tags.close not in token_ids:
        return None
    end = len(token_ids) - 1 - list(token_ids)[::-1].index(tags.close)
    before = list(token_ids[:end])
    start = before.index(tags.open) + 1 if tags.open in before else 0
    return start, end


def _excluded(sample: Sample, tags: Tags, span: tuple[int, int] | None) -> str:
    if sample.finish_reason == "length":
        return TRUNCATED
    return NEVER_CLOSED if tags.thinks and span is None else ""


def thinking_entropy(run: ReasoningRun) -> float | None:
    """Mean entropy of the thinking's tokens, nats; of all tokens where there is no thinking.

    None where the entropies are not known, or the thinking is empty.
    """
    start, end = run.thinking_span or (0, len(run.token_entropies))
    entropies = run.token_entropies[start:end]
    return sum(entropies) / len(entropies) if entropies else None


def kept_questions(
    config: ReasoningConfig, questions: Sequence[Question], runs: Sequence[Sequence[ReasoningRun]]
) -> list[int]:
    """Rows of the questions with enough valid runs."""
    valid = [sum(not run.excluded for run in row) for row in runs]
    return [i for i in range(len(questions)) if valid[i] >= min(config.min_runs, config.k)]


def count_runs(
    config: ReasoningConfig, questions: Sequence[Question], runs: Sequence[Sequence[ReasoningRun]]
) -> dict[str, RunCounts]:
    """What there is and what is left out, for "in" and "ood" distribution."""
    kept = set(kept_questions(config, questions, runs))
    found = {}
    for name in ("in", OOD):
        rows = [i for i, q in enumerate(questions) if (q.split == OOD) == (name == OOD)]
        if not rows:
            continue
        every = [run for i in rows for run in runs[i]]
        used = [run for i in rows if i in kept for run in runs[i] if not run.excluded]
        status = Counter(run.status for run in used)
        valid = sum(not run.excluded for run in every)
        found[name] = RunCounts(
            questions=len(rows),
            runs=len(every),
            valid=valid,
            excluded=dict(sorted(Counter(r.excluded for r in every if r.excluded).items())),
            questions_dropped=sum(i not in kept for i in rows),
            runs_dropped=valid - len(used),
            correct=status["correct"],
            wrong=status["wrong"],
            unanswered=status["unanswered"],
            entropy_kinds=dict(sorted(Counter(r.entropy_kind for r in used).items())),
        )
    return found


# --- generation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runs:
    """The runs of each question, in the questions' order."""

    questions: tuple[Question, ...]
    """Those whose prompt fits into the model's context."""
    prompts: tuple[Prompt, ...]
    """`[n]`"""
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
    """K runs of each question, taken apart; only what is not stored is generated."""
    found = answer_questions(config, questions, store, progress)
    tokenizer = load_tokenizer(identify(config.model))
    runs = []
    for question, prompt, row in zip(found.questions, found.prompts, found.samples, strict=True):
        tags = thinking_tags(config, tokenizer, prompt.text)
        runs.append(tuple(read_run(question, sample, tags) for sample in row))
    return Runs(
        questions=found.questions,
        prompts=found.prompts,
        runs=tuple(runs),
        too_long=found.too_long,
        generated=found.generated,
        backend=found.backend,
        retokenised=sum(sample.retokenised for row in found.samples for sample in row),
    )


# --- questions -----------------------------------------------------------------------------------


FIELDS = ("id", "question", "answer")


def study_questions(config: ReasoningConfig, progress: Progress | None = None) -> list[Question]:
    """The questions in distribution with their splits, then those out of it with split "ood".

    Raises `UserError` for a source that cannot be read, and where one question is in both.
    """
    for source in (config.questions, config.ood_questions):
        if source in PREPARED and not Path(source).exists():
            prepare(Path(source), PREPARED[source], progress or silent_progress())
    inside = load_questions(config.questions, limit=config.limit, seed=config.seed)
    if config.ood_questions is None:
        return inside
    outside = load_questions(config.ood_questions, limit=config.ood_limit, seed=config.seed)
    return [*inside, *_apart(inside, outside, config)]


def prepare(path: Path, source: str, progress: Progress) -> None:
    """Write a source's questions as `{id, question, answer}`, one object a line."""
    with progress(f"Preparing {path}", 1, "file") as stage:
        questions = load_questions(source, limit=None, seed=0)
        rows = ({name: getattr(q, name) for name in FIELDS} for q in questions)
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        write_bytes(path, ("\n".join(lines) + "\n").encode())
        stage.advance(1)


def _apart(
    inside: Sequence[Question], outside: Sequence[Question], config: ReasoningConfig
) -> list[Question]:
    """The questions out of distribution, with ids of their own; none may be among the others."""
    ids, texts = {q.id for q in inside}, {" ".join(q.question.split()) for q in inside}
    shared = [q.id for q in outside if " ".join(q.question.split()) in texts]
    if shared:
        raise UserError(
            f"{config.ood_questions}: {len(shared)} of its questions are in {config.questions} too "
            f"({', '.join(shared[:3])}, …), so they are not out of distribution; name another "
            "--ood-questions"
        )
    return [replace(q, split=OOD, id=f"{OOD}:{q.id}" if q.id in ids else q.id) for q in outside]
