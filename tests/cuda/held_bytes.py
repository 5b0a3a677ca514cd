"""Counts the bytes of all tensors that torch's functions make, for tests of how much is held at a time."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HeldBytes(TorchDispatchMode):
    """While it is entered: `now` are held by tensors made since then, `most` were at one time. Views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: dict[int, int] = {}
        self._given: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function that reaches a device."""
        self._given |= {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self._tensors
        }
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return made

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        if at in self._given and at not in self._tensors:
            return
        if at not in self._tensors:
            self._tensors[at] = 0
            self.now += size
            self.most = max(self.most, self.now)
        self._tensors[at] += 1
        weakref.finalize(tensor, self._drop, at, size)

    def _drop(self, at: int, size: int) -> None:
        self._tensors[at] -= 1
        if not self._tensors[at]:
            del self._tensors[at]
            self.now -= size
