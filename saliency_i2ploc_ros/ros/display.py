"""
What RViz and Foxglove show: candidates with their scores, the fix and its doubt, clouds, looks.

config/i2ploc.rviz and config/foxglove.json name the topics; docs/display.md says what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PoseArray, Vector3
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ..encoders.config import ModelConfig
from ..geometry.poses import planar, yaw_of
from ..localization.fix import Answer, Fix
from ..localization.looks import map_points, place_look
from ..mapping.database import PlaceDatabase
from .conversions import cloud_to_message, header_at, pose_to_message, rgb_to_image

Colour = tuple[float, float, float]
Array = NDArray[np.float64]

ACCEPTED: Colour = (0.1, 0.75, 0.25)
REJECTED: Colour = (0.9, 0.35, 0.1)
WORDS: Colour = (1.0, 1.0, 1.0)
# Beyond this a float32 has steps of a centimetre, and RViz shows clouds as combs.
FLOAT32_LIMIT_M = 1e5
# Candidates this near to a better one are named in its label: labels of their own would overlap.
LABEL_M, LABEL_LINES = 20.0, 4
WEDGE_M, WEDGE_STEPS = 12.0, 24


def candidates_message(answer: Answer, header: Header) -> PoseArray:
    """Return the candidates' poses, best first; none for an image that was rejected unseen."""
    return PoseArray(header=header, poses=[pose_to_message(T) for T in
                                           answer.candidates.T_map_base])


def markers_message(answer: Answer, header: Header) -> MarkerArray:
    """
    Return what is drawn of an answer; the first marker deletes what was drawn before.

    `candidates`: an arrow each, green if the image got a fix, else orange, paler with the rank.
    `scores`: rank and cosine, those near a better candidate below its own; above the first, the
    fix's standard deviations or the reason of the rejection. `links`: a line from the answer to
    each candidate that is not near. `fix`, `heading`, `two_sigma`, only of a fix: an arrow, a
    wedge of +-2 sigma of the heading, and the 2-sigma ellipse of the position.
    """
    colour = ACCEPTED if answer.fix is not None else REJECTED
    result = [Marker(header=header, action=Marker.DELETEALL)]
    poses, scores = answer.candidates.T_map_base, answer.candidates.scores
    for rank, T in enumerate(poses):
        size = (7.0, 1.4, 1.4) if rank == 0 else (4.5, 0.9, 0.9)
        arrow = _marker(header, 'candidates', rank, Marker.ARROW, size, colour, _fade(rank))
        arrow.pose = pose_to_message(T)
        result.append(arrow)
    for leader, ranks in _groups(poses):
        text = _marker(header, 'scores', leader, Marker.TEXT_VIEW_FACING, (0.0, 0.0, 3.0),
                       WORDS, max(_fade(leader), 0.6))
        text.pose = pose_to_message(poses[leader])
        text.pose.position.z += 5.0
        lines = _lines(ranks, scores)
        text.text = '\n'.join([verdict(answer), *lines] if leader == 0 else lines)
        result.append(text)
    estimate = answer.fix or answer.estimate
    if estimate is not None:
        result += _links(estimate.T_map_base, poses, header, colour)
    if answer.fix is not None:
        result += [_fix_arrow(answer.fix, header), _wedge(answer.fix, header),
                   _ellipse(answer.fix, header)]
    return MarkerArray(markers=result)


def verdict(answer: Answer) -> str:
    """Return what became of an image in a few words (ASCII, as RViz's font has no more)."""
    if answer.fix is None:
        return f'no fix: {answer.rejection}'
    variances = np.diag(answer.fix.covariance)
    return (f'fix, 1 sigma {math.sqrt(variances[0] + variances[1]):.1f} m, '
            f'{math.degrees(math.sqrt(variances[5])):.0f} deg')


def _groups(poses: Array) -> list[tuple[int, list[int]]]:
    """Return candidates (k, 4, 4) as groups: the best of each, and the ranks of all in it."""
    groups: list[tuple[int, list[int]]] = []
    for rank, T in enumerate(poses):
        for leader, ranks in groups:
            if np.linalg.norm(T[:2, 3] - poses[leader][:2, 3]) <= LABEL_M:
                ranks.append(rank)
                break
        else:
            groups.append((rank, [rank]))
    return groups


def _lines(ranks: Sequence[int], scores: NDArray[np.floating]) -> list[str]:
    named = [f'{rank + 1}: {scores[rank]:.2f}' for rank in ranks[:LABEL_LINES]]
    return named + ([f'and {len(ranks) - LABEL_LINES} more'] if len(ranks) > LABEL_LINES else [])


def _fade(rank: int) -> float:
    return 1.0 / (1.0 + 0.15 * rank)


def _marker(header: Header, namespace: str, number: int, kind: int,
            scale: tuple[float, float, float], colour: Colour, alpha: float) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.scale = Vector3(x=scale[0], y=scale[1], z=scale[2])
    marker.color = _rgba(colour, alpha)
    marker.lifetime = Duration()
    return marker


