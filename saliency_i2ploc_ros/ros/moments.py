"""Images of several cameras that belong together: those of one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import struct

MOST_WAITING = 8  # moments; more are of cameras that do not fit together
# Stamps that go back by less are out of order; by more, time itself has jumped (a bag restarted).
JUMP_NS = 1_000_000_000


@dataclass
class Moment:
    """
    Images as they arrived, serialized, by camera. stamp_ns: of the first that came.

    began_at: when that was, of a steady clock, seconds.
    """

    stamp_ns: int
    began_at: float
    images: dict[str, bytes] = field(default_factory=dict)
    stamps_ns: dict[str, int] = field(default_factory=dict)


class Moments:
    """
    Puts the images of `cameras` together by their stamps.

    A moment is handed out when all its images are there, and what is older is then forgotten; or,
    by `overdue`, when it has waited `wait_s` for the missing ones. An image that comes for a
    moment already handed out, or an older one, is too late. dropped: images that were forgotten
    or too late. One camera's images are handed out as they come.
    """

    def __init__(self, cameras: Sequence[str], slop_s: float, wait_s: float) -> None:
        self.cameras = tuple(cameras)
        self.dropped = 0
        self._slop_ns, self._wait_s = round(slop_s * 1e9), wait_s
        self._waiting: list[Moment] = []
        self._last: Moment | None = None

    def add(self, camera: str, data: bytes, now: float) -> Moment | None:
        """Take an image that came at `now`; return its moment if that is complete."""
        stamp = stamp_in(data)
        if len(self.cameras) == 1:
            return Moment(stamp, now, {camera: data}, {camera: stamp})
        if self._last is not None and stamp < self._last.stamp_ns - JUMP_NS:
            self.clear()
        if self._is_late(camera, stamp):
            self.dropped += 1
            return None
        fitting = [m for m in self._waiting
                   if camera not in m.images and abs(stamp - m.stamp_ns) <= self._slop_ns]
        if fitting:
            moment = min(fitting, key=lambda m: abs(stamp - m.stamp_ns))
        else:
            moment = Moment(stamp, now)
            self._waiting.append(moment)
        moment.images[camera], moment.stamps_ns[camera] = data, stamp
        if len(moment.images) == len(self.cameras):
            return self._handed_out(moment)
        while len(self._waiting) > MOST_WAITING:
            self.dropped += len(self._waiting.pop(0).images)
        return None

    def overdue(self, now: float) -> Moment | None:
        """Return the newest moment that has waited long enough, if any has."""
        late = [m for m in self._waiting if now - m.began_at >= self._wait_s]
        return self._handed_out(max(late, key=lambda m: m.stamp_ns)) if late else None

    def clear(self) -> None:
        """Forget all images and stamps."""
        self._waiting.clear()
        self._last = None

    def _is_late(self, camera: str, stamp: int) -> bool:
        if self._last is None or stamp > self._last.stamp_ns + self._slop_ns:
            return False
        # The next image of a camera faster than the slop is not late.
        return stamp <= self._last.stamps_ns.get(camera, self._last.stamp_ns + self._slop_ns)

    def _handed_out(self, moment: Moment) -> Moment:
        older = [m for m in self._waiting if m.stamp_ns < moment.stamp_ns]
        self.dropped += sum(len(m.images) for m in older)
        self._waiting = [m for m in self._waiting if m is not moment and m not in older]
        self._last = moment
        return moment


def stamp_in(data: bytes) -> int:
    """Return the stamp, ns, of a serialized message that begins with a header."""
    # CDR: the second byte's last bit is set for little-endian; the stamp follows four bytes.
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)
