"""
Cameras as YAML files: KITTI-360's image_02.yaml and image_03.yaml, and panoramas.

The files of the data set are OpenCV's (a first line '%YAML:1.0', which YAML itself does not know)
with `model_type: MEI`. `model_type: EQUIRECTANGULAR` with top_deg and bottom_deg is this package's
addition, for panoramas that the city renders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..geometry.cameras import Panorama
from ..geometry.lenses import Mei
from .kitti_files import read_text

PARTS = {
    'mirror_parameters': ('xi',),
    'distortion_parameters': ('k1', 'k2', 'p1', 'p2'),
    'projection_parameters': ('gamma1', 'gamma2', 'u0', 'v0'),
}


def read_lens(path: Path) -> Mei | Panorama:
    """Return the camera of a YAML file; one that says something else is an InputError."""
    lines = read_text(path).splitlines()
    if lines and lines[0].startswith('%YAML'):
        del lines[0]
    try:
        values = yaml.safe_load('\n'.join(lines))
    except yaml.YAMLError as error:
        raise InputError(f'{path} is not the YAML of a camera: copy or download it again') \
            from error
    kind = values.get('model_type') if isinstance(values, dict) else None
    try:
        if kind == 'MEI':
            return Mei(_size(values, 'image_width'), _size(values, 'image_height'),
                       **{name: float(values[part][name])
                          for part, names in PARTS.items() for name in names})
        if kind == 'EQUIRECTANGULAR':
            return Panorama(_size(values, 'image_width'), _size(values, 'image_height'),
                            float(values['top_deg']), float(values['bottom_deg']))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path} lacks a number of its model, or has something else in its '
                         f'place ({error}): copy or download it again') from error
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    raise InputError(f'{path} is of model_type {kind!r}, neither MEI nor EQUIRECTANGULAR: '
                     'give the calibration that came with the data set')


def _size(values: dict[str, Any], name: str) -> int:
    size = float(values[name])
    if not size.is_integer():
        raise ValueError(f'{name} {size}')
    return int(size)


def lens_text(camera: Mei | Panorama, name: str) -> str:
    """Return the text of a YAML file, exact to the last bit; the inverse of `read_lens`."""
    kind = 'MEI' if isinstance(camera, Mei) else 'EQUIRECTANGULAR'
    lines = ['%YAML:1.0', f'model_type: {kind}', f'camera_name: {name}',
             f'image_width: {camera.width}', f'image_height: {camera.height}']
    if isinstance(camera, Mei):
        for part, names in PARTS.items():
            lines += [f'{part}:', *(f'   {n}: {getattr(camera, n):.16e}' for n in names)]
    else:
        lines += [f'{n}: {getattr(camera, n):.16e}' for n in ('top_deg', 'bottom_deg')]
    return '\n'.join(lines) + '\n'
