"""Where a run's numbers come from: settings, hashes, versions, counts, time, and its command."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from helpers.config import PRESETS, make_config, stored_config
from helpers.errors import UserError
from helpers.open_run import AnyRun
from helpers.report_tables import html_table
from helpers.run_list import when
from helpers.stages import stages_of

COUNTS = {
    "questions": "questions",
    "questions_too_long": "questions left out, too long for the context",
    "samples": "samples",
    "samples_cut_off": "samples cut off at the longest allowed length",
    "tokens": "generated tokens",
    "meanings": "meanings",
    "probes": "probes",
}
FORWARDS = {
    ("meanings", "forwards"): "forward passes of the judge, grouping",
    ("uncertainty", "judge_forwards"): "forward passes of the judge, all pairs",
    ("uncertainty", "p_true_forwards"): "forward passes for p(True)",
}
STAGE_WORDS = {
    "samples": "sampling answers",
    "meanings": "grouping by meaning",
    "uncertainty": "measuring uncertainty",
    "hidden": "reading hidden states",
    "tables": "assembling the probe tables",
    "probes": "training probes",
    "evaluation": "evaluating",
    "analyses": "analyses",
    "analysis": "writing the analysis table",
}
SHORT = 8
"""Digits of a hash that are shown; all of it stands in its title."""


def provenance_card(run: AnyRun) -> str:
    """What was run, with what, how long it took, and the command that repeats it, as HTML."""
    manifest = run.manifest
    settings = manifest.get("config", {})
    changed, usual = _settings(settings)
    preset = settings.get("preset", "lab")
    path = run.folder / "manifest.json"
    written = when(path.stat().st_mtime) if path.is_file() else "not written"
    facts = [("run folder", run.folder.name), ("written", written), ("preset", preset)]
    rows = [*facts, *changed.items()]
    note = "" if changed else "No setting differs from the preset."
    return "".join(
        (
            html_table(("", ""), rows, note),
            _folded("Settings as in the preset", html_table(("", ""), list(usual.items()))),
            _hashes(manifest.get("hashes", {})),
            _part("Counts", html_table(("", ""), _counts(manifest))),
            _part("Time", _times(manifest)),
            _folded("Versions", html_table(("", ""), list(manifest.get("versions", {}).items()))),
            _part("The same again", _command(manifest)),
        )
    )


def repeat_command(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a run, from its manifest's config.

    Only flags that differ from the preset stand in it. Raises `UserError` where no command says
    the same: the preset is unknown here, or a value cannot be typed as a flag.

    >>> repeat_command({"preset": "lab", "k": 20, "chat": True, "stop": ["\\n\\n"]})
    "uv run sep run --preset lab --k=20 --chat '--stop=\\n\\n'"
    """
    words = ["uv", "run", "sep", "run", "--preset", str(settings.get("preset", "lab"))]
    base = make_config(words[-1]).results_fields()
    for name, value in settings.items():
        if name not in base:
            raise UserError(f"this version has no setting {name!r}; use the version that wrote it")
        if value != base[name]:
            words += _flag(name, value)
    return " ".join(shlex.quote(word) for word in words)


def _flag(name: str, value: Any) -> list[str]:
    """The words by which the command line sets a field."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if value == "--" or value == ["--"]:
        raise UserError(f"{flag} cannot be --, which ends a command's flags")
    if not isinstance(value, list):
        if value is None:
            raise UserError(f"no flag unsets {name}, which the preset sets")
        return [f"{flag}={value}"]
    if len(value) == 1:
        return [f"{flag}={value[0]}"]
    if any(str(item).startswith("-") for item in value):
        raise UserError(f"{flag} cannot take several texts of which one begins with a dash")
    return [flag, *map(str, value)]


def _settings(settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Settings that differ from those of the preset, and those that do not."""
    preset = settings.get("preset", "lab")
    base = make_config(preset).results_fields() if preset in PRESETS else {}
    changed: dict[str, str] = {}
    usual: dict[str, str] = {}
    for name, value in settings.items():
        if name == "preset":
            continue
        shown = ", ".join(map(repr, value)) if isinstance(value, list) else str(value)
        group = usual if name in base and base[name] == value else changed
        group[name.replace("_", " ")] = shown or "none"
    return changed, usual


def _hashes(hashes: Mapping[str, str]) -> str:
    shown = ", ".join(
        f"{html.escape(name.replace('_', ' '))} "
        f'<code title="{html.escape(str(value))}">{html.escape(str(value)[:SHORT])}…</code>'
        for name, value in hashes.items()
    )
    return f'<p style="margin:0.6rem 0">Content: {shown or "no hashes recorded"}.</p>'


def _counts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, work = manifest.get("counts", {}), manifest.get("work", {})
    rows = [(words, f"{counts[name]:,}") for name, words in COUNTS.items() if counts.get(name)]
    for (stage, name), words in FORWARDS.items():
        if work.get(stage, {}).get(name):
            rows.append((words, f"{work[stage][name]:,.0f}"))
    return rows or [("nothing counted yet", "")]


def _times(manifest: Mapping[str, Any]) -> str:
    work, stages = manifest.get("work", {}), stages_of(manifest)
    rows = [
        (STAGE_WORDS[stage], f"{work[stage]['seconds']:,.1f} s")
        for stage in stages
        if "seconds" in work.get(stage, {})
    ]
    total = sum(work[stage].get("seconds", 0.0) for stage in stages if stage in work)
    note = "Added up over interruptions; what was stored before the run began took it no time."
    return html_table(("stage", "time"), [*rows, ("in total", f"{total:,.1f} s")], note)


def _command(manifest: Mapping[str, Any]) -> str:
    try:
        command = repeat_command(manifest.get("config", {}))
    except UserError as reason:
        return f"<p>No command repeats this run here: {html.escape(str(reason))}.</p>"
    note = "How it was executed (device, batch sizes, folders) changes no result and is left out."
    if _name(manifest.get("config", {})) != manifest.get("run"):
        note += " An earlier version wrote this run: the command writes a folder of another name."
    box = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.3rem 0"
    return f'<pre style="{box}">{html.escape(command)}</pre><div>{note}</div>'


def _name(settings: Mapping[str, Any]) -> str | None:
    """The run's name in this version; None where it does not know the settings."""
    try:
        return stored_config(settings).run_name()
    except ValidationError:
        return None


def _part(title: str, content: str) -> str:
    return f'<div style="font-weight:600;margin:1rem 0 0.2rem">{title}</div>{content}'


def _folded(title: str, content: str) -> str:
    summary = f'<summary style="cursor:pointer">{title}</summary>'
    return f'<details style="margin:0.5rem 0">{summary}{content}</details>'
