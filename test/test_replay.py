"""What replay publishes, in which order and under which stamps."""

import json

from helpers_drives import write_drive
from helpers_ros import client_in, new_domain, Process
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from saliency_i2ploc_ros.data import bag_messages
from saliency_i2ploc_ros.data.bag_messages import typestore
from saliency_i2ploc_ros.data.bags import BagReader, part_of, write_bag
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.ros import replay_node
from saliency_i2ploc_ros.ros.moments import stamp_in
from saliency_i2ploc_ros.ros.running import ros

START_NS = 1_700_000_000 * 10**9
IMAGE, INFO = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CameraInfo'
TEXT, CLOCK = 'std_msgs/msg/String', 'rosgraph_msgs/msg/Clock'
GAP_NS = 100_000_000


def made(kind, stamp, topic):
    """Return a message of a type; what it holds is its stamp alone."""
    header = bag_messages.header(stamp, topic)
    if kind == IMAGE:
        return bag_messages.message(
            'sensor_msgs/Image', header=header, height=0, width=0, encoding='rgb8',
            is_bigendian=0, step=0, data=np.zeros(0, np.uint8))
    if kind == CLOCK:
        return bag_messages.message('rosgraph_msgs/Clock', clock=header.stamp)
    return bag_messages.message('std_msgs/String', data='x')


def write(path, rows):
    """Write a bag of rows (seconds, topic, kind)."""
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for seconds, topic, kind in rows:
            stamp = START_NS + round(seconds * 1e9)
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=typestore)
            writer.write(connections[topic], stamp,
                         typestore.serialize_cdr(made(kind, stamp, topic), kind))
    return path


class Heard:
    """A publisher that keeps what it is given; an image is answered if anyone is to."""

    def __init__(self, topic, log, answer, subscribers):
        self.topic, self.log, self.answer, self.subscribers = topic, log, answer, subscribers

    def publish(self, message):
        self.log.append((self.topic, message))
        if self.answer is not None and 'image' in self.topic:
            self.answer(self.topic, stamp_in(message))

    def get_subscription_count(self):
        return self.subscribers

    def wait_for_all_acked(self, _):
        return True


