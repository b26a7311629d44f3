"""Explorers: a choice shows what the library computes, at once, and says where it has no data."""

import base64
import dataclasses
import json
import re
import subprocess
import sys
import time
from io import BytesIO
from itertools import combinations
from pathlib import Path

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest
import shipped
from PIL import Image

from ddlib.explore import evidence, sheets, tables
from ddlib.explore.controls import Ticks
from ddlib.explore.coverage import CoverageExplorer
from ddlib.explore.ipc import FAILED, FITTED, HIDDEN, SHOW, SHOWN, IpcExplorer
from ddlib.explore.planner import Planner
from ddlib.figures.render import mime_bundle
from ddlib.publish.page import NUMBERS
from ddlib.stats import families as family_stats
from ddlib.stats import laws, planner, verdicts
from ddlib.stats.pilot import read_pilot

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
DRAWS = 200


@pytest.fixture(scope="module")
def studies():
    return [tables.read(folder) for folder in (shipped.METHODS, shipped.COVERAGE)]


@pytest.fixture
def ipc(studies):
    return IpcExplorer(studies, DRAWS)


@pytest.fixture(scope="module")
def family(studies):
    return CoverageExplorer(studies, DRAWS)


@pytest.fixture(scope="module")
def plans(studies):
    return Planner(studies, DRAWS)


def choose(explorer, **values):
    """Move controls: a menu to a name, a slider to a value, checkboxes to the names ticked."""
    for name, value in values.items():
        control = explorer.controls[name]
        if isinstance(control, Ticks):
            control.tick(value)
        elif hasattr(control, "label") and isinstance(value, str):
            control.label = value
        else:
            control.value = value


def cells(explorer) -> list[dict[str, str]]:
    """Return the rows of the numbers by column."""
    rows = re.findall(r"<tr.*?</tr>", explorer.numbers.value, re.DOTALL)
    head, *rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    return [dict(zip(head, row, strict=True)) for row in rows]


def row(explorer, name: str) -> dict[str, str]:
    [cell] = [cell for cell in cells(explorer) if name in cell.values()]
    return cell


