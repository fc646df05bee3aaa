"""Ablations: what counts as a difference, and runs that are done once, go on, and may fail."""

import json
import math

import numpy as np
import pytest

from saliency_i2ploc_ros.cli.ablate import read_grid, recipe_of
from saliency_i2ploc_ros.data.city.generate import generate_city
from saliency_i2ploc_ros.data.city.lidar import Lidar
from saliency_i2ploc_ros.errors import InputError
from saliency_i2ploc_ros.evaluation.ablation import (
    difference,
    hits_as_text,
    hits_of_text,
    PRIMARY,
    Run,
    seed_noise,
    verdict,
    write_ablation_report,
)
from saliency_i2ploc_ros.evaluation.ablation_grid import Budget, Grid
from saliency_i2ploc_ros.evaluation.page import Interval
from saliency_i2ploc_ros.storage import read_json, write_json
from saliency_i2ploc_ros.training import ablation
from saliency_i2ploc_ros.training.ablation import run_grid, steps_for
from saliency_i2ploc_ros.training.config import Site

GRID = {'title': 'T', 'budget': {'steps': 2}, 'seeds': [1],
        'variants': {'plain': {'settings': {'model.aggregation.saliency_strength': 0.0}}}}
KEYS = [(radius, k) for radius in (10.0, 20.0) for k in (1, 5)]
FACTS = {'steps': 2, 'pairs': 8, 'parameters': 10, 'pairs_per_s': 1.0, 'minutes': 0.1}


def runs_of(variant, hits, chance=0.1):
    """Return a run for each row of hits (seeds, queries), four queries to a block."""
    blocks = np.arange(hits.shape[1]) // 4
    return [Run(variant, seed, dict.fromkeys(KEYS, row.astype(float)),
                dict.fromkeys(KEYS, chance), blocks, FACTS) for seed, row in enumerate(hits, 1)]


def answers(rng, share, seeds=3, queries=400):
    return (rng.random((seeds, queries)) < share).astype(float)


def test_a_difference_is_shown_where_there_is_one_and_not_where_there_is_none():
    rng = np.random.default_rng(0)
    base = runs_of('base', answers(rng, 0.6))
    better, alike = runs_of('a', answers(rng, 0.8)), runs_of('b', answers(rng, 0.6))
    noise = seed_noise([*base, *better, *alike], PRIMARY)
    found = difference(better, base, PRIMARY, noise)
    assert found.value == pytest.approx(0.2, abs=0.05) and found.low > 0.0
    assert verdict(found) == ('shown', 'better')
    assert verdict(difference(base, better, PRIMARY, noise)) == ('shown', 'worse')
    assert verdict(difference(alike, base, PRIMARY, noise))[0] == 'not shown'


def test_a_lucky_seed_is_no_difference():
    """Seeds that differ by as much as the variants: blocks alone would call it shown."""
    rng = np.random.default_rng(1)
    base = runs_of('base', np.stack([answers(rng, s, 1)[0] for s in (0.4, 0.6, 0.8)]))
    lucky = runs_of('a', np.stack([answers(rng, s, 1)[0] for s in (0.6, 0.7, 0.9)]))
    noise = seed_noise([*base, *lucky], PRIMARY)
    found = difference(lucky, base, PRIMARY, noise)
    assert difference(lucky, base, PRIMARY, (0.0, 4)).low > 0.0
    assert found.low < 0.0 < found.high


def test_one_seed_cannot_tell():
    rng = np.random.default_rng(2)
    base, other = runs_of('base', answers(rng, 0.1, 1)), runs_of('a', answers(rng, 0.9, 1))
    noise = seed_noise([*base, *other], PRIMARY)
    assert noise[1] == 0
    word, why = verdict(difference(other, base, PRIMARY, noise))
    assert word == 'not shown' and 'one seed' in why


def test_seed_noise_is_the_pooled_deviation():
    rng = np.random.default_rng(3)
    runs = [*runs_of('base', answers(rng, 0.5, 3)), *runs_of('a', answers(rng, 0.9, 2))]
    a, b = ([r.hits[PRIMARY].mean() for r in runs if r.variant == v] for v in ('base', 'a'))
    expected = math.sqrt((2 * np.var(a, ddof=1) + np.var(b, ddof=1)) / 3)
    assert seed_noise(runs, PRIMARY) == (pytest.approx(expected), 3)


