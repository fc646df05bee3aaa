"""
Batches by step number: the same step of the same recipe is the same batch, run or resumed.

Nothing here has a state: the random numbers of a step are made from the seed and the step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from ..encoders.config import AnyImage
from .augment import jitter_colours, mirrored, token_columns, turned
from .config import TrainingConfig
from .pairs import PreparedSite


@dataclass(frozen=True)
class Batch:
    """
    B pairs for one step.

    images: (B, h, w, 3) in 0..255. clouds: what the cloud encoder takes, B of each. column:
    (B, N) the image column of each cloud token, before the cloud was turned, as the labels are.
    geometry: what the geometry heads are told, the views' profiles (B, bins, 2) or the images'
    depth (B, h', w'), or (B, 0). image_xy, cloud_xy: (B, 2);
    image_yaw, cloud_yaw: (B,); frame: (B,), by number, which frame these are in, negative in a
    mirror: positions are comparable only between pairs of the same number.
    """

    images: Tensor
    clouds: tuple[Tensor, ...]
    column: Tensor
    geometry: Tensor
    image_xy: Tensor
    image_yaw: Tensor
    cloud_xy: Tensor
    cloud_yaw: Tensor
    frame: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return self._each(lambda value: value.to(device))

    def rows(self, chosen: slice) -> Batch:
        """Return some of the pairs."""
        return self._each(lambda value: value[chosen])

    def _each(self, change: Any) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {
            name: tuple(map(change, value)) if isinstance(value, tuple) else change(value)
            for name, value in values.items()}
        return Batch(**changed)


def draw_batch(sites: list[PreparedSite], config: TrainingConfig, step: int) -> Batch:
    """Return the augmented batch of this step; the same for the same seed and step."""
    rng = np.random.default_rng([config.seed, step])
    n_sites = min(config.sites_per_batch, len(sites), config.batch)
    chosen = rng.choice(len(sites), n_sites, replace=False)
    # Several sites may lie in one frame, and along the same streets (drives of a data set).
    frames = [site.frame for site in sites]
    parts = [_draw(sites[place], frames.index(sites[place].frame), len(share), config, rng)
             for place, share in zip(
                 chosen, np.array_split(np.arange(config.batch), n_sites), strict=True)]
    one = {name: np.concatenate([part[name] for part in parts])
           for name in parts[0] if name != 'clouds'}
    clouds = tuple(np.concatenate(each) for each in zip(
        *(part['clouds'] for part in parts), strict=True))

    images = jitter_colours(one['images'], config.colour_jitter, rng)
    angles = np.radians(rng.uniform(-1.0, 1.0, len(images)) * config.yaw_jitter_deg)
    geometry, frame = one['geometry'], one['frame']
    if config.mirror > 0.0:
        flip = rng.random(len(images)) < config.mirror
        clouds = mirrored(clouds, flip, config.model)
        images[flip] = images[flip][:, :, ::-1]
        # Across a profile's bins, and across a depth image's columns.
        across = 2 if config.supervision == 'depth' else 1
        geometry[flip] = np.flip(geometry[flip], across)
        frame = np.where(flip, -1 - frame, frame)
    # Before the turn: a token answers for the column of its labels, whichever way it then lies.
    columns = token_columns(clouds, config.model)
    if config.views == 'map':
        clouds = turned(clouds, angles, config.model)
    return Batch(
        torch.from_numpy(images), tuple(torch.from_numpy(part) for part in clouds),
        torch.from_numpy(columns), torch.from_numpy(geometry),
        frame=torch.from_numpy(frame),
        **{name: torch.from_numpy(one[name])
           for name in ('image_xy', 'image_yaw', 'cloud_xy', 'cloud_yaw')})


def _draw(
    site: PreparedSite, frame: int, count: int, config: TrainingConfig,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return `count` pairs of one site, of a frame by number, by the names of `Batch`."""
    rows = _rows(site, count, config, rng)
    images = site.paired[rows]
    views = np.array([rng.choice(site.candidates[row]) for row in rows])
    geometry: NDArray[np.float32] = np.zeros((count, 0), np.float32)
    if site.profiles is not None:
        geometry = np.array(site.profiles[views], np.float32)
    elif site.depth is not None:
        geometry = np.array(site.depth[images], np.float32)
    return {'images': site.images[images], 'clouds': tuple(part[views] for part in site.clouds),
            'geometry': geometry,
            'image_xy': site.image_xy[images], 'image_yaw': site.image_yaw[images],
            'cloud_xy': site.cloud_xy[views], 'cloud_yaw': site.cloud_yaw[views],
            'frame': np.full(count, frame)}


def _rows(
    site: PreparedSite, count: int, config: TrainingConfig, rng: np.random.Generator,
) -> NDArray[np.int64]:
    """
    Return which of the paired images to take: any, or `images_per_place` of each place.

    Of a place: an image and others within a quarter of `positive_m` of it, looking its way.
    """
    n = len(site.paired)
    if config.images_per_place == 1:
        return rng.choice(n, count, replace=count > n)
    xy, yaw = site.image_xy[site.paired], site.image_yaw[site.paired]
    rows: list[int] = []
    while len(rows) < count:
        row = int(rng.integers(n))
        apart = np.linalg.norm(xy - xy[row], axis=1)
        near = np.flatnonzero((apart < config.positive_m / 4.0) & (np.cos(yaw - yaw[row]) > 0.87)
                              & (np.arange(n) != row))
        others = rng.permutation(near)[:config.images_per_place - 1]
        rows += [row, *others.tolist()]
    return np.array(rows[:count])


def normalise(images: Tensor, config: AnyImage) -> Tensor:
    """Return the image encoder's input (B, 3, h, w) of images (B, h, w, 3) in 0..255."""
    mean = torch.tensor(config.mean, device=images.device)
    std = torch.tensor(config.std, device=images.device)
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()
