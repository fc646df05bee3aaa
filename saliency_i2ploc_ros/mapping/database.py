"""
The place database: a folder of plain arrays that says, for each place of a map, how it looks.

    schema.json          what made it, and a SHA-256 of each array
    descriptors.npy      (n, D) float32, of unit length
    poses.npy            (n, 4, 4) float64, of the vehicle, positions less the schema's origin
    submaps.npy          (n,) int64, which submap a place is a view of, 0 .. s - 1
    clouds.npy           (m, 3) float32, points to look at, each submap's in the vehicle frame of
                         its first place
    cloud_offsets.npy    (s + 1,) int64, submap j has the points offsets[j]:offsets[j + 1]
    details.npy          (n, N, c) float16, of each place's N tokens, what a verifier compares;
                         only in maps of models that have one

The search index is not stored: it is built from the descriptors at each load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..errors import InputError
from ..geometry.poses import apply, inverse
from ..storage import atomic_directory, content_hash, read_json, sha256_file, write_json
from .nearest import Nearest

FORMAT = 3
ARRAYS = {'descriptors.npy': '<f4', 'poses.npy': '<f8', 'submaps.npy': '<i8',
          'clouds.npy': '<f4', 'cloud_offsets.npy': '<i8'}
DETAILS = {'details.npy': '<f2'}
REBUILD = 'build it again with `i2ploc build-map`'
# float32 sums over 256 numbers leave 1e-7; a descriptor farther off was not made by an encoder.
_UNIT_TOLERANCE = 1e-4
_BLOCK = 4096  # places whose details are looked at in one go


class Schema(BaseModel):
    """
    What schema.json holds.

    views: how many a submap has, less those that show too little. smooth_m: see `smoothed`.
    encoder_hash, preprocessing_hash: of the model and of what is done to its input. submap: the
    submaps' configuration. details: (N, c) of a place, None without. spacing_m: travelled
    distance between places. origin: (3,) metres, what the poses' positions are less than in the
    map frame. source, submaps_key: the drive or map file, and the key of its submaps. skipped:
    submaps that could not be encoded. arrays: the SHA-256 of each array's file.
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    format: int
    created_by: str
    places: int
    views: int
    smooth_m: float
    dimension: int
    details: tuple[int, int] | None
    metric: str
    model_name: str
    encoder_hash: str
    preprocessing_hash: str
    submap: dict[str, Any]
    spacing_m: float
    origin: tuple[float, float, float]
    source: str
    submaps_key: str
    skipped: int
    arrays: dict[str, str]

    @property
    def files(self) -> dict[str, str]:
        """Return the arrays' files that there must be, and the kind of their numbers."""
        return ARRAYS if self.details is None else {**ARRAYS, **DETAILS}


SEAL = 'schema_hash'  # key of the content hash of all else in schema.json


