"""Exact ranks, protocols, the two stages and the report, against brute force and by hand."""

import json
import os
import re
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.described import Described
from saliency_i2ploc_ros.evaluation.judging import figures, judge
from saliency_i2ploc_ros.evaluation.precision import precision_recall
from saliency_i2ploc_ros.evaluation.protocols import allowed_by, Side
from saliency_i2ploc_ros.evaluation.ranking import Allowed, NONE, rank_places
from saliency_i2ploc_ros.geometry.poses import planar

SECOND = 10 ** 9


def unit(rng, n, dim=8, kinds=None):
    """Return n unit vectors; of few kinds, so that many similarities are equal."""
    x = rng.normal(size=(kinds or n, dim))[rng.integers(0, kinds or n, n)]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def poses_at(xy, yaw=None):
    yaw = np.zeros(len(xy)) if yaw is None else yaw
    return np.stack([planar(x, y, a) for (x, y), a in zip(xy, yaw, strict=True)])


def brute_ranks(scores, query_poses, place_poses, allowed, radius, max_turn=None, without=None):
    """Sort every list by hand: the rank of the first right place, and how many there are."""
    firsts, counts = [], []
    for i, row in enumerate(scores):
        places = [j for j in range(len(row)) if j < allowed.stop[i] and j != allowed.itself[i]]
        distance = [np.hypot(*(place_poses[j, :2, 3] - query_poses[i, :2, 3]))
                    for j in range(len(row))]

        def turned(j, i=i):
            if max_turn is None:
                return False
            R = query_poses[i, :2, :2].T @ place_poses[j, :2, :2]
            return abs(np.arctan2(R[1, 0], R[0, 0])) > max_turn
        right = [j for j in places if distance[j] <= radius and not turned(j)]
        if without is not None:
            places = [j for j in places if not without[0] < distance[j] <= without[1]]
        order = sorted(places, key=lambda j: (-row[j], j))
        firsts.append(min((order.index(j) for j in right), default=NONE))
        counts.append(len(right))
    return np.array(firsts), np.array(counts)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10 ** 6), st.integers(1, 15), st.integers(1, 60), st.booleans())
def test_chunked_ranks_are_those_of_sorting_everything(seed, queries, places, turned):
    rng = np.random.default_rng(seed)
    # Few kinds of descriptors: most similarities have equals, which must not be guessed about.
    database, asked = unit(rng, places, kinds=5), unit(rng, queries, kinds=5)
    query_poses = poses_at(rng.uniform(0, 60, (queries, 2)), rng.uniform(-4, 4, queries))
    place_poses = poses_at(rng.uniform(0, 60, (places, 2)), rng.uniform(-4, 4, places))
    allowed = Allowed(rng.integers(0, places + 1, queries),
                      rng.integers(-1, places, queries))
    max_turn = 1.0 if turned else None
    # Room for two rows of similarities at a time.
    ranks = rank_places(asked, database, query_poses, place_poses, allowed, (5.0, 20.0), max_turn,
                        memory=8 * places)
    scores = np.stack([np.matmul(asked[i:i + 1], database.T)[0] for i in range(queries)])
    # Equal descriptors must have equal similarities to the bit for the order to be the test's.
    scores = scores.round(4)
    exact = rank_places(
        asked, database, query_poses, place_poses, allowed, (5.0, 20.0), max_turn)
    for column, radius in enumerate((5.0, 20.0)):
        first, count = brute_ranks(scores, query_poses, place_poses, allowed, radius, max_turn)
        assert np.array_equal(ranks.first[:, column], exact.first[:, column])
        assert np.array_equal(ranks.first[:, column], first)
        assert np.array_equal(ranks.positives[:, column], count)
    ignoring, _ = brute_ranks(scores, query_poses, place_poses, allowed, 20.0, max_turn,
                              (20.0, 40.0))
    assert np.array_equal(ranks.first_ignoring, ignoring)
    assert np.array_equal(ranks.allowed, [
        len(set(range(stop)) - {own}) for stop, own in zip(allowed.stop, allowed.itself,
                                                           strict=True)])


