"""The true and the estimated path of a run, for RViz and Foxglove."""

from __future__ import annotations

from collections.abc import Mapping

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ..mapping.database import PlaceDatabase
from .conversions import header_at, pose_to_message
from .display import DisplayFrame

MOST = 2000  # poses of a path; from then on every second one, then every fourth ... and the newest
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Paths:
    """
    Publishes `~/true_path` and `~/estimated_path` of a node.

    Both are latched. A path's own stamp is that of its last pose. Where poses are missing (between
    two fixes, say) it goes straight.
    """

    def __init__(self, node: Node, database: PlaceDatabase) -> None:
        self._database = database
        self._outputs = {name: node.create_publisher(Path, f'~/{name}', LATCHED)
                         for name in ('true_path', 'estimated_path')}
        self._sent = dict.fromkeys(self._outputs, 0)
        self._made: dict[str, dict[int, PoseStamped]] = {name: {} for name in self._outputs}

    def publish(
        self, truth: Mapping[int, NDArray[np.float64]], fixes: Mapping[int, NDArray[np.float64]],
        map_frame: str,
    ) -> None:
        """
        Publish what has grown since the last call, if anyone listens.

        truth, fixes: poses (4, 4) in the map by their stamps in ns, in any order. To be called now
        and then, not for each pose.
        """
        frame = DisplayFrame(self._database, map_frame)
        for name, poses in (('true_path', truth), ('estimated_path', fixes)):
            output = self._outputs[name]
            if len(poses) > self._sent[name] and output.get_subscription_count():
                output.publish(self._path(name, poses, frame))
                self._sent[name] = len(poses)

    def _path(
        self, name: str, poses: Mapping[int, NDArray[np.float64]], frame: DisplayFrame,
    ) -> Path:
        made, stamps = self._made[name], sorted(poses)
        stamps = [*stamps[:-1:stride(len(stamps))], stamps[-1]]
        # A message costs more than all else here, and most of them are those of the last call.
        self._made[name] = {
            stamp: made.get(stamp) or _pose(stamp, poses[stamp], frame) for stamp in stamps}
        return Path(header=header_at(stamps[-1], frame.name),
                    poses=list(self._made[name].values()))


def _pose(stamp: int, T_map_base: NDArray[np.float64], frame: DisplayFrame) -> PoseStamped:
    return PoseStamped(header=header_at(stamp, frame.name),
                       pose=pose_to_message(frame.of(T_map_base)))


def stride(count: int) -> int:
    """Return the power of two that leaves at most `MOST` of `count` poses."""
    step = 1
    while -(-count // step) > MOST:
        step *= 2
    return step
