"""Everything on a pretended accelerator: the CPU's numbers, one device, and hardly a wait."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from accelerator import NAME, There, accelerator, moved
from safetensors.torch import load
from torch import nn

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.pretraining import pretrain
from ddlib.configurations.probing import train_and_observe
from ddlib.data.base import DataSet
from ddlib.data.load import load as load_data
from ddlib.devices import check_precision, precision, read_device, seeded
from ddlib.methods import METHODS
from ddlib.networks import layers, zoo
from ddlib.networks.functional import build, embed, logits
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.study.worker import Context, seconds
from ddlib.training import augment
from ddlib.training.augment import AUGMENTATIONS
from ddlib.training.divergence import CHECK_EVERY
from ddlib.training.loop import score, train
from ddlib.training.recipe import Recipe

CONVNET = {"name": "convnet", "width": 4, "depth": 2, "norm": "batch"}


def accelerators(monkeypatch, *types: str) -> None:
    there = [SimpleNamespace(type=kind) for kind in types]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(there))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there[0])


def test_auto_is_cuda_or_else_the_cpu(monkeypatch):
    accelerators(monkeypatch)
    assert read_device("auto") == read_device("cpu") == "cpu"
    accelerators(monkeypatch, "cuda")
    assert read_device("auto") == read_device("cuda") == "cuda"
    assert read_device("cpu") == "cpu"


def test_mps_is_taken_only_by_name(monkeypatch):
    accelerators(monkeypatch, "mps")
    assert read_device("auto") == "cpu"
    assert read_device("mps") == "mps"


def test_a_device_that_is_not_here_is_refused(monkeypatch):
    accelerators(monkeypatch)
    with pytest.raises(ValueError, match=r"'cuda' is not a device of .*allowed: auto, cpu$"):
        read_device("cuda")


def test_tf32_is_for_cuda():
    check_precision("tf32", "cuda")
    check_precision("bf16", "cpu")
    with pytest.raises(ValueError, match="a mode of CUDA GPUs, and the device is 'mps'; choose"):
        check_precision("tf32", "mps")


SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


@pytest.mark.parametrize(("name", "within"), [("float32", "ieee"), ("tf32", "tf32")])
def test_switches_are_set_within_and_left_as_they_were(name, within):
    before = [switch.fp32_precision for switch in SWITCHES]
    with pytest.raises(KeyError) as raised, precision(name, "cpu"):
        raise KeyError(*[switch.fp32_precision for switch in SWITCHES])
    assert raised.value.args == (within, within)
    assert [switch.fp32_precision for switch in SWITCHES] == before


def test_bf16_rounds_the_factors_of_products_alone():
    factor = torch.tensor([[1 + 2**-8 + 2**-12]])  # bfloat16 holds 1 + 2^-7 next to 1
    with precision("bf16", "cpu"):
        product = factor @ torch.ones(1, 1)
        weight = torch.ones(1, 1, requires_grad=True)
        (factor @ weight).sum().backward()
    assert product.dtype == torch.bfloat16
    assert product.item() == 1 + 2**-7
    assert weight.grad.dtype == torch.float32
    with precision("float32", "cpu"):
        assert (factor @ torch.ones(1, 1)).item() == factor.item()


def test_what_bf16_gives_is_float32(tiny):
    with precision("bf16", "cpu"):
        network, theta = trained(tiny, 3)
        assert embed(network, theta, tiny.test.images).dtype == torch.float32
        assert logits(network, theta, tiny.test.images).dtype == torch.float32
    assert {value.dtype for value in theta.values()} == {torch.float32}


@pytest.mark.parametrize("method", ["dm", "dc", "dsa", "mtt"])
def test_matching_in_bf16_moves_images_as_float32_does(tiny, tmp_path, method):
    exact = distilled(tiny, method, tmp_path, 1)
    start = distilled(tiny, method, tmp_path, 0)
    with precision("bf16", "cpu"):
        rounded = distilled(tiny, method, tmp_path, 1)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    cosine = torch.cosine_similarity((rounded - start).flatten(), (exact - start).flatten(), dim=0)
    assert cosine > 0.9


def on_both(act: Callable, dataset: DataSet) -> tuple:
    """Return what `act` gives for the data set on the CPU and there, and how often it waited."""
    # Elsewhere pooling is PyTorch's own, which rounds otherwise than the CPU's; here, for both.
    with patch.object(layers.AveragePool, "forward", lambda _, images: F.avg_pool2d(images, 2)):
        here = act(dataset)
        with accelerator() as on:
            there = act(moved(dataset))
    return here, there, sum(on.waits.values())


def trained(dataset: DataSet, steps: int, augmentation: str = "none"):
    network = build(**CONVNET, image_shape=dataset.image_shape, class_count=dataset.class_count)
    images, labels = dataset.train.images, dataset.train.labels
    recipe = Recipe(steps=steps, batch_size=16, augmentation=augmentation)
    theta = initial_parameters(network, generator("weights"), images.device)
    return network, train(network, theta, images, labels, recipe, generator("batches"))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_training_waits_for_no_step(tiny, augmentation):
    act = lambda dataset: trained(dataset, 12, augmentation)[1]  # noqa: E731
    here, there, waits = on_both(act, tiny)
    assert waits == 1  # for the one look at twelve losses
    for name, value in here.items():
        torch.testing.assert_close(there[name].held, value)


def test_a_long_training_looks_at_its_losses_now_and_then(tiny):
    waits = on_both(lambda dataset: trained(dataset, 2 * CHECK_EVERY + 1)[1], tiny)[-1]
    assert waits == 3


def test_scoring_waits_once_however_many_batches(tiny, monkeypatch):
    monkeypatch.setattr("ddlib.networks.functional.CHUNK", 7)
    network, theta = trained(tiny, 3)
    here = score(network, theta, tiny.test)
    with accelerator() as on:
        theta = {name: There(value.detach()) for name, value in theta.items()}
        there = score(network, theta, moved(tiny).test)
    assert there.accuracy == here.accuracy
    assert there.cross_entropy == pytest.approx(here.cross_entropy)  # its batches are larger
    assert sum(on.waits.values()) == 3  # for the labels, for what is right, and for the nats


def test_probing_waits_no_more_for_more_steps(tiny):
    def observe(dataset: DataSet, steps: int) -> dict[str, torch.Tensor]:
        network = build(**CONVNET, image_shape=dataset.image_shape, class_count=3)
        theta = initial_parameters(network, generator("weights"), dataset.train.images.device)
        recipe = Recipe(steps=steps, batch_size=16)
        splits = dataset.train, dataset.test
        return load(train_and_observe(network, theta, *splits, recipe, 0, 10)[1])

    few = on_both(lambda dataset: observe(dataset, 4), tiny)
    many = on_both(lambda dataset: observe(dataset, 40), tiny)
    assert few[-1] == many[-1]
    torch.testing.assert_close(many[0], many[1])


SETTINGS = {
    "dm": {"real_batch": 8, "augmentation": "dsa"},
    "dc": {"real_batch": 8, "outer_steps": 2, "inner_epochs": 3},
    "dsa": {"real_batch": 8, "outer_steps": 2, "inner_epochs": 3},
    "mtt": {"experts": 2, "expert_steps": 2, "max_start": 2, "student_steps": 3},
}


def distilled(
    dataset: DataSet, method: str, folder, iterations: int, **options: str
) -> torch.Tensor:
    network = build(**CONVNET, image_shape=dataset.image_shape, class_count=dataset.class_count)
    entry = METHODS[method]
    given = {**SETTINGS[method], "iterations": iterations, **options}
    parameters = entry.parameters.read(given, method)
    jobs = entry.preparation.jobs(parameters, [2, 3]) if entry.preparation else []
    paths = [folder / f"{dataset.train.images.device}-{number}" for number in range(len(jobs))]
    for job, path in zip(jobs, paths, strict=True):
        path.write_bytes(entry.preparation.make(dataset, network, job))
    more = [paths] if jobs else []
    return entry.distil(dataset, network, [2, 3], 0, parameters, *more)[3].images


@pytest.mark.parametrize("method", SETTINGS)
def test_matching_waits_for_no_iteration(tiny, tmp_path, method):
    few = on_both(lambda dataset: distilled(dataset, method, tmp_path, 1), tiny)
    many = on_both(lambda dataset: distilled(dataset, method, tmp_path, 4), tiny)
    for here, there, _ in (few, many):
        assert there.device.type == "cpu"
        torch.testing.assert_close(there, here)
    assert many[-1] == few[-1]  # for DC and DSA 4 x (2 outer + 3 inner) losses a size, one look


def test_training_a_generator_waits_for_no_step(tiny):
    [job] = METHODS["mgd3"].preparation.jobs(METHODS["mgd3"].parameters.read({}, "mgd3"), [1])
    job |= {"channels": [4, 8], "batch_size": 4, "timesteps": 20}

    def losses(dataset: DataSet, steps: int) -> torch.Tensor:
        made = METHODS["mgd3"].preparation.make(dataset, None, {**job, "steps": steps})
        return load(made)["losses"]

    few = on_both(lambda dataset: losses(dataset, 10), tiny)
    many = on_both(lambda dataset: losses(dataset, 30), tiny)
    assert many[2] == few[2]  # what is printed, some ten times, and what is kept
    torch.testing.assert_close(many[1], many[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", ["random", "herding", "k_center"])
def test_selection_runs_there(tiny, tmp_path, method):
    here, there, _ = on_both(lambda dataset: selected(dataset, method), tiny)
    assert torch.equal(here, there)


def selected(dataset: DataSet, method: str) -> torch.Tensor:
    network = build(**CONVNET, image_shape=dataset.image_shape, class_count=dataset.class_count)
    parameters = METHODS[method].parameters.read({}, method)
    return METHODS[method].distil(dataset, network, [2], 0, parameters)[2].images


@pytest.mark.parametrize("initialisation", ["rotation", "contrastive"])
def test_pretraining_waits_for_no_step(tiny, initialisation):
    def act(dataset: DataSet) -> dict[str, torch.Tensor]:
        given = {"network": CONVNET, "initialisation": initialisation}
        given["pretraining"] = {"steps": 5, "batch_size": 16}
        return load(pretrain(dataset, Configuration.read(given, "this test")))

    here, there, waits = on_both(act, tiny)
    torch.testing.assert_close(there, here)
    assert waits <= 1 + 2 * len(here)  # the losses; whether each weight is finite, and its copy


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("family", augment.FAMILIES)
def test_augmenting_asks_the_device_for_nothing(family, count):
    images = torch.randn(9, 3, 12, 10)
    drawn = augment.draw([family], count, torch.Generator().manual_seed(1))
    with accelerator() as on:
        there = augment.apply(There(images), drawn)
    assert not sum(on.waits.values())
    torch.testing.assert_close(there.held, augment.apply(images, drawn))


def test_the_pretended_accelerator_counts_and_refuses():
    with accelerator() as on:
        one = torch.ones(3, device=NAME)
        assert one.sum().item() == 3
        assert one[There(torch.tensor([True, False, True]))].sum().cpu() == 2
        torch.ones(3).to(NAME, non_blocking=True)
        assert sum(on.waits.values()) == 3
        torch.ones(3).to(NAME)
        assert sum(on.waits.values()) == 4
        with pytest.raises(AssertionError, match="two devices"):
            one + torch.ones(3)


def test_device_and_precision_name_a_result():
    contexts = [
        Context("network", "digest", Path(), Path(), device, rounding, "code")
        for device in ("cpu", "cuda")
        for rounding in ("float32", "bf16")
    ]
    assert len({tuple(context.identity) for context in contexts}) == 4


def test_a_processor_counts_its_own_seconds_and_an_accelerator_those_that_pass():
    for device, least, most in (("cpu", 0, 0.1), ("cuda", 0.2, 60)):
        context = Context("network", "digest", Path(), Path(), device, "float32", "code")
        start = seconds(context)
        time.sleep(0.2)
        assert least <= seconds(context) - start < most


def computed(dataset: DataSet, folder) -> dict[str, bytes]:
    """Return what methods and a training of two kinds of networks give."""
    made = {method: distilled(dataset, method, folder, 2) for method in SETTINGS}
    made |= {method: selected(dataset, method) for method in ("random", "herding", "k_center")}
    made["noise"] = distilled(dataset, "dm", folder, 1, initialisation="noise")
    for augmentation in ("dsa", "mixup"):
        made |= {f"{augmentation} {n}": v for n, v in trained(dataset, 4, augmentation)[1].items()}
    given = {"network": {"name": "vit", "width": 6}, "initialisation": "orthogonal"}
    configuration = Configuration.read(given, "this test")
    network = configuration.build(dataset.image_shape, dataset.class_count)
    made |= configuration.initial(network, generator("weights"))
    network = build("own", dataset.image_shape, dataset.class_count)
    made |= {**dict(network.named_buffers()), **initial_parameters(network, generator("own"))}
    made["digits"] = load_data("digits", per_class=2).train.at(slice(None))
    made["whitened"] = load_data("digits", per_class=2, zca=True).train.images
    return {name: value.detach().numpy().tobytes() for name, value in made.items()}


class Pairs(nn.Module):
    """A layer with weights of its own kind, and random values that are no weights."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.layer = nn.Bilinear(pixels, pixels, 4)
        self.register_buffer("signs", torch.randn(pixels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1), images.flatten(1) * self.signs)


