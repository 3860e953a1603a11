"""What was asked, as HTML and figures: a reading, its strip of tokens, the check by sampling.

Every text that a model or a person wrote is escaped. Colours are translucent and text keeps the
page's own colour, so that all of it reads on light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from helpers.studies.semantic_entropy.asking import (
    TARGETS,
    Answered,
    Checked,
    Interval,
    ProbeReading,
    Reading,
    Strip,
    StripProbe,
    predictions,
    reading_title,
)
from helpers.studies.semantic_entropy.open_run import AnyRun
from helpers.views.html import SMALL, safe, small_print
from helpers.views.style import (
    BLUE,
    FAINT,
    GREY,
    VERMILLION,
    add_bars,
    add_mark,
    cut,
    framed,
    legend_below,
    say_instead,
)

LONGEST_TEXT = 300
"""Characters of one answer."""
MOST_TOKENS = 1500
"""Tokens of a strip; of a longer one the last are shown."""
LOW_RGB, HIGH_RGB = "0, 114, 178", "213, 94, 0"  # blue and vermillion, as in the figures

_STACK = "display:grid;gap:0.9rem;max-width:46rem"


def reading_view(reading: Reading) -> str:
    """What the probes foresee, each with its interval and where it lies among the training
    questions, and how unlike them the question is.
    """
    parts = [_reading(reading, target) for target in TARGETS]
    if reading.training_distance.far:
        parts.insert(0, _callout(f"This question lies {reading.training_distance.words}.", True))
    else:
        parts.append(small_print(f"How usual the question is: {reading.training_distance.words}."))
    if reading.question.split:
        words = f"This is one of the run's own questions ({reading.question.split})."
        if reading.question.split == "train":
            words += " The probes were trained on it, so their reading is no prediction."
        parts.append(small_print(words))
    parts.append(
        small_print(
            f"One forward pass over {len(reading.prompt_ids)} tokens; nothing was generated. Each "
            "gap between two grey ticks holds a twentieth of the predictions for the training "
            "questions; the band is the interval."
        )
    )
    return f'<div style="{_STACK}">{"".join(parts)}</div>'


def _reading(reading: Reading, target: str) -> str:
    found = reading.readings.get(target)
    if found is None:
        title, _ = reading_title(target)
        why = reading.undefined.get(target, "the run has no such probe at the prompt")
        return f"<div>{safe(title)}: {small_print(f'undefined: {why}')}</div>"
    return _one_reading(found, reading.intervals[target], reading.largest)


def _one_reading(found: ProbeReading, interval: Interval, largest: float) -> str:
    title, unit = reading_title(found.target, found.threshold)
    most = largest if unit else 1.0
    words = f"Higher than {100 * found.quantile:.0f} % of the training questions. "
    if not 0 <= found.value <= most:
        words += f"Beyond what is possible, 0 to {most:.2f}: take it for the nearer end. "
    words += f"{interval.words[:1].upper()}{interval.words[1:]}. Read at {found.place}."
    return (
        '<div><div style="display:flex;flex-wrap:wrap;gap:0.6rem;align-items:baseline">'
        f"<span>{safe(title)}</span>"
        f'<strong style="font-size:1.35rem">{found.value:.2f}{" " + unit if unit else ""}</strong>'
        f"</div>{_where_it_lies(found, interval, most, unit)}{small_print(words)}</div>"
    )


def _where_it_lies(found: ProbeReading, interval: Interval, most: float, unit: str) -> str:
    """A line from the least to the largest possible value with ticks, band and mark, as SVG."""

    def x(value: float) -> float:
        return round(8 + 404 * min(max(value / most, 0.0), 1.0), 1)

    band = ""
    if interval.low is not None and interval.high is not None:
        start, width = x(interval.low), max(1.0, x(interval.high) - x(interval.low))
        band = f'<rect x="{start}" y="6" width="{width:.1f}" height="18" fill="{BLUE}" '
        band += 'fill-opacity="0.25" rx="3"/>'
    ticks = "".join(f"M{x(v)} 9V21" for v in found.training)
    at = x(found.value)
    says = f"{found.value:.2f} {unit} on a line from 0 to {most:.2f}".replace("  ", " ")
    return (
        '<svg viewBox="0 0 420 40" role="img" style="width:100%;max-width:32rem;display:block" '
        f'aria-label="{safe(says)}">{band}'
        f'<path d="M8 24H412" stroke="{GREY}"/>'
        f'<path d="{ticks}" stroke="{GREY}" stroke-opacity="0.7"/>'
        f'<path d="M{at} 2V24" stroke="{VERMILLION}" stroke-width="3"/>'
        f'<g fill="{GREY}" font-size="11"><text x="8" y="37">0</text>'
        f'<text x="412" y="37" text-anchor="end">{most:.2f} {unit}</text></g></svg>'
    )


def answered_view(answered: Answered, reading: Reading) -> str:
    """The most likely answer, how likely it is, and what the probes say that read it."""
    sample = answered.sample
    logprob = sum(sample.token_logprobs)
    status = f", {answered.graded.status}" if answered.graded else ""
    facts = f"{len(sample.token_ids)} tokens, log-probability {logprob:.2f} nats{status}"
    parts = [
        f"<div>Most likely answer: <strong>{_answer(sample.text)}</strong></div>",
        small_print(facts + (", cut off" if sample.finish_reason == "length" else "")),
    ]
    for position in answered.stand_ins:
        words = f"The answer has no {position}: an earlier token was read instead."
        parts.append(small_print(words))
    if answered.readings:
        parts.append("<div>What the probes say that read this answer too:</div>")
    parts += [
        _one_reading(answered.readings[t], answered.intervals[t], reading.largest)
        for t in TARGETS
        if t in answered.readings
    ]
    if not answered.readings:
        parts.append(small_print("No probe of this run reads the answer: the prompt was as good."))
    return f'<div style="{_STACK}">{"".join(parts)}</div>'


def distribution_figure(
    reading: Reading, run: AnyRun, target: str = "semantic_entropy"
) -> go.Figure:
    """The probe's predictions for training and validation questions, and this one among them."""
    found = reading.readings.get(target)
    title, unit = reading_title(target, found.threshold if found else None)
    fig = framed(f"Where {title} lies", f"{title} ({unit or 'probability'})", "questions")
    predicted = predictions(run).get(found.name) if found else None
    if found is None or predicted is None:
        why = reading.undefined.get(target, "the run has no such probe at the prompt")
        return say_instead(fig, f"Undefined: {why}.")
    splits = {s: predicted[run.targets.rows(s)] for s in ("train", "validation")}
    known = {s: values[np.isfinite(values)] for s, values in splits.items()}
    every = np.concatenate([*known.values(), [found.value]])
    low, high = min(0.0, every.min()), max(reading.largest if unit else 1.0, every.max())
    edges = np.linspace(low, high, 31)
    for (split, values), colour in zip(known.items(), (BLUE, GREY), strict=True):
        add_bars(fig, values, edges, unit or "probability", f"{split} questions", colour)
        fig.data[-1].update(name=f"{len(values)} {split} questions", opacity=0.6)
    fig.update_layout(barmode="overlay")
    fig.update_xaxes(range=[low, high])
    interval = reading.intervals[target]
    if interval.low is not None and interval.high is not None:
        fig.add_vrect(
            interval.low,
            interval.high,
            fillcolor=VERMILLION,
            opacity=0.15,
            line={"width": 0},
            layer="below",
        )
    place = f"higher than {100 * found.quantile:.0f} % of training"
    add_mark(fig, found.value, f"this question: {found.value:.2f}, {place}", VERMILLION, "solid")
    return legend_below(fig, one_row=True)


