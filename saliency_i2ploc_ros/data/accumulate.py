"""
A voxel grid of the world, kept in tiles so that a long drive fits into little memory.

The world's plane is cut into square tiles of about 32 m. A tile gathers points by voxel: sums and
counts, so that what comes out is the mean of each voxel's points whatever order tiles are worked
in. The tiles touched longest ago are put aside on disk when too much is in memory, and taken up
again when the vehicle comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..errors import InputError

Tile = tuple[int, int]
Points = NDArray[np.float32]

TILE_M = 32.0
# Rows of 24 bytes (key, sum, count): 480 MB at most, a few more while one tile is being sorted.
LIVE_ROWS = 20_000_000
# Points around a tile that count as neighbours of its own in outlier removal. Whoever's nearest
# are farther away is an outlier by any sensible threshold.
HALO_M = 3.0
_PENDING_ROWS = 100_000
_LOADED_TILES = 64
_Z_BIAS = 1 << 30


class _Rows:
    """One tile's points: key (n,) int64 of the voxel, sum (n, 3) of offsets in it, count (n,)."""

    def __init__(self) -> None:
        self.chunks: list[tuple[NDArray[np.int64], Points, NDArray[np.int32]]] = []
        self.merged = 0
        self.total = 0

    def append(self, keys: NDArray[np.int64], sums: Points, counts: NDArray[np.int32]) -> None:
        self.chunks.append((keys, sums, counts))
        self.total += len(keys)

    def merge(self) -> tuple[NDArray[np.int64], Points, NDArray[np.int32]]:
        """Bring all chunks into one row a voxel, in the order of keys, and return them."""
        if self.merged < self.total:
            keys = np.concatenate([chunk[0] for chunk in self.chunks])
            order = np.argsort(keys, kind='stable')  # stable: equal inputs give equal sums
            keys = keys[order]
            starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
            sums = np.concatenate([chunk[1] for chunk in self.chunks])[order]
            counts = np.concatenate([chunk[2] for chunk in self.chunks])[order]
            self.chunks = [(keys[starts], np.add.reduceat(sums, starts, axis=0),
                            np.add.reduceat(counts, starts))]
            self.merged = self.total = len(starts)
        return self.chunks[0]


