"""Planner: samples per class from a small pilot, against known laws and simulated studies."""

from functools import partial

import numpy as np
import pytest
import shipped
from known import SIZES, study
from scipy import stats

from benchmarks import statistics
from ddlib.explore import tables
from ddlib.stats import planner
from ddlib.stats.pilot import read_pilot
from ddlib.words import coverage as words

pytestmark = pytest.mark.filterwarnings("error")

table = partial(study, noise=0.001)
MEMBERS = ["c0", "c1", "c2"]


def read(gaps, largest=100, **options):
    return read_pilot(gaps[gaps["k"] <= largest], **{"draws": 400} | options)


def test_the_worst_member_sets_the_plan():
    pilot = read(table([0.5, 1.0, 0.8], noise=1e-6))
    found = planner.plan(pilot, MEMBERS, 0.1, 10)
    # (1 / (0.1 - 0.02))^2 = 156.25: 16 images of each of 10 classes
    assert (found.member, found.ipc, found.k.estimate) == ("c1", (16, 16, 16), 160)
    inside = planner.plan(pilot, MEMBERS, 1 / np.sqrt(50) + 0.021, 10)
    assert (inside.k.estimate, inside.doubt) == (50, "")
    assert planner.plan(pilot, MEMBERS, 0.6, 10).ipc == (1, 1, 1)  # never less than one image
    refused = planner.plan(pilot, MEMBERS, 0.05, 10)  # k = 1111
    assert refused.ipc is None
    assert refused.reason.startswith("the worst gap is still about 0.09")
    assert "at 20 samples per class, 2 times the largest that all members have;" in refused.reason


def test_the_worst_of_equal_members_is_below_the_largest_of_their_noisy_means():
    """Sixteen members of the same true gap; then a new one among four others."""
    held, lower = 0, 0
    for i in range(20):
        pilot = read(table([1.0] * 16, noise=0.02, generator=i))
        truth, column = 1 / np.sqrt(50) + 0.02, list(pilot.ks).index(50)
        low, middle, high = np.quantile(pilot.worst(pilot.names, [50]), [0.025, 0.5, 0.975])
        held += low <= truth <= high
        lower += middle < pilot.means[:, column].max()
    assert held >= 18
    assert lower == 20
    networks = {f"c{i}": "convnet" for i in range(4)} | {"new": "convnet"}
    pilot = read(table([0.5, 1.0, 2.0, 3.0], noise=1e-6), networks=networks)
    both, new = pilot.worst(["c0", "new"], [50]), pilot.predict(["new"], [50])[0]
    assert np.allclose(both, np.maximum(new, 0.5 / np.sqrt(50) + 0.02), atol=1e-4)


def test_a_plan_reaches_twice_the_largest_size_that_all_members_have():
    gaps = table([0.5, 1.0, 0.8], noise=1e-6)
    gaps = gaps[(gaps["configuration"] != "c0") | (gaps["k"] <= 50)]
    pilot = read(gaps)
    near, far = (planner.plan(pilot, names, 0.125, 1) for names in (MEMBERS, ["c1", "c2"]))
    assert (near.last, near.reach, far.last, far.reach) == (50, 100, 100, 200)
    assert (near.k.estimate, near.rests_on_law) == (91, True)  # 1 / 0.105^2 = 90.7
    assert (far.k.estimate, far.rests_on_law) == (91, False)
    text = words.rejected("dm", "c1", "why", near)
    assert text.endswith("Past k = 50 this plan rests on it: do not trust it there.")
    assert planner.plan(pilot, MEMBERS, 0.1, 1).ipc is None  # a k of 156


def test_members_change_places_beyond_the_pilot():
    # c0 is worse up to k = 156.25, where 2/√k + 0.02 = 1/√k + 0.1; past it c1 is.
    pilot = read(table([2.0, 1.0], [0.02, 0.1], noise=1e-6))
    near, far = (planner.plan(pilot, ["c0", "c1"], epsilon, 10) for epsilon in (0.22, 0.175))
    assert (near.member, near.k.estimate) == ("c0", 100)  # (2 / 0.2)^2
    assert (far.member, far.k.estimate) == ("c1", 180)  # (1 / 0.075)^2 = 177.8


