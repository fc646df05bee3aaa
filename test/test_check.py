"""`check`: all right, each thing missing in turn, and a localizer that runs already."""

from collections.abc import Iterator
import contextlib
import os
import re
import shutil
import threading
import time
from types import SimpleNamespace

from geometry_msgs.msg import TransformStamped, Vector3
from helpers_drives import T_base_camera
from helpers_ros import (
    camera_info,
    Client,
    client_in,
    EXTRINSICS,
    image_at,
    LAX,
    new_domain,
    Process,
    SPACE,
    write_world,
)
from lifecycle_msgs.srv import GetState
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import transform
from saliency_i2ploc_ros.localization.visibility import visibility_of
from saliency_i2ploc_ros.ros import bystander, check_node, checks
from saliency_i2ploc_ros.ros.checks import ERROR, Heard, OK, WARN
from saliency_i2ploc_ros.ros.conversions import pose_to_message, rgb_to_image

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    return SimpleNamespace(root=root, good={
        'model': root / 'model', 'database': root / 'map', 'camera_extrinsics': EXTRINSICS,
        'listen_s': 10.0, **LAX})


@contextlib.contextmanager
def camera(client: Client, image: str = 'image', info: str | None = 'camera_info',
           kind: type = Image, change=lambda message: None, behind_s: float = 0.0,
           qos: QoSProfile | int = 5) -> Iterator[None]:
    """Publish images, and CameraInfos if `info` is given, at 20 Hz until the block ends."""
    images = client.node.create_publisher(kind, image, qos)
    infos = client.node.create_publisher(CameraInfo, info, qos) if info else None
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.05):
            message = image_at(time.time_ns() - int(behind_s * 1e9))
            if kind is CompressedImage:
                message = CompressedImage(header=message.header)
            change(message)
            images.publish(message)
            if infos is not None:
                infos.publish(camera_info(time.time_ns()))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def client(monkeypatch) -> Iterator[Client]:
    domain = new_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    with client_in(domain) as found:
        yield found


@pytest.fixture
def check(world, capsys, monkeypatch):
    """Run `check` in this process with all that is good but for what is given otherwise."""
    def run(*remaps: str, settle_s: float = 0.1, **params) -> SimpleNamespace:
        # How long a running localizer may stay unseen, which most tests have not.
        monkeypatch.setattr(bystander, 'SETTLE_S', settle_s)
        arguments = ['--ros-args']
        for remap in remaps:
            arguments += ['-r', remap]
        for key, value in {**world.good, **params}.items():
            if value is not None:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                arguments += ['-p', f'{key.replace("__", ".")}:={text}']
        with pytest.raises(SystemExit) as ended:
            check_node.main(arguments)
        text = capsys.readouterr().out
        said: dict[str, list[tuple[str, str]]] = {}
        for level, subject, rest in re.findall(r'^(OK|WARN|ERROR) +(\S+) +(.*)$', text, re.M):
            said.setdefault(subject, []).append((level, rest))
        return SimpleNamespace(code=ended.value.code, said=said, text=text)
    return run


def test_all_is_well(client, check):
    with camera(client):
        found = check()
    assert found.code == 0, found.text
    assert set(found.said) == {'node', 'database', 'model', 'image', 'camera_info', 'stamps',
                               'encoding', 'calibration', 'mounting', 'answer'}
    assert {level for lines in found.said.values() for level, _ in lines} == {OK}
    assert '12 places every 5 m' in found.text and 'all is well' in found.text
    assert re.search(r'/image comes at [\d.]+ Hz', found.text)
    assert 'rgb8, 64 x 24' in found.text
    assert "'image_00_optical' is at 1.50, 0.06, 1.55 m in 'base_link'" in found.text