def test_a_collapsed_model_is_no_better_than_chance():
    rng = np.random.default_rng(2)
    xy = rng.uniform(0, 400, (300, 2))
    same = np.ones((300, 4), np.float32) / 2.0
    ranks = rank_places(same[:100], same, poses_at(xy[:100]), poses_at(xy),
                        Allowed(np.full(100, 300), np.arange(100)), (20.0,))
    counted, hits = ranks.hits(20.0, 1)
    assert counted.sum() > 40
    assert hits[counted].mean() < 0.1  # whichever place comes first is one place for nearly all


def test_nothing_allowed_is_no_answer():
    rng = np.random.default_rng(0)
    ranks = rank_places(unit(rng, 2), unit(rng, 3), poses_at(np.zeros((2, 2))),
                        poses_at(np.zeros((3, 2))), Allowed(np.array([0, 3]), np.full(2, NONE)))
    assert ranks.answer[0] == NONE and ranks.score[0] == -np.inf and ranks.answer[1] >= 0
    assert (ranks.first[0] == NONE).all() and (ranks.first[1] == 0).all()


def side(what, descriptors, poses, seconds=None, entry=None):
    n = len(descriptors)
    stamps = np.arange(n) if seconds is None else np.asarray(seconds)
    return Side(Described(what, 'a_drive', descriptors, poses, np.arange(n)),
                np.arange(n) if entry is None else np.asarray(entry), stamps * SECOND)


def test_same_pass_leaves_out_itself_and_nothing_else():
    rng = np.random.default_rng(1)
    poses = poses_at(np.stack([np.arange(6) * 3.0, np.zeros(6)], 1))
    asked = side('image', unit(rng, 4), poses[[0, 2, 3, 5]], entry=[0, 2, 3, 5])
    database = side('cloud', unit(rng, 5), poses[[0, 1, 2, 4, 5]], entry=[0, 1, 2, 4, 5])
    allowed = allowed_by('same_pass', asked, database)
    assert allowed.itself.tolist() == [0, 2, NONE, 4]  # the third has no submap
    assert allowed.stop.tolist() == [5] * 4 and allowed.counts.tolist() == [4, 4, 5, 4]


def test_revisit_takes_only_what_is_over_ten_seconds_older():
    rng = np.random.default_rng(1)
    seconds = np.array([0, 5, 10, 15, 20, 25])
    poses = poses_at(np.zeros((6, 2)))
    both = side('cloud', unit(rng, 6), poses, seconds)
    allowed = allowed_by('revisit', both, both)
    assert [seconds[:stop].tolist() for stop in allowed.stop] == [
        [], [], [], [0], [0, 5], [0, 5, 10]]  # exactly ten seconds is not over ten


def loop(rounds, steps, spacing=3.0):
    """Return poses along a circle driven several times."""
    radius = steps * spacing / (2.0 * np.pi)
    angle = np.arange(rounds * steps) * 2.0 * np.pi / steps
    return poses_at(radius * np.stack([np.cos(angle), np.sin(angle)], 1), angle + np.pi / 2.0)


def test_the_three_protocols_ask_different_things_of_one_memory():
    """Descriptors that tell the pass but not the place: same_pass is fooled, revisit is not."""
    rng = np.random.default_rng(4)
    steps = 60
    poses = loop(2, steps)
    # Each moment is like the next and the one before, and nothing else: the second round shares
    # nothing with the first.
    walk = np.cumsum(rng.normal(size=(2 * steps, 64)), axis=0)
    descriptors = (walk / np.linalg.norm(walk, axis=1, keepdims=True)).astype(np.float32)
    both = side('cloud', descriptors, poses, np.arange(2 * steps))
    same = figures(judge('cloud-cloud', both, both, 'same_pass'))['at']['20']
    again = figures(judge('cloud-cloud', both, both, 'revisit'))['at']['20']
    assert same['recall']['1']['recall'] > 0.95 and same['excluded'] == 0
    assert again['recall']['1']['recall'] < 0.5
    # Of the first round only the last moments come near to where it began, over 10 s before.
    assert again['queries'] == steps + 6 and again['excluded'] == steps - 6
    cross = judge('cloud-cloud', side('cloud', descriptors[steps:], poses[steps:]),
                  side('cloud', descriptors[:steps], poses[:steps]), 'cross_drive')
    assert figures(cross)['at']['20']['queries'] == steps


