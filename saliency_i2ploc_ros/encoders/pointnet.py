"""PointNet: each point of a submap a token, by the same layers for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from ..errors import InputError
from .cloud_tokens import even_subset, MIN_POINTS, within_azimuth
from .config_published import PointNetConfig
from .resnet import uniform


def pointnet_input(points: NDArray[np.float32], config: PointNetConfig) -> NDArray[np.float32]:
    """
    Return the points (P, 3) of a submap (n, 3), metres in the vehicle frame, z from the road.

    Without the ground, within the field of view, even in space, whatever their order; some come
    repeatedly if there are fewer. Fewer than 32 are an InputError.
    """
    p = np.asarray(points, np.float32)
    kept = p[np.isfinite(p).all(1) & (p[:, 2] > config.min_height_m)]
    kept = kept[within_azimuth(kept, config.field_of_view_deg)]
    if config.max_range_m is not None:
        kept = kept[np.hypot(kept[:, 0], kept[:, 1]) <= config.max_range_m]
    if len(kept) < MIN_POINTS:
        raise InputError(f'the submap has only {len(kept)} points above the ground in view (of '
                         f'{len(p)}), at least {MIN_POINTS} are needed: check its scans, or leave '
                         'it out')
    return np.resize(kept[even_subset(kept, config.points)], (config.points, 3))


class PointNet(nn.Module):
    """
    PointNet (Qi et al., arXiv 1612.00593) without its maximum: the points' own features.

    Points (B, P, 3) to tokens (B, P, C): the points, turned by a learned transform, through two
    layers, turned by another, through the others; the last one ends without a ReLU.
    """

    def __init__(self, config: PointNetConfig) -> None:
        super().__init__()
        self.unit_m = config.unit_m
        self.input_transform = Transform(3, config) if config.transforms else None
        self.feature_transform = Transform(config.layers[1], config) if config.transforms else None
        before, layers = 3, []
        for i, after in enumerate(config.layers):
            layers.append(_layer(before, after, config, relu=i < len(config.layers) - 1))
            before = after
        self.early, self.late = nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, P, C), and a uniform saliency (B, P): there is no attention."""
        x = points / self.unit_m
        if self.input_transform is not None:
            x = x @ self.input_transform(x)
        x = self.early(x)
        if self.feature_transform is not None:
            x = x @ self.feature_transform(x)
        x = self.late(x)
        return x, uniform(x)


class Transform(nn.Module):
    """A linear map (B, C, C) of the points' features, from all of them; the identity at first."""

    def __init__(self, dim: int, config: PointNetConfig) -> None:
        super().__init__()
        a, b, c = config.layers[-3:]
        self.dim = dim
        self.each = nn.Sequential(_layer(dim, a, config), _layer(a, b, config),
                                  _layer(b, c, config))
        self.all = nn.Sequential(_layer(c, c // 2, config), _layer(c // 2, c // 4, config))
        self.out = nn.Linear(c // 4, dim * dim)
        # Not zero: the layers before it would stand still at the first step.
        nn.init.normal_(self.out.weight, std=1e-3)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        change = self.out(self.all(self.each(x).amax(1))).unflatten(1, (self.dim, self.dim))
        return change + torch.eye(self.dim, device=x.device, dtype=change.dtype)


class _Channels(nn.BatchNorm1d):
    """A batch norm of the last dimension, whatever stands before it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, -2)).view(input.shape)


def _layer(before: int, after: int, config: PointNetConfig, relu: bool = True) -> nn.Module:
    norm = _Channels(after) if config.norm == 'batch' else nn.LayerNorm(after)
    # The bias tells points along a ray apart, which a ReLU behind a layer norm could not.
    return nn.Sequential(nn.Linear(before, after, bias=config.norm == 'group'), norm,
                         nn.ReLU() if relu else nn.Identity())
