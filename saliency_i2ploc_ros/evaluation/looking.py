"""What the two branches look at: tokens as parts of pictures and of streets, with classes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
import torch

from ..data.drive import CameraStream, Drive
from ..data.labels import DYNAMIC
from ..data.submaps import SubmapStore
from ..encoders.cloud_tokens import UNIT_RANGE_M
from ..encoders.config import CloudConfig, ImageConfig, ModelConfig, RangeConfig
from ..encoders.dual import DualEncoder
from ..errors import InputError
from ..geometry.poses import apply, inverse
from .saliency import CLASSES

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

SCANS_WITHIN_M, SCANS = 60.0, 12  # from which the classes of a submap's points are taken
SAME_POINT_M = 1.0  # a point has the class of the nearest labelled one no further than this
ELEVATION_BANDS, AZIMUTH_BANDS = 6, 8  # rows and spots of tokens that are groups of points
BATCH = 32


def check_saliency(config: ModelConfig) -> None:
    """Raise InputError unless both branches have an attention to look at."""
    if not config.has_saliency:
        raise InputError(f'the model {config.name!r} has no attention that says what it looks '
                         'at: take one whose two branches are transformers with a CLS token')
    if not isinstance(config.image, ImageConfig) or not isinstance(
            config.cloud, (CloudConfig, RangeConfig)):
        raise InputError(f'the saliency of tokens of the kinds {config.image.kind!r} and '
                         f'{config.cloud.kind!r} cannot be placed: take vit, and points or range')


def semantics_path(root: Path, drive: Drive, camera: str, frame_id: int) -> Path:
    """Return where KITTI-360's layout has the classes of an image."""
    return (root / 'data_2d_semantics' / 'train' / drive.name / camera / 'semantic'
            / f'{frame_id:010d}.png')


