"""`i2ploc calibrate`: the files it writes, which of them is taken, and what it refuses."""

import json
import math
import shutil

from helpers_calibration import calibration
from helpers_cli import i2ploc
from helpers_street import save_small_model, write_street
import pytest

from saliency_i2ploc_ros.cli.calibrate import turns
from saliency_i2ploc_ros.encoders.config import View
from saliency_i2ploc_ros.encoders.files import preprocessing_hash, read_identity
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.localization.calibration import (
    check_calibration,
    FILE,
    file_of,
    read_calibration,
    SEARCH,
    write_calibration,
)
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.mapping.database import PlaceDatabase
from saliency_i2ploc_ros.mapping.views import headings
from saliency_i2ploc_ros.storage import shared_directory, write_json

FRAMES = 44


def write_city(root, number):
    """Write a street of 88 m driven twice, with scans, as a city of its own."""
    write_street(root, {f'city_{number:04d}_drive_{drive:04d}_sync': lane
                        for drive, lane in enumerate((0.0, 1.5))},
                 seed=number, frames=FRAMES, step_m=2.0, end_m=110.0)
    write_json(root / 'city.json', {'scanned': [0], 'pictured': [0, 1]})


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    save_small_model(root / 'model', seed=3)
    for number in (7, 8):
        write_city(root / 'cities' / f'city-{number}', number)
    patch = pytest.MonkeyPatch()
    patch.setenv('I2PLOC_CACHE', str(root / 'cache'))
    yield root
    patch.undo()


def calibrate(*arguments):
    return i2ploc('calibrate', *arguments)


def test_the_command_writes_calibration_and_report(world, tmp_path):
    said = calibrate(world / 'cities', '--model', world / 'model', '--report', tmp_path / 'report')
    assert 'ECE' in said and 'calibration.json' in said and 'warning' not in said
    made = read_calibration(world / 'model')
    assert (made.map_identity, made.headings, made.spacing_m) == ('', 1, 5.0)
    # The map's own images are not asked.
    assert made.provenance['calibrated_on'] == ['city_0007_drive_0001_sync',
                                                'city_0008_drive_0001_sync']
    assert (made.provenance['images'], made.provenance['elsewhere']) == (88, 22)
    assert str(world) not in (world / 'model' / FILE).read_text()
    assert made.inside is not None
    summary = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    assert summary['images'] == {'inside': 88, 'elsewhere': 0}  # two sites cannot judge strangers
    assert set(summary['sites']) == {'city-7', 'city-8'}
    assert summary['figures']['open_auroc']['value'] is None
    page = (tmp_path / 'report' / 'report.md').read_text()
    for words in ('ECE', 'ANEES', 'within 2σ', 'takes four sites', 'does not say which drives'):
        assert words in page, words
    for name in ('probabilities', 'acceptance', 'covariances'):
        assert (tmp_path / 'report' / f'{name}.png').stat().st_size > 10_000
    calibrate(world / 'cities', '--model', world / 'model', '--out', tmp_path / 'again',
              '--report', tmp_path / 'report2')
    assert (tmp_path / 'again' / FILE).read_bytes() == (world / 'model' / FILE).read_bytes()


def test_each_number_of_views_has_a_file_of_its_own(world, tmp_path):
    (tmp_path / FILE).write_text('of before')
    said = calibrate(world / 'cities', '--headings', 2, '--model', world / 'model', '--out',
                     tmp_path, '--report', tmp_path / 'report')
    assert 'calibration-2.json: written' in said
    assert 'in 2 views' in (tmp_path / 'report' / 'report.md').read_text()
    assert (tmp_path / FILE).read_text() == 'of before'
    made = read_calibration(tmp_path, 'calibration-2.json')
    assert (made.headings, made.map_identity) == (2, '')
    # As many as the model has itself, by whatever option: the file is that of the model.
    calibrate(world / 'cities', '--headings', 1, '--model', world / 'model', '--out', tmp_path,
              '--report', tmp_path / 'report')
    assert read_calibration(tmp_path).headings == 1
    assert read_calibration(tmp_path, 'calibration-2.json') == made


def test_sites_are_turned_each_by_another_part_of_the_angle_between_many_headings():
    """From none to the worst, which is half of it; one site alone by what lies between."""
    assert turns(12, 1) == [7.5]
    assert turns(12, 3) == [2.5, -7.5, 12.5]
    assert turns(4, 3) == [0.0, 0.0, 0.0]  # for vehicles that keep to the streets, as drives do
    own = View(), View(left_m=3.5, yaw_deg=180.0)
    turned = headings(12, own, 7.5)
    assert [view.yaw_deg for view in turned] == [7.5 + 30.0 * k for k in range(12)]
    assert turned[6].left_m == pytest.approx(1.75 * (1.0 + math.cos(math.radians(7.5))))


def test_the_report_says_how_the_maps_were_turned(world, tmp_path):
    calibrate(world / 'cities', '--headings', 8, '--model', world / 'model', '--out', tmp_path,
              '--report', tmp_path)
    assert 'are turned by 5.6, -16.9 degrees' in (tmp_path / 'report.md').read_text()
    assert read_calibration(tmp_path, 'calibration-8.json').headings == 8


