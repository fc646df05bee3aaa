"""An untrained model, small enough that a test makes one."""

import torch

from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.geometry.cameras import Pinhole


def tiny_model() -> DualEncoder:
    """Return a model of 16 numbers a descriptor, that sees 64 x 32 pixels in 8 tokens."""
    torch.manual_seed(0)
    return DualEncoder(ModelConfig(
        name='tiny', descriptor_dim=16,
        image=ImageConfig(height=32, width=64, dim=32, depth=1, heads=2,
                          camera=Pinhole(64, 32, 40.0, 40.0, 31.5, 15.5)),
        cloud=CloudConfig(tokens=TokenConfig(points=64, centres=8, neighbours=4), dim=32, depth=1,
                          heads=2, pointnet=(8, 16), pointnet_second=()),
        aggregation=AggregationConfig(clusters=4)))
