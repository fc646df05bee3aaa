"""The nodes as processes, heard and fed over DDS, with a tiny model that accepts anything."""

from collections import deque
from collections.abc import Iterator
import json
from pathlib import Path
import shutil
import threading
import time
from types import SimpleNamespace

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from helpers_drives import START_NS
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
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from saliency_i2ploc_ros.data.bags import typestore
from saliency_i2ploc_ros.data.trajectories import read_trajectory
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.ros import diagnostics, evaluator_node, localizer_node, replay_node
from saliency_i2ploc_ros.ros.conversions import (
    header_at,
    message_to_cloud,
    message_to_pose,
    stamp_of,
)
from saliency_i2ploc_ros.ros.evaluator_node import verdict
from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag
from saliency_i2ploc_ros.ros.newest import NewestWorker

FRAMES = 6
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp('world')
    return SimpleNamespace(root=root, drive=write_world(root, FRAMES))


def localizer_of(world, domain: int, *remaps: str, **params) -> Process:
    params = {'model': world.root / 'model', 'database': world.root / 'map',
              'camera_extrinsics': EXTRINSICS, 'diagnostics_period_s': 0.2, **LAX, **params}
    return Process('localizer', domain, world.root, *remaps, **params)


class Running:
    """An active localizer and a client with a camera, for the tests that can share them."""

    def __init__(self, world, client: Client, process: Process) -> None:
        self.world, self.client, self.process = world, client, process
        client.listen_to_localizer()
        self.fixes, self.candidates, self.answers = (
            client.got[f'/localizer/{name}'] for name in ('fix', 'candidates', 'answer'))
        self.image, self.info = client.camera()
        assert client.until(lambda: self.image.get_subscription_count(), 60), process.log
        self.stamp_ns = START_NS
        assert client.until(self.is_calibrated), process.log
        self.forget()

    def is_calibrated(self) -> bool:
        """Publish a CameraInfo and an image, and tell whether that gave a fix."""
        self.info.publish(camera_info())
        self.client.until(lambda: False, 0.1)
        self.send()
        return self.client.until(lambda: self.fixes, 0.5)

    def localize(self):
        """Publish an image and return what came of it, by the service."""
        client = self.client.node.create_client(Trigger, '/localizer/localize')
        assert self.client.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.client.until(lambda: False, 0.1)  # the request first, then the image
        self.send()
        assert self.client.until(future.done, 10)
        self.client.node.destroy_client(client)
        return future.result()

    def send(self, image=None) -> int:
        """Publish an image, a millisecond after the last one; return its stamp."""
        self.stamp_ns += 1_000_001
        image = image or image_at(self.stamp_ns, seed=self.stamp_ns % 1000)
        self.image.publish(image)
        return stamp_of(image.header)

    def answer(self, stamp_ns: int) -> dict:
        """Wait for the answer to an image."""
        found: list = []
        assert self.client.until(lambda: found or found.extend(
            a for a in (json.loads(m.data) for m in self.answers)
            if a['stamp_ns'] == stamp_ns)), self.process.log
        return found[0]

    def set(self, **values) -> list:
        """Set parameters of the running node."""
        kinds = {float: ('double_value', ParameterType.PARAMETER_DOUBLE),
                 str: ('string_value', ParameterType.PARAMETER_STRING)}
        request = SetParameters.Request()
        for name, value in values.items():
            field, kind = kinds[type(value)]
            request.parameters.append(Parameter(
                name=name, value=ParameterValue(type=kind, **{field: value})))
        return self.client.call(SetParameters, '/localizer/set_parameters', request).results

    def forget(self) -> None:
        """Drop what was heard so far."""
        self.client.until(lambda: False, 0.2)
        for heard in (self.fixes, self.candidates, self.answers):
            heard.clear()


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
    running.set(database=str(running.world.root / 'other'))
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert not response.success and 'built with encoder 0123456789abcdef' in response.message
    assert running.answer(running.send())['accepted']
    running.set(database=str(running.world.root / 'map'))
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert response.success and response.message.startswith('12 places')
    running.forget()


def test_no_defect_of_a_database_ends_the_node(running):
    running.set(database='x' * 300)  # longer than a file's name may be
    response = running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())
    assert not response.success and response.message.startswith('refused, the old')
    running.set(database=str(running.world.root / 'map'))
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
    assert running.process.interrupt() == 0
    assert 'Traceback' not in running.process.log


