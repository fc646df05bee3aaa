"""What a model is, as a frozen configuration: every number that shapes a descriptor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    model_validator,
    PositiveInt,
    Tag,
    ValidationError,
)

from ..data.submaps import SubmapConfig
from ..errors import InputError
from ..geometry.cameras import Panorama, Pinhole
from .config_published import (
    Frozen,
    GemConfig,
    PointNetConfig,
    ProjectionConfig,
    ResNetConfig,
    SphericalConfig,
    VoxelConfig,
)


class VitConfig(Frozen):
    """
    A vision transformer over a picture of any kind.

    height, width: pixels of its input. patch: pixels a token is wide and high. stem: 'patch' is
    the ViT's single convolution, 'conv' three with group norms, which learn faster. bias: whether
    the transformer's linear layers have one (their gradients are slow on processors). registers:
    tokens that see no pixels, as some DINOv2 have; layer_scale: a learned factor on what each
    part of a block adds, as all DINOv2 have.
    """

    height: PositiveInt
    width: PositiveInt
    patch: PositiveInt = 16
    dim: PositiveInt = 384
    depth: PositiveInt = 12
    heads: PositiveInt = 6
    stem: Literal['patch', 'conv'] = 'patch'
    bias: bool = True
    registers: int = Field(default=0, ge=0)
    layer_scale: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        return -(-self.height // self.patch), -(-self.width // self.patch)

    @model_validator(mode='after')
    def _fits(self) -> VitConfig:
        _check_heads(self.dim, self.heads)
        if self.stem == 'conv' and self.patch % 4:
            raise ValueError(f'a conv stem needs a patch divisible by 4, not {self.patch}')
        if self.stem == 'conv' and self.dim % 32:
            raise ValueError(f'a conv stem needs a dim divisible by 32, not {self.dim}')
        return self


class ImageConfig(VitConfig):
    """
    The image branch and the picture that it is given.

    camera: the virtual pinhole or panorama to which an image is brought (same optical axis), so
    that one pixel is one direction whichever camera took it; None: the image is resized as it is.
    mean, std: of the three channels, on a scale of 0 to 1.
    """

    kind: Literal['vit'] = 'vit'
    camera: Pinhole | Panorama | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @model_validator(mode='after')
    def _sees(self) -> ImageConfig:
        if self.camera and (self.camera.width, self.camera.height) != (self.width, self.height):
            raise ValueError(f'the virtual camera is {self.camera.width} x {self.camera.height}, '
                             f'the input {self.width} x {self.height}')
        if isinstance(self.camera, Pinhole) and not (
                self.camera.fx > 0.0 and self.camera.fy > 0.0):
            raise ValueError('the virtual camera needs positive focal lengths')
        return self


class TokenConfig(Frozen):
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


class CloudConfig(Frozen):
    """
    A cloud branch of groups of points.

    pointnet: widths of the first stage's layers, which end in a maximum over the group.
    pointnet_second: widths of a second stage, which sees each point beside that maximum; empty:
    there is none, which is several times faster on processors. offset_scale: what the offsets of
    neighbours are multiplied by, to bring them near one. bias: as in `ImageConfig`.
    """

    kind: Literal['points'] = 'points'
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


class RangeConfig(VitConfig):
    """
    A cloud branch that sees the submap as a range image, rendered with occlusion.

    projection: 'camera' renders it as the image branch's virtual camera would see it, so that a
    token of either branch looks in the same direction; 'spherical' by azimuth and elevation,
    `field_of_view_deg` wide about straight ahead and between `elevation_deg`. sensor_height_m:
    of the point from which it is seen, above the road. max_range_m: what is farther is nothing.
    splat_m: how wide a surface each point stands for.
    """

    kind: Literal['range'] = 'range'
    projection: Literal['camera', 'spherical'] = 'camera'
    field_of_view_deg: float = Field(default=360.0, gt=0.0, le=360.0)
    elevation_deg: tuple[float, float] = (-25.0, 25.0)
    sensor_height_m: float = 1.6
    max_range_m: float = Field(default=60.0, gt=0.0)
    splat_m: float = Field(default=0.3, gt=0.0)


class AggregationConfig(Frozen):
    """
    From tokens to a descriptor by NetVLAD (see `netvlad`).

    clusters: of NetVLAD. saliency_strength: 0 is plain NetVLAD, 1 weights a token by its attention
    over the mean. intra_normalise: each cluster's sum to unit length, as published; without it the
    flattened sums are layer-normalised, which learns faster. gating: context gating.
    mean_token: the tokens' (weighted) mean enters the descriptor beside the sums. layout: so many
    channels of each token enter with the token's place in the picture, which sums and means throw
    away; it asks for tokens on a grid in both branches. squeeze: the
    channels are weighted before, squeezed by this factor (`pooling.SqueezeExcitation`); 0: not.
    """

    kind: Literal['netvlad'] = 'netvlad'
    clusters: PositiveInt = 64
    saliency_strength: float = Field(default=1.0, ge=0.0)
    intra_normalise: bool = True
    gating: bool = True
    mean_token: bool = False
    layout: int = Field(default=0, ge=0)
    squeeze: int = Field(default=0, ge=0)


class VerifierConfig(Frozen):
    """
    What compares an image with each of the places that were found for it (see `verifier`).

    details: numbers kept of each token, of images and of places. width, depth: channels and blocks
    of the network. reach: tokens are compared over so many columns to either side. weight: what a
    unit of its logit is worth in cosine.
    """

    details: PositiveInt = 32
    width: PositiveInt = Field(default=48, multiple_of=8)
    depth: PositiveInt = 2
    reach: int = Field(default=2, ge=0)
    weight: float = Field(default=0.03, ge=0.0)


class View(Frozen):
    """From where a place is seen: `left_m` beside the map vehicle's pose, turned by `yaw_deg`."""

    left_m: float = 0.0
    yaw_deg: float = 0.0


