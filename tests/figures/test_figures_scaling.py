"""The figures carry every row of their tables, and say what a log axis cannot show."""

import io
import warnings
from itertools import product

import altair as alt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ddlib.figures import prediction, render, style
from ddlib.figures import scaling as charts
from ddlib.stats import laws, verdicts

KS = (10, 50, 100, 200, 500, 1000)
METHODS = ("random", "herding", "DM", "DC")


@pytest.fixture
def gaps() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (method, k, seed, (1 - 0.2 * i) * k**-0.5 * rng.uniform(0.9, 1.1) + 0.02)
        for (i, method), k, seed in product(enumerate(METHODS), KS, range(5))
    ]
    return pd.DataFrame(rows, columns=["method", "k", "seed", "gap"])


@pytest.fixture(scope="module")
def fits() -> dict[str, laws.Fits]:
    """Return fits of a/√k + 0.02, which survive, and of 1/k for DC, which fail."""
    noise = np.random.default_rng(0).normal(0, 0.002, (5, len(KS)))
    root = pd.DataFrame(np.array(KS) ** -0.5 + 0.02 + noise, columns=KS)
    falls = pd.DataFrame(1 / np.array(KS) + 0.02 + noise / 10, columns=KS)
    return {name: laws.fit_all(falls if name == "DC" else root, draws=50) for name in METHODS}


def fitted(gaps: pd.DataFrame) -> dict[str, laws.Fits]:
    return laws.fit_table(gaps.assign(gap_error=gaps["gap"], status="ok"), "gap_error", draws=20)


def drawn(chart) -> tuple[pd.DataFrame, list[float]]:
    """Return the table of a figure of gaps, and the ends of its axis."""
    spec = chart.to_dict()
    table = pd.DataFrame(next(iter(spec["datasets"].values())))
    return table, spec["spec"]["layer"][1]["encoding"]["y"]["scale"]["domain"]


def test_every_seed_every_mean_and_every_curve_is_drawn(gaps, fits):
    table, _ = drawn(charts.gap_against_k(gaps, fits, "gap", "gap"))
    counts = table["kind"].value_counts().to_dict()
    assert counts == {"seed": 120, "mean": 24, "curve": 4 * 60, "floor": 3}
    seeds = table[table["kind"] == "seed"]
    np.testing.assert_allclose(seeds["value"].sort_values(), gaps["gap"].sort_values())
    assert set(seeds["shape"]) == {"circle"}


def test_gaps_that_a_log_axis_cannot_show_are_marked_and_counted(gaps, fits):
    gaps.loc[(gaps["method"] == "DM") & (gaps["k"] == 1000), "gap"] = [-0.1, -0.02, 0, 0, 0.05]
    gaps.loc[(gaps["method"] == "DC") & (gaps["k"] == 1000) & (gaps["seed"] == 0), "gap"] = 1e-9
    gaps.loc[0, "gap"] = np.nan
    table, (bottom, top) = drawn(charts.gap_against_k(gaps, fits, "gap", "gap"))
    assert top / bottom < 1000  # the one of 1e-9 does not stretch the axis
    dots = table[table["kind"].isin(["seed", "mean"])]
    assert dots["gap"].between(bottom, top).all()  # each has a place within its panel
    below = dots[dots["shape"] == "triangle-down"]
    assert below["value"].round(9).tolist() == [-0.1, -0.02, 0, 0, 1e-9, -0.014]
    start = f"survives\nfloor {fits['DM']['inverse_sqrt'].parameters['c']:.2g}\n30 trials"
    assert start.startswith("survives\nfloor 0.0")
    assert set(table["panel"]) == {
        f"random: {start}, 1 without a gap",
        f"herding: {start}",
        f"DM: {start}, ▼ 4 below the axis (4 ≤ 0)",
        "DC: fails\n30 trials, ▼ 1 below the axis (0 ≤ 0)",
    }


def test_a_band_ends_at_the_edge_of_the_axis(gaps):
    low = gaps.assign(gap=gaps["gap"] - 0.06)
    table, (bottom, _) = drawn(charts.gap_against_k(low, fitted(low), "gap", "gap"))
    curve = table[table["kind"] == "curve"]
    assert len(curve) < 4 * 60  # what lies below 0 as a whole has no place
    assert curve["low"].min() == pytest.approx(bottom / 10)


def test_a_method_without_any_gap_keeps_its_panel(gaps):
    gaps.loc[gaps["method"] == "DC", "gap"] = np.nan
    table, _ = drawn(charts.gap_against_k(gaps, fitted(gaps), "gap", "gap"))
    assert "DC: undecided\n30 trials, 30 without a gap" in set(table["panel"])


