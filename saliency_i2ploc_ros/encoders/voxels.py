"""
The occupied voxels of a submap, and a convolutional network over them alone.

What sparse convolution libraries compile is here a look-up: a table of all cells, in which each
occupied one finds the rows of its 27 neighbours. The cells come from the data path, at a fixed
number; the network only scatters, gathers and multiplies, so that it runs and exports anywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from ..errors import InputError
from .cloud_tokens import MIN_POINTS
from .config_published import VoxelConfig

Floats = NDArray[np.float32]

FEATURES = 7
UNIT_M = 10.0
# The cells about a voxel, itself in the middle; and the eight that make up a coarser one.
AROUND = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing='ij'), -1).reshape(-1, 3)
INSIDE = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing='ij'), -1).reshape(-1, 3)


class Level(NamedTuple):
    """
    The occupied voxels of one resolution, nearest first, no more than the configuration has.

    cells: (n, 3). means: (n, 3) of their points. counts: (n,) points.
    """

    cells: NDArray[np.int64]
    means: NDArray[np.float64]
    counts: NDArray[np.int64]


def voxel_input(points: Floats, config: VoxelConfig) -> tuple[NDArray[Any], ...]:
    """
    Return the voxels of a submap (n, 3), metres in the vehicle frame, z from the road.

    features (V, 7) float32 of the finest level: mean of the points (x, y, z) / 10 m, its offset
    from the voxel's middle in voxels, ln(1 + points); of each level the cells (V, 3) int32; and
    the mean points (W, 3) float32 of the last level's voxels, metres. Rows to spare have cells of
    -1 and zeros. Fewer than 32 points in the box are an InputError.
    """
    p = np.asarray(points, np.float64)
    low = np.array([config.x_m[0], config.y_m[0], config.z_m[0]])
    high = np.array([config.x_m[1], config.y_m[1], config.z_m[1]])
    p = p[np.isfinite(p).all(1)]
    p = p[((p >= low) & (p < high)).all(1)]
    if len(p) < MIN_POINTS:
        raise InputError(f'the submap has only {len(p)} points ahead of the vehicle (of '
                         f'{len(points)}), at least {MIN_POINTS} are needed: check its scans, or '
                         'leave it out')
    p = p[np.lexsort(p.T)]  # sums of floating-point numbers depend on their order
    edge = np.array(config.voxel_m)
    cells = np.minimum(((p - low) / edge).astype(np.int64), np.array(config.size) - 1)
    level = _level(cells, p, np.ones(len(p), np.int64), config.voxels[0])
    middle = low + (level.cells + 0.5) * edge
    features = np.concatenate([level.means / UNIT_M, (level.means - middle) / edge,
                               np.log1p(level.counts)[:, None]], 1)
    arrays: list[NDArray[Any]] = [_filled(features.astype(np.float32), config.voxels[0], 0),
                                  _filled(level.cells.astype(np.int32), config.voxels[0], -1)]
    for count in config.voxels[1:]:
        level = _level(level.cells // 2, level.means, level.counts, count)
        arrays.append(_filled(level.cells.astype(np.int32), count, -1))
    arrays.append(_filled(level.means.astype(np.float32), config.voxels[-1], 0))
    return tuple(arrays)


def mirror_voxels(
    inputs: tuple[NDArray[Any], ...], config: VoxelConfig,
) -> tuple[NDArray[Any], ...]:
    """
    Return stacked inputs as `voxel_input` makes them with left and right (y) changed.

    As those of the mirrored submap if the box lies evenly about the vehicle and halves evenly.
    """
    features, *levels, means = inputs
    flip = np.array([1.0, -1.0, 1.0], np.float32)
    across, turned_over = config.size[1], []
    for cells in levels:
        other = np.array(cells)
        other[..., 1] = np.where(cells[..., 0] < 0, -1, across - 1 - cells[..., 1])
        turned_over.append(other)
        across = -(-across // 2)
    return (features * np.concatenate([flip, flip, [np.float32(1.0)]]), *turned_over, means * flip)


def _level(
    cells: NDArray[np.int64], points: NDArray[np.float64], weights: NDArray[np.int64], most: int,
) -> Level:
    """Return the voxels of these cells (n, 3), the means of the weighted points in them."""
    found, of = np.unique(cells, axis=0, return_inverse=True)
    of = of.reshape(-1)
    counts = np.zeros(len(found), np.int64)
    np.add.at(counts, of, weights)
    means = np.zeros((len(found), 3))
    np.add.at(means, of, points * weights[:, None])
    means /= counts[:, None]
    nearest = np.argsort((means ** 2).sum(1), kind='stable')[:most]
    return Level(found[nearest], means[nearest], counts[nearest])


def _filled(rows: NDArray[Any], count: int, value: int) -> NDArray[Any]:
    spare = np.full((count - len(rows), *rows.shape[1:]), value, rows.dtype)
    return np.concatenate([rows, spare])


class VoxelEncoder(nn.Module):
    """
    Residual submanifold convolutions (Graham et al., arXiv 1711.10275) over occupied voxels.

    Only occupied voxels have features, and only they are computed. Between levels the eight
    voxels inside a coarser one are joined by a linear layer. Layer norms, not batch norms: a
    token does not depend on its batch.
    """

    def __init__(self, config: VoxelConfig) -> None:
        super().__init__()
        first, *others = config.channels
        self.embed = nn.Linear(FEATURES, first)
        self.joins = nn.ModuleList(nn.Linear(8 * before, after) for before, after in zip(
            config.channels[:-1], others, strict=True))
        self.convolutions = nn.ModuleList(
            nn.ModuleList(Submanifold(width) for _ in range(config.layers))
            for width in config.channels)
        self.out = nn.Linear(config.channels[-1], config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        size: tuple[int, ...] = config.size
        self.lookups = nn.ModuleList()
        for _ in config.channels:
            self.lookups.append(Lookup(size))
            size = tuple(-(-n // 2) for n in size)

    def forward(self, features: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return tokens (B, W, C), and a saliency (B, W): equal over occupied voxels, else zero.

        Inputs as `voxel_input` makes them, stacked. The last one, the mean points, is not used
        here but where voxels are compared with pixels.
        """
        *levels, _ = inputs
        x = self.embed(features)
        for level, cells in enumerate(levels):
            if level > 0:
                inside = self.lookups[level - 1](levels[level - 1], cells, INSIDE, 2)
                x = self.joins[level - 1](gather(x, inside).flatten(2))
            neighbours = self.lookups[level](cells, cells, AROUND, 1)
            layers = self.convolutions[level]
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                x = layer(x, neighbours)
        there = occupied(levels[-1]).to(x.dtype)
        tokens = self.norm(self.out(x)) * there.unsqueeze(-1)
        return tokens, there / there.sum(1, keepdim=True)


