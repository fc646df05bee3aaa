"""
What `check` looks for, one function a subject: facts in, findings in plain words out.

Nothing here talks to ROS's graph; `check_node` gathers the facts. Whether a message can be used is
asked of the localizer's own code, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
import difflib
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..errors import InputError
from ..geometry.cameras import Camera
from ..localization.fix import Answer
from ..localization.localizer import camera_yaw
from ..localization.visibility import visibility_of
from .cameras import camera_of, check_size
from .conversions import compressed_to_rgb, image_to_rgb
from .diagnostics import DELAY_S, REFUSALS, SLOW_MS

OK, WARN, ERROR = 'OK', 'WARN', 'ERROR'
SLOW_RATE_HZ = 0.5
COMPRESSED = '/compressed'


@dataclass(frozen=True)
class Finding:
    """One line of the report. level: OK, WARN or ERROR. text: what is so, and what to do."""

    level: str
    subject: str
    text: str


@dataclass
class Heard:
    """
    What has come on one topic.

    name: what the node calls it, for remapping ('image', 'front/camera_info'). arrivals: s of a
    steady clock. delays_s: from each stamp to its arrival, by the node's clock. stamps_ns: of the
    headers. last: the newest message.
    """

    name: str
    topic: str
    kind: type
    qos: QoSProfile
    arrivals: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    last: Any = None

    @property
    def rate_hz(self) -> float | None:
        """Return the rate of arrival, None with fewer than two messages."""
        span = self.arrivals[-1] - self.arrivals[0] if len(self.arrivals) > 1 else 0.0
        return (len(self.arrivals) - 1) / span if span > 0.0 else None


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 where all is well, 1 with warnings, 2 with errors."""
    return max(((OK, WARN, ERROR).index(finding.level) for finding in findings), default=0)


def type_name(kind: type) -> str:
    """Return a message's name as ROS's tools write it: sensor_msgs/msg/Image."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def similar(topic: str, others: Iterable[str], limit: int = 3) -> list[str]:
    """Return at most `limit` topics, those most like `topic` first."""
    def likeness(other: str) -> float:
        parts = (difflib.SequenceMatcher(None, topic, other),
                 difflib.SequenceMatcher(None, topic.split('/')[-1], other.split('/')[-1]))
        return sum(part.ratio() for part in parts)
    return sorted(others, key=lambda other: (-likeness(other), other))[:limit]


def labelled(camera: str, finding: Finding) -> Finding:
    """Return the finding, its subject with the camera's name if it has one."""
    return replace(finding, subject=f'{camera}/{finding.subject}') if camera else finding


def topic_findings(heard: Heard, topics: Mapping[str, Sequence[str]], publishers: Sequence[Any],
                   ) -> Iterator[Finding]:
    """
    Yield what hinders a topic: nobody publishes it, another type, a QoS that does not fit.

    topics: published topics and their types. publishers: of this one, as the graph describes them.
    """
    name, topic, kind, qos = heard.name, heard.topic, heard.kind, heard.qos
    wanted = type_name(kind)
    if not publishers:
        yield Finding(ERROR, name, f'nothing publishes {topic}{_instead(heard, topics)}')
        return
    wrong = [p for p in publishers if p.topic_type != wanted]
    if len(wrong) == len(publishers):
        yield Finding(ERROR, name, f'{topic} is {wrong[0].topic_type}, {wanted} is needed'
                      f'{_instead(heard, topics)}')
        return
    for publisher in publishers:
        fits, reason = qos_check_compatible(publisher.qos_profile, qos)
        if publisher.topic_type == wanted and fits == QoSCompatibility.ERROR:
            yield Finding(ERROR, name, f'{publisher.node_name} publishes {topic} with a QoS that '
                          'does not fit, nothing of it arrives: '
                          f'{_qos_advice(topic, qos, reason)}')


