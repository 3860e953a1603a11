"""Runs other packages on seeded inputs and records what they give, in
tests/support/peer_numbers.json.

No test runs this; tests/uncertainty/test_peer_numbers.py compares our estimators with what it
recorded. To repeat it:

    python tests/support/record_peers.py lm-polygraph    # where lm-polygraph==0.7.0 is installed
    python tests/support/record_peers.py uqlm            # where uqlm==0.6.1 is installed
    python tests/support/record_peers.py semantic-entropy-probes CLONE COMMIT
    python tests/support/record_peers.py semantic_uncertainty CLONE COMMIT
    python tests/support/record_peers.py kuhn CLONE COMMIT         # needs torch

The last three are scripts, not packages: their functions are taken out of a clone's files without
running the rest, which would ask for accounts and a GPU. The packages' own imports are skipped in
the same spirit: only the modules that hold the formulas are loaded.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).with_name("peer_numbers.json")
SEED, QUESTIONS, CURVES = 0, 20, 6
MEASURES = "semantic_uncertainty/uncertainty/uncertainty_measures/semantic_entropy.py"
AGGREGATIONS = {
    "": "sum", "_sum-normalized": "sum_normalized", "_sum-normalized-rao": "sum_normalized",
    "_cmean": "mean",
}  # fmt: skip
"""The suffixes of semantic-entropy-probes' names, and what they aggregate a cluster by."""


@dataclass(frozen=True)
class Question:
    """Answers in their order, the most likely one last, with a verdict for every pair of texts."""

    texts: list[str]
    judgements: np.ndarray  # [K + 1, K + 1, 3]
    logprobs: np.ndarray  # [K + 1], summed over tokens
    lengths: np.ndarray  # [K + 1]

    @property
    def k(self) -> int:
        return len(self.texts) - 1

    @property
    def sampled(self) -> np.ndarray:
        """The verdicts on pairs of samples, `[K, K, 3]`."""
        return self.judgements[: self.k, : self.k]

    def judge(self, premise: str, hypothesis: str) -> np.ndarray:
        """P(contradiction), P(neutral), P(entailment)."""
        return self.judgements[self.texts.index(premise), self.texts.index(hypothesis)]

    def means(self) -> np.ndarray:
        return self.logprobs / self.lengths


def make_questions() -> list[Question]:
    """Random answers with repetitions, and random judges: intransitive, and unsure of themselves.

    Verdicts depend on the texts alone. Now and then a judge does not see that a text entails
    itself, which some packages ask.
    """
    rng = np.random.default_rng(SEED)
    questions = []
    for _ in range(QUESTIONS):
        k, distinct = int(rng.integers(2, 11)), int(rng.integers(1, 8))
        at = rng.integers(0, distinct, k + 1)
        lean = rng.choice([[1.0, 0.3, 1.0], [0.3, 0.3, 2.0], [0.5, 1.0, 0.7]])
        table = rng.dirichlet(lean, (distinct, distinct))
        for text in range(distinct):
            if rng.random() < 0.9:
                table[text, text] = [0.0, 0.0, 1.0]
        questions.append(
            Question(
                texts=[f"answer {text}" for text in at],
                judgements=table[at[:, None], at],
                logprobs=-rng.exponential(3.0, k + 1),
                lengths=rng.integers(1, 9, k + 1),
            )
        )
    return questions


def make_curves() -> list[tuple[np.ndarray, np.ndarray]]:
    """Which answers are right, and how uncertain each is: with ties, and once all right."""
    rng = np.random.default_rng(SEED + 1)
    curves = []
    for i in range(CURVES):
        n = int(rng.integers(20, 200))
        uncertainty = rng.integers(0, 8, n) / 4 if i % 2 else rng.random(n)
        right = (rng.random(n) < 1 - 0.3 * uncertainty).astype(float) if i else np.ones(n)
        curves.append((right, uncertainty))
    return curves


