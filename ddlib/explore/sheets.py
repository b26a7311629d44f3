"""Contact sheets: the distilled images of a method at one size, in one small picture."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image, ImageChops

from ddlib.figures.sets import png_address
from ddlib.figures.style import panels

CLASSES, COPIES = 10, 5  # the most columns and rows
PAPER = 128  # the grey between images
SHOWN = 48  # pixels of an image on the screen
SMALL, LARGEST, QUALITY = 32, 10, 50  # of findings: pixels, samples per class, quality of JPEG
SHEETS = "sheets.parquet"


def find(folder: Path, costs: pd.DataFrame) -> dict[tuple[str, int], bytes | Path]:
    """Return the sheets of the first seed by (method, ipc): pictures, or files to `draw`.

    A study keeps its distilled sets, whose names are in `costs`; findings keep pictures.
    """
    if (folder / SHEETS).is_file():
        table = pd.read_parquet(folder / SHEETS)
        return {(method, ipc): picture for method, ipc, picture in table.itertuples(index=False)}
    first = costs[costs["seed"] == 0] if len(costs) else costs
    files = {(row.method, row.ipc): folder / "distilled" / row.set for row in first.itertuples()}
    return {key: path for key, path in files.items() if path.is_file()}


def draw(path: Path) -> bytes | None:
    """Draw the images in the file of a set as a PNG, a column per class; None for other samples."""
    return _encoded(_grid(path, COPIES), "PNG")


def small(contents: Mapping[tuple[str, int], bytes | Path]) -> pd.DataFrame:
    """Return the sheets of a finding, one row each: method, ipc, picture (JPEG).

    contents: as from `find`; pictures stay as they are. A sheet shows one image of each class at
    about SMALL pixels. There is one of the smallest size, and one of the largest up to LARGEST.
    """
    sizes = {min((ipc for _, ipc in contents), default=0)}
    sizes.add(max((ipc for _, ipc in contents if ipc <= LARGEST), default=0))
    rows = []
    for (method, ipc), content in contents.items():
        if isinstance(content, bytes):
            rows.append((method, ipc, content))
        elif ipc in sizes:
            rows.append((method, ipc, _encoded(_grid(content, 1), "JPEG", SMALL)))
    return pd.DataFrame(rows, columns=["method", "ipc", "picture"]).dropna()


def _grid(path: Path, copies: int) -> np.ndarray | None:
    """Return images of a set: (copies, classes, side + 1, side + 1, channels), grey lines between.

    Images that are not square become so by grey borders.
    """
    from ddlib.distilled import load_distilled  # loads torch, which findings do not need

    synthetic = load_distilled(path)
    if synthetic.samples.ndim != 4:
        return None
    pixels = synthetic.pixels().numpy()  # (k, H, W, channels), grouped by class
    grid = pixels.reshape(-1, synthetic.ipc, *pixels.shape[1:])[:CLASSES, :copies].swapaxes(0, 1)
    borders = ((1 + max(grid.shape[2:4]) - length, 0) for length in grid.shape[2:4])
    return np.pad(grid, ((0, 0), (0, 0), *borders, (0, 0)), constant_values=PAPER)


def _encoded(grid: np.ndarray | None, kind: str, most: int | None = None) -> bytes | None:
    """Return a grid as one picture; most: pixels of an image, above which it is made smaller."""
    if grid is None:
        return None
    rows, columns, height, width, channels = grid.shape
    sheet = grid.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(np.squeeze(sheet, -1) if channels == 1 else sheet)
    picture = picture.reduce(max(1, height // most)) if most else picture
    file = BytesIO()
    picture.save(file, kind, quality=QUALITY, optimize=True)
    return file.getvalue()


def strip(picture: bytes, columns: int, start: bytes | None = None) -> str:
    """Return the first image of each class in a sheet as a data address, for a chart.

    start: a sheet to subtract. Half the difference is shown, about grey.
    """
    first, *others = (Image.open(BytesIO(sheet)) for sheet in (picture, start) if sheet)
    for other in others:
        first = ImageChops.subtract(first, other, scale=2, offset=PAPER)
    return png_address(first.crop((0, 0, first.width, first.width // columns)))


def strips(addresses: pd.DataFrame, columns: int) -> alt.FacetChart:
    """Draw strips of images, one below the other; addresses: columns method, url."""
    size = {"width": SHOWN * columns, "height": SHOWN}
    image = alt.Chart(addresses, **size).mark_image(smooth=False, **size)
    image = image.encode(x=alt.value(size["width"] / 2), y=alt.value(SHOWN / 2), url="url:N")
    return panels(image, "method", addresses["method"], columns=1).properties(spacing=4)
