"""Finds a model and its tokenizer by name, identifies them by content, and loads them once.

A name is `lab` (embedded), a local folder, or a hub name. Only safetensors are loaded.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from helpers.errors import UserError
from helpers.store.files import file_hash
from helpers.store.hub import fetch_model, stored_model

LAB_FOLDER = Path(__file__).parent.parent / "lab" / "weights"
LAB_MODELS = {"language model": "language_model", "judge": "judge"}

KNOWN_AS = {
    "MoritzLaurer/deberta-v3-small-mnli": "cross-encoder/nli-deberta-v3-small",
    "deberta-v3-small-mnli": "cross-encoder/nli-deberta-v3-small",
    "Qwen/Qwen3-0.6B-Instruct": "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-4B-Instruct": "Qwen/Qwen3-4B-Instruct-2507",
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}
"""Names that people type, and the checkpoint that is meant."""

TOKENIZER_FILES = (
    "tokenizer", "vocab", "merges", "spm", "sentencepiece", "special_tokens", "chat_template",
    "added",
)  # fmt: skip
VOCABULARY_FILES = ("tokenizer.", "vocab", "spm", "sentencepiece")

T = TypeVar("T")


@dataclass(frozen=True)
class ModelIdentity:
    """Which files a model is made of, by content: known without loading them."""

    name: str
    folder: Path
    model_hash: str  # 16 hexadecimal digits over config and weights
    tokenizer_hash: str  # 16 hexadecimal digits over the tokenizer's files


@dataclass(frozen=True)
class LanguageModel:
    """A loaded causal language model, its tokenizer, and what it can do."""

    identity: ModelIdentity
    model: Any
    tokenizer: Any
    device: str
    n_layers: int
    width: int
    context: int  # longest prompt and answer together, in tokens
    end_ids: frozenset[int]  # tokens that end an answer
    pad_id: int


def identify(name: str, kind: str = "language model") -> ModelIdentity:
    """Resolve a model's name to a folder (fetching it from the hub if need be) and hash it.

    A file is read again only when its size or its time has changed. Raises `UserError` when the
    folder is no model or the hub cannot be reached.
    """
    folder = _find(name, kind)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{kind} {name!r}: the folder {folder} has no config.json, so it is no model; point at "
            "a Hugging Face folder (config.json, model.safetensors, tokenizer.json)"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{kind} {name!r}: the folder {folder} has no .safetensors weights (pickled weights "
            "are never loaded); convert it with transformers' save_pretrained"
        )
    vocabulary = [p for p in sorted(folder.iterdir()) if p.name.startswith(TOKENIZER_FILES)]
    if not any(p.name.startswith(VOCABULARY_FILES) for p in vocabulary):
        # transformers would make a tokenizer with no words and go on.
        raise UserError(
            f"{kind} {name!r}: the folder {folder} has no tokenizer (tokenizer.json, or a "
            "vocabulary); copy it from where the weights came from"
        )
    settings = [folder / "config.json", folder / "generation_config.json"]  # which tokens end
    if (folder / "modules.json").is_file():  # a sentence encoder: what follows its transformer
        settings += [folder / "modules.json", folder / "sentence_bert_config.json"]
        settings += sorted((*folder.glob("*/config.json"), *folder.glob("*/*.safetensors")))
    parts = [path for path in (*settings, *weights) if path.is_file()]
    return ModelIdentity(name, folder, _hash(parts), _hash(vocabulary))


def load_language_model(name: str, *, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """Load a causal language model for inference."""
    identity = identify(name)
    return _load_language_model(identity, pick_device(device), dtype)


@lru_cache(maxsize=2)
def _load_language_model(identity: ModelIdentity, device: str, dtype: str) -> LanguageModel:
    from transformers import AutoModelForCausalLM

    if dtype == "auto":
        dtype = "auto" if device.startswith("cuda") else "float32"
    tokenizer = load_tokenizer(identity)
    model = _from_folder(AutoModelForCausalLM, identity, dtype=dtype).to(device).eval()
    config = model.config.get_text_config()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    ends |= {tokenizer.eos_token_id} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    return LanguageModel(
        identity=identity,
        model=model,
        tokenizer=tokenizer,
        device=device,
        n_layers=config.num_hidden_layers,
        width=config.hidden_size,
        context=getattr(config, "max_position_embeddings", None) or math.inf,  # type: ignore[arg-type]
        end_ids=frozenset(ends),
        pad_id=pad,
    )


@lru_cache(maxsize=4)
def load_tokenizer(identity: ModelIdentity) -> Any:
    """A model's tokenizer, loaded once; whoever uses it changes no setting of it."""
    from transformers import AutoTokenizer

    return _from_folder(AutoTokenizer, identity)


