"""The place database: what is written is found again, and nothing else is taken for it."""

import json
from pathlib import Path
import shutil

import faiss
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.mapping import database as module
from saliency_i2ploc_ros.mapping import nearest
from saliency_i2ploc_ros.mapping.database import ARRAYS, PlaceDatabase, write_database

N, D = 40, 16
POSES = np.stack([planar(4.0e5 + 5.123 * i, 5.4e6 - i, 0.1 * i, 113.0) for i in range(N)])
CLOUDS = [np.random.default_rng(i).normal(0, 9, (i, 3)).astype(np.float32) for i in range(N)]
MADE_BY = {'encoder_hash': 'abc', 'preprocessing_hash': 'p1', 'model_name': 'tiny',
           'submap': {'size_m': 40.0}, 'spacing_m': 5.0}


def unit(n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp('maps') / 'map'
    write_database(path, unit(N), POSES, CLOUDS, **MADE_BY)
    return path


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / 'map'))


def test_what_was_written_is_read(made):
    database = PlaceDatabase.open(made, model_hash='abc', preprocessing_hash='p1')
    assert len(database) == N and database.spacing_m == 5.0
    np.testing.assert_array_equal(database.descriptors, unit(N))
    assert isinstance(database.descriptors, np.memmap)
    np.testing.assert_allclose(database.T_map_base, POSES, rtol=0, atol=1e-9)
    assert np.abs(np.load(made / 'poses.npy')[:, :3, 3]).max() < 1000.0
    assert np.abs(database.origin - POSES[0, :3, 3]).max() <= 0.5
    for i in range(N):
        np.testing.assert_array_equal(database.cloud(i), CLOUDS[i])


def test_details_are_read_where_they_are_asked_for(tmp_path):
    details = np.random.default_rng(7).normal(size=(N, 4, 3)).astype(np.float32)
    write_database(tmp_path / 'map', unit(N), POSES, CLOUDS, details=details, **MADE_BY)
    database = PlaceDatabase.open(tmp_path / 'map')
    assert isinstance(database.details, np.memmap) and database.schema.details == (4, 3)
    np.testing.assert_array_equal(database.details, details.astype(np.float16))
    write_database(tmp_path / 'without', unit(N), POSES, CLOUDS, **MADE_BY)
    without = PlaceDatabase.open(tmp_path / 'without')
    assert without.details is None and without.schema.details is None
    assert without.identity != database.identity
    assert not (tmp_path / 'without' / 'details.npy').exists()


