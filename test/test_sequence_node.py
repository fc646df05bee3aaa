"""A localizer with a sequence: what moves it, and a drive that single images cannot tell."""

from helpers_drives import CAMERA, START_NS
from helpers_ros import camera_info, client_in, image_at, new_domain, TINY
from helpers_running import localizer_of
from nav_msgs.msg import Odometry
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export.runtime import torch_runtime
from saliency_i2ploc_ros.geometry.poses import inverse, planar
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.mapping.database import write_database
from saliency_i2ploc_ros.ros import motion
from saliency_i2ploc_ros.ros.bag_run import run_bag, Topics
from saliency_i2ploc_ros.ros.conversions import (
    header_at,
    image_to_rgb,
    message_to_pose,
    pose_to_message,
    stamp_of,
)
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


def test_odometry_bridges_images_that_it_missed(monkeypatch):
    monkeypatch.setattr(motion, 'PATIENCE_S', 0.0)
    heard = OdometryTopic('odom', 'base_link')
    moves = ByOdometry(heard)
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


def test_an_image_without_odometry_says_nothing_to_the_sequence(monkeypatch):
    monkeypatch.setattr(motion, 'PATIENCE_S', 0.0)
    follower = Follower(None, ByOdometry(OdometryTopic('odom', 'base_link')))
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
        assert process.interrupt() == 0
    finally:
        process.close()


def test_a_bag_is_not_answered_as_if_there_were_no_sequence(tmp_path):
    with pytest.raises(InputError, match='needs the running node'):
        run_bag(tmp_path, Topics({}), None, {'sequence': 'odometry'})
