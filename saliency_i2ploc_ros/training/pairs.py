"""
Training pairs: an image and a view of the map at its place, prepared once, kept as plain arrays.

What costs time (reading, resizing, sampling, rendering) is done once for each drive and cached
under a hash of what made it; augmentation then changes the prepared arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..data.drive import Drive
from ..data.readers import open_drive
from ..data.submaps import submaps_of_drive, SubmapStore
from ..encoders.cloud_input import cloud_input, cloud_preparation
from ..encoders.config import AnyImage, ModelConfig, RangeConfig
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..evaluation.splits import frame_of
from ..geometry.poses import inverse, planar, wrap, yaw_of
from ..localization.localizer import camera_yaw
from ..mapping.views import Views, views_of
from ..progress import track
from ..storage import atomic_directory, cache_directory, content_hash, write_json
from .config import Site, TrainingConfig
from .geometry import depth_target, profile

FORMAT = 3  # of the cached arrays; raised when what is computed changes
MAX_TURN_DEG = 5.0  # of a camera, from straight ahead


@dataclass(frozen=True)
class PreparedSite:
    """
    One site's images and views of its map, ready for the encoders, and which belong together.

    images (n, h, w, 3) uint8; image_xy (n, 2), image_yaw (n,); clouds: what the cloud encoder
    takes, m of each; cloud_xy (m, 2), cloud_yaw (m,); profiles (m, bins, 2) of the views, or depth
    (n, h', w') of the images, whichever the recipe supervises with, if with any; paired: indices
    (q,) of the images that have a place in the map; candidates: for each of those, the views that
    count as it; frame: which the poses are in: positions of two sites compare if theirs is one.
    """

    images: NDArray[np.uint8]
    image_xy: NDArray[np.float64]
    image_yaw: NDArray[np.float64]
    clouds: tuple[NDArray[Any], ...]
    cloud_xy: NDArray[np.float64]
    cloud_yaw: NDArray[np.float64]
    profiles: NDArray[np.float32] | None
    depth: NDArray[np.float16] | None
    paired: NDArray[np.int64]
    candidates: list[NDArray[np.int64]]
    frame: str


def prepare_site(
    site: Site, config: TrainingConfig, camera: str | None = None, as_map: bool = False,
) -> PreparedSite:
    """
    Return the prepared pairs of one site; an InputError names a site that yields none.

    as_map: see the map as a vehicle's database does, whatever the recipe trains with: the model's
    views of a submap every `spacing_m`.
    """
    drives = [open_drive(Path(site.root), name) for name in site.query_drives]
    map_drive = open_drive(Path(site.root), site.map_drive)
    around_images = config.views == 'image' and not as_map
    spacing = config.model.submap.spacing_m if as_map else config.submap_spacing_m
    store = submaps_of_drive(
        map_drive, config.model.submap.model_copy(update={'spacing_m': spacing}))
    parts = [prepared_images(drive, config.model.image, camera) for drive in drives]
    # One drive's stay on disk, memory-mapped.
    images = parts[0][0] if len(parts) == 1 else np.concatenate([part[0] for part in parts])
    poses = np.concatenate([poses for _, poses in parts])

    views = _views_of_images(poses, store, config) if around_images else views_of(
        store, config.model.views)
    if len(views.submap) == 0:
        raise _far_apart(site, config)
    prepared = prepared_views(store, views, config.model, config.supervision == 'profile')
    T_map_view = views.T_map_view(store)[prepared.kept]
    depth = (prepared_depth(store, poses, config.model)
             if config.supervision == 'depth' else None)
    candidates = _pairs(poses, T_map_view, config)
    paired = np.flatnonzero([len(places) > 0 for places in candidates])
    if len(paired) == 0:
        raise _far_apart(site, config)
    return PreparedSite(
        images, poses[:, :2, 3], yaw_of(poses), prepared.clouds, T_map_view[:, :2, 3],
        yaw_of(T_map_view), prepared.profiles, depth, paired, [candidates[i] for i in paired],
        f'{site.root} {frame_of(site.map_drive)}')


def _far_apart(site: Site, config: TrainingConfig) -> InputError:
    return InputError(f'no image of {", ".join(site.query_drives)} in {site.root} lies within '
                      f'{config.pair_m} m of a view of {site.map_drive}: '
                      'name drives that share their way')


def _views_of_images(
    poses: NDArray[np.float64], store: SubmapStore, config: TrainingConfig,
) -> Views:
    """Return `views_per_image` views about the pose of each image that the map reaches."""
    rng = np.random.default_rng([config.seed_of_views, len(poses)])
    nearest, submap = cKDTree(store.poses[:, :2, 3]).query(poses[:, :2, 3])
    n, times = len(poses), config.views_per_image
    unit = rng.uniform(-1.0, 1.0, (n, times, 3))
    unit *= [config.view_along_m, config.view_across_m, np.radians(config.view_deg)]
    rows = np.flatnonzero(nearest < config.model.submap.size_m / 4.0)
    T = [inverse(store.poses[submap[i]]) @ poses[i] @ planar(*unit[i, k])
         for i in rows for k in range(times)]
    return Views(np.repeat(submap[rows], times), np.array(T).reshape(-1, 4, 4))


def _pairs(
    poses: NDArray[np.float64], T_map_view: NDArray[np.float64], config: TrainingConfig,
) -> list[NDArray[np.int64]]:
    """Return for each image the views within `pair_m` and `pair_deg` of it."""
    near = cKDTree(T_map_view[:, :2, 3]).query_ball_point(poses[:, :2, 3], config.pair_m)
    view_yaw = yaw_of(T_map_view)
    return [np.array([j for j in sorted(places) if abs(wrap(yaw - view_yaw[j])) <= np.radians(
        config.pair_deg)], np.int64) for places, yaw in zip(near, yaw_of(poses), strict=True)]


def prepared_images(
    drive: Drive, config: AnyImage, camera: str | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the posed images of a drive at the encoder's size, (n, h, w, 3), and their poses."""
    name = drive.camera_named(camera)
    stream = drive.cameras[name]
    posed = np.flatnonzero(stream.has_pose)
    if len(posed) == 0:
        raise InputError(f'{drive.source} has no image with a pose: training needs both')
    if (turn := abs(np.degrees(camera_yaw(stream.T_base_sensor)))) > MAX_TURN_DEG:
        raise InputError(f'the camera {name} of {drive.source} looks {turn:.0f} degrees aside, '
                         'and pairs are made of views ahead: take a camera that looks ahead')
    shape = config.model_dump(mode='json', include={'height', 'width', 'camera', 'mean', 'std'})
    key = content_hash(
        ['images', FORMAT, drive.source, drive.name, name, stream.key(posed), shape])

    def make(folder: Path) -> None:
        images = np.lib.format.open_memmap(
            folder / 'images.npy', 'w+', np.uint8, (len(posed), config.height, config.width, 3))
        for row, i in enumerate(track(posed, f'images of {drive.name}')):
            image = stream.image(int(i))
            images[row] = _as_bytes(prepare_image(image, stream.camera, config), config)
        images.flush()

    folder = cached('images', key, make)
    return np.load(folder / 'images.npy', mmap_mode='r'), stream.T_map_base[posed]


