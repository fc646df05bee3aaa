"""Bags evaluated offline: the same to the bit each time, and the same as live."""

import json
import time

import cv2
from helpers_cli import i2ploc
from helpers_drives import real_data, SHARED, write_all_cameras
from helpers_ros import LAX as ALL_ACCEPTED
from helpers_ros import new_domain, Process, SPACE, write_world
import numpy as np
import pytest

from saliency_i2ploc_ros.cli.show import points_in_camera
from saliency_i2ploc_ros.data.bags import write_bag
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.data.trajectories import read_trajectory
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.comparison import compare
from saliency_i2ploc_ros.ros.bag_run import (
    localizer_parameters,
    mounted_by_bag,
    run_bag,
    Topics,
)
from saliency_i2ploc_ros.ros.bag_view import view_bag
from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag
from saliency_i2ploc_ros.ros.inference import load_localizer

FRAMES = 6
# One thread: several add up in an order of their own, and the last bit differs.
LAX = {**ALL_ACCEPTED, 'threads': 1}
LAX_OPTIONS = [part for name, value in LAX.items() for part in ('--set', f'{name}={value}')]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    drive = write_world(root, FRAMES)
    write_all_cameras(root / 'rig')
    write_bag(open_drive(root / 'rig'), root / 'rig_bag')
    return root, drive


def evaluated(root, out, *options, code=0):
    """Return the output of the command, and the lines of its answers.jsonl."""
    said = i2ploc('evaluate-bag', root / 'bag', '--map', root / 'map', '--model', root / 'model',
                  '--out', out, *LAX_OPTIONS, *options, code=code)
    return said, [json.loads(line) for line in (out / 'answers.jsonl').read_text().splitlines()]


def answers_of(root, images, every=1, **given):
    """Return the answers to a part of the bag of all cameras, without a report."""
    settings = {'model': root / 'model', 'database': root / 'map', **LAX}
    present = localizer_parameters(None, [f'{name}={value}' for name, value in settings.items()])
    topics, present = Topics(images), {**present, **given}
    present = mounted_by_bag(root / 'rig_bag', topics, present)
    records = run_bag(root / 'rig_bag', topics, load_localizer(present), present, every=every)
    return [json.loads(record.answer) for record in records], records


@pytest.fixture(scope='module')
def offline(world):
    """Return the folder of a run's report."""
    root, _ = world
    evaluated(root, root / 'offline')
    return root / 'offline'


def test_a_bag_becomes_a_report(world, offline):
    _, drive = world
    answers = [json.loads(line) for line in (offline / 'answers.jsonl').open()]
    stamps = [int(stamp) for stamp in drive['stamps']]
    assert [answer['stamp_ns'] for answer in answers] == stamps
    assert all(answer['accepted'] for answer in answers)
    np.testing.assert_allclose(read_trajectory(offline / 'truth.tum').T_map_base,
                               drive['poses'], atol=1e-6)
    summary = json.loads((offline / 'summary.json').read_text())
    assert summary['verdict'] == {'passed': True, 'failures': [], 'exit_code': 0}
    assert summary['coverage']['dropped'] == 0
    for key in ('commit', 'command', 'model_hash', 'database_identity', 'drive', 'torch', 'numpy'):
        assert summary['provenance'][key], key
    assert summary['provenance']['localizer']['min_weight'] == 0.0
    assert len(summary['provenance']['localizer']['camera_extrinsics']) == 7