def test_networks_of_one_seed_are_averaged_and_its_curve_needs_no_interval(gaps):
    one = gaps.query("method == 'DM' and seed == 0")
    twice = pd.concat([one, one.assign(gap=one["gap"] + 0.02)])  # two networks on each set
    table, _ = drawn(charts.gap_against_k(twice, fitted(twice), "gap", "gap"))
    assert table["kind"].value_counts().to_dict() == {"curve": 60, "seed": 6, "mean": 6}
    seeds = table[table["kind"] == "seed"]["gap"]
    np.testing.assert_allclose(seeds, one["gap"] + 0.01)
    assert table["panel"].iloc[0].endswith("\n12 trials")


def test_a_log_axis_has_labels_however_narrow_it_is():
    assert style.log_ticks(0.05, 3) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    assert style.log_ticks(0.15, 0.5) == [0.2, 0.3, 0.4, 0.5]
    assert style.log_ticks(0.115, 0.145) == [0.12, 0.13, 0.14]
    assert style.log_ticks(8.515, 8.535) == [8.52, 8.53]


def test_the_axis_of_predictions_holds_gaps_that_are_all_negative():
    table = pd.DataFrame({"method": "dm", "k": [10, 100], "gap": [-0.03, -0.01]})
    held = prediction.axes(table, log=False)
    assert (held.bottom, held.top) == (-0.03, 0)


def test_rivals_are_drawn_with_their_aic(gaps):
    gaps = gaps[gaps["method"].isin(["DM", "DC"])]
    fits = fitted(gaps)
    one_seed = gaps.query("method == 'DC' and seed == 0").pivot_table("gap", "seed", "k")
    fits["DC"] |= {"inverse": laws.fit(one_seed, "inverse")}  # no AIC
    spec = charts.rivals(gaps, fits, "gap", "gap").to_dict()
    left, right = (pd.DataFrame(rows) for rows in spec["datasets"].values())
    assert left[left["gap"].notna()]["formula"].isna().sum() == 2 * 6  # the means
    assert len(left) <= 2 * 6 * 60 + 2 * 6 + 2
    assert right["formula"].tolist() == 2 * [law.formula for law in laws.LAWS.values()]
    summary = verdicts.summary(fits)
    assert right["text"][summary["aic"].isna()].tolist() == ["no AIC"]
    kept = summary["delta_aic"].notna()
    np.testing.assert_allclose(
        right["text"][kept].astype(float), summary["delta_aic"][kept].astype(float), atol=0.05
    )
    render.mime_bundle(spec)
    assert "Not drawn" not in str(spec["title"]["subtitle"])
    gaps.loc[gaps["k"] == 1000, "gap"] = -0.01
    spec = charts.rivals(gaps, fits, "gap", "gap").to_dict()
    lost = "Not drawn: 2 of 12 means, at or below 0 or below the axis."
    assert spec["title"]["subtitle"][-1] == lost
    gaps.loc[gaps["method"] == "DC", "gap"] = -0.01
    left, right = charts.rivals(gaps, fits, "gap", "gap").to_dict()["datasets"].values()
    methods = [{row["method"] for row in rows} for rows in (left, right)]
    assert methods[0] == methods[1]  # their panels stay side by side


def test_a_method_keeps_its_colour():
    colours = style.method_colours(pd.Series(["DM", "dc", "DM"]))
    assert colours == {"DM": style.METHOD_COLOURS["dm"], "dc": style.METHOD_COLOURS["dc"]}
    names = ["ncfm", "datm", "dm_factor_2", "a", "random"]
    together = style.method_colours(pd.Series(names))
    for name in names:  # whatever else is in the figure
        assert style.method_colours(pd.Series([name])) == {name: together[name]}
    assert len(set(together.values())) == 5


def test_the_renderer_gives_jupyterlab_its_mime_type_and_everyone_a_picture(gaps, fits):
    with alt.renderers.enable("default"):  # restored at the end
        render.enable()
        data, metadata = charts.gap_against_k(gaps, fits, "gap", "gap")._repr_mimebundle_()
    assert set(data) == {"application/vnd.vegalite.v5+json", "image/png", "text/plain"}
    assert data["application/vnd.vegalite.v5+json"]["$schema"].endswith("/v5.json")
    size = metadata["image/png"]
    assert Image.open(io.BytesIO(data["image/png"])).size == (2 * size["width"], 2 * size["height"])
    assert size["width"] <= 1000


def test_warnings_in_a_notebook_name_no_path(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restored at the end
    with alt.renderers.enable("default"):
        render.enable()
    text = warnings.formatwarning("3 files were skipped", UserWarning, "/home/me/load.py", 12)
    assert text == "UserWarning: 3 files were skipped\n"
