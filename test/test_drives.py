"""Readers of drives: round trips and irregular data."""

import cv2
from helpers_drives import (
    CAMERA,
    NAME,
    START_NS,
    T_base_camera,
    T_base_lidar,
    write_drive,
)
import numpy as np
import pytest

from saliency_i2ploc_ros.cli.show import draw, points_in_camera, summary
from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.drive import Scan
from saliency_i2ploc_ros.data.kitti_files import (
    format_stamps,
    NO_STAMP,
    read_stamps,
    read_velodyne,
)
from saliency_i2ploc_ros.data.kitti_raw import poses_of_packets
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.data.trajectories import read_trajectory, write_tum
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import (
    apply,
    inverse,
    planar,
    R_base_optical,
    transform,
)


@pytest.mark.parametrize('labels', [False, True])
def test_kitti360_round_trip(tmp_path, labels):
    truth = write_drive(tmp_path, labels=labels)
    drive = open_drive(tmp_path)
    stream = drive.cameras['image_00']
    assert drive.name == NAME and stream.camera == CAMERA
    assert stream.ids.tolist() == drive.lidar.ids.tolist() == [0, 1, 2, 3]
    assert np.array_equal(stream.stamps_ns, truth['stamps'])
    assert np.array_equal(drive.lidar.stamps_ns, truth['stamps'] + 187_983)
    for poses in (stream.T_map_base, drive.lidar.T_map_base, drive.trajectory.T_map_base):
        assert np.allclose(poses, truth['poses'], atol=1e-9)
    assert np.allclose(stream.T_base_sensor, T_base_camera, atol=1e-9)
    assert np.allclose(drive.lidar.T_base_sensor, T_base_lidar, atol=1e-9)
    for i in range(4):
        assert np.array_equal(drive.image('image_00', i), truth['images'][i])
        scan, written = drive.scan(i), truth['scans'][i]
        assert np.array_equal(scan.points, written.points)
        assert np.array_equal(scan.intensity, written.intensity)
        assert scan.labels is None if not labels else np.array_equal(scan.labels, written.labels)


def test_files_are_of_the_imu_and_the_camera(tmp_path):
    truth = write_drive(tmp_path)
    folder = tmp_path / 'data_poses' / NAME
    poses = np.loadtxt(folder / 'poses.txt')
    assert poses[1, 0] == 1 and poses[1, 11] == -1.0  # the IMU's z points down
    camera = np.loadtxt(folder / 'cam0_to_world.txt')[1, 1:].reshape(4, 4)
    assert np.allclose(camera, truth['poses'][1] @ T_base_camera, atol=1e-9)


def test_depth_and_semantics_are_written_as_kitti_has_them(tmp_path):
    kitti360.write_calibration(tmp_path, CAMERA, T_base_camera, T_base_lidar)
    depth = np.full((24, 64), np.inf, np.float32)
    depth[0, :4] = [1.0, 10.5, 255.9, 300.0]
    with kitti360.DriveWriter(tmp_path, NAME) as writer:
        writer.depth(7, depth)
        writer.semantics(7, np.full((24, 64), 26, np.uint8))
        writer.finish(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64),
                      np.zeros((0, 4, 4)))
    read = cv2.imread(str(tmp_path / 'data_2d_depth' / NAME / 'image_00' / '0000000007.png'), -1)
    assert read.dtype == np.uint16
    assert read[0, :5].tolist() == [256, 2688, 65510, 0, 0]
    read = cv2.imread(str(tmp_path / 'data_2d_semantics' / 'train' / NAME / 'image_00'
                          / 'semantic' / '0000000007.png'), -1)
    assert (read == 26).all()


def test_a_drive_that_is_not_finished_is_not_there(tmp_path):
    write_drive(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(ZeroDivisionError), \
            kitti360.DriveWriter(tmp_path, 'city_0042_drive_0001_sync') as writer:
        writer.image(0, np.zeros((24, 64, 3), np.uint8))
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob('*')) == before
    with pytest.raises(InputError, match='exists already'):
        kitti360.DriveWriter(tmp_path, NAME)


def test_stamps_keep_their_nanoseconds(tmp_path):
    stamps = np.array([1369730762904483072, 1, NO_STAMP, 1369730762904483073])
    (tmp_path / 't.txt').write_text(format_stamps(stamps))
    assert np.array_equal(read_stamps(tmp_path / 't.txt'), stamps)
    (tmp_path / 't.txt').write_text('2013-05-28 08:46:02.9044 \n \n2013-05-28 08:46:03')
    assert read_stamps(tmp_path / 't.txt').tolist() == [
        1369730762904400000, NO_STAMP, 1369730763000000000]


