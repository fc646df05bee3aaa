"""Global localization of a camera image in a LiDAR map, for ROS 2 and without it."""

__version__ = '0.1.0'
