"""The map of a drive: voxel grid, tiles and outlier removal, against brute force."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.data import accumulate
from saliency_i2ploc_ros.data.accumulate import TileMap, tiles_within, z_order
from saliency_i2ploc_ros.errors import InputError

HERE = np.zeros((1, 2))


def all_points(tiles):
    """Return a finished map's points (n, 3), sorted."""
    points = np.concatenate([origin + own for origin, own in map(tiles.load, sorted(tiles.tiles))])
    return points[np.lexsort(points.T[::-1])]


def voxel_means(points, voxel_m):
    """Return the mean of each voxel's points, sorted, the slow way."""
    voxels = defaultdict(list)
    for point in points:
        voxels[tuple(np.floor(point / voxel_m))].append(point)
    means = np.array([np.mean(own, axis=0) for own in voxels.values()])
    return means[np.lexsort(means.T[::-1])]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.25, 1.0]), st.sampled_from([0.0, 4.0e6]))
def test_voxel_grid_is_the_mean_of_each_voxel(tmp_path_factory, seed, voxel_m, far):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-70.0, 70.0, (400, 3)) * [1.0, 1.0, 0.05]
    # Half of them share voxels with others, and some tile borders are met exactly.
    points[200:] = points[:200] + rng.uniform(-0.1, 0.1, (200, 3))
    points[0, :2] = 0.0
    points += [far, -far, 0.0]
    tiles = TileMap(tmp_path_factory.mktemp('tiles'), voxel_m, np.array([[far, -far]]), 100.0)
    for part in np.split(points, [7, 150, 151]):
        tiles.add(part)
    tiles.finish()
    np.testing.assert_allclose(all_points(tiles), voxel_means(points, voxel_m), atol=1e-5)


def test_what_is_put_aside_on_disk_changes_nothing(tmp_path):
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(0, 30.0, (60, 2)), axis=0)
    scans = [np.column_stack([p + rng.normal(0, 12.0, (300, 2)), rng.uniform(0, 1, 300)])
             for p in [*walk, *walk[::-1]]]
    found = []
    for name, live_rows in (('a', 10**9), ('b', 500)):
        (tmp_path / name).mkdir()
        tiles = TileMap(tmp_path / name, 0.5, walk, 200.0, live_rows=live_rows)
        for scan in scans:
            tiles.add(scan)
        tiles.finish()
        found.append({tile: tiles.load(tile)[1] for tile in sorted(tiles.tiles)})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for tile in found[0]:
        np.testing.assert_allclose(found[0][tile], found[1][tile], atol=1e-5)


def test_a_long_drive_stays_within_its_rows(tmp_path):
    rng = np.random.default_rng(2)
    tiles = TileMap(tmp_path, 0.1, np.array([[x, 0.0] for x in range(0, 10_000, 5)]), 30.0,
                    live_rows=20_000)
    most_rows = most_tiles = 0
    for x in np.arange(0.0, 10_000.0, 20.0):
        points = rng.uniform([x - 60, -60, 0], [x + 60, 60, 4], (1500, 3))
        tiles.add(points)
        most_rows = max(most_rows, sum(rows.total for rows in tiles.live.values()))
        most_tiles = max(most_tiles, len(tiles.live))
    tiles.finish()
    assert most_rows <= 20_000
    assert len(tiles.tiles) > 600 and most_tiles < 120


def test_only_tiles_within_reach_are_kept(tmp_path):
    tiles = TileMap(tmp_path, 0.1, np.array([[5.0, 5.0]]), 10.0)
    tiles.add(np.array([[5.0, 5.0, 0.0], [500.0, 5.0, 0.0], [-3.0, -3.0, 0.0]]))
    tiles.finish()
    assert len(all_points(tiles)) == 2
    assert tiles_within(np.array([[5.0, 5.0]]), 10.0, 32.0) == {(0, 0), (0, -1), (-1, 0), (-1, -1)}


def test_a_coordinate_of_no_place_is_refused(tmp_path):
    with pytest.raises(InputError, match='unit'):
        TileMap(tmp_path, 0.1, HERE, 10.0).add(np.array([[0.0, 1e300, 0.0]]))


def test_outliers_across_tiles_are_those_of_the_whole_map(tmp_path):
    rng = np.random.default_rng(3)
    # Ground across four tiles, with lonely points above it.
    ground = np.column_stack([rng.uniform(-12, 12, (3000, 2)), np.zeros(3000)])
    lonely = rng.uniform([-12, -12, 1], [12, 12, 2], (40, 3))
    points = voxel_means(np.concatenate([ground, lonely]), 0.1)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = np.sort(distance, axis=1)[:, 1:9].mean(axis=1)
    expected = points[nearest <= nearest.mean() + 2.0 * nearest.std()]
    tiles = TileMap(tmp_path, 0.1, HERE, 40.0)
    tiles.add(points)
    tiles.finish(neighbours=8, sigma=2.0)
    assert len(tiles.tiles) == 4 and len(points) - 60 < len(expected) < len(points) - 30
    np.testing.assert_allclose(all_points(tiles), expected, atol=1e-5)


def test_outlier_distances_equal_brute_force():
    rng = np.random.default_rng(4)
    points = rng.normal(0, 1, (120, 3)).astype(np.float32)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = np.sort(distance, axis=1)[:50, 1:6].mean(axis=1)
    np.testing.assert_allclose(accumulate.mean_distances(points, 50, 5), expected, rtol=1e-4)
    assert np.isinf(accumulate.mean_distances(points[:5], 5, 5)).all()


@given(st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3), min_size=1, max_size=20))
def test_z_order_interleaves_bits(cells):
    expected = [sum((c[axis] >> bit & 1) << (3 * bit + axis) for axis in range(3)
                    for bit in range(21)) for c in cells]
    assert z_order(np.array(cells, np.int64)).tolist() == expected
