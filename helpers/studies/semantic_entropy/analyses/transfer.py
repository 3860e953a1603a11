"""Probes trained on one run and tried on another: does what they learnt hold for other questions?

Of every ordered pair of runs of one model, the probes are trained on the first as in the clean
protocol (place and regularisation by its validation questions, fitted to its training questions)
and scored on the second: on its test questions where both are the same run, on all its questions
otherwise. Either probe may turn out the better one: the difference has an interval and a two-sided
p-value for each pair, corrected for the number of pairs (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from helpers.data.questions import question_id
from helpers.errors import UserError
from helpers.evaluation.metrics import auroc
from helpers.evaluation.scores import Score, format_score, paired_difference, score_metric
from helpers.probes.combined import AnyProbe, fit_hybrid, places, predict_at
from helpers.probes.probe import LinearProbe, UndefinedTarget
from helpers.probes.training import HIGH, WRONG, fit_chosen, sweep_target
from helpers.progress import Progress, silent_progress
from helpers.studies.semantic_entropy.run_files import StoredRun

# --- the transfer as text ------------------------------------------------------------------------


PROBES = {"entropy": "SEP", "correctness": "correctness probe", "hybrid": "hybrid"}
TARGETS = {"wrong": WRONG, "high": HIGH}
SIGNIFICANT = 0.05
UNDECIDED, UNDEFINED = "undecided", "undefined"


@dataclass(frozen=True)
class Comparison:
    """AUROC of the probes of one pair of runs for one target."""

    scores: dict[str, Score]
    """By the keys of `PROBES`."""
    difference: Score
    """SEP minus correctness probe, on the same questions; its p-value is two-sided."""
    adjusted_p: float | None = None
    """The p-value after Holm's correction over all pairs for this target."""
    winner: str = UNDEFINED
    """A value of `PROBES` where the corrected p-value is below 0.05, else why there is none."""


@dataclass(frozen=True)
class TransferPair:
    """Probes of one run on the questions of another, or of the same."""

    trained_on: str
    tested_on: str
    n: int
    """Questions that the probes were scored on, graded or not."""
    left_out: int
    """Questions of the second run that the first had used for training or for a choice."""
    comparisons: dict[str, Comparison]
    """By the keys of `TARGETS`. High is above γ of the run that the probes were trained on."""

    @property
    def same_run(self) -> bool:
        """Whether both runs are one, and the score is on its test questions."""
        return self.trained_on == self.tested_on


@dataclass(frozen=True)
class Tally:
    """In how many pairs each probe is better, with Holm's correction."""

    sep: int
    correctness: int
    undecided: int
    undefined: int


@dataclass(frozen=True)
class Transfer:
    """The matrix of all ordered pairs of runs."""

    runs: tuple[str, ...]
    positions: tuple[str, ...]
    """Positions that all runs have; no other is used."""
    chosen: dict[str, dict[str, list[tuple[str, int]]]]
    """Run and probe to the positions and layers that it reads."""
    undefined: dict[str, dict[str, str]]
    """Run and probe to the reason why there is none."""
    pairs: tuple[TransferPair, ...]
    tallies: dict[str, dict[str, Tally]]
    """By target, over all pairs ("all") and over those of two runs ("other run")."""
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


