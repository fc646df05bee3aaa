"""The recall on held-out sites while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
import torch

from ..encoders.dual import DualEncoder, Encoded
from ..evaluation.recall import recall_at
from ..export.runners import run_verifier
from ..localization.verification import Verification
from .batches import normalise
from .config import TrainingConfig
from .pairs import PreparedSite

RECALL_KS = (1, 5, 10, 20)


@torch.inference_mode()
def evaluate(
    encoder: DualEncoder, sites: list[PreparedSite], config: TrainingConfig,
    device: torch.device, chunk: int = 64,
) -> dict[str, float]:
    """
    Return Recall@k of every site's paired images among its views within `recall_m`.

    The mean over sites, as 'recall@1' and so on, with 'chance@1' beside it; in fp32, as a vehicle
    computes, verified if the model has a verifier. A quick look: the figure that counts is
    `i2ploc evaluate`'s. Of no sites: empty.
    """
    encoder.eval()
    chunk = min(chunk, config.chunk or chunk)
    totals: dict[str, list[float]] = {}
    for site in sites:
        images = [encoder.encode_image(normalise(
            torch.from_numpy(site.images[rows]).to(device), config.model.image))
            for rows in _chunks(site.paired, chunk)]
        clouds = [encoder.encode_cloud(*(torch.from_numpy(part[rows]).to(device)
                                         for part in site.clouds))
                  for rows in _chunks(np.arange(len(site.cloud_xy)), chunk)]
        likeness = torch.cat([part.descriptor for part in images]) @ torch.cat(
            [part.descriptor for part in clouds]).T
        scores, ranked = (part.cpu().numpy() for part in likeness.topk(
            min(max(RECALL_KS), likeness.shape[1])))
        verify = run_verifier(encoder.verifier, str(device))
        if verify is not None and config.model.verifier is not None:
            verified = Verification(verify, config.model.verifier.weight)
            asked, places = _details(images), _details(clouds)
            ranked = np.stack([verified(one, places, *found)[1] for one, *found in zip(
                asked, scores, ranked, strict=True)])
        recall = recall_at(ranked, site.image_xy[site.paired], site.cloud_xy,
                           config.recall_m, RECALL_KS)
        for k in RECALL_KS:
            totals.setdefault(f'recall@{k}', []).append(recall.values[k])
            totals.setdefault(f'chance@{k}', []).append(recall.chance[k])
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _details(parts: list[Encoded]) -> NDArray[np.float16]:
    """Return the details of all parts (n, N, c), as coarse as a map keeps them."""
    return np.concatenate([part.details.half().cpu().numpy()
                           for part in parts if part.details is not None])


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start:start + size]
