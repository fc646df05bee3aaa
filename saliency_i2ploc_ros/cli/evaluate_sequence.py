"""`i2ploc evaluate-sequence`: do many images, joined with odometry, tell where the vehicle is?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage import shared_directory


def command(
    root: Annotated[Path, typer.Argument(help='The data set that holds the drive.')],
    map_path: Annotated[Path, typer.Option('--map', help='A map from `i2ploc build-map`.')],
    out: Annotated[Path, typer.Option(help='Folder for summary.json and belief.png.')],
    drive: Annotated[str | None, typer.Option(
        help='Name of the drive; may be left out if there is one.')] = None,
    camera: Annotated[str | None, typer.Option(
        help='Name of the camera; default: the first.')] = None,
    every: Annotated[int, typer.Option(min=1, help='Use each n-th image only.')] = 1,
    limit: Annotated[int | None, typer.Option(min=2, help='Stop after so many images.')] = None,
    starts: Annotated[int, typer.Option(min=1, help='Random starts.')] = 200,
    kidnappings: Annotated[int, typer.Option(min=1, help='Random kidnappings.')] = 200,
    min_probability: Annotated[float | None, typer.Option(
        min=0.0, max=1.0, help='Belief within the merge radius that a fix needs; default: 0.99.',
    )] = None,
    scale: Annotated[float, typer.Option(
        min=0.0, help='Odometry: standard deviation of its scale, one for each run.')] = 0.02,
    slip: Annotated[float, typer.Option(
        min=0.0, help='Odometry: metres of random walk of its length after one metre.')] = 0.02,
    turn: Annotated[float, typer.Option(
        min=0.0, help='Odometry: degrees of random walk of its heading after one metre.')] = 0.3,
    bias: Annotated[float, typer.Option(
        min=0.0, help='Odometry: standard deviation of a turn in degrees with each metre, one '
        'for each run.')] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help='Of starts and odometry.')] = 0,
    model: Annotated[Path | None, typer.Option(
        help='The model that the map was built with; default: the shipped one.')] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
    runtime: Annotated[str, typer.Option(help='torch, or an export: pt2 or onnx.')] = 'torch',
) -> None:
    """
    Judge the localizer with memory: a belief over the map's places, moved by odometry.

    Each image is localized once. Then the drive is driven again and again over these answers, with
    an odometry made from the true poses and its noise: as a whole, from random starts (how far
    until the first right fix; none is a failure), and with kidnappings (carried to another place
    without notice). Right is within 20 m.
    """
    from ..data.readers import open_drive
    from ..evaluation.report import provenance
    from ..evaluation.sequence_pictures import draw_convergence
    from ..evaluation.sequences import ask, evaluate_sequence, OdometryNoise
    from ..localization.belief import BeliefConfig
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.localizer import open_localizer
    from ..localization.sequence import Sequence
    from ..storage import write_json

    if out.exists() and not out.is_dir():
        raise InputError(f'{out} is a file: name a folder for the results')
    opened = open_drive(root, drive)
    folder = model or shared_directory('models') / 'city'
    localizer = open_localizer(folder, map_path, LocalizerConfig(), device, runtime)
    out.mkdir(parents=True, exist_ok=True)
    noise = OdometryNoise(scale=scale, slip_m=slip, turn_deg=turn, bias_deg_m=bias)
    belief = BeliefConfig(outside=localizer.config.outside, **(
        {} if min_probability is None else {'min_probability': min_probability}))
    asked = ask(localizer, opened, camera, every, limit)
    sequence = Sequence(localizer.database, localizer.config, localizer.calibration, belief)
    figures, runs = evaluate_sequence(sequence, asked, noise, seed, starts, kidnappings)
    write_json(out / 'summary.json', {**figures, 'provenance': provenance(
        localizer, drive=opened.source, map=str(map_path), model=str(folder), every=every,
        limit=limit, calibrated=localizer.calibration is not None)})
    draw_convergence(out / 'belief.png', sequence, localizer.database.T_map_base, asked, runs,
                     noise, seed, f'{opened.name}: from a random start')
    _show(figures)
    typer.echo(f'Written to {out}: belief.png, summary.json')


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table('', 'images', 'accepted', 'false fixes', 'median', 'p95', 'within 50 m',
                  title=f'{figures["drive"]}, by sequence', title_justify='left')
    for key, name in (('single_images', 'single images'), ('whole_drive', 'whole drive'),
                      ('random_starts', 'random starts'), ('kidnappings', 'kidnapped')):
        part = figures[key]
        position, false = part['position_m'], part['false_fix_rate']
        table.add_row(
            name, str(part['images']), f'{100 * part["availability"]:.1f} %',
            '' if false is None else f'{100 * false:.2f} %',
            '' if position is None else f'{position["median"]:.1f} m',
            '' if position is None else f'{position["p95"]:.1f} m',
            f'{100 * part["share_within"]:.1f} %' if 'runs' in part else '')
    Console().print(table)