def numbers(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def drawn(explorer, *columns: str) -> pd.DataFrame:
    """Return the rows of the picture's one table that has these columns."""
    tables_drawn = explorer.spec["datasets"].values()
    [table] = [table for table in tables_drawn if table and set(columns) <= set(table[0])]
    return pd.DataFrame(table)


def verdict(explorer) -> str:
    return explorer.spec["title"]["text"]


NAMES_OF = {"gap_error": "test error", "gap_cross_entropy": "test cross-entropy"}


@pytest.mark.parametrize(
    ("size", "measure"), [(1, "gap_cross_entropy"), (12, "gap_error"), (20, "gap_error")]
)
def test_predicted_and_measured_are_those_of_the_fit(ipc, studies, size, measure):
    choose(ipc, ipc=size, methods=("mtt",), measure=NAMES_OF[measure])
    choose(ipc, configuration="hard", least_gain=1e-3)
    trials = studies[0].trials.query("configuration == 'hard' and method == 'mtt'")
    gaps = trials.pivot(index="seed", columns="k", values=measure)
    fit = laws.fit(gaps, "inverse_sqrt", draws=DRAWS)
    a, c = fit.parameters["a"].estimate, fit.parameters["c"].estimate
    k, [cell] = 10 * size, cells(ipc)
    expected = [a / k**0.5 + c, *fit.predict(k)[["low", "high"]].iloc[0]]
    assert numbers(cell["predicted gap"]) == pytest.approx(expected, abs=6e-4)
    if k in gaps:
        measured = [gaps[k].mean(), gaps[k].std()]
        assert numbers(cell["measured gap"]) == pytest.approx(measured, abs=6e-4)
    else:
        assert cell["measured gap"] == "not measured"
    gain = a / k**0.5 - a / (k + 1) ** 0.5
    assert numbers(cell["gain of the next sample"])[0] == pytest.approx(gain, rel=0.06)
    k_sat = (a / 2e-3) ** (2 / 3)
    [column] = [name for name in cell if name.startswith("k_sat")]
    assert numbers(cell[column])[0] == pytest.approx(k_sat, abs=0.6)
    marks = drawn(ipc, "mark").query("kind == 'mark'").set_index("mark")
    assert marks.loc["prediction", "gap"] == pytest.approx(a / k**0.5 + c, rel=1e-6)
    assert marks.loc["k_sat", "k"] == pytest.approx(k_sat, rel=1e-6)
    assert f"mtt has the smallest predicted gap, {cell['predicted gap']}" in verdict(ipc)


def test_evaluations_of_a_seed_count_as_one(studies):
    trials = studies[0].trials
    shifted = [trials.assign(gap_error=trials["gap_error"] + shift) for shift in (0.1, -0.1)]
    twice = IpcExplorer([dataclasses.replace(studies[0], trials=pd.concat(shifted))], draws=20)
    choose(twice, methods=("dm",), ipc=10)
    gaps = trials.query("configuration == 'hard' and method == 'dm' and k == 100")["gap_error"]
    measured = numbers(cells(twice)[0]["measured gap"])
    assert measured == pytest.approx([gaps.mean(), gaps.std()], abs=6e-4)
    assert len(drawn(twice, "kind").query("kind == 'seed' and k == 100")) == len(gaps) == 5


def test_a_law_that_was_rejected_predicts_nothing(ipc, studies):
    trials = studies[0].trials.query("configuration == 'hard'")
    fits = laws.fit_all(laws.gap_matrix(trials, "random"), draws=DRAWS)
    judged = verdicts.verdict(fits)
    assert judged.outcome == "fails"
    choose(ipc, methods=("random",), fits=[law.formula for law in laws.LAWS.values()])
    missed = {fit.law.formula for fit in fits.values() if fit.misfit <= 0.05}
    for cell in cells(ipc):
        if cell["fit"] == "a/√k + c":
            assert cell["predicted gap"] == f"fails: {judged.why}"
        elif cell["fit"] in missed:
            assert cell["predicted gap"] == "fails: the curve misses the measured means"
        else:
            assert len(numbers(cell["predicted gap"])) == 3
        assert ("fails" in cell["predicted gap"]) == (cell["gain of the next sample"] == "")
    choose(ipc, fits=("a/√k + c",), ipc=10)
    mean = trials.query("method == 'random' and k == 100")["gap_error"].mean()
    measured = f"IPC 10, k = 100: random has the smallest measured gap, {mean:.3f}; "
    assert verdict(ipc) == f"{measured}no fit that is ticked predicts a gap"
    choose(ipc, ipc=12)
    assert verdict(ipc) == "IPC 12, k = 120: no fit that is ticked predicts a gap"


def test_of_several_fits_the_one_with_the_least_aic_predicts(ipc, studies):
    """The curve a/k^b + c promises mtt less, but AIC prefers a/k^b; there the floor may be 0."""
    choose(ipc, configuration="soft", methods=("mtt", "random"), fits=NAMES, ipc=10)
    trials = studies[0].trials.query("configuration == 'soft'")
    fits = laws.fit_all(laws.gap_matrix(trials, "mtt"), draws=DRAWS)
    fit = min(fits.values(), key=lambda fit: fit.aic)
    assert fits["free_exponent"].gap(100).estimate < fit.gap(100).estimate
    text = (
        f"mtt has the smallest predicted gap, {fit.gap(100):.3f}, by {fit.law.formula} (least AIC)"
    )
    assert verdict(ipc).endswith(text)
    assert fits["free_exponent"].k_floor(0.1).high == np.inf
    [cell] = [c for c in cells(ipc) if (c["method"], c["fit"]) == ("mtt", "a/k^b + c")]
    assert cell["k where the gap is 10 % above its floor"] == "none: the floor may be 0"


def test_an_error_of_the_program_is_not_shown_as_an_empty_view(ipc, monkeypatch):
    monkeypatch.setattr(ipc, "view", lambda *_, **__: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        ipc.update()


def test_fits_and_methods_are_ticked_in_and_out(ipc):
    choose(ipc, methods=("random", "mtt"), fits=())
    assert [cell["method"] for cell in cells(ipc)] == ["random", "mtt"]
    assert len(numbers(cells(ipc)[0]["measured gap"])) == 2
    choose(ipc, methods=())
    assert verdict(ipc) == "Nothing to show: no method is ticked; tick at least one."
    assert ipc.numbers.value == ""
    choose(ipc, methods=("dm",))
    assert len(cells(ipc)) == 1


NAMES = tuple(law.formula for law in laws.LAWS.values())


@pytest.mark.parametrize(("methods", "fits"), [(2, ()), (3, NAMES), (5, NAMES[:1])])
def test_no_fit_all_fits_and_all_methods_are_sound_pictures(ipc, studies, methods, fits):
    choose(ipc, methods=studies[0].methods[:methods], fits=fits, show=SHOW)
    rows = drawn(ipc, "kind")
    assert set(rows["method"]) == set(studies[0].methods[:methods])
    assert set(rows["fit"][rows["kind"] == "curve"]) == set(fits)
    json.dumps(ipc.picture.specs, allow_nan=False)  # a browser reads no NaN
    picture = Image.open(BytesIO(mime_bundle(ipc.spec)[0]["image/png"]))
    assert picture.width < 2 * 800
    assert np.asarray(picture.convert("L")).std() > 10


def test_curves_are_dashed_beyond_the_measured_sizes_and_end_there_where_a_law_fails(ipc):
    choose(ipc, methods=("random", "mtt"))
    curves = drawn(ipc, "part").query("kind == 'curve'").groupby(["method", "part"])["k"].max()
    ends = {("mtt", "extrapolated"): 1000, ("mtt", "fitted"): 500, ("random", "fitted"): 500}
    assert curves.to_dict() == pytest.approx(ends)


def test_axes_stay_whatever_is_chosen(ipc, studies):
    def domains():
        base = ipc.spec["vconcat"][0]
        layers = base.get("spec", base)["layer"]
        return {
            axis: layer["encoding"][axis]["scale"]["domain"]
            for axis in "xy"
            for layer in layers
            if "scale" in layer["encoding"].get(axis, {})
        }

    for show in ((), ("log-log axes",)):
        choose(ipc, show=show)
        before = domains()
        choose(ipc, ipc=40, methods=studies[0].methods[:2], fits=NAMES[:2], beyond=HIDDEN)
        assert domains() == before
        choose(ipc, ipc=1, methods=("dm",), fits=(), beyond=FITTED)
        assert domains() == before


def test_the_guess_knows_no_gap_beyond_ipc(ipc, studies):
    trials = studies[0].trials.query("configuration == 'hard' and method == 'mtt'")
    gaps = trials.pivot(index="seed", columns="k", values="gap_error")
    fit = laws.fit(gaps.loc[:, :50], "inverse_sqrt", draws=DRAWS)
    for beyond, largest in ((HIDDEN, 50), (SHOWN, 500)):
        choose(ipc, ipc=5, methods=("mtt",), beyond=beyond, show=("four times the samples",))
        rows = drawn(ipc, "kind")
        assert rows["k"][rows["kind"] == "seed"].max() == largest
        [cell] = cells(ipc)
        assert numbers(cell["predicted gap"])[0] == pytest.approx(fit.gap(50)[0], abs=6e-4)
        ahead = cell["at 4k = 200"]
        c = fit.parameters["c"].estimate
        above = fit.gap(50).estimate - c
        assert f"above c = {c:.3f}: {above:.3f} → {above / 2:.3f}" in ahead
        assert numbers(ahead)[0] == pytest.approx(c + above / 2, abs=6e-4)
        assert ahead.endswith("not measured") == (beyond == HIDDEN)


def test_log_axes_draw_gaps_above_zero_and_count_the_others(studies):
    trials = studies[0].trials.query("configuration == 'hard'")
    trials = trials.assign(gap_error=trials["gap_error"] - trials["gap_error"].median())
    shifted = IpcExplorer([dataclasses.replace(studies[0], trials=trials)])
    choose(shifted, methods=studies[0].methods, show=("log-log axes",))
    gaps = trials["gap_error"]
    drawn_gaps = drawn(shifted, "kind").query("kind == 'seed'")["gap"]
    omitted = len(gaps) - len(drawn_gaps)
    assert drawn_gaps.min() > 0
    assert omitted >= sum(gaps <= 0) >= len(gaps) / 2
    note = f"Not drawn: {omitted} of {len(gaps)} gaps, {sum(gaps <= 0)} of them zero or less."
    assert note in shifted.numbers.value


def test_labels_at_the_lines_replace_the_legend_where_there_is_room(ipc, studies):
    choose(ipc, methods=("random", "dm"))
    labels = drawn(ipc, "kind").query("kind == 'start'")
    assert set(labels["method"]) == {"random", "dm"}
    assert '"orient": "top"' not in json.dumps(ipc.spec)
    choose(ipc, methods=studies[0].methods)
    assert "start" not in set(drawn(ipc, "kind")["kind"])
    assert '"orient": "top"' in json.dumps(ipc.spec)


def test_a_strip_shows_an_image_of_each_class_or_its_change():
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (18, 27), np.uint8) for _ in range(2))
    pictures = []
    for pixels in (before, after):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append(file.getvalue())

    def pixels(address):
        return np.asarray(Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))), int)

    assert (pixels(sheets.strip(pictures[1], columns=3)) == after[:9]).all()
    change = pixels(sheets.strip(pictures[1], 3, start=pictures[0]))
    assert (abs(change - 128 - (after[:9].astype(int) - before[:9]) / 2) < 1).all()


