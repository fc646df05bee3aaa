"""Pictures of a run for a reader: where it was right, and what it saw where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import apply, inverse
from ..mapping.database import PlaceDatabase
from ..storage import atomic_file
from .pose_errors import planar_errors
from .summary import CORRECT_M, Record

Array = NDArray[np.float64]

MAP_POINTS = 150_000
SUBMAP_POINTS = 20_000
# Errors are read by their class (right lane, right place, near, wrong), not by their shade.
ERROR_EDGES_M = [0.0, 5.0, 10.0, 20.0, 50.0, 1000.0]
ERROR_COLOURS = ['#1a7f37', '#8cc152', '#f2c037', '#e8743b', '#c0182b']
TRUTH, PLACES, GHOST = '#1f5fbf', '#606060', '#aab2bd'


def draw_overview(
    path: Path, records: Sequence[Record], database: PlaceDatabase,
    image_of: Callable[[Record], NDArray[np.uint8] | None], title: str = '',
    path_xy: Array | None = None,
) -> None:
    """
    Draw the map with true and estimated positions, and three queries beside the submaps found.

    records: in the order of their stamps. image_of: returns a record's image (H, W, 3) RGB or
    None. path_xy: (n, 2) the true path; None: that of the records, which has gaps where images
    were dropped. The three queries are chosen by rule, not by hand: see `queries_to_show`.
    """
    figure = Figure(figsize=(16, 9), dpi=110, layout='constrained')
    grid = figure.add_gridspec(3, 3, width_ratios=[2.1, 1.45, 1.0])
    _draw_map(figure, figure.add_subplot(grid[:, 0]), records, database, path_xy)
    for row, (name, record) in enumerate(queries_to_show(records)):
        seconds = (record.stamp_ns - records[0].stamp_ns) * 1e-9
        draw_query(figure.add_subplot(grid[row, 1]), record, image_of(record),
                   f'{name}, at {seconds:.1f} s')
        draw_submap(figure.add_subplot(grid[row, 2]), record, database, last=row == 2)
    figure.suptitle(title or 'Fixes on the map', fontsize=15, fontweight='bold')
    save(figure, path)


def queries_to_show(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """
    Return up to three named queries that tell a run: how it mostly goes, and how it fails.

    The fix of median error, the fix of the largest error, and the middle one of the rejections;
    without truth the first and the last fix. Queries without candidates are passed over.
    """
    answered = [r for r in records if len(r.places)]
    fixes = [r for r in answered if r.T_map_base is not None]
    judged = sorted((r for r in fixes if r.has_truth), key=lambda r: r.error_m)
    shown = []
    if judged:
        shown += [('Fix of median error', judged[len(judged) // 2]), ('Worst fix', judged[-1])]
    elif fixes:
        shown += [('First fix', fixes[0]), ('Last fix', fixes[-1])]
    rejected = [r for r in answered if r.T_map_base is None]
    if rejected:
        shown.append(('Rejected', rejected[len(rejected) // 2]))
    return shown


def draw_errors(path: Path, records: Sequence[Record], title: str = '') -> None:
    """Draw position and heading error over time, and the distribution of the position error."""
    figure = Figure(figsize=(13, 7), dpi=110, layout='constrained')
    grid = figure.add_gridspec(2, 2, width_ratios=[1.7, 1.0])
    judged = [r for r in records if r.T_map_base is not None and r.has_truth]
    start = records[0].stamp_ns
    seconds = np.array([(r.stamp_ns - start) * 1e-9 for r in judged])
    error = np.array([r.error_m for r in judged])
    refused = [(r.stamp_ns - start) * 1e-9 for r in records if r.T_map_base is None]

    upper = figure.add_subplot(grid[0, 0])
    # Below 0.1 m differences say nothing about a map of places; a logarithm needs some floor.
    upper.semilogy(seconds, np.maximum(error, 0.1), '.', color=TRUTH, markersize=5, label='fix')
    known = np.array([r.covariance is not None for r in judged], bool)
    if known.any():
        sigma = [_sigma_m(r) for r in judged if r.covariance is not None]
        upper.semilogy(seconds[known], sigma, '-', color='#e8743b', linewidth=0.9, alpha=0.8,
                       label='1 sigma it claims')
    if refused:
        upper.plot(refused, [0.12] * len(refused), '|', color='#555555', label='rejected')
    upper.axhline(CORRECT_M, color='#c0182b', linewidth=1, linestyle='--',
                  label=f'{CORRECT_M:g} m: wrong above')
    # Room above the points for the legend.
    upper.set(ylabel='position error [m]', title='Position error over time',
              ylim=(0.08, max(float(error.max()), CORRECT_M) * 12.0))
    upper.yaxis.set_major_formatter('{x:g}')
    upper.legend(fontsize=9, ncols=4, loc='upper center')

    lower = figure.add_subplot(grid[1, 0], sharex=upper)
    yaw = [math.degrees(_yaw_error(r)) for r in judged]
    lower.plot(seconds, yaw, '.', color=TRUTH, markersize=5)
    lower.axhline(0.0, color='#555555', linewidth=0.8)
    lower.set(xlabel='time since the first image [s]', ylabel='heading error [deg]',
              title='Heading error over time')

    right = figure.add_subplot(grid[:, 1])
    ordered = np.sort(error)
    right.step(np.maximum(ordered, 0.1), np.arange(1, len(error) + 1) / len(error) * 100.0,
               where='post', color=TRUTH)
    right.set_xscale('log')
    right.set_xlim(0.1, max(float(error.max()), CORRECT_M) * 2.0)
    right.xaxis.set_major_formatter('{x:g}')
    right.xaxis.set_minor_formatter(NullFormatter())
    right.axvline(CORRECT_M, color='#c0182b', linewidth=1, linestyle='--')
    median = float(np.median(error))
    right.plot([max(median, 0.1)], [50.0], 'o', color=TRUTH)
    right.annotate(f'median {median:.1f} m', (max(median, 0.1), 50.0), (-8, 4), ha='right',
                   textcoords='offset points')
    right.set(xlabel='position error [m]', ylabel='fixes with at most this error [%]',
              ylim=(0, 101), title=f'Distribution over {len(error)} fixes')
    for axes in (upper, lower, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title or 'Errors of accepted fixes', fontsize=15, fontweight='bold')
    save(figure, path)


def display_cloud(database: PlaceDatabase, most: int = MAP_POINTS) -> Array:
    """Return at most so many points (m, 3) of the whole map, evenly thinned, in the map frame."""
    n = len(database.T_map_base)
    # Neighbouring submaps overlap: one every 20 m shows the same streets.
    step = max(1, round(20.0 / max(database.spacing_m, 1e-3)))
    clouds = []
    chosen = range(0, n, step)
    for i in chosen:
        points = np.asarray(database.cloud(i))
        stride = max(1, math.ceil(len(points) * len(chosen) / most))
        clouds.append(apply(database.T_map_base[i], points[::stride]))
    return np.concatenate(clouds) if clouds else np.zeros((0, 3))


def _draw_map(
    figure: Figure, axes: Any, records: Sequence[Record], database: PlaceDatabase,
    path_xy: Array | None,
) -> None:
    cloud = display_cloud(database)
    place_xy = np.asarray(database.T_map_base[:, :2, 3])
    # Coordinates of millions of metres are unreadable on an axis: count from a round corner.
    corner = np.floor(place_xy.min(axis=0) / 1000.0) * 1000.0
    corner[np.abs(corner) < 10_000.0] = 0.0
    cloud, place_xy = cloud[:, :2] - corner, place_xy - corner
    axes.scatter(*cloud.T, s=_dot(len(cloud), 40_000), color=GHOST, linewidths=0, zorder=0)
    axes.plot(*place_xy.T, '.', color=PLACES, markersize=2.5, label='places of the map', zorder=1)
    if path_xy is None:
        path_xy = np.array([r.truth[:2, 3] for r in records if r.has_truth]).reshape(-1, 2)
    if len(path_xy):
        axes.plot(*(path_xy - corner).T, '-', color=TRUTH, linewidth=2.0, label='true path',
                  zorder=2)
    fixed = [r for r in records if r.T_map_base is not None]
    if fixed:
        xy = np.stack([r.T_map_base[:2, 3] for r in fixed if r.T_map_base is not None]) - corner
        error = np.array([r.error_m for r in fixed])
        if np.isfinite(error).any():
            _draw_fixes_by_error(figure, axes, fixed, xy, error, corner)
        else:
            axes.plot(*xy.T, 'o', color='#e8743b', markersize=5, label='fix (truth unknown)',
                      zorder=4)
    refused = [r.truth[:2, 3] - corner for r in records if r.T_map_base is None and r.has_truth]
    if refused:
        axes.plot(*np.stack(refused).T, 'x', color='black', markersize=4.5, zorder=3,
                  markeredgewidth=0.8,
                  label=f'rejected ({len(refused)}), at the true position')
    axes.set(xlabel=f'x of the map [{_metres_from(corner[0])}]',
             ylabel=f'y of the map [{_metres_from(corner[1])}]', title='Map, true path and fixes')
    axes.set_aspect('equal', adjustable='datalim')
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.07), ncols=2, fontsize=9)


def _draw_fixes_by_error(
    figure: Figure, axes: Any, fixed: Sequence[Record], xy: Array, error: Array, corner: Array,
) -> None:
    # Lines to the truth only from the fixes that are wrong; others would hide the path.
    wrong = [np.stack([at, record.truth[:2, 3] - corner])
             for record, at in zip(fixed, xy, strict=True) if record.error_m > CORRECT_M]
    for i, line in enumerate(wrong):
        axes.plot(*line.T, '-', color=ERROR_COLOURS[-1], linewidth=0.6, alpha=0.4, zorder=1.5,
                  label=f'wrong fixes ({len(wrong)}), to their truth' if i == 0 else None)
    judged = np.isfinite(error)
    dots = axes.scatter(*xy[judged].T, c=error[judged], s=22, zorder=4, edgecolors='white',
                        linewidths=0.3, cmap=ListedColormap(ERROR_COLOURS),
                        norm=BoundaryNorm(ERROR_EDGES_M, len(ERROR_COLOURS)),
                        label=f'fixes ({int(judged.sum())}), coloured by error')
    bar = figure.colorbar(dots, ax=axes, location='left', shrink=0.5, pad=0.02,
                          ticks=ERROR_EDGES_M, spacing='uniform')
    bar.ax.set_yticklabels(['0', '5', '10', '20', '50', 'more'])
    bar.set_label('position error [m]')


def draw_query(
    axes: Any, record: Record, image: NDArray[np.uint8] | None, name: str,
) -> None:
    """Draw a query's image (H, W, 3) RGB, under its name and what became of it."""
    if record.T_map_base is None:
        verdict = str(record.rejection)
    elif math.isfinite(record.error_m):
        verdict = f'{record.error_m:.1f} m from the truth'
    else:
        verdict = 'the truth is not known'
    axes.set_title(f'{name}: {verdict}', fontsize=11)
    axes.set_axis_off()
    if image is None:
        axes.text(0.5, 0.5, 'image not at hand', ha='center', transform=axes.transAxes)
    else:
        axes.imshow(image)


