"""How a localizer begins: what it refuses, with which reason, and what is left of it after."""

import json
from pathlib import Path

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from helpers_drives import CAMERA, START_NS
from helpers_ros import camera_info, client_in, new_domain, write_world
from helpers_running import localizer_of
from lifecycle_msgs.srv import GetState
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage

from saliency_i2ploc_ros.ros import (
    check_node,
    evaluator_node,
    localizer_node,
    replay_node,
)
from saliency_i2ploc_ros.ros.conversions import header_at


@pytest.fixture(scope='module')
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    return root


def test_a_database_of_another_model_fails_to_configure_with_the_reason(world):
    domain = new_domain()
    process = localizer_of(world, domain, database=world / 'other')
    try:
        with client_in(domain) as client:
            heard = client.listen(DiagnosticArray, '/diagnostics')
            wanted = 'configuring failed: the map '
            assert client.until(lambda: heard and heard[-1].status[0].message.startswith(wanted),
                                60), process.log
            assert heard[-1].status[0].level == b'\x02'
            state = client.call(GetState, '/localizer/get_state', GetState.Request())
            assert state.current_state.label == 'unconfigured'
        assert process.interrupt() == 0, process.log
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
            pixels = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3))
            png = cv2.imencode('.png', pixels.astype(np.uint8))[1].tobytes()
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
        assert process.interrupt() == 0, process.log
    finally:
        process.close()


@pytest.fixture
def domain(monkeypatch):
    """A domain for a node that is started in this process."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(new_domain()))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def test_parameters_that_are_refused_end_the_process_with_one_line(domain, capsys):
    with pytest.raises(SystemExit) as ended:
        localizer_node.main(['--ros-args', '-p', 'top_k:=0'])
    assert ended.value.code == 1
    assert capsys.readouterr().err \
        == 'localizer: parameter refused: top_k must be at least 1, not 0\n'


def test_a_localizer_that_must_start_ends_where_it_cannot(world, domain, capfd):
    with pytest.raises(SystemExit) as ended:
        localizer_node.main(['--ros-args', '-p', f'model:={world / "model"}', '-p',
                             f'database:={world / "other"}', '-p', 'exit_on_failure:=true'])
    said = capfd.readouterr().err
    assert ended.value.code == 1
    assert 'configuring failed: the map' in said and 'Traceback' not in said


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


@pytest.mark.parametrize('node', [localizer_node, replay_node, evaluator_node, check_node])
@pytest.mark.parametrize('word', ['-h', '--help'])
def test_help_says_what_it_is_and_where_its_parameters_are(node, word, capsys):
    with pytest.raises(SystemExit) as ended:
        node.main([word])
    said = capsys.readouterr()
    assert ended.value.code == 0 and said.err == ''
    assert said.out.startswith(node.__doc__.strip()) and 'docs/nodes.md' in said.out
