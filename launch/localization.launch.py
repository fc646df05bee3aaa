"""
Bring up the localizer, or with `namespace:=car` one in a namespace.

    ros2 launch saliency_i2ploc_ros localization.launch.py database:=/maps/town camera:=/front

Only what is given on the command line goes above the parameter file.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
import yaml

CONFIG = Path(__file__).resolve().parents[1] / 'config' / 'localizer.yaml'
BOOLEAN = ['', 'true', 'false']

# Arguments that are parameters of the node; empty: as the parameter file says.
PARAMETERS = [
    ('database', 'folder of the place database (i2ploc build-map)', None),
    ('model', 'folder of the model; the shipped one if the file says nothing either', None),
    ('device', 'where the model runs', ['', 'auto', 'cpu', 'cuda']),
    ('image_transport', 'raw or compressed images', ['', 'raw', 'compressed']),
    ('image_is_rectified', 'whether the images are rectified', BOOLEAN),
    ('camera_extrinsics', 'camera in base_link, [x, y, z, qx, qy, qz, qw]; else from TF', None),
    ('publish_initialpose', 'each fix on initialpose too, for nav2', BOOLEAN),
    ('autostart', 'configure and activate without a lifecycle manager', BOOLEAN),
    ('exit_on_failure', 'end with 1 where autostart fails', BOOLEAN),
]


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the node."""
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=text,
                              **({'choices': choices} if choices else {}))
        for name, text, choices in PARAMETERS]
    return LaunchDescription([
        *arguments,
        DeclareLaunchArgument('params_file', default_value=str(CONFIG),
                              description='parameter file of the node'),
        DeclareLaunchArgument('camera', default_value='camera',
                              description='namespace of the camera, above image and camera_info'),
        DeclareLaunchArgument('image', default_value='image_rect',
                              description='name of the image topic below `camera`'),
        DeclareLaunchArgument('reliable_images', default_value='false', choices=['true', 'false'],
                              description='ask for images again that got lost; for bags, and for '
                              'large images of a publisher that is reliable'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=['true', 'false'],
                              description='take the time from /clock'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error'],
                              description='what the node logs'),
        OpaqueFunction(function=make_node),
    ])


def make_node(context) -> list:
    """Return the node, with the arguments that were given above the parameter file."""
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    # A path stays text, even one that yaml would take for a number.
    given = {name: value(name) if name in ('database', 'model') else yaml.safe_load(value(name))
             for name, _, _ in PARAMETERS if value(name)}
    camera = value('camera').rstrip('/')
    if value('reliable_images') == 'true':
        # QoS overrides go by the topic's whole name.
        prefix = '' if camera.startswith('/') else f'/{value("namespace")}/'.replace('//', '/')
        topic = f'{prefix}{camera}/{value("image")}'
        for name in (topic, f'{topic}/compressed'):
            given[f'qos_overrides.{name}.subscription.reliability'] = 'reliable'
    # As ROS names the logger of a node.
    logger = '.'.join(part for part in (*value('namespace').split('/'), 'localizer') if part)
    return [LifecycleNode(
        package='saliency_i2ploc_ros', executable='localizer', name='localizer',
        namespace=value('namespace'), output='screen',
        parameters=[value('params_file'), given,
                    {'use_sim_time': value('use_sim_time') == 'true'}],
        remappings=[('image', f'{camera}/{value("image")}'),
                    ('camera_info', f'{camera}/camera_info')],
        arguments=['--ros-args', '--log-level', f'{logger}:={value("log_level")}'],
    )]
