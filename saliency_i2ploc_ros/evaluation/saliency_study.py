"""A model, a map drive and a drive that asks: all that a report on saliency is made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.drive import Drive
from ..data.submaps import submaps_of_drive, SubmapStore
from ..encoders.cloud_input import cloud_input
from ..encoders.config import CloudConfig, ImageConfig, RangeConfig
from ..encoders.dual import DualEncoder
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..geometry.poses import path_length
from ..progress import track
from .looking import (
    check_saliency,
    classes_of_points,
    cloud_rows,
    image_classes,
    labelled_around,
    look,
    patch_shares,
    semantics_path,
    shares_of,
    token_points,
    without,
)
from .recall import count_positives, trajectory_blocks
from .saliency import Curves, deletion_curves, Looked, pictures_to_show
from .saliency_pictures import Branch, Shown

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

RADIUS_M = 20.0  # within which an answer is right


@dataclass(frozen=True)
class Study:
    """Both branches under study, the pictures to show, and what is to be said of the data."""

    branches: tuple[Branch, Branch]
    shown: Shown
    protocol: list[str]


def study_saliency(
    model: DualEncoder, root: Path, map_drive: Drive, query_drive: Drive,
    most_images: int = 120, most_places: int = 60,
) -> Study:
    """
    Return what a model looks at in a drive's images and in the map of another (or the same) one.

    root: of the data set, for the images' classes. most_images, most_places: so many are looked
    at, evenly along the way; recall is asked of all places. A model without attention, and images
    none of which has a place of the map within 20 m, are InputErrors.
    """
    check_saliency(model.config)
    store = submaps_of_drive(map_drive, model.config.submap)
    places = _Places.of(store, model)
    images = _Images.of(query_drive, model, places.xy, most_images)
    image_branch = _image_branch(root, query_drive, images, places, model)
    cloud_branch, points, kept = _cloud_branch(map_drive, store, images, places, model,
                                               most_places)
    config = model.config.image
    assert isinstance(config, ImageConfig)
    rows = pictures_to_show(image_branch.looked)
    known = image_branch.looked.classes is not None
    cloud_xy = store.poses[kept][:, :2, 3]
    near = [int(np.linalg.norm(cloud_xy - images.xy[r], axis=1).argmin()) for r in rows]
    mean, std = np.array(config.mean), np.array(config.std)
    shown = Shown(
        [np.clip((images.inputs[r][0].transpose(1, 2, 0) * std + mean) * 255.0, 0, 255).astype(
            np.uint8) for r in rows],
        [_classes(root, query_drive, images, config, r) for r in rows] if known else None,
        rows, config.grid, config.patch, [points[i] for i in near], near)
    return Study((image_branch, cloud_branch), shown,
                 _protocol(model, map_drive, query_drive, images, places, image_branch,
                           cloud_branch))


@dataclass(frozen=True)
class _Places:
    """The places of the map: inputs, descriptors (n, D), saliency (n, N), xy (n, 2), blocks."""

    inputs: list[tuple[Floats, ...]]
    descriptors: Floats
    saliency: Array
    xy: Array
    blocks: NDArray[np.int64]

    @classmethod
    def of(cls, store: SubmapStore, model: DualEncoder) -> _Places:
        inputs, kept = [], []
        for i in track(range(len(store)), f'places of {store.name}'):
            try:
                inputs.append(cloud_input(store.above_ground(i), model.config))
                kept.append(i)
            except InputError:
                continue
        if not kept:
            raise InputError(f'no submap of {store.name} has enough points in view: give a drive '
                             'with denser scans')
        xy = store.poses[kept][:, :2, 3]
        return cls(inputs, *look(model, inputs, 'cloud'), xy, trajectory_blocks(path_length(xy)))


@dataclass(frozen=True)
class _Images:
    """The images that ask: their inputs, numbers in the stream, xy (q, 2) and blocks (q,)."""

    inputs: list[tuple[Floats, ...]]
    frames: NDArray[np.int64]
    camera: str
    xy: Array
    blocks: NDArray[np.int64]

    @classmethod
    def of(cls, drive: Drive, model: DualEncoder, place_xy: Array, most: int) -> _Images:
        camera = drive.camera_named()
        stream = drive.cameras[camera]
        posed = np.flatnonzero(stream.has_pose)
        xy = stream.T_map_base[posed][:, :2, 3]
        posed = posed[count_positives(xy, place_xy, RADIUS_M) > 0]
        if len(posed) < 2:
            raise InputError(f'fewer than two images of {drive.name} lie within {RADIUS_M:g} m of '
                             'a place of the map: name drives that share their way')
        frames = posed[np.unique(np.linspace(0, len(posed) - 1, most).astype(int))]
        inputs: list[tuple[Floats, ...]] = [
            (prepare_image(drive.image(camera, int(i)), stream.camera, model.config.image),)
            for i in track(frames, f'images of {drive.name}')]
        # Blocks by the way between the images asked, which are even along it.
        xy = stream.T_map_base[frames][:, :2, 3]
        return cls(inputs, frames, camera, xy, trajectory_blocks(path_length(xy)))


def _right(queries: Floats, database: Floats, xy: Array, place_xy: Array) -> Array:
    first = (queries @ database.T).argmax(1)
    return np.asarray(np.linalg.norm(place_xy[first] - xy, axis=1) <= RADIUS_M, np.float64)


def _classes(
    root: Path, drive: Drive, images: _Images, config: ImageConfig, row: int,
) -> NDArray[np.uint8]:
    stream = drive.cameras[images.camera]
    path = semantics_path(root, drive, images.camera, int(stream.ids[images.frames[row]]))
    return image_classes(path, stream, config)


def _image_branch(
    root: Path, drive: Drive, images: _Images, places: _Places, model: DualEncoder,
) -> Branch:
    config = model.config.image
    assert isinstance(config, ImageConfig)
    _, saliency = look(model, images.inputs, 'image')
    n, N = saliency.shape
    stream = drive.cameras[images.camera]
    first = semantics_path(root, drive, images.camera, int(stream.ids[images.frames[0]]))
    classes = None
    if first.is_file():
        classes = np.stack([patch_shares(_classes(root, drive, images, config, row), config)
                            for row in range(n)])
    rows, columns = config.grid
    looked = Looked(saliency, classes,
                    np.broadcast_to(np.repeat(np.arange(rows), columns), (n, N)),
                    np.broadcast_to(np.arange(N), (n, N)), images.blocks)

    def disturbed(removed: list[NDArray[np.int64]]) -> Floats:
        return look(model, (without(i, r, config) for i, r in zip(
            images.inputs, removed, strict=True)), 'image')[0]

    curves = deletion_curves(
        looked, disturbed,
        lambda found: _right(found, places.descriptors, images.xy, places.xy), images.blocks)
    return Branch('image', 'patches', looked, curves,
                  'Recall@1 at 20 m of the disturbed images in the whole map')


def _cloud_branch(
    drive: Drive, store: SubmapStore, images: _Images, places: _Places, model: DualEncoder,
    most: int,
) -> tuple[Branch, list[Floats], NDArray[np.int64]]:
    """Return the branch, its tokens' points, and which submaps these are."""
    config = model.config
    inputs, kept, classes = [], [], []
    chosen = np.unique(np.linspace(0, len(store) - 1, most).astype(int))
    for i in track(chosen, 'submaps with traffic'):
        around = labelled_around(drive, store, int(i)) if drive.lidar is not None else None
        points = store.above_ground(int(i))
        if around is not None:
            points = np.concatenate([points, around[2]])
        try:
            found = cloud_input(points, config)
        except InputError:
            continue
        inputs.append(found)
        kept.append(int(i))
        if around is not None:
            known = np.concatenate([around[0], around[2]])
            names = np.concatenate([around[1], around[3]])
            own = token_points(found, config)
            of_points = classes_of_points(own, known, names)
            share = shares_of(of_points)
            # A patch of sky holds nothing: it is no class's area.
            share *= np.isfinite(own[..., 0]).mean(1)[:, None]
            classes.append(share)
    points_of = [token_points(found, config) for found in inputs]
    rows, spots = cloud_rows(np.stack(points_of), config)
    _, saliency = look(model, inputs, 'cloud')
    indices = np.array(kept, np.int64)
    xy = store.poses[indices][:, :2, 3]
    looked = Looked(saliency, np.stack(classes) if len(classes) == len(inputs) else None, rows,
                    spots, trajectory_blocks(path_length(xy)))
    return (Branch('cloud', 'tokens', looked, _cloud_curves(images, places, model),
                   'Recall@1 at 20 m of the whole images in the disturbed map'),
            points_of, indices)


