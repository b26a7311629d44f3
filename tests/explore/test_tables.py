"""Tables of a study that ended: from its results folder, and from the example."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ddlib.data.normalise import Normalisation
from ddlib.distilled import DistilledSet
from ddlib.explore import tables
from ddlib.stats import covers
from ddlib.study.settings import read_settings


@pytest.fixture(scope="module")
def example():
    return tables.example()


def test_the_example_holds_the_studies_of_two_notebooks(example):
    methods, law = example
    assert list(tables.named(example)) == ["digits: methods/digits", "digits: coverage_law/digits"]
    assert methods.sizes == [10, 20, 50, 100, 200, 400]
    assert law.sizes == [10, 20, 50, 100, 400]
    assert law.methods == ["dm", "dm_for_all"]
    assert (methods.class_count, methods.ipcs) == (10, [1, 2, 5, 10, 20, 40])
    assert {"random", "dm", "dc", "dsa", "mtt", "mgd3"} <= set(methods.methods)
    assert methods.distances is None
    assert list(law.distances.index) == law.configurations
    files = [path for path in tables.EXAMPLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000


def test_families_are_those_of_the_settings_and_of_equal_size(example):
    _, law = example
    assert law.families["all configurations"] == tuple(law.configurations)
    assert law.families["optimisation-3"] == ("own", "adam", "rmsprop")
    spread = covers.spread_families(law.distances, 4, 5)
    assert {name: law.families[name] for name in spread} == spread


def test_too_few_configurations_leave_out_the_families_of_equal_size(tmp_path):
    names = ["own", "adam", "mlp", "vit"]
    settings = read_settings({
        "data": {"name": "digits"}, "network": {"name": "mlp"}, "methods": {"random": {}},
        "training": {"steps": 5}, "k": [10], "seeds": 4, "results": str(tmp_path),
        "families": {"pair": ["own", "adam"]},
        "configurations": {name: {"steps": n} for n, name in enumerate(names, 1)},
        "spread": {"size": 4, "count": 5},
    })  # fmt: skip
    distances = pd.DataFrame(1 - np.eye(4), index=names, columns=names)
    trials = pd.DataFrame({"configuration": names})
    law = tables.Tables(tmp_path, settings, trials, trials, distances, 0.0, {})
    assert law.families == {"all configurations": tuple(names), "pair": ("own", "adam")}
    assert law.spread[1].startswith("no families of equal size: size=4, count=5 give no choice")


def test_gaps_come_from_each_seeds_own_reference(example):
    _, law = example
    full = law.references[law.references["reference"] == law.settings.reference]
    full = full.set_index(["configuration", "seed"])["error"]
    own = full.loc[pd.MultiIndex.from_frame(law.gaps[["configuration", "seed"]])].to_numpy()
    assert (law.gaps["gap_error"] == law.gaps["error"] - own).all()


def test_written_distances_are_read_back(tmp_path):
    names = ["b", "a", "c"]
    points = np.random.default_rng(0).normal(size=(3, 2))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance = pd.DataFrame(matrix, index=names, columns=names)
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", tmp_path / "mine" / "quick")
    tables.write_distances(tmp_path / "mine" / "quick", distance, 0.25)
    found = tables.read(tmp_path / "mine" / "quick")
    assert list(tables.named([found])) == ["digits: mine/quick"]
    assert found.noise == 0.25
    pd.testing.assert_frame_equal(found.distances, distance)


def test_names_are_as_long_as_it_takes_to_tell_studies_apart(tmp_path, example):
    places = ["one/methods/quick", "two/deep/methods/quick", "deep/methods/quick"]
    for place in places:
        shutil.copytree(tables.EXAMPLE / "methods" / "digits", tmp_path / place)
    found = [tables.read(tmp_path / place) for place in places] + [example[1]]
    assert list(tables.named(found)) == [
        "digits: one/methods/quick",
        "digits: two/deep/methods/quick",
        f"digits: {tmp_path.name}/deep/methods/quick",
        "digits: coverage_law/digits",
    ]
    assert list(tables.named(found).values()) == found


def test_a_folder_given_twice_is_refused(tmp_path):
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", tmp_path / "mine" / "quick")
    (tmp_path / "same").symlink_to(tmp_path / "mine")
    found = [tables.read(tmp_path / name / "quick") for name in ("mine", "same")]
    with pytest.raises(ValueError, match="mine/quick is given twice; give each folder once"):
        tables.named(found)


def test_a_sheet_shows_a_column_a_class(tmp_path):
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 2, 2) / 10
    made = DistilledSet(
        images, torch.tensor([0, 0, 0, 1, 1, 1]), Normalisation((0.0,), (1.0,)), ("a", "b"),
        data="x", method="dm", parameters={}, seed=0,
    )  # fmt: skip
    folder = tmp_path / "results"
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    (folder / "sheets.parquet").unlink()
    made.save(folder / "distilled" / "dm-ipc3-seed0-abc.safetensors")
    name = "dm-ipc3-seed{}-{}.safetensors".format
    other = dataclasses.replace(made, images=-images)
    other.save(folder / "distilled" / name(0, "of-other-settings"))
    names = [name(0, "abc"), name(1, "abd")]
    costs = {"method": "dm", "ipc": 3, "seed": [0, 1], "set": names}
    pd.DataFrame(costs).to_parquet(folder / "costs.parquet")
    found = tables.read(folder)
    assert list(found.sheets) == [("dm", 3)]
    (tmp_path / "sheet.png").write_bytes(found.sheet("dm", 3))
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (9, 6)  # three images of 2 + 1 pixels high, two wide
    tenth = [round(value * 25.5) for value in range(6)]
    assert pixels[1::3, 1].tolist() == tenth[:3]
    assert pixels[1::3, 4].tolist() == tenth[3:]
    assert (pixels[0] == tables.PAPER).all()
    assert found.sheet("dm", 5) is None
    assert found.sheet_address("dm", 5) is None
    assert found.sheet_address("dm", 3).startswith("data:image/png;base64,")
    pd.DataFrame(costs).drop(columns="set").to_parquet(folder / "costs.parquet")
    assert not tables.read(folder).sheets  # of a version that named no files


def test_the_example_is_what_its_command_writes(tmp_path, example):
    folders = [tables.EXAMPLE / "methods" / "digits"]
    tables.write_example(folders, tmp_path)
    again = tables.read(tmp_path / "methods" / "digits")
    pd.testing.assert_frame_equal(again.trials, example[0].trials)
    assert dict(again.sheets) == dict(example[0].sheets)


def test_results_of_another_version_say_what_to_do(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    told = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(told | {"tolerance": 0.1}))
    with pytest.raises(
        ValueError, match=r"version of ddlib cannot read .* \(this study: 'tolerance' .*\); run its"
    ):
        tables.read(folder)


@pytest.mark.parametrize("missing", ["settings.json", "trials.parquet"])
def test_a_folder_without_a_finished_study_is_refused(tmp_path, missing):
    folder = tmp_path / "mine"
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no finished study \\({missing} is not"):
        tables.read(folder)


def test_a_study_without_trials_is_refused(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    pd.read_parquet(folder / "trials.parquet").head(0).to_parquet(folder / "trials.parquet")
    with pytest.raises(ValueError, match="has no trials; run its notebook again"):
        tables.read(folder)


def test_a_configuration_is_left_out_once_no_seed_has_a_network_on_all_data(example):
    _, law = example
    vit = law.references["configuration"] == "vit"
    first = vit & (law.references["seed"] == 0)
    for lost, kept in ((first, True), (vit, False)):
        status = law.references["status"].mask(lost, "diverged")
        found = dataclasses.replace(law, references=law.references.assign(status=status))
        assert ("vit" in found.configurations) == kept
        assert ("vit" in set(found.gaps["configuration"])) == kept


def test_gaps_of_an_older_definition_are_refused(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    old = pd.read_parquet(folder / "trials.parquet").drop(columns="gap_error_same_steps")
    old.to_parquet(folder / "trials.parquet")
    with pytest.raises(ValueError, match="measured from the mean of all networks on all data"):
        tables.read(folder)


def test_the_command_says_what_is_wrong():
    with pytest.raises(SystemExit, match=r"usage: python -m ddlib.explore.tables example"):
        tables.main([])
    with pytest.raises(SystemExit, match="holds no finished study"):
        tables.main(["example", "nowhere/at_all"])
