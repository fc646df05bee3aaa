"""What a localizer says over DDS, of a map far from its zero, and what it makes on demand."""

from collections.abc import Iterator
import json
from pathlib import Path
from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from helpers_drives import START_NS
from helpers_ros import (
    camera_info,
    Client,
    client_in,
    image_at,
    new_domain,
    TINY,
    write_world,
)
from helpers_running import Inside
from lifecycle_msgs.msg import State
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from saliency_i2ploc_ros.encoders.files import encoder_hash, load_model, preprocessing_hash
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.fix import Answer, Candidates
from saliency_i2ploc_ros.localization.looks import query_look, saliency_look
from saliency_i2ploc_ros.mapping.database import write_database
from saliency_i2ploc_ros.ros import outputs
from saliency_i2ploc_ros.ros.complaints import Complaints
from saliency_i2ploc_ros.ros.conversions import (
    image_to_rgb,
    message_to_cloud,
    message_to_pose,
    stamp_of,
)
from saliency_i2ploc_ros.ros.outputs import fitting, Outputs
from saliency_i2ploc_ros.ros.pipeline import Answered

FAR = np.array([4_321_000.25, 5_432_000.5, 116.0])
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def far(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """An active localizer in a map of one place far from its zero, and a client with a camera."""
    root: Path = tmp_path_factory.mktemp('far')
    write_world(root, 2)
    model = load_model(root / 'model')
    place = planar(0.0, 0.0, 2.5)
    place[:3, 3] = FAR
    cloud = np.random.default_rng(0).normal(0.0, 10.0, (40, 3)).astype(np.float32)
    write_database(root / 'far', np.eye(TINY.descriptor_dim, dtype=np.float32)[:1], place[None],
                   [cloud], encoder_hash=encoder_hash(model),
                   preprocessing_hash=preprocessing_hash(TINY), model_name='tiny', submap={},
                   spacing_m=5.0)
    inside = Inside(root, new_domain(), '-p',
                    'qos_overrides./odd/image.subscription.reliability:=reliable')
    try:
        inside.set(database=str(root / 'far'), publish_initialpose=True)
        assert inside.node.start()
        with client_in(inside.node.context.get_domain_id()) as client:
            client.listen_to_localizer()
            client.listen(PoseWithCovarianceStamped, '/initialpose')
            yield SimpleNamespace(inside=inside, client=client, cloud=cloud, place=place,
                                  camera=client.camera(), seed=0)
    finally:
        inside.close()


def answer_to(far, seen) -> int:
    """Publish images until `seen()`; return the stamp of the last."""
    image, info = far.camera
    stamp = 0

    def done() -> bool:
        nonlocal stamp
        far.seed += 1
        stamp = START_NS + far.seed * 10**7
        info.publish(camera_info())
        image.publish(image_at(stamp, far.seed))
        far.inside.until(far.client, seen, 0.3)
        return bool(seen())

    assert far.inside.until(far.client, done, 60.0)
    return stamp


def test_fixes_far_from_zero_lose_nothing_and_initialpose_keeps_nav2s_rules(far):
    client: Client = far.client
    poses = client.got['/initialpose']
    answer_to(far, lambda: poses and client.got['/localizer/fix'])
    for message in (client.got['/localizer/fix'][0], poses[0]):
        np.testing.assert_allclose(message_to_pose(message.pose.pose), far.place, atol=1e-9)
        q = message.pose.pose.orientation
        assert abs(np.linalg.norm([q.x, q.y, q.z, q.w]) - 1.0) < 1e-4
        assert message.header.frame_id == 'map'
    P = np.reshape(poses[0].pose.covariance, (6, 6))
    assert np.array_equal(P, np.diag(np.diag(P))) and np.diag(P).min() > 0.0 and P.max() < 1e9
    assert stamp_of(poses[0].header) >= START_NS


def test_clouds_far_from_zero_are_drawn_about_their_origin(far):
    heard = far.client.listen(PointCloud2, '/localizer/map', LATCHED)
    assert far.inside.until(far.client, lambda: heard)
    assert heard[0].header.frame_id == 'map_origin'
    shown = message_to_cloud(heard[0]).astype(np.float64) + np.round(FAR)
    expected = far.cloud @ far.place[:3, :3].T + far.place[:3, 3]
    np.testing.assert_allclose(shown, expected, atol=1e-4)


def test_saliency_is_made_only_while_someone_looks(far, monkeypatch):
    made = []
    whole = outputs.saliency_looks
    monkeypatch.setattr(outputs, 'saliency_looks', lambda *a: made.append(a) or whole(*a))
    answers = far.client.got['/localizer/answer']
    answers.clear()
    answer_to(far, lambda: answers)
    assert made == []
    looks: list[Image] = far.client.listen(Image, '/localizer/saliency', BEST_EFFORT)
    answer_to(far, lambda: looks)
    seen = image_to_rgb(looks[0])
    assert looks[0].header.frame_id == 'image_00_optical'
    answer, views, config = next(a for a in made
                                 if np.array_equal(fitting(whole(*a)[0]), seen))
    view, = views
    look = query_look(view.image, view.camera, config)
    expected = fitting(saliency_look(look, answer.saliency[0], config))
    assert np.array_equal(seen, expected) and len(np.unique(seen)) > 50
    # The overlay is not the image.
    assert np.abs(seen.astype(int) - fitting(look)).mean() > 5.0


def test_only_an_active_node_speaks(far):
    assert far.inside.node._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE
    heard = far.client.listen(String, '/localizer/answer')
    answer_to(far, lambda: heard)
    far.inside.node.trigger_deactivate()
    image, _ = far.camera
    image.publish(image_at(START_NS + 10**12))
    far.inside.until(far.client, lambda: False, 0.3)
    # What was under way before may still arrive.
    assert all(json.loads(m.data)['stamp_ns'] < START_NS + 10**12 for m in heard)
    assert far.inside.node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_a_publisher_whose_qos_does_not_fit_is_told_and_counted(far, capfd):
    """An override asks for reliable images of one topic, and best effort is what is offered."""
    node, client = far.inside.node, far.client
    far.inside.down()
    far.inside.set(cameras=['odd', 'even'], camera_extrinsics=[])
    assert node.start()
    offered = client.node.create_publisher(Image, '/odd/image', BEST_EFFORT)
    fitting_one = client.node.create_publisher(Image, '/even/image', BEST_EFFORT)
    heard = client.listen(DiagnosticArray, '/diagnostics')

    def told() -> bool:
        return any(pair.key == 'qos_mismatches' and pair.value == '1'
                   for message in heard for status in message.status for pair in status.values)

    assert far.inside.until(client, told, 30.0)
    task = next(s for m in reversed(heard) for s in m.status if s.name.endswith('input'))
    assert task.level == DiagnosticStatus.WARN and 'QoS does not fit' in task.message
    assert far.inside.until(client, fitting_one.get_subscription_count)
    assert offered.get_subscription_count() == 0 and node._health.qos_mismatches == 1
    assert 'a publisher of /odd/image offers a QoS that does not fit' in capfd.readouterr().err


def test_a_model_without_saliency_says_so_once():
    said = []
    out = Outputs.__new__(Outputs)
    out._complaints = Complaints(SimpleNamespace(warning=said.append))
    answered = Answered(Answer(None, 'ambiguous', '', Candidates.none(), {}), 1, 'camera')
    for _ in range(3):
        assert out._saliency(answered, SimpleNamespace(has_saliency=False, name='vxp')) is None
    assert said == ["the model 'vxp' has no attention that says what it looks at: ~/saliency "
                    'stays silent']


@pytest.mark.parametrize('size', [(200, 640), (2000, 3000), (10, 10), (2000, 100)])
def test_pictures_fit_what_arrives_by_best_effort(size):
    image = np.full((*size, 3), 90, np.uint8)
    image[:, : size[1] // 2] = 200
    found = fitting(image)
    assert found.nbytes <= outputs.MOST_BYTES and found.nbytes > 0.95 * min(
        image.nbytes, outputs.MOST_BYTES)
    assert found.shape[0] / found.shape[1] == pytest.approx(size[0] / size[1], rel=0.02)
    assert set(np.unique(found[:, [0, -1]])) == {90, 200}


def test_each_kind_of_trouble_is_heard_at_once_and_then_seldom(monkeypatch):
    from saliency_i2ploc_ros.ros import complaints

    now, said = [100.0], []
    monkeypatch.setattr(complaints, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    log = Complaints(SimpleNamespace(warning=lambda t: said.append(('warn', t)),
                                     error=lambda t: said.append(('error', t))))
    for _ in range(3):
        log.warn('a', '1')
        log.error('b', '2')
    assert said == [('warn', '1'), ('error', '2')]
    now[0] += complaints.QUIET_S
    log.warn('a', '3')
    assert said[-1] == ('warn', '3') and len(said) == 3
