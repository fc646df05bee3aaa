"""Ways through the streets: which crossings to pass, and the lane's line on the map."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ...errors import InputError
from .plan import Plan

Array = NDArray[np.float64]


def walk_nodes(plan: Plan, rng: np.random.Generator, length_m: float) -> list[tuple[int, int]]:
    """Return crossings of a way of at least `length_m`, new streets first, never turning back."""
    m = plan.size
    start = (int(rng.integers(1, m)), int(rng.integers(1, m)))
    nodes = [start]
    used: dict[frozenset[tuple[int, int]], int] = {}
    far = 0.0
    # Rounded corners cut a way short, and the warp may: some more than is asked for.
    while far < 1.15 * length_m + 80.0:
        here = nodes[-1]
        options = [n for n in plan.neighbours(here) if len(nodes) < 2 or n != nodes[-2]]
        if not options:
            options = plan.neighbours(here)
        if not options:
            raise InputError('the city has no streets to drive: ask for more blocks')
        count = np.array([used.get(frozenset((here, n)), 0) for n in options])
        best = [n for n, c in zip(options, count, strict=True) if c == count.min()]
        step = best[rng.integers(len(best))]
        used[frozenset((here, step))] = used.get(frozenset((here, step)), 0) + 1
        far += (abs(plan.columns[step[0]].at - plan.columns[here[0]].at)
                + abs(plan.rows[step[1]].at - plan.rows[here[1]].at))
        nodes.append(step)
    return nodes


def lane_line(plan: Plan, nodes: list[tuple[int, int]], shift: float = 0.0,
              step: float = 0.5) -> Array:
    """
    Return the way's line on the map, (n, 3): x, y, heading, a point each `step` metres.

    It keeps to the right-hand lane, `shift` metres further right, and rounds the corners.
    """
    corners = np.array([[plan.columns[i].at, plan.rows[j].at] for i, j in nodes])
    offsets, ways = [], []
    for (i, j), (k, l) in itertools.pairwise(nodes):
        line = plan.rows[j] if j == l else plan.columns[i]
        offsets.append(line.lane_offset + shift)
        ways.append(np.sign([k - i, l - j]).astype(float))
    right = [np.array([w[1], -w[0]]) for w in ways]
    points = [corners[0] + offsets[0] * right[0]]
    for k in range(1, len(ways)):
        c = corners[k]
        if abs(ways[k - 1] @ ways[k]) > .5:
            points.append(c + offsets[k] * right[k])
            continue
        corner = c + offsets[k - 1] * right[k - 1] + offsets[k] * right[k]
        turns_left = ways[k - 1][0] * ways[k][1] - ways[k - 1][1] * ways[k][0] > 0
        r = 9.0 if turns_left else 6.5
        a = np.linspace(0, np.pi / 2, 12)
        centre = corner - r * ways[k - 1] + r * ways[k]
        points += [centre - r * ways[k] * np.cos(t) + r * ways[k - 1] * np.sin(t) for t in a]
    points.append(corners[-1] + offsets[-1] * right[-1])
    dense = _resampled(np.array(points), step)
    line_xy = _resampled(plan.warp(dense), step)
    smooth = gaussian_filter1d(line_xy, 2.5 / step, axis=0, mode='nearest')
    keep = int(8.0 / step)
    smooth = _resampled(smooth[keep:-keep], step)
    d = np.gradient(smooth, axis=0)
    return np.column_stack([smooth, np.unwrap(np.arctan2(d[:, 1], d[:, 0]))])


def _resampled(points: Array, step: float) -> Array:
    """Return the polyline (n, 2) with a point every `step` metres."""
    seg = np.linalg.norm(np.diff(points, axis=0), axis=1)
    keep = np.concatenate([[True], seg > 1e-9])
    points = points[keep]
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.arange(0.0, s[-1], step)
    return np.stack([np.interp(at, s, points[:, k]) for k in range(2)], 1)
