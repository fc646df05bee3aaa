"""Fixes over 20 m off: how many there would be by the threshold, and how long they last."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .summary import CORRECT_M

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

POINTS = 101  # of a curve in summary.json, at most
RATES = (0.001, 0.01)  # of false fixes, for which the most that can be accepted is said


def over_thresholds(confidence: Array, distance: Array) -> dict[str, Any] | None:
    """
    Return availability and false-fix rate as the confidence varies that a fix needs.

    confidence: (n,) what acceptance goes by, NaN where there is nothing to accept. distance: (n,)
    how far the fix is off or would be, NaN without one. Availability is the accepted share of all
    n images, those without anything to accept included; the false-fix rate is of the accepted
    ones. Equal confidences are accepted together. None if nothing can be accepted.

    availability_at: the largest availability at which at most such a rate is false, by the best
    threshold: it is chosen on the very images that it is told of, and more than a threshold does
    that was chosen before. None where fewer than 1 / rate fixes are accepted at it, which is too
    few to tell such a rate.
    """
    able = np.isfinite(confidence) & np.isfinite(distance)
    if not able.any():
        return None
    order = np.argsort(-confidence[able], kind='stable')
    threshold = confidence[able][order]
    false = np.cumsum(distance[able][order] > CORRECT_M)
    last = np.append(np.diff(threshold) != 0.0, True)
    count = np.flatnonzero(last) + 1
    threshold, rate = threshold[last], false[last] / count
    availability = count / len(confidence)
    most = most_available(confidence, distance)(np.arange(len(confidence)))
    rows = np.unique(np.linspace(0, len(threshold) - 1, POINTS).round().astype(int))
    return {'confidence': threshold[rows], 'availability': availability[rows],
            'false_fix_rate': rate[rows],
            'availability_at': {
                f'{rate:g}': float(share) if share * len(confidence) * rate >= 1.0 - 1e-9 else None
                for rate, share in zip(RATES, most, strict=True)}}


def most_available(confidence: Array, distance: Array) -> Callable[[Indices], Array]:
    """
    Return what says the largest availability at each of `RATES`, (2,), of some rows.

    confidence, distance: (n,) as of `over_thresholds`. The rows (m,) may repeat, as a bootstrap
    draws them; 0 where no threshold keeps to the rate.
    """
    able = np.flatnonzero(np.isfinite(confidence) & np.isfinite(distance))
    order = able[np.argsort(-confidence[able], kind='stable')]
    false = distance[order] > CORRECT_M
    last = np.append(np.diff(confidence[order]) != 0.0, True)[:len(order)]

    def of(rows: Indices) -> Array:
        drawn = np.bincount(rows, minlength=len(confidence))[order]
        accepted, wrong = np.cumsum(drawn)[last], np.cumsum(drawn * false)[last]
        return np.array([accepted[wrong <= rate * accepted].max(initial=0)
                         for rate in RATES]) / len(rows)

    return of


def false_runs(drives: Iterable[tuple[Array, Array, Array]]) -> dict[str, Any]:
    """
    Return how many runs of false fixes there are, and how long the longest of them last.

    drives: of each its images in order: distance (n,) of the accepted fix from the truth, NaN
    without; metres and seconds (n,) since it began. A right fix ends a run, an image without one
    does not. A run of a single fix is 0 m long.
    """
    fixes, lengths, lasted = [0], [0.0], [0.0]
    for distance, metres, seconds in drives:
        found = np.flatnonzero(np.isfinite(distance))
        false = distance[found] > CORRECT_M
        edges = np.diff(np.concatenate([[0], false.astype(int), [0]]))
        for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1,
                              strict=True):
            first, last = found[start], found[end]
            fixes.append(int(end - start + 1))
            lengths.append(float(metres[last] - metres[first]))
            lasted.append(float(seconds[last] - seconds[first]))
    return {'count': len(fixes) - 1, 'longest_fixes': max(fixes), 'longest_m': max(lengths),
            'longest_s': max(lasted)}
