"""An evaluation as a page with pictures (Markdown, HTML), as JSON, and query by query as CSV."""

from __future__ import annotations

from collections.abc import Sequence
import csv
from functools import partial
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ..data.submaps import SubmapStore
from ..encoders.config import ModelConfig
from ..encoders.dual import DualEncoder
from ..export.runtime import ImageRuntime
from ..mapping.database import PlaceDatabase
from ..storage import atomic_file, write_json
from .described import ByModel
from .figures import (
    draw_answers,
    draw_examples,
    draw_precision_recall,
    draw_recall,
    examples,
    MODEL,
    named,
)
from .judging import figures, Judgement, KS
from .page import Cell, Column, Interval, Page, Picture
from .protocols import Entries, submaps_of_entries
from .ranking import POSITIVE_M
from .report import versions
from .retrieval import DESCRIPTOR, Prepared, stated, VERIFIED_PAIRING
from .splits import Split, SplitCheck

SCHEMA = 1
PROTOCOLS = {
    'same_pass': 'One drive answers itself: every place asks, all others may answer. The place '
    'passed a second before is a right answer, so this tells places apart and says little of '
    'coming back.',
    'revisit': 'One drive answers itself, but only with places passed over 10 s before. Queries '
    'that are no revisit are excluded. The submaps are cut from the map of the whole drive, the '
    "query's own pass included.",
    'cross_drive': 'The map of one drive, the queries of another: a vehicle that comes back.',
}


def write_evaluation(
    out: Path, prepared: Prepared, judgements: Sequence[Judgement], check: SplitCheck,
    model: DualEncoder | ImageRuntime, folder: str, pictures: Sequence[tuple[str, str]] = (),
    split: Split | None = None,
) -> dict[str, Any]:
    """
    Write report.md, report.html and their pictures, evaluation.json and queries.csv into `out`.

    Returns what evaluation.json holds. check: of the split; leaks stand at the head of the page.
    model, folder: what was judged, and where it lies. pictures: files in `out` to show at the
    page's end, with their captions.
    """
    seed, config = prepared.question.seed, model.config
    by = ByModel(model)
    provenance = {**versions(), 'model': folder, 'model_name': config.name,
                  'model_hash': by.hashes[0], 'preprocessing_hash': by.hashes[1],
                  'runtime': by.runtime.runtime}
    results = [figures(judgement, seed) for judgement in judgements]
    evaluation = {
        'schema': SCHEMA, 'kind': 'evaluation of place retrieval', 'provenance': provenance,
        'protocol': stated(prepared, list(judgements)),
        'split': None if split is None else split.model_dump(mode='json'),
        'split_check': check.as_json(), 'results': results}
    page = make_page(prepared, judgements, evaluation, config)
    if pictures:
        page.section('Fixes', 'What the localizer makes of the same images: positions with '
                     'covariance, or rejections. Their figures are in `summary.json`.')
    for name, caption in pictures:
        page.blocks.append(Picture(Path(name).stem, (out / name).read_bytes(), None, caption,
                                   caption))
    page.write(out)
    write_json(out / 'evaluation.json', evaluation)
    write_queries(out / 'queries.csv', judgements)
    return evaluation