def _cloud_curves(images: _Images, places: _Places, model: DualEncoder) -> Curves:
    config = model.config
    points = np.stack([token_points(found, config) for found in places.inputs])
    rows, spots = cloud_rows(points, config)
    plain = Looked(places.saliency, None, rows, spots, places.blocks)
    asked, _ = look(model, images.inputs, 'image')
    assert isinstance(config.cloud, (CloudConfig, RangeConfig))
    take = partial(without, config=config.cloud)

    def disturbed(removed: list[NDArray[np.int64]]) -> Floats:
        return look(model, (take(i, r) for i, r in zip(places.inputs, removed, strict=True)),
                    'cloud')[0]

    return deletion_curves(
        plain, disturbed, lambda found: _right(asked, found, images.xy, places.xy), images.blocks)


def _protocol(
    model: DualEncoder, map_drive: Drive, query_drive: Drive, images: _Images, places: _Places,
    image: Branch, cloud: Branch,
) -> list[str]:
    config = model.config.image
    assert isinstance(config, ImageConfig)
    rows, columns = config.grid
    same = (' (the same pass as the map: easier than another day)'
            if map_drive.name == query_drive.name else '')
    known = [branch.name for branch in (image, cloud) if branch.looked.classes is not None]
    traffic = (
        ' A map is cleaned of what can move, so for the classes of the cloud branch the points of '
        'one scan’s traffic are put back, and each point has the class of the nearest labelled '
        'one within 1 m.' if 'cloud' in known else '')
    bands = ('' if model.config.cloud.kind == 'range' else
             ' Tokens of points have no rows: bands of elevation, and of azimuth for the spots, '
             'stand for them.')
    return [
        f'Images: {len(images.frames)} of `{query_drive.name}`, each with a place of the map '
        f'within {RADIUS_M:g} m{same}. Map: {len(places.xy)} places of `{map_drive.name}`, every '
        f'{model.config.submap.spacing_m:g} m; the cloud’s saliency by class is of '
        f'{len(cloud.looked.saliency)} of them.{traffic}',
        f'An image has {rows} rows of {columns} patches of {config.patch} pixels, a submap '
        f'{cloud.looked.saliency.shape[1]} tokens. A patch with several classes counts for each '
        f'by its share.{bands}',
        'Saliency is the CLS row of the last block’s attention, mean over heads. Intervals are '
        '95 %, by drawing blocks of 50 m of the way. Removed patches of an image become the mean '
        'colour, removed tokens of points are left out, removed patches of a range image become '
        '“nothing there”.']
