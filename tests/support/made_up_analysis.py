"""A made-up `analysis.parquet`, for trying and testing what reads one.

    python tests/support/made_up_analysis.py FILE --questions 600 --runs 10

Harder questions are answered wrong more often, in more ways and after longer thinking; every probe
sees some of that. A few rows hold hostile and very long texts.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # as a script: the repository is the folder above
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from helpers.analysis_table.file import COLUMNS, ROWS_PER_GROUP, About, write_groups

HOSTILE = (
    "<script>alert(1)</script>",
    "</textarea><script>document.title='taken'</script>",
    '"><img src=x onerror=alert(1)>',
    "</think><b>not bold</b> &amp; &lt;i&gt; {{7*7}} ${7*7} `code` $\\frac{1}{2}$",
    "<marimo-ui-element onclick='alert(1)'>=cmd|' /C calc'!A1",
    "\u202eright to left\u202c, a nul \x00, an emoji 👩‍👩‍👧, ﷽",
)
THRESHOLD = 0.6
NOISE = {"correctness": 0.8, "semantic_entropy": 0.9, "thinking_entropy": 2.5, "combined": 0.6}


def make_analysis(
    path: Path,
    *,
    questions: int = 120,
    runs: int = 10,
    tokens: int = 60,
    seed: int = 0,
    undefined: Sequence[str] = (),
    entropies: bool = True,
    ood: float = 0.25,
    references: bool = True,
) -> About:
    """Write a file of `questions` × `runs` rows with about `tokens` tokens each.

    `undefined` names predictors without a value; `entropies=False` is an endpoint that gave none;
    `ood` is the share of out-of-distribution questions; without references nothing is graded.
    """
    rng = np.random.default_rng(seed)
    narrow = _narrow(rng, questions, runs, tokens, ood)
    answers = narrow.pop("answers")
    for name in undefined:
        for part in ("probability", "margin", "projection"):
            narrow[f"{part}_{name}"][:] = np.nan
    if not entropies:
        narrow["thinking_entropy"][:] = np.nan
    if not references:
        narrow["correct"][:] = np.nan
        narrow["status"] = [None] * len(answers)
    about = About(
        run="made-up-00000000",
        model="made-up/model",
        position="think_end",
        threshold=THRESHOLD,
        entropy_of="final-answer",
        datasets={"lab": "in", "lab:ood": "ood"}
        if "lab:ood" in narrow["dataset"]
        else {"lab": "in"},
        layers={"correctness": 3, "semantic_entropy": 4},
        undefined={name: "train has one class only (made up)" for name in undefined},
        notes={"umap": "made-up coordinates: six topics, wrong runs beside the right ones"},
    )
    groups = _groups(rng, narrow, answers, tokens, entropies, references)
    write_groups(Path(path), groups, about, len(answers))
    return about


def _narrow(
    rng: np.random.Generator, questions: int, runs: int, tokens: int, ood: float
) -> dict[str, Any]:
    """Every column without text; `answers` holds the final answers, "" where there is none."""
    n_ood = round(questions * ood)
    is_ood = np.arange(questions) >= questions - n_ood
    split = np.resize(np.repeat(["train", "validation", "test"], [5, 2, 3]), questions)
    split = np.where(is_ood, "ood", split)
    hard = rng.normal(0, 1, questions) + 0.8 * is_ood
    topic = rng.integers(0, 6, questions)
    n, owner = questions * runs, np.repeat(np.arange(questions), runs)
    luck = rng.normal(0, 0.7, n)
    right = luck - 1.6 * hard[owner] + 0.9 > 0
    unanswered = rng.random(n) < np.where(hard[owner] > 1, 0.12, 0.02)
    wrong = 100 + owner % 7 + np.minimum(rng.geometric(0.5, n), 4 + (hard[owner] > 1))
    answers = np.where(unanswered, "", np.where(right, owner % 90 + 3, wrong).astype(str))
    entropy, other, agreement, first = _meanings(rng, answers, questions, runs)
    thinking = np.maximum(4, rng.normal(tokens * (0.7 + 0.15 * hard[owner]), tokens / 10)).astype(
        int
    )
    measured = np.clip(0.5 + 0.12 * hard[owner] + rng.normal(0, 0.12, n), 0.02, None)
    signal = {
        "correctness": 2.2 * (luck - 1.6 * hard[owner] + 0.9),
        "semantic_entropy": 2.5 * (entropy[owner] - THRESHOLD),
        "thinking_entropy": 1.0 - 1.1 * hard[owner],
        "combined": 2.3 * (luck - 1.6 * hard[owner] + 0.9),
    }
    columns: dict[str, Any] = {}
    for name, noise in NOISE.items():
        margin = signal[name] + rng.normal(0, noise, n)
        columns[f"probability_{name}"] = 1 / (1 + np.exp(-margin))
        columns[f"margin_{name}"] = margin
        columns[f"projection_{name}"] = margin / 1.7
    angle = topic * np.pi / 3
    return {
        "question_id": [f"{'ood' if is_ood[i] else 'lab'}-{i}" for i in owner],
        "run_id": np.tile(np.arange(runs), questions),
        "dataset": np.where(is_ood, "lab:ood", "lab")[owner],
        "split": split[owner],
        "status": np.where(unanswered, "unanswered", np.where(right, "correct", "wrong")),
        "correct": np.where(unanswered, np.nan, right),
        **columns,
        "semantic_entropy": entropy[owner],
        "semantic_entropy_other": other[owner],
        "high_semantic_entropy": entropy[owner] > THRESHOLD,
        "agreement": agreement,
        "thinking_entropy": measured,
        "thinking_tokens": thinking,
        "answer_tokens": rng.integers(4, 9, n),
        "question_characters": np.zeros(n, int),
        "umap_x": 6 * np.cos(angle)[owner] + rng.normal(0, 0.8, n) - 1.2 * right,
        "umap_y": 6 * np.sin(angle)[owner] + rng.normal(0, 0.8, n) + 4 * is_ood[owner],
        "representative": first,
        "answers": answers,
    }


def _meanings(
    rng: np.random.Generator, answers: np.ndarray, questions: int, runs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entropies `[questions]`, agreement and representative `[n]`, counted from the answers."""
    entropy, other = np.zeros(questions), np.zeros(questions)
    agreement, first = np.full(len(answers), np.nan), np.zeros(len(answers), bool)
    for i in range(questions):
        rows = range(i * runs, (i + 1) * runs)
        counts = Counter(answers[row] for row in rows)
        shares = np.array(list(counts.values())) / runs
        entropy[i] = np.sum(shares * np.log(1 / shares))
        other[i] = min(np.log(runs), entropy[i] + rng.exponential(0.1))
        for row in rows:
            if runs > 1:
                agreement[row] = (counts[answers[row]] - 1) / (runs - 1) if answers[row] else 0.0
        stated = {answer: count for answer, count in counts.items() if answer} or counts
        most = max(stated.values())
        first[next(row for row in rows if stated.get(answers[row]) == most)] = True
    return entropy, other, agreement, first


