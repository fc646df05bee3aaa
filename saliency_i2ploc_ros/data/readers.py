"""Open any drive by its path."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ..errors import InputError
from . import kitti360, kitti_odometry, kitti_raw
from .drive import Drive

READERS = (kitti360, kitti_odometry, kitti_raw)


def is_data_set(path: Path) -> bool:
    """Tell whether `path` has the layout of a known data set."""
    return any(reader.recognises(Path(path)) for reader in READERS)


def drive_names(path: Path) -> list[str]:
    """Return the names of the drives in the data set at `path`, sorted; errors as `open_drive`."""
    return _reader(Path(path)).drive_names(Path(path))


def open_drive(path: Path, name: str | None = None) -> Drive:
    """
    Return the drive `name` of the data set at `path`, whose kind is told from its layout.

    path: a KITTI-360 root (it holds data_poses/ or data_3d_raw/), a KITTI raw drive folder
    (..._drive_0005_sync) or the date folder above it, or a KITTI odometry root (it holds
    sequences/). name: for example '2013_05_28_drive_0000_sync' or '00'; it may be left out where
    the data set holds one drive. Anything else is an InputError that says what was looked for.
    """
    return _reader(Path(path)).open_drive(Path(path), name)


def _reader(path: Path) -> ModuleType:
    if not path.is_dir():
        raise InputError(f'{path} is not a folder: give the root of a data set')
    for reader in READERS:
        if reader.recognises(path):
            return reader
    raise InputError(
        f'{path} has the layout of no known data set: KITTI-360 has data_poses/ and data_3d_raw/, '
        'KITTI odometry has sequences/, KITTI raw has <date>/<drive>_sync/oxts/')