def test_a_method_whose_fit_fails_is_named_where_it_is_measurably_best():
    """DM's fit fails on MNIST, but its gap at IPC 10 is significantly below DSA's."""
    study = tables.read(tables.FINDINGS / "scaling_law" / "mnist")
    explorer = IpcExplorer([study], DRAWS)
    choose(explorer, methods=("dm", "dsa"), ipc=10)
    trials = study.trials[study.trials["configuration"] == study.configurations[0]]
    gap = trials[(trials["method"] == "dm") & (trials["ipc"] == 10)]["gap_error"].mean()
    measured = f"k = 100: dm has the smallest measured gap, {gap:.3f}; dsa has the smallest pred"
    assert measured in verdict(explorer)
    choose(explorer, ipc=12)  # not measured
    assert "k = 120: dsa has the smallest predicted gap" in verdict(explorer)
    assert verdict(explorer).endswith("; no prediction for 1 of 2 methods")


def test_of_lines_that_are_not_drawn_nothing_is_said():
    """Two sizes are too few for a fit; on CIFAR-10 there are six, and all fits fail."""
    for name, is_drawn in (("methods/longer_mnist", False), ("scaling_law/cifar10", True)):
        explorer = IpcExplorer([tables.read(tables.FINDINGS / name)], draws=20)
        choose(explorer, methods=("dm",), fits=("a/√k + c",))
        assert ("curve" in set(drawn(explorer, "kind")["kind"])) == is_drawn
        assert (FAILED in explorer.current.details) == is_drawn