def image_classes(path: Path, stream: CameraStream, config: ImageConfig) -> NDArray[np.uint8]:
    """
    Return the classes (height, width) of an image as the network sees it, 0 where unseen.

    path: a PNG of classes of the stream's size; anything else is an InputError.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    size = (stream.camera.height, stream.camera.width)
    if image is None or image.ndim != 2 or image.shape != size:
        raise InputError(f'{path} is no image of classes of {size[1]} x {size[0]} pixels: write '
                         'it again, for example with `i2ploc city --semantics`')
    if config.camera is None:
        return np.asarray(cv2.resize(image, (config.width, config.height),
                                     interpolation=cv2.INTER_NEAREST), np.uint8)
    uv, inside = stream.camera.project(config.camera.rays())
    classes = np.zeros(len(uv), np.uint8)
    at = np.clip(np.rint(uv[inside]).astype(int), 0, [size[1] - 1, size[0] - 1])
    classes[inside] = image[at[:, 1], at[:, 0]]
    return classes.reshape(config.height, config.width)


def patch_shares(classes: NDArray[np.integer], config: ImageConfig | RangeConfig) -> Array:
    """Return how much of each token (N, len(CLASSES)) each class of pixels (h, w) takes."""
    rows, columns = config.grid
    patch = config.patch
    padded = np.zeros((rows * patch, columns * patch), np.int64)
    padded[:classes.shape[0], :classes.shape[1]] = classes
    cells = padded.reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3)
    return shares_of(cells.reshape(rows * columns, patch * patch))


def shares_of(classes: NDArray[np.integer]) -> Array:
    """Return shares (N, len(CLASSES)) of classes (N, K); what is in no list counts as unknown."""
    shares = np.stack([(classes == c).mean(1) for c in CLASSES], 1)
    shares[:, CLASSES.index(0)] += 1.0 - shares.sum(1)
    return np.asarray(shares)


def token_points(inputs: tuple[Floats, ...], config: ModelConfig) -> Floats:
    """
    Return the points (N, K, 3) that each cloud token is made of, NaN where it sees nothing.

    inputs: as `cloud_input` makes them. In the vehicle frame, metres, z from the road.
    """
    cloud = config.cloud
    if isinstance(cloud, RangeConfig):
        return _pixels_of_patches(_pixel_points(inputs[0][0], config), cloud)
    assert isinstance(cloud, CloudConfig)
    groups, centres = inputs
    points = groups + centres[:, None]
    if cloud.tokens.space == 'cartesian':
        return points
    azimuth, elevation, log_range = np.moveaxis(points, -1, 0)
    distance = UNIT_RANGE_M * np.exp(log_range)
    planar = distance * np.cos(elevation)
    height = distance * np.sin(elevation) + cloud.tokens.sensor_height_m
    return np.stack([planar * np.cos(azimuth), planar * np.sin(azimuth), height], -1)


def _pixel_points(ranges: Floats, config: ModelConfig) -> Floats:
    """Return the point (h, w, 3) at each pixel of a range image, NaN where there is nothing."""
    cloud = config.cloud
    assert isinstance(cloud, RangeConfig)
    if cloud.projection == 'camera':
        assert config.image.camera is not None
        rays = config.image.camera.resized(cloud.width, cloud.height).rays()
        directions = np.stack([rays[:, 2], -rays[:, 0], -rays[:, 1]], 1)
    else:
        low, high = np.radians(cloud.elevation_deg)
        wide = np.radians(cloud.field_of_view_deg)
        azimuth = (0.5 - (np.arange(cloud.width) + 0.5) / cloud.width) * wide
        elevation = high - (np.arange(cloud.height) + 0.5) / cloud.height * (high - low)
        e, a = np.meshgrid(elevation, azimuth, indexing='ij')
        directions = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    directions = directions.reshape(cloud.height, cloud.width, 3)
    points = directions * np.where(ranges > 0.0, ranges, np.nan)[..., None]
    return (points + [0.0, 0.0, cloud.sensor_height_m]).astype(np.float32)


def _pixels_of_patches(pixels: Floats, cloud: RangeConfig) -> Floats:
    rows, columns = cloud.grid
    patch = cloud.patch
    padded = np.full((rows * patch, columns * patch, 3), np.nan, np.float32)
    padded[:pixels.shape[0], :pixels.shape[1]] = pixels
    cells = padded.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(rows * columns, patch * patch, 3)


def cloud_rows(points: Floats, config: ModelConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Return the rows (n, N) and spots (n, N) of the cloud tokens of n submaps.

    points: (n, N, K, 3) of `token_points`. Of a range image, those of its grid; groups of points
    have none, and are put into bands of elevation and azimuth of the mean point, as many tokens
    in each band of all submaps together.
    """
    cloud = config.cloud
    n, N = points.shape[:2]
    if isinstance(cloud, RangeConfig):
        rows, columns = cloud.grid
        return (np.broadcast_to(np.repeat(np.arange(rows), columns), (n, N)),
                np.broadcast_to(np.arange(N), (n, N)))
    assert isinstance(cloud, CloudConfig)
    middle = points.mean(2) - np.array([0.0, 0.0, cloud.tokens.sensor_height_m], np.float32)
    elevation = np.arctan2(middle[..., 2], np.hypot(middle[..., 0], middle[..., 1]))
    azimuth = np.arctan2(middle[..., 1], middle[..., 0])
    band = _bands(elevation, ELEVATION_BANDS)
    return band, band * AZIMUTH_BANDS + _bands(azimuth, AZIMUTH_BANDS)


def _bands(values: Floats, count: int) -> NDArray[np.int64]:
    edges = np.quantile(values, np.arange(1, count) / count)
    return np.searchsorted(edges, values).astype(np.int64)


