"""Buildings: houses, offices, towers, halls, each on its lot."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .mesh import BUILDING, FACADE, FENCE, GLASS, Local, MESHWIRE, PLAIN, ROOF, WALL

Array = NDArray[np.float64]
Span = tuple[float, float]

PLASTER = np.array([[.78, .74, .65], [.82, .78, .72], [.72, .60, .44], [.80, .70, .48],
                    [.62, .50, .42], [.70, .72, .70], [.80, .62, .52], [.58, .62, .60],
                    [.84, .82, .78], [.66, .68, .58], [.72, .50, .38], [.55, .58, .64]])
BRICK = np.array([[.46, .23, .17], [.52, .30, .22], [.40, .22, .18], [.56, .40, .30],
                  [.60, .50, .38], [.36, .27, .24]])
CONCRETE = np.array([[.58, .57, .55], [.66, .65, .62], [.48, .48, .49], [.70, .66, .60],
                     [.36, .38, .41]])
TILES = np.array([[.48, .21, .14], [.40, .18, .13], [.28, .26, .27], [.20, .20, .22],
                  [.36, .28, .23], [.52, .29, .19]])
TRIM = np.array([[.86, .86, .84], [.82, .80, .74], [.30, .22, .17], [.18, .20, .22],
                 [.70, .66, .60], [.22, .30, .26]])

STYLE_COLUMNS = 20


class Styles:
    """The style table under construction: rows of STYLE_COLUMNS numbers."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = [[0.0] * STYLE_COLUMNS]

    def add(self, *values: Any) -> int:
        """Append a row, padded with zeros, and return its number."""
        self.rows.append([*map(float, values), *[0.0] * (STYLE_COLUMNS - len(values))])
        return len(self.rows) - 1

    def table(self) -> NDArray[np.float32]:
        """Return the table (rows, STYLE_COLUMNS)."""
        return np.array(self.rows, np.float32)


class Facade:
    """A wall's look: colour, style row, floor height and bay width in metres."""

    def __init__(self, rng: np.random.Generator, styles: Styles, look: str, floors: int,
                 shop: bool = False) -> None:
        self.floors = floors
        self.floor_m = float(rng.uniform(2.8, 3.5) + (0.3 if look in ('glass', 'strip') else 0))
        self.bay_m = float(rng.uniform(2.2, 3.8))
        pattern = {'plaster': 0, 'brick': 1, 'siding': 2, 'panel': 3, 'glass': 4, 'strip': 3,
                   'metal': 5}[look]
        palette = {'brick': BRICK, 'panel': CONCRETE, 'strip': CONCRETE, 'glass': CONCRETE,
                   'metal': CONCRETE}.get(look, PLASTER)
        self.colour = np.clip(palette[rng.integers(len(palette))]
                              * rng.uniform(0.85, 1.12) + rng.normal(0, 0.025, 3), 0.05, 0.9)
        wide, tall = rng.uniform(0.30, 0.56), rng.uniform(0.46, 0.66)
        if look == 'strip':
            self.bay_m, wide, tall = float(rng.uniform(3.5, 6.0)), 0.97, rng.uniform(0.42, 0.55)
        elif look == 'glass':
            self.bay_m, wide, tall = float(rng.uniform(1.4, 2.4)), 0.90, rng.uniform(0.74, 0.9)
        elif look == 'metal':
            self.bay_m, wide, tall = float(rng.uniform(5, 9)), 0.6, 0.18
        trim = TRIM[rng.integers(len(TRIM))]
        glass = np.array([.10, .13, .16]) + rng.uniform(0, .09) * np.array([.6, .9, 1.2])
        self.plain_style = styles.add(0, 0, 0, pattern)
        self.style = styles.add(
            wide, tall, rng.uniform(0.5, 0.58), pattern, self.bay_m, self.floor_m, shop, *trim,
            *glass, rng.choice([0, 0, .06, .15]), rng.integers(0, 3),
            rng.random() < 0.35 or look == 'panel', floors, rng.integers(1 << 16),
            rng.random() < 0.22 and look in ('plaster', 'siding'), rng.random() < 0.4)

    @property
    def height(self) -> float:
        """Return the height of all floors, in metres."""
        return self.floors * self.floor_m


