"""`i2ploc evaluate-bag`: every image of a bag through the localizer, offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError

ODOMETRY = 'nav_msgs/msg/Odometry'


def command(
    bag: Annotated[Path, typer.Argument(help='The bag: a rosbag2 folder.')],
    map_path: Annotated[Path, typer.Option('--map', help='A map from `i2ploc build-map`.')],
    out: Annotated[Path, typer.Option(help='Folder of the report, as the evaluator writes it.')],
    camera: Annotated[list[str], typer.Option(
        help='Topic of the images, or the namespace of their camera; repeat it for several '
        'cameras, answered together. Default: the only one in the bag.')] = [],  # noqa: B006
    truth: Annotated[str | None, typer.Option(
        help='Topic of the true poses (PoseStamped); default: the only one in the bag.')] = None,
    odometry: Annotated[str | None, typer.Option(
        help='Topic of the odometry (Odometry), for --set sequence=odometry; default: the only '
        'one in the bag.')] = None,
    model: Annotated[Path | None, typer.Option(
        help='The model that the map was built with; default: the shipped one.')] = None,
    params: Annotated[Path | None, typer.Option(
        help="The localizer's parameter file, as for the node.")] = None,
    given: Annotated[list[str], typer.Option(
        '--set', metavar='NAME=VALUE', help='A parameter of the localizer; repeat the option.',
    )] = [],  # noqa: B006
    every: Annotated[int, typer.Option(min=1, help='Use each n-th image only.')] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help='Stop after so many images.')] = None,
    max_gap: Annotated[float, typer.Option(
        min=0.0, help='Seconds over which true poses are interpolated.')] = 1.0,
    live: Annotated[Path | None, typer.Option(
        '--compare', help='Output of the evaluator on the same bag: say how the live answers '
        'differ from these.')] = None,
    min_images: Annotated[int, typer.Option(
        min=0, help='Fail with fewer images answered.')] = 1,
    min_accepted_share: Annotated[float, typer.Option(
        min=0.0, max=1.0, help='Fail with a smaller share of images that got a fix.')] = 0.0,
    min_recall_at_1: Annotated[float, typer.Option(
        min=0.0, max=1.0, help='Fail with a smaller Recall@1 at 20 m.')] = 0.0,
    max_false_accept_rate: Annotated[float, typer.Option(
        min=0.0, max=1.0, help='Fail with a larger share of fixes over 20 m off.')] = 1.0,
) -> None:
    """
    Localize every image of a bag as the node would, without a node, and write the report.

    Two runs give the same answers.jsonl, byte by byte. Ends with 2 where a threshold is missed.
    Needs ROS 2's Python packages, but no daemon, no DDS, no other process.
    """
    from rich.console import Console

    try:
        from ..ros import bag_images, bag_run, bag_view
        from ..ros.inference import load_localizer
    except ImportError as error:
        raise InputError("a bag's messages are read by ROS 2's Python packages, which are not "
                         f'here ({error}): source the ROS 2 installation, or take `i2ploc '
                         'evaluate` of a drive') from error
    from ..data.bags import BagReader
    from ..evaluation.comparison import compare, comparison_table, read_answers
    from ..evaluation.report import provenance, summary_table, write_report
    from ..storage import write_json

    if live is not None:
        read_answers(live)  # what is wrong with it should be known before the work
    with BagReader(bag) as reader:
        names = camera if len(camera) > 1 else ['']
        wanted: list[str | None] = [*camera] or [only(
            bag_images.image_topics(reader), 'of images', '--camera', bag)]
        topics = bag_run.Topics(
            {name: bag_view.chosen_topic(reader, topic)
             for name, topic in zip(names, wanted, strict=True)},
            truth or truth_of(reader))
        odometries = [topic for topic, kind in reader.topics.items() if kind == ODOMETRY]
        check_truth(reader, topics.truth)
    settings = [f'database={map_path}', *([f'model={model}'] if model else []), *given]
    present = bag_run.localizer_parameters(params, settings)
    if present['sequence'] == 'odometry':
        if odometry is not None and odometry not in odometries:
            raise InputError(f'the bag {bag} has no odometry on {odometry}')
        topics = replace(topics, odometry=odometry or (
            only(sorted(odometries), 'of odometry', '--odometry', bag)))
    if len(camera) > 1:
        present['cameras'] = names
    present = bag_run.mounted_by_bag(bag, topics, present)
    localizer = load_localizer(present)
    out.mkdir(parents=True, exist_ok=True)
    records = bag_run.run_bag(bag, topics, localizer, present, max_gap, every, limit)
    with BagReader(bag) as reader:
        path = bag_images.poses_in_bag(reader, topics.truth).T_map_base[:, :2, 3]
    if not records:
        raise InputError(f'the bag {bag} has no images of {", ".join(topics.images.values())}')

    image_topic = next(iter(topics.images.values()))
    title = f'{bag.name} in the map {map_path.name}, offline'
    limits = {'min_images': min_images, 'min_accepted_share': min_accepted_share,
              'min_recall_at_1': min_recall_at_1, 'max_false_accept_rate': max_false_accept_rate}
    summary = write_report(
        out, records, localizer.database,
        lambda record: bag_images.image_in_bag(bag, image_topic, record.stamp_ns),
        {**provenance(localizer, run='offline, every image of the bag', drive=str(bag),
                      images=topics.images, truth=topics.truth, odometry=topics.odometry,
                      every=every, limit=limit,
                      max_gap_s=max_gap, map=str(map_path), parameters=limits),
         'localizer': present},
        title=title, limits=limits, path_xy=path if len(path) else None)
    console = Console()
    console.print(summary_table(summary, title))
    if live is not None:
        found = compare(live, out)
        write_json(out / 'comparison.json', found)
        console.print(comparison_table(found))
    typer.echo(f'Written to {out}: {", ".join(sorted(p.name for p in out.iterdir()))}')
    for failure in summary['verdict']['failures']:
        typer.echo(f'failed: {failure}', err=True)
    if summary['verdict']['exit_code']:
        raise typer.Exit(summary['verdict']['exit_code'])


def only(topics: list[str], what: str, option: str, bag: Path) -> str:
    """Return the one topic there is; none or several: InputError."""
    if len(topics) != 1:
        raise InputError(f'the bag {bag} has {len(topics)} topics {what}: name one with {option}'
                         + (f' ({", ".join(topics)})' if topics else ''))
    return topics[0]


def truth_of(reader: Any) -> str | None:
    """Return the bag's only topic of poses, or None without any; several: InputError."""
    found = sorted(t for t, kind in reader.topics.items() if kind.endswith('/PoseStamped'))
    return only(found, 'of poses', '--truth', reader.path) if found else None


def check_truth(reader: Any, topic: str | None) -> None:
    """Raise InputError unless the topic, if any, has poses."""
    if topic is not None and not reader.topics.get(topic, '').endswith('/PoseStamped'):
        raise InputError(f'the bag {reader.path} has no poses on {topic}')
