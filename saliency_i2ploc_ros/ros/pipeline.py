"""From image messages to an answer: decoding, calibration, mounting, then the localizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..errors import InputError
from ..geometry.cameras import Camera, Panorama
from ..localization.fix import Answer, Candidates
from ..localization.localizer import CameraView, Localizer
from .cameras import camera_of, check_size
from .conversions import compressed_to_rgb, image_to_rgb, stamp_of
from .moments import JUMP_NS


class _Refused(Exception):
    """An image cannot be answered: a short reason and a sentence."""


@dataclass(frozen=True)
class Answered:
    """
    What became of the images of one moment.

    stamp_ns, frame: of the first camera's image, or of the next that is there. views: as the model
    saw them, () if it did not. left_out: of several cameras those without which it was answered,
    each with a reason and a sentence.
    """

    answer: Answer
    stamp_ns: int
    frame: str
    views: tuple[CameraView, ...] = ()
    left_out: dict[str, tuple[str, str]] = field(default_factory=dict)


class Pipeline:
    """
    Answers the images of one moment after the other.

    cameras: their names, [''] for the one without. localizer, camera_infos: may be exchanged at
    any time between two moments. extrinsics: T_base_camera (4, 4) by an image's frame and camera,
    or an InputError. camera_frame: '' to take that of the image. time_went_back: called, with
    what it was, where stamps have jumped.
    """

    def __init__(
        self, localizer: Localizer, cameras: Sequence[str],
        extrinsics: Callable[[str, str], NDArray[np.float64]],
        camera_frame: str, image_is_rectified: bool, time_went_back: Callable[[str], None],
    ) -> None:
        self.localizer = localizer
        self.camera_infos: dict[str, CameraInfo] = {}
        self.last_stamp_ns: int | None = None
        self._names = tuple(cameras)
        self._extrinsics = extrinsics
        self._camera_frame = camera_frame
        self._is_rectified = image_is_rectified
        self._time_went_back = time_went_back
        self._cameras: dict[str, tuple[CameraInfo, Camera]] = {}
        self._shown: dict[str, tuple[NDArray[np.uint8], int]] = {}  # and since when, nanoseconds

    def answer(self, images: Mapping[str, Image | CompressedImage]) -> Answered:
        """
        Return the answer to images by camera; those that could not be looked at are rejected too.

        The reasons: 'out_of_order', 'bad_image', 'frozen', 'no_camera_info', 'bad_camera',
        'no_extrinsics', and 'incomplete_set', where a panorama lacks a camera. Of several cameras
        those that cannot be used are left out as long as another can, but for a panorama.
        Times 'decode' and 'total' join those of the localizer.
        """
        started = time.perf_counter()
        first = next(images[name] for name in self._names if name in images)
        stamp_ns = stamp_of(first.header)
        left_out: dict[str, tuple[str, str]] = {}
        views: Sequence[CameraView] = ()
        try:
            self._check_order(stamp_ns)
            views = self._views(images, left_out)
            decoded = time.perf_counter()
            answer = _or_refused('bad_camera', self.localizer.localize_views, views)
            answer.milliseconds['decode'] = 1e3 * (decoded - started)
        except _Refused as refusal:
            answer = rejection(*refusal.args)
        answer.milliseconds['total'] = 1e3 * (time.perf_counter() - started)
        return Answered(answer, stamp_ns, first.header.frame_id, tuple(views), left_out)

    def _check_order(self, stamp_ns: int) -> None:
        """Fixes come in the order of stamps; a jump back starts anew."""
        last = self.last_stamp_ns
        if last is not None and stamp_ns < last - JUMP_NS:
            self._time_went_back('the stamp of images')
        elif last is not None and stamp_ns <= last:
            raise _Refused('out_of_order', f'its stamp is {(last - stamp_ns) * 1e-9:.3f} s before '
                           'the one of the image before it')
        self.last_stamp_ns = stamp_ns

    def _views(self, images: Mapping[str, Image | CompressedImage],
               left_out: dict[str, tuple[str, str]]) -> list[CameraView]:
        """Return the images as the model takes them; note those that it must do without."""
        views = []
        for name in self._names:
            try:
                if name not in images:
                    raise _Refused('incomplete_set', 'its image did not come in time')
                views.append(self._view(name, images[name]))
            except _Refused as refusal:
                reason, sentence = refusal.args
                left_out[name] = reason, f'camera {name}: {sentence}' if name else sentence
        whole = isinstance(self.localizer.model.config.image.camera, Panorama)
        if left_out and (whole or not views):
            worst = next((found for found in left_out.values() if found[0] != 'incomplete_set'),
                         next(iter(left_out.values())))
            left_out.clear()
            raise _Refused(*worst)
        return _or_refused('bad_camera', self.localizer.as_seen, views)

    def _view(self, name: str, message: Image | CompressedImage) -> CameraView:
        """Return the image (H, W, 3) RGB of a camera, with its model if the network needs one."""
        decode = compressed_to_rgb if isinstance(message, CompressedImage) else image_to_rgb
        image = _or_refused('bad_image', decode, message)
        self._check_change(name, image, stamp_of(message.header))
        camera = None
        if self.localizer.model.config.image.camera is not None:
            if name not in self.camera_infos:
                raise _Refused('no_camera_info', 'no CameraInfo has come yet')
            camera = _or_refused('bad_camera', self._present_camera, name)
            _or_refused('bad_camera', check_size, image, camera)
        T_base_camera = _or_refused('no_extrinsics', self._extrinsics,
                                    self._camera_frame or message.header.frame_id, name)
        return CameraView(image, camera, T_base_camera)

    def _check_change(self, name: str, image: NDArray[np.uint8], stamp_ns: int) -> None:
        """Refuse a camera that shows the same picture, to the bit, while time goes on."""
        before, since_ns = self._shown.get(name, (None, stamp_ns))
        if before is None or stamp_ns < since_ns or not _same_picture(before, image):
            self._shown[name] = image, stamp_ns
            return
        still_s, most_s = (stamp_ns - since_ns) * 1e-9, self.localizer.config.frozen_s
        if 0.0 < most_s < still_s:
            raise _Refused('frozen', f'its picture has been the same for {still_s:.1f} s: of a '
                           'camera that works, noise differs')

    def _present_camera(self, name: str) -> Camera:
        """Return the camera of the newest CameraInfo, made anew only when that changes."""
        info = self.camera_infos[name]
        if name not in self._cameras or not _same_camera(self._cameras[name][0], info):
            self._cameras[name] = info, camera_of(info, self._is_rectified)
        return self._cameras[name][1]


def rejection(reason: str, explanation: str) -> Answer:
    """Return the answer to an image that was not looked at."""
    return Answer(None, reason, explanation, Candidates.none(), {})


def _or_refused(reason: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`; its InputError refuses the image for this reason."""
    try:
        return function(*arguments)
    except InputError as error:
        raise _Refused(reason, str(error)) from error


def _same_picture(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    # A few rows tell most pictures apart at a sixteenth of the cost.
    return np.array_equal(a[::16], b[::16]) and np.array_equal(a, b)


def _same_camera(a: CameraInfo, b: CameraInfo) -> bool:
    return a is b or (
        (a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.roi)
        == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.roi)
        and all(np.array_equal(x, y) for x, y in ((a.k, b.k), (a.p, b.p), (a.d, b.d))))
