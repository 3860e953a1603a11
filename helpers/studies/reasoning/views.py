"""What the notebook and the terminal show of a run of the study: sentences, tables, single runs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from helpers.errors import UserError
from helpers.evaluation.scores import Score
from helpers.formatting import p_value_text
from helpers.studies.reasoning import figures
from helpers.studies.reasoning.assessment import SPLIT_TITLES, runs_and_questions
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.figures import pair_title, splits_of, title_of
from helpers.studies.reasoning.predictors import GIVES_CORRECT, TITLES
from helpers.studies.reasoning.probes import COMBINED, CORRECTNESS, ENTROPY, THINKING
from helpers.studies.reasoning.records import (
    OOD,
    PREDICTORS,
    SCORED_SPLITS,
    SPLITS,
    RunCounts,
    RunTable,
    StudyAssessment,
    StudyProbes,
)
from helpers.studies.reasoning.run_files import ANALYSIS, StudyRun
from helpers.studies.reasoning.scores import WITHIN
from helpers.views.charts import SPLIT_WORDS
from helpers.views.html import (
    change,
    folded,
    html_table,
    paragraph,
    reasons,
    reasons_of,
    safe,
    score_cell,
    sentences,
    signed,
)
from helpers.views.style import METRIC_NAMES


def assessed(run: StudyRun) -> StudyAssessment:
    """The scores of a run; raises `UserError`, saying what is still to come, where it has none."""
    if run.assessment is None:
        done = ", ".join(run.manifest["stages_done"]) or "nothing"
        raise UserError(
            f"{run.folder.name} has no scores yet (done: {done}): they appear here when its probes "
            "are trained and evaluated; where nothing is at work, press Run to go on"
        )
    return run.assessment


def headline(run: StudyRun) -> str:
    """Whether the state at the end of the thinking tells more than the thinking's entropy."""
    found = assessed(run)
    said = []
    for split in splits_of(found.correctness):
        row = found.correctness[split]
        gap = found.differences.get(split, {}).get(f"{CORRECTNESS} - {THINKING}")
        said.append(
            f"{_start(split)}, AUROC {_said(row[CORRECTNESS]['auroc'])} for the correctness probe, "
            f"{_said(row[THINKING]['auroc'])} for the thinking entropy{_verdict(gap)}."
        )
    texts = said or ["There is no score: no run of the test questions was kept."]
    return f'<div style="font-weight:600">{sentences(texts)}</div>'


def _said(score: Score) -> str:
    return f"undefined ({score.undefined})" if score.value is None else score_cell(score)


def _verdict(gap: Score | None) -> str:
    """What a difference says, as the end of a sentence; nothing where there is none."""
    if gap is None or gap.value is None:
        return ""
    words = "the interval holds 0: no evidence that the probe is better"
    if gap.low is None or gap.high is None:
        words = "these runs do not tell whether the probe is better"
    elif gap.low > 0:
        words = "the probe is better"
    elif gap.high < 0:
        words = "the probe is worse"
    return f"; difference {change(gap).replace('-', '−')}: {words}"


def score_sentences(found: StudyAssessment) -> str:
    """The best probe of each split, in words."""
    return _best(found, "auroc", "pairs of a correct and an incorrect run")


def within_sentences(found: StudyAssessment) -> str:
    """The same among the runs of one question."""
    return _best(found, WITHIN, "such pairs")


def _best(found: StudyAssessment, metric: str, pairs: str) -> str:
    said = []
    for split in splits_of(found.correctness):
        row = found.correctness[split]
        known = {name: row[name][metric] for name in PREDICTORS if name in row}
        best = max(known, key=lambda name: known[name].value or 0.0)
        score = known[best]
        if score.value is None:
            said.append(f"{_start(split)}, no probe has a score: {score.undefined}.")
            continue
        said.append(
            f"{_start(split)}, the best of the probes is the {title_of(best)}: right about "
            f"{100 * score.value:.0f} of 100 {'pairs' if said else pairs} "
            f"(AUROC {score_cell(score)}{p_words(score)}, n = {score.n:,} runs)."
        )
    return _one(said)


