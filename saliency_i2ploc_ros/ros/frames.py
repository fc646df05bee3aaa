"""Where the camera sits in the vehicle: from a parameter or from TF, never assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geometry_msgs.msg import TransformStamped, Vector3
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time
from scipy.spatial.transform import Rotation

from ..data.bag_frames import mount, static_transforms
from ..data.bag_messages import typestore
from ..data.bags import BagReader
from ..errors import InputError
from ..geometry.poses import from_quaternion, to_quaternion, transform


def extrinsics_of(numbers: Sequence[float]) -> NDArray[np.float64] | None:
    """
    Return T_base_camera (4, 4) of the parameter `camera_extrinsics`; None if it is empty.

    numbers: x y z qx qy qz qw, or x y z roll pitch yaw about fixed axes (as static_transform_
    publisher takes them); metres and radians. A quaternion not of length 1 is an InputError.
    """
    if len(numbers) == 0:
        return None
    if len(numbers) == 6:
        return transform(Rotation.from_euler('xyz', numbers[3:]).as_matrix(), numbers[:3])
    if len(numbers) != 7 or abs(np.linalg.norm(numbers[3:]) - 1.0) > 0.01:
        raise InputError(f'camera_extrinsics is {list(numbers)}: it must be x y z qx qy qz qw, '
                         'the quaternion of length 1, or x y z roll pitch yaw')
    return from_quaternion(numbers[3:], numbers[:3])


def rig_extrinsics(
    numbers: Sequence[float], cameras: Sequence[str],
) -> dict[str, NDArray[np.float64]]:
    """
    Return T_base_camera (4, 4) by camera of the parameter `camera_extrinsics`; {} if it is empty.

    numbers: those of `extrinsics_of` for each camera, in their order, all 7 or all 6.
    """
    if len(numbers) == 0:
        return {}
    each = len(numbers) // len(cameras)
    if each not in (6, 7) or each * len(cameras) != len(numbers):
        raise InputError(f'camera_extrinsics has {len(numbers)} numbers for {len(cameras)} '
                         f'camera{"s" if len(cameras) > 1 else ""}: it must be 7 for each (x y z '
                         'qx qy qz qw), or 6 (x y z roll pitch yaw)')
    found = {}
    for i, camera in enumerate(cameras):
        T = extrinsics_of(numbers[i * each:(i + 1) * each])
        assert T is not None
        found[camera] = T
    return found


class Extrinsics:
    """
    T_base_camera by camera and frame: the parameter's if there is one, else TF's, asked once.

    /tf is heard only while something is unknown: a Python listener costs more than the rest of a
    node's traffic.
    """

    def __init__(self, node: Node, base_frame: str,
                 given: Mapping[str, NDArray[np.float64]] | None = None) -> None:
        self._node, self._base, self._given = node, base_frame, dict(given or {})
        self._known: dict[str, NDArray[np.float64]] = {}
        self._unknown: set[str] = set()
        self._none_asked = not self._given
        self._listener = None
        self._buffer = None
        # `of` is called in another thread than the executor's, to which subscriptions belong.
        self._asked = node.create_guard_condition(self.listen)

    def listen(self) -> None:
        """Hear TF while something is unknown, if tf2_ros is there; in the executor's thread."""
        if not (self._unknown or self._none_asked):
            self._stop()
        elif self._listener is None:
            try:
                from tf2_ros import Buffer, TransformListener
            except ImportError:
                return
            if self._buffer is None:
                self._buffer = Buffer()
            self._listener = TransformListener(self._buffer, self._node)

    def of(self, camera_frame: str, camera: str = '') -> NDArray[np.float64]:
        """
        Return T_base_camera (4, 4); an InputError that names both frames if it is unknown.

        camera: its name among several.
        """
        if camera in self._given:
            return self._given[camera]
        if camera_frame not in self._known:
            self._unknown.add(camera_frame)
            try:
                self._known[camera_frame] = self._looked_up(camera_frame)
                self._unknown.discard(camera_frame)
                self._none_asked = False
            finally:
                self._asked.trigger()
        return self._known[camera_frame]

    def _looked_up(self, camera_frame: str) -> NDArray[np.float64]:
        unknown = (f'where {camera_frame!r} sits in {self._base!r} is not known: '
                   'set the parameter camera_extrinsics')
        if self._buffer is None:
            raise InputError(f'{unknown} (tf2_ros is not installed, TF cannot be asked)')
        try:
            t = self._buffer.lookup_transform(self._base, camera_frame, Time()).transform
        except Exception as error:  # tf2's exceptions have no common base in Python.
            raise InputError(f'{unknown} or publish it on /tf_static ({error})') from error
        return from_quaternion([t.rotation.x, t.rotation.y, t.rotation.z, t.rotation.w],
                               [t.translation.x, t.translation.y, t.translation.z])

    def _stop(self) -> None:
        if self._listener is not None:
            self._listener.unregister()
        self._listener = None

    def close(self) -> None:
        """Stop listening, for good."""
        self._stop()
        self._node.destroy_guard_condition(self._asked)


def send_static_transform(
    node: Node, parent: str, child: str, position: NDArray[np.float64], broadcaster: Any = None,
    needed: bool = True,
) -> Any:
    """
    Publish a static shift and return the broadcaster that keeps it published.

    broadcaster: of an earlier call of the node, used again; None: a new one. Without tf2_ros None
    is returned, and where the transform is needed, for clouds are in the frame `child`, a line in
    the log says how to do the same by hand.
    """
    x, y, z = (float(v) for v in position)
    try:
        from tf2_ros import StaticTransformBroadcaster
    except ImportError:
        if not needed:
            return None
        node.get_logger().warning(
            f'clouds are in the frame {child}; tf2_ros is not installed to say where that is: '
            f'ros2 run tf2_ros static_transform_publisher --x {x} --y {y} --z {z} '
            f'--frame-id {parent} --child-frame-id {child}')
        return None
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = node.get_clock().now().to_msg()
    message.transform.translation = Vector3(x=x, y=y, z=z)
    message.transform.rotation.w = 1.0
    if broadcaster is None:
        broadcaster = StaticTransformBroadcaster(node)
    broadcaster.sendTransform(message)
    return broadcaster


def stop_static_transform(node: Node, broadcaster: Any) -> None:
    """Take back what `send_static_transform` returned; late listeners hear it no more."""
    if broadcaster is not None:
        # tf2_ros has no other way: the publisher would live as long as the node.
        node.destroy_publisher(broadcaster.pub_tf)


def extrinsics_in_bag(bag: Path, camera_info: str, base_frame: str) -> list[float] | None:
    """
    Return `camera_extrinsics` (x y z qx qy qz qw) of a bag's /tf_static, or None.

    camera_info: the topic whose header names the camera's frame. Read without tf2: where that is
    not installed, the messages of /tf_static cannot even be received.
    """
    with BagReader(bag) as reader:
        if camera_info not in reader.topics:
            return None
        first = next(iter(reader.messages([camera_info])), None)
        edges = static_transforms(reader)
    if first is None:
        return None
    info = typestore.deserialize_cdr(first.data, first.type_name)
    T = mount(edges, info.header.frame_id, base_frame)
    return None if T is None else extrinsics_numbers(T)


def extrinsics_numbers(T_base_camera: NDArray[np.float64]) -> list[float]:
    """Return a mounting (4, 4) as a parameter has it, the inverse of `extrinsics_of`."""
    return [float(v) for v in (*T_base_camera[:3, 3], *to_quaternion(T_base_camera))]
