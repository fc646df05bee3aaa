"""The Bayes filter over places, against the dense one written out, and by what it must do."""

import math

import numpy as np
import pytest

from saliency_i2ploc_ros.geometry.poses import planar, wrap, yaw_of
from saliency_i2ploc_ros.localization.belief import Belief, BeliefConfig


def loop(n=40, spacing=5.0, headings=1):
    """Return the places (n * headings, 4, 4) of a round way, counter-clockwise."""
    radius = n * spacing / (2 * math.pi)
    poses = [planar(radius * math.cos(a), radius * math.sin(a), wrap(a + math.pi / 2))
             for a in np.arange(n) * 2 * math.pi / n]
    return np.stack([pose @ planar(0, 0, 2 * math.pi * k / headings)
                     for pose in poses for k in range(headings)])


def total(belief):
    return belief.weights.sum() + belief.background + belief.outside


def step_between(a, b):
    return np.linalg.inv(a) @ b


def dense(places, config, steps, seen):
    """The same filter over all places at once: no background, nothing negligible."""
    n = len(places)
    xy, yaw = places[:, :2, 3], yaw_of(places)
    b, outside = np.full(n, (1 - config.outside) / n), config.outside
    for step, (ratios, out) in zip(steps, seen, strict=True):
        if step is not None:
            far = np.linalg.norm(step[:2, 3])
            now = places @ step
            apart = ((now[:, None, :2, 3] - xy) ** 2).sum(-1) / 2.5 ** 2
            turned = wrap(yaw_of(now)[:, None] - yaw) / math.radians(config.sigma_deg)
            share = np.where(apart <= 9.0, np.exp(-0.5 * (apart + turned ** 2)), 0.0)
            b = b @ (share / share.sum(1, keepdims=True))
            lost = config.kidnapped_per_m * far
            b = b * (1 - lost) + lost * (1 - config.outside) / n
            outside = outside * (1 - lost) + lost * config.outside
        b, outside = b * ratios, outside * out
        b, outside = b / (b.sum() + outside), outside / (b.sum() + outside)
    return b, outside


def test_it_is_the_dense_filter_as_far_as_places_are_held():
    """On a uniform background a step changes nothing, on a ring of even places exactly so."""
    places = loop(40)
    config = BeliefConfig(kidnapped_per_m=0.01, evidence_m=1.0)
    rng = np.random.default_rng(3)
    belief, n = Belief(places, 5.0, config), len(places)
    steps, seen = [], []
    for t in range(6):
        step = None if t == 0 else planar(5.0, 0.1, math.radians(9.0))
        chosen = rng.choice(n, 6, replace=False)
        ratios = np.full(n, 0.3)
        ratios[chosen] = rng.uniform(0.5, 20.0, 6)
        if step is not None:
            belief.moved(step)
        belief.saw(chosen, ratios[chosen], 0.3, 0.7)
        assert total(belief) == pytest.approx(1.0)
        steps.append(step)
        seen.append((ratios, 0.7))
    expected, outside = dense(places, config, steps, seen)
    found = np.full(n, belief.background / max(n - len(belief.places), 1))
    found[belief.places] = belief.weights
    assert belief.outside == pytest.approx(outside, rel=1e-3)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_alike_places_are_told_apart_by_the_way_between_them():
    """Two streets that look alike but for one place: neither image alone decides."""
    places = np.stack([planar(5.0 * i, y, 0.0) for y in (0.0, 300.0) for i in range(20)])
    belief = Belief(places, 5.0)
    for i in range(12):
        if i:
            belief.moved(planar(5.0, 0.0, 0.0))
        other = 20 + i if i != 8 else 35  # at the eighth the other street looks different
        belief.saw(np.array([i, other]), [50.0, 50.0], 0.1, 0.1)
        answer = belief.located(10.0)
        if i == 7:
            assert answer.probability < 0.7
    assert answer.probability > 0.95
    np.testing.assert_allclose(answer.pose, [55.0, 0.0, 0.0], atol=1.0)


def test_the_way_tells_the_heading_where_images_do_not():
    """Of each submap all four headings look alike; only one lets the vehicle go on."""
    places = loop(40, headings=4)
    belief = Belief(places, 5.0)
    for i in range(6):
        belief.moved(planar(5.0, 0.0, 2 * math.pi / 40) if i else np.eye(4))
        belief.saw(np.arange(4 * i, 4 * i + 4), np.full(4, 30.0), 0.2, 0.2)
        if i == 0:
            assert belief.located(8.0).probability < 0.3
    answer = belief.located(8.0)
    assert answer.place == 20 and answer.probability > 0.95


