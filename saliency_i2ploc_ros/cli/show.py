"""`i2ploc show`: what a drive holds, and whether its LiDAR lies on its images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray
import typer

from ..data.drive import CameraStream, Drive, Stream
from ..errors import InputError
from ..geometry.cameras import Camera, Pinhole
from ..geometry.poses import apply, inverse, path_length
from ..storage import atomic_file

DEPTHS_M = (4.0, 60.0)  # where the colours begin and end


def command(
    root: Annotated[Path, typer.Argument(
        help='Root of a KITTI-360, KITTI raw or KITTI odometry data set, or of a city; or a '
        'bag.')],
    drive: Annotated[str | None, typer.Option(
        help='Drive or sequence, or its number; not needed where there is only one.')] = None,
    camera: Annotated[str | None, typer.Option(help='Camera; the first, if not given.')] = None,
    frame: Annotated[int | None, typer.Option(
        help='Number of the image in the data set; the first, if not given.')] = None,
    out: Annotated[Path | None, typer.Option(
        help='Picture (PNG) of a scan on its image, and of the path.')] = None,
    base_frame: Annotated[str, typer.Option(
        help="Of a bag: the vehicle's frame, which the true poses are of.")] = 'base_link',
) -> None:
    """
    Print what a drive or a bag holds; draw its LiDAR points on an image, and its path.

    The scan is the nearest in time to the image. Where both have poses, the vehicle's motion
    between them is taken into account. Poles and edges of cars must lie on those of the image:
    if they do not, the calibration or the frames are wrong. Of a bag (a rosbag2 folder) everything
    comes from its own CameraInfo, /tf_static and poses; --camera is then a topic or its
    namespace, --frame counts the images from 0.
    """
    if (root / 'metadata.yaml').is_file():
        from ..ros.bag_view import bag_summary, view_bag

        typer.echo(bag_summary(root))
        if out is not None:
            view = view_bag(root, camera, frame or 0, base_frame)
            known = view.trajectory.T_map_base
            here = view.trajectory.at(np.array([view.stamp_ns]))[0] if len(known) else None
            draw_overlay(out, view.title, view.image, view.camera, view.points, known[:, :2, 3],
                         known[:, :2, 3], here)
            typer.echo(f'{out}: written')
        return
    from ..data.readers import open_drive

    opened = open_drive(root, drive)
    typer.echo(summary(opened))
    if out is not None:
        draw(opened, camera, frame, out)
        typer.echo(f'{out}: written')


def summary(drive: Drive) -> str:
    """Return one screen of text about a drive."""
    lines = [drive.source]
    for name, stream in drive.cameras.items():
        model = stream.camera
        lines.append(f'  {name}: {_frames(stream, "images")}, {model.width} x {model.height}, '
                     f'{np.degrees(model.horizontal_fov):.0f} degrees wide')
    if not drive.cameras:
        lines.append('  no images')
    lines.append(f'  LiDAR: {_frames(drive.lidar, "scans")}' if drive.lidar else '  no scans')
    if len(drive.trajectory):
        stamps, T = drive.trajectory.stamps_ns, drive.trajectory.T_map_base
        clock = ' of nominal time: the data set has no stamps'
        lines.append(f'  path: {len(T)} poses, {path_length(T[:, :3, 3])[-1]:.0f} m in '
                     f'{(stamps[-1] - stamps[0]) / 1e9:.0f} s'
                     f'{clock if drive.trajectory.nominal_stamps else ""}')
    else:
        lines.append('  no poses')
    return '\n'.join(lines)


def _frames(stream: Stream, what: str) -> str:
    ids = stream.ids
    return (f'{len(stream)} {what} (frames {ids.min()} to {ids.max()}), '
            f'{int(stream.has_pose.sum())} with a pose')


def points_in_camera(drive: Drive, camera: CameraStream, index: int) -> NDArray[np.float64]:
    """
    Return the points (n, 3) of the scan nearest in time to an image, in the camera's frame.

    They are moved by the vehicle's motion between the two stamps where both poses are known.
    """
    if drive.lidar is None:
        raise InputError(f'{drive.source} has no LiDAR scans to draw')
    nearest = int(np.argmin(np.abs(drive.lidar.stamps_ns - camera.stamps_ns[index])))
    T = inverse(camera.T_base_sensor) @ drive.lidar.T_base_sensor
    if camera.has_pose[index] and drive.lidar.has_pose[nearest]:
        motion = inverse(camera.T_map_base[index]) @ drive.lidar.T_map_base[nearest]
        T = inverse(camera.T_base_sensor) @ motion @ drive.lidar.T_base_sensor
    return apply(T, drive.scan(nearest).points)


def draw(drive: Drive, camera_name: str | None, frame: int | None, out: Path) -> None:
    """Write the picture of one image with its scan, and of the drive's path, atomically."""
    name = drive.camera_named(camera_name)
    camera = drive.cameras[name]
    found = np.flatnonzero(camera.ids == frame) if frame is not None else np.zeros(1, np.int64)
    if not len(found):
        raise InputError(f'{drive.source} has no image {frame} of {name}: it has '
                         f'{len(camera)} from {camera.ids.min()} to {camera.ids.max()}')
    index = int(found[0])
    points = points_in_camera(drive, camera, index) if drive.lidar is not None else None
    here = camera.T_map_base[index] if camera.has_pose[index] else None
    draw_overlay(out, f'{drive.name}, {name}, frame {camera.ids[index]}',
                 drive.image(name, index), camera.camera, points,
                 drive.trajectory.T_map_base[:, :2, 3],
                 camera.T_map_base[camera.has_pose, :2, 3], here)


