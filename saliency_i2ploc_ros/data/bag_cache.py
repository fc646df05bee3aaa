"""Where a replay keeps the bag that it makes of a drive."""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path

from .. import __version__
from ..errors import InputError
from ..storage import cache_directory, content_hash


def cached_bag(root: Path, drive: str, cameras: Sequence[str], compressed: bool) -> Path:
    """
    Return the folder in the cache for the bag of a drive, which is there if it was made before.

    It is named by what the bag is made of: the folders below `root`, as they were changed last, so
    that a drive that was written anew gets another bag. A `root` that is no folder: InputError.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise InputError(f'{root} is no folder: give the root of a data set')
    folders = sorted((str(Path(folder).relative_to(root)), Path(folder).stat().st_mtime_ns)
                     for folder, _, _ in os.walk(root))
    key = content_hash([str(root), drive, list(cameras), compressed, __version__, folders])
    return cache_directory() / 'bags' / key
