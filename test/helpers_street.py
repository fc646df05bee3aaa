"""A street driven twice, with scans, and a small model that was never trained, for commands."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from saliency_i2ploc_ros.data.drive import Scan
from saliency_i2ploc_ros.data.kitti360 import DriveWriter, write_calibration
from saliency_i2ploc_ros.data.submaps import SubmapConfig
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    TokenConfig,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import save_model
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import apply, inverse, planar, R_base_optical, transform

CAMERA = Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
T_BASE_CAMERA = transform(R_base_optical, [1.0, 0.0, 1.5])
T_BASE_LIDAR = transform(None, [0.0, 0.0, 1.7])
TWICE = {'city_0007_drive_0000_sync': 0.0, 'city_0007_drive_0001_sync': 1.5}


def write_street(
    root: Path, drives: Mapping[str, float] = TWICE, seed: int = 5, frames: int = 20,
    step_m: float = 3.0, end_m: float = 80.0, points: int = 6000,
) -> None:
    """
    Write drives straight ahead between two walls, in KITTI-360's layout; images are of noise.

    drives: by name, how far to the left each drives, metres.
    """
    rng = np.random.default_rng(seed)
    write_calibration(root, CAMERA, T_BASE_CAMERA, T_BASE_LIDAR)
    street = np.stack([rng.uniform(-20, end_m, points), rng.choice([-8.0, 9.0], points),
                       rng.uniform(0, 8, points)], 1)
    stamps = np.arange(frames) * 10 ** 9 + 1_700_000_000_000_000_007
    for drive, lane in drives.items():
        poses = np.stack([planar(step_m * i, lane, 0.0) for i in range(frames)])
        with DriveWriter(root, drive) as writer:
            for i, T in enumerate(poses):
                small = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
                writer.image(i, cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
                seen = street[np.linalg.norm(street[:, :2] - T[:2, 3], axis=1) < 30.0]
                seen = apply(inverse(T @ T_BASE_LIDAR), seen).astype(np.float32)
                writer.scan(i, Scan(seen, np.zeros(len(seen), np.float32), None))
            writer.finish(stamps, stamps, np.arange(frames), poses)


def save_small_model(folder: Path, seed: int = 0, **provenance: object) -> None:
    """Save a model with random weights that describes images and clouds in milliseconds."""
    torch.manual_seed(seed)
    save_model(DualEncoder(ModelConfig(
        name='tiny', descriptor_dim=16,
        image=ImageConfig(height=48, width=64, dim=32, depth=1, heads=2),
        cloud=CloudConfig(tokens=TokenConfig(points=64, centres=8, neighbours=4), dim=32, depth=1,
                          heads=2, pointnet=(8, 16), pointnet_second=()),
        aggregation=AggregationConfig(clusters=4),
        submap=SubmapConfig(size_m=40.0, spacing_m=5.0, min_points=16))), folder, provenance)
