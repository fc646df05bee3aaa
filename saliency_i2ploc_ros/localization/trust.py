"""Whether an answer becomes a fix, and what its covariance is then: calibrated, or by rule."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import yaw_of
from .calibration import Calibration, evidence_of, spread_of
from .hypotheses import Estimate, Joined, LocalizerConfig, SAME_HEADING_RAD

Array = NDArray[np.float64]

PLANE = np.ix_([0, 1, 5], [0, 1, 5])  # of ROS's covariance: x, y and the rotation about z
REASONS = {'low_score': 'no place looks like the image',
           'ambiguous': 'places far apart look alike'}


@dataclass(frozen=True)
class Trust:
    """
    What is thought of an answer.

    rejection: None, or why it is no fix ('low_score', 'ambiguous'). confidence: what decides, 0 to
    1: the probability of being right, or without a calibration the weight of the best cluster.
    inside: see `Answer`. covariance: (6, 6) of the fix. figures: what decided, in words.
    """

    rejection: str | None
    confidence: float
    inside: float
    covariance: Array
    figures: str


def judged(
    joined: Joined, result: Estimate, hypotheses: Array, T_map_base: Array,
    config: LocalizerConfig, calibration: Calibration | None,
) -> Trust:
    """
    Return whether an estimate can be trusted.

    hypotheses: (k, 4, 4) where the vehicle would be; T_map_base: (4, 4) the answer. An answer that
    is not probable enough is 'low_score' where an image from outside the map is likelier than a
    mistake within it.
    """
    score = float(joined.scores[0])
    figures = f'best similarity {score:.2f} (at least {config.min_score:g})'
    low = score < config.min_score
    if calibration is None:
        weight = result.cluster_weight
        figures += (f', {100 * weight:.0f} % of the weight within {config.merge_radius_m:g} m of '
                    f'it (at least {100 * config.min_weight:g} %)')
        reason = 'low_score' if low else 'ambiguous' if weight < config.min_weight else None
        return Trust(reason, weight, math.nan, result.covariance, figures)

    evidence = evidence_of(joined.scores, result.weights, result.cluster, result.alike)
    right = float(calibration.right(evidence))
    probability = float(calibration.probability(evidence, config.outside))
    figures += (f', right within {calibration.radius_m:g} m and '
                f'{math.degrees(SAME_HEADING_RAD):g} degrees with a probability of '
                f'{100 * probability:.1f} % (at least {100 * config.min_probability:g} %)')
    reason = None
    if low or probability < config.min_probability:
        # How probable the map's not reaching there makes the mistake, against the rest of it.
        reason = 'low_score' if low or probability / max(right, 1e-12) < right else 'ambiguous'
    spread = spread_of(result.weights, hypotheses, result.alike, T_map_base)
    # x, y and heading are measured; z, roll and pitch are the map's, and go with none of them.
    covariance = np.diag(np.diagonal(result.covariance))
    covariance[PLANE] = calibration.plane_covariance(spread, float(yaw_of(T_map_base)))
    inside = math.nan if calibration.inside is None else float(calibration.inside(evidence))
    return Trust(reason, probability, inside, covariance, figures)
