"""What the tokens must also tell: targets as the map has them, losses only where it has any."""

import numpy as np
import pytest
import torch

from saliency_i2ploc_ros.encoders.cloud_input import cloud_input
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.presets import CITY, OURS_CITY, PAPER
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.training.augment import mirrored, token_columns
from saliency_i2ploc_ros.training.geometry import (
    azimuth_column,
    depth_loss,
    depth_target,
    GeometryHeads,
    nearest_of_cells,
)


def walls() -> np.ndarray:
    """Return two walls: one 10 m ahead on the left, one 20 m ahead on the right."""
    def wall(x, y0, y1):
        y, z = np.meshgrid(np.arange(y0, y1, 0.1), np.arange(0.0, 4.0, 0.1))
        return np.stack([np.full(y.size, x), y.ravel(), z.ravel()], 1)
    return np.concatenate([wall(10.0, 2.0, 9.0), wall(20.0, -15.0, -4.0)]).astype(np.float32)


def test_depth_target_is_the_range_in_the_direction_of_each_cell():
    target = depth_target(walls(), OURS_CITY).astype(np.float64)
    assert target.shape == (16, 52)
    camera = OURS_CITY.image.camera
    # The horizon is row 7 of 16; each cell is four pixels wide.
    for y, x in ((5.0, 10.0), (-10.0, 20.0)):
        column = int((camera.cx - camera.fx * y / x + 0.5) / 4)
        assert target[7, column] == pytest.approx(np.hypot(x, y), rel=0.03)
    assert (target[0] == 0).all() and (target[:, 25:27] == 0).all()
    with pytest.raises(InputError, match='virtual camera'):
        depth_target(walls(), PAPER)


def test_cells_keep_the_nearest_and_nothing_stays_nothing():
    ranges = torch.zeros(1, 1, 8, 8)
    ranges[0, 0, 1, 2], ranges[0, 0, 3, 3], ranges[0, 0, 7, 7] = 9.0, 4.0, 30.0
    assert nearest_of_cells(ranges.half(), torch.Size((2, 2))).tolist() == [[[4.0, 0.0],
                                                                            [0.0, 30.0]]]


def test_depth_is_judged_only_where_there_is_any():
    target = torch.tensor([[[10.0, 0.0]]])
    exact = torch.tensor([[[[0.0, 9.0], [123.0, -9.0]]]])
    assert depth_loss(exact, target) < 1e-3
    wrong = exact.clone()
    wrong[..., 0, 0] = 1.0  # e times as far
    assert depth_loss(wrong, target) == pytest.approx(0.9 + float(depth_loss(exact, target)))
    blind = exact.clone()
    blind[..., 1] *= -1
    assert depth_loss(blind, target) > 4.0


def test_predicted_cells_lie_in_their_tokens():
    heads = GeometryHeads(OURS_CITY, 'depth')
    tokens = torch.zeros(1, 4 * 13, 128)
    tokens[0, 1 * 13 + 2] = torch.randn(128)  # row 1, column 2 of tokens
    with torch.no_grad():
        said = heads.predicted_depth(tokens)
        nothing = heads.predicted_depth(torch.zeros(1, 4 * 13, 128))
    changed = ((said - nothing).abs().sum(-1) > 1e-6)[0].nonzero()
    assert changed.min(0).values.tolist() == [4, 8] and changed.max(0).values.tolist() == [7, 11]


def test_both_branches_speak_through_one_head():
    class Batch:
        geometry = torch.rand(2, 16, 52) * 30
        clouds = (torch.rand(2, 1, 64, 208) * 30,)
    torch.manual_seed(0)
    model, heads = DualEncoder(OURS_CITY), GeometryHeads(OURS_CITY, 'depth')
    losses = heads(model.encode_image(torch.randn(2, 3, 64, 208)),
                   model.encode_cloud(*Batch.clouds), Batch)
    assert set(losses) == {'image_geometry', 'cloud_geometry'}
    sum(losses.values()).backward()
    for branch in (model.image, model.cloud):
        assert all(p.grad is not None and p.grad.abs().sum() > 0
                   for n, p in branch.encoder.named_parameters() if n.endswith('blocks.0.mlp.fc1'))


@pytest.mark.parametrize('model', [OURS_CITY, CITY], ids=['range', 'points'])
def test_a_mirrored_submap_is_the_input_of_mirrored_points(model):
    # A few odd points, so that sampling has no ties; the mirror turns left into right.
    rng = np.random.default_rng(1)
    points = walls() + rng.normal(0, 0.02, walls().shape).astype(np.float32)
    other = points * np.array([1, -1, 1], np.float32)
    one = tuple(part[None] for part in cloud_input(points, model))
    flipped = mirrored(one, np.array([True]), model)
    again = cloud_input(other, model)
    if model is OURS_CITY:
        same = np.isclose(flipped[0][0], again[0], atol=0.5).mean()
        assert same > 0.97, same  # but for points that lie between two pixels
    else:
        a, b = np.sort(flipped[1][0][:, 0]), np.sort(again[1][:, 0])
        assert np.abs(a - b).max() < 0.1
    np.testing.assert_array_equal(one[0], cloud_input(points, model)[0][None])


def test_token_columns_of_range_images_follow_the_camera():
    image = np.zeros((2, 1, 64, 208), np.float32)
    columns = token_columns((image,), OURS_CITY)
    assert columns.shape == (2, 52) and columns[0].tolist() == list(range(13)) * 4
    cloud = OURS_CITY.cloud.model_copy(
        update={'projection': 'spherical', 'field_of_view_deg': 360.0, 'width': 256})
    spherical = OURS_CITY.model_copy(update={'cloud': cloud})
    columns = token_columns((np.zeros((1, 1, 64, 256), np.float32),), spherical)
    ahead = columns[0, 7:9]  # of 16 columns round the circle, just left and right of ahead
    assert ahead.tolist() == [int(azimuth_column(a, OURS_CITY.image) * 13)
                              for a in (np.pi / 16, -np.pi / 16)]
    assert columns[0, 0] == -1 and columns[0, 15] == -1