def _tagged(default: str) -> Discriminator:
    """Return what tells kinds apart by their `kind`; models of earlier versions have none."""
    return Discriminator(lambda value: value.get('kind', default) if isinstance(value, dict)
                         else getattr(value, 'kind', None))


AnyImage = ImageConfig | ResNetConfig | SphericalConfig
AnyCloud = CloudConfig | RangeConfig | PointNetConfig | VoxelConfig
AnyAggregation = AggregationConfig | GemConfig | ProjectionConfig

ImageKind = Annotated[
    Annotated[ImageConfig, Tag('vit')] | Annotated[ResNetConfig, Tag('resnet')]
    | Annotated[SphericalConfig, Tag('spherical')], _tagged('vit')]
CloudKind = Annotated[
    Annotated[CloudConfig, Tag('points')] | Annotated[RangeConfig, Tag('range')]
    | Annotated[PointNetConfig, Tag('pointnet')] | Annotated[VoxelConfig, Tag('voxels')],
    _tagged('points')]
AggregationKind = Annotated[
    Annotated[AggregationConfig, Tag('netvlad')] | Annotated[GemConfig, Tag('gem')]
    | Annotated[ProjectionConfig, Tag('projection')], _tagged('netvlad')]


class ModelConfig(Frozen):
    """
    A dual encoder, and the submaps that it was made for.

    views: from where each submap of a map is seen; each view is a place of the database.
    smooth_m: how far around a place's description is a mean with its neighbours', see
    `mapping.views.smoothed`; 0: not at all.
    mirrored: both branches describe their picture twice, as it is and in a mirror; each look gives
    half of the descriptor. It asks for pictures in both branches, and a centred camera.
    verifier: compares an image with the places found for it, token by token; None: there is none.
    It asks for pictures with the same rows and columns of tokens in both branches.
    """

    name: str
    image: ImageKind
    cloud: CloudKind
    aggregation: AggregationKind = AggregationConfig()
    descriptor_dim: PositiveInt = 256
    submap: SubmapConfig = SubmapConfig()
    views: tuple[View, ...] = Field(default=(View(),), min_length=1)
    smooth_m: float = Field(default=0.0, ge=0.0)
    mirrored: bool = False
    verifier: VerifierConfig | None = None

    @property
    def has_saliency(self) -> bool:
        """Return whether both branches have a CLS token, whose attention is the saliency."""
        return (isinstance(self.image, ImageConfig)
                and isinstance(self.cloud, CloudConfig | RangeConfig))

    @model_validator(mode='after')
    def _together(self) -> ModelConfig:
        if (isinstance(self.cloud, RangeConfig) and self.cloud.projection == 'camera'
                and self.image.camera is None):
            raise ValueError("a range image in the projection 'camera' needs the image branch's "
                             'virtual camera')
        if (isinstance(self.aggregation, AggregationConfig) and self.aggregation.layout
                and not (isinstance(self.image, VitConfig) and isinstance(self.cloud, VitConfig))):
            raise ValueError('a layout asks for tokens on a grid: images of the kind vit and '
                             'clouds of the kind range')
        if self.mirrored and not (
                isinstance(self.image, VitConfig) and isinstance(self.cloud, VitConfig)
                and self.descriptor_dim % 2 == 0 and _centred(self.image.camera)):
            raise ValueError('a mirror asks for images of the kind vit, clouds of the kind range, '
                             'a camera that looks out of its middle, and an even descriptor_dim')
        if isinstance(self.cloud, VoxelConfig) and isinstance(self.aggregation, AggregationConfig):
            raise ValueError('voxels are pooled by gem or projection, which leave out empty rows')
        self._check_verifier()
        return self

    @property
    def details_shape(self) -> tuple[int, int] | None:
        """Return the tokens of a picture and the numbers kept of each; None without verifier."""
        if self.verifier is None:
            return None
        rows, columns = self.image.grid
        return rows * columns, self.verifier.details

    def _check_verifier(self) -> None:
        if self.verifier is None:
            return
        if not isinstance(self.cloud, RangeConfig):
            raise ValueError('a verifier asks for clouds of the kind range, whose tokens lie on a '
                             "grid as the image's do")
        if self.image.grid != self.cloud.grid:
            rows, columns = self.cloud.grid
            raise ValueError(
                f'a verifier asks for the same grid of tokens in both branches: the image has '
                f'{self.image.grid[0]} x {self.image.grid[1]}, the cloud {rows} x {columns}')
        if 2 * self.verifier.reach >= self.image.grid[1]:
            raise ValueError(
                f"the verifier's reach of {self.verifier.reach} columns to either side is wider "
                f'than the {self.image.grid[1]} columns that there are')


def _centred(camera: Pinhole | Panorama | None) -> bool:
    return (not isinstance(camera, Pinhole)
            or abs(camera.cx - (camera.width - 1) / 2.0) < 0.5)


def _check_heads(dim: int, heads: int) -> None:
    if dim % heads:
        raise ValueError(f'dim {dim} is not divisible by heads {heads}')


def parse_config(value: Any, where: str) -> ModelConfig:
    """Return the configuration in a JSON-like value; what is wrong in it is an InputError."""
    try:
        return ModelConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        # The second part of a name in these is which kind it is, and no key.
        key = '.'.join(str(part) for i, part in enumerate(first['loc']) if i != 1 or first[
            'loc'][0] not in ('image', 'cloud', 'aggregation')) or 'the whole'
        raise InputError(f'{where}: {key}: {first["msg"]}: mend it, or take the model of the '
                         'version that wrote it') from error
