"""The localizer as a process, heard and fed over DDS, with a tiny model that accepts anything."""

from collections.abc import Iterator
import json
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from helpers_ros import client_in, image_at, new_domain, write_world
from helpers_running import localizer_of, Running
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from saliency_i2ploc_ros.ros import diagnostics
from saliency_i2ploc_ros.ros.conversions import message_to_cloud, message_to_pose, stamp_of

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    return root


@pytest.fixture(scope='module')
def running(world) -> Iterator[Running]:
    domain = new_domain()
    process = localizer_of(world, domain)
    try:
        with client_in(domain) as client:
            yield Running(world, client, process)
    finally:
        process.close()


def test_fixes_carry_the_stamps_of_their_images_exactly(running):
    stamps = []
    for _ in range(4):
        stamps.append(running.send())
        assert running.answer(stamps[-1])['accepted']
    assert running.client.until(lambda: len(running.fixes) == len(running.candidates) == 4)
    assert [stamp_of(fix.header) for fix in running.fixes] == stamps
    assert [stamp_of(poses.header) for poses in running.candidates] == stamps
    for fix, poses in zip(running.fixes, running.candidates, strict=True):
        assert fix.header.frame_id == poses.header.frame_id == 'map'
        P = np.reshape(fix.pose.covariance, (6, 6))
        np.testing.assert_allclose(P, P.T)
        assert np.linalg.eigvalsh(P).min() > 0.0
        assert abs(fix.pose.pose.position.z - 116.0) < 1e-6
        assert len(poses.poses) == 12
    running.forget()


def test_the_answer_tells_the_same_as_the_fix_and_has_the_stages(running):
    answer = running.answer(running.send())
    assert running.client.until(lambda: running.fixes)
    T = message_to_pose(running.fixes[-1].pose.pose)
    np.testing.assert_allclose(answer['fix']['position_m'], T[:3, 3])
    np.testing.assert_allclose(answer['fix']['covariance'],
                               np.reshape(running.fixes[-1].pose.covariance, (6, 6)))
    ms = answer['milliseconds']
    assert all(ms[stage] > 0.0 for stage in ('decode', 'prepare', 'encode', 'search'))
    assert ms['total'] >= ms['decode'] + ms['encode']
    running.forget()


def test_best_effort_publishers_are_heard_too(running):
    image, _ = running.client.camera(best_effort=True)
    assert running.client.until(image.get_subscription_count)
    running.stamp_ns += 1_000_001

    def answered() -> bool:
        image.publish(image_at(running.stamp_ns))
        running.client.until(lambda: running.fixes, 0.5)
        return bool(running.fixes)

    assert running.client.until(answered), running.process.log
    assert stamp_of(running.fixes[0].header) == running.stamp_ns
    running.client.node.destroy_publisher(image)
    running.forget()


def test_a_flood_is_answered_by_the_newest_and_the_rest_is_counted(running):
    before = running.answer(running.send())
    running.forget()
    for _ in range(60):
        running.send()
    last = running.stamp_ns
    after = running.answer(last)
    answered = [json.loads(m.data)['stamp_ns'] for m in running.answers]
    assert answered == sorted(answered)
    received = after['received'] - before['received']
    assert received - (after['dropped'] - before['dropped']) == len(answered)
    running.forget()


def test_a_rejection_is_silence_but_candidates_and_the_reason_go_out(running):
    assert all(r.successful for r in running.set(min_score=1.0))
    stamp = running.send()
    assert running.answer(stamp)['rejection'] == 'low_score'
    assert running.client.until(lambda: running.candidates)
    assert len(running.candidates[0].poses) == 12
    blank = image_at(stamp + 1)
    blank.data = bytes(len(blank.data))
    running.set(min_score=-1.0, min_contrast=1.0)
    assert running.answer(running.send(blank))['rejection'] == 'no_texture'
    assert running.client.until(lambda: len(running.candidates) == 2)
    assert running.candidates[1].poses == [] and running.fixes == []
    assert stamp_of(running.candidates[1].header) == stamp + 1
    running.set(min_contrast=0.0)
    running.forget()


def test_images_that_cannot_be_used_are_answered_with_the_reason(running):
    wrong = image_at(running.stamp_ns + 1)
    wrong.encoding = 'nv21'
    assert running.answer(running.send(wrong))['rejection'] == 'bad_image'
    small = image_at(running.stamp_ns + 1)
    small.height = 10
    assert 'CameraInfo says 64 x 24' in running.answer(running.send(small))['explanation']
    late = running.answer(running.send(image_at(running.stamp_ns - 500_000_000)))
    assert late['rejection'] == 'out_of_order'
    assert running.fixes == []
    running.forget()


