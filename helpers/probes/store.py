"""Probes on disk: tensors in safetensors beside a JSON card, both checked when read back."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np

from helpers.errors import UserError
from helpers.evaluation.records import from_plain
from helpers.probes.combined import AnyProbe, HybridProbe
from helpers.probes.probe import QUANTILE_LEVELS, LinearProbe, MlpProbe
from helpers.store.files import write_bytes

FORMAT = "uncertainty-probe"
FORMAT_VERSION = 1
FAMILIES: dict[str, type[AnyProbe]] = {
    "linear": LinearProbe,
    "mlp": MlpProbe,
    "hybrid": HybridProbe,
}
HYBRID_PARTS = ("entropy_probe", "correctness_probe", "mixer")
TENSORS = {
    "linear": ("mean", "scale", "weight", "bias"),
    "mlp": ("mean", "scale", "hidden_weight", "hidden_bias", "output_weight", "output_bias"),
    "hybrid": HYBRID_PARTS,
}
"""What of a probe is not in its card, by family; of a hybrid, that of each part."""
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_QUANTILES: Any = tuple[(float,) * len(QUANTILE_LEVELS)]  # type: ignore[misc]


@dataclass(frozen=True, eq=False)
class LoadedProbe:
    """A probe from disk and the card its maker gave it (model, hashes, template, scores)."""

    probe: AnyProbe
    card: dict[str, Any]


def save_probe(probe: AnyProbe, folder: Path, *, card: dict[str, Any]) -> Path:
    """Write <name>.safetensors and <name>.json into folder and return the JSON's path.

    card holds plain JSON values; its keys model_hash and tokenizer_hash are compared when the
    probe is loaded for a model. Each file appears whole or not at all, the JSON last.

    Raises UserError when the folder cannot be written, ValueError when the name is no file name
    or a number in the card is not finite.

    Example: save_probe(probe, run / "probes", card={"model": "gpt2", "model_hash": "ab12…"})
    """
    from safetensors.numpy import save

    if not SAFE_NAME.fullmatch(probe.name):
        raise ValueError(f"a probe's name is letters, digits, '.', '_', '-': {probe.name!r}")
    tensors = {key: np.ascontiguousarray(value) for key, value in _tensors(probe).items()}
    content = save(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "probe": _describe(probe),
        "tensors": {
            "file": f"{probe.name}.safetensors",
            "sha256": hashlib.sha256(content).hexdigest(),
            "shapes": {key: list(value.shape) for key, value in tensors.items()},
        },
        "card": card,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / f"{probe.name}.json"
    write_bytes(folder / f"{probe.name}.safetensors", content)
    write_bytes(path, text.encode("utf-8"))
    return path


def load_probe(
    path: Path, *, model_hash: str | None = None, tokenizer_hash: str | None = None
) -> LoadedProbe:
    """Read a probe back from its .json or .safetensors path, and check it.

    Format version, checksum and shapes are compared with the card, and so are the hashes of the
    model and the tokenizer where they are given.

    Raises UserError naming the file, what was found, what was expected and the remedy.
    """
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    card_path = stem.with_name(f"{stem.name}.json")
    tensor_path = stem.with_name(f"{stem.name}.safetensors")
    document = _read_card(card_path)
    stored = _read_field(document, "tensors", dict[str, Any], card_path)
    card = _read_field(document, "card", dict[str, Any], card_path)
    for key, wanted in (("model_hash", model_hash), ("tokenizer_hash", tokenizer_hash)):
        if wanted is not None and card.get(key) != wanted:
            raise UserError(
                f"probe: {card_path}: it was trained for {key} {card.get(key)!r}, the one in use "
                f"is {wanted!r}: use that model, or train the probe again with `sep train`"
            )
    content = _read_bytes(tensor_path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != stored.get("sha256"):
        raise _refused(tensor_path, f"damaged, or not written with {card_path.name}: its sha256")
    tensors = _read_tensors(tensor_path, content)
    shapes = {key: list(value.shape) for key, value in tensors.items()}
    if shapes != stored.get("shapes"):
        expected = f"{stored.get('shapes')} expected by {card_path.name}"
        raise _refused(tensor_path, f"shapes {shapes} found, {expected}")
    described = _read_field(document, "probe", dict[str, Any], card_path)
    return LoadedProbe(_rebuild(described, tensors, card_path), card)


def _refused(path: Path, problem: str) -> UserError:
    return UserError(f"probe: {path}: {problem}: train the probe again with `sep train`")


def _family(probe: AnyProbe) -> str:
    return next(family for family, kind in FAMILIES.items() if isinstance(probe, kind))


def _tensors(probe: AnyProbe) -> dict[str, np.ndarray]:
    if isinstance(probe, HybridProbe):
        return {
            f"{part}/{key}": value
            for part in HYBRID_PARTS
            for key, value in _tensors(getattr(probe, part)).items()
        }
    return {
        key: np.atleast_1d(np.asarray(getattr(probe, key), dtype=np.float64))
        for key in TENSORS[_family(probe)]
    }


def _describe(probe: AnyProbe) -> dict[str, Any]:
    """The fields that are no tensors."""
    family = _family(probe)
    own = {f.name: getattr(probe, f.name) for f in fields(probe) if f.name not in TENSORS[family]}
    parts = {part: _describe(getattr(probe, part)) for part in HYBRID_PARTS if family == "hybrid"}
    return {"type": family} | own | parts


def _rebuild(described: dict[str, Any], tensors: dict[str, np.ndarray], path: Path) -> AnyProbe:
    """A probe from the card's fields and the tensors, every type and shape checked."""
    family: Any = _read_field(described, "type", Literal["linear", "mlp", "hybrid"], path)
    own: dict[str, Any] = {
        name: _read_field(described, name, kind, path)
        for name, kind in get_type_hints(FAMILIES[family]).items()
        if name not in TENSORS[family]
    }
    if family == "hybrid":
        own |= _rebuild_parts(described, tensors, path)
    else:
        _read_field(own["training"], "prediction_quantiles", _QUANTILES, path)
        _check_tensors(family, tensors, path)
        own |= {k: float(v[0]) if k in ("bias", "output_bias") else v for k, v in tensors.items()}
    return FAMILIES[family](**own)


