"""The further studies of the application: their notebooks, and the tabs that open them in its page.

A study is a notebook of its own, embedded in the page when its tab is opened and not before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.open_run import open_run
from helpers.presets import REASONING_PRESETS
from helpers.showing import in_notebook, in_report
from helpers.stages import REASONING

PAGE = "probe_training_auto.py"
"""The notebook of the main study."""
STUDY_NOTEBOOKS = {REASONING: "studies/reasoning.py"}
"""The notebook of each further study, from the repository's root."""
FIRST_PRESETS = {REASONING: next(iter(REASONING_PRESETS))}
"""The preset with which a further study starts."""
STUDY_TABS = {"Overview": "", "Reasoning models": REASONING}
"""Title of a tab to the study that it opens."""
OVERVIEW = (
    "**Reasoning models.** A model that thinks before it answers is asked each question many "
    "times. Is a run right, does the model know, and can a probe read it at the token "
    "`</think>`, in and out of distribution?\n\nA study is a notebook of its own too: "
    "`uv run marimo edit studies/reasoning.py`. Nothing of it is loaded before its tab is opened."
)


def notebook_of(study: str) -> str:
    """The notebook of a study, from the repository's root."""
    return STUDY_NOTEBOOKS.get(study, PAGE)


def open_any(folder: Path, study: str) -> Any:
    """The run of a folder, as the record of its study; raises `UserError` as the readers do."""
    if study == REASONING:
        from helpers.studies.reasoning.run_files import open_study

        return open_study(folder)
    return open_run(folder)


def study_tabs() -> Any:
    """A tab for each further study; None in a script, where nobody opens one."""
    if not in_notebook():
        return None
    import marimo as mo

    return mo.ui.tabs({title: "" if study else OVERVIEW for title, study in STUDY_TABS.items()})


def opened_study(tabs: Any) -> str:
    """The study whose tab is open; "" for none."""
    return STUDY_TABS[tabs.value] if tabs is not None else ""


def study_config(config: RunConfig, study: str) -> RunConfig:
    """The config with which a study starts, on the machine of the page's config."""
    from helpers.controls import with_preset

    return with_preset(config, FIRST_PRESETS[study]) if study else config


def study_loader() -> Callable[[str], Any]:
    """What gives the marimo app of a study's notebook; None for "", and where nobody looks.

    Each page has a loader of its own, and a loader gives the same app again, so that a study that
    is left and opened again is as it was. Nothing of a study is imported before it is asked for.
    """

    @functools.cache
    def load(study: str) -> Any:
        if study not in STUDY_NOTEBOOKS or in_report() or not in_notebook():
            return None
        from helpers.notebook import problems_explained
        from helpers.report import notebook_app

        with problems_explained():
            return notebook_app(Path(__file__).resolve().parent.parent / STUDY_NOTEBOOKS[study])

    return load


async def embedded(app: Any, config: RunConfig) -> Any:
    """What a study's app shows, alive, on the machine that the page's config describes."""
    if app is None:
        return None
    return (await app.embed(defs={"config": config})).output
