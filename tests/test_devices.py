"""Everything on a pretended accelerator: the CPU's numbers, one device, and hardly a wait."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from accelerator import NAME, DeviceTensor, accelerator, moved
from draws import SMALL, prepare
from safetensors.torch import load

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.pretraining import pretrain
from ddlib.configurations.probing import train_and_observe
from ddlib.data.base import DataSet
from ddlib.data.load import load as load_data
from ddlib.devices import precision, read_device, seeded
from ddlib.methods import METHODS
from ddlib.networks import layers
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training.augment import AUGMENTATIONS
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

CONVNET = {"name": "convnet", "width": 4, "depth": 2, "norm": "batch"}


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        (None, {"auto": "cpu", "cpu": "cpu"}),
        ("cuda", {"auto": "cuda", "cuda": "cuda", "cpu": "cpu"}),
        ("mps", {"auto": "cpu", "mps": "mps", "cpu": "cpu"}),  # only by name
    ],
)
def test_auto_is_cuda_or_else_the_cpu(monkeypatch, kind, choices):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(kind))
    card = SimpleNamespace(type=kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: card)
    assert {name: read_device(name) for name in choices} == choices
    allowed = ", ".join(sorted(choices))
    with pytest.raises(ValueError, match=rf"'xpu' is not a device of .*allowed: {allowed}$"):
        read_device("xpu")


@pytest.mark.parametrize(("name", "within"), [("float32", "ieee"), ("tf32", "tf32")])
def test_switches_are_set_within_and_left_as_they_were(name, within):
    cudnn = torch.backends.cudnn
    switches = torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn
    before = [switch.fp32_precision for switch in switches]
    with pytest.raises(KeyError) as raised, precision(name, "cpu"):
        raise KeyError(*[switch.fp32_precision for switch in switches])
    assert raised.value.args == (within, within, within)
    assert [switch.fp32_precision for switch in switches] == before


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


@pytest.mark.parametrize("method", ["dm", "dc", "dsa", "mtt", "ncfm"])
def test_matching_in_bf16_moves_images_as_float32_does(tiny, tmp_path, method):
    start, exact = (distilled(tiny, method, tmp_path, iterations) for iterations in (0, 1))
    with precision("bf16", "cpu"):
        rounded = distilled(tiny, method, tmp_path, 1)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    cosine = torch.cosine_similarity((rounded - start).flatten(), (exact - start).flatten(), dim=0)
    assert cosine > 0.9


def on_both(act: Callable, dataset: DataSet) -> tuple:
    """Return what `act` gives for the data set on both devices, and how often it waited."""
    # Elsewhere pooling is PyTorch's own, which rounds otherwise than the CPU's.
    with patch.object(layers.AveragePool, "forward", lambda _, images: F.avg_pool2d(images, 2)):
        on_cpu = act(dataset)
        with accelerator() as on:
            on_device = act(moved(dataset))
    return on_cpu, on_device, sum(on.waits.values())


def trained(dataset: DataSet, steps: int, augmentation: str = "none"):
    network = build(**CONVNET, **dataset.sizes)
    images, labels = dataset.train.samples, dataset.train.labels
    recipe = Recipe(steps=steps, batch_size=16, augmentation=augmentation)
    theta = initial_parameters(network, generator("weights"), images.device)
    return network, train(network, theta, images, labels, recipe, generator("batches"))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_training_waits_for_no_step(tiny, augmentation):
    act = lambda dataset: trained(dataset, 12, augmentation)[1]  # noqa: E731
    on_cpu, on_device, waits = on_both(act, tiny)
    assert waits == 1  # for the one look at twelve losses
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_device[name].content, value)


def distilled(dataset, method: str, folder: Path, iterations: int | None = None) -> torch.Tensor:
    network = build(**CONVNET, **dataset.sizes)
    options = SMALL[method] | ({} if iterations is None else {"iterations": iterations})
    parameters = METHODS[method].parameters.read(options, method)
    more = prepare(METHODS[method], parameters, [2, 3], dataset, network, folder)
    return METHODS[method].distil(dataset, network, [2, 3], 0, parameters, *more)[3].samples


def probe(dataset: DataSet, folder: Path, iterations: int) -> dict[str, torch.Tensor]:
    network = build(**CONVNET, **dataset.sizes)
    theta = initial_parameters(network, generator("weights"), dataset.train.device)
    recipe = Recipe(steps=iterations, batch_size=16)
    return load(train_and_observe(network, theta, dataset.train, dataset.test, recipe, 0, 10)[1])


def train_generator(dataset: DataSet, folder: Path, iterations: int) -> torch.Tensor:
    [job] = METHODS["mgd3"].preparation.jobs(METHODS["mgd3"].parameters.read({}, "mgd3"), [1])
    job |= {"channels": [4, 8], "batch_size": 4, "timesteps": 20, "steps": iterations}
    return load(METHODS["mgd3"].preparation.make(dataset, None, job))["losses"]


def pretrained(dataset: DataSet, folder: Path, iterations: int, kind: str) -> dict:
    settings = {"network": CONVNET, "initialisation": kind}
    settings["pretraining"] = {"steps": iterations, "batch_size": 16}
    return load(pretrain(dataset, Configuration.read(settings, "this test")))


LOOPS = {
    **{name: (partial(distilled, method=name), 1, 2) for name in ("dm", "dc", "dsa", "mtt")},
    **{kind: (partial(pretrained, kind=kind), 1, 3) for kind in ("rotation", "contrastive")},
    "probe": (probe, 4, 12),
    "generator": (train_generator, 2, 4),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_more_steps_wait_no_more_often(tiny, tmp_path, loop):
    """The CPU reads the losses once, however many on_device were."""
    act, few, many = LOOPS[loop]
    waits = []
    for steps in (few, many):
        on_cpu, on_device, count = on_both(partial(act, folder=tmp_path, iterations=steps), tiny)
        torch.testing.assert_close(on_device, on_cpu, rtol=1e-3, atol=1e-5)
        waits.append(count)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("method", ["random", "herding", "k_center"])
def test_selection_runs_there(tiny, tmp_path, method):
    on_cpu, on_device, _ = on_both(lambda dataset: distilled(dataset, method, tmp_path), tiny)
    assert torch.equal(on_cpu, on_device)


def test_the_pretended_accelerator_counts_and_refuses():
    with accelerator() as on:
        ones = torch.ones(3, device=NAME)
        assert ones.sum().item() == 3
        assert ones[DeviceTensor(torch.tensor([True, False, True]))].sum().cpu() == 2
        torch.ones(3).to(NAME, non_blocking=True)
        assert sum(on.waits.values()) == 3
        with pytest.raises(AssertionError, match="two devices"):
            ones + torch.ones(3)


def test_an_autocast_of_ones_own_is_refused_or_changes_nothing(tiny, tmp_path):
    random, exact = distilled(tiny, "random", tmp_path), trained(tiny, 3)[1]
    whitened = load_data("digits", zca=True).test.samples
    acts = [partial(distilled, tiny, method, tmp_path, 1) for method in ("dm", "dc")]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distilled(tiny, "random", tmp_path), random)
        assert torch.equal(load_data("digits", zca=True).test.samples, whitened)
        for act in (*acts, partial(trained, tiny, 1)):
            with pytest.raises(RuntimeError, match=r"called under torch\.autocast, .* leave it"):
                act()
        with precision("float32", "cpu"):
            torch.testing.assert_close(trained(tiny, 3)[1], exact, rtol=0, atol=0)


def test_threads_of_one_process_leave_each_others_streams_alone():
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
