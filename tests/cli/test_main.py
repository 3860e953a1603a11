"""`sep`: the stages in order, and every mistake explained in one line that helps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.cli.main import last_stage, main, stage_commands
from helpers.config import RunConfig
from helpers.studies.registry import make_config
from helpers.studies.semantic_entropy.commands import ANALYSIS_COMMANDS
from helpers.studies.semantic_entropy.study import STUDY
from helpers.uncertainty.estimators import ESTIMATORS
from support.run_folders import TINY, as_flags, assert_same_run

SHARED_FLAGS = {
    "--preset", "--model", "--questions", "--limit", "--k", "--temperature", "--top-p",
    "--max-new-tokens", "--seed", "--judge", "--batch-size", "--device", "--cache-dir", "--out",
}  # fmt: skip

Sep = Callable[..., tuple[int, str, str]]
"""Runs one command in the test's folder: its exit status, its output, its error output."""


@pytest.fixture
def sep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sep:
    def call(*arguments: str, out: str = "out", cache: str = "cache") -> tuple[int, str, str]:
        places = {"out": tmp_path / out, "cache_dir": tmp_path / cache}
        capsys.readouterr()
        # Of two equal flags the last holds: the caller's.
        status = main([arguments[0], *as_flags(places | TINY), *arguments[1:]])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub is asked, as with HF_HUB_OFFLINE=1."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


# --- the stages ----------------------------------------------------------------------------------


def test_stages_one_by_one_give_what_one_command_gives(
    sep: Sep, tiny_run: RunConfig, tmp_path: Path
) -> None:
    """Every command stops after its stage; what is stored is never computed again."""
    folder = tmp_path / "out" / tiny_run.run_name()
    worked: list[str] = []
    for command in ("generate", "entropy", "trace", "train", "eval", "run"):
        status, out, err = sep(command)
        assert status == 0, err
        assert str(folder) in out
        manifest = json.loads((folder / "manifest.json").read_text())
        done = STUDY.stage_names.index(last_stage(STUDY, command)) + 1
        assert manifest["stages_done"] == list(STUDY.stage_names[:done])
        assert (folder / "metrics.json").exists() == (command in ("eval", "run"))
        assert (folder / "analyses").exists() == (command == "run")
        worked += [line.split(":")[0] for line in err.splitlines()]
    once = ["Sampling answers", "Grouping answers by meaning", "Reading hidden states"]
    assert [title for title in worked if title in once] == once
    n = TINY["limit"] * (TINY["k"] + 1)
    assert manifest["work"]["samples"]["generated"] == n

    # `tiny_run` is one command with a cache of its own; here is one with the stages' cache.
    assert_same_run(tiny_run.run_folder, folder)
    status, out, err = sep("run", out="again")
    assert status == 0
    assert "Sampling" not in err
    assert_same_run(folder, tmp_path / "again" / folder.name)
    for heading in ("semantic entropy", "AUROC", "Tripwires", f"run folder: {tmp_path / 'again'}"):
        assert heading in out


