"""The pictures of a report on saliency: overlays, the mean of all, submaps, deletion curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

from ..data.labels import DYNAMIC
from .saliency import Curves, FRACTIONS, Looked, ORDERS, relative_saliency

STRONGEST = 2.5  # relative saliency at the end of the colours; its inverse at the other end
COLOURS = 'coolwarm'


@dataclass(frozen=True)
class Branch:
    """
    One branch under study.

    name: 'image' or 'cloud'. unit: what a token is, in the plural. looked, curves: what was found.
    answers: what Recall@1 of the curves is of, in words.
    """

    name: str
    unit: str
    looked: Looked
    curves: Curves
    answers: str


@dataclass(frozen=True)
class Shown:
    """
    The pictures of a report, row by row: images, and the submaps nearest to them.

    images: (h, w, 3) uint8 as the network sees them. grid, patch: of its tokens. image_rows: which
    of the studied images they are. points: (N, K, 3) of each submap's tokens, cloud_rows as above.
    classes: (h, w) of the images, None where unknown.
    """

    images: list[NDArray[np.uint8]]
    classes: list[NDArray[np.uint8]] | None
    image_rows: list[int]
    grid: tuple[int, int]
    patch: int
    points: list[NDArray[np.float32]]
    cloud_rows: list[int]


def draw_images(figure: Figure, looked: Looked, shown: Shown) -> None:
    titles = ('what it sees', 'saliency over the picture’s mean', 'saliency over its row’s mean')
    axes = figure.subplots(len(shown.images), 3, squeeze=False)
    heat = None
    for r, (image, row) in enumerate(zip(shown.images, shown.image_rows, strict=True)):
        grey = np.repeat(image.mean(2, keepdims=True), 3, 2) / 255.0
        axes[r, 0].imshow(image)
        for c, way in ((1, 'area'), (2, 'rows')):
            values = relative_saliency(looked, way)[row].reshape(shown.grid)
            # Patches are the resolution that there is: no smoothing that would feign more.
            wide = values.repeat(shown.patch, 0).repeat(shown.patch, 1)
            wide = wide[:image.shape[0], :image.shape[1]]
            axes[r, c].imshow(grey)
            heat = axes[r, c].imshow(wide, cmap=COLOURS, norm=_norm(), alpha=0.6)
        for c in range(3):
            if shown.classes is not None:
                moving = np.isin(shown.classes[r], DYNAMIC).astype(np.uint8)
                for line in cv2.findContours(moving, cv2.RETR_EXTERNAL,
                                             cv2.CHAIN_APPROX_NONE)[0]:
                    xy = np.concatenate([line[:, 0], line[:1, 0]])
                    axes[r, c].plot(*xy.T, color='#35e0ff', linewidth=0.9)
            axes[r, c].set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
            axes[r, c].axis('off')
            if r == 0:
                axes[r, c].set_title(titles[c], fontsize=10)
    if heat is not None:
        _colour_bar(figure, heat, axes)


def draw_habit(figure: Figure, looked: Looked, grid: tuple[int, int]) -> None:
    mean = relative_saliency(looked, 'area').mean(0).reshape(grid)
    left, right = figure.subplots(1, 2, width_ratios=[2.6, 1.0])
    heat = left.imshow(mean, cmap=COLOURS, norm=_norm(), aspect='auto')
    left.set(xticks=[], yticks=range(grid[0]), ylabel='row of patches')
    left.set_title('mean saliency by spot', fontsize=10)
    _colour_bar(figure, heat, left)
    right.barh(range(grid[0]), mean.mean(1), color='C1')
    right.axvline(1.0, color='C0', linestyle=':', linewidth=1.2)
    right.set(ylim=(grid[0] - 0.5, -0.5), yticks=range(grid[0]))
    right.set_title('by row', fontsize=10)


def draw_clouds(figure: Figure, looked: Looked, shown: Shown) -> None:
    axes = figure.subplots(len(shown.points), 2, squeeze=False, width_ratios=[1.0, 2.2],
                           sharex='col', sharey='col')
    relative = relative_saliency(looked, 'area')
    dots = None
    for r, (points, row) in enumerate(zip(shown.points, shown.cloud_rows, strict=True)):
        colour = np.repeat(relative[row], points.shape[1])
        flat: NDArray[Any] = points.reshape(-1, 3)
        there = np.isfinite(flat).all(1)
        flat, colour = flat[there], colour[there]
        style: dict[str, Any] = {'c': colour, 'cmap': COLOURS, 'norm': _norm(), 'linewidths': 0}
        above, ahead = axes[r]
        order = np.argsort(flat[:, 2])
        for name, value in style.items():
            if name == 'c':
                style['c'] = value[order]
        dots = above.scatter(-flat[order, 1], flat[order, 0], s=3.0, **style)
        above.plot(0, 0, '^', color='#35e0ff', markersize=6)
        above.set(aspect='equal', ylabel='ahead, m')
        away = flat - np.array([0.0, 0.0, 1.6], np.float32)
        distance = np.linalg.norm(away, axis=1)
        far = np.argsort(-distance)
        style['c'] = colour[far]
        azimuth = np.degrees(np.arctan2(away[far, 1], away[far, 0]))
        elevation = np.degrees(np.arcsin(away[far, 2] / distance[far]))
        ahead.scatter(-azimuth, elevation, s=np.clip(60.0 / distance[far], 1.0, 14.0), **style)
        ahead.set(ylabel='elevation, degrees')
        for one in (above, ahead):
            # The colours' middle is pale: on white paper and on black it needs a ground.
            one.set_facecolor('#232a33')
    axes[0, 0].set_title('from above', fontsize=10)
    axes[0, 1].set_title('from the vehicle', fontsize=10)
    axes[-1, 0].set_xlabel('to the right, m')
    axes[-1, 1].set_xlabel('to the right, degrees')
    if dots is not None:
        _colour_bar(figure, dots, axes)


def _norm() -> LogNorm:
    # Twice the mean is as far from it as half of it.
    return LogNorm(1.0 / STRONGEST, STRONGEST)


def _colour_bar(figure: Figure, drawn: Any, axes: Any) -> None:
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, extend='both')
    bar.set_ticks([0.5, 1.0, 2.0], labels=['½', '1', '2'])
    bar.set_label('times the mean', fontsize=9)
    bar.minorticks_off()


def draw_curves(figure: Figure, branch: Branch) -> None:
    axes = figure.subplots(1, 2)
    curves, x = branch.curves, 100.0 * np.array(FRACTIONS)
    for one, values, title in ((axes[0], curves.cosine, 'cosine with the whole'),
                               (axes[1], curves.right, 'Recall@1, %')):
        scale = 100.0 if values is curves.right else 1.0
        for order, colour, line in zip(ORDERS, ('C0', '#8a94a0', 'C1', 'C2'),
                                       ('-', '--', '-', '-'), strict=True):
            one.plot(x, scale * values[order].mean(0), line, marker='o', markersize=4,
                     color=colour, label=order, clip_on=False)
        one.set(xlabel=f'{branch.unit} removed, %', title=title)
        lowest = min(values[order].mean(0).min() for order in ORDERS)
        one.set_ylim(bottom=min(0.0, scale * lowest))
        one.grid(alpha=0.5)
    axes[0].legend(fontsize=9, frameon=False)