def lm_polygraph(questions: list[Question]) -> dict[str, list[float]]:
    """Its classes, from a matrix of verdicts, and its estimators."""
    _skeleton("lm_polygraph", "estimators", "stat_calculators", "utils")
    nothing = types.SimpleNamespace(WhiteboxModel=object, Model=object)
    sys.modules["lm_polygraph.utils.model"] = nothing  # type: ignore[assignment]
    estimators = "lm_polygraph.estimators."
    entropy = importlib.import_module(estimators + "semantic_entropy").SemanticEntropy
    module = importlib.import_module("lm_polygraph.stat_calculators.semantic_classes")
    calculators = [
        entropy(),
        entropy(use_unique_responses=True),
        entropy(entropy_estimation="direct"),
        entropy(class_probability_estimation="frequency"),
        entropy(class_probability_estimation="frequency", entropy_estimation="direct"),
        importlib.import_module(estimators + "num_sem_sets").NumSemSets(),
    ]
    for name, file in (("MonteCarloSequenceEntropy", "monte_carlo_sequence_entropy"),
                       ("MonteCarloNormalizedSequenceEntropy",
                        "monte_carlo_normalized_sequence_entropy")):  # fmt: skip
        calculators.append(getattr(importlib.import_module(estimators + file), name)())
    found: dict[str, list[float]] = {str(c): [] for c in calculators}
    for q in questions:
        p = q.sampled[None]
        stats = {
            "sample_texts": [q.texts[: q.k]],
            "semantic_matrix_classes": p.argmax(-1),
            "semantic_matrix_entail": p[..., 2],
            "semantic_matrix_contra": p[..., 0],
            "entailment_id": 2,
            "sample_log_probs": [q.logprobs[: q.k].tolist()],
            "sample_tokens": [[[0] * n for n in q.lengths[: q.k]]],
        }
        stats |= module.SemanticClassesCalculator()(stats, [""], None)
        for calculator in calculators:
            found[str(calculator)].append(float(calculator(stats)[0]))
    return found


def uqlm(questions: list[Question]) -> dict[str, list[float]]:
    """Its clusterer, with its own rule of entailment on given probabilities, and its entropies."""
    _skeleton("uqlm", "nli", "utils")
    nli_class = importlib.import_module("uqlm.nli.nli").NLI
    clusterer_class = importlib.import_module("uqlm.nli.cluster").SemanticClusterer
    tools = importlib.import_module("uqlm.nli.entropy_utils")
    found: dict[str, list[float]] = {
        name: []
        for name in ("discrete_entropy_values", "discrete_confidence_scores", "num_semantic_sets",
                     "tokenprob_entropy_values", "tokenprob_confidence_scores")
    }  # fmt: skip
    for q in questions:
        nli = nli_class.__new__(nli_class)
        nli.label_mapping, nli.probabilities = ["contradiction", "neutral", "entailment"], {}
        nli.predict = lambda premise, hypothesis, q=q: q.judge(premise, hypothesis)[None]
        order = [q.k, *range(q.k)]
        tokens = [
            [{"logprob": float(q.logprobs[i])}, *({"logprob": 0.0},) * (int(q.lengths[i]) - 1)]
            for i in order
        ]
        by_token, uniform = tools.compute_response_probabilities(tokens, num_responses=q.k + 1)
        _, _, shares, indices = clusterer_class(nli).evaluate(
            [q.texts[i] for i in order], response_probabilities=uniform
        )
        discrete = tools.compute_semantic_entropy(shares)
        likely = tools.compute_semantic_entropy(
            tools.compute_cluster_probabilities(by_token, indices)
        )
        for name, value in (("discrete", discrete), ("tokenprob", likely)):
            found[f"{name}_entropy_values"].append(float(value))
            scaled = tools.normalize_entropy([value], num_responses=q.k)[0]
            found[f"{name}_confidence_scores"].append(float(1 - scaled))
        found["num_semantic_sets"].append(len(shares))
    return found


def semantic_entropy_probes(questions: list[Question], clone: Path) -> dict[str, list[float]]:
    """Its clusters and entropies, named and aggregated as in compute_uncertainty_measures.py."""
    functions = _functions(clone / MEASURES, np=np)
    found: dict[str, list[float]] = {}
    for q in questions:
        ids = _semantic_ids(functions, q)
        numbers = {"cluster_assignment_entropy": functions["cluster_assignment_entropy"](ids)}
        for tokens, values in (("", q.means()), ("_sum", q.logprobs)):
            values = values[: q.k].tolist()
            numbers[f"regular_entropy{tokens}"] = functions["predictive_entropy"](values)
            for name, agg in AGGREGATIONS.items():
                by_id = np.array(functions["logsumexp_by_id"](ids, values, agg=agg))
                entropy = "predictive_entropy" + ("_rao" if name.endswith("rao") else "")
                numbers[f"semantic_entropy{tokens}{name}"] = functions[entropy](by_id)
        for name, value in numbers.items():
            found.setdefault(name, []).append(float(value))
    return found


def semantic_uncertainty(questions: list[Question], clone: Path) -> dict[str, list[float]]:
    """The parent of the former: its three entropies, and the accuracies of its evaluation."""
    functions = _functions(clone / MEASURES, np=np)
    curves = _functions(clone / "semantic_uncertainty/uncertainty/utils/eval_utils.py", np=np)
    found: dict[str, list[float]] = {}
    for q in questions:
        ids, values = _semantic_ids(functions, q), q.means()[: q.k].tolist()
        by_id = np.array(functions["logsumexp_by_id"](ids, values))
        for name, value in (
            ("cluster_assignment_entropy", functions["cluster_assignment_entropy"](ids)),
            ("semantic_entropy", functions["predictive_entropy_rao"](by_id)),
            ("regular_entropy", functions["predictive_entropy"](values)),
        ):
            found.setdefault(name, []).append(float(value))
    for right, uncertainty in make_curves():
        area = curves["area_under_thresholded_accuracy"](right, uncertainty)
        at_80 = curves["accuracy_at_quantile"](right, uncertainty, 0.8)
        found.setdefault("area_under_thresholded_accuracy", []).append(float(area))
        found.setdefault("accuracy_at_quantile", []).append(float(at_80))
    return found


