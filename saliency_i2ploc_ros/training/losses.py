"""The contrastive loss over places, and the geometry that the tokens must also tell."""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
import torch.nn.functional as F


class Temperature(nn.Module):
    """A learned temperature; its logarithm is the parameter, clamped after each step."""

    def __init__(self, start: float, lowest: float, highest: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(start)))
        self.bounds = (math.log(lowest), math.log(highest))

    def forward(self) -> Tensor:
        """Return the temperature, a positive scalar."""
        return self.log.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the parameter back into its bounds; called after each optimiser step."""
        self.log.clamp_(*self.bounds)


def distances(xy_a: Tensor, site_a: Tensor, xy_b: Tensor, site_b: Tensor) -> Tensor:
    """
    Return planar distances (n, m) in metres; infinite between different sites.

    xy_a (n, 2), xy_b (m, 2): map positions; site_a (n,), site_b (m,): which map they are in.
    """
    d = torch.linalg.vector_norm(xy_a[:, None] - xy_b[None], dim=-1)
    return torch.where(site_a[:, None] == site_b[None], d, torch.inf)


def contrastive_loss(
    images: Tensor, clouds: Tensor, distance: Tensor, temperature: Tensor,
    positive_m: float = 20.0, ignored_m: float = 40.0,
) -> Tensor:
    """
    Return the symmetric InfoNCE loss with positives and ignored pairs by distance, a scalar.

    images, clouds: unit descriptors (n, d). distance: (n, n) metres between the places of image i
    and cloud j. Pairs under `positive_m` are positive, up to `ignored_m` they count for nothing,
    beyond they are negative; pair (i, i) is positive whatever its distance. Each positive is
    contrasted with the negatives alone, so that two positives do not push each other away:
    the mean over positives of -log(e^s_p / (e^s_p + sum over negatives e^s_n)), over rows and over
    columns (van den Oord et al. 2018; several positives as in Khosla et al. 2020). In fp32.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = images.float() @ clouds.float().T / temperature.float()
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        positive = (distance < positive_m) | own
        negative = (distance >= ignored_m) & ~own
        return (_one_way(logits, positive, negative)
                + _one_way(logits.T, positive.T, negative.T)) / 2


def _one_way(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    negatives = logits.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    # softplus(log-sum of negatives - positive) is -log of the positive's share; a row without
    # negatives gives softplus(-inf) = 0, with a gradient of zero.
    terms = F.softplus(negatives - logits)
    per_row = (terms * positive).sum(1) / positive.sum(1)
    return per_row.mean()


class GeometryHead(nn.Module):
    """
    Predict, from a branch's tokens gathered into image columns, what the LiDAR measures there.

    Used in training only. Each of `columns` token columns predicts `bins / columns` azimuth bins,
    of each the logarithm of the nearest range and the highest elevation (see `pairs.profile`).
    """

    def __init__(self, dim: int, columns: int, bins: int) -> None:
        super().__init__()
        if bins % columns:
            raise ValueError(f'{bins} bins do not divide into {columns} columns')
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 2 * bins // columns)

    def forward(self, columns: Tensor) -> Tensor:
        """Return the profile (B, bins, 2) from column features (B, columns, C)."""
        return self.out(self.norm(columns)).flatten(1).unflatten(1, (-1, 2))


def image_columns(tokens: Tensor, columns: int) -> Tensor:
    """Return the mean over rows (B, columns, C) of image tokens (B, rows * columns, C)."""
    return tokens.unflatten(1, (-1, columns)).mean(1)


def cloud_columns(tokens: Tensor, column: Tensor, columns: int) -> Tensor:
    """
    Return the mean (B, columns, C) of the cloud tokens (B, G, C) that lie in each column.

    column: (B, G) int64, the image column of each token's centre, -1 outside the image; a column
    without tokens is zero.
    """
    share = F.one_hot(column + 1, columns + 1)[..., 1:].to(tokens.dtype)
    total = share.sum(1).clamp(min=1)[..., None]
    return torch.einsum('bgk,bgc->bkc', share, tokens) / total


def geometry_loss(predicted: Tensor, profile: Tensor) -> Tensor:
    """Return the smooth L1 error of predicted profiles (B, bins, 2) where `profile` is finite."""
    known = profile.isfinite()
    error = F.smooth_l1_loss(predicted.float(), profile.nan_to_num(), reduction='none', beta=0.2)
    return (error * known).sum() / known.sum().clamp(min=1)
