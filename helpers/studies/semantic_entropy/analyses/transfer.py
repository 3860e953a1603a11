"""Probes trained on one run and tested on another: does what they learnt hold for other questions?

The probes of each run are trained as in the clean protocol (place and regularisation by its
validation questions, fitted to its training questions) and scored on the test questions of every
run. A foreign probe is compared with the run's own on the same questions: the difference has an
interval and a two-sided p-value, corrected for the number of pairs of two runs (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from helpers.data.questions import question_id
from helpers.errors import UserError
from helpers.evaluation.metrics import auroc
from helpers.evaluation.resampling import holm
from helpers.evaluation.scores import Score, paired_difference, score_metric
from helpers.formatting import p_value_text
from helpers.probes.combined import AnyProbe, fit_hybrid, places, predict_at
from helpers.probes.probe import LinearProbe, UndefinedTarget
from helpers.probes.training import HIGH, WRONG, fit_chosen, sweep_target
from helpers.progress import Progress, silent_progress
from helpers.studies.semantic_entropy.run_files import StoredRun

PROBES = {"entropy": "SEP", "correctness": "correctness probe", "hybrid": "hybrid"}
TARGETS = {"wrong": WRONG, "high": HIGH}
COLUMNS = 3  # runs side by side in 100 columns of text


@dataclass(frozen=True)
class Cell:
    """One probe of one run on the test questions of another, or of the same."""

    target: str  # a key of `TARGETS`; high is above γ of the run that the probe was trained on
    probe: str  # a key of `PROBES`
    trained_on: str
    tested_on: str
    left_out: int  # test questions that the probe had seen in training or by a choice
    auroc: Score
    difference: Score | None  # from the tested run's own probe, two-sided p; None on the diagonal
    adjusted_p: float | None = None  # Holm's, over the cells off the diagonal of the same matrix


@dataclass(frozen=True)
class Transfer:
    """A matrix for each target and probe: a row for each trained run, a column for each tested."""

    runs: tuple[str, ...]
    positions: tuple[str, ...]  # those that all runs have; no other is used
    chosen: dict[str, dict[str, list[tuple[str, int]]]]  # by run and probe: position, layer
    cells: tuple[Cell, ...]  # by target, probe, trained run and tested run
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    def matrix(self, target: str, probe: str) -> dict[tuple[str, str], Cell]:
        """The cells of a target and a probe, by the names of the trained and the tested run."""
        cells = [c for c in self.cells if (c.target, c.probe) == (target, probe)]
        return {(cell.trained_on, cell.tested_on): cell for cell in cells}


def describe_transfer(result: Transfer) -> str:
    """Each matrix in lines of at most 100 columns, and why any cell is undefined."""
    labels = {name: f"R{i}" for i, name in enumerate(result.runs, 1)}
    lines = [f"Transfer between {len(result.runs)} runs ({', '.join(result.positions)})"]
    lines += [f"  {label}  {name}" for name, label in labels.items()]
    lines += [
        "Rows: the run that trained the probe; columns: the run whose test questions are asked.",
        "Below a foreign probe's AUROC: the same minus that of the tested run's own; p after Holm.",
    ]
    for target, probe in product(TARGETS, PROBES):
        cells = result.matrix(target, probe)
        lines += ["", f"AUROC of the {PROBES[probe]} for {TARGETS[target]}"]
        for start in range(0, len(labels), COLUMNS):
            lines += _block(cells, labels, result.runs[start : start + COLUMNS])
        scores = [s for cell in cells.values() for s in (cell.auroc, cell.difference) if s]
        reasons = dict.fromkeys(score.undefined for score in scores if score.undefined)
        lines += [f"  undefined: {reason}" for reason in reasons]
    left_out = {(c.trained_on, c.tested_on): c.left_out for c in result.cells if c.left_out}
    if left_out:
        counts = [f"{labels[a]} → {labels[b]} {n}" for (a, b), n in left_out.items()]
        lines += ["", f"  questions left out, as the probes had seen them: {', '.join(counts)}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in result.notes)])


def _block(
    cells: Mapping[tuple[str, str], Cell], labels: Mapping[str, str], columns: Sequence[str]
) -> list[str]:
    """The rows of a matrix for some of its columns, two lines a row."""
    lines = [f"  {'':<7}" + "".join(f"{labels[name]:<30}" for name in columns)]
    for name, label in labels.items():
        row = [cells[name, column] for column in columns]
        areas = [f"{_short(cell.auroc)} n = {cell.auroc.n}" for cell in row]
        gaps = [
            f"{_short(cell.difference, '+')} {p_value_text(cell.adjusted_p)}"
            if cell.difference else "" for cell in row
        ]  # fmt: skip
        lines.append(f"  {label:<7}" + "".join(f"{text:<30}" for text in areas))
        lines.append(f"  {'':<7}" + "".join(f"{text:<30}" for text in gaps))
    return [line.rstrip() for line in lines]


def _short(score: Score, sign: str = "") -> str:
    if score.value is None:
        return "undefined"
    if score.low is None or score.high is None:
        return f"{score.value:{sign}.2f} [–, –]"
    return f"{score.value:{sign}.2f} [{score.low:{sign}.2f}, {score.high:{sign}.2f}]"


# --- runs and probes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The probes of one run, and the questions that they have seen."""

    run: StoredRun
    probes: dict[str, AnyProbe]
    undefined: dict[str, str]
    used: frozenset[str]  # ids, from the texts, of its training and validation questions