def _semantic_ids(functions: dict[str, types.FunctionType], q: Question) -> list[int]:
    judge = types.SimpleNamespace(
        check_implication=lambda a, b, example=None: int(q.judge(a, b).argmax())
    )
    return functions["get_semantic_ids"](q.texts[: q.k], judge, strict_entailment=True)


def kuhn(questions: list[Question], clone: Path) -> dict[str, list[float]]:
    """Its pairwise loop over distinct texts, taken in order of appearance, and its entropies."""
    import torch

    code = clone / "code"
    tree = ast.parse((code / "get_semantic_similarities.py").read_text(encoding="utf-8"))
    loop = next(
        node for node in ast.walk(tree)
        if isinstance(node, ast.For) and ast.unparse(node.target) == "(i, reference_answer)"
    )  # fmt: skip
    pairs = compile(ast.Module([loop], []), "get_semantic_similarities.py", "exec")
    formulas = _functions(
        code / "compute_confidence_measure.py", torch=torch, llh_shift=torch.tensor(5.0)
    )
    found: dict[str, list[float]] = {}
    for q in questions:
        distinct = list(dict.fromkeys(q.texts[: q.k]))
        ids = {text: i for i, text in enumerate(distinct)}
        exec(
            pairs, _judge_of_kuhn(q) | {"unique_generated_texts": distinct, "semantic_set_ids": ids}
        )
        sets = torch.tensor([[ids[text] for text in q.texts[: q.k]]])
        mean, total = (
            torch.tensor(v[: q.k], dtype=torch.float64)[None, None] for v in (q.means(), q.logprobs)
        )
        over = formulas["get_predictive_entropy_over_concepts"]
        unique = formulas["get_number_of_unique_elements_per_row"]
        for name, value in (
            ("predictive_entropy_over_concepts", over(mean, sets[None])),
            ("unnormalised_entropy_over_concepts", over(total, sets[None])),
            ("number_of_semantic_sets", unique(sets)),
            ("average_predictive_entropy", formulas["get_predictive_entropy"](mean)),
            ("predictive_entropy", formulas["get_predictive_entropy"](total)),
        ):
            found.setdefault(name, []).append(float(value[0]))
    return found


def _judge_of_kuhn(q: Question) -> dict[str, object]:
    """The names that its loop uses, with a judge in place of the tokenizer and the model."""

    def label(text: str) -> list[int]:
        first, second = text.split(" [SEP] ")
        return [int(q.judge(first.strip(), second.strip()).argmax())]

    return {
        "question": "",
        "inputs": [], "answer_list_1": [], "answer_list_2": [], "deberta_predictions": [],
        "tokenizer": types.SimpleNamespace(encode=lambda text, padding: text),
        "model": lambda encoded: {"logits": encoded},
        "torch": types.SimpleNamespace(
            tensor=lambda x, device=None: x[0] if isinstance(x, list) else x,
            argmax=lambda text, dim: label(text),
        ),
        "print": lambda *values: None,
    }  # fmt: skip


def _functions(file: Path, **names: object) -> dict[str, types.FunctionType]:
    """The functions that a file defines at its top, without running the rest of it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    exec(compile(ast.Module(kept, []), file.name, "exec"), names)
    return {node.name: names[node.name] for node in kept}  # type: ignore[misc]


def _skeleton(package: str, *parts: str) -> None:
    """Let a package's modules be imported without running its `__init__` files."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{package} is not installed here")
    root = Path(spec.submodule_search_locations[0])
    for name, folder in [(package, root), *((f"{package}.{p}", root / p) for p in parts)]:
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module


def main() -> None:
    if len(sys.argv) not in (2, 4):
        sys.exit(__doc__)
    package, questions = sys.argv[1], make_questions()
    if len(sys.argv) == 2:
        numbers = {"lm-polygraph": lm_polygraph, "uqlm": uqlm}[package](questions)
        version = importlib.metadata.version(package)
    else:
        clone, version = Path(sys.argv[2]), sys.argv[3]
        scripts = {
            "semantic-entropy-probes": semantic_entropy_probes,
            "semantic_uncertainty": semantic_uncertainty,
            "kuhn": kuhn,
        }
        numbers = scripts[package](questions, clone)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else {}
    recorded[package] = {"version": version, "numpy": np.__version__, "numbers": numbers}
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(recorded.items()))
    RECORDED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{package} {version}: {', '.join(numbers)}")


if __name__ == "__main__":
    main()
