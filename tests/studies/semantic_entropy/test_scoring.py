"""`sep score`: what a run's probes say of one question, in one forward pass."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.cli.main import main
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.models.loading import load_language_model
from helpers.probes.probe import predict
from helpers.probes.store import load_probe
from helpers.studies.semantic_entropy.asking import TARGETS, describe_score, score_prompt
from helpers.studies.semantic_entropy.run_files import read_run
from support.tiny_models import save_language_model

ASKED = "Ada has 3 apples. Then Ben picks 4 more apples for Ada. How many apples does Ada have?"


@pytest.fixture
def forwards() -> Iterator[list[int]]:
    """The number of tokens of each forward pass of the lab's language model."""
    seen: list[int] = []
    model = load_language_model("lab").model
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    yield seen
    hook.remove()


@pytest.fixture
def copied(tiny_run: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run folder, to spoil."""
    return Path(shutil.copytree(tiny_run.run_folder, tmp_path / "run"))


def test_three_lines_from_one_forward_pass(
    tiny_run: RunConfig, forwards: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--run", str(tiny_run.run_folder), "--threads", "1"]
    assert main(["score", ASKED, *places]) == 0
    said = capsys.readouterr().out
    titles = ("predicted semantic entropy", "p(semantic entropy >", "p(wrong)")
    for line, title in zip(said.splitlines(), titles, strict=True):
        assert line.startswith((title, "p(high")), line
        assert re.search(r"\d\.\d\d .*higher than \d+ %|undefined: the run has no", line), line
    assert re.search(r"^predicted semantic entropy +-?\d\.\d\d nats", said)
    lm = load_language_model("lab")
    templated = f"Question: {ASKED}\nAnswer:"
    assert forwards == [len(lm.tokenizer(templated)["input_ids"])]

    assert main(["score", templated, "--raw", *places]) == 0
    assert capsys.readouterr().out == said
    assert len(forwards) == 2


def test_a_question_of_the_run_scores_as_its_captured_state_does(tiny_run: RunConfig) -> None:
    folder = tiny_run.run_folder
    questions = pq.read_table(folder / "questions.parquet").to_pylist()
    states = read_run(folder).hidden("tbg")
    compared = []
    for row in (0, 7, 29):
        for reading in score_prompt(folder, questions[row]["question"], tiny_run):
            stems = (f"{reading.target}_prompt", reading.target)
            stem = next(s for s in stems if (folder / "probes" / f"{s}.json").exists())
            probe = load_probe(folder / "probes" / f"{stem}.json").probe
            assert reading.place == f"tbg, layer {probe.layer}"
            expected = predict(probe, states[row : row + 1, probe.layer])
            assert reading.value == pytest.approx(float(expected[0]), abs=1e-3)
            compared.append((reading.target, reading.value))
    assert len({value for _, value in compared}) > 3  # other questions, other predictions
    assert {target for target, _ in compared} >= {"semantic_entropy"}


def test_a_target_without_a_probe_is_undefined_in_words(copied: Path, tiny_run: RunConfig) -> None:
    for path in (copied / "probes").glob("wrong_answer*"):
        path.unlink()
    readings = score_prompt(copied, ASKED, tiny_run)
    lines = describe_score(readings).splitlines()
    assert len(lines) == len(TARGETS) == 3
    assert re.match(r"p\(wrong\) +undefined: the run has no such probe", lines[2])
    assert all(np.isfinite(r.value) and 0 <= r.quantile <= 1 for r in readings)


def test_another_model_than_the_one_trained_on_is_refused(
    copied: Path, tiny_run: RunConfig, tmp_path: Path
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["config"]["model"] = str(save_language_model("gpt2", tmp_path / "gpt2"))
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as caught:
        score_prompt(copied, ASKED, tiny_run)
    expected = manifest["hashes"]["model_hash"]
    found = load_language_model(manifest["config"]["model"]).identity.model_hash
    for part in (str(copied / "probes"), expected, found, "sep train"):
        assert part in str(caught.value)


def test_a_folder_without_probes_names_the_remedy(copied: Path, tiny_run: RunConfig) -> None:
    shutil.rmtree(copied / "probes")
    with pytest.raises(UserError, match=r"probes has no probe .*`sep train`.*tbg"):
        score_prompt(copied, ASKED, tiny_run)
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["config"]  # as in the folder of `sep entropy --samples`
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"has no probes: .*`sep run`"):
        score_prompt(copied, ASKED, tiny_run)
    with pytest.raises(UserError, match=r"nowhere is no run folder; .*`sep run`.*--run"):
        score_prompt(copied / "nowhere", ASKED, tiny_run)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (" \n", "the prompt is empty: ask a question"),
        ("\udcff", "the prompt is no UTF-8 text"),
        ("7 " * 2000, r"the prompt has \d{4} tokens; between 1 and \d+ fit"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(
    prompt: str, message: str, tiny_run: RunConfig
) -> None:
    with pytest.raises(UserError, match=message):
        score_prompt(tiny_run.run_folder, prompt, tiny_run)