def _groups(
    rng: np.random.Generator,
    narrow: dict[str, Any],
    answers: np.ndarray,
    tokens: int,
    entropies: bool,
    references: bool,
) -> Iterator[dict[str, Any]]:
    """Groups of rows with their texts, made one at a time."""
    for start in range(0, len(answers), ROWS_PER_GROUP):
        rows = range(start, min(start + ROWS_PER_GROUP, len(answers)))
        group = {name: values[rows.start : rows.stop] for name, values in narrow.items()}
        texts = [_texts(rng, narrow, answers, row, tokens, entropies) for row in rows]
        for name in texts[0]:
            group[name] = [text[name] for text in texts]
        if not references:
            group["reference"] = [""] * len(rows)
        group["question_characters"] = [len(text) for text in group["question"]]
        group["thinking_tokens"] = [
            end - start if end >= 0 else 0
            for start, end in zip(group["thinking_start"], group["thinking_end"], strict=True)
        ]
        yield {column.name: group[column.name] for column in COLUMNS}


def _texts(
    rng: np.random.Generator,
    narrow: dict[str, Any],
    answers: np.ndarray,
    row: int,
    tokens: int,
    entropies: bool,
) -> dict[str, Any]:
    run, owner = int(narrow["run_id"][row]), narrow["question_id"][row]
    number = int(owner.split("-")[1])
    question = f"A box holds {number % 90} apples and Ann brings 3 more. How many are there?"
    pieces = _thinking(rng, int(narrow["thinking_tokens"][row]))
    final = str(answers[row]) or None
    said = [" The", " answer", " is", f" {final}", "."] if final else [" I", " cannot", " say", "."]
    if number % 40 == 7:
        question = f"{HOSTILE[number // 40 % len(HOSTILE)]} {question}"
    if number % 40 == 9 and run % 3 == 0:
        pieces[len(pieces) // 2] = " " + HOSTILE[number // 40 % len(HOSTILE)]
        said.append(" " + HOSTILE[(run + 1) % len(HOSTILE)])
        final = HOSTILE[0] if run == 0 else final
    if number == 11 and run == 0:
        question += " Think of it again and again." * 3000
        pieces = _thinking(rng, 8000)
    ids = ["<think>", "\n", *pieces, "\n", "</think>", "\n\n", *said, "<|im_end|>"]
    span = (2, 2 + len(pieces))
    if number == 13 and run == 0:  # no thinking was closed
        ids, span = ids[:-1], (-1, -1)
    level = narrow["thinking_entropy"][row]
    values = rng.exponential(level if np.isfinite(level) else 0.5, len(ids)).astype(np.float32)
    return {
        "question": question,
        "reference": str(number % 90 + 3),
        "thinking": "".join(pieces),
        "answer": "".join(said).strip(),
        "final_answer": final,
        "token_texts": ids,
        "token_entropies": values if entropies else (),
        "thinking_start": span[0],
        "thinking_end": span[1],
    }


_WORDS = [
    "so",
    "we",
    "add",
    "the",
    "3",
    "apples",
    "to",
    "those",
    "in",
    "box",
    "and",
    "get",
    "then",
    "check",
    "it",
    "again",
    "wait",
    "no",
    "yes",
]


def _thinking(rng: np.random.Generator, count: int) -> list[str]:
    return [f" {_WORDS[i]}" for i in rng.integers(0, len(_WORDS), count)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undefined", nargs="*", default=(), help="predictors without a value")
    parser.add_argument("--no-entropies", action="store_true", help="as from an endpoint")
    parser.add_argument("--no-references", action="store_true", help="nothing is graded")
    parser.add_argument("--ood", type=float, default=0.25, help="share of questions")
    given = parser.parse_args()
    make_analysis(
        given.file,
        questions=given.questions,
        runs=given.runs,
        tokens=given.tokens,
        seed=given.seed,
        undefined=given.undefined,
        entropies=not given.no_entropies,
        references=not given.no_references,
        ood=given.ood,
    )
    print(f"{given.file}: {given.file.stat().st_size:,} bytes")
