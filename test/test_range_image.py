"""A submap as a range image: geometry, occlusion, views from elsewhere, and what hashes know."""

import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.encoders.cloud_input import cloud_input
from saliency_i2ploc_ros.encoders.config import ModelConfig, parse_config, RangeConfig, View
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import preprocessing_hash
from saliency_i2ploc_ros.encoders.presets import CITY, OURS_CITY
from saliency_i2ploc_ros.encoders.range_image import range_image, RangeEncoder, splat
from saliency_i2ploc_ros.errors import InputError

HEIGHT_M = 1.6  # of the sensor over the road


def wall(x: float, half: float = 6.0, step: float = 0.1) -> np.ndarray:
    """Return the points of a wall across the way, x metres ahead, its foot on the road."""
    y, z = np.meshgrid(np.arange(-half, half, step), np.arange(0.0, 3.0, step))
    return np.stack([np.full(y.size, x), y.ravel(), z.ravel()], 1).astype(np.float32)


def with_range(**changes) -> ModelConfig:
    cloud = OURS_CITY.cloud.model_copy(update=changes)
    return OURS_CITY.model_copy(update={'cloud': cloud})


def test_points_lie_where_the_virtual_camera_sees_them():
    camera = OURS_CITY.image.camera
    image = range_image(wall(10.0), OURS_CITY)[0]
    assert image.shape == (64, 208)
    # The wall's middle, at the sensor's height, is at the principal point, 10 m away.
    row, column = round(camera.cy), round(camera.cx)
    assert image[row, column] == pytest.approx(10.0, abs=0.05)
    # Its left edge (y = +6 m) is left of the middle by f * 6 / 10 pixels, and 11.7 m away.
    edge = round(camera.cx - camera.fx * 0.6)
    seen = np.flatnonzero(image[row] > 0)
    assert abs(seen[0] - edge) <= 3
    assert image[row, seen[0]] == pytest.approx(np.hypot(10.0, 6.0), abs=0.3)
    assert (image[row, seen[0]:seen[-1]] > 0).all(), 'the wall has holes'
    assert image[0].max() == 0.0, 'nothing is above the wall'


def test_what_is_near_hides_what_is_far_behind_it():
    both = range_image(np.concatenate([wall(8.0), wall(20.0, 30.0)]), OURS_CITY)[0]
    far = range_image(wall(20.0, 30.0), OURS_CITY)[0]
    near = range_image(wall(8.0), OURS_CITY)[0]
    covered = near > 0
    np.testing.assert_array_equal(both[covered], near[covered])
    np.testing.assert_array_equal(both[~covered], far[~covered])
    assert (far[covered] > 0).any()


def test_the_order_of_points_and_what_is_not_finite_do_not_matter():
    points = np.concatenate([wall(8.0), wall(20.0, 30.0)])
    dirty = np.concatenate([points[::-1], np.full((5, 3), np.nan, np.float32)])
    np.testing.assert_array_equal(range_image(points, OURS_CITY), range_image(dirty, OURS_CITY))


def test_splatting_equals_a_loop_over_points():
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, [20, 30], (200, 2))
    distance = rng.uniform(1.0, 50.0, 200).astype(np.float32)
    size = rng.uniform(0.1, 12.0, 200).astype(np.float32)
    expected = np.full((20, 30), np.inf)
    for (row, column), d, s in zip(pixels, distance, size, strict=True):
        wide = 1
        while wide < s and wide < 16:
            wide *= 2
        r, c = row // wide * wide, column // wide * wide
        block = expected[r:r + wide, c:c + wide]
        np.minimum(block, d, out=block)
    expected[~np.isfinite(expected)] = 0.0
    np.testing.assert_array_equal(splat(pixels, distance, size, 20, 30), expected.astype('f4'))


def test_spherical_range_images_go_by_azimuth_and_elevation():
    config = with_range(projection='spherical', field_of_view_deg=360.0,
                        elevation_deg=(-25.0, 15.0), height=32, width=360)
    # 50 points each: 10 m ahead, 12 m to the left, 14 m behind, at the height of the sensor.
    at = np.repeat([[10.0, 0.0, HEIGHT_M], [0.0, 12.0, HEIGHT_M], [-14.0, 0.01, HEIGHT_M]], 50, 0)
    image = range_image(at.astype(np.float32), config)[0]
    row = int(15.0 / 40.0 * 32)
    columns = {round(float(image[row, c])): c for c in np.flatnonzero(image[row])}
    assert set(columns) == {10, 12, 14}
    assert abs(columns[10] - 180) <= 2 and abs(columns[12] - 90) <= 2 and columns[14] <= 2


