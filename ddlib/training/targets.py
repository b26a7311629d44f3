"""What a network should say about a batch: labels, or a teacher's answers, and the loss.

Labels are hard, (N,) int64, or soft, (N, C) float32 probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, model_validator

from ddlib.networks.functional import Theta, logits
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.training.augment import Targets

LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "kl": lambda scores, soft: F.kl_div(scores.log_softmax(1), soft, reduction="batchmean"),
    "mse": lambda scores, soft: (scores.softmax(1) - soft).square().sum(1).mean(),
}
"""Losses () of scores (N, C) for soft labels (N, C): means over N. `mse` compares probabilities."""

REGIMES = ("hard", "soft", "learned")


class Labels(Parameters):
    """The labels by which networks are trained, on distilled sets and on all data alike.

    regime: "hard": the classes; "soft": what a teacher says about the samples as the network sees
    them, after augmentation; "learned": the labels that a method learned along with S, and the
    classes where none were learned. temperature, loss: see Teacher. teacher: changes of the study's
    network and training; the network that they give is trained on all data, and is the teacher.
    """

    regime: Literal[*REGIMES] = "hard"
    temperature: PositiveFloat = 4.0
    loss: Literal[*LOSSES] = "kl"
    teacher: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_regime(self) -> Self:
        options = sorted(self.model_fields_set - {"regime"})
        if options and self.regime != "soft":
            raise ValueError(
                f"regime {self.regime!r} has no teacher, and so no {' and no '.join(options)}; "
                "choose regime: soft"
            )
        return self


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network that labels the samples that a student sees; it does not learn.

    theta: its weights and buffers, on the student's device; temperature: divides the scores of
    teacher and student; loss: a name of LOSSES.
    """

    network: Network
    theta: Theta
    temperature: float = 4.0
    loss: str = "kl"

    @torch.no_grad()
    def labels(self, samples: torch.Tensor) -> torch.Tensor:
        """Return soft labels (N, C) of samples: the softmax of the scores over the temperature."""
        return (logits(self.network, self.theta, samples) / self.temperature).softmax(1)

    def loss_of(
        self, scores: torch.Tensor, samples: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Return the loss () of a student's scores (N, C) on samples, times temperature squared.

        The factor keeps the gradient's size when the temperature changes (Hinton et al., 2015).
        smoothing: the share of the labels that is uniform. Raises ValueError if the student has
        another number of classes.
        """
        soft = self.labels(samples)
        if soft.shape != scores.shape:
            raise ValueError(
                f"the teacher knows {soft.shape[1]} classes and the student {scores.shape[1]}; "
                "choose a teacher that was trained on the same classes"
            )
        soft = (1 - smoothing) * soft + smoothing / soft.shape[1]
        return self.temperature**2 * LOSSES[self.loss](scores / self.temperature, soft)


def batch_loss(
    scores: torch.Tensor,
    samples: torch.Tensor,
    targets: Targets,
    smoothing: float,
    teacher: Teacher | None,
) -> torch.Tensor:
    """Return the mean loss () of scores (N, C) on augmented samples, in nats.

    Without a teacher it is the cross-entropy for the weighted targets. A teacher labels the samples
    instead: the targets, also those of mixup and cutmix, are not used.
    """
    if teacher:
        return teacher.loss_of(scores, samples, smoothing)
    return sum(
        share * F.cross_entropy(scores, labels, label_smoothing=smoothing)
        for share, labels in targets
    )
