"""
Drives as rosbag2 directories, and rosbag2 directories read; no ROS installation is needed.

Topics of a drive, below its namespace (/kitti360 or /kitti); the log time of a message is its
header's stamp:

    <camera>/image_rect         sensor_msgs/Image rgb8, in <camera>_optical; of a camera that is
                                not rectified (a fisheye) <camera>/image_raw
    .../compressed              sensor_msgs/CompressedImage instead: the image file as it is
    <camera>/camera_info        sensor_msgs/CameraInfo, before each image
    velodyne_points             sensor_msgs/PointCloud2 x y z intensity, in velodyne
    ground_truth/pose           geometry_msgs/PoseStamped: base_link in map, at the stamp of each
                                image and scan that has a pose
    /tf_static                  base_link to velodyne, imu_link and <camera>_optical

There is no /clock in a bag: the player makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
import shutil
import sqlite3
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from ..errors import InputError
from ..geometry.cameras import Pinhole
from ..progress import track
from ..storage import atomic_directory
from . import bag_messages
from .bag_messages import can_describe, typestore
from .drive import CameraStream, Drive, Stream

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
# The newest metadata that Humble reads as well as all later ones (since version 9, of Jazzy, QoS
# is no longer text, which Humble refuses: rosbag2#1895, rosbag2#2013).
METADATA_VERSION: Literal[8] = 8

# What is written at one stamp: the topic, the message's type, and what makes the message.
Event = tuple[int, str, str, Callable[[], Any]]
AnyStream = TypeVar('AnyStream', bound=Stream)


def part_of(
    drive: Drive, cameras: Collection[str] | None = None, lidar: bool = True,
    first: int | None = None, last: int | None = None, every: int = 1,
) -> Drive:
    """
    Return a part of a drive: these cameras, and these frames of all sensors.

    cameras: names, None for all; a missing one is an InputError. first, last: the data set's frame
    numbers, both inclusive. every: keep the frames whose number is `first` (or the drive's
    lowest) and each n-th after it, so that sensors stay in step.
    """
    if every < 1:
        raise InputError(f'every n-th frame is to be kept, and n is {every}: give 1 or more')
    names = drive.cameras if cameras is None else [drive.camera_named(name) for name in cameras]
    sensors: list[Stream] = [*drive.cameras.values(), *([drive.lidar] if drive.lidar else [])]
    lowest = min((int(s.ids.min()) for s in sensors if len(s)), default=0)
    start = lowest if first is None else first

    def kept(stream: AnyStream) -> AnyStream:
        ids = stream.ids
        keep = np.flatnonzero((ids >= start) & ((ids - start) % every == 0)
                              & (ids <= (ids if last is None else last)))
        return replace(stream, ids=ids[keep], stamps_ns=stream.stamps_ns[keep],
                       paths=[stream.paths[i] for i in keep], T_map_base=stream.T_map_base[keep])

    return replace(
        drive, lidar=kept(drive.lidar) if lidar and drive.lidar is not None else None,
        cameras={name: kept(drive.cameras[name]) for name in names
                 if cameras is not None or can_describe(drive.cameras[name].camera)})


def write_bag(
    drive: Drive, path: Path, storage: str = 'mcap', compressed: bool = False,
    cameras: list[str] | None = None, overwrite: bool = False,
) -> None:
    """
    Write a drive as a rosbag2 directory, in time order, one message in memory at a time.

    storage: 'mcap' or 'sqlite3'. compressed: the image files as they are instead of raw images.
    cameras: names, or None for all that ROS's CameraInfo can describe (rectified ones and `Mei`
    fisheyes; naming another is an InputError). For a part of the drive, see `part_of`. The bag
    appears whole or not at all. Errors: a drive without images and scans, an unreadable or wrongly
    sized image, or a disk too full is an InputError.
    """
    path = Path(path)
    if storage not in STORAGES:
        raise InputError(f'unknown storage {storage!r}: it is {" or ".join(STORAGES)}')
    events = _events(drive, compressed, cameras)
    if not events:
        raise InputError(f'{drive.source} has no images and no scans there: there is nothing for '
                         'a bag')
    with atomic_directory(path, overwrite) as temporary:
        _check_room(drive, compressed, cameras, path)
        inner = temporary / path.name  # the writer makes its folder and names files after it
        try:
            with Writer(inner, version=METADATA_VERSION,
                        storage_plugin=STORAGES[storage]) as writer:
                connections: dict[str, Any] = {}
                for stamp, topic, kind, make in track(events, 'bag'):
                    if topic not in connections:
                        connections[topic] = writer.add_connection(
                            topic, kind, typestore=typestore,
                            offered_qos_profiles=[_qos(latched=topic == '/tf_static')])
                    writer.write(connections[topic], stamp, typestore.serialize_cdr(make(), kind))
        except sqlite3.Error as error:
            raise InputError(f'cannot write {path}: {error}') from error
        for file in inner.iterdir():
            file.replace(temporary / file.name)
        inner.rmdir()


def image_topic(drive: Drive, camera: str, compressed: bool = False) -> str:
    """Return the topic of a camera's images in the bag of a drive."""
    rectified = isinstance(drive.cameras[camera].camera, Pinhole)
    return (f'{drive.ros_namespace}/{camera}/image_{"rect" if rectified else "raw"}'
            + ('/compressed' if compressed else ''))


def _streams(drive: Drive, cameras: list[str] | None) -> dict[str, CameraStream]:
    """Return the cameras that are written."""
    able = [name for name, stream in drive.cameras.items() if can_describe(stream.camera)]
    for name in able if cameras is None else cameras:
        if drive.camera_named(name) not in able:
            raise InputError(f'a CameraInfo cannot describe the camera {name} of {drive.source}: '
                             f'name another one ({", ".join(able) or "none here"})')
    return {name: drive.cameras[name] for name in (able if cameras is None else cameras)}


