"""Finding the questions worth a look: by a click in a scatter, and by lists of instructive cases.

Everything here takes an opened run, whether `helpers.run.Run` or `helpers.stored_run.StoredRun`,
and computes from its records alone; `decoder` alone needs the model's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from helpers.analyses.cluster_agreement import broken_triples, distinct_texts
from helpers.analyses.cluster_audit import LINKS
from helpers.analyses.cluster_rules import ENTAILMENT, verdicts
from helpers.errors import UserError
from helpers.figure_style import cut
from helpers.models import KNOWN_AS, ModelIdentity, identify, load_tokenizer
from helpers.run import Run
from helpers.stored_run import StoredRun

Opened = Run | StoredRun
Decode = Callable[[Sequence[int]], list[str]]
"""Token ids to the text of each; the texts together are the text of all."""

ID = "question_id"
"""The column of a table of cases that holds the question's id."""
MOST_CASES = 8
DOUBTFUL = (0.25, 0.75)
"""Between these a probability of entailment says that the judge does not know."""
PROBE = "semantic_entropy"
"""The probe that is compared with sampling: it predicts semantic entropy in nats."""


# --- clicks --------------------------------------------------------------------------------------


def clickable(figure: go.Figure) -> go.Figure:
    """Let a plain click choose a point of a scatter in `mo.ui.plotly`, and show which it was.

    Plotly reports a click on markers to marimo as a selection, so `clickmode` must say that clicks
    select. With a drag mode a hand that moves by three pixels zooms instead of clicking, and after
    one click in mode "select" (marimo's default) the next chooses nothing: so none is set. The
    mode bar still zooms.
    """
    figure.update_layout(clickmode="event+select", dragmode=False)
    return figure.update_traces(
        selected={"marker": {"size": 13, "opacity": 1}},
        unselected={"marker": {"opacity": 0.4}},
        selector=lambda trace: trace.type in ("scatter", "scattergl") and _has_markers(trace),
    )


def _has_markers(trace: Any) -> bool:
    return "markers" in (trace.mode or "")


def clicked_question(figure: go.Figure, value: object) -> str | None:
    """The question of the point that was clicked, of several the last; None where there is none.

    `value` is the value of `mo.ui.plotly(figure)`: a list of points that say their trace
    (`curveNumber`) and their place in it (`pointIndex`), but not their customdata; that is read
    from the figure, whose question scatters keep the id in customdata[0].
    """
    points = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    for point in reversed(points):
        if isinstance(point, Mapping):
            found = _id_at(figure, point.get("curveNumber"), _place(point))
            if found is not None:
                return found
    return None


def _place(point: Mapping[str, Any]) -> object:
    return point.get("pointIndex", point.get("pointNumber"))


def _id_at(figure: go.Figure, trace: object, place: object) -> str | None:
    """The first of a point's customdata, if the point exists and that is a text."""
    if not isinstance(trace, int) or not isinstance(place, int):
        return None
    if not 0 <= trace < len(figure.data) or figure.data[trace].type not in ("scatter", "scattergl"):
        return None
    rows = figure.data[trace].customdata
    if rows is None or not 0 <= place < len(rows):
        return None
    row = rows[place]
    # Other figures keep one text a point there: a hover label.
    if isinstance(row, str) or not hasattr(row, "__len__") or not len(row):
        return None
    return row[0] if isinstance(row[0], str) else None


# --- an opened run -------------------------------------------------------------------------------


def question_row(run: Opened, question_id: str) -> int:
    """The place of a question in the run; raises `UserError` where the run has no such one."""
    for i, question in enumerate(run.answers.questions):
        if question.id == question_id:
            return i
    raise UserError(f"this run has no question {question_id!r}; choose one of this run")


def predictions(run: Opened) -> dict[str, np.ndarray]:
    """Probe to its prediction for every question, `[n]`; empty while there are none."""
    if isinstance(run, StoredRun):
        return run.predicted
    try:
        return run.assessment.predicted
    except UserError:  # the stage is still to come
        return {}


def by_meaning(clusters: Sequence[int]) -> list[list[int]]:
    """The samples of each meaning, the largest meaning first, ties in order of appearance.

    >>> by_meaning((0, 1, 1, 2))
    [[1, 2], [0], [3]]
    """
    groups: dict[int, list[int]] = {}
    for sample, cluster in enumerate(clusters):
        groups.setdefault(cluster, []).append(sample)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


# --- instructive cases ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One question, and the values that make it instructive."""

    question_id: str
    question: str
    values: dict[str, float | str]
    """What is shown beside it, by a name that holds the unit."""


@dataclass(frozen=True)
class Cases:
    """Test questions that teach the same thing, the clearest first."""

    lesson: str
    """What there is to learn from them, in one sentence."""
    cases: tuple[Case, ...]
    empty: str
    """Why there is none; "" where there are some."""


