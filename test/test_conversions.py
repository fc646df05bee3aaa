"""Messages to arrays and back, against arithmetic by hand and, where importable, ROS's own."""

import importlib
import math
import sys
from types import SimpleNamespace

from builtin_interfaces.msg import Time
import cv2
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from helpers_drives import CAMERA
from helpers_ros import camera_info, EXTRINSICS, TINY
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, transform
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.ros import conversions, display
from saliency_i2ploc_ros.ros.cameras import camera_of, check_size
from saliency_i2ploc_ros.ros.conversions import (
    cloud_to_message,
    compressed_to_rgb,
    fix_to_initialpose,
    fix_to_message,
    header_at,
    image_to_rgb,
    message_to_cloud,
    message_to_pose,
    pose_to_message,
    rgb_to_image,
    stamp_of,
)
from saliency_i2ploc_ros.ros.frames import Extrinsics, extrinsics_of, send_static_transform

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
HEADER = header_at(5, 'camera')


@pytest.fixture(params=['without', 'with'])
def ros_libraries(request, monkeypatch):
    """Run a test without ROS's own libraries, and with them where they import."""
    names = ('CV_BRIDGE', 'POINT_CLOUD2', 'TF_TRANSFORMATIONS')
    if request.param == 'without':
        for name in names:
            monkeypatch.setattr(conversions, name, None)
    elif not any(getattr(conversions, name) for name in names):
        pytest.skip('neither cv_bridge nor sensor_msgs_py nor tf_transformations is here')


