"""Whether a run passed: its figures against thresholds."""

from __future__ import annotations

from typing import Any

FAILED = 2  # exit code where a threshold is missed


def verdict(summary: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """
    Return a sentence for each threshold that a run missed; what is unknown misses it too.

    limits: min_images, min_accepted_share, min_recall_at_1, max_false_accept_rate; absent ones,
    shares of at least 0 and rates of at most 1 ask for nothing. A false accept is over 20 m off;
    where a fix looks is not judged.
    """
    coverage, recall = summary['coverage'], summary['recall']
    attempted, wanted = coverage['attempted'], limits.get('min_images', 0)
    share = coverage['accepted'] / attempted if attempted else None
    at_1 = recall['at']['1']['recall'] if recall else None
    false_accepts = summary['errors']['false_accept_rate']
    failures = []
    if attempted < wanted:
        failures.append(f'{attempted} images answered, at least {wanted} wanted')
    for name, value, low in (
            ('accepted share', share, limits.get('min_accepted_share', 0.0)),
            ('recall at 1', at_1, limits.get('min_recall_at_1', 0.0))):
        if low > 0.0 and (value is None or value < low):
            failures.append(f'{name} is {_figure(value)}, at least {low:g} wanted')
    high = limits.get('max_false_accept_rate', 1.0)
    if high < 1.0 and (false_accepts is None or false_accepts > high):
        failures.append(f'false accept rate is {_figure(false_accepts)}, at most {high:g} wanted')
    return failures


def verdict_entry(summary: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Return what summary.json says of the verdict."""
    failures = verdict(summary, limits)
    return {'passed': not failures, 'failures': failures,
            'exit_code': FAILED if failures else 0}


def _figure(value: float | None) -> str:
    return 'unknown' if value is None else f'{value:.3f}'
