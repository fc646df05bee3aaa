"""What stands in streets and gardens: trees, hedges, lamps, signs, bins, benches, shelters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .mesh import (
    BARK,
    BOARD,
    BOX,
    DARK,
    GLASS,
    icosphere,
    LAMP,
    LEAVES,
    Local,
    POLE,
    SIGN,
    TAIL,
    VEGETATION,
)

Array = NDArray[np.float64]

STEEL = np.array([.42, .43, .44])
GREENS = np.array([[.13, .24, .07], [.17, .29, .08], [.22, .32, .10], [.10, .20, .08],
                   [.26, .31, .11], [.30, .24, .08]])


def leaf_ball(rng: np.random.Generator, radii: Array, leaves: int, size: float) -> Array:
    """Return triangles of a leafy ellipsoid: a rough core and loose leaf clusters around it."""
    core = icosphere(1)
    bump = 1 + .18 * np.sin(core @ rng.normal(0, 3.2, (3, 3)) + rng.uniform(0, 6, 3)).mean(-1)
    core = core * bump[..., None] * .74
    d = rng.normal(size=(leaves, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    centres = d * rng.uniform(.72, 1.06, (leaves, 1))
    loose = (centres * radii)[:, None] + rng.normal(0, size, (leaves, 3, 3))
    return np.concatenate([core * radii, loose])


def tree(place: Local, rng: np.random.Generator, kind: str | None = None,
         scale: float = 1.0) -> None:
    """Add a tree: 'round', 'tall' (poplar), 'conifer', 'spread' (several crowns) or 'bush'."""
    kind = kind or str(rng.choice(['round', 'spread', 'tall', 'conifer'], p=[.4, .36, .1, .14]))
    green = GREENS[rng.integers(len(GREENS))] * rng.uniform(.8, 1.25)
    scale *= float(rng.uniform(.75, 1.25))
    trunk = np.array([.20, .15, .11]) * rng.uniform(.8, 1.4)
    if kind == 'conifer':
        h = 8.5 * scale
        place.round(0, 0, .18 * scale, 0, 1.6 * scale, VEGETATION, trunk, BARK)
        for k in range(4):
            z = (1.2 + 1.75 * k) * scale
            place.round(0, 0, (2.2 - .48 * k) * scale, z, min(z + 3.0 * scale, h), VEGETATION,
                        green * (.62 + .08 * k), LEAVES, 9, 0.05)
        return
    if kind == 'bush':
        crowns = [(np.array([0, 0, .6 * scale]), np.array([.9, .9, .7]) * scale)]
        clear = 0.0
    else:
        clear = float(rng.uniform(2.0, 3.2)) * scale
        wide = {'round': (2.3, 2.4), 'tall': (1.2, 4.6), 'spread': (1.9, 1.6)}[kind]
        radii = np.array([wide[0], wide[0], wide[1]]) * scale
        crowns = [(np.array([0, 0, clear + radii[2] * .85]), radii)]
        if kind == 'spread':
            for a in rng.uniform(0, 2 * np.pi, rng.integers(2, 5)):
                crowns.append((np.array([1.5 * scale * np.cos(a), 1.5 * scale * np.sin(a),
                                         clear + rng.uniform(.8, 3.0) * scale]),
                               radii * rng.uniform(.6, .9)))
        place.round(0, 0, rng.uniform(.13, .24) * scale, 0, clear + radii[2], VEGETATION, trunk,
                    BARK, 6, .6)
        for a in rng.uniform(0, 2 * np.pi, 3):
            tip = [1.1 * scale * np.cos(a), 1.1 * scale * np.sin(a), clear + 1.4 * scale]
            place.triangles([[[.07, 0, clear - .5], [-.07, 0, clear - .5], tip],
                             [[0, .07, clear - .5], [0, -.07, clear - .5], tip]], VEGETATION,
                            trunk, BARK)
    for centre, radii in crowns:
        count = 40 if kind == 'bush' else 110
        t = leaf_ball(rng, radii, count, .30 * scale) + centre
        shade = .62 + .5 * np.clip((t[:, :, 2].mean(1) - centre[2]) / radii[2] * .5 + .5, 0, 1)
        tone = rng.uniform(.82, 1.18, (len(t), 1)) * shade[:, None]
        t[:, :, 2] = np.maximum(t[:, :, 2], .03)
        place.builder.triangles(place.out(t), VEGETATION, green * tone, LEAVES)


def lamp(place: Local, rng: np.random.Generator, kind: int) -> None:
    """Add a street lamp; its arm reaches along local y."""
    h = (6.5, 9.0, 4.2)[kind]
    grey = STEEL * (.9, .8, .45)[kind]
    place.round(0, 0, .10, 0, h, POLE, grey, sides=6, shrink=.6)
    if kind == 2:
        place.round(0, 0, .22, h, h + .5, POLE, (.9, .88, .8), LAMP, 6, 1.3)
        return
    reach = (1.2, 2.4)[kind]
    place.box((-.05, .05), (0, reach), (h - .1, h), POLE, grey)
    place.box((-.14, .14), (reach - .3, reach + .5), (h - .16, h + .02), POLE, (.85, .84, .8),
              LAMP)


def sign(place: Local, rng: np.random.Generator) -> None:
    """Add a traffic sign on its pole, its face towards local -x."""
    place.round(0, 0, .05, 0, 2.9, POLE, STEEL, sides=5)
    shape, z, r = int(rng.integers(0, 5)), 2.55, .36
    a = np.arange(8) * np.pi / 4 + np.pi / 8
    if shape == 1:
        a = np.array([90, 210, 330]) * np.pi / 180
    elif shape >= 3:
        a = np.array([45, 135, 225, 315]) * np.pi / 180
    wide = 1.9 if shape == 4 else 1.0
    ring = np.stack([np.full(len(a), -.07), r * wide * np.cos(a), z + r * np.sin(a)], 1)
    fan = np.stack([np.repeat(ring[:1], len(a) - 2, 0), ring[1:-1], ring[2:]], 1)
    uv = (fan[:, :, 1:] - [0, z]) / r
    border = [(.62, .04, .05), (.62, .04, .05), (.04, .14, .5), (.06, .2, .55), (.75, .65, .1)]
    place.builder.triangles(place.out(fan), SIGN, border[shape], BOARD, 0, uv)
    fan[:, :, 0] = -.05
    place.triangles(fan, SIGN, (.45, .46, .47))


def traffic_light(place: Local, rng: np.random.Generator) -> None:
    """Add a traffic light with an arm along local y and heads facing local -x."""
    place.round(0, 0, .09, 0, 5.6, POLE, STEEL * .7, sides=6)
    place.box((-.05, .05), (0, 3.2), (5.4, 5.5), POLE, STEEL * .7)
    for y, z in ((0, 2.4), (3.0, 4.7)):
        place.box((-.3, -.05), (y - .16, y + .16), (z, z + .95), POLE, (.05, .05, .05), DARK)
        lit = int(rng.integers(0, 3))
        for k, colour in enumerate(((.05, .7, .3), (.8, .6, .05), (.8, .05, .03))):
            if k == lit:
                b = z + .08 + .3 * k
                place.quad([[-.32, y - .1, b], [-.32, y + .1, b], [-.32, y + .1, b + .2],
                            [-.32, y - .1, b + .2]], POLE, colour, TAIL)


def bin_(place: Local, rng: np.random.Generator) -> None:
    """Add a litter bin or a row of wheeled bins."""
    if rng.random() < .5:
        place.round(0, 0, .28, .1, 1.0, BOX, rng.uniform(.08, .4, 3), sides=8, shrink=1.1)
        return
    for k in range(rng.integers(1, 4)):
        c = np.array([[.1, .2, .1], [.12, .14, .3], [.3, .22, .08], [.12, .12, .13]])[
            rng.integers(4)]
        place.box((.8 * k, .8 * k + .6), (-.3, .35), (.1, 1.05), BOX, c)
        place.box((.8 * k - .03, .8 * k + .63), (-.34, .38), (1.05, 1.13), BOX, c * .7)


def cabinet(place: Local, rng: np.random.Generator) -> None:
    """Add an electric cabinet, a post box or an advertising column."""
    kind = rng.integers(0, 4)
    if kind < 2:
        w = float(rng.uniform(.7, 1.6))
        place.box((0, w), (-.2, .2), (0, rng.uniform(1.0, 1.5)), BOX,
                  np.array([.42, .44, .42]) * rng.uniform(.7, 1.2))
    elif kind == 2:
        place.box((0, .55), (-.25, .25), (.5, 1.5), BOX, (.75, .55, .05))
        place.box((.2, .35), (-.1, .1), (0, .5), BOX, (.3, .3, .3))
    else:
        place.round(0, 0, .7, 0, 2.9, BOX, rng.uniform(.25, .7, 3), sides=12)
        place.round(0, 0, .85, 2.9, 3.5, BOX, (.2, .3, .25), sides=12, shrink=.2)


def bench(place: Local, rng: np.random.Generator) -> None:
    """Add a bench, its back at positive local y."""
    wood = np.array([.36, .24, .14]) * rng.uniform(.8, 1.3)
    place.box((0, 1.8), (-.25, .25), (.40, .47), BOX, wood)
    place.box((0, 1.8), (.22, .28), (.47, .95), BOX, wood)
    for x in (.15, 1.55):
        place.box((x, x + .1), (-.2, .2), (0, .4), BOX, (.15, .15, .15))


def shelter(place: Local, rng: np.random.Generator) -> None:
    """Add a bus shelter, open towards local -y, with its stop sign."""
    frame = STEEL * .6
    for x in (0.0, 3.9):
        for y in (0.0, 1.3):
            place.box((x, x + .08), (y, y + .08), (0, 2.5), BOX, frame)
    place.box((-.15, 4.15), (-.25, 1.5), (2.5, 2.62), BOX, frame)
    place.quad([[0, 1.35, .3], [3.9, 1.35, .3], [3.9, 1.35, 2.3], [0, 1.35, 2.3]], BOX,
               (.3, .36, .36), GLASS)
    place.box((3.95, 4.05), (.1, 1.3), (.4, 2.2), BOX, rng.uniform(.15, .8, 3))
    place.box((.6, 3.2), (.8, 1.15), (.42, .5), BOX, (.3, .25, .2))
    place.round(-1.6, 0, .05, 0, 3.0, POLE, STEEL, sides=5)
    place.round(-1.6, 0, .35, 2.5, 3.1, SIGN, (.75, .6, .05), sides=8)


def bollards(place: Local, rng: np.random.Generator, count: int) -> None:
    """Add a row of bollards along local x."""
    for k in range(count):
        place.round(1.5 * k, 0, .09, 0, .95, POLE, (.14, .14, .15), sides=6)


def hedge(place: Local, rng: np.random.Generator, length: float, height: float) -> None:
    """Add a clipped hedge along local x, its face rough with leaves."""
    green = GREENS[rng.integers(len(GREENS) - 1)] * rng.uniform(.8, 1.1)
    place.box((0, length), (-.35, .35), (0, height), VEGETATION, green, LEAVES)
    count = int(length * 7)
    c = np.stack([rng.uniform(0, length, count), rng.choice([-.36, .36], count),
                  rng.uniform(.1, height + .1, count)], 1)
    t = c[:, None] + rng.normal(0, .13, (count, 3, 3))
    place.builder.triangles(place.out(t), VEGETATION,
                            green * rng.uniform(.7, 1.3, (count, 1)), LEAVES)


def mast(place: Local, rng: np.random.Generator) -> None:
    """Add a wooden mast with cross-arms and a transformer perhaps."""
    place.round(0, 0, .14, 0, 9.5, POLE, (.28, .2, .14), BARK, 6, .8)
    place.box((-.06, .06), (-1.1, 1.1), (8.6, 8.75), POLE, (.28, .2, .14))
    if rng.random() < .3:
        place.round(.35, 0, .28, 6.8, 7.9, POLE, (.5, .5, .5), sides=8)


def kiosk(place: Local, rng: np.random.Generator) -> None:
    """Add a kiosk with a counter and a pitched top."""
    c = rng.uniform(.2, .75, 3)
    place.box((0, 3.2), (0, 2.4), (0, 2.5), BOX, c)
    place.box((.4, 2.8), (-.35, 0), (.95, 1.05), BOX, (.4, .35, .3))
    place.quad([[.4, -.01, 1.05], [2.8, -.01, 1.05], [2.8, -.01, 2.1], [.4, -.01, 2.1]], BOX,
               (.1, .12, .14), GLASS)
    place.prism([(-.4, -.6), (3.6, -.6), (3.6, 2.8), (-.4, 2.8)], 2.5, 3.4, BOX, c * .5,
                shrink=.3)


def container(place: Local, rng: np.random.Generator) -> None:
    """Add a freight container."""
    place.box((0, 6.1), (0, 2.4), (0, 2.6), BOX,
              np.array([[.45, .14, .08], [.1, .25, .4], [.5, .42, .1], [.15, .35, .2]])[
                  rng.integers(4)], 7)
