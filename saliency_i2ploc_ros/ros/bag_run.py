"""
A bag through the localizer without a node: every image, the same answers each time.

What a node would do with the messages is done by the same objects: they are deserialized by rclpy,
put together by `Moments` and answered by `Pipeline`. There is no DDS in between, and no clock but
the bag's, so that nothing is dropped and nothing depends on the machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo
import yaml

from ..data.bag_frames import mount, static_transforms
from ..data.bags import BagMessage, BagReader
from ..errors import InputError
from ..evaluation.answers import record_of
from ..evaluation.summary import Record
from ..localization.localizer import Localizer
from ..progress import track
from .bag_images import image_message, info_topic_of, KINDS, poses_in_bag
from .frames import extrinsics_numbers, rig_extrinsics
from .moments import JUMP_NS, Moment, Moments
from .motion import follower_of, PATIENCE_S
from .odometry import OdometryTopic
from .outputs import cameras_entry
from .parameters import LOCALIZER
from .pipeline import Pipeline


@dataclass(frozen=True)
class Topics:
    """
    What of a bag is used. images: topics by camera, {'': topic} for one without a name.

    truth: topic of PoseStamped, or None. odometry: of Odometry, for the parameter sequence.
    """

    images: dict[str, str]
    truth: str | None = None
    odometry: str | None = None


def run_bag(
    bag: Path, topics: Topics, localizer: Localizer, given: dict[str, Any],
    max_gap_s: float = 1.0, every: int = 1, limit: int | None = None,
) -> list[Record]:
    """
    Return a record for each moment of a bag, in the order in which a node would get them.

    given: the node's parameters (`localizer_parameters`, `mounted_by_bag`). max_gap_s: the truth
    is interpolated over gaps up to this. every: answer each n-th moment only; limit: stop after
    so many. With the parameter sequence as the node, but that odometry is of a topic, and priors
    in the bag are not heard.
    """
    if given['sequence'] == 'odometry' and topics.odometry is None:
        raise InputError(f'sequence is odometry, and the bag {bag} has no topic of Odometry: '
                         'record odom, or set sequence to constant_velocity or none')
    # The odometry has a reader of its own: it is read up to each image.
    with BagReader(bag) as reader, BagReader(bag) as odometry_reader:
        odometry, told = None, None
        if given['sequence'] == 'odometry':
            odometry = OdometryTopic(given['odom_frame'], given['base_frame'])
            told = Heard(odometry, odometry_reader.messages([topics.odometry]))
        follower = follower_of(localizer, given, odometry, patience_s=0.0)
        truth = poses_in_bag(reader, topics.truth)
        calibrations = {info_topic_of(reader, topic): name
                        for name, topic in topics.images.items()}
        moments = Moments(list(topics.images), given['camera_slop_s'], given['camera_wait_s'])

        def time_went_back(_: str) -> None:
            pipeline.last_stamp_ns = None
            moments.clear()
            if follower is not None:
                follower.forget()
            if told is not None:
                told.time_went_back = True

        pipeline = Pipeline(
            localizer, list(topics.images), _mounting(list(topics.images), given),
            given['camera_frame'], given['image_is_rectified'], time_went_back)
        for topic, name in calibrations.items():  # as replay does before it begins
            first = next(reader.messages([topic]), None)
            if first is not None:
                pipeline.camera_infos[name] = deserialize_message(first.data, CameraInfo)

        def calibrate(topic: str, data: bytes) -> None:
            pipeline.camera_infos[calibrations[topic]] = deserialize_message(data, CameraInfo)

        kinds = {name: KINDS[reader.topics[topic]] for name, topic in topics.images.items()}
        total = min(reader.counts[topic] for topic in topics.images.values())
        records: list[Record] = []
        for i, (moment, came_ns) in enumerate(track(
                moments_of(reader, topics, calibrations, moments, calibrate), bag.name, total)):
            if limit is not None and len(records) >= limit:
                break
            if i % every:
                continue
            if told is not None:
                told.hear(came_ns)
            answered = pipeline.answer({
                name: deserialize_message(data, kinds[name])
                for name, data in moment.images.items()})
            if told is not None:
                told.wait_for(answered.stamp_ns, came_ns)
            if follower is not None:
                answered = replace(answered, answer=follower.follow(
                    answered.answer, answered.stamp_ns))
            T = truth.at(np.array([answered.stamp_ns]), max_gap_s)[0] if len(truth) else \
                np.full((4, 4), np.nan)
            records.append(record_of(answered.answer, answered.stamp_ns, T, i,
                                     cameras_entry(answered, given['cameras'])))
    return records


class Heard:
    """
    Odometry of a bag, heard when it was received: stamps may go back.

    time_went_back: to be set when those of the images have.
    """

    def __init__(self, odometry: OdometryTopic, messages: Iterator[BagMessage]) -> None:
        self.time_went_back = False
        self._odometry, self._messages = odometry, messages
        self._next = next(messages, None)

    def hear(self, until_ns: int) -> None:
        """Take what was received up to a log time."""
        while self._next is not None and self._next.stamp_ns <= until_ns:
            self._odometry.add(deserialize_message(self._next.data, Odometry))
            self._next = next(self._messages, None)

    def wait_for(self, stamp_ns: int, came_ns: int) -> None:
        """Take what a node would wait for: odometry of an image that was received at `came_ns`."""
        if self.time_went_back and self._odometry.newest_ns > stamp_ns + JUMP_NS:
            self._odometry.forget()  # it has not gone back itself yet
        self.time_went_back = False
        end_ns = came_ns + round(PATIENCE_S * 1e9)
        while self._next is not None and self._next.stamp_ns <= end_ns:
            try:
                self._odometry.at(stamp_ns)
                return
            except InputError:
                self.hear(self._next.stamp_ns)


def moments_of(
    bag: BagReader, topics: Topics, calibrations: dict[str, str], moments: Moments,
    calibrate: Callable[[str, bytes], None],
) -> Iterator[tuple[Moment, int]]:
    """
    Yield the images that belong together, and the log time at which they were complete.

    CameraInfo is handed over when its turn comes.
    """
    cameras = {topic: name for name, topic in topics.images.items()}
    came_ns = bag.start_ns
    for message in bag.messages([*cameras, *calibrations]):
        came_ns = message.stamp_ns
        now = came_ns * 1e-9
        if message.topic in calibrations:
            calibrate(message.topic, message.data)
            continue
        while (late := moments.overdue(now)) is not None:
            yield late, came_ns
        moment = moments.add(cameras[message.topic], message.data, now)
        if moment is not None:
            yield moment, came_ns
    while (late := moments.overdue(math.inf)) is not None:
        yield late, came_ns


def mounted_by_bag(bag: Path, topics: Topics, given: dict[str, Any]) -> dict[str, Any]:
    """
    Return the parameters with `camera_extrinsics` from the bag's /tf_static if they have none.

    It is the optical frame of each camera's first image, or `camera_frame`, that is looked up; if
    the bag does not say where one of them is, they stay as they are.
    """
    if given['camera_extrinsics']:
        return given
    numbers: list[float] = []
    with BagReader(bag) as reader:
        edges = static_transforms(reader)
        for topic in topics.images.values():
            first = next(reader.messages([topic]), None)
            T = None if first is None else mount(
                edges, given['camera_frame'] or image_message(first).header.frame_id,
                given['base_frame'])
            if T is None:
                return given
            numbers += extrinsics_numbers(T)
    return {**given, 'camera_extrinsics': numbers}


def _mounting(cameras: Sequence[str], given: dict[str, Any]) -> Callable[
        [str, str], NDArray[np.float64]]:
    """Return what says where a camera sits."""
    known = rig_extrinsics(given['camera_extrinsics'], cameras)

    def of(frame: str, camera: str) -> NDArray[np.float64]:
        if camera not in known:
            raise InputError(f'where {frame!r} sits in {given["base_frame"]!r} is not known: '
                             '/tf_static of the bag does not say, set camera_extrinsics')
        return known[camera]

    return of


def localizer_parameters(file: Path | None, given: Sequence[str]) -> dict[str, Any]:
    """
    Return all parameters of the localizer: the defaults, a parameter file's, `given`.

    given: texts 'name=value', the value as in yaml. What no parameter may be is an InputError;
    what is in the file for others or for ROS is passed over.
    """
    settings = {setting.name: setting for setting in LOCALIZER}
    values = {name: setting.default for name, setting in settings.items()}
    if file is not None:
        values.update({name: settings[name].checked(value)
                       for name, value in _in_file(file).items() if name in settings})
    for text in given:
        name, equals, value = text.partition('=')
        if not equals or name not in settings:
            raise InputError(f'{text!r} sets no parameter of the localizer: write name=value, '
                             f'with one of {", ".join(settings)}')
        plain = settings[name].checked(value if type(settings[name].default) is str
                                       else _yaml(value, f'the value of {name}'))
        values[name] = plain
    return values


def _in_file(file: Path) -> dict[str, Any]:
    """Return the parameters that a ROS parameter file has for a node named localizer."""
    try:
        text = file.read_text(encoding='utf-8')
    except OSError as error:
        raise InputError(f'cannot read {file}: {error.strerror}') from error
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            if key == 'ros__parameters':
                if name.rpartition('/')[2] in ('localizer', '**', '*'):
                    found.update(inner or {})
            else:
                walk(str(key), inner)

    walk('', _yaml(text, str(file)))
    return found


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f'{what} is not yaml: {" ".join(str(error).split())}') from error
