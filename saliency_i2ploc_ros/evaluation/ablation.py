"""
What an ablation found: variants of a recipe against each other, with what may be chance.

Two things make a difference that means nothing: which streets were asked, and with which random
numbers a network was trained. The first is told by drawing blocks of the trajectory, paired, for
both answered the same images; the second by the spread of seeds, pooled over all variants, since
a few seeds of one variant tell little. A difference counts as shown if the interval that covers
both is on one side of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..storage import write_json
from .ablation_grid import BASE, Grid, Variant
from .page import Cell, Column, Interval, NOT_SHOWN, Page, SHOWN
from .recall import block_bootstrap, paired_bootstrap

Array = NDArray[np.float64]

RADII_M, KS = (10.0, 20.0), (1, 5)
PRIMARY = (20.0, 1)  # radius and k of the figure by which a verdict is given


@dataclass(frozen=True)
class Run:
    """
    One trained and judged network.

    hits: by (radius, k), for each query whether it was answered rightly, NaN where the map has no
    place for it. chance: by (radius, k). blocks: (q,) stretch of each query's way.
    """

    variant: str
    seed: int
    hits: dict[tuple[float, int], Array]
    chance: dict[tuple[float, int], float]
    blocks: NDArray[np.int64]
    facts: dict[str, Any]


def hits_as_text(hits: NDArray[np.bool_], counted: NDArray[np.bool_]) -> str:
    """Return a query's outcome as one letter each: 1 right, 0 wrong, - no place in the map."""
    return ''.join('-' if not c else '1' if h else '0'
                   for h, c in zip(hits, counted, strict=True))


def hits_of_text(text: str) -> Array:
    """Return what `hits_as_text` wrote, as 1, 0 and NaN."""
    return np.array([{'1': 1.0, '0': 0.0, '-': math.nan}[letter] for letter in text])


def run_of(record: dict[str, Any]) -> Run:
    """Return the run of a record as `training.ablation` writes it."""
    keys = [(r, k) for r in RADII_M for k in KS]
    judged = record['judged']
    return Run(
        record['variant'], record['seed'],
        {key: hits_of_text(judged['hits'][f'{key[0]:g} m, {key[1]}']) for key in keys},
        {key: judged['chance'][f'{key[0]:g} m, {key[1]}'] for key in keys},
        np.array(judged['blocks'], np.int64),
        {k: v for k, v in record.items() if k != 'judged'})


def seed_noise(runs: Sequence[Run], key: tuple[float, int]) -> tuple[float, int]:
    """
    Return the standard deviation of recall from seed to seed, and its degrees of freedom.

    Pooled over the variants, each about its own mean; NaN and 0 where each has one seed.
    """
    squares, freedom = 0.0, 0
    for name in {run.variant for run in runs}:
        values = np.array([np.nanmean(r.hits[key]) for r in runs if r.variant == name])
        squares += float(((values - values.mean()) ** 2).sum())
        freedom += len(values) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)


def recall_of(runs: Sequence[Run], key: tuple[float, int]) -> Interval:
    """Return the recall of one variant's runs, mean over seeds; interval over blocks alone."""
    hits, blocks = _mean_hits(runs, key)
    return Interval(float(hits.mean()), *block_bootstrap(hits, blocks))


def difference(
    runs: Sequence[Run], against: Sequence[Run], key: tuple[float, int],
    noise: tuple[float, int],
) -> Interval:
    """
    Return the recall of some runs less that of others, over the seeds and queries of both.

    noise: as `seed_noise` gives it. The half widths of blocks and of seeds are added as squares.
    The interval is NaN where there are too few seeds to know the noise.
    """
    seeds = {r.seed for r in runs} & {r.seed for r in against}
    ours = [r for r in runs if r.seed in seeds]
    theirs = [r for r in against if r.seed in seeds]
    if not seeds:
        return Interval(math.nan, math.nan, math.nan)
    both = ~np.isnan(np.stack([r.hits[key] for r in [*ours, *theirs]])).any(0)
    a, b = (np.stack([r.hits[key][both] for r in part]).mean(0) for part in (ours, theirs))
    value, low, high = paired_bootstrap(b, a, ours[0].blocks[both])
    deviation, freedom = noise
    if not freedom:
        return Interval(value, math.nan, math.nan)
    half = float(student.ppf(0.975, freedom)) * deviation * math.sqrt(2.0 / len(seeds))
    return Interval(value, value - math.hypot(value - low, half),
                    value + math.hypot(high - value, half))


def verdict(found: Interval) -> tuple[str, str]:
    """Return 'shown' or 'not shown', and what is."""
    if not math.isfinite(found.low):
        return NOT_SHOWN, 'a difference, for one seed cannot tell'
    if not found.excludes(0.0):
        return NOT_SHOWN, 'a difference'
    return SHOWN, 'better' if found.value > 0.0 else 'worse'


