"""`sep lab train` rebuilds the lab's two models, `sep lab check` says how good they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from helpers.data.answers import grade
from helpers.data.lab_problems import Problem, problems
from helpers.errors import UserError
from helpers.evaluation.scores import Score, evaluate_classifier, format_score
from helpers.generation.records import GREEDY, Decoding, Request
from helpers.generation.sampling import generate
from helpers.lab.models import THINK, agreement_with_answers, train_judge, train_language_model
from helpers.meanings.judges import nli_judge
from helpers.models.loading import LAB_FOLDER, load_language_model, pick_device, set_threads


def train_lab(
    into: Path | None,
    *,
    only: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int = 0,
) -> None:
    """Train the language model and the judge (or one of them) and write their folders.

    Raises `UserError` before any training when the folder cannot be written or a number is too
    small.
    """
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0), ("threads", threads, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}: it must be {least} or more")
    folder = into or LAB_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--into {folder} cannot be made ({error.strerror}): name another folder"
        ) from error
    pick_device("cpu")
    set_threads(threads)
    given: Any = {} if steps is None else {"steps": steps}
    loose: Any = {} if steps is None else {"loose_steps": steps * 2 // 5}
    if only != "judge":
        train_language_model(
            folder / "language_model",
            seed=seed,
            compile=bool(shutil.which("g++")),
            **given,
            **loose,
        )
    if only != "language-model":
        train_judge(folder / "judge", seed=seed, **given)
    print(f"written to {folder}; `sep run` uses the models of the package")


# --- checking ------------------------------------------------------------------------------------


CHECK_SEED = 1_000
"""Not a seed that a run would use by default, so that these are other questions."""


def check_lab(n: int = 1000, threads: int = 0) -> str:
    """A report on n held-out problems: the answers, the judge, and the length of the questions."""
    set_threads(threads)
    lines = [f"Held-out problems, n = {n:,}: most likely answers that are right, by operations"]
    for title, pool in (("in distribution", "questions"), ("unseen stories", "unseen")):
        asked = list(islice(problems(CHECK_SEED, pool=pool), n))
        for thinking in (False, True):
            right = _right(asked, thinking)
            steps = np.array([p.steps for p in asked])
            cells = "  ".join(f"{k}: {100 * right[steps == k].mean():3.0f} %" for k in range(1, 5))
            mode = "thinking" if thinking else "direct"
            lines.append(f"  {title:<17}{mode:<10}{cells}   all: {100 * right.mean():.0f} %")
    judge = nli_judge("lab", batch_size=64)
    lines.append(f"Judge: pairs on which it agrees with the exact answers, n = {n:,}")
    for title, pool in (("in distribution", "questions"), ("unseen stories", "unseen")):
        shares = agreement_with_answers(judge.equivalent, n, CHECK_SEED, pool=pool)
        cells = "  ".join(f"{kind}: {100 * share:.1f} %" for kind, share in shares.items())
        lines.append(f"  {title:<17}{cells}")
    score = _length_score(list(islice(problems(CHECK_SEED, pool="questions"), n)))
    lines.append(
        "Question length (characters) telling three or four operations from one or two: AUROC "
        + format_score(score)
    )
    return "\n".join(lines)


def _right(asked: Sequence[Problem], thinking: bool) -> np.ndarray:
    """Whether the most likely answer to each problem is right, `[n]`."""
    lm = load_language_model("lab")
    tail = THINK if thinking else ""
    prompts = [f"Question: {p.question}\nAnswer:{tail}" for p in asked]
    requests = [
        Request(p.id, tuple(ids), (GREEDY,))
        for p, ids in zip(asked, lm.tokenizer(prompts)["input_ids"], strict=True)
    ]
    decoding = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=80, seed=0)
    answers = {
        s.question_id: grade(s.text, s.finish_reason, "0", thinking_open=thinking).final_answer
        for batch in generate(lm, requests, decoding, batch_size=256)
        for s in batch
    }
    return np.array([answers[p.id] == str(p.final) for p in asked])


def _length_score(asked: Sequence[Problem]) -> Score:
    lengths = np.array([len(p.question) for p in asked], dtype=float)
    hard = np.array([float(p.steps >= 3) for p in asked])
    return evaluate_classifier(lengths, hard, positive="hard")["auroc"]
