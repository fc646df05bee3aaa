"""
Plays a rosbag2 directory onto its topics, with /clock, at a rate or in lock-step.

Neither rosbag2 nor its storage plugins are needed. In lock-step the next image goes out when the
localizer has answered the last one (of several cameras: the last moment's), so that a run does not
depend on the machine's speed. Messages go out as they are in the bag, byte by byte; only `restamp`
alters stamps, so that time goes on from loop to loop.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from pathlib import Path
import struct
import sys
import time
from typing import Any

from rclpy.duration import Duration
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from ..data.bags import BagMessage, BagReader
from ..errors import InputError
from . import parameters
from .moments import stamp_in
from .running import ros

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
LATCHED_TOPICS = ('/tf_static', '/robot_description')
LATCHED_KEPT = 100  # a bag has a message of each node that published static transforms
TF = 'tf2_msgs/msg/TFMessage'
CLOCK_PERIOD_S = 0.01
POSE, POSES_KEPT = 'geometry_msgs/msg/PoseStamped', 1000
SETTLE_S = 1.0  # from the first subscriber seen to the first message: others may still be matching
GIVE_UP_AFTER = 5  # answers missing in a row
MOMENT_NS = 50_000_000  # stamps of several cameras this near are answered together
LOOP_GAP_NS = 100_000_000  # between the last message of a loop and the first of the next
PLAYS = 'there are listeners: playing'  # the log's first sign of life


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
        self.started_at = math.nan  # when the first message went out
        self.create_subscription(
            String, self._given['answer_topic'], self._on_answer,
            QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE))
        self._clock = self.create_publisher(Clock, '/clock', 10) if self._given['clock'] else None

    def play(self) -> None:
        """Play the bag, as often as it is to be."""
        with BagReader(Path(self._given['bag'])) as bag:
            window = self._window(bag)
            self._advertise(bag)
            self._wait_for_subscribers()
            self.get_logger().info(f'{PLAYS} {self._given["bag"]}')
            self._publish_what_comes_before(bag, window[0])
            self._spin(SETTLE_S)
            self.started_at = time.monotonic()
            last_image, loops = None, self._given['loops']
            for loop in itertools.count() if loops == 0 else range(loops):
                if loop and self._given['rate'] > 0.0:
                    self._spin(LOOP_GAP_NS * 1e-9 / self._given['rate'])
                last_image = self._play(bag, window, loop)
        if (self._given['rate'] > 0.0 and last_image is not None
                and self.count_publishers(self._given['answer_topic'])):
            self._wait_for_answer({last_image})
        for publisher in self._outputs.values():
            publisher.wait_for_all_acked(Duration(seconds=2))

    def _window(self, bag: BagReader) -> tuple[int, int]:
        """Return the log times of the first message that is played and after the last, ns."""
        start = bag.start_ns + round(self._given['start_s'] * 1e9)
        if start > bag.end_ns:
            raise InputError(f'start_s is {self._given["start_s"]:g}, and the bag lasts '
                             f'{(bag.end_ns - bag.start_ns) * 1e-9:.1f} s')
        length = round(self._given['duration_s'] * 1e9)
        return start, min(start + length, bag.end_ns + 1) if length else bag.end_ns + 1

    def _publish_what_comes_before(self, bag: BagReader, start_ns: int) -> None:
        """Publish what holds from the first message on, whenever it was recorded."""
        latched = [topic for topic in LATCHED_TOPICS if topic in self._outputs]
        for message in bag.messages(latched, stop_ns=start_ns) if latched else ():
            self._outputs[message.topic].publish(message.data)
        # An image before its calibration cannot be used; DDS keeps no order between topics.
        for topic, kind in bag.topics.items():
            if kind == CAMERA_INFO and topic in self._outputs:
                first = next(bag.messages([topic]), None)
                if first is not None:
                    self._outputs[topic].publish(first.data)

    def _play(self, bag: BagReader, window: tuple[int, int], loop: int) -> int | None:
        """Publish all messages once; return the stamp of the last image that has a listener."""
        rate, started, last_image = self._given['rate'], time.monotonic(), None
        later = loop * (window[1] - 1 - window[0] + LOOP_GAP_NS) if self._given['restamp'] else 0
        moment: dict[str, int] = {}  # images that wait for an answer: topic, stamp
        for message in bag.messages(list(self._outputs), *window):
            if rate > 0.0:
                self._keep_pace(started, message.stamp_ns, window[0], rate, later)
            self._tell_time(message.stamp_ns + later)
            publisher = self._outputs[message.topic]
            data = self._restamped(message, later) if later else message.data
            if message.type_name not in IMAGES or not publisher.get_subscription_count():
                publisher.publish(data)
                continue
            last_image = stamp_in(message.data) + later
            if message.topic in moment or abs(
                    last_image - next(iter(moment.values()), last_image)) > MOMENT_NS:
                self._answer_due(moment)
            self.images += 1
            moment[message.topic] = last_image
            self._answered.discard(last_image)  # of an earlier loop
            publisher.publish(data)
            if rate > 0.0:
                moment.clear()
            elif len(moment) == sum(self._outputs[topic].get_subscription_count() > 0
                                    for topic in self._image_topics):
                self._answer_due(moment)
        self._answer_due(moment)
        return last_image

    def _answer_due(self, moment: dict[str, int]) -> None:
        """Wait for the one answer to the images of a moment, which then are no longer waiting."""
        if not moment:
            return
        if not self._wait_for_answer(set(moment.values())):
            self._count_missing(min(moment.values()))
        moment.clear()
        self._answered.clear()

    def _restamped(self, message: BagMessage, later_ns: int) -> bytes:
        """Return a message with its stamps moved on; one that has no header stays as it is."""
        if message.topic in LATCHED_TOPICS:
            return message.data
        if message.type_name == TF:
            transforms = deserialize_message(message.data, message_type(TF))
            for edge in transforms.transforms:
                stamp = edge.header.stamp
                ns = stamp.sec * 10**9 + stamp.nanosec + later_ns
                stamp.sec, stamp.nanosec = divmod(ns, 10**9)
            return serialize_message(transforms)
        if not has_header(message.type_name):
            return message.data
        order = '<' if message.data[1] == 1 else '>'
        stamp = struct.pack(f'{order}iI', *divmod(stamp_in(message.data) + later_ns, 10**9))
        return message.data[:4] + stamp + message.data[12:]

    def _advertise(self, bag: BagReader) -> None:
        self._outputs: dict[str, Any] = {}
        wanted = set(self._given['topics'].split() or bag.topics)
        if missing := sorted(wanted - set(bag.topics)):
            raise InputError(f'topics names {missing[0]}, which is not in the bag: '
                             f'it has {", ".join(sorted(bag.topics))}')
        for topic, name in bag.topics.items():
            if topic not in wanted or (topic == '/clock' and self._clock is not None):
                continue
            kind = message_type(name)
            if kind is None:
                self.get_logger().warning(f'{topic} is left out: {name} is not installed')
                continue
            # Poses are kept: who matches late, as a busy evaluator may, still gets all of them.
            depth = LATCHED_KEPT if topic in LATCHED_TOPICS else POSES_KEPT if name == POSE else 10
            self._outputs[topic] = self.create_publisher(kind, topic, QoSProfile(
                depth=depth, reliability=ReliabilityPolicy.RELIABLE,
                durability=(DurabilityPolicy.VOLATILE if depth == 10
                            else DurabilityPolicy.TRANSIENT_LOCAL)))
        self._image_topics = [topic for topic in self._outputs if bag.topics[topic] in IMAGES]

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

    def _keep_pace(
        self, started: float, stamp_ns: int, first_ns: int, rate: float, later_ns: int,
    ) -> None:
        due = started + (stamp_ns - first_ns) * 1e-9 / rate
        while (left := due - time.monotonic()) > 0.0:
            self._tell_time(stamp_ns + later_ns - int(left * rate * 1e9))
            self._spin(min(left, CLOCK_PERIOD_S))

    def _tell_time(self, now_ns: int) -> None:
        if self._clock is not None:
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(max(now_ns, 0), 10**9)
            self._clock.publish(message)

    def _wait_for_answer(self, stamps_ns: set[int]) -> bool:
        """Wait until any of these images was answered; False if none was in time."""
        deadline = time.monotonic() + self._given['answer_timeout_s']
        while self._answered.isdisjoint(stamps_ns):
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
        if len(self._answered) >= 1000:  # while nobody waits for them
            self._answered.clear()
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


def has_header(name: str) -> bool:
    """Tell whether the messages of a type begin with a std_msgs/Header."""
    kind: Any = message_type(name)
    fields = {} if kind is None else kind.get_fields_and_field_types()
    return next(iter(fields.values()), '') == 'std_msgs/Header'


def main(args: list[str] | None = None) -> None:
    """Play a bag and exit with 0; 1 if it cannot be played."""
    code = 0
    try:
        with ros(args, __doc__) as executor:
            node = Replay(executor)
            node.play()
            node.get_logger().info(
                f'the bag is over: {node.images} images in '
                f'{time.monotonic() - node.started_at:.1f} s, '
                f'{node.unanswered} unanswered')
    except InputError as error:
        print(f'replay: {error}', file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == '__main__':
    main()
