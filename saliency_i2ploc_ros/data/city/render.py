"""What a camera sees of a scene: colours with sun, shadow and weather, depth and classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...geometry.cameras import Camera, Pinhole
from .mesh import Float, SKY, VEGETATION
from .textures import COARSE, MEDIUM, noise, surface
from .weather import Weather
from .world import Hits, Scene

Array = NDArray[np.float64]

EDGE_RAYS = ((-.30, -.18), (.30, -.10), (.0, .32))


@dataclass(frozen=True)
class Picture:
    """
    One rendered frame.

    rgb: (H, W, 3) uint8. depth: (H, W) float32, metres along the optical axis of a perspective
    camera and along the ray of any other, inf for sky. labels: (H, W) uint8, classes of
    saliency_i2ploc_ros.data.labels. Where no ray comes to a fisheye's pixel: black, inf, 0.
    """

    rgb: NDArray[np.uint8]
    depth: Float
    labels: NDArray[np.uint8]


@lru_cache(maxsize=16)
def _rays(camera: Camera, shift: tuple[float, float] = (0.0, 0.0)) -> Float:
    """Return the unit directions of all pixels, (H * W, 3), in the optical frame; or NaN."""
    return camera.rays(camera.pixels() + shift).astype(np.float32)


@lru_cache(maxsize=8)
def _lit(camera: Camera) -> NDArray[np.int64]:
    """Return the pixels (flat) that light comes to, wherever in them a ray is sought."""
    seen = [np.isfinite(_rays(camera, shift)).all(1) for shift in ((0.0, 0.0), *EDGE_RAYS)]
    return np.flatnonzero(np.all(seen, 0))


def render(scene: Scene, T_map_camera: Array, camera: Camera, weather: Weather, styles: Float,
           rng: np.random.Generator, smooth: bool = True) -> Picture:
    """
    Render a frame; T_map_camera (4, 4) is the optical frame's pose, styles the city's table.

    rng draws the sensor's noise. smooth: edges of things are drawn with three rays a pixel.
    """
    R = T_map_camera[:3, :3].astype(np.float32)
    lit, pixel = _lit(camera), camera.pixel_angle
    rays = _rays(camera)[lit]
    directions = np.ascontiguousarray(rays @ R.T)
    origin = T_map_camera[:3, 3].astype(np.float32)
    hits = scene.trace(origin, directions)
    colour = shade(scene, origin, directions, hits, weather, styles, pixel)
    if smooth:
        rows = _edges(hits, camera, lit)
        d = np.concatenate([_rays(camera, shift)[lit[rows]] for shift in EDGE_RAYS]) @ R.T
        extra = shade(scene, origin, d, scene.trace(origin, d), weather, styles, pixel)
        colour[rows] = extra.reshape(len(EDGE_RAYS), -1, 3).mean(0)
    along = rays[:, 2] if isinstance(camera, Pinhole) else np.float32(1.0)
    depth = np.where(hits.hit, hits.distance * along, np.float32(np.inf)).astype(np.float32)
    labels = np.where(hits.hit, hits.label, np.uint8(SKY)).astype(np.uint8)
    rgb = _develop(_full(colour, camera, lit, 0.0), weather, rng)
    rgb.reshape(-1, 3)[_unlit(camera)] = 0
    return Picture(rgb, _full(depth, camera, lit, np.inf), _full(labels, camera, lit, 0))


def _full(values: NDArray, camera: Camera, lit: NDArray[np.int64], rest: float) -> NDArray:
    """Return the image (H, W, ...) of values (n, ...) at `lit` pixels, and `rest` elsewhere."""
    image = np.full((camera.height * camera.width, *values.shape[1:]), rest, values.dtype)
    image[lit] = values
    return image.reshape(camera.height, camera.width, *values.shape[1:])


@lru_cache(maxsize=8)
def _unlit(camera: Camera) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(camera.height * camera.width), _lit(camera))


def _edges(hits: Hits, camera: Camera, lit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of the hits of `lit` pixels have something else beside or below them."""
    near = _full(np.log(hits.distance), camera, lit, np.nan)
    label = _full(hits.label, camera, lit, 0)
    up = _full(hits.normal[:, 2], camera, lit, 0.0)
    leafy = label == VEGETATION
    edge = np.zeros(near.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        jump = np.abs(near[a] - near[b])
        step = (jump > .08) & (up[a] < .9) & ~(leafy[a] & leafy[b] & (jump < .3))
        step |= (jump > .5) | (label[a] != label[b])
        edge[a] |= step
        edge[b] |= step
    return np.flatnonzero(edge.ravel()[lit])


def shade(scene: Scene, origin: Float, directions: Float, hits: Hits, weather: Weather,
          styles: Float, pixel: float) -> Float:
    """Return the light (n, 3), linear, that comes along rays; `pixel` is their angle apart."""
    light = np.empty_like(directions)
    rows, none = np.flatnonzero(hits.hit), np.flatnonzero(~hits.hit)
    light[none] = sky(directions[none], weather)
    if not len(rows):
        return light
    d, t, normal = directions[rows], hits.distance[rows], hits.normal[rows]
    facing = np.maximum(-np.einsum('ij,ij->i', d, normal), .15)
    s = surface(hits.kind[rows], hits.style[rows], hits.uv[rows], hits.colour[rows],
                t * np.float32(pixel) / facing, styles, weather.night)
    sun = weather.sun.astype(np.float32)
    point = origin + d * t[:, None]
    toward = normal @ sun
    lit = np.maximum(toward, 0)
    strong = float(weather.sunlight.max()) > .2
    if strong:
        asked = np.flatnonzero((toward > 0) & (t < 150))
        start = np.ascontiguousarray((point + normal * np.float32(.02))[asked])
        lit[asked[scene.shadowed(start, sun)]] = 0
    else:
        lit = lit * .6
    # Near the ground and under eaves less of the sky is seen.
    open_sky = np.float32(.58) + np.float32(.42) * normal[:, 2]
    low = (np.abs(normal[:, 2]) < .5) * np.exp(-np.maximum(point[:, 2], 0) / np.float32(1.2))
    open_sky = open_sky * (1 - np.float32(.25) * low)
    bounce = np.maximum(.35 - .35 * normal[:, 2], 0) * weather.sunlight.mean() * .16
    wet = np.float32(weather.wet) * (normal[:, 2] > .9) * (point[:, 2] < .3)
    albedo = s.albedo * (1 - np.float32(.45) * wet)[:, None]
    colour = albedo * (lit[:, None] * weather.sunlight.astype(np.float32)
                       + open_sky[:, None] * weather.skylight.astype(np.float32)
                       + bounce[:, None].astype(np.float32))
    puddle = wet * np.clip(.30 + .40 * noise(COARSE, point[:, :2], .6), .04, .8)
    gloss = np.maximum(s.gloss, puddle)
    shiny = np.flatnonzero(gloss > .03)
    if len(shiny):
        n, dd = normal[shiny], d[shiny]
        mirror = dd - 2 * np.einsum('ij,ij->i', dd, n)[:, None] * n
        fresnel = gloss[shiny] * (.10 + .9 * (1 - facing_of(dd, n)) ** 3)
        seen = sky(mirror, weather)
        # What a low mirror ray meets is mostly houses, not sky.
        seen *= np.clip(.30 + 3.0 * mirror[:, 2:3], .25, 1)
        colour[shiny] = colour[shiny] * (1 - fresnel[:, None]) + seen * fresnel[:, None]
    colour += s.glow
    mist = np.exp(-t / np.float32(weather.visibility))[:, None]
    veil = weather.horizon.astype(np.float32) * np.float32(.92)
    light[rows] = colour * mist + veil * (1 - mist)
    return light


def facing_of(d: Float, n: Float) -> Float:
    """Return the cosine between rays and surfaces."""
    return np.abs(np.einsum('ij,ij->i', d, n))


def sky(directions: Float, weather: Weather) -> Float:
    """Return the sky's colour (n, 3) in these directions: gradient, clouds, the sun's glow."""
    z = np.maximum(directions[:, 2], 0)
    rise = (1 - np.exp(-z * np.float32(3.2)))[:, None]
    colour = weather.horizon.astype(np.float32) * (1 - rise) \
        + weather.zenith.astype(np.float32) * rise
    plane = directions[:, :2] / (z[:, None] + np.float32(.12)) * 6 \
        + weather.drift.astype(np.float32)
    billow = noise(COARSE, plane, .16) + .5 * noise(MEDIUM, plane, .13) \
        + .8 * noise(COARSE, plane, .5)
    cover = np.clip((billow * .55 + np.float32(weather.clouds * 2.6 - 1.5)), 0, 1)
    cover = (cover * np.clip(z * 7, 0, 1))[:, None] * np.float32(.75)
    white = (np.float32(.55) * weather.horizon + np.float32(.45)).astype(np.float32)
    if weather.kind == 'dusk':
        white = np.array([.62, .42, .38], np.float32)
    elif weather.kind != 'clear':
        white = (weather.zenith * 1.18).astype(np.float32)
    colour = colour * (1 - cover) + white * cover
    glow = np.maximum(directions @ weather.sun.astype(np.float32), 0)
    shine = (glow ** 60 * .5 + glow ** 6 * .14) * (1 - weather.clouds * .7)
    return np.asarray(colour + shine[:, None] * weather.sunlight.astype(np.float32) * .5,
                      np.float32)


def _develop(light: Float, weather: Weather, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the 8-bit image of linear light (H, W, 3): exposure, curve, vignette, noise."""
    h, w = light.shape[:2]
    y, x = np.mgrid[-1:1:h * 1j, -1:1:w * 1j]
    vignette = (1 - .10 * (x * x + y * y)).astype(np.float32)[..., None]
    e = light * (np.float32(weather.exposure) * vignette
                 * weather.balance.astype(np.float32))
    curve = 1 - np.exp(-1.25 * e)
    value = np.maximum(curve, 0) ** np.float32(1 / 2.1)
    # A camera's contrast and colour: an S-curve, and a little more saturation than nature's.
    value = value * value * (3 - 2 * value) * np.float32(.45) + value * np.float32(.55)
    grey = value.mean(2, keepdims=True)
    value = grey + np.float32(1.28) * (value - grey)
    value += rng.standard_normal(light.shape, np.float32) * np.float32(weather.noise)
    return (np.clip(value, 0, 1) * 255 + .5).astype(np.uint8)
