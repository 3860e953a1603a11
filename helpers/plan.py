"""What a run will do, what of it is stored, and how long it takes: said before it is started.

No weights are loaded and nothing is fetched; what would be is named.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config import ANALYSES, RunConfig
from helpers.datasets import Question
from helpers.errors import UserError
from helpers.hub import is_partly_stored, stored_model
from helpers.models import KNOWN_AS, ModelIdentity, identify
from helpers.pipeline import choose_questions, missing_samples
from helpers.plan_costs import Duration, duration, needs
from helpers.projection import Projection
from helpers.report_tables import html_table
from helpers.rows import is_path
from helpers.run import is_finished
from helpers.store import Store

SMALL_INSTALL = (
    "the package `{}` is not installed (this is the small install, for looking at results); "
    "`uv sync` installs everything"
)


@dataclass(frozen=True)
class Plan:
    """What a run will do and take."""

    config: RunConfig
    n_questions: int
    """At most, where the questions are still to be fetched."""
    splits: dict[str, int] | None
    """Questions of each split; None where the questions are not here yet."""
    n_answers: int
    """K + 1 a question."""
    n_stored: int | None
    """Answers that are not generated again; None where the model or questions are not here yet."""
    finished: bool
    """Everything is stored."""
    downloads: tuple[str, ...] = ()
    """What is fetched from the hub first."""
    problems: tuple[str, ...] = ()
    """What keeps the run from being started, each with its remedy."""
    duration: Duration | None = None
    """None where it is not known before the first answers."""
    needs: Projection | None = None
    """Memory and disk; None where the model's shape is not known here."""


@dataclass
class _Found:
    """What stands ready, and what does not."""

    downloads: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def plan(config: RunConfig, store: Store | None = None) -> Plan:
    """What a run of this config will do; in a fraction of a second on the lab.

    What stands in its way is in `problems` and is not raised. A model in a local folder is read
    once for its hash; a chat template loads its tokenizer where there are stored answers.
    """
    found = _Found()
    identity = _model(config.model, "language model", found)
    if config.judge == "nli":
        _model(config.judge_model, "judge", found)
    elif config.judge == "cosine":
        _model(config.embedding_model, "sentence encoder", found)
    questions = _questions(config, found)
    n = config.limit if questions is None else len(questions)
    n_answers = n * (config.k + 1)
    finished, n_stored = False, None
    try:
        finished = identity is not None and is_finished(config)
        n_stored = n_answers if finished else _stored(config, questions, identity, store)
    except UserError as problem:
        found.problems.append(str(problem))
    takes = None
    if not finished and not found.problems:
        takes = duration(config, n, n_answers - (n_stored or 0), identity)
    projected = needs(config, n, identity)
    if projected and not finished:
        found.problems += _disk_problems(config, projected.disk_bytes.total)
    splits = None
    if questions is not None:
        names = ("train", "validation", "test")
        splits = {name: sum(q.split == name for q in questions) for name in names}
    return Plan(
        config, n, splits, n_answers, n_stored, finished, tuple(found.downloads),
        tuple(found.problems), takes, projected,
    )  # fmt: skip


def _model(name: str, kind: str, found: _Found) -> ModelIdentity | None:
    """The model, if it is on this machine; what keeps it from being so goes to `found`."""
    try:
        if _on_hub_only(name):
            hub_name = KNOWN_AS.get(name, name)
            rest = "the rest of " if is_partly_stored(hub_name) else ""
            found.downloads.append(f"{rest}the {kind} {hub_name}")
            return None
        return identify(name, kind)
    except UserError as problem:
        found.problems.append(str(problem))
    except ModuleNotFoundError as missing:
        found.problems.append(f"{kind} {name!r}: {SMALL_INSTALL.format(missing.name)}")
    return None


def _on_hub_only(name: str) -> bool:
    """Whether a model has to be fetched; without the hub that fails at once, and is no fetching."""
    local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if name == "lab" or local or Path(name).expanduser().exists():
        return False
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and stored_model(KNOWN_AS.get(name, name)) is None


def _questions(config: RunConfig, found: _Found) -> list[Question] | None:
    """The questions, if they are on this machine."""
    source = config.questions
    try:
        if source not in ("lab", "lab:ood") and not is_path(source):
            from huggingface_hub import constants

            from helpers.hub_tables import is_prepared

            name, _, subset = source.partition("@")[0].partition(":")
            if name in ("gsm8k", "openai/gsm8k"):
                name, subset = "openai/gsm8k", subset or "main"
            if not constants.HF_HUB_OFFLINE and not is_prepared(name, subset or None):
                found.downloads.append(f"the questions {source}")
                return None
        return choose_questions(config)
    except UserError as problem:
        found.problems.append(str(problem))
    except ModuleNotFoundError as missing:
        found.problems.append(f"questions {source}: {SMALL_INSTALL.format(missing.name)}")
    return None


def _stored(
    config: RunConfig,
    questions: list[Question] | None,
    identity: ModelIdentity | None,
    store: Store | None,
) -> int | None:
    """Answers that are stored; None where that cannot be known yet."""
    if store is None and not (config.cache_dir / "index").is_dir():
        return 0
    if questions is None or identity is None:
        return None
    with _opened(config, store) as opened:
        return len(questions) * (config.k + 1) - missing_samples(config, questions, opened)


