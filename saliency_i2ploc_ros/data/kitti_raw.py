"""
KITTI raw data, synchronised and rectified drives, read.

Geiger, Lenz, Stiller, Urtasun: Vision meets Robotics: The KITTI Dataset, IJRR 2013. base_link is
the OXTS unit's frame (x forward, y left, z up).

    <date>/calib_{imu_to_velo,velo_to_cam,cam_to_cam}.txt
    <date>/<drive>/image_0x/{timestamps.txt,data/%010d.png}
    <date>/<drive>/velodyne_points/{timestamps.txt,data/%010d.bin}
    <date>/<drive>/oxts/{timestamps.txt,data/%010d.txt}

Any of the drive's folders may be missing. Line i of a timestamps.txt is the stamp of frame i;
frames without a stamp are left out, and a sensor without stamps altogether gets nominal ones.
"""

from __future__ import annotations

from pathlib import Path
import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..errors import InputError
from ..geometry.cameras import Pinhole
from ..geometry.poses import inverse, transform
from .drive import CameraStream, Drive, Stream, Trajectory
from .kitti_files import (
    calibration_entry,
    choose_drive,
    in_stamp_order,
    make_trajectory,
    NOMINAL_PERIOD_NS,
    numbered_files,
    read_calibration,
    read_numbers,
    read_stamps,
    read_velodyne,
    stamps_of,
)

Array = NDArray[np.float64]

CAMERAS = ('image_02', 'image_03', 'image_00', 'image_01')  # the colour cameras first
DRIVE = re.compile(r'\d{4}_\d\d_\d\d_drive_\d{4}_(sync|extract)')
EARTH_RADIUS_M = 6378137.0  # WGS-84's equator, as in KITTI's development kit


def recognises(path: Path) -> bool:
    """Tell whether `path` is a drive's folder, a date's, or the root of the dates' folders."""
    return bool(_drives(path))


def drive_names(path: Path) -> list[str]:
    """Return the names of the drives there."""
    return sorted(_drives(path))


def open_drive(path: Path, name: str | None) -> Drive:
    """
    Return a drive. The pose of a frame is the trajectory's at the sensor's own stamp.

    A frame before the first or after the last OXTS packet has none; nothing is extrapolated.
    """
    path = Path(path)
    drives = _drives(path)
    name = choose_drive(drives, name, f'KITTI raw at {path}')
    folder = drives[name]

    trajectory = _read_trajectory(folder / 'oxts')
    cameras = {}
    for camera in CAMERAS:
        frames = _frames(folder / camera, ('.png', '.jpg'))
        if frames[2]:
            pinhole, T_base_camera = read_camera(folder.parent, camera)
            cameras[camera] = CameraStream(
                *frames, trajectory.at(frames[1]), T_base_camera, camera=pinhole)
    lidar = None
    frames = _frames(folder / 'velodyne_points', ('.bin',))
    if frames[2]:
        T_lidar_base = _read_motion(folder.parent / 'calib_imu_to_velo.txt')
        lidar = Stream(*frames, trajectory.at(frames[1]), inverse(T_lidar_base))
    return Drive(name, f'KITTI raw {folder.resolve()}', cameras, lidar, trajectory, read_velodyne,
                 T_base_imu=np.eye(4))


def read_camera(calibration: Path, camera: str) -> tuple[Pinhole, Array]:
    """
    Return a rectified camera and its pose in base_link (4, 4), from a date's calibration.

    The Velodyne's points go to image_00 as it is mounted, by R_rect_00 to the rectified image_00,
    and by P_rect = K [I | t], whose t is the offset between the two rectified cameras.
    """
    path, number = calibration / 'calib_cam_to_cam.txt', camera[-2:]
    values = read_calibration(path)
    P = calibration_entry(values, f'P_rect_{number}', 12, path).reshape(3, 4)
    R = calibration_entry(values, 'R_rect_00', 9, path).reshape(3, 3)
    width, height = calibration_entry(values, f'S_rect_{number}', 2, path)
    pinhole, T_camera_rect = split_projection(P, int(width), int(height))
    T_camera_lidar = (T_camera_rect @ transform(R)
                      @ _read_motion(calibration / 'calib_velo_to_cam.txt'))
    T_lidar_base = _read_motion(calibration / 'calib_imu_to_velo.txt')
    return pinhole, inverse(T_camera_lidar @ T_lidar_base)


