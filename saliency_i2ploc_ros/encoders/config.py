"""
What a model is, as a frozen configuration: every number that shapes a descriptor.

Two are ready: `PAPER`, layer for layer the published SaliencyI2PLoc (arXiv 2412.15577), and
`CITY`, small enough to train and to run on two processor cores.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator, PositiveInt, ValidationError

from ..data.submaps import SubmapConfig
from ..errors import InputError
from ..geometry.cameras import Pinhole


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid')


class ImageConfig(_Config):
    """
    The image branch and the picture that it is given.

    height, width: pixels of its input. patch: pixels a token is wide and high. stem: 'patch' is
    the ViT's single convolution, 'conv' three with group norms, which learn faster. camera: the
    virtual pinhole to which a perspective image is brought (same optical axis), so that one pixel
    is one direction whichever camera took it; None: the image is resized as it is (panoramas).
    mean, std: of the three channels, on a scale of 0 to 1. bias: whether the transformer's linear
    layers have one (their gradients are slow on processors).
    """

    height: PositiveInt
    width: PositiveInt
    patch: PositiveInt = 16
    dim: PositiveInt = 384
    depth: PositiveInt = 12
    heads: PositiveInt = 6
    stem: Literal['patch', 'conv'] = 'patch'
    bias: bool = True
    camera: Pinhole | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        return -(-self.height // self.patch), -(-self.width // self.patch)

    @model_validator(mode='after')
    def _fits(self) -> ImageConfig:
        _check_heads(self.dim, self.heads)
        if self.stem == 'conv' and self.patch % 4:
            raise ValueError(f'a conv stem needs a patch divisible by 4, not {self.patch}')
        if self.stem == 'conv' and self.dim % 32:
            raise ValueError(f'a conv stem needs a dim divisible by 32, not {self.dim}')
        if self.camera and (self.camera.width, self.camera.height) != (self.width, self.height):
            raise ValueError(f'the virtual camera is {self.camera.width} x {self.camera.height}, '
                             f'the input {self.width} x {self.height}')
        if self.camera and not (self.camera.fx > 0.0 and self.camera.fy > 0.0):
            raise ValueError('the virtual camera needs positive focal lengths')
        return self


class TokenConfig(_Config):
    """
    How a submap becomes groups of points (see `cloud_tokens`).

    space: in which neighbours are sought and groups given: 'cartesian' metres of the vehicle
    frame, or 'spherical' azimuth, elevation and log range about the sensor. field_of_view_deg:
    only points within this azimuth, centred on straight ahead. elevation_deg: only between these.
    visible_only: only the nearest point of each cell_deg x cell_deg cell, as one look from the
    sensor would see. sensor_height_m: of the point from which all this is seen, above the road.
    points: kept at most. centres, neighbours: groups, and points in each.
    """

    space: Literal['cartesian', 'spherical'] = 'cartesian'
    field_of_view_deg: float | None = Field(default=None, gt=0.0, le=360.0)
    elevation_deg: tuple[float, float] | None = None
    visible_only: bool = False
    cell_deg: float = Field(default=0.6, ge=0.05, le=10.0)
    sensor_height_m: float = 1.6
    points: PositiveInt = 20480
    centres: PositiveInt = 3072
    neighbours: PositiveInt = 32


class CloudConfig(_Config):
    """
    The cloud branch.

    pointnet: widths of the first stage's layers, which end in a maximum over the group.
    pointnet_second: widths of a second stage, which sees each point beside that maximum; empty:
    there is none, which is several times faster on processors. offset_scale: what the offsets of
    neighbours are multiplied by, to bring them near one. bias: as in `ImageConfig`.
    """

    tokens: TokenConfig = TokenConfig()
    dim: PositiveInt = 384
    depth: PositiveInt = 12
    heads: PositiveInt = 3
    pointnet: tuple[PositiveInt, PositiveInt] = (128, 256)
    pointnet_second: tuple[PositiveInt, PositiveInt] | tuple[()] = (512, 1024)
    pointnet_norm: bool = True
    position_width: PositiveInt = 128
    offset_scale: float = Field(default=1.0, gt=0.0)
    bias: bool = True

    @model_validator(mode='after')
    def _fits(self) -> CloudConfig:
        _check_heads(self.dim, self.heads)
        return self


class AggregationConfig(_Config):
    """
    From tokens to a descriptor (see `netvlad`).

    clusters: of NetVLAD. saliency_strength: 0 is plain NetVLAD, 1 weights a token by its attention
    over the mean. intra_normalise: each cluster's sum to unit length, as published; without it the
    flattened sums are layer-normalised, which learns faster. gating: context gating.
    mean_token: the tokens' (weighted) mean enters the descriptor beside the sums.
    """

    clusters: PositiveInt = 64
    saliency_strength: float = Field(default=1.0, ge=0.0)
    intra_normalise: bool = True
    gating: bool = True
    mean_token: bool = False


class ModelConfig(_Config):
    """A dual encoder, and the submaps that it was made for."""

    name: str
    image: ImageConfig
    cloud: CloudConfig
    aggregation: AggregationConfig = AggregationConfig()
    descriptor_dim: PositiveInt = 256
    submap: SubmapConfig = SubmapConfig()


def _check_heads(dim: int, heads: int) -> None:
    if dim % heads:
        raise ValueError(f'dim {dim} is not divisible by heads {heads}')


def parse_config(value: Any, where: str) -> ModelConfig:
    """Return the configuration in a JSON-like value; what is wrong in it is an InputError."""
    try:
        return ModelConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(str(part) for part in first['loc']) or 'the whole'
        raise InputError(f'{where}: {key}: {first["msg"]}: mend it, or take the model of the '
                         'version that wrote it') from error


PAPER = ModelConfig(
    name='paper',
    image=ImageConfig(height=512, width=1024),
    cloud=CloudConfig(),
    submap=SubmapConfig(size_m=40.0, outlier_neighbours=40, outlier_sigma=0.3),
)

# The city's camera (320 x 96, f = 125.6) scaled by 2/3 and cut to 13 tokens: 102 degrees.
CITY = ModelConfig(
    name='city',
    image=ImageConfig(
        height=64, width=208, dim=128, depth=4, heads=4, stem='conv', bias=False,
        camera=Pinhole(208, 64, 83.75, 83.75, 103.5, 31.5),
    ),
    cloud=CloudConfig(
        tokens=TokenConfig(
            space='spherical', field_of_view_deg=110.0, elevation_deg=(-30.0, 40.0),
            visible_only=True, points=4096, centres=96, neighbours=32,
        ),
        dim=128, depth=4, heads=4, pointnet=(64, 128), pointnet_second=(), pointnet_norm=False,
        offset_scale=10.0, bias=False,
    ),
    aggregation=AggregationConfig(
        clusters=16, intra_normalise=False, gating=False, mean_token=True,
    ),
    submap=SubmapConfig(size_m=80.0, spacing_m=5.0),
)

PRESETS: dict[str, ModelConfig] = {config.name: config for config in (PAPER, CITY)}
