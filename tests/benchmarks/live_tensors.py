"""Counts the bytes of tensors that are alive while a piece of work runs, on any device.

Resident memory of a small model drowns in the allocator's noise; this count is exact and the same
on every run. It sees what torch allocates, not numpy's arrays or a kernel's own scratch memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Watched:
    """What a piece of work returned and how much memory its tensors took."""

    result: Any
    peak: int
    """Most bytes alive at once, of those allocated during the work."""
    left: int
    """Bytes still alive when it returned."""


def watch(work: Callable[[], Any]) -> Watched:
    """Run `work` and count the tensors that it makes."""
    with _Counter() as counter:
        result = work()
    return Watched(result, counter.peak, counter.alive)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import torch

        given = {
            _address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # A view, or an operation in place, allocates nothing.
            if isinstance(leaf, torch.Tensor) and _address(leaf) not in given:
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.alive -= size


def _address(tensor: Any) -> int:
    return tensor.untyped_storage()._cdata
