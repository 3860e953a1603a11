"""Parsing Python in several threads, which Python before 3.11.8 does wrongly now and then."""

# No `from __future__` here: `compile` takes over such imports from the module that calls it.
import builtins
import sys
import threading
from typing import Any

REPAIRED = (3, 11, 8)
"""Since then the depth of a tree is counted for each parse (python/cpython#106905)."""


def parse_one_at_a_time(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> bool:
    """Let one thread at a time make syntax trees, where `version` needs it; whether it does.

    marimo parses cells in a thread for each visitor. When several come at once, a cell in some
    hundreds would fail with "AST constructor recursion depth mismatch".
    """
    if version >= REPAIRED:
        return False
    plain, turn = builtins.compile, threading.RLock()

    def compile_in_turn(*arguments: Any, **named: Any) -> Any:
        with turn:
            return plain(*arguments, **named)

    builtins.compile = compile_in_turn
    return True
