"""A localizer with a sequence: what moves it, and a drive that single images cannot tell."""

import itertools
import json

from geometry_msgs.msg import PoseStamped
from helpers_cli import i2ploc
from helpers_drives import CAMERA, START_NS
from helpers_ros import camera_info, client_in, EXTRINSICS, image_at, LAX, new_domain, TINY
from helpers_running import localizer_of
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import CameraInfo, Image
import torch

from saliency_i2ploc_ros.data.bags import BagMessage
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export.runtime import torch_runtime
from saliency_i2ploc_ros.geometry.poses import inverse, planar
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.mapping.database import write_database
from saliency_i2ploc_ros.ros import motion
from saliency_i2ploc_ros.ros.bag_run import Heard, localizer_parameters, run_bag, Topics
from saliency_i2ploc_ros.ros.conversions import (
    header_at,
    image_to_rgb,
    message_to_pose,
    pose_to_message,
    stamp_of,
)
from saliency_i2ploc_ros.ros.inference import load_localizer
from saliency_i2ploc_ros.ros.motion import ByOdometry, ConstantVelocity, Follower
from saliency_i2ploc_ros.ros.odometry import odometry_of, OdometryTopic

S = 1_000_000_000
NAMES = {'publish_tf': 'none', 'sequence': 'none', 'odometry': 'topic', 'odom_frame': 'odom',
         'base_frame': 'base_link'}


def odometry(seconds, T):
    message = Odometry(header=header_at(START_NS + round(seconds * S), 'odom'),
                       child_frame_id='base_link')
    message.pose.pose = pose_to_message(T)
    return message


def fixed(T):
    return Answer(Fix(T, np.eye(6), 0.9), None, '', Candidates.none(), {})


NO_FIX = Answer(None, 'undecided', '', Candidates.none(), {})


def test_odometry_is_heard_only_where_something_needs_it():
    assert odometry_of(None, NAMES) is None
    assert odometry_of(None, {**NAMES, 'sequence': 'constant_velocity'}) is None
    for needs in ({'sequence': 'odometry'}, {'publish_tf': 'map_to_odom'}):
        assert isinstance(odometry_of(None, {**NAMES, **needs}), OdometryTopic)


def test_odometry_bridges_images_that_it_missed():
    heard = OdometryTopic('odom', 'base_link')
    moves = ByOdometry(heard, patience_s=0.0)
    way = [planar(3.0 + 2.0 * i, 1.0, 0.1 * i) for i in range(4)]
    heard.add(odometry(0, way[0]))
    assert moves.to(START_NS) is None
    with pytest.raises(InputError, match='no odometry came'):
        moves.to(START_NS + 3 * S)
    for i in range(1, 4):
        heard.add(odometry(i, way[i]))
    np.testing.assert_allclose(moves.to(START_NS + 3 * S), inverse(way[0]) @ way[3], atol=1e-9)
    moves.forget()
    assert moves.to(START_NS + 3 * S) is None


def test_an_image_without_odometry_says_nothing_to_the_sequence():
    follower = Follower(None, ByOdometry(OdometryTopic('odom', 'base_link'), patience_s=0.0))
    given = follower.follow(fixed(np.eye(4)), START_NS)
    assert given.fix is None and given.rejection == 'no_odometry'
    assert 'no odometry has come on odom' in given.explanation


