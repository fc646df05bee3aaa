"""
What a recipe descends, by name: the losses of the systems, behind one interface.

An objective has two parts, so that a batch larger than memory can be encoded in chunks. `contrast`
compares the descriptors of the whole batch; `local` looks at what was encoded of one chunk, and is
a mean over its pairs. Both return scalar losses by name, weighted already: their sum is descended.
`progress` is the share of the run that is behind, 0 to 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor

from ..encoders.dual import Encoded
from .batches import Batch
from .config import TrainingConfig
from .distillation import descriptor_loss, phase, teacher_loss, voxel_loss
from .losses import (
    contrastive_loss,
    distances,
    lip_loss,
    published_loss,
    weight_by_distance,
    weight_by_overlap,
)
from .relation import angle_consistency, distance_consistency, geodesic_consistency
from .triplets import spherical_triplet_losses

Losses = dict[str, Tensor]


class Objective(nn.Module):
    """The interface; by itself it asks for nothing."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """
        Return the losses of the whole batch of n pairs.

        image_descriptors, cloud_descriptors: unit vectors (n, d). image_features, cloud_features:
        (n, d), before they were normalised. batch: the places; its images may be left out.
        temperature: the learned one.
        """
        return {}

    def local(self, image: Encoded, cloud: Encoded, batch: Batch, progress: float) -> Losses:
        """Return the losses of one chunk, each a mean over its pairs; batch: the chunk's."""
        return {}

    def apart(self, batch: Batch, one: str = 'image', other: str = 'cloud') -> Tensor:
        """
        Return the distances (n, n) in metres between the places of images and clouds.

        one, other: 'image' or 'cloud', which sides. Infinite between places that look
        `positive_deg` or more apart: the way back along a street is another view.
        """
        apart = distances(getattr(batch, f'{one}_xy'), batch.frame,
                          getattr(batch, f'{other}_xy'), batch.frame)
        turn = getattr(batch, f'{one}_yaw')[:, None] - getattr(batch, f'{other}_yaw')[None]
        away = torch.cos(turn) <= math.cos(math.radians(self.config.positive_deg))
        return torch.where(away, torch.inf, apart)

    def positive_weight(self, distance: Tensor) -> Tensor | None:
        """Return what pairs so far apart weigh as positives; None: all alike."""
        if self.config.graded == 'distance':
            return weight_by_distance(distance, self.config.positive_m)
        if self.config.graded == 'overlap':
            return weight_by_overlap(distance, self.config.model.submap.size_m)
        return None


class InfoNce(Objective):
    """The symmetric contrast with masks by distance and a learned temperature."""

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """See `contrastive_loss`."""
        apart = self.apart(batch)
        return {'contrast': contrastive_loss(
            image_descriptors, cloud_descriptors, apart, temperature, self.config.positive_m,
            self.config.ignored_m, self.positive_weight(apart))}


class Published(Objective):
    """SaliencyI2PLoc's contrast, at the fixed temperature of the recipe."""

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """See `published_loss`."""
        apart = self.apart(batch)
        images_apart = self.apart(batch, 'image', 'image')
        return {'contrast': published_loss(
            image_descriptors, cloud_descriptors, apart, images_apart, self.config.temperature,
            self.config.positive_m, self.config.ignored_m, self.positive_weight(apart))}


class Lip(Objective):
    """
    LIP-Loc's contrast: of the features, at temperature 1.

    Its head ends in a layer norm, so that all features have about one length (16, of 256) and
    their products range over hundreds. Of unit vectors, temperature 1 would leave them at one.
    """

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """See `lip_loss`."""
        return {'contrast': lip_loss(image_features, cloud_features)}


class SphericalTriplet(Objective):
    """AE-Spherical's losses."""

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """See `spherical_triplet_losses`."""
        return spherical_triplet_losses(
            image_descriptors, cloud_descriptors, self.apart(batch),
            self.apart(batch, 'image', 'image'), self.apart(batch, 'cloud', 'cloud'),
            self.config.positive_m, self.config.ignored_m)


class Vxp(Objective):
    """VXP's phases, by thirds of the run: see `distillation`."""

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, temperature: Tensor, progress: float,
    ) -> Losses:
        """Return the teacher's loss in its phase, and that of the descriptors in the last."""
        now = phase(progress)
        if now == 0:
            return {'teacher': teacher_loss(image_descriptors, batch, self.config.positive_m,
                                            self.config.ignored_m)}
        if now == 1:
            return {}
        return {'distilled': descriptor_loss(image_descriptors, cloud_descriptors)}

    def local(self, image: Encoded, cloud: Encoded, batch: Batch, progress: float) -> Losses:
        """Return the loss between voxels and pixels in its phase."""
        if phase(progress) != 1:
            return {}
        return {'voxels': voxel_loss(image, cloud, batch, self.config.model)}


OBJECTIVES: dict[str, type[Objective]] = {
    'infonce': InfoNce, 'paper': Published, 'lip': Lip, 'spherical_triplet': SphericalTriplet,
    'vxp': Vxp,
}


def relation_losses(
    config: TrainingConfig, image_descriptors: Tensor, cloud_descriptors: Tensor,
    image_features: Tensor, cloud_features: Tensor,
) -> Losses:
    """Return the terms of feature relation consistency that the recipe gives a weight."""
    descriptors = (image_descriptors, cloud_descriptors)
    losses = {}
    if config.relation_distance:
        losses['relation_distance'] = config.relation_distance * distance_consistency(*descriptors)
    if config.relation_angle:
        losses['relation_angle'] = config.relation_angle * angle_consistency(*descriptors)
    if config.relation_geodesic:
        losses['relation_geodesic'] = config.relation_geodesic * geodesic_consistency(
            image_features, cloud_features)
    return losses
