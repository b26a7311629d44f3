"""MTT, matching training trajectories: steps on S should lead where an expert's steps on D led."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.files import reading
from ddlib.methods.matching import Matching, Synthetic
from ddlib.networks.functional import flatten, logits, unflatten
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, at_ipc
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import at_steps, batches, training_steps
from ddlib.training.recipe import Recipe

GRADIENTS = ("exact", "tesla")

Step = tuple[torch.Tensor, augment.Draw]
"""What a student's step sees: the indices of a batch of S, and its augmentation."""


class TrajectoryMatching(Matching):
    """Defaults are the author's for CIFAR-10 (Cazenavette et al., CVPR 2022), as tables by ipc.

    The published results whiten CIFAR-10 at ipc 1 and 10 (`zca: true` of the data). step_size is
    what the student's learned step size starts from; expert_steps the SGD steps between two
    snapshots of an expert, 0 for an epoch of the real set; max_start and expert_epochs count
    snapshots; a synthetic_batch of 0 is all of S, for which a table, being interpolated, should
    give k. The gradient of an image shrinks like 1/ipc, so small sets want smaller learning
    rates. For `gradient` see `match`: published image learning rates of TESLA are to be halved.
    """

    iterations: ByIpc[NonNegativeInt] = 5000
    student_steps: ByIpc[PositiveInt] = {1: 50, 10: 30, 50: 30}
    expert_epochs: ByIpc[PositiveInt] = 2
    max_start: ByIpc[PositiveInt] = {1: 2, 10: 20, 50: 40}
    learning_rate: ByIpc[NonNegativeFloat] = {1: 100.0, 10: 100.0, 50: 1000.0}
    step_size: ByIpc[NonNegativeFloat] = {1: 0.01, 10: 0.001, 50: 0.001}
    step_size_learning_rate: ByIpc[NonNegativeFloat] = {1: 1e-7, 10: 1e-5, 50: 1e-5}
    synthetic_batch: ByIpc[NonNegativeInt] = 0
    gradient: Literal[*GRADIENTS] = "exact"
    experts: PositiveInt = 100
    expert_steps: NonNegativeInt = 0
    expert_learning_rate: NonNegativeFloat = 0.01
    expert_momentum: NonNegativeFloat = 0.0
    expert_weight_decay: NonNegativeFloat = 0.0
    expert_batch: PositiveInt = 256
    expert_augmentation: Literal[*augment.STRATEGIES] = "dsa"


def jobs(parameters: TrajectoryMatching, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return one job an expert: its number, and how it is trained, no further than is matched.

    One that is trained further, for larger sizes, begins with the same weights.
    """
    epochs = max(sum(_places(parameters, ipc)) for ipc in ipcs) - 1
    names = ("learning_rate", "momentum", "weight_decay", "augmentation")
    recipe = {name: getattr(parameters, f"expert_{name}") for name in names}
    recipe["batch_size"] = parameters.expert_batch
    common = {"epochs": epochs, "epoch_steps": parameters.expert_steps, **recipe}
    return [{"expert": number, **common} for number in range(parameters.experts)]


def _places(parameters: TrajectoryMatching, ipc: int) -> tuple[int, int]:
    """Return how many snapshots are starts at a size, and how many lie from start to target."""
    return round(at_ipc(parameters.max_start, ipc)), round(at_ipc(parameters.expert_epochs, ipc))


def make(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Train one expert on the real set; return its weights (epochs + 1, P) float32 as a .npy file.

    Row 0 holds the initial weights, row t those after t epochs: `epoch_steps` SGD steps, or as
    many batches as the set needs. Raises DivergedError. Source: Cazenavette et al. (CVPR 2022),
    section 3.2.
    """
    real, recipe = dataset.train, dict(job)
    number, epochs, every = (recipe.pop(name) for name in ("expert", "epochs", "epoch_steps"))
    every = every or math.ceil(len(real.labels) / recipe["batch_size"])
    recipe = Recipe(steps=epochs * every, schedule="constant", **recipe)
    theta = initial_parameters(network, generator("expert weights", number), real.device)
    stream = generator("expert batches", number)
    steps = training_steps(network, theta, real.images, real.labels, recipe, stream)
    kept = at_steps(range(0, recipe.steps + 1, every), theta, steps)
    try:
        snapshots = [flatten(network, each) for each in kept]
    except DivergedError as error:
        step, what, how, _ = error.args
        advice = "choose a smaller expert_learning_rate"
        raise DivergedError(step, f"{what} of expert {number}", how, advice) from None
    content = io.BytesIO()
    np.save(content, torch.stack(snapshots).cpu().numpy())
    return content.getvalue()


def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: TrajectoryMatching,
    prepared: Sequence[Path],
) -> dict[int, DistilledSet | DivergedError]:
    """Distil each size: min over S and the student's step size of `match` to the experts.

    prepared: the files of `make`. Sizes share experts and, up to their ranges of starts, the
    pairs that are matched. The step size that S was made for is the set's learned "step_size".
    A study evaluates at its own learning rate, as it does every set, where the paper evaluates at
    the learned one. Where that falls to zero or below, training on S would climb: that counts as
    divergence, where the reference goes on.

    Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR
    2022), algorithm 1. Batches of S are always full, where the reference's may be short. Under
    batch norm, students and experts normalise by their own batch, as the reference's, which stay
    in training mode; no running statistics are matched.
    """
    experts = [_read_expert(path) for path in prepared]
    given = seed, parameters, experts
    return {ipc: or_diverged(_distil_size, dataset, network, ipc, *given) for ipc in ipcs}


