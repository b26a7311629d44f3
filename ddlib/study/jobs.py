"""The jobs that workers do for a study. They write large results to files and return small ones.

Dask repeats the jobs of a worker that died, so a job may run twice. It does nothing if its file
exists, and writes the file atomically.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ddlib.configurations import pretraining, table_models, teaching
from ddlib.configurations.configuration import Configuration
from ddlib.configurations.probing import train_and_observe
from ddlib.data.base import DataSet
from ddlib.data.tables import nearest_valid
from ddlib.distilled import DistilledSet, check_set, load_distilled
from ddlib.files import read_json, reading, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.methods import METHODS
from ddlib.networks.functional import Theta
from ddlib.networks.layers import Network
from ddlib.study import store
from ddlib.study.plan import Reference, Trial
from ddlib.study.worker import Context, job, open_data, seconds
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import Score, final, passes, score, train_and_score
from ddlib.training.recipe import Converged, Recipe, hold_out, search_length
from ddlib.training.targets import Teacher
from ddlib.training.together import train_and_score_all

Record = dict[str, Any]  # the outcome of a trial, see `ddlib.study.store`
Weights = tuple[Path | None, Path | None]
"""The files of a configuration's pretrained body and of its teacher, if it has them."""


@job
def prepare(context: Context, method: str, plain: dict[str, Any], path: Path) -> Path:
    """Make one file of `METHODS[method].preparation`, for all sizes and seeds."""
    make = METHODS[method].preparation.make
    return _make(context, path, lambda: make(*open_data(context), plain))


@job
def pretrain(context: Context, configuration: Configuration, path: Path) -> Path:
    """Make the pretrained body of a configuration."""
    return _make(context, path, lambda: pretraining.pretrain(open_data(context)[0], configuration))


@job
def teach(context: Context, teacher: Configuration, path: Path) -> Path:
    """Train a teacher on all data, and write its file."""
    return _make(context, path, lambda: teaching.teach(open_data(context)[0], teacher))


def _teacher(dataset: DataSet, configuration: Configuration, weights: Weights) -> Teacher | None:
    path = weights[1]
    return teaching.read_teacher(path, dataset, configuration) if path else None


def _make(context: Context, path: Path, make: Callable[[], bytes]) -> Path:
    """Write the bytes that `make` returns, and its seconds, unless the file exists."""
    with store.locked(path):
        if not path.exists():
            open_data(context)
            start = seconds(context)
            content = make()
            store.write_seconds(path, seconds(context) - start)
            write_atomically(path, content)
    return path


@job
def distil(
    context: Context,
    method: str,
    plain: dict[str, Any],
    trials: Sequence[Trial],
    prepared: Sequence[Path],
) -> dict[Path, Record]:
    """Distil the sets of trials of one seed in one call; return the records of those that failed.

    plain: the method's parameters; prepared: the files of `prepare`.
    """
    missing = [trial for trial in trials if not trial.set_path.exists()]
    if not missing:
        return {}
    dataset, network = open_data(context)
    start, entry, ipcs = seconds(context), METHODS[method], [trial.ipc for trial in missing]
    try:
        call = [dataset, network, ipcs, missing[0].seed, entry.parameters.read(plain, method)]
        outcomes = entry.distil(*call, *([prepared] if entry.preparation else []))
    except Exception as error:  # a method may raise anything
        outcomes = dict.fromkeys(ipcs, error)
    share, failed = (seconds(context) - start) / len(missing), {}
    for trial in missing:
        outcome = outcomes.get(trial.ipc) if isinstance(outcomes, Mapping) else None
        try:
            synthetic = _checked(outcome, trial, dataset, context.network)
            store.write_seconds(trial.set_path, share)
            synthetic.save(trial.set_path)
        except Exception as error:
            failed[trial.set_path] = store.failure(error)
    return failed


def _checked(outcome: Any, trial: Trial, dataset: DataSet, network: dict) -> DistilledSet:
    """Return the set that a method made for a trial; raise its error if there is no valid set."""
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, DistilledSet):  # a variant has another name than its method
        outcome = replace(outcome, method=trial.method, network=network)
    try:
        check_set(outcome, dataset, trial.method, trial.ipc, trial.seed)
    except ValueError as error:
        raise ValueError(f"the method returned no valid set: {error}") from error
    return outcome


@job
def evaluate(
    context: Context,
    trials: Sequence[Trial],
    evaluations: int,
    configuration: Configuration,
    weights: Weights,
    failed: Sequence[dict[Path, Record]],
) -> list[Record]:
    """Train networks on the set of each trial; return a record per trial.

    trials: of one size and configuration; evaluations: the number of networks on each set;
    failed: the results of the `distil` jobs.
    """
    dataset, network = open_data(context, configuration)
    ends = {path: record for records in failed for path, record in records.items()}
    start, sets = seconds(context), {}
    for trial in trials:
        if trial.set_path not in ends:
            try:
                sets[trial] = _load(trial, dataset)
            except ValueError as error:
                ends[trial.set_path] = store.failure(error)
    body, teacher = weights[0], _teacher(dataset, configuration, weights)
    recipes = {trial: _recipe(synthetic, configuration) for trial, synthetic in sets.items()}
    for recipe in dict.fromkeys(recipes.values()):
        group = [trial for trial in sets if recipes[trial] == recipe]
        streams = [(trial.seed, number) for trial in group for number in range(evaluations)]
        labelled = [_labelled(context, sets[trial], configuration) for trial in group]
        repeated = [pair for pair in labelled for _ in range(evaluations)]
        if configuration.takes_steps:
            thetas = [_initial(context, network, configuration, stream, body) for stream in streams]
            training = repeated, dataset.test, recipe, streams, thetas, teacher
            scores = iter(train_and_score_all(network, *training))
        else:
            scores = iter(
                table_models.train_and_score(configuration.network, *pair, dataset.test, stream)
                for pair, stream in zip(repeated, streams, strict=True)
            )
        for trial in group:
            record = _ended([next(scores) for _ in range(evaluations)])
            ends[trial.set_path] = record | {"learning_rate": recipe.learning_rate}
    share = (seconds(context) - start) / len(trials)
    records = [ends[trial.set_path] for trial in trials]
    return [record | {"seconds": share if record["scores"] else None} for record in records]


