"""Pictures of how far a run's answers can be trusted: acceptance, covariance, the worst fixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

from ..mapping.database import PlaceDatabase
from .pictures import draw_query, draw_submap, ERROR_COLOURS, save, TRUTH
from .summary import CORRECT_M, Record

GOOD, BAD, GREY = ERROR_COLOURS[0], ERROR_COLOURS[-1], '#555555'
AXES = {'x': '#8a5fb0', 'y': '#2a9d8f', 'yaw': '#e8743b', 'xy': TRUTH}
LABELS = {'x': 'x', 'y': 'y', 'yaw': 'heading', 'xy': 'position (ellipse)'}
NONE_AT = 5e-5  # of a logarithmic axis of rates: where there is no false fix
WORST = 10
APART_S = 2.0  # two fixes nearer than that show the same failure


def draw_acceptance(path: Path, acceptance: dict[str, Any], title: str = '') -> None:
    """
    Draw what would come of accepting more or fewer fixes; mark what was chosen.

    Precision over recall, both over the confidence that a fix needs, and false fixes over
    availability. acceptance: of `acceptance.acceptance`.
    """
    figure = Figure(figsize=(18, 5.6), dpi=110, layout='constrained')
    left, right, wrong = figure.subplots(1, 3)
    curve, chosen = acceptance['curve'], acceptance['chosen']
    confidence = np.array(curve['confidence'])
    precision, recall = (np.array(curve[name]) * 100.0 for name in ('precision', 'recall'))
    left.plot(recall, precision, '-', color=TRUTH)
    best = int(np.argmin(np.abs(confidence - acceptance['f1_threshold'])))
    left.plot(recall[best], precision[best], 's', color=GREY, markersize=7,
              label=f'largest F1, {acceptance["f1_max"]:.2f}, '
              f'at confidence {acceptance["f1_threshold"]:.2f}')
    if chosen['precision'] is not None and chosen['recall'] is not None:
        left.plot(100.0 * chosen['recall'], 100.0 * chosen['precision'], 'o', color=BAD,
                  markersize=9, label=f'accepted in this run: '
                  f'{100 * chosen["accepted_share"]:.0f} % of the images')
    left.set(xlabel=f'recall: right fixes among images with a place within {CORRECT_M:g} m [%]',
             ylabel='precision: right among accepted [%]', xlim=(0, 101), ylim=(0, 103),
             title='Precision and recall')
    right.plot(confidence, precision, color=GOOD, label='precision')
    right.plot(confidence, recall, color=TRUTH, label='recall')
    right.set(xlabel='confidence that a fix needs', ylabel='[%]', xlim=(0, 1.01), ylim=(0, 103),
              title='By the threshold')
    draw_false_fixes(wrong, acceptance['over_thresholds'], 'by the confidence', TRUTH)
    if chosen['precision'] is not None:
        mark_false_fixes(wrong, chosen['accepted_share'], 1.0 - chosen['precision'],
                         'accepted in this run', BAD)
    dress_false_fixes(wrong)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, loc='lower left')
    figure.suptitle(title or 'Accepting more or fewer fixes', fontsize=15, fontweight='bold')
    save(figure, path)


def draw_false_fixes(
    axes: Axes, curve: dict[str, Any], name: str, colour: str, style: str = '-',
) -> None:
    """Draw false fixes over availability, of `false_fixes.over_thresholds`."""
    rate = np.maximum(np.array(curve['false_fix_rate']), NONE_AT)
    axes.plot(100 * np.array(curve['availability']), 100 * rate, style, color=colour, linewidth=2,
              label=name)


def mark_false_fixes(
    axes: Axes, availability: float, rate: float, name: str, colour: str,
) -> None:
    """Mark what a run accepted, and how much of it was false."""
    axes.plot(100 * availability, 100 * max(rate, NONE_AT), 'o', color=colour, markersize=9,
              label=name)


def dress_false_fixes(axes: Axes) -> None:
    """Draw what belongs to the axes of `draw_false_fixes`; no false fixes at all are a line."""
    axes.axhline(100 * NONE_AT, color=GREY, linewidth=0.8, linestyle=':')
    axes.text(1, 105 * NONE_AT, 'none', color=GREY, va='bottom', fontsize=9)
    axes.set(xlabel='availability: images with a fix [%]', ylabel='of these over 20 m off [%]',
             yscale='log', xlim=(0, 101), ylim=(80 * NONE_AT, 100),
             title='False fixes over availability')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc='upper left')


def draw_reliability(path: Path, calibration: dict[str, Any], title: str = '') -> None:
    """Draw which share of the errors lies within each confidence region; `summary`'s calibration.

    On the diagonal a covariance is honest; below it claims more than it knows.
    """
    figure = Figure(figsize=(8.6, 6.6), dpi=110, layout='constrained')
    axes = figure.subplots()
    reliability = calibration['reliability']
    expected = np.array(reliability['expected']) * 100.0
    axes.fill_between([0, 100], [0, 100], [0, 0], color=BAD, alpha=0.06, linewidth=0)
    axes.plot([0, 100], [0, 100], '--', color=GREY, label='honest')
    for name, colour in AXES.items():
        axes.plot(expected, np.array(reliability[name]) * 100.0, '.-', color=colour,
                  linewidth=2.4 if name == 'xy' else 1.3, label=LABELS[name])
    axes.text(97, 4, 'overconfident', ha='right', color=BAD)
    axes.text(30, 60, 'too careful', ha='right', color=GREY)
    axes.set(xlim=(0, 100), ylim=(0, 100.5), aspect='equal',
             xlabel='share that the covariance says lies within [%]',
             ylabel='share of the errors that does [%]',
             title=f'{calibration["fixes"]} fixes, ANEES of the position '
             f'{calibration["anees_xy"]:.2f} (1 is honest)')
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    figure.suptitle(title or 'Are the covariances honest?', fontsize=13, fontweight='bold')
    save(figure, path)


def worst_fixes(records: Sequence[Record], most: int = WORST) -> list[Record]:
    """Return the fixes of largest error, worst first, any two of them at least 2 s apart."""
    judged = [r for r in records if math.isfinite(r.error_m)]
    shown: list[Record] = []
    for record in sorted(judged, key=lambda r: -r.error_m):
        if len(shown) < most and all(abs(record.stamp_ns - other.stamp_ns) >= APART_S * 1e9
                                     for other in shown):
            shown.append(record)
    return shown


def draw_worst(
    path: Path, records: Sequence[Record], database: PlaceDatabase,
    image_of: Callable[[Record], NDArray[np.uint8] | None], title: str = '',
) -> None:
    """Draw the worst fixes (`worst_fixes`), each query beside the submap found first."""
    shown = worst_fixes(records)
    rows = math.ceil(len(shown) / 2)
    figure = Figure(figsize=(18, 3.2 * rows + 1.0), dpi=90, layout='constrained')
    panels = figure.subplots(rows, 4, squeeze=False, width_ratios=[2.0, 1.0] * 2)
    for axes in panels.flat:
        axes.set_axis_off()
    for i, record in enumerate(shown):
        query, submap = panels[i // 2, 2 * (i % 2):2 * (i % 2) + 2]
        seconds = (record.stamp_ns - records[0].stamp_ns) * 1e-9
        draw_query(query, record, image_of(record), f'{i + 1}. At {seconds:.1f} s')
        if len(record.places):
            submap.set_axis_on()
            draw_submap(submap, record, database, last=i >= len(shown) - 2)
    heading = f'The {len(shown)} worst fixes, at least {APART_S:g} s apart'
    figure.suptitle(f'{heading}: {title}' if title else heading, fontsize=15, fontweight='bold')
    save(figure, path)
