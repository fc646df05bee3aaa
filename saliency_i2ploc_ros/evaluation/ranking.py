"""
Exact ranks of the right places among all of a database, a few queries at a time.

The rank of the first right answer says Recall@k for every k at once, and needs no list of answers.
At no time are there more similarities in memory than `MEMORY` bytes hold, however large both sides
are; the descriptors may be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..geometry.poses import wrap
from ..progress import track

Array = NDArray[np.float64]

MEMORY = 256 * 2 ** 20  # bytes of similarities at one time
RADII_M = (5.0, 10.0, 20.0, 25.0)
# The distances of training's pairs: positive below the first, ignored up to the second.
POSITIVE_M, IGNORED_M = 20.0, 40.0
NONE = -1
# Of a query's number, and scores (k,) and places (k,) of those first found: both, in a new order.
Reorder = Callable[[int, NDArray[np.float32], NDArray[np.int64]],
                   tuple[NDArray[np.float32], NDArray[np.int64]]]


@dataclass(frozen=True)
class Allowed:
    """
    Which places of the database a query may be answered with.

    stop: (q,) only those before it (a database in the order of time: only the older ones).
    itself: (q,) the one that is the query's own, NONE if it has none there.
    """

    stop: NDArray[np.int64]
    itself: NDArray[np.int64]

    @classmethod
    def all_of(cls, places: int, queries: int) -> Allowed:
        """Return what lets each query be answered with each place."""
        return cls(np.full(queries, places, np.int64), np.full(queries, NONE, np.int64))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return how many places each query may be answered with, (q,)."""
        inside = (self.itself != NONE) & (self.itself < self.stop)
        return self.stop - inside.astype(np.int64)


