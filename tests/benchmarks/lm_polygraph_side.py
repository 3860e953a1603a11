"""lm-polygraph's half of against_lm_polygraph.py; runs in an environment of its own.

Reads a job as JSON from standard input and prints its answer, as JSON, on the last line. It uses
nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time


def main() -> None:
    """Load the models, warm up, and run the job once for every batch size."""
    job = json.load(sys.stdin)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(job["threads"])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with contextlib.redirect_stdout(sys.stderr):
        import torch

        torch.set_num_threads(job["threads"])
        models = _load(job)
        _run(job, models, job["prompts"][:2], 2)
        found = [_run(job, models, job["prompts"], size) for size in job["batch_sizes"]]
    print(json.dumps(found))


def _load(job):
    from lm_polygraph.defaults.stat_calculator_builders.utils import load_nli_model
    from lm_polygraph.utils import builder_enviroment_stat_calculator as builder
    from lm_polygraph.utils.generation_parameters import GenerationParameters
    from lm_polygraph.utils.model import WhiteboxModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32").eval()
    # No top-k, which is 50 by default, and no list of tokens to forbid: the plain distribution.
    parameters = GenerationParameters(temperature=1.0, top_k=0, top_p=1.0, allow_newlines=True)
    whitebox = WhiteboxModel(model, tokenizer, job["model"], "CausalLM", parameters)
    environment = builder.BuilderEnvironmentStatCalculator(whitebox)
    environment.nli_model = load_nli_model(job["judge"], job["judge_batch_size"], "cpu")
    return environment


def _run(job, environment, prompts, batch_size):
    """One run: seconds by stage, work done, samples, and discrete semantic entropy."""
    from lm_polygraph.defaults import register_default_stat_calculators as register
    from lm_polygraph.estimators import SemanticEntropy
    from lm_polygraph.utils.dataset import Dataset
    from lm_polygraph.utils.manager import UEManager

    manager = UEManager(
        Dataset(prompts, [""] * len(prompts), batch_size),
        environment.model,
        [SemanticEntropy(class_probability_estimation="frequency"), SemanticEntropy()],
        environment,
        register.register_default_stat_calculators(
            "Whitebox", output_attentions=False, output_hidden_states=False
        ),
        [], [], [], ignore_exceptions=False, verbose=False,
        max_new_tokens=job["max_new_tokens"], save_stats=["sample_texts"],
    )  # fmt: skip
    seconds = {}
    for calculator in manager.stat_calculators:
        if hasattr(calculator, "samples_n"):
            calculator.samples_n = job["k"]
        _time_calls(calculator, seconds)
    forwards, judged = [], []
    hooks = [
        environment.model.model.register_forward_hook(lambda *_: forwards.append(1)),
        environment.nli_model.deberta.register_forward_pre_hook(
            lambda module, given, kwargs: judged.append(len(kwargs["input_ids"])), with_kwargs=True
        ),
    ]
    started = time.perf_counter()
    manager()
    total = time.perf_counter() - started
    for hook in hooks:
        hook.remove()
    sampling, judging = (
        sum(value for name, value in seconds.items() if name.startswith(beginnings))
        for beginnings in (("GreedyProbs", "SamplingGeneration"), ("SemanticMatrix", "SemanticCl"))
    )
    times = {"sampling": sampling, "judging": judging, "other": total - sampling - judging}
    return {
        "seconds": {**times, "total": total},
        "work": {
            "model_forwards": len(forwards),
            "judge_forwards": len(judged),
            "judged_pairs": sum(judged),
        },
        "samples": [list(texts) for texts in manager.stats["sample_texts"]],
        "discrete_entropy": [
            float(value) for value in manager.estimations["sequence", "SemanticEntropyEmpirical"]
        ],
    }


def _time_calls(calculator, seconds):
    """Add up the time of a calculator's calls; Python looks `__call__` up on the class."""
    name = type(calculator).__name__

    class Timed(type(calculator)):
        def __call__(self, *args, **kwargs):
            started = time.perf_counter()
            try:
                return super().__call__(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started

    Timed.__name__ = name
    calculator.__class__ = Timed


if __name__ == "__main__":
    main()
