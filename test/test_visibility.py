"""What a camera shows that is covered, blinded or blind, and what one shows that is not."""

import cv2
import numpy as np
import pytest

from saliency_i2ploc_ros.data.city.generate import city_camera
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.visibility import visible_share

LEAST = LocalizerConfig().min_visible
RNG = np.random.default_rng(0)
HEIGHT, WIDTH = city_camera().height, city_camera().width


def street():
    """Return an image of dark and light blocks of a few to many pixels, as facades are."""
    image = np.full((HEIGHT, WIDTH, 3), 120.0)
    for _ in range(300):
        y, x = RNG.integers(0, HEIGHT), RNG.integers(0, WIDTH)
        h, w = RNG.integers(3, 30, 2)
        image[y:y + h, x:x + w] = RNG.uniform(20, 230, 3)
    return image


def taken(image, noise=3.0):
    return np.clip(image + RNG.normal(0.0, noise, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('factor', [1.0, 0.5, 0.25])
def test_a_street_is_seen_by_day_and_dusk(factor):
    assert visible_share(taken(factor * street())) > 0.6 > LEAST


def test_larger_images_are_averaged_first():
    large = cv2.resize(taken(street()), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    assert visible_share(large) > 0.6


@pytest.mark.parametrize('level', [0.0, 90.0, 255.0])
@pytest.mark.parametrize('noise', [0.0, 5.0, 30.0])
def test_noise_shows_nothing(level, noise):
    assert visible_share(taken(np.full((HEIGHT, WIDTH, 3), level), noise)) < 0.05


@pytest.mark.parametrize(('blur', 'light'), [(0.02, 0.3), (0.05, 0.6), (0.1, 1.0)])
def test_through_a_cover_nothing_is_seen(blur, light):
    covered = light * cv2.GaussianBlur(street(), (0, 0), blur * WIDTH)
    assert visible_share(taken(covered)) < 0.1
    assert np.std(covered) > 2.0  # contrast alone would not tell


def test_of_an_image_that_is_covered_or_blinded_in_part_the_rest_counts():
    covered, blinded = street(), street()
    covered[:, :WIDTH * 8 // 10] = 8.0
    blinded[:, WIDTH // 5:] = 255.0
    for image in (covered, blinded):
        assert 0.1 < visible_share(taken(image)) < LEAST
    half = street()
    half[:, :WIDTH // 2] = 8.0
    assert visible_share(taken(half)) == pytest.approx(0.5, abs=0.13)
