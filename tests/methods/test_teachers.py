"""RDED and SRe2L: what a teacher keeps of real images, and what is recovered from it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from draws import noise, prepare, stream
from safetensors.torch import save_file

from ddlib.methods import METHODS
from ddlib.methods.common import class_members
from ddlib.methods.patches import RealisticPatches
from ddlib.methods.recovery import StatisticsRecovery, answers
from ddlib.methods.trained import read_network
from ddlib.networks.functional import build, logits
from ddlib.seeds import generator
from ddlib.training.augment import resized_crops
from ddlib.training.recipe import Recipe

TEACHER = Recipe(steps=30, batch_size=16, learning_rate=0.05)
BATCH = {"name": "convnet", "width": 6, "depth": 2, "norm": "batch"}


@pytest.fixture(scope="module")
def teacher(tiny, network, tmp_path_factory):
    """The file of a teacher with batch norms, the network, and its weights."""
    folder = tmp_path_factory.mktemp("teacher")
    parameters = StatisticsRecovery(teacher=TEACHER, network=BATCH)
    files = prepare(METHODS["sre2l"], parameters, [1], tiny, network, folder)[0]
    return files, build(**BATCH, **tiny.sizes), read_network(files[0], "cpu")


def rded(tiny, network, teacher, ipc, seed=0, **changes):
    parameters = RealisticPatches(teacher=TEACHER, network=BATCH, **changes)
    return METHODS["rded"].distil(tiny, network, [ipc], seed, parameters, teacher[0])[ipc]


def sre2l(tiny, network, teacher, ipcs, seed=0, **changes):
    parameters = StatisticsRecovery(teacher=TEACHER, network=BATCH, **changes)
    return METHODS["sre2l"].distil(tiny, network, ipcs, seed, parameters, teacher[0])


def test_a_crop_is_the_bilinear_image_of_its_corner():
    """Pixels that count rows and columns give crops whose steps tell the scale."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    images = torch.stack([rows, columns])[None].repeat(200, 1, 1, 1)
    cut = resized_crops(images, 0.25, (4, 4), stream())
    down, across = (cut[:, axis].diff(dim=1 + axis) for axis in (0, 1))
    inner = down[:, 1:-1].flatten(1)  # the border repeats the outermost pixels
    torch.testing.assert_close(inner, inner[:, :1].expand_as(inner), rtol=1e-4, atol=1e-4)
    side = inner[:, 0] * 4 / 8  # share of the side
    assert side.min() > 0.5 - 1e-4
    assert side.max() < 1 + 1e-4
    assert side.square().min() < 0.3
    assert abs(side.square().mean() - 0.625) < 0.06  # uniform in area: sd .2165 / sqrt(200) = .015
    torch.testing.assert_close(across[:, :, 1], down[:, 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1, 2])
