"""Planner: k and images needed, the better spend, and its back-test against known laws."""

import numpy as np
import pandas as pd
import pytest

from ddlib import laws, planner
from ddlib.laws import Interval

pytestmark = pytest.mark.filterwarnings("error")

KS = np.array([10, 20, 50, 100, 200, 500])
MEMBERS = ["c0", "c1", "c2"]


def table(scales, floors=0.02, *, noise=0.001, seeds=5, generator=0):
    """Gaps a/√k + c of configurations c0, c1, ..."""
    rng, scales = np.random.default_rng(generator), np.asarray(scales, dtype=float)
    floors = np.broadcast_to(floors, scales.shape)[:, None, None]
    gaps = scales[:, None, None] / np.sqrt(KS) + floors
    gaps = gaps + noise * rng.normal(size=(len(scales), seeds, len(KS)))
    c, s, j = np.indices(gaps.shape).reshape(3, -1)
    found = {"configuration": [f"c{i}" for i in c], "seed": s, "k": KS[j]}
    return pd.DataFrame({**found, "gap_error": gaps.ravel(), "gap_cross_entropy": gaps.ravel()})


def pilot(gaps):
    return gaps[gaps["k"] <= 100]


@pytest.fixture
def no_null(monkeypatch):
    """Skip the null of R², most of the time of a fit, where only the intervals count."""
    monkeypatch.setattr(laws, "null_r2", lambda *_: np.zeros(1))


def test_the_worst_member_sets_the_plan():
    gaps = pilot(table([0.5, 1.0, 0.8], noise=1e-6))
    found = planner.plan(gaps, MEMBERS, 0.07, 10, draws=50)
    # (1 / (0.07 - 0.02))^2 = 400; what is above the floor is half of it at (1 / 0.01)^2
    assert found.member == "c1"
    assert found.k == pytest.approx((400, 400, 400), rel=1e-3)
    assert found.ipc.estimate == pytest.approx(40, abs=1)
    assert found.spent.estimate == pytest.approx(10_000, rel=1e-3)
    assert "extrapolated 4.0 times past the largest k measured" in found.reading
    assert "c1 decides" in found.reading
    assert "down to 50% of it at k = 10" in found.reading


def test_a_law_that_explains_no_more_than_falling_is_doubted(monkeypatch):
    gaps = pilot(table([1.0], noise=1e-6))
    assert "guess" not in planner.plan(gaps, ["c0"], 0.07, 10, draws=50).reading
    monkeypatch.setattr(laws, "null_r2", lambda *_: np.ones(1))
    doubted = planner.plan(gaps, ["c0"], 0.07, 10, draws=50).reading
    assert doubted.endswith(
        "But a/√k + c explains no more of c0 than falling alone would, so beyond the measured "
        "sizes this is a guess."
    )


def test_members_change_places_beyond_the_pilot():
    # c0 is worse up to k = 400, where 2/√k + 0.02 = 1/√k + 0.07; past it c1 is.
    gaps = pilot(table([2.0, 1.0], [0.02, 0.07], noise=1e-6))
    near, far = (planner.plan(gaps, ["c0", "c1"], e, 10, draws=50) for e in (0.22, 0.09))
    assert (near.member, far.member) == ("c0", "c1")
    assert near.k.estimate == pytest.approx(100, rel=1e-3)  # (2 / 0.2)^2
    assert far.k.estimate == pytest.approx(2500, rel=1e-3)  # (1 / 0.02)^2


@pytest.mark.usefixtures("no_null")
def test_intervals_of_the_plan_cover_the_truth():
    hits = 0
    for i in range(60):
        gaps = pilot(table([1.0, 0.9, 0.6], noise=0.01, generator=i))
        found = planner.plan(gaps, MEMBERS, 0.1, 10, draws=200, seed=i)
        hits += found.k.low <= (1 / 0.08) ** 2 <= found.k.high
    assert 53 <= hits <= 60


def test_a_gap_below_the_floor_is_out_of_reach():
    found = planner.plan(pilot(table([0.5, 1.0, 0.8])), MEMBERS, 0.01, 10, draws=50)
    assert found.k.estimate == np.inf
    assert found.reading.startswith("No k reaches a worst gap of 0.01: c0 levels off above it.")


