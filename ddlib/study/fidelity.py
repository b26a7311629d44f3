"""Compare studies with published accuracies: `python -m ddlib.study.fidelity RESULTS...`.

It reads the tables and settings in the results folders, and writes docs/fidelity.md: published,
ours, the difference, and which settings differ.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ddlib.files import from_root, read_json, write_atomically
from ddlib.stats import compare
from ddlib.study import published
from ddlib.study.plan import make_plan
from ddlib.study.settings import read_settings

HEAD = """# Published accuracies beside ours

Written by `python -m ddlib.study.fidelity {folders}`. Accuracies are in percent, differences in
points. "Why" lists the settings that differ; where nothing differs, a difference above 1.5 points
is a bug until shown otherwise.

| data | method | ipc | published | ours | difference | why |
|---|---|---|---|---|---|---|
"""


def rows(folder: Path) -> Iterator[str]:
    """Yield a Markdown row for each accuracy of a study that has a published counterpart.

    folder: the results of a study; its data must be at hand. Raises ValueError or OSError, in one
    sentence.
    """
    if not (folder / "settings.json").exists():
        raise FileNotFoundError(f"there is no study in {folder}; name the results folder of one")
    table = read_json(folder / "settings.json")
    plan = make_plan(read_settings(table | {"families": table["families"] or None}))
    first = next(iter(plan.configurations))
    tables = (pd.read_parquet(folder / f"{name}.parquet") for name in ("trials", "references"))
    trials, references = (table[table["configuration"] == first] for table in tables)
    full = compare.full_data(references, plan.settings.reference)
    pairs = published.beside(compare.accuracies(trials), full, plan.dataset.name)
    for number, row in enumerate(pairs.to_dict("records")):
        differing = published.differing(plan, pairs.iloc[[number]])
        why = [f"{name}: {ours}, not {theirs}" for name, ours, theirs in differing]
        why += ["the published figure is from memory"] if row["tag"] == "unverified" else []
        ipc = "" if pd.isna(row["ipc"]) else row["ipc"]
        numbers = (f"{100 * row[name]:.1f}" for name in ("published", "accuracy", "difference"))
        cells = plan.dataset.name, row["method"], ipc, *numbers, "; ".join(why) or "nothing differs"
        yield f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str]) -> None:
    """Write docs/fidelity.md from results folders; on an error, print one sentence."""
    if not arguments:
        sys.exit("usage: python -m ddlib.study.fidelity RESULTS...")
    try:
        lines = [row for folder in arguments for row in rows(from_root(folder))]
        text = HEAD.format(folders=" ".join(arguments)) + "\n".join(lines) + "\n"
        write_atomically(from_root("docs/fidelity.md"), text.encode())
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
