"""Fills the blocks of a plan with buildings, gardens and trees, and the pavements with things."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from . import buildings as b
from . import furniture as f
from .mesh import BUILDING, Local, MeshBuilder, PAVING, SIDEWALK
from .plan import KERB_M, Plan

Array = NDArray[np.float64]
Rect = tuple[float, float, float, float]


class Site:
    """One side of a block: plan coordinates for what bends, the map for what stays rigid."""

    def __init__(self, plan: Plan, fabric: MeshBuilder, rigid: MeshBuilder, origin: Array,
                 yaw: float, length: float, depth: float) -> None:
        self.plan, self.rigid = plan, rigid
        self.place = Local(fabric, origin, yaw, KERB_M)
        self.yaw, self.length, self.depth = yaw, length, depth

    def at(self, x: float, y: float, turn: float = 0.0) -> Local:
        """Return a rigid place at (x, y) of this side, turned by `turn` from its direction."""
        p = self.place.out([x, y, 0.0])[:2]
        heading = self.plan.warp.heading(p, self.yaw + turn)
        return Local(self.rigid, self.plan.warp(p), heading, KERB_M)

    def shifted(self, x: float, y: float) -> Local:
        """Return the bending place moved by (x, y) along and into the side."""
        return Local(self.place.builder, self.place.out([x, y, 0.0]), self.yaw, KERB_M)


def sides(plan: Plan, fabric: MeshBuilder, rigid: MeshBuilder, rect: Rect) -> list[Site]:
    """Return the four sides of a rectangle x0, x1, y0, y1, each with y running inwards."""
    x0, x1, y0, y1 = rect
    w, d = x1 - x0, y1 - y0
    table = [((x0, y0), 0.0, w, d), ((x1, y0), np.pi / 2, d, w),
             ((x1, y1), np.pi, w, d), ((x0, y1), 1.5 * np.pi, d, w)]
    return [Site(plan, fabric, rigid, np.array(o), yaw, length, depth)
            for o, yaw, length, depth in table]


def _lots(rng: np.random.Generator, start: float, end: float, low: float,
          high: float) -> list[tuple[float, float]]:
    """Return neighbouring spans of random widths that fill start..end."""
    cuts = [start]
    while cuts[-1] + low < end:
        cuts.append(cuts[-1] + float(rng.uniform(low, high)))
    if len(cuts) == 1:
        return []
    scaled = start + (np.array(cuts) - start) * (end - start) / (cuts[-1] - start)
    return [(float(p), float(q)) for p, q in itertools.pairwise(scaled)]


def fill_block(plan: Plan, fabric: MeshBuilder, rigid: MeshBuilder, styles: b.Styles,
               key: tuple[int, int], seed: int) -> None:
    """Build one block and furnish its pavements."""
    rng = np.random.default_rng([seed, 3, *key])
    kind = plan.blocks[key]
    x0, x1, y0, y1 = plan.block(*key)
    walk = (plan.columns[key[0]].walk + plan.rows[key[1]].walk) / 2
    inner = (x0 + walk, x1 - walk, y0 + walk, y1 - walk)
    around = sides(plan, fabric, rigid, inner)
    if kind == 'park':
        park(around[0], rng)
    elif kind == 'square':
        square(around[0], rng, styles)
    elif kind == 'estate':
        estate(around[0], rng, styles)
    else:
        built_up(around, rng, styles, kind)
    for side, site in enumerate(sides(plan, fabric, rigid, (x0, x1, y0, y1))):
        i, j = key
        line = (plan.rows[j], plan.columns[i + 1], plan.rows[j + 1], plan.columns[i])[side]
        edge = ((1, i, j), (0, i + 1, j), (1, i, j + 1), (0, i, j))[side]
        rim = (j == 0, i + 1 == plan.size, j + 1 == plan.size, i == 0)[side]
        if not rim:
            furnish(site, rng, walk, line.trees, edge in plan.closed)
        else:
            backdrop(site, rng, styles)


def backdrop(site: Site, rng: np.random.Generator, styles: b.Styles) -> None:
    """Close the view at the rim of the world with a row of buildings."""
    for x0, x1 in _lots(rng, -8.0, site.length + 8.0, 12, 24):
        b.block_house(site.shifted(x0, -14.0), rng, styles, (0, x1 - x0), (0, 10),
                      int(rng.integers(2, 6)))


def built_up(around: list[Site], rng: np.random.Generator, styles: b.Styles, kind: str) -> None:
    """Build along the four sides; sides 0 and 2 take the corners."""
    depth = {'terrace': (9, 13), 'villa': (14, 20), 'office': (13, 19), 'tower': (18, 26),
             'industry': (18, 28)}[kind]
    deep = [float(rng.uniform(*depth)) for _ in around]
    limit = min(around[0].depth, around[1].depth) / 2 - 2
    deep = [min(d, limit) for d in deep]
    mood = {'setback': float(rng.uniform(2, 4.5) if rng.random() < .35 else 0),
            'floors': int(rng.integers(2, 6))}
    for k, site in enumerate(around):
        start, end = (0.0, site.length) if k % 2 == 0 else (deep[0] + .5,
                                                            site.length - deep[2] - .5)
        # Side 3 runs from the corner with side 2 to that with side 0.
        if k == 3:
            start, end = deep[2] + .5, site.length - deep[0] - .5
        row(site, rng, styles, kind, start, end, deep[k], mood)


def row(site: Site, rng: np.random.Generator, styles: b.Styles, kind: str, start: float,
        end: float, deep: float, mood: dict[str, float]) -> None:
    """Build one side of a block from start to end."""
    widths = {'terrace': (6, 15), 'villa': (13, 22), 'office': (16, 38), 'tower': (24, 44),
              'industry': (20, 42)}[kind]
    for x0, x1 in _lots(rng, start, end, *widths):
        w = x1 - x0
        place = site.shifted(x0, 0.0)
        if kind == 'terrace':
            if rng.random() < .09 and w < 11:
                gap(site, place, rng, x0, w)
                continue
            back = mood['setback']
            floors = int(np.clip(mood['floors'] + rng.integers(-1, 2), 2, 6))
            y0 = back + (float(rng.uniform(0, .5)) if rng.random() < .4 else 0.0)
            b.house(place, rng, styles, (0, w), (y0, max(deep, y0 + 6)), floors, True)
            if back > 1.8:
                _front_garden(site, place, rng, x0, w, back)
        elif kind == 'villa':
            villa(site, place, rng, styles, x0, w, deep)
        elif kind == 'office':
            back = float(rng.choice([0, 0, 1.5, 4]))
            w0 = float(rng.choice([0, 0, 0, 2.5]))
            look = b.block_house(place, rng, styles, (0, w - w0), (back, deep),
                                 int(rng.integers(3, 9)))
            part = str(rng.choice(['canopy', 'awning', 'none', 'balconies', 'arcade']))
            if part != 'arcade' or back >= 1.5:
                b.front_parts(place, rng, (0, w - w0), back, look, part)
        elif kind == 'tower':
            back = float(rng.uniform(0, 4))
            if rng.random() < .7:
                b.tower(place, rng, styles, (0, w - 1), (back, deep))
            else:
                b.block_house(place, rng, styles, (0, w - 1), (back, deep),
                              int(rng.integers(5, 12)))
        else:
            back = float(rng.uniform(3, 7))
            b.hall(place, rng, styles, (1, w - 2), (back, deep))
            fence_kind = str(rng.choice(['wire', 'wall', 'wire', 'none']))
            if fence_kind != 'none':
                b.fence(place, rng, (0, w * .62), .3, fence_kind)
            for _ in range(rng.integers(0, 3)):
                f.container(site.at(x0 + rng.uniform(1, max(2, w - 8)), rng.uniform(.8, 1.2)), rng)


def gap(site: Site, place: Local, rng: np.random.Generator, x0: float, w: float) -> None:
    """Leave a gap between houses: a wall with a gate, and a tree behind it."""
    b.fence(place, rng, (0, w * .35), .2, 'wall')
    b.fence(place, rng, (w * .8, w), .2, 'wall')
    f.tree(site.at(x0 + w / 2, rng.uniform(4, 7)), rng)


def _front_garden(site: Site, place: Local, rng: np.random.Generator, x0: float, w: float,
                  back: float) -> None:
    choice = rng.random()
    path = float(rng.uniform(.2, .7)) * w
    if choice < .4:
        f.hedge(site.at(x0 + .2, .45), rng, max(.6, path - .4), float(rng.uniform(.8, 1.4)))
        if w - path > 2:
            f.hedge(site.at(x0 + path + 1.2, .45), rng, w - path - 1.4,
                    float(rng.uniform(.8, 1.4)))
    elif choice < .85:
        kind = str(rng.choice(['pickets', 'wall', 'rails']))
        b.fence(place, rng, (0, path), .2, kind)
        b.fence(place, rng, (path + 1.1, w), .2, kind)
    if rng.random() < .5:
        f.tree(site.at(x0 + w * .3, back * .6), rng, 'bush', float(rng.uniform(.8, 1.6)))


def villa(site: Site, place: Local, rng: np.random.Generator, styles: b.Styles, x0: float,
          w: float, deep: float) -> None:
    """Build a detached house in its garden, perhaps with a garage."""
    wide, long = min(w - 4, float(rng.uniform(7, 13))), float(rng.uniform(7, 10.5))
    left = float(rng.uniform(1, w - wide - 2))
    back = float(rng.uniform(3, 6.5))
    b.house(place, rng, styles, (left, left + wide), (back, back + long),
            int(rng.integers(1, 4)), False)
    free = w - left - wide
    if free > 4.4:
        a = left + wide + .3
        y = back + float(rng.uniform(0, 3))
        place.box((a, a + 3.3), (y, y + 5.5), (0, 2.6), BUILDING,
                  b.PLASTER[rng.integers(len(b.PLASTER))])
        place.box((a + .4, a + 2.9), (y - .06, y), (0, 2.2), BUILDING, rng.uniform(.2, .7, 3), 7)
        place.quad([[a + .3, 0, .01], [a + 3, 0, .01], [a + 3, y, .01], [a + .3, y, .01]],
                   SIDEWALK, (.42, .40, .38), PAVING)
    border = rng.random()
    gate = float(rng.uniform(.15, .6)) * w
    if border < .42:
        h = float(rng.uniform(.9, 2.1))
        f.hedge(site.at(x0 + .2, .45), rng, gate, h)
        f.hedge(site.at(x0 + gate + 3.2, .45), rng, max(.5, w - gate - 3.4), h)
    elif border < .9:
        kind = str(rng.choice(['pickets', 'wall', 'rails']))
        b.fence(place, rng, (0, gate), .2, kind)
        b.fence(place, rng, (gate + 3, w), .2, kind)
    for _ in range(rng.integers(1, 4)):
        f.tree(site.at(x0 + rng.uniform(1.5, w - 1.5), rng.uniform(1.5, max(2, back - 1.2))), rng,
               str(rng.choice(['bush', 'bush', 'round', 'conifer', 'spread'])),
               float(rng.uniform(.5, .85)))
    if rng.random() < .7:
        f.tree(site.at(x0 + rng.uniform(1, w - 1), back + long + rng.uniform(2.5, 4)), rng)


def park(site: Site, rng: np.random.Generator) -> None:
    """Plant a park: trees in clumps, paths, benches, its border a hedge, rails or open."""
    w, d = site.length, site.depth
    for y in (d * rng.uniform(.25, .4), d * rng.uniform(.6, .75)):
        site.place.quad([[0, y, .012], [w, y, .012], [w, y + 2.4, .012], [0, y + 2.4, .012]],
                        SIDEWALK, (.46, .41, .33), PAVING)
        for x in np.arange(6, w - 6, rng.uniform(12, 22)).tolist():
            if rng.random() < .7:
                f.bench(site.at(x, y - .5, np.pi), rng)
            f.lamp(site.at(x + 3, y + 2.8), rng, 2)
    for _ in range(int(w * d / rng.uniform(70, 170))):
        f.tree(site.at(rng.uniform(2.5, w - 2.5), rng.uniform(2.5, d - 2.5)), rng)
    for _ in range(rng.integers(2, 10)):
        f.tree(site.at(rng.uniform(2, w - 2), rng.uniform(2, d - 2)), rng, 'bush', 1.4)
    border = rng.choice(['open', 'rails', 'hedge', 'wall'])
    rect_sides = ((0.0, 0.0, 0.0, w), (w, 0.0, np.pi / 2, d), (w, d, np.pi, w),
                  (0.0, d, -np.pi / 2, d))
    for left, low, turn, length in rect_sides:
        if border == 'hedge':
            h = float(rng.uniform(.8, 1.3))
            for a in np.arange(1.0, length - 10, 11.0).tolist():
                f.hedge(site.at(left + a * np.cos(turn) - .4 * np.sin(turn),
                                low + a * np.sin(turn) + .4 * np.cos(turn), turn), rng, 9.0, h)
        elif border != 'open':
            corner = site.place.out([left, low, 0.0])[:2]
            edge = Local(site.place.builder, corner, site.yaw + turn, KERB_M)
            for a in np.arange(1.0, length - 8, 9.0).tolist():
                b.fence(edge, rng, (a, a + 8), .3, str(border))
    if rng.random() < .6:
        f.kiosk(site.at(rng.uniform(4, w - 8), rng.uniform(4, 8)), rng)


def square(site: Site, rng: np.random.Generator, styles: b.Styles) -> None:
    """Build a square: a church or hall in its middle, trees, benches, kiosks."""
    w, d = site.length, site.depth
    long, wide = min(30.0, w * .5), min(13.0, d * .35)
    x, y = (w - long) / 2 + 4, (d - wide) / 2
    b.church(site.place, rng, styles, (x, x + long), (y, y + wide))
    for u in np.arange(4, w - 3, rng.uniform(7, 10)).tolist():
        for v in (4.0, d - 4.0):
            if rng.random() < .75:
                f.tree(site.at(u, v), rng, 'round', .9)
    for _ in range(8):
        f.bench(site.at(rng.uniform(3, w - 4), rng.choice([7.0, d - 7.0])), rng)
    f.kiosk(site.at(rng.uniform(4, w - 8), 6.5), rng)
    f.bollards(site.at(3, .6), rng, int((w - 6) / 1.5))


def estate(site: Site, rng: np.random.Generator, styles: b.Styles) -> None:
    """Build free-standing slabs of flats among lawns, across or along the streets."""
    w, d = site.length, site.depth
    x = float(rng.uniform(3, 7))
    floors = int(rng.integers(4, 11))
    while x + 12 < w:
        wide = float(rng.uniform(11, 14))
        y0, y1 = float(rng.uniform(3, 9)), d - float(rng.uniform(3, 9))
        if rng.random() < .5 and y1 - y0 > 40:
            y1 = y0 + (y1 - y0) * float(rng.uniform(.4, .6))
        look = b.block_house(site.place, rng, styles, (x, x + wide), (y0, y1),
                             max(3, floors + int(rng.integers(-2, 3))),
                             str(rng.choice(['panel', 'plaster', 'brick'])))
        b.front_parts(site.place, rng, (x, x + wide), y0, look, 'balconies')
        gap_w = float(rng.uniform(10, 18))
        for _ in range(int(rng.integers(2, 6))):
            f.tree(site.at(x + wide + rng.uniform(3, gap_w - 3), rng.uniform(3, d - 3)), rng)
        x += wide + gap_w


def furnish(site: Site, rng: np.random.Generator, walk: float, trees: float,
            closed: bool) -> None:
    """Set lamps, trees, signs and the rest along one pavement; y is inwards from the kerb."""
    length = site.length
    if closed:
        f.bollards(site.at(5.5, -2.0, np.pi / 2), rng, 3)
        return
    taken: list[float] = []

    def free(x: float, room: float) -> bool:
        if any(abs(x - t) < room for t in taken) or not 5.5 < x < length - 5.5:
            return False
        taken.append(x)
        return True

    kind = int(rng.integers(0, 2))
    for x in np.arange(rng.uniform(6, 16), length - 6, rng.uniform(21, 31)).tolist():
        if free(x, 1.0):
            f.lamp(site.at(x, .55, np.pi), rng, kind)
    if rng.random() < .08:
        for x in np.arange(rng.uniform(6, 12), length - 6, rng.uniform(24, 34)).tolist():
            if free(x, 1.0):
                f.mast(site.at(x, .6), rng)
    if rng.random() < .8:
        # On the near lane one drives towards x = 0: heads face +x, the arm reaches over the road.
        put = f.traffic_light if rng.random() < .5 else f.sign
        put(site.at(5.0, .5, np.pi), rng)
    if trees:
        for x in np.arange(rng.uniform(7, 9), length - 7, trees).tolist():
            if rng.random() < .85 and free(x, 1.8):
                kind_of = str(rng.choice(['round', 'tall', 'spread'], p=[.6, .2, .2]))
                f.tree(site.at(x, .9), rng, kind_of, .72)
    if walk > 3.2 and rng.random() < .2:
        x = float(rng.uniform(12, max(13, length - 16)))
        if all(free(x + k, .3) for k in (0, 1.3, 2.6, 3.9)):
            f.shelter(site.at(x, .7), rng)
    for _ in range(int(length / rng.uniform(9, 15))):
        x = float(rng.uniform(6, length - 6))
        if not free(x, 1.6):
            continue
        choice = rng.random()
        if choice < .34:
            f.sign(site.at(x, .5, float(rng.choice([0.0, np.pi], p=[.2, .8]))), rng)
        elif choice < .60:
            f.bin_(site.at(x, walk - .5), rng)
        elif choice < .80:
            f.cabinet(site.at(x, walk - .45), rng)
        elif choice < .90:
            f.bench(site.at(x, walk - .5), rng)
        else:
            f.bollards(site.at(x, .45), rng, int(rng.integers(2, 6)))