def difference_sentences(found: StudyAssessment) -> str:
    """Which of the differences are told from none."""
    said = []
    for split in splits_of(found.differences):
        told = list(filter(None, map(_told, *zip(*found.differences[split].items(), strict=True))))
        words = "; ".join(told) if told else "no difference is told from 0"
        said.append(f"{_start(split)}, {words}.")
    return _one(said)


def _told(pair: str, gap: Score) -> str:
    """A difference whose interval does not hold 0, as a part of a sentence; "" for another one."""
    if gap.value is None or gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return ""
    better, _, other = pair.partition(" - ")
    if gap.value < 0:
        better, other = other, better
    return f"the {title_of(better)} is above the {title_of(other)} by {abs(gap.value):.2f}"


def confidence_sentences(found: StudyAssessment) -> str:
    """What the combination, or else the correctness probe, says of correct and incorrect runs."""
    said = []
    for split in splits_of(found.confidence):
        rows = found.confidence[split]
        for name in (COMBINED, CORRECTNESS):
            right, wrong = (rows.get(name, {}).get(w, {}) for w in ("correct", "incorrect"))
            if right.get("mean") is not None and wrong.get("mean") is not None:
                said.append(
                    f"{_start(split)}, the {title_of(name)} gives correct runs a probability of "
                    f"{right['mean']:.2f} on average (n = {right['n']:,}), and incorrect ones "
                    f"{wrong['mean']:.2f} (n = {wrong['n']:,})."
                )
                break
    return _one(said)


def layer_sentences(found: StudyAssessment) -> str:
    """Which layers were chosen, and what they score."""
    said = []
    for name, curve in found.layer_curves.items():
        at = curve.layers.index(curve.chosen)
        scores = [
            f"{SPLIT_WORDS[split]} {_value(curve.scores[split][at])}"
            for split in splits_of(curve.scores)
        ]
        said.append(
            f"The {title_of(name)} reads layer {curve.chosen} of {curve.layers[-1]} (validation "
            f"{curve.validation[at]:.3f}): {', '.join(scores)}."
        )
    return _one(said)


def _value(score: Score) -> str:
    return f"undefined ({score.undefined})" if score.value is None else f"{score.value:.3f}"


def notes_view(run: StudyRun) -> str:
    """What a reader must know of these scores."""
    items = "".join(
        f'<li style="margin:0.3rem 0">{safe(note)}</li>' for note in assessed(run).notes
    )
    return f'<ul style="list-style:disc;margin:0.4rem 0;padding-left:1.4rem">{items}</ul>'


def p_words(score: Score) -> str:
    """A p-value as part of a sentence; nothing where there is none."""
    text = p_value_text(score.p_value, "p")
    return f", {text}" if text else ""


def _start(split: str) -> str:
    return _capital(SPLIT_WORDS[split])


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _one(said: list[str]) -> str:
    """Sentences as one paragraph; nothing where there are none."""
    return sentences([" ".join(said)]) if said else ""


# --- tables of scores ----------------------------------------------------------------------------


AS_ENTROPY = {CORRECTNESS: "correctness probe, sign turned", THINKING: "thinking entropy itself"}
"""What predicts high semantic entropy under a name that means another thing elsewhere."""
HEADS = METRIC_NAMES | {WITHIN: "AUROC within a question"}


def score_table(found: StudyAssessment, table: RunTable) -> str:
    """AUROC and average precision for a correct run of every predictor."""
    splits = splits_of(found.correctness)
    names = found.correctness[splits[0]] if splits else ()
    rows = [(title_of(name), [found.correctness[s][name] for s in splits]) for name in names]
    return _scores(rows, splits, ("auroc", "average_precision"), units(table, splits))


def within_table(found: StudyAssessment) -> str:
    """AUROC among the runs of one question of every predictor."""
    splits = splits_of(found.correctness)
    rows = [
        (title_of(name), [found.correctness[s][name] for s in splits])
        for name in (found.correctness[splits[0]] if splits else ())
    ]
    sizes = {s: max(row[WITHIN].n for row in found.correctness[s].values()) for s in splits}
    parts = [f"{n:,} runs {SPLIT_WORDS[split]}" for split, n in sizes.items()]
    note = (
        f"Of questions with both correct and incorrect runs: {', '.join(parts)}. 95 % intervals "
        "draw whole questions; p by dealing out the labels within each question."
    )
    return _scores(rows, splits, (WITHIN,), note)


