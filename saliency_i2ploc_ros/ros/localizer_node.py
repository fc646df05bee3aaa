"""
The localizer as a lifecycle node: images in, fixes out.

The executor's one thread only keeps the newest image; another thread, always the same, turns it
into an answer. Whatever becomes of an image, `~/answer` and `~/candidates` say so, under the
image's own stamp; `~/fix` speaks only when there is one.
"""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import resource
import sys
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
import torch
from visualization_msgs.msg import MarkerArray

from ..encoders.files import preprocessing_hash
from ..errors import InputError
from ..export.runtime import best_device
from ..geometry.poses import R_base_optical, transform
from ..localization.fix import Answer
from ..localization.localizer import Localizer, open_localizer
from ..mapping.database import PlaceDatabase
from ..storage import shared_directory
from . import conversions, display, parameters
from .diagnostics import diagnostic_array, FAILURES, Health
from .frames import Extrinsics, extrinsics_of, send_static_transform
from .newest import NewestWorker
from .pipeline import Pipeline, rejection
from .running import ros, SubscriptionEventCallbacks

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
RELIABLE = ReliabilityPolicy.RELIABLE
SENSOR_DATA = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
QUIET_S = 5.0  # between two messages of the same kind in the log


class LocalizerNode(LifecycleNode):
    """See the module; what it holds beyond parameters is made in configure, gone in cleanup."""

    def __init__(self, executor: Executor) -> None:
        super().__init__('localizer')
        self._worker: NewestWorker | None = None
        executor.add_node(self)
        parameters.declare(self, parameters.LOCALIZER)
        self._health = Health()
        self._pipeline: Pipeline | None = None
        self._broadcaster: Any = None
        self._inputs: list[Any] = []
        self._outputs: dict[str, Any] = {}
        self._requests: list[Future] = []
        self._answered: list[str] = []
        self._activated_at = 0.0
        self._reporter = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady, so that diagnostics go on while a simulated clock stands.
        self._report_timer = self.create_timer(
            self.get_parameter('diagnostics_period_s').value, self._report,
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=False),
            post_callback=lambda _: self._time_went_back('the clock'))
        self._answer_ready = self.create_guard_condition(self._resolve_requests)
        # It waits for an image, and a group of its own lets the image in meanwhile.
        self.create_service(Trigger, '~/localize', self._on_localize,
                            callback_group=ReentrantCallbackGroup())
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/reload_database', self._on_reload)

    # The lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and check model and map, warm up; what is wrong is logged and fails."""
        self._set_state('configuring')
        try:
            self._configure(parameters.values(self, parameters.LOCALIZER))
        except Exception as error:
            self._release()
            reason = _sentence(error)
            self._health.error = f'configuring failed: {reason}'
            self._set_state('unconfigured')
            self.get_logger().error(self._health.error)
            self.get_logger().debug(traceback.format_exc())
            return FAILURE
        self._health.error = ''
        self._set_state('inactive')
        return super().on_configure(state)

    def _configure(self, given: dict[str, Any]) -> None:
        if not given['database']:
            raise InputError('the parameter database is empty: give the folder that '
                             '`i2ploc build-map` made')
        self._given = given
        self._extrinsics = Extrinsics(self, given['base_frame'],
                                      extrinsics_of(given['camera_extrinsics']))
        self._worker = NewestWorker(self._work)
        device, runtime = given['device'], given['runtime']
        if device == 'auto':
            device = best_device(runtime)
        model = Path(given['model'] or shared_directory('models') / 'city')

        def load() -> Localizer:
            if given['threads']:
                torch.set_num_threads(given['threads'])
            found = open_localizer(model, Path(given['database']),
                                   parameters.localizer_config(given), device, runtime)
            _warm_up(found)
            return found

        # In the inference thread, as all that touches the model.
        self._pipeline = Pipeline(self._worker.call(load), self._extrinsics.of,
                                  given['camera_frame'], given['image_is_rectified'],
                                  self._time_went_back)
        self._health.device = device
        self._database_changed(given['database'])
        self._create_publishers()

    def _create_publishers(self) -> None:
        def publisher(kind: type, name: str, qos: QoSProfile) -> None:
            self._outputs[name] = self.create_lifecycle_publisher(
                kind, name, qos,
                qos_overriding_options=QoSOverridingOptions.with_default_policies())

        publisher(PoseWithCovarianceStamped, '~/fix', QoSProfile(depth=10, reliability=RELIABLE))
        publisher(PoseArray, '~/candidates', QoSProfile(depth=1, reliability=RELIABLE))
        publisher(String, '~/answer', QoSProfile(depth=100, reliability=RELIABLE))
        publisher(MarkerArray, '~/markers', QoSProfile(depth=1, reliability=RELIABLE))
        publisher(PointCloud2, '~/retrieved_submap', LATCHED)
        publisher(PointCloud2, '~/map', LATCHED)
        if self._given['publish_initialpose']:
            publisher(PoseWithCovarianceStamped, 'initialpose',
                      QoSProfile(depth=1, reliability=RELIABLE))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        result = super().on_activate(state)
        self._start_anew()
        self._health.accepted = 0
        self._health.rejections.clear()
        self._activated_at = time.monotonic()
        self._extrinsics.listen()
        self._publish_map()
        # As image_transport, which Python has not: the base topic, remapped, and a suffix.
        compressed = self._given['image_transport'] == 'compressed'
        topic = self.resolve_topic_name('image') + ('/compressed' if compressed else '')
        self._image_type = CompressedImage if compressed else Image
        self._subscribe(CameraInfo, 'camera_info', self._on_camera_info)
        self._subscribe(self._image_type, topic, self._on_image, raw=True)
        self._set_state('active')
        self.get_logger().info(f'active: listening to {self._inputs[-1].topic_name}')
        return result

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None],
                   raw: bool = False) -> None:
        self._inputs.append(self.create_subscription(
            kind, topic, callback, SENSOR_DATA, raw=raw,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_bad_qos),
            qos_overriding_options=QoSOverridingOptions.with_default_policies()))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and finish the image at work."""
        self._unsubscribe()
        self._set_state('inactive')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the map."""
        self._release()
        self._set_state('unconfigured')
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the process lives on until it is told to end."""
        self._release()
        self._set_state('finalized')
        return super().on_shutdown(state)

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs.clear()
        if self._worker is not None:
            self._worker.clear()
        if self._pipeline is not None:
            self._pipeline.camera_info = None

    def _release(self) -> None:
        self._unsubscribe()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        if self._worker is not None:
            self._worker.close()
            self._extrinsics.close()
        self._worker = self._pipeline = None
        self._health.database = {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def start(self) -> bool:
        """Configure and activate; tell whether both succeeded."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    def destroy_node(self) -> None:
        """End the inference thread, then the node."""
        if self._worker is not None:
            self._worker.close()
        super().destroy_node()

    def _set_state(self, label: str) -> None:
        self._health.state = label

    # The executor's thread: what arrives.

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._pipeline.camera_info = message

    def _on_image(self, data: bytes) -> None:
        self._health.arrivals.append(time.monotonic())
        if self._health.enabled or self._requests:
            self._worker.offer((data, self.get_clock().now().nanoseconds))

    def _on_bad_qos(self, event: Any) -> None:
        self._health.qos_mismatches += event.total_count_change
        self.get_logger().warning(
            'a publisher offers a QoS that does not fit: its messages do not arrive; '
            'see the parameters qos_overrides', throttle_duration_sec=QUIET_S)

    def _time_went_back(self, what: str) -> None:
        """Forget all that has a time."""
        self.get_logger().warning(f'{what} went back: starting anew')
        self._health.clock_jumps += 1
        self._start_anew()

    def _start_anew(self) -> None:
        if self._pipeline is not None:
            self._pipeline.last_stamp_ns = None
        self._health.reset()

    # The inference thread: from an image to messages.

    def _work(self, item: tuple[bytes, int]) -> None:
        data, arrived_ns = item
        try:
            message = deserialize_message(data, self._image_type)
            stamp_ns = conversions.stamp_of(message.header)
            try:
                answer = self._with_present_config().answer(message)
            except Exception as error:  # A defect must not end the thread: the next image counts.
                self.get_logger().debug(traceback.format_exc())
                answer = rejection('failed', _sentence(error))
            self._health.encoding = getattr(message, 'encoding', None) or message.format
            self._health.stamp_delay_s = (arrived_ns - stamp_ns) * 1e-9
            self._publish(answer, stamp_ns)
        except Exception as error:
            if self.context.ok():  # else the node is being shut down under this thread
                self.get_logger().error(f'an image was lost: {_sentence(error)}')

    def _with_present_config(self) -> Pipeline:
        """Return the pipeline, with the parameters that take effect at once."""
        localizer = self._pipeline.localizer
        config = parameters.localizer_config(
            {s.name: self.get_parameter(s.name).value for s in parameters.LOCALIZER})
        if config != localizer.config:
            self._pipeline.localizer = Localizer(localizer.model, localizer.database, config)
        return self._pipeline

    def _publish(self, answer: Answer, stamp_ns: int) -> None:
        frame, out = self._given['map_frame'], self._outputs
        header = conversions.header_at(stamp_ns, frame)
        if answer.fix is not None:
            out['~/fix'].publish(conversions.fix_to_message(answer.fix, stamp_ns, frame))
            if 'initialpose' in out:
                out['initialpose'].publish(
                    conversions.fix_to_initialpose(answer.fix, stamp_ns, frame))
        out['~/candidates'].publish(display.candidates_message(answer, header))
        if out['~/markers'].get_subscription_count():
            out['~/markers'].publish(display.markers_message(answer, header))
        if len(answer.candidates) and out['~/retrieved_submap'].get_subscription_count():
            out['~/retrieved_submap'].publish(
                self._display.submap(int(answer.candidates.indices[0]), stamp_ns))
        score = float(answer.candidates.scores[0]) if len(answer.candidates) else float('nan')
        self._health.answered(answer.rejection, score, answer.milliseconds, time.monotonic())
        if answer.rejection in FAILURES:
            self.get_logger().error(f'no fix: {answer.explanation}', throttle_duration_sec=QUIET_S)
        text = json.dumps({'stamp_ns': stamp_ns, 'received': self._worker.received,
                           'dropped': self._worker.dropped, **answer.as_dict()})
        out['~/answer'].publish(String(data=text))
        self._answered.append(text)
        self._answer_ready.trigger()

    # Services.

    async def _on_localize(self, _: Trigger.Request, response: Trigger.Response,
                           ) -> Trigger.Response:
        """Answer with the next image's answer, as JSON."""
        if self._health.state != 'active':
            response.message = f'the node is {self._health.state}: activate it'
            return response
        answered = Future()
        self._requests.append(answered)
        timer = self.create_timer(
            self.get_parameter('localize_timeout_s').value, lambda: answered.set_result(None),
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        text = await answered
        self.destroy_timer(timer)
        self._requests = [other for other in self._requests if other is not answered]
        response.success = text is not None and json.loads(text)['accepted']
        response.message = text or 'no image came in time'
        return response

    def _resolve_requests(self) -> None:
        while self._answered:
            text = self._answered.pop(0)
            waiting, self._requests = self._requests, []
            for request in waiting:
                if not request.done():
                    request.set_result(text)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response,
                   ) -> SetBool.Response:
        self._health.enabled = request.data
        response.success = True
        response.message = 'images are answered' if request.data else 'images are ignored'
        return response

    def _on_reload(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Open the map named by the parameter now; the old one stays if that fails."""
        if self._pipeline is None:
            response.message = f'the node is {self._health.state}: configure it'
            return response
        path = self.get_parameter('database').value
        model = self._pipeline.localizer.model

        def swap() -> None:
            database = PlaceDatabase.open(Path(path), model_hash=model.encoder_hash,
                                          preprocessing_hash=preprocessing_hash(model.config))
            self._pipeline.localizer = Localizer(
                model, database, self._pipeline.localizer.config)
            self._database_changed(path)

        try:
            self._worker.call(swap)
        except Exception as error:  # Out of a callback it would end the node.
            response.message = f'refused, the old database stays: {_sentence(error)}'
            self.get_logger().error(response.message)
            self.get_logger().debug(traceback.format_exc())
            return response
        self._publish_map()
        response.success = True
        response.message = f'{self._health.database["places"]} places of {path}'
        return response

    def _database_changed(self, path: str) -> None:
        database = self._pipeline.localizer.database
        self._display = display.MapDisplay(database, self._given['map_frame'])
        self._health.database = {
            'path': path, 'identity': database.identity, 'places': len(database.descriptors),
            'dimension': database.descriptors.shape[1], 'spacing_m': float(database.spacing_m)}

    def _publish_map(self) -> None:
        if self._given['map_points']:
            if self._display.frame != self._given['map_frame']:
                self._broadcaster = send_static_transform(
                    self, self._given['map_frame'], self._display.frame, self._display.origin,
                    self._broadcaster)
            now = self.get_clock().now().nanoseconds
            self._outputs['~/map'].publish(
                self._display.whole_map(self._given['map_points'], now))

    # What the node says about itself.

    def _report(self) -> None:
        health, now = self._health, time.monotonic()
        if self._worker is not None:
            health.received, health.dropped = self._worker.received, self._worker.dropped
        health.memory_mib = _memory_mib(health.device)
        timeout = self.get_parameter('input_timeout_s').value
        self._reporter.publish(diagnostic_array(
            self.get_fully_qualified_name().lstrip('/'), health, now, timeout,
            self.get_clock().now().to_msg()))
        arrived = health.last_arrival_at()
        last = self._activated_at if arrived is None else arrived
        if health.state == 'active' and now - last > timeout:
            topic = self._inputs[-1].topic_name
            self.get_logger().warning(
                f'no image on {topic} for {now - last:.0f} s '
                f'({self.count_publishers(topic)} publishers)', throttle_duration_sec=QUIET_S)


def _warm_up(localizer: Localizer) -> None:
    """Answer noise once: the first image of a drive must not pay for what is set up lazily."""
    config = localizer.model.config.image
    noise = np.random.default_rng(0).integers(0, 256, (config.height, config.width, 3), np.uint8)
    localizer.localize(noise, config.camera, transform(R_base_optical))


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'


def _memory_mib(device: str) -> float:
    if device == 'cuda':
        return torch.cuda.memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted; a parameter that is refused ends it with 1."""
    code = 0
    try:
        with ros(args) as executor:
            node = LocalizerNode(executor)
            started = not node.get_parameter('autostart').value or node.start()
            if started or not node.get_parameter('exit_on_failure').value:
                executor.spin()
            else:
                code = 1  # why is in the log
    except InputError as error:
        print(f'localizer: {error}', file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == '__main__':
    main()
