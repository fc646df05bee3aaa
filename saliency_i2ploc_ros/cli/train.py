"""`i2ploc train`: the dual encoder from drives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..errors import InputError
from ..storage import read_json, shared_directory


def command(
    roots: Annotated[list[Path], typer.Argument(
        help='Data sets to train on: a root, or a folder of roots (cities).')],
    out: Annotated[Path, typer.Option(help='The run: recipe, log, checkpoints, model/.')],
    held_out: Annotated[list[Path], typer.Option(
        help='Data sets that are only asked, for the recall while it runs.')] = [],  # noqa: B006
    drive: Annotated[list[str], typer.Option(
        help='Train on these drives only (repeat the option).')] = [],  # noqa: B006
    held_out_drive: Annotated[list[str], typer.Option(
        help='Ask these drives only (repeat the option).')] = [],  # noqa: B006
    config: Annotated[str | None, typer.Option(
        help='A recipe: a YAML file of settings, or the name of one that is installed '
        '(saliency_i2ploc, ours-city, ...).', metavar='FILE|NAME')] = None,
    preset: Annotated[str | None, typer.Option(
        help="The encoders: city, paper, ... By default the recipe's, else city.")] = None,
    init: Annotated[Path | None, typer.Option(
        help='Weights to begin with: a model folder; or for the image branch a safetensors file '
        'of timm (ViT, DINO, DINOv2, ResNet), or hub:OWNER/NAME@SHA256. A verifier needs the '
        'folder of the model that it is for.')] = None,
    setting: Annotated[list[str], typer.Option(
        '--set', help='A setting of the recipe, as steps=5000 or model.image.depth=6.',
        metavar='NAME=VALUE')] = [],  # noqa: B006
    overfit: Annotated[int | None, typer.Option(
        help='Train on one batch of so many pairs at every step: a check that the recipe can '
        'learn at all.', min=2)] = None,
    resume: Annotated[bool, typer.Option(
        '--resume', help='Go on with the run in OUT, by the recipe recorded there.')] = False,
    lengthen: Annotated[int | None, typer.Option(
        help='With --resume: go on to so many steps, more than the run was begun with; the '
        'learning rates follow the longer schedule from there.', min=1)] = None,
) -> None:
    """
    Train an image encoder and a point cloud encoder that agree about places.

    A city's first drive with a LiDAR is its map and all with cameras are asked; any other
    drive is its own map. Ctrl-C keeps a checkpoint, and one is written every minute. The model
    with the best held-out recall (without held-out drives: the last one) is OUT/model.
    `torchrun --nproc-per-node 8 -m saliency_i2ploc_ros.cli.main train ...` shares each batch
    among eight GPUs.
    """
    from ..encoders.weights import local_weights
    from ..training.config import TrainingConfig
    from ..training.trainer import train

    if lengthen is not None and not resume:
        raise InputError('--lengthen is for a run that is resumed: add --resume, or set the '
                         'number with --set steps=...')
    if resume and (config is not None or preset is not None):
        raise InputError('a resumed run follows the recipe recorded in it: leave --config and '
                         '--preset out')
    recipe = recorded(out) if resume else {
        **read_recipe(config, preset), 'sites': sites_of(roots, drive),
        'held_out': sites_of(held_out, held_out_drive)}
    for item in setting:
        put(recipe, item)
    if overfit is not None:
        recipe.update(overfit=True, batch=overfit)
    if lengthen is not None:
        recipe['steps'] = lengthen
    checked_recipe = checked(TrainingConfig, recipe)
    if both := checked_recipe.drives(checked_recipe.sites) & checked_recipe.drives(
            checked_recipe.held_out):
        raise InputError(f'{min(both)[1]} is trained on and held out: name drives with '
                         '--drive and --held-out-drive')
    model = train(checked_recipe, out, resume, local_weights(init), lengthen is not None)
    typer.echo(model)


def read_recipe(config: str | None, preset: str | None) -> dict[str, Any]:
    """
    Return a recipe of plain values from a YAML file, without sites, its model in full.

    config: a file, or the name of an installed one; None: nothing is set. In it `preset` names
    the model and `model` changes it, key by key; a preset given here takes the place of its own.
    """
    settings = {} if config is None else _settings(recipe_file(config))
    named = settings.pop('preset', 'city')
    changes = settings.pop('model', None) or {}
    for key in ('sites', 'held_out'):
        if key in settings:
            raise InputError(f'{config}: {key} is given on the command line, not in a recipe')
    model = preset_config(preset or named)
    if not isinstance(changes, dict):
        raise InputError(f'{config}: model must hold settings, not {changes!r}')
    return {**settings, 'model': merged(model, changes)}


def recipe_file(config: str) -> Path:
    """Return the file of a recipe: the one named, or an installed one of that name."""
    if Path(config).is_file():
        return Path(config)
    folder = shared_directory('config') / 'training'
    installed = folder / f'{config.removesuffix(".yaml")}.yaml'
    if not installed.is_file():
        names = ', '.join(sorted(path.stem for path in folder.glob('*.yaml')))
        raise InputError(f'there is no recipe {config}: name a YAML file, or one of {names}')
    return installed


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f'{path} is not valid YAML ({" ".join(str(error).split())}): '
                         'mend it') from error
    if not isinstance(settings, dict):
        raise InputError(f'{path} does not hold settings: write one NAME: VALUE a line')
    return settings


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested values with some of them changed; of another `kind` they start afresh."""
    if 'kind' in changes and changes['kind'] != values.get('kind'):
        return changes
    return {**values, **{
        key: merged(values[key], value)
        if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        for key, value in changes.items()}}


