"""Answers joined by a belief: against the belief by hand, cameras aside, reasons, covariance."""

from dataclasses import replace
import math
from types import SimpleNamespace

import numpy as np
import pytest

from saliency_i2ploc_ros.evaluation.sequences import odometry_of
from saliency_i2ploc_ros.geometry.poses import inverse, planar, wrap, yaw_of
from saliency_i2ploc_ros.localization.belief import Belief, BeliefConfig
from saliency_i2ploc_ros.localization.fix import Answer, Candidates, Fix
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig, mixture_weights
from saliency_i2ploc_ros.localization.odometry_noise import OdometryNoise
from saliency_i2ploc_ros.localization.sequence import Prior, Sequence

CONFIG = LocalizerConfig(merge_radius_m=8.0)
NOTHING = BeliefConfig().nothing
STEP = planar(5.0, 0.0, 2 * math.pi / 40)


class Places:
    """A round way of 40 places, 5 m apart, at a height; a place that looks ahead each."""

    spacing_m = 5.0

    def __init__(self, n=40, slope=0.0):
        radius, angles = n * 5.0 / (2 * math.pi), np.arange(n) * 2 * math.pi / n
        tilt = np.eye(4)
        tilt[:3, :3] = [[math.cos(slope), 0, math.sin(slope)], [0, 1, 0],
                        [-math.sin(slope), 0, math.cos(slope)]]
        self.T_map_base = np.stack([
            planar(radius * math.cos(a), radius * math.sin(a), wrap(a + math.pi / 2), 116.0) @ tilt
            for a in angles])

    def __len__(self):
        return len(self.T_map_base)


def answer(database, places, scores, heading=0.0, inside=math.nan):
    """Return what a camera of this heading in its vehicle would be answered."""
    places = np.asarray(places, np.int64)
    T = database.T_map_base[places] @ planar(0.0, 0.0, -heading)
    best = Fix(T[0], np.diag([9.0, 9.0, 25.0, 0.03, 0.03, 0.01]), float(scores[0]))
    return Answer(None, 'ambiguous', 'places far apart look alike', Candidates(
        places, np.array(scores, np.float32), T), {}, estimate=best, confidence=0.3, inside=inside)


UNSEEN = Answer(None, 'no_texture', 'the image shows nothing', Candidates.none(), {})


def test_one_camera_ahead_is_the_belief_by_hand():
    places, rng = Places(), np.random.default_rng(0)
    sequence = Sequence(places, CONFIG)
    belief = Belief(places.T_map_base, 5.0, BeliefConfig(outside=CONFIG.outside))
    for t in range(6):
        found = np.array([t, *rng.choice(np.arange(10, 40), 4, replace=False)])
        scores = np.sort(rng.uniform(0.6, 0.8, 5))[::-1]
        given = sequence.joined(answer(places, found, scores), STEP if t else None)
        if t:
            belief.moved(STEP)
        order = np.argsort(found)
        weights = mixture_weights(scores.astype(np.float32), CONFIG.temperature)[order]
        belief.saw(found[order], (1 - NOTHING) * 40 * weights + NOTHING, NOTHING, 1.0)
        np.testing.assert_array_equal(sequence.belief.places, belief.places)
        np.testing.assert_allclose(sequence.belief.weights, belief.weights, rtol=1e-6)
        assert given.confidence == pytest.approx(belief.located(8.0).probability, rel=1e-6)
    located = belief.located(8.0)
    assert given.rejection is None and given.fix is given.estimate
    np.testing.assert_allclose(given.fix.T_map_base[:2, 3], located.pose[:2], atol=1e-5)
    assert yaw_of(given.fix.T_map_base) == pytest.approx(located.pose[2], abs=1e-6)
    assert given.fix.T_map_base[2, 3] == 116.0
    assert given.outside == pytest.approx(belief.outside)
    assert given.fix.score == given.estimate.score


