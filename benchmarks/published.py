"""DM's published accuracy, in how much of the published time: `python -m benchmarks.published`.

DM's published setting takes 20,000 steps, against a new network and 256 new real images a class in
each. Here there are fewer and longer steps, against fewer real images; network and evaluation are
the published ones. The published setting's hours are 20,000 times those of its iteration, written
the obvious way and timed here. Reads DDLIB_DATA; a set and a score that are there, of the present
code, are not made again.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cases import Scale, distribution_matching, make_setting
from ddlib.data.base import DataSet
from ddlib.data.load import load
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.files import from_root, write_atomically
from ddlib.fingerprints import fingerprint
from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.networks.layers import Network
from ddlib.study import published as figures
from ddlib.study.store import read_seconds, write_seconds
from ddlib.study.worker import code
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

ITERATIONS = 20000  # of the published setting
IPC = 10
FULL = Scale()
OPTIONS = {"iterations": int, "learning_rate": float, "real_batch": int}
LINE = "{:8} {:>6} {:>24} {:>18} {:>13} {:>8} {:>6}"
HEAD = ("data", "seeds", "published %", "here %", "published h", "here h", "ratio")


@dataclass(frozen=True)
class Setting:
    """What is run on a data set, and the published accuracy (%), mean, deviation and where from."""

    data: str
    augmentation: str
    published: tuple[float, float, str]
    width: int
    depth: int
    steps: int
    iterations: int = 7000
    learning_rate: float = 2.0
    real_batch: int = 32

    def options(self) -> dict[str, Any]:
        """The options of DM."""
        return {name: getattr(self, name) for name in (*OPTIONS, "augmentation")}


def published(name: str) -> Setting:
    """Return the setting of a data set, with what the library knows to be published for DM."""
    [row] = figures.read().query("data == @name and method == 'dm' and ipc == @IPC").itertuples()
    accuracy = 100 * row.accuracy, 100 * row.deviation, row.tag
    # An epoch of 100 images is a step.
    return Setting(
        name, row.augmentation, accuracy, int(row.width), int(row.depth), int(row.epochs)
    )


SETTINGS = {name: published(name) for name in ("cifar10", "mnist")}


def run(setting: Setting, seed: int, folder: Path, networks: int = 1) -> dict[str, Any]:
    """Return accuracy (%) and seconds of a core of a seed, or what an earlier call has kept.

    Accuracy is the mean over some networks trained on the set.
    """
    decides = {**asdict(setting), "published": None}  # a citation changes no set
    what = fingerprint({**decides, "ipc": IPC, "code": code()})
    made_at = folder / f"{setting.data}-{seed}-{what}.safetensors"
    path = folder / f"{made_at.stem}-{networks}.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.set_num_threads(1)
    machine.keep_memory()
    dataset = load(setting.data)
    shape, count = dataset.sample_shape, dataset.class_count
    network = build("convnet", shape, count, width=setting.width, depth=setting.depth)
    made, seconds = _distilled(setting, seed, made_at, dataset, network)
    recipe = Recipe(steps=setting.steps, schedule="step", augmentation=setting.augmentation)
    # The first network is the same however many there are.
    own = (seed, *((seed, number) for number in range(1, networks)))
    scores = [
        train_and_score(network, made.samples, made.labels, dataset.test, recipe, each).accuracy
        for each in own
    ]
    record = {"data": setting.data, "seed": seed, "seconds": seconds}
    record |= {"accuracy": 100 * statistics.mean(scores), "each": scores}
    write_atomically(path, json.dumps(record).encode())
    return record


def _distilled(
    setting: Setting, seed: int, path: Path, dataset: DataSet, network: Network
) -> tuple[DistilledSet, float]:
    """Return the set in the file at `path`, made if it is not there, and its seconds of a core."""
    known = read_seconds(path)
    if known is not None and path.exists():
        return load_distilled(path), known
    parameters = METHODS["dm"].parameters.read(setting.options(), "dm")
    start = time.thread_time()
    [made] = METHODS["dm"].distil(dataset, network, [IPC], seed, parameters).values()
    seconds = time.thread_time() - start
    if isinstance(made, Exception):
        raise made
    write_seconds(path, seconds)
    made.save(path)
    return made, seconds


def iteration(setting: Setting, repeats: int = 3) -> float:
    """Return the seconds of a core of an iteration of DM, the obvious way, with memory kept."""
    torch.set_num_threads(1)
    machine.keep_memory(FULL.memory)
    case = distribution_matching(make_setting(FULL, setting.data), [IPC], "")
    taken = [machine.seconds(case.reference, time.thread_time) for _ in range(repeats + 1)]
    return statistics.median(taken[1:])


def summary(setting: Setting, records: Sequence[dict[str, Any]], obvious: float) -> str:
    """Return a row of the printed table; obvious: seconds of an iteration, the obvious way."""
    reached = [record["accuracy"] for record in records]
    hours = statistics.mean(record["seconds"] for record in records) / 3600
    theirs = ITERATIONS * obvious / 3600
    mean, deviation, source = setting.published
    return LINE.format(
        *(setting.data, len(reached), f"{mean:.1f} ± {deviation:.1f} ({source})"),
        f"{statistics.mean(reached):.1f} ({min(reached):.1f}-{max(reached):.1f})",
        *(f"{theirs:.1f}", f"{hours:.2f}", f"{theirs / hours:.0f}"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds of the chosen data sets, a process a core, and print a row a data set."""
    parser = argparse.ArgumentParser(prog="benchmarks.published", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=1, help="trained on each set")
    for name, kind in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", default="results/bench/published")
    asked = parser.parse_args(arguments)
    given = {name: getattr(asked, name) for name in OPTIONS if getattr(asked, name) is not None}
    folder = from_root(asked.results)
    chosen = [replace(SETTINGS[name], **given) for name in asked.data]
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, mp_context=spawn) as pool:
        runs = [(each, seed) for seed in range(asked.seeds) for each in chosen]
        jobs = {pool.submit(run, *each, folder, asked.networks): each for each in runs}
        for job in as_completed(jobs):
            found = job.result()
            print(
                "{data} seed {seed}: {accuracy:.2f} %, {seconds:.0f} s".format(**found), flush=True
            )
        obvious = pool.map(iteration, chosen)
    print(LINE.format(*HEAD))
    for each, seconds in zip(chosen, obvious, strict=True):
        own = [job.result() for job, (setting, _) in jobs.items() if setting == each]
        print(summary(each, own, seconds))


if __name__ == "__main__":
    main()
