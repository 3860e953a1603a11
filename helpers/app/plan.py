"""What a run of any study would take, said before it is started.

No weights are loaded and nothing is fetched. Memory is not foretold but measured, see the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass

from helpers.config import RunConfig
from helpers.data.questions import is_to_be_fetched
from helpers.errors import UserError
from helpers.formatting import duration_text, size_text
from helpers.generation.samples import missing_samples
from helpers.models.loading import ModelIdentity, identify, to_be_fetched
from helpers.store.cache import Store
from helpers.store.run_folder import read_manifest
from helpers.studies.registry import make_config, runs_of, study_of
from helpers.studies.study import is_finished
from helpers.views.html import html_table

SAME = ("model", "questions", "max_new_tokens", "thinking", "judge", "judge_model", "estimators",
        "backend")  # fmt: skip
"""Settings that a run must share for its rates to hold."""
ANSWER_BYTES, TOKEN_BYTES = 2500, 30
"""Stored of an answer, with its part of verdicts and tables, and of each of its tokens."""


@dataclass(frozen=True)
class Plan:
    """What a run will do and take; None for what is not known here."""

    config: RunConfig
    splits: dict[str, int] | None  # split to its questions
    n_questions: int  # at most, where the splits are not known
    n_answers: int
    n_stored: int | None  # answers that are not generated again
    finished: bool
    downloads: tuple[str, ...]  # what is fetched from the hub first
    problems: tuple[str, ...]  # what keeps the run from being started, each with its remedy
    seconds: float | None
    basis: str
    disk_bytes: int | None


def plan(config: RunConfig) -> Plan:
    """What a run of this config will do; in a fraction of a second on the lab.

    What stands in its way is in `problems` and is not raised.
    """
    downloads: list[str] = []
    problems: list[str] = []
    judges = {"nli": [("judge", config.judge_model)],
              "cosine": [("sentence encoder", config.embedding_model)]}  # fmt: skip
    found: dict[str, ModelIdentity] = {}
    for kind, name in [("language model", config.model), *judges.get(config.judge, [])]:
        with _noted(problems):
            if missing := to_be_fetched(name):
                downloads.append(f"the {kind} {missing}")
            else:
                found[kind] = identify(name, kind)
    identity, questions, n_stored, finished = found.get("language model"), None, None, False
    with _noted(problems):
        absent = [source for source in config.question_sources if is_to_be_fetched(source)]
        downloads += [f"the questions {source}" for source in absent]
        questions = None if absent else study_of(config).questions(config)
    n = sum(config.question_sources.values()) if questions is None else len(questions)
    n_answers = n * config.answers_per_question
    with _noted(problems):
        finished = identity is not None and is_finished(config)
        if finished or not (config.cache_dir / "index").is_dir():
            n_stored = n_answers if finished else 0
        elif identity and questions:
            with closing(Store(config.cache_dir)) as store:
                n_stored = n_answers - missing_samples(config, questions, store)
    splits = None if questions is None else dict(Counter(q.split for q in questions))
    known = (None, "") if finished or problems else _time(config, identity, n, n_stored or 0)
    return Plan(
        config, splits, n, n_answers, n_stored, finished, tuple(downloads), tuple(problems),
        *known, _disk_bytes(config, n, identity) if identity else None,
    )  # fmt: skip


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Inside, a problem is written down instead of raised."""
    try:
        yield
    except UserError as problem:
        problems.append(str(problem))
    except ModuleNotFoundError as missing:
        problems.append(f"the package {missing.name} is not installed; `uv sync` installs all")


