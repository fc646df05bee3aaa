"""An active localizer as a process, and a client with a camera beside it."""

from collections.abc import Callable
import json
import os
from pathlib import Path
from typing import Any

from helpers_drives import START_NS
from helpers_ros import camera_info, Client, EXTRINSICS, image_at, LAX, Process
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from saliency_i2ploc_ros.ros.conversions import stamp_of
from saliency_i2ploc_ros.ros.localizer_node import LocalizerNode
from saliency_i2ploc_ros.ros.parameters import LOCALIZER
from saliency_i2ploc_ros.ros.settings import AT_CONFIGURE


def localizer_of(root: Path, domain: int, *remaps: str, **params: Any) -> Process:
    """Start the localizer on model/ and map/ below `root` (see `write_world`)."""
    params = {'model': root / 'model', 'database': root / 'map',
              'camera_extrinsics': EXTRINSICS, 'diagnostics_period_s': 0.2, **LAX, **params}
    return Process('localizer', domain, root, *remaps, **params)


class Running:
    """An active localizer and a client with a camera, for the tests that can share them."""

    def __init__(self, root: Path, client: Client, process: Process) -> None:
        self.root, self.client, self.process = root, client, process
        client.listen_to_localizer()
        self.fixes, self.candidates, self.answers = (
            client.got[f'/localizer/{name}'] for name in ('fix', 'candidates', 'answer'))
        self.image, self.info = client.camera()
        assert client.until(lambda: self.image.get_subscription_count(), 60), process.log
        self.stamp_ns = START_NS
        assert client.until(self.is_calibrated), process.log
        self.forget()

    def is_calibrated(self) -> bool:
        """Publish a CameraInfo and an image, and tell whether that gave a fix."""
        self.info.publish(camera_info())
        self.client.until(lambda: False, 0.1)
        self.send()
        return self.client.until(lambda: self.fixes, 0.5)

    def localize(self) -> Trigger.Response:
        """Publish an image and return what came of it, by the service."""
        client = self.client.node.create_client(Trigger, '/localizer/localize')
        assert self.client.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.client.until(lambda: False, 0.1)  # the request first, then the image
        self.send()
        assert self.client.until(future.done, 10)
        self.client.node.destroy_client(client)
        return future.result()

    def send(self, image: Any = None) -> int:
        """Publish an image, a millisecond after the last one; return its stamp."""
        self.stamp_ns += 1_000_001
        image = image or image_at(self.stamp_ns, seed=self.stamp_ns % 1000)
        self.image.publish(image)
        return stamp_of(image.header)

    def answer(self, stamp_ns: int) -> dict[str, Any]:
        """Wait for the answer to an image."""
        found: list[dict[str, Any]] = []
        assert self.client.until(lambda: found or found.extend(
            a for a in (json.loads(m.data) for m in self.answers)
            if a['stamp_ns'] == stamp_ns)), self.process.log
        return found[0]

    def set(self, **values: Any) -> list[Any]:
        """Set parameters of the running node."""
        kinds = {bool: ('bool_value', ParameterType.PARAMETER_BOOL),
                 int: ('integer_value', ParameterType.PARAMETER_INTEGER),
                 float: ('double_value', ParameterType.PARAMETER_DOUBLE),
                 str: ('string_value', ParameterType.PARAMETER_STRING)}
        request = SetParameters.Request()
        for name, value in values.items():
            field, kind = kinds[type(value)]
            request.parameters.append(Parameter(
                name=name, value=ParameterValue(type=kind, **{field: value})))
        return self.client.call(SetParameters, '/localizer/set_parameters', request).results

    def forget(self) -> None:
        """Drop what was heard so far."""
        self.client.until(lambda: False, 0.2)
        for heard in (self.fixes, self.candidates, self.answers):
            heard.clear()


class Inside:
    """A localizer in the test's own process, where a test can look into it."""

    def __init__(self, root: Path, domain: int, *arguments: str) -> None:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        self._is_first = not rclpy.ok()
        if self._is_first:
            rclpy.init(args=['--ros-args', *arguments], domain_id=domain)
        self.root = root
        self._executor = SingleThreadedExecutor()
        self.node = LocalizerNode(self._executor)

    def set(self, **values: Any) -> None:
        """Set parameters, those of `localizer_of` where nothing else is given."""
        defaults = {s.name: s.default for s in LOCALIZER if s.takes_effect == AT_CONFIGURE}
        values = {**defaults, 'model': str(self.root / 'model'),
                  'database': str(self.root / 'map'), 'camera_extrinsics': EXTRINSICS, **LAX,
                  **values}
        for result in self.node.set_parameters([
                rclpy.Parameter(name, value=value) for name, value in values.items()]):
            assert result.successful, result.reason

    def down(self) -> None:
        """Bring the node back to where it began, from wherever it is."""
        for state, transition in (('active', 'deactivate'), ('inactive', 'cleanup')):
            if self.node._health.state == state:
                getattr(self.node, f'trigger_{transition}')()

    def until(self, client: Client, condition: Callable[[], Any], seconds: float = 20.0) -> bool:
        """Spin the node and the client until the condition holds."""
        def turned() -> Any:
            self._executor.spin_once(timeout_sec=0.005)
            return condition()
        return client.until(turned, seconds)

    def close(self) -> None:
        """End the node, and ROS if it was begun for it."""
        self._executor.shutdown()
        self.node.destroy_node()
        if self._is_first:
            rclpy.shutdown()
