"""
The bring-up checker: says in plain words what the localizer would lack, and what to do about it.

    ros2 run saliency_i2ploc_ros check --ros-args -p database:=/maps/town -r image:=/front/image

It takes the localizer's own parameters and remappings. Where a localizer of that name runs, its
parameters and topics are looked at, but for what is given here. Exit code: 0 if all is well, 1
with warnings, 2 with errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import sys
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.executors import Executor
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..errors import InputError
from ..localization.localizer import Localizer
from ..mapping.database import PlaceDatabase
from . import checks, parameters
from .bystander import Bystander, SETTLE_S
from .checks import ERROR, Finding, Heard, OK, WARN
from .frames import Extrinsics, rig_extrinsics
from .inference import load_localizer, sentence
from .inputs import cameras_of_rig
from .odometry import OdometryTopic
from .pipeline import Pipeline
from .running import ros
from .settings import Setting

CHECK: tuple[Setting, ...] = (
    Setting('listen_s', 5.0, 'how long topics, messages and TF are waited for',
            above=0.0, high=600.0),
)
ENOUGH = 10  # messages of a topic from which its rate is known


class CheckNode(Bystander):
    """Goes through model, map, topics, images, calibration and frames, as the localizer would."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        parameters.declare(self, CHECK)
        self.patience_s = parameters.values(self, CHECK)['listen_s']
        self._localizer: Localizer | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield all there is to say, as it is found."""
        yield self.look_at_localizer()
        yield from self._model_and_map()
        yield from self._inputs()

    def _model_and_map(self) -> Iterator[Finding]:
        given = self.given
        if not given['database']:
            yield Finding(ERROR, 'database', 'the parameter database is empty: give the folder '
                          'that `i2ploc build-map` made')
            return
        subject, path = 'database', Path(given['database'])
        try:
            database = PlaceDatabase.open(path)
            yield Finding(OK, subject, f'{len(database)} places every {database.spacing_m:g} m, '
                          f'made by the model {database.schema.model_name!r} '
                          f'({database.schema.encoder_hash})')
            subject = 'model'
            self._localizer = load_localizer(given)
        except Exception as error:  # as `configure` fails of it
            yield Finding(ERROR, subject, sentence(error))
            return
        model = self._localizer.model
        yield Finding(OK, subject, f'{model.config.name} made this map; {model.runtime} runs it '
                      f'on {model.device} in {model.precision}')
        for note in model.notes:
            yield Finding(WARN, subject, note)

    def _inputs(self) -> Iterator[Finding]:
        given = self.given
        compressed = given['image_transport'] == 'compressed'
        kind = CompressedImage if compressed else Image
        names = cameras_of_rig(given)
        needs_info = self._localizer is None \
            or self._localizer.model.config.image.camera is not None
        images, infos = {}, {}
        for name in names:
            prefix = f'{name}/' if name else ''
            images[name] = self.listen(f'{prefix}image', kind, checks.COMPRESSED * compressed)
            if needs_info:
                infos[name] = self.listen(f'{prefix}camera_info', CameraInfo)
        all_heard = [*images.values(), *infos.values()]
        if given['publish_tf'] == 'map_to_odom' and given['odometry'] == 'topic':
            all_heard.append(self.listen('odom', Odometry))
        extrinsics = None
        try:
            if given['camera_frame'] and given['cameras']:
                raise InputError('camera_frame is of one camera, and there are several: leave it '
                                 'empty')
            extrinsics = Extrinsics(self, given['base_frame'],
                                    rig_extrinsics(given['camera_extrinsics'], names))
            extrinsics.listen()
        except InputError as error:
            yield Finding(ERROR, 'mounting', str(error))

        self.until(lambda: all(len(heard.arrivals) >= (1 if heard.kind is CameraInfo else ENOUGH)
                               or any(self.hindrances(heard, only_certain=True))
                               for heard in all_heard))
        for heard in all_heard:
            hindered = list(self.hindrances(heard))
            yield from hindered
            if not hindered or heard.arrivals:
                yield checks.arrival_finding(heard, self.patience_s)
        yield from self._transforms(all_heard[-1])
        usable = [name for name in names if images[name].arrivals]
        for name in list(usable):
            for finding in self._camera(name, images[name], infos.get(name), extrinsics):
                yield checks.labelled(name, finding)
                if finding.level == ERROR and name in usable:
                    usable.remove(name)
        # Of several cameras those that there are, as the localizer does.
        if usable and self._localizer is not None and extrinsics is not None \
                and all(name in infos and infos[name].arrivals for name in usable if needs_info):
            pipeline = Pipeline(self._localizer, names, extrinsics.of, given['camera_frame'],
                                given['image_is_rectified'], lambda what: None)
            pipeline.camera_infos = {name: infos[name].last for name in usable if needs_info}
            messages = {name: images[name].last for name in usable}
            pipeline.answer(messages)  # what is set up lazily is not of the pace
            pipeline.last_stamp_ns = None
            yield checks.answer_finding(pipeline.answer(messages).answer,
                                        images[usable[0]].rate_hz)

    def _camera(self, name: str, images: Heard, infos: Heard | None,
                extrinsics: Extrinsics | None) -> Iterator[Finding]:
        """Yield what there is to say of a camera that sends images."""
        given, message = self.given, images.last
        yield checks.stamp_finding(images, self.get_parameter('use_sim_time').value,
                                   self.count_publishers('/clock') > 0)
        finding, image = checks.image_finding(message, given['min_contrast'],
                                              given['min_visible'])
        yield finding
        if infos is not None and infos.last is not None:
            lines, camera = checks.calibration_findings(
                infos.last, given['image_is_rectified'], images.topic)
            yield from lines
            if camera is not None and image is not None:
                yield from checks.agreement_findings(
                    image, message.header.frame_id, camera, infos.last.header.frame_id)
        if extrinsics is not None:
            frame = given['camera_frame'] or message.header.frame_id
            yield self._mounting(extrinsics, frame, name)

    def _mounting(self, extrinsics: Extrinsics, frame: str, name: str) -> Finding:
        reason = ''

        def known() -> bool:
            nonlocal reason
            try:
                extrinsics.of(frame, name)
            except InputError as error:
                reason = str(error)
                return False
            return True

        if self.until(known):
            return checks.mounting_finding(
                frame, self.given['base_frame'], extrinsics.of(frame, name),
                from_tf=not len(self.given['camera_extrinsics']))
        if not self.count_publishers('/tf_static') and not self.count_publishers('/tf'):
            reason += '; nothing publishes /tf or /tf_static: does robot_state_publisher run?'
        return Finding(ERROR, 'mounting', reason)

    def _transforms(self, odometry: Heard) -> Iterator[Finding]:
        """Yield whether publish_tf can be done, and whether another one does it already."""
        given = self.given
        odom, base, map_ = given['odom_frame'], given['base_frame'], given['map_frame']
        if given['publish_tf'] == 'none':
            return
        if odometry.kind is Odometry and odometry.last is not None:
            try:
                OdometryTopic(odom, base).add(odometry.last)
            except InputError as error:
                yield Finding(ERROR, 'odom', str(error))
        try:
            from tf2_ros import Buffer, TransformListener
        except ImportError:
            yield Finding(ERROR, 'tf', f'publish_tf is {given["publish_tf"]}, which needs the '
                          'packages tf2_ros and tf2_msgs: install them, or set it to none')
            return
        buffer = Buffer()
        listener = TransformListener(buffer, self)
        if given['publish_tf'] == 'map_to_odom' and given['odometry'] == 'tf':
            if self.until(lambda: buffer.can_transform(odom, base, Time())):
                yield Finding(OK, 'tf', f'{odom!r} to {base!r} is on TF')
            else:
                yield Finding(ERROR, 'tf', f'TF has no {odom!r} to {base!r}, which publish_tf '
                              'map_to_odom corrects: start the odometry, or set the parameter '
                              'odometry to topic')
        child = odom if given['publish_tf'] == 'map_to_odom' else base
        if not self.is_active and self.until(
                lambda: buffer.can_transform(map_, child, Time()), SETTLE_S):
            yield Finding(ERROR, 'tf', f'{map_!r} to {child!r} is on TF already, without the '
                          'localizer: stop its source, or set publish_tf to none')
        listener.unregister()


def main(args: list[str] | None = None) -> None:
    """Print the findings, a line each, and what follows from them; the exit code says the same."""
    found: list[Finding] = []
    code = 2  # where it is interrupted
    try:
        with ros(args, __doc__) as executor:
            for finding in CheckNode(executor).findings():
                found.append(finding)
                print(_line(finding), flush=True)
            code = checks.exit_code(found)
            print(_conclusion(found))
    except InputError as error:
        print(_line(Finding(ERROR, 'parameters', str(error))))
    sys.exit(code)


def _line(finding: Finding) -> str:
    return f'{finding.level:<6}{finding.subject:<18}{finding.text}'


def _conclusion(found: list[Finding]) -> str:
    counts: dict[str, Any] = {level: sum(f.level == level for f in found)
                              for level in (ERROR, WARN)}
    words = [f'{n} {word}{"s" * (n > 1)}' for word, n in
             (('error', counts[ERROR]), ('warning', counts[WARN])) if n]
    if counts[ERROR]:
        return f'{" and ".join(words)}: mend them from the top'
    return f'it would run, with {words[0]}' if words else 'all is well'


if __name__ == '__main__':
    main()