def test_time_that_jumps_back_starts_anew(running):
    running.answer(running.send())
    earlier = running.send(image_at(running.stamp_ns - 3_000_000_000))
    assert running.answer(earlier)['accepted']
    assert running.answer(running.send())['accepted']
    running.forget()


def test_localize_answers_with_json_and_enable_silences(running):
    response = running.localize()
    answer = json.loads(response.message)
    assert response.success and answer['accepted'] and answer['stamp_ns'] == running.stamp_ns
    assert running.client.call(SetBool, '/localizer/enable', SetBool.Request(data=False)).success
    running.forget()
    running.send()
    running.client.until(lambda: running.answers, 0.5)
    assert running.answers == []
    assert running.localize().success  # one image, on request
    running.client.call(SetBool, '/localizer/enable', SetBool.Request(data=True))
    running.forget()


def test_localize_without_an_image_says_so(running):
    running.set(localize_timeout_s=0.3)
    response = running.client.call(Trigger, '/localizer/localize', Trigger.Request())
    assert not response.success and response.message == 'no image came in time'
    running.set(localize_timeout_s=5.0)


def test_a_refused_database_leaves_the_old_one(running):
    running.set(database=str(running.root / 'other'))
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert not response.success and 'built with encoder 0123456789abcdef' in response.message
    assert running.answer(running.send())['accepted']
    running.set(database=str(running.root / 'map'))
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert response.success and response.message.startswith('12 places')
    running.forget()


def test_no_defect_of_a_database_ends_the_node(running):
    running.set(database='x' * 300)  # longer than a file's name may be
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert not response.success and response.message.startswith('refused, the old')
    running.set(database=str(running.root / 'map'))
    assert running.answer(running.send())['accepted']
    running.forget()


def test_clouds_are_latched_and_markers_come(running):
    client = running.client
    whole = client.listen(PointCloud2, '/localizer/map', LATCHED)
    submap = client.listen(PointCloud2, '/localizer/retrieved_submap', LATCHED)
    markers = client.listen(MarkerArray, '/localizer/markers')
    assert client.until(lambda: whole), running.process.log
    points = message_to_cloud(whole[0])
    assert len(points) == 12 * 40 and abs(points[:, 0].mean() - 1027.0) < 5.0

    def shown() -> bool:
        running.send()
        return client.until(lambda: submap and markers, 0.3)

    assert client.until(shown)
    assert len(message_to_cloud(submap[0])) == 40
    assert markers[0].markers[0].action == 3 and markers[0].markers[-1].ns == 'two_sigma'
    running.forget()


def test_diagnostics_have_the_documented_keys(running):
    heard = running.client.listen(DiagnosticArray, '/diagnostics')
    assert running.client.until(lambda: heard)
    tasks = {status.name: status for status in heard[-1].status}
    assert list(tasks) == [f'localizer: {task}' for task in diagnostics.TASKS]
    keys = [(task, pair.key) for task in diagnostics.TASKS
            for pair in tasks[f'localizer: {task}'].values]
    assert sorted(keys) == sorted((task, key) for task, key, *_ in diagnostics.KEYS)
    database = {pair.key: pair.value for pair in tasks['localizer: database'].values}
    assert database['places'] == '12' and database['dimension'] == '16'


def test_bad_parameters_are_refused_while_running(running):
    for values, reason in (({'min_weight': 2.0}, 'min_weight'), ({'device': 'tpu'}, 'one of auto'),
                           ({'temperature': 0.0}, 'above 0.0')):
        result, = running.set(**values)
        assert not result.successful and reason in result.reason


def test_down_and_up_again(running):
    """Cleanup gives the model back; configure and activate make the same node again."""
    states = []
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                       Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert running.client.call(ChangeState, '/localizer/change_state', request).success, \
            running.process.log
        states.append(running.client.call(
            GetState, '/localizer/get_state', GetState.Request()).current_state.label)
        if transition == Transition.TRANSITION_DEACTIVATE:
            response = running.client.call(Trigger, '/localizer/localize', Trigger.Request())
            assert 'inactive: activate it' in response.message
    assert states == ['inactive', 'unconfigured', 'inactive', 'active']
    assert running.client.until(running.image.get_subscription_count)
    assert running.client.until(running.info.get_subscription_count)
    running.forget()
    assert running.answer(running.send())['rejection'] == 'no_camera_info'
    assert running.client.until(running.is_calibrated)
    running.forget()


def test_ctrl_c_ends_it_cleanly(running):
    """The last of those that share the process."""
    running.send()
    assert running.process.interrupt() == 0, running.process.log
    assert 'Traceback' not in running.process.log
