"""
What /diagnostics says: four tasks, whose keys and conditions stand in `KEYS`.

The README's table comes from it, and a test compares its keys with what is published.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# task, key, meaning, WARN when, ERROR when ('' is: never; OK is all the rest).
KEYS: tuple[tuple[str, str, str, str, str], ...] = (
    ('status', 'state', 'state of the lifecycle', 'not active', 'configuring failed'),
    ('status', 'enabled', 'whether images are answered (~/enable)', 'false', ''),
    ('status', 'accepted', 'fixes since activation', '', ''),
    ('status', 'rejected', 'rejections since activation', '', ''),
    ('status', 'rejected_by_reason', 'the same by reason',
     'the last image could not be used: no_camera_info, bad_image, frozen, '
     'incomplete_set or no_odometry',
     'the same: no_extrinsics, bad_camera or failed'),
    ('status', 'last_score', 'score of the last best candidate', '', ''),
    ('status', 'probability', 'what acceptance of the last answer went by: its probability, or '
     'of a sequence the belief at its mode', '', ''),
    ('status', 'outside_share', 'of a sequence, the belief that the vehicle is outside the map',
     '', ''),
    ('status', 'last_fix_age_s', 'time since the last fix came out',
     'above 10 s, or none yet, while images come', ''),
    ('status', 'publish_tf', 'what fixes become on /tf',
     'map_to_odom: no odometry of the time of the last fix', ''),
    ('status', 'error', 'the last thing that went wrong', '', 'not empty'),
    ('input', 'rate_hz', 'images (of several cameras, moments) received a second, over the last '
     '20', '', ''),
    ('input', 'last_image_age_s', 'time since the last one arrived', 'above input_timeout_s', ''),
    ('input', 'cameras', 'of several, the rate of each', 'one silent for input_timeout_s', ''),
    ('input', 'left_out', 'of several, those without which the last moment was answered, and why',
     'any', ''),
    ('input', 'stamp_delay_s', 'from the stamp of the last image to its arrival',
     'above 1 s or below -0.1 s: use_sim_time, or clocks that differ', ''),
    ('input', 'encoding', 'encoding or format of the last image', '', ''),
    ('input', 'received', 'images received', '', ''),
    ('input', 'dropped', 'images replaced by a newer one before their turn; of several cameras, '
     'also those too late for theirs', '', ''),
    ('input', 'out_of_order', 'images not after the one before', 'any', ''),
    ('input', 'qos_mismatches', 'publishers whose QoS does not fit', 'any', ''),
    ('input', 'clock_jumps', 'times that the clock or the stamps went back', '', ''),
    ('inference', 'decode_ms_p50_p95', 'message to RGB, last 100 images', '', ''),
    ('inference', 'prepare_ms_p50_p95', "RGB to the model's input", '', ''),
    ('inference', 'encode_ms_p50_p95', 'the model', '', ''),
    ('inference', 'search_ms_p50_p95', 'the database', '', ''),
    ('inference', 'verify_ms_p50_p95', 'the places found compared once more', '', ''),
    ('inference', 'total_ms_p50_p95', 'arrival in the thread to publication',
     'p95 above 1000 ms', ''),
    ('inference', 'device', 'where the model runs', '', ''),
    ('inference', 'precision', 'in which it runs', 'not the one that was asked for', ''),
    ('inference', 'acceleration', 'with which it runs', 'not the one that was asked for', ''),
    ('inference', 'memory_mib', 'peak of the process, or held on the CUDA device', '', ''),
    ('database', 'path', 'folder of the place database', 'none is loaded', ''),
    ('database', 'identity', 'hash of its schema', '', ''),
    ('database', 'places', 'entries', '', ''),
    ('database', 'dimension', 'numbers of a descriptor', '', ''),
    ('database', 'spacing_m', 'distance between places', '', ''),
)
TASKS = ('status', 'input', 'inference', 'database')
# Rejections of images that could not be used, and how bad that is.
REFUSALS = {'no_camera_info': WARN, 'bad_image': WARN, 'frozen': WARN, 'incomplete_set': WARN,
            'no_odometry': WARN,
            'no_extrinsics': ERROR, 'bad_camera': ERROR, 'failed': ERROR}
STAGES = ('decode', 'prepare', 'encode', 'search', 'verify', 'total')
LATE_FIX_S, SLOW_MS, DELAY_S = 10.0, 1000.0, (-0.1, 1.0)


@dataclass
class Health:
    """
    What the node knows about itself; times are of a steady clock, in seconds.

    lock: held while the past is forgotten (in the inference thread, where stamps have jumped), an
    answer is counted, or all of it is read (in the executor's thread).
    """

    state: str = 'unconfigured'
    enabled: bool = True
    error: str = ''
    accepted: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    last_reason: str = ''
    last_score: float = float('nan')
    probability: float = float('nan')
    outside_share: float = float('nan')
    last_fix_at: float | None = None
    arrivals: deque[float] = field(default_factory=lambda: Health.new_window())
    cameras: dict[str, deque[float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    publish_tf: str = ''
    tf_trouble: str = ''
    stamp_delay_s: float = float('nan')
    encoding: str = ''
    received: int = 0
    dropped: int = 0
    qos_mismatches: int = 0
    clock_jumps: int = 0
    stage_ms: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=100) for stage in STAGES})
    device: str = ''
    precision: str = ''
    acceleration: str = ''
    notes: tuple[str, ...] = ()
    memory_mib: float = float('nan')
    database: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @staticmethod
    def new_window() -> deque[float]:
        """Return the window of arrivals of which a rate is the mean."""
        return deque(maxlen=20)

    def arrived(self, camera: str, now: float) -> None:
        """Count an image of one of several cameras."""
        with self.lock:
            self.cameras[camera].append(now)

    def answered(self, reason: str | None, score: float, milliseconds: dict[str, float],
                 now: float, probability: float = float('nan'),
                 outside_share: float = float('nan')) -> None:
        """Count an answer. reason: None for a fix. What is not known is NaN."""
        with self.lock:
            self.last_reason, self.last_score = reason or '', score
            self.probability, self.outside_share = probability, outside_share
            if reason is None:
                self.accepted += 1
                self.last_fix_at = now
            else:
                self.rejections[reason] += 1
            for stage, window in self.stage_ms.items():
                if milliseconds.get(stage, 0.0) > 0.0:
                    window.append(milliseconds[stage])

    def reset(self) -> None:
        """Forget the past, as after a jump of the clock; counters stay."""
        with self.lock:
            self.last_fix_at, self.last_score, self.last_reason = None, float('nan'), ''
            self.stamp_delay_s = self.probability = self.outside_share = float('nan')
            self.left_out, self.tf_trouble = {}, ''
            self.arrivals.clear()
            for window in self.cameras.values():
                window.clear()
            for window in self.stage_ms.values():
                window.clear()

    def last_arrival_at(self) -> float | None:
        """Return when the last image arrived, None if none has since `reset`."""
        with self.lock:
            return self.arrivals[-1] if self.arrivals else None


def diagnostic_array(node: str, health: Health, now: float, input_timeout_s: float,
                     stamp: Any) -> DiagnosticArray:
    """Return the four tasks as one message. now: of the steady clock. stamp: of the header."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    with health.lock:
        found = (_status(health, now), _input(health, now, input_timeout_s),
                 _inference(health), _database(health))
    for task, (level, summary, pairs) in zip(TASKS, found, strict=True):
        message.status.append(DiagnosticStatus(
            level=level, name=f'{node}: {task}', message=summary, hardware_id=node,
            values=[KeyValue(key=key, value=_text(value)) for key, value in pairs.items()]))
    return message


Task = tuple[bytes, str, dict[str, Any]]


def _status(health: Health, now: float) -> Task:
    age = None if health.last_fix_at is None else now - health.last_fix_at
    pairs = {
        'state': health.state, 'enabled': health.enabled, 'accepted': health.accepted,
        'rejected': sum(health.rejections.values()),
        'rejected_by_reason': ', '.join(
            f'{reason} {n}' for reason, n in sorted(dict(health.rejections).items())),
        'last_score': health.last_score, 'probability': health.probability,
        'outside_share': health.outside_share, 'last_fix_age_s': age,
        'publish_tf': health.publish_tf, 'error': health.error,
    }
    if health.error:
        return ERROR, health.error, pairs
    if health.last_reason in REFUSALS:
        return (REFUSALS[health.last_reason],
                f'the last image could not be used: {health.last_reason}', pairs)
    if health.state != 'active':
        return WARN, health.state, pairs
    if not health.enabled:
        return WARN, 'disabled', pairs
    if health.arrivals and (age is None or age > LATE_FIX_S):
        return WARN, 'no fix' if age is None else f'no fix for {age:.0f} s', pairs
    if health.tf_trouble:
        return WARN, health.tf_trouble, pairs
    return OK, 'localized' if age is not None else 'waiting for images', pairs


def _input(health: Health, now: float, timeout_s: float) -> Task:
    times = health.arrivals
    age = now - times[-1] if times else None
    several = {name: window for name, window in health.cameras.items() if name}
    pairs = {
        'rate_hz': _rate(times), 'last_image_age_s': age,
        'cameras': ', '.join(f'{name} {_text(_rate(window)) or "no"} Hz'
                             for name, window in several.items()),
        'left_out': ', '.join(f'{name}: {why}' for name, why in health.left_out.items()),
        'stamp_delay_s': health.stamp_delay_s, 'encoding': health.encoding,
        'received': health.received, 'dropped': health.dropped,
        'out_of_order': health.rejections['out_of_order'], 'qos_mismatches': health.qos_mismatches,
        'clock_jumps': health.clock_jumps,
    }
    if health.qos_mismatches:
        return WARN, "a publisher's QoS does not fit: its images do not arrive", pairs
    if health.state == 'active' and (age is None or age > timeout_s):
        return WARN, 'no images', pairs
    silent = [name for name, window in several.items()
              if not window or now - window[-1] > timeout_s]
    if health.state == 'active' and silent:
        return WARN, f'no images of {", ".join(silent)}', pairs
    if health.left_out:
        return WARN, f'answered without {", ".join(health.left_out)}', pairs
    if health.rejections['out_of_order']:
        return WARN, 'images out of order', pairs
    if not np.isnan(health.stamp_delay_s) \
            and not DELAY_S[0] <= health.stamp_delay_s <= DELAY_S[1]:
        return WARN, 'stamps far from the clock: use_sim_time?', pairs
    return OK, 'images arrive' if times else 'no images', pairs


def _rate(times: deque[float]) -> float | None:
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    return (len(times) - 1) / span if span > 0.0 else None


def _inference(health: Health) -> Task:
    pairs: dict[str, Any] = {}
    for stage, window in health.stage_ms.items():
        p = np.percentile(list(window), [50, 95]) if window else None
        pairs[f'{stage}_ms_p50_p95'] = '' if p is None else f'{p[0]:.1f} {p[1]:.1f}'
    pairs |= {'device': health.device, 'precision': health.precision,
              'acceleration': health.acceleration, 'memory_mib': health.memory_mib}
    total = list(health.stage_ms['total'])
    if health.notes:
        return WARN, health.notes[0], pairs
    if total and np.percentile(total, 95) > SLOW_MS:
        return WARN, f'slow: over {SLOW_MS:g} ms', pairs
    return OK, f'{np.median(total):.0f} ms' if total else 'nothing yet', pairs


def _database(health: Health) -> Task:
    pairs = {key: health.database.get(key)
             for task, key, *_ in KEYS if task == 'database'}
    if not health.database:
        return WARN, 'none loaded', pairs
    return OK, f'{health.database["places"]} places', pairs


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ''
    if isinstance(value, bool):
        return str(value).lower()
    return f'{value:.3f}' if isinstance(value, float) else str(value)


def markdown() -> str:
    """Return the keys and their conditions as the README shows them."""
    rows = ['| task | key | meaning | WARN | ERROR |', '| --- | --- | --- | --- | --- |']
    rows += [f'| {task} | `{key}` | {meaning} | {warn} | {error} |'
             for task, key, meaning, warn, error in KEYS]
    return '\n'.join(rows) + '\n'
