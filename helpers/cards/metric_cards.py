"""The card of every metric that a report shows.

n is the number of questions, y_i a label (0 or 1, or nats), s_i a score, p_i a probability.
"""

from __future__ import annotations

from helpers.cards.comparison_cards import COMPARISON_METRICS
from helpers.cards.reasoning_cards import REASONING_METRICS
from helpers.cards.record import MetricCard

_HIGHER, _LOWER = "higher is better", "lower is better"
_BOOTSTRAP = "95 % percentile bootstrap over questions (see bootstrap_interval)"
_PERMUTATION = "one-sided, labels dealt out again (see permutation_p_value)"
_NONE = "none: the metric only chooses, on validation questions"
_TESTS = "tests/test_evaluation.py::"
_OWN_TESTS = "tests/test_cards.py::"


_CLASSIFIERS = (
    MetricCard(
        name="auroc",
        title="AUROC",
        formula="P(s of a positive > s of a negative) + ½ P(equal), over all such pairs",
        units="0 to 1; 0.5 is chance, and what a constant score gets",
        direction=_HIGHER,
        source="Hanley & McNeil 1982, with midranks for ties",
        interval=_BOOTSTRAP,
        p_value=_PERMUTATION,
        test=_TESTS + "test_classifier_metrics_equal_sklearn_with_ties",
        note="Undefined where all labels are the same.",
    ),
    MetricCard(
        name="average_precision",
        title="Average precision",
        formula="Σ_k (recall_k − recall_{k−1}) · precision_k over thresholds k, ties in one step",
        units="0 to 1; the share of positives is chance",
        direction=_HIGHER,
        source="as in scikit-learn; no interpolation",
        interval=_BOOTSTRAP,
        p_value=_PERMUTATION,
        test=_TESTS + "test_classifier_metrics_equal_sklearn_with_ties",
        note="Chance differs between data sets, so that values of two of them do not compare.",
    ),
    MetricCard(
        name="brier",
        title="Brier score",
        formula="(1/n) Σ_i (p_i − y_i)²",
        units="0 to 1; a forecast of the base rate b gets b(1 − b)",
        direction=_LOWER,
        source="Brier 1950",
        interval=_BOOTSTRAP,
        p_value=_PERMUTATION,
        test=_TESTS + "test_classifier_metrics_equal_sklearn_with_ties",
    ),
    MetricCard(
        name="ece",
        title="Expected calibration error",
        formula="Σ_b (n_b/n) |mean of p − share of y = 1| over ten bins b of equal width",
        units="0 to 1",
        direction=_LOWER,
        source="Naeini et al. 2015; Guo et al. 2017",
        interval=_BOOTSTRAP + "; it leans upwards, since gaps never cancel",
        p_value="none: under shuffled labels a forecast of the base rate is calibrated too",
        test=_TESTS + "test_classifier_metrics_equal_sklearn_with_ties",
        also=("expected_calibration_error",),
    ),
    MetricCard(
        name="expected_calibration",
        title="Reliability: observed against expected frequency",
        formula="in each of ten bins of p: the mean of p against the share of y = 1",
        units="probability against probability; the diagonal is calibrated",
        direction="nearer to the diagonal is better",
        source="Murphy & Winkler 1977; Wilson 1927 for the intervals",
        interval="95 % Wilson interval of each bin's share",
        p_value="none",
        test=_TESTS + "test_reliability_counts_every_row_once_and_draws_wilson_bands",
        also=("reliability", "calibration"),
    ),
    MetricCard(
        name="mean_auroc",
        title="AUROC averaged over scorings",
        formula="the mean over scorings of AUROC, all of the same questions and labels",
        units="0 to 1; 0.5 is chance",
        direction=_HIGHER,
        source="Hanley & McNeil 1982",
        interval=_BOOTSTRAP + ", with the average inside",
        p_value="none: the null of an average is not that of one scoring",
        test=_OWN_TESTS + "test_averages_and_shares_by_hand",
        note="Used where an estimator is computed from many subsets of the samples.",
    ),
)

_REGRESSIONS = (
    MetricCard(
        name="rmse",
        title="Root mean squared error",
        formula="√((1/n) Σ_i (ŷ_i − y_i)²)",
        units="those of the target: nats, for an entropy",
        direction=_LOWER,
        source="textbook",
        interval=_BOOTSTRAP,
        p_value=_PERMUTATION,
        test=_TESTS + "test_regression_metrics_equal_numpy_and_scipy",
    ),
    MetricCard(
        name="mae",
        title="Mean absolute error",
        formula="(1/n) Σ_i |ŷ_i − y_i|",
        units="those of the target: nats, for an entropy",
        direction=_LOWER,
        source="textbook",
        interval=_BOOTSTRAP,
        p_value=_PERMUTATION,
        test=_TESTS + "test_regression_metrics_equal_numpy_and_scipy",
    ),
    MetricCard(
        name="spearman",
        title="Spearman's rank correlation",
        formula="Pearson's correlation of the midranks of ŷ and y",
        units="−1 to 1; 0 is chance",
        direction=_HIGHER,
        source="Spearman 1904",
        interval=_BOOTSTRAP + ", every resample ranked anew",
        p_value="by permutation; one-sided where one column predicts the other, else two-sided",
        test=_TESTS + "test_regression_metrics_equal_numpy_and_scipy",
        note="Undefined where all values of a column are equal.",
    ),
    MetricCard(
        name="r2",
        title="R² on validation",
        formula="1 − Σ_i (ŷ_i − y_i)² / Σ_i (y_i − mean of train)²",
        units="up to 1; 0 is the mean of train, less is worse than it",
        direction=_HIGHER,
        source="textbook, against the training mean",
        interval=_NONE,
        p_value=_NONE,
        test=_OWN_TESTS + "test_what_a_sweep_chooses_by_is_the_textbook_value",
    ),
    MetricCard(
        name="d2",
        title="D² on validation",
        formula="1 − Σ_i CE(ŷ_i, y_i) / Σ_i CE(mean of train, y_i), each less the entropy of y_i",
        units="up to 1; 0 is the mean of train, less is worse than it",
        direction=_HIGHER,
        source="Hastie et al. 2015, eq. 3.11, share of the deviance; CE is the cross-entropy, nats",
        interval=_NONE,
        p_value=_NONE,
        test=_OWN_TESTS + "test_what_a_sweep_chooses_by_is_the_textbook_value",
    ),
)

