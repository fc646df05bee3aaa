"""
Drives through a `Sequence`: answers joined by a belief, with odometry made from the truth.

The localizer is asked once for each image of a drive; every run is over these answers. Where and
how runs begin, what the odometry's errors are and how far priors are off is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive
from ..errors import InputError
from ..geometry.poses import inverse, path_length, planar
from ..localization.fix import Answer
from ..localization.localizer import Localizer
from ..localization.odometry_noise import OdometryNoise
from ..localization.sequence import Prior, Sequence
from ..progress import track
from .offline import answers_to
from .pose_errors import planar_errors
from .recall import trajectory_blocks
from .sequence_figures import drive_figures, fix_figures, Run, start_figures
from .summary import CORRECT_M, json_safe, share

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

WITHIN_M = 50.0  # in which a right fix should come
LIMIT_M = 200.0  # after which a run from a random start ends
BEFORE_M = 100.0  # that is driven before a kidnapping
APART_M = 100.0  # at least, of a place that is another one
UNKNOWN_RAD2 = 100.0  # variance of a heading of which a prior says nothing


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


def truth_of(
    drive: Drive, camera: str | None = None, every: int = 1, limit: int | None = None,
) -> Asked:
    """Return the images that `ask` would localize, not asked yet; InputError if too few."""
    stream = drive.cameras[drive.camera_named(camera)]
    rows = np.arange(len(stream))[::every][:limit]
    rows = rows[np.isfinite(stream.T_map_base[rows]).all(axis=(1, 2))]
    if len(rows) < 2:
        raise InputError(f'{drive.source} has fewer than two images with a pose: a sequence '
                         'needs the truth, of which its odometry is made')
    return Asked(drive.name, (), stream.stamps_ns[rows], stream.T_map_base[rows])


def check_drawn(
    asked: Asked, seed: int = 0, starts: int = 200, kidnapped: int = 200,
    prior_m: float | None = None,
) -> None:
    """Raise the InputError, before anything is asked, that `drive_through` would end with."""
    for start in _starts(asked, np.random.default_rng([seed, 1]), starts):
        if prior_m is not None:
            _elsewhere(asked, asked.truth[start, :2, 3])
    for at in _carried(asked, np.random.default_rng([seed, 2]), kidnapped):
        _carried_to(asked, int(at))


def ask(
    localizer: Localizer, drive: Drive, camera: str | None = None, every: int = 1,
    limit: int | None = None,
) -> Asked:
    """Return what the localizer answers to each image; see `evaluate_drive`."""
    asked = truth_of(drive, camera, every, limit)
    return replace(asked, answers=tuple(
        answer for _, _, T, answer in answers_to(localizer, drive, camera, every, limit)
        if np.isfinite(T).all()))


def run_through(
    sequence: Sequence, asked: Asked, rows: Indices, noise: OdometryNoise,
    rng: np.random.Generator, after_each: Callable[[Answer], None] | None = None,
    prior: Prior | None = None,
) -> Run:
    """
    Return what the sequence answers to some images, forgetting all that was before.

    rows: (m,) of the images. Where they jump, the vehicle was kidnapped: its odometry tells of
    the way from the image before the new one. after_each: called with each answer. prior: told at
    the first image that can be weighed with it.
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
        given = asked.answers[row]
        told = prior if len(given.candidates) else None
        answers.append(sequence.joined(given, motion, told))
        prior = None if told is not None else prior
        if after_each is not None:
            after_each(answers[-1])
    stamps = asked.stamps_ns
    seconds = np.concatenate([[0.0], np.cumsum(
        (stamps[rows[1:]] - stamps[np.maximum(rows[1:] - 1, 0)]) * 1e-9)])
    return _run(asked, rows, answers, path_length(driven[:, :2, 3]), seconds)