def calibration_table(found: StudyAssessment) -> str:
    """Brier score and expected calibration error of every probability of a correct run."""
    splits = splits_of(found.correctness)
    rows = [
        (title_of(name), [found.correctness[s][name] for s in splits])
        for name in GIVES_CORRECT
        if all(name in found.correctness[s] for s in splits)
    ]
    note = (
        "Lower is better for both. Brier: mean squared error of the probability; ECE: mean gap "
        "between probability and observed share, over ten bins; p of the Brier score."
    )
    return _scores(rows, splits, ("brier", "ece"), note)


def _scores(
    rows: Sequence[tuple[str, Sequence[Mapping[str, Score]]]],
    splits: Sequence[str],
    metrics: Sequence[str],
    note: str,
) -> str:
    """A row for each predictor; for each split its metrics, the first with its p-value."""
    heads = ["", *(f"{HEADS[m]}, {SPLIT_WORDS[s]}" for s in splits for m in metrics)]
    lines: list[list[str]] = []
    shown: list[Score] = []
    for words, scores in rows:
        first, *others = metrics
        cells = [
            text
            for row in scores
            for text in (with_p(row[first]), *(score_cell(row[metric]) for metric in others))
        ]
        lines.append([words, *cells])
        shown += [row[metric] for row in scores for metric in metrics]
    return html_table(heads, lines, note + reasons_of(shown))


def difference_table(found: StudyAssessment) -> str:
    """Every paired difference with its interval and two-sided p-value."""
    splits = splits_of(found.differences)
    pairs = found.differences[splits[0]] if splits else ()
    heads = ["AUROC difference", *(SPLIT_WORDS[split] for split in splits)]
    rows = [
        [pair_title(pair), *(_and_p(change(gap), gap) for gap in gaps)]
        for pair in pairs
        for gaps in [[found.differences[split][pair] for split in splits]]
    ]
    shown = (score for split in splits for score in found.differences[split].values())
    note = "Paired: both are scored on the same runs. p is two-sided, of single comparisons."
    return html_table(heads, rows, note + reasons_of(shown))


def high_entropy_table(found: StudyAssessment, table: RunTable) -> str:
    """How well high semantic entropy of the question is told, for two thresholds of *high*."""
    splits = splits_of(found.high_entropy)
    names = found.high_entropy[splits[0]] if splits else ()
    by_median = found.high_entropy_median.get(splits[0], {}) if splits else ()
    lines: list[tuple[str, list[Score]]] = [
        (
            f"{AS_ENTROPY.get(name, title_of(name))}{_above(table.threshold, 'best split')}",
            [found.high_entropy[split][name]["auroc"] for split in splits],
        )
        for name in names
    ]
    lines += [
        (
            f"{title_of(name)}{_above(table.threshold_median, 'median of train')}",
            [found.high_entropy_median[split][name] for split in splits],
        )
        for name in by_median
    ]
    heads = ["AUROC, high semantic entropy", *(SPLIT_WORDS[split] for split in splits)]
    note = (
        "Best split: the threshold of the training questions that leaves the least variance on "
        "either side; the probe was trained with it. With the median as threshold the same probe "
        f"is scored by another label. {units(table, splits)}"
    )
    rows = [[words, *(with_p(score) for score in scores)] for words, scores in lines]
    return html_table(heads, rows, note + reasons_of(s for _, scores in lines for s in scores))


def _above(threshold: float | None, words: str) -> str:
    value = "no threshold" if threshold is None else f"above {threshold:.2f} nats"
    return f"\n{value} ({words})"


def missing_probes(probes: StudyProbes) -> str:
    """Which probes could not be trained, and why; nothing where all could."""
    rows = [(title_of(name), reason) for name, reason in probes.undefined.items()]
    return html_table(("probe", "undefined, because"), rows) if rows else ""


def units(table: RunTable, splits: Iterable[str]) -> str:
    """How many runs of how many questions each split scores, and what its intervals are of."""
    sizes = {split: runs_and_questions(table, split) for split in splits}
    parts = [f"{n:,} runs of {q:,} questions {SPLIT_WORDS[s]}" for s, (n, q) in sizes.items()]
    return (
        f"Scored: {', '.join(parts)}. 95 % intervals draw whole questions; p of the AUROC, by "
        "dealing out the labels of whole questions."
    )


