"""Cameras with lenses and panoramas: against OpenCV, against the papers' formulas, both ways."""

import math

import cv2
from helpers_drives import real_data, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from pydantic import TypeAdapter, ValidationError
import pytest

from saliency_i2ploc_ros.data.camera_files import lens_text, read_lens
from saliency_i2ploc_ros.encoders.config import ImageConfig
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Panorama, Pinhole
from saliency_i2ploc_ros.geometry.lenses import Brown, Fisheye, Mei

RNG = np.random.default_rng(0)
DIRECTIONS = RNG.normal(size=(2000, 3))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)

PINHOLE = Pinhole(320, 96, 125.6, 125.6, 159.5, 47.5)
PANORAMA = Panorama(512, 128, 50.0, -30.0)
# KITTI's image_02 before rectification; a wide lens by the rational model; a GoPro-like fisheye;
# a lens like KITTI-360's.
KITTI = Brown(1392, 512, 959.8, 956.9, 696.0, 224.2, -0.3691, 0.1968, 0.00135, 0.00057,
              -0.0677).resized(464, 171)
RATIONAL = Brown(320, 240, 160.0, 161.0, 159.0, 122.0, 0.9, 0.3, 1e-3, -2e-3, 0.02, 1.2, 0.6, 0.1)
FISHEYE = Fisheye(640, 640, 190.0, 188.0, 316.0, 322.0, 0.05, -0.01, 0.004, -0.0008)
MEI = Mei(400, 400, 2.21, 0.0168, 1.655, 4e-4, -7e-4, 381.5, 381.0, 204.0, 201.5)
LENSES = [KITTI, RATIONAL, FISHEYE, MEI]
CAMERAS = [PINHOLE, PANORAMA, *LENSES]


def name_of(value):
    return type(value).__name__


def few(low, high):
    return st.floats(low, high)


brown = st.builds(
    Brown, st.just(640), st.just(480), few(150, 900), few(150, 900), few(250, 390), few(180, 300),
    few(-.6, .6), few(-.4, .4), few(-.01, .01), few(-.01, .01), few(-.2, .2), few(-.3, .6),
    few(-.2, .3), few(-.1, .1))
fisheye = st.builds(
    Fisheye, st.just(640), st.just(480), few(80, 400), few(80, 400), few(250, 390),
    few(180, 300), few(-.3, .3), few(-.1, .1), few(-.05, .05), few(-.02, .02))
mei = st.builds(
    Mei, st.just(640), st.just(480), few(0.0, 3.0), few(-.5, .5), few(-2.0, 2.0), few(-.005, .005),
    few(-.005, .005), few(200, 1500), few(200, 1500), few(250, 390), few(180, 300))
panorama = st.builds(Panorama, st.integers(8, 999), st.integers(8, 999), few(1, 90), few(-90, 0))


# Both ways.

@settings(max_examples=60, deadline=None)
@given(st.one_of(brown, fisheye, mei, panorama))
def test_any_direction_that_has_a_pixel_is_that_pixels_ray(camera):
    """Where a lens folds back, a pixel has two directions: of those one must have none."""
    uv, inside = camera.project(DIRECTIONS * 7.0)
    known = np.isfinite(uv).all(1)
    back = camera.rays(uv[known])
    # At the very edge of the valid part the inverse has no slope.
    assert np.isfinite(back).all(1).mean() > 0.99
    good = np.isfinite(back).all(1)
    assert np.abs(back - DIRECTIONS[known])[good].max(initial=0.0) < 1e-6
    assert not inside[~known].any()


@settings(max_examples=40, deadline=None)
@given(st.one_of(brown, fisheye, mei, panorama))
def test_any_pixel_that_has_a_ray_is_where_it_goes(camera):
    pixels = RNG.uniform(-0.4, [camera.width - 0.6, camera.height - 0.6], (500, 2))
    rays = camera.rays(pixels)
    known = np.isfinite(rays).all(1)
    assert np.allclose(np.linalg.norm(rays[known], axis=1), 1.0)
    back, inside = camera.project(rays[known] * 3.0)
    good = np.isfinite(back).all(1)
    assert good.mean() > 0.99 and inside[good].all()
    assert np.abs(back - pixels[known])[good].max(initial=0.0) < 1e-6


@pytest.mark.parametrize('camera', CAMERAS, ids=name_of)
def test_a_usual_camera_sees_all_of_its_image(camera):
    pixels, inside = camera.project(camera.rays())
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    seen = np.isfinite(pixels).all(1)
    assert seen.mean() > (0.8 if isinstance(camera, Mei | Fisheye) else 0.999)
    assert inside[seen].all()
    np.testing.assert_allclose(pixels[seen], np.stack([u.ravel(), v.ravel()], 1)[seen], atol=1e-6)