@contextmanager
def _opened(config: RunConfig, store: Store | None) -> Iterator[Store]:
    """The given store, or the config's for a moment."""
    if store is not None:
        yield store
        return
    own = Store(config.cache_dir)
    try:
        yield own
    finally:
        own.close()


def _disk_problems(config: RunConfig, needed: int) -> list[str]:
    places = (config.cache_dir.expanduser().absolute(), config.out.expanduser().absolute())
    problems = []
    for flag, folder in zip(("--cache-dir", "--out"), places, strict=True):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            problems.append(
                f"the run needs about {_size(needed)} of disk, and {flag} {folder} has "
                f"{_size(free)} free: name a folder on a larger disk, or lower --limit"
            )
    return problems[:1]


# --- in words ------------------------------------------------------------------------------------


def plan_steps(planned: Plan) -> list[str]:
    """What will happen, a sentence or two for each step, in order."""
    config = planned.config
    steps = []
    if planned.downloads:
        steps.append(
            f"Fetched from the hub: {', '.join(planned.downloads)}. What arrives is kept, and "
            "never fetched again."
        )
    at_most = "up to " if planned.splits is None else ""
    steps.append(
        f"The language model {config.model} answers {at_most}{planned.n_questions:,} questions of "
        f"{config.questions}, each {config.k} times at temperature {config.temperature:g}, and "
        f"once with the answer that is most likely: {at_most}{planned.n_answers:,} answers. "
        f"{_stored_words(planned)}"
    )
    judge = {
        "nli": f"The NLI judge {config.judge_model} says which answers mean the same",
        "cosine": f"Sentence embeddings of {config.embedding_model} say which answers mean the "
        "same",
        "final-answer": "Answers that end in the same final answer count as the same",
    }[config.judge]
    steps.append(
        f"{judge}; how the answers spread over meanings is the semantic entropy of a question. "
        "Other measures of uncertainty are computed beside it."
    )
    counts = "some of the questions, are chosen on others and scored on the rest"
    if planned.splits:
        train, validation, test = planned.splits.values()
        counts = f"{train:,} questions, are chosen on {validation:,} and scored on {test:,} others"
    steps.append(
        f"Hidden states are read at {len(config.positions)} positions. Probes learn from them on "
        f"{counts}, with intervals, baselines and tripwires."
    )
    wanted = [name for name in ANALYSES if config.wants(name)]
    if wanted:
        steps.append(f"Analyses follow: {', '.join(wanted)}.")
    return steps


def _stored_words(planned: Plan) -> str:
    if planned.n_stored is None:
        unknown = "How many of them are stored already is known once all is fetched."
        return unknown if planned.downloads else ""
    if planned.n_stored == planned.n_answers:
        return "All of them are stored already."
    if planned.n_stored == 0:
        return "None of them is stored yet."
    rest = planned.n_answers - planned.n_stored
    return f"Of these {planned.n_stored:,} are stored already, and {rest:,} are generated."


def plan_facts(planned: Plan) -> dict[str, str]:
    """What the run takes, by kind, in words."""
    if planned.finished:
        time = "seconds: everything is stored"
    elif planned.problems:
        time = "it cannot be started yet"
    elif planned.duration:
        time = planned.duration.words
        if planned.duration.sampling_only:
            time += "; for what follows it is not known before the first batch is done"
    else:
        time = "not known before the first batch of answers is done; then the time left is shown"
    if planned.downloads and not planned.problems:
        time += "; fetching comes on top"
    facts = {"time": time}
    if planned.needs and not planned.finished:
        facts["disk"] = f"about {_size(planned.needs.disk_bytes.total)}"
        facts["memory"] = f"about {_size(planned.needs.ram_bytes.total)}"
        if planned.needs.gpu_bytes.total:
            facts["memory"] += f", and {_size(planned.needs.gpu_bytes.total)} of the GPU's"
    facts["run folder"] = planned.config.run_name()
    facts["stopping"] = "at any time; it goes on from where it was, and repeats nothing stored"
    return facts


def plan_view(planned: Plan | RunConfig) -> str:
    """The plan as HTML, for the first screen; of a config, it is made first."""
    if isinstance(planned, RunConfig):
        planned = plan(planned)
    box = "border-left:3px solid #D55E00;padding:0.2rem 0 0.2rem 0.8rem;margin:0.5rem 0"
    problems = "".join(
        f'<div style="{box}"><strong>Before it can start:</strong> {html.escape(problem)}</div>'
        for problem in planned.problems
    )
    steps = "".join(f"<li>{html.escape(step)}</li>" for step in plan_steps(planned))
    style = "list-style:decimal;margin:0.4rem 0 0.8rem;padding-left:1.4rem"
    return (
        f'{problems}<ol style="{style}">{steps}</ol>'
        f"{html_table(('', ''), list(plan_facts(planned).items()))}"
    )


def _size(n_bytes: int) -> str:
    """Bytes in round numbers.

    >>> _size(1_460_000_000), _size(41_700_000)
    ('1.5 GB', '42 MB')
    """
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"
