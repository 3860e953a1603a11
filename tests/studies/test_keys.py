"""What is stored stands under a key that changes with every field on which it depends, and with no
field that only says how to execute.

Each study is run once for every field of its config. What a model would compute is made up, from
all that it would be computed from, and the store notes which keys each stage asks for.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

from helpers.config import RunConfig, field_extra
from helpers.errors import UserError
from helpers.generation import samples
from helpers.generation.records import Backend, Decoding, Request, Sample
from helpers.hidden_states import stored
from helpers.hidden_states.capture import Capture, ForcedTokens
from helpers.meanings import judges
from helpers.models.loading import LAB_FOLDER, ModelIdentity, identify, load_tokenizer
from helpers.models.tokens import END_THINK
from helpers.probes import training
from helpers.probes.probe import MlpProbe
from helpers.progress import silent_progress
from helpers.studies import study as study_module
from helpers.studies.registry import all_studies, make_config, run_study, study_named
from helpers.studies.semantic_entropy import estimation
from helpers.studies.study import finished_key
from helpers.uncertainty import p_true

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:the lab's judge knows"),
]
LAYERS, WIDTH = 2, 4

# --- what depends on what -------------------------------------------------------------------------

DEPENDS = {
    "semantic-entropy": {
        "samples": "backend served_model",
        "samples uncertainty hidden probes": "model dtype",
        "samples meanings uncertainty hidden probes": "questions limit max_new_tokens seed "
        "prompt_template chat thinking stop",
        "samples meanings uncertainty probes": "k temperature top_p",
        "meanings uncertainty probes": "judge judge_model condition_on_question",
        "meanings probes": "embedding_model entailment cosine_threshold",
        "uncertainty": "estimators p_true_shots",
        "hidden probes": "positions",
        "": "preset n_bootstrap n_permutations",
    },
    "reasoning": {
        "samples": "served_model",
        "samples hidden": "model backend dtype",
        "samples meanings hidden": "questions limit ood_questions ood_limit k temperature top_p "
        "max_new_tokens seed prompt_template chat thinking stop",
        "meanings hidden": "min_runs",
        "meanings": "judge judge_model embedding_model condition_on_question entailment "
        "cosine_threshold",
        "": "preset n_bootstrap n_permutations entropy_of",
    },
}
"""By study: stages, and the fields that change what they ask the store for, also where all models
give the same answers. No stage asks for what the fields of "" change: that is computed in every
run, and its folder is named after them."""
WITH: dict[str, dict[str, Any]] = {
    "questions": {"ood_questions": None},
    "chat": {"prompt_template": "Q: {question}", "thinking": False},
    "thinking": {"chat": True},
    "served_model": {"backend": "openai"},
    "embedding_model": {"judge": "cosine"},
    "cosine_threshold": {"judge": "cosine"},
}
"""What a field needs to matter, and to be changed alone."""
OTHER: dict[str, Any] = {
    "preset": "another", "questions": "lab:ood", "ood_questions": None, "stop": ("1",),
    "prompt_template": "Q: {question}", "served_model": "another", "endpoint": "http://localhost",
    "api_key_variable": "ANOTHER", "cosine_threshold": 0.8, "device": "auto",
    "judge_device": "auto",
}  # fmt: skip
"""Values of fields whose type does not tell another one."""
SMALL: dict[str, Any] = {
    "limit": 24, "ood_limit": 8, "k": 5, "cosine_threshold": 0.3, "n_bootstrap": 100,
    "n_permutations": 1000, "threads": 1, "device": "cpu",
}  # fmt: skip


def changed(config: RunConfig, *names: str) -> RunConfig:
    """The config with another value of these fields."""
    return type(config)(**{**dict(config), **{name: another(config, name) for name in names}})


def another(config: RunConfig, name: str) -> Any:
    """A valid value of a field that is not the config's."""
    info, value = type(config).model_fields[name], getattr(config, name)
    if name in OTHER:
        return OTHER[name]
    if choices := field_extra(info).get("choices"):
        return next((choice,) for choice in choices if choice not in ("all", "none", *value))
    if get_origin(info.annotation) is Literal:
        return next(choice for choice in get_args(info.annotation) if choice != value)
    if isinstance(value, Path):
        return value.with_name("another")
    if isinstance(value, bool):
        return not value
    assert isinstance(value, (int, float)), f"name another value of {name} in OTHER"
    return 2 * value + 1 if isinstance(value, int) else 0.9 * value


# --- a store that notes, and models that are made up ----------------------------------------------


