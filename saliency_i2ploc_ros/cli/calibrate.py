"""`i2ploc calibrate`: how far a model's answers can be trusted, learned on drives apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import functools
from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer

from ..errors import InputError
from ..storage import shared_directory
from .train import sites_of

if TYPE_CHECKING:
    from ..data.drive import Drive
    from ..evaluation.calibrating import Answers, Site
    from ..evaluation.calibration_figures import Judged
    from ..evaluation.described import ByModel
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.verification import Verification
    from ..mapping.database import PlaceDatabase

ALL_AROUND = 8  # headings of a place, from which on a map is for vehicles that look anywhere


def command(
    roots: Annotated[list[Path], typer.Argument(
        help='Data sets with drives that neither trained nor will test the model: a root, or a '
        'folder of roots (cities).')],
    model: Annotated[Path | None, typer.Option(
        help='Folder of the model; default: the shipped one.')] = None,
    out: Annotated[Path | None, typer.Option(
        help='Folder to write calibration.json into (with --headings N calibration-N.json); '
        'default: that given as --map, else as --model.')
        ] = None,
    map_path: Annotated[Path | None, typer.Option(
        '--map', help='Calibrate for this one map, which the drives go through; default: for '
        'any map of the model.')] = None,
    drive: Annotated[list[str], typer.Option(
        help='Ask these drives only (repeat the option).')] = [],  # noqa: B006
    elsewhere: Annotated[list[Path], typer.Option(
        help='Data sets whose images are from none of the maps, to learn what such images look '
        'like; of several cities each serves the others for that.')] = [],  # noqa: B006
    camera: Annotated[str | None, typer.Option(
        help='Name of the camera; default: the first.')] = None,
    headings: Annotated[int | None, typer.Option(
        min=1, help='Views of each place, as `build-map --headings` makes them; default: the '
        "model's own.")] = None,
    outside: Annotated[float | None, typer.Option(
        min=0.0, max=0.99, help='Share of images from outside the map that the report reckons '
        "with; default: the localizer's.")] = None,
    report: Annotated[Path, typer.Option(
        help='Folder for report.html, report.md, summary.json and pictures.')
        ] = Path('calibration'),
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
) -> None:
    """
    Learn when a fix is right and how far off it can be; show what that is worth on other drives.

    A city's first drive with a LiDAR is its map, and its drives with cameras are asked, the map's
    own only if there is no other. A drive of any other data set is its own map. Images of a map's
    own drive are easier than those of another day, and the report warns of them. Written is what
    all of them teach; the report judges each site by what the others taught, or one map by halves
    of the way. A calibration holds for one model, one kind of map and one kind of search, and is
    refused elsewhere. With 8 or more --headings the sites' maps are turned, each by another part
    of the angle between two headings, for vehicles that look anywhere.
    """
    from ..distributed import start, stop, world
    from ..evaluation.calibrating import described_site
    from ..evaluation.described import ByModel
    from ..localization.calibration import FILE, file_of
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.verification import verification_of
    from ..mapping.views import headings as all_around
    from .evaluate import model_of

    if map_path is not None and headings is not None:
        raise InputError('a map has its views already: give --map or --headings, not both')
    target = out or map_path or model
    if target is None:
        raise InputError('a calibration would replace that of the shipped model: give --out, '
                         '--map or --model to say where it belongs')
    folder = model or shared_directory('models') / 'city'
    for path in (report, target):
        if path.exists() and not path.is_dir():
            raise InputError(f'{path} is a file: name a folder')
    here = world()
    start(here)
    describer = ByModel(model_of(folder, device, here))
    database = None if map_path is None else map_of(map_path, describer)
    groups = [*groups_of(roots, drive, database), *elsewhere_of(elsewhere)]
    warnings = warnings_of(groups, folder)
    own = describer.config.views
    count, views = len(own), [own] * len(groups)
    turned: list[float] = []
    if headings is not None:
        count = headings
        turned = turns(headings, sum(group.database is not None for group in groups))
        # Those with a map come first; what is elsewhere has no views.
        views[:len(turned)] = [all_around(headings, own, angle) for angle in turned]
    sites = [described_site(group.name, group.database, group.drives, describer, here, camera,
                            seen) for group, seen in zip(groups, views, strict=True)]
    stop(here)
    if here.writes:
        kind: dict[str, Any] = {
            'encoder_hash': describer.hashes[0], 'preprocessing_hash': describer.hashes[1],
            'map_identity': '', 'headings': count,
            'spacing_m': describer.config.submap.spacing_m,
            'smooth_m': describer.config.smooth_m}
        if database is not None:
            kind |= {'map_identity': database.identity, 'headings': database.schema.views,
                     'spacing_m': database.spacing_m, 'smooth_m': database.schema.smooth_m}
        verification = verification_of(describer.runtime, LocalizerConfig().verify)
        file = target / (FILE if database is not None else file_of(count, len(own)))
        learn(sites, kind, outside, file, report, warnings, verification, turned)


def turns(headings: int, sites: int) -> list[float]:
    """
    Return by how many degrees the map of each site is turned, evenly from none to the worst.

    Drives look along the streets, as one of the headings of an unturned map does: that would teach
    that there is always one that fits. Fewer than `ALL_AROUND` are for vehicles that keep to the
    streets, and are not turned.
    """
    if headings < ALL_AROUND:
        return [0.0] * sites
    return [(-1) ** i * (i + 0.5) / sites * 180.0 / headings for i in range(sites)]


@dataclass(frozen=True)
class Group:
    """Drives that are asked, in the map of a drive or one on disk; None: in those of others."""

    name: str
    database: Drive | PlaceDatabase | None
    drives: list[Drive]


def map_of(path: Path, describer: ByModel) -> PlaceDatabase:
    """Return the map, which must have been built with the model."""
    from ..mapping.database import PlaceDatabase
    encoder, preparation = describer.hashes
    return PlaceDatabase.open(path, encoder, preparation)


def groups_of(roots: list[Path], only: list[str], database: PlaceDatabase | None) -> list[Group]:
    """
    Return the sites as `i2ploc train` finds them; with a map on disk, all drives in it.

    The map's own drive is asked only where there is no other.
    """
    from ..data.readers import open_drive
    sites = sites_of(roots, only)
    asked = [[open_drive(Path(site['root']), name) for name in others(
        site['query_drives'], site['map_drive'] if database is None else database.schema.source)]
             for site in sites]
    if database is not None:
        name = database.schema.source or database.path.name
        return [Group(name, database, [drive for drives in asked for drive in drives])]
    names = [label(site) for site in sites]
    return [Group(name if names.count(name) == 1 else f'{Path(site["root"]).parent.name}/{name}',
                  open_drive(Path(site['root']), site['map_drive']), drives)
            for name, site, drives in zip(names, sites, asked, strict=True)]


def others(drives: list[str], map_drive: str) -> list[str]:
    """Return the drives without the map's own, unless there is no other."""
    return [name for name in drives if name != map_drive] or drives


