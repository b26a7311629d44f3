"""The coverage law in a controlled family: sampled, sent through a channel, optimised freely.

Configurations are unit vectors u_c, and gap_c(S) = |<u_c, mean(S) - mean(D)>|; the last part takes
features phi_c in the place of <u_c, x>. The family's geometry is then known, and so are covers.

Letters: M configurations, N of them distinct, W worlds (possible data sets), k samples of S, B
nats a sample may carry, q = e^B symbols of an alphabet, d dimensions.
"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, optimize, special, stats
from threadpoolctl import threadpool_limits

from ddlib.stats.intervals import Interval

DISTILLERS = ("samples", "herding", "every choice", "best alphabet", "free decoder")
COPIES, ANGLES = 8, (5, 20)  # of the families with near duplicates; degrees
NOISY = ("mean", "best mean", "free decoder")
Features = Callable[[np.ndarray], np.ndarray]  # of points (n, d): phi (n, M)
APART = 2.01  # between worlds, in epsilons: more than 2, so that no S serves two of them
CLOSE = 1e-7  # gaps below this count as none


class Line(NamedTuple):
    """A straight line through seeds' curves: slope with its 95 % interval over seeds, R^2."""

    slope: Interval
    r2: float


def expected_maximum(count: int) -> float:
    """Return E max |Z_i| of N independent standard normal Z_i: the integral of 1 - P(all < x)."""
    tail = integrate.quad(lambda x: 1 - special.erf(x / np.sqrt(2)) ** count, 0, 40, limit=200)
    return float(tail[0])


def union_bound(count: np.ndarray | int, k: np.ndarray | float, sigma: float = 1.0) -> np.ndarray:
    """Return sigma sqrt(2 ln(2N) / k), above the mean worst gap of N members (statement 12)."""
    return sigma * np.sqrt(2 * np.log(2 * np.asarray(count, dtype=float)) / k)


def cover_bound(
    count: int, members: int, radius: float, k: np.ndarray | float, sigma: float = 1.0
) -> np.ndarray:
    """Return the bound for M members that N balls of this radius cover (statement 13).

    sigma (sqrt(2 ln(2N)) + radius sqrt(2 ln(2M))) / sqrt(k): the worst centre, and how far the
    worst member may be from its own.
    """
    return union_bound(count, k, sigma) + radius * union_bound(members, k, sigma)


def sample_size(worst: np.ndarray | float, epsilon: float, sigma: float = 1.0) -> np.ndarray:
    """Return k*, as a real number, where the mean worst gap is sigma worst / sqrt(k)."""
    return (sigma * np.asarray(worst) / epsilon) ** 2


def simulate_worst(
    counts: Sequence[int],
    draws: int,
    seeds: int,
    generator: np.random.Generator,
    copies: int = 1,
    angle: float = 0.0,
) -> pd.DataFrame:
    """Simulate the mean worst gap of sampled S, at sigma = k = 1, for families of many sizes.

    A family has N orthonormal centres and `copies` members around each, at `angle` (radians) from
    it in directions of their own; angle 0 makes them duplicates. Columns count (N), members (M =
    N copies), seed, worst (the mean over draws). The mean of k Gaussian samples is Gaussian, so
    one draw stands for all k: divide by sqrt(k).
    """
    rows = []
    for count in counts:
        for seed in range(seeds):
            centres = generator.normal(size=(draws, count, 1))
            own = generator.normal(size=(draws, count, copies)) if angle else 0.0
            worst = np.abs(np.cos(angle) * centres + np.sin(angle) * own).max(axis=(1, 2))
            rows.append((count, count * copies, seed, worst.mean()))
    return pd.DataFrame(rows, columns=["count", "members", "seed", "worst"])


def fit_line(x: np.ndarray, curves: np.ndarray) -> Line:
    """Fit a line to each seed's curve (seeds, n) at x (n,); R^2 is that of the mean curve."""
    slopes = np.polyfit(x, curves.T, 1)[0]
    half = stats.t.ppf(0.975, len(slopes) - 1) * stats.sem(slopes)
    mean = float(slopes.mean())
    r2 = float(np.corrcoef(x, curves.mean(axis=0))[0, 1] ** 2)
    return Line(Interval(mean, mean - half, mean + half), r2)


