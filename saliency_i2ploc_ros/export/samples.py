"""Real inputs for the check of parity: pictures and submaps, as the model takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.city.generate import generate_city
from ..data.drive import Drive, read_image
from ..data.readers import open_drive
from ..data.submaps import submaps_of_drive
from ..encoders.cloud_input import cloud_input
from ..encoders.config import ModelConfig
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..storage import cache_directory

Inputs = tuple[NDArray[Any], ...]
COUNT = 12
PICTURES = ('.png', '.jpg', '.jpeg')
SEED, LENGTH_M = 1007, 150.0


def default_drive() -> Drive:
    """Return a short drive through a procedural city, made at the first call, then cached."""
    root = cache_directory() / f'export_city_{SEED}'
    generate_city(root, SEED, traversals=1, length_m=LENGTH_M, image_every=4, scan_every=2)
    return open_drive(root)


def images_of_folder(folder: Path, config: ModelConfig, count: int = COUNT) -> Inputs:
    """
    Return up to `count` pictures of a folder (PNG, JPEG), prepared: one array (n, 3, H, W).

    They have no calibration, and are taken to show just what the model's camera sees: parity asks
    for real pixels, not for true directions. Fewer than two are an InputError.
    """
    found = sorted(p for p in Path(folder).rglob('*') if p.suffix.lower() in PICTURES)
    _enough(len(found), f'{folder} holds', 'pictures (.png, .jpg)')
    prepared = []
    for path in (found[i] for i in _spread(len(found), count)):
        image = read_image(path)
        height, width = image.shape[:2]
        camera = config.image.camera and config.image.camera.resized(width, height)
        prepared.append(prepare_image(image, camera, config.image))
    return (np.stack(prepared),)


def images_of_drive(drive: Drive, config: ModelConfig, count: int = COUNT) -> Inputs:
    """Return up to `count` images of a drive's first camera, prepared: one array (n, 3, H, W)."""
    name = drive.camera_named(None)
    stream = drive.cameras[name]
    _enough(len(stream), f'{drive.source} has', 'images')
    return (np.stack([prepare_image(drive.image(name, i), stream.camera, config.image)
                      for i in _spread(len(stream), count)]),)


def clouds_of_drive(drive: Drive, config: ModelConfig, count: int = COUNT) -> Inputs:
    """Return up to `count` submaps of a drive as `cloud_input` makes them, each array (n, ...)."""
    store = submaps_of_drive(drive, config.submap)
    found = []
    for i in _spread(len(store), count):
        try:
            found.append(cloud_input(store.above_ground(i), config))
        except InputError:
            continue  # too few points in view: no place of a map either
    _enough(len(found), f'{drive.source} has', 'submaps with enough points in view')
    return tuple(np.stack(part) for part in zip(*found, strict=True))


def _spread(available: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, available - 1, min(count, available)).astype(int)).tolist()


def _enough(found: int, where: str, what: str) -> None:
    if found < 2:
        raise InputError(f'{where} {found} {what}: parity is checked on two or more')
