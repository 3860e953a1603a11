"""How much of a run's semantic entropy is the judge's, and how much the rule's.

Groups the same answers by other rules, and says how many questions change, whether the judge
contradicts itself (a ~ b and b ~ c, but not a ~ c), whether it agrees with the final answers, and
whether any of it moves the AUROC for a wrong most likely answer on the test questions.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from helpers.data.answers import answer_key, final_answer
from helpers.evaluation.metrics import Metric, auroc
from helpers.evaluation.scores import Score, paired_difference, score_metric
from helpers.meanings.clustering import (
    CONTRADICTION,
    ENTAILMENT,
    adjusted_rand,
    by_all_members,
    by_connection,
    by_founder,
    by_text,
    either_entails,
    from_rows,
    mutual_entailment,
    no_contradiction,
    verdicts,
)
from helpers.studies.semantic_entropy.run_files import StoredRun
from helpers.uncertainty.entropies import semantic_entropies

# --- agreement of the judge ----------------------------------------------------------------------


@dataclass(frozen=True)
class Intransitivity:
    """How often a relation between distinct texts a, b, c has a ~ b and b ~ c, but not a ~ c."""

    relation: str
    paths: int
    """Ordered triples with a ~ b and b ~ c."""
    triples: Score
    """Share of these without a ~ c."""
    questions: Score
    """Share of questions with at least one such triple."""


@dataclass(frozen=True)
class FinalAnswers:
    """The judge against equality of final answers, over pairs of distinct texts that state one."""

    pairs: int
    same: int
    """Pairs with the same final answer."""
    agreement: Score
    """Share of pairs on which both say the same."""
    precision: Score
    """Share with the same final answer among those that the judge takes for the same."""
    recall: Score
    """Share that the judge takes for the same among those with the same final answer."""


def mean_score(
    name: str,
    values: Sequence[float] | np.ndarray,
    of: Sequence[float] | np.ndarray | None = None,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> Score:
    """Σ values / Σ of over questions (`of` is 1 each by default), with its interval.

    Undefined where `of` adds up to 0.
    """
    top = np.asarray(values, dtype=float)
    bottom = np.ones(len(top)) if of is None else np.asarray(of, dtype=float)

    def ratio(weights: np.ndarray) -> np.ndarray:
        total = weights @ bottom
        return np.divide(weights @ top, total, out=np.full(len(total), np.nan), where=total > 0)

    reason = "" if bottom.sum() > 0 else "there is none to take a share of"
    metric = Metric(name, len(top), ratio, None, "greater", reason)
    return score_metric(metric, n_boot=n_boot, seed=seed)


def transitivity(
    distinct: np.ndarray, labels: np.ndarray, *, n_boot: int = 2000, seed: int = 0
) -> tuple[Intransitivity, ...]:
    """How often four relations are intransitive, from verdicts `[n, K, K]` on the samples.

    `distinct` `[n, K]` marks one answer of each text, as `distinct_texts` gives it.
    """
    relations = {
        "one direction": labels == ENTAILMENT,
        "mutual entailment": mutual_entailment(labels),
        "no contradiction": no_contradiction(labels),
        "either direction": either_entails(labels),
    }
    found = []
    for relation, links in relations.items():
        paths, broken = broken_triples(links, distinct)
        found.append(
            Intransitivity(
                relation,
                int(paths.sum()),
                mean_score("intransitive triples", broken, paths, n_boot=n_boot, seed=seed),
                mean_score("questions", broken > 0, n_boot=n_boot, seed=seed),
            )
        )
    return tuple(found)


def broken_triples(links: np.ndarray, distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ordered triples with a ~ b and b ~ c, `[n]`, and those of them without a ~ c, `[n]`.

    Over the `distinct` answers `[n, K]` of each question, a, b and c three different ones.
    """
    k = links.shape[1]
    pairs = distinct[:, :, None] & distinct[:, None, :] & ~np.eye(k, dtype=bool)
    linked = (links & pairs).astype(np.float32)
    through = np.matmul(linked, linked) * pairs
    return through.sum((1, 2)), (through * ~links).sum((1, 2))