def test_topics_of_another_name_are_proposed(client, check):
    with camera(client, '/front/image_rect', '/front/camera_info'):
        found = check(listen_s=2.0)
        assert found.code == 2
        (level, text), = found.said['image']
        assert level == ERROR and 'nothing publishes /image' in text
        assert '`-r image:=/front/image_rect`' in text
        assert '`-r camera_info:=/front/camera_info`' in found.said['camera_info'][0][1]
        # What it proposes works.
        remaps = re.findall(r'`-r (\S+)`', found.text)
        assert check(*remaps).code == 0


def test_images_alone_are_not_enough(client, check):
    with camera(client, info=None):
        found = check(listen_s=2.0)
    assert found.code == 2 and found.said['image'][0][0] == OK
    assert found.said['camera_info'][0][0] == ERROR
    assert 'no other topic has sensor_msgs/msg/CameraInfo' in found.text
    assert 'answer' not in found.said


def test_a_topic_of_another_type(client, check):
    with camera(client, kind=CompressedImage):
        found = check()
    assert found.code == 2
    assert '/image is sensor_msgs/msg/CompressedImage, sensor_msgs/msg/Image is needed' \
        in found.said['image'][0][1]


def test_the_other_transport_is_proposed(client, check):
    with camera(client, 'image/compressed', kind=CompressedImage):
        found = check(listen_s=2.0)
    assert '/image/compressed is there: set image_transport to compressed' in found.text


def test_a_qos_that_does_not_fit(client, check):
    with camera(client, qos=BEST_EFFORT):
        assert check().code == 0
        found = check(**{'qos_overrides./image.subscription.reliability': 'reliable'})
    assert found.code == 2
    (level, text), = found.said['image']
    assert level == ERROR and text.startswith('client publishes /image with a QoS')
    assert 'qos_overrides./image.subscription.reliability to best_effort' in text
    assert found.said['camera_info'][0][0] == OK


def test_a_publisher_that_is_silent(client, check):
    client.camera()
    found = check(listen_s=1.0)
    assert found.code == 2
    assert '/image has a publisher, but nothing came in 1 s' in found.said['image'][0][1]
    assert 'reliable_images:=true' in found.text


def test_images_that_cannot_be_read(client, check):
    with camera(client, change=lambda m: setattr(m, 'encoding', 'hsv8')):
        found = check()
    (level, text), = found.said['encoding']
    assert found.code == 2 and level == ERROR and "'hsv8'" in text and 'answer' not in found.said


def test_stamps_far_from_the_clock(client, check):
    with camera(client, behind_s=1000.0):
        found = check()
        assert found.code == 1 and 'use_sim_time:=true' in found.said['stamps'][0][1]
        found = check(use_sim_time=True)
        assert found.code == 2 and 'nothing publishes /clock' in found.said['stamps'][0][1]


def test_a_mounting_that_nobody_says(client, check):
    with camera(client):
        found = check(camera_extrinsics=None, listen_s=2.0)
    (level, text), = found.said['mounting']
    assert found.code == 2 and level == ERROR
    assert "'image_00_optical'" in text and "'base_link'" in text and '/tf_static' in text


@pytest.mark.parametrize(('wrong', 'subject', 'text'), [
    ({'database': None}, 'database', 'the parameter database is empty'),
    ({'database': '/nowhere'}, 'database', '/nowhere'),
    ({'database': 'altered'}, 'database', 'descriptors.npy'),
    ({'database': 'other'}, 'model', 'was built with encoder 0123456789abcdef'),
    ({'model': '/nowhere'}, 'model', '/nowhere'),
    ({'runtime': 'pt2'}, 'model', 'i2ploc export'),
    ({'camera_extrinsics': '[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]'}, 'mounting', 'length 1'),
])
def test_files_and_parameters_that_do_not_serve(world, client, check, wrong, subject, text):
    wrong = dict(wrong)
    if wrong.get('database') in ('altered', 'other'):
        name = wrong['database']
        wrong['database'] = world.root / name
        if name == 'altered':
            shutil.copytree(world.root / 'map', world.root / name)
            with (world.root / name / 'descriptors.npy').open('r+b') as file:
                file.seek(-4, 2)
                file.write(b'\0\0\0\0')
    with camera(client):
        found = check(**wrong)
    assert found.code == 2
    (level, said), = found.said[subject]
    assert level == ERROR and text in said
    assert found.said['image'][0][0] == OK, 'the rest is looked at all the same'