@pytest.mark.parametrize("need", [97, 949, 9_549, 58_330])
def test_a_plan_is_exact_up_to_100_and_within_2_percent_beyond(need):
    ks = np.array([1, 10, 100, 1000, 10_000, 50_000])
    pilot = read(table([0.5, 1.0], noise=1e-12, ks=ks), largest=50_000, draws=50)
    # 1/√k + 0.02 is at most this epsilon from k = need - 1/2 on
    found = planner.plan(pilot, ["c0", "c1"], (need - 0.5) ** -0.5 + 0.02, 1).ipc.estimate
    assert need <= found <= (need if need <= 100 else 1.02 * need)


def test_other_networks_and_too_few_peers_are_refused():
    gaps = table(np.linspace(0.5, 1, 5))
    networks = {f"c{i}": "convnet" for i in range(6)} | {"vit": "vit"}
    pilot = read(gaps, networks=networks)
    assert planner.plan(pilot, ["c0", "c5"], 0.2, 10).ipc is not None
    refused = planner.plan(pilot, ["c0", "vit"], 0.2, 10).reason
    assert "the network of vit (vit) is not in the pilot (convnet)" in refused
    assert "(unknown)" in planner.plan(pilot, ["c9"], 0.2, 10).reason
    few = read(gaps[gaps["configuration"].isin(MEMBERS)], networks=networks)
    assert "4 others are needed" in planner.plan(few, ["c4"], 0.2, 10).reason


def test_another_configuration_is_one_more_draw_from_the_pilot():
    scales = np.array([0.5, 0.7, 0.8, 0.9, 1.1])
    networks = dict.fromkeys(["c0", "c1", "c2", "c3", "c4", "new"], "convnet")
    pilot = read(table(scales, noise=1e-6), networks=networks, draws=20_000)
    [drawn] = pilot.predict(["new"], [10])
    # Student t of 5 - 2 degrees, as a and c are two: the squares over 3, and one more draw
    squares = ((scales - 0.8) ** 2).sum() / 10
    half = 3.182 * np.sqrt(squares / 3 * (1 + 1 / 5))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert np.median(drawn) == pytest.approx(0.8 / np.sqrt(10) + 0.02, abs=0.002)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)


def test_an_exponent_that_is_not_one_half_makes_what_lies_beyond_a_guess():
    sound, other = (
        read(table([0.5, 1.0, 0.8], exponent=b, noise=0.002, generator=1)) for b in (0.5, 1.0)
    )
    assert sound.exponent.low < 0.5 < sound.exponent.high
    assert planner.plan(sound, MEMBERS, 0.1, 10).doubt == ""
    found = planner.plan(other, MEMBERS, 0.027, 10)  # a k of 143
    assert found.k.estimate > 100
    assert "past k = 100 this rests on a/√k + c, and the exponent is 1.02" in found.doubt
    assert planner.plan(other, MEMBERS, 0.06, 10).doubt == ""  # 25 < k < 50 needs no law


def test_missing_trials_are_left_out():
    gaps = table([0.5, 1.0, 0.8], noise=0.01)
    lost = gaps["configuration"].eq("c1") & gaps["seed"].lt(2) & gaps["k"].eq(50)
    pilot = read(gaps.assign(gap_error=gaps["gap_error"].mask(lost)))
    kept = gaps[gaps["configuration"].eq("c1") & gaps["k"].eq(50) & gaps["seed"].ge(2)]
    assert pilot.means[1, 2] == pytest.approx(kept["gap_error"].mean())
    assert np.median(pilot.predict(["c1"], [50])) == pytest.approx(pilot.means[1, 2], abs=1e-3)
    gone = gaps.assign(status=np.where(gaps["configuration"] == "c1", "diverged", "ok"))
    refused = planner.plan(read(gone), MEMBERS, 0.2, 10).reason
    assert refused == "c1 has gaps of two seeds at 0 sizes; it needs 3"


