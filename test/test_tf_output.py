"""What fixes become on /tf, and the odometry that they are held against."""

import sys
from types import SimpleNamespace

from geometry_msgs.msg import TransformStamped
from helpers_drives import START_NS
from helpers_ros import camera_info, client_in, image_at, new_domain, write_world
from helpers_running import localizer_of
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.time import Time

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import from_quaternion, planar
from saliency_i2ploc_ros.ros import tf_output
from saliency_i2ploc_ros.ros.conversions import header_at, message_to_pose, pose_to_message
from saliency_i2ploc_ros.ros.odometry import odometry_of, OdometryTf, OdometryTopic
from saliency_i2ploc_ros.ros.tf_output import TfOutput

S = 1_000_000_000
GIVEN = {'map_frame': 'map', 'odom_frame': 'odom', 'base_frame': 'base_link',
         'odometry': 'topic', 'tf_period_s': 0.05}


def odometry(seconds, T, frame='odom', child='base_link'):
    message = Odometry(header=header_at(START_NS + round(seconds * S), frame),
                       child_frame_id=child)
    message.pose.pose = pose_to_message(T)
    return message


def drive(seconds):
    """Return where an odometry has the vehicle: on a circle, a metre a second."""
    return planar(10.0 * np.sin(0.1 * seconds), 10.0 - 10.0 * np.cos(0.1 * seconds),
                  0.1 * seconds, 0.2)


# The odometry.

def test_odometry_is_interpolated_at_the_fix():
    heard = OdometryTopic('odom', 'base_link')
    for i in range(30):
        heard.add(odometry(0.1 * i, drive(0.1 * i)))
    for seconds in (0.0, 0.1, 1.234, 2.9):
        np.testing.assert_allclose(heard.at(START_NS + round(seconds * S)), drive(seconds),
                                   atol=2e-4)  # a chord of the circle
    for seconds in (-0.01, 2.91):
        with pytest.raises(InputError, match=r'no odometry came of a time [+-]'):
            heard.at(START_NS + round(seconds * S))
    heard.add(odometry(3.5, drive(3.5)))
    with pytest.raises(InputError):
        heard.at(START_NS + 3 * S)  # over a gap of 0.6 s


def test_odometry_of_other_frames_is_refused():
    heard = OdometryTopic('odom', 'base_link')
    for frame, child in (('map', 'base_link'), ('odom', 'base_footprint'), ('odom', '')):
        with pytest.raises(InputError, match=f"is of '{child}' in '{frame}', and 'base_link' in"):
            heard.add(odometry(0.0, drive(0.0), frame, child))
    with pytest.raises(InputError, match='no odometry has come'):
        heard.at(START_NS)
    heard.add(odometry(0.0, drive(0.0), '/odom', '/base_link'))  # as ROS 1 wrote them
    assert np.isfinite(heard.at(START_NS)).all()


def test_old_odometry_goes_and_time_may_begin_anew():
    heard = OdometryTopic('odom', 'base_link')
    for i in range(300):
        heard.add(odometry(0.1 * i, drive(0.1 * i)))
    assert len(heard._kept) <= 102  # ten seconds
    heard.add(odometry(29.5, drive(0.0)))  # out of order: left out
    np.testing.assert_allclose(heard.at(START_NS + round(29.5 * S)), drive(29.5), atol=1e-9)
    heard.add(odometry(3.0, drive(7.0)))  # a bag restarted
    np.testing.assert_allclose(heard.at(START_NS + 3 * S), drive(7.0), atol=1e-9)
    assert len(heard._kept) == 1
    heard.forget()
    with pytest.raises(InputError):
        heard.at(START_NS + 3 * S)


# What is sent.

class NodeStandIn:
    """A node whose clock and steady clock the test turns."""

    def __init__(self):
        self.sent, self.timers, self.now_ns = [], [], START_NS

    def create_lifecycle_publisher(self, kind, topic, qos):
        assert topic == '/tf'
        return SimpleNamespace(publish=lambda message: self.sent.extend(message.transforms))

    def destroy_lifecycle_publisher(self, publisher):
        pass

    def create_timer(self, period, callback):
        self.timers.append(callback)
        return callback

    def destroy_timer(self, timer):
        self.timers.remove(timer)

    def get_clock(self):
        return SimpleNamespace(now=lambda: Time(nanoseconds=self.now_ns))


