"""
Recall of place retrieval, the chance beside it, and how sure both are.

The protocol: a query is answered rightly at k if any of its first k retrieved places lies within a
radius of the true position, in the plane. Queries that have no place of the map within the radius
cannot be answered; they are left out of the denominator and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

BLOCK_M = 50.0


@dataclass(frozen=True)
class Recall:
    """
    Recall at several k. values, chance: by k, 0..1; NaN where it cannot be said.

    queries: the denominator. excluded: queries without a place within radius_m. places: size of
    the map. counted: (q,) which of the queries given are in the denominator. hits: (q, len(ks))
    which were answered rightly at each k, in the order of `values`.
    """

    radius_m: float
    places: int
    queries: int
    excluded: int
    values: dict[int, float]
    chance: dict[int, float]
    counted: NDArray[np.bool_]
    hits: NDArray[np.bool_]


def one_percent(places: int) -> int:
    """Return the k of Recall@1%: max(round(places / 100), 1)."""
    return max(round(places / 100), 1)


def recall_at(
    indices: NDArray[np.int64], query_xy: Array, place_xy: Array, radius_m: float,
    ks: Sequence[int],
) -> Recall:
    """
    Return the recall of retrieved places.

    indices: (q, K) places in the order of retrieval, -1 for none. query_xy: (q, 2) true positions.
    place_xy: (n, 2). radius_m: inclusive. ks: see `recall_of_positions`.
    """
    positions = np.asarray(place_xy, np.float64)[indices]
    positions[np.asarray(indices) < 0] = np.nan
    return recall_of_positions(positions, query_xy, place_xy, radius_m, ks)


def recall_of_positions(
    retrieved_xy: Array, query_xy: Array, place_xy: Array, radius_m: float, ks: Sequence[int],
) -> Recall:
    """
    Return the recall of retrieved positions (q, K, 2) in the order of retrieval, NaN for none.

    query_xy: (q, 2) true positions. place_xy: (n, 2), the map. A k above K is NaN, for what would
    have come later is not known, unless K is the whole map.
    """
    retrieved = np.asarray(retrieved_xy, np.float64)
    queries, places = np.asarray(query_xy, np.float64), np.asarray(place_xy, np.float64)
    length = retrieved.shape[1]
    near = np.linalg.norm(retrieved - queries[:, None], axis=2) <= radius_m
    positives = count_positives(queries, places, radius_m)
    counted = positives > 0
    hits = np.stack([near[:, :k].any(axis=1) for k in ks], 1)

    known = [k <= length or length >= len(places) for k in ks]
    values = {k: float(hits[counted, i].mean()) if counted.any() and known[i] else float('nan')
              for i, k in enumerate(ks)}
    chance = {k: chance_level(positives[counted], len(places), k) for k in ks}
    return Recall(radius_m, len(places), int(counted.sum()), int((~counted).sum()), values, chance,
                  counted, hits)


def count_positives(query_xy: Array, place_xy: Array, radius_m: float) -> NDArray[np.int64]:
    """Return how many places (n, 2) lie within the radius of each query (q, 2)."""
    if len(query_xy) == 0 or len(place_xy) == 0:
        return np.zeros(len(query_xy), np.int64)
    found = cKDTree(place_xy).query_ball_point(query_xy, radius_m, return_length=True)
    return np.asarray(found, np.int64)


def chance_level(
    positives: NDArray[np.int64], places: int | NDArray[np.int64], k: int,
) -> float:
    """
    Return the expected recall at k of a random order of the map, NaN without queries.

    positives: (q,) right places of each query, m. places: N, of all or (q,) of each query. Drawing
    k of N places without replacement misses all m with probability
    C(N - m, k) / C(N, k) = prod_{i<k} (N - m - i) / (N - i) (hypergeometric), which the product
    gives without large factorials.
    """
    if len(positives) == 0:
        return float('nan')
    m = np.asarray(positives, np.float64)
    n = np.broadcast_to(np.asarray(places, np.float64), m.shape)
    miss = np.ones(len(m))
    for i in range(min(k, int(n.max()))):
        # A query whose places are used up has been drawn all of them: it keeps what it has.
        miss *= np.where(i < n, np.maximum(n - m - i, 0.0) / np.maximum(n - i, 1.0), 1.0)
    return float(np.mean(1.0 - miss))


def trajectory_blocks(travelled_m: Array, block_m: float = BLOCK_M) -> NDArray[np.int64]:
    """Return the block (q,) of each query: which stretch of `block_m` of the way it lies in."""
    return np.floor(np.asarray(travelled_m, np.float64) / block_m).astype(np.int64)


def block_bootstrap(
    hits: NDArray[Any], blocks: NDArray[np.int64], level: float = 0.95, samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Return the confidence interval of the mean of hits (q,), NaN with fewer than two blocks.

    Neighbouring queries see the same houses and are right or wrong together; drawing them one by
    one would make the interval several times too narrow. Whole blocks (q,) of the trajectory are
    drawn with replacement instead, and the percentiles of the means are returned.
    """
    right, count = _by_block(hits, blocks)
    if len(count) < 2:
        return float('nan'), float('nan')
    means = np.concatenate([right[draws].sum(axis=1) / count[draws].sum(axis=1)
                            for draws in _draws(len(count), samples, seed)])
    low, high = np.quantile(means, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return float(low), float(high)


def paired_bootstrap(
    hits_a: NDArray[Any], hits_b: NDArray[Any], blocks: NDArray[np.int64], seed: int = 0,
    level: float = 0.95, samples: int = 2000,
) -> tuple[float, float, float]:
    """
    Return mean(hits_b) - mean(hits_a) and its confidence interval over blocks, as (d, low, high).

    hits_a, hits_b: (q,) what two runs made of the same queries, flags or shares. blocks: (q,), of
    both (see `block_bootstrap`). Each draw takes the same blocks of both runs, so that what makes
    a street hard for both does not widen the interval: an interval that leaves out 0 is a
    difference. With fewer than two blocks the interval is NaN; without queries all is.
    """
    a, b = np.asarray(hits_a, np.float64), np.asarray(hits_b, np.float64)
    if a.shape != b.shape or a.shape != np.shape(blocks):
        raise ValueError(f'hits {a.shape}, {b.shape} and blocks {np.shape(blocks)} of two runs')
    if len(a) == 0:
        return float('nan'), float('nan'), float('nan')
    return float(b.mean() - a.mean()), *block_bootstrap(b - a, blocks, level, samples, seed)


def block_bootstrap_of(
    statistics: Callable[[NDArray[np.int64]], Array], blocks: NDArray[np.int64],
    level: float = 0.95, samples: int = 300, seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> tuple[Array, Array]:
    """
    Return the confidence intervals (s,), (s,) of statistics that are no means.

    statistics: of the rows of some queries, (s,), NaN where one cannot be said. blocks: (q,) of
    the trajectory, which are drawn whole, as in `block_bootstrap`; with fewer than two all is NaN.
    groups: (q,) what blocks belong to (a city). Of two or more, groups are drawn first, and as
    many blocks as each has within it (Davison, Hinkley, "Bootstrap methods", 1997, 3.8): the
    interval is then of groups like these, and not of these alone.
    """
    names, block = np.unique(blocks, return_inverse=True)
    if len(names) < 2:
        nothing = np.full(len(statistics(np.arange(len(blocks)))), np.nan)
        return nothing, nothing
    rows = np.split(np.argsort(block, kind='stable'), np.cumsum(np.bincount(block))[:-1])
    group = np.zeros(len(blocks), np.int64) if groups is None else groups
    of_block = group[[row[0] for row in rows]]
    members = [np.flatnonzero(of_block == number) for number in np.unique(of_block)]
    draws = (draw for each in _draws(len(names), samples, seed) for draw in each) if (
        len(members) < 2) else _nested_draws(members, samples, seed)
    drawn = np.stack([statistics(np.concatenate([rows[i] for i in draw])) for draw in draws])
    with warnings.catch_warnings():  # of a statistic that is NaN in every draw
        warnings.simplefilter('ignore', RuntimeWarning)
        low, high = np.nanquantile(drawn, [0.5 - level / 2.0, 0.5 + level / 2.0], axis=0)
    return low, high


def _by_block(
    values: NDArray[Any], blocks: NDArray[np.int64],
) -> tuple[Array, Array]:
    """Return the sum of values (q,) in each block and how many they are, (blocks,) each."""
    _, block = np.unique(blocks, return_inverse=True)
    return (np.bincount(block, weights=np.asarray(values, np.float64)).astype(np.float64),
            np.bincount(block).astype(np.float64))


def _draws(blocks: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `samples` rows of blocks drawn with replacement, not too many at once."""
    rng = np.random.default_rng(seed)
    step = max(1, 2_000_000 // blocks)
    for start in range(0, samples, step):
        yield rng.integers(0, blocks, (min(step, samples - start), blocks))


def _nested_draws(
    members: list[NDArray[np.int64]], samples: int, seed: int,
) -> Iterator[NDArray[np.int64]]:
    """Yield blocks drawn with replacement of groups that are; members: the blocks of each."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([rng.choice(members[group], len(members[group]))
                              for group in rng.integers(0, len(members), len(members))])
