"""The figures carry every row of their tables, and say what a log axis cannot show."""

import base64
import io
import subprocess
import sys

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ddlib.figures import render, style
from ddlib.figures import scaling as charts
from ddlib.stats import laws, verdicts

KS = (10, 50, 100, 200, 500, 1000)
METHODS = ("random", "herding", "DM", "DC")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(*pixels: tuple[int, int, int]) -> str:
    """Return the data URL of a square PNG."""
    image, file = Image.new("RGB", (round(len(pixels) ** 0.5),) * 2), io.BytesIO()
    image.putdata(pixels)
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def gaps() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (method, k, seed, (1 - 0.2 * i) * k**-0.5 * rng.uniform(0.9, 1.1) + 0.02)
        for i, method in enumerate(METHODS)
        for k in KS
        for seed in range(5)
    ]
    return pd.DataFrame(rows, columns=["method", "k", "seed", "gap"])


@pytest.fixture
def curves(gaps) -> pd.DataFrame:
    table = gaps.groupby(["method", "k"], as_index=False)["gap"].mean()
    return table.assign(low=table["gap"] * 0.9, high=table["gap"] * 1.1)


@pytest.fixture
def floors() -> pd.DataFrame:
    judged = {"method": METHODS, "outcome": "survives", "floor": 0.02, "low": 0.01, "high": 0.03}
    return pd.DataFrame(judged)


@pytest.fixture
def summary() -> pd.DataFrame:
    names = list(style.STYLES)
    one = pd.DataFrame(
        {
            "law": names,
            "delta_aic": pd.array([0, 1.5, 7, 85, 21, None], dtype="Float64"),
            "loo_error": pd.array([0.01, 0.02, 0.03, 0.1, 0.04, None], dtype="Float64"),
            "r2": 0.97,
            "r2_null": 0.93,
            "identifiable": [True, False, True, True, True, False],
        }
    )
    return pd.concat([one.assign(method=method) for method in METHODS], ignore_index=True)


def rows_of(spec: dict, *columns: str) -> list[dict]:
    """Return the rows of every data set of a specification that has all of these columns."""
    tables = [table for table in spec["datasets"].values() if table]
    return [row for table in tables if set(columns) <= set(table[0]) for row in table]


def headings(spec: dict) -> dict[str, str]:
    panels = [panel["title"] for panel in spec["concat"]]
    return {panel["text"]: " ".join(panel["subtitle"]) for panel in panels}


def test_every_seed_and_every_mean_is_a_point(gaps, curves, floors):
    spec = charts.gap_against_k(gaps, curves, floors, "gap in test error (fraction)").to_dict()
    shown = pd.DataFrame(rows_of(spec, "seed"))
    pd.testing.assert_series_equal(
        shown["value"].sort_values(ignore_index=True),
        gaps["gap"].sort_values(ignore_index=True),
        check_names=False,
    )
    assert len([row for row in rows_of(spec, "value") if "seed" not in row]) == 24  # 4 methods, 6 k
    assert not shown["below"].any()
    titles = {layer["encoding"]["y"]["title"] for p in spec["concat"] for layer in p["layer"]}
    assert titles == {"gap in test error (fraction), log scale"}


def test_gaps_that_a_log_axis_cannot_show_are_marked_and_counted(gaps, curves, floors):
    gaps.loc[(gaps["method"] == "DM") & (gaps["k"] == 1000), "gap"] = [-0.1, -0.02, 0, 0, 0.05]
    gaps.loc[(gaps["method"] == "DC") & (gaps["k"] == 1000) & (gaps["seed"] == 0), "gap"] = 1e-9
    spec = charts.gap_against_k(gaps, curves, floors, "gap").to_dict()
    shown = pd.DataFrame(rows_of(spec, "seed"))
    domain = spec["concat"][0]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert len(shown) == 120
    assert shown.loc[shown["below"], "value"].tolist() == [-0.1, -0.02, 0, 0, 1e-9]
    assert shown["gap"].between(*domain).all()  # each has a place within the panel
    assert "30 trials, ▼ 4 below the axis (4 ≤ 0)" in headings(spec)["DM"]
    assert "30 trials, ▼ 1 below the axis (0 ≤ 0)" in headings(spec)["DC"]
    assert "below" not in headings(spec)["random"]
    means = pd.DataFrame([row for row in rows_of(spec, "value") if "seed" not in row])
    assert means.loc[means["below"], ["method", "k"]].to_numpy().tolist() == [["DM", 1000]]


