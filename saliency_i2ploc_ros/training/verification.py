"""
The training of the verifier: which of the places that look most alike is the image's own.

The encoders are done by then and stay as they are, so that each image and view is encoded once and
kept; what a step costs is the verifier alone. Candidates are what the descriptors find nearest in
several sites together: a search that goes wrong is what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from ..encoders.dual import Branch, DualEncoder
from ..encoders.files import weights_hash
from ..errors import InputError
from ..storage import content_hash
from .batches import normalise
from .config import TrainingConfig
from .origin import verifier_weights
from .pairs import cached, PreparedSite
from .steps import autocast
from .task import TrainingTask

FORMAT = 1     # of what is kept; raised when what is computed changes
ENCODED_AT_ONCE = 32
SAME_VIEW_RAD = math.radians(30.0)
RIGHT_WEIGHT = 3.0  # of a right candidate in the binary loss: there are fewer of them
POSITIVES = 3  # of an image's candidates, at most
NEAREST = 60   # other places: the first few are always candidates, others are drawn of the rest


@dataclass(frozen=True)
class EncodedSite:
    """
    The n paired images and m views of a site as the frozen encoders see them.

    descriptors of images (n, D) and views (m, D), float32; tokens of both, as they are and in a
    mirror (2, n, N, C), (2, m, N, C), float16 and memory-mapped; where they are and look; frame:
    see `PreparedSite`.
    """

    image_descriptors: NDArray[np.float32]
    image_tokens: NDArray[np.float16]
    image_xy: NDArray[np.float64]
    image_yaw: NDArray[np.float64]
    cloud_descriptors: NDArray[np.float32]
    cloud_tokens: NDArray[np.float16]
    cloud_xy: NDArray[np.float64]
    cloud_yaw: NDArray[np.float64]
    frame: str


def encoded_site(
    site: PreparedSite, encoder: DualEncoder, config: TrainingConfig, device: torch.device,
) -> EncodedSite:
    """Return a site encoded by a model in eval mode; what was encoded before is read again."""
    images, (ranges,) = site.images[site.paired], site.clouds
    frozen = set(encoder.state_dict()) - set(verifier_weights(encoder))
    key = content_hash([
        'tokens', FORMAT, config.precision,
        # Weights alone do not say how they are used: in a mirror, by how many heads, ...
        config.model.model_dump(mode='json', exclude={
            'name', 'submap', 'views', 'smooth_m', 'verifier'}),
        weights_hash({name: encoder.state_dict()[name] for name in frozen}),
        *(hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()
          for part in (images, ranges))])

    def as_images(rows: NDArray[np.uint8]) -> Tensor:
        return normalise(torch.from_numpy(rows).to(device), config.model.image)

    def as_ranges(rows: NDArray[np.float16]) -> Tensor:
        return torch.from_numpy(rows).to(device).float()

    def make(folder: Path) -> None:
        with autocast(config.precision, device):
            _encode(folder, 'image', images, as_images, encoder.image)
            _encode(folder, 'cloud', ranges, as_ranges, encoder.cloud)

    folder = cached('tokens', key, make)
    found = {path.stem: np.load(path, mmap_mode='r') for path in folder.glob('*.npy')}
    return EncodedSite(
        found['image_descriptors'], found['image_tokens'], site.image_xy[site.paired],
        site.image_yaw[site.paired], found['cloud_descriptors'], found['cloud_tokens'],
        site.cloud_xy, site.cloud_yaw, site.frame)


@torch.inference_mode()
def _encode(
    folder: Path, name: str, rows: NDArray[Any], prepare: Callable[[NDArray[Any]], Tensor],
    branch: Branch,
) -> None:
    """Write descriptors and tokens of pictures, which are seen as they are and in a mirror."""
    descriptors, tokens = [], []
    for first in range(0, len(rows), ENCODED_AT_ONCE):
        pictures = prepare(np.array(rows[first:first + ENCODED_AT_ONCE]))
        looks = [branch.look(pictures), branch.look(pictures.flip(-1))]
        used = looks if branch.mirrored else looks[:1]
        descriptors.append(F.normalize(torch.cat([
            look.descriptor.float() for look in used], 1), dim=1).cpu().numpy())
        tokens.append(torch.stack([look.tokens for look in looks]).half().cpu().numpy())
    np.save(folder / f'{name}_descriptors.npy', np.concatenate(descriptors))
    np.save(folder / f'{name}_tokens.npy', np.concatenate(tokens, 1))


class Candidates(NamedTuple):
    """
    B images and k places for each. image: (B, N, C) and places: (B, k, N, C), their tokens.

    right: (B, k) bool, which places are the image's own.
    """

    image: Tensor
    places: Tensor
    right: Tensor


def draw_candidates(sites: list[EncodedSite], config: TrainingConfig, step: int) -> Candidates:
    """
    Return `batch` images with `candidates` places each, of `sites_per_batch` sites as one map.

    Own places are within `positive_m` and look the same way (30 degrees); others are `ignored_m`
    away or look `positive_deg` away. All are seen in a mirror in a `mirror`'s share of the steps.
    The same for the same seed and step.
    """
    rng = np.random.default_rng([config.seed, step])
    chosen = [sites[i] for i in rng.choice(
        len(sites), min(config.sites_per_batch, len(sites)), replace=False)]
    look = int(rng.random() < config.mirror)
    # Frames lie far apart; sites of one, as drives of a data set, may be of the same streets.
    frames = [site.frame for site in chosen]
    image_xy, cloud_xy = (np.concatenate([
        getattr(site, name) + 1e6 * frames.index(site.frame) for site in chosen])
        for name in ('image_xy', 'cloud_xy'))
    image_yaw, cloud_yaw, places = (np.concatenate([getattr(site, name) for site in chosen])
                                    for name in ('image_yaw', 'cloud_yaw', 'cloud_descriptors'))
    first_image = np.cumsum([0, *(len(site.image_xy) for site in chosen)])
    first_cloud = np.cumsum([0, *(len(site.cloud_xy) for site in chosen)])

    images, found, right = [], [], []
    for row in rng.permutation(len(image_xy)):
        apart = np.linalg.norm(cloud_xy - image_xy[row], axis=1)
        alike = np.cos(cloud_yaw - image_yaw[row])
        own = np.flatnonzero((apart < config.positive_m) & (alike > math.cos(SAME_VIEW_RAD)))
        other = np.flatnonzero((apart >= config.ignored_m)
                               | (alike <= math.cos(math.radians(config.positive_deg))))
        if len(own) == 0 or len(other) < config.candidates:
            continue
        site = int(np.searchsorted(first_image, row, 'right')) - 1
        at = row - first_image[site]
        nearest = other[np.argsort(-(places[other] @ chosen[site].image_descriptors[at]))]
        own = rng.permutation(own)[:POSITIVES]
        wrong = config.candidates - len(own)
        hardest = (wrong + 1) // 2
        further = rng.choice(nearest[hardest:max(NEAREST, config.candidates)], wrong - hardest,
                             replace=False)
        found.append(np.concatenate([own, nearest[:hardest], further]))
        right.append(np.arange(config.candidates) < len(own))
        images.append(np.asarray(chosen[site].image_tokens[look, at], np.float32))
        if len(images) == config.batch:
            break
    if not images:
        raise InputError('no image has both a place of its own and enough others to tell it from: '
                         'give larger sites, or fewer candidates')
    asked = np.stack(found)
    sites_of = np.searchsorted(first_cloud, asked, 'right') - 1
    seen = np.stack([chosen[i].cloud_tokens[look, place - first_cloud[i]]
                     for i, place in zip(sites_of.ravel(), asked.ravel(), strict=True)])
    return Candidates(
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(seen.astype(np.float32)).unflatten(0, asked.shape),
        torch.from_numpy(np.stack(right)))


class VerifierStep:
    """The gradient of one step of the verifier; as `steps.CachedStep`, but whole at once."""

    def __init__(self, task: TrainingTask, drawn: Candidates) -> None:
        self.task, self.drawn = task, drawn

    def run(self, between: object = None) -> dict[str, float]:
        """Leave the gradient at the verifier's parameters and return the losses."""
        self.task.train()
        self.task.zero_grad(set_to_none=True)
        encoder = self.task.encoder
        assert encoder.verifier is not None  # `TrainingTask` has seen to it
        assert encoder.image.detail is not None and encoder.cloud.detail is not None
        device = self.task.temperature.log.device
        image, places, right = (part.to(device) for part in self.drawn)
        with autocast(self.task.config.precision, device):
            logits = encoder.verifier(encoder.image.detail(image), encoder.cloud.detail(places))
        loss = verifier_loss(logits, right)
        if not torch.isfinite(loss):
            raise InputError(f'the loss is {loss.item()}: lower lr_aggregation')
        loss.backward()
        return {'loss': float(loss.detach())}


def verifier_loss(logits: Tensor, right: Tensor) -> Tensor:
    """
    Return the mean loss of logits (B, k) whose own places are `right` (B, k).

    A cross entropy among the candidates, to which any of the right ones is an answer; and a binary
    one of each by itself, since a logit must also tell when none of them is right.
    """
    logits = logits.float()
    chances = logits.log_softmax(1)
    among = -torch.logsumexp(chances.masked_fill(~right, -torch.inf), 1).mean()
    weight = torch.tensor(RIGHT_WEIGHT, device=logits.device)
    return among + F.binary_cross_entropy_with_logits(logits, right.float(), pos_weight=weight)
