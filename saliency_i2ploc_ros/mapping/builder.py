"""From submaps to a place database."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch

from ..data.submaps import SubmapStore, thin
from ..distributed import barrier, gather_rows, gather_to_first, share, start, World
from ..encoders.cloud_input import cloud_input
from ..encoders.config import View
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, preprocessing_hash
from ..errors import InputError
from ..geometry.poses import apply, inverse
from ..progress import track
from .database import PlaceDatabase, write_database
from .views import smoothed, Views, views_of

DISPLAY_POINTS = 4096
_BATCH = 16
_log = logging.getLogger(__name__)


class EncodedSubmaps(NamedTuple):
    """
    Views of submaps as the model describes them.

    descriptors: (n, D) float32. indices: (n,) int64, which submaps of the store they are of.
    T_base_view, T_map_place: (n, 4, 4), from where they are seen, in the submap and in the map.
    skipped: how many views had too few points. details: (n, N, c) of their tokens, for the
    verifier; None of a model without, and on all processes but the first.
    """

    descriptors: NDArray[np.float32]
    indices: NDArray[np.int64]
    T_base_view: NDArray[np.float64]
    T_map_place: NDArray[np.float64]
    skipped: int
    details: NDArray[np.float16] | None = None


def encode_submaps(
    store: SubmapStore, model: DualEncoder, batch: int = _BATCH, world: World = World(),
    views: tuple[View, ...] | None = None,
) -> EncodedSubmaps:
    """
    Return the descriptors of views of a store's submaps; of the model's own, if none are given.

    Views with too few points are left out. The model works in eval mode and on its own device,
    and is left in the mode it was in. world: each process encodes its share, and has all of them,
    but for the details, which are most of a map: the first has those.
    """
    was_training = model.training
    model.eval()
    try:
        return _encode(store, model, batch, world, views or model.config.views)
    finally:
        model.train(was_training)


def _encode(
    store: SubmapStore, model: DualEncoder, batch: int, world: World, of_each: tuple[View, ...],
) -> EncodedSubmaps:
    views = views_of(store, of_each)
    mine = share(len(views.submap), world)
    device = next(model.parameters()).device
    # A view that cannot be encoded is a row of NaN until all rows are there.
    rows = np.full((len(mine), model.config.descriptor_dim), np.nan, np.float32)
    shape = model.config.details_shape
    details = None if shape is None else np.zeros((len(mine), *shape), np.float16)
    waiting: list[tuple[int, tuple[NDArray[Any], ...]]] = []
    for row, i in enumerate(track(mine, f'descriptors of {store.name}')):
        try:
            points = store.view(int(views.submap[i]), views.T_base_view[i])
            waiting.append((row, cloud_input(points, model.config)))
        except InputError as error:
            _log.debug('submap %d: %s', views.submap[i], error)
        if waiting and (len(waiting) == batch or row == len(mine) - 1):
            done = [at for at, _ in waiting]
            rows[done], of_tokens = _described([x for _, x in waiting], model)
            if details is not None:
                details[done] = of_tokens
            waiting = []

    found = gather_rows(torch.from_numpy(rows).to(device), len(views.submap), world).cpu().numpy()
    kept = np.flatnonzero(np.isfinite(found).all(1))
    # Not smoothed as descriptors are: a mean of neighbours would be of no one's tokens.
    of_kept = None if details is None else gather_to_first(
        details, len(views.submap), device, world)
    if of_kept is not None and len(kept) < len(of_kept):
        of_kept = of_kept[kept]
    views = Views(views.submap[kept], views.T_base_view[kept])
    poses = views.T_map_view(store)
    return EncodedSubmaps(smoothed(found[kept], poses, model.config.smooth_m), views.submap,
                          views.T_base_view, poses, len(found) - len(kept), of_kept)


def _described(
    inputs: list[tuple[NDArray[Any], ...]], model: DualEncoder,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return descriptors (b, D) of stacked inputs, and details (b, N, c) if there are any."""
    device = next(model.parameters()).device
    stacked = [torch.from_numpy(np.stack(parts)).to(device)
               for parts in zip(*inputs, strict=True)]
    with torch.inference_mode():
        found = model.encode_cloud(*stacked)
    details = None if found.details is None else found.details.float().cpu().numpy()
    return found.descriptor.float().cpu().numpy(), details


def build_database(
    store: SubmapStore, model: DualEncoder, path: Path, overwrite: bool = False,
    batch: int = _BATCH, world: World = World(), views: tuple[View, ...] | None = None,
) -> PlaceDatabase:
    """
    Encode the submaps and write them as a place database; return it, opened.

    Views with too few points are left out, with a warning that counts them. Submaps of
    another size than the model was made for, an existing `path` without `overwrite`, and a store
    of which nothing can be encoded are InputErrors; then nothing is written. world: the processes
    of `torchrun` share the work, and the first one writes. views: of each submap, None for the
    model's own.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists already: name another folder or pass --overwrite')
    if store.config.size_m != model.config.submap.size_m:
        raise InputError(
            f'the submaps are {store.config.size_m:g} m wide and the model {model.config.name!r} '
            f"was made for {model.config.submap.size_m:g} m: cut them with the model's settings")
    start(world)
    encoded = encode_submaps(store, model, batch, world, views)
    if len(encoded.indices) == 0:
        raise InputError(f'none of the {len(store)} submaps of {store.name} has enough points in '
                         "view to be encoded: check its scans and the trajectory's directions")
    if encoded.skipped:
        _log.warning('%d of %d views of the submaps of %s have too few points and are left out',
                     encoded.skipped, encoded.skipped + len(encoded.indices), store.name)
    if world.writes:
        write_database(
            path, encoded.descriptors, encoded.T_map_place, _clouds_to_look_at(store, encoded),
            encoded.indices, views=len(views or model.config.views),
            smooth_m=model.config.smooth_m,
            encoder_hash=encoder_hash(model), preprocessing_hash=preprocessing_hash(model.config),
            model_name=model.config.name, submap=store.config.model_dump(mode='json'),
            spacing_m=store.config.spacing_m, source=store.name, submaps_key=store.key,
            skipped=encoded.skipped + store.skipped, overwrite=overwrite,
            details=encoded.details)
    barrier(world)
    return PlaceDatabase.open(path)


def _clouds_to_look_at(
    store: SubmapStore, encoded: EncodedSubmaps,
) -> list[NDArray[np.float32]]:
    """Return some points of each submap that is seen, in the frame of its first view."""
    seen, first = np.unique(encoded.indices, return_index=True)
    return [apply(inverse(T), thin(store.points(int(i)), DISPLAY_POINTS)).astype(np.float32)
            for i, T in zip(seen, encoded.T_base_view[first], strict=True)]
