"""
Holds what the localizer publishes against ground truth and writes the report.

It sees only topics: a fix that did not arrive is no fix. The figures are made by
`saliency_i2ploc_ros.evaluation`, the same as offline.
"""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import signal
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from .. import __version__
from ..data.bags import BagReader
from ..data.drive import Trajectory
from ..errors import InputError
from ..evaluation.report import write_report
from ..evaluation.summary import NO_TRUTH, Record
from ..mapping.database import PlaceDatabase
from ..storage import atomic_file, write_json
from . import parameters
from .conversions import compressed_to_rgb, image_to_rgb, message_to_pose, stamp_of
from .running import ros, SubscriptionEventCallbacks

FAILED = 2  # exit code where a threshold is missed
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


class Evaluator(Node):
    """Collects by stamp: fixes, answers, true poses, and which images there were."""

    def __init__(self, executor: Executor) -> None:
        super().__init__('evaluator')
        executor.add_node(self)
        parameters.declare(self, parameters.EVALUATOR)
        self.given = parameters.values(self, parameters.EVALUATOR)
        if not self.given['output'] or not self.given['database']:
            raise InputError('the parameters output and database are needed: folders of the '
                             'report and of the place database')
        self.database = PlaceDatabase.open(Path(self.given['database']))
        if self.given['bag']:
            check_images(Path(self.given['bag']), self.given['image_topic'])
        self.fixes: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self.answers: dict[int, dict[str, Any]] = {}
        self.truth: dict[int, NDArray[np.float64]] = {}
        self.images: set[int] = set()
        self._skipped: set[str] = set()
        self._last_message_at: float | None = None

        heard = [self._listen(PoseWithCovarianceStamped, 'localizer/fix', self._on_fix),
                 self._listen(String, 'localizer/answer', self._on_answer)]
        self._localizer_topics = [subscription.topic_name for subscription in heard]
        self._timer = self.create_timer(
            0.1, self._begin, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self, kind: type, topic: str, callback: Any) -> Any:
        # Reliable, as bags are played: by best effort, poses beside large images get lost.
        return self.create_subscription(
            kind, topic, callback, QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def _begin(self) -> None:
        """Listen to the bag once the localizer is heard: replay waits for that."""
        if not all(self.count_publishers(topic) for topic in self._localizer_topics):
            return
        self.destroy_timer(self._timer)
        self._listen(PoseStamped, 'ground_truth/pose', self._on_truth)
        # Once more for what replay keeps: on a busy host the first poses come before this node has
        # matched. A publisher that keeps nothing does not fit, which is no reason to warn.
        self.create_subscription(
            PoseStamped, 'ground_truth/pose', self._on_truth,
            QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE,
                       durability=DurabilityPolicy.TRANSIENT_LOCAL),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        # One a frame and small: it tells how many images there were, also those that got lost.
        self._listen(CameraInfo, 'camera_info', self._on_camera_info)
        if self.given['idle_timeout_s'] > 0.0:
            self._timer = self.create_timer(
                0.2, self._check_idle, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_fix(self, message: PoseWithCovarianceStamped) -> None:
        self._last_message_at = time.monotonic()
        try:
            T = message_to_pose(message.pose.pose)
        except InputError as error:
            self._skip('a fix', error)
            return
        covariance = np.asarray(message.pose.covariance, np.float64).reshape(6, 6)
        self.fixes[stamp_of(message.header)] = T, covariance

    def _on_answer(self, message: String) -> None:
        self._last_message_at = time.monotonic()
        try:
            answer = json.loads(message.data)
            self.answers[record_of(answer).stamp_ns] = answer
        except Exception as error:  # A text of another's may be anything.
            self._skip('an answer', error)

    def _on_truth(self, message: PoseStamped) -> None:
        self._last_message_at = time.monotonic()
        try:
            self.truth[stamp_of(message.header)] = message_to_pose(message.pose)
        except InputError as error:
            self._skip('a true pose', error)

    def _skip(self, what: str, error: Exception) -> None:
        if what not in self._skipped:
            self.get_logger().warning(f'{what} is left out (further ones in silence), it cannot '
                                      f'be read: {error}')
        self._skipped.add(what)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self.images.add(stamp_of(message.header))

    def _check_idle(self) -> None:
        last = self._last_message_at
        if last is not None and time.monotonic() - last > self.given['idle_timeout_s']:
            raise ExternalShutdownException

    def records(self) -> list[Record]:
        """Return a record for each image that was answered, in stamp order."""
        stamps = np.array(sorted(self.answers), np.int64)
        known = sorted(self.truth)
        truth = np.broadcast_to(NO_TRUTH, (len(stamps), 4, 4))
        if known and len(stamps):
            trajectory = Trajectory(np.array(known, np.int64),
                                    np.stack([self.truth[stamp] for stamp in known]))
            truth = trajectory.at(stamps, self.given['max_gap_s'])
        return [self._record(stamp, T) for stamp, T in zip(map(int, stamps), truth, strict=True)]

    def _record(self, stamp: int, truth: NDArray[np.float64]) -> Record:
        record = replace(record_of(self.answers[stamp]), truth=np.array(truth))
        if stamp in self.fixes:
            T, covariance = self.fixes[stamp]
            return replace(record, T_map_base=T, covariance=covariance)
        return record if record.rejection else replace(record, rejection='fix_lost')

    def _image_of(self, record: Record) -> NDArray[np.uint8] | None:
        if not self.given['bag'] or not self.given['image_topic']:
            return None
        try:
            return image_in_bag(Path(self.given['bag']), self.given['image_topic'],
                                record.stamp_ns)
        except Exception:  # Of a damaged bag, say: a picture less, but a report.
            return None

    def write(self) -> list[str]:
        """Write the report into the folder `output`; return what missed its threshold."""
        out, records = Path(self.given['output']), self.records()
        provenance = {
            'version': __version__, 'command': sys.argv, 'parameters': self.given,
            'database_identity': self.database.identity, 'run': 'live, through ROS topics'}
        images_in = max(len(self.images), len(records))
        summary = write_report(out, records, self.database, self._image_of, provenance, images_in)
        failures = verdict(summary, self.given)
        summary['verdict'] = {'passed': not failures, 'failures': failures}
        write_json(out / 'summary.json', summary)
        with atomic_file(out / 'answers.jsonl') as temporary:
            lines = [json.dumps(self.answers[stamp]) + '\n' for stamp in sorted(self.answers)]
            temporary.write_text(''.join(lines), encoding='utf-8')
        return failures


def record_of(answer: dict[str, Any]) -> Record:
    """
    Return what an answer's JSON says of its image, the fix and the truth left out.

    Its candidates are taken and not those of ~/candidates, of which one may replace another on
    the way. What is no answer raises some exception.
    """
    candidates = answer['candidates']
    return Record(
        stamp_ns=int(answer['stamp_ns']), rejection=answer['rejection'],
        candidates=np.array([c['position_m'] for c in candidates], np.float64).reshape(-1, 3),
        milliseconds={str(stage): float(ms) for stage, ms in answer['milliseconds'].items()},
        places=np.array([c['place'] for c in candidates], np.int64))


def check_images(bag: Path, topic: str) -> None:
    """Raise InputError unless the bag can be opened and the topic, if any, has its images."""
    with BagReader(bag) as reader:
        if topic and reader.topics.get(topic) not in IMAGES:
            images = sorted(name for name, kind in reader.topics.items() if kind in IMAGES)
            raise InputError(f'image_topic is {topic}, of which the bag {bag} has no images: '
                             f'it has those of {", ".join(images) or "none"}')


def image_in_bag(bag: Path, topic: str, stamp_ns: int) -> NDArray[np.uint8] | None:
    """Return the image (H, W, 3) RGB with this stamp in its header; None if there is none."""
    with BagReader(bag) as reader:
        for stored in reader.messages([topic]):
            compressed = stored.type_name.endswith('CompressedImage')
            message = deserialize_message(stored.data, CompressedImage if compressed else Image)
            if stamp_of(message.header) == stamp_ns:
                return compressed_to_rgb(message) if compressed else image_to_rgb(message)
    return None


def verdict(summary: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """Return a sentence for each threshold that the run missed; what is unknown misses it too."""
    coverage, recall = summary['coverage'], summary['recall']
    attempted = coverage['attempted']
    share = coverage['accepted'] / attempted if attempted else None
    at_1 = recall['at']['1']['recall'] if recall else None
    false_accepts = summary['errors']['false_accept_rate']
    failures = []
    if attempted < limits['min_images']:
        failures.append(f'{attempted} images answered, at least {limits["min_images"]} wanted')
    for name, value, low in (('accepted share', share, limits['min_accepted_share']),
                             ('recall at 1', at_1, limits['min_recall_at_1'])):
        if low > 0.0 and (value is None or value < low):
            failures.append(f'{name} is {_figure(value)}, at least {low:g} wanted')
    high = limits['max_false_accept_rate']
    if high < 1.0 and (false_accepts is None or false_accepts > high):
        failures.append(f'false accept rate is {_figure(false_accepts)}, at most {high:g} wanted')
    return failures


def _figure(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.3f}'


def main(args: list[str] | None = None) -> None:
    """Collect until interrupted or idle, then write; exit with 0, 1 (cannot) or 2 (failed)."""
    node: Evaluator | None = None
    code = 0
    try:
        with ros(args) as executor:
            node = Evaluator(executor)
            executor.spin()
        # A second Ctrl-C, or a launch's, must not cut the report in two.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            code = _report(node)
    except InputError as error:
        print(f'evaluator: {error}', file=sys.stderr)
        code = 1
    sys.exit(code)


def _report(node: Evaluator) -> int:
    """Write what was collected, say so, and return the exit code."""
    failures = node.write()
    print(f'evaluator: {len(node.answers)} images, {len(node.fixes)} fixes: '
          f'{node.given["output"]}/summary.json', flush=True)
    for failure in failures:
        print(f'evaluator: failed: {failure}', file=sys.stderr)
    return FAILED if failures else 0


if __name__ == '__main__':
    main()
