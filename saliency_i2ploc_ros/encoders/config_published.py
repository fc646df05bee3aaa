"""The networks of the systems that are compared, as frozen configurations."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator, PositiveFloat, PositiveInt

from ..geometry.cameras import Panorama, Pinhole

Pair = tuple[float, float]
Triple = tuple[float, float, float]


class Frozen(BaseModel):
    """A configuration that does not change and takes no unknown keys."""

    model_config = ConfigDict(frozen=True, extra='forbid')


class ResidualConfig(Frozen):
    """
    A residual network (He et al., arXiv 1512.03385) over a picture.

    height, width, camera, mean, std: as in `ImageConfig`. blocks: of each of the four stages;
    bottleneck: three convolutions a block instead of two. ResNet-18 is (2, 2, 2, 2) without,
    ResNet-50 (3, 4, 6, 3) with it. channels: of the first stage. norm: 'batch' is what published
    weights were trained with; its statistics in training are those of one chunk of a batch, so
    that cached-gradient steps and several processes train a slightly different network than one
    large batch would. 'group' has no such statistics. In eval mode neither looks across samples.
    """

    height: PositiveInt
    width: PositiveInt
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 6, 3)
    bottleneck: bool = True
    channels: PositiveInt = 64
    norm: Literal['batch', 'group'] = 'batch'
    camera: Pinhole | Panorama | None = None
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)

    @property
    def patch(self) -> int:
        """Return how many pixels a token is wide and high."""
        return 32

    @property
    def dim(self) -> int:
        """Return the width of a token: the channels of the last stage."""
        return self.channels * (32 if self.bottleneck else 8)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens, one for 32 x 32 pixels."""
        return -(-self.height // 32), -(-self.width // 32)

    @model_validator(mode='after')
    def _fits(self) -> ResidualConfig:
        if self.norm == 'group' and self.channels % 8:
            raise ValueError(f'group norms need channels divisible by 8, not {self.channels}')
        if self.camera and (self.camera.width, self.camera.height) != (self.width, self.height):
            raise ValueError(f'the virtual camera is {self.camera.width} x {self.camera.height}, '
                             f'the input {self.width} x {self.height}')
        return self


class ResNetConfig(ResidualConfig):
    """A residual network of ordinary convolutions."""

    kind: Literal['resnet'] = 'resnet'


class SphericalConfig(ResidualConfig):
    """A residual network whose kernels lie on the viewing sphere of its camera (`spherical`)."""

    kind: Literal['spherical'] = 'spherical'

    @model_validator(mode='after')
    def _sees(self) -> SphericalConfig:
        if self.camera is None:
            raise ValueError('spherical convolutions need a virtual camera: a pinhole, or a '
                             'panorama')
        if isinstance(self.camera, Panorama) and self.width % 32:
            raise ValueError(f'spherical convolutions go round a panorama whose width is '
                             f'divisible by 32, not {self.width}')
        return self


class PointNetConfig(Frozen):
    """
    A PointNet (Qi et al., arXiv 1612.00593) over single points of a submap.

    points: of the submap, even in space. min_height_m: what is lower above the road is ground and
    left out. field_of_view_deg: only points within this azimuth about straight ahead. max_range_m:
    only those so near in the plane. unit_m: a coordinate of one. layers: widths, of which the last
    is that of a token; the input and the second layer's output pass through learned linear
    transforms if so configured. norm: as in `ResidualConfig`; 'group' are layer norms here.
    """

    kind: Literal['pointnet'] = 'pointnet'
    points: PositiveInt = 4096
    min_height_m: float = 0.3
    field_of_view_deg: float | None = Field(default=None, gt=0.0, le=360.0)
    max_range_m: float | None = Field(default=None, gt=0.0)
    unit_m: PositiveFloat = 20.0
    layers: tuple[PositiveInt, ...] = Field(default=(64, 64, 64, 128, 1024), min_length=3)
    transforms: bool = True
    norm: Literal['batch', 'group'] = 'batch'

    @property
    def dim(self) -> int:
        """Return the width of a token."""
        return self.layers[-1]


class VoxelConfig(Frozen):
    """
    A convolutional network over the occupied voxels of a submap.

    voxel_m: edges along x, y, z. x_m, y_m, z_m: what is kept, in the frame of the vehicle, z from
    the road. Of each level: voxels, at most so many occupied ones (beyond, the farthest go);
    channels; layers, submanifold convolutions of 3 x 3 x 3. Each level's voxels are twice as long
    as those before it. dim: of the tokens, which are the last level's voxels, and must be the
    image's to be compared with it. camera_m: where the camera is, ahead and above the road.
    """

    kind: Literal['voxels'] = 'voxels'
    voxel_m: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.4, 0.4, 0.2)
    x_m: Pair = (0.0, 44.0)
    y_m: Pair = (-22.4, 22.4)
    z_m: Pair = (-1.0, 5.4)
    voxels: tuple[PositiveInt, ...] = Field(default=(8192, 4096, 2048), min_length=1)
    channels: tuple[PositiveInt, ...] = (32, 64, 128)
    layers: PositiveInt = 2
    dim: PositiveInt = 384
    camera_m: Pair = (0.0, 1.6)

    @property
    def size(self) -> tuple[int, int, int]:
        """Return how many voxels there are along x, y and z at the finest level."""
        x, y, z = (max(round((high - low) / edge), 1) for (low, high), edge in zip(
            (self.x_m, self.y_m, self.z_m), self.voxel_m, strict=True))
        return x, y, z

    @model_validator(mode='after')
    def _fits(self) -> VoxelConfig:
        if len(self.voxels) != len(self.channels):
            raise ValueError('voxels and channels need one number for each level')
        if any(low >= high for low, high in (self.x_m, self.y_m, self.z_m)):
            raise ValueError('x_m, y_m and z_m need a lower and a higher bound')
        return self


class GemConfig(Frozen):
    """Generalised mean pooling (`pooling.Gem`). power: at the start; it is learned."""

    kind: Literal['gem'] = 'gem'
    power: float = Field(default=3.0, ge=1.0)


class ProjectionConfig(Frozen):
    """The mean token through a residual head (`pooling.Projection`)."""

    kind: Literal['projection'] = 'projection'
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
