"""Tables of the analyses of a run as HTML: each takes the `result` of `analyses/<name>.json`.

`result` is plain JSON, as for helpers/analyses/figures.py; every docstring says of which analysis,
and which keys are read. Everything in it is escaped. Tables of the analyses "audit" and
"conformance" are in helpers/analyses/meaning_tables.py.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from helpers.analyses.curve_figures import title_of
from helpers.analyses.interval_rows import from_splits
from helpers.analyses.protocols import QUANTITIES
from helpers.analyses.sample_budget import SEMANTIC_ENTROPY
from helpers.analyses.selective_answering import ACCURACIES
from helpers.analyses.split_scores import SplitScore, describe_level
from helpers.evaluation import Score
from helpers.report_tables import html_table
from helpers.summary import cell

if TYPE_CHECKING:
    from helpers.run import Run

NONE = "–"


def of(
    run: Run,
    name: str,
    build: Callable[..., Any],
    *arguments: Any,
    folded: str = "",
    **options: Any,
) -> Any:
    """What `build` makes of a run's analysis, or a sentence where there is no such analysis.

    A table with a title in `folded` is shown when that is clicked, and is nothing where it is
    absent: it stands below something that says so.
    """
    if name in run.analyses:
        made = build(run.analyses[name].result, *arguments, **options)
        if not folded:
            return made
        summary = f'<summary style="cursor:pointer">{html.escape(folded)}</summary>'
        return f'<details style="margin:0.4rem 0">{summary}{made}</details>'
    if folded:
        return None
    if "analyses" not in run.manifest["stages_done"]:
        return sentences([f"The analysis “{name}” is still to come."])
    reasons = run.manifest["counts"].get("analyses_skipped", {})
    reason = reasons.get(name, "the settings of this run do not ask for it")
    return sentences([f"The analysis “{name}” is not here: {reason}."])


def sentences(texts: Iterable[str]) -> str:
    """Anyone's sentences as HTML, a paragraph each."""
    return "".join(f'<p style="margin:0.4rem 0">{html.escape(text)}</p>' for text in texts)


# --- what it is worth ----------------------------------------------------------------------------


def cost_table(result: Mapping[str, Any]) -> str:
    """What semantic entropy of N samples, and each score without samples, costs a question.

    Reads sample_budget of "curves": k, clusters_from, undefined, unknown_seconds, curves and
    singles, whose points have auroc and cost (forwards, tokens, comparisons, seconds).
    """
    budget = result["sample_budget"]
    if budget["undefined"]:
        return sentences([f"Undefined: {budget['undefined']}."])
    points = budget["curves"][SEMANTIC_ENTROPY]
    named = [(f"semantic entropy, N = {point['n_samples']}", point) for point in points]
    named += [(title_of(single["name"]), single) for single in budget["singles"]]
    rows = []
    for name, point in named:
        cost, seconds = point["cost"], point["cost"]["seconds"]
        shown = "unknown" if seconds is None else f"{seconds:.3g}"
        counts = [f"{cost[key]:.1f}" for key in ("forwards", "tokens", "comparisons")]
        rows.append((name, cell(Score(**point["auroc"])), *counts, shown))
    note = (
        "Means of one question. A forward pass is of one sequence, the prompt or one token; "
        "judged are pairs of different answers. Token entropies of N answers cost the same "
        f"without a judge. Meanings of N of the {budget['k']} answers: {budget['clusters_from']}."
    )
    if budget["unknown_seconds"]:
        note += f" Seconds are unknown: {budget['unknown_seconds']}."
    else:
        note += " Seconds as this run spent them on its machine, loading of models included."
    heads = ("score", "AUROC, wrong answer", "forward passes", "tokens", "pairs judged", "seconds")
    return html_table(heads, rows, note)


def selective_table(result: Mapping[str, Any]) -> str:
    """Area under risk–coverage, the same above the best possible, accuracy at some coverages.

    Reads selective of "curves": n, undefined, scores (measure to aurc, e_aurc and accuracies) and
    differences (measure to aurc).
    """
    found = result["selective"]
    if found["undefined"]:
        return sentences([f"Undefined: {found['undefined']}."])
    heads = ["measure", "AURC", "E-AURC", "AURC minus semantic entropy's", "p"]
    heads += [f"accuracy at {name.rsplit('_', 1)[1]} %" for name in ACCURACIES]
    rows, shown = [], []
    for name, scores in found["scores"].items():
        row = {metric: Score(**score) for metric, score in scores.items()}
        gap = found["differences"].get(name, {}).get("aurc")
        difference = None if gap is None else Score(**gap)
        p = "" if difference is None else p_value(difference)
        cells = [cell(row["aurc"]), cell(row["e_aurc"]), change(difference), p]
        rows.append([title_of(name), *cells, *(cell(row[metric]) for metric in ACCURACIES)])
        shown += [*row.values(), *([difference] if difference else [])]
    note = (
        f"{found['n']} test questions, 95 % bootstrap intervals. AURC: mean risk over all "
        "coverages, lower is better; E-AURC: the same less that of a perfect order; p of the "
        "difference, two-sided, of single comparisons."
    )
    return html_table(heads, rows, note + reasons_of(shown))


