"""What the benches of the running nodes share: a world, a localizer, a camera, a listener."""

import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np

from saliency_i2ploc_ros.storage import shared_directory

FRAME = 'camera_optical'
MOUNTED = [0.0, 0.0, 1.5, -0.5, 0.5, -0.5, 0.5]  # an optical frame looking ahead
# So that every image gets a fix, and none is spared the way.
LAX = {'min_score': -9.0, 'min_weight': 0.0, 'min_probability': 0.0, 'min_contrast': 0.0,
       'min_visible': 0.0, 'frozen_s': 0.0}


def world(folder, city=None, map_path=None):
    """Return a city and a map of its drive 0000, those given or new ones in `folder`."""
    run = [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main']
    if city is None:
        city = folder / 'city-0007'
        subprocess.run([*run, 'city', str(folder), '--seed', '7', '--length', '200'], check=True)
    if map_path is None:
        map_path = folder / 'map'
        subprocess.run([*run, 'build-map', str(city), '--drive', '0000', '--out', str(map_path)],
                       check=True)
    return city, map_path


def own_domain():
    """Return a DDS domain that another bench beside this one hardly has."""
    return 30 + os.getpid() % 70


def large_images():
    """Let Fast DDS, here and in the processes to come, hold large images in shared memory."""
    path = str(shared_directory('config') / 'fastdds_large_images.xml')
    for name in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        os.environ[name] = path


def environment(domain, folder):
    """Return the environment of a node in a domain of its own."""
    return {**os.environ, 'ROS_DOMAIN_ID': str(domain), 'PYTHONUNBUFFERED': '1',
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_LOG_DIR': str(folder / 'ros')}


class Node:
    """A node of the package as a process, interrupted at the end as by Ctrl-C."""

    def __init__(self, name, domain, folder, parameters, remaps=()):
        arguments = [sys.executable, '-m', f'saliency_i2ploc_ros.ros.{name}_node', '--ros-args']
        for remap in remaps:
            arguments += ['-r', remap]
        for key, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ['-p', f'{key}:={text}']
        self.name, self.log = name, folder / f'{name}.log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(
                arguments, env=environment(domain, folder), stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)

    def memory_mib(self):
        """Return resident memory: all of it, and what is the process's own (no mapped files)."""
        fields = {}
        for line in Path(f'/proc/{self.process.pid}/status').read_text().splitlines():
            key, _, rest = line.partition(':')
            if key in ('VmRSS', 'RssAnon'):
                fields[key] = int(rest.split()[0]) / 1024
        return fields['VmRSS'], fields['RssAnon']

    def end(self, seconds=60.0):
        """Send SIGINT and return the exit code; one that does not end is killed: -9."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def nodes():
    """Yield what makes a `Node`, and leave none of them behind."""
    made = []

    def start(*arguments):
        made.append(Node(*arguments))
        return made[-1]

    try:
        yield start
    finally:
        for node in made:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()


class Listener:
    """Keeps when fixes and answers came; it reads them later, to take little of the processor."""

    def __init__(self, domain):
        from geometry_msgs.msg import PoseWithCovarianceStamped
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node as RosNode
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import String
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        self._context = Context()
        # Ctrl-C is to end the bench, not this context alone.
        rclpy.init(context=self._context, domain_id=domain,
                   signal_handler_options=SignalHandlerOptions.NO)
        self.node = RosNode('listener', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.fixes, self._answers = {}, []
        self.count = 0
        self.node.create_subscription(
            PoseWithCovarianceStamped, '/localizer/fix', self._on_fix, 100)
        self.node.create_subscription(String, '/localizer/answer', self._on_answer, 100)

    def _on_fix(self, message):
        stamp = message.header.stamp
        self.fixes[stamp.sec * 10**9 + stamp.nanosec] = time.time_ns()

    def _on_answer(self, message):
        self.count += 1
        self._answers.append(message.data)

    def spin(self, seconds):
        """Listen for this long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left)

    def until(self, condition, seconds):
        """Listen until the condition holds; tell whether it did in time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.spin(0.1)
        return True

    def answers(self):
        """Return the answers so far, in their order, and forget them."""
        found, self._answers = [json.loads(text) for text in self._answers], []
        return found

    def forget(self):
        """Forget what came so far."""
        self.fixes.clear()
        self._answers.clear()

    def close(self):
        """Leave the domain."""
        import rclpy
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def publish(domain, city, drive, count, size, rate_hz, seconds, ready, begin):
    """
    Publish a drive's first `count` images over and over, stamped when they go out.

    size: (width, height) to which they are enlarged, None: not. ready, begin: multiprocessing
    events: the subscribers are there; start.
    """
    import cv2
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node as RosNode
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header

    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.ros.conversions import rgb_to_image

    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    opened = open_drive(Path(city), drive)
    name, stream = next(iter(opened.cameras.items()))
    camera = stream.camera if size is None else stream.camera.resized(*size)
    header = Header(frame_id=FRAME)
    images = [rgb_to_image(cv2.resize(opened.image(name, i), (camera.width, camera.height)),
                           header)
              for i in range(min(count, len(stream.stamps_ns)))]
    info = CameraInfo(header=header, width=camera.width, height=camera.height,
                      distortion_model='plumb_bob', d=[0.0] * 5, k=camera.K.ravel())
    info.p = np.column_stack([camera.K, np.zeros(3)]).ravel()
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = RosNode('camera', context=context)
    publisher = node.create_publisher(Image, 'image', 2)
    infos = node.create_publisher(CameraInfo, 'camera_info', 2)
    while not (publisher.get_subscription_count() and infos.get_subscription_count()):
        time.sleep(0.05)
    ready.set()
    begin.wait()
    start = time.monotonic()
    for i in range(round(seconds * rate_hz)):
        time.sleep(max(0.0, start + i / rate_hz - time.monotonic()))
        now = time.time_ns()
        message = images[i % len(images)]
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
        info.header.stamp = message.header.stamp
        infos.publish(info)
        publisher.publish(message)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown(context=context)
