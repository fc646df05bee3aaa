"""`i2ploc evaluate`: does a model find the places of a drive, and are its fixes right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer

from ..errors import InputError
from ..storage import shared_directory

if TYPE_CHECKING:
    from ..data.drive import Drive
    from ..distributed import World
    from ..encoders.dual import DualEncoder
    from ..evaluation.retrieval import Prepared, Question
    from ..evaluation.splits import Split
    from ..export.runtime import ImageRuntime
    from ..localization.localizer import Localizer
    from ..mapping.database import PlaceDatabase

PROTOCOLS = ('same_pass', 'revisit', 'cross_drive')
IMAGE_TO_CLOUD = ('image-cloud',)


def command(
    root: Annotated[Path, typer.Argument(help='The data set that holds the drive that asks.')],
    out: Annotated[Path, typer.Option(
        help='Folder for report.md, report.html, evaluation.json, queries.csv and pictures; with '
        '--map also those of `i2ploc evaluate-bag`.')],
    drive: Annotated[str | None, typer.Option(
        help='Name of the drive that asks; may be left out if there is one.')] = None,
    map_path: Annotated[Path | None, typer.Option(
        '--map', help='A map from `i2ploc build-map`: the drive is localized in it, image by '
        'image, and judged.')] = None,
    map_drive: Annotated[str | None, typer.Option(
        help='A drive to be the map, in place of --map: every pairing can be judged.')] = None,
    protocol: Annotated[str | None, typer.Option(
        help='same_pass (a drive answers itself, as in the papers), revisit (with places over '
        '10 s older) or cross_drive (with a map; the default with one).')] = None,
    pairing: Annotated[list[str], typer.Option(
        help='What asks and what answers: image-cloud (default), cloud-image, image-image, '
        'cloud-cloud, or all; repeat the option.')] = [],  # noqa: B006
    query_spacing: Annotated[float | None, typer.Option(
        help='Metres between queries; default: 3 within a drive, else every image.')] = None,
    spacing: Annotated[float | None, typer.Option(
        help="Metres between places; default: 3 within a drive, else the model's.")] = None,
    max_turn: Annotated[float | None, typer.Option(
        min=0.0, max=180.0, help='Degrees that a right place may be turned from the query; '
        'default: any.')] = None,
    split: Annotated[str | None, typer.Option(
        help='A published split, as kitti360-urban: its protocol, its drive, its check.')] = None,
    check_split: Annotated[list[Path], typer.Option(
        help='Data sets that the model was trained on, to measure how near the test comes.',
    )] = [],  # noqa: B006
    baseline: Annotated[bool, typer.Option(
        help='Judge the skyline too, which learns nothing.')] = True,
    camera: Annotated[str | None, typer.Option(
        help='Name of the camera; default: the first.')] = None,
    every: Annotated[int, typer.Option(min=1, help='Use each n-th image only.')] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help='Stop after so many images.')] = None,
    seed: Annotated[int, typer.Option(min=0, help='Of the bootstrap.')] = 0,
    min_score: Annotated[float | None, typer.Option(
        help='Similarity of the best place below which an image is rejected.')] = None,
    min_weight: Annotated[float | None, typer.Option(
        min=0.0, max=1.0, help='Share of the weight near the best place below which an image is '
        'rejected; 0 accepts the most ambiguous.')] = None,
    model: Annotated[Path | None, typer.Option(
        help='The model, that the map was built with if there is one; default: the shipped one.',
    )] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
    runtime: Annotated[str, typer.Option(
        help='What localizes in --map: torch with the weights, or their export (`i2ploc export`) '
        'as pt2 or onnx.')] = 'torch',
    precision: Annotated[str, typer.Option(
        help='Of what localizes in --map: fp32, fp16, bf16, or auto (fp16 on CUDA, else fp32).',
    )] = 'auto',
    acceleration: Annotated[str, typer.Option(
        help='Of what localizes in --map: none, compile or graph (CUDA graphs).')] = 'none',
) -> None:
    """
    Judge how well places are found again, under a stated protocol.

    Descriptors are made once and cached; what is judged comes from the cache. With --map every
    image is localized as the node would, and its fix judged too. Nothing is aligned, and runs are
    reproducible to the bit, times aside. A drive without poses gets its fixes, and no figures.
    `torchrun --nproc-per-node N -m saliency_i2ploc_ros.cli.main evaluate ...` shares the work.
    """
    from ..data.readers import open_drive
    from ..distributed import start, stop, world
    from ..evaluation.retrieval import describe, Question

    if out.exists() and not out.is_dir():
        raise InputError(f'{out} is a file: name a folder for the results')
    if map_path is not None and map_drive is not None:
        raise InputError('give --map or --map-drive, not both')
    published = None
    if split is not None:
        from ..evaluation.splits import load_split
        published = load_split(split)
        protocol, drive = protocol or published.protocol, drive or drive_of(published, root)
        spacing = published.spacing_m if spacing is None else spacing
    question = Question(
        checked_protocol(protocol, map_path is not None or map_drive is not None),
        pairings(pairing), query_spacing, spacing, max_turn, camera, every, limit, baseline, seed)
    folder = model or shared_directory('models') / 'city'

    here = world()
    start(here)
    opened = open_drive(root, drive)
    localizer = None if map_path is None else localizer_of(
        folder, map_path, min_score, min_weight, device, runtime, precision, acceleration)
    database: Drive | PlaceDatabase | None = None
    if localizer is not None:
        database = localizer.database
    elif map_drive is not None:
        database = open_drive(root, map_drive)
    # An export describes images; what it is not, the model's own weights are.
    loaded: DualEncoder | ImageRuntime = (
        localizer.model if localizer is not None and runtime != 'torch'
        else model_of(folder, device, here))
    # A folder that cannot be written should be known before the work, not after it.
    out.mkdir(parents=True, exist_ok=True)
    prepared = None
    if localizer is None or has_poses(opened, camera):
        prepared = describe(question, loaded, opened, database, here)
    stop(here)
    if not here.writes:
        return

    if localizer is not None:
        localize_all(localizer, opened, question, out, root=str(root.resolve()),
                     map=str(map_path), model=str(folder))
    if prepared is None:
        typer.echo(f'{opened.name} has no poses: its fixes are written, errors and recall are not '
                   'known.')
    else:
        judge_and_report(prepared, loaded, folder, out, published, check_split,
                         localizer is not None)
    typer.echo(f'Written to {out}: {", ".join(sorted(p.name for p in out.iterdir()))}')


def checked_protocol(name: str | None, has_map: bool) -> Any:
    """Return the protocol that is meant; without a name, the one that goes with what is given."""
    if name is None and not has_map:
        raise InputError('give a map to localize in (--map or --map-drive), or a protocol in '
                         'which a drive answers itself: --protocol same_pass or revisit')
    name = name or 'cross_drive'
    if name not in PROTOCOLS:
        raise InputError(f'there is no protocol {name!r}: choose one of {", ".join(PROTOCOLS)}')
    return name


def pairings(given: list[str]) -> tuple[str, ...]:
    """Return the pairings that are meant, in their order and each once."""
    from ..evaluation.protocols import PAIRINGS
    if 'all' in given:
        return PAIRINGS
    return tuple(dict.fromkeys(given)) or IMAGE_TO_CLOUD


def drive_of(split: Split, root: Path) -> str:
    """Return the drive of the split that is in the data set; where it is not one: InputError."""
    from ..data.readers import drive_names
    there = set(drive_names(root))
    found = [test.drive for test in split.test if test.drive in there]
    if len(found) == 1:
        return found[0]
    wanted = ', '.join(test.drive for test in split.test)
    raise InputError(f'the split {split.name} tests {wanted}, of which {root} has '
                     + (f'{len(found)}: name one with --drive' if found else 'none'))


def localizer_of(
    folder: Path, map_path: Path, min_score: float | None, min_weight: float | None, device: str,
    runtime: str, precision: str = 'auto', acceleration: str = 'none',
) -> Localizer:
    """Return the localizer of model and map, with these thresholds where they are given."""
    from ..localization.hypotheses import LocalizerConfig
    from ..localization.localizer import open_localizer
    given: dict[str, Any] = {'min_score': min_score, 'min_weight': min_weight}
    config = LocalizerConfig(**{key: value for key, value in given.items() if value is not None})
    found = open_localizer(folder, map_path, config, device, runtime, precision, acceleration)
    for note in found.model.notes:
        typer.echo(f'note: {note}', err=True)
    return found


def model_of(folder: Path, device: str, here: World) -> DualEncoder:
    """Return the model, on the device asked for, or on this process's own under torchrun."""
    from ..distributed import device_of
    from ..encoders.files import load_model
    from ..export.runners import torch_device
    return load_model(folder).to(str(device_of()) if here.size > 1 else torch_device(device))


