"""The profiles of fidelity: the published network and evaluation, and shorter loops by name.

A line that differs from the published settings ends in `# published: VALUE`.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from ddlib.parameters import at_ipc
from ddlib.study import published
from ddlib.study.plan import make_plan
from ddlib.study.settings import Settings

FOLDER = Path(__file__).parents[2] / "parameters" / "methods"
PROFILES = {path.stem: path for path in sorted(FOLDER.glob("fidelity_*.yaml"))}
CLASSES = 10
CELLS = {  # what is to be compared with published accuracies, by profile: methods, ipcs
    "fidelity_cifar10_dm": ({"random", "dm"}, [1, 10]),
    "fidelity_mnist_dm": ({"random", "dm"}, [1, 10]),
    "fidelity_mnist_dc": ({"dc"}, [1]),
    "fidelity_mnist_dsa": ({"dsa"}, [1]),
    "fidelity_cifar10_dc": ({"dc"}, [1]),
    "fidelity_cifar10_dsa": ({"dsa"}, [1]),
    "fidelity_cifar10_mtt": ({"mtt"}, [1]),
    "fidelity_cifar10_coresets": (
        {"random", "herding", "k_center", "nearest_to_centroid"},
        [1, 10],
    ),
}


def read(name):
    """Return the settings of a profile, and those published for its data."""
    settings = Settings.read(yaml.safe_load(PROFILES[name].read_text()))
    data = settings.data["name"] + ("_zca" if settings.data.get("zca") else "")
    reference = (FOLDER / f"{data}_reference.yaml").read_text()
    return settings, Settings.read(yaml.safe_load(reference))


def fields(parameters):
    """Return values by name; those of a training take the place of a method's own."""
    values = parameters.model_dump()
    return values | values.get("training", {}) | {"training": None}


def test_every_cell_has_a_profile():
    assert set(PROFILES) == set(CELLS)


@pytest.mark.parametrize(("name", "cells"), CELLS.items())
def test_only_the_lines_that_say_so_differ_from_the_published_settings(name, cells):
    methods, ipcs = cells
    settings, theirs = read(name)
    assert set(settings.methods) == methods
    assert settings.k == [ipc * CLASSES for ipc in ipcs]
    assert settings.data == theirs.data
    assert settings.network == theirs.network
    changes = {"steps": settings.training.steps, "augmentation": settings.training.augmentation}
    assert settings.training == theirs.training.replace(**changes)
    said = dict(re.findall(r"(?m)^ +(\w+): .*# published: (.+)$", PROFILES[name].read_text()))
    differ = {
        (field, at_ipc(value, ipc))
        for method, (_, parameters) in settings.methods.items()
        for field, value in fields(theirs.methods[method][1]).items()
        for ipc in ipcs
        if at_ipc(fields(parameters)[field], ipc) != at_ipc(value, ipc)
    }
    assert differ == {(field, yaml.safe_load(value)) for field, value in said.items()}


@pytest.mark.parametrize("name", CELLS)
def test_networks_are_evaluated_as_published(name):
    settings, _ = read(name)
    unknown = {"herding", "k_center", "nearest_to_centroid"}  # their evaluation
    methods = set(settings.methods) - unknown
    methods -= {"random"} if len(methods) > 1 else set()
    table = published.read().query("data == @settings.data['name'] and method in @methods")
    rows = table[table["ipc"].isin([k // CLASSES for k in settings.k])]
    assert len(rows) == len(methods) * len(settings.k)
    for row in rows.dropna(subset="epochs").to_dict("records"):  # random's at ipc 1 are not stated
        batches = math.ceil(row["ipc"] * CLASSES / settings.training.batch_size)
        assert settings.training.steps == row["epochs"] * batches
        assert row["augmentation"] in (settings.training.augmentation, "other")
    learned = [chosen.learned_step_size for chosen in settings.configurations.values()]
    assert learned == ["mtt" in settings.methods]


@pytest.mark.parametrize("name", CELLS)
def test_a_profile_makes_a_plan(name, tmp_path):
    """On twenty small images a class, in a folder of the data set's name."""
    table = yaml.safe_load(PROFILES[name].read_text())
    shape = (8, 8, 3) if table["data"]["name"] == "cifar10" else (8, 8)
    folder, labels = tmp_path / table["data"]["name"], np.arange(20 * CLASSES) % CLASSES
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(
            folder / f"{split}.npz", images=images, labels=labels, class_names=list("0123456789")
        )
    table["data"]["name"] = str(folder)
    table |= {"results": str(tmp_path / "results"), "cache": str(tmp_path / "cache")}
    plan = make_plan(Settings.read(table))
    methods, ipcs = CELLS[name]
    assert len(plan.trials) == len(methods) * len(ipcs) * table["seeds"]
    assert len(plan.references) == table["seeds"]