def _instead(heard: Heard, topics: Mapping[str, Sequence[str]]) -> str:
    """Return which topics there are to be used, and how; starts the next clause."""
    name, topic, kind = heard.name, heard.topic, heard.kind
    others = [t for t, types in topics.items() if type_name(kind) in types and t != topic]
    suffix = COMPRESSED if kind is CompressedImage else ''
    if others:
        found = similar(topic, others)
        # image_transport's way: the base topic is remapped, the suffix stays.
        base = found[0].removesuffix(suffix)
        return (f'; {type_name(kind)} is on {", ".join(found)}: if it is one of them, remap with '
                f'`-r {name}:={base}` (with a launch file: camera, image)')
    if kind is Image and topic + COMPRESSED in topics:
        return f'; {topic}{COMPRESSED} is there: set image_transport to compressed'
    if kind is CompressedImage and topic.removesuffix(COMPRESSED) in topics:
        return f'; {topic.removesuffix(COMPRESSED)} is there: set image_transport to raw'
    return (f', and no other topic has {type_name(kind)}: is the driver running, with the same '
            'ROS_DOMAIN_ID?')


def _qos_advice(topic: str, qos: QoSProfile, reason: str) -> str:
    if qos.reliability == ReliabilityPolicy.RELIABLE:
        return (f'it offers best effort, and reliable is asked for: leave out reliable_images, or '
                f'set qos_overrides.{topic}.subscription.reliability to best_effort')
    return f'{reason}: see the parameters qos_overrides.{topic}.subscription'


def arrival_finding(heard: Heard, seconds: float) -> Finding:
    """Return whether messages come, and how often. seconds: how long they were waited for."""
    name = heard.name
    if not heard.arrivals:
        advice = 'is it paused, or does it wait for a trigger?'
        if heard.kind is Image and heard.qos.reliability != ReliabilityPolicy.RELIABLE:
            advice += (' Images over 500 kB often get lost by best effort: '
                       'config/fastdds_large_images.xml or reliable_images:=true, see '
                       'docs/troubleshooting.md')
        return Finding(ERROR, name, f'{heard.topic} has a publisher, but nothing came in '
                       f'{seconds:.0f} s: {advice}')
    rate = heard.rate_hz
    if rate is None:
        return Finding(OK if heard.kind is CameraInfo else WARN, name,
                       f'{heard.topic}: one message in {seconds:.0f} s')
    if rate < SLOW_RATE_HZ and heard.kind is not CameraInfo:
        return Finding(WARN, name, f'{heard.topic} comes {rate:.2f} times a second: so rarely '
                       'come fixes')
    return Finding(OK, name, f'{heard.topic} comes at {rate:.1f} Hz')


def stamp_finding(heard: Heard, use_sim_time: bool, has_clock: bool) -> Finding:
    """Return whether the images' stamps make sense. has_clock: /clock is published."""
    if use_sim_time and not has_clock:
        return Finding(ERROR, 'stamps', 'use_sim_time is true and nothing publishes /clock: time '
                       'stands still; start the simulation or the replay, or set it to false')
    if max(heard.stamps_ns) == 0:
        return Finding(ERROR, 'stamps', "the images' stamps are 0, and so would be the "
                       "fixes': let the driver fill in header.stamp")
    back = sum(b <= a for a, b in zip(heard.stamps_ns, heard.stamps_ns[1:], strict=False))
    if back:
        return Finding(WARN, 'stamps', f'{back} of {len(heard.stamps_ns)} images are not newer '
                       'than the one before: two publishers on one topic?')
    delay = statistics.median(heard.delays_s)
    if not DELAY_S[0] <= delay <= DELAY_S[1]:
        if has_clock and not use_sim_time:
            advice = '/clock is published: set use_sim_time to true'
        elif use_sim_time:
            advice = 'is use_sim_time true for the driver too?'
        else:
            advice = ('the clocks of camera and computer differ; or a bag is played: with '
                      '`ros2 bag play --clock` and use_sim_time:=true')
        return Finding(WARN, 'stamps', f'images arrive {delay:.3f} s after their stamps: {advice}')
    return Finding(OK, 'stamps', f'images arrive {delay:.3f} s after their stamps')


