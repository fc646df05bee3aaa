"""A contact sheet: six drives through two cities, in colours, classes and depth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...storage import atomic_file
from ..labels import COLOURS
from .generate import city_camera, picture_of
from .render import Picture
from .traversal import make_traversal
from .world import City

TRIPS = (('clear', 'overcast', 'dusk'), ('clear', 'wet', 'haze'))
LENGTH_M = 700.0


def draw_sheet(path: Path, seed: int = 0) -> None:
    """Write the picture (PNG): a row for each drive, three frames and classes or depth."""
    camera = city_camera((96, 320))
    rows: list[NDArray[np.uint8]] = []
    for k, kinds in enumerate(TRIPS):
        city = City(seed + k)
        for index, kind in enumerate(kinds):
            trip = make_traversal(city, index, LENGTH_M, weather=kind)
            last = len(trip.stamps_ns) - 1
            shots = [picture_of(trip, int(f * last), camera) for f in (.22, .41, .60)]
            other = depth_colours(shots[2]) if index == 1 else label_colours(shots[2])
            rows.append(np.concatenate([*(s.rgb for s in shots), other], 1))
    # Steps of 8 halve the file: the sensor's noise does not compress.
    image = np.concatenate(rows) // 8 * 8 + 3
    with atomic_file(path) as temporary:
        cv2.imwrite(str(temporary), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def label_colours(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture's classes in Cityscapes' colours, (H, W, 3)."""
    table = np.zeros((256, 3), np.uint8)
    for label, colour in COLOURS.items():
        table[label] = colour
    return np.asarray(table[picture.labels])


def depth_colours(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture's depth from near (bright) to 80 m and sky (dark), (H, W, 3)."""
    near = 1 - np.log(np.clip(picture.depth, 2.0, 80.0) / 2.0) / np.log(40.0)
    return np.asarray(cv2.applyColorMap((near * 255).astype(np.uint8),
                                        cv2.COLORMAP_INFERNO)[:, :, ::-1])
