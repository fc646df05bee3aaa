"""From CameraInfo to the camera of the core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from ..errors import InputError
from ..geometry.cameras import Camera, Pinhole
from ..geometry.lenses import Brown, Fisheye, Mei

# Names of distortion models and how many coefficients each may have.
BROWN = {'plumb_bob': (4, 5), 'rational_polynomial': (8,)}
FISHEYE = ('equidistant', 'fisheye')
MEI = 'mei'


def camera_of(info: CameraInfo, image_is_rectified: bool = True) -> Camera:
    """
    Return the camera that a CameraInfo describes; what cannot be used is an InputError.

    CameraInfo says nothing about whether the images that come with it are rectified (image_raw
    and image_rect share theirs): `image_is_rectified` does. A rectified image's camera is P. A raw
    one's is K with distortion D (plumb_bob, rational_polynomial; equidistant, by some called
    fisheye; mei, whose D is xi, k1, k2, p1, p2 and whose K is of the generalised plane: gamma1,
    gamma2, u0, v0), and not turned by R, so that the optical frame stays the one that the header
    names. An image of mei without a P is always raw: its lens sees what no P can. Region of
    interest and binning apply.
    """
    P = np.asarray(info.p, np.float64).reshape(3, 4)
    K = np.asarray(info.k, np.float64).reshape(3, 3)
    D = np.asarray(info.d, np.float64)
    distorted = bool(np.any(D)) or info.distortion_model == MEI
    if not image_is_rectified or (info.distortion_model == MEI and P[0, 0] == 0.0):
        _check_intrinsics(K, info)
        return _raw(info, K, D) if distorted else Pinhole(*_view(info, K))
    if P[0, 0] == 0.0 and distorted:
        raise InputError('the CameraInfo has distortion but no projection P: for a raw image set '
                         'image_is_rectified to false')
    K = P[:, :3] if P[0, 0] > 0.0 else K
    _check_intrinsics(K, info)
    return Pinhole(*_view(info, K))


def check_size(image: NDArray[np.uint8], camera: Camera) -> None:
    """Raise InputError unless an image (H, W, 3) has its camera's size."""
    height, width = image.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise InputError(f'the image has {width} x {height} pixels, its CameraInfo says '
                         f'{camera.width} x {camera.height}: remap camera_info to '
                         'the topic that belongs to the image')


def _raw(info: CameraInfo, K: NDArray[np.float64], D: NDArray[np.float64]) -> Camera:
    """Return the camera of raw images with distortion."""
    model = info.distortion_model or 'plumb_bob'
    if model == MEI and len(D) == 5:
        width, height, gamma1, gamma2, u0, v0 = _view(info, K)
        return Mei(width, height, *D.tolist(), gamma1, gamma2, u0, v0)
    if model in FISHEYE and len(D) == 4:
        return Fisheye(*_view(info, K), *D.tolist())
    if len(D) in BROWN.get(model, ()):
        return Brown(*_view(info, K), *D.tolist())
    if model in BROWN or model in FISHEYE or model == MEI:
        raise InputError(f'the CameraInfo has {len(D)} coefficients of {model}: plumb_bob has 4 '
                         'or 5, rational_polynomial 8, equidistant 4, mei 5')
    raise InputError(f'distortion {model!r} cannot be used, only plumb_bob, '
                     'rational_polynomial, equidistant and mei: give a rectified image')


def _view(
    info: CameraInfo, K: NDArray[np.float64],
) -> tuple[int, int, float, float, float, float]:
    """Return width, height, fx, fy, cx and cy of the images."""
    roi, bx, by = info.roi, info.binning_x or 1, info.binning_y or 1
    size = (info.width, info.height)
    full = roi.width == 0 or roi.height == 0 or (roi.width, roi.height) == size
    x0, y0 = (0, 0) if full else (roi.x_offset, roi.y_offset)
    width, height = size if full else (roi.width, roi.height)
    # sensor_msgs/CameraInfo: the region is cut out of the full image, then binned.
    return (width // bx, height // by, float(K[0, 0] / bx), float(K[1, 1] / by),
            float((K[0, 2] - x0) / bx), float((K[1, 2] - y0) / by))


def _check_intrinsics(K: NDArray[np.float64], info: CameraInfo) -> None:
    if not (np.isfinite(K).all() and K[0, 0] > 0.0 and K[1, 1] > 0.0):
        raise InputError(f'the CameraInfo of frame {info.header.frame_id!r} is not calibrated: '
                         f'its focal lengths are {K[0, 0]:g}, {K[1, 1]:g}')
    if info.width == 0 or info.height == 0:
        raise InputError(f'the CameraInfo of frame {info.header.frame_id!r} has no image size')
