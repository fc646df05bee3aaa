"""
NetVLAD guided by saliency: tokens to one descriptor.

Plain NetVLAD (arXiv 1511.07247) sums, for each cluster, the differences of the tokens to its
centre weighted by their soft assignment. Here a weight for each token multiplies that.
"""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config import AggregationConfig
from .pooling import SqueezeExcitation


def saliency_weight(attention: Tensor, strength: float) -> Tensor | None:
    """
    Return the tokens' weights (B, N) from the CLS token's attention to them (B, N).

    (1 - s) + s * attention / mean(attention): the weights average one however many tokens there
    are, and at strength 1 follow the attention fully. A sigmoid of the attention, as published, is
    0.5 to 0.55 nearly everywhere, since attention is about 1 / N; a constant factor cancels in the
    normalisation that follows. Strength 0 gives None: no weighting at all. Beyond 1, weights that
    would be negative are zero.
    """
    if strength == 0.0:
        return None
    relative = attention / attention.mean(1, keepdim=True)
    weight = (1.0 - strength) + strength * relative
    return weight.clamp_min(0.0) if strength > 1.0 else weight


class NetVLAD(nn.Module):
    """
    Tokens (B, N, C), and a weight for each, to features (B, D), not yet normalised.

    tokens: N, where the configuration keeps the layout; else any number will do.
    """

    def __init__(
        self, dim: int, descriptor_dim: int, config: AggregationConfig, tokens: int = 0,
    ) -> None:
        super().__init__()
        size = config.clusters * dim
        self.intra_normalise = config.intra_normalise
        self.squeeze = SqueezeExcitation(dim, config.squeeze) if config.squeeze else None
        self.assign = nn.Linear(dim, config.clusters)
        self.centres = nn.Parameter(torch.randn(config.clusters, dim) * dim ** -0.5)
        self.sums_norm = None if config.intra_normalise else nn.LayerNorm(size)
        self.project = nn.Linear(size, descriptor_dim, bias=False)
        self.gate = nn.Linear(descriptor_dim, descriptor_dim) if config.gating else None
        self.mean_norm: nn.LayerNorm | None = None
        if config.mean_token:
            self.mean_norm = nn.LayerNorm(dim)
            self.project_mean = nn.Linear(dim, descriptor_dim)
            # The sums start as a small part beside the mean, which by itself learns fastest.
            nn.init.normal_(self.project_mean.weight, std=dim ** -0.5)
            nn.init.normal_(self.project.weight, std=0.1 * size ** -0.5)
        self.layout_in: nn.Linear | None = None
        if config.layout:
            kept = config.layout * tokens
            self.layout_in = nn.Linear(dim, config.layout)
            self.layout_norm = nn.LayerNorm(kept)
            self.layout_out = nn.Linear(kept, descriptor_dim, bias=False)
            nn.init.normal_(self.layout_out.weight, std=kept ** -0.5)

    def forward(self, tokens: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the features (B, D) of tokens (B, N, C); weight: (B, N), None: all one."""
        if self.squeeze is not None:
            tokens = self.squeeze(tokens, weight)
        y = self.project(self._normalised(self.sums(tokens, weight)))
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(y))
        weighted = tokens if weight is None else tokens * weight.unsqueeze(-1)
        if self.mean_norm is not None:
            y = y + self.project_mean(self.mean_norm(weighted.mean(1)))
        if self.layout_in is not None:
            y = y + self.layout_out(self.layout_norm(self.layout_in(weighted).flatten(1)))
        return _at_least_float32(y)

    def sums(self, tokens: Tensor, weight: Tensor | None) -> Tensor:
        """Return the sum of each cluster's weighted residuals, (B, clusters, C)."""
        share = _at_least_float32(self.assign(tokens)).softmax(-1)
        if weight is not None:
            share = share * weight.unsqueeze(-1)
        gathered = _at_least_float32(share.transpose(1, 2) @ tokens)
        return gathered - share.sum(1).unsqueeze(-1) * self.centres

    def _normalised(self, sums: Tensor) -> Tensor:
        if self.sums_norm is not None:
            return self.sums_norm(sums.flatten(1))
        return F.normalize(F.normalize(sums, dim=-1).flatten(1), dim=-1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
