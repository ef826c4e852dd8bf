"""Count the bytes of the tensors that are alive, operation by operation: a peak without noise, on any machine."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts while it is entered. What an operation needs inside of itself is not seen.

    Attributes:
        now: bytes of the tensors that were made here and are alive.
        most: the most that these have been at once.
    """

    def __init__(self, known=()):
        """
        Args:
            known: tensors that were there before, which do not count.
        """
        super().__init__()
        self.now = self.most = 0
        self._sizes = {one.untyped_storage()._cdata: 0 for one in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return made

    def _count(self, storage):
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key):
        self.now -= self._sizes.pop(key)
