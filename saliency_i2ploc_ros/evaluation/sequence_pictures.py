"""Pictures of sequences: a belief over the map as it converges, and how soon all runs do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

from ..localization.fix import Answer
from ..localization.odometry_noise import OdometryNoise
from ..localization.sequence import Sequence
from .pictures import ERROR_COLOURS, GHOST, save, TRUTH
from .sequence_figures import Run, share_reached
from .sequences import Asked, LIMIT_M, run_through, WITHIN_M
from .trust_pictures import draw_false_fixes, dress_false_fixes, mark_false_fixes

Array = NDArray[np.float64]

GREY = '#555555'
PANELS = 6
FAINTEST = 1e-4  # share of the belief that is drawn at least
GOAL = 0.99  # of the runs, within `WITHIN_M`
# Kinds of runs, as they are called and drawn.
KINDS = {'random_starts': ('random starts', TRUTH, '-'),
         'starts_with_prior': ('the same with a prior', '#2a9d8f', '-'),
         'starts_with_wrong_prior': ('with a wrong prior', '#e8743b', '-'),
         'kidnappings': ('kidnapped', '#8a5fb0', '--')}
DRIVES = {'single_images': ('single images', '#606060', '--'),
          'whole_drive': ('sequence, whole drives', TRUTH, '-')}
CHOSEN = 0.9  # of the runs, by the metres to the first right fix: one that shows something


def draw_convergence(
    path: Path, sequence: Sequence, T_map_place: Array, asked: Asked, runs: list[Run],
    noise: OdometryNoise, seed: int, title: str = '',
) -> None:
    """
    Draw the belief at six moments of one of the runs from random starts, driven again.

    T_map_place: (n, 4, 4) of the map. The run is that at 90 % in order of the metres to its first
    right fix, so that it is neither the easiest nor the worst.
    """
    firsts = [len(run.rows) - 1 if first is None else first
              for run in runs for first in [run.first_right()]]
    metres = [run.metres[first] for run, first in zip(runs, firsts, strict=True)]
    chosen = int(np.argsort(metres, kind='stable')[int(CHOSEN * (len(runs) - 1))])
    rows = runs[chosen].rows
    last = min(len(rows) - 1, max(firsts[chosen] + 2, PANELS - 1))
    shown = np.unique(np.linspace(0, last, PANELS).round().astype(int))
    beliefs = []

    def keep(answer: Answer) -> None:
        belief = sequence.belief
        beliefs.append((belief.places.copy(), belief.weights.copy(), belief.outside, answer))

    run = run_through(sequence, asked, rows[:last + 1], noise, np.random.default_rng([seed, 3]),
                      keep)
    xy = T_map_place[:, :2, 3]
    width, height = np.ptp(xy, axis=0)
    # One row for a map that is taller than wide.
    down, across, size = (1, PANELS, (17, 8)) if height > 1.3 * width else (2, 3, (15, 9.5))
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    norm = LogNorm(FAINTEST, 1.0)
    axes = figure.subplots(down, across, sharex=True, sharey=True).ravel()
    for i, axis in zip(shown, axes, strict=False):
        _panel(axis, xy, beliefs[i], run, int(i), asked.truth[rows[i], :2, 3], norm)
    for axis in axes[len(shown):]:
        axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(norm, 'YlOrRd'), ax=list(axes), shrink=0.6)
    bar.set_label('belief in a place')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=3,
                  fontsize=11)
    figure.suptitle(title or 'Where the vehicle is believed to be', fontsize=15,
                    fontweight='bold')
    save(figure, path)


def draw_reached(
    path: Path, runs: Mapping[str, list[Run]], figures: Mapping[str, Any], title: str = '',
) -> None:
    """
    Draw which share of the runs has a right fix over the metres, and what thresholds would do.

    runs: by their kind, of `drive_through`; figures: theirs, of `sequence_figures`.
    """
    figure = Figure(figsize=(15, 6), dpi=110, layout='constrained')
    left, right = figure.subplots(1, 2)
    metres = np.asarray(np.linspace(0.0, LIMIT_M, 401), np.float64)
    for kind, (name, colour, style) in KINDS.items():
        if kind not in runs:
            continue
        share = share_reached(runs[kind], metres)
        within = 100 * figures[kind]['share_within']
        left.plot(metres, 100 * share, style, color=colour, linewidth=2,
                  label=f'{name} ({len(runs[kind])}): {within:.1f} % within {WITHIN_M:g} m')
    left.plot(WITHIN_M, 100 * GOAL, 'o', fillstyle='none', color=GREY, markersize=9,
              label=f'the goal: {100 * GOAL:g} %')
    left.set(xlabel='driven [m]', ylabel='runs with a fix within 20 m of the truth [%]',
             xlim=(0, LIMIT_M / 2), ylim=(0, 101.5), title='How soon it knows where it is')
    for kind, (name, colour, style) in DRIVES.items():
        part = figures[kind]
        if part['over_thresholds'] is not None:
            draw_false_fixes(right, part['over_thresholds'], name, colour, style)
        if part['accepted']:
            mark_false_fixes(right, part['availability'], part['false_fix_rate'],
                             f'{name}, as accepted', colour)
    dress_false_fixes(right)
    left.grid(alpha=0.3)
    left.legend(fontsize=10, loc='lower right')
    figure.suptitle(title or 'Sequences', fontsize=15, fontweight='bold')
    save(figure, path)


def _panel(
    axis: Axes, xy: Array, belief: tuple[NDArray[np.int64], Array, float, Answer], run: Run,
    i: int, truth: Array, norm: LogNorm,
) -> None:
    places, weights, outside, answer = belief
    axis.plot(*xy.T, '.', color=GHOST, markersize=2, zorder=1)
    order = np.argsort(weights)
    order = order[weights[order] >= FAINTEST]
    w = weights[order]
    x, y = xy[places[order]].T
    axis.scatter(x, y, c=w, s=12.0 + 130.0 * np.sqrt(w), cmap='YlOrRd', norm=norm,
                 edgecolors='#777777', linewidths=0.4, zorder=2)
    axis.plot(*truth, '+', color=TRUTH, markersize=16, markeredgewidth=2.2, zorder=4,
              label='where it is')
    if answer.estimate is not None:
        good = run.accepted[i]
        axis.plot(*answer.estimate.T_map_base[:2, 3], 'o' if good else 'x', fillstyle='none',
                  color=ERROR_COLOURS[0] if good else '#444444', markersize=13,
                  markeredgewidth=1.8, zorder=3, label=None)
    axis.plot([], [], 'x', color='#444444', markersize=9, label='most believed, refused')
    axis.plot([], [], 'o', fillstyle='none', color=ERROR_COLOURS[0], markersize=9, label='fix')
    said = 'fix' if run.accepted[i] else answer.rejection
    axis.set(title=f'image {i + 1}, {run.metres[i]:.0f} m: {said}\n'
             f'{100 * answer.confidence:.1f} % at the mode,\n{100 * outside:.1f} % outside',
             aspect='equal')
    axis.tick_params(labelsize=8)
    axis.set_xlabel('x [m]', fontsize=9)
    axis.set_ylabel('y [m]', fontsize=9)
    axis.label_outer()
