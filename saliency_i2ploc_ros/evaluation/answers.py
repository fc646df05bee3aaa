"""Answers of the localizer as a run's records, and as the files that a run leaves."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
import tempfile
from typing import Any

import numpy as np

from ..errors import InputError
from ..localization.fix import Answer
from ..storage import atomic_file
from .summary import json_safe, NO_TRUTH, Record

# Of an answer's JSON what differs from run to run on the same images, or is of the whole run.
OF_THE_RUN = ('received', 'dropped', 'milliseconds', 'calibration')


def record_of_json(answer: dict[str, Any]) -> Record:
    """
    Return what an answer's JSON says of its image; the fix and the truth are left out.

    Its candidates are taken and not those of ~/candidates, of which one may replace another on
    the way. What is no answer raises some exception.
    """
    candidates = answer['candidates']
    estimate = answer.get('estimate') or {}
    return Record(
        stamp_ns=int(answer['stamp_ns']), rejection=answer['rejection'],
        candidates=np.array([c['position_m'] for c in candidates], np.float64).reshape(-1, 3),
        milliseconds={str(stage): float(ms) for stage, ms in answer['milliseconds'].items()},
        places=np.array([c['place'] for c in candidates], np.int64),
        estimate=np.array(estimate.get('position_m', [np.nan] * 3), np.float64).reshape(3),
        confidence=float(estimate.get('confidence', np.nan)), answer=answer_line(answer))


def record_of(
    answer: Answer, stamp_ns: int, truth: Any = NO_TRUTH, frame: int = -1,
    further: dict[str, Any] | None = None,
) -> Record:
    """
    Return the record of an answer that was given in this process; see `Record`.

    further: what `~/answer` would say beside the stamp and the answer.
    """
    said = {'stamp_ns': int(stamp_ns), **(further or {}), **answer.as_dict()}
    fix, estimate = answer.fix, answer.estimate
    return Record(
        stamp_ns=int(stamp_ns), T_map_base=None if fix is None else fix.T_map_base,
        covariance=None if fix is None else fix.covariance, rejection=answer.rejection,
        candidates=answer.candidates.T_map_base, milliseconds=answer.milliseconds,
        truth=np.array(truth), frame=frame, places=answer.candidates.indices,
        estimate=np.full(3, np.nan) if estimate is None else estimate.T_map_base[:3, 3],
        confidence=answer.confidence, answer=answer_line(said))


def answer_line(answer: dict[str, Any]) -> str:
    """Return an answer's JSON as one line, without what differs from run to run."""
    return json.dumps({key: value for key, value in answer.items() if key not in OF_THE_RUN})


class Spool:
    """
    Lines by stamp in a file without a name, so that an hour of answers is not in memory.

    folder: where the file is; it is made. The last line of a stamp counts.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)
        except OSError as error:
            raise InputError(f'cannot write into {folder}: {error.strerror}') from error
        self._places: dict[int, tuple[int, int]] = {}

    def __setitem__(self, stamp_ns: int, line: str) -> None:
        data = line.encode()
        self._places[stamp_ns] = self._file.seek(0, 2), len(data)
        self._file.write(data)

    def __getitem__(self, stamp_ns: int) -> str:
        start, length = self._places[stamp_ns]
        self._file.seek(start)
        return self._file.read(length).decode()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def write_answers(out: Path, records: Sequence[Record]) -> None:
    """
    Write answers.jsonl and times.jsonl into the folder `out`, a line for each record.

    answers.jsonl says what was answered, equal to the bit when a run is repeated; times.jsonl
    ({stamp_ns, milliseconds by stage}) how long it took.
    """
    times = [json.dumps({'stamp_ns': r.stamp_ns, 'milliseconds': json_safe(r.milliseconds)})
             for r in records]
    for name, lines in (('answers.jsonl', [r.answer for r in records if r.answer]),
                        ('times.jsonl', times)):
        with atomic_file(out / name) as temporary:
            temporary.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