def test_tum_round_trip(tmp_path):
    poses = np.stack([planar(4e6 + i, -1.0, 0.4 * i) for i in range(5)])
    stamps = START_NS + np.array([0, 1, 2, 10**9, 3 * 10**9])
    write_tum(tmp_path / 'a.tum', stamps, poses)
    read = read_trajectory(tmp_path / 'a.tum')
    assert np.array_equal(read.stamps_ns, stamps) and not read.nominal_stamps
    assert np.allclose(read.T_map_base, poses, atol=1e-8)


def test_kitti_trajectory(tmp_path):
    poses = np.stack([planar(i, -1.0, 0.4 * i) for i in range(5)])
    np.savetxt(tmp_path / 'a.txt', poses[:, :3].reshape(5, 12))
    read = read_trajectory(tmp_path / 'a.txt')
    assert read.nominal_stamps and read.stamps_ns[3] == 300_000_000
    assert np.allclose(read.T_map_base, poses)


@pytest.mark.parametrize('text', [
    '', '1 2 3\n', '1 0 0 0 0 0 0 0\n', '1 0 0 nan 0 0 0 1\n', 'a b c d e f g h\n',
    '2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n', '1 0 0 0 0 0 0 1\n1 0 0 0 1 0 0 0 0 1 0 0\n',
    '1e300 0 0 0 0 0 0 1\n', '1 0 0 0 0 1 0 0 0 0 2 0\n'])
def test_bad_trajectories_are_refused(tmp_path, text):
    (tmp_path / 'a.txt').write_text(text)
    with pytest.raises(InputError, match=r'a\.txt'):
        read_trajectory(tmp_path / 'a.txt')


# Irregular data.

def test_holes_are_ordinary(tmp_path):
    truth = write_drive(tmp_path, 8)
    images = tmp_path / 'data_2d_raw' / NAME / 'image_00'
    scans = tmp_path / 'data_3d_raw' / NAME / 'velodyne_points'
    (images / 'data_rect' / '0000000002.png').unlink()
    (scans / 'data' / '0000000003.bin').unlink()
    lines = (scans / 'timestamps.txt').read_text().splitlines()
    lines[3] = ''  # as where a scan was not recorded
    (scans / 'timestamps.txt').write_text('\n'.join(line + ' ' for line in lines))
    poses = tmp_path / 'data_poses' / NAME / 'poses.txt'
    rows = poses.read_text().splitlines()
    poses.write_text(' \n'.join(rows[1:4] + rows[6:]) + '\n\n')

    drive = open_drive(tmp_path)
    stream = drive.cameras['image_00']
    assert stream.ids.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert stream.has_pose.tolist() == [False, True, True, False, False, True, True]
    assert drive.lidar.ids.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(drive.lidar.stamps_ns, np.delete(truth['stamps'], 3) + 187_983)
    assert np.array_equal(drive.trajectory.stamps_ns, truth['stamps'][[1, 2, 3, 6, 7]])
    assert np.allclose(stream.T_map_base[2], truth['poses'][3])
    assert not drive.trajectory.nominal_stamps
    assert 'with a pose' in summary(drive)


def test_missing_folders_are_ordinary(tmp_path):
    write_drive(tmp_path, 3)
    (tmp_path / 'data_poses').rename(tmp_path / 'away')
    drive = open_drive(tmp_path)
    assert len(drive.trajectory) == 0 and not drive.cameras['image_00'].has_pose.any()
    (tmp_path / 'away').rename(tmp_path / 'data_poses')
    (tmp_path / 'data_2d_raw').rename(tmp_path / 'away')
    drive = open_drive(tmp_path)
    assert not drive.cameras and drive.lidar.has_pose.all() and len(drive.trajectory) == 3
    with pytest.raises(InputError, match='no camera images'):
        draw(drive, None, None, tmp_path / 'a.png')
    (tmp_path / 'data_3d_raw').rename(tmp_path / 'away_too')
    drive = open_drive(tmp_path)
    assert drive.lidar is None and drive.trajectory.nominal_stamps
    assert drive.trajectory.stamps_ns.tolist() == [0, 100_000_000, 200_000_000]
    with pytest.raises(InputError, match='no LiDAR'):
        drive.scan(0)


def test_one_of_several_drives_is_named(tmp_path):
    write_drive(tmp_path, 1)
    write_drive(tmp_path, 2, 'city_0042_drive_0001_sync')
    assert len(open_drive(tmp_path, '0001').lidar) == 2
    with pytest.raises(InputError, match='name one of them: city_0042_drive_0000_sync'):
        open_drive(tmp_path)
    with pytest.raises(InputError, match="no drive '0009'"):
        open_drive(tmp_path, '0009')


