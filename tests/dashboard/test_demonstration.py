"""The committed demonstration: of today's lab, open to everyone, and told of in the README."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.analysis_table.file import read_narrow
from helpers.dashboard.data import listed_runs
from helpers.evaluation.scores import Score, format_score
from helpers.models.loading import identify
from helpers.studies.reasoning.run_files import open_study
from helpers.studies.registry import make_config

ROWS = {
    "correctness": "correctness probe (layer 5 of 6)",
    "semantic_entropy": "semantic-entropy probe",
    "thinking_entropy": "mean thinking entropy, the baseline",
    "combined": "combination of the three",
    "thinking_length": "length of the thinking",
    "agreement": "agreement with the other 9 runs",
}
"""Predictor to its row in the README's table."""


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "outputs" / "demonstration"


def test_it_is_a_whole_run_of_the_preset_and_of_today_s_lab(folder: Path) -> None:
    run = open_study(folder)
    assert run.manifest["run"] == make_config("lab-think").run_name()
    lab = identify("lab")
    assert run.manifest["hashes"] == {
        "model_hash": lab.model_hash,
        "tokenizer_hash": lab.tokenizer_hash,
    }
    assert run.table is not None
    table = read_narrow(folder / "analysis.parquet")
    assert len(table) == len(run.table) == 8000
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    assert not any("hidden" in path.parts for path in files)


def test_the_dashboard_of_a_bare_clone_shows_it(folder: Path) -> None:
    assert "demonstration" in [run.name for run in listed_runs(folder.parent)]


def test_the_readme_s_table_is_that_of_the_demonstration(folder: Path, root: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    readme = (root / "README.md").read_text(encoding="utf-8")

    def said(split: str, name: str, metric: str) -> str:
        found = metrics["correctness"][split][name][metric]
        fields = ("name", "value", "low", "high", "p_value", "n")
        return format_score(Score(**{field: found[field] for field in fields}))

    for name, title in ROWS.items():
        cells = [said("test", name, "auroc"), said("ood", name, "auroc")]
        row = " | ".join([title, *cells, said("test", name, "within_question")])
        assert f"| {row} |" in readme
