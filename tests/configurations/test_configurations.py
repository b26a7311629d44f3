from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as parse
from sklearn.linear_model import LogisticRegression
from torch import nn

from ddlib.configurations.configuration import Configuration, Pretraining, State
from ddlib.configurations.families import expand, read_configurations, read_families
from ddlib.configurations.pretraining import contrastive_loss, pretrain
from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.networks import functional as networks
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.augment import augmented
from ddlib.training.loop import train
from ddlib.training.recipe import OPTIMISERS, Recipe

MLP = {"name": "mlp", "width": 10, "depth": 2}
CONVNET = {"name": "convnet", "width": 4, "depth": 1}
BASE = {"network": MLP, "steps": 6, "batch_size": 16, "learning_rate": 0.02}


def configuration(**changes) -> Configuration:
    return Configuration.read({**BASE, **changes}, "the test's")


def start(tiny, chosen, seed=0):
    network = chosen.build(tiny.image_shape, tiny.class_count)
    return network, chosen.initial(network, generator("start", seed))


def slowly(tiny, chosen, make):
    """Train as `train` does, by an optimiser of torch.optim's plain form and a loop."""
    network, theta = start(tiny, chosen)
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    optimiser = make(list(theta.values()))
    images, labels = tiny.train.images[:16], tiny.train.labels[:16]
    for _ in range(chosen.recipe.steps):
        optimiser.zero_grad()
        F.cross_entropy(networks.logits(network, theta, images), labels).backward()
        optimiser.step()
    return theta


PLAIN = {"weight_decay": 0.01, "schedule": "constant"}
OPTIM = {
    "sgd": lambda weights: torch.optim.SGD(weights, 0.02, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda weights: torch.optim.SGD(
        weights, 0.02, momentum=0.9, weight_decay=0.01, nesterov=True
    ),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, 0.02, weight_decay=0.01),
    "adam": lambda weights: torch.optim.Adam(weights, 0.02, weight_decay=0.01),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.02, weight_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_is_that_of_a_plain_loop(tiny, name):
    chosen = configuration(optimizer=name, **PLAIN)
    network, theta = start(tiny, chosen)
    images, labels = tiny.train.images[:16], tiny.train.labels[:16]
    ours = train(network, theta, images, labels, chosen.recipe, generator("unused"))
    theirs = slowly(tiny, chosen, OPTIM[name])
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, atol=1e-6), key
    assert not torch.allclose(ours["head.weight"], theta["head.weight"], atol=1e-3)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("network", [MLP, {**CONVNET, "norm": "batch"}], ids=["mlp", "batch norm"])
def test_updates_one_by_one_are_the_training(tiny, name, network):
    """The pure operator, from state to state, gives the bytes of the loop that works in place."""
    chosen = configuration(optimizer=name, network=network, schedule="cosine", learning_rate=0.003)
    built, theta = start(tiny, chosen)
    images, labels = tiny.train.images[:16], tiny.train.labels[:16]
    whole = train(built, theta, images, labels, chosen.recipe, generator("unused"))
    weights, state = theta, State.start(0)
    for _ in range(chosen.recipe.steps):
        weights, state = chosen.update(built, weights, state, (images, labels))
    assert state.step == chosen.recipe.steps
    assert weights.keys() == whole.keys()
    for key in whole:
        assert torch.equal(weights[key], whole[key]), key


def test_updates_drop_what_the_training_drops(tiny):
    body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    network = Network(body, nn.Linear(64, 3))
    theta = initial_parameters(network, generator("weights"))
    images, labels = tiny.train.images[:16], tiny.train.labels[:16]
    chosen, state = configuration(network=MLP, **PLAIN), State.start(0)
    stream = torch.Generator()
    stream.set_state(state.stream)
    whole = train(network, theta, images, labels, chosen.recipe, stream)
    for _ in range(chosen.recipe.steps):
        theta, state = chosen.update(network, theta, state, (images, labels))
    assert torch.equal(theta["head.weight"], whole["head.weight"])


def test_an_update_changes_nothing_that_it_is_given(tiny):
    chosen = configuration(optimizer="adam", augmentation="dsa")
    network, theta = start(tiny, chosen)
    batch = tiny.train.images[:16], tiny.train.labels[:16]
    weights, state = chosen.update(network, theta, State.start(0), batch)
    kept = {name: value.clone() for name, value in weights.items()}
    moments = {
        (key, name): value.clone()
        for key, values in state.moments.items()
        for name, value in values.items()
    }
    before = torch.random.get_rng_state()
    first, _ = chosen.update(network, weights, state, batch)
    second, _ = chosen.update(network, weights, state, batch)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in weights.items():
        assert torch.equal(value, kept[name])
        assert torch.equal(first[name], second[name])
    for (key, name), value in moments.items():
        assert torch.equal(state.moments[key][name], value)
    assert not torch.equal(first["head.weight"], weights["head.weight"])


