"""
The localizer as a lifecycle node: images in, fixes out.

The executor's one thread only keeps the newest images; another thread, always the same, turns
them into an answer. Whatever becomes of an image, `~/answer` and `~/candidates` say so, under the
image's own stamp; `~/fix` speaks only when there is one.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo
import torch

from ..errors import InputError
from ..localization.calibration import identity_of
from . import parameters
from .complaints import Complaints
from .diagnostics import diagnostic_array, ERROR, Health, REFUSALS
from .frames import Extrinsics, rig_extrinsics
from .inference import Inference, sentence
from .inputs import cameras_of_rig, Inputs
from .moments import Moment
from .odometry import odometry_of, OdometryTf, OdometryTopic
from .outputs import Outputs
from .pipeline import Answered
from .prior import Priors
from .running import LifecycleNode, ros
from .services import Services
from .tf_output import TfOutput

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class LocalizerNode(LifecycleNode):
    """
    See the module; what it holds beyond parameters is made in configure, gone in cleanup.

    What it hears is `Inputs` (while it is active), what it says `Outputs` and `TfOutput`, what it
    is asked `Services`; images become answers in `Inference`.
    """

    def __init__(self, executor: Executor) -> None:
        super().__init__('localizer')
        self._inference: Inference | None = None
        executor.add_node(self)
        parameters.declare(self, parameters.LOCALIZER, self._check_change)
        self._health = Health()
        self._complaints = Complaints(self.get_logger())
        self._given: dict[str, Any] = {}
        self._extrinsics: Extrinsics | None = None
        self._outputs: Outputs | None = None
        self._tf: TfOutput | None = None
        self._odometry: OdometryTopic | OdometryTf | None = None
        self._priors: Priors | None = None
        self._inputs: Inputs | None = None
        self._activated_at = 0.0
        self._reporter = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady, so that diagnostics go on while a simulated clock stands.
        self._report_timer = self.create_timer(
            self.get_parameter('diagnostics_period_s').value, self._report,
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=False),
            post_callback=lambda _: self._on_clock_jump())
        self._requests = Services(self, self._health, self._reload)

    # The lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and check model and map, warm up; what is wrong is logged and fails."""
        self._health.state = 'configuring'
        try:
            self._configure(parameters.values(self, parameters.LOCALIZER))
        except Exception as error:
            self._release()
            return self._failed('configuring', error, 'unconfigured')
        self._health.error = ''
        self._health.state = 'inactive'
        return super().on_configure(state)

    def _configure(self, given: dict[str, Any]) -> None:
        if not given['database']:
            raise InputError('the parameter database is empty: give the folder that '
                             '`i2ploc build-map` made')
        cameras = cameras_of_rig(given)
        if given['camera_frame'] and given['cameras']:
            raise InputError('camera_frame is of one camera, and there are several (cameras): '
                             'leave it empty, their images name their frames')
        self._given = given
        self._extrinsics = Extrinsics(self, given['base_frame'],
                                      rig_extrinsics(given['camera_extrinsics'], cameras))
        self._odometry = odometry_of(self, given)
        self._priors = None if given['sequence'] == 'none' or not given['prior_share'] else Priors(
            given['map_frame'])
        self._tf = TfOutput(self, given, self._on_tf_trouble, self._odometry)
        self._health.publish_tf = self._tf.mode
        self._inference = Inference(self, given, cameras, self._health, self._extrinsics.of,
                                    self._time_went_back, self._publish, self._odometry,
                                    self._priors)
        model, health = self._inference.model, self._health
        health.device, health.precision = model.device, model.precision
        health.acceleration, health.notes = model.acceleration, model.notes
        for note in model.notes:
            self.get_logger().warning(note)
        self._outputs = Outputs(self, given, self._complaints)
        self._database_changed(given['database'])

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; what is wrong is logged, and the node stays inactive."""
        result = super().on_activate(state)
        self._start_anew()
        self._health.accepted = self._health.qos_mismatches = 0
        self._health.rejections.clear()
        self._activated_at = time.monotonic()
        try:
            self._extrinsics.listen()
            self._outputs.publish_map()
            self._inputs = Inputs(
                self, self._given, self._health, self._complaints, self._on_moment,
                self._on_camera_info,
                self._on_odometry if isinstance(self._odometry, OdometryTopic) else None,
                None if self._priors is None else self._on_prior)
            self._tf.start()
        except Exception as error:
            self._unsubscribe()
            super().on_deactivate(state)
            return self._failed('activating', error, 'inactive')
        self._health.error = ''
        self._health.state = 'active'
        self.get_logger().info(f'active: listening to {", ".join(self._inputs.image_topics)}')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and finish the image at work."""
        self._unsubscribe()
        self._health.state = 'inactive'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the map."""
        self._release()
        self._health.state = 'unconfigured'
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the process lives on until it is told to end."""
        self._release()
        self._health.state = 'finalized'
        return super().on_shutdown(state)

    def _failed(self, what: str, error: Exception, state: str) -> TransitionCallbackReturn:
        self._health.error = f'{what} failed: {sentence(error)}'
        self._health.state = state
        self.get_logger().error(self._health.error)
        self.get_logger().debug(traceback.format_exc())
        return FAILURE

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
        if self._inference is not None:
            self._inference.finish()
        # After the image at work, which may still become a transform.
        if self._tf is not None:
            self._tf.stop()
        self._inputs = None

    def _release(self) -> None:
        self._unsubscribe()
        for part in (self._inference, self._outputs, self._tf, self._odometry, self._extrinsics):
            if part is not None:
                part.close()
        self._inference = self._outputs = self._tf = None
        self._odometry = self._extrinsics = None
        self._health.database, self._health.notes = {}, ()
        # The map and the model go now, not when Python next looks for circles.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def start(self) -> bool:
        """Configure and activate; tell whether both succeeded."""
        return self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS

    def destroy_node(self) -> None:
        """End the inference thread, then the node."""
        if self._inference is not None:
            self._inference.stop()
        super().destroy_node()

    def _check_change(self, values: dict[str, Any]) -> None:
        if self._inference is not None:
            self._inference.check_change(values)

    # The executor's thread: what arrives.

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        self._inference.calibrate(camera, message)

    def _on_moment(self, moment: Moment) -> None:
        self._health.arrivals.append(time.monotonic())
        if self._health.enabled or self._requests.wants_answers:
            self._inference.offer(moment)

    def _on_odometry(self, message: Any) -> None:
        try:
            self._odometry.add(message)
        except InputError as error:
            self._on_tf_trouble(str(error))

    def _on_prior(self, message: Any) -> None:
        try:
            self._priors.add(message)
        except InputError as error:
            self._complaints.warn('prior', str(error))

    def _on_tf_trouble(self, text: str) -> None:
        self._health.tf_trouble = text
        if text:
            self._complaints.warn('tf', text)

    def _on_clock_jump(self) -> None:
        if self._inputs is not None:
            self._inputs.forget()
        self._time_went_back('the clock', self.get_clock().now().nanoseconds)

    def _time_went_back(self, what: str, now_ns: int | None = None) -> None:
        """Forget all that has a time; called in either thread. now_ns: where the clock is."""
        self.get_logger().warning(f'{what} went back: starting anew')
        self._health.clock_jumps += 1
        self._start_anew(now_ns)

    def _start_anew(self, now_ns: int | None = None) -> None:
        if self._inference is not None:
            self._inference.forget(now_ns)
        for part in (self._tf, self._odometry, self._priors):
            if part is not None:
                part.forget()
        self._health.reset()

    # The inference thread: what becomes of an answer.

    def _publish(self, answered: Answered) -> None:
        answer = answered.answer
        self._complain(answered)
        text = self._outputs.publish(answered, self._inference.config, {
            'received': self._inference.received, 'dropped': self._dropped(),
            'calibration': identity_of(self._inference.calibration)})
        if answer.fix is not None:
            self._tf.take(answer.fix.T_map_base, answered.stamp_ns)
        score = float(answer.candidates.scores[0]) if len(answer.candidates) else float('nan')
        self._health.answered(answer.rejection, score, answer.milliseconds, time.monotonic(),
                              answer.confidence, answer.outside)
        self._health.left_out = {name: why for name, (why, _) in answered.left_out.items()}
        self._requests.answered(text)

    def _complain(self, answered: Answered) -> None:
        answer = answered.answer
        if answer.rejection in REFUSALS:
            say = (self._complaints.error if REFUSALS[answer.rejection] == ERROR
                   else self._complaints.warn)
            say(answer.rejection, f'no fix: {answer.explanation}')
        for name, (why, words) in answered.left_out.items():
            self._complaints.warn(f'{name} {why}', f'answered without {words}')

    def _dropped(self) -> int:
        inputs = self._inputs
        return self._inference.dropped + (0 if inputs is None else inputs.dropped)

    # Another map.

    def _reload(self) -> str:
        """Open the map named by the parameter now; the old one stays if that fails."""
        if self._inference is None:
            raise InputError(f'the node is {self._health.state}: configure it')
        path = self.get_parameter('database').value
        try:
            self._inference.reload(path, lambda: self._database_changed(path))
        except Exception as error:  # Out of a callback it would end the node.
            self.get_logger().debug(traceback.format_exc())
            raise InputError(f'refused, the old database stays: {sentence(error)}') from error
        self._outputs.publish_map()
        return f'{self._health.database["places"]} places of {path}'

    def _database_changed(self, path: str) -> None:
        database = self._inference.database
        self._outputs.show_map(database)
        self._health.database = {
            'path': path, 'identity': database.identity, 'places': len(database.descriptors),
            'dimension': database.descriptors.shape[1], 'spacing_m': float(database.spacing_m)}

    # What the node says about itself.

    def _report(self) -> None:
        health, now = self._health, time.monotonic()
        if self._inference is not None:
            health.received, health.dropped = self._inference.received, self._dropped()
        health.memory_mib = _memory_mib(health.device)
        timeout = self.get_parameter('input_timeout_s').value
        self._reporter.publish(diagnostic_array(
            self.get_fully_qualified_name().lstrip('/'), health, now, timeout,
            self.get_clock().now().to_msg()))
        arrived = health.last_arrival_at()
        last = self._activated_at if arrived is None else arrived
        if self._inputs is not None and now - last > timeout:
            topics = ', '.join(f'{topic} ({self.count_publishers(topic)} publishers)'
                               for topic in self._inputs.image_topics)
            self._complaints.warn('silence', f'no image for {now - last:.0f} s on {topics}')


def _memory_mib(device: str) -> float:
    if device.startswith('cuda'):
        return torch.cuda.memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted; a parameter that is refused ends it with 1."""
    code = 0
    try:
        with ros(args, __doc__) as executor:
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
