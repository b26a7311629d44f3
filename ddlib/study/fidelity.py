"""Compare studies with published accuracies: `python -m ddlib.study.fidelity RESULTS...`.

It reads the tables and settings in the results folders, and writes a section on each into
docs/fidelity.md: published, ours, the difference, and which settings differ. Other sections stay.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddlib.files import PROVENANCE, exit_with_sentence, from_root, read_json, write_atomically
from ddlib.stats import compare
from ddlib.study import published
from ddlib.study.plan import Plan
from ddlib.study.results import read
from ddlib.study.settings import SAME_STEPS

HEAD = """# Published accuracies beside ours

Written by `python -m ddlib.study.fidelity`. Accuracies are in percent, differences in points. ± is
the standard deviation over the networks that were trained on the sets; with one seed, it leaves
out that of distillation. "Why" names the settings that differ; their values follow. Where none
differs, a difference above 1.5 points is a bug until shown otherwise. Networks on all data take as
many steps as those on S, so their rows do not test the code.
"""
SECTION = "\n## "
COLUMNS = """
| method | ipc | published | ours | difference | why |
|---|---|---|---|---|---|
"""


def section(folder: Path) -> str:
    """Return a Markdown section on a study: accuracies beside published ones, and what differs.

    folder: the results of the study; its data must be at hand. Raises ValueError or OSError, in one
    sentence.
    """
    if not (folder / PROVENANCE).exists():  # the last file that a study writes
        raise FileNotFoundError(
            f"there is no finished study in {folder}; name the results folder of one"
        )
    result, rows = read(folder).under(), []
    plan, table = result.plan, compare.accuracies(result.trials)
    full = compare.full_data(result.references, plan.settings.reference)
    pairs = published.beside(table, full, plan.dataset.name)
    spread = result.trials.groupby(["method", "ipc"])["accuracy"].std()
    for number, row in enumerate(pairs.to_dict("records")):
        names = [name for name, *_ in published.differing(plan, pairs.iloc[[number]])]
        if row["method"] == "all data" and plan.settings.reference == SAME_STEPS:
            names.append("as few steps as on S")
        why = ", ".join(name.split(",")[0].split(" (")[0] for name in names) or "nothing differs"
        doubt = "; published at second hand" if row["tag"] == "unverified" else ""
        ipc = "" if pd.isna(row["ipc"]) else row["ipc"]
        theirs, ours, more = (
            f"{100 * row[name]:.1f}" for name in ("published", "accuracy", "difference")
        )
        if not pd.isna(deviation := spread.get((row["method"], ipc))):
            ours += f" ± {100 * deviation:.1f}"
        rows.append(f"| {' | '.join([row['method'], str(ipc), theirs, ours, more, why + doubt])} |")
    head = f"{SECTION}{plan.dataset.name}, {'/'.join(folder.resolve().parts[-2:])}\n"
    tables = [head + COLUMNS + "\n".join(rows), published.differences(plan, pairs)]
    return "\n\n".join([*tables, _origin(folder, plan)]) + "\n"


def _origin(folder: Path, plan: Plan) -> str:
    """Say how many networks the accuracies come from, and where they were computed."""
    origin = read_json(folder / PROVENANCE, names=("commit", "core_hours"))
    commit = (origin["commit"] or "unknown")[:7]
    hours = sum(origin["core_hours"].values())
    return (
        f"Seeds: {plan.settings.seeds}; networks on each set: {plan.settings.evaluations}. "
        f"Computed at commit {commit}, in {hours:.1f} hours of a core."
    )


@exit_with_sentence()
def main(arguments: Sequence[str]) -> None:
    """Write a section on each results folder into docs/fidelity.md; its other sections stay."""
    if not arguments:
        sys.exit("usage: python -m ddlib.study.fidelity RESULTS...")
    page = from_root("docs/fidelity.md")
    parts = page.read_text(encoding="utf-8").split(SECTION)[1:] if page.exists() else []
    parts += [section(from_root(folder)).removeprefix(SECTION) for folder in arguments]
    last = {part.partition("\n")[0]: SECTION + part for part in parts}  # by heading
    write_atomically(page, (HEAD + "".join(last[head] for head in sorted(last))).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
