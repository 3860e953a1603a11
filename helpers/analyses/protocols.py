"""Two ways to evaluate probes on the same run, and what each leak between them is worth in AUROC.

The *paper's* protocol is that of the notebook published with Kossen et al. 2024, "Semantic Entropy
Probes": γ splits the pooled entropies, test questions included; each probe is a logistic
regression (penalty ½ |w|², features as they are) on at least five concatenated layers, and that
range is chosen by the mean of the single layers' test AUROC for a wrong answer; the entropy probe
(SEP) is fitted to 90 % of the questions and the accuracy probe to 72 %; probes are scored on the
remaining 10 %, estimators that sample on all questions. Two things differ here: γ is the exact
best split, not the best of 100 values, and every regression is solved to its optimum, not for 100
steps.

The *clean* protocol takes γ from train, fits both probes to the same 72 %, chooses one layer and
the regularisation by validation (18 %), and scores everything on the same 10 %. A *leak* is
switched on in the clean protocol alone, so that its worth can be told from the rest; the paper's
regression without any leak says what is left.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from helpers.analyses.protocol_fits import (
    FEWEST_LAYERS,
    Fits,
    Leaks,
    Measured,
    Split,
    add_layer,
    difference,
    measure,
    paper,
    paper_layer,
    random_split,
    split_labels,
)
from helpers.analyses.split_scores import SplitScore, describe_change, describe_level, over_splits
from helpers.errors import UserError
from helpers.probe_solvers import centred_only, decompose
from helpers.probe_threads import one_thread_if_small
from helpers.probe_training import PROMPT_POSITION
from helpers.progress import Progress, silent_progress
from helpers.stored_run import StoredRun

FEWEST_QUESTIONS = 20
CLEAN, ALL_LEAKS = "clean", "all four leaks"
PAPER, PAPER_CLEAN = "the paper's protocol", "its regression, no leak"
PROTOCOLS = {
    CLEAN: Leaks(),
    "layers chosen on test": Leaks(test_layers=True),
    "γ from all questions": Leaks(pooled_threshold=True),
    "unequal training sets": Leaks(unequal_training=True),
    "unequal test sets": Leaks(unequal_test=True),
    ALL_LEAKS: Leaks(True, True, True, True),
}
QUANTITIES = {
    "sep_wrong": "SEP",
    "accuracy_wrong": "accuracy probe",
    "sep_minus_accuracy": "SEP − accuracy probe",
    "sampling_wrong": "entropy of samples",
    "sep_minus_sampling": "SEP − samples",
    "sep_high": "SEP, high entropy",
}
"""AUROCs for a wrong answer (the last: for high semantic entropy), and their differences."""


@dataclass(frozen=True)
class ProtocolComparison:
    """Both protocols and each leak on one run, over several random splits."""

    run: str
    position: str
    n: int
    """Questions whose most likely answer could be graded; the others are left out."""
    left_out: int
    n_train: int
    n_validation: int
    n_test: int
    n_layers: int
    n_splits: int
    seed: int
    protocols: dict[str, dict[str, SplitScore]]
    """Protocol (the keys of `PROTOCOLS`, `PAPER`, `PAPER_CLEAN`) to quantity to its AUROC."""
    changes: dict[str, dict[str, SplitScore]]
    """The same less the clean protocol's, split by split; without the clean one."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self) | {"notes": list(self.notes)}


def compare_protocols(
    run: StoredRun,
    *,
    n_splits: int = 10,
    seed: int = 0,
    position: str | None = None,
    progress: Progress | None = None,
) -> ProtocolComparison:
    """Both protocols and each leak on a run's hidden states at one position, over random splits.

    The position is by default the last prompt token, or the first there is. The run's own splits
    play no part. Raises `UserError` when too few answers could be graded.
    """
    position = position or _usual_position(run)
    wrong_or_unknown = run.targets.wrong
    known = np.flatnonzero(~np.isnan(wrong_or_unknown))
    if len(known) < FEWEST_QUESTIONS or n_splits < 2:
        raise UserError(
            f"comparing protocols: {run.name} has {len(known)} graded most likely answers and "
            f"{n_splits} splits were asked for; it takes {FEWEST_QUESTIONS} answers and 2 splits"
        )
    hidden = run.hidden(position)
    entropy, wrong = run.targets.semantic_entropy[known], wrong_or_unknown[known]
    splits = [random_split(len(known), seed, i) for i in range(n_splits)]
    labels = [split_labels(entropy, wrong, split) for split in splits]
    n_layers = hidden.shape[1]
    clean: list[dict[str, list]] = [{} for _ in splits]
    single = {leaky: np.full((n_splits, 2, n_layers), np.nan) for leaky in (True, False)}
    with (
        (progress or silent_progress())("Comparing protocols", n_layers + 1, "layers") as stage,
        one_thread_if_small(len(known), hidden.shape[-1]),
    ):
        for layer in range(n_layers):
            states = np.asarray(hidden[known, layer])
            plain = decompose(states, centred_only(states)).scores
            for i, (split, own) in enumerate(zip(splits, labels, strict=True)):
                add_layer(clean[i], states, split, own)
                for leaky, aurocs in single.items():
                    aurocs[i, :, layer] = paper_layer(plain, split, own, leaky)
            stage.advance(1)
        fits = [{name: Fits(*map(np.array, zip(*rows, strict=True))) for name, rows in f.items()}
                for f in clean]  # fmt: skip
        measured = {
            name: [
                measure(hidden, known, entropy, split, own, fitted, leaks)
                for split, own, fitted in zip(splits, labels, fits, strict=True)
            ]
            for name, leaks in PROTOCOLS.items()
        }
        for name, leaky in ((PAPER, True), (PAPER_CLEAN, False)):
            measured[name] = paper(hidden, known, entropy, splits, labels, single[leaky], leaky)
        stage.advance(1)
    return _summarise(run, position, measured, splits, n_layers, len(wrong_or_unknown), seed)