def test_too_few_points_in_view_are_refused():
    with pytest.raises(InputError, match='only 0 points in view'):
        range_image(wall(10.0) * [-1, 1, 1], OURS_CITY)


def test_the_encoder_knows_heights_and_nothingness():
    encoder = RangeEncoder(OURS_CITY)
    ranges = torch.from_numpy(range_image(wall(10.0), OURS_CITY))[None]
    seen = {}
    encoder.vit.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    tokens, attention = encoder(ranges)
    assert tokens.shape == (1, 52, 128) and attention.shape == (1, 52)
    log_range, height, known = seen['x'][0]
    assert log_range[31, 103] == pytest.approx(0.0, abs=0.01)  # ln(10 / 10)
    assert known[31, 103] == 1.0 and known[0, 0] == 0.0 and height[0, 0] == 0.0
    # The wall's foot is at height 0, wherever it is drawn.
    foot = int(np.flatnonzero(known[:, 103].numpy())[-1])
    assert abs(float(height[foot, 103])) < 0.1
    # Half precision, as it is kept for training, changes nothing that matters.
    torch.testing.assert_close(encoder(ranges.half())[0], tokens, atol=2e-2, rtol=0)


def test_a_model_of_range_images_encodes_any_batch_alike():
    torch.manual_seed(0)
    model = DualEncoder(OURS_CITY).eval()
    clouds = [cloud_input(np.concatenate([wall(8.0 + k), wall(20.0 + k, 30.0)]), OURS_CITY)[0]
              for k in range(3)]
    stacked = torch.from_numpy(np.stack(clouds))
    with torch.no_grad():
        together = model.encode_cloud(stacked)
        alone = model.encode_cloud(stacked[1:2])
    torch.testing.assert_close(together.descriptor[1:2], alone.descriptor, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(together.features, dim=-1),
                               together.descriptor)
    assert not torch.allclose(together.descriptor[0], together.descriptor[2], atol=1e-4)


def test_hashes_follow_what_is_rendered_and_not_the_network():
    base = preprocessing_hash(OURS_CITY)
    assert preprocessing_hash(with_range(max_range_m=50.0)) != base
    assert preprocessing_hash(with_range(splat_m=0.2)) != base
    assert preprocessing_hash(with_range(depth=6)) == base
    assert preprocessing_hash(OURS_CITY.model_copy(update={'views': (View(),)})) == base


def test_configurations_come_back_from_json_by_their_kind():
    assert parse_config(OURS_CITY.model_dump(mode='json'), 'test') == OURS_CITY
    assert isinstance(OURS_CITY.cloud, RangeConfig)
    values = OURS_CITY.model_dump(mode='json')
    values['cloud']['kind'] = 'radar'
    with pytest.raises(InputError, match='cloud'):
        parse_config(values, 'test')
    values = OURS_CITY.model_dump(mode='json')
    values['image']['camera'] = None
    with pytest.raises(InputError, match='virtual camera'):
        parse_config(values, 'test')


def test_two_looks_are_one_look_and_one_into_a_mirror():
    torch.manual_seed(0)
    once = DualEncoder(OURS_CITY).eval()
    config = ModelConfig.model_validate(
        {**OURS_CITY.model_dump(), 'mirrored': True, 'descriptor_dim': 512})
    twice = DualEncoder(config).eval()
    twice.load_state_dict(once.state_dict())
    images = torch.randn(3, 3, 64, 208)
    ranges = torch.rand(3, 1, 64, 208) * 40.0
    with torch.no_grad():
        for name, x in (('encode_image', images), ('encode_cloud', ranges)):
            both = getattr(twice, name)(x)
            first, second = getattr(once, name)(x), getattr(once, name)(x.flip(-1))
            torch.testing.assert_close(
                both.descriptor * 2 ** 0.5,
                torch.cat([first.descriptor, second.descriptor], 1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(both.descriptor.norm(dim=1), torch.ones(3))
            torch.testing.assert_close(both.saliency, first.saliency, atol=1e-5, rtol=1e-4)
            assert both.features.shape == (3, 512)
    for change in ({'descriptor_dim': 511}, {'cloud': CITY.cloud.model_dump()}):
        with pytest.raises(InputError, match='mirror|layout'):
            parse_config({**config.model_dump(mode='json'), **change}, 'test')
