"""
KITTI-360: its drives, read, and drives in its layout, written.

Liao, Xie, Geiger: KITTI-360, PAMI 2022. poses.txt holds the IMU in the world, whose z axis points
DOWN in the vehicle; base_link is the IMU turned by 180 degrees about x, so that z is up. image_00
and image_01 are the rectified perspective cameras, image_02 (left) and image_03 (right) the
fisheyes; the frames that both fisheyes have make the stitched camera 'panorama'.

    calibration/{perspective,calib_cam_to_pose,calib_cam_to_velo}.txt
    calibration/{image_02,image_03,panorama}.yaml                   (see `camera_files`)
    data_2d_raw/<drive>/image_0{0,1}/{timestamps.txt,data_rect/%010d.png}
    data_2d_raw/<drive>/image_0{2,3}/{timestamps.txt,data_rgb/%010d.png}
    data_2d_raw/<drive>/panorama/{timestamps.txt,data_rgb/%010d.png}
    data_3d_raw/<drive>/velodyne_points/{timestamps.txt,data/%010d.bin,labels/%010d.label}
    data_poses/<drive>/{poses.txt,cam0_to_world.txt}                (lines 'frame-id 3x4')

labels/ and panorama (a recorded one, mounted as calib_cam_to_pose says) are this package's
additions. Line i of a timestamps.txt is the stamp of frame i.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path
import shutil

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.cameras import Camera, Panorama, Pinhole
from ..geometry.lenses import Mei
from ..geometry.poses import inverse, transform
from .camera_files import lens_text, read_lens
from .drive import CameraStream, Drive, Scan, stitched, Stream
from .kitti_files import (
    calibration_entry,
    choose_drive,
    format_stamps,
    in_stamp_order,
    make_trajectory,
    NO_STAMP,
    NOMINAL_PERIOD_NS,
    numbered_files,
    read_calibration,
    read_numbers,
    read_stamps,
    read_velodyne,
    rigid_poses,
    stamps_of,
)

Array = NDArray[np.float64]

CAMERAS = ('image_00', 'image_01')  # rectified
FISHEYES = ('image_02', 'image_03')
PANORAMA = 'panorama'
# Of each camera's images, in the order in which a drive lists them: first what looks ahead.
FOLDERS = {**dict.fromkeys(CAMERAS, 'data_rect'), **dict.fromkeys((PANORAMA, *FISHEYES),
                                                                  'data_rgb')}
WIDEST_PANORAMA = 2048
PARTS = ('data_2d_raw', 'data_3d_raw', 'data_poses')
T_imu_base: Array = np.diag([1.0, -1.0, -1.0, 1.0])


def recognises(path: Path) -> bool:
    """Tell whether `path` is the root of a data set in this layout."""
    return any((path / part).is_dir() for part in PARTS)


def drive_names(path: Path) -> list[str]:
    """Return the names of the drives of which `path` holds any part."""
    return sorted({folder.name for part in PARTS if (path / part).is_dir()
                   for folder in (path / part).iterdir() if folder.is_dir()})


def open_drive(path: Path, name: str | None) -> Drive:
    """
    Return a drive. Frames have a pose where poses.txt has their id: nothing is interpolated.

    The trajectory's stamps are those of image_00. A sensor without stamps takes the other's (they
    are triggered together); where the drive has none at all, all stamps are nominal. Frames whose
    stamp is missing are left out.
    """
    path = Path(path)
    name = choose_drive(drive_names(path), name, f'KITTI-360 at {path}')

    images = path / 'data_2d_raw' / name
    velodyne = path / 'data_3d_raw' / name / 'velodyne_points'
    recorded = {folder.name: read_stamps(folder / 'timestamps.txt')
                for folder in [images / c for c in FOLDERS] + [velodyne]
                if (folder / 'timestamps.txt').is_file()}
    pose_ids, poses = _read_poses(path / 'data_poses' / name / 'poses.txt')

    cameras = {}
    for camera, folder in FOLDERS.items():
        frames = _frames(images / camera / folder, ('.png', '.jpg'), camera, recorded)
        if frames[2]:
            model, T_base_camera = read_camera(path / 'calibration', camera)
            cameras[camera] = CameraStream(
                *frames, _poses_of(frames[0], pose_ids, poses), T_base_camera, camera=model)
    if PANORAMA not in cameras and all(name in cameras for name in FISHEYES):
        parts = tuple(cameras[name] for name in FISHEYES)
        cameras[PANORAMA] = stitched(parts, _panorama_of(parts[0].camera))
        cameras = {name: cameras[name] for name in FOLDERS if name in cameras}
    lidar = None
    frames = _frames(velodyne / 'data', ('.bin',), velodyne.name, recorded)
    if frames[2]:
        lidar = Stream(*frames, _poses_of(frames[0], pose_ids, poses),
                       read_T_base_lidar(path / 'calibration'))

    trajectory = make_trajectory(_stamps(pose_ids, CAMERAS[0], recorded), poses,
                                 nominal=len(pose_ids) > 0 and not recorded)
    return Drive(name, f'KITTI-360 {path.resolve()} {name}', cameras, lidar, trajectory,
                 _read_scan, ros_namespace='/kitti360', T_base_imu=inverse(T_imu_base))


def _panorama_of(fisheye: Camera) -> Panorama:
    """Return the whole sphere with pixels as wide as a fisheye's, or somewhat wider."""
    height = min(WIDEST_PANORAMA // 2, max(8, round(np.pi / fisheye.pixel_angle / 8) * 8))
    return Panorama(2 * height, height, 90.0, -90.0)


def read_camera(calibration: Path, camera: str) -> tuple[Camera, Array]:
    """
    Return a camera and its pose in base_link (4, 4), from the folder calibration/.

    cam_to_pose is of the camera as it is mounted; rectification turned image_00 and image_01 by
    R_rect about their centres. P_rect_01 also holds the baseline to image_00 (its fourth column),
    which cam_to_pose has already: it is not applied again.
    """
    if camera not in CAMERAS:
        lens = read_lens(calibration / f'{camera}.yaml')
        return lens, inverse(T_imu_base) @ _read_cam_to_pose(calibration, camera)
    path, number = calibration / 'perspective.txt', camera[-2:]
    values = read_calibration(path)
    P = calibration_entry(values, f'P_rect_{number}', 12, path).reshape(3, 4)
    R = calibration_entry(values, f'R_rect_{number}', 9, path).reshape(3, 3)
    width, height = calibration_entry(values, f'S_rect_{number}', 2, path)
    pinhole = Pinhole(int(width), int(height), float(P[0, 0]), float(P[1, 1]),
                      float(P[0, 2]), float(P[1, 2]))
    T_imu_camera = _read_cam_to_pose(calibration, camera) @ transform(R.T)
    return pinhole, inverse(T_imu_base) @ T_imu_camera


def read_T_base_lidar(calibration: Path) -> Array:
    """Return the pose of the Velodyne in base_link (4, 4), by way of the mounted image_00."""
    path = calibration / 'calib_cam_to_velo.txt'
    rows = read_numbers(path, [12])
    if len(rows) != 1:
        raise InputError(f'{path} has {len(rows)} lines instead of one of 12 numbers: '
                         'copy or download the calibration again')
    T_lidar_camera = rigid_poses(rows, path)[0]
    T_imu_lidar = _read_cam_to_pose(calibration, CAMERAS[0]) @ inverse(T_lidar_camera)
    return inverse(T_imu_base) @ T_imu_lidar


def _read_cam_to_pose(calibration: Path, camera: str) -> Array:
    path = calibration / 'calib_cam_to_pose.txt'
    entry = calibration_entry(read_calibration(path), camera, 12, path)
    return rigid_poses(entry[None], path)[0]


def _read_poses(path: Path) -> tuple[NDArray[np.int64], Array]:
    """Return ids (n,) increasing and T_map_base (n, 4, 4) of a poses.txt; none if it is absent."""
    rows = read_numbers(path, [13]) if path.is_file() else np.zeros((0, 13))
    if not ((rows[:, 0] >= 0.0) & (rows[:, 0] == np.floor(rows[:, 0]))).all():
        raise InputError(f'{path}: the first number of a line is not a frame id: '
                         'copy or download the file again')
    ids, first = np.unique(rows[:, 0].astype(np.int64), return_index=True)
    return ids, rigid_poses(rows[first, 1:], path) @ T_imu_base


def _poses_of(ids: NDArray[np.int64], pose_ids: NDArray[np.int64], poses: Array) -> Array:
    """Return the poses (n, 4, 4) of frames, NaN where there is none."""
    result = np.full((len(ids), 4, 4), np.nan)
    _, at, found = np.intersect1d(ids, pose_ids, assume_unique=True, return_indices=True)
    result[at] = poses[found]
    return result


def _stamps(
    ids: NDArray[np.int64], sensor: str, recorded: dict[str, NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Return the stamps of frames: the sensor's own, else another's, else nominal ones."""
    if not recorded:
        return ids * NOMINAL_PERIOD_NS
    stamps: NDArray[np.int64] = np.full(len(ids), NO_STAMP, np.int64)
    for source in sorted(recorded, key=lambda other: other != sensor):  # its own first
        stamps = np.where(stamps == NO_STAMP, stamps_of(ids, recorded[source]), stamps)
    return stamps


def _frames(
    folder: Path, suffixes: tuple[str, ...], sensor: str, recorded: dict[str, NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Path]]:
    ids, paths = numbered_files(folder, suffixes)
    return in_stamp_order(ids, _stamps(ids, sensor, recorded), paths)


def _read_scan(path: Path) -> Scan:
    return read_velodyne(path, path.parent.parent / 'labels' / f'{path.stem}.label')


def write_calibration(
    root: Path, camera: Pinhole, T_base_camera: Array, T_base_lidar: Array,
    others: Mapping[str, tuple[Mei | Panorama, Array]] | None = None,
) -> None:
    """
    Write the calibration of a vehicle with one rectified camera, image_00, and a LiDAR.

    others: of FISHEYES or PANORAMA, each camera and its pose in base_link (4, 4).
    """
    folder = Path(root) / 'calibration'
    T_imu_camera = T_imu_base @ T_base_camera
    T_lidar_camera = inverse(T_base_lidar) @ T_base_camera
    P = np.column_stack([camera.K, np.zeros(3)])
    _write(folder / 'perspective.txt', (
        f'S_rect_00: {camera.width} {camera.height}\n'
        f'R_rect_00: {_numbers(np.eye(3))}\nP_rect_00: {_numbers(P)}\n').encode())
    mounts = {CAMERAS[0]: T_imu_camera}
    for name, (other, T_base_other) in (others or {}).items():
        mounts[name] = T_imu_base @ T_base_other
        _write(folder / f'{name}.yaml', lens_text(other, name).encode())
    _write(folder / 'calib_cam_to_pose.txt', ''.join(
        f'{name}: {_numbers(T[:3])}\n' for name, T in mounts.items()).encode())
    _write(folder / 'calib_cam_to_velo.txt', f'{_numbers(T_lidar_camera[:3])}\n'.encode())


class DriveWriter:
    """
    Writes one drive in this layout; its calibration must be there already.

    The files gather in a hidden folder of `root` and take their places in `finish`, so that a
    drive that is not finished is not there. As a context manager it clears that folder away when
    the block fails. An existing drive of that name is an InputError.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = Path(root), name
        for part in PARTS:
            if (self.root / part / name).exists():
                raise InputError(f'{self.root / part / name} exists already: choose another '
                                 'folder or remove the drive')
        self._staging = self.root / f'.{name}.{os.getpid()}'
        self._images = self._staging / 'data_2d_raw' / name
        self._lidar = self._staging / 'data_3d_raw' / name / 'velodyne_points'

    def __enter__(self) -> DriveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def image(self, frame_id: int, rgb: NDArray[np.uint8], camera: str = CAMERAS[0]) -> None:
        """Write an image (H, W, 3) of a camera, uint8 RGB."""
        _write_png(self._images / camera / FOLDERS[camera] / f'{frame_id:010d}.png',
                   rgb[:, :, ::-1])

    def scan(self, frame_id: int, scan: Scan) -> None:
        """Write a scan, and its labels where it has some."""
        values = np.column_stack([scan.points, scan.intensity]).astype('<f4')
        _write(self._lidar / 'data' / f'{frame_id:010d}.bin', values.tobytes())
        if scan.labels is not None:
            _write(self._lidar / 'labels' / f'{frame_id:010d}.label',
                   scan.labels.astype('<u4').tobytes())

    def depth(
        self, frame_id: int, depth_m: NDArray[np.float32], camera: str = CAMERAS[0],
    ) -> None:
        """Write the depth (H, W) of an image, m: 16 bits, m x 256, 0 from 256 m on."""
        values = np.round(np.where(depth_m < 65535 / 256, depth_m, 0.0) * 256.0)
        _write_png(self._staging / 'data_2d_depth' / self.name / camera
                   / f'{frame_id:010d}.png', values.astype(np.uint16))

    def semantics(
        self, frame_id: int, classes: NDArray[np.uint8], camera: str = CAMERAS[0],
    ) -> None:
        """Write the classes (H, W) of an image, ids of `data.labels`."""
        _write_png(self._staging / 'data_2d_semantics' / 'train' / self.name / camera
                   / 'semantic' / f'{frame_id:010d}.png', classes)

    def finish(
        self, image_stamps_ns: NDArray[np.int64], scan_stamps_ns: NDArray[np.int64],
        pose_ids: NDArray[np.int64], T_map_base: Array,
    ) -> None:
        """
        Write stamps and poses, and put the drive in its place.

        image_stamps_ns, scan_stamps_ns: (n,), of frames 0..n-1, whether or not a file was written.
        pose_ids: (m,) frame ids increasing; T_map_base: (m, 4, 4).
        """
        for camera in {CAMERAS[0], *(p.name for p in self._images.glob('*'))}:
            _write(self._images / camera / 'timestamps.txt',
                   format_stamps(image_stamps_ns).encode())
        _write(self._lidar / 'timestamps.txt', format_stamps(scan_stamps_ns).encode())
        T_map_imu = np.asarray(T_map_base, np.float64).reshape(-1, 4, 4) @ inverse(T_imu_base)
        T_map_camera = T_map_base @ read_camera(self.root / 'calibration', CAMERAS[0])[1]
        poses = self._staging / 'data_poses' / self.name
        for path, T, rows in ((poses / 'poses.txt', T_map_imu, 3),
                              (poses / 'cam0_to_world.txt', T_map_camera, 4)):
            _write(path, ''.join(f'{i} {_numbers(M[:rows])}\n'
                                 for i, M in zip(pose_ids, T, strict=True)).encode())
        try:
            # A drive's own folders; the poses last, for without them the drive is of no use.
            folders = [p for p in self._staging.rglob(self.name) if p.is_dir()]
            for folder in sorted(folders, key=lambda p: 'data_poses' in p.parts):
                place = self.root / folder.relative_to(self._staging)
                place.parent.mkdir(parents=True, exist_ok=True)
                folder.replace(place)
        except OSError as error:
            raise InputError(f'cannot write {self.root}: {error.strerror or error}') from error
        shutil.rmtree(self._staging, ignore_errors=True)


def _numbers(values: ArrayLike) -> str:
    """Return numbers as text: 12 decimals, exact to a nanometre a thousand kilometres away."""
    return ' '.join(f'{v:.12f}' for v in np.ravel(values))


def _write_png(path: Path, image: NDArray) -> None:
    # Compression 1: half the time of the default for a tenth more bytes.
    written, data = cv2.imencode('.png', np.ascontiguousarray(image),
                                 [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not written:
        raise ValueError(f'an image of shape {image.shape}, {image.dtype}, cannot be a PNG')
    _write(path, data.tobytes())


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror or error}') from error
