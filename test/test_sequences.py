"""Drives through a sequence: the odometry's noise, starts, kidnappings, and the command."""

from dataclasses import replace
import json
import math

from helpers_cli import i2ploc
from helpers_drives import write_drive
import numpy as np
import pytest
from test_sequence import answer, Places, replace_config

from saliency_i2ploc_ros.cli import evaluate_sequence
from saliency_i2ploc_ros.data.readers import open_drive
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.calibration_pictures import wilson
from saliency_i2ploc_ros.evaluation.sequence_figures import drive_figures, start_figures
from saliency_i2ploc_ros.evaluation.sequence_pictures import draw_convergence, draw_reached
from saliency_i2ploc_ros.evaluation.sequences import (
    Asked,
    check_drawn,
    drive_through,
    kidnappings,
    LIMIT_M,
    odometry_of,
    random_starts,
    run_through,
    sequence_figures,
    together,
    truth_of,
    whole_drive,
    WITHIN_M,
)
from saliency_i2ploc_ros.evaluation.summary import json_safe
from saliency_i2ploc_ros.geometry.poses import planar, yaw_of
from saliency_i2ploc_ros.localization.odometry_noise import OdometryNoise
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


def of_starts(runs):
    return json_safe(start_figures(runs, WITHIN_M, LIMIT_M))


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


def test_places_that_look_alike_are_not_told_apart_by_driving_a_ring():
    """Opposite places look alike all round: it never knows, and every start is a failure."""
    sequence, asked, _ = world()
    alike = tuple(answer(Places(N), [i, (i + 60) % N], [0.8, 0.8]) for i in range(N))
    found = of_starts(random_starts(
        sequence, Asked('alike', alike, asked.stamps_ns, asked.truth), QUIET, 0, 5))
    assert found['share_within'] == 0.0 and found['never'] == 5
    assert found['metres']['p50'] is None and found['accepted'] == 0


def test_starts_and_whole_drive():
    sequence, asked, _ = world(wrong=0.1)
    runs = random_starts(sequence, asked, OdometryNoise(), 0, 20)
    found = of_starts(runs)
    assert found['share_within'] >= 0.95 and found['runs'] == len(runs) == 20
    assert all(run.metres[-1] <= LIMIT_M for run in runs)
    assert of_starts(random_starts(sequence, asked, OdometryNoise(), 0, 20)) == found
    whole = drive_figures(whole_drive(sequence, asked, OdometryNoise(), 0, 2))
    assert whole['availability'] > 0.8 and whole['false_fix_rate'] < 0.02
    assert whole['position_m']['median'] < 2.5
    assert whole['images'] == 2 * N


def test_kidnapped_vehicles_are_found_again():
    sequence, asked, _ = world()
    runs = kidnappings(sequence, asked, OdometryNoise(), 0, 10)
    assert of_starts(runs)['share_within'] >= 0.7
    assert all(run.distance[run.since - 1] <= 20.0 for run in runs)
    for run in runs:
        jump = np.flatnonzero(np.diff(run.rows) != 1)
        assert len(jump) == 1 and run.since == jump[0] + 1
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
    np.testing.assert_array_equal(first.confidence, again.confidence)


def test_a_prior_is_of_the_same_starts_and_a_wrong_one_of_others():
    sequence, asked, _ = world()
    plain = random_starts(sequence, asked, OdometryNoise(), 0, 12)
    right = random_starts(sequence, asked, OdometryNoise(), 0, 12, 5.0)
    wrong = random_starts(sequence, asked, OdometryNoise(), 0, 12, 5.0, prior_is_wrong=True)
    for a, b, c in zip(plain, right, wrong, strict=True):
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.metres, c.metres)
    metres = [np.mean([run.reached[0] for run in runs]) for runs in (right, plain, wrong)]
    assert metres[0] < metres[1] and math.isfinite(metres[2])
    assert all(run.first_right() is not None for run in wrong)


