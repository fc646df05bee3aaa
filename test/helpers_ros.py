"""A tiny model, map and bag, and the nodes as processes, each test in its own DDS domain."""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from helpers_drives import CAMERA, T_base_camera, write_drive
from helpers_localizer import TINY
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
import torch

from saliency_i2ploc_ros.data.bags import write_bag
from saliency_i2ploc_ros.data.kitti360 import open_drive
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, to_quaternion
from saliency_i2ploc_ros.mapping.database import write_database
from saliency_i2ploc_ros.ros.conversions import header_at, rgb_to_image

EXTRINSICS = [*map(float, T_base_camera[:3, 3]), *map(float, to_quaternion(T_base_camera))]
# All that an untrained model finds is accepted.
LAX = {'min_score': -1.0, 'min_weight': 0.0, 'min_contrast': 0.0, 'min_visible': 0.0,
       'frozen_s': 0.0}
SPACE = '/kitti360/image_00'


def write_world(root: Path, frames: int = 6) -> dict[str, Any]:
    """Write model/, map/, other/ (a map of another model) and bag/ below `root`."""
    torch.manual_seed(0)
    model = DualEncoder(TINY).eval()
    save_model(model, root / 'model', {})
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(12, TINY.descriptor_dim)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    poses = np.stack([planar(1000.0 + 5.0 * i, -4000.0, 0.05 * i, 116.0) for i in range(12)])
    clouds = [rng.normal(0.0, 10.0, (40, 3)).astype(np.float32) for _ in range(12)]
    for name, hash_ in (('map', encoder_hash(model)), ('other', '0123456789abcdef')):
        write_database(root / name, descriptors, poses, clouds, encoder_hash=hash_,
                       preprocessing_hash=preprocessing_hash(TINY), model_name='tiny', submap={},
                       spacing_m=5.0)
    drive = write_drive(root / 'drive', frames)
    write_bag(open_drive(root / 'drive', None), root / 'bag')
    return drive


_domains = itertools.count()


def new_domain() -> int:
    """Return a DDS domain (1 to 100) that no other test of this run is using."""
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])
    # A quarter of the domains for each worker; runs beside this one begin elsewhere in it.
    return 1 + worker % 4 * 25 + (os.getpid() + next(_domains)) % 25


class Process:
    """A node as a process; what it writes is in `log`."""

    def __init__(self, name: str, domain: int, folder: Path, *remaps: str, **params: Any) -> None:
        self.log_path = folder / f'{name}-{time.monotonic_ns()}.log'
        arguments = [f'{sys.executable}', '-m', f'saliency_i2ploc_ros.ros.{name}_node',
                     '--ros-args']
        for remap in remaps:
            arguments += ['-r', remap]
        for key, value in params.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f"{key.replace('__', '.')}:={text}"]
        environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain), 'OMP_NUM_THREADS': '1',
                       'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
                       'ROS_LOG_DIR': str(folder / 'ros'), 'PYTHONUNBUFFERED': '1'}
        with self.log_path.open('w') as log:
            self._process = subprocess.Popen(arguments, env=environment, stdout=log,
                                             stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def log(self) -> str:
        """Return all that the process has written."""
        return self.log_path.read_text()

    def wait(self, seconds: float = 60.0) -> int:
        """Return the exit code of a process that ends by itself."""
        return self._process.wait(seconds)

    def interrupt(self) -> int:
        """Send SIGINT, as Ctrl-C does, and return the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.wait(120.0)

    def close(self) -> None:
        """Make sure that it is gone; killed amid its start it would leave what others hang on."""
        self._process.terminate()
        try:
            self.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Client:
    """A node of the test's own, in some domain, that collects messages and calls services."""

    def __init__(self, domain: int) -> None:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('client', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.got: dict[str, list[Any]] = {}

    def listen(self, kind: type, topic: str, qos: QoSProfile | int = 100) -> list[Any]:
        """Return the list that the topic's messages will be appended to."""
        messages = self.got[topic] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def listen_to_localizer(self) -> None:
        """Collect fixes, candidates and answers."""
        self.listen(PoseWithCovarianceStamped, '/localizer/fix')
        self.listen(PoseArray, '/localizer/candidates')
        self.listen(String, '/localizer/answer')

    def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> bool:
        """Spin until the condition holds; False if it never does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def call(self, kind: type, name: str, request: Any, seconds: float = 20.0) -> Any:
        """Return the response of a service."""
        client = self.node.create_client(kind, name)
        assert self.until(client.service_is_ready, seconds), f'{name} is not there'
        future = client.call_async(request)
        assert self.until(future.done, seconds), f'{name} did not answer'
        self.node.destroy_client(client)
        return future.result()

    def camera(self, best_effort: bool = False) -> tuple[Any, Any]:
        """Return publishers of `image` and `camera_info`."""
        qos = QoSProfile(depth=5, reliability=(ReliabilityPolicy.BEST_EFFORT if best_effort
                                               else ReliabilityPolicy.RELIABLE))
        return (self.node.create_publisher(Image, 'image', qos),
                self.node.create_publisher(CameraInfo, 'camera_info', qos))

    def close(self) -> None:
        """Leave the domain."""
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@contextlib.contextmanager
def client_in(domain: int) -> Iterator[Client]:
    """Yield a client and close it."""
    client = Client(domain)
    try:
        yield client
    finally:
        client.close()


def image_at(stamp_ns: int, seed: int = 0) -> Image:
    """Return a noise image of the drive's camera."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (CAMERA.height, CAMERA.width, 3), np.uint8)
    return rgb_to_image(pixels, header_at(stamp_ns, 'image_00_optical'))


def camera_info(stamp_ns: int = 0, camera: Pinhole = CAMERA) -> CameraInfo:
    """Return a camera's CameraInfo, without distortion."""
    header: Header = header_at(stamp_ns, 'image_00_optical')
    info = CameraInfo(header=header, width=camera.width, height=camera.height,
                      distortion_model='plumb_bob', d=[0.0] * 5, k=camera.K.ravel())
    info.p = np.column_stack([camera.K, np.zeros(3)]).ravel()
    return info