def test_damage_is_told_in_a_sentence(tmp_path):
    write_drive(tmp_path)
    drive = open_drive(tmp_path)
    scan, image = drive.lidar.paths[0], drive.cameras['image_00'].paths[0]
    with pytest.raises(InputError, match='not a folder'):
        open_drive(tmp_path / 'nothing')
    with pytest.raises(InputError, match='no known data set'):
        open_drive(tmp_path / 'calibration')
    scan.write_bytes(scan.read_bytes()[:-5])
    with pytest.raises(InputError, match='no multiple of 16'):
        drive.scan(0)
    scan.unlink()
    with pytest.raises(InputError, match='cannot read'):
        drive.scan(0)
    for damage in (image.read_bytes()[:20], b''):
        image.write_bytes(damage)
        with pytest.raises(InputError, match='not a readable image'):
            drive.image('image_00', 0)
    for part, text in (('calibration/perspective.txt', 'S_rect_00: 64'),
                       ('calibration/calib_cam_to_velo.txt', '1 2 3'),
                       (f'data_poses/{NAME}/poses.txt', '0 1 2 3'),
                       (f'data_poses/{NAME}/poses.txt', '0 ' + '2 ' * 12),
                       (f'data_2d_raw/{NAME}/image_00/timestamps.txt', 'yesterday'),
                       (f'data_2d_raw/{NAME}/image_00/timestamps.txt', '2013-19-28 08:46:02.9')):
        kept = (tmp_path / part).read_text()
        (tmp_path / part).write_text(text)
        with pytest.raises(InputError, match=part.rpartition('/')[2]) as raised:
            open_drive(tmp_path)
        assert '\n' not in str(raised.value)
        (tmp_path / part).write_text(kept)
    (tmp_path / 'calibration' / 'calib_cam_to_pose.txt').unlink()
    with pytest.raises(InputError, match='calib_cam_to_pose'):
        open_drive(tmp_path)


def test_points_that_are_not_finite_are_dropped(tmp_path):
    values = np.ones((5, 4), '<f4')
    values[1, 0], values[3, 2] = np.nan, np.inf
    values.tofile(tmp_path / 'a.bin')
    np.arange(5, dtype='<u4').tofile(tmp_path / 'a.label')
    scan = read_velodyne(tmp_path / 'a.bin', tmp_path / 'a.label')
    assert scan.points.shape == (3, 3) and scan.labels.tolist() == [0, 2, 4]
    np.arange(4, dtype='<u4').tofile(tmp_path / 'a.label')
    with pytest.raises(InputError, match='4 labels for the 5 points'):
        read_velodyne(tmp_path / 'a.bin', tmp_path / 'a.label')
    (tmp_path / 'a.bin').write_bytes(b'')
    assert read_velodyne(tmp_path / 'a.bin').points.shape == (0, 3)


def write_raw(root, packets):
    """Write a KITTI raw drive with OXTS packets at 0.1 s and one scan between the first two."""
    drive = root / '2011_09_26' / '2011_09_26_drive_0001_sync'
    for folder in ('oxts/data', 'velodyne_points/data'):
        (drive / folder).mkdir(parents=True)
    for i, packet in enumerate(packets):
        (drive / f'oxts/data/{i:010d}.txt').write_text(
            ' '.join(map(repr, packet)) + ' 0' * 20 + ' 4 -1 -1 -1\n')
    (drive / 'oxts/timestamps.txt').write_text(
        ''.join(f'2011-09-26 13:04:32.{i}00000000\n' for i in range(len(packets))))
    (drive / 'velodyne_points/timestamps.txt').write_text('2011-09-26 13:04:32.050000000\n')
    np.ones((3, 4), '<f4').tofile(drive / 'velodyne_points/data/0000000000.bin')
    (drive.parent / 'calib_imu_to_velo.txt').write_text(
        'calib_time: 25-May-2012 16:47:16\nR: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n')
    return drive


def test_kitti_raw_poses(tmp_path):
    # 1e-5 degrees are 0.73 m to the east at 49 degrees north, and 1.11 m to the north.
    drive = write_raw(tmp_path, [[49.0, 8.4, 112.0, 0.0, 0.0, 0.0],
                                 [49.0, 8.40001, 112.5, 0.0, 0.0, 0.2],
                                 [49.00001, 8.40001, 112.5, 0.0, 0.0, np.pi / 2]])
    read = open_drive(tmp_path)
    assert np.array_equal(read.trajectory.T_map_base[0], np.eye(4))
    assert np.allclose(read.trajectory.T_map_base[1:, :3, 3],
                       [[0.7303, 0.0, 0.5], [0.7303, 1.1132, 0.5]], atol=1e-3)
    assert np.allclose(read.trajectory.T_map_base[2, :3, 0], [0, 1, 0])  # heading north
    # The scan was taken halfway between the first two packets.
    assert np.allclose(read.lidar.T_map_base[0], planar(0.36515, 0, 0.1, 0.25), atol=1e-4)
    assert np.allclose(read.lidar.T_base_sensor, transform(None, [0.8, -0.3, 0.8]))

    assert not read.cameras
    (drive / 'oxts').rename(drive / 'away')
    assert len(open_drive(tmp_path / '2011_09_26').trajectory) == 0
    (drive / 'velodyne_points').rename(drive / 'away_too')
    with pytest.raises(InputError):
        open_drive(tmp_path)


