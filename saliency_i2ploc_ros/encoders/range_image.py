"""A submap as a range image, rendered from its points with occlusion; and the encoder of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from ..errors import InputError
from ..geometry.cameras import Pinhole
from .cloud_tokens import MIN_POINTS
from .config import ModelConfig, RangeConfig
from .image import ImageEncoder

Floats = NDArray[np.float32]

NEAREST_M = 1.0      # of the sensor: nothing nearer is seen
UNIT_RANGE_M = 10.0  # whose logarithm is zero
UNIT_HEIGHT_M = 5.0
LEVELS = 5           # a near point covers up to 2 ** (LEVELS - 1) pixels


def range_image(points: Floats, config: ModelConfig) -> Floats:
    """
    Return the ranges (1, h, w) in metres that a sensor over the road would see; 0 for nothing.

    points: (n, 3) of a submap in the frame of the vehicle that looks, z from the road, in any
    order. Fewer than 32 in view are an InputError.
    """
    cloud = config.cloud
    assert isinstance(cloud, RangeConfig)
    pixels, distance = project(points, config)
    if len(distance) < MIN_POINTS:
        raise InputError(f'the submap has only {len(distance)} points in view (of {len(points)}), '
                         f'at least {MIN_POINTS} are needed: check its scans, or leave it out')
    size = cloud.splat_m * pixels_per_radian(config) / distance
    return splat(pixels, distance, size, cloud.height, cloud.width)[None]


def project(points: Floats, config: ModelConfig) -> tuple[NDArray[np.int64], Floats]:
    """Return the pixels (m, 2), row and column, of the points (n, 3) in view, and their ranges."""
    cloud = config.cloud
    assert isinstance(cloud, RangeConfig)
    p = np.asarray(points, np.float32)
    if cloud.projection == 'camera' and isinstance(config.image.camera, Pinhole):
        # Most of the time goes into points that are not in view; `take` is a fast way to choose.
        p = p.take(np.flatnonzero(p[:, 0] > 0.0), 0)
    p = p - np.array([0.0, 0.0, cloud.sensor_height_m], np.float32)
    squared = p[:, 0] ** 2 + p[:, 1] ** 2 + p[:, 2] ** 2
    kept = np.flatnonzero((squared > NEAREST_M ** 2) & (squared < cloud.max_range_m ** 2))
    p, distance = p.take(kept, 0), np.sqrt(squared.take(kept))  # and so finite
    if cloud.projection == 'camera':
        assert config.image.camera is not None
        camera = config.image.camera.resized(cloud.width, cloud.height)
        uv, seen = camera.project(np.stack([-p[:, 1], -p[:, 2], p[:, 0]], 1))
    else:
        low, high = np.radians(cloud.elevation_deg)
        wide = np.radians(cloud.field_of_view_deg)
        azimuth = np.arctan2(p[:, 1], p[:, 0])
        elevation = np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1]))
        uv = np.stack([(0.5 - azimuth / wide) * cloud.width - 0.5,
                       (high - elevation) / (high - low) * cloud.height - 0.5], 1)
        seen = ((np.abs(uv[:, 0] - (cloud.width - 1) / 2) < cloud.width / 2)
                & (np.abs(uv[:, 1] - (cloud.height - 1) / 2) < cloud.height / 2))
    inside = np.flatnonzero(seen)
    pixels = np.floor(uv.take(inside, 0)[:, ::-1] + 0.5).astype(np.int64)
    return np.clip(pixels, 0, [cloud.height - 1, cloud.width - 1]), distance.take(inside)


def pixels_per_radian(config: ModelConfig) -> float:
    """Return how many pixels of the range image a radian covers, at its centre."""
    cloud = config.cloud
    assert isinstance(cloud, RangeConfig)
    if cloud.projection == 'camera':
        assert config.image.camera is not None
        ahead = np.array([[-0.5e-3, 0.0, 1.0], [0.5e-3, 0.0, 1.0]])
        uv, _ = config.image.camera.resized(cloud.width, cloud.height).project(ahead)
        return float(uv[1, 0] - uv[0, 0]) / 1e-3
    return cloud.width / float(np.radians(cloud.field_of_view_deg))


def splat(
    pixels: NDArray[np.int64], distance: Floats, size: Floats, height: int, width: int,
) -> Floats:
    """
    Return the nearest distance (height, width) of what covers each pixel; 0 where nothing does.

    pixels: (n, 2) rows and columns; size: (n,) how many pixels wide each point is. A point is
    drawn as the pixel of an image 2, 4, 8 or 16 times as coarse, and the nearest of all wins.
    """
    level = np.clip(np.ceil(np.log2(np.maximum(size, 1e-6))), 0, LEVELS - 1).astype(np.int64)
    nearest = np.full((height, width), np.inf, np.float32)
    for k in range(LEVELS):
        rows = level == k
        if not rows.any():
            continue
        h, w = -(-height // 2 ** k), -(-width // 2 ** k)
        coarse = np.full(h * w, np.inf, np.float32)
        at = pixels[rows] >> k
        np.minimum.at(coarse, at[:, 0] * w + at[:, 1], distance[rows])
        fine = coarse.reshape(h, w).repeat(2 ** k, 0).repeat(2 ** k, 1)[:height, :width]
        np.minimum(nearest, fine, out=nearest)
    return np.where(np.isfinite(nearest), nearest, np.float32(0.0))


class RangeEncoder(nn.Module):
    """A vision transformer over a range image: log range, height over the road, anything there."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        cloud = config.cloud
        assert isinstance(cloud, RangeConfig)
        self.vit = ImageEncoder(cloud)
        self.sensor_height_m = cloud.sensor_height_m
        self.register_buffer('upwards', torch.from_numpy(_sines(config)), persistent=False)

    def forward(self, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return tokens (B, N, C), row by row, and the CLS attention over them (B, N).

        ranges: (B, 1, h, w) metres as `range_image` makes them, 0 for nothing.
        """
        ranges = ranges.float()
        known = (ranges > 0.0).to(ranges.dtype)
        upwards = self.upwards
        assert isinstance(upwards, Tensor)
        height = (self.sensor_height_m + ranges * upwards) / UNIT_HEIGHT_M
        # Nothing lies one unit beyond the farthest that is measured, not at the sensor.
        log_range = torch.where(
            ranges > 0.0, (ranges.clamp_min(NEAREST_M) / UNIT_RANGE_M).log(), 3.0)
        tokens, attention = self.vit(torch.cat([log_range, height * known, known], 1))
        return tokens, attention


def _sines(config: ModelConfig) -> Floats:
    """Return the sine of the elevation of each pixel of the range image, (1, 1, h, w)."""
    cloud = config.cloud
    assert isinstance(cloud, RangeConfig)
    if cloud.projection == 'camera':
        assert config.image.camera is not None
        rays = config.image.camera.resized(cloud.width, cloud.height).rays()
        sines = -rays[:, 1].reshape(cloud.height, cloud.width)
    else:
        low, high = np.radians(cloud.elevation_deg)
        rows = high - (np.arange(cloud.height) + 0.5) / cloud.height * (high - low)
        sines = np.repeat(np.sin(rows)[:, None], cloud.width, 1)
    return sines.astype(np.float32)[None, None]
