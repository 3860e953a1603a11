"""What surrounds the figures: words to know, where the numbers come from, the run's own scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from helpers.dashboard import data
from helpers.dashboard.data import OpenRun
from helpers.dashboard.filters import apply, usual_filters
from helpers.dashboard.scores import selection_scores
from helpers.dashboard.signals import TITLES
from helpers.dashboard.words import counted_questions, counted_runs, score_words
from helpers.evaluation import Score
from helpers.html_parts import LINE, MUTED, folded, safe, small_print
from helpers.showing import in_notebook
from helpers.studies.reasoning.records import PREDICTORS

WORDS = {
    "run": "one time that the model was asked a question: its thinking and its answer.",
    "semantic entropy": "how much a question's runs differ in what they mean, in nats: 0 when all "
    "answers mean the same, ln 10 = 2.30 when ten answers mean ten different things. It is a "
    "number of the question, the same for all its runs.",
    "threshold": "above it a semantic entropy is called high; the best split of the training "
    "questions.",
    "probe": "a linear model that reads one hidden state of the run, at the end of its thinking, "
    "and knows nothing else of it.",
    "thinking-entropy baseline": "sees one number instead: the mean entropy of the thinking's "
    "tokens. A probe that is not better has found nothing new.",
    "combination of the three": "a small model over what the three others say.",
    "probability": "what a probe gives, calibrated: of 100 runs with 0.8, about 80 should be "
    "correct.",
    "margin": "the same as log-odds, in nats: 0 is a probability of ½, 2.2 one of 0.9.",
    "distance": "how far the hidden state lies from the probe's boundary, in standard deviations.",
    "train, validation, test, ood": "probes are fitted on train and chosen on validation; test and "
    "ood (other questions than those trained on, out of distribution) are seen by no choice.",
    "representative run": "the first run with the answer that the question's runs give most often.",
    "AUROC": "how often a correct run gets a higher score than a wrong one: 0.5 is guessing, 1 is "
    "perfect.",
    "95 % interval": "from resampling whole questions, because runs of one question are alike.",
    "risk–coverage": "keep the most certain runs first: coverage is the share kept, risk the share "
    "of these that are wrong. The area under the curve (AURC) is the mean risk; lower is better.",
    "map (UMAP)": "hidden states laid out on a plane so that near ones stay near. Distances "
    "between groups and the axes mean nothing.",
}


def glossary() -> Any:
    """The words of the page, folded."""
    import marimo as mo

    lines = "".join(
        f'<dt style="font-weight:600">{safe(word)}</dt>'
        f'<dd style="margin:0 0 0.5rem">{safe(meaning)}</dd>'
        for word, meaning in WORDS.items()
    )
    return mo.Html(folded("Words on this page", f'<dl style="margin:0.6rem 0 0">{lines}</dl>'))


def provenance(run: OpenRun) -> Any:
    """Where the numbers come from: model, position, questions, runs, when."""
    import marimo as mo

    from helpers.run_list import when

    table, about = run.table, run.table.about
    manifest = data.read_json(run.listed.folder / "manifest.json")
    config = manifest.get("config")
    runs = f"{counted_runs(len(table))} of {counted_questions(run.listed.questions)}"
    sources = [f"{name} ({_distribution(kind)})" for name, kind in about.datasets.items()]
    reading = {"final-answer": "final answers", "answer": "whole answers"}
    rows = {
        "run": run.listed.name,
        "model": about.model,
        "questions": ", ".join(sources),
        "runs": runs,
        "hidden state": f"at {about.position}" + _layers(about.layers),
        "semantic entropy": f"of {reading.get(about.entropy_of, about.entropy_of)}; "
        + ("no threshold" if about.threshold is None else f"high above {about.threshold:.2f} nats"),
        "temperature": config.get("temperature") if isinstance(config, dict) else None,
        "written": when(run.listed.written),
    }
    cells = "".join(
        f'<div style="min-width:0;overflow-wrap:anywhere"><div style="{MUTED};font-size:0.8rem">'
        f"{safe(name)}</div>{safe(value)}</div>"
        for name, value in rows.items()
        if isinstance(value, str | int | float)
    )
    notes = "".join(small_print(note) for note in about.notes.values())
    missing = "".join(
        small_print(f"{TITLES.get(name, name)}: undefined, because {reason}")
        for name, reason in about.undefined.items()
    )
    columns = "repeat(auto-fill,minmax(min(15rem,100%),1fr))"
    grid = f"display:grid;grid-template-columns:{columns};gap:0.6rem 1.5rem"
    return mo.Html(f'<div style="{grid};font-size:0.9rem">{cells}</div>{missing}{notes}')


def _distribution(kind: str) -> str:
    return "out of distribution" if kind == "ood" else "in distribution"


def _layers(layers: Mapping[str, int]) -> str:
    """The layers that the probes read, in words."""
    parts = [f"{TITLES[name]} at layer {layers[name]}" for name in PREDICTORS if name in layers]
    return f"; {', '.join(parts)}" if parts else ""


STORED_METRICS = {
    "auroc": "AUROC for correct",
    "within_question": "among the runs of one question",
}
"""Metric of `metrics.json` to the title of its table."""


def stored_scores(run: OpenRun) -> Any:
    """The run's own scores for *correct*, of all its runs; None where it has not stored them."""
    import marimo as mo

    tables = "".join(
        _score_table(title, data.stored_scores(run.listed.folder, metric))
        for metric, title in STORED_METRICS.items()
    )
    if not tables:
        return None
    return mo.Html(
        tables
        + small_print(
            "As the run has stored them, of all its runs, whatever the filters are. A probe that "
            "knows how hard a question is, and nothing of the run, has 0.5 in the second table."
        )
    )


