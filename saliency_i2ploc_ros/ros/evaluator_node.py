"""
Holds what the localizer publishes against ground truth and writes the report.

It sees only topics: a fix that did not arrive is no fix. The figures are made by
`saliency_i2ploc_ros.evaluation`, the same as offline.
"""

from __future__ import annotations

from dataclasses import replace
import json
import os
from pathlib import Path
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String

from ..data.drive import Trajectory
from ..errors import InputError
from ..evaluation.answers import record_of_json, Spool
from ..evaluation.report import versions, write_report
from ..evaluation.summary import NO_TRUTH, Record
from ..mapping.database import PlaceDatabase
from . import parameters
from .bag_images import check_images, image_in_bag
from .conversions import message_to_pose, stamp_of
from .paths import Paths
from .running import ros, SubscriptionEventCallbacks


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
        self.answers: dict[int, Record] = {}
        self._lines = Spool(Path(self.given['output']))
        self.truth: dict[int, NDArray[np.float64]] = {}
        self.images: set[int] = set()
        self.localizer: dict[str, Any] = {}  # the localizer's parameters
        self.calibrations: set[str] = set()  # by which its answers are calibrated
        self._skipped: set[str] = set()
        self._last_message_at: float | None = None
        self._map_frame = 'map'
        self._paths = Paths(self, self.database)
        self._paths_timer = self.create_timer(
            1.0, lambda: self._paths.publish(
                self.truth, {stamp: T for stamp, (T, _) in self.fixes.items()}, self._map_frame),
            clock=Clock(clock_type=ClockType.STEADY_TIME))

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
        self._ask_for_parameters()
        # One a frame and small: it tells how many images there were, also those that got lost.
        self._listen(CameraInfo, 'camera_info', self._on_camera_info)
        if self.given['idle_timeout_s'] > 0.0:
            self._timer = self.create_timer(
                0.2, self._check_idle, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _ask_for_parameters(self) -> None:
        """Ask the localizer, once it can be, how it is set, for the report."""
        names = [setting.name for setting in parameters.LOCALIZER]
        client = self.create_client(GetParameters, 'localizer/get_parameters')

        def ask() -> None:
            if client.service_is_ready():
                self.destroy_timer(timer)
                client.call_async(GetParameters.Request(names=names)).add_done_callback(keep)

        def keep(future: Any) -> None:
            if future.result() is not None:
                self.localizer = {
                    name: parameter_value_to_python(value) for name, value
                    in zip(names, future.result().values, strict=False)}

        timer = self.create_timer(0.1, ask, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_fix(self, message: PoseWithCovarianceStamped) -> None:
        self._last_message_at = time.monotonic()
        try:
            T = message_to_pose(message.pose.pose)
        except InputError as error:
            self._skip('a fix', error)
            return
        self._map_frame = message.header.frame_id
        covariance = np.asarray(message.pose.covariance, np.float64).reshape(6, 6)
        self.fixes[stamp_of(message.header)] = T, covariance

    def _on_answer(self, message: String) -> None:
        self._last_message_at = time.monotonic()
        try:
            said = json.loads(message.data)
            record = record_of_json(said)
            self.calibrations.add(str(said.get('calibration', 'not said')))
            self._lines[record.stamp_ns] = record.answer
            self.answers[record.stamp_ns] = replace(record, answer='')
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
        record = replace(self.answers[stamp], truth=np.array(truth), answer=self._lines[stamp])
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

    def write(self) -> dict[str, Any]:
        """Write the report into the folder `output`; return its verdict."""
        records = self.records()
        provenance = {
            **versions(), 'run': 'live, through ROS topics', 'drive': self.given['bag'],
            'ros': {name: os.environ.get(name, '') for name in ('ROS_DISTRO', 'ROS_VERSION')},
            'model_hash': self.database.schema.encoder_hash,  # the node refuses any other
            'database_identity': self.database.identity, 'map': self.given['database'],
            'calibration': ', '.join(sorted(self.calibrations)),
            'parameters': self.given, 'localizer': self.localizer}
        images_in = max(len(self.images), len(records))
        path_xy = [self.truth[stamp][:2, 3] for stamp in sorted(self.truth)]
        where = self.database.schema.source or self.database.path.name
        title = f'Live fixes in the map of {where}'
        summary = write_report(
            Path(self.given['output']), records, self.database, self._image_of, provenance,
            images_in, title, self.given,
            np.array(path_xy).reshape(-1, 2) if path_xy else None)
        return summary['verdict']


def main(args: list[str] | None = None) -> None:
    """Collect until interrupted or idle, then write; exit with 0, 1 (cannot) or 2 (failed)."""
    node: Evaluator | None = None
    code = 0
    try:
        with ros(args, __doc__) as executor:
            node = Evaluator(executor)
            executor.spin()
        if node is not None:
            code = _report(node)
    except InputError as error:
        print(f'evaluator: {error}', file=sys.stderr)
        code = 1
    sys.exit(code)


def _report(node: Evaluator) -> int:
    """Write what was collected, say so, and return the exit code."""
    verdict = node.write()
    print(f'evaluator: {len(node.answers)} images, {len(node.fixes)} fixes: '
          f'{node.given["output"]}/summary.json', flush=True)
    for failure in verdict['failures']:
        print(f'evaluator: failed: {failure}', file=sys.stderr)
    return verdict['exit_code']


if __name__ == '__main__':
    main()
