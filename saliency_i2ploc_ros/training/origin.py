"""Where a run's weights come from, and what is written of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, load_model, mismatch, read_provenance
from ..encoders.weights import load_image_weights
from ..errors import InputError
from ..storage import commit, sha256_file
from .config import Site, TrainingConfig


def start_from(init: Path, encoder: DualEncoder) -> None:
    """
    Load weights to begin with, in place.

    init: a model's folder (of the same networks; name, what makes a map and whether they look into
    a mirror too may differ, and a verifier may come or go), or a safetensors file of timm for the
    image branch alone (see `encoders.weights`). What does not fit is an InputError.
    """
    if init.is_dir():
        other = load_model(init)
        free = {'name', 'submap', 'views', 'smooth_m', 'mirrored', 'descriptor_dim'}
        weights = other.state_dict()
        if (other.config.verifier is None) != (encoder.config.verifier is None):
            free.add('verifier')
            gone = verifier_weights(other)
            weights = {**verifier_weights(encoder), **{
                name: value for name, value in weights.items() if name not in gone}}
        if (other.config.model_dump(exclude=free) != encoder.config.model_dump(exclude=free)
                or mismatch(weights, encoder.state_dict())):
            raise InputError(f'the model in {init} is built differently from the one to be '
                             'trained: choose its preset and settings')
        encoder.load_state_dict(weights)
        return
    load_image_weights(encoder.image.encoder, init)


def verifier_weights(model: DualEncoder) -> dict[str, Tensor]:
    """Return the weights of a model's verifier and of what it compares, if it has one."""
    return {name: value for name, value in model.state_dict().items()
            if name.startswith(('verifier.', 'image.detail.', 'cloud.detail.'))}


def origin_of(config: TrainingConfig, init: Path | None) -> dict[str, Any]:
    """
    Return what a checkpoint and a model say of where they come from: no paths, for others.

    What the model that it began with was trained on, and chosen by, counts as its own.
    """
    recipe = config.model_dump(mode='json', exclude={'model', 'sites', 'held_out'})
    started, before = None, {}
    if init is not None:
        started = encoder_hash(init) if init.is_dir() else sha256_file(init)
        before = read_provenance(init) if init.is_dir() else {}
    held_out = {name for _, name in config.drives(config.held_out)}
    if seen := sorted(held_out & {*before.get('trained_on', [])}):
        raise InputError(f'the model in {init} was trained on {seen[0]}, which is held out: hold '
                         'other drives out, or begin with another model')

    def drives(sites: tuple[Site, ...], kind: str) -> list[str]:
        return sorted({name for _, name in config.drives(sites)} | {*before.get(kind, [])})

    return {'commit': commit(), 'version': __version__, 'init': started, 'recipe': recipe,
            'trained_on': drives(config.sites, 'trained_on'),
            'held_out_drives': drives(config.held_out, 'held_out_drives')}
