"""DM against the reference, written class by class."""

from itertools import islice

import pytest
import torch
from draws import decoded_by_hand

from ddlib.methods.common import fresh_networks, real_batches
from ddlib.methods.distribution import DistributionMatching, distil
from ddlib.networks.functional import build
from ddlib.seeds import generator
from ddlib.training import augment


def settings(**changes):
    given = {"iterations": 4, "real_batch": 36, "augmentation": "none", **changes}
    return DistributionMatching(**given)


def reference_loss(real, labels, synthetic, ipc):
    """The mean of each class on each side, from features, and a sum of squares."""
    loss = 0
    for label in range(3):
        real_mean = real[labels == label].mean(dim=0)
        synthetic_mean = synthetic[label * ipc : (label + 1) * ipc].mean(dim=0)
        loss = loss + ((real_mean - synthetic_mean) ** 2).sum()
    return loss


FAMILY = [
    {"network": {"name": "mlp", "width": 5, "depth": 2}},
    {"network": {"name": "lenet"}},
    {"network": {"name": "convnet", "width": 3, "depth": 1}},
]
RUNS = {
    "instance": {"iterations": 2, "learning_rate": 4.0},
    "batch": {"iterations": 2, "learning_rate": 60.0},
    "family": {"iterations": 8, "learning_rate": 0.1, "configurations": FAMILY},
}
RUNS["factor"] = RUNS["instance"] | {"factor": 2}
RUNS["dsa"] = {"iterations": 8, "learning_rate": 1.0, "augmentation": "dsa"}
RUNS["log"] = RUNS["family"] | {"average": "geometric"}


@pytest.mark.parametrize(
    ("run", "ipc"), [("instance", 1), *((run, 30 if run == "batch" else 2) for run in RUNS)]
)
def test_a_run_equals_the_reference_written_class_by_class(tiny, run, ipc):
    """Batch norms see all classes of a side at once, as in the reference.

    An iteration draws one augmentation for all images of both sides, and one of the configurations,
    whose network it takes. With a factor, networks see the smaller images that each image holds.
    """
    norm = "batch" if run == "batch" else "instance"
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    parameters = settings(**RUNS[run])
    factor, families = parameters.factor, augment.STRATEGIES[parameters.augmentation]
    batches = real_batches(tiny, 36, generator("real", 0))
    networks = fresh_networks(tiny, network, parameters.configurations, 0)
    drawn = list(islice(networks, parameters.iterations))
    images = start = distil(tiny, network, [ipc], 0, parameters.replace(iterations=0))[ipc].samples
    distilled = distil(tiny, network, [ipc], 0, parameters)[ipc].samples
    velocity = torch.zeros_like(images)
    for number, (chosen, _, theta) in enumerate(drawn):
        draw = augment.draw(families, 1, generator("matching augmentation", 0, number))
        rows = torch.cat(next(batches))
        body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
        images = images.detach().requires_grad_()
        real, seen = (
            torch.func.functional_call(chosen.body.train(), body, (augment.apply(batch, draw),))
            for batch in (tiny.train.samples[rows], decoded_by_hand(images, factor))
        )
        loss = reference_loss(real, tiny.train.labels[rows], seen, ipc * factor**2)
        loss = loss.log() if run == "log" else loss
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - RUNS[run]["learning_rate"] * velocity
    torch.testing.assert_close(distilled, images.detach(), rtol=1e-4, atol=1e-5)
    assert (distilled - start).abs().max() > 0.01
    assert (len({chosen for chosen, _, _ in drawn}) > 1) == ("configurations" in RUNS[run])


def test_configurations_are_drawn_alike_often(tiny, network):
    small = [{"network": {"name": "mlp", "width": width, "depth": 2}} for width in (1, 2, 3)]
    drawn = islice(fresh_networks(tiny, network, small, 0), 300)
    widths = [len(theta["body.1.bias"]) for _, _, theta in drawn]
    for width in (1, 2, 3):  # 100 expected, standard deviation sqrt(300 x 1/3 x 2/3) = 8.2
        assert abs(widths.count(width) - 100) < 35


def test_configurations_of_the_studys_own_network_give_the_same_bytes(tiny, network):
    own = {"network": {"name": "convnet", "width": 6, "depth": 2}}
    plain, alone, twice = (
        distil(tiny, network, [1], 0, settings(configurations=given))[1].samples
        for given in ([], [own], [own, {}])
    )
    assert torch.equal(plain, alone)
    assert torch.equal(plain, twice)
