"""
Submaps: the map of a drive cut into squares about the vehicle's poses, kept on disk.

The scans of a drive (or the points of a map file) are gathered into a voxel grid of the world,
and every few metres of the trajectory the points in a square about the vehicle are written down
in the vehicle's frame. What was made once is found again under a hash of all that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
import hashlib
import io
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.spatial import cKDTree

from ..errors import InputError
from ..geometry.poses import apply, inverse
from ..progress import track
from ..storage import (
    atomic_directory,
    cache_directory,
    content_hash,
    read_json,
    sha256_file,
    write_json,
)
from . import clouds
from .accumulate import TileMap
from .drive import Drive, Scan
from .labels import DYNAMIC
from .trajectories import read_trajectory

FORMAT = 1
# Where the road is looked for about a pose, in how many submaps, and from how many points.
ROAD_AHEAD_M, ROAD_ASIDE_M, ROAD_SAMPLE, ROAD_POINTS = 8.0, 1.5, 64, 20


class SubmapConfig(BaseModel):
    """
    How a map is gathered and cut; lengths in metres.

    size_m: edge of the square about a pose. spacing_m: travelled distance between poses.
    voxel_m: edge of the voxels, of whose points the mean is kept. outlier_neighbours,
    outlier_sigma: see `TileMap.finish`; without a sigma (the default) nothing is removed, since
    the search for neighbours takes several times as long as all the rest. min_range_m,
    max_range_m: distances from the sensor between which a scan's points count. z_min_m, z_max_m:
    heights in the vehicle frame between which points are kept, if given. points: a submap with
    more is thinned to so many, evenly in space; None keeps all. min_points: a submap with fewer
    is left out.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    size_m: float = Field(40.0, gt=0.0, le=500.0)
    spacing_m: float = Field(5.0, gt=0.0)
    voxel_m: float = Field(0.1, ge=0.01, le=10.0)
    outlier_neighbours: int = Field(40, ge=1)
    outlier_sigma: float | None = None
    min_range_m: float = Field(3.0, ge=0.0)
    max_range_m: float = Field(80.0, gt=0.0)
    z_min_m: float | None = None
    z_max_m: float | None = None
    points: int | None = Field(60_000, ge=1)
    min_points: int = Field(256, ge=1)


@dataclass(frozen=True)
class Submap:
    """
    One square of the map.

    points: (n, 3) float32 in the vehicle frame of its pose (x forward, z up).
    T_map_base: (4, 4), that pose.
    """

    points: NDArray[np.float32]
    T_map_base: NDArray[np.float64]


@dataclass(frozen=True)
class SubmapStore:
    """
    The submaps of one drive or map: plain arrays in a folder, memory-mapped.

    key: hash of all that made them. poses: (n, 4, 4). skipped: how many poses had too few points
    about them. Points are read-only views of the file.
    """

    path: Path
    key: str
    name: str
    config: SubmapConfig
    poses: NDArray[np.float64]
    skipped: int
    _offsets: NDArray[np.int64]
    _points: NDArray[np.float32]

    @classmethod
    def open(cls, path: Path) -> SubmapStore:
        """Open a folder of submaps; one that is not whole is an InputError."""
        path = Path(path)
        schema = read_json(path / 'schema.json')
        advice = 'delete it and let it be made again'
        if not isinstance(schema, dict) or schema.get('format') != FORMAT:
            raise InputError(f'{path} holds no submaps of format {FORMAT}: {advice}')
        try:
            poses = np.load(path / 'T_map_base.npy', allow_pickle=False)
            offsets = np.load(path / 'offsets.npy', allow_pickle=False)
            points = np.load(path / 'points.npy', mmap_mode='r', allow_pickle=False)
            config = SubmapConfig(**schema['config'])
            store = cls(path, str(schema['key']), str(schema['name']), config, poses,
                        int(schema['skipped']), offsets, points)
        except (OSError, ValueError, EOFError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f'the submaps in {path} cannot be read ({reason}): {advice}'
                             ) from error
        if (poses.shape != (len(offsets) - 1, 4, 4) or points.shape != (offsets[-1], 3)
                or np.any(np.diff(offsets) < 0)):
            raise InputError(f'the arrays in {path} do not fit each other: {advice}')
        return store

    def __len__(self) -> int:
        return len(self.poses)

    def points(self, index: int) -> NDArray[np.float32]:
        """Return submap `index`'s points (n, 3) in the vehicle frame of its pose."""
        return self._points[self._offsets[index]:self._offsets[index + 1]]

    @cached_property
    def ground_z_m(self) -> float:
        """
        Return the height of the road in base_link, metres; 0 where no submap shows it.

        base_link stands at a height of its own in each data set: on the road in the city, at the
        IMU a metre above it in KITTI. It is the median of what lies in the vehicle's own way.
        """
        heights = []
        for i in np.unique(np.linspace(0, len(self) - 1, ROAD_SAMPLE).astype(int)):
            p = self.points(i)
            way = p[(np.abs(p[:, 0]) < ROAD_AHEAD_M) & (np.abs(p[:, 1]) < ROAD_ASIDE_M), 2]
            if len(way) >= ROAD_POINTS:
                heights.append(float(np.median(way)))
        return float(np.median(heights)) if heights else 0.0

    def above_ground(self, index: int) -> NDArray[np.float32]:
        """Return submap `index`'s points (n, 3), with z from the road instead of base_link."""
        return self.points(index) - np.array([0.0, 0.0, self.ground_z_m], np.float32)

    def view(self, index: int, T_base_view: NDArray[np.float64]) -> NDArray[np.float32]:
        """
        Return submap `index`'s points (n, 3) as a vehicle elsewhere in it has them.

        z is from the road. T_base_view: (4, 4), that vehicle in the frame of the submap's pose,
        level with it.
        """
        T = inverse(T_base_view)
        # z is counted from the road in both frames: they are level with each other.
        moved = np.asarray(self.points(index)) @ T[:3, :3].T.astype(np.float32)
        moved += (T[:3, 3] - [0.0, 0.0, self.ground_z_m]).astype(np.float32)
        return moved

    def __getitem__(self, index: int) -> Submap:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return Submap(self.points(index), self.poses[index])


