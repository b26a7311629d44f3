"""Devices and precisions: which there are, and how tensors get to a device without a wait.

An accelerator computes while Python plans the next steps, unless Python asks for a number: then
each waits for the other. So random draws are made on the CPU, the same for every device, and sent
ahead; and whether a run is still sound is asked once in many steps (`ddlib.training.Watch`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ddlib.parameters import check_names

PRECISIONS = ("float32", "tf32", "bf16")
"""How matrix products and convolutions are rounded: `tf32` keeps 10 bits of each factor's fraction,
a mode of CUDA's units; `bf16` computes them in bfloat16 (7 bits), by autocast. Weights, gradients
of weights and images stay float32."""


def read_device(name: Any) -> str:
    """Return the device to compute on: `name`, or for "auto" the accelerator, else the CPU.

    Raises ValueError, with the choices, for a device that this machine does not have.
    """
    there = ["cpu"]
    if torch.accelerator.is_available():
        there.append(torch.accelerator.current_accelerator().type)
    check_names([name], ["auto", *there], "device of this machine")
    return there[-1] if name == "auto" else name


def check_precision(name: Any, device: str) -> None:
    """Raise ValueError unless `name` is a precision that the device has."""
    check_names([name], PRECISIONS, "precision")
    if name == "tf32" and device != "cuda":
        raise ValueError(
            f"precision='tf32' is a mode of CUDA's units, and the device is {device!r}; choose "
            "float32 or bf16"
        )


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute with one of PRECISIONS, and leave PyTorch's switches as they were.

    Under float32, too, convolutions on CUDA: PyTorch's own default for them is TF32.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        with torch.autocast(device, torch.bfloat16, enabled=name == "bf16"):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def send(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a CPU tensor on `device`, without waiting for what the device is at."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory CUDA copies only once it is idle
    return tensor.to(device, non_blocking=True)
