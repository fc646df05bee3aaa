"""
Cameras with real lenses: `Brown` (perspective with distortion), `Fisheye` and `Mei`.

None is a bijection for ever: beyond some angle a polynomial folds back, and a point there would
come to a pixel that belongs to another. Each model is therefore used only as far as it is
invertible; beyond, pixels and rays are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .cameras import Array, Camera

Coefficients = tuple[float, ...]

WIDEST = np.radians(89.9)  # of a plane's directions: tan(90 degrees) is infinite


@dataclass(frozen=True)
class Brown(Camera):
    """
    A perspective camera whose lens distorts: ROS's plumb_bob and rational_polynomial.

    The formula is OpenCV's (calib3d, "Detailed description"), after Brown, "Decentering distortion
    of lenses", 1966. fx, fy, cx, cy: pixels. k1, k2, k3: radial, k4, k5, k6: of the denominator;
    p1, p2: tangential.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    p1: float
    p2: float
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0

    def __post_init__(self) -> None:
        _check(self, self.fx, self.fy)

    @property
    def _k(self) -> Coefficients:
        return self.k1, self.k2, self.p1, self.p2, self.k3, self.k4, self.k5, self.k6

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Return pixels (n, 2) of points (n, 3), NaN behind or beyond the lens; and if inside."""
        p = np.asarray(points, np.float64)
        xy = p[:, :2] / np.where(p[:, 2] > 0.0, p[:, 2], np.nan)[:, None]
        uv = _distorted(xy, self._k) * [self.fx, self.fy] + [self.cx, self.cy]
        return uv, self.contains(uv)

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """Return unit directions (n, 3) of pixels (n, 2) or all; NaN where there is none."""
        uv = self.pixels() if pixels is None else np.asarray(pixels, np.float64)
        xy = _undistorted((uv - [self.cx, self.cy]) / [self.fx, self.fy], self._k)
        d = np.column_stack([xy, np.ones(len(xy))])
        return d / np.linalg.norm(d, axis=1, keepdims=True)

    def resized(self, width: int, height: int) -> Brown:
        """Return the camera of the same view resampled to another size (either may stretch)."""
        intrinsics = self.scaled(width, height, self.fx, self.fy, self.cx, self.cy)
        return Brown(width, height, *intrinsics, *self._k)


@dataclass(frozen=True)
class Fisheye(Camera):
    """
    A fisheye whose radius is a polynomial of the angle: ROS's equidistant, OpenCV's fisheye.

    Kannala, Brandt, "A generic camera model and calibration method for conventional, wide-angle
    and fish-eye lenses", 2006: r = t (1 + k1 t^2 + k2 t^4 + k3 t^6 + k4 t^8) at the angle t from
    the axis. fx, fy, cx, cy: pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float
    k2: float
    k3: float
    k4: float

    def __post_init__(self) -> None:
        _check(self, self.fx, self.fy)

    @property
    def _k(self) -> Coefficients:
        return self.k1, self.k2, self.k3, self.k4

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Return pixels (n, 2) of points (n, 3), NaN beyond the lens's angle; and if inside."""
        p = np.asarray(points, np.float64)
        flat = np.hypot(p[:, 0], p[:, 1])
        angle = np.arctan2(flat, p[:, 2])
        nowhere = (angle > _widest_angle(self._k)) | ((flat == 0.0) & (p[:, 2] <= 0.0))
        radius = np.where(nowhere, np.nan, _radius(angle, self._k)[0])
        toward = p[:, :2] / np.where(flat > 0.0, flat, 1.0)[:, None]
        uv = toward * radius[:, None] * [self.fx, self.fy] + [self.cx, self.cy]
        return uv, self.contains(uv)

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """Return unit directions (n, 3) of pixels (n, 2) or all; NaN where there is none."""
        uv = self.pixels() if pixels is None else np.asarray(pixels, np.float64)
        xy = (uv - [self.cx, self.cy]) / [self.fx, self.fy]
        radius = np.hypot(xy[:, 0], xy[:, 1])
        widest = _widest_angle(self._k)
        table = np.linspace(0.0, widest, 1025, dtype=np.float64)
        angle = np.interp(radius, _radius(table, self._k)[0], table)
        for _ in range(6):
            r, slope = _radius(angle, self._k)
            with np.errstate(divide='ignore', invalid='ignore'):
                step = np.where(slope > 0.0, (r - radius) / slope, 0.0)
            angle = np.clip(angle - step, 0.0, widest)
        angle[~(np.abs(_radius(angle, self._k)[0] - radius) < 1e-9)] = np.nan
        toward = xy / np.where(radius > 0.0, radius, 1.0)[:, None]
        return np.column_stack([toward * np.sin(angle)[:, None], np.cos(angle)])

    def resized(self, width: int, height: int) -> Fisheye:
        """Return the camera of the same view resampled to another size (either may stretch)."""
        intrinsics = self.scaled(width, height, self.fx, self.fy, self.cx, self.cy)
        return Fisheye(width, height, *intrinsics, *self._k)


