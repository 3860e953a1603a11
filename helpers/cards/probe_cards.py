"""The card of every probe: what it learns, from what, by which loss, and what is chosen on what.

λ is the regularisation, w the weights.
"""

from __future__ import annotations

from helpers.cards.record import WordCard

_PROBES = "tests/test_probes.py::"
_TRAINING = "tests/test_probe_training.py::"

_STANDARDISED = "standardised states of one position and layer"
_BY_VALIDATION = "position, layer and λ on validation; fitted on train, scored on test"
_SECOND = "…_prompt is the same at tbg alone, …_mlp a perceptron at the same place (see mlp)"


def _variants(name: str) -> tuple[str, ...]:
    return (f"{name}_prompt", f"{name}_mlp", f"{name}_mlp_prompt", f"{name}_soft_prompt")


PROBE_CARDS = (
    WordCard(
        "probe",
        "semantic_entropy",
        "Entropy probe: ridge regression",
        (
            ("target", "semantic entropy of the K samples, nats"),
            ("reads", _STANDARDISED),
            ("loss", "Σ_i (ŷ_i − y_i)² + λ|w|², free bias"),
            ("chosen", f"by R²: {_BY_VALIDATION}"),
            ("variants", _SECOND),
        ),
        _PROBES + "test_coefficients_equal_scikit_learn",
        ("ridge", "ridge_probe", "entropy_probe", *_variants("semantic_entropy")[:3]),
    ),
    WordCard(
        "probe",
        "high_semantic_entropy",
        "Entropy probe: logistic regression",
        (
            ("target", "1 where semantic entropy is above γ (see threshold)"),
            ("reads", _STANDARDISED),
            ("loss", "Σ_i log-loss + (λ/2)|w|², free bias"),
            ("chosen", f"by AUROC: {_BY_VALIDATION}"),
            ("then", "log-odds stretched and shifted to fit validation (Platt 1999)"),
            ("source", "Kossen et al. 2024, semantic entropy probes"),
            ("variants", _SECOND),
        ),
        _PROBES + "test_coefficients_equal_scikit_learn",
        (
            "sep",
            "logistic_probe",
            "semantic_entropy_probe",
            *_variants("high_semantic_entropy")[:3],
        ),
    ),
    WordCard(
        "probe",
        "wrong_answer",
        "Correctness probe: logistic regression",
        (
            ("target", "1 where the most likely answer is wrong; ungraded questions are left out"),
            ("reads", _STANDARDISED),
            ("loss", "Σ_i log-loss + (λ/2)|w|², free bias"),
            ("chosen", f"by AUROC: {_BY_VALIDATION}"),
            ("then", "log-odds stretched and shifted to fit validation (Platt 1999)"),
            ("variants", _SECOND),
        ),
        _PROBES + "test_coefficients_equal_scikit_learn",
        ("correctness_probe", "accuracy_probe", *_variants("wrong_answer")[:3]),
    ),
    WordCard(
        "probe",
        "semantic_entropy_soft",
        "Entropy probe with soft labels",
        (
            ("target", "semantic entropy as a share of ln K, 0 to 1"),
            ("shown", "in nats: what it predicts, times ln K"),
            ("reads", _STANDARDISED),
            ("loss", "Σ_i cross-entropy with the share + (λ/2)|w|², free bias"),
            ("chosen", f"by D²: {_BY_VALIDATION}"),
        ),
        _TRAINING + "test_soft_labels_equal_weighted_rows_of_scikit_learn",
        ("semantic_entropy_soft_prompt",),
    ),
    WordCard(
        "probe",
        "wrong_answer_soft",
        "Correctness probe with soft labels",
        (
            ("target", "the share of wrong ones among the K samples, 0 to 1"),
            ("reads", _STANDARDISED),
            ("loss", "Σ_i cross-entropy with the share + (λ/2)|w|², free bias"),
            ("chosen", f"by D²: {_BY_VALIDATION}"),
        ),
        _TRAINING + "test_soft_labels_equal_weighted_rows_of_scikit_learn",
        ("wrong_answer_soft_prompt",),
    ),
    WordCard(
        "probe",
        "wrong_answer_hybrid",
        "Hybrid of the entropy and the correctness probe",
        (
            ("target", "1 where the most likely answer is wrong"),
            ("reads", "the log-odds of high_semantic_entropy and of wrong_answer, standardised"),
            ("loss", "Σ_i log-loss + ½|w|², free bias"),
            (
                "chosen",
                "nothing; its two weights are fitted on the validation questions",
            ),
        ),
        _TRAINING + "test_a_hybrid_is_the_logistic_model_of_two_log_odds",
        ("hybrid", "wrong_answer_hybrid_prompt"),
    ),
    WordCard(
        "probe",
        "mlp",
        "Two-layer perceptron, …_mlp",
        (
            ("target", "that of the linear probe of the same name"),
            ("reads", "what that probe reads: position and layer are not chosen anew"),
            ("loss", "squared error or log-loss; linear, 64 GELU units, linear; AdamW"),
            ("chosen", "the number of epochs, by the validation loss (30 without a better one)"),
        ),
        _PROBES + "test_mlp_stops_early_keeps_the_best_epoch_and_follows_its_seed",
        ("perceptron",),
    ),
)
