"""How the vehicle moved from one image to the next, for a sequence: by odometry, or by a guess."""

from __future__ import annotations

from collections import deque
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.poses import inverse, planar, wrap, yaw_of
from ..localization.belief import BeliefConfig
from ..localization.fix import Answer
from ..localization.localizer import Localizer
from ..localization.odometry_noise import OdometryNoise
from ..localization.sequence import Prior, Sequence
from .diagnostics import REFUSALS
from .odometry import OdometryTf, OdometryTopic
from .prior import Told

Array = NDArray[np.float64]

PATIENCE_S = 0.3  # with odometry that comes later than the image of its time
SPEED_MPS = 8.0  # that is guessed before fixes tell: of a car in a town
WINDOW_NS = 3_000_000_000  # of fixes that tell how fast the vehicle is
LEAST_NS = 500_000_000  # between two fixes that do
# Of a belief that is moved by a guess, which misses turns and stops: looser, and forgetting more.
GUESSED = {'sigma_deg': 40.0, 'kidnapped_per_m': 0.005}
# Of a prior that is: a car in a town drives 0 to 16 m/s, and may turn by 90 degrees within 20 m;
# both are two deviations.
NOISE_OF_GUESS = OdometryNoise(scale=0.5, slip_m=0.0, turn_deg=10.0, bias_deg_m=0.0)

# Of images that have no time or were not looked at: they say nothing to a sequence.
OUT_OF_SEQUENCE = {'out_of_order', *REFUSALS}


class ByOdometry:
    """The motion that an odometry tells; `odometry` is asked in the inference thread."""

    def __init__(
        self, odometry: OdometryTopic | OdometryTf, patience_s: float = PATIENCE_S,
    ) -> None:
        self._odometry, self._patience_s = odometry, patience_s
        self._last: Array | None = None
        self._last_ns = 0

    def to(self, stamp_ns: int) -> Array | None:
        """
        Return T_before_after (4, 4) from the last time that it was told of; None at the first.

        Waits a little for odometry that is late; where none comes: InputError, and the next
        motion begins where the last one ended.
        """
        end = time.monotonic() + self._patience_s
        while True:
            try:
                T = self._odometry.at(stamp_ns)
                break
            except InputError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        last, self._last, self._last_ns = self._last, T, stamp_ns
        return None if last is None else np.asarray(inverse(last) @ T)

    def moved(self, prior: Prior, stamp_ns: int) -> Prior:
        """
        Return a prior of this time as of the time last told of.

        Where no odometry tells the way between, it stays and is wider by a guess of that way: at
        `SPEED_MPS` in any direction, with the turns of `NOISE_OF_GUESS`.
        """
        try:
            T_before_after = inverse(self._odometry.at(stamp_ns)) @ self._last
        except InputError:
            way = SPEED_MPS * 1e-9 * abs(self._last_ns - stamp_ns)
            turn = math.radians(NOISE_OF_GUESS.turn_deg) ** 2 * way
            return Prior(prior.T_map_base, prior.covariance + np.diag([way ** 2, way ** 2, turn]))
        return prior.moved(T_before_after, OdometryNoise())

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
        return self._over(stamp_ns - last)

    def moved(self, prior: Prior, stamp_ns: int) -> Prior:
        """Return a prior of this time as of the time last told of."""
        return prior.moved(self._over((self._last_ns or stamp_ns) - stamp_ns), NOISE_OF_GUESS)

    def _over(self, duration_ns: int) -> Array:
        dt = duration_ns * 1e-9
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
    """A sequence and what moves it; in the inference thread, but for `forget`."""

    def __init__(self, sequence: Sequence, motion: ByOdometry | ConstantVelocity) -> None:
        self.sequence, self._motion = sequence, motion
        self._anew = False

    def follow(self, answer: Answer, stamp_ns: int, told: Told | None = None) -> Answer:
        """
        Return the answer as the sequence has it, with a prior that came since the last one.

        One without odometry of its time is 'no_odometry' and says nothing to the sequence; one
        that was refused stays as it is.
        """
        if answer.rejection in OUT_OF_SEQUENCE:
            return answer
        if self._anew:
            self._anew = False
            self.sequence.reset()
            self._motion.forget()
        try:
            T_before_after = self._motion.to(stamp_ns)
        except InputError as error:
            return Answer(None, 'no_odometry', str(error), answer.candidates, answer.milliseconds,
                          answer.saliency, answer.estimate, 0.0, answer.inside)
        prior = None if told is None else self._motion.moved(
            told.prior, told.stamp_ns or stamp_ns)
        joined = self.sequence.joined(answer, T_before_after, prior)
        self._motion.answered(joined, stamp_ns)
        return joined

    def forget(self) -> None:
        """Begin anew with the next answer; called in any thread, while one is at work or not."""
        self._anew = True


def follower_of(
    localizer: Localizer, given: dict[str, Any], odometry: OdometryTopic | OdometryTf | None,
    patience_s: float = PATIENCE_S,
) -> Follower | None:
    """Return what follows a way as the parameters ask for, None if they ask for no sequence."""
    if given['sequence'] == 'none':
        return None
    motion: ByOdometry | ConstantVelocity = ConstantVelocity()
    guessed = GUESSED
    if odometry is not None and given['sequence'] == 'odometry':
        motion, guessed = ByOdometry(odometry, patience_s), {}
    belief = BeliefConfig(outside=localizer.config.outside,
                          min_probability=given['sequence_min_probability'],
                          prior_share=given['prior_share'], **guessed)
    return Follower(Sequence(localizer.database, localizer.config, localizer.calibration, belief),
                    motion)
