"""KITTI raw drive 0005 the whole way: map, database, bag, live nodes, fixes."""

import json
import time

from helpers_drives import real_data, SHARED
from helpers_ros import LAX, new_domain, Process, TINY
import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.data.bags import BagReader, write_bag
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.data.submaps import submaps_of_drive
from saliency_i2ploc_ros.data.trajectories import read_trajectory
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import save_model
from saliency_i2ploc_ros.mapping.builder import build_database
from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag

CAMERA = '/kitti/image_02'
TRUTH = '/kitti/ground_truth/pose'


@real_data
@pytest.mark.timeout(300)
def test_kitti_raw_becomes_fixes_with_the_images_stamps(tmp_path):
    drive = open_drive(SHARED / 'kitti_raw' / '2011_09_26', '0005')
    torch.manual_seed(0)
    model = DualEncoder(TINY).eval()
    save_model(model, tmp_path / 'model', {})
    store = submaps_of_drive(drive, TINY.submap, cache=tmp_path / 'cache')
    database = build_database(store, model, tmp_path / 'map')
    assert 10 <= len(database.descriptors) <= 14  # 69 m, one place every 5 m
    write_bag(drive, tmp_path / 'bag', compressed=True)

    info, image = f'{CAMERA}/camera_info', f'{CAMERA}/image_rect'
    compressed = f'{image}/compressed'
    with BagReader(tmp_path / 'bag') as bag:
        stamps = [message.stamp_ns for message in bag.messages([compressed])]
    domain = new_domain()
    processes = localizer, evaluator, replay = [
        Process('localizer', domain, tmp_path, f'image/compressed:={compressed}',
                f'camera_info:={info}', model=tmp_path / 'model', database=tmp_path / 'map',
                image_transport='compressed', use_sim_time=True,
                camera_extrinsics=extrinsics_in_bag(tmp_path / 'bag', info, 'base_link'),
                # Images of this size do not all arrive by best effort.
                **{f'qos_overrides.{compressed}.subscription.reliability': 'reliable'}, **LAX),
        Process('evaluator', domain, tmp_path, f'camera_info:={info}',
                f'ground_truth/pose:={TRUTH}', output=tmp_path / 'out',
                database=tmp_path / 'map', bag=tmp_path / 'bag', image_topic=compressed),
        Process('replay', domain, tmp_path, bag=tmp_path / 'bag', rate=0,
                wait_for=f"'{compressed} {TRUTH}'")]
    try:
        assert replay.wait(200) == 0, replay.log + localizer.log
        time.sleep(0.5)
        assert evaluator.interrupt() == 0, evaluator.log
        assert localizer.interrupt() == 0, localizer.log
    finally:
        for process in processes:
            process.close()

    fixes = read_trajectory(tmp_path / 'out' / 'fixes.tum')
    assert fixes.stamps_ns.tolist() == stamps == drive.cameras['image_02'].stamps_ns.tolist()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['coverage']['images_in'] == len(stamps) == 52
    assert summary['coverage']['without_truth'] == 1  # the first image is before the first pose
    # The model is random, its fixes are still places of this street, on the map's ground.
    places = database.T_map_base[:, :3, 3]
    gap = np.linalg.norm(fixes.T_map_base[:, None, :3, 3] - places, axis=2).min(1)
    assert gap.max() < 20.0