# Independent formulas.

@pytest.mark.parametrize('camera', [KITTI, RATIONAL], ids=['plumb_bob', 'rational'])
def test_brown_is_opencvs_model(camera):
    points = DIRECTIONS[DIRECTIONS[:, 2] > 0.75]
    k = [camera.k1, camera.k2, camera.p1, camera.p2, camera.k3, camera.k4, camera.k5, camera.k6]
    K = Pinhole(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy).K
    expected, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K,
                                    np.array(k if any(k[5:]) else k[:5]))
    found, inside = camera.project(points)
    known = np.isfinite(found).all(1)
    assert known.sum() > 150 and inside.sum() > 60
    np.testing.assert_allclose(found[known], expected[known, 0], atol=1e-8)
    bent = camera.project(points)[0][inside]
    straight = Pinhole(camera.width, camera.height, camera.fx, camera.fy, camera.cx,
                       camera.cy).project(points)[0][inside]
    assert np.abs(bent - straight).max() > 20.0


def test_fisheye_is_opencvs_model():
    points = DIRECTIONS[DIRECTIONS[:, 2] > 0.05]
    k = np.array([FISHEYE.k1, FISHEYE.k2, FISHEYE.k3, FISHEYE.k4])
    K = Pinhole(640, 640, FISHEYE.fx, FISHEYE.fy, FISHEYE.cx, FISHEYE.cy).K
    expected, _ = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, k)
    np.testing.assert_allclose(FISHEYE.project(points)[0], expected[:, 0], atol=1e-8)
    # OpenCV's ends at 90 degrees; the polynomial goes on.
    t = 1.9
    r = t + 0.05 * t ** 3 - 0.01 * t ** 5 + 0.004 * t ** 7 - 0.0008 * t ** 9
    found = FISHEYE.project([[0.0, math.sin(t), math.cos(t)]])[0][0]
    np.testing.assert_allclose(found, [316.0, 322.0 + 188.0 * r], atol=1e-9)


def test_mei_is_the_papers_model():
    """C. Mei and P. Rives 2007, equations 1 to 4, point by point."""
    m = MEI
    found = m.project(DIRECTIONS * 4.0)[0]
    count = 0
    for (x, y, z), uv in zip(DIRECTIONS.tolist(), found, strict=True):
        if z < -1.0 / m.xi + 0.01:
            assert np.isnan(uv).all() or z > -1.0 / m.xi
            continue
        mx, my = x / (z + m.xi), y / (z + m.xi)
        rho2 = mx * mx + my * my
        radial = 1.0 + m.k1 * rho2 + m.k2 * rho2 * rho2
        dx = mx * radial + 2.0 * m.p1 * mx * my + m.p2 * (rho2 + 2.0 * mx * mx)
        dy = my * radial + m.p1 * (rho2 + 2.0 * my * my) + 2.0 * m.p2 * mx * my
        assert uv[0] == pytest.approx(m.gamma1 * dx + m.u0, abs=1e-9)
        assert uv[1] == pytest.approx(m.gamma2 * dy + m.v0, abs=1e-9)
        count += 1
    assert count > 1200


# Where a model ends.

def test_brown_ends_where_its_radius_turns_back():
    camera = Brown(640, 480, 300.0, 300.0, 320.0, 240.0, -0.3, 0.0, 0.0, 0.0)
    edge = 1.0 / math.sqrt(0.9)  # of r - 0.3 r^3
    points = [[edge * 0.99, 0.0, 1.0], [edge * 1.01, 0.0, 1.0], [1.8, 0.0, 1.0], [0.1, 0.0, -1.0],
              [0.0, 0.0, 0.0]]
    pixels, inside = camera.project(points)
    assert inside.tolist() == [True, False, False, False, False]
    assert np.isnan(pixels[1:]).all()
    # 1.8 would come to 1.8 - 0.3 * 5.832 = 0.05: right in the middle of the image.
    assert np.isnan(camera.rays([[320.0 + 300.0 * 0.72, 240.0]])).all()


def test_fisheye_and_mei_end_where_they_fold():
    lens = Fisheye(640, 480, 200.0, 200.0, 320.0, 240.0, -0.1, 0.0, 0.0, 0.0)
    edge = math.sqrt(1.0 / 0.3)  # of t - 0.1 t^3
    for camera, angle in ((lens, edge), (MEI, math.acos(-1.0 / MEI.xi))):
        t = np.array([angle - 0.01, angle + 0.01, math.pi])
        pixels, _ = camera.project(np.stack([0 * t, np.sin(t), np.cos(t)], 1))
        assert np.isfinite(pixels[0]).all() and np.isnan(pixels[1:]).all()
    assert np.isnan(MEI.project(np.zeros((1, 3)))[0]).all()
    assert np.isnan(lens.project(np.zeros((1, 3)))[0]).all()
    np.testing.assert_allclose(lens.project([[0.0, 0.0, 2.0]])[0], [[320.0, 240.0]])


