"""What images answer, what is learned of it, and who judges whom."""

from dataclasses import replace
import math

from helpers_calibration import KIND
import numpy as np
import pytest

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
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig


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