class NotingStore:
    """A store in memory that notes what is asked of it, and finds out where one key stands for two
    results, in any of the stores of a test."""

    def __init__(self, stored_before: dict[str, str]) -> None:
        self.asked: set[str] = set()
        self.values: dict[str, Any] = {}
        self.stored_before = stored_before

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        self.asked |= set(keys)
        return {key: self.values[key] for key in keys if key in self.values}

    def put_many(self, values: Mapping[str, Any]) -> None:
        self.values |= values
        for key, value in values.items():
            self.note(key, value)

    def get(self, key: str) -> Any:
        return self.get_many([key]).get(key)

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def get_arrays(self, key: str) -> Any:
        return self.get(f"arrays {key}")

    def has_arrays(self, key: str) -> bool:
        return self.get_arrays(key) is not None

    def put_arrays(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.values[f"arrays {key}"] = arrays
        self.note(f"arrays {key}", {name: array.tolist() for name, array in arrays.items()})

    def note(self, key: str, value: Any) -> None:
        assert self.stored_before.setdefault(key, repr(value)) == repr(value), "two results"

    def close(self) -> None:
        pass


def drawn(*what: Any) -> np.random.Generator:
    """Random numbers that are a function of `what`."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def content(identity: ModelIdentity) -> tuple[str, str]:
    """What a model is, wherever its folder stands."""
    return identity.model_hash, identity.tokenizer_hash


def made_up_backend(config: RunConfig) -> Backend:
    """Answers of a made-up kind; some are cut off, and only those of `hf` have full entropies.

    They are the same from all models, for then later stages need to tell these apart themselves.
    """
    tokenizer = load_tokenizer(identify(config.model))

    def answer(request: Request, decoding: Decoding, sample_id: int) -> Sample:
        how = decoding if sample_id >= 0 else (decoding.max_new_tokens, decoding.stop)
        rng = drawn(request.prompt_ids, request.question_id, sample_id, how)
        final, rest = rng.integers(1, 3), rng.integers(100)
        close = END_THINK if config.thinking else ""
        text = f"{final + rest} less {rest}{close} It is {final}."
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], 0)
        entropies = rng.random(len(ids)).round(5)
        ending = "length" if rng.random() < 0.15 else "stop"
        kind: Any = "full" if config.backend == "hf" else "none"
        return Sample(
            request.question_id,
            sample_id,
            text,
            ids,
            tuple(-entropies),
            tuple(entropies),
            ending,
            kind,
        )

    def generate(requests: Sequence[Request], decoding: Decoding) -> Iterator[list[Sample]]:
        for request in requests:
            yield [answer(request, decoding, each) for each in request.sample_ids]

    return Backend("made up", generate, "", dict)


def made_up_capture(
    lm: Any, sequences: Sequence[Any], positions: Sequence[str], layers: Any = None, **_: Any
) -> Capture:
    """States of a made-up kind, of two layers."""
    n, depth = len(sequences), len(layers or range(LAYERS))
    ids = [(s.prompt_ids, s.answer_ids, dict(s.spans)) for s in sequences]

    def states(what: str, *shape: int) -> np.ndarray:
        rows = [drawn(content(lm.identity), lm.dtype, what, row).random(shape) for row in ids]
        return np.array(rows, dtype=np.float32).reshape(n, *shape)

    none = np.zeros(n, dtype=np.int64)
    return Capture(
        {name: states(name, depth, WIDTH) for name in positions}, states("embedding", WIDTH),
        {name: none > 0 for name in positions}, dict.fromkeys(positions, none),
    )  # fmt: skip


def made_up_entropies(lm: Any, sequences: Sequence[Any], **_: Any) -> list[ForcedTokens]:
    """Two numbers a token."""
    found = []
    for s in sequences:
        rng = drawn(content(lm.identity), lm.dtype, s.prompt_ids, s.answer_ids)
        entropies = rng.random(len(s.answer_ids), dtype=np.float32)
        found.append(ForcedTokens(entropies, -entropies))
    return found


def made_up_probabilities(judge: judges.NliJudge, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Of the three labels, `[n, 3]`; most often they entail each other."""
    rows = [drawn(content(judge.identity), pair).dirichlet((0.3, 0.3, 2)) for pair in pairs]
    return np.array(rows).reshape(-1, 3)


def made_up_embeddings(identity: ModelIdentity, texts: Sequence[str], **_: Any) -> np.ndarray:
    """Of length 1, `[n, WIDTH]`."""
    rows = np.array([drawn(content(identity), text).normal(size=WIDTH) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made_up_mlp(*arrays: np.ndarray, name: str, position: str, layer: int, **how: Any) -> MlpProbe:
    """A perceptron of three units."""
    rng = drawn([array.tolist() for array in arrays], name, position, layer, how)
    sizes = ((WIDTH, 3), (3,), (3,))
    numbers = {"mean_prediction": rng.random()}
    return MlpProbe(
        name, how["kind"], how["target_name"], position, layer, *(rng.random(s) for s in sizes),
        rng.random(), np.zeros(WIDTH), np.ones(WIDTH), numbers, how["threshold"],
    )  # fmt: skip


def made_up_model(name: str, *, device: str, dtype: str) -> Any:
    """What is asked of a model beside its forwards."""
    embeddings = SimpleNamespace(num_embeddings=2**20)
    return SimpleNamespace(
        identity=identify(name), tokenizer=load_tokenizer(identify(name)), dtype=dtype,
        context=512, n_layers=LAYERS - 1, width=WIDTH, device="cpu",
        model=SimpleNamespace(get_input_embeddings=lambda: embeddings),
    )  # fmt: skip


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[NotingStore]:
    """Nothing is computed by a model; the list has the stores that were opened."""
    stores: list[NotingStore] = []
    stored_before: dict[str, str] = {}

    def opened(folder: Path) -> NotingStore:
        stores.append(NotingStore(stored_before))
        return stores[-1]

    def log_probs(lm: Any, prompts: Sequence[Any], options: Sequence[Any], counts: Any) -> Any:
        rows = [drawn(content(lm.identity), lm.dtype, p, options).random(2) - 5 for p in prompts]
        return np.array(rows).reshape(-1, 2)

    def encoder(identity: ModelIdentity, device: str) -> Any:
        return SimpleNamespace(encode=partial(made_up_embeddings, identity))

    monkeypatch.setattr(study_module, "Store", opened)
    monkeypatch.setattr(samples, "open_backend", made_up_backend)
    monkeypatch.setattr(judges.NliJudge, "_forward", made_up_probabilities)
    monkeypatch.setattr(judges.NliJudge, "_token_counts", lambda self, pairs: np.ones(len(pairs)))
    monkeypatch.setattr(judges, "_encoder", encoder)
    monkeypatch.setattr(stored, "token_entropies", made_up_entropies)
    monkeypatch.setattr(training, "fit_mlp", made_up_mlp)
    monkeypatch.setattr(p_true, "option_log_probs", log_probs)
    for module in (stored, estimation):
        monkeypatch.setattr(module, "capture", made_up_capture)
    for module in (stored, estimation, p_true):
        monkeypatch.setattr(module, "load_language_model", made_up_model)
    return stores


def run(config: RunConfig, stores: list[NotingStore]) -> dict[str, set[str]]:
    """What each stage asks the store for, up to the last one that asks for anything by the config.

    (The map of the reasoning study's last stage is stored under its states and the seed.)
    """
    asked: dict[str, set[str]] = {}

    def begin(stage: str) -> None:
        asked[stage] = stores[-1].asked = set()

    run_study(config, silent_progress(), until="probes", on_stage=begin)
    return asked


def add_a_blank(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.fixture(params=[study.name for study in all_studies()])
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes a small run of a study, whose models are folders, with some fields changed."""
    preset = study_named(request.param).default_preset
    models = {"model": "language_model", "judge_model": "judge", "embedding_model": "judge"}
    for name, source in models.items():
        for folder in (tmp_path / name, tmp_path / f"another {name}"):
            shutil.copytree(LAB_FOLDER / source, folder)
        add_a_blank(tmp_path / f"another {name}" / "config.json")
        monkeypatch.setitem(OTHER, name, str(tmp_path / f"another {name}"))
    usual = SMALL | {name: str(tmp_path / name) for name in models}
    usual |= {"out": tmp_path / "out", "cache_dir": tmp_path / "cache"}

    def config(**fields: Any) -> RunConfig:
        known = type(make_config(preset)).model_fields
        return make_config(preset, **{n: v for n, v in (usual | fields).items() if n in known})

    return config


def test_a_stage_asks_for_other_keys_where_a_field_that_it_depends_on_changes(
    small: Callable[..., RunConfig], made_up: list[NotingStore]
) -> None:
    study = small().study
    depends = {name: s for s, names in DEPENDS[study].items() for name in names.split()}
    before: dict[str, Any] = {}
    found: dict[str, str] = {}
    for name in small().results_fields():
        config = small(**WITH.get(name, {}))
        if config.run_name() not in before:
            before[config.run_name()] = run(config, made_up)
        other = changed(config, name)
        asked = run(other, made_up)
        stages = before[config.run_name()].items()
        found[name] = " ".join(stage for stage, keys in stages if keys != asked[stage])
        assert other.run_name() != config.run_name(), name
    assert found == depends


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_is_replaced_in_its_folder_is_another_one(
    small: Callable[..., RunConfig], made_up: list[NotingStore], file: str
) -> None:
    for name in ("model", "judge_model", "embedding_model"):
        config = small(**WITH.get(name, {}))
        before, finished = run(config, made_up), finished_key(config)
        add_a_blank(Path(getattr(config, name)) / file)
        after = run(config, made_up)
        stages = " ".join(stage for stage, keys in before.items() if keys != after[stage])
        assert name in DEPENDS[config.study][stages].split()
        assert (finished_key(config) != finished) == (name == "model")


def test_a_model_that_is_replaced_during_a_run_ends_it(
    small: Callable[..., RunConfig], made_up: list[NotingStore]
) -> None:
    config = small()

    def replace(stage: str) -> None:
        if stage == "meanings":
            add_a_blank(Path(config.model) / "model.safetensors")

    with pytest.raises(UserError, match="were changed during the run; start it again"):
        run_study(config, silent_progress(), on_stage=replace)


def test_how_a_run_is_executed_changes_no_key(
    small: Callable[..., RunConfig], made_up: list[NotingStore]
) -> None:
    config = small()
    other = changed(config, *config.execution_fields())
    assert run(other, made_up) == run(config, made_up)
    assert other.run_name() == config.run_name()
