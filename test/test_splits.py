"""The splits that ship, and the check that finds leaks."""

import re

import numpy as np
import pytest

from saliency_i2ploc_ros.data.drive import Drive, Trajectory
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.splits import (
    check_split,
    frame_of,
    load_split,
    split_names,
)
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.storage import shared_directory

DRIVE = '2013_05_28_drive_{:04}_sync'


def drive(name, y=0.0, x=0.0):
    poses = np.stack([planar(x + i, y, 0.0) for i in range(30)])
    return Drive(name, name, {}, None, Trajectory(np.arange(30), poses), None)


def test_the_splits_are_those_of_the_paper():
    """Names, drives and counts of arXiv 2412.15577."""
    assert split_names() == ['kitti360-generalisation', 'kitti360-highway', 'kitti360-urban']
    tests = {name: [(t.drive, t.pairs) for t in load_split(name).test] for name in split_names()}
    assert tests == {
        'kitti360-urban': [(DRIVE.format(0), 1501)],
        'kitti360-highway': [(DRIVE.format(3), 1010)],
        'kitti360-generalisation': [(DRIVE.format(18), 3447), (DRIVE.format(7), 842)]}
    for name in split_names():
        split = load_split(name)
        assert split.protocol == 'same_pass' and split.spacing_m == 3.0
        assert split.forbids(DRIVE.format(7)) and split.forbids(DRIVE.format(18))
        assert all(split.forbids(test.drive) for test in split.test)
        assert not split.forbids(DRIVE.format(4))


def test_a_split_of_ones_own_is_read_and_a_broken_one_refused(tmp_path):
    text = (shared_directory('config') / 'splits' / 'kitti360-urban.yaml').read_text()
    mine = tmp_path / 'mine.yaml'
    mine.write_text(text.replace('kitti360-urban', 'mine').replace(
        '2013_05_28_drive_0018_sync', "'0042'"))
    assert load_split(mine).forbids('city_0042_drive_0001_sync') is False
    assert load_split(mine).forbids('city_0001_drive_0042_sync') is True
    for broken, said in ((text, 'alike'), (text + 'pace: 3\n', 'pace'),
                         (re.sub('spacing_m.*', 'spacing_m: -1', text), 'spacing_m'),
                         ('[', 'cannot read')):
        mine.write_text(broken)
        with pytest.raises(InputError, match=said):
            load_split(mine)
    with pytest.raises(InputError, match='kitti360-urban'):
        load_split('kitti360-rural')


def test_frames_of_the_data_sets():
    assert frame_of('city_0007_drive_0000_sync') == frame_of('city_0007_drive_0002_sync')
    assert frame_of('city_0007_drive_0000_sync') != frame_of('city_0008_drive_0000_sync')
    assert frame_of(DRIVE.format(0)) == frame_of(DRIVE.format(18))
    assert frame_of('2011_09_26_drive_0005_sync') != frame_of('2011_09_26_drive_0009_sync')


def test_a_clean_split_is_clean():
    check = check_split([drive('city_1001_drive_0001_sync')],
                        {'trained_on': ['city_0001_drive_0000_sync']})
    assert check.leaks == [] and check.doubts == [] and check.shared_frames == ()
    assert check.as_json()['smallest_distance_m'] is None


def test_a_drive_trained_and_tested_on_is_a_leak():
    name = 'city_0001_drive_0001_sync'
    check = check_split([drive(name)], {'trained_on': [name, 'city_0002_drive_0000_sync']})
    assert check.shared_drives == (name,) and name in check.leaks[0]
    map_only = check_split([drive('city_0001_drive_0001_sync')],
                           {'trained_on': ['city_0001_drive_0000_sync']},
                           also_tested=['city_0001_drive_0000_sync'])
    assert map_only.shared_drives == ('city_0001_drive_0000_sync',)


def test_a_checkpoint_chosen_by_the_test_is_a_leak():
    name = 'city_0900_drive_0001_sync'
    check = check_split([drive(name)], {'trained_on': ['city_0001_drive_0000_sync'],
                                        'held_out_drives': [name]})
    assert check.chosen_by == (name,) and 'chosen' in check.leaks[0]


def test_drives_that_a_split_keeps_out_are_a_leak_whatever_is_tested():
    check = check_split([drive(DRIVE.format(0), y=500.0)],
                        {'trained_on': [DRIVE.format(4), DRIVE.format(18)]},
                        split=load_split('kitti360-urban'))
    assert check.forbidden == (DRIVE.format(18),)
    assert any('keeps out' in leak for leak in check.leaks)


def test_places_of_one_map_frame_are_measured():
    tested, trained = drive(DRIVE.format(0)), drive(DRIVE.format(4), y=7.0)
    said = {'trained_on': [DRIVE.format(4)]}
    near = check_split([tested], said, [trained])
    assert near.smallest_distance_m == pytest.approx(7.0)
    assert '7.0 m' in near.leaks[0] and not near.doubts
    far = check_split([tested], said, [drive(DRIVE.format(4), y=300.0)])
    assert far.smallest_distance_m == pytest.approx(300.0) and far.leaks == []
    # Not at hand: the frame is shared, so that it cannot be ruled out.
    unknown = check_split([tested], said)
    assert unknown.leaks == [] and '--check-split' in unknown.doubts[0]
    # Another city may have the same coordinates: there is no distance between them.
    other = check_split([drive('city_0001_drive_0000_sync')],
                        {'trained_on': ['city_0002_drive_0000_sync']},
                        [drive('city_0002_drive_0000_sync')])
    assert other.leaks == [] and np.isinf(other.smallest_distance_m)


def test_a_model_that_does_not_say_is_not_trusted():
    tested = drive('city_0001_drive_0001_sync')
    assert 'does not say' in check_split([tested], {}).doubts[0]
    given = check_split([tested], {}, [drive('city_0001_drive_0000_sync', y=3.0)])
    assert given.smallest_distance_m == pytest.approx(3.0) and given.leaks
    # Data that the model says it was not trained on does not count.
    spared = check_split([tested], {'trained_on': ['city_0009_drive_0000_sync']},
                         [drive('city_0001_drive_0000_sync', y=3.0)])
    assert spared.leaks == []
