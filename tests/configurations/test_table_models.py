"""Models of scikit-learn as configurations: against scikit-learn used directly."""

import numpy as np
import pytest
import torch
from safetensors.torch import load as parse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss

from ddlib.configurations import table_models as models
from ddlib.configurations.configuration import Configuration
from ddlib.configurations.operators import update_fields
from ddlib.configurations.table_models import read_distilling_network, read_model
from ddlib.data.base import Split
from ddlib.seeds import generator

DIRECT = {
    "logistic_regression": LogisticRegression(max_iter=1000),
    "gradient_boosting": HistGradientBoostingClassifier(min_samples_leaf=5),
}
OPTIONS = {"logistic_regression": {"C": 0.01}, "gradient_boosting": {"max_iter": 3}}


@pytest.fixture(scope="module", params=[load_breast_cancer, load_wine])
def parts(request):
    """Two of three standardised rows to train on, and the others."""
    samples, labels = request.param(return_X_y=True)
    samples = ((samples - samples.mean(0)) / samples.std(0)).astype(np.float32)
    chosen = np.arange(len(labels)) % 3 > 0
    return [
        Split(torch.from_numpy(samples[rows]), torch.from_numpy(labels[rows].astype(np.int64)))
        for rows in (chosen, ~chosen)
    ]


@pytest.mark.parametrize("options", [{}, OPTIONS])
@pytest.mark.parametrize("name", models.TABLE_MODELS)
def test_scores_and_observations_are_scikit_learns(parts, name, options):
    real, test = parts
    options, state = options.get(name, {}), generator("evaluation weights", (3, 0)).initial_seed()
    model = read_model({"name": name, **options})
    direct = clone(DIRECT[name]).set_params(**options, random_state=state % 2**32)
    direct.fit(real.samples.numpy(), real.labels.numpy())
    probabilities = direct.predict_proba(test.samples.numpy())
    answers, truth = probabilities.argmax(1), test.labels.numpy()
    result = models.train_and_score(model, real.samples, real.labels, test, (3, 0))
    again, content = models.train_and_observe(model, real, test, (3, 0), 7)
    assert result == again
    assert result.accuracy == (answers == truth).mean()
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, answers))
    assert result.cross_entropy == pytest.approx(log_loss(truth, probabilities), rel=1e-6)
    seen = [number * len(truth) // 7 for number in range(7)]
    observed = parse(content)
    assert list(observed) == ["probabilities"]
    np.testing.assert_allclose(observed["probabilities"], probabilities[seen], atol=1e-6)


def configuration(**changes):
    return Configuration.read({"network": {"name": "logistic_regression"}, **changes}, "c")


def test_what_a_table_model_cannot_do_is_refused_in_one_sentence(tiny):
    chosen = configuration()
    soft, boosting = torch.eye(3), read_model({"name": "gradient_boosting"})
    assert chosen.build((30,), 2) is None
    assert not chosen.takes_steps
    for call, message in (
        (lambda: chosen.build((1, 8, 8), 3), r"takes vector data, but these have the shape \(1, 8"),
        (lambda: update_fields(tiny, {"c": chosen}, 0), "'c' is fitted without steps, so it has"),
        (lambda: read_distilling_network(chosen.network), "no method can distil on logistic_reg"),
        (lambda: configuration(initialisation="orthogonal"), "has no weights to initialise"),
        (lambda: read_model({"name": "logistic_regression", "c": 1}), "'c' is not a parameter"),
        (lambda: models.train_and_score(boosting, soft, soft, None, 0), "learns from hard labels"),
        (lambda: read_model({"name": "gradient_bosting"}), "did you mean 'gradient_boosting'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_boosting_uses_all_samples_however_many_there_are():
    """By default, scikit-learn holds out a tenth of more than 10,000 and stops early."""
    values = np.random.default_rng(0).normal(size=(10_001, 1))
    options = {"max_iter": 20, "learning_rate": 1.0}
    model = models.gradient_boosting(0, **options).fit(values, values[:, 0] > 0)
    assert (model.n_iter_, len(model.validation_score_)) == (20, 0)
