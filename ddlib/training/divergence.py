"""Detect trainings that diverge, without blocking a GPU at every step."""

from collections.abc import Callable
from typing import TypeVar

import torch

CHECK_EVERY = 100  # steps: reading every loss would block the GPU

T = TypeVar("T")


class DivergedError(RuntimeError):
    """A loss or a pixel is not finite, or another number left its range."""

    def __init__(
        self,
        step: int,
        what: str,
        how: str = "stopped being a finite number",
        advice: str = "choose a smaller learning rate",
    ):
        super().__init__(step, what, how, advice)  # pickle rebuilds the error from these
        self.step = step

    def __str__(self) -> str:
        step, what, how, advice = self.args
        return f"{what} {how} at step {step}; {advice}"


def or_diverged(job: Callable[..., T], *arguments: object) -> T | DivergedError:
    """Return what a job returns, or the DivergedError that it raises."""
    try:
        return job(*arguments)
    except DivergedError as error:
        return error


class Watch:
    """Finds the first bad number of a training; reads from the device every CHECK_EVERY numbers."""

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, DivergedError]] = []

    def see(self, sound: torch.Tensor, error: DivergedError) -> None:
        """Note whether a number is `sound`, a bool (). If not, `error` is raised.

        It is raised by this call, by one of the next CHECK_EVERY calls, or by `check`.
        """
        self._seen.append((sound.detach(), error))
        if len(self._seen) >= CHECK_EVERY:
            self.check()

    def finite(self, step: int, what: str, values: torch.Tensor) -> None:
        """Note whether all `values` are finite; the error names `what` and the `step`."""
        self.see(values.isfinite().all(), DivergedError(step, what))

    def check(self) -> None:
        """Raise the error of the first unsound number. Further calls raise it again."""
        if not self._seen:
            return
        flags = torch.stack([sound for sound, _ in self._seen]).cpu().tolist()
        for sound, (_, error) in zip(flags, self._seen, strict=True):
            if not sound:
                raise error
        self._seen.clear()
