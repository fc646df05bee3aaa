"""The world of one city seed: its triangles, built once, and the ray casting in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
import numpy as np
from numpy.typing import NDArray

from .blocks import fill_block
from .buildings import Styles
from .ground import lay_ground
from .mesh import Float, joined, Mesh, MeshBuilder
from .plan import make_plan, Plan

Array = NDArray[np.float64]

FAR = np.float32(1e6)


@dataclass(frozen=True)
class Hits:
    """
    What n rays met first; every field has n rows.

    hit: whether anything; distance along the ray in metres (FAR if nothing); normal unit, towards
    the viewer; uv, colour, label, kind, style as in Mesh (zero if nothing).
    """

    hit: NDArray[np.bool_]
    distance: Float
    normal: Float
    uv: Float
    colour: Float
    label: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    style: NDArray[np.int32]


class Layer:
    """One mesh with its search tree."""

    def __init__(self, mesh: Mesh, balls: Array | None = None) -> None:
        """Balls (k, 4), centres and radii that hold the whole mesh, spare most rays a search."""
        self.mesh, self.balls = mesh, balls
        self._scene = EmbreeScene()
        self._triangles = TriangleMesh(self._scene, mesh.vertices)

    def reached(self, origin: Float, directions: Float) -> NDArray[np.int64]:
        """Return the rays (n, 3) from `origin` that come near the mesh, in order."""
        if self.balls is None:
            return np.arange(len(directions))
        to = self.balls[:, :3] - origin
        far = np.linalg.norm(to, axis=1)
        inside = far <= self.balls[:, 3]
        if inside.any():
            return np.arange(len(directions))
        limit = np.sqrt(1.0 - (self.balls[:, 3] / far) ** 2)
        cosine = directions @ (to / far[:, None]).T.astype(np.float32)
        return np.flatnonzero((cosine > limit.astype(np.float32)).any(1))

    def first(self, origins: Float, directions: Float, limits: Float) -> dict[str, Any]:
        """Return embree's answer for rays (n, 3) no longer than limits (n,)."""
        # embree writes the distances found into the array of limits.
        result: dict[str, Any] = self._scene.run(
            origins, directions, dists=limits.copy(), output=True)
        return result

    def blocked(self, origins: Float, directions: Float) -> NDArray[np.bool_]:
        """Return whether anything stands in the rays' way."""
        return np.asarray(self._scene.run(origins, directions, query='OCCLUDED') >= 0)


class Scene:
    """What stands still (`static`) and what moves (`moving`, or None) at one moment."""

    def __init__(self, static: Layer, moving: Layer | None = None) -> None:
        self.layers = [static] if moving is None else [static, moving]

    def trace(self, origin: Float, directions: Float, far: float = 1e6) -> Hits:
        """Return what rays of unit directions (n, 3) from `origin` (3,) meet within `far` m."""
        n = len(directions)
        distance = np.full(n, far, np.float32)
        hits = Hits(np.zeros(n, bool), distance, np.zeros((n, 3), np.float32),
                    np.zeros((n, 2), np.float32), np.zeros((n, 3), np.float32),
                    np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.int32))
        origins = np.ascontiguousarray(np.broadcast_to(origin.astype(np.float32), (n, 3)))
        # Each layer in turn, no further than the one before was met: what is nearest is last.
        for layer in self.layers:
            asked = layer.reached(origin, directions)
            if not len(asked):
                continue
            d = np.ascontiguousarray(directions[asked])
            r = layer.first(origins[:len(asked)], d, distance[asked])
            met = r['primID'] >= 0
            rows, r = asked[met], {name: values[met] for name, values in r.items()}
            distance[rows] = r['tfar']
            tri = r['primID']
            mesh = layer.mesh
            u, v = r['u'][:, None], r['v'][:, None]
            corners = mesh.uv.take(tri, 0)
            hits.uv[rows] = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
            normal = r['Ng']
            normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
            away = np.einsum('ij,ij->i', normal, directions[rows]) > 0
            normal[away] *= -1
            hits.normal[rows] = normal
            hits.colour[rows] = mesh.colour.take(tri, 0)
            hits.label[rows] = mesh.label.take(tri, 0)
            hits.kind[rows] = mesh.kind.take(tri, 0)
            hits.style[rows] = mesh.style.take(tri, 0)
            hits.hit[rows] = True
        distance[~hits.hit] = FAR
        return hits

    def shadowed(self, origins: Float, direction: Float) -> NDArray[np.bool_]:
        """Return whether anything stands between points (n, 3) and the sun's direction (3,)."""
        d = np.ascontiguousarray(np.broadcast_to(np.asarray(direction, np.float32),
                                                 origins.shape))
        blocked = self.layers[0].blocked(origins, d)
        for layer in self.layers[1:]:
            open_rows = np.flatnonzero(~blocked)
            if len(open_rows):
                blocked[open_rows] = layer.blocked(origins[open_rows], d[open_rows])
        return blocked


class City:
    """
    One procedural city: the same seed and size give the same city, to the byte.

    plan: its streets and blocks. mesh: all that never moves, in the map frame (z up, carriageways
    at z = 0). styles: the table that the mesh's `style` indexes.
    """

    def __init__(self, seed: int, blocks: int = 5) -> None:
        self.seed, self.blocks = seed, blocks
        self.plan: Plan = make_plan(seed, blocks)
        fabric, rigid, styles = MeshBuilder(), MeshBuilder(), Styles()
        lay_ground(self.plan, fabric, styles, seed)
        for key in self.plan.blocks:
            fill_block(self.plan, fabric, rigid, styles, key, seed)
        bent = fabric.mesh()
        flat = bent.vertices.reshape(-1, 3)
        flat[:, :2] = self.plan.warp(flat[:, :2])
        self.mesh = joined([bent, rigid.mesh()])
        self.styles = styles.table()
