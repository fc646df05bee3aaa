"""`i2ploc evaluate-sequence`: do many images, joined with odometry, tell where the vehicle is?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage import shared_directory

KINDS = {'single_images': 'single images', 'whole_drive': 'whole drive',
         'random_starts': 'random starts', 'starts_with_prior': 'with a prior',
         'starts_with_wrong_prior': 'with a wrong prior', 'kidnappings': 'kidnapped'}


def command(
    roots: Annotated[list[Path], typer.Argument(
        metavar='ROOT...', help='Data sets that hold the drives; of each its own map.')],
    maps: Annotated[list[Path], typer.Option(
        '--map', help='A map from `i2ploc build-map`; one for each ROOT, or one for all.')],
    out: Annotated[Path, typer.Option(
        help='Folder for summary.json, sequence.png and belief.png.')],
    drive: Annotated[list[str], typer.Option(
        help='Name of the drive; may be left out if there is one. Repeat it for several, of each '
        'ROOT.')] = [],  # noqa: B006
    camera: Annotated[str | None, typer.Option(
        help='Name of the camera; default: the first.')] = None,
    every: Annotated[int, typer.Option(min=1, help='Use each n-th image only.')] = 1,
    limit: Annotated[int | None, typer.Option(min=2, help='Stop after so many images.')] = None,
    starts: Annotated[int, typer.Option(min=1, help='Random starts, of each drive.')] = 200,
    kidnappings: Annotated[int, typer.Option(
        min=1, help='Random kidnappings, of each drive.')] = 200,
    prior: Annotated[float | None, typer.Option(
        min=0.1, metavar='SIGMA', help='The starts again with a prior so many metres off '
        '(standard deviation to either side, no heading), and with one of another place.',
    )] = None,
    prior_share: Annotated[float | None, typer.Option(
        min=0.0, max=0.99, help='Of the belief that a prior puts into its region; default: 0.9.',
    )] = None,
    min_probability: Annotated[float | None, typer.Option(
        min=0.0, max=1.0, help='Belief within the merge radius that a fix needs; default: 0.999.',
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
    seed: Annotated[int, typer.Option(min=0, help='Of starts, odometry and priors.')] = 0,
    model: Annotated[Path | None, typer.Option(
        help='The model that the maps were built with; default: the shipped one.')] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
    runtime: Annotated[str, typer.Option(help='torch, or an export: pt2 or onnx.')] = 'torch',
) -> None:
    """
    Judge the localizer with memory: a belief over the map's places, moved by odometry.

    Each image is localized once. Then the drive is driven again and again over these answers, with
    an odometry made from the true poses and its noise: as a whole, from random starts (how far
    until the first right fix; none is a failure), and with kidnappings (carried to another place
    without notice). Right is within 20 m. Several drives are judged together, and each alone;
    belief.png is of the first.
    """
    from ..data.readers import open_drive
    from ..evaluation.report import provenance
    from ..evaluation.sequence_pictures import draw_convergence, draw_reached
    from ..evaluation.sequences import (
        ask,
        check_drawn,
        drive_through,
        sequence_figures,
        together,
        truth_of,
    )
    from ..evaluation.summary import CORRECT_M
    from ..localization.belief import BeliefConfig
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.localizer import open_localizer
    from ..localization.odometry_noise import OdometryNoise
    from ..localization.sequence import Sequence
    from ..storage import write_json

    if out.exists() and not out.is_dir():
        raise InputError(f'{out} is a file: name a folder for the results')
    if len(maps) not in (1, len(roots)):
        raise InputError(f'{len(maps)} maps for {len(roots)} data sets: give one --map for each '
                         'of them, in their order, or one for all')
    names: list[str | None] = [*drive] or [None]
    opened = [[open_drive(root, name) for name in names] for root in roots]
    for each in (one for drives in opened for one in drives):
        check_drawn(truth_of(each, camera, every, limit), seed, starts, kidnappings, prior)
    folder = model or shared_directory('models') / 'city'
    noise = OdometryNoise(scale=scale, slip_m=slip, turn_deg=turn, bias_deg_m=bias)
    runs, cities, made = [], [], []
    for i, drives in enumerate(opened):
        map_path = maps[i % len(maps)]
        localizer = open_localizer(folder, map_path, LocalizerConfig(), device, runtime)
        given = {'min_probability': min_probability, 'prior_share': prior_share}
        belief = BeliefConfig(outside=localizer.config.outside, **{
            name: value for name, value in given.items() if value is not None})
        out.mkdir(parents=True, exist_ok=True)
        for each in drives:
            asked = ask(localizer, each, camera, every, limit)
            sequence = Sequence(localizer.database, localizer.config, localizer.calibration,
                                belief)
            runs.append(drive_through(sequence, asked, noise, seed, starts, kidnappings, prior))
            cities.append(i)
            made.append({'drive': each.name, **provenance(
                localizer, source=each.source, map=str(map_path), model=str(folder), every=every,
                limit=limit, calibrated=localizer.calibration is not None)})
            if len(runs) == 1:
                draw_convergence(
                    out / 'belief.png', sequence, localizer.database.T_map_base, asked,
                    runs[0]['random_starts'], noise, seed, f'{each.name}: from a random start')
        localizer.close()
    titles = [str(one['drive']) for one in made]
    alone = [{'drive': name, **sequence_figures(some)}
             for name, some in zip(titles, runs, strict=True)]
    all_runs = together(runs, cities)
    figures = sequence_figures(all_runs) if len(runs) > 1 else alone[0]
    write_json(out / 'summary.json', {
        'schema': 2, 'correct_radius_m': CORRECT_M, 'seed': seed, 'odometry': noise.model_dump(),
        'belief': belief.model_dump(), 'prior_m': prior,
        **{name: figures[name] for name in KINDS if name in figures},
        'drives': alone if len(runs) > 1 else titles, 'provenance': made})
    title = titles[0] if len(runs) == 1 else f'{len(runs)} drives'
    draw_reached(out / 'sequence.png', all_runs, figures, title)
    if len(runs) > 1:
        _show_drives(alone)
    _show(figures, title)
    typer.echo(f'Written to {out}: belief.png, sequence.png, summary.json')


def _show(figures: dict[str, Any], title: str) -> None:
    """Print a row for each kind of runs, with the 95 % intervals of shares."""
    from rich.console import Console
    from rich.table import Table
    table = Table('', 'accepted', 'false\nfixes', 'median\np95', 'heading\np95',
                  'first fix\nmedian\np95', 'within\n50 m', title=f'{title}, by sequence',
                  title_justify='left')
    for key, name in KINDS.items():
        if key not in figures:
            continue
        part = figures[key]
        around, there = part['intervals'], 'runs' in part
        table.add_row(
            name, _percent(part['availability'], around['availability'], 1),
            _percent(part['false_fix_rate'], around['false_fix_rate'], 2), _metres(part),
            '' if part['yaw_deg'] is None else f'{part["yaw_deg"]["p95"]:.1f} deg',
            '\n'.join(_unit(part['metres'][q]) for q in ('p50', 'p95')) if there else '',
            _percent(part['share_within'], around['share_within'], 1) if there else '')
    Console().print(table)


def _show_drives(drives: list[dict[str, Any]]) -> None:
    """Print a row for each drive."""
    from rich.console import Console
    from rich.table import Column, Table
    table = Table(Column('drive', overflow='fold'), 'accepted', 'false\nfixes', 'median\np95',
                  'starts\nwithin\n50 m', 'kidnapped\nwithin\n50 m',
                  title='Whole drives, starts, kidnappings', title_justify='left')
    for one in drives:
        part = one['whole_drive']
        table.add_row(one['drive'], _percent(part['availability'], None, 1),
                      _percent(part['false_fix_rate'], None, 2), _metres(part),
                      *(_percent(one[kind]['share_within'], None, 1)
                        for kind in ('random_starts', 'kidnappings')))
    Console().print(table)


def _percent(value: float | None, interval: list[float | None] | None, digits: int) -> str:
    if value is None:
        return ''
    low, high = interval or (None, None)
    around = '' if low is None or high is None else (
        f'\n[{100 * low:.{digits}f}, {100 * high:.{digits}f}]')
    return f'{100 * value:.{digits}f} %{around}'


def _metres(part: dict[str, Any]) -> str:
    position = part['position_m'] or {}
    return '\n'.join(_unit(position[q]) for q in ('median', 'p95') if q in position)


def _unit(metres: float | None) -> str:
    return 'never' if metres is None else f'{metres:.1f} m'
