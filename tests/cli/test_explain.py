"""Cards and glossary: every number of a run has an entry, whose test exists; signs as they say."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.cli.explain import ELSEWHERE, GLOSSARY, describe_estimators, every_name, explain
from helpers.config import RunConfig
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.evaluation.metric_cards import METRIC_CARDS
from helpers.evaluation.metrics import CLASSIFIER_METRICS, REGRESSION_METRICS, Metric
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.probe import SCORE_NAMES, column_scores
from helpers.probes.training import Targets
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.assessment import INPUT_LAYER, LENGTH, baseline_scores
from helpers.studies.semantic_entropy.compare import compare
from helpers.studies.semantic_entropy.config import POSITIONS
from helpers.studies.semantic_entropy.what_if import as_stored, regroup
from helpers.studies.semantic_entropy.what_if_views import r_squared, temperature_runs
from helpers.uncertainty.entropies import Answers
from helpers.uncertainty.estimators import ESTIMATORS, score_question
from support.made_up_runs import made_up_run


def scores_in(values: Any) -> Iterator[dict[str, Any]]:
    """Every record with a name and a value that stands anywhere in a JSON value."""
    if isinstance(values, dict):
        if {"name", "value"} <= set(values):
            yield values
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from scores_in(value)


def test_every_name_of_a_run_s_results_can_be_looked_up(tiny_run: RunConfig) -> None:
    metrics = json.loads((tiny_run.run_folder / "metrics.json").read_text())
    names = {score["name"] for score in scores_in(metrics)}
    assert {"auroc", "ece", "spearman", "auroc difference", "shuffled labels"} <= names
    tables = ("semantic_entropy", "high_semantic_entropy", "wrong_answer")
    names |= {predictor for table in tables for predictor in metrics[table]}
    names |= set(metrics["auroc_difference_to_baseline"]) | set(metrics["chosen"])
    for chosen in metrics["chosen"].values():
        names |= {chosen["position"], chosen["validation_score_name"]}
    names |= {path.stem for path in tiny_run.run_folder.glob("probes/*.json")}
    unknown = sorted(name for name in names if not has_card(name))
    assert unknown == []


def has_card(name: str) -> bool:
    try:
        return bool(explain(name))
    except UserError:
        return False


def test_every_metric_and_position_there_is_can_be_looked_up() -> None:
    metrics = [*CLASSIFIER_METRICS, *REGRESSION_METRICS]
    names = [*metrics, *(f"{name} difference" for name in metrics), *SCORE_NAMES.values()]
    names += [*POSITIONS, *ESTIMATORS, LENGTH, INPUT_LAYER, "share answered", "error"]
    names += ["Adjusted Rand index", "expected calibration", "prediction interval"]
    names += ["observed share", "distance to the training questions", "training quantile"]
    assert [name for name in [*names, "paired permutation"] if not has_card(name)] == []


def test_every_number_of_a_regrouped_or_compared_run_can_be_looked_up() -> None:
    run = made_up_run(60, 5, error=0.3)
    probes = ("semantic_entropy", "high_semantic_entropy", "wrong_answer")
    run = replace(
        run,
        manifest={"config": make_config(k=5).results_fields()},
        predicted=dict.fromkeys(probes, run.targets.semantic_entropy),
    )
    found, row = regroup(run, as_stored(run)), temperature_runs([run])[0]
    groupings = [getattr(g, f.name) for g in (found.now, found.stored) for f in fields(g)]
    scores = [*groupings, *found.differences.values(), found.spearman, found.budget[-1].auroc]
    scores += [row.accuracy, row.entropy, row.wrong_answer]
    names = {score.name for score in scores} | {"changed", "meanings", "high"}
    evaluated = replace(run, manifest=run.manifest | {"stages_done": ["evaluation"]})
    for metric in compare(evaluated, evaluated, 100, 100).metrics:
        names |= {metric.title, metric.metric, metric.first.name, metric.difference.name}
    names.add(r_squared(np.ones(3), np.arange(3), 0.0).name)
    assert {"accuracy", "mean semantic entropy", "AUROC difference", "R²"} <= names
    assert sorted(name for name in names if not has_card(name)) == []


def test_the_direction_of_a_metric_s_card_is_the_one_its_p_value_uses() -> None:
    scores, labels = np.array([0.1, 0.4, 0.3, 0.9]), np.array([0, 1, 0, 1])
    for name, bind in (CLASSIFIER_METRICS | REGRESSION_METRICS).items():
        metric: Metric = bind(scores, labels)
        known = [c for c in METRIC_CARDS.values() if name in (c.name, *c.also)]
        expected = {"greater": "higher is better", "less": "lower is better"}[metric.better]
        assert [card.direction for card in known] == [expected], name
        assert known[0].p_value.startswith("none") == (metric.permuted is None), name


def test_every_card_names_a_test_that_exists(root: Path) -> None:
    named = [*ESTIMATORS.values(), *METRIC_CARDS.values(), *(t for t in GLOSSARY if t.test)]
    defined: dict[str, set[str]] = {}
    for card in named:
        file, _, function = card.test.partition("::")
        if file not in defined:
            tree = ast.parse((root / file).read_text(encoding="utf-8"))
            defined[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function.startswith("test_"), card.name
        assert function in defined[file], (card.name, card.test)


def test_a_name_is_found_however_it_is_written_and_all_its_cards_are_shown() -> None:
    assert explain("E-AURC") == explain("e_aurc") == explain(" e aurc ")
    assert explain("R²") == explain("r2")
    both = explain("semantic_entropy")
    assert "−Σ_c (n_c/N) ln(n_c/N)" in both
    assert "ridge regression" in both
    assert "tests/uncertainty/test_entropies.py::" in both
    assert explain("brier difference") == explain("paired difference")
    with pytest.raises(UserError, match=r"'aurok' is no .*did you mean auroc"):
        explain("aurok")
    with pytest.raises(UserError, match="e_aurc"):
        explain("nothing like it at all")


def test_every_text_fits_a_terminal_of_100_columns() -> None:
    for text in (describe_estimators(), *map(explain, every_name())):
        assert max(map(len, text.splitlines())) <= 100


def test_estimators_are_listed_by_what_they_require_and_what_is_not_there_is_said() -> None:
    text = describe_estimators()
    starts = [line.split(" · ")[0] for line in text.splitlines() if " · " in line]
    assert sorted(starts) == sorted(ESTIMATORS)
    for part in text.split("\nFrom ")[1:]:
        heading, _, body = part.partition("\n")
        listed = [line.split(" · ")[0] for line in body.splitlines() if " · " in line]
        wanted = set(heading.replace(" and ", ", ").split(", "))
        assert [set(ESTIMATORS[name].requires) for name in listed] == [wanted] * len(listed) != []
    shown = text.split("Offered elsewhere, not here")[1]
    assert all(offered in shown for offered in ELSEWHERE)
    some = describe_estimators(["Degree", "perplexity"])
    assert ["eigv · " in some, "degree · " in some, "perplexity · " in some] == [False, True, True]
    with pytest.raises(UserError, match="did you mean degree"):
        describe_estimators(["degre"])


def test_every_estimator_is_higher_for_the_more_uncertain_answers() -> None:
    def answers(texts: tuple[str, ...], clusters: tuple[int, ...], doubt: float) -> Answers:
        n = len(texts)
        same = np.equal.outer(clusters, clusters)[..., None]
        with_greedy = np.equal(clusters, 0)[:, None, None]
        yes, no = np.array([0.0, 0.05, 0.95]), np.array([0.9, 0.05, 0.05])
        states = np.eye(n)[list(clusters)] + 0.01 * np.eye(n)
        return Answers(
            texts,
            clusters,
            sum_logprobs=(-6 * doubt,) * n,
            mean_logprobs=(-doubt,) * n,
            token_entropies=(doubt,) * n,
            greedy_text=texts[0],
            greedy_sum_logprob=-6 * doubt,
            greedy_mean_logprob=-doubt,
            judgements=np.where(same, yes, no),
            greedy_judgements=np.where(with_greedy, yes, no) * np.ones((n, 2, 1)),
            gram=states @ states.T,
            p_true_zero_shot=1 - doubt,
            p_true_few_shot=1 - doubt,
        )

    sure = score_question(answers(("it is 4",) * 4, (0, 0, 0, 0), 0.1))
    unsure = score_question(answers(("it is 4", "so 5", "maybe 6", "7"), (0, 1, 2, 3), 0.9))
    assert len(sure) == len(ESTIMATORS)
    assert [name for name, value in sure.items() if not value < unsure[name]] == []


def test_selective_metrics_by_hand() -> None:
    scores, wrong = np.array([1.0, 2, 3, 4]), np.array([0, 1, 0, 1])
    # Risks 0, 1/2, 1/3, 2/4; in the perfect order 0, 0, 1/3, 2/4.
    area, best = (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, (0 + 0 + 1 / 3 + 1 / 2) / 4
    assert CLASSIFIER_METRICS["aurc"](scores, wrong).value() == pytest.approx(area)
    assert CLASSIFIER_METRICS["e_aurc"](scores, wrong).value() == pytest.approx(area - best)
    tied = CLASSIFIER_METRICS["aurc"](np.zeros(4), wrong).value()
    assert tied == pytest.approx(0.5)  # a random order expects the error rate
    # ⌈0.8 · 6⌉ = 5 of six are answered, four of them right.
    scores, wrong = np.arange(6), np.array([0, 0, 1, 0, 0, 1])
    assert CLASSIFIER_METRICS["accuracy_at_80"](scores, wrong).value() == pytest.approx(4 / 5)


def test_averages_and_shares_by_hand() -> None:
    from helpers.meanings.clustering import adjusted_rand
    from helpers.studies.semantic_entropy.analyses.abstention import clopper_pearson

    labels = np.array([0, 1, 1])
    scorings = np.array([[0.0, 1, 2], [2.0, 1, 2]]).T  # areas 1, and (0 + ½)/2
    assert CLASSIFIER_METRICS["mean_auroc"](scorings, labels).value() == pytest.approx(0.625)
    # No error in 59: the upper end u solves (1 − u)^59 = 0.025.
    assert clopper_pearson(0, 59) == pytest.approx((0.0, 1 - 0.025 ** (1 / 59)))
    # Six pairs: 2 together in the first, 1 in the second, 1 in both; expected 2·1/6.
    first, second = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2]])
    assert adjusted_rand(first, second)[0] == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))
    assert adjusted_rand(first, first)[0] == 1


def test_what_a_sweep_chooses_by_is_the_textbook_value() -> None:
    raw, target, reference = np.array([[1.0], [0.0], [2.0]]), np.array([1.0, 1.0, 3.0]), 2.0
    expected = 1 - (0 + 1 + 1) / (1 + 1 + 1)
    assert column_scores(raw, target, reference, "ridge")[0] == pytest.approx(expected)
    raw, target, reference = np.array([[0.0], [math.log(3)]]), np.array([0.25, 1.0]), 0.5
    own = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # the least that is possible
    loss = math.log(2) - math.log(0.75) - own
    expected = 1 - loss / (2 * math.log(2) - own)
    assert column_scores(raw, target, reference, "soft-logistic")[0] == pytest.approx(expected)


def test_baselines_are_what_their_cards_say(tiny_run: RunConfig) -> None:
    n = 30
    splits = np.array(["train", "validation", "test"] * 10)
    lengths = np.arange(n) + 5
    high = (lengths < 20) * 1.0  # short questions are the uncertain ones
    questions = tuple(
        Question(str(i), "x" * size, "1", "1", split, "made up")
        for i, (size, split) in enumerate(zip(lengths, splits.tolist(), strict=True))
    )
    rng = np.random.default_rng(0)
    states = rng.normal(size=(n, 2, 8)).astype(np.float32)
    states[:, 0, 0] = 100 * high
    states[:, 1] = np.nan  # only layer 0 may be read
    found = baseline_scores(
        SampledAnswers(questions, (), (), (), 0),
        {name: np.full(n, float(i)) for i, name in enumerate(ESTIMATORS)},
        HiddenStates({"tbg": states}, states[:, 0], {}),
        Targets(high, 0.5, high, high, splits),
    )
    assert found[LENGTH].tolist() == (-lengths).tolist()
    assert found[INPUT_LAYER][high == 1].min() > found[INPUT_LAYER][high == 0].max()
    blind = {n for n, c in ESTIMATORS.items() if not {"meanings", "judgements"} & set(c.requires)}
    assert set(found) - {LENGTH, INPUT_LAYER} == blind

    folder = tiny_run.run_folder
    rows = pq.read_table(folder / "questions_scored.parquet").to_pydict()
    entropy, of = np.array(rows["semantic_entropy"]), np.array(rows["split"])
    missed = entropy[of == "test"] - entropy[of == "train"].mean()
    stored = json.loads((folder / "metrics.json").read_text())["semantic_entropy"]["mean of train"]
    assert stored["rmse"]["value"] == pytest.approx(math.sqrt((missed**2).mean()))
