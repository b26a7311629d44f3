"""The benchmark of growth, at its smallest."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import growth


@pytest.mark.parametrize(("exponent", "memory"), [(1.5, 1.0), (0.0, np.nan)])
def test_slopes_are_those_of_powers_with_their_intervals(exponent, memory):
    """Memory that does not grow has no slope."""
    sizes = np.array([1, 10, 100, 1000])
    rows = {"axis": "k", "job": "a job", "size": sizes, "seconds": 0.1 * sizes**exponent}
    megabytes = [0.5] * 4 if exponent == 0 else [0.0, 3.0, 30.0, 300.0]
    fitted = growth.exponents(pd.DataFrame({**rows, "megabytes": megabytes}))
    for name, expected in (("seconds", exponent), ("megabytes", memory)):
        row = fitted.set_index("measure").loc[name]
        assert row["exponent"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        if expected:
            assert [row["low"], row["high"]] == pytest.approx([expected] * 2, abs=1e-6, nan_ok=True)


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
