"""Images of one camera as another at the same place, turned or not, would have taken them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .cameras import Array, Camera, Panorama


@dataclass(frozen=True)
class Remap:
    """
    Tables from an image to another camera's.

    size: (width, height) to which the image is brought first by averaging over areas, so that
    its pixels are as wide as the target's and nothing aliases. maps: (h, w, 2) float32, where in
    that image each of the target's pixels lies. seen: (h, w), which of them the source sees.
    wraps: the image's left and right edges meet.
    """

    size: tuple[int, int]
    maps: NDArray[np.float32]
    seen: NDArray[np.bool_]
    wraps: bool

    def shrunk(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image of the source camera, (H, W, c), at the size that the tables are for."""
        if self.size == (image.shape[1], image.shape[0]):
            return image
        return np.asarray(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), np.uint8)

    def sampled(self, image: NDArray) -> NDArray:
        """
        Return a shrunk image (of any float or 8-bit type) as the target sees it, (h, w, c).

        Zero where the source sees nothing.
        """
        maps = self.maps
        if self.wraps:
            image = np.concatenate([image[:, -1:], image, image[:, :1]], 1)
            maps = maps + np.array([1.0, 0.0], np.float32)
        out = cv2.remap(np.ascontiguousarray(image), maps[:, :, 0], maps[:, :, 1],
                        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out[~self.seen] = 0
        return np.asarray(out)


def remap_between(source: Camera, target: Camera, R_source_target: Array | None = None) -> Remap:
    """
    Return the tables by which `target` sees images of `source`; kept for the pairs used last.

    R_source_target: (3, 3), how the target's optical frame is turned in the source's; None: not.
    The two are taken to be at one place: only of things far away is that true where they are not.
    """
    R = np.eye(3) if R_source_target is None else np.asarray(R_source_target, np.float64)
    return _remap(source, target, tuple(R.ravel().tolist()))


@lru_cache(maxsize=8)
def _remap(source: Camera, target: Camera, turn: tuple[float, ...]) -> Remap:
    directions = target.rays() @ np.reshape(turn, (3, 3)).T
    uv, seen = source.project(directions)
    seen &= np.isfinite(directions).all(1)
    uv[~seen] = np.nan
    uv, seen = uv.reshape(target.height, target.width, 2), seen.reshape(target.height, -1)
    wraps = isinstance(source, Panorama)
    near = source.resized(_size(source.width, uv[:, :, 0], wraps),
                          _size(source.height, uv[:, :, 1], False))
    # Resampling moves pixel u to (u + 1/2) * scale - 1/2: corners stay corners.
    scale = np.array([near.width / source.width, near.height / source.height])
    maps = np.where(seen[:, :, None], (uv + 0.5) * scale - 0.5, -1.0).astype(np.float32)
    return Remap((near.width, near.height), maps, seen, wraps)


def _size(pixels: int, at: Array, wraps: bool) -> int:
    """Return to how many pixels a side of the source shrinks, from where the target looks."""
    down, right = np.diff(at, axis=0)[:, :-1], np.diff(at, axis=1)[:-1]
    if wraps:
        down, right = ((d + pixels / 2) % pixels - pixels / 2 for d in (down, right))
    apart = np.hypot(down, right)
    apart = apart[np.isfinite(apart)]
    return max(1, round(pixels / max(1.0, float(np.median(apart))))) if len(apart) else pixels
