"""Two fisheyes as one panorama: exact for what is far, and the same as one taken directly."""

import cv2
from helpers_drives import CAMERA, NAME, real_data, SHARED, START_NS, T_base_camera, T_base_lidar
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from saliency_i2ploc_ros.cli.show import draw, summary
from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.bags import write_bag
from saliency_i2ploc_ros.data.camera_files import read_lens
from saliency_i2ploc_ros.data.city.generate import (
    city_cameras,
    city_panorama,
    generate_city,
    IMAGE_SIZES,
)
from saliency_i2ploc_ros.data.city.render import render
from saliency_i2ploc_ros.data.city.traversal import make_traversal
from saliency_i2ploc_ros.data.city.world import City
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Panorama
from saliency_i2ploc_ros.geometry.lenses import Mei
from saliency_i2ploc_ros.geometry.panorama import panorama_mount, stitch
from saliency_i2ploc_ros.geometry.poses import apply, inverse, planar, R_base_optical, transform

# Lenses like KITTI-360's, not quite level and not quite at right angles to the way.
LEFT = Mei(350, 350, 2.21, 0.0168, 1.655, 4e-4, 4e-4, 334.0, 333.9, 179.0, 176.2)
RIGHT = Mei(350, 350, 2.55, 0.0494, 4.507, 1.3e-3, -7e-4, 371.2, 371.1, 174.6, 174.4)
LENSES = [LEFT, RIGHT]
MOUNTS = np.stack([
    planar(0.7, side * 0.45, side * np.pi / 2, 1.95)
    @ transform(Rotation.from_euler('xyz', turn, degrees=True).as_matrix())
    @ transform(R_base_optical)
    for side, turn in ((1, (0.6, -0.4, 1.8)), (-1, (-0.2, 0.5, -1.4)))])
WHOLE = Panorama(512, 256, 90.0, -90.0)


def dot(size, at):
    """Return a black image with a soft white dot."""
    v, u = np.mgrid[:size[1], :size[0]]
    spot = 255.0 * np.exp(-((u - at[0]) ** 2 + (v - at[1]) ** 2) / 8.0)
    return np.repeat(spot[:, :, None], 3, 2).round().astype(np.uint8)


def centre_of(image, near):
    """Return where the light of a panorama is, (u, v) about a pixel, and how much there is."""
    weight = image[:, :, 0].astype(float)
    height, width = weight.shape
    v, u = np.mgrid[:height, :width]
    u = (u - near[0] + width / 2) % width - width / 2 + near[0]  # it may lie across the seam
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum(), weight.sum()


def places_far_away():
    """Return points 10 km away in base_link: round about, and where the images meet."""
    azimuth = np.radians([-150, -100, -60, -30, -2, 0, 1.5, 20, 45, 89, 130, 178.5, -178.8])
    elevation = np.radians([10, -25, 40, 0, -12, 5, 20, -40, 55, 0, -5, 8, -8])
    return 1e4 * np.stack([np.cos(elevation) * np.cos(azimuth),
                           np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], 1)


def test_far_points_come_to_where_the_panorama_sees_them():
    mount = panorama_mount(MOUNTS)
    blended = 0
    for place in places_far_away():
        images, seen = [], 0
        for camera, T in zip(LENSES, MOUNTS, strict=True):
            uv, inside = camera.project(apply(inverse(T), place[None]))
            images.append(dot((350, 350), uv[0] if inside[0] else (-99, -99)))
            seen += inside[0]
        blended += seen == 2
        expected = WHOLE.project(apply(inverse(mount), place[None]))[0][0]
        found, light = centre_of(stitch(images, LENSES, MOUNTS, WHOLE), expected)
        # A pixel of the panorama is 0.7 degrees; the dot's rounding moves its centre a little.
        assert np.linalg.norm(found - expected) < 0.15, place
        assert light > 500.0
    assert blended >= 4


