"""
Calibration on drives apart from training and test: what images answered, and what that teaches.

Each site is a map and drives through it. Its images are also asked in the maps of the other sites,
where no answer can be right: from that comes what an image from outside the map looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..data.drive import Drive
from ..distributed import World
from ..encoders.config import View
from ..errors import InputError
from ..geometry.poses import path_length, planar, wrap, yaw_of
from ..localization.calibration import (
    Calibration,
    evidence_of,
    Logistic,
    SEARCH,
    spread_of,
)
from ..localization.hypotheses import estimate, LocalizerConfig, SAME_HEADING_RAD
from ..localization.localizer import camera_yaw
from ..localization.verification import Verification
from ..mapping.database import PlaceDatabase
from ..mapping.nearest import Nearest
from ..progress import track
from .described import ByModel, describe_database, Described
from .fitting import fit_logistic, fit_nothing, fit_power
from .protocols import cloud_side, entries_of, image_side
from .recall import trajectory_blocks
from .shown import shown
from .splits import frame_of

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RADIUS_M = 20.0
FLOORS = {'across_m': 1.0, 'heading_rad': math.radians(2.0)}  # spread where all places agree
NEAR = 1.5  # times the spacing, within which a place is where an image was taken
OUTSIDERS_EVERY = 4  # images of other sites that are asked in a map: each so many


@dataclass(frozen=True)
class Site:
    """
    A map's described places, and described images with where their camera looks.

    frame: the map frame; of sites that share one, none is outside another's map for certain.
    places: None where images are only asked in the maps of others. queries: of each drive through
    it, with the heading of its camera in the vehicle, radians, left positive. refused: how many
    of the drives' images are not among them, since they show nothing.
    """

    name: str
    frame: str
    places: Described | None
    queries: Sequence[tuple[Described, float]]
    refused: int = 0


@dataclass(frozen=True)
class Answers:
    """
    What the images of one drive answered in one map, n of them, in the order they were taken.

    site: whose map it is. map, taken: the frames of that map and of the images. inside: whether
    they were taken in this map. drive: their name.
    evidence: (n, 5), see `evidence_of`. spread: (n, 4), see `spread_of`. error: (n, 3) of the
    answer along and across its own heading and of that heading, metres and radians; NaN for images
    from elsewhere. yaw: (n,) that was answered. xy: (n, 2) where the images were taken.
    scores: (n, k). near: (n, k) which of the retrieved places are where the image was taken,
    looking its way. chance: (n,) the share of all places that are. block: (n,) in which stretch of
    50 m of the whole drive the image was taken.
    """

    site: str
    map: str
    taken: str
    inside: bool
    drive: str
    evidence: Array
    spread: Array
    error: Array
    yaw: Array
    xy: Array
    scores: Array
    near: Flags
    chance: Array
    block: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def right(self) -> Flags:
        """Return which answers (n,) lie within the radius and look the right way."""
        near = np.hypot(self.error[:, 0], self.error[:, 1]) <= RADIUS_M
        return np.asarray(near & (np.abs(self.error[:, 2]) <= SAME_HEADING_RAD))

    def part(self, rows: Flags, name: str) -> Answers:
        """Return the answers of some of the images, as if of a frame of its own."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self)
                  if isinstance(getattr(self, field.name), np.ndarray)}
        return replace(self, map=f'{self.map}, {name}', taken=f'{self.taken}, {name}', **arrays)


def described_site(
    name: str, database: Drive | PlaceDatabase | None, drives: Sequence[Drive],
    describer: ByModel, world: World, camera: str | None = None,
    views: Sequence[View] | None = None,
) -> Site:
    """
    Return a site, described now or from the cache.

    database: the map's drive, seen from `views` (None: the model's own), or a map on disk; None:
    the drives are elsewhere. drives: whose images are asked; camera: of them, None: the first.
    Images that a localizer refuses before it asks the model, by default, are left out: they never
    get the probability that is learned here.
    """
    config, queries, refused = describer.config, [], 0
    for drive in drives:
        entries = entries_of(drive, 0.0, camera)
        assert entries.camera is not None
        found = image_side(entries, describer, world).described
        kept = np.flatnonzero(shown(drive, entries.camera, found.numbers.tolist(),
                                    LocalizerConfig(), world))
        refused += len(found) - len(kept)
        if len(kept) > 0:
            queries.append((found if len(kept) == len(found) else _some(found, kept),
                            camera_yaw(drive.cameras[entries.camera].T_base_sensor)))
    if isinstance(database, PlaceDatabase):
        return Site(name, frame_of(database.schema.source),
                    describe_database(database, describer, world), queries, refused)
    if database is None:
        return Site(name, f'{name}, elsewhere', None, queries, refused)
    places = cloud_side(entries_of(database, config.submap.spacing_m), describer, world,
                        config.submap, views or config.views, config.smooth_m)
    return Site(name, frame_of(database.name), places.described, queries, refused)


