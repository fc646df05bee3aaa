"""Light and weather of one traversal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KINDS = ('clear', 'overcast', 'haze', 'dusk', 'wet')


@dataclass(frozen=True)
class Weather:
    """
    What the light does on one trip; colours are linear RGB.

    sun: unit direction towards it, map frame. sunlight, skylight: (3,) irradiance. zenith,
    horizon: (3,) sky colours. clouds: cover 0..1. visibility: metres. exposure: a factor.
    noise: sigma of a pixel, of 1. wet: 0..1. night: share of lit windows and lamps, 0..1.
    balance: (3,) white balance error. drift: where the clouds are, (2,).
    """

    kind: str
    sun: Array
    sunlight: Array
    skylight: Array
    zenith: Array
    horizon: Array
    clouds: float
    visibility: float
    exposure: float
    noise: float
    wet: float
    night: float
    balance: Array
    drift: Array


def draw_weather(rng: np.random.Generator, kind: str | None = None) -> Weather:
    """Return the weather of a trip, of one of KINDS or of any."""
    kind = kind or str(rng.choice(KINDS, p=[.42, .24, .10, .12, .12]))
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.radians(rng.uniform(18, 62) if kind != 'dusk' else rng.uniform(4, 11))
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation),
                    np.sin(elevation)])
    warm = np.clip(1.0 - np.sin(elevation) * 1.6, 0, 1)
    tint = np.array([1.0, .95 - .22 * warm, .88 - .48 * warm])
    base = {'clear': (2.5, .62, .35, 2500.), 'overcast': (.12, 1.45, .97, 1100.),
            'haze': (1.1, 1.0, .7, 260.), 'dusk': (.9, .36, .5, 1200.),
            'wet': (.05, 1.15, 1.0, 600.)}[kind]
    blue, grey = np.array([.20, .38, .78]), np.array([.70, .73, .78])
    cover = float(np.clip(base[2] + rng.normal(0, .12), 0, 1))
    zenith = blue * (1 - cover * .6) + grey * cover * .5
    horizon = np.array([.78, .85, .95]) * (1 - cover * .3) + grey * cover * .25
    if kind == 'dusk':
        zenith, horizon = np.array([.10, .14, .30]), np.array([.85, .50, .30])
    elif kind in ('overcast', 'wet', 'haze'):
        tone = rng.uniform(.75, 1.05)
        zenith, horizon = np.array([.62, .66, .72]) * tone, np.array([.80, .83, .86]) * tone
    scale = rng.uniform(.8, 1.2)
    sky = (.45 * zenith / zenith.mean() + .55) * base[1] * .62 * scale
    return Weather(
        kind, sun, base[0] * tint * rng.uniform(.8, 1.15), sky, zenith * scale, horizon * scale,
        cover, base[3] * float(rng.uniform(.75, 1.3)),
        float(rng.uniform(.62, .98)) * (1.6 if kind == 'dusk' else 1.0),
        float(rng.uniform(.006, .016)) * (1.8 if kind == 'dusk' else 1.0),
        float(kind == 'wet') * float(rng.uniform(.6, 1)), float(kind == 'dusk') * .55
        + .06 * (kind in ('wet', 'overcast')),
        1 + rng.normal(0, .03, 3), rng.uniform(0, 50, 2))
