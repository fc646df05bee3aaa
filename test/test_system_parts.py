"""The networks and losses of the compared systems, against oracles written plainly."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saliency_i2ploc_ros.encoders.config_published import (
    GemConfig,
    PointNetConfig,
    ProjectionConfig,
    VoxelConfig,
)
from saliency_i2ploc_ros.encoders.dual import Encoded
from saliency_i2ploc_ros.encoders.pointnet import PointNet, pointnet_input
from saliency_i2ploc_ros.encoders.pooling import Gem, Projection, SqueezeExcitation
from saliency_i2ploc_ros.encoders.presets import PRESETS, VXP_CITY
from saliency_i2ploc_ros.encoders.spherical import grid_of, SphericalConv2d, tap_pixels
from saliency_i2ploc_ros.encoders.voxels import (
    AROUND,
    gather,
    INSIDE,
    Lookup,
    mirror_voxels,
    voxel_input,
    VoxelEncoder,
)
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.training.batches import Batch
from saliency_i2ploc_ros.training.config import TrainingConfig
from saliency_i2ploc_ros.training.distillation import voxel_loss, voxel_pixels
from saliency_i2ploc_ros.training.objectives import OBJECTIVES
from saliency_i2ploc_ros.training.triplets import MARGIN, spherical_triplet_losses, triplet_loss

SITES = [{'root': 'x', 'map_drive': 'a', 'query_drives': ['a']}]


# Spherical convolutions

def spherical(camera, kernel, stride, weight, scale=1):
    grid = torch.from_numpy(grid_of(camera, kernel, stride, scale))
    layer = SphericalConv2d(weight.shape[1], weight.shape[0], kernel, grid,
                            isinstance(camera, Panorama))
    layer.weight.data = weight
    return layer


@pytest.mark.parametrize(('kernel', 'stride'), [(3, 1), (3, 2), (7, 2)])
def test_where_the_sphere_is_flat_a_convolution_is_the_ordinary_one(kernel, stride):
    camera = Pinhole(23, 16, 1e5, 1.3e5, 11.0, 7.5)
    x, weight = torch.randn(2, 3, 16, 23), torch.randn(4, 3, kernel, kernel)
    with torch.no_grad():
        found = spherical(camera, kernel, stride, weight)(x)
    expected = F.conv2d(x, weight, None, stride, kernel // 2)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0.0)


def test_taps_lie_on_the_plane_that_touches_the_sphere():
    camera = Panorama(64, 32, 90.0, -90.0)
    taps = tap_pixels(camera, 3, 1, 1)
    step = math.tan(2.0 * math.pi / 64)
    for row, column in ((15, 20), (3, 40), (29, 63)):
        azimuth = ((column + 0.5) / 64 - 0.5) * 2.0 * math.pi
        elevation = math.radians(90.0 - (row + 0.5) / 32 * 180.0)
        # The inverse gnomonic projection, as in textbooks: x to the right, y up.
        for tap, (y, x) in enumerate((y, x) for y in (step, 0, -step) for x in (-step, 0, step)):
            rho = math.hypot(x, y)
            c = math.atan(rho)
            up = elevation if rho == 0 else math.asin(
                math.cos(c) * math.sin(elevation) + y * math.sin(c) * math.cos(elevation) / rho)
            turn = azimuth + (0.0 if rho == 0 else math.atan2(
                x * math.sin(c), rho * math.cos(elevation) * math.cos(c)
                - y * math.sin(elevation) * math.sin(c)))
            u, v = taps[row, column, tap]
            assert v == pytest.approx((90.0 - math.degrees(up)) / 180.0 * 32 - 0.5, abs=1e-6)
            assert math.cos((u + 0.5) / 64 * 2 * math.pi - math.pi - turn) == pytest.approx(1.0)


def test_a_turned_panorama_turns_what_a_convolution_says_of_it():
    camera = Panorama(32, 16, 45.0, -45.0)
    layer = spherical(camera, 3, 1, torch.randn(4, 3, 3, 3))
    x = torch.randn(1, 3, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x.roll(5, 3)), layer(x).roll(5, 3), atol=1e-4, rtol=0.0)


# Pooling

def test_generalised_means():
    tokens = torch.rand(2, 5, 3) + 0.1
    gem = Gem(3, 3, GemConfig(power=2.5))
    gem.project.weight.data, gem.project.bias.data = torch.eye(3), torch.zeros(3)
    expected = torch.stack([sum(t ** 2.5 / 5 for t in sample) ** (1 / 2.5) for sample in tokens])
    torch.testing.assert_close(gem(tokens), expected)
    # Weights leave tokens out.
    weight = torch.tensor([[1.0, 1, 1, 0, 0]] * 2)
    torch.testing.assert_close(gem(tokens, weight), gem(tokens[:, :3]))
    one = Gem(3, 3, GemConfig(power=1.0))
    one.project = gem.project
    torch.testing.assert_close(one(tokens), tokens.mean(1))


def test_the_projection_head():
    head = Projection(6, 4, ProjectionConfig()).eval()
    tokens = torch.randn(3, 5, 6)
    y = tokens.mean(1) @ head.first.weight.T + head.first.bias
    z = F.gelu(y) @ head.second.weight.T + head.second.bias
    torch.testing.assert_close(head(tokens), F.layer_norm(y + z, (4,)))
    torch.testing.assert_close(head(tokens).norm(dim=1), torch.full((3,), 2.0), rtol=1e-3, atol=0)
    # Dropout only in training.
    assert torch.equal(head(tokens), head(tokens))
    head.train()
    assert not torch.equal(head(tokens), head(tokens))


def test_channels_are_weighted_by_all_channels():
    attention = SqueezeExcitation(8, 4)
    tokens = torch.randn(2, 5, 8)
    share = torch.sigmoid(attention.excite(attention.squeeze(tokens.mean(1)).clamp(min=0)))
    torch.testing.assert_close(attention(tokens), tokens * share[:, None])


# PointNet

def test_pointnet_takes_no_ground_and_any_order():
    config = PointNetConfig(points=64, field_of_view_deg=90.0, max_range_m=10.0,
                            layers=(8, 8, 16), norm='group')
    points = np.random.default_rng(0).uniform(-12, 12, (3000, 3)).astype(np.float32)
    taken = pointnet_input(points, config)
    assert taken.shape == (64, 3)
    assert (taken[:, 2] > 0.3).all()
    assert (np.hypot(taken[:, 0], taken[:, 1]) <= 10.0).all()
    assert (np.abs(np.arctan2(taken[:, 1], taken[:, 0])) <= np.pi / 4 + 1e-6).all()
    few = pointnet_input(points[:900], config)
    assert 32 <= len(np.unique(few, axis=0)) <= 64
    torch.manual_seed(0)
    network = PointNet(config).eval()
    order = torch.randperm(64)
    batch = torch.from_numpy(taken)[None]
    with torch.no_grad():
        torch.testing.assert_close(network(batch[:, order])[0], network(batch)[0][:, order],
                                   atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match='above the ground'):
        pointnet_input(points * [1, 1, 0], config)


# Voxels

SMALL = VoxelConfig(voxel_m=(1.0, 1.0, 1.0), x_m=(0.0, 12.0), y_m=(-6.0, 6.0), z_m=(0.0, 4.0),
                    voxels=(400, 120), channels=(8, 16), dim=12, layers=1)


def cluttered(seed=0, count=300):
    rng = np.random.default_rng(seed)
    return rng.uniform([0, -6, 0], [12, 6, 4], (count, 3)).astype(np.float32)


def test_voxels_are_those_that_hold_points():
    points = cluttered()
    features, cells, coarse, means = voxel_input(points, SMALL)
    expected = {}
    for p in points.astype(float):
        expected.setdefault(tuple(np.floor(p - [0, -6, 0]).astype(int)), []).append(p)
    there = cells[:, 0] >= 0
    assert {tuple(cell) for cell in cells[there]} == set(expected)
    for cell, row in zip(cells[there], features[there], strict=True):
        inside = np.array(expected[tuple(cell)])
        middle = cell + 0.5 + [0, -6, 0]
        np.testing.assert_allclose(row, [*inside.mean(0) / 10, *(inside.mean(0) - middle),
                                         np.log1p(len(inside))], atol=1e-5)
    assert {tuple(c) for c in coarse if c[0] >= 0} == {tuple(c // 2) for c in cells[there]}
    assert (features[~there] == 0).all() and (means[coarse[:, 0] < 0] == 0).all()


def test_too_many_voxels_are_the_nearest():
    few = SMALL.model_copy(update={'voxels': (50, 20)})
    cells = voxel_input(cluttered(), few)[1]
    every = voxel_input(cluttered(), SMALL)[1]
    assert (cells >= 0).all()
    np.testing.assert_array_equal(cells, every[:50])


def test_rows_of_neighbours_are_found():
    _, cells, coarse, _ = (torch.from_numpy(part)[None] for part in voxel_input(
        cluttered(), SMALL))
    lookup = Lookup(SMALL.size)
    for origins, offsets, scale in ((cells, AROUND, 1), (coarse, INSIDE, 2)):
        rows = lookup(cells, origins, offsets, scale)[0]
        place = {tuple(c): i for i, c in enumerate(cells[0].tolist()) if c[0] >= 0}
        for i, origin in enumerate(origins[0].tolist()):
            for k, offset in enumerate(offsets.tolist()):
                at = tuple(scale * o + d for o, d in zip(origin, offset, strict=True))
                assert rows[i, k] == (400 if origin[0] < 0 else place.get(at, 400))


def test_a_submanifold_convolution_is_that_of_the_dense_grid():
    torch.manual_seed(0)
    encoder = VoxelEncoder(SMALL)
    _, cells, _, _ = (torch.from_numpy(part)[None] for part in voxel_input(cluttered(), SMALL))
    x = torch.randn(1, 400, 8) * (cells[..., :1] >= 0)
    dense = torch.zeros(1, 8, *SMALL.size)
    there = cells[0][cells[0, :, 0] >= 0].long()
    dense[0][:, there[:, 0], there[:, 1], there[:, 2]] = x[0, :len(there)].T
    mix = encoder.convolutions[0][0].mix
    kernel = mix.weight.view(8, 3, 3, 3, 8).permute(0, 4, 1, 2, 3)
    expected = F.conv3d(dense, kernel, mix.bias, padding=1)[0][
        :, there[:, 0], there[:, 1], there[:, 2]].T
    rows = encoder.lookups[0](cells, cells, AROUND, 1)
    found = mix(gather(x, rows).flatten(2))[0, :len(there)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_empty_rows_change_nothing():
    torch.manual_seed(0)
    encoder = VoxelEncoder(SMALL).eval()
    wide = VoxelEncoder(SMALL.model_copy(update={'voxels': (500, 200)})).eval()
    wide.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        tokens, weight = encoder(*(torch.from_numpy(part)[None] for part in voxel_input(
            cluttered(), SMALL)))
        more, more_weight = wide(*(torch.from_numpy(part)[None] for part in voxel_input(
            cluttered(), SMALL.model_copy(update={'voxels': (500, 200)}))))
    torch.testing.assert_close(more[:, :120], tokens, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(more_weight[:, :120], weight)
    assert (more[:, 120:] == 0).all() and (more_weight[:, 120:] == 0).all()


def test_voxels_in_a_mirror_are_those_of_the_mirrored_points():
    points = cluttered()
    plain = tuple(part[None] for part in voxel_input(points, SMALL))
    mirrored = [part[0] for part in mirror_voxels(plain, SMALL)]
    expected = voxel_input(points * np.array([1, -1, 1], np.float32), SMALL)
    order = [sorted(range(len(cells)), key=lambda i: tuple(cells[i]))
             for cells in (mirrored[1], expected[1], mirrored[2], expected[2])]
    np.testing.assert_array_equal(mirrored[1][order[0]], expected[1][order[1]])
    np.testing.assert_allclose(mirrored[0][order[0]], expected[0][order[1]], atol=1e-5)
    np.testing.assert_array_equal(mirrored[2][order[2]], expected[2][order[3]])
    np.testing.assert_allclose(mirrored[3][order[2]], expected[3][order[3]], atol=1e-5)


# Losses

def unit(n, d=6, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_triplets_by_brute_force():
    a, b = unit(5), unit(7, seed=1)
    positive, negative = torch.rand(5, 7) < 0.4, torch.rand(5, 7) < 0.4
    separation = torch.cdist(a, b)
    terms = [max(0.0, float(separation[i, p] - separation[i, n]) + 0.2)
             for i in range(5) for p in range(7) for n in range(7)
             if positive[i, p] and negative[i, n]]
    above = [term for term in terms if term > 0.0]
    assert triplet_loss(separation, positive, negative, 0.2) == pytest.approx(
        sum(above) / len(above), abs=1e-5)
    assert triplet_loss(separation, positive & False, negative, 0.2) == 0.0


def test_spherical_triplets_are_what_the_paper_sums():
    images, clouds = unit(4), unit(4, seed=1)
    xy = torch.tensor([[0.0, 0], [10, 0], [100, 0], [130, 0]])  # 130 is ignored for 100
    apart = torch.cdist(xy, xy)
    losses = spherical_triplet_losses(images, clouds, apart, apart, apart)
    assert losses['pairs'] == pytest.approx(float((images - clouds).norm(dim=1).mean()), abs=1e-5)

    def brute(a, b, itself):
        terms = [float((a[i] - b[p]).norm() - (a[i] - b[n]).norm()) + MARGIN
                 for i in range(4) for p in range(4) for n in range(4)
                 if apart[i, p] < 20 and apart[i, n] >= 40 and (itself or p != i)]
        above = [term for term in terms if term > 0]
        return sum(above) / max(len(above), 1)
    assert losses['cross_triplets'] == pytest.approx(
        (brute(images, clouds, True) + brute(clouds, images, True)) / 2, abs=1e-5)
    assert losses['single_triplets'] == pytest.approx(
        0.1 * (brute(images, images, False) + brute(clouds, clouds, False)) / 2, abs=1e-5)
    assert math.isclose(MARGIN, 0.1 ** 0.5)


def batch_of(clouds, image_xy=(0.0, 0.0), image_yaw=0.0, frame=0):
    n = len(clouds[0])
    return Batch(
        images=torch.zeros(n, 1, 1, 3), clouds=clouds, column=torch.zeros(n, 0),
        geometry=torch.zeros(n, 0), image_xy=torch.tensor([image_xy] * n, dtype=torch.float64),
        image_yaw=torch.full((n,), image_yaw, dtype=torch.float64),
        cloud_xy=torch.zeros(n, 2, dtype=torch.float64),
        cloud_yaw=torch.zeros(n, dtype=torch.float64), frame=torch.full((n,), frame))


@pytest.mark.parametrize('frame', [0, -1])
def test_voxels_fall_where_the_camera_sees_them(frame):
    # One post, 20 m ahead and 3 m to the left of a camera that stands 2 m ahead, 1 m to the right
    # of the map's vehicle, and looks 0.2 rad to its left. In a mirror all that is the other way.
    ahead, height = VXP_CITY.cloud.camera_m
    c, s, side = math.cos(0.2), math.sin(0.2), 1 if frame >= 0 else -1
    x, y = ahead + 20.0, 3.0
    post = [2.0 + c * x - s * y, side * (-1.0 + s * x + c * y), 1.0]
    cells = torch.full((1, 2, 3), -1)
    cells[0, 0] = 5
    means = torch.tensor([[post, [0.0, 0.0, 0.0]]])
    batch = batch_of((cells, means), (2.0, -1.0), 0.2, frame)
    where, seen = voxel_pixels(batch, VXP_CITY)
    camera = VXP_CITY.image.camera
    assert seen.tolist() == [[True, False]]
    expected = [camera.cx - side * camera.fx * 3.0 / 20.0,
                camera.cy + camera.fy * (height - 1.0) / 20.0]
    np.testing.assert_allclose(where[0, 0], expected, atol=1e-3)


def test_what_stands_behind_another_voxel_is_hidden():
    cells = torch.zeros(1, 3, 3)
    means = torch.tensor([[[10.0, 0.0, 1.6], [30.0, 0.0, 1.6], [30.0, 15.0, 1.6]]])
    _, seen = voxel_pixels(batch_of((cells, means)), VXP_CITY)
    assert seen.tolist() == [[True, False, True]]


def test_voxels_that_equal_their_pixels_lose_nothing():
    rows, columns = VXP_CITY.image.grid
    pixels = torch.randn(2, rows * columns, 96, requires_grad=True)
    column, row = 13, 4
    camera = VXP_CITY.image.camera
    # The middle of that token, 20 m ahead of the camera.
    u, v = 8 * column + 3.5, 8 * row + 3.5
    ahead, height = VXP_CITY.cloud.camera_m
    point = [ahead + 20.0, -(u - camera.cx) / camera.fx * 20.0,
             height - (v - camera.cy) / camera.fy * 20.0]
    batch = batch_of((torch.zeros(2, 1, 3), torch.tensor([[point]] * 2)))
    tokens = pixels[:, row * columns + column, None].detach().clone().requires_grad_()
    empty = torch.zeros(2, 1)

    def loss(voxels):
        return voxel_loss(Encoded(empty, empty, pixels, empty),
                          Encoded(empty, empty, voxels, empty), batch, VXP_CITY)
    assert loss(tokens).item() == pytest.approx(0.0, abs=1e-6)
    other = loss(tokens + 3.0)
    assert other.item() == pytest.approx(2.5, abs=1e-3)
    other.backward()
    assert pixels.grad is None  # the teacher stands still
    assert tokens.grad.abs().max() > 0.0


def test_vxp_learns_one_thing_at_a_time():
    config = TrainingConfig(model=VXP_CITY, sites=SITES, objective='vxp')
    objective = OBJECTIVES['vxp'](config)
    images, clouds = unit(4).requires_grad_(), unit(4, seed=1).requires_grad_()
    batch = batch_of((torch.zeros(4, 1, 3), torch.zeros(4, 1, 3)))
    batch.image_xy[:] = torch.tensor([[0.0, 0], [5, 0], [100, 0], [105, 0]])

    def gradients(progress):
        (loss,) = contrast(progress).values()
        return torch.autograd.grad(loss, (images, clouds), allow_unused=True)

    def contrast(progress):
        return objective.contrast(images, clouds, images, clouds, batch, None, progress)
    teacher, last = gradients(0.1), gradients(0.9)
    assert teacher[0] is not None and teacher[1] is None
    assert contrast(0.5) == {}
    assert last[0] is None and last[1] is not None
    # The teacher's positives look the same way.
    batch.image_yaw[:] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert contrast(0.1)['teacher'] == 0.0


def test_lip_loc_compares_features_of_constant_length():
    config = TrainingConfig(model=PRESETS['lip_loc-city'], sites=SITES, objective='lip')
    a, b = 4 * unit(5), 4 * unit(5, seed=1)
    found = OBJECTIVES['lip'](config).contrast(
        unit(5), unit(5), a, b, batch_of((torch.zeros(5, 1),)), torch.tensor(0.07), 0.0)
    logits = a @ b.T
    expected = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean())
    assert found['contrast'] == pytest.approx(float(expected / 2), abs=1e-5)
