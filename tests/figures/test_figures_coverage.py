import numpy as np
import pandas as pd
import pytest
import vl_convert

from ddlib.figures import coverage as charts


def layers(chart):
    """The layers of a chart's panels, one list a panel."""
    spec = chart.to_dict()
    return [panel["layer"] for panel in spec.get("concat", spec.get("hconcat", [spec]))], spec


def rows(spec, layer):
    """The table of a layer, or that of the whole chart where its layers share one."""
    return spec["datasets"][layer.get("data", spec.get("data"))["name"]]


def gaps():
    cells = {
        ("a", 10): [0.4, 0.6],
        ("a", 20): [0.1, 0.3],
        ("b", 10): [0.2, 0.2],
        ("b", 20): [0.3, 0.5],
    }
    return pd.DataFrame(
        {"method": "dm", "configuration": name, "k": k, "seed": seed, "gap_error": value}
        for (name, k), values in cells.items()
        for seed, value in enumerate(values)
    )


def test_the_broad_line_is_the_largest_mean_at_each_k():
    [panel], spec = layers(charts.gaps_by_configuration(gaps()))
    worst = [(row["configuration"], row["k"], row["gap_error"]) for row in rows(spec, panel[1])]
    assert worst == [("a", 10, 0.5), ("b", 20, 0.4)]
    vl_convert.vegalite_to_svg(spec)


def test_a_map_fills_the_centres_of_the_cover():
    points = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 0.0]}, index=["a", "b", "c"])
    [panel], spec = layers(charts.configuration_map(points, 0.8, ("b",), 1.5))
    table = rows(spec, panel[0])
    roles = {row["configuration"]: row["role"] for row in table}
    assert roles == {"a": "covered", "b": "centre of the cover", "c": "covered"}
    assert "1 balls of radius 1.5 cover 3 configurations" in spec["title"]["text"]
    assert "80%" in spec["title"]["subtitle"]


def test_steps_of_h_cov_go_on_to_the_end_of_the_axis():
    curves = pd.DataFrame(
        {
            "family": ["f", "f"],
            "radius": [0.0, 1.0],
            "h_cov": [np.log(2), 0.0],
            "low": 0.0,
            "high": np.log(2),
        }
    )
    radii = pd.Series([0.5, 2.0])
    [panel], spec = layers(charts.h_cov_against_radius(curves, 0.3, radii))
    noise, used, band, lines = (rows(spec, layer) for layer in panel)
    assert noise == [{"radius": 0.0, "end": 0.3}]
    assert [row["radius"] for row in used] == [0.5, 2.0]
    assert [row["radius"] for row in lines] == [row["radius"] for row in band] == [0.0, 1.0, 2.1]


def test_a_k_star_beyond_the_sizes_is_marked_and_its_interval_cut():
    k_stars = pd.DataFrame(
        {
            "family": ["f", "g", "h", "lost"],
            "epsilon": 0.1,
            "k_star": [30.0, 100.0, 10.0, np.nan],
            "low": [20.0, 60.0, 0.0, np.nan],
            "high": [40.0, np.inf, 12.0, np.nan],
            "raw": [35.0, 100.0, 10.0, np.nan],
            "censored": ["", "above the largest k", "below the smallest k", ""],
            "smallest": 10.0,
            "largest": 100.0,
            "seeds": [5, 3, 5, 1],
            "missing_seeds": [0, 2, 0, 4],
            "missing_sizes": [0, 0, 1, 0],
        }
    )
    families = ["f", "g", "h", "lost"]
    measures = pd.DataFrame({"h_cov": [0.0, 1.0, 2.0, 3.0]}, index=families)
    groups = pd.Series(["one", "one", "two", "two"], index=families)
    [panel], spec = layers(charts.k_star_against(k_stars, measures, {"h_cov": "H"}, groups))
    table = rows(spec, panel[0])
    assert [row["shown"] for row in table] == ["measured", "above", "below"]
    assert [(row["low"], row["high"]) for row in table] == [(20, 40), (60, 100), (10, 12)]
    assert [row["fill"] for row in table] == [1, 0, 0]  # hollow where seeds or sizes are missing
    assert panel[1]["mark"]["type"] == "tick"
    assert panel[1]["encoding"]["y"]["field"] == "raw"
    assert spec["title"]["subtitle"][-1] == "No k* for missing trials: lost (ε = 0.1)."
    vl_convert.vegalite_to_svg(spec)


def test_the_back_test_has_its_line_of_no_error():
    tested = pd.DataFrame(
        {
            "name": ["a", "b"],
            "kind": "configuration",
            "held_out": ["k", "both"],
            "k": [100, 200],
            "predicted": [0.1, 0.2],
            "low": [0.0, 0.1],
            "high": [0.2, 0.3],
            "measured": [0.2, 0.0],
        }
    )
    [panel], spec = layers(charts.back_test(tested))
    ends = [row["at"] for row in rows(spec, panel[0])]
    assert np.allclose(ends, [-0.01, 0.21])
    vl_convert.vegalite_to_svg(spec)


def test_transfer_draws_every_configuration_with_its_interval():
    values = {("one", "a"): 0.1, ("one", "b"): 0.3, ("all", "a"): 0.2, ("all", "b"): 0.2}
    gaps = pd.DataFrame(
        [
            {"method": m, "configuration": c, "k": k, "seed": s, "gap_error": gap + 0.01 * s / k}
            for (m, c), gap in values.items()
            for k in (10, 100)
            for s in range(3)
        ]
    )
    panels, spec = layers(charts.transfer(gaps, [10, 100]))
    assert len(panels) == 2
    table = {(row["method"], row["configuration"]): row for row in rows(spec, spec["hconcat"][0])}
    assert set(table) == set(values)
    found = table["one", "a"]
    half = 0.001 / np.sqrt(3) * 4.302653  # Student t, two degrees of freedom
    assert found["gap"] == pytest.approx(0.101)
    assert found["high"] - found["gap"] == pytest.approx(half, rel=1e-5)
    assert [p[0]["encoding"]["y"]["scale"]["domain"] for p in panels] == [["a", "b"]] * 2
    vl_convert.vegalite_to_svg(spec)
