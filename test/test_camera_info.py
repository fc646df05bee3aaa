"""The camera that a CameraInfo describes, against OpenCV's projections."""

import cv2
from helpers_drives import CAMERA
from helpers_ros import camera_info
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.ros.cameras import camera_of, check_size

RNG = np.random.default_rng(0)


def test_the_camera_of_a_rectified_image_is_P():
    info = camera_info()
    info.k = np.eye(3).ravel()
    assert camera_of(info) == CAMERA
    check_size(np.zeros((24, 64, 3), np.uint8), camera_of(info))
    with pytest.raises(InputError, match='10 x 20 pixels, its CameraInfo says 64 x 24'):
        check_size(np.zeros((20, 10, 3), np.uint8), camera_of(info))


@pytest.mark.parametrize('rectified', [True, False])
def test_region_of_interest_then_binning(rectified):
    info = camera_info()
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 4, 40, 16
    info.binning_x = info.binning_y = 2
    assert camera_of(info, rectified) == Pinhole(
        20, 8, CAMERA.fx / 2, CAMERA.fy / 2, (CAMERA.cx - 10) / 2, (CAMERA.cy - 4) / 2)
    info.d = [-0.3, 0.1, 0.001, -0.002, 0.0]
    raw = camera_of(info, image_is_rectified=False)
    assert (raw.width, raw.fx, raw.cx, raw.k1) == (20, CAMERA.fx / 2, (CAMERA.cx - 10) / 2, -0.3)


@pytest.mark.parametrize(('model', 'd'), [
    ('plumb_bob', [-0.3, 0.1, 0.001, -0.002, 0.0]), ('plumb_bob', [-0.3, 0.1, 0.001, -0.002]),
    ('equidistant', [0.1, -0.02, 0.01, 0.0]), ('fisheye', [0.1, -0.02, 0.01, 0.0]),
    ('rational_polynomial', [-0.3, 0.1, 0.001, -0.002, 0.0, 0.05, 0.0, 0.0])])
def test_the_camera_of_a_raw_image_is_that_of_its_lens(model, d):
    camera = Pinhole(200, 120, 110.0, 112.0, 99.0, 61.0)
    info = camera_info(camera=camera)
    info.d, info.distortion_model = d, model
    points = RNG.uniform([-0.6, -0.4, 1.0], [0.6, 0.4, 1.0], (50, 1, 3))
    project = cv2.projectPoints if model not in ('equidistant', 'fisheye') else (
        cv2.fisheye.projectPoints)
    expected, _ = project(points, np.zeros(3), np.zeros(3), camera.K, np.array(d))
    found = camera_of(info, image_is_rectified=False).project(points[:, 0])[0]
    assert np.linalg.norm(found - camera.project(points[:, 0])[0], axis=1).max() > 2.0
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)
    assert camera_of(info) == camera  # once rectified, the lens is gone


def test_cameras_that_cannot_be_used_are_refused():
    info = camera_info()
    info.d, info.distortion_model = [0.1] * 5, 'unified'
    with pytest.raises(InputError, match="'unified' cannot be used"):
        camera_of(info, image_is_rectified=False)
    info.distortion_model = 'equidistant'
    with pytest.raises(InputError, match='5 coefficients of equidistant'):
        camera_of(info, image_is_rectified=False)
    info.p = np.zeros(12)
    with pytest.raises(InputError, match='image_is_rectified to false'):
        camera_of(info)
    info.d, info.k = [], np.zeros(9)
    for rectified in (True, False):
        with pytest.raises(InputError, match='not calibrated'):
            camera_of(info, rectified)