def test_one_tiny_gap_does_not_stretch_the_axis(gaps, curves, floors):
    def decades(table):
        spec = charts.gap_against_k(table, curves, floors, "gap").to_dict()
        low, high = spec["concat"][0]["layer"][0]["encoding"]["y"]["scale"]["domain"]
        return np.log10(high / low)

    tiny = gaps.assign(gap=gaps["gap"].where(gaps.index != 119, 1e-9))
    assert decades(tiny) < decades(gaps) + 1


def test_bands_end_at_the_edge_and_lines_stop_where_the_fit_is_not_positive(gaps, curves, floors):
    last = (curves["method"] == "DM") & (curves["k"] == 1000)
    curves.loc[last, ["gap", "low"]] = [-0.01, -0.05]
    spec = charts.gap_against_k(gaps, curves, floors, "gap").to_dict()
    panel = next(p for p in spec["concat"] if p["title"]["text"] == "DM")
    marks = {layer["mark"]["type"]: layer for layer in panel["layer"] if layer["mark"].get("clip")}
    band = spec["datasets"][marks["area"]["data"]["name"]]
    line = spec["datasets"][marks["line"]["data"]["name"]]
    bottom = marks["area"]["encoding"]["y"]["scale"]["domain"][0]
    assert [row["k"] for row in band] == list(KS)
    assert 0 < band[-1]["gap"] < bottom
    assert [row["k"] for row in line] == list(KS[:-1])


def test_floors_missing_trials_and_missing_fits_are_told(gaps, curves, floors):
    gaps.loc[[0, 1], "gap"] = np.nan
    floors.loc[floors["method"] == "DM", ["floor", "low", "high"]] = [-0.01, -0.02, 0.004]
    floors.loc[floors["method"] == "DC", ["outcome", "floor"]] = ["fails", np.nan]
    curves = curves[curves["method"] != "DC"]
    spec = charts.gap_against_k(gaps, curves, floors, "gap").to_dict()
    told = headings(spec)
    survives = "a/√k + c: survives, floor"
    assert told["random"] == f"{survives} 0.02 (0.01 to 0.03) 30 trials, 2 without a gap"
    assert told["DM"] == f"{survives} −0.01 (−0.02 to 0.004), below the axis 30 trials"
    assert told["herding"] == f"{survives} 0.02 (0.01 to 0.03) 30 trials"
    assert told["DC"] == "a/√k + c: fails 30 trials"
    rules = {
        panel["title"]["text"]: sum(layer["mark"]["type"] == "rule" for layer in panel["layer"])
        for panel in spec["concat"]
    }
    assert rules == {"random": 1, "herding": 1, "DM": 0, "DC": 0}


def test_rivals_shows_every_law_of_every_method(gaps, curves, summary):
    curves = pd.concat([curves.assign(law=law) for law in style.STYLES], ignore_index=True)
    spec = charts.rivals(gaps, curves, summary, "gap in test error (fraction)").to_dict()
    assert len(rows_of(spec, "law", "gap")) == 6 * 24
    evidence = pd.DataFrame(
        spec["datasets"][spec["vconcat"][0]["hconcat"][1]["layer"][1]["data"]["name"]]
    )
    assert evidence["value"].tolist() == ["0.0", "1.5", "7.0", "85.0", "21.0", "no AIC"]
    assert evidence["far"].tolist() == [False, False, False, True, True, False]
    assert evidence["shown"].max() == charts.AIC_EDGE
    assert evidence["fit"].tolist() == ["0.970 (0.93)"] * 6
    assert (evidence["fill"] == "white").tolist() == [False, True, False, False, False, True]
    lines = spec["vconcat"][0]["hconcat"][0]["layer"][0]["encoding"]["color"]["scale"]
    colours = dict(zip(lines["domain"], lines["range"], strict=True))
    assert evidence["ink"].tolist() == [colours[label] for label in evidence["label"]]


