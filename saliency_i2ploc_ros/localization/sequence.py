"""Many images on one way: answers joined by a belief over the map's places."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import planar, transform, wrap, yaw_of
from ..mapping.database import PlaceDatabase
from .belief import Belief, BeliefConfig, Located
from .calibration import Calibration
from .fix import Answer, Fix
from .hypotheses import LocalizerConfig, mixture_weights
from .odometry_noise import OdometryNoise
from .trust import PLANE

Array = NDArray[np.float64]

LEAST, MOST = 0.02, 0.98  # of the probability to be inside: no single image decides that
SAME_HEADING_RAD = math.radians(1.0)
SEQUENCE_REASONS = {'undecided': 'not yet certain',
                    'outside': 'the vehicle seems to be outside the map'}


@dataclass(frozen=True)
class Prior:
    """
    Where a vehicle is thought to be by something else: a last fix, GNSS, a person.

    T_map_base: (4, 4), of which x, y and yaw count. covariance: (3, 3) of these, in the map.
    """

    T_map_base: Array
    covariance: Array

    def moved(self, T_before_after: Array, noise: OdometryNoise | None = None) -> Prior:
        """
        Return what it says after a motion (4, 4) of the vehicle, told with this noise or exactly.

        The yaw is normal, of mean m and variance v, so that a motion d in the vehicle goes
        R(yaw) d = cos(e) a + sin(e) b, with e ~ N(0, v), a = R(m) d and b = R(m + 90 degrees) d.
        The mean of that is exp(-v/2) a, its covariance (1 - exp(-v))^2 / 2 a a^T
        + (1 - exp(-2v)) / 2 b b^T, that with the yaw exp(-v/2) v b, and with the position
        exp(-v/2) c b^T, where c is the position's with the yaw (Stein's lemma). Of a small v it is
        the linear propagation; of a heading that is not known the position stays and widens.
        What the noise adds is turned by the same yaw: of its covariance in the plane, what does
        not depend on a direction stays, and exp(-2v) of the rest.
        """
        P = self.covariance
        v, known = P[2, 2], math.exp(-0.5 * P[2, 2])
        yaw, d = float(yaw_of(self.T_map_base)), T_before_after[:2, 3]
        a, b = (planar(0.0, 0.0, yaw + turn)[:2, :2] @ d for turn in (0.0, 0.5 * math.pi))
        with_position = known * np.outer(P[:2, 2], b)
        Q = P.copy()
        Q[:2, :2] += (with_position + with_position.T
                      + 0.5 * (1.0 - math.exp(-v)) ** 2 * np.outer(a, a)
                      + 0.5 * (1.0 - math.exp(-2.0 * v)) * np.outer(b, b))
        Q[:2, 2] += known * v * b
        if noise is not None:
            R, N = planar(0.0, 0.0, yaw)[:2, :2], noise.covariance(T_before_after)
            even = 0.5 * np.trace(N[:2, :2]) * np.eye(2)
            Q[:2, :2] += even + math.exp(-2.0 * v) * (R @ (N[:2, :2] - even) @ R.T)
            Q[:2, 2] += known * (R @ N[:2, 2])
            Q[2, 2] += N[2, 2]
        Q[2, :2] = Q[:2, 2]
        x, y, z = self.T_map_base[:3, 3]
        return Prior(planar(x + known * a[0], y + known * a[1],
                            yaw + float(yaw_of(T_before_after)), z), Q)


class Sequence:
    """
    Joins the answers of one vehicle's images with its odometry.

    An answer's candidates are evidence, as its calibration weighs it; the fix is that of the
    belief, and accepted by the belief's own probability. It has a memory: `reset` it where time or
    the vehicle jump.
    """

    def __init__(
        self, database: PlaceDatabase, config: LocalizerConfig,
        calibration: Calibration | None = None, belief: BeliefConfig | None = None,
    ) -> None:
        self._database, self._config, self._calibration = database, config, calibration
        self.belief = Belief(database.T_map_base, database.spacing_m, belief or BeliefConfig(
            outside=config.outside))
        self._heading: float | None = None  # of the camera in the vehicle: places are its poses
        # Of the last prior: how much was believed of its region, NaN if no place is in it.
        self.agreed = math.nan

    def reset(self) -> None:
        """Forget everything."""
        self.belief.reset()
        self._heading = None

    def joined(
        self, answer: Answer, T_before_after: Array | None, prior: Prior | None = None,
    ) -> Answer:
        """
        Return the answer as it is with all that came before.

        T_before_after: (4, 4) the vehicle's pose now in its pose at the last image, of odometry;
        None at the first. An image that was not searched stays without a fix. prior: of the time
        of this image, which must have been searched; see `Belief.told`.
        """
        if T_before_after is not None:
            self._move(T_before_after)
        if len(answer.candidates) == 0:
            return answer
        places, scores = self._evidence(answer)
        if prior is not None:
            T = prior.T_map_base @ planar(0.0, 0.0, self._heading or 0.0)
            self.agreed = self.belief.told(
                np.array([*T[:2, 3], float(yaw_of(T))]), prior.covariance)
        if len(places) > 0:
            nothing = self.belief.config.nothing
            if self._calibration is not None:
                nothing = max(nothing, self._calibration.nothing)
            weights = mixture_weights(scores, self._config.temperature)
            ratios = (1.0 - nothing) * len(self._database) * weights + nothing
            self.belief.saw(places, ratios, nothing, self._outside(answer))
        return self._answer(answer, self.belief.located(self._config.merge_radius_m))

    def _move(self, T_before_after: Array) -> None:
        turn = planar(0.0, 0.0, self._heading or 0.0)
        self.belief.moved(np.linalg.inv(turn) @ T_before_after @ turn)

    def _evidence(self, answer: Answer) -> tuple[NDArray[np.int64], Array]:
        """Return the places (k,), each once, that the candidates stand for, and their scores."""
        found = answer.candidates
        heading = wrap(yaw_of(self._database.T_map_base[found.indices])
                       - yaw_of(found.T_map_base))
        if self._heading is None:
            self._heading = float(heading[0])
        # Of a camera that looks elsewhere another place stands for the same vehicle: left out.
        same = np.abs(wrap(heading - self._heading)) <= SAME_HEADING_RAD
        places, first = np.unique(found.indices[same], return_index=True)
        return places.astype(np.int64), found.scores[same][first].astype(np.float64)

    def _outside(self, answer: Answer) -> float:
        """Return how much likelier the image is outside the map than anywhere in it."""
        if math.isnan(answer.inside):
            return 1.0
        inside = min(max(answer.inside, LEAST), MOST)
        return (1.0 - inside) / inside

    def _answer(self, answer: Answer, located: Located | None) -> Answer:
        """Return the answer with the belief's fix, or with why there is none."""
        probability = 0.0 if located is None else located.probability
        fix = None if located is None else Fix(
            self._pose(located), self._covariance(located),
            answer.estimate.score if answer.estimate else math.nan)
        figures = (f'{100 * probability:.1f} % of the belief within '
                   f'{self._config.merge_radius_m:g} m (at least '
                   f'{100 * self.belief.config.min_probability:g} %), '
                   f'{100 * self.belief.outside:.1f} % outside the map')
        if fix is not None and probability >= self.belief.config.min_probability:
            return replace(answer, fix=fix, rejection=None, explanation=f'accepted: {figures}',
                           estimate=fix, confidence=probability, outside=self.belief.outside)
        rejection = 'outside' if self.belief.outside > 0.5 else 'undecided'
        return replace(answer, fix=None, rejection=rejection,
                       explanation=f'{SEQUENCE_REASONS[rejection]}: {figures}', estimate=fix,
                       confidence=probability, outside=self.belief.outside)

    def _pose(self, located: Located) -> Array:
        """Return T_map_base (4, 4) of the vehicle; height and slope are the place's own."""
        place = self._database.T_map_base[located.place]
        x, y, yaw = located.pose
        turned = planar(0.0, 0.0, float(yaw - yaw_of(place))) @ place @ planar(
            0.0, 0.0, -(self._heading or 0.0))
        return transform(turned[:3, :3], [x, y, place[2, 3]])

    @property
    def floors(self) -> Array:
        """Return the least standard deviations (3,) along, across and of the heading, by rule."""
        config = self._config
        return np.array([max(self._database.spacing_m, 1.0) / math.sqrt(12.0),
                         config.lateral_sigma_m, math.radians(config.heading_sigma_deg)])

    def _covariance(self, located: Located) -> Array:
        """
        Return the covariance (6, 6) of the fix, of the belief's own spread about its mode.

        With a calibration by its laws for the spread of an image's hypotheses, at even odds: the
        belief's odds say how sure the mode is, and nothing of how far it is off. Without, the
        belief's and what places so far apart can know.
        """
        config = self._config
        P = np.diag([1.0, 1.0, config.z_sigma_m ** 2,
                     *[math.radians(config.tilt_sigma_deg) ** 2] * 2, 1.0])
        yaw = float(located.pose[2]) - (self._heading or 0.0)
        c, s = math.cos(yaw), math.sin(yaw)
        road = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        own = road.T @ located.covariance @ road
        if self._calibration is None:
            plane = road @ (own + np.diag(self.floors ** 2)) @ road.T
        else:
            spread = np.append(np.sqrt(np.maximum(np.diagonal(own), 0.0)), 0.0)
            plane = self._calibration.plane_covariance(spread, yaw)
        P[PLANE] = 0.5 * (plane + plane.T)
        return P
