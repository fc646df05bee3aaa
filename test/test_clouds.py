"""Map files: what was written is read, and odd files say what is wrong."""

from helpers_drives import real_data, SHARED
import laspy
import numpy as np
from plyfile import PlyData, PlyElement
from pypcd4 import PointCloud
from pypcd4.pypcd4 import Encoding
import pytest

from saliency_i2ploc_ros.data import clouds
from saliency_i2ploc_ros.errors import InputError

POINTS = np.random.default_rng(0).uniform([4e5, 5e6, 90], [4.001e5, 5.0001e6, 120], (700, 3))
INTENSITY = np.random.default_rng(1).integers(0, 255, 700).astype(np.float32)


def write_las(path, classes=None):
    header = laspy.LasHeader(point_format=3, version='1.2')
    header.offsets, header.scales = [4e5, 5e6, 0], [0.001] * 3
    las = laspy.LasData(header)
    las.x, las.y, las.z = POINTS.T
    las.intensity = INTENSITY.astype(np.uint16)
    if classes is not None:
        las.classification = classes
    las.write(path)


def write_ply(path, text=False, intensity='intensity', points=POINTS):
    names = [('x', 'f8'), ('y', 'f8'), ('z', 'f8')] + ([(intensity, 'f4')] if intensity else [])
    rows = np.zeros(len(points), names)
    for axis, name in enumerate('xyz'):
        rows[name] = points[:, axis]
    if intensity:
        rows[intensity] = INTENSITY[:len(points)]
    PlyData([PlyElement.describe(rows, 'vertex')], text=text).write(path)


def write_pcd(path, encoding, points=POINTS - POINTS[0], intensity=True):
    rows = np.column_stack([points, INTENSITY[:len(points)]] if intensity else [points])
    fields = ('x', 'y', 'z', 'intensity')[:rows.shape[1]]
    PointCloud.from_points(rows.astype(np.float32), fields, [np.float32] * len(fields)).save(
        path, encoding=encoding)


@pytest.mark.parametrize('suffix', ['.las', '.laz'])
def test_las(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(clouds, '_CHUNK', 300)
    write_las(tmp_path / f'map{suffix}')
    assert [len(p) for p, _ in clouds.chunks(tmp_path / f'map{suffix}')] == [300, 300, 100]
    points, intensity = clouds.read_cloud(tmp_path / f'map{suffix}')
    np.testing.assert_allclose(points, POINTS, atol=0.00051)
    np.testing.assert_array_equal(intensity, INTENSITY)
    assert points.dtype == np.float64 and intensity.dtype == np.float32


def test_las_noise_is_left_out(tmp_path):
    classes = np.full(700, 2, np.uint8)
    classes[:30], classes[30:35] = 7, 18
    write_las(tmp_path / 'map.las', classes)
    points, _ = clouds.read_cloud(tmp_path / 'map.las')
    np.testing.assert_allclose(points, POINTS[35:], atol=0.00051)


@pytest.mark.parametrize('encoding', list(Encoding)[:3])
def test_pcd(tmp_path, encoding):
    write_pcd(tmp_path / 'map.PCD', encoding)
    points, intensity = clouds.read_cloud(tmp_path / 'map.PCD')
    np.testing.assert_allclose(points, POINTS - POINTS[0], atol=0.3, rtol=1e-6)
    np.testing.assert_allclose(intensity, INTENSITY)


@pytest.mark.parametrize('text', [True, False])
@pytest.mark.parametrize('intensity', ['intensity', 'scalar_Intensity', None])
def test_ply(tmp_path, text, intensity):
    write_ply(tmp_path / 'map.ply', text, intensity)
    points, found = clouds.read_cloud(tmp_path / 'map.ply')
    np.testing.assert_allclose(points, POINTS, rtol=1e-9)
    if intensity:
        np.testing.assert_array_equal(found, INTENSITY)
    else:
        assert found is None


@pytest.mark.parametrize('count', [1, 2])
def test_tiny_ascii_pcd(tmp_path, count):
    write_pcd(tmp_path / 'map.pcd', Encoding.ASCII, np.arange(3.0 * count).reshape(count, 3))
    points, _ = clouds.read_cloud(tmp_path / 'map.pcd')
    np.testing.assert_array_equal(points, np.arange(3.0 * count).reshape(count, 3))


def test_points_that_are_not_finite_are_left_out(tmp_path):
    points = POINTS.copy()
    points[3], points[5, 2] = np.nan, np.inf
    write_ply(tmp_path / 'map.ply', points=points)
    found, intensity = clouds.read_cloud(tmp_path / 'map.ply')
    np.testing.assert_array_equal(found, np.delete(POINTS, [3, 5], axis=0))
    np.testing.assert_array_equal(intensity, np.delete(INTENSITY, [3, 5]))
    write_ply(tmp_path / 'map.ply', points=np.full((4, 3), np.nan))
    with pytest.raises(InputError, match='no point with finite'):
        clouds.read_cloud(tmp_path / 'map.ply')


@pytest.mark.parametrize('name', ['a.las', 'a.laz', 'a.ply', 'b.ply', 'a.pcd', 'b.pcd', 'c.pcd'])
@pytest.mark.parametrize('part', [0.0, 0.02, 0.6, 0.995])
def test_truncated_files_are_refused(tmp_path, name, part):
    path = tmp_path / name
    write = {'a.las': write_las, 'a.laz': write_las, 'a.ply': write_ply,
             'b.ply': lambda p: write_ply(p, text=True),
             'a.pcd': lambda p: write_pcd(p, Encoding.ASCII),
             'b.pcd': lambda p: write_pcd(p, Encoding.BINARY),
             'c.pcd': lambda p: write_pcd(p, Encoding.BINARY_COMPRESSED)}[name]
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * part)])
    with pytest.raises(InputError, match=r'a\.|b\.|c\.') as caught:
        clouds.read_cloud(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name,row', [('map.pcd', 16), ('map.las', 34)])
def test_files_that_lack_whole_points_are_refused(tmp_path, name, row):
    if name == 'map.pcd':
        write_pcd(tmp_path / name, Encoding.BINARY)
    else:
        write_las(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-3 * row])
    with pytest.raises(InputError, match='697 of 700 points'):
        clouds.read_cloud(tmp_path / name)


def test_files_that_are_no_clouds(tmp_path):
    with pytest.raises(InputError, match='not a file'):
        clouds.read_cloud(tmp_path / 'nothing.pcd')
    (tmp_path / 'map.xyz').write_text('1 2 3\n')
    with pytest.raises(InputError, match=r'\.las'):
        clouds.read_cloud(tmp_path / 'map.xyz')
    rows = np.zeros(3, [('x', 'f4'), ('y', 'f4')])
    PlyData([PlyElement.describe(rows, 'vertex')]).write(tmp_path / 'flat.ply')
    with pytest.raises(InputError, match='no field z'):
        clouds.read_cloud(tmp_path / 'flat.ply')
    PlyData([PlyElement.describe(rows, 'edge')]).write(tmp_path / 'edges.ply')
    with pytest.raises(InputError, match='vertex'):
        clouds.read_cloud(tmp_path / 'edges.ply')


@real_data
@pytest.mark.parametrize('name,count', [
    ('autzen_trim.laz', 110_000), ('scan.pcd', 69_088), ('scan.ply', 69_792)])
def test_real_files(name, count):
    points, intensity = clouds.read_cloud(SHARED / 'maps' / name)
    assert points.shape == (count, 3) and intensity.shape == (count,)
    assert np.ptp(points, axis=0).min() > 5.0 and intensity.max() > 100
