"""Where a run's weights come from, and what is written of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    a mirror too may differ), or a safetensors file of timm for the image branch alone (see
    `encoders.weights`). What does not fit is an InputError.
    """
    if init.is_dir():
        other = load_model(init)
        free = {'name', 'submap', 'views', 'smooth_m', 'mirrored', 'descriptor_dim'}
        if (other.config.model_dump(exclude=free) != encoder.config.model_dump(exclude=free)
                or mismatch(other.state_dict(), encoder.state_dict())):
            raise InputError(f'the model in {init} is built differently from the one to be '
                             'trained: choose its preset and settings')
        encoder.load_state_dict(other.state_dict())
        return
    load_image_weights(encoder.image.encoder, init)


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