def summarise(grid: Grid, runs: Sequence[Run]) -> dict[str, Any]:
    """Return all figures of an ablation, JSON-like, by variant."""
    noise = {key: seed_noise(runs, key) for key in runs[0].hits}
    summary: dict[str, Any] = {
        'title': grid.title, 'budget': str(grid.budget),
        'seed_noise': {_label(key): {'deviation': value, 'freedom': freedom}
                       for key, (value, freedom) in noise.items()}, 'variants': {}}
    for name in _variants(grid, runs):
        own = [r for r in runs if r.variant == name]
        against = None if name == BASE else grid.variants[name].against
        others = [r for r in runs if r.variant == against]
        entry: dict[str, Any] = {
            'against': against, 'seeds': sorted(r.seed for r in own),
            'recall': {_label(key): vars(recall_of(own, key)) for key in noise},
            'recall_by_seed': {str(r.seed): {
                _label(key): float(np.nanmean(r.hits[key])) for key in noise} for r in own},
            'chance': {_label(key): float(np.mean([r.chance[key] for r in own]))
                       for key in noise},
            'queries': int((~np.isnan(own[0].hits[PRIMARY])).sum())}
        if others:
            found = {key: difference(own, others, key, noise[key]) for key in noise}
            entry['difference'] = {_label(key): vars(value) for key, value in found.items()}
            entry['verdict'] = ': '.join(verdict(found[PRIMARY]))
        for fact in ('steps', 'pairs', 'parameters', 'pairs_per_s', 'minutes'):
            entry[fact] = float(np.mean([r.facts[fact] for r in own]))
        summary['variants'][name] = entry
    return summary


def write_ablation_report(
    out: Path, grid: Grid, runs: Sequence[Run], protocol: Sequence[str],
    failures: dict[str, str], planned: int,
) -> dict[str, Any]:
    """
    Write summary.json, report.md and report.html into `out`; return the summary.

    protocol: sentences on what was trained on and asked. failures: reasons by run. planned: how
    many runs there will be, of which `runs` are done.
    """
    summary = summarise(grid, runs)
    write_json(out / 'summary.json', {**summary, 'failures': failures, 'protocol': [*protocol]})
    ablation_page(grid, runs, summary, protocol, failures, planned).write(out)
    return summary


def ablation_page(
    grid: Grid, runs: Sequence[Run], summary: dict[str, Any], protocol: Sequence[str],
    failures: dict[str, str], planned: int,
) -> Page:
    """Return the report of an ablation; see `write_ablation_report`."""
    page = Page(grid.title, grid.question or 'Variants of one recipe, at equal budget.')
    radius, k = PRIMARY
    figure = f'Recall@{k} at {radius:g} m'
    compared = {n: e for n, e in summary['variants'].items() if 'difference' in e}

    page.section('What it shows')
    if len(runs) < planned:
        page.text(f'Not finished: {len(runs)} of {planned} runs are done. What is below is of '
                  'these, and may change.')
    page.findings([_finding(name, entry, grid) for name, entry in compared.items()])
    page.text(f'Judged by {figure}, which was chosen before anything was trained. Of '
              f'{len(compared)} comparisons at 95 %, about {0.05 * len(compared):.1f} would be '
              '“shown” by chance alone if no variant changed anything.')

    page.section('Differences')
    page.table(
        [Column('variant'), Column('against'),
         *(Column(f'{_label(key)}, points', 1, 100.0, signed=True, null=0.0)
           for key in (PRIMARY, (10.0, 1)))],
        [[name, entry['against'], *(Interval(**entry['difference'][_label(key)])
                                    for key in (PRIMARY, (10.0, 1)))]
         for name, entry in compared.items()],
        'Recall of the variant less that of what it is compared with, 95 % intervals: over blocks '
        'of 50 m of the way, paired, and over seeds, whose spread is pooled over all variants. '
        'Blue: the interval is on one side of zero.')

    page.section('Recall')
    rows = _variants(grid, runs)
    page.picture('recall', lambda f: _draw_recall(f, rows, runs, summary), (
        9.0, 1.3 + 0.42 * len(rows)),
        f'{figure}. Bar: 95 % over blocks of the way; large dot: mean over seeds; small dots: the '
        'seeds. Dotted: the base. Grey line: a random order of the map.',
        f'{figure} of each variant')
    page.table(
        [Column('variant'), *(Column(f'{_label(key)}, %', 1, 100.0) for key in runs[0].hits)],
        [[name, *(entry['recall'][_label(key)]['value'] for key in runs[0].hits)]
         for name, entry in summary['variants'].items()]
        + [['chance', *(summary['variants'][rows[0]]['chance'][_label(key)]
                        for key in runs[0].hits)]],
        'Mean over seeds. Chance: the same images answered by a random order of the map.')

    page.section('What it cost')
    page.table(
        [Column('variant'), Column('seeds'), Column('steps', 0), Column('pairs seen', 0),
         Column('parameters, millions', 2, 1e-6), Column('pairs a second', 0),
         Column('minutes of a core', 1)],
        [[name, ', '.join(map(str, entry['seeds'])),
          *(entry[f] for f in ('steps', 'pairs', 'parameters', 'pairs_per_s', 'minutes'))]
         for name, entry in summary['variants'].items()],
        f'Each run had {grid.budget}. Parameters are those of the model that is left, without '
        'heads that only training uses. Minutes are of training alone.')

    page.section('What was varied')
    page.table([Column('variant'), Column('settings'), Column('what it asks')],
               [_settings(name, grid) for name in rows],
               'Settings by the names that `i2ploc train --set` knows.')
    page.section('How it was done', *protocol)
    page.section('What it does not show')
    page.listed(_limits(grid, summary, failures, len(np.unique(runs[0].blocks))))
    return page


