"""
Training pairs: an image and the submap of its place, prepared once and kept as plain arrays.

What costs time (reading, resizing, sampling, grouping) is done once for each drive and cached
under a hash of what made it; augmentation then turns and shifts the prepared arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..data.drive import Drive
from ..data.readers import open_drive
from ..data.submaps import submaps_of_drive, SubmapStore
from ..encoders.cloud_tokens import cloud_tokens
from ..encoders.config import ImageConfig, ModelConfig
from ..encoders.image_input import prepare_image
from ..errors import InputError
from ..geometry.poses import wrap, yaw_of
from ..progress import track
from ..storage import atomic_directory, cache_directory, content_hash, write_json
from .config import Site, TrainingConfig

FORMAT = 2  # of the cached arrays; raised when what is computed changes
BINS_PER_COLUMN = 4  # azimuth bins of the geometry profile under one column of image tokens


@dataclass(frozen=True)
class PreparedSite:
    """
    One site's images and submaps, ready for the encoders, and which belong together.

    images (n, h, w, 3) uint8; image_xy (n, 2) float64; groups (m, G, K, 3) and centres (m, G, 3)
    float32; profiles (m, bins, 2) float32; submap_xy (m, 2); paired: indices (q,) of the images
    that have a place in the map; candidates: for each of those, the submaps that count as it.
    """

    images: NDArray[np.uint8]
    image_xy: NDArray[np.float64]
    groups: NDArray[np.float32]
    centres: NDArray[np.float32]
    profiles: NDArray[np.float32]
    submap_xy: NDArray[np.float64]
    paired: NDArray[np.int64]
    candidates: list[NDArray[np.int64]]


def prepare_site(site: Site, config: TrainingConfig, camera: str | None = None) -> PreparedSite:
    """
    Return the prepared pairs of one site; an InputError names a site that yields none.

    Submaps are cut every `submap_spacing_m` along the map drive; every posed image of the query
    drives is paired with the submaps within `pair_m` and `pair_deg` of it.
    """
    map_drive = open_drive(Path(site.root), site.map_drive)
    submap_config = config.model.submap.model_copy(
        update={'spacing_m': config.submap_spacing_m})
    store = submaps_of_drive(map_drive, submap_config)
    groups, centres, profiles, kept = prepared_submaps(store, config.model)
    submap_xy = store.poses[kept][:, :2, 3]
    submap_yaw = yaw_of(store.poses[kept])

    parts = [prepared_images(open_drive(Path(site.root), name), config.model.image, camera)
             for name in site.query_drives]
    # One drive's stay on disk, memory-mapped.
    images = parts[0][0] if len(parts) == 1 else np.concatenate([part[0] for part in parts])
    poses = np.concatenate([poses for _, poses in parts])

    near = cKDTree(submap_xy).query_ball_point(poses[:, :2, 3], config.pair_m)
    alike = [np.array([j for j in sorted(places) if abs(wrap(yaw - submap_yaw[j])) <= np.radians(
        config.pair_deg)], np.int64) for places, yaw in zip(near, yaw_of(poses), strict=True)]
    paired = np.flatnonzero([len(places) > 0 for places in alike])
    if len(paired) == 0:
        raise InputError(f'no image of {", ".join(site.query_drives)} in {site.root} lies within '
                         f'{config.pair_m} m of a submap of {site.map_drive}: '
                         'name drives that share their way')
    candidates = [alike[i] for i in paired]
    return PreparedSite(images, poses[:, :2, 3], groups, centres, profiles, submap_xy,
                        paired, candidates)


def prepared_images(
    drive: Drive, config: ImageConfig, camera: str | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the posed images of a drive at the encoder's size, (n, h, w, 3), and their poses."""
    stream = drive.cameras[drive.camera_named(camera)]
    posed = np.flatnonzero(stream.has_pose)
    if len(posed) == 0:
        raise InputError(f'{drive.source} has no image with a pose: training needs both')
    key = content_hash(['images', FORMAT, drive.source, drive.name, camera,
                        [[stream.paths[i].name, stream.paths[i].stat().st_size,
                          stream.paths[i].stat().st_mtime_ns] for i in posed],
                        asdict(stream.camera), config.model_dump(mode='json')])

    def make(folder: Path) -> None:
        images = np.lib.format.open_memmap(
            folder / 'images.npy', 'w+', np.uint8, (len(posed), config.height, config.width, 3))
        for row, i in enumerate(track(posed, f'images of {drive.name}')):
            image = drive.image(drive.camera_named(camera), int(i))
            images[row] = _as_bytes(prepare_image(image, stream.camera, config), config)
        images.flush()

    folder = _cached('images', key, make)
    return np.load(folder / 'images.npy', mmap_mode='r'), stream.T_map_base[posed]