def submaps_of_drive(
    drive: Drive, config: SubmapConfig, cache: Path | None = None,
) -> SubmapStore:
    """
    Return the submaps of a drive's scans, from the cache if they were made before.

    cache: the folder of all stores; None: 'submaps' in the package's cache. Scans without a pose
    are passed over, as are points of dynamic classes where the drive has labels (a parked car is
    one of them: it is gone on the next trip). Only poses of the trajectory with a scan within
    half a submap's edge are taken. A drive without scans, poses, or any submap is an InputError.
    """
    if drive.lidar is None or len(drive.lidar) == 0:
        raise InputError(f'{drive.source} has no LiDAR scans: a map cannot be made of it')
    used = np.flatnonzero(drive.lidar.has_pose)
    if len(used) == 0:
        raise InputError(f'{drive.source} has no scan with a pose: a map cannot be made of it')
    scan_poses = drive.lidar.T_map_base[used]
    trajectory = drive.trajectory.T_map_base if len(drive.trajectory) else scan_poses
    poses = trajectory[spaced(trajectory[:, :3, 3], config.spacing_m)]
    poses = poses[_near(poses, scan_poses, config.size_m / 2.0)]
    files = [drive.lidar.paths[i] for i in used]
    key = content_hash({
        'format': FORMAT, 'drive': drive.name, 'config': config.model_dump(),
        'scans': [[path.name, path.stat().st_size] for path in files],
        'sample': [_digest_of_scan(drive.scan(int(i))) for i in used[[0, -1]]],
        'poses': _digest(scan_poses, poses, drive.lidar.T_base_sensor),
    })

    def gather(tiles: TileMap) -> None:
        assert drive.lidar is not None
        for i in track(used.tolist(), f'map of {drive.name}'):
            points = _kept(drive.scan(i), config)
            tiles.add(apply(drive.lidar.T_map_base[i] @ drive.lidar.T_base_sensor, points))

    return _stored(drive.name, key, config, poses, gather, cache)


def submaps_of_cloud(
    cloud_path: Path, trajectory_path: Path, config: SubmapConfig, cache: Path | None = None,
    scale: float = 1.0,
) -> SubmapStore:
    """
    Return the submaps of a map file (LAS, LAZ, PCD, PLY) along a trajectory (TUM or KITTI).

    The trajectory's poses are the vehicle's (x forward, z up), in the map file's coordinates.
    scale: metres per unit of both files, for example 0.3048 for feet; the submaps' poses are in
    metres. cache: as for `submaps_of_drive`. Errors: InputError.
    """
    if not scale > 0.0:
        raise InputError(f'the scale {scale} is not above 0: give the metres per unit of the map')
    trajectory = read_trajectory(trajectory_path).T_map_base.copy()
    trajectory[:, :3, 3] *= scale
    poses = trajectory[spaced(trajectory[:, :3, 3], config.spacing_m)]
    clouds.check(cloud_path)
    name = Path(cloud_path).name
    key = content_hash({
        'format': FORMAT, 'cloud': sha256_file(cloud_path), 'poses': _digest(poses),
        'scale': scale, 'name': name, 'config': config.model_dump(),
    })

    def gather(tiles: TileMap) -> None:
        for points, _ in track(clouds.chunks(cloud_path), f'map of {name}'):
            tiles.add(points * scale)

    return _stored(name, key, config, poses, gather, cache)


def spaced(positions: NDArray[np.float64], spacing_m: float) -> NDArray[np.int64]:
    """
    Return the indices of positions (n, 3), the first and then one every `spacing_m` travelled.

    Steps below a twentieth of the spacing are summed up before they count, so that the jitter of
    a standing vehicle is no travel. After a gap the next position is taken.
    """
    taken, travelled = [0], 0.0
    anchor = positions[0]
    for i in range(1, len(positions)):
        step = float(np.linalg.norm(positions[i] - anchor))
        if step < 0.05 * spacing_m:
            continue
        anchor = positions[i]
        travelled += step
        if travelled >= spacing_m * (1.0 - 1e-9):
            taken.append(i)
            # The rest counts, so that poses are `spacing_m` apart in the mean.
            travelled = max(travelled - spacing_m, 0.0) % spacing_m
    return np.array(taken, np.int64)


