"""
Drives through a `Sequence`: answers joined by a belief, with odometry made from the truth.

The localizer is asked once for each image of a drive; every run is over these answers. Where and
how runs begin, and what the odometry's errors are, is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..data.drive import Drive
from ..errors import InputError
from ..geometry.poses import inverse, path_length, planar
from ..localization.fix import Answer
from ..localization.localizer import Localizer
from ..localization.sequence import Sequence
from ..progress import track
from .offline import answers_to
from .pose_errors import calibration, planar_errors
from .summary import CORRECT_M, json_safe, share, statistics

Array = NDArray[np.float64]


class OdometryNoise(BaseModel):
    """
    What a wheel odometry does wrong, of steps of d metres.

    scale: standard deviation of a factor of all lengths, once for each run (a tyre's radius).
    slip_m, turn_deg: standard deviations of each step's length and heading, growing with sqrt(d):
    what is given is that after one metre. bias_deg_m: of a turn with each metre, once a run.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    scale: float = Field(default=0.02, ge=0.0)
    slip_m: float = Field(default=0.02, ge=0.0)
    turn_deg: float = Field(default=0.3, ge=0.0)
    bias_deg_m: float = Field(default=0.02, ge=0.0)


def odometry_of(
    T_truth: Array, noise: OdometryNoise, rng: np.random.Generator,
) -> Array:
    """Return the motions (n - 1, 4, 4) that it tells between true poses (n, 4, 4)."""
    steps = inverse(T_truth[:-1]) @ T_truth[1:]
    metres = np.linalg.norm(steps[:, :2, 3], axis=1)
    factor = 1.0 + noise.scale * rng.normal()
    bias = math.radians(noise.bias_deg_m) * rng.normal()
    slip = noise.slip_m * np.sqrt(metres) * rng.normal(size=len(steps))
    turned = (bias * metres
              + math.radians(noise.turn_deg) * np.sqrt(metres) * rng.normal(size=len(steps)))
    told = steps.copy()
    told[:, :2, 3] *= factor
    ahead = np.where(metres > 0.0, 1.0, 0.0)
    told[:, :2, 3] += (slip * ahead)[:, None] * steps[:, :2, 3] / np.maximum(metres, 1e-9)[:, None]
    return np.stack([T @ planar(0.0, 0.0, turn) for T, turn in zip(told, turned, strict=True)]
                    ) if len(told) else told


@dataclass(frozen=True)
class Asked:
    """
    The n images of a drive that have a pose, in order: answers, stamps, true poses (n, 4, 4).

    name: of the drive.
    """

    name: str
    answers: tuple[Answer, ...]
    stamps_ns: NDArray[np.int64]
    truth: Array

    @property
    def way_m(self) -> Array:
        """Return the metres driven up to each image, (n,)."""
        return path_length(self.truth[:, :2, 3])


def ask(
    localizer: Localizer, drive: Drive, camera: str | None = None, every: int = 1,
    limit: int | None = None,
) -> Asked:
    """Return what the localizer answers to each image; see `evaluate_drive`."""
    found = [(answer, stamp, T) for _, stamp, T, answer
             in answers_to(localizer, drive, camera, every, limit) if np.isfinite(T).all()]
    if len(found) < 2:
        raise InputError(f'{drive.source} has fewer than two images with a pose: a sequence '
                         'needs the truth, of which its odometry is made')
    answers, stamps, truth = zip(*found, strict=True)
    return Asked(drive.name, answers, np.array(stamps, np.int64), np.stack(truth))


@dataclass(frozen=True)
class Run:
    """
    A run through some images: their rows (m,) in order, and the sequence's answers.

    metres, seconds: (m,) since it began. error: (m, 3) of the accepted fixes, x, y, yaw; NaN where
    there is none.
    """

    rows: NDArray[np.int64]
    answers: tuple[Answer, ...]
    metres: Array
    seconds: Array
    error: Array

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Return which images (m,) got a fix."""
        return np.isfinite(self.error[:, 0])

    @property
    def distance(self) -> Array:
        """Return how far each fix is off in the plane, (m,), NaN without."""
        return np.asarray(np.hypot(self.error[:, 0], self.error[:, 1]))

    def first_right(self, since: int = 0) -> int | None:
        """Return the index of the first right fix from one on; None if none came."""
        found = np.flatnonzero(self.distance[since:] <= CORRECT_M)
        return int(found[0]) + since if len(found) else None


def run_through(
    sequence: Sequence, asked: Asked, rows: NDArray[np.int64], noise: OdometryNoise,
    rng: np.random.Generator, after_each: Callable[[], None] | None = None,
) -> Run:
    """
    Return what the sequence answers to some images, forgetting all that was before.

    rows: (m,) of the images. Where they jump, the vehicle was kidnapped: its odometry tells of
    the way from the image before the new one. after_each: called after each image.
    """
    sequence.reset()
    truth, before = asked.truth[rows], asked.truth[np.maximum(rows - 1, 0)]
    # A way without the jumps, on which an odometry is made as on any other.
    way = [np.eye(4)]
    for a, b in zip(before[1:], truth[1:], strict=True):
        way.append(way[-1] @ inverse(a) @ b)
    driven = np.stack(way)
    motions = [None, *odometry_of(driven, noise, rng)]
    answers = []
    for row, motion in zip(rows, motions, strict=True):
        answers.append(sequence.joined(asked.answers[row], motion))
        if after_each is not None:
            after_each()
    error = np.full((len(rows), 3), np.nan)
    got = [i for i, answer in enumerate(answers) if answer.fix is not None]
    if got:
        fixes = np.stack([answers[i].fix.T_map_base for i in got])  # type: ignore[union-attr]
        error[got] = planar_errors(fixes, truth[got])
    stamps = asked.stamps_ns
    seconds = np.concatenate([[0.0], np.cumsum(
        (stamps[rows[1:]] - stamps[np.maximum(rows[1:] - 1, 0)]) * 1e-9)])
    return Run(rows, tuple(answers), path_length(driven[:, :2, 3]), seconds, error)


def fix_figures(runs: list[Run]) -> dict[str, Any]:
    """Return availability, false fixes, errors and honesty of covariances of some runs."""
    distance = np.concatenate([run.distance for run in runs])
    error = np.concatenate([run.error for run in runs])
    accepted = np.isfinite(distance)
    right = accepted & (distance <= CORRECT_M)
    fixes = [answer.fix for run in runs for answer in run.answers]
    found = calibration(error[right], np.stack(
        [fix.covariance for fix, use in zip(fixes, right, strict=True) if use and fix])
    ) if right.any() else None
    return {
        'images': len(distance), 'accepted': int(accepted.sum()),
        'availability': share(accepted), 'false_fixes': int((accepted & ~right).sum()),
        'false_fix_rate': share(~right[accepted]),
        'position_m': statistics(distance[accepted]),
        'yaw_deg': statistics(np.degrees(np.abs(error[accepted, 2]))),
        'right_fixes': None if found is None else {
            'anees_xy': found.anees_xy, 'anees_xy_yaw': found.anees_xy_yaw,
            'within_1_2_3_sigma': found.coverage}}


def whole_drive(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, repeats: int = 5,
) -> tuple[dict[str, Any], list[Run]]:
    """Return the figures of the whole drive, driven several times with other odometries."""
    rng = np.random.default_rng([seed, 0])
    rows = np.arange(len(asked.answers))
    runs = [run_through(sequence, asked, rows, noise, rng)
            for _ in track(range(repeats), f'{asked.name}, whole')]
    return {'repeats': repeats, 'metres': float(asked.way_m[-1]), **fix_figures(runs)}, runs


def random_starts(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, count: int,
    within_m: float = 50.0, limit_m: float = 200.0,
) -> tuple[dict[str, Any], list[Run]]:
    """
    Return how soon a vehicle that is switched on at random places gets a right fix.

    Each run ends after `limit_m`; one that has no right fix by then, or by the end of the drive,
    is a failure. It may begin wherever `within_m` are left.
    """
    rng = np.random.default_rng([seed, 1])
    way = asked.way_m
    runs = []
    for start in track(_somewhere(way, 0.0, within_m, count, rng), f'{asked.name}, starts'):
        rows = np.arange(start, _last(way, start, limit_m) + 1)
        runs.append(run_through(sequence, asked, rows, noise, rng))
    return {**_reached(runs, [0] * len(runs), within_m), 'limit_m': limit_m,
            **fix_figures(runs)}, runs


def kidnappings(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, count: int,
    within_m: float = 50.0, limit_m: float = 200.0, before_m: float = 100.0,
) -> tuple[dict[str, Any], list[Run]]:
    """
    Return how soon a vehicle is found again that was carried elsewhere, and what it said before.

    It drives `before_m` and goes on at another place of the drive, over 100 m away; its odometry
    knows nothing of it. Figures are of what came after. A drive too short for it is an InputError.
    """
    rng = np.random.default_rng([seed, 2])
    way, xy = asked.way_m, asked.truth[:, :2, 3]
    if way[-1] < before_m + within_m:
        raise InputError(f'{asked.name} has {way[-1]:.0f} m: kidnappings need '
                         f'{before_m + within_m:g} m')
    runs, sinces, after = [], [], []
    for at in track(_somewhere(way, before_m, 0.0, count, rng), f'{asked.name}, kidnappings'):
        begins = int(np.searchsorted(way, way[at] - before_m))
        apart = np.linalg.norm(xy - xy[at], axis=1)
        others = np.flatnonzero((apart > 100.0) & (way <= way[-1] - within_m))
        others = others[others > 0]
        if len(others) == 0:
            raise InputError(f'{asked.name} has no two places 100 m apart: no kidnapping there')
        to = int(rng.choice(others))
        rows = np.concatenate([np.arange(begins, at + 1),
                               np.arange(to, _last(way, to, limit_m) + 1)])
        run = run_through(sequence, asked, rows, noise, rng)
        runs.append(run)
        sinces.append(int(at + 1 - begins))
        after.append(_from(run, sinces[-1]))
    meanwhile = [_until(run, run.first_right()) for run in after]
    return {**_reached(runs, sinces, within_m), 'limit_m': limit_m, 'before_m': before_m,
            'found_before': share(np.array([run.distance[since - 1] <= CORRECT_M
                                            for run, since in zip(runs, sinces, strict=True)])),
            'meanwhile': {key: value for key, value in fix_figures(meanwhile).items()
                          if key in ('images', 'accepted', 'false_fixes')},
            **fix_figures(after)}, runs


def evaluate_sequence(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int = 0, starts: int = 200,
    kidnapped: int = 200,
) -> tuple[dict[str, Any], list[Run]]:
    """Return all figures of a drive, JSON-safe, and the runs from random starts."""
    whole, _ = whole_drive(sequence, asked, noise, seed)
    started, runs = random_starts(sequence, asked, noise, seed, starts)
    found, _ = kidnappings(sequence, asked, noise, seed, kidnapped)
    single = run_of_single(asked)
    return dict(json_safe({
        'schema': 1, 'drive': asked.name, 'correct_radius_m': CORRECT_M, 'seed': seed,
        'odometry': noise.model_dump(), 'belief': sequence.belief.config.model_dump(),
        'single_images': fix_figures([single]), 'whole_drive': whole, 'random_starts': started,
        'kidnappings': found})), runs


def run_of_single(asked: Asked) -> Run:
    """Return the answers as they are without a sequence, as a run."""
    error = np.full((len(asked.answers), 3), np.nan)
    for i, answer in enumerate(asked.answers):
        if answer.fix is not None:
            error[i] = planar_errors(answer.fix.T_map_base, asked.truth[i])[0]
    seconds = (asked.stamps_ns - asked.stamps_ns[0]) * 1e-9
    return Run(np.arange(len(error)), asked.answers, asked.way_m, seconds, error)


def _somewhere(
    way: Array, after_m: float, left_m: float, count: int, rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return images at random places of the way, even over its metres."""
    if way[-1] < after_m + left_m:
        raise InputError(f'the drive has {way[-1]:.0f} m: it needs {after_m + left_m:g} m')
    return np.searchsorted(way, rng.uniform(after_m, way[-1] - left_m, count)).astype(np.int64)


def _last(way: Array, start: int, limit_m: float) -> int:
    return int(np.searchsorted(way, way[start] + limit_m, 'right')) - 1


def _reached(runs: list[Run], sinces: list[int], within_m: float) -> dict[str, Any]:
    """Return the way and the time to the first right fix of each run after some of its images."""
    metres, seconds = [], []
    for run, since in zip(runs, sinces, strict=True):
        first = run.first_right(since)
        metres.append(math.inf if first is None else float(run.metres[first] - run.metres[since]))
        seconds.append(math.inf if first is None
                       else float(run.seconds[first] - run.seconds[since]))
    n, there = len(runs), np.array(metres) <= within_m
    low, high = wilson(float(there.mean()), n)
    return {'runs': n, 'within_m': within_m, 'share_within': float(there.mean()),
            'interval': [low, high], 'never': int(np.isinf(metres).sum()),
            'metres': _quantiles(metres), 'seconds': _quantiles(seconds)}


def wilson(part: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of a count (Wilson, 1927)."""
    z2 = 1.96 ** 2
    middle = (part + z2 / (2.0 * count)) / (1.0 + z2 / count)
    half = math.sqrt(z2 * (part * (1.0 - part) / count + z2 / (4.0 * count ** 2))) / (
        1.0 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _quantiles(values: list[float]) -> dict[str, float]:
    """Return the median, 95th and 99th percentile; infinite where so many never came."""
    return {f'p{q}': float(np.quantile(values, q / 100.0, method='higher')) for q in (50, 95, 99)}


def _from(run: Run, since: int) -> Run:
    return Run(run.rows[since:], run.answers[since:], run.metres[since:] - run.metres[since],
               run.seconds[since:] - run.seconds[since], run.error[since:])


def _until(run: Run, end: int | None) -> Run:
    return Run(run.rows[:end], run.answers[:end], run.metres[:end], run.seconds[:end],
               run.error[:end])
