"""Poses and cameras: what must hold for any of them."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import (
    apply,
    from_quaternion,
    from_rows,
    interpolate,
    inverse,
    path_length,
    planar,
    R_base_optical,
    to_quaternion,
    wrap,
    yaw_of,
)

coordinate = st.floats(-5e6, 5e6)
angle = st.floats(-50.0, 50.0)
quaternion = st.tuples(*[st.floats(-1.0, 1.0)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
pose = st.builds(from_quaternion, quaternion, st.tuples(coordinate, coordinate, coordinate))
small_pose = st.builds(from_quaternion, quaternion, st.tuples(*[st.floats(-99.0, 99.0)] * 3))


@given(pose)
def test_inverse_undoes(T):
    assert np.allclose(inverse(T) @ T, np.eye(4), atol=1e-8)
    assert np.allclose(inverse(T), np.linalg.inv(T), atol=1e-8)


@given(pose)
def test_quaternion_round_trip(T):
    q = to_quaternion(T)
    assert np.isclose(np.linalg.norm(q), 1.0) and q[3] >= 0.0
    assert np.allclose(from_quaternion(q, T[:3, 3]), T, atol=1e-9)


def test_quaternion_is_x_y_z_w():
    assert np.allclose(to_quaternion(planar(0, 0, np.pi / 2)), [0, 0, np.sqrt(0.5), np.sqrt(0.5)])


@given(st.lists(small_pose, min_size=1, max_size=4))
def test_stacks_equal_single_poses(poses):
    stack = np.stack(poses)
    assert np.allclose(inverse(stack), [inverse(T) for T in poses])
    assert np.allclose(to_quaternion(stack), [to_quaternion(T) for T in poses])
    assert np.array_equal(from_rows(stack[:, :3].reshape(-1, 12)), stack)


@given(small_pose, small_pose)
def test_apply_follows_the_chain(T_a_b, T_b_c):
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 0.5, 0.0]])
    assert np.allclose(apply(T_a_b @ T_b_c, points), apply(T_a_b, apply(T_b_c, points)))


@given(angle)
def test_wrap(a):
    w = wrap(a)
    assert -np.pi <= w < np.pi
    assert np.isclose(np.cos(w), np.cos(a)) and np.isclose(np.sin(w), np.sin(a))
    assert np.isclose(np.cos(yaw_of(planar(1, 2, a)) - a), 1.0)


@given(small_pose, small_pose)
def test_interpolation_ends_and_middle(A, B):
    stamps = np.array([10**18, 10**18 + 500_000_001])
    poses = np.stack([A, B])
    assert np.array_equal(interpolate(stamps, poses, stamps), poses)
    middle = interpolate(stamps, poses, np.array([10**18 + 250_000_000]))[0]
    assert np.allclose(middle[:3, 3], (A[:3, 3] + B[:3, 3]) / 2, atol=1e-5)
    # Halfway between the two: as far from one as from the other.
    turns = [np.trace(T[:3, :3].T @ middle[:3, :3]) for T in (A, B)]
    assert np.isclose(*turns, atol=1e-4)


def test_interpolation_invents_nothing():
    stamps = np.array([0, 10**9, 3 * 10**9])
    poses = np.stack([planar(x, 0, 0) for x in (0.0, 1.0, 3.0)])
    at = interpolate(stamps, poses, np.array([-1, 5 * 10**8, 2 * 10**9, 3 * 10**9, 3 * 10**9 + 1]))
    assert np.isnan(at[[0, 2, 4]]).all()  # before, in a gap of 2 s, after
    assert at[1, 0, 3] == 0.5 and at[3, 0, 3] == 3.0
    assert np.isnan(interpolate(np.zeros(0, np.int64), np.zeros((0, 4, 4)), np.array([1]))).all()


def test_optical_axes():
    forward, left, up = R_base_optical @ [0, 0, 1], R_base_optical @ [-1, 0, 0], \
        R_base_optical @ [0, -1, 0]
    assert np.array_equal([forward, left, up], np.eye(3))


def test_path_length():
    assert path_length(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])).tolist() == [0, 5, 6]


camera = st.builds(
    Pinhole, st.integers(8, 2000), st.integers(8, 1500), st.floats(5.0, 3000.0),
    st.floats(5.0, 3000.0), st.floats(0.0, 2000.0), st.floats(0.0, 1500.0))


@given(camera, st.lists(st.tuples(st.floats(-50, 2000), st.floats(-50, 1500)), min_size=1),
       st.floats(0.1, 100.0))
def test_rays_and_project_are_inverses(cam, pixels, distance):
    pixels = np.array(pixels)
    rays = cam.rays(pixels)
    assert np.allclose(np.linalg.norm(rays, axis=1), 1.0)
    back, inside = cam.project(rays * distance)
    assert np.allclose(back, pixels, atol=1e-6)
    sure = np.abs(pixels + 0.5) > 1e-6
    sure &= np.abs(pixels + 0.5 - [cam.width, cam.height]) > 1e-6
    expected = ((pixels >= -0.5) & (pixels < np.array([cam.width, cam.height]) - 0.5)).all(1)
    assert (inside == expected)[sure.all(1)].all()


def test_nothing_behind_the_camera_is_seen():
    pixels, inside = Pinhole(10, 10, 5, 5, 5, 5).project([[0, 0, -1], [0, 0, 0], [0, 0, 1]])
    assert inside.tolist() == [False, False, True]
    assert np.isnan(pixels[:2]).all()


@settings(max_examples=30)
@given(camera, st.integers(4, 600), st.integers(4, 600))
def test_resized_keeps_the_view(cam, width, height):
    small = cam.resized(width, height)
    # The image's corners, which lie half a pixel outside the corner pixels' centres, stay.
    corners = np.array([[-0.5, -0.5], [cam.width - 0.5, cam.height - 0.5]])
    small_corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    assert np.allclose(small.rays(small_corners), cam.rays(corners), atol=1e-9)
    assert small.horizontal_fov == pytest.approx(cam.horizontal_fov, abs=1e-9)


def test_all_rays_go_row_by_row():
    cam = Pinhole(3, 2, 2.0, 2.0, 1.0, 0.5)
    pixels, inside = cam.project(cam.rays())
    assert inside.all()
    assert np.allclose(pixels, [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