def test_the_pose_follows_odometry_between_places():
    places = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(20)])
    belief = Belief(places, 5.0)
    belief.saw(np.array([4]), [1e6], 0.001, 0.001)
    belief.moved(planar(1.0, 0.0, 0.05))
    answer = belief.located(10.0)
    np.testing.assert_allclose(answer.pose, [21.0, 0.0, 0.05], atol=0.05)


def test_standing_still_is_no_evidence():
    places = loop()
    belief = Belief(places, 5.0)
    belief.saw(np.array([3]), [5.0], 0.5, 0.5)
    before = belief.located(5.0).probability
    for _ in range(100):
        belief.moved(np.eye(4))
        belief.saw(np.array([3]), [5.0], 0.5, 0.5)
    assert belief.located(5.0).probability == before


def test_images_near_to_each_other_count_as_one():
    places = loop()
    near, far = Belief(places, 5.0), Belief(places, 5.0)
    for belief, steps in ((near, 5), (far, 1)):
        belief.saw(np.array([3]), [5.0], 0.5, 0.5)
        for _ in range(steps):
            belief.moved(planar(1.0 / steps, 0.0, 0.0))
            belief.saw(np.array([3]), [5.0], 0.5, 0.5)
    assert near.located(5.0).probability == pytest.approx(far.located(5.0).probability, rel=1e-6)


def drive(belief, way, rng, wrong=0.0, found=None, ratio=30.0):
    """See each place of a way, a share of the images wrongly; return the answers."""
    answers = []
    for t, i in enumerate(way):
        if t:
            belief.moved(planar(5.0, 0.0, 2 * math.pi / 40) @ planar(*rng.normal(0, 0.1, 2), 0.0))
        seen = rng.integers(len(belief._xy)) if rng.random() < wrong else i
        belief.saw(np.array([seen]), [ratio], 0.2, 0.2)
        answers.append(belief.located(8.0))
    return answers


def test_a_kidnapped_vehicle_is_found_again_and_one_wrong_image_moves_nothing():
    rng = np.random.default_rng(0)
    belief, way = Belief(loop(), 5.0), np.arange(30) % 40
    answers = drive(belief, way, rng)
    assert answers[-1].place == way[-1] and answers[-1].probability > 0.99
    belief.moved(planar(5.0, 0.0, 2 * math.pi / 40))
    belief.saw(np.array([10]), [30.0], 0.2, 0.2)
    assert belief.located(8.0).place in (29, 30, 31)  # one image against thirty
    elsewhere = drive(belief, np.arange(12, 22), rng)
    assert elsewhere[-1].place in (20, 21, 22) and elsewhere[-1].probability > 0.9


def test_leaving_the_map_is_noticed():
    street = np.stack([planar(5.0 * i, 0.0, 0.0) for i in range(20)])
    belief = Belief(street, 5.0)
    for i in range(20):
        belief.moved(planar(5.0, 0.0, 0.0) if i else np.eye(4))
        belief.saw(np.array([i]), [30.0], 0.2, 0.2)
    assert belief.outside < 0.01
    for _ in range(6):
        belief.moved(planar(5.0, 0.0, 0.0))
    assert belief.outside > 0.9


def test_outside_is_believed_where_images_say_so():
    belief = Belief(loop(), 5.0)
    for _ in range(6):
        belief.moved(planar(5.0, 0.0, 0.0))
        belief.saw(np.array([3, 17]), [1.2, 1.1], 0.9, 4.0)
    assert belief.outside > 0.99
    belief.reset()
    assert belief.outside == BeliefConfig().outside and belief.located(5.0) is None


def test_a_million_places_cost_what_the_plausible_ones_cost():
    rng = np.random.default_rng(1)
    n = 200_000
    places = np.tile(np.eye(4), (n, 1, 1))
    places[:, :2, 3] = rng.uniform(0, 5000, (n, 2))
    belief = Belief(places, 5.0)
    for i in range(5):
        belief.moved(planar(5.0, 0.0, 0.0) if i else np.eye(4))
        belief.saw(rng.choice(n, 50, replace=False), np.full(50, 100.0), 0.1, 0.1)
    assert len(belief.places) < 20_000
    assert total(belief) == pytest.approx(1.0)
