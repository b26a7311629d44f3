"""Models of scikit-learn as configurations for vectors: fitted at once, without steps or gradients.

They are trained on S and on D like networks, but no method can distil on them. Of a table's S, they
see the nearest rows that could exist (`ddlib.data.tables.nearest_valid`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import PositiveFloat
from safetensors.torch import save
from threadpoolctl import threadpool_limits

from ddlib.configurations.probing import probes
from ddlib.data.base import Split
from ddlib.networks.functional import read_network
from ddlib.networks.zoo import NETWORKS
from ddlib.seeds import generator
from ddlib.training.loop import Score, score_of

LEAST = 1e-12  # of a probability, so that its logarithm is finite


def logistic_regression(seed: int, C: PositiveFloat = 1.0, max_iter: int = 1000) -> Any:  # noqa: N803
    """Return scikit-learn's logistic regression; C: the inverse strength of its L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=max_iter, random_state=seed)


def gradient_boosting(
    seed: int,
    learning_rate: PositiveFloat = 0.1,
    max_iter: int = 100,
    max_leaf_nodes: int = 31,
    min_samples_leaf: int = 5,
) -> Any:
    """Return scikit-learn's gradient boosting of trees over histograms.

    Its own default of 20 samples in a leaf cannot split a set of fewer than 40. By default it also
    stops early, on a tenth of the samples, where there are more than 10,000: then a model of all
    data would be trained otherwise than one of a small set.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    options = {"max_leaf_nodes": max_leaf_nodes, "min_samples_leaf": min_samples_leaf}
    options |= {"learning_rate": learning_rate, "max_iter": max_iter}
    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **options)


TABLE_MODELS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (logistic_regression, gradient_boosting)
}
"""The models by name. A user may set the keyword arguments of each function."""


def read_model(table: Any) -> dict[str, Any]:
    """Return the name and all options of a network or a table model; see `read_network`."""
    return read_network(table, {**NETWORKS, **TABLE_MODELS})


def read_distilling_network(table: Any) -> dict[str, Any]:
    """Return a network as `read_network` does; ValueError for a table model."""
    model = read_model(table)
    if model["name"] in TABLE_MODELS:
        raise ValueError(
            f"no method can distil on {model['name']}, which has no gradients; choose a network "
            "such as mlp, and put this model into configurations"
        )
    return model


def train_and_score(
    model: Mapping[str, Any], samples: torch.Tensor, labels: torch.Tensor, test: Split, seed: object
) -> Score:
    """Fit a model on samples (N, D) of all classes and hard labels (N,); return its test score.

    seed: as in `ddlib.training.loop.train_and_score`. Raises ValueError for soft labels.
    """
    return _score(_fitted(model, samples, labels, seed), test)


def train_and_observe(
    model: Mapping[str, Any], real: Split, test: Split, seed: object, probe: int
) -> tuple[Score, bytes]:
    """Return the test score of a model fitted on `real`, and a safetensors file of observations.

    It holds the probabilities (N, C) of the probe samples, see `probing.probes`. A model without
    steps and layers has no increments and no features.
    """
    estimator = _fitted(model, real.at(slice(None)), real.labels, seed)
    observed = _log_probabilities(estimator, probes(test, probe)).exp().float()
    return _score(estimator, test), save({"probabilities": observed.contiguous()})


def _fitted(
    model: Mapping[str, Any], samples: torch.Tensor, labels: torch.Tensor, seed: object
) -> Any:
    if labels.is_floating_point():
        raise ValueError(f"{model['name']} learns from hard labels only; choose regime: hard")
    options, state = dict(model), generator("evaluation weights", seed).initial_seed() % 2**32
    with threadpool_limits(1):
        estimator = TABLE_MODELS[options.pop("name")](state, **options)
        return estimator.fit(samples.cpu().numpy(), labels.cpu().numpy())


def _log_probabilities(estimator: Any, samples: torch.Tensor) -> torch.Tensor:
    with threadpool_limits(1):
        probabilities = torch.from_numpy(estimator.predict_proba(samples.cpu().numpy()))
    return probabilities.clamp(min=LEAST).log()


def _score(estimator: Any, test: Split) -> Score:
    scores = _log_probabilities(estimator, test.at(slice(None))).to(test.device)
    return score_of(lambda rows: scores[rows], test)
