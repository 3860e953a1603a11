"""Tables of the analyses of a run as HTML: each takes the `result` of `analyses/<name>.json`.

`result` is plain JSON, as for helpers/studies/semantic_entropy/analyses/figures.py; every docstring
says of which analysis, and which keys are read. Everything in it is escaped. Tables of the audit
are in helpers/studies/semantic_entropy/analyses/tables.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from helpers.evaluation.scores import Score, format_score
from helpers.formatting import p_value_text
from helpers.studies.semantic_entropy.analyses.abstention import ACCURACIES
from helpers.studies.semantic_entropy.analyses.figures import title_of
from helpers.studies.semantic_entropy.analyses.sample_budget import SEMANTIC_ENTROPY
from helpers.views import html
from helpers.views.html import (
    NONE,
    change,
    html_table,
    percent,
    reasons_of,
    score_cell,
    sentences,
)

if TYPE_CHECKING:
    from helpers.studies.semantic_entropy.records import Run


def analysis_view(
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
        return html.folded(folded, made) if folded else made
    if folded:
        return None
    if "analyses" not in run.manifest["stages_done"]:
        return sentences([f"The analysis “{name}” is still to come."])
    reasons = run.manifest["counts"].get("analyses_skipped", {})
    reason = reasons.get(name, "the settings of this run do not ask for it")
    return sentences([f"The analysis “{name}” is not here: {reason}."])


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
        rows.append((name, score_cell(Score(**point["auroc"])), *counts, shown))
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
        p = "" if difference is None else (p_value_text(difference.p_value) or NONE)
        cells = [score_cell(row["aurc"]), score_cell(row["e_aurc"]), change(difference), p]
        rows.append([title_of(name), *cells, *(score_cell(row[metric]) for metric in ACCURACIES)])
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
    return (
        *start,
        percent(Score(**kept["share"])),
        percent(error),
        (p_value_text(error.p_value) or NONE),
        outcome,
    )


def _at_most(kept: Mapping[str, Any]) -> str:
    return f"at most {100 * kept['max_error']:g} %"


# --- how firm the meanings are -------------------------------------------------------------------
#
# Each takes the `result` of `analyses/audit.json`, plain JSON, and says which keys it reads.
# Everything in it is escaped.


def audit_table(result: Mapping[str, Any]) -> str:
    """What each rule of grouping changes.

    Reads of the audit: n, notes and rules (name, rule, changed, adjusted_rand, entropy, meanings,
    auroc, difference, missing).
    """
    heads = ("rule: an answer joins a meaning if", "questions changed", "AUROC, wrong answer",
             "minus own rule", "p", "adjusted Rand", "entropy, nats", "meanings")  # fmt: skip
    rows, shown = [], []
    for rule in result["rules"]:
        name = f"{rule['name']}:\n{rule['rule']}"
        if rule["changed"] is None:
            rows.append((name, f"missing: {rule['missing']}", *[NONE] * 6))
            continue
        keys = ("changed", "auroc", "adjusted_rand", "entropy", "meanings")
        changed, area, *means = (Score(**rule[key]) for key in keys)
        gap = None if rule["difference"] is None else Score(**rule["difference"])
        p = "" if gap is None else (p_value_text(gap.p_value) or NONE)
        ends = [format_score(mean, 2) for mean in means]
        rows.append((name, percent(changed), score_cell(area), change(gap), p, *ends))
        shown += [changed, area, *means, *([gap] if gap else [])]
    note = (
        f"{result['n']} questions, AUROC on test; 95 % bootstrap intervals over questions; p of "
        "the difference, two-sided, of single comparisons."
    )
    return html_table(heads, rows, note + reasons_of(shown))


def audit_words(result: Mapping[str, Any]) -> str:
    """Whether the judge agrees with itself and with final answers, a sentence each, and notes.

    Reads of the audit: intransitivity (relation, paths, triples, questions), final_answers (pairs,
    same, agreement, precision, recall) and notes.
    """
    texts = []
    if result["intransitivity"]:
        broken = [_broken_words(row) for row in result["intransitivity"]]
        texts.append(
            "If a means the same as b, and b as c, then a should mean the same as c; among "
            f"different texts of a question this fails {'; '.join(broken)}."
        )
    if found := result["final_answers"]:
        agreement, precision, recall = (
            percent(Score(**found[name])) for name in ("agreement", "precision", "recall")
        )
        texts.append(
            f"Of {found['pairs']:,} pairs of different texts that state a final answer, "
            f"{found['same']:,} state the same: the judge agrees on {agreement} of the pairs; of "
            f"those that it takes for the same, {precision} are (precision), and it finds {recall} "
            "of those that are (recall)."
        )
    return sentences([*texts, *(f"Note: {note}." for note in result["notes"])])


def _broken_words(row: Mapping[str, Any]) -> str:
    if not row["paths"]:
        return f"nowhere under “{row['relation']}”, which links no three of them"
    if row["triples"]["value"] == 0:
        return f"never in {row['paths']:,} triples under “{row['relation']}”"
    triples, questions = (percent(Score(**row[name])) for name in ("triples", "questions"))
    return (
        f"in {triples} of {row['paths']:,} triples under “{row['relation']}”, in {questions} of "
        "the questions"
    )
