"""A generated text taken apart: thinking, answer, final answer; and whether the run is valid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from helpers.backends import Generated
from helpers.datasets import Question
from helpers.grading import grade
from helpers.hidden_states import think_end_id
from helpers.studies.reasoning.config import ReasoningConfig
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


def read_run(question: Question, generated: Generated, tags: Tags) -> ReasoningRun:
    """The parts of a generated text; only what was generated is graded, never the prompt."""
    span = thinking_span(generated.token_ids, tags)
    thinking, closed, answer = generated.text.rpartition(CLOSE)
    if not tags.thinks:
        thinking, closed, answer = "", "", generated.text
    elif not closed:
        thinking, answer = generated.text, ""
    found = None
    if question.final_answer is not None:
        found = grade(
            generated.text, generated.finish_reason, question.final_answer,
            thinking_open=tags.prompt_is_open,
        )  # fmt: skip
    return ReasoningRun(
        question_id=generated.question_id,
        run_id=generated.sample_id,
        text=generated.text,
        thinking=thinking.removeprefix(OPEN).strip() if thinking else "",
        answer=answer.strip(),
        final_answer=found.final_answer if found else None,
        status=found.status if found else None,  # type: ignore[arg-type]
        token_ids=generated.token_ids,
        token_logprobs=generated.token_logprobs,
        token_entropies=generated.token_entropies,
        entropy_kind=generated.entropy_kind,
        thinking_span=span,
        finish_reason=generated.finish_reason,
        excluded=_excluded(generated, tags, span),
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


def _excluded(generated: Generated, tags: Tags, span: tuple[int, int] | None) -> str:
    if generated.finish_reason == "length":
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
