"""Result records (dataclasses, dicts, tuples, arrays) as JSON values, and back by their types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BeforeValidator, PlainValidator, TypeAdapter, ValidationError

T = TypeVar("T")


def _array(stored: Any) -> np.ndarray:
    try:
        return np.array(stored["values"], dtype=np.dtype(stored["dtype"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no array ({error!r})") from error


Array = Annotated[np.ndarray, PlainValidator(_array)]
FloatOrNan = Annotated[float, BeforeValidator(lambda stored: np.nan if stored is None else stored)]


def as_plain(record: Any) -> Any:
    """A record as JSON values.

    >>> as_plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """

    def parts(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in fields(value)}
        if isinstance(value, np.ndarray):
            return {"dtype": str(value.dtype), "values": value.tolist()}
        return dict(value) if isinstance(value, Mapping) else value.item()

    infinite = {"Infinity": float("inf"), "-Infinity": float("-inf")}
    return json.loads(json.dumps(record, default=parts), parse_constant=infinite.get)


def from_plain(kind: type[T] | Any, plain: Any) -> T:
    """A record of this type from JSON values; a ValueError names the first place that misfits.

    >>> from_plain(dict[str, tuple[int, ...]], {"a": [1, 2]})
    {'a': (1, 2)}
    """
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from error
