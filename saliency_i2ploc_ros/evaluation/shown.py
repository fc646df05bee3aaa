"""Which images a localizer looks at: what is covered or dark shows it nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive
from ..distributed import World
from ..errors import InputError
from ..localization.hypotheses import LocalizerConfig
from ..localization.visibility import VERSION, Visibility, visibility_of
from ..storage import content_hash
from .stored import Arrays, FORMAT, stored_rows


def shown(
    drive: Drive, camera: str, frames: Sequence[int], config: LocalizerConfig, world: World,
) -> NDArray[np.bool_]:
    """
    Return which of some of a camera's images (n,) a localizer looks at: the others are refused.

    frames: places in the stream. How much each shows is kept in the cache. An image whose file
    cannot be read shows nothing.
    """
    stream = drive.cameras[camera]
    key = content_hash(['shown', FORMAT, VERSION, drive.source, camera, stream.key(frames)])

    def inputs(row: int) -> Arrays:
        try:
            seen = visibility_of(drive.image(camera, int(frames[row])))
        except InputError:
            # Not skipped, for of images that are all skipped nothing is stored.
            seen = Visibility(*[np.nan] * len(Visibility._fields))
        return np.array(seen, np.float32),

    folder = stored_rows(key, len(frames), len(Visibility._fields), None, inputs, lambda x: x,
                         world, f'what shows: {drive.name}, {camera}')
    # Rows of any kind are stored under the name of what they mostly are.
    rows = np.load(folder / 'descriptors.npy', allow_pickle=False).tolist()
    return np.array([Visibility(*row).suffices(config.min_contrast, config.min_visible)
                     for row in rows], bool)