def strip_view(strip: Strip, shown: str | None = None) -> str:
    """The tokens coloured by what one probe says at each; hovering tells what all of them say.

    `shown` is a name of `strip.probes`, by default the first.
    """
    if not strip.probes:
        return small_print("This run has no linear probe to show at every token.")
    probe = strip.probes[shown] if shown else next(iter(strip.probes.values()))
    _, unit = reading_title(probe.target)
    most = strip.largest if unit else 1.0
    first = max(0, len(strip.texts) - MOST_TOKENS)
    spans = []
    for i in range(first, len(strip.texts)):
        if i == strip.n_prompt:
            spans.append(f'<span style="color:{GREY}" title="the answer begins"> ┃ </span>')
        spans.append(_token(strip, i, probe, most))
    left_out = f" The first {first:,} tokens are left out." if first else ""
    return (
        f'<div style="{_STACK}"><div>{safe(_named(probe))}, at every token</div>'
        f"{_legend(most, unit)}"
        '<div style="line-height:2;white-space:pre-wrap;overflow-wrap:anywhere;'
        f'font-family:ui-monospace,monospace;font-size:0.9rem">{"".join(spans)}</div>'
        f"{small_print(_where_trained(probe, unit) + left_out)}</div>"
    )


def _token(strip: Strip, i: int, probe: StripProbe, most: float) -> str:
    text = strip.texts[i].replace("\r", "␍").replace("\n", "↵\n") or "·"
    value = float(probe.values[i])
    strength = 2 * min(max(value / most, 0.0), 1.0) - 1
    rgb = HIGH_RGB if strength > 0 else LOW_RGB
    mark = ";border-bottom:3px solid currentColor" if i in probe.trained_at else ""
    says = "; ".join(
        f"{_named(p)} {p.values[i]:.2f} {reading_title(p.target)[1]}".rstrip()
        for p in strip.probes.values()
    )
    return (
        f'<span title="{safe(says)}" style="background:rgba({rgb}, '
        f'{0.5 * abs(strength):.2f}){mark};border-radius:2px">{safe(text)}</span>'
    )