def make_page(
    prepared: Prepared, judgements: Sequence[Judgement], evaluation: dict[str, Any],
    config: ModelConfig,
) -> Page:
    """Return the page of an evaluation, most important first."""
    protocol, results, seed = evaluation['protocol'], evaluation['results'], prepared.question.seed
    name = protocol['name']
    sessions = protocol['sessions']
    where = (f'{sessions["queries"]} in the map of {sessions["database"]}'
             if name == 'cross_drive' else sessions['queries'])
    page = Page(f'Place retrieval, {name}: {where}', headline(results))
    check = evaluation['split_check']
    if check['leaks'] or check['doubts']:
        page.findings([('LEAK', text) for text in check['leaks']]
                      + [('not ruled out', text) for text in check['doubts']])
    if name == 'cross_drive' and sessions['queries'] == sessions['database']:
        page.findings([('same drive', 'map and queries are of one drive: this is no test of '
                                      'coming back; see the protocols same_pass and revisit')])

    page.section('Recall', PROTOCOLS[name])
    columns = [Column('pairing, method')] + [Column(f'Recall@{k} [%]', scale=100.0) for k in KS]
    k1 = {r['at'][f'{POSITIVE_M:g}']['recall_1_percent']['k'] for r in results}
    columns.append(Column('Recall@1% [%]', scale=100.0))
    page.table(columns, recall_rows(results),
               f'Within {POSITIVE_M:g} m in the plane, with 95 % intervals. Recall@1%: '
               f'k = max(round(N / 100), 1) = {", ".join(map(str, sorted(k1)))}.')
    pairings = len(prepared.question.pairings)
    page.picture('recall', lambda figure: draw_recall(figure, judgements, seed),
                 (5.4 + 3.2 * (pairings - 1), 4.2),
                 'Recall over the number of places looked at. Bands: 95 % intervals by bootstrap '
                 'over blocks of the way.', 'Recall@k curves of the model, baseline and chance')
    page.section('By radius', 'The nearer a place must be, the fewer count as right, and the '
                 'fewer queries have one at all: those without are left out, and counted here.')
    page.table(
        [Column('pairing, method'), Column('within [m]', 0), Column('queries', 0),
         Column('excluded', 0), Column('Recall@1 [%]', scale=100.0),
         Column('chance [%]', scale=100.0), Column('Recall@5 [%]', scale=100.0),
         Column('Recall@20 [%]', scale=100.0)], radius_rows(results))

    page.section('Which score is good enough', 'An answer is accepted if its similarity reaches a '
                 'threshold. Queries that no place is near to count: accepting one is an error.')
    page.table(
        [Column('pairing, method'), Column('F1 max', 3), Column('at score', 3),
         Column('recall at 100 % precision [%]', scale=100.0), Column('from score', 3),
         Column('average precision', 3)],
        [(_label(r), *(_value(r['precision_recall'], key) for key in (
            'f1_max', 'f1_threshold', 'recall_at_100_percent_precision',
            'full_precision_threshold', 'average_precision'))) for r in results])
    page.picture('precision_recall', lambda figure: draw_precision_recall(figure, judgements),
                 (10.0, 4.4), 'Precision over recall as the threshold falls. Dots: the largest '
                 'F1.', 'Precision-recall curves')

    page.section('Where it is right')
    for judgement in (j for j in judgements if j.method == MODEL):
        stem, words = judgement.pairing, judgement.pairing.replace('-', ' to ')
        page.picture(f'answers-{stem}', partial(draw_answers, judgement=judgement),
                     (7.6, 6.4), f'First answers of the model, {words}, judged within '
                     f'{POSITIVE_M:g} m.', 'Map of right and wrong answers')
        chosen = examples(judgement)
        if chosen:
            query_of, place_of = shown_of(prepared, judgement, config)
            page.picture(
                f'queries-{stem}', partial(draw_examples, judgement=judgement, query_of=query_of,
                                           place_of=place_of), (10.0, 2.9 * len(chosen)),
                f'Queries chosen by rule, {words}: the right answer of middle score, the wrong '
                'one of the highest score, and the query whose right place stands furthest down. '
                'Submaps from above, red arrow: ahead; colour: height.',
                'Queries beside what was found')

    page.section('How this was measured')
    page.listed(statements(evaluation, config))
    return page


def headline(results: Sequence[dict[str, Any]]) -> str:
    """Return the page's first sentence: what was found, beside baseline and chance."""
    by_method = {r['method']: r for r in results if r['pairing'] == results[0]['pairing']}
    model = by_method[MODEL]['at'][f'{POSITIVE_M:g}']
    first = model['recall']['1']
    if first['recall'] is None:
        return (f'No query has a place of the database within {POSITIVE_M:g} m: there is nothing '
                'to judge.')
    text = (f'{results[0]["pairing"].replace("-", " to ").capitalize()}: the first of '
            f'{results[0]["database"]} places is right for {_percent(first)} of '
            f'{model["queries"]} queries')
    others = [f'{named(method)}: {_percent(r["at"][f"{POSITIVE_M:g}"]["recall"]["1"])}'
              for method, r in by_method.items() if method != MODEL]
    return text + '; ' + '; '.join([*others, f'chance: {100 * first["chance"]:.1f} %']) + '.'


