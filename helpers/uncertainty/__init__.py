"""How unsure a model is of one question: estimators over its answers.

Each estimator is a plain function, and has a formula card in `ESTIMATORS`. Entropies are in nats,
and a higher value always means more uncertain. N is the number of sampled answers, l_i an
answer's log-probability, n_c the number of answers in cluster (meaning) c, C the number of
clusters.
"""
