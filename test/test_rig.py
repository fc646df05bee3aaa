"""Several cameras on one vehicle: their mountings, their images together, and the panorama."""

import json
import math
from pathlib import Path
import shutil

from helpers_localizer import tiny_model
from helpers_ros import (
    camera_info,
    client_in,
    EXTRINSICS,
    image_at,
    new_domain,
    SPACE,
    write_world,
)
from helpers_running import localizer_of
import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from saliency_i2ploc_ros.encoders.config import ImageConfig
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Panorama
from saliency_i2ploc_ros.geometry.lenses import Mei
from saliency_i2ploc_ros.geometry.panorama import _plan, panorama_mount, stitch
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform, yaw_of
from saliency_i2ploc_ros.localization.localizer import Localizer, LocalizerConfig
from saliency_i2ploc_ros.ros.cameras import camera_of
from saliency_i2ploc_ros.ros.conversions import header_at, rgb_to_image
from saliency_i2ploc_ros.ros.frames import extrinsics_in_bag, rig_extrinsics
from saliency_i2ploc_ros.ros.pipeline import Pipeline

RNG = np.random.default_rng(0)
LENS = Mei(120, 120, 2.2134, 0.0168, 1.6548, 0.0, 0.0, 114.5, 114.5, 60.0, 60.0)
MOUNTS = {'left': planar(0.0, 0.5, np.pi / 2) @ transform(R_base_optical),
          'right': planar(0.0, -0.5, -np.pi / 2) @ transform(R_base_optical)}
SEES = Panorama(64, 32, 45.0, -45.0)


# Mountings.

