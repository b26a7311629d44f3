"""Recompute random trials of findings: `python -m ddlib.study.check findings --sample 5`.

A trial is a distilled set and the networks that are trained on it. The chosen trials, and the files
that they need, are computed in a temporary folder, and their scores are compared with the table of
the finding. They must be bit-equal where data, code, versions and the kind of CPU are the same.
Errors and gaps of all trials are computed again from the scores in the finding's own tables.

Elsewhere sums are rounded in other ways, and training can amplify this. At most, another CPU acts
like another seed, so the tolerance is the standard deviation between the seeds of the same
configuration, method and size, and no less than SCORES. docs/results.md says how far trials moved.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddlib.files import FINDINGS, PROVENANCE, exit_with_sentence, from_root, read_json
from ddlib.parameters import check_names
from ddlib.study import provenance, store
from ddlib.study.plan import Reference, Trial
from ddlib.study.results import TRIAL, Result, measure_gaps, read
from ddlib.study.run import compute
from ddlib.words.text import listed

SCORES = {"accuracy": 0.005, "balanced_accuracy": 0.005, "cross_entropy": 0.02}
"""What is compared, and the least tolerance where bits may differ."""
EQUAL, NEAR, DIFFERS = "bit-equal", "within tolerance", "DIFFERS"
_place = attrgetter(*TRIAL)


def folders(name: str) -> list[Path]:
    """Return the folders of findings; "findings" gives all that come with the library.

    name: such as scaling_law/adult, or the path of a finding or of a folder of findings. Raises
    FileNotFoundError if there is none.
    """
    for root in (FINDINGS.parent / name, FINDINGS / name, from_root(name)):
        if places := sorted(root.rglob("settings.json")):
            return [place.parent for place in places]
    raise FileNotFoundError(
        f"{name!r} is no finding; give `findings`, or a folder with settings.json and tables"
    )


def draw(finding: Result, sample: int, seed: int, methods: Sequence[str] = ()) -> list[Trial]:
    """Return random trials of a finding, without those that failed in it.

    methods: names of methods, () for all. Raises ValueError for a name that the finding has not.
    """
    check_names(methods, finding.plan.methods, "method of this finding")
    ended = finding.trials[finding.trials["status"] != "failed"]
    ended = set(ended[TRIAL].itertuples(index=False, name=None))
    trials = [trial for trial in finding.plan.trials if _place(trial) in ended]
    trials = [trial for trial in trials if trial.method in (methods or finding.plan.methods)]
    places = np.random.default_rng(seed).permutation(len(trials))[:sample]
    return [trials[place] for place in sorted(places)]


def cost(finding: Result, trials: Sequence[Trial]) -> str:
    """Say how many seconds of a core the finding took for these trials."""
    costs = finding.costs.set_index(TRIAL).loc[list(map(_place, trials))].reset_index()
    return f"about {sum(provenance.seconds(costs).values()):.0f} seconds of a core"


def recompute(
    finding: Result, trials: Sequence[Trial], with_references: bool, exact: bool
) -> Iterator[tuple[str, str]]:
    """Recompute trials of a finding; yield an outcome (EQUAL, NEAR or DIFFERS) and what it is of.

    with_references: also the networks on all data of their configurations and seeds; exact: whether
    all must be bit-equal.
    """
    plan = finding.plan
    places = {(trial.configuration, trial.seed) for trial in trials if with_references}
    references = [full for full in plan.references if (full.configuration, full.seed) in places]
    with store.alone(plan.folder):
        compute(plan, trials, references)
    for target in [*trials, *references]:
        if isinstance(target, Reference):
            keys, table = {"reference": target.kind}, finding.references
        else:
            keys, table = {"method": target.method, "ipc": target.ipc}, finding.trials
        keys |= {"configuration": target.configuration, "seed": target.seed}
        same = table[list(keys)] == pd.Series(keys)
        rows, cell = table[same.all(axis=1)], table[same.drop(columns="seed").all(axis=1)]
        tolerance = np.fmax(cell[list(SCORES)].std(), pd.Series(SCORES)) * (not exact)
        outcome, detail = compare(rows, store.read_record(target.path), tolerance)
        words = ", ".join(f"{name} {value}" for name, value in keys.items())
        yield outcome, words + f": {detail}" * bool(detail)


def wrong_gaps(finding: Result) -> list[str]:
    """Return the columns of errors and gaps that do not follow from the scores of a finding."""
    trials, references = finding.trials.copy(), finding.references.copy()
    measure_gaps(finding.plan, trials, references)
    names = ["error", *(name for name in trials if name.startswith("gap_"))]
    return [name for name in names if not trials[name].equals(finding.trials.get(name))]


def compare(
    table: pd.DataFrame, record: Mapping[str, Any], tolerance: pd.Series
) -> tuple[str, str]:
    """Return the outcome, and the largest differences, of a record against its rows of a table."""
    status = table["status"].iloc[0]
    if record["status"] != status:
        return DIFFERS, f"{status} in the finding, {record['status']} here: {record['message']}"
    if status != "ok":
        return EQUAL, f"{status}, as in the finding"
    here = pd.DataFrame(record["scores"])[list(SCORES)]
    there = table.sort_values("evaluation")[list(SCORES)].to_numpy()
    differences = (here - there).abs()
    largest = differences.mask(here.isna() & np.isnan(there), 0).max(skipna=False)
    if (largest == 0).all():
        return EQUAL, ""
    detail = ", ".join(
        f"{name.replace('_', ' ')} by {value:.2g} (tolerance {tolerance[name]:.2g})"
        for name, value in largest.items()
    )
    return NEAR if (largest <= tolerance).all() else DIFFERS, detail


def doubts(finding: Result, trials: Sequence[Trial], origin: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the trials need not be bit-equal here: other versions, CPU, code or data.

    origin: the provenance of the finding, empty if unknown.
    """
    if finding.plan.context.device != "cpu":
        yield "it is computed on a GPU here, where sums have no fixed order"
    if not origin:
        yield "it does not say where it was computed"
        return
    versions = provenance.versions()
    for name, version in origin["versions"].items():
        if version != versions.get(name):
            yield f"it was computed with {name} {version}, here is {versions.get(name)}"
    kinds, here = set(map(_kind, origin["machines"])), _kind(provenance.machine())
    if here not in kinds:
        known = listed(sorted(kinds)) or "a machine that is not known"
        yield f"it was computed on {known}, here is {here}"
    if not {trial.set_path.name for trial in trials} <= set(finding.costs["set"]):
        yield "its data, the code that decides results, or libraries are not those that are here"


