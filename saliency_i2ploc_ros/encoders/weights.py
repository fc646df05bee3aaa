"""Published weights as timm names them: ViT, DINO, DINOv2, ResNet; from a file or the hub."""

from __future__ import annotations

import math
from pathlib import Path
import re

import torch
from torch import nn, Tensor

from ..errors import InputError
from ..storage import sha256_file
from .files import mismatch, read_weights
from .image import ImageEncoder, resize_positions
from .resnet import ResNet

# What a classifier has and an encoder has not.
DROPPED = ('head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias', 'fc.weight', 'fc.bias')
HUB = 'hub:'
FILE_ON_HUB = 'model.safetensors'
HOW_TO_NAME = (f'write {HUB}OWNER/NAME@SHA256, with the SHA-256 of its {FILE_ON_HUB} '
               'in 64 hex digits')


def load_image_weights(encoder: nn.Module, path: Path) -> None:
    """Load published weights into an image encoder of either kind; InputError as below."""
    if isinstance(encoder, ImageEncoder):
        load_timm_vit(encoder, path)
    elif isinstance(encoder, ResNet):
        load_timm_resnet(encoder, path)
    else:
        raise InputError(f'there are no published weights for a {type(encoder).__name__}: begin '
                         'without them')


def load_timm_vit(encoder: ImageEncoder, path: Path) -> None:
    """
    Load a ViT's weights from a safetensors file of timm: vit_*, DINO or DINOv2, plain or reg4.

    The position table is resampled from its square grid to the encoder's, as timm does it; one
    without an entry for the CLS token (as those with registers have it) gets a zero one. The
    classifier's head is dropped by name. Any other key that is missing, unknown or of another
    shape is an InputError, and changes nothing.
    """
    state = _published(path)
    table = state.get('pos_embed')
    if table is not None and table.ndim == 3:
        side = math.isqrt(table.shape[1])
        if side * side == table.shape[1]:
            table = torch.cat([table.new_zeros(1, 1, table.shape[2]), table], 1)
        if side < 1 or side * side + 1 != table.shape[1]:
            raise InputError(f'{path}: pos_embed has {table.shape[1]} entries, not a square grid '
                             'and at most a CLS token: take a ViT with one CLS token')
        state['pos_embed'] = resize_positions(table, (side, side), encoder.grid)
    _load(encoder, state, path)


def load_timm_resnet(encoder: ResNet, path: Path) -> None:
    """
    Load a ResNet's weights from a safetensors file of timm, with its batch norms' statistics.

    The weights of ordinary convolutions serve spherical ones. The classifier is dropped; any other
    key that is missing, unknown or of another shape is an InputError, and changes nothing.
    """
    _load(encoder, _published(path), path)


def local_weights(init: Path | None) -> Path | None:
    """
    Return a path to begin with: the one given, or of `hub:OWNER/NAME@SHA256` the file fetched.

    From the Hugging Face hub by way of the optional extra `hub`, kept in its cache. A name without
    its SHA-256, another content than it says, no such file and no network are InputErrors.
    """
    if init is None or not str(init).startswith(HUB):
        return init
    named = re.fullmatch(r'([\w.-]+/[\w.-]+)@([0-9a-fA-F]{64})', str(init).removeprefix(HUB))
    if named is None:
        raise InputError(f'{init} does not say which weights: {HOW_TO_NAME}')
    repository, wanted = named[1], named[2].lower()
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("weights of the hub need the extra 'hub': pip install "
                         "'saliency_i2ploc_ros[hub]', or download the file yourself") from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, FILE_ON_HUB))
    except (OSError, ValueError) as error:
        why = ' '.join(str(error).split())[:200]
        raise InputError(f'cannot fetch {FILE_ON_HUB} of {repository} ({why}): check the name and '
                         'the network, or download the file yourself') from error
    found = sha256_file(path)
    if found != wanted:
        raise InputError(f'{FILE_ON_HUB} of {repository} has the SHA-256 {found}, not {wanted}: '
                         'it was changed, or the digest is of another file')
    return path


def _published(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in read_weights(Path(path)).items() if name not in DROPPED}


def _load(encoder: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    problem = mismatch(state, encoder.state_dict())
    if problem:
        raise InputError(f'{path} does not fit the image encoder: {problem}')
    encoder.load_state_dict(state)
