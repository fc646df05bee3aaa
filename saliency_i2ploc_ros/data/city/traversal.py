"""One trip through a city: where the vehicle is when, the light, and everybody else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ...geometry.poses import planar
from .ground import rounded
from .mesh import joined, Mesh
from .plan import KERB_M, PARKING_M, Plan
from .route import lane_line, walk_nodes
from .vehicles import CLOTHES, PAINTS, person_templates, placed, vehicle_templates
from .weather import draw_weather, Weather
from .world import City, Layer, Scene

Array = NDArray[np.float64]

SPEED_MPS = 8.0
CARS_SEEN_M, PEOPLE_SEEN_M = 100.0, 60.0     # what moves further away is not drawn
START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Crowd:
    """
    Movers on closed or long paths: k movers, paths joined into one table.

    path: (n, 3) x, y, heading, a point each half metre. first, count: (k,) each mover's part of
    it. start, speed: (k,) metres, m/s (negative: backwards). bounce: (k,) runs to and fro
    instead of round. template: (k,); paint: (k, 3); z: height of the feet.
    """

    path: Array
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    start: Array
    speed: Array
    bounce: NDArray[np.bool_]
    template: NDArray[np.int64]
    paint: Array
    z: Array

    def at(self, seconds: float) -> Array:
        """Return where each mover is, (k, 3): x, y, heading."""
        s = (self.start + self.speed * seconds) / 0.5
        back = self.speed < 0
        lap = np.where(self.bounce, 2 * self.count - 2, self.count)
        k = np.floor(s).astype(np.int64) % np.maximum(lap, 1)
        returning = self.bounce & (k >= self.count)
        k = np.where(returning, np.maximum(lap - k, 0), k)
        p = self.path[self.first + np.minimum(k, self.count - 1)].copy()
        along = np.where(returning, -1, 1) * np.where(back, -1, 1)
        part = (s - np.floor(s)) * 0.5 * np.where(returning, -1, 1)
        p[:, 0] += part * np.cos(p[:, 2])
        p[:, 1] += part * np.sin(p[:, 2])
        p[:, 2] += np.where(along < 0, np.pi, 0.0)
        return p


@dataclass(frozen=True)
class Traversal:
    """
    One trip. stamps_ns (n,) and T_map_base (n, 4, 4) of its frames; the rest makes its scenes.

    index: its number, which seeds all that differs between trips of one city.
    """

    city: City
    index: int
    stamps_ns: NDArray[np.int64]
    T_map_base: Array
    weather: Weather
    static: Layer
    crowd: Crowd
    templates: list[Mesh]

    def scene(self, frame: int) -> Scene:
        """Return the city as it is at a frame, with what moves near the vehicle."""
        seconds = float(self.stamps_ns[frame] - self.stamps_ns[0]) * 1e-9
        where = self.crowd.at(seconds)
        d = np.linalg.norm(where[:, :2] - self.T_map_base[frame, :2, 3], axis=1)
        is_car = self.crowd.template < 7
        # Nobody comes so close that the vehicle would touch him: he is left out meanwhile.
        room = np.where(is_car, np.where(self.crowd.template > 4, 11.0, 7.5), 3.0)
        near = (d < np.where(is_car, CARS_SEEN_M, PEOPLE_SEEN_M)) & (d > room)
        parts = []
        for kind in np.unique(self.crowd.template[near]):
            rows = np.flatnonzero(near & (self.crowd.template == kind))
            parts.append(placed(self.templates[kind], where[rows], self.crowd.z[rows],
                                self.crowd.paint[rows]))
        if not parts:
            return Scene(self.static)
        middle = np.array([0.0, 0.0, 1.2])
        radii = np.array([np.linalg.norm(t.vertices - middle, axis=2).max()
                          for t in self.templates])
        rows = np.flatnonzero(near)
        balls = np.column_stack([where[rows, :2], self.crowd.z[rows] + 1.2,
                                 radii[self.crowd.template[rows]] + .05])
        return Scene(self.static, Layer(joined(parts), balls))


def make_traversal(city: City, index: int, length_m: float, step_m: float = 1.6,
                   reverse: bool = False, cars_per_km: float = 16.0,
                   people_per_km: float = 14.0, weather: str | None = None) -> Traversal:
    """
    Return trip `index` of a city, at least two steps long; all trips take the same streets.

    reverse: from the end to the start, on the other side. cars_per_km, people_per_km: moving
    ones by length of street. weather: one of weather.KINDS, or None for any.
    """
    nodes = walk_nodes(city.plan, np.random.default_rng([city.seed, 4]), length_m)
    rng = np.random.default_rng([city.seed, 5, index])
    if reverse:
        nodes = nodes[::-1]
    shift = float(rng.uniform(-.35, .35)) if index else 0.0
    line = lane_line(city.plan, nodes, shift)
    if reverse:
        # The same stretch as forwards: what was cut off the end then is cut off the start now.
        line = line[max(0, len(line) - int(length_m / 0.5)):]
    poses = _poses(line, rng, length_m, step_m)
    pace = gaussian_filter1d(rng.normal(0, 1, len(poses)), 12.0) * 6.0
    speed = np.clip(SPEED_MPS + pace, 4.0, 12.0)
    stamps = START_NS + index * 86_400_000_000_000 + np.round(
        np.concatenate([[0.0], np.cumsum(step_m / speed[:-1])]) * 1e9).astype(np.int64)
    seconds = float(stamps[-1] - stamps[0]) * 1e-9
    vehicles = vehicle_templates()
    templates = vehicles + person_templates(np.random.default_rng([city.seed, 6]))
    crowd = _crowd(city.plan, rng, seconds, cars_per_km, people_per_km, line, len(templates))
    parked = _parked(city.plan, rng, vehicles)
    static = Layer(joined([city.mesh, *parked]))
    sky = draw_weather(np.random.default_rng([city.seed, 7, index]), weather)
    return Traversal(city, index, stamps, poses, sky, static, crowd, templates)


def _poses(line: Array, rng: np.random.Generator, length_m: float, step_m: float) -> Array:
    """Return poses along the line, swaying by some decimetres as drivers do."""
    n = min(int(length_m / step_m), int((len(line) - 1) * 0.5 / step_m))
    s = np.arange(n) * step_m
    at = np.arange(len(line)) * 0.5
    sway = gaussian_filter1d(rng.normal(0, 1, n), 14.0, mode='nearest')
    sway = 0.15 * sway / max(sway.std(), 1e-6)
    x, y, yaw = (np.interp(s, at, line[:, k]) for k in range(3))
    tilt = np.arctan(np.gradient(sway) / step_m) if n > 1 else np.zeros(n)
    return np.stack([planar(x[k] - sway[k] * np.sin(yaw[k]), y[k] + sway[k] * np.cos(yaw[k]),
                            yaw[k] + tilt[k]) for k in range(n)])


def _streets(plan: Plan) -> list[tuple[int, int, int]]:
    """Return the open pieces of street, as (axis, i, j) of Plan.closed."""
    m = plan.size
    pieces = [(0, i, j) for i in range(1, m) for j in range(m)]
    pieces += [(1, i, j) for i in range(m) for j in range(1, m)]
    return [p for p in pieces if p not in plan.closed]


def _parked(plan: Plan, rng: np.random.Generator, vehicles: list[Mesh]) -> list[Mesh]:
    """Return the parked cars of this trip."""
    rows: list[tuple[float, float, float]] = []
    for axis, i, j in _streets(plan):
        line = plan.columns[i] if axis == 0 else plan.rows[j]
        across = plan.rows if axis == 0 else plan.columns
        k = j if axis == 0 else i
        a, b = across[k].at + across[k].high + 10.0, across[k + 1].at - across[k + 1].low - 10.0
        full = rng.uniform(.2, .9)
        for side, kerb in ((-1, line.low), (1, line.high)):
            if kerb < line.lane + PARKING_M - .1:
                continue
            at = a + rng.uniform(0, 3)
            while at < b:
                if rng.random() < full:
                    across_at = line.at + side * (kerb - 1.15 + rng.normal(0, .10))
                    p = (across_at, at) if axis == 0 else (at, across_at)
                    # Right-hand traffic: on a column the high side heads up, on a row down.
                    heading = np.pi / 2 * side if axis == 0 else (np.pi if side > 0 else 0.0)
                    yaw = plan.warp.heading(p, heading) + rng.normal(0, .02)
                    rows.append((*plan.warp(p), yaw))
                at += float(rng.uniform(5.3, 6.6))
    if not rows:
        return []
    table = np.array(rows)
    kinds = rng.choice(5, len(table), p=[.3, .25, .2, .16, .09])
    paint = _paints(rng, len(table))
    return [placed(vehicles[k], table[kinds == k], np.zeros((kinds == k).sum()),
                   paint[kinds == k]) for k in range(5) if (kinds == k).any()]


def _paints(rng: np.random.Generator, count: int) -> Array:
    chosen = PAINTS[rng.integers(len(PAINTS), size=count)]
    return np.asarray(np.clip(chosen * rng.uniform(.8, 1.2, (count, 1))
                              + rng.normal(0, .015, (count, 3)), .02, .9))


def _crowd(plan: Plan, rng: np.random.Generator, seconds: float, cars_per_km: float,
           people_per_km: float, line: Array, templates: int) -> Crowd:
    """Return all who move: cars ahead on the vehicle's own way, other cars, people."""
    m = plan.size
    street_km = sum(abs(p) for p in (plan.columns[-1].at * (m - 1), plan.rows[-1].at * (m - 1)))
    street_km /= 1000.0
    paths: list[Array] = []
    movers: list[tuple[int, float, float, bool, int]] = []
    for _ in range(round(cars_per_km * street_km)):
        speed = float(rng.uniform(5.0, 10.5))
        nodes = walk_nodes(plan, rng, min(speed * seconds + 60.0, 3000.0))
        paths.append(lane_line(plan, nodes, float(rng.uniform(-.3, .3))))
        kind = int(rng.choice(7, p=[.26, .24, .2, .14, .08, .05, .03]))
        movers.append((len(paths) - 1, 0.0, speed, True, kind))
    if cars_per_km > 0:
        paths.append(line)
        at = float(rng.uniform(14, 60))
        while at < len(line) * .5 - 20:
            # Those ahead on the same way keep the vehicle's mean speed, so some stay in view.
            movers.append((len(paths) - 1, at, SPEED_MPS * float(rng.uniform(.97, 1.06)), True,
                           int(rng.choice(7, p=[.26, .24, .2, .14, .08, .05, .03]))))
            at += float(rng.uniform(60, 400)) * 16.0 / max(cars_per_km, 1.0)
    _people(plan, rng, paths, movers, people_per_km * 2.0, templates)
    first = np.concatenate([[0], np.cumsum([len(p) for p in paths])]).astype(np.int64)
    table = np.array(movers, float).reshape(-1, 5)
    which = table[:, 0].astype(np.int64)
    kinds = table[:, 4].astype(np.int64)
    is_car = kinds < 7
    z = np.where(is_car, 0.0, KERB_M)
    z[(~is_car) & table[:, 3].astype(bool)] = 0.0
    paint = np.where(is_car[:, None], _paints(rng, len(table)),
                     CLOTHES[rng.integers(len(CLOTHES), size=len(table))])
    counts = np.array([len(p) for p in paths] or [0], np.int64)
    return Crowd(np.concatenate(paths) if paths else np.zeros((0, 3)), first[which], counts[which],
                 table[:, 1], table[:, 2], table[:, 3].astype(bool), kinds, paint, z)