def test_balanced_errors_are_named():
    study = tables.read(tables.FINDINGS / "scaling_law" / "adult")
    explorer = IpcExplorer([study], draws=20)
    assert next(iter(explorer.controls["measure"].options)) == "balanced test error"
    assert "balanced" in Planner([study], 20).current.note


def test_the_raw_end_of_a_k_star_beyond_the_sizes_is_a_bound():
    study = tables.read(tables.FINDINGS / "coverage_law" / "mnist")
    explorer = CoverageExplorer([study], draws=20)
    choose(explorer, epsilon=0.1)
    [row] = cells(explorer)
    assert row == {"k*": "above 500", "remark": "above 500 by the raw worst gaps"}


def test_images_are_those_of_the_nearest_size_below(ipc):
    choose(ipc, ipc=12, methods=("dm",))
    assert "Images: IPC 10, as none of IPC 12 are kept." in ipc.spec["title"]["subtitle"]
    before = list(drawn(ipc, "url")["url"])
    choose(ipc, ipc=10)
    assert list(drawn(ipc, "url")["url"]) == before
    choose(ipc, ipc=5)
    assert list(drawn(ipc, "url")["url"]) != before


def test_methods_that_are_ticked_may_lack_images(studies):
    kept = {key: picture for key, picture in studies[0].sheets.items() if key[0] != "mtt"}
    ipc = IpcExplorer([dataclasses.replace(studies[0], sheets=kept)], draws=20)
    choose(ipc, methods=("mtt",))
    assert ipc.current.details.endswith("No method that is ticked has images.")
    choose(ipc, show=("images minus random's",))
    why = "No method that is ticked has images to compare with random's."
    assert ipc.current.details.endswith(why)
    choose(ipc, methods=("mtt", "dm"))
    assert set(drawn(ipc, "url")["method"]) == {"dm"}


def test_failed_trials_and_a_single_seed_are_named(studies):
    trials = studies[0].trials
    failed = trials.assign(status=trials["status"].mask(trials["method"] == "dm", "diverged"))
    ipc = IpcExplorer([dataclasses.replace(studies[0], trials=failed)])
    choose(ipc, methods=("dm",))
    assert verdict(ipc) == "Nothing to show: every trial of dm failed."
    choose(ipc, methods=("dm", "random"))
    assert "gaps at 0 distinct k" in row(ipc, "dm")["predicted gap"]
    assert row(ipc, "dm")["measured gap"] == "failed: no seed has a gap"
    choose(ipc, ipc=12)
    assert row(ipc, "dm")["measured gap"] == "not measured"
    first = {n: getattr(studies[0], n).query("seed == 0") for n in ("trials", "references")}
    ipc = IpcExplorer([dataclasses.replace(studies[0], **first)])
    assert row(ipc, "dm")["predicted gap"].endswith("(no interval)")
    assert row(ipc, "dm")["measured gap"].replace("0.", "").isdecimal()  # without ± nan
    choose(ipc, fits=("a/√k + c", "a/k + c"))
    why = "(the first fit that is ticked, as there is no AIC)"
    assert verdict(ipc).endswith(f", by a/√k + c {why}")


