"""
What saliency marks, and whether it matters: shares by class, and deletion curves.

A network that has learned only that houses stand above roads looks as if it understood streets.
So each share is given three times: of all area, relative to the mean of the same row of the same
picture, and relative to the mean at the same spot of all pictures. What is left in the second and
the third is more than a habit of looking at a height, or at a spot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from ..data.labels import DYNAMIC, NAMES
from .page import Interval
from .recall import block_bootstrap, paired_bootstrap

Array = NDArray[np.float64]

CLASSES = tuple(NAMES)  # ids, in the order of the columns of class shares
UNLABELLED = CLASSES.index(0)
MOVING, LASTING = 'what can move', 'what stays'
WAYS = ('area', 'rows', 'spots')  # what a token's saliency is compared with
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
ORDERS = ('most salient', 'random', 'random in the same rows', 'least salient')
DRAWS = 3  # of the random orders
SAMPLES = 2000


@dataclass(frozen=True)
class Looked:
    """
    The saliency of n pictures (images, or submaps as the cloud branch sees them) of N tokens.

    saliency: (n, N), as the network gives it. classes: (n, N, len(CLASSES)) how much of a token
    each class takes, summing to one or, where nothing is there, to zero; None where classes are
    not known. rows: (n, N) which tokens lie at one height. spots: (n, N) at one place of the
    picture. blocks: (n,) of the trajectory.
    """

    saliency: Array
    classes: Array | None
    rows: NDArray[np.int64]
    spots: NDArray[np.int64]
    blocks: NDArray[np.int64]


def relative_saliency(looked: Looked, way: str) -> Array:
    """
    Return the saliency (n, N) over a mean: 'area', of its picture; 'rows', of its row; 'spots'.

    'spots': first over the picture's mean, then over the mean of that at the same spot of all
    pictures. 1 is as much as the others in the comparison.
    """
    whole = looked.saliency / looked.saliency.mean(1, keepdims=True)
    if way == 'area':
        return np.asarray(whole)
    if way == 'rows':
        picture = np.arange(len(whole))[:, None] * (int(looked.rows.max()) + 1)
        return whole / _group_means(whole, picture + looked.rows)
    return whole / _group_means(whole, looked.spots)


@dataclass(frozen=True)
class ClassFigures:
    """
    One class, or a group of them: its share of area and of saliency, 0..1, and their quotients.

    over: by way of comparison (see `relative_saliency`); 1 is no preference. pictures: in how
    many it was seen.
    """

    area: float
    saliency: float
    over: dict[str, Interval]
    pictures: int


def class_figures(looked: Looked) -> dict[str, ClassFigures]:
    """Return the figures of each class that is seen, and of what can move and what stays."""
    assert looked.classes is not None
    members = {NAMES[c]: [i] for i, c in enumerate(CLASSES) if i != UNLABELLED}
    moving = [CLASSES.index(c) for c in DYNAMIC]
    groups = {MOVING: moving,
              LASTING: [i for i in range(len(CLASSES)) if i != UNLABELLED and i not in moving],
              **members}
    relative = {way: relative_saliency(looked, way) for way in WAYS}
    figures = {}
    for name, chosen in groups.items():
        covered = looked.classes[:, :, chosen].sum(2)
        area = covered.mean(1)
        if not area.any():
            continue
        sums = {way: (covered * relative[way]).mean(1) for way in WAYS}
        figures[name] = ClassFigures(
            float(area.mean()), float(sums['area'].mean()),
            {way: ratio(sums[way], area, looked.blocks) for way in WAYS}, int((area > 0).sum()))
    return figures


def ratio(top: Array, bottom: Array, blocks: NDArray[np.int64], seed: int = 0) -> Interval:
    """
    Return sum(top) / sum(bottom) of values (n,), with a 95 % interval over blocks (n,).

    Draws in which the bottom is zero (the class is in none of the blocks) are left out; with
    fewer than two blocks that have any of it the interval is NaN.
    """
    _, block = np.unique(blocks, return_inverse=True)
    tops, bottoms = np.bincount(block, weights=top), np.bincount(block, weights=bottom)
    value = float(tops.sum() / bottoms.sum()) if bottoms.sum() > 0 else math.nan
    if (bottoms > 0).sum() < 2:
        return Interval(value, math.nan, math.nan)
    draws = np.random.default_rng(seed).integers(0, len(tops), (SAMPLES, len(tops)))
    below = bottoms[draws].sum(1)
    means = tops[draws].sum(1)[below > 0] / below[below > 0]
    return Interval(value, *(float(q) for q in np.quantile(means, [0.025, 0.975])))


def habit(looked: Looked, seed: int = 0, samples: int = 300) -> Interval:
    """
    Return how much of the variance of saliency the spot in the picture explains, 0..1.

    The share of the variance of relative saliency that lies between the means of the spots; its
    95 % interval is over blocks. 1 is a network that looks at the same spots of any picture.
    """
    whole = relative_saliency(looked, 'area')
    names, block = np.unique(looked.blocks, return_inverse=True)
    value = _explained(whole, looked.spots)
    if len(names) < 2:
        return Interval(value, math.nan, math.nan)
    members = [np.flatnonzero(block == i) for i in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(samples):
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        drawn.append(_explained(whole[chosen], looked.spots[chosen]))
    return Interval(value, *(float(q) for q in np.quantile(drawn, [0.025, 0.975])))


def _explained(values: Array, spots: NDArray[np.int64]) -> float:
    between = _group_means(values, spots)
    total = float(((values - values.mean()) ** 2).sum())
    return float(((between - values.mean()) ** 2).sum()) / total if total else math.nan


def _group_means(values: Array, groups: NDArray[np.int64]) -> Array:
    """Return for each value (n, N) the mean of its group."""
    _, group = np.unique(groups, return_inverse=True)
    group = group.reshape(-1)
    sums = np.bincount(group, weights=values.reshape(-1))
    means = sums / np.bincount(group)
    return np.asarray(means[group].reshape(values.shape))


def removed_tokens(
    saliency: Array, rows: NDArray[np.int64], count: int, order: str, rng: np.random.Generator,
) -> NDArray[np.int64]:
    """
    Return which `count` of a picture's tokens (N,) are removed, sorted.

    order: one of ORDERS. 'random in the same rows' takes from each row as many as the most salient
    ones take, at random: what tells it from these is not the height.
    """
    ranked = np.argsort(-saliency, kind='stable')
    if order == 'most salient':
        return np.sort(ranked[:count])
    if order == 'least salient':
        return np.sort(ranked[len(ranked) - count:])
    if order == 'random':
        return np.sort(rng.permutation(len(saliency))[:count])
    most = rows[ranked[:count]]
    parts = [rng.permutation(np.flatnonzero(rows == row))[:(most == row).sum()]
             for row in np.unique(most)]
    return np.sort(np.concatenate([*parts, np.empty(0, np.int64)]).astype(np.int64))


@dataclass(frozen=True)
class Curves:
    """
    What removing tokens does, by order: (n, len(FRACTIONS)) each, random ones a mean of draws.

    cosine: of the disturbed descriptors with the undisturbed. right: of queries, whether the
    first place is right (see `deletion_curves`), with their own blocks.
    """

    cosine: dict[str, Array]
    right: dict[str, Array]
    blocks: NDArray[np.int64]
    query_blocks: NDArray[np.int64]


def deletion_curves(
    looked: Looked, disturbed: Callable[[list[NDArray[np.int64]]], NDArray[np.float32]],
    right: Callable[[NDArray[np.float32]], Array], query_blocks: NDArray[np.int64],
    seed: int = 0,
) -> Curves:
    """
    Return what becomes of descriptors and of recall when tokens are removed.

    disturbed: gives the descriptors (n, D) of all pictures less these tokens of each. right: tells
    which queries (q,) are answered rightly with these descriptors.
    """
    n, N = looked.saliency.shape
    whole = disturbed([np.empty(0, np.int64)] * n)
    start = right(whole)
    cosine: dict[str, Array] = {order: np.ones((n, len(FRACTIONS))) for order in ORDERS}
    hits: dict[str, Array] = {
        order: np.repeat(start[:, None], len(FRACTIONS), 1) for order in ORDERS}
    for order in ORDERS:
        draws = DRAWS if order.startswith('random') else 1
        for column, fraction in enumerate(FRACTIONS):
            count = round(fraction * N)
            if count == 0:
                continue
            cosines, rights = [], []
            for draw in range(draws):
                rng = np.random.default_rng([seed, draw, column])
                removed = [removed_tokens(s, r, count, order, rng)
                           for s, r in zip(looked.saliency, looked.rows, strict=True)]
                found = disturbed(removed)
                cosines.append((found * whole).sum(1))
                rights.append(right(found))
            cosine[order][:, column] = np.mean(cosines, 0)
            hits[order][:, column] = np.mean(rights, 0)
    return Curves(cosine, hits, looked.blocks, query_blocks)


def area_under(curves: Array) -> Array:
    """Return the area under each curve (n, len(FRACTIONS)), as a mean height, (n,)."""
    x = np.array(FRACTIONS)
    steps = np.diff(x) * (curves[:, 1:] + curves[:, :-1]) / 2.0
    return np.asarray(steps.sum(1) / (x[-1] - x[0]))


def area_interval(curves: Array, blocks: NDArray[np.int64]) -> Interval:
    """Return the mean area under curves (n, ...), with its interval over blocks."""
    areas = area_under(curves)
    return Interval(float(areas.mean()), *block_bootstrap(areas, blocks))


def area_difference(curves: Array, against: Array, blocks: NDArray[np.int64]) -> Interval:
    """Return the mean area under curves less that under others of the same pictures, paired."""
    return Interval(*paired_bootstrap(area_under(against), area_under(curves), blocks))


def pictures_to_show(looked: Looked, most: int = 3) -> list[int]:
    """
    Return the pictures that a report shows, chosen by rule: most that can move, median, least.

    Without classes: the first, the middle and the last.
    """
    n = len(looked.saliency)
    if looked.classes is None:
        chosen: Sequence[int] = [0, n // 2, n - 1]
    else:
        moving = [CLASSES.index(c) for c in DYNAMIC]
        order = np.argsort(-looked.classes[:, :, moving].sum((1, 2)), kind='stable')
        chosen = [int(order[0]), int(order[n // 2]), int(order[-1])]
    return list(dict.fromkeys(chosen))[:most]