def load_classifier(identity: ModelIdentity, device: str) -> tuple[Any, Any]:
    """Load a sequence classifier in float32 and its tokenizer."""
    from transformers import AutoModelForSequenceClassification

    model = _from_folder(AutoModelForSequenceClassification, identity, dtype="float32")
    return model.to(device).eval(), load_tokenizer(identity)


def _from_folder(loader: Any, identity: ModelIdentity, **kwargs: Any) -> Any:
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    is_model = "Model" in loader.__name__
    if is_model:
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
    try:
        loaded = loader.from_pretrained(identity.folder, local_files_only=True, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        fetched = identity.folder.parent.name == "snapshots"  # in the hub's cache
        anew = f"hf download {KNOWN_AS.get(identity.name, identity.name)} --force-download"
        raise UserError(
            f"{identity.name!r} in {identity.folder} cannot be loaded as a model for this step "
            f"({reason}); check that the folder is complete and of the right kind"
            + (f", or fetch it anew with `{anew}`" if fetched else "")
        ) from error
    if not is_model:
        return loaded
    model, info = loaded
    if info["missing_keys"]:
        # transformers would fill these with random numbers and go on.
        raise UserError(
            f"{identity.name!r} in {identity.folder} lacks weights that this step needs "
            f"({', '.join(sorted(info['missing_keys'])[:3])}, …): it is incomplete or of another "
            "kind; name a folder of the right kind"
        )
    return model


def pick_device(device: str) -> str:
    """The device that `auto` stands for here, or the named one if it exists.

    Every use of a model begins here, so this is where a small install says what it lacks.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            "torch is not installed, so no model can be used (this is the small install, for "
            "looking at results); `uv sync` installs everything"
        ) from error

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.split(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available()}
    present["mps"] = torch.backends.mps.is_available()
    if not present.get(kind, False):
        there = ", ".join(name for name, yes in present.items() if yes)
        raise UserError(f"device {device!r} is not on this machine; there is: {there} (or auto)")
    gpus = [str(i) for i in range(torch.cuda.device_count())]
    if kind == "cuda" and (device.partition(":")[2] or "0") not in gpus:
        raise UserError(
            f"device {device!r} is not on this machine; its GPUs are: cuda:{', cuda:'.join(gpus)}"
        )
    return device


def set_threads(threads: int) -> int:
    """Set torch's CPU threads (0: the processors that no other process keeps busy).

    Torch is not imported for this, which takes seconds: it reads the environment when it is.
    """
    if threads == 0:
        busy = round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = max(1, (cores or 1) - busy)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return threads


def decoder_blocks(model: Any) -> Any:
    """The list of decoder blocks of a causal language model, of whatever architecture.

    Raises `UserError` when there is not exactly one list of the length that the config states.
    """
    import torch

    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers and "." in path
    ]
    if len(lists) != 1:
        raise UserError(
            f"{type(model).__name__}: cannot tell which of {[p for p, _ in lists]} are its "
            f"{n_layers} decoder blocks; hidden states cannot be read from this architecture"
        )
    return lists[0]


def to_be_fetched(name: str) -> str:
    """The hub name of a model that `identify` would fetch; "" where it would not.

    Without the hub it fetches nothing, and says at once what is missing.
    """
    known = KNOWN_AS.get(name, name)
    if name == "lab" or Path(name).expanduser().exists() or _is_path(name):
        return ""
    from huggingface_hub import constants

    return "" if constants.HF_HUB_OFFLINE or stored_model(known) else known


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _find(name: str, kind: str) -> Path:
    if name == "lab":
        if kind not in LAB_MODELS:
            raise UserError(
                f"{kind} 'lab': the lab has none; name a local folder or a hub model such as "
                "sentence-transformers/all-MiniLM-L6-v2, or use another --judge"
            )
        return LAB_FOLDER / LAB_MODELS[kind]
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    if Path(name).expanduser().exists() or _is_path(name):
        raise UserError(
            f"{kind} {name!r}: there is no such folder; point at a Hugging Face folder "
            "(config.json, model.safetensors, tokenizer.json)"
        )
    return fetch_model(KNOWN_AS.get(name, name), kind)


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        # In the hub's cache a large file is a link to a blob that is named by its SHA-256.
        blob, state = path.resolve(), path.stat()
        known = blob.parent.name == "blobs" and len(blob.name) == 64
        content = blob.name if known else _file_hash(blob, state.st_size, state.st_mtime_ns)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, time: int) -> str:
    return file_hash(path)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    import torch

    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate" in text)
    )


def unless_out_of_memory(work: Callable[[], T], alone: UserError | None) -> T | None:
    """What `work` returns, or None where the memory does not hold it; then `alone`, if given, is
    raised: it is the error of what cannot be made smaller.

    A function of its own: until the error is gone, its frames hold the memory that ran out.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if alone is not None:
            raise alone from error
        return None


def free_memory(device: str) -> None:
    """Give cached memory back to the device."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