def test_queries_that_one_map_cannot_answer_are_left_out_of_both():
    hits = np.ones((2, 8))
    other = hits.copy()
    other[:, 0] = np.nan
    hits[:, 0] = 0.0
    noise = (0.01, 2)
    assert difference(runs_of('a', hits), runs_of('base', other), PRIMARY, noise).value == 0.0
    with_nan = hits_of_text(hits_as_text(np.array([True, False, True]),
                                         np.array([True, True, False])))
    assert with_nan[:2].tolist() == [1.0, 0.0] and np.isnan(with_nan[2])


def test_the_report_says_what_was_found(tmp_path):
    rng = np.random.default_rng(4)
    grid = Grid.model_validate({**GRID, 'seeds': [1, 2, 3], 'variants': {
        'helps': {'why': 'Does it help?'}, 'nothing': {'against': 'helps'}}})
    runs = [*runs_of('base', answers(rng, 0.3)), *runs_of('helps', answers(rng, 0.9)),
            *runs_of('nothing', answers(rng, 0.9))]
    write_ablation_report(tmp_path, grid, runs, ['How.'], {'x, seed 1': 'a reason'}, 12)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['variants']['helps']['verdict'] == 'shown: better'
    assert summary['variants']['nothing']['verdict'] == 'not shown: a difference'
    assert summary['variants']['nothing']['against'] == 'helps'
    text = (tmp_path / 'report.md').read_text()
    assert '- **shown**: “helps” is better than “base”: +' in text
    assert '9 of 12 runs' in text and 'a reason' in text and 'Does it help?' in text
    assert (tmp_path / 'recall.png').is_file() and (tmp_path / 'report.html').is_file()


@pytest.mark.parametrize(('change', 'why'), [
    ({'budget': {'steps': 2, 'minutes': 1.0}}, 'one of steps'),
    ({'budget': {}}, 'one of steps'),
    ({'seeds': [1, 1]}, 'twice'),
    ({'variants': {'base': {}}}, 'no variant may be named'),
    ({'variants': {'a': {'against': 'b'}}}, 'no other variant'),
    ({'variants': {'a': {'setting': {}}}}, 'setting')])
def test_grids_that_do_not_hold_are_refused(change, why):
    with pytest.raises(ValueError, match=why):
        Grid.model_validate({**GRID, **change})


def sites(root):
    drives = sorted(p.name for p in (root / 'data_poses').iterdir())
    return [{'root': str(root), 'map_drive': drives[0], 'query_drives': drives}]


@pytest.mark.parametrize('name', ['saliency', 'tiny'])
def test_shipped_grids_hold(name):
    grid = read_grid(name, [], None, None, [])
    anywhere = [{'root': 'x', 'map_drive': 'a', 'query_drives': ['a', 'b']}]
    recipes = {v: recipe_of(grid, v, anywhere, []) for v in ('base', *grid.variants)}
    dumps = [json.dumps(r.model_dump(mode='json'), sort_keys=True) for r in recipes.values()]
    assert len(set(dumps)) == len(dumps)  # each changes something


def test_settings_are_the_presets_then_the_bases_then_the_variants():
    grid = Grid.model_validate({**GRID, 'base': {'batch': 8, 'model.image.depth': 2}, 'variants': {
        'a': {'settings': {'batch': 16, 'model.cloud.depth': 3}}}})
    anywhere = [{'root': 'x', 'map_drive': 'a', 'query_drives': ['a']}]
    base, a = (recipe_of(grid, name, anywhere, ['threads=1']) for name in ('base', 'a'))
    assert (base.batch, base.model.image.depth, base.model.cloud.depth) == (8, 2, 4)
    assert (a.batch, a.model.image.depth, a.model.cloud.depth, a.threads) == (16, 2, 3, 1)
    with pytest.raises(InputError, match="variant 'a'.*nonsense"):
        recipe_of(Grid.model_validate({**GRID, 'variants': {'a': {'settings': {
            'nonsense': 1}}}}), 'a', anywhere, [])


def test_budgets_become_steps(tmp_path, monkeypatch):
    grid = Grid.model_validate(GRID)
    config = recipe_of(grid, 'base', [{'root': 'x', 'map_drive': 'a', 'query_drives': ['a']}],
                       ['batch=8'])
    assert steps_for(Budget(steps=7), 'base', config, tmp_path) == 7
    assert steps_for(Budget(pairs=100), 'base', config, tmp_path) == 12
    speeds = iter([0.5, 0.25])
    monkeypatch.setattr(ablation, 'seconds_per_step', lambda config: next(speeds))
    half = Budget(minutes=0.5)
    assert steps_for(half, 'base', config, tmp_path) == 60
    assert steps_for(half, 'base', config, tmp_path) == 60  # measured once
    other = config.model_copy(update={'batch': 4})
    assert steps_for(half, 'base', other, tmp_path) == 120  # another recipe, another speed


