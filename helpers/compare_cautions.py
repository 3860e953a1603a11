"""In what two runs differ, and what of that keeps their numbers from being compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.compare_report import Setting
from helpers.open_run import AnyRun

ANSWER_SETTINGS = (
    "temperature", "top_p", "max_new_tokens", "prompt_template", "chat", "thinking", "stop",
)  # fmt: skip
JUDGE_SETTINGS = {
    "nli": ("judge_model", "entailment", "condition_on_question"),
    "cosine": ("embedding_model", "cosine_threshold"),
}
"""Settings that a judge reads; those of another judge change nothing."""


def differing(first: AnyRun, second: AnyRun) -> list[Setting]:
    """The settings, model and package versions in which two runs differ, in the config's order."""
    found = []
    parts = (("config", "{}"), ("hashes", "{}"), ("versions", "package {}"))
    for part, title in parts:
        ours, theirs = first.manifest.get(part, {}), second.manifest.get(part, {})
        for name in dict.fromkeys((*ours, *theirs)):
            values = (_setting(ours, name), _setting(theirs, name))
            if values[0] != values[1]:
                found.append(Setting(title.format(name.replace("_", " ")), *values))
    return found


def _setting(settings: Mapping[str, Any], name: str) -> str:
    """A setting as people read it."""
    value = settings.get(name, "not recorded")
    if isinstance(value, list):
        return ", ".join(repr(v) if name == "stop" else str(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def cautions(
    first: AnyRun, second: AnyRun, settings: Sequence[Setting], n_shared: int
) -> list[str]:
    """What keeps the numbers of two runs from being compared as they stand, in sentences."""
    n = [int(run.targets.rows("test").sum()) for run in (first, second)]
    said = []
    if not settings and n_shared == n[0] == n[1]:
        said.append("Both runs have the same settings and questions: they are the same run.")
    if not n_shared:
        said.append(
            "The runs share no test question, so there is no paired difference: where the numbers "
            "differ, the questions may be the reason."
        )
    elif n_shared < max(n):
        said.append(
            f"The runs share {n_shared} test questions, of {n[0]} in A and {n[1]} in B; only "
            "differences are of these alone, so A − B need not be the difference of the columns."
        )
    k = [run.manifest.get("config", {}).get("k") for run in (first, second)]
    if None not in k and k[0] != k[1]:
        most = " and ".join(f"{math.log(value):.2f}" for value in k)
        said.append(
            f"K is {k[0]} in A and {k[1]} in B: semantic entropy is at most ln K ({most} nats), so "
            "entropies, their errors and what counts as high differ for that reason alone."
        )
    judges = {run.manifest.get("config", {}).get("judge") for run in (first, second)}
    of_judge = ("judge", *(name for judge in judges for name in JUDGE_SETTINGS.get(judge, ())))
    for fields, words in (
        (of_judge, "Another judge, or rule, says which answers mean the same"),
        (ANSWER_SETTINGS, "The answers were sampled in another way"),
    ):
        changed = [s.name for s in settings if s.name.replace(" ", "_") in fields]
        if changed:
            said.append(
                f"{words} ({', '.join(changed)}): the semantic entropies to be predicted differ."
            )
    thresholds = (run.targets.threshold for run in (first, second))
    gamma = [threshold for threshold in thresholds if threshold is not None]
    if len(gamma) == 2 and not math.isclose(*gamma):
        said.append(
            f"High means above {gamma[0]:.4g} nats in A and {gamma[1]:.4g} in B, each chosen on "
            "its training questions: each probe is scored against its own run's labels."
        )
    return said
