"""Choose methods' numbers on held-out training samples: `python -m ddlib.study.tune FILE.yaml`.

For every method and size of a study, the same number of candidates is tried: the numbers in the
file, and these times each factor. The candidates are variants in an ordinary study, so an
interrupted search continues. Networks are tested on training samples that are held out; test
samples are not used.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ddlib.data.base import read_ipcs
from ddlib.data.load import load
from ddlib.files import STOPPED, exit_with_sentence, from_root, write_atomically
from ddlib.methods import METHODS
from ddlib.methods.common import Matching
from ddlib.parameters import Parameters, at_ipc, read_file
from ddlib.stats.scores import whole_call
from ddlib.study.results import Result
from ddlib.study.run import run
from ddlib.study.settings import Settings
from ddlib.words.text import listed

OF_STUDENTS = ["learning_rate", "step_size"]
NUMBERS = {"mtt": OF_STUDENTS, "datm": OF_STUDENTS, "mgd3": ["guidance"]}
"""What is searched; for other methods that move images by SGD it is the learning rate."""
FACTORS = (1 / 16, 1 / 4, 4, 16)
HELD_OUT = 300  # images per class at most: one standard error at 10 classes is 0.9 points


class _Dumper(yaml.SafeDumper):
    """Writes equal tables in full, without YAML's `&` and `*`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def candidates(numbers: Sequence[str], factors: Iterable[float]) -> list[tuple[str, float]]:
    """Return one candidate more than there are factors: (number, factor) that it changes.

    The first leaves all as it is. Every other one changes one number. With several numbers, the
    factors nearest to 1 come first, so that all methods have the same number of candidates.
    """
    factors = [factor for factor in dict.fromkeys(factors) if factor != 1]
    changes = [(number, factor) for number in numbers for factor in factors]
    nearest = sorted(changes, key=lambda change: abs(np.log(change[1])))
    return [(numbers[0], 1.0), *nearest[: len(factors)]]


def scaled(parameters: Parameters, number: str, factors: Mapping[int, float]) -> dict[int, float]:
    """Return a number of a method, at each size times the factor in {ipc: factor}."""
    value = getattr(parameters, number)
    numbers = ((ipc, float(at_ipc(value, ipc)), factor) for ipc, factor in factors.items())
    return {ipc: n if factor == 1 else float(f"{n * factor:.4g}") for ipc, n, factor in numbers}