def least_cover(distance: pd.DataFrame, radius: float) -> int:
    """Return the least number of balls about members that hold all, every choice tried."""
    near = distance.to_numpy() <= radius + 1e-9
    counts, members = range(1, len(near) + 1), range(len(near))
    choices = (list(choice) for count in counts for choice in combinations(members, count))
    return next(len(choice) for choice in choices if near[choice].any(axis=0).all())


def test_the_explorer_opens_on_the_radius_of_notebook_03(studies):
    radius = CoverageExplorer(studies[1:]).controls["radius"].value
    distances = studies[1].distances.to_numpy()
    pairs = distances[np.triu_indices(len(distances), 1)]
    assert radius == pytest.approx(max(np.quantile(pairs, 0.25), studies[1].noise), abs=1e-12)


def test_of_two_label_regimes_the_explorer_opens_on_the_first(studies):
    law = studies[1]
    hard = law.configurations[:4]
    labels = np.where(law.trials["configuration"].isin(hard), "hard", "soft")
    both = dataclasses.replace(law, trials=law.trials.assign(labels=labels))
    explorer = CoverageExplorer([both], draws=20)
    assert explorer.controls["preset"].value == "all configurations, hard labels"
    assert set(explorer.controls["members"].value) == set(hard)
    assert " 4 configurations" in verdict(explorer)


@pytest.mark.parametrize("place", [25, 40, 60])
def test_the_cover_is_exact_and_its_balls_hold_the_family(family, studies, place):
    radius, distance = family.controls["radius"].options[place][1], studies[1].distances
    choose(family, preset="all configurations", radius=radius)
    balls = drawn(family, "ball").groupby("ball")
    assert len(balls) == least_cover(distance, radius)
    for point in drawn(family, "configuration", "height").itertuples():
        assert distance.loc[point.configuration, point.centre] <= radius + 1e-9
    assert f": H_cov = {np.log(len(balls)):.2f}; k* " in verdict(family)
    assert balls["x"].agg(np.ptp).to_numpy() == pytest.approx(2 * radius, rel=1e-3)


def test_k_star_is_measured(family, studies):
    choose(family, preset=shipped.FAMILY)
    assert set(family.controls["members"].value) == set(shipped.MEMBERS)
    outside = drawn(family, "configuration", "height")["role"] == "not in the family"
    assert sum(~outside) == 3
    choose(family, members=())
    assert "the family is empty; tick at least one configuration" in verdict(family)
    members, method = tuple(studies[1].configurations[::4]), studies[1].methods[0]
    gaps = studies[1].gaps[studies[1].gaps["method"] == method]
    means = gaps[gaps["configuration"].isin(members)].groupby(["k", "configuration"])["gap_error"]
    worst = means.mean().groupby("k").max().iloc[3]  # so k* is about the fourth size
    epsilon = next(e for e in family.controls["epsilon"].options if e >= worst)
    choose(family, members=members, epsilon=epsilon)
    assert family.controls["preset"].value == "your own choice"
    table = family_stats.k_star(gaps, {"": members}, epsilon, draws=DRAWS).table
    ends = table.loc[0, ["k_star", "low", "high"]].to_numpy(float)
    expected = ends[np.isfinite(ends)]
    assert numbers(cells(family)[0]["k*"]) == pytest.approx(expected, abs=0.51)
    for point in drawn(family, "member", "label").itertuples():
        worst = family_stats.worst_member(gaps[gaps["k"] == point.k], members)
        assert (point.member, point.gap) == (worst[0], pytest.approx(worst[1]))


def test_a_k_star_beyond_the_sizes_has_no_number_in_its_tooltip(family, studies):
    choose(family, preset="all configurations", epsilon=0.005)
    [point] = drawn(family, "interval", "gap").to_dict("records")
    assert (point["k*"], point["interval"]) == ("above 500", "500 to no bound")
    assert studies[1].sizes[-1] == 500