def test_the_noise_of_a_mean_over_fewer_seeds_has_their_tails():
    """Of c1 three seeds are left at k = 50 and five at 10: Student t with 2 and 4 degrees."""
    gaps = table([0.5, 1.0, 0.8], noise=0.01)
    lost = gaps["configuration"].eq("c1") & gaps["seed"].lt(2) & gaps["k"].eq(50)
    pilot = read(gaps.assign(gap_error=gaps["gap_error"].mask(lost)), draws=20_000)
    for k, count in ((50, 3), (10, 5)):
        column = list(pilot.ks).index(k)
        error = stats.sem(pilot.gaps[1, :, column], nan_policy="omit")
        low, high = np.quantile(pilot.noise[1, :, column], [0.025, 0.975])
        expected = 2 * stats.t.ppf(0.975, count - 1) * error
        assert high - low == pytest.approx(expected, rel=0.06)


def test_plans_hold_the_true_need():
    rng, hits = np.random.default_rng(1), 0
    for i in range(30):
        gaps, truth = statistics.draw_family(0.3, 0.5, rng)
        pilot = read_pilot(gaps[gaps["k"] <= 100], draws=200, seed=i)
        worst = truth.max(axis=0)
        epsilon = np.interp(50**-0.5, SIZES[3::-1] ** -0.5, worst[3::-1])
        found = planner.plan(pilot, pilot.names, epsilon, 1)
        hits += found.k.low <= 50 <= found.k.high
    assert 27 <= hits <= 30


def test_intervals_hold_what_was_left_out_of_a_finding():
    study = tables.read(shipped.COVERAGE)
    pilot = study.settings["pilot"]["configurations"]
    for method in study.methods:
        gaps = study.gaps[study.gaps["method"] == method]
        whole = read_pilot(gaps, draws=400)
        part = gaps[gaps["k"].le(50) & gaps["configuration"].isin(pilot)]
        part = read_pilot(part, networks=whole.networks, draws=400)
        networks = {whole.networks[name] for name in pilot}
        names = [name for name in whole.names if whole.networks[name] in networks]
        for name in whole.names:
            assert ("is not in the pilot" in part.refusal(name)) == (name not in names)
        assert len(pilot) < len(names) < len(whole.names)
        draws, measured = part.claim(names, whole)
        low, high = np.quantile(draws, [0.025, 0.975], axis=1)
        answered = whole.ks <= 100  # twice the largest size of the pilot
        assert ((low <= measured) & (measured <= high))[:, answered].mean() >= 0.9


def test_left_out_cases_are_counted_once_each():
    """Six configurations, each at four sizes left out of the others; then the largest size."""
    gaps = table(np.linspace(0.5, 1, 6), noise=1e-4)
    pilot = read(gaps)
    held, count, width = pilot.left_out
    assert count == 6 * 4 + 6
    parts = [(gaps[gaps["configuration"] != name], [name]) for name in pilot.names]
    parts.append((gaps[gaps["k"] < pilot.ks[-1]], pilot.names))
    widths = [read(p, networks=pilot.networks).answers(names, pilot)[1] for p, names in parts]
    assert width == pytest.approx(np.median(np.concatenate(widths)))
    assert held >= 0.9 * count
    assert read(table([0.5, 1.0])).left_out[1] == 2  # too few to leave a configuration out


def test_the_same_seed_gives_the_same_plan():
    gaps = table([0.5, 1.0, 0.8], noise=0.01)
    plans = [planner.plan(read(gaps, seed=i), MEMBERS, 0.1, 10).draws for i in (0, 0, 1)]
    assert np.array_equal(plans[0], plans[1])
    assert not np.array_equal(plans[0], plans[2])


def test_bad_pilots_are_refused():
    gaps = table([0.5, 1.0])
    with pytest.raises(ValueError, match="has gaps of two seeds at 2 sizes; it needs 3"):
        read(gaps, largest=20)