def test_points_of_the_panorama_come_from_where_the_fisheyes_see_them():
    """The other way: light everything but one direction of the panorama's own rays."""
    mount = panorama_mount(MOUNTS)
    for pixel in ([100.0, 120.0], [256.0, 128.0], [400.0, 60.0], [3.0, 140.0]):
        ray = mount[:3, :3] @ WHOLE.rays([pixel])[0]
        images = [255 - dot((350, 350), np.nan_to_num(
            camera.project((T[:3, :3].T @ ray)[None])[0][0], nan=-99.0))
            for camera, T in zip(LENSES, MOUNTS, strict=True)]
        found, _ = centre_of(255 - stitch(images, LENSES, MOUNTS, WHOLE), pixel)
        np.testing.assert_allclose(found, pixel, atol=0.15)


def test_near_points_are_displaced_by_no_more_than_is_stated():
    mount = panorama_mount(MOUNTS)
    place = np.array([[10.7, 0.5, 1.0]])  # 10 m ahead, a little to the left
    images = [dot((350, 350), camera.project(apply(inverse(T), place))[0][0])
              for camera, T in zip(LENSES, MOUNTS, strict=True)]
    expected = WHOLE.project(apply(inverse(mount), place))[0][0]
    found, _ = centre_of(stitch(images, LENSES, MOUNTS, WHOLE), expected)
    shift = np.linalg.norm(found - expected)
    assert 1.0 < shift < np.degrees(0.45 / 10.0) / 360 * 512 + 0.2


def test_all_directions_are_covered_and_even_light_stays_even():
    white = [np.full((350, 350, 3), 200, np.uint8)] * 2
    assert (stitch(white, LENSES, MOUNTS, WHOLE) == 200).all()
    left = stitch([white[0], np.zeros((350, 350, 3), np.uint8)], LENSES, MOUNTS, WHOLE)[:, :, 0]
    row = left[128].astype(int)
    assert (row[20:245] == 200).all() and (row[270:490] == 0).all()
    # Ahead and behind it fades over 6 degrees, 8.5 columns each.
    assert 13 <= ((row > 0) & (row < 200)).sum() <= 19
    assert np.abs(np.diff(row)).max() < 60


def test_what_no_camera_sees_is_black():
    narrow = Mei(100, 100, 2.21, 0.0, 0.0, 0.0, 0.0, 334.0, 333.9, 50.0, 50.0)
    image = np.full((100, 100, 3), 200, np.uint8)
    out = stitch([image], [narrow], MOUNTS[:1], WHOLE)
    assert (out[128, 128] == 200).all()  # to the left
    assert (out[128, 384] == 0).all() and (out[5] == 0).all()


# Drives.

def write_fisheyes(root, frames=4):
    rng = np.random.default_rng(0)
    kitti360.write_calibration(root, CAMERA, T_base_camera, T_base_lidar, {
        name: (lens, T) for name, lens, T in zip(kitti360.FISHEYES, LENSES, MOUNTS, strict=True)})
    images = rng.integers(0, 256, (frames, 2, 350, 350, 3), np.uint8)
    stamps = START_NS + np.arange(frames) * 10 ** 8
    with kitti360.DriveWriter(root, NAME) as writer:
        for i in range(frames):
            for k, name in enumerate(kitti360.FISHEYES):
                writer.image(i, images[i, k], name)
        writer.finish(stamps, stamps, np.arange(frames),
                      np.stack([planar(i, 0, 0) for i in range(frames)]))
    return images


def test_a_drive_with_two_fisheyes_has_a_panorama(tmp_path):
    images = write_fisheyes(tmp_path)
    folder = tmp_path / 'data_2d_raw' / NAME
    (folder / 'image_03' / 'data_rgb' / '0000000001.png').unlink()
    drive = open_drive(tmp_path)
    assert list(drive.cameras) == ['panorama', 'image_02', 'image_03']
    stream = drive.cameras['panorama']
    assert drive.camera_named() == 'panorama' and isinstance(stream.camera, Panorama)
    assert stream.ids.tolist() == [0, 2, 3] and len(drive.cameras['image_02']) == 4
    assert np.array_equal(stream.stamps_ns, START_NS + np.array([0, 2, 3]) * 10 ** 8)
    assert stream.T_map_base[:, 0, 3].tolist() == [0.0, 2.0, 3.0]
    left = drive.cameras['image_02']
    assert left.camera == LEFT and drive.cameras['image_03'].camera == RIGHT
    assert np.allclose(left.T_base_sensor, MOUNTS[0], atol=1e-9)
    # An optical frame that looks ahead, level, between the two.
    assert np.allclose(stream.T_base_sensor, transform(R_base_optical, [0.7, 0.0, 1.95]),
                       atol=1e-9)
    made = drive.image('panorama', 1)
    assert made.shape == (stream.camera.height, stream.camera.width, 3)
    assert np.array_equal(made, stitch(images[2], LENSES, MOUNTS, stream.camera))
    # Its pixels are about as wide as the fisheyes' own.
    assert 0.8 < stream.camera.pixel_angle / LEFT.pixel_angle < 1.25


