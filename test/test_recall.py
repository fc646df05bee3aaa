"""Recall, chance and intervals against brute force."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.evaluation.recall import (
    block_bootstrap,
    chance_level,
    count_positives,
    one_percent,
    paired_bootstrap,
    recall_at,
    recall_of_positions,
    trajectory_blocks,
)


def brute_recall(indices, queries, places, radius, k):
    right = counted = 0
    for row, (x, y) in zip(indices, queries, strict=True):
        near = [i for i, (px, py) in enumerate(places) if np.hypot(x - px, y - py) <= radius]
        if near:
            counted += 1
            right += any(i in near for i in row[:k])
    return right / counted if counted else float('nan'), counted


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.integers(1, 25), st.integers(1, 40))
def test_recall_is_what_brute_force_counts(seed, queries, places):
    rng = np.random.default_rng(seed)
    place_xy, query_xy = rng.uniform(0, 60, (places, 2)), rng.uniform(0, 90, (queries, 2))
    indices = np.stack([rng.permutation(places) for _ in range(queries)])
    ks = (1, 3, 50)
    result = recall_at(indices, query_xy, place_xy, 10.0, ks)
    for k in ks:
        expected, counted = brute_recall(indices, query_xy, place_xy, 10.0, k)
        assert result.values[k] == pytest.approx(expected, nan_ok=True)
        assert (result.queries, result.excluded) == (counted, queries - counted)
    assert result.queries == 0 or result.values[50] == 1.0  # the whole map was retrieved


def test_the_radius_is_inclusive():
    places = np.array([[0.0, 0.0], [100.0, 0.0]])
    result = recall_at(np.array([[0], [1]]), np.array([[20.0, 0.0], [79.9, 0.0]]), places, 20.0,
                       (1,))
    assert (result.queries, result.excluded, result.values[1]) == (1, 1, 1.0)


def test_queries_without_a_place_are_left_out_and_counted():
    places = np.array([[0.0, 0.0], [100.0, 0.0]])
    queries = np.array([[5.0, 0.0], [50.0, 0.0], [101.0, 3.0]])
    result = recall_at(np.array([[0], [0], [0]]), queries, places, 20.0, (1,))
    assert (result.queries, result.excluded, result.values[1]) == (2, 1, 0.5)
    assert result.counted.tolist() == [True, False, True]


def test_what_was_not_retrieved_is_no_hit_and_what_is_not_known_is_nan():
    places = np.arange(50.0)[:, None] * [100.0, 0.0]
    queries = places[:2]
    result = recall_at(np.array([[0, -1], [-1, -1]]), queries, places, 20.0, (1, 2, 5))
    assert result.values[1] == result.values[2] == 0.5
    assert np.isnan(result.values[5])  # two were listed: a fifth might have been right
    empty = recall_of_positions(np.zeros((2, 0, 2)), queries, places, 20.0, (1,))
    assert np.isnan(empty.values[1]) and empty.queries == 2


def test_chance_enumerates_every_draw():
    places, k = 7, 3
    for m in range(places + 1):
        draws = list(combinations(range(places), k))
        expected = np.mean([any(i < m for i in draw) for draw in draws])
        assert chance_level(np.array([m]), places, k) == pytest.approx(expected)


def test_chance_agrees_with_random_rankings():
    rng = np.random.default_rng(3)
    place_xy, query_xy = rng.uniform(0, 300, (80, 2)), rng.uniform(0, 300, (40, 2))
    mean = {1: 0.0, 5: 0.0, 20: 0.0}
    rounds = 400
    for _ in range(rounds):
        indices = rng.permuted(np.tile(np.arange(80), (40, 1)), axis=1)[:, :20]
        result = recall_at(indices, query_xy, place_xy, 20.0, tuple(mean))
        for k in mean:
            mean[k] += result.values[k] / rounds
    for k, value in mean.items():
        # 400 rounds of at least 20 queries: a standard error below 0.006.
        assert value == pytest.approx(result.chance[k], abs=0.02)
    assert result.chance[20] > result.chance[5] > result.chance[1] > 0.0


def test_chance_of_a_large_map_stays_a_probability():
    assert chance_level(np.array([9]), 100_000, 1000) == pytest.approx(
        1 - (1 - 0.01) ** 9, rel=0.01)
    assert np.isnan(chance_level(np.array([], np.int64), 10, 1))


def test_one_percent_is_at_least_one():
    assert [one_percent(n) for n in (1, 49, 149, 250, 1501)] == [1, 1, 1, 2, 15]


def test_positives_are_counted_as_distances_say():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 50, (30, 2)), rng.uniform(0, 50, (60, 2))
    brute = (np.linalg.norm(a[:, None] - b[None], axis=2) <= 12.0).sum(axis=1)
    assert np.array_equal(count_positives(a, b, 12.0), brute)


def test_blocks_make_the_interval_as_wide_as_the_stretches_differ():
    blocks = trajectory_blocks(np.arange(200) * 2.0)  # 400 m: 8 blocks of 25 queries
    assert len(np.unique(blocks)) == 8
    hits = blocks % 2 == 0  # right on every other stretch, always
    low, high = block_bootstrap(hits, blocks)
    naive = block_bootstrap(hits, np.arange(200))
    assert low < 0.5 < high
    assert high - low > 3 * (naive[1] - naive[0])
    assert (low, high) == block_bootstrap(hits, blocks)  # seeded
    assert np.isnan(block_bootstrap(hits[:20], blocks[:20])).all()  # one block says nothing


def test_chance_takes_each_querys_own_map():
    """Brute force over every draw, with fewer places for the second query, and none left over."""
    positives, places, k = np.array([2, 1, 0]), np.array([6, 2, 3]), 3
    expected = [np.mean([any(i < m for i in draw) for draw in combinations(range(n), min(k, n))])
                for m, n in zip(positives, places, strict=True)]
    assert chance_level(positives, places, k) == pytest.approx(np.mean(expected))


def test_paired_differences_are_of_the_same_blocks():
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(20), 10)
    hard = np.repeat(rng.random(20) < 0.5, 10)  # streets on which either run fails
    a = ~hard & (rng.random(200) < 0.9)
    b = ~hard
    difference, low, high = paired_bootstrap(a, b, blocks)
    assert difference == pytest.approx(b.mean() - a.mean())
    assert 0.0 < low < difference < high
    # Unpaired, the hard streets would hide it.
    a_high = block_bootstrap(a, blocks)[1]
    b_low, b_high = block_bootstrap(b, blocks)
    assert b_low < a_high and high - low < 0.5 * (b_high - b_low)
    assert paired_bootstrap(a, a, blocks) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(b, a, blocks)[0] == pytest.approx(-difference)
    assert np.isnan(paired_bootstrap(a[:5], b[:5], blocks[:5])[1:]).all()
    assert np.isnan(paired_bootstrap(a[:0], b[:0], blocks[:0])).all()
    with pytest.raises(ValueError):
        paired_bootstrap(a, b[:-1], blocks)


def test_paired_intervals_cover_as_often_as_they_say():
    """Simulated runs of a known difference: 95 % intervals hold it in about 95 % of them."""
    rng = np.random.default_rng(1)
    held, rounds = 0, 200
    for seed in range(rounds):
        blocks = np.repeat(np.arange(40), 5)
        street = np.repeat(rng.normal(0, 0.2, 40), 5)
        a = street + rng.normal(0, 0.3, 200)
        b = street + 0.1 + np.repeat(rng.normal(0, 0.1, 40), 5) + rng.normal(0, 0.3, 200)
        _, low, high = paired_bootstrap(a, b, blocks, seed=seed, samples=300)
        held += low <= 0.1 <= high
    assert 0.87 * rounds <= held <= 0.99 * rounds
