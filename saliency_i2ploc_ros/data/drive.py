"""
A drive: what one vehicle recorded on one trip, whichever data set it comes from.

A drive has camera streams, at most one LiDAR stream, and a trajectory. Any of them may be missing
or have holes: a frame whose pose, image or scan does not exist is ordinary. The readers
(`kitti360`, `kitti_raw`, `kitti_odometry`) make a `Drive`; everything after them sees only this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.cameras import Camera, Panorama
from ..geometry.panorama import panorama_mount, stitch
from ..geometry.poses import interpolate


@dataclass(frozen=True)
class Scan:
    """
    One LiDAR sweep, in the LiDAR's frame.

    points: (n, 3) float32, metres. intensity: (n,) float32 in 0..1. labels: (n,) uint16 classes of
    `saliency_i2ploc_ros.data.labels`, or None where the data set has none. Points that are not
    finite are gone.
    """

    points: NDArray[np.float32]
    intensity: NDArray[np.float32]
    labels: NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class Stream:
    """
    The frames of one sensor, in stamp order; only those whose file exists.

    ids: (n,) int64, the data set's frame numbers. stamps_ns: (n,) int64, the sensor's stamps.
    paths: the n files. T_map_base: (n, 4, 4), the vehicle's pose at each frame, NaN where the
    data set has none. T_base_sensor: (4, 4); optical frame for a camera.
    """

    ids: NDArray[np.int64]
    stamps_ns: NDArray[np.int64]
    paths: list[Path]
    T_map_base: NDArray[np.float64]
    T_base_sensor: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_pose(self) -> NDArray[np.bool_]:
        """Return which frames have a pose, (n,)."""
        return np.isfinite(self.T_map_base[:, 0, 0])


@dataclass(frozen=True)
class CameraStream(Stream):
    """A camera's frames, with its model."""

    camera: Camera = field(kw_only=True)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return frame `index` (place in the stream, not id) as (H, W, 3) uint8 RGB."""
        return read_image(self.paths[index])

    def key(self, frames: Iterable[int]) -> Any:
        """Return, as JSON, all that these frames' images come from: a part of a cache key."""
        files = [[p.name, p.stat().st_size, p.stat().st_mtime_ns]
                 for p in (self.paths[i] for i in frames)]
        return [type(self.camera).__name__, asdict(self.camera), files]


@dataclass(frozen=True)
class StitchedStream(CameraStream):
    """
    Panoramas that are not recorded but made of other cameras' frames (see `geometry.panorama`).

    parts: the cameras' streams, frame for frame those of this one; `paths` are the first's.
    """

    camera: Panorama = field(kw_only=True)
    parts: tuple[CameraStream, ...] = field(kw_only=True)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Return frame `index` (place in the stream, not id) as (H, W, 3) uint8 RGB."""
        images = [checked_image(part, index) for part in self.parts]
        return stitch(images, [part.camera for part in self.parts],
                      [part.T_base_sensor for part in self.parts], self.camera)

    def key(self, frames: Iterable[int]) -> Any:
        """Return, as JSON, all that these frames' images come from: a part of a cache key."""
        frames = list(frames)
        return [asdict(self.camera), [[part.key(frames), part.T_base_sensor.tolist()]
                                      for part in self.parts]]


def stitched(parts: tuple[CameraStream, ...], camera: Panorama) -> StitchedStream:
    """
    Return the stream of panoramas of those frames that all of `parts` have.

    Stamps and poses are the first part's.
    """
    ids = parts[0].ids
    for part in parts[1:]:
        ids = ids[np.isin(ids, part.ids)]
    places = [{int(i): k for k, i in enumerate(part.ids)} for part in parts]
    rows = [[place[int(i)] for i in ids] for place in places]
    parts = tuple(replace(part, ids=part.ids[k], stamps_ns=part.stamps_ns[k],
                          paths=[part.paths[i] for i in k], T_map_base=part.T_map_base[k])
                  for part, k in zip(parts, rows, strict=True))
    first = parts[0]
    return StitchedStream(
        first.ids, first.stamps_ns, first.paths, first.T_map_base,
        panorama_mount([part.T_base_sensor for part in parts]), camera=camera, parts=parts)


@dataclass(frozen=True)
class Trajectory:
    """
    Where the vehicle was: stamps_ns (n,) int64 strictly increasing, T_map_base (n, 4, 4).

    nominal_stamps: the data set has poses but no clock, and the stamps are frame number x 0.1 s.
    """

    stamps_ns: NDArray[np.int64]
    T_map_base: NDArray[np.float64]
    nominal_stamps: bool = False

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def at(self, stamps_ns: NDArray[np.int64], max_gap_s: float = 1.0) -> NDArray[np.float64]:
        """Return the poses (m, 4, 4) at these times, NaN where unknown (see `interpolate`)."""
        return interpolate(self.stamps_ns, self.T_map_base, stamps_ns, max_gap_s)


@dataclass(frozen=True)
class Drive:
    """
    One trip. `source` names data set, folder and drive; it is a part of every cache key.

    ros_namespace: of the drive's topics in a bag. T_base_imu: (4, 4), or None where the data set
    has no IMU.
    """

    name: str
    source: str
    cameras: dict[str, CameraStream]
    lidar: Stream | None
    trajectory: Trajectory
    scan_reader: Callable[[Path], Scan]
    ros_namespace: str = '/kitti'
    T_base_imu: NDArray[np.float64] | None = None

    def image(self, camera: str, index: int) -> NDArray[np.uint8]:
        """Return frame `index` (place in the stream, not id) as (H, W, 3) uint8 RGB."""
        return self.cameras[camera].image(index)

    def scan(self, index: int) -> Scan:
        """Return scan `index` (place in the stream, not id), without its non-finite points."""
        if self.lidar is None:
            raise InputError(f'{self.source} has no LiDAR scans')
        return self.scan_reader(self.lidar.paths[index])

    def camera_named(self, name: str | None = None) -> str:
        """Return `name`, or the first camera's if None; a missing one is an InputError."""
        if not self.cameras:
            raise InputError(f'{self.source} has no camera images')
        if name is None:
            return next(iter(self.cameras))
        if name not in self.cameras:
            raise InputError(f'{self.source} has no camera {name!r}: '
                             f'it has {", ".join(self.cameras)}')
        return name


def checked_image(stream: CameraStream, index: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3); one that is not of the camera's size is an InputError."""
    image = stream.image(index)
    if image.shape[:2] != (stream.camera.height, stream.camera.width):
        raise InputError(
            f'{stream.paths[index]} is {image.shape[1]} x {image.shape[0]}, but the calibration '
            f'is of {stream.camera.width} x {stream.camera.height}: give the one of these images')
    return image


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8 RGB; a missing or corrupt one is an InputError."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f'cannot read the image {path}: {error.strerror}') from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise InputError(f'{path} is not a readable image: copy or download it again')
    return np.asarray(image[:, :, ::-1])
