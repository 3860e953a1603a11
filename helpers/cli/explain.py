"""`sep explain`, `sep estimators`: the words of a report, and all cards as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from helpers.errors import UserError
from helpers.evaluation.metric_cards import METRIC_CARDS, MetricCard
from helpers.uncertainty.entropies import Estimator
from helpers.uncertainty.estimators import (
    ESTIMATORS,
    PACKAGES,
    choose_estimators,
    did_you_mean,
    plain_name,
)


class Term(NamedTuple):
    """A word of a report, in one or two sentences."""

    name: str
    meaning: str
    test: str = ""  # the pytest node id that holds it to that, where there is one
    also: tuple[str, ...] = ()  # other names under which results hold it


_POSITIONS = (
    "tests/hidden_states/test_capture.py::"
    "test_positions_are_those_set_by_hand_and_states_those_of_a_plain_forward"
)
_PROBES = "tests/probes/test_probe.py::test_"
_TRAINING = "tests/probes/test_training.py::test_"
_EVALUATION = "tests/evaluation/test_evaluation.py::test_"
_BASELINES = "tests/cli/test_explain.py::test_baselines_are_what_their_cards_say"
_ASKING = "tests/studies/semantic_entropy/test_asking.py::test_"
_WHAT_IF = "tests/studies/semantic_entropy/test_what_if.py::test_"
_COMPARED = "tests/studies/semantic_entropy/test_compare.py::test_"
_RUNS = "tests/studies/reasoning/test_runs.py::test_"
_PER_RUN = "tests/studies/reasoning/test_probes.py::test_"
_PER_RUN_SCORES = "tests/studies/reasoning/test_assessment.py::test_"


def _variants(probe: str) -> tuple[str, ...]:
    return (f"{probe}_prompt", f"{probe}_mlp", f"{probe}_mlp_prompt")


GLOSSARY: tuple[Term, ...] = (
    # Probes of standardised states; place and λ chosen on validation, fitted on train.
    Term("semantic_entropy", "Entropy probe: ridge regression, Σ (ŷ − y)² + λ|w|², of the semantic "
         "entropy of the K samples in nats, chosen by R²; one that reads single answers is a "
         "logistic regression of whether the entropy of their question is above γ.",
         _PROBES + "coefficients_equal_scikit_learn",
         ("ridge", "ridge_probe", "entropy_probe", "probability_semantic_entropy",
          "margin_semantic_entropy", *_variants("semantic_entropy"))),
    Term("high_semantic_entropy", "Entropy probe: logistic regression, Σ log-loss + (λ/2)|w|², of "
         "whether semantic entropy is above γ, chosen by AUROC (Kossen et al. 2024). Its log-odds "
         "are stretched and shifted to fit validation (Platt 1999).",
         _PROBES + "coefficients_equal_scikit_learn",
         ("sep", "logistic_probe", "semantic_entropy_probe", *_variants("high_semantic_entropy"))),
    Term("wrong_answer", "Correctness probe: as high_semantic_entropy, of whether the most likely "
         "answer is wrong. Ungraded questions are left out.",
         _PROBES + "coefficients_equal_scikit_learn",
         ("correctness_probe", "accuracy_probe", *_variants("wrong_answer"))),
    Term("correctness", "Correctness probe of single answers: logistic regression of whether an "
         "answer is right, layer and λ by AUROC on validation, probabilities calibrated there.",
         _PER_RUN + "the_planted_layers_are_chosen_and_their_directions_found",
         ("probability_correctness", "margin_correctness", "projection_correctness")),
    Term("semantic_entropy_soft", "Probes with soft labels: cross-entropy, chosen by D², with "
         "semantic entropy as a share of ln K (shown in nats), and for wrong_answer_soft with the "
         "share of wrong ones among the K samples.",
         _TRAINING + "soft_labels_equal_weighted_rows_of_scikit_learn",
         ("wrong_answer_soft", "semantic_entropy_soft_prompt", "wrong_answer_soft_prompt")),
    Term("wrong_answer_hybrid", "Logistic regression of wrong_answer on the log-odds of the "
         "probes high_semantic_entropy and wrong_answer, fitted on validation; λ is 1.",
         _TRAINING + "a_hybrid_is_the_logistic_model_of_two_log_odds",
         ("hybrid", "wrong_answer_hybrid_prompt")),
    Term("combined", "Logistic regression of a right answer on the log-odds of correctness, "
         "semantic_entropy and thinking_entropy, fitted on validation.",
         _PER_RUN + "the_combination_learns_signs_and_gains_from_independent_signals",
         ("probability_combined", "combination")),
    Term("mlp", "Perceptron, …_mlp: what the linear probe of the same name learns from the same "
         "states, with 64 GELU units, AdamW, and as many epochs as validation is best with.",
         _PROBES + "mlp_stops_early_keeps_the_best_epoch_and_follows_its_seed", ("perceptron",)),
    Term("projection", "(w·z + b)/|w|: how far a state lies from a probe's boundary, in standard "
         "deviations of the training states; the margin is its log-odds after calibration, nats.",
         _PER_RUN + "predictions_are_those_of_all_rows_at_once_and_projections_are_distances",
         ("margin",)),
    # Positions; where one does not exist, an earlier token stands in, which is counted.
    Term("tbg", "Token before generating: the last token of the prompt. It costs one forward pass "
         "and no answer; a probe named …_prompt reads it alone.", _POSITIONS),
    Term("answer_last", "The last generated token that does not end the text; answer_second_last "
         "is the one before, answer_mean the mean over all of the answer. In place of what a short "
         "answer lacks stands the last prompt token.", _POSITIONS,
         ("answer_second_last", "slt", "answer_mean")),
    Term("think_end", "The token </think> that closes a model's thinking; answer_last, where the "
         "thinking was never closed.", _POSITIONS),
    Term("layer", "0 is the input of the first decoder block, i the output of block i; the last "
         "is before the model's final norm.", _POSITIONS),
    # Baselines.
    Term("question_length", "Characters of the question; only its sign is fitted, by the AUROC on "
         "train. A probe that does not beat it may have read nothing else.", _BASELINES),
    Term("input_layer", "A logistic probe on layer 0 of the last prompt token, which knows that "
         "token and, in some models, its place: the length.", _BASELINES),
    Term("mean_of_train", "The mean semantic entropy of the training questions, for every "
         "question: the RMSE and MAE of knowing nothing of the question.", _BASELINES),
    Term("lexical_estimators", "Every estimator that requires neither meanings nor judgements: "
         "those that do would be judged by what high semantic entropy is made of.", _BASELINES),
    Term("thinking_entropy", "(1/T) Σ_t H(p_t) in nats, untempered, over the T tokens between the "
         "thinking tags, or else all generated ones; as a probe, logistic regression on it.",
         _PER_RUN + "the_baseline_is_the_logistic_regression_on_one_feature",
         ("probability_thinking_entropy", "mean_thinking_entropy")),
    Term("thinking_length", "Tokens between the thinking tags; only its sign is learnt, on train.",
         _PER_RUN_SCORES + "the_sign_of_the_length_is_learnt_on_train_alone", ("thinking_tokens",)),
    Term("question_semantic_entropy", "Semantic entropy of a question's valid answers, nats; its "
         "sign is turned where right answers are predicted. It costs the other answers.",
         _PER_RUN_SCORES + "signs_of_what_is_scored_for_the_other_label"),
    Term("agreement", "The share of a question's other valid answers with the same final answer.",
         _RUNS + "labels_come_from_the_training_questions_and_agreement_from_the_other_runs",
         ("self_consistency",)),
    # Tripwires.
    Term("shuffled_labels", "Probes are fitted to shuffled labels of train and scored on those of "
         "test. Trips where their mean AUROC is further than 0.02 from 0.5, and p < 0.01 (signs "
         "flipped): the evaluation leaks, and no score of the probe is to be believed.",
         _EVALUATION + "shuffled_labels_pass_for_an_honest_probe_and_trip_for_a_leak"),
    Term("memorisation", "A nearly free probe learns random labels of at most 64 questions. Trips "
         "where one is not learnt: rows are copies of each other, or the fit is broken.",
         _PROBES + "a_probe_memorises_rows_that_differ_and_cannot_memorise_copies"),
    Term("constant_input", "A probe of the embedding, without position, of the last prompt token. "
         "Trips where all prompts end in the same token and its AUROC is not 0.5: the position or "
         "the layer is not the one it is said to be.",
         _EVALUATION + "memorisation_and_constant_input_tripwires", ("canary",)),
    # Labels, and which rows there are.
    Term("threshold", "γ, in nats: of all cuts of the training questions' entropies the one with "
         "the least squared error to the means on both sides (Kossen et al. 2024).",
         _EVALUATION + "best_split_is_as_good_as_the_best_of_all_splits",
         ("gamma", "γ", "threshold_nats")),
    Term("wrong", "1 where the most likely answer is graded wrong, 0 where it is right; unknown "
         "where it states no answer, or there is no reference.",
         "tests/data/test_answers.py::test_final_answer", ("wrong_most_likely_answer",)),
    Term("valid_run", "An answer that was not cut off and closed its thinking, of a question with "
         "at least --min-runs of them. Those left out are counted.",
         _RUNS + "runs_are_left_out_by_rule",
         ("excluded", "runs_dropped", "questions_dropped")),
    Term("ood", "Questions of another source, asked of the same model; nothing is fitted or chosen "
         "on them.", _PER_RUN + "nothing_of_the_scored_splits_changes_a_probe",
         ("out_of_distribution",)),
    Term("confidence", "The mean predicted probability of a right answer, over the right ones and "
         "over the wrong ones; whether it is calibrated is another matter (see ece).",
         _PER_RUN_SCORES + "differences_and_confidence_point_the_right_way"),
    Term("representative", "The first of a question's largest group of equal final answers.",
         "tests/studies/reasoning/test_analysis_table.py::test_one_representative_a_question_of_its_largest_group"),
    Term("umap", "A map of hidden states, fitted once (McInnes et al. 2018): neighbours are alike; "
         "axes and distances between groups mean nothing.",
         "tests/analysis_table/test_umap.py::test_a_seed_gives_one_map_that_keeps_neighbours_together",
         ("umap_x", "umap_y")),
    # Methods.
    Term("bootstrap_interval", "Questions are drawn with replacement, whole where rows share one; "
         "the 2.5 and 97.5 % quantiles (Efron & Tibshirani 1993). None, with the reason, where "
         "more than 5 % of the resamples are undefined.",
         _EVALUATION + "the_interval_covers_the_truth_about_as_often_as_it_says",
         ("interval", "confidence_interval", "bootstrap")),
    Term("permutation_p_value", "(1 + shuffles at least as good)/(1 + shuffles), so never 0 "
         "(Phipson & Smyth 2010). Corrected for how many are looked at only where a table says so.",
         _EVALUATION + "p_values_are_uniform_when_there_is_nothing_to_find",
         ("p", "p_value", "permutation")),
    Term("paired_permutation", "(1 + sign changes with |Σ ± d_i| ≥ |Σ d_i|)/(1 + sign changes), "
         "where d_i is run A less run B of shared question i (Fisher 1935). For means; differences "
         "of AUROC and Spearman have a p-value by bootstrap (see difference).",
         _COMPARED + "the_permutation_test_meets_all_sign_changes",
         ("sign_flip", "permutation_of_differences")),
    # Numbers by which groupings and runs are compared; intervals by bootstrap over questions.
    Term("mean_semantic_entropy", "The mean of semantic entropy over questions, nats, 0 to ln K: "
         "runs of different K do not compare.",
         _WHAT_IF + "means_of_a_grouping_are_those_of_its_test_questions", ("nats",)),
    Term("mean_number_of_meanings", "The mean over questions of how many meanings their samples "
         "have.", _WHAT_IF + "means_of_a_grouping_are_those_of_its_test_questions", ("meanings",)),
    Term("share_above_threshold", "The share of questions whose semantic entropy is above γ, as "
         "learnt (see threshold) or as it was set.",
         _WHAT_IF + "gamma_is_learnt_on_train_and_makes_the_labels", ("high", "share_above_gamma")),
    Term("questions_grouped_otherwise", "How many questions, of all splits, have a pair of samples "
         "that is together in one of two groupings alone.",
         _WHAT_IF + "means_of_a_grouping_are_those_of_its_test_questions", ("changed",)),
    Term("samples_right", "The mean over questions of right / (right + wrong) among their samples; "
         "questions none of whose samples state an answer are left out.",
         _WHAT_IF + "runs_are_compared_where_they_differ_in_temperature_only", ("accuracy",)),
    # Of one question that was asked; a little too good, since validation chose the probe as well.
    Term("prediction_interval", "ŷ ± the |ŷ_i − y_i| of rank ⌈0.9 (n + 1)⌉ among n validation "
         "questions, within 0 … ln K (split conformal prediction, Lei et al. 2018). It holds nine "
         "in ten questions drawn like those; none with fewer than 9.",
         _ASKING + "conformal_intervals_cover_exchangeable_questions",
         ("conformal_interval", "conformal", "interval_of_a_predicted_entropy")),
    Term("observed_share", "The share of positives among the 30 validation questions with the "
         "nearest ŷ_i (none with fewer), with a 95 % Wilson interval.",
         _ASKING + "the_observed_share_is_that_of_the_nearest_predictions", ("wilson",)),
    Term("unlikeness", "The share of validation questions that lie nearer to the training "
         "questions: mean distance to the 5 nearest standardised states at the probe's place "
         "(Sun et al. 2022). Unusual from 0.95 on, not to be trusted from 0.99 on.",
         _ASKING + "a_question_unlike_the_training_questions_is_told_from_a_usual_one",
         ("distance_to_the_training_questions", "distance", "out_of_distribution")),
    Term("training_quantile", "The share of training questions for which the probe predicts less.",
         _PROBES + "training_quantile_places_a_prediction_among_the_training_rows",
         ("higher_than_of_the_training_questions",)),
    Term("verdict", "Whether the entropy of K fresh samples lies in the predicted interval, and "
         "whether what a probability above one half stands for came true.",
         _ASKING + "the_verdict_compares_what_was_foreseen_with_what_was_found"),
)  # fmt: skip


# --- what is printed -----------------------------------------------------------------------------


WIDTH = 100
LABEL = 12  # columns for the names of a card's facts

LEGEND = (
    "For every estimator higher means more uncertain. N answers are sampled for a question; l_i is "
    "the log-probability of sample i, n_c the number of samples in meaning c, C that of meanings; "
    "e_ij, n_ij and c_ij are a judge's probabilities of entailment, neutral and contradiction with "
    "answer i as premise and j as hypothesis; the greedy answer, g, is the most likely one. "
    "Logarithms are natural. Under “elsewhere” stands what other packages call it, and where their "
    f"number differs from ours ({PACKAGES})."
)
NOT_HERE = "Offered elsewhere, not here"
ELSEWHERE = {
    "SAR, TokenSAR, SentenceSAR": "need a sentence-similarity model, asked once a token",
    "MARS, LARS": "weigh tokens by a further model, trained for it",
    "Mahalanobis distance, RMD, RDE": "how unusual a question is, not how unsure its answer",
    "SAPLMA": "a perceptron on one layer: the probe wrong_answer_mlp",
    "Verbalised confidence, 1S, 2S": "need a model that follows instructions",
    "LUQ, SelfCheckGPT": "made for long texts, sentence by sentence",
    "Fisher–Rao distance, Rényi divergence": "need the whole next-token distribution",
    "PMI, conditional PMI": "need each answer's likelihood without its question",
    "Focus, RAUQ, CSL": "read attention weights, which are not captured",
    "CoCoA": "a product of two that are here: likelihood and agreement",
    "BERTScore, cosine similarity": "need embeddings; see --judge cosine",
}
"""Estimators of lm-polygraph, uqlm and TruthTorchLM that are not offered, and why."""

_Entry = Estimator | MetricCard | Term


def explain(name: str) -> str:
    """What a name stands for, as plain text: an estimator, a metric, or a word of the glossary.

    Upper case, spaces, hyphens and underscores make no difference. A name may have several
    entries: the semantic entropy of the samples, and the probe that predicts it. Raises
    `UserError` naming what is close to a name that has none.
    """
    key, known = plain_name(name), _entries()
    metric = key.removesuffix("_difference")
    # Any metric's paired difference has the card of all of them.
    found = known.get(key) or (known["difference"] if metric in known and metric != key else [])
    if not found:
        raise UserError(
            f"{name!r} is no estimator, metric or other word of a report"
            f"{did_you_mean(key, known)}; `sep estimators` lists the estimators, and the metrics "
            f"are {', '.join(METRIC_CARDS)}"
        )
    return "\n\n".join(_text(entry) for entry in found)


def describe_estimators(names: Sequence[str] | None = None) -> str:
    """Every estimator's card, or those of `names`, grouped by what it requires, as plain text.

    At the end stands what other packages offer and this one does not, with the reasons. Raises
    `UserError` for a name that is no estimator.
    """
    chosen = tuple(ESTIMATORS) if names is None else choose_estimators(names)
    groups: dict[tuple[str, ...], list[Estimator]] = {}
    for name in chosen:
        groups.setdefault(ESTIMATORS[name].requires, []).append(ESTIMATORS[name])
    lines = [*_wrapped(LEGEND), ""]
    for requires, cards in groups.items():
        heading = f"From {_listed(requires)}"
        lines += [heading, "─" * len(heading), ""]
        for card in cards:
            lines += [_text(card, requires=False), ""]
    if names is None:
        lines += [NOT_HERE, "─" * len(NOT_HERE), ""]
        lines += [f"  {offered:<40}{reason}" for offered, reason in ELSEWHERE.items()]
    return "\n".join(lines).rstrip()


def every_name() -> tuple[str, ...]:
    """Every name that has an entry, sorted."""
    return tuple(sorted(_entries()))


def _entries() -> dict[str, list[_Entry]]:
    known: dict[str, list[_Entry]] = {name: [card] for name, card in ESTIMATORS.items()}
    others: tuple[MetricCard | Term, ...] = (*METRIC_CARDS.values(), *GLOSSARY)
    for entry in others:
        for name in (entry.name, *entry.also):
            known.setdefault(plain_name(name), []).append(entry)
    return known


def _text(entry: _Entry, requires: bool = True) -> str:
    """An entry: its name, then a line for each fact that there is."""
    if isinstance(entry, Term):
        title, facts = "glossary", {"meaning": entry.meaning}
    else:
        title = entry.title + (" (metric)" if isinstance(entry, MetricCard) else "")
        facts = {"formula": entry.formula, "units": f"{entry.units}; {entry.direction}"}
    if isinstance(entry, MetricCard):
        facts |= {"interval": entry.interval, "p-value": entry.p_value, "source": entry.source}
    if isinstance(entry, Estimator):
        facts |= {"requires": _listed(entry.requires)} if requires else {}
        facts |= {"source": entry.source, "elsewhere": entry.also_called}
    if not isinstance(entry, Term):
        facts |= {"note": entry.note}
    # A long test may break after its file.
    long = len(entry.test) > WIDTH - LABEL
    facts["test"] = entry.test.replace("::", ":: ") if long else entry.test
    lines = _wrapped(f"{entry.name} · {title}")
    for label, text in facts.items():
        if text:
            lines += _wrapped(text, " " * LABEL, f"  {label:<{LABEL - 2}}")
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
