"""Contact sheets: the distilled images of a method at one size, in one small PNG."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

CLASSES, COPIES = 10, 5  # the most columns and rows
PAPER = 128  # the grey between images
SHEETS = "sheets.parquet"


def find(folder: Path) -> dict[tuple[str, int], bytes | Path]:
    """Return the sheets of the first seed by (method, ipc): PNGs, or files to `draw`.

    A study keeps its distilled sets; the example keeps PNGs.
    """
    if (folder / SHEETS).is_file():
        table = pd.read_parquet(folder / SHEETS)
        return {(method, ipc): png for method, ipc, png in table.itertuples(index=False)}
    costs = pd.read_parquet(folder / "costs.parquet", columns=["method", "ipc", "seed", "set"])
    first = costs[costs["seed"] == 0].itertuples(index=False)
    files = {(row.method, row.ipc): folder / "distilled" / row.set for row in first}
    return {key: path for key, path in files.items() if path.is_file()}


def draw(path: Path) -> bytes | None:
    """Draw the images in the file of a set as a PNG, a column per class; None for other samples."""
    from ddlib.distilled import load_distilled  # loads torch, which the example does not need

    synthetic = load_distilled(path)
    if synthetic.samples.ndim != 4:
        return None
    pixels = synthetic.pixels().numpy()  # (k, H, W, channels), grouped by class
    height, width, channels = pixels.shape[1:]
    grid = pixels.reshape(-1, synthetic.ipc, height, width, channels)[:CLASSES, :COPIES]
    grid = np.pad(grid, ((0, 0), (0, 0), (1, 0), (1, 0), (0, 0)), constant_values=PAPER)
    sheet = grid.transpose(1, 2, 0, 3, 4).reshape(grid.shape[1] * (height + 1), -1, channels)
    file = BytesIO()
    picture = Image.fromarray(np.squeeze(sheet, -1) if channels == 1 else sheet)
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def address(png: bytes) -> str:
    """Return a PNG as a data address, for a chart."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