def describe_transfer(result: Transfer) -> str:
    """Each pair on a line of at most 100 columns, by target, and the tallies."""
    letters = {name: _letter(i) for i, name in enumerate(result.runs)}
    lines = [f"Transfer between {len(result.runs)} runs ({', '.join(result.positions)})"]
    lines += [f"  {letter}  {name}" for name, letter in letters.items()]
    for target, words in TARGETS.items():
        lines += ["", f"AUROC for {words} (trained → tested on)"]
        lines.append(
            f"  {'':<7}{'n':<6}{'SEP':<18}{'correctness probe':<18}{'hybrid':<7}"
            f"{'SEP − correctness':<21}{'Holm p':<8}better"
        )
        lines += [_line(pair, target, letters) for pair in result.pairs]
        lines += [_tally_words(result.tallies[target])]
        reasons = dict.fromkeys(p.comparisons[target].difference.undefined for p in result.pairs)
        lines += [f"  undefined: {reason}" for reason in reasons if reason]
    shared = {p.tested_on: p.left_out for p in result.pairs if p.left_out}
    if shared:
        counts = [
            f"{letters[p.trained_on]} → {letters[p.tested_on]} {p.left_out}"
            for p in result.pairs if p.left_out
        ]  # fmt: skip
        lines += ["", f"  questions left out, as the probes had seen them: {', '.join(counts)}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in result.notes)])


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"run {number + 1}"


def _line(pair: TransferPair, target: str, letters: Mapping[str, str]) -> str:
    compared = pair.comparisons[target]
    scores = compared.scores
    hybrid = scores["hybrid"].value
    arrow = f"{letters[pair.trained_on]} → {letters[pair.tested_on]}"
    cells = [
        f"{arrow:<7}{scores['entropy'].n:<6}",
        *(f"{_short(scores[name]):<19}" for name in ("entropy", "correctness")),
        f"{'–' if hybrid is None else f'{hybrid:.2f}':<7}",
        f"{_short(compared.difference, signed=True):<21}",
        f"{'–' if compared.adjusted_p is None else f'{compared.adjusted_p:.3f}':<8}",
        compared.winner.removesuffix(" probe"),
    ]
    return "  " + "".join(cells)


def _short(score: Score, signed: bool = False) -> str:
    if score.value is None:
        return UNDEFINED
    if score.low is None or score.high is None:
        return f"{score.value:.2f} [–, –]"
    if signed:
        return f"{score.value:+.2f} [{score.low:+.2f}, {score.high:+.2f}]"
    return format_score(score, 2)


def _tally_words(tallies: Mapping[str, Tally]) -> str:
    parts = []
    for name, words in (("all", "all pairs"), ("other run", "pairs of two runs")):
        t = tallies[name]
        undefined = f", undefined {t.undefined}" if t.undefined else ""
        parts.append(
            f"{words}: SEP better in {t.sep}, correctness probe in {t.correctness}, undecided "
            f"{t.undecided}{undefined}"
        )
    return "\n".join(f"  {part}" for part in parts)


# --- runs and probes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """The probes of one run, γ, and the questions that they have seen."""

    probes: dict[str, AnyProbe]
    undefined: dict[str, str]
    threshold: float | None
    used: frozenset[str]
    """Ids, from the texts, of its training and validation questions."""


def common_positions(runs: Sequence[StoredRun]) -> tuple[str, ...]:
    """Positions of all runs; refuses runs that cannot be compared."""
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise UserError(f"transfer: {len(runs)} run given: name two or more, of the same model")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"transfer: the run {twice[0]} is given twice: name each run once")
    first = runs[0]
    for run in runs:
        for key, what in (("model_hash", "model"), ("tokenizer_hash", "tokenizer")):
            ours, theirs = (r.manifest.get("hashes", {}).get(key) for r in (first, run))
            if ours is None or theirs is None:
                unknown = first if ours is None else run
                raise UserError(
                    f"transfer: {unknown.name} does not say which {what} it is of, as a run of "
                    "`sep run` does: leave it out"
                )
            if ours != theirs:
                raise UserError(
                    f"transfer: {first.name} and {run.name} are of different {what}s ({ours} and "
                    f"{theirs}), and a probe reads the hidden states of its own alone: name runs "
                    "of one model"
                )
    common = tuple(p for p in first.positions if all(p in run.positions for run in runs))
    if not common:
        has = "; ".join(f"{run.name}: {', '.join(run.positions) or 'none'}" for run in runs)
        raise UserError(
            f"transfer: no position has hidden states in every run ({has}): run again with a "
            "common one among --positions"
        )
    return common


