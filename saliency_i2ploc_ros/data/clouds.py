"""Map files: LAS and LAZ, PCD, PLY."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

SUFFIXES = ('.las', '.laz', '.pcd', '.ply')
# ASPRS LAS 1.4, table 17: low noise and high noise.
_LAS_NOISE = (7, 18)
_CHUNK = 1_000_000

Chunk = tuple[NDArray[np.float64], 'NDArray[np.float32] | None']


def read_cloud(path: Path) -> Chunk:
    """
    Return a map file's points (n, 3) float64 and intensity (n,) float32, or None for the latter.

    Coordinates and intensity are in the file's units. Points that are not finite and those that
    a LAS file marks as noise or withheld are gone. A file that is missing, of another kind,
    broken, or without a point is an InputError.
    """
    parts = list(chunks(path))
    points = np.concatenate([part[0] for part in parts])
    if any(part[1] is None for part in parts):
        return points, None
    return points, np.concatenate([part[1] for part in parts if part[1] is not None])


def check(path: Path) -> None:
    """Raise an InputError unless `path` is a file with the suffix of a map file."""
    if not Path(path).is_file():
        raise InputError(f'{path} is not a file: give a map as {", ".join(SUFFIXES)}')
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f'{path} is no map file that can be read: give {", ".join(SUFFIXES)}')


def chunks(path: Path) -> Iterator[Chunk]:
    """Yield `read_cloud`'s result in parts: a large LAS file is never whole in memory."""
    check(path)
    suffix = Path(path).suffix.lower()
    read = {'.pcd': _pcd, '.ply': _ply}.get(suffix, _las)
    found = False
    try:
        for points, intensity in read(Path(path)):
            finite = np.isfinite(points).all(axis=1)
            found = found or bool(finite.any())
            yield points[finite], None if intensity is None else intensity[finite]
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f'reading {suffix[1:].upper()} files needs {error.name}: '
                         f'pip install {error.name}') from error
    except Exception as error:  # The three libraries raise whatever a broken file leads to.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f'{path} cannot be read as {suffix[1:].upper()} ({reason}): '
                         'copy or export it again') from error
    if not found:
        raise InputError(f'{path} holds no point with finite coordinates')


def _las(path: Path) -> Iterator[Chunk]:
    import laspy  # Each of the three libraries is needed only where its files are read.

    with laspy.open(path) as file:
        read = 0
        for part in file.chunk_iterator(_CHUNK):
            read += len(part)
            keep = ~np.isin(part.classification, _LAS_NOISE)
            if 'withheld' in part.point_format.dimension_names:
                keep &= np.asarray(part.withheld) == 0
            points = np.stack([part.x, part.y, part.z], axis=1).astype(np.float64)
            yield points[keep], np.asarray(part.intensity, np.float32)[keep]
        _same_count(path, read, file.header.point_count)


def _pcd(path: Path) -> Iterator[Chunk]:
    from pypcd4 import PointCloud

    cloud = PointCloud.from_path(path)
    rows = np.atleast_1d(cloud.pc_data)
    _same_count(path, len(rows), cloud.metadata.points)
    yield _columns(path, rows)


def _ply(path: Path) -> Iterator[Chunk]:
    from plyfile import PlyData

    elements = {element.name: element for element in PlyData.read(path).elements}
    if 'vertex' not in elements:
        raise InputError(f"{path} has no element 'vertex': it is not a point cloud")
    yield _columns(path, elements['vertex'].data)


def _columns(path: Path, rows: NDArray[Any]) -> Chunk:
    """Return points and intensity of a structured array (n,), whatever its names' case."""
    names = {name.lower(): name for name in rows.dtype.names or ()}
    if missing := [axis for axis in 'xyz' if axis not in names]:
        raise InputError(f'{path} has no field {", ".join(missing)}: it is not a point cloud')
    points = np.stack([rows[names[axis]] for axis in 'xyz'], axis=1).astype(np.float64)
    # CloudCompare writes 'scalar_intensity'.
    found = names.get('intensity') or names.get('scalar_intensity')
    return points, None if found is None else rows[found].astype(np.float32)


def _same_count(path: Path, read: int, promised: int) -> None:
    if read != promised:
        raise InputError(f'{path} ends after {read} of {promised} points: copy or export it again')
