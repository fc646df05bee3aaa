"""Several cameras' images of one moment, answered together."""

from dataclasses import fields, replace

from helpers_localizer import tiny_model, VERIFYING, verifying_model
import numpy as np
import pytest

from saliency_i2ploc_ros.encoders.config import VerifierConfig
from saliency_i2ploc_ros.encoders.image_input import prepare_image
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.export.runtime import torch_runtime
from saliency_i2ploc_ros.geometry.cameras import Pinhole
from saliency_i2ploc_ros.geometry.poses import planar, R_base_optical, transform, wrap, yaw_of
from saliency_i2ploc_ros.localization.hypotheses import (
    estimate,
    join,
    LocalizerConfig,
    mixture_weights,
    Retrieved,
)
from saliency_i2ploc_ros.localization.localizer import CameraView, Localizer

CONFIG = LocalizerConfig()
NOISE = LocalizerConfig(min_visible=0.0)  # for images that are nothing else
CAMERA = Pinhole(64, 48, 40.0, 40.0, 31.5, 23.5)
AHEAD = transform(R_base_optical, [1.0, 0.0, 1.5])
LEFT = planar(0.0, 0.0, np.pi / 2) @ AHEAD
RNG = np.random.default_rng(0)
# Two images, which the stand-in of a map tells apart by their descriptors.
IMAGES = RNG.integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)


def poses(*xy_yaw):
    return np.stack([planar(x, y, yaw) for x, y, yaw in xy_yaw])


def retrieved(scores, T, heading=0.0):
    """Return what an image found, best first."""
    order = np.argsort(-np.asarray(scores), kind='stable')
    return Retrieved(np.float32(scores)[order], order, T[order], heading, float(min(scores)))


# Three junctions far apart, each mapped along four headings: place 4 i + j looks by 90 j degrees.
JUNCTIONS = poses(*[(x, 0.0, j * np.pi / 2) for x in (0.0, 200.0, 400.0) for j in range(4)])


def looks(**scores):
    """Return scores of all places: by name, as `b1`, junction and quarter; 0.2 elsewhere."""
    result = np.full(12, 0.2)
    for name, score in scores.items():
        result[4 * 'abc'.index(name[0]) + int(name[1])] = score
    return result


def test_one_image_is_what_it_found():
    one = retrieved(RNG.uniform(0, 1, 12), JUNCTIONS @ planar(0.3, 0.1, 0.2), 0.7)
    joined = join([one], CONFIG)
    assert np.array_equal(joined.scores, one.scores.astype(float))
    assert np.array_equal(joined.evidence, joined.scores)
    assert np.array_equal(joined.T_map_place, one.T_map_place)
    assert np.array_equal(joined.indices, one.indices) and joined.heading == 0.7
    # What it did not find matters only to others.
    again = join([replace(one, floor=-3.0)], CONFIG)
    assert all(np.array_equal(getattr(again, f.name), getattr(joined, f.name))
               for f in fields(joined))


def test_the_same_image_twice_says_no_more_than_once():
    one = retrieved(looks(a0=0.8, b0=0.8, c0=0.7), JUNCTIONS)
    once, twice = join([one], CONFIG), join([one, one], CONFIG)
    assert np.array_equal(twice.scores, np.repeat(once.scores, 2))
    a, b = (estimate(j.evidence, j.T_map_place, 5.0, CONFIG) for j in (once, twice))
    np.testing.assert_allclose(a.T_map_place, b.T_map_place, atol=1e-9)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol=1e-9)
    assert a.cluster_weight == pytest.approx(b.cluster_weight)


def test_weights_are_the_geometric_mean_of_the_images_own():
    """On places that all images bring, whatever their order, by a formula of its own."""
    T = JUNCTIONS[::4]
    a, b = RNG.uniform(0.2, 0.9, (2, 3)).astype(np.float32)
    joined = join([retrieved(a, T), retrieved(b, T)], CONFIG)
    weights = mixture_weights(joined.evidence, CONFIG.temperature)
    expected = np.sqrt(mixture_weights(a, CONFIG.temperature)
                       * mixture_weights(b, CONFIG.temperature))
    found = [weights[joined.indices == i].sum() for i in range(3)]
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


