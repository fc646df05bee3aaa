"""Exact ranks, protocols and figures, against brute force and by hand."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

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