def test_a_gap_held_by_the_smallest_k_is_said_to_be():
    found = planner.plan(pilot(table([0.5, 1.0, 0.8])), MEMBERS, 0.6, 10, draws=50)
    assert found.k.estimate == pytest.approx(1 / 0.58**2, rel=0.05)
    assert "the smallest k measured, 10, is enough" in found.reading


def test_a_gap_without_floor_is_never_spent():
    found = planner.plan(pilot(table([1.0], [-0.05])), ["c0"], 0.1, 10, draws=50)
    assert found.spent is None
    assert found.reading.endswith("No floor above 0 was found.")


def test_what_is_not_identifiable_is_refused():
    flat = pilot(table([0.0, 0.001], [0.1, 0.1], noise=0.02))
    found = planner.plan(flat, ["c0", "c1"], 0.05, 10, draws=50)
    assert found.k is None
    assert found.reading.startswith("No plan for a worst gap of 0.05: c")
    with pytest.raises(ValueError, match="needs at least 3"):
        planner.plan(flat[flat["k"] <= 20], ["c0"], 0.05, 10, draws=50)
    with pytest.raises(ValueError, match="choose a gap, a count >= 1"):
        planner.plan(flat, ["c0"], 0.05, 0)
    with pytest.raises(ValueError, match="is empty"):
        planner.plan(flat, [], 0.05, 10)


def test_images_per_class_are_rounded_up():
    gaps = pilot(table([1.0], noise=0.0))
    found = planner.plan(gaps, ["c0"], 0.07, 10)
    assert found.reason.startswith("c0: no difference between the seeds")  # no interval, no plan
    made = planner.Plan(0.1, (10, 50), "c0", Interval(61.0, None, None), Interval(7.0, None, None))
    assert "k = 61, that is 7 images per class" in made.reading


def test_the_better_spend_is_told_by_known_laws():
    methods = {"slow": 1.0, "fast": 0.4, "near": 0.75}
    gaps = pd.concat([table([a], noise=0.0005).assign(method=m) for m, a in methods.items()])
    found = planner.better_spend(gaps, ["c0"], 100, draws=200).set_index(["method", "other"])
    slow = found.loc[("slow", "fast")]
    # 1/√100 - 1/√200 = 0.0293; 0.1 - 0.04 = 0.06
    assert slow["doubling"] == pytest.approx(0.0293, abs=0.001)
    assert slow["switch"] == pytest.approx(0.06, abs=0.001)
    assert slow["doubling_low"] < slow["doubling"] < slow["doubling_high"]
    assert slow["better"] == "switch"
    assert found.loc[("fast", "slow"), "better"] == "more images"
    assert found.loc[("slow", "near"), "better"] == "more images"  # 0.0293 > 0.025
    with pytest.raises(ValueError, match="1 method; give gaps of at least 2"):
        planner.better_spend(gaps[gaps["method"] == "slow"], ["c0"], 100)


def test_the_better_spend_is_left_open_where_the_draws_do_not_tell():
    methods = {"slow": 1.0, "equal": 1 / np.sqrt(2)}  # switching gains what doubling does
    gaps = [
        table([a], noise=0.01, generator=i).assign(method=m)
        for i, (m, a) in enumerate(methods.items())
    ]
    found = planner.better_spend(pd.concat(gaps), ["c0"], 100, draws=200).set_index("method")
    assert found.loc["slow", "better"] == ""


def test_the_back_test_of_an_exact_law_has_no_error():
    gaps, families = table([0.5, 1.0, 0.8], noise=1e-6), {"all": MEMBERS, "pair": ["c0", "c1"]}
    found = planner.back_test(gaps, families, [10, 20, 50, 100], MEMBERS, draws=50)
    assert set(found["held_out"]) == {"k"}
    assert set(found["k"]) == {200, 500}
    assert found["error"].abs().max() < 1e-5
    worst = found[found["name"] == "all"].set_index("k")["measured"]
    assert worst.to_dict() == pytest.approx(
        {k: 1 / np.sqrt(k) + 0.02 for k in (200, 500)}, abs=1e-5
    )


