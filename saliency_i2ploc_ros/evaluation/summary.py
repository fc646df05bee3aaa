"""From the records of a run, offline or live, to the figures of summary.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import path_length
from ..localization.hypotheses import SAME_HEADING_RAD
from .pose_errors import consistency, planar_errors, reliability, RELIABILITY_LEVELS
from .recall import block_bootstrap, BLOCK_M, one_percent, recall_of_positions, trajectory_blocks

Array = NDArray[np.float64]

CORRECT_M = 20.0
KS = (1, 5, 10, 20)
SHARES_M = (1.0, 5.0, 10.0, 20.0)
NO_TRUTH: Array = np.full((4, 4), np.nan)


@dataclass(frozen=True)
class Record:
    """
    One attempted image and what came of it.

    stamp_ns: the image's own. T_map_base (4, 4) and covariance (6, 6) of the accepted fix, or None
    and a rejection. candidates: (k, 4, 4) or (k, 3), poses or positions, best first.
    milliseconds: by stage; a stage that was not reached is 0.0 or absent. truth: (4, 4), NaN where
    it is not known. frame: the image's place in its stream, -1 if there is none. places: (k,)
    the candidates' numbers in the database, empty if not known. estimate: (3,) where the fix is,
    or would be had it not been refused, NaN without; confidence: what acceptance went by, NaN
    without. answer: the answer as a line of JSON, without times; '' if not at hand.
    """

    stamp_ns: int
    T_map_base: Array | None = None
    covariance: Array | None = None
    rejection: str | None = None
    candidates: Array = field(default_factory=lambda: np.zeros((0, 3)))
    milliseconds: dict[str, float] = field(default_factory=dict)
    truth: Array = field(default_factory=NO_TRUTH.copy)
    frame: int = -1
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    estimate: Array = field(default_factory=lambda: np.full(3, np.nan))
    confidence: float = math.nan
    answer: str = ''

    @property
    def has_truth(self) -> bool:
        """Tell whether the true pose is known."""
        return bool(np.isfinite(self.truth).all())

    @property
    def candidate_positions(self) -> Array:
        """Return the candidates' positions, (k, 3)."""
        c = self.candidates
        return c[:, :3, 3] if c.ndim == 3 else c

    @property
    def error_m(self) -> float:
        """Return the accepted fix's planar distance from the truth; NaN without either."""
        if self.T_map_base is None or not self.has_truth:
            return float('nan')
        return float(np.linalg.norm(self.T_map_base[:2, 3] - self.truth[:2, 3]))

    @property
    def estimate_error_m(self) -> float:
        """Return the planar distance from the truth of what was or would be the fix, or NaN."""
        return float(np.linalg.norm(self.estimate[:2] - self.truth[:2, 3]))


def summarize(
    records: Sequence[Record], place_xy: Array | None = None,
    provenance: dict[str, Any] | None = None, images_in: int | None = None, seed: int = 0,
) -> dict[str, Any]:
    """
    Return the figures of a run as JSON-safe values: what cannot be said is null, never NaN.

    records: of the images attempted, in any order. place_xy: (n, 2) places of the map; recall is
    null without. provenance: what made the run, taken as it is. images_in: images that arrived;
    those not attempted were dropped (None: all were attempted). seed: of the bootstrap.
    """
    ordered = sorted(records, key=lambda record: record.stamp_ns)
    places = None if place_xy is None else np.asarray(place_xy, np.float64).reshape(-1, 2)
    return json_safe({
        'schema': 1,
        'provenance': provenance or {},
        'protocol': {
            'correct_radius_m': CORRECT_M, 'distance': 'planar', 'alignment': 'none',
            'places': None if places is None else len(places),
            'bootstrap': {'block_m': BLOCK_M, 'level': 0.95, 'seed': seed},
        },
        'coverage': _coverage(ordered, images_in),
        'errors': _errors(ordered),
        'recall': None if places is None else _recall(ordered, places, seed),
        'calibration': _consistency(ordered),
        'latency_ms': latency(ordered),
    })


def _coverage(records: list[Record], images_in: int | None) -> dict[str, Any]:
    rejected: dict[str, int] = {}
    for record in records:
        if record.T_map_base is None:
            reason = record.rejection or 'unknown'
            rejected[reason] = rejected.get(reason, 0) + 1
    attempted = len(records)
    incoming = attempted if images_in is None else images_in
    return {
        'images_in': incoming,
        'attempted': attempted,
        'dropped': incoming - attempted,
        'accepted': attempted - sum(rejected.values()),
        'rejected': sum(rejected.values()),
        'rejected_by_reason': dict(sorted(rejected.items())),
        'without_truth': sum(not record.has_truth for record in records),
        'longest_gap_s': longest_gap(records),
        **first_correct(records),
    }


def longest_gap(records: Sequence[Record]) -> float:
    """Return the longest time in seconds without a fix, the start and the end included."""
    if not records:
        return float('nan')
    stamps = [record.stamp_ns for record in records if record.T_map_base is not None]
    stamps = [records[0].stamp_ns, *stamps, records[-1].stamp_ns]
    return max(b - a for a, b in itertools.pairwise(stamps)) * 1e-9


def first_correct(records: Sequence[Record]) -> dict[str, float]:
    """Return how long and how far the vehicle drove until a fix within 20 m; NaN if it never came.

    The way is that along the true positions of the records, from the first of them that has one.
    """
    way = travelled(records)
    for record, metres in zip(records, way, strict=True):
        if record.error_m <= CORRECT_M:
            seconds = (record.stamp_ns - records[0].stamp_ns) * 1e-9
            return {'first_correct_s': seconds, 'first_correct_m': float(metres)}
    return {'first_correct_s': float('nan'), 'first_correct_m': float('nan')}


