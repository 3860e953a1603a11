"""The cards of numbers by which runs, or other groupings of a run's answers, are compared.

n is the number of test questions, n_c the number of samples in meaning c.
"""

from __future__ import annotations

from helpers.cards.record import MetricCard, WordCard

_BOOTSTRAP = "95 % percentile bootstrap over questions (see bootstrap_interval)"
_NO_P = "none of the number itself; of a difference of runs see paired_permutation"
_WHAT_IF = "tests/test_what_if.py::"
_COMPARE = "tests/test_compare_runs.py::"

COMPARISON_METRICS = (
    MetricCard(
        name="mean_semantic_entropy",
        title="Mean semantic entropy",
        formula="(1/n) Σ_i semantic entropy of question i",
        units="nats; 0 to ln K",
        direction="higher: the answers disagree more",
        source="textbook",
        interval=_BOOTSTRAP,
        p_value=_NO_P,
        test=_WHAT_IF + "test_means_of_a_grouping_are_those_of_its_test_questions",
        note="Runs of different K do not compare: ln K differs.",
        also=("nats",),
    ),
    MetricCard(
        name="mean_number_of_meanings",
        title="Mean number of meanings",
        formula="(1/n) Σ_i number of meanings among the samples of question i",
        units="1 to the number of samples",
        direction="higher: more meanings",
        source="textbook",
        interval=_BOOTSTRAP,
        p_value="none",
        test=_WHAT_IF + "test_means_of_a_grouping_are_those_of_its_test_questions",
        also=("meanings",),
    ),
    MetricCard(
        name="share_above_threshold",
        title="Share of questions with high semantic entropy",
        formula="questions with semantic entropy > γ / n",
        units="0 to 1; γ as in threshold, or as it was set",
        direction="higher: more questions are uncertain",
        source="textbook",
        interval=_BOOTSTRAP,
        p_value="none",
        test=_WHAT_IF + "test_gamma_is_learnt_on_train_and_makes_the_labels",
        also=("high", "share_above_gamma"),
    ),
    MetricCard(
        name="questions_grouped_otherwise",
        title="Questions grouped otherwise than stored",
        formula="questions of which a pair of samples is together in one grouping alone",
        units="questions, of all splits",
        direction="0: the groupings are the same",
        source="textbook",
        interval="none: it is a count of all questions",
        p_value="none",
        test=_WHAT_IF + "test_means_of_a_grouping_are_those_of_its_test_questions",
        also=("changed",),
    ),
    MetricCard(
        name="accuracy",
        title="Accuracy of the most likely answers",
        formula="right / (right + wrong), over the most likely answers that are graded",
        units="0 to 1",
        direction="higher is better",
        source="textbook",
        interval=_BOOTSTRAP,
        p_value=_NO_P,
        test=_COMPARE + "test_own_scores_are_those_of_the_runs_report",
        also=("share",),
    ),
    MetricCard(
        name="samples_right",
        title="Share of sampled answers that are right",
        formula="mean over questions of right / (right + wrong) among the question's samples",
        units="0 to 1; questions none of whose samples state an answer are left out",
        direction="higher is better",
        source="textbook",
        interval=_BOOTSTRAP,
        p_value="none",
        test=_WHAT_IF + "test_runs_are_compared_where_they_differ_in_temperature_only",
        also=("accuracy",),
    ),
    MetricCard(
        name="r2_on_test",
        title="R² on test, of a probe at a place of one's own",
        formula="1 − Σ_i (ŷ_i − y_i)² / Σ_i (y_i − mean of train)²",
        units="up to 1; 0 is the mean of train, less is worse than it",
        direction="higher is better",
        source="textbook, against the training mean",
        interval=_BOOTSTRAP,
        p_value="none: it is to be looked at, and chooses nothing",
        test=_WHAT_IF + "test_r_squared_is_the_share_of_the_squared_error_taken_away",
        also=("r2",),
    ),
)

COMPARISON_METHODS = (
    WordCard(
        "method",
        "paired_permutation",
        "Paired permutation p-value of two runs",
        (
            ("formula", "(1 + sign changes with |Σ ± d_i| ≥ |Σ d_i|)/(1 + sign changes)"),
            ("where", "d_i is A less B of shared test question i; which run is which is dealt out "
             "at random, for every question on its own"),
            ("tests", "two-sided, whether it matters which run a value came from"),
            ("of", "accuracy, mean semantic entropy, and RMSE by its squared errors; of AUROC and "
             "Spearman the p-value is by bootstrap (see paired_difference)"),
            ("source", "Fisher 1935, randomisation of pairs; Phipson & Smyth 2010"),
        ),
        _COMPARE + "test_the_permutation_test_meets_all_sign_changes",
        ("sign_flip", "permutation_of_differences"),
    ),
    WordCard(
        "method",
        "comparison_of_runs",
        "A − B of two runs",
        (
            ("what", "the metric of run A less that of run B, each with its own scores and labels"),
            ("on", "the test questions, by id and text, that both have"),
            ("interval", "95 % percentile bootstrap, the same questions drawn for both"),
            ("p-value", "two-sided: by paired_permutation for means, else by bootstrap, "
             "2 (1 + smaller side)/(1 + resamples)"),
        ),
        _COMPARE + "test_a_difference_is_that_of_the_shared_questions_naively",
        ("a_b", "difference_of_runs"),
    ),
)  # fmt: skip
