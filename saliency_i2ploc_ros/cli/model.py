"""`i2ploc model`: what a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TYPE_CHECKING

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..encoders.config import ModelConfig
    from ..encoders.dual import DualEncoder


def command(
    model: Annotated[str, typer.Argument(help='A model folder, or a preset: city, paper.')],
) -> None:
    """
    Print what a model is: input, size, descriptor, hashes, and where it comes from.

    A place database carries the two hashes of the model that made it and is refused with another.
    """
    from ..encoders.dual import DualEncoder
    from ..encoders.files import encoder_hash, load_model, preprocessing_hash, read_provenance
    from ..encoders.presets import PRESETS

    folder = Path(model)
    if folder.is_dir():
        encoder, provenance = load_model(folder), read_provenance(folder)
        identity, source = encoder_hash(encoder), str(folder)
    elif model in PRESETS:
        encoder, provenance = DualEncoder(PRESETS[model]), {}
        identity, source = 'none: untrained', 'a preset'
    else:
        raise InputError(f'{model} is neither a model folder nor a preset '
                         f'({", ".join(PRESETS)})')
    config = encoder.config
    lines = [
        ('model', f'{config.name} ({source})'),
        ('image input', image_input(config)),
        ('cloud input', cloud_input(config)),
        ('submaps', f'{config.submap.size_m:g} x {config.submap.size_m:g} m '
                    f'every {config.submap.spacing_m:g} m'),
        ('descriptor', f'{config.descriptor_dim} numbers, unit length'),
        ('aggregation', aggregation(config)),
        *verifier(config),
        *parameters(encoder),
        ('encoder hash', identity),
        ('preprocessing hash', preprocessing_hash(config)),
        *((key, in_short(value)) for key, value in provenance.items()),
    ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        typer.echo(f'{name:{width}}  {value}')


def image_input(config: ModelConfig) -> str:
    """Return the image branch's input in words."""
    image = config.image
    rows, columns = image.grid
    view = 'resized as it is' if image.camera is None else (
        f'through a {type(image.camera).__name__.lower()} of '
        f'{image.camera.horizontal_fov * 57.29578:.0f} degrees')
    return f'{image.width} x {image.height} RGB, {view}, {columns} x {rows} tokens'


def cloud_input(config: ModelConfig) -> str:
    """Return the cloud branch's input in words."""
    cloud = config.cloud
    if cloud.kind == 'range':
        turn = '' if cloud.projection == 'camera' else f' over {cloud.field_of_view_deg:g} deg'
        return (f'{cloud.width} x {cloud.height} range image, {cloud.projection}{turn}, up to '
                f'{cloud.max_range_m:g} m')
    if cloud.kind == 'pointnet':
        view = '' if cloud.field_of_view_deg is None else (
            f' within {cloud.field_of_view_deg:g} deg')
        return f'{cloud.points} points{view}, above {cloud.min_height_m:g} m'
    if cloud.kind == 'voxels':
        edges = ' x '.join(f'{edge:g}' for edge in cloud.voxel_m)
        return f'{cloud.voxels[0]} voxels of {edges} m, up to {cloud.x_m[1]:g} m ahead'
    tokens = cloud.tokens
    view = '' if tokens.field_of_view_deg is None else f' within {tokens.field_of_view_deg:g} deg'
    visible = ' visible' if tokens.visible_only else ''
    return (f'{tokens.points}{visible} points{view}, {tokens.centres} groups of '
            f'{tokens.neighbours}, {tokens.space}')


def aggregation(config: ModelConfig) -> str:
    """Return the aggregation in words."""
    settings = config.aggregation
    if settings.kind != 'netvlad':
        return {'gem': 'generalised mean', 'projection': 'mean, residual head'}[settings.kind]
    extra = ', mean token' if settings.mean_token else ''
    extra += f', channels squeezed {settings.squeeze} times' if settings.squeeze else ''
    return (f'NetVLAD of {settings.clusters} clusters{extra}, '
            f'saliency strength {settings.saliency_strength:g}')


def in_short(value: Any) -> str:
    """Return a value of the provenance in one line; config.json has long lists whole."""
    if isinstance(value, list) and len(value) > 6:
        return f'{len(value)}: {value[0]}, {value[1]} ... {value[-1]}'
    return value if isinstance(value, str) else json.dumps(value)


def verifier(config: ModelConfig) -> list[tuple[str, str]]:
    """Return in words what compares images with places, if anything does."""
    if config.verifier is None:
        return []
    settings, (rows, columns) = config.verifier, config.image.grid
    kilobytes = rows * columns * settings.details * 2 / 1e3
    return [('verifier', f'{columns} x {rows} tokens of {settings.details} numbers '
             f'({kilobytes:.1f} kB a place), {settings.reach} columns to either side, '
             f'{settings.depth} blocks of {settings.width} channels, weight {settings.weight:g}')]


def parameters(encoder: DualEncoder) -> list[tuple[str, str]]:
    """Return the number of parameters of each part, and of all, in millions."""
    parts = [('image encoder', encoder.image.encoder), ('cloud encoder', encoder.cloud.encoder),
             ('image aggregation', encoder.image.aggregation),
             ('cloud aggregation', encoder.cloud.aggregation),
             ('verifier network', encoder.verifier), ('parameters', encoder)]
    return [(name, f'{sum(p.numel() for p in part.parameters()) / 1e6:.2f} M')
            for name, part in parts if part is not None]