def test_the_first_gap_is_one_that_tells_families_apart(family, studies):
    family.reset()
    law = studies[1]
    gaps = law.gaps[law.gaps["method"] == law.methods[0]]
    sets = {name: f for name, f in law.families.items() if name != "all configurations"}
    inside = {}
    for epsilon in law.settings["epsilons"]:
        table = family_stats.k_star(gaps, sets, epsilon, draws=0).table
        inside[epsilon] = (table["k_star"].notna() & (table["censored"] == "")).sum()
    assert inside[family.controls["epsilon"].value] == max(inside.values())


def test_the_law_is_drawn_for_all_families_on_axes_that_stay(family, studies):
    law = studies[1]
    sets = {name: f for name, f in law.families.items() if name != "all configurations"}
    radius = family.controls["radius"].options[20][1]
    gaps = law.gaps[law.gaps["method"] == law.methods[0]]
    domains = []
    for epsilon in law.settings["epsilons"]:
        expected = family_stats.k_star(gaps, sets, epsilon, draws=DRAWS).table.set_index("family")
        preset = expected["k_star"].idxmax()
        choose(family, preset=preset, radius=radius, epsilon=epsilon)
        rows = drawn(family, "fitted").set_index("family")
        assert rows["k_star"].to_dict() == pytest.approx(expected["k_star"].dropna().to_dict())
        for name, value in rows["value"].items():
            members = list(sets[name])
            cover = least_cover(law.distances.loc[members, members], radius)
            assert value == pytest.approx(np.log(cover))
        ring = drawn(family, "remark", "at").iloc[0]
        assert (ring["at"], ring["k"]) == pytest.approx(tuple(rows.loc[preset, ["at", "k_star"]]))
        axes = re.findall(r"'domain': \[[-\d., ]+\]", str(family.spec))
        domains.append(axes)
    assert domains[0] == domains[1] != []
    note = family.current.note
    assert f"Worst gap {epsilon:g}: k* rises with H_cov " in note
    errors = law.full.groupby("configuration")["error"].mean()[list(sets[preset])]
    for name, error in errors.items():
        assert (f"{name} ({1 - error:.2f})" in note) == (error > errors.median() + epsilon)


def test_a_dead_configuration_leaves_other_families_whole_and_its_own_say_why(studies):
    law = studies[1]
    *alive, last = law.configurations
    dead = (law.trials["configuration"] == last) & (law.trials["method"] == law.methods[0])
    trials = law.trials.assign(status=law.trials["status"].mask(dead, "diverged"))
    lame = CoverageExplorer([dataclasses.replace(law, trials=trials)])
    whole = CoverageExplorer([law])
    for explorer in (lame, whole):
        choose(explorer, members=alive[:4])
    assert cells(lame) == cells(whole)
    choose(lame, members=(*alive[:2], last))
    assert len(drawn(lame, "configuration", "height")) == len(law.distances)
    assert cells(lame) == [{"k*": "unknown", "remark": "no k has every member in 2 seeds"}]
    with pytest.raises(ValueError, match="give the results folder of notebook 03"):
        CoverageExplorer(studies[:1])


@pytest.mark.parametrize("kind", [CoverageExplorer, Planner])
def test_without_networks_on_all_data_there_is_nothing_to_explore(studies, kind):
    references = studies[1].references.assign(status="diverged")
    with pytest.raises(ValueError, match="no study here has gaps"):
        kind([dataclasses.replace(studies[1], references=references)])


@pytest.fixture
def needs(studies):
    """Return a function that plans for a worst gap: {method: Plan}."""
    parts = studies[0].gaps.groupby("method")
    pilots = {method: read_pilot(gaps, draws=DRAWS) for method, gaps in parts}
    return lambda epsilon: {m: planner.plan(p, ["hard"], epsilon, 10) for m, p in pilots.items()}


def test_the_planner_opens_on_a_gap_that_half_of_the_methods_hold_at_the_largest_size(studies):
    """Under hard labels, gaps at 50 per class are 0.266, 0.279, 0.295, 0.306 and 0.460."""
    assert Planner(studies[:1]).controls["epsilon"].value == 0.3


def test_where_no_size_is_within_the_budget_the_planner_opens_on_the_smallest(studies):
    """Under hard labels, gaps at the smallest size are 0.323, 0.350, 0.374, 0.422 and 0.536."""
    trials = studies[0].trials.query("ipc >= 10")
    trials = trials.assign(ipc=10 * trials["ipc"], k=10 * trials["k"])
    law = dataclasses.replace(studies[0], trials=trials)
    assert Planner([law]).controls["epsilon"].value == 0.4


