"""Many images on one way: answers joined by a belief over the map's places."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import planar, wrap, yaw_of
from ..mapping.database import PlaceDatabase
from .belief import Belief, BeliefConfig, Located
from .calibration import Calibration
from .fix import Answer, Fix
from .hypotheses import LocalizerConfig, mixture_weights
from .trust import PLANE

Array = NDArray[np.float64]

NOTHING = 0.05  # share of images that say nothing, where no calibration knows it
LEAST, MOST = 0.02, 0.98  # of the probability to be inside: no single image decides that
SAME_HEADING_RAD = math.radians(1.0)


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

    def reset(self) -> None:
        """Forget everything."""
        self.belief.reset()
        self._heading = None

    def joined(self, answer: Answer, T_before_after: Array | None) -> Answer:
        """
        Return the answer as it is with all that came before.

        T_before_after: (4, 4) the vehicle's pose now in its pose at the last image, of odometry;
        None at the first. An image that was not searched stays without a fix.
        """
        if len(answer.candidates) == 0:
            if T_before_after is not None:
                self._move(T_before_after)
            return answer
        if T_before_after is not None:
            self._move(T_before_after)
        places, scores = self._evidence(answer)
        nothing = self._calibration.nothing if self._calibration else NOTHING
        weights = mixture_weights(scores, self._config.temperature)
        ratios = (1.0 - nothing) * len(self._database) * weights + nothing
        self.belief.saw(places, ratios, nothing, self._outside(answer))
        located = self.belief.located(self._config.merge_radius_m)
        if located is None:
            return answer
        return self._answer(answer, located)

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

    def _answer(self, answer: Answer, located: Located) -> Answer:
        place = self._database.T_map_base[located.place]
        x, y, yaw = located.pose
        level = planar(x, y, yaw - (self._heading or 0.0), float(place[2, 3]))
        covariance = self._covariance(answer, located)
        score = answer.estimate.score if answer.estimate else math.nan
        fix = Fix(level, covariance, score)
        figures = (f'{100 * located.probability:.1f} % of the belief within '
                   f'{self._config.merge_radius_m:g} m (at least '
                   f'{100 * self._config.min_probability:g} %), '
                   f'{100 * self.belief.outside:.1f} % outside the map')
        if located.probability >= self._config.min_probability:
            return replace(answer, fix=fix, rejection=None, explanation=f'accepted: {figures}',
                           estimate=fix, confidence=located.probability)
        outside = self.belief.outside > 0.5
        words = 'the vehicle seems to be outside the map' if outside else 'not yet certain'
        return replace(answer, fix=None, rejection='outside' if outside else 'undecided',
                       explanation=f'{words}: {figures}', estimate=fix,
                       confidence=located.probability)

    def _covariance(self, answer: Answer, located: Located) -> Array:
        """Return the belief's covariance, no smaller than what places so far apart can know."""
        assert answer.estimate is not None
        P = np.diag(np.diagonal(answer.estimate.covariance))
        c, s = math.cos(located.pose[2]), math.sin(located.pose[2])
        road = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        config = self._config
        least = np.diag([self._database.spacing_m ** 2 / 12.0, config.lateral_sigma_m ** 2,
                         math.radians(config.heading_sigma_deg) ** 2])
        P[PLANE] = located.covariance + road @ least @ road.T
        return P
