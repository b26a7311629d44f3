"""Devices and precisions, random streams for PyTorch's own draws, and copies that do not block.

A GPU computes while Python plans the next steps. GPU values read by `.item()` block Python until
the GPU is done. So random draws are made on the CPU, the same for every device, and sent ahead;
and whether losses are still finite is read once in many steps.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch

from ddlib.parameters import check_names

PRECISIONS = ("float32", "tf32", "bf16")
"""How matrix products and convolutions are rounded. `tf32`, a mode of CUDA GPUs, keeps 10 bits of
each factor's fraction; `bf16` computes them in bfloat16 (7 bits), by autocast. Weights, gradients
of weights and images stay float32."""


def read_device(name: Any) -> str:
    """Return the device to compute on: `name`, or for "auto" a CUDA GPU if there is one, else CPU.

    Other accelerators, such as Apple's MPS, must be named, as some of their gradients are wrong.
    Raises ValueError, with the choices, for a device that this machine does not have.
    """
    devices = ["cpu"]
    if torch.accelerator.is_available():
        devices.append(torch.accelerator.current_accelerator().type)
    check_names([name], ["auto", *devices], "device of this machine")
    if name == "auto":
        return "cuda" if "cuda" in devices else "cpu"
    return name


def check_precision(name: Any, device: str) -> None:
    """Raise ValueError unless `name` is a precision that the device has."""
    check_names([name], PRECISIONS, "precision")
    if name == "tf32" and device != "cuda":
        raise ValueError(
            f"precision='tf32' is a mode of CUDA GPUs, and the device is {device!r}; choose "
            "float32 or bf16"
        )


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute with one of PRECISIONS, and leave PyTorch's switches as they were.

    float32 holds for convolutions on CUDA too, whose default in PyTorch is TF32. bf16 casts weights
    at every use, as autocast's cache would hide an optimiser's steps from the network.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        with torch.autocast(device, torch.bfloat16, enabled=name == "bf16", cache_enabled=False):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def unrounded(device: torch.device) -> AbstractContextManager:
    """Compute without autocast, also under bf16: for what is not a layer of a network."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_autocast(device: torch.device) -> None:
    """Raise RuntimeError for an autocast on `device` that does not cast as `precision` does."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return
    if torch.is_autocast_cache_enabled() or torch.get_autocast_dtype(kind) != torch.bfloat16:
        raise RuntimeError(
            "ddlib was called under torch.autocast, whose cache hides training steps from the "
            "network; leave it, and use `precision: bf16`, or ddlib.devices.precision in Python"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums depend, in their last bits, on how threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def float32_default() -> Iterator[None]:
    """Let PyTorch make float32 tensors where no dtype is named, and restore its default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_DRAWING = RLock()


@contextmanager
def seeded(stream: torch.Generator, device: torch.device | str) -> Iterator[None]:
    """Let what draws from PyTorch's global generators draw from `stream`, and restore them.

    The stream moves on by one draw if anything was drawn, and else stays as it is. One thread of a
    process draws at a time, as all share these generators.
    """
    ahead = torch.Generator()
    ahead.set_state(stream.get_state())
    seed = int(torch.randint(2**63 - 1, (), generator=ahead))
    shared = [torch.default_generator, *_accelerator_generators(torch.device(device))]
    with _DRAWING:
        before = [generator.get_state() for generator in shared]
        try:
            starts = [generator.manual_seed(seed).get_state() for generator in shared]
            yield
            ends = [generator.get_state() for generator in shared]
        finally:
            for generator, state in zip(shared, before, strict=True):
                generator.set_state(state)
    if not all(map(torch.equal, starts, ends)):
        stream.set_state(ahead.get_state())


def _accelerator_generators(device: torch.device) -> list[torch.Generator]:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return [torch.cuda.default_generators[index]]
    return [torch.mps._get_default_mps_generator()] if device.type == "mps" else []


def send(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a CPU tensor on `device`, without waiting for what the device computes."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # CUDA copies other memory only once it is idle
    return tensor.to(device, non_blocking=True)
