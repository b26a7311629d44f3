"""Check a GPU in minutes: `python -m benchmarks.gpu_check --device cuda --limit 540 --out FILE`.

Each check prints a line and goes to the JSON file at once. At the limit the script stops; what it
has not ended is not in the file. The exit code is 1 if a check failed. DDLIB_DATA has CIFAR-10 and
MNIST, or `--data` names a folder with some of CIFAR-10's images (see `ddlib.data.load`).
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.growth import memory
from benchmarks.kernels import distil, noise
from ddlib.data.base import DataSet
from ddlib.data.load import load
from ddlib.devices import precision, read_device
from ddlib.files import write_atomically
from ddlib.methods.common import random_members
from ddlib.methods.trajectory import unroll
from ddlib.networks.functional import build, flatten
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import read_file
from ddlib.seeds import generator
from ddlib.stats import compare
from ddlib.study import published
from ddlib.study.run import run
from ddlib.study.settings import Settings
from ddlib.training import loop, together
from ddlib.training.augment import STRATEGIES, draw
from ddlib.training.divergence import DivergedError
from ddlib.training.recipe import Recipe

PROFILES = tuple(
    f"parameters/methods/fidelity_{name}.yaml"
    for name in ("cifar10_dm", "mnist_dm", "cifar10_coresets")
)
# seconds that a CPU core takes (benchmarks/README.md; MTT: 30 steps of a student)
CORE = {"DM iteration": 3.4, "DC outer step": 11, "MTT iteration": 60, "evaluation step": 0.4}
SMALL_GPU = 24  # GB
FALL = 0.1  # the most by which losses in bf16 may differ, as a share of what float32 loses
EQUAL = 1e-3  # relative
SHORT = 0.015  # of accuracy, below the published one

LINE = "{verdict}: {what}: {measured} (expected: {expected})"

Outcome = tuple[str, bool]  # what was measured, and whether it passes


class OverError(BaseException):
    """The time is over. No check may catch it as an error of its own."""


@dataclass(frozen=True)
class Scale:
    """How much of everything; the full scale is the published setting at 10 images a class."""

    width: int = 128
    ipc: int = 10
    real_batch: int = 256
    student_steps: int = 30
    steps: int = 300
    networks: int = 20
    side: int = 128
    repeats: int = 3


QUICK = Scale(width=8, ipc=2, real_batch=8, student_steps=2, steps=8, networks=2, side=16)


@dataclass(frozen=True)
class Check:
    """What is checked, what is expected, and the function that measures it."""

    what: str
    expected: str
    measure: Callable[[], Outcome]


def fall(dataset: DataSet, network: Network, scale: Scale, device: str) -> Outcome:
    """Train from the same weights on the same batches in float32 and bf16, and compare losses."""
    real, recipe, losses = dataset.train, Recipe(steps=scale.steps, schedule="constant"), {}
    theta = initial_parameters(network, generator("weights"), real.device)
    for name in ("float32", "bf16"):
        seen: list[torch.Tensor] = []
        with precision(name, device):
            stream = generator("batches")
            loop.train(network, theta, real.samples, real.labels, recipe, stream, seen.append)
        losses[name] = torch.stack(seen).float().cpu()
    tail = max(1, scale.steps // 10)
    first = losses["float32"][0].item()
    single, half = (losses[name][-tail:].mean().item() for name in ("float32", "bf16"))
    passes = single < first and abs(half - single) <= FALL * (first - single)
    return f"{first:.3f} to {single:.3f}, bf16 to {half:.3f}", passes


def steps(dataset: DataSet, scale: Scale) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Yield the name of each step, and a function that takes it a number of times."""
    network = build("convnet", **dataset.sizes, width=scale.width)
    real, k = dataset.train, scale.ipc * dataset.class_count
    rows = random_members(dataset, scale.ipc, 0).to(real.device)
    images, labels = real.at(rows), real.labels[rows]
    theta = initial_parameters(network, generator("weights"), real.device)

    def match(method: str, count: int) -> None:
        options = {"iterations": count, "real_batch": scale.real_batch, "augmentation": "none"}
        [outcome] = distil(method, dataset, network, [scale.ipc], **options)().values()
        if isinstance(outcome, DivergedError):
            raise outcome

    def follow(count: int) -> None:
        start = flatten(network, theta)
        rows = [(torch.arange(k), draw(STRATEGIES["none"], k, generator("student")))]
        alpha = torch.full((), 0.01, device=start.device)
        for _ in range(count):
            ends = start, start + 0.01, rows * scale.student_steps
            unroll(network, images.clone().requires_grad_(), labels, alpha, *ends)

    def evaluate(count: int) -> None:
        loop.train(network, theta, images, labels, Recipe(steps=count), generator("batches"))

    yield "DM iteration", partial(match, "dm")
    yield "DC outer step", partial(match, "dc")
    yield "MTT iteration", follow
    yield "evaluation step", evaluate


def cost(call: Callable[[int], object], device: str, repeats: int, most: float) -> Outcome:
    """Return the seconds of a step and the peak memory; it passes below `most` seconds."""
    call(1)
    start = _clock(device)
    call(repeats)
    spent, gigabytes = (_clock(device) - start) / repeats, _peak(device)
    return f"{spent:.4f} s, {gigabytes:.2f} GB", spent < most and gigabytes < SMALL_GPU


