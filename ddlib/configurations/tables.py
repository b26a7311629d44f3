"""Models of scikit-learn as configurations for vectors: fitted at once, without steps or gradients.

They are trained on S and on D like networks, but no method can distil on them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat
from safetensors.torch import save
from sklearn.base import ClassifierMixin
from threadpoolctl import threadpool_limits

from ddlib.data.base import Split
from ddlib.networks.functional import read_network
from ddlib.parameters import options_of
from ddlib.seeds import generator
from ddlib.training.loop import Score, score_of

LEAST = 1e-12  # of a probability, so that its logarithm is finite


def logistic_regression(seed: int, C: PositiveFloat = 1.0, max_iter: int = 1000) -> ClassifierMixin:  # noqa: N803
    """Return scikit-learn's logistic regression; C: the inverse strength of its L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=max_iter, random_state=seed)


def gradient_boosting(
    seed: int,
    learning_rate: PositiveFloat = 0.1,
    max_iter: int = 100,
    max_leaf_nodes: int = 31,
    min_samples_leaf: int = 5,
) -> ClassifierMixin:
    """Return scikit-learn's gradient boosting of trees over histograms.

    Its own default of 20 samples in a leaf cannot split a set of fewer than 40.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    options = {"max_leaf_nodes": max_leaf_nodes, "min_samples_leaf": min_samples_leaf}
    return HistGradientBoostingClassifier(
        learning_rate=learning_rate, max_iter=max_iter, random_state=seed, **options
    )


TABLE_MODELS: dict[str, Callable[..., ClassifierMixin]] = {
    function.__name__: function for function in (logistic_regression, gradient_boosting)
}
"""The models by name. A user may set the keyword arguments of each function."""


def read_model(table: Any) -> dict[str, Any]:
    """Return the name and all options of a network or a table model; see `read_network`."""
    if not isinstance(table, Mapping) or table.get("name") not in TABLE_MODELS:
        return read_network(table)
    options, name = dict(table), table["name"]
    read = options_of(TABLE_MODELS[options.pop("name")]).read(options, f"the model {name!r}")
    return {"name": name, **vars(read)}


def read_distilling_network(table: Any) -> dict[str, Any]:
    """Return a network as `read_network` does; ValueError for a table model."""
    model = read_model(table)
    if model["name"] in TABLE_MODELS:
        raise ValueError(
            f"no method can distil on {model['name']}, which has no gradients; choose a network "
            "such as mlp, and put this model into configurations"
        )
    return model


def check_vectors(model: Mapping[str, Any], sample_shape: tuple[int, ...]) -> None:
    """Raise ValueError if samples of a shape are not vectors."""
    if len(sample_shape) != 1:
        raise ValueError(
            f"{model['name']} takes vectors, not samples of shape {sample_shape}; choose a network"
        )


def log_probabilities(
    model: Mapping[str, Any],
    samples: torch.Tensor,
    labels: torch.Tensor,
    tests: torch.Tensor,
    class_count: int,
    seed: object,
) -> torch.Tensor:
    """Fit a model on samples (N, D) and hard labels (N,); return its answers (M, C) to `tests`.

    Raises ValueError for soft labels.
    """
    if labels.is_floating_point():
        raise ValueError(f"{model['name']} learns from hard labels only; choose regime: hard")
    options, state = dict(model), generator("evaluation weights", seed).initial_seed() % 2**32
    estimator = TABLE_MODELS[options.pop("name")](state, **options)
    with threadpool_limits(1):
        estimator.fit(samples.cpu().numpy(), labels.cpu().numpy())
        answers = torch.from_numpy(estimator.predict_proba(tests.cpu().numpy()))
    scores = answers.new_zeros(len(tests), class_count)
    scores[:, torch.from_numpy(estimator.classes_)] = answers
    return scores.clamp(min=LEAST).log().to(labels.device)
