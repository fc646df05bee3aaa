"""A tiny model, and batches of noise to try the machinery of training on."""

import numpy as np
import torch

from saliency_i2ploc_ros.encoders.config import ModelConfig
from saliency_i2ploc_ros.encoders.presets import CITY
from saliency_i2ploc_ros.training.batches import Batch
from saliency_i2ploc_ros.training.config import Site, TrainingConfig
from saliency_i2ploc_ros.training.geometry import BINS_PER_COLUMN


def tiny_model() -> ModelConfig:
    """Return CITY's kind of model, small enough to overfit in seconds."""
    values = CITY.model_dump()
    values['image'].update(height=32, width=104, patch=8, dim=64, depth=2, heads=2,
                           camera=CITY.image.camera.resized(104, 32))
    values['cloud'].update(dim=64, depth=2, heads=2, pointnet=(16, 32))
    values['cloud']['tokens'].update(points=1024, centres=32, neighbours=16)
    values['aggregation'].update(clusters=4)
    values['descriptor_dim'] = 64
    return ModelConfig.model_validate(values)


def noise_config(**changes) -> TrainingConfig:
    """Return a recipe in fp32 whose sites are never read."""
    return TrainingConfig.model_validate({
        'model': tiny_model(), 'sites': (Site(root='none', map_drive='a', query_drives=('a',)),),
        'precision': 'fp32', 'threads': 1, 'steps': 10, **changes})


def noise_batch(config: TrainingConfig, seed: int = 0) -> Batch:
    """Return a batch as `draw_batch` makes them, of noise; much of its geometry is unknown."""
    rng = np.random.default_rng(seed)
    n, image, tokens = config.batch, config.model.image, config.model.cloud.tokens
    columns = image.grid[1]

    def noise(*shape):
        return torch.from_numpy(rng.standard_normal((n, *shape)).astype(np.float32))

    profile = noise(BINS_PER_COLUMN * columns, 2)
    profile[torch.from_numpy(rng.random(profile.shape) < np.linspace(0, 1, n)[:, None, None])] = (
        torch.nan)
    xy = torch.from_numpy(rng.uniform(0, 100, (n, 2)))
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (n, image.height, image.width, 3), np.uint8)),
        clouds=(0.05 * noise(tokens.centres, tokens.neighbours, 3), noise(tokens.centres, 3)),
        column=torch.from_numpy(rng.integers(-1, columns, (n, tokens.centres))),
        geometry=profile, image_xy=xy, image_yaw=torch.zeros(n), cloud_xy=xy + 1.0,
        cloud_yaw=torch.zeros(n), frame=torch.from_numpy(rng.integers(0, 2, n)))
