"""Choose methods' numbers on held-out training images: `python -m ddlib.study.tune FILE.yaml`.

For every method and size of a study, the same number of candidates is tried: the numbers in the
file, and these times each factor. The candidates are variants in an ordinary study, so an
interrupted search continues. Networks are tested on training images that are held out; test images
are not used.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ddlib.data.base import read_ipcs
from ddlib.data.load import load
from ddlib.files import from_root, write_atomically
from ddlib.methods import METHODS
from ddlib.methods.common import Matching
from ddlib.parameters import Parameters, at_ipc, check_names, read_file
from ddlib.study.results import Result
from ddlib.study.run import run
from ddlib.study.settings import Settings, read_settings
from ddlib.words.text import listed

NUMBERS = {"mtt": ["learning_rate", "step_size"], "mgd3": ["guidance"]}
"""What is searched; for other methods that move images by SGD it is the learning rate."""
FACTORS = (1 / 16, 1 / 4, 4, 16)
HELD_OUT = 300  # images per class at most: two standard errors at 10 classes are 1.8 points


def numbers_of(base: str, more: Mapping[str, list[str]]) -> list[str]:
    """Return the numbers to search for a registered method; more: those that the user names."""
    kind = METHODS[base].parameters
    names = {**NUMBERS, **more}.get(base, ["learning_rate"] if issubclass(kind, Matching) else [])
    check_names(names, kind.model_fields, f"parameter of {base}")
    return names


def candidates(numbers: Sequence[str], factors: Iterable[float]) -> list[tuple[str, float]]:
    """Return one candidate more than there are factors: (number, factor) that it changes.

    The first leaves all as it is. Every other one changes one number. With several numbers, the
    factors nearest to 1 come first, so that all methods have the same number of candidates.
    """
    factors = [factor for factor in dict.fromkeys(factors) if factor != 1]
    changes = [(number, factor) for number in numbers for factor in factors]
    nearest = sorted(changes, key=lambda change: abs(np.log(change[1])))
    return [(numbers[0], 1.0), *nearest[: len(factors)]]


def scaled(parameters: Parameters, number: str, factors: Mapping[int, float]) -> Any:
    """Return a number of a method times a factor, as a table {ipc: value}.

    factors: {ipc: factor}. A number that takes no table is multiplied by the first factor.
    """
    value = getattr(parameters, number)
    table = {ipc: float(f"{at_ipc(value, ipc) * factor:.4g}") for ipc, factor in factors.items()}
    return table if _takes_table(parameters, number) else next(iter(table.values()))


def _takes_table(parameters: Parameters, number: str) -> bool:
    try:
        return bool(parameters.replace(**{number: {1: 1.0}}))
    except ValueError:
        return False


def search(
    settings: Settings,
    held_out: int | None = None,
    seeds: int = 2,
    factors: Sequence[float] = FACTORS,
    numbers: Mapping[str, list[str]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Run the search; return its table, the study's parameters with the best, and remarks.

    held_out: images per class to test on, by default a fifth of the smallest class, at most
    HELD_OUT (or what `data` of the study says); numbers: {method: names}, see NUMBERS. The table
    has a row per method, size and candidate: method, ipc, number, factor, value, accuracy (the
    mean over seeds of the accuracy on held-out images, NaN if a seed failed), standard_error,
    seconds (of one core), chosen, at_edge (whether no smaller or no larger value was tried).
    Raises ValueError or OSError, in one sentence, as `run` does.
    """
    real = load(**{**settings.data, "held_out": None, "per_class": None})
    ipcs = read_ipcs(settings.k, real)
    smallest = int(real.train.labels.bincount().min())
    held_out = held_out or settings.data["held_out"] or max(1, min(HELD_OUT, smallest // 5))
    rows, variants = [], {}
    for method, (base, parameters) in settings.methods.items():
        names = numbers_of(base, numbers or {})
        for number, factor in candidates(names, factors) if names else []:
            variant = f"{method}-{number}-x{factor:g}"
            values = scaled(parameters, number, dict.fromkeys(ipcs, factor))
            changed = {"method": base, **parameters.model_dump(), number: values}
            variants[variant] = changed
            for ipc in ipcs:
                rows.append((method, ipc, number, factor, at_ipc(values, ipc), variant))
    if not variants:
        raise ValueError(
            f"nothing to search: {listed(settings.methods, 'and')} have no learning rate; name a "
            "number of a method, --number METHOD=NAME"
        )
    first, configuration = next(iter(settings.configurations.items()))
    table = pd.DataFrame(rows, columns=["method", "ipc", "number", "factor", "value", "variant"])
    grid = settings.replace(
        data={**settings.data, "held_out": held_out},
        methods=variants,
        configurations={first: configuration.model_dump()},
        **dict.fromkeys(["families", "spread", "pilot"]),
        seeds=seeds,
        reference="same_steps",
        results=f"{settings.results}/tune",
    )
    table = table.merge(_measured(run(grid)), how="left", on=["variant", "ipc"])
    table = _chosen(table, settings).drop(columns="variant")
    skipped = [name for name in settings.methods if name not in set(table["method"])]
    return table, _tuned(settings, table), list(remarks(table, skipped))


def _measured(result: Result) -> pd.DataFrame:
    """Return accuracy, its standard error over seeds, and seconds, by variant and size."""
    keys = ["method", "ipc"]
    seeds = result.trials.groupby([*keys, "seed"])["accuracy"].mean().groupby(keys)
    seconds = result.costs[["distil_seconds", "evaluate_seconds"]].sum(axis=1)
    columns = {
        "accuracy": seeds.agg(lambda values: values.mean(skipna=False)),
        "standard_error": seeds.agg(lambda values: values.sem(skipna=False)),
        "seconds": seconds.groupby([result.costs[key] for key in keys]).sum(),
    }
    return pd.DataFrame(columns).rename_axis(["variant", "ipc"]).reset_index()


def _chosen(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Mark the best candidate of each method and size; of equal ones the nearest to factor 1.

    A number that takes no table is chosen for all sizes together, by its mean accuracy.
    """
    tables = {
        (method, number): _takes_table(settings.methods[method][1], number)
        for method, number in table[["method", "number"]].drop_duplicates().to_numpy()
    }
    by_size = table.set_index(["method", "number"]).index.map(tables)
    means = table.groupby("variant")["accuracy"].transform(lambda values: values.mean(skipna=False))
    score = table["accuracy"].where(by_size, means)
    nearest = table.assign(score=score, distance=np.log(table["factor"]).abs())
    nearest = nearest.dropna(subset="score").sort_values("distance", kind="stable")
    best = nearest.groupby(["method", "ipc"])["score"].idxmax()
    tried = table.groupby(["method", "number"])["factor"]
    ends = (table["factor"] == tried.transform("min")) | (table["factor"] == tried.transform("max"))
    chosen = table.index.isin(best)
    return table.assign(chosen=chosen, at_edge=chosen & ends)


def _tuned(settings: Settings, table: pd.DataFrame) -> dict[str, Any]:
    """Return the study's table of parameters with the chosen values."""
    methods = {}
    for method, rows in table.groupby("method", sort=False):
        parameters = settings.methods[method][1]
        chosen = rows[rows["chosen"]].set_index("ipc")
        raw = methods[method] = dict(settings.table["methods"][method] or {})
        for number in rows["number"].unique():
            factors = chosen["factor"].where(chosen["number"] == number, 1.0).sort_index()
            raw |= {number: scaled(parameters, number, dict(factors))} if len(factors) else {}
    return {**settings.table, "methods": {**settings.table["methods"], **methods}}


def remarks(table: pd.DataFrame, skipped: Sequence[str]) -> Iterable[str]:
    """Yield what a reader must know: edges of the grid, candidates that failed, what was skipped.

    table: see `search`; skipped: the methods that have no number to search.
    """
    for method, rows in table[table["at_edge"]].groupby("method", sort=False):
        yield (
            f"{method}: the best value lies at the edge of the grid at ipc "
            f"{listed(sorted(rows['ipc']), 'and')}, so a better one may lie beyond; search again, "
            "from the file that is written"
        )
    for (method, ipc), rows in table.groupby(["method", "ipc"], sort=False):
        if failed := int(rows["accuracy"].isna().sum()):
            kept = "" if rows["chosen"].any() else ", and the value of the file is kept"
            yield f"{method} at ipc {ipc}: {failed} of {len(rows)} candidates failed{kept}"
    if skipped:
        yield f"not searched, for want of a number to choose: {listed(skipped, 'and')}"


class _Dumper(yaml.SafeDumper):
    """Writes equal tables in full, without YAML's `&` and `*`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Search from a shell; on an error, print one sentence and exit with code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m ddlib.study.tune", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, help="the YAML file of a study")
    parser.add_argument("--held-out", type=int, help="images per class to test on")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each candidate")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="besides 1")
    parser.add_argument("--number", action="append", default=[], help="METHOD=NAME, to search it")
    options = parser.parse_args(arguments)
    if min(options.factors) <= 0:
        parser.error(f"--factors must be above 0, got {min(options.factors):g}")
    numbers: dict[str, list[str]] = {}
    for method, _, name in (text.partition("=") for text in options.number):
        numbers.setdefault(method, []).append(name)
    try:
        settings = read_settings(read_file(options.file))
        check_names(numbers, METHODS, "method")
        table, tuned, said = search(
            settings, options.held_out, options.seeds, options.factors, numbers
        )
        folder = from_root(settings.results) / "tune"
        head = f"# Chosen by `python -m ddlib.study.tune {options.file}`; see tune.csv beside it.\n"
        layout = {"sort_keys": False, "default_flow_style": None, "width": 100}
        text = yaml.dump(tuned, Dumper=_Dumper, **layout)
        write_atomically(folder / "tune.csv", table.to_csv(index=False).encode())
        write_atomically(folder / "tuned.yaml", (head + text).encode())
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(table[table["chosen"]].drop(columns="chosen").round(4).to_string(index=False))
    print(*said, f"run {folder / 'tuned.yaml'}; the search is in tune.csv beside it", sep="\n")


if __name__ == "__main__":
    main()
