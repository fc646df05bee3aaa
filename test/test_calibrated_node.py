"""A localizer whose map is calibrated refuses to search otherwise, and goes on as before."""

from collections.abc import Iterator
import shutil

from helpers_ros import client_in, new_domain, write_world
from helpers_running import localizer_of, Running
import pytest
from std_srvs.srv import Trigger

from saliency_i2ploc_ros.localization.calibration import (
    Calibration,
    EVIDENCE,
    Logistic,
    Power,
    read_calibration,
    SEARCH,
    write_calibration,
)
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.mapping.database import PlaceDatabase


def calibrate(folder) -> None:
    """Write a calibration of the default search into a map."""
    database, law = PlaceDatabase.open(folder), Power(scale=1.0, floor=1.0, power=1.0, growth=0.0)
    schema, sure = database.schema, Logistic(weights=(0.0,) * len(EVIDENCE), bias=5.0)
    write_calibration(folder, Calibration(
        encoder_hash=schema.encoder_hash, preprocessing_hash=schema.preprocessing_hash,
        map_identity=database.identity, headings=schema.views, spacing_m=database.spacing_m,
        smooth_m=schema.smooth_m, radius_m=20.0, right=sure, inside=None, along_m=law,
        across_m=law, heading_rad=law, nothing=0.1,
        **{name: getattr(LocalizerConfig(), name) for name in SEARCH}))


@pytest.fixture(scope='module')
def running(tmp_path_factory) -> Iterator[Running]:
    """Run the localizer on a map without a calibration; one with it is in calibrated/."""
    root = tmp_path_factory.mktemp('world')
    write_world(root, 2)
    shutil.copytree(root / 'map', root / 'calibrated')
    calibrate(root / 'calibrated')
    domain = new_domain()
    process = localizer_of(root, domain, min_probability=0.0)
    try:
        with client_in(domain) as client:
            yield Running(root, client, process)
    finally:
        process.close()


def reload(running, name) -> Trigger.Response:
    running.set(database=str(running.root / name))
    return running.client.call(Trigger, '/localizer/reload_database', Trigger.Request())


def other(value):
    """Return another value than this one, of its type and within any range."""
    return not value if isinstance(value, bool) else type(value)(value * 2)


def test_a_map_that_is_calibrated_for_another_search_is_refused(running):
    """Also where no image has come since the search was changed."""
    result, = running.set(top_k=5)
    assert result.successful, result.reason
    response = reload(running, 'calibrated')
    assert not response.success and 'made for top_k 20, and here it is 5' in response.message
    answer = running.answer(running.send())
    assert answer['accepted'] and len(answer['candidates']) == 5
    assert answer['calibration'] == 'none'
    assert running.set(top_k=20)[0].successful
    assert reload(running, 'calibrated').success
    answer = running.answer(running.send())
    assert answer['calibration'] == read_calibration(running.root / 'calibrated').identity
    running.forget()


@pytest.mark.parametrize('name', [name for name in SEARCH if name != 'verify'])
def test_another_search_than_the_calibrations_is_refused_and_the_node_goes_on(running, name):
    held = getattr(LocalizerConfig(), name)
    assert reload(running, 'calibrated').success
    result, = running.set(**{name: other(held)})
    assert not result.successful
    assert result.reason.startswith(f'{name} stays {held}: ')
    assert str(running.root / 'calibrated') in result.reason and 'clean up' in result.reason
    result, = running.set(**{name: held})
    assert result.successful, result.reason
    answer = running.answer(running.send())
    assert answer['accepted'] and 0.9 < answer['estimate']['confidence'] < 1.0, answer
    running.forget()


def test_what_the_calibration_leaves_open_can_still_be_set(running):
    assert reload(running, 'calibrated').success
    # This model has no verifier to leave out.
    assert running.set(verify=False)[0].successful
    assert running.answer(running.send())['accepted']
    assert running.set(verify=True)[0].successful
    assert running.set(min_probability=1.0)[0].successful
    assert not running.answer(running.send())['accepted']
    assert running.set(min_probability=0.0)[0].successful
    assert running.answer(running.send())['accepted']
    running.forget()


def test_without_a_calibration_any_search_can_be_set(running):
    assert reload(running, 'map').success
    for name in SEARCH:
        held = getattr(LocalizerConfig(), name)
        for value in (other(held), held):
            result, = running.set(**{name: value})
            assert result.successful, result.reason
    assert running.answer(running.send())['accepted']
    running.forget()
