"""
The localizer under a lifecycle manager of nav2, which gives amcl its initial pose.

    ros2 launch saliency_i2ploc_ros nav2.launch.py database:=/maps/town camera:=/front

amcl and the rest of nav2 are started by your own bring-up. All arguments of
localization.launch.py hold here too.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

FOLDER = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Return the localizer, not started by itself, and its manager."""
    return LaunchDescription([
        DeclareLaunchArgument('namespace', default_value='', description='of both nodes'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=['true', 'false'],
                              description='take the time from /clock, both'),
        DeclareLaunchArgument('params_file', default_value=str(FOLDER / 'nav2.yaml'),
                              description='parameter file of the localizer and its manager'),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            str(FOLDER.parents[1] / 'launch' / 'localization.launch.py'))),
        Node(package='nav2_lifecycle_manager', executable='lifecycle_manager',
             name='lifecycle_manager_localizer', namespace=LaunchConfiguration('namespace'),
             output='screen',
             parameters=[LaunchConfiguration('params_file'), {
                 'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'),
                                                value_type=bool)}]),
    ])
