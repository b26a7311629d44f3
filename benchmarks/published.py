"""DM's published accuracy in a twentieth of the published time: `python -m benchmarks.published`.

The published setting takes 20,000 steps against 256 new real images per class. Here are 7,000
longer steps against 32; the networks and their training on the set are the published ones. It is a
study: it reads DDLIB_DATA, and goes on where it stopped.
"""

import argparse
from collections.abc import Sequence

import pandas as pd

from ddlib.stats import compare
from ddlib.study import published
from ddlib.study.run import run
from ddlib.study.settings import read_settings

IPC = 10
DM = {"iterations": 7000, "learning_rate": 2.0, "real_batch": 32}


def settings(data: str, seeds: int, networks: int) -> dict[str, object]:
    """Return the parameters of the study on a data set, with the published networks and training.

    networks: trained on each set; their accuracy is averaged.
    """
    [paper] = (
        published.read().query("data == @data and method == 'dm' and ipc == @IPC").itertuples()
    )
    recipe = {**published.RECIPE, "steps": int(paper.epochs), "augmentation": paper.augmentation}
    return {
        "data": {"name": data},
        "network": {"name": "convnet", "width": int(paper.width), "depth": int(paper.depth)},
        "training": recipe,  # an epoch of 100 images is a step
        "methods": {"dm": {**DM, "augmentation": paper.augmentation}},
        "k": [10 * IPC],
        "seeds": seeds,
        "evaluations": networks,
        "reference": "same_steps",
        "results": f"results/bench/published/{data}",
    }


def compare_published(parameters: dict[str, object], data: str) -> pd.DataFrame:
    """Run the study; return its accuracy (%), the published one of `data`, and core seconds."""
    result = run(read_settings(parameters)).under()
    table = compare.accuracies(result.trials)
    full = compare.full_data(result.references, result.plan.settings.reference)
    rows = published.beside(table, full, data).query("method == 'dm'")
    rows = rows[["accuracy", "published", "deviation"]].mul(100).assign(tag=rows["tag"])
    return rows.assign(seconds=result.costs["distil_seconds"].mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen data sets and print a row for each."""
    parser = argparse.ArgumentParser(prog="benchmarks.published", description=__doc__)
    names = ["mnist", "cifar10"]
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=1, help="trained on each set")
    asked = parser.parse_args(arguments)
    for data in asked.data:
        rows = compare_published(settings(data, asked.seeds, asked.networks), data)
        print(rows.assign(data=data).round(1).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
