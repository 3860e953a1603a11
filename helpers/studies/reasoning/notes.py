"""What a reader must know of the study's scores, in sentences."""

from __future__ import annotations

import numpy as np

from helpers.studies.reasoning.curves import RESAMPLES
from helpers.studies.reasoning.predictors import NEEDS_OTHER_RUNS, TITLES
from helpers.studies.reasoning.probes import COMBINED, parts_of
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    SPLITS,
    RunTable,
    StudyProbes,
    Traced,
)

FEW_QUESTIONS = 30
"""Below this many questions in a split, the notes warn of its intervals."""
SPLIT_TITLES = {"test": "test", OOD: "out of distribution"}


def study_notes(
    table: RunTable, probes: StudyProbes, traced: Traced, n_bootstrap: int
) -> tuple[str, ...]:
    """The units, what is left out, what needs more than one run, and what is undefined."""
    return (
        *_units(table),
        *_left_out(table),
        *_undefined(probes),
        f"Of the baselines, {_listed(NEEDS_OTHER_RUNS)} need the question's other runs; everything "
        "else is known from the run alone.",
        "High semantic entropy is a label of the question, which all its runs share. There, the "
        "thinking entropy is the entropy itself and not the probe on it, and the correctness "
        "probe counts with its sign turned.",
        *([traced.reason] if traced.reason else []),
        f"The curves by layer and the bands of risk are of {min(RESAMPLES, n_bootstrap)} "
        "resamples; no choice has seen them. The intervals of the reliability curves are as wide "
        "as if a question's runs in a bin were copies of one run.",
    )


def runs_and_questions(table: RunTable, split: str) -> tuple[int, int]:
    """How many runs and how many questions a split holds."""
    rows = table.rows(split)
    return int(rows.sum()), len(np.unique(table.question_id[rows]))


def _units(table: RunTable) -> list[str]:
    sizes = {split: runs_and_questions(table, split) for split in SCORED_SPLITS}
    there = [
        f"{SPLIT_TITLES[split]} {runs:,} runs of {questions:,} questions"
        for split, (runs, questions) in sizes.items()
        if runs
    ]
    notes = [
        f"Scored are {' and '.join(there) or 'no runs'}. The runs of a question are alike, so the "
        "questions are the units: intervals draw whole questions again, and p-values deal out "
        "the labels of whole questions among questions with equally many scored runs."
    ]
    notes += [
        f"Only {questions} questions in {SPLIT_TITLES[split]}: intervals of so few units are rough."
        for split, (_, questions) in sizes.items()
        if 0 < questions < FEW_QUESTIONS
    ]
    if not sizes[OOD][0]:
        notes.append("No out-of-distribution questions were asked.")
    return notes


def _left_out(table: RunTable) -> list[str]:
    """How many runs have no known label, and how many no known entropy, by split."""
    notes = []
    for values, what, then in (
        (table.correct, "neither correct nor wrong: they state no answer, or nobody knows the "
         "right one", "They are left out of what concerns correctness"),
        (table.thinking_entropy, "without known token entropies of the thinking", "The thinking "
         "entropy says nothing of them"),
    ):  # fmt: skip
        unknown = {split: int((table.rows(split) & np.isnan(values)).sum()) for split in SPLITS}
        if any(unknown.values()):
            where = ", ".join(f"{count:,} in {split}" for split, count in unknown.items() if count)
            notes.append(f"{sum(unknown.values()):,} runs are {what}. {then} ({where}).")
    return notes


def _undefined(probes: StudyProbes) -> list[str]:
    notes = [f"Undefined: {TITLES[name]} ({why})." for name, why in probes.undefined.items()]
    if COMBINED in probes.probes:
        parts = parts_of(probes.probes[COMBINED])
        if len(parts) < len(PREDICTORS) - 1:
            notes.append(
                f"The combination weighs only {_listed(parts)}, as the other is undefined."
            )
        notes.append(
            "The combination is fitted on validation, where the probes' layers were chosen too."
        )
    return notes


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(TITLES[name].rstrip("*") for name in names)