def distinct_texts(run: StoredRun) -> np.ndarray:
    """Which samples are the first of their question with their text, `[n, K]`."""
    ids = from_rows([[s.text for s in row] for row in run.answers.samples])
    first = (ids[:, :, None] == ids[:, None, :]).argmax(-1)
    return (first == np.arange(ids.shape[1])) & (ids >= 0)


def against_final_answers(
    run: StoredRun, same: np.ndarray, *, n_boot: int = 2000, seed: int = 0
) -> FinalAnswers | None:
    """Compare which samples the judge takes for the same, `[n, K, K]`, with their final answers.

    None where no two different texts of a question state a final answer.
    """
    ids = final_answer_ids(run)
    counts = distinct_texts(run) & (ids >= 0)
    pairs = counts[:, :, None] & counts[:, None, :] & np.triu(np.ones(same.shape[1:], bool), 1)
    if not pairs.any():
        return None
    truth, said = (ids[:, :, None] == ids[:, None, :]) & pairs, same & pairs

    def share(name: str, cells: np.ndarray, of: np.ndarray) -> Score:
        return mean_score(name, cells.sum((1, 2)), of.sum((1, 2)), n_boot=n_boot, seed=seed)

    return FinalAnswers(
        pairs=int(pairs.sum()),
        same=int(truth.sum()),
        agreement=share("agreement", pairs & (said == truth), pairs),
        precision=share("precision", said & truth, said),
        recall=share("recall", said & truth, truth),
    )


def final_answer_ids(run: StoredRun) -> np.ndarray:
    """Which samples state the same final answer, `[n, K]`; -1 where none is stated."""
    key = lru_cache(maxsize=None)(answer_key)
    rows = []
    for samples, grades in zip(run.answers.samples, run.meanings.grades, strict=True):
        finals = (
            [final_answer(s.text) for s in samples]
            if grades is None
            else [g.final_answer for g in grades]
        )
        rows.append([None if f is None else key(f) for f in finals])
    ids = from_rows(rows)
    for row, keys in zip(ids, rows, strict=True):
        row[[i for i, known in enumerate(keys) if known is None]] = -1
    return ids


LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "strict": mutual_entailment,
    "no-contradiction": no_contradiction,
}
"""The rules that a run can be configured with."""
OWN = "own rule"
_NO_VERDICTS = "needs an NLI judge's verdict on every pair of answers"


@dataclass(frozen=True)
class RuleAudit:
    """A run's answers grouped by one rule."""

    name: str
    rule: str
    """What the rule does, in words."""
    changed: Score | None = None
    """Share of questions whose clusters are not those of the run's own rule."""
    adjusted_rand: Score | None = None
    """Mean adjusted Rand index with the run's own clusters; 1 where they are the same."""
    entropy: Score | None = None
    """Mean semantic entropy, nats."""
    meanings: Score | None = None
    """Mean number of clusters."""
    auroc: Score | None = None
    """Semantic entropy for a wrong most likely answer, test questions."""
    difference: Score | None = None
    """That AUROC less the own rule's, paired; None for the own rule."""
    missing: str = ""
    """Why the rule cannot be applied."""


@dataclass(frozen=True)
class ClusterAudit:
    """Everything that was found about how a run's answers were grouped."""

    run: str
    judge: str
    n: int
    rules: tuple[RuleAudit, ...]
    """The run's own rule first."""
    intransitivity: tuple[Intransitivity, ...]
    final_answers: FinalAnswers | None
    notes: tuple[str, ...]
    """What cannot be audited, and what to know of the rest."""

    def as_dict(self) -> dict[str, Any]:
        """The whole as plain JSON values."""
        return asdict(self)


