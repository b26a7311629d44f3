import numpy as np
import pandas as pd
import pytest
import vl_convert

from ddlib.figures import coverage as charts
from ddlib.figures import maps


def table_of(spec: dict, column: str) -> pd.DataFrame:
    """Return the table of a chart that has this column."""
    return next(pd.DataFrame(t) for t in spec["datasets"].values() if column in t[0])


def test_the_broad_line_is_the_largest_mean_at_each_k():
    cells = {("a", 10): [0.4, 0.6], ("a", 20): [0.1, 0.3]}
    cells |= {("b", 10): [0.2, 0.2], ("b", 20): [0.3, 0.5]}
    gaps = pd.DataFrame(
        {"method": "dm", "configuration": name, "k": k, "seed": seed, "gap_error": value}
        for (name, k), values in cells.items()
        for seed, value in enumerate(values)
    )
    spec = charts.gaps_by_configuration(gaps).to_dict()
    rows = table_of(spec, "worst").query("worst")
    worst = list(rows[["configuration", "k", "gap_error"]].itertuples(index=False, name=None))
    assert worst == [("a", 10, 0.5), ("b", 20, 0.4)]
    vl_convert.vegalite_to_svg(spec)


def test_a_map_has_the_ball_of_the_centre_and_lines_from_its_members():
    points = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 0.0]}, index=["a", "b", "c"])
    spec = maps.configuration_map(points.assign(centre=["b", "b", None]), 0.8, 1.5).to_dict()
    roles = table_of(spec, "role").set_index("configuration")["role"].to_dict()
    assert roles == {"a": "covered", "b": "centre of a ball", "c": "not in the family"}
    np.testing.assert_allclose(table_of(spec, "x2"), [[0, 0, 1, 1], [1, 1, 1, 1]])
    ball = table_of(spec, "ball")
    np.testing.assert_allclose(np.hypot(ball["x"] - 1, ball["y"] - 1), 1.5)
    assert "1 ball of radius 1.5 covers 3 configurations" in spec["title"]["text"]
    assert "80%" in spec["title"]["subtitle"][0]
    vl_convert.vegalite_to_svg(spec)


def test_balls_and_configurations_are_counted_in_good_grammar():
    assert maps.covered(1, "0.2", 1) == "1 ball of radius 0.2 covers 1 configuration"
    assert maps.covered(2, "0.2", 3) == "2 balls of radius 0.2 cover 3 configurations"


def test_names_on_a_map_that_would_overlap_all_others_are_hidden():
    """Ten dots at one place: six heights are free, so six names; the far one is at the first."""
    points = pd.DataFrame({"x": [*[0.0] * 10, 1.0], "y": 0.0}, index=list("abcdefghijk"))
    spec = maps.cover_map(points.assign(centre="a"), 0.1, 0.1).to_dict()
    heights = table_of(spec, "height").set_index("configuration")["height"]
    assert heights[list("abcdefghij")].dropna().nunique() == heights.dropna().size - 1 == 6
    assert heights["k"] == heights["a"] == -13
    vl_convert.vegalite_to_svg(spec)


def test_each_of_39_configurations_has_its_own_colour_and_dash():
    gaps = pd.DataFrame({"configuration": [f"c{i}" for i in range(39)], "gap_error": 0.1})
    spec = charts.gaps_by_configuration(gaps.assign(method="dm", k=10, seed=0)).to_dict()
    line = spec["spec"]["layer"][0]["encoding"]
    looks = [line[channel]["scale"] for channel in ("color", "strokeDash")]
    names = looks[0]["domain"]
    assert names == looks[1]["domain"]
    assert len({(c, *d) for c, d in zip(*(look["range"] for look in looks), strict=True)}) == 39


def test_steps_of_h_cov_go_on_to_the_end_of_the_axis():
    curves = pd.DataFrame({"family": ["f", "f"], "radius": [0.0, 1.0], "h_cov": [np.log(2), 0.0]})
    spec = charts.h_cov_against_radius(curves, 0.3, pd.Series([0.5, 2.0])).to_dict()
    assert table_of(spec, "end").to_dict("records") == [{"radius": 0.0, "end": 0.3}]
    assert table_of(spec, "h_cov")["radius"].tolist() == [0.0, 1.0, 2.1]
    vl_convert.vegalite_to_svg(spec)


