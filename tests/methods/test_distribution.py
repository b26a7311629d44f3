from dataclasses import replace

import pytest
import torch

from ddlib.methods import distribution
from ddlib.methods.distribution import DistributionMatching, class_means, distil, objective
from ddlib.methods.matching import draw_one
from ddlib.methods.selection import RandomSelection, random
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.training.divergence import DivergedError

EVERYTHING = 40  # a real batch of all images of a class


@pytest.fixture
def applied(monkeypatch):
    """What augmentation is applied to, in order: (images, draw)."""
    calls = []
    apply = distribution.augment.apply

    def record(images, drawn):
        calls.append((images.detach().clone(), drawn))
        return apply(images, drawn)

    monkeypatch.setattr(distribution.augment, "apply", record)
    return calls


def settings(**changes):
    given = {"iterations": 4, "real_batch": 8, "augmentation": "none", **changes}
    return DistributionMatching(**given)


def reference_loss(embed, real, labels, synthetic, ipc):
    """The reference's way: a forward pass a class on each side, and a sum of squares."""
    loss = 0
    for label in range(3):
        real_mean = embed(real[labels == label]).mean(dim=0)
        synthetic_mean = embed(synthetic[label * ipc : (label + 1) * ipc]).mean(dim=0)
        loss = loss + ((real_mean - synthetic_mean) ** 2).sum()
    return loss


def test_defaults_are_the_published_ones():
    given = vars(DistributionMatching())
    assert given == {
        "iterations": 20000,
        "learning_rate": 1.0,
        "momentum": 0.5,
        "real_batch": 256,
        "initialisation": "real",
        "augmentation": "dsa",
        "configurations": [],
        "average": "arithmetic",
    }


def test_objective_equals_a_loop_over_classes_and_features():
    stream = torch.Generator().manual_seed(0)
    real, synthetic = (torch.randn(n, 5, generator=stream, dtype=torch.float64) for n in (11, 6))
    real_labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2, 0, 1, 2])
    synthetic_labels = torch.tensor([0, 0, 1, 1, 2, 2])
    total = 0.0
    for label in range(3):
        ours = [row for row, own in zip(synthetic, synthetic_labels, strict=True) if own == label]
        theirs = [row for row, own in zip(real, real_labels, strict=True) if own == label]
        for feature in range(5):
            our_mean = sum(float(row[feature]) for row in ours) / len(ours)
            their_mean = sum(float(row[feature]) for row in theirs) / len(theirs)
            total += (their_mean - our_mean) ** 2
    means = [class_means(synthetic, synthetic_labels, 3), class_means(real, real_labels, 3)]
    assert means[0].shape == (3, 5)
    assert objective(*means).item() == pytest.approx(total, rel=1e-12)