@dataclass(frozen=True)
class PlaceDatabase:
    """
    An open database: `descriptors` (n, D) float32, memory-mapped; `T_map_base` (n, 4, 4) float64.

    The poses are in the map frame, the origin added. submaps: (n,) which one a place is a view of.
    details: (n, N, c) float16, memory-mapped, of which a search reads the rows that it found; None
    in maps of models without a verifier.
    """

    path: Path
    schema: Schema
    descriptors: NDArray[np.float32]
    T_map_base: NDArray[np.float64]
    submaps: NDArray[np.int64]
    details: NDArray[np.float16] | None
    _first: NDArray[np.int64]  # of each submap's places
    _clouds: NDArray[np.float32]
    _offsets: NDArray[np.int64]
    _nearest: Nearest

    @classmethod
    def open(
        cls, path: Path, model_hash: str | None = None, preprocessing_hash: str | None = None,
        verify: bool = True,
    ) -> PlaceDatabase:
        """
        Open a database; one that is altered, truncated or of another model is an InputError.

        model_hash, preprocessing_hash: those of the model that will ask; None: any is accepted.
        verify: compare the SHA-256 of each array (reads all of it, piece by piece); shapes, types
        and values of descriptors and poses are checked in any case.
        """
        path = Path(path)
        schema = _read_schema(path)
        for what, built_with, loaded in (
                ('encoder', schema.encoder_hash, model_hash),
                ('preprocessing', schema.preprocessing_hash, preprocessing_hash)):
            if loaded is not None and loaded != built_with:
                raise InputError(
                    f'the map {path} was built with {what} {built_with} (model '
                    f"{schema.model_name!r}), the loaded model's is {loaded}: {REBUILD} and this "
                    'model, or load the other model')
        arrays = {name: _read_array(path / name, kind, schema.arrays[name] if verify else None)
                  for name, kind in schema.files.items()}
        descriptors, poses = arrays['descriptors.npy'], np.array(arrays['poses.npy'])
        clouds, offsets = arrays['clouds.npy'], np.array(arrays['cloud_offsets.npy'])
        submaps, n = np.array(arrays['submaps.npy']), schema.places
        details = arrays.get('details.npy')
        if details is not None and isinstance(details.base, mmap.mmap):
            # Of the rows that a search asks for, no two are beside each other: without this the
            # system reads 128 KiB about each of them, which takes a disk a hundred times as long.
            details.base.madvise(mmap.MADV_RANDOM)
        known, first = np.unique(submaps, return_index=True)
        if (descriptors.shape != (n, schema.dimension) or poses.shape != (n, 4, 4)
                or submaps.shape != (n,) or not np.array_equal(known, np.arange(len(known)))
                or offsets.shape != (len(known) + 1,) or offsets[0] != 0
                or np.any(np.diff(offsets) < 0) or clouds.shape != (offsets[-1], 3)
                or (details is not None and details.shape != (n, *(schema.details or ())))):
            raise InputError(f'the arrays of the map {path} do not fit its schema: {REBUILD}')
        if fault := _fault(descriptors, poses):
            raise InputError(f'the map {path} has {fault}: {REBUILD}')
        poses[:, :3, 3] += schema.origin
        return cls(path, schema, descriptors, poses, submaps, details, first, clouds, offsets,
                   Nearest(descriptors))

    def __len__(self) -> int:
        return self.schema.places

    @property
    def origin(self) -> NDArray[np.float64]:
        """Return the origin (3,) that was taken off the stored positions."""
        return np.array(self.schema.origin)

    @property
    def spacing_m(self) -> float:
        """Return the travelled distance between neighbouring places, metres."""
        return self.schema.spacing_m

    @property
    def identity(self) -> str:
        """Return a hash of the schema, and through its SHA-256s of every array."""
        return content_hash(self.schema.model_dump(mode='json'))

    @property
    def first_places(self) -> NDArray[np.int64]:
        """Return (s,) the first place of each submap, whose points are its views' too."""
        return self._first

    def cloud(self, index: int) -> NDArray[np.float32]:
        """Return points (m, 3) to look at of place `index`, in the vehicle frame of its pose."""
        submap = self.submaps[index]
        points = self._clouds[self._offsets[submap]:self._offsets[submap + 1]]
        first = int(self._first[submap])
        if first == index:
            return points
        return apply(inverse(self.T_map_base[index]) @ self.T_map_base[first], points).astype(
            np.float32)

    def search(
        self, queries: NDArray[np.float32], k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """
        Return the cosines (m, k) and the numbers (m, k) of the k places most like each query.

        queries: (m, D), of unit length. Best first. With k > n there are n columns. Of a large map
        (see `Nearest`) a place may be missed; the cosines are exact.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.schema.dimension:
            raise InputError(f'a query of shape {queries.shape} was asked of the map {self.path}, '
                             f'whose descriptors have {self.schema.dimension} numbers')
        return self._nearest.search(queries, min(k, len(self)))


def write_database(
    path: Path, descriptors: NDArray[np.float32], T_map_base: NDArray[np.float64],
    clouds: Sequence[NDArray[np.float32]], submaps: NDArray[np.int64] | None = None, *,
    encoder_hash: str, preprocessing_hash: str, model_name: str, submap: dict[str, Any],
    spacing_m: float, views: int = 1, smooth_m: float = 0.0, source: str = '',
    submaps_key: str = '', skipped: int = 0, overwrite: bool = False,
    details: NDArray[np.floating] | None = None,
) -> None:
    """
    Write a database of n places, atomically.

    descriptors: (n, D) of unit length. T_map_base: (n, 4, 4). submaps: (n,) which one each place
    is a view of, by any rising numbers; None: each of its own. clouds: of each of those, in that
    order, (m_j, 3) in the vehicle frame of its first place. details: (n, N, c), if the model has a
    verifier. The rest as in `Schema`. Without a place, or with a descriptor, a pose or details
    that are not finite (details in half precision), it is an InputError.
    """
    n = len(descriptors)
    known, numbers = np.unique(np.arange(n) if submaps is None else submaps, return_inverse=True)
    if n == 0:
        raise InputError('a map needs at least one place, and none was encoded: give a drive with '
                         'scans about its poses')
    if (len(T_map_base) != n or len(numbers) != n or len(clouds) != len(known)
            or (details is not None and (details.ndim != 3 or len(details) != n))):
        raise ValueError(f'{n} descriptors, {len(T_map_base)} poses, {len(known)} submaps, '
                         f'{len(clouds)} clouds, details of '
                         f'{0 if details is None else details.shape}')
    fault = _fault(descriptors, T_map_base)
    if details is not None and not fault and not all(
            np.isfinite(block).all() for block in _blocks(details)):
        fault = 'details that are not finite in half precision'
    if fault:
        raise InputError(f"the encoded places have {fault}: check the model's weights and the "
                         "drive's poses")
    # Whole metres: short to read, and added again without a rounding worth the name.
    origin = np.round(T_map_base[0, :3, 3])
    poses = np.array(T_map_base, np.float64)
    poses[:, :3, 3] -= origin
    offsets = np.concatenate([[0], np.cumsum([len(cloud) for cloud in clouds])])
    values = {'descriptors.npy': descriptors, 'poses.npy': poses, 'submaps.npy': numbers.ravel(),
              'clouds.npy': np.concatenate(clouds).reshape(-1, 3), 'cloud_offsets.npy': offsets}
    with atomic_directory(path, overwrite) as folder:
        for name, dtype in ARRAYS.items():
            np.save(folder / name, np.ascontiguousarray(values[name], dtype))
        if details is not None:
            np.save(folder / 'details.npy', np.ascontiguousarray(details, '<f2'))
        files = [*ARRAYS, *(DETAILS if details is not None else ())]
        schema = Schema(
            format=FORMAT, created_by=f'saliency_i2ploc_ros {__version__}, numpy {np.__version__}',
            places=n, views=views, smooth_m=smooth_m, dimension=descriptors.shape[1],
            details=None if details is None else details.shape[1:],
            metric='cosine', model_name=model_name,
            encoder_hash=encoder_hash, preprocessing_hash=preprocessing_hash, submap=submap,
            spacing_m=spacing_m, origin=tuple(origin.tolist()),
            source=source, submaps_key=submaps_key, skipped=skipped,
            arrays={name: sha256_file(folder / name) for name in files})
        written = schema.model_dump(mode='json')
        write_json(folder / 'schema.json', {**written, SEAL: content_hash(written)})


def _read_schema(path: Path) -> Schema:
    if not (path / 'schema.json').is_file():
        raise InputError(f'{path} is not a map (it has no schema.json): make one with '
                         '`i2ploc build-map`')
    raw = read_json(path / 'schema.json')
    found = raw.get('format') if isinstance(raw, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise InputError(f'the map {path} is of format {found} and this version reads up to '
                         f'{FORMAT}: update this package, or {REBUILD}')
    if isinstance(found, int) and 0 < found < FORMAT:
        raise InputError(f'the map {path} is of format {found}, of an earlier version of this '
                         f'package: {REBUILD}')
    seal = raw.pop(SEAL, None) if isinstance(raw, dict) else None
    try:
        # From JSON, not from Python values, since JSON has no tuples.
        schema = Schema.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(str(part) for part in first['loc'])
        raise InputError(f'{path / "schema.json"} is not the schema of a map ({key}: '
                         f'{first["msg"]}): {REBUILD}') from error
    if (schema.format != FORMAT or schema.metric != 'cosine'
            or set(schema.arrays) != set(schema.files)
            or schema.places < 1 or schema.dimension < 1
            or not np.isfinite([*schema.origin, schema.spacing_m]).all()):
        raise InputError(f'{path / "schema.json"} holds values that no map has: {REBUILD}')
    if content_hash(schema.model_dump(mode='json')) != seal:
        raise InputError(f'{path / "schema.json"} was altered since the map was written: copy the '
                         f'map again, or {REBUILD}')
    return schema


def _read_array(path: Path, kind: str, sha256: str | None) -> NDArray[Any]:
    """
    Return one array, memory-mapped, after comparing its file's SHA-256 if one is given.

    kind: of its numbers, as in `ARRAYS`.
    """
    try:
        if sha256 is not None and sha256_file(path) != sha256:
            raise InputError(f"{path} is not the file that the map's schema describes (altered "
                             f'or truncated): copy the map again, or {REBUILD}')
        array: NDArray[Any] = np.load(path, mmap_mode='r', allow_pickle=False)
    except OSError as error:
        raise InputError(f'cannot read {path} ({error.strerror}): copy the map again, or {REBUILD}'
                         ) from error
    except (ValueError, EOFError) as error:
        raise InputError(f'{path} is not a whole array: copy the map again, or {REBUILD}'
                         ) from error
    if array.dtype.str != kind:
        raise InputError(f'{path} holds {array.dtype} numbers: {REBUILD}')
    return array


def _blocks(details: NDArray[np.floating]) -> Iterator[NDArray[np.float16]]:
    """Yield details (n, N, c) some at a time, as they are stored."""
    with np.errstate(over='ignore'):  # what overflows is not finite, and is found
        for start in range(0, len(details), _BLOCK):
            yield details[start:start + _BLOCK].astype(np.float16)


def _fault(descriptors: NDArray[Any], poses: NDArray[Any]) -> str | None:
    """Return what is wrong with the values of descriptors (n, D) and poses (n, 4, 4), if any."""
    if not np.isfinite(descriptors).all():
        return 'descriptors that are not finite'
    if np.abs(np.linalg.norm(descriptors, axis=1) - 1.0).max() > _UNIT_TOLERANCE:
        return 'descriptors that are not of unit length'
    R = poses[:, :3, :3]
    if not (np.isfinite(poses).all() and np.all(poses[:, 3] == [0.0, 0.0, 0.0, 1.0])
            and np.allclose(R @ np.swapaxes(R, 1, 2), np.eye(3), atol=1e-4)):
        return 'poses that are not rigid'
    return None