_SELECTIVE = (
    MetricCard(
        name="aurc",
        title="Area under risk–coverage",
        formula="(1/n) Σ_k (wrong among the k most certain)/k, over k = 1 … n; ties on average",
        units="0 to 1; a random order expects the error rate",
        direction=_LOWER,
        source="Geifman & El-Yaniv 2017",
        interval=_BOOTSTRAP + ", every resample ranked anew",
        p_value=_PERMUTATION,
        test=_OWN_TESTS + "test_selective_metrics_by_hand",
        note="The mean selective risk over coverages. AURAC in the code of the semantic entropy "
        "probes is another number: accuracy at twenty quantiles, 0.947 at best.",
    ),
    MetricCard(
        name="e_aurc",
        title="Excess AURC",
        formula="AURC less that of the perfect order, in which every wrong answer comes last",
        units="0 upwards",
        direction=_LOWER,
        source="Geifman, Uziel & El-Yaniv 2019",
        interval=_BOOTSTRAP + ", every resample against its own perfect order",
        p_value=_PERMUTATION,
        test=_OWN_TESTS + "test_selective_metrics_by_hand",
    ),
    MetricCard(
        name="accuracy_at_coverage",
        title="Accuracy at coverage",
        formula="share of right answers among the ⌈coverage · n⌉ most certain; ties on average",
        units="0 to 1; accuracy_at_80 is at a coverage of 80 %",
        direction=_HIGHER,
        source="El-Yaniv & Wiener 2010, one point of risk–coverage",
        interval=_BOOTSTRAP + ", every resample ranked anew",
        p_value=_PERMUTATION,
        test=_OWN_TESTS + "test_selective_metrics_by_hand",
        also=("accuracy_at_80", "accuracy_at_90", "accuracy_at_95"),
    ),
    MetricCard(
        name="share_answered",
        title="Share answered",
        formula="questions whose score is below the threshold / n",
        units="0 to 1",
        direction=_HIGHER,
        source="the coverage of a selective classifier; El-Yaniv & Wiener 2010",
        interval="95 % Clopper–Pearson",
        p_value="none",
        test=_OWN_TESTS + "test_averages_and_shares_by_hand",
    ),
    MetricCard(
        name="error_among_answered",
        title="Error among the answered",
        formula="share of wrong answers among the questions whose score is below the threshold",
        units="0 to 1, to be held against the promised α",
        direction=_LOWER,
        source="the selective risk; the promise: Angelopoulos et al. 2021, Learn then Test",
        interval="95 % Clopper–Pearson",
        p_value="binomial: the chance of at least as many errors, were the error α",
        test=_OWN_TESTS + "test_averages_and_shares_by_hand",
        also=("error",),
    ),
)

_OTHERS = (
    MetricCard(
        name="difference",
        title="Paired difference",
        formula="metric of a method − metric of another, on the same questions",
        units="those of the metric",
        direction="above 0: the first has the larger value",
        source="paired bootstrap; Efron & Tibshirani 1993",
        interval="95 % percentile bootstrap, both methods on the same resamples",
        p_value="two-sided: twice the smaller share of resamples on the other side of 0, or at 0",
        test=_TESTS + "test_the_paired_p_value_counts_resamples_on_the_other_side_twice",
        note="Sharper than holding two intervals against each other, and right where they overlap.",
        also=("auroc_difference", "auroc_difference_to_baseline", "paired_difference"),
    ),
    MetricCard(
        name="adjusted_rand_index",
        title="Adjusted Rand index",
        formula="(pairs together in both − expected)/(mean of both counts of pairs − expected)",
        units="up to 1, for equal clusters; 0 is chance",
        direction=_HIGHER,
        source="Hubert & Arabie 1985; 1 where both put all together, or all apart (scikit-learn)",
        interval=_BOOTSTRAP + ", of the mean over questions",
        p_value="none",
        test=_OWN_TESTS + "test_averages_and_shares_by_hand",
        also=("adjusted_rand", "ari"),
    ),
)

METRIC_CARDS: dict[str, MetricCard] = {
    card.name: card
    for card in (
        *_CLASSIFIERS,
        *_REGRESSIONS,
        *_SELECTIVE,
        *_OTHERS,
        *COMPARISON_METRICS,
        *REASONING_METRICS,
    )
}
