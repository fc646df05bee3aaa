"""What RViz and Foxglove are sent: markers, clouds about an origin, looks and paths."""

import math
from types import SimpleNamespace

from helpers_ros import client_in, new_domain, TINY
from nav_msgs.msg import Path
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from visualization_msgs.msg import Marker

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import from_quaternion, planar
from saliency_i2ploc_ros.localization import looks
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.mapping.database import PlaceDatabase, write_database
from saliency_i2ploc_ros.ros import display, paths
from saliency_i2ploc_ros.ros.conversions import header_at, message_to_cloud

HEADER = header_at(1_600_000_000_123_456_789, 'map')
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def candidates_at(*positions):
    """Return candidates at (x, y), their scores falling from 0.9."""
    poses = np.stack([planar(x, y, 0.5, 2.0) for x, y in positions])
    scores = 0.9 - 0.1 * np.arange(len(positions), dtype=np.float32)
    return Candidates(np.arange(len(positions)), scores, poses)


def by_namespace(message):
    """Return the markers of an array by their namespaces."""
    found = {}
    for marker in message.markers:
        found.setdefault(marker.ns, []).append(marker)
    return found


def point_in_frame(marker, point):
    """Return where a marker's point lies in its frame."""
    p, o = marker.pose.position, marker.pose.orientation
    T = from_quaternion([o.x, o.y, o.z, o.w], [p.x, p.y, p.z])
    return T[:3, :3] @ [point.x, point.y, point.z] + T[:3, 3]


def test_the_markers_of_a_fix():
    R = planar(0.0, 0.0, 0.6)[:3, :3]
    covariance = np.diag([0.0, 0.0, 1.0, 0.1, 0.1, 0.2 ** 2])
    covariance[:2, :2] = R[:2, :2] @ np.diag([9.0, 4.0]) @ R[:2, :2].T
    T = planar(4e6 + 5.0, 6.0, 0.3, 7.0)
    candidates = candidates_at((4e6 + 4, 6), (4e6 + 12, 6), (4e6 + 300, 6))
    answer = Answer(Fix(T, covariance, 0.9), None, '', candidates, {})
    message = display.markers_message(answer, HEADER)
    assert message.markers[0].action == Marker.DELETEALL
    assert all(marker.header == HEADER for marker in message.markers)
    found = by_namespace(message)
    assert {ns: len(markers) for ns, markers in found.items()} == {
        '': 1, 'candidates': 3, 'scores': 2, 'links': 1, 'fix': 1, 'heading': 1, 'two_sigma': 1}
    assert [m.pose.position.x for m in found['candidates']] == [
        T[0, 3] for T in candidates.T_map_base]
    assert all(m.color.g > m.color.r for m in found['candidates'])

    ellipse = found['two_sigma'][0]
    assert (ellipse.scale.x, ellipse.scale.y) == pytest.approx((12.0, 8.0))
    yaw = 2.0 * math.atan2(ellipse.pose.orientation.z, ellipse.pose.orientation.w)
    assert math.remainder(yaw - 0.6, math.pi) == pytest.approx(0.0, abs=1e-9)
    # The wedge's rim is 2 sigma to either side of the heading, all of it about the fix.
    wedge = found['heading'][0]
    away = np.array([point_in_frame(wedge, p) for p in wedge.points])[:, :2] - T[:2, 3]
    rim = away[np.linalg.norm(away, axis=1) > 1.0]
    turned = np.arctan2(rim[:, 1], rim[:, 0]) - 0.3
    assert (turned.min(), turned.max()) == pytest.approx((-0.4, 0.4), abs=1e-6)
    # One line, to the candidate that is far; its points are small, as float32 wants them.
    link = found['links'][0]
    start, end = (point_in_frame(link, p) for p in link.points)
    np.testing.assert_allclose([start[:2], end[:2]], [T[:2, 3], [4e6 + 300, 6]])
    assert max(abs(p.x) for p in link.points) < 1e3


def test_labels_name_near_candidates_together_and_begin_with_the_verdict():
    covariance = np.diag([9.0, 16.0, 1.0, 0.1, 0.1, math.radians(6.0) ** 2])
    near = [(float(i), 0.0) for i in range(6)]
    candidates = candidates_at(*near, (100.0, 0.0))
    fix = Fix(planar(0.0, 0.0, 0.0), covariance, 0.9)
    texts = [m.text for m in by_namespace(display.markers_message(
        Answer(fix, None, '', candidates, {}), HEADER))['scores']]
    assert texts == ['fix, 1 sigma 5.0 m, 6 deg\n1: 0.90\n2: 0.80\n3: 0.70\n4: 0.60\nand 2 more',
                     '7: 0.30']