def test_the_planner_opens_on_what_is_known_where_the_largest_size_failed(studies):
    """At 50 per class nothing is known; under hard labels, gaps at 10 are larger than at 50."""
    trials, lost = studies[0].trials, studies[0].trials["ipc"] == 50
    failed = trials.assign(
        status=trials["status"].mask(lost, "failed"), gap_error=trials["gap_error"].mask(lost)
    )
    kept = dataclasses.replace(studies[0], trials=trials[trials["ipc"] < 50])
    law = dataclasses.replace(studies[0], trials=failed)
    opened = [Planner([study]).controls["epsilon"].value for study in (law, kept)]
    assert opened[0] == opened[1] < 0.5


def test_the_planner_does_not_deny_what_lies_beyond_what_it_can_say(studies):
    """The study goes up to 50 per class, so plans speak of at most 100."""
    wide = Planner(studies[:1])
    choose(wide, family="hard alone", epsilon=0.01, budget=500)
    assert verdict(wide).startswith(
        "No method is known to hold a gap of 0.01, as this study speaks of at most 100 samples "
        "per class; "
    )


def test_the_planner_doubts_in_its_headline_what_its_note_doubts(studies):
    law = Planner(studies[1:], DRAWS)
    choose(law, epsilon=0.2, budget=1000)
    assert verdict(law).startswith("A guess: take dm with 90 ")
    assert "this plan rests on it: do not trust it there." in law.current.note


def test_the_planner_takes_the_least_need_within_the_budget(plans, needs, studies):
    choose(plans, family="hard alone", epsilon=0.4, budget=50)
    expected = {method: plan.ipc for method, plan in needs(0.4).items()}
    assert [method for method, need in expected.items() if need is None] == ["k_center"]
    assert row(plans, "k_center")["samples per class"] == "unknown"
    del expected["k_center"]
    least = min(need.estimate for need in expected.values())
    assert expected[cells(plans)[0]["method"]].estimate == least
    assert verdict(plans).startswith(f"Take {cells(plans)[0]['method']} with {least:.0f} (")
    for method, need in expected.items():
        ends = [end for end in need if np.isfinite(end)]
        assert numbers(row(plans, method)["samples per class"]) == ends
    tooltips = drawn(plans, "need").set_index("method")["need"]
    assert len(tooltips) == len(expected)
    assert all(text == row(plans, name)["samples per class"] for name, text in tooltips.items())
    choose(plans, epsilon=0.005, budget=1000)  # far past the measured sizes: no gap is guessed
    gaps = studies[0].gaps.query("configuration == 'hard' and k == 500")
    for method, mean in gaps.groupby("method")["gap_error"].mean().items():
        assert numbers(row(plans, method)["gap at 50"])[0] == pytest.approx(mean, abs=2e-3)
    for method, plan in needs(0.005).items():
        assert row(plans, method)["remark"].startswith(plan.reason)
    unknown = [cell for cell in cells(plans) if cell["samples per class"] == "unknown"]
    assert all("measure larger sizes" in cell["remark"] for cell in unknown)


def test_the_planner_shows_measured_gaps_and_warns_of_a_rejected_curve(plans, studies):
    choose(plans, family="soft alone", epsilon=0.4, budget=50)
    trials = studies[0].gaps.query("configuration == 'soft'")
    means = trials.groupby(["method", "ipc"])["gap_error"].mean()
    columns = {"method", "member", "law", "ipc", "gap"}
    [dots] = [rows for rows in plans.spec["datasets"].values() if rows and set(rows[0]) == columns]
    dots = pd.DataFrame(dots).set_index(["method", "ipc"])["gap"]
    assert dots.to_dict() == pytest.approx(means.to_dict())
    judged = {
        method: verdicts.verdict(laws.fit_all(laws.gap_matrix(trials, method), draws=DRAWS))
        for method in studies[0].methods
    }
    for method, outcome in judged.items():
        assert row(plans, method)["a/√k + c"] == outcome.outcome
    first = cells(plans)[0]["method"]
    assert judged[first].outcome == "fails"
    assert f"fails for {first} under soft: {judged[first].why}. This plan" in plans.current.note
    assert plans.current.details == "This pilot is too small to test its intervals on itself."


def test_a_target_above_all_gaps_is_in_the_picture(studies):
    trials = studies[0].trials.query("method == 'mtt' and configuration == 'hard'")
    assert 1.05 * trials.groupby("k")["gap_error"].mean().max() < 0.5
    high = Planner([dataclasses.replace(studies[0], trials=trials)], draws=20)
    choose(high, epsilon=0.5)
    axes = [layer["encoding"].get("y", {}) for layer in high.spec["vconcat"][1]["layer"]]
    tops = {axis["scale"]["domain"][1] for axis in axes if "scale" in axis}
    assert min(tops) > 0.5


