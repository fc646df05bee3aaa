"""What a surface looks like at a point: windows, bricks, asphalt and its marks, leaves, signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from .mesh import (
    ASPHALT,
    BARK,
    BOARD,
    FACADE,
    Float,
    GLASS,
    GRASS,
    LAMP,
    LEAVES,
    MESHWIRE,
    PAINT,
    PAVING,
    PLAIN,
    ROOF,
    STREET,
    TAIL,
    WALL,
)

SIZE = 256
ZEBRA_M = (5.0, 8.0)    # where a zebra lies, from the edge of the crossing's square


def _noise(seed: int, sigma: float) -> Float:
    """Return a tiling field of mean 0 and deviation 1."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), sigma,
                            mode='wrap') if sigma else \
        np.random.default_rng(seed).normal(size=(SIZE, SIZE))
    return ((field - field.mean()) / field.std()).astype(np.float32)


FINE, MEDIUM, COARSE = _noise(1, 0.0), _noise(2, 2.0), _noise(3, 8.0)


def noise(field: Float, uv: Float, scale: float) -> Float:
    """Return the field at uv (n, 2), one cell being `scale` metres."""
    k = np.floor(uv / np.float32(scale)).astype(np.int32) & (SIZE - 1)
    return field[k[:, 0], k[:, 1]]


def chance(*values: ArrayLike) -> Float:
    """Return numbers in 0..1 that depend on whole-numbered arrays and look drawn by lot."""
    h: NDArray[np.uint32] = np.full(1, 2166136261, np.uint32)
    for v in values:
        h = (h ^ np.asarray(v).astype(np.int64).astype(np.uint32)) * np.uint32(16777619)
        h = h ^ (h >> np.uint32(15))
    h = h * np.uint32(2246822519)
    h = (h ^ (h >> np.uint32(13))) & np.uint32(0xFFFF)
    return h.astype(np.float32) / np.float32(65536)


class Surface:
    """
    Colours of n points: albedo (n, 3), gloss (n,) 0..1 (mirrors the sky), glow (n, 3) own light.

    window: which points are panes of glass, also to the LiDAR.
    """

    def __init__(self, colour: Float) -> None:
        self.albedo = colour.copy()
        self.gloss = np.zeros(len(colour), np.float32)
        self.glow = np.zeros_like(colour)
        self.window = np.zeros(len(colour), bool)


def surface(kind: NDArray[np.uint8], style: NDArray[np.int32], uv: Float, colour: Float,
            footprint: Float, styles: Float, night: float = 0.0) -> Surface:
    """
    Return the looks of n points.

    footprint: (n,) metres that a pixel covers there; patterns finer than it fade. styles: the
    world's table. night: share of windows and lamps that are lit.
    """
    s = Surface(colour)
    order = {FACADE: _facade, WALL: _wall, STREET: _street, ASPHALT: _asphalt, PAVING: _paving,
             GRASS: _grass, LEAVES: _leaves, ROOF: _roof, BARK: _bark, BOARD: _board,
             GLASS: _glass, PAINT: _paint, LAMP: _lamp, TAIL: _tail, MESHWIRE: _wire,
             PLAIN: _plain}
    present = np.flatnonzero(np.bincount(kind, minlength=1))
    for k in present:
        if int(k) in order:
            rows = np.flatnonzero(kind == k)
            order[int(k)](s, rows, uv[rows], styles[style[rows]], footprint[rows], night)
    np.clip(s.albedo, 0.0, 1.0, out=s.albedo)
    return s


def _fade(footprint: Float, size: float) -> Float:
    """Return 1 where a pattern of this size is resolved, falling to 0 where it is not."""
    return np.clip(1.6 - footprint / np.float32(size), 0, 1)


