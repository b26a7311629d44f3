"""DM against the reference, written class by class."""

from itertools import islice

import pytest
import torch
from draws import decoded_by_hand, ordinary_convnet

from ddlib.methods.common import fresh_networks
from ddlib.methods.distribution import DistributionMatching, distil
from ddlib.networks.functional import build
from ddlib.training import augment

EVERYTHING = 40  # a real batch of all images of a class


def settings(**changes):
    given = {"iterations": 4, "real_batch": 8, "augmentation": "none", **changes}
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
RUNS["factor"] = {"iterations": 2, "learning_rate": 4.0, "factor": 2}
RUNS["log"] = RUNS["family"] | {"average": "geometric"}


@pytest.mark.parametrize(
    ("run", "ipc"),
    [("instance", 1), ("instance", 3), ("batch", 30), ("family", 2), ("log", 2), ("factor", 2)],
)
def test_a_run_equals_the_reference_written_class_by_class(tiny, run, ipc):
    """Batch norms see all classes of a side at once, as in the reference.

    For configurations, an iteration matches the features of the network of one. With a factor, the
    network sees the smaller images that each image holds.
    """
    factor = RUNS[run].get("factor", 1)
    norm = "batch" if run == "batch" else "instance"
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    parameters = settings(real_batch=EVERYTHING, **RUNS[run])
    networks = fresh_networks(tiny, network, parameters.configurations, 0)
    drawn = list(islice(networks, parameters.iterations))
    images = start = distil(tiny, network, [ipc], 0, parameters.replace(iterations=0))[ipc].samples
    distilled = distil(tiny, network, [ipc], 0, parameters)[ipc].samples
    velocity = torch.zeros_like(images)
    for chosen, _, theta in drawn:
        body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
        images = images.detach().requires_grad_()
        real, seen = (
            torch.func.functional_call(chosen.body.train(), body, (batch,)).flatten(1)
            for batch in (tiny.train.samples, decoded_by_hand(images, factor))
        )
        loss = reference_loss(real, tiny.train.labels, seen, ipc * factor**2)
        loss = loss.log() if run == "log" else loss
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - RUNS[run]["learning_rate"] * velocity
    torch.testing.assert_close(distilled, images.detach(), rtol=1e-4, atol=1e-5)
    assert (distilled - start).abs().max() > 0.01
    assert (len({chosen for chosen, _, _ in drawn}) > 1) == ("configurations" in RUNS[run])


def test_all_sizes_share_a_real_batch_an_iteration(tiny, network, applied):
    distil(tiny, network, [1, 2, 5], 0, settings())
    assert [len(images) for images, _ in applied] == [24, 3, 6, 15] * 4
    assert not torch.equal(applied[0][0], applied[4][0])


def test_augmentation_is_siamese(tiny, network, applied):
    """One draw for every image of an iteration; the first step is the reference's under it."""
    parameters = settings(iterations=20, augmentation="dsa", real_batch=EVERYTHING)
    distil(tiny, network, [1, 2], 0, parameters)
    for real, one, two in zip(applied[::3], applied[1::3], applied[2::3], strict=True):
        assert real[1] is one[1] is two[1]
        assert all(strength.shape == (1,) for strength in real[1].values.values())
    families = {drawn.family for _, drawn in applied}
    assert families == {"color", "crop", "cutout", "flip", "scale", "rotate"}
    second, (images, drawn) = applied[5][0], applied[2]
    body = ordinary_convnet(next(fresh_networks(tiny, network, [], 0))[2], 2)[0]
    real = body(augment.apply(tiny.train.samples, drawn))
    seen = body(augment.apply(images.requires_grad_(), drawn))
    step = torch.autograd.grad(reference_loss(real, tiny.train.labels, seen, 2), images)[0]
    torch.testing.assert_close(second, images.detach() - step, rtol=1e-4, atol=1e-5)
    assert step.abs().max() > 1e-3


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