def test_alone_ambiguous_together_a_fix():
    places = Places()
    sequence = Sequence(places, CONFIG)
    reasons = []
    for t in range(8):
        # Two stretches look alike, and to another one lies the other way round.
        given = sequence.joined(answer(places, [t, (30 - 3 * t) % 40], [0.7, 0.7]),
                                STEP if t else None)
        reasons.append(given.rejection)
    assert reasons[0] == 'undecided' and reasons[-1] is None
    assert 'not yet certain: ' in sequence_first(places).explanation
    np.testing.assert_allclose(given.fix.T_map_base[:2, 3], places.T_map_base[7, :2, 3], atol=2.5)


def sequence_first(places):
    return Sequence(places, CONFIG).joined(answer(places, [3, 20], [0.7, 0.7]), None)


def test_an_image_that_was_not_searched_only_moves():
    places = Places()
    sequence = Sequence(places, CONFIG)
    for t in range(4):
        sequence.joined(answer(places, [t], [0.9]), STEP if t else None)
    before = sequence.belief.located(8.0)
    assert sequence.joined(UNSEEN, STEP) is UNSEEN
    after = sequence.belief.located(8.0)
    assert after.probability <= before.probability + 1e-9
    np.testing.assert_allclose(after.pose[:2], places.T_map_base[4, :2, 3], atol=1.0)


@pytest.mark.parametrize('heading', [math.pi / 2, -2.5])
def test_a_camera_that_looks_aside_moves_as_its_vehicle_does(heading):
    """The vehicle drives round the places while each looks aside of its own way."""
    ahead = Places()
    aside = Places()
    aside.T_map_base = ahead.T_map_base @ planar(0.0, 0.0, heading)
    sequence = Sequence(aside, CONFIG)
    for t in range(8):
        given = sequence.joined(answer(aside, [t, (30 - 3 * t) % 40], [0.7, 0.7], heading),
                                STEP if t else None)
    other = Sequence(ahead, CONFIG)
    for t in range(8):
        expected = other.joined(answer(ahead, [t, (30 - 3 * t) % 40], [0.7, 0.7]),
                                STEP if t else None)
    assert given.fix is not None
    np.testing.assert_allclose(given.fix.T_map_base, expected.fix.T_map_base, atol=1e-6)
    np.testing.assert_allclose(given.fix.covariance, expected.fix.covariance, atol=1e-6)


def test_places_that_another_camera_found_are_left_out():
    places = Places()
    sequence = Sequence(places, CONFIG)
    sequence.joined(answer(places, [0], [0.9]), None)
    probability = sequence.belief.located(8.0).probability
    given = sequence.joined(answer(places, [20], [0.9], heading=1.0), None)
    assert given.confidence == pytest.approx(probability)  # nothing that it can weigh
    assert sequence.belief.located(8.0).place == 0


def test_the_slope_of_the_place_is_kept():
    places = Places(slope=0.1)
    sequence = Sequence(places, CONFIG)
    given = sequence.joined(answer(places, [5], [0.9]), None)
    np.testing.assert_allclose(given.estimate.T_map_base[:3, :3], places.T_map_base[5, :3, :3],
                               atol=0.05)
    assert given.estimate.T_map_base[2, 0] == pytest.approx(-math.sin(0.1), abs=1e-6)


def test_reset_forgets():
    places = Places()
    sequence = Sequence(places, CONFIG)
    fresh = sequence.joined(answer(places, [7, 20], [0.8, 0.7]), None)
    for t in range(5):
        sequence.joined(answer(places, [8 + t], [0.9], 0.5), STEP)
    sequence.reset()
    again = sequence.joined(answer(places, [7, 20], [0.8, 0.7]), None)
    assert again.confidence == fresh.confidence and again.rejection == fresh.rejection
    np.testing.assert_array_equal(again.estimate.T_map_base, fresh.estimate.T_map_base)


def test_images_from_elsewhere_are_said_to_be_outside():
    places, rng = Places(), np.random.default_rng(1)
    sequence = Sequence(places, replace_config(outside=0.1))
    for _ in range(8):
        given = sequence.joined(
            answer(places, rng.choice(40, 5, replace=False), np.full(5, 0.6), inside=0.05), STEP)
    assert given.rejection == 'outside' and given.fix is None
    assert 'the vehicle seems to be outside the map' in given.explanation
    assert given.outside > 0.9
    assert given.as_dict()['outside'] == pytest.approx(given.outside)
    assert 'outside' not in UNSEEN.as_dict()


