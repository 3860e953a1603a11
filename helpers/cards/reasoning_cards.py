"""Cards of the study of reasoning models: its probes, baselines, labels, and its own metric."""

from __future__ import annotations

from helpers.cards.record import MetricCard, WordCard

_RUNS = "tests/test_reasoning_runs.py::"
_PROBES = "tests/test_reasoning_probes.py::"
_SCORES = "tests/test_reasoning_assessing.py::"
_TABLE = "tests/test_analysis_table.py::"
_READS = "hidden states where the thinking closes (think_end), standardised, one layer"
_KIND = "logistic regression, its probabilities calibrated on validation"
_FITTED = "fitted on train; layer and λ by AUROC on validation; scored on test and ood"

REASONING_METRICS = (
    MetricCard(
        name="within_question",
        title="AUROC among the runs of one question",
        formula="P(s of a right run > s of a wrong run) + ½ P(equal), over pairs of one question",
        units="0 to 1; 0.5 for a score that is the same for all runs of a question",
        direction="higher is better",
        source="here: Hanley & McNeil 1982, counted within groups",
        interval="95 % percentile bootstrap over questions (see bootstrap_interval)",
        p_value="one-sided, labels dealt out again within each question",
        test="tests/test_within_group.py::test_it_is_the_share_of_pairs_within_groups",
        note="Only questions with right and wrong runs count. A score that knows how hard a "
        "question is, and nothing of the run, has a high AUROC and 0.5 here.",
        also=("within_group_auroc",),
    ),
)
REASONING_WORDS = (
    WordCard(
        "probe",
        "correctness",
        "Correctness probe of a run",
        (
            ("target", "1 where the run's final answer is right; runs that state none left out"),
            ("reads", _READS),
            ("kind", _KIND),
            ("chosen", _FITTED),
        ),
        _PROBES + "test_the_planted_layers_are_chosen_and_their_directions_found",
        ("probability_correctness", "margin_correctness", "projection_correctness"),
    ),
    WordCard(
        "probe",
        "semantic_entropy",
        "Semantic-entropy probe of a run",
        (
            ("target", "1 where the semantic entropy of the run's question is high (above γ)"),
            ("reads", _READS),
            ("kind", _KIND),
            ("chosen", _FITTED),
            ("for correctness", "its sign is turned: high entropy speaks against the run"),
        ),
        _PROBES + "test_the_planted_layers_are_chosen_and_their_directions_found",
        ("probability_semantic_entropy", "margin_semantic_entropy"),
    ),
    WordCard(
        "probe",
        "thinking_entropy",
        "Thinking entropy, the baseline",
        (
            ("formula", "(1/T) Σ_t H(p_t), nats, over the T tokens between the thinking tags"),
            ("H", "of the untempered distribution over the full vocabulary"),
            ("as a probe", "logistic regression on this one number, for a right run"),
            ("without thinking", "over all generated tokens; the run's summary says so"),
        ),
        _PROBES + "test_the_baseline_is_the_logistic_regression_on_one_feature",
        ("probability_thinking_entropy", "mean_thinking_entropy"),
    ),
    WordCard(
        "probe",
        "combined",
        "Combination of the three",
        (
            ("target", "1 where the run's final answer is right"),
            ("reads", "the log-odds of correctness, semantic_entropy and thinking_entropy"),
            ("kind", "logistic regression, fitted on validation"),
        ),
        _PROBES + "test_the_combination_learns_signs_and_gains_from_independent_signals",
        ("probability_combined", "combination"),
    ),
    WordCard(
        "baseline",
        "thinking_length",
        "Length of the thinking",
        (("is", "tokens between the thinking tags"), ("sign", "learnt on train")),
        _SCORES + "test_the_sign_of_the_length_is_learnt_on_train_alone",
        ("thinking_tokens",),
    ),
    WordCard(
        "baseline",
        "question_semantic_entropy",
        "Semantic entropy of the question",
        (
            ("is", "semantic entropy of the question's valid runs, nats, its sign turned"),
            ("costs", "the question's other runs"),
        ),
        _SCORES + "test_signs_of_what_is_scored_for_the_other_label",
    ),
    WordCard(
        "baseline",
        "agreement",
        "Agreement with the other runs",
        (
            ("formula", "other valid runs of the question with the same final answer / all others"),
            ("costs", "the question's other runs"),
        ),
        _RUNS + "test_labels_come_from_the_training_questions_and_agreement_from_the_other_runs",
        ("self_consistency",),
    ),
    WordCard(
        "label",
        "valid_run",
        "Valid run",
        (
            ("left out", "runs cut off by the token limit, and runs that never close the thinking"),
            ("then", "questions with fewer valid runs than --min-runs (4); all are counted"),
        ),
        _RUNS + "test_runs_are_left_out_by_rule",
        ("excluded", "runs_dropped", "questions_dropped"),
    ),
    WordCard(
        "label",
        "ood",
        "Out of distribution",
        (
            ("is", "questions of another source (--ood-questions), asked of the same model"),
            ("used", "for scores alone: nothing is fitted or chosen on them"),
        ),
        _PROBES + "test_nothing_of_the_scored_splits_changes_a_probe",
        ("out_of_distribution",),
    ),
    WordCard(
        "label",
        "confidence",
        "Confidence of right and wrong runs",
        (
            ("is", "mean probability of a right run, over the right runs and over the wrong ones"),
            ("says", "how far apart they are; not whether the probability is calibrated (see ece)"),
        ),
        _SCORES + "test_differences_and_confidence_point_the_right_way",
    ),
    WordCard(
        "label",
        "projection",
        "Margin and projection",
        (
            ("margin", "the probe's log-odds after calibration, nats"),
            ("projection", "(w·z + b)/|w|: distance to its boundary in sd of the training states"),
        ),
        _PROBES + "test_predictions_are_those_of_all_rows_at_once_and_projections_are_distances",
        ("margin",),
    ),
    WordCard(
        "label",
        "representative",
        "Representative run",
        (("is", "the first run of the largest group of equal final answers of its question"),),
        _TABLE + "test_one_representative_a_question_of_its_largest_group",
    ),
    WordCard(
        "label",
        "umap",
        "UMAP coordinates",
        (
            ("of", "hidden states at the correctness probe's layer, fitted once on all runs"),
            ("mean", "neighbours are alike; distances between groups and axes mean nothing"),
            ("source", "McInnes et al. 2018, umap-learn, seeded"),
        ),
        "tests/test_umap_map.py::test_a_seed_gives_one_map_that_keeps_neighbours_together",
        ("umap_x", "umap_y"),
    ),
)
