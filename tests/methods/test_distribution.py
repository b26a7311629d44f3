"""DM against the reference, written class by class."""

import pytest
import torch
from draws import decoded_by_hand

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
def test_a_run_equals_the_reference_written_class_by_class(tiny, drawn_weights, run, ipc):
    """Batch norms see all classes of a side at once, as in the reference.

    For configurations, an iteration matches the features of the network of one. With a factor, the
    network sees the smaller images that each image holds.
    """
    factor = RUNS[run].get("factor", 1)
    norm = "batch" if run == "batch" else "instance"
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    parameters = settings(real_batch=EVERYTHING, **RUNS[run])
    images = start = distil(tiny, network, [ipc], 0, parameters.replace(iterations=0))[ipc].samples
    distilled = distil(tiny, network, [ipc], 0, parameters)[ipc].samples
    family = [build(**each["network"], sample_shape=(1, 8, 8), class_count=3) for each in FAMILY]
    networks = family if "configurations" in RUNS[run] else [network]
    shapes, drawn = [[value.shape for value in each.parameters()] for each in networks], []
    velocity = torch.zeros_like(images)
    for theta in drawn_weights:
        drawn.append(shapes.index([value.shape for value in theta.values()]))
        body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
        images = images.detach().requires_grad_()
        real, seen = (
            torch.func.functional_call(networks[drawn[-1]].body.train(), body, (batch,)).flatten(1)
            for batch in (tiny.train.samples, decoded_by_hand(images, factor))
        )
        loss = reference_loss(real, tiny.train.labels, seen, ipc * factor**2)
        loss = loss.log() if run == "log" else loss
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - RUNS[run]["learning_rate"] * velocity
    torch.testing.assert_close(distilled, images.detach(), rtol=1e-4, atol=1e-5)
    assert (distilled - start).abs().max() > 0.01
    assert len(drawn) == parameters.iterations
    assert (len(set(drawn)) > 1) == (len(networks) > 1)


def test_all_sizes_share_networks_and_real_batches(tiny, network, drawn_weights, applied):
    distil(tiny, network, [1, 2, 5], 0, settings())
    heads = torch.stack([theta["head.weight"] for theta in drawn_weights])
    assert len(heads.unique(dim=0)) == 4
    assert [len(images) for images, _ in applied] == [24, 3, 6, 15] * 4
    real = torch.stack([images for images, _ in applied[::4]])
    rows = torch.cdist(real.flatten(2), tiny.train.samples.flatten(1)[None]).argmin(2)
    assert torch.equal(tiny.train.samples[rows], real)
    assert not torch.equal(rows[0], rows[1])
    for batch in rows:
        assert len(batch.unique()) == 24
        assert tiny.train.labels[batch].bincount().tolist() == [8, 8, 8]


def test_augmentation_is_siamese(tiny, network, ordinary_convnet, drawn_weights, applied):
    """One draw for every image of an iteration; the first step is the reference's under it."""
    parameters = settings(iterations=20, augmentation="dsa", real_batch=EVERYTHING)
    distil(tiny, network, [1, 2], 0, parameters)
    for real, one, two in zip(applied[::3], applied[1::3], applied[2::3], strict=True):
        assert real[1] is one[1] is two[1]
        assert all(strength.shape == (1,) for strength in real[1].values.values())
    families = {drawn.family for _, drawn in applied}
    assert families == {"color", "crop", "cutout", "flip", "scale", "rotate"}
    second, (images, drawn) = applied[5][0], applied[2]
    body = ordinary_convnet(drawn_weights[0], 2)[0]
    real = body(augment.apply(tiny.train.samples, drawn))
    seen = body(augment.apply(images.requires_grad_(), drawn))
    step = torch.autograd.grad(reference_loss(real, tiny.train.labels, seen, 2), images)[0]
    torch.testing.assert_close(second, images.detach() - step, rtol=1e-4, atol=1e-5)
    assert step.abs().max() > 1e-3


def test_configurations_are_drawn_alike_often(tiny, network, drawn_weights):
    small = [{"network": {"name": "mlp", "width": width, "depth": 2}} for width in (1, 2, 3)]
    distil(tiny, network, [1], 0, settings(iterations=300, real_batch=1, configurations=small))
    widths = [len(theta["body.1.bias"]) for theta in drawn_weights]
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