def answers_of(
    site: Site, taken: Site, queries: Described, yaw_of_camera: float, spacing_m: float,
    config: LocalizerConfig, verification: Verification | None = None,
) -> Answers:
    """
    Return what images of a drive at the site `taken` answer in the map of `site`.

    verification: of what they found, as `config` wants it (see `verification_of`).
    """
    assert site.places is not None
    inside = site is taken
    # The vehicle is turned back by the heading of its camera, as in `Localizer.localize`.
    T_map_base = np.asarray(site.places.T_map_base @ planar(0.0, 0.0, -yaw_of_camera), np.float64)
    there = (_there(T_map_base, queries.T_map_base, NEAR * spacing_m) if inside
             else [np.zeros(0, np.int64)] * len(queries))
    all_scores, all_found = Nearest(site.places.descriptors).search(
        np.ascontiguousarray(queries.descriptors), min(config.top_k, len(site.places)))
    blocks = trajectory_blocks(path_length(queries.T_map_base[:, :2, 3]))
    rows: list[tuple[Any, ...]] = []
    for row in track(range(len(queries)), f'{queries.session} in {site.name}'):
        scores, found = all_scores[row], all_found[row]
        if verification is not None:
            assert queries.details is not None and site.places.details is not None
            scores, found = verification(queries.details[row], site.places.details, scores, found)
        T, truth = T_map_base[found], queries.T_map_base[row]
        answer = estimate(scores, T, spacing_m, config)
        yaw = float(yaw_of(answer.T_map_place))
        x, y = answer.T_map_place[:2, 3] - truth[:2, 3]
        c, s = math.cos(yaw), math.sin(yaw)
        error = (np.array([c * x + s * y, c * y - s * x, float(wrap(yaw - yaw_of(truth)))])
                 if inside else np.full(3, np.nan))
        rows.append((
            evidence_of(scores, answer.weights, answer.cluster, answer.alike),
            spread_of(answer.weights, T, answer.alike, answer.T_map_place), error, yaw,
            truth[:2, 3], scores.astype(np.float64), np.isin(found, there[row]),
            len(there[row]) / len(T_map_base), blocks[row]))
    return Answers(site.name, site.frame, taken.frame, inside, queries.session,
                   *(np.stack(each) for each in zip(*rows, strict=True)))


def _there(places: Array, queries: Array, radius_m: float) -> list[NDArray[np.int64]]:
    """Return which places are where each image was taken and look its way."""
    near = cKDTree(places[:, :2, 3]).query_ball_point(queries[:, :2, 3], radius_m)
    result = []
    for found, truth in zip(near, queries, strict=True):
        rows = np.array(found, np.int64)
        turned = np.abs(wrap(yaw_of(places[rows]) - yaw_of(truth)))
        result.append(rows[turned <= SAME_HEADING_RAD])
    return result


def all_answers(
    sites: Sequence[Site], spacing_m: float, config: LocalizerConfig,
    verification: Verification | None = None,
) -> list[Answers]:
    """
    Return each drive's answers in its own map, and some of them in maps of other frames.

    verification: see `answers_of`.
    """
    return [
        answers_of(site, other, queries if other is site else _thinned(queries), yaw, spacing_m,
                   config, verification)
        for site in sites if site.places is not None
        for other in sites if other is site or other.frame != site.frame
        for queries, yaw in other.queries]


def _thinned(queries: Described) -> Described:
    return _some(queries, slice(None, None, OUTSIDERS_EVERY))


def _some(queries: Described, rows: slice | NDArray[np.int64]) -> Described:
    """Return some of the images."""
    return replace(queries, descriptors=queries.descriptors[rows],
                   T_map_base=queries.T_map_base[rows], numbers=queries.numbers[rows],
                   details=None if queries.details is None else queries.details[rows])


def fit(
    answers: Sequence[Answers], config: LocalizerConfig, kind: dict[str, Any],
) -> Calibration:
    """
    Return the calibration that these answers teach.

    kind: encoder_hash, preprocessing_hash, map_identity, headings, spacing_m and smooth_m of it.
    Without answers from outside every image is taken for one from inside. What teaches too little
    is an InputError.
    """
    own = [each for each in answers if each.inside]
    if not own:
        raise InputError('there is no image with a pose in its own map that shows something: '
                         'give drives through it')
    evidence = np.concatenate([each.evidence for each in own])
    right = np.concatenate([each.right for each in own])
    spread = np.concatenate([each.spread for each in own])[right]
    error = np.concatenate([each.error for each in own])[right]
    others = [each.evidence for each in answers if not each.inside]
    floors = {'along_m': kind['spacing_m'] / math.sqrt(12.0), **FLOORS}
    return Calibration(
        **kind, **{name: getattr(config, name) for name in SEARCH}, radius_m=RADIUS_M,
        right=fit_logistic(evidence, right),
        inside=_fit_inside(evidence, np.concatenate(others)) if others else None,
        **{name: fit_power(spread[:, i], spread[:, 3], error[:, i], floor)
           for i, (name, floor) in enumerate(floors.items())},
        nothing=_fit_nothing(own, config.temperature))


def _fit_inside(inside: Array, outside: Array) -> Logistic:
    flags = np.repeat([True, False], [len(inside), len(outside)])
    # As much weight for all from outside as for all from inside, however many were asked.
    each = np.where(flags, 1.0, len(inside) / len(outside))
    return fit_logistic(np.concatenate([inside, outside]), flags, each)


def _fit_nothing(own: Sequence[Answers], temperature: float) -> float:
    # A map with fewer places than are searched gives fewer columns than the others.
    k = min(each.scores.shape[1] for each in own)
    return fit_nothing(np.concatenate([each.scores[:, :k] for each in own]),
                       np.concatenate([each.near[:, :k] for each in own]),
                       np.concatenate([each.chance for each in own]), temperature)
