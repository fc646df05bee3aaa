"""
A belief over the map's places, from many images and the way between them: a discrete Bayes filter.

The state is the place (with its heading) that the vehicle is at, or that it is outside the map.
Only places that something speaks for are held one by one; all others share one background, so that
a map of any size costs what its plausible places cost. The background is also where a kidnapped
vehicle is found again: a little of the belief goes back to it with every metre.

Burgard, Fox, Hennig, Schmidt, "Estimating the absolute position of a mobile robot using position
probability grids", AAAI 1996; the mixture with an outside as in FAB-MAP (Cummins, Newman 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial import cKDTree

from ..geometry.poses import wrap, yaw_of

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

NEGLIGIBLE = 1e-7  # of the belief: what is above the background by less belongs to it
REACH = 3.0  # standard deviations of the motion within which places take over
COVERED = 1.5  # the same within which a place is near enough for nothing to leave the map
REGION = 3.0  # standard deviations of a prior within which places are of its region


class BeliefConfig(BaseModel):
    """
    How the belief moves and forgets. Unknown keys are refused.

    turn_deg: motion is gathered until it has turned as much, or is half the map's spacing long.
    sigma_deg: standard deviation of a step's heading: of odometry and of the grid of headings; its
    length has half the map's spacing. kidnapped_per_m: share of the belief that goes back to the
    background with each metre. outside: share of that which is outside the map. evidence_m: images
    closer to each other count as parts of one, for they share their mistakes. nothing: share of
    images that speak for no place, at least: a calibration's is of images one by one, and a
    place that is mistaken for another is so for several in a row. min_probability: belief at the
    mode, below which there is no fix. prior_share: of the belief that a prior puts into its region
    at least; the rest stays where it was.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    turn_deg: float = Field(default=10.0, gt=0.0)
    sigma_deg: float = Field(default=12.0, gt=0.0)
    kidnapped_per_m: float = Field(default=2e-4, ge=0.0, le=1.0)
    outside: float = Field(default=0.1, ge=0.0, lt=1.0)
    evidence_m: float = Field(default=5.0, gt=0.0)
    nothing: float = Field(default=0.05, gt=0.0, lt=1.0)
    min_probability: float = Field(default=0.999, ge=0.0, le=1.0)
    prior_share: float = Field(default=0.9, ge=0.0, lt=1.0)


@dataclass(frozen=True)
class Located:
    """
    Where the belief has its mode.

    pose: (3,) x, y, yaw of the vehicle in the map. covariance: (3, 3) of the belief within the
    mode. probability: share of the whole belief in it. place: the most believed place.
    """

    pose: Array
    covariance: Array
    probability: float
    place: int