def test_the_markers_of_a_rejection():
    estimate = Fix(planar(0.0, 0.0, 0.0), np.eye(6), 0.9)
    answer = Answer(None, 'ambiguous', '', candidates_at((0, 0), (90, 0)), {}, estimate=estimate)
    found = by_namespace(display.markers_message(answer, HEADER))
    assert set(found) == {'', 'candidates', 'scores', 'links'}
    assert all(m.color.r > m.color.g for m in found['candidates'])
    assert found['scores'][0].text.startswith('no fix: ambiguous')
    unseen = Answer(None, 'no_texture', '', Candidates.none(), {})
    markers = display.markers_message(unseen, HEADER).markers
    assert [m.action for m in markers] == [Marker.DELETEALL]


def written(path, x):
    """Write and open a database of 3 places from x on, its road 0.9 m below base_link."""
    rng = np.random.default_rng(0)
    poses = np.stack([planar(x + 5.0 * i, -4.0, 0.3, 50.0) for i in range(3)])
    road = np.column_stack([rng.uniform(-8, 8, (40, 2)), np.full(40, -0.9)])
    clouds = [np.concatenate([road, rng.normal(0.0, 5.0, (50, 3)) + [20.0, 0.0, 0.0]]).astype(
        np.float32) for _ in range(3)]
    write_database(path, np.eye(TINY.descriptor_dim, dtype=np.float32)[:3], poses, clouds,
                   encoder_hash='e', preprocessing_hash='p', model_name='m', submap={},
                   spacing_m=5.0)
    return PlaceDatabase.open(path), clouds


@pytest.mark.parametrize(('x', 'frame'), [(0.0, 'map'), (4e6, 'map_origin')])
def test_far_maps_are_shown_about_their_origin(tmp_path, x, frame):
    database, clouds = written(tmp_path / 'map', x)
    shown = display.MapDisplay(database, 'map')
    assert (shown.frame, shown.origin_frame) == (frame, 'map_origin')
    assert shown.origin.tolist() == [x, -4.0, 50.0]
    cloud = shown.submap(1, 7)
    assert cloud.header.frame_id == frame and cloud.header.stamp.nanosec == 7
    T = database.T_map_base[1]
    expected = clouds[1] @ T[:3, :3].T + T[:3, 3]
    expected -= shown.origin if frame == 'map_origin' else 0.0
    np.testing.assert_allclose(message_to_cloud(cloud), expected, atol=1e-3)
    # The height above the road as intensity, what RViz and Foxglove colour by without being told.
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z', 'intensity']
    height = np.frombuffer(cloud.data, np.float32).reshape(-1, 4)[:, 3]
    np.testing.assert_allclose(height, clouds[1][:, 2] + 0.9, atol=1e-4)
    for limit in (1, 2, 60, 1000):
        whole = message_to_cloud(shown.whole_map(limit, 7))
        assert min(limit, 270) / 3 <= len(whole) <= limit


@pytest.mark.parametrize(('places', 'size'), [(7, 50), (50, 7), (1, 30), (13, 1)])
def test_the_whole_map_has_every_place_and_no_point_above_the_limit(places, size):
    descriptors = np.zeros((places, 2), np.float32)
    poses = np.stack([planar(100.0 * i, 0.0, 0.0) for i in range(places)])
    database = SimpleNamespace(descriptors=descriptors, T_map_base=poses, origin=np.zeros(3),
                               first_places=np.arange(places),
                               cloud=lambda _: np.zeros((size, 3), np.float32))
    shown = display.MapDisplay(database, 'map')
    for limit in (places, places + 1, 2 * places - 1, 3 * places, 3 * places + 1, 10**4):
        points = message_to_cloud(shown.whole_map(limit, 7))
        assert len(points) <= limit
        assert {round(x / 100.0) for x in points[:, 0]} == set(range(places))


