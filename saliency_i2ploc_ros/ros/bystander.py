"""A node that bears the localizer's name and only looks on: what is there, what comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import time
from typing import Any

from lifecycle_msgs.srv import GetState
from nav_msgs.msg import Odometry
import rcl_interfaces.msg as rcl
from rcl_interfaces.srv import GetParameters
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from . import checks, parameters
from .checks import Finding, Heard, OK, WARN
from .conversions import stamp_of
from .inputs import SENSOR_DATA

DISCOVERY_S, SETTLE_S = 3.0, 1.0  # for anyone else to be seen, and then for all others


class Bystander(Node):
    """
    Bears the localizer's name, so that its parameter files and remappings are meant for it.

    given: the localizer's parameters. patience_s: how long anything is waited for. Where a
    localizer of this name runs, `look_at_localizer` takes over its parameters and topics.
    """

    def __init__(self, executor: Executor) -> None:
        super().__init__('localizer', enable_rosout=False, start_parameter_services=False)
        self._spinner = executor
        executor.add_node(self)
        parameters.declare(self, parameters.LOCALIZER)
        self.given = parameters.values(self, parameters.LOCALIZER)
        self.patience_s = 5.0
        self.is_active = False
        self._theirs: dict[type, dict[str, QoSProfile]] = {}

    def look_at_localizer(self) -> Finding:
        """Take over parameters and topics of a localizer of this name, if one runs."""
        name = self.get_fully_qualified_name()
        self.until(lambda: len(self.get_node_names()) > 1, DISCOVERY_S)
        if not self.until(lambda: f'{name}/get_state' in
                          {service for service, _ in self.get_service_names_and_types()},
                          SETTLE_S):
            return Finding(OK, 'node', f'{name} does not run; what is given here is checked')
        state = self._call(GetState, f'{name}/get_state', GetState.Request())
        names = [setting.name for setting in parameters.LOCALIZER] + ['use_sim_time']
        present = self._call(GetParameters, f'{name}/get_parameters',
                             GetParameters.Request(names=names))
        if state is None or present is None or len(present.values) != len(names):
            return Finding(WARN, 'node', f'{name} runs and does not answer: it is loading, or '
                           'hangs; what is given here is checked')
        found = [Parameter.from_parameter_msg(rcl.Parameter(name=name, value=value))
                 for name, value in zip(names, present.values, strict=True)]
        for setting, parameter in zip(parameters.LOCALIZER, found, strict=False):
            if self.given[setting.name] == setting.default:
                self.given[setting.name] = setting.checked(parameter.value)
        if found[-1].value:
            self.set_parameters(found[-1:])
        label = state.current_state.label
        if label != 'active':
            return Finding(WARN, 'node', f'{name} is {label}: configure and activate it '
                           f'(`ros2 lifecycle set {name} configure`); below is what it would find')
        self.is_active = True
        # What it hears may be seen later than its services.
        self.until(lambda: CameraInfo in self._heard_by_it()
                   and {Image, CompressedImage} & self._heard_by_it().keys(), DISCOVERY_S)
        self._theirs = self._heard_by_it()
        return Finding(OK, 'node', f'{name} is active; its parameters and topics are checked')

    def _heard_by_it(self) -> dict[type, dict[str, QoSProfile]]:
        """Return the subscriptions of the localizer that runs: topics and their QoS by type."""
        found: dict[type, dict[str, QoSProfile]] = {}
        its = self.get_name(), self.get_namespace()
        for topic, types in self.get_topic_names_and_types():
            for kind in (Image, CompressedImage, CameraInfo, Odometry):
                if checks.type_name(kind) in types:
                    for end in self.get_subscriptions_info_by_topic(topic):
                        if (end.node_name, end.node_namespace) == its:
                            found.setdefault(kind, {})[topic] = end.qos_profile
        return found

    def listen(self, name: str, kind: type, suffix: str = '') -> Heard:
        """
        Listen to a topic as the localizer does, from now on.

        name: before remapping. suffix: of the topic, after it. A message needs a header.
        """
        topic = self.resolve_topic_name(name) + suffix
        # One of its own: overrides are written into it.
        qos = QoSProfile(depth=1, reliability=SENSOR_DATA.reliability)
        theirs = self._theirs.get(kind, {})
        if theirs:
            # Its remappings are not to be had; the likeness of names tells cameras apart.
            topic = checks.similar(topic, theirs, 1)[0]
            qos.reliability, qos.durability = theirs[topic].reliability, theirs[topic].durability
        heard = Heard(name, topic, kind, qos)

        def arrived(data: bytes) -> None:
            heard.arrivals.append(time.monotonic())
            heard.last = deserialize_message(data, kind)
            heard.stamps_ns.append(stamp_of(heard.last.header))
            heard.delays_s.append(
                (self.get_clock().now().nanoseconds - heard.stamps_ns[-1]) * 1e-9)

        self.create_subscription(
            kind, topic, arrived, qos, raw=True, qos_overriding_options=None if theirs
            else QoSOverridingOptions.with_default_policies())
        return heard

    def hindrances(self, heard: Heard, only_certain: bool = False) -> Iterator[Finding]:
        """Yield why a topic does not arrive. only_certain: not that it may yet appear."""
        publishers = self.get_publishers_info_by_topic(heard.topic)
        if publishers or not only_certain:
            own = f'{self.get_fully_qualified_name()}/'
            published = {topic: types for topic, types in self.get_topic_names_and_types()
                         if self.count_publishers(topic) and not topic.startswith(own)}
            yield from checks.topic_findings(heard, published, publishers)

    def until(self, condition: Callable[[], Any], seconds: float | None = None) -> bool:
        """Spin until the condition holds, for `patience_s` if not said; False if it never does."""
        end = time.monotonic() + (self.patience_s if seconds is None else seconds)
        while not condition():
            if time.monotonic() > end:
                return False
            self._spinner.spin_once(timeout_sec=0.05)
        return True

    def _call(self, kind: type, name: str, request: Any) -> Any:
        """Return a service's answer, None if none comes in time."""
        client = self.create_client(kind, name)
        try:
            if not self.until(client.service_is_ready):
                return None
            future = client.call_async(request)
            return future.result() if self.until(future.done) else None
        finally:
            self.destroy_client(client)