@pytest.mark.parametrize('wrong', [
    lambda: Brown(640, 480, 0.0, 300.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0),
    lambda: Fisheye(640, 480, 200.0, 200.0, 320.0, 240.0, math.nan, 0.0, 0.0, 0.0),
    lambda: Mei(640, 480, -1.0, 0.0, 0.0, 0.0, 0.0, 300.0, 300.0, 320.0, 240.0),
    lambda: Panorama(512, 256, 91.0, -90.0), lambda: Panorama(512, 256, -10.0, 10.0),
    lambda: Panorama(0, 256, 90.0, -90.0)])
def test_a_camera_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError):
        wrong()


# Views.

@pytest.mark.parametrize('camera', CAMERAS, ids=name_of)
def test_resized_keeps_the_view(camera):
    small = camera.resized(camera.width // 3, camera.height // 2)
    inner = RNG.uniform([camera.width * 0.2, camera.height * 0.2],
                        [camera.width * 0.8, camera.height * 0.8], (100, 2))
    scale = np.array([small.width / camera.width, small.height / camera.height])
    np.testing.assert_allclose(small.rays((inner + 0.5) * scale - 0.5), camera.rays(inner),
                               atol=1e-9)
    assert small.horizontal_fov == pytest.approx(camera.horizontal_fov, abs=0.02)


def test_widths_in_degrees():
    plain = Fisheye(640, 480, 200.0, 200.0, 319.5, 239.5, 0.0, 0.0, 0.0, 0.0)
    assert plain.horizontal_fov == pytest.approx(640 / 200)
    assert plain.pixel_angle == pytest.approx(1 / 200, rel=1e-4)
    assert PANORAMA.horizontal_fov == pytest.approx(2 * math.pi)
    same = Brown(320, 96, 125.6, 125.6, 159.5, 47.5, 0.0, 0.0, 0.0, 0.0)
    assert same.horizontal_fov == pytest.approx(PINHOLE.horizontal_fov)
    assert same.pixel_angle == pytest.approx(PINHOLE.pixel_angle, rel=1e-3)


def test_a_panorama_goes_round_from_behind_by_the_left():
    camera = Panorama(400, 100, 45.0, -45.0)
    points = [[0, 0, 5], [-5, 0, 0], [5, 0, 0], [-1e-9, 0, -5], [1e-9, 0, -5], [0, -5, 5],
              [0, 4.99, 5], [0, -5.01, 5], [0, 5, 0]]
    pixels, inside = camera.project(points)
    np.testing.assert_allclose(pixels[:3], [[199.5, 49.5], [99.5, 49.5], [299.5, 49.5]])
    assert pixels[3, 0] == pytest.approx(-0.5) and pixels[4, 0] == pytest.approx(399.5)
    assert pixels[5, 1] == pytest.approx(-0.5)
    assert inside.tolist() == [True] * 3 + [True] * 2 + [True, True, False, False]
    assert np.isnan(camera.project(np.zeros((1, 3)))[0]).all()
    assert camera.project([[0.0, 0.0, -1.0], [-0.0, 0.0, -1.0]])[1].all()
    np.testing.assert_allclose(camera.rays([[0, 0], [400, 0]])[0], camera.rays([[400, 0]])[0])
    assert np.isnan(Panorama(8, 8, 90.0, -90.0).rays([[0.0, -0.6], [0.0, 7.6]])).all()


def test_an_old_configuration_still_means_a_pinhole():
    union = TypeAdapter(Pinhole | Panorama | None)
    old = {'width': 320, 'height': 96, 'fx': 125.6, 'fy': 125.6, 'cx': 159.5, 'cy': 47.5}
    assert union.validate_python(old) == PINHOLE
    assert union.validate_json(union.dump_json(PANORAMA)) == PANORAMA
    assert union.validate_json(union.dump_json(PINHOLE)) == PINHOLE
    with pytest.raises(ValidationError):
        union.validate_python({'width': 320, 'height': 96})


# Files.

@pytest.mark.parametrize('camera', [MEI, PANORAMA], ids=name_of)
def test_cameras_as_files(tmp_path, camera):
    (tmp_path / 'a.yaml').write_text(lens_text(camera, 'image_02'))
    assert read_lens(tmp_path / 'a.yaml') == camera


@pytest.mark.parametrize(('text', 'wrong'), [
    ('%YAML:1.0\nmodel_type: PINHOLE\n', 'PINHOLE'), ('a: [', 'not the YAML'), ('', 'None'),
    (lens_text(MEI, 'x').replace('   xi', '   x'), 'xi'), ('- 1\n- 2\n', 'None'),
    (lens_text(MEI, 'x').replace('1.655', 'one'), 'one'),
    (lens_text(MEI, 'x').replace('400', '400.5', 1), '400.5'),
    (lens_text(PANORAMA, 'x').replace('5.0', '9.9', 1), 'degrees')])
def test_files_of_no_camera_are_refused(tmp_path, text, wrong):
    (tmp_path / 'a.yaml').write_text(text)
    with pytest.raises(InputError, match=r'a\.yaml') as raised:
        read_lens(tmp_path / 'a.yaml')
    assert wrong in str(raised.value) and '\n' not in str(raised.value)


@real_data
def test_kitti_360s_own_files():
    left, right = (read_lens(SHARED / f'kitti360/calibration/image_0{i}.yaml') for i in (2, 3))
    assert (left.width, left.height, left.xi) == (1400, 1400, 2.2134047507854890)
    assert (right.p2, right.v0) == (-7.0340482615055284e-04, 6.9814541887723055e+02)
    for camera in (left, right):
        seen = camera.project(DIRECTIONS[DIRECTIONS[:, 2] > 0.0])[1]
        assert seen.all()  # the whole half sphere
        assert 185.0 < math.degrees(camera.horizontal_fov) < 215.0


# As the image encoder takes them.

def photograph(camera):
    """Return a picture whose colours are the directions; grey where none comes to a pixel."""
    d = np.nan_to_num(camera.rays()).reshape(camera.height, camera.width, 3)
    return (128 + 100 * d).round().astype(np.uint8)


VIRTUAL = [Pinhole(208, 64, 83.75, 83.75, 103.5, 31.5), Panorama(192, 48, 40.0, -30.0)]


@pytest.mark.parametrize('virtual', VIRTUAL, ids=name_of)
@pytest.mark.parametrize('camera', CAMERAS, ids=name_of)
def test_a_direction_comes_to_one_pixel_whichever_camera_saw_it(camera, virtual):
    config = ImageConfig(height=virtual.height, width=virtual.width, camera=virtual)
    prepared = prepare_image(photograph(camera), camera, config)
    assert prepared.dtype == np.float32 and prepared.shape == (3, virtual.height, virtual.width)
    rays = virtual.rays()
    seen = camera.project(rays)[1].reshape(virtual.height, virtual.width)
    # A little inside the border, and of fisheyes inside the rim, where all is compressed.
    away = cv2.erode(seen.astype(np.uint8), np.ones((5, 5)), borderValue=1).astype(bool)
    if not isinstance(camera, Panorama):
        away &= rays[:, 2].reshape(away.shape) > -0.1
    expected = (128 + 100 * rays.T.reshape(prepared.shape)) / 127.5 - 1.0
    assert away.sum() > 600
    # A fifth of a pixel of the wider virtual camera is 0.65 of a grey level.
    np.testing.assert_allclose(prepared[:, away], expected[:, away], atol=1.2 / 127.5)
    if not (isinstance(camera, Pinhole) and isinstance(virtual, Pinhole)):
        assert (prepared[:, ~seen] == 0.0).all()


def test_a_panorama_of_the_virtual_panorama_is_kept_and_joins_behind():
    virtual = VIRTUAL[1]
    config = ImageConfig(height=48, width=192, camera=virtual)
    image = RNG.integers(0, 256, (48, 192, 3)).astype(np.uint8)
    prepared = prepare_image(image, virtual, config)
    np.testing.assert_allclose(prepared, image.transpose(2, 0, 1) / 127.5 - 1.0, atol=1e-5)
    # Twice as fine, the pixels beside the seam lie between the first column and the last one.
    ends = np.zeros((48, 192, 3), np.uint8)
    ends[:, 0] = 200
    fine = ImageConfig(height=96, width=384, camera=virtual.resized(384, 96))
    row = (prepare_image(ends, virtual, fine)[0, 40] + 1.0) * 127.5
    np.testing.assert_allclose(row[[0, 1, 2, -1, -2]], [150, 150, 50, 50, 0], atol=0.1)


@pytest.mark.parametrize('camera', [FISHEYE, MEI, KITTI], ids=name_of)
def test_fine_patterns_are_averaged_when_shrinking(camera):
    stripes = np.zeros((camera.height, camera.width, 3), np.uint8)
    stripes[:, ::2] = 255
    virtual = VIRTUAL[0].resized(52, 16)
    config = ImageConfig(height=16, width=52, camera=virtual)
    prepared = prepare_image(stripes, camera, config)
    seen = camera.project(virtual.rays())[1].reshape(16, 52)
    assert seen.sum() > 150
    assert np.abs(prepared[:, seen]).max() < 0.25