def test_constant_velocity_goes_on_as_fixes_went():
    moves = ConstantVelocity()
    assert moves.to(START_NS) is None
    np.testing.assert_allclose(moves.to(START_NS + S // 2),
                               planar(motion.SPEED_MPS / 2, 0.0, 0.0), atol=1e-9)
    arc = [planar(20 * np.sin(0.1 * i), 20 - 20 * np.cos(0.1 * i), 0.1 * i) for i in range(20)]
    for i in range(12):
        moves.to(START_NS + i * S)
        moves.answered(fixed(arc[i]), START_NS + i * S)
        moves.answered(NO_FIX, START_NS + i * S)
    np.testing.assert_allclose(moves.to(START_NS + 12 * S), inverse(arc[0]) @ arc[1], atol=0.02)
    moves.forget()
    assert moves.to(START_NS) is None


def test_a_sequence_begins_anew_with_the_image_after_a_jump():
    class Sequence:
        resets, moved = 0, []

        def reset(self):
            self.resets += 1

        def joined(self, answer, T_before_after, prior):
            self.moved.append(T_before_after is not None)
            return answer

    sequence = Sequence()
    follower = Follower(sequence, ConstantVelocity())
    for i in range(2):
        follower.follow(NO_FIX, START_NS + i * S)
    follower.forget()  # of another thread: an image may be at work in the sequence
    assert sequence.resets == 0
    for i in range(2):
        follower.follow(NO_FIX, START_NS + i * S)
    assert sequence.resets == 1 and sequence.moved == [False, True, False, True]


def write_alike(root, n=8):
    """
    Write model/ and map/ of two streets, each place of which looks like one of the other.

    Along the second they come in the other order, so that only the way between images tells.
    Returns a temperature that tells the images apart.
    """
    torch.manual_seed(0)
    model = DualEncoder(TINY).eval()
    save_model(model, root / 'model', {})
    runtime = torch_runtime(model)
    descriptors = np.concatenate([
        runtime.run(runtime.prepare(image_to_rgb(image_at(0, seed)), CAMERA)[None])[0]
        for seed in range(n)])
    streets = [planar(5.0 * i, 0.0, 0.0) for i in range(n)] + [
        planar(5.0 * (n - 1 - i), 400.0, 0.0) for i in range(n)]
    clouds = [np.ones((4, 3), np.float32)] * (2 * n)
    write_database(root / 'map', np.concatenate([descriptors, descriptors]), np.stack(streets),
                   clouds, encoder_hash=encoder_hash(model),
                   preprocessing_hash=preprocessing_hash(TINY), model_name='tiny', submap={},
                   spacing_m=5.0)
    alike = descriptors @ descriptors.T
    return float(1.0 - (alike - 2.0 * np.eye(n)).max()) / 8.0


def test_a_drive_that_single_images_cannot_tell(tmp_path):
    temperature = write_alike(tmp_path)
    domain = new_domain()
    process = localizer_of(tmp_path, domain, sequence='odometry', odometry='topic', top_k=6,
                           temperature=temperature, merge_radius_m=8.0, min_weight=0.7)
    try:
        with client_in(domain) as client:
            client.listen_to_localizer()
            image, info = client.camera()
            odom = client.node.create_publisher(Odometry, 'odom', 10)
            answers = client.got['/localizer/answer']
            assert client.until(lambda: image.get_subscription_count()
                                and info.get_subscription_count()
                                and odom.get_subscription_count(), 60), process.log

            attempts = iter(range(10**4))

            def send(i: int) -> bool:
                """Publish a place's image, a little later each time, until it was looked at."""
                before, now = len(answers), i + 1e-3 * next(attempts)
                info.publish(camera_info())
                for at in (now - 0.05, now + 0.05):
                    odom.publish(odometry(at, planar(7.0, 5.0 * at, np.pi / 2)))
                client.until(lambda: False, 0.05)
                image.publish(image_at(START_NS + round(now * S), i))
                return client.until(lambda: len(answers) > before, 1.0) and (
                    '"rejection": null' in answers[-1].data
                    or '"rejection": "undecided"' in answers[-1].data)

            said = []
            for i in range(8):
                assert client.until(lambda i=i: send(i), 60), process.log
                said.append(answers[-1].data)
            assert '"rejection": "undecided"' in said[0], said[0]
            assert '"accepted": true' in said[-1], said[-1]
            fixes = client.got['/localizer/fix']
            assert client.until(lambda: fixes and stamp_of(fixes[-1].header)
                                >= START_NS + 7 * S)
            T = message_to_pose(fixes[-1].pose.pose)
            np.testing.assert_allclose(T, planar(35.0, 0.0, 0.0), atol=2.5)
        assert process.interrupt() == 0, process.log
    finally:
        process.close()


def write_alike_bag(root, topics=('odom',), passes=1):
    """
    Write bag/: a drive of eight images along the first street of `write_alike`.

    passes: of 2 the same images again, with the same stamps, and odometry that goes backwards:
    along the second street.
    """
    kinds = {'/image': Image, '/camera_info': CameraInfo, '/pose': PoseStamped, **{
        f'/{topic}': Odometry for topic in topics}}
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with Writer(root / 'bag', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, kind in kinds.items():
            package = kind.__module__.partition('.')[0]
            connections[topic] = writer.add_connection(
                topic, f'{package}/msg/{kind.__name__}', typestore=typestore)

        def write(topic, seconds, message):
            writer.write(connections[topic], START_NS + round(seconds * S),
                         serialize_message(message))

        for began, i in itertools.product(range(0, 8 * passes, 8), range(8)):
            write('/camera_info', began + i - 0.2, camera_info())
            for topic in topics:
                for at in (i - 0.1, i + 0.1):  # the later one is recorded after its image
                    way = 5.0 * at if began == 0 else -5.0 * at
                    write(f'/{topic}', began + at, odometry(at, planar(7.0, way, np.pi / 2)))
            stamp = START_NS + i * S
            truth = PoseStamped(header=header_at(stamp, 'map'))
            truth.pose = pose_to_message(planar(5.0 * i, 0.0, 0.0))
            write('/pose', began + i, truth)
            write('/image', began + i + 0.01, image_at(stamp, i))


def test_a_bag_by_sequence_as_a_follower_of_its_images(tmp_path):
    """Two answers alike are told apart by the way, offline as in the node."""
    temperature = write_alike(tmp_path)
    write_alike_bag(tmp_path)
    settings = {**LAX, 'threads': 1, 'top_k': 6, 'temperature': temperature, 'merge_radius_m': 8.0,
                'sequence': 'odometry', 'camera_extrinsics': EXTRINSICS}
    options = [part for name, value in settings.items() for part in ('--set', f'{name}={value}')]
    i2ploc('evaluate-bag', tmp_path / 'bag', '--map', tmp_path / 'map', '--model',
           tmp_path / 'model', '--out', tmp_path / 'out', *options)
    answers = [json.loads(line) for line in (tmp_path / 'out/answers.jsonl').open()]
    assert len(answers) == 8 and answers[0]['rejection'] == 'undecided'
    assert answers[-1]['accepted']
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert summary['errors']['position_m']['max'] < 2.5
    first = next(i for i, answer in enumerate(answers) if answer['accepted'])
    assert summary['coverage']['first_correct_s'] == pytest.approx(first)
    assert summary['coverage']['first_correct_m'] == pytest.approx(5.0 * first)
    assert summary['acceptance']['false_runs']['count'] == 0
    assert summary['acceptance']['over_thresholds']['availability_at']['0.01'] is None  # of 8
    assert summary['provenance']['odometry'] == '/odom'


def heard(*messages):
    """Return the odometry and `Heard` of (received, stamp, x), in seconds and metres."""
    kept = OdometryTopic('odom', 'base_link')
    return kept, Heard(kept, iter([
        BagMessage('/odom', START_NS + round(came * S), 'nav_msgs/msg/Odometry',
                   serialize_message(odometry(at, planar(x, 0.0, 0.0))))
        for came, at, x in messages]))


def test_odometry_of_a_bag_is_heard_when_it_was_received():
    kept, told = heard((0.0, 0.0, 0.0), (0.2, 0.2, 2.0), (0.4, 0.4, 4.0), (0.6, 0.6, 6.0))
    told.hear(START_NS + S // 10)
    assert kept.newest_ns == START_NS
    told.wait_for(START_NS + S // 10, START_NS + S // 10)
    assert kept.newest_ns == START_NS + S // 5
    assert kept.at(START_NS + S // 10)[0, 3] == pytest.approx(1.0)
    # An image of a time to come: a node waits no longer than this.
    told.wait_for(START_NS + 9 * S, START_NS + S // 5)
    assert kept.newest_ns == START_NS + 2 * S // 5


@pytest.mark.parametrize('late', [0, 1])
def test_odometry_of_a_bag_goes_back_with_its_images(late):
    """Of the first pass some messages come after the second's first image: they do not count."""
    first = [(0.1 * i, 0.1 * i, i) for i in range(80)]
    second = [(7.95 + 0.1 * i, 0.1 * i, 100.0 + i) for i in range(3)]
    between = [(7.95 + 0.01 * i, 7.95, 79.5) for i in range(late)]
    kept, told = heard(*first, *between, *second)
    came = START_NS + round((7.93 if late else 7.97) * S)
    told.hear(came)
    told.time_went_back = True  # as the image's stamp says
    told.wait_for(START_NS + S // 20, came)
    assert kept.at(START_NS + S // 20)[0, 3] == pytest.approx(100.5)
    with pytest.raises(InputError):
        kept.at(START_NS + 5 * S)


def test_a_bag_whose_time_goes_back_is_followed_anew(tmp_path):
    """By the odometry of its own pass: the second time along the other street."""
    temperature = write_alike(tmp_path)
    write_alike_bag(tmp_path, passes=2)
    given = {**localizer_parameters(None, [
        f'model={tmp_path / "model"}', f'database={tmp_path / "map"}', 'sequence=odometry']),
        **LAX, 'threads': 1, 'top_k': 6, 'temperature': temperature, 'merge_radius_m': 8.0,
        'camera_extrinsics': EXTRINSICS}
    localizer = load_localizer(given)
    records = run_bag(tmp_path / 'bag', Topics({'': '/image'}, odometry='/odom'), localizer, given)
    localizer.close()
    assert [r.rejection for r in records[::8]] == ['undecided', 'undecided']
    assert len(records) == 16 and records[8].stamp_ns == records[0].stamp_ns
    for last, there in ((records[7], [35.0, 0.0]), (records[15], [0.0, 400.0])):
        assert last.rejection is None
        np.testing.assert_allclose(last.estimate[:2], there, atol=2.5)


@pytest.mark.parametrize(('topics', 'why'), [
    ((), 'has 0 topics of odometry'), (('odom', 'wheels'), 'has 2 topics of odometry')])
def test_a_bag_without_its_odometry_is_refused(tmp_path, topics, why):
    write_alike(tmp_path)
    write_alike_bag(tmp_path, topics)
    with pytest.raises(InputError, match=why):
        i2ploc('evaluate-bag', tmp_path / 'bag', '--map', tmp_path / 'map', '--out',
               tmp_path / 'out', '--set', 'sequence=odometry')
    with pytest.raises(InputError, match='has no topic of Odometry'):
        run_bag(tmp_path / 'bag', Topics({}), None, {'sequence': 'odometry'})