def elsewhere_of(roots: list[Path]) -> list[Group]:
    """Return the drives that are in none of the maps."""
    from ..data.readers import open_drive
    return [Group(label(site), None, [open_drive(Path(site['root']), name)
                                      for name in site['query_drives']])
            for site in (sites_of(roots, []) if roots else [])]


def label(site: dict[str, Any]) -> str:
    """Return a city's folder, or the drive of a data set whose drives are sites of their own."""
    own = site['query_drives'] == [site['map_drive']]
    return str(site['map_drive'] if own else Path(site['root']).name)


def warnings_of(groups: Sequence[Group], folder: Path) -> list[tuple[str, str]]:
    """Return what a reader must know of the drives; those that trained the model: InputError."""
    from ..data.drive import Drive
    from ..encoders.files import read_provenance
    from ..evaluation.splits import check_split
    drives = [drive for group in groups for drive in group.drives]
    maps = [group.database for group in groups if isinstance(group.database, Drive)]
    check = check_split([*drives, *maps], read_provenance(folder))
    if check.shared_drives:
        raise InputError(f'the model was trained on {check.shared_drives[0]}, where it is surer '
                         'than anywhere else: calibrate on other drives')
    found = [('LEAK', text) for text in check.leaks]
    found += [('not ruled out', text) for text in check.doubts]
    if same := sorted(group.name for group in groups if isinstance(group.database, Drive)
                      and group.database.name in {drive.name for drive in group.drives}):
        found.append(('same drive', 'map and images are of one drive, which is easier than to '
                      f'come back another day: {", ".join(same)}'))
    return found