class TileMap:
    """
    The voxel grid of a world, first gathered (`add`), then finished, then read (`near`).

    folder: an empty folder for the tiles. voxel_m: edge of a voxel; voxels are aligned with the
    map's axes. positions: (n, 2), where the map will be read within `reach_m`; tiles beyond that
    are left out. live_rows: how many points or voxels may be in memory while gathering.
    """

    def __init__(
        self, folder: Path, voxel_m: float, positions: NDArray[np.float64], reach_m: float,
        live_rows: int = LIVE_ROWS,
    ) -> None:
        self.folder = folder
        self.voxel_m = voxel_m
        self.tile_cells = max(1, round(TILE_M / voxel_m))
        self.tile_m = self.tile_cells * voxel_m
        self.wanted = tiles_within(positions, reach_m, self.tile_m)
        self.live_rows = live_rows
        self.rows = 0
        self.live: OrderedDict[Tile, _Rows] = OrderedDict()
        self.tiles: set[Tile] = set()
        self._loaded: OrderedDict[Tile, tuple[NDArray[np.float64], Points]] = OrderedDict()

    def add(self, points: NDArray[np.float64]) -> None:
        """Add points (n, 3) of the map frame; those in tiles that are not wanted are left out."""
        if not len(points):
            return
        if (limit := float(np.abs(points).max())) > _Z_BIAS * self.voxel_m:
            raise InputError(f'a point has the coordinate {limit:.3g} m, which is no place on '
                             'Earth: check the unit and the file')
        cells = np.floor(points / self.voxel_m).astype(np.int64)
        offsets = (points - cells * self.voxel_m).astype(np.float32)
        tiles, local = np.divmod(cells[:, :2], self.tile_cells)
        keys = (cells[:, 2] + _Z_BIAS) << 32 | local[:, 1] << 16 | local[:, 0]

        first = tiles.min(axis=0)
        rows = int(tiles[:, 1].max() - first[1]) + 1
        code = (tiles[:, 0] - first[0]) * rows + tiles[:, 1] - first[1]
        if code.max() < 1 << 16:
            code = code.astype(np.uint16)  # numpy sorts these by radix
        order = np.argsort(code, kind='stable')
        code, keys, offsets = code[order], keys[order], offsets[order]
        bounds = [0, *(np.flatnonzero(code[1:] != code[:-1]) + 1).tolist(), len(code)]
        for start, end in itertools.pairwise(bounds):
            x, y = tiles[order[start]].tolist()
            if (x, y) in self.wanted:
                self._append((x, y), keys[start:end], offsets[start:end])
        self._put_aside()

    def _append(self, tile: Tile, keys: NDArray[np.int64], offsets: Points) -> None:
        rows = self.live.get(tile)
        if rows is None:
            rows = self.live[tile] = self._take_up(tile)
            self.rows += rows.total
        self.live.move_to_end(tile)
        # Copies, since slices would hold the whole scan in memory.
        rows.append(keys.copy(), offsets.copy(), np.ones(len(keys), np.int32))
        self.rows += len(keys)
        if rows.total - rows.merged > max(_PENDING_ROWS, rows.merged):
            before = rows.total
            rows.merge()
            self.rows += rows.total - before

    def _put_aside(self) -> None:
        """Write out the tiles touched longest ago until the rest is within `live_rows`."""
        while self.rows > self.live_rows and len(self.live) > 1:
            tile, rows = self.live.popitem(last=False)
            self.rows -= rows.total
            self._write(tile, rows)

    def _write(self, tile: Tile, rows: _Rows) -> None:
        keys, sums, counts = rows.merge()
        np.savez(self._gathered(tile), keys=keys, sums=sums, counts=counts)
        self.tiles.add(tile)

    def _take_up(self, tile: Tile) -> _Rows:
        rows = _Rows()
        if tile in self.tiles:
            with np.load(self._gathered(tile), allow_pickle=False) as file:
                rows.append(file['keys'], file['sums'], file['counts'])
            rows.merged = rows.total
        return rows

    def _gathered(self, tile: Tile) -> Path:
        return self.folder / f'{tile[0]}_{tile[1]}.npz'

    def _finished(self, tile: Tile) -> Path:
        return self.folder / f'{tile[0]}_{tile[1]}.npy'

    def finish(self, neighbours: int = 0, sigma: float | None = None) -> None:
        """
        End the gathering: one point a voxel, without outliers if `sigma` is given.

        A point is an outlier if the mean distance to its `neighbours` nearest is above the mean
        of that over the whole map plus `sigma` standard deviations.
        """
        while self.live:
            tile, rows = self.live.popitem(last=False)
            self._write(tile, rows)
        self.rows = 0
        for tile in self.tiles:
            keys, sums, counts = self._take_up(tile).chunks[0]
            cells = np.stack([keys & 0xffff, keys >> 16 & 0xffff, (keys >> 32) - _Z_BIAS], axis=1)
            lowest = cells[:, 2].min()
            cells[:, 2] -= lowest
            points = (cells * self.voxel_m).astype(np.float32) + sums / counts[:, None]
            points = points[np.argsort(z_order(cells), kind='stable')]
            np.save(self._finished(tile), points.astype(np.float32))
            np.save(self._origin(tile), np.array(
                [tile[0] * self.tile_m, tile[1] * self.tile_m, lowest * self.voxel_m]))
            self._gathered(tile).unlink()
        if sigma is not None and neighbours > 0:
            self._remove_outliers(neighbours, sigma)

    def _origin(self, tile: Tile) -> Path:
        return self.folder / f'{tile[0]}_{tile[1]}.origin.npy'

    def _remove_outliers(self, neighbours: int, sigma: float) -> None:
        count, total, squares = 0, 0.0, 0.0
        for tile in sorted(self.tiles):
            origin, points = self.load(tile)
            around = [points]
            for other in self._neighbours(tile):
                shift, theirs = self.load(other)
                theirs = theirs + (shift - origin).astype(np.float32)
                near = np.all((theirs[:, :2] > -HALO_M)
                              & (theirs[:, :2] < self.tile_m + HALO_M), axis=1)
                around.append(theirs[near])
            distance = mean_distances(np.concatenate(around), len(points), neighbours)
            np.save(self._distances(tile), distance)
            finite = distance[np.isfinite(distance)].astype(np.float64)
            count += len(finite)
            total += float(finite.sum())
            squares += float((finite ** 2).sum())
        mean = total / max(count, 1)
        limit = mean + sigma * max(squares / max(count, 1) - mean ** 2, 0.0) ** 0.5
        self._loaded.clear()
        for tile in self.tiles:
            points = np.load(self._finished(tile), allow_pickle=False)
            distance = np.load(self._distances(tile), allow_pickle=False)
            np.save(self._finished(tile), points[distance <= limit])

    def _distances(self, tile: Tile) -> Path:
        return self.folder / f'{tile[0]}_{tile[1]}.distances.npy'

    def _neighbours(self, tile: Tile) -> list[Tile]:
        x, y = tile
        around = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        return [other for other in around if other in self.tiles]

    def load(self, tile: Tile) -> tuple[NDArray[np.float64], Points]:
        """Return a finished tile: its origin (3,) in the map, and points (n, 3) from there."""
        if tile not in self._loaded:
            self._loaded[tile] = (np.load(self._origin(tile), allow_pickle=False),
                                  np.load(self._finished(tile), allow_pickle=False))
            if len(self._loaded) > _LOADED_TILES:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(tile)
        return self._loaded[tile]

    def near(
        self, position: NDArray[np.float64], radius_m: float,
    ) -> Iterator[tuple[NDArray[np.float64], Points]]:
        """Yield the finished tiles (origin, points) that a circle in the plane touches."""
        for tile in sorted(tiles_within(position[None, :2], radius_m, self.tile_m)):
            if tile in self.tiles:
                yield self.load(tile)


