"""
`prepare_image` where the model runs: the raw image goes up, and is resampled and normalised there.

A camera's image goes through the same two steps as on the processor, each a fixed linear map:
averaging over areas to nearly the right scale (two small matrices, for rows and for columns), then
bilinear sampling where the virtual camera looks. Both are made once for each camera and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoders.config import AnyImage
from ..encoders.image_input import check_input, pinhole_steps
from ..geometry.cameras import Camera, Pinhole
from ..geometry.remapping import remap_between
from .parity import Floats

CAMERAS = 8  # whose tables are kept, those used last


@dataclass(frozen=True)
class _Tables:
    """
    Of one camera, on the device.

    rows: (h', H) and columns: (w', W) average the image to h' x w', None where it has that size.
    grid: (1, h, w, 2), where the virtual camera's pixels lie in that, as grid_sample counts; None
    without a virtual camera. seen: (h, w), which of them the camera sees; None: beyond the image's
    edge is zero, and the edge itself fades into it. wraps: left and right edge meet.
    """

    rows: Tensor | None
    columns: Tensor | None
    grid: Tensor | None = None
    seen: Tensor | None = None
    wraps: bool = False


class DeviceInput:
    """
    Makes images of any camera the input of a model, on a device of PyTorch.

    Equal to `prepare_image` but for rounding: OpenCV rounds places in the image to 1/32 of a pixel
    where it remaps, and averages to whole grey levels in its own order of sums. Not for several
    threads at once.
    """

    def __init__(self, config: AnyImage, device: torch.device | str) -> None:
        self.config = config
        self.device = torch.device(device)
        self._mean = torch.tensor(config.mean, device=self.device).reshape(3, 1, 1)
        self._std = torch.tensor(config.std, device=self.device).reshape(3, 1, 1)
        self._tables: OrderedDict[Camera | tuple[int, int], _Tables] = OrderedDict()
        self._staging: Tensor | None = None
        self._uploaded: torch.cuda.Event | None = None

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], camera: Camera | None) -> Tensor:
        """
        Return an RGB image (H, W, 3) as (3, height, width) float32; errors as `prepare_image`'s.

        On CUDA the result may still be in the making: whatever uses it on the same stream waits.
        """
        check_input(image, camera, self.config)
        tables = self._tables_of(image.shape[1], image.shape[0], camera)
        planes = self._up(image).permute(2, 0, 1).float()
        if tables.rows is not None and tables.columns is not None:
            # Whole grey levels again, as on the processor.
            planes = (tables.rows @ planes @ tables.columns.T).round_()
        planes = planes.div_(255.0).sub_(self._mean).div_(self._std)
        if tables.grid is None:
            return planes
        if tables.wraps:
            planes = torch.cat([planes[:, :, -1:], planes, planes[:, :, :1]], 2)
        sampled = F.grid_sample(
            planes[None], tables.grid, mode='bilinear', align_corners=False,
            padding_mode='zeros' if tables.seen is None else 'border')[0]
        return sampled if tables.seen is None else sampled * tables.seen

    def close(self) -> None:
        """Forget all tables and buffers."""
        self._tables.clear()
        self._staging = self._uploaded = None

    def _up(self, image: NDArray[np.uint8]) -> Tensor:
        """Return the image on the device; its copy runs while the processor goes on."""
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        if self.device.type != 'cuda':
            return pixels.to(self.device)
        if self._uploaded is not None:
            self._uploaded.synchronize()  # else the last image might still be read from there
        if self._staging is None or self._staging.shape != pixels.shape:
            self._staging = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        self._staging.copy_(pixels)
        above = self._staging.to(self.device, non_blocking=True)
        self._uploaded = torch.cuda.Event()
        self._uploaded.record(torch.cuda.current_stream(self.device))
        return above

    def _tables_of(self, width: int, height: int, camera: Camera | None) -> _Tables:
        # Without a virtual camera only the size counts.
        key = (width, height) if self.config.camera is None or camera is None else camera
        if key in self._tables:
            self._tables.move_to_end(key)
        else:
            self._tables[key] = self._made(width, height, camera)
            if len(self._tables) > CAMERAS:
                self._tables.popitem(last=False)
        return self._tables[key]

    def _made(self, width: int, height: int, camera: Camera | None) -> _Tables:
        virtual = self.config.camera
        if virtual is None or camera is None:
            to = self.config.width, self.config.height
            shrinks = to[0] <= width and to[1] <= height
            weights = area_weights if shrinks else linear_weights
            return _Tables(*self._resizing((width, height), to, weights))
        if isinstance(camera, Pinhole) and isinstance(virtual, Pinhole):
            size, affine = pinhole_steps(camera, virtual)
            at = (virtual.pixels() - affine[:, 2]) / np.diag(affine)
            seen, wraps = None, False
        else:
            remap = remap_between(camera, virtual)
            size, at, wraps = remap.size, remap.maps.reshape(-1, 2).astype(np.float64), remap.wraps
            seen = torch.from_numpy(remap.seen).to(self.device)
        wide = size[0] + 2 * wraps
        # grid_sample: -1 and 1 are the outer edges of the first and the last pixel.
        grid = (2.0 * (at + [float(wraps), 0.0]) + 1.0) / [wide, size[1]] - 1.0
        shape = 1, virtual.height, virtual.width, 2
        return _Tables(*self._resizing((width, height), size, area_weights),
                       torch.from_numpy(grid.astype(np.float32).reshape(shape)).to(self.device),
                       seen, wraps)

    def _resizing(
        self, size: tuple[int, int], to: tuple[int, int], weights: Callable[[int, int], Floats],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what makes images (width, height) of the size `to`: (h', H) and (w', W)."""
        if size == to:
            return None, None
        columns, rows = (torch.from_numpy(weights(n, m)).to(self.device)
                         for n, m in zip(size, to, strict=True))
        return rows, columns


def area_weights(source: int, target: int) -> Floats:
    """
    Return (target, source): each of `target` pixels is the mean of what it covers of `source`.

    As OpenCV's INTER_AREA; target <= source.
    """
    scale = source / target
    left = np.arange(target)[:, None] * scale
    pixel = np.arange(source)[None, :]
    covered = np.minimum(left + scale, pixel + 1) - np.maximum(left, pixel)
    covered = np.maximum(covered, 0.0)
    return np.asarray(covered / covered.sum(1, keepdims=True), np.float32)


def linear_weights(source: int, target: int) -> Floats:
    """Return (target, source), linear interpolation: OpenCV's INTER_LINEAR."""
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0.0, source - 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(source)[None, :]))
    return weights.astype(np.float32)
