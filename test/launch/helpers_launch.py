"""Launch files run as `ros2 launch` runs them, whether or not the package is in an overlay."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Any
import uuid

from ament_index_python.packages import get_package_prefix
from helpers_ros import LAX, write_world
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
import pytest
import yaml

PACKAGE = 'saliency_i2ploc_ros'
TOP = Path(__file__).resolve().parents[2]
LAUNCH = TOP / 'launch'
LONG_S = 180.0  # for what takes seconds on a free computer
NODES = ('localizer', 'replay', 'evaluator')
RUNNER = """
import signal
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
signal.signal(signal.SIGINT, signal.default_int_handler)  # children of `&` begin deaf
service = LaunchService(argv=sys.argv[2:], noninteractive=True)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[word.split(':=', 1) for word in sys.argv[2:]])]))
sys.exit(service.run())
"""


def overlay(folder: Path) -> str:
    """Return an AMENT_PREFIX_PATH that has the package: as it is, or with a prefix made here."""
    try:
        get_package_prefix(PACKAGE)
        return os.environ['AMENT_PREFIX_PATH']
    except Exception:  # Not there, or no path at all, as with ROS from PyPI's wheels.
        pass
    modules = {**{name: f'ros.{name}_node' for name in NODES}, 'i2ploc': 'cli.main'}
    (folder / 'lib' / PACKAGE).mkdir(parents=True)
    for name, module in modules.items():
        script = folder / 'lib' / PACKAGE / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m '
                          f'{PACKAGE}.{module} "$@"\n')
        script.chmod(0o755)
    index = folder / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / PACKAGE).touch()
    return os.pathsep.join(filter(None, [str(folder), os.environ.get('AMENT_PREFIX_PATH')]))


@pytest.fixture(scope='session')
def ament(tmp_path_factory) -> Iterator[None]:
    """Let launch find the package's executables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('AMENT_PREFIX_PATH', overlay(tmp_path_factory.mktemp('prefix')))
        patch.setenv('OMP_NUM_THREADS', '1')
        yield


@pytest.fixture(scope='session')
def world(tmp_path_factory, ament) -> Path:
    """Make model/, map/, other/, bag/, drive/ and a lax.yaml that accepts all fixes."""
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    (root / 'lax.yaml').write_text(yaml.safe_dump(
        {'/**/localizer': {'ros__parameters': {**LAX, 'top_k': 7, 'device': 'cpu'}}}))
    return root


def include(file: str, **arguments: Any) -> IncludeLaunchDescription:
    """Return a launch file of the package as an action."""
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / file)),
                                    launch_arguments=[(k, str(v)) for k, v in arguments.items()])


def in_domain(domain: int, *actions: Any) -> LaunchDescription:
    """Return actions in a DDS domain of their own, on this host."""
    return LaunchDescription([
        SetEnvironmentVariable('ROS_DOMAIN_ID', str(domain)),
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST'), *actions])


class Launch:
    """`ros2 launch` of a file of the package, as a process of its own."""

    def __init__(self, domain: int, folder: Path, file: str, **arguments: Any) -> None:
        self._mark = f'I2PLOC_LAUNCH={uuid.uuid4()}'
        self._log = folder / f'{Path(file).stem}-{time.monotonic_ns()}.log'
        name, value = self._mark.split('=')
        environment = {**os.environ, name: value, 'ROS_DOMAIN_ID': str(domain),
                       'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'PYTHONUNBUFFERED': '1',
                       'ROS_LOG_DIR': str(folder / 'ros'), 'I2PLOC_CACHE': str(folder / 'cache')}
        with self._log.open('w') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-c', RUNNER, str(LAUNCH / file),
                 *(f'{key}:={value}' for key, value in arguments.items())],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def log(self) -> str:
        """Return all that was written by the launch and its processes."""
        return self._log.read_text()

    def wait(self, seconds: float = LONG_S) -> int:
        """Return the exit code of a launch that ends by itself."""
        return self._process.wait(seconds)

    def says(self, expression: str) -> re.Match[str]:
        """Wait until an expression is in the log, and return where."""
        end = time.monotonic() + LONG_S
        while not (found := re.search(expression, self.log)):
            assert time.monotonic() < end and self._process.poll() is None, self.log
            time.sleep(0.05)
        return found

    def ask(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def interrupt(self) -> int:
        """Send SIGINT, as Ctrl-C does, and return the exit code."""
        self.ask()
        return self.wait()

    def processes(self) -> list[int]:
        """Return the ids of all processes that the launch left or has."""
        mark, found = self._mark.encode(), []
        for folder in Path('/proc').iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):  # Gone meanwhile, or another user's.
                    if mark in (folder / 'environ').read_bytes().split(b'\0'):
                        found.append(int(folder.name))
        return found

    def close(self) -> None:
        """Make sure that all of it is gone."""
        for process in self.processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def launched(*positional: Any, **arguments: Any) -> Iterator[Launch]:
    """Yield a Launch and close it."""
    launch = Launch(*positional, **arguments)
    try:
        yield launch
    finally:
        launch.close()