def stacked(dataset: DataSet, network: Network, scale: Scale, device: str) -> Outcome:
    """Train networks on one set together and one by one; compare their losses on test images."""
    real, recipe = dataset.train, Recipe(steps=scale.steps // 4)
    rows = random_members(dataset, scale.ipc, 0).to(real.device)
    labelled, seeds = (real.at(rows), real.labels[rows]), list(range(scale.networks))
    weights = [generator("evaluation weights", seed) for seed in seeds]
    thetas = [initial_parameters(network, stream, real.device) for stream in weights]
    starts, sets = list(zip(seeds, thetas, strict=True)), [labelled] * len(seeds)
    call, single = (dataset.test, recipe), partial(loop.train_and_score, network, *labelled)
    times, both = [_clock(device)], []
    both.append(together.train_and_score_all(network, sets, *call, seeds, thetas))
    times.append(_clock(device))
    both.append([single(*call, *start) for start in starts])
    times.append(_clock(device))
    ratio = (times[2] - times[1]) / (times[1] - times[0])
    losses = torch.tensor([[score.cross_entropy for score in scores] for scores in both])
    apart = ((losses[0] - losses[1]) / losses[1]).abs().max().item()
    return f"{apart:.0e} apart, {ratio:.1f} times as fast", apart < EQUAL


def profile(path: str, device: str) -> Outcome:
    """Run a file of parameters on the device; compare its accuracies with the published ones."""
    changes = {"device": device, "results": f"results/gpu_check/{Path(path).stem}"}
    result = run(Settings.read(read_file(Path(path)) | changes)).under()
    full = compare.full_data(result.references, result.plan.settings.reference)
    rows = published.beside(compare.accuracies(result.trials), full, result.plan.dataset.name)
    rows = rows[rows["method"] != "all data"]
    pairs = [
        f"{row.method} at ipc {row.ipc} {row.accuracy:.1%} ({row.published:.1%})"
        for row in rows.itertuples()
    ]
    passes = len(rows) > 0 and bool((rows["difference"] >= -SHORT).all())
    return ", ".join(pairs) or "nothing is published for it", passes


def checks(data: str, device: str, scale: Scale, profiles: Sequence[str]) -> Iterator[Check]:
    """Yield every check, to be done before the next is made."""
    dataset, quick = _on(load(data), device), scale.width < Scale().width
    network = build("convnet", **dataset.sizes, width=scale.width)
    expected = f"falls in float32, within {FALL:.0%} of the fall in bf16"
    yield Check("loss on all data", expected, lambda: fall(dataset, network, scale, device))
    wide = noise((3, scale.side, scale.side), 10, 10 * max(scale.real_batch, scale.ipc))
    for where, images in (("", dataset), (f", {scale.side} px", _on(wide, device))):
        for name, call in steps(images, scale):
            most = math.inf if where or quick else CORE[name]
            limit = f"below {most} s (a CPU core) and " if most < math.inf else "below "
            measure = partial(cost, call, device, scale.repeats, most)
            yield Check(name + where, f"{limit}{SMALL_GPU} GB", measure)
    expected = f"losses within {EQUAL}"
    measure = partial(stacked, dataset, network, scale, device)
    yield Check(f"{scale.networks} networks together", expected, measure)
    for path in profiles:
        measure = partial(profile, path, device)
        yield Check(Path(path).stem, f"at most {SHORT:.1%} below published", measure)


def record(check: Check, device: str) -> dict[str, object]:
    """Return a row about a check: what it measured, whether it passes, and its seconds."""
    start = _clock(device)
    _reset(device)
    try:
        with precision("float32", device):
            measured, passes = check.measure()
    except Exception as error:  # whatever goes wrong fails this check alone
        measured, passes = f"{type(error).__name__}: {' '.join(str(error).split())}", False
    row = {"verdict": "pass" if passes else "FAIL", "what": check.what, "measured": measured}
    return row | {"expected": check.expected, "seconds": round(time.perf_counter() - start, 1)}


def _over(*_: object) -> None:
    raise OverError


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the checks until the limit; print and write each. Exit with code 1 if any fails."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=int, default=540, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--data", default="cifar10", help="a name, or a folder")
    parser.add_argument("--profiles", nargs="*", default=None, help="files of parameters")
    parser.add_argument("--quick", action="store_true", help="small, and without profiles")
    asked = parser.parse_args(arguments)
    profiles = asked.profiles if asked.profiles is not None else () if asked.quick else PROFILES
    scale, rows = QUICK if asked.quick else Scale(), []
    signal.signal(signal.SIGALRM, _over)
    signal.alarm(asked.limit)
    try:
        device = read_device(asked.device)
        for check in checks(asked.data, device, scale, profiles):
            rows.append(record(check, device))
            print(LINE.format(**rows[-1]), flush=True)
            write_atomically(asked.out, json.dumps(rows, indent=1).encode())
    except OverError:
        print("the time is over; what is left was not checked")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    finally:
        signal.alarm(0)
    if failed := [row["what"] for row in rows if row["verdict"] == "FAIL"]:
        sys.exit(f"failed: {', '.join(failed)}")


def _on(dataset: DataSet, device: str) -> DataSet:
    return replace(dataset, train=dataset.train.to(device), test=dataset.test.to(device))


def _clock(device: str) -> float:
    """Return the time, when the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: str) -> float:
    """Return the most memory held since `_reset`, in GB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return memory("VmHWM") / 1e6


def _reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
