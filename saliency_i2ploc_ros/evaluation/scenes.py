"""Scenes of a drive, whose image is localized now, and of a run, which was answered before."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive, Trajectory
from ..data.trajectories import read_trajectory
from ..errors import InputError
from ..geometry.cameras import Camera
from ..geometry.poses import from_quaternion, planar
from ..localization.fix import Answer, Candidates, Fix
from ..localization.localizer import Localizer
from ..localization.looks import place_look, query_look, saliency_look
from ..progress import track
from .scene import Pixels, Scene
from .summary import NO_TRUTH

BEFORE = 100  # images localized for the path up to the one shown
Seen = tuple[Pixels, Camera | None]


def scene_of_drive(
    localizer: Localizer, drive: Drive, camera: str | None = None, frame: int | None = None,
) -> Scene:
    """
    Return the scene of one image of a drive, localized as the node would.

    camera: which of the drive's (None: the first). frame: the image's number in the data set
    (None: the middle one); one that is not there is an InputError. Up to `BEFORE` images, evenly
    spread over the drive before it, are localized too, for the estimated path.
    """
    name = drive.camera_named(camera)
    stream = drive.cameras[name]
    if len(stream) == 0:
        raise InputError(f'{drive.source} has no images of {name}: there is nothing to localize')
    found = [len(stream) // 2] if frame is None else np.flatnonzero(stream.ids == frame).tolist()
    if not found:
        raise InputError(f'{drive.source} has no image {frame} of {name}: it has '
                         f'{len(stream)} from {stream.ids.min()} to {stream.ids.max()}')
    index = int(found[0])

    def localized(i: int) -> tuple[Pixels, Answer]:
        image = drive.image(name, i)
        return image, localizer.localize(image, stream.camera, stream.T_base_sensor)

    before = np.unique(np.linspace(0, index, min(BEFORE, index) + 1).astype(int))[:-1]
    fixes = [answer.fix for _, answer in (
        localized(int(i)) for i in track(before, f'localizing {drive.name}'))]
    image, answer = localized(index)
    known = drive.trajectory.T_map_base
    return Scene(
        f'{drive.name}, frame {stream.ids[index]}', answer, localizer.database,
        truth=np.array(stream.T_map_base[index]),
        true_path=np.asarray(known[:, :2, 3]) if len(known) else np.zeros((0, 2)),
        estimated_path=_positions(fixes),
        **_looks(localizer, answer, (image, stream.camera)))


def scene_of_run(
    localizer: Localizer, folder: Path, number: int | None,
    image_of: Callable[[int], Seen | None],
) -> Scene:
    """
    Return the scene of one answer of a run's folder: nothing is localized again.

    folder: of `write_report`, offline or live. number: of the answer, from 0 (None: the middle
    one). image_of: returns the image (H, W, 3) RGB with this stamp and its camera, None if it is
    not at hand. A folder without answers, and answers of another map, are InputErrors.
    """
    answers = read_answers(folder)
    number = len(answers) // 2 if number is None else number
    if not 0 <= number < len(answers):
        raise InputError(f'{folder} has no answer {number}: it has {len(answers)}, counted from 0')
    stamp, raw = int(answers[number]['stamp_ns']), answers[number]
    answer = answer_of_json(raw)
    if len(answer.candidates) and answer.candidates.indices.max() >= len(localizer.database):
        raise InputError(f'{folder} has answers of another map than {localizer.database.path}: '
                         'give the map that it was run with')
    known = true_path_of(folder)
    return Scene(
        f'{folder.name}, answer {number}', answer, localizer.database,
        truth=known.at(np.array([stamp]))[0] if len(known) else NO_TRUTH.copy(),
        true_path=known.T_map_base[:, :2, 3],
        estimated_path=_positions([answer_of_json(one).fix for one in answers[:number]]),
        **_looks(localizer, answer, image_of(stamp)))


def true_path_of(folder: Path) -> Trajectory:
    """Return the true poses of a run's folder, none if they are not known."""
    path = folder / 'truth.tum'
    if not path.is_file() or not path.stat().st_size:
        return Trajectory(np.zeros(0, np.int64), np.zeros((0, 4, 4)))
    return read_trajectory(path)


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """Return a run's answers in the order of their stamps; none, or unreadable: InputError."""
    path = folder / 'answers.jsonl'
    try:
        answers = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    except FileNotFoundError as error:
        raise InputError(f'{folder} has no answers.jsonl: give the results of `i2ploc evaluate '
                         '--map`, or of a live run, or a data set') from error
    except ValueError as error:
        raise InputError(f'{path} cannot be read ({error}): run the evaluation again') from error
    if not answers:
        raise InputError(f'{path} is empty: no image was answered')
    return sorted(answers, key=lambda answer: int(answer['stamp_ns']))


def answer_of_json(raw: dict[str, Any]) -> Answer:
    """Return the answer that `Answer.as_dict` wrote; the saliency is not in it."""
    listed, fix = raw['candidates'], raw['fix']
    candidates = Candidates(
        np.array([one['place'] for one in listed], np.int64),
        np.array([one['score'] for one in listed], np.float32),
        np.array([_level(one) for one in listed], np.float64).reshape(-1, 4, 4))
    found = None if fix is None else Fix(
        from_quaternion(fix['quaternion_xyzw'], fix['position_m']),
        np.array(fix['covariance'], np.float64), float(fix['score']))
    estimate = raw.get('estimate')
    would_be = found or (None if estimate is None else Fix(
        _level(estimate), np.full((6, 6), np.nan), float('nan')))
    return Answer(found, raw['rejection'], raw['explanation'], candidates, {}, estimate=would_be)


def _level(raw: dict[str, Any]) -> NDArray[np.float64]:
    x, y, z = raw['position_m']
    return planar(x, y, float(np.radians(raw['yaw_deg'])), z)


def _positions(fixes: list[Fix | None]) -> NDArray[np.float64]:
    return np.array([fix.T_map_base[:2, 3] for fix in fixes if fix is not None]).reshape(-1, 2)


def _looks(localizer: Localizer, answer: Answer, seen: Seen | None) -> dict[str, Pixels | None]:
    """Return the pictures of a scene; those that there are not are None."""
    config = localizer.model.config
    looks: dict[str, Pixels | None] = {'query': None, 'saliency': None, 'place': None}
    if seen is not None:
        look = query_look(*seen, config)
        looks['query'] = look
        if config.has_saliency:
            looked = answer.saliency[0] if answer.saliency else localizer.model.run(
                localizer.model.prepare(*seen)[None])[1][0]
            if looked is not None:
                looks['saliency'] = saliency_look(look, looked, config)
    if len(answer.candidates):
        looks['place'] = place_look(localizer.database, int(answer.candidates.indices[0]), config)
    return looks
