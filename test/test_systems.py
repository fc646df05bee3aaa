"""The systems that are compared: each builds, encodes, learns, is saved and localizes alike."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saliency_i2ploc_ros.cli.train import read_recipe
from saliency_i2ploc_ros.data.submaps import SubmapConfig, submaps_of_cloud
from saliency_i2ploc_ros.distributed import World
from saliency_i2ploc_ros.encoders.cloud_input import cloud_input
from saliency_i2ploc_ros.encoders.config import parse_config
from saliency_i2ploc_ros.encoders.config_published import SphericalConfig
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, load_model, save_model
from saliency_i2ploc_ros.encoders.presets import (
    AE_SPHERICAL,
    as_panorama,
    CITY,
    LIP_LOC,
    PRESETS,
    SALIENCY,
    VXP,
    VXP_CITY,
)
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Panorama
from saliency_i2ploc_ros.geometry.poses import R_base_optical, transform
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import Localizer
from saliency_i2ploc_ros.mapping.builder import build_database
from saliency_i2ploc_ros.training.augment import mirrored, token_columns, turned
from saliency_i2ploc_ros.training.batches import Batch
from saliency_i2ploc_ros.training.config import TrainingConfig
from saliency_i2ploc_ros.training.steps import CachedStep
from saliency_i2ploc_ros.training.task import TrainingTask

SYSTEMS = {name: PRESETS[f'{name}-city'] for name in (
    'saliency_i2ploc', 'lip_loc', 'ae_spherical', 'vxp')}
ALL = {**SYSTEMS, 'ours': PRESETS['ours-city'],
       **{f'{name} panorama': as_panorama(config) for name, config in SYSTEMS.items()}}


def street(seed=0, count=6000):
    """Return points (n, 3) of a street: its ground, walls at its sides, things between."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-40, 40, count), rng.uniform(-20, 20, count)
    z = np.where(rng.random(count) < 0.3, 0.0, rng.uniform(0.5, 6.0, count))
    y = np.where(z > 2.0, np.sign(y) * (8.0 + np.sin(0.3 * x + seed)), y)
    return np.stack([x, y, z], 1).astype(np.float32)


def inputs(config, B=3):
    clouds = [cloud_input(street(i), config) for i in range(B)]
    images = torch.randn(B, 3, config.image.height, config.image.width,
                         generator=torch.Generator().manual_seed(0))
    return images, *(torch.from_numpy(np.stack(part)) for part in zip(*clouds, strict=True))


def made(config, seed=0):
    torch.manual_seed(seed)
    return DualEncoder(config).eval()


