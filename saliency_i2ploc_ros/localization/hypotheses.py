"""
From the best-matching places to one pose with an honest covariance.

The k places found are taken as a mixture of hypotheses 'the vehicle stands at this place', with
weights from their similarities. The answer is the mean of the cluster around the best one; the
covariance is that of the whole mixture about this answer, so that it grows when the map's places
contradict each other, and never falls below what a map of discrete places can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial.transform import Rotation

from ..geometry.poses import planar, transform

Array = NDArray[np.float64]

# Places within this heading of the best one are the same view; a street that was mapped in both
# directions has others, which say something about the spread but nothing about the mean heading.
SAME_HEADING_RAD = math.radians(45.0)


class LocalizerConfig(BaseModel):
    """
    When an image gets a fix, and how sure that fix is. Unknown keys are refused.

    top_k: places searched for each image. verify: compare them with the image once more, where the
    model has a verifier (see `verification`). temperature: difference of scores that makes a place
    e times less likely. merge_radius_m: places this near to the best one form its cluster.
    min_probability: of being right, below which there is no fix; outside: how often images come
    from outside the map, before anything is seen. Both are for a calibrated localizer. Without a
    calibration min_weight, the share of the weight in the best cluster, decides. min_score: score
    of the best place, below which there is no fix in any case; any number, since a verifier adds
    to cosines as much as its weight says. min_contrast: standard deviation of
    grey levels (0 to 255) of an image that shows something; min_visible: share of it in which
    details are to be seen (see `visibility_of`). frozen_s: a camera that has shown the
    very same picture for longer is not believed (where images have stamps: `ros.pipeline`); 0: it
    is. The rest are standard deviations
    that remain when all places agree, see `covariance`; x, y and heading of a calibrated localizer
    have their own.
    """

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    top_k: int = Field(default=20, ge=1)
    verify: bool = True
    temperature: float = Field(default=0.03, gt=0.0)
    merge_radius_m: float = Field(default=20.0, gt=0.0)
    min_probability: float = Field(default=0.95, ge=0.0, le=1.0)
    outside: float = Field(default=0.05, ge=0.0, lt=1.0)
    min_score: float = 0.0
    min_weight: float = Field(default=0.7, ge=0.0, le=1.0)
    min_contrast: float = Field(default=4.0, ge=0.0)
    min_visible: float = Field(default=0.4, ge=0.0, le=1.0)
    frozen_s: float = Field(default=1.0, ge=0.0)
    lateral_sigma_m: float = Field(default=2.0, gt=0.0)
    heading_sigma_deg: float = Field(default=5.0, gt=0.0)
    z_sigma_m: float = Field(default=5.0, gt=0.0)
    tilt_sigma_deg: float = Field(default=10.0, gt=0.0)


@dataclass(frozen=True)
class Retrieved:
    """
    What one image found in the map.

    scores: (k,), best first: cosines, or what verification made of them. indices: (k,) places.
    T_map_place: (k, 4, 4) their poses.
    heading: where the camera looks in its vehicle, radians, left positive. floor: the smallest of
    the cosines, before verification: the most that a place not found can have.
    """

    scores: NDArray[np.float32]
    indices: NDArray[np.int64]
    T_map_place: Array
    heading: float
    floor: float


@dataclass(frozen=True)
class Joined:
    """
    The hypotheses of all images of one moment, best first (see `join`).

    scores: (n,) float64, means over the images. evidence: (n,) the same less what several images
    brought twice: what the mixture's weights are made of. indices: (n,) places. T_map_place:
    (n, 4, 4), turned as the camera of the best hypothesis would see them. heading: of that camera.
    """

    scores: Array
    evidence: Array
    indices: NDArray[np.int64]
    T_map_place: Array
    heading: float


def join(found: Sequence[Retrieved], config: LocalizerConfig) -> Joined:
    """
    Return one mixture of what several images of one moment found; of one image, what it found.

    Each place, turned back by its camera's heading, says where the vehicle would be. For such a
    pose every image has a score: its own candidate's there (the nearest one within
    `merge_radius_m` and 45 degrees), or, where it has none, its `floor`: the most that the place's
    cosine can be, and nothing added, since no verifier has seen it. The last candidate's score
    would not do: it is that of a place which the verifier spoke against, and the more firmly it
    did, the less would count what the other images found elsewhere. The pose's score is the mean
    over the images: weights become the geometric mean of the images' own (a logarithmic opinion
    pool), so that images that share a mistake do not make it a certainty, and the same image twice
    says no more than once.

    A pose that m of the images brought is in the mixture about m times: each time it counts 1 / m.
    """
    headings = np.array([one.heading for one in found])
    owner = np.concatenate([np.full(len(one.scores), i) for i, one in enumerate(found)])
    places = np.concatenate([one.T_map_place for one in found])
    T_map_base = places @ _turns(-headings)[owner]
    total, brought = np.zeros(len(owner)), np.zeros(len(owner))
    for i, one in enumerate(found):
        own, others = owner == i, owner != i
        seen, there = _scores_at(T_map_base[others], T_map_base[own], one, config)
        total[own] += one.scores
        total[others] += seen
        brought[own] += 1.0
        brought[others] += there
    scores = total / len(found)
    order = np.argsort(-scores, kind='stable')
    lead = headings[owner[order[0]]]
    return Joined(
        scores[order], (scores - config.temperature * np.log(brought))[order],
        np.concatenate([one.indices for one in found])[order],
        # From the places, not from T_map_base: one turned by nothing keeps every bit.
        (places @ _turns(lead - headings)[owner])[order], float(lead))


def _turns(yaws: Array) -> Array:
    return np.stack([planar(0.0, 0.0, float(yaw)) for yaw in yaws])


def _scores_at(
    poses: Array, T_map_base: Array, found: Retrieved, config: LocalizerConfig,
) -> tuple[Array, NDArray[np.bool_]]:
    """
    Return what an image gives other poses, (n,), and where it has a candidate.

    T_map_base: (k, 4, 4), where its candidates say that the vehicle is.
    """
    apart = np.linalg.norm(poses[:, None, :2, 3] - T_map_base[None, :, :2, 3], axis=2)
    # The trace of R_a R_b^T is 1 + 2 cos(angle between them).
    trace = np.einsum('aij,bij->ab', poses[:, :3, :3], T_map_base[:, :3, :3])
    alike = (apart <= config.merge_radius_m) & (trace >= 1.0 + 2.0 * math.cos(SAME_HEADING_RAD))
    there = alike.any(axis=1)
    nearest = np.where(alike, apart, np.inf).argmin(axis=1)
    return np.where(there, found.scores[nearest], found.floor).astype(np.float64), there


@dataclass(frozen=True)
class Estimate:
    """
    The mixture's answer.

    T_map_place: (4, 4) pose of the map's vehicle at the answer. covariance: (6, 6).
    weights: (k,) of the hypotheses. cluster: (k,) which were averaged. alike: (k,) which of these
    look the same way as the best. cluster_weight: the cluster's share, 0..1.
    """

    T_map_place: Array
    covariance: Array
    weights: Array
    cluster: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    cluster_weight: float


def mixture_weights(scores: ArrayLike, temperature: float) -> Array:
    """Return softmax(scores / temperature), (k,), in float64; the sum is 1."""
    values = np.asarray(scores, np.float64) / temperature
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum())


def estimate(
    scores: ArrayLike, T_map_place: Array, spacing_m: float, config: LocalizerConfig,
) -> Estimate:
    """
    Return the pose that the retrieved places speak for.

    scores: (k,), best first (of several images, the evidence of `join`).
    T_map_place: (k, 4, 4) poses of the map's vehicle there. spacing_m: distance between
    neighbouring places of the map.

    Position: weighted mean of the cluster, the hypotheses within `merge_radius_m` (in the plane)
    of the best. Rotation: weighted chordal mean of those of the cluster that look the same way as
    the best; for level poses this is exactly the circular mean of their headings.
    """
    poses = np.asarray(T_map_place, np.float64)
    weights = mixture_weights(scores, config.temperature)
    positions, rotations = poses[:, :3, 3], Rotation.from_matrix(poses[:, :3, :3])
    cluster = np.linalg.norm(positions[:, :2] - positions[0, :2], axis=1) <= config.merge_radius_m
    share = float(weights[cluster].sum())
    # Relative to the best one: a mean of coordinates near 4e6 m would lose digits.
    offset = (weights[cluster, None] * (positions[cluster] - positions[0])).sum(axis=0) / share
    alike = cluster & ((rotations * rotations[0].inv()).magnitude() <= SAME_HEADING_RAD)
    rotation = rotations[alike].mean(weights[alike])
    answer = transform(rotation.as_matrix(), positions[0] + offset)
    P = covariance(weights, poses, answer, spacing_m, config)
    return Estimate(answer, P, weights, cluster, alike, share)


def covariance(
    weights: Array, T_map_place: Array, answer: Array, spacing_m: float, config: LocalizerConfig,
) -> Array:
    """
    Return the (6, 6) covariance of the answer, in ROS's order, about the map's fixed axes.

        P = sum_i w_i d_i d_i^T  +  Q

    d_i = (p_i - p, log(R_i R^T)) is how far hypothesis i lies from the answer (p, R): metres and a
    rotation vector about the map's axes; for level poses its last entry is the difference of the
    headings, wrapped. The sum is over all k hypotheses, not only the cluster's, and about the
    answer, not about their mean: it is the mean squared error of the answer if the mixture is
    right. When two far places look alike it is as large as their distance; it is not cut off.

    Q is what remains when all hypotheses agree:

    - along the map's road: spacing^2 / 12, the variance of a vehicle anywhere between two places;
    - across it: lateral_sigma^2, for the map was driven in one lane and the query perhaps in
      another. Both are turned by the road's heading into the map's axes;
    - z, roll, pitch: set wide (z_sigma, tilt_sigma), since one image against submaps does not
      measure them: they are the map's own;
    - heading: heading_sigma^2, since neighbouring headings look alike.

    The sum is positive semidefinite and Q positive definite, hence P is positive definite.
    weights: (k,); T_map_place: (k, 4, 4); answer: (4, 4); spacing_m > 0.
    """
    d = np.empty((len(weights), 6))
    d[:, :3] = T_map_place[:, :3, 3] - answer[:3, 3]
    d[:, 3:] = Rotation.from_matrix(T_map_place[:, :3, :3] @ answer[:3, :3].T).as_rotvec()
    spread = (weights[:, None] * d).T @ d

    yaw = math.atan2(answer[1, 0], answer[0, 0])
    c, s = math.cos(yaw), math.sin(yaw)
    road = np.array([[c, -s], [s, c]])
    Q = np.zeros((6, 6))
    # A map may be denser than the vehicle is long; a metre is as fine as any place says 'here'.
    along = max(spacing_m, 1.0) ** 2 / 12.0
    Q[:2, :2] = road @ np.diag([along, config.lateral_sigma_m ** 2]) @ road.T
    Q[2, 2] = config.z_sigma_m ** 2
    Q[3, 3] = Q[4, 4] = math.radians(config.tilt_sigma_deg) ** 2
    Q[5, 5] = math.radians(config.heading_sigma_deg) ** 2
    P = spread + Q
    return np.asarray(0.5 * (P + P.T))
