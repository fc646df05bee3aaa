"""The ground: carriageways, crossings, pavements with rounded kerbs, and what blocks lie on."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from .buildings import Styles
from .mesh import ASPHALT, GRASS, MeshBuilder, PAVING, PLAIN, ROAD, SIDEWALK, STREET, TERRAIN
from .plan import CORNER_M, KERB_M, Line, Plan

Array = NDArray[np.float64]

SOIL = {'terrace': (PAVING, (.40, .39, .37)), 'villa': (GRASS, (.20, .30, .11)),
        'office': (PAVING, (.45, .44, .42)), 'tower': (PAVING, (.48, .46, .44)),
        'park': (GRASS, (.19, .31, .10)), 'industry': (ASPHALT, (.27, .27, .27)),
        'estate': (GRASS, (.22, .30, .13)), 'square': (PAVING, (.50, .45, .40))}


def rounded(x0: float, x1: float, y0: float, y1: float, radius: float,
            step: float = 6.0) -> Array:
    """Return a rectangle's outline with rounded corners, (k, 2), anticlockwise, k by `step`."""
    nx, ny = (max(2, int((b - a) / step)) for a, b in ((x0, x1), (y0, y1)))
    arc = np.linspace(0, np.pi / 2, 6)
    parts = []
    r = radius
    for (cx, cy), start, (ex, ey), n in (
            ((x1 - r, y0 + r), -np.pi / 2, (x1, y1 - r), ny),
            ((x1 - r, y1 - r), 0.0, (x0 + r, y1), nx),
            ((x0 + r, y1 - r), np.pi / 2, (x0, y0 + r), ny),
            ((x0 + r, y0 + r), np.pi, (x1 - r, y0), nx)):
        bend = np.stack([cx + r * np.cos(arc + start), cy + r * np.sin(arc + start)], 1)
        share = np.linspace(0, 1, n + 1)[1:-1, None]
        straight = bend[-1] + (np.array([ex, ey]) - bend[-1]) * share
        parts += [bend, straight]
    return np.concatenate(parts)


def slab(fabric: MeshBuilder, bounds: tuple[float, float, float, float], walk: float,
         walk_colour: Array, soil: tuple[int, tuple[float, float, float]]) -> None:
    """Add a block's raised ground: kerb, pavement ring, and soil inside (plan coordinates)."""
    x0, x1, y0, y1 = bounds
    outer = rounded(x0, x1, y0, y1, CORNER_M)
    # Each outer point's nearest one of the inner rectangle, whose corners are sharp.
    inner = np.clip(outer, [x0 + walk, y0 + walk], [x1 - walk, y1 - walk])
    nxt = np.roll(np.arange(len(outer)), -1)

    def at(ring: Array, z: float) -> Array:
        return np.column_stack([ring, np.full(len(ring), z)])

    low, high, edge = at(outer, 0.0), at(outer, KERB_M), at(outer + .18 * _inward(outer), KERB_M)
    stone = (.52, .51, .50)
    fabric.quads(np.stack([low, low[nxt], high[nxt], high], 1), SIDEWALK, stone)
    fabric.quads(np.stack([high, high[nxt], edge[nxt], edge], 1), SIDEWALK, stone)
    ring = at(inner, KERB_M)
    fabric.quads(np.stack([edge, edge[nxt], ring[nxt], ring], 1), SIDEWALK, walk_colour, PAVING)
    kind, colour = soil
    label = TERRAIN if kind == GRASS else SIDEWALK
    centre = np.broadcast_to(ring.mean(0), ring.shape)
    fabric.triangles(np.stack([ring, ring[nxt], centre], 1), label, colour, kind)


def _inward(ring: Array) -> Array:
    d = np.roll(ring, -1, 0) - np.roll(ring, 1, 0)
    n = np.stack([-d[:, 1], d[:, 0]], 1)
    return np.asarray(n / np.linalg.norm(n, axis=1, keepdims=True))


def _strip(fabric: MeshBuilder, line: Line, vertical: bool, span: tuple[float, float],
           style: int, colour: Array) -> None:
    """Add a carriageway between two crossings, in pieces short enough to bend."""
    n = max(2, int((span[1] - span[0]) / 6.0))
    along = np.linspace(*span, n + 1)
    u = along - span[0]
    a, b = (along[:-1], along[1:])
    low, high = line.at - line.low, line.at + line.high
    corners = np.zeros((n, 4, 3))
    first, second = (1, 0) if vertical else (0, 1)
    corners[:, [0, 3], first] = a[:, None]
    corners[:, [1, 2], first] = b[:, None]
    corners[:, [0, 1], second] = low
    corners[:, [2, 3], second] = high
    left = -1.0 if vertical else 1.0
    uv = np.zeros((n, 4, 2))
    uv[:, [0, 3], 0] = u[:-1, None]
    uv[:, [1, 2], 0] = u[1:, None]
    uv[:, [0, 1], 1] = -left * line.low
    uv[:, [2, 3], 1] = left * line.high
    fabric.quads(corners, ROAD, colour, STREET, style, uv)