def test_the_help_of_every_command_lists_the_shared_flags(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in (*stage_commands(), *ANALYSIS_COMMANDS, "score", "doctor"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        shown = set(re.findall(r"(?m)^  (--[\w-]+)", capsys.readouterr().out))
        assert shown >= SHARED_FLAGS, command


# --- mistakes ------------------------------------------------------------------------------------


def explained(result: tuple[int, str, str], *parts: str) -> None:
    """One plain line that names the thing, the place and the remedy; nothing else happened."""
    status, out, err = result
    assert (status, out) == (2, ""), err
    *before, line = err.splitlines()
    assert all(text.startswith("warning: ") for text in before)
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--preset", "gpt3"], ["'gpt3'", "lab, gpt2-gsm8k"]),
        (["run", "--temprature", "1"], ["--temprature 1", "--help"]),
        (["fly"], ["'fly'", "'run', 'generate'"]),
        (["run", "--k", "ten"], ["--k", "'ten'", "integer"]),
        (["run", "--limit", "3"], ["lab: only 0 of 3", "validation", "--limit"]),
        (["run", "--questions", "none.jsonl"], ["none.jsonl", "no such file", "--questions lab"]),
        (["run", "--model", "./none"], ["'./none'", "no such folder", "config.json"]),
        (["run", "--model", "tests"], ["/tests has no config.json", "Hugging Face folder"]),
        (["run", "--device", "abacus"], ["'abacus'", "not on this machine", "cpu"]),
        (["score", "How many?"], ["/out/lab-", "is no run folder", "sep run", "--run"]),
        (["score"], ["prompt", "--help"]),
        (["lab", "train", "--steps", "0"], ["--steps is 0", "1 or more"]),
        (["lab", "train", "--steps", "1", "--into", "LICENSE"], ["--into LICENSE", "another"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("run", "lab") else None,
)
def test_a_mistake_is_explained_in_one_line(
    arguments: list[str],
    parts: list[str],
    sep: Sep,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(root)
    if arguments[0] in ("lab", "fly"):
        explained((main(arguments), *capsys.readouterr()), *parts)
    else:
        explained(sep(*arguments), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model", "some/model"], ["language model 'some/model'", "local folder"]),
        (["--model", "gpt2"], ["language model 'openai-community/gpt2'", "local folder"]),
        (["--questions", "some/data"], ["data set some/data", "local file"]),
        (["--questions", "gsm8k"], ["data set openai/gsm8k", "local file"]),
        (["--judge", "nli", "--judge-model", "some/nli"], ["judge 'some/nli'", "local folder"]),
    ],
)
def test_what_cannot_be_reached_is_named_with_two_ways_on(
    arguments: list[str], parts: list[str], sep: Sep, tiny_run: RunConfig, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run.cache_dir, tmp_path / "cache")
    explained(sep("run", *arguments), "could not be reached", "--preset lab", *parts)


def test_a_run_folder_of_another_version_is_left_alone(sep: Sep, tmp_path: Path) -> None:
    folder = make_config(**TINY, out=tmp_path / "out").run_folder
    folder.mkdir(parents=True)
    written = json.dumps({"format_version": 999, "versions": {"uncertainty-probes": "7.0"}})
    (folder / "manifest.json").write_text(written)
    for command in (["run"], ["score", "How many?"]):
        explained(sep(*command), str(folder), "format 999", "uncertainty-probes 7.0", "--out")
    assert (folder / "manifest.json").read_text() == written
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("flag", ["--cache-dir", "--out"])
def test_a_file_in_the_place_of_a_folder_is_named(flag: str, sep: Sep, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("notes")
    explained(sep("run", flag, str(path)), f"{flag} {path} is a file", "name a folder")
    assert path.read_text() == "notes"


def test_ctrl_c_says_how_to_go_on(sep: Sep, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("helpers.studies.semantic_entropy.stages.sample_stage", interrupted)
    status, out, err = sep("run")
    assert (status, out) == (130, "")
    assert len(err.strip().splitlines()) == 1
    assert "the same command goes on" in err


# --- the doctor ----------------------------------------------------------------------------------


def test_the_doctor_says_what_is_here_and_what_to_type_next(
    sep: Sep, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    status, out, err = sep("doctor")
    assert (status, err) == (0, "")
    for finding in (
        r"torch +\d", r"cpu: \d+ cores", r"language model +[\d.]+ MB", r"free disk +[\d,.]+ GB",
        r"http://127\.0\.0\.1:9 does not answer \(ConnectError\)", r"uv run probe_training_auto",
    ):  # fmt: skip
        assert re.search(finding, out), finding
    assert "sep score" not in out  # nothing has been run into this folder

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    places = {"out": tiny_run.out, "cache_dir": tiny_run.cache_dir}
    _, out, _ = sep("doctor", *as_flags(places))
    assert "HF_HUB_OFFLINE is set" in out
    assert re.search(r"stored results +\S+: [\d.]+ [kM]B", out)
    assert "sep score" in out


# --- looking things up, and analyses of a finished run -------------------------------------------


def test_every_number_can_be_looked_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimators"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} · " in shown for name in ESTIMATORS)
    assert main(["explain", "AUROC", "kernel language entropy"]) == 0
    assert "auroc · AUROC" in capsys.readouterr().out
    assert main(["explain", "aurocc"]) == 2
    assert "did you mean auroc" in capsys.readouterr().err


@pytest.mark.parametrize("command", ANALYSIS_COMMANDS)
def test_an_analysis_prints_and_writes_its_numbers(
    command: str, tiny_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_run.run_folder, tmp_path / "run"))
    shutil.rmtree(folder / "analyses")
    flags = ["--threads=1", f"--cache-dir={tmp_path / 'cache'}", "--n-bootstrap=100"]
    status = main([command, str(folder), *flags])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    written = json.loads((folder / "analyses" / f"{command}.json").read_text())
    assert written["text"] in shown.out
    assert str(folder / "analyses" / f"{command}.json") in shown.out


@pytest.fixture
def other(tiny_run: RunConfig, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run with something else in its manifest."""

    def copy(part: str, **changes: Any) -> Path:
        folder = Path(shutil.copytree(tiny_run.run_folder, tmp_path / "other"))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest[part] |= changes
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return copy


def test_transfer_compares_runs_of_one_model_only(
    tiny_run: RunConfig, other, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tiny_run.run_folder, other("hashes", model_hash="another")
    assert main(["transfer", str(ours), str(theirs), f"--out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert ours.name in error
    assert "other" in error


def test_compare_prints_two_runs_side_by_side(
    tiny_run: RunConfig, other, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = other("config", temperature=0.5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    # One run by its folder, one by its name in --out.
    flags = [f"--out={tmp_path}", "--n-bootstrap=100", "--n-permutations=1000"]
    assert main(["compare", str(tiny_run.run_folder), "other", *flags]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"A  {tiny_run.run_name()} .*\nB  other ", shown)
    assert re.search(r"temperature +1\.0 +0\.5", shown)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert main(["compare", str(theirs), "none", *flags]) == 2
    assert "none is no run folder" in capsys.readouterr().err
    assert main(["compare", str(theirs)]) == 2
    assert "RUN" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(root: Path) -> None:
    """As in `sep estimators | head -1`, whose reader leaves before the writer."""
    code = "import sys; from helpers.cli.main import main; sys.exit(main(['estimators']))"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout
    assert writer.stderr
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait(60) == 1
