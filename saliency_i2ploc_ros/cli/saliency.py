"""`i2ploc saliency`: what a model looks at, and whether it matters."""

from __future__ import annotations

from pathlib import Path
import sys
from typing import Annotated

import typer

from ..errors import InputError


def command(
    model: Annotated[Path, typer.Argument(help='Folder of the model.')],
    root: Annotated[Path, typer.Argument(
        help='A data set with drives over the same streets; cities with --semantics know the '
        'classes of what is seen.')],
    drive: Annotated[str | None, typer.Option(
        help='The drive whose images are looked at; default: the second, if there are two.')
        ] = None,
    map_drive: Annotated[str | None, typer.Option(
        help='The drive that is the map; default: the first.')] = None,
    out: Annotated[Path, typer.Option(
        help='Folder for report.html, report.md, summary.json and pictures.')] = Path('saliency'),
    images: Annotated[int, typer.Option(
        min=2, help='Look at so many images at most, evenly along the drive.')] = 120,
    places: Annotated[int, typer.Option(
        min=2, help='Look at so many submaps at most; recall is asked of all.')] = 60,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
) -> None:
    """
    Show what a model's saliency marks, and test whether that is more than a habit.

    Shares of saliency on what can move and what stays, against their area, within rows of the
    picture and at the same spots; and what is lost when the most salient patches are removed,
    against random ones. Best on heavy traffic: `i2ploc city --cars 60 --people 60 --semantics`.
    """
    from ..data.readers import drive_names, open_drive
    from ..encoders.config import AggregationConfig
    from ..encoders.files import encoder_hash, load_model
    from ..evaluation.looking import check_saliency
    from ..evaluation.saliency_report import write_saliency_report
    from ..evaluation.saliency_study import study_saliency
    from ..export.runners import torch_device

    loaded = load_model(model)
    check_saliency(loaded.config)
    if out.exists() and not out.is_dir():
        raise InputError(f'{out} is a file: name a folder for the report')
    names = drive_names(root)
    asked = open_drive(root, drive or names[min(1, len(names) - 1)])
    mapped = open_drive(root, map_drive or names[0])
    study = study_saliency(loaded.to(torch_device(device)), root, mapped, asked, images, places)
    out.mkdir(parents=True, exist_ok=True)
    aggregation = loaded.config.aggregation
    strength = (aggregation.saliency_strength if isinstance(aggregation, AggregationConfig)
                else 0.0)
    write_saliency_report(
        out, loaded.config.name, strength, study.branches, study.shown, study.protocol,
        {'command': sys.argv, 'model': encoder_hash(loaded), 'map': mapped.source,
         'images': asked.source})
    typer.echo(f'{out / "report.html"}: written')
