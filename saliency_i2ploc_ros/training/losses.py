"""
The contrastive losses over places, all in fp32 whatever the autocast around them.

Common to them: `distance` (n, n) in metres between the places of image i and cloud j says which
pairs are positive (under `positive_m`), which count for nothing (up to `ignored_m`) and which are
negative (beyond); pair (i, i) is positive whatever its distance. Each positive is contrasted with
the negatives alone, so that two positives do not push each other away: the mean over positives of
-log(e^s_p / (e^s_p + sum over negatives e^s_n)) (van den Oord et al. 2018; several positives as in
Khosla et al. 2020).
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor
import torch.nn.functional as F

# What the drawn pair weighs at least among graded positives, so that no row is without one.
LEAST_WEIGHT = 1e-3


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


def distances(xy_a: Tensor, frame_a: Tensor, xy_b: Tensor, frame_b: Tensor) -> Tensor:
    """
    Return planar distances (n, m) in metres; infinite between different frames.

    xy_a (n, 2), xy_b (m, 2): map positions; frame_a (n,), frame_b (m,): which frame they are in.
    """
    d = torch.linalg.vector_norm(xy_a[:, None] - xy_b[None], dim=-1)
    return torch.where(frame_a[:, None] == frame_b[None], d, torch.inf)


def weight_by_distance(distance: Tensor, positive_m: float) -> Tensor:
    """Return what positives weigh: one at no distance, falling linearly to zero at positive_m."""
    return (1.0 - distance / positive_m).clamp(0.0, 1.0)


def weight_by_overlap(distance: Tensor, size_m: float) -> Tensor:
    """
    Return the overlap over the union of two circles `size_m` wide, so far apart; zero beyond.

    The circles stand for the squares of the submaps: alike, and the same at any heading. The
    lens of two circles of radius r is 2 r^2 acos(d / 2r) - d sqrt(4 r^2 - d^2) / 2.
    """
    part = (distance / size_m).clamp(0.0, 1.0)  # d / 2r; the areas below are in units of r^2
    lens = 2.0 * (torch.acos(part) - part * (1.0 - part.square()).sqrt())
    return lens / (2.0 * torch.pi - lens)


def contrastive_loss(
    images: Tensor, clouds: Tensor, distance: Tensor, temperature: Tensor,
    positive_m: float = 20.0, ignored_m: float = 40.0, weight: Tensor | None = None,
) -> Tensor:
    """
    Return the symmetric InfoNCE loss, images against clouds and clouds against images, a scalar.

    images, clouds: unit descriptors (n, d). distance: (n, n), see above. weight: (n, n) of the
    positives, not negative (see `weight_by_distance`); None: all alike.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = images.float() @ clouds.float().T / temperature.float()
        positive, negative = _masks(distance, positive_m, ignored_m, weight)
        return (_one_way(logits, positive, negative)
                + _one_way(logits.T, positive.T, negative.T)) / 2


def published_loss(
    images: Tensor, clouds: Tensor, distance: Tensor, image_distance: Tensor,
    temperature: float | Tensor, positive_m: float = 20.0, ignored_m: float = 40.0,
    weight: Tensor | None = None,
) -> Tensor:
    """
    Return SaliencyI2PLoc's InfoNCE: one cross entropy per image over 2 n - 1 candidates.

    The candidates of image i are the n clouds and the n - 1 other images; its positives are among
    the clouds alone. Published, all others are negatives; here another place counts as one only
    beyond `ignored_m`, cloud or image. image_distance: (n, n) between the images' places; the
    rest as in `contrastive_loss`. With all places far apart it is the cross entropy as published.
    """
    with torch.autocast(images.device.type, enabled=False):
        x = images.float()
        logits = x @ torch.cat([clouds.float(), x]).T / temperature
        positive, negative = _masks(distance, positive_m, ignored_m, weight)
        own = torch.eye(len(x), dtype=torch.bool, device=x.device)
        others = (image_distance >= ignored_m) & ~own
        return _one_way(logits, torch.cat([positive, torch.zeros_like(positive)], 1),
                        torch.cat([negative, others], 1))


def lip_loss(images: Tensor, clouds: Tensor) -> Tensor:
    """
    Return LIP-Loc's loss: cross entropy of the n x n similarities, both ways, temperature 1.

    images, clouds: (n, d). Pair i is the only positive of row i and of column i, all others are
    negatives however near, as published (arXiv 2312.16648).
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = images.float() @ clouds.float().T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _masks(
    distance: Tensor, positive_m: float, ignored_m: float, weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return what each pair weighs as a positive, and which pairs are negatives, both (n, n)."""
    own = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    near = (distance < positive_m) | own
    graded = torch.ones_like(distance) if weight is None else weight.clamp_min(
        LEAST_WEIGHT * own)
    return (graded * near).float(), (distance >= ignored_m) & ~own


def _one_way(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean over rows of the loss; positive: weights, with one above zero in a row."""
    negatives = logits.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    # softplus(log-sum of negatives - positive) is -log of the positive's share; a row without
    # negatives gives softplus(-inf) = 0, with a gradient of zero.
    terms = F.softplus(negatives - logits)
    per_row = (terms * positive).sum(1) / positive.sum(1)
    return per_row.mean()
