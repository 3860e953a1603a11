"""The run folder: what a run leaves behind, readable without a model and without a network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from helpers.assessment import Assessment
from helpers.config import RunConfig
from helpers.errors import UserError
from helpers.meanings import Meanings
from helpers.pipeline import SampledAnswers
from helpers.probe_store import save_probe
from helpers.probe_training import Targets, TrainedProbes
from helpers.records import as_plain
from helpers.store import write_arrays, write_bytes, write_json

FORMAT_VERSION = 1
ANSWER_ORDER = "premise, hypothesis: the samples in their order, then the most likely answer"
ASSESSMENT = "assessment.json"
JUDGEMENTS, LABELS = "judgements.safetensors", "contradiction_neutral_entailment"
PACKAGES = ("marimo", "torch", "transformers", "nnsight", "numpy", "scikit-learn")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`; nothing in it is a NaN or a path of this machine."""
    write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION, **manifest})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder, or None where there is no run yet.

    Raises `UserError` when it is damaged or was written by another version of the format.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            f"{path} is no manifest of a run ({error}); delete the folder and run again: stored "
            "results are used, nothing is computed twice"
        ) from error
    if version != FORMAT_VERSION:
        wrote = manifest.get("versions", {}).get("uncertainty-probes", "an unknown version")
        raise UserError(
            f"{folder} was written in format {version} by uncertainty-probes {wrote}, and this is "
            f"format {FORMAT_VERSION}; open it with that version, or choose another --out"
        )
    return manifest


def package_versions() -> dict[str, str]:
    """Installed versions of this project and of what its results depend on."""
    versions = {}
    for name in ("uncertainty-probes", *PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def write_questions(folder: Path, answers: SampledAnswers) -> None:
    """`questions.parquet`: id, question, answer, final_answer, split, source."""
    names = ("id", "question", "answer", "final_answer", "split", "source")
    columns = {name: [getattr(q, name) for q in answers.questions] for name in names}
    write_parquet(folder / "questions.parquet", columns)


def write_samples(folder: Path, answers: SampledAnswers, meanings: Meanings) -> None:
    """`samples.parquet`: one row an answer; sample_id -1 is the most likely, without a cluster."""
    columns: dict[str, list] = {
        name: []
        for name in (
            "question_id", "sample_id", "text", "final_answer", "status", "correct", "cluster",
            "token_ids", "token_logprobs", "token_entropies", "finish_reason",
        )
    }  # fmt: skip
    for i, row in enumerate(answers.samples):
        grades = meanings.grades[i] or (None,) * len(row)
        greedy = (answers.greedy[i], meanings.greedy_grades[i], None)
        for sample, grade, cluster in (
            greedy,
            *zip(row, grades, meanings.clusters[i], strict=True),
        ):
            for name in ("question_id", "sample_id", "text", "finish_reason"):
                columns[name].append(getattr(sample, name))
            for name in ("token_ids", "token_logprobs", "token_entropies"):
                columns[name].append(list(getattr(sample, name)))
            columns["final_answer"].append(grade.final_answer if grade else None)
            columns["status"].append(grade.status if grade else None)
            columns["correct"].append(grade.correct if grade else None)
            columns["cluster"].append(cluster)
    write_parquet(folder / "samples.parquet", columns)


def write_judgements(folder: Path, answers: SampledAnswers, judgements: np.ndarray) -> None:
    """`judgements.safetensors`: the judge's probabilities for all pairs of a question's answers."""
    header = {"rows": json.dumps([q.id for q in answers.questions]), "answers": ANSWER_ORDER}
    write_arrays(folder / JUDGEMENTS, {LABELS: judgements}, header)


def write_scores(
    folder: Path,
    answers: SampledAnswers,
    meanings: Meanings,
    uncertainty: Mapping[str, np.ndarray],
    targets: Targets,
    predicted: Mapping[str, np.ndarray] | None = None,
) -> None:
    """`questions_scored.parquet`: one row a question, with every estimator and probe."""
    columns: dict[str, Sequence] = {
        "question_id": [q.id for q in answers.questions],
        "split": [q.split for q in answers.questions],
        "k": [len(row) for row in answers.samples],
        "accuracy": [_share_correct(grades) for grades in meanings.grades],
        "unanswered": [
            None if grades is None else sum(g.status == "unanswered" for g in grades)
            for grades in meanings.grades
        ],
        "greedy_status": [g.status if g else None for g in meanings.greedy_grades],
        **{name: _known(values) for name, values in uncertainty.items()},
        "high_semantic_entropy": _known(targets.high),
        **{f"probe_{name}": _known(values) for name, values in (predicted or {}).items()},
    }
    write_parquet(folder / "questions_scored.parquet", columns)


def write_probes(
    folder: Path, config: RunConfig, hashes: Mapping[str, str], trained: TrainedProbes
) -> None:
    """`probes/<name>.safetensors` and `.json`, each with what is needed to use it alone."""
    for probe in (*trained.probes.values(), *trained.hybrids.values()):
        card = {
            **hashes,
            "model": config.model,
            "prompt_template": config.prompt_template,
            "chat": config.chat,
            "thinking": config.thinking,
            "dtype": config.dtype,
            "run": config.run_name(),
        }
        save_probe(probe, folder / "probes", card=card)


def write_assessment(folder: Path, trained: TrainedProbes, assessment: Assessment) -> None:
    """`assessment.json`: sweeps, scores and curves in full, for opening the run again.

    Predictions stand in questions_scored.parquet.
    """
    parts = {f.name: getattr(assessment, f.name) for f in fields(assessment)}
    del parts["predicted"]
    record = {"sweeps": trained.sweeps, "undefined": trained.undefined, "assessment": parts}
    write_json(folder / ASSESSMENT, as_plain(record))


def metrics_as_json(trained: TrainedProbes, assessment: Assessment, targets: Targets) -> dict:
    """Every number of the report with interval, n and p-value, as plain JSON."""

    def table(scores: Mapping[str, Mapping[str, Any]]) -> dict:
        return {
            predictor: {name: score.as_dict() for name, score in row.items()}
            for predictor, row in scores.items()
        }

    return {
        "threshold_nats": targets.threshold,
        "chosen": {
            name: {
                "position": sweep.best_position,
                "layer": sweep.best_layer,
                "regularisation": sweep.best_regularisation,
                "validation_score": sweep.best_score,
                "validation_score_name": sweep.score_name,
            }
            for name, sweep in trained.sweeps.items()
        },
        "undefined_probes": trained.undefined,
        "semantic_entropy": table(assessment.regression),
        "high_semantic_entropy": table(assessment.high_entropy),
        "wrong_answer": table(assessment.wrong_answer),
        "auroc_difference_to_baseline": {
            name: score.as_dict() for name, score in assessment.differences.items()
        },
        "hybrid": assessment.hybrid.as_dict() if assessment.hybrid else None,
        "test_maps": {
            name: {
                "score_name": shown.score_name,
                "positions": list(shown.positions),
                "layers": list(shown.layers),
                "score": None if shown.score is None else shown.score.round(6).tolist(),
                "n": shown.n,
                "undefined": shown.undefined,
            }
            for name, shown in assessment.test_maps.items()
        },
        "tripwires": [asdict(tripwire) for tripwire in assessment.tripwires],
    }


def write_parquet(path: Path, columns: Mapping[str, Sequence]) -> None:
    """Write named columns as one Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def _share_correct(grades: Sequence | None) -> float | None:
    """Correct answers among those that state one; None when there are none."""
    known = [g.correct for g in grades or () if g.correct is not None]
    return sum(known) / len(known) if known else None