def _as_bytes(prepared: NDArray[np.float32], config: AnyImage) -> NDArray[np.uint8]:
    """Undo the normalisation of (3, h, w): (h, w, 3) uint8, to keep and to augment."""
    mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
    image = prepared.transpose(1, 2, 0) * std + mean
    return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)


class PreparedViews(NamedTuple):
    """
    kept: (m,) int64, the views with enough points. clouds: the cloud encoder's inputs, m of each.

    profiles: (m, bins, 2) float32 (see `geometry.profile`), if they were asked for.
    """

    kept: NDArray[np.int64]
    clouds: tuple[NDArray[Any], ...]
    profiles: NDArray[np.float32] | None


def prepared_views(
    store: SubmapStore, views: Views, model: ModelConfig, with_profiles: bool,
) -> PreparedViews:
    """Return what the cloud encoder takes of each view, but for those with too few points."""
    told = model.image.model_dump(mode='json', include={'width', 'patch', 'camera'})
    key = content_hash(['views', FORMAT, store.key, cloud_preparation(model),
                        views.submap.tolist(), np.round(views.T_base_view, 6).tolist(),
                        told if with_profiles else None])
    compact = isinstance(model.cloud, RangeConfig)

    def make(folder: Path) -> None:
        kept: list[int] = []
        made: list[tuple[NDArray[Any], ...]] = []
        profiles: list[NDArray[np.float32]] = []
        for i in track(range(len(views.submap)), f'views of {store.name}'):
            points = store.view(int(views.submap[i]), views.T_base_view[i])
            try:
                parts = cloud_input(points, model)
            except InputError:
                continue
            # A range in half precision is exact to 3 cm at 60 m.
            made.append(tuple(part.astype(np.float16) for part in parts) if compact else parts)
            kept.append(i)
            if with_profiles:
                profiles.append(profile(points, model))
        if not kept:
            raise InputError('no submap of the map has enough points: give a denser map')
        np.save(folder / 'kept.npy', np.array(kept, np.int64))
        if with_profiles:
            np.save(folder / 'profiles.npy', np.stack(profiles))
        for k, parts in enumerate(zip(*made, strict=True)):
            np.save(folder / f'cloud_{k}.npy', np.stack(parts))

    folder = cached('views', key, make)
    names = sorted(path.name for path in folder.glob('cloud_*.npy'))
    return PreparedViews(np.load(folder / 'kept.npy'),
                         tuple(np.load(folder / name, mmap_mode='r') for name in names),
                         np.load(folder / 'profiles.npy', mmap_mode='r') if with_profiles
                         else None)


def prepared_depth(
    store: SubmapStore, poses: NDArray[np.float64], model: ModelConfig,
) -> NDArray[np.float16]:
    """Return what the map measures in the directions of each image's tokens (n, h', w')."""
    camera = model.image.model_dump(mode='json', include={'height', 'width', 'patch', 'camera'})
    key = content_hash(['depth', FORMAT, store.key, np.round(poses, 6).tolist(), camera])
    _, submap = cKDTree(store.poses[:, :2, 3]).query(poses[:, :2, 3])

    def make(folder: Path) -> None:
        np.save(folder / 'depth.npy', np.stack([
            depth_target(store.view(int(k), inverse(store.poses[k]) @ pose), model)
            for k, pose in zip(track(submap, f'depth of {store.name}'), poses, strict=True)]))

    return np.asarray(np.load(cached('depth', key, make) / 'depth.npy', mmap_mode='r'))


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of a kind that a key stands for; `make` fills it if it is not there."""
    folder = cache_directory() / kind / key
    if not (folder / 'made.json').is_file():
        with atomic_directory(folder, overwrite=True) as temporary:
            make(temporary)
            write_json(temporary / 'made.json', {'kind': kind, 'key': key, 'format': FORMAT})
    return folder
