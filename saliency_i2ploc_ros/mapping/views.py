"""From where the submaps of a map are seen: each view of a submap is a place of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree

from ..data.submaps import SubmapStore
from ..encoders.config import View
from ..geometry.poses import planar, wrap, yaw_of

SMOOTH_REACH = 3.0  # times smooth_m: what lies further adds less than a hundredth
SAME_HEADING_RAD = math.radians(29.0)  # less than between twelve headings of one place


class Views(NamedTuple):
    """submap: (m,) int64, which one is seen. T_base_view: (m, 4, 4), from where in its frame."""

    submap: NDArray[np.int64]
    T_base_view: NDArray[np.float64]

    def T_map_view(self, store: SubmapStore) -> NDArray[np.float64]:
        """Return the poses (m, 4, 4) of the vehicle that looks, in the map frame."""
        return np.asarray(store.poses[self.submap] @ self.T_base_view)


def headings(count: int, views: tuple[View, ...], turned_deg: float = 0.0) -> tuple[View, ...]:
    """
    Return `count` views a submap, evenly all around, the first one ahead or turned to the left.

    views: the model's own; what looks back does so from another lane, and what looks aside from
    as much less far aside as it is turned less.
    """
    lane_m = max((view.left_m for view in views), default=0.0)
    return tuple(
        View(left_m=0.5 * lane_m * (1.0 - math.cos(math.radians(yaw))), yaw_deg=yaw)
        for yaw in (turned_deg + 360.0 * k / count for k in range(count)))


def views_of(store: SubmapStore, views: tuple[View, ...]) -> Views:
    """Return every view of every submap, submap by submap."""
    T = np.stack([planar(0.0, view.left_m, np.radians(view.yaw_deg)) for view in views])
    return Views(np.repeat(np.arange(len(store)), len(views)), np.tile(T, (len(store), 1, 1)))


def smoothed(
    descriptors: NDArray[np.float32], T_map_view: NDArray[np.float64], smooth_m: float,
) -> NDArray[np.float32]:
    """
    Return each place's descriptor (n, D) as a mean with its neighbours', of unit length.

    A neighbour at the distance d in the plane counts exp(-d^2 / 2 smooth_m^2), if it looks the
    same way (29 degrees). What a place owes to chance (which points a scan hit, what was parked
    there) is gone from the mean; what it shares with its street stays. 0 changes nothing.
    """
    if smooth_m == 0.0:
        return descriptors
    xy, yaw = T_map_view[:, :2, 3], yaw_of(T_map_view)
    pairs = cKDTree(xy).query_pairs(SMOOTH_REACH * smooth_m, output_type='ndarray')
    alike = np.abs(wrap(yaw[pairs[:, 0]] - yaw[pairs[:, 1]])) <= SAME_HEADING_RAD
    a, b = pairs[alike].T
    share = np.exp(-0.5 * ((xy[a] - xy[b]) ** 2).sum(1) / smooth_m ** 2).astype(np.float32)
    n = len(descriptors)
    itself = np.arange(n)
    kernel = coo_matrix((np.concatenate([share, share, np.ones(n, np.float32)]),
                         (np.concatenate([a, b, itself]), np.concatenate([b, a, itself])))).tocsr()
    mean = kernel @ np.asarray(descriptors, np.float32)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)
