"""Small drives for tests, and the real data where it is there."""

import os
from pathlib import Path

import numpy as np
import pytest

from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.drive import Scan
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform

SHARED = Path(os.environ.get(
    'I2PLOC_SHARED_DATA', Path(__file__).resolve().parents[2] / 'shared' / 'data'))
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason='the real data is not here')

CAMERA = Pinhole(64, 24, 25.3, 25.1, 31.2, 11.9)
T_base_camera = transform(R_base_optical, [1.5, 0.06, 1.55])
T_base_lidar = transform(planar(0, 0, 0.02)[:3, :3], [0.7, -0.3, 1.73])
NAME = 'city_0042_drive_0000_sync'
START_NS = 1_700_000_000_123_456_789


def write_drive(root: Path, frames: int = 4, name: str = NAME, labels: bool = False) -> dict:
    """Write a drive of `frames` frames in KITTI-360's layout; return what went into it."""
    rng = np.random.default_rng(frames)
    images = rng.integers(0, 256, (frames, CAMERA.height, CAMERA.width, 3), np.uint8)
    scans = [Scan(rng.normal(0, 20, (50 + i, 3)).astype(np.float32),
                  rng.random(50 + i).astype(np.float32),
                  rng.integers(0, 40, 50 + i).astype(np.uint16) if labels else None)
             for i in range(frames)]
    stamps = START_NS + np.arange(frames) * 104_357_376
    poses = np.stack([planar(1000.123456 + 0.9 * i, -4000.7, 0.1 * i, 116.0)
                      for i in range(frames)])
    if not (root / 'calibration').is_dir():
        kitti360.write_calibration(root, CAMERA, T_base_camera, T_base_lidar)
    with kitti360.DriveWriter(root, name) as writer:
        for i in range(frames):
            writer.image(i, images[i])
            writer.scan(i, scans[i])
        writer.finish(stamps, stamps + 187_983, np.arange(frames), poses)
    return {'images': images, 'scans': scans, 'stamps': stamps, 'poses': poses}
