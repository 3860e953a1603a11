"""The list of stored runs, whatever else lies there; and where a run's numbers come from."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.app.report import provenance_card
from helpers.cli.main import build_parser
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.store.run_folder import run_label, stored_runs, write_manifest
from helpers.studies.registry import config_from_namespace, make_config, repeat_command
from helpers.studies.semantic_entropy.config import POSITIONS
from helpers.studies.semantic_entropy.run_files import StoredRun, read_run
from helpers.studies.semantic_entropy.study import STUDY

PARSER = build_parser()


def written(
    folder: Path, at: float, stages: tuple[str, ...] = STUDY.stage_names, **config: Any
) -> Path:
    """A run folder of a manifest alone, written at a time."""
    made = make_config("lab", **config)
    counts = {"questions": made.limit}
    manifest = {"config": made.results_fields(), "counts": counts, "stages_done": list(stages)}
    manifest |= {"study": STUDY.name, "stages": list(STUDY.stage_names)}
    write_manifest(folder, {"run": made.run_name(), **manifest})
    os.utime(folder / "manifest.json", (at, at))
    return folder


# --- the list ------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    written(
        tmp_path / "old", 100, limit=200, k=5, temperature=0.7, model="a/b", questions="q.jsonl"
    )
    written(tmp_path / "new", 300, STUDY.stage_names[:2])
    written(tmp_path / "young", 400, STUDY.stage_names[:1])
    written(tmp_path / "middle", 200)
    runs = stored_runs(tmp_path)
    assert [run.name for run in runs] == ["young", "new", "middle", "old"]
    assert [run.finished for run in runs] == [False, False, True, True]
    assert [run.ready for run in runs] == [False, True, True, True]
    old = runs[-1]
    assert (old.model, old.questions, old.n, old.k, old.temperature) == (
        "a/b", "q.jsonl", 200, 5, 0.7,
    )  # fmt: skip
    assert (old.folder, old.written, old.damaged) == (tmp_path / "old", 100, "")
    assert run_label(old) == (
        "old · a/b on q.jsonl · 200 questions × 5 · T = 0.7 · finished · 1970-01-01 00:01 UTC"
    )
    assert "after “meanings”" in run_label(runs[1])


def test_damage_is_listed_with_its_reason_and_foreign_folders_are_passed_over(
    tmp_path: Path,
) -> None:
    whole, name = written(tmp_path / "whole", 1), "manifest.json"
    newer = '{"format_version": 999, "versions": {"uncertainty-probes": "7.0"}}'
    damages: dict[str, tuple[Any, str]] = {
        "cut": (b'{"format_ver', "no manifest of a run"),
        "binary": (b"\xff\xfe\x00", "no manifest"),
        "newer": (newer.encode(), "format 999 by uncertainty-probes 7.0"),
        "no-config": ({"stages_done": []}, "'config'"),
        "odd": ({"config": {"model": "x"}}, "run the command again"),
        "list": ({"config": [], "stages_done": []}, "not as this"),
        "begun": (None, "no manifest.json"),
    }
    for at, (content, _) in damages.items():
        folder = Path(shutil.copytree(whole, tmp_path / at))
        (folder / "questions.parquet").write_text("")
        if isinstance(content, dict):
            write_manifest(folder, content)
        elif content:
            (folder / name).write_bytes(content)
        else:
            (folder / name).unlink()
    foreign = {"extension": '{"manifest_version": 3}', "other": "# not JSON", "array": "[1]"}
    for at, text in foreign.items():
        (tmp_path / at).mkdir()
        (tmp_path / at / name).write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    runs = {run.name: run for run in stored_runs(tmp_path)}
    assert set(runs) == {"whole", *damages}
    for at, (_, reason) in damages.items():
        assert reason in runs[at].damaged, at
        assert (runs[at].finished, runs[at].ready) == (False, False)
        assert run_label(runs[at]) == f"{at} · damaged"
    assert runs["whole"].finished
    assert stored_runs(tmp_path / "nowhere") == stored_runs(tmp_path / "notes.txt") == []


# --- where the numbers come from -----------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
changes = st.fixed_dictionaries(
    {},
    optional={
        "limit": st.integers(1, 10**6),
        "k": st.integers(2, 1000),
        "temperature": st.floats(1e-6, 10),
        "top_p": st.floats(1e-6, 1),
        "seed": st.integers(0, 10**12),
        "model": texts,
        "questions": texts,
        "prompt_template": texts.map(lambda text: text + "{question}"),
        "chat": st.booleans(),
        "thinking": st.booleans(),
        "stop": st.lists(texts, max_size=3).map(tuple),
        "judge": st.sampled_from(["nli", "cosine", "final-answer"]),
        "cosine_threshold": st.none() | st.floats(-0.99, 0.99),
        "positions": st.lists(st.sampled_from(POSITIONS), min_size=1, max_size=3).map(tuple),
        "estimators": st.sampled_from([("all",), ("semantic_entropy",)]),
        "dtype": st.sampled_from(["auto", "float16"]),
    },
)


@example({"stop": ("-a", "b")}, "lab").via("a flag would swallow it")
@example({"stop": ("-a b",), "model": "-x", "chat": True}, "lab").via("dashes")
@settings(max_examples=100)
@given(changes, st.sampled_from(["lab", "gpt2-gsm8k", "gpt2-medium-gsm8k"]))
def test_the_command_of_a_run_makes_the_same_run(change: dict[str, Any], preset: str) -> None:
    config = make_config(preset, **change)
    stored = json.loads(json.dumps(config.results_fields()))  # as a manifest has it
    if len(config.stop) > 1 and any(text.startswith("-") for text in config.stop):
        with pytest.raises(UserError, match="begins with a dash"):
            repeat_command(stored)
        return
    command = repeat_command(stored)
    assert command.startswith("uv run sep run --preset")
    typed = shlex.split(command)[3:]
    again = config_from_namespace(PARSER.parse_args(typed))
    assert again.run_name() == config.run_name()
    flags = {word.split("=")[0] for word in typed if word.startswith("--")}
    usual = make_config(preset).results_fields()
    assert len(flags) - 1 <= sum(config.results_fields()[name] != usual[name] for name in usual)


def test_a_command_that_cannot_be_typed_is_not_made_up() -> None:
    usual = make_config("lab").results_fields()
    for settings_, reason in (
        ({"preset": "mine"}, "preset 'mine' is unknown"),
        ({**usual, "colour": "blue"}, "no setting 'colour'"),
        ({**usual, "stop": ["-a", "b"]}, "begins with a dash"),
        ({**usual, "k": None}, "no flag unsets k"),
        ({**usual, "model": "--"}, "cannot be --"),
    ):
        with pytest.raises(UserError, match=reason):
            repeat_command(settings_)
    assert repeat_command({**usual, "stop": ["-a"]}).endswith("--stop=-a")
    assert repeat_command({**usual, "stop": []}) == "uv run sep run --preset lab"


@pytest.fixture(scope="module")
def stored(tiny_run: RunConfig) -> StoredRun:
    return read_run(tiny_run.run_folder)


def test_the_card_of_a_run_tells_where_its_numbers_come_from(stored: StoredRun) -> None:
    card, manifest = provenance_card(stored), stored.manifest
    plain = re.sub(r"<[^>]+>", "|", card)
    assert str(stored.folder.parent) not in card
    for digest in manifest["hashes"].values():
        assert f'title="{digest}">{digest[:8]}…<' in card
    for name, version in manifest["versions"].items():
        assert re.search(rf"{re.escape(name)}\|+{re.escape(version)}", plain)
    assert re.search(rf"\|tokens\|+{manifest['counts']['tokens']:,}\|", plain)
    total = sum(work["seconds"] for work in manifest["work"].values())
    assert re.search(rf"in total\|+{total:,.1f} s", plain)
    # What differs from the preset stands before the rest, which is folded.
    opened = plain.index("Settings as in the preset")
    assert plain.index("|limit|") < opened < plain.index("|temperature|")
    command = re.search(r"<pre[^>]*>(.+?)</pre>", card, re.DOTALL)
    assert command
    typed = shlex.split(command[1].replace("&#x27;", "'"))[3:]
    assert config_from_namespace(PARSER.parse_args(typed)).run_name() == stored.folder.name


def test_the_card_of_another_versions_run_says_what_is_different(stored: StoredRun) -> None:
    earlier = replace(stored, manifest={**stored.manifest, "run": "lab-00000000"})
    assert "An earlier version wrote this run" in provenance_card(earlier)
    evil = {**stored.manifest["config"], "colour": "<b>", "model": "<script>"}
    card = provenance_card(replace(stored, manifest={"config": evil, "hashes": {"<u>": '"<u>'}}))
    assert "No command repeats this run here" in card
    assert "&lt;script&gt;" in card
    assert not re.search(r"<b>|<script>|<u>", card)
