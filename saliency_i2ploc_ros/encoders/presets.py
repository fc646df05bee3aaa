"""
The models by name: this package's, and the systems that it is compared with.

`PAPER` is the published SaliencyI2PLoc (arXiv 2412.15577), layer for layer; `CITY` and `OURS_CITY`
are small enough to train and to run on two processor cores. The others come as published, and as
small.

What is published is said where it is; what a paper does not say was chosen here, and is said too.
All of the small ones see the same submaps from the same views of them, in the city's camera.
"""

from __future__ import annotations

from typing import Any

from ..data.submaps import SubmapConfig
from ..geometry.cameras import Panorama, Pinhole
from .config import (
    AggregationConfig,
    CloudConfig,
    ImageConfig,
    ModelConfig,
    RangeConfig,
    TokenConfig,
    View,
)
from .config_published import (
    GemConfig,
    PointNetConfig,
    ProjectionConfig,
    SphericalConfig,
    VoxelConfig,
)

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

# What the comparison of systems found best, for the same camera: both branches see the same
# directions, and each submap is seen in both directions of travel.
OURS_CITY = ModelConfig(
    name='ours-city',
    image=ImageConfig(
        height=64, width=208, dim=128, depth=4, heads=4, stem='conv', bias=False,
        camera=Pinhole(208, 64, 83.75, 83.75, 103.5, 31.5),
    ),
    cloud=RangeConfig(height=64, width=208, dim=128, depth=4, heads=4, stem='conv', bias=False),
    aggregation=AggregationConfig(
        clusters=16, intra_normalise=False, gating=False, mean_token=True, layout=32,
    ),
    submap=SubmapConfig(size_m=120.0, spacing_m=5.0, voxel_m=0.2, points=120_000),
    views=(View(), View(left_m=3.5, yaw_deg=180.0)), smooth_m=3.5,
)

# A KITTI image (1242 x 375) resized to 224 x 224, as a camera.
KITTI_SQUARE = Pinhole(1242, 375, 721.54, 721.54, 609.56, 172.85).resized(224, 224)
CAMERA_AHEAD_M = 0.6  # of the city's vehicle
CITY_MAP: dict[str, Any] = {'submap': OURS_CITY.submap, 'views': OURS_CITY.views,
                            'smooth_m': OURS_CITY.smooth_m}

SALIENCY = PAPER.model_copy(update={'name': 'saliency_i2ploc'})
SALIENCY_CITY = CITY.model_copy(update={'name': 'saliency_i2ploc-city', **CITY_MAP})

# LIP-Loc, arXiv 2312.16648. A range image of 64 x 900 over +3 to -25 degrees, of which the upper
# half of the rows and the middle third of the columns are kept and resized to a square: here the
# same view is rendered at once, and from the accumulated map where the paper takes one scan. How
# tokens become one vector it does not say: their mean.
LIP_LOC = ModelConfig(
    name='lip_loc',
    image=ImageConfig(height=224, width=224),
    cloud=RangeConfig(
        height=224, width=224, heads=6, projection='spherical', field_of_view_deg=120.0,
        elevation_deg=(-11.0, 3.0), sensor_height_m=1.73, max_range_m=50.0,
    ),
    aggregation=ProjectionConfig(),
    submap=OURS_CITY.submap,
)
LIP_LOC_CITY = ModelConfig(
    name='lip_loc-city',
    image=CITY.image,
    cloud=RangeConfig(
        height=64, width=208, dim=128, depth=4, heads=4, stem='conv', bias=False,
        projection='spherical', field_of_view_deg=120.0, elevation_deg=(-11.0, 3.0),
        sensor_height_m=1.73, max_range_m=50.0,
    ),
    aggregation=ProjectionConfig(), **CITY_MAP,
)

