"""
Runs an ablation: every variant with every seed, trained by `train` and asked in held-out cities.

A run has a folder of its own. `trained.json` in it says that it is trained, `judged.json` that it
is judged; what is there is not done again, and a run that was stopped goes on from its checkpoint.
Training sees nothing of the held-out cities: no checkpoint is chosen by them, the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from ..data.readers import open_drive
from ..distributed import World
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, load_model
from ..errors import InputError
from ..evaluation.ablation import hits_as_text, KS, RADII_M, Run, run_of
from ..evaluation.ablation_grid import Budget, Grid
from ..evaluation.described import ByModel
from ..evaluation.judging import judge as judge_side
from ..evaluation.protocols import entries_of, sides_of
from ..evaluation.recall import chance_level
from ..progress import console
from ..storage import content_hash, read_json, write_json
from .checkpoints import latest_checkpoint
from .config import Site, TrainingConfig
from .pairs import prepare_site
from .trainer import train

# Of three short runs the first wakes the libraries, and the others differ by steps alone.
PROBE_STEPS = (2, 2, 14)
PLACES_EVERY_M = 5.0   # of the maps that are asked, whatever a variant trains with


@dataclass(frozen=True)
class Planned:
    """One run to come: `config` has its seed, `steps` are still to be fixed by the budget."""

    variant: str
    seed: int
    config: TrainingConfig
    folder: Path


def run_grid(
    grid: Grid, recipes: Mapping[str, TrainingConfig], held_out: Sequence[Site], out: Path,
    report: Callable[[list[Run], dict[str, str]], None],
) -> tuple[list[Run], dict[str, str]]:
    """
    Train and judge all runs into `out`; return them, and by name the reasons of those that failed.

    recipes: by variant, the base among them; seed, steps and held-out sites in them do not count.
    held_out: where the models are asked. report: called after each run with all that there are.
    Seeds come before variants, so that a grid that was stopped compares all of them. Ctrl-C ends
    it with a checkpoint: KeyboardInterrupt.
    """
    order = [Planned(name, seed, recipe.model_copy(update={'seed': seed, 'held_out': ()}),
                     out / 'runs' / _folder_name(name) / f'seed-{seed}')
             for seed in grid.seeds for name, recipe in recipes.items()]
    if len({planned.folder for planned in order}) < len(order):
        raise InputError('two variants have names that differ only in signs: rename one')
    done: list[Run] = []
    failures: dict[str, str] = {}
    for number, planned in enumerate(order, 1):
        name = f'{planned.variant}, seed {planned.seed}'
        try:
            steps = steps_for(grid.budget, planned.variant, recipes[planned.variant], out)
            config = planned.config.model_copy(update={
                'steps': steps, 'warmup_steps': min(planned.config.warmup_steps, steps // 5)})
            finished = _record(planned, config, held_out)
            if finished is None:
                console.print(f'[{number} of {len(order)}] {name}: {steps} steps', markup=False)
                finished = _run(planned, config, held_out)
                done.append(run_of(finished))
                report(done, failures)
            else:
                done.append(run_of(finished))
        except InputError as error:
            # One bad variant must not cost the night's others; the report names it.
            failures[name] = str(error)
            console.print(f'{name} failed: {error}', markup=False)
    return done, failures


def steps_for(budget: Budget, variant: str, config: TrainingConfig, out: Path) -> int:
    """
    Return how many steps a variant's runs have.

    A budget of minutes is turned into steps by the variant's speed, measured once and kept in
    `out`/speeds.json, so that its runs are alike and a stopped grid goes on with the same.
    """
    if budget.steps is not None:
        return budget.steps
    if budget.pairs is not None:
        return max(budget.pairs // config.batch, 1)
    assert budget.minutes is not None
    path = out / 'speeds.json'
    speeds: dict[str, Any] = read_json(path) if path.is_file() else {}
    key = content_hash(config.model_dump(mode='json', exclude={'seed', 'steps', 'held_out'}))
    if speeds.get(variant, {}).get('recipe') != key:
        speeds[variant] = {'recipe': key, 'seconds_per_step': seconds_per_step(config)}
        write_json(path, speeds)
    return max(int(60.0 * budget.minutes / float(speeds[variant]['seconds_per_step'])), 1)


def seconds_per_step(config: TrainingConfig) -> float:
    """Return the seconds of one core (on CUDA: of the clock) that a step of a recipe takes."""
    _prepare(config)
    seconds = []
    for steps in PROBE_STEPS:
        probe = config.model_copy(update={
            'steps': steps, 'held_out': (), 'evaluate_every': steps, 'checkpoint_every': steps})
        with tempfile.TemporaryDirectory(prefix='i2ploc-speed-') as folder:
            started = _clock()
            train(probe, Path(folder))
            seconds.append(_clock() - started)
    each = (seconds[2] - seconds[1]) / (PROBE_STEPS[2] - PROBE_STEPS[1])
    # Where beginning and ending outweigh the steps the difference means nothing: be careful then.
    return each if each > 0.0 else seconds[2] / PROBE_STEPS[2]


def _run(planned: Planned, config: TrainingConfig, held_out: Sequence[Site]) -> dict[str, Any]:
    folder = planned.folder
    trained = folder / 'trained.json'
    if not _is_of(trained, config):
        _prepare(config)
        before = latest_checkpoint(folder)
        first = 0 if before is None else int(read_json(before / 'state.json')['step'])
        started = _clock()
        train(config, folder, resume=before is not None)
        seconds = _clock() - started
        after = latest_checkpoint(folder)
        reached = 0 if after is None else int(read_json(after / 'state.json')['step'])
        if reached < config.steps:
            raise KeyboardInterrupt
        # Of a run that was stopped only the last part is timed; its steps are like the others.
        each = seconds / max(config.steps - first, 1)
        write_json(trained, {
            'recipe': _recipe_hash(config), 'variant': planned.variant, 'seed': planned.seed,
            'steps': config.steps, 'pairs': config.steps * config.batch,
            'minutes': round(each * config.steps / 60.0, 3),
            'pairs_per_s': round(config.batch / each, 2), 'resumed_at': first})
        shutil.rmtree(folder / 'checkpoints', ignore_errors=True)
    model = load_model(folder / 'model')
    record = {
        **read_json(trained), 'held_out': _sites_hash(held_out), 'model': encoder_hash(model),
        'parameters': sum(p.numel() for p in model.parameters()),
        'judged': judge(model, held_out)}
    write_json(folder / 'judged.json', record)
    return record


def _record(
    planned: Planned, config: TrainingConfig, held_out: Sequence[Site],
) -> dict[str, Any] | None:
    """Return what a finished run wrote, None if there is something to do."""
    path = planned.folder / 'judged.json'
    if not path.is_file():
        return None
    record: dict[str, Any] = read_json(path)
    if record['recipe'] != _recipe_hash(config):
        raise InputError(f'{planned.folder} was trained by another recipe: name another --out, or '
                         'remove that folder')
    return record if record['held_out'] == _sites_hash(held_out) else None


def _is_of(trained: Path, config: TrainingConfig) -> bool:
    if not trained.is_file():
        return False
    if read_json(trained)['recipe'] != _recipe_hash(config):
        raise InputError(f'{trained.parent} was trained by another recipe: name another --out, or '
                         'remove that folder')
    return True


def judge(model: DualEncoder, sites: Sequence[Site]) -> dict[str, Any]:
    """
    Return how a model answers the images of some sites, JSON-like, query by query.

    The map is the site's map drive with a place every 5 m; queries are the posed images of its
    other drives (of the same drive where there is no other). hits: by radius and k, one letter
    for each query (see `hits_as_text`). blocks: stretches of 50 m, no two drives share one.
    """
    describer = ByModel(model)
    keys = [(radius, k) for radius in RADII_M for k in KS]
    hits = dict.fromkeys(keys, '')
    positives: dict[float, list[NDArray[np.int64]]] = {radius: [] for radius in RADII_M}
    places: list[NDArray[np.int64]] = []
    blocks: list[int] = []
    for site in sites:
        map_entries = entries_of(open_drive(Path(site.root), site.map_drive), PLACES_EVERY_M)
        for name in query_drives(site):
            asked = entries_of(open_drive(Path(site.root), name), 0.0)
            queries, database = sides_of(
                ['image-cloud'], asked, map_entries, describer, model.config, World(),
                'cross_drive')['image-cloud']
            judged = judge_side(
                'image-cloud', queries, database, 'cross_drive', radii_m=RADII_M)
            for radius, k in keys:
                counted, right = judged.ranks.hits(radius, k)
                hits[radius, k] += hits_as_text(right, counted)
            for column, radius in enumerate(RADII_M):
                positives[radius].append(judged.ranks.positives[:, column])
            places.append(judged.ranks.allowed)
            blocks += (judged.blocks + max(blocks, default=-1) + 1).tolist()
    chance = {}
    for radius, k in keys:
        near = np.concatenate(positives[radius])
        if not near.any():
            raise InputError(f'no held-out image lies within {radius:g} m of a place of its map: '
                             'name cities whose drives share their way')
        chance[radius, k] = chance_level(near[near > 0], np.concatenate(places)[near > 0], k)
    return {'hits': {f'{radius:g} m, {k}': hits[radius, k] for radius, k in keys},
            'chance': {f'{radius:g} m, {k}': chance[radius, k] for radius, k in keys},
            'blocks': blocks}


def query_drives(site: Site) -> tuple[str, ...]:
    """Return the drives of a site that are asked: those that did not make the map, if any."""
    others = tuple(name for name in site.query_drives if name != site.map_drive)
    return others or (site.map_drive,)


def _prepare(config: TrainingConfig) -> None:
    """Fill the caches, so that no run's time holds what a later run finds done."""
    for site in config.sites:
        prepare_site(site, config)


def _recipe_hash(config: TrainingConfig) -> str:
    return content_hash(config.model_dump(mode='json'))


def _sites_hash(sites: Sequence[Site]) -> str:
    return content_hash([site.model_dump(mode='json') for site in sites])


def _clock() -> float:
    # Seconds of this process, which other work on the machine does not lengthen.
    return time.monotonic() if torch.cuda.is_available() else time.process_time()


def _folder_name(variant: str) -> str:
    """Return a variant's name as a folder's."""
    return ''.join(c if c.isalnum() or c in '._' else '-' for c in variant.lower())
