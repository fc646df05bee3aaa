"""
Drives as rosbag2 directories, and rosbag2 directories read; no ROS installation is needed.

Topics of a drive, below its namespace (/kitti360 or /kitti); the log time of a message is its
header's stamp:

    <camera>/image_rect              sensor_msgs/Image rgb8, in <camera>_optical
    <camera>/image_rect/compressed   sensor_msgs/CompressedImage instead: the image file as it is
    <camera>/camera_info             sensor_msgs/CameraInfo, before each image
    velodyne_points                  sensor_msgs/PointCloud2 x y z intensity, in velodyne
    ground_truth/pose                geometry_msgs/PoseStamped: base_link in map, at the stamp of
                                     each image and scan that has a pose
    /tf_static                       base_link to velodyne, imu_link and <camera>_optical

There is no /clock in a bag: the player makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import sqlite3
from typing import Any, Literal

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
from rosbags.typesys import get_typestore, Stores

from ..errors import InputError
from ..geometry.cameras import Pinhole
from ..geometry.poses import to_quaternion
from ..progress import track
from ..storage import atomic_directory
from .drive import CameraStream, checked_image, Drive, Stream

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
# The newest metadata that Humble reads as well as Jazzy (9 changed how QoS is written).
METADATA_VERSION: Literal[8] = 8

typestore = get_typestore(Stores.ROS2_JAZZY)

# What is written at one stamp: the topic, the message's type, and what makes the message.
Event = tuple[int, str, str, Callable[[], Any]]


def write_bag(
    drive: Drive, path: Path, storage: str = 'mcap', compressed: bool = False,
    cameras: list[str] | None = None, overwrite: bool = False,
) -> None:
    """
    Write a drive as a rosbag2 directory, in time order, one message in memory at a time.

    storage: 'mcap' or 'sqlite3'. compressed: the image files as they are instead of raw images.
    cameras: names, or None for all that are perspective ones: of those alone can ROS's CameraInfo
    say what is known here, others are an InputError. The bag appears whole or not at all. Errors:
    a drive without images and scans, an unreadable or wrongly sized image, or a full disk is an
    InputError.
    """
    path = Path(path)
    if storage not in STORAGES:
        raise InputError(f'unknown storage {storage!r}: it is {" or ".join(STORAGES)}')
    events = _events(drive, compressed, cameras)
    if not events:
        raise InputError(f'{drive.source} has no images and no scans: there is nothing for a bag')
    with atomic_directory(path, overwrite) as temporary:
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


def _events(drive: Drive, compressed: bool, cameras: list[str] | None) -> list[Event]:
    """Return the messages of a drive in time order, not yet made."""
    perspective = [name for name, stream in drive.cameras.items()
                   if isinstance(stream.camera, Pinhole)]
    names = perspective if cameras is None else cameras
    streams = {drive.camera_named(name): drive.cameras[name] for name in names}
    for name in streams:
        if name not in perspective:
            raise InputError(f'a CameraInfo cannot describe the camera {name} of {drive.source}: '
                             f'name a perspective one ({", ".join(perspective) or "none here"})')
    space = drive.ros_namespace
    frames: list[Event] = []
    poses: dict[int, NDArray[np.float64]] = {}
    for name, stream in streams.items():
        frame = f'{name}_optical'
        image_topic = f'{space}/{name}/image_rect' + ('/compressed' if compressed else '')
        kind = f'sensor_msgs/msg/{"CompressedImage" if compressed else "Image"}'
        make_image = _compressed_image if compressed else _image
        for i, stamp in enumerate(map(int, stream.stamps_ns)):
            frames.append((stamp, f'{space}/{name}/camera_info', 'sensor_msgs/msg/CameraInfo',
                           partial(_camera_info, stream, stamp, frame)))
            frames.append((stamp, image_topic, kind, partial(make_image, stream, i, frame)))
    if drive.lidar is not None:
        for i, stamp in enumerate(map(int, drive.lidar.stamps_ns)):
            frames.append((stamp, f'{space}/velodyne_points', 'sensor_msgs/msg/PointCloud2',
                           partial(_cloud, drive, i, stamp)))
    sensors: list[Stream] = [*streams.values(), *([drive.lidar] if drive.lidar else [])]
    for sensor in sensors:
        poses.update((int(sensor.stamps_ns[i]), sensor.T_map_base[i])
                     for i in np.flatnonzero(sensor.has_pose))
    if not frames:
        return []
    truth: list[Event] = [
        (stamp, f'{space}/ground_truth/pose', 'geometry_msgs/msg/PoseStamped',
         partial(_pose, T, stamp)) for stamp, T in poses.items()]
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
    return [(start, '/tf_static', 'tf2_msgs/msg/TFMessage', partial(_tf, mounts, start)), *events]


def _message(kind: str, **fields: Any) -> Any:
    package, name = kind.split('/')
    return typestore.types[f'{package}/msg/{name}'](**fields)


def _header(stamp_ns: int, frame: str) -> Any:
    seconds, rest = divmod(stamp_ns, 10**9)
    return _message('std_msgs/Header', frame_id=frame, stamp=_message(
        'builtin_interfaces/Time', sec=seconds, nanosec=rest))


def _image(stream: CameraStream, index: int, frame: str) -> Any:
    image = checked_image(stream, index)
    height, width = image.shape[:2]
    return _message('sensor_msgs/Image', header=_header(int(stream.stamps_ns[index]), frame),
                    height=height, width=width, encoding='rgb8', is_bigendian=0, step=3 * width,
                    data=np.ascontiguousarray(image).reshape(-1))


def _compressed_image(stream: CameraStream, index: int, frame: str) -> Any:
    checked_image(stream, index)  # a corrupt file must not wait in the bag for its reader
    path = stream.paths[index]
    return _message('sensor_msgs/CompressedImage',
                    header=_header(int(stream.stamps_ns[index]), frame),
                    format='png' if path.suffix == '.png' else 'jpeg',
                    data=np.fromfile(path, np.uint8))


def _camera_info(stream: CameraStream, stamp_ns: int, frame: str) -> Any:
    camera = stream.camera
    assert isinstance(camera, Pinhole)
    return _message(
        'sensor_msgs/CameraInfo', header=_header(stamp_ns, frame),
        height=camera.height, width=camera.width, distortion_model='plumb_bob', d=np.zeros(5),
        k=camera.K.ravel(), r=np.eye(3).ravel(),
        p=np.column_stack([camera.K, np.zeros(3)]).ravel(), binning_x=0, binning_y=0,
        roi=_message('sensor_msgs/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
                     do_rectify=False))


def _cloud(drive: Drive, index: int, stamp_ns: int) -> Any:
    scan = drive.scan(index)
    values = np.column_stack([scan.points, scan.intensity]).astype('<f4')
    fields = [_message('sensor_msgs/PointField', name=name, offset=4 * i, datatype=7, count=1)
              for i, name in enumerate(('x', 'y', 'z', 'intensity'))]
    return _message('sensor_msgs/PointCloud2', header=_header(stamp_ns, 'velodyne'), height=1,
                    width=len(values), fields=fields, is_bigendian=False, point_step=16,
                    row_step=16 * len(values), data=values.reshape(-1).view(np.uint8),
                    is_dense=True)


def _pose(T: NDArray[np.float64], stamp_ns: int) -> Any:
    return _message('geometry_msgs/PoseStamped', header=_header(stamp_ns, 'map'), pose=_message(
        'geometry_msgs/Pose', position=_xyz('geometry_msgs/Point', T), orientation=_turn(T)))


def _tf(mounts: dict[str, NDArray[np.float64]], stamp_ns: int) -> Any:
    return _message('tf2_msgs/TFMessage', transforms=[
        _message('geometry_msgs/TransformStamped', header=_header(stamp_ns, 'base_link'),
                 child_frame_id=frame,
                 transform=_message('geometry_msgs/Transform', rotation=_turn(T),
                                    translation=_xyz('geometry_msgs/Vector3', T)))
        for frame, T in mounts.items()])


def _xyz(kind: str, T: NDArray[np.float64]) -> Any:
    return _message(kind, x=float(T[0, 3]), y=float(T[1, 3]), z=float(T[2, 3]))


def _turn(T: NDArray[np.float64]) -> Any:
    x, y, z, w = map(float, to_quaternion(T))
    return _message('geometry_msgs/Quaternion', x=x, y=y, z=z, w=w)


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

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """
        Yield the messages in time order, of all topics or of those named.

        A topic that the bag does not have is an InputError, as is damage that is met on the way.
        """
        missing = sorted(set(topics or ()) - set(self.topics))
        if missing:
            raise InputError(f'the bag {self.path} has no topic {missing[0]}: '
                             f'it has {", ".join(sorted(self.topics))}')
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        stream = self._reader.messages(wanted)
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