@pytest.fixture
def node(monkeypatch):
    """A stand-in node, and one of tf2_msgs, which the pip environment has not."""
    kind = SimpleNamespace(TFMessage=lambda transforms: SimpleNamespace(transforms=transforms))
    monkeypatch.setitem(sys.modules, 'tf2_msgs', SimpleNamespace(msg=kind))
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', kind)
    return NodeStandIn()


def pose_of(sent: TransformStamped):
    t, r = sent.transform.translation, sent.transform.rotation
    return from_quaternion([r.x, r.y, r.z, r.w], [t.x, t.y, t.z])


def stamp_of(sent: TransformStamped):
    return sent.header.stamp.sec * S + sent.header.stamp.nanosec


def test_map_to_base_is_the_fix_under_its_own_stamp(node):
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'map_to_base'}, None)
    out.start()
    fix = planar(4e6, -5e6, 2.0, 116.0)
    out.take(fix, START_NS + 7)
    sent, = node.sent
    assert (sent.header.frame_id, sent.child_frame_id) == ('map', 'base_link')
    assert stamp_of(sent) == START_NS + 7 and node.timers == []
    np.testing.assert_allclose(pose_of(sent), fix, atol=1e-9)


def test_map_to_odom_puts_the_vehicle_where_the_fix_was_taken(node):
    troubles = []
    heard = OdometryTopic('odom', 'base_link')
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'map_to_odom'}, troubles.append, heard)
    out.start()
    for i in range(21):
        heard.add(odometry(0.1 * i, drive(0.1 * i)))
    out.send()
    assert node.sent == []  # nothing is known yet
    fix = planar(500.0, -300.0, 1.0, 116.0)
    out.take(fix, START_NS + round(1.25 * S))
    node.now_ns = START_NS + round(1.9 * S)  # the answer took its time
    for _ in range(2):
        out.send()
    assert len(node.sent) == 2 and troubles == ['']
    for sent in node.sent:
        assert (sent.header.frame_id, sent.child_frame_id) == ('map', 'odom')
        assert stamp_of(sent) == node.now_ns + 100_000_000  # two periods ahead
        np.testing.assert_allclose(pose_of(sent) @ drive(1.25), fix, atol=1e-3)
    out.stop()
    assert node.timers == []
    out.send()
    assert len(node.sent) == 2  # forgotten


def test_a_fix_waits_for_its_odometry_and_not_for_ever(node, monkeypatch):
    troubles, now = [], [100.0]
    monkeypatch.setattr(tf_output, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    heard = OdometryTopic('odom', 'base_link')
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'map_to_odom'}, troubles.append, heard)
    out.take(planar(5.0, 0.0, 0.0), START_NS + S)
    heard.add(odometry(0.9, drive(0.9)))
    out.send()
    assert node.sent == troubles == []
    heard.add(odometry(1.1, drive(1.1)))
    out.send()
    assert len(node.sent) == 1 and troubles == ['']
    out.take(planar(6.0, 0.0, 0.0), START_NS + 2 * S)
    now[0] += tf_output.PATIENCE_S + 0.1
    out.send()
    assert len(troubles) == 2 and 'a fix is not on /tf: no odometry came' in troubles[1]
    heard.add(odometry(2.0, drive(2.0)))
    out.send()  # too late: the older correction still holds
    np.testing.assert_array_equal(pose_of(node.sent[-1]), pose_of(node.sent[0]))
    out.forget()  # time went back
    before = len(node.sent)
    out.send()
    assert len(node.sent) == before


def test_odometry_that_lags_by_more_than_a_fix_still_serves(node, monkeypatch):
    """Fixes each 0.1 s, odometry 0.35 s behind: each correction is of the newest that has some."""
    troubles, now = [], [100.0]
    monkeypatch.setattr(tf_output, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    heard = OdometryTopic('odom', 'base_link')
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'map_to_odom'}, troubles.append, heard)
    fixes = [planar(10.0 * i, 0.0, 0.0) for i in range(20)]
    for i, fix in enumerate(fixes):
        now[0] = 100.0 + 0.1 * i
        out.take(fix, START_NS + round(0.1 * i * S))
        heard.add(odometry(0.1 * i - 0.35, drive(0.1 * i - 0.35)))
        out.send()
        if i >= 4:  # from -0.35 s on, the latest with odometry after it is the fourth last
            np.testing.assert_allclose(pose_of(node.sent[-1]) @ drive(0.1 * (i - 4)),
                                       fixes[i - 4], atol=1e-3)
    assert len(node.sent) == 16 and set(troubles) == {''}


