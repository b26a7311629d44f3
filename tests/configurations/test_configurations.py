from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load as parse
from sklearn.linear_model import LogisticRegression

from ddlib.configurations.configuration import Configuration, Pretraining
from ddlib.configurations.families import expand, read_configurations, read_families
from ddlib.configurations.pretraining import contrastive_loss, pretrain
from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.networks.functional import embed, read_network
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training.recipe import Recipe

MLP = {"name": "mlp", "width": 10, "depth": 2}
CONVNET = {"name": "convnet", "width": 4, "depth": 1}
LOGISTIC = {"network": {"name": "logistic_regression"}}
BASE = {"network": MLP, "steps": 6, "batch_size": 16, "learning_rate": 0.02}


def configuration(**changes) -> Configuration:
    return Configuration.read({**BASE, **changes}, "the test's")


def probed(images, labels, test_images, test_labels, network, theta) -> float:
    """The accuracy of a linear classifier on the features of a network."""
    seen, tested = (embed(network, theta, part).numpy() for part in (images, test_images))
    return LogisticRegression(max_iter=300).fit(seen, labels).score(tested, test_labels)


@pytest.mark.parametrize("kind", ["rotation", "contrastive"])
def test_pretraining_learns_without_labels(kind):
    """Features tell rotations, or the classes of few labels, better than those of fresh weights."""
    digits = load("digits")
    short = {"steps": 80, "batch_size": 64, "learning_rate": 0.003}
    network = {"name": "convnet", "width": 8, "depth": 2}
    chosen = configuration(network=network, initialisation=kind, pretraining=short)
    before = torch.random.get_rng_state()
    content = pretrain(digits, chosen)
    assert torch.equal(torch.random.get_rng_state(), before)
    network = chosen.build(digits.sample_shape, 10)
    fresh = initial_parameters(network, generator("fresh"))
    theta = chosen.initial(network, generator("fresh"), parse(content))
    few, test = digits.train.samples[:60], digits.test.samples[:300]
    labels = digits.train.labels[:60], digits.test.labels[:300]
    if kind == "rotation":
        few, test = (torch.cat([part.rot90(t, (2, 3)) for t in range(4)]) for part in (few, test))
        labels = [torch.arange(4).repeat_interleave(count) for count in (60, 300)]
    scores = [
        probed(few, labels[0], test, labels[1], network, weights) for weights in (fresh, theta)
    ]
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("kind", ["rotation", "contrastive"])
def test_pretraining_gives_the_body_and_leaves_the_head_to_the_seed(tiny, kind):
    short = {"steps": 3, "batch_size": 8}
    chosen = configuration(network=CONVNET, initialisation=kind, pretraining=short)
    content = pretrain(tiny, chosen)
    assert content == pretrain(tiny, chosen)
    network, body = chosen.build(tiny.sample_shape, 3), parse(content)
    names = [name for name, _ in network.named_parameters()]
    assert body.keys() == {name for name in names if name.startswith("body.")}
    first, second = (chosen.initial(network, generator("head", seed), body) for seed in (0, 1))
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


def test_pretraining_says_what_it_cannot_do(tiny):
    wide = replace(tiny, train=Split(tiny.train.samples[..., :6], tiny.train.labels))
    with pytest.raises(ValueError, match="these are 8x6; choose 'contrastive'"):
        pretrain(wide, configuration(initialisation="rotation"))
    with pytest.raises(ValueError, match="batch_size=1 must be a whole number of at least 2"):
        Pretraining(batch_size=1)


def test_a_configuration_keeps_what_the_base_says():
    read = read_configurations({"own": {}, "adam": {"optimizer": "adam"}}, BASE)
    assert read["own"].network == read_network(MLP)
    assert read["own"].recipe == Recipe(steps=6, batch_size=16, learning_rate=0.02)
    assert read["adam"] == read["own"].replace(optimizer="adam")