def wall(place: Local, a: ArrayLike, b: ArrayLike, z: Span, facade: Facade,
         windows: bool = True, label: int = BUILDING) -> None:
    """Add an upright wall from a to b (2,), its windows fitted to its length."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    length = float(np.linalg.norm(b - a))
    corners = np.array([[*a, z[0]], [*b, z[0]], [*b, z[1]], [*a, z[1]]])
    if windows and length > 1.6:
        bays = max(1, round(length / facade.bay_m))
        f0, f1 = round(z[0] / facade.floor_m), z[1] / facade.floor_m
        uv = np.array([[0, f0], [bays, f0], [bays, f1], [0, f1]], float)
        place.quad(corners, label, facade.colour, FACADE, facade.style, uv)
    else:
        uv = np.array([[0, z[0]], [length, z[0]], [length, z[1]], [0, z[1]]], float)
        place.quad(corners, label, facade.colour, WALL, facade.plain_style, uv)


def body(place: Local, x: Span, y: Span, z: Span, facade: Facade,
         blind: tuple[bool, bool] = (False, False)) -> None:
    """Add the four walls of a box; `blind` leaves the side walls (low x, high x) windowless."""
    (x0, x1), (y0, y1) = x, y
    wall(place, (x0, y0), (x1, y0), z, facade)
    wall(place, (x1, y0), (x1, y1), z, facade, not blind[1])
    wall(place, (x1, y1), (x0, y1), z, facade)
    wall(place, (x0, y1), (x0, y0), z, facade, not blind[0])


def roof(place: Local, x: Span, y: Span, z: float, rise: float, shape: str, colour: ArrayLike,
         facade: Facade, over: float = 0.35) -> None:
    """Add a roof: 'gable' (ridge along x), 'front' (ridge along y), 'hip' or 'mansard'."""
    if shape == 'front':
        turned = Local(place.builder, [0, 0], 0.0)
        turned.axes = place.axes[[1, 0, 2]]
        turned.origin = place.origin
        roof(turned, y, x, z, rise, 'gable', colour, facade, over)
        return
    (x0, x1), (y0, y1) = x, y
    ym, top, low = (y0 + y1) / 2, z + rise, z - over * rise / max((y1 - y0) / 2, 0.1)
    if shape == 'mansard':
        s = min(1.3, 0.22 * (y1 - y0))
        ring, inner = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], \
            [(x0, y0 + s), (x1, y0 + s), (x1, y1 - s), (x0, y1 - s)]
        for k in range(4):
            a, b, c, d = ring[k], ring[(k + 1) % 4], inner[(k + 1) % 4], inner[k]
            place.quad([[*a, z], [*b, z], [*c, top], [*d, top]], BUILDING, colour, ROOF, 0,
                       [[a[0], 0], [b[0] + b[1] - a[1], 0], [c[0], rise], [d[0], rise]])
        place.quad([[*p, top] for p in inner], BUILDING, np.asarray(colour) * 0.8)
        return
    inset = min((y1 - y0) / 2, (x1 - x0) / 2 - 0.1) if shape == 'hip' else 0.0
    ends = over if shape == 'hip' else 0.15
    a0, a1 = x0 - ends, x1 + ends
    r0, r1 = x0 + inset, x1 - inset
    run = float(np.hypot((y1 - y0) / 2 + over, top - low))
    uv = [[a0, 0], [a1, 0], [r1, run], [r0, run]]
    if shape == 'gable':
        r0, r1 = a0, a1
    place.quad([[[a0, y0 - over, low], [a1, y0 - over, low], [r1, ym, top], [r0, ym, top]],
                [[a0, y1 + over, low], [a1, y1 + over, low], [r1, ym, top], [r0, ym, top]]],
               BUILDING, colour, ROOF, 0, [uv, uv])
    if shape == 'hip':
        tris = [[[a, y0 - over, low], [a, y1 + over, low], [r, ym, top]]
                for a, r in ((a0, r0), (a1, r1))]
        place.triangles(tris, BUILDING, colour, ROOF)
    else:
        tris = [[[a, y0, z], [a, y1, z], [a, ym, top]] for a in (x0, x1)]
        place.triangles(tris, BUILDING, facade.colour, WALL, facade.plain_style)


def flat_roof(place: Local, rng: np.random.Generator, x: Span, y: Span, z: float,
              facade: Facade, clutter: bool = True) -> None:
    """Add a flat roof with a parapet and, perhaps, lift houses and machines."""
    (x0, x1), (y0, y1) = x, y
    place.quad([[x0, y0, z - .05], [x1, y0, z - .05], [x1, y1, z - .05], [x0, y1, z - .05]],
               BUILDING, (.32, .32, .33))
    up = rng.uniform(0.3, 1.0)
    rim = facade.colour * 0.9
    for a, b in (((x0 - .1, x1 + .1), (y0 - .1, y0 + .2)), ((x0 - .1, x1 + .1), (y1 - .2, y1)),
                 ((x0 - .1, x0 + .2), (y0, y1)), ((x1 - .2, x1 + .1), (y0, y1))):
        place.box(a, b, (z - .3, z + up), BUILDING, rim)
    if not clutter:
        return
    for _ in range(rng.integers(1, 4)):
        w, d, h = rng.uniform([1.5, 1.5, 1.2], [5.0, 5.0, 3.4])
        if w + 2 < x1 - x0 and d + 2 < y1 - y0:
            a, b = rng.uniform(x0 + 1, x1 - w - 1), rng.uniform(y0 + 1, y1 - d - 1)
            place.box((a, a + w), (b, b + d), (z, z + h), BUILDING, rim * rng.uniform(.6, 1.1))
    if rng.random() < 0.3:
        place.round(rng.uniform(x0 + 1, x1 - 1), (y0 + y1) / 2, 0.09, z, z + rng.uniform(4, 9),
                    BUILDING, (.5, .5, .5), sides=4)


def front_parts(place: Local, rng: np.random.Generator, x: Span, y0: float, facade: Facade,
                kind: str) -> None:
    """Add what juts out of a front at y0 (towards negative y): bays, balconies, awnings, steps."""
    width = x[1] - x[0]
    bays = max(1, round(width / facade.bay_m))
    bay = width / bays
    dark = np.array([.22, .22, .23])
    if kind == 'balconies':
        every = int(rng.integers(1, 3))
        deep = float(rng.uniform(0.9, 1.5))
        cloth = TRIM[rng.integers(len(TRIM))] * rng.uniform(.7, 1.)
        for floor in range(1, facade.floors):
            for k in range(int(rng.integers(0, 2)), bays, every + 1):
                a, z = x[0] + (k + .06) * bay, floor * facade.floor_m
                b = min(a + bay * rng.choice([.9, .9, 1.8]), x[1])
                place.box((a, b), (y0 - deep, y0), (z - .15, z), BUILDING, facade.colour * .8)
                place.box((a, b), (y0 - deep, y0 - deep + .06), (z, z + 1.0), BUILDING, cloth)
                for e in (a, b - .06):
                    place.box((e, e + .06), (y0 - deep, y0), (z, z + 1.0), BUILDING, cloth)
    elif kind == 'oriel':
        k = int(rng.integers(0, bays))
        a = x[0] + k * bay
        b = min(a + bay * rng.choice([1.0, 1.6]), x[1])
        z0, z1 = facade.floor_m, facade.height * rng.choice([.98, 1.12])
        deep = float(rng.uniform(.7, 1.3))
        body(place, (a, b), (y0 - deep, y0 + .1), (z0, z1), facade)
        place.prism([(a, y0 - deep), (b, y0 - deep), (b, y0 + .4), (a, y0 + .4)], z1,
                    z1 + rng.uniform(.3, 2.2), BUILDING, TILES[rng.integers(len(TILES))],
                    shrink=.25)
    elif kind == 'awning':
        cloth = rng.uniform(.15, .75, 3)
        z = facade.floor_m * .82
        for k in range(bays):
            if rng.random() < .75:
                a = x[0] + (k + .08) * bay
                b = a + bay * .84
                d = float(rng.uniform(.9, 1.6))
                place.quad([[a, y0, z], [b, y0, z], [b, y0 - d, z - .5], [a, y0 - d, z - .5]],
                           BUILDING, cloth)
        if rng.random() < .6:
            a = rng.uniform(x[0] + .3, x[1] - 1)
            place.box((a, a + .12), (y0 - 1.1, y0 - .1), (z + .3, z + 1.2), BUILDING,
                      rng.uniform(.1, .9, 3))
    elif kind == 'canopy':
        a = x[0] + width * rng.uniform(.25, .5)
        b, d = a + rng.uniform(3, 6), rng.uniform(1.8, 3.2)
        place.box((a, b), (y0 - d, y0), (3.1, 3.4), BUILDING, dark)
        for e in (a + .2, b - .2):
            place.round(e, y0 - d + .2, .12, 0, 3.1, BUILDING, dark, sides=5)
    elif kind == 'arcade':
        for k in range(bays + 1):
            e = min(x[0] + k * bay, x[1] - .3)
            place.box((e, e + .45), (y0 - 2.2, y0 - 1.75), (0, facade.floor_m), BUILDING,
                      facade.colour * .9)
        place.box(x, (y0 - 2.3, y0), (facade.floor_m, facade.floor_m + .6), BUILDING,
                  facade.colour * .85)


def house(place: Local, rng: np.random.Generator, styles: Styles, x: Span, y: Span,
          floors: int, attached: bool) -> None:
    """Add a town house or villa with a roof, chimneys, dormers and parts of its front."""
    look = str(rng.choice(['plaster', 'brick', 'siding'], p=[.6, .3, .1]))
    shop = attached and rng.random() < 0.3
    facade = Facade(rng, styles, look, floors, shop)
    z = facade.height
    body(place, x, y, (0.0, z), facade, (attached, attached))
    width, depth = x[1] - x[0], y[1] - y[0]
    shape = str(rng.choice(['gable', 'front', 'mansard', 'flat'] if attached
                           else ['gable', 'front', 'hip', 'flat'], p=[.5, .22, .16, .12]
                           if attached else [.36, .24, .3, .1]))
    tiles = TILES[rng.integers(len(TILES))] * rng.uniform(.8, 1.2)
    if shape == 'flat':
        flat_roof(place, rng, x, y, z, facade, attached)
        rise = 0.0
    else:
        half = width / 2 if shape == 'front' else depth / 2
        rise = float(rng.uniform(1.8, 3.2)) if shape == 'mansard' \
            else half * float(rng.uniform(.55, 1.05))
        roof(place, x, y, z, rise, shape, tiles, facade)
        for _ in range(rng.integers(0, 3)):
            a = rng.uniform(x[0] + .4, x[1] - 1.2)
            b = rng.uniform(.35, .65) * depth + y[0]
            place.box((a, a + .7), (b, b + .7), (z, z + rise + rng.uniform(.5, 1.4)), BUILDING,
                      BRICK[rng.integers(len(BRICK))])
        if shape in ('gable', 'mansard') and rng.random() < .6:
            count = int(rng.integers(1, max(2, int(width / 3))))
            for k in range(count):
                c = x[0] + width * (k + .5) / count
                dz = min(rise * .75, 2.0)
                back = y[0] + (dz / rise) * half if shape == 'gable' else y[0] + 1.5
                wall(place, (c - .8, y[0] + .3), (c + .8, y[0] + .3), (z, z + dz), facade, False)
                place.quad([[c - .5, y[0] + .27, z + .4], [c + .5, y[0] + .27, z + .4],
                            [c + .5, y[0] + .27, z + dz - .3], [c - .5, y[0] + .27, z + dz - .3]],
                           BUILDING, (.12, .14, .17), GLASS)
                for e in (c - .8, c + .8):
                    place.triangles([[[e, y[0] + .3, z], [e, y[0] + .3, z + dz],
                                      [e, back, z + dz]]], BUILDING, facade.colour * .9)
                place.quad([[c - 1, y[0] + .1, z + dz], [c + 1, y[0] + .1, z + dz],
                            [c + 1, back + .3, z + dz + .15], [c - 1, back + .3, z + dz + .15]],
                           BUILDING, tiles, ROOF)
    if shop and rng.random() < .7:
        front_parts(place, rng, x, y[0], facade, 'awning')
    part = str(rng.choice(['none', 'balconies', 'oriel', 'steps'], p=[.4, .22, .2, .18]))
    if part == 'steps':
        a = rng.uniform(x[0], x[1] - 2)
        place.box((a, a + 1.8), (y[0] - 1.0, y[0]), (0, .45), BUILDING, (.5, .48, .45))
        place.box((a - .1, a + 1.9), (y[0] - 1.2, y[0]), (2.7, 2.9), BUILDING, tiles)
    else:
        front_parts(place, rng, x, y[0], facade, part)


def block_house(place: Local, rng: np.random.Generator, styles: Styles, x: Span, y: Span,
                floors: int, look: str | None = None) -> Facade:
    """Add an office or flat block with a flat roof."""
    look = look or str(rng.choice(['panel', 'strip', 'glass', 'brick', 'plaster'],
                                  p=[.26, .22, .22, .16, .14]))
    facade = Facade(rng, styles, look, floors, bool(rng.random() < .35))
    z = facade.height
    body(place, x, y, (0, z), facade)
    if look in ('panel', 'plaster') and rng.random() < .5:
        bays = max(1, round((x[1] - x[0]) / facade.bay_m))
        for k in range(bays + 1):
            e = x[0] + (x[1] - x[0]) * k / bays
            place.box((e - .18, e + .18), (y[0] - .35, y[0]), (0, z), BUILDING,
                      facade.colour * .92)
    flat_roof(place, rng, x, y, z, facade)
    if rng.random() < .3 and x[1] - x[0] > 8 and y[1] - y[0] > 8:
        more = Facade(rng, styles, look, int(rng.integers(1, 3)))
        top = (z, z + more.height)
        inner = (x[0] + 2, x[1] - 2), (y[0] + 2, y[1] - 2)
        body(place, *inner, top, facade)
        flat_roof(place, rng, *inner, top[1], facade, False)
    return facade


def tower(place: Local, rng: np.random.Generator, styles: Styles, x: Span, y: Span) -> None:
    """Add a high-rise on a podium: a shaft, round or square, perhaps stepping back."""
    podium = block_house(place, rng, styles, x, y, int(rng.integers(1, 4)),
                         str(rng.choice(['glass', 'panel', 'strip'])))
    facade = Facade(rng, styles, str(rng.choice(['glass', 'strip', 'panel'])),
                    int(rng.integers(9, 20)))
    z0, z1 = podium.height, podium.height + facade.height
    w, d = min(x[1] - x[0], 26.0), min(y[1] - y[0], 22.0)
    cx = rng.uniform(x[0] + w / 2, x[1] - w / 2) if x[1] - x[0] > w else (x[0] + x[1]) / 2
    cy = y[0] + d / 2 + rng.uniform(0, max(0.01, y[1] - y[0] - d))
    if rng.random() < .3:
        r = min(w, d) / 2 - 1
        a = np.arange(14) * 2 * np.pi / 14
        ring = np.stack([cx + r * np.cos(a), cy + r * np.sin(a)], 1)
        for p, q in zip(ring, np.roll(ring, -1, 0), strict=True):
            wall(place, p, q, (z0, z1), facade)
        place.prism(ring, z1 - .1, z1 + .8, BUILDING, facade.colour * .8)
        return
    steps = int(rng.integers(1, 4))
    levels = np.linspace(z0, z1, steps + 1)
    for k in range(steps):
        s = 1 - .22 * k
        half_w, half_d = w / 2 * s - 1, d / 2 * s - 1
        inner = ((cx - half_w, cx + half_w), (cy - half_d, cy + half_d))
        body(place, *inner, (float(levels[k]), float(levels[k + 1])), facade)
        flat_roof(place, rng, *inner, float(levels[k + 1]), facade, k == steps - 1)


def hall(place: Local, rng: np.random.Generator, styles: Styles, x: Span, y: Span) -> None:
    """Add an industrial hall with gates, a low, saw-tooth or barrel roof, and a silo perhaps."""
    facade = Facade(rng, styles, str(rng.choice(['metal', 'brick', 'metal'])), 1)
    facade.floor_m = h = float(rng.uniform(5.0, 9.5))
    body(place, x, y, (0, h), facade)
    tin = CONCRETE[rng.integers(len(CONCRETE))] * .8
    shape = rng.choice(['gable', 'saw', 'flat', 'front'])
    if shape == 'saw':
        teeth = max(2, int((x[1] - x[0]) / 7))
        edges = np.linspace(*x, teeth + 1)
        for a, b in itertools.pairwise(edges):
            place.quad([[a, y[0], h], [b, y[0], h + 2.6], [b, y[1], h + 2.6], [a, y[1], h]],
                       BUILDING, tin, ROOF)
            place.quad([[b, y[0], h], [b, y[1], h], [b, y[1], h + 2.6], [b, y[0], h + 2.6]],
                       BUILDING, (.15, .18, .2), GLASS)
            place.triangles([[[a, e, h], [b, e, h], [b, e, h + 2.6]] for e in y], BUILDING,
                            facade.colour, PLAIN)
    elif shape == 'flat':
        flat_roof(place, rng, x, y, h, facade)
    else:
        roof(place, x, y, h, float(rng.uniform(1.2, 3.5)), str(shape), tin, facade, .3)
    gate = rng.uniform(.15, .6, 3)
    for _ in range(rng.integers(1, 4)):
        a = rng.uniform(x[0] + 1, x[1] - 5)
        place.box((a, a + 4), (y[0] - .25, y[0]), (0, 4.2), BUILDING, gate, ROOF)
    if rng.random() < .35:
        r = rng.uniform(1.6, 3)
        place.round(x[0] + r + 1, y[0] - r - .5, r, 0, rng.uniform(8, 15), BUILDING,
                    (.62, .63, .64), sides=12)
    if rng.random() < .25:
        place.round(x[1] - 3, y[0] + 4, 1.0, 0, rng.uniform(18, 30), BUILDING, BRICK[0], WALL,
                    10, .7)


def church(place: Local, rng: np.random.Generator, styles: Styles, x: Span, y: Span) -> None:
    """Add a church: nave, tower and spire (a landmark seen from afar)."""
    facade = Facade(rng, styles, str(rng.choice(['brick', 'plaster'])), 2)
    facade.floor_m = float(rng.uniform(5, 6.5))
    facade.bay_m = 4.0
    z = facade.height
    side = min(7.0, (y[1] - y[0]) * .7)
    body(place, x, y, (0, z), facade)
    roof(place, x, y, z, (y[1] - y[0]) * .6, 'gable', TILES[rng.integers(len(TILES))], facade)
    ym = (y[0] + y[1]) / 2
    tx, ty = (x[0] - side, x[0]), (ym - side / 2, ym + side / 2)
    top = z * rng.uniform(1.9, 2.5)
    body(place, tx, ty, (0, top), facade)
    place.prism([(tx[0], ty[0]), (tx[1], ty[0]), (tx[1], ty[1]), (tx[0], ty[1])], top,
                top + rng.uniform(7, 18), BUILDING, rng.choice([.25, .35]) * np.array([.7, 1, .9]),
                shrink=0.0)


def fence(place: Local, rng: np.random.Generator, x: Span, y: float, kind: str) -> None:
    """Add a fence along x at y: 'pickets', 'wall', 'rails' or 'wire'."""
    if x[1] - x[0] < .5:
        return
    if kind == 'wall':
        h = float(rng.uniform(.6, 1.9))
        place.box(x, (y - .12, y + .12), (0, h), FENCE, BRICK[rng.integers(len(BRICK))], WALL)
        place.box(x, (y - .17, y + .17), (h, h + .08), FENCE, (.5, .5, .48))
        return
    colour = TRIM[rng.integers(len(TRIM))] * rng.uniform(.5, 1)
    gap, h, thick = {'pickets': (.22, 1.1, .10), 'rails': (1.8, 1.0, .08),
                     'wire': (2.5, 1.9, .07)}[kind]
    for e in np.arange(x[0], x[1], gap).tolist():
        place.box((e, e + thick), (y - .02, y + .02), (0, h), FENCE, colour)
    for z in ((.3, .9) if kind == 'pickets' else (.25, .6, .95) if kind == 'rails' else (.1, 1.8)):
        place.box(x, (y - .03, y + .03), (z, z + .07), FENCE, colour * .9)
    if kind == 'wire':
        place.quad([[x[0], y, .1], [x[1], y, .1], [x[1], y, 1.8], [x[0], y, 1.8]], FENCE,
                   colour, MESHWIRE)
