"""MTT, matching training trajectories: a student trained on S should reach an expert's weights."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.files import reading
from ddlib.methods.common import Matching, Synthetic
from ddlib.networks.functional import flatten, logits, unflatten
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, at_ipc
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import at_steps, batches, training_steps
from ddlib.training.recipe import Recipe

FIRST_SHARE = 0.9  # of a sample's own class, in labels that are to be learned

Step = tuple[torch.Tensor, augment.Draw]  # a student's batch: indices in S, and an augmentation


class TrajectoryMatching(Matching):
    """Defaults are the author's for CIFAR-10 (Cazenavette et al., CVPR 2022), as tables by ipc.

    The published results whiten CIFAR-10 at ipc 1 and 10 (`zca: true` of the data). step_size: the
    initial value of the student's learned step size. expert_steps: SGD steps between two snapshots
    of an expert (0: an epoch). max_start, expert_epochs: numbers of snapshots. synthetic_batch: by
    default, all of S. gradient: see `unroll`; halve learning rates that were published with TESLA.
    The gradient of a sample shrinks like 1/ipc, so small sets need smaller learning rates.
    label_learning_rate: above 0, soft labels are learned, too, from FIRST_SHARE for each sample's
    own class; a study evaluates with them under `labels: {regime: learned}`.
    """

    iterations: ByIpc[NonNegativeInt] = 5000
    student_steps: ByIpc[PositiveInt] = {1: 50, 10: 30, 50: 30}
    expert_epochs: ByIpc[PositiveInt] = 2
    max_start: ByIpc[PositiveInt] = {1: 2, 10: 20, 50: 40}
    learning_rate: ByIpc[NonNegativeFloat] = {1: 100.0, 10: 100.0, 50: 1000.0}
    step_size: ByIpc[PositiveFloat] = {1: 0.01, 10: 0.001, 50: 0.001}
    step_size_learning_rate: ByIpc[NonNegativeFloat] = {1: 1e-7, 10: 1e-5, 50: 1e-5}
    synthetic_batch: ByIpc[PositiveInt] | None = None
    label_learning_rate: ByIpc[NonNegativeFloat] = 0.0
    gradient: Literal["exact", "tesla"] = "exact"
    experts: PositiveInt = 100
    expert_steps: NonNegativeInt = 0
    expert_learning_rate: NonNegativeFloat = 0.01
    expert_momentum: NonNegativeFloat = 0.0
    expert_weight_decay: NonNegativeFloat = 0.0
    expert_batch: PositiveInt = 256
    expert_augmentation: Literal[*augment.STRATEGIES] = "dsa"

    method: ClassVar[str] = "mtt"

    def starts(self, ipc: int, iteration: int) -> tuple[int, int]:
        """Return the first snapshot to start from in an iteration, and the end of their range."""
        return 0, round(at_ipc(self.max_start, ipc))

    def last(self, ipc: int) -> int:
        """Return the last snapshot of an expert that a size uses."""
        return round(at_ipc(self.max_start, ipc)) + round(at_ipc(self.expert_epochs, ipc)) - 1


def jobs(parameters: TrajectoryMatching, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return a job for each expert: its number, and how it is trained, up to the last target."""
    epochs = max(map(parameters.last, ipcs))
    names = ("learning_rate", "momentum", "weight_decay", "augmentation")
    recipe = {name: getattr(parameters, f"expert_{name}") for name in names}
    recipe |= {"batch_size": parameters.expert_batch, "epoch_steps": parameters.expert_steps}
    return [{"expert": n, "epochs": epochs, **recipe} for n in range(parameters.experts)]