def _rebuild_parts(
    described: dict[str, Any], tensors: dict[str, np.ndarray], path: Path
) -> dict[str, AnyProbe]:
    if stray := {key for key in tensors if key.split("/")[0] not in HYBRID_PARTS}:
        raise _refused(path, f"unknown tensors {sorted(stray)}")
    parts: dict[str, Any] = {}
    for part in HYBRID_PARTS:
        own = {
            k.removeprefix(f"{part}/"): v for k, v in tensors.items() if k.startswith(f"{part}/")
        }
        parts[part] = _rebuild(_read_field(described, part, dict[str, Any], path), own, path)
        if not isinstance(parts[part], LinearProbe):
            raise _refused(path, f"its {part} is no linear probe")
    if (width := len(parts["mixer"].mean)) != 2:
        raise _refused(path, f"its mixer weighs {width} probes, 2 expected")
    return parts


def _check_tensors(family: str, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Names, shapes and values fit together; a card can agree with its file and both be wrong."""
    width = tensors["mean"].shape if "mean" in tensors else (0,)
    if family == "linear":
        expected = {"mean": width, "scale": width, "weight": width, "bias": (1,)}
    else:
        units = tensors["hidden_bias"].shape if "hidden_bias" in tensors else (0,)
        expected = {"mean": width, "scale": width, "hidden_weight": (*width, *units)}
        expected |= {"hidden_bias": units, "output_weight": units, "output_bias": (1,)}
    found = {key: value.shape for key, value in tensors.items()}
    if found != expected or len(width) != 1:
        raise _refused(path, f"tensors {found} found, {expected} expected")
    if any(value.dtype != np.float64 for value in tensors.values()):
        raise _refused(path, "tensors that are not float64")
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise _refused(path, "a tensor holds NaN or infinity")
    if not (tensors["scale"] > 0).all():
        raise _refused(path, "a feature's scale is not positive")


def _read_card(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON number")

    try:
        document = json.loads(_read_bytes(path).decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"malformed JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"probe: {path}: not the card of a probe: give the path of a saved probe")
    if (version := document.get("format_version")) != FORMAT_VERSION:
        expected = f"{FORMAT_VERSION} expected: read it with the release that wrote it, or"
        raise _refused(path, f"format version {version!r} found, {expected}")
    return document


def _read_tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that numpy has not
        raise _refused(path, f"not a safetensors file ({error})") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        both = "a probe is a .json and a .safetensors of the same name, copy both"
        raise _refused(path, f"no such file ({both})") from error
    except OSError as error:
        raise UserError(f"probe: {path}: cannot be read ({error.strerror})") from error


def _read_field(mapping: dict[str, Any], key: str, kind: Any, path: Path) -> Any:
    try:
        return from_plain(kind, mapping.get(key))
    except ValueError as error:
        raise _refused(path, f"field {key!r}: {error}") from error
