"""Clouds, poses and stamps there and back, with ROS's own libraries where they import."""

import importlib
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.fix import Fix
from saliency_i2ploc_ros.ros import conversions
from saliency_i2ploc_ros.ros.conversions import (
    cloud_to_message,
    fix_to_initialpose,
    fix_to_message,
    header_at,
    message_to_cloud,
    message_to_pose,
    pose_to_message,
    stamp_of,
)
from saliency_i2ploc_ros.ros.frames import extrinsics_of

RNG = np.random.default_rng(0)
HEADER = header_at(5, 'camera')


def test_clouds_there_and_back(ros_libraries):
    points = RNG.normal(0.0, 50.0, (30, 3)).astype(np.float32)
    cloud = cloud_to_message(points, HEADER)
    assert (cloud.width * cloud.height, cloud.point_step, cloud.header) == (30, 12, HEADER)
    np.testing.assert_array_equal(message_to_cloud(cloud), points)
    assert message_to_cloud(cloud_to_message(points[:0], HEADER)).shape == (0, 3)
    assert message_to_cloud(PointCloud2()).shape == (0, 3)


@pytest.mark.skipif(conversions.POINT_CLOUD2 is None, reason='sensor_msgs_py is not here')
@pytest.mark.parametrize('count', [0, 1, 30])
def test_sensor_msgs_py_makes_the_same_message(count, monkeypatch):
    points, intensity = RNG.normal(size=(count, 3)), RNG.uniform(size=count)
    made = [cloud_to_message(points, HEADER), cloud_to_message(points, HEADER, intensity)]
    monkeypatch.setattr(conversions, 'POINT_CLOUD2', None)
    assert made == [cloud_to_message(points, HEADER), cloud_to_message(points, HEADER, intensity)]


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 5])
def test_a_cloud_with_other_fields_padding_and_nan(ros_libraries, padding, big):
    """Two rows of two points, 28 bytes each with rubbish between and behind, z before x."""
    points = np.array([[1, 2, 3], [4, np.nan, 6], [7, 8, 9], [10, 11, np.inf]], np.float64)
    order = '>' if big else '<'
    layout = np.dtype({'names': ['z', 'x', 'y'], 'offsets': [2, 8, 20], 'itemsize': 28,
                       'formats': [f'{order}f4', f'{order}f8', f'{order}f4']})
    values = np.frombuffer(b'\x55' * 4 * 28, layout).copy()
    for i, name in enumerate('xyz'):
        values[name] = points[:, i]
    rows = np.full((2, 56 + padding), 0x55, np.uint8)
    rows[:, :56] = values.reshape(2, 2).view(np.uint8).reshape(2, 56)
    kinds = {'x': (8, PointField.FLOAT64, 1), 'y': (20, PointField.FLOAT32, 1),
             'z': (2, PointField.FLOAT32, 1), 'ring': (6, PointField.UINT8, 0)}
    cloud = PointCloud2(
        height=2, width=2, point_step=28, row_step=56 + padding, is_bigendian=big,
        fields=[PointField(name=name, offset=offset, datatype=kind, count=count)
                for name, (offset, kind, count) in kinds.items()], data=rows.tobytes())
    for _ in range(2):  # reading it leaves it as it is
        np.testing.assert_array_equal(message_to_cloud(cloud), points[[0, 2]])
    cloud.fields = cloud.fields[:3]
    np.testing.assert_array_equal(message_to_cloud(cloud), points[[0, 2]])


@pytest.mark.parametrize('change', [
    {'fields': []}, {'point_step': 11}, {'point_step': 0}, {'row_step': 20}, {'data': b''},
    {'fields': [PointField(name=n, offset=4 * i, datatype=PointField.INT32, count=1)
                for i, n in enumerate('xyz')]}])
def test_a_malformed_cloud_is_refused(ros_libraries, change):
    cloud = cloud_to_message(RNG.normal(size=(2, 3)), HEADER)
    for name, value in change.items():
        setattr(cloud, name, value)
    with pytest.raises(InputError, match='malformed'):
        message_to_cloud(cloud)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=4).filter(
    lambda q: np.linalg.norm(q) > 0.1), st.floats(-1e6, 1e6))
def test_poses_there_and_back(q, x):
    for library in {None, conversions.TF_TRANSFORMATIONS}:
        kept, conversions.TF_TRANSFORMATIONS = conversions.TF_TRANSFORMATIONS, library
        try:
            T = extrinsics_of([x, 2.0, 3.0, *(np.array(q) / np.linalg.norm(q))])
            out = pose_to_message(T)
            assert out.orientation.w >= 0.0 and out.position.x == x
            np.testing.assert_allclose(message_to_pose(out), T, atol=1e-9)
        finally:
            conversions.TF_TRANSFORMATIONS = kept


def test_a_pose_without_rotation_is_refused():
    broken = pose_to_message(np.eye(4))
    broken.orientation.w = 0.0
    with pytest.raises(InputError, match='is none'):
        message_to_pose(broken)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_keep_their_nanoseconds(stamp_ns):
    assert stamp_of(header_at(stamp_ns, 'map')) == stamp_ns


def test_the_fix_carries_stamp_frame_and_full_covariance():
    A = RNG.normal(size=(6, 6))
    fix = Fix(planar(4e6, -2.0, math.pi / 2, 7.0), A @ A.T, 0.5)
    out = fix_to_message(fix, 1_700_000_000_123_456_789, 'map')
    assert stamp_of(out.header) == 1_700_000_000_123_456_789 and out.header.frame_id == 'map'
    assert (out.pose.pose.position.x, out.pose.pose.position.z) == (4e6, 7.0)
    assert out.pose.pose.orientation.z == pytest.approx(math.sqrt(0.5))
    np.testing.assert_array_equal(np.reshape(out.pose.covariance, (6, 6)), fix.covariance)
    fix = Fix(fix.T_map_base, np.diag([1e12, 1.0, 1.0, 1.0, 1.0, 0.1]) + 0.01, 0.5)
    initial = np.reshape(fix_to_initialpose(fix, 0, 'map').pose.covariance, (6, 6))
    assert initial.max() < 1e9 and np.count_nonzero(initial) == 6 and initial[5, 5] == 0.11


def test_ros_libraries_are_used_where_they_work():
    for name, module in (('POINT_CLOUD2', 'sensor_msgs_py.point_cloud2'),
                         ('TF_TRANSFORMATIONS', 'tf_transformations')):
        try:
            expected = importlib.import_module(module)
        except ImportError:
            expected = None
        assert getattr(conversions, name) is expected