def test_of_several_cameras_each_is_looked_at(client, check):
    rig = {'cameras': '[front, left]', 'camera_extrinsics': EXTRINSICS * 2}
    with camera(client, 'front/image', 'front/camera_info'):
        found = check(listen_s=2.0, **rig)
        assert found.code == 2 and found.said['front/image'][0][0] == OK
        assert 'nothing publishes /left/image' in found.said['left/image'][0][1]
        assert 'front/mounting' in found.said and 'left/mounting' not in found.said
        with camera(client, 'left/image', 'left/camera_info'):
            found = check(**rig)
            assert found.code == 0, found.text
            assert found.said['left/mounting'][0][0] == OK and 'answer' in found.said


def test_an_odometry_of_other_frames(client, check):
    def of(child: str):
        message = Odometry()
        message.header.frame_id, message.child_frame_id = 'odom', child
        message.pose.pose.orientation.w = 1.0
        return lambda _: odometry.publish(message)

    odometry = client.node.create_publisher(Odometry, 'odom', 5)
    given = {'publish_tf': 'map_to_odom', 'odometry': 'topic', 'listen_s': 2.0}
    with camera(client, change=of('base_footprint')):
        found = check(**given)
    assert found.code == 2
    assert [text for level, text in found.said['odom'] if level == ERROR and
            "'base_footprint' in 'odom'" in text]
    with camera(client, change=of('base_link')):
        assert {level for level, _ in check(**given).said['odom']} == {OK}


def test_tf_says_where_the_camera_is_and_who_else_publishes(client, check):
    tf2_ros = pytest.importorskip('tf2_ros')

    def edge(parent: str, child: str, T=np.eye(4)) -> TransformStamped:
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id, pose = parent, pose_to_message(T)
        p = pose.position
        message.transform.translation = Vector3(x=p.x, y=p.y, z=p.z)
        message.transform.rotation = pose.orientation
        return message

    broadcaster = tf2_ros.StaticTransformBroadcaster(client.node)
    edges = [edge('base_link', 'image_00_optical', T_base_camera)]
    given = {'camera_extrinsics': None, 'publish_tf': 'map_to_odom'}
    with camera(client):
        broadcaster.sendTransform(edges)
        found = check(listen_s=3.0, **given)
        assert found.code == 2 and found.said['mounting'][0][0] == OK, found.text
        assert 'by TF' in found.said['mounting'][0][1]
        assert "TF has no 'odom' to 'base_link'" in found.said['tf'][0][1]
        broadcaster.sendTransform([*edges, edge('odom', 'base_link')])
        found = check(**given)
        assert found.code == 0 and found.said['tf'][0][0] == OK, found.text
        broadcaster.sendTransform([*edges, edge('odom', 'base_link'), edge('map', 'odom')])
        found = check(**given)
        assert found.code == 2 and "'map' to 'odom' is on TF already" in found.said['tf'][-1][1]


def test_a_parameter_that_is_refused(client, check):
    found = check(min_weight=2.0)
    assert found.code == 2 and 'min_weight' in found.said['parameters'][0][1]


def test_a_running_localizer_is_looked_at_as_it_is(world, client, check):
    process = Process('localizer', int(os.environ['ROS_DOMAIN_ID']), world.root,
                      f'image:={SPACE}/image_rect', f'camera_info:={SPACE}/camera_info',
                      use_sim_time=True,
                      **{k: v for k, v in world.good.items() if k != 'listen_s'})
    try:
        def active() -> bool:
            state = client.call(GetState, '/localizer/get_state', GetState.Request(), 60)
            return state.current_state.label == 'active'

        assert client.until(active, 60), process.log
        clock = client.node.create_publisher(Clock, '/clock', 1)
        with camera(client, f'{SPACE}/image_rect', f'{SPACE}/camera_info',
                    change=lambda image: clock.publish(Clock(clock=image.header.stamp))):
            found = check(settle_s=10.0, **dict.fromkeys([*world.good][:3]),
                          **dict.fromkeys(LAX))
        assert found.code == 0, found.text
        assert '/localizer is active' in found.said['node'][0][1]
        assert f'{SPACE}/image_rect comes' in found.text
    finally:
        process.close()