def test_a_default_dtype_of_float64_changes_nothing(tiny, tmp_path, monkeypatch):
    own = lambda shape, classes: layers.Network(Pairs(math.prod(shape)), nn.Linear(4, classes))  # noqa: E731
    monkeypatch.setitem(zoo.NETWORKS, "own", own)
    wanted = computed(tiny, tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        assert computed(tiny, tmp_path) == wanted
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_autocast_of_ones_own_is_refused_or_changes_nothing(tiny, tmp_path):
    random, whitened = selected(tiny, "random"), load_data("digits", zca=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selected(tiny, "random"), random)
        assert torch.equal(load_data("digits", zca=True).test.images, whitened.test.images)
        for act in (
            lambda: distilled(tiny, "dm", tmp_path, 1),
            lambda: distilled(tiny, "dc", tmp_path, 1),
            lambda: trained(tiny, 1),
        ):
            with pytest.raises(
                RuntimeError, match=r"called under torch\.autocast, .* leave it, and"
            ):
                act()
        with precision("float32", "cpu"):
            inside = trained(tiny, 3)[1]
    for name, value in trained(tiny, 3)[1].items():
        assert torch.equal(inside[name], value)


def test_threads_of_one_process_leave_each_other_s_streams_alone():
    """A pass that draws nothing leaves its stream as it is, whatever another thread does."""
    streams = [torch.Generator().manual_seed(seed) for seed in range(2)]
    before = [stream.get_state() for stream in streams]

    def passes(stream):
        for _ in range(300):
            with seeded(stream, "cpu"):
                torch.ones(8).sum()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(passes, streams))
    assert all(map(torch.equal, before, [stream.get_state() for stream in streams]))