def audit(
    run: StoredRun,
    *,
    with_question: np.ndarray | None = None,
    n_boot: int = 2000,
    n_perm: int = 2000,
    seed: int = 0,
) -> ClusterAudit:
    """Group the run's samples by every rule and compare with the run's own clusters.

    `with_question` holds judgements like `run.judgements`, made with the question in front of both
    answers. Intervals are of questions drawn again; p-values are of single comparisons. Raises
    ValueError when the judgements are not of the run's answers.
    """
    own = from_rows(run.meanings.clusters)
    for name, given in (("judgements", run.judgements), ("with_question", with_question)):
        expected = (len(own), own.shape[1] + 1, own.shape[1] + 1, 3)
        if given is not None and given.shape != expected:
            raise ValueError(f"{name}: shape {given.shape}, expected {expected}")
    boot: Any = {"n_boot": n_boot, "seed": seed}
    notes: list[str] = []
    broken: tuple[Intransitivity, ...] = ()
    against = None
    if run.judgements is None:
        notes.append(_without_verdicts(run))
        same = own[:, :, None] == own[:, None, :]
    else:
        labels = _samples(run.judgements)
        same = _own_links(run)(labels)
        broken = transitivity(distinct_texts(run), labels, **boot)
        if differ := int((by_founder(same) != own).any(1).sum()):
            notes.append(
                "the stored verdicts, grouped by the run's own rule, give other meanings than the "
                f"run's on {differ} of {len(own)} questions"
            )
    if _setting(run, "judge", "") != "final-answer":
        against = against_final_answers(run, same, **boot)
        if against is None:
            notes.append("no two different texts of a question state a final answer")
    return ClusterAudit(
        run=run.name,
        judge=run.meanings.judge,
        n=len(own),
        rules=_audit_rules(run, own, _group(run, own, with_question), boot, n_perm),
        intransitivity=broken,
        final_answers=against,
        notes=tuple(notes),
    )


def _samples(judgements: np.ndarray) -> np.ndarray:
    """Verdicts on the samples alone, `[n, K, K]`."""
    return verdicts(judgements[:, :-1, :-1])


def _setting(run: StoredRun, name: str, default: Any) -> Any:
    return run.manifest.get("config", {}).get(name, default)


def _own_links(run: StoredRun) -> Callable[[np.ndarray], np.ndarray]:
    return LINKS[_setting(run, "entailment", "strict")]


def _without_verdicts(run: StoredRun) -> str:
    if _setting(run, "judge", "") == "final-answer":
        return (
            "equality of final answers is the judge: it cannot be intransitive, has no directions, "
            "and needs no question; only exact texts are another rule"
        )
    return (
        f"the run keeps no verdicts of its judge ({run.meanings.judge}): other rules, and whether "
        "it is transitive, cannot be told from the clusters alone"
    )


def _group(
    run: StoredRun, own: np.ndarray, with_question: np.ndarray | None
) -> dict[str, tuple[str, np.ndarray | str]]:
    """Each rule's name to what it does and its clusters `[n, K]`, or why it has none."""
    found: dict[str, tuple[str, np.ndarray | str]] = {OWN: (run.meanings.judge, own)}
    links = _own_links(run)
    plans: tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray]], ...] = (
        ("strict", "each entails the founder, and is entailed by it",
         lambda x: by_founder(mutual_entailment(x))),
        ("no contradiction", "neither contradicts the other, and not both are neutral",
         lambda x: by_founder(no_contradiction(x))),
        ("either direction", "one of the two entails the other",
         lambda x: by_founder(either_entails(x))),
        ("member stealing", "the own rule, but a later founder takes members of earlier clusters",
         lambda x: by_founder(links(x), steal=True)),
        ("all members", "the own rule, with every member of the cluster and not its founder alone",
         lambda x: by_all_members(links(x))),
        ("single linkage", "the own rule, with any member of the cluster",
         lambda x: by_connection(links(x))),
    )  # fmt: skip
    for name, rule, group in plans:
        found[name] = (rule, _NO_VERDICTS)
        if run.judgements is not None:
            found[name] = (rule, group(_samples(run.judgements)))
    if run.judgements is not None and not run.judgements[..., CONTRADICTION].any():
        rule = found["no contradiction"][0]
        found["no contradiction"] = (rule, "the judge has no label for contradiction")
    found["question in front"] = (
        "the own rule, with the question in front of both answers",
        _why_no_question(run)
        if with_question is None
        else by_founder(links(_samples(with_question))),
    )
    texts = [[s.text for s in row] for row in run.answers.samples]
    found["exact text"] = ("the same text, white space and case aside", by_text(texts))
    return found


