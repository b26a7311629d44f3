"""A pretended accelerator: tensors that say they are elsewhere, computed on the CPU all the same.

PyTorch's "meta" device stands for it. Values are real, so results can be compared with the CPU's;
tensors of two devices in one operation are an error, as on a GPU; and all that would have a GPU's
queue run empty is counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ddlib.data.base import DataSet, Split

NAME = "meta"
ASKS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount")
ASKS += ("_unique2", "repeat_interleave.Tensor")  # their sizes are numbers of the device


class There(torch.Tensor):
    """A tensor of the accelerator; `held` has its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=NAME
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise AssertionError(f"{operation} on the accelerator while it is off")


class Accelerator(TorchDispatchMode):
    """While it is on, what is made on the device "meta" is There. `waits` counts what waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in given if isinstance(leaf, There)]
        target = torch.device(device).type if device is not None else None
        self._count(operation, args, kwargs, there, target)
        if target == NAME:
            kwargs["device"] = "cpu"
        plain = tree_map(lambda x: x.held if isinstance(x, There) else x, (args, kwargs))
        made = operation(*plain[0], **plain[1])
        elsewhere = target == NAME if target else bool(there)
        return self._wrapped(made, plain, (args, kwargs)) if elsewhere else made

    def _count(self, operation: Any, args: Any, kwargs: Any, there: list, target: Any) -> None:
        name = str(operation).removeprefix("aten.")
        # PyTorch takes indices of the CPU to the device, and waits.
        crossing = name.startswith(
            ("_to_copy", "copy_", "index.Tensor", "index_put_", "index_put.")
        )
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        here = [t for t in given if not isinstance(t, There) and t.dim()]
        if there and here and not crossing:
            raise AssertionError(f"{name} mixes tensors of two devices")
        asked = there and (name.startswith(ASKS) or target == "cpu")
        indexed = name.startswith("index")  # by which of them: how many is the device's to say
        masked = indexed and any(t.dtype in (torch.bool, torch.uint8) for t in given)
        sent = crossing and (target == NAME or (there and here))
        self.waits[name] += bool(asked or masked or (sent and not kwargs.get("non_blocking")))

    def _wrapped(self, made: Any, plain: Any, given: Any) -> Any:
        """Return the results as There; one that is an argument, changed in place, as itself."""
        pairs = zip(tree_leaves(plain), tree_leaves(given), strict=True)
        known = {id(held): own for held, own in pairs if isinstance(own, There)}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else There(value)

        return tree_map(wrap, made)


@contextmanager
def accelerator() -> Iterator[Accelerator]:
    """Turn it on, and give it."""
    fused = patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", NAME])
    with fused, Accelerator() as on:
        yield on


def moved(dataset: DataSet) -> DataSet:
    """Return the data set with its images and labels on the accelerator."""
    splits = {
        name: Split(There(split.images), There(split.labels))
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }
    return replace(dataset, **splits)
