"""Small drives for tests, and the real data where it is there."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.drive import Scan
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.lenses import Mei
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform

SHARED = Path(os.environ.get(
    'I2PLOC_SHARED_DATA', Path(__file__).resolve().parents[2] / 'shared' / 'data'))
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason='the real data is not here')

CAMERA = Pinhole(64, 24, 25.3, 25.1, 31.2, 11.9)
T_base_camera = transform(R_base_optical, [1.5, 0.06, 1.55])
T_base_lidar = transform(planar(0, 0, 0.02)[:3, :3], [0.7, -0.3, 1.73])
NAME = 'city_0042_drive_0000_sync'
START_NS = 1_700_000_000_123_456_789
# Of KITTI-360's other cameras.
FISHEYE = Mei(40, 40, 2.2, 0.02, 1.7, 1e-4, -2e-4, 43.5, 43.2, 19.4, 20.1)
R_RECT_01 = Rotation.from_euler('xyz', [0.7, -1.1, 0.4], degrees=True).as_matrix()
T_IMU_CAMERA_01 = transform(Rotation.from_euler('xyz', [80, 3, 85], degrees=True).as_matrix(),
                            [1.6, 0.55, -1.5])
T_BASE_LEFT = transform(Rotation.from_euler('xyz', [-90, 0, 0], degrees=True).as_matrix(),
                        [0.8, 0.4, 1.7])
T_BASE_RIGHT = transform(Rotation.from_euler('xyz', [-90, 0, 180], degrees=True).as_matrix(),
                         [0.8, -0.4, 1.7])


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


def write_all_cameras(root: Path) -> dict:
    """Write a drive of four frames with both perspectives and both fisheyes."""
    kitti360.write_calibration(root, CAMERA, T_base_camera, T_base_lidar, {
        'image_02': (FISHEYE, T_BASE_LEFT), 'image_03': (FISHEYE, T_BASE_RIGHT)})

    def numbers(values) -> str:
        return ' '.join(f'{v:.12f}' for v in np.ravel(values))

    with (root / 'calibration' / 'perspective.txt').open('a') as file:
        P = np.column_stack([CAMERA.K, [-20.0, 0.0, 0.0]])  # the baseline, not to be used twice
        file.write(f'S_rect_01: {CAMERA.width} {CAMERA.height}\nR_rect_01: {numbers(R_RECT_01)}\n'
                   f'P_rect_01: {numbers(P)}\n')
    with (root / 'calibration' / 'calib_cam_to_pose.txt').open('a') as file:
        file.write(f'image_01: {numbers(T_IMU_CAMERA_01[:3])}\n')
    truth = write_drive(root)
    folder = root / 'data_2d_raw' / NAME
    for camera in ('image_01', 'image_02', 'image_03'):
        images = folder / camera / kitti360.FOLDERS[camera]
        images.mkdir(parents=True)
        width, height = (64, 24) if camera == 'image_01' else (40, 40)
        for i in range(4):
            cv2.imwrite(str(images / f'{i:010d}.png'), np.random.default_rng(i).integers(
                0, 256, (height, width, 3), np.uint8))
        (folder / camera / 'timestamps.txt').write_text(
            (folder / 'image_00' / 'timestamps.txt').read_text())
    return truth
