"""Explorers: a choice shows what the library computes, at once, and says where it has no data."""

import dataclasses
import re
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import altair as alt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ddlib.explore import explorers as explore
from ddlib.explore import tables
from ddlib.explore.controls import Ticks
from ddlib.explore.ipc import MEASURES
from ddlib.publish.page import NUMBERS
from ddlib.stats import families as family_stats
from ddlib.stats import laws, planner, verdicts

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
DRAWS = 200


@pytest.fixture(scope="module")
def example():
    return tables.example()


@pytest.fixture
def ipc(example):
    return explore.IpcExplorer(example)


@pytest.fixture(scope="module")
def family(example):
    return explore.CoverageExplorer(example)


@pytest.fixture(scope="module")
def plans(example):
    return explore.Planner(example)


def choose(explorer, **values):
    """Move controls: a menu to a name, a slider to a value, checkboxes to the names ticked."""
    for name, value in values.items():
        control = explorer.controls[name]
        if isinstance(control, Ticks):
            control.offer([box.description for box in control.children[1:]], value)
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
    [found] = [row for row in cells(explorer) if name in row.values()]
    return found


def numbers(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def drawn(explorer, *columns: str) -> pd.DataFrame:
    """Return the rows of the picture's one table that has these columns."""
    found = explorer.picture.spec["datasets"].values()
    [table] = [table for table in found if table and set(columns) <= set(table[0])]
    return pd.DataFrame(table)


def verdict(explorer) -> str:
    return explorer.picture.spec["title"]["text"]


@pytest.mark.parametrize("size", [1, 12, 20, 80])
@pytest.mark.parametrize("measure", ["gap_error", "gap_cross_entropy"])
def test_predicted_and_measured_are_those_of_the_fit(ipc, example, size, measure):
    choose(ipc, ipc=size, methods=("dsa",), measure=list(MEASURES)[measure != "gap_error"])
    choose(ipc, configuration="augmented", least_gain=1e-3)
    trials = example[0].trials.query("configuration == 'augmented' and method == 'dsa'")
    gaps = trials.pivot(index="seed", columns="k", values=measure)
    fit = laws.fit(gaps, "inverse_sqrt", draws=DRAWS)
    a, c = fit.parameters["a"].estimate, fit.parameters["c"].estimate
    k, [found] = 10 * size, cells(ipc)
    expected = [a / k**0.5 + c, *fit.predict(k)[["low", "high"]].iloc[0]]
    assert numbers(found["predicted gap"]) == pytest.approx(expected, abs=6e-4)
    if k in gaps:
        measured = [gaps[k].mean(), gaps[k].std()]
        assert numbers(found["measured gap"]) == pytest.approx(measured, abs=6e-4)
    else:
        assert found["measured gap"] == "not measured"
    gain = a / k**0.5 - a / (k + 1) ** 0.5
    assert numbers(found["gain of the next image"])[0] == pytest.approx(gain, rel=0.06)
    k_sat = (a / 2e-3) ** (2 / 3)
    [column] = [name for name in found if name.startswith("k_sat")]
    assert numbers(found[column])[0] == pytest.approx(k_sat, abs=0.6)
    marks = drawn(ipc, "mark").set_index("mark")
    assert marks.loc["predicted", "gap"] == pytest.approx(a / k**0.5 + c, rel=1e-6)
    assert marks.loc["k_sat", "k"] == pytest.approx(k_sat, rel=1e-6)
    assert f"dsa has the smallest predicted gap, {found['predicted gap']}" in verdict(ipc)


def test_a_law_that_was_rejected_predicts_nothing(ipc, example):
    trials = example[0].trials.query("configuration == 'plain'")
    fits = laws.fit_all(laws.gap_matrix(trials, "random"), draws=DRAWS)
    judged = verdicts.verdict(fits)
    assert judged.outcome == "fails"
    choose(ipc, methods=("random",), fits=[law.formula for law in laws.LAWS.values()])
    missed = {fit.law.formula for fit in fits.values() if fit.misfit <= 0.05}
    for found in cells(ipc):
        if found["fit"] == "a/√k + c":
            assert found["predicted gap"] == f"fails: {judged.why}"
        elif found["fit"] in missed:
            assert found["predicted gap"] == "fails: misses the means"
        else:
            assert len(numbers(found["predicted gap"])) == 3
        assert ("fails" in found["predicted gap"]) == (found["gain of the next image"] == "")
    choose(ipc, fits=("a/√k + c",))
    assert verdict(ipc).endswith("no fit that is ticked predicts a gap")


def test_fits_and_methods_are_ticked_in_and_out(ipc):
    choose(ipc, methods=("random", "dsa"), fits=("a/√k + c", "a·exp(−k/τ) + c"))
    assert set(drawn(ipc, "seed", "gap")["method"]) == {"random", "dsa"}
    assert set(drawn(ipc, "law")["fit"]) == {"a/√k + c", "a·exp(−k/τ) + c"}
    assert "is not a power law" in str(cells(ipc)[3])
    choose(ipc, fits=())
    assert [found["method"] for found in cells(ipc)] == ["random", "dsa"]
    assert len(numbers(cells(ipc)[0]["measured gap"])) == 2


def test_images_are_those_of_the_nearest_size_below(ipc, example):
    choose(ipc, ipc=12, methods=("dm",))
    assert "Images: IPC 10, as IPC 12 was not" in ipc.picture.spec["title"]["subtitle"]
    [before] = drawn(ipc, "url")["url"]
    choose(ipc, ipc=10)
    assert list(drawn(ipc, "url")["url"]) == [before]
    choose(ipc, ipc=5)
    assert list(drawn(ipc, "url")["url"]) != [before]


def test_a_choice_without_data_says_so_and_another_recovers(ipc):
    choose(ipc, methods=())
    assert verdict(ipc) == "Nothing to show: no method is ticked; tick at least one."
    assert ipc.numbers.value == ""
    choose(ipc, methods=("dm",))
    assert len(cells(ipc)) == 1


def test_trials_that_failed_are_named(example):
    trials = example[0].trials
    failed = trials.assign(status=trials["status"].mask(trials["method"] == "dm", "diverged"))
    ipc = explore.IpcExplorer([dataclasses.replace(example[0], trials=failed)])
    choose(ipc, methods=("dm",))
    assert verdict(ipc) == "Nothing to show: every trial of dm failed."
    choose(ipc, methods=("dm", "random"))
    assert "gaps at 0 distinct k" in row(ipc, "dm")["predicted gap"]


def test_one_seed_has_numbers_and_no_intervals(example):
    first = {n: getattr(example[0], n).query("seed == 0") for n in ("trials", "references")}
    ipc = explore.IpcExplorer([dataclasses.replace(example[0], **first)])
    [gap] = first["trials"].query("configuration == 'plain' and method == 'dm' and k == 100")[
        "gap_error"
    ]
    found = row(ipc, "dm")
    assert found["predicted gap"].endswith("(no interval)")
    assert numbers(found["measured gap"])[0] == pytest.approx(gap, abs=6e-4)


def test_another_study_brings_its_own_choices(ipc):
    choose(ipc, ipc=20, study="digits: coverage_law/digits")
    assert ipc.controls["methods"].value == ("dm",)
    assert "vit" in ipc.controls["configuration"].options
    assert verdict(ipc).startswith("IPC 20, k = 200")


def least_cover(distance: pd.DataFrame, radius: float) -> int:
    """Return the least number of balls about members that hold all, every choice tried."""
    near = distance.to_numpy() <= radius + 1e-9
    return next(
        count
        for count in range(1, len(near) + 1)
        for centres in combinations(range(len(near)), count)
        if near[list(centres)].any(axis=0).all()
    )


@pytest.mark.parametrize("place", [3, 15, 50])
def test_the_cover_is_exact_and_its_balls_hold_the_family(family, example, place):
    radius, distance = family.controls["radius"].options[place], example[1].distances
    choose(family, preset="all configurations", radius=radius)
    balls = drawn(family, "ball").groupby("ball")
    assert len(balls) == least_cover(distance, radius)
    for point in drawn(family, "configuration", "height").itertuples():
        assert distance.loc[point.configuration, point.centre] <= radius + 1e-9
    assert verdict(family).endswith(f"H_cov = {np.log(len(balls)):.2f}")
    assert balls["x"].agg(np.ptp).to_numpy() == pytest.approx(2 * radius, rel=1e-3)


def test_k_star_is_measured_and_planned(family, example):
    law, members = example[1], ("own", "adam", "mlp", "vit")
    gaps = law.gaps[law.gaps["method"] == "dm"]
    choose(family, members=members, epsilon=0.08)
    assert family.controls["preset"].value == "your own choice"
    [measured] = family_stats.k_star(gaps, {"": members}, 0.08, draws=DRAWS).table.to_dict(
        "records"
    )
    ends = [end for name in ("k_star", "low", "high") if np.isfinite(end := measured[name])]
    assert numbers(row(family, "k*, measured")["k*"]) == pytest.approx(ends, abs=0.51)
    plan = planner.plan(planner.read_pilot(gaps, draws=DRAWS), members, 0.08, 10)
    assert numbers(row(family, "k*, planned")["k*"]) == [end for end in plan.k if np.isfinite(end)]
    for point in drawn(family, "member").itertuples():
        worst = family_stats.worst_member(gaps[gaps["k"] == point.k], members)
        assert (point.member, point.gap) == (worst[0], pytest.approx(worst[1]))


def test_presets_tick_boxes(family):
    choose(family, preset="optimisation-3")
    assert family.controls["members"].value == ("own", "adam", "rmsprop")
    outside = drawn(family, "configuration", "height")["role"] == "not in the family"
    assert sum(~outside) == 3
    choose(family, members=("own", "adam", "rmsprop", "vit"))
    assert family.controls["preset"].value == "your own choice"
    choose(family, members=())
    assert "the family is empty; tick at least one configuration" in verdict(family)


def failing(law: tables.Tables, lost: pd.Series) -> explore.CoverageExplorer:
    trials = law.trials.assign(status=law.trials["status"].mask(lost, "diverged"))
    return explore.CoverageExplorer([dataclasses.replace(law, trials=trials)])


def test_a_dead_configuration_leaves_other_families_whole_and_its_own_say_why(example):
    law = example[1]
    dead = (law.trials["configuration"] == "vit") & (law.trials["method"] == "dm")
    lame, whole = failing(law, dead), explore.CoverageExplorer([law])
    for explorer in (lame, whole):
        choose(explorer, members=("own", "adam", "rmsprop", "slow"))
    assert cells(lame) == cells(whole)
    choose(lame, members=("own", "adam", "vit"))
    assert len(drawn(lame, "configuration", "height")) == len(law.distances)
    reasons = {
        "k*, measured": "no k has every member in 2 seeds",
        "k*, planned": "vit has gaps of two seeds at 0 sizes; it needs 3",
    }
    for name, reason in reasons.items():
        assert row(lame, name)["k*"] == "unknown"
        assert row(lame, name)["remark"].startswith(reason)
    choose(lame, method="dm_for_all")
    assert numbers(row(lame, "k*, measured")["k*"])


def test_where_no_family_has_a_k_star_the_map_stays(example):
    explorer = failing(example[1], example[1].trials["k"] > 0)
    assert len(drawn(explorer, "configuration", "height")) == len(example[1].distances)
    assert [found["k*"] for found in cells(explorer)] == ["unknown"] * 2


def test_a_lost_size_is_named(example):
    trials = example[1].trials
    explorer = failing(example[1], trials["configuration"].eq("adam") & trials["k"].eq(20))
    choose(explorer, members=("own", "adam"), epsilon=0.05)
    remark = row(explorer, "k*, measured")["remark"]
    assert remark.endswith("sizes left out for missing trials: 1")


def test_studies_without_distances_are_refused(example):
    with pytest.raises(ValueError, match="give the results folder of notebook 03"):
        explore.CoverageExplorer(example[:1])


def needs(example, epsilon: float) -> dict[str, planner.Plan]:
    return {
        method: planner.plan(planner.read_pilot(gaps, draws=DRAWS), ["plain"], epsilon, 10)
        for method, gaps in example[0].gaps.groupby("method")
    }


def test_the_planner_takes_the_least_need_within_the_budget(plans, example):
    choose(plans, family="plain alone", epsilon=0.04, budget=50)
    expected = {method: plan.ipc for method, plan in needs(example, 0.04).items()}
    least = min(need.estimate for need in expected.values())
    assert expected[cells(plans)[0]["method"]].estimate == least
    assert verdict(plans).startswith(f"Take {cells(plans)[0]['method']} with {least:.0f} (")
    for method, need in expected.items():
        ends = [end for end in need if np.isfinite(end)]
        assert numbers(row(plans, method)["images per class"]) == ends


def test_beyond_the_budget_methods_are_ordered_by_their_gap_there(plans, example):
    choose(plans, family="plain alone", epsilon=0.04, budget=1)
    assert verdict(plans).startswith("No method holds a gap of 0.04 within 1 images per class; ")
    gaps = [numbers(found["gap at 1"])[0] for found in cells(plans)]
    assert gaps == sorted(gaps)
    means = example[0].trials.query("configuration == 'plain' and k == 10").groupby("method")
    assert gaps == pytest.approx(means["gap_error"].mean().sort_values().tolist(), abs=0.02)


def test_a_plan_far_past_the_measured_sizes_is_refused_or_a_guess(plans, example):
    choose(plans, family="plain alone", epsilon=0.005, budget=1000)
    for method, plan in needs(example, 0.005).items():
        assert row(plans, method)["remark"].startswith(plan.reason)
    unknown = [found for found in cells(plans) if found["images per class"] == "unknown"]
    assert all("measure larger sizes" in found["remark"] for found in unknown)


@pytest.mark.parametrize("kind", [explore.IpcExplorer, explore.CoverageExplorer, explore.Planner])
def test_an_explorer_is_sound_and_answers_at_once(example, kind):
    """Move every control to another value: the charts are sound, and the answer takes no time."""
    explorer = kind(example)
    for name, control in explorer.controls.items():
        if isinstance(control, Ticks):
            change = {name: [box.description for box in control.children[1:3]]}
        else:
            index = (control.index + 1) % len(control.options)
            change = (
                {name: control._options_labels[index]} if "label" in control.trait_names() else {}
            )
        start = time.process_time()
        choose(explorer, **change)
        assert time.process_time() - start < 2, name  # 0.05 to 0.3 s; a busy machine takes longer
        spec = explorer.picture.spec
        alt.Chart.from_dict(spec | {"datasets": {}})  # raises for what the schema does not know
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle[WIDGET]["model_id"] == explorer.model_id
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "<table" in bundle[NUMBERS]
    assert metadata["image/png"]["width"] < 1000  # fits a window of 1280 with a sidebar


def test_the_example_is_explored_without_torch():
    code = "from ddlib.explore import explorers, tables\nimport sys\n"
    code += "explorers.IpcExplorer(tables.example())\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_pictures_of_the_notebook_are_what_the_command_draws(tmp_path):
    explore.write_pictures(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    explorers = ["explore_coverage.png", "explore_ipc.png", "explore_planner.png"]
    assert names == [*explorers, "gap_against_k.png"]
    assert "notebooks/images/gap_against_k.png" in (NOTEBOOKS.parent / "README.md").read_text()
    notebook = nbformat.read(NOTEBOOKS / "05_explore.ipynb", as_version=4)
    shown = re.findall(r'src="images/(.*?)"', notebook.cells[-1].source)
    assert sorted(shown) == explorers
    for name in names:
        kept = NOTEBOOKS / "images" / name
        assert kept.stat().st_size < 120_000
        pixels = [np.asarray(Image.open(at).convert("L"), float) for at in (kept, tmp_path / name)]
        assert pixels[0].shape == pixels[1].shape, (
            "python -m ddlib.explore.explorers notebooks/images"
        )
        # Edges may be smoothed otherwise elsewhere; a mark that moved is some thousands of pixels.
        assert np.mean(np.abs(pixels[0] - pixels[1]) > 64) < 2e-4
