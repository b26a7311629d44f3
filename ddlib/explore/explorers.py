"""Write the pictures of the README and notebook 05, drawn from the findings.

Run `python -m ddlib.explore.explorers notebooks/images`.
"""

import sys
from pathlib import Path

import numpy as np

from ddlib.explore.coverage import CoverageExplorer
from ddlib.explore.ipc import IpcExplorer
from ddlib.explore.planner import Planner
from ddlib.explore.tables import Tables, findings
from ddlib.figures import scaling
from ddlib.figures.render import mime_bundle, small
from ddlib.files import write_atomically
from ddlib.stats import laws, verdicts

METHODS = ("dc", "dm", "mtt", "mgd3", "random", "herding")  # the last two are real samples


def gap_against_k(tables: Tables):
    """Return the figure of the gap against k for METHODS in a study."""
    trials = tables.gaps[tables.gaps["method"].isin(METHODS)]
    trials = trials[trials["configuration"] == tables.configurations[0]]
    fits = laws.fit_table(trials, "gap_error")
    ks = np.geomspace(min(tables.sizes), 2 * max(tables.sizes), 60)
    curves = verdicts.curves(fits, ks).query("law == 'inverse_sqrt'")
    gaps = trials.rename(columns={"gap_error": "gap"})
    return scaling.gap_against_k(gaps, curves, verdicts.floors(fits), "gap in error (fraction)")


def write_pictures(folder: Path) -> None:
    """Write the pictures of the README and of notebook 05 to `folder`."""
    studies = findings()
    kinds = {"ipc": IpcExplorer, "coverage": CoverageExplorer, "planner": Planner}
    specs = {f"explore_{name}": kind(studies).spec for name, kind in kinds.items()}
    specs["gap_against_k"] = gap_against_k(studies[0]).to_dict()
    for name, spec in specs.items():
        png = small(mime_bundle(spec)[0]["image/png"])
        write_atomically(folder / f"{name}.png", png)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ddlib.explore.explorers FOLDER")
    write_pictures(Path(sys.argv[1]))