class Lookup(nn.Module):
    """Finds the rows of cells, in a box of so many along each axis, by a table of them all."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        # A border of one all round, and one more above, for neighbours outside the box.
        self.cells = (size[0] + 3) * (size[1] + 3) * (size[2] + 3)
        self.strides = ((size[1] + 3) * (size[2] + 3), size[2] + 3, 1)

    def forward(
        self, cells: Tensor, origins: Tensor, offsets: NDArray[np.int64], scale: int,
    ) -> Tensor:
        """
        Return at which row of `cells` each origin's offsets stand, (B, W, offsets) int64.

        cells (B, V, 3), origins (B, W, 3), the latter `scale` times as coarse; V where there is
        none, and for origins that are none.
        """
        B, V, _ = cells.shape
        row = torch.arange(V, device=cells.device).expand(B, V)
        row = torch.where(occupied(cells), row, V)
        table = torch.full((B, self.cells), V, device=cells.device)
        table = table.scatter(1, self._key(cells), row)
        steps = torch.from_numpy(offsets @ self.strides).to(cells.device)
        keys = (self._key(origins * scale).unsqueeze(-1) + steps).clamp_min(0).flatten(1)
        found = table.gather(1, keys).unflatten(1, (-1, len(offsets)))
        return torch.where(occupied(origins).unsqueeze(-1), found, V)

    def _key(self, cells: Tensor) -> Tensor:
        x, y, z = (cells.long() + 1).clamp_min(0).unbind(-1)
        return x * self.strides[0] + y * self.strides[1] + z


class Submanifold(nn.Module):
    """One residual convolution of 3 x 3 x 3 over occupied voxels (B, V, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(27 * width, width)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return x + self.mix(gather(self.norm(x).relu(), neighbours).flatten(2))


def gather(x: Tensor, rows: Tensor) -> Tensor:
    """Return x (B, V, C) at rows (B, W, K) of the same sample, (B, W, K, C); at row V is zero."""
    B, V, _ = x.shape
    with_none = F.pad(x, (0, 0, 0, 1)).flatten(0, 1)
    first = torch.arange(B, device=x.device).view(B, 1, 1) * (V + 1)
    # An embedding, since its backward adds up rows far faster than that of indexing.
    return F.embedding(rows + first, with_none)


def occupied(cells: Tensor) -> Tensor:
    """Return which rows (B, V) of cells (B, V, 3) are voxels."""
    return cells[..., 0] >= 0
