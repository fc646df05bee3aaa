"""
A submap's points as the tokens of the cloud encoder: farthest points and their neighbours.

Everything is deterministic and does not depend on the order of the points: one submap, one set of
tokens, on any run. It happens in the data path, in NumPy and SciPy, once for each submap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import InputError
from .config import TokenConfig

Floats = NDArray[np.float32]

MIN_POINTS = 32
NEAREST_RANGE_M = 1.0
UNIT_RANGE_M = 10.0


class CloudTokens(NamedTuple):
    """
    groups: (G, K, 3) float32, neighbours minus their centre. centres: (G, 3) float32.

    Cartesian: metres in the vehicle frame. Spherical: (azimuth, elevation, ln(range / 10 m)), so
    that turning the submap by an angle about the sensor's vertical adds it to the centres' first
    column and leaves the groups alone.
    """

    groups: Floats
    centres: Floats


def cloud_tokens(points: Floats, config: TokenConfig) -> CloudTokens:
    """
    Return the tokens of a submap's points (n, 3), metres in the vehicle frame, z from the road.

    Cropped, reduced to `config.points`, then `config.centres` by farthest point sampling and
    around each its nearest `config.neighbours`. Too few points for that: some come repeatedly.
    Fewer than 32 usable ones are an InputError.
    """
    kept, coordinates = usable_points(points, config)
    reduced = coordinates[even_subset(kept, config.points)]
    chosen = farthest_points(reduced, config.centres)
    centres = reduced[chosen]
    groups = reduced[nearest(reduced, centres, config.neighbours)]
    return CloudTokens(groups - centres[:, None], centres)


def usable_points(points: Floats, config: TokenConfig) -> tuple[Floats, Floats]:
    """
    Return the usable points (m, 3) of a submap (n, 3), and their coordinates in `config.space`.

    Finite, within the field of view and, if so configured, visible from the sensor. Fewer than 32
    are an InputError.
    """
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f'a submap must be an array (n, 3), not {points.shape}')
    finite = points[np.isfinite(points).all(1)]
    kept = finite[within_azimuth(finite, config.field_of_view_deg)]
    coordinates = kept
    if config.space == 'spherical' or config.visible_only or config.elevation_deg is not None:
        spherical = to_spherical(kept, config.sensor_height_m)
        seen = _within_elevation(spherical, config.elevation_deg)
        kept, spherical = kept[seen], spherical[seen]
        if config.visible_only:
            first = _nearest_of_cells(spherical, config.cell_deg)
            kept, spherical = kept[first], spherical[first]
        coordinates = spherical if config.space == 'spherical' else kept
    if len(kept) < MIN_POINTS:
        bad = len(points) - len(finite)
        why = f' (of {len(points)}' + (f'; {bad} are not finite' if bad else '') + ')'
        raise InputError(f'the submap has only {len(kept)} points in view{why}, at least '
                         f'{MIN_POINTS} are needed: check its scans, or leave it out')
    return kept, coordinates


def to_spherical(points: Floats, sensor_height_m: float) -> Floats:
    """
    Return points (n, 3) as (azimuth, elevation, ln(range / 10 m)) seen from above the road.

    Azimuth is 0 ahead and grows to the left, elevation is 0 level and grows upwards, in radians.
    The natural logarithm makes the three comparable without a scale to choose: near the horizon
    the distance of two neighbouring points here is their distance in metres over their range.
    Ranges under 1 m count as 1 m.
    """
    x, y = points[:, 0], points[:, 1]
    z = points[:, 2] - np.float32(sensor_height_m)
    planar = np.hypot(x, y)
    distance = np.maximum(np.hypot(planar, z), np.float32(NEAREST_RANGE_M))
    return np.stack([np.arctan2(y, x), np.arctan2(z, planar),
                     np.log(distance / np.float32(UNIT_RANGE_M))], 1)


def within_azimuth(points: Floats, field_of_view_deg: float | None) -> NDArray[np.bool_]:
    """Return which points (n, 3) lie within half the field of view of straight ahead."""
    if field_of_view_deg is None:
        return np.ones(len(points), bool)
    x, y = points[:, 0], points[:, 1]
    # cos(azimuth) >= cos(half), which holds for any half up to 180 degrees and needs no arctan.
    least = np.float32(np.cos(np.radians(field_of_view_deg / 2.0)))
    return np.asarray(x >= np.sqrt(x * x + y * y) * least)


def _within_elevation(
    spherical: Floats, elevation_deg: tuple[float, float] | None,
) -> NDArray[np.bool_]:
    low, high = np.radians(elevation_deg or (-90.0, 90.0))
    return np.asarray((spherical[:, 1] >= low - 1e-6) & (spherical[:, 1] <= high + 1e-6))


def _nearest_of_cells(spherical: Floats, cell_deg: float) -> NDArray[np.intp]:
    """Return the index of the nearest point of each azimuth and elevation cell, cell by cell."""
    cell = np.floor(spherical[:, :2].astype(np.float64) / np.radians(cell_deg)).astype(np.int64)
    key = cell[:, 0] * 100_000 + cell[:, 1]
    order = np.lexsort((spherical[:, 1], spherical[:, 0], spherical[:, 2], key))
    key = key[order]
    return order[np.concatenate([[True], key[1:] != key[:-1]])] if len(order) else order


def even_subset(points: Floats, count: int) -> NDArray[np.intp]:
    """
    Return the indices of `count` of the points (n, 3), or of all n if there are fewer.

    They are sorted by x, then y, then z, and taken at equal steps: no chance, and no dependence
    on the order in which they came.
    """
    order = np.lexsort((points[:, 2], points[:, 1], points[:, 0]))
    if len(order) <= count:
        return order
    return order[np.arange(count) * len(order) // count]


def farthest_points(points: Floats, count: int) -> NDArray[np.intp]:
    """
    Return `count` indices into points (n, 3), each farthest from those before it.

    The first is the one nearest the centroid; of equals, the one of lowest index. With
    count > n, the n come again in the same order.
    """
    n = len(points)
    axes = np.ascontiguousarray(points.T, np.float32)
    chosen = np.empty(min(count, n), np.intp)
    centroid = points.mean(0, dtype=np.float64).astype(np.float32)
    step, total = np.empty(n, np.float32), np.empty(n, np.float32)
    squared_distances(axes, centroid, total, step)
    current = int(total.argmin())
    distance = np.full(n, np.inf, np.float32)
    for i in range(len(chosen)):
        chosen[i] = current
        squared_distances(axes, axes[:, current], total, step)
        np.minimum(distance, total, out=distance)
        distance[current] = -1.0
        current = int(distance.argmax())
    return np.resize(chosen, count)


def squared_distances(axes: Floats, to: Floats, total: Floats, step: Floats) -> None:
    """Write into `total` (n,) the squared distances of axes (3, n) to a point; `step` is room."""
    np.subtract(axes[0], to[0], out=total)
    np.multiply(total, total, out=total)
    for axis in (1, 2):
        np.subtract(axes[axis], to[axis], out=step)
        np.multiply(step, step, out=step)
        np.add(total, step, out=total)


def nearest(points: Floats, centres: Floats, count: int) -> NDArray[np.intp]:
    """Return the indices (g, count) of the nearest points, nearest first, again if too few."""
    k = min(count, len(points))
    indices = cKDTree(points).query(centres, k=k)[1].reshape(len(centres), k)
    return np.asarray(indices[:, np.arange(count) % k], np.intp)