@pytest.fixture
def play(monkeypatch):
    """Return what plays a bag within this process and returns (topic, message) as published."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(new_domain()))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    monkeypatch.setattr(replay_node, 'SETTLE_S', 0.0)

    def played(bag, answers=None, unheard=(), **params):
        arguments = ['--ros-args', '-p', f'bag:={bag}', '-p', 'rate:=0.0']
        for name, value in params.items():
            arguments += ['-p', f'{name}:={value}']
        log = []
        with ros(arguments) as executor:
            node = replay_node.Replay(executor)

            def answer(topic, stamp):
                if answers is None or topic in answers:
                    node._on_answer(String(data=json.dumps({'stamp_ns': stamp})))

            node.create_publisher = lambda kind, topic, qos: Heard(
                topic, log, answer, 0 if topic in unheard else 1)
            if node._clock is not None:
                node._clock = Heard('/clock', log, None, 1)
            node.play()
            played.unanswered = node.unanswered
        return log

    return played


def stamps(log, topic):
    return [stamp_in(message) for name, message in log if name == topic]


def clock_of(log):
    return [m.clock.sec * 10**9 + m.clock.nanosec for t, m in log if t == '/clock']


def test_messages_go_out_as_they_are_in_the_bag(tmp_path, play):
    write_drive(tmp_path / 'drive')
    drive = part_of(open_drive(tmp_path / 'drive'), lidar=False)
    write_bag(drive, tmp_path / 'bag')
    log = play(tmp_path / 'bag')
    with BagReader(tmp_path / 'bag') as bag:
        stored = [(m.topic, m.data) for m in bag.messages() if m.topic != '/tf_static']
        first_info = next(bag.messages(['/kitti360/image_00/camera_info'])).data
    published = [(topic, data) for topic, data in log if topic not in ('/clock', '/tf_static')]
    # The calibration goes ahead, then everything in its order, byte by byte.
    assert published == [('/kitti360/image_00/camera_info', first_info), *stored]
    times = clock_of(log)
    assert times == sorted(times) and times[-1] == drive.cameras['image_00'].stamps_ns[-1]


def test_a_window_of_the_bag(tmp_path, play):
    rows = [(0.1 * i, '/a/image', IMAGE) for i in range(10)]
    log = play(write(tmp_path / 'bag', [(0.0, '/talk', TEXT), *rows]),
               start_s=0.25, duration_s=0.4, clock=False)
    assert [topic for topic, _ in log] == ['/a/image'] * 4
    assert stamps(log, '/a/image') == [START_NS + i * GAP_NS for i in (3, 4, 5, 6)]


def test_loops_repeat_the_stamps_or_move_them_on(tmp_path, play):
    rows = [(0.1 * i, '/a/image', IMAGE) for i in range(3)]
    bag = write(tmp_path / 'bag', rows)
    recorded = [START_NS + i * GAP_NS for i in range(3)]
    log = play(bag, loops=3)
    assert stamps(log, '/a/image') == recorded * 3
    assert len({m for t, m in log if t == '/a/image'}) == 3
    log = play(bag, loops=3, restamp=True)
    # Of 0.2 s the bag is, and 0.1 s lies between two loops.
    on = [START_NS + i * GAP_NS for i in range(9)]
    assert stamps(log, '/a/image') == on and clock_of(log) == on
    images = [deserialize_message(m, Image) for t, m in log if t == '/a/image']
    assert {image.header.frame_id for image in images} == {'/a/image'}
    assert images[8].encoding == 'rgb8'


def test_a_clock_in_the_bag_gives_way_and_topics_can_be_chosen(tmp_path, play):
    bag = write(tmp_path / 'bag', [
        (5.0, '/clock', CLOCK), (5.1, '/a/image', IMAGE),
        (5.2, '/talk', TEXT)])
    log = play(bag)
    assert clock_of(log) == [START_NS + 5_100_000_000, START_NS + 5_200_000_000]
    log = play(bag, clock=False)
    assert [t for t, _ in log] == ['/clock', '/a/image', '/talk']
    assert isinstance(log[0][1], bytes) and deserialize_message(log[0][1], Clock).clock.sec > 0
    assert [t for t, _ in play(bag, clock=False, topics='/talk')] == ['/talk']


def test_what_was_latched_before_a_window_is_published_too(tmp_path, play, monkeypatch):
    monkeypatch.setattr(replay_node, 'LATCHED_TOPICS', ('/robot_description',))
    bag = write(tmp_path / 'bag', [
        (0.0, '/robot_description', TEXT), (0.0, '/talk', TEXT),
        (1.0, '/a/image', IMAGE)])
    log = play(bag, start_s=0.5, clock=False)
    assert [topic for topic, _ in log] == ['/robot_description', '/a/image']


def test_in_lock_step_several_cameras_are_one_moment(tmp_path, play):
    rows = []
    for i in range(3):
        rows += [(0.1 * i, '/a/image', IMAGE), (0.1 * i + 0.004, '/b/image', IMAGE)]
    bag = write(tmp_path / 'bag', rows)
    log = play(bag, answers=('/a/image',), answer_timeout_s=0.2, clock=False)
    assert [t for t, _ in log] == ['/a/image', '/b/image'] * 3 and play.unanswered == 0
    # Only one is listened to: the other is not waited for.
    log = play(bag, answers=('/a/image',), unheard=('/b/image',), answer_timeout_s=0.2,
               clock=False)
    assert len(log) == 6 and play.unanswered == 0
    # Nobody answers: each moment is missed once, not each image.
    play(bag, answers=(), answer_timeout_s=0.05, clock=False)
    assert play.unanswered == 3


@pytest.mark.parametrize(('given', 'expected'), [
    ({'bag': 'nothing'}, 'there is no bag'), ({'bag': '.'}, 'no metadata.yaml'),
    ({}, 'nobody subscribed'), ({'start_s': 99.0}, 'the bag lasts 1.0 s'),
    ({'topics': '/other'}, 'topics names /other'), ({'wait_for': '/other'}, 'wait_for names')])
def test_what_cannot_be_played_is_one_line(tmp_path, monkeypatch, capsys, given, expected):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(new_domain()))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    write(tmp_path / 'bag', [(0.0, '/a/image', IMAGE), (1.0, '/a/image', IMAGE)])
    given = {'bag': 'bag', 'wait_timeout_s': 0.1, **given}
    given['bag'] = tmp_path / given['bag']
    arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    with pytest.raises(SystemExit) as ended:
        replay_node.main(['--ros-args', *arguments])
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith('replay: ') and expected in line


def test_a_camera_without_a_message_does_not_stop_a_replay_and_an_interrupt_ends_it(tmp_path):
    """As a process, over DDS, at its own pace, again and again."""
    with Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/front/camera_info', INFO, typestore=typestore)
        talk = writer.add_connection('/talk', TEXT, typestore=typestore)
        writer.write(talk, START_NS, typestore.serialize_cdr(made(TEXT, 0, ''), TEXT))
    domain = new_domain()
    process = Process('replay', domain, tmp_path, bag=tmp_path / 'bag', wait_for='/talk', loops=0)
    try:
        with client_in(domain) as client:
            heard = client.listen(String, '/talk')
            assert client.until(lambda: len(heard) > 2, 60), process.log
        assert process.interrupt() == 0 and 'Traceback' not in process.log, process.log
    finally:
        process.close()
