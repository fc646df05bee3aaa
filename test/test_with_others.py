"""
config/examples: real fixes and the files' parameters, held against the rules of their consumers.

The rules are facts of the consumers' sources, said again here; each names its file. They were read
at robot_localization 1cb9533 (ros2), navigation2 a3a9704 and autoware_core 2d693b8 (main).
"""

import importlib.util
import math
from pathlib import Path
import re
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from helpers_drives import CAMERA, START_NS, T_base_camera
from helpers_ros import image_at, LAX, write_world
import numpy as np
import pytest
from rclpy.qos import (
    DurabilityPolicy,
    LivelinessPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from scipy.spatial.transform import Rotation
import yaml

from saliency_i2ploc_ros.localization.fix import Fix
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.ros.conversions import (
    fix_to_initialpose,
    fix_to_message,
    image_to_rgb,
    stamp_of,
)
from saliency_i2ploc_ros.ros.parameters import LOCALIZER

EXAMPLES = Path(__file__).resolve().parents[1] / 'config' / 'examples'
STEP_NS = 100_000_000


def example(name: str, node: str) -> dict[str, Any]:
    return yaml.safe_load((EXAMPLES / name).read_text())[node]['ros__parameters']


@pytest.fixture(scope='module')
def fixes(tmp_path_factory) -> list[Fix]:
    """Fixes as the localizer makes them: from images, over a map."""
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    localizer = open_localizer(root / 'model', root / 'map', LocalizerConfig(**LAX))
    answers = [localizer.localize(image_to_rgb(image_at(0, seed)), CAMERA, T_base_camera)
               for seed in range(20)]
    assert all(answer.fix for answer in answers)
    return [answer.fix for answer in answers]


@pytest.fixture(scope='module')
def messages(fixes) -> list[PoseWithCovarianceStamped]:
    return [fix_to_message(fix, START_NS + i * STEP_NS, 'map') for i, fix in enumerate(fixes)]


@pytest.fixture(scope='module')
def initial_poses(fixes) -> list[PoseWithCovarianceStamped]:
    return [fix_to_initialpose(fix, START_NS + i * STEP_NS, 'map') for i, fix in enumerate(fixes)]


def numbers(message: PoseWithCovarianceStamped) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return (np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]),
            np.asarray(message.pose.covariance))


# nav2.


def nav2_takes(message: PoseWithCovarianceStamped) -> bool:
    """nav2_ros_common/include/nav2_ros_common/validate_messages.hpp (#5611, #6234)."""
    position, quaternion, covariance = numbers(message)
    return bool(
        message.header.stamp.nanosec < 10**9 and message.header.frame_id
        and np.isfinite([*position, *quaternion, *covariance]).all()
        and abs(quaternion @ quaternion - 1.0) < 1e-4
        and (np.abs(covariance) <= 1e9).all() and (covariance >= 0.0).all())


def test_amcl_takes_every_initial_pose(initial_poses):
    amcl = example('nav2.yaml', '/**/amcl')
    for message in initial_poses:
        assert nav2_takes(message)
        # AmclNode::initialPoseReceived (nav2_amcl/src/amcl_node.cpp): any other frame is ignored.
        assert message.header.frame_id == amcl['global_frame_id']
        # handleInitialPose takes these of the covariance; pf_init needs them positive to spread.
        assert all(numbers(message)[2][i] > 0.0 for i in (0, 7, 35))


def test_amcl_would_not_take_a_fix_itself(messages):
    # Which is why initialpose is not ~/fix: a covariance across x and y may well be negative.
    assert not all(nav2_takes(message) for message in messages)


def test_an_initial_pose_of_a_fix_that_knows_nothing_is_taken_too(fixes):
    unsure = Fix(fixes[0].T_map_base, np.eye(6) * 1e12, 0.5)
    assert nav2_takes(fix_to_initialpose(unsure, START_NS, 'map'))
    assert not nav2_takes(fix_to_message(unsure, START_NS, 'map'))


def test_the_parameters_of_nav2_are_parameters_of_nav2():
    # AmclNode::initParameters (nav2_amcl/src/amcl_node.cpp).
    amcl = {'global_frame_id', 'odom_frame_id', 'base_frame_id', 'set_initial_pose',
            'always_reset_initial_pose', 'tf_broadcast', 'first_map_only', 'scan_topic',
            'transform_tolerance'}
    # LifecycleManager::LifecycleManager (nav2_lifecycle_manager/src/lifecycle_manager.cpp).
    manager = {'node_names', 'autostart', 'bond_timeout', 'service_timeout',
               'bond_respawn_max_duration', 'attempt_respawn_reconnection',
               'bond_heartbeat_period'}
    assert example('nav2.yaml', '/**/amcl').keys() <= amcl
    given = example('nav2.yaml', '/**/lifecycle_manager_localizer')
    assert given.keys() <= manager
    # createBondConnection makes a bond only where the timeout is above 0; both must be doubles.
    assert given['bond_timeout'] == 0.0 and isinstance(given['bond_timeout'], float)
    assert isinstance(given['service_timeout'], float) and given['service_timeout'] > 5.0
    assert given['node_names'] == ['localizer']
    # Its own autostart would be over before the manager asks for configure.
    assert example('nav2.yaml', '/**/localizer')['autostart'] is False


