"""The dual encoder: images and submaps to unit vectors of one space."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn, Tensor

from .cloud import CloudEncoder
from .config import ModelConfig
from .image import ImageEncoder
from .netvlad import NetVLAD, saliency_weight


class Encoded(NamedTuple):
    """
    descriptor: (B, D), of unit length. saliency: (B, N), the last block's CLS attention over the
    tokens (its rows sum to one less what CLS gives itself). tokens: (B, N, C), as aggregated.
    """

    descriptor: Tensor
    saliency: Tensor
    tokens: Tensor


class Branch(nn.Module):
    """One modality: its encoder and its aggregation. Exported and run by itself."""

    def __init__(self, encoder: nn.Module, aggregation: NetVLAD, strength: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.aggregation = aggregation
        self.saliency_strength = strength

    def forward(self, *inputs: Tensor) -> Encoded:
        tokens, attention = self.encoder(*inputs)
        weight = saliency_weight(attention, self.saliency_strength)
        return Encoded(self.aggregation(tokens, weight), attention, tokens)


class DualEncoder(nn.Module):
    """
    The image branch `image` and the cloud branch `cloud`, each an `encoder` and an `aggregation`.

    In eval mode, one input has one descriptor, in any batch: no layer looks across samples.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        strength, dim = config.aggregation.saliency_strength, config.descriptor_dim
        self.image = Branch(ImageEncoder(config.image),
                            NetVLAD(config.image.dim, dim, config.aggregation), strength)
        self.cloud = Branch(CloudEncoder(config.cloud),
                            NetVLAD(config.cloud.dim, dim, config.aggregation), strength)

    def encode_image(self, images: Tensor) -> Encoded:
        """Encode images (B, 3, H, W) as `prepare_image` makes them; N tokens row by row."""
        encoded: Encoded = self.image(images)
        return encoded

    def encode_cloud(self, groups: Tensor, centres: Tensor) -> Encoded:
        """Encode groups (B, G, K, 3) and centres (B, G, 3) as `cloud_tokens` makes them; N = G."""
        encoded: Encoded = self.cloud(groups, centres)
        return encoded

    def forward(self, images: Tensor, groups: Tensor, centres: Tensor) -> tuple[Encoded, Encoded]:
        """Encode images and submaps, as many of each or not."""
        return self.encode_image(images), self.encode_cloud(groups, centres)

    def set_saliency_strength(self, strength: float) -> None:
        """Set how far saliency weights the tokens (0: not at all), here and in `config`."""
        aggregation = self.config.aggregation.model_copy(
            update={'saliency_strength': float(strength)})
        self.config = self.config.model_copy(update={'aggregation': aggregation})
        self.image.saliency_strength = self.cloud.saliency_strength = float(strength)
