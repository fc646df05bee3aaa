"""Pictures of judgements: recall as k grows, precision against recall, and where it was right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
import numpy as np
from numpy.typing import NDArray

from .judging import CURVE_KS, Judgement, recall_at_k
from .precision import precision_recall
from .ranking import NONE, POSITIVE_M
from .retrieval import DESCRIPTOR

Array = NDArray[np.float64]

GOOD, BAD, WAY, CHANCE = '#2e9e5b', '#d1342f', '#8a94a0', '#8a94a0'
CLOUD_POINTS = 12_000
MODEL = 'model'
Shown = Callable[[int], 'tuple[str, NDArray[Any]]']


def draw_recall(figure: Figure, judgements: Sequence[Judgement], seed: int = 0) -> None:
    """Draw recall at POSITIVE_M over k with its 95 % interval; a panel for each pairing."""
    pairings = list(dict.fromkeys(j.pairing for j in judgements))
    panels = np.atleast_1d(figure.subplots(1, len(pairings), sharey=True))
    for axes, pairing in zip(panels, pairings, strict=True):
        chance: dict[int, float] = {}
        for n, judgement in enumerate(j for j in judgements if j.pairing == pairing):
            ks = [k for k in CURVE_KS if k <= len(judgement.database)]
            rows = [recall_at_k(judgement, POSITIVE_M, k, seed) for k in ks]
            recall = np.array([row['recall'] for row in rows]) * 100.0
            low, high = np.array([row['interval'] for row in rows]).T * 100.0
            chance = chance or {k: row['chance'] * 100.0 for k, row in zip(ks, rows, strict=True)}
            axes.fill_between(ks, low, high, color=f'C{n}', alpha=0.22, linewidth=0)
            axes.plot(ks, recall, color=f'C{n}', marker='o', markersize=3.5,
                      label=named(judgement.method))
        axes.plot(list(chance), list(chance.values()), '--', color=CHANCE, label='chance')
        axes.set(title=pairing.replace('-', ' to '), xlabel='k, places looked at', ylim=(0, 101),
                 xlim=(0.5, CURVE_KS[-1] + 0.5))
        axes.grid(alpha=0.5)
    panels[0].set_ylabel(f'Recall@k within {POSITIVE_M:g} m [%]')
    panels[-1].legend(loc='lower right')


def draw_precision_recall(figure: Figure, judgements: Sequence[Judgement]) -> None:
    """Draw precision over recall as the score varies above which an answer is accepted."""
    axes = figure.subplots()
    pairings = list(dict.fromkeys(j.pairing for j in judgements))
    for judgement in judgements:
        counted, right = judgement.ranks.hits(POSITIVE_M, 1)
        curve = precision_recall(judgement.ranks.score, right, counted)
        if curve is None:
            continue
        colour, model = f'C{pairings.index(judgement.pairing)}', judgement.method == MODEL
        line = '-' if model else '--' if judgement.method == DESCRIPTOR else ':'
        axes.plot(curve.recall * 100.0, curve.precision * 100.0, line,
                  color=colour, label=f'{judgement.pairing.replace("-", " to ")}, '
                  f'{named(judgement.method)}: F1 {curve.f1_max:.2f}')
        best = int(np.argmin(np.abs(curve.threshold - curve.f1_threshold)))
        axes.plot(curve.recall[best] * 100.0, curve.precision[best] * 100.0,
                  'o', color=colour, markersize=6 if model else 3.5)
    axes.set(xlabel=f'recall: right answers among queries with a place within {POSITIVE_M:g} m '
             '[%]', ylabel='precision: right among accepted [%]', xlim=(0, 101), ylim=(0, 103))
    axes.grid(alpha=0.5)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper', fontsize=9)


def draw_answers(figure: Figure, judgement: Judgement) -> None:
    """Draw each query where it was taken: green if right, else red with an arrow to its answer."""
    axes = figure.subplots()
    corner = np.floor(judgement.place_xy.min(axis=0) / 1000.0) * 1000.0
    corner[np.abs(corner) < 10_000.0] = 0.0
    place, query = judgement.place_xy - corner, judgement.query_xy - corner
    counted, right = judgement.ranks.hits(POSITIVE_M, 1)
    wrong = counted & ~right
    axes.plot(*place.T, '.', color=WAY, markersize=3, zorder=1,
              label=f'places of the database ({len(place)})')
    answered = wrong & (judgement.ranks.answer != NONE)
    answers = place[judgement.ranks.answer[answered]]
    for start, end in zip(query[answered], answers, strict=True):
        # Bent: most wrong answers lie along the same street, where a straight line would hide.
        axes.add_patch(FancyArrowPatch(
            start, end, connectionstyle='arc3,rad=0.35', arrowstyle='-|>', mutation_scale=7,
            color=BAD, linewidth=0.8, alpha=0.6, zorder=2))
    for flags, colour, marker, text in (
            (right, GOOD, 'o', 'right'), (wrong, BAD, 'o', 'wrong, with an arrow to its answer'),
            (~counted, WAY, 'x', f'no place within {POSITIVE_M:g} m: excluded')):
        if flags.any():
            axes.plot(*query[flags].T, marker, color=colour, markersize=5, linestyle='',
                      label=f'{text} ({int(flags.sum())})', zorder=3)
    unit = ['m' if c == 0.0 else f'm from {c:.0f}' for c in corner]
    axes.set(xlabel=f'x of the map [{unit[0]}]', ylabel=f'y of the map [{unit[1]}]')
    axes.set_aspect('equal', adjustable='datalim')
    axes.grid(alpha=0.35)
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=9)


def examples(judgement: Judgement) -> list[tuple[str, int]]:
    """
    Return up to three queries that tell a judgement, by rule and not by hand: (why, query).

    The right answer of middle score, the wrong answer of the highest score, and the query whose
    best right place stands furthest down.
    """
    counted, right = judgement.ranks.hits(POSITIVE_M, 1)
    score = judgement.ranks.score
    first = judgement.ranks.first[:, judgement.ranks.radii_m.index(POSITIVE_M)]
    found: list[tuple[str, int]] = []
    good, wrong = np.flatnonzero(right), np.flatnonzero(counted & ~right)
    if len(good):
        middle = good[np.argsort(score[good], kind='stable')[len(good) // 2]]
        found.append(('Right, of middle score', int(middle)))
    if len(wrong):
        surest = int(wrong[score[wrong].argmax()])
        found.append(('Surest wrong answer', surest))
        last = int(wrong[first[wrong].argmax()])
        if last != surest:
            found.append(('Right place furthest down', last))
    return found


def draw_examples(
    figure: Figure, judgement: Judgement, query_of: Shown, place_of: Shown,
) -> None:
    """
    Draw `examples`: the query, its answer, and the right place that stood highest.

    query_of, place_of: what is shown of query i, of place j: ('image', (H, W, 3) RGB) or
    ('cloud', (n, 3) points in the vehicle frame).
    """
    chosen = examples(judgement)
    images = [judgement.pairing.split('-')[0] == 'image'] + [
        judgement.pairing.split('-')[1] == 'image'] * 2
    panels = figure.subplots(max(len(chosen), 1), 3, squeeze=False,
                             width_ratios=[1.7 if image else 1.0 for image in images])
    for row, (why, i) in zip(panels, chosen, strict=False):
        answer = int(judgement.ranks.answer[i])
        error = float(judgement.answer_error_m[i])
        _show(row[0], *query_of(i), f'{why}: query {i}')
        verdict = 'right' if judgement.right[i] else 'WRONG'
        _show(row[1], *place_of(answer), f'answer, {error:.0f} m off: {verdict}\n'
              f'similarity {judgement.ranks.score[i]:.2f}')
        column = judgement.ranks.radii_m.index(POSITIVE_M)
        best, rank = judgement.ranks.best[i, column], judgement.ranks.first[i, column]
        distance = float(np.linalg.norm(judgement.place_xy[best] - judgement.query_xy[i]))
        _show(row[2], *place_of(int(best)), f'highest right place, {distance:.0f} m off:\n'
              f'rank {rank + 1} of {judgement.ranks.allowed[i]}')
    for row in panels[len(chosen):]:
        for axes in row:
            axes.set_axis_off()


def named(method: str) -> str:
    """Return a method as a reader sees it."""
    known = {MODEL: 'model', DESCRIPTOR: 'descriptor alone'}
    return known.get(method, f'{method} (learns nothing)')


def _show(axes: Any, kind: str, what: NDArray[Any], title: str) -> None:
    axes.set_title(title, fontsize=9.5, loc='left')
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if kind == 'image':
        axes.imshow(what)
        return
    points = what[::max(1, len(what) // CLOUD_POINTS)]
    points = points[np.argsort(points[:, 2], kind='stable')]
    reach = float(np.abs(points[:, :2]).max(initial=1.0))
    # Most points are road: the colours are for what stands on it.
    low, high = np.percentile(points[:, 2], [2, 99.5]) if len(points) else (0.0, 1.0)
    # As seen from above, ahead up the page.
    axes.scatter(-points[:, 1], points[:, 0], c=points[:, 2], s=0.6, cmap='viridis', vmin=low,
                 vmax=max(high, low + 0.1), linewidths=0)
    axes.annotate('', (0.0, 0.25 * reach), (0.0, 0.0),
                  arrowprops={'color': BAD, 'width': 2, 'headwidth': 8})
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect='equal')
