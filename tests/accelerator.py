"""A simulated accelerator: tensors whose device is not the CPU, although the CPU computes them.

PyTorch's "meta" device stands for it. Values are real, so results can be compared with the CPU's.
As on a GPU, an operation on tensors of two devices is an error. Operations that would make the CPU
wait for a GPU are counted.
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
ASKS += ("_unique2", "repeat_interleave.Tensor")  # the sizes of results are known there only


class DeviceTensor(torch.Tensor):
    """A tensor of the accelerator; the CPU holds its `content`."""

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> "DeviceTensor":
        result = torch.Tensor._make_wrapper_subclass(
            cls, content.shape, strides=content.stride(), dtype=content.dtype, device=NAME
        )
        result.content = content
        return result

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        raise AssertionError(f"{operation} on the accelerator while it is off")


class Accelerator(TorchDispatchMode):
    """While it is on, tensors on "meta" are DeviceTensors; `waits` counts operations that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = [leaf for leaf in tensors if isinstance(leaf, DeviceTensor)]
        target = torch.device(device).type if device is not None else None
        self._count(operation, args, kwargs, on_device, target)
        if target == NAME:
            kwargs["device"] = "cpu"
        plain = tree_map(lambda x: x.content if isinstance(x, DeviceTensor) else x, (args, kwargs))
        result = operation(*plain[0], **plain[1])
        elsewhere = target == NAME if target else bool(on_device)
        return self._wrapped(result, plain, (args, kwargs)) if elsewhere else result

    def _count(self, operation: Any, args: Any, kwargs: Any, on_device: list, target: Any) -> None:
        name = str(operation).removeprefix("aten.")
        # PyTorch copies indices from the CPU to the device, and waits.
        crossing = name.startswith(
            ("_to_copy", "copy_", "index.Tensor", "index_put_", "index_put.")
        )
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_cpu = [t for t in tensors if not isinstance(t, DeviceTensor) and t.dim()]
        if on_device and on_cpu and not crossing:
            raise AssertionError(f"{name} mixes tensors of two devices")
        read = on_device and (name.startswith(ASKS) or target == "cpu")
        indexed = name.startswith("index")  # by a mask, the size of the result is known there only
        masked = indexed and any(t.dtype in (torch.bool, torch.uint8) for t in tensors)
        sent = crossing and (target == NAME or (on_device and on_cpu))
        self.waits[name] += bool(read or masked or (sent and not kwargs.get("non_blocking")))

    def _wrapped(self, result: Any, plain: Any, tensors: Any) -> Any:
        """Return the results as DeviceTensors; an argument that was changed in place is itself."""
        pairs = zip(tree_leaves(plain), tree_leaves(tensors), strict=True)
        known = {id(content): tensor for content, tensor in pairs if type(tensor) is DeviceTensor}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else DeviceTensor(value)

        return tree_map(wrap, result)


@contextmanager
def accelerator() -> Iterator[Accelerator]:
    """Turn the accelerator on; yield it."""
    fused = patch.object(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", NAME])
    with fused, Accelerator() as on:
        yield on


def moved(dataset: DataSet) -> DataSet:
    """Return the data set with its images and labels on the accelerator."""
    splits = {
        name: Split(DeviceTensor(split.samples), DeviceTensor(split.labels))
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }
    return replace(dataset, **splits)
