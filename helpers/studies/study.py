"""What a study is, and the one loop that runs the stages of any of them.

    STUDY = Study(name="tokens", title="Uncertain tokens", config=TokenConfig,
                  stages=(Stage("samples", "Sample answers", sample_stage), ...), ...)

A study is one package below `helpers/studies/` whose module `study` defines such a record, and one
line in `helpers/studies/registry.py`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.models.loading import identify, pick_device, set_threads
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.run_folder import read_manifest
from helpers.studies.recorder import Recorder

MEANINGS, EVALUATION = "meanings", "evaluation"
"""In every study, the stages after which a run has something to show, and its scores."""


@dataclass(frozen=True)
class Job:
    """A run under way: its config, where results are stored, who hears of progress, its record."""

    config: Any
    """Of the study's own config class."""
    store: Store
    progress: Progress
    recorder: Recorder


@dataclass(frozen=True)
class Done:
    """What a stage has made: the run with its parts, and what the manifest says of it."""

    run: Any
    counts: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the results."""
    work: Mapping[str, float] = field(default_factory=dict)
    """What was computed now, such as pairs judged; nothing where all was stored."""


@dataclass(frozen=True)
class Stage:
    """One step of a study."""

    name: str
    """As manifests and keys have it: "samples"."""
    title: str
    """As people read it: "Sample answers"; nothing else names the stage on a screen."""
    run: Callable[[Job, Any], Done]
    """Takes the run so far, of the study's own record class, and returns it with this stage's
    parts, which it has written to the run folder."""
    command: str = ""
    """The command of `sep` that runs the study up to this stage; "" where there is none."""
    help: str = ""
    """What the command does."""
    takes_run: bool = False
    """Whether the command may be given a run folder, in place of flags that describe one."""
    power: int = 0
    """The power of the answers to a question with which the stage's work grows."""


@dataclass(frozen=True)
class Study:
    """One study: everything that the rest of the house needs to know of it."""

    name: str
    """As manifests have it."""
    title: str
    config: type[RunConfig]
    """With the study's presets."""
    stages: tuple[Stage, ...]
    record: Callable[..., Any]
    """A run of which nothing is computed yet, from `config`, `folder` and `manifest`."""
    open: Callable[[Path], Any]
    """The run of a folder as that record, as far as it has come."""
    questions: Callable[[Any], list[Question]]
    """The questions that a config asks; sources that are not on this machine are fetched."""
    summarise: Callable[[Any], str]
    """A run with scores as one text of at most 100 columns, for a terminal."""
    notebook: str
    """The marimo notebook that shows a run of it, from the repository's root."""
    form: tuple[str, ...]
    """The config fields that a form shows first."""
    overview: str = ""
    """What the study is about, in Markdown, for its tab in the application."""
    add_commands: Callable[[Callable[..., Any], Mapping[str, Any]], None] | None = None
    """Adds what only this study can do to the parser of `sep`: takes what makes a command of its
    name, its job and its help, and the parsers of the stage commands by name."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages in their order, as manifests name them."""
        return tuple(stage.name for stage in self.stages)

    @property
    def titles(self) -> dict[str, str]:
        """Stage to its title."""
        return {stage.name: stage.title for stage in self.stages}

    @property
    def default_preset(self) -> str:
        """The preset that is meant where none is named."""
        return next(iter(self.config.presets))


def on_call(place: str) -> Callable[..., Any]:
    """A function of a module, "module:function", that is imported when it is called.

    So a study's record is light: whoever lists presets loads no numerics.
    """
    module, name = place.split(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return call


@contextlib.contextmanager
def started(config: RunConfig, stages: Sequence[str], progress: Progress) -> Iterator[Job]:
    """A run under way, its store and record open, with as many CPU threads as it may take.

    What ends it early is recorded and raised. Raises `UserError` when the model cannot be found or
    the run folder is of another version.
    """
    if config.out.is_file():
        raise UserError(f"--out {config.out} is a file; name a folder")
    set_threads(config.threads)
    pick_device(config.device)
    identify(config.model)
    # A judge that is misspelt, or may not be fetched, should not be found out after hours.
    if config.judge == "nli":
        identify(config.judge_model, "judge")
    elif config.judge == "cosine":
        identify(config.embedding_model, "sentence encoder")
    recorder = Recorder(config, stages)
    job = Job(config, Store(config.cache_dir), recorder.recorded(progress), recorder)
    try:
        yield job
    except BaseException:
        recorder.interrupted()
        raise
    finally:
        job.store.close()


def run_stages(
    study: Study,
    config: RunConfig,
    progress: Progress,
    *,
    until: str = "",
    on_stage: Callable[[str], None] = lambda name: None,
) -> Any | None:
    """Run a study's stages in order, up to `until` (default: the last), into the run folder.

    `on_stage` is told the name of each stage as it begins. Returns the run; None when stopped
    before its scores. Raises `UserError`, with what was finished kept, when something stands in
    the way.
    """
    last = study.stage_names.index(until) if until else len(study.stages) - 1
    with started(config, study.stage_names, progress) as job:
        recorder, identity = job.recorder, identify(config.model)
        run = study.record(config=config, folder=recorder.folder, manifest=recorder.manifest)
        for stage in study.stages[: last + 1]:
            if identify(config.model) != identity:
                raise UserError(
                    f"the files of the model {config.model!r} were changed during the run; start "
                    "it again, and its results will be of the new ones"
                )
            on_stage(stage.name)
            recorder.begin(stage.name)
            done = stage.run(job, run)
            run = done.run
            recorder.done(done.counts, done.work)
        if last == len(study.stages) - 1:
            job.store.put(finished_key(config), {"stages": list(study.stage_names)})
    return run if last >= study.stage_names.index(EVALUATION) else None


def is_finished(config: RunConfig) -> bool:
    """Whether a run of this config is complete and stored, so that repeating it takes seconds."""
    manifest = read_manifest(config.run_folder)
    if manifest is None or not config.cache_dir.is_dir():
        return False
    store = Store(config.cache_dir)
    try:
        return store.get(finished_key(config)) is not None
    finally:
        store.close()


def finished_key(config: RunConfig) -> str:
    """Under this the store keeps that a run was completed with its results in this same store."""
    identity = identify(config.model)
    return content_key(
        stage="finished",
        run=config.run_name(),
        model=identity.model_hash,
        tokenizer=identity.tokenizer_hash,
    )
