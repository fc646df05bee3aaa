"""What a camera shows that is covered, blinded or blind, and what one shows that is not."""

import cv2
import numpy as np
import pytest

from saliency_i2ploc_ros.data.city.generate import city_camera
from saliency_i2ploc_ros.localization.hypotheses import LocalizerConfig
from saliency_i2ploc_ros.localization.visibility import visibility_of

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
    assert visibility_of(taken(factor * street())).share > 0.6 > LEAST


def test_larger_images_are_averaged_first():
    large = cv2.resize(taken(street()), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    assert visibility_of(large).share > 0.6


@pytest.mark.parametrize('level', [0.0, 90.0, 255.0])
@pytest.mark.parametrize('noise', [0.0, 5.0, 30.0])
def test_noise_shows_nothing(level, noise):
    assert visibility_of(taken(np.full((HEIGHT, WIDTH, 3), level), noise)).share < 0.05


@pytest.mark.parametrize(('blur', 'light'), [(0.02, 0.3), (0.05, 0.6), (0.1, 1.0)])
def test_through_a_cover_nothing_is_seen(blur, light):
    covered = light * cv2.GaussianBlur(street(), (0, 0), blur * WIDTH)
    assert visibility_of(taken(covered)).share < 0.1
    assert np.std(covered) > 2.0  # contrast alone would not tell


def test_of_an_image_that_is_covered_or_blinded_in_part_the_rest_counts():
    covered, blinded = street(), street()
    covered[:, :WIDTH * 8 // 10] = 8.0
    blinded[:, WIDTH // 5:] = 255.0
    for image in (covered, blinded):
        assert 0.1 < visibility_of(taken(image)).share < LEAST
    half = street()
    half[:, :WIDTH // 2] = 8.0
    assert visibility_of(taken(half)).share == pytest.approx(0.5, abs=0.13)


@pytest.mark.parametrize('factor', [1, 4])
def test_contrast_is_the_deviation_of_all_grey_levels(factor):
    image = cv2.resize(taken(street()), None, fx=factor, fy=factor)
    grey = image @ [0.299, 0.587, 0.114]  # of ITU-R BT.601
    assert visibility_of(image).contrast == pytest.approx(np.std(grey), rel=1e-3)