def test_the_summary_is_json_and_the_pictures_are_drawn(tmp_path):
    sequence, asked, places = world()
    runs = drive_through(sequence, asked, OdometryNoise(), 0, 3, 3, prior_m=10.0)
    figures = sequence_figures(runs)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    draw_convergence(tmp_path / 'belief.png', sequence, places.T_map_base, asked,
                     runs['random_starts'], OdometryNoise(), 0)
    draw_reached(tmp_path / 'sequence.png', runs, figures)
    for name in ('belief.png', 'sequence.png'):
        assert (tmp_path / name).read_bytes()[:4] == b'\x89PNG'


def test_two_drives_are_judged_together():
    """The same drive twice: the same figures, of twice as many blocks, so surer ones."""
    sequence, asked, _ = world(wrong=0.5)
    runs = drive_through(sequence, asked, OdometryNoise(), 0, 3, 3)
    one, two = sequence_figures(runs), sequence_figures(together([runs, runs], [0, 0]))
    for kind in one:
        assert two[kind]['images'] == 2 * one[kind]['images']
        for key in ('availability', 'false_fix_rate'):
            assert two[kind][key] == pytest.approx(one[kind][key])
    width = [np.ptp(found['whole_drive']['intervals']['availability']) for found in (one, two)]
    assert 0.0 < 0.5 * width[0] < width[1] < 0.95 * width[0]


@pytest.mark.parametrize('starts', [20, 1])
def test_the_table_has_the_intervals_of_the_summary(starts, capsys, monkeypatch):
    """Of runs that overlap, not as if they were independent; of a single stretch none."""
    monkeypatch.setenv('COLUMNS', '200')
    sequence, asked, _ = world(wrong=0.7)
    found = of_starts(random_starts(sequence, asked, QUIET, 0, starts))
    evaluate_sequence._show({'random_starts': found}, 'round')
    printed = capsys.readouterr().out
    low, high = found['intervals']['share_within']
    if starts > 1:
        assert low < found['share_within'] < high
        assert f'[{100 * low:.1f}, {100 * high:.1f}]' in printed
    else:
        assert low is None
    independent = '[{:.1f}, {:.1f}]'.format(*(
        100 * end for end in wilson(found['share_within'], starts)))
    assert independent not in printed


def test_the_command_says_what_it_needs(tmp_path):
    write_drive(tmp_path / 'drive')
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='is a file'):
        i2ploc('evaluate-sequence', tmp_path / 'drive', '--map', tmp_path, '--out',
               tmp_path / 'file')


def test_what_a_drive_lacks_is_said_before_it_is_asked():
    _, asked, _ = world()
    unasked = replace(asked, answers=())
    check_drawn(unasked, prior_m=10.0)
    short = replace(unasked, stamps_ns=asked.stamps_ns[:10], truth=asked.truth[:10])
    with pytest.raises(InputError, match='it needs 50 m'):
        check_drawn(short)
    # 250 m to and fro: no place is 100 m from those in the middle.
    there = np.stack([planar(x, 0.0, 0.0) for x in [*range(0, 110, 5), *range(105, -5, -5)]])
    near = replace(unasked, truth=there, stamps_ns=asked.stamps_ns[:len(there)])
    with pytest.raises(InputError, match='no two places 100 m apart'):
        check_drawn(near)


def test_the_command_looks_at_all_drives_before_it_localizes(tmp_path):
    """The map is not even opened: there is none."""
    write_drive(tmp_path / 'drive')
    drive = open_drive(tmp_path / 'drive')
    assert len(truth_of(drive).truth) == len(truth_of(drive, limit=2).truth) + 2 == 4
    with pytest.raises(InputError, match='it needs 50 m'):
        i2ploc('evaluate-sequence', tmp_path / 'drive', '--map', tmp_path / 'none', '--out',
               tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_each_data_set_has_its_map(tmp_path):
    with pytest.raises(InputError, match='2 maps for 1 data sets'):
        i2ploc('evaluate-sequence', tmp_path, '--map', tmp_path, '--map', tmp_path, '--out',
               tmp_path / 'out')
