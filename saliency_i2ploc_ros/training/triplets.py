"""Triplet losses, in fp32: those of AE-Spherical, and of the image teacher of VXP."""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

# Of AE-Spherical, on Euclidean distances of unit vectors.
MARGIN = math.sqrt(0.1)
SINGLE_WEIGHT = 0.1


def separations(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean distances (n, m) of vectors a (n, d) and b (m, d), with gradients."""
    squared = (a.float()[:, None] - b.float()[None]).square().sum(-1)
    return (squared + 1e-12).sqrt()  # at zero the root has no gradient


def triplet_loss(
    separation: Tensor, positive: Tensor, negative: Tensor, margin: float,
) -> Tensor:
    """
    Return the mean of max(0, positive - negative + margin) over the triplets above zero.

    separation: (n, m) of anchors and others. positive, negative: (n, m), which others are so to
    each anchor. All triplets of a batch count, but for those that hold already, which would only
    dilute the mean (Hermans et al., arXiv 1703.07737). No triplet: zero.
    """
    excess = separation[:, :, None] - separation[:, None, :] + margin
    valid = positive[:, :, None] & negative[:, None, :]
    loss = F.relu(excess) * valid
    return loss.sum() / ((loss > 0.0).sum().clamp_min(1))


def spherical_triplet_losses(
    images: Tensor, clouds: Tensor, distance: Tensor, image_distance: Tensor,
    cloud_distance: Tensor, positive_m: float = 20.0, ignored_m: float = 40.0,
) -> dict[str, Tensor]:
    """
    Return AE-Spherical's losses: pairs' distance, triplets across and within the modalities.

    images, clouds: unit descriptors (n, d), pair by pair. distance, image_distance,
    cloud_distance: (n, n) metres between the places of image i and cloud j, of images, of clouds:
    positive under `positive_m`, negative from `ignored_m`. Within a modality an anchor without
    another positive in the batch has no triplet (let the recipe draw several images of a place).
    """
    with torch.autocast(images.device.type, enabled=False):
        own = torch.eye(len(images), dtype=torch.bool, device=images.device)
        across = separations(images, clouds)
        positive, negative = (distance < positive_m) | own, (distance >= ignored_m) & ~own
        cross = (triplet_loss(across, positive, negative, MARGIN)
                 + triplet_loss(across.T, positive.T, negative.T, MARGIN)) / 2
        within = [triplet_loss(separations(x, x), (apart < positive_m) & ~own, apart >= ignored_m,
                               MARGIN)
                  for x, apart in ((images, image_distance), (clouds, cloud_distance))]
        return {'pairs': across.diagonal().mean(), 'cross_triplets': cross,
                'single_triplets': SINGLE_WEIGHT * (within[0] + within[1]) / 2}
