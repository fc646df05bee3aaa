"""The report on what a model looks at: computed findings, tables, curves and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.labels import NAMES
from ..storage import write_json
from .page import Column, Interval, NOT_SHOWN, Page, SHOWN
from .saliency import (
    area_difference,
    area_interval,
    class_figures,
    ClassFigures,
    habit,
    LASTING,
    MOVING,
    ORDERS,
    WAYS,
)
from .saliency_pictures import Branch, draw_clouds, draw_curves, draw_habit, draw_images, Shown

MOST, RANDOM, IN_ROWS, _ = ORDERS
CAR, PERSON = NAMES[26], NAMES[24]
FEW_BLOCKS = 20  # of fewer, percentiles of the bootstrap cover less than they say
FEWEST_PICTURES = 5  # in which a class must be seen to have a row of the table
NAMES_OF_WAYS = {'area': 'its share of area', 'rows': 'the mean of the same rows',
                 'spots': 'the mean at the same spots'}


def write_saliency_report(
    out: Path, model_name: str, strength: float, branches: Sequence[Branch], shown: Shown,
    protocol: Sequence[str], provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write summary.json, report.md and report.html into `out`; return the summary."""
    summary: dict[str, Any] = {'model': model_name, 'saliency_strength': strength,
                               'provenance': provenance, 'protocol': [*protocol]}
    page = Page(f'What “{model_name}” looks at',
                'The attention of the CLS tokens, which the aggregation takes as saliency: what '
                'it marks, whether that is more than a habit of looking at certain heights, and '
                'whether what it marks matters.')
    page.section('What it shows')
    found = {branch.name: _figures(branch) for branch in branches}
    for branch in branches:
        page.findings(_findings(branch, found[branch.name]))
    page.text('“Shown”: the 95 % interval, over blocks of 50 m of the way, lies on one side of no '
              'difference; whether it is large is for the reader. Each phrase above is computed '
              'from its interval.')
    page.section('Where it looks')
    page.picture('images', lambda f: draw_images(f, branches[0].looked, shown),
                 (11.0, 0.5 + 3.5 * len(shown.images) * shown.images[0].shape[0]
                  / shown.images[0].shape[1]),
                 'Chosen by rule: the image with the most of what can move (outlined), the median '
                 'one, and the one with the least. Left to right: what the network sees; saliency '
                 'over the mean of the picture; saliency over the mean of its row. Red: more than '
                 'that mean; blue: less.',
                 'Images with the saliency of their patches')
    page.picture('habit', lambda f: draw_habit(f, branches[0].looked, shown.grid), (9.0, 2.9),
                 'The mean over all images, by spot of the picture and by row: the habit that any '
                 'share has to be compared with.', 'Mean saliency by spot and by row')
    page.picture('clouds', lambda f: draw_clouds(f, branches[-1].looked, shown),
                 (11.0, 0.7 + 2.4 * len(shown.points)),
                 'The map’s submaps nearest to these images, with the traffic of one scan, as the '
                 'cloud branch takes them: from above (the vehicle at 0, looking up) and as seen '
                 'from the vehicle. Colour: saliency over the mean of all its tokens.',
                 'Submaps with the saliency of their tokens')
    for branch in branches:
        summary[branch.name] = _add_branch(page, branch, found[branch.name])
    page.section('How it was done', *protocol)
    page.section('What it does not show')
    page.listed(_limits(branches, strength))
    page.write(out)
    write_json(out / 'summary.json', summary)
    return summary


@dataclass(frozen=True)
class _Figures:
    classes: dict[str, ClassFigures] | None
    habit: Interval
    areas: dict[str, tuple[Interval, Interval]]          # by order: cosine, recall
    differences: dict[str, tuple[Interval, Interval]]    # most salient less another order


def _figures(branch: Branch) -> _Figures:
    curves = branch.curves
    areas, differences = {}, {}
    for order in ORDERS:
        areas[order] = (area_interval(curves.cosine[order], curves.blocks),
                        area_interval(curves.right[order], curves.query_blocks))
        if order != MOST:
            differences[order] = (
                area_difference(curves.cosine[MOST], curves.cosine[order], curves.blocks),
                area_difference(curves.right[MOST], curves.right[order], curves.query_blocks))
    classes = None if branch.looked.classes is None else class_figures(branch.looked)
    return _Figures(classes, habit(branch.looked), areas, differences)


def _findings(branch: Branch, found: _Figures) -> list[tuple[str, str]]:
    """Return the claims on a branch, each with the verdict of its interval."""
    items, what = [], f'{branch.name.capitalize()}s'
    classes = found.classes or {}
    if MOVING in classes:
        items += [_against(f'{what}: what can move', classes[MOVING], way) for way in WAYS]
    if CAR in classes and PERSON in classes:
        items.append(_alike(what, classes[CAR].over['rows'], classes[PERSON].over['rows']))
    for order, name in ((RANDOM, 'random ones'), (IN_ROWS, 'random ones of the same rows')):
        for index, thing in ((0, 'the descriptor'), (1, 'Recall@1')):
            gap = found.differences[order][index]
            word = SHOWN if gap.excludes(0.0) else NOT_SHOWN
            claim = ('suffers more or less' if word == NOT_SHOWN else
                     'suffers more' if gap.value < 0.0 else 'suffers less')
            column = Column('', 3, signed=True) if index == 0 else Column('', 1, 100.0, True)
            unit = '' if index == 0 else ' points'
            items.append((word, f'{what}: without the most salient {branch.unit}, {thing} '
                                f'{claim} than without {name}; area under the curve '
                                f'{column.text(gap)}{unit}.'))
    return items


