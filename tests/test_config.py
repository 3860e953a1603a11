"""The config: one source for form, flags and names, and refused with the field and the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.errors import UserError
from helpers.studies.registry import (
    all_presets,
    all_studies,
    config_from_arguments,
    make_config,
    stored_config,
    study_of,
    study_with_preset,
)
from helpers.studies.semantic_entropy.config import SemanticEntropyConfig

CHANGED: dict[str, Any] = {
    "k": 3, "temperature": 0.5, "chat": True, "thinking": True, "stop": ("\n",), "judge": "cosine",
    "cosine_threshold": 0.8, "positions": ("tbg",), "analyses": ("curves",), "threads": 1,
    "cache_dir": "elsewhere",
}  # fmt: skip
"""A field of every type."""


def test_flags_change_the_preset_and_the_preset_changes_the_defaults() -> None:
    given = ["--preset", "gpt2-gsm8k", "--k", "3", "--chat", "--no-thinking", "--stop", "\n", "Q:"]
    config = config_from_arguments(["--", *given, "--cosine-threshold", "0.5"])
    assert (config.preset, config.model) == ("gpt2-gsm8k", "openai-community/gpt2")
    assert (config.k, config.chat, config.thinking) == (3, True, False)
    assert (config.stop, config.cosine_threshold) == (("\n", "Q:"), 0.5)
    assert (config.temperature, config.seed) == (0.7, 0)
    assert config_from_arguments([]) == make_config() == SemanticEntropyConfig()


def test_every_preset_is_valid_and_described() -> None:
    for name, preset in all_presets().items():
        assert make_config(name).preset == name
        assert study_of(make_config(name)) is study_with_preset(name)
        assert preset.note
        assert not preset.seconds or tuple(preset.seconds) == study_with_preset(name).stage_names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "gpt3"}, r"preset 'gpt3' is unknown.*lab, gpt2-gsm8k"),
        ({"temprature": 1}, r"'temprature' is unknown; did you mean 'temperature'\?"),
        ({"zebra": 1}, "'zebra' is unknown; .*--help"),
        ({"k": 1}, r"k \(--k\) is 1: .*greater than or equal to 2"),
        ({"top_p": 0}, r"--top-p\) is 0: .*greater than 0"),
        ({"limit": "many"}, r"--limit\) is 'many': .*valid integer"),
        ({"temperature": float("nan")}, r"--temperature\) is nan: "),
        ({"temperature": 0, "k": 7}, "temperature is 0 with k = 7: .*use a temperature above 0"),
        ({"judge": "nil"}, r"--judge\) is 'nil': .*'nli', 'cosine'"),
        ({"positions": ("tbg", "last")}, r"positions has \['last'\]; choose from tbg, answer_last"),
        ({"positions": ()}, "positions has nothing; choose from tbg"),
        ({"estimators": ("degre",)}, r"'degre' is no estimator \(did you mean degree.*perplexity"),
        ({"analyses": ("curve",)}, r"analyses has \['curve'\]; choose from all, none, curves"),
        ({"prompt_template": "Q: "}, r"no \{question\} in it; add it"),
        ({"k": 1, "n_bootstrap": 5}, r"--k\) is 1.*--n-bootstrap\) is 5"),
    ],
)
def test_a_mistake_is_named_with_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**changes)


def test_the_help_lists_every_field_with_its_description(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        config_from_arguments(["--help"])
    shown = capsys.readouterr().out
    flags = shown.replace(",", " ").split()
    text = "".join(shown.split())  # wherever the lines are broken
    for name, field in SemanticEntropyConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in flags
        described = f"{field.description} (default: "
        assert name == "preset" or "".join(described.split()) in text
    for name, preset in all_presets().items():
        assert "".join(f"{name}: {preset.note}".split()) in text


@pytest.mark.parametrize("preset", all_presets())
def test_a_config_comes_back_from_json(preset: str) -> None:
    kind = study_with_preset(preset).config
    own = {name: value for name, value in CHANGED.items() if name in kind.model_fields}
    config = make_config(preset, **own)
    fields = json.loads(json.dumps(config.model_dump(mode="json")))
    again = stored_config(Path("a"), {"study": kind.study, "config": fields}, kind)
    assert again == config
    assert again.run_name() == config.run_name()
    assert (
        make_config(preset, temperature=1).run_name()
        == make_config(preset, temperature="1.0").run_name()
    )
    odd = {"study": kind.study, "config": {**fields, "colour": "blue"}}
    with pytest.raises(UserError, match="does not know"):
        stored_config(Path("a"), odd, kind)


def test_a_config_of_another_study_is_refused() -> None:
    one, another = (study.config for study in all_studies()[:2])
    manifest = {"study": another.study, "config": {}}
    with pytest.raises(UserError, match="is a run of another study"):
        stored_config(Path("a"), manifest, one)
    assert study_of({}) is all_studies()[0]  # a manifest that names none
    with pytest.raises(UserError, match="study 'astrology' is unknown"):
        study_of({"study": "astrology"})


def test_the_study_of_reasoning_models_has_fields_and_defaults_of_its_own() -> None:
    think = make_config("lab-think", backend="openai", ood_questions="none")
    assert (think.temperature, think.chat, think.thinking) == (0.6, True, True)
    assert think.ood_questions is None  # type: ignore[attr-defined]
    assert config_from_arguments(["--min-runs", "2"]).preset == "lab-think"
    assert config_from_arguments(["--preset", "lab-think", "--runs", "3"]).k == 3
    elsewhere = make_config("lab-think", endpoint="http://127.0.0.1:1/v1", hidden_backend="plain")
    assert elsewhere.run_name() == make_config("lab-think").run_name()
    assert think.run_name() != make_config("lab-think").run_name()
    for mistake, message in (
        ({"preset": "lab", "min_runs": 2}, r"--min-runs\) belongs to the study .Reasoning models"),
        ({"preset": "lab-think", "estimators": ("degree",)}, "belongs to the study .Semantic"),
        ({"preset": "lab-think", "ood_questions": "lab"}, "ood_questions is 'lab', like questions"),
        ({"preset": "lab-think", "chat": False}, "use --chat, or --no-thinking"),
        ({"preset": "lab-think", "backend": "tgi"}, r"--backend\) is 'tgi': .*'hf', 'vllm'"),
    ):
        with pytest.raises(UserError, match=message):
            make_config(**mistake)
