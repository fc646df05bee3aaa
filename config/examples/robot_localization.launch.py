"""
The localizer, and a map EKF of robot_localization that takes its fixes.

    ros2 launch saliency_i2ploc_ros robot_localization.launch.py database:=/maps/town \
        camera:=/front odometry:=/wheel/odometry

All arguments of localization.launch.py hold here too.
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
    """Return the localizer and the filter."""
    return LaunchDescription([
        DeclareLaunchArgument('namespace', default_value='', description='of both nodes'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=['true', 'false'],
                              description='take the time from /clock, both'),
        DeclareLaunchArgument('ekf_params_file',
                              default_value=str(FOLDER / 'robot_localization.yaml'),
                              description='parameter file of the filter'),
        DeclareLaunchArgument('odometry', default_value='odometry',
                              description='topic of the odometry (nav_msgs/Odometry)'),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(
            str(FOLDER.parents[1] / 'launch' / 'localization.launch.py'))),
        Node(package='robot_localization', executable='ekf_node', name='ekf_map',
             namespace=LaunchConfiguration('namespace'), output='screen',
             parameters=[LaunchConfiguration('ekf_params_file'), {
                 'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'),
                                                value_type=bool)}],
             remappings=[('odometry', LaunchConfiguration('odometry')),
                         ('odometry/filtered', 'odometry/map')]),
    ])
