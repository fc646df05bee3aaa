"""
Poses as 4 x 4 float64 matrices, and what is done with them.

`T_a_b` is the pose of frame b in frame a: it takes a point's coordinates in b to those in a, so
that `T_map_lidar = T_map_base @ T_base_lidar`. Frames follow REP-103: `base` (base_link) has x
forward, y left, z up; `camera` is an optical frame with x right, y down, z forward. Lengths are
metres, angles radians. Map coordinates stay float64: a float32 at 4e6 m has steps of 0.25 m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]

# The axes of an optical frame in a frame of x forward, y left, z up (REP-103).
R_base_optical: Array = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def transform(rotation: ArrayLike | None = None, translation: ArrayLike | None = None) -> Array:
    """Return the 4 x 4 pose with this rotation (3, 3) and translation (3,); either may be left."""
    T = np.eye(4)
    if rotation is not None:
        T[:3, :3] = rotation
    if translation is not None:
        T[:3, 3] = translation
    return T


def planar(x: float, y: float, yaw: float, z: float = 0.0) -> Array:
    """Return the pose at (x, y, z) turned by `yaw` about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return transform([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], [x, y, z])


def from_rows(rows: ArrayLike) -> Array:
    """Return poses (..., 4, 4) from their upper three rows (..., 12), as KITTI writes them."""
    values = np.asarray(rows, np.float64)
    T = np.zeros((*values.shape[:-1], 4, 4))
    T[..., :3, :] = values.reshape(*values.shape[:-1], 3, 4)
    T[..., 3, 3] = 1.0
    return T


def inverse(T: Array) -> Array:
    """Return the inverse of rigid poses (..., 4, 4)."""
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    result = np.zeros_like(T)
    result[..., :3, :3] = R_t
    result[..., :3, 3] = -(R_t @ T[..., :3, 3, None])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def apply(T: Array, points: ArrayLike) -> Array:
    """Return points (..., 3) moved by one pose (4, 4), in float64."""
    return np.asarray(points, np.float64) @ T[:3, :3].T + T[:3, 3]


def yaw_of(T: Array) -> Array:
    """Return the heading of poses (..., 4, 4): the angle of their x axis about z, in (-pi, pi]."""
    return np.arctan2(T[..., 1, 0], T[..., 0, 0])


def wrap(angle: ArrayLike) -> Array:
    """Return angles brought into [-pi, pi)."""
    return (np.asarray(angle, np.float64) + np.pi) % (2.0 * np.pi) - np.pi


def to_quaternion(T: Array) -> Array:
    """Return the unit quaternions (..., 4) of poses, as x, y, z, w with w >= 0."""
    shape = T.shape[:-2]
    q = Rotation.from_matrix(T[..., :3, :3].reshape(-1, 3, 3)).as_quat()
    return np.asarray(np.where(q[:, 3:] < 0.0, -q, q)).reshape(*shape, 4)


def from_quaternion(q: ArrayLike, translation: ArrayLike) -> Array:
    """Return poses (..., 4, 4) from quaternions x, y, z, w (need not be unit) and positions."""
    q, t = np.asarray(q, np.float64), np.asarray(translation, np.float64)
    T = np.zeros((*q.shape[:-1], 4, 4))
    T[..., :3, :3] = Rotation.from_quat(q.reshape(-1, 4)).as_matrix().reshape(*q.shape[:-1], 3, 3)
    T[..., :3, 3] = t
    T[..., 3, 3] = 1.0
    return T


def interpolate(
    stamps_ns: NDArray[np.int64], poses: Array, at_ns: NDArray[np.int64], max_gap_s: float = 1.0,
) -> Array:
    """
    Return the poses (m, 4, 4) at times `at_ns` (m,), NaN where there is none.

    stamps_ns: (n,) strictly increasing; poses: (n, 4, 4). Position is linear and rotation slerped
    between the two neighbours. There is none outside the stamps, nor between two neighbours more
    than `max_gap_s` apart, except exactly at a stamp.
    """
    at = np.atleast_1d(np.asarray(at_ns, np.int64))
    result = np.full((len(at), 4, 4), np.nan)
    if len(stamps_ns) == 0:
        return result
    after = np.clip(np.searchsorted(stamps_ns, at), 0, len(stamps_ns) - 1)
    exact = stamps_ns[after] == at
    result[exact] = poses[after[exact]]
    before = np.maximum(after - 1, 0)
    gap = stamps_ns[after] - stamps_ns[before]
    inside = (~exact & (at > stamps_ns[0]) & (at < stamps_ns[-1])
              & (gap <= round(max_gap_s * 1e9)))
    for i in np.flatnonzero(inside):
        a, b = before[i], after[i]
        w = (at[i] - stamps_ns[a]) / gap[i]
        rotations = Rotation.from_matrix(poses[[a, b], :3, :3])
        result[i] = transform(Slerp([0.0, 1.0], rotations)(w).as_matrix(),
                              (1.0 - w) * poses[a, :3, 3] + w * poses[b, :3, 3])
    return result


def path_length(positions: Array) -> Array:
    """Return the distance travelled (n,) along planar or spatial positions (n, d), from 0."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])