def cases(run: Opened) -> dict[str, Cases]:
    """Lists of the most instructive test questions, at most eight each, by name."""
    return {
        "same words, different meanings": _different_meanings(run),
        "different words, one meaning": _one_meaning(run),
        "confidently wrong": _confidently_wrong(run),
        "probe and sampling disagree": _disagreeing(run),
        "judge in doubt": _judge_in_doubt(run),
    }


def case_rows(found: Cases) -> list[dict[str, Any]]:
    """The rows of a table to choose a case from; the first column, to be hidden, is the id."""
    return [
        {ID: case.question_id, "question": cut(case.question, 110)} | case.values
        for case in found.cases
    ]


def _different_meanings(run: Opened) -> Cases:
    lesson = (
        "The answers share most of their words and yet mean different things: only a judge of "
        "meaning sees how unsure the model is."
    )
    semantic, lexical, threshold = _entropies(run)
    if threshold is None:
        reason = "all training questions have the same semantic entropy, so none counts as high"
        return Cases(lesson, (), reason)
    overlap = 1 - _column(run, "lexical_similarity")
    gap = np.maximum(lexical - semantic, 0).round(9)
    reason = f"no test question with both entropies has a semantic one above γ = {threshold:.2f}"
    high = semantic > threshold
    order = (gap, -np.nan_to_num(overlap), -semantic)
    shown = {**_both(semantic, lexical), "mean ROUGE-L of pairs": overlap}
    return _listed(run, lesson, high & np.isfinite(lexical), order, shown, reason)


def _one_meaning(run: Opened) -> Cases:
    lesson = (
        "Many wordings, few meanings: counting wordings would call the model unsure where it only "
        "says the same thing in several ways."
    )
    semantic, lexical, threshold = _entropies(run)
    gap = (lexical - semantic).round(9)
    low = semantic <= (np.inf if threshold is None else threshold)
    reason = (
        "in no test question of low semantic entropy do answers of different wording share a "
        "meaning, or lexical entropy was not computed"
    )
    shown = _both(semantic, lexical)
    return _listed(run, lesson, low & (gap > 0), (-gap, semantic), shown, reason)


def _confidently_wrong(run: Opened) -> Cases:
    lesson = (
        "The samples agree, or nearly so, and the most likely answer is wrong: entropy measures "
        "whether the model is consistent, not whether it is right."
    )
    semantic, _, threshold = _entropies(run)
    test, wrong = run.targets.rows("test"), run.targets.wrong
    low = semantic <= (np.inf if threshold is None else threshold)
    if not np.isfinite(wrong[test]).any():
        reason = "no most likely answer of a test question can be graded"
    elif not (wrong[test] == 1).any():
        reason = "every most likely answer of a test question that can be graded is right"
    else:
        reason = "wherever the model errs here, its samples disagree: their entropy is above γ"
    predicted = _predicted(run)
    answers = [greedy.text for greedy in run.answers.greedy]
    references = [q.final_answer or q.answer for q in run.answers.questions]
    shown: dict[str, Sequence[Any] | np.ndarray] = {
        "semantic entropy (nats)": semantic,
        "predicted (nats)": predicted,
        "most likely answer": answers,
        "reference": references,
    }
    return _listed(run, lesson, low & (wrong == 1), (semantic, predicted), shown, reason)