def test_the_whole_map_has_the_points_of_a_submap_once_for_all_its_views(tmp_path):
    poses = np.stack([planar(50.0 * (i // 3), 0.0, 0.5 * i) for i in range(6)])
    clouds = [np.random.default_rng(i).uniform(-8, 8, (40, 3)).astype(np.float32)
              for i in range(2)]
    write_database(tmp_path / 'map', np.eye(6, dtype=np.float32), poses, clouds,
                   np.array([0, 0, 0, 1, 1, 1]), encoder_hash='e', preprocessing_hash='p',
                   model_name='m', submap={}, spacing_m=50.0, views=3)
    database = PlaceDatabase.open(tmp_path / 'map')
    assert database.first_places.tolist() == [0, 3]
    points = message_to_cloud(display.MapDisplay(database, 'map').whole_map(1000, 7))
    assert len(points) == len(np.unique(points.round(3), axis=0)) == 80


def one_place(*clouds, spacing=5.0):
    """Return a database of places in a row along x, with these clouds."""
    poses = np.stack([planar(spacing * i, 0.0, 0.0) for i in range(len(clouds))])
    return SimpleNamespace(T_map_base=poses, cloud=lambda i: np.asarray(clouds[i], np.float32))


def test_a_place_is_seen_where_its_points_are_and_the_near_hides_the_far():
    config = TINY
    camera = looks.looking_camera(config)
    road = np.column_stack([np.repeat(np.arange(2.0, 8.0, 0.25), 8), np.tile(
        np.linspace(-1.4, 1.4, 8), 24), np.zeros(192)])
    # A post 10 m ahead and 3 m to the left, at the height of the camera; a wall far behind it.
    post = np.array([[10.0, 3.0, 1.6]] * 3)
    wall = np.column_stack([np.full(900, 40.0), np.repeat(np.linspace(0, 24, 30), 30),
                            np.tile(np.linspace(0.5, 12, 30), 30)])
    picture = looks.place_look(one_place(np.concatenate([road, post, wall])), 0, config)
    assert picture.shape == (camera.height, camera.width, 3)
    (u, v), = camera.project([[-3.0, 0.0, 10.0]])[0]
    at_post = picture[round(v), round(u)].astype(int)
    (u, v), = camera.project([[-14.0, -2.0, 40.0]])[0]
    at_wall = picture[round(v), round(u)].astype(int)
    assert at_post[0] > at_post[2] and at_wall[2] > at_wall[0]  # near is red, far is blue
    (u, v), = camera.project([[8.0, 0.0, 10.0]])[0]
    assert tuple(picture[round(v), round(u)]) == looks.NOTHING
    (u, v), = camera.project([[0.0, 1.6, 5.0]])[0]
    r, g, b = picture[round(v), round(u)].astype(int)
    assert r == g == b > 50  # the road is grey


def test_the_neighbours_of_a_place_are_seen_but_not_those_that_look_back():
    empty = np.zeros((0, 3))
    ahead = [[1.0, 2.0, 3.0]]
    database = one_place(empty, ahead, empty)
    np.testing.assert_allclose(looks.points_about(database, 0), [[6.0, 2.0, 3.0]])
    database.T_map_base[1] = planar(5.0, 0.0, math.pi)
    assert len(looks.points_about(database, 0)) == 0
    far = one_place(empty, ahead, spacing=40.0)
    assert len(looks.points_about(far, 0)) == 0


def test_a_query_under_its_saliency():
    config = TINY
    rows, columns = config.image.grid
    camera = config.image.camera.resized(64, 32)
    image = np.full((32, 64, 3), 100, np.uint8)
    look = looks.query_look(image, camera, config)
    view = looks.looking_camera(config)
    assert look.shape == (view.height, view.width, 3) and np.all(look == 100)
    saliency = np.ones(rows * columns)
    saliency[0], saliency[-1] = 100.0, 0.0
    heat = looks.saliency_look(look, saliency, config).astype(int)
    first, last = heat[2, 2], heat[-3, -3]
    assert first[0] > first[2] and last[2] > last[0]
    patch = view.width // columns
    assert np.all(heat[:patch - 1, :patch - 1] == first)
    with pytest.raises(InputError, match='calibration'):
        looks.query_look(image, None, config)
    without = config.model_copy(update={'image': SimpleNamespace(camera=None)})
    with pytest.raises(InputError, match='no saliency'):
        looks.saliency_look(look, saliency, without)


def test_paths_are_latched_thinned_and_made_once(tmp_path, monkeypatch):
    database, _ = written(tmp_path / 'map', 4e6)
    monkeypatch.setattr(paths, 'MOST', 8)
    made = []
    pose = paths.pose_to_message
    monkeypatch.setattr(paths, 'pose_to_message', lambda T: made.append(T) or pose(T))
    truth = {10**9 * i: planar(4e6 + i, -4.0, 0.0, 50.0) for i in reversed(range(20))}
    with client_in(new_domain()) as client:
        published = paths.Paths(client.node, database)
        published.publish(truth, {}, 'map')
        assert made == []  # nobody listens
        heard = client.listen(Path, '/client/true_path', LATCHED)
        outputs = published._outputs['true_path']
        assert client.until(outputs.get_subscription_count)
        published.publish(truth, {}, 'map')
        assert client.until(lambda: heard)
        published.publish(truth, {}, 'map')  # has not grown
        late = client.listen(Path, '/client/true_path', LATCHED)
        assert client.until(lambda: late)
        path = late[0]
        assert path.header.frame_id == path.poses[0].header.frame_id == 'map_origin'
        assert [p.header.stamp.sec for p in path.poses] == [0, 4, 8, 12, 16, 19]
        assert [p.pose.position.x for p in path.poses] == [0, 4, 8, 12, 16, 19]
        before = len(made)
        truth[20 * 10**9] = planar(4e6 + 20.0, -4.0, 0.0, 50.0)
        published.publish(truth, {}, 'map')
        assert len(made) == before + 1 == 7
        assert client.until(lambda: late[-1].poses[-1].header.stamp.sec == 20)
        assert client.until(lambda: heard[-1].poses[-1].header.stamp.sec == 20)
    assert len(heard) == 2
    assert [paths.stride(n) for n in (0, 1, 8, 9, 16, 17, 33)] == [1, 1, 1, 2, 2, 4, 8]
