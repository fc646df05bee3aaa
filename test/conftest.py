"""What pytest leaves out where ROS is not installed, and the ROS libraries that may be missing."""

import gc
from importlib.util import find_spec
from pathlib import Path
import re
import signal

import pytest

NEEDS_ROS = re.compile(
    r'^(import|from) (rclpy|\w+_msgs|helpers_ros|saliency_i2ploc_ros\.ros)\b', re.MULTILINE)
collect_ignore = [] if find_spec('rclpy') else ['launch', *(
    path.name for path in Path(__file__).parent.glob('test_*.py')
    if NEEDS_ROS.search(path.read_text(encoding='utf-8')))]
HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(autouse=True)
def hearing():
    """Undo what a node's end leaves of this process: deaf to signals, with its objects frozen."""
    yield
    for number, handler in HANDLERS.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    gc.unfreeze()


@pytest.fixture(params=['without', 'with'])
def ros_libraries(request, monkeypatch):
    """Run a test without ROS's own libraries of conversion, and with them where they import."""
    from saliency_i2ploc_ros.ros import conversions

    names = ('CV_BRIDGE', 'POINT_CLOUD2', 'TF_TRANSFORMATIONS')
    if request.param == 'without':
        for name in names:
            monkeypatch.setattr(conversions, name, None)
    elif not any(getattr(conversions, name) for name in names):
        pytest.skip('neither cv_bridge nor sensor_msgs_py nor tf_transformations is here')
