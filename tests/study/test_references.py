"""The reference profiles hold the published settings, written here a second time by hand.

Sources: the code and README of Zhao et al. (ICLR 2021, ICML 2021, WACV 2023); the author's table
for MTT in DC-BENCH; the paper and code of MGD3 (ICML 2025).
"""

import math
from pathlib import Path

import pytest
import yaml

from ddlib.methods import METHODS
from ddlib.parameters import at_ipc
from ddlib.study import published
from ddlib.study.settings import Settings
from ddlib.training.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "parameters" / "methods"
CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "imagenette": 10}
REFERENCES = sorted(
    path.stem.removesuffix("_reference") for path in FOLDER.glob("*_reference.yaml")
)
# (outer steps, inner epochs) of DC and DSA for each ipc; the reference runs no others
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
# student steps, expert epochs, max start, image rate, rate of the step size, step size, batch of S
MTT = {
    ("cifar10_zca", 1): (50, 2, 2, 100, 1e-7, 0.01, 10),
    ("cifar10_zca", 10): (30, 2, 20, 100, 1e-5, 0.001, 100),
    ("cifar10", 50): (30, 2, 40, 1000, 1e-5, 0.001, 500),
    ("cifar100_zca", 1): (20, 3, 20, 1000, 1e-5, 0.01, 100),
    ("cifar100", 10): (20, 2, 20, 1000, 1e-5, 0.01, 1000),
    ("cifar100_zca", 50): (80, 2, 40, 1000, 1e-5, 0.01, 125),
    ("imagenette", 1): (20, 2, 10, 1000, 1e-6, 0.01, 10),
    ("imagenette", 10): (20, 2, 10, 1000, 1e-6, 0.01, 20),
}
WHITENED = {("cifar10", 1), ("cifar10", 10), ("cifar100", 1), ("cifar100", 50)}
DC = {"iterations": 1000, "learning_rate": 0.1, "momentum": 0.5, "real_batch": 256}
DC |= {"network_learning_rate": 0.01, "network_batch": 256, "initialisation": "noise"}
EXPERTS = {"experts": 100, "expert_steps": 0, "expert_batch": 256, "expert_learning_rate": 0.01}
EXPERTS |= {"expert_momentum": 0, "expert_weight_decay": 0, "expert_augmentation": "dsa"}
GUIDED = {"steps": 50, "stop": 25, "guidance": 0.1, "classifier_free_guidance": 4}
DM = {"iterations": 20000, "momentum": 0.5, "real_batch": 256, "initialisation": "real"}
MATCHED = {"iterations": 5000, "momentum": 0.5, "initialisation": "real", "augmentation": "dsa"}
PUBLISHED = {
    "dm": DM,
    "dc": DC | {"augmentation": "none"},
    "dsa": DC | {"initialisation": "real"},
    "mtt": MATCHED | EXPERTS | {"gradient": "exact"},
    "mgd3": GUIDED | {"images": "generated"},
}


def read(name):
    settings = Settings.read(yaml.safe_load((FOLDER / f"{name}_reference.yaml").read_text()))
    return settings, {method: own for method, (_, own) in settings.methods.items()}


def test_every_data_set_has_a_reference_and_those_of_mtt_are_whitened_where_published():
    assert {read(name)[0].data["name"] for name in REFERENCES} == set(CLASSES)
    assert {name for name in REFERENCES if read(name)[0].data.get("zca")} == {
        "cifar10_zca",
        "cifar100_zca",
    }
    table = published.read()
    noted = table[(table["method"] == "mtt") & table["note"].str.contains("ZCA", na=False)]
    assert set(zip(noted["data"], noted["ipc"], strict=True)) == WHITENED


@pytest.mark.parametrize(("name", "ipc"), MTT)
def test_mtt_is_as_published(name, ipc):
    settings, methods = read(name)
    parameters, k = methods["mtt"], ipc * CLASSES[settings.data["name"]]
    assert k in settings.k
    names = ("student_steps", "expert_epochs", "max_start", "learning_rate")
    names += ("step_size_learning_rate", "step_size")
    values = [at_ipc(getattr(parameters, table), ipc) for table in names]
    batch = min(at_ipc(parameters.synthetic_batch, ipc) or k, k)
    assert (*values, batch) == MTT[name, ipc]


def test_defaults_are_those_published_for_cifar10():
    for name, published_settings in read("cifar10")[1].items():
        if name in ("dm", "dc", "dsa", "mtt"):
            changes = {"learning_rate": 1} if name == "dm" else {}  # published up to ipc 50
            assert METHODS[name].parameters() == published_settings.replace(**changes), name


@pytest.mark.parametrize("name", REFERENCES)
def test_settings_are_as_published(name):
    settings, methods = read(name)
    data = settings.data["name"]
    siamese = "dsa_no_flip" if data == "mnist" else "dsa"
    assert {"random", "herding", "k_center"} <= set(methods)
    for method, parameters in methods.items():
        expected = PUBLISHED.get(method, {})
        assert {field: getattr(parameters, field) for field in expected} == expected
    for method in {"dm", "dsa"} & set(methods):
        assert methods[method].augmentation == siamese
    for ipc, loops in LOOPS.items() if "dc" in methods else ():
        assert ipc * CLASSES[data] in settings.k
        for own in (methods["dc"], methods["dsa"]):
            assert (at_ipc(own.outer_steps, ipc), at_ipc(own.inner_epochs, ipc)) == loops
        assert at_ipc(methods["dm"].learning_rate, ipc) == 1
    steps = 1000 * math.ceil(50 * CLASSES[data] / 256)  # 1,000 epochs at ipc 50
    rates = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step"}
    assert settings.training == Recipe(steps=steps, batch_size=256, augmentation=siamese, **rates)
    depth = 5 if data == "imagenette" else 3
    expected = {"name": "convnet", "width": 128, "depth": depth, "norm": "instance"}
    assert settings.network == expected