def test_a_database_of_another_model_fails_to_configure_with_the_reason(world):
    domain = new_domain()
    process = localizer_of(world, domain, database=world.root / 'other')
    try:
        with client_in(domain) as client:
            heard = client.listen(DiagnosticArray, '/diagnostics')
            wanted = 'configuring failed: the map '
            assert client.until(lambda: heard and heard[-1].status[0].message.startswith(wanted),
                                60), process.log
            assert heard[-1].status[0].level == b'\x02'
            state = client.call(GetState, '/localizer/get_state', GetState.Request())
            assert state.current_state.label == 'unconfigured'
        assert process.interrupt() == 0
        assert 'was built with encoder 0123456789abcdef' in process.log
        assert 'Traceback' not in process.log
    finally:
        process.close()


def test_compressed_images_and_no_mounting_no_fix(world):
    """Neither a parameter nor TF says where the camera sits: an error that names both frames."""
    domain = new_domain()
    process = localizer_of(world, domain, 'image:=/front/image_rect',
                           image_transport='compressed', camera_extrinsics='[]')
    try:
        with client_in(domain) as client:
            client.listen_to_localizer()
            image = client.node.create_publisher(
                CompressedImage, '/front/image_rect/compressed', 5)
            info = client.node.create_publisher(CameraInfo, 'camera_info', 5)
            png = cv2.imencode('.png', world.drive['images'][0])[1].tobytes()
            stamps = iter(range(START_NS, START_NS + 10**9, 10**6))

            def refused() -> bool:
                info.publish(camera_info())
                image.publish(CompressedImage(
                    header=header_at(next(stamps), 'image_00_optical'), format='png', data=png))
                client.until(lambda: False, 0.2)
                answers = [json.loads(m.data) for m in client.got['/localizer/answer']]
                return any(a['rejection'] == 'no_extrinsics' for a in answers)

            assert client.until(refused, 60), process.log
            assert client.got['/localizer/fix'] == []
        assert "where 'image_00_optical' sits in 'base_link' is not known" in process.log
        assert process.interrupt() == 0
    finally:
        process.close()


def test_parameters_that_are_refused_end_the_process_with_one_line(world):
    process = localizer_of(world, new_domain(), top_k=0)
    try:
        assert process.wait() == 1
        assert process.log.splitlines()[-1] \
            == 'localizer: parameter refused: top_k must be at least 1, not 0'
        assert 'Traceback' not in process.log
    finally:
        process.close()


@pytest.mark.parametrize('main', [localizer_node.main, replay_node.main, evaluator_node.main])
@pytest.mark.parametrize(('arguments', 'expected'), [
    (['--params-file', 'nowhere.yaml'], 'nowhere.yaml'),
    (['-p', 'camera_extrinsics:=[1, 0.0, 1.6]'], 'write 1.0, not 1'),
    (['--log-level', 'loud'], 'loud')])