def recall_rows(results: Sequence[dict[str, Any]]) -> list[list[Cell]]:
    """Return the rows of the first table: each method of each pairing, and chance below."""
    rows: list[list[Cell]] = []
    for result, after in itertools.zip_longest(results, results[1:]):
        at = result['at'][f'{POSITIVE_M:g}']
        entries = [*(at['recall'][str(k)] for k in KS), at['recall_1_percent']]
        rows.append([_label(result), *map(_interval, entries)])
        if after is None or after['pairing'] != result['pairing']:
            rows.append([f'{result["pairing"].replace("-", " to ")}, chance',
                         *(_nan(entry['chance']) for entry in entries)])
    return rows


def radius_rows(results: Sequence[dict[str, Any]]) -> list[list[Cell]]:
    """Return a row for each radius of each result."""
    return [[_label(result), float(radius), at['queries'], at['excluded'],
             _interval(at['recall']['1']), _nan(at['recall']['1']['chance']),
             _interval(at['recall']['5']), _interval(at['recall']['20'])]
            for result in results for radius, at in result['at'].items()]


def statements(evaluation: dict[str, Any], config: ModelConfig) -> list[str]:
    """Return all that must be known to compare the figures with others', one thing a line."""
    p, results, made = evaluation['protocol'], evaluation['results'], evaluation['provenance']
    asked = f'every {p["query_spacing_m"]:g} m' if p['query_spacing_m'] else (
        f'each image with a pose ({p["every"]} in {p["every"]})' if p['every'] > 1
        else 'each image with a pose')
    heading = ('not considered: a place is right whichever way it was driven past'
               if p['max_turn_deg'] is None else
               f'a place turned by more than {p["max_turn_deg"]:g} degrees is not right')
    lines = [
        f'Sessions: queries of {p["sessions"]["queries"]}'
        + (f' ({p["camera"]})' if p['camera'] else '')
        + f', database of {p["sessions"]["database"]}. Protocol: {p["name"]}'
        + (f', places over {p["older_s"]:g} s older' if p['older_s'] else '') + '.',
        f'Queries: {asked}. Places: every {p["spacing_m"]:g} m; '
        + '; '.join(f'{pairing}: {p["queries"][pairing]} queries, {p["database"][pairing]} places'
                    for pairing in p['pairings']) + '.',
        'Denominator: queries with at least one allowed place within the radius; the others are '
        'excluded and counted, by radius, in the table above.'
        + _skipped(results),
        'Distance: in the plane, between true poses; nothing is aligned. Radii: '
        + ', '.join(f'{r:g}' for r in p['radii_m']) + f' m, inclusive. Heading: {heading}.',
        f'Positives lie within {p["positive_m"]:g} m. Training ignores {p["ignored_m"][0]:g} to '
        f'{p["ignored_m"][1]:g} m; here an answer from there is wrong. With such places taken out '
        'of the order, Recall@1 is '
        + '; '.join(f'{_number(r["recall_ignoring_20_to_40_m"]["1"], 100, 1)} % ({_label(r)})'
                    for r in results) + '.',
        f'k: {", ".join(map(str, KS))} and 1 % of the places, max(round(N / 100), 1). Ranks are '
        'exact, over all places; of equal similarities the lower place number comes first.',
        *_verified_line(p),
        f'Intervals: {p["bootstrap"]["samples"]} bootstrap draws of {p["bootstrap"]["block_m"]:g} '
        f'm blocks of the way, 95 %, seed {p["bootstrap"]["seed"]}. Chance: the expectation of a '
        'random order of the same places.',
        'Latency of a query, describing it in batches of 16, and searching and ranking it: '
        + '; '.join(f'{_label(r)}: {_number(r["latency_ms"]["describe_a_query"], 1, 1)} and '
                    f'{_number(r["latency_ms"]["search_and_rank_a_query"], 1, 2)} ms'
                    for r in results) + '.',
        f'Model: {config.name}, encoder {made["model_hash"]}, preparation '
        f'{made["preprocessing_hash"]}; version {made["version"]}, commit {made["commit"]}.',
        _split_line(evaluation)]
    return lines


def _verified_line(protocol: dict[str, Any]) -> list[str]:
    if protocol['verified'] is None or VERIFIED_PAIRING not in protocol['pairings']:
        return []
    return [f'Verified: of {VERIFIED_PAIRING.replace("-", " to ")}, the first '
            f'{protocol["verified"]} places are compared with the query once more, as the '
            f'localizer does, and those behind them stay; {DESCRIPTOR}: the same without.']


