"""Hypotheses to a pose with an honest covariance; images to fixes or reasons."""

import json

from helpers_localizer import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform, wrap, yaw_of
from saliency_i2ploc_ros.localization.hypotheses import estimate, LocalizerConfig, mixture_weights
from saliency_i2ploc_ros.localization.localizer import camera_yaw, Localizer, STAGES

CONFIG = LocalizerConfig()
CAMERA = Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
AHEAD = transform(R_base_optical, [1.0, 0.0, 1.5])


def looking(yaw):
    """Return the mounting of a level camera that looks `yaw` to the left of ahead."""
    return planar(0.0, 0.0, yaw) @ AHEAD


def poses(*xy_yaw):
    return np.stack([planar(x, y, yaw) for x, y, yaw in xy_yaw])


# ---- the mixture ----

@st.composite
def mixtures(draw):
    k = draw(st.integers(1, 20))
    seed = draw(st.integers(0, 10 ** 6))
    rng = np.random.default_rng(seed)
    centre = draw(st.sampled_from([0.0, 4.0e6]))
    reach = draw(st.sampled_from([0.0, 1.0, 30.0, 3000.0]))
    T = np.stack([planar(*(centre + rng.uniform(-reach, reach, 2)), rng.uniform(-np.pi, np.pi))
                  for _ in range(k)])
    c, s = np.cos(0.1), np.sin(0.1)
    tilt = transform([[1, 0, 0], [0, c, -s], [0, s, c]])
    scores = np.sort(rng.uniform(-1, 1, k))[::-1].astype(np.float32)
    return scores, T @ tilt if draw(st.booleans()) else T, draw(st.floats(0.1, 20.0))


@settings(max_examples=100, deadline=None)
@given(mixtures())
def test_covariance_is_always_symmetric_positive_definite(mixture):
    scores, T, spacing = mixture
    result = estimate(scores, T, spacing, CONFIG)
    P = result.covariance
    assert np.array_equal(P, P.T)
    assert np.linalg.eigvalsh(P)[0] > 0.0
    np.linalg.cholesky(P)
    assert P.max() < 1e9  # what nav2 accepts
    R = result.T_map_place[:3, :3]
    assert R @ R.T == pytest.approx(np.eye(3), abs=1e-9)
    assert 0.0 < result.cluster_weight <= 1.0 + 1e-12
    assert result.cluster[0]


@settings(max_examples=50, deadline=None)
@given(mixtures())
def test_the_planar_block_is_the_second_moment_about_the_answer(mixture):
    scores, T, spacing = mixture
    result = estimate(scores, T, spacing, CONFIG)
    w = np.exp(scores.astype(float) / CONFIG.temperature)
    w /= w.sum()
    x, y = result.T_map_place[:2, 3]
    expected = np.zeros((2, 2))
    for weight, pose in zip(w, T, strict=True):
        d = pose[:2, 3] - [x, y]
        expected += weight * np.outer(d, d)
    yaw = yaw_of(result.T_map_place)
    u, v = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    expected += max(spacing, 1) ** 2 / 12 * np.outer(u, u)
    expected += CONFIG.lateral_sigma_m ** 2 * np.outer(v, v)
    assert result.covariance[:2, :2] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_it_grows_with_the_spread():
    scores = [0.9, 0.9, 0.9]
    before = 0.0
    for reach in (0.0, 5.0, 15.0, 100.0, 1000.0):
        T = poses((0, 0, 0), (reach, 0, 0), (0, reach, 0))
        P = estimate(scores, T, 5.0, CONFIG).covariance
        assert np.trace(P[:2, :2]) > before
        before = np.trace(P[:2, :2])
    # Two places 1 km apart, both as likely: as unsure as that, though the answer is one of them.
    P = estimate([0.9, 0.9], poses((0, 0, 0), (1000, 0, 0)), 5.0, CONFIG).covariance
    assert P[0, 0] == pytest.approx(0.5 * 1000 ** 2, rel=0.01)


@pytest.mark.parametrize('yaw, along, lateral', [(0.0, 0, 1), (np.pi / 2, 1, 0), (np.pi, 0, 1)])
def test_spacing_lies_along_the_road_and_the_lane_across_it(yaw, along, lateral):
    # East, north, west: the map's axes stay, the road turns.
    P = estimate([0.9], poses((10, 20, yaw)), 12.0, CONFIG).covariance
    assert P[along, along] == pytest.approx(12.0 ** 2 / 12)
    assert P[lateral, lateral] == pytest.approx(CONFIG.lateral_sigma_m ** 2)
    assert P[0, 1] == pytest.approx(0.0, abs=1e-9)


def test_a_diagonal_road_correlates_x_and_y():
    P = estimate([0.9], poses((0, 0, np.pi / 4)), 12.0, CONFIG).covariance
    assert P[0, 1] == pytest.approx((12.0 - CONFIG.lateral_sigma_m ** 2) / 2)