@pytest.fixture(scope='module')
def city(tmp_path_factory):
    """A city with two drives of 60 m."""
    root = tmp_path_factory.mktemp('cities') / 'city'
    generate_city(root, seed=5, traversals=2, length_m=60.0, image_every=4, scan_every=4,
                  blocks=2, progress=False, image_size=(48, 160), lidar=Lidar(columns=256))
    return root


SMALL = ['batch=4', 'threads=1', 'model.image.depth=1', 'model.cloud.depth=1',
         'model.cloud.tokens.points=512', 'model.cloud.tokens.centres=16', 'geometry_weight=0.0',
         'submap_spacing_m=10.0']


def test_runs_are_done_once_go_on_where_they_stopped_and_may_fail(city, tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(city.parent / 'cache'))
    grid = Grid.model_validate({**GRID, 'variants': {
        **GRID['variants'], 'absurd': {'settings': {'pair_deg': -1.0}}}})
    recipes = {name: recipe_of(grid, name, sites(city), SMALL)
               for name in ('base', 'plain', 'absurd')}
    held_out = [Site.model_validate(site) for site in sites(city)]
    reported = []

    def go(asked=held_out):
        return run_grid(grid, recipes, asked, tmp_path,
                        lambda runs, failures: reported.append(len(runs)))

    # Stopped after one of two steps: a checkpoint is there, and no result.
    real, calls = ablation.train, []

    def stopped(config, run, resume=False):
        write_json(run / 'checkpoints' / '00000001' / 'state.json', {'step': 1})

    monkeypatch.setattr(ablation, 'train', stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert not list(tmp_path.rglob('judged.json'))

    def watched(config, run, resume=False):
        calls.append((run.parent.name, config.steps, config.held_out, resume))
        return real(config, run, resume)

    monkeypatch.setattr(ablation, 'train', watched)
    # What `stopped` wrote is no checkpoint that could be loaded.
    (tmp_path / 'runs' / 'base' / 'seed-1' / 'checkpoints' / '00000001' / 'state.json').unlink()
    runs, failures = go()
    assert calls == [('base', 2, (), False), ('plain', 2, (), False)]  # held out from training
    assert [r.variant for r in runs] == ['base', 'plain'] and reported == [1, 2]
    assert list(failures) == ['absurd, seed 1'] and 'share their way' in failures['absurd, seed 1']
    record = read_json(tmp_path / 'runs' / 'plain' / 'seed-1' / 'judged.json')
    assert (record['steps'], record['pairs']) == (2, 8) and record['minutes'] > 0.0
    hits = runs[0].hits[PRIMARY]
    assert len(hits) == len(runs[0].blocks) and set(hits) <= {0.0, 1.0}
    assert 0.0 < runs[0].chance[PRIMARY] <= 1.0
    assert (runs[0].hits[20.0, 5] >= hits).all()
    assert not list(tmp_path.rglob('module.safetensors'))  # checkpoints go once a run is done

    again, _ = go()
    assert len(calls) == 2 and len(again) == 2  # nothing is trained twice
    for name, key in (('base', PRIMARY), ('plain', PRIMARY)):
        first, second = (next(r for r in part if r.variant == name) for part in (runs, again))
        assert np.array_equal(first.hits[key], second.hits[key])

    go([*held_out, *held_out])
    assert len(calls) == 2  # asked elsewhere, not trained again
    record = read_json(tmp_path / 'runs' / 'plain' / 'seed-1' / 'judged.json')
    assert len(record['judged']['blocks']) == 2 * len(hits)

    recipes['base'] = recipes['base'].model_copy(update={'batch': 5})
    _, failures = go()
    assert 'another recipe' in failures['base, seed 1']


def test_a_checkpoint_is_gone_on_from(city, tmp_path, monkeypatch):
    monkeypatch.setenv('I2PLOC_CACHE', str(city.parent / 'cache'))
    grid = Grid.model_validate(GRID)
    recipes = {'base': recipe_of(grid, 'base', sites(city), SMALL)}
    folder = tmp_path / 'runs' / 'base' / 'seed-1'
    write_json(folder / 'checkpoints' / '00000001' / 'state.json', {'step': 1})
    resumed = []

    def train(config, run, resume=False):
        resumed.append(resume)
        raise InputError('seen enough')

    monkeypatch.setattr(ablation, 'train', train)
    _, failures = run_grid(grid, recipes, [], tmp_path, lambda runs, failures: None)
    assert resumed == [True] and failures == {'base, seed 1': 'seen enough'}


def test_an_interval_of_nothing_is_not_shown():
    assert verdict(Interval(0.5, math.nan, math.nan))[0] == 'not shown'