def _people(plan: Plan, rng: np.random.Generator, paths: list[Array],
            movers: list[tuple[int, float, float, bool, int]], per_km: float,
            templates: int) -> None:
    """Add people who walk round blocks on the pavement, and some who cross at crossings."""
    for key in plan.blocks:
        walk = (plan.columns[key[0]].walk + plan.rows[key[1]].walk) / 2
        x0, x1, y0, y1 = plan.block(*key)
        length = 2 * (x1 - x0 + y1 - y0)
        for _ in range(rng.poisson(per_km * length / 1000.0)):
            inset = walk * float(rng.uniform(.35, .8))
            ring = rounded(x0 + inset, x1 - inset, y0 + inset, y1 - inset, 2.0, 3.0)
            paths.append(_closed(plan.warp(ring)))
            speed = float(rng.choice([-1, 1]) * rng.uniform(.8, 1.7) * (rng.random() < .85))
            movers.append((len(paths) - 1, float(rng.uniform(0, length)), speed, False,
                           int(rng.integers(7, templates - 2))))
    for axis, i, j in _streets(plan):
        if rng.random() < min(.04 * per_km, .9):
            line = plan.columns[i] if axis == 0 else plan.rows[j]
            across = plan.rows if axis == 0 else plan.columns
            k = j if axis == 0 else i
            at = across[k].at + across[k].high + CROSS_AT_M + float(rng.uniform(-.8, .8))
            ends = np.array([[line.at - line.low, at], [line.at + line.high, at]])
            ends = ends if axis == 0 else ends[:, ::-1]
            paths.append(_closed(plan.warp(np.linspace(ends[0], ends[1], 40)))[:-4])
            movers.append((len(paths) - 1, float(rng.uniform(0, 20)), float(rng.uniform(.6, 1.5)),
                           True, int(rng.integers(7, templates - 2))))


CROSS_AT_M = 6.5        # middle of a zebra crossing, from the edge of the crossing's square


def _closed(points: Array) -> Array:
    """Return x, y, heading each half metre along points (n, 2)."""
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.arange(0.0, max(s[-1], .6), 0.5)
    x, y = np.interp(at, s, points[:, 0]), np.interp(at, s, points[:, 1])
    heading = np.arctan2(np.gradient(y), np.gradient(x))
    return np.column_stack([x, y, heading])
