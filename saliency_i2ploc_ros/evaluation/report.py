"""What an evaluation leaves behind: summary.json, TUM files, pictures, and a table to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from pathlib import Path
import platform
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
import torch

from .. import __version__
from ..data.trajectories import write_tum
from ..localization.calibration import identity_of
from ..localization.hypotheses import SAME_HEADING_RAD
from ..localization.localizer import Localizer
from ..mapping.database import PlaceDatabase
from ..storage import commit, write_json
from .acceptance import acceptance
from .answers import write_answers
from .pictures import draw_errors, draw_overview
from .summary import Record, summarize
from .trust_pictures import draw_acceptance, draw_reliability, draw_worst
from .verdict import verdict_entry


def write_report(
    out: Path, records: Sequence[Record], database: PlaceDatabase,
    image_of: Callable[[Record], NDArray[np.uint8] | None], provenance: dict[str, Any],
    images_in: int | None = None, title: str = '', limits: dict[str, Any] | None = None,
    path_xy: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """
    Write a run's results into the folder `out` and return its summary.

    summary.json; answers.jsonl and times.jsonl (`write_answers`); fixes.tum (accepted fixes) and
    truth.tum (the images' true poses), both in the map frame with nine decimals and without
    alignment; overview.png; and where there is truth errors.png, acceptance.png, reliability.png
    and worst.png. image_of: returns a record's image (H, W, 3) RGB, None if it is not at hand.
    limits: thresholds of the verdict (see `verdict`). path_xy: (n, 2) the true path, to draw;
    None: that of the records. For the rest see `summarize`.
    """
    ordered = sorted(records, key=lambda record: record.stamp_ns)
    place_xy = database.T_map_base[:, :2, 3]
    summary = summarize(ordered, place_xy, provenance, images_in)
    summary['acceptance'] = acceptance(ordered, place_xy)
    summary['verdict'] = verdict_entry(summary, limits or {})
    write_answers(out, ordered)
    fixes = [(r.stamp_ns, r.T_map_base) for r in ordered if r.T_map_base is not None]
    truth = [(r.stamp_ns, r.truth) for r in ordered if r.has_truth]
    for name, poses in (('fixes.tum', fixes), ('truth.tum', truth)):
        write_tum(out / name, np.array([stamp for stamp, _ in poses], np.int64),
                  np.array([T for _, T in poses]).reshape(-1, 4, 4))
    draw_overview(out / 'overview.png', ordered, database, image_of, title, path_xy)
    _draw_trust(out, ordered, database, image_of, summary, title)
    write_json(out / 'summary.json', summary)
    return summary


def _draw_trust(
    out: Path, records: Sequence[Record], database: PlaceDatabase,
    image_of: Callable[[Record], NDArray[np.uint8] | None], summary: dict[str, Any], title: str,
) -> None:
    """Draw the pictures that the run has something to judge for; an earlier run's go."""
    judged = summary['errors']['fixes_judged'] > 0

    pictures: list[tuple[str, Any, Callable[[Path], None]]] = [
        ('errors.png', judged, lambda path: draw_errors(path, records, title)),
        ('acceptance.png', summary['acceptance'], lambda path: draw_acceptance(
            path, summary['acceptance'], title)),
        ('reliability.png', summary['calibration'], lambda path: draw_reliability(
            path, summary['calibration'], title)),
        ('worst.png', judged, lambda path: draw_worst(
            path, records, database, image_of, title)),
    ]
    for name, wanted, draw in pictures:
        if wanted:
            draw(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def provenance(localizer: Localizer, **given: Any) -> dict[str, Any]:
    """Return what made a run: versions, the command, model, map, settings, and what is given."""
    return {
        **versions(),
        'model_hash': localizer.model.encoder_hash, 'runtime': localizer.model.runtime,
        'device': localizer.model.device, 'precision': localizer.model.precision,
        'acceleration': localizer.model.acceleration,
        'database_identity': localizer.database.identity,
        'calibration': identity_of(localizer.calibration),
        'localizer': localizer.config.model_dump(),
        **given,
    }


def versions() -> dict[str, Any]:
    """Return what ran: the package's version and commit, the command, the libraries' versions."""
    return {
        'version': __version__,
        'commit': commit(),
        'command': sys.argv,
        'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__,
    }


def summary_table(summary: dict[str, Any], title: str = '') -> Table:
    """Return the figures of a summary as a table of two columns, to print."""
    table = Table(title=title or None, show_header=False, title_justify='left')
    table.add_column(style='bold')
    table.add_column(justify='right')
    coverage, errors = summary['coverage'], summary['errors']
    table.add_row('images in / attempted / dropped',
                  f'{coverage["images_in"]} / {coverage["attempted"]} / {coverage["dropped"]}')
    table.add_row('fixes', _with_share(coverage['accepted'], coverage['attempted']))
    reasons = ', '.join(f'{n} {why}' for why, n in coverage['rejected_by_reason'].items())
    table.add_row('rejected', f'{coverage["rejected"]}' + (f' ({reasons})' if reasons else ''))
    table.add_row('longest time without a fix', _unit(coverage['longest_gap_s'], 's', 1))
    if coverage['first_correct_s'] is not None:
        table.add_row('first fix within 20 m after',
                      f'{coverage["first_correct_s"]:.1f} s, {coverage["first_correct_m"]:.0f} m')
    table.add_section()
    if coverage['without_truth'] == coverage['attempted']:
        table.add_row('errors, recall', 'not judged: the images have no true poses')
    elif errors['position_m'] is not None:
        for name, key, unit in (('position error', 'position_m', 'm'),
                                ('heading error', 'yaw_deg', 'deg')):
            e = errors[key]
            table.add_row(f'{name}, median / p95 / max',
                          f'{e["median"]:.1f} / {e["p95"]:.1f} / {e["max"]:.1f} {unit}')
        table.add_row('fixes wrong by more than 20 m', _percent(errors['false_accept_rate']))
        table.add_row('fixes that look the wrong way '
                      f'(over {math.degrees(SAME_HEADING_RAD):g} degrees)',
                      _percent(errors['wrong_way_rate']))
    if summary['recall'] is not None:
        recall = summary['recall']
        rows = {f'Recall@{k}': entry for k, entry in recall['at'].items()}
        rows[f'Recall@1% (k = {recall["at_1_percent"]["k"]})'] = recall['at_1_percent']
        for name, entry in rows.items():
            table.add_row(f'{name} at {recall["radius_m"]:g} m, chance',
                          f'{_percent(entry["recall"])}, {_percent(entry["chance"])}')
        table.add_row('queries, excluded (no place within 20 m)',
                      f'{recall["queries"]}, {recall["excluded"]}')
    if summary['calibration'] is not None:
        within = summary['calibration']['within_1_2_3_sigma']
        for axis in ('x', 'y', 'yaw'):
            table.add_row(f'within 1 / 2 / 3 sigma, {axis} (68 / 95 / 100 %)',
                          ' / '.join(f'{100 * share:.0f}' for share in within[axis]) + ' %')
        table.add_row('ANEES of position (1 is honest)',
                      f'{summary["calibration"]["anees_xy"]:.2f}')
    chosen = (summary.get('acceptance') or {}).get('chosen')
    if chosen is not None:
        table.add_row('accepted: precision / recall',
                      f'{_percent(chosen["precision"])} / {_percent(chosen["recall"])}')
        most = summary['acceptance']['over_thresholds']['availability_at']
        table.add_row('images with a fix at '
                      + ' / '.join(f'{100 * float(rate):g} %' for rate in most)
                      + ' wrong,\nby the best threshold, chosen on these images',
                      ' / '.join(_percent(share) for share in most.values()))
        runs = summary['acceptance']['false_runs']
        if runs['count']:
            table.add_row('runs of wrong fixes, longest',
                          f'{runs["count"]}, {runs["longest_fixes"]} fixes, '
                          f'{runs["longest_m"]:.0f} m, {runs["longest_s"]:.1f} s')
    if summary['latency_ms']:
        table.add_section()
    for stage, ms in summary['latency_ms'].items():
        table.add_row(f'{stage}, p50 / p95 / p99',
                      ' / '.join(f'{ms[q]:.1f}' for q in ('p50', 'p95', 'p99')) + ' ms')
    return table


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f} %'


def _unit(value: float | None, unit: str, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f} {unit}'


def _with_share(count: int, of: int) -> str:
    return f'{count} ({_percent(count / of)})' if of else str(count)