def with_p(score: Score) -> str:
    """A score with its interval and, on a line of its own, its p-value."""
    return _and_p(score_cell(score), score)


def _and_p(text: str, score: Score) -> str:
    return f"{text}\n{p_value_text(score.p_value, 'p')}".rstrip()


# --- plan and single runs ------------------------------------------------------------------------


DATASET_WORDS = {"in": "in distribution", OOD: "out of distribution"}


# --- the runs ------------------------------------------------------------------------------------


def counts_table(run: StudyRun) -> str:
    """How many runs there are, which rule left how many out, and what the others answered."""
    counts = _counts_of_run(run)
    every = list(counts.values())
    rules = dict.fromkeys(rule for each in every for rule in each.excluded)
    assert isinstance(run.config, ReasoningConfig)
    least = min(run.config.min_runs, run.config.k)
    rows: list[tuple[str, list[int]]] = [
        ("runs", [each.runs for each in every]),
        *((f"− {rule}", [each.excluded.get(rule, 0) for each in every]) for rule in rules),
        (
            f"− of a question with fewer than {least} valid runs",
            [each.runs_dropped for each in every],
        ),
        ("= kept", [_kept(each) for each in every]),
        ("correct", [each.correct for each in every]),
        ("wrong", [each.wrong for each in every]),
        ("without a final answer", [each.unanswered for each in every]),
        ("without a reference answer", [_ungraded(each) for each in every]),
        ("questions", [each.questions for each in every]),
        ("questions kept", [each.questions - each.questions_dropped for each in every]),
    ]
    rows = [row for row in rows if row[0] != "without a reference answer" or any(row[1])]
    heads = ("", *(DATASET_WORDS.get(name, name) for name in counts))
    table = html_table(heads, [(words, *(f"{n:,}" for n in row)) for words, row in rows])
    return table + paragraph(" ".join(_count_sentences(counts)))


def _counts_of_run(run: StudyRun) -> Mapping[str, RunCounts]:
    """The counts of a finished run; before, those that the generating stage noted."""
    noted = run.manifest.get("counts", {}).get("runs", {})
    return run.counts or {name: RunCounts(**each) for name, each in noted.items()}


def _kept(counts: RunCounts) -> int:
    return counts.valid - counts.runs_dropped


def _ungraded(counts: RunCounts) -> int:
    return _kept(counts) - counts.correct - counts.wrong - counts.unanswered


def _count_sentences(counts: Mapping[str, RunCounts]) -> Iterable[str]:
    for name, each in counts.items():
        graded = each.correct + each.wrong
        right = "none of the kept ones is graded"
        if graded:
            right = (
                f"of the {graded:,} that are graded {100 * each.correct / graded:.0f} % are correct"
            )
        words = DATASET_WORDS.get(name, name)
        left = each.runs - _kept(each)
        out = f"{left:,} of {each.runs:,} runs are" if left else f"none of {each.runs:,} runs is"
        yield f"{words[0].upper()}{words[1:]}, {out} left out; {right}."
    kinds = {kind for each in counts.values() for kind in each.entropy_kinds} - {"full"}
    if kinds:
        means = {"top-k": "a lower bound, from the likeliest tokens", "none": "not known"}
        said = " or ".join(means.get(kind, kind) for kind in sorted(kinds))
        yield f"The token entropies of some runs are {said}."


# --- single runs ---------------------------------------------------------------------------------


def explore_view(run: StudyRun) -> str:
    """How to look at single runs: the command of the dashboard, and the address of this run."""
    if not (run.folder / ANALYSIS).is_file():
        raise UserError(
            f"the table of single runs, {ANALYSIS}, is the last stage of a run and still to come"
        )
    out = shlex.quote(str(run.folder.parent))
    command = f"SEP_OUTPUTS={out} uv run marimo run probe_analysis.py"
    box = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.4rem 0"
    return f'<pre style="{box}">{safe(command)}</pre>' + paragraph(
        "opens the dashboard on the runs of that folder: one point a run, whose question, "
        "thinking and answer stand below when it is chosen, with the entropy of every token. "
        f"Choose the run {run.folder.name} there, or add ?run={run.folder.name} to the address."
    )