def _masonry(rows_uv: Float, pattern: Float, footprint: Float) -> Float:
    """Return the brightness (n,) of bricks, boards or panels at metres rows_uv (n, 2)."""
    u, v = rows_uv[:, 0], rows_uv[:, 1]
    tone = 1 + .035 * noise(COARSE, rows_uv, .35)
    course = np.floor(v / .25)
    brick = 1 + (.16 * (chance(np.floor(u / .5 + .5 * (course % 2)), course) - .5)
                 - .22 * ((v / .25) % 1 < .12)) * _fade(footprint, .22)
    boards = 1 - .16 * ((v / .3) % 1 < .18) * _fade(footprint, .3)
    panels = 1 - .2 * (((v / 3.0) % 1 < .025) | ((u / 3.0) % 1 < .025)) * _fade(footprint, .5)
    metal = 1 - .14 * ((u / .5) % 1 < .3) * _fade(footprint, .4)
    pick = [pattern == 1, pattern == 2, (pattern == 3) | (pattern == 4), pattern == 5]
    return np.asarray(tone * np.select(pick, [brick, boards, panels, metal], 1.0), np.float32)


def _plain(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
           night: float) -> None:
    s.albedo[rows] *= (1 + .04 * noise(MEDIUM, uv, .2))[:, None]


