"""
Feature relation consistency: what is alike among the images must be alike among their submaps.

Each term compares the relations within the batch of images with the same relations within the
batch of clouds (pair i of both is one place), as relational knowledge distillation does
(Park et al. 2019, arXiv 1904.05068), in three geometries:

- Euclidean distances of descriptors, each matrix divided by its mean, so that scale cancels;
- angles at each descriptor of the triplets that it forms with two others. Of triplets, not of
  pairs: on unit vectors the angle of a pair is a function of its distance and would tell nothing
  that the first term does not;
- geodesics of the Poincare ball, of features before normalisation. On unit vectors a geodesic too
  is a function of the distance; only lengths, which say how far from the centre of the ball a
  place lies, make it another relation.

Everything is computed in fp32, whatever the autocast around it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

CURVATURE = 0.1  # c of the published geodesics
# Longest sqrt(c) |v| that is mapped: sinh(2 * 10)^2 is 6e16, far from overflow in fp32.
LONGEST = 10.0
# Below this distances have no direction; sqrt and normalisation keep a finite gradient.
TINY = 1e-12


def distance_consistency(images: Tensor, clouds: Tensor) -> Tensor:
    """Return the smooth L1 difference of the Euclidean distances in two batches (n, d)."""
    with torch.autocast(images.device.type, enabled=False):
        return _difference(_distances(images.float()), _distances(clouds.float()))


def angle_consistency(images: Tensor, clouds: Tensor) -> Tensor:
    """
    Return the smooth L1 difference of the triplets' cosines in two batches (n, d).

    The memory is that of n^3 numbers, 64 MiB at 256 pairs, a few times over. Fewer than three
    pairs form no triplet: zero.
    """
    with torch.autocast(images.device.type, enabled=False):
        n = len(images)
        distinct = torch.ones((n, n, n), dtype=torch.bool, device=images.device)
        i = torch.arange(n, device=images.device)
        distinct[i, i, :] = distinct[i, :, i] = distinct[:, i, i] = False
        error = F.smooth_l1_loss(_cosines(images.float()), _cosines(clouds.float()),
                                 reduction='none')
        return (error * distinct).sum() / distinct.sum().clamp(min=1)


def geodesic_consistency(
    image_features: Tensor, cloud_features: Tensor, curvature: float = CURVATURE,
) -> Tensor:
    """Return the smooth L1 difference of the Poincare geodesics in two batches (n, d)."""
    with torch.autocast(image_features.device.type, enabled=False):
        return _difference(poincare_distances(image_features, curvature),
                           poincare_distances(cloud_features, curvature))


def poincare_distances(features: Tensor, curvature: float = CURVATURE) -> Tensor:
    """
    Return the geodesic distances (n, n) in the Poincare ball of features (n, d), in fp32.

    Features are tangent vectors at the centre of the ball of curvature -c, brought into it by the
    exponential map tanh(sqrt(c) |v|) v / (sqrt(c) |v|) (Ganea et al. 2018, arXiv 1805.09112), and
    clamped to a length of `LONGEST` / sqrt(c). With r = sqrt(c) |v| and unit vectors u, the law of
    cosines of the hyperbolic plane gives the distance without ever forming points near the rim,
    where fp32 has no digits left:

        sinh^2(sqrt(c) d / 2) = sinh^2(r1 - r2) + sinh(2 r1) sinh(2 r2) |u1 - u2|^2 / 4

    The diagonal is zero, without a gradient.
    """
    with torch.autocast(features.device.type, enabled=False):
        v = features.float()
        radius = (math.sqrt(curvature) * v.square().sum(1).clamp_min(TINY).sqrt()).clamp(
            max=LONGEST)
        unit = F.normalize(v, dim=1)
        apart = (unit[:, None] - unit[None]).square().sum(2) / 4
        wide = torch.sinh(2 * radius)
        squared = (torch.sinh(radius[:, None] - radius[None]).square()
                   + wide[:, None] * wide[None] * apart)
        distance = 2 / math.sqrt(curvature) * torch.asinh(squared.clamp_min(TINY).sqrt())
        return distance.masked_fill(_diagonal(distance), 0.0)


def _distances(x: Tensor) -> Tensor:
    distance = (x[:, None] - x[None]).square().sum(2).clamp_min(TINY).sqrt()
    return distance.masked_fill(_diagonal(distance), 0.0)


def _cosines(x: Tensor) -> Tensor:
    """Return the cosine (n, n, n) at vertex i between the directions to j and to k."""
    towards = F.normalize(x[None] - x[:, None], dim=2, eps=1e-6)
    return towards @ towards.transpose(1, 2)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the smooth L1 difference of two relations (n, n), each divided by its mean."""
    count = max(len(a) * (len(a) - 1), 1)
    a, b = (r * count / r.sum().clamp_min(TINY) for r in (a, b))
    return F.smooth_l1_loss(a, b, reduction='sum') / count


def _diagonal(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
