"""Writes drives through procedural cities in KITTI-360's layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...geometry.cameras import Camera, Panorama, Pinhole
from ...geometry.lenses import Mei
from ...geometry.panorama import panorama_mount
from ...geometry.poses import planar, R_base_optical, transform
from ...progress import track
from ...storage import atomic_directory, read_json, write_json
from ..kitti360 import CAMERAS, DriveWriter, FISHEYES, PANORAMA, write_calibration
from .lidar import Lidar, scan
from .render import Picture, render
from .traversal import make_traversal, Traversal
from .world import City

Array = NDArray[np.float64]

FORMAT = 1
CAMERA_HEIGHT_M, LIDAR_HEIGHT_M = 1.55, 1.73
T_BASE_CAMERA: Array = transform(R_base_optical, [0.6, 0.0, CAMERA_HEIGHT_M])
T_BASE_LIDAR: Array = transform(None, [-0.2, 0.0, LIDAR_HEIGHT_M])
# Left and right, as KITTI-360's stand on the roof.
T_BASE_FISHEYES: list[Array] = [
    planar(0.7, side * 0.45, side * np.pi / 2, 1.95) @ transform(R_base_optical)
    for side in (1, -1)]
# Height and width of images, by kind of camera: of similar cost.
IMAGE_SIZES = {'perspective': (96, 320), 'fisheye': (160, 160), 'panorama': (96, 384)}


def city_camera(image_size: tuple[int, int] = (96, 320)) -> Pinhole:
    """Return KITTI-360's view (103 degrees wide) at an image size (height, width)."""
    height, width = image_size
    f = 125.6 * width / 320
    return Pinhole(width, height, f, f, (width - 1) / 2, (height - 1) / 2)


def city_fisheye(image_size: tuple[int, int]) -> Mei:
    """Return a lens like KITTI-360's (198 degrees to the image's sides) at a (height, width)."""
    height, width = image_size
    return Mei(width, height, 2.2, 0.02, 1.6, 4e-4, -3e-4, 0.952 * width, 0.952 * height,
               0.51 * width, 0.495 * height)


def city_panorama(image_size: tuple[int, int]) -> Panorama:
    """Return a panorama of square pixels about the horizon at a (height, width)."""
    height, width = image_size
    edge = min(90.0, 180.0 * height / width)
    return Panorama(width, height, edge, -edge)


def city_cameras(
    kind: str, image_size: tuple[int, int],
) -> dict[str, tuple[Pinhole | Mei | Panorama, Array]]:
    """Return a vehicle's cameras by name, each with its pose in base_link (4, 4)."""
    if kind == 'fisheye':
        return {name: (city_fisheye(image_size), T)
                for name, T in zip(FISHEYES, T_BASE_FISHEYES, strict=True)}
    if kind == 'panorama':
        return {PANORAMA: (city_panorama(image_size), panorama_mount(T_BASE_FISHEYES))}
    return {CAMERAS[0]: (city_camera(image_size), T_BASE_CAMERA)}


def blocks_for(length_m: float) -> int:
    """Return how many blocks a side a city needs for a way that seldom repeats a street."""
    return int(np.clip(np.ceil(np.sqrt(length_m / 55.0)), 3, 16))


def drive_name(seed: int, index: int) -> str:
    """Return the name of traversal `index` of city `seed`."""
    return f'city_{seed:04d}_drive_{index:04d}_sync'


def picture_of(
    trip: Traversal, frame: int, camera: Camera, T_base_camera: Array = T_BASE_CAMERA,
) -> Picture:
    """Return what a camera of the vehicle sees at a frame."""
    rng = np.random.default_rng([trip.city.seed, 8, trip.index, frame])
    return render(trip.scene(frame), trip.T_map_base[frame] @ T_base_camera, camera, trip.weather,
                  trip.city.styles, rng)


