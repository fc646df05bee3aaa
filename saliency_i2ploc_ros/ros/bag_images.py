"""Images, calibration and poses in a bag, decoded as the nodes decode them."""

from __future__ import annotations

from pathlib import Path

from geometry_msgs.msg import PoseStamped
import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..data.bags import BagMessage, BagReader
from ..data.drive import Trajectory
from ..errors import InputError
from ..geometry.cameras import Camera
from .cameras import camera_of
from .conversions import compressed_to_rgb, image_to_rgb, message_to_pose, stamp_of

KINDS = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CompressedImage': CompressedImage}
LATE_NS = 5_000_000_000  # a message is mostly recorded this soon after its stamp


def image_message(stored: BagMessage) -> Image | CompressedImage:
    """Return the message of an image as a subscriber gets it."""
    return deserialize_message(stored.data, KINDS[stored.type_name])


def pixels_of(message: Image | CompressedImage) -> NDArray[np.uint8]:
    """Return a message's image (H, W, 3) RGB; one that cannot be read is an InputError."""
    return (image_to_rgb if isinstance(message, Image) else compressed_to_rgb)(message)


def image_topics(bag: BagReader) -> list[str]:
    """Return the topics that have images, in alphabetical order."""
    return sorted(topic for topic, kind in bag.topics.items() if kind in KINDS)


def check_images(bag: Path, topic: str) -> None:
    """Raise InputError unless the bag can be opened and the topic, if any, has its images."""
    with BagReader(bag) as reader:
        found = image_topics(reader)
    if topic and topic not in found:
        raise InputError(f'image_topic is {topic}, of which the bag {bag} has no images: '
                         f'it has those of {", ".join(found) or "none"}')


def image_in_bag(bag: Path, topic: str, stamp_ns: int) -> NDArray[np.uint8] | None:
    """Return the image (H, W, 3) RGB with this stamp in its header; None if there is none."""
    with BagReader(bag) as reader:
        # Where it should be, else anywhere: a simulation's stamps are not the recorder's time.
        for window in ((stamp_ns - LATE_NS, stamp_ns + LATE_NS), (None, None)):
            for stored in reader.messages([topic], *window):
                message = image_message(stored)
                if stamp_of(message.header) == stamp_ns:
                    return pixels_of(message)
    return None


def camera_in_bag(bag: Path, image_topic: str, image_is_rectified: bool) -> Camera:
    """Return the camera of a topic of images, by the first CameraInfo beside it; InputError."""
    with BagReader(bag) as reader:
        topic = info_topic_of(reader, image_topic)
        stored = next(reader.messages([topic]), None)
    if stored is None:
        raise InputError(f'{topic} of the bag {bag} has no message')
    return camera_of(deserialize_message(stored.data, CameraInfo), image_is_rectified)


def info_topic_of(bag: BagReader, image_topic: str) -> str:
    """Return the CameraInfo topic that belongs to one of images; none beside it: InputError."""
    topic = f'{image_topic.removesuffix("/compressed").rpartition("/")[0]}/camera_info'
    if topic not in bag.topics:
        raise InputError(f'the bag {bag.path} has no {topic}, which would belong to '
                         f'{image_topic}: record it too')
    return topic


def poses_in_bag(bag: BagReader, topic: str | None) -> Trajectory:
    """Return the poses of a topic of PoseStamped by their stamps; none for None."""
    poses: dict[int, NDArray[np.float64]] = {}
    for stored in bag.messages([topic]) if topic else ():
        message = deserialize_message(stored.data, PoseStamped)
        poses[stamp_of(message.header)] = message_to_pose(message.pose)
    stamps = sorted(poses)
    return Trajectory(np.array(stamps, np.int64),
                      np.array([poses[stamp] for stamp in stamps]).reshape(-1, 4, 4))