@dataclass(frozen=True)
class Mei(Camera):
    """
    The unified model of omnidirectional cameras, by which KITTI-360's fisheyes are calibrated.

    Mei, Rives, "Single view point omnidirectional camera calibration from planar grids", 2007: a
    point goes to the unit sphere, from there to a plane as seen from xi behind the centre, is
    distorted there as by a `Brown` lens (k1, k2, p1, p2), and scaled (gamma1, gamma2) and shifted
    (u0, v0) to pixels.
    """

    xi: float
    k1: float
    k2: float
    p1: float
    p2: float
    gamma1: float
    gamma2: float
    u0: float
    v0: float

    def __post_init__(self) -> None:
        _check(self, self.gamma1, self.gamma2)
        if self.xi < 0.0:
            raise InputError(f'the mirror parameter xi is {self.xi:g}: give one that is not '
                             'negative')

    @property
    def _k(self) -> Coefficients:
        return self.k1, self.k2, self.p1, self.p2, 0.0, 0.0, 0.0, 0.0

    def project(self, points: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """Return pixels (n, 2) of points (n, 3), NaN beyond the lens's angle; and if inside."""
        p = np.asarray(points, np.float64)
        far = np.linalg.norm(p, axis=1)
        d = p / np.where(far > 0.0, far, np.nan)[:, None]
        depth = d[:, 2] + self.xi
        # Of the sphere's back the same plane sees a second image: for xi > 1 where cos t < -1/xi.
        first = depth > 0.0 if self.xi <= 1.0 else 1.0 + self.xi * d[:, 2] > 0.0
        xy = d[:, :2] / np.where(first, depth, np.nan)[:, None]
        uv = _distorted(xy, self._k) * [self.gamma1, self.gamma2] + [self.u0, self.v0]
        return uv, self.contains(uv)

    def rays(self, pixels: ArrayLike | None = None) -> Array:
        """Return unit directions (n, 3) of pixels (n, 2) or all; NaN where there is none."""
        uv = self.pixels() if pixels is None else np.asarray(pixels, np.float64)
        xy = _undistorted((uv - [self.u0, self.v0]) / [self.gamma1, self.gamma2], self._k)
        square = (xy ** 2).sum(1)
        under = 1.0 + (1.0 - self.xi ** 2) * square
        scale = (self.xi + np.sqrt(np.where(under >= 0.0, under, np.nan))) / (1.0 + square)
        return np.column_stack([xy * scale[:, None], scale - self.xi])

    def resized(self, width: int, height: int) -> Mei:
        """Return the camera of the same view resampled to another size (either may stretch)."""
        intrinsics = self.scaled(width, height, self.gamma1, self.gamma2, self.u0, self.v0)
        return Mei(width, height, self.xi, self.k1, self.k2, self.p1, self.p2, *intrinsics)


def _check(camera: Camera, fx: float, fy: float) -> None:
    """Raise InputError unless all of a camera's numbers can be those of one."""
    values = [getattr(camera, field.name) for field in fields(camera)]
    if not (np.isfinite(values).all() and camera.width > 0 and camera.height > 0
            and fx > 0.0 and fy > 0.0):
        raise InputError(f'a camera of {camera.width} x {camera.height} pixels and focal lengths '
                         f'{fx:g}, {fy:g} cannot be, or its distortion is not finite: give a '
                         'valid calibration')


def _distorted(xy: Array, k: Coefficients) -> Array:
    """Return where a lens puts points (n, 2) of the plane z = 1; NaN beyond where it folds."""
    return np.where(np.linalg.norm(xy, axis=1)[:, None] <= _widest_radius(k), _bent(xy, k)[0],
                    np.nan)


def _undistorted(xy: Array, k: Coefficients) -> Array:
    """Return the points (n, 2) of the plane that `_distorted` puts there; NaN where none is."""
    widest = _widest_radius(k)
    table = np.tan(np.linspace(0.0, np.arctan(widest), 1025))
    bent = _bent(np.stack([table, np.zeros(len(table))], 1), (k[0], k[1], 0.0, 0.0, *k[4:]))[0]
    radius = np.linalg.norm(xy, axis=1)
    # Without its tangential part a lens is a function of the radius; Newton's steps do the rest.
    first = np.interp(radius, bent[:, 0], table) / np.where(radius > 0.0, radius, 1.0)
    result = xy * first[:, None]
    for _ in range(12):
        at, J = _bent(result, k)
        off = at - xy
        det = J[:, 0, 0] * J[:, 1, 1] - J[:, 0, 1] * J[:, 1, 0]
        with np.errstate(divide='ignore', invalid='ignore'):
            step = np.stack([J[:, 1, 1] * off[:, 0] - J[:, 0, 1] * off[:, 1],
                             J[:, 0, 0] * off[:, 1] - J[:, 1, 0] * off[:, 0]], 1) / det[:, None]
        step = np.where(np.isfinite(step), step, 0.0)
        result = result - step
        far = np.linalg.norm(result, axis=1)
        result *= np.minimum(1.0, widest / np.maximum(far, widest))[:, None]
        if np.abs(step).max(initial=0.0) < 1e-13:
            break
    error = np.linalg.norm(_bent(result, k)[0] - xy, axis=1)
    return np.where((error <= 1e-9 * (1.0 + radius))[:, None], result, np.nan)


def _bent(xy: Array, k: Coefficients) -> tuple[Array, Array]:
    """Return distorted points (n, 2) and their Jacobians (n, 2, 2), wherever they are."""
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    x, y = xy[:, 0], xy[:, 1]
    s = x * x + y * y
    with np.errstate(all='ignore'):
        top, bottom = 1.0 + s * (k1 + s * (k2 + s * k3)), 1.0 + s * (k4 + s * (k5 + s * k6))
        top_slope, bottom_slope = k1 + s * (2 * k2 + 3 * s * k3), k4 + s * (2 * k5 + 3 * s * k6)
        ratio = top / bottom
        slope = 2.0 * (top_slope - ratio * bottom_slope) / bottom  # d ratio / d x, over x
        at = np.stack([x * ratio + 2 * p1 * x * y + p2 * (s + 2 * x * x),
                       y * ratio + p1 * (s + 2 * y * y) + 2 * p2 * x * y], 1)
        across = x * y * slope + 2 * p1 * x + 2 * p2 * y
        J = np.stack([ratio + x * x * slope + 2 * p1 * y + 6 * p2 * x, across,
                      across, ratio + y * y * slope + 6 * p1 * y + 2 * p2 * x], 1)
    return at, J.reshape(-1, 2, 2)


@lru_cache(maxsize=64)
def _widest_radius(k: Coefficients) -> float:
    """Return the radius on the plane within which a lens maps one to one."""
    radius = np.tan(np.linspace(0.0, WIDEST, 2001))
    turn = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    J = _bent((radius[:, None, None] * ring).reshape(-1, 2), k)[1]
    # The Jacobian is symmetric: no direction is turned back while both eigenvalues are positive.
    with np.errstate(all='ignore'):
        upright = (J[:, 0, 0] * J[:, 1, 1] > J[:, 0, 1] ** 2) & (J[:, 0, 0] + J[:, 1, 1] > 0.0)
    bad = np.flatnonzero(~np.asarray(upright).reshape(len(radius), -1).all(1))
    return float(radius[max(int(bad[0]) - 1, 0) if len(bad) else -1])


@lru_cache(maxsize=64)
def _widest_angle(k: Coefficients) -> float:
    """Return the angle from the axis up to which a fisheye's radius grows."""
    angle = np.linspace(0.0, np.pi, 8001, dtype=np.float64)
    growing = _radius(angle, k)[1] > 0.0
    return float(angle[-1 if growing.all() else max(int(np.argmin(growing)) - 1, 0)])


def _radius(angle: Array, k: Coefficients) -> tuple[Array, Array]:
    """Return a fisheye's radius at angles from its axis, and its derivative."""
    s = angle * angle
    k1, k2, k3, k4 = k
    return (angle * (1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4)))),
            1.0 + s * (3 * k1 + s * (5 * k2 + s * (7 * k3 + s * 9 * k4))))
