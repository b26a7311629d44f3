"""What a study will cost: counted trials, and seconds within a factor of two of the real ones."""

from functools import partial

import grids
import pytest

from ddlib.study import forecast as forecasts
from ddlib.study.forecast import forecast
from ddlib.study.plan import make_plan
from ddlib.study.run import counts, run
from ddlib.study.store import read_seconds

METHODS = {
    "random": {},
    "herding": {"steps": 100},
    "k_center": {"features": "trained", "training": {"steps": 400, "batch_size": 16}},
    "dm": {"iterations": 60, "real_batch": 20, "augmentation": "none"},
    "dc": {"iterations": 6, "outer_steps": 5, "inner_epochs": 4, "real_batch": 20},
    "mtt": {
        **{"iterations": 8, "student_steps": 6, "experts": 2, "expert_epochs": 1, "max_start": 2},
        **{"expert_steps": 30, "expert_batch": 16, "augmentation": "none"},
    },
}


@pytest.fixture
def settings(tmp_path, address):
    """Return the settings of the grid on the scheduler in this process, with some changes."""
    return partial(grids.settings, tmp_path / "study", scheduler_address=address)


def test_seconds_are_within_a_factor_of_two_and_what_is_cached_costs_nothing(settings):
    training = {"steps": 200, "batch_size": 16, "learning_rate": 0.05}
    options = {"methods": METHODS, "training": training, "reference": "same_steps"}
    study = settings(**options)
    plan = make_plan(study)
    assert counts(plan) == ("24 trials, 0 of them cached; 2 networks on all data, 0 of them cached")
    before = forecast(plan)
    assert before.workers == 1
    assert 100 < before.megabytes < 10_000
    costs = run(study).costs
    spent = costs.groupby("method")["distil_seconds"].sum()
    spent += costs.groupby("method")["prepare_seconds"].first()
    spent["evaluation"] = costs["evaluate_seconds"].sum()
    for part in ("herding", "k_center", "dm", "dc", "mtt", "evaluation"):
        assert spent[part] / 2 < before.parts[part] < 2 * spent[part], part
    after = forecast(plan)
    assert after.parts.sum() == 0
    assert counts(plan) == (
        "24 trials, 24 of them cached; 2 networks on all data, 2 of them cached"
    )
    # where trials of other seeds left their seconds, these are the forecast
    more = forecast(make_plan(settings(**options, seeds=3))).parts
    assert more["dc"] == pytest.approx(costs.query("method == 'dc'")["distil_seconds"].sum() / 2)
    assert more["evaluation"] == pytest.approx(costs["evaluate_seconds"].sum() / 2)


def test_a_method_whose_loops_are_not_known_is_said_to_be_unknown(settings, monkeypatch):
    monkeypatch.delitem(forecasts.LOOPS, "dm")
    text = str(forecast(make_plan(settings(methods={"dm": METHODS["dm"]}))))
    lines = text.splitlines()
    assert lines[1].split() == ["dm", "nan"]
    assert "without dm" in lines[-1]


def test_a_short_training_that_diverges_is_said_in_a_sentence(settings):
    training = grids.GRID["training"] | {"learning_rate": 1e30}
    plan = make_plan(settings(training=training, methods={"random": {}}))
    with pytest.raises(ValueError, match=r"no forecast, because a short training diverged: .*step"):
        forecast(plan)


def test_the_training_and_the_answers_of_a_teacher_are_counted(settings):
    """A wide teacher takes most of the time of the networks that it teaches."""
    wide = {"network": {"name": "mlp", "width": 800, "depth": 4}, "steps": 30}
    soft = {"labels": {"regime": "soft", "teacher": wide}}
    options = {"methods": {"random": {}}, "reference": "same_steps", "seeds": 1}
    options["training"] = {"steps": 100, "batch_size": 16, "learning_rate": 0.05}
    study = settings(**options, configurations={"hard": {}, "soft": soft})
    before, result = forecast(make_plan(study)).parts, run(study)
    spent = read_seconds(result.plan.teacher_path("soft"))
    assert spent / 3 < before["teachers"] < 3 * spent
    costs = result.costs.groupby("configuration")["evaluate_seconds"].sum()
    assert costs.sum() / 3 < before["evaluation"] < 3 * costs.sum()
    assert costs["soft"] > 2 * costs["hard"]
    assert "teachers" not in forecast(make_plan(study)).parts