def test_labels_are_smoothed_as_the_closed_form_has_it(tiny):
    """One SGD step moves the head's bias by -rate times mean(softmax - smoothed labels)."""
    chosen = configuration(
        label_smoothing=0.3, steps=1, momentum=0.0, **PLAIN | {"weight_decay": 0}
    )
    network, theta = start(tiny, chosen)
    images, labels = tiny.train.images[:16], tiny.train.labels[:16]
    moved = train(network, theta, images, labels, chosen.recipe, generator("unused"))
    shares = networks.logits(network, theta, images).softmax(1)
    wanted = 0.7 * F.one_hot(labels, 3) + 0.1
    expected = theta["head.bias"] - 0.02 * (shares - wanted).mean(0)
    assert torch.allclose(moved["head.bias"], expected, atol=1e-6)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def probed(images, labels, test_images, test_labels, network, theta) -> float:
    """The accuracy of a linear classifier on the features of a network."""
    seen, tested = (networks.embed(network, theta, each).numpy() for each in (images, test_images))
    return LogisticRegression(max_iter=300).fit(seen, labels).score(tested, test_labels)


@pytest.mark.parametrize("kind", ["rotation", "contrastive"])
def test_pretraining_learns_without_labels(digits, kind):
    """Features tell rotations, or the classes of few labels, better than those of fresh weights."""
    chosen = configuration(
        network={"name": "convnet", "width": 8, "depth": 2},
        initialisation=kind,
        pretraining={"steps": 150, "batch_size": 64, "learning_rate": 0.003},
    )
    before = torch.random.get_rng_state()
    content = pretrain(digits, chosen)
    assert torch.equal(torch.random.get_rng_state(), before)
    network = chosen.build(digits.image_shape, 10)
    fresh = initial_parameters(network, generator("fresh"))
    theta = chosen.initial(network, generator("fresh"), parse(content))
    few, test = digits.train.images[:60], digits.test.images[:300]
    labels = digits.train.labels[:60], digits.test.labels[:300]
    if kind == "rotation":
        few, test = (torch.cat([part.rot90(t, (2, 3)) for t in range(4)]) for part in (few, test))
        labels = [torch.arange(4).repeat_interleave(count) for count in (60, 300)]
    scores = [probed(few, labels[0], test, labels[1], network, each) for each in (fresh, theta)]
    assert scores[1] > scores[0] + 0.05


@pytest.mark.parametrize("kind", ["rotation", "contrastive"])
def test_pretraining_gives_the_body_and_leaves_the_head_to_the_seed(tiny, kind):
    short = {"steps": 3, "batch_size": 8}
    chosen = configuration(network=CONVNET, initialisation=kind, pretraining=short)
    content = pretrain(tiny, chosen)
    assert content == pretrain(tiny, chosen)
    network, body = chosen.build(tiny.image_shape, 3), parse(content)
    assert body.keys() == {
        name for name, _ in network.named_parameters() if name.startswith("body.")
    }
    first, second = (chosen.initial(network, generator("head", s), body) for s in (0, 1))
    assert not torch.equal(first["head.weight"], second["head.weight"])
    for name, value in body.items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value)


def test_the_contrastive_loss_is_the_papers_formula():
    projected = torch.randn(6, 4, generator=generator("projected"))
    terms = []
    for i in range(6):
        cosine = [F.cosine_similarity(projected[i], projected[j], dim=0) / 0.5 for j in range(6)]
        others = sum(cosine[j].exp() for j in range(6) if j != i)
        terms.append(-(cosine[(i + 3) % 6].exp() / others).log())
    assert contrastive_loss(projected).item() == pytest.approx(sum(terms).item() / 6, rel=1e-5)


@pytest.mark.parametrize("augmentation", ["mixup", "cutmix"])
def test_a_mixed_image_counts_for_the_labels_of_both(augmentation):
    """On images of ones and zeros, the mean pixel is the share that their own labels count for."""
    images = torch.cat([torch.ones(8, 1, 10, 10), torch.zeros(8, 1, 10, 10)])
    kept_shares = []
    for seed in range(40):
        mixed, others, kept = augmented(images, augmentation, generator("mix", seed))
        expected = kept * images.mean((1, 2, 3)) + (1 - kept) * images[others].mean((1, 2, 3))
        assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-6)
        assert 0 <= kept <= 1
        kept_shares.append(kept)
    assert 0.35 < sum(kept_shares) / 40 < 0.75
    assert len(set(kept_shares)) > 10


def test_flip_and_crop_are_both_applied():
    row = torch.arange(16.0).expand(64, 1, 16, 16).contiguous() + 1
    seen, others, _ = augmented(row, "flip_crop", generator("both"))
    assert others is None
    kinds = Counter()
    for image in seen:
        steps = image[0, 8].diff()
        kinds["flipped" if (steps == -1).sum() > 8 else "not flipped"] += 1
        kinds["shifted" if (image == 0).any() else "not shifted"] += 1
    assert kinds["flipped"] > 20
    assert kinds["not flipped"] > 20
    assert kinds["shifted"] > 40


