"""The baseline that learns nothing, on scenes whose outline is known."""

import numpy as np
import pytest

from saliency_i2ploc_ros.evaluation.baseline import (
    all_around,
    outline_of_image,
    outline_of_points,
    outlook_of,
    sky_rows,
)
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform

CAMERA = Pinhole(320, 96, 125.6, 125.6, 159.5, 47.5)
AHEAD = transform(R_base_optical, [0.5, 0.0, 1.5])


def street(rng, blocks=12):
    """Return boxes along a street as (x0, x1, y0, y1, height), no two alike."""
    boxes = []
    for side in (-1.0, 1.0):
        x = -20.0
        for _ in range(blocks):
            width, back = rng.uniform(4, 12), rng.uniform(6, 14)
            boxes.append((x, x + width, side * back, side * (back + 6.0), rng.uniform(2, 9)))
            x += width + rng.uniform(0, 5)
    return boxes


def cloud_of(boxes, T_map_base, rng):
    """Return points (n, 3) of the boxes' walls, in the vehicle frame."""
    parts = []
    for x0, x1, y0, _, height in boxes:
        n = int(40 * (x1 - x0))
        parts.append(np.stack([rng.uniform(x0, x1, n), np.full(n, y0),
                               np.r_[rng.uniform(0, height, n - 40), np.full(40, height)]], 1))
        n = 200
        for x in (x0, x1):
            parts.append(np.stack([np.full(n, x), y0 + np.sign(y0) * rng.uniform(0, 6, n),
                                   np.r_[rng.uniform(0, height, n - 40), np.full(40, height)]], 1))
    points = np.concatenate(parts)
    return (points - T_map_base[:3, 3]) @ T_map_base[:3, :3]


def image_of(boxes, T_map_base, camera, T_base_camera, rng):
    """Render sky, ground and the boxes as seen: a ray per pixel against every box."""
    rays = camera.rays() @ (T_map_base @ T_base_camera)[:3, :3].T
    eye = (T_map_base @ T_base_camera)[:3, 3]
    nearest = np.full(len(rays), 200.0)
    hit = np.zeros(len(rays), int)
    for number, (x0, x1, y0, y1, height) in enumerate(boxes, 1):
        low = np.array([x0, min(y0, y1), 0.0])
        high = np.array([x1, max(y0, y1), height])
        with np.errstate(divide='ignore', invalid='ignore'):
            a, b = (low - eye) / rays, (high - eye) / rays
        near, far = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
        inside = (near <= far) & (near > 0.0) & (near < nearest)
        nearest[inside], hit[inside] = near[inside], number
    colours = np.concatenate([[[170, 195, 235]], rng.integers(40, 130, (len(boxes), 3)),
                              [[90, 90, 92]]])
    hit[(hit == 0) & (rays[:, 2] < -0.01)] = len(boxes) + 1
    image = colours[hit] + rng.normal(0, 3, (len(rays), 3))
    return np.clip(image, 0, 255).astype(np.uint8).reshape(camera.height, camera.width, 3)


@pytest.mark.parametrize('camera', [CAMERA, Panorama(360, 90, 60.0, -30.0)])
@pytest.mark.parametrize('turned', [0.0, 0.4])
def test_an_image_and_a_cloud_of_one_place_have_one_outline(camera, turned):
    rng = np.random.default_rng(3)
    boxes = street(rng)
    mounting = AHEAD.copy()
    mounting[:3, :3] = planar(0, 0, turned)[:3, :3] @ mounting[:3, :3]
    outlook = outlook_of(camera, mounting)
    places = [planar(10.0 * i, 0.0, 0.1 * i) for i in range(5)]
    images = np.stack([outline_of_image(image_of(boxes, T, camera, mounting, rng), camera,
                                        mounting, outlook) for T in places])
    clouds = np.stack([outline_of_points(cloud_of(boxes, T, rng), outlook) for T in places])
    similar = images @ clouds.T
    assert similar.argmax(axis=1).tolist() == list(range(5))
    assert (np.diag(similar) > 0.6).all()
    assert np.linalg.norm(images, axis=1) == pytest.approx(1.0)


def test_the_sky_ends_where_the_roofs_begin():
    rng = np.random.default_rng(0)
    roof = (10 + 20 * np.abs(np.sin(np.arange(200) / 15.0))).astype(int)
    image = np.full((80, 200, 3), (180, 200, 230), float)
    for column, row in enumerate(roof):
        image[row:, column] = (90, 60, 50)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    assert np.abs(sky_rows(image, 60) - roof).max() <= 2
    image[5, 100] = 0  # a lamp is no roof
    assert abs(sky_rows(image, 60)[100] - roof[100]) <= 2


def test_the_outlook_is_the_cameras_width_and_knows_its_heading():
    outlook = outlook_of(CAMERA, AHEAD)
    assert np.degrees(outlook.azimuth[[0, -1]]) == pytest.approx([-51.9, 51.9], abs=0.3)
    assert outlook.eye == pytest.approx([0.5, 0.0, 1.5])
    left = AHEAD.copy()
    left[:3, :3] = planar(0, 0, np.pi / 2)[:3, :3] @ left[:3, :3]
    assert np.degrees(outlook_of(CAMERA, left).azimuth[[0, -1]]) == pytest.approx(
        [90 - 51.9, 90 + 51.9], abs=0.3)
    # An outlook over the seam behind: a camera that looks back.
    back = AHEAD.copy()
    back[:3, :3] = planar(0, 0, np.pi)[:3, :3] @ back[:3, :3]
    behind = outlook_of(CAMERA, back)
    assert behind.bin_of(np.array([np.pi - 0.01, -np.pi + 0.01, 0.0])).tolist() == [
        behind.bins // 2 - 1 + behind.bins % 2, behind.bins // 2, -1]
    around = all_around(1.6)
    assert (around.bin_of(np.linspace(-np.pi, np.pi, 50, endpoint=False)) >= 0).all()


def test_nothing_to_see_is_like_nothing():
    outlook = outlook_of(CAMERA, AHEAD)
    flat = outline_of_points(np.stack([np.linspace(5, 30, 50), np.zeros(50), np.zeros(50)], 1),
                             outlook)
    assert not flat.any()
    assert not outline_of_points(np.zeros((0, 3)), outlook).any()
    fog = outline_of_image(np.full((96, 320, 3), 128, np.uint8), CAMERA, AHEAD, outlook)
    assert np.isfinite(fog).all()
