"""The tables of a study that ended, from its results folder or from the example: to explore.

`python -m ddlib.explore.tables example FOLDER...` makes the example that comes with the
library from the results folders of notebooks 02 and 03 under their `digits.yaml`.
"""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ddlib.distilled import load_distilled, png, png_address
from ddlib.files import from_root, write_atomically
from ddlib.stats import covers
from ddlib.study.settings import Settings, read_settings

EXAMPLE = Path(__file__).parents[1] / "example"
CLASSES, COPIES = 10, 5  # on a sheet, at most: columns and rows
SHEET_PIXELS = 270  # a sheet is enlarged to about this width or height, pixels kept square
PAPER = 128  # grey between the images of a sheet
DISTANCES, SHEETS = "distances.parquet", "sheets.parquet"


@dataclass(frozen=True, eq=False)
class Tables:
    """What a study left, as `ddlib.study.results.Result` has it, without its data and networks.

    folder: where it is, absolute; trials, references: its tables; distances: (C, C) between
    predictions, None where notebook 03 did not run on it; noise: the distance that seeds alone
    reach; sheets: {(method, ipc): a PNG, or the file of the distilled set}, of the first seed.
    """

    folder: Path
    settings: Settings
    trials: pd.DataFrame
    references: pd.DataFrame
    distances: pd.DataFrame | None
    noise: float
    sheets: Mapping[tuple[str, int], bytes | Path] = field(repr=False)

    def name(self, parts: int = 2) -> str:
        """Return how readers call it: its data, and the last parts of its folder."""
        return f"{self.trials['data'].iloc[0]}: {Path(*self.folder.parts[-parts:]).as_posix()}"

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(self.trials["method"]))

    @property
    def ipcs(self) -> list[int]:
        return sorted(self.trials["ipc"].unique().tolist())

    @property
    def sizes(self) -> list[int]:
        """The k that were measured, ascending."""
        return sorted(self.trials["k"].unique().tolist())

    @cached_property
    def resolution(self) -> float:
        """The smallest difference between test errors: one test image, unless trials are few.

        0 where all errors are the same.
        """
        errors = pd.concat([self.trials["error"], self.references["error"]]).dropna()
        steps = np.diff(np.sort(errors))
        return float(min(steps[steps > 1e-9], default=0.0))  # less is rounding

    @property
    def class_count(self) -> int:
        return int(self.trials["k"].iloc[0] // self.trials["ipc"].iloc[0])

    @cached_property
    def configurations(self) -> list[str]:
        """Those with a gap: some seed's network trained on all data ended well.

        Of a seed whose network did not, gaps are missing (NaN).
        """
        ended = self.full["configuration"][self.full["status"] == "ok"]
        known = dict.fromkeys(self.trials["configuration"])
        return [name for name in known if name in set(ended)]

    @property
    def full(self) -> pd.DataFrame:
        """The networks trained on all data that gaps are measured from."""
        return self.references[self.references["reference"] == self.settings.reference]

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """The trials of `configurations`."""
        return self.trials[self.trials["configuration"].isin(self.configurations)]

    @cached_property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The families of the study: all, nested and other, and those of equal size."""
        known = self.configurations if self.distances is None else list(self.distances.index)
        found = {"all configurations": tuple(known)}
        for name, family in self.settings.families.items():
            if members := tuple(each for each in family.members if each in known):
                found[name] = members
        return found | self.spread[0]

    @cached_property
    def spread(self) -> tuple[dict[str, tuple[str, ...]], str]:
        """The families of equal size, and why there are none; empty where none were asked for."""
        if not self.settings.spread or self.distances is None:
            return {}, ""
        try:
            return covers.spread_families(self.distances, **vars(self.settings.spread)), ""
        except ValueError as reason:  # failures leave too few configurations
            return {}, f"no families of equal size: {reason}"

    def sheet(self, method: str, ipc: int) -> bytes | None:
        """Return a PNG of the distilled images, a column a class; None where there are none."""
        found = self.sheets.get((method, ipc))
        return _drawn(found) if isinstance(found, Path) else found

    def sheet_address(self, method: str, ipc: int) -> str | None:
        """Return the sheet as a data address, enlarged with its pixels kept square."""
        sheet = self.sheet(method, ipc)
        if sheet is None:
            return None
        image = Image.open(BytesIO(sheet))
        return png_address(image, max(1, round(SHEET_PIXELS / max(image.size))))


def read(folder: str | Path) -> Tables:
    """Return the tables in a study's results folder, such as "results/scaling_law/quick".

    A path counts from the project's root. Raises FileNotFoundError, in one sentence, where no
    study has ended, ValueError where a table is empty or another version left the settings or the
    gaps.
    """
    folder = from_root(str(folder))
    needed = [folder / name for name in ("settings.json", "trials.parquet", "references.parquet")]
    needed += [] if (folder / SHEETS).is_file() else [folder / "costs.parquet"]
    if missing := [path.name for path in needed if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} holds no finished study ({missing[0]} is not there); give the results "
            "folder of a notebook that ran to its end"
        )
    try:
        settings = read_settings(json.loads(needed[0].read_text()))
    except ValueError as error:
        raise ValueError(
            f"this version of ddlib cannot read the study in {folder} ({error}); run its notebook "
            "again"
        ) from None
    trials, references = map(pd.read_parquet, needed[1:3])
    if trials.empty:
        raise ValueError(f"the study in {folder} has no trials; run its notebook again")
    if "gap_error_same_steps" not in trials or "reference" not in references:
        raise ValueError(
            f"the gaps in {folder} were measured from the mean of all networks on all data, as an "
            "older ddlib did; run its notebook again"
        )
    told = *_distances(folder / DISTANCES), _sheets(folder)
    return Tables(folder.resolve(), settings, trials, references, *told)


def example() -> list[Tables]:
    """Return the example: notebooks 02 and 03 under their `digits.yaml`, as they ran."""
    return [read(EXAMPLE / notebook / "digits") for notebook in ("methods", "coverage_law")]


def named(studies: Sequence[Tables]) -> dict[str, Tables]:
    """Return studies by their names, each as long as it takes to tell it from all others.

    Raises ValueError where a folder was given twice.
    """
    counts = Counter(study.folder for study in studies)
    if twice := [folder for folder, count in counts.items() if count > 1]:
        raise ValueError(f"the study in {twice[0]} is given twice; give each folder once")
    return {_name(study, studies): study for study in studies}


def _name(study: Tables, studies: Sequence[Tables]) -> str:
    for parts in itertools.count(2):
        name = study.name(parts)
        if [other.name(parts) for other in studies].count(name) == 1:
            return name


def write_distances(folder: Path, distance: pd.DataFrame, noise: float) -> None:
    """Write the distances between configurations and their noise floor into a results folder."""
    table = distance.stack().rename_axis(["first", "second"]).rename("distance").reset_index()
    write_atomically(folder / DISTANCES, table.assign(noise=noise).to_parquet(index=False))


def write_example(folders: list[Path], target: Path = EXAMPLE) -> None:
    """Write what `read` needs of these results folders to `target`, images as small sheets."""
    for folder in folders:
        tables, place = read(folder), target / Path(folder).parent.name / Path(folder).name
        write_atomically(place / "settings.json", (tables.folder / "settings.json").read_bytes())
        for name in ("trials", "references"):
            content = getattr(tables, name).to_parquet(index=False, compression="zstd")
            write_atomically(place / f"{name}.parquet", content)
        if tables.distances is not None:
            write_distances(place, tables.distances, tables.noise)
        rows = [(*key, tables.sheet(*key)) for key in tables.sheets if key[0] in tables.methods]
        sheets = pd.DataFrame(rows, columns=["method", "ipc", "png"])
        write_atomically(place / SHEETS, sheets.to_parquet(index=False))


def _distances(path: Path) -> tuple[pd.DataFrame | None, float]:
    if not path.is_file():
        return None, 0.0
    table = pd.read_parquet(path)
    names = list(dict.fromkeys(table["first"]))
    matrix = table.pivot(index="first", columns="second", values="distance").loc[names, names]
    matrix.index, matrix.columns = names, names
    return matrix, float(table["noise"].iloc[0])


def _sheets(folder: Path) -> dict[tuple[str, int], bytes | Path]:
    if (folder / SHEETS).is_file():
        table = pd.read_parquet(folder / SHEETS)
        return {(method, ipc): png for method, ipc, png in table.itertuples(index=False)}
    costs = pd.read_parquet(folder / "costs.parquet")
    if "set" not in costs:
        return {}  # of a version that did not say which files are its own
    first = costs[costs["seed"] == 0].drop_duplicates(["method", "ipc"])
    named = first[["method", "ipc", "set"]].itertuples(index=False)
    files = {(method, ipc): folder / "distilled" / name for method, ipc, name in named}
    return {key: path for key, path in files.items() if path.is_file()}


def _drawn(path: Path) -> bytes:
    """Draw a distilled set: a column a class, a row an image of it, a pixel of grey between."""
    synthetic = load_distilled(path)
    pixels = synthetic.pixels().numpy()  # (k, H, W, channels), grouped by class
    height, width, channels = pixels.shape[1:]
    grid = pixels.reshape(-1, synthetic.ipc, height, width, channels)[:CLASSES, :COPIES]
    grid = np.pad(grid, ((0, 0), (0, 0), (1, 0), (1, 0), (0, 0)), constant_values=PAPER)
    sheet = grid.transpose(1, 2, 0, 3, 4).reshape(grid.shape[1] * (height + 1), -1, channels)
    return png(Image.fromarray(np.squeeze(sheet, -1) if channels == 1 else sheet))


def main(arguments: list[str]) -> None:
    """Run `python -m ddlib.explore.tables example FOLDER...`."""
    if arguments[:1] != ["example"] or len(arguments) < 2:
        sys.exit("usage: python -m ddlib.explore.tables example RESULTS_FOLDER...")
    try:
        write_example([Path(folder) for folder in arguments[1:]])
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
