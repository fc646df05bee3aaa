"""Pictures of what a calibration is worth: its probabilities, what they accept, its ellipses."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
import numpy as np
from scipy.special import erf

from .calibration_figures import AXES, Judged, RATE
from .fitting import Array, availability, Flags, reliability, risk_coverage

BELIEVED, MIXED, WRONG, RIGHT = 'C1', 'C3', 'C0', 'C2'
GREY = '#8a94a0'
LEAST_RATE = 1e-3
GROUPS, FEWEST = 12, 20  # of answers by predicted standard deviation, and answers in one


def draw_probabilities(figure: Figure, judged: Judged, outside: float) -> None:
    """Draw reliability diagrams over the counts of right and wrong answers by probability."""
    own = judged.of(judged.inside)
    panels: list[tuple[str, Array, Flags, Array]] = [
        ('images from inside the map', own.in_map, own.right, np.ones(len(own)))]
    if not judged.inside.all():
        panels.append((f'{100 * outside:g} % from elsewhere', judged.probability, judged.right,
                       judged.importance(outside)))
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=[3, 1])
    for column, (title, p, right, n) in zip(axes.T, panels, strict=True):
        _draw_reliability(column[0], p, right, n)
        column[0].set_title(title)
        bins = np.linspace(0.0, 1.0, 21)
        for flags, colour, name in ((right, RIGHT, 'right'), (~right, WRONG, 'wrong')):
            column[1].hist(p[flags], bins, weights=n[flags], histtype='stepfilled', alpha=0.35,
                           color=colour)
            column[1].hist(p[flags], bins, weights=n[flags], histtype='step', color=colour,
                           linewidth=1.6, label=name)
        column[1].set(xlabel='probability of being right', xlim=(0, 1), yscale='log',
                      ylim=(0.7, None))
        column[1].grid(alpha=0.4)
    axes[0, 0].set_ylabel('share that is right')
    axes[1, 0].set_ylabel('images')
    axes[1, 0].legend(loc='upper left', fontsize=9, ncols=2)


def _draw_reliability(axes: Any, p: Array, right: Flags, n: Array) -> None:
    mean, share, weight = reliability(p, right, n)
    count = weight * len(p) / weight.sum()
    low, high = wilson(share, count)
    axes.plot([0, 1], [0, 1], '--', color=GREY, label='honest')
    axes.errorbar(mean, share, [np.maximum(share - low, 0), np.maximum(high - share, 0)],
                  fmt='o-', color=BELIEVED, capsize=3, label=f'{len(p)} images in ten groups')
    axes.set(ylim=(-0.02, 1.03))
    axes.text(0.97, 0.05, 'overconfident', ha='right', color=GREY, transform=axes.transAxes)
    axes.text(0.03, 0.72, 'too careful', color=GREY, transform=axes.transAxes)
    axes.grid(alpha=0.4)
    axes.legend(loc='upper left', fontsize=9)


def wilson(share: Array, count: Array) -> tuple[Array, Array]:
    """Return the 95 % interval of shares of counts (Wilson, 1927)."""
    z2 = 1.96 ** 2
    middle = (share + z2 / (2.0 * count)) / (1.0 + z2 / count)
    half = np.sqrt(z2 * (share * (1.0 - share) / count + z2 / (4.0 * count ** 2))) / (
        1.0 + z2 / count)
    return middle - half, middle + half


def draw_acceptance(figure: Figure, judged: Judged, outside: float) -> None:
    """Draw false fixes over availability, and what passes each threshold."""
    left, right = figure.subplots(1, 2)
    own = judged.of(judged.inside)
    names = np.unique(own.site)
    if len(names) > 1:
        for i, name in enumerate(names):
            rows = own.of(own.site == name)
            _draw_risk(left, rows.in_map, rows.right, None, color=GREY, linewidth=0.8, alpha=0.8,
                       label='each site alone' if i == 0 else None)
    _draw_risk(left, own.in_map, own.right, None, color=BELIEVED, linewidth=2.2,
               label='images from inside the map')
    best, _ = availability(own.in_map, own.right, RATE)
    left.plot(100.0 * best, 100.0 * RATE, 'o', color=BELIEVED, markersize=8,
              label=f'{100 * RATE:g} % wrong: {100 * best:.0f} % accepted')
    if not judged.inside.all():
        n = judged.importance(outside)
        _draw_risk(left, judged.probability, judged.right, n, color=MIXED, linewidth=2.2,
                   label=f'with {100 * outside:g} % from elsewhere')
    passed = own.passed
    if passed.any():
        left.plot(100.0 * passed.mean(), max(100.0 * (~own.right[passed]).mean(),
                                             100.0 * LEAST_RATE),
                  'X', color=WRONG, markersize=9, label='by a threshold learned elsewhere')
    left.axhline(100.0 * RATE, color=GREY, linestyle=':')
    left.set(xlabel='accepted [%]', ylabel='wrong among accepted [%]', yscale='log',
             xlim=(0, 101), ylim=(100.0 * LEAST_RATE, 100.0), title='Accepting more or fewer')
    left.yaxis.set_major_formatter(lambda value, _: f'{value:g}')

    for which, colour, name in (
            (judged.right, RIGHT, 'right'), (judged.inside & ~judged.right, WRONG, 'wrong'),
            (~judged.inside, MIXED, 'from elsewhere')):
        p = np.sort(judged.probability[which])
        if len(p):
            # At a threshold t passes what is at least t.
            right.step(np.append(p, 1.0), 100.0 * (1.0 - np.arange(len(p) + 1) / len(p)),
                       where='pre', color=colour, linewidth=2.0, label=f'{name} ({len(p)})')
    right.set(xlabel='least probability of a fix', ylabel='accepted of these [%]', xlim=(0, 1),
              ylim=(0, 101), title='What passes a threshold')
    for axes in (left, right):
        axes.grid(alpha=0.4)
    left.legend(loc='upper left', fontsize=8.5)
    right.legend(loc='lower left', fontsize=9)


def _draw_risk(axes: Any, p: Array, right: Flags, n: Array | None, **style: Any) -> None:
    _, share, wrong = risk_coverage(p, right, n)
    axes.step(100.0 * share, 100.0 * np.maximum(wrong, LEAST_RATE / 2.0), where='post', **style)


def draw_covariances(figure: Figure, judged: Judged) -> None:
    """Draw what the ellipses hold against what they say, and errors by predicted deviation."""
    fixes = judged.of(judged.inside & judged.right)
    ratio = np.abs(fixes.error) / fixes.sigma
    left, right = figure.subplots(1, 2)
    reach = np.linspace(0.0, 3.5, 141)
    expected = 100.0 * erf(reach / np.sqrt(2.0))
    left.plot([0, 100], [0, 100], '--', color=GREY, label='honest')
    for i, name in enumerate(AXES):
        held = 100.0 * (ratio[:, i, None] <= reach).mean(0)
        left.plot(expected, held, color=f'C{i % 3}', label=name, linewidth=2.2 if i < 3 else 1.2,
                  linestyle='-' if i < 3 else ':')
    for k in (1, 2):
        left.axvline(100.0 * erf(k / np.sqrt(2.0)), color=GREY, linewidth=0.8)
        left.text(100.0 * erf(k / np.sqrt(2.0)) - 1.0, 3.0, f'{k}σ', ha='right', color=GREY)
    left.set(xlabel='share that the covariance says lies within [%]', aspect='equal',
             ylabel='share of the errors that does [%]', xlim=(0, 100), ylim=(0, 100.5),
             title='What the ellipses hold')
    left.legend(loc='upper left', fontsize=9, ncols=2)

    ends = []
    for i, (name, unit, scale) in enumerate((
            ('along', 'm', 1.0), ('across', 'm', 1.0), ('heading', '°', 180.0 / np.pi))):
        said, was = by_deviation(fixes.sigma[:, i] * scale, fixes.error[:, i] * scale)
        right.plot(said, was, 'o-', color=f'C{i}', label=f'{name} [{unit}]')
        ends += [*said, *was]
    span = [0.7 * min(ends), 1.4 * max(ends)]
    right.plot(span, span, '--', color=GREY)
    right.set(xscale='log', yscale='log', xlim=span, ylim=span, aspect='equal',
              xlabel='predicted standard deviation', ylabel='root mean square of the errors',
              title='Errors by predicted deviation')
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(lambda value, _: f'{value:g}')
    right.legend(loc='upper left', fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.4)


def by_deviation(sigma: Array, error: Array) -> tuple[Array, Array]:
    """Return root mean squares of sigma and of the error in equal steps of log sigma."""
    low, high = np.log(sigma.min()), np.log(sigma.max()) + 1e-9
    step = ((np.log(sigma) - low) / (high - low) * GROUPS).astype(np.int64)
    count = np.bincount(step, minlength=GROUPS)
    shown = count >= min(FEWEST, int(count.max()))
    said, was = (np.sqrt(np.bincount(step, values ** 2, GROUPS)[shown] / count[shown])
                 for values in (sigma, error))
    return said, np.maximum(was, 1e-6)