def test_roll_and_pitch_have_the_devkits_signs():
    T = poses_of_packets(np.array([[49.0, 8.4, 0.0, 0.1, 0.0, 0.0],
                                   [49.0, 8.4, 0.0, 0.0, 0.1, 0.0]]))
    assert T[0, 2, 1] == pytest.approx(np.sin(0.1))  # rolled: the left side goes up
    assert T[1, 2, 0] == pytest.approx(-np.sin(0.1))  # pitched: the nose goes down


def test_kitti_odometry(tmp_path):
    folder = tmp_path / 'sequences' / '00'
    (folder / 'velodyne').mkdir(parents=True)
    (tmp_path / 'poses').mkdir()
    for i in (0, 2):
        np.ones((3, 4), '<f4').tofile(folder / f'velodyne/{i:06d}.bin')
    # The camera drives 5 m ahead (its z) and stands 1 m to the right of the Velodyne.
    (tmp_path / 'poses' / '00.txt').write_text(
        '1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 5\n')
    drive = open_drive(tmp_path)
    assert np.allclose(drive.trajectory.T_map_base[1, :3, 3], [5, 0, 0])  # without a calib.txt
    assert drive.lidar.has_pose.tolist() == [True, False]
    assert drive.trajectory.nominal_stamps and drive.lidar.stamps_ns.tolist() == [0, 200_000_000]

    T_camera_lidar = inverse(transform(R_base_optical, [0, -1, 0]))
    numbers = ' '.join(map(str, T_camera_lidar[:3].ravel()))
    (folder / 'calib.txt').write_text(f'P2: 50 0 32 -5 0 50 12 0 0 0 1 0\nTr: {numbers}\n')
    (folder / 'times.txt').write_text('0.000000e+00\n1.036224e-01\n2.071600e-01\n')
    (folder / 'image_2').mkdir()
    cv2.imwrite(str(folder / 'image_2' / '000001.png'), np.zeros((24, 64, 3), np.uint8))
    drive = open_drive(tmp_path, '00')
    assert drive.lidar.stamps_ns.tolist() == [0, 207_160_000]
    stream = drive.cameras['image_2']
    assert (stream.camera.width, stream.camera.height, stream.camera.fx) == (64, 24, 50.0)
    # P2's fourth column puts the camera 0.1 m to the right (its own -t) of camera 0.
    assert np.allclose(stream.T_base_sensor, transform(R_base_optical, [0, -1.1, 0]))
    assert np.allclose(stream.T_map_base[0], planar(5, 0, 0))
    (folder / 'times.txt').write_text('zero\n')
    with pytest.raises(InputError, match=r'times\.txt, line 1'):
        open_drive(tmp_path)


def test_show_draws(tmp_path):
    write_drive(tmp_path, 2)
    drive = open_drive(tmp_path)
    draw(drive, None, 1, tmp_path / 'a.png')
    assert cv2.imread(str(tmp_path / 'a.png')).shape[1] == 1400
    with pytest.raises(InputError, match='no image 9 of image_00'):
        draw(drive, None, 9, tmp_path / 'b.png')
    assert not (tmp_path / 'b.png').exists()


def test_points_follow_the_vehicle_between_scan_and_image(tmp_path):
    kitti360.write_calibration(tmp_path, CAMERA, T_base_camera, T_base_lidar)
    wall = np.array([[30.0, 0.0, 2.0]])  # in the map
    with kitti360.DriveWriter(tmp_path, NAME) as writer:
        writer.image(1, np.zeros((24, 64, 3), np.uint8))
        points = apply(inverse(T_base_lidar), wall).astype(np.float32)
        writer.scan(0, Scan(points, np.ones(1, np.float32)))
        writer.finish(START_NS + np.arange(2) * 10**8, START_NS + np.arange(2) * 10**8,
                      np.arange(2), np.stack([planar(0, 0, 0), planar(5, 0, 0.3)]))
    drive = open_drive(tmp_path)
    expected = apply(inverse(planar(5, 0, 0.3) @ T_base_camera), wall)
    assert np.allclose(points_in_camera(drive, drive.cameras['image_00'], 0), expected, atol=1e-4)
