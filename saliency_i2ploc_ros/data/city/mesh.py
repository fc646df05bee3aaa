"""
Triangles with what a camera and a LiDAR need to know of them, and the few solids a city is of.

Every triangle has a class (`labels`), a kind (which texture is computed on it), a colour (linear
albedo), a style (a row of the world's style table, whose columns depend on the kind) and texture
coordinates at its corners. Winding does not matter: shading turns a normal towards the viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float32]

# Classes, as in saliency_i2ploc_ros.data.labels.
ROAD, SIDEWALK, BUILDING, FENCE, POLE, SIGN = 7, 8, 11, 13, 17, 20
VEGETATION, TERRAIN, SKY, PERSON, CAR, TRUCK, BOX = 21, 22, 23, 24, 26, 27, 39

# Kinds of surface.
(PLAIN, FACADE, STREET, ASPHALT, PAVING, GRASS, LEAVES, ROOF, BARK, WALL, GLASS, PAINT, BOARD,
 LAMP, TAIL, MESHWIRE, DARK) = range(17)


@dataclass(frozen=True)
class Mesh:
    """n triangles: vertices (n, 3, 3) metres, uv (n, 3, 2), colour (n, 3), the rest (n,)."""

    vertices: Float
    uv: Float
    colour: Float
    label: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    style: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.vertices)


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Return the triangles of all meshes as one; at least one mesh is needed."""
    return Mesh(*(np.concatenate([getattr(m, f.name) for m in meshes]) for f in fields(Mesh)))


class MeshBuilder:
    """Collects triangles."""

    def __init__(self) -> None:
        self.parts: list[Mesh] = []

    def triangles(self, vertices: ArrayLike, label: int, colour: ArrayLike, kind: int = PLAIN,
                  style: int = 0, uv: ArrayLike | None = None) -> None:
        """Add triangles (k, 3, 3); colour is (3,) or (k, 3), uv (k, 3, 2) or by the ground's."""
        v = np.asarray(vertices, np.float32)
        k = len(v)
        uvs = v[:, :, :2].copy() if uv is None else np.asarray(uv, np.float32)
        self.parts.append(Mesh(
            v, uvs, np.broadcast_to(np.asarray(colour, np.float32), (k, 3)).copy(),
            np.full(k, label, np.uint8), np.full(k, kind, np.uint8),
            np.full(k, style, np.int32)))

    def quads(self, corners: ArrayLike, label: int, colour: ArrayLike, kind: int = PLAIN,
              style: int = 0, uv: ArrayLike | None = None) -> None:
        """Add quadrilaterals (k, 4, 3), corners in order round them; uv (k, 4, 2)."""
        c = np.asarray(corners, np.float32)
        halves = [0, 1, 2, 0, 2, 3]
        uvs = None if uv is None else np.asarray(uv, np.float32)[:, halves].reshape(-1, 3, 2)
        self.triangles(c[:, halves].reshape(-1, 3, 3), label, colour, kind, style, uvs)

    def mesh(self) -> Mesh:
        """Return all that was added."""
        if not self.parts:
            self.triangles(np.zeros((0, 3, 3)), 0, (0, 0, 0))
        return joined(self.parts)


class Local:
    """
    A place to build at: x along `ahead`, y along its left, z up from `z`, in a builder's frame.

    Solids are given in this frame. mirror: y runs to the right instead.
    """

    def __init__(self, builder: MeshBuilder, origin: ArrayLike, yaw: float, z: float = 0.0,
                 mirror: bool = False) -> None:
        self.builder = builder
        c, s = np.cos(yaw), np.sin(yaw)
        left = np.array([s, -c]) if mirror else np.array([-s, c])
        self.axes = np.array([[c, s, 0.0], [left[0], left[1], 0.0], [0.0, 0.0, 1.0]])
        self.origin = np.array([*np.asarray(origin, float)[:2], z])

    def out(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return local points (..., 3) in the builder's frame."""
        return np.asarray(np.asarray(points, float) @ self.axes + self.origin)

    def quad(self, corners: ArrayLike, label: int, colour: ArrayLike, kind: int = PLAIN,
             style: int = 0, uv: ArrayLike | None = None) -> None:
        """Add one or more quadrilaterals ((k,) 4, 3)."""
        c = np.asarray(corners, float).reshape(-1, 4, 3)
        uvs = None if uv is None else np.asarray(uv, float).reshape(-1, 4, 2)
        self.builder.quads(self.out(c), label, colour, kind, style, uvs)

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float],
            label: int, colour: ArrayLike, kind: int = PLAIN, style: int = 0) -> None:
        """Add a box without its underside; uv is metres along each wall and above the ground."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        self.prism(ring, z0, z1, label, colour, kind, style)

    def prism(self, ring: ArrayLike, z0: float, z1: float, label: int, colour: ArrayLike,
              kind: int = PLAIN, style: int = 0, shrink: float = 1.0, top: bool = True) -> None:
        """Add an upright prism over a convex ring (k, 2); its top is scaled by `shrink`."""
        r = np.asarray(ring, float)
        k = len(r)
        centre = r.mean(0)
        upper = centre + (r - centre) * shrink
        nxt = np.roll(np.arange(k), -1)
        low = np.column_stack([r, np.full(k, z0)])
        high = np.column_stack([upper, np.full(k, z1)])
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(r[nxt] - r, axis=1))])
        walls = np.stack([low, low[nxt], high[nxt], high], 1)
        a, b = along[:-1], along[1:]
        uv = np.stack([np.stack([a, np.full(k, z0)], 1), np.stack([b, np.full(k, z0)], 1),
                       np.stack([b, np.full(k, z1)], 1), np.stack([a, np.full(k, z1)], 1)], 1)
        self.builder.quads(self.out(walls), label, colour, kind, style, uv)
        if top and shrink > 0.0:
            fan = np.stack([np.repeat(high[:1], k - 2, 0), high[1:-1], high[2:]], 1)
            self.builder.triangles(self.out(fan), label, colour,
                                   PLAIN if kind == FACADE else kind, style)

    def round(self, x: float, y: float, radius: float, z0: float, z1: float, label: int,
              colour: ArrayLike, kind: int = PLAIN, sides: int = 6, shrink: float = 1.0) -> None:
        """Add an upright cylinder, or a cone with shrink 0."""
        a = np.arange(sides) * (2 * np.pi / sides)
        ring = np.stack([x + radius * np.cos(a), y + radius * np.sin(a)], 1)
        self.prism(ring, z0, z1, label, colour, kind, 0, shrink)

    def triangles(self, vertices: ArrayLike, label: int, colour: ArrayLike, kind: int = PLAIN,
                  style: int = 0) -> None:
        """Add triangles (k, 3, 3)."""
        self.builder.triangles(self.out(vertices), label, colour, kind, style)


def icosphere(levels: int) -> NDArray[np.float64]:
    """Return the triangles (20 * 4**levels, 3, 3) of a unit sphere."""
    g = (1.0 + 5.0 ** 0.5) / 2.0
    v = np.array([[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g],
                  [0, -1, -g], [0, 1, -g], [g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]], float)
    f = np.array([[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9],
                  [5, 11, 4], [11, 10, 2], [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6],
                  [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1]])
    t = v[f] / np.linalg.norm(v[0])
    for _ in range(levels):
        a, b, c = t[:, 0], t[:, 1], t[:, 2]
        ab, bc, ca = ((p + q) / np.linalg.norm(p + q, axis=1, keepdims=True)
                      for p, q in ((a, b), (b, c), (c, a)))
        t = np.concatenate([np.stack(s, 1) for s in
                            ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return t