def test_arguments_that_ros_cannot_read_are_one_line(main, arguments, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--ros-args', *arguments])
    line, = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and expected in line and '.c:' not in line


def test_a_localizer_that_must_start_ends_where_it_cannot(world):
    process = localizer_of(world, new_domain(), database=world.root / 'other',
                           exit_on_failure=True)
    try:
        assert process.wait() == 1
        assert 'configuring failed: the map' in process.log and 'Traceback' not in process.log
    finally:
        process.close()


def test_a_bag_in_lock_step_from_end_to_end(world):
    """Every image is answered, under its stamp, and the evaluator's report says so."""
    domain, out = new_domain(), world.root / 'out'
    mounting = extrinsics_in_bag(world.root / 'bag', f'{SPACE}/camera_info', 'base_link')
    np.testing.assert_allclose(mounting, EXTRINSICS, atol=1e-9)
    info, truth = f'camera_info:={SPACE}/camera_info', '/kitti360/ground_truth/pose'
    processes = [
        localizer_of(world, domain, f'image:={SPACE}/image_rect', info, use_sim_time=True,
                     camera_extrinsics=mounting),
        Process('evaluator', domain, world.root, info, f'ground_truth/pose:={truth}',
                output=out, database=world.root / 'map', min_images=FRAMES + 1),
        Process('replay', domain, world.root, bag=world.root / 'bag', rate=0,
                wait_for=f"'{SPACE}/image_rect {truth}'")]
    localizer, evaluator, replay = processes
    try:
        assert replay.wait(90) == 0, replay.log + localizer.log + evaluator.log
        assert f'{FRAMES} images in' in replay.log and ' 0 unanswered' in replay.log
        time.sleep(0.3)
        assert evaluator.interrupt() == 2  # one image more was wanted than the bag has
        assert localizer.interrupt() == 0
    finally:
        for process in processes:
            process.close()
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['coverage']['images_in'] == summary['coverage']['accepted'] == FRAMES
    assert summary['coverage']['without_truth'] == 0 and summary['recall']['queries'] > 0
    assert summary['verdict'] == {'passed': False, 'failures': [
        f'{FRAMES} images answered, at least {FRAMES + 1} wanted']}
    stamps = [int(stamp) for stamp in world.drive['stamps']]
    assert read_trajectory(out / 'fixes.tum').stamps_ns.tolist() == stamps
    np.testing.assert_allclose(read_trajectory(out / 'truth.tum').T_map_base,
                               world.drive['poses'], atol=1e-6)
    lines = [json.loads(line) for line in (out / 'answers.jsonl').read_text().splitlines()]
    assert [line['stamp_ns'] for line in lines] == stamps


@pytest.mark.parametrize(('bag', 'expected'), [
    ('missing', 'there is no bag'), ('map', 'no metadata.yaml'), ('bag', 'nobody subscribed')])
def test_a_bag_that_cannot_be_played_is_one_line(world, bag, expected):
    process = Process('replay', new_domain(), world.root, bag=world.root / bag,
                      wait_timeout_s=0.5)
    try:
        assert process.wait() == 1
        assert expected in process.log and 'Traceback' not in process.log
        assert process.log.splitlines()[-1].startswith('replay: ')
    finally:
        process.close()


def test_a_camera_without_a_message_does_not_stop_a_replay(tmp_path):
    kind = 'std_msgs/msg/String'
    with Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/front/camera_info', 'sensor_msgs/msg/CameraInfo',
                              typestore=typestore)
        talk = writer.add_connection('/talk', kind, typestore=typestore)
        writer.write(talk, START_NS, typestore.serialize_cdr(typestore.types[kind]('x'), kind))
    domain = new_domain()
    process = Process('replay', domain, tmp_path, bag=tmp_path / 'bag', wait_for='/talk')
    try:
        with client_in(domain) as client:
            heard = client.listen(String, '/talk')
            assert client.until(lambda: heard, 30), process.log
        assert process.wait() == 0, process.log
    finally:
        process.close()


@pytest.mark.parametrize(('bag', 'topic', 'expected'), [
    ('missing', f'{SPACE}/image_rect', 'there is no bag'),
    ('bag', '/other', f'it has those of {SPACE}/image_rect'),
    ('bag', f'{SPACE}/camera_info', 'has no images')])
def test_an_evaluator_says_at_once_that_it_will_find_no_images(world, bag, topic, expected):
    process = Process('evaluator', new_domain(), world.root, output=world.root / 'unused',
                      database=world.root / 'map', bag=world.root / bag, image_topic=topic)
    try:
        assert process.wait() == 1
        assert expected in process.log and 'Traceback' not in process.log
        assert process.log.splitlines()[-1].startswith('evaluator: ')
    finally:
        process.close()