def _score_table(title: str, scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Scores by split and predictor, as HTML; "" where there are none."""
    if not scores:
        return ""
    cell = f"padding:0.25rem 1.2rem 0.25rem 0;text-align:left;border-bottom:{LINE}"
    heads = "".join(
        f'<th style="{cell};{MUTED};font-weight:400">{safe(head)}</th>'
        for head in (title, *(_split(split) for split in scores))
    )
    lines = "".join(
        f'<tr><td style="{cell}">{safe(TITLES[name])}</td>'
        + "".join(f'<td style="{cell}">{safe(_stored(scores[s].get(name)))}</td>' for s in scores)
        + "</tr>"
        for name in PREDICTORS
    )
    return (
        '<div style="overflow-x:auto;font-size:0.9rem;font-variant-numeric:tabular-nums;'
        'margin-bottom:1rem"><table style="border-collapse:collapse"><thead><tr>'
        f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _split(name: str) -> str:
    return "out of distribution" if name == "ood" else name


def _stored(score: Score | None) -> str:
    return "–" if score is None else f"{score_words(score)}, n = {score.n:,}"


def print_summary(run: OpenRun) -> None:
    """As a script: the newest run in a few lines; nothing where someone looks at cells."""
    if in_notebook():
        return
    table = run.table
    kept = apply(table, usual_filters(table))
    scores = selection_scores(run, kept.rows)
    correct = table["correct"][kept.rows]
    correct = correct[np.isfinite(correct)]
    print(f"Run {run.listed.name}: {table.about.model} on {', '.join(run.listed.datasets)}")
    print(f"  {counted_runs(len(table))} of {counted_questions(run.listed.questions)}")
    print(f"  {' and '.join(kept.filters.splits)}: {counted_runs(len(kept.rows))}, ", end="")
    print(
        f"{100 * correct.mean():.0f} % of the graded ones correct" if len(correct) else "ungraded"
    )
    for name, found in scores.by_predictor.items():
        print(f"  AUROC for correct, {TITLES[name]:27} {score_words(found.auroc)}")