def image_finding(message: Image | CompressedImage, min_contrast: float,
                  min_visible: float) -> tuple[Finding, NDArray[np.uint8] | None]:
    """
    Return whether an image can be decoded and shows something, and its (H, W, 3) RGB.

    min_contrast, min_visible: the localizer's parameters.
    """
    compressed = isinstance(message, CompressedImage)
    try:
        image = compressed_to_rgb(message) if compressed else image_to_rgb(message)
    except InputError as error:
        return Finding(ERROR, 'encoding', str(error)), None
    encoding = message.format if compressed else message.encoding
    height, width = image.shape[:2]
    contrast, share = seen = visibility_of(image)
    if not seen.suffices(min_contrast, min_visible):
        return Finding(WARN, 'encoding', f'{encoding}, {width} x {height}: the image shows '
                       f'nothing (contrast {contrast:.1f} of at least {min_contrast:g}, details '
                       f'in {100 * share:.0f} % of it, at least {100 * min_visible:g} %): is '
                       'the lens covered?'), image
    return Finding(OK, 'encoding', f'{encoding}, {width} x {height}'), image


def calibration_findings(
    info: CameraInfo, rectified: bool, image_topic: str,
) -> tuple[list[Finding], Camera | None]:
    """Return whether a CameraInfo can be used, and the camera it describes."""
    try:
        camera = camera_of(info, rectified)
    except InputError as error:
        return [Finding(ERROR, 'calibration', str(error))], None
    last = image_topic.removesuffix(COMPRESSED).rpartition('/')[2]
    if rectified and 'rect' not in last and any(info.d):
        return [Finding(WARN, 'calibration', f'{image_topic} looks like raw images with '
                        'distortion, and image_is_rectified is true: set it to false, or listen '
                        'to image_rect')], camera
    if not rectified and 'rect' in last:
        return [Finding(WARN, 'calibration', f'{image_topic} looks like rectified images, and '
                        'image_is_rectified is false')], camera
    how = 'rectified' if rectified else info.distortion_model or 'no distortion'
    return [Finding(OK, 'calibration', f'{info.width} x {info.height}, {how}, frame '
                    f'{info.header.frame_id!r}')], camera


def agreement_findings(
    image: NDArray[np.uint8], image_frame: str, camera: Camera, info_frame: str,
) -> Iterator[Finding]:
    """Yield where image and CameraInfo do not belong together."""
    try:
        check_size(image, camera)
    except InputError as error:
        yield Finding(ERROR, 'calibration', str(error))
    if image_frame != info_frame:
        yield Finding(WARN, 'calibration', f'the image is in the frame {image_frame!r}, its '
                      f'CameraInfo in {info_frame!r}: are they of one camera?')


def mounting_finding(frame: str, base: str, T_base_camera: NDArray[np.float64],
                     from_tf: bool) -> Finding:
    """Return whether the mounting of a camera makes sense. T_base_camera: (4, 4)."""
    source = 'TF' if from_tf else 'camera_extrinsics'
    try:
        yaw = np.degrees(camera_yaw(T_base_camera))
    except InputError:
        return Finding(ERROR, 'mounting', f'{frame!r} looks straight up or down in {base!r}, by '
                       f'{source}: an optical frame has z forward, x right, y down')
    x, y, z = T_base_camera[:3, 3]
    text = (f'{frame!r} is at {x:.2f}, {y:.2f}, {z:.2f} m in {base!r} and looks {yaw:.0f} '
            f'degrees to the left, by {source}')
    if z < -0.5 or np.linalg.norm(T_base_camera[:3, 3]) > 20.0:
        return Finding(WARN, 'mounting', f'{text}: is that so?')
    return Finding(OK, 'mounting', text)


def answer_finding(answer: Answer, rate_hz: float | None) -> Finding:
    """Return what the localizer made of an image. rate_hz: of the images."""
    milliseconds = answer.milliseconds['total']
    pace = f'{milliseconds:.0f} ms an image'
    if rate_hz and milliseconds > 1000.0 / rate_hz:
        pace += f', so that about {1000.0 / milliseconds:.1f} of {rate_hz:.1f} a second get one'
    if milliseconds > SLOW_MS:
        return Finding(WARN, 'answer', f'slow: {pace}; see runtime, threads and device')
    if answer.rejection in REFUSALS:
        return Finding(ERROR, 'answer', f'the image at hand gets none: {answer.explanation}')
    if answer.fix is None:
        return Finding(WARN, 'answer', f'the image at hand gets no fix: {answer.explanation} '
                       f'({pace})')
    x, y, _ = answer.fix.T_map_base[:3, 3]
    return Finding(OK, 'answer', f'the image at hand gets a fix at {x:.1f}, {y:.1f} ({pace})')
