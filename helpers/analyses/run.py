"""Parts of a run that are still to come."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from helpers.errors import UserError


class NotYet(UserError):
    """A part of a run that has not been computed yet; the message says which."""


class Pending:
    """Stands in for a part of a run that is still to come: asking it for anything says so."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def __getattr__(self, name: str) -> Any:
        raise NotYet(f"still to come: the stage “{self._stage}” of this run is not finished")

    def _refuse(self, *_: Any) -> Any:
        return self.__getattr__("")

    # These are looked up on the class, past __getattr__.
    __getitem__ = __iter__ = __len__ = __contains__ = _refuse


def pending(stage: str) -> Any:
    """A field whose part comes with a stage."""
    return field(default_factory=lambda: Pending(stage))
