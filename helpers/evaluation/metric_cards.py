"""The card of every metric that a report shows.

n is the number of questions, y_i a label (0 or 1, or nats), s_i a score, p_i a probability.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER = "higher is better", "lower is better"
BOOTSTRAP = "95 % percentile bootstrap over questions (see bootstrap_interval)"
RANKED_ANEW = BOOTSTRAP + ", every resample ranked anew"
PERMUTATION = "one-sided, labels dealt out again (see permutation_p_value)"
CHOOSES = "none: the metric only chooses, on validation questions"
EVALUATION = "tests/evaluation/test_evaluation.py::"
CARDS = "tests/cli/test_explain.py::"
LIKE_SKLEARN = EVALUATION + "test_classifier_metrics_equal_sklearn_with_ties"
LIKE_SCIPY = EVALUATION + "test_regression_metrics_equal_numpy_and_scipy"


@dataclass(frozen=True)
class MetricCard:
    """What a metric is, and how its interval and p-value are made."""

    name: str
    title: str
    formula: str
    units: str
    direction: str
    source: str
    test: str  # the pytest node id that pins the number
    interval: str = BOOTSTRAP
    p_value: str = PERMUTATION
    note: str = ""  # what to know before reading the number
    also: tuple[str, ...] = ()  # other names under which results hold it


_CLASSIFIERS = (
    MetricCard(
        name="auroc",
        title="AUROC",
        formula="P(s of a positive > s of a negative) + ½ P(equal), over all such pairs",
        units="0 to 1; 0.5 is chance, and what a constant score gets",
        direction=HIGHER,
        source="Hanley & McNeil 1982, with midranks for ties",
        test=LIKE_SKLEARN,
        note="Undefined where all labels are the same.",
    ),
    MetricCard(
        name="average_precision",
        title="Average precision",
        formula="Σ_k (recall_k − recall_{k−1}) · precision_k over thresholds k, ties in one step",
        units="0 to 1; the share of positives is chance",
        direction=HIGHER,
        source="as in scikit-learn; no interpolation",
        test=LIKE_SKLEARN,
        note="Chance differs between data sets, so that values of two of them do not compare.",
    ),
    MetricCard(
        name="brier",
        title="Brier score",
        formula="(1/n) Σ_i (p_i − y_i)²",
        units="0 to 1; a forecast of the base rate b gets b(1 − b)",
        direction=LOWER,
        source="Brier 1950",
        test=LIKE_SKLEARN,
    ),
    MetricCard(
        name="ece",
        title="Expected calibration error",
        formula="Σ_b (n_b/n) |mean of p − share of y = 1| over ten bins b of equal width",
        units="0 to 1",
        direction=LOWER,
        source="Naeini et al. 2015; Guo et al. 2017",
        test=LIKE_SKLEARN,
        interval=BOOTSTRAP + "; it leans upwards, since gaps never cancel",
        p_value="none: under shuffled labels a forecast of the base rate is calibrated too",
        also=("expected_calibration_error",),
    ),
    MetricCard(
        name="expected_calibration",
        title="Reliability: observed against expected frequency",
        formula="in each of ten bins of p: the mean of p against the share of y = 1",
        units="probability against probability; the diagonal is calibrated",
        direction="nearer to the diagonal is better",
        source="Murphy & Winkler 1977; Wilson 1927 for the intervals",
        test=EVALUATION + "test_reliability_counts_every_row_once_and_draws_wilson_bands",
        interval="95 % Wilson interval of each bin's share",
        p_value="none",
        also=("reliability", "calibration"),
    ),
    MetricCard(
        name="mean_auroc",
        title="AUROC averaged over scorings",
        formula="the mean over scorings of AUROC, all of the same questions and labels",
        units="0 to 1; 0.5 is chance",
        direction=HIGHER,
        source="Hanley & McNeil 1982",
        test=CARDS + "test_averages_and_shares_by_hand",
        interval=BOOTSTRAP + ", with the average inside",
        p_value="none: the null of an average is not that of one scoring",
        note="Used where an estimator is computed from many subsets of the samples.",
    ),
    MetricCard(
        name="within_question",
        title="AUROC among the answers of one question",
        formula="P(s of a positive > s of a negative) + ½ P(equal), over pairs of one question",
        units="0 to 1; 0.5 for a score that is the same for all answers of a question",
        direction=HIGHER,
        source="here: Hanley & McNeil 1982, counted within groups",
        test="tests/evaluation/test_within_group.py::test_it_is_the_share_of_pairs_within_groups",
        p_value="one-sided, labels dealt out again within each question",
        note="Only questions with both labels count. A score that knows how hard a question is, "
        "and nothing of the answer, has a high AUROC and 0.5 here.",
        also=("within_group_auroc",),
    ),
)

_REGRESSIONS = (
    MetricCard(
        name="rmse",
        title="Root mean squared error",
        formula="√((1/n) Σ_i (ŷ_i − y_i)²)",
        units="those of the target: nats, for an entropy",
        direction=LOWER,
        source="textbook",
        test=LIKE_SCIPY,
    ),
    MetricCard(
        name="mae",
        title="Mean absolute error",
        formula="(1/n) Σ_i |ŷ_i − y_i|",
        units="those of the target: nats, for an entropy",
        direction=LOWER,
        source="textbook",
        test=LIKE_SCIPY,
    ),
    MetricCard(
        name="spearman",
        title="Spearman's rank correlation",
        formula="Pearson's correlation of the midranks of ŷ and y",
        units="−1 to 1; 0 is chance",
        direction=HIGHER,
        source="Spearman 1904",
        test=LIKE_SCIPY,
        interval=RANKED_ANEW,
        p_value="by permutation; one-sided where one column predicts the other, else two-sided",
        note="Undefined where all values of a column are equal.",
    ),
    MetricCard(
        name="r2",
        title="R²",
        formula="1 − Σ_i (ŷ_i − y_i)² / Σ_i (y_i − mean of train)²",
        units="up to 1; 0 is the mean of train, less is worse than it",
        direction=HIGHER,
        source="textbook, against the training mean",
        test=CARDS + "test_what_a_sweep_chooses_by_is_the_textbook_value",
        interval="none where it chooses, on validation; on test " + BOOTSTRAP,
        p_value="none",
        also=("r2_on_test",),
    ),
    MetricCard(
        name="d2",
        title="D² on validation",
        formula="1 − Σ_i CE(ŷ_i, y_i) / Σ_i CE(mean of train, y_i), each less the entropy of y_i",
        units="up to 1; 0 is the mean of train, less is worse than it",
        direction=HIGHER,
        source="Hastie et al. 2015, eq. 3.11, share of the deviance; CE is the cross-entropy, nats",
        test=CARDS + "test_what_a_sweep_chooses_by_is_the_textbook_value",
        interval=CHOOSES,
        p_value=CHOOSES,
    ),
)

_SELECTIVE = (
    MetricCard(
        name="aurc",
        title="Area under risk–coverage",
        formula="(1/n) Σ_k (wrong among the k most certain)/k, over k = 1 … n; ties on average",
        units="0 to 1; a random order expects the error rate",
        direction=LOWER,
        source="Geifman & El-Yaniv 2017",
        test=CARDS + "test_selective_metrics_by_hand",
        interval=RANKED_ANEW,
        note="The mean selective risk over coverages. AURAC in the code of the semantic entropy "
        "probes is another number: accuracy at twenty quantiles, 0.947 at best.",
    ),
    MetricCard(
        name="e_aurc",
        title="Excess AURC",
        formula="AURC less that of the perfect order, in which every wrong answer comes last",
        units="0 upwards",
        direction=LOWER,
        source="Geifman, Uziel & El-Yaniv 2019",
        test=CARDS + "test_selective_metrics_by_hand",
        interval=BOOTSTRAP + ", every resample against its own perfect order",
    ),
    MetricCard(
        name="accuracy_at_coverage",
        title="Accuracy at coverage",
        formula="share of right answers among the ⌈coverage · n⌉ most certain; ties on average",
        units="0 to 1; accuracy_at_80 is at a coverage of 80 %",
        direction=HIGHER,
        source="El-Yaniv & Wiener 2010, one point of risk–coverage",
        test=CARDS + "test_selective_metrics_by_hand",
        interval=RANKED_ANEW,
        also=("accuracy_at_80", "accuracy_at_90", "accuracy_at_95"),
    ),
    MetricCard(
        name="share_answered",
        title="Share answered",
        formula="questions whose score is below the threshold / n",
        units="0 to 1",
        direction=HIGHER,
        source="the coverage of a selective classifier; El-Yaniv & Wiener 2010",
        test=CARDS + "test_averages_and_shares_by_hand",
        interval="95 % Clopper–Pearson",
        p_value="none",
    ),
    MetricCard(
        name="error_among_answered",
        title="Error among the answered",
        formula="share of wrong answers among the questions whose score is below the threshold",
        units="0 to 1, to be held against the promised α",
        direction=LOWER,
        source="the selective risk; the promise: Angelopoulos et al. 2021, Learn then Test",
        test=CARDS + "test_averages_and_shares_by_hand",
        interval="95 % Clopper–Pearson",
        p_value="binomial: the chance of at least as many errors, were the error α",
        also=("error",),
    ),
)

_OTHERS = (
    MetricCard(
        name="accuracy",
        title="Accuracy of the most likely answers",
        formula="right / (right + wrong), over the most likely answers that are graded",
        units="0 to 1",
        direction=HIGHER,
        source="textbook",
        test="tests/studies/semantic_entropy/test_compare.py::test_own_scores_are_those_of_the_runs_report",
        p_value="none of the number itself; of a difference of runs see paired_permutation",
        also=("share",),
    ),
    MetricCard(
        name="difference",
        title="Paired difference",
        formula="metric of a method or run − metric of another, on the same questions",
        units="those of the metric",
        direction="above 0: the first has the larger value",
        source="paired bootstrap; Efron & Tibshirani 1993",
        test=EVALUATION + "test_the_paired_p_value_counts_resamples_on_the_other_side_twice",
        interval="95 % percentile bootstrap, both methods on the same resamples",
        p_value="two-sided: twice the smaller share of resamples on the other side of 0, or at 0",
        note="Sharper than holding two intervals against each other, and right where they overlap.",
        also=("auroc_difference", "auroc_difference_to_baseline", "paired_difference", "a_b"),
    ),
    MetricCard(
        name="adjusted_rand_index",
        title="Adjusted Rand index",
        formula="(pairs together in both − expected)/(mean of both counts of pairs − expected)",
        units="up to 1, for equal clusters; 0 is chance",
        direction=HIGHER,
        source="Hubert & Arabie 1985; 1 where both put all together, or all apart (scikit-learn)",
        test=CARDS + "test_averages_and_shares_by_hand",
        interval=BOOTSTRAP + ", of the mean over questions",
        p_value="none",
        also=("adjusted_rand", "ari"),
    ),
)

METRIC_CARDS: dict[str, MetricCard] = {
    card.name: card for card in (*_CLASSIFIERS, *_REGRESSIONS, *_SELECTIVE, *_OTHERS)
}
