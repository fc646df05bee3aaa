"""`i2ploc localize`: one image, one fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..storage import shared_directory


def command(
    image: Annotated[Path, typer.Argument(help='The image file (PNG, JPEG, ...).')],
    map_path: Annotated[Path, typer.Option('--map', help='The map, from `i2ploc build-map`.')],
    camera: Annotated[str | None, typer.Option(
        metavar='FX,FY,CX,CY', help='Intrinsics of the rectified image, pixels. Only a model for '
        'panoramas can do without.')] = None,
    yaw: Annotated[float, typer.Option(
        help='Where the camera looks in the vehicle: degrees to the left of ahead.')] = 0.0,
    as_json: Annotated[bool, typer.Option(
        '--json', help='Print the whole answer, with its candidates, as JSON.')] = False,
    model: Annotated[Path | None, typer.Option(
        help='The model that the map was built with; default: the shipped one.')] = None,
    device: Annotated[str, typer.Option(help='Where the model runs: cpu or cuda.')] = 'cpu',
    runtime: Annotated[str, typer.Option(
        help='What runs the model: torch with its weights, or its export (`i2ploc export`) as '
        'pt2 or onnx.')] = 'torch',
    precision: Annotated[str, typer.Option(
        help='Of runtime torch: fp32, fp16, bf16, or auto (fp16 on CUDA, else fp32).')] = 'auto',
    acceleration: Annotated[str, typer.Option(
        help='Of runtimes torch and pt2: none, compile or graph (CUDA graphs).')] = 'none',
) -> None:
    """
    Say where one image was taken: the vehicle's position and heading in the map.

    An image that cannot be placed is answered with the reason, which is no error.
    """
    import math

    from ..data.drive import read_image
    from ..geometry.poses import planar, R_base_optical, transform
    from ..localization.localizer import open_localizer

    pixels = read_image(image)
    pinhole = None if camera is None else parse_camera(camera, pixels.shape[1], pixels.shape[0])
    model = model or shared_directory('models') / 'city'
    localizer = open_localizer(model, map_path, device=device, runtime=runtime,
                               precision=precision, acceleration=acceleration)
    for note in localizer.model.notes:
        typer.echo(f'note: {note}', err=True)
    T_base_camera = planar(0.0, 0.0, math.radians(yaw)) @ transform(R_base_optical)
    answer = localizer.localize(pixels, pinhole, T_base_camera).as_dict()
    typer.echo(json.dumps(answer, indent=2) if as_json else in_words(answer))


def parse_camera(text: str, width: int, height: int) -> Any:
    """Return the Pinhole of 'fx,fy,cx,cy' for an image of this size; anything else: InputError."""
    from ..geometry.cameras import Pinhole
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(','))
    except ValueError as error:
        raise InputError(f'--camera {text}: give four numbers fx,fy,cx,cy, '
                         'as in --camera 552.6,552.6,682.0,238.8') from error
    if not (fx > 0.0 and fy > 0.0 and 0.0 <= cx < width and 0.0 <= cy < height):
        raise InputError(f'--camera {text}: focal lengths must be positive and the principal '
                         f'point inside the {width} x {height} image')
    return Pinhole(width, height, fx, fy, cx, cy)


def in_words(answer: dict[str, Any]) -> str:
    """Return an answer of `Answer.as_dict` as a few lines to read."""
    fix = answer['fix']
    if fix is None:
        lines = [f'no fix ({answer["rejection"]}): {answer["explanation"]}']
    else:
        x, y, z = fix['position_m']
        sigma = [fix['covariance'][i][i] ** 0.5 for i in (0, 1, 5)]
        lines = [f'position  x {x:.1f} m, y {y:.1f} m, z {z:.1f} m '
                 f'(1 sigma: {sigma[0]:.1f} m, {sigma[1]:.1f} m)',
                 f'heading   {fix["yaw_deg"]:.1f} deg (1 sigma: {sigma[2] * 57.29578:.1f} deg)',
                 answer['explanation']]
    lines += [f'  place {c["place"]:5d}  similarity {c["score"]:.3f}  x {c["position_m"][0]:.1f} '
              f'y {c["position_m"][1]:.1f} m' for c in answer['candidates'][:5]]
    return '\n'.join(lines)
