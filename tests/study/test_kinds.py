"""Studies of vectors and sequences, and what they refuse because it is made for images."""

import numpy as np
import pandas as pd
import pytest
from grids import DC, DM
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ddlib.seeds import generator
from ddlib.study.plan import make_plan
from ddlib.study.run import run
from ddlib.study.settings import Settings

pytestmark = pytest.mark.usefixtures("in_this_process")
TRAINED = {"features": "trained", "training": {"steps": 5}}
MTT = {"iterations": 2, "student_steps": 2, "expert_epochs": 1, "max_start": 1, "experts": 1}
DATM = MTT | {"student_steps": 2, "expert_steps": 4, "label_snapshot": 1}
NCFM = {"iterations": 2, "networks": 1, "pool": {"steps": 2}, "frequencies": 4}
SOFT = {"regime": "soft", "teacher": {"augmentation": "dsa"}}
WINE = {
    "data": {"name": "wine"},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 60, "batch_size": 16, "learning_rate": 0.05},
    "methods": {"random": None, "herding": {"steps": 5}, "k_center": {"steps": 5}, "dm": DM}
    | {"kernel_herding": None, "k_means": None, "nearest_to_centroid": TRAINED}
    | {"dc": DC, "mtt": MTT | {"synthetic_batch": 3, "expert_steps": 4}}
    | {"ncfm": NCFM, "datm": DATM},
    "k": [3, 30],
    "seeds": 1,
    "reference": "same_steps",
}


def settings(tmp_path, **changes):
    paths = {"results": str(tmp_path / "results"), "cache": str(tmp_path / "cache")}
    return Settings.read(WINE | paths | changes)