def learn(
    sites: Sequence[Site], kind: dict[str, Any], outside: float | None, file: Path,
    report: Path, warnings: Sequence[tuple[str, str]], verification: Verification | None = None,
    turned: Sequence[float] = (),
) -> None:
    """
    Write the calibration that the sites teach as `file`, and what it is worth.

    kind: of model and map, as in `Calibration`: what it will hold for. verification: of what the
    images found. turned: by how many degrees each site's map is, for the report.
    """
    from ..evaluation.calibrating import all_answers, fit
    from ..evaluation.calibration_figures import judge
    from ..evaluation.calibration_report import write_calibration_report
    from ..evaluation.report import versions
    from ..localization.calibration import write_calibration
    from ..localization.hypotheses import LocalizerConfig

    config = LocalizerConfig()
    outside = config.outside if outside is None else outside
    answers = all_answers(sites, kind['spacing_m'], config, verification)
    fitted = functools.partial(fit, config=config, kind=kind)
    calibration = fitted(answers)
    judged: Judged | str
    try:
        judged = judge(answers, fitted, outside)
    except InputError as error:
        judged = str(error)
    calibration = calibration.model_copy(update={
        'provenance': provenance_of(answers, judged, outside)})
    summary = write_calibration_report(report, calibration, judged, outside,
                                       protocol_of(sites, answers, kind, config, judged,
                                                   verification is not None, turned),
                                       warnings, versions())
    write_calibration(file.parent, calibration, file.name)
    if isinstance(judged, str):
        typer.echo(f'warning: nobody knows what it is worth: {judged}', err=True)
    else:
        typer.echo(headline(summary['figures']))
    typer.echo(f'{file}: written; report: {report / "report.html"}')


def provenance_of(
    answers: Sequence[Answers], judged: Judged | str, outside: float,
) -> dict[str, Any]:
    """
    Return what a calibration says of where it comes from; no paths, for others, and no times.

    min_probability: by false-fix rate, the threshold that kept it over all judged images.
    """
    from .. import __version__
    from ..evaluation.calibration_figures import recommended
    from ..storage import commit
    return {
        'version': __version__, 'commit': commit(),
        'calibrated_on': sorted({each.drive for each in answers if each.inside}),
        'images': sum(len(each) for each in answers if each.inside),
        'elsewhere': sum(len(each) for each in answers if not each.inside), 'outside': outside,
        'min_probability': {} if isinstance(judged, str) else recommended(judged, outside)}


def protocol_of(
    sites: Sequence[Site], answers: Sequence[Answers], kind: dict[str, Any],
    config: LocalizerConfig, judged: Judged | str, verifies: bool, turned: Sequence[float],
) -> list[str]:
    """Return what was done, for a reader of the report."""
    from ..evaluation.calibrating import OUTSIDERS_EVERY
    mapped = [site for site in sites if site.places is not None]
    frames = {site.frame for site in mapped}
    where = ', '.join(f'{site.name} ({len(site.places or ())} places, '
                      f'{sum(len(q) for q, _ in site.queries)} images)' for site in mapped)
    how = ('' if isinstance(judged, str) else
           f'Each of the {len(frames)} sites is judged by what the others taught; images from '
           'elsewhere by what was taught by neither the map nor the place they are from.'
           if len(frames) > 1 else
           'There is one map: images of each half of the way are judged by what the other half '
           'taught. Both are of the same city and the same day, so that another city is likely '
           'to be worse.')
    asked = sum(len(queries) for site in sites for queries, _ in site.queries)
    refused = sum(site.refused for site in sites)
    away = sum(len(each) for each in answers if not each.inside)
    said = (f'From elsewhere: {away} questions, each {OUTSIDERS_EVERY}th image of other cities, '
            'asked in a map where no answer can be right.' if away else
            'No images from outside the map were asked.')
    return [
        f'Sites: {where}. Images are asked one at a time, without a guess of where they are; all '
        f'that have poses and show something count. Of {asked + refused} images {refused} were '
        'left out, which the localizer refuses before it asks the model (`min_contrast`, '
        '`min_visible`): they get no probability.', *([how] if how else []), said,
        f'A place every {kind["spacing_m"]:g} m, in {kind["headings"]} views; searched: the best '
        f'{config.top_k}{", all verified" if verifies else ""}, temperature '
        f'{config.temperature:g}, cluster within {config.merge_radius_m:g} m. '
        'The written calibration is what all sites teach together.',
        *(['Drives look along the streets and other vehicles need not: the views of the sites, in '
           f'this order, are turned by {", ".join(f"{angle:.1f}" for angle in turned)} degrees.']
          if any(turned) else [])]


def headline(figures: dict[str, Any]) -> str:
    """Return the first figures as one line to print."""
    def text(name: str, digits: int, scale: float = 1.0) -> str:
        value = figures[name]['value']
        return '–' if value is None else f'{scale * value:.{digits}f}'
    return (f'on images that did not teach it: ECE {text("ece", 3)}, '
            f'{text("availability_0.01", 0, 100)} % accepted at 1 % wrong, '
            f'AUROC against elsewhere {text("open_auroc", 3)}, ANEES {text("right_anees", 2)}')
