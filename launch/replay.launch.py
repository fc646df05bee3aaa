"""
Replay a bag or a drive through the localizer and hold its fixes against ground truth.

    ros2 launch saliency_i2ploc_ros replay.launch.py bag:=... database:=... output:=...
    ros2 launch saliency_i2ploc_ros replay.launch.py root:=/data/kitti360 drive:=0002 ...

A drive becomes a bag in the cache first. Ends with the bag; the exit code is not 0 where a node
failed or a threshold was missed. All arguments of localization.launch.py hold here too.
"""

from pathlib import Path
import signal

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action, Shutdown
from launch.events.process import SignalProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage
import yaml

PACKAGE = 'saliency_i2ploc_ros'
FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parent / 'config'
FAR = '1e9'
INTERRUPTED = -signal.SIGINT, 130  # exit codes of Python and of a node that Ctrl-C cut short


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and what makes the nodes."""
    return LaunchDescription([
        DeclareLaunchArgument('bag', default_value='', description='rosbag2 folder (MCAP or '
                              'sqlite3); or give root and drive'),
        DeclareLaunchArgument('root', default_value='', description='root of a KITTI-360, KITTI '
                              'raw or KITTI odometry data set, or of a city'),
        DeclareLaunchArgument('drive', default_value='', description='drive or sequence below '
                              '`root`, or its number; not needed where there is only one'),
        DeclareLaunchArgument('database', description='folder of the place database'),
        DeclareLaunchArgument('model', default_value='',
                              description='folder of the model; empty: the shipped one'),
        DeclareLaunchArgument('output', description='folder of the report'),
        DeclareLaunchArgument('camera', default_value='/kitti360/image_00',
                              description='namespace of the camera in the bag'),
        DeclareLaunchArgument('cameras', default_value='',
                              description='several in place of `camera`: [/left, /right]'),
        DeclareLaunchArgument('image', default_value='image_rect',
                              description='name of the image topic below `camera` or `cameras`'),
        DeclareLaunchArgument('image_transport', default_value='raw',
                              choices=['raw', 'compressed'], description='which images'),
        DeclareLaunchArgument('ground_truth', default_value='/kitti360/ground_truth/pose',
                              description='topic of the true poses in the bag'),
        DeclareLaunchArgument('rate', default_value='0.0',
                              description='speed of the replay; 0.0: lock-step'),
        DeclareLaunchArgument('camera_extrinsics', default_value='',
                              description='camera in base_frame; empty: as in the bag'),
        DeclareLaunchArgument('base_frame', default_value='base_link',
                              description='frame of the vehicle in the bag'),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of the nodes'),
        DeclareLaunchArgument('params_file', default_value=str(CONFIG / 'localizer.yaml'),
                              description='parameter file of the localizer'),
        DeclareLaunchArgument('replay_params_file', default_value=str(CONFIG / 'replay.yaml'),
                              description='parameter file of replay and evaluator'),
        DeclareLaunchArgument('rviz', default_value='false', choices=['true', 'false'],
                              description='show it in RViz'),
        OpaqueFunction(function=from_bag_or_drive),
    ])


def from_bag_or_drive(context: LaunchContext) -> list:
    """Return the nodes at once, or after the drive has become a bag."""
    # Kept, since a launch file around this one has its own again when the conversion ends.
    given = {name: value for name, value in context.launch_configurations.items()
             if isinstance(value, str)}
    if bool(given['bag']) == bool(given['root']):
        raise RuntimeError('give either bag:=... or root:=... and drive:=...')
    if given['bag']:
        return make_nodes(given, given['bag'])
    from saliency_i2ploc_ros.data.bag_cache import cached_bag

    names = [name.split('/')[-1] for name in cameras(given)]
    compressed = given['image_transport'] == 'compressed'
    bag = cached_bag(Path(given['root']), given['drive'], names, compressed)
    if bag.exists():
        return make_nodes(given, str(bag))
    options = ['--drive', given['drive']] if given['drive'] else []
    options += [word for name in names for word in ('--camera', name)]
    options += ['--compressed'] if compressed else []
    convert = ExecuteProcess(
        cmd=[ExecutableInPackage('i2ploc', PACKAGE), 'bag', given['root'], '--no-lidar',
             '--out', str(bag), *options], name='bag', output='screen')

    def converted(event, _) -> list:
        if event.returncode:
            return [OpaqueFunction(function=fail)]
        return make_nodes(given, str(bag))

    def fail(context: LaunchContext) -> None:
        if not context.is_shutdown:  # by Ctrl-C, which ends the conversion too, whatever its code
            raise RuntimeError('the drive could not be made a bag')

    return [RegisterEventHandler(OnProcessExit(target_action=convert, on_exit=converted)), convert]


def make_nodes(given: dict[str, str], bag: str) -> list:
    """Return the three nodes and what happens when one of them ends."""
    names, truth = cameras(given), given['ground_truth']
    suffix = '/compressed' if given['image_transport'] == 'compressed' else ''
    images = [f'{name}/{given["image"]}{suffix}' for name in names]
    infos = [f'{name}/camera_info' for name in names]
    bring_up = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / 'localization.launch.py')),
        launch_arguments={
            'camera': names[0], 'use_sim_time': 'true', 'reliable_images': 'true',
            'exit_on_failure': 'true',
            'camera_extrinsics': given['camera_extrinsics'] or extrinsics_text(
                bag, infos, given['base_frame']),
        }.items())
    here = {'package': PACKAGE, 'namespace': given['namespace'], 'output': 'screen'}
    replay = Node(
        executable='replay', name='replay', **here,
        parameters=[given['replay_params_file'], {
            'bag': text(bag), 'rate': float(given['rate']),
            'wait_for': text(' '.join([*images, truth]))}],
        # As the localizer has it: a busy computer takes its time to end a process.
        sigterm_timeout='30')
    evaluator = Node(
        executable='evaluator', name='evaluator', **here,
        parameters=[given['replay_params_file'], {
            'output': text(given['output']), 'database': text(given['database']),
            'bag': text(bag), 'image_topic': text(images[0])}],
        remappings=[('ground_truth/pose', truth), ('camera_info', infos[0])],
        # Interrupted at the bag's end, it draws for seconds: never a signal above that.
        sigterm_timeout=FAR)

    def replay_ended(event, context: LaunchContext) -> list:
        if event.returncode:
            return failed('replay', event.returncode)
        if context.is_shutdown:
            return []  # Ctrl-C: all of them have been interrupted already
        stop = EmitEvent(event=SignalProcess(
            signal_number=signal.SIGINT, process_matcher=matches_action(evaluator)))
        # The last answer is on its way to the evaluator too.
        return [TimerAction(period=0.5, actions=[stop])]

    def evaluator_ended(event, context: LaunchContext) -> list:
        if event.returncode:
            return failed('evaluator', event.returncode)
        if context.is_shutdown:
            return []  # launch_ros takes a second Shutdown for an error
        return [EmitEvent(event=Shutdown(reason='the report is written'))]

    def any_ended(event, _) -> list:
        # The localizer is a part of the other launch file, which keeps it to itself.
        if event.returncode and event.process_name.startswith('localizer'):
            return failed('localizer', event.returncode)
        return []

    return [
        GroupAction([bring_up, evaluator, replay], launch_configurations=given),
        RegisterEventHandler(OnProcessExit(on_exit=any_ended)),
        RegisterEventHandler(OnProcessExit(target_action=replay, on_exit=replay_ended)),
        RegisterEventHandler(OnProcessExit(target_action=evaluator, on_exit=evaluator_ended)),
    ]


def cameras(given: dict[str, str]) -> list[str]:
    """Return the namespaces of the cameras in the bag."""
    several = yaml.safe_load(given['cameras'] or '[]')
    return [name.rstrip('/') for name in several or [given['camera']]]


def text(value: str) -> ParameterValue:
    """Return a parameter that stays text: launch_ros takes a folder called 2024 for a number."""
    return ParameterValue(value, value_type=str)


def extrinsics_text(bag: str, camera_infos: list[str], base_frame: str) -> str:
    """Return camera_extrinsics from the bag, '' if it does not say all (TF is asked then)."""
    from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag

    found = [extrinsics_in_bag(Path(bag), topic, base_frame) for topic in camera_infos]
    return '' if None in found else str([number for numbers in found for number in numbers])


def failed(name: str, code: int) -> list:
    """Return actions that end the launch with 1, unless Ctrl-C took a process that just began."""
    def fail(context: LaunchContext) -> None:
        if not (context.is_shutdown and code in INTERRUPTED):
            raise RuntimeError(f'{name} ended with {code}')

    return [OpaqueFunction(function=fail)]