def _wall(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    s.albedo[rows] *= (_masonry(uv, style[:, 3], footprint)
                       * (1 - .18 * np.exp(-np.maximum(uv[:, 1], 0) / .6)))[:, None]


def _facade(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
            night: float) -> None:
    """Paint windows, doors and shops: uv counts bays and floors."""
    bay, floor = np.floor(uv[:, 0]), np.floor(uv[:, 1])
    fu, fv = uv[:, 0] - bay, uv[:, 1] - floor
    bay_m, floor_m, seed = style[:, 4], style[:, 5], style[:, 17]
    metres = np.stack([uv[:, 0] * bay_m, uv[:, 1] * floor_m], 1)
    wide, tall, centre = style[:, 0].copy(), style[:, 1].copy(), style[:, 2].copy()
    lot = chance(bay, floor, seed)
    ground = floor == 0
    shop = ground & (style[:, 6] > 0)
    wide[shop], tall[shop], centre[shop] = .86, .74, .44
    door = ground & (chance(bay, seed + 7) < .22) & (style[:, 3] != 4)
    tall = np.where(door, 2.3 / floor_m, tall)
    centre = np.where(door, 1.15 / floor_m, centre)
    wide = np.where(door & ~shop, np.minimum(1.2 / bay_m, .8), wide)
    blank = (chance(bay, seed + 3) < style[:, 13]) & ~shop | (floor >= style[:, 16])
    du, dv = np.abs(fu - .5) * bay_m, np.abs(fv - centre) * floor_m
    half_w, half_h = wide * bay_m / 2, tall * floor_m / 2
    inside = (du < half_w) & (dv < half_h) & ~blank
    rim = (du < half_w + .13) & (dv < half_h + .13) & ~blank & ~inside
    sill = (du < half_w + .2) & (fv < centre) & (dv > half_h) & (dv < half_h + .22) & ~blank
    thin = np.where(style[:, 3] == 4, .05, .07)
    bars = inside & ~door & (
        (dv > half_h - thin) | (du > half_w - thin)
        | ((style[:, 14] >= 1) & (du < .035))
        | ((style[:, 14] >= 2) & (np.abs(fv - centre - tall * .18) * floor_m < .03)))
    shutter = (style[:, 18] > 0) & (du >= half_w) & (du < half_w * 1.55) & (dv < half_h) \
        & ~blank & ~ground
    base = s.albedo[rows] * _masonry(metres, style[:, 3], footprint)[:, None]
    base *= (1 - .2 * np.exp(-np.maximum(metres[:, 1], 0) / .7))[:, None]
    plinth = (metres[:, 1] < .55) & (style[:, 19] > 0)
    base[plinth] *= .68
    band = (style[:, 15] > 0) & (fv < .10) & (floor > 0) & (floor < style[:, 16] + .2)
    base[band] *= .80
    trim, glass = style[:, 7:10], style[:, 10:13].copy()
    curtain = (lot > .62) & ~door & ~shop & (fv > centre - tall * (lot - .62))
    glass = np.where((curtain & (style[:, 3] != 4))[:, None],
                     glass * .3 + np.float32(.30) * (.6 + .6 * lot)[:, None], glass)
    glass = glass * (1 - .55 * ((half_h - dv < .3) & (fv > centre)))[:, None]
    glass = np.where((door & ~shop)[:, None], trim * .35 + .04, glass)
    base[sill | rim] = (trim * .5 + base * .5)[sill | rim]
    base[rim & (fv > centre) & (dv > half_h)] *= .85
    base[shutter] = trim[shutter] * np.array([.45, .55, .5], np.float32)
    pane = inside & ~bars
    base[bars] = trim[bars] * .9
    base[pane] = glass[pane]
    s.albedo[rows] = base
    shiny = pane & ~(door & ~shop)
    s.window[rows] = shiny
    s.gloss[rows] = np.where(shiny, np.where(style[:, 3] == 4, .75, .5), 0.0)
    if night > 0:
        lit = shiny & (chance(bay, floor, seed + 11) < night * np.where(shop, 1.5, .75))
        warm = np.array([1.0, .72, .38], np.float32) * (.35 + .65 * lot)[:, None]
        s.glow[rows] += np.where(lit[:, None], warm * np.float32(.55), 0)


def _street(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
            night: float) -> None:
    """Paint asphalt or setts and the lane marks; uv is metres along and left of the middle."""
    u, v = uv[:, 0], uv[:, 1]
    length, lane, marks = style[:, 0], style[:, 1], style[:, 2]
    right, left = style[:, 3], style[:, 4]
    stone = style[:, 7] > 0
    row_no = np.floor(u / .18)
    sett = 1 + (.35 * (chance(row_no, np.floor(v / .22 + .5 * (row_no % 2))) - .5)
                - .25 * ((u / .18) % 1 < .15)) * _fade(footprint, .25)
    tar = _tar(uv)
    colour = s.albedo[rows] * np.where(stone, sett * 1.35, tar)[:, None]
    parking = (v > lane) | (v < -lane)
    colour[parking] *= 1.12
    edge = np.minimum(v + right, left - v)
    gutter = edge < .32
    colour[gutter] = colour[gutter] * .7 + .09
    from_end = length - u
    zebra_low = (style[:, 5] > 0) & (u > ZEBRA_M[0]) & (u < ZEBRA_M[1])
    zebra_high = (style[:, 6] > 0) & (from_end > ZEBRA_M[0]) & (from_end < ZEBRA_M[1])
    open_road = (u > 9.8) & (from_end > 9.8)
    dashed = (np.abs(v) < .075) & open_road & np.where(marks == 1, (u / 6.0) % 1 < .5, marks >= 2)
    wide_road = lane > 5
    split = wide_road & (np.abs(np.abs(v) - lane / 2) < .07) & open_road & ((u / 6.0) % 1 < .5)
    slot = parking & ~gutter & (((np.abs(v) - lane < .10)) | ((u / 6.0) % 1 < .018)) & open_road
    stop = (((from_end > 8.7) & (from_end < 9.1) & (v < 0) & (v > -lane))
            | ((u > 8.7) & (u < 9.1) & (v > 0) & (v < lane)))
    stripes = ((v / 1.0) % 1 < .5) & (edge > .35)
    painted = (dashed & (marks > 0)) | split | slot | stop | ((zebra_low | zebra_high) & stripes)
    worn = np.clip(.8 + .2 * noise(MEDIUM, uv, .12), .35, 1)[:, None]
    painted &= ~(stone & ~(zebra_low | zebra_high))
    colour = np.where(painted[:, None], colour * (1 - worn) + np.float32(.68) * worn, colour)
    s.albedo[rows] = colour
    s.gloss[rows] = .02


def _tar(uv: Float) -> Float:
    tone = 1 + .10 * noise(FINE, uv, .07) + .07 * noise(MEDIUM, uv, .25) \
        + .08 * noise(COARSE, uv, .5)
    patch = (chance(np.floor(uv[:, 0] / 5.3), np.floor(uv[:, 1] / 2.1)) < .10)
    crack = np.abs(noise(COARSE, uv, .21) - .2) < .03
    return np.asarray(tone * np.where(patch, .78, 1.0) * np.where(crack, .72, 1.0), np.float32)


def _asphalt(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
             night: float) -> None:
    s.albedo[rows] *= _tar(uv)[:, None]
    s.gloss[rows] = .02


def _paving(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
            night: float) -> None:
    u, v = uv[:, 0] / .6, uv[:, 1] / .6
    tile = chance(np.floor(u), np.floor(v))
    joint = (u % 1 < .05) | (v % 1 < .05)
    fade = _fade(footprint, .45)
    tone = 1 + fade * (.16 * (tile - .5) - .3 * joint) + .06 * noise(COARSE, uv, .4)
    s.albedo[rows] *= tone[:, None]
    s.gloss[rows] = .01


def _grass(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
           night: float) -> None:
    tone = 1 + .2 * noise(FINE, uv, .09) * _fade(footprint, .3) + .14 * noise(COARSE, uv, .7) \
        + .08 * noise(MEDIUM, uv, .5)
    dry = np.clip(noise(COARSE, uv, 1.3) * .35, 0, .5)[:, None]
    s.albedo[rows] = s.albedo[rows] * tone[:, None] * (1 - dry) \
        + dry * np.array([.30, .27, .14], np.float32)


def _leaves(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
            night: float) -> None:
    tone = 1 + .30 * noise(FINE, uv, .13) * _fade(footprint, .5) + .12 * noise(MEDIUM, uv, .2)
    s.albedo[rows] *= np.clip(tone, .3, 1.8)[:, None]


def _roof(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    course = uv[:, 1] / .38
    tone = 1 - .24 * (course % 1 < .3) * _fade(footprint, .38) + .08 * noise(COARSE, uv, .3) \
        + .12 * (chance(np.floor(course), np.floor(uv[:, 0] / .3)) - .5) * _fade(footprint, .3)
    s.albedo[rows] *= tone[:, None]


def _bark(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    s.albedo[rows] *= (1 + .22 * noise(FINE, uv * np.array([1, .25], np.float32), .05))[:, None]


def _board(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
           night: float) -> None:
    """Paint a traffic sign's face: a coloured border, a light field, a dark symbol."""
    r = np.hypot(uv[:, 0], uv[:, 1])
    white = (r < .62) & ((np.abs(uv[:, 1]) < .16) | (s.albedo[rows, 0] > .4))
    s.albedo[rows] = np.where(white[:, None], np.float32(.82), s.albedo[rows])
    dark = (np.abs(uv[:, 0]) < .14) & (np.abs(uv[:, 1]) < .38) & white
    s.albedo[rows] = np.where(dark[:, None], np.float32(.05), s.albedo[rows])


def _glass(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
           night: float) -> None:
    s.gloss[rows] = .6
    s.window[rows] = True


def _paint(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
           night: float) -> None:
    s.gloss[rows] = .22


def _lamp(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    if night > .3:
        s.glow[rows] += np.array([1.6, 1.35, .95], np.float32)


def _tail(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    s.glow[rows] += s.albedo[rows] * np.float32(.25 + 1.6 * (night > .3))


def _wire(s: Surface, rows: NDArray[np.int64], uv: Float, style: Float, footprint: Float,
          night: float) -> None:
    s.albedo[rows] *= .8