def test_live_and_offline_answer_alike_to_the_bit(world, offline, tmp_path):
    """Localizer, evaluator and replay as processes, in lock-step, then the same bag offline."""
    root, drive = world
    domain, out = new_domain(), tmp_path / 'live'
    truth, info = '/kitti360/ground_truth/pose', f'{SPACE}/camera_info'
    processes = localizer, evaluator, replay = [
        Process('localizer', domain, tmp_path, f'image:={SPACE}/image_rect',
                f'camera_info:={info}', model=root / 'model', database=root / 'map',
                use_sim_time=True, **LAX,
                camera_extrinsics=extrinsics_in_bag(root / 'bag', info, 'base_link')),
        Process('evaluator', domain, tmp_path, f'camera_info:={info}',
                f'ground_truth/pose:={truth}', output=out, database=root / 'map',
                min_images=FRAMES + 1),
        Process('replay', domain, tmp_path, bag=root / 'bag', rate=0,
                wait_for=f"'{SPACE}/image_rect {truth}'")]
    try:
        assert replay.wait(200) == 0, replay.log + localizer.log + evaluator.log
        assert f'{FRAMES} images in' in replay.log and ' 0 unanswered' in replay.log
        time.sleep(0.5)  # the last answer is on its way to the evaluator too
        # One image more was wanted than the bag has.
        assert evaluator.interrupt() == 2, evaluator.log
        assert localizer.interrupt() == 0, localizer.log
    finally:
        for process in processes:
            process.close()
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['coverage']['images_in'] == summary['coverage']['accepted'] == FRAMES
    assert summary['coverage']['without_truth'] == 0 and summary['recall']['queries'] > 0
    assert summary['verdict'] == {'passed': False, 'exit_code': 2, 'failures': [
        f'{FRAMES} images answered, at least {FRAMES + 1} wanted']}
    assert summary['provenance']['localizer']['min_weight'] == 0.0  # asked of the node
    assert len(summary['provenance']['model_hash']) == 16
    stamps = [int(stamp) for stamp in drive['stamps']]
    assert read_trajectory(out / 'fixes.tum').stamps_ns.tolist() == stamps

    again = tmp_path / 'again'
    said, _ = evaluated(root, again, '--compare', out, '--min-images', FRAMES + 1, code=2)
    assert 'answers equal to the bit' in said and f'failed: {FRAMES} images answered' in said
    found = json.loads((again / 'comparison.json').read_text())
    assert found == compare(out, again)
    assert found['equal_to_the_bit'] == found['images']['both'] == FRAMES, found
    assert found['causes'] == []
    for name in ('answers.jsonl', 'fixes.tum', 'truth.tum'):
        assert (offline / name).read_bytes() == (again / name).read_bytes()
    assert (out / 'answers.jsonl').read_bytes() == (again / 'answers.jsonl').read_bytes()


def test_several_cameras_are_answered_together_and_a_fisheye_alone(world):
    root, _ = world
    fisheye, _ = answers_of(root, {'': '/kitti360/image_02/image_raw'})
    assert len(fisheye) == 4 and all(answer['accepted'] for answer in fisheye)
    images = {name: f'/kitti360/{name}/image_rect' for name in ('image_00', 'image_01')}
    together, _ = answers_of(root, images, cameras=list(images))
    assert [answer['cameras'] for answer in together] == [list(images)] * 4
    assert all('by 2 of 2 images' in answer['explanation'] for answer in together)
    alone, records = answers_of(root, {'': images['image_00']}, every=2)
    assert [a['stamp_ns'] for a in alone] == [a['stamp_ns'] for a in together[::2]]
    assert 'cameras' not in alone[0]
    assert all(0.0 < r.milliseconds['decode'] < r.milliseconds['total'] for r in records)


@pytest.mark.parametrize(('options', 'expected'), [
    ([], '4 topics of images'), (['--camera', '/other'], '0 topics of images'),
    (['--camera', SPACE, '--truth', '/nowhere'], 'has no poses on /nowhere'),
    (['--camera', SPACE, '--set', 'colour=red'], 'sets no parameter'),
    (['--camera', SPACE, '--set', 'top_k=0'], 'at least 1'),
    (['--camera', SPACE, '--compare', '.'], r'answers\.jsonl')])
