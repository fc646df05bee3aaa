"""What sits where according to a bag's /tf_static, read without tf2."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import from_quaternion, inverse
from .bag_messages import typestore
from .bags import BagReader

Array = NDArray[np.float64]

TF_STATIC = '/tf_static'


def static_transforms(bag: BagReader) -> dict[str, tuple[str, Array]]:
    """Return each child's parent and T_parent_child (4, 4); none where the bag has no tree."""
    edges: dict[str, tuple[str, Array]] = {}
    if TF_STATIC not in bag.topics:
        return edges
    for stored in bag.messages([TF_STATIC]):
        tree: Any = typestore.deserialize_cdr(stored.data, stored.type_name)
        for edge in tree.transforms:
            t, r = edge.transform.translation, edge.transform.rotation
            edges[edge.child_frame_id.lstrip('/')] = (
                edge.header.frame_id.lstrip('/'),
                from_quaternion([r.x, r.y, r.z, r.w], [t.x, t.y, t.z]))
    return edges


def mount(edges: dict[str, tuple[str, Array]], frame: str, base: str) -> Array | None:
    """Return T_base_frame (4, 4) through the tree of `static_transforms`; None if not joined."""
    def to_root(name: str) -> tuple[str, Array]:
        T = np.eye(4)
        for _ in range(len(edges)):  # of a tree with a ring in it the end is never reached
            if name not in edges:
                break
            name, T_parent_name = edges[name][0], edges[name][1]
            T = T_parent_name @ T
        return name, T

    (root, T_root_frame), (other, T_root_base) = to_root(frame.lstrip('/')), to_root(base)
    return inverse(T_root_base) @ T_root_frame if root == other else None
