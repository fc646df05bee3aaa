"""Which images teach a calibration: those that the localizer looks at, and no others."""

import json

import cv2
from helpers_cli import i2ploc
from helpers_street import save_small_model, write_street
import numpy as np
import pytest

from saliency_i2ploc_ros.cli.calibrate import elsewhere_of
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.distributed import World
from saliency_i2ploc_ros.encoders.files import load_model
from saliency_i2ploc_ros.evaluation.calibrating import described_site
from saliency_i2ploc_ros.evaluation.described import ByModel
from saliency_i2ploc_ros.evaluation.offline import answers_to
from saliency_i2ploc_ros.evaluation.shown import shown
from saliency_i2ploc_ros.localization.calibration import read_calibration
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.storage import write_json

FRAMES = 44
# Black, white, and a grey that noise alone makes seem to show something.
BLIND = {3: 0, 4: 255, 17: 120}


def name_of(number, drive):
    return f'city_{number:04d}_drive_{drive:04d}_sync'


def blind(root, number, frames):
    """Put a cover on the camera of the second drive, at some of its images."""
    rng = np.random.default_rng(0)
    stream = open_drive(root, name_of(number, 1)).cameras['image_00']
    for row, level in frames.items():
        image = np.full((48, 64, 3), level) + (rng.normal(0, 6, (48, 64, 3)) if level == 120
                                               else 0)
        assert cv2.imwrite(str(stream.paths[row]), np.clip(image, 0, 255).astype(np.uint8))


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    save_small_model(root / 'model', seed=3)
    for number in (7, 8):
        city = root / 'cities' / f'city-{number}'
        write_street(city, {name_of(number, drive): lane for drive, lane in ((0, 0.0), (1, 1.5))},
                     seed=number, frames=FRAMES, step_m=2.0, end_m=110.0)
        write_json(city / 'city.json', {'scanned': [0], 'pictured': [0, 1]})
    blind(root / 'cities' / 'city-7', 7, BLIND)
    patch = pytest.MonkeyPatch()
    patch.setenv('I2PLOC_CACHE', str(root / 'cache'))
    yield root
    patch.undo()


def test_what_the_localizer_refuses_teaches_nothing(world, tmp_path):
    city = world / 'cities' / 'city-7'
    i2ploc('build-map', city, '--drive', '0000', '--model', world / 'model', '--out',
           tmp_path / 'map')
    drive = open_drive(city, name_of(7, 1))
    refused = [frame for frame, _, _, answer in answers_to(
        open_localizer(world / 'model', tmp_path / 'map'), drive)
        if answer.rejection == 'no_texture']
    assert refused == list(BLIND)
    describer = ByModel(load_model(world / 'model'))
    for _ in range(2):  # once from the images, once from the cache
        site = described_site('city-7', open_drive(city, name_of(7, 0)), [drive], describer,
                              World())
        (queries, _), = site.queries
        assert site.refused == len(BLIND)
        assert sorted({*range(FRAMES)} - {*queries.numbers.tolist()}) == refused
        assert len(queries.descriptors) == len(queries.T_map_base) == FRAMES - len(BLIND)


def test_the_report_counts_what_was_left_out(world, tmp_path):
    i2ploc('calibrate', world / 'cities', '--model', world / 'model', '--out', tmp_path / 'made',
           '--report', tmp_path / 'report')
    made = read_calibration(tmp_path / 'made')
    assert made.provenance['images'] == 2 * FRAMES - len(BLIND)
    summary = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    assert summary['images']['inside'] == 2 * FRAMES - len(BLIND)
    page = (tmp_path / 'report' / 'report.md').read_text()
    assert f'Of {2 * FRAMES} images {len(BLIND)} were left out' in page


def test_a_drive_that_shows_nothing_is_not_asked(world, tmp_path):
    write_street(tmp_path / 'city-9', {name_of(9, 1): 0.0}, seed=9, frames=3)
    blind(tmp_path / 'city-9', 9, dict.fromkeys(range(3), 0))
    group, = elsewhere_of([tmp_path / 'city-9'])
    site = described_site(group.name, None, group.drives, ByModel(load_model(world / 'model')),
                          World())
    assert (site.queries, site.refused) == ([], 3)


@pytest.mark.parametrize('unreadable', [[1], [0, 1, 2]])
def test_what_cannot_be_read_shows_nothing(world, tmp_path, unreadable):
    write_street(tmp_path / 'city-9', {name_of(9, 1): 0.0}, seed=9, frames=3)
    drive = open_drive(tmp_path / 'city-9', name_of(9, 1))
    for row in unreadable:
        drive.cameras['image_00'].paths[row].write_bytes(b'no picture')
    found = shown(drive, 'image_00', range(3), LocalizerConfig(), World())
    assert np.flatnonzero(~found).tolist() == unreadable
