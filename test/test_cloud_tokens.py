"""Cloud tokens against brute force, and what they promise of any submap."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.encoders.cloud_tokens import (
    cloud_tokens,
    even_subset,
    farthest_points,
    nearest,
    to_spherical,
    usable_points,
)
from saliency_i2ploc_ros.encoders.config import TokenConfig
from saliency_i2ploc_ros.encoders.presets import CITY
from saliency_i2ploc_ros.errors import InputError


def street(n=5000, seed=0):
    """Return ground and two facades along x, (n, 3) float32, seen by a vehicle at the origin."""
    rng = np.random.default_rng(seed)
    x, side = rng.uniform(-40.0, 40.0, n), rng.choice([-1.0, 1.0], n)
    ground = np.stack([x, rng.uniform(-8.0, 8.0, n), rng.normal(0.0, 0.02, n)], 1)
    walls = np.stack([x, side * rng.normal(8.0, 0.3, n), rng.uniform(0.0, 9.0, n)], 1)
    return np.where(rng.random((n, 1)) < 0.4, ground, walls).astype(np.float32)


def farthest_by_brute_force(points, count, start):
    p = points.astype(np.float64)
    chosen = [start]
    while len(chosen) < count:
        to_chosen = ((p[:, None] - p[chosen][None]) ** 2).sum(2).min(1)
        to_chosen[chosen] = -1.0
        chosen.append(int(to_chosen.argmax()))
    return chosen


@given(st.integers(0, 10_000), st.integers(33, 90), st.integers(1, 33))
@settings(max_examples=40, deadline=None)
def test_farthest_points_are_those_of_brute_force(seed, n, count):
    # Whole numbers, so that float32 is exact; many equal distances and equal points among them.
    points = np.random.default_rng(seed).integers(-6, 7, (n, 3)).astype(np.float32)
    chosen = farthest_points(points, count).tolist()
    assert chosen == farthest_by_brute_force(points, count, chosen[0])
    assert len(set(chosen)) == count
    from_centroid = ((points - points.mean(0, dtype=float)) ** 2).sum(1)
    assert from_centroid[chosen[0]] == pytest.approx(from_centroid.min(), abs=1e-4)


def test_farthest_points_of_a_cloud_are_those_of_brute_force():
    points = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
    start = int(((points - points.mean(0, dtype=float)) ** 2).sum(1).argmin())
    assert farthest_points(points, 50).tolist() == farthest_by_brute_force(points, 50, start)


def test_neighbours_are_those_of_brute_force():
    points = np.random.default_rng(2).normal(size=(300, 3)).astype(np.float32)
    centres = points[:20]
    distances = ((centres[:, None].astype(float) - points[None]) ** 2).sum(2)
    assert (nearest(points, centres, 16) == distances.argsort(1)[:, :16]).all()


@pytest.mark.parametrize('config', [
    CITY.cloud.tokens, TokenConfig(points=1000, centres=64, neighbours=16)])
def test_tokens_do_not_depend_on_order_or_run(config):
    points = street()
    shuffled = np.random.default_rng(3).permutation(points)
    first, again, other = (cloud_tokens(p, config) for p in (points, points, shuffled))
    for a, b, c in zip(first, again, other, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert first.groups.shape == (config.centres, config.neighbours, 3)
    assert first.centres.shape == (config.centres, 3)


def test_cartesian_groups_are_points_of_the_submap_about_their_centres():
    points = street(800)
    groups, centres = cloud_tokens(points, TokenConfig(points=800, centres=20, neighbours=8))
    assert (groups[:, 0] == 0.0).all()
    back = (groups + centres[:, None]).reshape(-1, 3)
    gap = np.abs(back[:, None] - points[None]).max(2).min(1)
    assert gap.max() < 1e-5


def test_spherical_coordinates():
    points = np.array([[10, 0, 1.6], [0, 10, 1.6], [100, 0, 1.6], [10, 0, 11.6], [0, 0, 1.6]],
                      np.float32)
    expected = [[0, 0, 0], [np.pi / 2, 0, 0], [0, 0, np.log(10)],
                [0, np.pi / 4, np.log(2) / 2], [0, 0, np.log(0.1)]]
    np.testing.assert_allclose(to_spherical(points, 1.6), expected, atol=1e-6)


def test_turning_a_submap_shifts_spherical_centres_and_leaves_the_groups():
    rng = np.random.default_rng(4)
    points = (rng.uniform([5.0, -4.0, 0.0], [30.0, 4.0, 6.0], (500, 3))).astype(np.float32)
    angle = 0.3
    c, s = np.cos(angle), np.sin(angle)
    turned = (points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])).astype(np.float32)
    config = TokenConfig(space='spherical', points=500, centres=24, neighbours=8)
    a, b = cloud_tokens(points, config), cloud_tokens(turned, config)
    np.testing.assert_allclose(b.centres - a.centres, np.tile([angle, 0, 0], (24, 1)), atol=1e-5)
    np.testing.assert_allclose(b.groups, a.groups, atol=1e-5)


@given(st.floats(10.0, 360.0), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_field_of_view_is_cut_about_straight_ahead(degrees, seed):
    points = np.random.default_rng(seed).uniform(-30.0, 30.0, (4000, 3)).astype(np.float32)
    kept, _ = usable_points(points, TokenConfig(field_of_view_deg=degrees))
    azimuth = np.degrees(np.abs(np.arctan2(points[:, 1], points[:, 0])))
    assert (azimuth <= degrees - degrees / 2.0 - 1e-3).sum() <= len(kept)
    assert len(kept) <= (azimuth <= degrees / 2.0 + 1e-3).sum()


def test_elevation_is_cut_at_the_sensor():
    points = street()
    kept, coordinates = usable_points(
        points, TokenConfig(space='spherical', elevation_deg=(-10.0, 20.0)))
    elevation = np.degrees(np.arctan2(points[:, 2] - 1.6, np.hypot(points[:, 0], points[:, 1])))
    assert len(kept) == ((elevation >= -10.0) & (elevation <= 20.0)).sum()
    assert np.degrees(coordinates[:, 1]).min() >= -10.001


def test_only_the_nearest_point_of_a_cell_is_visible():
    points = street(3000)
    config = TokenConfig(space='spherical', visible_only=True, cell_deg=2.0)
    _, coordinates = usable_points(points, config)
    nearest_of = {}
    for azimuth, elevation, distance in to_spherical(points, 1.6).astype(float):
        cell = (np.floor(azimuth / np.radians(2.0)), np.floor(elevation / np.radians(2.0)))
        nearest_of[cell] = min(nearest_of.get(cell, np.inf), distance)
    assert sorted(coordinates[:, 2].astype(float)) == sorted(nearest_of.values())


def test_a_wall_hides_what_is_behind_it():
    y, z = np.meshgrid(np.linspace(-5, 5, 200), np.linspace(0, 4, 80))
    wall = np.stack([np.full(y.size, 10.0), y.ravel(), z.ravel()], 1)
    behind = np.stack([np.full(y.size, 12.0), 0.8 * y.ravel(), 0.5 + 0.8 * z.ravel()], 1)
    config = TokenConfig(visible_only=True)
    kept, _ = usable_points(np.concatenate([behind, wall]).astype(np.float32), config)
    assert len(kept) > 1000
    assert (kept[:, 0] == 10.0).all()


@pytest.mark.parametrize('n', [32, 40])
def test_small_submaps_come_repeatedly(n):
    points = street(n)
    groups, centres = cloud_tokens(points, TokenConfig(centres=100, neighbours=48))
    assert groups.shape == (100, 48, 3)
    assert len(np.unique(centres, axis=0)) == n
    np.testing.assert_array_equal(centres[:100 - n], centres[n:])
    np.testing.assert_array_equal(groups[:, :48 - n], groups[:, n:])


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match='has only 3 points'):
        cloud_tokens(street(3), TokenConfig())
    with pytest.raises(InputError, match='has only 0 points'):
        cloud_tokens(np.zeros((0, 3), np.float32), CITY.cloud.tokens)
    with pytest.raises(InputError, match=r'an array \(n, 3\)'):
        cloud_tokens(np.zeros((40, 2), np.float32), TokenConfig())


def test_points_that_are_not_finite_are_left_out_and_counted():
    points = street(100)
    config = TokenConfig(centres=20, neighbours=8)
    spoilt = np.concatenate([points, np.full((5, 3), np.nan, np.float32)])
    for a, b in zip(cloud_tokens(points, config), cloud_tokens(spoilt, config), strict=True):
        np.testing.assert_array_equal(a, b)
    points[10:, 1] = np.inf
    with pytest.raises(InputError, match='only 10 points .*90 are not finite'):
        cloud_tokens(points, config)


def test_an_even_subset_is_spread_over_the_whole():
    points = street(10_000)
    chosen = points[even_subset(points, 500)]
    assert len(np.unique(chosen, axis=0)) == 500
    counts, _ = np.histogram(chosen[:, 0], 10, (-40, 40))
    assert counts.min() > 35