# robot_localization.


def pose_parameters(sensor: str) -> set[str]:
    """RosFilter<T>::loadParams (src/ros_filter.cpp): what each pose and odometry may have."""
    suffixes = ['', '_config', '_differential', '_relative', '_queue_size']
    suffixes += ['_rejection_threshold'] if sensor.startswith('pose') else [
        '_pose_use_child_frame', '_pose_rejection_threshold', '_twist_rejection_threshold']
    return {sensor + suffix for suffix in suffixes}


@pytest.fixture(scope='module')
def ekf() -> dict[str, Any]:
    return example('robot_localization.yaml', '/**/ekf_map')


def test_the_parameters_of_the_filter_are_its_own(ekf):
    # RosFilter<T>::loadParams (src/ros_filter.cpp).
    known = {'map_frame', 'odom_frame', 'base_link_frame', 'world_frame', 'publish_tf',
             'frequency', 'sensor_timeout', 'predict_to_current_time', 'reset_on_time_jump',
             'print_diagnostics', 'smooth_lagged_data', 'history_length', 'two_d_mode',
             'initial_estimate_covariance', 'process_noise_covariance', 'transform_timeout',
             'transform_time_offset', 'permit_corrected_publication'}
    assert ekf.keys() <= known | pose_parameters('pose0') | pose_parameters('odom0')
    for name in ('pose0_config', 'odom0_config'):
        assert len(ekf[name]) == 15 and all(type(v) is bool for v in ekf[name])
    for name in ('initial_estimate_covariance', 'process_noise_covariance'):
        # A diagonal of 15 is understood since its pull request 755 (May 2022).
        assert len(ekf[name]) == 15 and all(type(v) is float and v > 0.0 for v in ekf[name])
    assert len({ekf['map_frame'], ekf['odom_frame'], ekf['base_link_frame']}) == 3
    # As map EKF it computes map -> odom, which only one may publish.
    assert ekf['world_frame'] == ekf['map_frame'] and ekf['publish_tf']
    assert {s.name: s.default for s in LOCALIZER}['publish_tf'] == 'none'
    # A history without smooth_lagged_data is an error in its log, and no smoothing.
    assert ekf['smooth_lagged_data'] and ekf['history_length'] > 1.0


def test_the_filter_takes_every_fix(ekf, messages):
    last_ns = 0  # last_set_pose_time_ of a filter that was not reset
    for message in messages:
        _, quaternion, covariance = numbers(message)
        # poseCallback: dropped where the stamp is before that of the message before.
        assert last_ns < stamp_of(message.header)
        last_ns = stamp_of(message.header)
        # preparePose: no transform is needed in the world's own frame; quaternions off by more
        # than 0.01 are warned about.
        assert message.header.frame_id == ekf['world_frame']
        assert abs(np.linalg.norm(quaternion) - 1.0) <= 0.01
        # Ekf::correct (src/ekf.cpp) replaces what is below 1e-9, and looks at no NaN: its inverse
        # would spread it over the whole state. copyCovariance warns above 1e3.
        assert np.isfinite(covariance).all()
        matrix = covariance.reshape(6, 6)
        assert (np.diag(matrix) > 1e-9).all() and (np.diag(matrix) < 1e3).all()
        assert np.allclose(matrix, matrix.T) and (np.linalg.eigvalsh(matrix) > 0.0).all()


def gated(ekf: dict[str, Any], state: np.ndarray, P: np.ndarray,
          message: PoseWithCovarianceStamped) -> bool:
    """FilterBase::checkMahalanobisThreshold (src/filter_base.cpp) as Ekf::correct calls it."""
    position, quaternion, covariance = numbers(message)
    measured = np.array([*position, *Rotation.from_quat(quaternion).as_euler('xyz')])
    innovation = measured - state
    innovation[3:] = (innovation[3:] + math.pi) % (2.0 * math.pi) - math.pi
    used = np.array(ekf['pose0_config'][:6])
    S = (P + covariance.reshape(6, 6))[np.ix_(used, used)]
    distance = innovation[used] @ np.linalg.inv(S) @ innovation[used]
    return bool(distance >= ekf['pose0_rejection_threshold'] ** 2)


def test_a_fix_after_odometry_is_not_refused_for_being_far_from_the_origin(ekf, messages):
    # FilterBase::processMeasurement: the first message sets what it measures, and no more. If that
    # is odometry, the position stays 0 with initial_estimate_covariance, 1e-9 if it is not given.
    nowhere = np.zeros(6)
    assert not gated(ekf, nowhere, np.diag(ekf['initial_estimate_covariance'][:6]), messages[0])
    assert gated(ekf, nowhere, np.eye(6) * 1e-9, messages[0])