def test_heading_at_the_seam():
    seam = poses((0, 0, np.pi - 0.1), (1, 0, -np.pi + 0.1))
    result = estimate([0.9, 0.9], seam, 5.0, CONFIG)
    assert abs(wrap(yaw_of(result.T_map_place) - np.pi)) < 1e-9
    floor = np.radians(CONFIG.heading_sigma_deg) ** 2
    assert result.covariance[5, 5] == pytest.approx(0.1 ** 2 + floor)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.7, 0.7), min_size=1, max_size=8), st.floats(-np.pi, np.pi))
def test_mean_heading_is_the_circular_mean(offsets, base):
    offsets = np.array(offsets) / 2  # within 45 degrees of the first
    T = poses(*[(0, 0, base + d) for d in offsets])
    scores = np.linspace(0.9, 0.8, len(offsets))
    w = mixture_weights(scores, CONFIG.temperature)
    angle = np.arctan2((w * np.sin(base + offsets)).sum(), (w * np.cos(base + offsets)).sum())
    result = estimate(scores, T, 5.0, CONFIG)
    assert abs(wrap(yaw_of(result.T_map_place) - angle)) < 1e-6


def test_a_street_mapped_both_ways_keeps_one_heading_and_says_that_it_may_be_the_other():
    both = poses((0, 0, 0.0), (2, 0, 3.0), (4, 0, 3.0))
    result = estimate([0.9, 0.9, 0.9], both, 5.0, CONFIG)
    assert yaw_of(result.T_map_place) == pytest.approx(0.0)
    assert result.cluster_weight == pytest.approx(1.0)
    assert result.covariance[5, 5] > 2 / 3 * 3.0 ** 2


def test_the_mean_is_that_of_the_best_cluster_only():
    T = poses((0, 0, 0), (10, 0, 0), (500, 0, 0))
    T[:, 2, 3] = [100.0, 102.0, 500.0]
    result = estimate([0.9, 0.9, 0.8], T, 5.0, CONFIG)
    assert result.T_map_place[:3, 3] == pytest.approx([5.0, 0.0, 101.0])
    w = mixture_weights([0.9, 0.9, 0.8], CONFIG.temperature)
    assert result.cluster_weight == pytest.approx(w[:2].sum())
    assert result.covariance[0, 0] > w[2] * 495 ** 2


def test_far_origins_lose_nothing():
    near = poses((0, 0, 0.3), (4, 1, 0.4), (9, 2, 0.35))
    far = near.copy()
    far[:, :2, 3] += [4.0e6, 5.0e6]
    a, b = (estimate([0.9, 0.88, 0.8], T, 5.0, CONFIG) for T in (near, far))
    assert b.T_map_place[:2, 3] - [4.0e6, 5.0e6] == pytest.approx(a.T_map_place[:2, 3], abs=1e-8)
    assert b.covariance == pytest.approx(a.covariance, abs=1e-6)


def test_config_refuses_what_it_does_not_know():
    with pytest.raises(ValueError):
        LocalizerConfig(topk=3)
    with pytest.raises(ValueError):
        LocalizerConfig(temperature=0.0)


# ---- images ----

@pytest.mark.parametrize('yaw', [0.0, np.pi / 2, -2.0, np.pi])
def test_camera_yaw_is_that_of_its_optical_axis(yaw):
    assert abs(wrap(camera_yaw(looking(yaw)) - yaw)) < 1e-9
    # Pitched down by 20 degrees and rolled, it still looks that way.
    c, s = np.cos(0.35), np.sin(0.35)
    pitched = looking(yaw) @ transform([[1, 0, 0], [0, c, -s], [0, s, c]])
    assert abs(wrap(camera_yaw(pitched) - yaw)) < 1e-9