def lay_ground(plan: Plan, fabric: MeshBuilder, styles: Styles, seed: int) -> None:
    """Add all ground of the plan to `fabric` (plan coordinates)."""
    rng = np.random.default_rng([seed, 2])
    m = plan.size
    grey = np.array([.205, .205, .21])
    walk_tone = rng.uniform(.85, 1.15) * np.array([.43, .42, .405])
    open_end = 6.0
    for axis, lines, across in ((0, plan.columns, plan.rows), (1, plan.rows, plan.columns)):
        for i in range(1, m):
            line = lines[i]
            for j in range(m):
                lo = across[j].at + (across[j].high if j else open_end)
                hi = across[j + 1].at - (across[j + 1].low if j + 1 < m else open_end)
                if (axis, *((i, j) if axis == 0 else (j, i))) in plan.closed:
                    _passage(fabric, line, axis == 0, (lo, hi), walk_tone)
                    continue
                zebra = rng.random(2) < .6
                left = -1.0 if axis == 0 else 1.0
                sides = (line.low, line.high) if left > 0 else (line.high, line.low)
                style = styles.add(hi - lo, line.lane, line.marks, sides[0], sides[1],
                                   zebra[0] and j > 0, zebra[1] and j + 1 < m, line.cobbled)
                _strip(fabric, line, axis == 0, (lo, hi), style, grey * line.tone)
    for i in range(1, m):
        for j in range(1, m):
            c, r = plan.columns[i], plan.rows[j]
            x, y = (c.at - c.low, c.at + c.high), (r.at - r.low, r.at + r.high)
            fabric.quads([[[x[0], y[0], 0], [x[1], y[0], 0], [x[1], y[1], 0], [x[0], y[1], 0]]],
                         ROAD, grey * (c.tone + r.tone) / 2, ASPHALT)
            _corners(fabric, x, y, grey * (c.tone + r.tone) / 2)
    for (i, j), kind in plan.blocks.items():
        bounds = plan.block(i, j)
        walk = (plan.columns[i].walk + plan.rows[j].walk) / 2
        slab(fabric, bounds, walk, walk_tone * rng.uniform(.9, 1.1), SOIL[kind])
    far = 400.0
    a, b = -far, max(plan.columns[-1].at, plan.rows[-1].at) + far
    fabric.quads([[[a, a, -.03], [b, a, -.03], [b, b, -.03], [a, b, -.03]]], TERRAIN,
                 (.22, .28, .14), PLAIN)


def _corners(fabric: MeshBuilder, x: tuple[float, float], y: tuple[float, float],
             colour: Array) -> None:
    """Add the asphalt between a crossing's square and its four rounded kerbs."""
    arc = np.linspace(0, np.pi / 2, 6)
    for sx, cx in ((-1, x[0]), (1, x[1])):
        for sy, cy in ((-1, y[0]), (1, y[1])):
            mid = np.array([cx + sx * CORNER_M, cy + sy * CORNER_M])
            bend = mid - CORNER_M * np.stack([sx * np.cos(arc), sy * np.sin(arc)], 1)
            pts = np.column_stack([bend, np.zeros(len(bend))])
            tip = np.broadcast_to([cx, cy, 0.0], pts[1:].shape)
            fabric.triangles(np.stack([tip, pts[:-1], pts[1:]], 1), ROAD, colour, ASPHALT)


def _passage(fabric: MeshBuilder, line: Line, vertical: bool, span: tuple[float, float],
             walk: Array) -> None:
    """Add the footway where a street is closed."""
    n = max(2, int((span[1] - span[0]) / 6.0))
    edges = np.linspace(*span, n + 1)
    low, high = line.at - line.low, line.at + line.high
    for a, b in itertools.pairwise(edges):
        ring = np.array([[a, low], [b, low], [b, high], [a, high]])
        ring = ring[:, ::-1] if vertical else ring
        fabric.quads([np.column_stack([ring, np.full(4, KERB_M - .005)])], SIDEWALK, walk, PAVING)
    for end in span:
        ring = np.array([[end, low], [end, high]])
        ring = ring[:, ::-1] if vertical else ring
        fabric.quads([[[*ring[0], 0], [*ring[1], 0], [*ring[1], KERB_M], [*ring[0], KERB_M]]],
                     SIDEWALK, (.5, .5, .5))
