"""
A baseline that learns nothing: the outline of what stands against the sky.

What an image shows without learning is where the sky begins; what a submap says is how high
things rise in each direction. Both are elevation angles by azimuth, from the camera's place. Their
logarithms, less the mean and scaled to unit length, are searched as any descriptor is: the product
of two is their correlation. Bright facades, trees, streets longer than the submap and roofs above
what the LiDAR saw mislead it: it says what a model must beat, not what is possible.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry.cameras import Camera

Array = NDArray[np.float64]

NAME = 'skyline'
BIN_DEG = 3.0
_NEAREST_M = 2.0  # what is nearer is the vehicle's own
_LEAST = math.radians(0.5)  # added to elevations: the horizon has a logarithm too
_ROWS = 96  # to which an image is shrunk: an outline to the pixel is not worth its noise


@dataclass(frozen=True)
class Outlook:
    """
    From where and how wide the outline is seen.

    eye: (3,) in base_link. azimuth: (bins + 1,) edges in radians about base_link's z, increasing,
    0 ahead. top: (bins,) the highest elevation in sight, radians.
    """

    eye: Array
    azimuth: Array
    top: Array

    @property
    def bins(self) -> int:
        """Return the number of directions."""
        return len(self.top)

    def bin_of(self, azimuth: Array) -> NDArray[np.int64]:
        """Return the bin of each azimuth (n,), -1 outside."""
        turned = (azimuth - self.azimuth[0]) % (2.0 * np.pi)
        width = self.azimuth[1] - self.azimuth[0]
        index = np.floor(turned / width).astype(np.int64)
        return np.where(index < self.bins, index, -1)


def outlook_of(camera: Camera, T_base_camera: Array) -> Outlook:
    """Return the outlook of a camera, in bins of about BIN_DEG."""
    azimuth, elevation = _directions(camera, T_base_camera, np.zeros(camera.width))
    seen = np.isfinite(azimuth)
    around = np.unwrap(azimuth[seen])
    low, high = float(around.min()), float(around.max())
    bins = max(8, round(math.degrees(high - low) / BIN_DEG))
    edges: Array = np.linspace(low, high + 1e-9, bins + 1, dtype=np.float64)
    top = np.full(bins, float(np.median(elevation[seen])))
    index = np.clip(np.searchsorted(edges, around, 'right') - 1, 0, bins - 1)
    for i in np.unique(index):
        top[i] = float(np.mean(elevation[seen][index == i]))
    return Outlook(np.asarray(T_base_camera[:3, 3], np.float64), edges, top)


def all_around(eye_height_m: float) -> Outlook:
    """Return the outlook in every direction from this height above base_link's origin."""
    bins = round(360.0 / BIN_DEG)
    edges: Array = np.linspace(-np.pi, np.pi, bins + 1, dtype=np.float64)
    return Outlook(np.array([0.0, 0.0, eye_height_m]), edges, np.full(bins, np.pi / 2))


def outline_of_points(points: NDArray[np.floating], outlook: Outlook) -> NDArray[np.float32]:
    """
    Return the descriptor (bins,) of a submap: how high it rises in each direction.

    points: (n, 3) in base_link. What rises above the camera's view counts as its upper edge, and a
    direction without anything as the horizon. A submap without an outline is all zeros.
    """
    p = np.asarray(points, np.float64) - outlook.eye
    distance = np.hypot(p[:, 0], p[:, 1])
    index = outlook.bin_of(np.arctan2(p[:, 1], p[:, 0]))
    used = (index >= 0) & (distance > _NEAREST_M)
    highest = np.zeros(outlook.bins)
    np.maximum.at(highest, index[used], np.arctan2(p[used, 2], distance[used]))
    return _descriptor(np.clip(highest, 0.0, outlook.top))


def outline_of_image(
    image: NDArray[np.uint8], camera: Camera, T_base_camera: Array, outlook: Outlook,
) -> NDArray[np.float32]:
    """Return the descriptor (bins,) of an RGB image (H, W, 3): where its sky begins."""
    height = min(_ROWS, camera.height)
    small = camera.resized(max(1, round(camera.width * height / camera.height)), height)
    shrunk = cv2.resize(image, (small.width, small.height), interpolation=cv2.INTER_AREA)
    azimuth, elevation = _directions(
        small, T_base_camera, sky_rows(np.asarray(shrunk, np.uint8),
                                       _horizon(small, T_base_camera)))
    index = outlook.bin_of(np.where(np.isfinite(azimuth), azimuth, 0.0))
    used = (index >= 0) & np.isfinite(azimuth)
    total = np.bincount(index[used], np.clip(elevation[used], 0.0, None), outlook.bins)
    count = np.bincount(index[used], minlength=outlook.bins)
    mean = total.sum() / max(count.sum(), 1)
    return _descriptor(np.where(count > 0, total / np.maximum(count, 1), mean))


def sky_rows(image: NDArray[np.uint8], horizon: int) -> Array:
    """
    Return for each column (W,) of an RGB image the row where the sky ends, 0 where there is none.

    The sky's colour is the median of the brighter half of the upper edge. How far a pixel may be
    from it is where Otsu's threshold (1979) parts the pixels above the horizon (a row).
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    above = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)[:max(2, min(horizon, len(image)))]
    edge = above[:2].reshape(-1, 3).astype(np.float64)
    bright = edge[edge[:, 0] >= np.median(edge[:, 0])]
    colour = np.median(bright, axis=0)
    distance = np.linalg.norm(above.astype(np.float64) - colour, axis=2)
    grey = np.clip(distance * 2.0, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    other = grey > threshold
    # One odd pixel is a lamp or noise: what stands goes on below.
    standing = other & np.vstack([other[1:], other[-1:]])
    return np.where(standing.any(axis=0), standing.argmax(axis=0), len(above)).astype(np.float64)


def _horizon(camera: Camera, T_base_camera: Array) -> int:
    """Return the row of the middle column where the elevation passes zero."""
    rows = np.arange(camera.height, dtype=np.float64)
    middle = np.full(camera.height, (camera.width - 1) / 2)
    rays = camera.rays(np.stack([middle, rows], 1)) @ np.asarray(T_base_camera)[:3, :3].T
    below = np.flatnonzero(rays[:, 2] < 0.0)
    return int(below[0]) if len(below) else camera.height


def _directions(camera: Camera, T_base_camera: Array, rows: Array) -> tuple[Array, Array]:
    """Return azimuth and elevation (W,) in base_link of one pixel in each column, NaN if none."""
    rays = camera.rays(np.stack([np.arange(camera.width, dtype=np.float64), rows], 1))
    x, y, z = (rays @ np.asarray(T_base_camera)[:3, :3].T).T
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))


def _descriptor(elevation: Array) -> NDArray[np.float32]:
    # An elevation is a height over a distance: heights of which only a part was seen become an
    # offset, which goes with the mean.
    logarithm = np.log(np.maximum(elevation, 0.0) + _LEAST)
    centred = logarithm - logarithm.mean()
    length = float(np.linalg.norm(centred))
    # An even outline (a tunnel, fog) says nothing: it is like nothing, not like anything.
    return (centred / length if length > 1e-6 else np.zeros(len(centred))).astype(np.float32)