def labelled_around(
    drive: Drive, store: SubmapStore, index: int,
) -> tuple[Floats, NDArray[np.uint16], Floats, NDArray[np.uint16]] | None:
    """
    Return labelled points of a submap's surroundings, and of the traffic at one moment.

    Points (n, 3) and classes (n,) of what stays, from up to SCANS scans about its pose; points
    (m, 3) and classes (m,) of what can move, from the scan nearest to it. Both in the frame of
    the submap's vehicle, z from the road. None where the scans have no classes.
    """
    stream = drive.lidar
    assert stream is not None
    pose = store.poses[index]
    posed = np.flatnonzero(stream.has_pose)
    apart = np.linalg.norm(stream.T_map_base[posed, :2, 3] - pose[:2, 3], axis=1)
    nearest = int(posed[apart.argmin()])
    about = posed[apart < SCANS_WITHIN_M]
    chosen = {nearest, *about[np.linspace(0, len(about) - 1, min(SCANS, len(about))).astype(int)]
              .tolist()} if len(about) else {nearest}
    staying: list[tuple[Floats, NDArray[np.uint16]]] = []
    traffic: tuple[Floats, NDArray[np.uint16]] = (
        np.empty((0, 3), np.float32), np.empty(0, np.uint16))
    for i in sorted(chosen):
        scan = drive.scan(i)
        if scan.labels is None:
            return None
        T = inverse(pose) @ stream.T_map_base[i] @ stream.T_base_sensor
        points = apply(T, scan.points).astype(np.float32)
        points[:, 2] -= np.float32(store.ground_z_m)
        moves = np.isin(scan.labels, DYNAMIC)
        staying.append((points[~moves], scan.labels[~moves]))
        if i == nearest:
            traffic = points[moves], scan.labels[moves]
    return (np.concatenate([p for p, _ in staying]), np.concatenate([c for _, c in staying]),
            *traffic)


def classes_of_points(
    points: Floats, known: Floats, classes: NDArray[np.uint16],
) -> NDArray[np.int64]:
    """Return the classes (...) of points (..., 3) from labelled ones (n, 3); 0 where unknown."""
    flat = points.reshape(-1, 3)
    there = np.isfinite(flat).all(1)
    result = np.zeros(len(flat), np.int64)
    if there.any() and len(known):
        distance, index = cKDTree(known).query(
            flat[there], distance_upper_bound=SAME_POINT_M)
        found = np.isfinite(distance)
        result[np.flatnonzero(there)[found]] = classes[index[found]]
    return result.reshape(points.shape[:-1])


@torch.inference_mode()
def look(
    model: DualEncoder, inputs: Iterable[tuple[Floats, ...]], what: str,
) -> tuple[Floats, Array]:
    """
    Return descriptors (n, D) and saliency (n, N) of inputs that all have as many tokens.

    what: 'image' or 'cloud', whose inputs they are. They are taken a batch at a time.
    """
    device = next(model.parameters()).device
    encode = model.encode_image if what == 'image' else model.encode_cloud
    descriptors, saliency = [], []
    waiting = iter(inputs)
    while batch := list(islice(waiting, BATCH)):
        tensors = [torch.from_numpy(np.stack(arrays)).to(device)
                   for arrays in zip(*batch, strict=True)]
        encoded = encode(*tensors)
        descriptors.append(encoded.descriptor.float().cpu().numpy())
        saliency.append(encoded.saliency.double().cpu().numpy())
    return np.concatenate(descriptors), np.concatenate(saliency)


def without(
    inputs: tuple[Floats, ...], removed: NDArray[np.int64],
    config: ImageConfig | CloudConfig | RangeConfig,
) -> tuple[Floats, ...]:
    """
    Return a branch's inputs less some of its tokens.

    Patches of an image become the mean colour (zero as it is normalised), patches of a range image
    become nothing (zero), groups of points are left out.
    """
    if isinstance(config, CloudConfig):
        groups, centres = inputs
        kept = np.setdiff1d(np.arange(len(centres)), removed)
        return groups[kept], centres[kept]
    picture = inputs[0].copy()
    columns, patch = config.grid[1], config.patch
    for token in removed.tolist():
        y, x = (token // columns) * patch, (token % columns) * patch
        picture[:, y:y + patch, x:x + patch] = 0.0
    return picture,