def _finding(name: str, entry: dict[str, Any], grid: Grid) -> tuple[str, str]:
    found = Interval(**entry['difference'][_label(PRIMARY)])
    word, what = verdict(found)
    column = Column('', 1, 100.0, signed=True)
    why = grid.variants[name].why
    if word == SHOWN:
        claim = f'“{name}” is {what} than “{entry["against"]}”'
    else:
        claim = f'“{name}” against “{entry["against"]}”: {what}'
    return word, f'{claim}: {column.text(found)} points.' + (f' {why}' if why else '')


def _settings(name: str, grid: Grid) -> list[Cell]:
    if name == BASE:
        changed = Variant(why='what the others vary', preset=grid.preset, settings=grid.base)
    else:
        changed = grid.variants[name]
    parts = [f'`preset {changed.preset}`'] if changed.preset else []
    parts += [f'`{key} = {value}`' for key, value in changed.settings.items()]
    return [name, ', '.join(parts) or 'none', changed.why]


def _limits(
    grid: Grid, summary: dict[str, Any], failures: dict[str, str], blocks: int,
) -> list[str]:
    noise = summary['seed_noise'][_label(PRIMARY)]
    limits = []
    if noise['freedom']:
        limits.append(
            f'Differences that training itself makes: the same recipe with another seed differs '
            f'by {100 * noise["deviation"]:.1f} points (standard deviation, '
            f'{noise["freedom"]} degrees of freedom). Smaller effects are not seen here.')
    else:
        limits.append('Differences that training itself makes: every variant was trained with '
                      'one seed, so nothing is called shown.')
    limits += [
        f'What more training would do: each run had {grid.budget}. A change that learns slower '
        'may end higher.',
        'Other settings tuned for each variant: learning rates and all else are the base’s.',
        f'Other cities or real streets than those that were asked: the {blocks} blocks of the way '
        'that are drawn are all of these. Of fewer than 20, intervals come out too narrow.']
    limits += [f'Anything of the run {name}, which failed: {why}' for name, why in
               failures.items()]
    return limits


def _draw_recall(
    figure: Figure, rows: Sequence[str], runs: Sequence[Run], summary: dict[str, Any],
) -> None:
    axes = figure.add_subplot()
    for y, name in enumerate(rows):
        entry = summary['variants'][name]
        recall = Interval(**entry['recall'][_label(PRIMARY)])
        colour = 'C1' if name != BASE else 'C0'
        if math.isfinite(recall.low):
            axes.plot([100 * recall.low, 100 * recall.high], [y, y], color=colour, linewidth=3,
                      alpha=0.55, solid_capstyle='round')
        axes.plot(100 * recall.value, y, 'o', color=colour, markersize=8)
        seeds = [100 * v[_label(PRIMARY)] for v in entry['recall_by_seed'].values()]
        axes.plot(seeds, [y + 0.24] * len(seeds), '.', color=colour, markersize=4.5)
    if BASE in summary['variants']:
        base = summary['variants'][BASE]['recall'][_label(PRIMARY)]['value']
        axes.axvline(100 * base, color='C0', linewidth=1, linestyle=':', zorder=0)
    axes.axvline(100 * summary['variants'][rows[0]]['chance'][_label(PRIMARY)], color='#8a94a0',
                 linewidth=1.5, zorder=0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f'{_label(PRIMARY)}, %')
    axes.set_xlim(left=0)
    axes.grid(axis='x', alpha=0.5)


def _mean_hits(runs: Sequence[Run], key: tuple[float, int]) -> tuple[Array, NDArray[np.int64]]:
    hits = np.stack([r.hits[key] for r in runs])
    counted = ~np.isnan(hits).any(0)
    return hits[:, counted].mean(0), runs[0].blocks[counted]


def _variants(grid: Grid, runs: Sequence[Run]) -> list[str]:
    done = {run.variant for run in runs}
    return [name for name in (BASE, *grid.variants) if name in done]


def _label(key: tuple[float, int]) -> str:
    return f'Recall@{key[1]} at {key[0]:g} m'