class Belief:
    """
    The belief of one vehicle over n places.

    T_map_place: (n, 4, 4); a place seen in several headings is a row for each. spacing_m: the way
    between neighbours. It begins as knowing nothing. `moved` and `saw` change it, `located`
    says what it comes to; `told` takes what is known otherwise.

    places, weights: those held one by one, in order. background: the belief in all the others
    together, even among them. outside: the belief in none of them. All add up to 1.
    """

    def __init__(
        self, T_map_place: Array, spacing_m: float, config: BeliefConfig | None = None,
    ) -> None:
        self.config = config or BeliefConfig()
        self._move_m = self._sigma_m = 0.5 * spacing_m
        self._xy = np.array(T_map_place[:, :2, 3], np.float64)
        self._yaw = np.asarray(yaw_of(T_map_place), np.float64)
        self._tree = cKDTree(self._xy)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.places: Indices = np.zeros(0, np.int64)
        self.weights: Array = np.zeros(0)
        self.outside = self.config.outside
        self.background = 1.0 - self.outside
        self._step = np.eye(4)  # since the places were moved
        self._since_seen_m = math.inf

    @property
    def _each(self) -> float:
        """Return the belief in each place that is not held."""
        return self.background / max(len(self._xy) - len(self.places), 1)

    def moved(self, T_before_after: Array) -> None:
        """Follow the vehicle; T_before_after: (4, 4), its new pose in its old one (odometry)."""
        self._since_seen_m += float(np.linalg.norm(T_before_after[:2, 3]))
        self._step = self._step @ T_before_after
        far = float(np.linalg.norm(self._step[:2, 3]))
        turned = abs(math.degrees(yaw_of(self._step)))
        if far >= self._move_m or turned >= self.config.turn_deg:
            self._transfer()
            self._forget(min(1.0, self.config.kidnapped_per_m * far))
            self._step = np.eye(4)

    def _transfer(self) -> None:
        """Move what is held to the places that lie where the vehicle went."""
        if len(self.places) == 0:
            return
        # What all places have in common stays so wherever they move; the rest is moved.
        common = self._each
        rest = self.weights - common
        now = self._moved_poses(self.places)
        near = self._tree.query_ball_point(now[:, :2], REACH * self._sigma_m)
        source = np.repeat(np.arange(len(near)), [len(found) for found in near])
        target = np.array([i for found in near for i in found], np.int64)
        apart = ((self._xy[target] - now[source, :2]) ** 2).sum(1) / self._sigma_m ** 2
        turned = wrap(self._yaw[target] - now[source, 2]) / math.radians(self.config.sigma_deg)
        share = np.exp(-0.5 * (apart + turned ** 2))
        reached = np.bincount(source, share, len(near))
        # Where no place lies ahead the vehicle leaves the map.
        stays = np.minimum(1.0, reached / math.exp(-0.5 * COVERED ** 2))
        share *= (rest * stays / np.maximum(reached, 1e-300))[source]
        places, weights = _summed(target, share)
        self.outside += max(0.0, float((rest * (1.0 - stays)).sum()))
        self._hold(places, np.maximum(weights + common, 0.0), 1.0 - self.outside)

    def _forget(self, share: float) -> None:
        """Give a share of what is believed back: to any place, or to none."""
        self.outside += share * (self.config.outside - self.outside)
        even = share * (1.0 - self.config.outside) / len(self._xy)
        self._hold(self.places, self.weights * (1.0 - share) + even, 1.0 - self.outside)

    def _hold(self, places: Indices, weights: Array, inside: float) -> None:
        """Hold the places that are above the others; `inside` is the belief in all places."""
        self.places, self.weights = places, weights
        self.background = max(0.0, inside - float(weights.sum()))
        kept = weights - self._each > NEGLIGIBLE
        self.background += float(weights[~kept].sum())
        self.places, self.weights = places[kept], weights[kept]

    def saw(self, places: Indices, ratios: ArrayLike, elsewhere: float, outside: float) -> None:
        """
        Weigh an image's evidence.

        places: (k,) the retrieved ones, each once. ratios: (k,) how much likelier the image is
        there than anywhere; elsewhere: the same for every place that was not retrieved; outside:
        the same outside the map. All above 0. An image nearer to the last one than `evidence_m`
        counts as that share of one.
        """
        power = min(1.0, self._since_seen_m / self.config.evidence_m)
        if power <= 0.0:
            return
        self._since_seen_m = 0.0
        held = np.union1d(self.places, places)
        weights, likelihood = np.full(len(held), self._each), np.full(len(held), elsewhere)
        weights[np.searchsorted(held, self.places)] = self.weights
        likelihood[np.searchsorted(held, places)] = ratios
        rest = 1.0 - self.outside - float(weights.sum())
        weights *= likelihood ** power
        rest = max(0.0, rest) * elsewhere ** power
        self.outside *= outside ** power
        total = float(weights.sum()) + rest + self.outside
        self.outside /= total
        self._hold(held, weights / total, 1.0 - self.outside)

    def told(self, pose: Array, covariance: Array) -> float:
        """
        Believe a prior, as far as `prior_share`; return the belief in its region before.

        pose: (3,) x, y, yaw in the map, of now. covariance: (3, 3) of it, positive definite; a
        heading that is not known has a large variance. Its region are the places within three of
        its standard deviations, widened by what lies between two places; NaN without any, and
        then nothing changes. A region that is believed less than `prior_share` is raised to that,
        within it by the prior's Gaussian times what was believed (Jeffrey's rule, 1965). So all
        else keeps its odds and is found again if images speak for it; a prior that is said again,
        or that is vaguer than what is known, changes nothing.
        """
        wider = np.array([self._sigma_m, self._sigma_m, math.radians(self.config.sigma_deg)]) ** 2
        P = np.asarray(covariance, np.float64) + np.diag(wider)
        reach = REGION * math.sqrt(np.linalg.eigvalsh(P[:2, :2])[-1])
        near = np.array(self._tree.query_ball_point(
            pose[:2], reach + float(np.linalg.norm(self._step[:2, 3]))), np.int64)
        off = self._moved_poses(near) - pose
        off[:, 2] = wrap(off[:, 2])
        squared = np.einsum('ij,ij->i', off, np.linalg.solve(P, off.T).T)
        region, squared = near[squared <= REGION ** 2], squared[squared <= REGION ** 2]
        if len(region) == 0:
            return math.nan
        held = np.union1d(self.places, region)
        weights = np.full(len(held), self._each)
        weights[np.searchsorted(held, self.places)] = self.weights
        rows = np.searchsorted(held, region)
        before = float(weights[rows].sum())
        lacking = (self.config.prior_share - before) / max(1.0 - before, NEGLIGIBLE)
        if lacking > NEGLIGIBLE:
            within = weights[rows] * np.exp(-0.5 * squared)
            if within.sum() <= 0.0:
                within = np.exp(-0.5 * squared)
            weights *= 1.0 - lacking
            weights[rows] += lacking * within / within.sum()
            self.outside *= 1.0 - lacking
            self._hold(held, weights, 1.0 - self.outside)
        return before

    def located(self, radius_m: float) -> Located | None:
        """
        Return the mode of the belief: what lies within `radius_m` of its heaviest cluster.

        None while no place is held. The cluster is the one around the place that has the most
        belief within the radius and looks the same way (45 degrees).
        """
        if len(self.places) == 0:
            return None
        poses = self._moved_poses(self.places)
        order = np.argsort(-self.weights)[:64]
        apart = np.linalg.norm(poses[order, None, :2] - poses[None, :, :2], axis=2)
        alike = np.abs(wrap(poses[order, None, 2] - poses[None, :, 2])) <= math.pi / 4
        cluster = (apart <= radius_m) & alike
        best = int(np.argmax(cluster @ self.weights))
        rows = cluster[best]
        w = self.weights[rows]
        probability = float(w.sum())
        w = w / probability
        centre = poses[order[best]]
        off = poses[rows] - centre
        off[:, 2] = wrap(off[:, 2])
        mean = w @ off
        spread = off - mean
        pose = centre + mean
        pose[2] = wrap(pose[2])
        return Located(pose, (w[:, None] * spread).T @ spread, probability,
                       int(self.places[order[best]]))

    def _moved_poses(self, places: Indices) -> Array:
        """Return x, y and yaw (m, 3) of the vehicle, were it last at each of the places (m,)."""
        x, y, turn = self._step[0, 3], self._step[1, 3], float(yaw_of(self._step))
        yaw = self._yaw[places]
        c, s = np.cos(yaw), np.sin(yaw)
        ahead = np.stack([c * x - s * y, s * x + c * y], 1)
        return np.column_stack([self._xy[places] + ahead, wrap(yaw + turn)])


def _summed(places: Indices, weights: Array) -> tuple[Indices, Array]:
    """Return each place once, in order, with the sum of its weights."""
    unique, inverse_of = np.unique(places, return_inverse=True)
    return unique, np.bincount(inverse_of.ravel(), weights, len(unique)).astype(np.float64)
