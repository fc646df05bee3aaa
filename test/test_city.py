"""The procedural city: same seed same bytes, and image, depth, classes and LiDAR agree."""

import hashlib
import itertools

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from saliency_i2ploc_ros.cli.city import command
from saliency_i2ploc_ros.cli.train import sites_of
from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.city.generate import (
    city_camera,
    generate_city,
    T_BASE_CAMERA,
    T_BASE_LIDAR,
)
from saliency_i2ploc_ros.data.city.lidar import Lidar, scan
from saliency_i2ploc_ros.data.city.mesh import MeshBuilder, ROAD, SKY
from saliency_i2ploc_ros.data.city.plan import make_plan
from saliency_i2ploc_ros.data.city.render import render
from saliency_i2ploc_ros.data.city.route import walk_nodes
from saliency_i2ploc_ros.data.city.traversal import make_traversal
from saliency_i2ploc_ros.data.city.world import City, Layer, Scene
from saliency_i2ploc_ros.data.labels import NAMES
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import apply, inverse, yaw_of

LENGTH_M = 160.0


@pytest.fixture(scope='module')
def city():
    return City(3, 2)


@pytest.fixture(scope='module')
def trip(city):
    return make_traversal(city, 0, LENGTH_M, weather='clear', cars_per_km=60, people_per_km=60)


def picture(trip, frame):
    return render(trip.scene(frame), trip.T_map_base[frame] @ T_BASE_CAMERA, city_camera(),
                  trip.weather, trip.city.styles, np.random.default_rng(frame))


def sweep(trip, frame, lidar=Lidar()):
    return scan(trip.scene(frame), trip.T_map_base[frame] @ T_BASE_LIDAR, trip.city.styles,
                np.random.default_rng(frame), lidar)


