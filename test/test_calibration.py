"""Calibration: its figures by hand, its sealed file, who judges whom, and the command."""

from dataclasses import replace
import json
import math
import shutil

from helpers_cli import i2ploc
from helpers_street import save_small_model, write_street
import numpy as np
import pytest

from saliency_i2ploc_ros.cli.calibrate import turns
from saliency_i2ploc_ros.encoders.config import View
from saliency_i2ploc_ros.encoders.files import preprocessing_hash, read_identity
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.calibrating import all_answers, Answers, fit, Site
from saliency_i2ploc_ros.evaluation.calibration_figures import (
    anees_band,
    judge,
    Judged,
    measures,
    recommended,
)
from saliency_i2ploc_ros.evaluation.calibration_pictures import by_deviation, wilson
from saliency_i2ploc_ros.evaluation.described import Described
from saliency_i2ploc_ros.evaluation.recall import trajectory_blocks
from saliency_i2ploc_ros.geometry.poses import planar
from saliency_i2ploc_ros.localization.calibration import (
    Calibration,
    check_calibration,
    evidence_of,
    FILE,
    file_of,
    Logistic,
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
from saliency_i2ploc_ros.localization.localizer import open_localizer
from saliency_i2ploc_ros.localization.trust import judged as trusted
from saliency_i2ploc_ros.mapping.database import PlaceDatabase
from saliency_i2ploc_ros.mapping.views import headings
from saliency_i2ploc_ros.storage import content_hash, read_json, shared_directory, write_json

KIND = {'encoder_hash': 'e', 'preprocessing_hash': 'p', 'map_identity': '', 'headings': 2,
        'smooth_m': 0.0,
        'spacing_m': 5.0}


def calibration(**changes):
    law = Power(scale=2.0, floor=1.0, power=1.0, growth=0.0)
    values = {
        **KIND, 'top_k': 20, 'temperature': 0.03, 'merge_radius_m': 20.0, 'radius_m': 20.0,
        'right': Logistic(weights=(1.0, 0.0, 0.0, 0.0, 0.0), bias=0.0),
        'inside': Logistic(weights=(0.0, 1.0, 0.0, 0.0, 0.0), bias=0.0), 'along_m': law,
        'across_m': law, 'heading_rad': law, 'nothing': 0.1, 'provenance': {'drives': ['a']}}
    return Calibration(**{**values, **changes})


# ---- figures by hand ----

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


# ---- what images answer ----

def described(what, descriptors, poses, session='d'):
    return Described(what, session, np.asarray(descriptors, np.float32), np.stack(poses),
                     np.arange(len(poses)))


def test_answers_are_of_the_vehicle_whichever_way_its_camera_looks():
    # Places every 5 m along x, seen by a camera that looks ahead; each image matches one of them.
    views = [planar(5.0 * i, 0.0, 0.0) for i in range(8)]
    # Its vehicle is turned right by a quarter, since its camera looks to the left.
    vehicle = [planar(5.0 * i, 0.5, -math.pi / 2) for i in (1, 3)]
    site = Site('s', 'f', described('cloud', np.eye(8), views),
                [(described('image', np.eye(8)[[1, 3]], vehicle), math.pi / 2)])
    config = LocalizerConfig(top_k=4, temperature=0.01)
    found, = all_answers([site], 5.0, config)
    assert found.inside and found.right.all() and len(found) == 2
    # The answer lies 0.5 m off in y; the vehicle looks along -y.
    assert found.error == pytest.approx(np.array([[0.5, 0.0, 0.0]] * 2), abs=1e-6)
    assert found.yaw == pytest.approx([-math.pi / 2] * 2)
    assert found.chance.tolist() == [3 / 8, 3 / 8]  # one, and its neighbours on both sides
    assert found.near[:, 0].all() and found.scores.shape == (2, 4)
    # A vehicle that looks along x is wrong by a quarter turn.
    turned = replace(site, queries=[(site.queries[0][0], 0.0)])
    assert not all_answers([turned], 5.0, config)[0].right.any()


def test_images_are_strangers_only_in_maps_of_other_frames():
    def site(name, frame, places=True):
        poses = [planar(5.0 * i, 0.0, 0.0) for i in range(6)]
        return Site(name, frame, described('cloud', np.eye(6), poses) if places else None,
                    [(described('image', np.eye(6), poses, name), 0.0)])
    sites = [site('a', 'A'), site('a at dusk', 'A'), site('b', 'B'), site('c', 'C', False)]
    found = all_answers(sites, 5.0, LocalizerConfig(top_k=3))
    assert [(one.site, one.drive, one.inside, len(one)) for one in found] == [
        ('a', 'a', True, 6), ('a', 'b', False, 2), ('a', 'c', False, 2),
        ('a at dusk', 'a at dusk', True, 6), ('a at dusk', 'b', False, 2),
        ('a at dusk', 'c', False, 2), ('b', 'a', False, 2), ('b', 'a at dusk', False, 2),
        ('b', 'b', True, 6), ('b', 'c', False, 2)]
    assert np.isnan(found[1].error).all() and not found[1].right.any()
    assert not found[1].near.any() and not found[1].chance.any()


def answers(frame, taken, n=80, seed=0, sigma=2.0):
    """Return answers whose odds of being right are exp(weight), and of inside exp(8 score)."""
    rng = np.random.default_rng([seed, *map(ord, frame + taken)])
    inside = frame == taken
    evidence = np.column_stack([rng.normal(1.0, 2.0, n), rng.normal(0.5 * inside, 0.25, n),
                                np.zeros((n, 3))])
    right = rng.random(n) < 1.0 / (1.0 + np.exp(-evidence[:, 0]))
    error = rng.normal(0.0, [sigma, sigma / 2, 0.02], (n, 3))
    error[~right, 0] += 200.0
    xy = np.column_stack([np.arange(n) * 4.0, np.zeros(n)])
    return Answers(
        frame, frame, taken, inside, taken, evidence,
        np.column_stack([rng.exponential(2.0, (n, 2)), np.full(n, 0.02), np.full(n, -2.0)]),
        error if inside else error * np.nan, rng.uniform(-3, 3, n), xy,
        np.full((n, 2), 0.5), np.ones((n, 2), bool) & inside, np.full(n, 0.1 * inside),
        trajectory_blocks(xy[:, 0]))


def taught(asked):
    return fit(asked, LocalizerConfig(), KIND)


def test_nobody_is_judged_by_what_it_taught():
    asked = [answers(f, t) for f in 'ABCD' for t in 'ABCD']
    lessons = []

    def spy(some):
        lessons.append({(one.map, one.taken) for one in some})
        return taught(some)

    judged = judge(asked, spy, 0.05)
    assert len(judged) == 16 * 80  # everybody is judged
    assert len(lessons) == 4 + 6  # without one site, and without a map and the strangers' home
    for lesson in lessons:
        missing = set('ABCD') - {name for pair in lesson for name in pair}
        assert len(missing) in (1, 2)
        # All that has nothing to do with who is judged teaches.
        assert len(lesson) == (4 - len(missing)) ** 2
    with_three = judge([answers(f, t) for f in 'ABC' for t in 'ABC'], taught, 0.05)
    assert with_three.inside.all()  # strangers would have taught


def test_what_two_sites_left_out_make_unlearnable_costs_their_strangers_alone():
    def asked(sites, right):
        return [replace(one, error=0.0 * one.error) if one.inside and one.map in right else one
                for one in (answers(f, t) for f in sites for t in sites)]

    # Without B and C only A is left, which is all right.
    judged = judge(asked('ABC', 'A'), taught, 0.05)
    assert len(judged) == 3 * 80 and judged.inside.all()
    # Of four, strangers of C and D in each other's map cannot be judged, those of the rest can.
    judged = judge(asked('ABCD', 'AB'), taught, 0.05)
    assert len(judged) == 14 * 80 and judged.inside.sum() == 4 * 80
    with pytest.raises(InputError, match='are right'):
        judge(asked('ABC', 'AB'), taught, 0.05)  # nor can C itself be judged


def test_one_map_is_judged_by_halves_of_the_way():
    asked = [answers('A', 'A'), replace(answers('A', 'A', seed=1), drive='back')]
    lessons = []
    judged = judge(asked, lambda some: (lessons.append(some), taught(some))[1], 0.05)
    assert len(judged) == 160 and len(lessons) == 2
    for lesson in lessons:
        x = np.concatenate([one.xy[:, 0] for one in lesson])
        assert len(x) == 80 and (x.max() < 158.1 or x.min() > 158.1)  # both drives, one half
    # Blocks are those of the whole way, 316 m twice: a half's first is not the other's first too.
    numbers, images = np.unique(judged.block, return_counts=True)
    assert len(numbers) == 2 * 7 and images.max() == 13


def test_a_calibration_without_right_answers_is_refused():
    asked = [answers('A', 'A')]
    asked = [replace(asked[0], error=asked[0].error + 500.0)]
    with pytest.raises(InputError, match='all of the 80 answers are wrong'):
        taught(asked)
    with pytest.raises(InputError, match='no image with a pose in its own map'):
        taught([answers('A', 'B')])


def test_the_figures_of_a_simulation_are_those_of_its_making():
    asked = [answers(f, t, 500) for f in 'ABCD' for t in 'ABCD']
    judged = judge(asked, taught, 0.05)
    found = measures(judged, 0.05)
    own = judged.of(judged.inside)
    assert found['right'] == own.right.mean() and 0.6 < found['right'] < 0.75
    assert found['ece'] < 0.05 and found['mixed_ece'] < 0.05
    assert found['right_coverage_along_2'] == pytest.approx(0.954, abs=0.03)
    assert found['right_coverage_x_1'] == pytest.approx(0.683, abs=0.05)
    assert found['right_anees'] == pytest.approx(1.0, abs=0.1)
    # Two normals 2 deviations apart.
    assert found['open_auroc'] == pytest.approx(0.921, abs=0.015)
    accepted = judged.probability >= 0.9
    assert found['at_0.9_accepted'] == accepted[judged.inside].mean()
    assert found['at_0.9_false'] == pytest.approx(1 - own.right[own.probability >= 0.9].mean())
    assert found['at_0.9_elsewhere'] == accepted[~judged.inside].mean()
    # Strangers are three times as many, and count as 5 of 100.
    n = np.where(judged.inside, 0.95 / 0.25, 0.05 / 0.75)
    assert found['at_0.9_mixed_false'] == pytest.approx(
        np.average(~judged.right[accepted], weights=n[accepted]))
    band = anees_band(judged)
    assert band.low < 1.0 < band.high and 500 < band.effective <= own.right.sum()
    wide = replace(judged, error=1.5 * judged.error)
    assert measures(wide, 0.05)['right_anees'] > anees_band(wide).high
    thresholds = recommended(judged, 0.05)
    assert thresholds['0.01'] >= thresholds['0.02'] >= thresholds['0.05']
    # Wrong with certainty: no threshold keeps the rate, and JSON has no infinity.
    bold = replace(judged, probability=np.ones(len(judged)), right=judged.right & False)
    assert recommended(bold, 0.05) == {'0.01': None, '0.02': None, '0.05': None}
    without = measures(own, 0.05)
    assert math.isnan(without['open_auroc']) and math.isnan(without['mixed_ece'])
    assert without['ece'] == found['ece']


def test_nees_is_that_of_the_turned_covariance():
    asked = [answers(f, f) for f in 'AB']
    judged = judge(asked, taught, 0.0)
    made = taught([asked[1]])  # judges A
    one = asked[0]
    for i in (0, 7):
        P = made.plane_covariance(one.spread[i], one.yaw[i])
        c, s = math.cos(one.yaw[i]), math.sin(one.yaw[i])
        along, across, turn = one.error[i]
        e = np.array([c * along - s * across, s * along + c * across, turn])
        assert judged.nees[i] == pytest.approx(e @ np.linalg.solve(P, e) / 3)
        assert judged.sigma[i, 3:] ** 2 == pytest.approx(np.diag(P)[:2])
        assert judged.error[i, 3:] == pytest.approx(e[:2])


def test_helpers_of_the_pictures():
    low, high = wilson(np.array([0.5]), np.array([100.0]))
    assert (low[0], high[0]) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.uniform(0, 3, 4000))
    said, was = by_deviation(sigma, rng.normal(0, 2 * sigma))
    assert len(said) == 12 and was / said == pytest.approx(np.full(12, 2.0), rel=0.2)
    assert isinstance(judge([answers('A', 'A'), answers('B', 'B')], taught, 0.0), Judged)


# ---- the command ----

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
