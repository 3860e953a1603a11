"""Cards of the other words of a report: positions, baselines, tripwires, labels, methods."""

from __future__ import annotations

from helpers.cards.comparison_cards import COMPARISON_METHODS
from helpers.cards.probe_cards import PROBE_CARDS
from helpers.cards.reading_cards import READING_CARDS
from helpers.cards.reasoning_cards import REASONING_WORDS
from helpers.cards.record import WordCard

_PROBES = "tests/test_probes.py::"
_EVALUATION = "tests/test_evaluation.py::"
_STATES = "tests/test_hidden_states.py::"
_OWN = "tests/test_cards.py::"

_HAND_SET = _STATES + "test_positions_are_those_set_by_hand_and_states_those_of_a_plain_forward"
_POSITION_CARDS = (
    WordCard(
        "position",
        "tbg",
        "Token before generating",
        (
            ("where", "the last token of the prompt, before anything is generated"),
            ("costs", "one forward pass of the prompt, and no answer"),
        ),
        _HAND_SET,
    ),
    WordCard(
        "position",
        "answer_last",
        "Last answer token",
        (
            ("where", "the last generated token that does not end the text"),
            ("stand-in", "the last prompt token, for an answer without tokens"),
        ),
        _HAND_SET,
    ),
    WordCard(
        "position",
        "answer_second_last",
        "Second-last answer token",
        (
            ("where", "the token before answer_last"),
            ("stand-in", "the last prompt token, for an answer of fewer than two tokens"),
        ),
        _HAND_SET,
        ("slt",),
    ),
    WordCard(
        "position",
        "answer_mean",
        "Mean over the answer",
        (
            ("where", "the mean over all generated tokens that do not end the text"),
            ("stand-in", "the last prompt token, for an answer without tokens"),
        ),
        _HAND_SET,
    ),
    WordCard(
        "position",
        "think_end",
        "End of thinking",
        (
            ("where", "the token </think> that closes a reasoning model's thinking"),
            ("stand-in", "answer_last, where the thinking was never closed"),
        ),
        _HAND_SET,
    ),
    WordCard(
        "position",
        "layer",
        "Layer",
        (
            ("what", "0 is the input of the first decoder block, i the output of block i"),
            ("not", "the last entry is before the model's final norm"),
        ),
        _HAND_SET,
    ),
)

_BASELINE_CARDS = (
    WordCard(
        "baseline",
        "question_length",
        "Length of the question",
        (
            ("what", "characters of the question"),
            ("fitted", "its sign alone, by the AUROC on train"),
            ("why", "a probe that does not beat it may have read nothing else"),
        ),
        _OWN + "test_baselines_are_what_their_cards_say",
    ),
    WordCard(
        "baseline",
        "input_layer",
        "Input layer at tbg",
        (
            ("what", "a logistic probe on layer 0 of the last prompt token"),
            ("fitted", "λ on validation, the probe on train"),
            ("why", "that state knows one token and, in some models, its place: the length"),
        ),
        _OWN + "test_baselines_are_what_their_cards_say",
    ),
    WordCard(
        "baseline",
        "mean_of_train",
        "Mean of train",
        (
            ("what", "the mean semantic entropy of the training questions, for every question"),
            ("why", "the RMSE and MAE of knowing nothing of the question"),
        ),
        _OWN + "test_baselines_are_what_their_cards_say",
    ),
    WordCard(
        "baseline",
        "lexical_estimators",
        "Estimators without meanings",
        (
            ("what", "every estimator that requires neither meanings nor judgements"),
            ("why", "high semantic entropy is made of the meanings, so that estimators that see "
             "them would be judged by themselves"),
        ),
        _OWN + "test_baselines_are_what_their_cards_say",
    ),
)  # fmt: skip

_TRIPWIRE_CARDS = (
    WordCard(
        "tripwire",
        "shuffled_labels",
        "Shuffled labels",
        (
            ("does", "fits probes to shuffled labels of train and test, and scores them on test"),
            ("expects", "AUROCs that centre on 0.5"),
            ("trips", "the mean is further than 0.02 from it, and p < 0.01 (signs flipped)"),
            ("means", "the evaluation leaks: no score of the probe is to be believed"),
        ),
        _EVALUATION + "test_shuffled_labels_pass_for_an_honest_probe_and_trip_for_a_leak",
    ),
    WordCard(
        "tripwire",
        "memorisation",
        "Memorisation",
        (
            ("does", "fits a nearly free probe to random labels of at most 64 questions"),
            ("expects", "a training accuracy of 1"),
            ("trips", "one label is not learnt"),
            ("means", "rows are copies of each other, or the fit is broken"),
        ),
        _PROBES + "test_a_probe_memorises_rows_that_differ_and_cannot_memorise_copies",
    ),
    WordCard(
        "tripwire",
        "constant_input",
        "Constant input",
        (
            ("does", "probes the embedding, without position, of the last prompt token"),
            ("expects", "an AUROC of exactly 0.5, where all prompts end in the same token"),
            ("trips", "any other value"),
            ("means", "the position or the layer is not the one it is said to be"),
        ),
        _EVALUATION + "test_memorisation_and_constant_input_tripwires",
        ("canary",),
    ),
)

_LABEL_CARDS = (
    WordCard(
        "label",
        "threshold",
        "γ, above which semantic entropy is high",
        (
            ("formula", "argmin_γ Σ_{v ≤ γ} (v − mean_low)² + Σ_{v > γ} (v − mean_high)²"),
            ("units", "nats"),
            ("chosen", "on the training questions, of all midpoints between neighbouring values"),
            ("source", "Kossen et al. 2024, best split"),
        ),
        _EVALUATION + "test_best_split_is_as_good_as_the_best_of_all_splits",
        ("gamma", "γ", "threshold_nats"),
    ),
    WordCard(
        "label",
        "wrong",
        "Wrong most likely answer",
        (
            ("what", "1 where the most likely answer is graded wrong, 0 where it is right"),
            ("unknown", "where it states no answer, or there is no reference"),
        ),
        "tests/test_grading.py::test_final_answer",
        ("wrong_most_likely_answer",),
    ),
)

_METHOD_CARDS = (
    WordCard(
        "method",
        "bootstrap_interval",
        "95 % bootstrap interval",
        (
            ("how", "questions are drawn with replacement; the 2.5 and 97.5 % quantiles"),
            ("groups", "where rows share a question, whole questions are drawn"),
            ("none", "where more than 5 % of the resamples are undefined, with the reason"),
            ("source", "Efron & Tibshirani 1993, percentile interval"),
        ),
        _EVALUATION + "test_the_interval_covers_the_truth_about_as_often_as_it_says",
        ("interval", "confidence_interval", "bootstrap"),
    ),
    WordCard(
        "method",
        "permutation_p_value",
        "Permutation p-value",
        (
            ("formula", "(1 + shuffles at least as good)/(1 + shuffles), so never 0"),
            ("tests", "whether scores and labels have anything to do with each other"),
            ("not", "corrected for how many are looked at, unless the table says so"),
            ("source", "Phipson & Smyth 2010"),
        ),
        _EVALUATION + "test_p_values_are_uniform_when_there_is_nothing_to_find",
        ("p", "p_value", "permutation"),
    ),
)

WORD_CARDS: tuple[WordCard, ...] = (
    *PROBE_CARDS, *_POSITION_CARDS, *_BASELINE_CARDS, *_TRIPWIRE_CARDS, *_LABEL_CARDS,
    *_METHOD_CARDS, *COMPARISON_METHODS, *READING_CARDS, *REASONING_WORDS,
)  # fmt: skip
