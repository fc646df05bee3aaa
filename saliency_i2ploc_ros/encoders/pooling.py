"""What pools tokens besides NetVLAD: generalised means, the head of LIP-Loc; channel attention."""

from __future__ import annotations

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from .config_published import GemConfig, ProjectionConfig

LEAST = 1e-6


class Gem(nn.Module):
    """
    Generalised mean pooling (Radenovic et al., arXiv 1711.02512), then a linear layer.

    Of each channel (mean of x ** p) ** (1 / p), with a learned p; what is below 1e-6 counts as
    that. In float32.
    """

    def __init__(self, dim: int, descriptor_dim: int, config: GemConfig) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([config.power]))
        self.project = nn.Linear(dim, descriptor_dim)

    def forward(self, tokens: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return features (B, D) of tokens (B, N, C); weight: (B, N) in the mean, None: equal."""
        with torch.autocast(tokens.device.type, enabled=False):
            powers = tokens.float().clamp_min(LEAST) ** self.power
            pooled = _mean(powers, weight) ** (1.0 / self.power)
            return self.project(pooled)


class Projection(nn.Module):
    """LIP-Loc's head: the mean token, linear - GELU - linear - dropout, residual, layer norm."""

    def __init__(self, dim: int, descriptor_dim: int, config: ProjectionConfig) -> None:
        super().__init__()
        self.first = nn.Linear(dim, descriptor_dim)
        self.second = nn.Linear(descriptor_dim, descriptor_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(descriptor_dim)

    def forward(self, tokens: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return features (B, D) of tokens (B, N, C); weight: (B, N) in the mean, None: equal."""
        y = self.first(_mean(tokens, weight))
        return self.norm((y + self.dropout(self.second(F.gelu(y)))).float())


class SqueezeExcitation(nn.Module):
    """
    Channel attention (Hu et al., arXiv 1709.01507) over tokens (B, N, C).

    Each channel is multiplied by a sigmoid of all channels' means, through `dim // reduction`.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dim, max(dim // reduction, 1))
        self.excite = nn.Linear(max(dim // reduction, 1), dim)

    def forward(self, tokens: Tensor, weight: Tensor | None = None) -> Tensor:
        share = self.excite(F.relu(self.squeeze(_mean(tokens, weight)))).sigmoid()
        return tokens * share.unsqueeze(1)


def _mean(x: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean (B, C) over the tokens (B, N, C), weighted by (B, N)."""
    if weight is None:
        return x.mean(1)
    share = weight / weight.sum(1, keepdim=True)
    return (x * share.unsqueeze(-1)).sum(1)
