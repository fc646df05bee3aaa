"""Two runs over the same images held against each other: what differs, by how much, and why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..errors import InputError
from ..geometry.poses import wrap
from ..localization.hypotheses import LocalizerConfig
from ..storage import read_json
from .answers import OF_THE_RUN
from .summary import json_safe, latency, Record

Answers = dict[int, dict[str, Any]]
# Of a summary's provenance, and of its parameters: what the answers depend on.
CAUSES = ('model_hash', 'database_identity', 'calibration', 'commit', 'torch', 'numpy')
PARAMETERS = (*LocalizerConfig.model_fields, 'runtime', 'device', 'precision', 'acceleration',
              'threads', 'cameras', 'camera_slop_s', 'camera_wait_s', 'camera_frame',
              'camera_extrinsics', 'image_is_rectified', 'sequence', 'sequence_min_probability',
              'prior_share', 'odometry', 'odom_frame')


def read_answers(folder: Path) -> Answers:
    """Return the answers of a run by stamp; a folder that no run left is an InputError."""
    path = Path(folder) / 'answers.jsonl'
    try:
        lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
        return {int(line['stamp_ns']): {key: value for key, value in line.items()
                                        if key not in OF_THE_RUN} for line in lines}
    except OSError as error:
        raise InputError(f'cannot read {path} ({error.strerror}): give the folder that the '
                         'evaluator or `i2ploc evaluate-bag` wrote') from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{path} is not a file of answers ({error}): make the run again') \
            from error


def compare(live: Path, offline: Path) -> dict[str, Any]:
    """
    Return how the answers in the folder `live` differ from those in `offline`, JSON-safe.

    images: by whom they were answered. equal_to_the_bit: answers of which every number is the
    same. largest_difference: over images that both gave a fix. causes: what made the runs and is
    not the same in both.
    """
    first, second = read_answers(live), read_answers(offline)
    both = sorted(first.keys() & second.keys())
    pairs = [(first[stamp], second[stamp]) for stamp in both]
    decisions = [(a['rejection'], b['rejection']) for a, b in pairs]
    summaries = [read_json(Path(folder) / 'summary.json') for folder in (live, offline)]
    found: dict[str, Any] = json_safe({
        'live': str(live), 'offline': str(offline),
        'images': {'both': len(both), 'only_live': len(first.keys() - second.keys()),
                   'only_offline': len(second.keys() - first.keys())},
        'equal_to_the_bit': sum(a == b for a, b in pairs),
        'same_fix_or_reason': sum(
            a['rejection'] == b['rejection'] and a['fix'] == b['fix'] for a, b in pairs),
        'fix_only_live': sum(a is None and b is not None for a, b in decisions),
        'fix_only_offline': sum(b is None and a is not None for a, b in decisions),
        'other_reason': sum(a is not None and b is not None and a != b for a, b in decisions),
        'largest_difference': _largest(pairs),
        'coverage': {name: summary['coverage'] for name, summary
                     in zip(('live', 'offline'), summaries, strict=True)},
        'latency_ms': {'live': _latency(live), 'offline': _latency(offline)},
        'causes': causes(*(summary['provenance'] for summary in summaries)),
    })
    return found


def _largest(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
    fixes = [(a['fix'], b['fix']) for a, b in pairs if a['fix'] and b['fix']]
    largest = {'fixes': len(fixes), 'position_m': 0.0, 'yaw_deg': 0.0, 'score': 0.0}
    for a, b in fixes:
        apart = float(np.linalg.norm(np.subtract(a['position_m'], b['position_m'])))
        turned = abs(math.degrees(wrap(math.radians(a['yaw_deg'] - b['yaw_deg']))))
        for key, value in (('position_m', apart), ('yaw_deg', turned),
                           ('score', abs(a['score'] - b['score']))):
            largest[key] = max(largest[key], value)
    return largest


def _latency(folder: Path) -> dict[str, dict[str, float]]:
    path = Path(folder) / 'times.jsonl'
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    return latency([Record(line['stamp_ns'], milliseconds=line['milliseconds'])
                    for line in lines])


def causes(live: dict[str, Any], offline: dict[str, Any]) -> list[str]:
    """Return a line for each thing that makes answers and differs between two provenances."""
    found = [f'{key}: {live[key]} live, {offline[key]} offline' for key in CAUSES
             if key in live and key in offline and live[key] != offline[key]]
    settings = live.get('localizer') or {}, offline.get('localizer') or {}
    return found + [f'parameter {key}: {settings[0][key]} live, {settings[1][key]} offline'
                    for key in PARAMETERS if key in settings[0] and key in settings[1]
                    and settings[0][key] != settings[1][key]]


def comparison_table(found: dict[str, Any]) -> Table:
    """Return a comparison as a table to print."""
    table = Table(title='live against offline', show_header=False, title_justify='left')
    table.add_column(style='bold')
    table.add_column(justify='right')
    images, largest = found['images'], found['largest_difference']
    table.add_row('images answered by both', str(images['both']))
    table.add_row('only live / only offline',
                  f'{images["only_live"]} / {images["only_offline"]}')
    table.add_row('answers equal to the bit', str(found['equal_to_the_bit']))
    table.add_row('same fix, or same reason for none', str(found['same_fix_or_reason']))
    table.add_row('fix only live / only offline',
                  f'{found["fix_only_live"]} / {found["fix_only_offline"]}')
    table.add_row(f'largest difference of {largest["fixes"]} fixes',
                  f'{largest["position_m"]:.3g} m, {largest["yaw_deg"]:.3g} deg')
    table.add_row('dropped, live / offline', ' / '.join(
        str(found['coverage'][run]['dropped']) for run in ('live', 'offline')))
    totals = [found['latency_ms'][run].get('total') for run in ('live', 'offline')]
    if all(totals):
        table.add_row('total p50 / p95 / p99, live', _times(totals[0]))
        table.add_row('total p50 / p95 / p99, offline', _times(totals[1]))
    for cause in found['causes']:
        table.add_row('not the same', cause)
    return table


def _times(ms: dict[str, float]) -> str:
    return ' / '.join(f'{ms[q]:.1f}' for q in ('p50', 'p95', 'p99')) + ' ms'