def test_a_wrong_fix_is_refused_and_the_next_right_one_is_not(ekf, fixes):
    # As after the first fix: the state is the fix, its covariance the fix's.
    first = fix_to_message(fixes[0], START_NS, 'map')
    position, quaternion, covariance = numbers(first)
    state = np.array([*position, *Rotation.from_quat(quaternion).as_euler('xyz')])
    P = covariance.reshape(6, 6)
    wrong = Fix(fixes[0].T_map_base.copy(), fixes[0].covariance, 0.9)
    wrong.T_map_base[0, 3] += 500.0
    assert gated(ekf, state, P, fix_to_message(wrong, START_NS, 'map'))
    assert not gated(ekf, state, P, first)


# Autoware.


def test_the_pose_initializer_takes_every_fix_for_gnss(messages):
    given = example('autoware_pose_initializer.param.yaml', '/**')
    # localization/autoware_pose_initializer/schema/pose_initializer.schema.json: all are required
    # and there are no others.
    assert given.keys() == {
        'user_defined_initial_pose', 'gnss_pose_timeout', 'stop_check_duration',
        'pose_error_threshold', 'pose_error_check_enabled', 'ekf_enabled', 'gnss_enabled',
        'yabloc_enabled', 'ndt_enabled', 'stop_check_enabled', 'gnss_particle_covariance',
        'output_pose_covariance'}
    assert given['gnss_enabled'] is True and len(given['user_defined_initial_pose']['pose']) == 7
    for name in ('gnss_particle_covariance', 'output_pose_covariance'):
        # get_covariance_parameter (src/copy_vector_to_array.hpp) throws at any other length.
        covariance = np.array(given[name])
        assert covariance.shape == (36,) and covariance.dtype == float
        assert (np.linalg.eigvalsh(covariance.reshape(6, 6)) > 0.0).all()
    for message in messages:
        stamp_s = stamp_of(message.header) * 1e-9
        # is_pose_stale (src/localization_util.hpp): a fix comes a second after its image at most.
        assert not given['gnss_pose_timeout'] < (stamp_s + 1.0) - stamp_s
        # MapHeightFitter::fit and NDTScanMatcher::service_ndt_align_main look up this frame; only
        # `map` itself needs no TF.
        assert message.header.frame_id == 'map'
        # NDTScanMatcher::align_pose takes the pose as it is.
        assert np.isfinite(np.concatenate(numbers(message))).all()


# What holds for all.


def qos(depth: int, reliable: bool) -> QoSProfile:
    return QoSProfile(
        depth=depth, durability=DurabilityPolicy.VOLATILE, liveliness=LivelinessPolicy.AUTOMATIC,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)


@pytest.mark.parametrize(('consumer', 'theirs'), [
    # pose0 of ekf_node: SensorDataQoS (src/ros_filter.cpp).
    ('robot_localization', qos(10, False)),
    # initialpose of amcl: StandardTopicQoS (nav2_ros_common/qos_profiles.hpp).
    ('nav2', qos(10, True)),
    # gnss_pose_cov: QoS of depth 1 (src/gnss_module.cpp).
    ('autoware', qos(1, True)),
])
def test_the_consumers_can_subscribe(consumer, theirs):
    fits, reason = qos_check_compatible(qos(10, True), theirs)
    assert fits == QoSCompatibility.OK, reason


def test_the_localizer_has_the_parameters_that_the_examples_give_it():
    settings = {s.name: s for s in LOCALIZER}
    found = 0
    for path in EXAMPLES.glob('*.yaml'):
        for node, content in yaml.safe_load(path.read_text()).items():
            if node.endswith('/localizer'):
                for name, value in content['ros__parameters'].items():
                    assert settings[name].checked(value) == value
                    found += 1
    assert found


def test_the_examples_are_explained():
    page = (EXAMPLES.parents[1] / 'docs' / 'with_others.md').read_text()
    for path in EXAMPLES.iterdir():
        assert path.name in page, path.name


@pytest.mark.skipif(importlib.util.find_spec('launch_ros') is None,
                    reason='launch_ros is not installed')
@pytest.mark.parametrize('name', ['robot_localization', 'nav2'])
def test_the_launch_files_bring_the_localizer_and_one_more(name):
    from launch import LaunchContext, LaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import Node

    source = PythonLaunchDescriptionSource(str(EXAMPLES / f'{name}.launch.py'))
    context = LaunchContext()
    description = source.get_launch_description(context)
    arguments = {argument.name for argument, *_ in
                 description.get_launch_arguments_with_include_launch_description_actions()}
    assert {'database', 'camera', 'namespace', 'use_sim_time'} <= arguments
    assert sum(isinstance(entity, Node) for entity in description.entities) == 1
    assert isinstance(description, LaunchDescription)


def test_the_launch_files_name_what_the_parameter_files_configure():
    for launch, parameters in (('robot_localization.launch.py', 'robot_localization.yaml'),
                               ('nav2.launch.py', 'nav2.yaml')):
        text = (EXAMPLES / launch).read_text()
        nodes = [node.rpartition('/')[2] for node in yaml.safe_load(
            (EXAMPLES / parameters).read_text())]
        name, = re.findall(r"name='(\w+)'", text)
        assert name in nodes