def search(
    settings: Settings, held_out: int | None, seeds: int, factors: Sequence[float]
) -> pd.DataFrame:
    """Run the search; return a row per method, size and candidate.

    held_out: samples per class to test on, by default those that `data` holds out, or else a fifth
    of the smallest class, at most HELD_OUT. Columns: method, ipc, number, factor, value, accuracy
    (balanced if that is the study's measure; on held-out samples, the mean over seeds; NaN if a
    seed failed), standard_error, seconds (of one core, as if the study had this size alone; without
    those of sets and networks that failed), prepare_seconds (of what candidates share), message
    (why a seed failed), chosen, at_edge (whether no smaller or no larger value was tried). The
    factor nearest to 1 is chosen among equal ones. Raises ValueError or OSError, in one sentence.
    """
    real, rows, variants = load(**settings.data | {"held_out": None, "per_class": None}), [], {}
    ipcs, smallest = read_ipcs(settings.k, real), int(real.train.labels.bincount().min())
    if held_out is None:
        held_out = settings.data["held_out"] or max(1, min(HELD_OUT, smallest // 5))
    for method, (base, parameters) in settings.methods.items():
        moves = issubclass(METHODS[base].parameters, Matching)
        numbers = NUMBERS.get(base, ["learning_rate"] if moves else [])
        if base == "mgd3" and parameters.images != "generated":
            numbers = []  # nothing is guided
        set_values = parameters.model_dump(exclude_unset=True)
        for number, factor in candidates(numbers, factors) if numbers else []:
            variant = f"{method}-{number}-x{factor:g}".replace("+", "")  # of 1e+06
            values = scaled(parameters, number, dict.fromkeys(ipcs, factor))
            variants[variant] = {"method": base, **set_values, number: values}
            rows += [(method, ipc, number, factor, values[ipc], variant) for ipc in ipcs]
    if not variants:
        raise ValueError(f"{listed(settings.methods)} have no number to search; add a method")
    first, configuration = next(iter(settings.configurations.items()))
    changes = {
        "data": {**settings.data, "held_out": held_out},
        "methods": variants,
        "configurations": {first: configuration.model_dump(exclude_unset=True)},
        **dict.fromkeys(["families", "spread", "pilot"]),
        "search_seconds": {},
        "seeds": seeds,
        "reference": "same_steps",
        "results": f"{settings.results}/tune",
    }
    grid = Settings.read({**settings.table, **changes})
    table = pd.DataFrame(rows, columns=["method", "ipc", "number", "factor", "value", "variant"])
    table = table.merge(_measured(run(grid)), how="left", on=["variant", "ipc"])
    nearest = table.dropna(subset="accuracy").sort_values("factor", key=lambda x: np.log(x).abs())
    best = nearest.groupby(["method", "ipc"])["accuracy"].idxmax()
    tried = table.groupby(["method", "number"])["factor"]
    ends = [table["factor"] == tried.transform(end) for end in ("min", "max")]
    chosen = table.index.isin(best)
    table = table.assign(chosen=chosen, at_edge=chosen & (ends[0] | ends[1]))
    return table.drop(columns="variant").sort_values(["method", "ipc"], kind="stable")


def _measured(result: Result) -> pd.DataFrame:
    """Return accuracy, its standard error over seeds, costs and message, by variant and size."""
    keys, costs = ["method", "ipc"], result.costs
    accuracies = result.trials.assign(accuracy=1 - result.trials["error"])
    seeds = accuracies.groupby([*keys, "seed"])["accuracy"].mean().groupby(keys)
    failed = accuracies[accuracies["status"] != "ok"]
    spent = costs.assign(
        seconds=whole_call(costs) + costs["evaluate_seconds"],
        prepare_seconds=costs["prepare_seconds"] + costs["teacher_seconds"],
    )
    columns = {
        "accuracy": seeds.agg(lambda values: values.mean(skipna=False)),
        "standard_error": seeds.agg(lambda values: values.sem(skipna=False)),
        "seconds": spent.groupby(keys)["seconds"].sum(),
        "prepare_seconds": spent.groupby(keys)["prepare_seconds"].first(),
        "message": failed.groupby(keys)["message"].first(),
    }
    return pd.DataFrame(columns).rename_axis(["variant", "ipc"]).reset_index()


def tuned(settings: Settings, table: pd.DataFrame) -> dict[str, Any]:
    """Return the study's table of parameters with the values that `search` chose, and its seconds.

    The seconds of an earlier search, which the table may hold, are added to these.
    """
    methods = {str(name): values for name, values in settings.table["methods"].items()}
    seconds = dict(settings.search_seconds)
    for method, rows in table.groupby("method"):
        sizes = rows.groupby("ipc")
        spent = sizes["seconds"].sum() + sizes["prepare_seconds"].max().fillna(0)
        earlier = settings.search_seconds.get(method, 0.0)
        seconds[method] = {i: float(f"{s + at_ipc(earlier, i):.4g}") for i, s in spent.items()}
    for (method, number), _ in table.groupby(["method", "number"]):
        chosen = table[table["chosen"] & (table["method"] == method)].set_index("ipc")
        factors = chosen["factor"].where(chosen["number"] == number)
        factors = factors.reindex(sorted(set(table["ipc"]))).fillna(1.0)  # also where all failed
        values = scaled(settings.methods[method][1], number, factors)
        methods[method] = {**(methods[method] or {}), number: values}
    return {**settings.table, "methods": methods, "search_seconds": seconds}


def remarks(settings: Settings, table: pd.DataFrame) -> Iterable[str]:
    """Yield what a reader must know: edges of the grid, failures, what was skipped."""
    for method, rows in table[table["at_edge"]].groupby("method"):
        yield (
            f"{method}: the best value lies at the edge of the grid at ipc "
            f"{listed(rows['ipc'])}, so a better one may lie beyond; search again, from the "
            "file that is written"
        )
    for (method, ipc), rows in table[table["accuracy"].isna()].groupby(["method", "ipc"]):
        whys = [f"{row.number} {row.value:g} ({row.message})" for row in rows.itertuples()]
        yield f"{method} at ipc {ipc}: these failed and cannot be chosen: {listed(whys)}"
    if skipped := [method for method in settings.methods if method not in set(table["method"])]:
        yield f"not searched, for want of a number to choose: {listed(skipped)}"


@exit_with_sentence(STOPPED)
def main(arguments: Sequence[str] | None = None) -> None:
    """Search from a shell."""
    parser = argparse.ArgumentParser(
        "python -m ddlib.study.tune", description=__doc__.split(":")[0]
    )
    parser.add_argument("file", type=Path, help="the YAML file of a study")
    parser.add_argument("--held-out", type=int, help="samples per class to test on")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each candidate")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="besides 1")
    options = parser.parse_args(arguments)
    if min(options.factors) <= 0:
        raise ValueError(f"--factors has {min(options.factors):g}; give factors above 0")
    settings = Settings.read(read_file(options.file))
    table = search(settings, options.held_out, options.seeds, options.factors)
    folder = from_root(settings.results) / "tune"
    layout = {"sort_keys": False, "default_flow_style": None, "width": 100}
    text = yaml.dump(tuned(settings, table), Dumper=_Dumper, **layout)
    head = f"# Chosen by `python -m ddlib.study.tune {options.file}`; see tune.csv beside it.\n"
    write_atomically(folder / "tune.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "tuned.yaml", (head + text).encode())
    chosen = table[table["chosen"]].drop(columns=["chosen", "message"])
    rounded = dict.fromkeys(["accuracy", "standard_error", "seconds", "prepare_seconds"], 4)
    print(chosen.round(rounded).to_string(index=False))
    print(*remarks(settings, table), sep="\n")
    print(f"run {folder / 'tuned.yaml'}; the search is in tune.csv beside it")


if __name__ == "__main__":
    main()
