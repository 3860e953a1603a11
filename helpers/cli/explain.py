"""`sep explain`, `sep estimators`: cards as plain text for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from helpers.cli.glossary import GLOSSARY, Term
from helpers.errors import UserError
from helpers.evaluation.metric_cards import METRIC_CARDS, MetricCard
from helpers.uncertainty import (
    ESTIMATORS,
    PACKAGES,
    Estimator,
    choose_estimators,
    did_you_mean,
    plain_name,
)

WIDTH = 100
LABEL = 12
"""Columns for the names of a card's facts."""

LEGEND = (
    "For every estimator higher means more uncertain. N answers are sampled for a question; l_i is "
    "the log-probability of sample i, n_c the number of samples in meaning c, C that of meanings; "
    "e_ij, n_ij and c_ij are a judge's probabilities of entailment, neutral and contradiction with "
    "answer i as premise and j as hypothesis; the greedy answer, g, is the most likely one. "
    "Logarithms are natural. Under “elsewhere” stands what other packages call it, and where their "
    f"number differs from ours ({PACKAGES})."
)
NOT_HERE = "Offered elsewhere, not here"
ELSEWHERE = {
    "SAR, TokenSAR, SentenceSAR": "need a sentence-similarity model, asked once a token",
    "MARS, LARS": "weigh tokens by a further model, trained for it",
    "Mahalanobis distance, RMD, RDE": "how unusual a question is, not how unsure its answer",
    "SAPLMA": "a perceptron on one layer: the probe wrong_answer_mlp",
    "Verbalised confidence, 1S, 2S": "need a model that follows instructions",
    "LUQ, SelfCheckGPT": "made for long texts, sentence by sentence",
    "Fisher–Rao distance, Rényi divergence": "need the whole next-token distribution",
    "PMI, conditional PMI": "need each answer's likelihood without its question",
    "Focus, RAUQ, CSL": "read attention weights, which are not captured",
    "CoCoA": "a product of two that are here: likelihood and agreement",
    "BERTScore, cosine similarity": "need embeddings; see --judge cosine",
}
"""Estimators of lm-polygraph, uqlm and TruthTorchLM that are not offered, and why."""

_Entry = Estimator | MetricCard | Term


def explain(name: str) -> str:
    """What a name stands for, as plain text: an estimator, a metric, or a word of the glossary.

    Upper case, spaces, hyphens and underscores make no difference. A name may have several
    entries: the semantic entropy of the samples, and the probe that predicts it. Raises
    `UserError` naming what is close to a name that has none.
    """
    key, known = plain_name(name), _entries()
    metric = key.removesuffix("_difference")
    # Any metric's paired difference has the card of all of them.
    found = known.get(key) or (known["difference"] if metric in known and metric != key else [])
    if not found:
        raise UserError(
            f"{name!r} is no estimator, metric or other word of a report"
            f"{did_you_mean(key, known)}; `sep estimators` lists the estimators, and the metrics "
            f"are {', '.join(METRIC_CARDS)}"
        )
    return "\n\n".join(_text(entry) for entry in found)


def describe_estimators(names: Sequence[str] | None = None) -> str:
    """Every estimator's card, or those of `names`, grouped by what it requires, as plain text.

    At the end stands what other packages offer and this one does not, with the reasons. Raises
    `UserError` for a name that is no estimator.
    """
    chosen = tuple(ESTIMATORS) if names is None else choose_estimators(names)
    groups: dict[tuple[str, ...], list[Estimator]] = {}
    for name in chosen:
        groups.setdefault(ESTIMATORS[name].requires, []).append(ESTIMATORS[name])
    lines = [*_wrapped(LEGEND), ""]
    for requires, cards in groups.items():
        heading = f"From {_listed(requires)}"
        lines += [heading, "─" * len(heading), ""]
        for card in cards:
            lines += [_text(card, requires=False), ""]
    if names is None:
        lines += [NOT_HERE, "─" * len(NOT_HERE), ""]
        lines += [f"  {offered:<40}{reason}" for offered, reason in ELSEWHERE.items()]
    return "\n".join(lines).rstrip()


def every_name() -> tuple[str, ...]:
    """Every name that has an entry, sorted."""
    return tuple(sorted(_entries()))


def _entries() -> dict[str, list[_Entry]]:
    known: dict[str, list[_Entry]] = {name: [card] for name, card in ESTIMATORS.items()}
    others: tuple[MetricCard | Term, ...] = (*METRIC_CARDS.values(), *GLOSSARY)
    for entry in others:
        for name in (entry.name, *entry.also):
            known.setdefault(plain_name(name), []).append(entry)
    return known


def _text(entry: _Entry, requires: bool = True) -> str:
    """An entry: its name, then a line for each fact that there is."""
    if isinstance(entry, Term):
        title, facts = "glossary", {"meaning": entry.meaning}
    else:
        title = entry.title + (" (metric)" if isinstance(entry, MetricCard) else "")
        facts = {"formula": entry.formula, "units": f"{entry.units}; {entry.direction}"}
    if isinstance(entry, MetricCard):
        facts |= {"interval": entry.interval, "p-value": entry.p_value, "source": entry.source}
    if isinstance(entry, Estimator):
        facts |= {"requires": _listed(entry.requires)} if requires else {}
        facts |= {"source": entry.source, "elsewhere": entry.also_called}
    if not isinstance(entry, Term):
        facts |= {"note": entry.note}
    # A long test may break after its file.
    long = len(entry.test) > WIDTH - LABEL
    facts["test"] = entry.test.replace("::", ":: ") if long else entry.test
    lines = _wrapped(f"{entry.name} · {title}")
    for label, text in facts.items():
        if text:
            lines += _wrapped(text, " " * LABEL, f"  {label:<{LABEL - 2}}")
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
