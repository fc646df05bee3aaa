"""
Holds what the localizer publishes against ground truth and writes the report.

It sees only topics: a fix that did not arrive is no fix. The figures are made by
`saliency_i2ploc_ros.evaluation`, the same as offline.
"""

from __future__ import annotations

import json
from pathlib import Path
import signal
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
import numpy as np
from numpy.typing import NDArray
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
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

FAILED = 2  # exit code where a threshold is missed


class Evaluator(Node):
    """Collects by stamp: fixes, candidates, answers, true poses, and which images there were."""

    def __init__(self) -> None:
        super().__init__('evaluator')
        parameters.declare(self, parameters.EVALUATOR)
        self.given = parameters.values(self, parameters.EVALUATOR)
        if not self.given['output'] or not self.given['database']:
            raise InputError('the parameters output and database are needed: folders of the '
                             'report and of the place database')
        self.database = PlaceDatabase.open(Path(self.given['database']))
        self.fixes: dict[int, PoseWithCovarianceStamped] = {}
        self.candidates: dict[int, PoseArray] = {}
        self.answers: dict[int, dict[str, Any]] = {}
        self.truth: dict[int, NDArray[np.float64]] = {}
        self.images: set[int] = set()
        self._last_message_at: float | None = None

        heard = [self._listen(PoseWithCovarianceStamped, 'localizer/fix', self._on_fix),
                 self._listen(PoseArray, 'localizer/candidates', self._on_candidates),
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
        # One a frame and small: it tells how many images there were, also those that got lost.
        self._listen(CameraInfo, 'camera_info', self._on_camera_info)
        if self.given['idle_timeout_s'] > 0.0:
            self._timer = self.create_timer(
                0.2, self._check_idle, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_fix(self, message: PoseWithCovarianceStamped) -> None:
        self._last_message_at = time.monotonic()
        self.fixes[stamp_of(message.header)] = message

    def _on_candidates(self, message: PoseArray) -> None:
        self.candidates[stamp_of(message.header)] = message

    def _on_answer(self, message: String) -> None:
        self._last_message_at = time.monotonic()
        answer = json.loads(message.data)
        self.answers[answer['stamp_ns']] = answer

    def _on_truth(self, message: PoseStamped) -> None:
        self._last_message_at = time.monotonic()
        self.truth[stamp_of(message.header)] = message_to_pose(message.pose)

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
        answer, fix = self.answers[stamp], self.fixes.get(stamp)
        poses = self.candidates[stamp].poses if stamp in self.candidates else []
        T, covariance, rejection = None, None, answer['rejection']
        if fix is not None:
            T = message_to_pose(fix.pose.pose)
            covariance = np.asarray(fix.pose.covariance, np.float64).reshape(6, 6)
        elif rejection is None:
            rejection = 'fix_lost'
        return Record(
            stamp_ns=stamp, T_map_base=T, covariance=covariance, rejection=rejection,
            candidates=np.array([message_to_pose(p) for p in poses]).reshape(-1, 4, 4),
            milliseconds=answer['milliseconds'], truth=np.array(truth),
            places=np.array([c['place'] for c in answer['candidates']], np.int64))

    def _image_of(self, record: Record) -> NDArray[np.uint8] | None:
        if not self.given['bag'] or not self.given['image_topic']:
            return None
        with BagReader(Path(self.given['bag'])) as bag:
            for stored in bag.messages([self.given['image_topic']]):
                compressed = stored.type_name.endswith('CompressedImage')
                message = deserialize_message(stored.data,
                                              CompressedImage if compressed else Image)
                if stamp_of(message.header) == record.stamp_ns:
                    return compressed_to_rgb(message) if compressed else image_to_rgb(message)
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
    code = 0
    try:
        rclpy.init(args=args)
        node = Evaluator()
        _spin(node)
        # A second Ctrl-C, or a launch's, must not cut the report in two.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        failures = node.write()
        print(f'evaluator: {len(node.answers)} images, {len(node.fixes)} fixes: '
              f'{node.given["output"]}/summary.json', flush=True)
        for failure in failures:
            print(f'evaluator: failed: {failure}', file=sys.stderr)
            code = FAILED
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except InputError as error:
        print(f'evaluator: {error}', file=sys.stderr)
        code = 1
    finally:
        rclpy.try_shutdown()
    sys.exit(code)


def _spin(node: Evaluator) -> None:
    """Collect until it is over, then leave ROS: what was collected stays."""
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
