"""Templates of cars, vans, lorries, buses, cyclists and pedestrians, and their placing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .mesh import (
    CAR,
    DARK,
    GLASS,
    icosphere,
    LAMP,
    Local,
    Mesh,
    MeshBuilder,
    PAINT,
    PERSON,
    PLAIN,
    TAIL,
    TRUCK,
)

Array = NDArray[np.float64]

PAINTS = np.array([[.62, .63, .64], [.75, .75, .74], [.07, .07, .08], [.24, .25, .27],
                   [.40, .06, .06], [.06, .12, .30], [.10, .22, .14], [.52, .46, .34],
                   [.16, .30, .42], [.45, .22, .05], [.35, .36, .38], [.80, .80, .78]])
CLOTHES = np.array([[.12, .13, .18], [.35, .08, .08], [.10, .22, .35], [.5, .45, .38],
                    [.06, .06, .07], [.25, .3, .2], [.6, .6, .58], [.55, .4, .1]])


def _car(profile: ArrayLike, glass: ArrayLike, width: float, label: int = CAR) -> Mesh:
    """
    Return a vehicle, x forward from its middle, on the ground.

    profile: (k, 2) x and z of the body's outline, anticlockwise seen from the right, convex
    below the waist and above; glass: (4, 2) the cabin's lower and upper corners (back low, front
    low, front high, back high), inside of which the windows lie.
    """
    builder = MeshBuilder()
    place = Local(builder, [0, 0], 0.0)
    low = np.asarray(profile, float)
    cabin = np.asarray(glass, float)
    white = (1.0, 1.0, 1.0)
    half = width / 2

    def hull(ring: Array, y_low: float, y_top: float, colour: ArrayLike, kind: int) -> None:
        top = ring[:, 1].max()
        base = ring[:, 1].min()
        y = y_low + (y_top - y_low) * (ring[:, 1] - base) / max(top - base, 1e-6)
        right = np.stack([ring[:, 0], -y, ring[:, 1]], 1)
        left = right * [1, -1, 1]
        nxt = np.roll(np.arange(len(ring)), -1)
        place.quad(np.stack([right, right[nxt], left[nxt], left], 1), label, colour, kind)
        for side in (right, left):
            fan = np.stack([np.repeat(side[:1], len(side) - 2, 0), side[1:-1], side[2:]], 1)
            place.triangles(fan, label, colour, kind)

    hull(low, half, half - .04, white, PAINT)
    hull(cabin, half - .05, half - .24, white, PAINT)
    # Panes lie a little outside the cabin's sheet metal.
    centre = cabin.mean(0)
    inner = centre + (cabin - centre) * [.90, .74]
    base, top = cabin[:, 1].min(), cabin[:, 1].max()
    y = half - .05 - .19 * (inner[:, 1] - base) / (top - base) + .015
    for s in (-1, 1):
        pane = np.stack([inner[:, 0], s * y, inner[:, 1]], 1)
        place.quad(pane, label, (.09, .11, .13), GLASS)
    for below, above, out in ((1, 2, .02), (0, 3, -.02)):
        p, q = (cabin[below] + (cabin[above] - cabin[below]) * k for k in (.12, .88))
        w0, w1 = half - .14, half - .28
        place.quad([[p[0] + out, -w0, p[1] + .01], [p[0] + out, w0, p[1] + .01],
                    [q[0] + out, w1, q[1] + .01], [q[0] + out, -w1, q[1] + .01]],
                   label, (.09, .11, .13), GLASS)
    front, back = low[:, 0].max(), low[:, 0].min()
    for x in (front - .85, back + .8):
        for s in (-1, 1):
            a = np.arange(9) * 2 * np.pi / 9
            r = .33 if label == CAR else .46
            side_y = np.full(9, s * (half + .015))
            ring = np.stack([x + r * np.cos(a), side_y, r + r * np.sin(a)], 1)
            inner_ring = ring * [1, .8, 1]
            nxt = np.roll(np.arange(9), -1)
            fan = np.stack([np.repeat(ring[:1], 7, 0), ring[1:-1], ring[2:]], 1)
            place.triangles(fan, label, (.03, .03, .03), DARK)
            place.quad(np.stack([ring, ring[nxt], inner_ring[nxt], inner_ring], 1), label,
                       (.03, .03, .03), DARK)
            hub = np.array([x, s * (half + .03), r]) + (ring - [x, s * (half + .015), r]) * .55
            fan = np.stack([np.repeat(hub[:1], 7, 0), hub[1:-1], hub[2:]], 1)
            place.triangles(fan, label, (.35, .35, .36))
    for x, out, colour, kind in ((front, .012, (.9, .9, .85), LAMP),
                                 (back, -.012, (.55, .03, .02), TAIL)):
        for s in (-1, 1):
            y0, y1 = s * (half - .08), s * (half - .42)
            place.quad([[x + out, y0, .66], [x + out, y1, .66], [x + out, y1, .84],
                        [x + out, y0, .84]], label, colour, kind)
        place.quad([[x + out, -.26, .44], [x + out, .26, .44], [x + out, .26, .56],
                    [x + out, -.26, .56]], label, (.8, .8, .75), PLAIN)
        place.quad([[x + out, -half + .1, .28], [x + out, half - .1, .28],
                    [x + out, half - .1, .42], [x + out, -half + .1, .42]], label,
                   (.04, .04, .04), DARK)
    # What lies under a car is dark whatever the sky: a patch on the ground, a road to the label.
    place.quad([[back + .1, -half, .012], [front - .1, -half, .012], [front - .1, half, .012],
                [back + .1, half, .012]], 7, (.012, .012, .012), DARK)
    return builder.mesh()


def _outline(length: float, nose: float, waist: float, tail: float) -> list[list[float]]:
    a, b = -length / 2, length / 2
    return [[a, .30], [b, .30], [b, nose - .12], [b - .25, nose], [b - 1.2, waist],
            [a + .35, waist], [a, tail]]


def vehicle_templates() -> list[Mesh]:
    """Return hatchback, saloon, estate car, SUV, van, delivery lorry and bus, in this order."""
    return [
        _car(_outline(3.9, .72, .90, .86), [[-1.85, .88], [.95, .88], [.25, 1.46], [-1.45, 1.46]],
             1.70),
        _car(_outline(4.6, .70, .88, .92), [[-1.65, .88], [1.05, .88], [.35, 1.42], [-.95, 1.42]],
             1.78),
        _car(_outline(4.7, .72, .90, .90), [[-2.25, .88], [1.0, .88], [.35, 1.48], [-1.95, 1.48]],
             1.80),
        _car(_outline(4.5, .92, 1.08, 1.05), [[-2.1, 1.06], [.95, 1.06], [.4, 1.74], [-1.9, 1.74]],
             1.88),
        _car(_outline(5.3, .98, 1.15, 1.1), [[-2.62, 1.1], [2.0, 1.1], [1.35, 2.25], [-2.6, 2.25]],
             1.98),
        _lorry(),
        _bus(),
    ]


def _wheels(place: Local, at: list[float], half: float, label: int) -> None:
    a = np.arange(10) * 2 * np.pi / 10
    for x in at:
        for s in (-1, 1):
            ring = np.stack([x + .48 * np.cos(a), np.full(10, s * (half + .01)),
                             .48 + .48 * np.sin(a)], 1)
            fan = np.stack([np.repeat(ring[:1], 8, 0), ring[1:-1], ring[2:]], 1)
            place.triangles(fan, label, (.03, .03, .03), DARK)


def _lights(place: Local, front: float, back: float, half: float, label: int) -> None:
    for x, out, colour, kind in ((front, .02, (.9, .9, .85), LAMP),
                                 (back, -.02, (.55, .03, .02), TAIL)):
        for s in (-1, 1):
            y0, y1 = s * (half - .1), s * (half - .5)
            place.quad([[x + out, y0, .7], [x + out, y1, .7], [x + out, y1, .95],
                        [x + out, y0, .95]], label, colour, kind)


def _lorry() -> Mesh:
    builder = MeshBuilder()
    place = Local(builder, [0, 0], 0.0)
    place.box((-3.6, 1.6), (-1.15, 1.15), (.75, 3.3), TRUCK, (1, 1, 1), PAINT)
    place.box((-3.6, 3.4), (-1.0, 1.0), (.45, .75), TRUCK, (.06, .06, .06), DARK)
    place.box((1.75, 3.5), (-1.1, 1.1), (.5, 2.5), TRUCK, (.55, .55, .56), PLAIN)
    place.quad([[3.52, -1.0, 1.4], [3.52, 1.0, 1.4], [3.52, 1.0, 2.3], [3.52, -1.0, 2.3]], TRUCK,
               (.09, .11, .13), GLASS)
    for s in (-1, 1):
        place.quad([[2.2, s * 1.12, 1.4], [3.3, s * 1.12, 1.4], [3.3, s * 1.12, 2.2],
                    [2.2, s * 1.12, 2.2]], TRUCK, (.09, .11, .13), GLASS)
    _wheels(place, [2.6, -2.4], 1.15, TRUCK)
    _lights(place, 3.5, -3.6, 1.1, TRUCK)
    return builder.mesh()


def _bus() -> Mesh:
    builder = MeshBuilder()
    place = Local(builder, [0, 0], 0.0)
    place.box((-5.6, 5.6), (-1.25, 1.25), (.4, 3.05), TRUCK, (1, 1, 1), PAINT)
    for s in (-1, 1):
        for k in range(6):
            a = -5.2 + 1.75 * k
            place.quad([[a, s * 1.27, 1.35], [a + 1.6, s * 1.27, 1.35], [a + 1.6, s * 1.27, 2.55],
                        [a, s * 1.27, 2.55]], TRUCK, (.09, .11, .13), GLASS)
    for x in (-5.62, 5.62):
        place.quad([[x, -1.1, 1.2], [x, 1.1, 1.2], [x, 1.1, 2.6], [x, -1.1, 2.6]], TRUCK,
                   (.09, .11, .13), GLASS)
    _wheels(place, [3.6, -3.2], 1.25, TRUCK)
    _lights(place, 5.6, -5.6, 1.2, TRUCK)
    return builder.mesh()


def person_templates(rng: np.random.Generator) -> list[Mesh]:
    """Return pedestrians in several clothes and gaits, and two cyclists last, x forward."""
    people = []
    for k in range(14):
        builder = MeshBuilder()
        place = Local(builder, [0, 0], 0.0)
        coat, legs = CLOTHES[rng.integers(len(CLOTHES))], CLOTHES[rng.integers(len(CLOTHES))]
        skin = np.array([.55, .38, .28]) * rng.uniform(.4, 1.2)
        tall = float(rng.uniform(.88, 1.06))
        cyclist = k >= 12
        lift = .45 if cyclist else 0.0
        stride = .22 if cyclist else float(rng.choice([.05, .28, .34]))
        for s, step in ((1, stride), (-1, -stride)):
            hip, foot = [0, s * .1, .86 * tall + lift], [step, s * .1, 0.06 + lift * .6]
            _limb(place, hip, foot, .085, legs)
            hand = [.45, s * .22, .95 + lift] if cyclist else [-step * .8, s * .27, .85 * tall]
            _limb(place, [0, s * .22, 1.40 * tall + lift], hand, .055, coat)
        ring = np.array([[.14, .12], [.14, -.12], [.06, -.24], [-.10, -.24], [-.10, .24],
                         [.06, .24]])[::-1]
        place.prism(ring * .9, .80 * tall + lift, 1.46 * tall + lift, PERSON, coat, shrink=1.0)
        place.round(.02, 0, .10, 1.46 * tall + lift, 1.56 * tall + lift, PERSON, skin, sides=6)
        head = np.array([.02, 0, 1.65 * tall + lift])
        from_mesh = _ball(.125)
        place.triangles(from_mesh + head, PERSON, skin)
        hair = rng.uniform(.02, .3) * np.array([1, .75, .5])
        place.triangles(from_mesh * [1.08, 1.08, .7] + head + [-.03, 0, .06], PERSON, hair)
        if cyclist:
            for x in (-.5, .55):
                a = np.arange(12) * np.pi / 6
                rim = np.stack([x + .34 * np.cos(a), np.zeros(12), .34 + .34 * np.sin(a)], 1)
                inner = np.stack([x + .29 * np.cos(a), np.zeros(12), .34 + .29 * np.sin(a)], 1)
                nxt = np.roll(np.arange(12), -1)
                place.quad(np.stack([rim, rim[nxt], inner[nxt], inner], 1), PERSON,
                           (.04, .04, .04))
            _limb(place, [-.5, 0, .34], [0, 0, .85], .03, (.5, .1, .1))
            _limb(place, [0, 0, .45], [.5, 0, .95], .03, (.5, .1, .1))
            _limb(place, [.55, 0, .34], [.48, 0, 1.05], .03, (.1, .1, .1))
        people.append(builder.mesh())
    return people


def _ball(radius: float) -> Array:
    return icosphere(0) * [radius, radius * .9, radius * 1.15]


def _limb(place: Local, a: ArrayLike, b: ArrayLike, r: float, colour: ArrayLike) -> None:
    p, q = np.asarray(a, float), np.asarray(b, float)
    ring = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * r
    low = np.column_stack([p[:2] + ring, np.full(4, p[2])])
    high = np.column_stack([q[:2] + ring * .8, np.full(4, q[2])])
    nxt = np.roll(np.arange(4), -1)
    place.quad(np.stack([low, low[nxt], high[nxt], high], 1), PERSON, colour)


def placed(template: Mesh, xyyaw: ArrayLike, z: ArrayLike, paint: ArrayLike) -> Mesh:
    """
    Return k copies of a template at map poses (k, 3): x, y, yaw, and heights (k,).

    Triangles of kind PAINT take the copy's colour, paint (k, 3).
    """
    p = np.asarray(xyyaw, np.float32).reshape(-1, 3)
    k, n = len(p), len(template)
    c, s = np.cos(p[:, 2]), np.sin(p[:, 2])
    R = np.zeros((k, 3, 3), np.float32)
    R[:, 0, 0], R[:, 0, 1], R[:, 1, 0], R[:, 1, 1], R[:, 2, 2] = c, -s, s, c, 1
    shift = np.column_stack([p[:, :2], np.broadcast_to(np.asarray(z, np.float32), k)])
    flat = template.vertices.reshape(-1, 3)
    v = (flat[None] @ R.transpose(0, 2, 1) + shift[:, None]).reshape(k * n, 3, 3)
    colour = np.tile(template.colour, (k, 1, 1))
    painted = template.kind == PAINT
    colour[:, painted] *= np.asarray(paint, np.float32).reshape(-1, 1, 3)
    return Mesh(v.astype(np.float32), np.tile(template.uv, (k, 1, 1)),
                colour.reshape(-1, 3).astype(np.float32), np.tile(template.label, k),
                np.tile(template.kind, k), np.tile(template.style, k))