# --- pages ---------------------------------------------------------------------------------------


Page = list[Any]
"""HTML and figures, in order."""
NUMBERS = "Every number"


def scores_page(run: StudyRun) -> Page:
    """How well a correct run is told from an incorrect one."""
    found, table = assessed(run), run.table
    assert table is not None
    return [
        figures.score_figure(found),
        score_sentences(found),
        folded(f"{NUMBERS}, with p-values", score_table(found, table)),
    ]


def within_page(run: StudyRun) -> Page:
    """How well it is told which runs of one question are right."""
    found = assessed(run)
    return [
        figures.within_figure(found),
        within_sentences(found),
        folded(f"{NUMBERS}, with p-values", within_table(found)),
    ]


def differences_page(run: StudyRun) -> Page:
    """What one predictor adds to another."""
    found = assessed(run)
    return [
        figures.difference_figure(found),
        difference_sentences(found),
        folded(f"{NUMBERS}, with p-values", difference_table(found)),
    ]


def layers_page(run: StudyRun) -> Page:
    """Which layer the probes read."""
    found, probes = assessed(run), run.probes
    assert probes is not None
    return [
        missing_probes(probes),
        *figures.layer_figures(found),
        layer_sentences(found),
    ]


def roc_page(run: StudyRun) -> Page:
    """The trade-off behind each AUROC."""
    return [figures.roc_figure(assessed(run))]


def calibration_page(run: StudyRun, predictor: str) -> Page:
    """Whether a probe's probabilities can be taken at their word."""
    found = assessed(run)
    return [
        figures.reliability_figure(found, predictor),
        folded(f"{NUMBERS}, of every probability", calibration_table(found)),
    ]


def risk_page(run: StudyRun) -> Page:
    """What is gained by keeping only the runs that look right."""
    return [figures.risk_figure(assessed(run))]


def confidence_page(run: StudyRun) -> Page:
    """How sure the probes are of correct and of incorrect runs."""
    found = assessed(run)
    return [figures.confidence_figure(found), confidence_sentences(found)]


def entropy_page(run: StudyRun) -> Page:
    """How semantic entropy is spread, and how well high semantic entropy is told."""
    found, table = assessed(run), run.table
    assert table is not None
    return [
        figures.entropy_figure(table, run.config.k),
        high_entropy_table(found, table),
    ]


# --- text for a terminal -------------------------------------------------------------------------


WIDTH, NAME, COLUMN = 100, 37, 31
DATASETS = {"in": "in distribution", OOD: "out of distribution"}

ByPredictor = Mapping[str, Score]


def summarise(run: StudyRun) -> str:
    """A run with scores as one text of at most 100 columns, for a terminal."""
    assert run.table is not None
    assert run.probes is not None
    assert run.assessment is not None
    heading = (
        f"Uncertainty signals of reasoning models: {run.config.model}, "
        f"T = {run.config.temperature:g}, {len(run.table):,} valid runs"
    )
    return summarise_study(run.table, run.probes, run.assessment, run.counts, heading=heading)


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
        *_count_lines(counts),
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
        *_table(
            "Calibration of the probability of a correct run", calibration, score_cell, str, told
        ),
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


def _count_lines(counts: Mapping[str, RunCounts]) -> list[str]:
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
    fresh = [reason for reason in reasons(every) if reason not in told]
    told.update(fresh)
    return lines + [line for reason in fresh for line in _wrapped(f"note: {reason}")]


def _row(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<{NAME}}{''.join(f'{each:<{COLUMN}}' for each in cells)}".rstrip()


def _with_p(score: Score) -> str:
    return score_cell(score) + _p(score)


def _signed_with_p(score: Score) -> str:
    return signed(score) + _p(score)


def _p(score: Score) -> str:
    text = "" if score.low is None else p_value_text(score.p_value, "p")
    return f" {text}" if text else ""


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


def predictor_choice() -> Any:
    """A dropdown of the probes of a reasoning study whose probabilities can be looked at."""
    import marimo as mo

    options = {TITLES[name]: name for name in PREDICTORS}
    return mo.ui.dropdown(
        options, value=TITLES[PREDICTORS[0]], allow_select_none=False, label="probe"
    )
