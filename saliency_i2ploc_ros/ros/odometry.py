"""T_odom_base at an image's stamp: from the topic `odom`, or from TF."""

from __future__ import annotations

from collections import deque
import threading
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.time import Time

from ..errors import InputError
from ..geometry.poses import from_quaternion, interpolate
from .conversions import message_to_pose, stamp_of
from .moments import JUMP_NS

Array = NDArray[np.float64]

KEPT_NS = 10_000_000_000  # of odometry, more than the slowest model takes for an image
MAX_GAP_S = 0.5  # over which odometry is interpolated


def odometry_of(node: Node, given: dict[str, Any]) -> OdometryTopic | OdometryTf | None:
    """Return the odometry that `publish_tf` and `sequence` ask for, by the parameters; or None."""
    if given['publish_tf'] != 'map_to_odom' and given['sequence'] != 'odometry':
        return None
    frames = given['odom_frame'], given['base_frame']
    return OdometryTf(node, *frames) if given['odometry'] == 'tf' else OdometryTopic(*frames)


class OdometryTopic:
    """
    The last ten seconds of an odometry, interpolated; for several threads.

    Its messages must be of `base_frame` in `odom_frame`: others are an InputError.
    """

    def __init__(self, odom_frame: str, base_frame: str) -> None:
        self._frames = odom_frame, base_frame
        self._kept: deque[tuple[int, Array]] = deque()
        self._lock = threading.Lock()

    def add(self, message: Odometry) -> None:
        """Keep a message; those not after the last one are left out."""
        frames = message.header.frame_id.lstrip('/'), message.child_frame_id.lstrip('/')
        if frames != self._frames:
            raise InputError(f'the odometry is of {frames[1]!r} in {frames[0]!r}, and '
                             f'{self._frames[1]!r} in {self._frames[0]!r} is needed: set '
                             'base_frame and odom_frame, or remap odom')
        stamp, T = stamp_of(message.header), message_to_pose(message.pose.pose)
        with self._lock:
            if self._kept and stamp < self._kept[-1][0] - JUMP_NS:
                self._kept.clear()
            if not self._kept or stamp > self._kept[-1][0]:
                self._kept.append((stamp, T))
            while stamp - self._kept[0][0] > KEPT_NS:
                self._kept.popleft()

    @property
    def newest_ns(self) -> int:
        """Return the stamp of the last message, -1 without any."""
        with self._lock:
            return self._kept[-1][0] if self._kept else -1

    def at(self, stamp_ns: int) -> Array:
        """Return T_odom_base (4, 4) at a time; none, or none yet, is an InputError."""
        with self._lock:
            kept = list(self._kept)
        if not kept:
            raise InputError('no odometry has come on odom')
        stamps = np.array([stamp for stamp, _ in kept], np.int64)
        after = int(np.clip(np.searchsorted(stamps, stamp_ns), 1, max(len(stamps) - 1, 1)))
        near = slice(after - 1, after + 1)
        T = interpolate(stamps[near], np.stack([T for _, T in kept[near]]),
                        np.array([stamp_ns]), MAX_GAP_S)[0]
        if not np.isfinite(T).all():
            raise InputError(f'no odometry came of a time {1e-9 * (stamp_ns - stamps[-1]):+.2f} s '
                             'from its last message')
        return T

    def forget(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()

    def close(self) -> None:
        """Nothing is held."""


class OdometryTf:
    """The same from /tf, heard from when it is made until it is closed; needs tf2_ros."""

    def __init__(self, node: Node, odom_frame: str, base_frame: str) -> None:
        try:
            from tf2_ros import Buffer, TransformListener
        except ImportError as error:
            raise InputError('odometry is tf, which needs the package tf2_ros: install it '
                             '(ros-<distribution>-tf2-ros), or set odometry to topic') from error
        self._frames = odom_frame, base_frame
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node)

    def at(self, stamp_ns: int) -> Array:
        """Return T_odom_base (4, 4) at a time; none, or none yet, is an InputError."""
        try:
            t = self._buffer.lookup_transform(*self._frames, Time(nanoseconds=stamp_ns)).transform
        except Exception as error:  # tf2's exceptions have no common base in Python.
            raise InputError(f'TF has no {self._frames[0]!r} to {self._frames[1]!r} at the time '
                             f'of the image ({error})') from error
        return from_quaternion([t.rotation.x, t.rotation.y, t.rotation.z, t.rotation.w],
                               [t.translation.x, t.translation.y, t.translation.z])

    def forget(self) -> None:
        """Forget all."""
        self._buffer.clear()

    def close(self) -> None:
        """Hear nothing more."""
        self._listener.unregister()