def run_of_single(asked: Asked) -> Run:
    """Return the answers as they are without a sequence, as a run."""
    seconds = (asked.stamps_ns - asked.stamps_ns[0]) * 1e-9
    return _run(asked, np.arange(len(asked.answers)), list(asked.answers), asked.way_m, seconds)


def _run(asked: Asked, rows: Indices, answers: list[Answer], metres: Array, seconds: Array) -> Run:
    error, off = np.full((len(rows), 3), np.nan), np.full(len(rows), np.nan)
    covariance = np.full((len(rows), 6, 6), np.nan)
    for i, answer in enumerate(answers):
        if answer.estimate is not None:
            wrong = planar_errors(answer.estimate.T_map_base, asked.truth[rows[i]])[0]
            off[i] = np.hypot(wrong[0], wrong[1])
            if answer.fix is not None:
                error[i], covariance[i] = wrong, answer.fix.covariance
    confidence = np.array([answer.confidence for answer in answers])
    return Run(rows, metres, seconds, error, covariance, confidence, off,
               trajectory_blocks(asked.way_m)[rows])


def whole_drive(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, repeats: int = 5,
) -> list[Run]:
    """Return the whole drive, driven several times with other odometries."""
    rng = np.random.default_rng([seed, 0])
    rows = np.arange(len(asked.answers))
    return [run_through(sequence, asked, rows, noise, rng)
            for _ in track(range(repeats), f'{asked.name}, whole')]


def random_starts(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, count: int,
    prior_m: float | None = None, prior_is_wrong: bool = False,
) -> list[Run]:
    """
    Return runs of a vehicle that is switched on at random places of the drive.

    Each ends after `LIMIT_M`; one that has no right fix by then, or by the end of the drive, is a
    failure. It may begin wherever `WITHIN_M` are left. prior_m: it is told about where it is,
    with so large a standard deviation to either side and of the heading nothing;
    prior_is_wrong: about another place of the drive, over `APART_M` away. Starts and odometry are
    the same with a prior and without.
    """
    rng, other = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 4])
    way, xy = asked.way_m, asked.truth[:, :2, 3]
    runs = []
    for start in track(_starts(asked, rng, count), f'{asked.name}, starts'):
        prior = None
        if prior_m is not None:
            about = other.choice(_elsewhere(asked, xy[start])) if prior_is_wrong else start
            x, y = xy[about] + prior_m * other.normal(size=2)
            prior = Prior(planar(x, y, 0.0), np.diag([prior_m ** 2, prior_m ** 2, UNKNOWN_RAD2]))
        rows = np.arange(start, _last(way, start, LIMIT_M) + 1)
        runs.append(run_through(sequence, asked, rows, noise, rng, prior=prior))
    return runs


def kidnappings(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int, count: int,
) -> list[Run]:
    """
    Return runs of a vehicle that is carried elsewhere: `since` is its first image there.

    It drives `BEFORE_M` and goes on at another place of the drive, over `APART_M` away; its
    odometry knows nothing of it. A drive too short for it is an InputError.
    """
    rng = np.random.default_rng([seed, 2])
    way = asked.way_m
    runs = []
    for at in track(_carried(asked, rng, count), f'{asked.name}, kidnappings'):
        begins = int(np.searchsorted(way, way[at] - BEFORE_M))
        to = int(rng.choice(_carried_to(asked, int(at))))
        rows = np.concatenate([np.arange(begins, at + 1),
                               np.arange(to, _last(way, to, LIMIT_M) + 1)])
        run = run_through(sequence, asked, rows, noise, rng)
        runs.append(replace(run, since=int(at + 1 - begins)))
    return runs


