"""
Replay a bag through the localizer and hold its fixes against ground truth.

    ros2 launch saliency_i2ploc_ros replay.launch.py bag:=... database:=... output:=...

Ends with the bag; the exit code is not 0 where a node failed or a threshold was missed.
"""

from pathlib import Path
import signal

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import matches_action, Shutdown
from launch.events.process import SignalProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

FOLDER = Path(__file__).resolve().parent
CONFIG = FOLDER.parent / 'config'
FAR = '1e9'


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the localizer's launch file, replay and evaluator."""
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='rosbag2 folder (MCAP or sqlite3)'),
        DeclareLaunchArgument('database', description='folder of the place database'),
        DeclareLaunchArgument('model', default_value='',
                              description='folder of the model; empty: the shipped one'),
        DeclareLaunchArgument('output', description='folder of the report'),
        DeclareLaunchArgument('camera', default_value='/kitti360/image_00',
                              description='namespace of the camera in the bag'),
        DeclareLaunchArgument('image', default_value='image_rect',
                              description='name of the image topic below `camera`'),
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
        DeclareLaunchArgument('params_file', default_value=str(CONFIG / 'localizer.yaml'),
                              description='parameter file of the localizer'),
        DeclareLaunchArgument('replay_params_file', default_value=str(CONFIG / 'replay.yaml'),
                              description='parameter file of replay and evaluator'),
        OpaqueFunction(function=make_nodes),
    ])


def make_nodes(context) -> list:
    """Return the three nodes and what happens when one of them ends."""
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    camera, truth = value('camera').rstrip('/'), value('ground_truth')
    image = f'{camera}/{value("image")}'
    if value('image_transport') == 'compressed':
        image += '/compressed'
    bring_up = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / 'localization.launch.py')),
        launch_arguments={
            'database': value('database'), 'model': value('model'),
            'params_file': value('params_file'), 'camera': camera,
            'image': value('image'), 'image_transport': value('image_transport'),
            'use_sim_time': 'true', 'reliable_images': 'true', 'exit_on_failure': 'true',
            'camera_extrinsics': value('camera_extrinsics') or extrinsics_text(
                value('bag'), f'{camera}/camera_info', value('base_frame')),
        }.items())
    replay = Node(
        package='saliency_i2ploc_ros', executable='replay', name='replay', output='screen',
        parameters=[value('replay_params_file'), {
            'bag': value('bag'), 'rate': float(value('rate')), 'wait_for': f'{image} {truth}'}])
    evaluator = Node(
        package='saliency_i2ploc_ros', executable='evaluator', name='evaluator', output='screen',
        parameters=[value('replay_params_file'), {
            'output': value('output'), 'database': value('database'),
            'bag': value('bag'), 'image_topic': image}],
        remappings=[('ground_truth/pose', truth), ('camera_info', f'{camera}/camera_info')],
        # Interrupted at the bag's end, it draws for seconds: never a signal above that.
        sigterm_timeout=FAR)

    def replay_ended(event, _) -> list:
        if event.returncode:
            return failed('replay', event.returncode)
        stop = EmitEvent(event=SignalProcess(
            signal_number=signal.SIGINT, process_matcher=matches_action(evaluator)))
        # The last answer is on its way to the evaluator too.
        return [TimerAction(period=0.5, actions=[stop])]

    def evaluator_ended(event, _) -> list:
        if event.returncode:
            return failed('evaluator', event.returncode)
        return [EmitEvent(event=Shutdown(reason='the report is written'))]

    def any_ended(event, _) -> list:
        # The localizer is a part of the other launch file, which keeps it to itself.
        if event.returncode and event.process_name.startswith('localizer'):
            return failed('localizer', event.returncode)
        return []

    return [
        bring_up, evaluator, replay,
        RegisterEventHandler(OnProcessExit(on_exit=any_ended)),
        RegisterEventHandler(OnProcessExit(target_action=replay, on_exit=replay_ended)),
        RegisterEventHandler(OnProcessExit(target_action=evaluator, on_exit=evaluator_ended)),
    ]


def extrinsics_text(bag: str, camera_info: str, base_frame: str) -> str:
    """Return camera_extrinsics from the bag, '' if it does not say (TF is asked then)."""
    from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag

    numbers = extrinsics_in_bag(Path(bag), camera_info, base_frame)
    return '' if numbers is None else str(numbers)


def failed(name: str, code: int) -> list:
    """Return actions that end the launch with an exit code of 1."""
    def fail(context) -> None:
        raise RuntimeError(f'{name} ended with {code}')

    return [OpaqueFunction(function=fail)]