def test_a_k_star_beyond_the_sizes_is_marked_and_its_interval_cut():
    families = ["f", "g", "h", "lost"]
    nan, inf = np.nan, np.inf
    columns = {"family": families, "k_star": [30.0, 100, 10, nan], "raw": [35.0, 100, 10, nan]}
    columns |= {"low": [20.0, 60, 0, nan], "high": [40.0, inf, 12, nan], "seeds": [5, 3, 5, 1]}
    columns |= {"censored": ["", "above the largest k", "below the smallest k", ""]}
    columns |= {"missing_seeds": [0, 2, 0, 4], "missing_sizes": [0, 0, 1, 0]}
    k_stars = pd.DataFrame(columns).assign(epsilon=0.1)
    measures = pd.DataFrame({"h_cov": [0.0, 1.0, 2.0, 3.0], "m": 1}, index=families)
    groups = pd.Series(["one", "one", "two", "two"], index=families)
    axes = {"h_cov": "H", "m": "M"}
    spec = charts.k_star_against(k_stars, measures, axes, groups).to_dict()
    table = table_of(spec, "fitted")
    assert set(table["panel"]) == {"ε = 0.1: k* against H", "ε = 0.1: k* against M"}
    table = table[table["panel"].str.endswith("H")]
    assert table["value"].tolist() == table["at"].tolist() == [0, 1, 2]
    marks = spec["spec"]["layer"][1]["layer"]
    beyond = {m["mark"]["shape"]: m["transform"][0]["filter"] for m in marks if "transform" in m}
    assert {shape: text.split("'")[1] for shape, text in beyond.items()} == {
        "triangle-up": "above",
        "triangle-down": "below",
    }
    assert table[["low", "high"]].to_numpy().tolist() == [[20, 40], [60, 100], [10, 12]]
    assert table["interval"].tolist() == ["30 (20 to 40)", "100 (60 to no bound)", "10 (0 to 12)"]
    assert table["fitted"].isna().all()  # one measured k* makes no line
    assert table["whole"].tolist() == [1, 0, 0]  # hollow where seeds or sizes are missing
    assert spec["title"]["subtitle"][-1] == "No k* for missing trials: lost (ε = 0.1)."
    vl_convert.vegalite_to_svg(spec)
    spec = charts.k_star_against(k_stars.assign(censored=""), measures, axes, groups).to_dict()
    nowhere = k_stars.assign(epsilon=0.01, k_star=nan)  # one goal at which no family has a k*
    both = charts.k_star_against(pd.concat([k_stars, nowhere]), measures, axes, groups).to_dict()
    assert set(table_of(both, "fitted")["epsilon"]) == {0.1}
    lines = table_of(spec, "fitted")
    lines = lines.groupby(lines["panel"].str[-1])["fitted"].agg(list)
    # ln 30, ln 100 and ln 10 fall by (ln 30 - ln 10) / 2 a nat of H, about their mean
    slope, middle = np.log(1 / 3) / 2, np.log(30 * 100 * 10) / 3
    assert np.log(lines["H"]) == pytest.approx(middle + slope * np.array([-1, 0, 1]))
    assert np.isnan(lines["M"]).all()


def test_families_with_equal_values_stand_side_by_side_and_share_a_label():
    columns = {"family": ["one-2", "one-3", "two 1"], "k_star": 10.0, "low": 9.0, "high": 12.0}
    columns |= {"raw": 11.0, "censored": "", "missing_seeds": 0, "missing_sizes": 0}
    measure = pd.Series([1.0, 1.0, 1.0], index=columns["family"])
    groups = pd.Series(["one", "one", "two"], index=columns["family"])
    rows = charts.k_star_rows(pd.DataFrame(columns), measure.add([0, 0, 1]), groups)
    assert rows["at"].iloc[0] == rows["at"].iloc[1] != 1
    assert rows["at"].iloc[2] == 2
    assert rows["label"].tolist() == ["2, 3", "", "1"]


def test_transfer_draws_every_configuration_with_its_interval():
    values = {("one", "a"): 0.1, ("one", "b"): 0.3, ("all", "a"): 0.2, ("all", "b"): 0.2}
    gaps = pd.DataFrame(
        {"method": m, "configuration": c, "k": k, "seed": s, "gap_error": gap + 0.01 * s / k}
        for (m, c), gap in values.items()
        for k in (10, 50, 100)
        for s in range(3)
    )
    spec = charts.transfer(gaps, [10, 100]).to_dict()
    table = table_of(spec, "gap").set_index(["k", "method", "configuration"])
    assert set(table.index) == {(k, *cell) for k in (10, 100) for cell in values}
    row = table.loc[10, "one", "a"]
    half = 0.001 / np.sqrt(3) * 4.302653  # Student t, two degrees of freedom
    assert row["gap"] == pytest.approx(0.101)
    assert row["high"] - row["gap"] == pytest.approx(half, rel=1e-5)
    assert spec["spec"]["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["a", "b"]
    vl_convert.vegalite_to_svg(spec)
    new = gaps[gaps["method"] == "all"].replace({"configuration": {"a": "new"}})  # not of "one"
    spec = charts.transfer(pd.concat([gaps, new]), [10]).to_dict()
    assert spec["spec"]["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["a", "b", "new"]
