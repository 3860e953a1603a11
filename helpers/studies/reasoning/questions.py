"""The study's questions: those that probes learn from, and those out of distribution."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from helpers.datasets import Question, load_questions
from helpers.errors import UserError
from helpers.files import write_bytes
from helpers.progress import Progress
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import OOD

PREPARED = {"data/math_raw.jsonl": "math-500", "data/ood_raw.jsonl": "gsm8k@test"}
"""Files that are made where they are missing, and the source that they are made from."""
FIELDS = ("id", "question", "answer")


def study_questions(config: ReasoningConfig, progress: Progress) -> list[Question]:
    """The questions in distribution with their splits, then those out of it with split "ood".

    Raises `UserError` for a source that cannot be read, and where one question is in both.
    """
    for source in (config.questions, config.ood_questions):
        if source in PREPARED and not Path(source).exists():
            prepare(Path(source), PREPARED[source], progress)
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
