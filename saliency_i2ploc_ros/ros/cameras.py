"""From CameraInfo to the pinhole of the core, and raw images to those that it would take."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from ..errors import InputError
from ..geometry.cameras import Pinhole

Maps = tuple[NDArray[np.int16], NDArray[np.uint16]]


@dataclass(frozen=True)
class RosCamera:
    """
    The pinhole of a camera's rectified images, and how to rectify its raw ones.

    maps: OpenCV's remap tables, or None where the images come rectified.
    """

    pinhole: Pinhole
    maps: Maps | None = None

    def rectified(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image (H, W, 3) as the pinhole sees it; one of another size: InputError."""
        height, width = image.shape[:2]
        if (width, height) != (self.pinhole.width, self.pinhole.height):
            raise InputError(f'the image has {width} x {height} pixels, its CameraInfo says '
                             f'{self.pinhole.width} x {self.pinhole.height}: remap camera_info to '
                             'the topic that belongs to the image')
        if self.maps is None:
            return image
        return np.asarray(cv2.remap(image, *self.maps, cv2.INTER_LINEAR), np.uint8)


def camera_of(info: CameraInfo, image_is_rectified: bool = True) -> RosCamera:
    """
    Return the camera that a CameraInfo describes; what cannot be used is an InputError.

    CameraInfo says nothing about whether the images that come with it are rectified (image_raw
    and image_rect share theirs): `image_is_rectified` does. A rectified image's camera is P. A raw
    one's is K with distortion D (plumb_bob, rational_polynomial, equidistant); such images are
    undistorted onto the intrinsics of P, or of K where there is no P, but not turned by R, so that
    the optical frame stays the one that the header names. Region of interest and binning apply.
    """
    P = np.asarray(info.p, np.float64).reshape(3, 4)
    K = np.asarray(info.k, np.float64).reshape(3, 3)
    new = P[:, :3] if P[0, 0] > 0.0 else K
    distorted = bool(np.any(np.asarray(info.d)))
    if image_is_rectified and P[0, 0] == 0.0 and distorted:
        raise InputError('the CameraInfo has distortion but no projection P: for a raw image set '
                         'image_is_rectified to false')
    _check_intrinsics(new, info)
    maps = None
    if not image_is_rectified and distorted:
        _check_intrinsics(K, info)
        maps = _undistort_maps(info, K, new)
    elif not image_is_rectified:
        new = K
        _check_intrinsics(new, info)
    roi, bx, by = info.roi, info.binning_x or 1, info.binning_y or 1
    size = (info.width, info.height)
    full = roi.width == 0 or roi.height == 0 or (roi.width, roi.height) == size
    if maps is not None and not (full and bx == 1 and by == 1):
        raise InputError('a raw, distorted image with binning or a region of interest cannot be '
                         'used: rectify it (image_proc) and give that')
    x0, y0 = (0, 0) if full else (roi.x_offset, roi.y_offset)
    width, height = size if full else (roi.width, roi.height)
    # sensor_msgs/CameraInfo: the region is cut out of the full image, then binned.
    pinhole = Pinhole(width // bx, height // by, float(new[0, 0] / bx), float(new[1, 1] / by),
                      float((new[0, 2] - x0) / bx), float((new[1, 2] - y0) / by))
    return RosCamera(pinhole, maps)


def _check_intrinsics(K: NDArray[np.float64], info: CameraInfo) -> None:
    if not (np.isfinite(K).all() and K[0, 0] > 0.0 and K[1, 1] > 0.0):
        raise InputError(f'the CameraInfo of frame {info.header.frame_id!r} is not calibrated: '
                         f'its focal lengths are {K[0, 0]:g}, {K[1, 1]:g}')
    if info.width == 0 or info.height == 0:
        raise InputError(f'the CameraInfo of frame {info.header.frame_id!r} has no image size')


def _undistort_maps(info: CameraInfo, K: NDArray[np.float64], new: NDArray[np.float64]) -> Maps:
    D, size = np.asarray(info.d, np.float64), (info.width, info.height)
    if info.distortion_model in ('plumb_bob', 'rational_polynomial', ''):
        return cv2.initUndistortRectifyMap(K, D, None, new, size, cv2.CV_16SC2)
    if info.distortion_model == 'equidistant' and len(D) == 4:
        return cv2.fisheye.initUndistortRectifyMap(K, D, np.eye(3), new, size, cv2.CV_16SC2)
    raise InputError(f'distortion {info.distortion_model!r} cannot be removed, only plumb_bob, '
                     'rational_polynomial and equidistant: give a rectified image')