def test_the_surest_crops_of_all_images_are_kept(tiny, network, teacher, factor):
    """Crops are compared one image after another, as the teacher sees them: shrunken, in zeros."""
    options = {"candidates": 40, "crops": 5, "smallest": 0.3, "factor": factor}
    synthetic = rded(tiny, network, teacher, 2, **options)
    draws, side = generator("parts", 0, 2), 8 // factor
    middle = slice((8 - side) // 2, (8 + side) // 2)
    orders = [rows[torch.randperm(40, generator=draws)] for rows in class_members(tiny)]
    for label, rows in enumerate(orders):
        images, surest = tiny.train.samples[rows].repeat_interleave(5, 0), []
        for crops in resized_crops(images, 0.3, (8, 8), draws).split(5):
            small, views = F.avg_pool2d(crops, factor), torch.zeros(5, 1, 8, 8)
            views[:, :, middle, middle] = small
            nats = -logits(*teacher[1:], views).log_softmax(1)[:, label]
            surest.append((nats.min().item(), small[nats.argmin()]))
        surest.sort(key=lambda pair: pair[0])
        for number, tile in itertools.product(range(2), range(factor**2)):
            down, right = side * (tile // factor), side * (tile % factor)
            image = synthetic.samples[2 * label + number]
            ours = image[:, down : down + side, right : right + side]
            torch.testing.assert_close(ours, surest[2 * tile + number][1], rtol=1e-4, atol=1e-5)


def test_a_factor_that_needs_more_images_than_a_class_has_is_refused(tiny, network, teacher):
    message = "from 48 real images .* the smallest class has 40; choose a smaller factor or"
    with pytest.raises(ValueError, match=message):
        rded(tiny, network, teacher, 3, factor=4)


def test_a_teacher_without_batch_norms_is_refused(tiny, network, teacher):
    parameters = StatisticsRecovery(network={"name": "mlp"})
    with pytest.raises(ValueError, match=r"batch norms, and .*'mlp'.* has none; choose network: "):
        METHODS["sre2l"].distil(tiny, network, [1], 0, parameters, teacher[0])


def test_the_distance_of_statistics_is_that_of_a_plain_network(teacher):
    _, network, theta = teacher
    images = noise(7, 1, 8, 8)
    scores, distance = answers(network, theta, images)
    torch.testing.assert_close(scores, logits(network, theta, images))
    total, values = 0.0, images
    for block, weight in ((0, 10), (4, 1)):
        values = F.conv2d(
            values, *(theta[f"body.{block}.{n}"] for n in ("weight", "bias")), padding=1
        )
        norm = {
            n: theta[f"body.{block + 1}.{n}"]
            for n in ("running_mean", "running_var", "weight", "bias")
        }
        means = torch.stack([values[:, c].mean() for c in range(6)])
        variances = torch.stack([((values[:, c] - means[c]) ** 2).mean() for c in range(6)])
        total += weight * (means - norm["running_mean"]).square().sum().sqrt()
        total += weight * (variances - norm["running_var"]).square().sum().sqrt()
        values = F.avg_pool2d(F.relu(F.batch_norm(values, **norm)), 2)
    torch.testing.assert_close(distance, total)
    assert not any(layer._forward_pre_hooks for layer in network.batch_norms)


@pytest.mark.parametrize("smallest", [1.0, 0.5])
def test_recovery_equals_adam_written_out(tiny, network, teacher, smallest):
    """Four steps on two groups; crops, rolls, a falling rate, pixels clipped to [0, 1]."""
    changes = {"iterations": 4, "statistics": 0.1, "smallest": smallest}
    sets = sre2l(tiny, network, teacher, [1, 2], seed=3, **changes)
    for number in range(2):
        draws = generator("recovery", 3, number)
        images = torch.randn(3, 1, 8, 8, generator=draws).requires_grad_()
        optimiser = torch.optim.Adam([images], lr=0.25, betas=(0.5, 0.9))
        for rate in (1.0, 0.8535534, 0.5, 0.1464466):  # (1 + cos(pi step / 4)) / 2
            seen = resized_crops(images, 0.5, (8, 8), draws) if smallest == 0.5 else images
            down, right = torch.randint(5, (2,), generator=draws).tolist()
            scores, distance = answers(*teacher[1:], seen.roll((down, right), (2, 3)))
            loss = F.cross_entropy(scores, torch.arange(3)) + 0.1 * distance
            optimiser.param_groups[0]["lr"] = 0.25 * rate
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():  # mean 0.5, deviation 0.25
                images.clamp_(-2, 2)
        torch.testing.assert_close(
            sets[2].samples[number::2], images.detach(), rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(sets[1].samples, sets[2].samples[::2])


def test_a_size_fails_only_with_one_of_its_groups(tiny, network, teacher, tmp_path):
    """The weight lets the loss of one group overflow, the first that is beyond all before it."""
    theta = {**teacher[2], "body.1.running_mean": teacher[2]["body.1.running_mean"] + 100}
    save_file(theta, far := tmp_path / "far")  # so that losses overflow long before gradients
    distances = []
    for number in range(8):
        images = torch.randn(3, 1, 8, 8, generator=generator("recovery", 0, number))
        distances.append(answers(teacher[1], theta, images)[1].item())
    bad = next(n for n in range(1, 8) if distances[n] > max(distances[:n]))
    between = (max(distances[:bad]) + distances[bad]) / 2
    changes = {"iterations": 1, "jitter": 0, "statistics": torch.finfo().max / between}
    sets = sre2l(tiny, network, [[far]], [bad, bad + 1, bad + 2], **changes)
    assert sets[bad].samples.isfinite().all()
    for ipc in (bad + 1, bad + 2):
        assert "the loss of recovery stopped being a finite number at step 0" in str(sets[ipc])


def test_recovered_images_are_what_the_teacher_knows(tiny, network, teacher):
    still = {"jitter": 0, "statistics": 0.1}
    images = sre2l(tiny, network, teacher, [2], iterations=60, **still)[2].samples
    start = sre2l(tiny, network, teacher, [2], iterations=0)[2].samples
    labels = torch.arange(3).repeat_interleave(2)
    (scores, near), (_, far) = (answers(*teacher[1:], each) for each in (images, start))
    assert (scores.argmax(1) == labels).float().mean() > 0.9
    assert near < 0.5 * far
