"""What pytest leaves out where ROS is not installed: all that needs rclpy."""

from importlib.util import find_spec

collect_ignore = [] if find_spec('rclpy') else [
    'test_conversions.py', 'test_parameters.py', 'test_nodes.py', 'test_real_drive.py', 'launch']
