"""A submap's points as its cloud encoder takes them, whichever kind of encoder that is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cloud_tokens import cloud_tokens
from .config import CloudConfig, ModelConfig, RangeConfig
from .config_published import PointNetConfig, VoxelConfig
from .pointnet import pointnet_input
from .range_image import range_image
from .voxels import voxel_input


def cloud_input(points: NDArray[np.float32], config: ModelConfig) -> tuple[NDArray[Any], ...]:
    """
    Return what `DualEncoder.encode_cloud` takes, without the batch's dimension.

    points: (n, 3) of a submap in the frame of the vehicle that looks, metres, z from the road.
    Groups of points: groups (G, K, 3) and centres (G, 3). Range image: (1, h, w). Points:
    (P, 3). All float32. Voxels: features, cells (int32), points, see `voxel_input`.
    The same points in another order give the same. Too few in view are an InputError.
    """
    if isinstance(config.cloud, RangeConfig):
        return (range_image(points, config),)
    if isinstance(config.cloud, PointNetConfig):
        return (pointnet_input(points, config.cloud),)
    if isinstance(config.cloud, VoxelConfig):
        return voxel_input(points, config.cloud)
    return tuple(cloud_tokens(points, config.cloud.tokens))


def cloud_preparation(config: ModelConfig) -> dict[str, Any]:
    """Return all of a configuration that shapes `cloud_input`, for hashes."""
    if isinstance(config.cloud, CloudConfig):
        return config.cloud.tokens.model_dump(mode='json')
    if isinstance(config.cloud, PointNetConfig):
        return config.cloud.model_dump(mode='json', exclude={'layers', 'transforms', 'norm'})
    if isinstance(config.cloud, VoxelConfig):
        network = {'channels', 'layers', 'dim', 'camera_m'}
        return config.cloud.model_dump(mode='json', exclude=network)
    layers = {'patch', 'dim', 'depth', 'heads', 'stem', 'bias', 'registers', 'layer_scale'}
    camera = config.image.camera if config.cloud.projection == 'camera' else None
    return {**config.cloud.model_dump(mode='json', exclude=layers),
            'camera': None if camera is None else repr(camera)}