def replace_config(**changes):
    return CONFIG.model_copy(update=changes)


def test_one_image_alone_never_decides_that_it_is_outside():
    places = Places()
    sequence = Sequence(places, CONFIG)
    for t in range(6):
        sequence.joined(answer(places, [t], [0.9]), STEP)
    given = sequence.joined(replace(answer(places, [6], [0.9]), inside=0.0), STEP)
    assert given.rejection is None and given.outside < 0.1


def test_the_covariance_is_positive_and_not_below_what_places_can_know():
    places = Places()
    sequence = Sequence(places, CONFIG)
    sigmas = []
    for t in range(12):
        given = sequence.joined(answer(places, [t], [0.9]), STEP if t else None)
        P = given.estimate.covariance
        assert (np.linalg.eigvalsh(P) > 0).all()
        np.testing.assert_array_equal(P, P.T)
        c, s = np.cos(yaw_of(given.estimate.T_map_base)), np.sin(yaw_of(given.estimate.T_map_base))
        along = np.array([c, s]) @ P[:2, :2] @ [c, s]
        across = np.array([-s, c]) @ P[:2, :2] @ [-s, c]
        sigmas.append((math.sqrt(along), math.sqrt(across), math.sqrt(P[5, 5])))
        assert P[2, 2] == CONFIG.z_sigma_m ** 2
    floors = sequence.floors
    assert (np.array(sigmas) >= np.array(floors) - 1e-9).all()


def test_a_sequence_without_any_belief_says_so():
    places = Places()
    sequence = Sequence(places, CONFIG)
    sequence.belief.saw = lambda *_: None
    given = sequence.joined(answer(places, [3], [0.9]), None)
    assert given.fix is None and given.estimate is None and given.rejection == 'undecided'
    assert given.confidence == 0.0


class Calibrated(SimpleNamespace):
    def plane_covariance(self, spread, yaw):
        self.asked = spread, yaw
        return np.diag([4.0, 1.0, 0.01])


def test_a_calibration_says_how_often_images_say_nothing():
    places = Places()
    sure, unsure = (Sequence(places, CONFIG, Calibrated(nothing=n)).joined(
        answer(places, [3, 4, 20], [0.9, 0.85, 0.8]), None).confidence for n in (0.1, 0.8))
    assert sure > unsure


def test_a_calibrations_laws_make_the_covariance_of_the_beliefs_spread():
    places, law = Places(), Calibrated(nothing=0.1)
    aside = Places()
    aside.T_map_base = places.T_map_base @ planar(0.0, 0.0, 1.0)
    sequence = Sequence(aside, CONFIG, law)
    given = sequence.joined(answer(aside, [39, 0, 1], [0.8, 0.8, 0.8], 1.0), None)
    np.testing.assert_array_equal(given.estimate.covariance[np.ix_([0, 1, 5], [0, 1, 5])],
                                  np.diag([4.0, 1.0, 0.01]))
    spread, yaw = law.asked
    assert yaw == pytest.approx(math.pi / 2, abs=1e-6)  # the vehicle's own
    each = 2 * math.pi / 40  # of the ring: ahead, here and behind
    assert spread[0] == pytest.approx(math.sqrt(2 / 3) * 200 / (2 * math.pi) * math.sin(each),
                                      rel=0.02)
    assert spread[1] < 0.4 and spread[2] == pytest.approx(math.sqrt(2 / 3) * each, rel=0.02)
    assert spread[3] == 0.0


