"""`~/prior`: where the vehicle is thought to be by something else, for a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
import threading
import time
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..localization.sequence import Prior
from .conversions import message_to_pose, stamp_of

MAX_AGE_S = 5.0  # between a prior and the image that it is weighed at
PLANE = np.ix_([0, 1, 5], [0, 1, 5])  # x, y and yaw of a pose's covariance


@dataclass(frozen=True)
class Told:
    """
    A prior and when it was true; stamp_ns is 0 for whenever it is taken up.

    came_at: when it came, of the monotonic clock, seconds.
    """

    prior: Prior
    stamp_ns: int
    came_at: float = field(default_factory=time.monotonic)


def prior_of(message: PoseWithCovarianceStamped, map_frame: str) -> Told:
    """
    Return what a message says; one that cannot be used is an InputError.

    Of the covariance only x, y and yaw count, which must be positive definite together: what
    comes from RViz has zeros for the rest.
    """
    frame = message.header.frame_id.lstrip('/')
    if frame != map_frame.lstrip('/'):
        raise InputError(f'it is in the frame {frame!r}: send it in {map_frame!r}')
    covariance: NDArray[np.float64] = np.asarray(
        message.pose.covariance, np.float64).reshape(6, 6)[PLANE]
    T = message_to_pose(message.pose.pose)
    if not np.isfinite(covariance).all() or not np.isfinite(T).all():
        raise InputError('its pose or its covariance is not finite')
    even = 0.5 * (covariance + covariance.T)
    if not np.allclose(even, covariance, rtol=1e-6) or np.linalg.eigvalsh(even)[0] <= 0.0:
        raise InputError('its covariance of x, y and yaw is not symmetric and positive definite: '
                         'give each a variance; that of an unknown heading is large (100)')
    return Told(Prior(T, even), stamp_of(message.header))


class Priors:
    """The newest prior that no image has been weighed with; for several threads."""

    def __init__(self, map_frame: str) -> None:
        self._map_frame = map_frame
        self._newest: Told | None = None
        self._lock = threading.Lock()

    def add(self, message: Any) -> None:
        """Keep a message; one that cannot be used is an InputError."""
        try:
            told = prior_of(message, self._map_frame)
        except InputError as error:
            raise InputError(f'a prior was refused: {error}') from error
        with self._lock:
            self._newest = told

    def take(self, stamp_ns: int) -> Told | None:
        """Return it for an image of this stamp and keep it no longer; InputError if too old."""
        with self._lock:
            told, self._newest = self._newest, None
        if told is None:
            return None
        waited = time.monotonic() - told.came_at
        if told.stamp_ns == 0 and waited > MAX_AGE_S:
            raise InputError(f'a prior was refused: it has no stamp and waited {waited:.1f} s for '
                             f'an image, more than {MAX_AGE_S:g} s; send it while images come')
        apart = (told.stamp_ns - stamp_ns) * 1e-9
        if told.stamp_ns != 0 and abs(apart) > MAX_AGE_S:
            raise InputError(
                f'a prior was refused: its stamp is {apart:+.1f} s from the image, more than '
                f'{MAX_AGE_S:g} s; stamp it with the time that it is of, by the clock of the '
                'images (use_sim_time), or with 0 for now')
        return told

    def keep(self, told: Told) -> None:
        """Keep for the next image what could not be weighed, unless a newer one has come."""
        with self._lock:
            self._newest = self._newest or told

    def forget(self) -> None:
        """Forget it."""
        with self._lock:
            self._newest = None
