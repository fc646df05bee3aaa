"""`i2ploc scene`: what RViz would show of one answer, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage import read_json, shared_directory


def command(
    root: Annotated[Path, typer.Argument(
        help='A data set, of which one image is localized now; or the results of an evaluation or '
        'of a live run, of which an answer is shown.')],
    out: Annotated[Path, typer.Option(help='The picture (PNG).')],
    map_path: Annotated[Path | None, typer.Option(
        '--map', help='The map, from `i2ploc build-map`; of results: the one that they name.',
    )] = None,
    drive: Annotated[str | None, typer.Option(
        help='Drive or sequence, or its number; not needed where there is only one.')] = None,
    camera: Annotated[str | None, typer.Option(help='Camera; the first, if not given.')] = None,
    frame: Annotated[int | None, typer.Option(
        help='Number of the image in the data set, or of the answer in the results, from 0; the '
        'middle one, if not given.')] = None,
    model: Annotated[Path | None, typer.Option(
        help='The model that the map was built with; default: the shipped one.')] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
) -> None:
    """
    Draw one answer as RViz and Foxglove show it, for machines without a screen.

    The map from above with true and estimated path and the candidates; the query, what the network
    looks at in it, and the map as seen from the place found, one below the other; the submap found
    with the 2-sigma ellipse; and in words why there is a fix, or none.
    """
    from ..data.readers import open_drive
    from ..evaluation.scene import draw_scene
    from ..evaluation.scenes import scene_of_drive, scene_of_run
    from ..localization.localizer import open_localizer

    run = provenance_of(root)
    map_path = map_path or (Path(run['map']) if run and run.get('map') else None)
    if map_path is None:
        raise InputError('give the map to look in: --map, a folder from `i2ploc build-map`')
    localizer = open_localizer(model or shared_directory('models') / 'city', map_path,
                               device=device)
    if run is None:
        scene = scene_of_drive(localizer, open_drive(root, drive), camera, frame)
    else:
        scene = scene_of_run(localizer, root, frame, lambda stamp: seen(run, stamp))
    draw_scene(out, scene)
    typer.echo(f'{out}: written')


def provenance_of(folder: Path) -> dict[str, Any] | None:
    """Return what made the results in a folder; None if it holds none."""
    if not (folder / 'answers.jsonl').is_file():
        return None
    summary = folder / 'summary.json'
    return dict(read_json(summary).get('provenance') or {}) if summary.is_file() else {}


def seen(run: dict[str, Any], stamp_ns: int) -> Any:
    """Return the image of a run with this stamp and its camera; None if it is not at hand."""
    return (seen_in_drive if 'root' in run else seen_in_bag)(run, stamp_ns)


def seen_in_drive(run: dict[str, Any], stamp_ns: int) -> Any:
    """Return the same for a run of `i2ploc evaluate`; None without its data set."""
    from ..data.readers import open_drive
    try:
        drive = open_drive(Path(run['root']), run['drive_name'])
        stream = drive.cameras[drive.camera_named(run['camera'])]
        index = stream.stamps_ns.tolist().index(stamp_ns)
        return drive.image(run['camera'], index), stream.camera
    except (InputError, ValueError):  # The data set has changed since, or is gone.
        return None


def seen_in_bag(run: dict[str, Any], stamp_ns: int) -> Any:
    """Return the same for a live run, or one of `i2ploc evaluate-bag`; None without its bag."""
    bag = Path(str(run.get('drive') or ''))
    if not (bag / 'metadata.yaml').is_file():
        return None
    try:
        from ..ros.bag_images import camera_in_bag, image_in_bag
    except ImportError:
        return None
    named = [(run.get('parameters') or {}).get('image_topic'), *(run.get('images') or {}).values()]
    topic = next((topic for topic in named if topic), None)
    if topic is None:
        return None
    rectified = (run.get('localizer') or {}).get('image_is_rectified', True)
    image = image_in_bag(bag, topic, stamp_ns)
    return None if image is None else (image, camera_in_bag(bag, topic, rectified))
