"""Untrained models, small enough that a test makes one."""

import torch

from saliency_i2ploc_ros.data.submaps import SubmapConfig
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    RangeConfig,
    TokenConfig,
    VerifierConfig,
    View,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.geometry.cameras import Pinhole

TINY = ModelConfig(
    name='tiny', descriptor_dim=16,
    image=ImageConfig(height=16, width=32, patch=8, dim=32, depth=1, heads=2,
                      camera=Pinhole(32, 16, 12.0, 12.0, 15.5, 7.5)),
    cloud=CloudConfig(tokens=TokenConfig(points=64, centres=4, neighbours=8), dim=32, depth=1,
                      heads=2, pointnet=(16, 16), pointnet_second=(), position_width=16),
    aggregation=AggregationConfig(clusters=4))


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


VERIFYING = ModelConfig(
    name='verifying', descriptor_dim=16,
    image=ImageConfig(height=48, width=64, dim=32, depth=1, heads=2,
                      camera=Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)),
    cloud=RangeConfig(height=48, width=64, dim=32, depth=1, heads=2),
    aggregation=AggregationConfig(clusters=4), views=(View(), View(left_m=3.5, yaw_deg=180.0)),
    submap=SubmapConfig(size_m=40.0, spacing_m=5.0, min_points=16), smooth_m=3.5,
    verifier=VerifierConfig(details=8, width=16, depth=1, reach=1, weight=0.1))


def verifying_model(config: ModelConfig = VERIFYING) -> DualEncoder:
    """Return an untrained model of 3 x 4 tokens, whose verifier's logits are of the order of 1."""
    torch.manual_seed(0)
    model = DualEncoder(config).eval()
    with torch.no_grad():
        for value in () if model.verifier is None else model.verifier.parameters():
            value.add_(0.2 * torch.randn_like(value))
    return model