def test_mountings_are_given_one_after_the_other():
    quaternions = rig_extrinsics([*EXTRINSICS, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0], ['a', 'b'])
    assert list(quaternions) == ['a', 'b']
    np.testing.assert_array_equal(quaternions['b'], transform(translation=[1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(quaternions['a'], rig_extrinsics(EXTRINSICS, [''])[''])
    # 42 numbers are six of 7 for six cameras, and seven of 6 for seven.
    six = rig_extrinsics([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0] * 6, list('abcdef'))
    seven = rig_extrinsics([0.0, 0.0, 0.0, 0.0, 0.0, math.pi / 2] * 7, list('abcdefg'))
    assert len(six) == 6 and len(seven) == 7 and yaw_of(seven['g']) == pytest.approx(math.pi / 2)
    assert rig_extrinsics([], ['a', 'b']) == {}


@pytest.mark.parametrize(('count', 'cameras', 'said'), [
    (7, 2, '7 numbers for 2 cameras: it must be 7 for each'), (13, 2, '13 numbers for 2'),
    (14, 1, '14 numbers for 1 camera:'), (42, 8, '42 numbers for 8')])
def test_mountings_that_are_not_one_for_each_camera(count, cameras, said):
    with pytest.raises(InputError, match=said):
        rig_extrinsics([0.0] * count, [f'c{i}' for i in range(cameras)])


def test_extrinsics_of_a_bag_that_does_not_say(tmp_path):
    write_world(tmp_path, 2)
    bag = tmp_path / 'bag'
    found = extrinsics_in_bag(bag, f'{SPACE}/camera_info', 'base_link')
    np.testing.assert_allclose(found, EXTRINSICS, atol=1e-9)
    assert extrinsics_in_bag(bag, '/other/camera_info', 'base_link') is None
    assert extrinsics_in_bag(bag, f'{SPACE}/camera_info', 'rear_axle') is None
    shutil.copytree(bag, tmp_path / 'cut')
    for file in Path(tmp_path / 'cut').glob('*.mcap'):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match='cannot be read'):
        extrinsics_in_bag(tmp_path / 'cut', f'{SPACE}/camera_info', 'base_link')


# The panorama of two fisheyes.

def mei_info(lens=LENS):
    """Return the CameraInfo of a fisheye: K is of the generalised plane, D begins with xi."""
    K = [[lens.gamma1, 0.0, lens.u0], [0.0, lens.gamma2, lens.v0], [0.0, 0.0, 1.0]]
    return CameraInfo(width=lens.width, height=lens.height, distortion_model='mei',
                      d=[lens.xi, lens.k1, lens.k2, lens.p1, lens.p2], k=np.ravel(K))


class StandInDatabase:
    """A map of one place, that keeps what it was asked."""

    spacing_m = 5.0

    def __init__(self):
        self.T_map_base = planar(10.0, 20.0, 0.5)[None]
        self.descriptors = np.zeros((1, 16), np.float32)
        self.asked = []

    def search(self, queries, k):
        self.asked.append(queries)
        return np.full((1, 1), 0.9, np.float32), np.zeros((1, 1), np.int64)


def panorama_pipeline(cameras):
    config = tiny_model().config
    model = DualEncoder(config.model_copy(update={'image': ImageConfig(
        height=32, width=64, dim=32, depth=1, heads=2, camera=SEES)}))
    localizer = Localizer(model, StandInDatabase(), LocalizerConfig(min_visible=0.0))
    return Pipeline(localizer, cameras, lambda frame, camera: MOUNTS[camera], '', True,
                    lambda what: None)


def fisheyes(stamp_ns):
    pixels = {name: RNG.integers(0, 256, (120, 120, 3)).astype(np.uint8) for name in MOUNTS}
    return pixels, {name: rgb_to_image(image, header_at(stamp_ns, name))
                    for name, image in pixels.items()}


@pytest.mark.parametrize('rectified', [True, False])
def test_the_lens_of_mei_is_read_from_its_camera_info(rectified):
    assert camera_of(mei_info(), rectified) == LENS  # without a P it can only be raw
    info = mei_info()
    info.binning_x = info.binning_y = 2
    assert camera_of(info).gamma1 == LENS.gamma1 / 2
    info.d = info.d[:4]
    with pytest.raises(InputError, match='4 coefficients of mei'):
        camera_of(info)


def test_two_fisheyes_are_answered_as_one_panorama():
    pipeline = panorama_pipeline(list(MOUNTS))
    pipeline.camera_infos = {name: mei_info() for name in MOUNTS}
    for stamp in (1, 2):
        pixels, images = fisheyes(stamp)
        answered = pipeline.answer(images)
        assert answered.answer.fix is not None, answered.answer.explanation
        view, = answered.views
        assert view.camera == SEES
        expected = stitch(list(pixels.values()), [LENS, LENS], list(MOUNTS.values()), SEES)
        assert np.array_equal(view.image, expected) and len(np.unique(expected)) > 100
        np.testing.assert_array_equal(view.T_base_camera, panorama_mount(list(MOUNTS.values())))
        # It looks straight ahead, wherever its cameras do.
        assert yaw_of(answered.answer.fix.T_map_base) == pytest.approx(0.5)
        assert answered.answer.saliency[0].shape == (8,)
        assert (answered.stamp_ns, answered.frame) == (stamp, 'left')


def test_the_tables_of_a_panorama_are_made_once():
    pipeline = panorama_pipeline(list(MOUNTS))
    _plan.cache_clear()
    for stamp in (1, 2, 3):
        pipeline.camera_infos = {name: mei_info() for name in MOUNTS}  # new, and the same
        pipeline.answer(fisheyes(stamp)[1])
    assert _plan.cache_info().misses == 1 and _plan.cache_info().hits == 2


def test_half_a_panorama_is_no_panorama():
    pipeline = panorama_pipeline(list(MOUNTS))
    images = fisheyes(1)[1]
    answered = pipeline.answer(images)
    assert answered.answer.rejection == 'no_camera_info'
    pipeline.camera_infos = {name: mei_info() for name in MOUNTS}
    images = fisheyes(2)[1]
    del images['left']
    answered = pipeline.answer(images)
    assert answered.answer.rejection == 'incomplete_set'
    assert answered.answer.explanation == 'camera left: its image did not come in time'
    assert (answered.stamp_ns, answered.frame) == (2, 'right')
    images = fisheyes(3)[1]
    images['right'].encoding = 'nv21'
    answered = pipeline.answer(images)
    assert answered.answer.rejection == 'bad_image' and answered.left_out == {}
    assert 'camera right' in answered.answer.explanation
    assert pipeline.localizer.database.asked == []


# Two perspective cameras of a running node.

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    write_world(root)
    return root


def test_two_cameras_are_answered_together_and_one_alone_after_a_wait(world):
    domain = new_domain()
    turned = [0.0, 0.0, 1.6, -math.pi / 2, 0.0, 0.0]  # an optical frame that looks to the left
    ahead = [0.0, 0.0, 1.6, -math.pi / 2, 0.0, -math.pi / 2]
    process = localizer_of(world, domain, 'left/image:=/car/left/image_rect',
                           cameras='[front, left]', camera_extrinsics=[*ahead, *turned],
                           camera_wait_s=0.3, camera_slop_s=0.01)
    try:
        with client_in(domain) as client:
            client.listen_to_localizer()
            looks = client.listen(Image, '/localizer/saliency', QoSProfile(
                depth=1, reliability=2))
            publishers = {
                name: (client.node.create_publisher(Image, topic, 5),
                       client.node.create_publisher(CameraInfo, f'{name}/camera_info', 5))
                for name, topic in (('front', 'front/image'), ('left', '/car/left/image_rect'))}
            answers, stamps = client.got['/localizer/answer'], iter(range(10**9, 10**11, 10**8))

            def sent(*names, blank=False, seconds=10.0) -> dict:
                """Send images, 5 ms apart; return the answer, its stamp from the first one's."""
                stamp = next(stamps)
                for i, name in enumerate(names):
                    publishers[name][1].publish(camera_info())
                    message = image_at(stamp + 5_000_000 * i, seed=stamp % 97 + i)
                    message.encoding = 'nv21' if blank else message.encoding
                    publishers[name][0].publish(message)
                found = []
                client.until(lambda: found or found.extend(
                    a for a in (json.loads(m.data) for m in answers)
                    if 0 <= a['stamp_ns'] - stamp <= 5_000_000), seconds)
                return {**found[0], 'stamp_ns': found[0]['stamp_ns'] - stamp} if found else {}

            both = {}
            assert client.until(lambda: all(
                publisher.get_subscription_count() for pair in publishers.values()
                for publisher in pair), 60), process.log

            def together() -> bool:
                both.update(sent('left', 'front', seconds=0.5))
                return both.get('left_out') == {}

            # The first images may get lost, or come before their CameraInfo.
            assert client.until(together, 60), process.log + str(both)
            # The stamp is that of the first camera of the list, though the other was earlier.
            assert both['stamp_ns'] == 5_000_000
            both = sent('front', 'left')
            assert both['accepted'] and both['stamp_ns'] == 0
            assert both['cameras'] == ['front', 'left'] and both['left_out'] == {}
            assert 'by 2 of 2 images' in both['explanation'] and len(both['candidates']) == 24
            alone = sent('left')
            assert alone['left_out'] == {'front': 'incomplete_set'} and alone['accepted']
            assert alone['cameras'] == ['left'] and len(alone['candidates']) == 12
            # The same place means a vehicle turned back by a quarter.
            best = alone['candidates'][0]
            place_yaw = math.degrees(0.05 * best['place'])
            assert math.remainder(best['yaw_deg'] - place_yaw + 90.0, 360.0) \
                == pytest.approx(0.0, abs=1e-6)
            assert sent('front', 'left', blank=True)['rejection'] == 'bad_image'
            # Of two images 2 : 1, one below the other, no larger than arrives.
            assert client.until(lambda: sent('front', 'left') and any(
                m.width == m.height == 365 and len(m.data) <= 400_000 for m in looks))
        assert 'answered without camera front: its image did not come in time' in process.log
        assert process.interrupt() == 0 and 'Traceback' not in process.log
    finally:
        process.close()
