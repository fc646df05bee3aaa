"""
KITTI odometry sequences, read.

Geiger, Lenz, Urtasun: Are we ready for Autonomous Driving? CVPR 2012. base_link is the Velodyne's
frame (x forward, y left, z up); where calib.txt has no line Tr, it is image_0's position with the
axes of a vehicle. The map is base_link at the first pose.

    sequences/<name>/{calib.txt,times.txt,image_x/%06d.png,velodyne/%06d.bin}
    poses/<name>.txt                                    (line i: image_0 of frame i in that of 0)

Anything but one of these may be missing. Without times.txt the stamps are nominal.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.cameras import Pinhole
from ..geometry.poses import from_rows, inverse, R_base_optical, transform
from .drive import CameraStream, Drive, read_image, Stream
from .kitti_files import (
    calibration_entry,
    choose_drive,
    in_stamp_order,
    make_trajectory,
    NO_STAMP,
    NOMINAL_PERIOD_NS,
    numbered_files,
    read_calibration,
    read_numbers,
    read_text,
    read_velodyne,
    rigid_poses,
    stamps_of,
)
from .kitti_raw import split_projection

Array = NDArray[np.float64]

CAMERAS = ('image_2', 'image_3', 'image_0', 'image_1')  # the colour cameras first


def recognises(path: Path) -> bool:
    """Tell whether `path` is the root of a data set in this layout."""
    return (path / 'sequences').is_dir()


def drive_names(path: Path) -> list[str]:
    """Return the names of the sequences."""
    return sorted(folder.name for folder in (path / 'sequences').iterdir() if folder.is_dir())


def open_drive(path: Path, name: str | None) -> Drive:
    """Return a sequence, for example '00'. Frame i has the pose of line i, if there is one."""
    path = Path(path)
    name = choose_drive(drive_names(path), name, f'KITTI odometry at {path}')
    folder = path / 'sequences' / name

    T_base_camera0 = _read_T_base_camera0(folder / 'calib.txt')
    poses = _read_poses(path / 'poses' / f'{name}.txt', T_base_camera0)
    times = _read_times(folder / 'times.txt') if (folder / 'times.txt').is_file() else None

    cameras = {}
    for camera in CAMERAS:
        frames = _frames(folder / camera, ('.png', '.jpg'), times)
        if frames[2]:
            pinhole, T_camera_camera0 = _read_camera(folder / 'calib.txt', camera, frames[2][0])
            cameras[camera] = CameraStream(
                *frames, _poses_of(frames[0], poses),
                T_base_camera0 @ inverse(T_camera_camera0), camera=pinhole)
    lidar = None
    frames = _frames(folder / 'velodyne', ('.bin',), times)
    if frames[2]:
        # The calibration of a LiDAR that has none to the cameras is that of base_link itself.
        lidar = Stream(*frames, _poses_of(frames[0], poses), np.eye(4))

    ids = np.arange(len(poses))
    trajectory = make_trajectory(_stamps(ids, times), poses, nominal=times is None)
    return Drive(name, f'KITTI odometry {path.resolve()} {name}', cameras, lidar, trajectory,
                 read_velodyne)


def _read_camera(path: Path, camera: str, image: Path) -> tuple[Pinhole, Array]:
    """Return a camera (its size is the image's) and the pose of image_0 in it (4, 4)."""
    P = calibration_entry(read_calibration(path), f'P{camera[-1]}', 12, path).reshape(3, 4)
    height, width = read_image(image).shape[:2]
    return split_projection(P, width, height)


def _read_T_base_camera0(path: Path) -> Array:
    """Return the pose of image_0 in base_link; the axes alone where there is no Tr."""
    values = read_calibration(path) if path.is_file() else {}
    if 'Tr' not in values:
        return transform(R_base_optical)
    return inverse(from_rows(calibration_entry(values, 'Tr', 12, path)))


def _read_poses(path: Path, T_base_camera0: Array) -> Array:
    """Return T_map_base (n, 4, 4), of which the first is close to I; none if there is no file."""
    rows = read_numbers(path, [12]) if path.is_file() else np.zeros((0, 12))
    return T_base_camera0 @ rigid_poses(rows, path) @ inverse(T_base_camera0)


def _read_times(path: Path) -> NDArray[np.int64]:
    """Return the times of a times.txt (decimal seconds, one a line) in ns."""
    times: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            times.append(int(Decimal(line.strip()).scaleb(9)) if line.strip() else NO_STAMP)
            np.int64(times[-1])
        except (InvalidOperation, ValueError, OverflowError) as error:
            raise InputError(f'{path}, line {number}: {line[:40]!r} is not a time in seconds: '
                             'copy or download the file again') from error
    return np.array(times, np.int64)


def _stamps(ids: NDArray[np.int64], times: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return ids * NOMINAL_PERIOD_NS if times is None else stamps_of(ids, times)


def _frames(
    folder: Path, suffixes: tuple[str, ...], times: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Path]]:
    ids, paths = numbered_files(folder, suffixes)
    return in_stamp_order(ids, _stamps(ids, times), paths)


def _poses_of(ids: NDArray[np.int64], poses: Array) -> Array:
    result = np.full((len(ids), 4, 4), np.nan)
    known = ids < len(poses)
    result[known] = poses[ids[known]]
    return result
