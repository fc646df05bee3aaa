"""The second of two stages: descriptors that are at hand, judged. Nothing is described here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import path_length
from ..localization.hypotheses import LocalizerConfig
from ..localization.verification import Verification
from .precision import precision_recall
from .protocols import allowed_by, Protocol, Side
from .ranking import NONE, POSITIVE_M, RADII_M, rank_places, Ranks, Reorder
from .recall import block_bootstrap, chance_level, one_percent, trajectory_blocks
from .summary import json_safe, statistics

Array = NDArray[np.float64]

KS = (1, 5, 10, 20)
CURVE_KS = tuple(range(1, 26))
# Places that are verified, as many as the localizer's.
VERIFIED = LocalizerConfig().top_k


@dataclass(frozen=True)
class Judgement:
    """
    One pairing by one method: the ranks, and all that figures and pictures need.

    query_xy: (q, 2), place_xy: (n, 2), metres in the map. blocks: (q,) of the trajectory, for
    intervals. search_ms: what a query's search took, all ranks included.
    """

    pairing: str
    method: str
    queries: Side
    database: Side
    ranks: Ranks
    query_xy: Array
    place_xy: Array
    blocks: NDArray[np.int64]
    search_ms: float

    @property
    def answer_error_m(self) -> Array:
        """Return how far each query's first answer is off in the plane, (q,); NaN without one."""
        error = np.linalg.norm(self.place_xy[self.ranks.answer] - self.query_xy, axis=1)
        return np.where(self.ranks.answer == NONE, np.nan, error)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return which queries (q,) have a first answer within POSITIVE_M (and heading)."""
        return self.ranks.hits(POSITIVE_M, 1)[1]


def judge(
    pairing: str, queries: Side, database: Side, protocol: Protocol,
    max_turn: float | None = None, method: str = 'model', radii_m: Sequence[float] = RADII_M,
    verification: Verification | None = None,
) -> Judgement:
    """
    Return the ranks of one pairing under a protocol; `max_turn` (radians) as in `rank_places`.

    radii_m must hold POSITIVE_M. verification: puts the first `VERIFIED` places in a new order, as
    the localizer does; both sides must have details.
    """
    allowed = allowed_by(protocol, queries, database)
    poses, places = queries.described.T_map_base, database.described.T_map_base
    started = time.perf_counter()
    ranks = rank_places(queries.described.descriptors, database.described.descriptors, poses,
                        places, allowed, radii_m, max_turn, top_k=VERIFIED,
                        reorder=_verified(queries, database, verification))
    spent = 1e3 * (time.perf_counter() - started) / max(len(queries), 1)
    xy = poses[:, :2, 3]
    blocks = trajectory_blocks(path_length(xy)) if len(xy) else np.zeros(0, np.int64)
    return Judgement(pairing, method, queries, database, ranks, xy, places[:, :2, 3], blocks,
                     spent)


def _verified(
    queries: Side, database: Side, verification: Verification | None,
) -> Reorder | None:
    if verification is None:
        return None
    asked, there, verify = queries.described.details, database.described.details, verification
    assert asked is not None and there is not None
    return lambda i, scores, places: verify(asked[i], there, scores, places)


def figures(judgement: Judgement, seed: int = 0) -> dict[str, Any]:
    """Return the figures of a judgement, JSON-safe: what cannot be said is null. See `recall`."""
    ranks, n = judgement.ranks, len(judgement.database)
    k1 = one_percent(n)
    at = {}
    for radius in ranks.radii_m:
        counted, _ = ranks.hits(radius, 1)
        at[f'{radius:g}'] = {
            'queries': int(counted.sum()), 'excluded': int((~counted).sum()),
            'recall': {str(k): recall_at_k(judgement, radius, k, seed) for k in KS},
            'recall_1_percent': {'k': k1, **recall_at_k(judgement, radius, k1, seed)}}
    ignoring = ranks.first_ignoring[ranks.first_ignoring != NONE]
    answered = ranks.answer != NONE
    queries, database = judgement.queries.described, judgement.database.described
    return dict(json_safe({
        'pairing': judgement.pairing, 'method': judgement.method,
        'queries': len(judgement.queries), 'database': n, 'unanswered': int((~answered).sum()),
        'not_described': {'queries': queries.skipped, 'database': database.skipped},
        'at': at,
        'recall_ignoring_20_to_40_m': {
            str(k): float(np.mean(ignoring < k)) if len(ignoring) else math.nan for k in KS},
        'first_answer_error_m': statistics(judgement.answer_error_m[answered]),
        'precision_recall': _precision_recall(judgement),
        'latency_ms': {'describe_a_query': queries.milliseconds,
                       'describe_a_place': database.milliseconds,
                       'search_and_rank_a_query': judgement.search_ms},
    }))


def recall_at_k(judgement: Judgement, radius_m: float, k: int, seed: int = 0) -> dict[str, Any]:
    """Return recall, its interval over blocks, and chance at k, of the queries that count."""
    ranks = judgement.ranks
    counted, hits = ranks.hits(radius_m, k)
    if not counted.any():
        return {'recall': math.nan, 'interval': (math.nan, math.nan), 'chance': math.nan}
    column = ranks.radii_m.index(radius_m)
    return {
        'recall': float(hits[counted].mean()),
        'interval': block_bootstrap(hits[counted], judgement.blocks[counted], seed=seed),
        'chance': chance_level(ranks.positives[counted, column], ranks.allowed[counted], k)}


def _precision_recall(judgement: Judgement) -> dict[str, Any] | None:
    counted, right = judgement.ranks.hits(POSITIVE_M, 1)
    found = precision_recall(judgement.ranks.score, right, counted)
    if found is None:
        return None
    return {'f1_max': found.f1_max, 'f1_threshold': found.f1_threshold,
            'recall_at_100_percent_precision': found.recall_at_full_precision,
            'full_precision_threshold': found.full_precision_threshold,
            'average_precision': found.average_precision}
