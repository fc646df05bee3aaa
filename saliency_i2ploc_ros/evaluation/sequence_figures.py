"""The figures of runs through a sequence, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .false_fixes import false_runs, most_available, over_thresholds
from .pose_errors import consistency
from .recall import block_bootstrap_of, BLOCK_M
from .summary import CORRECT_M, share, statistics

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Of a drive: stretches of its way come after it.
DRIVE = 1_000_000


@dataclass(frozen=True)
class Run:
    """
    A run through some images: their rows (m,) in order, and what came of them.

    metres, seconds: (m,) since it began. error: (m, 3) of the accepted fixes, x, y, yaw, and
    covariance: (m, 6, 6) of these; NaN where there is none. confidence: (m,) what acceptance went
    by. estimate_m: (m,) how far off that is or would be which was judged so, NaN without. blocks:
    (m,) stretches of the way that the images lie in. since: the figures of a run begin with this
    image. city: by number, of several that are judged together.
    """

    rows: Indices
    metres: Array
    seconds: Array
    error: Array
    covariance: Array
    confidence: Array
    estimate_m: Array
    blocks: Indices
    since: int = 0
    city: int = 0

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Return which images (m,) got a fix."""
        return np.isfinite(self.error[:, 0])

    @property
    def distance(self) -> Array:
        """Return how far each fix is off in the plane, (m,), NaN without."""
        return np.asarray(np.hypot(self.error[:, 0], self.error[:, 1]))

    @property
    def reached(self) -> tuple[float, float]:
        """Return the metres and seconds to the first right fix that counts; infinite without."""
        first = self.first_right()
        if first is None:
            return math.inf, math.inf
        return (float(self.metres[first] - self.metres[self.since]),
                float(self.seconds[first] - self.seconds[self.since]))

    def first_right(self) -> int | None:
        """Return the index of the first right fix that counts; None if none came."""
        found = np.flatnonzero(self.distance[self.since:] <= CORRECT_M)
        return int(found[0]) + self.since if len(found) else None

    def part(self, start: int, end: int | None) -> Run:
        """Return a part of it, as if it had begun there."""
        cut = slice(start, end)
        return Run(self.rows[cut], self.metres[cut] - self.metres[start],
                   self.seconds[cut] - self.seconds[start], self.error[cut], self.covariance[cut],
                   self.confidence[cut], self.estimate_m[cut], self.blocks[cut], city=self.city)

    def of_drive(self, number: int, city: int) -> Run:
        """Return the same with the stretches of its way told from those of other drives."""
        return replace(self, blocks=self.blocks + DRIVE * number, city=city)


def drive_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """
    Return the figures of drives as a whole, each run several times or once.

    intervals: 95 %, over stretches of the way, which all runs of a drive share, and over the
    cities where there are several.
    """
    blocks = np.concatenate([run.blocks for run in runs])
    return {'metres': float(np.mean([run.metres[-1] for run in runs])),
            **_first([run.reached for run in runs]), **fix_figures(runs),
            'intervals': _intervals(runs, blocks)}


def start_figures(runs: Sequence[Run], within_m: float, limit_m: float) -> dict[str, Any]:
    """
    Return the figures of runs from random starts, each from `since` on.

    share_within: of the runs that had a right fix within `within_m`. intervals: 95 % over the
    stretches of `limit_m` that runs began in, for runs that overlap share their images, and over
    the cities where there are several. Of fewer than two stretches there are none; where nothing
    failed they are a point.
    """
    counted = [run.part(run.since, None) for run in runs]
    metres, seconds = (np.array(each) for each in zip(*(run.reached for run in counted),
                                                      strict=True))
    began = np.array([run.blocks[0] for run in counted]) // max(1, round(limit_m / BLOCK_M))
    within = metres <= within_m

    def of(rows: Indices) -> Array:
        return np.array([within[rows].mean(), *(_quantile(metres[rows], q) for q in (50, 95))])

    low, high = block_bootstrap_of(of, began, groups=np.array([run.city for run in counted]))
    blocks = np.repeat(began, [len(run.rows) for run in counted])
    return {
        'runs': len(runs), 'within_m': within_m, 'limit_m': limit_m,
        'share_within': float(within.mean()),
        'never': int(np.isinf(metres).sum()), 'metres': _quantiles(metres),
        'seconds': _quantiles(seconds), **fix_figures(counted),
        'intervals': {'share_within': [low[0], high[0]],
                      'metres': {'p50': [low[1], high[1]], 'p95': [low[2], high[2]]},
                      **_intervals(counted, blocks)},
    }