def test_what_an_image_did_not_find_has_its_smallest_cosine():
    near, far = poses((0, 0, 0), (10, 0, 0)), poses((500, 0, 0), (9, 0, 2.0))
    joined = join([retrieved([0.8, 0.6], near), retrieved([0.7, 0.5], far)], CONFIG)
    # (9, 0) is near, but looks elsewhere: it says nothing for those of the first image.
    np.testing.assert_allclose(joined.scores, [0.65, 0.65, 0.55, 0.55], atol=1e-6)
    assert sorted(map(tuple, joined.T_map_place[:2, :2, 3])) == [(0.0, 0.0), (500.0, 0.0)]
    assert np.array_equal(joined.evidence, joined.scores)
    # Also where a verifier has spoken against all that the second one found.
    against = replace(retrieved([0.5, 0.3], far), floor=0.5)
    joined = join([retrieved([0.8, 0.6], near), against], CONFIG)
    np.testing.assert_allclose(joined.scores, [0.65, 0.55, 0.55, 0.45], atol=1e-6)


def test_a_side_camera_speaks_for_the_place_beside():
    """The left camera sees the junction's second quarter where the front one sees its first."""
    front = retrieved(looks(a0=0.8, b0=0.8), JUNCTIONS)
    left = retrieved(looks(b1=0.8, c1=0.8), JUNCTIONS, np.pi / 2)
    for found in ([front, left], [left, front]):
        joined = join(found, CONFIG)
        assert joined.scores[0] == pytest.approx(0.8) and joined.scores[2] == pytest.approx(0.5)
        turned = joined.T_map_place @ planar(0.0, 0.0, -joined.heading)
        assert turned[0, :2, 3] == pytest.approx([200.0, 0.0])
        assert wrap(yaw_of(turned[:2])) == pytest.approx([0.0, 0.0], abs=1e-9)


# ---- the localizer ----

class StandInDatabase:
    """A map that answers each of IMAGES as the test says, known by its descriptor."""

    spacing_m = 5.0

    def __init__(self, model, *scores):
        self.T_map_base = JUNCTIONS
        self.descriptors = np.zeros((len(JUNCTIONS), 16), np.float32)
        self._scores = np.float32(scores)
        runtime = torch_runtime(model)
        self._known = [runtime.run(prepare_image(image, CAMERA, model.config.image)[None])[0][0]
                       for image in IMAGES]

    def search(self, queries, k):
        one = int(np.argmax([queries[0] @ known for known in self._known]))
        assert np.array_equal(queries[0], self._known[one])
        order = np.argsort(-self._scores[one], kind='stable')[:k]
        return self._scores[one][order][None], order[None]


@pytest.fixture(scope='module')
def model():
    return tiny_model()


def views(*mounts):
    return [CameraView(image, CAMERA, T) for image, T in zip(IMAGES, mounts, strict=False)]


def test_two_views_decide_what_neither_can(model):
    """Each alone is torn between two junctions; only one of them suits both."""
    database = StandInDatabase(model, looks(a0=0.8, b0=0.8), looks(b1=0.8, c1=0.8))
    ready = Localizer(model, database, NOISE)
    for view in views(AHEAD, LEFT):
        assert ready.localize_views([view]).rejection == 'ambiguous'
    for order in (views(AHEAD, LEFT), views(AHEAD, LEFT)[::-1]):
        answer = ready.localize_views(order)
        assert answer.rejection is None and answer.fix.score == pytest.approx(0.8)
        assert answer.fix.T_map_base[:3, 3] == pytest.approx([200.0, 0.0, 0.0], abs=1.0)
        assert yaw_of(answer.fix.T_map_base) == pytest.approx(0.0, abs=1e-6)
        assert 'by 2 of 2 images' in answer.explanation
        # As sure as of one place, and no surer than a map of places every 5 m can be.
        assert np.sqrt(answer.fix.covariance[0, 0]) < 10.0
        assert len(answer.candidates) == 24 and np.all(np.diff(answer.candidates.scores) <= 0.0)


def test_two_views_that_contradict_each_other_are_no_fix(model):
    database = StandInDatabase(model, looks(a0=0.8), looks(b1=0.8))
    answer = Localizer(model, database, NOISE).localize_views(views(AHEAD, LEFT))
    assert answer.rejection == 'ambiguous'
    assert Localizer(model, database, NOISE).localize_views(views(AHEAD)).fix is not None