def test_the_planner_says_how_many_left_out_gaps_its_intervals_held(studies):
    law = Planner(studies[1:], DRAWS)
    gaps = studies[1].gaps[studies[1].gaps["method"] == cells(law)[0]["method"]]
    held, count, width = read_pilot(gaps, draws=DRAWS).left_out
    assert f"{held} of {count} gaps that were left out" in law.current.details
    assert f"{width:.2g} wide" in law.current.details


def test_beyond_the_budget_methods_are_ordered_by_their_gap_there(plans, studies):
    choose(plans, family="hard alone", epsilon=0.04, budget=1)
    assert verdict(plans).startswith("No method holds a gap of 0.04 within 1 sample per class; ")
    gaps = [numbers(cell["gap at 1"])[0] for cell in cells(plans)]
    means = studies[0].trials.query("configuration == 'hard' and k == 10").groupby("method")
    assert gaps == sorted(gaps)
    assert gaps == pytest.approx(means["gap_error"].mean().sort_values().tolist(), abs=0.02)


@pytest.mark.parametrize("kind", [IpcExplorer, CoverageExplorer, Planner])
def test_an_explorer_is_sound_answers_at_once_and_is_reset(studies, kind):
    """Move every control to another value: the charts are sound, and the answer takes no time."""
    explorer = kind(studies)
    before = explorer.spec, {name: c.value for name, c in explorer.controls.items()}
    for name, control in explorer.controls.items():
        start = time.process_time()
        if isinstance(control, Ticks):
            choose(explorer, **{name: [box.description for box in control.children[1:3]]})
        else:
            control.index = (control.index + 1) % len(control.options)
        assert time.process_time() - start < 2, name  # 0.05 to 0.3 s; a busy machine takes longer
    spec = explorer.spec
    parts = explorer.picture.specs  # of the same data as the whole
    assert {name: rows for part in parts for name, rows in part["datasets"].items()} == (
        spec["datasets"]
    )
    for chart in (spec, *parts):
        alt.Chart.from_dict(chart | {"datasets": {}})  # raises for what the schema does not know
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle[WIDGET]["model_id"] == explorer.model_id
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "<table" in bundle[NUMBERS]
    assert metadata["image/png"]["width"] < 1000  # fits a window of 1280 with a sidebar
    # Viewers that know no widgets show the picture: the numbers stand below the chart.
    chart = Image.open(BytesIO(mime_bundle(spec)[0]["image/png"]))
    still = Image.open(BytesIO(bundle["image/png"]))
    assert still.height >= chart.height + 2 * 21 * len(cells(explorer))
    assert np.asarray(still.convert("L"))[chart.height :].min() < 128  # dark text
    explorer.reset()
    assert (explorer.spec, {name: c.value for name, c in explorer.controls.items()}) == before


def test_findings_are_explored_without_torch():
    code = "from ddlib.explore import ipc, tables\nimport sys\n"
    code += "ipc.IpcExplorer(tables.findings())\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_pictures_of_the_notebook_are_what_the_command_draws():
    drawn = {f"{name}.png": png for name, png in evidence.pictures(tables.findings()).items()}
    explorers = ["explore_coverage.png", "explore_ipc.png", "explore_planner.png"]
    assert sorted(drawn) == [*explorers, "gap_against_k.png"]
    assert "notebooks/images/gap_against_k.png" in (NOTEBOOKS.parent / "README.md").read_text()
    notebook = nbformat.read(NOTEBOOKS / "05_explore.ipynb", as_version=4)
    assert sorted(re.findall(r'src="images/(.*?)"', notebook.cells[-1].source)) == explorers
    for name, png in drawn.items():
        kept = NOTEBOOKS / "images" / name
        assert kept.stat().st_size < 120_000
        # A machine's own letters may be 2 pixels wider: squares of 8 by 8 pixels, their means,
        # differ by 45 of 255 then, and by more than 64 where a mark of 16 pixels moved by 20.
        pictures = (Image.open(at).convert("L").reduce(8) for at in (kept, BytesIO(png)))
        old, new = (np.asarray(picture, float) for picture in pictures)
        assert old.shape == new.shape, "run python -m ddlib.explore.evidence"
        assert np.abs(old - new).max() < 64, "run python -m ddlib.explore.evidence"