def test_objective_has_the_gradient_that_finite_differences_give():
    stream = torch.Generator().manual_seed(0)
    features = torch.randn(6, 4, generator=stream, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 4, generator=stream, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    assert torch.autograd.gradcheck(
        lambda f: objective(class_means(f, labels, 3), target), features
    )
    objective(class_means(features, labels, 3), target).backward()
    mean = features.detach()[1:3].mean(0)  # class 1: d/df (t - m)^2 = 2 (m - t) / 2 images
    torch.testing.assert_close(features.grad[1], 2 * (mean - target[1]) / 2)


@pytest.mark.parametrize("ipc", [1, 3])
def test_two_steps_equal_the_reference_written_class_by_class(
    tiny, network, ordinary_convnet, drawn_weights, ipc
):
    start = distil(tiny, network, [ipc], 0, settings(iterations=0))[ipc].images
    parameters = settings(iterations=2, learning_rate=0.7, momentum=0.5, real_batch=EVERYTHING)
    made = distil(tiny, network, [ipc], 0, parameters)[ipc].images
    images, velocity = start, torch.zeros_like(start)
    for theta in drawn_weights:
        images = images.detach().requires_grad_()
        embed = ordinary_convnet(theta, 2)[0]
        loss = reference_loss(embed, tiny.train.images, tiny.train.labels, images, ipc)
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - 0.7 * velocity
    assert len(drawn_weights) == 2
    torch.testing.assert_close(made, images.detach(), rtol=1e-4, atol=1e-5)
    assert (made - start).abs().max() > 0.01


@pytest.mark.parametrize("ipc", [1, 30])
def test_batch_norms_see_all_classes_of_a_side_at_once(tiny, ordinary_convnet, drawn_weights, ipc):
    network = build("convnet", tiny.image_shape, 3, width=6, depth=2, norm="batch")
    start = distil(tiny, network, [ipc], 0, settings(iterations=0))[ipc].images
    rate = 4.0 * ipc
    parameters = settings(iterations=2, learning_rate=rate, momentum=0.5, real_batch=EVERYTHING)
    made = distil(tiny, network, [ipc], 0, parameters)[ipc].images
    images, velocity = start, torch.zeros_like(start)
    for theta in drawn_weights:
        images = images.detach().requires_grad_()
        body = ordinary_convnet(theta, 2, norm=torch.nn.BatchNorm2d)[0].train()
        real, synthetic = body(tiny.train.images), body(images)  # 120 and 3 x ipc images
        loss = 0
        for label in range(3):
            real_mean = real[tiny.train.labels == label].mean(dim=0)
            loss = loss + (real_mean - synthetic[label * ipc :][:ipc].mean(dim=0)).pow(2).sum()
        velocity = 0.5 * velocity + torch.autograd.grad(loss, images)[0]
        images = images - rate * velocity
    torch.testing.assert_close(made, images.detach(), rtol=1e-4, atol=1e-5)
    assert (made - start).abs().max() > 0.01


def test_every_iteration_draws_one_new_network_for_all_sizes(tiny, network, drawn_weights):
    distil(tiny, network, [1, 2, 5], 0, settings(iterations=4))
    firsts = [theta["head.weight"] for theta in drawn_weights]
    assert len(firsts) == 4
    for i in range(4):
        assert not any(torch.equal(firsts[i], firsts[j]) for j in range(i))


@pytest.mark.parametrize("initialisation", ["real", "noise"])
@pytest.mark.parametrize("augmentation", ["none", "dsa"])
def test_all_sizes_together_are_what_each_is_alone(tiny, network, initialisation, augmentation):
    parameters = settings(
        iterations=8,
        learning_rate={1: 1, 10: 10},
        initialisation=initialisation,
        augmentation=augmentation,
    )
    together = distil(tiny, network, [1, 2, 5, 10], 3, parameters)
    backwards = distil(tiny, network, [10, 1], 3, parameters)
    for ipc in (1, 2, 5, 10):
        alone = distil(tiny, network, [ipc], 3, parameters)[ipc]
        torch.testing.assert_close(together[ipc].images, alone.images, rtol=1e-6, atol=1e-6)
    for ipc in (10, 1):
        torch.testing.assert_close(
            together[ipc].images, backwards[ipc].images, rtol=1e-6, atol=1e-6
        )


def test_one_real_forward_pass_serves_every_size(tiny, network, applied):
    ipcs, iterations = [1, 2, 5], 6
    distil(tiny, network, ipcs, 0, settings(iterations=iterations, real_batch=8))
    sizes = [len(images) for images, _ in applied]
    assert sizes == [24, 3, 6, 15] * iterations
    real = [images for images, _ in applied if len(images) == 24]
    everything = tiny.train.images.flatten(1)
    for images in real:
        rows = torch.cdist(images.flatten(1), everything).argmin(1)
        assert torch.equal(tiny.train.images[rows], images)
        assert len(rows.unique()) == 24
        assert tiny.train.labels[rows].bincount().tolist() == [8, 8, 8]
    assert not torch.equal(real[0], real[1])


def test_the_real_batches_are_those_of_the_seed_whatever_is_distilled(tiny, network, applied):
    def real(ipcs, seed, **changes):
        applied.clear()
        distil(tiny, network, ipcs, seed, settings(real_batch=9, **changes))
        return torch.stack([images for images, _ in applied if len(images) == 27])

    one = real([1], 0)
    assert torch.equal(one, real([2, 5], 0))
    assert torch.equal(one, real([1], 0, initialisation="noise", learning_rate=0.1))
    assert not torch.equal(one, real([1], 1))


def test_real_initialisation_starts_from_the_random_control(tiny, network):
    sets = distil(tiny, network, [1, 4], 2, settings(iterations=0, initialisation="real"))
    controls = random(tiny, network, [1, 4], 2, RandomSelection())
    for ipc in (1, 4):
        assert torch.equal(sets[ipc].images, controls[ipc].images)


def test_noise_initialisation_is_standard_normal(tiny, network):
    parameters = settings(iterations=0, initialisation="noise")
    noise = distil(tiny, network, [1, 40], 2, parameters)[40].images
    assert noise.shape == (120, 1, 8, 8)
    count = noise.numel()  # 7680: four standard errors on either moment
    assert abs(noise.mean()) < 4 / count**0.5
    assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((noise > 1.96).float().mean() - 0.025) < 4 * (0.025 / count) ** 0.5
    other = distil(tiny, network, [40], 3, parameters)[40].images
    assert abs((noise * other).mean()) < 4 / count**0.5


def test_distilling_never_writes_into_the_real_set(tiny, network):
    before = tiny.train.images.clone()
    distil(tiny, network, [1, 40], 0, settings(augmentation="dsa"))
    assert torch.equal(tiny.train.images, before)


@pytest.mark.parametrize("initialisation", ["real", "noise"])
def test_the_objective_falls_on_networks_that_were_not_matched(
    tiny, network, ordinary_convnet, initialisation
):
    parameters = settings(iterations=60, real_batch=16, initialisation=initialisation)
    parameters = parameters.replace(learning_rate={1: 1, 5: 5})
    start = distil(tiny, network, [1, 5], 0, parameters.replace(iterations=0))
    made = distil(tiny, network, [1, 5], 0, parameters)
    for ipc in (1, 5):
        before, after = 0.0, 0.0
        for seed in range(10):
            theta = initial_parameters(network, torch.Generator().manual_seed(10_000 + seed))
            embed = ordinary_convnet(theta, 2)[0]
            real = (tiny.train.images, tiny.train.labels)
            with torch.no_grad():
                before += reference_loss(embed, *real, start[ipc].images, ipc).item()
                after += reference_loss(embed, *real, made[ipc].images, ipc).item()
        assert after < 0.5 * before


def test_a_table_of_learning_rates_is_interpolated_at_each_size(tiny, network):
    still = distil(tiny, network, [1, 3, 5, 9], 0, settings(iterations=0))
    unit = distil(tiny, network, [1, 3, 5, 9], 0, settings(iterations=1, learning_rate=1))
    table = distil(
        tiny, network, [1, 3, 5, 9], 0, settings(iterations=1, learning_rate={1: 0.5, 5: 4.5})
    )
    for ipc, rate in ((1, 0.5), (3, 2.5), (5, 4.5), (9, 4.5)):
        step = unit[ipc].images - still[ipc].images
        torch.testing.assert_close(
            table[ipc].images - still[ipc].images, rate * step, rtol=1e-3, atol=1e-5
        )
        assert step.abs().max() > 1e-3


def test_augmentation_is_siamese(tiny, network, applied):
    parameters = settings(iterations=30, augmentation="dsa")
    distil(tiny, network, [1, 2], 0, parameters)
    families = set()
    for iteration in range(30):
        [real, one, two] = applied[3 * iteration : 3 * iteration + 3]
        families.add(real[1].family)
        for _, drawn in (one, two):
            assert drawn.family == real[1].family
            assert drawn.values.keys() == real[1].values.keys()
            for name, strength in drawn.values.items():
                assert strength.shape == (1,)  # one strength for every image
                assert torch.equal(strength, real[1].values[name])
    assert families == {"color", "crop", "cutout", "flip", "scale", "rotate"}


def test_a_siamese_step_equals_the_reference_on_augmented_images(
    tiny, network, ordinary_convnet, drawn_weights, applied
):
    start = distil(tiny, network, [2], 1, settings(iterations=0, augmentation="dsa"))[2].images
    parameters = settings(iterations=1, real_batch=EVERYTHING, augmentation="dsa")
    made = distil(tiny, network, [2], 1, parameters)[2].images
    drawn = applied[0][1]
    transform = distribution.augment.FAMILIES[drawn.family].transform
    images = start.clone().requires_grad_()
    embed = ordinary_convnet(drawn_weights[0], 2)[0]
    real = transform(tiny.train.images, drawn.values)
    loss = reference_loss(embed, real, tiny.train.labels, transform(images, drawn.values), 2)
    step = torch.autograd.grad(loss, images)[0]
    torch.testing.assert_close(made, start - step, rtol=1e-4, atol=1e-5)
    assert step.abs().max() > 1e-3


def test_one_seed_gives_one_set_and_the_global_state_is_left_alone(tiny, network):
    parameters = settings(augmentation="dsa", initialisation="noise")
    before = torch.get_rng_state()
    first, again, other = (distil(tiny, network, [2], seed, parameters)[2] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_the_set_says_what_made_it(tiny, network):
    parameters = settings(learning_rate={1: 1, 5: 5})
    made = distil(tiny, network, [2], 4, parameters)[2]
    assert (made.data, made.method, made.seed, made.classes) == ("tiny", "dm", 4, tiny.classes)
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert made.normalisation == tiny.normalisation
    assert made.parameters == {
        "iterations": 4,
        "learning_rate": {1: 1, 5: 5},
        "momentum": 0.5,
        "real_batch": 8,
        "initialisation": "real",
        "augmentation": "none",
        "configurations": [],
        "average": "arithmetic",
    }
    assert not made.images.requires_grad


def test_a_size_that_diverges_leaves_the_others_as_they_are(tiny, network):
    rates = {1: 1.0, 2: 1e30, 3: 1.0}
    outcomes = distil(tiny, network, [1, 2, 3], 0, settings(learning_rate=rates))
    assert isinstance(outcomes[2], DivergedError)
    assert "the matching loss stopped being a finite number at step" in str(outcomes[2])
    assert 1 <= outcomes[2].step < 4
    for ipc in (1, 3):
        alone = distil(tiny, network, [ipc], 0, settings(learning_rate=1.0))[ipc]
        torch.testing.assert_close(outcomes[ipc].images, alone.images, rtol=1e-6, atol=1e-6)


def test_pixels_that_overflow_in_the_last_step_are_a_divergence_too(tiny):
    network = build("mlp", tiny.image_shape, tiny.class_count, width=64, depth=2)
    bright = replace(tiny, train=replace(tiny.train, images=tiny.train.images * 100))
    outcome = distil(bright, network, [1], 0, settings(iterations=1, learning_rate=3e38))[1]
    assert isinstance(outcome, DivergedError)
    assert "a pixel stopped being a finite number at step 1" in str(outcome)


def test_a_perceptron_is_matched_as_well(tiny):
    network = build("mlp", tiny.image_shape, tiny.class_count, width=16, depth=2)
    start, made = (
        distil(tiny, network, [1], 0, settings(iterations=n, real_batch=EVERYTHING))[1].images
        for n in (0, 60)
    )
    means = torch.stack([tiny.train.images[tiny.train.labels == c].mean(0) for c in range(3)])
    # Matching mean features of many random layers pulls the one image towards the class mean.
    assert (made - means).pow(2).sum() < 0.7 * (start - means).pow(2).sum()


FAMILY = [
    {"network": {"name": "mlp", "width": 5, "depth": 2}},
    {"network": {"name": "lenet"}},
    {"network": {"name": "convnet", "width": 3, "depth": 1}},
]


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
def test_for_a_family_every_iteration_matches_the_features_of_one_of_its_networks(
    tiny, network, drawn_weights, average
):
    """The run equals gradient descent on the losses of the networks that were drawn, in turn."""
    given = settings(
        iterations=8,
        real_batch=EVERYTHING,
        momentum=0.0,
        learning_rate=0.1,
        configurations=FAMILY,
        average=average,
    )
    made = distil(tiny, network, [2], 3, given)[2]
    built = [build(**each["network"], image_shape=(1, 8, 8), class_count=3) for each in FAMILY]
    shapes = [[value.shape for value in each.parameters()] for each in built]
    synthetic = random(tiny, network, [2], 3, RandomSelection())[2].images.clone()
    drawn = []
    for theta in drawn_weights:
        drawn.append(shapes.index([value.shape for value in theta.values()]))
        body = {name: value for name, value in theta.items() if name.startswith("body.")}
        body = {name.removeprefix("body."): value for name, value in body.items()}

        def forward(images, body=body, chosen=built[drawn[-1]]):
            return torch.func.functional_call(chosen.body, body, (images,)).flatten(1)

        synthetic.requires_grad_()
        loss = reference_loss(forward, tiny.train.images, tiny.train.labels, synthetic, 2)
        loss = loss if average == "arithmetic" else loss.log()
        (slope,) = torch.autograd.grad(loss, synthetic)
        synthetic = (synthetic - 0.1 * slope).detach()
    torch.testing.assert_close(made.images, synthetic, rtol=1e-4, atol=1e-5)
    assert len(drawn) == 8
    assert len(set(drawn)) > 1


def test_the_networks_of_a_family_are_drawn_alike_often_and_by_the_seed():
    drawn = [[draw_one("abc", "test", seed, i) for i in range(600)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for letter in "abc":  # 200 expected, standard deviation sqrt(600 x 1/3 x 2/3) = 11.5
        assert abs(drawn[0].count(letter) - 200) < 50


def test_a_family_of_the_studys_own_network_gives_the_same_bytes(tiny, network):
    own = {"network": {"name": "convnet", "width": 6, "depth": 2}}
    plain, alone, twice = (
        distil(tiny, network, [1], 0, settings(configurations=given))[1].images
        for given in ([], [own], [own, {}])
    )
    assert torch.equal(plain, alone)
    assert torch.equal(plain, twice)


def test_sizes_distilled_for_a_family_share_its_draws(tiny, network):
    given = settings(configurations=FAMILY)
    together = distil(tiny, network, [1, 3], 0, given)
    for ipc in (1, 3):
        alone = distil(tiny, network, [ipc], 0, given)[ipc]
        assert torch.equal(together[ipc].images, alone.images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mlp", "configurations='mlp' must be a list"),
        (["mlp"], r"configurations\[0\]: a configuration must be a table"),
        ([{"network": "mlp"}], r"configurations\[0\]: network must be a table with a name"),
        ([{}, {"network": {"name": "mpl"}}], r"\[1\]: 'mpl' is not a network; did you mean 'mlp'"),
        (
            [{"network": {"name": "mlp", "widht": 3}}],
            "the network 'mlp': 'widht' is not a parameter; did",
        ),
        ([{"optimiser": "adam"}], "'optimiser' is not a field .*did you mean 'optimizer'"),
        ([{"optimizer": "nesterov"}], "needs a momentum above 0"),
        ([{"learning_rate": -1}], "learning_rate=-1 must be"),
    ],
)
def test_a_bad_family_to_distil_for_is_refused_when_it_is_read(given, message):
    with pytest.raises(ValueError, match=message):
        settings(configurations=given)
