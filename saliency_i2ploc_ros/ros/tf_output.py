"""What fixes become on /tf: `publish_tf`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
import time
from typing import Any

from geometry_msgs.msg import TransformStamped, Vector3
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy

from ..errors import InputError
from ..geometry.poses import inverse
from .conversions import header_at, pose_to_message
from .odometry import OdometryTf, OdometryTopic

Array = NDArray[np.float64]

NONE, MAP_TO_ODOM, MAP_TO_BASE = 'none', 'map_to_odom', 'map_to_base'
PATIENCE_S = 1.0  # with odometry that comes later than the fix of its time
WAITING_MOST = 100  # fixes, more than any model makes in that time


class TfOutput:
    """
    Sends each fix on /tf, in one of two ways; made when configured, closed at cleanup.

    map_to_base: the fix itself, with its own stamp. map_to_odom: T_map_base of the fix times the
    inverse of T_odom_base at the fix's stamp, sent again and again, since it holds until the next
    fix: dated ahead by two periods, so that a listener who asks for now finds it.
    odometry: for map_to_odom. on_trouble: called with a sentence where a fix finds no odometry,
    with '' where one does.

    A package that is not installed is an InputError.
    """

    def __init__(self, node: LifecycleNode, given: dict[str, Any],
                 on_trouble: Callable[[str], None],
                 odometry: OdometryTopic | OdometryTf | None = None) -> None:
        self._node, self._given, self._on_trouble = node, given, on_trouble
        self.mode = given['publish_tf']
        self._publisher = self._timer = None
        self._odometry = odometry
        self._lock = threading.Lock()
        self._waiting = _no_fixes()
        self._T_map_odom: Array | None = None
        if self.mode == NONE:
            return
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise InputError(f'publish_tf is {self.mode}, which needs the package tf2_msgs: '
                             'install it (ros-<distribution>-tf2-msgs), or set publish_tf to '
                             'none') from error
        self._message_type = TFMessage
        if self.mode == MAP_TO_ODOM:
            frames = given['odom_frame'], given['base_frame']
            if len({given['map_frame'], *frames}) < 3:
                raise InputError('map_frame, odom_frame and base_frame must be three frames for '
                                 'publish_tf map_to_odom')
        # As tf2_ros's broadcaster has it.
        self._publisher = node.create_lifecycle_publisher(
            TFMessage, '/tf', QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE))

    def start(self) -> None:
        """Begin to send, in an active node."""
        if self.mode == MAP_TO_ODOM:
            # By the node's own clock: while a simulation stands, nothing is sent.
            self._timer = self._node.create_timer(self._given['tf_period_s'], self.send)

    def stop(self) -> None:
        """Send nothing more, and forget what was sent."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = None
        self.forget()

    def forget(self) -> None:
        """Forget all that has a time."""
        with self._lock:
            self._waiting, self._T_map_odom = _no_fixes(), None

    def close(self) -> None:
        """Free everything."""
        self.stop()
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)
        self._publisher = None

    def take(self, T_map_base: Array, stamp_ns: int) -> None:
        """Take a fix; called in the inference thread."""
        if self.mode == MAP_TO_BASE:
            self._publish(T_map_base, stamp_ns, self._given['base_frame'])
        elif self.mode == MAP_TO_ODOM:
            with self._lock:
                self._waiting.append((T_map_base, stamp_ns, time.monotonic()))

    def send(self) -> None:
        """Send map_to_odom, corrected by the newest fix that has odometry; by the timer."""
        self._correct()
        T = self._T_map_odom
        if T is not None:
            ahead = round(2e9 * self._given['tf_period_s'])
            self._publish(T, self._node.get_clock().now().nanoseconds + ahead,
                          self._given['odom_frame'])

    def _correct(self) -> None:
        """Take the newest waiting fix that has odometry; give up those that waited too long."""
        with self._lock:
            waiting = self._waiting
            fixes = list(waiting)
        if self._odometry is None:
            return
        # All of them: odometry may always lag by more than the time from one fix to the next.
        done_ns, trouble = -1, ''
        for T_map_base, stamp_ns, since in reversed(fixes):
            try:
                T_map_odom = T_map_base @ inverse(self._odometry.at(stamp_ns))
            except InputError as error:
                # Of the fix's own time it may still come; without it the fix says nothing.
                if time.monotonic() - since > PATIENCE_S:
                    done_ns, trouble = max(done_ns, stamp_ns), f'a fix is not on /tf: {error}'
                continue
            done_ns, trouble = max(done_ns, stamp_ns), ''
            with self._lock:
                # Not if time has been started anew meanwhile.
                if self._waiting is waiting:
                    self._T_map_odom = T_map_odom
            break
        if done_ns >= 0:
            self._on_trouble(trouble)
        with self._lock:
            while waiting and waiting[0][1] <= done_ns:
                waiting.popleft()

    def _publish(self, T_map_child: Array, stamp_ns: int, child: str) -> None:
        pose = pose_to_message(T_map_child)
        message = TransformStamped(header=header_at(stamp_ns, self._given['map_frame']),
                                   child_frame_id=child)
        p = pose.position
        message.transform.translation = Vector3(x=p.x, y=p.y, z=p.z)
        message.transform.rotation = pose.orientation
        self._publisher.publish(self._message_type(transforms=[message]))


def _no_fixes() -> deque[tuple[Array, int, float]]:
    """Return what holds fixes until their odometry comes: T_map_base, stamp, and since when."""
    return deque(maxlen=WAITING_MOST)
