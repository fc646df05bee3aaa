"""What RViz shows: candidates as arrows with their scores, the fix's ellipse, clouds."""

from __future__ import annotations

import math
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseArray, Vector3
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ..geometry.poses import apply, planar
from ..localization.fix import Answer, Fix
from ..mapping.database import PlaceDatabase
from .conversions import cloud_to_message, header_at, pose_to_message

ACCEPTED, REJECTED = (0.1, 0.7, 0.2), (0.85, 0.3, 0.1)
# Beyond this a float32 has steps of a centimetre, and RViz shows clouds as combs.
FLOAT32_LIMIT_M = 1e5


def candidates_message(answer: Answer, header: Header) -> PoseArray:
    """Return the candidates' poses, best first; none for an image that was rejected unseen."""
    return PoseArray(header=header, poses=[pose_to_message(T) for T in
                                           answer.candidates.T_map_base])


def markers_message(answer: Answer, header: Header) -> MarkerArray:
    """Return an arrow and a score for each candidate and the 2-sigma ellipse of a fix."""
    colour = ACCEPTED if answer.fix is not None else REJECTED
    result = [Marker(header=header, action=Marker.DELETEALL)]
    ranked = zip(answer.candidates.T_map_base, answer.candidates.scores, strict=True)
    for rank, (T, score) in enumerate(ranked):
        fade = 1.0 / (1.0 + 0.3 * rank)
        arrow = _marker(header, 'candidates', rank, Marker.ARROW, (6.0, 1.0, 1.0), colour, fade)
        text = _marker(header, 'scores', rank, Marker.TEXT_VIEW_FACING, (0.0, 0.0, 2.0),
                       (1.0, 1.0, 1.0), fade)
        arrow.pose, text.pose = pose_to_message(T), pose_to_message(T)
        text.pose.position.z += 3.0
        text.text = f'{rank + 1}: {score:.2f}'
        result += [arrow, text]
    if answer.fix is not None:
        result.append(_ellipse(answer.fix, header))
    return MarkerArray(markers=result)


def _marker(header: Header, namespace: str, number: int, kind: int,
            scale: tuple[float, float, float], colour: tuple[float, float, float],
            alpha: float) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.scale = Vector3(x=scale[0], y=scale[1], z=scale[2])
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=alpha)
    marker.lifetime = Duration()
    return marker


def _ellipse(fix: Fix, header: Header) -> Marker:
    """Return the 2-sigma ellipse of a fix in the plane, as a flat cylinder."""
    variances, axes = np.linalg.eigh(fix.covariance[:2, :2])
    diameters = 2.0 * 2.0 * np.sqrt(np.maximum(variances, 0.0))
    marker = _marker(header, 'two_sigma', 0, Marker.CYLINDER,
                     (float(diameters[1]), float(diameters[0]), 0.1), ACCEPTED, 0.3)
    x, y, z = fix.T_map_base[:3, 3]
    marker.pose = pose_to_message(planar(x, y, math.atan2(axes[1, 1], axes[0, 1]), z))
    return marker


class MapDisplay:
    """
    The database's clouds for RViz, which keeps points as float32.

    Where the map's coordinates are too large for that, clouds are relative to the map's origin, in
    the frame '<map frame>_origin'; its place in the map is `origin`, to be sent as a static
    transform.
    """

    def __init__(self, database: PlaceDatabase, map_frame: str) -> None:
        self._database = database
        far = float(np.abs(database.T_map_base[:, :3, 3]).max()) > FLOAT32_LIMIT_M
        self.origin = np.asarray(database.origin, np.float64) if far else np.zeros(3)
        self.frame = f'{map_frame}_origin' if far else map_frame

    def submap(self, place: int, stamp_ns: int) -> PointCloud2:
        """Return the cloud of one place."""
        return cloud_to_message(self._points(place, 1), header_at(stamp_ns, self.frame))

    def whole_map(self, limit: int, stamp_ns: int) -> PointCloud2:
        """Return at most `limit` points, evenly thinned; of all places if there are no more."""
        places = len(self._database.descriptors)
        share = max(1, limit // places)
        chosen = range(0, places, -(-places // limit))
        points = [self._points(i, max(1, -(-len(self._database.cloud(i)) // share)))
                  for i in chosen]
        return cloud_to_message(np.concatenate(points), header_at(stamp_ns, self.frame))

    def _points(self, place: int, step: int) -> NDArray[Any]:
        T = np.array(self._database.T_map_base[place], np.float64)
        T[:3, 3] -= self.origin
        return apply(T, self._database.cloud(place)[::step])
