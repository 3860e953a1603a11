"""What follows the evaluation of a run: each analysis reads the run folder and writes one file.

    sep curves RUN          samples, labels and answers that are enough; γ; when to abstain
    sep audit RUN           how much the grouping of answers depends on the rule

`analyses/<name>.json` holds every number, and the text that the command prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import file_hash, read_metadata, write_json
from helpers.studies.semantic_entropy.config import ANALYSES
from helpers.studies.semantic_entropy.run_files import StoredRun

VERSION = 1


@dataclass(frozen=True)
class Analysis:
    """One analysis of a run."""

    name: str
    text: str
    """For a terminal."""
    result: dict[str, Any]
    """Every number, as plain JSON values."""
    reused: bool
    """Whether it stood in the run folder already."""


@dataclass(frozen=True)
class _Job:
    run: StoredRun
    config: RunConfig
    store: Store
    progress: Progress
    thorough: bool


def analyse(
    name: str,
    run: StoredRun,
    config: RunConfig,
    store: Store,
    progress: Progress,
    *,
    thorough: bool = False,
) -> Analysis:
    """One of `ANALYSES` of a finished run, from its folder where it was made of the same results.

    `config` says how to execute, and how many resamples to draw. A `thorough` audit also asks the
    judge again, with the question in front of every answer. Raises `UserError` where the run lacks
    what the analysis needs.
    """
    if name not in RECIPES:
        raise UserError(f"analysis {name!r} is unknown; there are: {', '.join(ANALYSES)}")
    path = run.folder / "analyses" / f"{name}.json"
    made_from = _made_from(name, run, config)
    stored = read_analysis(run.folder, name)
    if stored and stored.get("made_from") == made_from and stored.get("thorough", 0) >= thorough:
        return Analysis(name, stored["text"], stored["result"], reused=True)
    job = _Job(run, config, store, progress, thorough)
    result, text = RECIPES[name](job)
    record = {"made_from": made_from, "thorough": thorough, "text": text, "result": result}
    write_json(path, record)
    return Analysis(name, text, result, reused=False)


def read_analysis(folder: Path, name: str) -> dict[str, Any] | None:
    """A stored analysis (`result`, `text`, `made_from`); None where there is none that is whole."""
    try:
        stored = json.loads((folder / "analyses" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) and {"result", "text"} <= set(stored) else None


def _made_from(name: str, run: StoredRun, config: RunConfig) -> str:
    """Identifies the results that an analysis reads, and how it reads them."""
    files = ("questions_scored.parquet", "samples.parquet", "metrics.json")
    return content_key(
        stage="analysis",
        name=name,
        version=VERSION,
        files=[file_hash(run.folder / file) for file in files],
        states=[
            read_metadata(path).get("sha256")
            for path in sorted(run.folder.glob("**/*.safetensors"))
            if path.parent.name != "probes"
        ],
        resampling=_resampling(config),
    )


def _curves(job: _Job) -> tuple[dict[str, Any], str]:
    from helpers.studies.semantic_entropy.analyses.curves import curves, describe_curves

    found = curves(job.run, progress=job.progress, **_resampling(job.config))
    return found.as_dict(), describe_curves(found)


def _audit(job: _Job) -> tuple[dict[str, Any], str]:
    from helpers.studies.semantic_entropy.analyses.audit import audit, describe_audit
    from helpers.studies.semantic_entropy.estimation import judge_answers

    run, with_question = job.run, None
    if job.thorough and run.judgements is not None and not run.config.condition_on_question:
        ran = run.config.model_copy(update=_execution(job.config))
        with_question = judge_answers(ran, run.answers, job.store, job.progress, with_question=True)
    with job.progress("Auditing meanings", 1, "runs") as stage:
        found = audit(run, with_question=with_question, **_resampling(job.config))
        stage.advance(1)
    return found.as_dict(), describe_audit(found)


RECIPES: dict[str, Callable[[_Job], tuple[dict[str, Any], str]]] = {
    "curves": _curves,
    "audit": _audit,
}


def _resampling(config: RunConfig) -> dict[str, int]:
    return {"n_boot": config.n_bootstrap, "n_perm": config.n_permutations, "seed": config.seed}


def _execution(config: RunConfig) -> Mapping[str, Any]:
    """How and where to execute: the fields that change no result."""
    results = config.results_fields()
    return {name: getattr(config, name) for name in RunConfig.model_fields if name not in results}
