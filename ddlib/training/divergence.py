"""Trainings that diverge: the error, and a watch that finds it without waiting for a GPU."""

from collections.abc import Callable
from typing import TypeVar

import torch

CHECK_EVERY = 100  # numbers; to read each as it comes would keep an accelerator waiting

T = TypeVar("T")


class DivergedError(RuntimeError):
    """A loss or a pixel is no longer a finite number, or another number is out of its range."""

    def __init__(
        self,
        step: int,
        what: str,
        how: str = "stopped being a finite number",
        advice: str = "choose a smaller learning rate",
    ):
        super().__init__(step, what, how, advice)  # workers send it back by these arguments
        self.step = step

    def __str__(self) -> str:
        step, what, how, advice = self.args
        return f"{what} {how} at step {step}; {advice}"


def or_diverged(job: Callable[..., T], *given: object) -> T | DivergedError:
    """Return what a job returns, or the DivergedError that it raises."""
    try:
        return job(*given)
    except DivergedError as error:
        return error


class Watch:
    """Finds the first number of a run that is not sound, without a look at each as it comes."""

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, DivergedError]] = []

    def see(self, sound: torch.Tensor, error: DivergedError) -> None:
        """Take note of whether a number is `sound`, a bool (); if not, `error` is to be raised.

        It is raised here, at most CHECK_EVERY numbers later, or by `check`.
        """
        self._seen.append((sound.detach(), error))
        if len(self._seen) >= CHECK_EVERY:
            self.check()

    def finite(self, step: int, what: str, values: torch.Tensor) -> None:
        """Take note of whether all `values` are finite numbers: they are `what`, after `step`."""
        self.see(values.isfinite().all(), DivergedError(step, what))

    def check(self) -> None:
        """Raise the error of the first number that was not sound, if there was one, every time."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        flags = torch.stack([sound for sound, _ in seen]).cpu()
        for sound, own in zip(flags.tolist(), seen, strict=True):
            if not sound:
                self._seen = [own]
                raise own[1]