def _usual_position(run: StoredRun) -> str:
    if not run.positions:
        raise UserError(f"{run.folder} has no hidden states; run the same command again")
    return PROMPT_POSITION if PROMPT_POSITION in run.positions else run.positions[0]


def _summarise(
    run: StoredRun,
    position: str,
    measured: Mapping[str, Sequence[Measured]],
    splits: Sequence[Split],
    n_layers: int,
    n_all: int,
    seed: int,
) -> ProtocolComparison:
    first = splits[0]
    sizes = [len(rows) for rows in (first.train, first.validation, first.test)]
    ratio = sizes[2] / sizes[0]
    protocols, changes = {}, {}
    for name, rows in measured.items():
        protocols[name] = {q: over_splits([row[q] for row in rows], ratio) for q in QUANTITIES}
        if name != CLEAN:
            pairs = list(zip(rows, measured[CLEAN], strict=True))
            changes[name] = {
                q: over_splits([difference(a[q], b[q]) for a, b in pairs], ratio, against_zero=True)
                for q in QUANTITIES
            }
    notes = []
    if n_layers < FEWEST_LAYERS:
        notes.append(
            f"the model has {n_layers} layers, input included, fewer than {FEWEST_LAYERS}: the "
            "paper's protocol concatenates all of them, and no range is chosen"
        )
    return ProtocolComparison(
        run=run.name, position=position, n=sum(sizes), left_out=n_all - sum(sizes),
        n_train=sizes[0], n_validation=sizes[1], n_test=sizes[2], n_layers=n_layers,
        n_splits=len(splits), seed=seed, protocols=protocols, changes=changes, notes=tuple(notes),
    )  # fmt: skip


def describe_protocols(comparison: ProtocolComparison) -> str:
    """The comparison as two tables of at most 100 columns, for a terminal."""
    c = comparison
    lines = [
        f"Two protocols on {c.run} ({c.position}, {c.n_layers} layers): {c.n_splits} splits of "
        f"{c.n} questions",
        f"  {c.n_train} train, {c.n_validation} validation, {c.n_test} test"
        + (f"; {c.left_out} ungraded questions left out" if c.left_out else ""),
        *_wrapped(c.notes),
        "",
        "Test AUROC for a wrong answer, mean over splits (± standard deviation)",
    ]
    lines += _table(c.protocols, (CLEAN, ALL_LEAKS, PAPER_CLEAN, PAPER), describe_level)
    lines += ["", "What each leak is worth: change of AUROC against the clean protocol [95 %]"]
    lines += _table(c.changes, tuple(c.changes), describe_change)
    lines.append(
        "  intervals are over splits, widened because splits share questions (Nadeau and Bengio)"
    )
    scores = [
        s for table in (c.protocols, c.changes) for row in table.values() for s in row.values()
    ]
    reasons = dict.fromkeys(s.undefined or s.note for s in scores)
    return "\n".join([*lines, *_wrapped(f"note: {reason}" for reason in reasons if reason)])


def _wrapped(notes: Iterable[str]) -> list[str]:
    return [
        line
        for note in notes
        for line in textwrap.wrap(note, 100, initial_indent="  ", subsequent_indent="    ")
    ]


def _table(
    rows: Mapping[str, Mapping[str, SplitScore]],
    names: Sequence[str],
    cell: Callable[[SplitScore], str],
) -> list[str]:
    """Two blocks of three quantities each, a line a protocol."""
    lines, quantities = [], list(QUANTITIES)
    for block in (quantities[:3], quantities[3:]):
        lines.append(f"  {'':<24}" + "".join(f"{QUANTITIES[q]:<25}" for q in block).rstrip())
        for name in names:
            cells = "".join(f"{cell(rows[name][q]):<25}" for q in block)
            lines.append(f"  {name:<24}{cells}".rstrip())
    return lines
