"""Drives as bags: what is in them, in which order, and what happens to damaged ones."""

import shutil

from helpers_cli import i2ploc
from helpers_drives import (
    NAME,
    R_RECT_01,
    real_data,
    SHARED,
    T_base_camera,
    T_BASE_LEFT,
    T_base_lidar,
    T_IMU_CAMERA_01,
    write_all_cameras,
    write_drive,
)
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from scipy.spatial.transform import Rotation
import yaml

from saliency_i2ploc_ros.data.bag_frames import mount, static_transforms
from saliency_i2ploc_ros.data.bag_messages import typestore
from saliency_i2ploc_ros.data.bags import BagReader, part_of, write_bag
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import from_quaternion, inverse, transform


def read(message):
    return typestore.deserialize_cdr(message.data, message.type_name)


def stamp_of(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def motion(position, orientation):
    return from_quaternion([orientation.x, orientation.y, orientation.z, orientation.w],
                           [position.x, position.y, position.z])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compressed', [False, True])
def test_a_bag_holds_the_drive(tmp_path, storage, compressed):
    truth = write_drive(tmp_path / 'drive')
    poses = tmp_path / 'drive' / 'data_poses' / NAME / 'poses.txt'
    poses.write_text(''.join(poses.read_text().splitlines(keepends=True)[1:]))  # none of frame 0
    drive = open_drive(tmp_path / 'drive')
    write_bag(drive, tmp_path / 'bag', storage, compressed)
    images = '/kitti360/image_00/image_rect' + ('/compressed' if compressed else '')
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.topics == {
            '/tf_static': 'tf2_msgs/msg/TFMessage',
            '/kitti360/image_00/camera_info': 'sensor_msgs/msg/CameraInfo',
            images: f'sensor_msgs/msg/{"CompressedImage" if compressed else "Image"}',
            '/kitti360/velodyne_points': 'sensor_msgs/msg/PointCloud2',
            '/kitti360/ground_truth/pose': 'geometry_msgs/msg/PoseStamped'}
        assert bag.counts['/kitti360/ground_truth/pose'] == 6  # three frames, two sensors
        assert (bag.start_ns, bag.end_ns) == (truth['stamps'][0], truth['stamps'][-1] + 187_983)
        messages = list(bag.messages())
        assert [m.topic for m in bag.messages([images])] == [images] * 4
        with pytest.raises(InputError, match='no topic /other'):
            next(bag.messages(['/other']))
    assert [m.stamp_ns for m in messages] == sorted(m.stamp_ns for m in messages)
    assert messages[0].topic == '/tf_static'
    by_topic = {t: [m for m in messages if m.topic == t] for t in {m.topic for m in messages}}
    for topic, group in by_topic.items():
        if topic != '/tf_static':
            assert [stamp_of(read(m).header) for m in group] == [m.stamp_ns for m in group]

    for i, message in enumerate(by_topic[images]):
        image = read(message)
        assert message.stamp_ns == truth['stamps'][i]
        assert image.header.frame_id == 'image_00_optical'
        if compressed:
            path = drive.cameras['image_00'].paths[i]
            assert image.format == 'png' and image.data.tobytes() == path.read_bytes()
        else:
            assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 24, 64, 192)
            assert np.array_equal(image.data.reshape(24, 64, 3), truth['images'][i])
    info = read(by_topic['/kitti360/image_00/camera_info'][2])
    assert np.array_equal(info.k.reshape(3, 3), drive.cameras['image_00'].camera.K)
    assert np.array_equal(info.p.reshape(3, 4)[:, :3], info.k.reshape(3, 3))
    assert info.distortion_model == 'plumb_bob' and not info.d.any() and len(info.d) == 5
    for i, message in enumerate(by_topic['/kitti360/velodyne_points']):
        cloud = read(message)
        values = cloud.data.view('<f4').reshape(-1, 4)
        assert [f.name for f in cloud.fields] == ['x', 'y', 'z', 'intensity']
        assert np.array_equal(values[:, :3], truth['scans'][i].points)
        assert np.array_equal(values[:, 3], truth['scans'][i].intensity)
        assert cloud.header.frame_id == 'velodyne' and cloud.width == len(values)
    pose = read(by_topic['/kitti360/ground_truth/pose'][0])
    assert stamp_of(pose.header) == truth['stamps'][1] and pose.header.frame_id == 'map'
    assert np.allclose(motion(pose.pose.position, pose.pose.orientation), truth['poses'][1])
    mounts = {t.child_frame_id: motion(t.transform.translation, t.transform.rotation)
              for t in read(messages[0]).transforms}
    assert np.allclose(mounts['image_00_optical'], T_base_camera, atol=1e-9)
    assert np.allclose(mounts['velodyne'], T_base_lidar, atol=1e-9)
    assert np.array_equal(mounts['imu_link'], np.diag([1, -1, -1, 1]))


