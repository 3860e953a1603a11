"""What the application needs beside the stages: what is open, progress, problems, controls.

The same cells run as a script, in an editor, as an app and in an export. Only this module knows
the difference: a script reads flags, computes, prints, and leaves with an exit status; a page
shows a run folder, and leaves the computing to a worker that outlives it.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import marimo as mo
from pydantic.fields import FieldInfo

from helpers.app.background import progress_view, start_worker, stop_worker, watch
from helpers.config import RunConfig, field_extra
from helpers.errors import UserError
from helpers.progress import Progress, StageProgress, show_warning, terminal_progress
from helpers.store.run_folder import read_manifest, run_label
from helpers.studies.registry import (
    ROOT,
    RUN_FLAG,
    all_studies,
    config_from_arguments,
    make_config,
    notebook_app,
    open_run,
    run_study,
    runs_of,
    study_named,
    study_of,
    study_with_preset,
    summarise_run,
)
from helpers.studies.study import MEANINGS
from helpers.views.html import MUTED, safe
from helpers.views.showing import in_notebook, in_report, problems_explained, read_only, stumbled

SCORES_TO_COME = (
    "The scores appear here when the probes are trained and evaluated. Where nothing is at work, "
    "press <strong>Run</strong> above to go on."
)


@dataclass(frozen=True)
class PageState:
    """Which run folder a page shows, and how far it was when it was drawn last."""

    folder: Path
    stages: tuple[str, ...]
    at_work: bool  # whether a worker is busy with it
    study: str = ""  # the study whose runs the page shows


@problems_explained()
def asked_config(notebook: str, preset: str = "") -> RunConfig:
    """The config that the flags behind the notebook's name ask for; `preset` where none is named.

    Flags of another program, such as a test runner that runs the application, are not for us.
    """
    if not in_notebook():
        warnings.showwarning = show_warning
    flags = sys.argv[1:] if Path(sys.argv[0]).name == Path(notebook).name else []
    config = config_from_arguments(flags, Path(notebook).name, preset)
    own = study_with_preset(preset) if preset else study_named()
    if study_of(config) is not own:
        raise UserError(
            f"the preset {config.preset!r}, or one of these flags, belongs to another study: give "
            f"them to its notebook, uv run {study_of(config).notebook}"
        )
    return config


def page_state(folder: Path, study: str = "") -> PageState:
    """How far a run folder of a study is now."""
    manifest = read_manifest(folder) or {}
    return PageState(
        folder, tuple(manifest.get("stages_done", ())), watch(folder, study).at_work, study
    )


@problems_explained()
def initial_page_state(config: RunConfig) -> Any:
    """The state of a page, `(get, set)`: at first the run that the flags ask for is open.

    Where there is none yet, a further study shows the newest that is stored.
    A cell that sets it is drawn anew as well: pressed, the button Run becomes Stop at once.
    """
    page = page_state(config.run_folder, config.study)
    study = study_of(config)
    if study is not study_named() and not (page.stages or page.at_work):
        there = [entry.folder for entry in runs_of(config.out, study) if entry.finished]
        page = page_state(there[0], config.study) if there else page
    return mo.state(page, allow_self_loops=True)


def ticker(page: PageState) -> Any:
    """What makes a page look again every second while a worker is busy; else None."""
    if not (in_notebook() and page.at_work):
        return None
    return mo.ui.refresh(options=["1s"], default_interval="1s")


def work_progress(page: PageState, tick: Any, set_page: Callable[[PageState], None]) -> Any:
    """How far the work on the open run is; redraws the page when a stage is done."""
    if not in_notebook():
        return None
    now = page_state(page.folder, page.study)
    if now != page:
        set_page(now)
    watched = watch(page.folder, page.study)
    if watched.state in ("idle", "finished"):
        return None
    shown = mo.Html(progress_view(watched))
    return shown if tick is None else mo.vstack([shown, tick])


def shown_run(config: RunConfig, page: PageState) -> Any:
    """The run that is shown: a script, or a page started with `--run`, computes it first.

    A page on which nothing has been computed yet waits, and says for what; after a problem it
    shows what was finished before.
    """
    if not in_notebook():
        with problems_explained(), _stopped_at_once():
            return _computed(config)
    if told_to_run(config):
        try:
            return _computed(config)
        except UserError as problem:
            page, trouble = page_state(config.run_folder, config.study), stumbled(problem)
            mo.stop(MEANINGS not in page.stages, trouble)
            mo.output.append(trouble)
    with problems_explained():
        mo.stop(MEANINGS not in page.stages, waiting(page))
        return open_run(page.folder)


def when_scored(run: Any) -> Any:
    """The run of a study once it has scores; until then the cell waits, and says for what."""
    mo.stop(run.assessment is None, _callout(SCORES_TO_COME))
    return run


def told_to_run(config: RunConfig) -> bool:
    """Whether `--run` is meant for this config, and not for the page in which it is embedded."""
    started, own = Path(sys.argv[0]).resolve(), study_of(config)
    others = [ROOT / study.notebook for study in all_studies() if study is not own]
    return RUN_FLAG in sys.argv[1:] and started not in others


def _computed(config: RunConfig) -> Any:
    finished = run_study(config, progress_here())
    assert finished is not None  # it goes to its last stage
    return finished


@contextlib.contextmanager
def _stopped_at_once() -> Iterator[None]:
    """Inside, Ctrl-C stops a script at once.

    Cells that `await` make marimo run a script's cells in an event loop, and Python's loops keep
    the first Ctrl-C until the next `await`, which comes when everything is computed.
    """
    held = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and callable(held)
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, held)


def waiting(page: PageState) -> Any:
    """What a page that has nothing to show yet waits for."""
    text = "Nothing to show yet. Press <strong>Run</strong> above, or choose a stored run."
    if page.at_work:
        text = "The first results appear here when all answers are sampled and grouped by meaning."
    return _callout(text)


def _callout(text: str) -> Any:
    return mo.callout(mo.Html(f"<div>{text}</div>"), kind="neutral")


def progress_here() -> Progress:
    """Progress bars under the cell in a notebook, lines on standard error in a script."""
    return notebook_progress() if in_notebook() else terminal_progress()


def notebook_progress() -> Progress:
    """A progress bar under the running cell, which leaves with the stage."""

    @contextlib.contextmanager
    def stage(title: str, total: int, unit: str) -> Iterator[StageProgress]:
        with mo.status.progress_bar(
            total=total, title=title, subtitle="starting", show_rate=False, show_eta=False,
            remove_on_exit=True,
        ) as bar:  # fmt: skip

            def show(state: StageProgress) -> None:
                bar.update(state.done - bar.current, subtitle=state.pace())

            yield StageProgress(title, total, unit, show)

    return stage


def conclude(run: Any) -> Any:
    """Print the table and the run folder in a script; show them in a notebook."""
    if in_notebook() and run.assessment is None:
        return None  # a study whose scores are still to come has no table
    text = f"{summarise_run(run)}\n\nrun folder: {run.folder}"
    if not in_notebook():
        print(text)
        return None
    where = mo.Html(f"<div>This run is in <code>{safe(str(run.folder))}</code>.</div>")
    return mo.vstack([where, mo.accordion({"All of it as text": mo.plain_text(text)})])


OVERVIEW = "Overview"


def study_tabs() -> Any:
    """A tab for each study but the first, whose page this is; None in a script."""
    if not in_notebook():
        return None
    others = all_studies()[1:]
    overview = [
        f"**{study.title}.** {study.overview}\n\nA study is a notebook of its own too: "
        f"`uv run marimo edit {study.notebook}`. Nothing of it is loaded before its tab is opened."
        for study in others
    ]
    return mo.ui.tabs({OVERVIEW: "\n\n".join(overview)} | {study.title: "" for study in others})


def opened_study(tabs: Any) -> str:
    """The name of the study whose tab is open; "" for none."""
    title = "" if tabs is None else tabs.value
    return next((study.name for study in all_studies() if study.title == title), "")


def study_loader() -> Callable[[str], Any]:
    """What gives the marimo app of a study's notebook; None for "", and where nobody looks.

    Each page has a loader of its own, and a loader gives the same app again, so that a study that
    is left and opened again is as it was. Nothing of a study is imported before it is asked for.
    """

    @functools.cache
    def load(study: str) -> Any:
        if not study or in_report() or not in_notebook():
            return None

        with problems_explained():
            return notebook_app(study_named(study))

    return load


async def embedded(app: Any, config: RunConfig) -> Any:
    """What a study's app shows, alive, on the machine that the page's config describes."""
    if app is None:
        return None
    return (await app.embed(defs={"config": config})).output


# --- controls ------------------------------------------------------------------------------------


RUN_HINT = "Samples what is not stored yet; nothing is computed twice"
STOP_HINT = "Stops after the batch in hand; everything done so far is kept"


def preset_choice(asked: RunConfig) -> Any:
    """A dropdown of the presets, the asked one chosen."""
    options = {f"{name}: {preset.note}": name for name, preset in asked.presets.items()}
    chosen = next(title for title, name in options.items() if name == asked.preset)
    return mo.ui.dropdown(
        options, value=chosen, allow_select_none=False, label="preset", full_width=True
    )


def config_fields(shown: RunConfig) -> Any:
    """An element for each field of the config; nothing starts when one is changed."""
    first, fields = study_of(shown).form, type(shown).model_fields
    elements = {n: _element(n, field, shown) for n, field in fields.items() if n != "preset"}
    main = "".join(_labelled(name, fields[name]) for name in first)
    more = "".join(_labelled(name, fields[name]) for name in elements if name not in first)
    columns = "repeat(auto-fill,minmax(15rem,1fr))"
    grid = f"display:grid;grid-template-columns:{columns};gap:0.9rem 1.5rem"
    page = (
        f'<details><summary style="cursor:pointer">Settings</summary><div style="{grid};'
        f'margin-top:0.8rem">{main}</div><details style="margin-top:1rem"><summary '
        f'style="cursor:pointer">More settings</summary><div style="{grid};margin-top:0.8rem">'
        f"{more}</div></details></details>"
    )
    return mo.Html(page).batch(**elements)


def draft(values: Mapping[str, Any], shown: RunConfig) -> RunConfig:
    """The config that the fields ask for; raises `UserError` for a value out of range."""
    fields = type(shown).model_fields
    chosen = dict(values)
    for name, value in values.items():
        if name == "stop":
            parts = (part.strip(" ") for part in value.split("|"))
            chosen[name] = tuple(part.replace("\\n", "\n") for part in parts if part)
        elif value == "" and fields[name].default is None:
            chosen[name] = None
    return make_config(shown.preset, **chosen)


def _labelled(name: str, field: FieldInfo) -> str:
    """A place for one element, with what it means under it."""
    words = safe(field.description or "")
    words = words.replace("{", "{{").replace("}", "}}")
    small = f"font-size:0.78rem;line-height:1.25;{MUTED}"
    return f'<div>{{{name}}}<div style="{small}">{words}</div></div>'


def _element(name: str, field: FieldInfo, shown: RunConfig) -> Any:
    """The element for one field, showing the config's value."""
    kind, value = field.annotation, getattr(shown, name)
    label, several = name.replace("_", " "), field_extra(field).get("choices")
    if get_origin(kind) is Literal:
        options = list(get_args(kind))
        return mo.ui.dropdown(
            options, value=value, label=label, allow_select_none=False, full_width=True
        )
    if kind is bool:
        return mo.ui.checkbox(value, label=label)
    if several:
        return mo.ui.multiselect(several, value=list(value), label=label, full_width=True)
    if kind in (int, float):
        ends = [(n, getattr(end, n)) for n in ("ge", "gt", "le") for end in field.metadata
                if hasattr(end, n)]  # fmt: skip
        low = next((value for name, value in ends if name != "le"), None)
        high = next((value for name, value in ends if name == "le"), None)
        step = 1 if kind is int else 0.01
        return mo.ui.number(low, high, step, value, label=label, full_width=True, debounce=True)
    if name == "prompt_template":
        return mo.ui.text_area(value, label=label, rows=3, full_width=True)
    if name == "stop":
        line = " | ".join(text.replace("\n", "\\n") for text in value)
        return mo.ui.text(line, label=f"{label} (split by |)", full_width=True)
    return mo.ui.text("" if value is None else str(value), label=label, full_width=True)


