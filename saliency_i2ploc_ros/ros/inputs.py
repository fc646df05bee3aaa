"""What an active localizer hears: images, CameraInfo, odometry, priors."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from .complaints import Complaints
from .diagnostics import Health
from .moments import Moment, Moments
from .running import SubscriptionEventCallbacks

SENSOR_DATA = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Inputs:
    """
    The subscriptions of an active node; made when it is activated, closed when it is not.

    cameras: their names, [''] for the one without. on_moment: called with images that belong
    together, by camera and still serialized. on_camera_info: with a camera's name and message.
    on_odometry, on_prior: with the messages of `odom`, of `~/prior`; None: they are not heard. All
    in the executor's thread.
    """

    def __init__(
        self, node: Node, given: dict[str, Any], health: Health, complaints: Complaints,
        on_moment: Callable[[Moment], None], on_camera_info: Callable[[str, CameraInfo], None],
        on_odometry: Callable[[Odometry], None] | None,
        on_prior: Callable[[PoseWithCovarianceStamped], None] | None = None,
    ) -> None:
        self._node, self._health, self._complaints = node, health, complaints
        self._on_moment = on_moment
        names = cameras_of_rig(given)
        self._moments = Moments(names, given['camera_slop_s'], given['camera_wait_s'])
        self._subscriptions: list[Any] = []
        self._timer: Any = None
        health.cameras = {name: health.new_window() for name in names}
        self.image_topics: list[str] = []
        compressed = given['image_transport'] == 'compressed'
        self._image_type = CompressedImage if compressed else Image
        try:
            self._open(names, '/compressed' * compressed, on_camera_info)
            if on_odometry is not None:
                self._subscribe(Odometry, 'odom', on_odometry, depth=10)
            if on_prior is not None:
                self._subscribe(PoseWithCovarianceStamped, '~/prior', on_prior)
        except BaseException:
            self.close()
            raise
        if len(names) > 1:
            # Steady: a moment must not wait longer because a simulated clock stands.
            self._timer = node.create_timer(max(given['camera_wait_s'] / 4.0, 0.005),
                                            self._hand_out_overdue,
                                            clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _open(self, names: list[str], suffix: str,
              on_camera_info: Callable[[str, CameraInfo], None]) -> None:
        # As image_transport, which Python has not: the base topic, remapped, and a suffix.
        for name in names:
            prefix = f'{name}/' if name else ''
            self._subscribe(CameraInfo, f'{prefix}camera_info',
                            lambda message, name=name: on_camera_info(name, message))
            topic = self._node.resolve_topic_name(f'{prefix}image') + suffix
            self.image_topics.append(topic)
            self._subscribe(self._image_type, topic,
                            lambda data, name=name: self._on_image(name, data), raw=True)

    @property
    def dropped(self) -> int:
        """Return how many images found no moment to be answered in."""
        return self._moments.dropped

    def forget(self) -> None:
        """Forget what waits for other images."""
        self._moments.clear()

    def close(self) -> None:
        """Hear nothing more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        self._timer = None

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None],
                   raw: bool = False, depth: int = 1) -> None:
        # One for each topic: overrides are written into it.
        qos = QoSProfile(depth=depth, reliability=SENSOR_DATA.reliability)
        events = SubscriptionEventCallbacks(
            incompatible_qos=lambda event: self._on_bad_qos(topic, event))
        self._subscriptions.append(self._node.create_subscription(
            kind, topic, callback, qos, raw=raw, event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def _on_image(self, camera: str, data: bytes) -> None:
        now = time.monotonic()
        self._health.arrived(camera, now)
        moment = self._moments.add(camera, data, now)
        if moment is not None:
            self._on_moment(moment)

    def _hand_out_overdue(self) -> None:
        moment = self._moments.overdue(time.monotonic())
        if moment is not None:
            self._on_moment(moment)

    def _on_bad_qos(self, topic: str, event: Any) -> None:
        self._health.qos_mismatches += event.total_count_change
        self._complaints.warn(f'qos {topic}', (
            f'a publisher of {self._node.resolve_topic_name(topic)} offers a QoS that does not '
            'fit: its messages do not arrive; see the parameters qos_overrides'))


def cameras_of_rig(given: dict[str, Any]) -> list[str]:
    """Return the cameras' names, [''] for the one without."""
    return list(given['cameras']) or ['']