def test_a_product_is_every_combination():
    axes = {"optimizer": ["sgd", "adam"], "network": [MLP, {"name": "lenet"}]}
    tables = {"own": {}, "grid": {"schedule": "constant", "product": axes}}
    constant = {"schedule": "constant"}
    assert expand(tables) == {
        "own": {"own": {}},
        "grid": {
            f"grid-{optimizer}-{label}": {**constant, "optimizer": optimizer, "network": network}
            for optimizer in ("sgd", "adam")
            for label, network in (("mlp-width10-depth2", MLP), ("lenet", {"name": "lenet"}))
        },
    }


def test_families_are_lists_products_and_growing_series():
    # A name that starts alike is no part of the product.
    tables = {"pair": ["own", "grid-own"], "all": ["grid-own", "grid"]}
    tables |= {"grow": {"nested": ["own", "grid", "grid-own"]}}
    parts = {"own": ["own"], "grid": ["grid-sgd", "grid-adam"], "grid-own": ["grid-own"]}
    assert list(read_families(tables, parts).items()) == [
        ("pair", ("own", "grid-own")),
        ("all", ("grid-own", "grid-sgd", "grid-adam")),
        ("grow-2", ("own", "grid-sgd")),
        ("grow-3", ("own", "grid-sgd", "grid-adam")),
        ("grow-4", ("own", "grid-sgd", "grid-adam", "grid-own")),
    ]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "configurations must be a table"),
        ({"a": {"optimiser": "adam"}}, "a: 'optimiser' is not a parameter; did"),
        ({"a": {"optimizer": "adan"}}, "'adan' is not an optimizer; did you mean 'adam'"),
        ({"a": {}, "b": {"steps": 6}}, "'b' trains in the same way as 'a'; drop one"),
        (
            {"a": {"optimizer": "adam"}, "b": {"optimizer": "adam", "momentum": 0.5}},
            "'b' trains in the same way as 'a'",
        ),
        ({"a": {}, "b": {"pretraining": {"steps": 5}}}, "'b' trains in the same way as 'a'"),
        ({"a": LOGISTIC, "b": LOGISTIC | {"steps": 9}}, "'b' trains in the same way as 'a'"),
        ({"a": {"network": {"name": "vgg"}}}, "'vgg' is not a network"),
        ({"a": {"network": "vgg11"}}, "network must be a table with a name"),
        ({"a": {"initialisation": "xavier"}}, "a: 'xavier' is not an initialisation;"),
        ({"a": 3}, "must be a table of what it changes"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_sentence(tables, message):
    with pytest.raises(ValueError, match=message):
        read_configurations(tables, BASE)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"optimizer": ["adam"]}, "two configurations are named 'g-adam'; rename"),
        ({"momentum": [1, "1"]}, "named 'g-1'; .*give other values"),
        ({"optimizer": "adam"}, "product of 'g' must be a table"),
        ({}, "product of 'g' must be a table .*got {}"),
    ],
)
def test_a_bad_product_is_refused_in_one_sentence(axes, message):
    with pytest.raises(ValueError, match=message):
        expand({"g-adam": {}, "g": {"product": axes}})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "families must be a table"),
        ({"f": []}, "the family 'f' is empty"),
        ({"f": ["a", "c"]}, "'c' is not a configuration of 'f'"),
        ({"f": ["a", "a"]}, "holds 'a' twice"),
        ({"f": {"nested": ["a"], "size": [1]}}, "'size' is not a parameter of the family"),
        ({"f": {"nested": []}}, "is empty"),
        ({"f": {"nested": ["a"]}}, "'f' grows from two configurations; list at least two"),
        ({"f-2": ["a"], "f": {"nested": ["a", "b"]}}, "two families are named 'f-2'; rename one"),
    ],
)
def test_a_bad_family_is_refused_in_one_sentence(tables, message):
    with pytest.raises(ValueError, match=message):
        read_families(tables, {"a": ["a"], "b": ["b"]})
