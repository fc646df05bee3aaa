"""
The plan of a city: street lines, blocks and what stands in them, before anything is built.

The plan is drawn on a plain grid of lines ("plan coordinates") and bent smoothly into the map, so
that streets wind and blocks differ while neighbouring pieces still meet exactly. Streets run along
the inner lines; lines 0 and m are the rim of the world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CORNER_M = 4.5          # radius of a kerb at a crossing
PARKING_M = 2.2         # width of a parking lane
KERB_M = 0.12
KINDS = ('terrace', 'villa', 'office', 'tower', 'park', 'industry', 'estate', 'square')


@dataclass(frozen=True)
class Warp:
    """A smooth bending of the plane: plan coordinates to map coordinates, in metres."""

    waves: Array         # (k, 2) wave vectors, rad/m
    phases: Array        # (k,)
    shifts: Array        # (k, 2) metres
    yaw: float

    def __call__(self, points: ArrayLike) -> Array:
        """Return plan points (..., 2) on the map."""
        p = np.asarray(points, float)
        bent = p + np.sin(p @ self.waves.T + self.phases) @ self.shifts
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.asarray(bent @ np.array([[c, s], [-s, c]]))

    def heading(self, point: ArrayLike, yaw: float) -> float:
        """Return the direction on the map of the plan direction `yaw` at a plan point (2,)."""
        p = np.asarray(point, float)
        step = 0.05 * np.array([np.cos(yaw), np.sin(yaw)])
        d = self(p + step) - self(p - step)
        return float(np.arctan2(d[1], d[0]))


@dataclass(frozen=True)
class Line:
    """
    One street line of the plan.

    at: its place across, plan metres. lane: half the driven width. low, high: kerbs below and
    above it (positive widths); a parking lane lies between lane and kerb where low or high exceeds
    lane. walk: width of its pavements. trees: spacing of its trees, 0 for none. marks: 0 none,
    1 dashed, 2 solid. tone: brightness of its asphalt; cobbled: setts instead.
    """

    at: float
    lane: float
    low: float
    high: float
    walk: float
    trees: float
    marks: int
    tone: float
    cobbled: bool

    @property
    def lane_offset(self) -> float:
        """Return how far right of the line its right-hand lane's middle is."""
        return self.lane * (0.25 if self.lane > 5.0 else 0.5)


@dataclass(frozen=True)
class Plan:
    """
    The lines across x (`columns`) and y (`rows`), m + 1 each, and what stands between them.

    closed: streets that were built over, as (axis, i, j): axis 0 is the piece of column i between
    rows j and j + 1, axis 1 that of row j between columns i and i + 1. blocks: kind by (i, j), the
    block between columns i, i + 1 and rows j, j + 1.
    """

    columns: list[Line]
    rows: list[Line]
    warp: Warp
    closed: frozenset[tuple[int, int, int]]
    blocks: dict[tuple[int, int], str]

    @property
    def size(self) -> int:
        """Return m, the number of blocks along one side."""
        return len(self.columns) - 1

    def neighbours(self, node: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the crossings that a street joins to this one; the rim has none."""
        i, j = node
        m = self.size
        steps = [((i + 1, j), (1, i, j)), ((i - 1, j), (1, i - 1, j)),
                 ((i, j + 1), (0, i, j)), ((i, j - 1), (0, i, j - 1))]
        return [n for n, edge in steps
                if edge not in self.closed and 0 < n[0] < m and 0 < n[1] < m]

    def block(self, i: int, j: int) -> tuple[float, float, float, float]:
        """Return a block's kerbs x0, x1, y0, y1 in plan metres."""
        c, r = self.columns, self.rows
        return (c[i].at + c[i].high, c[i + 1].at - c[i + 1].low,
                r[j].at + r[j].high, r[j + 1].at - r[j + 1].low)


def _lines(rng: np.random.Generator, m: int) -> list[Line]:
    spacing = rng.uniform(62.0, 112.0, m)
    spacing[[0, -1]] = 48.0
    places = np.concatenate([[0.0], np.cumsum(spacing)])
    lines = []
    for at in places:
        lane = float(rng.choice([2.8, 3.2, 3.5, 6.6], p=[0.2, 0.3, 0.32, 0.18]))
        parking = rng.random(2) < (0.72 if lane < 6.0 else 0.4)
        lines.append(Line(
            float(at), lane, lane + PARKING_M * parking[0], lane + PARKING_M * parking[1],
            float(rng.uniform(2.2, 4.6)), float(rng.choice([0.0, 0.0, 8.0, 11.0, 15.0])),
            int(rng.choice([0, 1, 2], p=[0.25, 0.6, 0.15])) if lane < 6 else 2,
            float(rng.uniform(0.75, 1.25)), bool(lane < 3.0 and rng.random() < 0.5)))
    return lines


def make_plan(seed: int, blocks: int) -> Plan:
    """Return the plan of city `seed` with blocks x blocks blocks inside its outermost streets."""
    rng = np.random.default_rng([seed, 1])
    m = blocks + 2
    columns, rows = _lines(rng, m), _lines(rng, m)
    k = 6
    lengths = rng.uniform(130.0, 480.0, k)
    angles = rng.uniform(0, 2 * np.pi, k)
    waves = 2 * np.pi / lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    turns = rng.uniform(0, 2 * np.pi, k)
    reach = lengths * rng.uniform(0.012, 0.024, k)
    shifts = reach[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)
    warp = Warp(waves, rng.uniform(0, 2 * np.pi, k), shifts, float(rng.uniform(-np.pi, np.pi)))
    closed = _close_some(rng, m)
    kinds = _kinds(rng, m)
    return Plan(columns, rows, warp, closed, kinds)


def _close_some(rng: np.random.Generator, m: int) -> frozenset[tuple[int, int, int]]:
    """Close about one street in nine, leaving at each crossing three of its four arms."""
    edges = [(0, i, j) for i in range(1, m) for j in range(1, m - 1)]
    edges += [(1, i, j) for i in range(1, m - 1) for j in range(1, m)]
    rng.shuffle(edges)
    touched: set[tuple[int, int]] = set()
    closed = []
    for axis, i, j in edges[:len(edges) // 6]:
        ends = {(i, j), (i, j + 1) if axis == 0 else (i + 1, j)}
        inner = all(1 < a < m - 1 and 1 < b < m - 1 for a, b in ends)
        if not ends & touched and inner:
            closed.append((axis, int(i), int(j)))
            touched |= ends
    return frozenset(closed)


def _kinds(rng: np.random.Generator, m: int) -> dict[tuple[int, int], str]:
    """Return a kind for every block: quarters by a centre and a wind, chance inside them."""
    centre = rng.uniform(0.25, 0.75, 2) * m
    wind = rng.uniform(0, 2 * np.pi)
    kinds = {}
    for i in range(m):
        for j in range(m):
            d = np.array([i + 0.5, j + 0.5]) - centre
            near = np.exp(-(d @ d) / (0.22 * m) ** 2)
            side = 0.5 + 0.5 * np.tanh(2 * (d @ [np.cos(wind), np.sin(wind)]) / m)
            weights = np.array([1.0, 1.1 * (1 - near) * (1.3 - side), 0.35 + 1.2 * near,
                                0.1 + 0.9 * near, 0.35, 0.7 * side * (1 - near),
                                0.45 * (1 - near), 0.14])
            kinds[i, j] = str(rng.choice(KINDS, p=weights / weights.sum()))
    return kinds