def tiles_within(
    positions: NDArray[np.float64], radius_m: float, tile_m: float,
) -> set[Tile]:
    """Return the tiles that the squares of half-width `radius_m` about positions (n, 2) touch."""
    low = np.floor((positions - radius_m) / tile_m).astype(np.int64)
    high = np.floor((positions + radius_m) / tile_m).astype(np.int64)
    corners = np.unique(np.concatenate([low, high], axis=1), axis=0)
    return {(x, y) for x0, y0, x1, y1 in corners.tolist()
            for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)}


def z_order(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """
    Return the place of cells (n, 3) >= 0 on the Z-order (Morton) curve; 21 bits an axis count.

    Neighbours on the curve are near in space, so that every k-th point of a cloud in this order
    is spread as evenly as the cloud itself.
    """
    code = np.zeros(len(cells), np.int64)
    for axis in range(3):
        v = cells[:, axis] & 0x1fffff
        v = (v | v << 32) & 0x1f00000000ffff
        v = (v | v << 16) & 0x1f0000ff0000ff
        v = (v | v << 8) & 0x100f00f00f00f00f
        v = (v | v << 4) & 0x10c30c30c30c30c3
        v = (v | v << 2) & 0x1249249249249249
        code |= v << axis
    return code


def mean_distances(points: Points, count: int, neighbours: int) -> NDArray[np.float32]:
    """
    Return each of the first `count` points' mean distance to its nearest others, (count,).

    Where there are fewer than `neighbours` others the mean is infinite.
    """
    if len(points) <= neighbours:
        return np.full(count, np.inf, np.float32)
    found, _ = cKDTree(points).query(points[:count], k=neighbours + 1)
    return np.asarray(found[:, 1:].mean(axis=1), np.float32)