def split_projection(P: Array, width: int, height: int) -> tuple[Pinhole, Array]:
    """Return K of a projection matrix P = K [I | t] (3, 4) as a camera, and t as a pose (4, 4)."""
    pinhole = Pinhole(width, height, float(P[0, 0]), float(P[1, 1]),
                      float(P[0, 2]), float(P[1, 2]))
    return pinhole, transform(None, np.linalg.solve(pinhole.K, P[:, 3]))


def poses_of_packets(packets: Array) -> Array:
    """
    Return T_map_base (n, 4, 4) of OXTS packets (n, 6+): lat, lon (degrees), alt, roll, pitch, yaw.

    A Mercator projection with the scale of the first packet's latitude, and yaw from east,
    anticlockwise, as in convertOxtsToPose.m of KITTI's raw data development kit. The map's origin
    is the first packet's position, its axes are east, north, up.
    """
    lat, lon, alt, roll, pitch, yaw = packets[:, :6].T
    scale = np.cos(np.radians(lat[0])) * EARTH_RADIUS_M
    positions = np.stack([
        scale * np.radians(lon), scale * np.log(np.tan(np.radians(90.0 + lat) / 2.0)), alt], 1)
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, :3, :3] = Rotation.from_euler('ZYX', np.stack([yaw, pitch, roll], 1)).as_matrix()
    poses[:, :3, 3] = positions - positions[0]
    return poses


def _read_trajectory(oxts: Path) -> Trajectory:
    """Return the trajectory of a drive's OXTS packets; one of length 0 if there are none."""
    ids, paths = numbered_files(oxts / 'data', ('.txt',))
    if not paths:
        return Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4)))
    packets = []
    for path in paths:
        rows = read_numbers(path, [30])
        if len(rows) != 1 or not np.isfinite(rows[0, :6]).all() or abs(rows[0, 0]) >= 89.0:
            raise InputError(f'{path} is not one OXTS packet of 30 numbers with a position: '
                             'copy or download it again, or remove it')
        packets.append(rows[0])
    stamps, nominal = _stamps(oxts, ids)
    return make_trajectory(stamps, poses_of_packets(np.array(packets)), nominal)


def _read_motion(path: Path) -> Array:
    """Return the pose (4, 4) in a calibration file with R and T."""
    values = read_calibration(path)
    return transform(calibration_entry(values, 'R', 9, path).reshape(3, 3),
                     calibration_entry(values, 'T', 3, path))


def _stamps(folder: Path, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """Return the stamps of a sensor's frames, and whether they are nominal."""
    path = folder / 'timestamps.txt'
    if not path.is_file():
        return ids * NOMINAL_PERIOD_NS, True
    return stamps_of(ids, read_stamps(path)), False


def _frames(
    folder: Path, suffixes: tuple[str, ...],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Path]]:
    ids, paths = numbered_files(folder / 'data', suffixes)
    return in_stamp_order(ids, _stamps(folder, ids)[0], paths)


def _drives(path: Path) -> dict[str, Path]:
    """Return the drives' folders in a drive's, a date's or the root folder, by name."""
    if DRIVE.fullmatch(path.resolve().name):
        found = [path.resolve()]
    else:
        found = [p for p in [*path.glob('*_drive_*'), *path.glob('????_??_??/*_drive_*')]
                 if p.is_dir() and DRIVE.fullmatch(p.name)]
    return {p.name: p for p in found if _is_raw(p)}


def _is_raw(drive: Path) -> bool:
    """Tell a KITTI raw drive from the folders of the same form that other data sets have."""
    return ((drive / 'oxts').is_dir() or any((drive / c / 'data').is_dir() for c in CAMERAS)
            or ((drive / 'velodyne_points').is_dir()
                and any(drive.parent.glob('calib_*.txt'))))
