"""The one service that samples: any prompts, any backend, nothing twice."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.generation.endpoint import RequestFormat, request_fields
from helpers.generation.records import GREEDY, Decoding, Prompt, Request
from helpers.generation.samples import make_prompts, sample_answers
from helpers.hidden_states.capture import token_entropies
from helpers.hidden_states.stored import open_hidden_states
from helpers.models.forwards import TokenSequence
from helpers.models.loading import identify, load_language_model
from helpers.models.tokens import ModelTokens, model_tokens
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config, run_study
from support.stand_in_endpoint import VLLM, Answer, StandInEndpoint, completion, hurry

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.usefixtures("one_thread"),
]

QUESTIONS = {"a": "Ana has 5 pears and eats 2. How many are left?", "b": "What is 3 + 4?"}
TEXTS = (" She has 7.", " It is 12.", " 3 are left.")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def begins(tmp_path_factory: pytest.TempPathFactory) -> ModelTokens:
    """The lab's model with a tokenizer that puts a begin token in front of every text."""
    folder = tmp_path_factory.mktemp("begins") / "model"
    shutil.copytree(identify("lab").folder, folder)
    begin, single = "<|end|>", {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] |= {
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, single],
        "special_tokens": {begin: {"id": begin, "ids": [0], "tokens": [begin]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": begin}))
    template = folder / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    return model_tokens(str(folder))


def sampled(config: RunConfig, prompts: Any, store: Store, ids: Any) -> Any:
    return sample_answers(config, prompts, store, silent_progress(), sample_ids=ids)


def by_seed(request: dict[str, Any]) -> Answer:
    """A server without log-probabilities whose text depends on the seed alone."""
    return Answer(body=completion(request, TEXTS[request["seed"] % len(TEXTS)]))


def test_a_prompt_has_one_begin_token_however_it_is_made(begins: ModelTokens) -> None:
    plain = make_prompts(make_config(model=begins.name), QUESTIONS)
    bare = make_prompts(make_config(), QUESTIONS)
    assert [p.token_ids for p in plain] == [(0, *p.token_ids) for p in bare]
    assert [(p.id, p.text) for p in plain] == [(p.id, p.text) for p in bare]
    for prompt in make_prompts(make_config(model=begins.name, chat=True), QUESTIONS):
        assert prompt.token_ids.count(0) == 1 + prompt.text.removeprefix("<|end|>").count("<|end|>")


def test_special_tokens_at_the_ends_of_a_prompt_are_there_once(begins: ModelTokens) -> None:
    think = begins.tokenizer.convert_tokens_to_ids("<think>")
    template = "<|end|>Question: {question}\nAnswer:<think>"
    config = make_config(model=begins.name, prompt_template=template)
    plain = make_prompts(make_config(), QUESTIONS)
    # The lab's own tokenizer adds nothing, so that there the begin token stays in the text.
    for each in (config, make_config(prompt_template=template)):
        made = make_prompts(each, QUESTIONS)
        assert [p.token_ids for p in made] == [(0, *p.token_ids, think) for p in plain]
    bare = make_prompts(make_config(model=begins.name, prompt_template=template[7:]), QUESTIONS)
    assert bare == make_prompts(config, QUESTIONS)  # and under the same keys


def test_answers_and_states_are_of_the_very_tokens_of_the_prompt(
    begins: ModelTokens, tmp_path: Path
) -> None:
    import torch

    config = make_config(
        model=begins.name, limit=20, k=2, max_new_tokens=8, out=tmp_path,
        cache_dir=tmp_path / "cache", judge="final-answer", estimators=("semantic_entropy",),
        device="cpu",
    )  # fmt: skip
    run_study(config, silent_progress(), until="hidden")
    states = open_hidden_states(config.run_folder, config.positions).hidden
    questions = pq.read_table(config.run_folder / "questions.parquet").to_pylist()
    answers = pq.read_table(config.run_folder / "samples.parquet").to_pylist()
    greedy = {row["question_id"]: row for row in answers if row["sample_id"] == GREEDY}
    lm = load_language_model(begins.name, device="cpu")
    for i, question in enumerate(questions):
        said = greedy[question["id"]]
        text = begins.tokenizer(f"Question: {question['question']}\nAnswer:")["input_ids"]
        assert (text[0], text.count(0)) == (0, 1)
        with torch.no_grad():
            read = lm.model(torch.tensor([text + said["token_ids"]]), output_hidden_states=True)
        logprobs = read.logits[0].log_softmax(-1)[len(text) - 1 : -1]
        assert logprobs.argmax(-1).tolist() == said["token_ids"]
        assert np.allclose(logprobs.max(-1).values, said["token_logprobs"], atol=2e-5)
        at_prompt = torch.stack(read.hidden_states[:-1])[:, 0, len(text) - 1]
        assert np.allclose(states["tbg"][i, :-1], at_prompt, atol=1e-4)


@pytest.mark.parametrize("extras", [True, False])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("known", ["text", "ids"])
def test_a_server_that_tokenizes_reads_the_same_prompt(
    begins: ModelTokens, chat: bool, extras: bool, known: str
) -> None:
    prompt = make_prompts(make_config(model=begins.name, chat=chat), QUESTIONS)[0]
    asked = Request("a", prompt.token_ids, (0,), prompt.text if known == "text" else "")
    form = RequestFormat(token_ids=False, extras=extras)
    text = request_fields(form, begins, asked, 0, Decoding(1.0, 1.0, 8, 0), 8)["prompt"]
    read = begins.tokenizer(text, add_special_tokens=not extras)["input_ids"]
    assert tuple(read) == prompt.token_ids


def test_only_what_is_missing_is_asked_of_an_endpoint(store: Store) -> None:
    with StandInEndpoint(by_seed, VLLM) as server:
        config = make_config(backend="openai", endpoint=server.url)
        prompts = make_prompts(config, QUESTIONS)
        first = sampled(config, prompts, store, range(2))
        assert (first.generated, len(server.asked)) == (4, 4)
        server.asked.clear()
        more = sampled(config, prompts, store, range(GREEDY, 3))
        assert (more.generated, len(server.asked)) == (4, 4)
        assert sorted(body["temperature"] for body in server.asked) == [0.0, 0.0, 1.0, 1.0]
        assert [row[1:3] for row in more.samples] == list(first.samples)
        assert [s.sample_id for s in more.samples[0]] == [GREEDY, 0, 1, 2]
        assert more.backend["served_model"] == "lab"
        here = sampled(make_config(), prompts, store, (0,))  # answers of its own, not the server's
        assert here.generated == 2
        server.complete = lambda request: Answer(body=completion(request, " 7.", model="other"))
        with pytest.raises(UserError, match=r"several models \(lab, other\).*--served-model"):
            sampled(config, prompts, store, range(4))


def test_a_prompt_that_fills_the_context_is_named_and_left_out(store: Store) -> None:
    config = make_config(max_new_tokens=4)
    prompts = [Prompt("long", "", (5,) * 600), *make_prompts(config, QUESTIONS)]
    found = sampled(config, prompts, store, (0,))
    assert found.too_long == ("long",)
    assert [p.id for p in found.prompts] == ["a", "b"]
    assert sampled(config, prompts, store, (0,)) == replace(found, generated=0)


def test_a_prefix_of_tokens_is_continued_like_the_prompt(store: Store) -> None:
    config = make_config(max_new_tokens=12)
    prompts = make_prompts(config, QUESTIONS)
    whole = sampled(config, prompts, store, range(GREEDY, 2))
    bare = [replace(prompt, text="") for prompt in prompts]
    same = sampled(config, bare, store, range(GREEDY, 2))
    assert (same.generated, same.samples) == (6, whole.samples)
    for prompt, (greedy, *_) in zip(prompts, whole.samples, strict=True):
        begun = Prompt(f"{prompt.id}, begun", "", prompt.token_ids + greedy.token_ids[:3])
        ((rest,),) = sampled(config, [begun], store, (GREEDY,)).samples
        left = len(greedy.token_ids) - 3
        assert left > 0
        assert rest.token_ids[:left] == greedy.token_ids[3:]


def test_the_main_study_asks_the_endpoint_and_reads_the_entropies_itself(tmp_path: Path) -> None:
    with StandInEndpoint(by_seed, VLLM) as server:
        config = make_config(
            backend="openai", endpoint=server.url, limit=20, k=2, out=tmp_path,
            cache_dir=tmp_path / "cache", analyses=("none",), judge="final-answer",
            estimators=("semantic_entropy", "mean_token_entropy", "perplexity"),
        )  # fmt: skip
        run_study(config, silent_progress(), until="uncertainty")
        assert len(server.asked) == 20 * 3
        run_study(config, silent_progress(), until="uncertainty")
        assert len(server.asked) == 20 * 3
    manifest = json.loads((config.run_folder / "manifest.json").read_text())
    assert manifest["backend"]["backend"] == "openai"
    assert [manifest["counts"][f] for f in ("samples_retokenised", "entropies_forced")] == [60, 60]
    rows = pq.read_table(config.run_folder / "samples.parquet").to_pylist()
    assert {row["text"] for row in rows} <= {text.strip() for text in TEXTS}
    assert len({row["text"] for row in rows}) == 3
    prompts = {
        q["id"]: make_prompts(config, {"": q["question"]})[0].token_ids
        for q in pq.read_table(config.run_folder / "questions.parquet").to_pylist()
    }
    sequences = [TokenSequence(prompts[r["question_id"]], tuple(r["token_ids"])) for r in rows]
    forced = token_entropies(load_language_model("lab", device="cpu"), sequences)
    for row, known in zip(rows, forced, strict=True):
        assert np.allclose(row["token_entropies"], known.entropies, atol=2e-5)
        assert np.allclose(row["token_logprobs"], known.logprobs, atol=2e-5)
