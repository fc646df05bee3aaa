"""How the vehicle moved from one image to the next, for a sequence: by odometry, or by a guess."""

from __future__ import annotations

from collections import deque
import math
import time

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.poses import inverse, planar, wrap, yaw_of
from ..localization.fix import Answer
from ..localization.sequence import Sequence
from .odometry import OdometryTf, OdometryTopic

Array = NDArray[np.float64]

PATIENCE_S = 0.3  # with odometry that comes later than the image of its time
SPEED_MPS = 8.0  # that is guessed before fixes tell: of a car in a town
WINDOW_NS = 3_000_000_000  # of fixes that tell how fast the vehicle is
LEAST_NS = 500_000_000  # between two fixes that do
# Of a belief that is moved by a guess, which misses turns and stops: looser, and forgetting more.
GUESSED = {'sigma_deg': 40.0, 'kidnapped_per_m': 0.005}


class ByOdometry:
    """The motion that an odometry tells; `odometry` is asked in the inference thread."""

    def __init__(self, odometry: OdometryTopic | OdometryTf) -> None:
        self._odometry = odometry
        self._last: Array | None = None

    def to(self, stamp_ns: int) -> Array | None:
        """
        Return T_before_after (4, 4) from the last time that it was told of; None at the first.

        Waits a little for odometry that is late; where none comes: InputError, and the next
        motion begins where the last one ended.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                T = self._odometry.at(stamp_ns)
                break
            except InputError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        last, self._last = self._last, T
        return None if last is None else np.asarray(inverse(last) @ T)

    def answered(self, answer: Answer, stamp_ns: int) -> None:
        """Odometry needs no fixes."""

    def forget(self) -> None:
        """Begin anew."""
        self._last = None


class ConstantVelocity:
    """
    A guess: the vehicle goes on as its fixes of the last seconds went, at first at `SPEED_MPS`.

    It cannot tell a stop from a drive before fixes do.
    """

    def __init__(self) -> None:
        self.forget()

    def to(self, stamp_ns: int) -> Array | None:
        """Return T_before_after (4, 4) as `ByOdometry.to` does."""
        last, self._last_ns = self._last_ns, stamp_ns
        if last is None:
            return None
        dt = (stamp_ns - last) * 1e-9
        half = 0.5 * self._turn * dt  # along the chord of the arc
        T = planar(0.0, 0.0, half) @ planar(self._speed * dt, 0.0, half)
        return np.asarray(T)

    def answered(self, answer: Answer, stamp_ns: int) -> None:
        """Learn from a fix."""
        if answer.fix is None:
            return
        fixes = self._fixes
        fixes.append((stamp_ns, answer.fix.T_map_base))
        while stamp_ns - fixes[0][0] > WINDOW_NS:
            fixes.popleft()
        dt = (stamp_ns - fixes[0][0]) * 1e-9
        if dt * 1e9 >= LEAST_NS:
            moved = inverse(fixes[0][1]) @ fixes[-1][1]
            self._speed = math.copysign(float(np.hypot(*moved[:2, 3])), moved[0, 3]) / dt
            self._turn = float(wrap(yaw_of(moved))) / dt

    def forget(self) -> None:
        """Begin anew."""
        self._last_ns: int | None = None
        self._speed, self._turn = SPEED_MPS, 0.0
        self._fixes: deque[tuple[int, Array]] = deque()


class Follower:
    """A sequence and what moves it; all in the inference thread."""

    def __init__(self, sequence: Sequence, motion: ByOdometry | ConstantVelocity) -> None:
        self.sequence, self._motion = sequence, motion

    def follow(self, answer: Answer, stamp_ns: int) -> Answer:
        """
        Return the answer as the sequence has it.

        One without odometry of its time is 'no_odometry' and says nothing to the sequence.
        """
        try:
            T_before_after = self._motion.to(stamp_ns)
        except InputError as error:
            return Answer(None, 'no_odometry', str(error), answer.candidates, answer.milliseconds,
                          answer.saliency, answer.estimate, 0.0, answer.inside)
        joined = self.sequence.joined(answer, T_before_after)
        self._motion.answered(joined, stamp_ns)
        return joined

    def forget(self) -> None:
        """Begin anew."""
        self.sequence.reset()
        self._motion.forget()
