"""Configurations as update operators: how each changes the same weights on the same batches."""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from ddlib.configurations.configuration import Configuration
from ddlib.data.base import DataSet
from ddlib.devices import one_thread
from ddlib.networks.functional import Theta, flatten
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import at_steps, batches, training_steps

STATES = 4  # points of a training at which configurations are compared
BURST = 5  # steps per update: the momentum has no effect on the first one


@one_thread()  # steps of small networks take ten times as long on two threads as on one
def update_fields(
    dataset: DataSet, configurations: Mapping[str, Configuration], seed: object
) -> dict[str, np.ndarray]:
    """Return how each configuration changes the same P weights: arrays (STATES, P).

    The first configuration is trained on the real samples, without pretraining; if that diverges,
    the next one is. At the start of each of STATES equal parts of this training, every
    configuration applies its update operator to the same BURST batches. So batch size, schedule and
    initial weights do not matter, and an augmentation adds the noise of one draw. Configurations
    that diverge are left out. Raises ValueError if the configurations do not share their network,
    and for table models and soft labels.
    """
    if not configurations:
        return {}
    first, shared = next(iter(configurations.items()))
    for name, configuration in configurations.items():
        if not configuration.takes_steps:
            raise ValueError(
                f"{name!r} is fitted without steps, so it has no updates; compare predictions"
            )
        if configuration.labels.regime == "soft":
            raise ValueError(
                f"{name!r} has soft labels, but updates are compared on hard ones; compare "
                "predictions, or choose regime: hard"
            )
        if configuration.network != shared.network:
            raise ValueError(
                f"{name!r} has other weights than {first!r}; compare them in function space"
            )
    network = shared.build(**dataset.sizes)
    real = dataset.train
    rows = batches(len(real.labels), shared.batch_size, generator("shared batches", seed))
    fields: dict[str, list[np.ndarray]] = {name: [] for name in configurations}
    try:
        for number, state in enumerate(_states(dataset, shared, network, seed)):
            burst = [(real.at(batch), real.labels[batch]) for batch in islice(rows, BURST)]
            for name in list(fields):
                stream = generator("update", (seed, number))
                moved = or_diverged(configurations[name].update, network, state, burst, stream)
                if isinstance(moved, DivergedError):
                    del fields[name]
                    continue
                added = flatten(network, moved) - flatten(network, state)
                fields[name].append(added.double().cpu().numpy())
    except DivergedError:  # the training of the first one
        others = {name: chosen for name, chosen in configurations.items() if name != first}
        return update_fields(dataset, others, seed)
    return {name: np.stack(updates) for name, updates in fields.items()}


def _states(
    dataset: DataSet, shared: Configuration, network: Network, seed: object
) -> Iterator[Theta]:
    """Yield the weights at each state; DivergedError. The next state may overwrite them."""
    real, stream = dataset.train, generator("shared training", seed)
    theta = shared.initial(network, generator("shared state", seed))
    starts = [part * shared.steps // STATES for part in range(STATES)]
    steps = training_steps(network, theta, real.samples, real.labels, shared, stream)
    states = at_steps(starts, theta, islice(steps, starts[-1]))
    for start, state in zip(starts, states, strict=True):
        if not flatten(network, state).isfinite().all():
            raise DivergedError(start, "a weight")
        yield state