def travelled(records: Sequence[Record]) -> Array:
    """Return the way (n,) driven up to each record, in metres, NaN where the truth is unknown."""
    way = np.full(len(records), np.nan)
    known = np.array([record.has_truth for record in records], bool)
    if known.any():
        way[known] = path_length(np.stack([r.truth[:2, 3] for r in records if r.has_truth]))
    return way


def _judged(records: Sequence[Record]) -> tuple[Array, Array]:
    """Return errors (n, 3) and covariances (n, 6, 6) of the fixes whose truth is known."""
    judged = [(r.T_map_base, r.truth, r.covariance) for r in records
              if r.T_map_base is not None and r.has_truth]
    if not judged:
        return np.zeros((0, 3)), np.zeros((0, 6, 6))
    estimates, truths, covariances = zip(*judged, strict=True)
    errors = planar_errors(np.stack(estimates), np.stack(truths))
    unknown = np.full((6, 6), np.nan)
    return errors, np.stack([unknown if P is None else P for P in covariances])


def _errors(records: list[Record]) -> dict[str, Any]:
    """Return errors of fixes; false accepts are over 20 m off, wherever they look."""
    errors, _ = _judged(records)
    distance = np.linalg.norm(errors[:, :2], axis=1)
    n = len(distance)
    return {
        'fixes_judged': n,
        'position_m': statistics(distance),
        'yaw_deg': statistics(np.degrees(np.abs(errors[:, 2]))),
        'share_within_m': {f'{radius:g}': share(distance <= radius) for radius in SHARES_M},
        'false_accept_rate': share(distance > CORRECT_M),
        'wrong_way_rate': share(np.abs(errors[:, 2]) > SAME_HEADING_RAD),
    }


def _recall(records: list[Record], places: Array, seed: int) -> dict[str, Any] | None:
    known = [record for record in records if record.has_truth]
    if not known or len(places) == 0:
        return None
    k1 = one_percent(len(places))
    ks = list(dict.fromkeys([*KS, k1]))
    longest = max(len(record.candidate_positions) for record in known)
    retrieved = np.full((len(known), longest, 2), np.nan)
    for row, record in zip(retrieved, known, strict=True):
        positions = record.candidate_positions
        row[:len(positions)] = positions[:, :2]
    queries = np.stack([record.truth[:2, 3] for record in known])
    result = recall_of_positions(retrieved, queries, places, CORRECT_M, ks)
    blocks = trajectory_blocks(travelled(known))[result.counted]

    def entry(k: int) -> dict[str, Any]:
        column = result.hits[result.counted, ks.index(k)]
        unknown = math.isnan(result.values[k])
        interval = (math.nan, math.nan) if unknown else block_bootstrap(column, blocks, seed=seed)
        return {'recall': result.values[k], 'interval': interval, 'chance': result.chance[k]}

    return {
        'radius_m': CORRECT_M, 'queries': result.queries, 'excluded': result.excluded,
        'at': {str(k): entry(k) for k in KS}, 'at_1_percent': {'k': k1, **entry(k1)},
    }


def _consistency(records: list[Record]) -> dict[str, Any] | None:
    errors, covariances = _judged(records)
    known = np.isfinite(covariances).all(axis=(1, 2))
    if not known.any():
        return None
    result = consistency(errors[known], covariances[known])
    return {'fixes': int(known.sum()), 'within_1_2_3_sigma': result.coverage,
            'expected': [0.6827, 0.9545, 0.9973], 'anees_xy': result.anees_xy,
            'anees_xy_yaw': result.anees_xy_yaw,
            'reliability': {'expected': RELIABILITY_LEVELS,
                            **reliability(errors[known], covariances[known])}}


def latency(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """
    Return p50, p95 and p99 in milliseconds of each stage and of the total.

    An image that a stage did not reach (0.0 or absent) does not count for that stage. The total is
    the record's own 'total' where it has one, else the sum of its stages.
    """
    stages: dict[str, list[float]] = {}
    for record in records:
        for stage, ms in record.milliseconds.items():
            if ms > 0.0 and stage != 'total':
                stages.setdefault(stage, []).append(ms)
        if record.milliseconds:
            total = record.milliseconds.get('total', sum(record.milliseconds.values()))
            stages.setdefault('total', []).append(total)
    # 'total' may be met before a stage that only later images reach: last in any case.
    stages = {name: stages[name] for name in sorted(stages, key=lambda name: name == 'total')}
    return {name: {f'p{q}': float(np.percentile(ms, q)) for q in (50, 95, 99)}
            for name, ms in stages.items()}


def statistics(values: Array) -> dict[str, float] | None:
    """Return mean, median, p95, p99 and max of values (n,), None if there are none."""
    if len(values) == 0:
        return None
    median, p95, p99 = np.percentile(values, [50, 95, 99])
    return {'mean': float(np.mean(values)), 'median': float(median), 'p95': float(p95),
            'p99': float(p99), 'max': float(np.max(values))}


def share(flags: NDArray[np.bool_]) -> float:
    """Return the share of true flags (n,), NaN if there are none."""
    return float(np.mean(flags)) if len(flags) else float('nan')


def json_safe(value: Any) -> Any:
    """Return the value with NaN and infinities as None, and numpy's types as Python's."""
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