def _check_room(
    drive: Drive, compressed: bool, cameras: list[str] | None, path: Path,
) -> None:
    """Raise InputError where the disk has less room than the bag needs, before hours of work."""
    needed = 0
    for stream in _streams(drive, cameras).values():
        needed += (sum(p.stat().st_size for p in stream.paths if p.is_file()) if compressed
                   else 3 * stream.camera.width * stream.camera.height * len(stream))
    if drive.lidar is not None:
        needed += sum(p.stat().st_size for p in drive.lidar.paths if p.is_file())
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise InputError(f'the bag {path} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are '
                         'free: take compressed images, fewer cameras or frames, or another disk')


def _events(drive: Drive, compressed: bool, cameras: list[str] | None) -> list[Event]:
    """Return the messages of a drive in time order, not yet made."""
    streams = _streams(drive, cameras)
    space = drive.ros_namespace
    frames: list[Event] = []
    poses: dict[int, NDArray[np.float64]] = {}
    for name, stream in streams.items():
        frame = f'{name}_optical'
        kind = f'sensor_msgs/msg/{"CompressedImage" if compressed else "Image"}'
        make = bag_messages.compressed_image if compressed else bag_messages.image
        for i, stamp in enumerate(map(int, stream.stamps_ns)):
            frames.append((stamp, f'{space}/{name}/camera_info', 'sensor_msgs/msg/CameraInfo',
                           partial(bag_messages.camera_info, stream.camera, stamp, frame)))
            frames.append((stamp, image_topic(drive, name, compressed), kind,
                           partial(make, stream, i, frame)))
    if drive.lidar is not None:
        for i, stamp in enumerate(map(int, drive.lidar.stamps_ns)):
            frames.append((stamp, f'{space}/velodyne_points', 'sensor_msgs/msg/PointCloud2',
                           partial(bag_messages.cloud, drive, i, stamp)))
    sensors: list[Stream] = [*streams.values(), *([drive.lidar] if drive.lidar else [])]
    for sensor in sensors:
        poses.update((int(sensor.stamps_ns[i]), sensor.T_map_base[i])
                     for i in np.flatnonzero(sensor.has_pose))
    if not frames:
        return []
    truth: list[Event] = [
        (stamp, f'{space}/ground_truth/pose', 'geometry_msgs/msg/PoseStamped',
         partial(bag_messages.pose, T, stamp)) for stamp, T in poses.items()]
    # Of one stamp, the pose comes before the frame and the camera before its image.
    events = sorted(truth + frames, key=lambda event: event[0])
    start = events[0][0]
    if start < 0:
        raise InputError(f'{drive.source} has a stamp before 1970, which ROS cannot express')
    mounts = {f'{name}_optical': stream.T_base_sensor for name, stream in streams.items()}
    if drive.lidar is not None:
        mounts['velodyne'] = drive.lidar.T_base_sensor
    if drive.T_base_imu is not None:
        mounts['imu_link'] = drive.T_base_imu
    return [(start, '/tf_static', 'tf2_msgs/msg/TFMessage',
             partial(bag_messages.transforms, mounts, start)), *events]


def _qos(latched: bool) -> Qos:
    """Return reliable QoS, what rosbag2 play offers: of volatile, or transient local, messages."""
    never = QosTime(9223372036, 854775807)
    return Qos(QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE,
               QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
               never, never, QosLiveliness.AUTOMATIC, never, False)


@dataclass(frozen=True)
class BagMessage:
    """One message: `data` is CDR, of the ROS type `type_name` ('sensor_msgs/msg/Image')."""

    topic: str
    stamp_ns: int
    type_name: str
    data: bytes


class BagReader:
    """
    Reads a rosbag2 directory (MCAP or sqlite3), as a context manager.

    topics: the type name of each topic; counts: how many messages each has; start_ns, end_ns: the
    log times of the first and last message. Anything that is not a whole bag with messages in it
    is an InputError, on opening where it can be seen then.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f'there is no bag {self.path}: make one with `i2ploc bag`')
        if self.path.is_dir() and not (self.path / 'metadata.yaml').is_file():
            raise InputError(f'{self.path} is no rosbag2 directory, it has no metadata.yaml: '
                             'give the folder that `ros2 bag record` or `i2ploc bag` made')
        # The parser answers damage with many kinds of exception; all of them mean the same here.
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except Exception as error:
            raise self._damaged(error) from error
        if self._reader.message_count == 0:
            self._reader.close()
            raise InputError(f'the bag {self.path} holds no messages: record or make it again')
        self.topics = {c.topic: c.msgtype for c in self._reader.connections}
        self.counts = {topic: info.msgcount for topic, info in self._reader.topics.items()}
        self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; closing twice is allowed."""
        if self._reader.is_open:
            self._reader.close()

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """
        Yield the messages in time order, of all topics or of those named.

        start_ns, stop_ns: only those of a log time from start on and before stop. A topic that the
        bag does not have is an InputError, as is damage that is met on the way.
        """
        missing = sorted(set(topics or ()) - set(self.topics))
        if missing:
            raise InputError(f'the bag {self.path} has no topic {missing[0]}: '
                             f'it has {", ".join(sorted(self.topics))}')
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        stream = self._reader.messages(wanted, start_ns, stop_ns)
        while True:
            try:
                connection, stamp, data = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise self._damaged(error) from error
            yield BagMessage(connection.topic, stamp, connection.msgtype, bytes(data))

    def _damaged(self, error: Exception) -> InputError:
        reason = ' '.join(str(error).split())  # a parser's message may have many lines
        return InputError(f'the bag {self.path} cannot be read ({reason}): copy, record or make '
                          'it again')