def million(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


# What holds of every system

@pytest.mark.parametrize('config', ALL.values(), ids=ALL)
def test_a_system_encodes_and_a_descriptor_does_not_depend_on_its_batch(config):
    model = made(config)
    images, *clouds = inputs(config)
    with torch.no_grad():
        image, cloud = model(images, *clouds)
        alone, cloud_alone = model(images[2:], *(part[2:] for part in clouds))
    assert image.tokens.shape == (3, math.prod(config.image.grid), config.image.dim)
    for encoded, single in ((image, alone), (cloud, cloud_alone)):
        assert encoded.saliency.shape == encoded.tokens.shape[:2]
        assert encoded.features.shape == encoded.descriptor.shape == (3, config.descriptor_dim)
        torch.testing.assert_close(encoded.descriptor, F.normalize(encoded.features, dim=1))
        torch.testing.assert_close(single.descriptor, encoded.descriptor[2:], atol=1e-5, rtol=0.0)
        assert (encoded.descriptor[0] - encoded.descriptor[1]).abs().max() > 1e-6
    # Where there is no attention, all tokens are alike (and empty rows of voxels are none).
    for encoded, part in ((image, config.image), (cloud, config.cloud)):
        if part.kind in ('spherical', 'pointnet', 'voxels'):
            torch.testing.assert_close(encoded.saliency.sum(1), torch.ones(3))
            for row in encoded.saliency:
                assert len(row[row > 0.0].unique()) == 1


@pytest.mark.parametrize('config', SYSTEMS.values(), ids=SYSTEMS)
def test_every_parameter_of_a_system_learns(config):
    model = made(config).train()
    image, cloud = model(*inputs(config))
    (image.features * cloud.features.roll(1, 0)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0.0, name


@pytest.mark.parametrize('config', SYSTEMS.values(), ids=SYSTEMS)
def test_a_system_is_saved_whole(config, tmp_path):
    model = made(config)
    save_model(model, tmp_path, {})
    back = load_model(tmp_path)
    assert back.config == config
    assert encoder_hash(back) == encoder_hash(model)
    images, *_ = inputs(config, 1)
    with torch.no_grad():
        assert torch.equal(back.encode_image(images).descriptor,
                           model.encode_image(images).descriptor)


@pytest.mark.parametrize('config', [LIP_LOC, AE_SPHERICAL, VXP], ids=lambda config: config.name)
def test_what_is_prepared_does_not_depend_on_the_order_of_points(config):
    points = street()
    shuffled = points[np.random.default_rng(1).permutation(len(points))]
    for one, other in zip(cloud_input(points, config), cloud_input(shuffled, config), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match='at least 32'):
        cloud_input(points[:20], config)


def test_the_published_sizes():
    with torch.device('meta'):
        lip, vxp, saliency = DualEncoder(LIP_LOC), DualEncoder(VXP), DualEncoder(SALIENCY)
        sphere = AE_SPHERICAL.model_copy(update={'image': SphericalConfig(
            height=32, width=64, blocks=(2, 2, 2, 2), bottleneck=False,
            camera=Panorama(64, 32, 90.0, -90.0))})
        ae = DualEncoder(sphere)
        small = [DualEncoder(config) for config in SYSTEMS.values()]
    # ViT-S/16, ResNet-18 without its classifier, ViT-S/8, PointNet's shared layers.
    assert million(lip.image.encoder) == pytest.approx(21.67, abs=0.02)
    assert million(lip.cloud.encoder) == pytest.approx(21.67, abs=0.02)
    assert million(vxp.image.encoder) == pytest.approx(21.67, abs=0.02)
    assert million(ae.image.encoder) == pytest.approx(11.18, abs=0.01)
    assert million(saliency) == pytest.approx(57.7, rel=0.01)
    assert vxp.config.image.grid == (28, 28)
    assert all(million(model) < 3.5 for model in small)


def test_models_of_before_the_kinds_are_read():
    values = CITY.model_dump(mode='json')
    for part in ('image', 'cloud', 'aggregation'):
        del values[part]['kind']
    for key in ('registers', 'layer_scale'):
        del values['image'][key]
    del values['aggregation']['squeeze']
    assert parse_config(values, 'here') == CITY


@pytest.mark.parametrize('wrong', [
    {'aggregation': {'kind': 'netvlad'}}, {'image': {'kind': 'cnn'}},
    {'cloud': {'kind': 'voxels', 'voxels': [10], 'channels': [3, 4]}},
    {'image': {'kind': 'spherical', 'height': 64, 'width': 208}}])
def test_systems_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        parse_config({**VXP_CITY.model_dump(mode='json'), **wrong}, 'here')


def test_only_netvlad_is_guided_by_saliency():
    with pytest.raises(InputError, match='not guided by saliency'):
        made(SYSTEMS['lip_loc']).set_saliency_strength(1.0)


# Through the database

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return the folder of a map file with four streets behind one another, and a trajectory."""
    folder = tmp_path_factory.mktemp('world')
    points = np.concatenate([street(i, 20_000) + [60 * i, 0, 0] for i in range(4)]).astype('<f4')
    with (folder / 'map.ply').open('wb') as file:
        file.write(f'ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n'
                   'property float x\nproperty float y\nproperty float z\nend_header\n'.encode())
        file.write(points.tobytes())
    lines = [f'{t} {60 * t} 0 0 0 0 0 1' for t in range(4)]
    (folder / 'track.txt').write_text('\n'.join(lines) + '\n')
    return folder


@pytest.mark.parametrize('config', SYSTEMS.values(), ids=SYSTEMS)
def test_a_system_localizes(config, world, tmp_path):
    config = config.model_copy(update={'submap': SubmapConfig(size_m=80.0, spacing_m=50.0)})
    store = submaps_of_cloud(world / 'map.ply', world / 'track.txt', config.submap, tmp_path / 'c')
    model = made(config)
    database = build_database(store, model, tmp_path / 'map')
    assert len(database) == len(store) * len(config.views) == 8
    # As a vehicle's database has them, whatever the batch: the descriptors of its own submaps.
    view = cloud_input(store.above_ground(2), config)
    with torch.no_grad():
        asked = model.encode_cloud(*(torch.from_numpy(part)[None] for part in view)).descriptor
    scores, places = database.search(asked.numpy(), 2)
    assert places[0, 0] == 2 * len(config.views)
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-4)
    camera = config.image.camera
    image = np.random.default_rng(0).integers(
        0, 256, (camera.height, camera.width, 3)).astype(np.uint8)
    mounted = transform(R_base_optical, [0.6, 0.0, 1.6])
    config = LocalizerConfig(min_score=-1.0, min_weight=0.0, min_visible=0.0)
    answer = Localizer(model, database, config).localize(image, camera, mounted)
    assert len(answer.candidates.indices) > 0


# Through a training step

def places(config, n=4):
    """Return a batch of n pairs, two of each of two places a hundred metres apart."""
    images, *clouds = inputs(config, n)
    xy = torch.tensor([[0.0, 0.0], [6.0, 0.0], [100.0, 0.0], [106.0, 0.0]], dtype=torch.float64)
    yaw = torch.zeros(n, dtype=torch.float64)
    arrays = tuple(part.numpy() for part in clouds)
    return Batch(
        images=(images.permute(0, 2, 3, 1) * 50.0 + 120.0).clamp(0.0, 255.0),
        clouds=tuple(clouds), column=torch.from_numpy(token_columns(arrays, config)),
        geometry=torch.full((n, 4 * config.image.grid[1], 2), 1.0),
        image_xy=xy, image_yaw=yaw, cloud_xy=xy, cloud_yaw=yaw, frame=torch.zeros(n, dtype=int))


# What each recipe descends, and of which branch it has a gradient, at a share of the run.
STEPS = [
    ('saliency_i2ploc-city', 0.0, {'contrast', 'image_geometry', 'cloud_geometry'}, (True, True)),
    ('lip_loc-city', 0.0, {'contrast'}, (True, True)),
    ('ae_spherical-city', 0.0, {'pairs', 'cross_triplets', 'single_triplets'}, (True, True)),
    ('vxp-city', 0.1, {'teacher'}, (True, False)),
    ('vxp-city', 0.5, {'voxels'}, (False, True)),
    ('vxp-city', 0.9, {'distilled'}, (False, True)),
]


@pytest.mark.parametrize(('name', 'through', 'parts', 'learning'), STEPS)
def test_a_recipe_steps(name, through, parts, learning):
    recipe = read_recipe(name, None)
    config = TrainingConfig(**{**recipe, 'steps': 100, 'batch': 4, 'chunk': 2}, sites=[
        {'root': 'x', 'map_drive': 'a', 'query_drives': ['a']}])
    torch.manual_seed(0)
    task = TrainingTask(config)
    losses = CachedStep(task, places(config.model), int(100 * through), World(0, 1)).run()
    assert parts <= set(losses)
    assert all(math.isfinite(value) and value > 0.0 for name, value in losses.items()
               if name in parts)
    for branch, learns in zip((task.encoder.image, task.encoder.cloud), learning, strict=True):
        moved = sum(float(p.grad.abs().sum()) for p in branch.encoder.parameters()
                    if p.grad is not None)
        assert (moved > 0.0) == learns


@pytest.mark.parametrize('config', ALL.values(), ids=ALL)
def test_mirrored_and_turned_clouds_are_clouds(config):
    _, *clouds = inputs(config, 2)
    arrays = tuple(part.numpy() for part in clouds)
    rows = np.array([True, False])
    flipped = mirrored(arrays, rows, config)
    for part, other in zip(arrays, mirrored(flipped, rows, config), strict=True):
        np.testing.assert_allclose(other, part, atol=1e-6)
    assert any((part[0] != other[0]).any() for part, other in zip(arrays, flipped, strict=True))
    for part, other in zip(arrays, flipped, strict=True):
        np.testing.assert_array_equal(other[1], part[1])
    for part, other in zip(arrays, turned(arrays, np.zeros(2), config), strict=True):
        np.testing.assert_allclose(other, part, atol=1e-6)
    columns = token_columns(arrays, config)
    last = config.image.grid[1] - 1
    assert columns.min() >= -1 and last - 1 <= columns.max() <= last
