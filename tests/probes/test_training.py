"""A run's probes: every target learnt, choices blind to test, hybrids, soft labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.config import RunConfig
from helpers.data.answers import Grade
from helpers.data.questions import Question
from helpers.errors import UserError
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers
from helpers.hidden_states.stored import HiddenStates
from helpers.probes.combined import HybridProbe, fit_hybrid, places, predict_at, report_hybrid
from helpers.probes.probe import (
    LinearProbe,
    UndefinedTarget,
    column_scores,
    display_map,
    fit_probe,
    predict,
    sweep,
)
from helpers.probes.solvers import column_auroc, decompose, logistic_path
from helpers.probes.store import load_probe, save_probe
from helpers.probes.training import Targets, TrainedProbes, calibrated, display_maps, train_probes
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.assessment import probe_predictions
from helpers.studies.semantic_entropy.labels import Meanings, make_targets

N, LAYERS, WIDTH = 240, 3, 12
NEW = {
    "high_semantic_entropy_mlp",
    "wrong_answer_mlp",
    "semantic_entropy_soft",
    "wrong_answer_soft",
}


def planted(seed: int = 0) -> tuple[HiddenStates, Targets]:
    """Entropy stands in one feature at tbg, wrongness in another at think_end."""
    rng = np.random.default_rng(seed)
    hidden = {
        name: rng.normal(size=(N, LAYERS, WIDTH)).astype(np.float32)
        for name in ("tbg", "answer_last", "think_end")
    }
    share = 1 / (1 + np.exp(-2 * hidden["tbg"][:, 1, 3] - 0.5 * rng.normal(size=N)))
    stubborn = hidden["think_end"][:, 2, 5] + 0.3 * rng.normal(size=N) > 1
    wrong_share = np.clip(np.where(stubborn, 1.0, 0.9 * share), 0, 1)
    splits = np.repeat(["train", "validation", "test"], [N // 2, N // 4, N // 4])
    gamma = 0.5 * np.log(10)
    return (
        HiddenStates(hidden, np.zeros((N, WIDTH)), {}),
        Targets(
            semantic_entropy=share * np.log(10),
            threshold=float(gamma),
            high=(share * np.log(10) > gamma) * 1.0,
            wrong=(wrong_share > 0.6) * 1.0,
            splits=splits,
            entropy_share=share,
            wrong_share=wrong_share,
        ),
    )


def train(states: HiddenStates, targets: Targets, folder: Path) -> TrainedProbes:
    store = Store(folder)
    try:
        return train_probes(config(), states, targets, store, silent_progress())
    finally:
        store.close()


def config() -> RunConfig:
    return make_config("lab", threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> TrainedProbes:
    return train(*planted(), tmp_path_factory.mktemp("store"))


def test_every_target_has_its_probes_at_the_planted_place(trained: TrainedProbes) -> None:
    assert trained.undefined == {}
    known = {"semantic_entropy", "high_semantic_entropy", "wrong_answer", "semantic_entropy_mlp"}
    assert known | NEW <= set(trained.probes)
    for name in ("semantic_entropy", "high_semantic_entropy", "semantic_entropy_soft"):
        assert places(trained.probes[name]) == (("tbg", 1),)
    for stem in ("semantic_entropy", "high_semantic_entropy", "wrong_answer"):
        for name in (stem, f"{stem}_prompt"):
            if name in trained.probes:
                assert places(trained.probes[name.replace(stem, f"{stem}_mlp")]) == places(
                    trained.probes[name]
                )
    # what reads an answer has a twin that reads the prompt alone
    for name, probe in trained.probes.items():
        if probe.position != "tbg":
            assert trained.probes[f"{name}_prompt"].position == "tbg"
    assert trained.probes["high_semantic_entropy_mlp"].threshold is not None


def test_predictions_rank_the_test_questions(trained: TrainedProbes) -> None:
    states, targets = planted()
    test = targets.rows("test")
    for name, target in (
        ("high_semantic_entropy_mlp", targets.high),
        ("semantic_entropy_soft", targets.high),
        ("wrong_answer_mlp", targets.wrong),
        ("wrong_answer_soft", targets.wrong),
        ("wrong_answer_hybrid", targets.wrong),
    ):
        probe = (trained.probes | trained.hybrids)[name]
        predicted = predict_at(probe, states.hidden)[test]
        assert ((predicted >= 0) & (predicted <= 1)).all()
        assert column_auroc(predicted[:, None], target[test])[0] > 0.75, name


def test_test_questions_choose_and_teach_nothing(trained: TrainedProbes, tmp_path: Path) -> None:
    states, targets = planted()
    rng, test = np.random.default_rng(9), targets.rows("test")
    hidden = {
        name: np.where(test[:, None, None], rng.normal(size=values.shape) * 50, values)
        for name, values in states.hidden.items()
    }
    spoilt = replace(
        targets,
        **{
            name: np.where(test, rng.permutation(getattr(targets, name)), getattr(targets, name))
            for name in ("semantic_entropy", "high", "wrong", "entropy_share", "wrong_share")
        },
    )
    other = train(HiddenStates(hidden, states.token_embedding, {}), spoilt, tmp_path)
    assert set(other.probes) == set(trained.probes)
    for name, probe in (trained.probes | trained.hybrids).items():
        again = (other.probes | other.hybrids)[name]
        np.testing.assert_array_equal(
            predict_at(again, states.hidden), predict_at(probe, states.hidden), name
        )


def test_every_probe_comes_back_from_disk(trained: TrainedProbes, tmp_path: Path) -> None:
    states, _ = planted()
    for name, probe in (trained.probes | trained.hybrids).items():
        path = save_probe(probe, tmp_path, card={"model_hash": "m"})
        loaded = load_probe(path, model_hash="m").probe
        assert (loaded.name, loaded.kind, loaded.threshold) == (name, probe.kind, probe.threshold)
        assert loaded.training == probe.training
        assert places(loaded) == places(probe)
        np.testing.assert_array_equal(
            predict_at(loaded, states.hidden), predict_at(probe, states.hidden)
        )


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("mixer", "type"), "mlp", "field 'kind'"),
        (("correctness_probe", "kind"), "hybrid", "field 'kind'"),
        (("entropy_probe",), None, "field 'entropy_probe'"),
        (("entropy_probe", "layer"), 1.5, "'layer'"),
        (("kind",), "ridge", "field 'kind'"),
    ],
)
def test_a_damaged_hybrid_card_is_named(
    trained: TrainedProbes, tmp_path: Path, keys: tuple[str, ...], value: Any, message: str
) -> None:
    path = save_probe(trained.hybrids["wrong_answer_hybrid"], tmp_path, card={})
    document = json.loads(path.read_text())
    inner = document["probe"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        load_probe(path)


def test_a_mixer_of_another_width_is_refused(trained: TrainedProbes, tmp_path: Path) -> None:
    hybrid = trained.hybrids["wrong_answer_hybrid"]
    forged = replace(hybrid, mixer=hybrid.correctness_probe)
    with pytest.raises(UserError, match=f"weighs {WIDTH} probes, 2 expected"):
        load_probe(save_probe(forged, tmp_path, card={}))


def test_a_stored_perceptron_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, targets = planted()
    first = train(states, targets, tmp_path)
    monkeypatch.setattr("helpers.probes.training.fit_mlp", None)
    again = train(states, targets, tmp_path)
    for name in ("semantic_entropy_mlp", "high_semantic_entropy_mlp", "wrong_answer_mlp"):
        assert again.probes[name].training == first.probes[name].training
        assert again.probes[name].name == name
    flipped = replace(targets, wrong=1 - targets.wrong)
    with pytest.raises(TypeError):  # another target is another perceptron
        train(states, flipped, tmp_path)


def test_probes_of_entropy_predict_nats_and_shares_stay_with_the_probes(
    trained: TrainedProbes,
) -> None:
    states, _ = planted()
    soft = trained.probes["semantic_entropy_soft"]
    twins = replace(trained, probes={**trained.probes, "semantic_entropy_soft_prompt": soft})
    found, share = probe_predictions(twins, states, 10), predict_at(soft, states.hidden)
    assert set(found) == {*twins.probes, *twins.hybrids}
    for name in ("semantic_entropy_soft", "semantic_entropy_soft_prompt"):
        np.testing.assert_allclose(found[name], share * np.log(10), rtol=1e-12)
    for name in ("semantic_entropy", "wrong_answer_soft", "wrong_answer_hybrid"):
        own = (trained.probes | trained.hybrids)[name]
        np.testing.assert_array_equal(found[name], predict_at(own, states.hidden))


def test_one_class_of_correctness_leaves_the_others_and_says_why(tmp_path: Path) -> None:
    states, targets = planted()
    right = replace(targets, wrong=np.zeros(N))
    found = train(states, right, tmp_path / "a")
    for name in ("wrong_answer", "wrong_answer_mlp", "wrong_answer_hybrid"):
        assert "correctness has one class: 240 right, 0 wrong" in found.undefined[name]
        assert name not in found.probes | found.hybrids
    # the share of wrong samples still varies
    assert {"wrong_answer_soft", "semantic_entropy_soft"} <= set(found.probes)
    unknown = replace(targets, wrong=np.full(N, np.nan), wrong_share=np.full(N, np.nan))
    found = train(states, unknown, tmp_path / "b")
    assert "not known of any question" in found.undefined["wrong_answer_soft"]


def test_display_maps_score_the_test_rows_of_probes_already_chosen(trained: TrainedProbes) -> None:
    states, targets = planted()
    maps = display_maps(states, targets, trained)
    assert set(maps) == set(trained.sweeps)
    test = targets.rows("test")
    for name, target in (("wrong_answer", targets.wrong), ("high_semantic_entropy", targets.high)):
        chosen, shown = trained.sweeps[name], maps[name]
        assert shown.score is not None
        assert shown.score.shape == (3, LAYERS)
        at = shown.positions.index(chosen.best_position), chosen.best_layer
        predicted = predict_at(trained.probes[name], states.hidden)[test]
        expected = column_auroc(predicted[:, None], target[test])[0]
        assert shown.score[at] == pytest.approx(expected)
        assert shown.n == test.sum()
    one_class = display_map(
        states.hidden,
        np.where(test, 0.0, targets.high),
        trained.sweeps["high_semantic_entropy"],
        train=targets.rows("train"),
        test=test,
    )
    assert one_class.score is None
    assert "0 of 60" in one_class.undefined
    with pytest.raises(ValueError, match="share rows"):
        display_map(
            states.hidden, targets.high, trained.sweeps["wrong_answer"], train=test, test=test
        )


def test_think_end_that_stands_in_everywhere_is_the_answer_once_more(tmp_path: Path) -> None:
    states, targets = planted()
    copies = {**states.hidden, "think_end": states.hidden["answer_last"].copy()}
    found = train(HiddenStates(copies, states.token_embedding, {}), targets, tmp_path)
    for chosen in found.sweeps.values():
        rows = [chosen.positions.index(p) for p in ("answer_last", "think_end")]
        np.testing.assert_array_equal(*chosen.validation_score[rows])
        assert chosen.best_position != "think_end"  # the first position among equals


# --- soft labels ----------------------------------------------------------------------------------


def test_soft_labels_equal_weighted_rows_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 10)) * rng.lognormal(size=10) + 3
    share = 1 / (1 + np.exp(-features[:, 0] + rng.normal(size=80)))
    probe = fit_probe(
        {"tbg": features[:, None]}, share, kind="soft-logistic", position="tbg", layer=0,
        regularisation=2.0, rows=np.ones(80, dtype=bool), name="soft",
    )  # fmt: skip
    scaled = StandardScaler().fit_transform(features)
    naive = LogisticRegression(C=1 / 2.0, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(
        np.concatenate([scaled, scaled]),
        np.repeat([1, 0], 80),
        sample_weight=np.concatenate([share, 1 - share]),
    )
    np.testing.assert_allclose(probe.weight, naive.coef_[0], atol=1e-5)
    assert probe.bias == pytest.approx(naive.intercept_[0], abs=1e-5)
    assert probe.training["target_mean"] == pytest.approx(share.mean())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 100.0]))
def test_a_soft_optimum_balances_its_residuals(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    basis = decompose(rng.normal(size=(30, 6)))
    share = rng.choice([0.0, 0.3, 1.0, rng.random()], size=30)
    if np.ptp(share) == 0:
        return
    solved = logistic_path(basis, share, [strength])
    weights = solved.weights[:, 0]
    residual = share - 1 / (1 + np.exp(-(basis.scores @ weights + solved.bias[0])))
    np.testing.assert_allclose(basis.scores.T @ residual, strength * weights, atol=1e-4)
    assert residual.sum() == pytest.approx(0, abs=1e-5)


def test_d_squared_is_one_for_the_target_and_nought_for_the_training_mean() -> None:
    share = np.array([0.0, 0.2, 0.7, 0.7, 1.0])
    log_odds = np.log((share + 1e-12) / (1 - share + 1e-12))
    mean = np.full(5, np.log(0.4 / 0.6))
    found = column_scores(np.column_stack([log_odds, mean, -log_odds]), share, 0.4, "soft-logistic")
    np.testing.assert_allclose(found[:2], [1.0, 0.0], atol=1e-9)
    assert found[2] < 0


def test_a_soft_target_outside_nought_and_one_is_refused() -> None:
    rng = np.random.default_rng(0)
    half = np.arange(20) < 10
    with pytest.raises(ValueError, match="between 0 and 1"):
        sweep(
            {"tbg": rng.normal(size=(20, 1, 3))}, rng.random(20) + 0.5,
            kind="soft-logistic", train=half, validation=~half,
        )  # fmt: skip
    with pytest.raises(UndefinedTarget, match=r"the same value \(0.4\)"):
        sweep(
            {"tbg": rng.normal(size=(20, 1, 3))}, np.full(20, 0.4),
            kind="soft-logistic", train=half, validation=~half,
        )  # fmt: skip


def test_targets_hold_entropy_as_a_share_and_the_share_of_wrong_samples() -> None:
    def sample(owner: str, number: int) -> Sample:
        return Sample(owner, number, "x", (1,), (-1.0,), (0.5,), "stop")

    def grades(*statuses: str) -> tuple[Grade, ...]:
        return tuple(Grade("1", status) for status in statuses)  # type: ignore[arg-type]

    questions = tuple(Question(i, i, "", None, "train", "s") for i in "abc")
    answers = SampledAnswers(
        questions,
        tuple(tuple(sample(q.id, k) for k in range(4)) for q in questions),
        tuple(sample(q.id, GREEDY) for q in questions),
        (),
        0,
    )
    rows = (
        grades("wrong", "correct", "correct", "correct"),
        grades("wrong", "unanswered", "unanswered", "wrong"),
        None,
    )
    meanings = Meanings(((0, 0, 0, 0),) * 3, rows, (rows[0][0], None, None), "judge")
    targets = make_targets(
        answers, meanings, {"semantic_entropy": np.array([0.0, np.log(4), np.log(2)])}
    )
    np.testing.assert_allclose(targets.entropy_share, [0, 1, 0.5])  # type: ignore[arg-type]
    np.testing.assert_array_equal(targets.wrong_share, [0.25, 1.0, np.nan])  # type: ignore[arg-type]
    np.testing.assert_array_equal(targets.wrong, [1.0, np.nan, np.nan])


# --- the hybrid -----------------------------------------------------------------------------------


def two_probes(hidden: dict[str, np.ndarray], targets: Targets) -> tuple[LinearProbe, LinearProbe]:
    common: Any = {"kind": "logistic", "regularisation": 10.0, "rows": targets.rows("train")}
    return (
        fit_probe(hidden, targets.high, position="tbg", layer=1, name="se", **common),
        fit_probe(hidden, targets.wrong, position="think_end", layer=2, name="wrong", **common),
    )


def hybrid_of(targets: Targets) -> HybridProbe:
    states, original = planted()
    parts = two_probes(states.hidden, original)
    rows = targets.rows("validation", targets.wrong)
    return fit_hybrid(states.hidden, targets.wrong, *parts, rows=rows, name="hybrid")


def test_a_hybrid_is_fitted_to_validation_rows_alone() -> None:
    _, targets = planted()
    validation = targets.rows("validation")
    elsewhere = replace(targets, wrong=np.where(validation, targets.wrong, 1 - targets.wrong))
    here = replace(targets, wrong=np.where(validation, 1 - targets.wrong, targets.wrong))
    usual = hybrid_of(targets).mixer
    np.testing.assert_array_equal(usual.weight, hybrid_of(elsewhere).mixer.weight)
    np.testing.assert_allclose(usual.weight, -hybrid_of(here).mixer.weight, atol=1e-6)
    assert usual.training["n_train"] == validation.sum()


def test_a_hybrid_is_the_logistic_model_of_two_log_odds() -> None:
    from scipy.special import logit
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    states, targets = planted()
    parts = two_probes(states.hidden, targets)
    rows = targets.rows("validation")
    inputs = np.column_stack(
        [logit(predict(p, states.hidden[p.position][:, p.layer])) for p in parts]
    )
    scaler = StandardScaler().fit(inputs[rows])
    naive = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(
        scaler.transform(inputs[rows]), targets.wrong[rows]
    )
    expected = naive.predict_proba(scaler.transform(inputs))[:, 1]
    hybrid = hybrid_of(targets)
    np.testing.assert_allclose(predict_at(hybrid, states.hidden), expected, atol=1e-5)
    np.testing.assert_allclose(hybrid.mixer.weight, naive.coef_[0], atol=1e-5)  # entropy first
    with pytest.raises(UserError, match="think_end"):
        predict_at(hybrid_of(targets), {"tbg": states.hidden["tbg"]})


def test_a_hybrid_finds_the_confidently_wrong_that_entropy_cannot_see() -> None:
    rng = np.random.default_rng(0)
    n = 400
    entropy = np.where(rng.random(n) < 0.5, 0.0, rng.random(n))
    stubborn = (entropy == 0) & (rng.random(n) < 0.4)
    wrong = (stubborn | (entropy > 0.5)).astype(float)
    correctness = 2.0 * stubborn + rng.normal(size=n)
    report = report_hybrid(
        entropy + 0.5 * correctness, entropy, correctness, wrong, entropy,
        n_boot=300, n_perm=300,
    )  # fmt: skip
    assert report.n_confident == (entropy == 0).sum()
    assert report.n_confidently_wrong == stubborn.sum()
    assert report.n_wrong == wrong.sum()
    assert report.confident_scores["entropy"].value == 0.5
    confident = report.confident_differences["entropy"]
    assert confident.low is not None
    assert confident.low > 0.2
    json.dumps(report.as_dict(), allow_nan=False)


def test_confident_questions_of_one_class_are_undefined_in_words() -> None:
    rng = np.random.default_rng(0)
    values, entropy = rng.random((3, 40)), rng.random(40) + 0.1
    report = report_hybrid(*values, (entropy > 0.6) * 1.0, entropy, n_boot=100, n_perm=100)
    assert report.n_confident == 0
    assert report.confident_scores["hybrid"].value is None
    assert "fewer than 2 rows" in report.confident_scores["hybrid"].undefined
    json.dumps(report.as_dict(), allow_nan=False)


def test_calibration_keeps_the_ranking_and_fits_the_validation_questions() -> None:
    rng = np.random.default_rng(0)
    n, width = 300, 8
    label = (rng.random(n) < 0.4) * 1.0
    states = rng.normal(size=(n, 1, width)) + label[:, None, None] * 0.8
    splits = np.repeat(["train", "validation", "test"], n // 3)
    targets = Targets(label, 0.5, label, label, splits)
    hidden = {"tbg": states}
    train, validation = targets.rows("train"), targets.rows("validation")
    options = {"kind": "logistic", "position": "tbg", "layer": 0, "name": "p"}
    shrunk = fit_probe(hidden, label, regularisation=1e5, rows=train, **options)
    found = calibrated(shrunk, hidden, label, targets)
    before, after = (predict(probe, states[:, 0]) for probe in (shrunk, found))
    assert np.ptp(before) < 0.1 < 0.5 < np.ptp(after)
    np.testing.assert_array_equal(np.argsort(before), np.argsort(after))

    def loss(p: np.ndarray, rows: np.ndarray) -> float:
        return float(-np.log(np.where(label[rows] == 1, p[rows], 1 - p[rows])).mean())

    assert loss(after, validation) < loss(before, validation) - 0.1
    assert loss(after, targets.rows("test")) < loss(before, targets.rows("test")) - 0.1
    flipped = np.where(splits == "test", 1 - label, label)
    again = calibrated(shrunk, hidden, flipped, targets)
    assert (again.weight == found.weight).all()
    reversed_ = np.where(splits == "validation", 1 - label, label)
    assert calibrated(shrunk, hidden, reversed_, targets) is shrunk