def test_camera_info_comes_before_its_image(tmp_path):
    write_drive(tmp_path / 'drive')
    write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')
    with BagReader(tmp_path / 'bag') as bag:
        order = [m.topic.rpartition('/')[2] for m in bag.messages() if 'image_00' in m.topic]
    assert order == ['camera_info', 'image_rect'] * 4


def test_a_bag_has_all_cameras_of_kitti_360(tmp_path):
    write_all_cameras(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    assert 'panorama' in drive.cameras  # which no CameraInfo can describe
    write_bag(drive, tmp_path / 'bag')
    with BagReader(tmp_path / 'bag') as bag:
        images = {t for t, kind in bag.topics.items() if kind == 'sensor_msgs/msg/Image'}
        assert images == {'/kitti360/image_00/image_rect', '/kitti360/image_01/image_rect',
                          '/kitti360/image_02/image_raw', '/kitti360/image_03/image_raw'}
        infos = {name: read(next(bag.messages([f'/kitti360/{name}/camera_info'])))
                 for name in ('image_01', 'image_02')}
        edges = static_transforms(bag)
        assert '/clock' not in bag.topics
        assert next(bag.messages()).topic == '/tf_static'
    fisheye, rectified = infos['image_02'], infos['image_01']
    assert fisheye.distortion_model == 'mei' and fisheye.header.frame_id == 'image_02_optical'
    assert fisheye.d.tolist() == [2.2, 0.02, 1.7, 1e-4, -2e-4]  # xi, k1, k2, p1, p2
    assert fisheye.k.tolist() == [43.5, 0, 19.4, 0, 43.2, 20.1, 0, 0, 1]
    assert not fisheye.p.any()
    assert rectified.p.reshape(3, 4)[:, 3].tolist() == [0, 0, 0]
    # KITTI-360's IMU has z down: base_link is it, turned by 180 degrees about x.
    half_turn = np.diag([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(mount(edges, 'imu_link', 'base_link'), half_turn, atol=1e-12)
    # A point of the rectified camera is R_rect times that of the mounted one.
    np.testing.assert_allclose(
        mount(edges, 'image_01_optical', 'base_link'),
        half_turn @ T_IMU_CAMERA_01 @ transform(R_RECT_01.T), atol=1e-9)
    np.testing.assert_allclose(mount(edges, 'image_02_optical', 'base_link'), T_BASE_LEFT,
                               atol=1e-9)


def test_a_part_of_a_drive(tmp_path):
    write_all_cameras(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    (drive.cameras['image_01'].paths[1]).unlink()
    drive = open_drive(tmp_path / 'drive')
    part = part_of(drive, ['image_00', 'image_01'], first=1, last=3, every=2)
    assert list(part.cameras) == ['image_00', 'image_01']
    assert part.cameras['image_00'].ids.tolist() == [1, 3]
    assert part.cameras['image_01'].ids.tolist() == [3]  # in step, though frame 1 is missing
    assert part.lidar.ids.tolist() == [1, 3]
    np.testing.assert_array_equal(part.cameras['image_00'].stamps_ns,
                                  drive.cameras['image_00'].stamps_ns[[1, 3]])
    assert part_of(drive, lidar=False).lidar is None
    assert list(part_of(drive).cameras) == ['image_00', 'image_01', 'image_02', 'image_03']
    with pytest.raises(InputError, match='no images and no scans'):
        write_bag(part_of(drive, first=7), tmp_path / 'bag')
    with pytest.raises(InputError, match="no camera 'image_09'"):
        part_of(drive, ['image_09'])


def test_a_bag_that_does_not_fit_the_disk_is_refused_at_once(tmp_path, monkeypatch):
    write_drive(tmp_path / 'drive')
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr('shutil.disk_usage', lambda path: usage._replace(free=10_000))
    with pytest.raises(InputError, match='0.0 GB are free'):
        write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')
    assert not (tmp_path / 'bag').exists()


def test_frames_are_joined_through_their_tree():
    up, ahead, turn = transform(None, [0, 0, 2]), transform(None, [3, 0, 0]), transform(
        Rotation.from_euler('z', 90, degrees=True).as_matrix())
    edges = {'base_link': ('base_footprint', up), 'rig': ('base_footprint', ahead),
             'camera': ('rig', turn), 'lost': ('nowhere', up)}
    np.testing.assert_allclose(mount(edges, 'camera', 'base_link'), inverse(up) @ ahead @ turn)
    np.testing.assert_allclose(mount(edges, '/camera', 'rig'), turn)
    np.testing.assert_array_equal(mount(edges, 'base_link', 'base_link'), np.eye(4))
    assert mount(edges, 'lost', 'base_link') is None
    assert mount({'a': ('b', up), 'b': ('a', up)}, 'a', 'base_link') is None


def test_the_metadata_are_such_as_humble_and_later_read(tmp_path):
    """By the decoders of rosbag2: QoS as text with integer policies up to version 8."""
    write_drive(tmp_path / 'drive')
    write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')
    info = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())[
        'rosbag2_bagfile_information']
    assert info['version'] == 8 and info['storage_identifier'] == 'mcap'
    assert info['relative_file_paths'] == [info['files'][0]['path']] == ['bag.mcap']
    assert info['files'][0]['message_count'] == info['message_count'] == 21
    for entry in info['topics_with_message_count']:
        topic = entry['topic_metadata']
        assert isinstance(topic['offered_qos_profiles'], str)
        profile, = yaml.safe_load(topic['offered_qos_profiles'])
        assert all(isinstance(profile[policy], int)
                   for policy in ('history', 'reliability', 'durability', 'liveliness', 'depth'))
        assert topic['type_description_hash'].startswith('RIHS01_')
        assert topic['serialization_format'] == 'cdr'
    with Reader(tmp_path / 'bag') as reader:
        definition = next(c for c in reader.connections if c.topic.endswith('image_rect')).msgdef
    assert definition.format.name == 'MSG' and 'MSG: std_msgs/Header' in definition.data


def rewritten(bag, out, mode, storage):
    """Write the messages of a bag anew, as another recorder might have."""
    writer = Writer(out, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(bag) as reader, writer:
        connections = {}
        for connection, stamp, data in reader.messages():
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(
                    connection.topic, connection.msgtype, typestore=typestore)
            writer.write(connections[connection.topic], stamp, data)


def same_messages(a, b):
    with BagReader(a) as first, BagReader(b) as second:
        for left, right in zip(first.messages(), second.messages(), strict=True):
            assert (left.topic, left.stamp_ns, left.data) == (
                right.topic, right.stamp_ns, right.data)


@pytest.mark.parametrize('mode, storage', [
    (CompressionMode.MESSAGE, StoragePlugin.SQLITE3), (CompressionMode.FILE, StoragePlugin.MCAP),
    (CompressionMode.STORAGE, StoragePlugin.MCAP)])
def test_compressed_bags_are_read(tmp_path, mode, storage):
    write_drive(tmp_path / 'drive')
    write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')
    rewritten(tmp_path / 'bag', tmp_path / 'zstd', mode, storage)
    same_messages(tmp_path / 'bag', tmp_path / 'zstd')


def test_split_bags_are_read_and_windows_too(tmp_path):
    write_drive(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    write_bag(drive, tmp_path / 'bag')
    for name, first, last in (('one', 0, 1), ('two', 2, 3)):
        write_bag(part_of(drive, first=first, last=last), tmp_path / name)
    info = [yaml.safe_load((tmp_path / name / 'metadata.yaml').read_text())
            ['rosbag2_bagfile_information'] for name in ('bag', 'one', 'two')]
    info[0]['relative_file_paths'] = ['one.mcap', 'two.mcap']
    info[0]['files'] = info[1]['files'] + info[2]['files']
    (tmp_path / 'split').mkdir()
    for name in ('one', 'two'):
        (tmp_path / name / f'{name}.mcap').rename(tmp_path / 'split' / f'{name}.mcap')
    (tmp_path / 'split' / 'metadata.yaml').write_text(
        yaml.safe_dump({'rosbag2_bagfile_information': info[0]}))
    topics = ['/kitti360/image_00/image_rect', '/kitti360/velodyne_points']
    with BagReader(tmp_path / 'bag') as whole, BagReader(tmp_path / 'split') as split:
        assert [m.data for m in whole.messages(topics)] == [m.data for m in split.messages(topics)]
        stamps = [m.stamp_ns for m in whole.messages(topics[:1])]
        inside = [m.stamp_ns for m in split.messages(topics[:1], stamps[1], stamps[3])]
        assert inside == stamps[1:3]


def test_static_transforms_are_latched(tmp_path):
    write_drive(tmp_path / 'drive')
    write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')
    with AnyReader([tmp_path / 'bag']) as reader:
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability.name
                      for c in reader.connections}
    assert durability.pop('/tf_static') == 'TRANSIENT_LOCAL'
    assert set(durability.values()) == {'VOLATILE'}


def test_a_bag_that_fails_leaves_nothing(tmp_path):
    write_drive(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    last = drive.cameras['image_00'].paths[-1]
    last.write_bytes(last.read_bytes()[:30])
    for compressed in (False, True):
        with pytest.raises(InputError, match='not a readable image'):
            write_bag(drive, tmp_path / 'bags' / 'bag', compressed=compressed)
        assert not list((tmp_path / 'bags').iterdir())
    with pytest.raises(InputError, match="no camera 'image_07'"):
        write_bag(drive, tmp_path / 'bags' / 'bag', cameras=['image_07'])
    with pytest.raises(InputError, match='unknown storage'):
        write_bag(drive, tmp_path / 'bags' / 'bag', storage='zip')


def test_an_existing_bag_is_replaced_only_if_asked(tmp_path):
    write_drive(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    write_bag(drive, tmp_path / 'bag')
    with pytest.raises(InputError, match='exists already'):
        write_bag(drive, tmp_path / 'bag')
    write_bag(drive, tmp_path / 'bag', storage='sqlite3', overwrite=True)
    assert {p.suffix for p in (tmp_path / 'bag').iterdir()} == {'.yaml', '.db3'}


def test_images_of_another_size_than_the_calibration_are_refused(tmp_path):
    write_drive(tmp_path / 'drive')
    file = tmp_path / 'drive' / 'calibration' / 'perspective.txt'
    file.write_text(file.read_text().replace('S_rect_00: 64 24', 'S_rect_00: 128 48'))
    with pytest.raises(InputError, match='is 64 x 24, but the calibration is of 128 x 48'):
        write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')


def test_a_drive_of_poses_alone_makes_no_bag(tmp_path):
    write_drive(tmp_path / 'drive')
    (tmp_path / 'drive' / 'data_2d_raw').rename(tmp_path / 'a')
    (tmp_path / 'drive' / 'data_3d_raw').rename(tmp_path / 'b')
    with pytest.raises(InputError, match='no images and no scans'):
        write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag')


@pytest.mark.parametrize('storage, file', [('mcap', 'bag.mcap'), ('sqlite3', 'bag.db3')])
def test_damaged_bags_are_refused(tmp_path, storage, file):
    write_drive(tmp_path / 'drive')
    write_bag(open_drive(tmp_path / 'drive'), tmp_path / 'bag', storage)
    whole = (tmp_path / 'bag' / file).read_bytes()

    def refuse(match):
        with pytest.raises(InputError, match=match) as raised, BagReader(tmp_path / 'bag') as bag:
            list(bag.messages())
        assert '\n' not in str(raised.value)

    for damage in (b'', whole[:100], whole[:len(whole) // 2], b'x' * len(whole)):
        (tmp_path / 'bag' / file).write_bytes(damage)
        refuse('cannot be read')
    (tmp_path / 'bag' / file).unlink()
    refuse('cannot be read')
    (tmp_path / 'bag' / file).write_bytes(whole)
    (tmp_path / 'bag' / 'metadata.yaml').write_text('a: [1')
    refuse('cannot be read')
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    refuse('no metadata.yaml')
    with pytest.raises(InputError, match='there is no bag'):
        BagReader(tmp_path / 'nothing')


def test_commands(tmp_path, monkeypatch):
    write_drive(tmp_path / 'drive')
    said = i2ploc('bag', tmp_path / 'drive', '--drive', '0000', '--out', tmp_path / 'bag',
                  '--compressed')
    assert '4  /kitti360/velodyne_points' in said
    said = i2ploc('show', tmp_path / 'drive', '--frame', 2, '--out', tmp_path / 'picture.png')
    assert (tmp_path / 'picture.png').is_file()
    assert '4 scans (frames 0 to 3), 4 with a pose' in said
    said = i2ploc('bag', tmp_path / 'drive', '--out', tmp_path / 'part', '--first', 1,
                  '--every', 2, '--no-lidar')
    assert '2  /kitti360/image_00/image_rect' in said and 'velodyne' not in said


@real_data
def test_kitti_raw_as_a_bag(tmp_path):
    drive = open_drive(SHARED / 'kitti_raw')
    write_bag(drive, tmp_path / 'bag', compressed=True)
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.counts == {
            '/tf_static': 1, '/kitti/image_02/camera_info': 52, '/kitti/velodyne_points': 26,
            '/kitti/image_02/image_rect/compressed': 52, '/kitti/ground_truth/pose': 76}
        stamps = [m.stamp_ns for m in bag.messages(['/kitti/image_02/image_rect/compressed'])]
    assert stamps == drive.cameras['image_02'].stamps_ns.tolist()
