"""The cloud encoder: a mini-PointNet for each group of points, a transformer over the groups."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from .config import CloudConfig
from .transformer import Block, initialise, run_blocks


class MiniPointNet(nn.Module):
    """
    Groups of points (..., K, 3) to tokens (..., dim), whatever the order of the points.

    Layer norms stand where the published network has batch norms, with as many parameters: a
    token must not depend on the batch it comes in, nor change when a batch is encoded in pieces.
    """

    def __init__(self, config: CloudConfig) -> None:
        super().__init__()
        a, b = config.pointnet
        self.scale = config.offset_scale
        self.first = _two_layers(3, a, b, config)
        self.second: nn.Sequential | None = None
        if config.pointnet_second:
            c, d = config.pointnet_second
            self.second = _two_layers(2 * b, c, d, config)
            b = d
        self.reduce = nn.Linear(b, config.dim)

    def forward(self, groups: Tensor) -> Tensor:
        x = self.first(groups * self.scale)
        most = group_maximum(x)
        if self.second is not None:
            x = torch.cat([most.unsqueeze(-2).expand_as(x), x], -1)
            most = group_maximum(self.second(x))
        return self.reduce(most)


def group_maximum(x: Tensor) -> Tensor:
    """
    Return the maximum over the points of groups (B, G, K, C), as (B, G, C).

    In training on processors by way of its index: the backward of `amax` and of `max` take two to
    three times as long as that of `take`.
    """
    if x.device.type != 'cpu' or not torch.is_grad_enabled():
        return x.amax(-2)
    B, G, K, C = x.shape
    row = torch.arange(B * G).view(B, G, 1) * (K * C) + torch.arange(C)
    return torch.take(x, row.add_(x.detach().max(-2).indices * C))


def _two_layers(before: int, middle: int, after: int, config: CloudConfig) -> nn.Sequential:
    norm = nn.LayerNorm(middle) if config.pointnet_norm else nn.Identity()
    # The first layer keeps its bias: without one, ReLU could not tell points along a ray apart.
    return nn.Sequential(nn.Linear(before, middle), norm, nn.ReLU(),
                         nn.Linear(middle, after, bias=config.bias))


class CloudEncoder(nn.Module):
    """A transformer over groups and a CLS token; positions enter before every block."""

    def __init__(self, config: CloudConfig) -> None:
        super().__init__()
        width, dim = config.position_width, config.dim
        self.groups = MiniPointNet(config)
        self.position = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.cls_position = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.bias) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise(self.blocks)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.cls_position, std=0.02)

    def forward(self, groups: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return tokens (B, G, C) of the groups, and the CLS attention over them (B, G).

        groups: (B, G, K, 3) and centres: (B, G, 3), as `cloud_tokens` makes them.
        """
        x = self.groups(groups)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        position = self.position(centres)
        position = torch.cat([self.cls_position.expand(x.shape[0], -1, -1), position], 1)
        x, attention = run_blocks(self.blocks, x, position)
        return self.norm(x)[:, 1:], attention
