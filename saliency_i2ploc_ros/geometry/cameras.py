"""
Cameras: points of an optical frame (x right, y down, z forward) to pixels and back.

Here are the two that are without distortion, `Pinhole` and `Panorama`; those of real lenses are
in `lenses`. Pixel (0, 0) is the centre of the upper left pixel of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera(ABC):
    """What all cameras have in common. width, height: pixels."""

    width: int
    height: int

    @abstractmethod
    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """
        Return the pixels (n, 2) of points (n, 3), and which of them lie inside the image.

        Where the model says nothing of a direction, its pixel is NaN and it is not inside.
        """

    @abstractmethod
    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """
        Return unit directions (n, 3) of pixels (n, 2); None: of all, row by row.

        NaN where no direction comes to a pixel.
        """

    @abstractmethod
    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of the same view resampled to another size (either may stretch)."""

    def scaled(
        self, width: int, height: int, fx: float, fy: float, cx: float, cy: float,
    ) -> tuple[float, float, float, float]:
        """Return focal lengths and centre in pixels of an image resampled to another size."""
        sx, sy = width / self.width, height / self.height
        # Whole numbers are the pixels' middles, so that the image begins at -0.5.
        return fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5

    @property
    def horizontal_fov(self) -> float:
        """Return the angle between the left and the right image edge, in radians."""
        # Along the middle row, as far as the model is valid; each column is a part of it.
        u = np.linspace(-0.5, self.width - 0.5, 2 * self.width + 1)
        d = self.rays(np.stack([u, np.full(len(u), (self.height - 1) / 2)], 1))
        azimuth = np.arctan2(d[:, 0], d[:, 2])[np.isfinite(d[:, 0])]
        return float(np.abs(np.diff(np.unwrap(azimuth))).sum())

    @property
    def pixel_angle(self) -> float:
        """Return the angle between neighbouring pixels at the image's middle, in radians."""
        middle = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        left, right = self.rays([middle - [0.5, 0.0], middle + [0.5, 0.0]])
        return float(np.linalg.norm(np.cross(left, right)))

    def contains(self, pixels: Array) -> NDArray[np.bool_]:
        """Return which pixels (n, 2) lie inside the image; NaN does not."""
        with np.errstate(invalid='ignore'):
            return np.asarray((pixels[:, 0] >= -0.5) & (pixels[:, 0] < self.width - 0.5)
                              & (pixels[:, 1] >= -0.5) & (pixels[:, 1] < self.height - 0.5))

    def pixels(self) -> Array:
        """Return the centres (n, 2) of all pixels, row by row."""
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        return np.stack([u.ravel(), v.ravel()], 1).astype(np.float64)


@dataclass(frozen=True)
class Pinhole(Camera):
    """A rectified perspective camera. fx, fy, cx, cy: pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def K(self) -> Array:
        """Return the 3 x 3 intrinsic matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def horizontal_fov(self) -> float:
        """Return the angle between the left and the right image edge, in radians."""
        left = math.atan((self.cx + 0.5) / self.fx)
        right = math.atan((self.width - 0.5 - self.cx) / self.fx)
        return left + right

    @property
    def pixel_angle(self) -> float:
        """Return the angle between neighbouring pixels on the optical axis, in radians."""
        return 1.0 / self.fx

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """
        Return the pixels (n, 2) of points (n, 3), and which of them lie inside the image.

        Points at or behind the camera's plane (z <= 0) are never inside; their pixels are NaN.
        """
        p = np.asarray(points, np.float64)
        z = np.where(p[:, 2] > 0.0, p[:, 2], np.nan)
        uv = np.stack([self.fx * p[:, 0] / z + self.cx, self.fy * p[:, 1] / z + self.cy], 1)
        return uv, self.contains(uv)

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """Return unit directions (n, 3) of pixels (n, 2); None: of all, row by row."""
        uv = self.pixels() if pixels is None else np.asarray(pixels, np.float64)
        d = np.stack([(uv[:, 0] - self.cx) / self.fx, (uv[:, 1] - self.cy) / self.fy,
                      np.ones(len(uv))], 1)
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def resized(self, width: int, height: int) -> Pinhole:
        """Return the camera of the same view resampled to another size (either may stretch)."""
        return Pinhole(width, height, *self.scaled(
            width, height, self.fx, self.fy, self.cx, self.cy))


@dataclass(frozen=True)
class Panorama(Camera):
    """
    The full circle, equirectangular: columns are azimuths and rows elevations, evenly spaced.

    Ahead (z) is the middle between the two middle columns' centres; the image's left edge and its
    right one are both straight behind, and what is to the right of ahead (x) is right in the
    image. top_deg, bottom_deg: elevations of the upper and the lower edge, degrees above the
    plane of x and z (against y); 90 and -90 are the whole sphere.
    """

    top_deg: float
    bottom_deg: float

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0
                and -90.0 <= self.bottom_deg < self.top_deg <= 90.0):
            raise InputError(
                f'a panorama of {self.width} x {self.height} pixels from {self.bottom_deg:g} to '
                f'{self.top_deg:g} degrees cannot be: -90 <= bottom < top <= 90 must hold')

    @property
    def horizontal_fov(self) -> float:
        """Return the full circle, in radians."""
        return 2.0 * math.pi

    @property
    def pixel_angle(self) -> float:
        """Return the angle between neighbouring columns on the horizon, in radians."""
        return 2.0 * math.pi / self.width

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """
        Return the pixels (n, 2) of points (n, 3), and which of them lie inside the image.

        u is in [-0.5, width - 0.5) always; v is outside the image above and below its edges. Only
        the origin, which has no direction, has pixels that are NaN.
        """
        p = np.asarray(points, np.float64)
        flat = np.hypot(p[:, 0], p[:, 2])
        turn = np.arctan2(p[:, 0], p[:, 2]) / (2.0 * np.pi) + 0.5
        elevation = np.degrees(np.arctan2(-p[:, 1], flat))
        v = (self.top_deg - elevation) / (self.top_deg - self.bottom_deg) * self.height - 0.5
        u = turn * self.width - 0.5
        u = np.where(u >= self.width - 0.5, -0.5, u)
        uv = np.stack([u, v], 1)
        uv[(flat == 0.0) & (p[:, 1] == 0.0)] = np.nan
        return uv, self.contains(uv)

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """
        Return unit directions (n, 3) of pixels (n, 2); None: of all, row by row.

        Columns beyond the edges go round the circle; rows beyond the poles are NaN.
        """
        uv = self.pixels() if pixels is None else np.asarray(pixels, np.float64)
        azimuth = ((uv[:, 0] + 0.5) / self.width - 0.5) * 2.0 * np.pi
        share = (uv[:, 1] + 0.5) / self.height
        degrees = self.top_deg - share * (self.top_deg - self.bottom_deg)
        elevation = np.radians(np.where(np.abs(degrees) <= 90.0, degrees, np.nan))
        flat = np.cos(elevation)
        return np.stack([flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)], 1)

    def resized(self, width: int, height: int) -> Panorama:
        """Return the panorama of the same view resampled to another size (either may stretch)."""
        return Panorama(width, height, self.top_deg, self.bottom_deg)
