"""The controls of the application: what can be chosen, and what a choice means.

Every element is made here and read here, so that a cell only names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from helpers.app.background import start_worker, stop_worker
from helpers.app.notebook import PageState, page_state
from helpers.config import ANALYSES, POSITIONS, RunConfig
from helpers.store.run_folder import run_label, stored_runs
from helpers.studies.reasoning.config import REASONING_PRESETS
from helpers.studies.registry import PRESET_NOTES, all_fields, make_config
from helpers.studies.semantic_entropy.config import MAIN_PRESETS
from helpers.studies.study import REASONING, stages_of
from helpers.uncertainty import ESTIMATORS
from helpers.views.html import MUTED, safe
from helpers.views.showing import in_notebook, read_only

MAIN_FIELDS = (
    "model", "questions", "limit", "k", "temperature", "top_p", "max_new_tokens", "seed",
    "judge", "judge_model", "entailment", "condition_on_question",
)  # fmt: skip
"""Fields that the form shows at once; the others lie under "More settings"."""

STUDY_FIELDS = {
    REASONING: (
        "model", "questions", "limit", "ood_questions", "ood_limit", "k", "temperature", "top_p",
        "max_new_tokens", "seed", "backend", "entropy_of",
    ),
}  # fmt: skip
"""The same of each further study."""
WITHOUT_USE = {REASONING: ("positions", "estimators", "p_true_shots", "analyses")}
"""Fields that a study inherits and does not use; its form leaves them out."""

SEVERAL = {
    "positions": POSITIONS,
    "estimators": ("all", *ESTIMATORS),
    "analyses": ("all", "none", *ANALYSES),
}
"""Fields of which several values are chosen."""

RUN_HINT = "Samples what is not stored yet; nothing is computed twice"
STOP_HINT = "Stops after the batch in hand; everything done so far is kept"


def preset_choice(asked: RunConfig) -> Any:
    """A dropdown of the presets, the asked one chosen."""
    import marimo as mo

    own = REASONING_PRESETS if asked.study == REASONING else MAIN_PRESETS
    options = {f"{name}: {PRESET_NOTES[name]}": name for name in own}
    chosen = next(title for title, name in options.items() if name == asked.preset)
    return mo.ui.dropdown(
        options, value=chosen, allow_select_none=False, label="preset", full_width=True
    )


def config_fields(shown: RunConfig) -> Any:
    """An element for each field of the config; nothing starts when one is changed."""
    import marimo as mo

    first = STUDY_FIELDS.get(shown.study, MAIN_FIELDS)
    left_out = ("preset", *WITHOUT_USE.get(shown.study, ()))
    fields = type(shown).model_fields
    elements = {name: _element(name, shown) for name in fields if name not in left_out}
    main = "".join(_labelled(name) for name in first)
    more = "".join(_labelled(name) for name in elements if name not in first)
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
    chosen = {name: _from_element(name, value) for name, value in values.items()}
    kept = {name: getattr(shown, name) for name in WITHOUT_USE.get(shown.study, ())}
    return make_config(shown.preset, **kept, **chosen)


def _labelled(name: str) -> str:
    """A place for one element, with what it means under it."""
    words = safe(all_fields()[name].description or "")
    words = words.replace("{", "{{").replace("}", "}}")
    small = f"font-size:0.78rem;line-height:1.25;{MUTED}"
    return f'<div>{{{name}}}<div style="{small}">{words}</div></div>'


def _element(name: str, shown: RunConfig) -> Any:
    """The element for one field, showing the config's value."""
    import marimo as mo

    kind, value = all_fields()[name].annotation, getattr(shown, name)
    label = name.replace("_", " ")
    if get_origin(kind) is Literal:
        options = list(get_args(kind))
        return mo.ui.dropdown(
            options, value=value, label=label, allow_select_none=False, full_width=True
        )
    if kind is bool:
        return mo.ui.checkbox(value, label=label)
    if name in SEVERAL:
        return mo.ui.multiselect(SEVERAL[name], value=list(value), label=label, full_width=True)
    if kind in (int, float):
        low, high = _range(name)
        step = 1 if kind is int else 0.01
        return mo.ui.number(low, high, step, value, label=label, full_width=True, debounce=True)
    if name == "prompt_template":
        return mo.ui.text_area(value, label=label, rows=3, full_width=True)
    if name == "stop":
        return mo.ui.text(_join_texts(value), label=f"{label} (split by |)", full_width=True)
    return mo.ui.text("" if value is None else str(value), label=label, full_width=True)


def _range(name: str) -> tuple[float | None, float | None]:
    """The least and the greatest value of a number field, as the config declares them."""
    ends = all_fields()[name].metadata
    low = [end.ge for end in ends if hasattr(end, "ge")]
    low += [end.gt for end in ends if hasattr(end, "gt")]
    high = [end.le for end in ends if hasattr(end, "le")]
    return low[0] if low else None, high[0] if high else None


def _from_element(name: str, value: Any) -> Any:
    """A field's value as its element gives it; an empty text stands for the default of None."""
    if name == "stop":
        return _split_texts(value)
    if value == "" and all_fields()[name].default is None:
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
    return (
        page.folder == drafted.run_folder and stages_of({"study": drafted.study})[-1] in page.stages
    )


def run_choice(
    page: PageState, set_page: Callable[[PageState], None], label: str = "open a run"
) -> Any:
    """A dropdown of the study's stored runs beside the open one; choosing one opens it."""
    import marimo as mo

    entries = stored_runs(page.folder.parent, page.study)
    folders = {run_label(entry): entry.folder for entry in entries if entry.ready}
    return mo.ui.dropdown(
        folders,
        value=next((words for words, folder in folders.items() if folder == page.folder), None),
        label=label,
        full_width=True,
        on_change=lambda folder: set_page(page_state(folder, page.study)) if folder else None,
    )