def _recipe(synthetic: DistilledSet, configuration: Configuration) -> Recipe:
    rate = synthetic.learned.get("step_size") if configuration.learned_step_size else None
    return configuration.recipe.replace(learning_rate=rate) if rate else configuration.recipe


def _labelled(
    context: Context, synthetic: DistilledSet, configuration: Configuration
) -> tuple[Tensor, Tensor]:
    """Return the samples of a set, and its labels: learned ones only if the regime asks for them.

    A stored image may hold several: see `DistilledSet.decoded`. Table models are trained on the
    rows of a table that are nearest to the samples.
    """
    synthetic, learned = synthetic.decoded, configuration.labels.regime == "learned"
    samples, labels = synthetic.samples, synthetic.labels if learned else synthetic.hard_labels
    if not configuration.takes_steps:
        samples = nearest_valid(samples, synthetic.normalisation)
    return samples.to(context.device), labels.to(context.device)


def _load(trial: Trial, dataset: DataSet) -> DistilledSet:
    """Return the set in the file of a trial; ValueError if the file holds another set."""
    synthetic = load_distilled(trial.set_path)
    try:
        check_set(synthetic, dataset, trial.method, trial.ipc, trial.seed)
    except ValueError as error:
        raise ValueError(
            f"{trial.set_path} is not the set of its name: {error}; delete it, and run again"
        ) from error
    return synthetic


def _ended(scores: Sequence[Score | DivergedError]) -> Record:
    """Return the record of a trial: a failure if one of its networks diverged."""
    errors = [error for error in scores if isinstance(error, DivergedError)]
    return store.failure(errors[0]) if errors else store.success(scores)


@job
def find_length(
    context: Context,
    configuration: Configuration,
    weights: Weights,
    converged: Converged,
    path: Path,
) -> Path:
    """Search for the steps after which a training on all data has converged; write them as JSON.

    The search uses seed 0 and trains without held-out samples. The file holds `steps`; `capped`,
    whether the limit `converged.passes` ended the search; and `tried`, a list of steps and the
    cross-entropy on held-out samples (null: diverged).
    """

    def find() -> bytes:
        dataset, network = open_data(context, configuration)
        real, recipe = dataset.train, configuration.recipe
        is_held_out = hold_out(real.labels.cpu(), converged.held_out).to(context.device)
        parts = is_held_out, ~is_held_out
        test, rest = (real.subset(part.nonzero().flatten()) for part in parts)
        theta = _initial(context, network, configuration, (0, 0), weights[0])
        teacher = _teacher(dataset, configuration, weights)

        def risk(steps: int) -> float:
            shorter = recipe.replace(steps=steps)
            training = rest.samples, rest.labels, test, shorter, (0, 0), theta, teacher
            outcome = or_diverged(train_and_score, network, *training)
            return math.inf if isinstance(outcome, DivergedError) else outcome.cross_entropy

        most = int(converged.passes / passes(1, recipe.batch_size, len(real.labels)))
        steps, tried = search_length(recipe.steps, most, risk)
        lengths = [(length, loss if math.isfinite(loss) else None) for length, loss in tried]
        return plain_text({"steps": steps, "capped": steps >= most, "tried": lengths}).encode()

    return _make(context, path, find)


@job
def reference(
    context: Context,
    wanted: Reference,
    configuration: Configuration,
    weights: Weights,
    length: Path | None,
    probe: int,
) -> None:
    """Train a network on all data, and write its record, unless the record exists.

    length: the file of `find_length`, for a converged network; probe: see `train_and_observe`.
    """
    recipe, capped, stream = configuration.recipe, False, (wanted.seed, 0)
    if length:
        search = read_json(length, names=("steps", "capped"))
        recipe, capped = recipe.replace(steps=search["steps"]), search["capped"]
    with store.locked(wanted.path):
        if store.stands(wanted.path, wanted.observed):
            return
        dataset, network = open_data(context, configuration)
        try:
            if configuration.takes_steps:
                theta = _initial(context, network, configuration, stream, weights[0])
                teacher = _teacher(dataset, configuration, weights)
                training = dataset.train, dataset.test, recipe, stream, probe, teacher
                theta, observed = train_and_observe(network, theta, *training)
                result = final(score(network, theta, dataset.test), recipe)
            else:
                training = dataset.train, dataset.test, stream, probe
                result, observed = table_models.train_and_observe(configuration.network, *training)
            record = store.success([result])
            if wanted.observed:
                write_atomically(wanted.observed, observed)
        except Exception as error:  # a network of an extension may raise anything
            record = store.failure(error)
        steps = recipe.steps if configuration.takes_steps else 0
        store.write_record(wanted.path, record | {"steps": steps, "capped": capped})


def _initial(
    context: Context,
    network: Network,
    configuration: Configuration,
    seed: object,
    body: Path | None,
) -> Theta:
    weights = None
    if body:
        with reading(body):
            weights = load_file(body)
    theta = configuration.evaluated(network, seed, weights)
    return {name: value.to(context.device) for name, value in theta.items()}
