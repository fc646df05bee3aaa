"""
Bring up the localizer, or with `namespace:=car` one in a namespace.

    ros2 launch saliency_i2ploc_ros localization.launch.py database:=/maps/town camera:=/front

Only what is given on the command line goes above the parameter file. A launch file of yours may
include this one, in a group with PushRosNamespace and SetRemap if you like.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace
import yaml

CONFIG = Path(__file__).resolve().parents[1] / 'config'
BOOLEAN = ['', 'true', 'false']

# Arguments that are parameters of the node; empty: as the parameter file says.
PARAMETERS = [
    ('database', 'folder of the place database (i2ploc build-map)', None),
    ('model', 'folder of the model; the shipped one if the file says nothing either', None),
    ('runtime', 'what runs the model', ['', 'torch', 'pt2', 'onnx']),
    ('device', 'where the model runs', ['', 'auto', 'cpu', 'cuda']),
    ('precision', 'of the matrix products', ['', 'auto', 'fp32', 'fp16', 'bf16']),
    ('acceleration', 'of the model', ['', 'none', 'compile', 'graph']),
    ('cameras', 'several cameras in place of `camera`: [/left, /right]', None),
    ('image_transport', 'raw or compressed images', ['', 'raw', 'compressed']),
    ('image_is_rectified', 'whether the images are rectified', BOOLEAN),
    ('camera_extrinsics', 'camera in base_frame, [x, y, z, qx, qy, qz, qw]; else from TF', None),
    ('map_frame', 'frame of the fixes', None),
    ('base_frame', 'frame of the vehicle', None),
    ('publish_tf', 'what fixes become on /tf', ['', 'none', 'map_to_odom', 'map_to_base']),
    ('odom_frame', 'frame of the odometry, for publish_tf:=map_to_odom', None),
    ('publish_initialpose', 'each fix on initialpose too, for nav2', BOOLEAN),
    ('autostart', 'configure and activate without a lifecycle manager', BOOLEAN),
    ('exit_on_failure', 'end with 1 where autostart fails', BOOLEAN),
    ('use_sim_time', 'take the time from /clock', BOOLEAN),
]
TEXTS = ('database', 'model', 'map_frame', 'base_frame', 'odom_frame')


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the node, and RViz if asked for."""
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=text,
                              **({'choices': choices} if choices else {}))
        for name, text, choices in PARAMETERS]
    return LaunchDescription([
        *arguments,
        DeclareLaunchArgument('params_file', default_value=str(CONFIG / 'localizer.yaml'),
                              description='parameter file of the node'),
        DeclareLaunchArgument('camera', default_value='camera',
                              description='namespace of the camera, above image and camera_info'),
        DeclareLaunchArgument('image', default_value='image_rect',
                              description='name of the image topic below `camera` or `cameras`'),
        DeclareLaunchArgument('reliable_images', default_value='false', choices=['true', 'false'],
                              description='ask for images again that got lost; for bags, and for '
                              'large images of a publisher that is reliable'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the node'),
        DeclareLaunchArgument('rviz', default_value='false', choices=['true', 'false'],
                              description='show it in RViz'),
        DeclareLaunchArgument('rviz_config', default_value=str(CONFIG / 'i2ploc.rviz'),
                              description='what RViz shows'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error'],
                              description='what the node logs'),
        OpaqueFunction(function=make_nodes),
    ])


def make_nodes(context: LaunchContext) -> list:
    """Return the node, with the arguments that were given above the parameter file, and RViz."""
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given = {name: parameter(name, value(name)) for name, _, _ in PARAMETERS if value(name)}
    outer = context.launch_configurations.get('ros_namespace') or ''  # of PushRosNamespace
    namespace = make_namespace_absolute(prefix_namespace(outer, value('namespace')) or '/')
    topics = {'image': f'{value("camera").rstrip("/")}/{value("image")}',
              'camera_info': f'{value("camera").rstrip("/")}/camera_info'}
    several = given.get('cameras')
    several = several if isinstance(several, list) else []  # else the node says what is wrong
    topics.update({f'{name}/image': f'{name}/{value("image")}' for name in several})
    # Those of SetRemap around this file go first, as they do in launch_ros.
    topics.update(context.launch_configurations.get('ros_remaps') or [])
    if value('reliable_images') == 'true':
        # QoS overrides go by the topic's whole name.
        wanted = [f'{name}/image' for name in several] or ['image']
        for topic in (topics[name] for name in wanted):
            whole = topic if topic.startswith('/') else f'{namespace.rstrip("/")}/{topic}'
            for name in (whole, f'{whole}/compressed'):
                given[f'qos_overrides.{name}.subscription.reliability'] = 'reliable'
    # As ROS names the logger of a node.
    logger = '.'.join(part for part in (*namespace.split('/'), 'localizer') if part)
    nodes = [LifecycleNode(
        package='saliency_i2ploc_ros', executable='localizer', name='localizer',
        namespace=value('namespace'), output='screen', parameters=[value('params_file'), given],
        remappings=list(topics.items()),
        arguments=['--ros-args', '--log-level', f'{logger}:={value("log_level")}'],
        # On a busy computer it takes its time to free a model.
        sigterm_timeout='30',
    )]
    if value('rviz') == 'true':
        nodes.append(Node(
            package='rviz2', executable='rviz2', name='rviz', namespace=value('namespace'),
            arguments=['-d', value('rviz_config')],
            parameters=[{'use_sim_time': value('use_sim_time') == 'true'}],
            remappings=[('camera/image_rect', topics['image'])]))
    return nodes


def parameter(name: str, text: str) -> object:
    """Return an argument as the value of a parameter."""
    if name in TEXTS:
        # launch_ros would take a folder that is called 2024 for a number.
        return ParameterValue(text, value_type=str)
    found = yaml.safe_load(text)
    if isinstance(found, list) and all(isinstance(item, (int, float)) for item in found):
        return [float(item) for item in found]  # a list of ROS has items of one type
    return found
