"""
Batches by step number: the same step of the same recipe is the same batch, run or resumed.

Nothing here has a state: the random numbers of a step are made from the seed and the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from ..encoders.config import ImageConfig, ModelConfig
from .config import TrainingConfig
from .pairs import azimuth_column, PreparedSite


@dataclass(frozen=True)
class Batch:
    """
    Pairs for one step: images (B, h, w, 3) in 0..255, groups, centres, profiles, places.

    column: (B, G) the image column of each cloud token. image_xy, submap_xy: (B, 2); site: (B,).
    """

    images: Tensor
    groups: Tensor
    centres: Tensor
    column: Tensor
    profile: Tensor
    image_xy: Tensor
    submap_xy: Tensor
    site: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(*(value.to(device) for value in vars(self).values()))


def draw_batch(sites: list[PreparedSite], config: TrainingConfig, step: int) -> Batch:
    """Return the augmented batch of this step; the same for the same seed and step."""
    rng = np.random.default_rng([config.seed, step])
    n_sites = min(config.sites_per_batch, len(sites), config.batch)
    chosen = rng.choice(len(sites), n_sites, replace=False)
    parts = []
    for place, share in zip(chosen, np.array_split(np.arange(config.batch), n_sites), strict=True):
        site = sites[place]
        rows = rng.choice(len(site.paired), len(share), replace=len(share) > len(site.paired))
        submaps = [rng.choice(site.candidates[row]) for row in rows]
        parts.append(_gather(site, int(place), site.paired[rows], np.array(submaps)))
    gathered = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    images, groups, centres, profiles, image_xy, submap_xy, site_ids = gathered

    images = jitter_colours(images, config.colour_jitter, rng)
    angles = np.radians(rng.uniform(-1.0, 1.0, len(images)) * config.yaw_jitter_deg)
    groups, centres = turn_tokens(groups, centres, angles, config.model)
    return _to_batch(images, groups, centres, profiles, image_xy, submap_xy, site_ids,
                     config.model)


def _gather(
    site: PreparedSite, number: int, images: NDArray[np.int64], submaps: NDArray[np.int64],
) -> tuple[NDArray, ...]:
    return (site.images[images], site.groups[submaps], site.centres[submaps],
            site.profiles[submaps], site.image_xy[images], site.submap_xy[submaps],
            np.full(len(images), number))


def _to_batch(
    images: NDArray, groups: NDArray, centres: NDArray, profiles: NDArray, image_xy: NDArray,
    submap_xy: NDArray, site_ids: NDArray, model: ModelConfig,
) -> Batch:
    columns = model.image.width // model.image.patch
    place = azimuth_column(azimuth_of(centres, model), model.image)
    with np.errstate(invalid='ignore'):
        inside = (place >= 0.0) & (place < 1.0)
        column = np.where(inside, np.floor(place * columns), -1).astype(np.int64)
    return Batch(
        torch.from_numpy(images), torch.from_numpy(groups), torch.from_numpy(centres),
        torch.from_numpy(column), torch.from_numpy(profiles), torch.from_numpy(image_xy),
        torch.from_numpy(submap_xy), torch.from_numpy(site_ids))


def normalise(images: Tensor, config: ImageConfig) -> Tensor:
    """Return the image encoder's input (B, 3, h, w) of images (B, h, w, 3) in 0..255."""
    mean = torch.tensor(config.mean, device=images.device)
    std = torch.tensor(config.std, device=images.device)
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def azimuth_of(centres: NDArray[np.float32], model: ModelConfig) -> NDArray[np.float32]:
    """Return the azimuth (B, G) of token centres (B, G, 3), radians, positive to the left."""
    if model.cloud.tokens.space == 'spherical':
        return centres[..., 0]
    return np.arctan2(centres[..., 1], centres[..., 0])


def turn_tokens(
    groups: NDArray[np.float32], centres: NDArray[np.float32], angles: NDArray[np.float64],
    model: ModelConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Return the tokens (B, G, K, 3), (B, G, 3) of submaps turned by `angles` (B,) about z, radians.

    In spherical coordinates a turn is a shift of the azimuth, and groups, which are relative to
    their centres, stay as they are.
    """
    if model.cloud.tokens.space == 'spherical':
        shift = np.zeros((len(angles), 1, 3), np.float32)
        shift[:, 0, 0] = angles
        return groups, centres + shift
    c, s = np.cos(angles), np.sin(angles)
    zero, one = np.zeros_like(c), np.ones_like(c)
    R = np.stack([c, -s, zero, s, c, zero, zero, zero, one], 1).reshape(-1, 3, 3)
    R = R.astype(np.float32)
    return (np.einsum('bij,bgkj->bgki', R, groups), np.einsum('bij,bgj->bgi', R, centres))


def jitter_colours(
    images: NDArray[np.uint8], strength: float, rng: np.random.Generator,
) -> NDArray[np.float32]:
    """
    Return images (B, h, w, 3) in 0..255 as float32, with light, contrast, tint and noise varied.

    strength 0 changes nothing but the type; 0.3 varies each factor by about 30 %.
    """
    x = images.astype(np.float32)
    if strength == 0.0:
        return x
    n = len(x)

    def factor(*shape: int) -> NDArray[np.float32]:
        return np.exp(rng.uniform(-strength, strength, (n, *shape))).astype(np.float32)

    mean = x.mean((1, 2, 3), keepdims=True)
    x = (x - mean) * factor(1, 1, 1) + mean * factor(1, 1, 1)
    grey = x.mean(3, keepdims=True)
    x = grey + (x - grey) * rng.uniform(1 - 2 * strength, 1 + strength, (n, 1, 1, 1)).astype('f4')
    x = x * (1.0 + (factor(1, 1, 3) - 1.0) * 0.3)
    x = x + rng.standard_normal(x.shape, np.float32) * (8.0 * strength)
    return np.clip(x, 0.0, 255.0)
