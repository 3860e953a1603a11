"""Cards of what is said of one question that was asked: intervals, shares, and how usual it is.

ŷ_i is a probe's prediction for validation question i, y_i what was measured of it.
"""

from __future__ import annotations

from helpers.cards.record import WordCard

_ASKING = "tests/test_asking.py::"
_OPTIMISTIC = (
    "layer, position and calibration were chosen on these questions, so it is a little too good"
)

READING_CARDS = (
    WordCard(
        "reading",
        "prediction_interval",
        "90 % interval of a predicted entropy",
        (
            ("formula", "ŷ ± the |ŷ_i − y_i| of rank ⌈0.9 (n + 1)⌉ among n validation questions"),
            ("units", "nats; ŷ, ŷ_i and the ends are moved into 0 … ln K"),
            ("promises", "to hold the entropy of nine in ten questions drawn like those, whatever "
             "the probe; of a single kind of question it promises nothing"),
            ("none", "with fewer than 9 validation questions"),
            ("note", _OPTIMISTIC),
            ("source", "split conformal prediction: Vovk et al. 2005; Lei et al. 2018"),
        ),
        _ASKING + "test_conformal_intervals_cover_exchangeable_questions",
        ("conformal_interval", "conformal", "interval_of_a_predicted_entropy"),
    ),
    WordCard(
        "reading",
        "observed_share",
        "How often such a probability came true",
        (
            ("formula", "share of positives among the 30 validation questions of nearest ŷ_i"),
            ("units", "0 to 1; a calibrated probability lies in its interval"),
            ("interval", "95 % Wilson interval of a share of 30"),
            ("none", "with fewer than 30 validation questions whose outcome is known"),
            ("note", _OPTIMISTIC),
            ("source", "Wilson 1927"),
        ),
        _ASKING + "test_the_observed_share_is_that_of_the_nearest_predictions",
        ("wilson_interval", "wilson"),
    ),
    WordCard(
        "reading",
        "unlikeness",
        "Distance to the training questions",
        (
            ("formula", "share of validation questions with a smaller d;  "
             "d = mean distance of a state to its 5 nearest training states"),
            ("units", "0 to 1; a usual question gets 0.5 on average"),
            ("reads", "states at the probe's place, standardised as the probe does; of at most "
             "2,000 training and 500 validation questions"),
            ("warns", "unusual from 0.95 on, not to be trusted from 0.99 on"),
            ("none", "with fewer than 20 validation or 5 training questions"),
            ("source", "Sun et al. 2022, nearest neighbours for out-of-distribution detection"),
        ),
        _ASKING + "test_a_question_unlike_the_training_questions_is_told_from_a_usual_one",
        ("distance_to_the_training_questions", "distance", "out_of_distribution"),
    ),
    WordCard(
        "reading",
        "training_quantile",
        "Place among the training questions",
        (
            ("what", "share of the training questions for which the probe predicts less"),
            ("units", "0 to 1; between the stored twentieths a straight line"),
        ),
        "tests/test_probes.py::test_training_quantile_places_a_prediction_among_the_training_rows",
        ("higher_than_of_the_training_questions",),
    ),
    WordCard(
        "reading",
        "verdict",
        "Whether a prediction came true for one question",
        (
            ("entropy", "whether that of K fresh samples lies in the prediction's interval"),
            ("chances", "whether what a probability above one half stands for came true"),
            ("not", "a test of a probability: that takes the test questions of the run"),
        ),
        _ASKING + "test_the_verdict_compares_what_was_foreseen_with_what_was_found",
    ),
)  # fmt: skip