def _disagreeing(run: Opened) -> Cases:
    lesson = (
        "The probe reads another uncertainty from the hidden states than sampling measures: one of "
        "the two is wrong, or the samples were too few."
    )
    sampled, predicted = run.targets.semantic_entropy, _predicted(run)
    difference = predicted - sampled
    shown = {
        "sampled (nats)": sampled,
        "predicted (nats)": predicted,
        "predicted − sampled": difference,
    }
    reason = "there is no probe of semantic entropy (yet)"
    # Half of the list each way: the largest alone are often all of one sign.
    higher, lower = (
        _listed(run, lesson, wanted, (-abs(difference),), shown, reason, MOST_CASES // 2)
        for wanted in (difference > 0, difference < 0)
    )
    both = higher.cases + lower.cases
    return Cases(lesson, both, "" if both else reason)


def _judge_in_doubt(run: Opened) -> Cases:
    lesson = (
        "The judge contradicts itself (a means b and b means c, but a does not mean c) or does not "
        "know: here the meanings, and with them the entropy, are least certain."
    )
    if run.judgements is None:
        judge = run.meanings.judge
        return Cases(lesson, (), f"the judge ({judge}) gave no probabilities for all pairs")
    k = run.judgements.shape[1] - 1
    said = np.asarray(run.judgements[:, :k, :k])
    distinct = distinct_texts(run)  # type: ignore[arg-type]  # it reads the answers alone
    _, broken = broken_triples(LINKS[run.config.entailment](verdicts(said)), distinct)
    pairs = distinct[:, :, None] & distinct[:, None, :] & ~np.eye(k, dtype=bool)
    entailment = said[..., ENTAILMENT]
    unsure = (entailment > DOUBTFUL[0]) & (entailment < DOUBTFUL[1]) & pairs
    share = unsure.sum((1, 2)) / np.maximum(pairs.sum((1, 2)), 1)
    reason = (
        "the judge is sure of every pair of different answers (no probability of entailment lies "
        f"between {DOUBTFUL[0]} and {DOUBTFUL[1]}) and never contradicts itself"
    )
    # A relation that holds both ways breaks a triple in both orders.
    shown = {"broken triples": (broken // 2).astype(int), "share of pairs in doubt": share}
    return _listed(run, lesson, (broken > 0) | (share > 0), (-broken, -share), shown, reason)


def _listed(
    run: Opened,
    lesson: str,
    wanted: np.ndarray,
    order: tuple[np.ndarray, ...],
    shown: Mapping[str, Sequence[Any] | np.ndarray],
    empty: str,
    most: int = MOST_CASES,
) -> Cases:
    """The wanted test questions `[n]`, sorted by the columns of `order`, the first most important.

    Of `shown`, values that are no finite number are left out.
    """
    rows = np.flatnonzero(wanted & run.targets.rows("test"))
    if not len(rows):
        return Cases(lesson, (), empty)
    ranked = rows[np.lexsort([column[rows] for column in reversed(order)])][:most]
    found = []
    for i in ranked.tolist():
        question = run.answers.questions[i]
        values = {name: _shown(column[i]) for name, column in shown.items()}
        known = {name: value for name, value in values.items() if value is not None}
        found.append(Case(question.id, question.question, known))
    return Cases(lesson, tuple(found), "")


def _shown(value: Any) -> float | str | None:
    if isinstance(value, str):
        return cut(value, 60)
    if isinstance(value, np.integer):
        return int(value)
    return round(float(value), 3) if np.isfinite(value) else None


def _entropies(run: Opened) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Semantic and lexical entropy, `[n]` in nats, and γ."""
    return run.targets.semantic_entropy, _column(run, "lexical_entropy"), run.targets.threshold


def _both(semantic: np.ndarray, lexical: np.ndarray) -> dict[str, np.ndarray]:
    return {"semantic entropy (nats)": semantic, "lexical entropy (nats)": lexical}


def _column(run: Opened, estimator: str) -> np.ndarray:
    """An estimator's values, `[n]`; NaN where it was not computed."""
    unknown = np.full(len(run.answers.questions), np.nan)
    return run.uncertainty.get(estimator, unknown)


def _predicted(run: Opened) -> np.ndarray:
    return predictions(run).get(PROBE, np.full(len(run.answers.questions), np.nan))


# --- texts of tokens -----------------------------------------------------------------------------


def decoder(run: Opened) -> Decode:
    """What gives the text of each token of an answer, from the tokenizer of the run's model.

    No weights are loaded and nothing is fetched. Raises `UserError` when the tokenizer is not on
    this machine, or is not the one that the run used.
    """
    identity = _stored_identity(run.config.model)
    used = run.manifest.get("hashes", {}).get("tokenizer_hash")
    if used not in (None, identity.tokenizer_hash):
        raise UserError(
            f"the tokenizer of {identity.name!r} in {identity.folder} is another than this run "
            "used, so the texts of its tokens are not shown"
        )
    return partial(token_texts, _tokenizer(identity))


@lru_cache(maxsize=2)
def _tokenizer(identity: ModelIdentity) -> Any:
    return load_tokenizer(identity)


def _stored_identity(name: str) -> ModelIdentity:
    """Identify a model only where that fetches nothing: looking at a run is no reason to."""
    hub_name = KNOWN_AS.get(name, name)
    try:
        from helpers.hub import stored_model

        local = name == "lab" or Path(name).expanduser().exists()
        if not local and (hub_name.count("/") != 1 or stored_model(hub_name) is None):
            raise UserError(
                f"the texts of tokens need the tokenizer of {name!r}, which is not on this "
                f"machine; where it is a hub model, `hf download {hub_name}` brings it"
            )
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"the texts of tokens need {error.name}, which is not installed (this is the small "
            "install, for looking at results); `uv sync` installs everything"
        ) from error
    return identify(name)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, `[len(ids)]`; together they are the text of all.

    A character made of several tokens belongs to the last of them, and the others are "". Takes a
    number of decodings that grows with the tokens, and so a time that grows with their square.
    """
    if not ids:
        return []
    tokens = list(ids)
    whole = tokenizer.decode(tokens, skip_special_tokens=False)
    ends = [0]
    for count in range(1, len(tokens)):
        part = tokenizer.decode(tokens[:count], skip_special_tokens=False)
        end = ends[-1]
        while end < min(len(part), len(whole)) and part[end] == whole[end]:
            end += 1
        ends.append(end)
    return [whole[start:end] for start, end in pairwise([*ends, len(whole)])]