def cut(tiles: TileMap, T_map_base: NDArray[np.float64], config: SubmapConfig) -> Submap:
    """Return the submap about one pose (4, 4) of a finished map."""
    half = config.size_m / 2.0
    T = inverse(T_map_base)
    parts: list[NDArray[np.float32]] = [np.empty((0, 3), np.float32)]
    for origin, points in tiles.near(T_map_base[:3, 3], _reach(config)):
        # Tile and vehicle are near each other: float32 holds from here on.
        moved = points @ T[:3, :3].T.astype(np.float32) + apply(T, origin).astype(np.float32)
        inside = (np.abs(moved[:, 0]) <= half) & (np.abs(moved[:, 1]) <= half)
        if config.z_min_m is not None:
            inside &= moved[:, 2] >= config.z_min_m
        if config.z_max_m is not None:
            inside &= moved[:, 2] <= config.z_max_m
        parts.append(moved[inside])
    points = np.concatenate(parts)
    if config.points is not None:
        points = thin(points, config.points)
    return Submap(points, T_map_base)


def thin(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """
    Return at most `count` of the points, evenly along their order.

    A map's tiles are in Z-order, so that this is even in space too, and no two points of what is
    kept come from one voxel.
    """
    if len(points) <= count:
        return points
    return points[np.arange(count) * len(points) // count]


def _reach(config: SubmapConfig) -> float:
    """Return how far from its pose a submap's corner is in the plane."""
    return config.size_m / 2.0 * 2.0 ** 0.5


def _near(
    poses: NDArray[np.float64], scan_poses: NDArray[np.float64], distance: float,
) -> NDArray[np.bool_]:
    """Return which poses have a scan's pose within `distance` in the plane."""
    found, _ = cKDTree(scan_poses[:, :2, 3]).query(poses[:, :2, 3])
    return np.asarray(found <= distance)


def _kept(scan: Scan, config: SubmapConfig) -> NDArray[np.float32]:
    """Return the points (m, 3) of a scan that belong in a map."""
    squared = np.einsum('ij,ij->i', scan.points, scan.points)
    keep = (squared >= config.min_range_m ** 2) & (squared <= config.max_range_m ** 2)
    if scan.labels is not None:
        keep &= ~np.isin(scan.labels, DYNAMIC)
    return scan.points[keep]


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f'{array.dtype.str}{array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _digest_of_scan(scan: Scan) -> str:
    return _digest(scan.points, *([] if scan.labels is None else [scan.labels]))


def _stored(
    name: str, key: str, config: SubmapConfig, poses: NDArray[np.float64],
    gather: Callable[[TileMap], None], cache: Path | None,
) -> SubmapStore:
    """Return the store of this key from the cache; make it there if it is not whole."""
    path = (cache_directory() / 'submaps' if cache is None else Path(cache)) / key
    if path.exists():
        try:
            return SubmapStore.open(path)
        except InputError:
            pass  # A store of which something was deleted is made again.
    with atomic_directory(path, overwrite=True) as folder:
        tiles_folder = folder / 'tiles'
        tiles_folder.mkdir()
        tiles = TileMap(tiles_folder, config.voxel_m, poses[:, :2, 3], _reach(config))
        gather(tiles)
        tiles.finish(config.outlier_neighbours, config.outlier_sigma)
        kept: list[int] = []
        offsets = [0]
        with (folder / 'points.npy').open('wb') as file:
            file.write(_header(0))
            for i in track(range(len(poses)), f'submaps of {name}'):
                points = cut(tiles, poses[i], config).points
                if len(points) >= config.min_points:
                    file.write(points.tobytes())
                    kept.append(i)
                    offsets.append(offsets[-1] + len(points))
            file.seek(0)
            file.write(_header(offsets[-1]))
        if not kept:
            raise InputError(
                f'no pose of {name} has {config.min_points} points of the map within '
                f'{config.size_m:g} m x {config.size_m:g} m about it: check that trajectory and '
                'points are in one frame and in metres')
        np.save(folder / 'offsets.npy', np.array(offsets, np.int64))
        np.save(folder / 'T_map_base.npy', poses[kept])
        shutil.rmtree(tiles_folder)
        write_json(folder / 'schema.json', {
            'format': FORMAT, 'key': key, 'name': name, 'config': config.model_dump(),
            'submaps': len(kept), 'skipped': len(poses) - len(kept)})
    return SubmapStore.open(path)


def _header(rows: int) -> bytes:
    """Return the head of an .npy file of (rows, 3) float32; its length is the same for any."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {'descr': '<f4', 'fortran_order': False, 'shape': (rows, 3)})
    return head.getvalue()
