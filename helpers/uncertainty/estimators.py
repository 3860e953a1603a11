"""The formula card of every estimator; choosing estimators by name, and applying them to a
question.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from helpers.errors import UserError
from helpers.uncertainty.entropies import (
    NEEDS,
    Answers,
    Estimator,
    degree,
    eccentricity,
    eigenscore,
    eigv,
    kernel_language_entropy,
    lexical_entropy,
    lexical_similarity,
    mean_token_entropy,
    n_meanings,
    noncontradiction,
    p_false,
    perplexity,
    predictive_entropy,
    predictive_entropy_normalised,
    semantic_density,
    semantic_entropy,
    semantic_entropy_cluster_mean,
    semantic_entropy_cmean,
    semantic_entropy_kuhn,
    semantic_entropy_rao,
    sequence_nll,
)

# --- formula cards of estimators that need more than the samples ---------------------------------
#
# Symbols as in those below.


_GRAPH_TESTS = "tests/uncertainty/test_graphs.py::"
_ANSWER_TESTS = "tests/uncertainty/test_answers.py::"
_WITH_SELF = "W_ij = (e_ij + e_ji)/2, W_ii = 1"

JUDGED_CARDS = (
    Estimator(
        name="eigv", title="Sum of Laplacian eigenvalues",
        units="1 (one meaning) to N, a continuous number of meanings", needs=("judgements",),
        function=eigv,
        formula=f"U = Σ_k max(0, 1 − λ_k);  L = I − D^−½ W D^−½;  {_WITH_SELF}",
        source="Lin et al. 2024 (TMLR), U_EigV with entailment",
        also_called="EigValLaplacian_NLI_score_entail (lm-polygraph: W_ii is what the judge says "
        "of an answer and itself); spectral_eigv_clip|agreement_w (UQ-NLG), SumEigenUncertainty "
        "(TruthTorchLM): the judge's logits are divided by 3",
        test=_GRAPH_TESTS + "test_graph_estimators_are_those_of_lm_polygraph",
    ),
    Estimator(
        name="degree", title="Degree", units="0 to 1 − 1/N", needs=("judgements",), function=degree,
        formula=f"U = 1 − Σ_ij W_ij / N²;  {_WITH_SELF}",
        source="Lin et al. 2024 (TMLR), U_Deg with entailment",
        also_called="DegMat_NLI_score_entail (lm-polygraph: W_ii as for its eigenvalues); "
        "MatrixDegreeUncertainty (TruthTorchLM: logits divided by 3); degree|agreement_w (UQ-NLG: "
        "N times ours, logits divided by 3)",
        test=_GRAPH_TESTS + "test_graph_estimators_are_those_of_lm_polygraph",
    ),
    Estimator(
        name="eccentricity", title="Eccentricity", units="0 (one meaning) to √(N − 1)",
        needs=("judgements",), function=eccentricity,
        formula="U = ‖V − mean over answers‖_F;  V [N, k] the eigenvectors of L with λ < 0.9;  "
        f"L = I − D^−½ W D^−½;  {_WITH_SELF}",
        source="Lin et al. 2024 (TMLR), U_Ecc with entailment",
        also_called="Eccentricity_NLI_score_entail (lm-polygraph: W_ii as for its eigenvalues); "
        "eccentricity|agreement_w (UQ-NLG: logits divided by 3); EccentricityUncertainty "
        "(TruthTorchLM: the sum of the answers' distances, logits divided by 3)",
        test=_GRAPH_TESTS + "test_graph_estimators_are_those_of_lm_polygraph",
        note="It jumps where an eigenvalue passes 0.9.",
    ),
    Estimator(
        name="kernel_language_entropy", title="Kernel language entropy", units="nats, 0 to ln N",
        needs=("judgements",), function=kernel_language_entropy,
        formula="H = −tr(ρ ln ρ);  ρ_ij = K_ij/√(K_ii K_jj)/N;  K = exp(−0.3 L), the matrix "
        "exponential;  L = D − W;  W_ij = e_ij + e_ji + (n_ij + n_ji)/2",
        source="Nikitin et al. 2024 (NeurIPS), KLE with the heat kernel on answers, t = 0.3",
        also_called="KernelLanguageEntropy (lm-polygraph: divided by ln N); vn_entropy of "
        "heat_kernel (KLE: the judge's labels as 1, ½, 0 in place of e + n/2, t = 0.4, divided by "
        "ln N); KernelLanguageEntropy (TruthTorchLM: labels, and the exponential of each entry in "
        "place of that of the matrix)",
        test=_GRAPH_TESTS + "test_graph_estimators_are_those_of_lm_polygraph",
        note="Near 0, but not 0, where all answers mean the same.",
    ),
    Estimator(
        name="noncontradiction", title="Contradiction (1 − non-contradiction)", units="0 to 1",
        needs=("greedy_judgements",), function=noncontradiction,
        formula="U = 1 − (1/N) Σ_i [(1 − c_gi) + (1 − c_ig)]/2;  g = the most likely answer",
        source="Chen & Mueller 2024 (ACL), as in Bouchard & Chauhan 2025",
        also_called="noncontradiction (uqlm: 1 − ours, a confidence)",
        test=_ANSWER_TESTS + "test_agreement_with_the_samples_by_hand",
        note="A judge of two labels knows no contradiction: then it is 0 for every question.",
    ),
    Estimator(
        name="semantic_density", title="Semantic density (1 − density)", units="0 to 1",
        needs=("texts", "mean_logprobs", "greedy_judgements"), function=semantic_density,
        formula="U = 1 − Σ_t w_t (1 − c_gt − n_gt/2) / Σ_t w_t over distinct samples t;  "
        "w_t = exp(mean token log-probability);  g = the most likely answer",
        source="Qiu & Miikkulainen 2024 (NeurIPS)",
        also_called="SemanticDensity (lm-polygraph: −density; the most likely answer is one of "
        "the t); semantic_density (uqlm: the density; a repeated sample counts each time)",
        test=_ANSWER_TESTS + "test_agreement_with_the_samples_by_hand",
    ),
)  # fmt: skip

MODEL_CARDS = (
    Estimator(
        name="eigenscore", title="EigenScore", units="nats, ln α = −6.9 upwards", needs=("gram",),
        function=eigenscore,
        formula="U = (1/N) Σ_k ln(λ_k + α);  λ the eigenvalues of Zᵀ J Z;  Z [width, N] the "
        "samples' states at the middle layer and last answer token;  J = I − 11ᵀ/width;  α = 0.001",
        source="Chen et al. 2024 (ICLR), INSIDE",
        also_called="EigenScore (lm-polygraph); Inside (TruthTorchLM: −ours); "
        "getEigenIndicator_v0 (INSIDE: λ/(width − 1) in place of λ, base 10, the token before the "
        "last)",
        test=_GRAPH_TESTS + "test_eigenscore_is_that_of_lm_polygraph",
        note="The size of a model's states enters it: compare it within one model only. J centres "
        "each state over its entries, not the samples over their mean.",
    ),
    Estimator(
        name="sequence_nll", title="Sequence negative log-likelihood",
        units="nats per answer, 0 upwards", needs=("greedy_sum_logprob",), function=sequence_nll,
        formula="U = −Σ_t ln p(token t of the most likely answer)",
        source="the likelihood of the answer that is given, as in Fadeeva et al. 2023 (EMNLP)",
        also_called="MaximumSequenceProbability (lm-polygraph); sequence_probability (uqlm with "
        "length_normalize=False: e^−U)",
        test=_ANSWER_TESTS + "test_likelihood_of_the_most_likely_answer",
    ),
    Estimator(
        name="perplexity", title="Perplexity", units="1 upwards", needs=("greedy_mean_logprob",),
        function=perplexity,
        formula="U = exp(−(1/T) Σ_t ln p(token t of the most likely answer))",
        source="Fomicheva et al. 2020 (TACL), sequence probability, length-normalised",
        also_called="Perplexity (lm-polygraph: ln of ours), Confidence (TruthTorchLM: −ln), "
        "sequence_probability (uqlm: 1/ours); get_perplexity_score (INSIDE: ln, of the likeliest "
        "token of each step); log likelihood (semantic-entropy-probes: 1/ours, of an answer drawn "
        "at temperature 0.1)",
        test=_ANSWER_TESTS + "test_likelihood_of_the_most_likely_answer",
    ),
    Estimator(
        name="p_true_zero_shot", title="1 − p(True), zero-shot", units="0 to 1",
        needs=("p_true_zero_shot",), function=p_false,
        formula="U = 1 − p(A)/(p(A) + p(B)) after the question, the samples, the most likely "
        "answer and: A) True B) False",
        source="Kadavath et al. 2022, p(True) with brainstormed answers",
        also_called="PTrueSampling (lm-polygraph: −p(True), not divided by p(A) + p(B)); PTrue "
        "(lm-polygraph: the same without samples; TruthTorchLM: p of the word true); p_true (uqlm: "
        "a confidence); self_prob (UQ-NLG: 1 − p of each sample)",
        test=_ANSWER_TESTS + "test_p_true_becomes_the_probability_of_being_wrong",
    ),
    Estimator(
        name="p_true_few_shot", title="1 − p(True), few-shot", units="0 to 1",
        needs=("p_true_few_shot",), function=p_false,
        formula="U = 1 − p(A)/(p(A) + p(B)), as zero-shot, after solved examples from train",
        source="Kadavath et al. 2022, p(True) with solved examples",
        also_called="p_false_fixed (semantic-entropy-probes, semantic_uncertainty, KLE: p(A) is "
        "not divided by p(A) + p(B), every sample is listed); p_false (the same packages: "
        "1 − ln p(A))",
        test=_ANSWER_TESTS + "test_p_true_becomes_the_probability_of_being_wrong",
        note="Needs training questions whose most likely answer is graded; those shown as "
        "examples have no number.",
    ),
)  # fmt: skip


# --- formula cards -------------------------------------------------------------------------------
#
# N is the number of samples, l_i the log-probability of sample i, n_c the number of samples in
# meaning c and C that of meanings; e, n and c are the judge's probabilities of entailment, neutral
# and contradiction. "Ours" is the number of the card, in words about other packages.


PACKAGES = (
    "semantic-entropy-probes 02e2167, semantic_uncertainty a8d9aa8, the code of Kuhn et al. "
    "20e0ee1, lm-polygraph 0.7.0, uqlm 0.6.1, TruthTorchLM 0.1.19, KLE be650e4, UQ-NLG 2e31420, "
    "INSIDE c50388a"
)
"""The packages that the cards speak of, and in which version."""

_MEAN_L = "l_i = mean token log-probability"
_TESTS = "tests/uncertainty/test_entropies.py::"

_MEANINGS = (
    Estimator(
        name="semantic_entropy", title="Semantic entropy (discrete)", units="nats, 0 to ln N",
        needs=("clusters",), function=semantic_entropy,
        formula="H = −Σ_c (n_c/N) ln(n_c/N)",
        source="Farquhar et al. 2024 (Nature 630), discrete semantic entropy",
        also_called="cluster_assignment_entropy (semantic-entropy-probes, semantic_uncertainty, "
        "KLE); SemanticEntropyEmpirical (lm-polygraph); discrete_entropy_values (uqlm: entailment "
        "in one direction is enough, and the original answer is pooled with the samples)",
        test=_TESTS + "test_discrete_semantic_entropy_reproduces_published_values",
    ),
    Estimator(
        name="semantic_entropy_rao", title="Semantic entropy (likelihoods)",
        units="nats, 0 to ln C", needs=("clusters", "mean_logprobs"), function=semantic_entropy_rao,
        formula="L_c = ln Σ_{i∈c} e^{l_i} − ln Σ_j e^{l_j};  H = −Σ_c e^{L_c} L_c;  " + _MEAN_L,
        source="Farquhar et al. 2024 (Nature 630), length-normalised likelihoods",
        also_called="semantic_entropy_sum-normalized-rao (semantic-entropy-probes); "
        "semantic_entropy (semantic_uncertainty, KLE); tokenprob_entropy_values (uqlm: meanings as "
        "in its discrete entropy); SemanticEntropy (lm-polygraph: −(1/N) Σ_i ln Σ_{j∈c(i)} p_j of "
        "whole answers, whose sum may exceed 1)",
        test=_TESTS + "test_the_four_aggregations_reproduce_published_values",
    ),
    Estimator(
        name="semantic_entropy_kuhn", title="Semantic entropy (Kuhn et al.)",
        units="nats, −ln N upwards", needs=("clusters", "mean_logprobs"),
        function=semantic_entropy_kuhn,
        formula="L_c = ln Σ_{i∈c} e^{l_i};  H = −(1/C) Σ_c L_c;  " + _MEAN_L,
        source="Kuhn et al. 2023 (ICLR), the estimate of their code without its shift",
        also_called="semantic_entropy (semantic-entropy-probes) and "
        "predictive_entropy_over_concepts (Kuhn et al.): ours + 5; SemanticEntropy "
        "(TruthTorchLM: a text sampled k times counts k² times); semanticEntropy|norm (UQ-NLG: "
        "−ln of the mean over meanings, in place of the mean of −ln)",
        test=_TESTS + "test_the_four_aggregations_reproduce_published_values",
        note="Likelihoods of one meaning may add up to more than 1: a number below 0 is no error.",
    ),
    Estimator(
        name="semantic_entropy_cluster_mean", title="Semantic entropy (mean over meanings)",
        units="nats, ln C upwards", needs=("clusters", "mean_logprobs"),
        function=semantic_entropy_cluster_mean,
        formula="L_c = ln Σ_{i∈c} e^{l_i} − ln Σ_j e^{l_j};  H = −(1/C) Σ_c L_c;  " + _MEAN_L,
        source="Kuhn et al. 2023 (ICLR) with normalised likelihoods",
        also_called="semantic_entropy_sum-normalized (semantic-entropy-probes)",
        test=_TESTS + "test_the_four_aggregations_reproduce_published_values",
        note="A meaning counts as much as any other, however unlikely it is.",
    ),
    Estimator(
        name="semantic_entropy_cmean", title="Semantic entropy (mean likelihoods)",
        units="nats, 0 upwards", needs=("clusters", "mean_logprobs"),
        function=semantic_entropy_cmean,
        formula="L_c = ln (1/n_c) Σ_{i∈c} e^{l_i};  H = −(1/C) Σ_c L_c;  " + _MEAN_L,
        source="a variant of Kuhn et al. 2023 in the code of Kossen et al. 2024",
        also_called="semantic_entropy_cmean (semantic-entropy-probes)",
        test=_TESTS + "test_the_four_aggregations_reproduce_published_values",
        note="How often a meaning was sampled plays no part.",
    ),
    Estimator(
        name="n_meanings", title="Number of meanings", units="count, 1 to N", needs=("clusters",),
        function=n_meanings,
        formula="C = number of clusters",
        source="Kuhn et al. 2023 (ICLR), number of semantic sets",
        also_called="number_of_semantic_sets (Kuhn et al.); num_semantic_sets (uqlm: as its "
        "discrete entropy); NumSemSets (lm-polygraph: connected parts of the graph in which "
        "entailment beats contradiction); numsets (UQ-NLG), NumSemanticSetUncertainty "
        "(TruthTorchLM): no contradiction is enough",
        test=_TESTS + "test_meanings_and_wordings_are_counted",
    ),
)  # fmt: skip

_WORDINGS = (
    Estimator(
        name="lexical_entropy", title="Lexical entropy", units="nats, 0 to ln N", needs=("texts",),
        function=lexical_entropy,
        formula="H = −Σ_t (n_t/N) ln(n_t/N) over distinct texts t (white space, case ignored)",
        source="the discrete formula with exact match in place of a judge",
        also_called="entropy of exact-match clusters",
        test=_TESTS + "test_meanings_and_wordings_are_counted",
    ),
    Estimator(
        name="lexical_similarity", title="Lexical dissimilarity (1 − ROUGE-L)",
        units="0 (the same words) to 1 (no word shared)", needs=("texts",),
        function=lexical_similarity, min_answers=2,
        formula="U = 1 − mean over pairs i < j of 2·LCS(i, j)/(|i| + |j|), in words of letters and "
        "digits, lower case",
        source="Fomicheva et al. 2020 (TACL), lexical similarity; ROUGE-L: Lin 2004",
        also_called="LexicalSimilarity_rougeL (lm-polygraph: ours − 1; English words cut to their "
        "stems); lexical_sim (UQ-NLG: ours − 1); getLexicalSim (INSIDE: 1 − ours)",
        test=_ANSWER_TESTS + "test_lexical_similarity_by_hand_and_in_lm_polygraph",
        note="Undefined for one sample, which makes no pair.",
    ),
    Estimator(
        name="predictive_entropy", title="Predictive entropy", units="nats per answer, 0 upwards",
        needs=("sum_logprobs",), function=predictive_entropy,
        formula="H = −(1/N) Σ_i l_i;  l_i = summed token log-probability",
        source="Malinin & Gales 2021 (ICLR), Monte Carlo sequence entropy",
        also_called="regular_entropy_sum (semantic-entropy-probes); predictive_entropy (Kuhn et "
        "al.); MonteCarloSequenceEntropy (lm-polygraph); naive entropy",
        test=_TESTS + "test_naive_entropies_are_minus_the_mean_log_probability",
    ),
    Estimator(
        name="predictive_entropy_normalised", title="Predictive entropy, length-normalised",
        units="nats per token, 0 upwards", needs=("mean_logprobs",),
        function=predictive_entropy_normalised,
        formula="H = −(1/N) Σ_i l_i;  " + _MEAN_L,
        source="Malinin & Gales 2021 (ICLR), length-normalised",
        also_called="regular_entropy (semantic-entropy-probes, semantic_uncertainty, KLE); "
        "MonteCarloNormalizedSequenceEntropy (lm-polygraph); Entropy (TruthTorchLM); "
        "get_lenghthNormalized_entropy (INSIDE: of the likeliest token of each step); "
        "monte_carlo_probability (uqlm: the mean of e^{l_i}, a confidence)",
        test=_TESTS + "test_naive_entropies_are_minus_the_mean_log_probability",
    ),
    Estimator(
        name="mean_token_entropy", title="Mean token entropy",
        units="nats per token, 0 to ln(vocabulary size)", needs=("token_entropies",),
        function=mean_token_entropy,
        formula="H = (1/N) Σ_i (1/T_i) Σ_t H[p(· | question, tokens before t)]",
        source="Fomicheva et al. 2020 (TACL), averaged over the sampled answers",
        also_called="MeanTokenEntropy (lm-polygraph: of the one most likely answer)",
        test=_TESTS + "test_naive_entropies_are_minus_the_mean_log_probability",
    ),
)  # fmt: skip

ESTIMATORS: dict[str, Estimator] = {
    card.name: card for card in (*_MEANINGS, *_WORDINGS, *JUDGED_CARDS, *MODEL_CARDS)
}


ALL = "all"


def score_question(answers: Answers, names: Sequence[str] | None = None) -> dict[str, float | None]:
    """Estimators for one question, None where one is undefined for it (see `missing_needs`).

    Every estimator, or those of `names`, in the order of `ESTIMATORS`. Raises ValueError for a
    name that is none.
    """
    missing = missing_needs(answers, names)
    return {
        name: None
        if name in missing
        else ESTIMATORS[name].function(*(getattr(answers, need) for need in ESTIMATORS[name].needs))
        for name in _ordered(names)
    }


def missing_needs(answers: Answers, names: Sequence[str] | None = None) -> dict[str, str]:
    """Which estimators cannot be computed for these answers, each with the reason in words."""
    n = len(answers.texts)
    reasons = {}
    for name in _ordered(names):
        card = ESTIMATORS[name]
        absent = [NEEDS[need].words for need in card.needs if getattr(answers, need) is None]
        if n < card.min_answers:
            absent.append(f"at least {card.min_answers} sampled answers (there is {n})")
        if absent:
            reasons[name] = f"needs {' and '.join(dict.fromkeys(absent))}"
    return reasons


def choose_estimators(names: Sequence[str]) -> tuple[str, ...]:
    """The estimators that were asked for by name, each once, in the order of `ESTIMATORS`.

    ("all",) means all of them. Upper case, spaces and hyphens make no difference. Raises
    `UserError` naming what is close to a wrong name, and all that are right.

    >>> choose_estimators(["Degree", "semantic-entropy"])
    ('semantic_entropy', 'degree')
    """
    wanted = [plain_name(name) for name in names]
    if ALL in wanted:
        return tuple(ESTIMATORS)
    if not wanted:
        raise UserError(f"no estimator is named; take {ALL}, or some of {', '.join(ESTIMATORS)}")
    for name, given in zip(wanted, names, strict=True):
        if name not in ESTIMATORS:
            raise UserError(
                f"{given!r} is no estimator{did_you_mean(name, ESTIMATORS)}; take {ALL}, or some "
                f"of {', '.join(ESTIMATORS)}"
            )
    return tuple(_ordered(wanted))


def plain_name(name: str) -> str:
    """A name as it is spelt in code: lower case, plain digits, words joined by underscores.

    >>> plain_name("R² "), plain_name("Semantic-Entropy")
    ('r2', 'semantic_entropy')
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "_".join(plain.replace("-", " ").replace("_", " ").split())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Words to put after a wrong name: what is spelt alike, or nothing."""
    close = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _ordered(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return list(ESTIMATORS)
    wanted = set(names)
    if odd := sorted(wanted - set(ESTIMATORS)):
        raise ValueError(f"names: {odd} are no estimators")
    return [name for name in ESTIMATORS if name in wanted]