def common_positions(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """Positions of all runs; refuses runs that cannot be compared."""
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise UserError(f"transfer: {len(runs)} run given: name two or more, of the same model")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"transfer: the run {twice[0]} is given twice: name each run once")
    for key, what in (("model_hash", "model"), ("tokenizer_hash", "tokenizer")):
        hashes = [run.manifest.get("hashes", {}).get(key) for run in runs]
        for name, found in zip(names, hashes, strict=True):
            if found is None:
                raise UserError(
                    f"transfer: {name} does not say which {what} it is of: leave it out"
                )
            if found != hashes[0]:
                raise UserError(
                    f"transfer: {names[0]} and {name} are of different {what}s ({hashes[0]} and "
                    f"{found}), and a probe reads the hidden states of its own alone: name runs "
                    "of one model"
                )
    common = tuple(p for p in runs[0].positions if all(p in run.positions for run in runs))
    if not common:
        has = "; ".join(f"{run.name}: {', '.join(run.positions) or 'none'}" for run in runs)
        raise UserError(
            f"transfer: no position has hidden states in every run ({has}): run again with a "
            "common one among --positions"
        )
    return common


def check_shapes(runs: Sequence[StoredRun], hidden: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Refuse runs whose hidden states differ in layers or width."""
    for run, others in zip(runs, hidden, strict=True):
        for position, states in others.items():
            ours, theirs = hidden[0][position].shape[1:], states.shape[1:]
            if ours != theirs:
                raise UserError(
                    f"transfer: at {position}, {runs[0].name} has {ours[0]} layers of width "
                    f"{ours[1]} and {run.name} {theirs[0]} of width {theirs[1]}: name runs of one "
                    "model"
                )


def train_source(run: StoredRun, hidden: Mapping[str, np.ndarray]) -> Source:
    """The probes of a run, chosen by its validation questions and fitted to its training ones.

    Both learn from the questions whose answer could be graded, so that neither has more of them.
    """
    targets = run.targets
    graded = ~np.isnan(targets.wrong)
    high = np.where(graded | ~graded.any(), targets.high, np.nan)
    linear: dict[str, LinearProbe] = {}
    undefined: dict[str, str] = {}
    for name, target, words in (("entropy", high, HIGH), ("correctness", targets.wrong, WRONG)):
        try:
            chosen = sweep_target(hidden, target, "logistic", words, targets)
        except UndefinedTarget as reason:
            undefined[name] = str(reason)
        else:
            linear[name] = fit_chosen(hidden, target, chosen, name, words, targets)
    probes: dict[str, AnyProbe] = dict(linear)
    if undefined:
        undefined["hybrid"] = f"it weighs two probes, and one is undefined ({'; '.join(undefined)})"
    else:
        rows = targets.rows("validation", targets.wrong)
        probes["hybrid"] = fit_hybrid(
            hidden, targets.wrong, linear["entropy"], linear["correctness"],
            rows=rows, name="hybrid",
        )  # fmt: skip
    questions = run.answers.questions
    used = frozenset(question_id(q.question) for q in questions if q.split != "test")
    return Source(run, probes, undefined, used)


def transfer(
    runs: Sequence[StoredRun],
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Transfer:
    """Train on each run and test on each, at the positions common to all.

    Raises `UserError` unless there are two runs or more, of the same model, tokenizer and layers.
    """
    positions = common_positions(runs)
    hidden = [{p: run.hidden(p) for p in positions} for run in runs]
    check_shapes(runs, hidden)
    cells: list[Cell] = []
    sources: list[Source] = []
    foreign = len(runs) * (len(runs) - 1)
    steps = foreign + 2 * len(runs)
    with (progress or silent_progress())("Transferring probes", steps, "steps") as stage:
        for run, states in zip(runs, hidden, strict=True):
            sources.append(train_source(run, states))
            stage.advance(1)
        for source in sources:
            for own, states in zip(sources, hidden, strict=True):
                cells += _test_on(source, own, states, n_boot, n_perm, seed)
                stage.advance(1)
    smallest = min(1.0, 2 / (1 + n_boot) * foreign)
    note = (
        f"with {n_boot} resamples and {foreign} pairs of two runs no corrected p-value can be "
        f"below {smallest:.2f}: take {40 * foreign} or more"
    )
    return Transfer(
        runs=tuple(run.name for run in runs),
        positions=positions,
        chosen={
            s.run.name: {name: list(places(p)) for name, p in s.probes.items()} for s in sources
        },
        cells=tuple(_corrected(cells)),
        notes=() if smallest < 0.05 else (note,),
    )


def _test_on(
    source: Source,
    own: Source,
    hidden: Mapping[str, np.ndarray],
    n_boot: int,
    n_perm: int,
    seed: int,
) -> list[Cell]:
    """Score the probes of `source` on the test questions of `own.run` that they have not seen."""
    run, threshold = own.run, source.run.targets.threshold
    test = run.targets.rows("test")
    seen = [question_id(q.question) in source.used for q in run.answers.questions]
    rows = test & ~np.array(seen, dtype=bool) if source is not own else test
    entropy = run.targets.semantic_entropy
    high = np.full(len(entropy), np.nan) if threshold is None else (entropy > threshold) * 1.0
    cells = []
    for target, labels in (("wrong", run.targets.wrong), ("high", high)):
        asked = rows & ~np.isnan(labels)
        truth = labels[asked]
        for name in PROBES:
            ours, theirs = (
                predict_at(s.probes[name], hidden)[asked] if name in s.probes else None
                for s in (source, own)
            )
            score, difference = _undefined("auroc", truth, source.undefined.get(name, "")), None
            if ours is not None:
                score = score_metric(auroc(ours, truth, target), n_boot, n_perm, seed)
            if source is not own:
                reason = score.undefined or own.undefined.get(name, "")
                difference = _undefined("auroc difference", truth, reason)
                if ours is not None and theirs is not None and not reason:
                    difference = paired_difference(ours, theirs, truth, n_boot=n_boot, seed=seed)
            at = (source.run.name, run.name, int((test & ~rows).sum()))
            cells.append(Cell(target, name, *at, score, difference))
    return cells


def _undefined(metric: str, labels: np.ndarray, reason: str) -> Score:
    return Score(metric, None, None, None, None, len(labels), reason)


def _corrected(cells: Sequence[Cell]) -> list[Cell]:
    """The cells by matrix, with Holm's correction within each where there is a p-value."""
    found = []
    for target, probe in product(TARGETS, PROBES):
        matrix = [cell for cell in cells if (cell.target, cell.probe) == (target, probe)]
        raw = [cell.difference.p_value if cell.difference else None for cell in matrix]
        adjusted = iter(holm([p for p in raw if p is not None]).tolist())
        for cell, p in zip(matrix, raw, strict=True):
            found.append(cell if p is None else replace(cell, adjusted_p=next(adjusted)))
    return found
