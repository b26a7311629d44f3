"""Whether torch.compile pays on DM's real side: `python -m benchmarks.compiled`.

It needs a C++ compiler. Prints seconds to compile, seconds a real side with and without, and the
iterations after which the compilation is earned back.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch.func import functional_call

from benchmarks import machine
from benchmarks.cases import QUICK, SHAPES, Scale, first_rows, make_setting
from ddlib.networks.functional import CHUNK, Theta, embed
from ddlib.networks.layers import Network

LINE = "{:8} {:>10} {:>9} {:>9} {:>19} {:>11}"
HEAD = ("data", "compile s", "plain s", "made s", "ratio", "iterations")


@torch.no_grad()
def measure(
    scale: Scale, data: str, backend: str = "inductor"
) -> tuple[float, list[float], list[float]]:
    """Return the seconds to compile, and of real sides without and with it, in turn.

    Raises AssertionError where the features are apart. backend: of torch.compile. What it made in
    an earlier run is not used, so that compiling counts.
    """
    machine.keep_memory(scale.memory)
    setting = make_setting(scale, data)
    images = setting.dataset.train.images[torch.cat(first_rows(setting))]
    body = {name[5:]: value for name, value in setting.theta.items() if name.startswith("body.")}
    torch.compiler.reset()
    made = torch.compile(partial(_pass, setting.network), backend=backend, dynamic=False)
    start = time.perf_counter()
    with torch._inductor.utils.fresh_inductor_cache():
        for rest in {CHUNK, len(images) % CHUNK} - {0}:  # each shape is compiled by itself
            made(body, images[:rest])
    compiling = time.perf_counter() - start

    def compiled() -> torch.Tensor:
        return torch.cat([made(body, part) for part in images.split(CHUNK)])

    def plain() -> torch.Tensor:
        return embed(setting.network, setting.theta, images)

    torch.testing.assert_close(compiled(), plain(), rtol=1e-4, atol=1e-4)
    taken: list[list[float]] = [[], []]
    for _ in range(max(3, scale.repeats)):
        for own, run in zip(taken, (plain, compiled), strict=True):
            own.append(machine.seconds(run))
    return compiling, *taken


def _pass(network: Network, body: Theta, images: torch.Tensor) -> torch.Tensor:
    return functional_call(network.body, body, (images,)).flatten(1)


def line(data: str, compiling: float, plain: list[float], compiled: list[float]) -> str:
    """Return a row of the printed table; ratios are medians with their range.

    The last column is how many iterations it takes until compiling is earned back, if ever.
    """
    before, after = statistics.median(plain), statistics.median(compiled)
    iterations = compiling / (before - after) if before > after else float("inf")
    return LINE.format(
        *(data, f"{compiling:.1f}", f"{before:.3f}", f"{after:.3f}"),
        *(machine.ratio(plain, compiled), f"{iterations:.0f}"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both data sets, a line each."""
    parser = argparse.ArgumentParser(prog="benchmarks.compiled", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    print(LINE.format(*HEAD))
    for data in SHAPES:
        print(line(data, *measure(QUICK if asked.quick else Scale(), data)), flush=True)


if __name__ == "__main__":
    main()
