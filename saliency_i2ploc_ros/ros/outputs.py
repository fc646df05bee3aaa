"""What the localizer says of each answer, and the map that it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import copy
import json
import math
from typing import Any

import cv2
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from ..encoders.config import ModelConfig
from ..localization.fix import Answer
from ..localization.localizer import CameraView
from ..localization.looks import query_look, saliency_look
from ..mapping.database import PlaceDatabase
from . import conversions, display
from .complaints import Complaints
from .frames import send_static_transform, stop_static_transform
from .inputs import SENSOR_DATA
from .pipeline import Answered

RELIABLE = ReliabilityPolicy.RELIABLE
LATCHED = QoSProfile(depth=1, reliability=RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Larger images often do not arrive by best effort: Fast DDS cuts them into pieces, of which the
# kernel by default cannot hold enough.
MOST_BYTES = 400_000


class Outputs:
    """
    The publishers of a configured node; made in configure, closed at cleanup.

    `~/fix` and `initialpose` speak only where there is a fix; the rest of each answer, whatever
    became of it. What is only looked at is made only while someone subscribes to it.
    """

    def __init__(self, node: LifecycleNode, given: dict[str, Any], complaints: Complaints) -> None:
        self._node, self._given, self._complaints = node, given, complaints
        self._publishers: dict[str, Any] = {}
        self._display: display.MapDisplay | None = None
        self._broadcaster: Any = None
        for kind, name, qos in (
                (PoseWithCovarianceStamped, '~/fix', QoSProfile(depth=10, reliability=RELIABLE)),
                (PoseArray, '~/candidates', QoSProfile(depth=1, reliability=RELIABLE)),
                (String, '~/answer', QoSProfile(depth=100, reliability=RELIABLE)),
                (MarkerArray, '~/markers', QoSProfile(depth=1, reliability=RELIABLE)),
                (PointCloud2, '~/retrieved_submap', LATCHED), (PointCloud2, '~/map', LATCHED),
                (Image, '~/saliency', SENSOR_DATA),
                (Image, '~/retrieved_view', QoSProfile(depth=1, reliability=RELIABLE))):
            self._make(kind, name, qos)
        if given['publish_initialpose']:
            self._make(PoseWithCovarianceStamped, 'initialpose',
                       QoSProfile(depth=1, reliability=RELIABLE))

    def _make(self, kind: type, name: str, qos: QoSProfile) -> None:
        self._publishers[name] = self._node.create_lifecycle_publisher(
            # A copy for each topic: overrides are written into it.
            kind, name, copy.copy(qos),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    def close(self) -> None:
        """Free everything."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        stop_static_transform(self._node, self._broadcaster)
        self._display = self._broadcaster = None

    def show_map(self, database: PlaceDatabase) -> None:
        """Take the clouds of this map from now on."""
        self._display = display.MapDisplay(database, self._given['map_frame'])

    def publish_map(self) -> None:
        """Publish `~/map`, and where its origin lies: RViz opens there, clouds may be about it."""
        shown, frame = self._display, self._given['map_frame']
        if shown is None:
            return
        # Without `~/map` too: `~/retrieved_submap` may be about the origin.
        self._broadcaster = send_static_transform(
            self._node, frame, shown.origin_frame, shown.origin, self._broadcaster,
            needed=shown.frame != frame)
        if self._given['map_points']:
            now = self._node.get_clock().now().nanoseconds
            self._publishers['~/map'].publish(shown.whole_map(self._given['map_points'], now))

    def publish(self, answered: Answered, config: ModelConfig, further: dict[str, Any],
                ) -> str:
        """
        Publish all that is to be said of an answer; return what `~/answer` said, as JSON.

        config: of the model. further: is put into the JSON.
        """
        answer, stamp_ns, frame = answered.answer, answered.stamp_ns, self._given['map_frame']
        out, header = self._publishers, conversions.header_at(stamp_ns, frame)
        if answer.fix is not None:
            out['~/fix'].publish(conversions.fix_to_message(answer.fix, stamp_ns, frame))
            if 'initialpose' in out:
                out['initialpose'].publish(
                    conversions.fix_to_initialpose(answer.fix, stamp_ns, frame))
        self._if_seen('~/candidates', lambda: display.candidates_message(answer, header))
        self._if_seen('~/markers', lambda: display.markers_message(answer, header))
        if len(answer.candidates) and self._display is not None:
            shown, best = self._display, int(answer.candidates.indices[0])
            self._if_seen('~/retrieved_submap', lambda: shown.submap(best, stamp_ns))
            self._if_seen('~/retrieved_view', lambda: shown.look(
                best, config, conversions.header_at(stamp_ns, answered.frame)))
        self._if_seen('~/saliency', lambda: self._saliency(answered, config))
        text = json.dumps({'stamp_ns': stamp_ns, **further,
                           **cameras_entry(answered, self._given['cameras']),
                           **answer.as_dict()})
        out['~/answer'].publish(String(data=text))
        return text

    def _if_seen(self, name: str, made: Callable[[], Any]) -> None:
        if self._publishers[name].get_subscription_count():
            message = made()
            if message is not None:
                self._publishers[name].publish(message)

    def _saliency(self, answered: Answered, config: ModelConfig) -> Image | None:
        """Return the queries under their saliency, one below the other; None without any."""
        if not config.has_saliency:
            self._complaints.once('saliency', f'the model {config.name!r} has no attention that '
                                  'says what it looks at: ~/saliency stays silent')
            return None
        looks = saliency_looks(answered.answer, answered.views, config)
        if not looks:
            return None
        return conversions.rgb_to_image(fitting(cv2.vconcat(looks)), conversions.header_at(
            answered.stamp_ns, answered.frame))


def cameras_entry(answered: Answered, cameras: Sequence[str]) -> dict[str, Any]:
    """Return what `~/answer` says of several cameras, by name; nothing of one without."""
    if not cameras:
        return {}
    return {'cameras': [name for name in cameras if name not in answered.left_out],
            'left_out': {name: why for name, (why, _) in answered.left_out.items()}}


def fitting(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture (h, w, 3), shrunk if it is too large to arrive by best effort."""
    shrink = math.sqrt(MOST_BYTES / rgb.nbytes)
    if shrink >= 1.0:
        return rgb
    size = int(rgb.shape[1] * shrink), int(rgb.shape[0] * shrink)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def saliency_looks(answer: Answer, views: Sequence[CameraView], config: ModelConfig,
                   ) -> list[NDArray[np.uint8]]:
    """Return the images that were looked at, under their saliency, each (h, w, 3) uint8 RGB."""
    return [saliency_look(query_look(view.image, view.camera, config), saliency, config)
            for view, saliency in zip(views, answer.saliency, strict=False)
            if saliency is not None]