def drive_through(
    sequence: Sequence, asked: Asked, noise: OdometryNoise, seed: int = 0, starts: int = 200,
    kidnapped: int = 200, prior_m: float | None = None,
) -> dict[str, list[Run]]:
    """Return all runs through a drive, by their kind; see `sequence_figures`."""
    runs = {'single_images': [run_of_single(asked)],
            'whole_drive': whole_drive(sequence, asked, noise, seed),
            'random_starts': random_starts(sequence, asked, noise, seed, starts)}
    for kind, wrong in (('starts_with_prior', False), ('starts_with_wrong_prior', True)):
        if prior_m is not None:
            runs[kind] = random_starts(sequence, asked, noise, seed, starts, prior_m, wrong)
    return {**runs, 'kidnappings': kidnappings(sequence, asked, noise, seed, kidnapped)}


def sequence_figures(runs: Mapping[str, list[Run]]) -> dict[str, Any]:
    """Return the figures of runs by their kind (`drive_through`), JSON-safe."""
    found: dict[str, Any] = {}
    for kind, some in runs.items():
        if kind in ('single_images', 'whole_drive'):
            found[kind] = {'repeats': len(some), **drive_figures(some)}
        else:
            found[kind] = start_figures(some, WITHIN_M, LIMIT_M)
    carried = runs['kidnappings']
    meanwhile = fix_figures([run.part(run.since, run.first_right()) for run in carried])
    found['kidnappings'].update(
        before_m=BEFORE_M,
        found_before=share(np.array([run.distance[run.since - 1] <= CORRECT_M
                                     for run in carried])),
        meanwhile={key: meanwhile[key] for key in ('images', 'accepted', 'false_fixes')})
    return dict(json_safe(found))


def together(drives: list[dict[str, list[Run]]], cities: list[int]) -> dict[str, list[Run]]:
    """Return the runs of several drives by their kind, as of one; cities: the number of each's."""
    return {kind: [run.of_drive(number, city)
                   for number, (runs, city) in enumerate(zip(drives, cities, strict=True))
                   for run in runs[kind]] for kind in drives[0]}


def _starts(asked: Asked, rng: np.random.Generator, count: int) -> Indices:
    """Return the images (count,) that runs from random starts begin with."""
    return _somewhere(asked.way_m, 0.0, WITHIN_M, count, rng)


def _carried(asked: Asked, rng: np.random.Generator, count: int) -> Indices:
    """Return the last images (count,) before kidnappings; InputError if the drive is too short."""
    way = asked.way_m
    if way[-1] < BEFORE_M + WITHIN_M:
        raise InputError(f'{asked.name} has {way[-1]:.0f} m: kidnappings need '
                         f'{BEFORE_M + WITHIN_M:g} m')
    return _somewhere(way, BEFORE_M, 0.0, count, rng)


def _carried_to(asked: Asked, at: int) -> Indices:
    """Return the images to which a vehicle may be carried from one; InputError without any."""
    way, others = asked.way_m, _elsewhere(asked, asked.truth[at, :2, 3])
    others = others[(way[others] <= way[-1] - WITHIN_M) & (others > 0)]
    if len(others) == 0:
        raise InputError(f'{asked.name} has no two places {APART_M:g} m apart: no kidnapping '
                         'there')
    return others


def _elsewhere(asked: Asked, xy: Array) -> Indices:
    """Return the images of a drive over `APART_M` from a position (2,); InputError without."""
    found = np.flatnonzero(np.linalg.norm(asked.truth[:, :2, 3] - xy, axis=1) > APART_M)
    if len(found) == 0:
        raise InputError(f'{asked.name} has no two places {APART_M:g} m apart: neither '
                         'kidnappings nor wrong priors there')
    return found


def _somewhere(
    way: Array, after_m: float, left_m: float, count: int, rng: np.random.Generator,
) -> Indices:
    """Return images at random places of the way, even over its metres."""
    if way[-1] < after_m + left_m:
        raise InputError(f'the drive has {way[-1]:.0f} m: it needs {after_m + left_m:g} m')
    return np.searchsorted(way, rng.uniform(after_m, way[-1] - left_m, count)).astype(np.int64)


def _last(way: Array, start: int, limit_m: float) -> int:
    return int(np.searchsorted(way, way[start] + limit_m, 'right')) - 1