def draw_submap(axes: Any, record: Record, database: PlaceDatabase, last: bool) -> None:
    """Draw the best place's submap from above, its vehicle looking up the page."""
    place = int(record.places[0])
    points = np.asarray(database.cloud(place), np.float64)
    points = points[::max(1, math.ceil(len(points) / SUBMAP_POINTS))]
    if len(points) == 0:
        axes.set_axis_off()
        return
    reach = float(np.abs(points[:, :2]).max())
    # Higher points are drawn over lower ones, as an eye above would see them.
    points = points[np.argsort(points[:, 2], kind='stable')]
    low, high = np.percentile(points[:, 2], [2, 98])
    # x forward is up the page, y left is to the left.
    axes.scatter(-points[:, 1], points[:, 0], c=points[:, 2], s=_dot(len(points), 10_000),
                 cmap='viridis', vmin=low, vmax=max(high, low + 0.1), linewidths=0)
    axes.annotate('', (0.0, 0.28 * reach), (0.0, -0.05 * reach),
                  arrowprops={'color': '#c0182b', 'width': 2.5, 'headwidth': 10})
    heading = f'Place found first: no. {place}'
    if record.has_truth:
        T_place_truth = inverse(database.T_map_base[place]) @ record.truth
        distance = float(np.linalg.norm(
            database.T_map_base[place][:2, 3] - record.truth[:2, 3]))
        verdict = 'correct' if distance <= CORRECT_M else 'WRONG'
        heading = f'Submap found, {distance:.1f} m off: {verdict}'
        x, y = T_place_truth[0, 3], T_place_truth[1, 3]
        if max(abs(x), abs(y)) < reach:
            axes.plot(-y, x, '*', color='#ffd400', markeredgecolor='black', markersize=13)
    axes.set_title(heading, fontsize=11)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect='equal')
    axes.set_ylabel('ahead [m]', fontsize=9)
    axes.tick_params(labelsize=8)
    if last:
        axes.set_xlabel('to the right [m]\narrow: heading of the place, star: truth', fontsize=9)


def _metres_from(start: float) -> str:
    return f'm from {start:.0f}' if start else 'm'


def _dot(points: int, normal: int) -> float:
    """Return the area of a point's dot: smaller where there are more than `normal` of them."""
    return float(np.clip(normal / max(points, 1), 0.3, 3.0))


def _sigma_m(record: Record) -> float:
    """Return the standard deviation that the fix claims in the plane: sqrt of the trace."""
    assert record.covariance is not None
    return float(np.sqrt(record.covariance[0, 0] + record.covariance[1, 1]))


def _yaw_error(record: Record) -> float:
    assert record.T_map_base is not None
    return float(planar_errors(record.T_map_base, record.truth)[0, 2])


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format='png')
