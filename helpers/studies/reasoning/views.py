"""The study's scores in sentences, and what a reader must know of them, as HTML."""

from __future__ import annotations

from helpers.analyses.tables import change, sentences
from helpers.errors import UserError
from helpers.evaluation import Score
from helpers.html_parts import safe
from helpers.studies.reasoning.figures import splits_of, title_of
from helpers.studies.reasoning.panels import SPLIT_WORDS
from helpers.studies.reasoning.probes import COMBINED, CORRECTNESS, THINKING
from helpers.studies.reasoning.records import PREDICTORS, StudyAssessment
from helpers.studies.reasoning.run_files import StudyRun
from helpers.studies.reasoning.scores import WITHIN
from helpers.summary import cell


def assessed(run: StudyRun) -> StudyAssessment:
    """The scores of a run; raises `UserError`, saying what is still to come, where it has none."""
    if run.assessment is None:
        done = ", ".join(run.manifest["stages_done"]) or "nothing"
        raise UserError(
            f"{run.folder.name} has no scores yet (done: {done}): they appear here when its probes "
            "are trained and evaluated; where nothing is at work, press Run to go on"
        )
    return run.assessment


def headline(run: StudyRun) -> str:
    """Whether the state at the end of the thinking tells more than the thinking's entropy."""
    found = assessed(run)
    said = []
    for split in splits_of(found.correctness):
        row = found.correctness[split]
        gap = found.differences.get(split, {}).get(f"{CORRECTNESS} - {THINKING}")
        said.append(
            f"{_start(split)}, AUROC {_said(row[CORRECTNESS]['auroc'])} for the correctness probe, "
            f"{_said(row[THINKING]['auroc'])} for the thinking entropy{_verdict(gap)}."
        )
    texts = said or ["There is no score: no run of the test questions was kept."]
    lines = "".join(f'<p style="margin:0.3rem 0">{safe(text)}</p>' for text in texts)
    return f'<div style="font-weight:600">{lines}</div>'


def _said(score: Score) -> str:
    return f"undefined ({score.undefined})" if score.value is None else cell(score)


def _verdict(gap: Score | None) -> str:
    """What a difference says, as the end of a sentence; nothing where there is none."""
    if gap is None or gap.value is None:
        return ""
    words = "the interval holds 0: no evidence that the probe is better"
    if gap.low is None or gap.high is None:
        words = "these runs do not tell whether the probe is better"
    elif gap.low > 0:
        words = "the probe is better"
    elif gap.high < 0:
        words = "the probe is worse"
    return f"; difference {change(gap).replace('-', '−')}: {words}"


def score_sentences(found: StudyAssessment) -> str:
    """The best probe of each split, in words."""
    return _best(found, "auroc", "pairs of a correct and an incorrect run")


def within_sentences(found: StudyAssessment) -> str:
    """The same among the runs of one question."""
    return _best(found, WITHIN, "such pairs")


def _best(found: StudyAssessment, metric: str, pairs: str) -> str:
    said = []
    for split in splits_of(found.correctness):
        row = found.correctness[split]
        known = {name: row[name][metric] for name in PREDICTORS if name in row}
        best = max(known, key=lambda name: known[name].value or 0.0)
        score = known[best]
        if score.value is None:
            said.append(f"{_start(split)}, no probe has a score: {score.undefined}.")
            continue
        said.append(
            f"{_start(split)}, the best of the probes is the {title_of(best)}: right about "
            f"{100 * score.value:.0f} of 100 {'pairs' if said else pairs} "
            f"(AUROC {cell(score)}{p_words(score)}, n = {score.n:,} runs)."
        )
    return _one(said)


def difference_sentences(found: StudyAssessment) -> str:
    """Which of the differences are told from none."""
    said = []
    for split in splits_of(found.differences):
        told = list(filter(None, map(_told, *zip(*found.differences[split].items(), strict=True))))
        words = "; ".join(told) if told else "no difference is told from 0"
        said.append(f"{_start(split)}, {words}.")
    return _one(said)


def _told(pair: str, gap: Score) -> str:
    """A difference whose interval does not hold 0, as a part of a sentence; "" for another one."""
    if gap.value is None or gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return ""
    better, _, other = pair.partition(" - ")
    if gap.value < 0:
        better, other = other, better
    return f"the {title_of(better)} is above the {title_of(other)} by {abs(gap.value):.2f}"


def confidence_sentences(found: StudyAssessment) -> str:
    """What the combination, or else the correctness probe, says of correct and incorrect runs."""
    said = []
    for split in splits_of(found.confidence):
        rows = found.confidence[split]
        for name in (COMBINED, CORRECTNESS):
            right, wrong = (rows.get(name, {}).get(w, {}) for w in ("correct", "incorrect"))
            if right.get("mean") is not None and wrong.get("mean") is not None:
                said.append(
                    f"{_start(split)}, the {title_of(name)} gives correct runs a probability of "
                    f"{right['mean']:.2f} on average (n = {right['n']:,}), and incorrect ones "
                    f"{wrong['mean']:.2f} (n = {wrong['n']:,})."
                )
                break
    return _one(said)


def layer_sentences(found: StudyAssessment) -> str:
    """Which layers were chosen, and what they score."""
    said = []
    for name, curve in found.layer_curves.items():
        at = curve.layers.index(curve.chosen)
        scores = [
            f"{SPLIT_WORDS[split]} {_value(curve.scores[split][at])}"
            for split in splits_of(curve.scores)
        ]
        said.append(
            f"The {title_of(name)} reads layer {curve.chosen} of {curve.layers[-1]} (validation "
            f"{curve.validation[at]:.3f}): {', '.join(scores)}."
        )
    return _one(said)


def _value(score: Score) -> str:
    return f"undefined ({score.undefined})" if score.value is None else f"{score.value:.3f}"


def notes_view(run: StudyRun) -> str:
    """What a reader must know of these scores."""
    items = "".join(
        f'<li style="margin:0.3rem 0">{safe(note)}</li>' for note in assessed(run).notes
    )
    return f'<ul style="list-style:disc;margin:0.4rem 0;padding-left:1.4rem">{items}</ul>'


def p_words(score: Score) -> str:
    """A p-value as part of a sentence; nothing where there is none."""
    if score.p_value is None:
        return ""
    return ", p < 0.001" if score.p_value < 0.001 else f", p = {score.p_value:.3f}"


def _start(split: str) -> str:
    return _capital(SPLIT_WORDS[split])


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _one(said: list[str]) -> str:
    """Sentences as one paragraph; nothing where there are none."""
    return sentences([" ".join(said)]) if said else ""
