"""`i2ploc city`: makes procedural cities and drives through them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..progress import track


def command(
    out: Annotated[Path, typer.Argument(
        help='Folder for the cities: city-0000 holds the drives of seed 0.')],
    seed: Annotated[int, typer.Option(help='Seed of the first city.', min=0, max=9999)] = 0,
    count: Annotated[int, typer.Option(
        help='Number of cities, of seeds seed, seed + 1, ...', min=1)] = 1,
    traversals: Annotated[int, typer.Option(
        help='Drives through each: same streets, other light, traffic and lane.', min=1)] = 2,
    length: Annotated[float, typer.Option(help='Length of a drive, in metres.')] = 1000.0,
    camera: Annotated[str, typer.Option(
        help='perspective, fisheye (one to the left, one to the right) or panorama.',
        )] = 'perspective',
    height: Annotated[int | None, typer.Option(
        help='Height of the images, in pixels; default: 96, of fisheyes 160.')] = None,
    width: Annotated[int | None, typer.Option(
        help='Width of the images, in pixels; default: 320, of fisheyes 160, of panoramas 384.',
        )] = None,
    step: Annotated[float, typer.Option(help='Metres from frame to frame.')] = 1.6,
    image_every: Annotated[int, typer.Option(
        help='An image at each n-th frame.', min=1)] = 2,
    scan_every: Annotated[int, typer.Option(
        help='A scan at each n-th frame; one takes 0.6 MB.', min=1)] = 1,
    columns: Annotated[int, typer.Option(
        help='Columns of a scan of 64 beams.', min=8, max=4096)] = 512,
    reverse: Annotated[list[int] | None, typer.Option(
        help='Number of a traversal that drives the other way; may be repeated.')] = None,
    cars: Annotated[float, typer.Option(
        help='Moving cars by kilometre of street; 60 is heavy traffic.', min=0.0)] = 16.0,
    people: Annotated[float, typer.Option(
        help='People by kilometre of street.', min=0.0)] = 14.0,
    weather: Annotated[str | None, typer.Option(
        help='clear, overcast, haze, dusk or wet; each drive its own if not given.')] = None,
    scanned: Annotated[list[int] | None, typer.Option(
        help='Number of a traversal that carries the LiDAR; may be repeated; default: all.')
        ] = None,
    pictured: Annotated[list[int] | None, typer.Option(
        help='Number of a traversal that carries cameras; may be repeated; default: all.')
        ] = None,
    depth: Annotated[bool, typer.Option('--depth', help='Write depth images too.')] = False,
    semantics: Annotated[bool, typer.Option(
        '--semantics', help="Write the images' classes too.")] = False,
    jobs: Annotated[int, typer.Option(
        help='Processes; each makes a city of its own.', min=1)] = 1,
    sheet: Annotated[Path | None, typer.Option(
        help='Only draw a picture (PNG) of six drives through the first two cities.')] = None,
) -> None:
    """
    Make cities and drives through them, in KITTI-360's layout.

    Images, LiDAR scans with classes, poses and calibration, all from one seed: the same seed
    gives the same files. A city that is finished is left as it is, so that a run that was
    stopped goes on where it was. A drive of 1 km takes half a minute on one core and 0.4 GB, with
    whichever camera. Of fisheyes every other command sees the two and, stitched, the panorama.
    """
    # Ray casting comes late, so that the other commands start without it.
    from ..data.city.generate import generate_city, IMAGE_SIZES
    from ..data.city.lidar import Lidar
    from ..data.city.sheet import draw_sheet
    from ..data.city.weather import KINDS

    if weather is not None and weather not in KINDS:
        raise InputError(f'no weather {weather!r}: choose one of {", ".join(KINDS)}')
    if camera not in IMAGE_SIZES:
        raise InputError(f'no camera {camera!r}: choose one of {", ".join(IMAGE_SIZES)}')
    if sheet is not None:
        draw_sheet(sheet, seed)
        typer.echo(f'{sheet}: written')
        return
    default = IMAGE_SIZES[camera]
    options: dict[str, Any] = {
        'traversals': traversals, 'length_m': length, 'camera': camera,
        'image_size': (height or default[0], width or default[1]),
        'step_m': step, 'image_every': image_every,
        'scan_every': scan_every, 'lidar': Lidar(columns=columns), 'reverse': tuple(reverse or ()),
        'cars_per_km': cars, 'people_per_km': people, 'weather': weather, 'depth': depth,
        'semantics': semantics, 'scanned': None if scanned is None else tuple(scanned),
        'pictured': None if pictured is None else tuple(pictured)}
    seeds = range(seed, seed + count)
    folders = [out / f'city-{s:04d}' for s in seeds]
    if jobs == 1 or count == 1:
        for folder, s in zip(folders, seeds, strict=True):
            typer.echo(f'{folder}: {", ".join(generate_city(folder, s, **options))}')
        return
    with ProcessPoolExecutor(min(jobs, count), multiprocessing.get_context('spawn')) as pool:
        work = [pool.submit(generate_city, folder, s, progress=False, **options)
                for folder, s in zip(folders, seeds, strict=True)]
        try:
            for folder, task in track(list(zip(folders, work, strict=True)), 'cities'):
                typer.echo(f'{folder}: {", ".join(task.result())}')
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
