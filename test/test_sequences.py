"""Drives through a sequence: the odometry's noise, starts, kidnappings, and the command."""

import json
import math

from helpers_drives import write_drive
import numpy as np
import pytest
from test_sequence import answer, Places, replace_config
from typer.testing import CliRunner

from saliency_i2ploc_ros.cli.main import app
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.sequence_pictures import draw_convergence
from saliency_i2ploc_ros.evaluation.sequences import (
    Asked,
    evaluate_sequence,
    fix_figures,
    kidnappings,
    odometry_of,
    OdometryNoise,
    random_starts,
    Run,
    run_through,
    whole_drive,
)
from saliency_i2ploc_ros.geometry.poses import planar, yaw_of
from saliency_i2ploc_ros.localization.fix import Fix
from saliency_i2ploc_ros.localization.sequence import Sequence

QUIET = OdometryNoise(scale=0.0, slip_m=0.0, turn_deg=0.0, bias_deg_m=0.0)
N = 120


def world(wrong=0.0, seed=0):
    """Return a round way of 600 m and a drive along it, some images of which find elsewhere."""
    places, rng = Places(N), np.random.default_rng(seed)
    answers = []
    for i in range(N):
        found = rng.integers(N) if rng.random() < wrong else i
        far = (found + 60) % N  # the place opposite always looks like it
        answers.append(answer(places, [found, far], [0.8, 0.77]))
    stamps = 1_000_000_000 * np.arange(N)
    return (Sequence(places, replace_config(merge_radius_m=10.0)),
            Asked('round', tuple(answers), stamps, places.T_map_base), places)


def test_quiet_odometry_is_the_truth():
    poses = Places(10).T_map_base
    way = [poses[0]]
    for step in odometry_of(poses, QUIET, np.random.default_rng(0)):
        way.append(way[-1] @ step)
    np.testing.assert_allclose(np.stack(way), poses, atol=1e-9)


def test_odometry_drifts_as_was_stated():
    """A straight way of 100 m in steps of 1 m, or of 5 m: the same drift."""
    rng = np.random.default_rng(0)
    noise = OdometryNoise(scale=0.02, slip_m=0.05, turn_deg=0.3, bias_deg_m=0.02)
    for step in (1.0, 5.0):
        poses = np.stack([planar(step * i, 0.0, 0.0) for i in range(round(100 / step) + 1)])
        told = [odometry_of(poses, noise, rng) for _ in range(400)]
        metres = [each[:, 0, 3].sum() for each in told]
        turned = [np.degrees(yaw_of(each)).sum() for each in told]
        assert np.std(metres) == pytest.approx(math.hypot(2.0, 0.05 * 10.0), rel=0.12)
        assert np.std(turned) == pytest.approx(math.hypot(0.3 * 10.0, 2.0), rel=0.12)


def test_standing_still_has_no_noise():
    poses = np.tile(planar(3.0, 4.0, 1.0), (5, 1, 1))
    told = odometry_of(poses, OdometryNoise(), np.random.default_rng(0))
    np.testing.assert_allclose(told, np.tile(np.eye(4), (4, 1, 1)), atol=1e-12)


