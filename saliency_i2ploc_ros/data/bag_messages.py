"""The ROS messages of a drive, made without a ROS installation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import get_typestore, Stores

from ..errors import InputError
from ..geometry.cameras import Camera, Pinhole
from ..geometry.lenses import Mei
from ..geometry.poses import to_quaternion
from .drive import CameraStream, checked_image, Drive

Array = NDArray[np.float64]

# All distributions from Humble on have these messages with the same fields.
typestore = get_typestore(Stores.ROS2_JAZZY)


def message(kind: str, **fields: Any) -> Any:
    """Return a message of a type ('sensor_msgs/Image')."""
    package, name = kind.split('/')
    return typestore.types[f'{package}/msg/{name}'](**fields)


def header(stamp_ns: int, frame: str) -> Any:
    """Return a std_msgs/Header, its stamp exact to the nanosecond."""
    seconds, rest = divmod(stamp_ns, 10**9)
    return message('std_msgs/Header', frame_id=frame, stamp=message(
        'builtin_interfaces/Time', sec=seconds, nanosec=rest))


def image(stream: CameraStream, index: int, frame: str) -> Any:
    """Return a frame of a camera as a sensor_msgs/Image of encoding rgb8."""
    pixels = checked_image(stream, index)
    height, width = pixels.shape[:2]
    return message('sensor_msgs/Image', header=header(int(stream.stamps_ns[index]), frame),
                   height=height, width=width, encoding='rgb8', is_bigendian=0, step=3 * width,
                   data=np.ascontiguousarray(pixels).reshape(-1))


def compressed_image(stream: CameraStream, index: int, frame: str) -> Any:
    """Return a frame of a camera as a sensor_msgs/CompressedImage: its file as it is."""
    checked_image(stream, index)  # a corrupt file must not wait in the bag for its reader
    path = stream.paths[index]
    return message('sensor_msgs/CompressedImage',
                   header=header(int(stream.stamps_ns[index]), frame),
                   format='png' if path.suffix == '.png' else 'jpeg',
                   data=np.fromfile(path, np.uint8))


def can_describe(camera: Camera) -> bool:
    """Tell whether a CameraInfo can say what this camera is."""
    return isinstance(camera, (Pinhole, Mei))


def camera_info(camera: Camera, stamp_ns: int, frame: str) -> Any:
    """
    Return the sensor_msgs/CameraInfo of a camera; one that it cannot say is an InputError.

    A rectified camera has K in P and no distortion (plumb_bob, five zeros). A `Mei` fisheye has
    the model 'mei', which is no name of ROS's own: D = xi, k1, k2, p1, p2; K holds gamma1, gamma2,
    u0, v0 of its plane; P is zero, for it has no rectified view.
    """
    K: Array = np.eye(3)
    P: Array = np.zeros((3, 4))
    if isinstance(camera, Pinhole):
        model, D, K = 'plumb_bob', [0.0] * 5, camera.K
        P[:, :3] = K
    elif isinstance(camera, Mei):
        model = 'mei'
        D = [camera.xi, camera.k1, camera.k2, camera.p1, camera.p2]
        K[[0, 1, 0, 1], [0, 1, 2, 2]] = camera.gamma1, camera.gamma2, camera.u0, camera.v0
    else:
        raise InputError(f'a CameraInfo cannot describe a {type(camera).__name__} camera')
    return message(
        'sensor_msgs/CameraInfo', header=header(stamp_ns, frame), height=camera.height,
        width=camera.width, distortion_model=model, d=np.array(D), k=K.ravel(),
        r=np.eye(3).ravel(), p=P.ravel(), binning_x=0, binning_y=0,
        roi=message('sensor_msgs/RegionOfInterest', x_offset=0, y_offset=0, height=0, width=0,
                    do_rectify=False))


def cloud(drive: Drive, index: int, stamp_ns: int) -> Any:
    """Return a scan as a sensor_msgs/PointCloud2 of x, y, z, intensity (float32)."""
    scan = drive.scan(index)
    values = np.column_stack([scan.points, scan.intensity]).astype('<f4')
    fields = [message('sensor_msgs/PointField', name=name, offset=4 * i, datatype=7, count=1)
              for i, name in enumerate(('x', 'y', 'z', 'intensity'))]
    return message('sensor_msgs/PointCloud2', header=header(stamp_ns, 'velodyne'), height=1,
                   width=len(values), fields=fields, is_bigendian=False, point_step=16,
                   row_step=16 * len(values), data=values.reshape(-1).view(np.uint8),
                   is_dense=True)


def pose(T: Array, stamp_ns: int) -> Any:
    """Return T_map_base (4, 4) as a geometry_msgs/PoseStamped."""
    return message('geometry_msgs/PoseStamped', header=header(stamp_ns, 'map'), pose=message(
        'geometry_msgs/Pose', position=_xyz('geometry_msgs/Point', T), orientation=_turn(T)))


def transforms(mounts: dict[str, Array], stamp_ns: int) -> Any:
    """Return what sits where in base_link, T_base_child (4, 4) by child, as a TFMessage."""
    return message('tf2_msgs/TFMessage', transforms=[
        message('geometry_msgs/TransformStamped', header=header(stamp_ns, 'base_link'),
                child_frame_id=frame,
                transform=message('geometry_msgs/Transform', rotation=_turn(T),
                                  translation=_xyz('geometry_msgs/Vector3', T)))
        for frame, T in mounts.items()])


def _xyz(kind: str, T: Array) -> Any:
    return message(kind, x=float(T[0, 3]), y=float(T[1, 3]), z=float(T[2, 3]))


def _turn(T: Array) -> Any:
    x, y, z, w = map(float, to_quaternion(T))
    return message('geometry_msgs/Quaternion', x=x, y=y, z=z, w=w)