def _rgba(colour: Colour, alpha: float) -> ColorRGBA:
    return ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=alpha)


def _links(T: Array, poses: Array, header: Header, colour: Colour) -> list[Marker]:
    """Return lines from the answer's position to the candidates that are not near it."""
    # Points are float32 in RViz: about the answer, not about the map's zero.
    away = poses[:, :3, 3] - T[:3, 3]
    far = np.flatnonzero(np.linalg.norm(away[:, :2], axis=1) > LABEL_M)
    if len(far) == 0:
        return []
    marker = _marker(header, 'links', 0, Marker.LINE_LIST, (0.4, 0.0, 0.0), colour, 0.5)
    marker.pose.position = Point(**dict(zip('xyz', map(float, T[:3, 3]), strict=True)))
    for rank in far:
        x, y, z = map(float, away[rank])
        marker.points += [Point(), Point(x=x, y=y, z=z)]
        marker.colors += [_rgba(colour, 0.6 * _fade(rank))] * 2
    return [marker]


def _fix_arrow(fix: Fix, header: Header) -> Marker:
    marker = _marker(header, 'fix', 0, Marker.ARROW, (10.0, 2.0, 2.0), WORDS, 0.9)
    marker.pose = pose_to_message(fix.T_map_base)
    marker.pose.position.z += 1.5  # above the arrow of the best candidate
    return marker


def _wedge(fix: Fix, header: Header) -> Marker:
    """Return +-2 standard deviations of the heading as a flat wedge, a disc if that is all."""
    half = min(2.0 * math.sqrt(max(fix.covariance[5, 5], 0.0)), math.pi)
    marker = _marker(header, 'heading', 0, Marker.TRIANGLE_LIST, (1.0, 1.0, 1.0), ACCEPTED, 0.55)
    x, y, z = fix.T_map_base[:3, 3]
    marker.pose = pose_to_message(planar(x, y, float(yaw_of(fix.T_map_base)), z + 0.2))
    rim = [Point(x=WEDGE_M * math.cos(a), y=WEDGE_M * math.sin(a))
           for a in np.linspace(-half, half, WEDGE_STEPS + 1)]
    for right, left in itertools.pairwise(rim):
        # Counter-clockwise as seen from above.
        marker.points += [Point(), right, left]
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


class DisplayFrame:
    """
    Where clouds and paths are drawn, which RViz keeps as float32.

    `origin_name` is a frame at the map's origin, `origin` in the map, to be sent as a static
    transform: RViz opens there. Where the map's coordinates are too large for float32, clouds and
    paths are relative to it: `name` is that frame then, else the map's.
    """

    def __init__(self, database: PlaceDatabase, map_frame: str) -> None:
        self.origin = np.asarray(database.origin, np.float64)
        self.origin_name = f'{map_frame}_origin'
        far = float(np.abs(database.T_map_base[:, :3, 3]).max()) > FLOAT32_LIMIT_M
        self.name = self.origin_name if far else map_frame
        self._shift = self.origin if far else np.zeros(3)

    def of(self, T_map: Array) -> Array:
        """Return poses (..., 4, 4) of the map frame in this one."""
        T = np.array(T_map, np.float64)
        T[..., :3, 3] -= self._shift
        return T

    def points(self, xyz: Array) -> Array:
        """Return points (n, 3) of the map frame in this one."""
        return xyz - self._shift


class MapDisplay:
    """The database's clouds in its display frame; `intensity` is the height above the road."""

    def __init__(self, database: PlaceDatabase, map_frame: str) -> None:
        self._database, self._frame = database, DisplayFrame(database, map_frame)
        self.origin, self.origin_frame = self._frame.origin, self._frame.origin_name
        self.frame = self._frame.name

    def submap(self, place: int, stamp_ns: int) -> PointCloud2:
        """Return the cloud of one place."""
        return self._message([self._points(place, 1)], stamp_ns)

    def whole_map(self, limit: int, stamp_ns: int) -> PointCloud2:
        """Return at most `limit` points, evenly thinned; of all submaps if there are no more."""
        # The views of a submap show the same points.
        firsts = self._database.first_places.tolist()
        share = max(1, limit // len(firsts))
        return self._message([
            self._points(i, max(1, -(-len(self._database.cloud(i)) // share)))
            for i in firsts[::-(-len(firsts) // limit)]], stamp_ns)

    def look(self, place: int, config: ModelConfig, header: Header) -> Image:
        """Return the map as the network's camera would see it from a place."""
        return rgb_to_image(place_look(self._database, place, config), header)

    def _message(self, clouds: list[NDArray[Any]], stamp_ns: int) -> PointCloud2:
        points = np.concatenate(clouds)
        return cloud_to_message(points[:, :3], header_at(stamp_ns, self.frame), points[:, 3])

    def _points(self, place: int, step: int) -> NDArray[Any]:
        """Return points in the display frame and their heights above the road, (n, 4)."""
        points = map_points(self._database, place, step)
        points[:, :3] = self._frame.points(points[:, :3])
        return points
