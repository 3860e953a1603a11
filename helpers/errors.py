"""The one exception whose message is written for the person at the keyboard."""

from __future__ import annotations

REPEAT = "press Run, or repeat the command that made the run: what is stored is not computed twice"
"""The remedy where a part of a run is missing or damaged."""


class UserError(Exception):
    """A problem its reader can solve: the message names the thing, the place and the remedy."""
