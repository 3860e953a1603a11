"""Result records (dataclasses, dicts, tuples, arrays) as plain JSON values, and back.

The type of a record says how it is read, so that nothing stored decides what is made of it. Numbers
come back exactly; NaN is stored as null.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")


class UnreadableRecord(ValueError):
    """Stored values do not fit the record's type; the message says where."""


def as_plain(value: Any) -> Any:
    """A record as JSON values.

    >>> as_plain({"a": (1, float("nan"))})
    {'a': [1, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "values": as_plain(value.tolist())}
    if isinstance(value, np.generic):
        return as_plain(value.item())
    if isinstance(value, float) and value != value:
        return None
    return value


def from_plain(kind: type[T] | Any, plain: Any) -> T:
    """A record of this type from JSON values; raises `UnreadableRecord` where they do not fit.

    >>> from_plain(dict[str, tuple[int, ...]], {"a": [1, 2]})
    {'a': (1, 2)}
    """
    return _read(kind, plain, "")


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(arguments, plain, where)
    if kind is np.ndarray:
        return _read_array(_expect(plain, dict, where), where)
    if is_dataclass(kind):
        return _read_dataclass(kind, _expect(plain, dict, where), where)
    if origin is dict:
        items = _expect(plain, dict, where).items()
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in items}
    if origin in (tuple, list):
        items = _expect(plain, list, where)
        return origin(_read(arguments[0], x, f"{where}[{i}]") for i, x in enumerate(items))
    if origin is Literal:
        if plain not in arguments:
            raise UnreadableRecord(f"{where}: {plain!r} is none of {arguments}")
        return plain
    if kind is float:
        return float("nan") if plain is None else float(_expect(plain, int | float, where))
    return plain if kind is Any else _expect(plain, kind, where)


def _read_optional(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    """One type or None; several plain types are taken as they come."""
    others = [kind for kind in kinds if kind is not types.NoneType]
    if plain is None and len(others) < len(kinds):
        return None
    return _read(others[0] if len(others) == 1 else Any, plain, where)


def _read_dataclass(kind: Any, plain: dict, where: str) -> Any:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    if missing := [name for name in names if name not in plain]:
        raise UnreadableRecord(f"{where or kind.__name__}: lacks {', '.join(missing)}")
    return kind(**{name: _read(hints[name], plain[name], f"{where}.{name}") for name in names})


def _read_array(plain: dict, where: str) -> np.ndarray:
    try:
        return np.array(plain["values"], dtype=np.dtype(plain["dtype"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRecord(f"{where}: no array ({error})") from error


def _expect(plain: Any, kind: Any, where: str) -> Any:
    if not isinstance(plain, kind):
        raise UnreadableRecord(f"{where}: {type(plain).__name__} instead of {kind}")
    return plain
