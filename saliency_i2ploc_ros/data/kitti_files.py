"""Files that the KITTI family has in common: numbered frames, time stamps, calibration, scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
import re

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.poses import from_rows
from .drive import Scan, Trajectory

NO_STAMP = np.iinfo(np.int64).min  # what numpy makes of a missing time (NaT)
NOMINAL_PERIOD_NS = 100_000_000  # every sensor of the family runs at 10 Hz
STAMP = re.compile(r'\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?')


def read_text(path: Path) -> str:
    """Return a text file's content; a missing or binary one is an InputError."""
    try:
        return path.read_text(encoding='utf-8')
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise InputError(f'{path} is not a text file: copy or download it again') from error


def read_stamps(path: Path) -> NDArray[np.int64]:
    """
    Return the time stamps of a timestamps.txt, ns since 1970, one a line; line i is of frame i.

    A blank line (a frame that was not recorded) is NO_STAMP. The digits are read as integers,
    for a float64 of seconds since 1970 is good to 240 ns only.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, 1):
        if line and not STAMP.fullmatch(line):
            raise InputError(f'{path}, line {number}: {line[:40]!r} is not a time stamp like '
                             '2013-05-28 08:46:02.904483072')
    try:
        times = np.array([line.replace(' ', 'T') or 'NaT' for line in lines], 'datetime64[ns]')
    except ValueError as error:
        raise InputError(f'{path} has a time that does not exist: {error}') from error
    return times.astype(np.int64)


def format_stamps(stamps_ns: NDArray[np.int64]) -> str:
    """Return the text of a timestamps.txt, the inverse of `read_stamps`."""
    times = np.datetime_as_string(np.asarray(stamps_ns, np.int64).astype('datetime64[ns]'))
    return ''.join(('' if t == 'NaT' else str(t).replace('T', ' ')) + '\n' for t in times)


def stamps_of(ids: NDArray[np.int64], stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stamps of frames `ids`, NO_STAMP where the list has none."""
    result = np.full(len(ids), NO_STAMP, np.int64)
    known = ids < len(stamps)
    result[known] = stamps[ids[known]]
    return result


def numbered_files(
    folder: Path, suffixes: Sequence[str],
) -> tuple[NDArray[np.int64], list[Path]]:
    """Return the frame numbers and paths of a folder's files, by number; none if it is absent."""
    if not folder.is_dir():
        return np.zeros(0, np.int64), []
    files = {int(p.stem): p for p in folder.iterdir() if p.suffix in suffixes and p.stem.isdigit()}
    ids = sorted(files)
    return np.array(ids, np.int64), [files[i] for i in ids]


def in_stamp_order(
    ids: NDArray[np.int64], stamps: NDArray[np.int64], paths: list[Path],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Path]]:
    """Return frames sorted by stamp, without those that have no stamp."""
    order = np.argsort(stamps, kind='stable')
    order = order[stamps[order] != NO_STAMP]
    return ids[order], stamps[order], [paths[i] for i in order]


def make_trajectory(
    stamps: NDArray[np.int64], poses: NDArray[np.float64], nominal: bool = False,
) -> Trajectory:
    """Return the trajectory of those poses that have a stamp; of equal stamps, the first."""
    unique, first = np.unique(stamps, return_index=True)
    keep = first[unique != NO_STAMP]
    return Trajectory(stamps[keep], poses[keep], nominal)