def test_every_method_runs_on_sequences(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pytest.importorskip("wordllama")
    texts = [f"{animal} number {number}" for number in range(8) for animal in ("a cat", "the dog")]
    pets = pd.DataFrame({"text": texts, "label": ["cat", "dog"] * 8})
    for part in ("train", "test"):
        pets.to_csv(tmp_path / f"{part}.csv", index=False)
    data = {"name": str(tmp_path), "form": "tokens", "dimension": 8, "length": 6}
    network = {"name": "text_cnn", "width": 4}
    methods = WINE["methods"] | {"dc": DC | {"initialisation": "real"}}  # noise has no padding
    changes = {"data": data, "network": network, "methods": methods, "k": [2, 6]}
    result = run(settings(tmp_path, **changes))
    assert result.trials["status"].tolist() == ["ok"] * 22
    for synthetic in result.distilled(0):
        assert synthetic.samples.shape == (synthetic.k, 6, 8)
        assert synthetic.samples.any(-1).sum(1).tolist() == [5] * synthetic.k  # tokens of a text


def test_every_method_runs_on_vectors(tmp_path, capsys):
    result = run(settings(tmp_path))
    capsys.readouterr()
    run(settings(tmp_path))
    assert capsys.readouterr().out == ""  # not that the last run had other methods
    assert result.trials["status"].tolist() == ["ok"] * 22
    assert result.trials.query("method == 'random' and k == 30")["accuracy"].item() > 0.8
    for synthetic in result.distilled(0):
        assert synthetic.samples.shape == (synthetic.k, 13)
        chosen = [value for name, value in synthetic.parameters.items() if "augmentation" in name]
        assert set(chosen) <= {"none"}


def test_models_of_scikit_learn_learn_from_the_nearest_rows_of_a_table(tmp_path):
    """DM moves one-hot words off their corners, where networks see them and such models do not."""
    draws = np.random.default_rng(0)
    town, size = draws.choice(["Bonn", "Oslo", "Rome"], 120), draws.normal(size=120)
    table = pd.DataFrame({"size": size, "town": town, "label": (size > 0) ^ (town == "Bonn")})
    for part, rows in (("train", table[:80]), ("test", table[80:])):
        rows.to_csv(tmp_path / f"{part}.csv", index=False)
    changes = {"data": {"name": str(tmp_path)}, "k": [20]}
    changes["methods"] = {"dm": DM | {"iterations": 20, "learning_rate": 10}}
    changes["configurations"] = {"boosted": {"network": {"name": "gradient_boosting"}}}
    result = run(settings(tmp_path, **changes))
    test = result.plan.dataset.test
    for synthetic in result.distilled():
        size, *towns = synthetic.samples.numpy().T
        assert not set(np.ravel(towns)) <= {0, 1}
        rows = np.column_stack([size, np.eye(3)[np.argmax(towns, axis=0)]]).astype(np.float32)
        state = generator("evaluation weights", (synthetic.seed, 0)).initial_seed() % 2**32
        model = HistGradientBoostingClassifier(min_samples_leaf=5, random_state=state)
        model.fit(rows, synthetic.labels)
        (trial,) = result.trials.query("seed == @synthetic.seed").itertuples()
        assert trial.accuracy == model.score(test.samples.numpy(), test.labels.numpy())
        assert trial.cross_entropy == pytest.approx(
            log_loss(test.labels, model.predict_proba(test.samples.numpy())), rel=1e-6
        )


def test_models_of_scikit_learn_are_trained_on_the_sets_and_on_all_data(tmp_path):
    """Their accuracies are scikit-learn's, and their two references are the same training."""
    models = {"logistic_regression": LogisticRegression(max_iter=1000)}
    models["gradient_boosting"] = HistGradientBoostingClassifier(min_samples_leaf=5)
    configurations = {"own": {}} | {name: {"network": {"name": name}} for name in models}
    chosen = settings(
        tmp_path,
        **{"methods": {"random": None, "dm": DM}, "configurations": configurations, "k": [30]},
        **{"reference": "converged", "converged": {"passes": 2}},
    )
    result = run(chosen)
    assert set(result.trials["status"]) == set(result.references["status"]) == {"ok"}
    rates = result.trials.groupby("configuration")["learning_rate"].first()
    assert rates.isna().to_dict() == {"own": False, **dict.fromkeys(models, True)}
    train, test = result.plan.dataset.train, result.plan.dataset.test
    state = generator("evaluation weights", (0, 0)).initial_seed() % 2**32
    accuracies = result.trials.set_index(["configuration", "method"])["accuracy"]
    parts = {set_.method: (set_.samples, set_.labels) for set_ in result.distilled(0)}
    for name, model in models.items():
        model.set_params(random_state=state)
        for method, (samples, labels) in parts.items():
            model.fit(samples.numpy(), labels.numpy())
            accuracy = model.score(test.samples.numpy(), test.labels.numpy())
            assert accuracies[name, method] == accuracy
        model.fit(train.samples.numpy(), train.labels.numpy())
        rows = result.references.query("configuration == @name")
        accuracy = model.score(test.samples.numpy(), test.labels.numpy())
        assert rows["accuracy"].tolist() == [accuracy] * 2
        assert list(result.observed(name)) == ["probabilities"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"dsa": None}}, "the method 'dsa' makes images, but wine holds vectors; choo"),
        (
            {"methods": {"mine": {"method": "dm", "factor": 2}}},
            "the method 'mine': factor=2 puts several images into one, but wine holds vectors; le",
        ),
        ({"methods": {"mgd3": None}}, "the method 'mgd3' makes images, but wine holds vectors"),
        ({"methods": {"rded": None}}, "the method 'rded' makes images, but wine holds vectors"),
        ({"methods": {"sre2l": None}}, "the method 'sre2l' makes images, but wine holds vectors"),
        (
            {"methods": {"dm": {"augmentation": "dsa"}}},
            "the method 'dm' has augmentation='dsa', which is for images, but wine holds vectors",
        ),
        (
            {"methods": {"ncfm": {"pool": {"augmentation": "flip_crop"}}}},
            "the method 'ncfm: pool' has augmentation='flip_crop', which is for images, but wine",
        ),
        (
            {"configurations": {"a": {"augmentation": "flip_crop"}}},
            "configuration 'a' has augmentation='flip_crop', .*; choose none or mixup",
        ),
        (
            {"configurations": {"a": {"initialisation": "rotation"}}},
            "configuration 'a' has initialisation='rotation', which .*; choose default or orthogon",
        ),
        ({"network": {"name": "gradient_boosting"}}, "no method can distil on gradient_boosting"),
        (
            {"configurations": {"a": {"labels": SOFT}}},
            "the teacher of 'a' has augmentation='dsa', .*; choose none or mixup",
        ),
        ({"network": {"name": "convnet"}}, "'convnet' takes image data, but these are vector data"),
        ({"network": {"name": "gru"}}, "'gru' takes sequence data, .*choose mlp, linear"),
        ({"data": {"name": "wine", "zca": True}}, "zca=True is an option of images, but wine"),
    ],
)
def test_what_is_made_for_images_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(settings(tmp_path, **changes))