def slopes(table: pd.DataFrame) -> tuple[Line, tuple[Line, Line], float]:
    """Return k*'s line in ln N over all families, those over either half of them, and a ratio.

    table: as `simulate_worst` returns it. k* is in units of sigma^2 / epsilon^2; the ratio is the
    largest mean worst gap over its union bound.
    """
    worst = table.pivot(index="seed", columns="count", values="worst")
    x, stars = np.log(worst.columns.to_numpy(float)), sample_size(worst.to_numpy(), 1.0)
    parts = slice(len(x) // 2 + 1), slice(len(x) // 2, None)
    halves = tuple(fit_line(x[part], stars[:, part]) for part in parts)
    ratio = worst.mean() / union_bound(worst.columns.to_numpy(float), 1)
    return fit_line(x, stars), halves, float(ratio.max())


def sampled_sizes(counts: Sequence[int], draws: int, seeds: int) -> pd.DataFrame:
    """Tabulate k* of sampled S against ln M: columns x, k_star (sigma^2 / epsilon^2), line.

    Families of M independent directions, and of N = M / COPIES with COPIES members each:
    duplicates, and near duplicates at ANGLES; beside them the union bound of M, and for near
    duplicates that of statement 13.
    """
    counts = np.array(counts)
    fewer = counts[counts >= 2 * COPIES] // COPIES
    kinds = {
        "independent": (counts, 1, 0.0),
        "duplicates": (fewer, COPIES, 0.0),
        **{f"{angle}° apart": (fewer, COPIES, np.deg2rad(angle)) for angle in ANGLES},
    }
    worst = {}
    for line, (sizes, copies, angle) in kinds.items():
        found = simulate_worst(sizes, draws, seeds, np.random.default_rng(0), copies, angle)
        worst[line] = found.groupby("members")["worst"].mean()
    worst["union bound of M"] = pd.Series(union_bound(counts, 1), counts)
    for angle in ANGLES:
        radius, members = 2 * np.sin(np.deg2rad(angle) / 2), fewer * COPIES
        bound = cover_bound(fewer, members, radius, 1)
        worst[f"statement 13 at {angle}°"] = pd.Series(bound, members)
    table = pd.concat(worst, names=["line", "x"]).rename("k_star").reset_index()
    return table.assign(x=np.log(table["x"]), k_star=sample_size(table["k_star"], 1.0))


def fano_success(k: np.ndarray | int, worlds: int, nats: float) -> np.ndarray:
    """Return the most worlds, as a share, that k samples of B nats can serve: Fano's inequality.

    (k B + ln 2) / ln W (statement 14); at most 1.
    """
    return np.minimum(1.0, (np.asarray(k) * nats + np.log(2)) / np.log(worlds))


def fano_size(success: float, worlds: int, nats: float) -> float:
    """Return the k that Fano's inequality asks for: (success ln W - ln 2) / B."""
    return (success * np.log(worlds) - np.log(2)) / nats


def counting_success(k: np.ndarray | int, worlds: int, alphabet: int) -> np.ndarray:
    """Return q^k / W, at most 1: k symbols have no more than q^k messages (statement 15)."""
    return np.minimum(1.0, float(alphabet) ** np.asarray(k) / worlds)


def separated_worlds(count: int, epsilon: float) -> np.ndarray:
    """Return W means (W, W) that no one S can serve in pairs: APART epsilon along each direction.

    The family is the W directions themselves, so worlds differ by more than 2 epsilon in some gap.
    """
    return APART * epsilon * np.eye(count)


def served(means: np.ndarray, worlds: np.ndarray, epsilon: float) -> np.ndarray:
    """Return which worlds (W,) their means (W, d) serve: all coordinates within epsilon."""
    return (np.abs(means - worlds) <= epsilon).all(axis=1)


def quantised_success(
    distiller: str,
    worlds: np.ndarray,
    epsilon: float,
    k: int,
    alphabet: int,
    generator: np.random.Generator,
) -> float:
    """Return the share of worlds that a distiller serves with k symbols of an alphabet of q.

    The symbols are q points, fixed before the world is known: the first q worlds; "best
    alphabet" optimises them. samples: symbols
    drawn as D would be, at random among those nearest to it; herding: greedily nearest mean;
    every choice: the best of all multisets; free decoder: S spells the number of the world, and
    the reader knows the code. Raises ValueError for an unknown distiller.
    """
    if distiller not in DISTILLERS:
        raise ValueError(f"{distiller!r} is no distiller; choose from {', '.join(DISTILLERS)}")
    if distiller == "free decoder":
        return float(counting_success(k, len(worlds), alphabet))
    if distiller == "best alphabet":
        return _best_alphabet(worlds, epsilon, k, alphabet, generator)
    points = worlds[:alphabet]
    if distiller == "every choice":
        worst = _worst_gaps(_shares(k, alphabet), points, worlds)
        return float((worst.min(axis=0) <= epsilon).mean())
    if distiller == "samples":
        noisy = worlds[:, None] + epsilon * generator.normal(size=(len(worlds), k, len(worlds)))
        apart = ((noisy[:, :, None] - points) ** 2).sum(axis=-1)
        return float(served(points[apart.argmin(axis=-1)].mean(axis=1), worlds, epsilon).mean())
    total = np.zeros_like(worlds)
    for taken in range(1, k + 1):
        options = (total[:, None] + points) / taken
        best = ((options - worlds[:, None]) ** 2).sum(axis=-1).argmin(axis=1)
        total += points[best]
    return float(served(total / k, worlds, epsilon).mean())


def _shares(k: int, alphabet: int) -> np.ndarray:
    """Return every multiset of k of q symbols, as the share (multisets, q) of each symbol."""
    chosen = combinations_with_replacement(range(alphabet), k)
    return np.array([np.bincount(each, minlength=alphabet) for each in chosen]) / k


def _worst_gaps(shares: np.ndarray, points: np.ndarray, worlds: np.ndarray) -> np.ndarray:
    """Return the worst gap (multisets, W) of every multiset of points (q, d) in worlds (W, d)."""
    return np.abs((shares @ points)[:, None] - worlds).max(axis=-1)


@threadpool_limits.wrap(limits=1)
def _best_alphabet(worlds, epsilon: float, k: int, alphabet: int, generator) -> float:
    """Return what alphabets reach that are optimised directly, from a few first ones.

    In turn: every world takes the multiset that is nearest, and the points move, by L-BFGS, to
    lower the squared excess of gaps over epsilon. The best share on the way counts.
    """
    shares, best = _shares(k, alphabet), 0.0
    for attempt in range(4):
        points = worlds[generator.choice(len(worlds), alphabet, replace=False)]
        points = points + attempt * epsilon * generator.normal(size=points.shape)
        for _ in range(5):
            worst = _worst_gaps(shares, points, worlds)
            best = max(best, float((worst.min(axis=0) <= epsilon).mean()))
            weights = shares[worst.argmin(axis=0)]
            aims = (weights, worlds, 0.99 * epsilon)
            found = optimize.minimize(_excess, points.ravel(), aims, method="L-BFGS-B", jac=True)
            points = found.x.reshape(points.shape)
    return best


def _excess(flat, weights, worlds, epsilon: float) -> tuple[float, np.ndarray]:
    """Return the summed squares by which gaps exceed epsilon, and their slope by the points."""
    missed = weights @ flat.reshape(weights.shape[1], -1) - worlds
    over = np.sign(missed) * np.maximum(np.abs(missed) - epsilon, 0)
    return (over**2).sum(), 2 * (weights.T @ over).ravel()


def noisy_nats(power: float, noise: float) -> float:
    """Return B of a sample x + N(0, noise^2 I) with |x|^2 <= power: power / (2 noise^2).

    Above the channel's capacity d/2 ln(1 + power / (d noise^2)), whatever d.
    """
    return power / (2 * noise**2)


def noisy_success(
    distiller: str, worlds: int, epsilon: float, k: np.ndarray | int, noise: float
) -> np.ndarray:
    """Return the chance that k noisy samples serve a world of `separated_worlds`, exactly.

    Every sample is x + N(0, noise^2 I), |x| at most the length of a world's mean. mean: x is the
    mean, and the mean of S is taken as it comes; best mean: x = a u_v + b (the other directions)
    with the best a and b; free decoder: the reader takes the direction in which the mean of S is
    largest. Raises ValueError for an unknown distiller.
    """
    if distiller not in NOISY:
        raise ValueError(f"{distiller!r} is no distiller; choose from {', '.join(NOISY)}")
    length, others = APART * epsilon, worlds - 1
    root = np.sqrt(np.asarray(k, dtype=float)) / noise
    if distiller == "free decoder":
        z = np.linspace(-9, 9, 2001)
        chance = stats.norm.pdf(z) * special.ndtr(z + length * root[..., None]) ** others
        return integrate.trapezoid(chance, z, axis=-1)

    def chance(own, other):
        inside = special.ndtr((length + epsilon - own) * root)
        inside -= special.ndtr((length - epsilon - own) * root)
        near = special.ndtr((epsilon - other) * root) - special.ndtr((-epsilon - other) * root)
        return inside * near**others

    if distiller == "mean":
        return chance(length, 0.0)
    tried = []
    for own in np.linspace(0, length, 21):
        rest = np.sqrt((length**2 - own**2) / max(others, 1))
        tried += [chance(own, share * rest) for share in np.linspace(-1, 1, 11)]
    return np.max(tried, axis=0)


def channel_table(
    worlds: int, epsilon: float, alphabets: Sequence[int], noise: float, largest: int
) -> pd.DataFrame:
    """Tabulate what every distiller reaches in every channel: channel, line, k, success, bound.

    alphabets: sizes q of quantised channels, for k from 1 to where q^k holds all worlds, but no
    more than 4; noise: that of the noisy channel, for 15 k up to `largest`.
    """
    rows, means = [], separated_worlds(worlds, epsilon)
    for alphabet in alphabets:
        channel, nats = f"{alphabet} symbols", np.log(alphabet)
        enough = int(np.ceil(np.log(worlds) / nats - 1e-9))
        for line in DISTILLERS:
            generator = np.random.default_rng(0)
            for k in range(1, min(enough, 4) + 1):
                success = quantised_success(line, means, epsilon, k, alphabet, generator)
                rows.append((channel, line, k, success, float(fano_success(k, worlds, nats))))
    ks = np.unique(np.geomspace(1, largest, 15).round().astype(int))
    bound = fano_success(ks, worlds, noisy_nats((APART * epsilon) ** 2, noise))
    for line in NOISY:
        success = noisy_success(line, worlds, epsilon, ks, noise)
        rows += [("noise", line, *row) for row in zip(ks, success, bound, strict=True)]
    return pd.DataFrame(rows, columns=["channel", "line", "k", "success", "bound"])


def channel_sizes(counts: Sequence[int], success: float = 0.5) -> pd.DataFrame:
    """Tabulate k for a chance of `success` in the noisy channel: x (ln W), k_star, line.

    k is in units of noise^2 / epsilon^2, so the noise is 1 and k runs over a grid of reals.
    """
    ks, nats = np.geomspace(0.02, 200, 400), noisy_nats(APART**2, 1.0)
    table = pd.DataFrame({"x": np.log(np.asarray(counts, dtype=float))})
    for line in ("mean", "free decoder"):
        reached = [noisy_success(line, int(count), 1.0, ks, 1.0) >= success for count in counts]
        table[line] = [float(ks[each.argmax()]) for each in reached]
    table["Fano's bound"] = [max(fano_size(success, int(count), nats), 0.0) for count in counts]
    return table.melt("x", var_name="line", value_name="k_star")


def draw_family(kind: str, count: int, width: int, generator: np.random.Generator) -> Features:
    """Draw M features in d dimensions: "linear" u'x, "quadratic" (u'x)^2, or "network".

    A network has one hidden layer of 4 tanh units: sum_h outer_h tanh(weights_h'x + shifts_h).
    Raises ValueError for another kind.
    """
    kinds = {"linear": 1, "quadratic": 1, "network": 4}  # hidden units
    if kind not in kinds:
        raise ValueError(f"{kind!r} is no family; choose from {', '.join(kinds)}")
    weights = generator.normal(size=(count, kinds[kind], width))
    weights /= np.linalg.norm(weights, axis=2, keepdims=True)
    if kind != "network":
        power = 1 if kind == "linear" else 2
        return lambda points: (points @ weights[:, 0].T) ** power
    shifts, outer = generator.normal(size=(2, count, kinds[kind]))

    def network(points: np.ndarray) -> np.ndarray:
        inside = np.einsum("chd,nd->nch", 1.5 * weights, points) + shifts
        return np.einsum("ch,nch->nc", outer, np.tanh(inside))

    return network


def slopes_of(features: Features, points: np.ndarray) -> np.ndarray:
    """Return the derivatives (n, M, d) of features by points (n, d): complex steps, to rounding.

    Source: Squire & Trapp, SIAM Review 40, 1998. A feature of a point depends on no other point.
    """
    steps = 1e-30j * np.eye(points.shape[1])
    moved = (points[:, None] + steps).reshape(-1, len(steps))
    found = features(moved).imag.reshape(*points.shape, -1) / 1e-30  # (n, d, M)
    return found.swapaxes(1, 2)


def rank(features: Features, points: np.ndarray) -> int:
    """Return the rank of the family's kernel: of its centred features at points (n, d)."""
    values = features(points)
    return int(np.linalg.matrix_rank(values - values.mean(axis=0), tol=1e-8 * len(points)))


@threadpool_limits.wrap(limits=1)  # threads that wait for each other make small matrices slow
def least_size(
    features: Features, real: np.ndarray, generator: np.random.Generator, attempts: int = 6
) -> int:
    """Return the least k for which optimised points in R^d leave every gap below CLOSE.

    real: D (n, d). Gauss-Newton with a trust region from `attempts` starts at each k, real points
    first. An upper estimate: a k is passed over where all attempts fail. Raises ValueError where
    even rank + 1 points, which Caratheodory's theorem would let suffice with weights, are not
    found within twice that number.
    """
    target, width = features(real).mean(axis=0), real.shape[1]

    def missed(flat):
        return features(flat.reshape(-1, width)).mean(axis=0) - target

    def slopes(flat):
        found = slopes_of(features, flat.reshape(-1, width))
        return found.transpose(1, 0, 2).reshape(len(target), -1) / len(found)

    largest = 2 * (rank(features, real) + 1)
    for k in range(1, largest + 1):
        for _ in range(attempts):
            start = real[generator.choice(len(real), k, replace=False)].ravel()
            found = optimize.least_squares(
                missed, start, slopes, xtol=1e-15, ftol=1e-15, gtol=1e-15
            )
            if np.abs(found.fun).max() < CLOSE:
                return k
    raise ValueError(f"no {largest} points match D for all configurations; allow more attempts")


def optimised_sizes(
    kinds: Sequence[str], counts: Sequence[int], width: int, seeds: int
) -> pd.DataFrame:
    """Tabulate k* of optimised S: kind, count (M), seed, rank, k_star."""
    rows = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        real = generator.normal(size=(200, width))
        for kind in kinds:
            whole = draw_family(kind, max(counts), width, generator)
            for count in counts:
                family = _first(whole, count)
                size = least_size(family, real, generator)
                rows.append((kind, count, seed, rank(family, real), size))
    return pd.DataFrame(rows, columns=["kind", "count", "seed", "rank", "k_star"])


def _first(features: Features, count: int) -> Features:
    return lambda points: features(points)[:, :count]