def check_shapes(runs: Sequence[StoredRun], hidden: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Refuse runs whose hidden states differ in layers or width."""
    for position, states in hidden[0].items():
        for run, others in zip(runs, hidden, strict=True):
            ours, theirs = states.shape[1:], others[position].shape[1:]
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
    for name, target, words in (
        ("entropy", high, HIGH),
        ("correctness", targets.wrong, WRONG),
    ):
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
        probes["hybrid"] = fit_hybrid(
            hidden,
            targets.wrong,
            linear["entropy"],
            linear["correctness"],
            rows=targets.rows("validation", targets.wrong),
            name="hybrid",
        )
    seen = [q for q in run.answers.questions if q.split != "test"]
    used = frozenset(question_id(q.question) for q in seen)
    return Source(probes, undefined, targets.threshold, used)


def transfer(
    runs: Sequence[StoredRun],
    *,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Transfer:
    """Train on each run and test on each, at the positions common to all.

    Raises `UserError` unless there are two runs or more, each given once, of the same model and
    tokenizer, with hidden states of the same layers and width at a common position.
    """
    positions = common_positions(runs)
    hidden = [{p: run.hidden(p) for p in positions} for run in runs]
    check_shapes(runs, hidden)
    options = {"n_boot": n_boot, "n_perm": n_perm, "seed": seed}
    pairs: list[TransferPair] = []
    total = len(runs) + len(runs) ** 2
    with (progress or silent_progress())("Transferring probes", total, "steps") as stage:
        sources = []
        for run, states in zip(runs, hidden, strict=True):
            sources.append(train_source(run, states))
            stage.advance(1)
        for run, source in zip(runs, sources, strict=True):
            for other, states in zip(runs, hidden, strict=True):
                pairs.append(_try_on(run, source, other, states, options))
                stage.advance(1)
    for target in TARGETS:
        pairs = _corrected(pairs, target)
    return Transfer(
        runs=tuple(run.name for run in runs),
        positions=positions,
        chosen={
            run.name: {name: list(places(probe)) for name, probe in source.probes.items()}
            for run, source in zip(runs, sources, strict=True)
        },
        undefined={run.name: s.undefined for run, s in zip(runs, sources, strict=True)},
        pairs=tuple(pairs),
        tallies={target: _tallies(pairs, target) for target in TARGETS},
        notes=_notes(pairs, n_boot),
    )


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values corrected for being many, so that the chance of any false one below α is at most α.

    The smallest of m is multiplied by m, the next by m − 1, and so on; none falls below the one
    before it. Raises ValueError naming a value that is no probability. Holm 1979, "A Simple
    Sequentially Rejective Multiple Test Procedure".

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise ValueError(f"p_values: row {bad[0]} is {values[bad[0]]}, outside 0 to 1")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


# --- one pair ------------------------------------------------------------------------------------


def _try_on(
    run: StoredRun,
    source: Source,
    other: StoredRun,
    hidden: Mapping[str, np.ndarray],
    options: Mapping[str, int],
) -> TransferPair:
    """Score the probes of a run on another's questions that they have not seen."""
    if run is other:
        rows, left_out = other.targets.rows("test"), 0
    else:
        texts = [question_id(q.question) for q in other.answers.questions]
        rows = np.array([text not in source.used for text in texts], dtype=bool)
        left_out = int((~rows).sum())
    predicted = {name: predict_at(probe, hidden) for name, probe in source.probes.items()}
    entropy = other.targets.semantic_entropy
    threshold = source.threshold
    high = np.full(len(entropy), np.nan) if threshold is None else (entropy > threshold) * 1.0
    return TransferPair(
        trained_on=run.name,
        tested_on=other.name,
        n=int(rows.sum()),
        left_out=left_out,
        comparisons={
            "wrong": _compare(predicted, source, other.targets.wrong, rows, "wrong", options),
            "high": _compare(predicted, source, high, rows, "high", options),
        },
    )


def _compare(
    predicted: Mapping[str, np.ndarray],
    source: Source,
    labels: np.ndarray,
    rows: np.ndarray,
    positive: str,
    options: Mapping[str, int],
) -> Comparison:
    """Score each probe for labels [n] (NaN where unknown) on a mask of rows [n]."""
    rows = rows & ~np.isnan(labels)
    n, truth = int(rows.sum()), labels[rows]
    scores = {}
    for name in PROBES:
        if name in predicted:
            scores[name] = score_metric(
                auroc(predicted[name][rows], truth, positive),
                options["n_boot"], options["n_perm"], options["seed"],
            )  # fmt: skip
        else:
            scores[name] = Score("auroc", None, None, None, None, n, source.undefined[name])
    missing = [score.undefined for score in scores.values() if score.undefined]
    if missing:
        difference = Score("auroc difference", None, None, None, None, n, missing[0])
    else:
        difference = paired_difference(
            predicted["entropy"][rows],
            predicted["correctness"][rows],
            truth,
            n_boot=options["n_boot"],
            seed=options["seed"],
        )
    return Comparison(scores, difference)


# --- over all pairs -------------------------------------------------------------------------------


def _corrected(pairs: Sequence[TransferPair], target: str) -> list[TransferPair]:
    """The pairs with Holm's correction and a winner where there is one."""
    raw = [pair.comparisons[target].difference.p_value for pair in pairs]
    adjusted = iter(holm([p for p in raw if p is not None]).tolist())
    found = []
    for pair, p in zip(pairs, raw, strict=True):
        before = pair.comparisons[target]
        corrected = None if p is None else next(adjusted)
        winner = _winner(before.difference, corrected)
        after = Comparison(before.scores, before.difference, corrected, winner)
        comparisons = {**pair.comparisons, target: after}
        found.append(
            TransferPair(pair.trained_on, pair.tested_on, pair.n, pair.left_out, comparisons)
        )
    return found


def _winner(difference: Score, adjusted_p: float | None) -> str:
    if difference.value is None:
        return UNDEFINED
    if adjusted_p is None or adjusted_p >= SIGNIFICANT:
        return UNDECIDED
    return PROBES["entropy"] if difference.value > 0 else PROBES["correctness"]


def _tallies(pairs: Sequence[TransferPair], target: str) -> dict[str, Tally]:
    def count(chosen: Sequence[TransferPair]) -> Tally:
        winners = [pair.comparisons[target].winner for pair in chosen]
        kinds = (PROBES["entropy"], PROBES["correctness"], UNDECIDED, UNDEFINED)
        return Tally(*(winners.count(kind) for kind in kinds))

    return {"all": count(pairs), "other run": count([p for p in pairs if not p.same_run])}


def _notes(pairs: Sequence[TransferPair], n_boot: int) -> tuple[str, ...]:
    smallest = 2 / (1 + n_boot) * len(pairs)
    if smallest < SIGNIFICANT:
        return ()
    return (
        f"with {n_boot} resamples and {len(pairs)} pairs no corrected p-value can be below "
        f"{min(smallest, 1.0):.2f}, so no pair can be decided: take {40 * len(pairs)} or more",
    )
