"""Probes: the fast solvers against scikit-learn, choices on planted signals, files and damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.errors import UserError
from helpers.probes.mlp import fit_mlp
from helpers.probes.probe import (
    LinearProbe,
    UndefinedTarget,
    fit_probe,
    margin,
    predict,
    sweep,
    training_quantile,
)
from helpers.probes.solvers import column_auroc, column_spearman, decompose, solve_logistic
from helpers.probes.store import load_probe, save_probe
from helpers.probes.tripwires import memorisation_check, shuffled_label_scores


def correlated_features(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Features with a decaying spectrum, unequal scales and large means, like hidden states."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(width, width)))[0] * rng.lognormal(size=width)
    values = rng.normal(size=(rows, width)) / np.sqrt(1 + np.arange(width))
    return (values @ mixing + 5 * rng.normal(size=width)).astype(np.float32)


def noisy_target(features: np.ndarray, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = features @ rng.normal(size=features.shape[1])
    return (signal - signal.mean()) / signal.std() + rng.normal(size=len(features))


def masks(rows: int, train: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(rows) < train, np.arange(rows) >= train


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(column_auroc(scores[:, None], labels)[0])


@pytest.mark.parametrize(("rows", "width"), [(60, 150), (300, 40)])
@pytest.mark.parametrize("regularisation", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_coefficients_equal_scikit_learn(
    rows: int, width: int, regularisation: float, kind: Any
) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    features = correlated_features(rows, width)
    target = noisy_target(features)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    if kind == "ridge":
        naive = Ridge(alpha=regularisation, solver="svd").fit(scaled, target)
        expected, bias = naive.coef_, naive.intercept_
    else:
        target = (target > 0.3).astype(float)
        naive = LogisticRegression(
            C=1 / regularisation, solver="newton-cholesky", tol=1e-10, max_iter=1000
        ).fit(scaled, target)
        expected, bias = naive.coef_[0], naive.intercept_[0]
    probe = fit_probe(
        {"tbg": features[:, None]},
        target,
        kind=kind,
        position="tbg",
        layer=0,
        regularisation=regularisation,
        rows=np.ones(rows, dtype=bool),
        name="naive",
    )
    np.testing.assert_allclose(probe.weight, expected, atol=1e-4)
    assert probe.bias == pytest.approx(bias, abs=1e-4)
    np.testing.assert_allclose(margin(probe, features), scaled @ expected + bias, atol=1e-3)


def test_problems_solved_together_equal_problems_solved_alone() -> None:
    rng = np.random.default_rng(0)
    basis = decompose(correlated_features(50, 80))
    labels = rng.integers(0, 2, size=(50, 6)).astype(float)
    strengths = 10.0 ** np.arange(-2, 4)
    together = solve_logistic(basis.scores, labels, strengths)
    for column in range(6):
        alone = solve_logistic(
            basis.scores, labels[:, column : column + 1], strengths[column : column + 1]
        )
        np.testing.assert_allclose(together.weights[:, column], alone.weights[:, 0], atol=1e-4)


def test_separable_classes_under_weak_regularisation_reach_the_optimum() -> None:
    features = correlated_features(40, 100)
    labels = (np.arange(40) % 2).astype(float)[:, None]
    basis = decompose(features)
    solved = solve_logistic(basis.scores, labels, np.array([1e-4]))
    probability = 1 / (1 + np.exp(-(basis.scores @ solved.weights + solved.bias)))
    gradient = basis.scores.T @ (probability - labels) + 1e-4 * solved.weights
    assert np.abs(gradient).max() < 1e-5
    assert probability[labels == 1].min() > 0.99


def test_column_metrics_equal_the_textbook() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(40, 3)), 1)  # rounded, so that there are ties
    scores[:, 2] = 1.0
    labels = rng.integers(0, 2, 40)
    expected = [roc_auc_score(labels, column) for column in scores.T]
    np.testing.assert_allclose(column_auroc(scores, labels), expected)
    target = rng.normal(size=40)
    expected = [spearmanr(column, target).statistic for column in scores[:, :2].T]
    np.testing.assert_allclose(column_spearman(scores, target), [*expected, 0.0])


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_sweep_finds_the_planted_position_and_layer(kind: Any) -> None:
    rng = np.random.default_rng(0)
    hidden = {
        name: rng.normal(size=(200, 4, 30)).astype(np.float32) for name in ("tbg", "answer_last")
    }
    target = 2 * hidden["answer_last"][:, 2, 7] + 0.3 * rng.normal(size=200)
    if kind == "logistic":
        target = (target > 0).astype(float)
    train, validation = masks(200, 140)
    found = sweep(hidden, target, kind=kind, train=train, validation=validation)
    assert (found.best_position, found.best_layer) == ("answer_last", 2)
    assert found.best_score > 0.85
    assert found.validation_score.shape == (2, 4, len(found.regularisations))
    # the score on the map is that of the probe fitted alone, on the same rows
    probe = fit_probe(
        hidden,
        target,
        kind=kind,
        position="answer_last",
        layer=2,
        regularisation=found.best_regularisation,
        rows=train,
        name="best",
    )
    predictions = predict(probe, hidden["answer_last"][validation, 2])
    if kind == "logistic":
        assert auroc(predictions, target[validation]) == pytest.approx(found.best_score)
    else:
        held_out = target[validation]
        errors = np.sum((predictions - held_out) ** 2)
        r_squared = 1 - errors / np.sum((held_out - target[train].mean()) ** 2)
        assert r_squared == pytest.approx(found.best_score)


def test_validation_targets_choose_but_never_fit() -> None:
    features = correlated_features(80, 20)
    target = noisy_target(features)
    train, validation = masks(80, 50)
    hidden = {"tbg": features[:, None]}
    changed = np.where(validation, -target, target)
    common: Any = {
        "kind": "ridge",
        "position": "tbg",
        "layer": 0,
        "regularisation": 1.0,
        "rows": train,
        "name": "a",
    }
    first, second = (fit_probe(hidden, values, **common) for values in (target, changed))
    np.testing.assert_array_equal(first.weight, second.weight)
    shifted = {"tbg": np.where(validation[:, None, None], 99, features[:, None])}
    np.testing.assert_array_equal(first.mean, fit_probe(shifted, target, **common).mean)


def test_ties_go_to_the_strongest_regularisation_and_the_earliest_layer() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 2).astype(float)
    layer = (rng.normal(size=(60, 5)) + 20 * labels[:, None]).astype(np.float32)
    hidden = {"b": np.stack([layer, layer, layer], axis=1), "a": np.stack([layer] * 3, axis=1)}
    train, validation = masks(60, 40)
    found = sweep(hidden, labels, kind="logistic", train=train, validation=validation)
    assert found.best_score == 1.0
    assert found.best_regularisation == max(found.regularisations)
    assert (found.best_position, found.best_layer) == ("b", 0)


def test_constant_features_predict_the_base_rate_and_score_one_half() -> None:
    rng = np.random.default_rng(0)
    # one value a feature, but for the last bit of its float32: batches of a model differ by that
    values = np.tile(rng.normal(size=6).astype(np.float32), (40, 1))
    hidden = {"tbg": np.where(rng.random((40, 6)) < 0.5, values, np.nextafter(values, 9))[:, None]}
    labels = (rng.random(40) < 0.3).astype(float)
    labels[[0, 1, 38, 39]] = [0, 1, 0, 1]
    train, validation = masks(40, 25)
    found = sweep(hidden, labels, kind="logistic", train=train, validation=validation)
    np.testing.assert_array_equal(found.validation_score, 0.5)
    probe = fit_probe(
        hidden,
        labels,
        kind="logistic",
        position="tbg",
        layer=0,
        regularisation=1.0,
        rows=train,
        name="constant",
    )
    np.testing.assert_array_equal(probe.scale, 1.0)
    predictions = predict(probe, hidden["tbg"][:, 0])
    np.testing.assert_allclose(predictions, labels[train].mean())
    # a feature that never varied in training has no say later
    np.testing.assert_allclose(predict(probe, np.full((1, 6), 1e3)), predictions[0])
    found = sweep(hidden, rng.normal(size=40), kind="ridge", train=train, validation=validation)
    assert found.validation_spearman is not None
    np.testing.assert_array_equal(found.validation_spearman, 0.0)


@pytest.mark.parametrize("side", ["train", "validation"])
@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_a_target_that_does_not_vary_is_undefined_in_words(side: str, kind: Any) -> None:
    train, validation = masks(30, 20)
    target = (np.arange(30) % 2).astype(float)
    target[train if side == "train" else validation] = 0
    with pytest.raises(UndefinedTarget, match=f"correctness, {side}") as caught:
        sweep(
            {"tbg": np.random.default_rng(0).normal(size=(30, 2, 4))},
            target,
            kind=kind,
            train=train,
            validation=validation,
            target_name="correctness",
        )
    count = 20 if side == "train" else 10
    assert f"0 of {count} are positive" in str(caught.value) or f"all {count} rows" in str(
        caught.value
    )


def test_what_cannot_be_probed_is_refused() -> None:
    features = correlated_features(30, 6)
    train, validation = masks(30, 20)
    target = noisy_target(features)
    common: Any = {"kind": "ridge", "regularisation": 1.0, "rows": train, "name": "a"}
    with pytest.raises(UserError, match="choose one of tbg"):
        fit_probe({"tbg": features[:, None]}, target, position="slt", layer=0, **common)
    with pytest.raises(UserError, match="layer -1"):
        fit_probe({"tbg": features[:, None]}, target, position="tbg", layer=-1, **common)
    with pytest.raises(ValueError, match="share rows"):
        sweep({"tbg": features[:, None]}, target, kind="ridge", train=train, validation=train)
    damaged = features.copy()
    damaged[25, 3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        sweep({"tbg": damaged[:, None]}, target, kind="ridge", train=train, validation=validation)


def test_training_quantile_places_a_prediction_among_the_training_rows() -> None:
    features = correlated_features(400, 10)
    probe = fit_probe(
        {"tbg": features[:, None]},
        noisy_target(features),
        kind="ridge",
        position="tbg",
        layer=0,
        regularisation=1.0,
        rows=np.ones(400, dtype=bool),
        name="a",
    )
    predictions = predict(probe, features)
    median = float(np.median(predictions))
    placed = training_quantile(probe, np.array([predictions.min() - 9, median, 1e9]))
    np.testing.assert_allclose(placed, [0, 0.5, 1], atol=1e-9)


def xor_rows(rows: int, seed: int, flipped: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that say whether two features have the same sign, a share of them wrong."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4)).astype(np.float32)
    same_sign = features[:, 0] * features[:, 1] > 0
    return features, (same_sign ^ (rng.random(rows) < flipped)).astype(float)


def test_mlp_learns_what_no_line_can() -> None:
    (x, y), (x_held, y_held), (x_test, y_test) = (
        xor_rows(*given) for given in ((600, 0), (150, 1), (400, 2))
    )
    common: Any = {"position": "tbg", "layer": 0, "name": "a"}
    linear = fit_probe(
        {"tbg": x[:, None]},
        y,
        kind="logistic",
        regularisation=1.0,
        rows=np.ones(600, dtype=bool),
        **common,
    )
    assert auroc(predict(linear, x_test), y_test) < 0.6
    for kind in ("classification", "regression"):
        mlp = fit_mlp(x, y, x_held, y_held, kind=kind, max_epochs=120, **common)
        assert auroc(predict(mlp, x_test), y_test) > 0.95


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_mlp_stops_early_keeps_the_best_epoch_and_follows_its_seed(kind: Any) -> None:
    (x, y), (x_held, y_held) = xor_rows(80, 0, 0.3), xor_rows(60, 1, 0.3)
    common: Any = {"kind": kind, "position": "tbg", "layer": 0, "name": "a", "patience": 15}
    first, again, other = (fit_mlp(x, y, x_held, y_held, seed=s, **common) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.hidden_weight, again.hidden_weight)
    assert not np.array_equal(first.hidden_weight, other.hidden_weight)
    assert first.training["epochs"] == first.training["best_epoch"] + 15 < 300
    held_out = predict(first, x_held)
    if kind == "regression":
        loss = np.mean((held_out - y_held) ** 2)
    else:
        loss = -np.mean(np.log(np.where(y_held == 1, held_out, 1 - held_out)))
    assert first.training["validation_loss"] == pytest.approx(loss, rel=1e-4)


def test_mlp_leaves_the_global_random_state_alone_and_names_an_undefined_target() -> None:
    import torch

    x, y = xor_rows(40, 0)
    common: Any = {"kind": "classification", "position": "tbg", "layer": 0, "name": "a"}
    before = torch.random.get_rng_state()
    fit_mlp(x[:30], y[:30], x[30:], y[30:], max_epochs=2, **common)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(UndefinedTarget, match="0 of 10"):
        fit_mlp(x[:30], y[:30], x[30:], 0 * y[30:], **common)


def test_a_probe_memorises_rows_that_differ_and_cannot_memorise_copies() -> None:
    features = correlated_features(100, 160)
    assert memorisation_check(features, seed=0) == 1.0
    assert memorisation_check(np.repeat(features[:1], 100, axis=0), seed=0) < 0.8
    with pytest.raises(UserError, match="too few"):
        memorisation_check(features[:, :4])


def test_shuffled_labels_fall_to_chance_while_real_ones_do_not() -> None:
    features = correlated_features(240, 60)
    labels = (noisy_target(features) > 0).astype(float)
    train, test = masks(240, 140)
    scores = shuffled_label_scores(
        features, labels, train, test, regularisation=10.0, n_shuffles=300, seed=0
    )
    probe = fit_probe(
        {"tbg": features[:, None]},
        labels,
        kind="logistic",
        position="tbg",
        layer=0,
        regularisation=10.0,
        rows=train,
        name="real",
    )
    assert scores.shape == (300,)
    assert abs(scores.mean() - 0.5) < 4 * scores.std() / np.sqrt(300)
    assert scores.std() > 0.01
    assert auroc(predict(probe, features[test]), labels[test]) > np.quantile(scores, 0.99)
    with pytest.raises(UndefinedTarget, match="test"):
        shuffled_label_scores(features, labels * train, train, test, regularisation=10.0)


CARD = {"model": "tiny", "model_hash": "m1", "tokenizer_hash": "t1", "scores": {"auroc": 0.9}}


def linear_probe() -> LinearProbe:
    features = correlated_features(50, 8)
    return fit_probe(
        {"tbg": features[:, None]},
        (noisy_target(features) > 0).astype(float),
        kind="logistic",
        position="tbg",
        layer=0,
        regularisation=1.0,
        rows=np.ones(50, dtype=bool),
        name="high_entropy.tbg",
        target_name="high semantic entropy",
        threshold=0.7,
    )


def test_a_saved_probe_comes_back_bit_for_bit(tmp_path: Path) -> None:
    x, y = xor_rows(60, 0)
    mlp = fit_mlp(
        x[:40], y[:40], x[40:], y[40:],
        kind="regression", name="mlp", position="tbg", layer=3, max_epochs=3,
    )  # fmt: skip
    for probe, inputs in ((linear_probe(), correlated_features(50, 8)), (mlp, x)):
        path = save_probe(probe, tmp_path / "probes", card=CARD)
        for given in (path, path.with_suffix(".safetensors")):
            loaded = load_probe(given, model_hash="m1", tokenizer_hash="t1")
            np.testing.assert_array_equal(predict(loaded.probe, inputs), predict(probe, inputs))
            assert loaded.card == CARD
            for field in ("name", "kind", "target", "position", "layer", "threshold", "training"):
                assert getattr(loaded.probe, field) == getattr(probe, field)
    names = sorted(path.name for path in (tmp_path / "probes").iterdir())
    assert names == [
        "high_entropy.tbg.json",
        "high_entropy.tbg.safetensors",
        "mlp.json",
        "mlp.safetensors",
    ]


@pytest.mark.parametrize("key", ["model_hash", "tokenizer_hash"])
def test_a_probe_of_another_model_is_refused(tmp_path: Path, key: str) -> None:
    path = save_probe(linear_probe(), tmp_path, card=CARD)
    other: Any = {key: "zz"}
    with pytest.raises(UserError, match=f"{key} '{CARD[key]}'.*'zz'.*sep train"):
        load_probe(path, **other)
    with pytest.raises(UserError, match="None"):
        load_probe(save_probe(linear_probe(), tmp_path, card={}), **other)


def edit_card(path: Path, *keys: str, value: object) -> None:
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("format",), "recipe", "not the card of a probe"),
        (("format_version",), 2, "format version 2 found, 1 expected"),
        (("tensors", "sha256"), "00", "sha256"),
        (("tensors", "shapes", "weight"), [9], "shapes"),
        (("tensors",), [], "'tensors'"),
        (("probe", "kind"), "regression", "'kind': Input should be 'ridge'"),
        (("probe", "type"), "mlp", "'kind': Input should be 'regression'"),
        (("probe", "layer"), "3", "'layer'"),
        (("probe", "layer"), True, "'layer'"),
        (("probe", "regularisation"), None, "'regularisation'"),
        (("probe", "threshold"), float("nan"), "malformed JSON"),
        (("probe", "training"), {"prediction_quantiles": ["a"]}, "prediction_quantiles"),
    ],
)
def test_a_damaged_card_is_named(
    tmp_path: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    path = save_probe(linear_probe(), tmp_path, card=CARD)
    edit_card(path, *keys, value=value)
    with pytest.raises(UserError, match=message) as caught:
        load_probe(path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_card_that_is_no_json_object_is_named(tmp_path: Path, text: bytes) -> None:
    path = save_probe(linear_probe(), tmp_path, card=CARD)
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"high_entropy\.tbg\.json"):
        load_probe(path)


def test_missing_or_truncated_files_are_named(tmp_path: Path) -> None:
    path = save_probe(linear_probe(), tmp_path, card=CARD)
    tensors = path.with_suffix(".safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"safetensors: damaged"):
        load_probe(path)
    # a truncated file whose checksum was "repaired" is still refused
    edit_card(path, "tensors", "sha256", value=hashlib.sha256(tensors.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="not a safetensors file"):
        load_probe(path)
    tensors.unlink()
    with pytest.raises(UserError, match=r"safetensors: no such file"):
        load_probe(path)
    path.unlink()
    with pytest.raises(UserError, match=r"json: no such file"):
        load_probe(path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("weight", np.full(8, np.nan), "NaN"),
        ("scale", np.zeros(8), "not positive"),
        ("weight", np.zeros(7), "expected"),
        ("extra", np.zeros(1), "expected"),
        ("bias", np.zeros(1, dtype=np.float32), "float64"),
    ],
)
def test_forged_tensors_that_agree_with_their_card_are_refused(
    tmp_path: Path, name: str, tensor: np.ndarray, message: str
) -> None:
    path = save_probe(linear_probe(), tmp_path, card=CARD)
    file = path.with_suffix(".safetensors")
    tensors = load_file(file) | {name: tensor}
    save_file(tensors, file)
    shapes = {key: list(value.shape) for key, value in tensors.items()}
    edit_card(path, "tensors", "shapes", value=shapes)
    edit_card(path, "tensors", "sha256", value=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=message):
        load_probe(path)


def test_a_probe_that_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="not JSON compliant"):
        save_probe(linear_probe(), tmp_path, card={"auroc": float("nan")})
    with pytest.raises(ValueError, match="name"):
        save_probe(replace(linear_probe(), name="../outside"), tmp_path, card={})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        save_probe(linear_probe(), tmp_path / "file", card={})


def test_a_probe_refuses_hidden_states_of_another_width() -> None:
    with pytest.raises(UserError, match=r"\[n, 8\] but got \[2, 9\]"):
        predict(linear_probe(), np.zeros((2, 9)))