def digest(*arrays):
    return hashlib.sha256(b''.join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def test_one_seed_gives_one_city_and_one_trip(city, trip):
    again = City(3, 2)
    twin = make_traversal(again, 0, LENGTH_M, weather='clear', cars_per_km=60, people_per_km=60)
    assert digest(again.mesh.vertices, again.mesh.colour) == digest(
        city.mesh.vertices, city.mesh.colour)
    assert np.array_equal(twin.stamps_ns, trip.stamps_ns)
    assert np.array_equal(twin.T_map_base, trip.T_map_base)
    a, b = picture(trip, 30), picture(twin, 30)
    assert digest(a.rgb, a.depth, a.labels) == digest(b.rgb, b.depth, b.labels)
    p, q = sweep(trip, 30), sweep(twin, 30)
    assert digest(p.points, p.intensity, p.labels) == digest(q.points, q.intensity, q.labels)
    assert digest(City(4, 2).mesh.vertices) != digest(city.mesh.vertices)


def test_lidar_lies_on_the_images_depth_and_classes(trip):
    camera = city_camera()
    exact = Lidar(noise_m=0.0, dropout=0.0)
    right = near = total = 0
    for frame in (5, 40, 80):
        shot, points = picture(trip, frame), sweep(trip, frame, exact)
        p = apply(inverse(T_BASE_CAMERA) @ T_BASE_LIDAR, points.points)
        uv, inside = camera.project(p)
        u, v = np.round(uv[inside]).astype(int).T
        z = p[inside, 2]
        # From 0.8 m apart the two see round edges differently: most agree, not all.
        near += (np.abs(shot.depth[v, u] - z) < 0.05 * z + 0.1).sum()
        right += (shot.labels[v, u] == points.labels[inside]).sum()
        total += inside.sum()
    assert total > 9000
    assert near / total > 0.88
    assert right / total > 0.92


def test_depth_and_classes_say_sky_together(trip):
    shot = picture(trip, 12)
    assert np.array_equal(np.isinf(shot.depth), shot.labels == SKY)
    assert set(np.unique(shot.labels)) <= set(NAMES)
    assert (shot.depth > 0.3).all()
    assert shot.rgb.std() > 20


def test_first_hits_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    builders = [MeshBuilder(), MeshBuilder()]
    for k, builder in enumerate(builders):
        centres = rng.uniform(-8, 8, (60, 1, 3))
        builder.triangles(centres + rng.normal(0, 1.5, (60, 3, 3)), k + 1, (1, 1, 1))
    meshes = [b.mesh() for b in builders]
    scene = Scene(Layer(meshes[0]), Layer(meshes[1]))
    d = rng.normal(size=(400, 3)).astype(np.float32)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    o = np.float32([0.3, -0.2, 0.1])
    hits = scene.trace(o, d)
    v = np.concatenate([m.vertices for m in meshes]).astype(float)
    labels = np.concatenate([m.label for m in meshes])
    e1, e2 = v[:, 1] - v[:, 0], v[:, 2] - v[:, 0]
    best, label = np.full(400, np.inf), np.zeros(400, int)
    for k in range(len(v)):
        # Moeller and Trumbore, "Fast, minimum storage ray/triangle intersection", 1997.
        p = np.cross(d, e2[k])
        det = p @ e1[k]
        s = np.broadcast_to(o - v[k, 0], d.shape)
        a = (p * s).sum(1) / det
        q = np.cross(s, e1[k])
        b = (d * q).sum(1) / det
        t = q @ e2[k] / det
        met = (a >= 0) & (b >= 0) & (a + b <= 1) & (t > 0) & (t < best)
        best[met], label[met] = t[met], labels[k]
    assert (hits.hit == np.isfinite(best)).mean() > 0.99
    both = hits.hit & np.isfinite(best)
    assert both.sum() > 50
    assert np.allclose(hits.distance[both], best[both], atol=1e-3)
    assert np.array_equal(hits.label[both], label[both])
    assert ((hits.normal[both] * d[both]).sum(1) <= 1e-6).all()


def test_the_vehicle_keeps_to_the_road_and_to_its_side(city, trip):
    below = trip.T_map_base[:, :3, 3] + [0, 0, 1.0]
    down = np.tile(np.float32([0, 0, -1]), (len(below), 1))
    ground = Scene(Layer(city.mesh))
    labels = [ground.trace(p, d[None]).label[0]
              for p, d in zip(below.astype(np.float32), down, strict=True)]
    assert (np.array(labels) == ROAD).mean() > 0.97
    steps = np.linalg.norm(np.diff(trip.T_map_base[:, :2, 3], axis=0), axis=1)
    assert np.allclose(steps, 1.6, atol=0.12)
    speed = steps / np.diff(trip.stamps_ns) * 1e9
    assert (speed > 3.5).all() and (speed < 13.0).all()
    turn = np.diff(np.unwrap(yaw_of(trip.T_map_base)))
    assert np.abs(turn).max() < 0.45


def test_every_trip_takes_the_same_streets(city, trip):
    there = trip.T_map_base
    for index, reverse in ((1, False), (2, True)):
        other = make_traversal(city, index, LENGTH_M, reverse=reverse).T_map_base
        d = np.linalg.norm(other[:, None, :2, 3] - there[None, :, :2, 3], axis=2)
        middle = slice(12, -12)
        assert (d.min(1)[middle] < (11.0 if reverse else 1.8)).all()
        angle = yaw_of(other) - yaw_of(there[d.argmin(1)])
        along = np.cos(angle)[middle]
        assert np.median(along) * (-1 if reverse else 1) > 0.95
    assert not np.array_equal(other, there)


def test_parked_and_moving_cars_change_from_trip_to_trip_and_the_city_does_not(city, trip):
    other = make_traversal(city, 1, LENGTH_M)
    n = len(city.mesh)
    assert np.array_equal(trip.static.mesh.vertices[:n], other.static.mesh.vertices[:n])
    assert len(trip.static.mesh) > n
    assert digest(trip.static.mesh.vertices[n:]) != digest(other.static.mesh.vertices[n:])
    a, b = trip.crowd.at(1.0), trip.crowd.at(2.0)
    moved = np.linalg.norm(a[:, :2] - b[:, :2], axis=1)
    assert (moved[trip.crowd.template < 7] > 3.0).mean() > 0.9
    assert moved.max() < 13.0


def test_drop_outs_and_noise_are_of_their_size(trip):
    exact = sweep(trip, 20, Lidar(noise_m=0.0, dropout=0.0))
    noisy = sweep(trip, 20, Lidar(noise_m=0.02, dropout=0.0))
    r, s = (np.linalg.norm(x.points, axis=1) for x in (exact, noisy))
    assert len(r) == len(s)
    assert 0.018 < (s - r).std() < 0.022
    fewer = sweep(trip, 20, Lidar(dropout=0.3))
    assert 0.6 < len(fewer.points) / len(exact.points) < 0.8
    assert exact.points.dtype == np.float32 and (exact.intensity <= 1).all()
    assert r.max() <= 80.0 and r.min() >= 1.5


@given(seed=strategies.integers(0, 9999), blocks=strategies.integers(2, 6))
@settings(max_examples=25, deadline=None)
def test_streets_of_any_plan_can_be_driven_and_do_not_fold(seed, blocks):
    plan = make_plan(seed, blocks)
    nodes = walk_nodes(plan, np.random.default_rng(seed), 400.0)
    assert all(b in plan.neighbours(a) for a, b in itertools.pairwise(nodes))
    assert all(a != c for a, c in zip(nodes[:-2], nodes[2:], strict=True))
    p = np.random.default_rng(seed).uniform(0, plan.columns[-1].at, (1500, 2))
    dx, dy = (plan.warp(p + step) - plan.warp(p) for step in 0.1 * np.eye(2))
    area = (dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0]) / 0.01
    assert (area > 0.35).all() and (area < 1.9).all()


