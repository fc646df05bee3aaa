"""`i2ploc build-map`: a drive, or a map file and a trajectory, as a place database."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
import typer

from ..data.submaps import SubmapConfig, submaps_of_cloud, submaps_of_drive, SubmapStore
from ..errors import InputError
from ..geometry.poses import apply, yaw_of
from ..mapping.database import PlaceDatabase
from ..storage import atomic_file, shared_directory

PICTURE_POINTS = 300_000


def command(
    out: Annotated[Path, typer.Option(help='Folder of the map that is made.')],
    root: Annotated[Path | None, typer.Argument(
        help='Root of the data set that holds the drive; or give --cloud and --trajectory.')
        ] = None,
    drive: Annotated[str | None, typer.Option(
        help='Drive or sequence, or its number; not needed where there is only one.')] = None,
    cloud: Annotated[Path | None, typer.Option(
        help='A map as .las, .laz, .pcd or .ply, in place of a drive.')] = None,
    trajectory: Annotated[Path | None, typer.Option(
        help='Poses of the vehicle (x forward, z up) in that map: a TUM or a KITTI file.')] = None,
    scale: Annotated[float, typer.Option(
        help='Metres per unit of --cloud and --trajectory; 0.3048 for feet.')] = 1.0,
    model: Annotated[Path | None, typer.Option(
        help='Folder of the model; default: the shipped one.')] = None,
    spacing: Annotated[float | None, typer.Option(
        help="Distance between places, metres; default: the model's.")] = None,
    headings: Annotated[int | None, typer.Option(
        min=1, help='Views of each place, evenly all around, for vehicles that may look anywhere; '
        "default: the model's own, along the street.")] = None,
    picture: Annotated[Path | None, typer.Option(
        help='Picture (PNG) of the map from above, with its places.')] = None,
    overwrite: Annotated[bool, typer.Option(
        '--overwrite', help='Replace what is at OUT.')] = False,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
) -> None:
    """
    Build a map to localize in: the places along a drive, as the model describes them.

    The drive's LiDAR scans are gathered and cut into a submap every few metres (kept in the
    cache), and each submap is encoded. The map fits only the model that it was built with.
    `torchrun --nproc-per-node N -m saliency_i2ploc_ros.cli.main build-map ...` shares the
    encoding among N processes or GPUs.
    """
    from ..distributed import device_of, in_turn, start, stop, world
    from ..encoders.files import load_model
    from ..export.runners import torch_device
    from ..mapping.builder import build_database
    from ..mapping.views import headings as all_around

    if out.exists() and not overwrite:
        raise InputError(f'{out} exists already: name another folder or pass --overwrite')
    check_source(root, cloud, trajectory)
    loaded = load_model(model or shared_directory('models') / 'city')
    config = with_spacing(loaded.config.submap, spacing)
    here = world()
    start(here)
    with in_turn(here):
        store = submaps(root, drive, cloud, trajectory, scale, config)
    where = str(device_of()) if here.size > 1 else torch_device(device)
    views = None if headings is None else all_around(headings, loaded.config.views)
    database = build_database(store, loaded.to(where), out, overwrite, world=here, views=views)
    stop(here)
    if not here.writes:
        return
    schema = database.schema
    typer.echo(f'{out}: {schema.places} places every {schema.spacing_m:g} m of {schema.source}, '
               f'{schema.skipped} left out for too few points, model {schema.model_name} '
               f'{schema.encoder_hash}')
    if picture is not None:
        draw_map(database, picture)
        typer.echo(f'{picture}: written')


def check_source(root: Path | None, cloud: Path | None, trajectory: Path | None) -> None:
    """Raise InputError unless either a data set or a map file with a trajectory is given."""
    if (root is None) == (cloud is None):
        raise InputError('give either the root of a data set, or --cloud with --trajectory')
    if (cloud is None) != (trajectory is None):
        raise InputError('--cloud and --trajectory go together: give both or neither')


def with_spacing(config: SubmapConfig, spacing: float | None) -> SubmapConfig:
    """Return the submaps' configuration with another spacing, if one is given."""
    if spacing is None:
        return config
    if not (math.isfinite(spacing) and spacing > 0.0):
        raise InputError(f'the spacing {spacing} is no distance: give metres above 0, as 5')
    return config.model_copy(update={'spacing_m': spacing})


def submaps(
    root: Path | None, drive: str | None, cloud: Path | None, trajectory: Path | None,
    scale: float, config: SubmapConfig,
) -> SubmapStore:
    """Return the submaps of whichever source is given."""
    from ..data.readers import open_drive
    if cloud is not None and trajectory is not None:
        return submaps_of_cloud(cloud, trajectory, config, scale=scale)
    assert root is not None
    return submaps_of_drive(open_drive(root, drive), config)


def on_device(name: str) -> str:
    """Return the name of a device that torch can use; any other is an InputError."""
    import torch
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f'the device {name!r} cannot be used here: take cpu, or cuda where there '
                         'is an NVIDIA GPU and a torch made for it') from error
    return name


def draw_map(database: PlaceDatabase, path: Path) -> None:
    """Draw the map from above: its points by height over the road, its places with headings."""
    places = database.T_map_base
    share = max(1, PICTURE_POINTS // len(database))
    parts, heights = [], []
    for i, T_map_base in enumerate(places):
        cloud = database.cloud(i)[::-(-len(database.cloud(i)) // share)]
        parts.append(apply(T_map_base, cloud)[:, :2])
        heights.append(cloud[:, 2])
    points, height = np.concatenate(parts), np.concatenate(heights)
    order = np.argsort(height)  # what is high lies over what is low, as seen from above
    # Coordinates of millions of metres are unreadable on an axis: count from a round corner.
    corner = np.floor(places[:, :2, 3].min(axis=0) / 100.0) * 100.0
    points, xy, yaw = points - corner, places[:, :2, 3] - corner, yaw_of(places)

    figure = Figure(figsize=(11, 10), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    low, high = np.percentile(height, [2, 98]).tolist()
    dots = axes.scatter(points[order, 0], points[order, 1], c=height[order], s=0.4, linewidths=0,
                        cmap='viridis', vmin=low, vmax=high, rasterized=True)
    axes.quiver(*xy.T, np.cos(yaw), np.sin(yaw), color='#d1242f', angles='xy', width=0.0025,
                scale=60, label=f'{len(places)} places and their headings')
    figure.colorbar(dots, ax=axes, shrink=0.7, label='height in the vehicle frame [m]')
    axes.set(xlabel=f'x of the map, from {corner[0]:.0f} m [m]', aspect='equal',
             ylabel=f'y of the map, from {corner[1]:.0f} m [m]', title=database.schema.source)
    axes.legend(loc='upper right')
    with atomic_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
