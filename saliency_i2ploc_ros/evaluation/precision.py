"""Precision and recall as the similarity varies above which an answer is believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PrecisionRecall:
    """
    One point for each threshold, from the highest score down.

    threshold: (m,) an answer of at least this score is accepted. precision: (m,) the share of the
    accepted that is right. recall: (m,) the right ones among all queries that have a right place.
    f1_max, f1_threshold: the largest harmonic mean of both, and where. recall_at_full_precision,
    full_precision_threshold: the most that is found without one wrong acceptance; 0 and NaN if the
    highest score of all is of a wrong answer. average_precision: the area below, by steps.
    """

    threshold: Array
    precision: Array
    recall: Array
    f1_max: float
    f1_threshold: float
    recall_at_full_precision: float
    full_precision_threshold: float
    average_precision: float


def precision_recall(
    score: NDArray[np.floating], right: NDArray[np.bool_], answerable: NDArray[np.bool_],
) -> PrecisionRecall | None:
    """
    Return how precision and recall depend on the score; None if no query has a right place.

    score: (q,) of each query's first answer, -inf without one. right: (q,) whether it is. Queries
    that are not answerable (q,) count too: accepting one is an error, since on the road an image
    from off the map must be refused. Equal scores are accepted together.
    """
    total = int(np.count_nonzero(answerable))
    answered = np.isfinite(score)
    if total == 0 or not answered.any():
        return None
    order = np.argsort(-np.asarray(score[answered], np.float64), kind='stable')
    scores = np.asarray(score[answered], np.float64)[order]
    correct = np.cumsum(np.asarray(right)[answered][order])
    last = np.append(np.diff(scores) != 0.0, True)
    threshold, correct = scores[last], correct[last]
    accepted = np.flatnonzero(last) + 1
    precision, recall = correct / accepted, correct / total
    f1 = 2.0 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    full = int(np.flatnonzero(precision == 1.0).max(initial=-1))
    return PrecisionRecall(
        threshold, precision, recall, float(f1[best]), float(threshold[best]),
        float(recall[full]) if full >= 0 else 0.0,
        float(threshold[full]) if full >= 0 else float('nan'),
        float(np.sum(np.diff(recall, prepend=0.0) * precision)))
