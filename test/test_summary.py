"""The figures of summary.json on a case that is small enough to do by hand."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import chi2, norm

from saliency_i2ploc_ros.evaluation.acceptance import acceptance
from saliency_i2ploc_ros.evaluation.pose_errors import (
    anees,
    consistency,
    planar_errors,
    reliability,
    RELIABILITY_LEVELS,
)
from saliency_i2ploc_ros.evaluation.report import summary_table
from saliency_i2ploc_ros.evaluation.summary import latency, Record, summarize
from saliency_i2ploc_ros.evaluation.trust_pictures import draw_acceptance
from saliency_i2ploc_ros.evaluation.verdict import verdict_entry
from saliency_i2ploc_ros.geometry.poses import planar

P = np.diag([9.0, 16.0, 25.0, 0.1, 0.1, 0.01])
SECOND = 10 ** 9


def record(second, estimate, truth, candidates=(), rejection=None, ms=None):
    return Record(
        stamp_ns=second * SECOND, T_map_base=estimate,
        covariance=None if estimate is None else P, rejection=rejection,
        candidates=np.array([planar(x, y, 0.0) for x, y in candidates]).reshape(-1, 4, 4),
        milliseconds=ms or {}, truth=np.full((4, 4), np.nan) if truth is None else truth)


@pytest.fixture
def run():
    """Return six images in 10 s along x, 10 m apart: three fixes judged, one not, two rejected."""
    stages = {'prepare': 1.0, 'encode': 4.0}
    return [
        record(100, None, planar(0, 0, 0), [(500, 0)], 'ambiguous', stages),
        record(102, planar(110, 0, 0), planar(10, 0, 0), [(500, 0), (600, 0)], None, stages),
        record(104, planar(23, 4, 3.1), planar(20, 0, -3.1), [(500, 0), (20, 0)], None, stages),
        record(106, planar(30, 8, 0.1), planar(30, 0, 0), [(30, 0), (500, 0)], None, stages),
        record(109, planar(0, 0, 0), None, [(30, 0), (500, 0)], None, stages),
        record(110, None, planar(50, 0, 0), [], 'no_texture', {'prepare': 3.0, 'encode': 0.0}),
    ]


def test_a_run_done_by_hand(run):
    places = np.array([[0.0, 0.0], [30.0, 0.0], [500.0, 0.0], [600.0, 0.0]])
    s = summarize(run[::-1], places, {'drive': 'x'}, images_in=9)  # in any order
    assert s['provenance'] == {'drive': 'x'}
    coverage = s['coverage']
    assert coverage['images_in'] == 9
    assert coverage['dropped'] == 3
    assert (coverage['attempted'], coverage['accepted'], coverage['rejected']) == (6, 4, 2)
    assert coverage['rejected_by_reason'] == {'ambiguous': 1, 'no_texture': 1}
    assert coverage['without_truth'] == 1
    assert coverage['longest_gap_s'] == pytest.approx(3.0)  # from 106 to 109 s
    assert coverage['first_correct_s'] == pytest.approx(4.0)
    assert coverage['first_correct_m'] == pytest.approx(20.0)

    errors = s['errors']
    assert errors['fixes_judged'] == 3
    assert errors['position_m']['median'] == pytest.approx(8.0)
    assert errors['position_m']['mean'] == pytest.approx((100.0 + 5.0 + 8.0) / 3)
    assert errors['position_m']['max'] == pytest.approx(100.0)
    assert errors['yaw_deg']['median'] == pytest.approx(np.degrees(2 * np.pi - 6.2))
    assert errors['yaw_deg']['max'] == pytest.approx(np.degrees(0.1))
    assert errors['share_within_m'] == pytest.approx(
        {'1': 0, '5': 1 / 3, '10': 2 / 3, '20': 2 / 3})
    assert errors['false_accept_rate'] == pytest.approx(1 / 3)
    assert errors['wrong_way_rate'] == 0.0  # the largest, across the seam, is 5 degrees

    # With truth: x = 0, 10, 20, 30, 50; the places within 20 m of them: 1, 2, 2, 1, 1.
    recall = s['recall']
    assert (recall['queries'], recall['excluded']) == (5, 0)
    assert recall['at']['1']['recall'] == pytest.approx(1 / 5)
    assert recall['at']['1']['chance'] == pytest.approx((3 * 1 / 4 + 2 * 2 / 4) / 5)
    assert recall['at_1_percent'] == {'k': 1, **recall['at']['1']}
    assert recall['at']['5']['recall'] is None  # only two candidates were listed
    assert recall['at']['5']['chance'] == pytest.approx(1.0)

    # Errors x, y: (100, 0), (3, 4), (0, 8) at sigma 3 and 4.
    within = s['calibration']['within_1_2_3_sigma']
    assert within['x'] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert within['y'] == pytest.approx([2 / 3, 1, 1])
    expected = (100 ** 2 / 9 + (1 + 1) + 64 / 16) / 2 / 3
    assert s['calibration']['anees_xy'] == pytest.approx(expected)

    assert s['latency_ms']['encode'] == pytest.approx({'p50': 4, 'p95': 4, 'p99': 4})
    assert s['latency_ms']['prepare']['p99'] > 2.0
    assert s['latency_ms']['total']['p50'] == pytest.approx(5.0)
    assert list(s['latency_ms'])[-1] == 'total'
    json.dumps(s, allow_nan=False)


def test_fixes_that_look_the_wrong_way_are_counted_apart():
    truth = planar(0, 0, 3.0)
    run = [record(i, planar(1, 0, 3.0 + np.radians(turn)), truth)
           for i, turn in enumerate((0.0, 44.9, -45.1, 180.0, 46.0))]
    run += [record(5, None, truth, rejection='ambiguous'), record(6, planar(0, 0, 0), None)]
    errors = summarize(run)['errors']
    assert errors['wrong_way_rate'] == pytest.approx(3 / 5)
    assert errors['false_accept_rate'] == 0.0  # whose meaning is the distance alone


def test_nothing_known_is_null_and_json(run):
    for records, places in (([], None), ([], np.zeros((0, 2))), ([run[4]], np.zeros((3, 2)))):
        s = summarize(records, places)
        json.dumps(s, allow_nan=False)
        assert s['errors']['position_m'] is None
        assert s['errors']['false_accept_rate'] is s['errors']['wrong_way_rate'] is None
        assert s['recall'] is None
        assert s['calibration'] is None
        assert s['coverage']['first_correct_s'] is None
    assert summarize([], None)['coverage']['longest_gap_s'] is None


def test_never_localized_is_one_long_gap(run):
    s = summarize([run[0], run[5]])
    assert s['coverage']['longest_gap_s'] == pytest.approx(10.0)
    assert s['coverage']['first_correct_m'] is None


def test_queries_that_have_no_place_near_are_excluded(run):
    s = summarize(run, np.array([[0.0, 0.0]]))
    assert (s['recall']['queries'], s['recall']['excluded']) == (3, 2)


def test_a_total_of_its_own_is_taken_and_unreached_stages_do_not_count():
    records = [Record(0, milliseconds={'decode': 2.0, 'encode': 0.0, 'total': 50.0}),
               Record(1, milliseconds={'decode': 4.0, 'encode': 30.0, 'total': 70.0})]
    result = latency(records)
    assert result['total']['p50'] == pytest.approx(60.0)
    assert result['encode']['p50'] == pytest.approx(30.0)
    assert list(result) == ['decode', 'encode', 'total']


def test_gaussian_errors_are_found_calibrated():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(6, 6))
    covariance = A @ A.T + np.eye(6)
    n = 4000
    errors = rng.multivariate_normal(np.zeros(6), covariance, n)[:, [0, 1, 5]]
    result = consistency(errors, np.broadcast_to(covariance, (n, 6, 6)))
    for axis in ('x', 'y', 'yaw'):
        expected = [2 * norm.cdf(k) - 1 for k in (1, 2, 3)]
        assert result.coverage[axis] == pytest.approx(expected, abs=0.03)
    # n d ANEES is chi-squared of n d degrees: within its 99.99 % interval of 1.
    for value, d in ((result.anees_xy, 2), (result.anees_xy_yaw, 3)):
        low, high = chi2.interval(0.9999, n * d)
        assert low < value * n * d < high
    assert anees(2 * errors, np.broadcast_to(covariance[np.ix_([0, 1, 5], [0, 1, 5])], (n, 3, 3))
                 ) == pytest.approx(4 * result.anees_xy_yaw)


def test_yaw_errors_wrap_at_the_seam():
    error = planar_errors(planar(0, 0, np.pi - 0.01), planar(0, 0, -np.pi + 0.01))
    assert error[0, 2] == pytest.approx(-0.02)


def test_a_reliability_diagram_of_honest_and_of_bold_covariances():
    rng = np.random.default_rng(3)
    L = np.array([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.02, 0.01, 0.1]])
    errors = rng.normal(size=(4000, 3)) @ L.T
    covariance = np.eye(6)
    covariance[np.ix_([0, 1, 5], [0, 1, 5])] = L @ L.T
    honest = reliability(errors, np.broadcast_to(covariance, (4000, 6, 6)))
    for shares in honest.values():
        np.testing.assert_allclose(shares, RELIABILITY_LEVELS, atol=0.035)
    bold = reliability(errors, np.broadcast_to(covariance / 4.0, (4000, 6, 6)))
    at = int(np.argmin(np.abs(RELIABILITY_LEVELS - 0.95)))
    # The 95 % interval of half the sigma is 0.98 sigma wide: 67.3 % of a Gaussian.
    assert bold['x'][at] == pytest.approx(2 * norm.cdf(norm.ppf(0.975) / 2) - 1, abs=0.03)
    # And of the plane: chi-squared of two degrees, 1 - exp(-c / 8) with c = -2 log 0.05.
    assert bold['xy'][at] == pytest.approx(1 - 0.05 ** 0.25, abs=0.03)


def test_acceptance_by_hand():
    """Four images with a place near, one far from any; the surest answer is wrong."""
    places = np.array([[0.0, 0.0], [100.0, 0.0]])

    def one(second, x_true, x_estimate, confidence, accepted):
        return Record(second * SECOND, planar(x_estimate, 0, 0) if accepted else None, P,
                      None if accepted else 'ambiguous', truth=planar(x_true, 0, 0),
                      estimate=np.array([x_estimate, 0.0, 0.0]), confidence=confidence)

    records = [one(1, 0, 100, 0.9, True), one(2, 5, 0, 0.8, True), one(3, 100, 99, 0.6, True),
               one(4, 0, 3, 0.4, False), one(5, 50, 0, 0.7, True),
               record(6, None, planar(90, 0, 0), rejection='no_texture'),
               record(7, planar(0, 0, 0), None)]
    found = acceptance(records, places)
    assert found['curve']['confidence'] == [0.9, 0.8, 0.7, 0.6, 0.4]
    assert found['curve']['precision'] == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4, 3 / 5])
    assert found['curve']['recall'] == pytest.approx([0, 1 / 5, 1 / 5, 2 / 5, 3 / 5])
    assert found['chosen'] == pytest.approx(
        {'precision': 2 / 4, 'recall': 2 / 5, 'accepted_share': 4 / 6})
    assert found['recall_at_full_precision'] == 0.0
    assert found['full_precision_threshold'] is None
    assert found['f1_threshold'] == 0.4 and found['f1_max'] == pytest.approx(0.6)
    assert acceptance(records[-1:], places) is None


def test_confidence_without_an_estimate_is_nothing_to_accept(tmp_path):
    """What a sequence says of an image that shows nothing, while odometry is missing."""
    places = np.array([[0.0, 0.0], [100.0, 0.0]])
    unseen = [Record(i * SECOND, None, None, 'no_odometry', truth=planar(0.0, 0.0, 0.0),
                     confidence=0.0) for i in range(1, 4)]
    assert acceptance(unseen, places) is None
    seen = Record(4 * SECOND, planar(1.0, 0.0, 0.0), P, truth=planar(0.0, 0.0, 0.0),
                  estimate=np.array([1.0, 0.0, 0.0]), confidence=0.9)
    found = acceptance([*unseen, seen], places)
    assert found['curve'] == {'confidence': [0.9], 'precision': [1.0], 'recall': [0.25]}
    assert found['over_thresholds']['availability'] == [0.25]
    for records in (unseen, [*unseen, seen]):
        summary = {**summarize(records, places), 'acceptance': acceptance(records, places)}
        text = io.StringIO()
        Console(width=120, file=text).print(summary_table(summary))
        assert ('chosen on these images' in text.getvalue()) == (records is not unseen)
    draw_acceptance(tmp_path / 'acceptance.png', found)
    assert (tmp_path / 'acceptance.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(('limits', 'failures'), [
    ({}, 0), ({'min_images': 5}, 1), ({'min_recall_at_1': 0.6}, 1), ({'min_recall_at_1': 0.5}, 0),
    ({'max_false_accept_rate': 0.2}, 1), ({'min_accepted_share': 0.8}, 1)])
def test_the_verdict(limits, failures):
    summary = {'coverage': {'attempted': 4, 'accepted': 3},
               'recall': {'at': {'1': {'recall': 0.5}}}, 'errors': {'false_accept_rate': 0.25}}
    found = verdict_entry(summary, limits)
    assert len(found['failures']) == failures
    assert (found['passed'], found['exit_code']) == ((False, 2) if failures else (True, 0))
    unknown = {**summary, 'recall': None, 'errors': {'false_accept_rate': None}}
    if 'min_recall_at_1' in limits or 'max_false_accept_rate' in limits:
        assert 'unknown' in verdict_entry(unknown, limits)['failures'][0]
