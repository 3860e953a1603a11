"""Inner products of samples' hidden states: against one plain forward a sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.config import RunConfig
from helpers.data.questions import Question
from helpers.generation.records import GREEDY, Sample
from helpers.generation.samples import SampledAnswers, make_prompts
from helpers.hidden_states import capture
from helpers.models.forwards import TokenSequence
from helpers.models.loading import LanguageModel, load_language_model
from helpers.progress import silent_progress
from helpers.store.cache import Store
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy import estimation
from helpers.studies.semantic_entropy.estimation import middle_layer, question_grams, sample_grams
from support.tiny_models import ARCHITECTURES, N_LAYERS, WIDTH, save_language_model

END = 0
ALPHA = 1e-3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, LanguageModel]:
    folder = tmp_path_factory.mktemp("language-models")
    paths = {name: save_language_model(name, folder / name) for name in ARCHITECTURES}
    return {name: load_language_model(str(path), device="cpu") for name, path in paths.items()}


@pytest.fixture(params=ARCHITECTURES)
def lm(request, models) -> LanguageModel:
    return models[request.param]


def questions(n: int, k: int) -> tuple[list[tuple[int, ...]], list[list[tuple[int, ...]]]]:
    """Prompts and samples of many lengths; some samples are repeated, cut off or empty."""
    rng = np.random.default_rng(7)
    prompts = [tuple(rng.integers(3, 250, rng.integers(1, 30)).tolist()) for _ in range(n)]
    samples = []
    for _ in range(n):
        row = [tuple(rng.integers(3, 250, rng.integers(1, 20)).tolist()) for _ in range(k)]
        row[1] = row[0]
        row[2] = (*row[2], END)
        row[3] = (END,)
        samples.append(row)
    return prompts, samples


def plain_state(lm: LanguageModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> np.ndarray:
    """The middle hidden state at the last token that is no end token, by a forward of its own."""
    ids = [*prompt, *(token for token in answer if token != END)]
    with torch.no_grad():
        out = lm.model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[2][0, -1].double().numpy()  # of 0 … 3: the third of four


def test_the_matrix_is_that_of_plain_forwards_with_the_centring_matrix(lm):
    prompts, samples = questions(5, 6)
    found = question_grams(lm, prompts, samples)
    centring = np.eye(WIDTH) - np.ones((WIDTH, WIDTH)) / WIDTH
    for prompt, row, gram in zip(prompts, samples, found, strict=True):
        z = np.stack([plain_state(lm, prompt, answer) for answer in row], axis=1)
        np.testing.assert_allclose(gram, z.T @ centring @ z, rtol=1e-4, atol=1e-3)
    assert found.dtype == np.float64
    assert (found[:, 0] == found[:, 1]).all()  # to the bit, where a sample is repeated
    assert np.ptp(found) > 1


def test_the_questions_beside_one_change_nothing(lm):
    prompts, samples = questions(6, 5)
    whole = question_grams(lm, prompts, samples)
    for i in range(6):
        alone = question_grams(lm, prompts[i : i + 1], samples[i : i + 1])[0]
        np.testing.assert_allclose(alone, whole[i], rtol=1e-4, atol=1e-3)


def test_the_eigenscore_from_the_matrix_is_that_of_the_states_own_covariance(models):
    """ZᵀJZ and JZZᵀJ have the same eigenvalues, but for those that are zero."""
    lm = models["llama"]
    prompts, samples = questions(4, 6)
    for prompt, row, gram in zip(
        prompts, samples, question_grams(lm, prompts, samples), strict=True
    ):
        z = np.stack([plain_state(lm, prompt, answer) for answer in row], axis=1)
        centred = z - z.mean(axis=0)
        wide = np.log(np.linalg.eigvalsh(centred @ centred.T + ALPHA * np.eye(WIDTH)))
        expected = (wide.sum() - (WIDTH - len(row)) * np.log(ALPHA)) / len(row)
        score = np.log(np.linalg.eigvalsh(gram + ALPHA * np.eye(len(row)))).mean()
        assert score == pytest.approx(expected, abs=1e-3)


def test_the_middle_layer():
    assert [middle_layer(n) for n in (1, 2, 3, 6, 28, 32)] == [1, 1, 2, 3, 14, 16]
    assert middle_layer(N_LAYERS) == 2


def sample(i: int, token_ids: tuple[int, ...]) -> Sample:
    zeros = (0.0,) * len(token_ids)
    return Sample("", i, "", token_ids, zeros, zeros, "stop")


@pytest.fixture
def asked(models) -> tuple[RunConfig, SampledAnswers]:
    """Nine questions with four samples each."""
    _, samples = questions(9, 4)
    config = make_config(model=str(models["qwen3"].identity.folder), device="cpu")
    asked = tuple(
        Question(str(i), "Why? " * (1 + i % 4) + str(i), "", None, "train", "") for i in range(9)
    )
    return config, SampledAnswers(
        asked,
        tuple(tuple(sample(i, ids) for i, ids in enumerate(row)) for row in samples),
        tuple(sample(GREEDY, row[0]) for row in samples),
        (),
        0,
        make_prompts(config, {q.id: q.question for q in asked}),
    )


@pytest.fixture
def read(monkeypatch) -> list[TokenSequence]:
    """The sequences that are put to a model."""
    seen: list[TokenSequence] = []
    plain = capture.capture

    def watch(lm, sequences, *given, **kwargs):
        seen.extend(sequences)
        return plain(lm, sequences, *given, **kwargs)

    monkeypatch.setattr(estimation, "capture", watch)
    return seen


def test_the_stage_reads_each_different_sample_once_and_stores_it(
    asked, models, tmp_path, read, monkeypatch
):
    config, answers = asked
    monkeypatch.setattr(estimation, "CHUNK", 4)
    store = Store(tmp_path)
    found = sample_grams(config, answers, store, silent_progress())
    ids = [s.prompt_ids for s in read]
    assert len(read) == len(set(read)) == 9 * 3
    prompts = [ids[3 * i] for i in range(9)]
    text = models["qwen3"].tokenizer.decode(prompts[2])
    assert text == "Question: Why? Why? Why? 2\nAnswer:"
    rows = [[s.token_ids for s in row] for row in answers.samples]
    expected = question_grams(models["qwen3"], prompts, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)

    read.clear()
    monkeypatch.setattr(estimation, "load_language_model", None)
    again = sample_grams(config, answers, store, silent_progress())
    assert (again == found).all()
    assert read == []
    store.close()


def test_a_killed_run_reads_only_what_is_missing(asked, tmp_path, read, monkeypatch):
    config, answers = asked
    monkeypatch.setattr(estimation, "CHUNK", 4)
    store = Store(tmp_path / "whole")
    whole = sample_grams(config, answers, store, silent_progress())
    store.close()
    read.clear()
    store = Store(tmp_path / "killed")
    plain, calls = store.put_arrays, []

    def dies(key, arrays):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(key)
        plain(key, arrays)

    monkeypatch.setattr(store, "put_arrays", dies)
    with pytest.raises(KeyboardInterrupt):
        sample_grams(config, answers, store, silent_progress())
    monkeypatch.setattr(store, "put_arrays", plain)
    read.clear()
    assert (sample_grams(config, answers, store, silent_progress()) == whole).all()
    assert len(read) == 3  # the ninth question, which has three different samples
    store.close()
