"""A calibration: its figures by hand, its sealed file, and what it is refused for."""

import math

from helpers_calibration import calibration, KIND
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.calibration import (
    check_calibration,
    evidence_of,
    FILE,
    Power,
    read_calibration,
    SEAL,
    SEARCH,
    spread_of,
    write_calibration,
)
from saliency_i2ploc_ros.localization.hypotheses import (
    estimate,
    join,
    LocalizerConfig,
    Retrieved,
)
from saliency_i2ploc_ros.localization.trust import judged as trusted
from saliency_i2ploc_ros.storage import content_hash, read_json, write_json


def test_the_evidence_of_a_mixture():
    scores = np.array([.9, .85, .8, .75, .7])
    weights = np.array([.4, .3, .1, .15, .05])
    cluster = np.array([1, 0, 1, 1, 0], bool)
    alike = np.array([1, 0, 0, 1, 0], bool)
    found = evidence_of(scores, weights, cluster, alike)
    assert found == pytest.approx([
        math.log(.65 / .35), .9, (.9 + .8 + .75) / 3 - (.85 + .7) / 2, 3 / 5, .55 / .65])
    alone = np.ones(5, bool)
    found = evidence_of(scores, weights, alone, alone)
    # All places agree: the odds are bounded, and what would come next is at most the last one.
    assert found == pytest.approx([8.0, .9, (.9 + .85 + .8) / 3 - .7, 1.0, 1.0])


def test_the_spread_is_along_and_across_the_answer():
    places = np.stack([planar(10.0, 4.0, 1.6), planar(10.0, 0.0, 1.5), planar(12.0, 2.0, -1.5)])
    answer = planar(10.0, 1.0, math.pi / 2)  # it looks along y
    weights = np.array([0.5, 0.3, 0.2])
    found = spread_of(weights, places, np.array([1, 1, 0], bool), answer)
    w = np.array([5, 3]) / 8
    assert found == pytest.approx([
        math.sqrt(w @ [9.0, 1.0]), 0.0,
        math.sqrt(w @ [(1.6 - math.pi / 2) ** 2, (1.5 - math.pi / 2) ** 2]),
        -math.log(.8 / .2)], abs=1e-9)
    found = spread_of(weights, places, np.array([0, 0, 1], bool), answer)
    assert found[1] == pytest.approx(2.0) and found[0] == pytest.approx(1.0)


def test_deviations_are_a_power_of_spread_and_odds():
    law = Power(scale=0.5, floor=3.0, power=1.5, growth=0.2)
    assert law(4.0, -1.0) == pytest.approx(0.5 * 5.0 ** 1.5 * math.exp(-0.2))


def test_the_covariance_is_turned_into_the_map():
    flat = {'floor': 1.0, 'power': 0.0, 'growth': 0.0}
    found = calibration(
        along_m=Power(scale=3.0, **flat), across_m=Power(scale=1.0, **flat),
        heading_rad=Power(scale=0.1, **flat)).plane_covariance(np.zeros(4), math.pi / 2)
    assert found == pytest.approx(np.diag([1.0, 9.0, 0.01]), abs=1e-12)


def test_the_probability_reckons_with_images_from_outside():
    made = calibration()
    right, inside = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-1.0))
    evidence = [2.0, 1.0, 9.0, 9.0, 9.0]
    assert made.probability(evidence, 0.5) == pytest.approx(right * inside)
    assert made.probability(evidence, 0.0) == pytest.approx(right)
    assert made.probability(evidence, 0.1) == pytest.approx(
        right * .9 * inside / (.9 * inside + .1 * (1 - inside)))
    unknown = calibration(inside=None)
    assert unknown.probability(evidence, 0.1) == pytest.approx(right)


def test_what_decided_is_said_as_it_was_taught():
    places = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(4)])
    config = LocalizerConfig()
    joined = join([Retrieved(np.array([.9, .8, .7, .6], np.float32), np.arange(4), places, 0.0,
                             0.6)], config)
    answer = estimate(joined.scores, joined.T_map_place, 5.0, config)
    trust = trusted(joined, answer, places, answer.T_map_place, config, calibration())
    # Right is a position and a heading, as `Answers.right` has it.
    assert 'right within 20 m and 45 degrees with a probability of' in trust.figures


# ---- the file ----

def test_a_calibration_is_read_as_it_was_written(tmp_path):
    assert read_calibration(tmp_path) is None
    write_calibration(tmp_path, calibration())
    first = (tmp_path / FILE).read_bytes()
    assert read_calibration(tmp_path) == calibration()
    write_calibration(tmp_path, calibration())
    assert (tmp_path / FILE).read_bytes() == first


@pytest.mark.parametrize('change, said', [
    ({'nothing': 0.2}, 'altered.*i2ploc calibrate'),
    ({'hash': None}, 'altered'),
    ({'format': 99}, 'format 99.*update this package'),
    ({'nothing': 1.5}, r'no calibration \(nothing'),
    ({'right': {'weights': [1.0], 'bias': 0.0}}, 'right.weights'),
    ({'colour': 'red'}, 'colour'),
    ({'radius_m': math.inf}, 'radius_m'),
])
def test_what_is_not_as_it_was_written_is_refused(tmp_path, change, said):
    write_calibration(tmp_path, calibration())
    write_json(tmp_path / FILE, {**read_json(tmp_path / FILE), **change})
    with pytest.raises(InputError, match=said):
        read_calibration(tmp_path)


def test_one_of_before_there_were_verifiers_holds_for_its_model_alone(tmp_path):
    written = {**calibration().model_dump(mode='json', exclude={'verify'}), 'format': 1}
    write_json(tmp_path / FILE, {**written, SEAL: content_hash(written)})
    found = read_calibration(tmp_path)
    assert found == calibration(format=1) and found.verify
    # A model with a verifier has another hash than the same without (see test_verifier).
    with pytest.raises(InputError, match='encoder_hash'):
        check_calibration(found, {'encoder_hash': 'of one with a verifier'}, tmp_path)
    for change in ({'verify': True}, {'verify': False}, {'nothing': 0.2}):
        write_json(tmp_path / FILE, {**written, SEAL: content_hash(written), **change})
        with pytest.raises(InputError, match='altered'):
            read_calibration(tmp_path)


@pytest.mark.parametrize('text', ['[]', 'null', '{}'])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match='i2ploc calibrate'):
        read_calibration(tmp_path)


@pytest.mark.parametrize('name, here', [
    ('encoder_hash', 'other'), ('preprocessing_hash', 'other'), ('headings', 12),
    ('spacing_m', 2.0), ('temperature', 0.1), ('top_k', 5), ('verify', False),
    ('map_identity', 'other')])
def test_a_calibration_of_something_else_is_refused(tmp_path, name, here):
    made = calibration(map_identity='this')
    kind = {**KIND, 'map_identity': 'this', 'top_k': 20, 'temperature': 0.03, 'verify': True}
    check_calibration(made, kind, tmp_path)
    what_to_do = f'leave {name} at' if name in SEARCH else 'calibrate again'
    with pytest.raises(InputError, match=f'{name}.*{what_to_do}.*take {FILE} out of'):
        check_calibration(made, {**kind, name: here}, tmp_path)
    if name == 'map_identity':
        check_calibration(calibration(), {**kind, name: here}, tmp_path)  # of any map
