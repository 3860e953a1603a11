"""Questions and ready-made generations, from the lab, a local file or the hub.

One string names the source; every row is checked on the way in, so that the later stages meet only
questions with text, unique ids and references that can be graded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.data.answers import answers_equal, reference_answer
from helpers.data.lab_problems import SPLIT_PATTERN, problems
from helpers.errors import UserError
from helpers.store.hub import is_prepared, load_table

# --- rows of files and tables --------------------------------------------------------------------


_GSM8K = "openai/gsm8k"
_MATH500 = "HuggingFaceH4/MATH-500"


@dataclass(frozen=True)
class Row:
    """One record of a file or a data set, and the words for where it stands."""

    place: str
    number: int
    fields: dict[str, Any]


def read_rows(path: Path, layouts: str) -> Iterator[Row]:
    """The objects of a JSONL file; blank lines and a byte order mark are passed over."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder: name the JSONL file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: check the path, or try --questions lab") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8: save the file as UTF-8 text") from error
    if text.lstrip().startswith("["):
        raise UserError(f"{path}: is one JSON array, not JSON lines: write {layouts}")
    # Not splitlines: a JSON string may hold U+2028, which ends no line of a JSONL file.
    for number, line_text in enumerate(text.split("\n"), start=1):
        if not line_text.strip():
            continue
        place = f"{path}: line {number}"
        try:
            fields = json.loads(line_text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}): expected {layouts}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{place}: not a JSON object: expected {layouts}")
        yield Row(place, number, fields)


def is_path(source: str) -> bool:
    """Whether a source names a file: by its ending, its look, or because it is there."""
    if source.partition("@")[0] in ("gsm8k", _GSM8K, "math-500", _MATH500):
        return False
    looks_like_one = source.endswith((".jsonl", ".json")) or source.startswith((".", "/", "~"))
    return looks_like_one or source.count("/") > 1 or "\\" in source or Path(source).exists()


def is_to_be_fetched(source: str) -> bool:
    """Whether reading a source would fetch it; without the hub that fails at once instead."""
    if source in ("lab", "lab:ood") or is_path(source):
        return False
    from huggingface_hub import constants

    name, config, _ = _on_the_hub(source)
    return not constants.HF_HUB_OFFLINE and not is_prepared(name, config)


def _on_the_hub(source: str) -> tuple[str, str | None, str]:
    """The data set, configuration and split that a source means."""
    name, _, split = source.partition("@")
    name, _, config = name.partition(":")
    if name in ("gsm8k", _GSM8K):
        name, config = _GSM8K, config or "main"
    if name in ("math-500", _MATH500):
        name, split = _MATH500, split or "test"  # the only split that it has
    return name, config or None, split or "train"


def hub_rows(source: str) -> Iterator[Row]:
    """The rows of "name", "name:config" or "name:config@split" on the hub."""
    table = load_table(*_on_the_hub(source))
    for number, fields in enumerate(table, start=1):
        yield Row(f"{source}: row {number}", number, dict(fields))


def first_present(row: Row, names: Iterable[str]) -> str | None:
    """The first of those names whose field is there and not null."""
    return next((name for name in names if row.fields.get(name) is not None), None)


def required_text(row: Row, names: Sequence[str], layouts: str) -> str:
    """The first of those fields, which must be a text that is not blank."""
    name = next((name for name in names if name in row.fields), None)
    if name is None:
        raise UserError(f'{row.place}: no field "{names[0]}": expected {layouts}')
    text = row.fields[name]
    if not isinstance(text, str):
        raise UserError(f'{row.place}: "{name}" is not a text: expected {layouts}')
    if not text.strip():
        raise UserError(f'{row.place}: "{name}" is empty: fill it in or delete the line')
    check_encodable(row, name, text)
    return text.strip()


def optional_text(row: Row, name: str) -> str | None:
    """A text or a number as text; None for null and for blanks."""
    value = row.fields[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f'{row.place}: "{name}" is neither a text nor a number')
    check_encodable(row, name, str(value))
    return str(value).strip() or None


