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
from ddlib.study.settings import read_settings
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


def read(name):
    settings = read_settings(yaml.safe_load((FOLDER / f"{name}_reference.yaml").read_text()))
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


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "imagenette"])
@pytest.mark.parametrize("ipc", LOOPS)
def test_dc_and_dsa_loop_as_published(name, ipc):
    settings, methods = read(name)
    assert ipc * CLASSES[name] in settings.k
    for method in ("dc", "dsa"):
        own = methods[method]
        assert (at_ipc(own.outer_steps, ipc), at_ipc(own.inner_epochs, ipc)) == LOOPS[ipc]
        assert (own.iterations, own.learning_rate, own.momentum) == (1000, 0.1, 0.5)
        assert (own.network_learning_rate, own.network_batch, own.real_batch) == (0.01, 256, 256)
    assert (methods["dc"].initialisation, methods["dsa"].initialisation) == ("noise", "real")
    flips = "dsa_no_flip" if name == "mnist" else "dsa"
    assert (methods["dc"].augmentation, methods["dsa"].augmentation) == ("none", flips)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "imagenette"])
def test_dm_is_as_published(name):
    own = read(name)[1]["dm"]
    assert (own.iterations, own.momentum, own.real_batch) == (20000, 0.5, 256)
    assert [at_ipc(own.learning_rate, ipc) for ipc in LOOPS] == [1] * 6
    assert at_ipc(own.learning_rate, 100) == (10 if name == "cifar10" else 1)
    assert own.initialisation == "real"
    assert own.augmentation == ("dsa_no_flip" if name == "mnist" else "dsa")


@pytest.mark.parametrize(("name", "ipc"), MTT)
def test_mtt_is_as_published(name, ipc):
    settings, methods = read(name)
    own, k = methods["mtt"], ipc * CLASSES[settings.data["name"]]
    assert k in settings.k
    tables = own.student_steps, own.expert_epochs, own.max_start, own.learning_rate
    tables += own.step_size_learning_rate, own.step_size
    batch = min(at_ipc(own.synthetic_batch, ipc) or k, k)
    assert (*(at_ipc(table, ipc) for table in tables), batch) == MTT[name, ipc]
    assert (own.iterations, own.momentum, own.initialisation) == (5000, 0.5, "real")
    assert (own.augmentation, own.expert_augmentation, own.gradient) == ("dsa", "dsa", "exact")
    assert (own.experts, own.expert_steps, own.expert_batch) == (100, 0, 256)
    assert (own.expert_learning_rate, own.expert_momentum, own.expert_weight_decay) == (0.01, 0, 0)


def test_mgd3_is_as_published():
    own = read("imagenette")[1]["mgd3"]
    assert own.generator.endswith("DiT-XL-2-256")
    assert (own.steps, own.stop, own.guidance, own.classifier_free_guidance) == (50, 25, 0.1, 4)
    assert own.images == "generated"


def test_defaults_are_those_published_for_cifar10():
    for name, published_settings in read("cifar10")[1].items():
        if name in ("dm", "dc", "dsa", "mtt"):
            changes = {"learning_rate": 1} if name == "dm" else {}  # published up to ipc 50
            assert METHODS[name].parameters() == published_settings.replace(**changes), name


@pytest.mark.parametrize("name", REFERENCES)
def test_networks_are_trained_as_published(name):
    settings, methods = read(name)
    data = settings.data["name"]
    own = settings.training
    steps = 1000 * math.ceil(50 * CLASSES[data] / 256)  # 1,000 epochs at ipc 50
    assert own == Recipe(
        steps=steps,
        batch_size=256,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="step",
        augmentation="dsa_no_flip" if data == "mnist" else "dsa",
    )
    depth = 5 if data == "imagenette" else 3
    expected = {"name": "convnet", "width": 128, "depth": depth, "norm": "instance"}
    assert settings.network == expected
    assert {"random", "herding", "k_center"} <= set(methods)


@pytest.mark.parametrize("profile", ["mnist", "cifar10"])
def test_the_coverage_law_is_put_to_enough_families_sizes_and_seeds(profile):
    given = yaml.safe_load((FOLDER.parent / "coverage_law" / f"{profile}.yaml").read_text())
    settings = read_settings(given)
    nested = {family.series for family in settings.families.values()} - {""}
    assert len(settings.configurations) >= 12
    assert len(nested) >= 5
    assert settings.spread.count >= 3
    assert len(settings.k) >= 5
    assert settings.seeds >= 4
    [for_all] = [own for _, own in settings.methods.values() if own.configurations]
    networks = {one.network["name"] for one in settings.configurations.values()}
    assert {each["network"]["name"] for each in for_all.configurations} == networks
    assert networks >= {"resnet18", "vgg16", "mobilenet_v2", "convnet", "vit"}