# Attention-Enhanced Cross-modal Localization Between Spherical Images and Point Clouds. Where the
# attention stands is not known here: on the tokens, before NetVLAD. Nor are the widths of
# PointNet, which are its own (arXiv 1612.00593).
AE_SPHERICAL = ModelConfig(
    name='ae_spherical',
    image=SphericalConfig(
        height=512, width=1024, blocks=(2, 2, 2, 2), bottleneck=False,
        camera=Panorama(1024, 512, 90.0, -90.0),
    ),
    cloud=PointNetConfig(),
    aggregation=AggregationConfig(
        clusters=64, saliency_strength=0.0, gating=False, squeeze=16,
    ),
    submap=PAPER.submap,
)
AE_SPHERICAL_CITY = ModelConfig(
    name='ae_spherical-city',
    image=SphericalConfig(
        height=64, width=208, blocks=(1, 1, 1, 1), bottleneck=False, channels=24, norm='group',
        camera=CITY.image.camera,
    ),
    cloud=PointNetConfig(
        points=1024, field_of_view_deg=110.0, max_range_m=40.0, layers=(32, 32, 64, 64, 128),
        transforms=False, norm='group',
    ),
    aggregation=AggregationConfig(
        clusters=16, saliency_strength=0.0, gating=False, squeeze=8,
    ), **CITY_MAP,
)

# VXP: Voxel-Cross-Pixel Large-scale Image-LiDAR Place Recognition. Its voxel network is not known
# here in its layers: those of `VoxelEncoder`.
VXP = ModelConfig(
    name='vxp',
    image=ImageConfig(
        height=224, width=224, patch=8, camera=KITTI_SQUARE,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    cloud=VoxelConfig(voxels=(16384, 6144, 2048), channels=(64, 128, 256)),
    aggregation=GemConfig(),
    submap=OURS_CITY.submap,
)
VXP_CITY = ModelConfig(
    name='vxp-city',
    image=ImageConfig(
        height=64, width=208, patch=8, dim=96, depth=4, heads=3, stem='conv', bias=False,
        camera=CITY.image.camera,
    ),
    cloud=VoxelConfig(
        voxel_m=(1.0, 1.0, 1.0), y_m=(-22.0, 22.0), z_m=(0.3, 8.3), voxels=(896, 320),
        channels=(24, 64), layers=1, dim=96, camera_m=(CAMERA_AHEAD_M, 1.6),
    ),
    aggregation=GemConfig(), **CITY_MAP,
)


def as_panorama(
    config: ModelConfig, width: int = 256, height: int = 64, half_deg: float = 45.0,
) -> ModelConfig:
    """
    Return a system that sees the whole circle, up and down to `half_deg`, named '...-panorama'.

    Its images are panoramas of width x height pixels and its clouds all round the vehicle.
    """
    camera = Panorama(width, height, half_deg, -half_deg)
    image = config.image.model_copy(
        update={'width': width, 'height': height, 'camera': camera})
    cloud = config.cloud
    if isinstance(cloud, CloudConfig):
        tokens = cloud.tokens.model_copy(update={'field_of_view_deg': None})
        cloud = cloud.model_copy(update={'tokens': tokens})
    elif isinstance(cloud, RangeConfig):
        cloud = cloud.model_copy(
            update={'width': width, 'height': height, 'field_of_view_deg': 360.0})
    elif isinstance(cloud, PointNetConfig):
        cloud = cloud.model_copy(update={'field_of_view_deg': None})
    else:
        behind = (-cloud.x_m[1], cloud.x_m[1])
        cloud = cloud.model_copy(update={'x_m': behind, 'voxels': tuple(
            2 * count for count in cloud.voxels)})
    return ModelConfig.model_validate({**config.model_dump(), 'name': f'{config.name}-panorama',
                                       'image': image.model_dump(), 'cloud': cloud.model_dump()})


_CITY = (OURS_CITY, SALIENCY_CITY, LIP_LOC_CITY, AE_SPHERICAL_CITY, VXP_CITY)

PRESETS: dict[str, ModelConfig] = {config.name: config for config in (
    PAPER, SALIENCY, LIP_LOC, AE_SPHERICAL, VXP, CITY, *_CITY, *map(as_panorama, _CITY))}
