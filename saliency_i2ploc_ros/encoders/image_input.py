"""An image as the image encoder takes it: resampled to its virtual camera, and normalised."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.cameras import Camera, Pinhole
from ..geometry.remapping import remap_between
from .config import AnyImage


def prepare_image(
    image: NDArray[np.uint8], camera: Camera | None, config: AnyImage,
) -> NDArray[np.float32]:
    """
    Return an RGB image (H, W, 3) as the network's input (3, height, width), normalised.

    With a virtual camera in `config`, a direction seen by `camera`, of whichever kind, comes to
    the pixel where the virtual one sees it (both look along the same optical axis); what `camera`
    did not see is filled with the mean (zero once normalised). Without one the image is resized,
    whatever its camera.
    """
    image = np.asarray(image)
    check_input(image, camera, config)
    if config.camera is None:
        resized = _resize(image, config.width, config.height)
        return _normalise(resized, config).transpose(2, 0, 1).copy()
    assert camera is not None
    if isinstance(camera, Pinhole) and isinstance(config.camera, Pinhole):
        return _to_pinhole(image, camera, config.camera, config).transpose(2, 0, 1).copy()
    remap = remap_between(camera, config.camera)
    small = _normalise(remap.shrunk(image), config)
    return np.asarray(remap.sampled(small), np.float32).transpose(2, 0, 1).copy()


def check_input(image: NDArray[np.uint8], camera: Camera | None, config: AnyImage) -> None:
    """Raise InputError unless `prepare_image` can take this image of this camera."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError('an image must be (H, W, 3) uint8 RGB, '
                         f'not {image.shape} {image.dtype}')
    height, width = image.shape[:2]
    if camera is not None and (camera.width, camera.height) != (width, height):
        raise InputError(f'the image is {width} x {height} but its camera '
                         f'{camera.width} x {camera.height}: give the calibration of this image')
    if config.camera is None:
        return
    if camera is None:
        raise InputError('the model sees through a virtual camera: '
                         'the image needs its calibration')
    if isinstance(camera, Pinhole) and not (
            np.isfinite(camera.K).all() and camera.fx > 0.0 and camera.fy > 0.0):
        raise InputError(f'the camera has focal lengths {camera.fx}, {camera.fy}: '
                         'give a valid calibration')


def pinhole_steps(
    camera: Pinhole, virtual: Pinhole,
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """
    Return how images of `camera` come to `virtual`: by averaging, then by an affine map.

    The size (width, height) to average to, nearly at the right scale, so that nothing aliases;
    and (2, 3), which takes pixels of that size to those of `virtual`: the sub-pixel rest.
    """
    width = max(1, min(camera.width, round(camera.width * virtual.fx / camera.fx)))
    height = max(1, min(camera.height, round(camera.height * virtual.fy / camera.fy)))
    near = camera.resized(width, height)
    sx, sy = virtual.fx / near.fx, virtual.fy / near.fy
    return (width, height), np.array([[sx, 0.0, virtual.cx - sx * near.cx],
                                      [0.0, sy, virtual.cy - sy * near.cy]])


def _to_pinhole(
    image: NDArray[np.uint8], camera: Pinhole, virtual: Pinhole, config: AnyImage,
) -> NDArray[np.float32]:
    """Return the normalised image (h, w, 3) as `virtual` would have taken it."""
    size, affine = pinhole_steps(camera, virtual)
    small = _normalise(_resize(image, *size), config)
    return np.asarray(cv2.warpAffine(
        small, affine, (virtual.width, virtual.height), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=(0.0, 0.0, 0.0)), np.float32)


def _resize(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if (height, width) == image.shape[:2]:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _normalise(image: NDArray[np.uint8], config: AnyImage) -> NDArray[np.float32]:
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return (image.astype(np.float32) / np.float32(255.0) - mean) / std
