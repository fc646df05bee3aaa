"""Published weights: a ViT's as timm names them."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import InputError
from .files import mismatch, read_weights
from .image import ImageEncoder, resize_positions

# What a classifier has and this encoder has not.
DROPPED = ('head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias')


def load_timm_vit(encoder: ImageEncoder, path: Path) -> None:
    """
    Load a ViT's weights from a safetensors file of timm (for example vit_small_patch16_224).

    The position table is resampled from its square grid to the encoder's; the classifier's head is
    dropped by name. Any other key that is missing, unknown or of another shape is an InputError.
    """
    state = {k: v.float() for k, v in read_weights(Path(path)).items() if k not in DROPPED}
    table = state.get('pos_embed')
    if table is not None and table.ndim == 3:
        side = math.isqrt(max(table.shape[1] - 1, 0))
        if side < 1 or side * side + 1 != table.shape[1]:
            raise InputError(f'{path}: pos_embed has {table.shape[1]} entries, not a CLS token '
                             'and a square grid: take a ViT with one CLS token')
        state['pos_embed'] = resize_positions(table, (side, side), encoder.grid)
    problem = mismatch(state, encoder.state_dict())
    if problem:
        raise InputError(f'{path} does not fit the image encoder: {problem}')
    encoder.load_state_dict(state)
