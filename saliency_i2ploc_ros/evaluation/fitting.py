"""Fits the numbers of a `Calibration`, and says what probabilities are worth."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from ..errors import InputError
from ..localization.calibration import Logistic, Power

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RIDGE = 1.0  # prior precision of a weight of standardised evidence: that of one image, about
MOST_POWER = 2.0
MOST_GROWTH = 0.5
# What power and growth are taken for before any fix is seen: mean and standard deviation.
LIKELY_POWER, LIKELY_GROWTH = (1.0, 0.5), (0.0, 0.1)
FEWEST_FIXES = 10  # right ones that a standard deviation is learned from
LEAST_SIGMA = 1e-4  # metres or radians: what a law makes of errors that are all zero
BINS = 10
HONEST_DRAWS = 200


def fit_logistic(evidence: Array, right: Flags, importance: ArrayLike | None = None) -> Logistic:
    """
    Return the logistic regression of maximum a posteriori probability.

    evidence: (n, 5); right: (n,); importance: (n,) of each, None: all alike. The evidence is
    standardised, and its weights have a standard normal prior, which decides nothing once there
    are some hundred images. Images that are all right, or all wrong, are an InputError.
    """
    if right.all() or not right.any():
        raise InputError(f'all of the {len(right)} answers are '
                         f'{"right" if right.all() else "wrong"}: nothing can be learned from '
                         'that, give other drives')
    n = np.ones(len(right)) if importance is None else np.asarray(importance, np.float64)
    mean = np.average(evidence, axis=0, weights=n)
    scale = np.sqrt(np.average((evidence - mean) ** 2, axis=0, weights=n))
    scale = np.where(scale > 1e-9, scale, 1.0)  # of what never varies
    x = np.column_stack([(evidence - mean) / scale, np.ones(len(right))])

    def loss(w: Array) -> tuple[float, Array]:
        z = x @ w
        prior = 0.5 * RIDGE * float(w[:-1] @ w[:-1])
        value = float(n @ (np.logaddexp(0.0, z) - right * z)) + prior
        return value, x.T @ (n * (expit(z) - right)) + RIDGE * np.append(w[:-1], 0.0)

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method='L-BFGS-B').x
    weights = found[:-1] / scale
    return Logistic(weights=tuple(weights.tolist()), bias=float(found[-1] - weights @ mean))


def fit_power(spread: Array, doubt: Array, error: Array, floor: float) -> Power:
    """
    Return the standard deviation's law that makes the errors likeliest, were they Gaussian.

    spread, error: (n,) of right fixes, in one unit; doubt: (n,), see `spread_of`. floor: the
    spread of an answer whose places all agree. Power and growth have a prior, which decides
    nothing once there are some hundred fixes. The ANEES over these errors is 1 by the first
    condition of the maximum. Fewer than `FEWEST_FIXES` errors are an InputError.
    """
    if len(error) < FEWEST_FIXES:
        raise InputError(f'only {len(error)} answers are right, and at least {FEWEST_FIXES} are '
                         'needed to learn a covariance: give more drives, or a better model')
    x = np.column_stack([np.ones(len(error)), 0.5 * np.log(spread ** 2 + floor ** 2), doubt])

    likely, width = np.array([(0.0, np.inf), LIKELY_POWER, LIKELY_GROWTH]).T

    def loss(w: Array) -> tuple[float, Array]:
        log_sigma = x @ w
        square = error ** 2 * np.exp(-2.0 * log_sigma)
        off = (w - likely) / width
        return (float((log_sigma + 0.5 * square).sum() + 0.5 * off @ off) / len(error),
                (x.T @ (1.0 - square) + off / width) / len(error))

    start = np.log(max(np.sqrt((error ** 2).mean()), LEAST_SIGMA)) - x[:, 1].mean()
    # Errors that are all zero would have no maximum without the first bound.
    bounds = [(start - 20.0, None), (0.0, MOST_POWER), (0.0, MOST_GROWTH)]
    found = minimize(loss, [start, 1.0, 0.0], jac=True, method='L-BFGS-B', bounds=bounds).x
    return Power(scale=float(np.exp(found[0])), floor=floor, power=float(found[1]),
                 growth=float(found[2]))


def fit_nothing(scores: Array, near: Flags, chance: Array, temperature: float) -> float:
    """
    Return the share of images that say nothing of where they are, by maximum likelihood.

    scores: (n, k) of the retrieved places. near: (n, k) which of them are where the image
    was taken. chance: (n,) the share of all places that is there. An image is either one whose
    place is drawn by the weights of its scores, or one that might be of any place. Images taken
    where the map has no place (chance 0) say nothing of this and are left out.
    """
    there = chance > 0.0
    weights = np.exp((scores[there] - scores[there, :1]) / temperature)
    weights /= weights.sum(1, keepdims=True)
    drawn = (weights * near[there]).sum(1)
    shares = np.exp(np.linspace(np.log(1e-4), np.log(0.9), 200))
    likelihood = [np.log((1.0 - share) * drawn + share * chance[there]).sum() for share in shares]
    return float(shares[int(np.argmax(likelihood))])


def trust_figures(
    probability: Array, right: Flags, importance: ArrayLike | None = None,
) -> dict[str, float]:
    """
    Return what probabilities (n,) of being right are worth.

    brier: mean squared error. ece: expected calibration error, the mean over ten groups of equal
    size of |mean probability - share that is right| (Guo et al., 2017; equal groups, since most
    probabilities are near 1). importance: (n,) of each, None: all alike.
    """
    n = np.ones(len(right)) if importance is None else np.asarray(importance, np.float64)
    p, share, count = reliability(probability, right, n)
    return {'right': float(n @ right / n.sum()),
            'brier': float(n @ (probability - right) ** 2 / n.sum()),
            'ece': float(np.abs(p - share) @ count / n.sum())}


def reliability(
    probability: Array, right: Flags, importance: Array | None = None, bins: int = BINS,
) -> tuple[Array, Array, Array]:
    """
    Return mean probability, share that is right and importance of groups of equal importance.

    Each (groups,), by rising probability; `bins` groups, or fewer of fewer images.
    """
    n = np.ones(len(right)) if importance is None else importance
    order = np.argsort(probability, kind='stable')
    middle = np.cumsum(n[order]) - 0.5 * n[order]
    group = np.minimum((bins * middle / n.sum()).astype(np.int64), bins - 1)
    total, p, share = (np.bincount(group, n[order] * values[order], bins).astype(np.float64)
                       for values in (np.ones(len(n)), probability, right))
    filled = total > 0.0
    return p[filled] / total[filled], share[filled] / total[filled], total[filled]


def honest_ece(
    probability: Array, importance: ArrayLike | None = None, seed: int = 0,
) -> tuple[float, float]:
    """
    Return mean and 97.5 % quantile of the ECE of probabilities that hold exactly what they say.

    It is not 0, since shares of few images vary. Images are drawn one by one: neighbours that are
    right or wrong together make it larger still.
    """
    rng = np.random.default_rng(seed)
    drawn = [trust_figures(probability, rng.random(len(probability)) < probability,
                           importance)['ece'] for _ in range(HONEST_DRAWS)]
    return float(np.mean(drawn)), float(np.quantile(drawn, 0.975))


def risk_coverage(
    probability: Array, right: Flags, importance: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """
    Return thresholds, shares accepted at or above them, and the share of these that is wrong.

    Each (distinct probabilities,), the highest first: equal probabilities are accepted together or
    not at all. importance: (n,) of each, None: all alike.
    """
    order = np.argsort(-probability, kind='stable')
    n = (np.ones(len(right)) if importance is None else np.asarray(importance, np.float64))[order]
    accepted = np.cumsum(n)
    wrong = np.cumsum(n * ~right[order]) / accepted
    last = np.append(np.diff(probability[order]) != 0.0, True)
    return probability[order][last], accepted[last] / accepted[-1], wrong[last]


def availability(
    probability: Array, right: Flags, rate: float, importance: ArrayLike | None = None,
) -> tuple[float, float]:
    """
    Return the largest share accepted with at most `rate` of it wrong, and its threshold.

    Where no threshold keeps the rate, nothing is accepted: 0 and infinity, since answers may have
    a probability of 1.
    """
    threshold, share, wrong = risk_coverage(probability, right, importance)
    fit = np.flatnonzero(wrong <= rate)
    return (float(share[fit[-1]]), float(threshold[fit[-1]])) if len(fit) else (0.0, math.inf)


def auroc(score: ArrayLike, positive: Flags) -> float:
    """Return the chance that a positive has a higher score than a negative; ties count half."""
    many = int(positive.sum())
    few = len(positive) - many
    if many == 0 or few == 0:
        return float('nan')
    ranks = rankdata(score)
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * few))


def effective_size(values: Array, lags: int = 50) -> float:
    """
    Return how many independent values a sequence (n,) is worth, for the error of its mean.

    n / (1 + 2 sum of autocorrelations), summed up to the first that is not positive (after Geyer,
    1992), and up to `lags` at most.
    """
    n = len(values)
    x = values - values.mean() if n else values
    if n < 3 or not x.any():
        return float(n)
    variance, total = float((x ** 2).mean()), 0.0
    for lag in range(1, min(lags, n - 2) + 1):
        rho = float((x[:-lag] * x[lag:]).sum()) / (n * variance)
        if rho <= 0.0:
            break
        total += rho
    return n / (1.0 + 2.0 * total)