def test_charts_know_the_laws_and_take_their_tables_as_they_come(gaps, summary):
    assert set(style.STYLES) == set(laws.LAWS)
    methods = ("DM", "DC")
    gaps = gaps[gaps["method"].isin(methods)]
    fits = {
        method: laws.fit_all(table.pivot(index="seed", columns="k", values="gap"), draws=20)
        for method, table in gaps.groupby("method")
    }
    chosen = {method: fits[method] for method in methods}
    curves, table = verdicts.curves(chosen, KS), verdicts.summary(chosen)
    spec = charts.rivals(gaps, curves, table, "gap").to_dict()
    assert len(rows_of(spec, "loo", "fit")) == 12


def test_pictures_become_a_grid():
    rows = [
        (m, 2 * i, i, c, picture(RED)) for m in METHODS for i in (1, 10) for c in ("cat", "dog")
    ]
    pictures = pd.DataFrame(rows, columns=["method", "k", "ipc", "class_name", "url"])
    spec = charts.distilled_images(pictures).to_dict()
    assert len(rows_of(spec, "url")) == 16
    assert [block["title"]["text"] for block in spec["concat"]] == list(METHODS)
    for block in spec["concat"]:
        assert block["mark"]["smooth"] is False
        assert block["encoding"]["y"]["sort"] == ["k = 2", "k = 20"]
        assert block["encoding"]["x"]["sort"] == ["cat", "dog"]
    with pytest.raises(ValueError, match="several pictures of class cat for random at k=2"):
        charts.distilled_images(pd.concat([pictures, pictures.head(1)]))


def test_pictures_reach_the_png_with_sharp_pixels():
    row = {"method": "DM", "k": 1, "ipc": 1, "class_name": "0"}
    table = pd.DataFrame([row | {"url": picture(RED, BLUE, BLUE, RED)}])
    png = render.mime_bundle(charts.distilled_images(table).to_dict())[0]["image/png"]
    colours = {colour: n for n, colour in Image.open(io.BytesIO(png)).getcolors(1 << 16)}
    # A side of 62 pixels at scale 2, half of them red and half blue: nothing was blended.
    assert colours[RED] == colours[BLUE] == 124 * 124 / 2


def test_a_method_keeps_its_colour():
    assert style.method_colours(pd.Series(["DM", "dc", "DM"])) == {
        "DM": style.METHOD_COLOURS["dm"],
        "dc": style.METHOD_COLOURS["dc"],
    }
    both = style.method_colours(pd.Series(["b", "a", "random"]))
    assert both == style.method_colours(pd.Series(["random", "a", "b"]))
    assert len(set(both.values())) == 3


def test_the_renderer_gives_jupyterlab_its_mime_type_and_everyone_a_picture(gaps, curves, floors):
    render.enable()
    try:
        data, metadata = charts.gap_against_k(gaps, curves, floors, "gap")._repr_mimebundle_()
    finally:
        alt.renderers.enable("default")
    assert set(data) == {"application/vnd.vegalite.v5+json", "image/png", "text/plain"}
    assert data["application/vnd.vegalite.v5+json"]["$schema"].endswith("/v5.json")
    size = metadata["image/png"]
    assert Image.open(io.BytesIO(data["image/png"])).size == (2 * size["width"], 2 * size["height"])
    assert size["width"] <= 1000


def test_charts_need_no_torch():
    code = "import sys, ddlib.figures.scaling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