def _named(probe: StripProbe) -> str:
    title = reading_title(probe.target)[0]
    return f"{title} ({probe.position}, layer {probe.layer})"


def _legend(most: float, unit: str) -> str:
    ends = f"rgba({LOW_RGB}, 0.5), rgba({LOW_RGB}, 0), rgba({HIGH_RGB}, 0.5)"
    bar = f"width:9rem;height:0.7rem;border-radius:2px;background:linear-gradient(90deg, {ends})"
    return (
        f'<div style="{SMALL};display:flex;gap:0.5rem;align-items:center"><span>0 or less</span>'
        f'<span style="{bar}"></span><span>{most:.2f} {unit} or more</span></div>'
    )


def _where_trained(probe: StripProbe, unit: str) -> str:
    words = "Underlined is where this probe was trained to read; at every other token its reading "
    words += "is an extrapolation, and may mean nothing."
    if probe.position == "answer_mean" and unit:
        words += " What it says of the answer is the mean over the underlined tokens."
    return words


def checked_view(checked: Checked) -> str:
    """The answers drawn so far by meaning, the largest first, and in the end the verdict."""
    n = len(checked.samples)
    groups = _by_meaning(checked)
    cut_off = sum(s.finish_reason == "length" for s in checked.samples)
    state = f"{n} of {checked.wanted} samples, {len(groups)} meaning"
    state += "s" if len(groups) != 1 else ""
    so_far = " so far" if checked.verdict is None else ""
    entropy = f"Semantic entropy{so_far}: {checked.entropy:.2f} nats, of at most ln {n} = "
    entropy += f"{math.log(n):.2f}; judged by {checked.judge}"
    entropy += f"; {cut_off} cut off at the longest allowed length" if cut_off else ""
    graded = f" ({checked.graded.status})" if checked.graded else ""
    parts = [
        f'<div><progress max="{checked.wanted}" value="{n}"></progress> {safe(state)}</div>',
        "".join(_meaning(wordings, n) for wordings in groups),
        f"<div>Most likely answer: {_answer(checked.greedy.text)}{safe(graded)}</div>",
        small_print(entropy + "."),
    ]
    if checked.verdict:
        parts.append(_callout(checked.verdict.words, checked.verdict.inside is False))
        parts.append(
            small_print(
                "One question shows on which side a prediction came out, not whether a "
                "probability was right: that takes the test questions of the run."
            )
        )
    return f'<div style="{_STACK}">{"".join(parts)}</div>'


def _by_meaning(checked: Checked) -> list[dict[str, int]]:
    """Per meaning its wordings with their counts, the meaning with most answers first."""
    groups: dict[int, dict[str, int]] = {}
    for sample, cluster in zip(checked.samples, checked.clusters, strict=True):
        counts = groups.setdefault(cluster, {})
        counts[sample.text] = counts.get(sample.text, 0) + 1
    return sorted(groups.values(), key=lambda counts: -sum(counts.values()))


def _meaning(wordings: Mapping[str, int], n: int) -> str:
    count = sum(wordings.values())
    bar = f"background:rgba({LOW_RGB}, 0.6);width:{100 * count / n:.0f}%;height:0.4rem"
    lines = "".join(
        f"<div>{_answer(text)}{f' (× {times})' if times > 1 else ''}</div>"
        for text, times in wordings.items()
    )
    return (
        f'<div style="padding:0.4rem 0;border-bottom:1px solid {FAINT}">'
        f'<div style="{SMALL}">{count} of {n}</div>'
        f'<div style="{bar};border-radius:2px;margin:0.15rem 0 0.3rem"></div>{lines}</div>'
    )


def _answer(text: str) -> str:
    return safe(cut(text, LONGEST_TEXT)) or "(empty)"


def _callout(text: str, warning: bool) -> str:
    colour = VERMILLION if warning else BLUE
    style = f"border-left:4px solid {colour};padding:0.3rem 0 0.3rem 0.8rem;font-weight:600"
    return f'<div style="{style}">{safe(text)}</div>'
