"""Tables of a finished study: from its results folder, and from the findings."""

import dataclasses
import json
import shutil
import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import shipped
import torch
from PIL import Image

from ddlib.data.normalise import Normalisation
from ddlib.distilled import DistilledSet
from ddlib.explore import findings, sheets, tables
from ddlib.stats import covers
from ddlib.study import provenance


@pytest.fixture(scope="module")
def studies():
    return [tables.read(folder) for folder in (shipped.METHODS, shipped.COVERAGE)]


@pytest.fixture
def mine(tmp_path):
    """Return a copy of a finding, as the results folder of a reader."""
    return shutil.copytree(shipped.METHODS, tmp_path / "methods" / "quick")


def test_findings_are_small_and_those_with_images_come_first():
    studies = tables.findings()
    folders = [path.parent for path in tables.FINDINGS.rglob("settings.json")]
    assert sorted(study.folder for study in studies) == sorted(folders)
    places = [(not study.sheets, study.distances is not None) for study in studies]
    assert places == sorted(places)
    files = [path for path in tables.FINDINGS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000


def test_findings_are_of_two_notebooks(studies):
    methods, law = studies
    ends = ["/".join(folder.parts[-2:]) for folder in (shipped.METHODS, shipped.COVERAGE)]
    data = [study.trials["data"].iloc[0] for study in studies]
    assert list(tables.named(studies)) == [f"{data[0]}: {ends[0]}", f"{data[1]}: {ends[1]}"]
    assert methods.sizes == [10, 20, 50, 100, 200, 500]
    assert (methods.class_count, methods.ipcs) == (10, [1, 2, 5, 10, 20, 50])
    assert methods.methods == ["random", "herding", "k_center", "dm", "mtt"]
    assert methods.distances is None
    assert len(methods.costs) == len(methods.trials) == 3 * 5 * 6 * 5
    assert len(methods.provenance["commit"]) == 40
    assert law.methods == list(law.settings["methods"])
    assert law.sizes == law.settings["k"]
    assert list(law.distances.index) == law.configurations


def test_label_regimes_are_families_of_their_own():
    labels = tables.read(tables.FINDINGS / "methods" / "labels_mnist")
    regimes = ("hard", "learned", "soft")
    assert labels.families == {f"all configurations, {name} labels": (name,) for name in regimes}


def test_families_are_those_of_the_study_and_of_equal_size(studies):
    law = studies[1]
    assert law.families["all configurations"] == tuple(law.configurations)
    assert law.families[shipped.FAMILY] == shipped.MEMBERS
    spread = covers.spread_families(law.distances, [4, 6], 12)
    assert {name: law.families[name] for name in spread} == spread
    two = dataclasses.replace(
        law, settings={**law.settings, "spread": {"size": [4, 6], "count": 3}}
    )
    sizes = [(name, len(members)) for name, members in two.spread[0].items()]
    assert sizes == [(f"spread of {size}, {i}", size) for size in (4, 6) for i in (1, 2, 3)]
    others = [name for name in law.configurations if name not in shipped.MEMBERS]
    few = [*shipped.MEMBERS[:2], *others[:2]]
    law = dataclasses.replace(law, distances=law.distances.loc[few, few])
    assert law.families[shipped.FAMILY] == shipped.MEMBERS[:2]
    assert not [name for name in law.families if name.startswith("spread")]
    assert law.spread[1].startswith("no families of equal size: size=4, count=12 give no choice")


def test_gaps_come_from_each_seeds_own_reference(studies):
    _, law = studies
    full = law.references[law.references["reference"] == law.settings["reference"]]
    full = full.set_index(["configuration", "seed"])["error"]
    own = full.loc[pd.MultiIndex.from_frame(law.gaps[["configuration", "seed"]])].to_numpy()
    assert (law.gaps["gap_error"] == law.gaps["error"] - own).all()


def test_a_configuration_is_left_out_once_no_seed_has_a_network_on_all_data(studies):
    _, law = studies
    name = law.configurations[-1]
    lame = law.references["configuration"] == name
    first = lame & (law.references["seed"] == 0)
    for lost, kept in ((first, True), (lame, False)):
        status = law.references["status"].mask(lost, "diverged")
        study = dataclasses.replace(law, references=law.references.assign(status=status))
        assert (name in study.configurations) == kept
        assert (name in set(study.gaps["configuration"])) == kept


def test_written_distances_are_read_back(tmp_path):
    mine = shutil.copytree(shipped.COVERAGE, tmp_path / "law")
    names = ["b", "a", "c"]
    points = np.random.default_rng(0).normal(size=(3, 2))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance = pd.DataFrame(matrix, index=names, columns=names)
    tables.write_distances(mine, distance, 0.25)
    study = tables.read(mine)
    assert study.noise == 0.25
    pd.testing.assert_frame_equal(study.distances, distance)


def test_studies_whose_folders_end_alike_are_named_in_full(tmp_path):
    folders = [tmp_path / place / "methods" / "quick" for place in ("one", "two")]
    for folder in folders:
        shutil.copytree(shipped.METHODS, folder)
    studies = list(map(tables.read, folders))
    names = [f"cifar10: {folder}" for folder in folders]
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
    (mine / "provenance.json").write_text('{"commit": "abc"}')
    findings.write_findings([mine], target=tmp_path / "copy")
    assert not tables.read(tmp_path / "copy" / "methods" / "quick").sheets


def test_a_small_sheet_shows_one_image_a_class_at_low_size(tmp_path):
    images = torch.tensor([0.2, 0.9, 0.4, 0.9]).reshape(4, 1, 1, 1).expand(4, 1, 96, 96)
    synthetic = DistilledSet(
        images, torch.tensor([0, 0, 1, 1]), Normalisation((0.0,), (1.0,)), ("a", "b"),
        data="x", method="dm", parameters={}, seed=0,
    )  # fmt: skip
    synthetic.save(tmp_path / "set")
    kept = sheets.small(dict.fromkeys([("dm", ipc) for ipc in (2, 5, 10, 50)], tmp_path / "set"))
    assert kept["ipc"].tolist() == [2, 10]
    assert kept["picture"].map(len).max() < 1000
    assert Image.open(BytesIO(kept["picture"][0])).format == "JPEG"
    pixels = np.asarray(Image.open(BytesIO(kept["picture"][0])))
    assert pixels.shape == (33, 65)  # a third of 97 and of 2 * 97
    assert pixels[16, [16, 48]] == pytest.approx([51, 102], abs=3)
    dataclasses.replace(synthetic, samples=images[..., :48]).save(tmp_path / "high")
    kept = sheets.small({("dm", 2): tmp_path / "high"})
    pixels = np.asarray(Image.open(BytesIO(kept["picture"][0])))
    assert pixels.shape == (33, 65)  # squares, with a grey border on the left
    assert pixels[16, [8, 28, 40, 60]] == pytest.approx([128, 51, 128, 102], abs=4)


def test_a_finding_is_what_its_command_writes(tmp_path, mine):
    (mine / "provenance.json").write_text('{"workers": 2}')
    costs = {"method": ["dm", "dm", "dc"], "ipc": 1, "seed": [0, 1, 0], "set": ["a", "b", "c"]}
    costs |= {"prepare_seconds": [36, 36, 0], "distil_seconds": [np.nan, 360, 36]}
    costs = pd.DataFrame({**costs, "evaluate_seconds": 36.0})
    law = shutil.copytree(shipped.COVERAGE, tmp_path / "coverage_law" / "quick")
    (law / "provenance.json").unlink()
    for folder in (mine, law):
        costs.to_parquet(folder / "costs.parquet")
        costs[:1].to_parquet(folder / "teachers.parquet")
    with pytest.raises(ValueError, match=r"quick has no provenance.json; run its notebook again"):
        findings.write_findings([mine, law], target=tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
    origin = tables.read(mine).provenance
    assert origin == {"workers": 2}
    assert provenance.seconds(costs) == {"sets": 396, "preparations": 36, "evaluations": 108}
    (law / "provenance.json").write_text('{"workers": 1}')
    with pytest.raises(ValueError, match="another one's"):
        findings.write_findings([law, law], target=tmp_path / "copies")
    other = shutil.copytree(law, tmp_path / "results" / "mine")
    with pytest.raises(
        ValueError, match="lies in none of the folders scaling_law, methods and cov"
    ):
        findings.write_findings([other], target=tmp_path / "copies")
    (tmp_path / "copies" / "coverage_law" / "quick").mkdir(parents=True)
    (tmp_path / "copies" / "coverage_law" / "quick" / "of_an_earlier_study.old").touch()
    places = findings.write_findings([mine, law], target=tmp_path / "copies")
    assert places == [tmp_path / "copies" / name / "quick" for name in ("methods", "coverage_law")]
    assert not list(tmp_path.glob("copies/*/*/*.old"))
    with pytest.raises(ValueError, match="methods/quick is a finding already; give the results fo"):
        findings.write_findings(places[:1], target=tmp_path / "copies")
    for place, folder in zip(places, (mine, law), strict=True):
        again, study = tables.read(place), tables.read(folder)
        for name in (*tables.FRAMES, "distances"):
            assert (getattr(again, name) is None) == (getattr(study, name) is None)
            if getattr(study, name) is not None:
                pd.testing.assert_frame_equal(getattr(again, name), getattr(study, name))
        for name in ("settings", "families", "sheets", "noise", "provenance"):
            assert getattr(again, name) == getattr(study, name)


def test_a_folder_without_a_finished_study_is_refused(mine):
    pd.read_parquet(mine / "trials.parquet").head(0).to_parquet(mine / "trials.parquet")
    with pytest.raises(ValueError, match="has no trials; run its notebook again"):
        tables.read(mine)
    (mine / "trials.parquet").unlink()
    sentence = r"methods/quick holds no finished study \(trials.parquet is not there\); give the re"
    with pytest.raises(FileNotFoundError, match=sentence):
        tables.read(mine)
    command = [sys.executable, "-m", "ddlib.explore.findings", str(mine)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1
    assert "holds no finished" in process.stderr


def test_results_of_an_older_library_are_refused_in_a_sentence(tmp_path):
    folder = shutil.copytree(shipped.METHODS, tmp_path / "old")
    settings = json.loads((folder / "settings.json").read_text())
    del settings["reference"]
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"old is of an older ddlib and lacks reference; run its"):
        tables.read(folder)
