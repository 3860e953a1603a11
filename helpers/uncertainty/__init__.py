"""How unsure a model is of one question: estimators over its answers.

Each estimator is a plain function, and has a formula card in `ESTIMATORS`. Entropies are in nats,
and a higher value always means more uncertain. N is the number of sampled answers, l_i an
answer's log-probability, n_c the number of answers in cluster (meaning) c, C the number of
clusters.
"""

from helpers.uncertainty.entropies import (  # noqa: F401
    REQUIREMENTS,
    ROUNDING,
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
from helpers.uncertainty.estimators import (  # noqa: F401
    ESTIMATORS,
    PACKAGES,
    choose_estimators,
    did_you_mean,
    missing_needs,
    plain_name,
    score_question,
)
