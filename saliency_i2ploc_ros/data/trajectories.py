"""Trajectory files: TUM ('stamp x y z qx qy qz qw') and KITTI (12 numbers a line)."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.poses import from_quaternion, to_quaternion
from ..storage import atomic_file
from .drive import Trajectory
from .kitti_files import NOMINAL_PERIOD_NS, read_numbers, read_text, rigid_poses

TUM_COLUMNS, KITTI_COLUMNS = 8, 12


def read_trajectory(path: Path) -> Trajectory:
    """
    Return the trajectory in a TUM or a KITTI file, told apart by its columns.

    The poses are taken as base_link in the map. TUM stamps (seconds) are read to the nanosecond;
    KITTI's have none: line number x 0.1 s. Errors: no poses, quaternions of no length, or stamps
    that do not increase are InputErrors.
    """
    path = Path(path)
    rows = read_numbers(path, [TUM_COLUMNS, KITTI_COLUMNS])
    if not len(rows):
        raise InputError(f'{path} holds no poses: give a TUM file (8 numbers a line) or a KITTI '
                         'file (12)')
    if rows.shape[1] == KITTI_COLUMNS:
        nominal = np.arange(len(rows), dtype=np.int64) * NOMINAL_PERIOD_NS
        return Trajectory(nominal, rigid_poses(rows, path), nominal_stamps=True)
    unit = np.abs(np.linalg.norm(rows[:, 4:], axis=1) - 1.0) < 0.05
    if not (unit & np.isfinite(rows).all(1) & (np.abs(rows[:, 0]) < 9e9)).all():
        raise InputError(f'{path} has a pose that is not finite or whose quaternion is not of '
                         'length 1: expected stamp x y z qx qy qz qw')
    stamps = _decimal_stamps(path)
    if (np.diff(stamps) <= 0).any():
        line = int(np.argmax(np.diff(stamps) <= 0)) + 2
        raise InputError(f'{path}: the stamp of pose {line} is not after the one before it: '
                         'sort the file and remove doubles')
    return Trajectory(stamps, from_quaternion(rows[:, 4:], rows[:, 1:4]))


def write_tum(path: Path, stamps_ns: NDArray[np.int64], poses: NDArray[np.float64]) -> None:
    """Write poses (n, 4, 4) as a TUM file, atomically; stamps keep their nanoseconds."""
    lines = []
    for stamp, T, q in zip(map(int, stamps_ns), poses, to_quaternion(poses), strict=True):
        seconds, rest = divmod(stamp, 10**9)
        values = ' '.join(f'{v:.9f}' for v in (*T[:3, 3], *q))
        lines.append(f'{seconds}.{rest:09d} {values}\n')
    with atomic_file(path) as temporary:
        temporary.write_text(''.join(lines), encoding='utf-8')


def _decimal_stamps(path: Path) -> NDArray[np.int64]:
    """Return the first column of a table that `read_numbers` has accepted, in ns."""
    fields = [line.partition('#')[0].split()[:1] for line in read_text(path).splitlines()]
    return np.array([int(Decimal(f[0]).scaleb(9)) for f in fields if f], np.int64)