def build(world, out, views=None):
    """Build a map of the one city; its folder."""
    several = () if views is None else ('--headings', views)
    i2ploc('build-map', world / 'cities' / 'city-7', '--drive', '0000', '--model',
           world / 'model', '--out', out, *several)
    return out


def test_the_model_is_calibrated_by_the_number_of_views_of_the_map(world, tmp_path, caplog):
    model = tmp_path / 'model'
    shutil.copytree(world / 'model', model, ignore=shutil.ignore_patterns('calibration*'))
    maps = {1: build(world, tmp_path / 'own'), 12: build(world, tmp_path / 'around', 12)}
    made = {}
    for views, folder in maps.items():
        database = PlaceDatabase.open(folder)
        made[views] = calibration(
            headings=views, encoder_hash=database.schema.encoder_hash, nothing=0.01 * views,
            preprocessing_hash=database.schema.preprocessing_hash)

    def found(views, config=None):
        return open_localizer(model, maps[views], config).calibration

    assert found(1) is None and found(12) is None and not caplog.records
    write_calibration(model, made[1])
    assert found(1) == made[1] and not caplog.records and found(12) is None
    assert 'rename calibration.json to that' in caplog.text
    write_calibration(model, made[12])  # as an earlier version did
    assert found(1) is None and 'was made for headings 12, here 1' in caplog.text
    write_calibration(model, made[1])
    write_calibration(model, made[12], file_of(12, 1))
    caplog.clear()
    assert found(1) == made[1] and found(12) == made[12] and not caplog.records
    with pytest.raises(InputError, match='leave top_k at 20, or take calibration-12.json out of'):
        found(12, LocalizerConfig(top_k=5))
    # What is wrong with one does not stop maps that need the other.
    (model / 'calibration-12.json').write_text('{}')
    assert found(1) == made[1]
    with pytest.raises(InputError, match='calibration-12.json is no calibration'):
        found(12)
    # A map's own goes first, and has one name whatever its views.
    own = made[12].model_copy(update={'map_identity': PlaceDatabase.open(maps[12]).identity})
    write_calibration(maps[12], own)
    assert found(12) == own
    with pytest.raises(InputError, match='leave top_k at 20, or take calibration.json out of'):
        found(12, LocalizerConfig(top_k=5))


@pytest.mark.parametrize('views', [2, 12])
def test_the_shipped_model_has_a_calibration_that_holds_for_it(views):
    folder = shared_directory('models') / 'city'
    config, encoder = read_identity(folder)
    made = read_calibration(folder, file_of(views, len(config.views)))
    check_calibration(made, {
        'encoder_hash': encoder, 'preprocessing_hash': preprocessing_hash(config),
        'headings': views, 'spacing_m': config.submap.spacing_m, 'smooth_m': config.smooth_m,
        **{name: getattr(LocalizerConfig(), name) for name in SEARCH}}, folder)
    assert made.map_identity == '' and made.inside is not None


def test_one_map_gets_a_calibration_of_its_own(world, tmp_path):
    city = world / 'cities' / 'city-7'
    build(world, tmp_path / 'map')
    said = calibrate(city, '--model', world / 'model', '--map', tmp_path / 'map', '--elsewhere',
                     world / 'cities' / 'city-8', '--report', tmp_path / 'report')
    made, database = read_calibration(tmp_path / 'map'), PlaceDatabase.open(tmp_path / 'map')
    assert made.map_identity == database.identity and made.headings == 1
    assert made.provenance['images'] == 44 and made.provenance['elsewhere'] == 22
    page = (tmp_path / 'report' / 'report.md').read_text()
    # A half of so short a way teaches too little to judge the other, and the page says so.
    assert 'Not judged' in page and 'is judged' not in page.partition('How it was done')[0]
    reason = page.partition('No figure can be given: ')[2].partition('.')[0]
    assert reason and f'warning: nobody knows what it is worth: {reason}' in said


def test_the_shipped_model_is_not_calibrated_by_accident(tmp_path):
    with pytest.raises(InputError, match='give --out, --map or --model'):
        calibrate(tmp_path, '--report', tmp_path / 'report')
    assert not (tmp_path / 'report').exists()


def test_drives_that_trained_the_model_are_refused(world, tmp_path):
    save_small_model(tmp_path / 'model', trained_on=['city_0007_drive_0001_sync'])
    with pytest.raises(InputError, match='trained on city_0007_drive_0001_sync.*other drives'):
        calibrate(world / 'cities', '--model', tmp_path / 'model', '--report', tmp_path / 'r')
    assert not (tmp_path / 'model' / FILE).exists() and not (tmp_path / 'r').exists()


@pytest.mark.parametrize('arguments, said', [
    (['--map', 'map', '--headings', '4'], 'not both'),
    (['--drive', '0099'], 'has a drive 0099'),
    (['--camera', 'image_07'], 'image_07'),
])
def test_what_cannot_be_calibrated_is_refused(world, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        calibrate(world / 'cities', *arguments, '--model', world / 'model', '--report',
                  tmp_path / 'r')