def _kind(machine: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (machine[name] for name in ("cpu", "instructions", "gpu"))))


@exit_with_sentence()
def main(arguments: Sequence[str] | None = None) -> None:
    """Check findings from a shell. Exit code 1: a number differs, or nothing could be checked."""
    parser = argparse.ArgumentParser(
        "python -m ddlib.study.check", description=__doc__.split(":")[0]
    )
    parser.add_argument("findings", nargs="+", help="`findings`, or folders such as methods/adult")
    parser.add_argument("--sample", type=int, default=5, help="trials of each finding")
    these = "choose from trials of these alone"
    parser.add_argument("--method", nargs="+", action="extend", default=[], help=these)
    parser.add_argument("--seed", type=int, default=0, help="which trials are chosen")
    parser.add_argument("--references", action="store_true", help="networks on all data, too")
    parser.add_argument("--workers", type=int, help="processes; by default one per core")
    options = parser.parse_args(arguments)
    if options.sample < 1:
        raise ValueError(f"--sample={options.sample} chooses no trial; give at least 1")
    places = [place for name in options.findings for place in folders(name)]
    outcomes, unchecked, wrong = Counter(), [], []
    for place in places:
        name = "/".join(place.resolve().parts[-2:])
        try:
            with tempfile.TemporaryDirectory() as work:
                paths = {"results": f"{work}/results", "cache": f"{work}/cache"}
                finding = read(place, **paths, workers=options.workers)
                trials = draw(finding, options.sample, options.seed, options.method)
                print(f"{name}: {len(trials)} trials, {cost(finding, trials)}", flush=True)
                origin, file = {}, place / PROVENANCE
                if file.is_file():
                    origin = read_json(file, names=("versions", "machines"))
                notes = list(doubts(finding, trials, origin))
                for note in notes:
                    print(f"  note: {note}")
                if columns := wrong_gaps(finding):
                    print(f"  {DIFFERS}: {listed(columns)}, from its own scores")
                    wrong.append(name)
                for outcome, text in recompute(finding, trials, options.references, not notes):
                    print(f"  {outcome}: {text}")
                    outcomes[outcome] += 1
        except (OSError, ValueError) as error:
            print(f"{name}: not checked: {error}")
            unchecked.append(name)
    counts = [f"{outcomes[name]} {name}" for name in (EQUAL, NEAR, DIFFERS) if outcomes[name]]
    total = f"{outcomes.total()} recomputed: {listed(counts)}"
    text = total if counts else "nothing was recomputed"
    text += f"; not checked: {listed(unchecked)}" * bool(unchecked)
    print(text + f"; wrong gaps: {listed(wrong)}" * bool(wrong))
    if outcomes[DIFFERS] or wrong or not counts:
        sys.exit(1)


if __name__ == "__main__":
    main()