def work_button(drafted: RunConfig, page: PageState, set_page: Callable[[PageState], None]) -> Any:
    """Run, or Stop while there is work; None where nothing may be started."""
    if read_only() or not in_notebook():
        return None

    def start(_: Any) -> None:
        start_worker(drafted)
        set_page(page_state(drafted.run_folder, drafted.study))

    def stop(_: Any) -> None:
        stop_worker(page.folder)
        set_page(page_state(page.folder, page.study))

    if page.at_work:
        return mo.ui.button(label="Stop", kind="danger", on_click=stop, tooltip=STOP_HINT)
    label = "Run again" if is_open(drafted, page) else "Run"
    return mo.ui.button(label=label, kind="success", on_click=start, tooltip=RUN_HINT)


def is_open(drafted: RunConfig, page: PageState) -> bool:
    """Whether the run that the fields ask for is open and finished."""
    return page.folder == drafted.run_folder and study_of(drafted).stage_names[-1] in page.stages


def run_choice(
    page: PageState, set_page: Callable[[PageState], None], label: str = "open a run"
) -> Any:
    """A dropdown of the study's stored runs beside the open one; choosing one opens it."""
    entries = runs_of(page.folder.parent, study_named(page.study))
    folders = {run_label(entry): entry.folder for entry in entries if entry.ready}
    return mo.ui.dropdown(
        folders,
        value=next((words for words, folder in folders.items() if folder == page.folder), None),
        label=label,
        full_width=True,
        on_change=lambda folder: set_page(page_state(folder, page.study)) if folder else None,
    )
