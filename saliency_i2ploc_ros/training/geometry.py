"""
Geometry supervision: what the tokens must also tell, from labels that any LiDAR gives for free.

'profile': both branches predict, by image column, the range and the height of what stands there.
'depth': each image token predicts the range that the map has in its directions; where the cloud
is a range image of the same grid, its tokens tell their own ranges through the same head, so that
both branches speak of geometry in one language.
Used in training only; a model that is saved or exported knows nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from ..encoders.config import AnyImage, ModelConfig, RangeConfig
from ..encoders.dual import Encoded
from ..encoders.range_image import project, splat
from ..errors import InputError
from ..geometry.cameras import Pinhole

if TYPE_CHECKING:
    from .batches import Batch

BINS_PER_COLUMN = 4  # azimuth bins of the profile under one column of image tokens
CELLS_PER_TOKEN = 4  # of the depth, along each side of a token
UNIT_RANGE_M = 10.0
PROFILE_HEIGHT_M = 1.6  # from which elevations of the profile are measured


def azimuth_column(azimuth: NDArray[np.floating], config: AnyImage) -> NDArray[np.floating]:
    """
    Return where an azimuth lies across the image: 0 at its left edge, 1 at its right one.

    azimuth: radians about the vehicle's z axis, 0 ahead, positive to the left. Of a perspective
    image the place follows the tangent and is NaN beyond 90 degrees; of a panorama (no pinhole in
    the configuration) it is linear.
    """
    camera = config.camera
    if not isinstance(camera, Pinhole):
        return 0.5 - azimuth / (2.0 * np.pi)
    ahead = np.where(np.abs(azimuth) < np.pi / 2, azimuth, np.nan)
    return (camera.cx + 0.5 - camera.fx * np.tan(ahead)) / camera.width


def profile(points: NDArray[np.float32], model: ModelConfig) -> NDArray[np.float32]:
    """
    Return what a LiDAR measures by image column, (bins, 2); NaN where it measures nothing.

    points: (n, 3) of a submap, in the frame of the vehicle that looks, z from the road. Of each
    bin: the logarithm of the nearest planar range of what stands between 0.5 and 3 m above the
    road, and the highest elevation angle in radians of anything, as seen from 1.6 m.
    """
    bins = BINS_PER_COLUMN * model.image.grid[1]
    p = points.astype(np.float64)
    planar_range = np.hypot(p[:, 0], p[:, 1])
    place = azimuth_column(np.arctan2(p[:, 1], p[:, 0]), model.image)
    with np.errstate(invalid='ignore'):
        seen = (place >= 0.0) & (place < 1.0) & (planar_range > 2.0)
    column = np.floor(place[seen] * bins).astype(np.int64)
    planar_range, height = planar_range[seen], p[seen, 2]

    nearest = np.full(bins, np.inf)
    standing = (height > 0.5) & (height < 3.0)
    np.minimum.at(nearest, column[standing], planar_range[standing])
    highest = np.full(bins, -np.inf)
    elevation = np.arctan2(height - PROFILE_HEIGHT_M, planar_range)
    np.maximum.at(highest, column, elevation)
    result = np.stack([np.log(nearest), highest], 1)
    return np.where(np.isfinite(result), result, np.nan).astype(np.float32)


def depth_target(points: NDArray[np.float32], model: ModelConfig) -> NDArray[np.float16]:
    """
    Return the range of the map in the directions of an image's tokens, (h', w'), 0 for nothing.

    points: as for `profile`, in the frame of the vehicle that took the image. Four cells along
    each side of a token. Without a virtual camera no pixel has a direction: InputError.
    """
    if model.image.camera is None:
        raise InputError("geometry supervision by 'depth' needs a model with a virtual camera: "
                         "choose 'profile', or another model")
    rows, columns = model.image.grid
    config = model.model_copy(update={'cloud': RangeConfig(
        height=rows * CELLS_PER_TOKEN, width=columns * CELLS_PER_TOKEN, patch=CELLS_PER_TOKEN)})
    pixels, distance = project(points, config)
    size = np.full(len(distance), 1e-3, np.float32)  # cells are coarse: a point is one cell
    return splat(pixels, distance, size, rows * CELLS_PER_TOKEN,
                 columns * CELLS_PER_TOKEN).astype(np.float16)


class GeometryHeads(nn.Module):
    """The heads of one kind of supervision, and their losses; images must be whole tokens."""

    def __init__(self, model: ModelConfig, kind: str) -> None:
        super().__init__()
        image = model.image
        if image.height % image.patch or image.width % image.patch:
            raise InputError(f'geometry supervision needs images whose sides are multiples of '
                             f'{image.patch}, not {image.height} x {image.width}: change '
                             'model.image, or set geometry_weight to 0')
        self.kind = kind
        self.rows, self.columns = model.image.grid
        if kind == 'depth':
            # Of each cell the log range, and whether there is anything.
            self.image = _Head(model.image.dim, 2 * CELLS_PER_TOKEN ** 2)
            self.both = (isinstance(model.cloud, RangeConfig)
                         and model.cloud.projection == 'camera'
                         and model.cloud.grid == model.image.grid
                         and model.cloud.dim == model.image.dim)
        else:
            self.image = _Head(model.image.dim, 2 * BINS_PER_COLUMN)
            self.cloud = _Head(model.cloud.dim, 2 * BINS_PER_COLUMN)

    def forward(self, image: Encoded, cloud: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name: 'image_geometry' and others."""
        if self.kind == 'depth':
            losses = {'image_geometry': depth_loss(self.predicted_depth(image.tokens),
                                                   batch.geometry)}
            if self.both:
                losses['cloud_geometry'] = depth_loss(
                    self.predicted_depth(cloud.tokens),
                    nearest_of_cells(batch.clouds[0], batch.geometry.shape[1:]))
            return losses
        seen = self.image(image_columns(image.tokens, self.columns))
        told = self.cloud(cloud_columns(cloud.tokens, batch.column, self.columns))
        return {'image_geometry': profile_loss(_bins(seen), batch.geometry),
                'cloud_geometry': profile_loss(_bins(told), batch.geometry)}

    def predicted_depth(self, tokens: Tensor) -> Tensor:
        """Return (B, h', w', 2): log range over 10 m, and the logit of there being anything."""
        cells = CELLS_PER_TOKEN
        x = self.image(tokens).reshape(-1, self.rows, self.columns, cells, cells, 2)
        return x.transpose(2, 3).reshape(-1, self.rows * cells, self.columns * cells, 2)