def test_figures_are_those_of_a_case_done_by_hand():
    database = side('cloud', np.eye(4, dtype=np.float32), poses_at(
        [(0, 0), (8, 0), (100, 0), (130, 0)]))
    # Query 0 finds place 0; query 1, at place 2, prefers place 3, 30 m off; query 2 is nowhere.
    asked = np.array([[.8, .6, 0, 0], [0, 0, .6, .8], [1, 0, 0, 0]], np.float32)
    asked = side('image', asked, poses_at([(3, 0), (100, 0), (1000, 0)]))
    f = figures(judge('image-cloud', asked, database, 'cross_drive'))
    at = f['at']['20']
    assert (at['queries'], at['excluded'], f['queries'], f['database']) == (2, 1, 3, 4)
    assert at['recall']['1']['recall'] == 0.5 and at['recall']['5']['recall'] == 1.0
    assert at['recall']['1']['chance'] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert at['recall_1_percent'] == {'k': 1, **at['recall']['1']}
    assert f['at']['5']['recall']['1']['recall'] == 0.5
    # Place 3 lies 30 m from query 1: left out of the order, place 2 comes first.
    assert f['recall_ignoring_20_to_40_m']['1'] == 1.0
    # Scores 1.0 (nowhere: an error), 0.8 (right), 0.8 (wrong).
    pr = f['precision_recall']
    assert pr['f1_max'] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert pr['recall_at_100_percent_precision'] == 0.0 and pr['full_precision_threshold'] is None
    assert f['first_answer_error_m']['max'] == pytest.approx(1000.0)
    json.dumps(f, allow_nan=False)


def test_precision_recall_is_what_counting_at_each_threshold_gives():
    rng = np.random.default_rng(7)
    score = rng.integers(0, 8, 50) / 8.0
    answerable = rng.random(50) < 0.8
    right = answerable & (rng.random(50) < 0.3 + 0.6 * score)
    score[:3] = -np.inf
    right[:3] = False
    found = precision_recall(score, right, answerable)
    best = 0.0
    for t, precision, recall in zip(found.threshold, found.precision, found.recall, strict=True):
        accepted = score >= t
        assert precision == pytest.approx(right[accepted].mean())
        assert recall == pytest.approx(right[accepted].sum() / answerable.sum())
        best = max(best, 2 * precision * recall / (precision + recall))
    assert found.f1_max == pytest.approx(best)
    assert sorted(found.threshold, reverse=True) == found.threshold.tolist()
    full = [r for p, r in zip(found.precision, found.recall, strict=True) if p == 1.0]
    assert found.recall_at_full_precision == max(full, default=0.0)
    assert precision_recall(score, right, np.zeros(50, bool)) is None
    perfect = precision_recall(np.array([.9, .8, .1]), np.array([1, 1, 0], bool),
                               np.array([1, 1, 0], bool))
    assert (perfect.f1_max, perfect.recall_at_full_precision) == (1.0, 1.0)
    assert (perfect.f1_threshold, perfect.full_precision_threshold) == (0.8, 0.8)


