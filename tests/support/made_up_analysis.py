"""A made-up `analysis.parquet`, for testing what reads one.

Harder questions are answered wrong more often, in more ways and after longer thinking; every probe
sees some of that. A few rows hold hostile and very long texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis_table.about import (
    PROBE_PARTS,
    About,
    Label,
    Noun,
    Number,
    Predictor,
    Split,
    Text,
    Tokens,
)
from helpers.analysis_table.file import UnitRows, write_analysis_table
from helpers.progress import silent_progress
from helpers.studies.reasoning.analysis_table import NUMBERS, describe

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
        narrow["status"] = [None] * len(answers)
    about = describe(
        run="made-up-00000000",
        model="made-up/model",
        entropy_of="final-answer",
        threshold=THRESHOLD,
        datasets={"lab": "in"} | ({"lab:ood": "ood"} if "lab:ood" in narrow["dataset"] else {}),
        place="think_end",
        layers={"correctness": 3, "semantic_entropy": 4},
        undefined={name: "train has one class only (made up)" for name in undefined},
        entropies=entropies,
        notes={"umap": "made-up coordinates: six topics, wrong runs beside the right ones"},
    )
    texts = [
        _texts(rng, narrow, answers, row, tokens, entropies, references)
        for row in range(len(answers))
    ]
    spans = [len(text["thinking_tokens"].texts) for text in texts]
    narrow["thinking_tokens"] = [max(0, span - 2) for span in spans]
    narrow["question_characters"] = [len(text["question"]) for text in texts]
    rows = UnitRows(
        *(narrow[name] for name in ("question_id", "run_id", "dataset", "split")),
        labels={
            "correct": narrow["status"],
            "high_semantic_entropy": np.where(narrow["high"], "high", "not high"),
        },
        predictions={
            name: {part: narrow[f"{part}_{name}"] for part in PROBE_PARTS} for name in NOISE
        },
        numbers={number.name: narrow[number.name] for number in NUMBERS},
        representative=narrow["representative"],
        coordinates=np.stack([narrow["umap_x"], narrow["umap_y"]], axis=1),
    )
    write_analysis_table(Path(path), about, rows, texts.__getitem__, progress=silent_progress())
    return about


def make_words_analysis(path: Path, *, words: int = 90, classes: bool = False) -> About:
    """Write a file of another study: a row a word, no groups, three kinds of hallucination.

    `classes` leaves the label of two classes out, so that nothing can be scored.
    """
    rng = np.random.default_rng(1)
    kinds = Label("kind", "kind of <b>hallucination</b>", ("none", "fact", "name"))
    two = Label("hallucinated", "hallucinated or not", ("yes", "no"), "yes", "no")
    about = About(
        run="words-1",
        model="made-up/words",
        title="Which words are made up? <script>alert(1)</script>",
        introduction="One row a word.",
        unit=Noun("word", "words"),
        group=None,
        labels=(kinds,) if classes else (kinds, two),
        predictors=(Predictor("probe", "word probe", kinds.name if classes else two.name, {}),),
        numbers=(Number("surprisal", "surprisal", "nats"),),
        texts=(Text("word", "word"),),
        splits=(Split("held_out", "held out", scored=True),),
        datasets={"news": "in"},
    )
    if not classes:
        spoken = replace(about.predictors[0], directions={two.name: 1})
        about = replace(about, predictors=(spoken,))
    which = rng.integers(0, 3, words)
    margin = rng.normal(0, 1, words) + (which > 0)
    labels: dict[str, Any] = {"kind": np.array(kinds.classes)[which]}
    if not classes:
        labels["hallucinated"] = np.where(which > 0, "yes", "no")
    rows = UnitRows(
        [f"w{i}" for i in range(words)], [0] * words, ["news"] * words, ["held_out"] * words,
        labels=labels,
        predictions={
            "probe": {
                "probability": 1 / (1 + np.exp(-margin)), "margin": margin, "projection": margin,
            }
        },
        numbers={"surprisal": rng.exponential(1, words)},
    )  # fmt: skip
    write_analysis_table(
        path, about, rows, lambda row: {"word": f"word {row}"}, progress=silent_progress()
    )
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
        **columns,
        "semantic_entropy": entropy[owner],
        "semantic_entropy_other": other[owner],
        "high": entropy[owner] > THRESHOLD,
        "agreement": agreement,
        "thinking_entropy": measured,
        "thinking_tokens": thinking,
        "answer_tokens": rng.integers(4, 9, n),
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


def _texts(
    rng: np.random.Generator,
    narrow: dict[str, Any],
    answers: np.ndarray,
    row: int,
    tokens: int,
    entropies: bool,
    references: bool,
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
    end = 2 + len(pieces)
    if number == 13 and run == 0:  # no thinking was closed
        ids, end = ids[:-1], 0
    level = narrow["thinking_entropy"][row]
    values = rng.exponential(level if np.isfinite(level) else 0.5, len(ids)).astype(np.float32)
    if not entropies:
        values = values[:0]
    return {
        "question": question,
        "reference": str(number % 90 + 3) if references else "",
        "thinking": "".join(pieces),
        "answer": "".join(said).strip(),
        "final_answer": final,
        "thinking_tokens": Tokens(tuple(ids[:end]), values[:end]),
        "answer_tokens": Tokens(tuple(ids[end:]), values[end:]),
    }


_WORDS = "so we add the 3 apples to those in box and get then check it again wait no yes".split()  # noqa: SIM905


def _thinking(rng: np.random.Generator, count: int) -> list[str]:
    return [f" {_WORDS[i]}" for i in rng.integers(0, len(_WORDS), count)]
