"""Tables of a finished study: from its results folder, and from the example."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ddlib.data.normalise import Normalisation
from ddlib.distilled import DistilledSet
from ddlib.explore import sheets, tables
from ddlib.stats import covers


@pytest.fixture(scope="module")
def example():
    return tables.example()


@pytest.fixture
def mine(tmp_path):
    """Return a copy of the example's first study, as the results folder of a reader."""
    return shutil.copytree(tables.EXAMPLE / "methods" / "digits", tmp_path / "mine" / "quick")


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


def test_families_are_those_of_the_study_and_of_equal_size(example):
    law = example[1]
    assert law.families["all configurations"] == tuple(law.configurations)
    assert law.families["optimisation-3"] == ("own", "adam", "rmsprop")
    spread = covers.spread_families(law.distances, 4, 5)
    assert {name: law.families[name] for name in spread} == spread
    few = ["own", "adam", "mlp", "vit"]
    law = dataclasses.replace(law, distances=law.distances.loc[few, few])
    assert law.families["optimisation-4"] == ("own", "adam")
    assert not [name for name in law.families if name.startswith("spread")]
    assert law.spread[1].startswith("no families of equal size: size=4, count=5 give no choice")


def test_gaps_come_from_each_seeds_own_reference(example):
    _, law = example
    full = law.references[law.references["reference"] == "same_steps"]
    full = full.set_index(["configuration", "seed"])["error"]
    own = full.loc[pd.MultiIndex.from_frame(law.gaps[["configuration", "seed"]])].to_numpy()
    assert (law.gaps["gap_error"] == law.gaps["error"] - own).all()


def test_a_configuration_is_left_out_once_no_seed_has_a_network_on_all_data(example):
    _, law = example
    vit = law.references["configuration"] == "vit"
    first = vit & (law.references["seed"] == 0)
    for lost, kept in ((first, True), (vit, False)):
        status = law.references["status"].mask(lost, "diverged")
        study = dataclasses.replace(law, references=law.references.assign(status=status))
        assert ("vit" in study.configurations) == kept
        assert ("vit" in set(study.gaps["configuration"])) == kept


def test_written_distances_are_read_back(mine):
    names = ["b", "a", "c"]
    points = np.random.default_rng(0).normal(size=(3, 2))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance = pd.DataFrame(matrix, index=names, columns=names)
    tables.write_distances(mine, distance, 0.25)
    study = tables.read(mine)
    assert study.noise == 0.25
    pd.testing.assert_frame_equal(study.distances, distance)


def test_studies_whose_folders_end_alike_are_named_in_full(tmp_path, example):
    folders = [tmp_path / place / "methods" / "quick" for place in ("one", "two")]
    for folder in folders:
        shutil.copytree(tables.EXAMPLE / "methods" / "digits", folder)
    studies = [*map(tables.read, folders), example[1]]
    names = [*(f"digits: {folder}" for folder in folders), "digits: coverage_law/digits"]
    assert tables.named(studies) == dict(zip(names, studies, strict=True))


def test_a_sheet_shows_a_column_a_class(mine, tmp_path):
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 2, 2) / 10
    synthetic = DistilledSet(
        images, torch.tensor([0, 0, 0, 1, 1, 1]), Normalisation((0.0,), (1.0,)), ("a", "b"),
        data="x", method="dm", parameters={}, seed=0,
    )  # fmt: skip
    (mine / "sheets.parquet").unlink()
    names = ["dm-ipc3-seed0.safetensors", "dm-ipc3-seed1.safetensors"]
    for name, content in zip(names, (images, -images), strict=True):
        dataclasses.replace(synthetic, samples=content).save(mine / "distilled" / name)
    costs = pd.DataFrame({"method": "dm", "ipc": 3, "seed": [0, 1], "set": names})
    costs.to_parquet(mine / "costs.parquet")
    study = tables.read(mine)
    assert list(study.sheets) == [("dm", 3)]
    (tmp_path / "sheet.png").write_bytes(study.sheet("dm", 3))
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (9, 6)  # three images of 2 + 1 pixels high, two wide
    tenth = [round(value * 25.5) for value in range(6)]
    assert pixels[1::3, 1].tolist() == tenth[:3]
    assert pixels[1::3, 4].tolist() == tenth[3:]
    assert (pixels[0] == sheets.PAPER).all()
    assert study.sheet("dm", 5) is None
    dataclasses.replace(synthetic, samples=images.flatten(1)).save(mine / "distilled" / names[0])
    assert study.sheet("dm", 3) is None  # vectors
    tables.write_example([mine], tmp_path / "copy")
    assert not tables.read(tmp_path / "copy" / "mine" / "quick").sheets


def test_the_example_is_what_its_command_writes(tmp_path, example):
    tables.write_example([study.folder for study in example], tmp_path)
    for name, study in zip(("methods", "coverage_law"), example, strict=True):
        again = tables.read(tmp_path / name / "digits")
        pd.testing.assert_frame_equal(again.trials, study.trials)
        assert again.families == study.families
        assert again.sheets == study.sheets


def test_a_folder_without_a_finished_study_is_refused(mine):
    pd.read_parquet(mine / "trials.parquet").head(0).to_parquet(mine / "trials.parquet")
    with pytest.raises(ValueError, match="has no trials; run its notebook again"):
        tables.read(mine)
    (mine / "trials.parquet").unlink()
    sentence = r"mine/quick holds no finished study \(trials.parquet is not there\); give the resu"
    with pytest.raises(FileNotFoundError, match=sentence):
        tables.read(mine)
    command = [sys.executable, "-m", "ddlib.explore.tables", "example", str(mine)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert "holds no finished" in process.stderr


def test_results_of_an_older_library_are_refused_in_a_sentence(tmp_path):
    folder = shutil.copytree(tables.EXAMPLE / "methods" / "digits", tmp_path / "old")
    settings = json.loads((folder / "settings.json").read_text())
    del settings["reference"]
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"old is of an older ddlib and lacks reference; run its"):
        tables.read(folder)
