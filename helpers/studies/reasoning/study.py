"""The study of reasoning models: what the rest of the house needs to know of it."""

from helpers.studies.reasoning.config import STUDY_NAME, ReasoningConfig
from helpers.studies.study import Stage, Study, on_call

_HERE = "helpers.studies.reasoning."
_STAGES = _HERE + "stages:"

STUDY = Study(
    name=STUDY_NAME,
    title="Reasoning models",
    config=ReasoningConfig,
    stages=(
        Stage(
            "samples", "Sample answers", on_call(_STAGES + "sample_stage"),
            "generate", "sample answers to the questions", power=1,
        ),
        Stage(
            "meanings", "Group answers by meaning", on_call(_STAGES + "meaning_stage"),
            "entropy", "group answers by meaning and measure the uncertainty", power=2,
        ),
        Stage(
            "hidden", "Read hidden states", on_call(_STAGES + "hidden_stage"),
            "trace", "read hidden states", power=1,
        ),
        Stage(
            "tables", "Label and split the runs", on_call(_STAGES + "table_stage"),
            "datasets", "label and split the runs of a reasoning model for its probes", power=1,
        ),
        Stage(
            "probes", "Train probes", on_call(_STAGES + "probe_stage"),
            "train", "train the probes", power=1,
        ),
        Stage(
            "evaluation", "Evaluate on test questions", on_call(_STAGES + "evaluation_stage"),
            "eval", "score the probes on the test questions", power=1,
        ),
        Stage(
            "analysis", "Write the table of single runs", on_call(_STAGES + "analysis_stage"),
            "analysis",
            "write the table that the dashboard reads, one row a run of a reasoning model",
            power=1, takes_run=True,
        ),
    ),
    record=on_call(_HERE + "run_files:StudyRun"),
    open=on_call(_HERE + "run_files:open_study"),
    questions=on_call(_HERE + "runs:study_questions"),
    summarise=on_call(_HERE + "views:summarise"),
    notebook="helpers/studies/reasoning/notebook.py",
    form=(
        "model", "questions", "limit", "ood_questions", "ood_limit", "k", "temperature", "top_p",
        "max_new_tokens", "seed", "backend", "entropy_of",
    ),
    overview="A model that thinks before it answers is asked each question many times. Is a run "
    "right, does the model know, and can a probe read it at the token `</think>`, in and out of "
    "distribution?",
)  # fmt: skip