def generate_city(
    root: Path, seed: int, traversals: int = 2, length_m: float = 1000.0,
    image_size: tuple[int, int] | None = None, step_m: float = 1.6, image_every: int = 2,
    scan_every: int = 1, reverse: tuple[int, ...] = (),
    cars_per_km: float = 16.0, people_per_km: float = 14.0,
    weather: str | None = None, lidar: Lidar = Lidar(), blocks: int | None = None,
    depth: bool = False, semantics: bool = False, scanned: tuple[int, ...] | None = None,
    pictured: tuple[int, ...] | None = None,
    camera: str = 'perspective', progress: bool = True,
) -> list[str]:
    """
    Write `traversals` drives through city `seed` below `root`; return their names.

    A frame is made every `step_m` metres, with a scan at every `scan_every`-th and an
    image at every `image_every`-th.
    reverse: indices of the traversals that drive the other way. scanned: indices of those that
    carry the LiDAR and pictured of those that carry cameras, None: all; a drive that only
    asks needs no LiDAR, one that is only the map no camera. camera: a key of IMAGE_SIZES:
    one perspective camera, two fisheyes (left and right), or one panorama at the middle between
    them. image_size: height and width of each image, None: of IMAGE_SIZES. A finished city with
    the same parameters is left as it is; one of other parameters is an InputError. Nothing
    unfinished is left behind. progress: show a bar on a terminal.
    """
    if traversals < 1 or step_m <= 0 or image_every < 1 or scan_every < 1:
        raise InputError('a city needs 1 traversal or more, a step over 0 m, and an image and a '
                         'scan at each 1st frame or later')
    named = {*reverse, *(scanned or ()), *(pictured or ())}
    if not named <= set(range(traversals)):
        raise InputError(f'there is no traversal {max(named)} of {traversals}: they count from 0')
    if not max(10.0, 2 * step_m) <= length_m <= 50_000.0:
        raise InputError(f'a traversal of {length_m:g} m in steps of {step_m:g} m cannot be made: '
                         'ask for 10 to 50000 m and at least two steps')
    if camera not in IMAGE_SIZES:
        raise InputError(f'no camera {camera!r}: choose one of {", ".join(IMAGE_SIZES)}')
    image_size = image_size or IMAGE_SIZES[camera]
    if min(image_size) < 8:
        raise InputError(f'an image of {image_size[0]} x {image_size[1]} pixels is too small: '
                         'ask for at least 8 x 8')
    blocks = blocks_for(length_m) if blocks is None else blocks
    if not 2 <= blocks <= 24:
        raise InputError(f'a city of {blocks} x {blocks} blocks cannot be made: ask for 2 to 24')
    wanted: dict[str, Any] = {
        'format': FORMAT, 'seed': seed, 'traversals': traversals, 'length_m': length_m,
        'image_size': list(image_size), 'step_m': step_m, 'image_every': image_every,
        'scan_every': scan_every,
        'reverse': sorted(reverse), 'cars_per_km': cars_per_km, 'people_per_km': people_per_km,
        'weather': weather, 'lidar': [lidar.beams, lidar.columns], 'blocks': blocks,
        'depth': depth, 'semantics': semantics,
        'scanned': None if scanned is None else sorted(scanned),
        'pictured': None if pictured is None else sorted(pictured),
        # None, so that cities made before there were others are still known.
        'camera': None if camera == 'perspective' else camera,
    }
    names = [drive_name(seed, k) for k in range(traversals)]
    root = Path(root)
    if (root / 'city.json').is_file():
        found = read_json(root / 'city.json')
        if {k: found.get(k) for k in wanted} == wanted:
            return names
        raise InputError(f'{root} holds a city of other parameters: name another folder')
    city = City(seed, blocks)
    cameras = city_cameras(camera, image_size)
    pinhole = city_camera(image_size if camera == 'perspective' else IMAGE_SIZES['perspective'])
    others = {name: (model, T) for name, (model, T) in cameras.items()
              if not isinstance(model, Pinhole)}
    trips_weather = []
    with atomic_directory(root) as folder:
        write_calibration(folder, pinhole, T_BASE_CAMERA, T_BASE_LIDAR, others)
        for index, name in enumerate(names):
            trip = make_traversal(city, index, length_m, step_m, index in reverse, cars_per_km,
                                  people_per_km, weather)
            scans = None if scanned is not None and index not in scanned else scan_every
            images = None if pictured is not None and index not in pictured else image_every
            _write_trip(folder, name, trip, cameras, lidar, images, scans, depth,
                        semantics, progress)
            trips_weather.append(trip.weather.kind)
        write_json(folder / 'city.json', {**wanted, 'drives': names,
                                          'drive_weather': trips_weather})
    return names


def _write_trip(
    folder: Path, name: str, trip: Traversal, cameras: Mapping[str, tuple[Camera, Array]],
    lidar: Lidar, image_every: int | None, scan_every: int | None, depth: bool, semantics: bool,
    progress: bool,
) -> None:
    writer = DriveWriter(folder, name)
    styles = trip.city.styles
    frames: Iterable[int] = range(len(trip.stamps_ns))
    for frame in track(frames, name) if progress else frames:
        picturing = image_every is not None and frame % image_every == 0
        scanning = scan_every is not None and frame % scan_every == 0
        if not (picturing or scanning):
            continue
        scene = trip.scene(frame)
        pose = trip.T_map_base[frame]
        rng = np.random.default_rng([trip.city.seed, 8, trip.index, frame])
        for camera, (model, T_base_camera) in cameras.items() if picturing else ():
            picture = render(scene, pose @ T_base_camera, model, trip.weather, styles, rng)
            writer.image(frame, picture.rgb, camera)
            if depth:
                writer.depth(frame, picture.depth, camera)
            if semantics:
                writer.semantics(frame, picture.labels, camera)
        if scanning:
            rng = np.random.default_rng([trip.city.seed, 9, trip.index, frame])
            writer.scan(frame, scan(scene, pose @ T_BASE_LIDAR, styles, rng, lidar))
    ids = np.arange(len(trip.stamps_ns))
    writer.finish(trip.stamps_ns, trip.stamps_ns, ids, trip.T_map_base)
