"""The jobs that workers do for a study. They write large results to files and return small ones.

Dask repeats the jobs of a worker that died, so a job may run twice. It does nothing if its file
exists, and writes the file atomically.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ddlib.configurations import pretraining
from ddlib.configurations.configuration import Configuration
from ddlib.configurations.probing import train_and_observe
from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet, check_set, load_distilled
from ddlib.files import read_json, reading, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.methods import METHODS
from ddlib.networks.functional import Theta
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.study.plan import Reference, Trial
from ddlib.study.store import (
    failure,
    locked,
    read_record,
    stands,
    success,
    write_record,
    write_seconds,
)
from ddlib.study.worker import Context, UnfitWorkerError, job, open_data, seconds
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import Score, final, passes, score, train, train_and_score
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
def teach(context: Context, configuration: Configuration, path: Path) -> Path:
    """Train a teacher on all data; write its weights, with its score on the test set."""

    def make() -> bytes:
        dataset, network = open_data(context, configuration)
        real, recipe = dataset.train, configuration.recipe
        theta = _initial(context, network, configuration, "teacher", None)
        stream = generator("teacher batches")
        theta = train(network, theta, real.samples, real.labels, recipe, stream)
        scores = asdict(final(score(network, theta, dataset.test), recipe))
        tensors = {name: value.cpu().contiguous() for name, value in theta.items()}
        return save(tensors, metadata={"score": json.dumps(scores)})

    return _make(context, path, make)


def _teacher(context: Context, configuration: Configuration, path: Path | None) -> Teacher | None:
    """Return the teacher in the file of `teach`; None without a file."""
    if not path:
        return None
    with reading(path):
        weights = load_file(path)
    _, network = open_data(context, configuration.teacher)
    theta = {name: value.to(context.device) for name, value in weights.items()}
    return Teacher(network, theta, configuration.labels.temperature, configuration.labels.loss)


def _make(context: Context, path: Path, make: Callable[[], bytes]) -> Path:
    """Write the bytes that `make` returns, and its seconds, unless the file exists."""
    with locked(path):
        if not path.exists():
            open_data(context)
            start = seconds(context)
            content = make()
            write_seconds(path, seconds(context) - start)
            write_atomically(path, content)
    return path


@job
def distil(
    context: Context,
    method: str,
    parameters: Parameters,
    trials: Sequence[Trial],
    prepared: Sequence[Path],
) -> dict[Path, Record]:
    """Distil the sets of trials of one seed in one call; return the records of those that failed.

    prepared: the files of `prepare`.
    """
    missing = [trial for trial in trials if not trial.set_path.exists()]
    if not missing:
        return {}
    dataset, network = open_data(context)
    start, entry, ipcs = seconds(context), METHODS[method], [trial.ipc for trial in missing]
    try:
        call = [dataset, network, ipcs, missing[0].seed, parameters]
        outcomes = entry.distil(*call, *([prepared] if entry.preparation else []))
    except Exception as error:  # a method may raise anything
        outcomes = dict.fromkeys(ipcs, error)
    share, failed = (seconds(context) - start) / len(missing), {}
    for trial in missing:
        outcome = outcomes.get(trial.ipc) if isinstance(outcomes, Mapping) else None
        try:
            synthetic = _checked(outcome, trial, dataset, json.loads(context.network))
            write_seconds(trial.set_path, share)
            synthetic.save(trial.set_path)
        except Exception as error:
            failed[trial.set_path] = failure(error)
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
    numbers: Sequence[int],
    configuration: Configuration,
    weights: Weights,
    failed: Sequence[dict[Path, Record]],
) -> tuple[list[Record], float]:
    """Train networks on the set of each trial; return a record per trial, and the seconds.

    trials: of one size and configuration; numbers: of the networks on each set; failed: the results
    of the `distil` jobs for these sets.
    """
    dataset, network = open_data(context, configuration)
    reasons = {path: record for records in failed for path, record in records.items()}
    start, sets = seconds(context), {}
    for trial in trials:
        if trial.set_path not in reasons:
            try:
                synthetic = _load(trial, dataset)
            except ValueError as error:
                reasons[trial.set_path] = failure(error)
                continue
            sets[trial] = synthetic
    ends = {trial: reasons.get(trial.set_path) for trial in trials}
    teacher = _teacher(context, configuration, weights[1])
    for recipe, group in _by_recipe(sets, configuration):
        streams = [(trial.seed, number) for trial in group for number in numbers]
        thetas = [
            _initial(context, network, configuration, stream, weights[0]) for stream in streams
        ]
        labelled = [_labelled(context, sets[trial], configuration) for trial in group]
        repeated = [pair for pair in labelled for _ in numbers]
        training = repeated, dataset.test, recipe, streams, thetas, teacher
        scores = iter(train_and_score_all(network, *training))
        for trial in group:
            ends[trial] = _ended([next(scores) for _ in numbers])
            ends[trial]["learning_rate"] = recipe.learning_rate
    return list(ends.values()), seconds(context) - start


def _by_recipe(
    sets: Mapping[Trial, DistilledSet], configuration: Configuration
) -> Iterator[tuple[Recipe, list[Trial]]]:
    """Yield trials whose networks can be trained together: with one learning rate."""
    groups: dict[float, list[Trial]] = {}
    for trial, synthetic in sets.items():
        learned = synthetic.learned if configuration.learned_step_size else {}
        rate = learned.get("step_size", configuration.learning_rate)
        groups.setdefault(rate, []).append(trial)
    for rate, group in groups.items():
        yield configuration.recipe.replace(learning_rate=rate), group


def _labelled(
    context: Context, synthetic: DistilledSet, configuration: Configuration
) -> tuple[Tensor, Tensor]:
    """Return the images of a set, and its labels: learned ones only if the regime asks for them."""
    learned = configuration.labels.regime == "learned"
    labels = synthetic.labels if learned else synthetic.hard_labels
    return synthetic.samples.to(context.device), labels.to(context.device)


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
    return failure(errors[0]) if errors else success(scores)


def join(parts: Sequence[tuple[list[Record], float]]) -> list[Record]:
    """Return the records of trials whose networks several jobs of `evaluate` trained."""
    ends, seconds = zip(*parts, strict=True)
    share, records = sum(seconds) / len(ends[0]), []
    for parts_of_trial in zip(*ends, strict=True):
        failed = [record for record in parts_of_trial if record["status"] != "ok"]
        scores = [score for record in parts_of_trial for score in record["scores"]]
        records += failed[:1] or [{**parts_of_trial[0], "scores": scores, "seconds": share}]
    return records


@job
def find_length(
    context: Context,
    configuration: Configuration,
    weights: Weights,
    converged: Converged,
    path: Path,
) -> Path:
    """Search for the steps after which a training on all data has converged; write them as JSON.

    The search uses seed 0 and trains without the held-out images. The file holds `steps`; `capped`,
    whether the limit `converged.passes` ended the search; and `tried`, a list of steps and the
    cross-entropy on held-out images (null: diverged).
    """

    def find() -> bytes:
        dataset, network = open_data(context, configuration)
        real, recipe = dataset.train, configuration.recipe
        is_held_out = hold_out(real.labels.cpu(), converged.held_out).to(context.device)
        parts = is_held_out, ~is_held_out
        test, rest = (real.subset(part.nonzero().flatten()) for part in parts)
        theta = _initial(context, network, configuration, (0, 0), weights[0])
        teacher = _teacher(context, configuration, weights[1])

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
    same_steps: Path | None,
    probe: int,
) -> Path:
    """Train a network on all data and write its record, unless the record exists.

    For a converged network, length is the file of `find_length`, and same_steps the record of the
    network of the same steps.
    """
    steps = {"steps": configuration.recipe.steps, "capped": False}
    if length:
        search = read_json(length, names=("steps", "capped"))
        steps = {name: search[name] for name in steps}
    with locked(wanted.path):
        if stands(wanted.path, wanted.observed):
            return wanted.path
        if same_steps and steps["steps"] == configuration.recipe.steps:  # the same training
            record = read_record(same_steps)
        else:
            try:
                longer = configuration.replace(steps=steps["steps"])
                record = success([_trained(context, longer, wanted, weights, probe)])
            except UnfitWorkerError:
                raise
            except Exception as error:  # a network of an extension may raise anything
                record = failure(error)
        write_record(wanted.path, record | steps)
    return wanted.path


def _trained(
    context: Context,
    configuration: Configuration,
    wanted: Reference,
    weights: Weights,
    probe: int,
) -> Score:
    dataset, network = open_data(context, configuration)
    recipe, stream = configuration.recipe, (wanted.seed, 0)
    theta = _initial(context, network, configuration, stream, weights[0])
    teacher = _teacher(context, configuration, weights[1])
    training = dataset.train, dataset.test, recipe, stream, probe, teacher
    theta, observed = train_and_observe(network, theta, *training)
    result = final(score(network, theta, dataset.test), recipe)
    if wanted.observed:
        write_atomically(wanted.observed, observed)
    return result


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
