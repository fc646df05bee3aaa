"""
Plays a rosbag2 directory onto its topics, with /clock, at a rate or in lock-step.

Neither rosbag2 nor its storage plugins are needed. In lock-step the next image goes out when the
localizer has answered the last one, so that a run does not depend on the machine's speed.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
import sys
import time
from typing import Any

from rclpy.duration import Duration
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from ..data.bags import BagMessage, BagReader
from ..errors import InputError
from . import parameters
from .running import ros

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
LATCHED_TOPICS = ('/tf_static', '/robot_description')
CLOCK_PERIOD_S = 0.01
POSE, POSES_KEPT = 'geometry_msgs/msg/PoseStamped', 1000
SETTLE_S = 1.0  # from the first subscriber seen to the first message: others may still be matching
GIVE_UP_AFTER = 5  # answers missing in a row


class Replay(Node):
    """See the module; `play` does it."""

    def __init__(self, executor: Executor) -> None:
        super().__init__('replay')
        executor.add_node(self)
        self._executor = executor
        parameters.declare(self, parameters.REPLAY)
        self._given = parameters.values(self, parameters.REPLAY)
        if not self._given['bag']:
            raise InputError('the parameter bag is empty: give a rosbag2 folder')
        self._answered: set[int] = set()
        self._missing_in_a_row = 0
        self.images = 0
        self.unanswered = 0
        self.create_subscription(
            String, self._given['answer_topic'], self._on_answer,
            QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE))
        self._clock = self.create_publisher(Clock, '/clock', 10) if self._given['clock'] else None

    def play(self) -> None:
        """Play the bag from its first message to its last."""
        with BagReader(Path(self._given['bag'])) as bag:
            self._advertise(bag)
            self._wait_for_subscribers()
            # An image before its calibration cannot be used; DDS keeps no order between topics.
            infos = [topic for topic, kind in bag.topics.items() if kind == CAMERA_INFO]
            for topic in infos:
                first = next(bag.messages([topic]), None)
                if first is not None and topic in self._outputs:
                    self._outputs[topic].publish(first.data)
            self._spin(SETTLE_S)
            last_image = self._play(bag)
        if last_image is not None and self.count_publishers(self._given['answer_topic']):
            self._wait_for_answer(last_image)
        for publisher in self._outputs.values():
            publisher.wait_for_all_acked(Duration(seconds=2))

    def _play(self, bag: BagReader) -> int | None:
        """Publish all messages and return the stamp of the last image that someone listens to."""
        rate, started, last_image = self._given['rate'], time.monotonic(), None
        for message in bag.messages():
            if message.topic not in self._outputs:
                continue
            if rate > 0.0:
                self._keep_pace(started, message.stamp_ns, bag.start_ns, rate)
            self._tell_time(message.stamp_ns)
            publisher = self._outputs[message.topic]
            publisher.publish(message.data)
            if message.type_name in IMAGES and publisher.get_subscription_count():
                self.images += 1
                last_image = stamp_of_image(message)
                if rate == 0.0 and not self._wait_for_answer(last_image):
                    self._count_missing(last_image)
        return last_image

    def _advertise(self, bag: BagReader) -> None:
        self._outputs: dict[str, Any] = {}
        self._image_topics = [t for t, kind in bag.topics.items() if kind in IMAGES]
        for topic, name in bag.topics.items():
            kind = message_type(name)
            if kind is None:
                self.get_logger().warning(f'{topic} is left out: {name} is not installed')
                continue
            # Poses are kept: who matches late, as a busy evaluator may, still gets all of them.
            depth = 1 if topic in LATCHED_TOPICS else POSES_KEPT if name == POSE else 10
            self._outputs[topic] = self.create_publisher(kind, topic, QoSProfile(
                depth=depth, reliability=ReliabilityPolicy.RELIABLE,
                durability=(DurabilityPolicy.VOLATILE if depth == 10
                            else DurabilityPolicy.TRANSIENT_LOCAL)))

    def _wait_for_subscribers(self) -> None:
        """Wait for the topics of `wait_for`, all of them; if that is empty, for any image's."""
        named = self._given['wait_for'].split()
        missing = sorted(set(named) - set(self._outputs))
        if missing:
            raise InputError(f'wait_for names {missing[0]}, which is not in the bag: '
                             f'it has {", ".join(sorted(self._outputs))}')
        if not named and not self._image_topics:
            return
        deadline = time.monotonic() + self._given['wait_timeout_s']
        while time.monotonic() < deadline:
            heard = [topic for topic in named or self._image_topics
                     if self._outputs[topic].get_subscription_count()]
            if heard and len(heard) >= len(named):
                return
            self._spin(0.1)
        raise InputError(f'nobody subscribed to {", ".join(named or self._image_topics)} within '
                         f'{self._given["wait_timeout_s"]:g} s: is the localizer active, and are '
                         'its topics remapped to these?')

    def _keep_pace(self, started: float, stamp_ns: int, first_ns: int, rate: float) -> None:
        due = started + (stamp_ns - first_ns) * 1e-9 / rate
        while (left := due - time.monotonic()) > 0.0:
            self._tell_time(stamp_ns - int(left * rate * 1e9))
            self._spin(min(left, CLOCK_PERIOD_S))

    def _tell_time(self, now_ns: int) -> None:
        if self._clock is not None:
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(max(now_ns, 0), 10**9)
            self._clock.publish(message)

    def _wait_for_answer(self, stamp_ns: int) -> bool:
        deadline = time.monotonic() + self._given['answer_timeout_s']
        while stamp_ns not in self._answered:
            left = deadline - time.monotonic()
            if left <= 0.0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        self._missing_in_a_row = 0
        return True

    def _count_missing(self, stamp_ns: int) -> None:
        self.unanswered += 1
        self._missing_in_a_row += 1
        self.get_logger().warning(f'the image of {stamp_ns * 1e-9:.3f} s was not answered within '
                                  f'{self._given["answer_timeout_s"]:g} s')
        if self._missing_in_a_row >= GIVE_UP_AFTER:
            raise InputError(f'{GIVE_UP_AFTER} images in a row were not answered: does the '
                             f'localizer publish on {self._given["answer_topic"]}?')

    def _on_answer(self, message: String) -> None:
        try:
            self._answered.add(int(json.loads(message.data)['stamp_ns']))
        except (ValueError, KeyError, TypeError):
            self.get_logger().warning('an answer could not be read', once=True)

    def _spin(self, seconds: float) -> None:
        """Let messages in for this long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)


def message_type(name: str) -> type | None:
    """Return the Python class of a type ('sensor_msgs/msg/Image'), None if not installed."""
    package, kind = name.split('/')[0], name.split('/')[-1]
    try:
        return getattr(importlib.import_module(f'{package}.msg'), kind)
    except (ImportError, AttributeError):
        return None


def stamp_of_image(message: BagMessage) -> int:
    """Return the header's stamp in ns, read from the first fields of the CDR: sec, nanosec."""
    order = 'little' if message.data[1] == 1 else 'big'
    sec = int.from_bytes(message.data[4:8], order, signed=True)
    return sec * 10**9 + int.from_bytes(message.data[8:12], order)


def main(args: list[str] | None = None) -> None:
    """Play a bag and exit with 0; 1 if it cannot be played."""
    code = 0
    try:
        with ros(args) as executor:
            node = Replay(executor)
            started = time.monotonic()
            node.play()
            node.get_logger().info(
                f'the bag is over: {node.images} images in {time.monotonic() - started:.1f} s, '
                f'{node.unanswered} unanswered')
    except InputError as error:
        print(f'replay: {error}', file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == '__main__':
    main()
