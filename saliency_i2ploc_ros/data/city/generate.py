"""Writes drives through procedural cities in KITTI-360's layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...geometry.cameras import Pinhole
from ...geometry.poses import R_base_optical, transform
from ...progress import track
from ...storage import atomic_directory, read_json, write_json
from ..kitti360 import DriveWriter, write_calibration
from .lidar import Lidar, scan
from .render import Picture, render
from .traversal import make_traversal, Traversal
from .world import City

Array = NDArray[np.float64]

FORMAT = 1
CAMERA_HEIGHT_M, LIDAR_HEIGHT_M = 1.55, 1.73
T_BASE_CAMERA: Array = transform(R_base_optical, [0.6, 0.0, CAMERA_HEIGHT_M])
T_BASE_LIDAR: Array = transform(None, [-0.2, 0.0, LIDAR_HEIGHT_M])


def city_camera(image_size: tuple[int, int] = (96, 320)) -> Pinhole:
    """Return KITTI-360's view (103 degrees wide) at an image size (height, width)."""
    height, width = image_size
    f = 125.6 * width / 320
    return Pinhole(width, height, f, f, (width - 1) / 2, (height - 1) / 2)


def blocks_for(length_m: float) -> int:
    """Return how many blocks a side a city needs for a way that seldom repeats a street."""
    return int(np.clip(np.ceil(np.sqrt(length_m / 55.0)), 3, 16))


def drive_name(seed: int, index: int) -> str:
    """Return the name of traversal `index` of city `seed`."""
    return f'city_{seed:04d}_drive_{index:04d}_sync'


def picture_of(trip: Traversal, frame: int, camera: Pinhole) -> Picture:
    """Return what the vehicle's camera sees at a frame."""
    rng = np.random.default_rng([trip.city.seed, 8, trip.index, frame])
    return render(trip.scene(frame), trip.T_map_base[frame] @ T_BASE_CAMERA, camera, trip.weather,
                  trip.city.styles, rng)


def generate_city(
    root: Path, seed: int, traversals: int = 2, length_m: float = 1000.0,
    image_size: tuple[int, int] = (96, 320), step_m: float = 1.6, image_every: int = 2,
    scan_every: int = 1, reverse: tuple[int, ...] = (),
    cars_per_km: float = 16.0, people_per_km: float = 14.0,
    weather: str | None = None, lidar: Lidar = Lidar(), blocks: int | None = None,
    depth: bool = False, semantics: bool = False, progress: bool = True,
) -> list[str]:
    """
    Write `traversals` drives through city `seed` below `root`; return their names.

    A frame is made every `step_m` metres, with a scan at every `scan_every`-th and an
    image at every `image_every`-th.
    reverse: indices of the traversals that drive the other way. A finished city with the same
    parameters is left as it is; one of other parameters is an InputError. Nothing unfinished is
    left behind. progress: show a bar on a terminal.
    """
    if traversals < 1 or step_m <= 0 or image_every < 1 or scan_every < 1:
        raise InputError('a city needs 1 traversal or more, a step over 0 m, and an image and a '
                         'scan at each 1st frame or later')
    if not max(10.0, 2 * step_m) <= length_m <= 50_000.0:
        raise InputError(f'a traversal of {length_m:g} m in steps of {step_m:g} m cannot be made: '
                         'ask for 10 to 50000 m and at least two steps')
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
    }
    names = [drive_name(seed, k) for k in range(traversals)]
    root = Path(root)
    if (root / 'city.json').is_file():
        found = read_json(root / 'city.json')
        if {k: found.get(k) for k in wanted} == wanted:
            return names
        raise InputError(f'{root} holds a city of other parameters: name another folder')
    city = City(seed, blocks)
    camera = city_camera(image_size)
    trips_weather = []
    with atomic_directory(root) as folder:
        write_calibration(folder, camera, T_BASE_CAMERA, T_BASE_LIDAR)
        for index, name in enumerate(names):
            trip = make_traversal(city, index, length_m, step_m, index in reverse, cars_per_km,
                                  people_per_km, weather)
            _write_trip(folder, name, trip, camera, lidar, image_every, scan_every, depth,
                        semantics, progress)
            trips_weather.append(trip.weather.kind)
        write_json(folder / 'city.json', {**wanted, 'drives': names,
                                          'drive_weather': trips_weather})
    return names


def _write_trip(folder: Path, name: str, trip: Traversal, camera: Pinhole, lidar: Lidar,
                image_every: int, scan_every: int, depth: bool, semantics: bool,
                progress: bool) -> None:
    writer = DriveWriter(folder, name)
    styles = trip.city.styles
    frames: Iterable[int] = range(len(trip.stamps_ns))
    for frame in track(frames, name) if progress else frames:
        scene = trip.scene(frame)
        pose = trip.T_map_base[frame]
        rng = np.random.default_rng([trip.city.seed, 8, trip.index, frame])
        if frame % image_every == 0:
            picture = render(scene, pose @ T_BASE_CAMERA, camera, trip.weather, styles, rng)
            writer.image(frame, picture.rgb)
            if depth:
                writer.depth(frame, picture.depth)
            if semantics:
                writer.semantics(frame, picture.labels)
        if frame % scan_every == 0:
            rng = np.random.default_rng([trip.city.seed, 9, trip.index, frame])
            writer.scan(frame, scan(scene, pose @ T_BASE_LIDAR, styles, rng, lidar))
    ids = np.arange(len(trip.stamps_ns))
    writer.finish(trip.stamps_ns, trip.stamps_ns, ids, trip.T_map_base)