def _read_expert(path: Path) -> np.ndarray:
    with reading(path):
        return np.load(path, mmap_mode="r")


def _distil_size(
    dataset: DataSet,
    network: Network,
    ipc: int,
    seed: int,
    parameters: TrajectoryMatching,
    experts: Sequence[np.ndarray],
) -> DistilledSet:
    synthetic = Synthetic(dataset, ipc, seed, parameters)
    images, labels = synthetic.images, synthetic.labels
    step_size = images.new_full((), at_ipc(parameters.step_size, ipc)).requires_grad_()
    rate = at_ipc(parameters.step_size_learning_rate, ipc)
    synthetic.optimiser.add_param_group({"params": [step_size], "lr": rate})
    iterations = round(at_ipc(parameters.iterations, ipc))
    learned, slower = "the learned step size", "choose a smaller step_size_learning_rate"
    (starts, span), stream = _places(parameters, ipc), generator("expert starts", seed)
    for iteration in range(iterations):
        # Every size takes the same two numbers of the stream, so all see the same experts.
        number, place = torch.rand(2, generator=stream, dtype=torch.float64).tolist()
        expert, start = experts[int(number * len(experts))], int(place * starts)
        rows = (torch.from_numpy(np.array(expert[row])) for row in (start, start + span))
        pair = (send(weights, images.device).to(images.dtype) for weights in rows)
        steps = _draw_steps(len(labels), ipc, parameters, generator("student", seed, iteration))
        loss = match(network, images, labels, step_size, *pair, steps, parameters.gradient)
        # The first loss is of images as they began, so only the student's steps can be too long.
        too_large = "step_size" if iteration == 0 else "learning_rate or step_size"
        advice = f"choose a smaller {too_large}"
        lost = DivergedError(iteration, "the matching loss", advice=advice)
        synthetic.watch.see(loss.isfinite(), lost)
        synthetic.optimiser.step()
        fell = DivergedError(iteration, learned, "fell to zero or below", slower)
        synthetic.watch.see(~(step_size <= 0), fell)  # no number shows in the next loss
    lost = DivergedError(iterations, learned, advice=slower)
    synthetic.watch.see(step_size.isfinite(), lost)
    return synthetic.finished("mtt", iterations, {"step_size": step_size.item()})


def _draw_steps(
    k: int, ipc: int, parameters: TrajectoryMatching, stream: torch.Generator
) -> list[Step]:
    """Return the batches of the student's steps, with strengths of its own for every image."""
    families = augment.STRATEGIES[parameters.augmentation]
    rows = batches(k, round(at_ipc(parameters.synthetic_batch, ipc)) or k, stream)
    count = round(at_ipc(parameters.student_steps, ipc))
    drawn = ((batch, augment.draw(families, len(batch), stream)) for batch in rows)
    return [step for step, _ in zip(drawn, range(count), strict=False)]


def match(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    step_size: torch.Tensor,
    start: torch.Tensor,
    target: torch.Tensor,
    steps: Sequence[Step],
    gradient: str = "exact",
) -> torch.Tensor:
    """Return |theta_N - target|^2 / |start - target|^2; set the gradients of images and step_size.

    theta_0 = start; theta_i+1 = theta_i - step_size g_i, with g_i the gradient of the
    cross-entropy of step i. start, target: flat weights (P,), without gradient.

    Only the theta_i are kept on the way: the sweep back from the end computes each step anew, so
    that memory holds the graph of one step however many there are, and carries the adjoint
    a_i = d loss / d theta_i: a_i = a_i+1 - step_size (d g_i / d theta_i) a_i+1. "tesla" holds
    a_i at its last value a_N, which drops the dependence of every theta_i on the images and on
    the step size (d theta_i / d X and d theta_i / d step_size in g_i), and is cheaper by the
    products with d g_i / d theta_i. The published code of "tesla" means to double the images'
    gradient but repeats a tuple instead (`2 * torch.autograd.grad(...)`), so that it has half of
    this gradient: halve the image learning rates published with it. Its step size's gradient is
    whole, and so are the rates of the step size.

    Source: Cazenavette et al. (CVPR 2022), equation 2; Cui et al., "Scaling Up Dataset
    Distillation to ImageNet-1K with Constant Memory" (ICML 2023), for "tesla".
    """

    def gradient_of(theta: torch.Tensor, images: torch.Tensor, step: Step) -> torch.Tensor:
        rows, drawn = send(step[0], images.device), step[1]
        scores = logits(network, unflatten(network, theta), augment.apply(images[rows], drawn))
        loss = F.cross_entropy(scores, labels[rows])
        return torch.autograd.grad(loss, theta, create_graph=images.requires_grad)[0]

    alpha = step_size.detach()
    thetas = [start.detach().requires_grad_()]
    for step in steps:
        moved = gradient_of(thetas[-1], images.detach(), step)
        thetas.append((thetas[-1].detach() - alpha * moved).requires_grad_())
    missed, scale = thetas.pop().detach() - target, (start - target).square().sum()
    adjoint = 2 * missed / scale
    images.grad, step_size.grad = torch.zeros_like(images), torch.zeros_like(step_size)
    for theta, step in zip(reversed(thetas), reversed(steps), strict=True):
        along = adjoint @ gradient_of(theta, images, step)
        wanted = [images, theta] if gradient == "exact" else [images]
        by_images, *by_theta = torch.autograd.grad(along, wanted)
        images.grad -= alpha * by_images
        step_size.grad -= along.detach()
        for product in by_theta:
            adjoint = adjoint - alpha * product
    return missed.square().sum() / scale
