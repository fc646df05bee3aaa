"""The dual encoder: images and submaps to unit vectors of one space."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..errors import InputError
from .cloud import CloudEncoder
from .config import (
    AggregationConfig,
    AnyCloud,
    AnyImage,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    VitConfig,
)
from .config_published import GemConfig, PointNetConfig, VoxelConfig
from .image import ImageEncoder
from .netvlad import NetVLAD, saliency_weight
from .pointnet import PointNet
from .pooling import Gem, Projection
from .range_image import RangeEncoder
from .resnet import ResNet
from .spherical import wraps
from .verifier import Verifier
from .voxels import VoxelEncoder


class Encoded(NamedTuple):
    """
    descriptor: (B, D), of unit length. saliency: (B, N), the last block's CLS attention over the
    tokens (its rows sum to one less what CLS gives itself). tokens: (B, N, C), as aggregated.
    features: (B, D), what was normalised to the descriptor. details: (B, N, c), what the verifier
    compares of the tokens; None without one.
    """

    descriptor: Tensor
    saliency: Tensor
    tokens: Tensor
    features: Tensor
    details: Tensor | None = None


class Branch(nn.Module):
    """
    One modality: its encoder and its aggregation. Exported and run by itself.

    mirrored: pictures are described as they are and in a mirror, and both halves make the
    descriptor: two looks err in different ways. Saliency, tokens and details are the first look's.
    detail: makes details of tokens; None: there are none.
    """

    def __init__(
        self, encoder: nn.Module, aggregation: nn.Module, strength: float, mirrored: bool = False,
        detail: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.aggregation = aggregation
        self.saliency_strength = strength
        self.mirrored = mirrored
        self.detail = detail

    def forward(self, *inputs: Tensor) -> Encoded:
        found = self.both(*inputs) if self.mirrored else self.look(*inputs)
        if self.detail is None:
            return found
        return found._replace(details=self.detail(found.tokens))

    def both(self, *inputs: Tensor) -> Encoded:
        """Encode pictures as they are and in a mirror."""
        pictures = inputs[0].float()  # training keeps range images in half precision
        both = self.look(torch.cat([pictures, pictures.flip(-1)]))
        # (2, B, ...), then beside each other: exports keep B free.
        descriptor, saliency, tokens, features = (
            part.unflatten(0, (2, -1)) for part in both[:4])
        # Halves of unit length each, so that neither look outweighs the other.
        return Encoded(descriptor.transpose(0, 1).flatten(1) * 0.5 ** 0.5, saliency[0], tokens[0],
                       features.transpose(0, 1).flatten(1))

    def look(self, *inputs: Tensor) -> Encoded:
        """Encode the inputs as they are."""
        tokens, attention = self.encoder(*inputs)
        weight = saliency_weight(attention, self.saliency_strength)
        features = self.aggregation(tokens, weight)
        return Encoded(F.normalize(features, dim=-1), attention, tokens, features)


class DualEncoder(nn.Module):
    """
    The image branch `image` and the cloud branch `cloud`, each an `encoder` and an `aggregation`.

    With a `verifier`, if the configuration has one, which compares the details of both.
    In eval mode, one input has one descriptor, in any batch: no layer looks across samples.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image = Branch(image_encoder(config), aggregation(config, config.image),
                            strength(config), config.mirrored, detail(config, config.image))
        # Of voxels the weights say which rows are filled.
        self.cloud = Branch(cloud_encoder(config), aggregation(config, config.cloud),
                            1.0 if isinstance(config.cloud, VoxelConfig) else strength(config),
                            config.mirrored, detail(config, config.cloud))
        self.verifier = verifier(config)

    def encode_image(self, images: Tensor) -> Encoded:
        """Encode images (B, 3, H, W) as `prepare_image` makes them; N tokens row by row."""
        encoded: Encoded = self.image(images)
        return encoded

    def encode_cloud(self, *inputs: Tensor) -> Encoded:
        """Encode submaps, given as `cloud_input` makes them, stacked."""
        encoded: Encoded = self.cloud(*inputs)
        return encoded

    def forward(self, images: Tensor, *inputs: Tensor) -> tuple[Encoded, Encoded]:
        """Encode images and submaps, as many of each or not."""
        return self.encode_image(images), self.encode_cloud(*inputs)

    def set_saliency_strength(self, strength: float) -> None:
        """
        Set how far saliency weights the tokens (0: not at all), here and in `config`.

        An aggregation that is not guided by saliency is an InputError.
        """
        if not isinstance(self.config.aggregation, AggregationConfig):
            raise InputError(f'the aggregation {self.config.aggregation.kind!r} is not guided by '
                             'saliency: take a model with netvlad')
        aggregation = self.config.aggregation.model_copy(
            update={'saliency_strength': float(strength)})
        self.config = self.config.model_copy(update={'aggregation': aggregation})
        self.image.saliency_strength = self.cloud.saliency_strength = float(strength)


def image_encoder(config: ModelConfig) -> nn.Module:
    """Return the image encoder of a configuration."""
    if isinstance(config.image, ImageConfig):
        return ImageEncoder(config.image)
    return ResNet(config.image)


def cloud_encoder(config: ModelConfig) -> nn.Module:
    """Return the cloud encoder of a configuration."""
    if isinstance(config.cloud, CloudConfig):
        return CloudEncoder(config.cloud)
    if isinstance(config.cloud, PointNetConfig):
        return PointNet(config.cloud)
    if isinstance(config.cloud, VoxelConfig):
        return VoxelEncoder(config.cloud)
    return RangeEncoder(config)


def aggregation(config: ModelConfig, branch: AnyImage | AnyCloud) -> nn.Module:
    """Return what makes descriptors of a branch's tokens."""
    dim, out = branch.dim, config.descriptor_dim // (2 if config.mirrored else 1)
    if isinstance(config.aggregation, AggregationConfig):
        tokens = math.prod(branch.grid) if isinstance(branch, VitConfig) else 0
        return NetVLAD(dim, out, config.aggregation, tokens)
    if isinstance(config.aggregation, GemConfig):
        return Gem(dim, out, config.aggregation)
    return Projection(dim, out, config.aggregation)


def detail(config: ModelConfig, branch: AnyImage | AnyCloud) -> nn.Linear | None:
    """Return what makes a branch's tokens the details that the verifier compares, if any."""
    return None if config.verifier is None else nn.Linear(branch.dim, config.verifier.details)


def verifier(config: ModelConfig) -> Verifier | None:
    """Return the verifier of a configuration, if it has one."""
    if config.verifier is None:
        return None
    round_ = config.image.camera is not None and wraps(config.image.camera)
    return Verifier(config.verifier, config.image.grid, round_)


def strength(config: ModelConfig) -> float:
    """Return how far attention weights the tokens."""
    if isinstance(config.aggregation, AggregationConfig):
        return config.aggregation.saliency_strength
    return 0.0
