"""Several cameras' images stitched into one panorama."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .cameras import Array, Camera, Panorama
from .poses import R_base_optical, transform
from .remapping import Remap, remap_between

# Where two cameras see the same, one fades into the other over this angle either side of the
# middle between their axes. Of KITTI-360's fisheyes, at right angles to the way, that is as far as
# 93 degrees from the axis, which their lenses still draw.
FADE_DEG = 3.0


def panorama_mount(T_base_cameras: ArrayLike) -> Array:
    """
    Return T_base_camera (4, 4) of the panorama that `stitch` makes of cameras (k, 4, 4).

    An optical frame in the middle between the cameras, level and looking straight ahead.
    """
    T = np.asarray(T_base_cameras, np.float64)
    return transform(R_base_optical, T[:, :3, 3].mean(0))


def stitch(
    images: Sequence[NDArray[np.uint8]], cameras: Sequence[Camera], T_base_cameras: ArrayLike,
    panorama: Panorama,
) -> NDArray[np.uint8]:
    """
    Return the panorama (H, W, 3) that k cameras' images (H_i, W_i, 3), uint8, make together.

    T_base_cameras: (k, 4, 4). Each direction is taken from the camera to whose axis it is nearest
    among those that see it, with a fade to the next; black where none does. The directions are
    exact for what is far away. The cameras stand apart, so what is near is displaced: something
    at distance r by up to b / r radians, b being a camera's distance from the panorama's centre
    (`panorama_mount`) across the line of sight. Of KITTI-360's (b = 0.45 m) that is 2.6 degrees
    at 10 m ahead or behind, where the two images meet, and nothing at right angles to the way.
    """
    T = np.asarray(T_base_cameras, np.float64).reshape(-1, 4, 4)
    turns = tuple(tuple(R.ravel().tolist()) for R in T[:, :3, :3])
    total = np.zeros((panorama.height, panorama.width, 3), np.float32)
    plan = _plan(tuple(cameras), turns, panorama)
    for image, (remap, weight) in zip(images, plan, strict=True):
        total += remap.sampled(remap.shrunk(image)) * weight[:, :, None]
    return np.rint(total).astype(np.uint8)


@lru_cache(maxsize=4)
def _plan(
    cameras: tuple[Camera, ...], turns: tuple[tuple[float, ...], ...], panorama: Panorama,
) -> list[tuple[Remap, NDArray[np.float32]]]:
    """Return each camera's tables, and its weights (h, w), which add up to one where any sees."""
    rotations = [np.reshape(turn, (3, 3)).T @ R_base_optical for turn in turns]
    remaps = [remap_between(camera, panorama, R)
              for camera, R in zip(cameras, rotations, strict=True)]
    rays = panorama.rays()
    off_axis = np.stack([np.where(remap.seen.ravel(), np.arccos(np.clip(rays @ R[2], -1.0, 1.0)),
                                  np.inf) for remap, R in zip(remaps, rotations, strict=True)])
    # FADE_DEG past the middle between two axes, one is that much nearer and the other further.
    with np.errstate(invalid='ignore'):
        lead = off_axis - off_axis.min(0)
        share = np.clip(1.0 - lead / np.radians(2.0 * FADE_DEG), 0.0, 1.0)
    share = np.where(np.isfinite(off_axis), share, 0.0)
    share /= np.maximum(share.sum(0), 1e-12)
    shape = (panorama.height, panorama.width)
    return [(remap, weight.reshape(shape).astype(np.float32))
            for remap, weight in zip(remaps, share, strict=True)]
