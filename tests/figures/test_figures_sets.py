"""Distilled sets as sharp images, and as points: panels have all of D, and sizes stay few."""

import io
from itertools import product

import numpy as np
import pandas as pd
from PIL import Image

from ddlib.figures import render, sets

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_pictures_become_a_grid_of_sharp_pixels():
    image, methods = Image.new("RGB", (2, 2)), ["random", "herding", "DM", "DC"]
    image.putdata([RED, BLUE, BLUE, RED])
    url, places = sets.png_address(image), product(methods, (1, 10), ("cat", "dog"))
    rows = [(method, 2 * ipc, ipc, name, url) for method, ipc, name in places]
    pictures = pd.DataFrame(rows, columns=["method", "k", "ipc", "class_name", "url"])
    spec = sets.distilled_sets(pictures).to_dict()
    assert spec["facet"]["sort"] == methods
    png = render.mime_bundle(spec)[0]["image/png"]
    colours = {colour: n for n, colour in Image.open(io.BytesIO(png)).getcolors(1 << 16)}
    # 16 pictures with sides of 70 pixels, at scale 2, half red and half blue: nothing was blended.
    assert colours[RED] == colours[BLUE] == 16 * 140 * 140 / 2


def test_points_of_four_sizes_are_drawn_over_those_of_d():
    rng, sizes = np.random.default_rng(0), (2, 4, 6, 8, 10)
    rows = [("D", None, None, "ab"[i % 2], *rng.normal(size=2)) for i in range(20)]
    rows += [
        ("S", method, k, name, *rng.normal(size=2))
        for method in ("random", "dm")
        for k in sizes
        for name in "ab" * (k // 2)
    ]
    table = pd.DataFrame(rows, columns=["set", "method", "k", "class_name", "x", "y"])
    table = table.assign(x_share=0.5, y_share=0.25).astype({"k": "Int64"})
    spec = sets.distilled_sets(table).to_dict()
    drawn = spec["datasets"][spec["data"]["name"]]
    assert sorted({row["k"] for row in drawn}) == [2, 4, 8, 10]
    assert len(drawn) == 2 * (2 + 4 + 8 + 10)
    dots, diamonds = spec["spec"]["layer"]
    assert len(spec["datasets"][dots["data"]["name"]]) == 20
    assert "data" not in diamonds
    assert "50% and 25% of its variance" in " ".join(spec["title"]["subtitle"])
    assert spec["title"]["subtitle"][-1].endswith("edges. Shown: 4 of 5 sizes k.")
    render.mime_bundle(spec)


def test_axes_leave_out_what_is_far_away_and_count_it():
    table = pd.DataFrame({"set": ["D"] * 200 + ["S"], "method": None, "k": None, "class_name": "a"})
    table.loc[200, ["method", "k"]] = "dm", 1
    table = table.assign(x=[*range(199), 1e6, 50], y=0.5, x_share=1.0, y_share=0.0)
    chart = sets.distilled_points(table).to_dict()
    low, high = chart["spec"]["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert low < 0
    assert 198 < high < 300
    assert chart["title"]["subtitle"][-1] == "1 of 201 points lie beyond the edges."
