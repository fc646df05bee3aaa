"""
One answer as RViz would show it, as a picture: the map, the paths, the candidates, the looks.

For machines without a screen, for reports, and to see that config/i2ploc.rviz shows the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from pathlib import Path
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Polygon, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
import numpy as np
from numpy.typing import NDArray

from ..geometry.poses import yaw_of
from ..localization.fix import Answer, Fix
from ..localization.looks import FAR_M, map_points, NEAR_M, STRONGEST
from ..mapping.database import PlaceDatabase
from ..storage import atomic_file
from .pictures import CORRECT_M, ERROR_COLOURS, TRUTH
from .summary import NO_TRUTH

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

GOOD, BAD, ESTIMATE, UNJUDGED = ERROR_COLOURS[0], ERROR_COLOURS[-1], '#e8743b', '#6d4bb5'
MAP_POINTS, SUBMAP_COLOURS = 100_000, 'viridis'
HEIGHTS_M = (0.0, 10.0)  # ends of the colours of height above the road
NEAR_VIEW_M = 60.0  # the close-up reaches so far to each side
# Of the map's width: an arrow's length, and how near to a better one a candidate has no label.
ARROW, LABELLED, LABELS = 1.0 / 34.0, 1.0 / 25.0, 8
CLOSE_ARROW_M = 11.0


@dataclass(frozen=True)
class Scene:
    """
    One answer and what is about it.

    name: of the image, for the title. truth: (4, 4), NaN if it is not known. true_path: (n, 2) or
    more columns, the whole drive's; estimated_path: (m, 2), the fixes up to this answer, in order.
    query, place: (h, w, 3) as `looks` makes them; saliency: the same, or None without; query is
    None where the image is not at hand.
    """

    name: str
    answer: Answer
    database: PlaceDatabase
    truth: Array = field(default_factory=NO_TRUTH.copy)
    true_path: Array = field(default_factory=lambda: np.zeros((0, 2)))
    estimated_path: Array = field(default_factory=lambda: np.zeros((0, 2)))
    query: Pixels | None = None
    saliency: Pixels | None = None
    place: Pixels | None = None

    @property
    def shown(self) -> Fix | None:
        """Return the fix, or what it would be had it not been refused."""
        return self.answer.fix or self.answer.estimate

    @property
    def has_truth(self) -> bool:
        """Tell whether the true pose is known."""
        return bool(np.isfinite(self.truth).all())

    @property
    def centre(self) -> Array:
        """Return the point (2,) about which the close-up is drawn."""
        if self.shown is not None:
            return np.asarray(self.shown.T_map_base[:2, 3])
        if self.has_truth:
            return np.asarray(self.truth[:2, 3])
        return np.asarray(self.database.T_map_base[0, :2, 3])


def draw_scene(path: Path, scene: Scene) -> None:
    """Draw a scene into a PNG, atomically."""
    figure = Figure(figsize=(16, 10), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, 3, width_ratios=[1.95, 1.15, 0.75],
                               height_ratios=[1.0, 1.0, 1.0, 1.45])
    corner = round_corner(scene)
    whole = figure.add_subplot(grid[:, 0])
    _draw_whole(figure, whole, scene, corner)
    _draw_looks([figure.add_subplot(grid[row, 1:]) for row in range(3)], scene)
    _draw_close(figure, figure.add_subplot(grid[3, 1]), scene, corner)
    _draw_scores(figure.add_subplot(grid[3, 2]), scene)
    figure.suptitle(headline(scene), fontsize=15, fontweight='bold',
                    color=GOOD if scene.answer.fix is not None else BAD)
    # Labels last: they are placed where the layout leaves room.
    figure.canvas.draw()
    figure.set_layout_engine('none')
    _label_candidates(whole, scene, corner)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format='png')


def headline(scene: Scene) -> str:
    """Return what became of the image, and how far off that is."""
    answer = scene.answer
    if answer.fix is None:
        return f'{scene.name}: no fix ({answer.rejection})'
    sigma = math.sqrt(answer.fix.covariance[0, 0] + answer.fix.covariance[1, 1])
    degrees = math.degrees(math.sqrt(answer.fix.covariance[5, 5]))
    off = ''
    if scene.has_truth:
        off = f' {_distance(answer.fix.T_map_base, scene):.1f} m from the truth'
    return f'{scene.name}: a fix{off} (1 sigma {sigma:.1f} m, {degrees:.0f} degrees)'


def round_corner(scene: Scene) -> Array:
    """Return what coordinates are counted from: millions of metres cannot be read on an axis."""
    corner = np.floor(scene.database.T_map_base[:, :2, 3].min(axis=0) / 1000.0) * 1000.0
    corner[np.abs(corner) < 10_000.0] = 0.0
    return np.asarray(corner)


def width_of(scene: Scene) -> float:
    """Return how far the map reaches, the longer of its sides, metres."""
    xy = scene.database.T_map_base[:, :2, 3]
    return float((xy.max(axis=0) - xy.min(axis=0)).max()) + 2.0 * NEAR_VIEW_M


def groups_of(positions: Array, radius_m: float) -> list[list[int]]:
    """Return the ranks of candidates (k, 2 or 3) by the best of them that each is near to."""
    groups: list[list[int]] = []
    for rank, position in enumerate(positions):
        for ranks in groups:
            if np.linalg.norm(position[:2] - positions[ranks[0]][:2]) <= radius_m:
                ranks.append(rank)
                break
        else:
            groups.append([rank])
    return groups


def ranks_in_words(ranks: list[int]) -> str:
    """Return ranks from 0 as a reader counts: [0, 1, 2, 5] is '1-3, 6'; of many the first."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = [f'{run[0] + 1}-{run[-1] + 1}' if len(run) > 1 else str(run[0] + 1) for run in runs]
    return ', '.join(words if len(words) <= 3 else [*words[:2], '...'])