def recorded(run: Path) -> dict[str, Any]:
    """Return the recipe that a run was begun with."""
    if not (run / 'config.json').is_file():
        raise InputError(f'there is no run in {run} to resume: leave --resume out')
    recipe: dict[str, Any] = read_json(run / 'config.json')['training']
    return recipe


def put(recipe: dict[str, Any], item: str) -> None:
    """Set what `item` says ('model.image.depth=6') in a recipe of nested dicts."""
    name, equals, text = item.partition('=')
    *parents, last = name.split('.')
    target: Any = recipe
    for parent in parents:
        target = target.get(parent) if isinstance(target, dict) else None
    if not equals or not last or not isinstance(target, dict):
        raise InputError(f'--set {item}: write it as NAME=VALUE, with the name of a setting')
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f'--set {item}: {text!r} is no value that YAML knows') from error


def preset_config(name: str) -> dict[str, Any]:
    """Return a preset's model configuration as a plain dict."""
    from ..encoders.presets import PRESETS
    if name not in PRESETS:
        raise InputError(f'there is no preset {name!r}: choose one of {", ".join(PRESETS)}')
    return PRESETS[name].model_dump(mode='json')


def checked(kind: Any, values: dict[str, Any]) -> Any:
    """Return the pydantic model of these values; what does not fit is one InputError line."""
    from pydantic import ValidationError
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = '; '.join(f'{".".join(map(str, e["loc"]))}: {e["msg"]}' for e in error.errors())
        raise InputError(f'the recipe does not hold: {faults}') from error


def sites_of(roots: list[Path], only: list[str]) -> list[dict[str, Any]]:
    """
    Return the training sites below these folders, in the order of their names.

    A root with a city.json is one site: its first drive with a LiDAR is the map, those with
    cameras are asked. In any other data set each drive is a site of its own; a folder that is no
    data set is searched one level down. Roots are absolute, and one that comes twice counts once.
    only: names of drives that are asked, or their numbers; empty: all.
    """
    from ..data.kitti_files import is_named
    from ..data.readers import drive_names, is_data_set
    found = (root.resolve() for given in roots for root in _data_sets(given, is_data_set))
    sites = []
    for root in dict.fromkeys(found):
        every = drive_names(root)
        names = [name for name in every
                 if not only or any(is_named(name, wanted) for wanted in only)]
        if (root / 'city.json').is_file():
            city = read_json(root / 'city.json')
            asked = [name for name in names if _carries(city, 'pictured', every.index(name))]
            maps = [name for name in every if _carries(city, 'scanned', every.index(name))]
            if asked and not maps:
                raise InputError(f'no drive of {root} carries a LiDAR: make the city again, with '
                                 '--scanned 0')
            if asked:
                sites.append({'root': str(root), 'map_drive': maps[0], 'query_drives': asked})
        else:
            sites += [{'root': str(root), 'map_drive': name, 'query_drives': [name]}
                      for name in names]
    if roots and not sites:
        raise InputError(f'none of {", ".join(map(str, roots))} has a drive {" or ".join(only)}'
                         if only else f'no drive of {", ".join(map(str, roots))} has images')
    return sites


def _carries(city: dict[str, Any], what: str, index: int) -> bool:
    """Return whether a traversal was made with a sensor: 'scanned' or 'pictured'."""
    return city.get(what) is None or index in city[what]


def _data_sets(given: Path, is_data_set: Callable[[Path], bool]) -> list[Path]:
    if not given.is_dir():
        raise InputError(f'{given} is not a folder: name a data set to train on')
    found = [given] if is_data_set(given) else sorted(
        path for path in given.iterdir()
        if path.is_dir() and not path.name.startswith('.') and is_data_set(path))
    if not found:
        raise InputError(f'neither {given} nor a folder in it is a data set: '
                         'make cities with `i2ploc city`')
    return found