def _as_bytes(prepared: NDArray[np.float32], config: ImageConfig) -> NDArray[np.uint8]:
    """Undo the normalisation of (3, h, w): (h, w, 3) uint8, to keep and to augment."""
    mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
    image = prepared.transpose(1, 2, 0) * std + mean
    return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)


def prepared_submaps(store: SubmapStore, model: ModelConfig) -> tuple[
        NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """
    Return the tokens of a store's submaps and their geometry profiles.

    groups (m, G, K, 3), centres (m, G, 3), profiles (m, bins, 2), and the indices (m,) of the
    submaps: those with too few points are left out.
    """
    key = content_hash(['submaps', FORMAT, store.key, model.cloud.tokens.model_dump(mode='json'),
                        model.image.model_dump(mode='json')])

    def make(folder: Path) -> None:
        kept, groups, centres, profiles = [], [], [], []
        for i in track(range(len(store)), 'tokens of submaps'):
            try:
                tokens = cloud_tokens(store.above_ground(i), model.cloud.tokens)
            except InputError:
                continue
            kept.append(i)
            groups.append(tokens.groups)
            centres.append(tokens.centres)
            profiles.append(profile(store.above_ground(i), model))
        if not kept:
            raise InputError('no submap of the map has enough points: give a denser map')
        np.save(folder / 'kept.npy', np.array(kept, np.int64))
        np.save(folder / 'groups.npy', np.stack(groups))
        np.save(folder / 'centres.npy', np.stack(centres))
        np.save(folder / 'profiles.npy', np.stack(profiles))

    folder = _cached('tokens', key, make)
    groups, centres, profiles, kept = (
        np.load(folder / f'{name}.npy', mmap_mode='r')
        for name in ('groups', 'centres', 'profiles', 'kept'))
    return groups, centres, profiles, kept


def azimuth_column(azimuth: NDArray[np.floating], config: ImageConfig) -> NDArray[np.floating]:
    """
    Return where an azimuth lies across the image: 0 at its left edge, 1 at its right one.

    azimuth: radians about the vehicle's z axis, 0 ahead, positive to the left. Of a perspective
    image the place follows the tangent and is NaN beyond 90 degrees; of a panorama (no camera in
    the configuration) it is linear.
    """
    if config.camera is None:
        return 0.5 - azimuth / (2.0 * np.pi)
    camera = config.camera
    ahead = np.where(np.abs(azimuth) < np.pi / 2, azimuth, np.nan)
    return (camera.cx + 0.5 - camera.fx * np.tan(ahead)) / camera.width


def profile(points: NDArray[np.float32], model: ModelConfig) -> NDArray[np.float32]:
    """
    Return what a LiDAR measures by image column, (bins, 2); NaN where it measures nothing.

    points: (n, 3) of a submap, in the vehicle frame, z from the road. Of each bin: the logarithm
    of the nearest planar range of what stands between 0.5 and 3 m above the road, and the highest
    elevation angle in radians of anything, both as seen from the sensor's height.
    """
    bins = BINS_PER_COLUMN * (model.image.width // model.image.patch)
    p = points.astype(np.float64)
    planar_range = np.hypot(p[:, 0], p[:, 1])
    place = azimuth_column(np.arctan2(p[:, 1], p[:, 0]), model.image)
    with np.errstate(invalid='ignore'):
        seen = (place >= 0.0) & (place < 1.0) & (planar_range > 2.0)
    column = np.floor(place[seen] * bins).astype(np.int64)
    planar_range, height = planar_range[seen], p[seen, 2]

    nearest = np.full(bins, np.inf)
    standing = (height > 0.5) & (height < 3.0)
    np.minimum.at(nearest, column[standing], planar_range[standing])
    highest = np.full(bins, -np.inf)
    elevation = np.arctan2(height - model.cloud.tokens.sensor_height_m, planar_range)
    np.maximum.at(highest, column, elevation)
    result = np.stack([np.log(nearest), highest], 1)
    return np.where(np.isfinite(result), result, np.nan).astype(np.float32)


def _cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    folder = cache_directory() / kind / key
    if not (folder / 'made.json').is_file():
        with atomic_directory(folder, overwrite=True) as temporary:
            make(temporary)
            write_json(temporary / 'made.json', {'kind': kind, 'key': key, 'format': FORMAT})
    return folder