def draw_overlay(
    out: Path, title: str, image: NDArray[np.uint8], camera: Camera,
    points: NDArray[np.float64] | None, path_xy: NDArray[np.float64],
    known_xy: NDArray[np.float64], T_map_base: NDArray[np.float64] | None,
) -> None:
    """
    Draw points on an image above the path, and write the picture atomically.

    image: (H, W, 3) RGB. points: (n, 3) in the camera's frame, or None. path_xy: (m, 2). known_xy:
    (k, 2), of images with a pose. T_map_base: (4, 4) of this image, None or NaN if not known.
    """
    height, width = image.shape[:2]
    tall = min(8.0, 14.0 * height / width)
    figure = Figure(figsize=(14.0, tall + 6.0), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=[tall, 6.0])
    top.imshow(image)
    if points is not None:
        pixels, inside = camera.project(points)
        # Round about there is no depth along one axis, and the points lie closer to each other.
        ahead = isinstance(camera, Pinhole)
        far = points[:, 2] if ahead else np.linalg.norm(points, axis=1)
        drawn = top.scatter(*pixels[inside].T, c=far[inside], s=2.5 if ahead else 1.2,
                            cmap='turbo_r', norm=LogNorm(*DEPTHS_M), linewidths=0)
        scale = figure.colorbar(drawn, ax=top, format='%g',
                                label='depth, m' if ahead else 'range, m',
                                ticks=[4, 6, 10, 20, 40, 60])
        scale.minorticks_off()
    top.set(title=title, xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    top.axis('off')

    if len(path_xy):
        bottom.plot(*path_xy.T, color='0.4')
    bottom.plot(*known_xy.T, '.', color='tab:blue', markersize=3, label='images with a pose')
    if T_map_base is not None and np.isfinite(T_map_base).all():
        bottom.quiver(*T_map_base[:2, 3], *T_map_base[:2, 0], color='tab:red', scale=25.0,
                      width=0.004, zorder=3, label='this image')
    bottom.set(xlabel='x of the map, m', ylabel='y of the map, m')
    bottom.set_aspect('equal', 'datalim')
    bottom.legend(loc='best')
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format='png')