def test_a_camera_that_looks_up_or_is_not_finite_is_refused():
    up = transform([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(InputError, match='up or down'):
        camera_yaw(up)
    with pytest.raises(InputError, match='4 x 4 finite'):
        camera_yaw(np.full((4, 4), np.nan))
    with pytest.raises(InputError, match='4 x 4 finite'):
        camera_yaw(np.eye(3))


class StandInDatabase:
    """A map whose search answers what the test says."""

    spacing_m = 5.0

    def __init__(self, scores, T_map_base, dimension):
        self.scores, self.T_map_base = np.float32(scores), T_map_base
        self.descriptors = np.zeros((len(T_map_base), dimension), np.float32)

    def search(self, queries, k):
        order = np.argsort(-self.scores, kind='stable')[:k]
        assert queries.shape == (1, self.descriptors.shape[1])
        assert np.linalg.norm(queries) == pytest.approx(1.0, abs=1e-4)
        return self.scores[order][None], order[None]


@pytest.fixture(scope='module')
def model():
    return tiny_model()


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def localizer(model, scores, T, **settings):
    return Localizer(model, StandInDatabase(scores, T, 16),
                     LocalizerConfig(**{'min_visible': 0.0, **settings}))  # the image is noise


PLACES = poses((0, 0, 0.5), (5, 0, 0.5), (300, 0, 0.5))


def test_an_image_gets_a_fix_with_its_times(model, image):
    answer = localizer(model, [0.6, 0.8, 0.1], PLACES).localize(image, CAMERA, AHEAD)
    assert answer.rejection is None and answer.fix is not None
    assert answer.candidates.indices.tolist() == [1, 0, 2]
    assert answer.fix.score == pytest.approx(0.8)
    assert 4.0 < answer.fix.T_map_base[0, 3] < 5.0
    assert yaw_of(answer.fix.T_map_base) == pytest.approx(0.5)
    assert tuple(answer.milliseconds) == STAGES
    assert all(ms > 0.0 for ms in answer.milliseconds.values())
    again = localizer(model, [0.6, 0.8, 0.1], PLACES).localize(image, CAMERA, AHEAD)
    assert np.array_equal(answer.fix.covariance, again.fix.covariance)


@pytest.mark.parametrize('yaw', [np.pi, np.pi / 2, -0.7])
def test_a_turned_camera_turns_the_vehicle_back(model, image, yaw):
    ahead = localizer(model, [0.6, 0.8, 0.1], PLACES).localize(image, CAMERA, AHEAD)
    turned = localizer(model, [0.6, 0.8, 0.1], PLACES).localize(image, CAMERA, looking(yaw))
    assert abs(wrap(yaw_of(turned.fix.T_map_base) - (0.5 - yaw))) < 1e-9
    assert turned.fix.T_map_base[:3, 3] == pytest.approx(ahead.fix.T_map_base[:3, 3])
    # The road has not turned, nor have the map's axes.
    assert turned.fix.covariance == pytest.approx(ahead.fix.covariance)
    assert wrap(yaw_of(turned.candidates.T_map_base) - (0.5 - yaw)) == pytest.approx(0, abs=1e-9)
    # What the camera sees is where the place's vehicle looked.
    optical_axis = (turned.fix.T_map_base @ looking(yaw))[:2, 2]
    assert optical_axis == pytest.approx([np.cos(0.5), np.sin(0.5)])


@pytest.mark.parametrize('scores, reason', [
    ([-0.1, -0.19, -0.5], 'low_score'), ([0.8, 0.1, 0.8], None), ([0.3, -1, 0.3], None)])
def test_rejections_keep_their_candidates(model, image, scores, reason):
    answer = localizer(model, scores, PLACES, min_weight=0.6).localize(image, CAMERA, AHEAD)
    assert answer.fix is None
    assert answer.rejection == (reason or 'ambiguous')
    assert len(answer.candidates) == 3
    assert 'similar' in answer.explanation or 'alike' in answer.explanation
    words = answer.as_dict()
    json.dumps(words, allow_nan=False)
    assert words['accepted'] is False and len(words['candidates']) == 3


@pytest.mark.parametrize('level', [0, 128, 255])
def test_an_image_of_nothing_is_rejected_unseen(model, level):
    flat = np.full((48, 64, 3), level, np.uint8)
    answer = localizer(model, [0.9, 0.9, 0.9], PLACES).localize(flat, CAMERA, AHEAD)
    assert (answer.fix, answer.rejection, len(answer.candidates)) == (None, 'no_texture', 0)
    assert answer.milliseconds['encode'] == 0.0
    assert tuple(answer.milliseconds) == STAGES


def test_misuse_is_one_clear_line(model, image):
    ready = localizer(model, [0.9, 0.9, 0.9], PLACES)
    with pytest.raises(InputError, match='64 x 48 pixels'):
        ready.localize(image, CAMERA.resized(32, 24), AHEAD)
    for wrong in (image[:, :, 0], image.astype(np.float32), image[:0]):
        with pytest.raises(InputError, match='uint8 RGB'):
            ready.localize(wrong, CAMERA, AHEAD)
    with pytest.raises(InputError, match='12 numbers'):
        Localizer(model, StandInDatabase([0.9], PLACES[:1], 12))
    with pytest.raises(InputError, match='no places'):
        Localizer(model, StandInDatabase([], PLACES[:0], 16))


def test_an_image_may_be_a_view_of_another_order(model, image):
    # A reader that swaps BGR to RGB hands over a view whose channels run backwards.
    ready = localizer(model, [0.6, 0.8, 0.1], PLACES)
    seen = ready.localize(np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1], CAMERA, AHEAD)
    assert np.array_equal(seen.fix.T_map_base, ready.localize(image, CAMERA, AHEAD).fix.T_map_base)


def test_fewer_places_than_asked_for_are_enough(model, image):
    answer = localizer(model, [0.9], PLACES[:1]).localize(image, CAMERA, AHEAD)
    assert len(answer.candidates) == 1 and answer.fix is not None


def test_an_answer_is_json(model, image):
    answer = localizer(model, [0.6, 0.8, 0.1], PLACES).localize(image, CAMERA, AHEAD)
    fix = json.loads(json.dumps(answer.as_dict(), allow_nan=False))['fix']
    assert fix['yaw_deg'] == pytest.approx(np.degrees(0.5))
    assert np.linalg.norm(fix['quaternion_xyzw']) == pytest.approx(1.0)
    assert np.shape(fix['covariance']) == (6, 6)
