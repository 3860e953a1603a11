"""The controls of the application: what can be chosen, and what a choice means.

Every element is made here and read here, so that a cell only names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from helpers.app.background import start_worker, stop_worker
from helpers.app.notebook import PageState, page_state
from helpers.config import RunConfig, field_extra
from helpers.store.run_folder import run_label
from helpers.studies.registry import make_config, runs_of, study_named, study_of
from helpers.views.html import MUTED, safe
from helpers.views.showing import in_notebook, read_only

RUN_HINT = "Samples what is not stored yet; nothing is computed twice"
STOP_HINT = "Stops after the batch in hand; everything done so far is kept"


def preset_choice(asked: RunConfig) -> Any:
    """A dropdown of the presets, the asked one chosen."""
    import marimo as mo

    options = {f"{name}: {preset.note}": name for name, preset in asked.presets.items()}
    chosen = next(title for title, name in options.items() if name == asked.preset)
    return mo.ui.dropdown(
        options, value=chosen, allow_select_none=False, label="preset", full_width=True
    )


def config_fields(shown: RunConfig) -> Any:
    """An element for each field of the config; nothing starts when one is changed."""
    import marimo as mo

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
    chosen = {name: _from_element(name, fields[name], value) for name, value in values.items()}
    return make_config(shown.preset, **chosen)


def _labelled(name: str, field: FieldInfo) -> str:
    """A place for one element, with what it means under it."""
    words = safe(field.description or "")
    words = words.replace("{", "{{").replace("}", "}}")
    small = f"font-size:0.78rem;line-height:1.25;{MUTED}"
    return f'<div>{{{name}}}<div style="{small}">{words}</div></div>'


def _element(name: str, field: FieldInfo, shown: RunConfig) -> Any:
    """The element for one field, showing the config's value."""
    import marimo as mo

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
        low, high = _range(field)
        step = 1 if kind is int else 0.01
        return mo.ui.number(low, high, step, value, label=label, full_width=True, debounce=True)
    if name == "prompt_template":
        return mo.ui.text_area(value, label=label, rows=3, full_width=True)
    if name == "stop":
        return mo.ui.text(_join_texts(value), label=f"{label} (split by |)", full_width=True)
    return mo.ui.text("" if value is None else str(value), label=label, full_width=True)


def _range(field: FieldInfo) -> tuple[float | None, float | None]:
    """The least and the greatest value of a number field, as the config declares them."""
    ends = field.metadata
    low = [end.ge for end in ends if hasattr(end, "ge")]
    low += [end.gt for end in ends if hasattr(end, "gt")]
    high = [end.le for end in ends if hasattr(end, "le")]
    return low[0] if low else None, high[0] if high else None


def _from_element(name: str, field: FieldInfo, value: Any) -> Any:
    """A field's value as its element gives it; an empty text stands for the default of None."""
    if name == "stop":
        return _split_texts(value)
    if value == "" and field.default is None:
        return None
    return value


def _join_texts(texts: tuple[str, ...]) -> str:
    r"""Texts on one line, line breaks as \n."""
    return " | ".join(text.replace("\n", "\\n") for text in texts)


def _split_texts(line: str) -> tuple[str, ...]:
    parts = (part.strip(" ") for part in line.split("|"))
    return tuple(part.replace("\\n", "\n") for part in parts if part)


def work_button(drafted: RunConfig, page: PageState, set_page: Callable[[PageState], None]) -> Any:
    """Run, or Stop while there is work; None where nothing may be started."""
    import marimo as mo

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
    import marimo as mo

    entries = runs_of(page.folder.parent, study_named(page.study))
    folders = {run_label(entry): entry.folder for entry in entries if entry.ready}
    return mo.ui.dropdown(
        folders,
        value=next((words for words, folder in folders.items() if folder == page.folder), None),
        label=label,
        full_width=True,
        on_change=lambda folder: set_page(page_state(folder, page.study)) if folder else None,
    )
