"""What the machine can do: how memory is kept, and how fast convolutions are at best."""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ddlib.networks.functional import Theta

TRIM, TOP_PAD, MMAP = -1, -2, -3  # glibc's numbers of these parameters
REPEATS = 5
BATCHES = (16, 32, 64, 256)


def give_memory_back() -> None:
    """Let glibc do as it does by default once it has seen large tensors, which it maps anew."""
    _set_memory({MMAP: 32 * 2**20, TRIM: 64 * 2**20, TOP_PAD: 128 * 2**10})
    ctypes.CDLL(None).malloc_trim(0)


def keep_memory(fetched: int = 0) -> None:
    """Let glibc keep freed memory, as the worker processes of a study do, and fetch some bytes."""
    _set_memory({MMAP: 2**31 - 1, TRIM: 2**31 - 1, TOP_PAD: 2**28})
    torch.ones(fetched, dtype=torch.uint8)


def _set_memory(values: dict[int, int]) -> None:
    for name, value in values.items():
        if not ctypes.CDLL(None).mallopt(name, value):
            raise OSError("this C library takes no mallopt; run the benchmarks on Linux with glibc")


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call took."""
    start = clock()
    run()
    return clock() - start


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Return the median of the ratios of runs side by side, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


@torch.no_grad()
def least_seconds(
    theta: Theta,
    image_shape: tuple[int, int, int],
    passed: int,
    trained: int = 0,
    back: str = "weights",
) -> float:
    """Return the least time in which images pass the body of a ConvNet of three blocks.

    `passed` images pass it forward; `trained` ones forward and `back`, to the gradients of all
    "weights" or to those of the "images" alone. A layer's convolution, or its gradients, in the
    faster of two memory layouts, over BATCHES, plus one pass over what it gives, read and written
    in place. PyTorch's layers cannot do with less, unless they are fused; norm and pooling count as
    that one pass.
    """
    keep_memory()
    total, (_, height, width) = 0.0, image_shape
    height, width = (8 * -(-size // 8) for size in (height, width))
    for number in (0, 4, 8):
        weight = theta[f"body.{number}.weight"]
        wanted = [number > 0, True, True] if back == "weights" else [True, False, False]
        seconds_each = list(_layer_seconds(weight, height, width, wanted if trained else None))
        forward, backward = (min(each) for each in zip(*seconds_each, strict=True))
        total += (passed + trained) * forward + trained * backward
        height, width = height // 2, width // 2
    return total


def _layer_seconds(
    weight: torch.Tensor, height: int, width: int, wanted: list[bool] | None
) -> Iterable[tuple[float, float]]:
    """Yield the seconds an image of a convolution, forward and back, best of a few.

    Each comes with a pass over its result. wanted: whether the gradients of input, weight and bias
    are; None for no way back.
    """
    stream = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        images = torch.randn(batch, weight.shape[1], height, width, generator=stream)
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = (tensor.contiguous(memory_format=layout) for tensor in (images, weight))
            bias = weight.new_zeros(len(weight))
            made = F.conv2d(x, w, bias, padding=1)
            options = [len(weight)], (1, 1), (1, 1), (1, 1), False, (0, 0), 1
            back = partial(
                torch.ops.aten.convolution_backward,
                *(made, x, w),
                *options,
                wanted or [True] * 3,
            )
            passing = _best(made.relu_)
            forward = _best(partial(F.conv2d, x, w, bias, padding=1)) + passing
            yield forward / batch, (_best(back) + passing) / batch if wanted else 0.0


def _best(run: Callable[[], object]) -> float:
    return min(seconds(run) for _ in range(REPEATS))