def share_reached(runs: Sequence[Run], metres: Array) -> Array:
    """Return the share of runs that had a right fix within so many metres (k,), (k,)."""
    way = np.array([run.reached[0] for run in runs])
    return np.asarray((way[:, None] <= metres).mean(0))


def fix_figures(runs: Sequence[Run]) -> dict[str, Any]:
    """
    Return availability, false fixes, errors and honesty of covariances of some runs.

    over_thresholds: availability and false-fix rate by the probability that a fix would need,
    with the best threshold's for these images; false_runs: fixes that are false one after the
    other.
    """
    distance = np.concatenate([run.distance for run in runs])
    error = np.concatenate([run.error for run in runs])
    accepted = np.isfinite(distance)
    right = accepted & (distance <= CORRECT_M)
    covariance = np.concatenate([run.covariance for run in runs])
    found = consistency(error[right], covariance[right]) if right.any() else None
    return {
        'images': len(distance), 'accepted': int(accepted.sum()),
        'availability': share(accepted), 'false_fixes': int((accepted & ~right).sum()),
        'false_fix_rate': share(~right[accepted]),
        'false_runs': false_runs((run.distance, run.metres, run.seconds) for run in runs),
        'position_m': statistics(distance[accepted]),
        'yaw_deg': statistics(np.degrees(np.abs(error[accepted, 2]))),
        'right_fixes': None if found is None else {
            'anees_xy': found.anees_xy, 'anees_xy_yaw': found.anees_xy_yaw,
            'within_1_2_3_sigma': found.coverage},
        'over_thresholds': over_thresholds(*_judged(runs)),
    }


def _first(reached: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the mean way and time to the first right fix, as summary.json of a run has them."""
    metres, seconds = np.mean(np.array(reached), axis=0)
    return {'first_correct_s': float(seconds), 'first_correct_m': float(metres)}


def _intervals(runs: Sequence[Run], blocks: Indices) -> dict[str, Any]:
    """Return 95 % intervals of the figures of fixes, over blocks (m,) of all images in order."""
    distance = np.concatenate([run.distance for run in runs])
    turned = np.degrees(np.abs(np.concatenate([run.error[:, 2] for run in runs])))

    most = most_available(*_judged(runs))

    def of(rows: Indices) -> Array:
        off = distance[rows]
        accepted = np.isfinite(off)
        if not accepted.any():
            return np.array([0.0, *[np.nan] * 4, *most(rows)])
        off = off[accepted]
        return np.array([accepted.mean(), (off > CORRECT_M).mean(), *np.percentile(off, [50, 95]),
                         np.percentile(turned[rows][accepted], 95), *most(rows)])

    cities = np.repeat([run.city for run in runs], [len(run.rows) for run in runs])
    low, high = block_bootstrap_of(of, blocks, groups=cities)
    each = [[float(a), float(b)] for a, b in zip(low, high, strict=True)]
    said = (over_thresholds(*_judged(runs)) or {}).get('availability_at', {})
    return {'availability': each[0], 'false_fix_rate': each[1],
            'position_m': {'median': each[2], 'p95': each[3]}, 'yaw_deg': {'p95': each[4]},
            'availability_at': {rate: None if said[rate] is None else interval
                                for rate, interval in zip(said, each[5:], strict=False)}}


def _judged(runs: Sequence[Run]) -> tuple[Array, Array]:
    """Return confidence and distance of all images of runs, as `over_thresholds` takes them."""
    return (np.concatenate([run.confidence for run in runs]),
            np.concatenate([run.estimate_m for run in runs]))


def _quantile(values: Array, percent: float) -> float:
    """Return a percentile; infinite where so many never came."""
    return float(np.quantile(values, percent / 100.0, method='higher'))


def _quantiles(values: Array) -> dict[str, float]:
    return {f'p{q}': _quantile(values, q) for q in (50, 95, 99)}
