"""From where the submaps of a map are seen: each view of a submap is a place of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.submaps import SubmapStore
from ..encoders.config import View
from ..geometry.poses import planar


class Views(NamedTuple):
    """submap: (m,) int64, which one is seen. T_base_view: (m, 4, 4), from where in its frame."""

    submap: NDArray[np.int64]
    T_base_view: NDArray[np.float64]

    def T_map_view(self, store: SubmapStore) -> NDArray[np.float64]:
        """Return the poses (m, 4, 4) of the vehicle that looks, in the map frame."""
        return np.asarray(store.poses[self.submap] @ self.T_base_view)


def views_of(store: SubmapStore, views: tuple[View, ...]) -> Views:
    """Return every view of every submap, submap by submap."""
    T = np.stack([planar(0.0, view.left_m, np.radians(view.yaw_deg)) for view in views])
    return Views(np.repeat(np.arange(len(store)), len(views)), np.tile(T, (len(store), 1, 1)))
