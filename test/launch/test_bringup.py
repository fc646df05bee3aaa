"""The launch files, run by ROS 2's own launch; skipped where that is not installed."""

import json
import os
from pathlib import Path
import sys
import time

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
launch_pytest = pytest.importorskip('launch_pytest')

from ament_index_python.packages import get_package_prefix, PackageNotFoundError  # noqa: E402
from helpers_ros import client_in, EXTRINSICS, LAX, new_domain, write_world  # noqa: E402
from launch import LaunchContext, LaunchDescription, LaunchService  # noqa: E402
from launch.actions import (  # noqa: E402
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_pytest.actions import ReadyToTest  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
import yaml  # noqa: E402

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'
DOMAIN = new_domain()

try:
    get_package_prefix('saliency_i2ploc_ros')
except PackageNotFoundError:
    pytest.skip('the package is not built in a ROS workspace', allow_module_level=True)


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    (root / 'lax.yaml').write_text(yaml.safe_dump(
        {'/**/localizer': {'ros__parameters': {**LAX, 'top_k': 7, 'device': 'cuda'}}}))
    return root


def description(file: str, **arguments) -> list:
    return [SetEnvironmentVariable('ROS_DOMAIN_ID', str(DOMAIN)),
            SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST'),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / file)),
                                     launch_arguments=[(k, str(v)) for k, v in arguments.items()])]


@launch_pytest.fixture(scope='module')
def bring_up(world):
    return LaunchDescription([
        *description('localization.launch.py', model=world / 'model', database=world / 'map',
                     params_file=world / 'lax.yaml', device='cpu', camera='/front',
                     camera_extrinsics=EXTRINSICS, namespace='car', reliable_images='true'),
        ReadyToTest()])


@pytest.mark.launch(fixture=bring_up)
def test_the_node_comes_up_by_itself_and_arguments_beat_the_file():
    with client_in(DOMAIN) as client:
        def active() -> bool:
            state = client.call(GetState, '/car/localizer/get_state', GetState.Request(), 60)
            return state.current_state.label == 'active'

        assert client.until(active, 60)
        names = ['top_k', 'device', 'use_sim_time', 'camera_extrinsics']
        top_k, device, sim_time, mounting = client.call(
            GetParameters, '/car/localizer/get_parameters',
            GetParameters.Request(names=names)).values
        assert top_k.integer_value == 7  # the file's
        assert device.string_value == 'cpu'  # the argument's, not the file's
        assert sim_time.bool_value is False
        assert list(mounting.double_array_value) == pytest.approx(EXTRINSICS)
        assert client.until(lambda: client.node.count_subscribers('/front/image_rect') == 1)
        images, = client.node.get_subscriptions_info_by_topic('/front/image_rect')
        assert images.qos_profile.reliability == ReliabilityPolicy.RELIABLE  # as was asked
        infos, = client.node.get_subscriptions_info_by_topic('/front/camera_info')
        assert infos.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(('namespace', 'logger'), [
    ('', 'localizer'), ('car', 'car.localizer'), ('/fleet/car', 'fleet.car.localizer')])
def test_the_log_level_is_that_of_the_nodes_logger(namespace, logger):
    context, source = LaunchContext(), PythonLaunchDescriptionSource(
        str(LAUNCH / 'localization.launch.py'))
    description = source.get_launch_description(context)
    context.launch_configurations.update(namespace=namespace, log_level='debug')
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    node, = description.entities[-1].visit(context)
    words = [getattr(substitution, 'text', '') for part in node.cmd for substitution in part]
    assert f'{logger}:=debug' in words


def run(file: str, **arguments) -> int:
    """Return the exit code of a launch, as `ros2 launch` would."""
    kept = dict(os.environ)
    service = LaunchService(noninteractive=True)
    service.include_launch_description(LaunchDescription(description(file, **arguments)))
    try:
        return service.run()
    finally:
        os.environ.clear()
        os.environ.update(kept)


@pytest.mark.parametrize(('wanted', 'code'), [(6, 0), (7, 1)])
def test_a_replay_ends_with_its_bag_and_the_verdict(world, wanted, code):
    out, limits = world / f'out{wanted}', world / f'limits{wanted}.yaml'
    limits.write_text(yaml.safe_dump(
        {'/**/evaluator': {'ros__parameters': {'min_images': wanted}}}))
    params = yaml.safe_load((world / 'lax.yaml').read_text())
    params['/**/localizer']['ros__parameters']['device'] = 'cpu'
    (world / 'cpu.yaml').write_text(yaml.safe_dump(params))
    assert run('replay.launch.py', bag=world / 'bag', database=world / 'map', output=out,
               model=world / 'model', params_file=world / 'cpu.yaml',
               replay_params_file=limits) == code
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['coverage']['attempted'] == 6
    assert (out / 'overview.png').is_file()
    assert summary['verdict']['passed'] is (code == 0)


def test_a_replay_whose_localizer_cannot_start_ends_at_once(world):
    started = time.monotonic()
    assert run('replay.launch.py', bag=world / 'bag', database=world / 'other',
               output=world / 'nothing', model=world / 'model',
               params_file=world / 'lax.yaml') == 1
    assert time.monotonic() - started < 45.0  # replay waits 60 s for subscribers
