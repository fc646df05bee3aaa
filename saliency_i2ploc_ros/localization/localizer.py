"""The localizer without ROS: image and camera in, a fix or a rejection with its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import logging
import math
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray

from ..encoders.dual import DualEncoder
from ..encoders.files import preprocessing_hash
from ..errors import InputError
from ..export.runtime import ImageRuntime, open_runtime, torch_runtime
from ..geometry.cameras import Camera, Panorama
from ..geometry.panorama import panorama_mount, stitch
from ..geometry.poses import planar
from ..mapping.database import PlaceDatabase
from .calibration import (
    Calibration,
    check_calibration,
    FILE,
    file_of,
    file_with,
    read_calibration,
    SEARCH,
)
from .fix import Answer, Candidates, Fix
from .hypotheses import estimate, join, LocalizerConfig, Retrieved
from .trust import judged, REASONS
from .verification import verification_of
from .visibility import visibility_of

_log = logging.getLogger(__name__)
Array = NDArray[np.float64]

STAGES = ('prepare', 'encode', 'search', 'verify', 'hypotheses')


@dataclass(frozen=True)
class CameraView:
    """An image (H, W, 3) uint8 RGB, its camera and mounting, as `Localizer.localize` says."""

    image: NDArray[np.uint8]
    camera: Camera | None
    T_base_camera: Array


class Localizer:
    """
    A model and a map, ready to answer images one moment at a time. It has no memory between them.

    model: its image branch, run by whatever `open_runtime` opened; or the model itself, which is
    put into evaluation mode and answers on the device where it lies. It and the database must
    belong together (`open_localizer` checks their hashes). calibration: what says how far an
    answer can be trusted; one made for another search than `config`'s is an InputError.
    """

    def __init__(
        self, model: ImageRuntime | DualEncoder, database: PlaceDatabase,
        config: LocalizerConfig | None = None, calibration: Calibration | None = None,
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
        self.verification = verification_of(self.model, self.config.verify)
        if self.verification is not None and database.details is None:
            raise InputError('the map has no details of its places, by which the model verifies: '
                             'build it again with `i2ploc build-map` and this model')
        self.calibration = calibration
        if calibration is not None:
            check_calibration(calibration, {
                name: getattr(self.config, name) for name in search_of(self.model)},
                database.path, file_with(calibration, len(self.model.config.views)))

    def close(self) -> None:
        """Free the model, on CUDA too; nothing can be localized after that."""
        self.model.close()
        self.verification = None  # which holds on to the verifier

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
        return self.localize_views([CameraView(image, camera, T_base_camera)])

    def as_seen(self, views: Sequence[CameraView]) -> list[CameraView]:
        """
        Return the images as the model takes them: several are one panorama if it sees the circle.

        The panorama is stitched at the model's own size. Its tables are made once for each set of
        cameras and kept. An image or camera that cannot be used is an InputError.
        """
        for view in views:
            check_image(view.image, view.camera)
        panorama = self.model.config.image.camera
        if len(views) == 1 or not isinstance(panorama, Panorama):
            return list(views)
        if any(view.camera is None for view in views):
            raise InputError('a panorama is stitched of images whose cameras are known: give '
                             'their calibration')
        mounts = [view.T_base_camera for view in views]
        for T in mounts:
            check_mounting(T)
        image = stitch([view.image for view in views],
                       [view.camera for view in views if view.camera is not None], mounts,
                       panorama)
        return [CameraView(image, panorama, panorama_mount(mounts))]

    def localize_views(self, views: Sequence[CameraView]) -> Answer:
        """
        Return where the vehicle is by several cameras' images of one moment; see `localize`.

        What they find is joined into one mixture (`hypotheses.join`), whose scores are means over
        the images; one image gives what `localize` gives. Images that show nothing are left out
        as long as others do. For a model that sees the full circle they are stitched first.
        """
        if not views:
            raise InputError('no image was given: at least one is needed')
        views = self.as_seen(views)
        headings = [camera_yaw(view.T_base_camera) for view in views]
        config, clock = self.config, _Clock()

        visible = [visibility_of(view.image) for view in views]
        used = [i for i, seen in enumerate(visible)
                if seen.suffices(config.min_contrast, config.min_visible)]
        if not used:
            clock.lap('prepare')
            contrast, share = (max(each) for each in zip(*visible, strict=True))
            return Answer(None, 'no_texture', f'the image shows nothing: contrast '
                          f'{contrast:.1f} of at least {config.min_contrast:g} grey levels, '
                          f'details in {100 * share:.0f} % of it (at least '
                          f'{100 * config.min_visible:g} %)',
                          Candidates.none(), clock.milliseconds)
        inputs = [self.model.prepare(views[i].image, views[i].camera) for i in used]
        clock.lap('prepare')

        encoded = [self.model.run(pixels[None]) for pixels in inputs]
        saliency: list[NDArray[np.float32] | None] = [None] * len(views)
        if self.model.config.has_saliency:
            for i, seen in zip(used, encoded, strict=True):
                saliency[i] = seen.saliency[0]
        clock.lap('encode')

        k = min(config.top_k, len(self.database.descriptors))
        ranked = []
        for seen in encoded:
            scores, indices = self.database.search(seen.descriptor, k)
            ranked.append((scores[0], indices[0].astype(np.int64)))
        clock.lap('search')

        floors = [float(scores[-1]) for scores, _ in ranked]
        if self.verification is not None:
            places = self.database.details
            for n, seen in enumerate(encoded):
                assert seen.details is not None and places is not None  # see `__init__`
                ranked[n] = self.verification(seen.details[0], places, *ranked[n])
        clock.lap('verify')

        found = [Retrieved(scores, indices, np.asarray(
            self.database.T_map_base[indices], np.float64), headings[i], floor)
            for i, (scores, indices), floor in zip(used, ranked, floors, strict=True)]

        joined = join(found, config)
        turn_back = planar(0.0, 0.0, -joined.heading)
        result = estimate(joined.evidence, joined.T_map_place, self.database.spacing_m, config)
        score = float(joined.scores[0])
        candidates = Candidates(joined.indices, joined.scores.astype(np.float32),
                                joined.T_map_place @ turn_back)
        T_map_base = result.T_map_place @ turn_back
        trust = judged(joined, result, candidates.T_map_base, T_map_base, config,
                       self.calibration)
        fix = Fix(T_map_base, trust.covariance, score)
        clock.lap('hypotheses')

        figures = trust.figures
        if len(views) > 1:
            figures += f', by {len(used)} of {len(views)} images'
        words = 'accepted' if trust.rejection is None else REASONS[trust.rejection]
        return Answer(fix if trust.rejection is None else None, trust.rejection,
                      f'{words}: {figures}', candidates, clock.milliseconds, tuple(saliency), fix,
                      trust.confidence, trust.inside)


def open_localizer(
    model_directory: Path, map_path: Path, config: LocalizerConfig | None = None,
    device: str = 'cpu', runtime: str = 'torch', precision: str = 'auto',
    acceleration: str = 'none',
) -> Localizer:
    """
    Return the localizer of a model and a map on disk.

    runtime: 'torch' runs the model's weights, 'pt2' and 'onnx' its export (see `open_runtime`).
    precision, acceleration: see `open_runtime`; what became of them say the `notes` of `model`.
    A map that was altered, or made by another model or another preparation of the input, is an
    InputError that says so; so is a device ('cpu', 'cuda', 'cuda:1') that is not there. The
    localizer is calibrated where `calibration_for` finds something.
    """
    model = open_runtime(Path(model_directory), runtime, device, precision, acceleration)
    try:
        database = PlaceDatabase.open(
            Path(map_path), model_hash=model.encoder_hash,
            preprocessing_hash=preprocessing_hash(model.config))
        found = calibration_for(model, Path(model_directory), database)
        return Localizer(model, database, config, found)
    except InputError:
        model.close()
        raise


def calibration_for(
    model: ImageRuntime, model_directory: Path, database: PlaceDatabase,
) -> Calibration | None:
    """
    Return the map's own calibration, or the model's for maps of this kind, or None.

    A map's own that is not for it (the map was built anew, say) is an InputError. Of the model's,
    the one for as many views of a place is read (`file_of`), and is left alone, with a warning, if
    it does not fit otherwise.
    """
    kind = {'encoder_hash': model.encoder_hash,
            'preprocessing_hash': preprocessing_hash(model.config),
            'headings': database.schema.views, 'spacing_m': database.spacing_m,
            'smooth_m': database.schema.smooth_m}
    own = read_calibration(database.path)
    if own is not None:
        check_calibration(own, {**kind, 'map_identity': database.identity}, database.path)
        return own
    file = file_of(database.schema.views, len(model.config.views))
    found = read_calibration(model_directory, file)
    if found is None:
        why = f'there is no {file}: calibrate with the --headings of the map'
        if file != FILE:
            why += f', or rename {FILE} to that if an earlier version made it so'
    else:
        unlike = [f'{name} {getattr(found, name)!r}, here {value!r}'
                  for name, value in kind.items() if getattr(found, name) != value]
        if not unlike:
            return found
        why = f'{file} was made for {"; ".join(unlike)}'
    if any(model_directory.glob('calibration*.json')):
        _log.warning('no calibration in %s holds for the map %s, so min_weight decides: %s',
                     model_directory, database.path, why)
    return None


def search_of(model: ImageRuntime) -> tuple[str, ...]:
    """Return those of `SEARCH` that matter to a model: `verify` only if it has a verifier."""
    if verification_of(model, True) is None:
        return tuple(name for name in SEARCH if name != 'verify')
    return SEARCH


def check_image(image: NDArray[np.uint8], camera: Camera | None) -> None:
    """Raise InputError unless this is an RGB image of the camera's size."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f'an image of shape {image.shape} and type {image.dtype} was given: '
                         'it must be (height, width, 3) uint8 RGB')
    height, width = image.shape[:2]
    if camera is not None and (camera.width, camera.height) != (width, height):
        raise InputError(f'the image has {width} x {height} pixels and its camera '
                         f'{camera.width} x {camera.height}: give the camera info of this stream')


def check_mounting(T_base_camera: Array) -> Array:
    """Return a mounting as (4, 4) float64; one that is not finite numbers is an InputError."""
    T = np.asarray(T_base_camera, np.float64)
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise InputError('the mounting of the camera (T_base_camera) must be 4 x 4 finite numbers')
    return T


def camera_yaw(T_base_camera: Array) -> float:
    """
    Return the heading of the camera's optical axis in base_link, in radians, left positive.

    T_base_camera: (4, 4). An axis within 10 degrees of the vertical has no heading: InputError.
    """
    T = check_mounting(T_base_camera)
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
