"""Every image of a drive through the localizer, beside the truth: reproducible to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive
from ..errors import InputError
from ..localization.fix import Answer, Candidates
from ..localization.localizer import Localizer
from ..progress import track
from .answers import record_of
from .summary import Record


def evaluate_drive(
    localizer: Localizer, drive: Drive, camera: str | None = None, every: int = 1,
    limit: int | None = None,
) -> list[Record]:
    """
    Return one record per image, in the order of their stamps.

    camera: which of the drive's (None: the first). every: use each n-th image only. limit: stop
    after so many. The truth is the drive's own pose at the image, NaN where it has none. An image
    whose file cannot be read is a rejection, 'unreadable': one broken file must not end a run.
    A drive without images is an InputError.
    """
    return [record_of(answer, stamp, T_map_base, frame) for frame, stamp, T_map_base, answer
            in answers_to(localizer, drive, camera, every, limit)]


def answers_to(
    localizer: Localizer, drive: Drive, camera: str | None = None, every: int = 1,
    limit: int | None = None,
) -> Iterator[tuple[int, int, NDArray[np.float64], Answer]]:
    """Yield frame, stamp in ns, true pose (4, 4) and answer of each; see `evaluate_drive`."""
    stream = drive.cameras[drive.camera_named(camera)]
    name = drive.camera_named(camera)
    frames = range(0, len(stream), every)[:limit]
    if len(frames) == 0:
        raise InputError(f'{drive.source} has no images of {name}: there is nothing to localize')
    for i in track(frames, f'localizing {drive.name}'):
        try:
            image = drive.image(name, i)
        except InputError as error:
            answer = Answer(None, 'unreadable', str(error), Candidates.none(), {})
        else:
            answer = localizer.localize(image, stream.camera, stream.T_base_sensor)
        yield i, int(stream.stamps_ns[i]), stream.T_map_base[i], answer


def has_truth(drive: Drive, camera: str | None = None) -> bool:
    """Tell whether any image of the camera has a pose to be judged by."""
    return bool(np.any(drive.cameras[drive.camera_named(camera)].has_pose))
