"""What accepting more or fewer answers would have meant: precision and recall by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .false_fixes import false_runs, over_thresholds, POINTS
from .precision import precision_recall, PrecisionRecall
from .recall import count_positives
from .summary import Array, CORRECT_M, json_safe, Record, share, travelled


def acceptance_curve(records: Sequence[Record], place_xy: Array) -> PrecisionRecall | None:
    """
    Return precision and recall as the confidence varies above which a fix is accepted, or None.

    What the localizer would have answered counts (`Answer.estimate`), of rejected images too;
    right is within 20 m of the truth, wherever it looks (a calibration asks for the heading too).
    An image that has no place within 20 m cannot be answered rightly: it is not in recall's
    denominator, accepting it is an error.
    """
    known = [record for record in records if record.has_truth]
    if not known:
        return None
    confidence = np.array([record.confidence for record in known])
    distance = np.array([record.estimate_error_m for record in known])
    # A sequence is of some confidence in images, too, that show no place at all.
    able = np.isfinite(confidence) & np.isfinite(distance)
    truth = np.stack([record.truth[:2, 3] for record in known])
    return precision_recall(np.where(able, confidence, -np.inf), distance <= CORRECT_M,
                            count_positives(truth, place_xy, CORRECT_M) > 0)


def chosen_point(records: Sequence[Record], place_xy: Array) -> dict[str, float]:
    """Return precision, recall and the share of images of what was in fact accepted."""
    known = [record for record in records if record.has_truth]
    error = np.array([record.error_m for record in known])
    accepted = np.array([record.T_map_base is not None for record in known], bool)
    truth = np.array([record.truth[:2, 3] for record in known]).reshape(-1, 2)
    answerable = int((count_positives(truth, place_xy, CORRECT_M) > 0).sum())
    right = int((error <= CORRECT_M).sum())
    return {'precision': right / accepted.sum() if accepted.any() else float('nan'),
            'recall': right / answerable if answerable else float('nan'),
            'accepted_share': share(accepted)}


def acceptance(records: Sequence[Record], place_xy: Array) -> dict[str, Any] | None:
    """
    Return the figures for summary.json; None without truth or without any estimate.

    records: in the order of their stamps, for the runs of false fixes.
    """
    curve = acceptance_curve(records, place_xy)
    if curve is None:
        return None
    known = [record for record in records if record.has_truth]
    stamps = np.array([record.stamp_ns for record in known], np.int64)
    rows = np.unique(np.linspace(0, len(curve.threshold) - 1, POINTS).round().astype(int))
    found: dict[str, Any] = json_safe({
        'correct_radius_m': CORRECT_M,
        'chosen': chosen_point(records, place_xy),
        'f1_max': curve.f1_max, 'f1_threshold': curve.f1_threshold,
        'recall_at_full_precision': curve.recall_at_full_precision,
        'full_precision_threshold': curve.full_precision_threshold,
        'average_precision': curve.average_precision,
        'over_thresholds': over_thresholds(
            np.array([record.confidence for record in known]),
            np.array([record.estimate_error_m for record in known])),
        'false_runs': false_runs([(np.array([record.error_m for record in known]),
                                   travelled(known), (stamps - stamps[0]) * 1e-9)]),
        'curve': {'confidence': curve.threshold[rows], 'precision': curve.precision[rows],
                  'recall': curve.recall[rows]},
    })
    return found