@dataclass(frozen=True)
class Ranks:
    """
    What became of each query.

    first: (q, radii) the rank, from 0, of the best place within each radius; NONE where none of
    the allowed places lies there. best: (q, radii) that place. positives: (q, radii) how many lie
    there. first_ignoring: (q,) the same as `first` at POSITIVE_M, but with the places from there
    to IGNORED_M left out of the order. answer, score: (q,) the place that came first, NONE and
    -inf without an allowed one. allowed: (q,) how many places there were to choose from.
    """

    radii_m: tuple[float, ...]
    first: NDArray[np.int64]
    best: NDArray[np.int64]
    positives: NDArray[np.int64]
    first_ignoring: NDArray[np.int64]
    answer: NDArray[np.int64]
    score: NDArray[np.float32]
    allowed: NDArray[np.int64]

    def hits(self, radius_m: float, k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which queries (q,) count at a radius, and which (q,) are right within k."""
        first = self.first[:, self.radii_m.index(radius_m)]
        return first != NONE, (first != NONE) & (first < k)


def rank_places(
    queries: NDArray[np.float32], database: NDArray[np.float32], query_poses: Array,
    place_poses: Array, allowed: Allowed, radii_m: Sequence[float] = RADII_M,
    max_turn: float | None = None, memory: int = MEMORY, top_k: int = 0,
    reorder: Reorder | None = None,
) -> Ranks:
    """
    Return how far down the order of similarity each query's right places stand.

    queries: (q, D), database: (n, D), of unit length: the similarity is their product. Of equal
    ones the place of the lower number comes first. query_poses: (q, 4, 4), place_poses: (n, 4, 4):
    a place is right within a radius in the plane, inclusive. max_turn: only if its heading is
    also no further than this many radians from the query's; None: whatever its heading.
    reorder: puts the first `top_k` in another order, with other scores; those behind them stay.
    """
    radii = tuple(radii_m)
    q, n = len(queries), len(database)
    shape = q, len(radii)
    result = Ranks(radii, np.full(shape, NONE), np.full(shape, NONE), np.zeros(shape, np.int64),
                   np.full(q, NONE), np.full(q, NONE), np.full(q, -np.inf, np.float32),
                   allowed.counts)
    if q == 0 or n == 0:
        return result
    tree = cKDTree(place_poses[:, :2, 3])
    rows = max(1, min(memory // (4 * n), q))
    similar = np.empty((rows, n), np.float32)
    for start in track(range(0, q, rows), 'ranks'):
        block = range(start, min(start + rows, q))
        scores = np.matmul(queries[block.start:block.stop], database.T, out=similar[:len(block)])
        for i, row in zip(block, scores, strict=True):
            row[allowed.stop[i]:] = -np.inf
            if allowed.itself[i] != NONE:
                row[allowed.itself[i]] = -np.inf
            score = None if reorder is None else _reordered(row, i, top_k, reorder)
            _rank(result, i, row, _near(tree, query_poses[i], place_poses, max(radii), max_turn))
            if score is not None:
                result.score[i] = score
    return result


def _reordered(
    row: NDArray[np.float32], i: int, top_k: int, reorder: Reorder,
) -> np.float32 | None:
    """
    Let `row` (n,) say the new order of query i; return the best place's score, None without one.

    The first of them get whole numbers above all cosines, that only their order says something.
    """
    allowed = int(np.count_nonzero(row > -np.inf))
    if allowed == 0:
        return None
    k = min(top_k, allowed)
    least = np.partition(row, len(row) - k)[len(row) - k]
    found = np.flatnonzero(row >= least)
    found = found[np.argsort(-row[found], kind='stable')][:k]
    scores, places = reorder(i, row[found], found)
    row[places] = np.arange(k + 1, 1, -1)
    return np.float32(scores[0])


@dataclass(frozen=True)
class _Near:
    """places: (m,) increasing, their distances (m,), and which of them (m,) look the right way."""

    places: NDArray[np.int64]
    distance: Array
    turned_right: NDArray[np.bool_]


def _near(
    tree: cKDTree, pose: Array, place_poses: Array, radius: float, max_turn: float | None,
) -> _Near:
    found = np.array(sorted(tree.query_ball_point(pose[:2, 3], max(radius, IGNORED_M))), np.int64)
    poses = place_poses[found]
    distance = np.linalg.norm(poses[:, :2, 3] - pose[:2, 3], axis=1)
    yaw = np.arctan2(poses[:, 1, 0], poses[:, 0, 0]) - np.arctan2(pose[1, 0], pose[0, 0])
    right = np.ones(len(found), bool) if max_turn is None else np.abs(wrap(yaw)) <= max_turn
    return _Near(found, distance, right)


def _rank(result: Ranks, i: int, row: NDArray[np.float32], near: _Near) -> None:
    """Fill in query i, whose similarities are `row` (n,), -inf where a place is not allowed."""
    best = int(row.argmax())
    if row[best] == -np.inf:
        return
    result.answer[i], result.score[i] = best, row[best]
    allowed = near.turned_right & (row[near.places] > -np.inf)
    ranks: dict[int, int] = {}  # a place that is the best within several radii is ranked once
    for column, radius in enumerate(result.radii_m):
        places = near.places[allowed & (near.distance <= radius)]
        result.positives[i, column] = len(places)
        if len(places):
            place = int(places[row[places].argmax()])
            if place not in ranks:
                ranks[place] = _before(row, place)
            result.first[i, column], result.best[i, column] = ranks[place], place
    places = near.places[allowed & (near.distance <= POSITIVE_M)]
    if len(places):
        place = int(places[row[places].argmax()])
        between = near.places[(near.distance > POSITIVE_M) & (near.distance <= IGNORED_M)]
        ahead = (row[between] > row[place]) | ((row[between] == row[place]) & (between < place))
        result.first_ignoring[i] = ranks.get(place, _before(row, place)) - int(ahead.sum())


def _before(row: NDArray[np.float32], place: int) -> int:
    """Return how many places come before this one."""
    return int(np.count_nonzero(row > row[place])) + int(
        np.count_nonzero(row[:place] == row[place]))