def verifying(logits):
    """
    Return a localizer with three places an image, whose verifier says what is told.

    logits: of each of IMAGES, of the 12 places.
    """
    model = verifying_model(VERIFYING.model_copy(update={
        'verifier': VerifierConfig(details=8, width=16, weight=0.03)}))
    runtime = torch_runtime(model)
    known = [runtime.run(prepare_image(image, CAMERA, model.config.image)[None]).details[0]
             for image in IMAGES]

    def verify(image, places):
        one = int(np.argmin([np.abs(image - of).max() for of in known]))
        return np.float32(logits[one])[places[:, 0, 0].astype(int)]

    front = looks(b0=0.70, a0=0.69, a1=0.68)
    left = looks(c1=0.70, c2=0.69, c3=0.68)
    database = StandInDatabase(model, front, left)
    # A place's details tell which it is.
    database.details = np.broadcast_to(np.arange(12, dtype=np.float16)[:, None, None], (12, 12, 8))
    runtime.verify = verify
    return Localizer(runtime, database, NOISE.model_copy(update={'top_k': 3}))


def test_a_verifier_that_rejects_all_else_does_not_make_one_image_decide():
    """
    The front camera is sure of one junction, the left one half sure of another, 200 m off.

    What the left one did not find is not as bad as what its verifier rejected: else this would
    speak for the wrong junction, and with a weight of nearly one.
    """
    front, left = np.zeros(12), np.full(12, -8.0)
    front[4], left[9] = 8.0, 1.0
    ready = verifying([front, left])
    answer = ready.localize_views(views(AHEAD, LEFT))
    assert answer.fix.T_map_base[:2, 3] == pytest.approx([200.0, 0.0], abs=1.0)
    assert answer.fix.score == pytest.approx((0.70 + 0.24 + 0.68) / 2)
    assert answer.confidence > 0.9
    # Alone, each says what it found and verified.
    for view, places, scores in zip(views(AHEAD, LEFT), ([4, 0, 1], [9, 10, 11]), (
            [0.94, 0.69, 0.68], [0.73, 0.45, 0.44]), strict=True):
        alone = ready.localize_views([view])
        assert alone.candidates.indices.tolist() == places
        assert alone.candidates.scores == pytest.approx(scores)


def test_one_view_is_bit_for_bit_what_the_mixture_of_its_places_gives(model):
    scores = RNG.uniform(0.3, 0.8, 12)
    database = StandInDatabase(model, scores, scores)
    ready = Localizer(model, database, LocalizerConfig(top_k=7, min_weight=0.0, min_visible=0.0))
    for T in (AHEAD, LEFT):
        view, = views(T)
        one, many = ready.localize(IMAGES[0], CAMERA, T), ready.localize_views([view])
        order = np.argsort(-np.float32(scores), kind='stable')[:7]
        expected = estimate(np.float32(scores)[order], JUNCTIONS[order], 5.0, ready.config)
        turn = planar(0.0, 0.0, -(np.pi / 2 if T is LEFT else 0.0))
        for answer in (one, many):
            assert np.array_equal(answer.fix.T_map_base, expected.T_map_place @ turn)
            assert np.array_equal(answer.fix.covariance, expected.covariance)
            assert np.array_equal(answer.candidates.indices, order)
            assert np.array_equal(answer.candidates.scores, np.float32(scores)[order])
            assert answer.candidates.scores.dtype == np.float32
            assert np.array_equal(answer.candidates.T_map_base, JUNCTIONS[order] @ turn)


def test_an_image_that_shows_nothing_is_left_out(model):
    database = StandInDatabase(model, looks(a0=0.8), looks(b1=0.8))
    ready = Localizer(model, database, NOISE)
    front, left = views(AHEAD, LEFT)
    covered = CameraView(np.full_like(left.image, 90), CAMERA, LEFT)
    answer = ready.localize_views([covered, front])
    alone = ready.localize_views([front])
    assert np.array_equal(answer.fix.T_map_base, alone.fix.T_map_base)
    assert np.array_equal(answer.fix.covariance, alone.fix.covariance)
    assert 'by 1 of 2 images' in answer.explanation
    assert answer.saliency[0] is None and answer.saliency[1].shape == (8,)
    assert ready.localize_views([covered, covered]).rejection == 'no_texture'
    with pytest.raises(InputError, match='no image'):
        ready.localize_views([])


def test_saliency_is_that_of_the_image(model):
    database = StandInDatabase(model, looks(a0=0.8), looks(b1=0.8))
    answer = Localizer(model, database, NOISE).localize_views(views(AHEAD, LEFT))
    for image, found in zip(IMAGES, answer.saliency, strict=True):
        pixels = prepare_image(image, CAMERA, model.config.image)
        assert np.array_equal(found, torch_runtime(model).run(pixels[None])[1][0])
    assert not np.array_equal(*answer.saliency)
    assert 'saliency' not in answer.as_dict()
