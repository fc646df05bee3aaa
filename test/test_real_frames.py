"""Frames of drives that must fit real measurements: a wrong one would break these relations."""

import cv2
from helpers_drives import real_data, SHARED
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from saliency_i2ploc_ros.cli.show import points_in_camera
from saliency_i2ploc_ros.data import kitti360
from saliency_i2ploc_ros.data.kitti_files import read_stamps
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.geometry.poses import apply, inverse, path_length, transform


@real_data
def test_kitti360_cameras_are_where_the_data_set_says():
    drive = open_drive(SHARED / 'kitti360', '0000')
    rows = np.loadtxt(SHARED / 'kitti360/data_poses/2013_05_28_drive_0000_sync/cam0_to_world.txt')
    stamps = read_stamps(SHARED / 'kitti360/data_2d_raw/2013_05_28_drive_0000_sync/image_00'
                         / 'timestamps.txt')
    stated = rows[:, 1:].reshape(-1, 4, 4)
    ours = drive.trajectory.T_map_base @ drive.cameras['image_00'].T_base_sensor
    assert np.array_equal(drive.trajectory.stamps_ns, stamps[rows[:, 0].astype(int)])
    assert np.abs(ours[:, :3, :3] - stated[:, :3, :3]).max() < 2.5e-4
    assert np.abs(ours[:, :3, 3] - stated[:, :3, 3]).max() < 2e-3  # written to 4e-4 m
    # The rectified pair: equal axes, image_01 its baseline to the right.
    T = [kitti360.read_camera(SHARED / 'kitti360/calibration', c)[1] for c in kitti360.CAMERAS]
    assert np.allclose(inverse(T[0]) @ T[1], transform(None, [328.318735 / 552.554261, 0, 0]),
                       atol=1e-4)


@real_data
def test_kitti360_scans_of_one_place_fall_together():
    drive = open_drive(SHARED / 'kitti360', '0000')
    stream = drive.cameras['image_00']
    assert not stream.has_pose[stream.ids == 100].any() and stream.has_pose.sum() == 11
    moved, unmoved = [], []
    for frame in (729, 2717):
        i = int(np.flatnonzero(drive.lidar.ids == frame)[0])
        points = drive.scan(i).points
        unmoved.append(points)
        moved.append(apply(drive.lidar.T_map_base[i] @ drive.lidar.T_base_sensor, points))
    median = [np.median(cKDTree(a).query(b)[0]) for a, b in (moved, unmoved)]
    assert median[0] < 0.3 and median[1] > 3 * median[0]


@real_data
def test_poses_without_stamps_get_nominal_ones():
    for name, count in (('0003', 1010), ('0008', 8185)):
        drive = open_drive(SHARED / 'kitti360', name)
        assert len(drive.trajectory) == count and drive.trajectory.nominal_stamps
        assert drive.lidar is None and not drive.cameras
        assert drive.trajectory.stamps_ns[0] == 100_000_000  # frame 1
        assert (drive.trajectory.T_map_base[:, 2, 2] > 0.95).all()  # z up


@real_data
def test_kitti_raw_drive():
    drive = open_drive(SHARED / 'kitti_raw')
    stream = drive.cameras['image_02']
    assert (len(stream), len(drive.lidar), len(drive.trajectory)) == (52, 26, 154)
    assert path_length(drive.trajectory.T_map_base[:, :3, 3])[-1] == pytest.approx(69.4, abs=0.2)
    # Frame 0 was taken before the first OXTS packet; all others have poses.
    assert stream.has_pose.tolist() == [False] + [True] * 51
    # The vehicle moves along its own x axis.
    steps = np.diff(stream.T_map_base[1:, :3, 3], axis=0)
    ahead = (steps * stream.T_map_base[1:-1, :3, 0]).sum(1) / np.linalg.norm(steps, axis=1)
    assert np.median(ahead) > 0.99
    moved = [apply(drive.lidar.T_map_base[i] @ drive.lidar.T_base_sensor, drive.scan(i).points)
             for i in (20, 21)]
    unmoved = [drive.scan(i).points for i in (20, 21)]
    median = [np.median(cKDTree(a).query(b)[0]) for a, b in (moved, unmoved)]
    assert median[0] < 0.15 and median[1] > 2 * median[0]


@real_data
def test_kitti_odometry_drive():
    drive = open_drive(SHARED / 'kitti_odometry')
    assert len(drive.lidar) == 3 and len(drive.trajectory) == 4541 and not drive.cameras
    T = drive.trajectory.T_map_base
    assert np.allclose(T[0], np.eye(4), atol=1e-6)
    steps = np.diff(T[:, :3, 3], axis=0)
    ahead = (steps * T[:-1, :3, 0]).sum(1) / np.linalg.norm(steps, axis=1)
    assert np.median(ahead) > 0.99 and (T[:, 2, 2] > 0.9).all()


@real_data
@pytest.mark.parametrize('root, name', [
    ('kitti360', '0000'), ('kitti_raw', '0005'), ('kitti_odometry', '00')])
def test_the_ground_is_below_and_level(root, name):
    drive = open_drive(SHARED / root, name)
    points = apply(transform(drive.lidar.T_base_sensor[:3, :3]), drive.scan(1).points)
    near = points[np.hypot(points[:, 0], points[:, 1]) < 15]
    ground = near[near[:, 2] < -1.3]
    assert len(ground) > 0.4 * len(near)
    # The Velodyne is 1.73 m above the road; the median lies on it, and the road is level.
    assert np.median(ground[:, 2]) == pytest.approx(-1.73, abs=0.15)
    slope = np.linalg.lstsq(np.column_stack([ground[:, :2], np.ones(len(ground))]),
                            ground[:, 2], rcond=None)[0][:2]
    assert np.abs(slope).max() < 0.05


def edge_score(image, points, camera):
    """Return the mean image gradient where the depth of LiDAR points (n, 3) jumps."""
    uv, inside = camera.project(points)
    uv, z = uv[inside], points[inside, 2]
    near = cKDTree(uv).query(uv, 9)[1]
    far = near[np.arange(len(uv)), z[near].argmax(1)]
    jump = (z[far] - z > 1.0) & (z < 30.0)
    u, v = ((uv + uv[far]) / 2)[jump].round().astype(int).T
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), 1.5)
    gradient = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
    return np.minimum(gradient, np.percentile(gradient, 90))[v, u].mean()


@real_data
@pytest.mark.parametrize('root, frames', [
    ('kitti360', (729, 2717, 250, 947)), ('kitti_raw', (0, 30, 60, 90))])
def test_depth_edges_lie_on_image_edges(root, frames):
    drive = open_drive(SHARED / root, '0000' if root == 'kitti360' else None)
    name = drive.camera_named()
    stream = drive.cameras[name]
    score = {}
    for frame in frames:
        i = int(np.flatnonzero(stream.ids == frame)[0])
        image, points = drive.image(name, i), points_in_camera(drive, stream, i)
        for turn in ((0, 0, 0), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0)):
            R = Rotation.from_rotvec(np.radians(turn)).as_matrix()
            score.setdefault(turn, []).append(edge_score(image, points @ R.T, stream.camera))
    means = {turn: np.mean(values) for turn, values in score.items()}
    assert max(means, key=means.get) == (0, 0, 0), means
