"""Devices, precisions, seeded draws of PyTorch, and copies that do not block.

A GPU computes while Python queues the next steps. Reading a GPU value with `.item()` blocks Python
until the GPU is done. So the CPU makes all random draws and sends them to the GPU, and losses are
checked only once in many steps.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch

from ddlib.parameters import check_names

PRECISIONS = ("float32", "tf32", "bf16")
"""How matrix products and convolutions round their inputs. `tf32` (CUDA only) keeps 10 bits of the
fraction; `bf16` (autocast to bfloat16) keeps 7. Weights, gradients and images stay float32."""


def read_device(name: Any) -> str:
    """Return the device to compute on. "auto" is a CUDA GPU if there is one, and else the CPU.

    Other accelerators, such as Apple's MPS, must be named: some of their gradients are wrong.
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
    """Raise ValueError unless `name` is a precision of this device."""
    check_names([name], PRECISIONS, "precision")
    if name == "tf32" and device != "cuda":
        raise ValueError(
            f"precision='tf32' is a mode of CUDA GPUs, and the device is {device!r}; choose "
            "float32 or bf16"
        )


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Compute with one of PRECISIONS, then restore PyTorch's settings.

    float32 also applies to convolutions and recurrent layers on CUDA, where PyTorch's default is
    TF32. bf16 turns off autocast's cache of weights, which would hide the optimiser's steps from
    the network.
    """
    cudnn = torch.backends.cudnn
    switches = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
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
    """Turn autocast off, for computations outside the layers of a network."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_autocast(device: torch.device) -> None:
    """Raise RuntimeError if `precision` did not start the autocast that is on for `device`."""
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
    """Compute on one thread: the last bits of sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_DRAWING = RLock()


@contextmanager
def seeded(stream: torch.Generator, device: torch.device | str) -> Iterator[None]:
    """Seed PyTorch's global generators from `stream`, and restore them at the end.

    The stream advances by one draw if the block drew anything; otherwise it does not change. A
    lock lets one thread draw at a time, because threads share the global generators.
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
    """Copy a CPU tensor to `device` without waiting for the device."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # copies of pageable memory block
    return tensor.to(device, non_blocking=True)
