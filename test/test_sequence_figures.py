"""The figures of runs and of false fixes, on cases that are small enough to do by hand."""

import math

import numpy as np
import pytest

from saliency_i2ploc_ros.evaluation.calibration_pictures import wilson
from saliency_i2ploc_ros.evaluation.false_fixes import (
    false_runs,
    most_available,
    over_thresholds,
)
from saliency_i2ploc_ros.evaluation.sequence_figures import (
    drive_figures,
    fix_figures,
    Run,
    share_reached,
    start_figures,
)

NO = math.nan


def run(off, turned=0.0, since=0, block=0, city=0):
    """Return a run of images 5 m and 1 s apart, whose fixes are so far off along x; NaN: none."""
    off = np.array(off, np.float64)
    n = len(off)
    error = np.column_stack([off, np.zeros(n), np.where(np.isnan(off), NO, turned)])
    covariance = np.tile(np.diag([4.0, 4.0, 1.0, 1.0, 1.0, 0.04]), (n, 1, 1))
    return Run(np.arange(n), 5.0 * np.arange(n), 1.0 * np.arange(n), error, covariance,
               np.where(np.isnan(off), 0.5, 0.9), np.where(np.isnan(off), 1.0, off),
               np.full(n, block), since, city)


def test_figures_of_fixes_by_hand():
    found = fix_figures([run([NO, 2.0, 30.0, 1.0], turned=0.2)])
    assert (found['images'], found['accepted'], found['false_fixes']) == (4, 3, 1)
    assert found['availability'] == 0.75 and found['false_fix_rate'] == pytest.approx(1 / 3)
    # Of the two that are right: (1 + 0 + 1) / 3 and (1/4 + 0 + 1) / 3.
    assert found['right_fixes']['anees_xy_yaw'] == pytest.approx((2 + 1.25) / 6)
    assert found['yaw_deg']['p95'] == pytest.approx(math.degrees(0.2))
    assert found['over_thresholds']['confidence'].tolist() == [0.9, 0.5]
    assert found['over_thresholds']['availability'].tolist() == [0.75, 1.0]
    assert found['over_thresholds']['false_fix_rate'] == pytest.approx([1 / 3, 1 / 4])


def test_availability_over_thresholds_by_hand():
    confidence = np.array([0.9, 0.8, 0.8, 0.7, 0.6, NO, 0.99])
    distance = np.array([1.0, 2.0, 25.0, 3.0, 4.0, 5.0, NO])
    found = over_thresholds(confidence, distance)
    assert found['confidence'].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert found['availability'] == pytest.approx([1 / 7, 3 / 7, 4 / 7, 5 / 7])
    assert found['false_fix_rate'] == pytest.approx([0, 1 / 3, 1 / 4, 1 / 5])
    # One fix without a false one does not tell of 1 %.
    assert found['availability_at'] == {'0.001': None, '0.01': None}
    assert over_thresholds(confidence, np.full(7, NO)) is None


def test_the_best_threshold_is_said_of_no_fewer_fixes_than_tell_its_rate():
    confidence = np.linspace(0.9, 0.1, 200)
    distance = np.where(np.isin(np.arange(200), [120, 130, 199]), 30.0, 1.0)
    found = over_thresholds(confidence, distance)['availability_at']
    assert found == {'0.001': None, '0.01': pytest.approx(130 / 200)}
    assert over_thresholds(confidence[:100], distance[:100])['availability_at']['0.01'] == 1.0
    assert over_thresholds(confidence[:99], distance[:99])['availability_at']['0.01'] is None
    # Drawn again by a bootstrap: the first half twice, and only the false ones.
    most = most_available(np.append(confidence, NO), np.append(distance, 1.0))
    assert most(np.tile(np.arange(100), 2)).tolist() == [1.0, 1.0]
    assert most(np.array([120, 130, 200])).tolist() == [0.0, 0.0]
    assert most(np.arange(201)) == pytest.approx([120 / 201, 130 / 201])


