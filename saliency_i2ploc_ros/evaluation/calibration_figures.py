"""
What a calibration is worth: each image is judged by one that it did not teach.

With two sites or more, an image is judged by what the others taught: answers that share neither
its map nor, of an image from elsewhere, the site where it was taken. With one map, by halves of
the way. What is handed on at the end is taught by all of them, and should be no worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ..errors import InputError
from ..localization.calibration import Calibration
from .calibrating import Answers, Array, Flags
from .fitting import auroc, availability, effective_size, honest_ece, trust_figures
from .page import Interval
from .recall import block_bootstrap_of

RATES = (0.01, 0.02, 0.05)
RATE = RATES[0]  # that a threshold is learned for on some sites and tried on another
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
AXES = ('along', 'across', 'heading', 'x', 'y')  # the heading's error is yaw's
SIGMAS = (1, 2, 3)

Fit = Callable[[Sequence[Answers]], Calibration]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """
    Images that were judged, N of them: of each drive in its own map, and from elsewhere.

    site: whose map. drive, block: numbers of the drive and of a stretch of its way. inside:
    whether taken in that map; what follows is NaN or False where not. right. in_map: probability
    that it is right, were it from inside for certain. belongs: that it is from inside, were that
    as likely as not. probability: the same with a share `outside`
    from elsewhere. passed: whether that is above what the teaching images needed for `RATE`.
    error, sigma: (N, 5) errors and standard deviations in the order of `AXES`.
    """

    site: NDArray[np.str_]
    drive: Indices
    block: Indices
    inside: Flags
    right: Flags
    in_map: Array
    belongs: Array
    probability: Array
    passed: Flags
    error: Array
    sigma: Array

    def __len__(self) -> int:
        return len(self.site)

    def of(self, rows: Any) -> Judged:
        """Return some of the images, by indices or flags."""
        return Judged(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def nees(self) -> Array:
        """Return e^T P^-1 e / 3 of x, y and yaw (N,); P is diagonal along, across, heading."""
        return np.asarray(((self.error[:, :3] / self.sigma[:, :3]) ** 2).mean(1))

    def importance(self, outside: float) -> Array:
        """Return weights (N,) under which a share `outside` of the images is from elsewhere."""
        there = int(self.inside.sum())
        others = len(self) - there
        each = there * outside / ((1.0 - outside) * others) if others else 0.0
        return np.where(self.inside, 1.0, each)


def judge(answers: Sequence[Answers], fit: Fit, outside: float) -> Judged:
    """
    Return every image judged by a calibration that it did not teach; see the module.

    fit: makes a calibration of answers. Images from elsewhere that no calibration could judge are
    left out, also where sites teach too little without two of them. Where they do without one, it
    is an InputError.
    """
    maps = sorted({each.map for each in answers if each.inside})
    asked = list(answers) if len(maps) > 1 else _halves(answers)

    @cache
    def without(left_out: frozenset[str]) -> tuple[Calibration, float] | None:
        taught = [each for each in asked if not {each.map, each.taken} & left_out]
        if not any(each.inside for each in taught):
            return None
        try:
            calibration = fit(taught)
        except InputError:
            if len(left_out) > 1:  # asked for images from elsewhere alone
                return None
            raise
        return calibration, threshold_of(calibration, taught, outside, RATE)

    parts = []
    for each in asked:
        found = without(frozenset({each.map, each.taken}))
        if found is not None and (each.inside or found[0].inside is not None):
            parts.append(_judged(each, *found, outside))
    drives = {name: number for number, name in enumerate(sorted({part[1] for part in parts}))}
    rows: list[list[Any]] = [[] for _ in fields(Judged)]
    for site, drive, blocks, *rest in parts:
        number = drives[drive]
        columns = (np.full(len(blocks), site), np.full(len(blocks), number),
                   number * 1_000_000 + blocks, *rest)
        for column, values in zip(rows, columns, strict=True):
            column.append(values)
    return Judged(*(np.concatenate(column) for column in rows))


def _halves(answers: Sequence[Answers]) -> list[Answers]:
    """Return the answers cut in two across the main direction of the way, as if of two maps."""
    result = []
    for taken in sorted({each.taken for each in answers}):
        some = [each for each in answers if each.taken == taken]
        xy = np.concatenate([each.xy for each in some])
        main = np.linalg.svd(xy - xy.mean(0), full_matrices=False)[2][0]
        middle = float(np.median(xy @ main))
        for each in some:
            first = each.xy @ main <= middle
            result += [each.part(rows, half)
                       for half, rows in (('first half', first), ('second half', ~first))
                       if rows.any()]
    return result


def threshold_of(
    calibration: Calibration, answers: Sequence[Answers], outside: float, rate: float,
) -> float:
    """Return the least probability with which at most `rate` of what is accepted is wrong."""
    p = np.concatenate([calibration.probability(each.evidence, outside) for each in answers])
    right = np.concatenate([each.right for each in answers])
    inside = np.repeat([each.inside for each in answers], [len(each) for each in answers])
    others = int((~inside).sum())
    weight = inside.sum() * outside / ((1.0 - outside) * others) if others else 0.0
    return availability(p, right, rate, np.where(inside, 1.0, weight))[1]


def _judged(
    each: Answers, calibration: Calibration, threshold: float, outside: float,
) -> tuple[Any, ...]:
    """Return the fields of `Judged`, its drive by name and its block as in the drive."""
    sigma = calibration.sigma(each.spread)
    c, s = np.cos(each.yaw), np.sin(each.yaw)
    along, across = each.error[:, :2].T
    error = np.column_stack([each.error, c * along - s * across, s * along + c * across])
    variance = sigma ** 2
    x = c ** 2 * variance[:, 0] + s ** 2 * variance[:, 1]
    y = s ** 2 * variance[:, 0] + c ** 2 * variance[:, 1]
    p = calibration.probability(each.evidence, outside)
    belongs = (np.full(len(each), np.nan) if calibration.inside is None
               else calibration.inside(each.evidence))
    return (each.site, each.drive, each.block,
            np.full(len(each), each.inside), each.right, calibration.right(each.evidence),
            belongs, p, p >= threshold, error,
            np.column_stack([sigma, np.sqrt(x), np.sqrt(y)]))


def measures(judged: Judged, outside: float) -> dict[str, float]:
    """
    Return all figures by name, NaN where one cannot be said.

    Of images inside their map: right, brier, ece, auroc, availability at false-fix rates, by the
    probability without an outside. mixed: of all, weighted so that a share `outside` is from
    elsewhere. open_auroc: whether images from inside are told from those from elsewhere;
    open_auroc_right: those answered rightly, by what acceptance goes by. at a threshold: share of
    images from inside accepted, share of what is accepted that is wrong, share of those from
    elsewhere accepted. coverage, anees, errors: of right answers.
    """
    own, others = judged.of(judged.inside), judged.of(~judged.inside)
    n = judged.importance(outside)
    found = trust_figures(own.in_map, own.right)
    found['auroc'] = auroc(own.in_map, own.right)
    for rate in RATES:
        found[f'availability_{rate:g}'] = availability(own.in_map, own.right, rate)[0]
    mixed = trust_figures(judged.probability, judged.right, n)
    found |= {f'mixed_{name}': mixed[name] for name in ('brier', 'ece')}
    for rate in RATES:
        found[f'mixed_availability_{rate:g}'] = availability(
            judged.probability, judged.right, rate, n)[0]
    found['open_auroc'] = auroc(judged.belongs, judged.inside)
    known = judged.of(judged.right | ~judged.inside)
    found['open_auroc_right'] = auroc(known.probability, known.inside)
    for name, accepted in [*((f'at_{t:g}', judged.probability >= t) for t in THRESHOLDS),
                           ('passed', judged.passed)]:
        found[f'{name}_accepted'] = _mean(accepted[judged.inside])
        found[f'{name}_false'] = _mean(~own.right[accepted[judged.inside]])
        found[f'{name}_mixed_false'] = _mean(~judged.right[accepted], n[accepted])
        found[f'{name}_elsewhere'] = _mean(accepted[~judged.inside])
    if not len(others):
        found |= {name: math.nan for name in found if 'mixed' in name or 'elsewhere' in name
                  or 'open' in name}
    for which, rows in (('right', own.right), ('passed', own.right & own.passed)):
        found |= {f'{which}_{name}': value for name, value in _of_right(own.of(rows)).items()}
    return found


def _of_right(fixes: Judged) -> dict[str, float]:
    """Return errors, coverage and ANEES of right answers."""
    distance = np.hypot(fixes.error[:, 0], fixes.error[:, 1])
    turned = np.degrees(np.abs(fixes.error[:, 2]))
    ratio = np.abs(fixes.error) / fixes.sigma
    found = {'error_p50_m': _quantile(distance, 0.5), 'error_p95_m': _quantile(distance, 0.95),
             'heading_p50_deg': _quantile(turned, 0.5), 'heading_p95_deg': _quantile(turned, 0.95),
             'anees': _mean(fixes.nees)}
    for i, axis in enumerate(AXES):
        for k in SIGMAS:
            found[f'coverage_{axis}_{k}'] = _mean(ratio[:, i] <= k)
    return found


def with_intervals(judged: Judged, outside: float, seed: int = 0) -> dict[str, Interval]:
    """Return the measures with 95 % intervals over blocks of 50 m of the way."""
    values = measures(judged, outside)
    low, high = block_bootstrap_of(
        lambda rows: np.array(list(measures(judged.of(rows), outside).values())), judged.block,
        seed=seed)
    return {name: Interval(value, float(a), float(b))
            for (name, value), a, b in zip(values.items(), low, high, strict=True)}


@dataclass(frozen=True)
class Band:
    """Where the ANEES of honest Gaussian covariances lies in 95 % of cases, and why so wide."""

    low: float
    high: float
    effective: float


def anees_band(judged: Judged) -> Band:
    """
    Return the chi-square band of the ANEES of right answers (Bar-Shalom et al., 2001, 5.4).

    N ANEES d is chi-square with N d degrees of freedom, d = 3, for N independent answers;
    neighbours are not: N is the effective size, drive by drive.
    """
    own = judged.of(judged.inside & judged.right)
    effective = sum(effective_size(own.nees[own.drive == drive]) for drive in np.unique(own.drive))
    freedom = 3.0 * max(effective, 1.0)
    low, high = chi2.ppf([0.025, 0.975], freedom) / freedom
    return Band(float(low), float(high), float(effective))


def expected_ece(judged: Judged) -> tuple[float, float]:
    """Return mean and 97.5 % quantile of the ECE of honest probabilities, of as many images."""
    return honest_ece(judged.in_map[judged.inside])


def recommended(answers: Judged, outside: float) -> dict[str, float | None]:
    """Return by false-fix rate the least probability that kept it over all images, or None."""
    n = answers.importance(outside)
    found = {rate: availability(answers.probability, answers.right, rate, n)[1] for rate in RATES}
    return {f'{rate:g}': least if math.isfinite(least) else None for rate, least in found.items()}


def _mean(values: NDArray[Any], importance: Array | None = None) -> float:
    if len(values) == 0:
        return math.nan
    if importance is not None and not importance.any():
        return math.nan
    return float(np.average(values, weights=importance))


def _quantile(values: Array, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else math.nan