def check_encodable(row: Row, name: str, text: str) -> None:
    """Refuse a text that UTF-8 cannot hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f'{row.place}: "{name}" holds half of a surrogate pair: repair the \\u escapes'
        ) from error


_ID_FIELDS = ("id", "unique_id", "idx")
_QUESTION_FIELDS = ("question", "problem")
_QUESTION_LAYOUTS = (
    'one object a line with "question" (or "problem") and "answer", and an "id" if you like; '
    "GSM8K's and MATH's own files will do"
)
_GENERATION_LAYOUTS = (
    'one object a line with "id", "question", "samples" (two texts or more) and, if known, '
    '"answer" and "logprobs"'
)


@dataclass(frozen=True)
class Question:
    """One question, its reference answer and the split that it belongs to."""

    id: str
    question: str
    answer: str  # the reference text, "" where there is none
    final_answer: str | None
    split: str  # "train", "validation" or "test"
    source: str


@dataclass(frozen=True)
class Generation:
    """A question with samples that someone has already drawn; log-probabilities in nats."""

    id: str
    question: str
    samples: tuple[str, ...]
    answer: str | None = None
    final_answer: str | None = None
    logprobs: tuple[float, ...] | None = None  # one sum a sample
    token_logprobs: tuple[tuple[float, ...], ...] | None = None  # where the file gives them


def load_questions(
    source: str,
    *,
    limit: int | None,
    seed: int,
    splits: tuple[float, float, float] = (0.5, 0.2, 0.3),
) -> list[Question]:
    """Questions of one source: "lab", "lab:ood", a JSONL file, or a data set's name on the hub.

    A hub name is "owner/name", "name:config" or "name:config@split"; "gsm8k" is short for
    "openai/gsm8k:main@train", "math-500" for "HuggingFaceH4/MATH-500@test". Which questions a
    limit takes, their order and their splits follow from the seed and each question's id alone:
    200 questions are the first 200 of 400. The lab makes as many questions as it is asked for, and
    brings its own splits.

    Raises UserError for a limit below 1, shares that do not sum to 1, a source that cannot be
    reached and every malformed row, which it names.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: {limit} is below 1: ask for one question or more, or for no limit")
    if min(splits) < 0 or not math.isclose(sum(splits), 1.0, abs_tol=1e-9):
        raise UserError(
            f"splits: {splits} must be three shares, none below 0, that sum to 1: "
            "for instance 0.5, 0.2, 0.3"
        )
    if source in ("lab", "lab:ood"):
        if limit is None:
            raise UserError(f"{source}: its questions never end: say how many with --limit 200")
        return lab_questions(limit=limit, seed=seed, ood=source == "lab:ood")
    if is_path(source):
        path = Path(source).expanduser()
        rows, name = read_rows(path, _QUESTION_LAYOUTS), path.name
    else:
        rows, name = hub_rows(source), source
    questions = _parse_questions(rows, name)
    if not questions:
        raise UserError(f"{source}: no questions in it: expected {_QUESTION_LAYOUTS}")
    questions.sort(key=lambda q: (_hash(f"order:{seed}:{q.id}"), q.id))
    if limit is not None and limit > len(questions):
        warnings.warn(
            f"{source}: {limit} questions asked for, it has {len(questions)}: taking them all",
            stacklevel=2,
        )
    return [
        Question(q.id, q.question, q.answer, q.final_answer, assign_split(q.id, seed, splits), name)
        for q in questions[:limit]
    ]


def assign_split(question_id: str, seed: int, splits: tuple[float, float, float]) -> str:
    """The split of a question, by a hash of its id and the seed, whatever the other questions.

    Shares are those of (train, validation, test), so a small set meets them only roughly.
    """
    position = int(_hash(f"split:{seed}:{question_id}")[:12], 16) / 16**12
    if position < splits[0]:
        return "train"
    return "validation" if position < splits[0] + splits[1] else "test"


def question_id(question: str) -> str:
    """The id of a question that came without one: 12 hexadecimal digits of its text's hash."""
    return _hash(_same_text(question))[:12]


def load_generations(path: str | Path) -> list[Generation]:
    """Samples drawn elsewhere: `{id, question, samples, answer?, logprobs?}`, one object a line.

    `logprobs` holds one sum a sample or one list of token log-probabilities a sample, in nats. The
    output of Qwen2.5-Math's evaluation (`idx`, `code`, `gt`) is read too; `gt`, the answer
    that it was scored against, stands in where there is no `answer`.

    Raises UserError for a missing or malformed file, naming the line.
    """
    path = Path(path).expanduser()
    generations: list[Generation] = []
    by_id: dict[str, Row] = {}
    by_text: dict[str, Row] = {}
    for row in read_rows(path, _GENERATION_LAYOUTS):
        generation = _parse_generation(row)
        for kind, key, seen in (
            (f"id {generation.id!r}", generation.id, by_id),
            ("question", _same_text(generation.question), by_text),
        ):
            if key in seen:
                raise UserError(
                    f"{row.place}: the same {kind} as in line {seen[key].number}: "
                    "put all samples of a question in one line"
                )
            seen[key] = row
        generations.append(generation)
    if not generations:
        raise UserError(f"{path}: no generations in it: expected {_GENERATION_LAYOUTS}")
    return generations


# --- rows ----------------------------------------------------------------------------------------


