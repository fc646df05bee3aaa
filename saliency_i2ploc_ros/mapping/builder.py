"""From submaps to a place database."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch

from ..data.submaps import SubmapStore, thin
from ..encoders.cloud_tokens import cloud_tokens, CloudTokens
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, preprocessing_hash
from ..errors import InputError
from ..progress import track
from .database import PlaceDatabase, write_database

DISPLAY_POINTS = 4096
_BATCH = 16
_log = logging.getLogger(__name__)


class EncodedSubmaps(NamedTuple):
    """descriptors: (n, D) float32. indices: (n,) int64, which submaps of the store they are of."""

    descriptors: NDArray[np.float32]
    indices: NDArray[np.int64]


def encode_submaps(
    store: SubmapStore, model: DualEncoder, batch: int = _BATCH,
) -> EncodedSubmaps:
    """
    Return the descriptors of a store's submaps, but for those with too few points in view.

    The model works in eval mode and on its own device, and is left in the mode it was in.
    """
    was_training = model.training
    model.eval()
    try:
        return _encode(store, model, batch)
    finally:
        model.train(was_training)


def _encode(store: SubmapStore, model: DualEncoder, batch: int) -> EncodedSubmaps:
    config = model.config
    indices: list[int] = []
    descriptors: list[NDArray[np.float32]] = [
        np.empty((0, config.descriptor_dim), np.float32)]
    waiting: list[CloudTokens] = []
    for i in track(range(len(store)), f'descriptors of {store.name}'):
        try:
            waiting.append(cloud_tokens(store.above_ground(i), config.cloud.tokens))
            indices.append(i)
        except InputError as error:
            _log.debug('submap %d: %s', i, error)
        if waiting and (len(waiting) == batch or i == len(store) - 1):
            descriptors.append(_descriptors(waiting, model))
            waiting = []
    return EncodedSubmaps(np.concatenate(descriptors), np.array(indices, np.int64))


def _descriptors(tokens: list[CloudTokens], model: DualEncoder) -> NDArray[np.float32]:
    device = next(model.parameters()).device
    groups = torch.from_numpy(np.stack([t.groups for t in tokens])).to(device)
    centres = torch.from_numpy(np.stack([t.centres for t in tokens])).to(device)
    with torch.inference_mode():
        found = model.encode_cloud(groups, centres).descriptor
    return np.asarray(found.float().cpu().numpy(), np.float32)


def build_database(
    store: SubmapStore, model: DualEncoder, path: Path, overwrite: bool = False,
    batch: int = _BATCH,
) -> PlaceDatabase:
    """
    Encode the submaps and write them as a place database; return it, opened.

    Submaps with too few points in view are left out, with a warning that counts them. Submaps of
    another size than the model was made for, an existing `path` without `overwrite`, and a store
    of which nothing can be encoded are InputErrors; then nothing is written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists already: name another folder or pass --overwrite')
    if store.config.size_m != model.config.submap.size_m:
        raise InputError(
            f'the submaps are {store.config.size_m:g} m wide and the model {model.config.name!r} '
            f"was made for {model.config.submap.size_m:g} m: cut them with the model's settings")
    encoded = encode_submaps(store, model, batch)
    skipped = len(store) - len(encoded.indices)
    if skipped == len(store):
        raise InputError(f'none of the {len(store)} submaps of {store.name} has enough points in '
                         "view to be encoded: check its scans and the trajectory's directions")
    if skipped:
        _log.warning('%d of %d submaps of %s have too few points in view and are left out',
                     skipped, len(store), store.name)
    write_database(
        path, encoded.descriptors, store.poses[encoded.indices],
        [thin(store.points(int(i)), DISPLAY_POINTS) for i in encoded.indices],
        encoder_hash=encoder_hash(model), preprocessing_hash=preprocessing_hash(model.config),
        model_name=model.config.name, submap=store.config.model_dump(mode='json'),
        spacing_m=store.config.spacing_m, source=store.name, submaps_key=store.key,
        skipped=skipped + store.skipped, overwrite=overwrite)
    return PlaceDatabase.open(path)
