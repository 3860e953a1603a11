"""A two-layer perceptron probe in PyTorch, stopped early on the validation rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.probes.probe import MlpKind, MlpProbe, check_target, predict, training_statistics
from helpers.probes.solvers import fit_scaler, standardise

if TYPE_CHECKING:
    import torch

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
BATCH_SIZE = 128


@dataclass(frozen=True, eq=False)
class _Trained:
    """The tensors of the best epoch and how the training went."""

    tensors: list[torch.Tensor]
    history: dict[str, Any]


def fit_mlp(
    hidden_train: np.ndarray,
    target_train: np.ndarray,
    hidden_validation: np.ndarray,
    target_validation: np.ndarray,
    *,
    kind: MlpKind,
    name: str,
    position: str,
    layer: int,
    target_name: str = "target",
    width: int = 64,
    seed: int = 0,
    max_epochs: int = 300,
    patience: int = 30,
    threshold: float | None = None,
) -> MlpProbe:
    """Train linear-GELU-linear on hidden states [n, features] and keep the best epoch.

    Regression minimises the squared error, classification the log-loss, with AdamW; training
    stops when the validation loss has not improved for patience epochs. The result depends on
    the seed alone (no global random state is read or set). The probe's training record adds
    epochs, best_epoch, validation_loss (nats, or the target's unit squared), units and seed.

    Raises UndefinedTarget when the target does not vary on either side.
    """
    values = np.asarray(target_train, dtype=np.float64)
    held_out = np.asarray(target_validation, dtype=np.float64)
    check_target(values, kind, f"{target_name}, train")
    check_target(held_out, kind, f"{target_name}, validation")
    scaler = fit_scaler(hidden_train)
    # A regression learns the standardised target; the last layer is scaled back afterwards.
    centre, spread = (values.mean(), values.std()) if kind == "regression" else (0.0, 1.0)
    trained = _train(
        standardise(scaler, hidden_train),
        (values - centre) / spread,
        standardise(scaler, hidden_validation),
        (held_out - centre) / spread,
        kind=kind,
        width=width,
        seed=seed,
        max_epochs=max_epochs,
        patience=patience,
    )
    first, first_bias, second, second_bias = (
        tensor.numpy().astype(np.float64) for tensor in trained.tensors
    )
    first[scaler.constant] = 0.0  # untrained random weights of features that never varied
    loss = float(trained.history["validation_loss"] * spread**2)
    history = trained.history | {"validation_loss": loss}
    probe = MlpProbe(
        name=name,
        kind=kind,
        target=target_name,
        position=position,
        layer=int(layer),
        hidden_weight=first,
        hidden_bias=first_bias,
        output_weight=second * spread,
        output_bias=float(second_bias[0] * spread + centre),
        mean=scaler.mean,
        scale=scaler.scale,
        training={},
        threshold=None if threshold is None else float(threshold),
    )
    statistics = training_statistics(values, predict(probe, hidden_train), kind)
    return replace(probe, training=statistics | history)


def _train(
    inputs: np.ndarray,
    target: np.ndarray,
    inputs_validation: np.ndarray,
    target_validation: np.ndarray,
    *,
    kind: MlpKind,
    width: int,
    seed: int,
    max_epochs: int,
    patience: int,
) -> _Trained:
    import torch
    from torch.nn import functional

    criterion: Any = (
        functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
    )
    x, y, x_held, y_held = (
        torch.as_tensor(array, dtype=torch.float32)
        for array in (inputs, target, inputs_validation, target_validation)
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = _initial_tensors(x.shape[1], width, generator)
    optimiser = torch.optim.AdamW(tensors, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def loss_on(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        first, first_bias, second, second_bias = tensors
        return criterion(functional.gelu(rows @ first + first_bias) @ second + second_bias, wanted)

    best_loss, best_epoch, best, epoch = float("inf"), 0, tensors, 0
    for epoch in range(1, max_epochs + 1):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH_SIZE):
            optimiser.zero_grad()
            loss_on(x[batch], y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            loss = float(loss_on(x_held, y_held))
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best = [tensor.detach().clone() for tensor in tensors]
        elif epoch - best_epoch >= patience:
            break
    history = {
        "epochs": epoch,
        "best_epoch": best_epoch,
        "validation_loss": best_loss,
        "units": width,
        "seed": seed,
    }
    return _Trained(tensors=[tensor.detach() for tensor in best], history=history)


def _initial_tensors(inputs: int, width: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Uniform within 1 / sqrt(fan-in), PyTorch's own default, drawn from the given generator."""
    import torch

    def draw(shape: tuple[int, ...], fan_in: int) -> torch.Tensor:
        tensor = torch.empty(shape).uniform_(-1, 1, generator=generator) / fan_in**0.5
        return tensor.requires_grad_()

    shapes = [((inputs, width), inputs), ((width,), inputs), ((width,), width), ((1,), width)]
    return [draw(shape, fan_in) for shape, fan_in in shapes]
