"""Descriptors in the cache: of each thing once, each process its share, one folder in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import math
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray

from ..distributed import barrier, share, World
from ..errors import InputError
from ..progress import track
from ..storage import atomic_directory, atomic_file, cache_directory, write_json

FORMAT = 2  # of the cached arrays; raised when what is computed changes
_BATCH = 16
_COPIED_ROWS = 65_536

Arrays = tuple[NDArray[np.float32], ...]


def stored_rows(
    key: str, count: int, dim: int, details: tuple[int, int] | None,
    inputs: Callable[[int], Arrays], encode: Callable[..., NDArray[np.float32]], world: World,
    what: str,
) -> Path:
    """
    Return the folder of the cache with the descriptors of `count` things; make it if it is not.

    inputs: of one of them; an InputError skips it. encode: the rows (b, dim + N c) of some.
    descriptors.npy (m, dim), details.npy (m, N, c) where there are any, and kept.npy (m,) are of
    those that could be described. Every process calls this alike.
    """
    width = dim + math.prod(details or (0,))
    folder = cache_directory() / 'descriptors' / key
    part = folder.with_name(f'{key}.part-{world.rank}-of-{world.size}.npy')
    if not (folder / 'made.json').is_file() and not part.is_file():
        rows = share(count, world)
        with atomic_file(part) as temporary:
            # One column more: the milliseconds that it took.
            found = np.lib.format.open_memmap(temporary, 'w+', np.float32, (len(rows), width + 1))
            found[:, width] = np.nan
            for chosen, described, milliseconds in _encoded(rows, inputs, encode, what):
                found[chosen - rows.start, :width] = described
                found[chosen - rows.start, width] = milliseconds
            found.flush()
    # Whatever a process found done, all meet here: another job may make the same at the same time.
    barrier(world)
    if world.writes and not (folder / 'made.json').is_file():
        _merge(folder, key, world, details)
    barrier(world)
    return folder


def _encoded(
    rows: range, inputs: Callable[[int], Arrays], encode: Callable[..., NDArray[np.float32]],
    what: str,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], float]]:
    """Yield which were described, how, and the milliseconds for each, batch by batch."""
    waiting: list[Arrays] = []
    chosen: list[int] = []
    started = time.perf_counter()
    for row in track(rows, what):
        try:
            waiting.append(inputs(row))
            chosen.append(row)
        except InputError:
            pass
        if waiting and (len(waiting) == _BATCH or row == rows[-1]):
            described = encode(*(np.stack(arrays) for arrays in zip(*waiting, strict=True)))
            spent = 1e3 * (time.perf_counter() - started) / len(chosen)
            yield np.array(chosen, np.int64), described, spent
            waiting, chosen, started = [], [], time.perf_counter()


def _merge(folder: Path, key: str, world: World, details: tuple[int, int] | None) -> None:
    """
    Make one of the parts that all processes have written, and remove them.

    Of two runs at the same descriptors one is done first, and takes the parts away from the other.
    """
    try:
        _merge_parts(folder, key, world, details)
    except FileNotFoundError:
        if not (folder / 'made.json').is_file():
            raise


def _merge_parts(
    folder: Path, key: str, world: World, details: tuple[int, int] | None,
) -> None:
    paths = [folder.with_name(f'{key}.part-{rank}-of-{world.size}.npy')
             for rank in range(world.size)]
    parts = [np.load(path, mmap_mode='r', allow_pickle=False) for path in paths]
    times = np.concatenate([part[:, -1] for part in parts])
    kept = np.flatnonzero(np.isfinite(times))
    if len(kept) == 0:
        raise InputError('nothing could be described: the images cannot be read, or the submaps '
                         'have too few points in view')
    with atomic_directory(folder, overwrite=True) as temporary:
        dim = parts[0].shape[1] - 1 - math.prod(details or (0,))
        merged = np.lib.format.open_memmap(
            temporary / 'descriptors.npy', 'w+', np.float32, (len(kept), dim))
        # As coarse as a map keeps them, and as `Verification` takes an image's.
        of_tokens = None if details is None else np.lib.format.open_memmap(
            temporary / 'details.npy', 'w+', np.float16, (len(kept), *details))
        row = 0
        for part in parts:
            for start in range(0, len(part), _COPIED_ROWS):
                block = np.asarray(part[start:start + _COPIED_ROWS])
                block = block[np.isfinite(block[:, -1]), :-1]
                merged[row:row + len(block)] = block[:, :dim]
                if of_tokens is not None and details is not None:
                    of_tokens[row:row + len(block)] = block[:, dim:].reshape(-1, *details)
                row += len(block)
        merged.flush()
        if of_tokens is not None:
            of_tokens.flush()
        np.save(temporary / 'kept.npy', kept)
        write_json(temporary / 'made.json', {
            'format': FORMAT, 'key': key, 'count': len(times),
            'milliseconds': float(np.median(times[kept]))})
    for path in paths:
        path.unlink(missing_ok=True)
