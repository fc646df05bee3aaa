"""`i2ploc export`: a model as graphs for other runtimes, each held to the model's own answers."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..storage import shared_directory


class Format(str, Enum):
    """What a graph is written as."""

    pt2 = 'pt2'
    onnx = 'onnx'


def command(
    model: Annotated[Path | None, typer.Argument(
        help='Folder of the model; default: the shipped one.')] = None,
    out: Annotated[Path | None, typer.Option(
        help='Folder of the export; default: `export` in the folder of the model, where '
        '--runtime finds it.')] = None,
    to: Annotated[list[Format] | None, typer.Option(
        help='pt2 (torch.export) or onnx; give it twice for both; default: both.')] = None,
    half: Annotated[bool, typer.Option(
        '--half', help='Matrix products and convolutions in float16; norms, softmax and '
        'normalisation stay in float32.')] = False,
    images: Annotated[Path | None, typer.Option(
        help='Folder of pictures by which parity is checked; default: those of the drive.')
    ] = None,
    data: Annotated[Path | None, typer.Option(
        help='Data set whose images and submaps parity is checked by; default: a short drive '
        'through a procedural city, made once.')] = None,
    drive: Annotated[str | None, typer.Option(
        help='Name of the drive; may be left out if there is one.')] = None,
    overwrite: Annotated[bool, typer.Option(
        '--overwrite', help='Replace an export that is there.')] = False,
) -> None:
    """
    Export both branches of a model to torch.export (.pt2) and ONNX, with a dynamic batch.

    Each graph is accepted only if it answers as the model does, on real images and submaps at
    several sizes of the batch: a cosine of 0.9999 or more, with --half 0.999. `localize`,
    `evaluate` and the node run it with --runtime (there: the parameter runtime).
    """
    from rich.console import Console

    from ..data.readers import open_drive
    from ..encoders.files import read_identity
    from ..export.runtime import BESIDE
    from ..export.samples import (
        clouds_of_drive,
        default_drive,
        images_of_drive,
        images_of_folder,
    )
    from ..export.writer import export_model

    model = model or shared_directory('models') / 'city'
    out = out or model / BESIDE
    config, _ = read_identity(model)
    opened = default_drive() if data is None else open_drive(data, drive)
    pictures = images_of_drive(opened, config) if images is None \
        else images_of_folder(images, config)
    source = opened.source if images is None else f'{images}; submaps: {opened.source}'
    formats = tuple(dict.fromkeys(chosen.value for chosen in to or list(Format)))
    manifest = export_model(model, out, formats, half, pictures,
                            clouds_of_drive(opened, config), source, overwrite)
    Console().print(table(manifest))
    typer.echo(f'Held to the answers of the model on {source}')
    typer.echo(f'Written to {out}')


def table(manifest: dict[str, Any]) -> Any:
    """Return an export's files with size and parity, to print."""
    from rich.table import Table

    found = Table(title=f'{manifest["model"]} in {manifest["precision"]}', title_justify='left')
    compares = 'details' in manifest['outputs']
    for name in ('file', 'MB', 'batches', 'cosine', 'saliency',
                 *(['details'] if compares else []), 'inputs apart'):
        found.add_column(name, justify='left' if name == 'file' else 'right',
                         no_wrap=name != 'inputs apart')
    for name, file in manifest['files'].items():
        if (parity := file.get('parity')) is not None:
            found.add_row(name, f'{file["bytes"] / 1e6:.2f}',
                          ', '.join(parity['descriptor_cosine']),
                          _cosine(parity['descriptor_cosine']),
                          _cosine(parity['saliency_cosine']),
                          *([_cosine(parity['details_cosine'])] if compares else []),
                          f'{parity["apart"]:.2f}')
    return found


def _cosine(by_batch: dict[str, float]) -> str:
    """Return the smallest cosine so that its distance from one can be read."""
    return f'1 - {max(0.0, 1.0 - min(by_batch.values())):.0e}'