def message(encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> Image:
    """Return (H, W[, C]) pixels as an Image whose rows end in `padding` bytes of rubbish."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<')).reshape(height, -1)
    rows = rows.view(np.uint8).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 77, np.uint8)])
    return Image(header=HEADER, height=height, width=width, encoding=encoding,
                 step=rows.shape[1], is_bigendian=int(big), data=rows.tobytes())


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize(('encoding', 'order'), [
    ('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 2]), ('bgra8', [2, 1, 0, 0])])
def test_colour_orders(ros_libraries, encoding, order, padding):
    np.testing.assert_array_equal(image_to_rgb(message(encoding, RGB[:, :, order], padding)), RGB)


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 6])
def test_sixteen_bits_are_scaled_and_rounded(ros_libraries, padding, big):
    grey = RNG.integers(0, 65536, (6, 8), np.uint16)
    expected = np.rint(grey.astype(np.float64) * 255.0 / 65535.0).astype(np.uint8)
    rgb = image_to_rgb(message('mono16', grey, padding, big))
    np.testing.assert_array_equal(rgb, np.repeat(expected[:, :, None], 3, 2))
    colour = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    expected = np.rint(colour.astype(np.float64) * 255.0 / 65535.0).astype(np.uint8)
    np.testing.assert_array_equal(image_to_rgb(message('rgb16', colour, padding, big)), expected)
    np.testing.assert_array_equal(
        image_to_rgb(message('bgr16', colour[:, :, ::-1], padding, big)), expected)


def test_grey(ros_libraries):
    grey = RGB[:, :, 0]
    for encoding in ('mono8', '8UC1'):
        rgb = image_to_rgb(message(encoding, grey, 3))
        np.testing.assert_array_equal(rgb, np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize(('encoding', 'places'), [
    ('bayer_rggb8', 'RGGB'), ('bayer_bggr8', 'BGGR'), ('bayer_gbrg8', 'GBRG'),
    ('bayer_grbg8', 'GRBG')])
def test_a_mosaic_of_one_colour_has_that_colour(ros_libraries, encoding, places):
    """Wrong patterns swap red and blue, or mix green in: a plain colour shows it everywhere."""
    colour = {'R': 200, 'G': 120, 'B': 30}
    cell = np.array([colour[c] for c in places], np.uint8).reshape(2, 2)
    rgb = image_to_rgb(message(encoding, np.tile(cell, (4, 5)), 2))
    np.testing.assert_array_equal(rgb, np.broadcast_to([200, 120, 30], (8, 10, 3)))


@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV')])
def test_yuv(ros_libraries, encoding, order):
    """Of BT.601 in studio range: Y 81, U 90, V 240 is pure red."""
    value = {'Y': 81, 'U': 90, 'V': 240}
    pair = np.array([value[c] for c in order], np.uint8).reshape(1, 2, 2)
    rgb = image_to_rgb(message(encoding, np.tile(pair, (4, 3, 1)), 4))
    assert rgb.shape == (4, 6, 3)
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int) - [255, 0, 0], 0, atol=2)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(2, 9), width=st.integers(2, 9), padding=st.integers(0, 9),
       encoding=st.sampled_from(sorted(conversions.ENCODINGS)), big=st.booleans(),
       seed=st.integers(0, 999))
def test_padding_never_shows(height, width, padding, encoding, big, seed):
    dtype, channels, _ = conversions.ENCODINGS[encoding]
    width += width % 2 if channels == 2 else 0
    pixels = np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (height, width, channels), dtype)
    padded = message(encoding, pixels, padding * np.dtype(dtype).itemsize, big)
    plain = image_to_rgb(message(encoding, pixels))
    assert plain.shape == (height, width, 3) and plain.dtype == np.uint8
    np.testing.assert_array_equal(image_to_rgb(padded), plain)


@pytest.mark.parametrize(('change', 'part'), [
    ({'encoding': 'nv21'}, "'nv21', which is not one of 16UC1"), ({'step': 23}, 'malformed'),
    ({'height': 7}, 'malformed'), ({'width': 0}, 'malformed'), ({'data': b''}, 'malformed')])
def test_malformed_images_are_refused(ros_libraries, change, part):
    broken = rgb_to_image(RGB, HEADER)
    for name, value in change.items():
        setattr(broken, name, value)
    with pytest.raises(InputError, match=part):
        image_to_rgb(broken)


def test_there_and_back(ros_libraries):
    out = rgb_to_image(RGB[:, ::2], HEADER)
    assert (out.height, out.width, out.step) == (6, 4, 12) and out.header == HEADER
    np.testing.assert_array_equal(image_to_rgb(out), RGB[:, ::2])


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


def test_compressed():
    png = CompressedImage(format='rgb8; png compressed bgr8',
                          data=encoded(RGB[:, :, ::-1], '.png'))
    np.testing.assert_array_equal(compressed_to_rgb(png), RGB)
    smooth = np.full((16, 16, 3), (200, 120, 30), np.uint8)
    jpeg = CompressedImage(format='jpeg', data=encoded(smooth[:, :, ::-1], '.jpg'))
    np.testing.assert_allclose(compressed_to_rgb(jpeg).astype(int) - smooth, 0, atol=4)
    grey = CompressedImage(format='mono8; png compressed', data=encoded(RGB[:, :, 0], '.png'))
    np.testing.assert_array_equal(compressed_to_rgb(grey), np.repeat(RGB[:, :, :1], 3, 2))


def test_a_compressed_mosaic_is_recognised():
    cell = np.tile(np.array([[200, 120], [120, 30]], np.uint8), (4, 4))
    image = CompressedImage(format='bayer_rggb8; png compressed', data=encoded(cell, '.png'))
    np.testing.assert_array_equal(compressed_to_rgb(image), np.broadcast_to([200, 120, 30],
                                                                            (8, 8, 3)))


@pytest.mark.parametrize('data', [b'', b'rubbish', encoded(RGB, '.png')[:20]])
def test_a_broken_compressed_image_is_refused(data):
    with pytest.raises(InputError, match='cannot be decoded'):
        compressed_to_rgb(CompressedImage(format='png', data=data))


def test_clouds_there_and_back(ros_libraries):
    points = RNG.normal(0.0, 50.0, (30, 3)).astype(np.float32)
    cloud = cloud_to_message(points, HEADER)
    assert (cloud.width * cloud.height, cloud.point_step, cloud.header) == (30, 12, HEADER)
    np.testing.assert_array_equal(message_to_cloud(cloud), points)
    assert len(message_to_cloud(cloud_to_message(points[:0], HEADER))) == 0


def test_a_cloud_with_other_fields_padding_and_nan(ros_libraries):
    """Two rows of two points, 28 bytes each with rubbish between, big-endian, z before x."""
    points = np.array([[1, 2, 3], [4, np.nan, 6], [7, 8, 9], [10, 11, 12]], np.float64)
    layout = np.dtype({'names': ['z', 'x', 'y'], 'formats': ['>f4', '>f8', '>f4'],
                       'offsets': [2, 8, 20], 'itemsize': 28})
    values = np.frombuffer(b'\x55' * 4 * 28, layout).copy()
    for i, name in enumerate('xyz'):
        values[name] = points[:, i]
    rows = values.reshape(2, 2).view(np.uint8).reshape(2, 56)
    kinds = {'x': (8, PointField.FLOAT64), 'y': (20, PointField.FLOAT32),
             'z': (2, PointField.FLOAT32)}
    cloud = PointCloud2(
        height=2, width=2, point_step=28, row_step=56, is_bigendian=True,
        fields=[PointField(name=n, offset=o, datatype=k, count=1) for n, (o, k) in kinds.items()],
        data=rows.tobytes())
    np.testing.assert_array_equal(message_to_cloud(cloud), points[[0, 2, 3]])
    cloud.fields = cloud.fields[:2]
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


# Cameras.

def test_the_camera_of_a_rectified_image_is_P():
    info = camera_info()
    info.k = np.eye(3).ravel()
    assert camera_of(info) == CAMERA
    check_size(np.zeros((24, 64, 3), np.uint8), camera_of(info))
    with pytest.raises(InputError, match='10 x 20 pixels, its CameraInfo says 64 x 24'):
        check_size(np.zeros((20, 10, 3), np.uint8), camera_of(info))


@pytest.mark.parametrize('rectified', [True, False])
def test_region_of_interest_then_binning(rectified):
    info = camera_info()
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 4, 40, 16
    info.binning_x = info.binning_y = 2
    assert camera_of(info, rectified) == Pinhole(
        20, 8, CAMERA.fx / 2, CAMERA.fy / 2, (CAMERA.cx - 10) / 2, (CAMERA.cy - 4) / 2)
    info.d = [-0.3, 0.1, 0.001, -0.002, 0.0]
    raw = camera_of(info, image_is_rectified=False)
    assert (raw.width, raw.fx, raw.cx, raw.k1) == (20, CAMERA.fx / 2, (CAMERA.cx - 10) / 2, -0.3)


@pytest.mark.parametrize(('model', 'd'), [
    ('plumb_bob', [-0.3, 0.1, 0.001, -0.002, 0.0]), ('plumb_bob', [-0.3, 0.1, 0.001, -0.002]),
    ('equidistant', [0.1, -0.02, 0.01, 0.0]), ('fisheye', [0.1, -0.02, 0.01, 0.0]),
    ('rational_polynomial', [-0.3, 0.1, 0.001, -0.002, 0.0, 0.05, 0.0, 0.0])])
def test_the_camera_of_a_raw_image_is_that_of_its_lens(model, d):
    camera = Pinhole(200, 120, 110.0, 112.0, 99.0, 61.0)
    info = camera_info(camera=camera)
    info.d, info.distortion_model = d, model
    points = RNG.uniform([-0.6, -0.4, 1.0], [0.6, 0.4, 1.0], (50, 1, 3))
    project = cv2.projectPoints if model not in ('equidistant', 'fisheye') else (
        cv2.fisheye.projectPoints)
    expected, _ = project(points, np.zeros(3), np.zeros(3), camera.K, np.array(d))
    found = camera_of(info, image_is_rectified=False).project(points[:, 0])[0]
    assert np.linalg.norm(found - camera.project(points[:, 0])[0], axis=1).max() > 2.0
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)
    assert camera_of(info) == camera  # once rectified, the lens is gone


def test_cameras_that_cannot_be_used_are_refused():
    info = camera_info()
    info.d, info.distortion_model = [0.1] * 5, 'unified'
    with pytest.raises(InputError, match="'unified' cannot be used"):
        camera_of(info, image_is_rectified=False)
    info.distortion_model = 'equidistant'
    with pytest.raises(InputError, match='5 coefficients of equidistant'):
        camera_of(info, image_is_rectified=False)
    info.p = np.zeros(12)
    with pytest.raises(InputError, match='image_is_rectified to false'):
        camera_of(info)
    info.d, info.k = [], np.zeros(9)
    for rectified in (True, False):
        with pytest.raises(InputError, match='not calibrated'):
            camera_of(info, rectified)


# Mounting and display.

def test_extrinsics():
    assert extrinsics_of([]) is None
    np.testing.assert_allclose(extrinsics_of(EXTRINSICS)[:3, 2], [1.0, 0.0, 0.0], atol=1e-12)
    # An optical frame, as roll and yaw of -90 degrees: its z axis looks ahead, its x right.
    T = extrinsics_of([1.0, 2.0, 3.0, -math.pi / 2, 0.0, -math.pi / 2])
    np.testing.assert_allclose(T, extrinsics_of([1.0, 2.0, 3.0, -0.5, 0.5, -0.5, 0.5]), atol=1e-12)
    with pytest.raises(InputError, match='length 1'):
        extrinsics_of([0.0] * 7)


def test_markers_and_ellipse():
    R = planar(0.0, 0.0, 0.6)[:3, :3]
    covariance = np.eye(6)
    covariance[:2, :2] = R[:2, :2] @ np.diag([9.0, 4.0]) @ R[:2, :2].T
    T = transform(translation=[5.0, 6.0, 7.0])
    candidates = Candidates(np.array([3, 1]), np.array([0.9, 0.4], np.float32), np.stack([T, T]))
    accepted = Answer(Fix(T, covariance, 0.9), None, '', candidates, {})
    markers = display.markers_message(accepted, HEADER).markers
    assert [m.ns for m in markers] == ['', 'candidates', 'scores', 'candidates', 'scores',
                                       'two_sigma']
    ellipse = markers[-1]
    assert (ellipse.scale.x, ellipse.scale.y) == pytest.approx((12.0, 8.0))
    yaw = 2.0 * math.atan2(ellipse.pose.orientation.z, ellipse.pose.orientation.w)
    assert math.remainder(yaw - 0.6, math.pi) == pytest.approx(0.0, abs=1e-9)
    rejected = Answer(None, 'low_score', '', candidates, {})
    markers = display.markers_message(rejected, HEADER).markers
    assert len(markers) == 5 and markers[1].color.r > markers[1].color.g


def test_far_maps_are_shown_about_their_origin(tmp_path):
    from saliency_i2ploc_ros.mapping.database import PlaceDatabase, write_database

    descriptors = np.eye(TINY.descriptor_dim, dtype=np.float32)[:3]
    clouds = [RNG.normal(0.0, 5.0, (50, 3)).astype(np.float32) for _ in range(3)]
    for x, frame in ((0.0, 'map'), (4e6, 'map_origin')):
        poses = np.stack([planar(x + 5.0 * i, -4.0, 0.3) for i in range(3)])
        write_database(tmp_path / frame, descriptors, poses, clouds, encoder_hash='e',
                       preprocessing_hash='p', model_name='m', submap={}, spacing_m=5.0)
        shown = display.MapDisplay(PlaceDatabase.open(tmp_path / frame), 'map')
        cloud = shown.submap(1, 7)
        assert cloud.header.frame_id == frame
        points = message_to_cloud(cloud).astype(np.float64) + shown.origin
        expected = clouds[1] @ poses[1, :3, :3].T + poses[1, :3, 3]
        np.testing.assert_allclose(points, expected, atol=1e-4)
        for limit in (1, 2, 60, 1000):
            whole = message_to_cloud(shown.whole_map(limit, 7))
            assert min(limit, 150) / 3 <= len(whole) <= limit


@pytest.mark.parametrize(('places', 'size'), [(7, 50), (50, 7), (1, 30), (13, 1)])
def test_the_whole_map_has_every_place_and_no_point_above_the_limit(places, size):
    descriptors = np.zeros((places, 2), np.float32)
    poses = np.stack([planar(100.0 * i, 0.0, 0.0) for i in range(places)])
    database = SimpleNamespace(descriptors=descriptors, T_map_base=poses, origin=np.zeros(3),
                               cloud=lambda _: np.zeros((size, 3), np.float32))
    shown = display.MapDisplay(database, 'map')
    for limit in (places, places + 1, 2 * places - 1, 3 * places, 3 * places + 1, 10**4):
        points = message_to_cloud(shown.whole_map(limit, 7))
        assert len(points) <= limit
        assert {round(x / 100.0) for x in points[:, 0]} == set(range(places))


@pytest.fixture
def tf2(monkeypatch):
    """A stand-in for tf2_ros, which knows `known` and counts what is made of it."""
    seen = SimpleNamespace(known={}, listening=0, broadcasters=0, sent=[])

    class Buffer:
        def lookup_transform(self, base, frame, time):
            return seen.known[base, frame]

    class TransformListener:
        def __init__(self, buffer, node):
            seen.listening += 1

        def unregister(self):
            seen.listening -= 1

    class StaticTransformBroadcaster:
        def __init__(self, node):
            seen.broadcasters += 1

        def sendTransform(self, message):
            seen.sent.append(message)

    monkeypatch.setitem(sys.modules, 'tf2_ros', SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener,
        StaticTransformBroadcaster=StaticTransformBroadcaster))
    return seen


class ExecutorStandIn:
    """A node whose guard condition acts when `spin` is called, as in the executor's thread."""

    def __init__(self):
        self.callback, self.triggered = None, False

    def create_guard_condition(self, callback):
        self.callback = callback
        return SimpleNamespace(trigger=lambda: setattr(self, 'triggered', True))

    def destroy_guard_condition(self, guard):
        self.callback = None

    def spin(self):
        if self.triggered:
            self.triggered = False
            self.callback()


def test_tf_is_heard_only_while_a_mounting_is_unknown(tf2):
    node = ExecutorStandIn()
    extrinsics = Extrinsics(node, 'base_link', None)
    extrinsics.listen()
    with pytest.raises(InputError, match="'left' sits in 'base_link' is not known"):
        extrinsics.of('left')
    node.spin()
    assert tf2.listening == 1
    for x, frame in ((1.0, 'left'), (2.0, 'right')):
        tf2.known['base_link', frame] = TransformStamped(transform=Transform(
            translation=Vector3(x=x), rotation=Quaternion(w=1.0)))
    assert extrinsics.of('left')[0, 3] == 1.0
    assert tf2.listening == 1  # not in the thread that asks
    node.spin()
    assert tf2.listening == 0
    extrinsics.listen()  # activated again
    assert tf2.listening == 0 and extrinsics.of('left')[0, 3] == 1.0
    with pytest.raises(InputError, match="'rear'"):
        extrinsics.of('rear')
    node.spin()
    assert tf2.listening == 1  # another camera
    assert extrinsics.of('right')[0, 3] == 2.0
    extrinsics.close()
    assert tf2.listening == 0 and node.callback is None


def test_one_broadcaster_serves_every_activation(tf2):
    node = SimpleNamespace(get_clock=lambda: SimpleNamespace(
        now=lambda: SimpleNamespace(to_msg=Time)))
    kept = None
    for x in (1.0, 2.0):
        kept = send_static_transform(node, 'map', 'map_origin', np.array([x, 0.0, 0.0]), kept)
    assert tf2.broadcasters == 1
    assert [message.transform.translation.x for message in tf2.sent] == [1.0, 2.0]


def test_ros_libraries_are_used_where_they_work():
    for name, module in (('POINT_CLOUD2', 'sensor_msgs_py.point_cloud2'),
                         ('TF_TRANSFORMATIONS', 'tf_transformations')):
        try:
            expected = importlib.import_module(module)
        except ImportError:
            expected = None
        assert getattr(conversions, name) is expected