# What needs no graph.


def heard(stamps_ns, delays_s=(0.0,), arrivals=(0.0, 0.1)) -> Heard:
    return Heard('image', '/image', Image, BEST_EFFORT, list(arrivals), list(delays_s),
                 list(stamps_ns))


def test_stamps():
    assert checks.stamp_finding(heard([1, 2]), False, False).level == OK
    assert checks.stamp_finding(heard([0, 0]), False, False).level == ERROR
    assert 'two publishers' in checks.stamp_finding(heard([2, 1]), False, False).text
    found = checks.stamp_finding(heard([1, 2], [9.0]), False, True)
    assert found.level == WARN and 'set use_sim_time to true' in found.text
    assert 'for the driver' in checks.stamp_finding(heard([1, 2], [-9.0]), True, True).text


def test_calibration():
    def levels(info, rectified=True, topic='/camera/image_rect'):
        return [f.level for f in checks.calibration_findings(info, rectified, topic)[0]]

    info = camera_info()
    assert levels(info) == [OK]
    info.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    assert levels(info, topic='/camera/image_raw') == [WARN]
    assert levels(info, rectified=False, topic='/camera/image_raw') == [OK]
    assert levels(info, rectified=False) == [WARN]
    assert levels(CameraInfo()) == [ERROR]


def test_image_and_calibration_that_do_not_belong_together():
    image = np.zeros((24, 64, 3), np.uint8)
    lens = Pinhole(64, 24, 25.0, 25.0, 32.0, 12.0)
    assert not list(checks.agreement_findings(image, 'a', lens, 'a'))
    found, = checks.agreement_findings(image, 'a', lens, 'b')
    assert found.level == WARN and "'a'" in found.text and "'b'" in found.text
    found, = checks.agreement_findings(image[:12], 'a', lens, 'a')
    assert found.level == ERROR and '64 x 12' in found.text


def test_a_frame_that_is_not_optical_looks_up():
    up = transform(np.eye(3), [1.0, 0.0, 1.5])
    assert checks.mounting_finding('camera', 'base_link', up, True).level == ERROR


def test_an_image_that_shows_nothing():
    message = image_at(0)
    message.data = bytes(len(message.data))
    found, image = checks.image_finding(message, 4.0, 0.4)
    assert found.level == WARN and not image.any()


def test_whether_an_image_shows_something_is_judged_as_the_localizer_does():
    message = image_at(0)
    _, image = checks.image_finding(message, 0.0, 0.0)
    levels, share = visibility_of(image)
    for contrast, visible, level in ((levels - 1e-3, share, OK), (levels + 1e-3, share, WARN),
                                     (0.0, share + 1e-3, WARN)):
        assert checks.image_finding(message, contrast, visible)[0].level == level
    # Blue of many levels: the mean of the channels has three times the contrast of the grey.
    pixels = np.zeros((90, 160, 3), np.uint8)
    pixels[..., 2] = np.linspace(0, 40, 160)
    found, _ = checks.image_finding(rgb_to_image(pixels, message.header), 2.0, 0.0)
    assert np.std(pixels.mean(axis=2)) > 2.0 and found.level == WARN


def test_the_code_is_that_of_the_worst():
    one = [checks.Finding(level, '', '') for level in (OK, WARN, ERROR)]
    assert [checks.exit_code(one[:n]) for n in range(4)] == [0, 0, 1, 2]


def test_likeness_of_names():
    topics = ['/rear/depth', '/front/image_raw', '/front/image_rect', '/x']
    assert checks.similar('/camera/image_rect', topics, 1) == ['/front/image_rect']
