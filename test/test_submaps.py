"""Cutting and the cache of submaps."""

from pathlib import Path

from helpers_drives import real_data, SHARED
import numpy as np
import pytest

from saliency_i2ploc_ros.data import submaps
from saliency_i2ploc_ros.data.accumulate import z_order
from saliency_i2ploc_ros.data.drive import Drive, Scan, Stream, Trajectory
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.data.submaps import (
    spaced,
    SubmapConfig,
    submaps_of_cloud,
    submaps_of_drive,
    SubmapStore,
    thin,
)
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import apply, inverse, planar, transform

EVERYTHING = SubmapConfig(points=None, min_points=1, min_range_m=0.0, max_range_m=1e4)
T_base_lidar = transform(planar(0, 0, 0.3)[:3, :3], [0.7, -0.2, 1.7])


def drive_of(folder, poses, scans, name='trip', trajectory=None):
    """Return a drive whose scan i is scans[i], and the list of scans that were read from it."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f'{i:04d}.bin' for i in range(len(scans))]
    for path in paths:
        path.write_bytes(b'scan')
    read = []

    def scan_reader(path: Path) -> Scan:
        read.append(path.name)
        scan = scans[int(path.stem)]
        if isinstance(scan, Exception):
            raise scan
        return scan

    stamps = np.arange(len(poses)) * 10**8
    stream = Stream(np.arange(len(poses)), stamps, paths, poses, T_base_lidar)
    known = np.isfinite(poses[:, 0, 0])
    route = Trajectory(stamps[known], poses[known]) if trajectory is None else trajectory
    return Drive(name, str(folder), {}, stream, route, scan_reader), read


def seen(world, T_map_base):
    """Return world points (n, 3) as a scan from one pose."""
    points = apply(inverse(T_map_base @ T_base_lidar), world).astype(np.float32)
    return Scan(points, np.zeros(len(points), np.float32))


def test_thinning_keeps_the_shape():
    rng = np.random.default_rng(5)
    cells = np.unique(rng.integers(0, 200, (40_000, 3)) * [1, 1, 0], axis=0)
    points = cells[np.argsort(z_order(cells))].astype(np.float32)
    kept = thin(points, 2500)
    assert len(kept) == 2500 and len(np.unique(kept, axis=0)) == 2500
    # 20 x 20 squares of the plane: chance would leave some with less than a third of the mean.
    counts = np.histogram2d(kept[:, 0], kept[:, 1], bins=20)[0]
    assert counts.min() > 0.35 * counts.mean()
    assert thin(points, 10**6) is points


def test_a_post_ahead_left_is_at_plus_x_plus_y(tmp_path):
    # The vehicle looks north (heading 90 degrees); the post is 10 m north and 4 m west of it.
    T = planar(4.0e5, 5.4e6, np.pi / 2, 110.0)
    post = np.array([4.0e5 - 4.0, 5.4e6 + 10.0, 112.0])
    drive, _ = drive_of(tmp_path / 'drive', T[None], [seen(post[None], T)])
    store = submaps_of_drive(drive, EVERYTHING, tmp_path / 'cache')
    np.testing.assert_allclose(store.points(0), [[10.0, 4.0, 2.0]], atol=1e-3)
    assert store.points(0).dtype == np.float32
    np.testing.assert_array_equal(store[0].T_map_base, T)


@pytest.mark.parametrize('road_z', [0.0, -1.05])
def test_the_road_is_found_below_base_link(tmp_path, road_z):
    """Whatever height base_link has, and whatever stands beside or hangs over the road."""
    rng = np.random.default_rng(0)
    road = np.column_stack([rng.uniform(-30, 30, (4000, 2)), rng.normal(road_z, 0.02, 4000)])
    walls = np.column_stack([rng.uniform(-30, 30, 3000), rng.choice([-6.0, 6.0], 3000),
                             rng.uniform(road_z, road_z + 9.0, 3000)])
    bridge = np.column_stack([rng.uniform(-2, 2, 100), rng.uniform(-9, 9, 100),
                              np.full(100, road_z + 5.0)])
    T = planar(500.0, 80.0, 1.0, 30.0)
    points = np.concatenate([road, walls, bridge])
    drive, _ = drive_of(tmp_path / 'drive', T[None], [seen(apply(T, points), T)])
    store = submaps_of_drive(drive, EVERYTHING, tmp_path / 'cache')
    assert store.ground_z_m == pytest.approx(road_z, abs=0.02)
    np.testing.assert_allclose(store.above_ground(0)[:, 2], store.points(0)[:, 2] - road_z,
                               atol=0.03)
    np.testing.assert_array_equal(store.above_ground(0)[:, :2], store.points(0)[:, :2])


@pytest.mark.parametrize('size_m', [40.0, 100.0])
def test_submaps_hold_exactly_the_square_about_the_pose(tmp_path, size_m):
    rng = np.random.default_rng(6)
    poses = np.stack([planar(1000.0 + 6.0 * i, 50.0 + i, 0.2 * i, 3.0) for i in range(5)])
    world = rng.uniform([900, -50, 0], [1100, 150, 9], (4000, 3))
    drive, _ = drive_of(tmp_path / 'drive', poses, [seen(world, T) for T in poses])
    config = EVERYTHING.model_copy(update={
        'size_m': size_m, 'spacing_m': 5.0, 'voxel_m': 0.02, 'z_min_m': -1.0, 'z_max_m': 4.0})
    store = submaps_of_drive(drive, config, tmp_path / 'cache')
    assert len(store) == 5
    for i in range(5):
        moved = apply(inverse(store.poses[i]), world)
        low, high = np.array([[-size_m / 2] * 2 + [-1.0], [size_m / 2] * 2 + [4.0]])
        expected = moved[np.all((moved >= low) & (moved <= high), axis=1)]
        # One to one, but for the few points that share a voxel or lie on the square's edge.
        gap = np.linalg.norm(store.points(i)[:, None] - expected[None], axis=2)
        assert np.mean(gap.min(axis=1) < 1e-3) > 0.98
        assert np.mean(gap.min(axis=0) < 1e-3) > 0.98
        assert np.abs(store.points(i)[:, :2]).max() <= size_m / 2


def test_near_far_and_dynamic_points_are_left_out(tmp_path):
    points = np.array([[1, 0, 0], [10, 0, 0], [0, 12, 0], [0, -14, 0], [90, 0, 0]], np.float32)
    labels = np.array([11, 11, 26, 24, 11], np.uint16)
    scan = Scan(points, np.zeros(5, np.float32), labels)
    drive, _ = drive_of(tmp_path / 'drive', planar(0, 0, 0)[None], [scan])
    config = SubmapConfig(size_m=300.0, min_points=1)
    store = submaps_of_drive(drive, config, tmp_path / 'cache')
    np.testing.assert_allclose(store.points(0), apply(T_base_lidar, points[1:2]), atol=1e-4)
    unlabelled, _ = drive_of(tmp_path / 'drive', planar(0, 0, 0)[None],
                             [Scan(points, np.zeros(5, np.float32))])
    assert len(submaps_of_drive(unlabelled, config, tmp_path / 'cache').points(0)) == 3


def test_spacing_counts_travel_only():
    rng = np.random.default_rng(7)
    line = np.column_stack([np.arange(0.0, 100.5, 1.0), np.zeros(101), np.zeros(101)])
    assert spaced(line, 5.0).tolist() == list(range(0, 101, 5))
    standing = np.concatenate([line[:51], line[50] + rng.normal(0, 0.02, (3000, 3)), line[51:]])
    taken = standing[spaced(standing, 5.0)]
    assert len(taken) == 21
    # 0.9 m steps: 5 m apart in the mean, not 5.4.
    steps = np.column_stack([np.arange(0.0, 500.0, 0.9), *np.zeros((2, 556))])
    assert len(spaced(steps, 5.0)) == 100
    gap = np.concatenate([line, line + np.array([448.0, 0, 0])])
    assert len(spaced(gap, 5.0)) == pytest.approx(42, abs=1)
    assert spaced(line[:1], 5.0).tolist() == [0]


def long_drive(folder, n=6, broken_at=None, **options):
    rng = np.random.default_rng(8)
    poses = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(n)])
    scans = [Scan(rng.uniform(-30, 30, (500, 3)).astype(np.float32), np.zeros(500, np.float32))
             for _ in range(n)]
    if broken_at is not None:
        scans[broken_at] = InputError('scan 3 is broken')
    return drive_of(folder, poses, scans, **options)


def test_the_second_call_reads_only_the_sample(tmp_path):
    cache = tmp_path / 'cache'
    drive, read = long_drive(tmp_path / 'one')
    first = submaps_of_drive(drive, EVERYTHING, cache)
    assert len(read) == 8  # each once, first and last also for the key
    read.clear()
    again = submaps_of_drive(drive, EVERYTHING, cache)
    assert read == ['0000.bin', '0005.bin']
    assert again.path == first.path and again.key == first.key
    moved, _ = long_drive(tmp_path / 'two')
    assert submaps_of_drive(moved, EVERYTHING, cache).key == first.key, 'the folder is in the key'


def test_whatever_changes_the_submaps_changes_the_key(tmp_path):
    cache = tmp_path / 'cache'
    drive, _ = long_drive(tmp_path / 'd')
    keys = [submaps_of_drive(drive, EVERYTHING, cache).key]
    other = EVERYTHING.model_copy(update={'voxel_m': 0.2})
    keys.append(submaps_of_drive(drive, other, cache).key)
    drive.lidar.T_map_base[2, 0, 3] += 0.01
    keys.append(submaps_of_drive(drive, EVERYTHING, cache).key)
    drive.lidar.paths[3].write_bytes(b'another scan')
    keys.append(submaps_of_drive(drive, EVERYTHING, cache).key)
    shorter, _ = long_drive(tmp_path / 'd', n=5)
    keys.append(submaps_of_drive(shorter, EVERYTHING, cache).key)
    named, _ = long_drive(tmp_path / 'd', n=5, name='other')
    keys.append(submaps_of_drive(named, EVERYTHING, cache).key)
    assert len(set(keys)) == len(keys)


def test_a_failure_leaves_nothing_and_the_next_run_succeeds(tmp_path, monkeypatch):
    cache = tmp_path / 'cache'
    broken, _ = long_drive(tmp_path / 'd', broken_at=3)
    with pytest.raises(InputError, match='scan 3'):
        submaps_of_drive(broken, EVERYTHING, cache)
    assert list(cache.iterdir()) == []
    drive, _ = long_drive(tmp_path / 'd')
    with monkeypatch.context() as patch:
        def full(*args, **kwargs):
            raise OSError(28, 'No space left on device')
        patch.setattr(submaps, 'cut', full)
        with pytest.raises(InputError, match=r'cannot write .*No space left on device'):
            submaps_of_drive(drive, EVERYTHING, cache)
    assert list(cache.iterdir()) == []
    assert len(submaps_of_drive(drive, EVERYTHING, cache)) == 6
    assert {path.name for path in cache.iterdir().__next__().iterdir()} == {
        'points.npy', 'offsets.npy', 'T_map_base.npy', 'schema.json'}


@pytest.mark.parametrize('name', ['points.npy', 'offsets.npy', 'T_map_base.npy', 'schema.json'])
@pytest.mark.parametrize('damage', ['gone', 'truncated'])
def test_a_damaged_store_is_refused_and_made_again(tmp_path, name, damage):
    drive, _ = long_drive(tmp_path / 'd')
    store = submaps_of_drive(drive, EVERYTHING, tmp_path / 'cache')
    expected = [np.array(store.points(i)) for i in range(len(store))]
    file = store.path / name
    if damage == 'gone':
        file.unlink()
    else:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[:len(data) // 2])
    with pytest.raises(InputError):
        SubmapStore.open(store.path)
    again = submaps_of_drive(drive, EVERYTHING, tmp_path / 'cache')
    for i, points in enumerate(expected):
        np.testing.assert_array_equal(again.points(i), points)


def test_two_runs_are_equal_to_the_bit_and_thinned_to_what_is_asked(tmp_path):
    drive, _ = long_drive(tmp_path / 'd')
    config = EVERYTHING.model_copy(update={'points': 200})
    a, b = (submaps_of_drive(drive, config, tmp_path / name) for name in 'ab')
    assert (a.path / 'points.npy').read_bytes() == (b.path / 'points.npy').read_bytes()
    assert all(len(a.points(i)) == 200 for i in range(len(a)))


def test_drives_of_which_no_map_can_be_made(tmp_path):
    drive, _ = long_drive(tmp_path / 'd')
    without = Drive('n', 's', {}, None, drive.trajectory, drive.scan_reader)
    with pytest.raises(InputError, match='no LiDAR scans'):
        submaps_of_drive(without, EVERYTHING, tmp_path)
    lost, _ = drive_of(tmp_path / 'd', np.full((2, 4, 4), np.nan), [None, None])
    with pytest.raises(InputError, match='no scan with a pose'):
        submaps_of_drive(lost, EVERYTHING, tmp_path)
    with pytest.raises(InputError, match='no pose of trip has 100000 points'):
        submaps_of_drive(drive, EVERYTHING.model_copy(update={'min_points': 100_000}), tmp_path)


def test_scans_without_a_pose_are_passed_over_and_far_poses_left_out(tmp_path):
    poses = np.stack([planar(0, 0, 0), np.full((4, 4), np.nan), planar(10, 0, 0)])
    scan = Scan(np.full((300, 3), 5.0, np.float32), np.zeros(300, np.float32))
    route = Trajectory(np.arange(200) * 10**8, np.stack([planar(5.0 * i, 0, 0)
                                                         for i in range(200)]))
    drive, read = drive_of(tmp_path / 'd', poses, [scan] * 3, trajectory=route)
    store = submaps_of_drive(drive, EVERYTHING, tmp_path / 'cache')
    assert '0001.bin' not in read
    # 0, 5, ... 30 are within 20 m of a scan; the last of them see the points still.
    assert store.poses[:, 0, 3].tolist() == [0, 5, 10, 15, 20, 25, 30]


def write_tum_lines(path, poses):
    path.write_text(''.join(f'{i} {x} {y} {z} 0 0 0 1\n' for i, (x, y, z) in enumerate(poses)))


def test_submaps_of_a_cloud_scale_both_and_are_cached(tmp_path):
    from plyfile import PlyData, PlyElement
    rng = np.random.default_rng(9)
    world = rng.uniform([0, -30, 0], [200, 30, 10], (5000, 3))
    rows = np.array([tuple(p) for p in world], [('x', 'f8'), ('y', 'f8'), ('z', 'f8')])
    PlyData([PlyElement.describe(rows, 'vertex')]).write(tmp_path / 'map.ply')
    write_tum_lines(tmp_path / 't.txt', [(x, 0, 1) for x in range(20, 180)])
    store = submaps_of_cloud(tmp_path / 'map.ply', tmp_path / 't.txt', EVERYTHING,
                             tmp_path / 'cache', scale=0.5)
    assert store.poses[0, :3, 3].tolist() == [10.0, 0.0, 0.5]
    assert len(store) == 16
    moved = world * 0.5 - store.poses[3, :3, 3]
    inside = moved[np.abs(moved[:, :2]).max(axis=1) <= 20.0]
    gap = np.linalg.norm(store.points(3)[:, None] - inside[None], axis=2).min(axis=0)
    assert np.mean(gap < 1e-3) > 0.95
    assert submaps_of_cloud(tmp_path / 'map.ply', tmp_path / 't.txt', EVERYTHING,
                            tmp_path / 'cache', scale=0.5).key == store.key
    assert len(list((tmp_path / 'cache').iterdir())) == 1
    with pytest.raises(InputError, match='scale'):
        submaps_of_cloud(tmp_path / 'map.ply', tmp_path / 't.txt', EVERYTHING, scale=0.0)
    write_tum_lines(tmp_path / 't.txt', [(x, 5000, 1) for x in range(20, 180)])
    with pytest.raises(InputError, match='one frame'):
        submaps_of_cloud(tmp_path / 'map.ply', tmp_path / 't.txt', EVERYTHING, tmp_path / 'cache')


@real_data
def test_real_scans_lie_on_each_other(tmp_path):
    drive = open_drive(SHARED / 'kitti_raw/2011_09_26/2011_09_26_drive_0005_sync')
    store = submaps_of_drive(drive, SubmapConfig(), tmp_path)
    assert 12 <= len(store) <= 16 and store.skipped == 0
    for submap in (store[0], store[7]):
        assert len(submap.points) == 60_000
        # The road under the vehicle: the IMU is 0.93 m above it.
        under = submap.points[np.abs(submap.points[:, :2]).max(axis=1) < 4.0]
        assert -1.3 < np.median(under[:, 2]) < -0.6


@real_data
def test_autzen_in_feet(tmp_path):
    x, y = 636400.0, 849200.0
    write_tum_lines(tmp_path / 't.txt', [(x + 3 * i, y, 420) for i in range(100)])
    store = submaps_of_cloud(SHARED / 'maps/autzen_trim.laz', tmp_path / 't.txt',
                             SubmapConfig(size_m=100.0, min_points=50), tmp_path, scale=0.3048)
    assert len(store) == pytest.approx(300 * 0.3048 / 5.0, abs=2)
    assert np.abs(store.points(0)[:, 2]).max() < 60.0