def test_figures_of_fixes_by_hand():
    P = np.diag([4.0, 4.0, 1.0, 1.0, 1.0, 0.04])
    places = Places()
    answers = tuple(
        answer(places, [0], [0.9]) if e is None else
        _fixed(answer(places, [0], [0.9]), P) for e in (None, 2.0, 30.0, 1.0))
    error = np.array([[np.nan] * 3, [2.0, 0.0, 0.2], [30.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    run = Run(np.arange(4), answers, np.arange(4.0), np.arange(4.0), error)
    found = fix_figures([run])
    assert (found['images'], found['accepted'], found['false_fixes']) == (4, 3, 1)
    assert found['availability'] == 0.75 and found['false_fix_rate'] == pytest.approx(1 / 3)
    # Of the two that are right: (1 + 0 + 1) / 3 and (0 + 1/4 + 0) / 3.
    assert found['right_fixes']['anees_xy_yaw'] == pytest.approx((2 + 0.25) / 6)
    assert run.first_right() == 1 and run.first_right(2) == 3 and run.first_right(4) is None


def _fixed(given, P):
    return type(given)(**{**given.__dict__, 'fix': Fix(np.eye(4), P, 0.9), 'rejection': None})


def test_places_that_look_alike_are_not_told_apart_by_driving_a_ring():
    """Opposite places look alike all round: it never knows, and every start is a failure."""
    sequence, asked, _ = world()
    alike = tuple(answer(Places(N), [i, (i + 60) % N], [0.8, 0.8]) for i in range(N))
    found, _ = random_starts(sequence, Asked('alike', alike, asked.stamps_ns, asked.truth), QUIET,
                             0, 5)
    assert found['share_within'] == 0.0 and found['never'] == 5
    assert found['metres']['p50'] == math.inf and found['accepted'] == 0


def test_starts_and_whole_drive():
    sequence, asked, _ = world(wrong=0.1)
    found, runs = random_starts(sequence, asked, OdometryNoise(), 0, 20)
    assert found['share_within'] >= 0.95 and found['runs'] == len(runs) == 20
    assert all(run.metres[-1] <= found['limit_m'] for run in runs)
    again, _ = random_starts(sequence, asked, OdometryNoise(), 0, 20)
    assert again == found
    whole, _ = whole_drive(sequence, asked, OdometryNoise(), 0, 2)
    assert whole['availability'] > 0.8 and whole['false_fix_rate'] < 0.02
    assert whole['position_m']['median'] < 2.5
    assert whole['images'] == 2 * N


def test_kidnapped_vehicles_are_found_again():
    sequence, asked, _ = world()
    found, runs = kidnappings(sequence, asked, OdometryNoise(), 0, 10)
    assert found['found_before'] == 1.0 and found['share_within'] >= 0.7
    for run in runs:
        jump = np.flatnonzero(np.diff(run.rows) != 1)
        assert len(jump) == 1
        apart = asked.truth[run.rows[jump[0]], :2, 3] - asked.truth[run.rows[jump[0] + 1], :2, 3]
        assert np.linalg.norm(apart) > 100.0
        # The odometry knows of no jump.
        assert np.diff(run.metres).max() < 6.0
    short = Asked('short', asked.answers[:10], asked.stamps_ns[:10], asked.truth[:10])
    with pytest.raises(InputError, match='kidnappings need'):
        kidnappings(sequence, short, QUIET, 0, 3)


def test_a_run_forgets_the_one_before():
    sequence, asked, _ = world()
    rng = np.random.default_rng(0)
    first = run_through(sequence, asked, np.arange(6), QUIET, rng)
    run_through(sequence, asked, np.arange(60, 70), QUIET, rng)
    again = run_through(sequence, asked, np.arange(6), QUIET, rng)
    np.testing.assert_array_equal(first.error, again.error)
    assert [a.confidence for a in first.answers] == [a.confidence for a in again.answers]


def test_the_summary_is_json_and_the_picture_is_drawn(tmp_path):
    sequence, asked, places = world()
    figures, runs = evaluate_sequence(sequence, asked, OdometryNoise(), 0, 5, 5)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    draw_convergence(tmp_path / 'belief.png', sequence, places.T_map_base, asked, runs,
                     OdometryNoise(), 0)
    assert (tmp_path / 'belief.png').read_bytes()[:4] == b'\x89PNG'


def test_the_command_says_what_it_needs(tmp_path):
    write_drive(tmp_path / 'drive')
    (tmp_path / 'file').write_text('')
    result = CliRunner().invoke(app, [
        'evaluate-sequence', str(tmp_path / 'drive'), '--map', str(tmp_path), '--out',
        str(tmp_path / 'file')])
    assert isinstance(result.exception, InputError) and 'is a file' in str(result.exception)
