"""What holds for every method in the registry, one's own too."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from draws import SMALL, prepare, stream

from ddlib.data.base import Split
from ddlib.methods import METHODS, Method
from ddlib.methods.common import AVERAGES, class_members, finished, initial_images, real_batches
from ddlib.networks.functional import build
from ddlib.parameters import Parameters
from ddlib.training.divergence import DivergedError


def mine(dataset, network, ipcs, seed, parameters):
    ends = {ipc: initial_images(dataset, ipc, "noise", seed) for ipc in ipcs}
    return {ipc: finished(dataset, ends[ipc], "mine", parameters, seed) for ipc in ipcs}


OWN = Method(mine, Parameters, shares=True)
DISTIL = [name for name in METHODS if name != "imported"]  # which reads sets from files


@pytest.fixture(scope="module")
def prepared(tiny, network, tmp_path_factory):
    """The files that each method makes once, as one more argument of `distil`."""
    more = {"mine": []}
    for name in DISTIL:
        method, folder = METHODS[name], tmp_path_factory.mktemp(name)
        parameters = method.parameters(**SMALL[name])
        more[name] = prepare(method, parameters, [1, 2, 3], tiny, network, folder)
    return more


@pytest.fixture(params=[*DISTIL, "mine"])
def run(request, tiny, network, prepared):
    """The name of a method, and a function that distils tiny sets by it."""
    name = request.param
    method = METHODS.get(name, OWN)
    parameters = method.parameters.read(SMALL.get(name), name)

    def distil(ipcs, seed=0):
        return method.distil(tiny, network, ipcs, seed, parameters, *prepared[name])

    return name, parameters, distil


def test_a_set_says_what_made_it(run, tiny):
    name, parameters, distil = run
    for ipc, synthetic in distil([1, 2], seed=4).items():
        assert (synthetic.data, synthetic.method, synthetic.seed) == ("tiny", name, 4)
        assert (synthetic.classes, synthetic.normalisation) == (tiny.classes, tiny.normalisation)
        assert synthetic.hard_labels.tolist() == [0] * ipc + [1] * ipc + [2] * ipc
        assert name == "datm" or torch.equal(synthetic.labels, synthetic.hard_labels)
        assert synthetic.parameters == parameters.model_dump()
        assert synthetic.samples.shape == (3 * ipc, 1, 8, 8)
        assert synthetic.samples.dtype == torch.float32
        assert synthetic.samples.isfinite().all()
        assert not synthetic.samples.requires_grad


def test_one_seed_gives_one_set_and_nothing_else_changes(run, tiny):
    _, _, distil = run
    real, torch_state = tiny.train.samples.clone(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    first, again, other = (distil([2], seed)[2] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(tiny.train.samples, real)
    assert torch.equal(first.samples, again.samples)
    assert torch.equal(first.labels, again.labels)
    assert first.learned == again.learned
    assert not torch.equal(first.samples, other.samples)


def test_all_sizes_together_are_what_each_is_alone(run):
    name, _, distil = run
    together = distil([1, 3])
    tolerance = 1e-3 if name == "mgd3" else 1e-6  # its forward passes hold other images
    for ipc in (1, 3):
        alone = distil([ipc])[ipc].samples
        torch.testing.assert_close(together[ipc].samples, alone, rtol=tolerance, atol=tolerance)


def test_a_size_that_the_smallest_class_cannot_fill_is_refused(tiny, members):
    rows = torch.cat([rows[:count] for rows, count in zip(members, (9, 3, 5), strict=True)])
    few = replace(tiny, train=Split(tiny.train.samples[rows], tiny.train.labels[rows]))
    with pytest.raises(ValueError, match="ipc=4 is more than the 3 samples of class bee; choose"):
        METHODS["random"].distil(few, None, [1, 4], 0, METHODS["random"].parameters())


def test_a_method_that_needs_networks_first_says_so(tiny, network):
    for name in ("mtt", "datm", "ncfm", "rded", "sre2l", "mgd3"):
        parameters = METHODS[name].parameters(**SMALL[name])
        with pytest.raises(ValueError, match="needs networks that a study trains for it; run it"):
            METHODS[name].distil(tiny, network, [1], 0, parameters)
    for name, changes in (("herding", {"steps": 0}), ("mgd3", {"images": "nearest"})):
        parameters = METHODS[name].parameters(**changes)
        assert METHODS[name].distil(tiny, network, [1], 0, parameters)[1].k == 3


@pytest.mark.parametrize("name", ["dm", "dc", "dsa", "mtt"])
@pytest.mark.parametrize("average", AVERAGES)
def test_a_size_that_diverges_leaves_the_others_as_they_are(tiny, network, prepared, name, average):
    changes = {"augmentation": "none", "learning_rate": {1: 1.0, 2: 1e38, 3: 1.0}, "iterations": 3}
    changes |= {} if name == "mtt" else {"average": average}
    parameters = METHODS[name].parameters.read(SMALL[name] | changes, name)
    outcomes, alone = (
        METHODS[name].distil(tiny, network, ipcs, 0, parameters, *prepared[name])
        for ipcs in ([1, 2, 3], [3])
    )
    assert isinstance(outcomes[2], DivergedError)
    assert "stopped being a finite number at step" in str(outcomes[2])
    torch.testing.assert_close(outcomes[3].samples, alone[3].samples, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["dm", "mtt"])
def test_pixels_that_overflow_in_the_last_step_are_a_divergence(tiny, network, prepared, name):
    changes, dataset = {"iterations": 1, "learning_rate": 3e38, "augmentation": "none"}, tiny
    if name == "mtt":
        changes |= {"step_size": 9.0, "step_size_learning_rate": 0}
    else:
        dataset = replace(tiny, train=Split(tiny.train.samples * 100, tiny.train.labels))
        network = build("mlp", tiny.sample_shape, 3, width=64, depth=2)
    parameters = METHODS[name].parameters.read(SMALL[name] | changes, name)
    outcome = METHODS[name].distil(dataset, network, [1], 0, parameters, *prepared[name])[1]
    assert isinstance(outcome, DivergedError)
    assert "a pixel stopped being a finite number at step 1" in str(outcome)


def test_the_code_of_ones_own_method_counts_with_all_of_the_librarys():
    everything = {module for method in METHODS.values() for module in method.modules}
    assert set(OWN.modules) >= {__name__, *everything}
    assert {"ddlib.methods.diffusion", "ddlib.methods.generators.dit"} <= set(
        METHODS["mgd3"].modules
    )
    assert METHODS["dc"].modules == ("ddlib.methods.gradient",)


def test_class_members_and_real_batches_hold_each_image_once(tiny, members):
    for ours, theirs in zip(class_members(tiny), members, strict=True):
        assert torch.equal(ours, theirs)
    rows = torch.cat([rows[:count] for rows, count in zip(members, (40, 7, 1), strict=True)])
    few = replace(tiny, train=Split(tiny.train.samples[rows], tiny.train.labels[rows]))
    batches, reached = real_batches(few, 10, stream()), set()
    for batch in (next(batches) for _ in range(60)):
        assert [len(rows.unique()) for rows in batch] == [10, 7, 1]  # a small class gives all
        assert all((few.train.labels[own] == c).all() for c, own in enumerate(batch))
        reached |= set(torch.cat(batch).tolist())
    assert reached == set(range(48))  # 40 missed in 60 draws of a quarter: chance 1e-6


def test_first_images_are_the_random_control_or_standard_normal(tiny, network):
    control = METHODS["random"].distil(tiny, network, [4], 2, METHODS["random"].parameters())[4]
    assert torch.equal(initial_images(tiny, 4, "real", 2), control.samples)
    noise, other = (initial_images(tiny, 40, "noise", seed) for seed in (2, 3))
    for values in (noise, noise**2 - 1, noise * other):  # of mean 0: below five standard errors
        assert abs(values.mean()) < 5 * values.std() / noise.numel() ** 0.5


def test_bad_configurations_to_distil_for_are_refused():
    for configurations, message in (
        (["mlp"], r"configurations\[0\]: a configuration must be a table"),
        ([{}, {"network": {"name": "mpl"}}], r"\[1\]: 'mpl' is not a network; did you mean 'mlp'"),
        ([{"optimiser": "adam"}], "'optimiser' is not a field .*did you mean 'optimizer'"),
    ):
        with pytest.raises(ValueError, match=message):
            METHODS["dc"].parameters.read({"configurations": configurations}, "dc")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dm", {"configurations": [{}, {"network": {"name": "convnet", "depth": 4}}]}),
        ("rded", {"network": {"name": "convnet", "norm": "batch", "depth": 4}}),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_refused_before_the_run(tiny, method, options):
    parameters = METHODS[method].parameters.read(options, method)
    with pytest.raises(ValueError, match=r"ConvNet of depth 4 .* choose a smaller depth"):
        METHODS[method].check(parameters, tiny, None, [1])


@pytest.mark.parametrize("name", ["herding", "dm"])
def test_a_default_dtype_of_float64_changes_no_byte(tiny, name):
    network = build("convnet", tiny.sample_shape, tiny.class_count, width=4, depth=2)
    parameters = METHODS[name].parameters.read(SMALL[name], name)
    plain = METHODS[name].distil(tiny, network, [1], 0, parameters)[1].samples
    torch.set_default_dtype(torch.float64)
    try:
        other = build("convnet", tiny.sample_shape, tiny.class_count, width=4, depth=2)
        assert torch.equal(METHODS[name].distil(tiny, other, [1], 0, parameters)[1].samples, plain)
    finally:
        torch.set_default_dtype(torch.float32)