# ---- drives on disk, a model, the command ----

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a KITTI-360 root of a street driven twice, with scans, and a small model."""
    import cv2

    from saliency_i2ploc_ros.data.drive import Scan
    from saliency_i2ploc_ros.data.kitti360 import DriveWriter, write_calibration
    from saliency_i2ploc_ros.geometry.cameras import Pinhole
    from saliency_i2ploc_ros.geometry.poses import apply, inverse, R_base_optical, transform

    root = tmp_path_factory.mktemp('world')
    save_small_model(root / 'model')
    rng = np.random.default_rng(5)
    camera = Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
    T_base_lidar = transform(None, [0.0, 0.0, 1.7])
    write_calibration(root / 'data', camera, transform(R_base_optical, [1.0, 0.0, 1.5]),
                      T_base_lidar)
    street = np.stack([rng.uniform(-20, 80, 6000), rng.choice([-8.0, 9.0], 6000),
                       rng.uniform(0, 8, 6000)], 1)
    for drive, lane in (('city_0007_drive_0000_sync', 0.0), ('city_0007_drive_0001_sync', 1.5)):
        poses = np.stack([planar(3.0 * i, lane, 0.0) for i in range(20)])
        stamps = np.arange(20) * SECOND + 1_700_000_000_000_000_007
        with DriveWriter(root / 'data', drive) as writer:
            for i, T in enumerate(poses):
                small = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
                writer.image(i, cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
                seen = street[np.linalg.norm(street[:, :2] - T[:2, 3], axis=1) < 30.0]
                points = apply(inverse(T @ T_base_lidar), seen).astype(np.float32)
                writer.scan(i, Scan(points, np.zeros(len(points), np.float32), None))
            writer.finish(stamps, stamps, np.arange(20), poses)
    return root


def save_small_model(folder, **provenance):
    import torch

    from saliency_i2ploc_ros.data.submaps import SubmapConfig
    from saliency_i2ploc_ros.encoders.config import (
        AggregationConfig,
        CloudConfig,
        ImageConfig,
        ModelConfig,
        TokenConfig,
    )
    from saliency_i2ploc_ros.encoders.dual import DualEncoder
    from saliency_i2ploc_ros.encoders.files import save_model
    torch.manual_seed(provenance.pop('seed', 0))
    save_model(DualEncoder(ModelConfig(
        name='tiny', descriptor_dim=16,
        image=ImageConfig(height=48, width=64, dim=32, depth=1, heads=2),
        cloud=CloudConfig(tokens=TokenConfig(points=64, centres=8, neighbours=4), dim=32, depth=1,
                          heads=2, pointnet=(8, 16), pointnet_second=()),
        aggregation=AggregationConfig(clusters=4),
        submap=SubmapConfig(size_m=40.0, spacing_m=5.0, min_points=16))), folder, provenance)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def evaluate(*arguments):
    import typer
    from typer.testing import CliRunner

    from saliency_i2ploc_ros.cli import evaluate
    app = typer.Typer()
    app.command()(evaluate.command)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_every_pairing_is_judged_by_model_and_baseline(world, cache):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation.protocols import PAIRINGS
    from saliency_i2ploc_ros.evaluation.retrieval import describe, judge_all, Question
    drive = open_drive(world / 'data', '0000')
    prepared = describe(Question('same_pass', PAIRINGS), load_model(world / 'model'), drive)
    results = [figures(judgement) for judgement in judge_all(prepared)]
    assert [(r['pairing'], r['method']) for r in results] == [
        (pairing, method)
        for pairing in ('image-cloud', 'cloud-image', 'image-image', 'cloud-cloud')
        for method in ('model', 'skyline')]
    for result in results:
        assert (result['queries'], result['database']) == (20, 20)
        assert result['at']['20']['queries'] == 20 and result['unanswered'] == 0
        assert set(result['at']) == {'5', '10', '20', '25'}


def test_a_report_says_all_that_must_be_said(world, cache, tmp_path):
    out = tmp_path / 'out'
    output = evaluate(world / 'data', '--drive', '0000', '--protocol', 'same_pass', '--pairing',
                      'cloud-image', '--model', world / 'model', '--out', out)
    assert 'cloud to image, model' in output and 'does not say' in output
    evaluation = json.loads((out / 'evaluation.json').read_text())
    assert evaluation['schema'] == 1
    assert evaluation['protocol']['sessions'] == {'queries': 'city_0007_drive_0000_sync',
                                                  'database': 'city_0007_drive_0000_sync'}
    markdown = (out / 'report.md').read_text()
    for said in ('every 3 m', 'in the plane', 'Heading', 'seed 0', 'excluded', '20 to 40 m',
                 'round(N / 100)', 'Latency', '50 m blocks', '5, 10, 20, 25 m', 'not ruled out'):
        assert said in markdown, said
    pictures = re.findall(r'\]\((.+?\.png)\)', markdown)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (out / picture).stat().st_size > 1000
    assert 'html' in (out / 'report.html').read_text()
    lines = (out / 'queries.csv').read_text().splitlines()
    assert len(lines) == 1 + 2 * 20 and lines[0].endswith('rank_5m,rank_10m,rank_20m,rank_25m')


def test_descriptors_are_made_once_and_never_mixed(world, cache, tmp_path, monkeypatch):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation import described
    from saliency_i2ploc_ros.evaluation.retrieval import describe, judge_all, Question
    made = []
    encoded = described._encoded
    monkeypatch.setattr(described, '_encoded', lambda rows, *rest: made.append(len(rows)) or
                        encoded(rows, *rest))

    def results(model, **changed):
        asks, answers = (open_drive(world / 'data', name) for name in ('0001', '0000'))
        prepared = describe(Question(baseline=False, **changed), load_model(model), asks, answers)
        found = [figures(judgement) for judgement in judge_all(prepared)]
        for result in found:
            del result['latency_ms']['search_and_rank_a_query']
        return found

    first = results(world / 'model')
    assert made == [20, 12]  # images, and submaps every 5 m of poses 3 m apart
    assert results(world / 'model') == first
    assert made == [20, 12]  # nothing was described again
    save_small_model(tmp_path / 'other', seed=1)
    assert results(tmp_path / 'other') != first
    assert made == [20, 12] * 2
    results(world / 'model', spacing_m=10.0)
    assert made == [20, 12] * 2 + [6]  # other submaps, the same images
    image = next((world / 'data').rglob('city_0007_drive_0001_sync/image_00/**/*3.png'))
    os.utime(image, ns=(1, 1))  # another file, for all that can be told
    results(world / 'model')
    assert made == [20, 12] * 2 + [6, 20]


def test_of_two_runs_at_the_same_descriptors_the_second_takes_those_of_the_first(
        world, cache, monkeypatch):
    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.distributed import World
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation import described
    drive, model = open_drive(world / 'data', '0001'), load_model(world / 'model')
    merge = described._merge_parts

    def overtaken(*arguments):
        merge(*arguments)  # by the other run, which takes the parts away
        merge(*arguments)

    monkeypatch.setattr(described, '_merge_parts', overtaken)
    by_model = described.ByModel(model)
    found = described.describe_images(drive, 'image_00', range(20), by_model, World())
    assert len(found) == 20
    monkeypatch.setattr(described, '_merge_parts', lambda folder, key, world:
                        (folder.parent / 'gone').read_text())
    with pytest.raises(FileNotFoundError):  # nobody made them
        described.describe_images(drive, 'image_00', range(9), by_model, World())


def test_the_map_drive_needs_the_camera_only_where_its_images_answer(world, cache):
    from dataclasses import replace

    from saliency_i2ploc_ros.data.readers import open_drive
    from saliency_i2ploc_ros.encoders.files import load_model
    from saliency_i2ploc_ros.evaluation.retrieval import describe, Question
    asks, answers = (open_drive(world / 'data', name) for name in ('0001', '0000'))
    other = replace(answers, cameras={'front': answers.cameras['image_00']})
    model = load_model(world / 'model')
    prepared = describe(Question(baseline=False, camera='image_00'), model, asks, other)
    assert prepared.queries.camera == 'image_00'
    with pytest.raises(InputError, match='image_00'):
        describe(Question(baseline=False, camera='image_00', pairings=('image-image',)), model,
                 asks, other)


def test_a_map_on_disk_answers_as_it_was_built(world, cache, tmp_path):
    from saliency_i2ploc_ros.cli import build_map
    build_map.command(out=tmp_path / 'map', root=world / 'data', drive='0000', cloud=None,
                      trajectory=None, scale=1.0, model=world / 'model', spacing=None,
                      headings=None, picture=None, overwrite=False, device='cpu')
    output = evaluate(world / 'data', '--drive', '0000', '--map', tmp_path / 'map', '--model',
                      world / 'model', '--out', tmp_path / 'a')
    assert 'Recall@1' in output and 'image to cloud, skyline' in output
    evaluate(world / 'data', '--drive', '0000', '--map-drive', '0000', '--model',
             world / 'model', '--out', tmp_path / 'b')
    assert 'no test of coming back' in (tmp_path / 'b' / 'report.md').read_text()
    a, b = (json.loads((tmp_path / x / 'evaluation.json').read_text())['results'][0]
            for x in 'ab')
    assert a['at'] == b['at'] and a['database'] == 12
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert summary['recall']['at']['1']['recall'] == a['at']['20']['recall']['1']['recall']
    assert 'overview.png' in (tmp_path / 'a' / 'report.md').read_text()


def test_two_processes_make_what_one_makes(world, cache, tmp_path):
    import socket
    arguments = ['evaluate', world / 'data', '--drive', '0001', '--map-drive', '0000', '--model',
                 world / 'model', '--out']
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, '-m', 'saliency_i2ploc_ros.cli.main', *map(str, arguments),
         str(tmp_path / 'two')], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # What torchrun sets.
        env={**os.environ, 'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2',
             'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'OMP_NUM_THREADS': '1',
             'I2PLOC_CACHE': str(tmp_path / 'cache2')}) for rank in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert 'image to cloud, model' in said[0] and said[1].strip() == ''  # one of them speaks
    evaluate(*arguments[1:], tmp_path / 'one')
    shared = sorted((tmp_path / 'cache2').glob('descriptors/*/descriptors.npy'))
    alone = sorted(cache.glob('descriptors/*/descriptors.npy'))
    assert [p.parent.name for p in shared] == [p.parent.name for p in alone] and len(alone) == 4
    for a, b in zip(shared, alone, strict=True):
        assert np.load(a) == pytest.approx(np.load(b), abs=1e-5)
    assert not list((tmp_path / 'cache2' / 'descriptors').glob('*.npy'))  # the parts are gone
    one, two = (json.loads((tmp_path / name / 'evaluation.json').read_text())['results']
                for name in ('one', 'two'))
    assert [r['at'] for r in one] == [r['at'] for r in two]


@pytest.mark.parametrize('arguments, said', [
    (['--drive', '0000'], 'give a map'),
    (['--drive', '0000', '--protocol', 'sideways'], 'no protocol'),
    (['--drive', '0000', '--protocol', 'same_pass', '--pairing', 'sound-smell'], 'no pairing'),
    (['--drive', '0000', '--protocol', 'revisit', '--map-drive', '0001'], 'is its own map'),
    (['--drive', '0000', '--protocol', 'cross_drive'], 'needs a map'),
    (['--drive', '0000', '--protocol', 'same_pass', '--limit', '5'], 'places ask'),
    (['--drive', '0000', '--protocol', 'same_pass', '--spacing', '0'], 'spacing above 0'),
    (['--drive', '0000', '--protocol', 'same_pass', '--spacing', 'nan'], 'no distance'),
    (['--split', 'kitti360-urban'], 'has none'),
    (['--split', 'mine'], 'no split'),
])
def test_what_cannot_be_asked_is_refused(world, cache, tmp_path, arguments, said):
    with pytest.raises(InputError, match=said):
        evaluate(world / 'data', *arguments, '--model', world / 'model', '--out',
                 tmp_path / 'out')
