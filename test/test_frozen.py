"""A camera that shows the same picture while time goes on is not believed."""

from helpers_ros import camera_info, image_at, write_world
import numpy as np
import pytest

from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.ros.diagnostics import REFUSALS, WARN
from saliency_i2ploc_ros.ros.pipeline import Pipeline

AHEAD = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0],
                  [0.0, -1.0, 0.0, 1.6], [0.0, 0.0, 0.0, 1.0]])
SECOND = 10 ** 9


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    write_world(root, 2)
    return root


@pytest.fixture
def pipeline(world):
    def make(*cameras, **settings):
        config = LocalizerConfig(min_score=-1.0, min_weight=0.0, min_visible=0.0, **settings)
        localizer = open_localizer(world / 'model', world / 'map', config)
        made = Pipeline(localizer, cameras, lambda *asked: AHEAD, '', True, lambda what: None)
        made.camera_infos = dict.fromkeys(cameras, camera_info())
        return made
    return make


def asked(pipeline, seconds, seed=1):
    """Return the reason for which an image is rejected, None of a fix."""
    image = image_at(round(seconds * SECOND), seed)
    return pipeline.answer(dict.fromkeys(pipeline.camera_infos, image)).answer.rejection


def test_the_same_picture_for_too_long_is_refused_until_it_changes(pipeline):
    camera = pipeline('', frozen_s=1.0)
    assert [asked(camera, t) for t in (10.0, 10.5, 11.0)] == [None] * 3
    assert asked(camera, 11.1) == asked(camera, 20.0) == 'frozen'
    assert asked(camera, 20.1, seed=2) is None
    assert asked(camera, 21.1, seed=2) is None  # its second begins anew
    assert asked(camera, 21.2, seed=2) == 'frozen'
    assert REFUSALS['frozen'] == WARN


def test_one_pixel_that_differs_is_a_camera_at_work(pipeline):
    camera = pipeline('', frozen_s=1.0)
    for step in range(5):
        image = image_at((10 + step) * SECOND, 1)
        # In a row that the first glance leaves out.
        image.data[image.step + 3] = step
        assert camera.answer({'': image}).answer.rejection is None


def test_it_can_be_switched_off_and_takes_effect_at_once(pipeline):
    camera = pipeline('', frozen_s=0.0)
    assert [asked(camera, t) for t in (10.0, 100.0)] == [None] * 2
    strict = camera.localizer.config.model_copy(update={'frozen_s': 1.0})
    camera.localizer.config = strict
    assert asked(camera, 101.0) == 'frozen'


def test_a_bag_that_begins_anew_is_no_frozen_camera(pipeline):
    camera = pipeline('', frozen_s=1.0)
    assert asked(camera, 10.0) is None
    assert asked(camera, 5.0) is None
    assert asked(camera, 5.5) is None
    assert asked(camera, 6.5) == 'frozen'


def test_of_two_cameras_the_frozen_one_is_left_out(pipeline):
    both = pipeline('front', 'left', frozen_s=1.0)
    for step in range(4):
        stamp = (10 + step) * SECOND
        answered = both.answer({'front': image_at(stamp, step), 'left': image_at(stamp, 9)})
        assert answered.answer.rejection is None
        assert set(answered.left_out) == ({'left'} if step > 1 else set())
    reason, sentence = answered.left_out['left']
    assert reason == 'frozen' and sentence.startswith('camera left: its picture')
    assert 'the same for 3.0 s' in sentence
