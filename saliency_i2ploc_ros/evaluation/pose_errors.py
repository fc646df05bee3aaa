"""Errors of poses in the map, and whether their covariances are honest. Nothing is aligned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ..geometry.poses import wrap, yaw_of

Array = NDArray[np.float64]

# Of ROS's covariance: x, y and the rotation about z.
PLANAR = np.ix_([0, 1, 5], [0, 1, 5])
# Shares of the errors that an honest covariance is to cover, for a reliability diagram.
RELIABILITY_LEVELS: Array = np.array([*np.arange(0.05, 1.0, 0.05), 0.99])


def planar_errors(T_estimate: Array, T_truth: Array) -> Array:
    """Return estimate - truth as (n, 3): x, y in metres about the map's axes, yaw in [-pi, pi)."""
    T_estimate, T_truth = T_estimate.reshape(-1, 4, 4), T_truth.reshape(-1, 4, 4)
    xy = T_estimate[:, :2, 3] - T_truth[:, :2, 3]
    return np.column_stack([xy, wrap(yaw_of(T_estimate) - yaw_of(T_truth))])


@dataclass(frozen=True)
class Consistency:
    """
    How errors compare with their covariances.

    coverage: by 'x', 'y', 'yaw', the shares within 1, 2 and 3 sigma; a Gaussian has 0.683, 0.954
    and 0.997. anees_xy, anees_xy_yaw: average normalised estimation error squared, e^T P^-1 e over
    its dimension (Bar-Shalom et al., 2001, 5.4): 1 is honest, above is overconfident.
    """

    coverage: dict[str, tuple[float, float, float]]
    anees_xy: float
    anees_xy_yaw: float


def consistency(errors: Array, covariances: Array) -> Consistency:
    """Return the consistency of errors (n, 3) of `planar_errors` under covariances (n, 6, 6)."""
    P = np.stack([covariance[PLANAR] for covariance in covariances])
    sigma = np.sqrt(np.diagonal(P, axis1=1, axis2=2))
    ratio = np.abs(errors) / sigma
    coverage = {
        name: (float((ratio[:, i] <= 1).mean()), float((ratio[:, i] <= 2).mean()),
               float((ratio[:, i] <= 3).mean()))
        for i, name in enumerate(('x', 'y', 'yaw'))
    }
    return Consistency(coverage, anees(errors[:, :2], P[:, :2, :2]), anees(errors, P))


def reliability(errors: Array, covariances: Array) -> dict[str, Array]:
    """
    Return which shares of errors lie where RELIABILITY_LEVELS of a Gaussian's would, by name.

    errors (n, 3) of `planar_errors`, covariances (n, 6, 6). 'x', 'y', 'yaw': within the interval
    of one axis; 'xy': within the ellipse of the position. Below the level is overconfident.
    """
    P = np.stack([covariance[PLANAR] for covariance in covariances])
    variance = np.diagonal(P, axis1=1, axis2=2)
    squared = {name: (errors[:, i] ** 2 / variance[:, i], 1)
               for i, name in enumerate(('x', 'y', 'yaw'))}
    whitened = np.linalg.solve(P[:, :2, :2], errors[:, :2, None])[:, :, 0]
    squared['xy'] = (errors[:, :2] * whitened).sum(axis=1), 2
    return {name: (values[:, None] <= chi2.ppf(RELIABILITY_LEVELS, d)).mean(axis=0)
            for name, (values, d) in squared.items()}


def anees(errors: Array, covariances: Array) -> float:
    """Return the mean over n of e^T P^-1 e / d, for errors (n, d) and covariances (n, d, d)."""
    whitened = np.linalg.solve(covariances, errors[:, :, None])[:, :, 0]
    return float((errors * whitened).sum(axis=1).mean() / errors.shape[1])
