"""Camera models: points of an optical frame (x right, y down, z forward) to pixels and back."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pinhole:
    """
    A rectified perspective camera. Pixel (0, 0) is the centre of the upper left pixel.

    width, height: pixels; fx, fy, cx, cy: pixels.
    """

    width: int
    height: int
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

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """
        Return the pixels (n, 2) of points (n, 3), and which of them lie inside the image.

        Points at or behind the camera's plane (z <= 0) are never inside; their pixels are NaN.
        """
        p = np.asarray(points, np.float64)
        z = np.where(p[:, 2] > 0.0, p[:, 2], np.nan)
        uv = np.stack([self.fx * p[:, 0] / z + self.cx, self.fy * p[:, 1] / z + self.cy], 1)
        with np.errstate(invalid='ignore'):
            inside = ((uv[:, 0] >= -0.5) & (uv[:, 0] < self.width - 0.5)
                      & (uv[:, 1] >= -0.5) & (uv[:, 1] < self.height - 0.5))
        return uv, inside

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """Return unit directions (n, 3) of pixels (n, 2); None: of all, row by row."""
        if pixels is None:
            u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
            pixels = np.stack([u.ravel(), v.ravel()], 1)
        uv = np.asarray(pixels, np.float64)
        d = np.stack([(uv[:, 0] - self.cx) / self.fx, (uv[:, 1] - self.cy) / self.fy,
                      np.ones(len(uv))], 1)
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def resized(self, width: int, height: int) -> Pinhole:
        """Return the camera of the same view resampled to another size (either may stretch)."""
        sx, sy = width / self.width, height / self.height
        return Pinhole(width, height, self.fx * sx, self.fy * sy,
                       (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5)
