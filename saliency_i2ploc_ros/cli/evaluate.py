"""`i2ploc evaluate`: a drive's images against a map, judged by the drive's own poses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage import shared_directory


def command(
    root: Annotated[Path, typer.Argument(help='The data set that holds the drive to localize.')],
    map_path: Annotated[Path, typer.Option('--map', help='The map, from `i2ploc build-map`.')],
    out: Annotated[Path, typer.Option(
        help='Folder for summary.json, fixes.tum, truth.tum, overview.png, errors.png.')],
    drive: Annotated[str | None, typer.Option(
        help='Name of the drive; may be left out if there is one.')] = None,
    camera: Annotated[str | None, typer.Option(
        help='Name of the camera; default: the first.')] = None,
    every: Annotated[int, typer.Option(min=1, help='Use each n-th image only.')] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help='Stop after so many images.')] = None,
    min_score: Annotated[float | None, typer.Option(
        min=-1.0, max=1.0, help='Similarity of the best place below which an image is rejected.')
    ] = None,
    min_weight: Annotated[float | None, typer.Option(
        min=0.0, max=1.0, help='Share of the weight near the best place below which an image is '
        'rejected; 0 accepts the most ambiguous.')] = None,
    model: Annotated[Path | None, typer.Option(
        help='The model that the map was built with; default: the shipped one.')] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
) -> None:
    """
    Localize every image of a drive in a map, and judge the fixes by the drive's poses.

    The map must come from the same area and use the same coordinates. Nothing is aligned. A drive
    without poses gets its fixes written, and no errors. Runs are reproducible to the bit, times
    aside.
    """
    from rich.console import Console

    from ..data.readers import open_drive
    from ..evaluation.offline import evaluate_drive, has_truth
    from ..evaluation.report import provenance, summary_table, write_report
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.localizer import open_localizer

    opened = open_drive(root, drive)
    name = opened.camera_named(camera)
    given: dict[str, Any] = {'min_score': min_score, 'min_weight': min_weight}
    config = LocalizerConfig(**{key: value for key, value in given.items() if value is not None})
    model = model or shared_directory('models') / 'city'
    localizer = open_localizer(model, map_path, config, device)
    if out.exists() and not out.is_dir():
        raise InputError(f'{out} is a file: name a folder for the results')
    # A folder that cannot be written should be known before the work, not after it.
    out.mkdir(parents=True, exist_ok=True)
    records = evaluate_drive(localizer, opened, name, every, limit)
    title = f'{opened.name}, {name}, in the map {map_path.name}'
    summary = write_report(
        out, records, localizer.database, lambda record: opened.image(name, record.frame),
        provenance(localizer, drive=opened.source, camera=name, every=every, limit=limit,
                   map=str(map_path), model=str(model)), title=title)

    console = Console()
    console.print(summary_table(summary, title))
    if not has_truth(opened, name):
        console.print(f'{opened.name} has no poses: its fixes are written, errors and recall are '
                      'not known.')
    elif summary['recall'] and summary['recall']['queries'] == 0:
        console.print('No image was taken within 20 m of a place of the map: is the map of '
                      'this area, and in the same coordinates?')
    console.print(f'Written to {out}: {", ".join(sorted(p.name for p in out.iterdir()))}')
