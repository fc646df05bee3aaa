"""How much of an image shows something: little through a cover, glare, or nothing but noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

VERSION = 1  # of what is computed here, for those that keep it; raised when it changes
WIDTH = 320  # pixels that are left, or up to twice as many, where larger images are averaged
CELLS = 8, 4  # across and down
# Of grey levels, of the structures of some 2 to 10 pixels that are left of a sharp image. Between
# covered and dusky images of procedural cities there is a gap: no cell, and two of three.
DETAIL = 1.5
_FINE, _COARSE = 1.2, 3.0  # pixels, the deviations of the two Gaussians
_OF_NOISE = 0.184  # what their difference leaves of the deviation of white noise
_SURE = 1.5  # times as much as the noise explains is not counted as detail
_LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


class Visibility(NamedTuple):
    """contrast: standard deviation of the grey levels; share, 0 to 1, in which details show."""

    contrast: float
    share: float

    def suffices(self, min_contrast: float, min_visible: float) -> bool:
        """Tell whether such an image is looked at; see `LocalizerConfig` for the limits."""
        return self.contrast >= min_contrast and self.share >= min_visible


def visibility_of(image: NDArray[np.uint8]) -> Visibility:
    """
    Return how much of an image (H, W, 3) uint8 RGB can be seen.

    For the share it is divided into cells; of each the deviation of its band-passed grey levels is
    taken, less what its noise explains. The noise is estimated from the difference of two
    Laplacians, to which edges and surfaces add little (Immerkaer, "Fast noise variance
    estimation", CVIU 1996).
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    contrast = float(cv2.meanStdDev(grey)[1][0, 0])
    height, width = grey.shape
    # A whole number of pixels becomes one, at half the cost of other ratios.
    times = min(width // WIDTH, height // CELLS[1])
    if times > 1:
        size = width // times, height // times
        grey = cv2.resize(grey[:size[1] * times, :size[0] * times], size,
                          interpolation=cv2.INTER_AREA)
    pixels = grey.astype(np.float32)
    band = cv2.GaussianBlur(pixels, (0, 0), _FINE) - cv2.GaussianBlur(pixels, (0, 0), _COARSE)
    power = _cells(band * band)
    noise = _cells(np.abs(cv2.filter2D(pixels, cv2.CV_32F, _LAPLACIANS))) * np.sqrt(np.pi / 2) / 6
    seen = power - (_SURE * _OF_NOISE * noise) ** 2 >= DETAIL ** 2
    return Visibility(contrast, float(np.mean(seen)))


def _cells(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, CELLS, interpolation=cv2.INTER_AREA))
