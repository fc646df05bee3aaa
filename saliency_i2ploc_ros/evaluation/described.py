"""
The first of two stages: drives described once, kept under the hashes of all that described them.

Weights, preparation, files, poses: what shapes a descriptor is in its key, so that descriptors of
two configurations are never mixed. Under torchrun each process describes its share. What judges
(`judging`) reads only what is returned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
import torch

from ..data.drive import Drive
from ..data.submaps import SubmapStore
from ..distributed import World
from ..encoders.cloud_input import cloud_input
from ..encoders.config import View
from ..encoders.dual import DualEncoder
from ..encoders.files import preprocessing_hash
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..export.runtime import ImageRuntime, torch_runtime
from ..geometry.cameras import Camera
from ..mapping.database import PlaceDatabase
from ..mapping.views import smoothed, views_of
from ..storage import content_hash, read_json
from .baseline import NAME, outline_of_image, outline_of_points, Outlook
from .stored import Arrays, FORMAT, stored_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Described:
    """
    Images or submaps of one drive or map, and their descriptors.

    what: 'image' or 'cloud'. session: the drive's or the map's name. descriptors: (n, D) float32,
    of unit length, memory-mapped. T_map_base: (n, 4, 4). numbers: (n,) of the image in its
    stream, of the submap in its store, of the place in its database. skipped: how many could not
    be described. milliseconds: the median for one of them, None where it was not measured.
    details: (n, N, c) float16, memory-mapped, what a verifier compares; None without.
    """

    what: str
    session: str
    descriptors: NDArray[np.float32]
    T_map_base: Array
    numbers: NDArray[np.int64]
    skipped: int = 0
    milliseconds: float | None = None
    details: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.descriptors)


class Describer(Protocol):
    """
    What makes descriptors: the model, or a baseline.

    key: all that shapes a descriptor, and whether there are details. dim: numbers of a descriptor.
    details: (N, c) of what a verifier compares, None without. A row has the descriptor's numbers
    and behind them all of the details.
    """

    name: str
    key: Any
    dim: int
    details: tuple[int, int] | None

    def image_input(
        self, image: NDArray[np.uint8], camera: Camera, T_base_camera: Array,
    ) -> Arrays:
        """Return what `images` takes of one image (H, W, 3) RGB; InputError if it cannot be."""

    def cloud_input(self, points: NDArray[np.float32], road_z: float) -> Arrays:
        """
        Return what `clouds` takes of one submap; InputError if it cannot be.

        points: (n, 3), z from the road, which lies at `road_z` in base_link.
        """

    def images(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows (b, dim + N c) of stacked inputs of images."""

    def clouds(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows (b, dim + N c) of stacked inputs of submaps."""


class ByModel:
    """
    Descriptors of a dual encoder on its own device, in evaluation mode.

    model: the whole, or its image branch alone as `open_runtime` opened it, which has no submaps.
    """

    name = 'model'

    def __init__(self, model: DualEncoder | ImageRuntime) -> None:
        self.config = model.config
        self.dim = model.config.descriptor_dim
        self.runtime = torch_runtime(model) if isinstance(model, DualEncoder) else model
        self.hashes = [self.runtime.encoder_hash, preprocessing_hash(model.config)]
        self.details = model.config.details_shape
        self.key: list[Any] = [*self.hashes, self.runtime.runtime]
        if self.details is not None:
            self.key.append({'details': self.details})
        self._model = model if isinstance(model, DualEncoder) else None

    def image_input(
        self, image: NDArray[np.uint8], camera: Camera, T_base_camera: Array,
    ) -> Arrays:
        """Return the network's input, as the localizer prepares it."""
        return prepare_image(image, camera, self.config.image),

    def cloud_input(self, points: NDArray[np.float32], road_z: float) -> Arrays:
        """Return the network's input, as a map is built of it."""
        return cloud_input(points, self.config)

    def images(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors of images, and details behind them."""
        found = self.runtime.run(inputs[0])
        return _rows(found.descriptor, found.details)

    def clouds(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return descriptors of submaps, and details behind them."""
        if self._model is None:
            raise InputError('an export describes images only: give the model itself, or a map')
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            encoded = self._model.encode_cloud(
                *(torch.from_numpy(array).to(device) for array in inputs))
        details = None if encoded.details is None else encoded.details.float().cpu().numpy()
        return _rows(encoded.descriptor.float().cpu().numpy(), details)


def _rows(
    descriptors: NDArray[np.float32], details: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    if details is None:
        return descriptors
    return np.concatenate([descriptors, details.reshape(len(details), -1)], 1)


class BySkyline:
    """Descriptors of the baseline, from one outlook."""

    name = NAME

    def __init__(self, outlook: Outlook) -> None:
        self.outlook = outlook
        self.dim = outlook.bins
        self.details: tuple[int, int] | None = None
        self.key = [NAME, [a.tolist() for a in (outlook.eye, outlook.azimuth, outlook.top)]]

    def image_input(
        self, image: NDArray[np.uint8], camera: Camera, T_base_camera: Array,
    ) -> Arrays:
        """Return the outline of an image."""
        return outline_of_image(image, camera, T_base_camera, self.outlook),

    def cloud_input(self, points: NDArray[np.float32], road_z: float) -> Arrays:
        """Return the outline of a submap."""
        return outline_of_points(points + np.array([0.0, 0.0, road_z]), self.outlook),

    def images(self, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the outlines, which are descriptors already."""
        return inputs[0]

    clouds = images


def describe_images(
    drive: Drive, camera: str, frames: Sequence[int], describer: Describer, world: World,
) -> Described:
    """
    Return the descriptors of some of a camera's images, all of which have poses.

    frames: places in the stream. An image whose file cannot be read is skipped.
    """
    stream = drive.cameras[camera]
    key = content_hash(['image', FORMAT, describer.key, drive.source, camera,
                        stream.T_base_sensor.tolist(), stream.key(frames)])

    def inputs(row: int) -> Arrays:
        image = drive.image(camera, int(frames[row]))
        return describer.image_input(image, stream.camera, stream.T_base_sensor)

    folder = stored_rows(key, len(frames), describer.dim, describer.details, inputs,
                         describer.images, world, f'{describer.name}: {drive.name}, {camera}')
    kept = np.load(folder / 'kept.npy', allow_pickle=False)
    chosen = np.asarray(frames, np.int64)[kept]
    return _described(folder, 'image', drive.name, stream.T_map_base[chosen], chosen, len(frames))


def describe_submaps(
    store: SubmapStore, describer: Describer, world: World, views: Sequence[View] = (View(),),
    smooth_m: float = 0.0,
) -> Described:
    """
    Return the descriptors of a store's submaps, each from every one of `views`, one after another.

    The poses are the views'. A view with too few points in sight is skipped. smooth_m: each is a
    mean with its neighbours', as in a map (see `mapping.views.smoothed`).
    """
    seen = views_of(store, tuple(views))
    key = content_hash(['cloud', FORMAT, describer.key, store.key,
                        [view.model_dump() for view in views]])

    def inputs(row: int) -> Arrays:
        points = store.view(int(seen.submap[row]), seen.T_base_view[row])
        return describer.cloud_input(points, store.ground_z_m)

    count = len(seen.submap)
    folder = stored_rows(key, count, describer.dim, describer.details, inputs, describer.clouds,
                         world, f'{describer.name}: submaps of {store.name}')
    kept = np.load(folder / 'kept.npy', allow_pickle=False)
    poses = seen.T_map_view(store)[kept]
    found = _described(folder, 'cloud', store.name, poses, seen.submap[kept], count)
    return replace(found, descriptors=smoothed(found.descriptors, poses, smooth_m))


def describe_database(
    database: PlaceDatabase, describer: Describer, world: World,
) -> Described:
    """
    Return the places of a map: as they were described when it was built, if by this model.

    A baseline describes the points that the map keeps to look at.
    """
    name = database.schema.source or database.path.name
    if isinstance(describer, ByModel):
        if describer.hashes != [database.schema.encoder_hash,
                                database.schema.preprocessing_hash]:
            raise InputError(f'the map {database.path} was built with another model: build it '
                             'again with `i2ploc build-map` and this one')
        return Described('cloud', name, database.descriptors, database.T_map_base,
                         np.arange(len(database)), database.schema.skipped,
                         details=database.details)
    folder = stored_rows(
        content_hash(['map', FORMAT, describer.key, database.identity]), len(database),
        describer.dim, describer.details,
        lambda i: describer.cloud_input(database.cloud(i), 0.0), describer.clouds, world,
        f'{describer.name}: places of {name}')
    kept = np.load(folder / 'kept.npy', allow_pickle=False)
    return _described(folder, 'cloud', name, database.T_map_base[kept], kept, len(database))


def _described(
    folder: Path, what: str, session: str, poses: Array, numbers: NDArray[np.int64], count: int,
) -> Described:
    made = read_json(folder / 'made.json')
    descriptors = np.load(folder / 'descriptors.npy', mmap_mode='r', allow_pickle=False)
    details = (np.load(folder / 'details.npy', mmap_mode='r', allow_pickle=False)
               if (folder / 'details.npy').is_file() else None)
    return Described(what, session, descriptors, poses, numbers, count - len(numbers),
                     made['milliseconds'], details)