def test_the_back_test_covers_larger_k():
    inside = []
    for i in range(15):
        gaps = table([0.5, 1.0, 0.8], noise=0.01, generator=i)
        found = planner.back_test(gaps, {"all": MEMBERS}, [10, 20, 50, 100], MEMBERS, draws=100)
        inside += [*found["inside"]]
    assert 0.9 <= np.mean(inside) <= 1.0  # wide: larger k share no noise with the pilot here


def test_the_back_test_predicts_new_configurations_from_the_spread_or_the_nearest():
    gaps, families = table([0.5, 1.0, 0.8, 0.99], noise=1e-6), {"all": [*MEMBERS, "c3"]}
    found = planner.back_test(gaps, families, [10, 20, 50], MEMBERS, draws=4000)
    new = found[(found["name"] == "c3") & (found["k"] == 10)].iloc[0]
    assert new["held_out"] == "configuration"
    scales = np.array([0.5, 1.0, 0.8]) / np.sqrt(10)
    half = 4.303 * scales.std(ddof=1) * np.sqrt(4 / 3)  # t with 2 degrees, one more draw
    assert new["predicted"] == pytest.approx(scales.mean() + 0.02, abs=0.01)
    assert (new["high"] - new["low"]) / 2 == pytest.approx(half, rel=0.15)
    assert new["inside"]
    assert set(found.loc[found["name"] == "all", "held_out"]) == {"configuration", "both"}
    distances = pd.DataFrame(1.0, index=[*MEMBERS, "c3"], columns=[*MEMBERS, "c3"])
    distances.loc["c3", "c1"] = 0.1
    found = planner.back_test(
        gaps, families, [10, 20, 50], MEMBERS, distances=distances, draws=20
    ).set_index(["name", "k"])
    assert found.loc[("c3", 500), "predicted"] == pytest.approx(1 / np.sqrt(500) + 0.02, abs=1e-5)
    assert found.loc[("c3", 500), "error"] == pytest.approx(0.01 / np.sqrt(500), abs=1e-5)


def test_bad_pilots_are_refused():
    gaps, families = table([0.5, 1.0]), {"pair": ["c0", "c1"]}
    with pytest.raises(ValueError, match="pilot k=30 was not measured; choose among 10, 20, 50"):
        planner.back_test(gaps, families, [10, 30, 50], ["c0"])
    with pytest.raises(ValueError, match="no gaps of 'vgg'"):
        planner.back_test(gaps, families, [10, 20, 50], ["vgg"])
    with pytest.raises(ValueError, match="one pilot configuration shows no spread"):
        planner.back_test(gaps, families, [10, 20, 50], ["c0"], draws=20)


def test_a_plan_from_fits_is_the_plan():
    gaps = pilot(table([0.5, 1.0, 0.8], noise=0.005))
    fits = planner.fit_members(gaps, MEMBERS, draws=50)
    for epsilon in (0.05, 0.07, 0.3):
        found = planner.plan_from(fits, epsilon, 10, [10, 20, 50, 100])
        assert found == planner.plan(gaps, MEMBERS, epsilon, 10, draws=50)


def test_plans_are_compared_by_need_within_the_budget_and_by_gap_beyond_it():
    # G = a/√k + 0.02, so a gap of 0.07 takes (a / 0.05)^2: 100, 400 and 1600 images.
    made = {"cheap": 0.5, "fair": 1.0, "dear": 2.0}
    fits = {
        method: planner.fit_members(table([a / 2, a], noise=1e-7), ["c0", "c1"], draws=50)
        for method, a in reversed(made.items())
    }
    found = planner.compare_plans(fits, 0.07, 500, 10, list(KS))
    assert list(found["method"]) == ["cheap", "fair", "dear"]
    assert list(found["within"]) == [True, True, False]
    assert found["k"].to_numpy() == pytest.approx([100, 400, 1600], rel=1e-3)
    assert found["ipc"].to_numpy() == pytest.approx([10, 40, 160], abs=1)
    assert found["gap"].to_numpy() == pytest.approx(
        [a / np.sqrt(500) + 0.02 for a in made.values()], rel=1e-4
    )
    assert set(found["member"]) == {"c1"}
    none = planner.compare_plans(fits, 0.021, 50, 10, list(KS))
    assert not none["within"].any()
    assert list(none["method"]) == ["cheap", "fair", "dear"]