def test_runs_of_false_fixes_by_hand():
    metres = np.arange(9) * 5.0
    off = np.array([1.0, 30.0, NO, 40.0, 50.0, 2.0, 60.0, NO, 1.0])
    found = false_runs([(off, metres, metres / 10), (np.array([99.0]), metres, metres)])
    # From the second image to the fifth, which has three fixes; the seventh; another drive's.
    assert found == {'count': 3, 'longest_fixes': 3, 'longest_m': 15.0, 'longest_s': 1.5}
    none = false_runs([(np.array([1.0, NO]), metres, metres)])
    assert none == {'count': 0, 'longest_fixes': 0, 'longest_m': 0.0, 'longest_s': 0.0}


def test_starts_by_hand():
    runs = [run([NO, 1.0]), run([NO, 50.0, NO, 3.0], block=4), run([NO, NO], block=8)]
    found = start_figures(runs, 10.0, 200.0)
    assert found['share_within'] == pytest.approx(1 / 3) and found['never'] == 1
    assert found['metres'] == {'p50': 15.0, 'p95': math.inf, 'p99': math.inf}
    assert found['seconds']['p50'] == 3.0
    assert found['intervals']['share_within'] == [0.0, 1.0]
    np.testing.assert_allclose(share_reached(runs, np.array([0.0, 5.0, 15.0, 99.0])),
                               [0, 1 / 3, 2 / 3, 2 / 3])


def test_starts_of_one_stretch_as_long_as_a_run_are_one():
    """A start each 50 m: those that share their images are drawn together."""
    good = np.repeat(np.random.default_rng(0).random(20) < 0.6, 4)
    runs = [run([1.0 if each else NO, NO], block=i) for i, each in enumerate(good)]
    low, high = start_figures(runs, 50.0, 200.0)['intervals']['share_within']
    expected = wilson(good.mean(), 20)
    assert low == pytest.approx(expected[0], abs=0.06)
    assert high == pytest.approx(expected[1], abs=0.06)
    near = start_figures(runs[:4], 50.0, 200.0)['intervals']['share_within']
    assert np.isnan(near).all()


def test_of_several_cities_cities_are_drawn():
    """One of five is bad all over: what a further one would be is not known."""
    def interval(cities):
        runs = [run([NO if city == 0 else 1.0], block=1000 * city + 4 * i,
                    city=city if cities else 0) for city in range(5) for i in range(20)]
        return start_figures(runs, 50.0, 200.0)['intervals']['share_within']

    low, high = interval(cities=True)
    assert low <= 0.4 and high == 1.0
    low, high = interval(cities=False)
    assert 0.65 < low < high < 0.95


def test_a_kidnapped_run_counts_from_where_it_is_carried_to():
    carried = run([1.0, 1.0, NO, 2.0], since=2)
    assert carried.reached == (5.0, 1.0) and carried.first_right() == 3
    found = start_figures([carried], 50.0, 200.0)
    assert found['images'] == 2 and found['metres']['p50'] == 5.0
    assert run([1.0, NO, NO], since=1).reached == (math.inf, math.inf)


def test_intervals_hold_what_blocks_say():
    """Of 40 stretches, each all right or all without a fix: as if 40 images had been asked."""
    rng = np.random.default_rng(0)
    good = rng.random(40) < 0.7
    off = np.repeat(np.where(good, 1.0, NO), 10)
    whole = run(off)
    whole = Run(*(getattr(whole, name) for name in (
        'rows', 'metres', 'seconds', 'error', 'covariance', 'confidence', 'estimate_m')),
        np.repeat(np.arange(40), 10))
    found = drive_figures([whole, whole])  # twice: no more is known
    low, high = found['intervals']['availability']
    expected = wilson(good.mean(), 40)
    assert low == pytest.approx(expected[0], abs=0.06)
    assert high == pytest.approx(expected[1], abs=0.06)
    assert found['intervals']['position_m']['p95'] == [1.0, 1.0]
