"""The inference thread: all that touches the model, and the model's life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import math
from pathlib import Path
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
import torch

from ..encoders.config import ModelConfig
from ..encoders.files import preprocessing_hash
from ..errors import InputError
from ..export.runtime import best_device, ImageRuntime
from ..geometry.poses import R_base_optical, transform
from ..localization.calibration import Calibration, file_with
from ..localization.hypotheses import LocalizerConfig
from ..localization.localizer import calibration_for, Localizer, open_localizer, search_of
from ..mapping.database import PlaceDatabase
from ..storage import shared_directory
from . import parameters
from .complaints import Complaints
from .conversions import stamp_of
from .diagnostics import Health
from .moments import JUMP_NS, Moment
from .motion import Follower, follower_of
from .newest import NewestWorker
from .odometry import OdometryTf, OdometryTopic
from .pipeline import Answered, Pipeline, rejection
from .prior import Priors, Told


class Inference:
    """
    A model and a map in a thread of their own, always the same, which answers the newest moment.

    Loads and warms up while it is made; what cannot be loaded is an InputError. extrinsics,
    time_went_back: see `Pipeline`. on_answered: called in the thread, with each answer. odometry,
    priors: for the parameter sequence.
    """

    def __init__(
        self, node: Node, given: dict[str, Any], cameras: list[str], health: Health,
        extrinsics: Callable[[str, str], NDArray[np.float64]],
        time_went_back: Callable[[str], None], on_answered: Callable[[Answered], None],
        odometry: OdometryTopic | OdometryTf | None = None, priors: Priors | None = None,
    ) -> None:
        self._node, self._health, self._on_answered = node, health, on_answered
        self._image_type = CompressedImage if given['image_transport'] == 'compressed' else Image
        self._worker = NewestWorker(self._work)
        # How often the clock went back, and the latest stamp of which no time is undone by that.
        self._jump, self._undone = (0, 0), 0
        try:
            localizer = self._worker.call(lambda: load_localizer(given))
        except BaseException:
            self._worker.close()
            raise
        self._pipeline = Pipeline(localizer, cameras, extrinsics, given['camera_frame'],
                                  given['image_is_rectified'], time_went_back)
        self._given, self._odometry, self._priors = given, odometry, priors
        self._complaints = Complaints(node.get_logger())
        self._follow()

    @property
    def model(self) -> ImageRuntime:
        """Return the model that runs."""
        return self._pipeline.localizer.model

    @property
    def config(self) -> ModelConfig:
        """Return the model's configuration."""
        return self.model.config

    @property
    def database(self) -> PlaceDatabase:
        """Return the map that is searched."""
        return self._pipeline.localizer.database

    @property
    def calibration(self) -> Calibration | None:
        """Return what says how far an answer can be trusted, if anything does."""
        return self._pipeline.localizer.calibration

    @property
    def received(self) -> int:
        """Return how many moments were offered."""
        return self._worker.received

    @property
    def dropped(self) -> int:
        """Return how many were replaced by a newer one before their turn, or of time undone."""
        return self._worker.dropped + self._undone

    def offer(self, moment: Moment) -> None:
        """Hand over the newest moment; returns at once."""
        self._worker.offer((moment, self._node.get_clock().now().nanoseconds, self._jump[0]))

    def calibrate(self, camera: str, info: CameraInfo) -> None:
        """Take the newest CameraInfo of a camera."""
        self._pipeline.camera_infos[camera] = info

    def forget(self, now_ns: int | None = None) -> None:
        """
        Forget the stamps that images came with.

        now_ns: of a clock that has gone back. Images that wait or are at work get no answer if
        their stamps are of the time before; those may be of the new one, and early, too.
        """
        if now_ns is not None:
            self._jump = self._jump[0] + 1, now_ns + JUMP_NS
        self._pipeline.last_stamp_ns = None
        if self._follower is not None:
            self._follower.forget()

    def _follow(self) -> None:
        """Begin a sequence in the present map, if one is asked for."""
        self._follower: Follower | None = follower_of(
            self._pipeline.localizer, self._given, self._odometry)

    def _followed(self, answered: Answered) -> Answered:
        """Return what the sequence makes of an answer."""
        if self._follower is None:
            return answered
        told = self._prior_for(answered)
        found = self._follower.follow(answered.answer, answered.stamp_ns, told)
        if told is not None and found.rejection == 'no_odometry':
            self._priors.keep(told)
        elif told is not None:
            agreed = self._follower.sequence.agreed
            if math.isnan(agreed):
                self._complaints.warn('prior', 'a prior says nothing: no place of the map is near '
                                      'it; is it in the frame of this map?')
            else:
                self._node.get_logger().debug(
                    f'a prior: {100 * agreed:.2g} % of the belief was in its region')
        return replace(answered, answer=found)

    def _prior_for(self, answered: Answered) -> Told | None:
        """Return the prior that came since the last image, if this one can be weighed with it."""
        if self._priors is None or len(answered.answer.candidates) == 0:
            return None
        try:
            return self._priors.take(answered.stamp_ns)
        except InputError as error:
            self._complaints.warn('prior', str(error))
            return None

    def finish(self) -> None:
        """Finish the moment at work and drop what waits; forget the cameras."""
        self._worker.clear()
        self._pipeline.camera_infos.clear()

    def reload(self, path: str, swapped: Callable[[], None]) -> None:
        """
        Search another map from now on; the old one stays if that raises an error.

        swapped: called between the last answer by the old one and the first by the new.
        """
        localizer = self._pipeline.localizer
        model = localizer.model

        def swap() -> None:
            database = PlaceDatabase.open(Path(path), model_hash=model.encoder_hash,
                                          preprocessing_hash=preprocessing_hash(model.config))
            self._pipeline.localizer = Localizer(
                model, database, self._present_config(),
                calibration_for(model, model_folder(self._given), database))
            self._follow()
            swapped()

        self._worker.call(swap)

    def check_change(self, values: dict[str, Any]) -> None:
        """
        Raise InputError if parameters are to have values that the calibration does not hold for.

        With them no image would be answered any more.
        """
        calibration = self.calibration
        if calibration is None:
            return
        for name in search_of(self.model):
            held = getattr(calibration, name)
            if name in values and values[name] != held:
                folder = (self.database.path if calibration.map_identity
                          else model_folder(self._given))
                file = file_with(calibration, len(self.config.views))
                raise InputError(
                    f'{name} stays {held}: the calibration in {folder} was made for that. '
                    f'To search otherwise, clean up, take {file} out of that folder, set '
                    f'{name} and configure; min_weight decides then')

    def close(self) -> None:
        """Free the model and end the thread."""
        self._worker.call(self._pipeline.localizer.close)
        self._worker.close()

    def stop(self) -> None:
        """End the thread, and no more: the process ends."""
        self._worker.close()

    def _is_undone(self, stamp_ns: int, jumps: int) -> bool:
        """Tell whether an image, offered after so many jumps, is of a time before the last."""
        count, latest_ns = self._jump
        if jumps == count or stamp_ns <= latest_ns:
            return False
        self._undone += 1
        self._pipeline.last_stamp_ns = None
        return True

    def _work(self, item: tuple[Moment, int, int]) -> None:
        moment, arrived_ns, jumps = item
        try:
            if self._is_undone(moment.stamp_ns, jumps):
                return
            images = {name: deserialize_message(data, self._image_type)
                      for name, data in moment.images.items()}
            first = next(iter(images.values()))
            try:  # The clock may go back while it is answered, and while odometry is waited for.
                answered = self._with_present_config().answer(images)
                if self._is_undone(answered.stamp_ns, jumps):
                    return
                answered = self._followed(answered)
            except Exception as error:  # A defect must not end the thread: the next image counts.
                self._node.get_logger().debug(traceback.format_exc())
                answered = Answered(rejection('failed', sentence(error)), stamp_of(first.header),
                                    first.header.frame_id)
            if self._is_undone(answered.stamp_ns, jumps):
                return
            self._health.encoding = getattr(first, 'encoding', None) or first.format
            self._health.stamp_delay_s = (arrived_ns - answered.stamp_ns) * 1e-9
            self._on_answered(answered)
        except Exception as error:
            if self._node.context.ok():  # else the node is being shut down under this thread
                self._node.get_logger().error(f'an image was lost: {sentence(error)}')
                self._node.get_logger().debug(traceback.format_exc())

    def _with_present_config(self) -> Pipeline:
        """Return the pipeline, with the parameters that take effect at once."""
        localizer, config = self._pipeline.localizer, self._present_config()
        if config != localizer.config:
            self._pipeline.localizer = Localizer(localizer.model, localizer.database, config,
                                                 localizer.calibration)
            self._follow()
        return self._pipeline

    def _present_config(self) -> LocalizerConfig:
        return parameters.localizer_config(
            {s.name: self._node.get_parameter(s.name).value for s in parameters.LOCALIZER})


def model_folder(given: dict[str, Any]) -> Path:
    """Return the folder of the model that the parameters ask for."""
    return Path(given['model'] or shared_directory('models') / 'city')


def load_localizer(given: dict[str, Any]) -> Localizer:
    """Return the localizer that the parameters ask for, warmed up."""
    device, runtime = given['device'], given['runtime']
    if device == 'auto':
        device = best_device(runtime)
    if given['threads']:
        torch.set_num_threads(given['threads'])
    localizer = open_localizer(
        model_folder(given), Path(given['database']),
        parameters.localizer_config(given), device, runtime, given['precision'],
        given['acceleration'])
    # Noise, once: the first image of a drive must not pay for what is set up lazily.
    config = localizer.model.config.image
    noise = np.random.default_rng(0).integers(0, 256, (config.height, config.width, 3), np.uint8)
    try:
        localizer.localize(noise, config.camera, transform(R_base_optical))
    except BaseException:
        localizer.close()
        raise
    return localizer


def sentence(error: BaseException) -> str:
    """Return an error as a sentence; a defect's begins with its type."""
    return str(error) if isinstance(error, InputError) else f'{type(error).__name__}: {error}'
