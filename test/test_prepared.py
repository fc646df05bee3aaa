"""What a replay makes for itself and keeps: a drive's bag, the demo's city, map and bag."""

from helpers_cli import i2ploc
from helpers_ros import TINY
import pytest
import torch

from saliency_i2ploc_ros.data.bag_cache import cached_bag
from saliency_i2ploc_ros.data.bags import BagReader
from saliency_i2ploc_ros.encoders.dual import DualEncoder
from saliency_i2ploc_ros.encoders.files import save_model
from saliency_i2ploc_ros.errors import InputError


def test_a_drives_bag_is_known_by_what_it_is_made_of(tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    root = tmp_path / 'data'
    (root / 'images').mkdir(parents=True)
    first = cached_bag(root, '0002', ['image_00'], False)
    assert first.is_relative_to(tmp_path / 'cache')
    assert cached_bag(root / '..' / 'data', '0002', ('image_00',), False) == first
    others = {cached_bag(root, '0003', ['image_00'], False),
              cached_bag(root, '0002', ['image_01'], False),
              cached_bag(root, '0002', ['image_00'], True)}
    (root / 'images' / '000001.png').touch()
    others.add(cached_bag(root, '0002', ['image_00'], False))
    assert len(others) == 4 and first not in others
    with pytest.raises(InputError, match='nowhere is no folder'):
        cached_bag(tmp_path / 'nowhere', '', [], False)


def test_the_demo_is_prepared_once(tmp_path):
    torch.manual_seed(0)
    save_model(DualEncoder(TINY).eval(), tmp_path / 'model', {})
    words = ['demo', '--prepare', '--out', tmp_path / 'out', '--length', 100,
             '--model', tmp_path / 'model']
    i2ploc(*words)
    with BagReader(tmp_path / 'out' / 'bag') as bag:
        assert bag.counts['/kitti360/image_00/image_rect'] > 10
    made = (tmp_path / 'out' / 'map' / 'schema.json').stat().st_mtime_ns
    assert 'are there already' in i2ploc(*words)
    assert (tmp_path / 'out' / 'map' / 'schema.json').stat().st_mtime_ns == made