def test_what_cannot_be_evaluated_is_said_before_the_work(world, tmp_path, options, expected):
    root, _ = world
    with pytest.raises(InputError, match=expected):
        i2ploc('evaluate-bag', root / 'rig_bag', '--map', root / 'map', '--out', tmp_path / 'out',
               *options)
    assert not (tmp_path / 'out').exists()


def test_a_bag_that_says_nothing_of_the_mounting_gives_no_fix(world):
    answers, _ = answers_of(world[0], {'': '/kitti360/image_00/image_rect'},
                            base_frame='rear_axle')
    assert {a['rejection'] for a in answers} == {'no_extrinsics'}
    assert "'image_00_optical' sits in 'rear_axle'" in answers[0]['explanation']


def test_parameters_are_those_of_the_node(tmp_path):
    file = tmp_path / 'localizer.yaml'
    file.write_text('/**/localizer:\n  ros__parameters:\n    top_k: 7\n    use_sim_time: true\n'
                    '    min_score: 1\nother:\n  ros__parameters:\n    top_k: 9\n')
    given = localizer_parameters(file, ['min_weight=0.25', 'model=2024', 'cameras=[a, b]'])
    assert (given['top_k'], given['min_score'], given['min_weight']) == (7, 1.0, 0.25)
    assert given['model'] == '2024' and given['cameras'] == ['a', 'b']
    assert given['merge_radius_m'] == 20.0 and 'use_sim_time' not in given
    nested = tmp_path / 'nested.yaml'
    nested.write_text('car:\n  localizer:\n    ros__parameters: {top_k: 3}\n')
    assert localizer_parameters(nested, [])['top_k'] == 3
    nested.write_text('a: [1')
    with pytest.raises(InputError, match='is not yaml'):
        localizer_parameters(nested, [])


def test_a_bag_is_shown_by_its_own_frames(world, tmp_path):
    """What the bag's TF and CameraInfo make of a scan is what the drive's calibration does."""
    root, _ = world
    drive = open_drive(root / 'rig')
    for name in ('image_00', 'image_01', 'image_02', 'image_03'):
        view = view_bag(root / 'rig_bag', f'/kitti360/{name}', 2, 'base_link')
        stream = drive.cameras[name]
        np.testing.assert_array_equal(view.image, drive.image(name, 2))
        expected = points_in_camera(drive, stream, 2)
        np.testing.assert_allclose(view.points, expected, atol=1e-6)
        pixels, inside = view.camera.project(view.points)
        truth, seen = stream.camera.project(expected)
        assert inside.sum() == seen.sum() > 0
        np.testing.assert_allclose(pixels[inside], truth[inside], atol=1e-4)
    said = i2ploc('show', root / 'rig_bag', '--camera', '/kitti360/image_03', '--frame', '1',
                  '--out', tmp_path / 'bag.png')
    assert '/kitti360/image_03/image_raw' in said and 'imu_link in base_link' in said
    assert cv2.imread(str(tmp_path / 'bag.png')) is not None
    for frame, base, expected in ((9, 'base_link', 'has no image 9'),
                                  (0, 'rear_axle', "'rear_axle'")):
        with pytest.raises(InputError, match=expected):
            view_bag(root / 'rig_bag', '/kitti360/image_00', frame, base)


@real_data
@pytest.mark.parametrize('data', ['kitti_raw', 'kitti360'])
def test_the_lidar_of_a_real_bag_lies_where_the_drives_does(tmp_path, data):
    drive = open_drive(SHARED / data, '0000' if data == 'kitti360' else None)
    write_bag(drive, tmp_path / 'bag')
    stream = next(iter(drive.cameras.values()))
    view = view_bag(tmp_path / 'bag', None, 4, 'base_link')
    expected = points_in_camera(drive, stream, 4)
    assert len(expected) > 50_000
    pixels, inside = view.camera.project(view.points)
    truth, seen = stream.camera.project(expected)
    both = inside & seen
    assert both.sum() > 10_000 and (inside ^ seen).sum() < 10
    assert np.abs(pixels[both] - truth[both]).max() < 0.01
