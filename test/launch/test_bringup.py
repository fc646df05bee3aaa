"""The localizer's launch file: arguments, parameter file, namespaces, groups around it."""

from helpers_launch import in_domain, include, LAUNCH, LONG_S, TOP
from helpers_ros import client_in, EXTRINSICS, new_domain
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction
from launch.launch_description_sources import PythonLaunchDescriptionSource
import launch_pytest
from launch_pytest.actions import ReadyToTest
from launch_ros.actions import PushRosNamespace, SetRemap
from lifecycle_msgs.srv import GetState
import pytest
from rcl_interfaces.srv import GetParameters
from rclpy.qos import ReliabilityPolicy
import yaml

from saliency_i2ploc_ros.ros.parameters import LOCALIZER

DOMAIN = new_domain()
FILES = sorted([*LAUNCH.glob('*.launch.py'), *(TOP / 'config' / 'examples').glob('*.launch.py')])


@launch_pytest.fixture(scope='module')
def bring_up(world):
    """Two localizers: one by arguments alone, one in a group of somebody else's launch file."""
    (world / 'cuda.yaml').write_text(yaml.safe_dump({'/**/localizer': {'ros__parameters': {
        'top_k': 7, 'device': 'cuda', 'use_sim_time': True}}}))
    (world / '2024').symlink_to(world / 'map')
    arguments = {'model': world / 'model', 'database': world / 'map', 'device': 'cpu',
                 'params_file': world / 'cuda.yaml', 'camera_extrinsics': EXTRINSICS,
                 'reliable_images': 'true'}
    return in_domain(
        DOMAIN,
        GroupAction([include('localization.launch.py', namespace='car', camera='/front',
                             use_sim_time='false', **arguments)]),
        GroupAction([PushRosNamespace('fleet'), SetRemap('image', '/rear/image_color'),
                     include('localization.launch.py', namespace='truck', camera='rear',
                             map_frame='2024', **arguments)]),
        ReadyToTest())


def parameters_of(client, node: str, *names: str) -> list:
    return client.call(GetParameters, f'{node}/get_parameters',
                       GetParameters.Request(names=list(names)), LONG_S).values


@pytest.mark.launch(fixture=bring_up)
def test_both_come_up_by_themselves_and_arguments_beat_the_file():
    with client_in(DOMAIN) as client:
        for node in ('/car/localizer', '/fleet/truck/localizer'):
            assert client.until(lambda node=node: client.call(
                GetState, f'{node}/get_state', GetState.Request(), LONG_S,
            ).current_state.label == 'active', LONG_S)
        top_k, device, sim_time, mounting = parameters_of(
            client, '/car/localizer', 'top_k', 'device', 'use_sim_time', 'camera_extrinsics')
        assert top_k.integer_value == 7  # the file's
        assert device.string_value == 'cpu'  # the argument's, not the file's
        assert sim_time.bool_value is False  # likewise
        assert list(mounting.double_array_value) == pytest.approx(EXTRINSICS)
        sim_time, frame = parameters_of(client, '/fleet/truck/localizer', 'use_sim_time',
                                        'map_frame')
        assert sim_time.bool_value is True  # no argument, so the file's
        assert frame.string_value == '2024'  # a name, though it looks like a number
        for image, info in (('/front/image_rect', '/front/camera_info'),
                            ('/rear/image_color', '/fleet/truck/rear/camera_info')):
            assert client.until(lambda image=image: client.node.count_subscribers(image) == 1,
                                LONG_S)
            images, = client.node.get_subscriptions_info_by_topic(image)
            assert images.qos_profile.reliability == ReliabilityPolicy.RELIABLE  # as was asked
            infos, = client.node.get_subscriptions_info_by_topic(info)
            assert infos.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def loaded(path, **given: str) -> tuple[LaunchContext, LaunchDescription]:
    """Return a launch file whose arguments have been declared."""
    context = LaunchContext()
    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(context)
    context.launch_configurations.update(given)
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument) and (
                entity.default_value is not None or entity.name in given):
            entity.visit(context)
    return context, description


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path):
    _, description = loaded(path)
    arguments = [entity for entity in description.entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    for argument in arguments:
        assert argument.description not in ('', 'no description given'), argument.name


def test_arguments_that_are_parameters_take_what_the_node_takes():
    _, description = loaded(LAUNCH / 'localization.launch.py')
    settings = {setting.name: setting for setting in LOCALIZER}
    arguments = {entity.name: entity for entity in description.entities
                 if isinstance(entity, DeclareLaunchArgument)}
    shared = settings.keys() & arguments.keys()
    assert len(shared) > 10
    for name in shared:
        choices = list(settings[name].choices)
        if isinstance(settings[name].default, bool):
            choices = ['true', 'false']
        assert [c for c in arguments[name].choices or [] if c] == choices, name


@pytest.mark.parametrize(('namespace', 'logger'), [
    ('', 'localizer'), ('car', 'car.localizer'), ('/fleet/car', 'fleet.car.localizer')])
def test_the_log_level_is_that_of_the_nodes_logger(namespace, logger):
    context, description = loaded(LAUNCH / 'localization.launch.py', namespace=namespace,
                                  log_level='debug')
    node, = description.entities[-1].visit(context)
    assert f'{logger}:=debug' in words_of(node)


def test_rviz_comes_with_its_configuration():
    context, description = loaded(LAUNCH / 'localization.launch.py', rviz='true', camera='/front')
    _, rviz = description.entities[-1].visit(context)
    assert rviz.node_package == 'rviz2'
    config, = (word for word in words_of(rviz) if word.endswith('.rviz'))
    assert (TOP / 'config' / 'i2ploc.rviz').samefile(config)


def words_of(node) -> list[str]:
    return [getattr(substitution, 'text', '') for part in node.cmd for substitution in part]