# Reading.


def test_a_configuration_keeps_what_the_base_says_and_its_name_is_its_own():
    read = read_configurations({"own": {}, "adam": {"optimizer": "adam"}}, BASE)
    assert read["own"].recipe == Recipe(steps=6, batch_size=16, learning_rate=0.02)
    assert read["adam"].recipe == Recipe(
        steps=6, batch_size=16, learning_rate=0.02, optimizer="adam"
    )
    assert read["adam"].network == networks.read_network(MLP)


def test_a_product_is_every_combination():
    given = {
        "own": {},
        "grid": {
            "schedule": "constant",
            "product": {"optimizer": ["sgd", "adam"], "network": [MLP, {"name": "lenet"}]},
        },
    }
    written = expand(given)
    assert written["own"] == {"own": {}}
    assert written["grid"] == {
        f"grid-{optimizer}-{label}": {
            "schedule": "constant",
            "optimizer": optimizer,
            "network": network,
        }
        for optimizer in ("sgd", "adam")
        for label, network in (("mlp-width10-depth2", MLP), ("lenet", {"name": "lenet"}))
    }


ENTRIES = {"own": ["own"], "grid": ["grid-sgd", "grid-adam"], "grid-own": ["grid-own"]}


def test_families_are_lists_products_and_growing_series():
    families = read_families(
        {
            "pair": ["own", "grid-own"],
            "all": ["grid-own", "grid"],  # a name that starts alike is no part of the product
            "one": ["grid-sgd"],
            "grow": {"nested": ["own", "grid", "grid-own"]},
        },
        ENTRIES,
    )
    assert {name: family.members for name, family in families.items()} == {
        "pair": ("own", "grid-own"),
        "all": ("grid-own", "grid-sgd", "grid-adam"),
        "one": ("grid-sgd",),
        "grow-2": ("own", "grid-sgd"),
        "grow-3": ("own", "grid-sgd", "grid-adam"),
        "grow-4": ("own", "grid-sgd", "grid-adam", "grid-own"),
    }
    assert [family.series for family in families.values()] == [
        *["", "", "", "grow", "grow", "grow"]
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "configurations must be a table"),
        (
            {"a": {"optimiser": "adam"}},
            "the configuration 'a': 'optimiser' is not a parameter; did",
        ),
        ({"a": {"optimizer": "adan"}}, "'adan' is not an optimizer; did you mean 'adam'"),
        ({"a": {}, "b": {"steps": 6}}, "'b' is the same as 'a'; drop one"),
        ({"a": {"network": {"name": "vgg"}}}, "'vgg' is not a network"),
        ({"a": {"network": "vgg11"}}, "network must be a table with a name"),
        (
            {"a": {"initialisation": "xavier"}},
            "the configuration 'a': 'xavier' is not an initialisation;",
        ),
        (
            {"a": {"label_smoothing": 2}},
            "label_smoothing=2 must be a number of at least 0 and at most 1",
        ),
        ({"a": {"optimizer": "nesterov", "momentum": 0}}, "needs a momentum above 0"),
        ({"a": 3}, "must be a table of what it changes"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        read_configurations(given, BASE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "families must be a table"),
        ({"f": []}, "the family 'f' is empty"),
        ({"f": ["a", "c"]}, "'c' is not a configuration of 'f'"),
        ({"f": ["a", "a"]}, "holds 'a' twice"),
        ({"f": {"nested": ["a"], "size": [1]}}, "'size' is not a parameter of the family"),
        ({"f": {"nested": []}}, "is empty"),
        ({"f": {"nested": ["a"]}}, "'f' grows from two configurations; list at least two"),
    ],
)
def test_a_bad_family_is_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        read_families(given, {"a": ["a"], "b": ["b"]})


def test_names_that_meet_are_refused():
    with pytest.raises(ValueError, match="two configurations are named 'g-adam'; rename"):
        expand({"g-adam": {}, "g": {"product": {"optimizer": ["adam"]}}})
    with pytest.raises(ValueError, match="two configurations are named 'g-1'; give"):
        expand({"g": {"product": {"momentum": [1, "1"]}}})


def test_a_product_that_is_none_is_refused():
    with pytest.raises(ValueError, match="product of 'g' must be a table"):
        expand({"g": {"product": {"optimizer": "adam"}}})


def test_rotation_wants_square_images(tiny):
    wide = replace(tiny, train=Split(tiny.train.images[..., :6], tiny.train.labels))
    chosen = configuration(initialisation="rotation")
    with pytest.raises(ValueError, match="these are 8x6; choose 'contrastive'"):
        pretrain(wide, chosen)


def test_the_learning_rates_of_pretraining_are_checked():
    with pytest.raises(ValueError, match="batch_size=1 must be a whole number of at least 2"):
        Pretraining(batch_size=1)
