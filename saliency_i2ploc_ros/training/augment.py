"""Augmentation of prepared arrays: colours, turned submaps, mirrored pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoders.config import CloudConfig, ModelConfig, RangeConfig
from ..encoders.config_published import PointNetConfig
from ..encoders.voxels import mirror_voxels
from .geometry import azimuth_column

Clouds = tuple[NDArray[Any], ...]


def jitter_colours(
    images: NDArray[np.uint8], strength: float, rng: np.random.Generator,
) -> NDArray[np.float32]:
    """
    Return images (B, h, w, 3) in 0..255 as float32, with light, contrast, tint and noise varied.

    strength 0 changes nothing but the type; 0.3 varies each factor by about 30 %.
    """
    x = images.astype(np.float32)
    if strength == 0.0:
        return x
    n = len(x)

    def factor(*shape: int) -> NDArray[np.float32]:
        return np.exp(rng.uniform(-strength, strength, (n, *shape))).astype(np.float32)

    mean = x.mean((1, 2, 3), keepdims=True)
    x = (x - mean) * factor(1, 1, 1) + mean * factor(1, 1, 1)
    grey = x.mean(3, keepdims=True)
    x = grey + (x - grey) * rng.uniform(1 - 2 * strength, 1 + strength, (n, 1, 1, 1)).astype('f4')
    x = x * (1.0 + (factor(1, 1, 3) - 1.0) * 0.3)
    x = x + rng.standard_normal(x.shape, np.float32) * (8.0 * strength)
    return np.clip(x, 0.0, 255.0)


def turned(clouds: Clouds, angles: NDArray[np.float64], model: ModelConfig) -> Clouds:
    """
    Return the cloud encoder's inputs of submaps turned by `angles` (B,) about z, radians.

    In spherical coordinates a turn is a shift of the azimuth, and groups, which are relative to
    their centres, stay as they are. Range images and voxels stay: let their views be drawn turned.
    """
    if not isinstance(model.cloud, CloudConfig | PointNetConfig):
        return clouds
    if isinstance(model.cloud, CloudConfig) and model.cloud.tokens.space == 'spherical':
        groups, centres = clouds
        shift = np.zeros((len(angles), 1, 3), np.float32)
        shift[:, 0, 0] = angles
        return groups, centres + shift
    c, s = np.cos(angles), np.sin(angles)
    zero, one = np.zeros_like(c), np.ones_like(c)
    R = np.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).reshape(-1, 3, 3)
    R = R.astype(np.float32)
    return tuple(np.einsum('bij,b...j->b...i', R, part) for part in clouds)


def mirrored(clouds: Clouds, rows: NDArray[np.bool_], model: ModelConfig) -> Clouds:
    """Return the inputs with those of `rows` (B,) seen in a mirror: left and right changed."""
    parts = [np.array(part) for part in clouds]
    if isinstance(model.cloud, RangeConfig):
        parts[0][rows] = parts[0][rows][..., ::-1]
    elif isinstance(model.cloud, CloudConfig):
        axis = 0 if model.cloud.tokens.space == 'spherical' else 1
        for part in parts:
            part[rows, ..., axis] *= -1.0
    elif isinstance(model.cloud, PointNetConfig):
        parts[0][rows, :, 1] *= -1.0
    else:
        for part, turned_over in zip(parts, mirror_voxels(clouds, model.cloud), strict=True):
            part[rows] = turned_over[rows]
    return tuple(parts)


def token_columns(clouds: Clouds, model: ModelConfig) -> NDArray[np.int64]:
    """
    Return the image column (B, N) in which each cloud token lies, -1 outside the image.

    One of the image branch's columns of tokens; -1 too for rows of voxels that are empty.
    """
    n, columns = len(clouds[0]), model.image.grid[1]
    if isinstance(model.cloud, CloudConfig):
        centres = clouds[1]
        spherical = model.cloud.tokens.space == 'spherical'
        azimuth = centres[..., 0] if spherical else np.arctan2(centres[..., 1], centres[..., 0])
        place = azimuth_column(azimuth, model.image)
    elif isinstance(model.cloud, RangeConfig):
        rows, wide = model.cloud.grid
        across = (np.arange(wide) + 0.5) / wide
        if model.cloud.projection == 'spherical':
            turn = (0.5 - across) * np.radians(model.cloud.field_of_view_deg)
            across = np.asarray(azimuth_column(turn, model.image))
        place = np.broadcast_to(np.tile(across, rows), (n, rows * wide))
    else:
        centres = clouds[-1]
        place = azimuth_column(np.arctan2(centres[..., 1], centres[..., 0]), model.image)
        if not isinstance(model.cloud, PointNetConfig):
            place = np.where(clouds[-2][..., 0] < 0, np.nan, place)
    with np.errstate(invalid='ignore'):
        inside = (place >= 0.0) & (place < 1.0)
        return np.where(inside, np.floor(place * columns), -1).astype(np.int64)
