"""The report on a calibration: computed findings, tables with intervals, pictures."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..localization.calibration import Calibration, EVIDENCE
from ..storage import write_json
from .calibrating import RADIUS_M, SAME_HEADING_RAD
from .calibration_figures import (
    anees_band,
    AXES,
    expected_ece,
    Judged,
    measures,
    RATE,
    RATES,
    SIGMAS,
    THRESHOLDS,
    with_intervals,
)
from .calibration_pictures import draw_acceptance, draw_covariances, draw_probabilities
from .page import Cell, Column, Interval, NOT_SHOWN, Page, SHOWN
from .saliency_report import FEW_BLOCKS
from .summary import json_safe

Values = dict[str, Interval]
PERCENT = Column('', 1, 100.0)
THREE = Column('', 3)


def write_calibration_report(
    out: Path, calibration: Calibration, judged: Judged | str, outside: float,
    protocol: Sequence[str], warnings: Sequence[tuple[str, str]], provenance: dict[str, Any],
) -> dict[str, Any]:
    """
    Write summary.json, report.md and report.html into `out`; return the summary.

    judged: the images, or why none could be judged by what it did not teach. protocol: what was
    done; warnings: (word, text) for the head of the page.
    """
    page = Page('How far a fix can be trusted',
                'A probability that a fix is right, and a covariance of those that are: learned '
                'on some drives, tried on others, so that a threshold can be chosen knowing what '
                'it lets through.')
    if warnings:
        page.findings(warnings)
    summary: dict[str, Any] = {
        'outside': outside, 'radius_m': RADIUS_M,
        'calibration': calibration.model_dump(mode='json'), 'provenance': provenance,
        'protocol': [*protocol], 'warnings': [text for _, text in warnings]}
    if isinstance(judged, str):
        page.section('Not judged', f'No figure can be given: {judged}.')
    else:
        summary |= _add_figures(page, judged, outside)
    page.section('What was learned', *_learned(calibration))
    page.section('How it was done', *protocol)
    page.section('What it does not show')
    page.listed(_limits(judged, calibration))
    out.mkdir(parents=True, exist_ok=True)
    page.write(out)
    safe: dict[str, Any] = json_safe(summary)
    write_json(out / 'summary.json', safe)
    return safe


def _add_figures(page: Page, judged: Judged, outside: float) -> dict[str, Any]:
    found = with_intervals(judged, outside)
    band, honest = anees_band(judged), expected_ece(judged)
    page.section('What it shows')
    page.findings(_findings(found, (band.low, band.high), honest))
    page.text('“Shown”: beyond what chance does to honest figures; whether it is large is for the '
              'reader. Intervals: 95 %, by bootstrap over blocks of 50 m of the way.')
    _add_probability(page, judged, found, outside, honest)
    _add_acceptance(page, judged, found, outside)
    _add_covariance(page, judged, found, (band.low, band.high, band.effective))
    sites = _add_sites(page, judged, outside)
    return {
        'figures': {name: vars(value) for name, value in found.items()},
        'expected_ece_of_honest': {'mean': honest[0], 'quantile_0.975': honest[1]},
        'anees_band': vars(band), 'sites': sites,
        'images': {'inside': int(judged.inside.sum()), 'elsewhere': int((~judged.inside).sum())}}


def _findings(
    found: Values, band: tuple[float, float], honest: tuple[float, float],
) -> list[tuple[str, str]]:
    ece, anees, opened = found['ece'], found['right_anees'], found['open_auroc']
    worse = ece.value > honest[1]
    items = [(
        SHOWN if worse else NOT_SHOWN,
        f'The probabilities are off: ECE {THREE.text(ece)}, where honest ones of as many '
        f'independent images have {honest[0]:.3f}, and at most {honest[1]:.3f} in 97.5 %.')]
    what = 'too small' if anees.value > 1.0 else 'too large'
    # The band is of Gaussian errors; the interval knows of their tails.
    off = not band[0] <= anees.value <= band[1] and anees.excludes(1.0)
    items.append((
        SHOWN if off else NOT_SHOWN,
        f'The covariances are {what}: ANEES {Column("", 2).text(anees)}, honest Gaussian ones '
        f'{band[0]:.2f} to {band[1]:.2f}.'))
    if math.isfinite(opened.value):
        inside, away = (PERCENT.text(found[f'at_0.9_{name}']) for name in (
            'accepted', 'elsewhere'))
        items.append((
            SHOWN if opened.low > 0.5 else NOT_SHOWN,
            'Images from elsewhere are believed less than those from inside the map: AUROC '
            f'{THREE.text(opened)}; at a probability of 0.9, {inside} % of those from inside and '
            f'{away} % of those from elsewhere would be accepted.'))
    return items


def _add_probability(
    page: Page, judged: Judged, found: Values, outside: float, honest: tuple[float, float],
) -> None:
    mixed = not judged.inside.all()
    page.section('Probability', 'Of answers that were given the same probability, as large a '
                 'share should be right.')
    page.picture(
        'probabilities', lambda f: draw_probabilities(f, judged, outside),
        (10.5 if mixed else 6.0, 6.0),
        'Above: share that is right in ten groups of equal size; bars are 95 % intervals as if '
        'images were independent, so too short. Below: how many images got which probability. '
        'Right: a fix within '
        f'{RADIUS_M:g} m that looks the right way ({math.degrees(SAME_HEADING_RAD):g} degrees).',
        'Reliability diagrams')
    rows: list[list[Cell]] = [['from inside the map', found['brier'], found['ece']]]
    if mixed:
        rows.append([f'{100 * outside:g} % from elsewhere', found['mixed_brier'],
                     found['mixed_ece']])
    page.table(
        [Column('images'), Column('Brier', 4), Column('ECE', 3)], rows,
        f'{found["right"].value:.1%} of the answers inside the map are right. ECE is never 0: '
        f'honest probabilities of as many images have {honest[0]:.3f}, and its interval lies '
        'above its value for the same reason.')
    tells: list[list[Cell]] = [['right from wrong, inside the map', found['auroc']]]
    if mixed:
        tells += [['inside from elsewhere', found['open_auroc']],
                  ['right from elsewhere, by what acceptance goes by', found['open_auroc_right']]]
    page.table([Column('told apart'), Column('AUROC', 3)], tells,
               'The chance that one of the first is believed more than one of the second.')


def _add_acceptance(page: Page, judged: Judged, found: Values, outside: float) -> None:
    mixed = not judged.inside.all()
    page.section('Acceptance', 'A fix is accepted if its probability is high enough. Accepting '
                 'fewer leaves fewer wrong ones among them.')
    page.picture(
        'acceptance', lambda f: draw_acceptance(f, judged, outside), (11.0, 4.8),
        'Left: wrong among accepted over the share accepted, from the highest threshold to none; '
        'the cross is what a threshold does that was chosen elsewhere, as a user would. Below '
        '0.1 % lies on the edge. Right: what passes each threshold.',
        'False-fix rate over availability, and acceptance by threshold')
    columns = [Column('wrong among accepted, at most'), Column('accepted, %', 1, 100.0)]
    if mixed:
        columns.append(Column(f'with {100 * outside:g} % from elsewhere, %', 1, 100.0))
    page.table(columns, [
        [f'{100 * rate:g} %', found[f'availability_{rate:g}'],
         *([found[f'mixed_availability_{rate:g}']] if mixed else [])] for rate in RATES],
        'The largest share of the images that can be accepted, by the best threshold for these '
        'images, which nobody knows beforehand.')
    columns = [Column('least probability'), Column('accepted, %', 1, 100.0),
               Column('of these wrong, %', 1, 100.0)]
    if mixed:
        columns += [Column('wrong with those from elsewhere, %', 1, 100.0),
                    Column('accepted of those from elsewhere, %', 1, 100.0)]
    names = [(f'{t:g}', f'at_{t:g}') for t in THRESHOLDS]
    names.append((f'as others needed for {100 * RATE:g} %', 'passed'))
    page.table(columns, [
        [label, found[f'{name}_accepted'], found[f'{name}_false'],
         *([found[f'{name}_mixed_false'], found[f'{name}_elsewhere']] if mixed else [])]
        for label, name in names],
        f'Last row: for each site, the threshold at which at most {100 * RATE:g} % were wrong '
        'on the sites that taught it.')


def _add_covariance(
    page: Page, judged: Judged, found: Values, band: tuple[float, float, float],
) -> None:
    page.section('Covariance', 'Of fixes that are right; a wrong one is the business of the '
                 'probability, and its ellipse says nothing.')
    page.picture(
        'covariances', lambda f: draw_covariances(f, judged), (10.5, 5.5),
        'Left: below the diagonal the ellipses are too small. Dotted: the same about the axes of '
        'the map. Right: answers in steps of the predicted deviation, 20 or more in each; on the '
        'dashed line both are equal.', 'Coverage of the covariances, and errors by deviation')
    which = (('right', 'right'), ('right and accepted', 'passed'))
    expected = [f'{math.erf(k / math.sqrt(2.0)):.1%}' for k in SIGMAS]
    page.table(
        [Column('axis'), *(Column(f'within {k}σ, % ({share})', 1, 100.0)
                           for k, share in zip(SIGMAS, expected, strict=True))],
        [[axis if name == 'right' else f'{axis}, accepted',
          *(found[f'{name}_coverage_{axis}_{k}'] for k in SIGMAS)]
         for _, name in which for axis in AXES],
        'In brackets what a Gaussian has. x, y: about the axes of the map, whose yaw is the '
        'heading. Accepted: by the '
        'threshold of the last row above.')
    page.table(
        [Column('fixes'), Column('ANEES', 2, null=1.0), Column('error, median, m', 2),
         Column('error, p95, m', 1), Column('heading, median, °', 2),
         Column('heading, p95, °', 1)],
        [[label, found[f'{name}_anees'], found[f'{name}_error_p50_m'],
          found[f'{name}_error_p95_m'], found[f'{name}_heading_p50_deg'],
          found[f'{name}_heading_p95_deg']] for label, name in which],
        f'ANEES: mean of e^T P^-1 e / 3 over x, y and yaw; 1 is honest, above is overconfident. '
        f'Honest Gaussian errors lie in {band[0]:.2f} to {band[1]:.2f} in 95 % of cases '
        f'(chi-square, {int((judged.inside & judged.right).sum())} right fixes worth '
        f'{band[2]:.0f} independent ones); errors with long tails scatter more.')


def _add_sites(page: Page, judged: Judged, outside: float) -> dict[str, dict[str, float]]:
    rows: list[list[Cell]] = []
    found = {}
    for name in np.unique(judged.site):
        some = judged.of(judged.site == name)
        m = found[str(name)] = measures(some, outside)
        rows.append([str(name), m['right'], m['ece'],
                     m[f'availability_{RATE:g}'], m['passed_accepted'], m['passed_false'],
                     m['open_auroc'], m['right_anees'],
                     *(m[f'right_coverage_{axis}_2'] for axis in ('x', 'y', 'heading'))])
    page.section('By site', 'How much it varies from one site to another is what a user of a '
                 'further one should reckon with; intervals over blocks do not say it.')
    page.table(
        [Column('site'), Column('right, %', 1, 100.0), Column('ECE', 3),
         Column(f'accepted at {100 * RATE:g} % wrong, %', 1, 100.0),
         Column('accepted by others’ threshold, %', 1, 100.0),
         Column('of these wrong, %', 1, 100.0), Column('AUROC, elsewhere', 3),
         Column('ANEES', 2), *(Column(f'{axis} within 2σ, %', 1, 100.0)
                               for axis in ('x', 'y', 'heading'))], rows)
    return found


def _learned(calibration: Calibration) -> list[str]:
    right = calibration.right
    texts = ['Logarithm of the odds that a fix is right: '
             + ' '.join(f'{w:+.3g} × {name}' for w, name in zip(
                 right.weights, EVIDENCE, strict=True)) + f' {right.bias:+.3g}.']
    if calibration.inside is not None:
        inside = calibration.inside
        texts.append('That the image is from inside the map, if as many are as are not: '
                     + ' '.join(f'{w:+.3g} × {name}' for w, name in zip(
                         inside.weights, EVIDENCE, strict=True)) + f' {inside.bias:+.3g}.')
    laws = (('along', calibration.along_m, 'm'), ('across', calibration.across_m, 'm'),
            ('heading', calibration.heading_rad, 'rad'))
    texts.append('Standard deviations by the spread s of the places that speak for the fix, and '
                 'the odds o against them: '
                 + '; '.join(f'{name} {law.scale:.3g} (s² + {law.floor:.3g}²)^'
                             f'{0.5 * law.power:.3g} o^{law.growth:.3g} {unit}'
                             for name, law, unit in laws) + '.')
    texts.append(f'{calibration.nothing:.1%} of the images say nothing of where they are; a '
                 'belief over many images reckons with that.')
    return texts


def _limits(judged: Judged | str, calibration: Calibration) -> list[str]:
    limits = [
        'Other cameras, cities, seasons, hours and weather than those of the drives: '
        'probabilities drift with what the network finds hard, and nothing in an image says so.',
        'A wrong fix within the ellipse: covariances are of fixes that are right.',
        'z, roll and pitch: they are the map’s own, and are not calibrated.',
        'Several cameras joined into one answer, or a belief over many images: single images '
        'were asked.']
    if calibration.inside is None:
        limits.insert(0, 'Images from outside the map: none were asked, so every image is taken '
                         'for one from inside. Give sites of two cities, or --elsewhere.')
    elif isinstance(judged, Judged) and judged.inside.all():
        limits.insert(0, 'How well images from outside the map are told: that takes four sites '
                         'or more, since neither the map nor the images may have taught it.')
    if isinstance(judged, Judged) and len(np.unique(judged.block)) < FEW_BLOCKS:
        limits.insert(0, f'As much certainty as the intervals claim: they are drawn from '
                         f'{len(np.unique(judged.block))} blocks of the way, and of fewer than '
                         f'{FEW_BLOCKS} they come out too narrow. Longer drives mend it.')
    return limits