def _time(
    config: RunConfig, identity: ModelIdentity | None, n: int, n_stored: int
) -> tuple[float | None, str]:
    """Seconds for n questions, some of whose answers are stored, and how they are known.

    By the largest stored run of these settings that made all its answers, else by built-in rates.
    """
    per_question, study = config.answers_per_question, study_of(config)
    same = {name: config.results_fields().get(name) for name in SAME}
    missing = n * per_question - n_stored
    done = () if missing else (read_manifest(config.run_folder) or {}).get("stages_done", ())

    def scaled(seconds: Mapping[str, float], then_n: int, then_k: int, generated: float) -> float:
        total = missing * seconds["samples"] / generated
        for stage in (stage for stage in study.stages[1:] if stage.name not in done):
            total += seconds[stage.name] * n / then_n * (config.k / then_k) ** stage.power
        return total

    found: list[tuple[int, float, str]] = []
    for entry in runs_of(config.out, study):
        run = read_manifest(entry.folder) if entry.finished else None
        if run is None or same != {name: run["config"].get(name) for name in SAME}:
            continue
        generated = run.get("work", {}).get("samples", {}).get("generated", 0)
        whole = generated >= entry.n * (per_question - config.k + entry.k)
        if whole and (not identity or run["hashes"]["model_hash"] == identity.model_hash):
            seconds = {stage: run["work"][stage]["seconds"] for stage in study.stage_names}
            total = scaled(seconds, entry.n, entry.k, generated)
            found.append((entry.n, total, f"as run {run['run']} took"))
    if found:
        return max(found)[1:]
    for name, preset in study.config.presets.items():
        usual = make_config(name)
        if preset.seconds and same == {name: usual.results_fields().get(name) for name in SAME}:
            then_n = sum(usual.question_sources.values())
            total = scaled(preset.seconds, then_n, usual.k, then_n * usual.answers_per_question)
            return total, "built-in rates, of one CPU core"
    return None, ""


def _disk_bytes(config: RunConfig, n: int, identity: ModelIdentity) -> int | None:
    """The store and the run folder, at most; None where the model's config names no sizes."""
    try:
        sizes = json.loads((identity.folder / "config.json").read_text(encoding="utf-8"))
        sizes = sizes.get("text_config", sizes)
        layers = int(sizes.get("num_hidden_layers") or sizes["n_layer"])
        width = int(sizes.get("hidden_size") or sizes["n_embd"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    answers = n * config.answers_per_question
    states = n * config.states_per_question * (layers + 1)
    # States, in float32, are in the store and in the run folder.
    return 8 * states * width + answers * (ANSWER_BYTES + TOKEN_BYTES * config.max_new_tokens)


def plan_facts(made: Plan) -> dict[str, str]:
    """What the run does and takes, by kind, in words."""
    config, at_most = made.config, "" if made.splits else "up to "
    splits = ", ".join(f"{n:,} {split}" for split, n in (made.splits or {}).items())
    stored = "not known yet how many" if made.n_stored is None else f"{made.n_stored:,}"
    time = "not known before the first batch of answers; then the time left is shown"
    if made.finished:
        time = "seconds: everything is stored"
    elif made.problems:
        time = "it cannot be started yet"
    elif made.seconds is not None:  # two digits are known of it, at best
        time = f"about {duration_text(float(f'{made.seconds:.2g}'))} ({made.basis})"
    facts = {
        "before it can start": " ".join(made.problems),
        "fetched first": ", ".join(made.downloads),
        "questions": f"{at_most}{made.n_questions:,} of {' and '.join(config.question_sources)}",
        "splits": splits,
        "answers": f"{at_most}{made.n_answers:,}: {config.answers_per_question} a question, of "
        f"{config.model} at temperature {config.temperature:g}; stored already: {stored}",
        "stages": " → ".join(study_of(config).titles.values()),
        "time": time + ("; fetching comes on top" if made.downloads else ""),
        "disk": f"up to {size_text(made.disk_bytes)}" if made.disk_bytes else "",
        "run folder": config.run_name(),
    }
    return {kind: words for kind, words in facts.items() if words}


def plan_view(config: RunConfig) -> str:
    """The plan as HTML, for the first screen."""
    return html_table(("", ""), list(plan_facts(plan(config)).items()))
