"""The study of semantic entropy: what the rest of the house needs to know of it."""

from helpers.studies.semantic_entropy.config import STUDY_NAME, SemanticEntropyConfig
from helpers.studies.study import Stage, Study, on_call

_HERE = "helpers.studies.semantic_entropy."
_STAGES = _HERE + "stages:"

STUDY = Study(
    name=STUDY_NAME,
    title="Semantic entropy",
    config=SemanticEntropyConfig,
    stages=(
        Stage(
            "samples", "Sample answers", on_call(_STAGES + "sample_stage"),
            "generate", "sample answers to the questions",
        ),
        Stage(
            "meanings", "Group answers by meaning", on_call(_STAGES + "meaning_stage"), power=2
        ),
        Stage(
            "uncertainty", "Measure uncertainty", on_call(_STAGES + "uncertainty_stage"),
            "entropy", "group answers by meaning and measure the uncertainty", power=2,
        ),
        Stage(
            "hidden", "Read hidden states", on_call(_STAGES + "hidden_stage"),
            "trace", "read hidden states",
        ),
        Stage(
            "probes", "Train probes", on_call(_STAGES + "probe_stage"), "train", "train the probes"
        ),
        Stage(
            "evaluation", "Evaluate on test questions", on_call(_STAGES + "evaluation_stage"),
            "eval", "score the probes on the test questions",
        ),
        Stage("analyses", "Further analyses", on_call(_STAGES + "analyses_stage")),
    ),
    record=on_call(_HERE + "records:Run"),
    open=on_call(_HERE + "open_run:open_run"),
    questions=on_call("helpers.generation.samples:choose_questions"),
    summarise=on_call(_HERE + "views:summarise"),
    notebook="probe_training_auto.py",
    form=(
        "model", "questions", "limit", "k", "temperature", "top_p", "max_new_tokens", "seed",
        "judge", "judge_model", "entailment", "condition_on_question",
    ),
    add_commands=on_call(_HERE + "commands:add_commands"),
)  # fmt: skip