def test_fixes_that_never_get_odometry_are_complained_of_however_many_come(node, monkeypatch):
    troubles, now = [], [100.0]
    monkeypatch.setattr(tf_output, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'map_to_odom'}, troubles.append,
                   OdometryTopic('odom', 'base_link'))
    for i in range(15):
        now[0] = 100.0 + 0.1 * i
        out.take(planar(5.0, 0.0, 0.0), START_NS + round(0.1 * i * S))
        out.send()
        assert bool(troubles) == (0.1 * i > tf_output.PATIENCE_S)
    assert 'a fix is not on /tf: no odometry has come' in troubles[0] and node.sent == []


@pytest.mark.parametrize(('given', 'missing', 'said'), [
    ({'publish_tf': 'map_to_base'}, 'tf2_msgs', 'needs the package tf2_msgs'),
    ({'publish_tf': 'map_to_odom'}, 'tf2_msgs', 'needs the package tf2_msgs'),
    ({'publish_tf': 'map_to_odom', 'odometry': 'tf'}, 'tf2_ros', 'needs the package tf2_ros'),
    ({'publish_tf': 'map_to_odom', 'odom_frame': 'map'}, '', 'must be three frames')])
def test_what_cannot_be_sent_is_refused(node, monkeypatch, given, missing, said):
    for module in (missing, f'{missing}.msg'):
        if missing:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=said):
        full = {**GIVEN, 'sequence': 'none', **given}
        TfOutput(node, full, None, odometry_of(node, full))


def test_nothing_is_asked_for_by_default(node, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    out = TfOutput(node, {**GIVEN, 'publish_tf': 'none'}, None)
    out.start()
    out.take(planar(0.0, 0.0, 0.0), 1)
    out.close()
    assert node.sent == node.timers == []


def test_odometry_from_tf(monkeypatch):
    """With a stand-in for tf2_ros, which is not on PyPI."""
    T, state = drive(3.0), SimpleNamespace(heard=True, known={})

    class Buffer:
        def lookup_transform(self, odom, base, time):
            p, o = pose_to_message(T).position, pose_to_message(T).orientation
            return state.known[odom, base, time.nanoseconds](p, o)

        def clear(self):
            state.known.clear()

    def transform(p, o):
        return SimpleNamespace(transform=SimpleNamespace(translation=p, rotation=o))

    monkeypatch.setitem(sys.modules, 'tf2_ros', SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda buffer, node: SimpleNamespace(
            unregister=lambda: setattr(state, 'heard', False))))
    heard = OdometryTf(None, 'odom', 'base_link')
    with pytest.raises(InputError, match="TF has no 'odom' to 'base_link' at the time"):
        heard.at(START_NS)
    state.known['odom', 'base_link', START_NS] = transform
    np.testing.assert_allclose(heard.at(START_NS), T, atol=1e-9)
    heard.forget()
    assert state.known == {}
    heard.close()
    assert not state.heard


def test_fixes_correct_the_odometry_of_a_running_node(tmp_path):
    """With the real messages, where they are installed."""
    messages = pytest.importorskip('tf2_msgs.msg')
    write_world(tmp_path, 2)
    domain = new_domain()
    process = localizer_of(tmp_path, domain, publish_tf='map_to_odom', odometry='topic')
    try:
        with client_in(domain) as client:
            client.listen_to_localizer()
            heard = client.listen(messages.TFMessage, '/tf')
            image, info = client.camera()
            odom = client.node.create_publisher(Odometry, 'odom', 10)
            fixes, stamps = client.got['/localizer/fix'], iter(range(10**5))

            def corrected() -> bool:
                tick = 0.1 * next(stamps)
                info.publish(camera_info())
                odom.publish(odometry(tick - 0.05, drive(tick - 0.05)))
                odom.publish(odometry(tick + 0.05, drive(tick + 0.05)))
                image.publish(image_at(START_NS + round(tick * S)))
                client.until(lambda: heard, 0.3)
                return bool(heard)

            assert client.until(corrected, 60), process.log
            T_map_odom = pose_of(heard[0].transforms[0])
            errors = [np.abs(T_map_odom @ drive((stamp - START_NS) / S) - T).max()
                      for stamp, T in ((f.header.stamp.sec * S + f.header.stamp.nanosec,
                                        message_to_pose(f.pose.pose)) for f in fixes)]
            assert min(errors) < 1e-3
        assert process.interrupt() == 0, process.log
    finally:
        process.close()