def train_expert(dataset: DataSet, network: Network, job: Mapping[str, Any]) -> bytes:
    """Train one expert on D; return its weights (epochs + 1, P) float32 as a .npy file.

    Row t holds the weights after t epochs of `epoch_steps` SGD steps (0: one pass over D). Raises
    DivergedError. Source: Cazenavette et al. (CVPR 2022), section 3.2.
    """
    real, recipe = dataset.train, dict(job)
    number, epochs, every = (recipe.pop(name) for name in ("expert", "epochs", "epoch_steps"))
    every = every or math.ceil(len(real.labels) / recipe["batch_size"])
    recipe = Recipe(steps=epochs * every, schedule="constant", **recipe)
    theta = initial_parameters(network, generator("expert weights", number), real.device)
    stream = generator("expert batches", number)
    steps = training_steps(network, theta, real.samples, real.labels, recipe, stream)
    kept = at_steps(range(0, recipe.steps + 1, every), theta, steps)
    try:
        snapshots = [flatten(network, weights) for weights in kept]
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
    ipc: int,
    seed: int,
    parameters: TrajectoryMatching,
    prepared: Sequence[Path],
) -> DistilledSet:
    """Distil S: minimise the loss of `unroll` over S and the student's step size.

    prepared: the files of `train_expert`. The set keeps the learned "step_size". A study evaluates
    every set at its own learning rate, where the paper evaluates at the learned step size. A step
    size of zero or below counts as divergence, where the reference goes on.

    Source: Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR
    2022), algorithm 1. Batches of S are always full, where the reference's may be short. Batch
    norms of students and experts normalise by the batch, as in the reference.
    """
    synthetic = Synthetic(dataset, ipc, seed, parameters)
    labels = synthetic.labels
    if at_ipc(parameters.label_learning_rate, ipc):
        labels = label_logits(labels, dataset.class_count).to(synthetic.samples)
    experts = [read_expert(path) for path in prepared]
    return match(network, synthetic, labels, seed, parameters, experts)


def match(
    network: Network,
    synthetic: Synthetic,
    labels: torch.Tensor,
    seed: int,
    parameters: TrajectoryMatching,
    experts: Sequence[np.ndarray],
) -> DistilledSet:
    """Distil S from where it stands; see `distil`. labels: (k,), or soft ones, logits (k, C)."""
    ipc, images, see = synthetic.ipc, synthetic.samples, synthetic.watch.see
    step_size = images.new_full((), at_ipc(parameters.step_size, ipc)).requires_grad_()
    rate = at_ipc(parameters.step_size_learning_rate, ipc)
    synthetic.optimiser.add_param_group({"params": [step_size], "lr": rate})
    if is_soft := labels.is_floating_point():
        rate = at_ipc(parameters.label_learning_rate, ipc)
        synthetic.optimiser.add_param_group({"params": [labels.requires_grad_()], "lr": rate})
    iterations = round(at_ipc(parameters.iterations, ipc))
    learned, slower = "the learned step size", "choose a smaller step_size_learning_rate"
    span, stream = round(at_ipc(parameters.expert_epochs, ipc)), generator("expert starts", seed)
    for iteration in range(iterations):
        # These draws do not depend on the size, so all sizes see the same experts.
        number, place = torch.rand(2, generator=stream, dtype=torch.float64).tolist()
        low, high = parameters.starts(ipc, iteration)
        expert, first = experts[int(number * len(experts))], low + int(place * (high - low))
        start, target = (
            send(torch.from_numpy(np.array(expert[row])), images.device).to(images.dtype)
            for row in (first, first + span)
        )
        steps = _student_steps(ipc, len(images), parameters, generator("student", seed, iteration))
        loss, images.grad, step_size.grad, labels.grad = unroll(
            network, images, labels, step_size, start, target, steps, parameters.gradient
        )
        # S is still as it started: if the first loss diverges, only step_size can be too large.
        too_large = "step_size" if iteration == 0 else "learning_rate or step_size"
        advice = f"choose a smaller {too_large}"
        see(loss.isfinite(), DivergedError(iteration, "the matching loss", advice=advice))
        synthetic.optimiser.step()
        fell = DivergedError(iteration, learned, "fell to zero or below", slower)
        see(~(step_size <= 0), fell)  # NaN passes here, and shows in the next loss
    see(step_size.isfinite(), DivergedError(iterations, learned, advice=slower))
    synthetic.watch.finite(iterations, "a label", labels)
    distilled = synthetic.finished(parameters.method, iterations, {"step_size": step_size.item()})
    return replace(distilled, labels=labels.detach().softmax(1).cpu()) if is_soft else distilled


