"""The benchmark of growth, at its smallest."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import growth


def test_slopes_are_those_of_powers_with_their_intervals():
    sizes = np.array([1, 10, 100, 1000])
    rows = {"axis": "k", "job": "a job", "size": sizes, "seconds": 0.1 * sizes**1.5}
    fitted = growth.exponents(pd.DataFrame({**rows, "megabytes": [0.0, 3.0, 30.0, 300.0]}))
    for name, exponent in (("seconds", 1.5), ("megabytes", 1.0)):
        row = fitted.set_index("measure").loc[name]
        assert row["exponent"] == pytest.approx(exponent)
        assert row["low"] == pytest.approx(exponent, abs=1e-6) == row["high"]


def test_memory_that_does_not_grow_has_no_slope():
    rows = {"axis": "k", "job": "a job", "size": [1, 2, 3, 4], "seconds": 1.0, "megabytes": 0.5}
    fitted = growth.exponents(pd.DataFrame(rows)).set_index("measure")["exponent"]
    assert fitted["seconds"] == pytest.approx(0)
    assert np.isnan(fitted["megabytes"])


@pytest.mark.parametrize("number", range(len(growth.CASES)))
def test_every_case_runs_at_its_smallest_size(number):
    case = growth.CASES[number]
    case.make(case.sizes[0])()
    assert list(case.sizes) == sorted(case.sizes)


def test_a_case_is_measured_in_a_process_of_its_own_and_drawn():
    [number] = (i for i, case in enumerate(growth.CASES) if case.job == "distances")
    points = growth.grow([number], count=1)
    [row] = points.to_dict("records")
    assert (row["axis"], row["job"], row["size"]) == ("configurations", "distances", 50)
    assert 0 < row["seconds"] < 10
    chart = growth.figure(points, growth.exponents(points))
    assert [len(row["hconcat"]) for row in chart.to_dict()["vconcat"]] == [1, 1]
    assert Image.open(io.BytesIO(growth.picture(chart))).mode == "P"  # few colours, a small file