def _split_line(evaluation: dict[str, Any]) -> str:
    check, split = evaluation['split_check'], evaluation['split']
    text = f'Split: {split["name"]} ({split["source"]}). ' if split else 'Split: none named. '
    if check['trained_on'] is None:
        return text + 'The model does not say what it was trained on.'
    distance = check['smallest_distance_m']
    return (text + f'Trained on {len(check["trained_on"])} drives, of which '
            f'{len(check["shared_drives"])} are tested; map frames shared: '
            f'{", ".join(check["shared_frames"]) or "none"}; smallest distance between a training '
            f'and a test place: ' + ('not measured, or no frame shared' if distance is None
                                     else f'{distance:.1f} m') + '.')


def _skipped(results: Sequence[dict[str, Any]]) -> str:
    parts = [f'{_label(r)}: {n} of the {side}' for r in results
             for side, n in r['not_described'].items() if n]
    return f' Could not be described: {"; ".join(parts)}.' if parts else ''


def shown_of(prepared: Prepared, judgement: Judgement, config: ModelConfig) -> tuple[Any, Any]:
    """Return what shows query i and place j of a judgement, for `draw_examples`."""
    def shower(side: Any, source: Entries | PlaceDatabase) -> Any:
        described = side.described
        store: SubmapStore | None = None
        if described.what == 'cloud' and isinstance(source, Entries):
            store = submaps_of_entries(source, config.submap)

        def show(i: int) -> tuple[str, NDArray[Any]]:
            number = int(described.numbers[i])
            if described.what == 'image':
                assert isinstance(source, Entries) and source.camera is not None
                return 'image', source.drive.image(source.camera, number)
            return 'cloud', np.asarray(source.cloud(number) if isinstance(source, PlaceDatabase)
                                       else store.points(number) if store else np.zeros((0, 3)))
        return show

    return (shower(judgement.queries, prepared.queries),
            shower(judgement.database, prepared.database))


def write_queries(path: Path, judgements: Sequence[Judgement]) -> None:
    """Write a line for each query of each judgement: where it was, what it got, at which rank."""
    with atomic_file(path) as temporary, temporary.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        radii = judgements[0].ranks.radii_m
        writer.writerow(['pairing', 'method', 'query', 'stamp_ns', 'x', 'y', 'block', 'answer',
                         'answer_error_m', 'score', *(f'rank_{r:g}m' for r in radii)])
        for j in judgements:
            for i in range(len(j.queries)):
                writer.writerow([
                    j.pairing, j.method, int(j.queries.described.numbers[i]),
                    int(j.queries.stamps_ns[i]), *(f'{v:.3f}' for v in j.query_xy[i]),
                    int(j.blocks[i]), int(j.ranks.answer[i]), f'{j.answer_error_m[i]:.3f}',
                    f'{j.ranks.score[i]:.6f}', *(int(r) for r in j.ranks.first[i])])


def retrieval_table(evaluation: dict[str, Any]) -> Table:
    """Return the recalls of an evaluation as a table to print; intervals are in the report."""
    table = Table(title=f'Recall within {POSITIVE_M:g} m, %', title_justify='left')
    table.add_column('pairing, method', style='bold', no_wrap=True)
    for name in (*(f'@{k}' for k in KS), '@1%'):
        table.add_column(name, justify='right')
    column = Column('', scale=100.0)
    for row in recall_rows(evaluation['results']):
        values = [cell.value if isinstance(cell, Interval) else cell for cell in row[1:]]
        table.add_row(str(row[0]), *map(column.text, values))
    return table


def _label(result: dict[str, Any]) -> str:
    return f'{result["pairing"].replace("-", " to ")}, {result["method"]}'


def _interval(entry: dict[str, Any]) -> Interval:
    return Interval(_nan(entry['recall']), *map(_nan, entry['interval']))


def _value(entry: dict[str, Any] | None, key: str) -> float:
    return math.nan if entry is None else _nan(entry[key])


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _number(value: float | None, scale: float, digits: int) -> str:
    return '–' if value is None else f'{scale * value:.{digits}f}'


def _percent(entry: dict[str, Any]) -> str:
    cell = Column('', scale=100.0).text(_interval(entry))
    value, _, rest = cell.partition(' ')
    return f'{value} % {rest}'.strip()