def label_logits(labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return logits (k, C) whose softmax is FIRST_SHARE at the labels (k,), even elsewhere."""
    odds = FIRST_SHARE * (class_count - 1) / (1 - FIRST_SHARE)
    return math.log(odds) * F.one_hot(labels, class_count)


def read_expert(path: Path) -> np.ndarray:
    """Return the weights (epochs + 1, P) that `train_expert` wrote, mapped from the file."""
    with reading(path):
        return np.load(path, mmap_mode="r")


def _student_steps(
    ipc: int, k: int, parameters: TrajectoryMatching, stream: torch.Generator
) -> list[Step]:
    """Return the batches of the student's steps, with strengths of augmentation for each sample."""
    families = augment.STRATEGIES[parameters.augmentation]
    rows = batches(k, round(at_ipc(parameters.synthetic_batch, ipc) or k), stream)
    count = round(at_ipc(parameters.student_steps, ipc))
    return [(batch, augment.draw(families, len(batch), stream)) for batch in islice(rows, count)]


def unroll(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    step_size: torch.Tensor,
    start: torch.Tensor,
    target: torch.Tensor,
    steps: Sequence[Step],
    gradient: str = "exact",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return |theta_N - target|^2 / |start - target|^2 and its gradients.

    They are by images, by step_size, and by labels: None for classes (k,); logits of soft labels,
    (k, C), have one. theta_0 = start; theta_i+1 = theta_i - step_size g_i, with g_i the gradient of
    the cross-entropy of step i. start, target: flat weights (P,).

    The forward pass keeps only the theta_i. The backward pass computes each step again, so that
    memory holds the graph of one step. It carries the adjoint a_i = d loss / d theta_i: a_i = a_i+1
    - step_size (d g_i / d theta_i) a_i+1. "tesla" keeps a_i at a_N: it ignores that the theta_i
    depend on the samples and the step size. The published code of "tesla" gives half of this
    gradient of the samples, because `2 * torch.autograd.grad(...)` repeats a tuple.

    Source: Cazenavette et al. (CVPR 2022), equation 2; for "tesla", Cui et al. (ICML 2023).
    """

    is_soft = labels.is_floating_point()

    def gradient_of(theta: torch.Tensor, images: torch.Tensor, step: Step) -> torch.Tensor:
        rows, draw = send(step[0], images.device), step[1]
        scores = logits(network, unflatten(network, theta), augment.apply(images[rows], draw))
        loss = F.cross_entropy(scores, labels[rows].softmax(1) if is_soft else labels[rows])
        return torch.autograd.grad(loss, theta, create_graph=images.requires_grad)[0]

    alpha, fixed_images = step_size.detach(), images.detach()
    thetas = [start.detach().requires_grad_()]
    for step in steps:
        moved = gradient_of(thetas[-1], fixed_images, step)
        thetas.append((thetas[-1].detach() - alpha * moved).requires_grad_())
    missed, scale = thetas.pop().detach() - target, (start - target).square().sum()
    adjoint = 2 * missed / scale
    leaves = [images, labels] if is_soft else [images]
    by_leaves, by_step_size = [torch.zeros_like(leaf) for leaf in leaves], torch.zeros_like(alpha)
    for theta, step in zip(reversed(thetas), reversed(steps), strict=True):
        along = adjoint @ gradient_of(theta, images, step)
        wanted = [*leaves, theta] if gradient == "exact" else leaves
        slopes = torch.autograd.grad(along, wanted)
        for total, slope in zip(by_leaves, slopes, strict=False):
            total -= alpha * slope
        by_step_size -= along.detach()
        for product in slopes[len(leaves) :]:
            adjoint = adjoint - alpha * product
    by_images, by_labels = by_leaves if is_soft else (*by_leaves, None)
    return missed.square().sum() / scale, by_images, by_step_size, by_labels
