"""How unsure a model is of one question: estimators over its answers.

Each estimator is a plain function, and has a formula card in `ESTIMATORS`. Entropies are in nats,
and a higher value always means more uncertain. N is the number of sampled answers, l_i an
answer's log-probability, n_c the number of answers in cluster (meaning) c, C the number of
clusters.
"""

from helpers.uncertainty.entropies import REQUIREMENTS as REQUIREMENTS
from helpers.uncertainty.entropies import ROUNDING as ROUNDING
from helpers.uncertainty.entropies import Answers as Answers
from helpers.uncertainty.entropies import Estimator as Estimator
from helpers.uncertainty.entropies import degree as degree
from helpers.uncertainty.entropies import eccentricity as eccentricity
from helpers.uncertainty.entropies import eigenscore as eigenscore
from helpers.uncertainty.entropies import eigv as eigv
from helpers.uncertainty.entropies import kernel_language_entropy as kernel_language_entropy
from helpers.uncertainty.entropies import lexical_entropy as lexical_entropy
from helpers.uncertainty.entropies import lexical_similarity as lexical_similarity
from helpers.uncertainty.entropies import mean_token_entropy as mean_token_entropy
from helpers.uncertainty.entropies import n_meanings as n_meanings
from helpers.uncertainty.entropies import noncontradiction as noncontradiction
from helpers.uncertainty.entropies import p_false as p_false
from helpers.uncertainty.entropies import perplexity as perplexity
from helpers.uncertainty.entropies import predictive_entropy as predictive_entropy
from helpers.uncertainty.entropies import (
    predictive_entropy_normalised as predictive_entropy_normalised,
)
from helpers.uncertainty.entropies import semantic_density as semantic_density
from helpers.uncertainty.entropies import semantic_entropy as semantic_entropy
from helpers.uncertainty.entropies import (
    semantic_entropy_cluster_mean as semantic_entropy_cluster_mean,
)
from helpers.uncertainty.entropies import semantic_entropy_cmean as semantic_entropy_cmean
from helpers.uncertainty.entropies import semantic_entropy_kuhn as semantic_entropy_kuhn
from helpers.uncertainty.entropies import semantic_entropy_rao as semantic_entropy_rao
from helpers.uncertainty.entropies import sequence_nll as sequence_nll
from helpers.uncertainty.estimators import ESTIMATORS as ESTIMATORS
from helpers.uncertainty.estimators import PACKAGES as PACKAGES
from helpers.uncertainty.estimators import choose_estimators as choose_estimators
from helpers.uncertainty.estimators import did_you_mean as did_you_mean
from helpers.uncertainty.estimators import missing_needs as missing_needs
from helpers.uncertainty.estimators import plain_name as plain_name
from helpers.uncertainty.estimators import score_question as score_question
