"""What the study's notebook shows of a run beside its scores: the plan, its runs, single ones."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from helpers.analyses.tables import sentences
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.html_parts import paragraph, safe
from helpers.report_tables import html_table
from helpers.run_folder import read_manifest
from helpers.stages import stages_of
from helpers.studies.reasoning.config import ReasoningConfig
from helpers.studies.reasoning.records import OOD, RunCounts
from helpers.studies.reasoning.run_files import ANALYSIS, StudyRun

DATASET_WORDS = {"in": "in distribution", OOD: "out of distribution"}


def plan_view(config: RunConfig) -> str:
    """What a run of these settings does, and how much of it its folder holds already."""
    assert isinstance(config, ReasoningConfig)
    asked = f"up to {config.limit:,} questions of {config.questions}"
    if config.ood_questions:
        asked += f", and up to {config.ood_limit:,} of {config.ood_questions}, out of distribution"
    label = {
        "final-answer": "the final answers, compared as numbers",
        "answer": "the whole answers, compared by the judge",
    }[config.entropy_of]
    steps = (
        f"The model {config.model} is asked {asked}: {config.k} runs a question at temperature "
        f"{config.temperature:g}, each of at most {config.max_new_tokens:,} tokens, generated "
        f"with {_backend(config)}.",
        "Runs that are cut off or never close their thinking are left out. Semantic entropy is "
        f"that of {label}.",
        "Hidden states are read where the thinking closes. Probes are fitted on train, chosen on "
        "validation, and scored on test and out of distribution.",
    )
    items = "".join(f"<li>{safe(step)}</li>" for step in steps)
    style = "list-style:decimal;margin:0.4rem 0 0.8rem;padding-left:1.4rem"
    facts = [("run folder", config.run_name()), ("state", _state(config))]
    return f'<ol style="{style}">{items}</ol>{html_table(("", ""), facts)}'


def _backend(config: ReasoningConfig) -> str:
    words = {"hf": "transformers", "vllm": "vLLM", "openai": f"the endpoint {config.endpoint}"}
    return words[config.backend]


def _state(config: RunConfig) -> str:
    manifest = read_manifest(config.run_folder) or {}
    done = manifest.get("stages_done", ())
    if not done:
        return "not begun"
    return "finished" if set(stages_of(manifest)) <= set(done) else f"done: {', '.join(done)}"


# --- the runs ------------------------------------------------------------------------------------


def counts_table(run: StudyRun) -> str:
    """How many runs there are, which rule left how many out, and what the others answered."""
    counts = _counts(run)
    every = list(counts.values())
    rules = dict.fromkeys(rule for each in every for rule in each.excluded)
    assert isinstance(run.config, ReasoningConfig)
    least = min(run.config.min_runs, run.config.k)
    rows: list[tuple[str, list[int]]] = [
        ("runs", [each.runs for each in every]),
        *((f"− {rule}", [each.excluded.get(rule, 0) for each in every]) for rule in rules),
        (
            f"− of a question with fewer than {least} valid runs",
            [each.runs_dropped for each in every],
        ),
        ("= kept", [_kept(each) for each in every]),
        ("correct", [each.correct for each in every]),
        ("wrong", [each.wrong for each in every]),
        ("without a final answer", [each.unanswered for each in every]),
        ("without a reference answer", [_ungraded(each) for each in every]),
        ("questions", [each.questions for each in every]),
        ("questions kept", [each.questions - each.questions_dropped for each in every]),
    ]
    rows = [row for row in rows if row[0] != "without a reference answer" or any(row[1])]
    heads = ("", *(DATASET_WORDS.get(name, name) for name in counts))
    table = html_table(heads, [(words, *(f"{n:,}" for n in row)) for words, row in rows])
    return table + sentences([" ".join(_count_sentences(counts))])


def _counts(run: StudyRun) -> Mapping[str, RunCounts]:
    """The counts of a finished run; before, those that the generating stage noted."""
    noted = run.manifest.get("counts", {}).get("runs", {})
    return run.counts or {name: RunCounts(**each) for name, each in noted.items()}


def _kept(counts: RunCounts) -> int:
    return counts.valid - counts.runs_dropped


def _ungraded(counts: RunCounts) -> int:
    return _kept(counts) - counts.correct - counts.wrong - counts.unanswered


def _count_sentences(counts: Mapping[str, RunCounts]) -> Iterable[str]:
    for name, each in counts.items():
        graded = each.correct + each.wrong
        right = "none of the kept ones is graded"
        if graded:
            right = (
                f"of the {graded:,} that are graded {100 * each.correct / graded:.0f} % are correct"
            )
        words = DATASET_WORDS.get(name, name)
        left = each.runs - _kept(each)
        out = f"{left:,} of {each.runs:,} runs are" if left else f"none of {each.runs:,} runs is"
        yield f"{words[0].upper()}{words[1:]}, {out} left out; {right}."
    kinds = {kind for each in counts.values() for kind in each.entropy_kinds} - {"full"}
    if kinds:
        means = {"top-k": "a lower bound, from the likeliest tokens", "none": "not known"}
        said = " or ".join(means.get(kind, kind) for kind in sorted(kinds))
        yield f"The token entropies of some runs are {said}."


# --- single runs ---------------------------------------------------------------------------------


def explore_view(run: StudyRun) -> str:
    """How to look at single runs: the command of the dashboard, and the address of this run."""
    if not (run.folder / ANALYSIS).is_file():
        raise UserError(
            f"the table of single runs, {ANALYSIS}, is the last stage of a run and still to come"
        )
    out = shlex.quote(str(run.folder.parent))
    command = f"SEP_OUTPUTS={out} uv run marimo run probe_analysis.py"
    box = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.4rem 0"
    return f'<pre style="{box}">{safe(command)}</pre>' + paragraph(
        "opens the dashboard on the runs of that folder: one point a run, whose question, "
        "thinking and answer stand below when it is chosen, with the entropy of every token. "
        f"Choose the run {run.folder.name} there, or add ?run={run.folder.name} to the address."
    )