def test_drives_are_written_whole_read_back_and_left_alone(tmp_path):
    root = tmp_path / 'city-0005'
    options = {'traversals': 2, 'length_m': 26.0, 'blocks': 2, 'depth': True, 'semantics': True,
               'reverse': (1,)}
    names = generate_city(root, 5, **options)
    assert names == ['city_0005_drive_0000_sync', 'city_0005_drive_0001_sync']
    drive = kitti360.open_drive(root, names[0])
    stream = drive.cameras['image_00']
    assert len(drive.lidar) == 16 and len(stream) == 8
    assert list(stream.ids) == list(range(0, 16, 2))
    assert np.allclose(stream.T_base_sensor, T_BASE_CAMERA, atol=1e-6)
    assert np.allclose(drive.lidar.T_base_sensor, T_BASE_LIDAR, atol=1e-6)
    trip = make_traversal(City(5, 2), 0, 26.0)
    assert np.allclose(stream.T_map_base, trip.T_map_base[::2], atol=1e-6)
    assert np.array_equal(drive.lidar.stamps_ns, trip.stamps_ns)
    assert drive.image('image_00', 0).shape == (96, 320, 3)
    assert drive.scan(3).labels is not None
    before = {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    assert generate_city(root, 5, **options) == names
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob('*')}
    with pytest.raises(InputError, match='other parameters'):
        generate_city(root, 5, **{**options, 'length_m': 40.0})
    assert [p.name for p in tmp_path.iterdir()] == ['city-0005']


@pytest.mark.parametrize('wrong', [
    {'length_m': 2.0}, {'length_m': float('nan')}, {'step_m': 0.0}, {'traversals': 0},
    {'blocks': 1}, {'image_size': (4, 320)}, {'image_every': 0},
    {'scan_every': 0}, {'step_m': 30.0}])
def test_what_cannot_be_made_is_refused_and_leaves_nothing(tmp_path, wrong):
    with pytest.raises(InputError):
        generate_city(tmp_path / 'city', 0, **{'blocks': 2, 'length_m': 20.0, **wrong})
    assert not list(tmp_path.iterdir())


def test_an_unknown_weather_is_refused(tmp_path):
    with pytest.raises(InputError, match='choose one of clear'):
        command(tmp_path, weather='snow')


def test_balls_that_spare_rays_change_nothing(trip):
    moving = trip.scene(40).layers[1]
    camera = city_camera()
    pose = trip.T_map_base[40] @ T_BASE_CAMERA
    d = (camera.rays() @ pose[:3, :3].T).astype(np.float32)
    o = pose[:3, 3].astype(np.float32)
    spared = Scene(trip.static, moving).trace(o, d)
    full = Scene(trip.static, Layer(moving.mesh)).trace(o, d)
    assert len(moving.reached(o, d)) < len(d)
    assert np.array_equal(spared.distance, full.distance)
    assert np.array_equal(spared.label, full.label)


def test_what_a_drive_carries_and_how_training_takes_it(tmp_path):
    names = generate_city(tmp_path / 'c', 4, 3, 30.0, scanned=(1,), pictured=(0, 2), blocks=2)
    drives = [open_drive(tmp_path / 'c', name) for name in names]
    assert [bool(d.cameras) and len(d.cameras['image_00']) > 0 for d in drives] == [
        True, False, True]
    assert [d.lidar is not None and len(d.lidar) > 0 for d in drives] == [False, True, False]
    site, = sites_of([tmp_path / 'c', tmp_path / 'c' / '..' / 'c'], [])
    assert site['map_drive'] == names[1] and site['query_drives'] == [names[0], names[2]]
    with pytest.raises(InputError, match='no traversal 3 of 3'):
        generate_city(tmp_path / 'd', 4, 3, 30.0, scanned=(3,), blocks=2)
