"""The table that a run of the study prints: what was left out, and how well the probes work."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helpers.evaluation import Score
from helpers.studies.reasoning.notes import SPLIT_TITLES, runs_and_questions
from helpers.studies.reasoning.predictors import GIVES_CORRECT, TITLES
from helpers.studies.reasoning.probes import ENTROPY
from helpers.studies.reasoning.records import (
    OOD,
    SCORED_SPLITS,
    SPLITS,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
)
from helpers.studies.reasoning.scores import WITHIN
from helpers.summary import cell, notes, signed

WIDTH, NAME, COLUMN = 100, 37, 31
DATASETS = {"in": "in distribution", OOD: "out of distribution"}

ByPredictor = Mapping[str, Score]


def summarise_study(
    table: RunTable,
    probes: StudyProbes,
    assessment: StudyAssessment,
    counts: Mapping[str, RunCounts],
    *,
    heading: str = "Uncertainty signals of reasoning models",
) -> str:
    """The study as one text of at most 100 columns, for a terminal; `counts` by dataset."""
    a = assessment
    correct = {split: _metric(rows, "auroc") for split, rows in a.correctness.items()}
    high = {split: _metric(rows, "auroc") for split, rows in a.high_entropy.items()}
    for split, row in a.high_entropy_median.items():
        high[split] |= {"median": row[ENTROPY]} if row else {}
    calibration = {
        split: {
            f"{metric}, {TITLES[name]}": rows[name][key]
            for key, metric in (("brier", "Brier"), ("ece", "ECE"))
            for name in GIVES_CORRECT
            if name in rows
        }
        for split, rows in a.correctness.items()
    }
    told: set[str] = set()
    lines = [
        *textwrap.wrap(heading, WIDTH),
        *_counts(counts),
        *_splits(table, probes),
        *_table("AUROC for a correct run", correct, _with_p, _title(probes), told),
        *_table(
            "AUROC for a correct run among the runs of one question",
            {split: _metric(rows, WITHIN) for split, rows in a.correctness.items()},
            _with_p, lambda name: TITLES[name], told,
        ),
        *_table(
            "AUROC for high semantic entropy of the question", high, _with_p,
            lambda name: TITLES.get(name, f"{TITLES[ENTROPY]}, above median"), told,
        ),
        *_table("Calibration of the probability of a correct run", calibration, cell, str, told),
        *_confidence(assessment),
        *_table(
            "AUROC differences for a correct run, paired", a.differences, _signed_with_p,
            lambda pair: pair.replace("_", " "), told,
        ),
        *_tripwires(assessment),
        *_notes(assessment),
    ]  # fmt: skip
    return "\n".join(lines)


def _metric(rows: Mapping[str, Mapping[str, Score]], name: str) -> dict[str, Score]:
    return {predictor: scores[name] for predictor, scores in rows.items()}


def _counts(counts: Mapping[str, RunCounts]) -> list[str]:
    lines = []
    for name, each in counts.items():
        excluded = "; ".join(f"{n:,} {rule}" for rule, n in each.excluded.items())
        left_out = each.runs - each.valid
        lines += _wrapped(
            f"{DATASETS.get(name, name)}: {each.questions:,} questions, {each.runs:,} runs; "
            f"{left_out:,} left out" + (f" ({excluded})" if excluded else "")
        )
        lines += _wrapped(
            f"  questions with too few valid runs: {each.questions_dropped:,}, with "
            f"{each.runs_dropped:,} runs"
        )
        lines += _wrapped(
            f"  of the others {each.correct:,} correct, {each.wrong:,} wrong, "
            f"{each.unanswered:,} unanswered"
        )
    return lines


def _splits(table: RunTable, probes: StudyProbes) -> list[str]:
    sizes = {split: runs_and_questions(table, split) for split in SPLITS}
    there = [f"{name} {n:,} of {q:,}" for name, (n, q) in sizes.items() if n]
    lines = _wrapped(f"runs of questions: {', '.join(there)}")
    if table.threshold is not None:
        lines += _wrapped(f"high semantic entropy is above {table.threshold:.2f} nats")
    for name, sweep in probes.sweeps.items():
        lines += _wrapped(
            f"{TITLES[name]}: {sweep.best_position}, layer {sweep.best_layer} of "
            f"{sweep.layers[-1]}, validation AUROC {sweep.best_score:.3f}"
        )
    return lines


def _table(
    title: str,
    by_split: Mapping[str, ByPredictor],
    write: Callable[[Score], str],
    named: Callable[[str], str],
    told: set[str],
) -> list[str]:
    """Lines of one table, a column for each scored split.

    Reasons stand below, but for those that an earlier table has `told`.
    """
    splits = [split for split in SCORED_SPLITS if by_split.get(split)]
    lines = ["", title]
    if not splits:
        return [*lines, "  undefined: no run was scored"]
    lines[1] += ", 95 % interval by question"
    lines.append(_row("", [SPLIT_TITLES[split] for split in splits]))
    most = [max(score.n for score in by_split[split].values()) for split in splits]
    lines.append(_row("runs", [f"{n:,}" for n in most]))
    for name in by_split[splits[0]]:
        lines.append(_row(named(name), [write(by_split[split][name]) for split in splits]))
    every = [score for split in splits for score in by_split[split].values()]
    fresh = [note for note in notes(every) if note not in told]
    told.update(fresh)
    return lines + [line for note in fresh for line in _wrapped(note.strip())]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<{NAME}}{''.join(f'{each:<{COLUMN}}' for each in cells)}".rstrip()


def _with_p(score: Score) -> str:
    return cell(score) + _p(score)


def _signed_with_p(score: Score) -> str:
    if score.value is None:
        return "undefined"
    return f"{score.value:+.2f} (no interval)" if score.low is None else signed(score) + _p(score)


def _p(score: Score) -> str:
    if score.p_value is None or score.low is None:
        return ""
    return " p<0.001" if score.p_value < 0.001 else f" p={score.p_value:.3f}"


def _title(probes: StudyProbes) -> Callable[[str], str]:
    """Predictors as a reader meets them, with the layer of those that read hidden states."""

    def title(name: str) -> str:
        layer = f" (layer {probes.sweeps[name].best_layer})" if name in probes.sweeps else ""
        return TITLES[name] + layer

    return title


def _confidence(assessment: StudyAssessment) -> list[str]:
    """Mean probability of *correct*: of correct runs, then of incorrect ones."""
    splits = [split for split in SCORED_SPLITS if assessment.confidence.get(split)]
    if not splits:
        return []
    lines = ["", "Mean probability of a correct run: over correct / incorrect runs"]
    lines.append(_row("", [SPLIT_TITLES[split] for split in splits]))
    for name in assessment.confidence[splits[0]]:
        found = [assessment.confidence[split][name] for split in splits]
        lines.append(_row(TITLES[name], [_means(each) for each in found]))
    return lines


def _means(found: Mapping[str, Any]) -> str:
    parts = [found["correct"], found["incorrect"]]
    means = " / ".join("undefined" if p["mean"] is None else f"{p['mean']:.3g}" for p in parts)
    return f"{means} (n {parts[0]['n']:,} / {parts[1]['n']:,})"


def _tripwires(assessment: StudyAssessment) -> list[str]:
    words = {True: "holds", False: "TRIPPED", None: "not run"}
    lines = ["", "Tripwires"]
    for wire in assessment.tripwires:
        value = "" if wire.value is None else f" {wire.value:.3f}"
        detail = f" ({wire.detail})" if wire.detail else ""
        lines += _wrapped(f"{wire.name}: {words[wire.passed]}{value}{detail}")
    return lines


def _notes(assessment: StudyAssessment) -> list[str]:
    lines = ["", "Notes"]
    for note in ("* needs the question's other runs", *assessment.notes):
        lines += _wrapped(note)
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="    ", drop_whitespace=True
    )
