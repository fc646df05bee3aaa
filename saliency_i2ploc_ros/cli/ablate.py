"""`i2ploc ablate`: variants of a recipe, trained at equal budget and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer
import yaml

from ..errors import InputError
from ..storage import shared_directory, write_json
from .train import checked, preset_config, put, sites_of

if TYPE_CHECKING:
    from ..evaluation.ablation import Run
    from ..evaluation.ablation_grid import Grid
    from ..training.config import Site, TrainingConfig


def command(
    grid: Annotated[str, typer.Argument(
        help='The grid: a YAML file, or the name of one that is shipped: saliency, systems, '
        'panorama, tiny.')],
    roots: Annotated[list[Path], typer.Argument(
        help='Data sets to train on: a root, or a folder of roots (cities).')],
    held_out: Annotated[list[Path], typer.Option(
        help='Data sets that the trained networks are asked in (repeat the option).')],
    out: Annotated[Path, typer.Option(
        help='Folder of the runs and the report; what is finished in it is not done again.')],
    only: Annotated[list[str], typer.Option(
        help='Only this variant and the base (repeat the option).')] = [],  # noqa: B006
    minutes: Annotated[float | None, typer.Option(
        help="Minutes of one core for each run, instead of the grid's budget.")] = None,
    steps: Annotated[int | None, typer.Option(
        help="Steps of each run, instead of the grid's budget.")] = None,
    seed: Annotated[list[int], typer.Option(
        help="A seed, instead of the grid's (repeat the option).")] = [],  # noqa: B006
    setting: Annotated[list[str], typer.Option(
        '--set', help='A setting of every run, as threads=1.',
        metavar='NAME=VALUE')] = [],  # noqa: B006
) -> None:
    """
    Train variants of a recipe with several seeds, and tell which differences are more than chance.

    One run after the other; Ctrl-C stops with a checkpoint and the same command goes on. The
    networks are asked image by image in the held-out cities, map and images from different drives
    where there are two. OUT/report.html is renewed after each run; beside it are report.md and
    summary.json.
    """
    from ..evaluation.ablation import write_ablation_report
    from ..training.ablation import run_grid
    from ..training.config import Site

    asked = read_grid(grid, only, minutes, steps, seed)
    sites = sites_of(roots, [])
    recipes = {name: recipe_of(asked, name, sites, setting)
               for name in ('base', *asked.variants)}
    judged_in = [Site.model_validate(site) for site in sites_of(held_out, [])]
    base = recipes['base']
    if both := base.drives(base.sites) & base.drives(tuple(judged_in)):
        raise InputError(f'{min(both)[1]} is trained on and held out: name different cities')
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'grid.json', asked.model_dump(mode='json'))
    protocol = protocol_of(base, judged_in)
    planned = len(recipes) * len(asked.seeds)

    def report(runs: list[Run], failures: dict[str, str]) -> None:
        write_ablation_report(out, asked, runs, protocol, failures, planned)

    runs, failures = run_grid(asked, recipes, judged_in, out, report)
    if runs:
        report(runs, failures)
        typer.echo(f'{out / "report.html"}: {len(runs)} of {planned} runs')
    if failures:
        name, why = next(iter(failures.items()))
        raise InputError(f'{len(failures)} of {planned} runs failed, first {name}: {why}')


def read_grid(
    name: str, only: list[str], minutes: float | None, steps: int | None, seeds: list[int],
) -> Grid:
    """Return the grid of a file, or of a shipped name, with what the command line changes."""
    from ..evaluation.ablation_grid import Grid

    path = Path(name)
    if not path.is_file():
        shipped = shared_directory('config') / 'ablations'
        path = shipped / f'{name}.yaml'
        if not path.is_file():
            names = ', '.join(sorted(p.stem for p in shipped.glob('*.yaml')))
            raise InputError(f'{name} is neither a file nor one of the shipped grids: {names}')
    try:
        values: Any = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path} cannot be read as YAML: {" ".join(str(error).split())}'
                         ) from error
    if not isinstance(values, dict):
        raise InputError(f'{path} is no grid: it needs title, budget and variants')
    if minutes is not None and steps is not None:
        raise InputError('--minutes and --steps are two budgets: give one')
    if minutes is not None or steps is not None:
        values['budget'] = {'steps': steps, 'minutes': minutes}
    if seeds:
        values['seeds'] = seeds
    if only:
        variants = values.get('variants') or {}
        if unknown := set(only) - set(variants):
            raise InputError(f'the grid has no variant {min(unknown)!r}: it has '
                             f'{", ".join(variants)}')
        # What a chosen one is compared with must be there too.
        wanted = {*only, *(variants[n].get('against', 'base') for n in only)}
        values['variants'] = {n: v for n, v in variants.items() if n in wanted}
    grid: Grid = checked(Grid, values)
    return grid


def recipe_of(
    grid: Grid, name: str, sites: list[dict[str, Any]], settings: list[str],
) -> TrainingConfig:
    """Return the recipe of a variant: base's preset or its own, base's settings, its own."""
    from ..training.config import TrainingConfig

    variant = grid.variants.get(name)
    preset = variant.preset if variant and variant.preset else grid.preset
    recipe: dict[str, Any] = {'model': preset_config(preset), 'sites': sites}
    for given in (grid.base, variant.settings if variant else {}):
        # Whole tables first, so that their parts can be set after them.
        for key in sorted(given, key=lambda key: key.count('.')):
            put(recipe, f'{key}={json.dumps(given[key])}')
    for item in settings:
        put(recipe, item)
    try:
        config: TrainingConfig = checked(TrainingConfig, recipe)
    except InputError as error:
        raise InputError(f'variant {name!r}: {error}') from error
    return config


def protocol_of(config: TrainingConfig, held_out: list[Site]) -> list[str]:
    """Return what is said of the data: what was trained on, what was asked, and how."""
    from ..training.ablation import PLACES_EVERY_M, query_drives

    across = all(query_drives(site) != (site.map_drive,) for site in held_out)
    trained = ', '.join(f'`{Path(site.root).name}`' for site in config.sites)
    asked = ', '.join(f'`{Path(site.root).name}`' for site in held_out)
    maps = ('map and images are of different drives' if across else
            'some maps are of the drive that is asked, which is easier than another day')
    return [
        f'Trained on {len(config.sites)} sites ({trained}), asked in {len(held_out)} others '
        f'({asked}); {maps}.',
        f'A place every {PLACES_EVERY_M:g} m of the map; every posed image is a query, one image '
        'at a time and without a guess of where it is. A query counts if the map has a place '
        'within the radius, in the plane; it is right at k if one of the first k places is.',
        'The weights are those after the last step: nothing of the cities that are asked chose '
        'them. All variants saw the same data, seeds alike draw the same batches where batch and '
        'preparation are alike, and runs went one after the other.']