@pytest.mark.parametrize('variance', [1e-4, 0.3, 2.0, 100.0])
def test_a_moved_prior_is_that_of_many_vehicles(variance):
    """Against 400 000 drawn ones, whose heading goes with their position."""
    rng = np.random.default_rng(0)
    mean, deviations = np.array([50.0, -20.0, 0.7]), np.sqrt([9.0, 4.0, variance])
    correlation = np.array([[1.0, 0.3, 0.4], [0.3, 1.0, -0.5], [0.4, -0.5, 1.0]])
    P = correlation * np.outer(deviations, deviations)
    step = planar(8.0, 3.0, 0.4)
    moved = Prior(planar(*mean, 7.0), P).moved(step)
    x, y, yaw = rng.multivariate_normal(mean, P, 400_000).T
    drawn = np.stack([x + np.cos(yaw) * 8.0 - np.sin(yaw) * 3.0,
                      y + np.sin(yaw) * 8.0 + np.cos(yaw) * 3.0, yaw + 0.4])
    np.testing.assert_allclose(moved.T_map_base[:2, 3], drawn[:2].mean(1), atol=0.05)
    assert moved.T_map_base[2, 3] == 7.0
    assert wrap(yaw_of(moved.T_map_base) - 1.1) == pytest.approx(0.0, abs=1e-9)
    scale = np.sqrt(np.diag(moved.covariance))
    np.testing.assert_allclose(moved.covariance / np.outer(scale, scale),
                               np.cov(drawn) / np.outer(scale, scale), atol=0.01)
    assert np.linalg.eigvalsh(moved.covariance)[0] > 0.0


def test_a_prior_without_a_heading_widens_and_stays():
    """Wherever its yaw happens to point: all directions are as likely."""
    prior = Prior(planar(50.0, 0.0, 1.0), np.diag([9.0, 9.0, 100.0]))
    moved = prior.moved(planar(10.0, 0.0, 0.0))
    np.testing.assert_allclose(moved.T_map_base[:2, 3], [50.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(moved.covariance[:2, :2], np.diag([59.0, 59.0]), atol=1e-6)
    still = prior.moved(np.eye(4), OdometryNoise())
    np.testing.assert_allclose(still.T_map_base, prior.T_map_base, atol=1e-12)
    np.testing.assert_allclose(still.covariance, prior.covariance, atol=1e-12)


@pytest.mark.parametrize('known', [True, False])
def test_a_moved_prior_grows_with_the_way(known):
    """By hand, of 50 m: 2 % of it and what slips, and what a heading does aside."""
    prior = Prior(planar(0.0, 0.0, math.pi / 2), np.diag([9.0, 4.0, 1e-12 if known else 100.0]))
    step, noise = planar(50.0, 0.0, 0.3), OdometryNoise()
    added = prior.moved(step, noise).covariance - prior.moved(step).covariance
    turn, bias = math.radians(0.3) ** 2, math.radians(0.02) ** 2
    along, aside = 1.0 ** 2 + 0.02 ** 2 * 50.0, turn * 50.0 ** 3 / 3 + bias * 50.0 ** 4 / 4
    assert (along, aside) == pytest.approx((1.02, 1.3327), abs=1e-3)
    # It looks along y; of a vehicle that looks anywhere both are everywhere.
    expected = np.diag([aside, along, turn * 50.0 + bias * 2500.0])
    expected[0, 2] = expected[2, 0] = -(turn * 50.0 ** 2 / 2 + bias * 50.0 ** 3 / 2)
    if not known:
        expected = np.diag([*[0.5 * (along + aside)] * 2, expected[2, 2]])
    np.testing.assert_allclose(added, expected, atol=1e-9)


@pytest.mark.parametrize('variance', [1e-4, 0.3])
def test_a_prior_moved_by_odometry_is_that_of_many_vehicles(variance):
    """Which tell of 40 m obliquely ahead what the odometry of a judged drive would."""
    rng = np.random.default_rng(0)
    noise = OdometryNoise(scale=0.05, slip_m=0.1, turn_deg=1.0, bias_deg_m=0.1)
    way = np.stack([planar(0.8 * i, 0.6 * i, 0.4) for i in range(41)])
    motion, ends = inverse(way[0]) @ way[-1], []
    for yaw in rng.normal(0.7, math.sqrt(variance), 1500):
        T = planar(0.0, 0.0, yaw)
        for step in odometry_of(way, noise, rng):
            T = T @ step
        ends.append([*T[:2, 3], yaw_of(T)])
    moved = Prior(planar(0.0, 0.0, 0.7), np.diag([1e-12, 1e-12, variance])).moved(motion, noise)
    drawn, scale = np.cov(np.array(ends).T), np.sqrt(np.diag(moved.covariance))
    np.testing.assert_allclose(drawn / np.outer(scale, scale),
                               moved.covariance / np.outer(scale, scale), atol=0.12)