def policies_table(result: Mapping[str, Any]) -> str:
    """When each measure would answer: promised with confidence, and kept on average.

    Reads policies of "curves": measure to promises (promise, share, error, held), on_average
    (max_error, share, error) and shaped_by_calibration.
    """
    policies = result["policies"]
    if not policies:
        return sentences(["There is no measure to decide by."])
    promised, average, shown = [], [], []
    for kept in zip(*(policy["promises"] for policy in policies.values()), strict=True):
        promised += [_promise_row(n, entry) for n, entry in zip(policies, kept, strict=True)]
    for kept in zip(*(policy["on_average"] for policy in policies.values()), strict=True):
        for name, entry in zip(policies, kept, strict=True):
            share, error = Score(**entry["share"]), Score(**entry["error"])
            average.append((_at_most(entry), title_of(name), percent(share), percent(error)))
            shown += [share, error]
    made = next(iter(policies.values()))["promises"][0]["promise"]
    note = (
        f"Promised with {100 * made['confidence']:g} % confidence over the choice of the "
        f"{made['n']} validation questions. “no threshold”: the most certain that were looked at "
        "do not bear the promise. p: the chance of so many errors if the error were as promised."
    )
    if any(policy["shaped_by_calibration"] for policy in policies.values()):
        note += (
            " The place and regularisation of a probe were chosen on these validation questions, "
            "so that its promises lean a little to the hopeful side."
        )
    heads = ("wrong", "measure", "most certain of validation", "their error", "answered on test",
             "error among them", "p", "promise")  # fmt: skip
    weaker = ("wrong", "measure", "answered on test", "error among them")
    between = "The same kept on average only, over draws of the questions: a weaker promise."
    return "".join(
        [
            html_table(heads, promised, note),
            sentences([between]),
            html_table(weaker, average, reasons_of(shown).strip()),
        ]
    )


def _promise_row(name: str, kept: Mapping[str, Any]) -> tuple[str, ...]:
    made = kept["promise"]
    seen = f"{made['wrong']} of {made['answered']} wrong" if made["answered"] else NONE
    bound = made["upper_bound"]
    start = (
        _at_most(made),
        title_of(name),
        seen,
        NONE if bound is None else f"≤ {100 * bound:.1f} %",
    )
    if kept["share"] is None or kept["error"] is None:
        return (*start, "no threshold", NONE, NONE, NONE)
    error = Score(**kept["error"])
    outcome = {True: "held", False: "broken", None: NONE}[kept["held"]]
    return (*start, percent(Score(**kept["share"])), percent(error), p_value(error), outcome)


def _at_most(kept: Mapping[str, Any]) -> str:
    return f"at most {100 * kept['max_error']:g} %"


# --- two protocols -------------------------------------------------------------------------------


def protocols_table(result: Mapping[str, Any]) -> str:
    """AUROCs of every protocol, and below what each leak changes.

    Reads of "protocols": protocols and changes (protocol to quantity to a score over splits), n,
    n_splits, n_train, n_validation, n_test, left_out and notes.
    """
    sizes = ", ".join(f"{result[f'n_{s}']} {s}" for s in ("train", "validation", "test"))
    levels = [
        (name, *(describe_level(SplitScore(**row[q])) for q in QUANTITIES))
        for name, row in result["protocols"].items()
    ]
    heads = ("test AUROC", *QUANTITIES.values())
    note = (
        f"Mean ± standard deviation over {result['n_splits']} splits of {result['n']} questions "
        f"({sizes}); {result['left_out']} ungraded ones are left out."
    )
    changes, shown = [], []
    for name, row in result["changes"].items():
        scores = [from_splits(row[q]) for q in QUANTITIES]
        changes.append((name, *map(change, scores)))
        shown += scores
    between = "The same less the clean protocol's, split by split: what each leak is worth."
    below = "95 % intervals, widened because splits share questions (Nadeau and Bengio 2003)."
    notes = "".join(f" Note: {words}." for words in result["notes"])
    return "".join(
        [
            html_table(heads, levels, note + notes),
            sentences([between]),
            html_table(("change", *heads[1:]), changes, below + reasons_of(shown)),
        ]
    )


# --- cells ---------------------------------------------------------------------------------------


def change(score: Score | None) -> str:
    """A difference with its sign and interval; nothing where there is none to make."""
    if score is None:
        return ""
    if score.value is None:
        return "undefined"
    if score.low is None or score.high is None:
        return f"{score.value:+.3f} (no interval)"
    if score.value == score.low == score.high == 0:
        return "0"
    return f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"


def percent(score: Score) -> str:
    """A share with its interval, in percent."""
    if score.value is None:
        return "undefined"
    ends = [score.value, *(end for end in (score.low, score.high) if end is not None)]
    digits = 2 if 0 < max(ends) < 0.01 else 1
    value, *interval = (f"{100 * end:.{digits}f}" for end in ends)
    if not interval:
        return f"{value}\u00a0% (no interval)"
    return f"{value}\u00a0%" + ("" if score.low == score.high else f" [{', '.join(interval)}]")


def p_value(score: Score) -> str:
    """A p-value, where there is one."""
    return NONE if score.p_value is None else f"{score.p_value:.4f}"


def reasons_of(scores: Iterable[Score]) -> str:
    """Why cells are undefined or have no interval, each reason once; empty where none is."""
    gaps = [s.undefined or s.note for s in scores if s.value is None or s.low is None]
    words = "; ".join(filter(None, dict.fromkeys(gaps)))
    return f" Undefined, or without an interval: {words}." if words else ""
