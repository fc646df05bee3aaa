"""
Convolutions on the viewing sphere: the taps of a kernel lie on the plane tangent to it.

After SphereNet (Coors et al., ECCV 2018): about each output pixel the kernel is laid out on the
tangent plane of its direction, as far apart as pixels are at the camera's middle, and each tap is
read, bilinearly, at the pixel that looks its way (the inverse gnomonic projection). So a kernel
sees the same piece of the world wherever in a panorama it falls. It needs only the rays of a
camera and its projection, and serves a pinhole camera as well, whose wide corners it evens out.
The positions are computed once; what remains is an ordinary, differentiable sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from ..geometry.cameras import Camera, Panorama

Array = NDArray[np.float64]


class SphericalConv2d(nn.Module):
    """
    A convolution whose kernel is sampled at given positions of its input.

    weight: (out, in, k, k), as of nn.Conv2d without a bias. grid: (h k, w k, 2) of the k x k taps
    of each of the h x w outputs, as `torch.nn.functional.grid_sample` counts with corners aligned,
    in a map that has one more column if `round` (the first again, at the right).
    """

    def __init__(self, before: int, after: int, kernel: int, grid: Tensor, round: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(after, before, kernel, kernel))
        self.kernel = kernel
        self.round = round
        self.register_buffer('grid', grid, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out, h, w) of a map (B, in, H, W)."""
        grid = self.grid
        assert isinstance(grid, Tensor)
        if self.round:
            x = F.pad(x, (0, 1, 0, 0), mode='circular')
        # Beyond a pinhole's image there is nothing; beyond a panorama's rows, its last one.
        taps = F.grid_sample(x.float(), grid.expand(x.shape[0], -1, -1, -1), align_corners=True,
                             padding_mode='border' if self.round else 'zeros')
        return F.conv2d(taps, self.weight, stride=self.kernel)


def spherical_convolutions(
    camera: Camera,
) -> Callable[[int, int, int, int, int], SphericalConv2d]:
    """
    Return what makes convolutions (in, out, kernel, stride, scale) of a camera's images.

    scale: how many times as coarse as the image their input is; its pixel (i, j) is the image's
    pixel (scale i, scale j), as strided convolutions have it. Equal positions are computed once.
    """
    grids: dict[tuple[int, int, int], Tensor] = {}

    def make(before: int, after: int, kernel: int, stride: int, scale: int) -> SphericalConv2d:
        key = kernel, stride, scale
        if key not in grids:
            grids[key] = torch.from_numpy(grid_of(camera, *key))
        return SphericalConv2d(before, after, kernel, grids[key], wraps(camera))

    return make


def wraps(camera: Camera) -> bool:
    """Return whether the right edge of a camera's image meets its left one."""
    return isinstance(camera, Panorama)


def grid_of(camera: Camera, kernel: int, stride: int, scale: int) -> NDArray[np.float32]:
    """Return the positions (h k, w k, 2) of `SphericalConv2d` for a camera's images."""
    rows, columns = -(-camera.height // scale), -(-camera.width // scale)
    taps = tap_pixels(camera, kernel, stride, scale) / scale
    u, v = taps[..., 0], taps[..., 1]
    if wraps(camera):
        last = columns  # the first column, again
        u = np.mod(u, columns)
    else:
        last = columns - 1
    at = np.stack([2.0 * u / max(last, 1) - 1.0, 2.0 * v / max(rows - 1, 1) - 1.0], -1)
    h, w, k = taps.shape[0], taps.shape[1], kernel
    at = at.reshape(h, w, k, k, 2).transpose(0, 2, 1, 3, 4).reshape(h * k, w * k, 2)
    # What the camera cannot see at all is far outside.
    return np.nan_to_num(np.clip(at, -4.0, 4.0), nan=4.0).astype(np.float32)


def tap_pixels(camera: Camera, kernel: int, stride: int, scale: int) -> Array:
    """
    Return where in the image the taps of a kernel fall, (h, w, k * k, 2) pixels.

    The taps about a direction d are d + tan(angle) (i right + j down), i and j from -(k // 2) to
    k // 2, with `angle` that of `scale` pixels at the camera's middle, and `right` level. Taps
    that the camera cannot see are NaN.
    """
    step = scale * stride
    u, v = np.meshgrid(np.arange(0, camera.width, step), np.arange(0, camera.height, step))
    d = camera.rays(np.stack([u.ravel(), v.ravel()], 1))
    right = np.cross([0.0, 1.0, 0.0], d)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    down = np.cross(d, right)
    across, along = np.tan(scale * np.array(pixel_angles(camera)))
    j, i = np.meshgrid(np.arange(kernel) - kernel // 2, np.arange(kernel) - kernel // 2,
                       indexing='ij')
    taps = (d[:, None] + across * i.ravel()[None, :, None] * right[:, None]
            + along * j.ravel()[None, :, None] * down[:, None])
    uv, _ = camera.project(taps.reshape(-1, 3))
    return uv.reshape(*u.shape, kernel * kernel, 2)


def pixel_angles(camera: Camera) -> tuple[float, float]:
    """Return the angles between neighbouring columns and rows at the image's middle, radians."""
    middle = np.array([(camera.width - 1) / 2, (camera.height - 1) / 2])
    above, below = camera.rays([middle - [0.0, 0.5], middle + [0.0, 0.5]])
    return camera.pixel_angle, float(np.arcsin(np.linalg.norm(np.cross(above, below))))