def _why_no_question(run: StoredRun) -> str:
    if run.judgements is None:
        return _NO_VERDICTS
    if _setting(run, "condition_on_question", False):
        return "the run's own verdicts are with the question in front"
    return "not asked of the judge yet: `sep audit` does"


def _audit_rules(
    run: StoredRun,
    own: np.ndarray,
    groups: dict[str, tuple[str, np.ndarray | str]],
    boot: Any,
    n_perm: int,
) -> tuple[RuleAudit, ...]:
    rows = run.targets.rows("test", run.targets.wrong)
    wrong, own_entropy = run.targets.wrong[rows], semantic_entropies(own)[rows]
    known: dict[bytes, RuleAudit] = {}
    found = []
    for name, (rule, ids) in groups.items():
        if isinstance(ids, str):
            found.append(RuleAudit(name, rule, missing=ids))
            continue
        # Many rules give the very same clusters: those are scored once.
        if (key := ids.tobytes()) not in known:
            entropy = semantic_entropies(ids)
            known[key] = RuleAudit(
                name, rule,
                changed=mean_score("changed", (ids != own).any(1), **boot),
                adjusted_rand=mean_score("adjusted Rand index", adjusted_rand(ids, own), **boot),
                entropy=mean_score("semantic entropy", entropy, **boot),
                meanings=mean_score("meanings", ids.max(1) + 1, **boot),
                auroc=score_metric(auroc(entropy[rows], wrong, "wrong"), n_perm=n_perm, **boot),
                difference=paired_difference(entropy[rows], own_entropy, wrong, **boot),
            )  # fmt: skip
        found.append(replace(known[key], name=name, rule=rule))
    return (replace(found[0], difference=None), *found[1:])


def describe_audit(found: ClusterAudit) -> str:
    """The audit as one text of at most 100 columns, for a terminal."""
    lines = [
        f"Run {found.run}, judge {found.judge}: {found.n} questions",
        "",
        f"  {'rule':<19}{'changed':>8}{'Rand':>7}{'nats':>7}{'meanings':>10}  "
        f"{'AUROC':<20}minus own",
    ]
    lines += [_rule_line(rule) for rule in found.rules]
    if found.intransitivity:
        lines += [
            "",
            "Is the judge transitive? Of triples a ~ b ~ c of distinct texts, without a ~ c",
        ]
    for row in found.intransitivity:
        triples, questions = _percent(row.triples), _percent(row.questions)
        lines.append(
            f"  {row.relation:<19}{triples} of {row.paths:,} triples; {questions} of questions"
        )
    if found.final_answers is not None:
        f = found.final_answers
        lines += [
            "",
            f"Against final answers: {f.pairs:,} pairs of distinct texts, {f.same:,} the same",
            f"  agreement {_percent(f.agreement)}",
            f'  precision of "same" {_percent(f.precision)}',
            f'  recall of "same" {_percent(f.recall)}',
        ]
    for note in found.notes:
        lines += textwrap.wrap(f"note: {note}", 98, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _rule_line(row: RuleAudit) -> str:
    if row.changed is None or row.auroc is None:
        return f"  {row.name:<19}{row.missing}"
    gap = row.difference
    extra = "" if gap is None or gap.value is None else f"{gap.value:+.3f}"
    if gap is not None and gap.low is not None and gap.high is not None:
        extra += f" [{gap.low:+.3f}, {gap.high:+.3f}]"
    return (
        f"  {row.name:<19}{_value(row.changed, 100):>7} %{_value(row.adjusted_rand):>7}"
        f"{_value(row.entropy):>7}{_value(row.meanings):>10}  {_interval(row.auroc):<20}{extra}"
    ).rstrip()


def _value(score: Score | None, scale: float = 1.0) -> str:
    return "–" if score is None or score.value is None else f"{scale * score.value:.2f}"


def _interval(score: Score, scale: float = 1.0, unit: str = "") -> str:
    """A value to two decimals, with its interval where that has a width."""
    if score.value is None:
        return "undefined"
    text = f"{scale * score.value:.2f}{unit}"
    if score.low is None or score.high is None or score.low == score.high:
        return text
    return f"{text} [{scale * score.low:.2f}, {scale * score.high:.2f}]"


def _percent(score: Score) -> str:
    return _interval(score, 100, " %")