def test_the_key_of_stitched_frames_sees_all_that_makes_them(tmp_path):
    write_fisheyes(tmp_path, 2)

    def key():
        return open_drive(tmp_path).cameras['panorama'].key([0])

    before = key()
    assert before == key()
    lens = tmp_path / 'calibration' / 'image_03.yaml'
    image = tmp_path / 'data_2d_raw' / NAME / 'image_03' / 'data_rgb' / '0000000000.png'
    pose = tmp_path / 'calibration' / 'calib_cam_to_pose.txt'
    for path, old, new in ((lens, b'k2: 4', b'k2: 5'), (image, b'IEND', b'IEND '),
                           (pose, b'image_03: -0.999', b'image_03: -0.998')):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(old, new))
        assert path.read_bytes() != kept
        assert key() != before, path
        path.write_bytes(kept)


def test_one_fisheye_alone_makes_no_panorama(tmp_path):
    write_fisheyes(tmp_path, 2)
    (tmp_path / 'data_2d_raw' / NAME / 'image_02').rename(tmp_path / 'away')
    assert list(open_drive(tmp_path).cameras) == ['image_03']


def test_fisheyes_that_cannot_be_used_are_told(tmp_path):
    write_fisheyes(tmp_path, 2)
    image = tmp_path / 'data_2d_raw' / NAME / 'image_03' / 'data_rgb' / '0000000000.png'
    cv2.imwrite(str(image), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(InputError, match='10 x 10, but the calibration is of 350 x 350'):
        open_drive(tmp_path).image('panorama', 0)
    with pytest.raises(InputError, match='CameraInfo cannot describe the camera panorama'):
        write_bag(open_drive(tmp_path), tmp_path / 'bag', cameras=['panorama'])
    (tmp_path / 'calibration' / 'image_03.yaml').unlink()
    with pytest.raises(InputError, match=r'image_03\.yaml'):
        open_drive(tmp_path)


@real_data
def test_kitti_360s_fisheyes_look_left_and_right_and_cover_the_sphere():
    folder = SHARED / 'kitti360' / 'calibration'
    cameras, mounts = zip(*(kitti360.read_camera(folder, name) for name in kitti360.FISHEYES),
                          strict=True)
    assert cameras[0] == read_lens(folder / 'image_02.yaml')
    assert mounts[0][1, 2] > 0.998 and mounts[1][1, 2] < -0.998  # their z axes, in base_link
    assert mounts[0][2, 1] < -0.998 and mounts[1][2, 1] < -0.998  # their y axes point down
    mount = panorama_mount(mounts)
    # On the roof between the two, which stand 0.9 m apart.
    assert np.allclose(mount[:3, 3], [0.71, -0.30, 1.07], atol=0.02)
    assert np.linalg.norm(mounts[0][:3, 3] - mounts[1][:3, 3]) == pytest.approx(0.897, abs=0.005)
    small = [camera.resized(140, 140) for camera in cameras]
    white = np.full((140, 140, 3), 255, np.uint8)
    assert (stitch([white, white], small, mounts, Panorama(128, 64, 90.0, -90.0)) == 255).all()


# The city.

@pytest.fixture(scope='module')
def trip():
    return make_traversal(City(3, 2), 0, 160.0, weather='overcast')


def shoot(trip, frame, camera, T):
    return render(trip.scene(frame), trip.T_map_base[frame] @ T, camera, trip.weather,
                  trip.city.styles, np.random.default_rng(frame))


@pytest.mark.parametrize('apart', [True, False])
def test_stitched_fisheyes_are_the_panorama_rendered_directly(trip, apart):
    fisheyes = city_cameras('fisheye', (200, 200))
    direct = city_panorama((64, 256))
    T = city_cameras('panorama', (64, 256))['panorama'][1]
    mounts = [M if apart else transform(M[:3, :3], T[:3, 3]) for _, M in fisheyes.values()]
    cameras = [camera for camera, _ in fisheyes.values()]
    shots = [shoot(trip, 60, camera, M).rgb for camera, M in zip(cameras, mounts, strict=True)]
    ours = stitch(shots, cameras, mounts, direct).astype(int)
    truth = shoot(trip, 60, direct, T)
    # Where the fisheyes stand apart, only what is far is alike; the sky is alike everywhere.
    compared = np.isfinite(truth.depth) & (truth.depth > (30.0 if apart else 0.0))
    assert compared.sum() > 500

    def difference(right, down):
        moved = np.roll(ours, (down, right), (0, 1))
        return np.abs(moved - truth.rgb).mean(2)[compared].mean()

    beside = [difference(*d) for d in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    assert difference(0, 0) < 0.85 * min(beside)
    assert np.median(np.abs(ours - truth.rgb).mean(2)[compared]) < 12.0


def test_a_fisheyes_depth_is_along_its_rays(trip):
    """Round the fisheye and the panorama from one place: the same things at the same range."""
    camera, T = city_cameras('fisheye', (120, 120))['image_02']
    other = city_panorama((120, 480))
    a, b = (shoot(trip, 30, c, M) for c, M in (
        (camera, T), (other, transform(R_base_optical, T[:3, 3]))))
    rays = camera.rays()
    known = np.isfinite(rays).all(1)
    uv, inside = other.project(rays[known] @ (R_base_optical.T @ T[:3, :3]).T)
    u, v = np.round(uv[inside]).astype(int).T
    seen, there = a.depth.ravel()[known][inside], b.depth[v, u % 480]
    both = np.isfinite(seen) & np.isfinite(there)
    assert both.sum() > 2000
    assert np.median(np.abs(seen[both] - there[both]) / there[both]) < 0.02
    outside = ~known.reshape(120, 120)
    assert outside.sum() > 500
    assert (a.rgb[outside] == 0).all() and (a.labels[outside] == 0).all()
    assert np.isinf(a.depth[outside]).all()


@pytest.mark.parametrize('kind', ['fisheye', 'panorama'])
def test_the_city_writes_them_and_the_reader_reads_them(tmp_path, kind):
    root = tmp_path / 'city'
    options = {'traversals': 1, 'length_m': 16.0, 'blocks': 2, 'image_size': (32, 32 if
               kind == 'fisheye' else 128), 'camera': kind, 'depth': True, 'semantics': True}
    generate_city(root, 5, **options)
    drive = open_drive(root)
    for name, (camera, T) in city_cameras(kind, options['image_size']).items():
        stream = drive.cameras[name]
        assert stream.camera == camera and len(stream) == 5
        assert np.allclose(stream.T_base_sensor, T, atol=1e-9)
        assert drive.image(name, 2).shape == (camera.height, camera.width, 3)
        folder = root / 'data_2d_semantics' / 'train' / drive.name / name / 'semantic'
        assert len(list(folder.iterdir())) == 5
    assert drive.camera_named() == 'panorama' and drive.lidar.has_pose.all()
    assert f'{"panorama" if kind == "panorama" else "image_02"}: 5 images' in summary(drive)
    draw(drive, name, 2, tmp_path / 'a.png')
    assert cv2.imread(str(tmp_path / 'a.png')).shape[1] == 1400
    assert np.allclose(drive.cameras['panorama'].T_base_sensor,
                       transform(R_base_optical, [0.7, 0.0, 1.95]), atol=1e-9)
    with pytest.raises(InputError, match='other parameters'):
        generate_city(root, 5, **{**options, 'camera': 'perspective'})


def test_kinds_of_camera_are_checked(tmp_path):
    with pytest.raises(InputError, match='perspective, fisheye, panorama'):
        generate_city(tmp_path / 'city', 0, camera='sonar')
    assert set(IMAGE_SIZES) == {'perspective', 'fisheye', 'panorama'}
