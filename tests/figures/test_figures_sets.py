"""Distilled sets as points: every panel has all of D, and the sizes stay few."""

import numpy as np
import pandas as pd

from ddlib.figures import render, sets


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
    assert "50% and 25% of their variance" in " ".join(spec["title"]["subtitle"])
    render.mime_bundle(spec)