def _draw_whole(figure: Figure, axes: Axes, scene: Scene, corner: Array) -> None:
    places = len(scene.database)
    step = max(1, round(20.0 / max(scene.database.spacing_m, 1e-3)))
    chosen = range(0, places, step)
    most = max(1, MAP_POINTS // len(chosen))
    cloud = np.concatenate([
        map_points(scene.database, i, max(1, -(-len(scene.database.cloud(i)) // most)))
        for i in chosen])
    dots = _scatter(axes, cloud, corner, 'Greys', (-8.0, HEIGHTS_M[1]), 0.6)
    bar = figure.colorbar(dots, ax=axes, location='left', shrink=0.35, pad=0.02,
                          ticks=[0, 5, 10], boundaries=np.linspace(*HEIGHTS_M, 64))
    bar.set_label('height above the road [m]')
    if len(scene.true_path):
        axes.plot(*(scene.true_path[:, :2] - corner).T, '-', color=TRUTH, linewidth=1.6,
                  label='true path', zorder=3)
    if len(scene.estimated_path):
        axes.plot(*(scene.estimated_path[:, :2] - corner).T, '-', color=ESTIMATE, linewidth=0.8,
                  alpha=0.8, marker='o', markersize=3.0, zorder=4,
                  label=f'fixes before, in order ({len(scene.estimated_path)})')
    _draw_links(axes, scene, corner)
    width = width_of(scene)
    _draw_arrows(axes, scene, corner, ARROW * width)
    _draw_fix(axes, scene, corner, 0.7 * ARROW * width)
    _draw_truth(axes, scene, corner)
    low = scene.centre - corner - NEAR_VIEW_M
    axes.add_patch(Rectangle((low[0], low[1]), 2.0 * NEAR_VIEW_M, 2.0 * NEAR_VIEW_M, fill=False,
                             edgecolor='black', linewidth=0.9, linestyle='--', zorder=8,
                             label='the close-up'))
    axes.set(xlabel=_axis('x', corner[0]), ylabel=_axis('y', corner[1]),
             title='\n'.join(textwrap.wrap(scene.answer.explanation, 100)))
    axes.title.set_fontsize(9.5)
    axes.set_aspect('equal', 'datalim')
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.06), ncols=3, fontsize=9)


def _draw_looks(panels: list[Axes], scene: Scene) -> None:
    name = 'nothing was searched' if not len(scene.answer.candidates) else (
        f'the map as seen from the best candidate: road grey, else by range, red {NEAR_M:g} m '
        f'to blue {FAR_M:g} m')
    for axes, picture, title, missing in (
            (panels[0], scene.query, 'the query, as the network sees it',
             "the run's bag or data set is not at hand: no image"),
            (panels[1], scene.saliency, 'what the network looks at: red is '
             f'{STRONGEST:g} x the mean, blue 1 / {STRONGEST:g}',
             'no saliency: none of this model, or no image'),
            (panels[2], scene.place, name, name)):
        axes.set_axis_off()
        axes.set_title(title, fontsize=10, pad=3)
        if picture is None:
            axes.text(0.5, 0.5, missing, ha='center', va='center', transform=axes.transAxes)
        else:
            axes.imshow(picture, interpolation='nearest')


def _draw_close(figure: Figure, axes: Axes, scene: Scene, corner: Array) -> None:
    """Draw the surroundings of the answer: the submap found in colours, the doubt in full."""
    near = np.flatnonzero(np.linalg.norm(
        scene.database.T_map_base[:, :2, 3] - scene.centre, axis=1) < 2.0 * NEAR_VIEW_M)
    near = near[::max(1, len(near) // 24)]
    if len(near):
        cloud = np.concatenate([map_points(scene.database, int(i), 2) for i in near])
        _scatter(axes, cloud, corner, 'Greys', (-8.0, HEIGHTS_M[1]), 0.5)
    if len(scene.answer.candidates):
        found = map_points(scene.database, int(scene.answer.candidates.indices[0]))
        dots = _scatter(axes, found, corner, SUBMAP_COLOURS, HEIGHTS_M, 1.6)
        bar = figure.colorbar(dots, ax=axes, location='left', shrink=0.8, pad=0.02,
                              ticks=[0, 5, 10])
        bar.set_label('height above the road [m]', fontsize=8)
        bar.ax.tick_params(labelsize=8)
    if len(scene.true_path):
        axes.plot(*(scene.true_path[:, :2] - corner).T, '-', color=TRUTH, linewidth=1.6, zorder=3)
    _draw_arrows(axes, scene, corner, CLOSE_ARROW_M)
    _draw_fix(axes, scene, corner, 1.2 * CLOSE_ARROW_M)
    _draw_truth(axes, scene, corner, 9.0)
    middle = scene.centre - corner
    axes.set(xlim=(middle[0] - NEAR_VIEW_M, middle[0] + NEAR_VIEW_M),
             ylim=(middle[1] - NEAR_VIEW_M, middle[1] + NEAR_VIEW_M), aspect='equal')
    axes.set_title('close-up, the submap found in colours', fontsize=10)
    axes.tick_params(labelsize=8)


def _draw_scores(axes: Axes, scene: Scene) -> None:
    """Draw the candidates' similarities, judged by their distance from the truth."""
    candidates = scene.answer.candidates
    axes.set_title(f'candidates: green within {CORRECT_M:g} m\nof the truth, red not'
                   if scene.has_truth else 'candidates', fontsize=10)
    if not len(candidates):
        axes.set_axis_off()
        axes.text(0.5, 0.5, 'none', ha='center', transform=axes.transAxes)
        return
    ranks = np.arange(1, len(candidates) + 1)
    axes.scatter(candidates.scores, ranks, c=_judged(scene), s=28, zorder=3)
    axes.set(ylim=(len(candidates) + 0.8, 0.2), xlabel='cosine similarity', ylabel='rank',
             yticks=ranks if len(ranks) <= 5 else [1, *range(5, len(ranks) + 1, 5)])
    axes.grid(alpha=0.4)
    axes.tick_params(labelsize=8)


def _judged(scene: Scene) -> list[str]:
    """Return a colour for each candidate: right, wrong, or not to be said."""
    if not scene.has_truth:
        return [UNJUDGED] * len(scene.answer.candidates)
    return [GOOD if _distance(T, scene) <= CORRECT_M else BAD
            for T in scene.answer.candidates.T_map_base]


def _distance(T: Array, scene: Scene) -> float:
    return float(np.linalg.norm(T[:2, 3] - scene.truth[:2, 3]))


def _draw_links(axes: Axes, scene: Scene, corner: Array) -> None:
    if scene.shown is None:
        return
    start = scene.shown.T_map_base[:2, 3] - corner
    for T, colour in zip(scene.answer.candidates.T_map_base, _judged(scene), strict=True):
        axes.plot(*np.stack([start, T[:2, 3] - corner]).T, '-', color=colour, linewidth=0.6,
                  alpha=0.5, zorder=4)


def _draw_arrows(axes: Axes, scene: Scene, corner: Array, length: float) -> None:
    """Draw an arrow for each candidate, the best on top; sizes in metres."""
    poses, colours = scene.answer.candidates.T_map_base, _judged(scene)
    for rank in reversed(range(len(poses))):
        size = length if rank == 0 else 0.7 * length
        xy, yaw = poses[rank][:2, 3] - corner, float(yaw_of(poses[rank]))
        shape = np.array([[0.6, 0.0], [-0.4, 0.28], [-0.2, 0.0], [-0.4, -0.28]]) * size
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        axes.add_patch(Polygon(shape @ turn.T + xy, closed=True, facecolor=colours[rank],
                               edgecolor='white', linewidth=0.6, zorder=6,
                               alpha=1.0 / (1.0 + 0.06 * rank),
                               label=None if rank else 'candidates, coloured as at the right'))


def _draw_fix(axes: Axes, scene: Scene, corner: Array, radius: float) -> None:
    """Draw 2 sigma of a fix: the ellipse of its position, the wedge of its heading."""
    fix = scene.answer.fix
    if fix is None:
        return
    variances, vectors = np.linalg.eigh(fix.covariance[:2, :2])
    diameters = 4.0 * np.sqrt(np.maximum(variances, 0.0))
    xy = fix.T_map_base[:2, 3] - corner
    axes.add_patch(Ellipse(
        (xy[0], xy[1]), diameters[1], diameters[0],
        angle=math.degrees(math.atan2(vectors[1, 1], vectors[0, 1])), facecolor=(0, 0, 0, 0.12),
        edgecolor='black', linewidth=1.2, zorder=5, label='2 sigma of the fix'))
    half = min(2.0 * math.sqrt(max(fix.covariance[5, 5], 0.0)), math.pi)
    angles = float(yaw_of(fix.T_map_base)) + np.linspace(-half, half, 25)
    rim = xy + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    axes.add_patch(Polygon(np.concatenate([xy[None], rim]), closed=True, zorder=5,
                           facecolor='#ffd400', edgecolor='black', linewidth=0.6, alpha=0.55,
                           label='2 sigma of its heading'))
    axes.plot(*xy, 'o', color=ESTIMATE, markeredgecolor='black', markersize=5.5, zorder=8,
              linestyle='none', label='the fix')


def _draw_truth(axes: Axes, scene: Scene, corner: Array, size: float = 12.0) -> None:
    if scene.has_truth:
        axes.plot(*(scene.truth[:2, 3] - corner), '*', color='#ffd400', markeredgecolor='black',
                  markersize=size, zorder=7, linestyle='none', label='truth of this image')


def _label_candidates(axes: Axes, scene: Scene, corner: Array) -> None:
    """Write rank and similarity at the best of each group, where no other label is."""
    poses = scene.answer.candidates.T_map_base
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    # Not over the answer and the truth either.
    kept_free = [scene.truth] if scene.has_truth else []
    kept_free += [scene.shown.T_map_base] if scene.shown is not None else []
    pixels = [axes.transData.transform(T[:2, 3] - corner) for T in kept_free]
    taken = [Bbox([xy - 11.0, xy + 11.0]) for xy in pixels]
    frame = axes.get_window_extent(renderer)
    for ranks in groups_of(poses[:, :3, 3], LABELLED * width_of(scene))[:LABELS]:
        xy = poses[ranks[0]][:2, 3] - corner
        text = f'{ranks_in_words(ranks)}: {scene.answer.candidates.scores[ranks[0]]:.2f}'
        for dx, dy in ((14, 12), (14, -18), (-14, 12), (-14, -18), (0, 24), (0, -30)):
            note = axes.annotate(
                text, (xy[0], xy[1]), (dx, dy), textcoords='offset points', zorder=10,
                ha='left' if dx > 0 else 'right' if dx < 0 else 'center', fontsize=9,
                fontweight='bold', path_effects=[withStroke(linewidth=3, foreground='white')])
            box = note.get_window_extent(renderer).padded(2.0)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 \
                and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            note.remove()


def _scatter(
    axes: Axes, cloud: Array, corner: Array, colours: str, ends: tuple[float, float], size: float,
) -> Any:
    """Draw points (n, 4) of x, y, z and height, higher ones above lower ones."""
    cloud = cloud[np.argsort(cloud[:, 3], kind='stable')]
    return axes.scatter(cloud[:, 0] - corner[0], cloud[:, 1] - corner[1], c=cloud[:, 3], s=size,
                        cmap=colours, vmin=ends[0], vmax=ends[1], linewidths=0, rasterized=True)


def _axis(name: str, start: float) -> str:
    return f'{name} of the map [m from {start:.0f}]' if start else f'{name} of the map [m]'
