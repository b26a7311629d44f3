"""What workers do for a study: jobs that make files, and return little.

A job may run twice, on any worker, since Dask repeats those of a worker that died: it looks for
its file first, and writes it whole or not at all.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

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
from ddlib.training.loop import Score, final, passes, score, train_and_score
from ddlib.training.recipe import Converged, hold_out, search_length
from ddlib.training.together import train_and_score_all

Record = dict[str, Any]  # how a trial ended, see `ddlib.study.store`


@job
def prepare(context: Context, method: str, plain: dict[str, Any], path: Path) -> Path:
    """Make a file of `METHODS[method].preparation`, which all sizes and seeds share."""
    make = METHODS[method].preparation.make
    return _make(context, path, lambda: make(*open_data(context), plain))


@job
def pretrain(context: Context, configuration: Configuration, path: Path) -> Path:
    """Make the pretrained body that a configuration starts from."""
    return _make(context, path, lambda: pretraining.pretrain(open_data(context)[0], configuration))


def _make(context: Context, path: Path, make: Callable[[], bytes]) -> Path:
    """Write what `make` returns, and the seconds that it took, unless the file is there."""
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
    """Distil the sets of trials, of one seed, in one call; return how those ended that failed.

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
    except Exception as error:  # of a method: any
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
    """Return the set that a method made for a trial; raise what it gave in its place."""
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, DistilledSet):  # of a variant of a method
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
    body: Path | None,
    failed: Sequence[dict[Path, Record]],
) -> tuple[list[Record], float]:
    """Train the networks `numbers` on the set of each trial; return how each ended, and seconds.

    trials: of one size and configuration; body: the file of the pretrained body that it starts
    from, if any; failed: what each `distil` returned that makes one of the sets.
    """
    dataset, network = open_data(context, configuration)
    reasons = {path: record for records in failed for path, record in records.items()}
    start, sets = seconds(context), {}
    for trial in trials:
        if trial.set_path not in reasons:
            synthetic = load_distilled(trial.set_path)
            tensors = synthetic.images, synthetic.labels
            sets[trial] = tuple(tensor.to(context.device) for tensor in tensors)
    ends = {trial: reasons.get(trial.set_path) for trial in trials}
    if sets:
        streams = [(trial.seed, number) for trial in sets for number in numbers]
        thetas = [_initial(context, network, configuration, stream, body) for stream in streams]
        repeated = [sets[trial] for trial in sets for _ in numbers]
        training = repeated, dataset.test, configuration.recipe, streams, thetas
        scores = iter(train_and_score_all(network, *training))
        ends |= {trial: _ended([next(scores) for _ in numbers]) for trial in sets}
    return list(ends.values()), seconds(context) - start


def _ended(scores: Sequence[Score | DivergedError]) -> Record:
    """Return how a trial ended: well, unless one of its networks diverged."""
    errors = [error for error in scores if isinstance(error, DivergedError)]
    return failure(errors[0]) if errors else success(scores)


def join(parts: Sequence[tuple[list[Record], float]]) -> list[Record]:
    """Return the records of trials whose networks were trained in several jobs of `evaluate`."""
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
    body: Path | None,
    converged: Converged,
    path: Path,
) -> Path:
    """Find the steps after which a training on all data has converged; the file is JSON.

    steps; capped, whether `converged.passes` and not the risk ended the search; tried, a list of
    steps and the cross-entropy on images held out (null: diverged). Seed 0 is trained, on the rest
    of the training set.
    """

    def find() -> bytes:
        dataset, network = open_data(context, configuration)
        real, recipe = dataset.train, configuration.recipe
        held = hold_out(real.labels.cpu(), converged.held_out).to(context.device)
        test, rest = (real.subset(part.nonzero().flatten()) for part in (held, ~held))
        theta = _initial(context, network, configuration, (0, 0), body)

        def risk(steps: int) -> float:
            shorter = recipe.replace(steps=steps)
            training = rest.images, rest.labels, test, shorter, (0, 0), theta
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
    body: Path | None,
    length: Path | None,
    same_steps: Path | None,
    probe: int,
) -> Path:
    """Train a network on all data, and record how it ended, unless that is known.

    length: the file of `find_length`, and same_steps: the record of the network of the same steps,
    for one that is to converge.
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
                record = success([_trained(context, longer, wanted, body, probe)])
            except UnfitWorkerError:
                raise
            except Exception as error:  # of a network of one's own: any
                record = failure(error)
        write_record(wanted.path, record | steps)
    return wanted.path


def _trained(
    context: Context,
    configuration: Configuration,
    wanted: Reference,
    body: Path | None,
    probe: int,
) -> Score:
    dataset, network = open_data(context, configuration)
    recipe, stream = configuration.recipe, (wanted.seed, 0)
    theta = _initial(context, network, configuration, stream, body)
    training = dataset.train, dataset.test, recipe, stream, probe
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
