"""`i2ploc bag`: a drive as a rosbag2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    root: Annotated[Path, typer.Argument(
        help='Root of a KITTI-360, KITTI raw or KITTI odometry data set, or of a city.')],
    out: Annotated[Path, typer.Option(help='Folder of the bag that is made.')],
    drive: Annotated[str | None, typer.Option(
        help='Drive or sequence, or its number; not needed where there is only one.')] = None,
    storage: Annotated[str, typer.Option(help='mcap or sqlite3.')] = 'mcap',
    compressed: Annotated[bool, typer.Option(
        '--compressed', help='Image files as they are, not raw images.')] = False,
    camera: Annotated[list[str] | None, typer.Option(
        help='Take only this camera (repeat the option); all, if none is named.')] = None,
    lidar: Annotated[bool, typer.Option(help='Take the LiDAR scans too.')] = True,
    first: Annotated[int | None, typer.Option(
        min=0, help="The first frame, by the data set's number.")] = None,
    last: Annotated[int | None, typer.Option(
        min=0, help="The last frame, by the data set's number.")] = None,
    every: Annotated[int, typer.Option(
        min=1, help='Take each n-th frame only, of all sensors the same.')] = 1,
    overwrite: Annotated[bool, typer.Option(
        '--overwrite', help='Replace what is at OUT.')] = False,
) -> None:
    """
    Convert a drive to a rosbag2 directory that ROS 2 plays and the replay node reads.

    It holds images with their CameraInfo, LiDAR scans, ground truth where the drive has poses, and
    /tf_static. Stamps are the sensors' own, to the nanosecond. The bag appears when it is whole; a
    run that was interrupted leaves nothing and is simply repeated.
    """
    from ..data.bags import BagReader, part_of, write_bag
    from ..data.readers import open_drive

    part = part_of(open_drive(root, drive), camera, lidar, first, last, every)
    write_bag(part, out, storage, compressed, camera, overwrite)
    with BagReader(out) as bag:
        typer.echo(f'{out}: {(bag.end_ns - bag.start_ns) / 1e9:.1f} s')
        for topic, count in sorted(bag.counts.items()):
            typer.echo(f'{count:8d}  {topic}  {bag.topics[topic]}')
