"""What a bag holds, and its LiDAR over one of its images, by nothing but its own messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, PointCloud2

from ..data.bag_frames import mount, static_transforms
from ..data.bags import BagReader
from ..data.drive import Trajectory
from ..errors import InputError
from ..geometry.cameras import Camera
from ..geometry.poses import apply, inverse
from .bag_images import image_message, image_topics, info_topic_of, pixels_of, poses_in_bag
from .cameras import camera_of, check_size
from .conversions import message_to_cloud, stamp_of

CLOUD, POSE = 'sensor_msgs/msg/PointCloud2', 'geometry_msgs/msg/PoseStamped'
NEAR_NS = 500_000_000  # a scan further from the image shows another street


@dataclass(frozen=True)
class BagView:
    """
    An image of a bag (H, W, 3) RGB, and the nearest scan's points (n, 3) in its camera's frame.

    points is None where the bag has no scan near it. trajectory: the true poses, perhaps none.
    """

    title: str
    image: NDArray[np.uint8]
    stamp_ns: int
    camera: Camera
    points: NDArray[np.float64] | None
    trajectory: Trajectory


def bag_summary(path: Path) -> str:
    """Return one screen of text about a bag."""
    with BagReader(path) as bag:
        lines = [f'{path}: {(bag.end_ns - bag.start_ns) * 1e-9:.1f} s']
        lines += [f'{bag.counts[topic]:8d}  {topic}  {bag.topics[topic]}'
                  for topic in sorted(bag.topics)]
        lines += [f'  {child} in {parent}' for child, (parent, _)
                  in sorted(static_transforms(bag).items())]
    return '\n'.join(lines)


def view_bag(path: Path, image_topic: str | None, index: int, base_frame: str) -> BagView:
    """
    Return image `index` of a topic (None: the first) with the LiDAR in its camera's frame.

    Camera and frames are CameraInfo's and /tf_static's own. Between the two stamps the points are
    moved by the true poses of `base_frame`, where the bag has them. What is missing: InputError.
    """
    with BagReader(path) as bag:
        topic = chosen_topic(bag, image_topic)
        image = _nth(bag, topic, index)
        info = _first(bag, info_topic_of(bag, topic), CameraInfo)
        camera = camera_of(info, image_is_rectified='image_raw' not in topic)
        pixels, stamp = pixels_of(image), stamp_of(image.header)
        check_size(pixels, camera)
        edges = static_transforms(bag)
        trajectory = poses_in_bag(bag, _only(bag, POSE))
        cloud = _nearest_cloud(bag, stamp)

    points = None
    if cloud is not None:
        mounts = []
        for frame in (image.header.frame_id, cloud.header.frame_id):
            T = mount(edges, frame, base_frame)
            if T is None:
                raise InputError(f'/tf_static of the bag {path} does not say where {frame!r} is '
                                 f'in {base_frame!r}: record it, or name another base frame')
            mounts.append(T)
        stamps = np.array([stamp, stamp_of(cloud.header)], np.int64)
        T_map_base = trajectory.at(stamps) if len(trajectory) else np.full((2, 4, 4), np.nan)
        motion = inverse(T_map_base[0]) @ T_map_base[1]
        motion = motion if np.isfinite(motion).all() else np.eye(4)
        points = apply(inverse(mounts[0]) @ motion @ mounts[1], message_to_cloud(cloud))
    return BagView(f'{path.name}, {topic}, image {index}', pixels, stamp, camera, points,
                   trajectory)


def chosen_topic(bag: BagReader, named: str | None) -> str:
    """Return the topic of images that is meant; None: the bag's first. None there: InputError."""
    topics = image_topics(bag)
    if not topics:
        raise InputError(f'the bag {bag.path} has no images')
    if named is None:
        return topics[0]
    fitting = [topic for topic in topics if topic == named
               or topic.startswith(named.rstrip('/') + '/')]
    if len(fitting) != 1:
        raise InputError(f'the bag {bag.path} has {len(fitting)} topics of images that {named} '
                         f'names: it has {", ".join(topics)}')
    return fitting[0]


def _nth(bag: BagReader, topic: str, index: int) -> Any:
    for i, stored in enumerate(bag.messages([topic])):
        if i == index:
            return image_message(stored)
    raise InputError(f'{topic} of the bag {bag.path} has no image {index}: it has '
                     f'{bag.counts[topic]}, counted from 0')


def _first(bag: BagReader, topic: str, kind: type) -> Any:
    stored = next(bag.messages([topic]), None)
    if stored is None:
        raise InputError(f'{topic} of the bag {bag.path} has no message')
    return deserialize_message(stored.data, kind)


def _only(bag: BagReader, kind: str) -> str | None:
    found = [topic for topic, name in bag.topics.items() if name == kind]
    return found[0] if len(found) == 1 else None


def _nearest_cloud(bag: BagReader, stamp_ns: int) -> Any:
    topics = [topic for topic, kind in bag.topics.items() if kind == CLOUD]
    if not topics:
        return None
    clouds = [deserialize_message(stored.data, PointCloud2) for stored
              in bag.messages(topics[:1], stamp_ns - NEAR_NS, stamp_ns + NEAR_NS)]
    return min(clouds, key=lambda cloud: abs(stamp_of(cloud.header) - stamp_ns), default=None)