def _against(what: str, figures: ClassFigures, way: str) -> tuple[str, str]:
    over = figures.over[way]
    word = SHOWN if over.excludes(1.0) else NOT_SHOWN
    claim = ('more or less' if word == NOT_SHOWN else 'less' if over.value < 1.0 else 'more')
    return word, (f'{what} gets {claim} saliency than {NAMES_OF_WAYS[way]}; '
                  f'{Column("", 2).text(over)} of it.')


def _alike(what: str, cars: Interval, people: Interval) -> tuple[str, str]:
    """Return whether cars and people are told apart, which a mark of what moves would not do."""
    column = Column('', 2)
    values = f'cars {column.text(cars)}, people {column.text(people)} of the mean of their rows'
    if (cars.high < 1.0 < people.low) or (people.high < 1.0 < cars.low):
        return SHOWN, (f'{what}: cars and people are treated in opposite ways, so it is not being '
                       f'able to move that is marked; {values}.')
    return NOT_SHOWN, f'{what}: that cars and people are treated in opposite ways; {values}.'


def _add_branch(page: Page, branch: Branch, found: _Figures) -> dict[str, Any]:
    name, column = branch.name.capitalize(), Column('', 0, 100.0)
    page.section(f'{name} branch')
    page.text(f'{column.text(found.habit)} % of the variance of saliency is explained by where in '
              f'the {"picture" if branch.name == "image" else "field of view"} a token lies, '
              'whatever is there.')
    summary: dict[str, Any] = {'explained_by_spot': vars(found.habit)}
    if found.classes is None:
        page.text('The classes of what is seen are not known here, so that shares by class cannot '
                  'be given: make a city with `i2ploc city --semantics`.')
    else:
        single = {n: f for n, f in found.classes.items() if n not in (MOVING, LASTING)}
        rows = [(n, found.classes[n]) for n in (MOVING, LASTING) if n in found.classes]
        rows += sorted(single.items(), key=lambda item: -item[1].area)
        page.table(
            [Column('class'), Column('area, %', 1, 100.0), Column('saliency, %', 1, 100.0),
             Column('over area', 2, null=1.0), Column('within rows', 2, null=1.0),
             Column('at the same spots', 2, null=1.0)],
            [[n, f.area, f.saliency, *(f.over[way] for way in WAYS)] for n, f in rows
             if f.pictures >= FEWEST_PICTURES],
            f'{name} branch, {len(branch.looked.saliency)} pictures. 1: as much as any other. '
            'Over area looks like understanding and may be a habit; within rows, a class is '
            'compared with what is at the same height; at the same spots, with what other '
            'pictures have there. Blue: the interval excludes 1.')
        summary['classes'] = {
            n: {'area': f.area, 'saliency': f.saliency, 'pictures': f.pictures,
                'over': {way: vars(f.over[way]) for way in WAYS}} for n, f in rows}
    page.picture(f'deletion-{branch.name}', lambda f: draw_curves(f, branch), (9.5, 3.6),
                 f'What is left when {branch.unit} are removed, in four orders. Left: cosine of '
                 f'the disturbed descriptor with the whole one. Right: {branch.answers}. Random '
                 'orders are a mean of three draws.',
                 f'Deletion curves of the {branch.name} branch')
    page.table(
        [Column('removed first'), Column('cosine', 3), Column('Recall@1, %', 1, 100.0),
         Column('most salient less this, cosine', 3, signed=True, null=0.0),
         Column('…, Recall@1, points', 1, 100.0, signed=True, null=0.0)],
        [[o, *found.areas[o], *(found.differences[o] if o in found.differences else ('', ''))]
         for o in ORDERS],
        'Area under the curves, as a mean height from 0 to 90 % removed. Below zero: the most '
        'salient ones matter more.')
    summary['deletion'] = {o: {
        'cosine': vars(found.areas[o][0]), 'recall@1': vars(found.areas[o][1]),
        'curve_cosine': branch.curves.cosine[o].mean(0).tolist(),
        'curve_recall@1': branch.curves.right[o].mean(0).tolist(),
        **({} if o not in found.differences else {
            'most_less_this_cosine': vars(found.differences[o][0]),
            'most_less_this_recall@1': vars(found.differences[o][1])})} for o in ORDERS}
    return summary


def _limits(branches: Sequence[Branch], strength: float) -> list[str]:
    limits = [
        'That saliency causes good recall: that takes training with and without it, as '
        '`i2ploc ablate saliency` does.',
        'What removing things from the street would do: a patch of mean colour, and a map with '
        'holes, are things that the network has never seen.',
        'Parked and moving cars apart: classes tell what can move, not what does.',
        'Other networks or cities: this is one model in one place, and blocks are drawn there.']
    fewest = min(len(np.unique(b)) for branch in branches
                 for b in (branch.looked.blocks, branch.curves.query_blocks))
    if fewest < FEW_BLOCKS:
        limits.insert(0, f'As much certainty as the intervals claim: they are drawn from {fewest} '
                         f'blocks of the way, and of fewer than {FEW_BLOCKS} they come out too '
                         'narrow. A longer drive mends it.')
    if strength == 0.0:
        limits.insert(0, 'Any use of saliency by this model: its strength is 0, so its '
                         'aggregation ignores the attention that is shown here.')
    if any(branch.looked.classes is None for branch in branches):
        limits.append('What classes are marked, where no classes are known.')
    return limits
