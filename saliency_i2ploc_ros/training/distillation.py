"""
VXP's three phases: an image teacher, voxels that match its pixels, descriptors that match its own.

As the paper has it these are trainings one after another; here thirds of one run. In the last two
the teacher is asked without a gradient, and so stands still but for what the optimiser still has
in motion and for weight decay: let the recipe have none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from ..encoders.config import ModelConfig
from ..encoders.config_published import VoxelConfig
from ..encoders.dual import Encoded
from ..encoders.voxels import occupied
from ..errors import InputError
from .batches import Batch
from .losses import distances
from .triplets import separations, triplet_loss

TEACHER_MARGIN = 0.3   # the paper's is not known here
TEACHER_TURN = 0.5     # radians between headings of images that show one place
OCCLUSION_M = 2.0      # behind the nearest voxel of its cell a voxel is hidden
OCCLUSION_CELLS = 2    # along each side of a token


def phase(progress: float) -> int:
    """Return 0 for the teacher, 1 for voxels and pixels, 2 for descriptors."""
    return min(int(3.0 * progress), 2)


def teacher_loss(
    images: Tensor, batch: Batch, positive_m: float = 20.0, ignored_m: float = 40.0,
) -> Tensor:
    """
    Return the triplet loss of image descriptors (n, d).

    Positive: another image under `positive_m` with a heading within 0.5 rad; negative: from
    `ignored_m`. That the paper's positives are ten seconds apart a batch cannot tell.
    """
    with torch.autocast(images.device.type, enabled=False):
        apart = distances(batch.image_xy, batch.frame, batch.image_xy, batch.frame)
        turn = batch.image_yaw[:, None] - batch.image_yaw[None]
        alike = torch.cos(turn) >= np.cos(TEACHER_TURN)
        own = torch.eye(len(images), dtype=torch.bool, device=images.device)
        return triplet_loss(separations(images, images), (apart < positive_m) & alike & ~own,
                            apart >= ignored_m, TEACHER_MARGIN)


def descriptor_loss(images: Tensor, clouds: Tensor) -> Tensor:
    """Return the smooth L1 of descriptors (n, d), summed over d, to those of the teacher."""
    with torch.autocast(images.device.type, enabled=False):
        return F.smooth_l1_loss(clouds.float(), images.float().detach(),
                                reduction='none').sum(1).mean()


def voxel_loss(image: Encoded, cloud: Encoded, batch: Batch, model: ModelConfig) -> Tensor:
    """
    Return the smooth L1 of voxels' tokens to the image's features where they are seen.

    The mean over the chunk's samples of the mean over the voxels that fall into the image and are
    not hidden; a sample without any counts as zero.
    """
    rows, columns = model.image.grid
    where, seen = voxel_pixels(batch, model)
    span = where.new_tensor([columns * model.image.patch, rows * model.image.patch])
    features = image.tokens.detach().float().transpose(1, 2).unflatten(2, (rows, columns))
    at = (where + 0.5) / span * 2.0 - 1.0
    pixels = F.grid_sample(features, at[:, None], align_corners=False,
                           padding_mode='border')[:, :, 0].transpose(1, 2)
    error = F.smooth_l1_loss(cloud.tokens.float(), pixels, reduction='none').mean(2)
    return ((error * seen).sum(1) / seen.sum(1).clamp_min(1)).mean()


def voxel_pixels(batch: Batch, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """
    Return at which pixels (B, W, 2) the voxels of each submap are in its image, and if (B, W).

    From where image and submap were taken, as the batch has it, and where the camera is on the
    vehicle. Hidden are voxels well behind another one in the same half token: the accumulated map
    has much that an image does not show.
    """
    if not isinstance(model.cloud, VoxelConfig) or model.image.camera is None:
        raise InputError("the objective 'vxp' compares voxels with pixels: take a model with a "
                         'voxel network and a virtual camera')
    if model.cloud.dim != model.image.dim:
        raise InputError(f'voxels are {model.cloud.dim} wide and pixels {model.image.dim}: set '
                         'model.cloud.dim to model.image.dim')
    there = occupied(batch.clouds[-2])
    p = in_vehicle(batch)
    ahead_m, height_m = model.cloud.camera_m
    optical = torch.stack([-p[..., 1], height_m - p[..., 2], p[..., 0] - ahead_m], -1)
    flat = optical.reshape(-1, 3).cpu().numpy()
    uv, inside = model.image.camera.project(flat)
    shape = there.shape
    seen = inside.reshape(shape) & there.cpu().numpy()
    uv = np.where(seen[..., None], uv.reshape(*shape, 2), 0.0)
    distance = np.linalg.norm(flat, axis=1).reshape(shape)
    seen &= ~_hidden(uv, distance, seen, model)
    device = there.device
    return (torch.from_numpy(uv.astype(np.float32)).to(device),
            torch.from_numpy(seen).to(device))


def in_vehicle(batch: Batch) -> Tensor:
    """Return the voxels' points (B, W, 3) in the frame of the vehicle that took each image."""
    centres = batch.clouds[-1].double()
    offset = batch.image_xy.double() - batch.cloud_xy.double()
    yaw, turn = batch.cloud_yaw.double(), (batch.image_yaw - batch.cloud_yaw).double()
    # In a mirror what lies to the left, and turns to the left, does so to the right.
    side = torch.where(batch.frame < 0, -1.0, 1.0).double()
    forward = torch.cos(yaw) * offset[:, 0] + torch.sin(yaw) * offset[:, 1]
    left = side * (torch.cos(yaw) * offset[:, 1] - torch.sin(yaw) * offset[:, 0])
    x, y = centres[..., 0] - forward[:, None], centres[..., 1] - left[:, None]
    c, s = torch.cos(side * turn)[:, None], torch.sin(side * turn)[:, None]
    return torch.stack([c * x + s * y, c * y - s * x, centres[..., 2]], -1)


def _hidden(
    uv: NDArray[np.float64], distance: NDArray[np.float64], seen: NDArray[np.bool_],
    model: ModelConfig,
) -> NDArray[np.bool_]:
    """Return which voxels (B, W) are well behind the nearest of their cell of the image."""
    edge = model.image.patch / OCCLUSION_CELLS
    columns = int(np.ceil(model.image.width / edge)) + 1
    rows = int(np.ceil(model.image.height / edge)) + 1
    cell = np.floor((uv + 0.5) / edge).astype(np.int64).clip(0)
    key = (np.arange(len(uv))[:, None] * rows + cell[..., 1]) * columns + cell[..., 0]
    nearest = np.full(len(uv) * rows * columns, np.inf)
    np.minimum.at(nearest, key[seen], distance[seen])
    return np.asarray(distance > nearest[key] + OCCLUSION_M)