def nearest_of_cells(ranges: Tensor, cells: torch.Size) -> Tensor:
    """Return the nearest range (B, h', w') in each cell of range images (B, 1, h, w), 0: none."""
    ranges = ranges.float()
    nearest = -F.adaptive_max_pool2d(torch.where(ranges > 0.0, -ranges, -torch.inf), tuple(cells))
    return torch.where(nearest.isfinite(), nearest, 0.0)[:, 0]


class _Head(nn.Module):
    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def _bins(columns: Tensor) -> Tensor:
    """Return (B, bins, 2) of what a head says of each column, (B, columns, 2 * bins / columns)."""
    return columns.flatten(1).unflatten(1, (-1, 2))


def image_columns(tokens: Tensor, columns: int) -> Tensor:
    """Return the mean over rows (B, columns, C) of image tokens (B, rows * columns, C)."""
    return tokens.unflatten(1, (-1, columns)).mean(1)


def cloud_columns(tokens: Tensor, column: Tensor, columns: int) -> Tensor:
    """
    Return the mean (B, columns, C) of the cloud tokens (B, G, C) that lie in each column.

    column: (B, G) int64, the image column of each token, -1 outside the image; a column without
    tokens is zero.
    """
    share = F.one_hot(column + 1, columns + 1)[..., 1:].to(tokens.dtype)
    total = share.sum(1).clamp(min=1)[..., None]
    return torch.einsum('bgk,bgc->bkc', share, tokens) / total


def profile_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the smooth L1 error of predicted profiles (B, bins, 2) where `target` is finite."""
    known = target.isfinite()
    error = F.smooth_l1_loss(predicted.float(), target.nan_to_num(), reduction='none', beta=0.2)
    return _mean_of_pairs(error, known)


def depth_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """
    Return the error of predicted depth (B, h', w', 2): smooth L1 of the log, and being there.

    target: (B, h', w') metres, 0 for nothing.
    """
    predicted, target = predicted.float(), target.float()
    known = target > 0.0
    log_range = (target.clamp_min(0.5) / UNIT_RANGE_M).log()
    error = F.smooth_l1_loss(predicted[..., 0], log_range, reduction='none', beta=0.2)
    there = F.binary_cross_entropy_with_logits(predicted[..., 1], known.float())
    return _mean_of_pairs(error, known) + 0.5 * there


def _mean_of_pairs(error: Tensor, known: Tensor) -> Tensor:
    # Of each pair its own mean: so the losses of a batch's chunks add up to the batch's.
    error, known = (error * known).flatten(1), known.flatten(1)
    return (error.sum(1) / known.sum(1).clamp(min=1)).mean()
