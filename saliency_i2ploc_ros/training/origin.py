"""Where a run's weights come from, and what is written of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, load_model
from ..encoders.weights import load_image_weights
from ..errors import InputError
from ..storage import commit, sha256_file
from .config import TrainingConfig


def start_from(init: Path, encoder: DualEncoder) -> None:
    """
    Load weights to begin with, in place.

    init: a model's folder (of the same configuration), or a safetensors file of timm for the image
    branch alone (see `encoders.weights`). What does not fit is an InputError.
    """
    if init.is_dir():
        other = load_model(init)
        if other.config != encoder.config:
            raise InputError(f'the model in {init} is built differently from the one to be '
                             'trained: choose its preset and settings')
        encoder.load_state_dict(other.state_dict())
        return
    load_image_weights(encoder.image.encoder, init)


def origin_of(config: TrainingConfig, init: Path | None) -> dict[str, Any]:
    """Return what a checkpoint and a model say of where they come from: no paths, for others."""
    recipe = config.model_dump(mode='json', exclude={'model', 'sites', 'held_out'})
    started = None
    if init is not None:
        started = encoder_hash(init) if init.is_dir() else sha256_file(init)
    return {'commit': commit(), 'version': __version__, 'init': started, 'recipe': recipe,
            'trained_on': sorted({name for _, name in config.drives(config.sites)}),
            'held_out_drives': sorted({name for _, name in config.drives(config.held_out)})}