def read_calibration(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the 'name: numbers' lines of a calibration file; other lines are passed over."""
    values = {}
    for line in read_text(path).splitlines():
        name, colon, numbers = line.partition(':')
        try:
            if colon and numbers.strip():
                values[name.strip()] = np.array([float(n) for n in numbers.split()])
        except ValueError:
            continue  # a date or a name, not a matrix
    return values


def calibration_entry(
    values: dict[str, NDArray[np.float64]], name: str, size: int, path: Path,
) -> NDArray[np.float64]:
    """Return entry `name` of a calibration file, checked to be `size` finite numbers."""
    entry = values.get(name)
    if entry is None or len(entry) != size or not np.isfinite(entry).all():
        raise InputError(f'{path} has no line "{name}:" of {size} numbers: '
                         'copy or download the calibration again')
    return entry


def read_numbers(path: Path, columns: Iterable[int]) -> NDArray[np.float64]:
    """
    Return a text table (n, c) of numbers; c must be one of `columns`. No line: (0, first).

    Blank lines and '#' comments are passed over; anything else is an InputError with its line.
    """
    allowed = tuple(columns)
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.partition('#')[0].split()
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        if len(row) not in allowed or (rows and len(row) != len(rows[0])):
            raise InputError(f'{path}, line {number}: expected '
                             f'{" or ".join(map(str, allowed))} numbers, the same in each line')
        rows.append(row)
    return np.array(rows, np.float64).reshape(len(rows), len(rows[0]) if rows else allowed[0])


def rigid_poses(rows: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """Return poses (n, 4, 4) of rows (n, 12); one that is no rigid motion is an InputError."""
    poses = from_rows(rows)
    R = poses[:, :3, :3]
    with np.errstate(invalid='ignore'):
        wrong = ~(np.abs(R @ np.swapaxes(R, 1, 2) - np.eye(3)).max((1, 2), initial=0.0) < 1e-2)
    wrong |= ~(np.linalg.det(np.where(np.isfinite(R), R, 0.0)) > 0.0)
    wrong |= ~np.isfinite(rows).all(1)
    if wrong.any():
        raise InputError(f'{path}: pose {int(np.argmax(wrong)) + 1} is not a finite rotation and '
                         'position: copy or download the file again')
    return poses


def read_velodyne(path: Path, labels: Path | None = None) -> Scan:
    """
    Return a scan file (x, y, z, intensity; float32) without its non-finite points.

    labels: a file of uint32 a point, the class in the lower 16 bits (SemanticKITTI's format); its
    absence is ordinary. A damaged file is an InputError.
    """
    values = _from_file(path, np.dtype('<f4'), 4)
    keep = np.isfinite(values).all(1)
    classes = None
    if labels is not None and labels.is_file():
        classes = _from_file(labels, np.dtype('<u4'), 1)[:, 0]
        if len(classes) != len(values):
            raise InputError(f'{labels} has {len(classes)} labels for the {len(values)} points of '
                             f'{path.name}: copy or make them again')
        classes = (classes[keep] & 0xFFFF).astype(np.uint16)
    return Scan(np.ascontiguousarray(values[keep, :3]), np.ascontiguousarray(values[keep, 3]),
                classes)


def _from_file(path: Path, dtype: np.dtype, columns: int) -> NDArray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    if len(data) % (columns * dtype.itemsize):
        raise InputError(f'{path} has {len(data)} bytes, no multiple of '
                         f'{columns * dtype.itemsize}: it is cut off, copy or download it again')
    return np.frombuffer(data, dtype).reshape(-1, columns)


def choose_drive(names: Iterable[str], name: str | None, place: str) -> str:
    """
    Return the one of the drives `names` that is meant by `name`.

    name: a whole name, or its number alone ('0005' for ..._drive_0005_sync); None where there is
    only one. place: what the names are of, for the InputError that any other case is.
    """
    known = sorted(set(names))
    if not known:
        raise InputError(f'{place} holds no drive: give the root of a data set')
    if name is None:
        if len(known) == 1:
            return known[0]
        raise InputError(f'{place} holds {len(known)} drives, name one of them: {_some(known)}')
    meant = [k for k in known if k == name] or [k for k in known if is_named(k, name)]
    if len(meant) != 1:
        raise InputError(f'{place} has {"no" if not meant else "more than one"} drive {name!r}: '
                         f'it has {_some(known)}')
    return meant[0]


def is_named(drive: str, name: str) -> bool:
    """Tell whether `name` means this drive: its whole name, or its number alone."""
    return drive == name or f'_drive_{name}_' in drive


def _some(names: list[str]) -> str:
    return ', '.join(names[:12]) + (', ...' if len(names) > 12 else '')
