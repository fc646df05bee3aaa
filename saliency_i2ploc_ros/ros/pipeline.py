"""From an image message to an answer: decoding, calibration, mounting, then the localizer."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..errors import InputError
from ..geometry.cameras import Camera
from ..localization.fix import Answer, Candidates
from ..localization.localizer import Localizer
from .cameras import camera_of, check_size
from .conversions import compressed_to_rgb, image_to_rgb, stamp_of

# Stamps that go back by less are out of order; by more, time itself has jumped (a bag restarted).
JUMP_NS = 1_000_000_000


class _Refused(Exception):
    """The image cannot be answered: a short reason and a sentence."""


class Pipeline:
    """
    Answers image messages one after the other.

    localizer, camera_info: may be exchanged at any time between two images; camera_info is None
    until one has come. extrinsics: T_base_camera (4, 4) of a camera frame, or an InputError.
    camera_frame: '' to take that of the image. time_went_back: called, with what it was,
    where stamps have jumped.
    """

    def __init__(
        self, localizer: Localizer, extrinsics: Callable[[str], NDArray[np.float64]],
        camera_frame: str, image_is_rectified: bool, time_went_back: Callable[[str], None],
    ) -> None:
        self.localizer = localizer
        self.camera_info: CameraInfo | None = None
        self.last_stamp_ns: int | None = None
        self._extrinsics = extrinsics
        self._camera_frame = camera_frame
        self._is_rectified = image_is_rectified
        self._time_went_back = time_went_back
        self._camera: tuple[CameraInfo, Camera] | None = None

    def answer(self, message: Image | CompressedImage) -> Answer:
        """
        Return the answer to an image; one that could not be looked at is a rejection too.

        Its reasons: 'out_of_order', 'bad_image', 'no_camera_info', 'bad_camera', 'no_extrinsics'.
        Times 'decode' and 'total' join those of the localizer.
        """
        started = time.perf_counter()
        try:
            self._check_order(stamp_of(message.header))
            image, camera = self._decoded(message)
            T_base_camera = _or_refused('no_extrinsics', self._extrinsics,
                                        self._camera_frame or message.header.frame_id)
            decoded = time.perf_counter()
            answer = _or_refused('bad_camera', self.localizer.localize, image,
                                 camera, T_base_camera)
            answer.milliseconds['decode'] = 1e3 * (decoded - started)
        except _Refused as refusal:
            answer = rejection(*refusal.args)
        answer.milliseconds['total'] = 1e3 * (time.perf_counter() - started)
        return answer

    def _check_order(self, stamp_ns: int) -> None:
        """Fixes come in the order of stamps; a jump back starts anew."""
        last = self.last_stamp_ns
        if last is not None and stamp_ns < last - JUMP_NS:
            self._time_went_back('the stamp of images')
        elif last is not None and stamp_ns <= last:
            raise _Refused('out_of_order', f'its stamp is {(last - stamp_ns) * 1e-9:.3f} s before '
                           'the one of the image before it')
        self.last_stamp_ns = stamp_ns

    def _decoded(self, message: Image | CompressedImage,
                 ) -> tuple[NDArray[np.uint8], Camera | None]:
        """Return the image (H, W, 3) RGB and its camera, if the model needs one."""
        decode = compressed_to_rgb if isinstance(message, CompressedImage) else image_to_rgb
        image = _or_refused('bad_image', decode, message)
        if self.localizer.model.config.image.camera is None:
            return image, None
        if self.camera_info is None:
            raise _Refused('no_camera_info', 'no CameraInfo has come yet')
        camera = _or_refused('bad_camera', self._present_camera)
        _or_refused('bad_camera', check_size, image, camera)
        return image, camera

    def _present_camera(self) -> Camera:
        """Return the camera of the newest CameraInfo, made anew only when that changes."""
        info = self.camera_info
        if self._camera is None or not _same_camera(self._camera[0], info):
            self._camera = info, camera_of(info, self._is_rectified)
        return self._camera[1]


def rejection(reason: str, explanation: str) -> Answer:
    """Return the answer to an image that was not looked at."""
    return Answer(None, reason, explanation, Candidates.none(), {})


def _or_refused(reason: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`; its InputError refuses the image for this reason."""
    try:
        return function(*arguments)
    except InputError as error:
        raise _Refused(reason, str(error)) from error


def _same_camera(a: CameraInfo, b: CameraInfo) -> bool:
    return a is b or (
        (a.width, a.height, a.distortion_model, a.binning_x, a.binning_y, a.roi)
        == (b.width, b.height, b.distortion_model, b.binning_x, b.binning_y, b.roi)
        and all(np.array_equal(x, y) for x, y in ((a.k, b.k), (a.p, b.p), (a.d, b.d))))
