"""The localizer without ROS: image and camera in, a fix or a rejection with its reason out."""

from __future__ import annotations

import math
from pathlib import Path
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from ..encoders.dual import DualEncoder
from ..encoders.files import preprocessing_hash
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..export.runtime import ImageRuntime, open_runtime, torch_runtime
from ..geometry.cameras import Camera
from ..geometry.poses import planar
from ..mapping.database import PlaceDatabase
from .fix import Answer, Candidates, Fix
from .hypotheses import estimate, LocalizerConfig

Array = NDArray[np.float64]

STAGES = ('prepare', 'encode', 'search', 'hypotheses')


class Localizer:
    """
    A model and a map, ready to answer images one at a time. It has no memory between them.

    model: its image branch, run by whatever `open_runtime` opened; or the model itself, which is
    put into evaluation mode and answers on the device where it lies. It and the database must
    belong together (`open_localizer` checks their hashes).
    """

    def __init__(
        self, model: ImageRuntime | DualEncoder, database: PlaceDatabase,
        config: LocalizerConfig | None = None,
    ) -> None:
        places, dimension = database.descriptors.shape
        if dimension != model.config.descriptor_dim:
            raise InputError(f"the map's descriptors have {dimension} numbers, the model's "
                             f'{model.config.descriptor_dim}: build the map with this model')
        if places == 0:
            raise InputError('the map holds no places: build it from a drive with scans and poses')
        self.model = torch_runtime(model) if isinstance(model, DualEncoder) else model
        self.database = database
        self.config = config or LocalizerConfig()

    def localize(
        self, image: NDArray[np.uint8], camera: Camera | None, T_base_camera: Array,
    ) -> Answer:
        """
        Return where the vehicle is, or why that cannot be said.

        image: (H, W, 3) uint8 RGB. camera: its model, of the same size; None for a model that
        takes any image as it is. T_base_camera: (4, 4), the camera's optical frame in
        base_link. An image or camera that cannot be used is an InputError.

        A place says where the camera looks: what it matches is the view ahead of the map's
        vehicle. A camera that is turned by some angle in its own vehicle therefore means a vehicle
        turned back by that angle: base yaw = place yaw - camera yaw. The camera's lever arm is not
        taken off: it is a metre or two, less than the map's spacing, and the map's own camera had
        one too.
        """
        check_image(image, camera)
        turn_back = planar(0.0, 0.0, -camera_yaw(T_base_camera))
        config, clock = self.config, _Clock()

        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        contrast = float(cv2.meanStdDev(grey)[1][0, 0])
        if contrast < config.min_contrast:
            clock.lap('prepare')
            return Answer(None, 'no_texture', f'the image shows nothing: contrast {contrast:.1f} '
                          f'of at least {config.min_contrast:g} grey levels',
                          Candidates.none(), clock.milliseconds)
        pixels = np.asarray(prepare_image(image, camera, self.model.config.image))
        clock.lap('prepare')

        descriptor = self.model.descriptors(pixels[None])
        clock.lap('encode')

        k = min(config.top_k, len(self.database.descriptors))
        score_rows, index_rows = self.database.search(descriptor, k)
        scores, indices = score_rows[0], index_rows[0].astype(np.int64)
        clock.lap('search')

        T_map_place = np.asarray(self.database.T_map_base[indices], np.float64)
        found = estimate(scores, T_map_place, self.database.spacing_m, config)
        candidates = Candidates(indices, scores, T_map_place @ turn_back)
        fix = Fix(found.T_map_place @ turn_back, found.covariance, float(scores[0]))
        clock.lap('hypotheses')

        figures = (f'best similarity {scores[0]:.2f} (at least {config.min_score:g}), '
                   f'{100 * found.cluster_weight:.0f} % of the weight within '
                   f'{config.merge_radius_m:g} m of it (at least {100 * config.min_weight:g} %)')
        if scores[0] < config.min_score:
            return Answer(None, 'low_score', f'no place looks like the image: {figures}',
                          candidates, clock.milliseconds)
        if found.cluster_weight < config.min_weight:
            return Answer(None, 'ambiguous', f'places far apart look alike: {figures}',
                          candidates, clock.milliseconds)
        return Answer(fix, None, f'accepted: {figures}', candidates, clock.milliseconds)


def open_localizer(
    model_directory: Path, map_path: Path, config: LocalizerConfig | None = None,
    device: str = 'cpu', runtime: str = 'torch',
) -> Localizer:
    """
    Return the localizer of a model and a map on disk.

    runtime: 'torch' runs the model's weights, 'pt2' and 'onnx' its export (see `open_runtime`).
    A map that was altered, or made by another model or another preparation of the input, is an
    InputError that says so; so is a device ('cpu', 'cuda', 'cuda:1') that is not there.
    """
    model = open_runtime(Path(model_directory), runtime, device)
    database = PlaceDatabase.open(
        Path(map_path), model_hash=model.encoder_hash,
        preprocessing_hash=preprocessing_hash(model.config))
    return Localizer(model, database, config)


def check_image(image: NDArray[np.uint8], camera: Camera | None) -> None:
    """Raise InputError unless this is an RGB image of the camera's size."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f'an image of shape {image.shape} and type {image.dtype} was given: '
                         'it must be (height, width, 3) uint8 RGB')
    height, width = image.shape[:2]
    if camera is not None and (camera.width, camera.height) != (width, height):
        raise InputError(f'the image has {width} x {height} pixels and its camera '
                         f'{camera.width} x {camera.height}: give the camera info of this stream')


def camera_yaw(T_base_camera: Array) -> float:
    """
    Return the heading of the camera's optical axis in base_link, in radians, left positive.

    T_base_camera: (4, 4). An axis within 10 degrees of the vertical has no heading: InputError.
    """
    T = np.asarray(T_base_camera, np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise InputError('the mounting of the camera (T_base_camera) must be 4 x 4 finite numbers')
    x, y = T[0, 2], T[1, 2]
    if math.hypot(x, y) < math.sin(math.radians(10.0)):
        raise InputError('the camera looks straight up or down, which places cannot be matched '
                         'with: check its mounting (T_base_camera, an optical frame)')
    return math.atan2(y, x)


class _Clock:
    """Milliseconds of the stages of one answer."""

    def __init__(self) -> None:
        self.milliseconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = 1e3 * (now - self._last)
        self._last = now
