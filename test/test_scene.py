"""The scene as a picture: of a drive's image, and of an answer of a run."""

import json
import sys

import cv2
from helpers_ros import SPACE, write_world
import numpy as np
import pytest

from saliency_i2ploc_ros.cli import main
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.data.trajectories import write_tum
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation import scene as scene_module
from saliency_i2ploc_ros.evaluation.answers import write_answers
from saliency_i2ploc_ros.evaluation.offline import evaluate_drive
from saliency_i2ploc_ros.evaluation.scene import (
    draw_scene,
    groups_of,
    headline,
    ranks_in_words,
)
from saliency_i2ploc_ros.evaluation.scenes import answer_of_json, scene_of_drive, scene_of_run
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.storage import write_json

FRAMES = 6
LAX = LocalizerConfig(min_score=-1.0, min_weight=0.0, min_contrast=0.0, min_visible=0.0)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A drive, its bag, and results/ as a run leaves them, with every image accepted."""
    root = tmp_path_factory.mktemp('scene')
    write_world(root, FRAMES)
    localizer = open_localizer(root / 'model', root / 'map', LAX)
    records = evaluate_drive(localizer, open_drive(root / 'drive', None))
    out = root / 'results'
    write_answers(out, records)
    write_tum(out / 'truth.tum', np.array([r.stamp_ns for r in records], np.int64),
              np.stack([r.truth for r in records]))
    write_json(out / 'summary.json', {'provenance': {
        'drive': str(root / 'bag'), 'map': str(root / 'map'),
        'images': {'': f'{SPACE}/image_rect'}}})
    return root


@pytest.fixture(scope='module')
def accepting(world):
    """A localizer that accepts what an untrained model finds."""
    return open_localizer(world / 'model', world / 'map', LAX)


def drawn(monkeypatch, scene, path):
    """Draw a scene; return the picture and all of its words, by axes."""
    figures = []
    made = scene_module.Figure
    monkeypatch.setattr(scene_module, 'Figure', lambda *args, **kwargs: figures.append(
        made(*args, **kwargs)) or figures[-1])
    draw_scene(path, scene)
    picture = cv2.imread(str(path))
    assert picture is not None and picture.shape[:2] == (1000, 1600)
    figure, = figures
    return figure, picture


def test_the_scene_of_an_image_with_a_fix(world, accepting, monkeypatch, tmp_path):
    drive = open_drive(world / 'drive', None)
    scene = scene_of_drive(accepting, drive, frame=4)
    stream = drive.cameras['image_00']
    again = accepting.localize(drive.image('image_00', 4), stream.camera, stream.T_base_sensor)
    assert scene.answer.as_dict()['candidates'] == again.as_dict()['candidates']
    np.testing.assert_array_equal(scene.truth, stream.T_map_base[4])
    assert len(scene.estimated_path) == 4 and len(scene.true_path) == FRAMES
    assert scene.query.shape == scene.saliency.shape == scene.place.shape

    figure, _ = drawn(monkeypatch, scene, tmp_path / 'scene.png')
    off = np.linalg.norm(again.fix.T_map_base[:2, 3] - scene.truth[:2, 3])
    assert f'a fix {off:.1f} m from the truth' in headline(scene) == figure.get_suptitle()
    whole = figure.axes[0]
    names = [text.get_text() for text in whole.get_legend().get_texts()]
    assert {'true path', 'the fix', '2 sigma of the fix', 'truth of this image'} <= set(names)
    # No two labels of candidates lie on one another.
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in whole.texts]
    assert boxes and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_scene_of_a_rejection_says_why(world, monkeypatch, tmp_path):
    strict = open_localizer(world / 'model', world / 'map', LocalizerConfig(
        min_score=1.0, min_contrast=0.0, min_visible=0.0))
    scene = scene_of_drive(strict, open_drive(world / 'drive', None), frame=0)
    figure, _ = drawn(monkeypatch, scene, tmp_path / 'scene.png')
    assert figure.get_suptitle().endswith('no fix (low_score)')
    assert figure.axes[0].get_title().replace('\n', ' ') == scene.answer.explanation
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert '2 sigma of the fix' not in names and 'the fix' not in names


def test_an_image_that_shows_nothing_is_drawn_too(world, monkeypatch, tmp_path):
    dull = open_localizer(world / 'model', world / 'map', LocalizerConfig(min_contrast=200.0))
    scene = scene_of_drive(dull, open_drive(world / 'drive', None), frame=2)
    assert scene.place is None and len(scene.answer.candidates) == 0
    figure, _ = drawn(monkeypatch, scene, tmp_path / 'scene.png')
    assert figure.get_suptitle().endswith('no fix (no_texture)')


def test_the_scene_of_a_run_is_what_was_answered(world, accepting, monkeypatch, tmp_path):
    run = scene_of_run(accepting, world / 'results', 3, lambda _: None)
    now = scene_of_drive(accepting, open_drive(world / 'drive', None), frame=3)
    assert run.query is None and run.saliency is None and run.place is not None
    assert run.answer.explanation == now.answer.explanation
    np.testing.assert_allclose(run.answer.fix.T_map_base, now.answer.fix.T_map_base, atol=1e-9)
    np.testing.assert_array_equal(run.answer.fix.covariance, now.answer.fix.covariance)
    np.testing.assert_array_equal(run.answer.candidates.indices, now.answer.candidates.indices)
    np.testing.assert_allclose(run.answer.candidates.T_map_base,
                               now.answer.candidates.T_map_base, atol=1e-9)
    np.testing.assert_allclose(run.truth, now.truth, atol=1e-8)
    np.testing.assert_allclose(run.estimated_path, now.estimated_path, atol=1e-9)
    figure, _ = drawn(monkeypatch, run, tmp_path / 'scene.png')
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "the run's bag or data set is not at hand: no image" in said
    with pytest.raises(InputError, match='no answer 6: it has 6'):
        scene_of_run(accepting, world / 'results', FRAMES, lambda _: None)


def test_a_rejection_comes_back_from_json_with_its_estimate(world, accepting):
    strict = open_localizer(world / 'model', world / 'map', LocalizerConfig(
        min_score=1.0, min_visible=0.0))
    drive = open_drive(world / 'drive', None)
    stream = drive.cameras['image_00']
    answer = strict.localize(drive.image('image_00', 1), stream.camera, stream.T_base_sensor)
    back = answer_of_json(json.loads(json.dumps(answer.as_dict())))
    assert back.fix is None and back.rejection == 'low_score'
    np.testing.assert_allclose(back.estimate.T_map_base[:2, 3],
                               answer.estimate.T_map_base[:2, 3])


def test_the_command_draws_what_it_is_given(world, monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['i2ploc', 'scene', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, capsys.readouterr().out

    given = ['--model', world / 'model', '--out', tmp_path / 'scene.png']
    # Results name their map, and the bag whose images are shown.
    code, said = run(world / 'results', '--frame', 1, *given)
    assert not code and said == f'{tmp_path / "scene.png"}: written\n'
    assert cv2.imread(str(tmp_path / 'scene.png')).shape == (1000, 1600, 3)
    assert 'give the map' in run(world / 'drive', *given)[0]
    assert 'no image 99' in run(world / 'drive', '--map', world / 'map', '--frame', 99, *given)[0]
    assert 'no answer 99' in run(world / 'results', '--frame', 99, *given)[0]


def test_the_images_of_results_come_from_their_bag(world):
    from saliency_i2ploc_ros.cli.scene import provenance_of, seen
    from saliency_i2ploc_ros.ros.bag_images import camera_in_bag
    run = provenance_of(world / 'results')
    drive = open_drive(world / 'drive', None)
    stamp = int(drive.cameras['image_00'].stamps_ns[2])
    image, camera = seen(run, stamp)
    np.testing.assert_array_equal(image, drive.image('image_00', 2))
    expected = drive.cameras['image_00'].camera
    assert (camera.width, camera.height, camera.fx) == (expected.width, expected.height,
                                                        expected.fx)
    assert seen(run, stamp + 1) is None
    assert seen({**run, 'drive': 'gone'}, stamp) is None
    with pytest.raises(InputError, match='camera_info'):
        camera_in_bag(world / 'bag', '/other/image', True)


def test_candidates_share_the_label_of_a_better_one():
    positions = np.array([[0.0, 0.0], [50.0, 0.0], [10.0, 0.0], [55.0, 5.0], [0.0, 200.0]])
    assert groups_of(positions, 30.0) == [[0, 2], [1, 3], [4]]
    assert ranks_in_words([0, 1, 2, 5]) == '1-3, 6'
    assert ranks_in_words([3]) == '4'
    assert ranks_in_words([0, 2, 4, 6]) == '1, 3, ...'