def test_search_equals_brute_force(made):
    database = PlaceDatabase.open(made)
    queries = unit(7, seed=1)
    cosines = queries.astype(np.float64) @ unit(N).astype(np.float64).T
    for k in (1, 5, N, N + 10):
        scores, indices = database.search(queries, k)
        expected = np.argsort(-cosines, axis=1)[:, :k]
        assert scores.shape == indices.shape == (7, min(k, N))
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_allclose(scores, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    with pytest.raises(InputError, match='16 numbers'):
        database.search(np.zeros((2, D + 1), np.float32), 1)


def alike(n, seed=0, wide=128):
    """Return descriptors (n, 128), most of which lies in few directions, as of real places."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(wide) / 12.0)
    x = (rng.normal(size=(n, wide)) * scale).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_large_map_is_searched_nearly_as_well_as_a_small_one(monkeypatch):
    monkeypatch.setattr(nearest, 'LARGE', 1000)
    # So few that looking into all lists, or at all places, would be the exception.
    monkeypatch.setattr(nearest, 'PROBES', 24)
    monkeypatch.setattr(nearest, 'CANDIDATES', 200)
    x, queries = alike(6000), alike(60, seed=1)
    cosines = queries.astype(np.float64) @ x.T.astype(np.float64)
    expected = np.argsort(-cosines, axis=1)[:, :20]
    large = nearest.Nearest(x)
    scores, found = large.search(queries, 20)
    assert np.mean(found[:, 0] == expected[:, 0]) >= 0.95
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected, found, strict=True)]) >= 0.95
    assert found.dtype == np.int64 and scores.dtype == np.float32
    assert all(len(set(row)) == 20 for row in found.tolist())
    # Whatever was found, its cosine is the exact one, best first.
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, found, 1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0.0).all()
    again = nearest.Nearest(x).search(queries, 20)
    np.testing.assert_array_equal(again[1], found)
    # It has to miss something, or it would be the exact search under another name.
    monkeypatch.setattr(nearest, 'PROBES', 1)
    assert (nearest.Nearest(x).search(queries, 20)[1] != expected).any()


@pytest.mark.parametrize('k', [100, 1001, 1200])
def test_of_a_large_map_wide_answers_are_exact(monkeypatch, k):
    monkeypatch.setattr(nearest, 'LARGE', 1000)
    monkeypatch.setattr(nearest, 'MOST', 50)
    monkeypatch.setattr(nearest, '_BLOCK', 500)
    x, queries = alike(1200), alike(3, seed=1)
    scores, found = nearest.Nearest(x).search(queries, k)
    cosines = queries.astype(np.float64) @ x.T.astype(np.float64)
    assert scores.shape == (3, k) and all(len(set(row)) == k for row in found.tolist())
    # By cosines, since places whose cosines are the same to 1e-7 may change their order.
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, found, 1), atol=1e-6)


def test_lists_that_hold_too_little_are_made_up_for(monkeypatch):
    monkeypatch.setattr(nearest, 'LARGE', 1000)
    monkeypatch.setattr(nearest, 'PROBES', 1)
    x, queries = alike(1200), alike(5, seed=1)
    found = nearest.Nearest(x).search(queries, 100)[1]
    np.testing.assert_array_equal(found, np.argsort(-(queries @ x.T), axis=1)[:, :100])


def test_a_small_map_is_searched_exactly_and_a_large_one_where_it_lies(tmp_path, monkeypatch):
    x = alike(1200)
    write_database(tmp_path / 'map', x, np.tile(POSES[:1], (1200, 1, 1)), CLOUDS[:1] * 1200,
                   **MADE_BY)
    exact = faiss.IndexFlatIP(128)
    exact.add(x)
    queries = alike(8, seed=1)
    for got, want in zip(PlaceDatabase.open(tmp_path / 'map').search(queries, 20),
                         exact.search(queries, 20), strict=True):
        np.testing.assert_array_equal(got, want)
    monkeypatch.setattr(nearest, 'LARGE', 1000)
    database = PlaceDatabase.open(tmp_path / 'map')
    found = database.search(queries, 2000)[1]
    assert found.shape == (8, 1200) and isinstance(database.descriptors, np.memmap)
    np.testing.assert_array_equal(found[:, :20], exact.search(queries, 20)[1])


def test_identity_is_that_of_the_content(made, tmp_path):
    identity = PlaceDatabase.open(made).identity
    write_database(tmp_path / 'same', unit(N), POSES, CLOUDS, **MADE_BY)
    write_database(tmp_path / 'other', unit(N, seed=3), POSES, CLOUDS, **MADE_BY)
    assert PlaceDatabase.open(tmp_path / 'same').identity == identity
    assert PlaceDatabase.open(tmp_path / 'other').identity != identity


@pytest.mark.parametrize('name', ARRAYS)
@pytest.mark.parametrize('damage', ['byte', 'truncated', 'longer', 'gone', 'empty'])
def test_any_altered_array_is_refused(copy, name, damage):
    data = bytearray((copy / name).read_bytes())
    if damage == 'byte':
        data[-5] ^= 0x10
    elif damage == 'truncated':
        del data[-8:]
    elif damage == 'longer':
        data += b'0000'
    elif damage == 'empty':
        data.clear()
    (copy / name).unlink() if damage == 'gone' else (copy / name).write_bytes(data)
    with pytest.raises(InputError, match=f'{name}.*build-map'):
        PlaceDatabase.open(copy)
    if damage in ('truncated', 'gone', 'empty'):
        with pytest.raises(InputError, match='build-map'):
            PlaceDatabase.open(copy, verify=False)


def test_another_model_or_preprocessing_is_refused(made):
    with pytest.raises(InputError, match=r'encoder abc.*is def: build it again'):
        PlaceDatabase.open(made, model_hash='def')
    with pytest.raises(InputError, match=r'preprocessing p1.*is p2: build it again'):
        PlaceDatabase.open(made, model_hash='abc', preprocessing_hash='p2')


@pytest.mark.parametrize('key,value,match', [
    ('format', 4, 'update this package'), ('format', 2, 'earlier version'),
    ('format', 1, 'earlier version'), ('format', 0, 'no map has'),
    ('metric', 'euclidean', 'no map has'), ('dimension', 15, 'was altered'),
    ('places', 39, 'was altered'), ('spacing_m', 0.001, 'was altered'),
    ('origin', [5000.0, 0.0, 0.0], 'was altered'), ('schema_hash', 'f' * 16, 'was altered'),
    ('places', 'many', 'places'), ('origin', [0, 0], 'origin'),
    ('origin', [0, float('nan'), 0], 'schema'), ('arrays', {}, 'no map has'),
    ('surprise', 1, 'surprise'), ('details', [4, 3], 'no map has'),
    ('encoder_hash', None, 'encoder_hash')])
def test_schemas_that_do_not_hold_are_refused(copy, key, value, match):
    schema = json.loads((copy / 'schema.json').read_text())
    schema[key] = value
    (copy / 'schema.json').write_text(json.dumps(schema))
    with pytest.raises(InputError, match=match):
        PlaceDatabase.open(copy)


def test_folders_that_are_no_maps(copy, tmp_path):
    with pytest.raises(InputError, match='not a map'):
        PlaceDatabase.open(tmp_path / 'nowhere')
    for text in ('[1, 2]', 'null', '{}', '{"format": 1'):
        (copy / 'schema.json').write_text(text)
        with pytest.raises(InputError, match=r'schema\.json'):
            PlaceDatabase.open(copy)


@pytest.mark.parametrize('name,change,match', [
    ('descriptors.npy', lambda a: a * 2, 'unit length'),
    ('descriptors.npy', lambda a: np.where(a > 0.5, np.nan, a), 'not finite'),
    ('descriptors.npy', lambda a: a.astype(np.float64), 'float64'),
    ('poses.npy', lambda a: a * 1.01, 'not rigid'),
    ('poses.npy', lambda a: np.full_like(a, np.nan), 'not rigid'),
    ('cloud_offsets.npy', lambda a: a[::-1], 'do not fit'),
    ('clouds.npy', lambda a: a[:-1], 'do not fit'),
    ('clouds.npy', lambda a: a.astype(object), 'not a whole array')])
def test_values_are_checked_without_the_hashes_too(copy, name, change, match):
    array = change(np.array(np.load(copy / name)))
    np.save(copy / name, array, allow_pickle=True)
    with pytest.raises(InputError, match=match):
        PlaceDatabase.open(copy, verify=False)


def test_what_is_no_map_is_not_written(tmp_path):
    path = tmp_path / 'map'
    bad = unit(N)
    bad[3, 0] = np.nan
    for descriptors, poses in ((bad, POSES), (unit(N) * 3, POSES), (unit(N), POSES * np.nan)):
        with pytest.raises(InputError):
            write_database(path, descriptors, poses, CLOUDS, **MADE_BY)
    details = np.zeros((N, 4, 3), np.float32)
    details[7, 3, 1] = 7e4  # more than half precision holds
    with pytest.raises(InputError, match='not finite in half precision'):
        write_database(path, unit(N), POSES, CLOUDS, details=details, **MADE_BY)
    with pytest.raises(ValueError, match='details of'):
        write_database(path, unit(N), POSES, CLOUDS, details=details[1:], **MADE_BY)
    with pytest.raises(InputError, match='at least one place'):
        write_database(path, unit(0), POSES[:0], [], **MADE_BY)
    assert list(tmp_path.iterdir()) == []


def test_writing_is_all_or_nothing(copy, monkeypatch):
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    with pytest.raises(InputError, match='exists already'):
        write_database(copy, unit(N, 5), POSES, CLOUDS, **MADE_BY)

    def full(path, array):
        if path.name == 'clouds.npy':
            # NumPy's own words for a short write.
            raise OSError('4096 requested and 12 written')
        np.lib.format.write_array(path.open('wb'), array)

    with monkeypatch.context() as patch:
        patch.setattr(module.np, 'save', full)
        with pytest.raises(InputError, match=r'cannot write .*disk full'):
            write_database(copy, unit(N, 5), POSES, CLOUDS, overwrite=True, **MADE_BY)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    assert [p.name for p in copy.parent.iterdir()] == ['map']
    write_database(copy, unit(N, 5), POSES, CLOUDS, overwrite=True, **MADE_BY)
    np.testing.assert_array_equal(PlaceDatabase.open(copy).descriptors, unit(N, 5))