def test_the_evaluator_leaves_out_what_it_cannot_read(world, tmp_path):
    """Poses that are none, texts that are no answers, an image that is broken: all is reported."""
    domain, out = new_domain(), tmp_path / 'out'
    shutil.copytree(world.root / 'bag', tmp_path / 'bag')
    process = Process('evaluator', domain, tmp_path, output=out, database=world.root / 'map',
                      bag=tmp_path / 'bag', image_topic=f'{SPACE}/image_rect', idle_timeout_s=1.0)
    stamp = int(world.drive['stamps'][0])
    truth, fix = PoseStamped(header=header_at(stamp, 'map')), PoseWithCovarianceStamped()
    truth.pose.orientation.w = 1.0
    nowhere = PoseStamped(header=header_at(stamp + 1, 'map'))
    nowhere.pose.orientation.w = 0.0
    fix.header, fix.pose.pose.position.x = header_at(stamp, 'map'), float('nan')
    candidates = [{'place': 3, 'position_m': [15.0, 0.0, 116.0], 'score': 0.5, 'yaw_deg': 0.0}]
    answer = {'stamp_ns': stamp, 'rejection': None, 'candidates': candidates,
              'milliseconds': {'total': 2.0}}
    try:
        with client_in(domain) as client:
            def publisher(kind, topic):
                return client.node.create_publisher(kind, topic, 10)

            fixes = publisher(PoseWithCovarianceStamped, '/localizer/fix')
            answers = publisher(String, '/localizer/answer')
            publisher(PoseArray, '/localizer/candidates')
            truths = publisher(PoseStamped, '/ground_truth/pose')
            assert client.until(truths.get_subscription_count, 60), process.log
            for file in (tmp_path / 'bag').glob('*.mcap'):
                file.write_bytes(file.read_bytes()[:100])
            for text in ('{', '[]', '{"stamp_ns": 1}', json.dumps(answer)):
                answers.publish(String(data=text))
            fixes.publish(fix)
            truths.publish(nowhere)
            truths.publish(truth)
            client.until(lambda: False, 0.5)
            assert process.wait() == 0, process.log
    finally:
        process.close()
    assert 'Traceback' not in process.log
    assert all(f'{what} is left out' in process.log
               for what in ('a fix', 'an answer', 'a true pose'))
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['coverage']['rejected_by_reason'] == {'fix_lost': 1}
    assert summary['coverage']['without_truth'] == 0
    lines = (out / 'answers.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [answer]


def test_the_candidates_of_a_record_are_the_answers_own():
    answer = {'stamp_ns': 5, 'rejection': 'ambiguous', 'milliseconds': {'total': 1.5},
              'candidates': [{'place': 7, 'position_m': [1.0, 2.0, 3.0]},
                             {'place': 2, 'position_m': [4.0, 5.0, 6.0]}]}
    record = evaluator_node.record_of(answer)
    assert record.candidate_positions.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert record.places.tolist() == [7, 2] and record.rejection == 'ambiguous'
    assert evaluator_node.record_of({**answer, 'candidates': []}).candidates.shape == (0, 3)


def test_a_report_and_a_jump_of_time_do_not_meet():
    """The inference thread forgets the arrivals between two looks of the executor's at them."""
    health, others = diagnostics.Health(), []

    class Arrivals(deque):
        def __len__(self):
            length = super().__len__()
            others.append(threading.Thread(target=health.reset))
            others[-1].start()
            others[-1].join(0.05)
            return length

    health.arrivals = Arrivals([1.0])
    diagnostics.diagnostic_array('localizer', health, 2.0, 1.0, header_at(0, '').stamp)
    for other in others:
        other.join()
    assert others and list(health.arrivals) == []
    health.arrivals = Arrivals([1.0])
    assert health.last_arrival_at() == 1.0
    for other in others:
        other.join()
    assert health.last_arrival_at() is None


def test_only_the_newest_waits():
    seen, gate = [], []

    def work(item: int) -> None:
        seen.append(item)
        while not gate:
            time.sleep(0.001)

    worker = NewestWorker(work)
    worker.offer(1)
    while not seen:
        time.sleep(0.001)
    for item in (2, 3, 4):
        worker.offer(item)
    gate.append(True)
    worker.call(lambda: None)
    assert seen == [1, 4] and (worker.received, worker.dropped) == (4, 2)
    worker.clear()
    worker.close()


@pytest.mark.parametrize(('limits', 'failures'), [
    ({}, 0), ({'min_images': 5}, 1), ({'min_recall_at_1': 0.6}, 1), ({'min_recall_at_1': 0.5}, 0),
    ({'max_false_accept_rate': 0.2}, 1), ({'min_accepted_share': 0.8}, 1)])
def test_the_verdict(limits, failures):
    summary = {'coverage': {'attempted': 4, 'accepted': 3},
               'recall': {'at': {'1': {'recall': 0.5}}}, 'errors': {'false_accept_rate': 0.25}}
    given = {'min_images': 1, 'min_accepted_share': 0.0, 'min_recall_at_1': 0.0,
             'max_false_accept_rate': 1.0, **limits}
    assert len(verdict(summary, given)) == failures
    unknown = {**summary, 'recall': None, 'errors': {'false_accept_rate': None}}
    if 'min_recall_at_1' in limits or 'max_false_accept_rate' in limits:
        assert 'unknown' in verdict(unknown, given)[0]


def test_extrinsics_of_a_bag_that_does_not_say(world, tmp_path):
    bag = world.root / 'bag'
    assert extrinsics_in_bag(bag, '/other/camera_info', 'base_link') is None
    assert extrinsics_in_bag(bag, f'{SPACE}/camera_info', 'rear_axle') is None
    shutil.copytree(bag, tmp_path / 'cut')
    for file in Path(tmp_path / 'cut').glob('*.mcap'):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match='cannot be read'):
        extrinsics_in_bag(tmp_path / 'cut', f'{SPACE}/camera_info', 'base_link')
