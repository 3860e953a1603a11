"""What the benchmarks run on: the lab's questions, prompts, and answers sampled once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from helpers.data.questions import lab_questions
from helpers.generation.records import GREEDY, Decoding, Request, Sample
from helpers.generation.samples import encode_prompts, prompt_texts
from helpers.generation.sampling import generate
from helpers.models.loading import LanguageModel, load_language_model
from helpers.studies.registry import make_config

DECODING = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=32, seed=0)
K = 10


@dataclass(frozen=True)
class AskedQuestion:
    """A lab question and its prompt as token ids."""

    id: str
    question: str
    prompt: str
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question, its sampled answers and the most likely one."""

    asked: AskedQuestion
    samples: tuple[Sample, ...]
    greedy: Sample


def lab_model() -> LanguageModel:
    """The lab's language model, on the CPU in float32."""
    return load_language_model("lab", device="cpu", dtype="float32")


def ask(n: int) -> list[AskedQuestion]:
    """The first n questions of a lab run."""
    config, lm = make_config("lab"), lab_model()
    questions = lab_questions(n, config.seed)
    prompts = prompt_texts(config, [q.question for q in questions])
    return [
        AskedQuestion(question.id, question.question, prompt, tuple(ids))
        for question, prompt, ids in zip(
            questions, prompts, encode_prompts(config, lm, prompts), strict=True
        )
    ]


def requests(asked: list[AskedQuestion], k: int) -> list[Request]:
    """The most likely answer and k samples of each question."""
    return [Request(a.id, a.prompt_ids, tuple(range(GREEDY, k))) for a in asked]


@lru_cache(maxsize=8)
def answer(n: int, k: int) -> tuple[AnsweredQuestion, ...]:
    """n lab questions with k samples and the most likely answer each, as a lab run has them."""
    asked = ask(n)
    found: dict[str, dict[int, Sample]] = {a.id: {} for a in asked}
    for batch in generate(lab_model(), requests(asked, k), DECODING, batch_size=256):
        for sample in batch:
            found[sample.question_id][sample.sample_id] = sample
    return tuple(
        AnsweredQuestion(a, tuple(found[a.id][s] for s in range(k)), found[a.id][GREEDY])
        for a in asked
    )
