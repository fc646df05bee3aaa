"""Maps are built: which views become places, and what `i2ploc build-map` says and refuses."""

import logging
import os
import socket
import subprocess
import sys

from helpers_drives import real_data, SHARED
from helpers_localizer import VERIFYING, verifying_model
import numpy as np
import pytest
from scipy.spatial import cKDTree
import torch

from saliency_i2ploc_ros.cli import build_map
from saliency_i2ploc_ros.cli.main import main
from saliency_i2ploc_ros.data.submaps import SubmapConfig, submaps_of_cloud
from saliency_i2ploc_ros.encoders.config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    TokenConfig,
    View,
)
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import encoder_hash, preprocessing_hash, save_model
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import apply, planar, yaw_of
from saliency_i2ploc_ros.mapping.builder import build_database, encode_submaps
from saliency_i2ploc_ros.mapping.database import PlaceDatabase
from saliency_i2ploc_ros.mapping.views import headings, smoothed

CONFIG = ModelConfig(
    name='tiny', descriptor_dim=16,
    image=ImageConfig(height=16, width=32, patch=8, dim=32, depth=1, heads=2),
    cloud=CloudConfig(tokens=TokenConfig(points=128, centres=8, neighbours=8), dim=32, depth=1,
                      heads=2, pointnet=(16, 16), pointnet_second=(), position_width=16),
    aggregation=AggregationConfig(clusters=4), submap=SubmapConfig(min_points=5))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a folder with a model, a map file of 100 m, and a trajectory through it."""
    folder = tmp_path_factory.mktemp('world')
    torch.manual_seed(0)
    save_model(DualEncoder(CONFIG), folder / 'model', {})
    rng = np.random.default_rng(0)
    points = rng.uniform([-20, -20, 0], [120, 20, 8], (20_000, 3))
    # Before 25 m there is next to nothing: too little for the encoder, enough for a submap.
    points = points[(points[:, 0] > 25) | (np.arange(len(points)) < 80)]
    write_ply(folder / 'map.ply', points)
    (folder / 'track.txt').write_text(
        ''.join(f'{i} {i} 0 1 0 0 0 1\n' for i in range(120)))
    return folder


def write_ply(path, points):
    from plyfile import PlyData, PlyElement
    rows = np.zeros(len(points), [('x', 'f4'), ('y', 'f4'), ('z', 'f4')])
    rows['x'], rows['y'], rows['z'] = points.T
    PlyData([PlyElement.describe(rows, 'vertex')]).write(path)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DualEncoder(CONFIG).eval()


@pytest.fixture
def store(world, tmp_path):
    return submaps_of_cloud(world / 'map.ply', world / 'track.txt', CONFIG.submap, tmp_path / 'c')


def test_builder_skips_and_counts_what_is_too_thin(store, model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        database = build_database(store, model, tmp_path / 'map')
    skipped = len(store) - len(database)
    assert 0 < skipped < len(store) / 2
    assert f'{skipped} of {len(store)} views' in caplog.text
    assert database.schema.skipped == skipped + store.skipped
    assert database.schema.encoder_hash == encoder_hash(model)
    assert database.schema.preprocessing_hash == preprocessing_hash(model.config)
    assert PlaceDatabase.open(tmp_path / 'map', encoder_hash(model)).schema == database.schema
    # Those left out are the first.
    np.testing.assert_allclose(database.T_map_base, store.poses[skipped:], atol=1e-9)
    assert 0 < len(database.cloud(3)) <= 4096
    # A place finds itself, and what is shown of it is of its own submap.
    assert database.search(database.descriptors, 1)[1][:, 0].tolist() == list(range(len(database)))
    assert {*map(tuple, database.cloud(3))} <= {
        *map(tuple, store.points(3 + skipped))}


def test_descriptors_do_not_depend_on_the_batch(store, model):
    model.train()
    one, many = (encode_submaps(store, model, batch) for batch in (1, 7))
    assert model.training, 'the mode is left as it was'
    np.testing.assert_array_equal(one.indices, many.indices)
    np.testing.assert_allclose(one.descriptors, many.descriptors, atol=1e-5)
    assert np.ptp(one.descriptors, axis=0).max() > 1e-3, 'all submaps look alike'


def test_each_view_of_a_submap_is_a_place(store, model, tmp_path):
    back = View(left_m=3.0, yaw_deg=180.0)
    both = CONFIG.model_copy(update={'views': (View(), back)})
    two = DualEncoder(both).eval()
    two.load_state_dict(model.state_dict())
    ahead, around = encode_submaps(store, model), encode_submaps(store, two)
    first = np.flatnonzero(np.abs(around.T_base_view[:, 0, 0] - 1.0) < 1e-9)
    np.testing.assert_allclose(around.descriptors[first], ahead.descriptors, atol=1e-5)
    other = np.setdiff1d(np.arange(len(around.indices)), first)
    assert len(other) > len(store) / 2
    # Three metres to the left of the vehicle, looking back.
    i = other[0]
    expected = store.poses[around.indices[i]] @ planar(0.0, 3.0, np.pi)
    np.testing.assert_allclose(around.T_map_place[i], expected, atol=1e-9)
    # What it is shown is what the points look like from there: the same as a drive that way.
    points = store.points(int(around.indices[i]))
    turned = np.stack([-points[:, 0], 3.0 - points[:, 1], points[:, 2]], 1)
    np.testing.assert_allclose(
        store.view(int(around.indices[i]), planar(0.0, 3.0, np.pi))[:, :2], turned[:, :2],
        atol=1e-4)
    database = build_database(store, two, tmp_path / 'map')
    np.testing.assert_allclose(database.T_map_base, around.T_map_place, atol=1e-6)
    place = int(np.flatnonzero(np.abs(database.T_map_base[:, :3, 3]
                                      - expected[:3, 3]).max(1) < 1e-6)[0])
    in_map = apply(database.T_map_base[place], database.cloud(place))
    near, _ = cKDTree(apply(store.poses[around.indices[i]], points)).query(in_map)
    assert near.max() < 1e-3, 'the points that are shown stand elsewhere than the submap'
    assert database.schema.views == 2
    # The points are kept once, whatever the number of views.
    kept = np.load(tmp_path / 'map' / 'clouds.npy', mmap_mode='r')
    assert len(kept) == sum(len(database.cloud(int(np.flatnonzero(database.submaps == s)[0])))
                            for s in range(database.submaps.max() + 1))


def test_headings_are_views_all_around_and_change_lanes_as_they_turn(store, model, tmp_path):
    ahead, left, back, right = headings(4, (View(), View(left_m=3.5, yaw_deg=180.0)))
    assert (ahead.yaw_deg, left.yaw_deg, back.yaw_deg, right.yaw_deg) == (0.0, 90.0, 180.0, 270.0)
    assert [ahead.left_m, back.left_m] == [0.0, 3.5]
    assert [left.left_m, right.left_m] == pytest.approx([1.75, 1.75])
    database = build_database(store, model, tmp_path / 'map', views=headings(4, (View(),)))
    assert database.schema.views == 4 and len(database) > 2 * len(store)
    of_first = database.T_map_base[database.submaps == 0]
    assert np.ptp(of_first[:, :3, 3], axis=0).max() < 1e-9  # one spot, several headings
    turns = np.degrees(yaw_of(of_first) - yaw_of(of_first[0])) / 90.0
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-6)


def test_smoothing_is_the_weighted_mean_of_neighbours_that_look_the_same_way():
    rng = np.random.default_rng(2)
    poses = np.stack([planar(*rng.uniform(0.0, 30.0, 2), rng.uniform(-np.pi, np.pi))
                      for _ in range(60)])
    x = rng.normal(size=(60, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    apart = np.linalg.norm(poses[:, None, :2, 3] - poses[None, :, :2, 3], axis=2)
    turn = np.angle(np.exp(1j * (yaw_of(poses)[:, None] - yaw_of(poses))))
    kernel = np.where((np.abs(turn) <= np.radians(29.0)) & (apart <= 12.0),
                      np.exp(-0.5 * (apart / 4.0) ** 2), 0.0)
    expected = kernel @ x
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(smoothed(x, poses, 4.0), expected, atol=1e-5)
    assert np.abs(expected - x).max() > 0.1
    assert smoothed(x, poses, 0.0) is x


def test_a_model_that_smooths_makes_and_is_judged_by_smoothed_maps(store, model, tmp_path):
    config = CONFIG.model_copy(update={'smooth_m': 4.0})
    soft = DualEncoder(config).eval()
    soft.load_state_dict(model.state_dict())
    assert encoder_hash(soft) == encoder_hash(model)  # the network is the same
    plain, mean = encode_submaps(store, model), encode_submaps(store, soft)
    np.testing.assert_allclose(
        mean.descriptors, smoothed(plain.descriptors, plain.T_map_place, 4.0), atol=1e-6)
    assert build_database(store, soft, tmp_path / 'map').schema.smooth_m == 4.0


def test_processes_share_the_encoding_and_write_one_map(world, tmp_path):
    model = verifying_model(VERIFYING.model_copy(update={'submap': CONFIG.submap}))
    save_model(model, tmp_path / 'model', {})
    given = ['build-map', '--cloud', str(world / 'map.ply'), '--trajectory',
             str(world / 'track.txt'), '--model', str(tmp_path / 'model'), '--out']
    environment = {**os.environ, 'I2PLOC_CACHE': str(tmp_path / 'cache'), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', *given]
    subprocess.run([*command, str(tmp_path / 'one')], env=environment, check=True)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    ranks = [subprocess.Popen([*command, str(tmp_path / 'two')], env={
        **environment, 'RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': port}) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    one, two = PlaceDatabase.open(tmp_path / 'one'), PlaceDatabase.open(tmp_path / 'two')
    np.testing.assert_allclose(one.descriptors, two.descriptors, atol=1e-6)
    np.testing.assert_allclose(one.details, two.details, atol=2e-3)
    assert one.details.shape == (len(one), *model.config.details_shape) and one.details.any()
    np.testing.assert_array_equal(one.T_map_base, two.T_map_base)
    assert one.schema.skipped == two.schema.skipped


def test_builder_refuses_submaps_of_another_size(world, model, tmp_path):
    store = submaps_of_cloud(world / 'map.ply', world / 'track.txt',
                             SubmapConfig(size_m=60.0, min_points=5), tmp_path / 'c')
    with pytest.raises(InputError, match=r'60 m wide .* for 40 m'):
        build_database(store, model, tmp_path / 'map')
    sparse = submaps_of_cloud(world / 'map.ply', world / 'track.txt',
                              SubmapConfig(min_points=5, points=10), tmp_path / 'c')
    with pytest.raises(InputError, match='none of the'):
        build_database(sparse, model, tmp_path / 'map')
    assert not (tmp_path / 'map').exists()


def i2ploc(monkeypatch, capsys, *arguments):
    """Run the command line; return its exit code or message, and what it printed."""
    monkeypatch.setattr('sys.argv', ['i2ploc', *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    return code, capsys.readouterr().out


def test_command_builds_a_map_and_a_picture(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    given = ['build-map', '--cloud', world / 'map.ply', '--trajectory', world / 'track.txt',
             '--model', world / 'model', '--out', tmp_path / 'map']
    code, printed = i2ploc(monkeypatch, capsys, *given, '--spacing', 10, '--picture',
                           tmp_path / 'map.png')
    assert code == 0, code
    database = PlaceDatabase.open(tmp_path / 'map', encoder_hash(world / 'model'),
                                  preprocessing_hash(CONFIG))
    assert f'{len(database)} places every 10 m' in printed
    assert (tmp_path / 'map.png').read_bytes()[:4] == b'\x89PNG'
    code, _ = i2ploc(monkeypatch, capsys, *given)
    assert 'exists already' in code
    code, _ = i2ploc(monkeypatch, capsys, *given, '--overwrite')
    assert code == 0 and len(PlaceDatabase.open(tmp_path / 'map')) > len(database)


@pytest.mark.parametrize('arguments,match', [
    ([], 'either the root'), (['data', '--cloud', 'map.ply'], 'either the root'),
    (['--cloud', 'map.ply'], 'go together'), (['data', '--trajectory', 't'], 'go together'),
    (['nowhere'], 'nowhere is not a folder'),
    (['--cloud', 'nowhere.ply', '--trajectory', 'WORLD/track.txt'], 'not a file'),
    (['--cloud', 'WORLD/map.ply', '--trajectory', 'nowhere.txt'], 'nowhere.txt'),
    (['--cloud', 'WORLD/map.ply', '--trajectory', 'WORLD/track.txt', '--device', 'toaster'],
     'toaster'),
    (['nowhere', '--model', 'nothing'], 'nothing')])
def test_command_says_what_is_wrong_in_one_line(
    world, tmp_path, monkeypatch, capsys, arguments, match,
):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    arguments = [a.replace('WORLD', str(world)) for a in arguments]
    code, _ = i2ploc(monkeypatch, capsys, 'build-map', '--out', tmp_path / 'map', '--model',
                     world / 'model', *arguments)
    assert match in str(code) and '\n' not in str(code)
    assert not (tmp_path / 'map').exists()


def test_the_spacing_must_be_possible(world, tmp_path):
    config = build_map.with_spacing(CONFIG.submap, 10.0)
    assert config == CONFIG.submap.model_copy(update={'spacing_m': 10.0})
    assert build_map.with_spacing(CONFIG.submap, None) is CONFIG.submap
    for spacing in (float('nan'), float('inf'), 0.0):
        with pytest.raises(InputError, match='spacing'):
            build_map.with_spacing(CONFIG.submap, spacing)


@real_data
def test_real_drive_becomes_a_map(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    code, _ = i2ploc(
        monkeypatch, capsys, 'build-map',
        SHARED / 'kitti_raw/2011_09_26/2011_09_26_drive_0005_sync', '--model', world / 'model',
        '--out', tmp_path / 'map')
    assert code == 0, code
    database = PlaceDatabase.open(tmp_path / 'map')
    assert 12 <= len(database) <= 16