def _parse_questions(rows: Iterable[Row], source: str) -> list[Question]:
    """Checked questions, exact repeats left out with a warning, contradictions refused."""
    questions: list[Question] = []
    by_id: dict[str, tuple[Row, Question]] = {}
    by_text: dict[str, tuple[Row, Question]] = {}
    repeats: list[int] = []
    for row in rows:
        question = _parse_question(row, source)
        key = _same_text(question.question)
        if key in by_text:
            first, earlier = by_text[key]
            a, b = earlier.final_answer, question.final_answer
            if not (a is b or (a is not None and b is not None and answers_equal(a, b))):
                raise UserError(
                    f"{row.place}: the same question as in line {first.number} with another "
                    "answer: keep the right one"
                )
            repeats.append(row.number)
        elif question.id in by_id:
            raise UserError(
                f"{row.place}: the same id {question.id!r} as in line "
                f"{by_id[question.id][0].number} for another question: give each its own, or none"
            )
        else:
            by_text[key] = by_id[question.id] = (row, question)
            questions.append(question)
    if repeats:
        shown = ", ".join(map(str, repeats[:20])) + (", …" if len(repeats) > 20 else "")
        warnings.warn(
            f"{source}: lines {shown} repeat earlier questions and were left out", stacklevel=3
        )
    return questions


def _parse_question(row: Row, source: str) -> Question:
    text = required_text(row, _QUESTION_FIELDS, _QUESTION_LAYOUTS)
    if "answer" not in row.fields:
        raise UserError(f'{row.place}: no field "answer": expected {_QUESTION_LAYOUTS}')
    answer = optional_text(row, "answer") or ""
    final = _checked_reference(row, answer) if answer else None
    given = _given_id(row)
    return Question(given or question_id(text), text, answer, final, "", source)


def _parse_generation(row: Row) -> Generation:
    text = required_text(row, _QUESTION_FIELDS, _GENERATION_LAYOUTS)
    samples_field = first_present(row, ("samples", "code"))
    if samples_field is None:
        raise UserError(f'{row.place}: no field "samples": expected {_GENERATION_LAYOUTS}')
    samples = row.fields[samples_field]
    if not isinstance(samples, list) or not all(isinstance(s, str) for s in samples):
        raise UserError(f'{row.place}: "{samples_field}" must be a list of texts')
    if len(samples) < 2:
        raise UserError(
            f'{row.place}: {len(samples)} in "{samples_field}": entropy needs two samples or more'
        )
    for sample in samples:
        check_encodable(row, samples_field, sample)
    answer_field = first_present(row, ("answer", "gt"))
    answer = (optional_text(row, answer_field) if answer_field else None) or None
    final = _checked_reference(row, answer) if answer else None
    sums, tokens = _parse_logprobs(row, len(samples))
    given = _given_id(row)
    return Generation(given or question_id(text), text, tuple(samples), answer, final, sums, tokens)


def _parse_logprobs(
    row: Row, count: int
) -> tuple[tuple[float, ...] | None, tuple[tuple[float, ...], ...] | None]:
    """One sum a sample and, where the row lists them, the token log-probabilities."""
    given = row.fields.get("logprobs")
    if given is None:
        return None, None
    if not isinstance(given, list) or len(given) != count:
        size = len(given) if isinstance(given, list) else "no list"
        raise UserError(
            f'{row.place}: "logprobs" has {size} for {count} samples: give one number a sample '
            "(its sum), or one list of token log-probabilities a sample"
        )
    if all(isinstance(entry, list) for entry in given):
        tokens = tuple(tuple(_logprob(row, value) for value in entry) for entry in given)
        return tuple(math.fsum(entry) for entry in tokens), tokens
    return tuple(_logprob(row, value) for value in given), None


# --- fields --------------------------------------------------------------------------------------


def _logprob(row: Row, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f'{row.place}: "logprobs" holds {value!r}: expected finite numbers')
    if value > 0:
        raise UserError(
            f'{row.place}: "logprobs" holds {value}, above 0: expected natural logarithms of '
            "probabilities, not probabilities"
        )
    return float(value)


def _given_id(row: Row) -> str | None:
    name = first_present(row, _ID_FIELDS)
    return optional_text(row, name) if name else None


def _checked_reference(row: Row, answer: str) -> str:
    final = reference_answer(answer)
    if final is None:
        raise UserError(
            f"{row.place}: reference answer without a final answer: "
            "expected '#### 19' as its last line, or a bare number or short text"
        )
    return final


def _same_text(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def lab_questions(limit: int, seed: int, ood: bool = False) -> list[Question]:
    """The first `limit` lab questions of a seed, 40 % train, 20 % validation, 40 % test."""
    stream = problems(seed, pool="unseen" if ood else "questions")
    return [
        Question(
            id=problem.id,
            question=problem.question,
            answer=problem.answer,
            final_answer=str(problem.final),
            split=SPLIT_PATTERN[i % 10],
            source="lab:ood" if ood else "lab",
        )
        for i, problem in zip(range(limit), stream, strict=False)
    ]
