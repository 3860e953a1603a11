"""How far a run is, as HTML: one bar a stage, and in a sentence what is going on."""

from __future__ import annotations

import html
import time

from helpers.worker_state import Bar, Watched

STAGE_WORDS = {
    "samples": "Sample answers",
    "meanings": "Group answers by meaning",
    "uncertainty": "Measure uncertainty",
    "hidden": "Read hidden states",
    "tables": "Label and split the runs",
    "probes": "Train probes",
    "evaluation": "Evaluate on test questions",
    "analyses": "Further analyses",
    "analysis": "Write the table of single runs",
}
STAGE_OF_BAR = {
    "Sampling answers": "samples",
    "Grouping answers by meaning": "meanings",
    "Judging all pairs of answers": "uncertainty",
    "p(True)": "uncertainty",
    "Reading the samples' hidden states": "uncertainty",
    "Measuring uncertainty": "uncertainty",
    "Reading hidden states": "hidden",
    "Joining hidden states": "hidden",
    "Training probes": "probes",
    "Evaluating": "evaluation",
    "Curves": "analyses",
    "Auditing meanings": "analyses",
    "Comparing with other packages": "analyses",
    "Comparing protocols": "analyses",
    "UMAP: loading and compiling it": "analysis",
    "UMAP: hidden states in two dimensions": "analysis",
    "Writing the analysis table": "analysis",
}
"""Title of a bar, up to its first comma, to the stage that it is a part of."""
SILENT_AFTER = 10.0
"""Seconds without a report after which the page says so."""

_GREEN, _BLUE, _RED, _GREY = "#009E73", "#0072B2", "#D55E00", "#797979"
_FAINT = "rgba(128,128,128,0.25)"
_MARKS = {"done": "✓", "running": "▸", "paused": "‖", "ended": "✕", "waiting": "·"}
_COLOURS = {
    "done": _GREEN, "running": _BLUE, "paused": _BLUE, "ended": _RED, "waiting": _GREY,
}  # fmt: skip


def progress_view(watched: Watched) -> str:
    """The stages of a run with a bar each, and the state of the work in a sentence, as HTML."""
    rows = "".join(_row(watched, stage, _role(watched, stage)) for stage in watched.stages)
    return (
        f'<div style="max-width:700px;font-variant-numeric:tabular-nums">{_sentence(watched)}'
        f'<ol style="list-style:none;margin:0.6rem 0 0;padding:0">{rows}</ol></div>'
    )


def _sentence(watched: Watched) -> str:
    """What is going on; a problem with its remedy is an alert."""
    words = watched.message
    if watched.at_work and watched.started:
        words += f" {duration(time.time() - watched.started)} so far."
    if watched.silent > SILENT_AFTER:
        words += (
            f" It last reported {duration(watched.silent)} ago: it may be in a long step, or the "
            "machine was asleep."
        )
    text = html.escape(words)
    if watched.state not in ("failed", "killed"):
        return f'<div role="status" aria-live="polite">{text}</div>'
    title = "This run cannot go on" if watched.state == "failed" else "This run has ended early"
    kept = "<div>What was finished before is kept.</div>" if watched.state == "failed" else ""
    return (
        f'<div role="alert" style="border:1px solid {_RED};border-left-width:5px;'
        'border-radius:4px;padding:0.6rem 0.9rem;overflow-wrap:anywhere">'
        f"<strong>{title}.</strong> {text}{kept}</div>"
    )


def _current(watched: Watched) -> str | None:
    """The stage at which the work is, or was when it ended; None when all are done."""
    if watched.state in ("idle", "finished"):
        return None
    unfinished = next((s for s in watched.stages if s not in watched.stages_done), None)
    if not watched.bars:
        return unfinished
    stage = stage_of(watched.bars[-1], unfinished)
    if stage is None or not watched.bars[-1].finished:
        return stage
    # The bar is full and the next one has not begun; a stage has several, or is not written yet.
    return stage if stage not in watched.stages_done else unfinished


def stage_of(bar: Bar, otherwise: str | None = None) -> str | None:
    """The stage of a run that a bar is a part of; `otherwise` for a title that is not known."""
    return STAGE_OF_BAR.get(bar.title.split(",")[0], otherwise)


def _role(watched: Watched, stage: str) -> str:
    """One of `_MARKS`."""
    current = _current(watched)
    if stage == current:
        if watched.at_work:
            return "running"
        return "paused" if watched.state == "stopped" else "ended"
    if stage in watched.stages_done:
        return "done"
    return "waiting"


def _row(watched: Watched, stage: str, role: str) -> str:
    bar = next((b for b in reversed(watched.bars) if stage_of(b, _current(watched)) == stage), None)
    begun = role in ("running", "paused", "ended")
    share = 1.0 if role == "done" else 0.0
    if begun and bar and bar.total > 0:
        share = min(max(bar.done / bar.total, 0.0), 1.0)
    words = html.escape(_words(watched, stage, role, bar))
    colour, muted = _COLOURS[role], "" if begun else f"color:{_GREY};"
    return (
        f'<li style="{muted}margin:0.45rem 0"><div style="display:flex;flex-wrap:wrap;'
        'justify-content:space-between;gap:0 1rem">'
        f'<span><span aria-hidden="true" style="color:{colour};display:inline-block;'
        f'width:1.3em">{_MARKS[role]}</span>{html.escape(STAGE_WORDS[stage])}</span>'
        f'<span style="font-size:0.85rem;margin-left:auto">{words}</span>'
        f'</div><div role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}" aria-label="{html.escape(STAGE_WORDS[stage])}" '
        f'style="height:5px;border-radius:3px;background:{_FAINT};margin-top:0.15rem">'
        f'<div style="height:100%;border-radius:3px;background:{colour};width:{100 * share:.1f}%">'
        "</div></div></li>"
    )


def _words(watched: Watched, stage: str, role: str, bar: Bar | None) -> str:
    """How far a stage is."""
    if role == "waiting":
        return "waiting" if watched.at_work else ""
    if role == "done":
        seconds = watched.stage_seconds.get(stage)
        return "done" if seconds is None else f"done in {duration(seconds)}"
    if bar is None or bar.finished:
        return (watched.said or "preparing") if role == "running" else "not finished"
    if role == "running":
        return bar_words(bar)
    return f"{_count(bar)} {'so far' if role == 'paused' else 'when it ended'}"


def bar_words(bar: Bar) -> str:
    """For example `120 of 400 questions, 8.6 questions/s, 33 s left`."""
    parts = [_count(bar)]
    if bar.done and bar.seconds > 0:
        parts.append(f"{_rate(bar.done / bar.seconds)} {bar.unit}/s")
        if bar.tokens:
            parts.append(f"{_rate(bar.tokens / bar.seconds)} tokens/s")
        left = bar.seconds / bar.done * max(bar.total - bar.done, 0)
        parts.append(f"{duration(left)} left")
    else:
        parts.append("time left is known after the first batch")
    return ", ".join(parts)


def _count(bar: Bar) -> str:
    words = "" if bar.title in _PLAIN_TITLES else f"{bar.title}: "
    return f"{words}{bar.done:,} of {bar.total:,} {bar.unit}"


_PLAIN_TITLES = (
    "Sampling answers", "Grouping answers by meaning", "Reading hidden states", "Training probes",
    "Evaluating",
)  # fmt: skip
"""Titles that say no more than the name of their stage."""


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """For example `14 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