def has_poses(drive: Drive, camera: str | None) -> bool:
    """Tell whether any image of the camera can be judged."""
    from ..evaluation.offline import has_truth
    return bool(drive.cameras) and has_truth(drive, camera)


def localize_all(
    localizer: Localizer, drive: Drive, question: Question, out: Path, **given: str,
) -> None:
    """Localize the images one by one as the node would; write fixes, print their figures."""
    from rich.console import Console

    from ..evaluation.offline import evaluate_drive
    from ..evaluation.report import provenance, summary_table, write_report
    name = drive.camera_named(question.camera)
    records = evaluate_drive(localizer, drive, name, question.every, question.limit)
    title = f'{drive.name}, {name}, in the map {Path(given["map"]).name}'
    summary = write_report(
        out, records, localizer.database, lambda record: drive.image(name, record.frame),
        provenance(localizer, drive=drive.source, drive_name=drive.name, camera=name,
                   every=question.every, limit=question.limit, **given), title=title)
    Console().print(summary_table(summary, title))


def judge_and_report(
    prepared: Prepared, model: DualEncoder | ImageRuntime, folder: Path, out: Path,
    split: Split | None, training: list[Path], with_fixes: bool,
) -> None:
    """Judge what was described, write the report, and print its first table and any leak."""
    from rich.console import Console

    from ..data.readers import open_drive
    from ..encoders.files import read_provenance
    from ..evaluation.protocols import Entries
    from ..evaluation.retrieval import judge_all
    from ..evaluation.retrieval_report import retrieval_table, write_evaluation
    from ..evaluation.splits import check_split
    from .train import sites_of

    tested, built_from = [prepared.queries.drive], []
    if not isinstance(prepared.database, Entries):
        built_from = [prepared.database.schema.source]
    elif prepared.database is not prepared.queries:
        tested.append(prepared.database.drive)
    trained = [open_drive(Path(site['root']), name) for site in sites_of(training, [])
               for name in dict.fromkeys((site['map_drive'], *site['query_drives']))]
    check = check_split(tested, read_provenance(folder), trained, split, built_from)
    names = {'overview.png': 'Fixes of the localizer on the map, and queries beside submaps.',
             'errors.png': 'Errors of the fixes that were accepted.',
             'acceptance.png': 'Precision and recall as more or fewer fixes are accepted.',
             'reliability.png': 'Shares of the errors within what the covariances say.',
             'worst.png': 'The worst fixes that were accepted.'}
    pictures = [(name, text) for name, text in names.items()
                if with_fixes and (out / name).is_file()]
    evaluation = write_evaluation(
        out, prepared, judge_all(prepared), check, model, str(folder), pictures, split)
    console = Console()
    console.print(retrieval_table(evaluation))
    for leak in check.leaks:
        console.print(f'[bold red]LEAK:[/] {leak}')
    for doubt in check.doubts:
        console.print(f'Not ruled out: {doubt}')
    if not any(at['queries'] for at in evaluation['results'][0]['at'].values()):
        console.print('No query has a place within 25 m that may answer it: is the map of this '
                      'area, and in the same coordinates?')
