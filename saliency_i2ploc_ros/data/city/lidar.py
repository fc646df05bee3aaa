"""A spinning LiDAR of 64 beams in a scene: ranges with noise, drop-outs, intensity, classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..drive import Scan
from .mesh import BOARD, DARK, FACADE, Float, GLASS, LAMP, LEAVES, MESHWIRE, SIGN, STREET, TAIL
from .textures import chance, surface
from .world import Scene

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lidar:
    """
    A scanner like the HDL-64E; all its rays start at once (no motion distortion).

    beams from `top_deg` down to `bottom_deg`, `columns` round the horizon; returns from min_m to
    max_m, with Gaussian range noise.
    """

    beams: int = 64
    columns: int = 512
    top_deg: float = 3.0
    bottom_deg: float = -25.0
    min_m: float = 1.5
    max_m: float = 80.0
    noise_m: float = 0.02
    dropout: float = 0.012


@lru_cache(maxsize=4)
def _rays(lidar: Lidar) -> Float:
    """Return the unit directions (beams * columns, 3) in the LiDAR's frame: x ahead, z up."""
    elevation = np.radians(np.linspace(lidar.top_deg, lidar.bottom_deg, lidar.beams))
    azimuth = np.pi - (np.arange(lidar.columns) + .5) * 2 * np.pi / lidar.columns
    e, a = np.meshgrid(elevation, azimuth, indexing='ij')
    d = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    return d.reshape(-1, 3).astype(np.float32)


def scan(scene: Scene, T_map_lidar: Array, styles: Float, rng: np.random.Generator,
         lidar: Lidar = Lidar()) -> Scan:
    """Return one sweep of a LiDAR at T_map_lidar (4, 4), its points in the LiDAR's frame."""
    rays = _rays(lidar)
    directions = np.ascontiguousarray(rays @ T_map_lidar[:3, :3].T.astype(np.float32))
    hits = scene.trace(T_map_lidar[:3, 3].astype(np.float32), directions, lidar.max_m)
    luck = rng.random(len(rays), np.float32)
    wobble = rng.standard_normal(len(rays), np.float32)
    rows = np.flatnonzero(hits.hit & (hits.distance > lidar.min_m))
    t = hits.distance[rows]
    facing = np.abs(np.einsum('ij,ij->i', directions[rows], hits.normal[rows]))
    # Only what matters to a LiDAR is computed: panes, paint on the road, signs.
    plain = ~np.isin(hits.kind[rows], (FACADE, STREET, GLASS, BOARD))
    kind, label = hits.kind[rows], hits.label[rows]
    s = surface(np.where(plain, np.uint8(DARK), kind), hits.style[rows], hits.uv[rows],
                hits.colour[rows], np.full(len(rows), .05, np.float32), styles)
    strength = s.albedo.mean(1) * (.35 + .65 * facing)
    strength = np.where((label == SIGN) | (kind == TAIL) | (kind == LAMP), .95, strength)
    # Panes mirror most light away, leaves and wires pass some, and far dark things are lost.
    lost = lidar.dropout + .72 * s.window + .10 * (kind == LEAVES) + .6 * (kind == MESHWIRE) \
        + .35 * np.clip((t - 40) / 40, 0, 1) * (1 - np.clip(strength * 2.5, 0, 1)) \
        + .3 * (facing < .04)
    keep = luck[rows] > lost
    rows, t = rows[keep], t[keep] + np.float32(lidar.noise_m) * wobble[rows[keep]]
    points = rays[rows] * t[:, None]
    grain = .06 * (chance(rows) - .5)
    intensity = np.clip(strength[keep] + grain, 0, 1).astype(np.float32)
    return Scan(points.astype(np.float32), intensity, label[keep].astype(np.uint16))
