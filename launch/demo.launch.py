"""
A city that nobody has seen, its map, and another drive through it replayed with evaluation.

    ros2 launch saliency_i2ploc_ros demo.launch.py
    ros2 launch saliency_i2ploc_ros demo.launch.py seed:=1007 rate:=1.0 rviz:=true

City, map and bag are made in half a minute or more and kept; the report is in `out`/results. All
arguments of localization.launch.py hold here too.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.substitutions import ExecutableInPackage

FOLDER = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and what makes city, map and bag."""
    return LaunchDescription([
        DeclareLaunchArgument('seed', default_value='1001', description='which city; the shipped '
                              'model has seen none from 1000 on'),
        DeclareLaunchArgument('length', default_value='800.0',
                              description='metres that are mapped and driven, at least 100'),
        DeclareLaunchArgument('out', default_value='', description='folder of it all; empty: one '
                              'in the cache for each seed and length'),
        DeclareLaunchArgument('model', default_value='',
                              description='folder of the model; empty: the shipped one'),
        DeclareLaunchArgument('rate', default_value='0.0', description='speed of the replay; '
                              '1.0 is as driven, 0.0: the next image when one is answered'),
        DeclareLaunchArgument('rviz', default_value='false', choices=['true', 'false'],
                              description='show it in RViz'),
        OpaqueFunction(function=prepare_and_replay),
    ])


def prepare_and_replay(context: LaunchContext) -> list:
    """Return what makes city, map and bag, and what replays them then."""
    from saliency_i2ploc_ros.storage import cache_directory

    given = {name: value for name, value in context.launch_configurations.items()
             if isinstance(value, str)}
    out = Path(given['out'] or
               cache_directory() / 'demo' / f'{given["seed"]}-{float(given["length"]):.0f}')
    prepare = ExecuteProcess(
        cmd=[ExecutableInPackage('i2ploc', 'saliency_i2ploc_ros'), 'demo', '--prepare',
             '--out', str(out), '--seed', given['seed'], '--length', given['length'],
             *(['--model', given['model']] if given['model'] else [])],
        name='prepare', output='screen')
    replay = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(FOLDER / 'replay.launch.py')),
        launch_arguments={'bag': str(out / 'bag'), 'database': str(out / 'map'),
                          'output': str(out / 'results')}.items())

    def prepared(event, _) -> list:
        if event.returncode:
            return [OpaqueFunction(function=fail)]
        return [GroupAction([replay], launch_configurations=given)]

    def fail(context: LaunchContext) -> None:
        if not context.is_shutdown:  # by Ctrl-C, which ends this process too, whatever its code
            raise RuntimeError('city, map and bag could not be made')

    return [RegisterEventHandler(OnProcessExit(target_action=prepare, on_exit=prepared)), prepare]
